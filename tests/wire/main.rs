//! The built function, end to end: Lambda's runtime API on one side, an EC2, an IAM and an SQS that behave as the live ones
//! on the other. Each test looks at what Lambda is told and at what was written.
//!
//! What a function asks for while it starts is kept apart, in `start`; faults meet the events alone, if not planned for it.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says where")]

#[path = "../common/wires.rs"]
mod common;

mod faults;
mod pace;
mod queue;
mod start;
mod sweep;

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use common::runtime_api::{CREDENTIALS, Failure, Function, Invocation, run_to_its_end};
use common::wire::{Fault, Wire, bus};
use common::world::{Call, World, Write};
use serde_json::{Value, json};

const ONE: &str = "i-00000000000000001";
const TWO: &str = "i-00000000000000002";
const THREE: &str = "i-00000000000000003";
const ASSOCIATE: &str = "AssociateIamInstanceProfile";
const REPLACE: &str = "ReplaceIamInstanceProfileAssociation";
const DISASSOCIATE: &str = "DisassociateIamInstanceProfile";
const INSTANCES: &str = "DescribeInstances";
const ASSOCIATIONS: &str = "DescribeIamInstanceProfileAssociations";
const GET_PROFILE: &str = "GetInstanceProfile";
const HIDE: &str = "ChangeMessageVisibilityBatch";
const SEND: &str = "SendMessageBatch";
/// The wire's dead-letter queue, by whatever host.
const DEAD_LETTERS: &str =
    "https://sqs.us-east-1.amazonaws.com/123456789012/auto-instance-profile-dead-letters";

// ---- What is right is brought about ---------------------------------------------------------------------------------

#[tokio::test]
async fn a_bare_running_instance_gets_its_profile() {
    let wire = Wire::serve(a_world().running(ONE, Some("web"), None)).await;
    let mut function = function_allowing("web", &wire).await;
    let report = function.invoke(running(ONE)).await.unwrap();
    assert_eq!(row(&report), ("associate", "associated"));
    assert_eq!(wire.writes(), [associated(ONE, "web")]);
    let [request] = &wire.requests_of(ASSOCIATE)[..] else { panic!("one call") };
    assert_eq!(request.parameters["InstanceId"], ONE);
    assert_eq!(
        request.parameters["IamInstanceProfile.Arn"],
        "arn:aws:iam::123456789012:instance-profile/web"
    );
    assert!(!request.parameters.contains_key("IamInstanceProfile.Name"));

    // Seen again, it is right: EC2 still shows nothing in DescribeInstances, and the list says `associating`.
    let report = function.invoke(running(ONE)).await.unwrap();
    assert_eq!(row(&report), ("keep", "kept"));
    assert_eq!(wire.writes().len(), 1);
}

#[tokio::test]
async fn another_profile_on_a_running_instance_is_replaced_in_one_call() {
    let wire = Wire::serve(a_world().running(ONE, Some("web"), Some("old"))).await;
    let mut function = function_allowing("web", &wire).await;
    let report = function.invoke(tagged(ONE, "web")).await.unwrap();
    assert_eq!(row(&report), ("replace", "replaced"));
    assert_eq!(wire.writes(), [replaced(ONE, "web")]);

    // Two rows now, and a DescribeInstances that shows the old one: it is right all the same.
    assert_eq!(wire.world().associations.len(), 2);
    let report = function.invoke(running(ONE)).await.unwrap();
    assert_eq!(row(&report), ("keep", "kept"));
    assert_eq!(wire.writes().len(), 1);
}

#[tokio::test]
async fn another_profile_on_a_stopped_instance_is_swapped() {
    let wire = Wire::serve(a_world().stopped(ONE, Some("web"), Some("old"))).await;
    let mut function = swapping_function(&wire).await;
    let report = function.invoke(state_change(ONE, "stopped")).await.unwrap();
    assert_eq!(row(&report), ("swap", "swapped"));
    assert_eq!(wire.writes(), [disassociated(ONE, "old"), associated(ONE, "web")]);
    assert_eq!(wire.requests_of(REPLACE).len(), 0);
}

#[tokio::test]
async fn the_right_profile_stays_in_whatever_state_it_settles() {
    let world = a_world()
        .stopped(ONE, Some("web"), Some("web"))
        .running(TWO, Some("web"), Some("web"))
        .running(THREE, Some("arn:aws:iam::123456789012:instance-profile/web"), Some("web"));
    let wire = Wire::serve(world).await;
    "associating".clone_into(&mut wire.world().associations[0].state);
    let mut function = function_allowing("web", &wire).await;
    let report = function.invoke(json!({"instance-ids": [ONE, TWO, THREE]})).await.unwrap();
    assert_eq!(rows(&report), [("keep", "kept"); 3]);
    assert_eq!(wire.writes(), []);
}

#[tokio::test]
async fn a_profile_at_a_path_is_resolved_before_it_is_matched() {
    let world = World::new()
        .profile_at("/app/", "web-prod")
        .running(ONE, Some("web-prod"), None)
        .running(TWO, Some("arn:aws:iam::123456789012:instance-profile/app/web-prod"), None)
        .running(THREE, Some("arn:aws:iam::123456789012:instance-profile/web-prod"), None);
    let wire = Wire::serve(world).await;
    let mut function = function_allowing("app/*", &wire).await;
    let report = function.invoke(json!({"instance-ids": [ONE, TWO, THREE]})).await.unwrap();
    assert_eq!(
        rows(&report),
        [("associate", "associated"), ("associate", "associated"), ("leave", "left")]
    );
    assert_eq!(report["instances"][2]["reason-code"], "not-allowed");
    let mut writes = wire.writes();
    writes.sort_by_key(|write| format!("{write:?}"));
    assert_eq!(writes, [associated(ONE, "web-prod"), associated(TWO, "web-prod")]);
    assert_eq!(wire.requests_of(GET_PROFILE).len(), 1, "asked once, believed for a while");
}

#[tokio::test]
async fn what_is_required_is_looked_for_in_the_events_own_region() {
    let wire = Wire::serve(a_world().running(ONE, Some("web"), None)).await;
    let mut function = function_allowing("web", &wire).await;
    let mut event = running(ONE);
    event["region"] = json!("eu-west-1");
    function.invoke(event).await.unwrap();
    assert_eq!(wire.writes(), [associated(ONE, "web")]);
    for action in [INSTANCES, ASSOCIATIONS, ASSOCIATE] {
        assert_eq!(wire.requests_of(action)[0].region, "eu-west-1", "{action}");
    }
}

#[tokio::test]
async fn lists_are_read_to_their_last_page() {
    let ids: Vec<String> = (1..=230).map(|number| format!("i-{number:017x}")).collect();
    let world = ids.iter().fold(a_world(), |world, id| world.running(id, Some("web"), Some("web")));
    let wire = Wire::serve(world).await.in_pages_of(90);
    let mut function = function_allowing("web", &wire).await;
    let report = function.invoke(json!({"instance-ids": ids})).await.unwrap();
    assert_eq!(rows(&report), vec![("keep", "kept"); 230]);
    assert_eq!(wire.writes(), []);
    // 200 ids in three pages, 30 in one.
    assert_eq!(wire.requests_of(INSTANCES).len(), 4);
    assert_eq!(wire.requests_of(ASSOCIATIONS).len(), 4);
}

// ---- What is not ours is left alone ---------------------------------------------------------------------------------

#[tokio::test]
async fn an_instance_without_the_tag_is_left_alone() {
    let wire = Wire::serve(a_world().running(ONE, None, Some("old"))).await;
    let mut function = function_allowing("*", &wire).await;
    let report = function.invoke(running(ONE)).await.unwrap();
    assert_eq!(row(&report), ("leave", "left"));
    assert_eq!(report["instances"][0]["decision-row"], 1);
    assert_eq!(wire.writes(), []);
    assert_eq!(wire.requests_of(GET_PROFILE).len(), 0);
}

#[tokio::test]
async fn each_reason_to_leave_an_instance_alone_is_reported() {
    let states = ["pending", "stopping", "shutting-down", "terminated"];
    let mut world = a_world()
        .profile_without_role("empty")
        .profile_trusting("lambda", "lambda.amazonaws.com")
        .profile("admin")
        .running("i-a1", Some("admin"), None)
        .running("i-a2", Some(""), None)
        .running("i-a3", Some("no profile's name"), None)
        .running("i-a4", Some("arn:aws:iam::111122223333:instance-profile/web"), None)
        .running("i-a5", Some("arn:aws-cn:iam::123456789012:instance-profile/web"), None)
        .running("i-a6", Some("empty"), None)
        .running("i-a7", Some("lambda"), Some("old"))
        .running("i-a8", Some("web"), None)
        .managed_by("i-a8", "eks.amazonaws.com");
    for (state, id) in states.iter().zip(["i-b0", "i-b1", "i-b2", "i-b3"]) {
        world = world.instance(id, state, Some("web"), None);
    }
    let wire = Wire::serve(world).await;
    let mut function = function_allowing("web,empty,lambda", &wire).await;
    let ids = [
        "i-a1", "i-a2", "i-a3", "i-a4", "i-a5", "i-a6", "i-a7", "i-a8", "i-b0", "i-b1", "i-b2",
        "i-b3", "i-c0",
    ];
    let report = function.invoke(json!({"instance-ids": ids})).await.unwrap();
    let reasons: Vec<_> = report["instances"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| (row["decision-row"].as_u64().unwrap(), row["reason-code"].as_str().unwrap()))
        .collect();
    assert_eq!(
        reasons,
        [
            (3, "not-allowed"),
            (2, "invalid-profile"),
            (2, "invalid-profile"),
            (2, "invalid-profile"),
            (2, "invalid-profile"),
            (13, "no-role"),
            (13, "role-does-not-trust-ec2"),
            (6, "managed-by-service"),
            (5, "instance-state"),
            (5, "instance-state"),
            (4, "gone"),
            (4, "gone"),
            (4, "never-seen"),
        ]
    );
    assert_eq!(wire.writes(), []);
    let requests = [wire.requests_at_start(), wire.requests()].concat();
    let asked: Vec<_> =
        requests.iter().filter_map(|r| r.parameters.get("InstanceProfileName")).collect();
    assert!(!asked.contains(&&"admin".to_owned()), "what no pattern can match is not asked for");
    assert_eq!(asked.len(), 3, "each of the others once: {asked:?}");
}

#[tokio::test]
async fn a_name_that_the_role_may_not_read_is_not_allowed() {
    // `app/*` could match a profile `web` at some path; IAM refuses to show the one that is there.
    let world = a_world().running(ONE, Some("web"), None).denying(
        Call::GetInstanceProfile,
        "iam:GetInstanceProfile on resource: instance profile web",
    );
    let wire = Wire::serve(world).await;
    let mut function = function_allowing("app/*", &wire).await;
    let report = function.invoke(running(ONE)).await.unwrap();
    assert_eq!(row(&report), ("leave", "left"));
    assert_eq!(report["instances"][0]["reason-code"], "not-allowed");
    assert_eq!(wire.writes(), []);
}

#[tokio::test]
async fn events_of_no_interest_cost_no_call() {
    let wire = Wire::serve(a_world().running(ONE, Some("web"), None)).await;
    let mut function = function_allowing("web", &wire).await;
    let mut other_resource = tag_change(ONE, &["InstanceProfile"], &json!({}));
    other_resource["detail"]["resource-type"] = json!("volume");
    for event in [
        sample("foreign.json"),
        sample("tags-of-no-interest.json"),
        tag_change(ONE, &["Name", "instanceprofile"], &json!({"InstanceProfile": "web"})),
        other_resource,
        json!({"source": "aws.events", "detail-type": "Scheduled Event", "detail": {}}),
        json!({"Records": [{"eventSource": "aws:s3", "eventName": "ObjectCreated:Put"}]}),
    ] {
        let answer = function.invoke(&event).await.unwrap();
        assert!(answer["ignored"].as_str().is_some_and(|why| !why.is_empty()), "{event}: {answer}");
    }
    assert_eq!(wire.requests().len(), 0);
    let log = function.stop().await;
    assert_eq!(log.iter().filter(|line| line.contains("ignored")).count(), 6, "{log:#?}");
}

#[tokio::test]
async fn a_dry_run_reports_and_writes_nothing() {
    let world = a_world()
        .running(ONE, Some("web"), None)
        .running(TWO, Some("web"), Some("old"))
        .stopped(THREE, Some("web"), Some("old"));
    let wire = Wire::serve(world).await;
    let mut function = swapping_function(&wire).await;
    let asked = json!({"instance-ids": [TWO, ONE, THREE], "dry-run": true});
    let report = function.invoke(asked).await.unwrap();
    assert_eq!(report["mode"], "dry-run");
    assert_eq!(
        rows(&report),
        [("replace", "planned"), ("associate", "planned"), ("swap", "planned")]
    );
    let arn = |name: &str| json!(format!("arn:aws:iam::123456789012:instance-profile/{name}"));
    let first = &report["instances"][0];
    assert_eq!(first["instance-id"], TWO);
    assert_eq!(first["account"], "123456789012");
    assert_eq!(first["region"], "us-east-1");
    assert_eq!(first["state"], "running");
    assert_eq!(
        (&first["rule"], &first["tags"]),
        (&json!("named-by-tag"), &json!({"InstanceProfile": "web"}))
    );
    assert_eq!((&first["attached"], &first["required"]), (&arn("old"), &arn("web")));
    let reason = first["reason"].as_str().unwrap();
    assert!(reason.contains("/old attached") && reason.contains("/web is required"), "{reason}");
    assert_eq!(wire.writes(), []);

    // The same, as a person means it.
    let report = function.invoke(json!({"instance-ids": [ONE]})).await.unwrap();
    assert_eq!((&report["mode"], row(&report)), (&json!("enforce"), ("associate", "associated")));
    assert_eq!(wire.writes(), [associated(ONE, "web")]);
}

#[tokio::test]
async fn a_function_in_dry_run_mode_never_writes() {
    let wire = Wire::serve(a_world().running(ONE, Some("web"), None)).await;
    let settings = [("ALLOWED_PROFILES", "web"), ("MODE", "dry-run")];
    let mut function = function_with(&wire, &settings).await;
    for event in
        [running(ONE), tagged(ONE, "web"), json!({"instance-ids": [ONE], "dry-run": false})]
    {
        let report = function.invoke(event).await.unwrap();
        assert_eq!((&report["mode"], row(&report)), (&json!("dry-run"), ("associate", "planned")));
    }
    assert_eq!(
        batch_failures(&function.invoke(batch(&[("m1", running(ONE))])).await.unwrap()),
        [""; 0]
    );
    assert_eq!(wire.writes(), []);
}

#[tokio::test]
async fn the_tag_key_is_a_setting() {
    let world = a_world().running(ONE, Some("web"), None).running(TWO, None, None);
    let wire = Wire::serve(world).await;
    wire.world().instance_mut(TWO).tags.insert("Team:Profile".to_owned(), "web".to_owned());
    let settings = [("ALLOWED_PROFILES", "web"), ("PROFILE_TAG_KEY", "Team:Profile")];
    let mut function = function_with(&wire, &settings).await;
    let report = function.invoke(json!({"instance-ids": [ONE, TWO]})).await.unwrap();
    assert_eq!(rows(&report), [("leave", "left"), ("associate", "associated")]);
    assert_eq!(wire.writes(), [associated(TWO, "web")]);
}

// ---- Batches --------------------------------------------------------------------------------------------------------

#[tokio::test]
async fn a_malformed_message_fails_alone() {
    let world = a_world().running(ONE, Some("web"), None).running(TWO, Some("web"), Some("old"));
    let wire = Wire::serve(world).await;
    let mut function = function_allowing("web", &wire).await;
    let mut messages = batch(&[
        ("good-1", running(ONE)),
        ("not-json", Value::Null),
        ("foreign", sample("foreign.json")),
        ("no-instance", sample("malformed.json")),
        ("deep", Value::Null),
        ("good-2", tagged(TWO, "web")),
        ("null", Value::Null),
    ]);
    messages["Records"][1]["body"] = json!("not json at all");
    messages["Records"][4]["body"] = json!("[".repeat(100_000));
    messages["Records"][6]["body"] = Value::Null;
    let answer = function.invoke(messages).await.unwrap();
    assert_eq!(batch_failures(&answer), ["not-json", "no-instance", "deep", "null"]);
    let mut writes = wire.writes();
    writes.sort_by_key(|write| format!("{write:?}"));
    assert_eq!(writes, [associated(ONE, "web"), replaced(TWO, "web")]);
}

#[tokio::test]
async fn several_messages_about_one_instance_are_one_piece_of_work() {
    let wire = Wire::serve(a_world().running(ONE, Some("web"), None)).await;
    let mut function = function_allowing("web", &wire).await;
    let messages = batch(&[("m1", running(ONE)), ("m2", tagged(ONE, "web")), ("m3", running(ONE))]);
    assert_eq!(batch_failures(&function.invoke(messages).await.unwrap()), [""; 0]);
    assert_eq!(wire.writes(), [associated(ONE, "web")]);
    assert_eq!((wire.requests_of(INSTANCES).len(), wire.requests_of(ASSOCIATIONS).len()), (1, 1));
    let log = function.stop().await;
    assert_eq!(log.iter().filter(|line| line.contains(ONE)).count(), 1, "{log:#?}");
}

#[tokio::test]
async fn all_messages_about_an_instance_that_is_not_done_come_again() {
    let world = a_world().running(ONE, Some("unmade"), None).running(TWO, Some("web"), None);
    let wire = Wire::serve(world).await;
    let mut function = function_allowing("*", &wire).await;
    let messages =
        batch(&[("m1", running(ONE)), ("m2", running(TWO)), ("m3", tagged(ONE, "unmade"))]);
    assert_eq!(batch_failures(&function.invoke(messages).await.unwrap()), ["m1", "m3"]);
    assert_eq!(wire.writes(), [associated(TWO, "web")]);
}

#[tokio::test]
async fn the_sample_batch_is_dealt_with() {
    let world = a_world().running("i-0123456789abcdef0", Some("web"), None).running(
        "i-0fedcba9876543210",
        Some("web"),
        Some("old"),
    );
    let wire = Wire::serve(world).await;
    let mut function = function_allowing("web", &wire).await;
    let answer = function.invoke(sample("sqs-batch.json")).await.unwrap();
    assert_eq!(batch_failures(&answer), ["00000000-0000-4000-8000-000000000005"]);
    assert_eq!(wire.writes().len(), 2);
}

// ---- Payloads that are nothing ----------------------------------------------------------------------------------------

#[tokio::test]
async fn whatever_comes_the_function_answers_and_lives_on() {
    let wire = Wire::serve(a_world().running(ONE, Some("web"), None)).await;
    let mut function = function_allowing("web", &wire).await;
    let deep =
        |open: &str, close: &str| format!("{}{}", open.repeat(100_000), close.repeat(100_000));
    for payload in [
        "null".to_owned(),
        "[]".to_owned(),
        "{}".to_owned(),
        "\"text\"".to_owned(),
        "17".to_owned(),
        deep("[", "]"),
        deep("{\"a\":", "1}").replace("1}1", "1}"),
        "[".repeat(100_000),
        "{\"instance-ids\": [".to_owned(),
        "not json at all".to_owned(),
        String::new(),
        r#"{"instance-ids": []}"#.to_owned(),
        r#"{"instance-ids": "i-00000000000000001"}"#.to_owned(),
        r#"{"instance-ids": ["i-00000000000000001"], "dryrun": true}"#.to_owned(),
        r#"{"source": 1, "detail-type": 2}"#.to_owned(),
        r#"{"Records": {}}"#.to_owned(),
        r#"{"Records": [{"body": "{}"}]}"#.to_owned(),
        sample("malformed.json").to_string(),
    ] {
        let shown: String = payload.chars().take(60).collect();
        let failure = function.invoke(payload).await.unwrap_err();
        assert!(!failure.error_type.is_empty() && !failure.error_message.is_empty(), "{shown}");
        assert!(failure.error_message.len() < 2000, "{shown}");
    }
    assert_eq!(wire.requests().len(), 0);
    let failure =
        function.take(Invocation::of_bytes(vec![b'"', 0xff, 0xfe, b'"'])).await.unwrap_err();
    assert!(!failure.error_message.is_empty());
    assert_eq!(row(&function.invoke(running(ONE)).await.unwrap()), ("associate", "associated"));
}

#[tokio::test]
async fn an_event_of_a_known_kind_that_cannot_be_read_says_what_is_wrong() {
    let wire = Wire::serve(World::new()).await;
    let mut function = function_allowing("web", &wire).await;
    let failure = function.invoke(sample("malformed.json")).await.unwrap_err();
    assert_eq!(failure.error_type, "MalformedEvent");
    assert!(failure.error_message.contains("instance-id"), "{failure:?}");
    assert_eq!(wire.requests().len(), 0);
}

#[tokio::test]
async fn an_id_that_is_none_does_not_stop_the_others() {
    let wire = Wire::serve(a_world().running(ONE, Some("web"), None)).await;
    let mut function = function_allowing("web", &wire).await;
    let report = function.invoke(json!({"instance-ids": ["i-*", ONE, ""]})).await.unwrap();
    let entry = |id: &str| {
        let entries = report["instances"].as_array().unwrap();
        entries.iter().find(|entry| entry["instance-id"] == id).unwrap()
    };
    assert_eq!(entry(ONE)["outcome"], "associated");
    for id in ["i-*", ""] {
        assert_eq!(entry(id)["error"]["type"], "MalformedEvent");
    }
    assert_eq!(wire.writes(), [associated(ONE, "web")]);
}

// ---- Faults -----------------------------------------------------------------------------------------------------------

const THROTTLED: Fault = Fault::Refuses(503, "RequestLimitExceeded", "Request limit exceeded.");

#[tokio::test]
async fn a_call_that_is_throttled_once_is_made_again() {
    let wire = Wire::serve(a_world().running(ONE, Some("web"), None))
        .await
        .once(INSTANCES, THROTTLED)
        .once(ASSOCIATIONS, THROTTLED)
        .once(GET_PROFILE, Fault::Refuses(400, "Throttling", "Rate exceeded"))
        .once(ASSOCIATE, THROTTLED);
    let mut function = function_allowing("we*", &wire).await;
    assert_eq!(row(&function.invoke(running(ONE)).await.unwrap()), ("associate", "associated"));
    assert_eq!(wire.writes(), [associated(ONE, "web")]);
    assert_eq!((wire.requests_of(GET_PROFILE).len(), wire.requests_of(ASSOCIATE).len()), (2, 2));
}

#[tokio::test]
async fn a_message_that_was_throttled_to_the_end_comes_again() {
    let world = a_world().running(ONE, Some("web"), None).running(TWO, Some("web"), Some("web"));
    let wire = Wire::serve(world).await.always(ASSOCIATE, THROTTLED);
    let mut function = function_allowing("web", &wire).await;
    let messages = batch(&[("m1", running(ONE)), ("m2", running(TWO))]);
    assert_eq!(batch_failures(&function.invoke(messages).await.unwrap()), ["m1"]);
    let failure = function.invoke(running(ONE)).await.unwrap_err();
    assert_eq!(failure.error_type, "Throttled");
    assert!(failure.error_message.contains("RequestLimitExceeded"), "{failure:?}");
    assert_eq!(wire.writes(), []);
}

#[tokio::test]
async fn a_missing_right_names_action_and_resource_and_aws_words() {
    let right = "iam:PassRole on resource: arn:aws:iam::123456789012:role/web-role";
    let world = a_world()
        .running(ONE, Some("web"), None)
        .running(TWO, Some("web"), Some("web"))
        .denying(Call::Associate, right);
    let wire = Wire::serve(world).await;
    let mut function = function_allowing("web", &wire).await;
    let Failure { error_type, error_message } = function.invoke(running(ONE)).await.unwrap_err();
    assert_eq!(error_type, "Denied");
    let needs = "needs iam:PassRole on arn:aws:iam::123456789012:role/web-role";
    for part in [ONE, ASSOCIATE, needs, "UnauthorizedOperation", right] {
        assert_eq!(error_message.matches(part).count(), 1, "{part} in {error_message}");
    }
    assert_eq!(wire.writes(), []);
    let messages = batch(&[("m1", running(ONE)), ("m2", running(TWO))]);
    assert_eq!(batch_failures(&function.invoke(messages).await.unwrap()), ["m1"]);
    let log = function.stop().await;
    assert!(log.iter().any(|line| line.contains("ERROR") && line.contains(needs)), "{log:#?}");
}

#[tokio::test]
async fn a_profile_that_iam_does_not_know_is_asked_for_again_and_then_given_up() {
    let wire = Wire::serve(a_world().running(ONE, Some("unmade"), None)).await;
    let mut function = function_allowing("*", &wire).await;
    let failure = function.invoke(running(ONE)).await.unwrap_err();
    assert_eq!(failure.error_type, "ProfileNotFound");
    assert!(failure.error_message.contains("unmade"), "{failure:?}");
    for (receives, disposition) in [("1", "come-again"), ("9", "give-up")] {
        let mut messages = batch(&[("m1", running(ONE))]);
        messages["Records"][0]["attributes"]["ApproximateReceiveCount"] = json!(receives);
        messages["Records"][0]["attributes"]["SentTimestamp"] = sent(Duration::from_mins(10));
        assert_eq!(
            batch_failures(&function.invoke(messages).await.unwrap()),
            ["m1"],
            "{disposition}"
        );
    }
    assert_eq!(wire.writes(), []);
    let log = function.stop().await;
    let about_it = log.iter().filter(|line| line.contains("instance.id="));
    let levels: Vec<_> = about_it.filter_map(|line| line.split_whitespace().next()).collect();
    assert_eq!(levels, ["WARN", "WARN", "ERROR"], "{log:#?}");
}

#[tokio::test]
async fn a_profile_that_ec2_does_not_know_yet_comes_again() {
    let wire = Wire::serve(a_world().running(ONE, Some("web"), None).unknown_to_ec2("web")).await;
    let mut function = function_allowing("web", &wire).await;
    let messages = batch(&[("m1", running(ONE))]);
    assert_eq!(batch_failures(&function.invoke(messages.clone()).await.unwrap()), ["m1"]);
    assert_eq!(wire.writes(), []);
    wire.world().profiles.get_mut("web").unwrap().unknown_to_ec2 = false;
    assert_eq!(batch_failures(&function.invoke(messages).await.unwrap()), [""; 0]);
    assert_eq!(wire.writes(), [associated(ONE, "web")]);
}

#[tokio::test]
async fn what_ec2_shows_late_is_waited_for() {
    let world = a_world()
        .running(ONE, Some("web"), None)
        .unseen_for(ONE, 1)
        .running(TWO, Some("web"), None)
        .untagged_for(TWO, 1);
    let wire = Wire::serve(world).await;
    let mut function = function_allowing("web", &wire).await;
    let messages = batch(&[("m1", running(ONE)), ("m2", tagged(TWO, "web"))]);
    assert_eq!(batch_failures(&function.invoke(messages).await.unwrap()), [""; 0]);
    let mut writes = wire.writes();
    writes.sort_by_key(|write| format!("{write:?}"));
    assert_eq!(writes, [associated(ONE, "web"), associated(TWO, "web")]);
}

#[tokio::test]
async fn an_endpoint_that_hangs_does_not_outlive_the_deadline() {
    let world = a_world().running(ONE, Some("web"), None).running(TWO, Some("web"), None);
    let wire = Wire::serve(world).await.always(INSTANCES, Fault::Hangs);
    let mut function = function_allowing("web", &wire).await;
    let messages = batch(&[("m1", running(ONE)), ("malformed", json!({})), ("m2", running(TWO))]);
    let (answer, took) = timed(function.take(in_three_seconds(messages))).await;
    assert_eq!(batch_failures(&answer.unwrap()), ["m1", "malformed", "m2"]);
    assert!(took < Duration::from_secs(3), "{took:?}");
    let (answer, took) = timed(function.take(in_three_seconds(running(ONE)))).await;
    let failure = answer.unwrap_err();
    assert_eq!(failure.error_type, "OutOfTime", "{failure:?}");
    assert!(took < Duration::from_secs(3), "{took:?}");
    assert_eq!(wire.writes(), []);
}

#[tokio::test]
async fn what_was_done_before_a_call_hung_is_not_done_again() {
    let world = a_world().running(ONE, Some("web"), None).running(TWO, Some("web"), Some("old"));
    let wire = Wire::serve(world).await.always(REPLACE, Fault::Hangs);
    let mut function = function_allowing("web", &wire).await;
    let messages = batch(&[("m1", running(ONE)), ("m2", running(TWO))]);
    let (answer, took) = timed(function.take(in_three_seconds(messages))).await;
    assert_eq!(batch_failures(&answer.unwrap()), ["m2"]);
    assert!(took < Duration::from_secs(3), "{took:?}");
    assert_eq!(wire.writes(), [associated(ONE, "web")]);
}

#[tokio::test]
async fn a_deadline_that_cannot_be_meant_is_unknown() {
    let wire = Wire::serve(a_world().running(ONE, Some("web"), Some("web"))).await;
    let mut function = function_allowing("web", &wire).await;
    for header in ["600000", "0", "18446744073709551615", "99999999999999"] {
        let invocation = Invocation::of(running(ONE)).due_at_ms(header).of_function("function-arn");
        assert_eq!(row(&function.take(invocation).await.unwrap()), ("keep", "kept"), "{header}");
    }
    // A person's invocation names no Region: without a real ARN the environment's holds.
    let invocation = Invocation::of(json!({"instance-ids": [ONE]})).of_function("function-arn");
    let report = function.take(invocation).await.unwrap();
    assert_eq!(report["instances"][0]["region"], "us-east-1");
    assert_eq!(report["instances"][0]["decision"], "keep");
}

#[tokio::test]
async fn a_world_that_moves_between_look_and_act_is_looked_at_again() {
    let world = a_world()
        .running(ONE, Some("web"), None)
        .before(Call::Associate, |world| world.attach(ONE, "web"));
    let wire = Wire::serve(world).await;
    let mut function = function_allowing("web", &wire).await;
    assert_eq!(row(&function.invoke(running(ONE)).await.unwrap()), ("keep", "converged"));
    assert_eq!(wire.writes(), []);

    let world = a_world()
        .running(ONE, Some("web"), None)
        .before(Call::Associate, |world| world.attach(ONE, "old"));
    let wire = Wire::serve(world).await;
    let mut function = function_allowing("web", &wire).await;
    assert_eq!(row(&function.invoke(running(ONE)).await.unwrap()), ("replace", "replaced"));
    assert_eq!(wire.writes(), [replaced(ONE, "web")]);

    let world = a_world()
        .running(ONE, Some("web"), Some("old"))
        .before(Call::Replace, |world| world.detach(ONE));
    let wire = Wire::serve(world).await;
    let mut function = function_allowing("web", &wire).await;
    assert_eq!(row(&function.invoke(running(ONE)).await.unwrap()), ("associate", "associated"));
    assert_eq!(wire.writes(), [associated(ONE, "web")]);
}

#[tokio::test]
async fn a_write_whose_answer_is_lost_is_not_made_twice() {
    for fault in [Fault::BreaksAfter, Fault::Garbles] {
        let world =
            a_world().running(ONE, Some("web"), None).running(TWO, Some("web"), Some("old"));
        let wire =
            Wire::serve(world).await.once(ASSOCIATE, fault.clone()).once(REPLACE, fault.clone());
        let mut function = function_allowing("web", &wire).await;
        let report = function.invoke(json!({"instance-ids": [ONE, TWO]})).await.unwrap();
        assert_eq!(rows(&report), [("keep", "associated"), ("keep", "replaced")], "{fault:?}");
        let mut writes = wire.writes();
        writes.sort_by_key(|write| format!("{write:?}"));
        assert_eq!(writes, [associated(ONE, "web"), replaced(TWO, "web")], "{fault:?}");
    }
}

#[tokio::test]
async fn connections_that_break_before_anything_is_done_are_made_again() {
    let wire = Wire::serve(a_world().running(ONE, Some("web"), None))
        .await
        .once(INSTANCES, Fault::BreaksBefore)
        .once(GET_PROFILE, Fault::BreaksBefore)
        .once(ASSOCIATE, Fault::BreaksBefore)
        .once(ASSOCIATIONS, Fault::Delays(Duration::from_millis(300)));
    let mut function = function_allowing("we*", &wire).await;
    assert_eq!(row(&function.invoke(running(ONE)).await.unwrap()), ("associate", "associated"));
    assert_eq!(wire.writes(), [associated(ONE, "web")]);
    assert_eq!(wire.requests_of(GET_PROFILE).len(), 2);
}

#[tokio::test]
async fn an_answer_that_is_no_xml_comes_again() {
    let wire = Wire::serve(a_world().running(ONE, Some("web"), None))
        .await
        .once(ASSOCIATIONS, Fault::Garbles);
    let mut function = function_allowing("web", &wire).await;
    let messages = batch(&[("m1", running(ONE))]);
    assert_eq!(batch_failures(&function.invoke(messages.clone()).await.unwrap()), ["m1"]);
    assert_eq!(batch_failures(&function.invoke(messages).await.unwrap()), [""; 0]);
    assert_eq!(wire.writes(), [associated(ONE, "web")]);
}

/// What EC2 says to the question whether an attach would be denied, as long as it would not.
const SOMETHING_IS_ATTACHED: Fault = Fault::Refuses(
    400,
    "IncorrectState",
    "There is an existing association for instance i-00000000000000001",
);

const NO_SUCH_PROFILE: Fault = Fault::Refuses(
    400,
    "InvalidParameterValue",
    "Value (web) for parameter iamInstanceProfile.arn is invalid. Invalid IAM Instance Profile ARN",
);

#[tokio::test]
async fn a_swap_that_fails_half_way_puts_the_old_profile_back() {
    let wire = Wire::serve(a_world().stopped(ONE, Some("web"), Some("old")))
        .await
        .once(ASSOCIATE, SOMETHING_IS_ATTACHED)
        .once(ASSOCIATE, NO_SUCH_PROFILE);
    let mut function = swapping_function(&wire).await;
    let failure = function.invoke(state_change(ONE, "stopped")).await.unwrap_err();
    assert_eq!(failure.error_type, "SwapRolledBack");
    assert!(failure.error_message.contains("InvalidParameterValue"), "{failure:?}");
    assert_eq!(wire.writes(), [disassociated(ONE, "old"), associated(ONE, "old")]);
    assert_eq!(wire.world().attached_to(ONE).as_deref(), Some("old"));
}

#[tokio::test]
async fn a_swap_whose_first_answer_is_lost_still_puts_the_old_profile_back() {
    let wire = Wire::serve(a_world().stopped(ONE, Some("web"), Some("old")))
        .await
        .once(DISASSOCIATE, Fault::BreaksAfter)
        .once(ASSOCIATE, SOMETHING_IS_ATTACHED)
        .once(ASSOCIATE, NO_SUCH_PROFILE);
    let mut function = swapping_function(&wire).await;
    let failure = function.invoke(state_change(ONE, "stopped")).await.unwrap_err();
    assert_eq!(wire.world().attached_to(ONE).as_deref(), Some("old"), "{failure:?}");
    assert_eq!(wire.writes(), [disassociated(ONE, "old"), associated(ONE, "old")]);
}

#[tokio::test]
async fn a_swap_whose_first_answer_is_lost_is_finished() {
    let wire = Wire::serve(a_world().stopped(ONE, Some("web"), Some("old")))
        .await
        .once(DISASSOCIATE, Fault::BreaksAfter);
    let mut function = swapping_function(&wire).await;
    let report = function.invoke(state_change(ONE, "stopped")).await.unwrap();
    assert_eq!(report["instances"][0]["outcome"], "swapped");
    assert_eq!(wire.writes(), [disassociated(ONE, "old"), associated(ONE, "web")]);
}

#[tokio::test]
async fn what_another_hand_detached_is_not_put_back() {
    let world =
        a_world().stopped(ONE, Some("web"), Some("old")).before(Call::Disassociate, |world| {
            world.detach(ONE);
            world.instance_mut(ONE).tags.clear();
        });
    let wire = Wire::serve(world).await;
    let mut function = swapping_function(&wire).await;
    let report = function.invoke(state_change(ONE, "stopped")).await.unwrap();
    assert_eq!(row(&report), ("leave", "left"));
    assert_eq!(wire.writes(), []);
    assert_eq!(wire.world().attached_to(ONE), None);
}

#[tokio::test]
async fn a_swap_that_is_throttled_once_is_made_all_the_same() {
    let wire = Wire::serve(a_world().stopped(ONE, Some("web"), Some("old")))
        .await
        .once(DISASSOCIATE, THROTTLED)
        .once(ASSOCIATE, SOMETHING_IS_ATTACHED)
        .once(ASSOCIATE, SOMETHING_IS_ATTACHED)
        .once(ASSOCIATE, THROTTLED);
    let mut function = swapping_function(&wire).await;
    let report = function.invoke(state_change(ONE, "stopped")).await.unwrap();
    // The second half was decided about once more, on what is bare by now.
    assert_eq!(row(&report), ("associate", "swapped"));
    assert_eq!(wire.writes(), [disassociated(ONE, "old"), associated(ONE, "web")]);
    assert_eq!((wire.requests_of(DISASSOCIATE).len(), wire.requests_of(ASSOCIATE).len()), (2, 4));
}

#[tokio::test]
async fn a_swap_that_cannot_be_undone_says_so_and_is_finished_next_time() {
    let wire = Wire::serve(a_world().stopped(ONE, Some("web"), Some("old")))
        .await
        .once(ASSOCIATE, SOMETHING_IS_ATTACHED)
        .once(ASSOCIATE, NO_SUCH_PROFILE)
        .once(ASSOCIATE, Fault::Refuses(400, "SomethingNew", "Not today"));
    let mut function = swapping_function(&wire).await;
    let messages = batch(&[("m1", state_change(ONE, "stopped"))]);
    assert_eq!(batch_failures(&function.invoke(messages.clone()).await.unwrap()), ["m1"]);
    assert_eq!(wire.world().attached_to(ONE), None);
    assert_eq!(batch_failures(&function.invoke(messages).await.unwrap()), [""; 0]);
    assert_eq!(wire.world().attached_to(ONE).as_deref(), Some("web"));
    let log = function.stop().await;
    assert!(log.iter().any(|line| line.contains("ERROR") && line.contains("bare")), "{log:#?}");
}

#[tokio::test]
async fn a_profile_that_was_made_again_is_replaced_once() {
    for mends in [true, false] {
        let wire = Wire::serve(a_world().running(ONE, Some("web"), Some("web"))).await;
        wire.world().make_profile("/", "web", Some("ec2.amazonaws.com"));
        wire.world().replace_mends_recreated = mends;
        let mut function = function_allowing("web", &wire).await;
        let report = function.invoke(running(ONE)).await.unwrap();
        assert_eq!(row(&report), ("replace", if mends { "replaced" } else { "not-repaired" }));
        assert_eq!(report["instances"][0]["decision-row"], 11);
        assert_eq!(wire.writes(), [replaced(ONE, "web")]);
    }
}

// ---- Settings and logs --------------------------------------------------------------------------------------------------

#[tokio::test]
async fn a_setting_that_cannot_be_used_stops_the_start() {
    let allowed = ("ALLOWED_PROFILES", "web");
    for (settings, variable, takes) in [
        (vec![], "ALLOWED_PROFILES", "web,app/*"),
        (vec![("ALLOWED_PROFILES", "")], "ALLOWED_PROFILES", "web,app/*"),
        (
            vec![("ALLOWED_PROFILES", "arn:aws:iam::123456789012:instance-profile/web")],
            "ALLOWED_PROFILES",
            "web",
        ),
        (vec![allowed, ("MODE", "yes")], "MODE", "enforce or dry-run"),
        (vec![allowed, ("PROFILE_TAG_KEY", "")], "PROFILE_TAG_KEY", "1 to 128"),
        (vec![allowed, ("QUEUE_URL", "https://")], "QUEUE_URL", "https://HOST/ACCOUNT/NAME"),
        (
            vec![allowed, ("EVENT_BUS", "arn:aws:sns:us-east-1:123456789012:topic")],
            "EVENT_BUS",
            "event-bus/name",
        ),
        (
            vec![allowed, ("QUEUE_URL", DEAD_LETTERS), ("DEAD_LETTER_QUEUE_URL", DEAD_LETTERS)],
            "DEAD_LETTER_QUEUE_URL",
            "another queue",
        ),
        (vec![allowed, ("POLICY_FILE", "x\nERROR forged\u{1b}[2J")], "POLICY_FILE", "path"),
    ] {
        let (status, log) = run_to_its_end(&settings).await;
        assert!(!status.success(), "{settings:?}");
        let [line] = &log[..] else { panic!("one line says it all: {log:#?}") };
        assert!(line.contains(variable) && line.contains(takes), "{settings:?}: {line}");
    }
}

#[tokio::test]
async fn logs_hold_one_json_line_an_instance_and_no_secrets() {
    const SECRET: &str = "S3CR3T-0f-s0mebody";
    let mut world = a_world()
        .running(ONE, Some("web"), None)
        .running(TWO, Some("web"), Some("old"))
        .running(THREE, None, None);
    world.instance_mut(ONE).tags.insert("Password".to_owned(), SECRET.to_owned());
    let wire = Wire::serve(world).await;
    let settings = [
        ("ALLOWED_PROFILES", "web"),
        ("AWS_LAMBDA_LOG_FORMAT", "JSON"),
        ("AWS_LAMBDA_LOG_LEVEL", "TRACE"),
    ];
    let mut function = function_with(&wire, &settings).await;
    let with_secret = |mut event: Value| {
        event["detail"]["secret"] = json!(SECRET);
        event
    };
    let announced = tag_change(
        TWO,
        &["InstanceProfile"],
        &json!({"InstanceProfile": "web", "Password": SECRET}),
    );
    let mut not_an_object = running(ONE);
    not_an_object["detail"] = json!(SECRET);
    let mut not_a_list = tagged(ONE, "web");
    not_a_list["detail"]["changed-tag-keys"] = json!(SECRET);
    let mut messages = batch(&[
        ("m1", with_secret(running(ONE))),
        ("m2", announced),
        ("m3", with_secret(running(THREE))),
        ("m4", with_secret(sample("foreign.json"))),
        ("m5", with_secret(sample("malformed.json"))),
        ("m6", not_an_object),
        ("m7", not_a_list),
        ("m8", Value::Null),
    ]);
    messages["Records"][7]["body"] = json!(format!("{SECRET} is no JSON"));
    let answer = function.invoke(messages).await.unwrap();
    assert_eq!(batch_failures(&answer), ["m5", "m6", "m7", "m8"]);
    function.invoke(format!("{SECRET} is no JSON")).await.unwrap_err();
    function.invoke(json!(SECRET)).await.unwrap_err();
    let log = function.stop().await;

    let text = log.join("\n");
    for (_, credential) in CREDENTIALS {
        assert!(!text.contains(credential), "{text}");
    }
    assert!(
        !text.contains("receiptHandle") && !text.contains("instance-id\\\""),
        "no raw events: {text}"
    );
    assert!(!text.contains(SECRET), "{text}");
    let lines: Vec<Value> =
        log.iter().map(|line| serde_json::from_str(line).expect(line)).collect();
    // CloudWatch reads metrics by a form of their own.
    let (metrics, lines): (Vec<_>, Vec<_>) =
        lines.into_iter().partition(|line| line.get("_aws").is_some());
    assert!(!metrics.is_empty());
    assert!(lines.iter().all(|line| line["level"].is_string() && line["timestamp"].is_string()));
    for (id, decision, outcome) in
        [(ONE, "associate", "associated"), (TWO, "replace", "replaced"), (THREE, "leave", "left")]
    {
        let about: Vec<_> = lines.iter().filter(|line| line["instance.id"] == id).collect();
        let [line] = about[..] else { panic!("one line about {id}: {about:#?}") };
        assert_eq!((&line["decision"], &line["outcome"]), (&json!(decision), &json!(outcome)));
        assert_eq!(line["level"], "INFO");
        assert!(line["duration_ms"].is_u64(), "{line}");
        assert!(line["message"].as_str().unwrap().contains(id), "{line}");
    }
    let arn = |name: &str| json!(format!("arn:aws:iam::123456789012:instance-profile/{name}"));
    let two = lines.iter().find(|line| line["instance.id"] == TWO).unwrap();
    assert_eq!((&two["profile.from"], &two["profile.to"]), (&arn("old"), &arn("web")));
}

/// What would end a line, or look like another: in JSON as its escapes, which stay text.
const FORGED: &str = "x\nERROR forged\r\u{1b}[2Jforged\u{85}\u{2028}forged";

#[tokio::test]
async fn one_event_of_the_log_is_one_line() {
    for format in ["Text", "JSON"] {
        // XML has no escape character, so that no tag does.
        let tag = FORGED.replace('\u{1b}', "");
        let world = a_world().running(ONE, Some(&tag), None).running(TWO, Some("web"), None);
        let refused = Fault::Refuses(400, "SomethingNew", "no\nERROR forged\u{2028}ERROR forged");
        let wire = Wire::serve(world).await.always_about(ASSOCIATE, TWO, refused);
        let settings = [
            ("ALLOWED_PROFILES", "*"),
            ("AWS_LAMBDA_LOG_FORMAT", format),
            ("DEAD_LETTER_QUEUE_URL", DEAD_LETTERS),
        ];
        let mut function = function_with(&wire, &settings).await;
        let mut foreign = sample("foreign.json");
        foreign["source"] = json!(FORGED);
        let mut odd_call = sample("drift-failed.json");
        odd_call["detail"]["errorCode"] = json!(FORGED);
        let unknown = json!({ "instance-ids": [ONE], FORGED: 1 });
        let illegal = json!({ "instance-ids": [FORGED, ONE] });
        function.invoke(&unknown).await.unwrap_err();
        function.invoke(&illegal).await.unwrap();
        let answer = function
            .invoke(batch(&[
                ("m1", running(ONE)),
                ("m2", running(TWO)),
                ("m3", foreign),
                ("m4", odd_call),
                ("m5", unknown),
                ("m6", illegal),
            ]))
            .await
            .unwrap();
        assert_eq!(batch_failures(&answer), [""; 0]);
        let letters = wire.dead_letters().concat();
        assert!(letters.len() >= 3, "{letters:#?}");
        for text in letters.iter().flat_map(|letter| letter.attributes.values()) {
            assert!(!text.contains(|c: char| c.is_control() || c == '\u{2028}'), "{text:?}");
        }
        let log = function.stop().await;
        for line in &log {
            assert!(!line.contains(|c: char| c.is_control() || c == '\u{2028}'), "{line:?}");
            let is_metric = line.starts_with("{\"_aws\"");
            let begins = ["INFO", "WARN", "ERROR"];
            let is_one = if format == "JSON" || is_metric {
                serde_json::from_str::<Value>(line).is_ok_and(|line| line.is_object())
            } else {
                begins.iter().any(|level| line.trim_start().starts_with(level))
                    && !line.starts_with("ERROR forged")
            };
            assert!(is_one, "{line:?}");
        }
        assert!(log.iter().any(|line| line.contains("forged")), "{log:#?}");
    }
}

#[tokio::test]
async fn no_client_brings_credentials_into_the_log() {
    let [(_, key), _, (_, token)] = CREDENTIALS;
    let quoting = format!(
        "The signature does not match.\n\nThe Canonical String for this request should have been\n'POST\n/\n\n\
         x-amz-security-token:{token}\n' {key} of {token}"
    );
    let quoting: &'static str = quoting.leak();
    for fault in
        [Fault::Refuses(403, "InvalidSignatureException", quoting), Fault::Intercepts(502, quoting)]
    {
        let world = a_world().running(ONE, Some("web"), None).running(TWO, Some("web"), None);
        let mut wire = Wire::serve(world).await;
        for call in [INSTANCES, ASSOCIATIONS, GET_PROFILE] {
            wire = wire.at_start(call, fault.clone());
        }
        for call in [HIDE, SEND, "PutEvents"] {
            wire = wire.always(call, fault.clone());
        }
        for call in [INSTANCES, ASSOCIATIONS] {
            wire = wire.once(call, fault.clone());
        }
        wire = wire.always_about(ASSOCIATE, TWO, fault.clone());
        let settings = [
            ("ALLOWED_PROFILES", "web"),
            ("AWS_LAMBDA_LOG_LEVEL", "TRACE"),
            ("DEAD_LETTER_QUEUE_URL", DEAD_LETTERS),
            ("EVENT_BUS", bus::BUS),
        ];
        let mut function = function_with(&wire, &settings).await;
        let mut messages =
            batch(&[("m1", running(ONE)), ("m2", running(TWO)), ("m3", json!({"x": 1}))]);
        // The reads fail first; then they do not.
        let mut answers = vec![function.invoke(running(ONE)).await];
        messages["Records"][1]["attributes"]["ApproximateReceiveCount"] = json!("9");
        for messages in [messages.clone(), messages] {
            answers.push(function.invoke(messages).await);
        }
        let log = function.stop().await;
        assert!(log.iter().any(|line| line.contains("reach the bus")), "{log:#?}");
        let shown = format!("{log:?} {answers:?} {:?} {:?}", wire.dead_letters(), wire.told());
        for secret in [key, token, CREDENTIALS[1].1, "Canonical", "x-amz-security-token"] {
            assert!(!shown.contains(secret), "{secret}: {log:#?}");
        }
    }
}

#[tokio::test]
async fn a_source_of_credentials_that_quotes_its_request_is_not_repeated() {
    const SOURCES_TOKEN: &str = "Basic-8f2b-of-the-container-c1d7";
    let quoting = format!(
        "<html>GET /creds\nauthorization: {SOURCES_TOKEN}\nERROR forged\n{SOURCES_TOKEN} is no token"
    );
    let wire = Wire::serve(a_world().running(ONE, Some("web"), None)).await;
    // A question without an action is the one for credentials.
    let wire = wire.always("", Fault::Intercepts(403, quoting.leak()));
    let source = format!("{}/creds", wire.endpoint());
    let settings = [
        ("ALLOWED_PROFILES", "web"),
        ("AWS_LAMBDA_LOG_LEVEL", "TRACE"),
        ("AWS_ACCESS_KEY_ID", ""),
        ("AWS_SECRET_ACCESS_KEY", ""),
        ("AWS_SESSION_TOKEN", ""),
        ("AWS_EC2_METADATA_DISABLED", "true"),
        ("AWS_CONTAINER_CREDENTIALS_FULL_URI", source.as_str()),
        ("AWS_CONTAINER_AUTHORIZATION_TOKEN", SOURCES_TOKEN),
    ];
    let mut function = Function::start(wire.endpoint(), &settings).await;
    let failure = function.invoke(running(ONE)).await.unwrap_err();
    assert!(!failure.error_message.contains(SOURCES_TOKEN), "{failure:?}");
    let log = function.stop().await;
    assert!(log.iter().any(|line| line.contains("DescribeInstances")), "{log:#?}");
    for line in &log {
        assert!(!line.contains(SOURCES_TOKEN) && !line.starts_with("ERROR forged"), "{line}");
    }
}

// ---- Helpers --------------------------------------------------------------------------------------------------------------

/// A world with two usable profiles, of which tests allow `web`.
fn a_world() -> World {
    World::new().profile("web").profile("old")
}

async fn function_allowing(patterns: &str, wire: &Wire) -> Function {
    function_with(wire, &[("ALLOWED_PROFILES", patterns)]).await
}

/// A function that swaps on stopped instances: it has a queue, and may attach what was there again.
async fn swapping_function(wire: &Wire) -> Function {
    let queue = format!("{}/123456789012/auto-instance-profile-events", wire.endpoint());
    let settings =
        [("ALLOWED_PROFILES", "web,old"), ("WHEN_STOPPED", "swap"), ("QUEUE_URL", &*queue)];
    function_with(wire, &settings).await
}

/// A function that is ready for its first event.
async fn function_with(wire: &Wire, settings: &[(&str, &str)]) -> Function {
    wire.start_begins();
    let mut function = Function::start(wire.endpoint(), settings).await;
    function.ready().await;
    wire.events_begin();
    function
}

fn state_change(id: &str, state: &str) -> Value {
    let mut event = sample("instance-running.json");
    event["resources"][0] = json!(format!("arn:aws:ec2:us-east-1:123456789012:instance/{id}"));
    event["detail"] = json!({"instance-id": id, "state": state});
    event
}

fn running(id: &str) -> Value {
    state_change(id, "running")
}

fn tag_change(id: &str, changed: &[&str], tags: &Value) -> Value {
    let mut event = sample("tags-changed.json");
    event["resources"][0] = json!(format!("arn:aws:ec2:us-east-1:123456789012:instance/{id}"));
    event["detail"]["changed-tag-keys"] = json!(changed);
    event["detail"]["tags"] = tags.clone();
    event
}

/// The tag that names the profile was set.
fn tagged(id: &str, profile: &str) -> Value {
    tag_change(id, &["InstanceProfile"], &json!({"InstanceProfile": profile}))
}

/// An SQS batch of these bodies, by message id: each sent a second ago, and received for the first time.
fn batch<I: AsRef<str>>(messages: &[(I, Value)]) -> Value {
    let record = sample("sqs-batch.json")["Records"][0].clone();
    let records: Vec<Value> = messages
        .iter()
        .map(|(id, body)| {
            let mut record = record.clone();
            record["messageId"] = json!(id.as_ref());
            record["receiptHandle"] = json!(format!("handle-{}", id.as_ref()));
            record["body"] = json!(body.to_string());
            record["attributes"]["SentTimestamp"] = sent(Duration::from_secs(1));
            record
        })
        .collect();
    json!({ "Records": records })
}

/// The attribute of a message that was sent this long ago.
#[expect(clippy::disallowed_methods, reason = "SQS's times are wall-clock times")]
fn sent(ago: Duration) -> Value {
    let at = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().checked_sub(ago);
    json!(at.unwrap().as_millis().to_string())
}

fn batch_failures(answer: &Value) -> Vec<&str> {
    let failures = answer["batchItemFailures"].as_array().expect("a batch's answer");
    failures.iter().map(|failure| failure["itemIdentifier"].as_str().unwrap()).collect()
}

fn sample(file: &str) -> Value {
    let path = format!("{}/events/{file}", env!("CARGO_MANIFEST_DIR"));
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// Decision and outcome of each instance of a report.
fn rows(report: &Value) -> Vec<(&str, &str)> {
    let rows = report["instances"].as_array().expect("a report");
    rows.iter()
        .map(|row| (row["decision"].as_str().unwrap(), row["outcome"].as_str().unwrap()))
        .collect()
}

fn row(report: &Value) -> (&str, &str) {
    let [row] = rows(report)[..] else { panic!("one instance: {report}") };
    row
}

fn in_three_seconds(payload: Value) -> Invocation {
    Invocation::of(payload).due_in(Duration::from_secs(3))
}

#[expect(clippy::disallowed_methods, reason = "this is about real time")]
async fn timed<T>(work: impl Future<Output = T>) -> (T, Duration) {
    let began = Instant::now();
    (work.await, began.elapsed())
}

fn associated(instance: &str, profile: &str) -> Write {
    Write::Associated { instance: instance.to_owned(), profile: profile.to_owned() }
}

fn replaced(instance: &str, profile: &str) -> Write {
    Write::Replaced { instance: instance.to_owned(), profile: profile.to_owned() }
}

fn disassociated(instance: &str, profile: &str) -> Write {
    Write::Disassociated { instance: instance.to_owned(), profile: profile.to_owned() }
}

#[tokio::test]
async fn a_policy_file_decides_what_instances_must_have() {
    let policy = policy_file(
        "rules",
        "version: 1
rules:
  - { name: per-app, match: { tags: { InstanceProfile: 'per-*' } }, profile: web }
  - { name: gaps, match: { vpc: 'vpc-*' }, profile: old, when-different: keep }",
    );
    let world = a_world().running(ONE, Some("per-app"), None).running(TWO, None, None).running(
        THREE,
        None,
        Some("web"),
    );
    let wire = Wire::serve(world).await;
    let settings = [("ALLOWED_PROFILES", "web,old"), ("POLICY_FILE", policy.as_str())];
    let mut function = function_with(&wire, &settings).await;
    let report = function.invoke(json!({"instance-ids": [ONE, TWO, THREE]})).await.unwrap();
    let rules: Vec<&Value> =
        report["instances"].as_array().unwrap().iter().map(|row| &row["rule"]).collect();
    assert_eq!(rules, ["per-app", "gaps", "gaps"]);
    assert_eq!(
        rows(&report),
        [("associate", "associated"), ("associate", "associated"), ("leave", "left")]
    );
    assert_eq!(wire.writes(), [associated(ONE, "web"), associated(TWO, "old")]);
}

#[tokio::test]
async fn a_bad_policy_file_stops_the_start_with_line_and_column() {
    let broken =
        policy_file("broken", "version: 1\nrules:\n  - { name: a, match: {}, profil: web }");
    for (file, parts) in [
        (broken.as_str(), ["broken.yaml:3:", "profil"]),
        ("/no/such/policy.yaml", ["POLICY_FILE", "cannot be read"]),
    ] {
        let settings = [("ALLOWED_PROFILES", "web"), ("POLICY_FILE", file)];
        let (status, lines) = run_to_its_end(&settings).await;
        assert!(!status.success());
        let log = lines.join("\n");
        assert!(parts.iter().all(|part| log.contains(part)), "{log}");
    }
}

/// Writes a policy where the tests' files belong, and names it.
fn policy_file(name: &str, yaml: &str) -> String {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}.yaml"));
    fs::write(&path, yaml).unwrap();
    path.to_str().unwrap().to_owned()
}
