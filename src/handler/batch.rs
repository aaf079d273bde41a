//! A batch of messages: each is read, dealt with once an instance, followed up, and given back to its queue or not.

use std::time::Duration;

use aws_lambda_events::event::sqs::{BatchItemFailure, SqsBatchResponse};
use futures_util::future::join;
use tokio::time::{Instant, timeout_at};

use crate::backoff::WaitsFor;
use crate::bus::Bus;
use crate::cloud::Clouds;
use crate::config::Mode;
use crate::decide::Patience;
use crate::event::follow_up::message_to_verify;
use crate::event::{Message, Reading};
use crate::failure::{Disposition, chain};
use crate::handler::work::{Task, Work};
use crate::handler::{Handler, LONGEST_RETENTION, TIME_TO_SORT, count, log_malformed, since_1970};
use crate::metrics::Metric;
use crate::queue::Queues;
use crate::redelivery::{Fate, Redelivery, Undone};
use crate::report::{InstanceReport, Outcome};
use crate::verification::{After, Due};

/// What is not there yet is taken to be no more from this delivery on …
const PATIENT_RECEIVES: u32 = 3;
/// … and this long after its message was sent: a new instance profile has been seen to take over two and a half minutes.
const PATIENT_FOR: Duration = Duration::from_mins(3);

/// One message of a batch, and what became of it.
struct Item {
    message: Message,
    /// How long ago it was sent, where the queue says so.
    age: Option<Duration>,
    /// Why it is not done; nothing, as long as it is.
    undone: Option<Undone>,
    /// How long until a verification looks once more, if all is well now.
    looks_again_in: Option<Duration>,
}

impl<A: Clouds + Queues + Bus> Handler<A> {
    pub(super) async fn process_batch(
        &self,
        messages: Vec<Message>,
        deadline: Instant,
    ) -> SqsBatchResponse {
        let mut items: Vec<_> = messages.into_iter().map(Item::new).collect();
        // The oldest first: whoever was crowded out before is not crowded out again.
        items.sort_by_key(|item| item.message.sent_ms);
        let work = self.read_items(&mut items);
        let remaining = deadline.saturating_duration_since(Instant::now());
        let stop_at = deadline - TIME_TO_SORT.min(remaining / 4);
        let messages: Vec<&Message> = items.iter().map(|item| &item.message).collect();
        let redelivery = Redelivery {
            queues: &self.aws,
            dead_letter_queue: self.config.dead_letter_queue.as_deref(),
            messages: &messages,
        };
        let mut reports = tokio::select! {
            biased;
            reports = self.reconcile(&work.tasks, stop_at) => reports,
            never = redelivery.keep_hidden() => match never {},
        };
        let is_followed = self.follow_up(&reports, deadline).await;
        let outcomes = work.tasks.iter().zip(&reports).zip(&is_followed);
        let undone: Vec<_> = outcomes
            .flat_map(|((task, report), followed)| undone_by(task, report, *followed, &items))
            .collect();
        let ages: Vec<_> = items.iter().map(|item| item.age).collect();
        let mut reasons: Vec<_> = items.iter().map(|item| item.undone.clone()).collect();
        for (index, why) in undone {
            why.add_to(&mut reasons[index]);
        }
        let fates = redelivery.fates(&reasons, &ages);
        for (task, report) in work.tasks.iter().zip(&mut reports) {
            report.disposition = disposition(task, &fates);
            let ids = task.messages.iter().map(|index| items[*index].message.id.as_str());
            report.log(&ids.collect::<Vec<_>>().join(","));
        }
        self.record(|tally| {
            count(tally, &reports, work.tasks.iter().map(|task| task.event_ms));
            if let Some(age) = items.iter().filter_map(Item::waiting_time).max() {
                tally.oldest(age);
            }
        });
        let sort = redelivery.sort(&fates, &reasons, deadline);
        let (done, ()) = join(sort, self.tell_about(&reports, deadline)).await;
        let failures = reasons.iter().enumerate().filter(|(_, why)| why.is_some());
        let failures = failures.filter(|(index, _)| !done.contains(index));
        let mut response = SqsBatchResponse::default();
        response.batch_item_failures = failures
            .map(|(index, _)| {
                let mut failure = BatchItemFailure::default();
                failure.item_identifier.clone_from(&items[index].message.id);
                failure
            })
            .collect();
        response
    }

    /// What the messages ask for; those that cannot be read, or that come too early, are not done.
    fn read_items(&self, items: &mut [Item]) -> Work {
        let mut work = Work::default();
        let mode = self.config.mode;
        for (index, item) in items.iter_mut().enumerate() {
            let Item { message, age, undone, looks_again_in } = item;
            let patience = patience_of(message.receives, *age);
            match &message.reading {
                Ok(Reading::Trigger(trigger)) => {
                    work.add(trigger, mode, patience, index);
                    for why in &trigger.illegal {
                        log_malformed(why, Some(&message.id));
                        Undone::malformed(why).add_to(undone);
                    }
                }
                Ok(Reading::FinishSwap(detached)) => {
                    work.add_swap(detached, mode, patience, index);
                }
                Ok(Reading::Verify(verification)) => {
                    let mut verification = verification.clone();
                    match verification.due(*age, message.receives) {
                        Due::Now { then } => {
                            if verification.after == After::Flapping {
                                self.flapping.forget(&verification.instance);
                            }
                            verification.history = verification.history_at(*age);
                            self.flapping.learn(&verification.instance, &verification.history);
                            work.add_verification(&verification, mode, index);
                            *looks_again_in = then;
                        }
                        Due::In(left) => {
                            self.flapping.learn(&verification.instance, &verification.history);
                            self.flapping.cool_down(&verification.instance, left);
                            Undone::waiting(WaitsFor::Cooldown, left).add_to(undone);
                        }
                    }
                }
                Ok(Reading::Sweep(_)) => {
                    let why = SweepInABatch;
                    log_malformed(&why, Some(&message.id));
                    Undone::malformed(&why).add_to(undone);
                }
                Ok(Reading::Ignored(why)) => {
                    tracing::info!(message.id = message.id, outcome = "ignored", "ignored: {why}");
                }
                Err(malformed) => {
                    log_malformed(malformed, Some(&message.id));
                    Undone::malformed(malformed).add_to(undone);
                }
            }
        }
        work
    }

    /// Puts on the queue what is to be looked at again; says of each report whether that is done, or nothing was to be.
    pub(super) async fn follow_up(
        &self,
        reports: &[InstanceReport],
        deadline: Instant,
    ) -> Vec<bool> {
        let mut followed = vec![true; reports.len()];
        let due = reports.iter().enumerate();
        let (indices, messages): (Vec<_>, Vec<_>) = due
            .filter_map(|(index, report)| {
                Some((index, message_to_verify(report.follow_up.as_ref()?)))
            })
            .unzip();
        let (Some(queue), Mode::Enforce, false) =
            (&self.config.queue, self.config.mode, messages.is_empty())
        else {
            for index in indices {
                followed[index] = false;
            }
            return followed;
        };
        let sent = timeout_at(deadline, self.aws.send(queue, &messages)).await;
        let results = sent.unwrap_or_default();
        let mut failed = 0;
        for (place, index) in indices.iter().enumerate() {
            followed[*index] = matches!(results.get(place), Some(Ok(())));
            failed += u64::from(!followed[*index]);
        }
        if failed > 0 {
            let why = results.iter().find_map(|result| result.as_ref().err());
            let why = why.map_or("no answer in time".to_owned(), |error| chain(error));
            tracing::warn!(
                "{failed} of {} looks that were to follow a change are not on the queue: {why}",
                messages.len()
            );
            self.record(|tally| tally.add(Metric::FollowUpsLost, failed));
        }
        followed
    }
}

impl Item {
    fn new(message: Message) -> Self {
        let age = message.sent_ms.and_then(age_of);
        Self { message, age, undone: None, looks_again_in: None }
    }

    /// How long the message has waited to be dealt with. A verification waits because it is meant to.
    fn waiting_time(&self) -> Option<Duration> {
        match &self.message.reading {
            Ok(Reading::Verify(_)) => None,
            Ok(
                Reading::Trigger(_)
                | Reading::FinishSwap(_)
                | Reading::Sweep(_)
                | Reading::Ignored(_),
            )
            | Err(_) => self.age,
        }
    }
}

/// Why the messages of a task are not done, by their indices.
fn undone_by<'a>(
    task: &'a Task,
    report: &'a InstanceReport,
    is_followed: bool,
    items: &'a [Item],
) -> impl Iterator<Item = (usize, Undone)> + 'a {
    task.messages.iter().filter_map(move |index| {
        let item = &items[*index];
        let is_verification = matches!(item.message.reading, Ok(Reading::Verify(_)));
        let has_successor = is_verification && report.follow_up.is_some() && is_followed;
        let undone = match &report.result {
            // Another verification takes its place.
            _ if has_successor => None,
            Ok(Outcome::Kept) => {
                item.looks_again_in.map(|in_time| Undone::waiting(WaitsFor::Verification, in_time))
            }
            Ok(_) => None,
            Err(_) => Undone::by(report),
        };
        Some((*index, undone?))
    })
}

/// What becomes of a task's messages: nothing, where all of them are done.
fn disposition(task: &Task, fates: &[Fate]) -> Option<Disposition> {
    let fates = task.messages.iter().map(|index| fates[*index]);
    fates
        .filter_map(|fate| match fate {
            Fate::Done | Fate::FoundAgain => None,
            Fate::Again(_) => Some(Disposition::ComeAgain),
            Fate::DeadLetter => Some(Disposition::GiveUp),
        })
        .min()
}

/// A sweep would hold back the batch's other messages for minutes.
#[derive(Debug, thiserror::Error)]
#[error(
    "a sweep is not taken from a queue; invoke the sweep function with {{\"sweep\": {{}}}} directly, or by a schedule"
)]
struct SweepInABatch;

fn patience_of(receives: u32, age: Option<Duration>) -> Patience {
    let is_young = age.is_some_and(|age| age < PATIENT_FOR);
    if receives < PATIENT_RECEIVES || is_young { Patience::Fresh } else { Patience::Exhausted }
}

/// How long ago a message was sent; nothing, where the queue says what cannot be.
fn age_of(sent_ms: u64) -> Option<Duration> {
    let age = since_1970().checked_sub(Duration::from_millis(sent_ms));
    age.filter(|age| *age <= LONGEST_RETENTION)
}
