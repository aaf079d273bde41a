//! What was measured, as numbers, as a table and as JSON.

use std::time::Duration;

use bench_common::function::Usage;
use serde_json::{Value, json};

use crate::api::Traffic;

/// One fresh process: its INIT and its first event.
#[derive(Debug, Clone)]
pub struct Cold {
    pub init: Duration,
    pub first: Duration,
    /// What was used in INIT, in the pause after it, and by the event.
    pub used: [Usage; 3],
    /// What reached the APIs in INIT, in the pause after it, and during the event.
    pub traffic: [Traffic; 3],
    pub peak_memory: u64,
}

impl Cold {
    pub fn total(&self) -> Duration {
        self.init + self.first
    }
}

/// One process that has had its first event, and then others.
#[derive(Debug, Clone, Default)]
pub struct Warm {
    pub latency: Duration,
    pub times: Vec<Duration>,
    pub used: Vec<Usage>,
    pub traffic: Traffic,
    pub peak_memory: u64,
}

/// All about one function.
#[derive(Debug, Clone)]
pub struct Figures {
    pub name: String,
    pub binary: Option<u64>,
    pub cold: Vec<Cold>,
    /// Without latency, and with it.
    pub warm: [Warm; 2],
}

impl Figures {
    pub fn totals(&self) -> Vec<Duration> {
        self.cold.iter().map(Cold::total).collect()
    }

    pub fn peak_memory(&self) -> u64 {
        let cold = self.cold.iter().map(|run| run.peak_memory);
        cold.chain(self.warm.iter().map(|run| run.peak_memory)).max().unwrap_or_default()
    }

    pub fn json(&self) -> Value {
        let cold: Vec<Value> = self.cold.iter().map(cold_json).collect();
        let warm: Vec<Value> = self.warm.iter().map(warm_json).collect();
        json!({
            "name": self.name,
            "binary_bytes": self.binary,
            "peak_memory_bytes": self.peak_memory(),
            "cold": cold,
            "warm": warm,
        })
    }
}

fn cold_json(run: &Cold) -> Value {
    let phases = ["init", "pause", "first"];
    let phase = |index: usize| {
        json!({
            "cpu_ms": ms(run.used[index].cpu),
            "minor_faults": run.used[index].faults,
            "throttled": run.used[index].throttled,
            "connections": run.traffic[index].connections,
            "calls": run.traffic[index].calls,
        })
    };
    let phases: serde_json::Map<String, Value> =
        phases.iter().enumerate().map(|(index, name)| ((*name).to_owned(), phase(index))).collect();
    json!({
        "init_ms": ms(run.init),
        "first_ms": ms(run.first),
        "total_ms": ms(run.total()),
        "peak_memory_bytes": run.peak_memory,
        "phases": phases,
    })
}

fn warm_json(run: &Warm) -> Value {
    let times: Vec<f64> = run.times.iter().copied().map(ms).collect();
    let cpu: Vec<f64> = run.used.iter().map(|used| ms(used.cpu)).collect();
    let throttled: Vec<u64> = run.used.iter().map(|used| used.throttled).collect();
    json!({
        "latency_ms": ms(run.latency),
        "times_ms": times,
        "cpu_ms": cpu,
        "throttled": throttled,
        "calls": run.traffic.calls.len(),
        "connections": run.traffic.connections,
        "peak_memory_bytes": run.peak_memory,
    })
}

/// The middle one, or the mean of the two in the middle.
pub fn median(times: &[Duration]) -> Duration {
    let mut sorted = times.to_vec();
    sorted.sort();
    match sorted.len() {
        0 => Duration::ZERO,
        odd if odd % 2 == 1 => sorted[odd / 2],
        even => (sorted[even / 2 - 1] + sorted[even / 2]) / 2,
    }
}

/// The time that this many of a hundred do not exceed.
pub fn percentile(times: &[Duration], of_hundred: usize) -> Duration {
    let mut sorted = times.to_vec();
    sorted.sort();
    let rank = (sorted.len() * of_hundred).div_ceil(100).max(1);
    sorted.get(rank - 1).copied().unwrap_or_default()
}

/// Milliseconds, with three digits behind the point.
pub fn ms(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e6).round() / 1e3
}
