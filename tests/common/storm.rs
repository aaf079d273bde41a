//! A storm: thousands of instances launched at once, and the shipped handler between a model of SQS and Lambda on one side
//! and EC2 with its documented token buckets on the other. Under tokio's paused clock an hour of it runs in seconds.
//!
//! What is real: the handler and all that it uses, but for the SDK. What is modelled: EC2 and IAM (`world`), their token
//! buckets, latencies and faults and the SDK's retries (`ec2`), the queue (`sqs`), Lambda's event source and its execution
//! environments (`lambda`), and, to compare, a function wired as such functions usually are (`usual`).
//!
//! The same seed gives the same storm but for the order of things within a millisecond, which tokio chooses.

mod dice;
mod ec2;
mod lambda;
mod sqs;
mod usual;

use std::collections::HashMap;
use std::time::Duration;

use auto_instance_profile::cloud::Operation;
use tokio::runtime;
use tokio::time::{Instant, sleep_until, timeout_at};

use self::dice::Dice;
use self::ec2::Ec2;
use self::lambda::{Aws, EventSource};
use self::sqs::Sqs;
use super::fake::FakeCloud;
use super::world::World;

/// What the template deploys, as far as a storm feels it. A test holds these numbers against `template.yaml`.
#[derive(Debug, Clone, Copy)]
pub struct Wiring {
    pub batch_size: usize,
    pub batching_window: Duration,
    pub maximum_concurrency: usize,
    pub timeout: Duration,
    pub visibility_timeout: Duration,
    pub max_receive_count: u32,
    pub retention: Duration,
    pub writes_per_second: f64,
}

pub const TEMPLATE: Wiring = Wiring {
    batch_size: 10,
    batching_window: Duration::ZERO,
    maximum_concurrency: 2,
    timeout: Duration::from_mins(1),
    visibility_timeout: Duration::from_secs(360),
    max_receive_count: 500,
    retention: Duration::from_hours(96),
    writes_per_second: 5.0,
};

/// What the storm is like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scenario {
    /// Nothing but the crowd.
    Plain,
    /// Of 100 tries of a call 20 fail: 10 get no further than the network, 10 are carried out and their answer is lost.
    Failing,
    /// Another tenant of the account takes half of Associate's bucket, and half of what flows into it.
    Tenant,
    /// Every event comes twice, and a tag event after them.
    Duplicates,
    /// Of 100 invocations 5 die at a random moment, and their execution environments with them.
    Killed,
    /// The usual wiring instead of ours: an asynchronous invocation an event, two retries, no queue.
    Usual,
}

impl Scenario {
    pub const ALL: [Self; 6] =
        [Self::Plain, Self::Failing, Self::Tenant, Self::Duplicates, Self::Killed, Self::Usual];

    pub fn words(self) -> &'static str {
        match self {
            Self::Plain => "as it comes",
            Self::Failing => "20 % of calls fail",
            Self::Tenant => "another tenant takes half",
            Self::Duplicates => "each event three times",
            Self::Killed => "5 % of invocations die",
            Self::Usual => "the usual wiring",
        }
    }

    fn weather(self) -> Weather {
        let fair = Weather { failing: 0.0, tenant: Tenant::default(), repeats: false, killed: 0.0 };
        match self {
            Self::Plain | Self::Usual => fair,
            Self::Failing => Weather { failing: 0.2, ..fair },
            Self::Tenant => Weather { tenant: Tenant { at_once: 50.0, per_second: 2.5 }, ..fair },
            Self::Duplicates => Weather { repeats: true, ..fair },
            Self::Killed => Weather { killed: 0.05, ..fair },
        }
    }

    /// The time that nobody can beat: EC2's bucket is empty by then, and it fills no faster.
    pub fn floor(self, instances: usize) -> Duration {
        let Tenant { at_once, per_second } = self.weather().tenant;
        let bucket = ec2::ASSOCIATES - at_once;
        let after = (count(instances) - bucket) / (ec2::ASSOCIATES_PER_SECOND - per_second);
        Duration::from_secs_f64(after.max(0.0))
    }
}

#[derive(Debug, Clone, Copy)]
struct Weather {
    /// The share of tries that fail.
    failing: f64,
    tenant: Tenant,
    /// Whether each event comes more than once.
    repeats: bool,
    /// The share of invocations that die.
    killed: f64,
}

/// Somebody else who attaches profiles in the same account.
#[derive(Debug, Clone, Copy, Default)]
struct Tenant {
    /// What they take before we come.
    at_once: f64,
    /// What they take from then on. They come first, so that their share is really theirs.
    per_second: f64,
}

/// What became of a storm.
#[derive(Debug, Clone)]
pub struct Report {
    pub scenario: Scenario,
    pub instances: usize,
    pub seed: u64,
    /// When each instance had its profile, in order.
    pub attached: Vec<Duration>,
    /// When writes were throttled.
    pub throttled: Vec<Duration>,
    /// Events that were given up, by whomever.
    pub dead_letters: usize,
    /// Messages still in the queue when nothing was left to wait for.
    pub left_over: usize,
    /// The most often that a message was received.
    pub receives: u32,
    /// Tries on the wire, throttled ones included.
    pub tries: HashMap<Operation, usize>,
    pub invocations: usize,
    /// Invocations that died or ran out of time.
    pub cut_short: usize,
    /// What Lambda bills: invocations and starts, summed.
    pub billed: Duration,
    /// Calls to SQS that the function made.
    pub sqs_calls: usize,
}

impl Report {
    pub fn floor(&self) -> Duration {
        self.scenario.floor(self.instances)
    }

    /// When the last instance had its profile; nothing, where one never got it.
    pub fn last(&self) -> Option<Duration> {
        self.attached.last().copied().filter(|_| self.attached.len() == self.instances)
    }

    /// The last as a multiple of the floor.
    pub fn ratio(&self) -> f64 {
        self.last().map_or(f64::INFINITY, |last| last.as_secs_f64() / self.floor().as_secs_f64())
    }

    /// Throttled writes as a share of the instances.
    pub fn throttled_share(&self) -> f64 {
        count(self.throttled.len()) / count(self.instances)
    }

    pub fn reads(&self) -> usize {
        let reads = [
            Operation::DescribeInstances,
            Operation::DescribeIamInstanceProfileAssociations,
            Operation::DescribeTags,
            Operation::GetInstanceProfile,
        ];
        reads.iter().filter_map(|read| self.tries.get(read)).sum()
    }
}

/// Runs a storm to its end on a thread and a clock of its own.
pub fn run(scenario: Scenario, wiring: Wiring, instances: usize, seed: u64) -> Report {
    let runtime = runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.unwrap().block_on(storm(scenario, wiring, instances, seed))
}

async fn storm(scenario: Scenario, wiring: Wiring, instances: usize, seed: u64) -> Report {
    let weather = scenario.weather();
    let world = (0..instances).fold(World::new().profile("web"), |world, number| {
        world.running(&instance_id(number), Some("web"), None)
    });
    let dice = |stream: u64| Dice::new(seed.wrapping_mul(1_000_003).wrapping_add(stream));
    let cloud = FakeCloud::of(world);
    let ec2 = Ec2::new(cloud.clone(), weather, dice(0));
    let started = Instant::now();
    let outcome = if scenario == Scenario::Usual {
        usual::run(&ec2, instances, dice(1)).await
    } else {
        let sqs = Sqs::new(wiring, dice(1));
        let aws = Aws::new(ec2.clone(), sqs.clone(), weather, dice(2));
        let source = EventSource::new(wiring, weather, aws.clone(), dice(3));
        let events = deliver(&sqs, instances, weather, dice(4));
        // Whoever is not done by then never will be: dead letters are made after a quarter of an hour at most.
        let end = started + scenario.floor(instances) * 3 + Duration::from_hours(1);
        let everything = async { tokio::join!(events, sqs.drained()) };
        tokio::select! {
                biased;
            _ = timeout_at(end, everything) => {}
            () = source.run() => {}
        }
        Outcome {
            dead_letters: sqs.dead_letters(),
            left_over: sqs.left(),
            receives: sqs.most_receives(),
            sqs_calls: aws.sqs_calls(),
            ..source.outcome()
        }
    };
    let lacking = |number: &usize| cloud.world().attached_to(&instance_id(*number)).is_none();
    let lacking = (0..instances).filter(lacking).count();
    let tally = ec2.tally();
    assert_eq!(tally.attached.len(), instances - lacking, "what was written is what is there");
    Report {
        scenario,
        instances,
        seed,
        attached: since(started, tally.attached),
        throttled: since(started, tally.throttled_writes),
        dead_letters: outcome.dead_letters,
        left_over: outcome.left_over,
        receives: outcome.receives,
        tries: tally.tries,
        invocations: outcome.invocations,
        cut_short: outcome.cut_short,
        billed: outcome.billed,
        sqs_calls: outcome.sqs_calls,
    }
}

/// What only the wiring knows.
#[derive(Debug, Default)]
struct Outcome {
    dead_letters: usize,
    left_over: usize,
    receives: u32,
    invocations: usize,
    cut_short: usize,
    billed: Duration,
    sqs_calls: usize,
}

/// The launch: EventBridge delivers the instances' events within two seconds, and repeats within ten.
async fn deliver(sqs: &Sqs, instances: usize, weather: Weather, mut dice: Dice) {
    let started = Instant::now();
    let mut events: Vec<(Duration, String)> = Vec::new();
    for number in 0..instances {
        let id = instance_id(number);
        events.push((dice.time(0..2000), running(&id)));
        if weather.repeats {
            events.push((dice.time(0..10_000), running(&id)));
            events.push((dice.time(0..10_000), tagged(&id)));
        }
    }
    events.sort_by_key(|(at, _)| *at);
    for (at, body) in events {
        sleep_until(started + at).await;
        sqs.send(body);
    }
    sqs.no_more();
}

fn instance_id(number: usize) -> String {
    format!("i-{number:017x}")
}

fn running(id: &str) -> String {
    format!(
        r#"{{"version":"0","id":"e","detail-type":"EC2 Instance State-change Notification","source":"aws.ec2","account":"123456789012","time":"2026-01-01T00:00:00Z","region":"us-east-1","resources":["arn:aws:ec2:us-east-1:123456789012:instance/{id}"],"detail":{{"instance-id":"{id}","state":"running"}}}}"#
    )
}

fn tagged(id: &str) -> String {
    format!(
        r#"{{"version":"0","id":"e","detail-type":"Tag Change on Resource","source":"aws.tag","account":"123456789012","time":"2026-01-01T00:00:00Z","region":"us-east-1","resources":["arn:aws:ec2:us-east-1:123456789012:instance/{id}"],"detail":{{"changed-tag-keys":["InstanceProfile"],"service":"ec2","resource-type":"instance","version":1,"tags":{{"InstanceProfile":"web"}}}}}}"#
    )
}

fn since(started: Instant, mut times: Vec<Instant>) -> Vec<Duration> {
    times.sort();
    times.into_iter().map(|at| at - started).collect()
}

#[expect(clippy::cast_precision_loss, reason = "no storm has 2^52 instances")]
fn count(number: usize) -> f64 {
    number as f64
}
