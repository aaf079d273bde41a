//! The curve of a storm as an SVG: instances attached over time, against the floor and beside the usual wiring.

#![allow(clippy::cast_precision_loss, reason = "no storm has 2^52 instances")]
#![allow(clippy::too_many_lines, reason = "a picture is a list of lines")]

use std::fmt::Write as _;
use std::time::Duration;

use crate::common::storm::Report;

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 400.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 24.0;
const TOP: f64 = 56.0;
const BOTTOM: f64 = 52.0;

/// A picture of our storm and of the same one with the usual wiring.
pub fn svg(ours: &Report, usual: &Report) -> String {
    let end = ours.attached.last().copied().unwrap_or_default().as_secs_f64() * 1.15;
    let all = ours.attached.len() as f64;
    let x = |seconds: f64| LEFT + (WIDTH - LEFT - RIGHT) * (seconds / end).min(1.0);
    let y = |instances: f64| HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * instances / all;
    let mut svg = format!(
        r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="13" role="img">
<title>{all} instances launched at once: how many have their profile, over time</title>
<rect width="{WIDTH}" height="{HEIGHT}" rx="10" fill="#ffffff"/>
<text x="{LEFT}" y="26" font-size="16" font-weight="bold" fill="#1b1f24">{all} instances launched at once</text>
<text x="{LEFT}" y="44" fill="#57606a">instances that have their profile</text>
"##
    );
    for step in 0..=5 {
        let (instances, seconds) = (all * f64::from(step) / 5.0, 200.0 * f64::from(step));
        let _ = writeln!(
            svg,
            r##"<line x1="{LEFT}" x2="{:.1}" y1="{:.1}" y2="{:.1}" stroke="#d8dee4"/><text x="{:.1}" y="{:.1}" text-anchor="end" fill="#57606a">{instances}</text>"##,
            WIDTH - RIGHT,
            y(instances),
            y(instances),
            LEFT - 8.0,
            y(instances) + 4.0
        );
        if seconds <= end {
            let _ = writeln!(
                svg,
                r##"<text x="{:.1}" y="{:.1}" text-anchor="middle" fill="#57606a">{seconds} s</text>"##,
                x(seconds),
                HEIGHT - BOTTOM + 20.0
            );
        }
    }
    let line = |times: &[Duration], style: &str| {
        let mut points = format!("{:.1},{:.1}", x(0.0), y(0.0));
        for (index, time) in times.iter().enumerate().filter(|(_, time)| time.as_secs_f64() <= end)
        {
            if index % 20 == 0 || index + 1 == times.len() {
                let _ =
                    write!(points, " {:.1},{:.1}", x(time.as_secs_f64()), y(index as f64 + 1.0));
            }
        }
        format!("<polyline points=\"{points}\" fill=\"none\" {style}/>\n")
    };
    let _ = writeln!(
        svg,
        r##"<text x="{:.1}" y="{:.1}" text-anchor="middle" fill="#57606a">seconds after the launch</text>"##,
        (LEFT + WIDTH - RIGHT) / 2.0,
        HEIGHT - 10.0
    );
    svg += &line(&usual.attached, r##"stroke="#8c959f" stroke-width="2""##);
    let flat = usual.attached.len() as f64;
    let stops = usual.attached.last().copied().unwrap_or_default().as_secs_f64();
    let _ = writeln!(
        svg,
        r##"<line x1="{:.1}" x2="{:.1}" y1="{:.1}" y2="{:.1}" stroke="#8c959f" stroke-width="2"/>"##,
        x(stops),
        x(end),
        y(flat),
        y(flat)
    );
    svg += &line(&ours.attached, r##"stroke="#0969da" stroke-width="3""##);
    let floor = ours.floor().as_secs_f64();
    let _ = writeln!(
        svg,
        r##"<polyline points="{:.1},{:.1} {:.1},{:.1} {:.1},{:.1}" fill="none" stroke="#cf222e" stroke-width="1.5" stroke-dasharray="6 5"/>"##,
        x(0.0),
        y(0.0),
        x(0.0),
        y(100.0),
        x(floor),
        y(all)
    );
    let label = |at: f64, above: f64, colour: &str, text: &str| {
        format!(
            "<text x=\"{:.1}\" y=\"{:.1}\" fill=\"{colour}\" text-anchor=\"end\">{text}</text>\n",
            x(at),
            y(above)
        )
    };
    let last = ours.attached.last().copied().unwrap_or_default().as_secs_f64();
    svg += &label(
        floor * 0.72,
        all * 0.84,
        "#0969da",
        &format!("this function: all after {last:.0} s"),
    );
    svg += &label(
        floor * 0.72,
        all * 0.91,
        "#cf222e",
        &format!("the floor, EC2's bucket: {floor:.0} s"),
    );
    let given_up = 100.0 * usual.dead_letters as f64 / all;
    svg += &label(
        end,
        usual.attached.len() as f64 + all * 0.03,
        "#57606a",
        &format!("one invocation an event: {given_up:.0} % given up"),
    );
    svg += "</svg>\n";
    svg
}
