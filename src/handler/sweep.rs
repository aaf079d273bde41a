//! The handler's side of a sweep: what is wrong goes to the queue, what was seen into log, metrics, event and answer.
//!
//! A sweep runs whole, in one invocation. It leaves nothing behind but messages about instances, each of which has its
//! instance looked at again, so one that is cut short, repeated or beside another does no harm.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;
use tokio::time::{Instant, sleep, timeout_at};

use crate::bus::{Bus, Notice, Totals};
use crate::census::{AskedBy, Census, Standing, SweepRequest};
use crate::cloud::{Clouds, ROWS_PER_PAGE};
use crate::config::Mode;
use crate::event::{Caller, invocation};
use crate::failure::{Failure, chain};
use crate::handler::{Handler, MAX_ENTRIES, now_ns};
use crate::metrics::Metric;
use crate::queue::{Outgoing, QueueError, Queues};
use crate::report::{Entry, InstanceReport};
use crate::sweep::{PageReport, Pauses, Retries, Sweep, entry};

/// Kept back to put the last page's findings on the queue and to say how the sweep ended; of a short sweep a quarter.
const TIME_TO_END: Duration = Duration::from_secs(5);
/// Tries of putting findings on the queue: half a minute with their pauses. SQS is asked three times in each.
const MAX_SEND_TRIES: u32 = 6;
/// What an instance of a page may take while EC2's answer is read: 80 kB of XML, which is one with hundreds of addresses, in
/// four forms: as it arrives, as one piece, as text, and as what it says.
const MEMORY_PER_ROW: u64 = 320_000;
/// What the function takes besides: itself, and the ids of half a million instances.
const MEMORY_BESIDES: u64 = 64_000_000;

/// How a sweep ended.
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
    /// Whether every instance was seen.
    completed: bool,
    /// Why not.
    #[serde(skip_serializing_if = "Option::is_none")]
    incomplete_because: Option<String>,
    /// Messages put on the queue, one for each instance to be changed.
    queued: usize,
    #[serde(flatten)]
    totals: serde_json::Value,
}

/// Why a sweep could not be made.
#[derive(Debug, thiserror::Error)]
pub enum SweepError {
    /// A list could not be read.
    #[error("the sweep stopped")]
    Look(#[source] Failure),
    /// What is wrong could not be put on the queue.
    #[error("the sweep could not put what it found on the queue")]
    Queue(#[source] QueueError),
    /// There is no queue to put it on.
    #[error(
        "a sweep that is to change anything needs QUEUE_URL, the URL of the queue that the function for events reads from"
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

/// A sweep under way.
struct Run<'a> {
    request: &'a SweepRequest,
    mode: Mode,
    began: Instant,
    census: Census,
    queued: usize,
    instances: Vec<Entry>,
}

impl<A: Clouds + Queues + Bus> Handler<A> {
    /// Sweeps until all is seen or the time is up.
    ///
    /// # Errors
    /// [`SweepError`], where nothing could be seen at all, where EC2 refuses a list, or where the queue does not take what
    /// was found. What was found until then is on the queue, and is found again by the next try; that does no harm.
    pub(super) async fn sweep(
        &self,
        request: &SweepRequest,
        caller: &Caller,
        deadline: Instant,
    ) -> Result<Swept, SweepError> {
        let mode = if request.dry_run { Mode::DryRun } else { self.config.mode };
        if mode == Mode::Enforce && self.config.queue.is_none() {
            return Err(SweepError::NoQueue);
        }
        let region = caller.region.as_ref().ok_or(SweepError::NoRegion)?;
        let cloud = self.aws.of(region);
        let sweep = Sweep {
            cloud: &cloud,
            profiles: &self.profiles,
            policy: &self.config.policy,
            region,
            account: caller.account.as_ref(),
            now_ns: now_ns(),
            max_rows: max_rows(self.config.memory_mb),
            retries: Retries::WhileTimeRemains,
        };
        let began = Instant::now();
        let left = deadline.saturating_duration_since(began);
        let stop_at = deadline - TIME_TO_END.min(left / 4);
        let mut run = Run {
            request,
            mode,
            began,
            census: Census::default(),
            queued: 0,
            instances: Vec::new(),
        };
        let mut pages = sweep.begin(&request.filters, stop_at).await;
        let interrupted = loop {
            let page = match timeout_at(stop_at, pages.next(stop_at)).await {
                Ok(Ok(Some(page))) => page,
                Ok(Ok(None)) => break None,
                // It was tried again as long as there was time.
                Ok(Err(error)) if error.kind.may_heal() => break Some(Failure::Cloud(error)),
                Ok(Err(error)) => return Err(SweepError::Look(Failure::Cloud(error))),
                Err(_) => break Some(Failure::OutOfTime),
            };
            self.process_page(&page, &mut run, deadline).await?;
            if page.undecided > 0 {
                break Some(Failure::OutOfTime);
            }
        };
        match interrupted {
            None => self.complete(&run, deadline).await,
            Some(why) if run.census.instances == 0 => return Err(SweepError::Look(why)),
            Some(why) => return Ok(self.end_incomplete(run, &why)),
        }
        Ok(run.end(None))
    }

    async fn process_page(
        &self,
        page: &PageReport,
        run: &mut Run<'_>,
        deadline: Instant,
    ) -> Result<(), SweepError> {
        if run.mode == Mode::Enforce {
            let is_wrong = |report: &&InstanceReport| report.standing() == Standing::Change;
            let wrong = page.reports.iter().filter(is_wrong);
            let messages: Vec<_> =
                wrong.map(|report| invocation::message_about(&report.instance.id)).collect();
            run.queued += messages.len();
            self.put_on_the_queue(messages, deadline).await?;
            // What is to be looked at again in five minutes. If it gets lost, the next sweep finds it again.
            self.follow_up(&page.reports, deadline).await;
        }
        for report in &page.reports {
            run.count(report);
        }
        Ok(())
    }

    /// Puts messages on the queue, again and again where it does not take them.
    async fn put_on_the_queue(
        &self,
        mut messages: Vec<Outgoing>,
        deadline: Instant,
    ) -> Result<(), SweepError> {
        let Some(queue) = self.config.queue.as_deref().filter(|_| !messages.is_empty()) else {
            return Ok(());
        };
        let mut pauses = Pauses::default();
        let mut tries = 1;
        loop {
            let sent = timeout_at(deadline, self.aws.send(queue, &messages)).await;
            let no_answer = QueueError::new("SendMessage", None, "no answer in time");
            let sent = sent.unwrap_or_else(|_| vec![Err(no_answer); messages.len()]);
            let Some(error) = sent.iter().find_map(|result| result.as_ref().err()).cloned() else {
                return Ok(());
            };
            let pause = pauses.advance();
            if tries == MAX_SEND_TRIES || Instant::now() + pause >= deadline {
                return Err(SweepError::Queue(error));
            }
            let left = messages.into_iter().zip(&sent).filter(|(_, result)| result.is_err());
            messages = left.map(|(message, _)| message).collect();
            let number = messages.len();
            tracing::warn!("{number} findings are sent to the queue again: {}", chain(&error));
            tries += 1;
            sleep(pause).await;
        }
    }

    /// Says what a sweep saw, once it saw everything.
    async fn complete(&self, run: &Run<'_>, deadline: Instant) {
        let Run { request, mode, census, .. } = run;
        let duration_s = run.began.elapsed().as_secs();
        run.log(duration_s, None);
        if self.counts(run) {
            self.record(|tally| {
                tally.sweep(census);
                tally.add(Metric::SweepIncomplete, 0);
            });
        }
        let notice = Notice::of_sweep(request, census, mode.as_str(), duration_s);
        self.tell(&[notice], deadline).await;
    }

    /// Says how far a sweep came whose time is up.
    fn end_incomplete(&self, run: Run<'_>, why: &Failure) -> Swept {
        run.log(run.began.elapsed().as_secs(), Some(why));
        if self.counts(&run) {
            self.record(|tally| tally.add(Metric::SweepIncomplete, 1));
        }
        run.end(Some(why))
    }

    /// Whether a sweep says where the fleet stands: neither a part of it, nor a person's trial, does.
    fn counts(&self, run: &Run<'_>) -> bool {
        run.request.asked_by == AskedBy::Schedule
            && run.request.filters.is_empty()
            && run.mode == self.config.mode
    }
}

impl Run<'_> {
    fn count(&mut self, report: &InstanceReport) {
        self.census.count(entry(report, report.launch_source().as_deref()));
        let standing = report.standing();
        let is_news = match standing {
            Standing::Blocked | Standing::Failed => true,
            // What is on the queue has its line when it is done.
            Standing::Change => self.mode == Mode::DryRun,
            Standing::Right | Standing::Left | Standing::Waiting => report.is_stuck,
        };
        if is_news {
            report.log("");
        }
        let is_right = matches!(standing, Standing::Right | Standing::Left) && !report.is_stuck;
        if !is_right && self.instances.len() < MAX_ENTRIES {
            self.instances.push(report.entry());
        }
    }

    /// Writes the line that sums up the sweep; at ERROR, where it could not be brought to its end.
    fn log(&self, duration_s: u64, incomplete_because: Option<&Failure>) {
        let Census { instances, right, wrong, waiting, stuck, blocked, left, failed, .. } =
            &self.census;
        let number = |by: &BTreeMap<String, u64>| by.values().sum::<u64>();
        let (blocked, left, failed) = (number(blocked), number(left), number(failed));
        let bare_sources = serde_json::to_string(&self.census.ranking()).unwrap_or_default();
        let figures = format!(
            "{instances} instances, of them {right} right ({stuck} of these stuck), {wrong} to be changed, \
             {blocked} blocked, {left} left as they are, {waiting} waiting, {failed} failed"
        );
        let message = match incomplete_because {
            None => format!("sweep completed: {figures}"),
            Some(why) => {
                format!("sweep not completed: its time is up after {figures}: {}", chain(why))
            }
        };
        // tracing takes a level only as a constant.
        macro_rules! line {
            ($level:expr) => {
                tracing::event!(
                    $level,
                    outcome = "sweep",
                    sweep.asked_by = self.request.asked_by.as_str(),
                    sweep.mode = self.mode.as_str(),
                    sweep.completed = incomplete_because.is_none(),
                    sweep.instances = instances,
                    sweep.right = right,
                    sweep.wrong = wrong,
                    sweep.waiting = waiting,
                    sweep.blocked = blocked,
                    sweep.left = left,
                    sweep.failed = failed,
                    sweep.stuck = stuck,
                    sweep.queued = self.queued,
                    sweep.duration_s = duration_s,
                    sweep.bare_sources = bare_sources,
                    "{message}"
                )
            };
        }
        if incomplete_because.is_some() {
            line!(tracing::Level::ERROR);
        } else {
            line!(tracing::Level::INFO);
        }
    }

    fn end(self, incomplete_because: Option<&Failure>) -> Swept {
        let totals = serde_json::to_value(Totals::from(&self.census)).unwrap_or_default();
        let sweep = Outcome {
            completed: incomplete_because.is_none(),
            incomplete_because: incomplete_because.map(|why| chain(why)),
            queued: self.queued,
            totals,
        };
        Swept { mode: self.mode.as_str(), sweep, instances: self.instances }
    }
}

/// The most instances that a page may have in a function of this memory: all that EC2 gives from 384 MB on.
fn max_rows(memory_mb: Option<u64>) -> usize {
    let Some(memory) = memory_mb.map(|mb| mb << 20) else { return *ROWS_PER_PAGE.end() };
    let rows = memory.saturating_sub(MEMORY_BESIDES) / MEMORY_PER_ROW;
    let rows = usize::try_from(rows).unwrap_or(usize::MAX);
    rows.clamp(*ROWS_PER_PAGE.start(), *ROWS_PER_PAGE.end())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heavy_pages_fit_the_functions_memory() {
        let rows = [None, Some(128), Some(256), Some(384), Some(512), Some(3008), Some(0)];
        assert_eq!(rows.map(max_rows), [1000, 219, 638, 1000, 1000, 1000, 5]);
    }
}
