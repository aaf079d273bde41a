//! Messages from the queue: when those come again that are not done, and where those go that are given up.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::common::runtime_api::Function;
use crate::common::wire::sqs::{DEAD_LETTER_QUEUE, Letter};
use crate::common::wire::{Fault, Wire};
use crate::common::world::{Call, World};
use crate::{
    ASSOCIATE, HIDE, INSTANCES, ONE, SEND, THROTTLED, TWO, a_world, associated, batch,
    batch_failures, function_allowing, function_with, in_three_seconds, running, sample, sent,
    timed,
};

/// For how long messages are hidden while they are worked on, in seconds. No cause has this for its first delay.
const LEASE: u64 = 5;
const SERVER_ERROR: Fault = Fault::Refuses(500, "InternalError", "We did it");
const PASS_ROLE_DENIED: Fault = Fault::Refuses(
    403,
    "UnauthorizedOperation",
    "You are not authorized to perform this operation. User: arn:aws:sts::123456789012:assumed-role/f/f is not \
     authorized to perform: iam:PassRole on resource: arn:aws:iam::123456789012:role/web-role because no \
     identity-based policy allows the iam:PassRole action",
);

#[tokio::test]
async fn messages_that_are_not_done_come_again_after_a_time_that_fits_the_cause() {
    const RATE: [&str; 3] = ["i-0a1", "i-0a2", "i-0a3"];
    const CREATION: [&str; 3] = ["i-0b1", "i-0b2", "i-0b3"];
    const CALM: [&str; 3] = ["i-0c1", "i-0c2", "i-0c3"];
    const RIGHT: [&str; 3] = ["i-0d1", "i-0d2", "i-0d3"];
    let done: Vec<String> = (1..=18).map(|number| format!("i-{number:x}")).collect();
    let mut world = a_world();
    for id in done.iter().map(String::as_str).chain([RATE, CALM, RIGHT].concat()) {
        world = world.running(id, Some("web"), None);
    }
    for id in CREATION {
        world = world.running(id, Some("unmade"), None);
    }
    let mut wire = Wire::serve(world).await;
    for (ids, fault) in [(RATE, THROTTLED), (CALM, SERVER_ERROR), (RIGHT, PASS_ROLE_DENIED)] {
        for id in ids {
            wire = wire.always_about(ASSOCIATE, id, fault.clone());
        }
    }
    let settings = [("ALLOWED_PROFILES", "*"), ("WRITES_PER_SECOND", "100")];
    let mut function = function_with(&wire, &settings).await;
    let not_done = [RATE, CREATION, CALM, RIGHT].concat();
    // The causes among each other, and among what is done.
    let ids: Vec<_> = (0..3).flat_map(|at| [RATE[at], CREATION[at], CALM[at], RIGHT[at]]).collect();
    let (first, rest) = done.split_at(9);
    let texts = |ids: &[String]| ids.to_vec();
    let ids = [texts(first), ids.iter().map(|id| (*id).to_owned()).collect(), texts(rest)].concat();
    let messages: Vec<_> = ids.iter().map(|id| (format!("m-{id}"), running(id))).collect();
    assert_eq!(messages.len(), 30);
    let answer = function.invoke(batch(&messages)).await.unwrap();
    let failures: BTreeSet<_> = batch_failures(&answer).into_iter().map(str::to_owned).collect();
    assert_eq!(failures, not_done.iter().map(|id| format!("m-{id}")).collect());
    assert_eq!(wire.writes().len(), 18);

    let calls = delays(&wire);
    // Calls go out at once, and may arrive in any order.
    let entries: BTreeSet<_> = calls.iter().map(Vec::len).collect();
    assert_eq!((calls.len(), entries), (2, BTreeSet::from([2, 10])), "{calls:?}");
    let delays: BTreeMap<_, _> = calls.into_iter().flatten().collect();
    assert_eq!(delays.len(), 12);
    // A quarter longer at most, and whole seconds.
    for (ids, expected) in [(RATE, 5..=7), (CREATION, 10..=13), (CALM, 15..=19), (RIGHT, 300..=375)]
    {
        for id in ids {
            let delay = delays[&format!("handle-m-{id}")];
            assert!(expected.contains(&delay), "{id}: {delay} s is not in {expected:?}");
        }
    }
}

#[tokio::test]
async fn each_receive_doubles_the_time_until_the_next() {
    let wire =
        Wire::serve(a_world().running(ONE, Some("web"), None)).await.always(ASSOCIATE, THROTTLED);
    let settings = [("ALLOWED_PROFILES", "web"), ("WRITES_PER_SECOND", "100")];
    let mut function = function_with(&wire, &settings).await;
    for (receives, expected) in [(1, 5..=7), (2, 10..=13), (4, 40..=50), (12, 900..=900)] {
        let mut messages = batch(&[("m1", running(ONE))]);
        received(&mut messages, 0, receives, Duration::from_mins(20));
        let delay = the_delay(&mut function, &wire, messages).await;
        assert!(expected.contains(&delay), "{receives}: {delay} s is not in {expected:?}");
    }
}

#[tokio::test]
async fn what_is_done_or_nobodys_business_asks_nothing_of_the_queue() {
    let world = a_world().running(ONE, Some("web"), None).running(TWO, None, None);
    let wire = Wire::serve(world).await;
    let mut function = function_giving_up(&wire).await;
    let messages =
        batch(&[("m1", running(ONE)), ("m2", running(TWO)), ("m3", sample("foreign.json"))]);
    assert_eq!(batch_failures(&function.invoke(messages).await.unwrap()), [""; 0]);
    assert_eq!(wire.writes(), [associated(ONE, "web")]);
    assert_eq!((wire.requests_of(HIDE).len(), wire.requests_of(SEND).len()), (0, 0));
}

#[tokio::test]
async fn a_large_batch_is_hidden_for_a_while_as_soon_as_its_work_begins() {
    let ids: Vec<String> = (1..=11).map(|number| format!("i-{number:x}")).collect();
    let world = ids.iter().fold(a_world(), |world, id| world.running(id, Some("web"), Some("web")));
    let slow = Fault::Delays(Duration::from_secs(1));
    let wire = Wire::serve(world).await.once(INSTANCES, slow);
    let mut function = function_allowing("web", &wire).await;
    let messages: Vec<_> = ids.iter().map(|id| (format!("m-{id}"), running(id))).collect();
    assert_eq!(batch_failures(&function.invoke(batch(&messages)).await.unwrap()), [""; 0]);
    let calls = wire.hidden();
    let mut entries: Vec<_> = calls.iter().map(Vec::len).collect();
    entries.sort_unstable();
    assert_eq!(entries, [1, 10], "{calls:?}");
    let leases: BTreeMap<_, _> = calls.into_iter().flatten().collect();
    let expected = messages.iter().map(|(id, _)| (format!("handle-{id}"), LEASE));
    assert_eq!(leases, expected.collect());
}

#[tokio::test]
async fn a_small_batch_is_hidden_for_a_while_once_its_work_takes_long() {
    let slow = Fault::Delays(Duration::from_secs(4));
    let world = a_world().running(ONE, Some("web"), None).running(TWO, Some("web"), Some("web"));
    let wire = Wire::serve(world).await.once(INSTANCES, slow.clone()).once(ASSOCIATE, slow);
    let mut function = function_allowing("web", &wire).await;
    let messages = batch(&[("m1", running(ONE)), ("m2", running(TWO))]);
    assert_eq!(batch_failures(&function.invoke(messages).await.unwrap()), [""; 0]);
    assert_eq!(wire.writes(), [associated(ONE, "web")]);
    let leases = wire.hidden();
    assert!(!leases.is_empty());
    for lease in leases {
        assert_eq!(lease, ["handle-m1", "handle-m2"].map(|handle| (handle.to_owned(), LEASE)));
    }
}

// ---- What is given up -----------------------------------------------------------------------------------------------

#[tokio::test]
async fn a_message_that_cannot_be_read_is_in_the_dead_letter_queue_with_the_reason() {
    let world = a_world().running(ONE, Some("web"), None);
    let wire = Wire::serve(world).await;
    let mut function = function_giving_up(&wire).await;
    let mut messages = batch(&[
        ("good", running(ONE)),
        ("not-json", Value::Null),
        ("foreign", sample("foreign.json")),
        ("no-instance", sample("malformed.json")),
        ("not-yet", running(TWO)),
    ]);
    messages["Records"][1]["body"] =
        json!("not json at all, but with a \u{1F980} and <angles>\r\n");
    let answer = function.invoke(&messages).await.unwrap();
    assert_eq!(batch_failures(&answer), ["not-yet"], "what is safe there is done here");
    assert_eq!(wire.writes(), [associated(ONE, "web")]);

    let calls = wire.dead_letters();
    assert_eq!(calls.iter().map(Vec::len).collect::<Vec<_>>(), [1, 1], "a body can be large");
    for (record, words) in [(1, "expected"), (3, "instance-id")] {
        let record = &messages["Records"][record];
        let letter = letter_about(&wire, record["messageId"].as_str().unwrap());
        assert_eq!(letter.body, record["body"].as_str().unwrap(), "to send it again is a try");
        assert_eq!(letter.attributes["ErrorType"], "MalformedEvent");
        assert!(letter.attributes["Error"].contains(words), "{letter:?}");
        assert_eq!(letter.attributes.len(), 3, "{letter:?}");
    }
    let [hidden] = &delays(&wire)[..] else { panic!("one call") };
    let [(receipt, delay)] = &hidden[..] else { panic!("one message: {hidden:?}") };
    assert_eq!(receipt, "handle-not-yet");
    assert!((10..=13).contains(delay), "{delay}");
}

#[tokio::test]
async fn what_only_a_person_can_mend_is_given_up_after_five_receives_and_what_is_too_old_at_once() {
    let right = "iam:PassRole on resource: arn:aws:iam::123456789012:role/web-role";
    let world = a_world().running(ONE, Some("web"), None).denying(Call::Associate, right);
    let wire = Wire::serve(world).await;
    let mut function = function_giving_up(&wire).await;
    let mut messages = batch(&[("m1", running(ONE))]);
    received(&mut messages, 0, 4, Duration::from_mins(30));
    let delay = the_delay(&mut function, &wire, messages.clone()).await;
    assert_eq!(delay, 900);
    assert_eq!(wire.dead_letters().len(), 0);
    received(&mut messages, 0, 5, Duration::from_mins(45));
    assert_eq!(batch_failures(&function.invoke(&messages).await.unwrap()), [""; 0]);
    let letter = letter_about(&wire, "m1");
    assert_eq!(letter.body, messages["Records"][0]["body"].as_str().unwrap());
    assert_eq!(letter.attributes["ErrorType"], "Denied");
    for part in [ONE, ASSOCIATE, "needs iam:PassRole", "role/web-role", "UnauthorizedOperation"] {
        assert!(letter.attributes["Error"].contains(part), "{part} in {letter:?}");
    }

    // An instance that EC2 does not know is waited for; but not longer than the queue would.
    let wire = Wire::serve(World::new()).await;
    let mut function = function_giving_up(&wire).await;
    let mut messages = batch(&[("m1", running(ONE))]);
    received(&mut messages, 0, 2, Duration::from_hours(85));
    assert_eq!(batch_failures(&function.invoke(messages).await.unwrap()), [""; 0]);
    assert_eq!(letter_about(&wire, "m1").attributes["ErrorType"], "InstanceNotFound");
    assert_eq!(delays(&wire), [[]; 0]);
}

#[tokio::test]
async fn what_the_dead_letter_queue_does_not_take_comes_again() {
    let faults = [
        Fault::FailsEntries(&[0], "InternalError"),
        Fault::Refuses(403, "AccessDeniedException", "Not you"),
        Fault::Refuses(500, "InternalFailure", "Not now"),
        Fault::BreaksBefore,
        Fault::Hangs,
    ];
    join_all(faults.map(async |fault| {
        let shown = format!("{fault:?}");
        let wire = Wire::serve(a_world()).await.always(SEND, fault);
        let mut function = function_giving_up(&wire).await;
        let messages = batch(&[("bad-1", json!({})), ("bad-2", json!([]))]);
        let answer = function.invoke(messages.clone()).await.unwrap();
        assert_eq!(batch_failures(&answer), ["bad-1", "bad-2"], "{shown}");
        assert_eq!(wire.dead_letters().concat().len(), 0, "{shown}");
        let log = function.stop().await;
        for id in ["bad-1", "bad-2"] {
            let about = format!("message.id=\"{id}\"");
            let says_so = |line: &&String| {
                line.contains("ERROR") && line.contains("not given up") && line.contains(&about)
            };
            assert_eq!(log.iter().filter(says_so).count(), 1, "{shown}: {log:#?}");
        }
    }))
    .await;
}

#[tokio::test]
async fn of_two_messages_only_the_one_that_is_not_safe_comes_again() {
    let wire = Wire::serve(a_world()).await.once(SEND, Fault::FailsEntries(&[0], "InternalError"));
    let mut function = function_giving_up(&wire).await;
    let messages = batch(&[("bad-1", json!({})), ("bad-2", json!([]))]);
    let answer = function.invoke(messages).await.unwrap();
    let failures = batch_failures(&answer);
    let letters = wire.dead_letters().concat();
    let [letter] = &letters[..] else { panic!("one of the two: {letters:?}") };
    let [failure] = failures[..] else { panic!("the other: {failures:?}") };
    assert_ne!(letter.attributes["MessageId"], failure);
}

#[tokio::test]
async fn without_a_dead_letter_queue_the_queues_own_counting_gives_up() {
    let wire = Wire::serve(a_world()).await;
    let mut function = function_allowing("web", &wire).await;
    let messages = batch(&[("bad", json!({}))]);
    assert_eq!(batch_failures(&function.invoke(messages).await.unwrap()), ["bad"]);
    assert_eq!(wire.requests_of(SEND).len(), 0);
    assert_eq!(wire.hidden(), [[("handle-bad".to_owned(), 20)]]);
}

// ---- A queue that fails ---------------------------------------------------------------------------------------------

#[tokio::test]
async fn a_queue_that_is_down_changes_nothing_about_what_is_done_and_what_is_not() {
    let faults = [
        Fault::Refuses(500, "InternalFailure", "Not now"),
        Fault::Refuses(403, "AccessDeniedException", "Not you"),
        Fault::Garbles,
        Fault::BreaksBefore,
        Fault::Hangs,
    ];
    join_all(faults.map(async |fault| {
        let shown = format!("{fault:?}");
        let (wire, mut function) = with_a_queue_that_is_down(fault).await;
        let answer = function.invoke(a_batch_for_a_queue_that_is_down()).await.unwrap();
        assert_eq!(batch_failures(&answer), ["not-yet", "malformed"], "{shown}");
        assert_eq!(wire.writes(), [associated(ONE, "web")], "{shown}");
        let log = function.stop().await;
        let warns = |line: &String| line.contains("WARN") && line.contains("timeout is over");
        assert!(log.iter().any(warns), "{shown}: {log:#?}");
    }))
    .await;
}

#[tokio::test]
async fn a_queue_that_is_down_does_not_keep_an_invocation_beyond_its_deadline() {
    for fault in [Fault::BreaksBefore, Fault::Hangs] {
        let (wire, mut function) = with_a_queue_that_is_down(fault).await;
        let invocation = in_three_seconds(a_batch_for_a_queue_that_is_down());
        let (answer, took) = timed(function.take(invocation)).await;
        assert_eq!(batch_failures(&answer.unwrap()), ["not-yet", "malformed"]);
        assert_eq!(wire.writes(), [associated(ONE, "web")]);
        assert!(took < Duration::from_secs(3), "{took:?}");
    }
}

async fn with_a_queue_that_is_down(fault: Fault) -> (Wire, Function) {
    let world = a_world().running(ONE, Some("web"), None).running(TWO, Some("unmade"), None);
    let wire = Wire::serve(world).await.always(HIDE, fault.clone()).always(SEND, fault);
    let url = dead_letter_queue(&wire);
    let settings = [("ALLOWED_PROFILES", "*"), ("DEAD_LETTER_QUEUE_URL", url.as_str())];
    let function = function_with(&wire, &settings).await;
    (wire, function)
}

/// One message that is done, one that is not, one that is given up, and so many that are ignored that all are leased.
fn a_batch_for_a_queue_that_is_down() -> Value {
    let mut messages = vec![
        ("done".to_owned(), running(ONE)),
        ("not-yet".to_owned(), running(TWO)),
        ("malformed".to_owned(), json!({})),
    ];
    messages.extend((1..=9).map(|number| (format!("foreign-{number}"), sample("foreign.json"))));
    batch(&messages)
}

#[tokio::test]
async fn of_a_call_that_fails_in_part_the_rest_is_hidden_and_the_log_counts() {
    let ids: Vec<String> = (1..=12).map(|number| format!("i-{number:x}")).collect();
    let world = ids.iter().fold(a_world(), |world, id| world.running(id, Some("unmade"), None));
    let fault = Fault::FailsEntries(&[1], "ReceiptHandleIsInvalid");
    let wire = Wire::serve(world).await.always(HIDE, fault);
    let mut function = function_allowing("*", &wire).await;
    let messages: Vec<_> = ids.iter().map(|id| (format!("m-{id}"), running(id))).collect();
    let answer = function.invoke(batch(&messages)).await.unwrap();
    assert_eq!(batch_failures(&answer).len(), 12);
    let calls = delays(&wire);
    let entries: BTreeSet<_> = calls.iter().map(Vec::len).collect();
    assert_eq!((calls.len(), entries), (2, BTreeSet::from([1, 9])), "{calls:?}");
    let log = function.stop().await;
    let says_so = |line: &&String| {
        line.contains("2 of 12 messages") && line.contains("ReceiptHandleIsInvalid")
    };
    // More than ten are leased, too.
    assert!(log.iter().filter(says_so).count() >= 1, "{log:#?}");
}

#[tokio::test]
async fn a_message_whose_queue_is_unknown_is_left_to_the_queues_own_timeout() {
    let wire = Wire::serve(a_world().running(ONE, Some("unmade"), None)).await;
    let mut function = function_allowing("*", &wire).await;
    for (field, value) in [
        ("eventSourceARN", json!("a queue")),
        ("eventSourceARN", Value::Null),
        ("receiptHandle", Value::Null),
        ("receiptHandle", json!("")),
    ] {
        let mut messages = batch(&[("m1", running(ONE))]);
        messages["Records"][0][field] = value;
        assert_eq!(batch_failures(&function.invoke(messages).await.unwrap()), ["m1"], "{field}");
    }
    assert_eq!(wire.requests_of(HIDE).len(), 0);
}

// ---- Helpers --------------------------------------------------------------------------------------------------------

fn dead_letter_queue(wire: &Wire) -> String {
    format!("{}/123456789012/{DEAD_LETTER_QUEUE}", wire.endpoint())
}

async fn function_giving_up(wire: &Wire) -> Function {
    let url = dead_letter_queue(wire);
    function_with(wire, &[("ALLOWED_PROFILES", "web"), ("DEAD_LETTER_QUEUE_URL", &url)]).await
}

fn received(messages: &mut Value, index: usize, times: u32, sent_ago: Duration) {
    let attributes = &mut messages["Records"][index]["attributes"];
    attributes["ApproximateReceiveCount"] = json!(times.to_string());
    attributes["SentTimestamp"] = sent(sent_ago);
}

/// What each call hid, leases apart.
fn delays(wire: &Wire) -> Vec<Vec<(String, u64)>> {
    let is_lease = |call: &[(String, u64)]| call.iter().all(|(_, seconds)| *seconds == LEASE);
    wire.hidden().into_iter().filter(|call| !is_lease(call)).collect()
}

/// Invokes with one message that is not done, and answers with the time until it comes again.
async fn the_delay(function: &mut Function, wire: &Wire, messages: Value) -> u64 {
    let before = wire.hidden().len();
    assert_eq!(batch_failures(&function.invoke(messages).await.unwrap()), ["m1"]);
    // Leases come before.
    let calls = &wire.hidden()[before..];
    let Some(call) = calls.last() else { panic!("no call") };
    let [(_, delay)] = call[..] else { panic!("one message: {call:?}") };
    delay
}

fn letter_about(wire: &Wire, message: &str) -> Letter {
    let mut letters = wire.dead_letters().into_iter().flatten();
    letters.find(|letter| letter.attributes["MessageId"] == message).expect("a letter about it")
}
