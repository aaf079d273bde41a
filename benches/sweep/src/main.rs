//! What a sweep of a whole fleet costs: the built function at the processor share that Lambda gives it with 512 MB, over
//! TLS, looks at thousands of instances that are all right.
//!
//! Usage: `make bench-sweep`. It is invoked as by the schedule. A sweep that has not found each instance right, or has sent or
//! written anything, is no measurement, and the bench says so and ends.

mod api;
mod fleet;
#[allow(dead_code, reason = "the start's, by symbolic link; a sweep needs a part of it")]
mod function;
mod options;
#[allow(dead_code, reason = "the start's, by symbolic link; a sweep needs a part of it")]
mod share;
mod table;
mod tls;

use std::env;
use std::fs;
use std::io::{self, IsTerminal};
use std::path::PathBuf;
use std::process::{self, ExitCode};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::sleep;

use crate::api::{Api, Traffic};
use crate::function::{Function, Program};
use crate::options::{Fleet, Options};
use crate::share::Share;

/// As the template has the function for sweeps.
pub const MEMORY_MB: u32 = 512;
pub const TIMEOUT: Duration = Duration::from_mins(15);

const QUEUE: &str = "auto-instance-profile-queue";
/// Several of the share's periods between two sweeps, so that none lives on what the one before it left over.
const GAP: Duration = Duration::from_millis(200);

/// One sweep: one invocation.
#[derive(Debug, Clone)]
pub struct Sweep {
    pub time: Duration,
    pub cpu: Duration,
    /// EC2's and IAM's calls that read.
    pub reads: usize,
    /// EC2's answers.
    pub bytes: usize,
}

/// All sweeps of one fleet, in one process.
#[derive(Debug, Clone)]
pub struct Figures {
    pub fleet: Fleet,
    pub sweeps: Vec<Sweep>,
    pub peak_memory: u64,
}

/// What all measurements share.
struct Bench {
    options: Options,
    api: Api,
    share: Option<Share>,
    roots: PathBuf,
}

/// A folder for the file of roots; it goes when this is dropped.
struct Scratch(PathBuf);

#[tokio::main]
async fn main() -> ExitCode {
    let done = match Options::read(env::args().skip(1)) {
        Ok(options) => tokio::select! {
            // Dropping the measurement ends its function and removes its group.
            done = measure(options) => done,
            () = interrupted() => Err(anyhow::anyhow!("stopped; all that it started is gone")),
        },
        Err(error) => Err(error),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("sweep-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn interrupted() {
    let of = |kind| signal(kind).expect("signals can be listened to");
    let mut terminate = of(SignalKind::terminate());
    let mut hang_up = of(SignalKind::hangup());
    tokio::select! {
        _ = tokio::signal::ctrl_c() => (),
        _ = terminate.recv() => (),
        _ = hang_up.recv() => (),
    }
}

async fn measure(options: Options) -> Result<()> {
    let scratch = Scratch::new()?;
    let roots = scratch.0.join("roots.pem");
    let (tls, _) = tls::set_up(&roots)?;
    let share = if options.share {
        Share::find()
            .inspect_err(|error| eprintln!("without Lambda's share of a processor: {error:#}"))
            .ok()
    } else {
        None
    };
    let bench = Bench { api: Api::serve(tls).await?, share, roots, options };
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
        fs::write(file, format!("{all:#}\n"))
            .with_context(|| format!("writing {}", file.display()))?;
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
        let memory = MEMORY_MB.to_string();
        let settings = [
            ("ALLOWED_PROFILES", fleet::PROFILE),
            ("MODE", "enforce"),
            ("PROFILE_TAG_KEY", "InstanceProfile"),
            ("QUEUE_URL", &queue),
            ("SSL_CERT_FILE", &roots),
            ("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", &memory),
        ];
        let settings = settings.map(|(name, value)| (name.to_owned(), value.to_owned()));
        self.api.variables().chain(settings).collect()
    }

    /// What the figures hold for.
    fn conditions(&self) -> String {
        let model = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model =
            model.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or(": unknown");
        let model = model.trim_start_matches([' ', '\t', ':']);
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let kernel: Vec<_> = kernel.trim().split('.').take(2).collect();
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let share = self.share.as_ref().map_or_else(
            || "Without Lambda's share of a processor".to_owned(),
            |share| format!("From the end of INIT on: {}", share.describe()),
        );
        format!(
            "{processors} processors ({model}), Linux {kernel}.\n\
             {share}.\n\
             Each row is a fresh process that sweeps so many times: medians, and the most memory of all its sweeps.",
            kernel = kernel.join("."),
        )
    }
}

/// Says where the bench is, to a terminal.
fn progress(what: &str) {
    if io::stderr().is_terminal() {
        // Back to the line's beginning; then what stood behind is cleared.
        eprint!("\r{what}\x1b[K");
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

impl Scratch {
    fn new() -> Result<Self> {
        let dir = env::temp_dir().join(format!("sweep-bench-{}", process::id()));
        fs::create_dir_all(&dir).with_context(|| format!("making {}", dir.display()))?;
        Ok(Self(dir))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Where it cannot be removed, the system's own sweep will.
        let _ = fs::remove_dir_all(&self.0);
    }
}
