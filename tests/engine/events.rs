//! Every file in events/ to what it is read as; and payloads nobody should send.

use std::fs;
use std::path::Path;

use auto_instance_profile::event::{Caller, Ignored, Message, Payload, Reader, Reading};
use auto_instance_profile::expectation::Expectation;
use auto_instance_profile::model::{AccountId, Region};
use serde_json::{Value, json};

fn read(json: &str) -> Result<Payload, String> {
    let caller = Caller {
        account: Some(AccountId::parse("123456789012").unwrap()),
        region: Some(Region::parse("us-east-1").unwrap()),
        role: Some(
            "arn:aws:iam::123456789012:role/auto-instance-profile-FunctionRole-0123456789AB".into(),
        ),
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
        Reading::Sweep(request) => format!("{request:?}"),
        Reading::Verify(verification) => format!("{verification:?}"),
        Reading::FinishSwap(detached) => format!("{detached:?}"),
        Reading::Trigger(trigger) => {
            let targets: Vec<String> = trigger
                .targets
                .iter()
                .map(|target| {
                    let instance = &target.instance;
                    let account = instance.account.as_ref().map_or("?", |account| account.as_str());
                    let announced = match &target.expected {
                        none if *none == Expectation::default() => String::new(),
                        expected => format!(", expecting {expected}"),
                    };
                    format!("{account}/{}/{}{announced}", instance.region, instance.id)
                })
                .collect();
            let illegal: Vec<String> = trigger.illegal.iter().map(ToString::to_string).collect();
            let by = trigger.occasion.by.as_ref().map_or(String::new(), |by| format!(" by {by}"));
            format!("{:?}{by}: {}", trigger.origin, [targets, illegal].concat().join(", "))
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
        ("aws.iam", "AWS API Call via CloudTrail"),
        ("aws.ec2", "AWS Service Event via CloudTrail"),
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
    assert_eq!(
        read_summary(&deleted),
        "TagChange: 123456789012/us-east-1/i-0123456789abcdef0, expecting these tags alone: []"
    );
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

#[test]
fn odd_envelopes_are_read_like_others() {
    let remove = |field: &'static str| {
        move |event: &mut Value| drop(event.as_object_mut().unwrap().remove(field))
    };
    for name in [
        "instance-running.json",
        "tags-changed.json",
        "drift-associate.json",
        "drift-run-instances.json",
    ] {
        let usual = read_summary(&sample(name));
        let mut odd = vec![
            sample_with(name, |event| event["version"] = json!(0)),
            sample_with(name, |event| event["version"] = json!({ "major": 1 })),
            sample_with(name, |event| event["id"] = json!(17)),
            sample_with(name, |event| event["time"] = json!("yesterday")),
            sample_with(name, |event| event["time"] = json!(1_793_611_300)),
            sample_with(name, |event| event["time"] = json!(null)),
            sample_with(name, |event| event["replay-name"] = json!(["archive"])),
            sample_with(name, |event| event["detail"]["version"] = json!(5)),
            sample_with(name, |event| event["detail"]["version"] = json!(null)),
            sample_with(name, |event| event["detail"]["of-tomorrow"] = json!({})),
            sample_with(name, remove("version")),
            sample_with(name, remove("id")),
            sample_with(name, remove("time")),
        ];
        if name != "tags-changed.json" {
            odd.push(sample_with(name, remove("resources")));
            odd.push(sample_with(name, |event| event["resources"] = json!({ "of": "others" })));
            odd.push(sample_with(name, |event| event["resources"] = json!([1])));
        }
        for event in odd {
            assert_eq!(read_summary(&event), usual, "{event}");
        }
    }
}

#[test]
fn an_events_own_time_is_read_where_it_is_one() {
    for (time, at_ms) in [
        (json!("2026-11-02T09:21:40Z"), Some(1_793_611_300_000)),
        (json!("2026-11-02T09:21:40.250+01:00"), Some(1_793_607_700_250)),
        (json!("2026-11-02"), None),
        (json!(1_793_611_300), None),
    ] {
        let event = sample_with("instance-running.json", |event| event["time"] = time.clone());
        let Ok(Payload::Single(Reading::Trigger(trigger))) = read(&event) else { panic!("{time}") };
        assert_eq!(trigger.occasion.at_ms, at_ms, "{time}");
    }
}

#[test]
fn an_object_is_nothing_but_an_object() {
    for payload in [
        r#"{"sweep": []}"#,
        r#"{"sweep": null}"#,
        r#"{"sweep": "x"}"#,
        r#"{"sweep": [{}]}"#,
        r#"{"sweep": {"filters": []}}"#,
        r#"{"instance-ids": {}}"#,
        r#"{"instance-ids": {"0": "i-1"}}"#,
        r#"{"source": "aws.ec2", "detail-type": "EC2 Instance State-change Notification", "account": "123456789012",
            "region": "us-east-1", "detail": ["i-0123456789abcdef0"]}"#,
        r#"{"source": "aws.tag", "detail-type": "Tag Change on Resource",
            "resources": ["arn:aws:ec2:us-east-1:123456789012:instance/i-0123456789abcdef0"],
            "detail": [["InstanceProfile"], "ec2", "instance", {}]}"#,
        r#"{"source": "aws.ec2", "detail-type": "AWS API Call via CloudTrail", "account": "123456789012",
            "region": "us-east-1", "detail": ["RunInstances", null, null, {}]}"#,
    ] {
        let said = read_summary(payload);
        assert!(said.starts_with("malformed: "), "{payload}: {said}");
        assert!(said.contains("expected a"), "{payload}: {said}");
    }
}

// ---- CloudTrail --------------------------------------------------------------------------------------------------------

const TRAIL: [&str; 4] = [
    "drift-associate.json",
    "drift-disassociate.json",
    "drift-replace.json",
    "drift-run-instances.json",
];

fn is_ignored(json: &str) -> bool {
    matches!(read(json), Ok(Payload::Single(Reading::Ignored(_))))
}

#[test]
fn a_call_that_changed_something_and_cannot_be_read_is_an_error() {
    for name in TRAIL {
        let call = |change: &dyn Fn(&mut Value)| sample_with(name, |event| change(event));
        for (event, why) in [
            (
                call(&|event| event["detail"]["responseElements"] = json!("none")),
                "no detail.responseElements with an instance's id",
            ),
            (call(&|event| event["account"] = json!(null)), "no account"),
            (call(&|event| event["account"] = json!("12")), "illegal account"),
            (call(&|event| event["region"] = json!(null)), "no region"),
            (call(&|event| event["region"] = json!("../..")), "illegal region"),
            (call(&|event| event["detail"] = json!(null)), "cannot be read"),
            (call(&|event| event["detail"] = json!([])), "cannot be read"),
            (call(&|event| event["detail"]["eventName"] = json!(null)), "cannot be read"),
            (call(&|event| event["detail"]["errorCode"] = json!(7)), "cannot be read"),
        ] {
            let said = read_summary(&event);
            assert!(said.starts_with("malformed: the API call of CloudTrail"), "{name}: {said}");
            assert!(said.contains(why), "{name}: {said}, not {why}");
        }
    }
}

#[test]
fn a_call_whose_answer_cloudtrail_left_out_is_ignored() {
    for name in TRAIL {
        assert!(is_ignored(&sample_with(name, |event| {
            event["detail"]["responseElements"] = json!(null);
        })));
        assert!(is_ignored(&sample_with(name, |event| {
            event["detail"].as_object_mut().unwrap().remove("responseElements");
        })));
    }
}

#[test]
fn instances_of_a_launch_are_read_each_and_an_empty_launch_is_an_error() {
    let launch = |items: Value| {
        sample_with("drift-run-instances.json", |event| {
            event["detail"]["responseElements"]["instancesSet"]["items"] = items.clone();
        })
    };
    let readings = [
        launch(json!([])),
        launch(json!(null)),
        launch(json!({ "instanceId": "i-1" })),
        launch(json!([{ "instanceId": 7 }])),
        launch(json!([{ "instanceId": "" }])),
        launch(json!([{ "instanceId": "i-*" }])),
        launch(json!([{ "instanceId": "i-1" }, { "instanceId": "i-*" }, { "instanceId": "i-2" }])),
    ];
    let readings: Vec<_> = readings.iter().map(|event| read_summary(event)).collect();
    insta::assert_snapshot!(readings.join("\n"));
}

#[test]
fn an_answer_without_its_wrapping_is_read_all_the_same() {
    for name in &TRAIL[..3] {
        let bare = sample_with(name, |event| {
            let answer = event["detail"]["responseElements"].as_object_mut().unwrap();
            let inner = answer.values().next().unwrap().clone();
            event["detail"]["responseElements"] = inner;
        });
        assert_eq!(read_summary(&bare), read_summary(&sample(name)), "{name}");
    }
}

#[test]
fn a_call_that_failed_changed_nothing() {
    for name in TRAIL {
        for code in ["Client.UnauthorizedOperation", "Client.DryRunOperation", ""] {
            let failed = sample_with(name, |event| {
                event["detail"]["errorCode"] = json!(code);
                event["detail"]["responseElements"] = json!(null);
            });
            assert!(is_ignored(&failed), "{name} {code:?}: {}", read_summary(&failed));
        }
        // As some of CloudTrail's records have it.
        let worked = sample_with(name, |event| event["detail"]["errorCode"] = json!(null));
        assert_eq!(read_summary(&worked), read_summary(&sample(name)), "{name}");
    }
}

#[test]
fn the_functions_own_calls_are_ignored_and_nobody_elses() {
    let own = "arn:aws:iam::123456789012:role/auto-instance-profile-FunctionRole-0123456789AB";
    let by = |role: Value| {
        sample_with("drift-replace.json", |event| {
            event["detail"]["userIdentity"]["sessionContext"]["sessionIssuer"]["arn"] =
                role.clone();
        })
    };
    assert!(is_ignored(&by(json!(own))));
    for other in [
        json!(format!("{own}2")),
        json!(own.replace("123456789012", "111122223333")),
        json!(own.to_lowercase()),
        json!([own]),
        json!(null),
    ] {
        assert!(!is_ignored(&by(other.clone())), "{other}");
    }
    // What only looks like it: the name of a session is its user's to choose.
    let pretending = sample_with("drift-replace.json", |event| {
        event["detail"]["userIdentity"]["arn"] = json!(own);
        event["detail"]["userIdentity"]["sessionContext"]["sessionIssuer"]["userName"] =
            json!("auto-instance-profile-FunctionRole-0123456789AB");
    });
    assert!(!is_ignored(&pretending));
}

#[test]
fn who_called_is_the_principal_or_the_service() {
    let by = |identity: Value| {
        let event = sample_with("drift-replace.json", |event| {
            event["detail"]["userIdentity"] = identity.clone();
        });
        match read(&event) {
            Ok(Payload::Single(Reading::Trigger(trigger))) => trigger.occasion,
            other => panic!("{other:?}"),
        }
    };
    let alice = "arn:aws:iam::123456789012:user/alice";
    for (identity, who) in [
        (json!({ "arn": alice, "invokedBy": "AWS Internal" }), Some(alice)),
        (
            json!({ "type": "AWSService", "invokedBy": "autoscaling.amazonaws.com" }),
            Some("autoscaling.amazonaws.com"),
        ),
        (json!({ "arn": "", "invokedBy": "" }), None),
        (json!({ "arn": ["x"] }), None),
        (json!({}), None),
        (json!(null), None),
        (json!("root"), None),
    ] {
        let occasion = by(identity.clone());
        assert_eq!(occasion.by.as_deref(), who, "{identity}");
        // 2026-11-02T09:21:40Z
        assert_eq!(occasion.at_ms, Some(1_793_611_300_000));
    }
}

#[test]
fn calls_of_no_interest_are_ignored_and_their_names_are_cut() {
    let called = |name: &str, code: Option<&str>| {
        read_summary(&sample_with("drift-associate.json", |event| {
            event["detail"]["eventName"] = json!(name);
            event["detail"]["errorCode"] = json!(code);
        }))
    };
    let other = "ignored: the call \"StopInstances\" neither launches nor changes an association";
    assert_eq!(called("StopInstances", None), other);
    assert_eq!(called("StopInstances", Some("Client.X")), other);
    let long = "é\n\u{1b}[31m".repeat(100_000);
    for said in [called(&long, None), called("RunInstances", Some(&long))] {
        assert!(said.starts_with("ignored: the call"), "{said:.200}");
        assert!(said.len() < 1_000, "{}", said.len());
        assert!(!said.contains('\n') && !said.contains('\u{1b}'), "{said:.200}");
    }
}

#[test]
fn an_instance_id_of_any_length_is_cut() {
    let long = "i-".repeat(100_000);
    let event = sample_with("drift-associate.json", |event| {
        event["detail"]["responseElements"]["AssociateIamInstanceProfileResponse"]["iamInstanceProfileAssociation"]
            ["instanceId"] = json!(long);
    });
    let said = read_summary(&event);
    assert!(said.starts_with("malformed:") && said.len() < 1_000, "{said:.200}");
}

// ---- Sweeps ------------------------------------------------------------------------------------------------------------

#[test]
fn what_asks_for_a_sweep_is_read_and_what_cannot_be_meant_is_not() {
    let payloads = [
        r#"{"sweep": {}}"#,
        r#"{"sweep": {}, "dry-run": true}"#,
        r#"{"sweep": {"filters": {"tag:Environment": ["prod"], "vpc-id": ["vpc-1", "vpc-2"]}}}"#,
        r#"{"sweep": {}, "dry-run": false, "scheduled": true}"#,
        r#"{"sweep": {"progress": {"next": "t"}}}"#,
        r#"{"sweep": []}"#,
        r#"{"sweep": {}, "scheduled": "yes"}"#,
        r#"{"sweep": {"filters": {"vpc-id": []}}}"#,
        r#"{"sweep": {"filters": {"vpc-id": [""]}}}"#,
        r#"{"sweep": {"filters": {"": ["x"]}}}"#,
        r#"{"sweep": {"filters": {"vpc-id": "vpc-1"}}}"#,
        r#"{"sweep": {"filter": {}}}"#,
        r#"{"sweep": null}"#,
        r#"{"sweep": true}"#,
        r#"{"sweep": {}, "dryrun": true}"#,
        r#"{"sweep": {}, "instance-ids": ["i-1"]}"#,
        r#"{"instance-ids": ["i-1"], "found-by": "sweep"}"#,
        r#"{"instance-ids": ["i-1"], "found-by": "sweep", "dry-run": true}"#,
        r#"{"instance-ids": ["i-1"], "found-by": "event"}"#,
    ];
    let readings: Vec<String> =
        payloads.iter().map(|payload| format!("{payload}\n  {}", read_summary(payload))).collect();
    insta::assert_snapshot!(readings.join("\n"));
}

#[test]
fn what_is_ignored_or_refused_is_said_in_few_words_whatever_was_sent() {
    let long = "x".repeat(5_000);
    let volume = sample_with("tags-changed.json", |event| {
        event["detail"]["resource-type"] = json!("volume");
    });
    assert_eq!(
        read_summary(&volume),
        "ignored: a tag change on \"ec2\" \"volume\" is not about an instance"
    );
    for change in [
        |event: &mut Value, long: &str| event["detail"]["resource-type"] = json!(long),
        |event: &mut Value, long: &str| event["detail"]["changed-tag-keys"] = json!([long]),
        |event: &mut Value, long: &str| event["source"] = json!(long),
        |event: &mut Value, long: &str| event["detail"]["tags"] = json!(long),
    ] {
        let said = read_summary(&sample_with("tags-changed.json", |event| change(event, &long)));
        assert!(said.len() < 400, "{} characters: {said:.500}", said.len());
    }
    let said = read_summary(&json!({ "instance-ids": ["i-1"], long: true }).to_string());
    assert!(said.ends_with('…') && said.len() < 400, "{said:.500}");
}
