//! What becomes of a batch's messages at their queue: hidden while they are worked on, seen again when their cause says, or
//! given up with the reason.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::error::Error;
use std::time::Duration;

use futures_util::future::{join, join_all};
use tokio::time::{Instant, sleep, timeout_at};

use crate::backoff::{self, Delivery, Next, WaitsFor};
use crate::event::{Message, Origin, Reading, Trigger};
use crate::failure::{MALFORMED, chain};
use crate::queue::{DeadLetter, Hidden, Queues};
use crate::report::InstanceReport;

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

/// Why a message is not done. Of several reasons the most hopeful counts: as long as a part of a message may yet be done,
/// it comes again, and is given up only for what is left.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Undone {
    waits_for: WaitsFor,
    /// How long, where that is known.
    after: Option<Duration>,
    error_type: &'static str,
    error: String,
}

impl Undone {
    /// Why the messages about this instance are not done; nothing, where they are.
    #[must_use]
    pub fn by(report: &InstanceReport) -> Option<Self> {
        let failure = report.result.as_ref().err()?;
        Some(Self {
            waits_for: failure.waits_for(report.patience),
            after: failure.retry_after(),
            error_type: failure.error_type(),
            error: format!("{}: {}", report.instance, chain(failure)),
        })
    }

    /// A message that comes too early: it waits for this long, and nothing is wrong.
    #[must_use]
    pub fn waiting(waits_for: WaitsFor, after: Duration) -> Self {
        Self { waits_for, after: Some(after), error_type: "", error: String::new() }
    }

    /// A message, or a part of one, that cannot be read.
    #[must_use]
    pub fn malformed(why: &dyn Error) -> Self {
        Self { waits_for: WaitsFor::Nothing, after: None, error_type: MALFORMED, error: chain(why) }
    }

    /// Adds a reason to those of a message, of which the most hopeful stays.
    pub fn add_to(self, reasons: &mut Option<Self>) {
        *reasons = Some(match reasons.take() {
            Some(other) => other.min(self),
            None => self,
        });
    }
}

/// A batch's way back to its queue.
#[derive(Debug)]
pub struct Redelivery<'a, Q> {
    /// The queues.
    pub queues: &'a Q,
    /// Where what is given up goes; without one, the queue's own redrive policy gives up.
    pub dead_letter_queue: Option<&'a str>,
    /// The batch.
    pub messages: &'a [&'a Message],
}

/// What becomes of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It is done.
    Done,
    /// It is not done, and the next sweep makes another one of it.
    FoundAgain,
    /// It comes again after this long.
    Again(Duration),
    /// It goes to the dead-letter queue.
    DeadLetter,
}

impl<Q: Queues> Redelivery<'_, Q> {
    /// Renews the lease on the messages until it is dropped.
    pub async fn keep_hidden(&self) -> Infallible {
        let leases: Vec<_> = self.messages.iter().map(|message| (*message, LEASE)).collect();
        if self.messages.len() <= SMALL_BATCH {
            sleep(FIRST_BEAT).await;
        }
        loop {
            self.hide(&leases).await;
            sleep(LEASE_BEAT).await;
        }
    }

    /// What becomes of each message; `undone` and `ages` are the messages', in their order.
    #[must_use]
    pub fn fates(&self, undone: &[Option<Undone>], ages: &[Option<Duration>]) -> Vec<Fate> {
        let each = self.messages.iter().zip(undone).zip(ages);
        each.map(|((message, undone), age)| match undone {
            None => Fate::Done,
            Some(undone) => self.fate(message, undone, *age),
        })
        .collect()
    }

    fn fate(&self, message: &Message, undone: &Undone, age: Option<Duration>) -> Fate {
        if is_found_again(message) && undone.waits_for.needs_a_person() {
            return Fate::FoundAgain;
        }
        let delivery = Delivery { id: &message.id, receives: message.receives, age };
        match (backoff::next(undone.waits_for, delivery), self.dead_letter_queue) {
            (Next::Again(delay), _) => Fate::Again(undone.after.unwrap_or(delay)),
            (Next::DeadLetter, Some(_)) => Fate::DeadLetter,
            // The queue's own redrive policy counts receives, so for what is hopeless they lie close.
            (Next::DeadLetter, None) if undone.waits_for == WaitsFor::Nothing => {
                Fate::Again(GIVEN_UP_BY_THE_QUEUE)
            }
            (Next::DeadLetter, None) => Fate::Again(backoff::LONGEST),
        }
    }

    /// Has each message come again, or go to the dead-letter queue, as it must; answers with the indices of those that are
    /// safe in the dead-letter queue, or that the next sweep finds again.
    pub async fn sort(
        &self,
        fates: &[Fate],
        undone: &[Option<Undone>],
        deadline: Instant,
    ) -> Vec<usize> {
        let (mut again, mut letters, mut found_again) = (Vec::new(), Vec::new(), Vec::new());
        for (index, (fate, undone)) in fates.iter().zip(undone).enumerate() {
            let Some(undone) = undone else { continue };
            let Message { id, receives, .. } = self.messages[index];
            match fate {
                Fate::Done => {}
                Fate::FoundAgain => {
                    tracing::info!(message.id = id, "not given up: the next sweep finds it again");
                    found_again.push(index);
                }
                Fate::Again(delay) => {
                    tracing::info!(
                        message.id = id,
                        message.receives = receives,
                        message.again_in_s = delay.as_secs(),
                        "comes again, since it waits for {}",
                        undone.waits_for
                    );
                    again.push((self.messages[index], *delay));
                }
                Fate::DeadLetter => letters.push((index, undone)),
            }
        }
        let give_up = self.give_up_until(deadline, &letters);
        let ((), safe) = join(self.hide_until(deadline, &again), give_up).await;
        [safe, found_again].concat()
    }

    async fn give_up_until(&self, deadline: Instant, letters: &[(usize, &Undone)]) -> Vec<usize> {
        let Some(dead_letter_queue) = self.dead_letter_queue else { return Vec::new() };
        if letters.is_empty() {
            return Vec::new();
        }
        let dead = letters.iter().map(|(index, undone)| DeadLetter {
            body: &self.messages[*index].body,
            message_id: &self.messages[*index].id,
            error_type: undone.error_type,
            error: &undone.error,
        });
        let dead: Vec<_> = dead.collect();
        let give_up = self.queues.give_up(dead_letter_queue, &dead);
        let Ok(results) = timeout_at(deadline, give_up).await else {
            tracing::error!("no time to give messages up: they come again");
            return Vec::new();
        };
        let mut safe = Vec::new();
        for ((index, _), result) in letters.iter().zip(results) {
            let id = &self.messages[*index].id;
            match result {
                Ok(()) => {
                    tracing::info!(message.id = id, "given up: in the dead-letter queue");
                    safe.push(*index);
                }
                Err(error) => tracing::error!(
                    message.id = id,
                    "not given up, so it comes again: {}",
                    chain(&error)
                ),
            }
        }
        safe
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
        let calls =
            by_queue.iter().map(async |(queue, hidden)| self.queues.hide(queue, hidden).await);
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
}

/// Whether a sweep made the message, so that the next one makes another: each of them would be a dead letter, every hour.
fn is_found_again(message: &Message) -> bool {
    matches!(message.reading, Ok(Reading::Trigger(Trigger { origin: Origin::Sweep, .. })))
}
