//! What woke us: JSON from EventBridge, SQS or a person, read into the instances to look at.
//!
//! Payloads are told apart by their own fields, never by guess. What is none of our business is [`Ignored`]; what claims to
//! be ours and cannot be read is [`Malformed`], an error, so that nothing is lost.

mod envelope;
pub mod follow_up;
pub mod invocation;
mod trail;

use std::fmt;

use aws_lambda_events::event::sqs::SqsMessage;
use serde::Deserialize;
use serde_json::Value;

use crate::census::SweepRequest;
use crate::event::envelope::Envelope;
use crate::expectation::Expectation;
use crate::model::{
    AccountId, Detached, Illegal, InstanceId, InstanceRef, InstanceState, QueueArn, Region, Tags,
};
use crate::verification::Verification;

/// Everything the function can be invoked with.
#[derive(Debug)]
pub enum Payload {
    /// Messages from a queue, each on its own.
    Batch(Vec<Message>),
    /// One event, or a person's invocation.
    Single(Reading),
}

/// One message of a batch.
#[derive(Debug)]
pub struct Message {
    /// The id by which the queue knows it.
    pub id: String,
    /// The queue, and the handle of this receive, where both are legal.
    pub delivery: Option<(QueueArn, String)>,
    /// How often it was delivered, this time included.
    pub receives: u32,
    /// When it was sent, in milliseconds since 1970, where the queue says so.
    pub sent_ms: Option<u64>,
    /// The body as it came.
    pub body: String,
    /// What its body says.
    pub reading: Result<Reading, Malformed>,
}

/// What one event says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reading {
    /// Look at these instances.
    Trigger(Trigger),
    /// Look again at an instance that was changed.
    Verify(Verification),
    /// See that a swap leaves no instance without a profile.
    FinishSwap(Detached),
    /// Look at all of them.
    Sweep(SweepRequest),
    /// None of our business.
    Ignored(Ignored),
}

/// Instances to look at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trigger {
    /// Who asks.
    pub origin: Origin,
    /// Which instances.
    pub targets: Vec<Target>,
    /// What is named and is no instance. It does not stop the others.
    pub illegal: Vec<Illegal>,
    /// What the event says about itself.
    pub occasion: Occasion,
}

/// When something happened, and by whom.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Occasion {
    /// The event's own time, in milliseconds since 1970.
    pub at_ms: Option<i64>,
    /// Who did it: a principal's ARN, as CloudTrail has it.
    pub by: Option<String>,
}

/// Who asks for a look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// An EC2 state change.
    StateChange,
    /// A tag change.
    TagChange,
    /// A launch, as CloudTrail tells of it.
    Launch,
    /// An association changed by another actor, as CloudTrail tells of it.
    Drift,
    /// A sweep that found the instance wrong.
    Sweep,
    /// A person, who may want nothing written.
    Person {
        /// Decide, write nothing.
        dry_run: bool,
    },
}

/// An instance to look at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The instance.
    pub instance: InstanceRef,
    /// What the event says that a read must show.
    pub expected: Expectation,
}

/// Why an event needs no look.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ignored {
    /// An event of another kind.
    OtherEvent {
        /// The event's source.
        source: String,
        /// The event's detail-type.
        detail_type: String,
    },
    /// A tag change on something that is not an instance.
    OtherResource {
        /// The resource's service.
        service: String,
        /// The resource's type.
        resource_type: String,
    },
    /// A tag change that cannot change what is required.
    OtherTags {
        /// The changed keys.
        changed: Vec<String>,
    },
    /// A call to EC2's API that changes nothing here.
    OtherCall {
        /// The call.
        call: String,
    },
    /// A call to EC2's API that failed, and so changed nothing.
    FailedCall {
        /// The call.
        call: String,
        /// How it failed.
        code: String,
    },
    /// A call to EC2's API of which CloudTrail left out what it was about.
    CallWithoutInstances {
        /// The call.
        call: String,
    },
    /// A call of the function's own.
    OwnCall {
        /// The call.
        call: String,
    },
    /// Records that did not come from SQS.
    OtherRecords {
        /// Where they came from.
        source: String,
    },
}

/// A payload that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum Malformed {
    /// Not JSON, or nested deeper than anything real.
    #[error("the payload is no JSON that can be read: {}", brief(.0))]
    NotJson(serde_json::Error),
    /// JSON, but none of the things this function takes.
    #[error(
        "the payload is {0}; this function takes an EventBridge event (source, detail-type), an SQS batch (Records) \
         or {{\"instance-ids\": [\"i-…\"], \"dry-run\": true}} or {{\"sweep\": {{}}}}"
    )]
    NotAnEvent(&'static str),
    /// An event whose kind is known and whose fields are not as they should be.
    #[error("the {kind} cannot be read: {}", brief(.why))]
    Fields {
        /// What it claims to be.
        kind: &'static str,
        /// What is wrong with it.
        why: serde_json::Error,
    },
    /// A field that holds an illegal value.
    #[error("the {kind} has an illegal {field}: {why}")]
    Field {
        /// What it claims to be.
        kind: &'static str,
        /// The field.
        field: &'static str,
        /// What is wrong with it.
        why: Illegal,
    },
    /// A field that is needed and absent, or empty.
    #[error("the {kind} has no {field}")]
    Absent {
        /// What it claims to be.
        kind: &'static str,
        /// The field.
        field: &'static str,
    },
}

/// Who and where the function is: a person's invocation names neither account nor Region.
#[derive(Debug, Clone, Default)]
pub struct Caller {
    /// The function's account.
    pub account: Option<AccountId>,
    /// The function's Region.
    pub region: Option<Region>,
    /// The ARN of the function's own role.
    pub role: Option<String>,
}

/// Reads payloads.
pub struct Reader<'a> {
    /// Where a person's invocation is about.
    pub caller: &'a Caller,
    /// Whether a tag key matters to the policy.
    pub reads_tag: &'a (dyn Fn(&str) -> bool + Sync),
}

const STATE_CHANGE: &str = "EC2 instance state-change notification";
const TAG_CHANGE: &str = "tag change on an instance";
const MESSAGE: &str = "SQS message";

impl Reader<'_> {
    /// Reads what Lambda was invoked with.
    ///
    /// # Errors
    /// [`Malformed`]; a batch is in error as a whole only where a message's own id cannot be read.
    pub fn read(&self, json: &str) -> Result<Payload, Malformed> {
        let value: Value = serde_json::from_str(json).map_err(Malformed::NotJson)?;
        match value.get("Records") {
            Some(Value::Array(records)) => self.read_records(records),
            Some(_) => Err(Malformed::NotAnEvent("an object whose Records are no array")),
            None => self.read_one(value).map(Payload::Single),
        }
    }

    fn read_records(&self, records: &[Value]) -> Result<Payload, Malformed> {
        // SNS writes the key with a capital letter.
        let source = |record: &Value| {
            let source = record.get("eventSource").or_else(|| record.get("EventSource"));
            source.and_then(Value::as_str).unwrap_or("aws:sqs").to_owned()
        };
        if let Some(first) = records.first().map(source)
            && first != "aws:sqs"
        {
            return Ok(Payload::Single(Reading::Ignored(Ignored::OtherRecords { source: first })));
        }
        records
            .iter()
            .map(|record| self.read_message(record))
            .collect::<Result<_, _>>()
            .map(Payload::Batch)
    }

    fn read_message(&self, record: &Value) -> Result<Message, Malformed> {
        let id = record["messageId"].as_str().filter(|id| !id.is_empty());
        let id = id.ok_or(Malformed::Absent { kind: MESSAGE, field: "messageId" })?.to_owned();
        let message =
            SqsMessage::deserialize(record).map_err(|why| Malformed::Fields { kind: MESSAGE, why });
        let text = |field: &str| record[field].as_str().filter(|text| !text.is_empty());
        let queue = text("eventSourceARN").and_then(|arn| QueueArn::parse(arn).ok());
        let delivery = queue.zip(text("receiptHandle").map(str::to_owned));
        let number = |name: &str| record["attributes"][name].as_str()?.parse::<u64>().ok();
        let receives = number("ApproximateReceiveCount").unwrap_or(1);
        let body = text("body").unwrap_or_default().to_owned();
        let reading = message.and_then(|message| {
            let body = message.body.ok_or(Malformed::Absent { kind: MESSAGE, field: "body" })?;
            let value: Value = serde_json::from_str(&body).map_err(Malformed::NotJson)?;
            if value.get("Records").is_some() {
                return Err(Malformed::NotAnEvent("a batch inside a message"));
            }
            self.read_one(value)
        });
        Ok(Message {
            id,
            delivery,
            receives: u32::try_from(receives).unwrap_or(u32::MAX),
            sent_ms: number("SentTimestamp"),
            body,
            reading,
        })
    }

    fn read_one(&self, value: Value) -> Result<Reading, Malformed> {
        let Value::Object(fields) = &value else {
            return Err(Malformed::NotAnEvent(match value {
                Value::Null => "null",
                Value::Bool(_) => "a boolean",
                Value::Number(_) => "a number",
                Value::String(_) => "a string",
                Value::Array(_) => "an array",
                Value::Object(_) => "an object",
            }));
        };
        if let (Some(source), Some(detail_type)) = (fields.get("source"), fields.get("detail-type"))
        {
            let (Some(source), Some(detail_type)) = (source.as_str(), detail_type.as_str()) else {
                return Err(Malformed::NotAnEvent(
                    "an event whose source and detail-type are no texts",
                ));
            };
            return match (source, detail_type) {
                ("aws.ec2", "EC2 Instance State-change Notification") => state_change(value),
                ("aws.tag", "Tag Change on Resource") => self.tag_change(value),
                ("aws.ec2", "AWS API Call via CloudTrail") => {
                    trail::api_call(value, self.caller.role.as_deref())
                }
                _ => Ok(Reading::Ignored(Ignored::OtherEvent {
                    source: source.to_owned(),
                    detail_type: detail_type.to_owned(),
                })),
            };
        }
        if fields.contains_key(follow_up::VERIFY) {
            let mut verification = follow_up::read_verification(value)?;
            self.fill_in_the_account(&mut verification.instance);
            return Ok(Reading::Verify(verification));
        }
        if fields.contains_key(follow_up::FINISH_SWAP) {
            let mut detached = follow_up::read_swap(value)?;
            self.fill_in_the_account(&mut detached.instance);
            return Ok(Reading::FinishSwap(detached));
        }
        if fields.contains_key("instance-ids") {
            return invocation::of_instances(value, self.caller);
        }
        if fields.contains_key("sweep") {
            return invocation::of_a_sweep(value);
        }
        Err(Malformed::NotAnEvent("an object without these fields"))
    }

    /// An instance that is named without its account is in the function's own.
    fn fill_in_the_account(&self, instance: &mut InstanceRef) {
        instance.account = instance.account.take().or_else(|| self.caller.account.clone());
    }

    /// What a tag event says of the keys that matter. An event that does not tell the tags says nothing of what is gone.
    fn expected_tags(&self, at_ms: Option<i64>, tags: Option<&Tags>) -> Expectation {
        let Some(tags) = tags else { return Expectation::default() };
        let mut tags = tags.clone();
        tags.retain(|key, _| (self.reads_tag)(key));
        Expectation::of_tags(at_ms, tags)
    }

    fn tag_change(&self, value: Value) -> Result<Reading, Malformed> {
        #[derive(Debug, Deserialize)]
        #[serde(rename_all = "kebab-case")]
        struct Detail {
            changed_tag_keys: Vec<String>,
            #[serde(rename = "service")]
            _service: String,
            #[serde(rename = "resource-type")]
            _resource_type: String,
            #[serde(default)]
            tags: Option<Tags>,
        }
        let about = |field: &str| value["detail"][field].as_str().map(str::to_owned);
        if let (Some(service), Some(resource_type)) = (about("service"), about("resource-type"))
            && (service.as_str(), resource_type.as_str()) != ("ec2", "instance")
        {
            return Ok(Reading::Ignored(Ignored::OtherResource { service, resource_type }));
        }
        let fields = |why| Malformed::Fields { kind: TAG_CHANGE, why };
        let event: Envelope<Detail> = Envelope::deserialize(value).map_err(fields)?;
        let at_ms = event.at_ms();
        let detail = &event.detail;
        if !detail.changed_tag_keys.iter().any(|key| (self.reads_tag)(key)) {
            return Ok(Reading::Ignored(Ignored::OtherTags {
                changed: detail.changed_tag_keys.clone(),
            }));
        }
        let expected = self.expected_tags(at_ms, detail.tags.as_ref());
        let resources = event.resources().map_err(fields)?;
        let (mut targets, mut illegal) = (Vec::new(), Vec::new());
        for arn in &resources {
            match instance_of(arn) {
                Ok(instance) => targets.push(Target { instance, expected: expected.clone() }),
                Err(why) => illegal.push(why),
            }
        }
        match (targets.is_empty(), illegal.pop()) {
            (true, None) => Err(Malformed::Absent { kind: TAG_CHANGE, field: "resources" }),
            (true, Some(why)) => {
                Err(Malformed::Field { kind: TAG_CHANGE, field: "resources", why })
            }
            (false, last) => {
                illegal.extend(last);
                let occasion = Occasion { at_ms, by: None };
                Ok(Reading::Trigger(Trigger {
                    origin: Origin::TagChange,
                    targets,
                    illegal,
                    occasion,
                }))
            }
        }
    }
}

fn state_change(value: Value) -> Result<Reading, Malformed> {
    #[derive(Debug, Deserialize)]
    #[serde(rename_all = "kebab-case")]
    struct Detail {
        instance_id: String,
        /// What was, as of the event: only a look tells what is.
        #[serde(default)]
        state: Value,
    }
    let event: Envelope<Detail> = Envelope::deserialize(value)
        .map_err(|why| Malformed::Fields { kind: STATE_CHANGE, why })?;
    let illegal = |field| illegal(STATE_CHANGE, field);
    let account = event.account.as_deref().ok_or_else(|| absent(STATE_CHANGE, "account"))?;
    let region = event.region.as_deref().ok_or_else(|| absent(STATE_CHANGE, "region"))?;
    let instance = InstanceRef {
        account: Some(AccountId::parse(account).map_err(illegal("account"))?),
        region: Region::parse(region).map_err(illegal("region"))?,
        id: InstanceId::parse(&event.detail.instance_id).map_err(illegal("detail.instance-id"))?,
    };
    let at_ms = event.at_ms();
    let state = event.detail.state.as_str().map(InstanceState::from_ec2);
    let expected =
        state.map_or_else(Expectation::default, |state| Expectation::of_state(at_ms, state));
    Ok(Reading::Trigger(Trigger {
        origin: Origin::StateChange,
        targets: vec![Target { instance, expected }],
        illegal: vec![],
        occasion: Occasion { at_ms, by: None },
    }))
}

fn absent(kind: &'static str, field: &'static str) -> Malformed {
    Malformed::Absent { kind, field }
}

fn illegal(kind: &'static str, field: &'static str) -> impl FnOnce(Illegal) -> Malformed {
    move |why| Malformed::Field { kind, field, why }
}

/// Reads `arn:PARTITION:ec2:REGION:ACCOUNT:instance/ID`.
fn instance_of(arn: &str) -> Result<InstanceRef, Illegal> {
    let illegal =
        || Illegal::new(arn, "an instance's ARN: arn:PARTITION:ec2:REGION:ACCOUNT:instance/ID");
    let parts: Vec<&str> = arn.splitn(6, ':').collect();
    let ["arn", _, "ec2", region, account, resource] = parts[..] else {
        return Err(illegal());
    };
    Ok(InstanceRef {
        account: Some(AccountId::parse(account)?),
        region: Region::parse(region)?,
        id: InstanceId::parse(resource.strip_prefix("instance/").ok_or_else(illegal)?)?,
    })
}

/// A reader's complaint without the value that it quotes: an event's values are not for the log.
fn brief(error: &serde_json::Error) -> String {
    const ENOUGH: usize = 160;
    let text = error.to_string();
    // serde's words: `invalid type: string "…", expected a sequence`.
    let text = match (text.split_once(['"', '`']), text.rsplit_once(", expected ")) {
        (Some((found, _)), Some((_, expected))) if found.starts_with("invalid ") => {
            format!("{}, expected {expected}", found.trim_end())
        }
        (Some(_) | None, Some(_) | None) => text,
    };
    match text.char_indices().nth(ENOUGH) {
        Some((cut, _)) => format!("{}…", &text[..cut]),
        None => text,
    }
}

/// How many of several values are shown.
const SHOWN: usize = 10;

/// The beginning of a text from outside: nothing that somebody sends may fill the log.
fn excerpt(text: &str) -> String {
    const ENOUGH: usize = 100;
    text.chars().take(ENOUGH).collect()
}

impl fmt::Display for Ignored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OtherEvent { source, detail_type } => {
                let (source, detail_type) = (excerpt(source), excerpt(detail_type));
                write!(f, "events {detail_type:?} from {source:?} are not for this function")
            }
            Self::OtherResource { service, resource_type } => {
                let (service, resource_type) = (excerpt(service), excerpt(resource_type));
                write!(f, "a tag change on {service:?} {resource_type:?} is not about an instance")
            }
            Self::OtherTags { changed } => {
                let shown: Vec<String> =
                    changed.iter().take(SHOWN).map(|key| excerpt(key)).collect();
                write!(f, "the changed tags {shown:?} do not choose the instance profile")
            }
            Self::OtherCall { call } => {
                write!(
                    f,
                    "the call {:?} neither launches nor changes an association",
                    excerpt(call)
                )
            }
            Self::FailedCall { call, code } => {
                write!(f, "the call {:?} failed ({:?})", excerpt(call), excerpt(code))
            }
            Self::CallWithoutInstances { call } => {
                write!(f, "the event about the call {:?} names no instance", excerpt(call))
            }
            Self::OwnCall { call } => {
                write!(f, "the call {:?} was the function's own", excerpt(call))
            }
            Self::OtherRecords { source } => {
                write!(f, "records from {:?} are not for this function", excerpt(source))
            }
        }
    }
}
