//! Payloads: any bytes have an answer, and no instance is looked at that was not named.

use serde_json::{Value, json};

use super::plain;
use auto_instance_profile::census::SweepRequest;
use auto_instance_profile::event::follow_up::{message_to_finish_swap, message_to_verify};
use auto_instance_profile::event::{
    Caller, Malformed, Message, Origin, Payload, Reader, Reading, Trigger,
};
use auto_instance_profile::model::{AccountId, Detached, InstanceRef, Region};
use auto_instance_profile::verification::Verification;

/// No sentence about a payload may fill the log: ten keys of a hundred characters, each of them escaped twice at worst.
const LONGEST_SENTENCE: usize = 24_000;

const OWN_ROLE: &str =
    "arn:aws:iam::123456789012:role/auto-instance-profile-FunctionRole-0123456789AB";

/// A payload, or anything else.
pub fn event(data: &[u8]) {
    let text = plain::text(data);
    let read = read(&text);
    assert_eq!(format!("{read:?}"), format!("{:?}", self::read(&text)), "the same, twice");
    let Ok(value) = serde_json::from_str::<Value>(&text) else {
        assert!(matches!(read, Err(Malformed::NotJson(_))), "{read:?}");
        return;
    };
    // How it is written does not matter.
    let rewritten = self::read(&value.to_string());
    assert_eq!(format!("{read:?}"), format!("{rewritten:?}"), "{text}");
    match read {
        Err(malformed) => check_sentence(&malformed.to_string()),
        Ok(Payload::Single(reading)) => {
            assert!(value.get("Records").is_none() || matches!(reading, Reading::Ignored(_)));
            check_reading(&reading, &value);
        }
        Ok(Payload::Batch(messages)) => {
            let records = value["Records"].as_array().expect("a batch has records");
            assert_eq!(messages.len(), records.len(), "no message is lost, and none is made up");
            for (message, record) in messages.iter().zip(records) {
                check_message(message, record);
            }
        }
    }
}

fn read(json: &str) -> Result<Payload, Malformed> {
    let caller = Caller {
        account: AccountId::parse("123456789012").ok(),
        region: Region::parse("us-east-1").ok(),
        role: Some(OWN_ROLE.to_owned()),
    };
    Reader { caller: &caller, reads_tag: &reads_tag }.read(json)
}

fn reads_tag(key: &str) -> bool {
    key == "InstanceProfile" || key.starts_with("App")
}

fn check_message(message: &Message, record: &Value) {
    assert_eq!(record["messageId"].as_str(), Some(message.id.as_str()));
    assert!(!message.id.is_empty());
    assert!(message.body.is_empty() || record["body"].as_str() == Some(message.body.as_str()));
    if let Some((queue, handle)) = &message.delivery {
        let arn = record["eventSourceARN"].as_str().unwrap_or_default();
        assert!(is_region(queue.region.as_str()) && arn.contains(queue.region.as_str()));
        assert!(is_account(queue.account.as_str()) && arn.ends_with(&queue.name));
        assert_eq!(record["receiptHandle"].as_str(), Some(handle.as_str()));
    }
    let body: Option<Value> = serde_json::from_str(&message.body).ok();
    match &message.reading {
        Err(malformed) => check_sentence(&malformed.to_string()),
        Ok(reading) => {
            let body = body.as_ref().expect("what was read is JSON");
            check_reading(reading, body);
            // The same event means the same without a queue.
            let Ok(Payload::Single(alone)) = read(&message.body) else {
                panic!("{}", message.body);
            };
            assert_eq!(&alone, reading);
        }
    }
}

fn check_reading(reading: &Reading, value: &Value) {
    let trigger = match reading {
        Reading::Ignored(ignored) => return check_sentence(&ignored.to_string()),
        Reading::Sweep(request) => return check_sweep(request, value),
        Reading::Verify(verification) => return check_verification(verification, value),
        Reading::FinishSwap(detached) => return check_swap(detached, value),
        Reading::Trigger(trigger) => trigger,
    };
    let mut texts = Vec::new();
    collect(value, &mut texts);
    for target in &trigger.targets {
        check_instance(&target.instance, &texts);
        for (key, expected) in target.expected.tags().into_iter().flatten() {
            assert!(reads_tag(key), "{key:?}");
            assert_eq!(value["detail"]["tags"][key].as_str(), Some(expected.as_str()));
        }
    }
    for illegal in &trigger.illegal {
        check_sentence(&illegal.to_string());
    }
    assert!(
        !trigger.targets.is_empty() || !trigger.illegal.is_empty(),
        "there is something to say"
    );
    let items = &value["detail"]["responseElements"]["instancesSet"]["items"];
    let (origin, named) = match trigger.origin {
        Origin::Person { .. } | Origin::Sweep => ("person", value["instance-ids"].as_array()),
        Origin::TagChange => ("aws.tag", value["resources"].as_array()),
        Origin::Launch => ("aws.ec2", items.as_array()),
        Origin::StateChange | Origin::Drift => ("aws.ec2", None),
    };
    if matches!(trigger.origin, Origin::Launch | Origin::Drift) {
        let detail = &value["detail"];
        assert!(detail["errorCode"].is_null(), "a call that failed changed nothing");
        let role = &detail["userIdentity"]["sessionContext"]["sessionIssuer"]["arn"];
        assert_ne!(role.as_str(), Some(OWN_ROLE), "our own calls wake nobody");
    }
    assert_eq!(value["source"].as_str().unwrap_or("person"), origin);
    let named = named.map_or(1, Vec::len);
    assert_eq!(trigger.targets.len() + trigger.illegal.len(), named, "each that is named, once");
    check_ids_read_again(trigger);
}

/// A sweep is asked for in so many words, and each of its filters says something.
fn check_sweep(request: &SweepRequest, value: &Value) {
    assert!(value["sweep"].is_object(), "{value}");
    assert_eq!(request.dry_run, value["dry-run"].as_bool().unwrap_or_default());
    let given = value["sweep"]["filters"].as_object().map_or(0, serde_json::Map::len);
    assert_eq!(request.filters.len(), given);
    assert!(
        request.filters.iter().all(|filter| !filter.name.is_empty() && !filter.values.is_empty())
    );
}

/// A message of the function's own names what it names, and written again it says the same.
fn check_verification(verification: &Verification, value: &Value) {
    let mut texts = Vec::new();
    collect(value, &mut texts);
    check_instance(&verification.instance, &texts);
    match read(&message_to_verify(verification).body) {
        Ok(Payload::Single(Reading::Verify(again))) => {
            assert_eq!(
                (&again.instance, again.after),
                (&verification.instance, verification.after)
            );
            assert_eq!(again.association, verification.association);
            assert_eq!(again.history.to, verification.history.to);
        }
        other => panic!("{other:?}"),
    }
}

/// What is to be attached again is an instance profile, and nothing else.
fn check_swap(detached: &Detached, value: &Value) {
    let mut texts = Vec::new();
    collect(value, &mut texts);
    check_instance(&detached.instance, &texts);
    assert!(detached.profile_arn.contains(":instance-profile/"), "{detached:?}");
    match read(&message_to_finish_swap(detached).body) {
        Ok(Payload::Single(Reading::FinishSwap(again))) => assert_eq!(again, *detached),
        other => panic!("{other:?}"),
    }
}

/// The ids, named by a person, are the same ids in the same order.
fn check_ids_read_again(trigger: &Trigger) {
    let ids = |trigger: &Trigger| -> Vec<String> {
        trigger.targets.iter().map(|target| target.instance.id.to_string()).collect()
    };
    let named = ids(trigger);
    if named.is_empty() {
        return;
    }
    match read(&json!({ "instance-ids": named }).to_string()) {
        Ok(Payload::Single(Reading::Trigger(again))) => {
            assert_eq!(ids(&again), named);
            assert!(again.illegal.is_empty());
            assert_eq!(again.origin, Origin::Person { dry_run: false });
        }
        other => panic!("{other:?}"),
    }
}

fn check_instance(instance: &InstanceRef, texts: &[&str]) {
    let id = instance.id.as_str();
    let hex = id.strip_prefix("i-").expect("an instance's id");
    assert!((1..=17).contains(&hex.len()), "{id}");
    assert!(hex.chars().all(|c| "0123456789abcdef".contains(c)), "{id}");
    assert!(texts.iter().any(|text| text.ends_with(id)), "nobody named {id}");
    assert!(is_region(instance.region.as_str()), "{}", instance.region);
    let account = instance.account.as_ref().expect("an event names it, and the caller is known");
    assert!(is_account(account.as_str()), "{account}");
}

fn is_account(text: &str) -> bool {
    text.chars().count() == 12 && text.chars().all(|c| c.is_ascii_digit())
}

fn is_region(text: &str) -> bool {
    let legal = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    !text.is_empty() && text.len() <= 32 && text.chars().all(legal)
}

fn collect<'a>(value: &'a Value, texts: &mut Vec<&'a str>) {
    match value {
        Value::String(text) => texts.push(text),
        Value::Array(items) => items.iter().for_each(|item| collect(item, texts)),
        Value::Object(fields) => fields.values().for_each(|field| collect(field, texts)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

fn check_sentence(text: &str) {
    assert!(
        !text.is_empty() && text.len() <= LONGEST_SENTENCE,
        "{} bytes: {text:.200}",
        text.len()
    );
}
