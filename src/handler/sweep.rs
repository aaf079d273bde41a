//! The handler's side of a sweep: what is wrong goes to the queue, what is not done in time goes on in another invocation.

use std::time::Duration;

use serde::Serialize;
use tokio::time::{Instant, timeout_at};

use crate::backoff::WaitsFor;
use crate::bus::{Bus, Notice, Totals};
use crate::census::{Census, Progress, Standing, SweepRequest};
use crate::cloud::{CloudError, Clouds, ErrorKind};
use crate::config::Mode;
use crate::event::{Caller, Message, invocation};
use crate::failure::{Failure, chain};
use crate::handler::{Handler, since_1970};
use crate::queue::{Outgoing, Queues};
use crate::report::{Entry, InstanceReport};
use crate::sweep::{PageReport, Sweep, entry};

/// A page is begun only with this much time ahead: a thousand instances take EC2 seconds, and the smallest function two.
const PAGE_NEEDS: Duration = Duration::from_secs(15);
/// Up to this receive a sweep comes again for what it could not decide about; from then on it passes over it, and counts
/// it as failed.
const STRICT_RECEIVES: u32 = 2;
/// A sweep that goes on for longer is given up: it must not run side by side with all that come after it.
const LONGEST: Duration = Duration::from_hours(6);
/// Kept back to hand over to another invocation.
const TIME_TO_HAND_OVER: Duration = Duration::from_secs(3);
/// Instances that an answer names; Lambda's answers hold 6 MB.
const ENOUGH: usize = 1000;

/// How a sweep, or its part in this invocation, ended.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Swept {
    mode: &'static str,
    sweep: Outcome,
    /// The instances that are not right, a thousand at most.
    instances: Vec<Entry>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct Outcome {
    /// Whether every instance was seen. Otherwise another invocation goes on, and its log has the end.
    completed: bool,
    /// Messages put on the queue by this invocation, one for each instance to be changed.
    queued: usize,
    parts: u32,
    #[serde(flatten)]
    totals: serde_json::Value,
}

/// Why a sweep did not get on.
#[derive(Debug, thiserror::Error)]
pub enum SweepError {
    /// A list could not be read, or an instance not be decided about.
    #[error("the sweep stopped")]
    Look(#[source] Failure),
    /// What is wrong could not be put on the queue.
    #[error("the sweep could not put what it found on the queue")]
    Queue(#[source] crate::queue::QueueError),
    /// There is no queue to put it on.
    #[error(
        "a sweep that is to change anything needs QUEUE_URL, the URL of the queue that this function reads from"
    )]
    NoQueue,
    /// Nobody knows where to sweep.
    #[error("a sweep needs a Region (AWS_REGION is not set)")]
    NoRegion,
}

impl SweepError {
    /// The error's type in a stable word.
    #[must_use]
    pub fn error_type(&self) -> &'static str {
        match self {
            Self::Look(failure) => failure.error_type(),
            Self::Queue(_) => "Transient",
            Self::NoQueue | Self::NoRegion => "Misconfigured",
        }
    }
}

impl<A: Clouds + Queues + Bus> Handler<A> {
    /// Sweeps until all is seen or the time is up.
    ///
    /// # Errors
    /// [`SweepError`]. What was found until then is on the queue, and is found again; that does no harm.
    pub(super) async fn sweep(
        &self,
        request: &SweepRequest,
        message: Option<&Message>,
        caller: &Caller,
        deadline: Instant,
    ) -> Result<Swept, SweepError> {
        let mode = if request.dry_run { Mode::DryRun } else { self.config.mode };
        let message_id = message.map_or("", |message| message.id.as_str());
        if mode == Mode::Enforce && self.config.queue.is_none() {
            return Err(SweepError::NoQueue);
        }
        let region = caller.region.as_ref().ok_or(SweepError::NoRegion)?;
        let cloud = self.aws.of(region);
        let now = since_1970();
        let sweep = Sweep {
            cloud: &cloud,
            profiles: &self.profiles,
            policy: &self.config.policy,
            region,
            account: caller.account.as_ref(),
            now_ns: i128::try_from(now.as_nanos()).unwrap_or(i128::MAX),
        };
        let mut progress = request.progress.clone();
        let mut part = Part { mode, message_id, instances: Vec::new(), queued: 0 };
        let begun = Duration::from_millis(progress.begun_ms);
        if progress.begun_ms > 0 && now.saturating_sub(begun) > LONGEST {
            tracing::error!(
                message.id = message_id,
                outcome = "sweep",
                "the sweep is given up after {} hours: the next one begins anew",
                LONGEST.as_secs() / 3600
            );
            return Ok(part.end(false, &progress));
        }
        if progress.begun_ms == 0 {
            progress.begun_ms = u64::try_from(now.as_millis()).unwrap_or_default();
        }
        progress.parts += 1;
        let read_ahead_until = deadline.checked_sub(PAGE_NEEDS).unwrap_or(deadline);
        let begin = sweep.begin(&request.filters, progress.next.as_deref(), read_ahead_until);
        let mut pages = match timeout_at(deadline, begin).await {
            Ok(pages) => pages.map_err(|error| SweepError::Look(Failure::Cloud(error)))?,
            Err(_) => return Err(SweepError::Look(Failure::OutOfTime)),
        };
        let is_strict = message.is_none_or(|message| message.receives <= STRICT_RECEIVES);
        let hand_over_at = deadline.checked_sub(TIME_TO_HAND_OVER).unwrap_or(deadline);
        let mut pages_seen = 0;
        let completed = loop {
            let is_late = deadline.saturating_duration_since(Instant::now()) < PAGE_NEEDS;
            if pages_seen > 0 && is_late {
                break false;
            }
            let looked = match timeout_at(hand_over_at, pages.next(hand_over_at)).await {
                Ok(Ok(None)) => break true,
                Ok(Ok(Some(page))) if is_strict => settled(page),
                Ok(Ok(Some(page))) => Ok(page),
                Ok(Err(error)) => Err(Failure::Cloud(error)),
                Err(_) => Err(Failure::OutOfTime),
            };
            let page = match looked {
                Ok(page) => page,
                // A page's token does not live for ever.
                Err(Failure::Cloud(CloudError { kind: ErrorKind::Rejected, .. }))
                    if pages_seen == 0 && request.progress.next.is_some() =>
                {
                    tracing::warn!(
                        message.id = message_id,
                        "EC2 refuses to go on: the sweep begins anew"
                    );
                    let (parts, begun_ms) = (progress.parts, progress.begun_ms);
                    let progress = Progress { parts, begun_ms, ..Progress::default() };
                    let anew = SweepRequest { progress, ..request.clone() };
                    return Box::pin(self.sweep(&anew, message, caller, deadline)).await;
                }
                // What was seen until here need not be seen again.
                Err(failure) if pages_seen > 0 => {
                    tracing::warn!(message.id = message_id, "a page is left: {}", chain(&failure));
                    break false;
                }
                Err(failure) => return Err(SweepError::Look(failure)),
            };
            let census = &mut progress.census;
            match self.deal_with_page(&page, &mut part, census, hand_over_at).await {
                Ok(()) => {}
                Err(why) if pages_seen > 0 => {
                    tracing::warn!(message.id = message_id, "a page is left: {}", chain(&why));
                    break false;
                }
                Err(why) => return Err(why),
            }
            pages_seen += 1;
            progress.next = page.next;
            if progress.next.is_none() {
                break true;
            }
        };
        if completed {
            self.complete(request, &progress, mode, deadline).await;
        } else if self.config.queue.is_some() {
            self.go_on(request, &progress, message_id, deadline).await?;
        }
        Ok(part.end(completed, &progress))
    }

    /// Leaves what is left to another invocation.
    async fn go_on(
        &self,
        request: &SweepRequest,
        progress: &Progress,
        message_id: &str,
        deadline: Instant,
    ) -> Result<(), SweepError> {
        let go_on = SweepRequest { progress: progress.clone(), ..request.clone() };
        self.put_on_the_queue(&[invocation::message_to_go_on(&go_on)], deadline).await?;
        tracing::info!(
            message.id = message_id,
            outcome = "sweep",
            "the sweep has seen {} instances and goes on in another invocation",
            progress.census.instances
        );
        Ok(())
    }

    async fn deal_with_page(
        &self,
        page: &PageReport,
        part: &mut Part<'_>,
        census: &mut Census,
        deadline: Instant,
    ) -> Result<(), SweepError> {
        let is_wrong = |report: &&InstanceReport| report.standing() == Standing::Change;
        if part.mode == Mode::Enforce {
            let wrong = page.reports.iter().filter(is_wrong);
            let bodies: Vec<_> =
                wrong.map(|report| invocation::message_about(&report.instance.id)).collect();
            self.put_on_the_queue(&bodies, deadline).await?;
            part.queued += bodies.len();
        }
        for report in &page.reports {
            census.count(entry(report, report.launch_source().as_deref()));
            let standing = report.standing();
            let is_news = match standing {
                Standing::Blocked | Standing::Failed => true,
                // What is on the queue has its line when it is done.
                Standing::Change => part.mode == Mode::DryRun,
                Standing::Right | Standing::Left | Standing::Waiting => report.is_stuck,
            };
            if is_news {
                report.log(part.message_id);
            }
            let is_right = matches!(standing, Standing::Right | Standing::Left) && !report.is_stuck;
            if part.message_id.is_empty() && !is_right && part.instances.len() < ENOUGH {
                part.instances.push(report.entry());
            }
        }
        Ok(())
    }

    async fn put_on_the_queue(
        &self,
        bodies: &[String],
        deadline: Instant,
    ) -> Result<(), SweepError> {
        if bodies.is_empty() {
            return Ok(());
        }
        let queue = self.config.queue.as_deref().ok_or(SweepError::NoQueue)?;
        let messages: Vec<_> = bodies.iter().cloned().map(Outgoing::at_once).collect();
        let Ok(sent) = timeout_at(deadline, self.aws.send(queue, &messages)).await else {
            return Err(SweepError::Look(Failure::OutOfTime));
        };
        sent.into_iter().collect::<Result<(), _>>().map_err(SweepError::Queue)
    }

    /// Says what a sweep saw, once it saw everything.
    async fn complete(
        &self,
        request: &SweepRequest,
        progress: &Progress,
        mode: Mode,
        deadline: Instant,
    ) {
        let census = &progress.census;
        let begun = Duration::from_millis(progress.begun_ms);
        let duration_s = since_1970().saturating_sub(begun).as_secs();
        let number = |by: &std::collections::BTreeMap<String, u64>| by.values().sum::<u64>();
        let bare_sources = serde_json::to_string(&census.ranking()).unwrap_or_default();
        tracing::info!(
            outcome = "sweep",
            sweep.instances = census.instances,
            sweep.right = census.right,
            sweep.wrong = census.wrong,
            sweep.waiting = census.waiting,
            sweep.blocked = number(&census.blocked),
            sweep.left = number(&census.left),
            sweep.failed = number(&census.failed),
            sweep.stuck = census.stuck,
            sweep.parts = progress.parts,
            sweep.duration_s = duration_s,
            sweep.bare_sources = bare_sources,
            "sweep completed: {} instances, {} right, {} to be changed, {} blocked, {} failed, {} stuck",
            census.instances,
            census.right,
            census.wrong,
            number(&census.blocked),
            number(&census.failed),
            census.stuck
        );
        // A part of the fleet says nothing about the whole.
        if request.filters.is_empty() {
            self.record(|tally| tally.sweep(census));
        }
        let notice = Notice::of_sweep(request, census, mode.as_str(), duration_s);
        self.tell(&[notice], deadline).await;
    }
}

/// One invocation's part of a sweep.
struct Part<'a> {
    mode: Mode,
    /// The message that asks for it; empty, where somebody waits for the answer.
    message_id: &'a str,
    instances: Vec<Entry>,
    queued: usize,
}

impl Part<'_> {
    fn end(self, completed: bool, progress: &Progress) -> Swept {
        let totals = serde_json::to_value(Totals::from(&progress.census)).unwrap_or_default();
        let sweep = Outcome { completed, queued: self.queued, parts: progress.parts, totals };
        Swept { mode: self.mode.as_str(), sweep, instances: self.instances }
    }
}

/// A page of which each instance is decided about; or a failure that time may heal, for which the whole page is worth
/// another try.
fn settled(mut page: PageReport) -> Result<PageReport, Failure> {
    let may_heal = |report: &InstanceReport| {
        report.result.as_ref().is_err_and(|failure| match failure.waits_for(report.patience) {
            WaitsFor::Turn | WaitsFor::Rate | WaitsFor::Calm => true,
            WaitsFor::Repair
            | WaitsFor::Creation
            | WaitsFor::Cooldown
            | WaitsFor::Verification
            | WaitsFor::Right
            | WaitsFor::Nothing => false,
        })
    };
    match page.reports.iter().position(may_heal) {
        Some(place) => {
            Err(page.reports.swap_remove(place).result.err().unwrap_or(Failure::OutOfTime))
        }
        None => Ok(page),
    }
}
