//! Lambda's side: payload in, reconciliation, answer out.

use std::collections::{BTreeMap, HashMap};
use std::error::Error;
use std::fmt;
use std::time::{Duration, SystemTime};

use aws_lambda_events::event::sqs::{BatchItemFailure, SqsBatchResponse};
use futures_util::future::{join, join_all};
use lambda_runtime::{Context, Diagnostic, LambdaEvent};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::backoff::{self, Delivery, Next, WaitsFor};
use crate::cloud::{Clouds, Service};
use crate::config::{Config, Mode};
use crate::decide::Patience;
use crate::event::{Caller, Message, Origin, Payload, Reader, Reading, Trigger};
use crate::model::{AccountId, InstanceRef, Region, Tags};
use crate::pace::Pace;
use crate::profiles::Profiles;
use crate::queue::{DeadLetter, Hidden, Queues};
use crate::reconcile::{Job, Reconciler};
use crate::report::{Disposition, Entry, Failures, InstanceReport, MALFORMED, chain};

/// What is not there yet is taken to be no more from this delivery on …
const PATIENT_RECEIVES: u32 = 3;
/// … and this long after its message was sent: a new instance profile has been seen to take over two and a half minutes.
const PATIENT_FOR: Duration = Duration::from_mins(3);
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
/// Profiles fetched while the function starts.
const FETCHED_AT_START: usize = 16;
/// While a batch is worked on, its messages are hidden for this long at a time: where an execution environment dies, they
/// come again soon and not after the queue's visibility timeout.
const LEASE: Duration = Duration::from_secs(5);
/// A lease is renewed this often.
const LEASE_BEAT: Duration = Duration::from_secs(2);
/// Batches larger than this take their time as a rule, so that their lease begins at once; the others' with the first beat.
const SMALL_BATCH: usize = 10;
/// The first beat of a small batch: its work is done by then, as a rule, and the queue is asked for nothing.
const FIRST_BEAT: Duration = Duration::from_millis(500);
/// How soon a message comes again for which the queue's redrive policy is to count receives.
const GIVEN_UP_BY_THE_QUEUE: Duration = Duration::from_secs(20);

/// The function: settings, clouds and queues, and what is remembered between invocations.
pub struct Handler<A> {
    config: Config,
    aws: A,
    profiles: Profiles,
    pace: Pace,
}

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
        /// The instances, in the order asked for.
        instances: Vec<Entry>,
    },
    /// To a direct invocation with an event that is none of our business.
    Ignored {
        /// Why.
        ignored: String,
    },
}

/// A failed invocation, as Lambda reports it.
pub struct InvocationError {
    error_type: &'static str,
    message: String,
}

/// What became of a message.
#[derive(Debug, Clone)]
enum Fate {
    Done,
    NotDone(Undone),
}

/// Why a message is not done. Of several reasons the most hopeful counts: as long as a part of a message may yet be done,
/// it comes again, and is given up only for what is left.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Undone {
    waits_for: WaitsFor,
    error_type: &'static str,
    error: String,
}

impl Fate {
    fn add(&mut self, undone: Undone) {
        match self {
            Self::NotDone(better) if *better <= undone => {}
            Self::Done | Self::NotDone(_) => *self = Self::NotDone(undone),
        }
    }

    fn add_malformed(&mut self, why: &dyn Error) {
        let error = chain(why);
        self.add(Undone { waits_for: WaitsFor::Nothing, error_type: MALFORMED, error });
    }
}

impl<A: Clouds + Queues> Handler<A> {
    /// A function with these settings.
    pub fn new(config: Config, aws: A) -> Self {
        let pace = Pace::new(config.pace);
        Self { config, aws, profiles: Profiles::default(), pace }
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
                Ok(Answer::Batch(self.deal_with_batch(messages, deadline).await))
            }
            Ok(Payload::Single(Reading::Trigger(trigger))) => {
                self.deal_with_trigger(&trigger, deadline).await
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

    async fn deal_with_trigger(
        &self,
        trigger: &Trigger,
        deadline: Instant,
    ) -> Result<Answer, InvocationError> {
        let is_person = matches!(trigger.origin, Origin::Person { .. });
        let mut work = Work::default();
        // A person is there to ask again; nobody waits for an answer that "later" would be.
        let patience = if is_person { Patience::Exhausted } else { Patience::Fresh };
        work.add(trigger, self.config.mode, patience, 0);
        let mode = mode_for(trigger, self.config.mode);
        let reports = self.reconcile(work.jobs, &work.messages, &[], deadline).await;
        let failed: Vec<_> = reports.iter().filter(|report| report.result.is_err()).collect();
        if let (false, Some(why)) = (is_person, trigger.illegal.first()) {
            log_malformed(why, None);
            return Err(InvocationError { error_type: MALFORMED, message: why.to_string() });
        }
        if is_person || failed.is_empty() {
            let mut instances: Vec<Entry> = reports.iter().map(InstanceReport::entry).collect();
            for why in &trigger.illegal {
                log_malformed(why, None);
                instances.push(Entry::illegal(why));
            }
            return Ok(Answer::Report { mode: mode.as_str(), instances });
        }
        let worst = failed.iter().find(|report| report.disposition() == Some(Disposition::GiveUp));
        let worst = worst.or(failed.first()).and_then(|report| report.result.as_ref().err());
        let error_type = worst.map_or("Failed", |failure| failure.error_type());
        Err(InvocationError { error_type, message: Failures(failed).to_string() })
    }

    async fn deal_with_batch(
        &self,
        mut messages: Vec<Message>,
        deadline: Instant,
    ) -> SqsBatchResponse {
        // The oldest first: whoever was crowded out before is not crowded out again.
        messages.sort_by_key(|message| message.sent_ms);
        let ages = ages_of(&messages);
        let mut work = Work::default();
        let mut fates = vec![Fate::Done; messages.len()];
        for (index, message) in messages.iter().enumerate() {
            match &message.reading {
                Ok(Reading::Trigger(trigger)) => {
                    let patience = patience_of(message.receives, ages[index]);
                    work.add(trigger, self.config.mode, patience, index);
                    for why in &trigger.illegal {
                        log_malformed(why, Some(&message.id));
                        fates[index].add_malformed(why);
                    }
                }
                Ok(Reading::Ignored(why)) => {
                    tracing::info!(message.id = message.id, outcome = "ignored", "ignored: {why}");
                }
                Err(malformed) => {
                    log_malformed(malformed, Some(&message.id));
                    fates[index].add_malformed(malformed);
                }
            }
        }
        let remaining = deadline.saturating_duration_since(Instant::now());
        let stop_at = deadline - TIME_TO_SORT.min(remaining / 4);
        let reports = self.reconcile(work.jobs, &work.messages, &messages, stop_at);
        let reports = tokio::select! {
            biased;
            reports = reports => reports,
            () = self.keep_hidden(&messages) => Vec::new(),
        };
        for (report, indices) in reports.iter().zip(work.messages) {
            if let Some(undone) = undone(report) {
                for index in indices {
                    fates[index].add(undone.clone());
                }
            }
        }
        let given_up = self.sort(&messages, &fates, &ages, deadline).await;
        let mut response = SqsBatchResponse::default();
        for (index, (message, fate)) in messages.into_iter().zip(fates).enumerate() {
            if matches!(fate, Fate::NotDone(_)) && !given_up.contains(&index) {
                let mut failure = BatchItemFailure::default();
                failure.item_identifier = message.id;
                response.batch_item_failures.push(failure);
            }
        }
        response
    }

    /// Renews the lease on a batch's messages until it is dropped.
    async fn keep_hidden(&self, messages: &[Message]) {
        let leases: Vec<_> = messages.iter().map(|message| (message, LEASE)).collect();
        if messages.len() <= SMALL_BATCH {
            sleep(FIRST_BEAT).await;
        }
        loop {
            self.hide(&leases).await;
            sleep(LEASE_BEAT).await;
        }
    }

    /// Says of each message that is not done when it comes again, or gives it up; answers with those that are safe in the
    /// dead-letter queue.
    async fn sort(
        &self,
        messages: &[Message],
        fates: &[Fate],
        ages: &[Option<Duration>],
        deadline: Instant,
    ) -> Vec<usize> {
        let (mut again, mut letters) = (Vec::new(), Vec::new());
        for (index, (message, fate)) in messages.iter().zip(fates).enumerate() {
            let Fate::NotDone(undone) = fate else { continue };
            let Message { id, receives, .. } = message;
            let delivery = Delivery { id, receives: *receives, age: ages[index] };
            match backoff::next(undone.waits_for, delivery) {
                Next::Again(delay) => {
                    tracing::info!(
                        message.id = id,
                        message.receives = receives,
                        message.again_in_s = delay.as_secs(),
                        "comes again, since it waits for {}",
                        undone.waits_for
                    );
                    again.push((message, delay));
                }
                Next::DeadLetter => letters.push((index, undone)),
            }
        }
        let Some(dead_letter_queue) = &self.config.dead_letter_queue else {
            // The queue's own redrive policy gives up. It counts receives, so for what is hopeless they lie close.
            again.extend(letters.iter().map(|(index, undone)| {
                let hopeless = undone.waits_for == WaitsFor::Nothing;
                (&messages[*index], if hopeless { GIVEN_UP_BY_THE_QUEUE } else { backoff::LONGEST })
            }));
            self.hide_until(deadline, &again).await;
            return Vec::new();
        };
        let dead: Vec<_> = letters
            .iter()
            .map(|(index, undone)| DeadLetter {
                body: &messages[*index].body,
                message_id: &messages[*index].id,
                error_type: undone.error_type,
                error: &undone.error,
            })
            .collect();
        let give_up = timeout_at(deadline, self.aws.give_up(dead_letter_queue, &dead));
        let ((), given_up) = join(self.hide_until(deadline, &again), give_up).await;
        if given_up.is_err() {
            tracing::error!("no time to give messages up: they come again");
        }
        let results = letters.into_iter().zip(given_up.unwrap_or_default());
        let safe = results.filter_map(|((index, _), result)| match result {
            Ok(()) => {
                let id = &messages[index].id;
                tracing::info!(message.id = id, "given up: in the dead-letter queue");
                Some(index)
            }
            Err(error) => {
                let id = &messages[index].id;
                tracing::error!(
                    message.id = id,
                    "not given up, so it comes again: {}",
                    chain(&error)
                );
                None
            }
        });
        safe.collect()
    }

    async fn hide_until(&self, deadline: Instant, messages: &[(&Message, Duration)]) {
        if timeout_at(deadline, self.hide(messages)).await.is_err() {
            tracing::warn!("no time to say when messages come again: the queue's timeout decides");
        }
    }

    async fn hide(&self, messages: &[(&Message, Duration)]) {
        let mut by_queue: BTreeMap<_, Vec<Hidden<'_>>> = BTreeMap::new();
        for (message, for_time) in messages {
            // Without both the queue's timeout decides.
            if let Some((queue, receipt)) = &message.delivery {
                by_queue.entry(queue).or_default().push(Hidden { receipt, for_time: *for_time });
            }
        }
        let calls = by_queue.iter().map(async |(queue, hidden)| self.aws.hide(queue, hidden).await);
        let results = join_all(calls).await.concat();
        if let Some(error) = results.iter().find_map(|result| result.as_ref().err()) {
            let failed = results.iter().filter(|result| result.is_err()).count();
            tracing::warn!(
                "{failed} of {} messages come again when the queue's timeout is over: {}",
                results.len(),
                chain(error)
            );
        }
    }

    /// Deals with the jobs of each Region by that Region's cloud, reports in the jobs' order, and writes their lines.
    async fn reconcile(
        &self,
        jobs: Vec<Job>,
        messages_of_jobs: &[Vec<usize>],
        messages: &[Message],
        deadline: Instant,
    ) -> Vec<InstanceReport> {
        let mut by_region: HashMap<Region, Vec<(usize, Job)>> = HashMap::new();
        for (index, job) in jobs.into_iter().enumerate() {
            by_region.entry(job.instance.region.clone()).or_default().push((index, job));
        }
        let regions = by_region.into_iter().map(async |(region, jobs)| {
            let cloud = self.aws.of(&region);
            let (indices, jobs): (Vec<_>, Vec<_>) = jobs.into_iter().unzip();
            let reconciler = Reconciler {
                cloud: &cloud,
                profiles: &self.profiles,
                policy: &self.config.policy,
                pace: &self.pace,
                deadline,
            };
            indices.into_iter().zip(reconciler.run(jobs).await).collect::<Vec<_>>()
        });
        let mut reports: Vec<_> = join_all(regions).await.into_iter().flatten().collect();
        reports.sort_by_key(|(index, _)| *index);
        let finished = reports.into_iter().zip(messages_of_jobs).map(|((_, report), indices)| {
            let ids = indices.iter().filter_map(|index| messages.get(*index));
            report.log(&ids.map(|message| message.id.as_str()).collect::<Vec<_>>().join(","));
            report
        });
        finished.collect()
    }

    /// Where the function is: from its own ARN, `arn:PARTITION:lambda:REGION:ACCOUNT:function:NAME`, where that is one.
    fn caller(&self, context: &Context) -> Caller {
        let mut parts = context.invoked_function_arn.split(':').skip(3);
        let region = parts.next().and_then(|region| Region::parse(region).ok());
        let account = parts.next().and_then(|account| AccountId::parse(account).ok());
        Caller { account, region: region.or_else(|| self.config.region.clone()) }
    }
}

/// The mode that holds for a trigger: a person may ask for a dry run, and nobody for more than the setting allows.
fn mode_for(trigger: &Trigger, setting: Mode) -> Mode {
    match (setting, trigger.origin) {
        (Mode::DryRun, _) | (_, Origin::Person { dry_run: true }) => Mode::DryRun,
        (
            Mode::Enforce,
            Origin::StateChange | Origin::TagChange | Origin::Person { dry_run: false },
        ) => Mode::Enforce,
    }
}

/// Jobs and the messages each of them answers: several messages about one instance are one piece of work.
#[derive(Default)]
struct Work {
    jobs: Vec<Job>,
    messages: Vec<Vec<usize>>,
    by_instance: HashMap<(InstanceRef, bool), usize>,
}

impl Work {
    fn add(&mut self, trigger: &Trigger, mode: Mode, patience: Patience, message: usize) {
        let mode = mode_for(trigger, mode);
        for target in &trigger.targets {
            let key = (target.instance.clone(), mode == Mode::DryRun);
            let index = *self.by_instance.entry(key).or_insert_with(|| {
                self.messages.push(Vec::new());
                self.jobs.push(Job {
                    instance: target.instance.clone(),
                    announced: Tags::new(),
                    patience: Patience::Exhausted,
                    mode,
                });
                self.jobs.len() - 1
            });
            let job = &mut self.jobs[index];
            job.announced.extend(target.announced.clone());
            // One fresh message about an instance is reason enough to wait for it.
            if patience == Patience::Fresh {
                job.patience = Patience::Fresh;
            }
            if self.messages[index].last() != Some(&message) {
                self.messages[index].push(message);
            }
        }
    }
}

fn undone(report: &InstanceReport) -> Option<Undone> {
    match &report.result {
        // A person must act, and the message would change nothing.
        Ok(_) => None,
        Err(failure) => Some(Undone {
            waits_for: failure.waits_for(report.patience),
            error_type: failure.error_type(),
            error: format!("{}: {}", report.instance, chain(failure)),
        }),
    }
}

fn patience_of(receives: u32, age: Option<Duration>) -> Patience {
    let is_young = age.is_some_and(|age| age < PATIENT_FOR);
    if receives < PATIENT_RECEIVES || is_young { Patience::Fresh } else { Patience::Exhausted }
}

/// How long ago each message was sent; nothing, where the queue does not say so, or says what cannot be.
#[expect(clippy::disallowed_methods, reason = "SQS's times are wall-clock times")]
fn ages_of(messages: &[Message]) -> Vec<Option<Duration>> {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let age = |sent_ms| {
        now.checked_sub(Duration::from_millis(sent_ms)).filter(|age| *age <= LONGEST_RETENTION)
    };
    messages.iter().map(|message| message.sent_ms.and_then(age)).collect()
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
