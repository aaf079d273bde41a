//! The figures as two tables in Markdown: what was measured, and the goals.

use std::fmt::Write as _;
use std::time::Duration;

use crate::figures::{Figures, median, ms, percentile};
use crate::{BOTO3, OURS, PLAIN_SDK};

/// The goals; those of time hold for medians, at the share.
const START: Duration = Duration::from_millis(15);
const PLAIN_SDK_PER_START: f64 = 30.0;
const BOTO3_PER_START: f64 = 75.0;
const WARM: Duration = Duration::from_micros(2_500);
const WARM_WITH_LATENCY: Duration = Duration::from_millis(110);
const PEAK_MEMORY: u64 = 16_000_000;
const BINARY: u64 = 10_000_000;

/// One row for each function.
pub fn measured(all: &[Figures], latency: Duration) -> String {
    let mut table = format!(
        "| function | runs | INIT | first event | INIT + first event | worst | warm event | 95 % within | \
         with {} ms a call | peak memory | binary |\n|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|\n",
        latency.as_millis()
    );
    for figures in all {
        let inits: Vec<_> = figures.cold.iter().map(|run| run.init).collect();
        let firsts: Vec<_> = figures.cold.iter().map(|run| run.first).collect();
        let totals = figures.totals();
        let [warm, slow] = &figures.warm;
        // Writing to a string cannot fail.
        let _ = writeln!(
            table,
            "| {} | {} | {} | {} | **{}** | {} | **{}** | {} | {} | {} | {} |",
            figures.name,
            figures.cold.len(),
            time(median(&inits)),
            time(median(&firsts)),
            time(median(&totals)),
            time(totals.iter().copied().max().unwrap_or_default()),
            time(median(&warm.times)),
            time(percentile(&warm.times, 95)),
            time(median(&slow.times)),
            megabytes(figures.peak_memory()),
            figures.binary.map_or("–".to_owned(), megabytes),
        );
    }
    table
}

/// One row for each goal that could be measured; nothing without our own function.
pub fn goals(all: &[Figures], latency: Duration) -> String {
    let find = |name: &str| all.iter().find(|figures| figures.name == name);
    let Some(ours) = find(OURS) else { return String::new() };
    let start = median(&ours.totals());
    let [warm, slow] = [0, 1].map(|index| median(&ours.warm[index].times));
    let mut rows = vec![(
        "INIT + first event".to_owned(),
        format!("at most {}", time(START)),
        time(start),
        start <= START,
    )];
    for (peer, wanted) in [(PLAIN_SDK, PLAIN_SDK_PER_START), (BOTO3, BOTO3_PER_START)] {
        let Some(peer) = find(peer) else { continue };
        let ratio = median(&peer.totals()).as_secs_f64() / start.as_secs_f64();
        rows.push((
            format!("the same, beside the {}'s", peer.name),
            format!("at most 1/{wanted:.0}"),
            format!("1/{ratio:.1}"),
            ratio >= wanted,
        ));
    }
    rows.push((
        "warm event".to_owned(),
        format!("at most {}", time(WARM)),
        time(warm),
        warm <= WARM,
    ));
    rows.push((
        format!("warm event with {} ms a call", latency.as_millis()),
        format!("at most {}", time(WARM_WITH_LATENCY)),
        time(slow),
        slow <= WARM_WITH_LATENCY,
    ));
    let memory = ours.peak_memory();
    rows.push((
        "peak memory".to_owned(),
        format!("at most {}", megabytes(PEAK_MEMORY)),
        megabytes(memory),
        memory <= PEAK_MEMORY,
    ));
    if let Some(binary) = ours.binary {
        rows.push((
            "binary".to_owned(),
            format!("at most {}", megabytes(BINARY)),
            megabytes(binary),
            binary <= BINARY,
        ));
    }
    let mut table = "| goal | wanted | measured | |\n|---|--:|--:|---|\n".to_owned();
    for (goal, wanted, found, met) in rows {
        let met = if met { "met" } else { "**missed**" };
        let _ = writeln!(table, "| {goal} | {wanted} | {found} | {met} |");
    }
    table
}

fn time(time: Duration) -> String {
    let ms = ms(time);
    // As many digits as the figure bears.
    let digits = if ms < 10.0 { 2 } else { usize::from(ms < 100.0) };
    format!("{ms:.digits$} ms")
}

/// Megabytes of 1,000,000 bytes.
fn megabytes(bytes: u64) -> String {
    format!("{}.{} MB", bytes / 1_000_000, bytes % 1_000_000 / 100_000)
}
