//! What a start costs: INIT and the first event of the built function, and the events after it, at the processor share that
//! Lambda gives a function of 128 MB, over TLS, beside a plain function with AWS's SDK and one with boto3.
//!
//! Usage: `make bench-start`. One event is a batch with one message about a bare running instance, which must have its
//! profile afterwards: a run in which it has not is no measurement, and the bench says so and ends.
#![expect(clippy::print_stdout, reason = "the tables are what it is for")]

mod api;
mod figures;
mod options;
mod table;
#[allow(
    dead_code,
    clippy::unwrap_used,
    reason = "the tests' world, of which one event needs a part"
)]
#[path = "../../../tests/common/world.rs"]
mod world;

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use bench_common::function::{Function, Program, Size, Usage, wall_clock};
use bench_common::run::{Scratch, progress, to_its_end, write_figures};
use bench_common::share::Share;
use bench_common::{machine, tls};
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::api::Api;
use crate::figures::{Cold, Figures, Warm, median, ms};
use crate::options::Options;
use crate::world::World;

const OURS: &str = "this function";
const PLAIN_SDK: &str = "plain SDK function";
const BOTO3: &str = "boto3 function";

const BENCH: &str = "start-bench";
const PROFILE: &str = "web";
const PEERS: &str = "benches/peers";
const PYTHON: &str = "boto3";

/// A function to be measured.
struct Contender {
    name: &'static str,
    path: PathBuf,
    arguments: Vec<String>,
    runs: usize,
    /// The size of what is deployed, where that is the program itself.
    binary: Option<u64>,
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
    let (tls, number_of_roots) = tls::set_up(&roots)?;
    let share = if options.share {
        Share::find(Size::EVENTS.memory_mb)
            .inspect_err(|error| eprintln!("without Lambda's share of a processor: {error:#}"))
            .ok()
    } else {
        None
    };
    let bench = Bench { api: Api::serve(&tls).await?, share, roots, options };

    let contenders = bench.contenders()?;
    ensure!(!contenders.is_empty(), "there is nothing to measure");
    let all = bench.figures_of(&contenders).await?;
    for figures in &all {
        print_details(figures);
        print_work_in_pause(figures);
    }

    let latency = bench.options.latency;
    let conditions = bench.conditions(number_of_roots);
    println!("{conditions}\n");
    println!("{}", table::measured(&all, latency));
    if bench.share.is_some() {
        println!("{}", table::goals(&all, latency));
    }
    if let Some(file) = &bench.options.json {
        let functions: Vec<Value> = all.iter().map(Figures::json).collect();
        let all = json!({ "conditions": conditions, "functions": functions });
        write_figures(file, &all)?;
    }
    Ok(())
}

impl Bench {
    /// Those of the functions that are there; of each that is not, a line says so.
    fn contenders(&self) -> Result<Vec<Contender>> {
        let options = &self.options;
        let runtime = format!("{PEERS}/runtime.py");
        let (runs, peer_runs) = (options.runs, options.peer_runs);
        let mut found = Vec::new();
        for (key, name, path, arguments, runs) in [
            ("ours", OURS, &options.function, vec![], runs),
            ("plain-sdk", PLAIN_SDK, &options.plain_sdk, vec![], peer_runs),
            (PYTHON, BOTO3, &options.python, vec![runtime], peer_runs),
        ] {
            if options.only.as_ref().is_some_and(|only| only != key) {
                continue;
            }
            let Ok(file) = fs::metadata(path) else {
                eprintln!("{name}: left out, {} is not there", path.display());
                continue;
            };
            // A relative program would be looked for in the search path. Its last part stays as it is: a virtual
            // environment's Python is a link.
            let folder = path.parent().unwrap_or(Path::new(".")).canonicalize()?;
            let path = folder.join(path.file_name().unwrap_or_default());
            let binary = (key != PYTHON).then_some(file.len());
            found.push(Contender { name, path, arguments, runs, binary });
        }
        Ok(found)
    }

    /// The function's own settings, where the APIs are, and what makes it trust them.
    fn settings(&self) -> Vec<(String, String)> {
        let roots = self.roots.to_string_lossy();
        let settings = [
            ("ALLOWED_PROFILES", PROFILE),
            ("MODE", "enforce"),
            ("PROFILE_TAG_KEY", "InstanceProfile"),
            ("SSL_CERT_FILE", &roots),
            ("AWS_CA_BUNDLE", &roots),
            ("LAMBDA_TASK_ROOT", PEERS),
            ("_HANDLER", "boto3_by_hand.handler"),
            // Lambda's folders cannot be written to.
            ("PYTHONDONTWRITEBYTECODE", "1"),
        ];
        let settings = settings.map(|(name, value)| (name.to_owned(), value.to_owned()));
        self.api.variables().chain(settings).collect()
    }

    /// Measures all of them in turns, so that a slow minute of the machine is nobody's own.
    async fn figures_of(&self, contenders: &[Contender]) -> Result<Vec<Figures>> {
        let mut colds = vec![Vec::new(); contenders.len()];
        let rounds = contenders.iter().map(|contender| contender.runs).max().unwrap_or_default();
        for round in 0..rounds {
            progress(&format!("starts: round {} of {rounds}", round + 1));
            for (contender, cold) in contenders.iter().zip(&mut colds) {
                // Fewer runs are spread over all the rounds.
                if round * contender.runs / rounds < (round + 1) * contender.runs / rounds {
                    self.api.begin(world_of(1), Duration::ZERO);
                    let (function, figures) =
                        self.start(contender).await.context(contender.name)?;
                    function.stop().await?;
                    cold.push(figures);
                }
            }
        }
        let mut all = Vec::new();
        for (contender, cold) in contenders.iter().zip(colds) {
            progress(&format!("warm events of {}", contender.name));
            let warm = async |latency| self.warm(contender, latency).await.context(contender.name);
            let warm = [warm(Duration::ZERO).await?, warm(self.options.latency).await?];
            let (name, binary) = (contender.name.to_owned(), contender.binary);
            all.push(Figures { name, binary, cold, warm });
        }
        progress("");
        Ok(all)
    }

    /// Starts a fresh process and has it handle its first event.
    async fn start(&self, contender: &Contender) -> Result<(Function, Cold)> {
        let group = self.share.as_ref().map(Share::group).transpose()?;
        // The kernel takes a while to clear away the process before this one, and its group.
        sleep(self.options.gap).await;
        let program = Program {
            path: contender.path.clone(),
            arguments: contender.arguments.clone(),
            settings: self.settings(),
            size: Size::EVENTS,
        };
        let mut function = Function::start(&program, group).await?;
        let init = function.asked_first().await?;
        let after_init = function.usage();
        let in_init = self.api.take_traffic();
        sleep(self.options.pause).await;
        let after_pause = function.usage();
        let in_pause = self.api.take_traffic();
        let first = function.handle(&event(1)).await?;
        function.asked().await?;
        let after_first = function.usage();
        self.check(1, &function)?;
        let in_first = self.api.take_traffic();
        let used =
            [after_init, difference(after_pause, after_init), difference(after_first, after_pause)];
        let traffic = [in_init, in_pause, in_first];
        let peak_memory = function.peak_memory()?;
        Ok((function, Cold { init, first, used, traffic, peak_memory }))
    }

    /// Has one process handle events after its first.
    async fn warm(&self, contender: &Contender, latency: Duration) -> Result<Warm> {
        self.api.begin(world_of(1 + self.options.warm), latency);
        let (mut function, _) = self.start(contender).await?;
        let mut warm = Warm { latency, ..Warm::default() };
        for number in 2..2 + self.options.warm {
            // Several of the share's periods, so that no event lives on what the one before it left over.
            sleep(self.options.gap).await;
            let before = function.usage();
            warm.times.push(function.handle(&event(number)).await?);
            function.asked().await?;
            warm.used.push(difference(function.usage(), before));
            self.check(number, &function)?;
        }
        warm.traffic = self.api.take_traffic();
        warm.peak_memory = function.peak_memory()?;
        function.stop().await?;
        Ok(warm)
    }

    /// That the event did what it is measured for.
    fn check(&self, number: usize, function: &Function) -> Result<()> {
        let attached = self.api.world().attached_to(&instance_id(number));
        if attached.as_deref() != Some(PROFILE) {
            bail!(
                "event {number} was answered, and its instance has {attached:?}, not {PROFILE}; calls: {:?}{}",
                self.api.take_traffic().calls,
                function.log()
            );
        }
        Ok(())
    }

    /// What the figures hold for.
    fn conditions(&self, roots: usize) -> String {
        let [machine, share] = machine::describe(self.share.as_ref());
        let (pause, gap) = (self.options.pause.as_millis(), self.options.gap.as_millis());
        format!(
            "{machine}\n\
             {share} {roots} roots to load.\n\
             Medians. Each start is a fresh process; {events} warm events in one process, as many in another for the \
             latency.\n\
             {pause} ms of rest before the first event, {gap} ms before a warm one, not counted.",
            events = self.options.warm,
        )
    }
}

/// A warning about work in the pause after INIT, which no figure shows: Lambda hands out the first event at once.
fn print_work_in_pause(figures: &Figures) {
    let busy = figures.cold.iter().filter(|run| {
        run.used[1].cpu >= Duration::from_micros(200) || !run.traffic[1].calls.is_empty()
    });
    let busy = busy.count();
    if busy > 0 {
        eprintln!(
            "{}: in {busy} of {} starts it went on working after it had asked for its first event; --pause 0 counts that",
            figures.name,
            figures.cold.len()
        );
    }
}

/// Where the time goes, in a few lines to the terminal.
fn print_details(figures: &Figures) {
    eprintln!("{}:", figures.name);
    for (index, phase) in ["INIT", "the pause", "the first event"].into_iter().enumerate() {
        let used: Vec<_> = figures.cold.iter().map(|run| run.used[index]).collect();
        let cpu: Vec<_> = used.iter().map(|used| used.cpu).collect();
        let Some(last) = figures.cold.last() else { return };
        eprintln!(
            "  {phase}: {:.2} ms of a processor, {} page faults, throttled in {} of {} starts; in the last: \
             connections {:?}, calls {:?}",
            ms(median(&cpu)),
            last.used[index].faults,
            used.iter().filter(|used| used.throttled > 0).count(),
            used.len(),
            last.traffic[index].connections,
            last.traffic[index].calls,
        );
    }
    for warm in &figures.warm {
        let cpu: Vec<_> = warm.used.iter().map(|used| used.cpu).collect();
        eprintln!(
            "  {} warm events at {} ms a call: {:.2} ms of a processor each, throttled {} times, {} calls, \
             new connections {:?}",
            warm.times.len(),
            warm.latency.as_millis(),
            ms(median(&cpu)),
            warm.used.iter().map(|used| used.throttled).sum::<u64>(),
            warm.traffic.calls.len(),
            warm.traffic.connections,
        );
    }
}

fn difference(after: Usage, before: Usage) -> Usage {
    Usage {
        cpu: after.cpu.saturating_sub(before.cpu),
        faults: after.faults.saturating_sub(before.faults),
        throttled: after.throttled.saturating_sub(before.throttled),
    }
}

/// Bare running instances, numbered from 1, each of which should have the profile.
fn world_of(instances: usize) -> World {
    (1..=instances).fold(World::new().profile(PROFILE), |world, number| {
        world.running(&instance_id(number), Some(PROFILE), None)
    })
}

fn instance_id(number: usize) -> String {
    format!("i-{number:017x}")
}

/// A batch with one message: this instance has come up.
fn event(number: usize) -> Value {
    let id = instance_id(number);
    let now = wall_clock().as_millis();
    let body = json!({
        "version": "0",
        "id": format!("7bf73129-1428-4cd3-a780-{number:012x}"),
        "detail-type": "EC2 Instance State-change Notification",
        "source": "aws.ec2",
        "account": world::ACCOUNT,
        "time": "2026-11-02T09:14:21Z",
        "region": "us-east-1",
        "resources": [format!("arn:aws:ec2:us-east-1:{}:instance/{id}", world::ACCOUNT)],
        "detail": { "instance-id": id, "state": "running" },
    });
    json!({
        "Records": [{
            "messageId": format!("059f36b4-87a3-44ab-83d2-{number:012x}"),
            "receiptHandle": "AQEBwJnKyrHigUMZj6rYigCgxlaS3SLy0a1CRpBMBd1q0FfzKp2qOH3hBhF5sYtT0n6bFvvx2bq0mT",
            "body": body.to_string(),
            "attributes": {
                "ApproximateReceiveCount": "1",
                "SentTimestamp": now.to_string(),
                "SenderId": "AIDAIENQZJOLO23YVJ4VO",
                "ApproximateFirstReceiveTimestamp": now.to_string(),
            },
            "messageAttributes": {},
            "md5OfBody": "e3f395950136405219e6c906cf4630d5",
            "eventSource": "aws:sqs",
            "eventSourceARN": format!("arn:aws:sqs:us-east-1:{}:auto-instance-profile", world::ACCOUNT),
            "awsRegion": "us-east-1",
        }]
    })
}
