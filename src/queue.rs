//! The queue in our words: when a message that is not done comes again, where one that is given up goes, and new ones.
//!
//! Lambda deletes what is done, and leaves the rest hidden until the queue's visibility timeout is over, which must be
//! long. So the function says itself when a message is to be seen again, and sends what is given up to the dead-letter
//! queue with the reason.

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use crate::model::{Detached, QueueArn};

/// The queues messages come from, and the dead-letter queue.
///
/// Every call is bounded in time by the implementation. None of them is needed for a message to survive: one that could
/// not be hidden comes again after the visibility timeout, one that could not be given up comes again too.
pub trait Queues: Send + Sync {
    /// Hides each message for its own time from now on (`ChangeMessageVisibility`); answers for each, in their order.
    fn hide(
        &self,
        queue: &QueueArn,
        messages: &[Hidden<'_>],
    ) -> impl Future<Output = Vec<Result<(), QueueError>>> + Send;

    /// Sends messages to the dead-letter queue; answers for each, in their order.
    fn give_up(
        &self,
        dead_letter_queue: &str,
        letters: &[DeadLetter<'_>],
    ) -> impl Future<Output = Vec<Result<(), QueueError>>> + Send;

    /// Sends messages to the queue with this URL; answers for each, in their order.
    fn send(
        &self,
        queue: &str,
        messages: &[Outgoing],
    ) -> impl Future<Output = Vec<Result<(), QueueError>>> + Send;
}

/// A message to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outgoing {
    /// The message's body.
    pub body: String,
    /// How long the queue holds it back, in whole seconds: 900 s at most (SQS's `DelaySeconds`).
    pub delay: Duration,
    /// Whose backlog it adds to (SQS's `MessageGroupId`, which on a standard queue names a tenant of a fair queue);
    /// `None` for a message that stands for itself.
    pub group: Option<&'static str>,
}

impl Outgoing {
    /// A message that is to be seen at once, and stands for itself.
    #[must_use]
    pub fn at_once(body: String) -> Self {
        Self { body, delay: Duration::ZERO, group: None }
    }
}

/// Where a detachment is written down before it is made, so that whoever comes next knows what was attached, even if the
/// execution environment dies in the middle of a swap.
pub trait WriteAhead: Send + Sync {
    /// Writes it down. The instance must not be detached unless this succeeded.
    fn write_down(
        &self,
        detached: &Detached,
    ) -> impl Future<Output = Result<(), QueueError>> + Send;
}

/// Where nothing is written, and so nothing is written down: a dry run decides as if there were a queue.
#[derive(Debug)]
pub struct NothingWritten;

impl WriteAhead for NothingWritten {
    async fn write_down(&self, _detached: &Detached) -> Result<(), QueueError> {
        Err(QueueError::new("SendMessage", None, "a dry run writes nothing"))
    }
}

/// A message to be hidden.
#[derive(Debug, Clone, Copy)]
pub struct Hidden<'a> {
    /// The handle of this receive.
    pub receipt: &'a str,
    /// For how long, in whole seconds.
    pub for_time: Duration,
}

/// A message that is given up, with what a person must know to act on it.
#[derive(Debug, Clone)]
pub struct DeadLetter<'a> {
    /// The message's body as it came, so that sending it to the queue again is another try.
    pub body: &'a str,
    /// The message's own id.
    pub message_id: &'a str,
    /// The failure's type, a stable word.
    pub error_type: &'a str,
    /// The failure in full.
    pub error: &'a str,
}

/// A dead-letter queue, as a person empties it into the queue again. For the tool alone: the function only writes there.
///
/// A letter that was taken and not removed is seen again, at the latest when the time is over for which it is hidden.
pub trait DeadLetters: Send + Sync {
    /// Takes up to so many letters and hides them from others for this time (`ReceiveMessage`); none, where the queue
    /// shows none. One call brings ten at most.
    fn take(
        &self,
        at_most: usize,
        hidden_for: Duration,
    ) -> impl Future<Output = Result<Vec<Letter>, QueueError>> + Send;

    /// Shows letters to others at once, by their receipts; answers for each, in their order.
    fn put_back(
        &self,
        receipts: &[&str],
    ) -> impl Future<Output = Vec<Result<(), QueueError>>> + Send;

    /// Sends bodies to the queue that the letters came from; answers for each, in their order.
    fn send_again(
        &self,
        bodies: &[&str],
    ) -> impl Future<Output = Vec<Result<(), QueueError>>> + Send;

    /// Removes letters for good, by their receipts; answers for each, in their order.
    fn remove(&self, receipts: &[&str])
    -> impl Future<Output = Vec<Result<(), QueueError>>> + Send;
}

/// A letter that was taken from a dead-letter queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Letter {
    /// Its own id.
    pub id: String,
    /// The handle of this receive.
    pub receipt: String,
    /// The message that was given up, as it came.
    pub body: String,
    /// What was written to it by whoever gave it up: texts by name.
    pub attributes: BTreeMap<String, String>,
    /// How often it was received, this time included.
    pub receives: u32,
    /// When it was sent, in milliseconds since 1970, where the queue says so.
    pub sent_ms: Option<u64>,
}

/// A call to a queue, or to a bus, that failed, for one of its entries or for all.
#[derive(Debug, Clone)]
pub struct QueueError {
    /// The call, by AWS's name.
    pub operation: &'static str,
    /// AWS's code, where there was an answer.
    pub code: Option<String>,
    // Shared, because one failed call stands for every message in it.
    source: Arc<dyn Error + Send + Sync>,
}

impl QueueError {
    /// A failed call, AWS's code, and what lies beneath.
    pub fn new(
        operation: &'static str,
        code: Option<String>,
        source: impl Into<Box<dyn Error + Send + Sync>>,
    ) -> Self {
        Self { operation, code, source: Arc::from(source.into()) }
    }
}

impl fmt::Display for QueueError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} failed", self.operation)?;
        match &self.code {
            Some(code) => write!(f, " ({code})"),
            None => Ok(()),
        }
    }
}

impl Error for QueueError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(self.source.as_ref())
    }
}
