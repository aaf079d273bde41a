//! Another actor that undoes what is done: how often it is corrected, who is told, and when it is tried again.

use std::time::Duration;

use auto_instance_profile::bus::Kind;
use serde_json::{Value, json};

use crate::common::fake::FakeCloud;
use crate::common::function::{Function, Log, Message, drift, running};
use crate::common::world::{Call, World, Write};
use crate::reconcile::ID;

const OTHER: &str = "i-0fedcba9876543210";
const OPPONENT: &str = "arn:aws:sts::123456789012:assumed-role/deploy/pipeline";

fn world() -> World {
    World::new().profile("web").profile("db")
}

/// An instance with the wrong profile.
fn contested() -> FakeCloud {
    FakeCloud::of(world().running(ID, Some("web"), Some("db")))
}

fn replaced(profile: &str) -> Write {
    Write::Replaced { instance: ID.into(), profile: profile.into() }
}

/// The other hand.
fn undo(cloud: &FakeCloud) {
    cloud.world().attach(ID, "db");
}

/// Another profile is required from now on.
fn require(cloud: &FakeCloud, profile: &str) {
    cloud.world().instance_mut(ID).tags.insert("InstanceProfile".into(), profile.into());
}

/// An event, and the other hand behind it, so many times.
async fn correct_and_undo(function: &Function<FakeCloud>, cloud: &FakeCloud, times: usize) {
    let body = running(ID).to_string();
    for _ in 0..times {
        assert_eq!(function.receive(&[Message::of("event", &body)]).await, [""; 0]);
        assert_eq!(cloud.world().attached_to(ID).as_deref(), Some("web"));
        undo(cloud);
        tokio::time::sleep(Duration::from_mins(1)).await;
    }
}

/// What somebody who asks for the instance is answered.
async fn ask(function: &Function<FakeCloud>) -> Value {
    function.invoke(&json!({ "instance-ids": [ID] })).await.unwrap()["instances"][0].clone()
}

#[tokio::test(start_paused = true)]
async fn what_is_undone_three_times_is_retried_after_the_cooldown() {
    let cloud = contested();
    let function = Function::over(cloud.clone());
    correct_and_undo(&function, &cloud, 3).await;
    let three = vec![replaced("web"); 3];
    assert_eq!(cloud.world().writes, three);

    let body = running(ID).to_string();
    let log = Log::begin();
    assert_eq!(function.receive(&[Message::of("fourth", &body)]).await, ["fourth"]);
    assert_eq!(cloud.world().writes, three, "nothing is written");
    let hidden = cloud.queues().hidden.clone();
    let [(receipt, delay)] = &hidden[..] else { panic!("one message: {hidden:?}") };
    assert_eq!(receipt, "fourth");
    let hours = Duration::from_hours(1)..Duration::from_hours(2);
    assert!(
        hours.contains(delay) && *delay > hours.start,
        "the cooldown is over by then: {delay:?}"
    );
    let [line] = &log.about(ID)[..] else { panic!("one line") };
    let said = [&line["level"], &line["error.type"], &line["standing"], &line["disposition"]];
    assert_eq!(said, ["ERROR", "Flapping", "failed", "come-again"]);
    let message = line["message"].as_str().unwrap();
    assert!(message.contains("3 times within 4 hours"), "{message}");
    assert!(message.contains("turn Drift on"), "nobody knows who it is: {message}");
}

#[tokio::test(start_paused = true)]
async fn messages_during_a_cooldown_wait_for_what_is_left_of_it() {
    let cloud = contested();
    let function = Function::over(cloud.clone());
    correct_and_undo(&function, &cloud, 3).await;
    let body = running(ID).to_string();
    assert_eq!(function.receive(&[Message::of("fourth", &body)]).await, ["fourth"]);
    let mut over = 0;
    for minutes in [0, 10, 49] {
        tokio::time::sleep(Duration::from_mins(minutes)).await;
        assert_eq!(function.receive(&[Message::of("later", &body)]).await, ["later"], "{minutes}");
        let (_, delay) = cloud.queues().hidden.last().unwrap().clone();
        over += minutes;
        let left = Duration::from_mins(61 - over);
        assert!(delay <= left && delay + Duration::from_secs(5) > left, "{delay:?} of {left:?}");
        assert_eq!(ask(&function).await["error"]["type"], "Flapping", "a person is told, too");
    }
    assert_eq!(cloud.world().writes.len(), 3);
    assert_eq!(cloud.queues().dead_letters, []);
}

#[tokio::test(start_paused = true)]
async fn after_a_cooldown_it_is_corrected_again() {
    let cloud = contested();
    let function = Function::over(cloud.clone());
    let body = running(ID).to_string();
    for round in 1..=3 {
        correct_and_undo(&function, &cloud, 3).await;
        let fourth = Message::of("fourth", &body).received(round);
        assert_eq!(function.receive(&[fourth]).await, ["fourth"]);
        let (_, delay) = cloud.queues().hidden.last().unwrap().clone();
        assert_eq!(cloud.world().writes.len(), 3 * usize::try_from(round).unwrap());
        tokio::time::sleep(delay).await;
    }
    // Now the other hand rests.
    assert_eq!(function.receive(&[Message::of("fourth", &body).received(4)]).await, [""; 0]);
    assert_eq!(cloud.world().attached_to(ID).as_deref(), Some("web"));
    assert_eq!(ask(&function).await["outcome"], "kept");
}

#[tokio::test(start_paused = true)]
async fn what_is_right_during_a_cooldown_is_done() {
    let cloud = contested();
    let function = Function::over(cloud.clone());
    correct_and_undo(&function, &cloud, 3).await;
    let body = running(ID).to_string();
    function.receive(&[Message::of("fourth", &body)]).await;
    cloud.world().attach(ID, "web");
    assert_eq!(ask(&function).await["outcome"], "kept");
    assert_eq!(function.receive(&[Message::of("fourth", &body).received(2)]).await, [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn the_other_actor_is_named_where_cloudtrail_names_it() {
    let cloud = contested();
    let function = Function::over(cloud.clone());
    correct_and_undo(&function, &cloud, 3).await;
    let body = drift(ID, OPPONENT).to_string();
    let log = Log::begin();
    assert_eq!(function.receive(&[Message::of("drift", &body)]).await, ["drift"]);
    assert_eq!(cloud.world().writes.len(), 3);
    let [line] = &log.about(ID)[..] else { panic!("one line") };
    assert_eq!((&line["found.by"], &line["changed.by"]), (&json!("drift"), &json!(OPPONENT)));
    let message = line["message"].as_str().unwrap();
    assert!(message.contains(&format!("by {OPPONENT} (the last one known)")), "{message}");
    let told = cloud.queues().told.clone();
    let contests: Vec<_> = told.iter().filter(|notice| notice.kind == Kind::Flapping).collect();
    let [notice] = contests[..] else { panic!("told once: {told:?}") };
    let detail: Value = serde_json::from_str(&notice.detail).unwrap();
    assert_eq!(
        (&detail["reason-code"], &detail["changed-by"]),
        (&json!("Flapping"), &json!(OPPONENT))
    );
    assert!(detail["reason"].as_str().unwrap().contains(OPPONENT), "{detail}");
}

#[tokio::test(start_paused = true)]
async fn who_did_it_is_remembered_until_flapping_is_said() {
    let cloud = contested();
    let function = Function::over(cloud.clone());
    // The drift is told of, and corrected; the event that begins the cooldown knows nothing of it.
    for _ in 0..3 {
        let body = drift(ID, OPPONENT).to_string();
        assert_eq!(function.receive(&[Message::of("drift", &body)]).await, [""; 0]);
        undo(&cloud);
    }
    let error = function.invoke(&running(ID)).await.unwrap_err();
    assert_eq!(error.error_type, "Flapping");
    assert!(error.error_message.contains(OPPONENT), "{}", error.error_message);
    assert_eq!(cloud.world().writes.len(), 3);
}

#[tokio::test(start_paused = true)]
async fn associates_and_swaps_that_are_undone_are_flapping_too() {
    for (situation, first_write, wrong) in [
        (world().running(ID, Some("web"), None), Call::Associate, None),
        (world().stopped(ID, Some("web"), Some("db")), Call::Disassociate, Some("db")),
    ] {
        let cloud = FakeCloud::of(situation);
        let function = Function::with(cloud.clone(), &[("WHEN_STOPPED", "swap")]);
        for _ in 0..6 {
            let _contested_from_the_fourth_on = function.invoke(&running(ID)).await;
            match wrong {
                Some(profile) => cloud.world().attach(ID, profile),
                None => cloud.world().detach(ID),
            }
        }
        let calls = cloud.world().calls.clone();
        let tries = calls.iter().filter(|call| **call == first_write).count();
        assert_eq!(tries, 3, "{first_write:?}");
        assert_eq!(cloud.world().attached_to(ID).as_deref(), wrong, "and never left half done");
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_taken_away_and_comes_back_is_flapping_too() {
    let policy = "version: 1\nrules:\n  - { name: none, match: { tags: { InstanceProfile: web } }, profile: none }\n";
    let cloud = FakeCloud::of(world().running(ID, Some("web"), Some("db")));
    let function = Function::with(cloud.clone(), &[("POLICY_FILE", policy)]);
    for _ in 0..3 {
        assert_eq!(ask(&function).await["outcome"], "removed");
        undo(&cloud);
    }
    let row = ask(&function).await;
    assert_eq!((&row["outcome"], &row["error"]["type"]), (&json!("failed"), &json!("Flapping")));
    assert_eq!(cloud.world().writes.len(), 3);
}

#[tokio::test(start_paused = true)]
async fn two_requirements_in_turn_are_no_flapping() {
    let cloud = FakeCloud::of(world().running(ID, Some("web"), Some("db")));
    let function = Function::over(cloud.clone());
    for _ in 0..6 {
        for wanted in ["web", "db"] {
            require(&cloud, wanted);
            assert_eq!(ask(&function).await["outcome"], "replaced");
            assert_eq!(cloud.world().attached_to(ID).as_deref(), Some(wanted));
        }
    }
    assert_eq!(cloud.world().writes.len(), 12);
}

#[tokio::test(start_paused = true)]
async fn another_requirement_ends_a_cooldown() {
    let cloud = contested();
    let function = Function::over(cloud.clone());
    correct_and_undo(&function, &cloud, 3).await;
    assert_eq!(ask(&function).await["error"]["type"], "Flapping");
    require(&cloud, "db");
    assert_eq!(ask(&function).await["outcome"], "kept", "the other hand may have been right");
    cloud.world().attach(ID, "web");
    assert_eq!(ask(&function).await["outcome"], "replaced");
    assert_eq!(cloud.world().attached_to(ID).as_deref(), Some("db"));
}

#[tokio::test(start_paused = true)]
async fn corrections_that_lie_far_apart_are_no_flapping() {
    let cloud = contested();
    let function = Function::over(cloud.clone());
    for _ in 0..10 {
        assert_eq!(ask(&function).await["outcome"], "replaced");
        undo(&cloud);
        tokio::time::sleep(Duration::from_mins(121)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn one_flapping_instance_holds_up_no_other() {
    let cloud = FakeCloud::of(world().running(ID, Some("web"), Some("db")).running(
        OTHER,
        Some("web"),
        Some("db"),
    ));
    let function = Function::over(cloud.clone());
    correct_and_undo(&function, &cloud, 3).await;
    let (one, other) = (running(ID).to_string(), running(OTHER).to_string());
    let messages = [Message::of("one", &one), Message::of("other", &other)];
    assert_eq!(function.receive(&messages).await, ["one"]);
    assert_eq!(cloud.world().attached_to(OTHER).as_deref(), Some("web"));
}

#[tokio::test(start_paused = true)]
async fn a_dry_run_is_never_flapping() {
    let cloud = contested();
    let function = Function::with(cloud.clone(), &[("MODE", "dry-run")]);
    for _ in 0..10 {
        assert_eq!(ask(&function).await["outcome"], "planned");
        let answer = function.invoke(&drift(ID, OPPONENT)).await.unwrap();
        assert_eq!(answer["instances"][0]["outcome"], "planned");
    }
    assert_eq!(cloud.world().writes, []);
    // Nor does a person's dry run during a contest: it says what would be done without one.
    let function = Function::over(cloud.clone());
    correct_and_undo(&function, &cloud, 3).await;
    assert_eq!(ask(&function).await["error"]["type"], "Flapping");
    let payload = json!({ "instance-ids": [ID], "dry-run": true });
    let answer = function.invoke(&payload).await.unwrap();
    assert_eq!(answer["instances"][0]["outcome"], "planned");
}

#[tokio::test(start_paused = true)]
async fn tries_that_failed_are_no_corrections() {
    let fleet = world().running(ID, Some("web"), Some("db")).denying(
        Call::Replace,
        "iam:PassRole on resource: arn:aws:iam::123456789012:role/web-role",
    );
    let function = Function::over(FakeCloud::of(fleet));
    for _ in 0..6 {
        assert_eq!(ask(&function).await["error"]["type"], "Denied");
    }
}

#[tokio::test(start_paused = true)]
async fn what_sweeps_find_during_a_cooldown_waits_for_its_end() {
    let cloud = contested();
    let function = Function::over(cloud.clone());
    let sweep = json!({ "sweep": {} });
    for round in 1..=5 {
        let answer = function.invoke(&sweep).await.unwrap();
        assert_eq!(answer["sweep"]["wrong"], 1, "{round}");
        let mut sent = std::mem::take(&mut cloud.queues().sent);
        sent.retain(|body| body.contains("found-by"));
        let [body] = &sent[..] else { panic!("one message") };
        let comes_again = function.receive(&[Message::of("found", body)]).await;
        let expected: &[&str] = if round > 3 { &["found"] } else { &[] };
        assert_eq!(comes_again, expected, "{round}");
        undo(&cloud);
    }
    assert_eq!(cloud.world().writes.len(), 3);
}
