//! SQS in its JSON protocol, as far as messages that are not done need it: one queue that they come from, and one for
//! those that are given up.

use std::collections::{BTreeMap, BTreeSet};

use http_body_util::Full;
use hyper::body::Bytes;
use serde_json::{Value, json};

use super::super::world::{ACCOUNT, AwsError};
use super::{error, header_for};

/// The queue that messages come from.
pub const QUEUE: &str = "auto-instance-profile-events";
/// The queue for those that are given up.
pub const DEAD_LETTER_QUEUE: &str = "auto-instance-profile-dead-letters";

const JSON: &str = "application/x-amz-json-1.0";

/// What SQS takes in one call, and for how long it hides a message.
const MOST_ENTRIES: usize = 10;
const MOST_BYTES: usize = 1_048_576;
const LONGEST_TIMEOUT: u64 = 43_200;
/// The longest that it holds a new message back, in seconds.
const LONGEST_DELAY: u64 = 900;

/// What was asked for and done, call by call.
#[derive(Debug, Default)]
pub struct Sqs {
    /// Receipt handles, and for how many seconds.
    pub hidden: Vec<Vec<(String, u64)>>,
    pub letters: Vec<Vec<Letter>>,
    /// Messages for the queue that messages come from.
    pub sent: Vec<Vec<Sent>>,
}

/// A message for the queue that messages come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sent {
    pub body: String,
    /// For how many seconds it is held back: nobody sees it until then.
    pub delay: u64,
    /// The tenant of a fair queue to whose backlog it adds.
    pub group: Option<String>,
}

/// A message in the dead-letter queue.
#[derive(Debug, Clone)]
pub struct Letter {
    pub body: String,
    pub attributes: BTreeMap<String, String>,
}

impl Sqs {
    /// `failing` are the places of entries that fail, and the code they fail with.
    pub(super) fn carry_out(
        &mut self,
        action: &str,
        asked: &Value,
        failing: (&[usize], &str),
    ) -> Result<String, AwsError> {
        only(asked, &["QueueUrl", "Entries"])?;
        let url = asked["QueueUrl"].as_str().unwrap_or_default();
        let is_for_the_queue = match action {
            "ChangeMessageVisibilityBatch" => check_url(url, QUEUE).map(|()| true)?,
            "SendMessageBatch" if is_url(url, QUEUE) => true,
            "SendMessageBatch" => check_url(url, DEAD_LETTER_QUEUE).map(|()| false)?,
            _ => {
                return Err(error(400, "UnknownOperationException", "Nobody uses this operation"));
            }
        };
        let entries = asked["Entries"].as_array().map(Vec::as_slice).unwrap_or_default();
        check_entries(entries)?;
        let (mut successful, mut failed) = (Vec::new(), Vec::new());
        let (mut hidden, mut letters, mut sent) = (Vec::new(), Vec::new(), Vec::new());
        for (place, entry) in entries.iter().enumerate() {
            let (places, code) = failing;
            let done = if places.contains(&place) {
                Err(error(400, code, "This one fails on purpose."))
            } else if action == "SendMessageBatch" && is_for_the_queue {
                read_sent(entry).map(|message| sent.push(message))
            } else if action == "SendMessageBatch" {
                read_letter(entry).map(|letter| letters.push(letter))
            } else {
                read_hidden(entry).map(|entry| hidden.push(entry))
            };
            let id = &entry["Id"];
            match done {
                Ok(()) if action == "SendMessageBatch" => successful.push(json!({
                    "Id": id,
                    "MessageId": format!("00000000-0000-4000-8000-{place:012}"),
                    // Nobody compares it.
                    "MD5OfMessageBody": "d41d8cd98f00b204e9800998ecf8427e",
                })),
                Ok(()) => successful.push(json!({ "Id": id })),
                Err(AwsError { code, message, .. }) => failed.push(json!({
                    "Id": id, "SenderFault": true, "Code": code, "Message": message,
                })),
            }
        }
        match (action, is_for_the_queue) {
            ("SendMessageBatch", true) => self.sent.push(sent),
            ("SendMessageBatch", false) => self.letters.push(letters),
            _ => self.hidden.push(hidden),
        }
        Ok(json!({ "Successful": successful, "Failed": failed }).to_string())
    }
}

/// What SQS goes by is the path: account and name.
fn is_url(url: &str, queue: &str) -> bool {
    let path = url.split_once("://").and_then(|(_, rest)| rest.split_once('/'));
    path.map(|(_, path)| path) == Some(&format!("{ACCOUNT}/{queue}"))
}

fn check_url(url: &str, queue: &str) -> Result<(), AwsError> {
    if is_url(url, queue) {
        return Ok(());
    }
    let code = "AWS.SimpleQueueService.NonExistentQueue";
    Err(error(400, code, "The specified queue does not exist."))
}

fn check_entries(entries: &[Value]) -> Result<(), AwsError> {
    let refused = |code: &str, message: &str| {
        Err(error(400, &format!("AWS.SimpleQueueService.{code}"), message))
    };
    if entries.is_empty() {
        let message = "There should be at least one entry in the request.";
        return refused("EmptyBatchRequest", message);
    }
    if entries.len() > MOST_ENTRIES {
        let message = format!(
            "Maximum number of entries per request are {MOST_ENTRIES}. You have sent {}.",
            entries.len()
        );
        return refused("TooManyEntriesInBatchRequest", &message);
    }
    let ids: Vec<&str> =
        entries.iter().map(|entry| entry["Id"].as_str().unwrap_or_default()).collect();
    let is_legal = |id: &&str| {
        let is_legal = |b: u8| b.is_ascii_alphanumeric() || b"-_".contains(&b);
        (1..=80).contains(&id.len()) && id.bytes().all(is_legal)
    };
    if !ids.iter().all(is_legal) {
        let message = "A batch entry id can only contain alphanumeric characters, hyphens and underscores. It can be at \
                       most 80 letters long.";
        return refused("InvalidBatchEntryId", message);
    }
    if ids.iter().collect::<BTreeSet<_>>().len() < ids.len() {
        return refused("BatchEntryIdsNotDistinct", "An Id is repeated.");
    }
    let bytes: usize = entries.iter().map(size).sum();
    if bytes > MOST_BYTES {
        let message = format!(
            "Batch requests cannot be longer than {MOST_BYTES} bytes. You have sent {bytes} bytes."
        );
        return refused("BatchRequestTooLong", &message);
    }
    Ok(())
}

/// The bytes that count: body, and the attributes' names, types and values.
fn size(entry: &Value) -> usize {
    let text = |value: &Value| value.as_str().map_or(0, str::len);
    let attributes = entry["MessageAttributes"].as_object().into_iter().flatten();
    let attributes = attributes
        .map(|(name, value)| name.len() + text(&value["DataType"]) + text(&value["StringValue"]));
    text(&entry["MessageBody"]) + attributes.sum::<usize>()
}

fn read_hidden(entry: &Value) -> Result<(String, u64), AwsError> {
    only(entry, &["Id", "ReceiptHandle", "VisibilityTimeout"])?;
    let receipt = entry["ReceiptHandle"].as_str().filter(|receipt| receipt.starts_with("handle-"));
    let receipt = receipt.ok_or_else(|| {
        error(400, "ReceiptHandleIsInvalid", "The input receipt handle is invalid.")
    })?;
    let timeout = entry["VisibilityTimeout"].as_u64().filter(|time| *time <= LONGEST_TIMEOUT);
    let timeout = timeout.ok_or_else(|| {
        let message = format!(
            "Value {} for parameter VisibilityTimeout is invalid. Reason: Must be between 0 and {LONGEST_TIMEOUT} seconds.",
            entry["VisibilityTimeout"]
        );
        error(400, "InvalidParameterValue", &message)
    })?;
    Ok((receipt.to_owned(), timeout))
}

/// The characters that SQS takes: those of XML 1.0.
fn is_legal(c: char) -> bool {
    matches!(c, '\t' | '\n' | '\r' | ' '..='\u{d7ff}' | '\u{e000}'..='\u{fffd}' | '\u{10000}'..)
}

fn read_body(entry: &Value) -> Result<String, AwsError> {
    let body = entry["MessageBody"].as_str().filter(|body| !body.is_empty()).ok_or_else(|| {
        error(400, "MissingParameter", "The request must contain the parameter MessageBody.")
    })?;
    if !body.chars().all(is_legal) {
        let message = "Invalid characters found. Valid unicode characters are #x9 | #xA | #xD | #x20 to #xD7FF | #xE000 to \
                       #xFFFD | #x10000 to #x10FFFF";
        return Err(error(400, "InvalidMessageContents", message));
    }
    Ok(body.to_owned())
}

/// A message with the delay and the group that a fair queue, which is a standard one, takes.
fn read_sent(entry: &Value) -> Result<Sent, AwsError> {
    only(entry, &["Id", "MessageBody", "DelaySeconds", "MessageGroupId"])?;
    let invalid = |field: &str, takes: &str| {
        let message =
            format!("Value {} for parameter {field} is invalid. Reason: {takes}.", entry[field]);
        error(400, "InvalidParameterValue", &message)
    };
    let given = |field: &str| entry.get(field).filter(|value| !value.is_null());
    let delay = given("DelaySeconds").map_or(Some(0), Value::as_u64);
    let delay = delay.filter(|delay| *delay <= LONGEST_DELAY).ok_or_else(|| {
        invalid("DelaySeconds", &format!("Must be between 0 and {LONGEST_DELAY}"))
    })?;
    let is_legal = |c: char| c.is_ascii_alphanumeric() || c.is_ascii_punctuation();
    let is_group = |group: &str| (1..=128).contains(&group.len()) && group.chars().all(is_legal);
    let group = given("MessageGroupId").map(|group| {
        let group = group.as_str().filter(|group| is_group(group)).map(str::to_owned);
        let takes = "Must be 1 to 128 letters, digits and punctuation";
        group.ok_or_else(|| invalid("MessageGroupId", takes))
    });
    let group = group.transpose()?;
    Ok(Sent { body: read_body(entry)?, delay, group })
}

fn read_letter(entry: &Value) -> Result<Letter, AwsError> {
    only(entry, &["Id", "MessageBody", "MessageAttributes"])?;
    let body = read_body(entry)?;
    let mut attributes = BTreeMap::new();
    for (name, attribute) in entry["MessageAttributes"].as_object().into_iter().flatten() {
        only(attribute, &["DataType", "StringValue"])?;
        let text = attribute["StringValue"].as_str().filter(|text| !text.is_empty());
        let is_text = attribute["DataType"] == "String";
        let text = text.filter(|text| is_text && text.chars().all(is_legal)).ok_or_else(|| {
            let message = format!(
                "The message attribute '{name}' must contain a non-empty message attribute value of type 'String'."
            );
            error(400, "InvalidParameterValue", &message)
        })?;
        attributes.insert(name.clone(), text.to_owned());
    }
    if attributes.len() > 10 {
        let message = "Number of message attributes is more than the allowed maximum of 10.";
        return Err(error(400, "InvalidParameterValue", message));
    }
    Ok(Letter { body, attributes })
}

/// These fields and no others.
pub(super) fn only(asked: &Value, names: &[&str]) -> Result<(), AwsError> {
    let fields = asked.as_object();
    match fields.and_then(|fields| fields.keys().find(|key| !names.contains(&key.as_str()))) {
        None if fields.is_some() => Ok(()),
        None => Err(error(400, "SerializationException", "An object was expected.")),
        Some(key) => {
            Err(error(400, "SerializationException", &format!("The field {key} is not known.")))
        }
    }
}

pub(super) fn respond(body: String) -> hyper::Response<Full<Bytes>> {
    header_for(200, JSON).body(Full::from(body)).unwrap()
}

/// By name for those who read JSON, and in a header by the older name for those who read the Query API's.
pub(super) fn refusal(error: &AwsError) -> hyper::Response<Full<Bytes>> {
    let name = error.code.rsplit('.').next().unwrap_or_default();
    let who = if error.status < 500 { "Sender" } else { "Receiver" };
    let body = json!({ "__type": format!("com.amazonaws.sqs#{name}"), "message": error.message });
    header_for(error.status, JSON)
        .header("x-amzn-query-error", format!("{};{who}", error.code))
        .body(Full::from(body.to_string()))
        .unwrap()
}
