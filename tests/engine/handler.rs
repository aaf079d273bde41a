//! Lambda's side over a modelled world: payload in, answer out.

use auto_instance_profile::cloud::{Clouds, ErrorKind, Operation};
use auto_instance_profile::config::Config;
use auto_instance_profile::handler::{Handler, RawPayload};
use lambda_runtime::{Context, Diagnostic, LambdaEvent};
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::common::fake::FakeCloud;
use crate::common::faulty::{Fault, Faulty};
use crate::common::world::{Call, World};
use crate::reconcile::ID;

const OTHER: &str = "i-0fedcba9876543210";

async fn invoke<C: Clouds>(clouds: C, mode: &str, payload: Value) -> Result<Value, Diagnostic> {
    let config = Config::read(
        |name| match name {
            "ALLOWED_PROFILES" => Some("web,db,app/*".to_owned()),
            "MODE" => Some(mode.to_owned()),
            "AWS_REGION" => Some("us-east-1".to_owned()),
            _ => None,
        },
        |_| unreachable!("no policy file is named"),
    );
    let payload = RawPayload(Some(RawValue::from_string(payload.to_string()).unwrap()));
    let event = LambdaEvent::new(payload, Context::default());
    let answer = Handler::new(config.unwrap(), clouds).handle(event).await;
    answer.map(|answer| serde_json::to_value(answer).unwrap()).map_err(Into::into)
}

fn running(id: &str) -> Value {
    json!({
        "source": "aws.ec2", "detail-type": "EC2 Instance State-change Notification",
        "account": "123456789012", "region": "us-east-1", "detail": { "instance-id": id, "state": "running" },
    })
}

fn tagged(id: &str, changed: &str) -> Value {
    json!({
        "source": "aws.tag", "detail-type": "Tag Change on Resource",
        "account": "123456789012", "region": "us-east-1",
        "resources": [format!("arn:aws:ec2:us-east-1:123456789012:instance/{id}")],
        "detail": { "service": "ec2", "resource-type": "instance", "changed-tag-keys": [changed], "tags": {} },
    })
}

fn batch(bodies: &[(&str, String)]) -> Value {
    let records: Vec<Value> = bodies
        .iter()
        .map(|(id, body)| json!({ "messageId": id, "body": body, "eventSource": "aws:sqs" }))
        .collect();
    json!({ "Records": records })
}

fn failures(answer: &Value) -> Vec<&str> {
    let failures = answer["batchItemFailures"].as_array().unwrap();
    failures.iter().map(|failure| failure["itemIdentifier"].as_str().unwrap()).collect()
}

fn world() -> World {
    World::new().profile("web").profile("db")
}

#[tokio::test(start_paused = true)]
async fn a_direct_event_is_answered_with_a_report() {
    let cloud = FakeCloud::of(world().running(ID, Some("web"), Some("db")));
    let answer = invoke(cloud, "enforce", running(ID)).await.unwrap();
    insta::assert_json_snapshot!(answer);
}

#[tokio::test(start_paused = true)]
async fn a_person_is_answered_for_every_instance_in_the_order_asked_for() {
    let cloud = FakeCloud::of(world().running(ID, Some("web"), None).stopped(
        OTHER,
        Some("oops!"),
        Some("db"),
    ));
    let payload = json!({
        "instance-ids": [OTHER, ID, "i-00000000000000000", ID, "i-*"], "dry-run": true,
    });
    let answer = invoke(cloud.clone(), "enforce", payload).await.unwrap();
    insta::assert_json_snapshot!(answer);
    assert_eq!(cloud.world().writes, []);
}

#[tokio::test(start_paused = true)]
async fn the_mode_dry_run_is_no_wish_that_an_invocation_could_overrule() {
    let cloud = FakeCloud::of(world().running(ID, Some("web"), None));
    let payload = json!({ "instance-ids": [ID], "dry-run": false });
    let answer = invoke(cloud.clone(), "dry-run", payload).await.unwrap();
    assert_eq!(
        (&answer["mode"], &answer["instances"][0]["outcome"]),
        (&json!("dry-run"), &json!("planned"))
    );
    invoke(cloud.clone(), "dry-run", running(ID)).await.unwrap();
    assert_eq!(cloud.world().writes, []);
}

#[tokio::test(start_paused = true)]
async fn a_direct_event_that_is_not_done_fails_with_stable_words_and_the_whole_chain() {
    let cloud = FakeCloud::of(world().running(ID, Some("web"), None).denying(
        Call::Associate,
        "iam:PassRole on resource: arn:aws:iam::123456789012:role/web-role",
    ));
    let error = invoke(cloud, "enforce", running(ID)).await.unwrap_err();
    insta::assert_snapshot!(format!("{}\n{}", error.error_type, error.error_message));
}

#[tokio::test(start_paused = true)]
async fn a_person_sees_failures_as_rows() {
    let cloud = Faulty::of(FakeCloud::of(world().running(ID, Some("web"), None)))
        .failing(Operation::AssociateIamInstanceProfile, Fault::Fails(ErrorKind::Throttled));
    let answer = invoke(cloud, "enforce", json!({ "instance-ids": [ID] })).await.unwrap();
    let row = &answer["instances"][0];
    assert_eq!((&row["outcome"], &row["error"]["type"]), (&json!("failed"), &json!("Throttled")));
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_read_is_an_error_and_what_is_foreign_is_not() {
    let cloud = FakeCloud::of(world());
    for payload in [json!(null), json!([]), json!({}), json!({ "instance-ids": [7] })] {
        let error = invoke(cloud.clone(), "enforce", payload).await.unwrap_err();
        assert_eq!(error.error_type, "MalformedEvent");
    }
    let foreign = json!({ "source": "aws.events", "detail-type": "Scheduled Event", "detail": {} });
    let answer = invoke(cloud.clone(), "enforce", foreign).await.unwrap();
    assert!(answer["ignored"].as_str().unwrap().contains("Scheduled Event"));
    let other_tag = invoke(cloud.clone(), "enforce", tagged(ID, "CostCenter")).await.unwrap();
    assert!(other_tag["ignored"].as_str().unwrap().contains("CostCenter"));
    assert_eq!(cloud.world().calls, [], "no API call for what is ignored or unreadable");
}

#[tokio::test(start_paused = true)]
async fn one_illegal_resource_of_a_tag_event_stops_no_other() {
    let cloud = FakeCloud::of(world().running(ID, Some("web"), None));
    let mut event = tagged(ID, "InstanceProfile");
    event["resources"].as_array_mut().unwrap().push(json!("junk"));
    let answer =
        invoke(cloud.clone(), "enforce", batch(&[("mixed", event.to_string())])).await.unwrap();
    assert_eq!(failures(&answer), ["mixed"], "what is illegal needs a person");
    assert_eq!(cloud.world().writes.len(), 1);
    let error = invoke(cloud, "enforce", event).await.unwrap_err();
    assert_eq!(error.error_type, "MalformedEvent");
}

#[tokio::test(start_paused = true)]
async fn the_mode_is_said_even_where_no_instance_is_legal() {
    let asked = json!({ "instance-ids": ["nope"], "dry-run": true });
    let answer = invoke(FakeCloud::of(world()), "enforce", asked).await.unwrap();
    assert_eq!(answer["mode"], "dry-run");
}

#[tokio::test(start_paused = true)]
async fn a_batch_reports_only_the_messages_that_are_not_done() {
    let cloud = FakeCloud::of(
        world()
            .running(ID, Some("web"), None)
            .stopped(OTHER, Some("new"), None)
            .profile_at("/app/", "x"),
    );
    let unknown = "i-00000000000000001";
    let payload = batch(&[
        ("good", running(ID).to_string()),
        ("same-instance", tagged(ID, "InstanceProfile").to_string()),
        ("broken", "{".to_owned()),
        ("foreign", json!({ "source": "x", "detail-type": "y" }).to_string()),
        ("not-yet", running(OTHER).to_string()),
        ("unseen", running(unknown).to_string()),
        ("unseen-too", running(unknown).to_string()),
    ]);
    let answer = invoke(cloud.clone(), "enforce", payload).await.unwrap();
    assert_eq!(failures(&answer), ["broken", "not-yet", "unseen", "unseen-too"]);
    assert_eq!(
        cloud.world().writes.len(),
        1,
        "two messages about one instance are one piece of work"
    );
}

#[tokio::test(start_paused = true)]
async fn an_empty_batch_is_done() {
    let answer = invoke(FakeCloud::of(world()), "enforce", json!({ "Records": [] })).await.unwrap();
    assert_eq!(failures(&answer), Vec::<&str>::new());
}

#[tokio::test(start_paused = true)]
async fn unseen_instances_are_gone_once_every_message_about_them_is_old() {
    let message = |id: &str, receives: &str| {
        json!({
            "messageId": id, "body": running(ID).to_string(),
            "attributes": { "ApproximateReceiveCount": receives },
        })
    };
    let old = json!({ "Records": [message("old", "3")] });
    let answer = invoke(FakeCloud::of(world()), "enforce", old).await.unwrap();
    assert_eq!(failures(&answer), Vec::<&str>::new());
    let mixed = json!({ "Records": [message("old", "3"), message("new", "1")] });
    let answer = invoke(FakeCloud::of(world()), "enforce", mixed).await.unwrap();
    assert_eq!(failures(&answer), ["old", "new"]);
}

#[tokio::test(start_paused = true)]
async fn a_batch_ends_with_its_unfinished_messages_when_time_runs_out() {
    let cloud = FakeCloud::of(world().running(ID, Some("web"), None).running(
        OTHER,
        Some("web"),
        Some("web"),
    ));
    let faulty = Faulty::of(cloud).failing(Operation::AssociateIamInstanceProfile, Fault::Hangs);
    let payload =
        batch(&[("hangs", running(ID).to_string()), ("right", running(OTHER).to_string())]);
    let answer = invoke(faulty, "enforce", payload).await.unwrap();
    assert_eq!(failures(&answer), ["hangs"]);
}
