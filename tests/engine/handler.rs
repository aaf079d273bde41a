//! Lambda's side over a modelled world: payload in, answer out.

use std::time::Duration;

use auto_instance_profile::bus::Bus;
use auto_instance_profile::cloud::{Clouds, ErrorKind, Operation};
use auto_instance_profile::config::Config;
use auto_instance_profile::handler::{Handler, RawPayload};
use auto_instance_profile::queue::Queues;
use lambda_runtime::{Context, Diagnostic, LambdaEvent};
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::common::fake::FakeCloud;
use crate::common::faulty::{Fault, Faulty};
use crate::common::world::{Call, World};
use crate::reconcile::ID;

const OTHER: &str = "i-0fedcba9876543210";

pub fn config(mode: &str) -> Config {
    let config = Config::read(
        |name| match name {
            "ALLOWED_PROFILES" => Some("web,db,app/*".to_owned()),
            "MODE" => mode.split(' ').next().map(str::to_owned),
            "DEAD_LETTER_QUEUE_URL" => (mode == WITH_DEAD_LETTERS)
                .then(|| "https://sqs.us-east-1.amazonaws.com/123456789012/dead".to_owned()),
            "AWS_REGION" => Some("us-east-1".to_owned()),
            _ => None,
        },
        |_| unreachable!("no policy file is named"),
    );
    config.unwrap()
}

fn payload_of(payload: &Value) -> RawPayload {
    RawPayload(Some(RawValue::from_string(payload.to_string()).unwrap()))
}

pub async fn invoke<A: Clouds + Queues + Bus>(
    aws: A,
    mode: &str,
    payload: Value,
) -> Result<Value, Diagnostic> {
    let event = LambdaEvent::new(payload_of(&payload), Context::default());
    let answer = Handler::new(config(mode), aws).handle(event).await;
    answer.map(|answer| serde_json::to_value(answer).unwrap()).map_err(Into::into)
}

pub fn running(id: &str) -> Value {
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
        "detail": { "service": "ec2", "resource-type": "instance", "changed-tag-keys": [changed],
            "tags": { "InstanceProfile": "web" } },
    })
}

fn batch(bodies: &[(&str, String)]) -> Value {
    let records: Vec<Value> = bodies
        .iter()
        .map(|(id, body)| json!({ "messageId": id, "body": body, "eventSource": "aws:sqs" }))
        .collect();
    json!({ "Records": records })
}

pub fn failures(answer: &Value) -> Vec<&str> {
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
        .failing(Operation::AssociateIamInstanceProfile, Fault::Fails(ErrorKind::Rejected));
    let answer = invoke(cloud, "enforce", json!({ "instance-ids": [ID] })).await.unwrap();
    let row = &answer["instances"][0];
    assert_eq!((&row["outcome"], &row["error"]["type"]), (&json!("failed"), &json!("Rejected")));
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

const QUEUE: &str = "arn:aws:sqs:us-east-1:123456789012:auto-instance-profile";

/// A message as Lambda hands it over, received so often.
pub fn message(id: &str, body: &str, receives: u32) -> Value {
    json!({
        "messageId": id, "body": body, "eventSource": "aws:sqs", "eventSourceARN": QUEUE,
        "receiptHandle": format!("handle-of-{id}"),
        "attributes": { "ApproximateReceiveCount": receives.to_string() },
    })
}

/// The delay each message was given, in whole seconds.
fn delays(cloud: &FakeCloud) -> Vec<(String, u64)> {
    let hidden = cloud.queues().hidden.clone();
    let delay = |(receipt, time): (String, Duration)| {
        (receipt.trim_start_matches("handle-of-").to_owned(), time.as_secs())
    };
    hidden.into_iter().map(delay).collect()
}

pub const WITH_DEAD_LETTERS: &str = "enforce with a dead-letter queue";

#[tokio::test(start_paused = true)]
async fn each_message_that_is_not_done_comes_again_when_its_cause_says() {
    let unseen = "i-00000000000000001";
    let cloud = FakeCloud::of(
        world()
            .running(ID, Some("new"), None)
            .running(OTHER, Some("web"), None)
            .profile("new")
            .unknown_to_ec2("new"),
    );
    let faulty = Faulty::of(cloud.clone())
        .working(Operation::AssociateIamInstanceProfile)
        .failing(Operation::AssociateIamInstanceProfile, Fault::Fails(ErrorKind::Transient));
    let payload = json!({ "Records": [
        message("made-seconds-ago", &running(ID).to_string(), 1),
        message("made-a-while-ago", &running(ID).to_string(), 2),
        message("unseen", &running(unseen).to_string(), 1),
    ]});
    // `new` is no allowed name: the list is web, db and app/*.
    let answer = invoke(faulty, WITH_DEAD_LETTERS, payload).await.unwrap();
    assert_eq!(failures(&answer), ["unseen"], "what is not allowed is done");
    let delays = delays(&cloud);
    let (last, leases) = delays.split_last().unwrap();
    assert!(leases.iter().all(|(_, lease)| *lease == 5), "{delays:?}");
    assert!(last.0 == "unseen" && (10..=12).contains(&last.1), "{delays:?}");
}

#[tokio::test(start_paused = true)]
async fn a_profile_made_seconds_ago_is_tried_soon_and_then_later() {
    let delay = async |receives: u32| {
        let cloud = FakeCloud::of(world().running(ID, Some("web"), None).unknown_to_ec2("web"));
        let payload = json!({ "Records": [message("m", &running(ID).to_string(), receives)] });
        let answer = invoke(cloud.clone(), WITH_DEAD_LETTERS, payload).await.unwrap();
        assert_eq!(failures(&answer), ["m"]);
        delays(&cloud)[0].1
    };
    assert!((10..=12).contains(&delay(1).await));
    assert!((20..=25).contains(&delay(2).await));
}

#[tokio::test(start_paused = true)]
async fn what_lacks_a_right_comes_again_slowly_and_is_then_given_up_with_the_reason() {
    let denied = || {
        FakeCloud::of(world().running(ID, Some("web"), None).denying(
            Call::Associate,
            "iam:PassRole on resource: arn:aws:iam::123456789012:role/web-role",
        ))
    };
    let (first, last) = (denied(), denied());
    let payload =
        |receives| json!({ "Records": [message("m", &running(ID).to_string(), receives)] });
    let answer = invoke(first.clone(), WITH_DEAD_LETTERS, payload(1)).await.unwrap();
    assert_eq!(failures(&answer), ["m"]);
    assert!((300..=375).contains(&delays(&first)[0].1));
    let answer = invoke(last.clone(), WITH_DEAD_LETTERS, payload(5)).await.unwrap();
    assert_eq!(failures(&answer), Vec::<&str>::new(), "it is safe in the dead-letter queue");
    let letters = last.queues().dead_letters.clone();
    let (id, error_type, error) = &letters[0];
    assert_eq!((id.as_str(), error_type.as_str()), ("m", "Denied"));
    assert!(error.contains(ID) && error.contains("role/web-role"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn poison_is_given_up_at_once_and_delays_nobody() {
    let cloud = FakeCloud::of(world().running(ID, Some("web"), None));
    let payload = json!({ "Records": [
        message("poison", "{", 1),
        message("good", &running(ID).to_string(), 1),
    ]});
    let answer = invoke(cloud.clone(), WITH_DEAD_LETTERS, payload).await.unwrap();
    assert_eq!(failures(&answer), Vec::<&str>::new());
    assert_eq!(cloud.queues().dead_letters[0].1, "MalformedEvent");
    assert_eq!(cloud.world().writes.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_lost_where_the_queues_do_not_answer() {
    let cloud = FakeCloud::of(world());
    cloud.queues().fail = true;
    let payload = json!({ "Records": [
        message("poison", "{", 1),
        message("unseen", &running(ID).to_string(), 1),
    ]});
    let answer = invoke(cloud, WITH_DEAD_LETTERS, payload).await.unwrap();
    assert_eq!(failures(&answer), ["poison", "unseen"]);
}

#[tokio::test(start_paused = true)]
async fn without_a_dead_letter_queue_poison_stays_for_the_queue_to_give_up() {
    let cloud = FakeCloud::of(world());
    let payload = json!({ "Records": [message("poison", "{", 1)] });
    let answer = invoke(cloud.clone(), "enforce", payload).await.unwrap();
    assert_eq!(failures(&answer), ["poison"]);
    assert_eq!(delays(&cloud), [("poison".to_owned(), 20)]);
}

#[tokio::test(start_paused = true)]
async fn a_message_of_several_parts_is_given_up_only_for_what_is_left() {
    let mut event = tagged(ID, "InstanceProfile");
    event["resources"].as_array_mut().unwrap().push(json!("junk"));
    let payload = |receives| json!({ "Records": [message("mixed", &event.to_string(), receives)] });
    // The instance is not there yet: the junk waits for it.
    let cloud = FakeCloud::of(world());
    let answer = invoke(cloud.clone(), WITH_DEAD_LETTERS, payload(1)).await.unwrap();
    assert_eq!(failures(&answer), ["mixed"]);
    assert_eq!(cloud.queues().dead_letters, []);
    let cloud = FakeCloud::of(world().running(ID, Some("web"), None));
    let answer = invoke(cloud.clone(), WITH_DEAD_LETTERS, payload(2)).await.unwrap();
    assert_eq!(failures(&answer), Vec::<&str>::new());
    assert_eq!(cloud.queues().dead_letters[0].1, "MalformedEvent");
}

#[tokio::test(start_paused = true)]
async fn a_batch_that_takes_its_time_keeps_its_messages_hidden() {
    let cloud = FakeCloud::of(world().running(ID, Some("web"), None));
    let faulty =
        Faulty::of(cloud.clone()).failing(Operation::AssociateIamInstanceProfile, Fault::Hangs);
    let payload = json!({ "Records": [message("hangs", &running(ID).to_string(), 1)] });
    let answer = invoke(faulty, WITH_DEAD_LETTERS, payload).await.unwrap();
    assert_eq!(failures(&answer), ["hangs"]);
    let delays = delays(&cloud);
    let (last, leases) = delays.split_last().unwrap();
    assert!(leases.len() >= 2 && leases.iter().all(|(_, lease)| *lease == 5), "{delays:?}");
    assert!((1..=2).contains(&last.1), "crowded out, so it comes again soon: {delays:?}");
}

#[tokio::test(start_paused = true)]
async fn a_quick_event_asks_the_queue_for_nothing() {
    let cloud = FakeCloud::of(world().running(ID, Some("web"), None));
    let payload = json!({ "Records": [message("m", &running(ID).to_string(), 1)] });
    invoke(cloud.clone(), WITH_DEAD_LETTERS, payload).await.unwrap();
    assert_eq!(delays(&cloud), []);
}

#[tokio::test(start_paused = true)]
async fn patience_lasts_three_receives_and_three_minutes() {
    #[expect(clippy::disallowed_methods, reason = "SQS's times are wall-clock times")]
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let received = async |receives: u32, seconds_ago: u64| {
        let mut message = message("m", &running(ID).to_string(), receives);
        let sent = now.saturating_sub(Duration::from_secs(seconds_ago));
        message["attributes"]["SentTimestamp"] = json!(sent.as_millis().to_string());
        let cloud = FakeCloud::of(world());
        let answer = invoke(cloud, WITH_DEAD_LETTERS, json!({ "Records": [message] })).await;
        failures(&answer.unwrap()).len()
    };
    assert_eq!(received(3, 60).await, 1, "young, so it may come to be seen");
    assert_eq!(received(2, 600).await, 1, "seldom looked for");
    assert_eq!(received(3, 600).await, 0, "gone");
}

#[tokio::test(start_paused = true)]
async fn the_start_fetches_the_profiles_that_are_named_without_a_wildcard() {
    let cloud = FakeCloud::of(world().running(ID, Some("web"), None));
    let handler = Handler::new(config("enforce"), cloud.clone());
    handler.get_ready().await;
    assert_eq!(cloud.world().calls, [Call::GetInstanceProfile, Call::GetInstanceProfile]);
    cloud.world().calls.clear();
    let event = LambdaEvent::new(payload_of(&running(ID)), Context::default());
    handler.handle(event).await.unwrap();
    let calls = cloud.world().calls.clone();
    assert_eq!(calls.len(), 3, "two reads at once and the write: {calls:?}");
    assert_eq!(calls.last(), Some(&Call::Associate));
}

#[tokio::test(start_paused = true)]
async fn a_start_that_fails_or_hangs_costs_time_and_nothing_else() {
    for fault in [Fault::Fails(ErrorKind::Transient), Fault::Hangs] {
        let cloud = FakeCloud::of(world().running(ID, Some("web"), None));
        let faulty = Faulty::of(cloud.clone())
            .failing(Operation::GetInstanceProfile, fault.clone())
            .failing(Operation::GetInstanceProfile, fault);
        let handler = Handler::new(config("enforce"), faulty);
        let started = tokio::time::Instant::now();
        handler.get_ready().await;
        assert!(started.elapsed() <= Duration::from_secs(3));
        let event = LambdaEvent::new(payload_of(&running(ID)), Context::default());
        handler.handle(event).await.unwrap();
        assert_eq!(cloud.world().writes.len(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_profile_believed_for_too_long_is_asked_for_beside_the_look() {
    let cloud =
        FakeCloud::of(world().running(ID, Some("web"), None).running(OTHER, Some("web"), None));
    let handler = Handler::new(config("enforce"), cloud.clone());
    let event = |id| LambdaEvent::new(payload_of(&running(id)), Context::default());
    handler.handle(event(ID)).await.unwrap();
    tokio::time::sleep(Duration::from_mins(6)).await;
    let started = tokio::time::Instant::now();
    handler.handle(event(OTHER)).await.unwrap();
    assert_eq!(started.elapsed(), Duration::from_millis(40), "two round trips of 20 ms");
    let asked =
        cloud.world().calls.iter().filter(|call| **call == Call::GetInstanceProfile).count();
    assert_eq!(asked, 2);
}

#[tokio::test(start_paused = true)]
async fn a_payload_is_kept_as_it_came_and_what_is_no_json_is_answered_by_us() {
    let kept: RawPayload = serde_json::from_str(r#"{ "a" : 1 }"#).unwrap();
    assert_eq!(kept.0.as_deref().map(RawValue::get), Some(r#"{ "a" : 1 }"#));
    let broken: RawPayload = serde_json::from_str("{").unwrap();
    assert!(broken.0.is_none());
    let handler = Handler::new(config("enforce"), FakeCloud::of(world()));
    let error = handler.handle(LambdaEvent::new(broken, Context::default())).await.unwrap_err();
    assert!(format!("{error:?}").starts_with("MalformedEvent: "), "{error:?}");
}

#[tokio::test(start_paused = true)]
async fn a_start_with_no_profile_to_fetch_only_connects() {
    let only_patterns = Config::read(
        |name| match name {
            "ALLOWED_PROFILES" => Some("app/*".to_owned()),
            "AWS_REGION" => Some("us-east-1".to_owned()),
            _ => None,
        },
        |_| unreachable!("no policy file is named"),
    );
    let cloud = FakeCloud::of(world());
    let started = tokio::time::Instant::now();
    Handler::new(only_patterns.unwrap(), cloud.clone()).get_ready().await;
    assert_eq!(started.elapsed(), Duration::from_millis(20), "to EC2 and IAM at once");
    assert_eq!(cloud.world().calls, []);
}

#[tokio::test(start_paused = true)]
async fn a_profile_that_ec2_does_not_know_is_asked_for_again_and_one_that_served_is_not() {
    let asked = async |world: World| {
        let cloud = FakeCloud::of(world.running(OTHER, Some("web"), None));
        let handler = Handler::new(config("enforce"), cloud.clone());
        for id in [ID, OTHER] {
            let event = LambdaEvent::new(payload_of(&running(id)), Context::default());
            let _ = handler.handle(event).await;
        }
        let world = cloud.world();
        world.calls.iter().filter(|call| **call == Call::GetInstanceProfile).count()
    };
    assert_eq!(asked(world().running(ID, Some("web"), None)).await, 1);
    assert_eq!(asked(world().running(ID, Some("web"), None).unknown_to_ec2("web")).await, 2);
}

fn ending_in(time: Duration) -> Context {
    #[expect(clippy::disallowed_methods, reason = "Lambda's deadline is a wall-clock time")]
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let mut context = Context::default();
    context.deadline = u64::try_from((now + time).as_millis()).unwrap();
    context
}

#[tokio::test(start_paused = true)]
async fn a_batch_with_little_time_does_what_is_short() {
    let context = ending_in(Duration::from_millis(900));
    let cloud = FakeCloud::of(world().running(ID, Some("web"), None));
    let payload = json!({ "Records": [message("m", &running(ID).to_string(), 1)] });
    let event = LambdaEvent::new(payload_of(&payload), context);
    let answer = Handler::new(config(WITH_DEAD_LETTERS), cloud.clone()).handle(event).await;
    assert_eq!(failures(&serde_json::to_value(answer.unwrap()).unwrap()), Vec::<&str>::new());
    assert_eq!(cloud.world().writes.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_deadline_is_kept_unless_lambda_cannot_have_meant_it() {
    for (deadline, longest) in [(5, 5), (3_600, 25)].map(|(a, b)| (Duration::from_secs(a), b)) {
        let cloud = FakeCloud::of(world().running(ID, Some("web"), None));
        let hangs = Fault::Hangs;
        let faulty = Faulty::of(cloud).failing(Operation::AssociateIamInstanceProfile, hangs);
        let payload = json!({ "Records": [message("m", &running(ID).to_string(), 1)] });
        let event = LambdaEvent::new(payload_of(&payload), ending_in(deadline));
        let started = tokio::time::Instant::now();
        let answer = Handler::new(config("enforce"), faulty).handle(event).await.unwrap();
        assert_eq!(failures(&serde_json::to_value(answer).unwrap()), ["m"]);
        assert!(started.elapsed() < Duration::from_secs(longest), "{:?}", started.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn a_message_is_given_up_before_the_queue_would_drop_it() {
    #[expect(clippy::disallowed_methods, reason = "SQS's times are wall-clock times")]
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    for (hours, failed, letters) in [(83, 1, 0), (85, 0, 1), (15 * 24, 1, 0)] {
        // It may not be written, and so waits for AWS's rate.
        let mut message = message("m", &running(ID).to_string(), 1);
        let sent = now.saturating_sub(Duration::from_hours(hours));
        message["attributes"]["SentTimestamp"] = json!(sent.as_millis().to_string());
        let cloud = FakeCloud::of(world().running(ID, Some("web"), None));
        let faulty = Faulty::of(cloud.clone()).failing_times(
            Operation::AssociateIamInstanceProfile,
            &Fault::Fails(ErrorKind::Throttled),
            9,
        );
        let answer = invoke(faulty, WITH_DEAD_LETTERS, json!({ "Records": [message] })).await;
        let found = (failures(&answer.unwrap()).len(), cloud.queues().dead_letters.len());
        assert_eq!(found, (failed, letters), "{hours} hours; no queue keeps a message 15 days");
    }
}
