//! Sweeps over a modelled world: what is counted, what goes to the queue, and how a sweep that is cut short goes on.

use std::collections::BTreeSet;
use std::time::Duration;

use auto_instance_profile::bus::Kind;
use auto_instance_profile::cloud::{ErrorKind, Operation};
use lambda_runtime::Context;
use serde_json::{Value, json};

use crate::common::fake::FakeCloud;
use crate::common::faulty::{Fault, Faulty};
use crate::common::function::{Function, Log, Message, running};
use crate::common::world::{Call, World, Write};

/// Too short for a second page.
const A_PAGES_TIME: Duration = Duration::from_secs(10);
const SIX_MINUTES: Duration = Duration::from_mins(6);
const FOUR_MINUTES: Duration = Duration::from_mins(4);

fn world() -> World {
    World::new().profile("web").profile("db").profile("admin")
}

fn id(number: usize) -> String {
    format!("i-{number:017x}")
}

fn a_sweep() -> Value {
    json!({ "sweep": {} })
}

fn a_dry_sweep() -> Value {
    json!({ "sweep": {}, "dry-run": true })
}

/// Ten instances: two are bare and must not be, one has another profile, the others are as they should be or nobody's.
fn a_fleet() -> World {
    let world = (0..5).fold(world(), |world, n| world.running(&id(n), Some("web"), Some("web")));
    world
        .running(&id(5), Some("web"), None)
        .running(&id(6), None, Some("db"))
        .stopped(&id(7), Some("web"), Some("db"))
        .running(&id(8), Some("admin"), None)
        .running(&id(9), Some("web"), None)
}

const WRONG: [usize; 3] = [5, 7, 9];

fn totals_of_the_fleet() -> Value {
    json!({
        "instances": 10, "right": 5, "wrong": 3, "waiting": 0, "stuck": 0,
        "blocked": { "not-allowed": 1 }, "left": { "unmanaged": 1 }, "failed": {},
        "bare-sources": [],
    })
}

/// What a sweep's answer, or its notice, says in numbers.
fn totals(answer: &Value) -> Value {
    let mut totals = answer.clone();
    let fields = totals.as_object_mut().unwrap();
    for field in ["completed", "queued", "parts", "version", "mode", "filters", "duration-s"] {
        fields.remove(field);
    }
    totals
}

/// The instances that messages on the queue are about, in the order they were sent, one message an instance.
fn queued(cloud: &FakeCloud) -> Vec<String> {
    let sent = cloud.queues().sent.clone();
    let about = sent.iter().map(|body| {
        let body: Value = serde_json::from_str(body).unwrap();
        let ids = body["instance-ids"].as_array().unwrap_or_else(|| panic!("{body}"));
        let [id] = &ids[..] else { panic!("one instance a message: {body}") };
        assert_eq!(body, json!({ "instance-ids": [id], "found-by": "sweep" }));
        id.as_str().unwrap().to_owned()
    });
    about.collect()
}

fn ids(numbers: &[usize]) -> Vec<String> {
    numbers.iter().map(|number| id(*number)).collect()
}

/// The details of the notices that a sweep ended.
fn ends(cloud: &FakeCloud) -> Vec<Value> {
    let told = cloud.queues().told.clone();
    let ends = told.iter().filter(|notice| notice.kind == Kind::SweepCompleted);
    ends.map(|notice| serde_json::from_str(&notice.detail).unwrap()).collect()
}

fn writes(calls: &[Call]) -> usize {
    let is_write =
        |call: &&Call| matches!(call, Call::Associate | Call::Replace | Call::Disassociate);
    calls.iter().filter(is_write).count()
}

fn count(cloud: &FakeCloud, call: Call) -> usize {
    cloud.world().calls.iter().filter(|made| **made == call).count()
}

// ---- What is counted, and what is put on the queue ---------------------------------------------------------------------

#[tokio::test(start_paused = true)]
async fn every_instance_is_counted_once_by_where_it_stands() {
    let fleet = world()
        .profile_without_role("app-empty")
        .profile_trusting("app-lambda", "lambda.amazonaws.com")
        .running(&id(1), Some("web"), Some("web"))
        .stopped(&id(2), Some("db"), Some("db"))
        .running(&id(3), Some("web"), None)
        .running(&id(4), Some("web"), Some("db"))
        .stopped(&id(5), Some("web"), Some("db"))
        .running(&id(6), Some("admin"), None)
        .running(&id(7), Some(""), None)
        .running(&id(8), Some("web"), None)
        .managed_by(&id(8), "eks.amazonaws.com")
        .running(&id(9), Some("unmade"), None)
        .running(&id(10), None, Some("db"))
        .running(&id(11), None, None)
        .instance(&id(12), "terminated", Some("web"), None)
        .instance(&id(13), "pending", Some("web"), None)
        .instance(&id(14), "stopping", Some("web"), Some("db"))
        .running(&id(15), Some("app-empty"), None)
        .running(&id(16), Some("app-lambda"), Some("db"));
    let cloud = FakeCloud::of(fleet);
    let function = Function::with(cloud.clone(), &[("ALLOWED_PROFILES", "web,db,unmade,app-*")]);
    let answer = function.invoke(&a_sweep()).await.unwrap();
    assert_eq!(
        answer["sweep"],
        json!({
            "completed": true, "queued": 3, "parts": 1,
            "instances": 16, "right": 2, "wrong": 3, "waiting": 2, "stuck": 0,
            "blocked": {
                "not-allowed": 1, "invalid-profile": 1, "managed-by-service": 1, "profile-unknown": 1,
                "no-role": 1, "role-does-not-trust-ec2": 1,
            },
            "left": { "unmanaged": 2, "gone": 1 },
            "failed": {}, "bare-sources": [],
        })
    );
    assert_eq!(queued(&cloud), ids(&[3, 4, 5]));
    // What is neither right nor left is named, and nothing else.
    let named: Vec<_> =
        answer["instances"].as_array().unwrap().iter().map(|row| &row["instance-id"]).collect();
    assert_eq!(named, ids(&[3, 4, 5, 6, 7, 8, 9, 13, 14, 15, 16]).iter().collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn what_is_wrong_is_put_on_the_queue_and_nothing_is_written() {
    let cloud = FakeCloud::of(a_fleet());
    let answer = Function::over(cloud.clone()).invoke(&a_sweep()).await.unwrap();
    assert_eq!((&answer["mode"], &answer["sweep"]["queued"]), (&json!("enforce"), &json!(3)));
    assert_eq!(totals(&answer["sweep"]), totals_of_the_fleet());
    assert_eq!(queued(&cloud), ids(&WRONG));
    assert_eq!(cloud.world().writes, []);
    assert_eq!(writes(&cloud.world().calls), 0, "nor is a write tried");
}

#[tokio::test(start_paused = true)]
async fn a_sweep_by_message_does_the_same_and_is_done() {
    let cloud = FakeCloud::of(a_fleet());
    let function = Function::over(cloud.clone());
    let body = a_sweep().to_string();
    assert_eq!(function.receive(&[Message::of("sweep", &body)]).await, [""; 0]);
    assert_eq!(queued(&cloud), ids(&WRONG));
    let [end] = &ends(&cloud)[..] else { panic!("one end") };
    assert_eq!((totals(end), &end["mode"]), (totals_of_the_fleet(), &json!("enforce")));
    assert_eq!(cloud.world().writes, []);
}

#[tokio::test(start_paused = true)]
async fn the_messages_of_a_sweep_bring_right_what_it_found() {
    let cloud = FakeCloud::of(a_fleet());
    let function = Function::over(cloud.clone());
    function.invoke(&a_sweep()).await.unwrap();
    let bodies = std::mem::take(&mut cloud.queues().sent);
    let messages: Vec<_> = bodies.iter().map(|body| Message::of(body, body)).collect();
    let log = Log::begin();
    assert_eq!(function.receive(&messages).await, [""; 0]);
    let associated = |number| Write::Associated { instance: id(number), profile: "web".into() };
    let detached = Write::Disassociated { instance: id(7), profile: "db".into() };
    let mut written = cloud.world().writes.clone();
    written.sort_by_key(|write| format!("{write:?}"));
    assert_eq!(written, [associated(5), associated(7), associated(9), detached]);
    for number in WRONG {
        let [line] = &log.about(&id(number))[..] else { panic!("one line") };
        assert_eq!((&line["found.by"], &line["standing"]), (&json!("sweep"), &json!("change")));
    }
    // The next sweep finds nothing.
    let answer = function.invoke(&a_sweep()).await.unwrap();
    assert_eq!((&answer["sweep"]["wrong"], &answer["sweep"]["right"]), (&json!(0), &json!(8)));
    assert_eq!(queued(&cloud), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn a_dry_run_sees_the_same_and_puts_nothing_on_the_queue() {
    for (mode, payload) in [
        ("dry-run", a_sweep()),
        ("dry-run", json!({ "sweep": {}, "dry-run": false })),
        ("enforce", a_dry_sweep()),
    ] {
        let cloud = FakeCloud::of(a_fleet());
        let function = Function::with(cloud.clone(), &[("MODE", mode)]);
        let log = Log::begin();
        let answer = function.invoke(&payload).await.unwrap();
        assert_eq!((&answer["mode"], &answer["sweep"]["queued"]), (&json!("dry-run"), &json!(0)));
        assert_eq!(totals(&answer["sweep"]), totals_of_the_fleet());
        assert_eq!(cloud.queues().sent, [""; 0], "{mode} {payload}");
        assert_eq!(writes(&cloud.world().calls), 0);
        assert_eq!(ends(&cloud)[0]["mode"], "dry-run");
        // Where no message says what is wrong, the log does.
        let [line] = &log.about(&id(5))[..] else { panic!("one line") };
        let said = [&line["outcome"], &line["standing"], &line["found.by"]];
        assert_eq!(said, ["planned", "change", "sweep"]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_dry_run_needs_no_queue_and_the_rest_is_refused_without_one() {
    let cloud = FakeCloud::of(a_fleet());
    let function = Function::without(cloud.clone(), &["QUEUE_URL", "DEAD_LETTER_QUEUE_URL"]);
    let answer = function.invoke(&a_dry_sweep()).await.unwrap();
    assert_eq!(totals(&answer["sweep"]), totals_of_the_fleet());
    cloud.world().calls.clear();
    let error = function.invoke(&a_sweep()).await.unwrap_err();
    assert_eq!(error.error_type, "Misconfigured");
    assert!(error.error_message.contains("needs QUEUE_URL"), "{}", error.error_message);
    let body = a_sweep().to_string();
    assert_eq!(function.receive(&[Message::of("sweep", &body)]).await, ["sweep"]);
    assert_eq!(cloud.world().calls, [], "nothing is read for it");
    // With a dead-letter queue, that is where it goes, with the reason.
    let function = Function::without(cloud.clone(), &["QUEUE_URL"]);
    assert_eq!(function.receive(&[Message::of("sweep", &body)]).await, [""; 0]);
    let letters = cloud.queues().dead_letters.clone();
    assert_eq!(
        (letters[0].1.as_str(), letters[0].2.contains("QUEUE_URL")),
        ("Misconfigured", true)
    );
}

#[tokio::test(start_paused = true)]
async fn a_sweep_that_knows_no_region_is_refused() {
    let function = Function::without(FakeCloud::of(a_fleet()), &["AWS_REGION"]);
    assert_eq!(function.invoke(&a_dry_sweep()).await.unwrap()["sweep"]["instances"], 10);
    // Nor is there an ARN of the function's, where the Region is.
    let error = function.take(&a_sweep(), Context::default()).await.unwrap_err();
    assert_eq!(error.error_type, "Misconfigured");
    assert!(error.error_message.contains("AWS_REGION"), "{}", error.error_message);
}

#[tokio::test(start_paused = true)]
async fn filters_narrow_what_is_seen_and_what_is_put_on_the_queue() {
    let fleet = || {
        a_fleet()
            .tagged(&id(5), "Environment", "prod")
            .tagged(&id(7), "Environment", "test")
            .tagged(&id(1), "Environment", "prod")
            .tagged(&id(9), "Environment", "prod")
            .tagged(&id(9), "Team", "a")
    };
    for (filters, instances, wrong) in [
        (json!({ "tag:Environment": ["prod"] }), 3, ids(&[5, 9])),
        (json!({ "tag:Environment": ["prod", "test"] }), 4, ids(&WRONG)),
        (json!({ "tag:Environment": ["prod"], "tag:Team": ["a", "b"] }), 1, ids(&[9])),
        (json!({ "tag:Environment": ["none"] }), 0, vec![]),
        (json!({}), 10, ids(&WRONG)),
    ] {
        let payload = json!({ "sweep": { "filters": filters } });
        // On each page.
        for rows in [1000, 2, 1] {
            let cloud = FakeCloud::of(fleet().paged_by(rows));
            let answer = Function::over(cloud.clone()).invoke(&payload).await.unwrap();
            assert_eq!(answer["sweep"]["instances"], instances, "{rows} {payload}");
            assert_eq!(queued(&cloud), wrong, "{rows} {payload}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_filter_that_cannot_be_meant_is_refused_before_anything_is_read() {
    let cloud = FakeCloud::of(a_fleet());
    let function = Function::over(cloud.clone());
    for sweep in [
        json!({ "filters": { "vpc-id": [] } }),
        json!({ "filters": { "vpc-id": [""] } }),
        json!({ "filters": { "": ["vpc-1"] } }),
        json!({ "filters": { "vpc-id": "vpc-1" } }),
        json!({ "filter": { "vpc-id": ["vpc-1"] } }),
        json!(null),
        json!("everything"),
    ] {
        let error = function.invoke(&json!({ "sweep": sweep })).await.unwrap_err();
        assert_eq!(error.error_type, "MalformedEvent", "{sweep}: {}", error.error_message);
    }
    let error = function.invoke(&json!({ "sweep": {}, "dryrun": true })).await.unwrap_err();
    assert_eq!(error.error_type, "MalformedEvent", "a typing error must not begin to write");
    assert_eq!((cloud.world().calls.len(), cloud.queues().sent.len()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_filter_that_ec2_does_not_know_is_given_up_with_ec2s_words() {
    let rejecting = |cloud: &FakeCloud| {
        Faulty::of(cloud.clone())
            .failing(Operation::DescribeInstances, Fault::Fails(ErrorKind::Rejected))
    };
    let cloud = FakeCloud::of(a_fleet());
    let body = json!({ "sweep": { "filters": { "tag:a": ["b"] } } });
    let error = Function::over(rejecting(&cloud)).invoke(&body).await.unwrap_err();
    assert_eq!(error.error_type, "Rejected");
    let said = "the sweep stopped: a call to AWS failed: DescribeInstances was rejected: planned by the test";
    assert_eq!(error.error_message, said);
    let body = body.to_string();
    let function = Function::over(rejecting(&cloud));
    assert_eq!(function.receive(&[Message::of("sweep", &body)]).await, [""; 0]);
    let letters = cloud.queues().dead_letters.clone();
    assert_eq!(letters, [("sweep".to_owned(), "Rejected".to_owned(), said.to_owned())]);
}

#[tokio::test(start_paused = true)]
async fn what_a_sweep_finds_a_person_may_still_look_at_without_changing_it() {
    let cloud = FakeCloud::of(a_fleet());
    let payload = json!({ "instance-ids": [id(5)], "found-by": "sweep", "dry-run": true });
    let answer = Function::over(cloud.clone()).invoke(&payload).await.unwrap();
    assert_eq!(
        (&answer["mode"], &answer["instances"][0]["outcome"]),
        (&json!("dry-run"), &json!("planned"))
    );
    assert_eq!(cloud.world().writes, []);
}

#[tokio::test(start_paused = true)]
async fn an_empty_region_is_a_sweep_too() {
    let cloud = FakeCloud::of(world());
    let function = Function::over(cloud.clone());
    let answer = function.invoke(&a_sweep()).await.unwrap();
    assert_eq!(
        (&answer["sweep"]["completed"], &answer["sweep"]["instances"]),
        (&json!(true), &json!(0))
    );
    assert_eq!(function.metrics()[0]["SweepCompleted"], 1);
    assert_eq!(ends(&cloud).len(), 1);
}

#[tokio::test(start_paused = true)]
async fn events_beside_a_sweep_are_dealt_with_all_the_same() {
    let cloud = FakeCloud::of(a_fleet());
    let function = Function::over(cloud.clone());
    let (sweep, event) = (a_sweep().to_string(), running(&id(5)).to_string());
    let messages =
        [Message::of("sweep", &sweep), Message::of("event", &event), Message::of("broken", "{")];
    assert_eq!(function.receive(&messages).await, [""; 0]);
    let written = Write::Associated { instance: id(5), profile: "web".into() };
    assert_eq!(cloud.world().writes, [written]);
    assert_eq!(ends(&cloud).len(), 1);
    assert_eq!(cloud.queues().dead_letters.len(), 1);
}

// ---- Pages -------------------------------------------------------------------------------------------------------------

#[tokio::test(start_paused = true)]
async fn pages_show_every_instance_once() {
    let cloud = FakeCloud::of(a_fleet().paged_by(3));
    let answer = Function::over(cloud.clone()).invoke(&a_sweep()).await.unwrap();
    assert_eq!(answer["sweep"]["parts"], 1);
    assert_eq!(totals(&answer["sweep"]), totals_of_the_fleet());
    assert_eq!(queued(&cloud), ids(&WRONG));
    assert_eq!(count(&cloud, Call::DescribeInstances), 4, "ten instances");
    assert_eq!(count(&cloud, Call::DescribeAssociations), 3, "seven associations");
}

#[tokio::test(start_paused = true)]
async fn ten_thousand_that_are_right_cost_twenty_lists_and_nothing_else() {
    let fleet =
        (0..10_000).fold(world(), |world, n| world.running(&id(n), Some("web"), Some("web")));
    let cloud = FakeCloud::of(fleet);
    let function = Function::over(cloud.clone());
    let answer = function.invoke(&a_sweep()).await.unwrap();
    assert_eq!(
        (&answer["sweep"]["right"], &answer["sweep"]["completed"]),
        (&json!(10_000), &json!(true))
    );
    assert_eq!(answer["instances"], json!([]));
    let lists = [Call::DescribeInstances, Call::DescribeAssociations];
    assert_eq!(lists.map(|call| count(&cloud, call)), [10, 10]);
    assert_eq!(count(&cloud, Call::GetInstanceProfile), 1);
    assert_eq!(cloud.world().calls.len(), 21);
    assert_eq!((cloud.world().writes.len(), cloud.queues().sent.len()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_region_of_untagged_instances_costs_no_call_for_each() {
    let fleet = (0..1_000).fold(world(), |world, n| world.running(&id(n), None, Some("db")));
    let policy = "version: 1\nrules:\n  - { name: all, match: {}, profile: web }\n";
    let cloud = FakeCloud::of(fleet);
    let function = Function::with(cloud.clone(), &[("POLICY_FILE", policy)]);
    let answer = function.invoke(&a_sweep()).await.unwrap();
    assert_eq!(answer["sweep"]["wrong"], 1_000);
    assert_eq!(cloud.world().calls.len(), 3, "two lists, and the profile");
}

// ---- Going on ------------------------------------------------------------------------------------------------------------

/// Takes the one message by which a sweep goes on from the queue.
fn take_continuation(cloud: &FakeCloud) -> Option<String> {
    let sent = &mut cloud.queues().sent;
    let is_one = |body: &String| body.contains("progress");
    let (continuations, rest): (Vec<_>, Vec<_>) = sent.drain(..).partition(is_one);
    *sent = rest;
    assert!(continuations.len() <= 1, "{continuations:?}");
    continuations.into_iter().next()
}

/// Has one new environment after another go on with a sweep, each with time for one page; answers with their number.
async fn go_on_to_the_end(cloud: &FakeCloud) -> u32 {
    let mut parts = 0;
    while let Some(body) = take_continuation(cloud) {
        parts += 1;
        let function = Function::over(cloud.clone());
        let comes_again = function.receive_within(A_PAGES_TIME, &[Message::of("m", &body)]).await;
        assert_eq!(comes_again, [""; 0]);
    }
    parts
}

#[tokio::test(start_paused = true)]
async fn a_sweep_that_is_short_of_time_goes_on_in_other_environments() {
    let uninterrupted = FakeCloud::of(a_fleet());
    Function::over(uninterrupted.clone()).invoke(&a_sweep()).await.unwrap();

    let cloud = FakeCloud::of(a_fleet().paged_by(3));
    let function = Function::over(cloud.clone());
    let answer = function.invoke_within(A_PAGES_TIME, &a_sweep()).await.unwrap();
    let sweep = &answer["sweep"];
    let seen = [&sweep["completed"], &sweep["parts"], &sweep["instances"]];
    assert_eq!(seen, [&json!(false), &json!(1), &json!(3)]);
    assert_eq!((ends(&cloud).len(), function.metrics().len()), (0, 0), "it has not ended");

    let [body] = &cloud.queues().sent.clone()[..] else {
        panic!("one message: nothing was wrong yet")
    };
    let body: Value = serde_json::from_str(body).unwrap();
    let progress = &body["sweep"]["progress"];
    assert_eq!((&progress["next"], &progress["census"]["right"]), (&json!("3"), &json!(3)));
    assert_eq!(body["dry-run"], false);

    assert_eq!(go_on_to_the_end(&cloud).await, 3);
    assert_eq!(queued(&cloud), queued(&uninterrupted));
    let ([end], [other]) = (&ends(&cloud)[..], &ends(&uninterrupted)[..]) else {
        panic!("each ends once")
    };
    assert_eq!(totals(end), totals(other));
    assert_eq!(writes(&cloud.world().calls), 0);
}

#[tokio::test(start_paused = true)]
async fn a_sweep_goes_on_as_it_began() {
    let fleet = (0..7).fold(world().paged_by(2), |world, number| {
        let world = world.running(&id(number), Some("web"), None);
        if number == 3 { world } else { world.tagged(&id(number), "Environment", "prod") }
    });
    let cloud = FakeCloud::of(fleet);
    let filters = json!({ "tag:Environment": ["prod", "test"] });
    let payload = json!({ "sweep": { "filters": filters }, "dry-run": true });
    let function = Function::over(cloud.clone());
    function.invoke_within(A_PAGES_TIME, &payload).await.unwrap();
    let body: Value = serde_json::from_str(&cloud.queues().sent[0]).unwrap();
    assert_eq!((&body["sweep"]["filters"], &body["dry-run"]), (&filters, &json!(true)));
    assert_eq!(go_on_to_the_end(&cloud).await, 2);
    let [end] = &ends(&cloud)[..] else { panic!("one end") };
    assert_eq!(
        [&end["instances"], &end["wrong"], &end["mode"]],
        [&json!(6), &json!(6), &json!("dry-run")]
    );
    assert_eq!(cloud.queues().sent, [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn a_sweep_counts_its_parts_and_its_time_over_all_of_them() {
    let cloud = FakeCloud::of(a_fleet().paged_by(3));
    Function::over(cloud.clone()).invoke_within(A_PAGES_TIME, &a_sweep()).await.unwrap();
    let mut body: Value = serde_json::from_str(&take_continuation(&cloud).unwrap()).unwrap();
    // As if it had begun two minutes earlier.
    let begun = body["sweep"]["progress"]["begun-ms"].as_u64().unwrap();
    body["sweep"]["progress"]["begun-ms"] = json!(begun - 120_000);
    cloud.queues().sent.push(body.to_string());
    let log = Log::begin();
    go_on_to_the_end(&cloud).await;
    let lines = log.lines();
    let end: Vec<_> = lines.iter().filter(|line| line["sweep.parts"].is_u64()).collect();
    let [end] = end[..] else { panic!("one line says it: {lines:#?}") };
    assert_eq!((&end["outcome"], &end["sweep.parts"]), (&json!("sweep"), &json!(4)));
    let seconds = end["sweep.duration_s"].as_u64().unwrap();
    assert!((120..=125).contains(&seconds), "{seconds}");
    assert_eq!(ends(&cloud)[0]["duration-s"], seconds);
}

#[tokio::test(start_paused = true)]
async fn a_sweep_by_another_version_goes_on() {
    let cloud = FakeCloud::of(a_fleet().paged_by(3));
    let body = json!({ "sweep": { "progress": {
        "next": "6", "parts": 2, "a-field-to-come": {}, "census": { "instances": 6, "right": 6, "new": 1 },
    }}});
    let function = Function::over(cloud.clone());
    assert_eq!(function.receive(&[Message::of("m", &body.to_string())]).await, [""; 0]);
    assert_eq!(ends(&cloud)[0]["instances"], 10);
    assert_eq!(queued(&cloud), ids(&[7, 9]), "what lies behind is not looked at again");
}

// ---- What fails ----------------------------------------------------------------------------------------------------------

#[tokio::test(start_paused = true)]
async fn a_sweep_whose_messages_are_not_taken_comes_again_and_nothing_is_lost() {
    let body = a_sweep().to_string();
    let sweep = Message::of("sweep", &body);
    // All of them, and one of a call's.
    for (refused, taken) in [("instance-ids".to_owned(), vec![]), (id(9), ids(&[5, 7]))] {
        let cloud = FakeCloud::of(a_fleet());
        cloud.queues().refused = Some(refused);
        let function = Function::over(cloud.clone());
        assert_eq!(function.receive(&[sweep]).await, ["sweep"]);
        assert_eq!(queued(&cloud), taken);
        assert_eq!(function.take_metrics(), [json!({ "Failed": 1, "ErrorType": "Transient" })]);
        assert_eq!(ends(&cloud).len(), 0, "it has not ended");
        let error = function.invoke(&a_sweep()).await.unwrap_err();
        assert_eq!(error.error_type, "Transient");
        assert!(error.error_message.contains("SendMessage failed"), "{}", error.error_message);

        cloud.queues().refused = None;
        assert_eq!(function.receive(&[sweep.received(2)]).await, [""; 0]);
        let found: BTreeSet<_> = queued(&cloud).into_iter().collect();
        assert_eq!(found, ids(&WRONG).into_iter().collect(), "some twice, and none is missing");
        assert_eq!(totals(&ends(&cloud)[0]), totals_of_the_fleet());
    }
}

#[tokio::test(start_paused = true)]
async fn a_sweep_whose_continuation_is_not_taken_comes_again() {
    let cloud = FakeCloud::of(a_fleet().paged_by(6));
    cloud.queues().refused = Some("progress".into());
    let body = a_sweep().to_string();
    let function = Function::over(cloud.clone());
    let sweep = Message::of("sweep", &body);
    assert_eq!(function.receive_within(A_PAGES_TIME, &[sweep]).await, ["sweep"]);
    cloud.queues().refused = None;
    assert_eq!(function.receive_within(A_PAGES_TIME, &[sweep.received(2)]).await, [""; 0]);
    assert_eq!(go_on_to_the_end(&cloud).await, 1);
    let found: BTreeSet<_> = queued(&cloud).into_iter().collect();
    assert_eq!(found, ids(&WRONG).into_iter().collect());
    assert_eq!(totals(&ends(&cloud)[0]), totals_of_the_fleet());
}

#[tokio::test(start_paused = true)]
async fn a_sweep_whose_list_is_throttled_comes_again_and_nothing_is_lost() {
    let body = a_sweep().to_string();
    let sweep = Message::of("sweep", &body);
    for list in [Operation::DescribeInstances, Operation::DescribeIamInstanceProfileAssociations] {
        let cloud = FakeCloud::of(a_fleet().paged_by(6));
        let throttled = Faulty::of(cloud.clone()).failing(list, Fault::Fails(ErrorKind::Throttled));
        let function = Function::over(throttled);
        assert_eq!(function.receive(&[sweep]).await, ["sweep"], "{list}");
        assert_eq!(function.take_metrics(), [json!({ "Failed": 1, "ErrorType": "Throttled" })]);
        let hidden = cloud.queues().hidden.clone();
        let [(_, delay)] = hidden[..] else { panic!("one message: {hidden:?}") };
        assert!(delay < Duration::from_mins(1), "a rate recovers soon: {delay:?}");
        assert_eq!((queued(&cloud), ends(&cloud).len()), (vec![], 0));

        assert_eq!(function.receive(&[sweep.received(2)]).await, [""; 0]);
        assert_eq!(queued(&cloud), ids(&WRONG), "{list}");
        assert_eq!(totals(&ends(&cloud)[0]), totals_of_the_fleet());
    }
}

#[tokio::test(start_paused = true)]
async fn a_sweep_whose_later_page_is_throttled_goes_on_from_there() {
    let cloud = FakeCloud::of(a_fleet().paged_by(6));
    let throttled = Faulty::of(cloud.clone())
        .working(Operation::DescribeInstances)
        .failing(Operation::DescribeInstances, Fault::Fails(ErrorKind::Throttled));
    let function = Function::over(throttled);
    let body = a_sweep().to_string();
    assert_eq!(function.receive(&[Message::of("sweep", &body)]).await, [""; 0]);
    assert_eq!((ends(&cloud).len(), function.metrics().len()), (0, 0));
    assert_eq!(go_on_to_the_end(&cloud).await, 1);
    assert_eq!(queued(&cloud), ids(&WRONG), "each once");
    assert_eq!(totals(&ends(&cloud)[0]), totals_of_the_fleet());
}

#[tokio::test(start_paused = true)]
async fn a_sweep_whose_token_ec2_refuses_begins_anew() {
    let body = json!({ "sweep": { "progress": {
        "next": "expired", "parts": 4, "census": { "instances": 3000, "right": 3000 },
    }}});
    let cloud = FakeCloud::of(a_fleet());
    let refused = Faulty::of(cloud.clone())
        .failing(Operation::DescribeInstances, Fault::Fails(ErrorKind::Rejected));
    let body = body.to_string();
    assert_eq!(Function::over(refused).receive(&[Message::of("sweep", &body)]).await, [""; 0]);
    assert_eq!(queued(&cloud), ids(&WRONG));
    assert_eq!(
        totals(&ends(&cloud)[0]),
        totals_of_the_fleet(),
        "what was seen before is seen again"
    );
}

#[tokio::test(start_paused = true)]
async fn a_sweep_that_goes_on_for_hours_is_given_up() {
    let body = json!({ "sweep": { "progress": { "next": "3", "parts": 400, "begun-ms": 1 } } });
    let cloud = FakeCloud::of(a_fleet());
    let body = body.to_string();
    let function = Function::over(cloud.clone());
    assert_eq!(function.receive(&[Message::of("sweep", &body)]).await, [""; 0]);
    assert_eq!((queued(&cloud), ends(&cloud).len()), (vec![], 0));
    assert_eq!(count(&cloud, Call::DescribeInstances), 0);
}

#[tokio::test(start_paused = true)]
async fn a_later_page_that_never_comes_loses_nothing_of_those_before() {
    let cloud = FakeCloud::of(a_fleet().paged_by(6));
    let hanging = Faulty::of(cloud.clone())
        .working(Operation::DescribeInstances)
        .failing(Operation::DescribeInstances, Fault::Hangs);
    let body = a_sweep().to_string();
    let comes_again = Function::over(hanging).receive(&[Message::of("sweep", &body)]).await;
    assert_eq!(comes_again, [""; 0]);
    assert_eq!(go_on_to_the_end(&cloud).await, 1);
    assert_eq!(queued(&cloud), ids(&WRONG), "each once");
    assert_eq!(totals(&ends(&cloud)[0]), totals_of_the_fleet());
}

#[tokio::test(start_paused = true)]
async fn a_part_of_the_fleet_says_nothing_about_the_whole() {
    let cloud = FakeCloud::of(a_fleet().tagged(&id(5), "Environment", "prod"));
    let function = Function::over(cloud.clone());
    let filters = json!({ "tag:Environment": ["prod"] });
    function.invoke(&json!({ "sweep": { "filters": filters }, "dry-run": true })).await.unwrap();
    assert_eq!(function.metrics().len(), 0);
    assert_eq!((&ends(&cloud)[0]["filters"], &ends(&cloud)[0]["instances"]), (&filters, &json!(1)));
}

#[tokio::test(start_paused = true)]
async fn what_a_sweep_finds_and_nobody_may_change_is_no_dead_letter_each_time() {
    let denied = ErrorKind::Denied(auto_instance_profile::cloud::MissingRight {
        action: "iam:PassRole".into(),
        resource: None,
    });
    let cloud = FakeCloud::of(world().running(&id(1), Some("web"), None));
    let faulty = Faulty::of(cloud.clone()).failing_times(
        Operation::AssociateIamInstanceProfile,
        &Fault::Fails(denied),
        2,
    );
    let function = Function::over(faulty);
    let found = json!({ "instance-ids": [id(1)], "found-by": "sweep" }).to_string();
    let told = running(&id(1)).to_string();
    assert_eq!(function.receive(&[Message::of("found", &found)]).await, [""; 0], "done");
    assert_eq!(cloud.queues().dead_letters.len(), 0);
    assert_eq!(function.receive(&[Message::of("told", &told)]).await, ["told"], "an event waits");
}

#[tokio::test(start_paused = true)]
async fn a_batch_of_the_same_sweep_is_one_sweep() {
    let dry = a_dry_sweep().to_string();
    let body = a_sweep().to_string();
    let batch = [
        Message::of("one", &body),
        Message::of("two", &body).received(3),
        Message::of("dry", &dry),
        Message::of("three", &body),
    ];
    let cloud = FakeCloud::of(a_fleet());
    assert_eq!(Function::over(cloud.clone()).receive(&batch).await, [""; 0]);
    assert_eq!(queued(&cloud), ids(&WRONG));
    let modes: Vec<_> = ends(&cloud).into_iter().map(|end| end["mode"].clone()).collect();
    assert_eq!(modes, ["enforce", "dry-run"]);
    // What fails, fails for each of them.
    let cloud = FakeCloud::of(a_fleet());
    cloud.queues().refused = Some("instance-ids".into());
    let comes_again = Function::over(cloud.clone()).receive(&batch).await;
    assert_eq!(comes_again, ["one", "two", "three"]);
}

#[tokio::test(start_paused = true)]
async fn a_right_that_a_sweep_lacks_is_named_and_given_up_late() {
    let fleet = a_fleet().denying(Call::DescribeInstances, "ec2:DescribeInstances on resource: *");
    let cloud = FakeCloud::of(fleet);
    let function = Function::over(cloud.clone());
    let body = a_sweep().to_string();
    let sweep = Message::of("sweep", &body);
    assert_eq!(function.receive(&[sweep]).await, ["sweep"]);
    assert_eq!(function.receive(&[sweep.received(5)]).await, [""; 0]);
    let (_, error_type, error) = cloud.queues().dead_letters[0].clone();
    assert_eq!(error_type, "Denied");
    assert!(error.contains("needs ec2:DescribeInstances"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_page_that_iam_throttles_comes_again_twice_and_is_then_counted_as_failed() {
    let cloud = FakeCloud::of(a_fleet());
    let throttled = Faulty::of(cloud.clone()).failing_times(
        Operation::GetInstanceProfile,
        &Fault::Fails(ErrorKind::Throttled),
        8,
    );
    let function = Function::over(throttled);
    let body = a_sweep().to_string();
    let sweep = Message::of("sweep", &body);
    for receive in [1, 2] {
        assert_eq!(function.receive(&[sweep.received(receive)]).await, ["sweep"], "{receive}");
        assert_eq!((queued(&cloud), ends(&cloud).len()), (vec![], 0));
        tokio::time::sleep(Duration::from_secs(5)).await;
    }
    // Who waits for an answer is told at once.
    let error = function.invoke(&a_sweep()).await.unwrap_err();
    assert_eq!(error.error_type, "Throttled");
    assert!(
        error.error_message.contains("GetInstanceProfile was throttled"),
        "{}",
        error.error_message
    );
    tokio::time::sleep(Duration::from_secs(5)).await;

    let log = Log::begin();
    assert_eq!(function.receive(&[sweep.received(3)]).await, [""; 0]);
    let [end] = &ends(&cloud)[..] else { panic!("it has ended") };
    assert_eq!(end["failed"], json!({ "Throttled": 9 }), "all that are to have a profile");
    assert_eq!(
        (&end["instances"], &end["right"], &end["wrong"]),
        (&json!(10), &json!(0), &json!(0))
    );
    assert_eq!(queued(&cloud), [""; 0]);
    let [line] = &log.about(&id(5))[..] else { panic!("one line") };
    assert_eq!((&line["standing"], &line["error.type"]), (&json!("failed"), &json!("Throttled")));
    // The next sweep finds them.
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(function.receive(&[sweep]).await, [""; 0]);
    assert_eq!(queued(&cloud), ids(&WRONG));
}

#[tokio::test(start_paused = true)]
async fn an_iam_that_hangs_ends_no_sweep_and_outlives_no_deadline() {
    let cloud = FakeCloud::of(a_fleet());
    let hanging =
        Faulty::of(cloud.clone()).failing_times(Operation::GetInstanceProfile, &Fault::Hangs, 100);
    let function = Function::over(hanging);
    let body = a_sweep().to_string();
    let sweep = Message::of("sweep", &body);
    for receive in [1, 2] {
        let began = tokio::time::Instant::now();
        assert_eq!(function.receive(&[sweep.received(receive)]).await, ["sweep"]);
        assert!(began.elapsed() < Duration::from_secs(25), "{:?}", began.elapsed());
        assert_eq!(ends(&cloud).len(), 0);
    }
    assert_eq!(function.receive(&[sweep.received(3)]).await, [""; 0]);
    assert_eq!(ends(&cloud)[0]["failed"], json!({ "OutOfTime": 9 }));
}

#[tokio::test(start_paused = true)]
async fn a_profile_that_only_some_may_not_read_fails_for_those_alone() {
    let cloud = FakeCloud::of(a_fleet().running(&id(10), Some("db"), None));
    let denied = auto_instance_profile::cloud::MissingRight {
        action: "iam:GetInstanceProfile".into(),
        resource: None,
    };
    let faulty = Faulty::of(cloud.clone())
        .working(Operation::GetInstanceProfile)
        .working(Operation::GetInstanceProfile)
        .failing(Operation::GetInstanceProfile, Fault::Fails(ErrorKind::Denied(denied)));
    let answer = Function::over(faulty).invoke(&a_sweep()).await.unwrap();
    assert_eq!(answer["sweep"]["failed"], json!({ "Denied": 1 }), "a right is not waited for");
    assert_eq!(queued(&cloud), ids(&WRONG));
    let rows = answer["instances"].as_array().unwrap();
    let row = rows.iter().find(|row| row["instance-id"] == id(10)).unwrap();
    assert_eq!((&row["outcome"], &row["error"]["type"]), (&json!("failed"), &json!("Denied")));
}

// ---- What is found -------------------------------------------------------------------------------------------------------

#[tokio::test(start_paused = true)]
async fn an_association_is_stuck_where_ec2_had_over_five_minutes_for_it() {
    let right = || world().running(&id(1), Some("web"), Some("web"));
    let stopped = || world().stopped(&id(1), Some("web"), Some("web"));
    let hour = Duration::from_hours(1);
    for (situation, world, is_stuck) in [
        ("for six minutes", right().stuck_for(&id(1), SIX_MINUTES).started(&id(1), hour), true),
        ("from its start on", right().stuck_for(&id(1), hour).started(&id(1), SIX_MINUTES), true),
        ("just made", right().stuck_for(&id(1), FOUR_MINUTES).started(&id(1), hour), false),
        ("just started", right().stuck_for(&id(1), hour).started(&id(1), FOUR_MINUTES), false),
        ("stopped", stopped().stuck_for(&id(1), hour).started(&id(1), hour), false),
        ("nobody knows since when", right().stuck_for(&id(1), hour), false),
        ("in force", right().started(&id(1), hour), false),
    ] {
        let cloud = FakeCloud::of(world);
        let function = Function::over(cloud.clone());
        let log = Log::begin();
        let answer = function.invoke(&a_sweep()).await.unwrap();
        let counted = [&answer["sweep"]["stuck"], &answer["sweep"]["right"]];
        assert_eq!(counted, [&json!(u64::from(is_stuck)), &json!(1)], "{situation}");
        assert_eq!(function.metrics()[0]["SweptStuck"], u64::from(is_stuck), "{situation}");
        assert_eq!(queued(&cloud), [""; 0], "another write would mend nothing: {situation}");
        let (rows, lines) = (answer["instances"].as_array().unwrap(), log.about(&id(1)));
        if is_stuck {
            assert_eq!(rows[0]["reason-code"], "association-stuck", "{situation}");
            assert_eq!(
                (&lines[0]["reason"], &lines[0]["level"]),
                (&json!("association-stuck"), &json!("ERROR"))
            );
            assert!(lines[0]["message"].as_str().unwrap().contains("trust policy"), "{}", lines[0]);
        } else {
            assert_eq!((rows.len(), lines.len()), (0, 0), "{situation}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_settles_is_right_by_the_newest_of_its_associations() {
    let cloud = FakeCloud::of(world().running(&id(1), Some("web"), Some("db")));
    let function = Function::over(cloud.clone());
    let payload = json!({ "instance-ids": [id(1)] });
    function.invoke(&payload).await.unwrap();
    assert_eq!(cloud.world().associations.len(), 2, "the old one is on its way out");
    let answer = function.invoke(&a_sweep()).await.unwrap();
    assert_eq!((&answer["sweep"]["right"], &answer["sweep"]["wrong"]), (&json!(1), &json!(0)));
}

#[tokio::test(start_paused = true)]
async fn what_came_right_behind_a_sweeps_back_is_left_as_it_is() {
    // The associations are listed beside the first page.
    let fleet = world()
        .paged_by(1)
        .running(&id(1), None, None)
        .running(&id(2), Some("web"), None)
        .before(Call::DescribeInstances, |_| ())
        .before(Call::DescribeInstances, |world| world.attach(&id(2), "web"));
    let cloud = FakeCloud::of(fleet);
    let function = Function::over(cloud.clone());
    let answer = function.invoke(&a_sweep()).await.unwrap();
    assert_eq!((&answer["sweep"]["wrong"], queued(&cloud)), (&json!(1), ids(&[2])));
    let body = cloud.queues().sent[0].clone();
    assert_eq!(function.receive(&[Message::of("found", &body)]).await, [""; 0]);
    assert_eq!(function.metrics().last().unwrap()["Kept"], 1);
    assert_eq!(writes(&cloud.world().calls), 0);
}

#[tokio::test(start_paused = true)]
async fn what_is_gone_when_its_message_comes_is_done() {
    let cloud = FakeCloud::of(world().running(&id(1), Some("web"), None));
    let function = Function::over(cloud.clone());
    function.invoke(&a_sweep()).await.unwrap();
    let body = cloud.queues().sent[0].clone();
    cloud.world().instance_mut(&id(1)).state = "terminated".into();
    assert_eq!(function.receive(&[Message::of("found", &body)]).await, [""; 0]);
    cloud.world().instances.clear();
    assert_eq!(function.receive(&[Message::of("found", &body).received(3)]).await, [""; 0]);
    assert_eq!(writes(&cloud.world().calls), 0);
}

#[tokio::test(start_paused = true)]
async fn tags_that_a_page_left_out_take_nothing_away() {
    const RULES: &str = "version: 1
rules:
  - { name: kept, match: { tags: { InstanceProfile: web } }, profile: web }
  - { name: rest, match: { platform: linux }, profile: db }
";
    let fleet = world().running(&id(1), Some("web"), Some("web")).untagged_for(&id(1), 1);
    let cloud = FakeCloud::of(fleet);
    let function = Function::with(cloud.clone(), &[("POLICY_FILE", RULES)]);
    function.invoke(&a_sweep()).await.unwrap();
    assert_eq!(queued(&cloud), ids(&[1]), "as the page has it, it is wrong");
    let body = cloud.queues().sent[0].clone();
    // As the page, so the next look.
    cloud.world().instance_mut(&id(1)).untagged_for = 1;
    assert_eq!(function.receive(&[Message::of("found", &body)]).await, [""; 0]);
    assert_eq!(cloud.world().attached_to(&id(1)).as_deref(), Some("web"));
    assert_eq!(writes(&cloud.world().calls), 0);
}

#[tokio::test(start_paused = true)]
async fn a_profile_that_was_made_again_is_found() {
    let cloud = FakeCloud::of(world().running(&id(1), Some("web"), Some("web")));
    cloud.world().make_profile("/", "web", Some("ec2.amazonaws.com"));
    let answer = Function::over(cloud.clone()).invoke(&a_sweep()).await.unwrap();
    assert_eq!(answer["sweep"]["wrong"], 1);
    assert_eq!(answer["instances"][0]["reason-code"], "profile-recreated");
    assert_eq!(queued(&cloud), ids(&[1]));
}

#[tokio::test(start_paused = true)]
async fn a_profile_that_lost_its_role_is_found_where_it_is_to_be_attached() {
    let fleet = world().profile_without_role("web").running(&id(1), Some("web"), None).running(
        &id(2),
        Some("web"),
        Some("db"),
    );
    let cloud = FakeCloud::of(fleet);
    let answer = Function::over(cloud.clone()).invoke(&a_sweep()).await.unwrap();
    assert_eq!(answer["sweep"]["blocked"], json!({ "no-role": 2 }));
    assert_eq!(queued(&cloud), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn what_launches_bare_instances_is_ranked() {
    let mut fleet = a_fleet();
    // Right, nobody's though bare, and of another profile: none of these was forgotten by its launch.
    fleet = fleet.running(&id(13), None, None);
    for number in [0, 6, 7, 13] {
        fleet = fleet.tagged(&id(number), "aws:autoscaling:groupName", "innocent");
    }
    for number in 10..13 {
        fleet = fleet
            .running(&id(number), Some("web"), None)
            .tagged(&id(number), "aws:autoscaling:groupName", "web-asg")
            .tagged(&id(number), "aws:cloudformation:stack-name", "web");
    }
    let fleet = fleet
        .tagged(&id(5), "aws:ec2launchtemplate:id", "lt-0abc")
        .tagged(&id(5), "aws:ec2launchtemplate:version", "3")
        .tagged(&id(8), "aws:cloudformation:stack-name", "admin");
    let cloud = FakeCloud::of(fleet);
    let log = Log::begin();
    let answer = Function::over(cloud.clone()).invoke(&a_sweep()).await.unwrap();
    let ranking = json!([
        { "source": "auto-scaling-group web-asg", "count": 3 },
        // By name, where they are equal. What is blocked came up bare too.
        { "source": "cloudformation-stack admin", "count": 1 },
        { "source": "launch-template lt-0abc version 3", "count": 1 },
    ]);
    assert_eq!(answer["sweep"]["bare-sources"], ranking);
    assert_eq!(ends(&cloud)[0]["bare-sources"], ranking);
    let lines = log.lines();
    let line = lines.iter().find(|line| line["outcome"] == "sweep").unwrap();
    let said: Value = serde_json::from_str(line["sweep.bare_sources"].as_str().unwrap()).unwrap();
    assert_eq!(said, ranking);
}

#[tokio::test(start_paused = true)]
async fn an_answer_names_a_thousand_instances_and_counts_all() {
    let fleet = (0..1_100).fold(world(), |world, n| world.running(&id(n), Some("web"), None));
    let cloud = FakeCloud::of(fleet);
    let answer = Function::over(cloud.clone()).invoke(&a_sweep()).await.unwrap();
    assert_eq!(answer["instances"].as_array().unwrap().len(), 1_000);
    assert_eq!(
        (&answer["sweep"]["wrong"], &answer["sweep"]["queued"]),
        (&json!(1_100), &json!(1_100))
    );
    assert_eq!(queued(&cloud).into_iter().collect::<BTreeSet<_>>().len(), 1_100);
}
