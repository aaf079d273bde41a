//! How fast the function writes, and what it makes of EC2's throttling.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use serde_json::json;

use crate::common::runtime_api::Function;
use crate::common::wire::Wire;
use crate::{
    ASSOCIATE, ONE, THROTTLED, TWO, a_world, associated, batch, batch_failures, function_with, row,
    rows, running, timed,
};

#[tokio::test]
async fn a_write_that_is_throttled_takes_its_next_turn_and_is_made() {
    let wire = Wire::serve(a_world().running(ONE, Some("web"), None))
        .await
        .once(ASSOCIATE, THROTTLED)
        .once(ASSOCIATE, THROTTLED)
        .once(ASSOCIATE, THROTTLED);
    let settings = [("ALLOWED_PROFILES", "web"), ("WRITES_PER_SECOND", "5")];
    let mut function = function_with(&wire, &settings).await;
    let messages = batch(&[("m1", running(ONE))]);
    assert_eq!(batch_failures(&function.invoke(messages).await.unwrap()), [""; 0]);
    assert_eq!(wire.writes(), [associated(ONE, "web")]);
    let tries = wire.requests_of(ASSOCIATE);
    assert_eq!(tries.len(), 4);
    // A throttled try empties the bucket, however full it was: a turn at 5 a second is a fifth of a second later, less
    // what the server was late to take the first.
    for pair in tries.windows(2) {
        let apart = pair[1].at - pair[0].at;
        assert!(apart >= Duration::from_millis(150), "{apart:?}");
    }
}

#[tokio::test]
async fn a_write_that_is_throttled_each_time_is_left_to_the_next_delivery() {
    let wire =
        Wire::serve(a_world().running(ONE, Some("web"), None)).await.always(ASSOCIATE, THROTTLED);
    let settings = [("ALLOWED_PROFILES", "web"), ("WRITES_PER_SECOND", "50")];
    let mut function = function_with(&wire, &settings).await;
    for (receives, expected) in [(1, 5..=7), (3, 20..=25)] {
        let mut messages = batch(&[("m1", running(ONE))]);
        let count = json!(receives.to_string());
        messages["Records"][0]["attributes"]["ApproximateReceiveCount"] = count;
        let (tries, calls) = (wire.requests_of(ASSOCIATE).len(), wire.hidden().len());
        assert_eq!(batch_failures(&function.invoke(messages).await.unwrap()), ["m1"]);
        assert_eq!(wire.requests_of(ASSOCIATE).len() - tries, 5);
        // Leases come before.
        let hidden = wire.hidden()[calls..].last().unwrap().clone();
        let [(receipt, delay)] = &hidden[..] else { panic!("one message: {hidden:?}") };
        assert_eq!(receipt, "handle-m1");
        assert!(expected.contains(delay), "{delay} s is not in {expected:?}");
    }
    assert_eq!(wire.writes(), []);
}

#[tokio::test]
async fn reads_wait_for_no_turn() {
    let world = a_world().running(ONE, Some("web"), Some("web")).running(TWO, Some("web"), None);
    let wire = Wire::serve(world).await;
    // One write, and the next in a hundred seconds.
    let settings =
        [("ALLOWED_PROFILES", "web"), ("WRITES_PER_SECOND", "0.01"), ("WRITES_BURST", "1")];
    let mut function = function_with(&wire, &settings).await;
    let report = function.invoke(json!({"instance-ids": [ONE, TWO]})).await.unwrap();
    assert_eq!(rows(&report), [("keep", "kept"), ("associate", "associated")]);
    assert_eq!(row(&function.invoke(running(ONE)).await.unwrap()), ("keep", "kept"));
    assert_eq!(row(&function.invoke(running(TWO)).await.unwrap()), ("keep", "kept"));
}

#[tokio::test]
async fn writes_go_out_at_the_pace_that_is_set() {
    let ids: Vec<String> = (1..=20).map(|number| format!("i-{number:017x}")).collect();
    let world = ids.iter().fold(a_world(), |world, id| world.running(id, Some("web"), None));
    let wire = Wire::serve(world).await;
    let settings =
        [("ALLOWED_PROFILES", "web"), ("WRITES_PER_SECOND", "20"), ("WRITES_BURST", "1")];
    let mut function = function_with(&wire, &settings).await;
    let (report, took) = timed(function.invoke(json!({ "instance-ids": ids }))).await;
    assert_eq!(rows(&report.unwrap()), vec![("associate", "associated"); 20]);
    // One at once, and 19 a twentieth of a second apart.
    assert!(took >= Duration::from_millis(900), "{took:?}");
}

#[tokio::test]
async fn environments_that_run_at_once_stay_within_what_ec2_gives_the_account() {
    const EACH: usize = 10;
    let ids: Vec<String> = (1..=60).map(|number| format!("i-{number:017x}")).collect();
    let world = ids.iter().fold(a_world(), |world, id| world.running(id, Some("web"), None));
    let wire = Wire::serve(world).await.with_bucket(ASSOCIATE, 20.0, 10.0);
    let settings = [
        ("ALLOWED_PROFILES", "web"),
        ("MAXIMUM_CONCURRENCY", "2"),
        ("WRITES_PER_SECOND", "10"),
        ("WRITES_BURST", "20"),
    ];
    let one = function_with(&wire, &settings).await;
    let other = function_with(&wire, &settings).await;
    let (left, right) = ids.split_at(30);
    tokio::join!(deal_with(one, left, EACH), deal_with(other, right, EACH));
    let mut attached = BTreeMap::new();
    for id in &ids {
        *attached.entry(wire.world().attached_to(id)).or_insert(0) += 1;
    }
    assert_eq!(attached, BTreeMap::from([(Some("web".to_owned()), 60)]));
    assert_eq!(wire.writes().len(), 60);
    let tries = wire.requests_of(ASSOCIATE).len();
    assert_eq!(tries, 60 + wire.turned_away(ASSOCIATE));
    // Without a pace 40 of them find the bucket empty, most more than once.
    assert!(wire.turned_away(ASSOCIATE) <= 12, "{}", wire.turned_away(ASSOCIATE));
}

/// Has a function deal with messages about these instances as Lambda's poller would: what is not done comes again.
async fn deal_with(mut function: Function, ids: &[String], each: usize) {
    let mut waiting: VecDeque<&String> = ids.iter().collect();
    for _ in 0..3 * ids.len() / each {
        let taken: Vec<_> = waiting.drain(..each.min(waiting.len())).collect();
        if taken.is_empty() {
            return;
        }
        let messages: Vec<_> = taken.iter().map(|id| (id.as_str(), running(id))).collect();
        let answer = function.invoke(batch(&messages)).await.unwrap();
        let failures = batch_failures(&answer);
        waiting.extend(taken.into_iter().filter(|id| failures.contains(&id.as_str())));
    }
    panic!("not done: {waiting:?}");
}
