//! What the figures hold for.

use std::fs;
use std::thread;

use crate::share::Share;

/// The machine, and what part of it the function had, as two sentences: `2 processors (…), Linux 6.1.` and the share.
#[must_use]
pub fn describe(share: Option<&Share>) -> [String; 2] {
    let model = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model =
        model.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or(": unknown");
    let model = model.trim_start_matches([' ', '\t', ':']);
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let kernel: Vec<_> = kernel.trim().split('.').take(2).collect();
    let processors = thread::available_parallelism().map_or(1, usize::from);
    let share = share.map_or_else(
        || "Without Lambda's share of a processor.".to_owned(),
        |share| format!("From the end of INIT on: {}.", share.describe()),
    );
    [format!("{processors} processors ({model}), Linux {}.", kernel.join(".")), share]
}
