//! What the function sends to itself: a look after each write, and what a swap takes away, before it does.

use std::time::Duration;

use auto_instance_profile::queue::Outgoing;
use serde_json::{Value, json};

use crate::common::fake::FakeCloud;
use crate::common::function::{Function, Log, Message, running};
use crate::common::world::{Call, World, Write};
use crate::reconcile::ID;

const SWAP: (&str, &str) = ("WHEN_STOPPED", "swap");
const MINUTE: Duration = Duration::from_mins(1);

fn world() -> World {
    World::new().profile("web").profile("db")
}

fn minutes(minutes: u64) -> Duration {
    Duration::from_secs(60 * minutes)
}

/// The messages that were sent since the last time.
fn sent(cloud: &FakeCloud) -> Vec<Outgoing> {
    std::mem::take(&mut cloud.queues().outgoing)
}

/// The one message that was sent since the last time.
fn one_sent(cloud: &FakeCloud) -> (Value, Outgoing) {
    let messages = sent(cloud);
    let [message] = &messages[..] else { panic!("one message: {messages:?}") };
    (serde_json::from_str(&message.body).unwrap(), message.clone())
}

/// For how long messages were hidden since the last time, leases left out.
fn hidden(cloud: &FakeCloud) -> Vec<Duration> {
    let hidden = std::mem::take(&mut cloud.queues().hidden);
    hidden.into_iter().map(|(_, time)| time).filter(|time| *time > MINUTE / 2).collect()
}

/// A message of the function's own, this long after it was sent.
async fn deliver(
    function: &Function<FakeCloud>,
    message: &Outgoing,
    age: Duration,
    receives: u32,
) -> bool {
    let message = Message::of("own", &message.body).sent(age).received(receives);
    function.receive(&[message]).await.is_empty()
}

async fn event(function: &Function<FakeCloud>) {
    let body = running(ID).to_string();
    assert_eq!(function.receive(&[Message::of("event", &body)]).await, [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn each_write_is_followed_by_a_look_five_minutes_later() {
    for (world, setting, after, profile) in [
        (world().running(ID, Some("web"), None), SWAP, "associate", Some("web")),
        (world().running(ID, Some("web"), Some("db")), SWAP, "correction", Some("web")),
        (world().stopped(ID, Some("web"), Some("db")), SWAP, "correction", Some("web")),
    ] {
        let cloud = FakeCloud::of(world);
        event(&Function::with(cloud.clone(), &[setting])).await;
        let messages = sent(&cloud);
        let message = messages.last().unwrap();
        assert_eq!((message.delay, message.group), (minutes(5), Some("verification")));
        let body: Value = serde_json::from_str(&message.body).unwrap();
        let fields = &body["verify"];
        assert_eq!((&fields["instance-id"], &fields["after"]), (&json!(ID), &json!(after)));
        let arn = profile.map(|name| cloud.world().profiles[name].arn());
        assert_eq!(fields["profile"], json!(arn));
        let world = cloud.world();
        let row = &world.associations[world.associations.len() - 1].id;
        assert_eq!(fields["association-id"], json!(row));
        assert_eq!(fields["corrected-s-ago"], json!([0]));
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_right_needs_no_second_look() {
    let cloud = FakeCloud::of(world().running(ID, Some("web"), Some("web")));
    event(&Function::over(cloud.clone())).await;
    assert_eq!(sent(&cloud), []);
}

#[tokio::test(start_paused = true)]
async fn a_correction_is_looked_at_after_5_and_65_minutes() {
    let cloud = FakeCloud::of(world().running(ID, Some("web"), Some("db")));
    let function = Function::over(cloud.clone());
    event(&function).await;
    let (_, message) = one_sent(&cloud);
    tokio::time::sleep(minutes(5)).await;
    assert!(!deliver(&function, &message, minutes(5), 1).await, "it comes once more");
    let [delay] = hidden(&cloud)[..] else { panic!("one delay") };
    assert!(delay > minutes(59) && delay <= minutes(60), "{delay:?}");
    assert!(deliver(&function, &message, minutes(65), 2).await);
    assert_eq!(sent(&cloud), []);
    assert_eq!(cloud.world().writes.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_association_is_looked_at_once() {
    let cloud = FakeCloud::of(world().running(ID, Some("web"), None));
    let function = Function::over(cloud.clone());
    event(&function).await;
    let (_, message) = one_sent(&cloud);
    tokio::time::sleep(minutes(5)).await;
    assert!(deliver(&function, &message, minutes(5), 1).await);
    assert_eq!(sent(&cloud), []);
}

#[tokio::test(start_paused = true)]
async fn flapping_is_known_from_messages_alone() {
    let cloud = FakeCloud::of(world().running(ID, Some("web"), Some("db")));
    event(&Function::over(cloud.clone())).await;
    // Each look is another execution environment's, and each time an hourly actor was there before it.
    for correction in 1..=2 {
        cloud.world().attach(ID, "db");
        let (body, message) = one_sent(&cloud);
        let ages = body["verify"]["corrected-s-ago"].as_array().unwrap().len();
        assert_eq!(ages, correction, "{body}");
        assert!(deliver(&Function::over(cloud.clone()), &message, minutes(65), 2).await);
        assert_eq!(cloud.world().attached_to(ID).as_deref(), Some("web"));
    }
    cloud.world().attach(ID, "db");
    let (_, message) = one_sent(&cloud);
    let log = Log::begin();
    let function = Function::over(cloud.clone());
    assert!(deliver(&function, &message, minutes(65), 2).await, "another message goes on");
    assert_eq!(cloud.world().writes.len(), 3, "the fourth correction is not made");
    let [line] = &log.about(ID)[..] else { panic!("one line") };
    assert_eq!((&line["level"], &line["error.type"]), (&json!("ERROR"), &json!("Flapping")));
    assert_eq!(function.take_metrics(), [json!({ "Flapping": 1 })]);

    let (body, cooldown) = one_sent(&cloud);
    assert_eq!(body["verify"]["after"], "flapping");
    assert_eq!(cooldown.delay, minutes(15), "the longest that SQS takes");
    let other = Function::over(cloud.clone());
    assert!(!deliver(&other, &cooldown, minutes(15), 1).await);
    let [left] = hidden(&cloud)[..] else { panic!("one delay") };
    assert!(left > minutes(44) && left <= minutes(45), "{left:?}");
    assert_eq!(cloud.world().writes.len(), 3);
    assert!(deliver(&Function::over(cloud.clone()), &cooldown, minutes(61), 2).await);
    assert_eq!(cloud.world().writes.len(), 4, "and all begins again");
    let (body, _) = one_sent(&cloud);
    assert_eq!(body["verify"]["corrected-s-ago"], json!([0]));
}

#[tokio::test(start_paused = true)]
async fn what_sweeps_set_right_each_time_is_flapping_too() {
    let cloud = FakeCloud::of(world().running(ID, Some("web"), Some("db")));
    event(&Function::over(cloud.clone())).await;
    let found = json!({ "instance-ids": [ID], "found-by": "sweep" }).to_string();
    let mut verification = one_sent(&cloud).1;
    for hour in 1..=3 {
        cloud.world().attach(ID, "db");
        let sweep = Function::over(cloud.clone());
        assert_eq!(sweep.receive(&[Message::of("found", &found)]).await, [""; 0]);
        sent(&cloud);
        tokio::time::sleep(minutes(1)).await;
        let log = Log::begin();
        assert!(deliver(&Function::over(cloud.clone()), &verification, minutes(65), 2).await);
        let [line] = &log.about(ID)[..] else { panic!("one line") };
        let level = if hour >= 2 { "ERROR" } else { "INFO" };
        assert_eq!(line["level"], level, "hour {hour}: {line}");
        verification = one_sent(&cloud).1;
    }
}

#[tokio::test(start_paused = true)]
async fn a_stuck_association_is_found_without_timestamps() {
    let cloud = FakeCloud::of(world().running(ID, Some("web"), None));
    let function = Function::over(cloud.clone());
    event(&function).await;
    let (_, message) = one_sent(&cloud);
    cloud.world().never_settles(ID);
    tokio::time::sleep(minutes(5)).await;
    function.take_metrics();
    let log = Log::begin();
    assert!(deliver(&function, &message, minutes(5), 1).await);
    let [line] = &log.about(ID)[..] else { panic!("one line") };
    assert_eq!((&line["level"], &line["reason"]), (&json!("ERROR"), &json!("association-stuck")));
    assert_eq!(function.take_metrics()[0]["Stuck"], 1);
}

#[tokio::test(start_paused = true)]
async fn an_instance_that_waits_until_it_runs_is_looked_at_once_more() {
    let cloud = FakeCloud::of(world().stopped(ID, Some("web"), Some("db")));
    let function = Function::over(cloud.clone());
    event(&function).await;
    assert_eq!(cloud.world().writes, [], "by default nothing is detached");
    let (body, message) = one_sent(&cloud);
    assert_eq!(body["verify"]["after"], "wait");
    // The read was old: it ran by then.
    cloud.world().instance_mut(ID).state = "running".into();
    assert!(deliver(&function, &message, minutes(5), 1).await);
    assert_eq!(cloud.world().attached_to(ID).as_deref(), Some("web"));
}

#[tokio::test(start_paused = true)]
async fn a_swap_is_written_down_before_it_detaches() {
    let cloud = FakeCloud::of(world().stopped(ID, Some("web"), Some("db")));
    let row = cloud.world().associations[0].id.clone();
    let function = Function::with(cloud.clone(), &[SWAP]);
    event(&function).await;
    let messages = sent(&cloud);
    let body: Value = serde_json::from_str(&messages[0].body).unwrap();
    let db = cloud.world().profiles["db"].arn();
    let expected = json!({ "finish-swap": {
        "instance-id": ID, "account": "123456789012", "region": "us-east-1", "profile": db, "association-id": row,
    }});
    assert_eq!((body, messages[0].delay), (expected, MINUTE));
    // Once the swap is done the message has nothing to do.
    assert!(deliver(&function, &messages[0], MINUTE, 1).await);
    assert_eq!(cloud.world().writes.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_detached_where_it_cannot_be_written_down() {
    let cloud = FakeCloud::of(world().stopped(ID, Some("web"), Some("db")));
    cloud.queues().fail = true;
    let function = Function::with(cloud.clone(), &[SWAP]);
    let body = running(ID).to_string();
    assert_eq!(function.receive(&[Message::of("event", &body)]).await, ["event"]);
    assert_eq!(cloud.world().writes, []);

    let cloud = FakeCloud::of(world().stopped(ID, Some("web"), Some("db")));
    let function = Function::without_but(cloud.clone(), &["QUEUE_URL"], &[SWAP]);
    assert_eq!(function.receive(&[Message::of("event", &body)]).await, [""; 0]);
    assert_eq!(cloud.world().writes, [], "without a queue it waits until the instance runs");
}

/// An instance that a swap left without a profile, and the message that was written down before.
async fn half_swapped(policy: &str) -> (FakeCloud, Outgoing) {
    let world = world().stopped(ID, Some("web"), Some("db"));
    let cloud = FakeCloud::of(world.before(Call::Associate, |_| ()));
    let function = Function::with(cloud.clone(), &[SWAP, ("POLICY_FILE", policy)]);
    event(&function).await;
    let written = sent(&cloud).remove(0);
    // As if the environment had died in the middle.
    cloud.world().detach(ID);
    cloud.world().writes.clear();
    (cloud, written)
}

const CORRECTS: &str = "version: 1
rules: [{ name: corrects, match: { tags: { InstanceProfile: web } }, profile: web, when-absent: leave }]";

#[tokio::test(start_paused = true)]
async fn whoever_finds_a_half_swapped_instance_finishes_it() {
    let (cloud, message) = half_swapped(CORRECTS).await;
    let function = Function::with(cloud.clone(), &[("POLICY_FILE", CORRECTS)]);
    // The rule leaves instances without a profile alone, but this one had one.
    event(&function).await;
    assert_eq!(cloud.world().attached_to(ID), None);
    assert!(deliver(&function, &message, MINUTE, 1).await);
    assert_eq!(cloud.world().attached_to(ID).as_deref(), Some("web"));
}

#[tokio::test(start_paused = true)]
async fn a_half_swapped_instance_gets_its_old_profile_back() {
    for what in ["the tag is gone", "the profile is gone", "the attach is denied"] {
        let (cloud, message) = half_swapped(CORRECTS).await;
        let mut denies = false;
        match what {
            "the tag is gone" => cloud.world().instance_mut(ID).tags.clear(),
            "the profile is gone" => drop(cloud.world().profiles.remove("web")),
            _ => denies = true,
        }
        if denies {
            cloud.world().deny_once(Call::Associate, "iam:PassRole on resource: role/web");
        }
        let function = Function::with(cloud.clone(), &[("POLICY_FILE", CORRECTS)]);
        assert!(deliver(&function, &message, MINUTE, 1).await, "{what}");
        assert_eq!(cloud.world().attached_to(ID).as_deref(), Some("db"), "{what}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_half_swapped_instance_is_no_ones_until_it_has_a_profile() {
    let (cloud, message) = half_swapped(CORRECTS).await;
    let function = Function::with(cloud.clone(), &[("POLICY_FILE", CORRECTS)]);
    // It is being started: EC2 takes nothing now.
    cloud.world().instance_mut(ID).state = "pending".into();
    for receive in 1..=8 {
        assert!(!deliver(&function, &message, minutes(5), receive).await, "receive {receive}");
    }
    cloud.world().instance_mut(ID).state = "running".into();
    assert!(deliver(&function, &message, minutes(9), 9).await);
    assert_eq!(cloud.world().attached_to(ID).as_deref(), Some("web"));
    assert_eq!(cloud.queues().dead_letters, []);
}

#[tokio::test(start_paused = true)]
async fn a_message_about_a_swap_ends_with_the_instance() {
    let (cloud, message) = half_swapped(CORRECTS).await;
    let function = Function::with(cloud.clone(), &[("POLICY_FILE", CORRECTS)]);
    cloud.world().instance_mut(ID).state = "terminated".into();
    assert!(deliver(&function, &message, MINUTE, 1).await);
    assert_eq!(cloud.world().writes, []);
}

#[tokio::test(start_paused = true)]
async fn a_list_from_before_the_swap_ends_no_message_about_it() {
    let cloud = FakeCloud::of(world().stopped(ID, Some("web"), Some("db")));
    let row = cloud.world().associations[0].id.clone();
    let db = cloud.world().profiles["db"].arn();
    let body = json!({ "finish-swap": {
        "instance-id": ID, "region": "us-east-1", "profile": db, "association-id": row,
    }});
    let message = Outgoing::at_once(body.to_string());
    let function = Function::over(cloud.clone());
    assert!(!deliver(&function, &message, MINUTE, 1).await, "it may be about to go");
    assert!(deliver(&function, &message, minutes(4), 4).await, "it was never taken away");
    assert_eq!(cloud.world().writes, []);
}

#[tokio::test(start_paused = true)]
async fn a_denied_attach_detaches_nothing() {
    let denied = "iam:PassRole on resource: arn:aws:iam::123456789012:role/web-role";
    let world = world().stopped(ID, Some("web"), Some("db")).denying(Call::Associate, denied);
    let cloud = FakeCloud::of(world);
    let function = Function::with(cloud.clone(), &[SWAP]);
    let body = running(ID).to_string();
    for _ in 0..3 {
        assert_eq!(function.receive(&[Message::of("event", &body)]).await, ["event"]);
    }
    assert!(!cloud.world().calls.contains(&Call::Disassociate));
    assert_eq!(cloud.world().attached_to(ID).as_deref(), Some("db"));
}

#[tokio::test(start_paused = true)]
async fn a_profile_made_again_elsewhere_is_not_detached() {
    // The name was looked up some minutes ago; since then it was made again under a path, and attached by hand.
    let cloud = FakeCloud::of(world().stopped(ID, Some("web"), Some("web")));
    let function = Function::with(cloud.clone(), &[SWAP, ("ALLOWED_PROFILES", "web,db,app/*")]);
    event(&function).await;
    cloud.world().make_profile("/app/", "web", Some("ec2.amazonaws.com"));
    cloud.world().attach(ID, "web");
    tokio::time::sleep(minutes(2)).await;
    event(&function).await;
    assert_eq!(cloud.world().writes, [] as [Write; 0]);
}

#[tokio::test(start_paused = true)]
async fn messages_of_the_functions_own_that_are_damaged_are_named() {
    for (body, part) in [
        (json!({ "verify": [] }), "object"),
        (json!({ "verify": {} }), "instance-id"),
        (
            json!({ "verify": { "instance-id": ID, "region": "us-east-1", "after": "lunch" } }),
            "after",
        ),
        (
            json!({ "finish-swap": {
                "instance-id": ID, "region": "us-east-1", "profile": "web", "association-id": "x",
            }}),
            "profile",
        ),
    ] {
        let function = Function::over(FakeCloud::of(world()));
        let error = function.invoke(&body).await.unwrap_err();
        assert_eq!(error.error_type, "MalformedEvent", "{body}");
        assert!(error.error_message.contains(part), "{body}: {}", error.error_message);
    }
}

#[tokio::test(start_paused = true)]
async fn an_event_beside_a_message_about_a_swap_is_not_lost() {
    let cloud = FakeCloud::of(world().running(ID, Some("web"), Some("db")));
    let db = cloud.world().profiles["db"].arn();
    let swap = json!({ "finish-swap": {
        "instance-id": ID, "account": "123456789012", "region": "us-east-1", "profile": db,
        "association-id": "iip-assoc-0fedcba9876543210",
    }});
    let (swap, event) = (swap.to_string(), running(ID).to_string());
    let function = Function::over(cloud.clone());
    let messages = [Message::of("swap", &swap), Message::of("event", &event)];
    assert_eq!(function.receive(&messages).await, [""; 0]);
    assert_eq!(cloud.world().attached_to(ID).as_deref(), Some("web"));
}

#[tokio::test(start_paused = true)]
async fn nobodys_message_attaches_what_is_not_allowed() {
    let cloud = FakeCloud::of(world().profile("admin").running(ID, None, None));
    let admin = cloud.world().profiles["admin"].arn();
    let forged = json!({ "finish-swap": {
        "instance-id": ID, "region": "us-east-1", "profile": admin, "association-id": "iip-assoc-1",
    }});
    let function = Function::over(cloud.clone());
    assert!(deliver(&function, &Outgoing::at_once(forged.to_string()), minutes(5), 4).await);
    assert_eq!(cloud.world().writes, []);
}

#[tokio::test(start_paused = true)]
async fn one_undo_counts_once_wherever_it_is_seen() {
    let cloud = FakeCloud::of(world().running(ID, Some("web"), Some("db")));
    let function = Function::over(cloud.clone());
    event(&function).await;
    let (_, first) = one_sent(&cloud);
    cloud.world().attach(ID, "db");
    event(&function).await;
    sent(&cloud);
    tokio::time::sleep(minutes(5)).await;
    let log = Log::begin();
    assert!(deliver(&function, &first, minutes(5), 1).await);
    let [line] = &log.about(ID)[..] else { panic!("one line") };
    assert_eq!(line["level"], "INFO", "two corrections are no flapping: {line}");
    let (body, _) = one_sent(&cloud);
    assert_eq!(body["verify"]["corrected-s-ago"].as_array().unwrap().len(), 2, "{body}");
}

#[tokio::test(start_paused = true)]
async fn a_cooldown_is_over_where_its_message_says_so() {
    let cloud = FakeCloud::of(world().running(ID, Some("web"), Some("db")));
    let function = Function::over(cloud.clone());
    for _ in 0..3 {
        event(&function).await;
        cloud.world().attach(ID, "db");
    }
    let web = cloud.world().profiles["web"].arn();
    let over = json!({ "verify": {
        "instance-id": ID, "account": "123456789012", "region": "us-east-1", "after": "flapping", "profile": web,
    }});
    // The environment still remembers the three corrections, and not that a cooldown began.
    let over = Outgoing::at_once(over.to_string());
    assert!(deliver(&function, &over, minutes(61), 2).await);
    assert_eq!(cloud.world().attached_to(ID).as_deref(), Some("web"));
}

#[tokio::test(start_paused = true)]
async fn tags_of_one_read_alone_take_no_profile_away() {
    let yaml = "version: 1\nrules: [{ name: retired, match: { tags: { InstanceProfile: web } }, profile: none }]";
    let cloud = FakeCloud::of(world().running(ID, Some("web"), Some("db")).untagged_for(ID, 1_000));
    let function = Function::with(cloud.clone(), &[("POLICY_FILE", yaml)]);
    let body = running(ID).to_string();
    for receive in 1..=4 {
        let message =
            Message::of("event", &body).received(receive).sent(minutes(u64::from(receive)));
        function.receive(&[message]).await;
    }
    assert_eq!(cloud.world().writes, []);
}

#[tokio::test(start_paused = true)]
async fn an_association_that_began_while_stopped_is_verified_once_it_runs() {
    let cloud = FakeCloud::of(world().stopped(ID, Some("web"), None));
    let function = Function::over(cloud.clone());
    event(&function).await;
    sent(&cloud);
    cloud.world().instance_mut(ID).state = "running".into();
    cloud.world().never_settles(ID);
    event(&function).await;
    let (body, message) = one_sent(&cloud);
    assert_eq!(body["verify"]["after"], "wait");
    function.take_metrics();
    assert!(deliver(&function, &message, minutes(5), 1).await);
    assert_eq!(function.take_metrics()[0]["Stuck"], 1);
}
