//! Storms of 1,000, 5,000 and 20,000 launches at once: a table, and the curve of one of them.
//!
//! Usage: `storm [--seeds N] [--json FILE] [--svg FILE]`. The table is the worst of all seeds.
#![expect(clippy::unwrap_used, reason = "a bench that cannot go on says where")]
#![expect(clippy::print_stdout, reason = "the table is what it is for")]

#[path = "../../../tests/common/mod.rs"]
mod common;
mod curve;

use std::collections::HashMap;
use std::{env, fs};

use auto_instance_profile::cloud::Operation;
use common::storm::{Report, Scenario, TEMPLATE, run};
use serde_json::{Value, json};

/// Launches, and how many storms of that size are tried where nothing else is asked for.
const SIZES: [(usize, u64); 3] = [(1_000, 12), (5_000, 5), (20_000, 3)];
/// The storm whose curve is drawn.
const DRAWN: usize = 5_000;

fn main() {
    let options: HashMap<String, String> = {
        let words: Vec<String> = env::args().skip(1).collect();
        words.chunks(2).map(|pair| (pair[0].clone(), pair.get(1).cloned().unwrap())).collect()
    };
    let seeds = options.get("--seeds").map(|seeds| seeds.parse::<u64>().unwrap());
    println!(
        "| launched at once | storm | seeds | floor | last attached | of the floor | throttled, of all | \
         given up | receives, at most | reads | calls to SQS |"
    );
    println!("|--:|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|");
    let mut runs: Vec<Value> = Vec::new();
    let mut drawn = Vec::new();
    for (instances, usual_seeds) in SIZES {
        for scenario in Scenario::ALL {
            if scenario == Scenario::Usual && instances > DRAWN {
                continue;
            }
            let seeds = seeds.unwrap_or(usual_seeds);
            let reports: Vec<Report> =
                (1..=seeds).map(|seed| run(scenario, TEMPLATE, instances, seed)).collect();
            println!("{}", row(&reports));
            let worst = worst(&reports);
            runs.push(json(worst));
            if instances == DRAWN && matches!(scenario, Scenario::Plain | Scenario::Usual) {
                drawn.push(worst.clone());
            }
        }
    }
    if let Some(file) = options.get("--json") {
        fs::write(file, serde_json::to_string_pretty(&json!({ "runs": runs })).unwrap()).unwrap();
    }
    if let (Some(file), [ours, usual]) = (options.get("--svg"), &drawn[..]) {
        fs::write(file, curve::svg(ours, usual)).unwrap();
    }
}

fn worst(reports: &[Report]) -> &Report {
    reports.iter().max_by(|one, other| one.ratio().total_cmp(&other.ratio())).unwrap()
}

/// A line of the table: the worst that any seed led to.
fn row(reports: &[Report]) -> String {
    let worst = worst(reports);
    let most = |of: fn(&Report) -> usize| reports.iter().map(of).max().unwrap();
    let throttled = reports.iter().map(Report::throttled_share).fold(0.0, f64::max);
    let (last, ratio) = match worst.last() {
        Some(last) => (format!("{:.0} s", last.as_secs_f64()), format!("{:.3}", worst.ratio())),
        None => ("never".to_owned(), "–".to_owned()),
    };
    format!(
        "| {} | {} | {} | {:.0} s | {last} | {ratio} | {:.1} % | {} | {} | {} | {} |",
        worst.instances,
        worst.scenario.words(),
        reports.len(),
        worst.floor().as_secs_f64(),
        100.0 * throttled,
        most(|report| report.dead_letters + report.left_over),
        most(|report| report.receives as usize),
        most(Report::reads),
        most(|report| report.sqs_calls),
    )
}

fn json(report: &Report) -> Value {
    let tries: HashMap<&str, usize> =
        Operation::ALL.iter().filter_map(|of| Some((of.name(), *report.tries.get(of)?))).collect();
    json!({
        "instances": report.instances,
        "scenario": format!("{:?}", report.scenario).to_lowercase(),
        "seed": report.seed,
        "floor_s": report.floor().as_secs_f64(),
        "last_s": report.last().map(|last| last.as_secs_f64()),
        "throttled": report.throttled.len(),
        "dead_letters": report.dead_letters,
        "invocations": report.invocations,
        "billed_s": report.billed.as_secs_f64(),
        "queue_calls": report.sqs_calls,
        "tries": tries,
    })
}
