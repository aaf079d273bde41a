//! A dead-letter queue by SQS's SDK, at a person's pace: for the tool alone.

use std::time::Duration;

use aws_sdk_sqs::error::SdkError;
use aws_sdk_sqs::types::{DeleteMessageBatchRequestEntry, Message, MessageSystemAttributeName};

use crate::aws::errors::failed_call;
use crate::aws::queue::{ENTRIES_PER_CALL, batches, each, hide_batch, send_batch};
use crate::aws::secrets::KeepsSecrets;
use crate::aws::{ATTEMPT_TIMEOUT, Aws, OPERATION_TIMEOUT, timeouts};
use crate::model::Region;
use crate::queue::{DeadLetters, Hidden, Letter, Outgoing, QueueError};

/// An answer that says "none" has asked all of SQS's servers only if it was waited for, however shortly.
const WAIT_SECONDS: i32 = 1;

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
        let messages: Vec<_> =
            bodies.iter().map(|body| Outgoing::at_once((*body).to_owned())).collect();
        let mut results = Vec::with_capacity(messages.len());
        for batch in batches(&messages) {
            results.extend(send_batch(&self.sqs, &self.queue, batch).await);
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
