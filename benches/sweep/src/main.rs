//! What a sweep of a whole fleet costs: the built function at the processor share that Lambda gives it with 512 MB, over
//! TLS, looks at thousands of instances that are all right.
//!
//! Usage: `make bench-sweep`. It is invoked as by the schedule. A sweep that has not found each instance right, or has sent or
//! written anything, is no measurement, and the bench says so and ends.
#![expect(clippy::print_stdout, reason = "the tables are what it is for")]

mod api;
mod fleet;
mod options;
mod table;

use std::env;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use bench_common::function::{Function, Program, Size};
use bench_common::run::{Scratch, progress, to_its_end, write_figures};
use bench_common::share::Share;
use bench_common::{machine, tls};
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::api::{Api, Traffic};
use crate::options::{Fleet, Options};

const BENCH: &str = "sweep-bench";
const QUEUE: &str = "auto-instance-profile-queue";
/// Several of the share's periods between two sweeps, so that none lives on what the one before it left over.
const GAP: Duration = Duration::from_millis(200);

/// One sweep: one invocation.
#[derive(Debug, Clone)]
struct Sweep {
    time: Duration,
    cpu: Duration,
    /// EC2's and IAM's calls that read.
    reads: usize,
    /// EC2's answers.
    bytes: usize,
}

/// All sweeps of one fleet, in one process.
#[derive(Debug, Clone)]
struct Figures {
    fleet: Fleet,
    sweeps: Vec<Sweep>,
    peak_memory: u64,
}

/// What all measurements share.
struct Bench {
    options: Options,
    api: Api,
    share: Option<Share>,
    roots: PathBuf,
}

#[tokio::main]
async fn main() -> ExitCode {
    to_its_end(BENCH, async { measure(Options::read(env::args().skip(1))?).await }).await
}

async fn measure(options: Options) -> Result<()> {
    let scratch = Scratch::new(BENCH)?;
    let roots = scratch.file("roots.pem");
    let (tls, _) = tls::set_up(&roots)?;
    let share = if options.share {
        Share::find(Size::SWEEPS.memory_mb)
            .inspect_err(|error| eprintln!("without Lambda's share of a processor: {error:#}"))
            .ok()
    } else {
        None
    };
    let bench = Bench { api: Api::serve(&tls).await?, share, roots, options };
    let mut all = Vec::new();
    for fleet in &bench.options.fleets {
        let figures = bench.figures_of(*fleet).await;
        all.push(figures.with_context(|| format!("{fleet:?}"))?);
    }
    progress("");

    let conditions = bench.conditions();
    println!("{conditions}\n");
    println!("{}", table::measured(&all));
    if bench.share.is_some() {
        println!("{}", table::goals(&all));
    }
    if let Some(file) = &bench.options.json {
        let fleets: Vec<Value> = all.iter().map(Figures::json).collect();
        let all = json!({ "conditions": conditions, "fleets": fleets });
        write_figures(file, &all)?;
    }
    Ok(())
}

impl Bench {
    /// Starts a fresh process and has it sweep a fleet, again and again.
    async fn figures_of(&self, fleet: Fleet) -> Result<Figures> {
        let Fleet { instances, weight, latency, sweeps: number_of_sweeps } = fleet;
        self.api.begin(instances, weight, latency);
        let group = self.share.as_ref().map(Share::group).transpose()?;
        let path = self.options.function.canonicalize();
        let path = path.with_context(|| self.options.function.display().to_string())?;
        let program =
            Program { path, arguments: Vec::new(), settings: self.settings(), size: Size::SWEEPS };
        let mut function = Function::start(&program, group).await?;
        function.asked_first().await?;
        let mut sweeps = Vec::new();
        for number in 1..=number_of_sweeps {
            progress(&format!("{instances} instances: sweep {number} of {number_of_sweeps}"));
            sleep(GAP).await;
            sweeps.push(self.sweep(&mut function, instances).await?);
        }
        let peak_memory = function.peak_memory()?;
        function.stop().await?;
        Ok(Figures { fleet, sweeps, peak_memory })
    }

    /// One sweep, as the schedule asks for it.
    async fn sweep(&self, function: &mut Function, instances: usize) -> Result<Sweep> {
        self.api.take_traffic();
        let before = function.usage().cpu;
        let time = function.handle(&json!({ "sweep": {}, "scheduled": true })).await?;
        function.asked().await?;
        let Traffic { calls, bytes, messages } = self.api.take_traffic();
        let mut reads = 0;
        for (call, times) in &calls {
            match call.as_str() {
                "DescribeInstances"
                | "DescribeIamInstanceProfileAssociations"
                | "GetInstanceProfile" => reads += times,
                _ => bail!("{call}, {times} times{}", function.log()),
            }
        }
        ensure!(messages.is_empty(), "it put on its queue {messages:?}");
        let sweep = Sweep { time, cpu: function.usage().cpu.saturating_sub(before), reads, bytes };
        // The summary's line may still be on its way.
        sleep(Duration::from_millis(20)).await;
        let log = function.log();
        let mut lines =
            log.lines().filter_map(|line| serde_json::from_str::<Value>(line.trim()).ok());
        let summary = lines.rfind(|line| line.get("sweep.instances").is_some());
        let summary = summary.with_context(|| format!("no summary of the sweep{log}"))?;
        for (field, wanted) in [("instances", instances), ("right", instances)] {
            let found = &summary[format!("sweep.{field}")];
            ensure!(*found == json!(wanted), "sweep.{field} is {found}, not {wanted}{log}");
        }
        ensure!(summary["sweep.completed"] == json!(true), "it has not ended{log}");
        Ok(sweep)
    }

    /// The function's own settings, where the APIs are, and what makes it trust them.
    fn settings(&self) -> Vec<(String, String)> {
        let roots = self.roots.to_string_lossy();
        let queue = format!("https://sqs.us-east-1.amazonaws.com/{}/{QUEUE}", fleet::ACCOUNT);
        let settings = [
            ("ALLOWED_PROFILES", fleet::PROFILE),
            ("MODE", "enforce"),
            ("PROFILE_TAG_KEY", "InstanceProfile"),
            ("QUEUE_URL", &queue),
            ("SSL_CERT_FILE", &roots),
        ];
        let settings = settings.map(|(name, value)| (name.to_owned(), value.to_owned()));
        self.api.variables().chain(settings).collect()
    }

    /// What the figures hold for.
    fn conditions(&self) -> String {
        let [machine, share] = machine::describe(self.share.as_ref());
        format!(
            "{machine}\n\
             {share}\n\
             Each row is a fresh process that sweeps so many times: medians, and the most memory of all its sweeps.",
        )
    }
}

impl Figures {
    fn json(&self) -> Value {
        let sweeps = self.sweeps.iter().map(|sweep| {
            json!({
                "time_s": sweep.time.as_secs_f64(),
                "cpu_s": sweep.cpu.as_secs_f64(),
                "reads": sweep.reads,
                "bytes": sweep.bytes,
            })
        });
        json!({
            "instances": self.fleet.instances,
            "bytes_each": self.fleet.weight,
            "page_ms": u64::try_from(self.fleet.latency.as_millis()).unwrap_or_default(),
            "peak_memory_bytes": self.peak_memory,
            "sweeps": sweeps.collect::<Vec<_>>(),
        })
    }
}
