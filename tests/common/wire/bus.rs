//! EventBridge in its JSON protocol: one bus that is told of things.

use http_body_util::Full;
use hyper::body::Bytes;
use serde_json::{Value, json};

use super::super::world::AwsError;
use super::sqs::only;
use super::{error, header_for};

/// The bus that listens.
pub const BUS: &str = "arn:aws:events:us-east-1:123456789012:event-bus/listeners";

/// What EventBridge takes in one call.
const MOST_ENTRIES: usize = 10;
const MOST_BYTES: usize = 262_144;

/// An event on the bus.
#[derive(Debug, Clone)]
pub struct Told {
    pub source: String,
    pub detail_type: String,
    pub detail: Value,
}

/// `failing` are the places of entries that fail, and the code they fail with. Each call's events are kept together.
pub(super) fn carry_out(
    told: &mut Vec<Vec<Told>>,
    action: &str,
    asked: &Value,
    failing: (&[usize], &str),
) -> Result<String, AwsError> {
    if action != "PutEvents" {
        return Err(error(400, "UnknownOperationException", "Nobody uses this operation"));
    }
    only(asked, &["Entries"])?;
    let entries = asked["Entries"].as_array().map(Vec::as_slice).unwrap_or_default();
    let bytes: usize = entries.iter().map(|entry| entry.to_string().len()).sum();
    if !(1..=MOST_ENTRIES).contains(&entries.len()) || bytes > MOST_BYTES {
        let message = format!("{} entries of {bytes} bytes are none or too many", entries.len());
        return Err(error(400, "ValidationException", &message));
    }
    let (mut taken, mut answers, mut failed) = (Vec::new(), Vec::new(), 0);
    for (place, entry) in entries.iter().enumerate() {
        only(entry, &["Source", "DetailType", "Detail", "EventBusName"])?;
        let (places, code) = failing;
        let event = if places.contains(&place) {
            Err(error(400, code, "This one fails on purpose."))
        } else {
            read(entry)
        };
        match event {
            Ok(event) => {
                taken.push(event);
                answers.push(json!({ "EventId": format!("00000000-0000-4000-8000-{place:012}") }));
            }
            Err(AwsError { code, message, .. }) => {
                failed += 1;
                answers.push(json!({ "ErrorCode": code, "ErrorMessage": message }));
            }
        }
    }
    told.push(taken);
    Ok(json!({ "FailedEntryCount": failed, "Entries": answers }).to_string())
}

fn read(entry: &Value) -> Result<Told, AwsError> {
    let text = |field: &str| {
        let text = entry[field].as_str().filter(|text| !text.is_empty()).map(str::to_owned);
        text.ok_or_else(|| {
            error(400, "InvalidArgument", &format!("Parameter {field} is not valid."))
        })
    };
    if text("EventBusName")? != BUS {
        return Err(error(400, "ResourceNotFoundException", "Event bus does not exist."));
    }
    let detail: Value = serde_json::from_str(&text("Detail")?).unwrap_or_default();
    if !detail.is_object() {
        return Err(error(400, "MalformedDetail", "Detail is malformed."));
    }
    Ok(Told { source: text("Source")?, detail_type: text("DetailType")?, detail })
}

pub(super) fn respond(body: String) -> hyper::Response<Full<Bytes>> {
    header_for(200, "application/x-amz-json-1.1").body(Full::from(body)).unwrap()
}

pub(super) fn refusal(error: &AwsError) -> hyper::Response<Full<Bytes>> {
    let body = json!({ "__type": error.code, "message": error.message });
    header_for(error.status, "application/x-amz-json-1.1")
        .body(Full::from(body.to_string()))
        .unwrap()
}
