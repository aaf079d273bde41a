//! The figures as two tables in Markdown: what was measured, and the goals.

use std::fmt::Write as _;
use std::time::Duration;

use bench_common::function::Size;

use crate::{Figures, Sweep};

/// The goals, for a fleet of this size of plain instances whose pages take EC2 no time, and for the worst of its sweeps.
const INSTANCES: usize = 10_000;
const READS: usize = 22;
const WALL: Duration = Duration::from_secs(45);
const PEAK_MEMORY: u64 = 64_000_000;
/// What Lambda gives the function. One that needs more is ended.
const MEMORY: u64 = (Size::SWEEPS.memory_mb as u64) << 20;

const HEADER: &str = "| instances | each | a page takes EC2 | sweeps | reads | XML | writes | time | processor \
                      | peak memory |";

/// One row for each fleet.
pub fn measured(all: &[Figures]) -> String {
    let mut table = format!("{HEADER}\n|{}\n", "--:|".repeat(HEADER.matches(" | ").count() + 1));
    for figures in all {
        let (fleet, Some(first)) = (figures.fleet, figures.sweeps.first()) else { continue };
        let of = |what: fn(&Sweep) -> Duration| median(figures.sweeps.iter().map(what).collect());
        // Writing to a string cannot fail.
        let _ = writeln!(
            table,
            "| {} | {} kB | {} | {} | {} | {} | 0 | **{}** | {} | {} |",
            grouped(fleet.instances),
            fleet.weight / 1000,
            if fleet.latency.is_zero() { "–".to_owned() } else { time(fleet.latency) },
            figures.sweeps.len(),
            first.reads,
            megabytes(first.bytes as u64),
            time(of(|sweep| sweep.time)),
            time(of(|sweep| sweep.cpu)),
            megabytes(figures.peak_memory),
        );
    }
    table
}

/// One row for each goal that could be measured.
pub fn goals(all: &[Figures]) -> String {
    let is_goal = |figures: &&Figures| {
        figures.fleet.instances == INSTANCES && figures.fleet.latency.is_zero()
    };
    let Some(figures) = all.iter().find(is_goal) else { return String::new() };
    let reads = figures.sweeps.iter().map(|sweep| sweep.reads).max().unwrap_or_default();
    let longest = figures.sweeps.iter().map(|sweep| sweep.time).max().unwrap_or_default();
    let largest = all.iter().max_by_key(|figures| figures.fleet.instances).unwrap_or(figures);
    let heaviest = all.iter().max_by_key(|figures| figures.fleet.weight).unwrap_or(figures);
    let size = grouped(largest.fleet.instances);
    let weight = heaviest.fleet.weight / 1000;
    let rows = [
        ("reads".to_owned(), format!("at most {READS}"), reads.to_string(), reads <= READS),
        ("time".to_owned(), format!("at most {}", time(WALL)), time(longest), longest <= WALL),
        memory("peak memory".to_owned(), PEAK_MEMORY, figures),
        memory(format!("peak memory with {size} instances"), MEMORY, largest),
        memory(format!("peak memory with instances of {weight} kB"), MEMORY, heaviest),
    ];
    let mut table = format!(
        "| goal for {} instances | wanted | measured | |\n|---|--:|--:|---|\n",
        grouped(INSTANCES)
    );
    for (goal, wanted, found, met) in rows {
        let met = if met { "met" } else { "**missed**" };
        let _ = writeln!(table, "| {goal} | {wanted} | {found} | {met} |");
    }
    table
}

fn memory(goal: String, wanted: u64, figures: &Figures) -> (String, String, String, bool) {
    let found = figures.peak_memory;
    (goal, format!("at most {}", megabytes(wanted)), megabytes(found), found <= wanted)
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

fn time(time: Duration) -> String {
    let seconds = time.as_secs_f64();
    // As many digits as the figure bears.
    let digits = if seconds < 10.0 { 2 } else { usize::from(seconds < 100.0) };
    format!("{seconds:.digits$} s")
}

/// Megabytes of 1,000,000 bytes.
fn megabytes(bytes: u64) -> String {
    format!("{}.{} MB", bytes / 1_000_000, bytes % 1_000_000 / 100_000)
}

fn grouped(number: usize) -> String {
    match number / 1000 {
        0 => number.to_string(),
        thousands => format!("{thousands},{:03}", number % 1000),
    }
}
