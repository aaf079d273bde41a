//! The function's own queue as the place where a swap is written down before it takes anything away.

use crate::event::follow_up::message_to_finish_swap;
use crate::model::Detached;
use crate::queue::{QueueError, Queues, WriteAhead};

/// The function's own queue.
#[derive(Debug)]
pub struct OwnQueue<'a, Q> {
    /// The queues.
    pub queues: &'a Q,
    /// The queue's URL.
    pub url: &'a str,
}

impl<Q: Queues> WriteAhead for OwnQueue<'_, Q> {
    async fn write_down(&self, detached: &Detached) -> Result<(), QueueError> {
        let message = message_to_finish_swap(detached);
        let sent = self.queues.send(self.url, std::slice::from_ref(&message)).await;
        // An answer that does not say so is no success.
        sent.into_iter().next().unwrap_or_else(|| {
            Err(QueueError::new("SendMessage", None, "SQS's answer does not say how it went"))
        })
    }
}
