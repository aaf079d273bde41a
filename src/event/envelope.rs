//! What stands around an event, as far as it is used: whatever else is there, or is not, or is of another type, is
//! EventBridge's affair and stops nothing.

use aws_lambda_events::event::eventbridge::EventBridgeEvent;
use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};

/// An event of EventBridge's with a detail of this type.
#[derive(Debug, Deserialize)]
#[serde(bound(deserialize = "D: DeserializeOwned"))]
pub(super) struct Envelope<D> {
    pub account: Option<String>,
    pub region: Option<String>,
    #[serde(default)]
    time: Value,
    #[serde(default)]
    resources: Value,
    #[serde(deserialize_with = "object")]
    pub detail: D,
}

impl<D: DeserializeOwned> Envelope<D> {
    /// When the event happened, in milliseconds since 1970, where it says so in a way that can be read.
    pub fn at_ms(&self) -> Option<i64> {
        let alone = json!({ "detail-type": "", "source": "", "detail": {}, "time": self.time });
        let event = EventBridgeEvent::<Value>::deserialize(alone).ok()?;
        Some(event.time?.timestamp_millis())
    }

    /// The ARNs of what it is about.
    pub fn resources(&self) -> Result<Vec<String>, serde_json::Error> {
        Option::deserialize(&self.resources).map(Option::unwrap_or_default)
    }
}

/// Reads an object, and nothing that serde would take for one: it fills a struct from a list too, and an empty list makes
/// a request for everything.
pub(super) fn object<'de, D, T>(from: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: DeserializeOwned,
{
    let found = match Value::deserialize(from)? {
        found @ Value::Object(_) => return T::deserialize(found).map_err(D::Error::custom),
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
    };
    Err(D::Error::custom(format_args!("invalid type: {found}, expected an object")))
}
