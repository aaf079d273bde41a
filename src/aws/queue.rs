//! SQS by AWS's SDK.

use std::collections::HashMap;
use std::error::Error;
use std::time::Duration;

use aws_sdk_sqs::config::endpoint::{DefaultResolver, Params, ResolveEndpoint};
use aws_sdk_sqs::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_sqs::types::{
    BatchResultErrorEntry, ChangeMessageVisibilityBatchRequestEntry, MessageAttributeValue,
    SendMessageBatchRequestEntry,
};
use futures_util::future::join_all;

use crate::aws::errors::{failed_call, failed_entry};
use crate::aws::secrets::KeepsSecrets;
use crate::aws::{Aws, timeouts};
use crate::model::{QueueArn, Region};
use crate::queue::{DeadLetter, Hidden, Outgoing, QueueError, Queues};
use crate::redaction::clean;

/// The longest that SQS holds a new message back, in seconds.
const LONGEST_DELAY: i32 = 900;
/// Entries that SQS takes in one call.
pub(super) const ENTRIES_PER_CALL: usize = 10;
/// One try, and a call with all its tries. An invocation's end waits for them, and a message survives without.
const ATTEMPT_TIMEOUT: Duration = Duration::from_millis(900);
const OPERATION_TIMEOUT: Duration = Duration::from_millis(1900);
/// Calls under way at once, where a sweep sends many messages: each has less than a second.
const CALLS_AT_ONCE: usize = 8;
/// Bytes that SQS takes in one call: bodies, and attributes with their names and types.
const MAX_BYTES: usize = 1_048_576;
/// The longest part of an error that goes with a dead letter, in bytes: an encoded denial, whole.
const MAX_ERROR_BYTES: usize = 65_536;
/// What stands beside the bodies, in bytes: in a dead letter names, types, the error's type and the message's id.
const BYTES_BESIDE: usize = 1024;

impl Queues for Aws {
    async fn hide(&self, queue: &QueueArn, messages: &[Hidden<'_>]) -> Vec<Result<(), QueueError>> {
        let (sqs, url) = (self.sqs(&queue.region), self.url_of(queue).await);
        let calls = messages.chunks(ENTRIES_PER_CALL).map(|chunk| hide_batch(&sqs, &url, chunk));
        join_all(calls).await.concat()
    }

    async fn give_up(
        &self,
        dead_letter_queue: &str,
        letters: &[DeadLetter<'_>],
    ) -> Vec<Result<(), QueueError>> {
        let Some(region) = self.region() else {
            let error = QueueError::new("SendMessage", None, "AWS_REGION is not set");
            return vec![Err(error); letters.len()];
        };
        let sqs = self.sqs(&region);
        // One a call: a body can be as large as all that SQS takes in one.
        let calls = letters.iter().map(async |letter| {
            let entry = SendMessageBatchRequestEntry::builder()
                .id("0")
                .message_body(letter.body)
                .set_message_attributes(attributes(letter))
                .build();
            let call = sqs.send_message_batch().queue_url(dead_letter_queue);
            let answer = match entry {
                Ok(entry) => call.entries(entry).send().await,
                Err(error) => Err(SdkError::construction_failure(error)),
            };
            each("SendMessage", 1, answer, |answer| {
                (answer.successful.into_iter().map(|entry| entry.id).collect(), answer.failed)
            })
        });
        join_all(calls).await.concat()
    }

    async fn send(&self, queue: &str, messages: &[Outgoing]) -> Vec<Result<(), QueueError>> {
        let Some(region) = self.region() else {
            let error = QueueError::new("SendMessage", None, "AWS_REGION is not set");
            return vec![Err(error); messages.len()];
        };
        let sqs = self.sqs(&region);
        let mut results = Vec::with_capacity(messages.len());
        for many in batches(messages).chunks(CALLS_AT_ONCE) {
            let calls = many.iter().map(|batch| send_batch(&sqs, queue, batch));
            results.extend(join_all(calls).await.concat());
        }
        results
    }
}

impl Aws {
    fn sqs(&self, region: &Region) -> aws_sdk_sqs::Client {
        self.sqs.get_or_make(region, |region| {
            let config = aws_sdk_sqs::config::Builder::from(&self.sdk)
                .region(region)
                .timeout_config(timeouts(ATTEMPT_TIMEOUT, OPERATION_TIMEOUT));
            aws_sdk_sqs::Client::from_conf(config.interceptor(KeepsSecrets).build())
        })
    }

    /// SQS's name for a queue is a URL. What it goes by is the path: account and name.
    async fn url_of(&self, queue: &QueueArn) -> String {
        let params = Params::builder().region(queue.region.as_str()).build();
        let endpoint = match (self.sdk.endpoint_url(), params) {
            (Some(url), _) => url.to_owned(),
            (None, Ok(params)) => match DefaultResolver::new().resolve_endpoint(&params).await {
                Ok(endpoint) => endpoint.url().to_owned(),
                Err(_) => String::new(),
            },
            (None, Err(_)) => String::new(),
        };
        format!("{}/{}/{}", endpoint.trim_end_matches('/'), queue.account, queue.name)
    }
}

/// Hides as many messages as SQS takes in one call, and no more.
pub(super) async fn hide_batch(
    sqs: &aws_sdk_sqs::Client,
    queue: &str,
    messages: &[Hidden<'_>],
) -> Vec<Result<(), QueueError>> {
    let entries = messages.iter().enumerate().map(|(index, message)| {
        let seconds = message.for_time.as_secs_f64().ceil();
        #[expect(clippy::cast_possible_truncation, reason = "SQS's limit is 12 hours")]
        ChangeMessageVisibilityBatchRequestEntry::builder()
            .id(index.to_string())
            .receipt_handle(message.receipt)
            .visibility_timeout(seconds.min(43_200.0) as i32)
            .build()
    });
    let call = sqs.change_message_visibility_batch().queue_url(queue);
    let answer = match entries.collect::<Result<Vec<_>, _>>() {
        Ok(entries) => call.set_entries(Some(entries)).send().await,
        Err(error) => Err(SdkError::construction_failure(error)),
    };
    each("ChangeMessageVisibility", messages.len(), answer, |answer| {
        (answer.successful.into_iter().map(|entry| entry.id).collect(), answer.failed)
    })
}

/// Messages as SQS takes them in one call each: so many, and so many bytes. One that is too large for any call is alone.
pub(super) fn batches(messages: &[Outgoing]) -> Vec<&[Outgoing]> {
    let mut batches = Vec::new();
    let mut rest = messages;
    while !rest.is_empty() {
        let mut bytes = 0;
        let fits = |message: &&Outgoing| {
            bytes += message.body.len();
            bytes <= MAX_BYTES - BYTES_BESIDE
        };
        let number = rest.iter().take(ENTRIES_PER_CALL).take_while(fits).count().max(1);
        let (batch, others) = rest.split_at(number);
        batches.push(batch);
        rest = others;
    }
    batches
}

/// Sends as many messages as SQS takes in one call, and no more.
pub(super) async fn send_batch(
    sqs: &aws_sdk_sqs::Client,
    queue: &str,
    messages: &[Outgoing],
) -> Vec<Result<(), QueueError>> {
    let entries = messages.iter().enumerate().map(|(index, message)| {
        let delay = i32::try_from(message.delay.as_secs()).unwrap_or(i32::MAX).min(LONGEST_DELAY);
        SendMessageBatchRequestEntry::builder()
            .id(index.to_string())
            .message_body(&message.body)
            .set_delay_seconds((delay > 0).then_some(delay))
            .set_message_group_id(message.group.map(str::to_owned))
            .build()
    });
    let call = sqs.send_message_batch().queue_url(queue);
    let answer = match entries.collect::<Result<Vec<_>, _>>() {
        Ok(entries) => call.set_entries(Some(entries)).send().await,
        Err(error) => Err(SdkError::construction_failure(error)),
    };
    each("SendMessage", messages.len(), answer, |answer| {
        (answer.successful.into_iter().map(|entry| entry.id).collect(), answer.failed)
    })
}

/// What went wrong, for a person and for a program that sorts dead letters.
fn attributes(letter: &DeadLetter<'_>) -> Option<HashMap<String, MessageAttributeValue>> {
    let room = MAX_BYTES.saturating_sub(letter.body.len() + BYTES_BESIDE).min(MAX_ERROR_BYTES);
    let text = |text: &str| {
        let value = MessageAttributeValue::builder().data_type("String").string_value(text);
        value.build().ok()
    };
    let mut attributes = HashMap::from([
        ("ErrorType".to_owned(), text(letter.error_type)?),
        ("MessageId".to_owned(), text(letter.message_id)?),
    ]);
    // On one line, so that no reader takes a part of it for a line of its own; with that, of SQS's characters alone.
    let error = clean(letter.error);
    let error: String = error.chars().filter(|c| is_legal(*c)).collect();
    let error = &error[..error.floor_char_boundary(room)];
    // SQS takes no empty one.
    if !error.is_empty() {
        attributes.insert("Error".to_owned(), text(error)?);
    }
    Some(attributes)
}

/// Whether SQS takes a character: those of XML 1.0, of which controls are escaped before.
fn is_legal(c: char) -> bool {
    !matches!(c, '\u{fffe}' | '\u{ffff}')
}

/// A call's answer as one for each of its entries, which are named by their places. What SQS does not say to have
/// succeeded has failed: a letter must not be taken for sent on silence.
pub(super) fn each<T, E>(
    operation: &'static str,
    entries: usize,
    answer: Result<T, SdkError<E>>,
    sort: impl FnOnce(T) -> (Vec<String>, Vec<BatchResultErrorEntry>),
) -> Vec<Result<(), QueueError>>
where
    E: ProvideErrorMetadata + Error + Send + Sync + 'static,
{
    let (successful, failed) = match answer {
        Ok(answer) => sort(answer),
        Err(error) => return vec![Err(failed_call(operation, &error)); entries],
    };
    let result = |place: usize| {
        let id = place.to_string();
        if successful.contains(&id) {
            return Ok(());
        }
        Err(match failed.iter().find(|failure| failure.id() == id) {
            Some(failure) => {
                let message = failure.message().unwrap_or("SQS sent no message");
                failed_entry(operation, Some(failure.code()), message)
            }
            None => QueueError::new(operation, None, "SQS's answer does not say how it went"),
        })
    };
    (0..entries).map(result).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_holds_as_many_messages_as_sqs_takes() {
        let sizes = |bytes: &[usize]| {
            let messages: Vec<_> =
                bytes.iter().map(|bytes| Outgoing::at_once("x".repeat(*bytes))).collect();
            batches(&messages).into_iter().map(<[Outgoing]>::len).collect::<Vec<_>>()
        };
        assert_eq!(sizes(&[]), [0; 0]);
        assert_eq!(sizes(&[1000; 30]), [10, 10, 10]);
        assert_eq!(sizes(&[1000, 600_000, 1000, 600_000, 1000]), [3, 2]);
        assert_eq!(sizes(&[MAX_BYTES + 1, 1000, MAX_BYTES + 1]), [1, 1, 1]);
        assert_eq!(sizes(&[MAX_BYTES / 2; 2]), [1, 1], "room is left for what else counts");
    }
}
