//! A dead-letter queue by SQS's SDK, at a person's pace: for the tool alone.

use std::time::Duration;

use aws_sdk_sqs::error::SdkError;
use aws_sdk_sqs::types::{DeleteMessageBatchRequestEntry, Message, MessageSystemAttributeName};

use crate::aws::errors::failed_call;
use crate::aws::queue::{ENTRIES_PER_CALL, each, hide_batch, send_bodies};
use crate::aws::secrets::KeepsSecrets;
use crate::aws::{ATTEMPT_TIMEOUT, Aws, OPERATION_TIMEOUT, timeouts};
use crate::model::Region;
use crate::queue::{DeadLetters, Hidden, Letter, QueueError};

/// An answer that says "none" has asked all of SQS's servers only if it was waited for, however shortly.
const WAIT_SECONDS: i32 = 1;
/// Bytes that a call's bodies may hold together: SQS takes 1 MiB, and counts more than the bodies.
const BYTES_PER_CALL: usize = 1_000_000;

/// A dead-letter queue, and the queue that its letters go back to.
#[derive(Debug)]
pub struct AwsLetters {
    sqs: aws_sdk_sqs::Client,
    dead_letter_queue: String,
    queue: String,
}

impl Aws {
    /// The dead-letter queue and the queue with these URLs, both in this Region.
    #[must_use]
    pub fn letters(&self, region: &Region, dead_letter_queue: &str, queue: &str) -> AwsLetters {
        // Not the client of the function's last second: here a person waits, perhaps far from AWS.
        let config = aws_sdk_sqs::config::Builder::from(&self.sdk)
            .region(aws_sdk_sqs::config::Region::new(region.as_str().to_owned()))
            .timeout_config(timeouts(ATTEMPT_TIMEOUT, OPERATION_TIMEOUT));
        AwsLetters {
            sqs: aws_sdk_sqs::Client::from_conf(config.interceptor(KeepsSecrets).build()),
            dead_letter_queue: dead_letter_queue.to_owned(),
            queue: queue.to_owned(),
        }
    }
}

impl DeadLetters for AwsLetters {
    async fn take(&self, at_most: usize, hidden_for: Duration) -> Result<Vec<Letter>, QueueError> {
        let number = i32::try_from(at_most.min(ENTRIES_PER_CALL)).unwrap_or_default();
        let call = self
            .sqs
            .receive_message()
            .queue_url(&self.dead_letter_queue)
            .max_number_of_messages(number)
            .visibility_timeout(i32::try_from(hidden_for.as_secs()).unwrap_or(i32::MAX))
            .wait_time_seconds(WAIT_SECONDS)
            .message_attribute_names("All")
            .message_system_attribute_names(MessageSystemAttributeName::ApproximateReceiveCount)
            .message_system_attribute_names(MessageSystemAttributeName::SentTimestamp);
        match call.send().await {
            Ok(answer) => {
                Ok(answer.messages.unwrap_or_default().into_iter().filter_map(letter).collect())
            }
            Err(error) => Err(failed_call("ReceiveMessage", &error)),
        }
    }

    async fn put_back(&self, receipts: &[&str]) -> Vec<Result<(), QueueError>> {
        let messages: Vec<_> =
            receipts.iter().map(|receipt| Hidden { receipt, for_time: Duration::ZERO }).collect();
        let mut results = Vec::with_capacity(messages.len());
        for chunk in messages.chunks(ENTRIES_PER_CALL) {
            results.extend(hide_batch(&self.sqs, &self.dead_letter_queue, chunk).await);
        }
        results
    }

    async fn send_again(&self, bodies: &[&str]) -> Vec<Result<(), QueueError>> {
        let mut results = Vec::with_capacity(bodies.len());
        let mut rest = bodies;
        while !rest.is_empty() {
            let (chunk, later) = rest.split_at(fitting(rest));
            results.extend(send_bodies(&self.sqs, &self.queue, chunk).await);
            rest = later;
        }
        results
    }

    async fn remove(&self, receipts: &[&str]) -> Vec<Result<(), QueueError>> {
        let mut results = Vec::with_capacity(receipts.len());
        for chunk in receipts.chunks(ENTRIES_PER_CALL) {
            let entries = chunk.iter().enumerate().map(|(index, receipt)| {
                let entry = DeleteMessageBatchRequestEntry::builder().id(index.to_string());
                entry.receipt_handle(*receipt).build()
            });
            let call = self.sqs.delete_message_batch().queue_url(&self.dead_letter_queue);
            let answer = match entries.collect::<Result<Vec<_>, _>>() {
                Ok(entries) => call.set_entries(Some(entries)).send().await,
                Err(error) => Err(SdkError::construction_failure(error)),
            };
            results.extend(each("DeleteMessage", chunk.len(), answer, |answer| {
                (answer.successful.into_iter().map(|entry| entry.id).collect(), answer.failed)
            }));
        }
        results
    }
}

/// How many of these bodies go into one call: one at least.
fn fitting(bodies: &[&str]) -> usize {
    let mut bytes = 0;
    let fits = |body: &&&str| {
        bytes += body.len();
        bytes <= BYTES_PER_CALL
    };
    bodies.iter().take(ENTRIES_PER_CALL).take_while(fits).count().max(1)
}

/// `None` for what has no receipt: nothing could be done with it.
fn letter(message: Message) -> Option<Letter> {
    let number = |name: &MessageSystemAttributeName| {
        message.attributes.as_ref()?.get(name)?.parse::<u64>().ok()
    };
    let receives = number(&MessageSystemAttributeName::ApproximateReceiveCount).unwrap_or(1);
    let sent_ms = number(&MessageSystemAttributeName::SentTimestamp);
    let attributes = message.message_attributes.unwrap_or_default().into_iter();
    Some(Letter {
        id: message.message_id.unwrap_or_default(),
        receipt: message.receipt_handle?,
        body: message.body.unwrap_or_default(),
        attributes: attributes
            .filter_map(|(name, value)| Some((name, value.string_value?)))
            .collect(),
        receives: u32::try_from(receives).unwrap_or(u32::MAX),
        sent_ms,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_holds_as_many_bodies_as_sqs_takes() {
        let (small, large) = ("x".repeat(1000), "x".repeat(600_000));
        assert_eq!(fitting(&[small.as_str(); 30]), 10);
        assert_eq!(fitting(&[&small, &large, &small, &large, &small]), 3);
        let huge = "x".repeat(BYTES_PER_CALL + 1);
        assert_eq!(fitting(&[&huge, &small]), 1);
        assert_eq!(fitting(&[&small, &huge]), 1);
    }
}
