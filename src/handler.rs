//! Lambda's side: payload in, reconciliation, answer out.

mod batch;
mod sweep;
mod work;

use std::collections::{BTreeMap, HashMap};
use std::error::Error;
use std::fmt;
use std::time::{Duration, SystemTime};

use aws_lambda_events::event::sqs::SqsBatchResponse;
use futures_util::future::{join, join_all};
use lambda_runtime::{Context, Diagnostic, LambdaEvent};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;
use tokio::time::{Instant, timeout, timeout_at};

use crate::bus::{Bus, Notice};
use crate::census::Standing;
use crate::cloud::{Clouds, Service};
use crate::config::{Config, Mode};
use crate::decide::Patience;
use crate::event::{Caller, Origin, Payload, Reader, Reading, Trigger};
use crate::failure::{Disposition, MALFORMED, chain};
use crate::flapping::FlapDetector;
use crate::handler::sweep::Swept;
use crate::handler::work::{Task, Work, mode_for};
use crate::metrics::{Metric, Tally};
use crate::model::{AccountId, Illegal, Region};
use crate::own_queue::OwnQueue;
use crate::pace::Pace;
use crate::profiles::Profiles;
use crate::queue::Queues;
use crate::reconcile::{Job, Reconciler};
use crate::report::{Entry, Failures, InstanceReport};

/// Lambda's longest timeout. A deadline beyond it, or in the past, says nothing.
const LONGEST_INVOCATION: Duration = Duration::from_mins(15);
/// What an invocation allows itself where its deadline is unknown.
const TIME_WITHOUT_DEADLINE: Duration = Duration::from_secs(25);
/// Kept back for the answer to reach Lambda; of a short invocation a quarter.
const TIME_TO_ANSWER: Duration = Duration::from_secs(1);

/// SQS keeps no message longer. What claims to be older is an example.
const LONGEST_RETENTION: Duration = Duration::from_hours(14 * 24);
/// Kept back, of a batch's time, to say when its messages come again.
const TIME_TO_SORT: Duration = Duration::from_secs(2);
/// How long the start may take to get ready. Lambda allows it 10 s; a hanging endpoint must not use them up.
const TIME_TO_GET_READY: Duration = Duration::from_secs(3);
/// How long an answer waits for listeners to be told.
const TIME_TO_TELL: Duration = Duration::from_secs(2);
/// Profiles fetched while the function starts.
const FETCHED_AT_START: usize = 16;

/// The function: settings, clouds and queues, and what is remembered between invocations.
pub struct Handler<A> {
    config: Config,
    aws: A,
    profiles: Profiles,
    pace: Pace,
    flapping: FlapDetector,
    write_metrics: Box<WriteLine>,
}

/// Takes a line of metrics.
type WriteLine = dyn Fn(&str) + Send + Sync;

/// The payload as it came; nothing, where it is no JSON. The runtime would report that in words of its own.
#[derive(Debug)]
pub struct RawPayload(pub Option<Box<RawValue>>);

impl<'de> Deserialize<'de> for RawPayload {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self(Box::<RawValue>::deserialize(deserializer).ok()))
    }
}

/// What Lambda is answered.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub enum Answer {
    /// To a queue: the messages that must come again, or be given up.
    Batch(SqsBatchResponse),
    /// To a direct invocation: a row for each instance.
    Report {
        /// The mode that held for this invocation.
        mode: &'static str,
        /// How many instances ended how.
        counts: BTreeMap<&'static str, u64>,
        /// The instances in the order asked for; of very many those that are not right, and not all of these.
        instances: Vec<Entry>,
    },
    /// To a direct invocation with an event that is none of our business.
    Ignored {
        /// Why.
        ignored: String,
    },
    /// To a direct invocation of a sweep.
    Sweep(Swept),
}

/// Instances that an answer names: Lambda's answers hold 6 MB.
const MAX_ENTRIES: usize = 1000;

impl Answer {
    fn of(mode: Mode, reports: &[InstanceReport], illegal: &[Illegal]) -> Self {
        let mut counts = BTreeMap::new();
        let outcomes = reports.iter().map(InstanceReport::outcome_word);
        for outcome in outcomes.chain(illegal.iter().map(|_| "failed")) {
            *counts.entry(outcome).or_default() += 1;
        }
        let is_long = reports.len() + illegal.len() > MAX_ENTRIES;
        let is_shown = |report: &&InstanceReport| !is_long || report.standing() != Standing::Right;
        let entries = illegal.iter().map(Entry::illegal);
        let reported = reports.iter().filter(is_shown).map(InstanceReport::entry);
        let instances = reported.chain(entries).take(MAX_ENTRIES).collect();
        Self::Report { mode: mode.as_str(), counts, instances }
    }
}

/// A failed invocation, as Lambda reports it.
pub struct InvocationError {
    error_type: &'static str,
    message: String,
}

impl<A: Clouds + Queues + Bus> Handler<A> {
    /// A function with these settings.
    pub fn new(config: Config, aws: A) -> Self {
        let pace = Pace::new(config.pace);
        let (profiles, flapping) = (Profiles::default(), FlapDetector::default());
        Self { config, aws, profiles, pace, flapping, write_metrics: Box::new(|_| {}) }
    }

    /// Has each invocation's metrics written, a line at a time.
    #[must_use]
    pub fn with_metrics(self, write: impl Fn(&str) + Send + Sync + 'static) -> Self {
        Self { write_metrics: Box::new(write), ..self }
    }

    /// Gets ready for the first event: connections to EC2 and IAM, and the profiles that it may well need. What fails here
    /// costs the first event time and nothing else.
    pub async fn get_ready(&self) {
        let Some(region) = &self.config.region else { return };
        let names = self.config.policy.literal_profiles();
        let names: Vec<_> = names.into_iter().take(FETCHED_AT_START).collect();
        let ec2 = self.aws.connect(region, Service::Ec2);
        let iam = async {
            if names.is_empty() {
                self.aws.connect(region, Service::Iam).await
            } else {
                self.profiles.prefetch(&self.aws.of(region), &names).await
            }
        };
        let Ok((ec2, iam)) = timeout(TIME_TO_GET_READY, join(ec2, iam)).await else {
            tracing::warn!(
                "not ready for the first event: EC2 or IAM did not answer within {} s",
                TIME_TO_GET_READY.as_secs()
            );
            return;
        };
        for error in [ec2, iam].into_iter().filter_map(Result::err) {
            tracing::warn!("not ready for the first event: {}", chain(&error));
        }
    }

    /// Deals with one invocation.
    ///
    /// # Errors
    /// [`InvocationError`] for a payload that cannot be read, and for an event that came without a queue and whose
    /// message would come again or be given up.
    pub async fn handle(&self, event: LambdaEvent<RawPayload>) -> Result<Answer, InvocationError> {
        let deadline = Instant::now() + time_for(&event.context);
        let caller = self.caller(&event.context);
        let reads_tag = |key: &str| self.config.policy.reads_tag(key);
        let reader = Reader { caller: &caller, reads_tag: &reads_tag };
        // What is no JSON is read once more, for the reader's own words about it.
        match reader.read(event.payload.0.as_deref().map_or("", RawValue::get)) {
            Ok(Payload::Batch(messages)) => {
                Ok(Answer::Batch(self.process_batch(messages, deadline).await))
            }
            Ok(Payload::Single(Reading::Trigger(trigger))) => {
                self.process_trigger(&trigger, deadline).await
            }
            Ok(Payload::Single(Reading::Verify(verification))) => {
                let mut work = Work::default();
                work.add_verification(&verification, self.config.mode, 0);
                let reports = self.process_directly(&work, deadline).await;
                Ok(Answer::of(self.config.mode, &reports, &[]))
            }
            Ok(Payload::Single(Reading::FinishSwap(detached))) => {
                let mut work = Work::default();
                work.add_swap(&detached, self.config.mode, Patience::Fresh, 0);
                let reports = self.process_directly(&work, deadline).await;
                Ok(Answer::of(self.config.mode, &reports, &[]))
            }
            Ok(Payload::Single(Reading::Sweep(request))) => {
                let deadline = deadline - TIME_TO_SORT.min(time_for(&event.context) / 4);
                match self.sweep(&request, &caller, deadline).await {
                    Ok(swept) => Ok(Answer::Sweep(swept)),
                    Err(why) => {
                        let (error_type, message) = (why.error_type(), chain(&why));
                        tracing::error!(outcome = "sweep", error.r#type = error_type, "{message}");
                        self.record(|tally| tally.fail(error_type));
                        Err(InvocationError { error_type, message })
                    }
                }
            }
            Ok(Payload::Single(Reading::Ignored(why))) => {
                tracing::info!(outcome = "ignored", "ignored: {why}");
                Ok(Answer::Ignored { ignored: why.to_string() })
            }
            Err(malformed) => {
                log_malformed(&malformed, None);
                Err(InvocationError { error_type: MALFORMED, message: chain(&malformed) })
            }
        }
    }

    /// Deals with an event, or a person's invocation, that came without a queue.
    async fn process_trigger(
        &self,
        trigger: &Trigger,
        deadline: Instant,
    ) -> Result<Answer, InvocationError> {
        let is_person = matches!(trigger.origin, Origin::Person { .. });
        let mut work = Work::default();
        // A person is there to ask again; an event is not.
        let patience = if is_person { Patience::Exhausted } else { Patience::Fresh };
        work.add(trigger, self.config.mode, patience, 0);
        let mode = mode_for(trigger, self.config.mode);
        let reports = self.process_directly(&work, deadline).await;
        let failed: Vec<_> = reports.iter().filter(|report| report.result.is_err()).collect();
        if let (false, Some(why)) = (is_person, trigger.illegal.first()) {
            log_malformed(why, None);
            return Err(InvocationError { error_type: MALFORMED, message: why.to_string() });
        }
        if is_person || failed.is_empty() {
            for why in &trigger.illegal {
                log_malformed(why, None);
            }
            return Ok(Answer::of(mode, &reports, &trigger.illegal));
        }
        let worst = failed.iter().find(|report| report.disposition == Some(Disposition::GiveUp));
        let worst = worst.or(failed.first()).and_then(|report| report.result.as_ref().err());
        let error_type = worst.map_or("Failed", |failure| failure.error_type());
        Err(InvocationError { error_type, message: Failures(failed).to_string() })
    }

    /// Deals with tasks of which no queue knows, and writes their lines.
    async fn process_directly(&self, work: &Work, deadline: Instant) -> Vec<InstanceReport> {
        let reports = self.reconcile(&work.tasks, deadline).await;
        for report in &reports {
            report.log("");
        }
        self.follow_up(&reports, deadline).await;
        self.record(|tally| count(tally, &reports, work.tasks.iter().map(|task| task.event_ms)));
        self.tell_about(&reports, deadline).await;
        reports
    }

    /// Deals with the tasks of each Region by that Region's cloud; reports in the tasks' order.
    async fn reconcile(&self, tasks: &[Task], deadline: Instant) -> Vec<InstanceReport> {
        let mut by_region: HashMap<&Region, Vec<(usize, Job)>> = HashMap::new();
        for (index, Task { job, .. }) in tasks.iter().enumerate() {
            by_region.entry(&job.instance.region).or_default().push((index, job.clone()));
        }
        let queues = &self.aws;
        let own_queue = self.config.queue.as_deref().map(|url| OwnQueue { queues, url });
        let own_queue = &own_queue;
        let now_ns = now_ns();
        let regions = by_region.into_iter().map(async |(region, jobs)| {
            let cloud = self.aws.of(region);
            let (indices, jobs): (Vec<_>, Vec<_>) = jobs.into_iter().unzip();
            let reconciler = Reconciler {
                cloud: &cloud,
                profiles: &self.profiles,
                policy: &self.config.policy,
                pace: &self.pace,
                flapping: &self.flapping,
                write_ahead: own_queue.as_ref(),
                deadline,
                now_ns,
            };
            indices.into_iter().zip(reconciler.run(jobs).await).collect::<Vec<_>>()
        });
        let mut reports: Vec<_> = join_all(regions).await.into_iter().flatten().collect();
        reports.sort_by_key(|(index, _)| *index);
        reports.into_iter().map(|(_, report)| report).collect()
    }

    /// Writes metrics.
    fn record(&self, fill: impl FnOnce(&mut Tally)) {
        let mut tally = Tally::default();
        fill(&mut tally);
        let now_ms = u64::try_from(since_1970().as_millis()).unwrap_or_default();
        for document in tally.documents(&self.config.function, now_ms) {
            (self.write_metrics)(&document);
        }
    }

    async fn tell_about(&self, reports: &[InstanceReport], deadline: Instant) {
        if self.config.event_bus.is_some() {
            let notices: Vec<_> = reports.iter().filter_map(Notice::about).collect();
            self.tell(&notices, deadline).await;
        }
    }

    /// Tells the listeners, where there is a bus. What cannot be told is in the log.
    async fn tell(&self, notices: &[Notice], deadline: Instant) {
        let (Some(bus), false) = (&self.config.event_bus, notices.is_empty()) else { return };
        let until = deadline.min(Instant::now() + TIME_TO_TELL);
        let told = timeout_at(until, self.aws.tell(bus, notices)).await;
        let failed = match &told {
            Ok(results) => results.iter().filter(|result| result.is_err()).count(),
            Err(_) => notices.len(),
        };
        if failed > 0 {
            let why = told.ok().and_then(|results| results.into_iter().find_map(Result::err));
            let why = why.map_or("no answer in time".to_owned(), |error| chain(&error));
            tracing::warn!("{failed} of {} events did not reach the bus: {why}", notices.len());
            self.record(|tally| tally.add(Metric::NotificationsFailed, failed as u64));
        }
    }

    /// Where the function is: from its own ARN, `arn:PARTITION:lambda:REGION:ACCOUNT:function:NAME`, where that is one.
    fn caller(&self, context: &Context) -> Caller {
        let mut parts = context.invoked_function_arn.split(':').skip(3);
        let region = parts.next().and_then(|region| Region::parse(region).ok());
        let account = parts.next().and_then(|account| AccountId::parse(account).ok());
        let region = region.or_else(|| self.config.region.clone());
        Caller { account, region, role: self.config.own_role.clone() }
    }
}

/// Counts what became of each instance; `times` are their events', in milliseconds since 1970.
fn count(tally: &mut Tally, reports: &[InstanceReport], times: impl Iterator<Item = Option<i64>>) {
    let now = since_1970();
    for (report, time) in reports.iter().zip(times) {
        let event = time.and_then(|time| u64::try_from(time).ok()).map(Duration::from_millis);
        // An example's event is years old.
        let since = event.and_then(|event| now.checked_sub(event));
        tally.count(report, since.filter(|since| *since <= LONGEST_RETENTION));
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the times of events, messages and metrics are wall-clock times"
)]
fn since_1970() -> Duration {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
}

/// Now, in nanoseconds since 1970.
fn now_ns() -> i128 {
    i128::try_from(since_1970().as_nanos()).unwrap_or(i128::MAX)
}

fn log_malformed(malformed: &dyn Error, message_id: Option<&str>) {
    tracing::error!(
        message.id = message_id,
        outcome = "failed",
        disposition = Disposition::GiveUp.word(),
        error.r#type = MALFORMED,
        "{}",
        chain(malformed)
    );
}

/// How long this invocation may take, the answer left out. (Where Lambda sent no deadline at all, which it never does, the
/// runtime crate ends the process before it calls us.)
#[expect(
    clippy::disallowed_methods,
    reason = "Lambda's deadline is a wall-clock time, and this is Lambda's side"
)]
fn time_for(context: &Context) -> Duration {
    match context.deadline().duration_since(SystemTime::now()) {
        Ok(left) if left <= LONGEST_INVOCATION => left.saturating_sub(TIME_TO_ANSWER.min(left / 4)),
        Ok(_) | Err(_) => TIME_WITHOUT_DEADLINE,
    }
}

impl From<InvocationError> for Diagnostic {
    fn from(error: InvocationError) -> Self {
        Self { error_type: error.error_type.to_owned(), error_message: error.message }
    }
}

impl fmt::Debug for InvocationError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.error_type, self.message)
    }
}
