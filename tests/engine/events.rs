//! Every file in events/ to what it is read as; and payloads nobody should send.

use std::fs;
use std::path::Path;

use auto_instance_profile::event::{Caller, Ignored, Message, Payload, Reader, Reading};
use auto_instance_profile::model::{AccountId, Region};
use serde_json::{Value, json};

fn read(json: &str) -> Result<Payload, String> {
    let caller = Caller {
        account: Some(AccountId::parse("123456789012").unwrap()),
        region: Some(Region::parse("us-east-1").unwrap()),
    };
    let reads_tag = |key: &str| key == "InstanceProfile";
    let reader = Reader { caller: &caller, reads_tag: &reads_tag };
    reader.read(json).map_err(|malformed| malformed.to_string())
}

fn sample(name: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("events").join(name)).unwrap()
}

fn sample_with(name: &str, change: impl Fn(&mut Value)) -> String {
    let mut value: Value = serde_json::from_str(&sample(name)).unwrap();
    change(&mut value);
    value.to_string()
}

fn summary(reading: &Reading) -> String {
    match reading {
        Reading::Ignored(why) => format!("ignored: {why}"),
        Reading::Trigger(trigger) => {
            let targets: Vec<String> = trigger
                .targets
                .iter()
                .map(|target| {
                    let instance = &target.instance;
                    let account = instance.account.as_ref().map_or("?", |account| account.as_str());
                    let shown = target.announced.keys().cloned().collect::<Vec<_>>().join(", ");
                    let announced =
                        if shown.is_empty() { shown } else { format!(", showing {shown}") };
                    format!("{account}/{}/{}{announced}", instance.region, instance.id)
                })
                .collect();
            let illegal: Vec<String> = trigger.illegal.iter().map(ToString::to_string).collect();
            format!("{:?}: {}", trigger.origin, [targets, illegal].concat().join(", "))
        }
    }
}

fn line(message: &Message) -> String {
    let reading = match &message.reading {
        Ok(reading) => summary(reading),
        Err(malformed) => format!("malformed: {malformed}"),
    };
    format!("{} (received {}): {reading}", message.id, message.receives)
}

fn read_summary(json: &str) -> String {
    match read(json) {
        Ok(Payload::Single(reading)) => summary(&reading),
        Ok(Payload::Batch(messages)) => messages.iter().map(line).collect::<Vec<_>>().join("\n"),
        Err(error) => format!("malformed: {error}"),
    }
}

#[test]
fn every_sample_event() {
    let mut names: Vec<String> = fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("events"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    let readings: Vec<String> =
        names.iter().map(|name| format!("{name}\n{}\n", read_summary(&sample(name)))).collect();
    insta::assert_snapshot!(readings.join("\n"));
}

#[test]
fn payloads_that_are_nothing_this_function_takes() {
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let payloads = [
        "null",
        "[]",
        "true",
        "7",
        "\"text\"",
        "{}",
        "{",
        "",
        deep.as_str(),
        r#"{"Records": 1}"#,
        r#"{"source": "aws.ec2"}"#,
        r#"{"source": 1, "detail-type": "x"}"#,
        r#"{"instance_ids": ["i-1"]}"#,
        r#"{"instance-ids": []}"#,
        r#"{"instance-ids": "i-1"}"#,
        r#"{"instance-ids": ["i-*"]}"#,
        r#"{"instance-ids": ["i-1"], "dryrun": true}"#,
        r#"{"instance-ids": ["i-1"], "dry-run": "yes"}"#,
    ];
    let readings: Vec<String> = payloads
        .iter()
        .map(|payload| format!("{:.60}\n  {}", payload, read_summary(payload)))
        .collect();
    insta::assert_snapshot!(readings.join("\n"));
}

#[test]
fn an_event_of_a_known_kind_that_cannot_be_read_is_an_error() {
    let state =
        |change: &dyn Fn(&mut Value)| sample_with("instance-running.json", |event| change(event));
    let tag = |change: &dyn Fn(&mut Value)| sample_with("tags-changed.json", |event| change(event));
    let events = [
        state(&|event| event["detail"]["instance-id"] = json!(7)),
        state(&|event| event["detail"]["instance-id"] = json!("i-xyz")),
        state(&|event| event["detail"] = json!(null)),
        state(&|event| event["account"] = json!("12")),
        state(&|event| event["account"] = json!(null)),
        state(&|event| event["region"] = json!("")),
        tag(&|event| event["resources"] = json!([])),
        tag(&|event| {
            event["resources"] = json!(["arn:aws:ec2:us-east-1:123456789012:volume/vol-1"]);
        }),
        tag(&|event| event["detail"]["changed-tag-keys"] = json!("InstanceProfile")),
        tag(&|event| event["detail"]["service"] = json!(null)),
    ];
    let readings: Vec<String> = events.iter().map(|event| read_summary(event)).collect();
    insta::assert_snapshot!(readings.join("\n"));
}

#[test]
fn events_of_other_kinds_are_ignored_whatever_their_shape() {
    for (source, detail_type) in [
        ("aws.ec2", "EC2 Spot Instance Interruption Warning"),
        ("aws.events", "Scheduled Event"),
        ("my.app", "EC2 Instance State-change Notification"),
        ("aws.ec2", "AWS API Call via CloudTrail"),
    ] {
        let event =
            json!({ "source": source, "detail-type": detail_type, "time": "never", "detail": 1 });
        assert!(matches!(
            read(&event.to_string()),
            Ok(Payload::Single(Reading::Ignored(Ignored::OtherEvent { .. })))
        ));
    }
    let volume = sample_with("tags-changed.json", |event| {
        event["detail"]["resource-type"] = json!("volume");
    });
    assert!(matches!(
        read(&volume),
        Ok(Payload::Single(Reading::Ignored(Ignored::OtherResource { .. })))
    ));
}

#[test]
fn a_deleted_tag_stands_only_among_the_changed_keys_and_still_wakes_us() {
    let deleted = sample_with("tags-changed.json", |event| event["detail"]["tags"] = json!({}));
    assert_eq!(read_summary(&deleted), "TagChange: 123456789012/us-east-1/i-0123456789abcdef0");
}

#[test]
fn messages_are_read_each_on_its_own() {
    let record =
        |id: &str, body: Value| json!({ "messageId": id, "body": body, "eventSource": "aws:sqs" });
    let deep = format!("{}{}", "[".repeat(10_000), "]".repeat(10_000));
    let mut late = record("late", json!(sample("instance-running.json")));
    late["attributes"] = json!({ "ApproximateReceiveCount": "4" });
    let batch = json!({ "Records": [
        record("good", json!(sample("instance-running.json"))),
        record("person", json!(sample("invocation.json"))),
        record("nested", json!(json!({ "Records": [] }).to_string())),
        record("deep", json!(deep)),
        record("empty", json!("")),
        record("no-text", json!(7)),
        { "messageId": "no-body" },
        late,
    ] });
    insta::assert_snapshot!(read_summary(&batch.to_string()));
    let nameless = json!({ "Records": [{ "body": "{}" }] }).to_string();
    assert_eq!(read_summary(&nameless), "malformed: the SQS message has no messageId");
    let topic = json!({ "Records": [{ "EventSource": "aws:sns" }] }).to_string();
    assert!(read_summary(&topic).starts_with("ignored"));
    let bucket = json!({ "Records": [{ "eventSource": "aws:s3" }] }).to_string();
    assert_eq!(read_summary(&bucket), "ignored: records from \"aws:s3\" are not for this function");
}
