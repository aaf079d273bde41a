//! What a sweep of a whole fleet costs: the built function at the processor share that Lambda gives it with 128 MB, over
//! TLS, looks at thousands of instances that are all right.
//!
//! Usage: `make bench-sweep`. The schedule's message begins it; what the function puts on its queue to go on comes back as
//! the next invocation, until its log says that the sweep is complete. A sweep that has not found each instance right, or
//! has sent or written anything else, is no measurement, and the bench says so and ends.
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
use bench_common::function::{Function, Program, wall_clock};
use bench_common::run::{Scratch, progress, to_its_end, write_figures};
use bench_common::share::Share;
use bench_common::{machine, tls};
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::api::{Api, Traffic};
use crate::options::{Fleet, Options};

const BENCH: &str = "sweep-bench";
const QUEUE: &str = "auto-instance-profile-queue";
/// A sweep that needs more invocations than this does not get on.
const MOST_PARTS: usize = 1000;
/// Several of the share's periods between two sweeps, so that none lives on what the one before it left over.
const GAP: Duration = Duration::from_millis(200);

/// One sweep, from the schedule's message to the line that says it is complete.
#[derive(Debug, Clone)]
struct Sweep {
    /// The time of each invocation.
    parts: Vec<Duration>,
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
        Share::find()
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
        let Fleet { instances, latency, sweeps: number_of_sweeps } = fleet;
        self.api.begin(instances, latency);
        let group = self.share.as_ref().map(Share::group).transpose()?;
        let path = self.options.function.canonicalize();
        let path = path.with_context(|| self.options.function.display().to_string())?;
        let program = Program { path, arguments: Vec::new(), settings: self.settings() };
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

    /// One sweep, with all its parts.
    async fn sweep(&self, function: &mut Function, instances: usize) -> Result<Sweep> {
        self.api.take_traffic();
        let before = function.usage().cpu;
        let mut sweep = Sweep { parts: Vec::new(), cpu: Duration::ZERO, reads: 0, bytes: 0 };
        let mut message = json!({ "sweep": {} }).to_string();
        loop {
            let time = function.handle(&event(&message)).await?;
            sweep.parts.push(time);
            function.asked().await?;
            let Traffic { calls, bytes, mut messages } = self.api.take_traffic();
            for (call, times) in &calls {
                match call.as_str() {
                    "DescribeInstances"
                    | "DescribeIamInstanceProfileAssociations"
                    | "GetInstanceProfile" => sweep.reads += times,
                    "ChangeMessageVisibilityBatch" | "SendMessageBatch" => (),
                    _ => bail!("{call}, {times} times{}", function.log()),
                }
            }
            sweep.bytes += bytes;
            match (messages.pop(), messages.is_empty()) {
                (None, _) => break,
                (Some(next), true) if next.contains("\"sweep\"") => message = next,
                (Some(other), _) => bail!("it put on its queue {other}"),
            }
            ensure!(sweep.parts.len() < MOST_PARTS, "{} parts and no end", sweep.parts.len());
        }
        sweep.cpu = function.usage().cpu.saturating_sub(before);
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
        ensure!(summary["sweep.parts"] == json!(sweep.parts.len()), "other parts{log}");
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

/// A batch with one message.
fn event(body: &str) -> Value {
    let now = wall_clock().as_millis();
    json!({
        "Records": [{
            "messageId": "059f36b4-87a3-44ab-83d2-661975830a7d",
            "receiptHandle": "AQEBwJnKyrHigUMZj6rYigCgxlaS3SLy0a1CRpBMBd1q0FfzKp2qOH3hBhF5sYtT0n6bFvvx2bq0mT",
            "body": body,
            "attributes": {
                "ApproximateReceiveCount": "1",
                "SentTimestamp": now.to_string(),
                "SenderId": "AIDAIENQZJOLO23YVJ4VO",
                "ApproximateFirstReceiveTimestamp": now.to_string(),
            },
            "messageAttributes": {},
            "md5OfBody": "e3f395950136405219e6c906cf4630d5",
            "eventSource": "aws:sqs",
            "eventSourceARN": format!("arn:aws:sqs:us-east-1:{}:{QUEUE}", fleet::ACCOUNT),
            "awsRegion": "us-east-1",
        }]
    })
}

impl Figures {
    fn json(&self) -> Value {
        let seconds = |times: &[Duration]| -> Vec<f64> {
            times.iter().map(|time| time.as_secs_f64()).collect()
        };
        let sweeps = self.sweeps.iter().map(|sweep| {
            json!({
                "parts_s": seconds(&sweep.parts),
                "cpu_s": sweep.cpu.as_secs_f64(),
                "reads": sweep.reads,
                "bytes": sweep.bytes,
            })
        });
        json!({
            "instances": self.fleet.instances,
            "page_ms": u64::try_from(self.fleet.latency.as_millis()).unwrap_or_default(),
            "peak_memory_bytes": self.peak_memory,
            "sweeps": sweeps.collect::<Vec<_>>(),
        })
    }
}
