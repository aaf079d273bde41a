//! Sweeps over a modelled world: what is counted, what goes to the queue, and what becomes of failures and of heavy pages.

use std::collections::BTreeSet;
use std::time::Duration;

use auto_instance_profile::allow::AllowList;
use auto_instance_profile::bus::{Bus, Kind};
use auto_instance_profile::cloud::{Clouds, ErrorKind, Operation};
use auto_instance_profile::model::Region;
use auto_instance_profile::policy::Policy;
use auto_instance_profile::profiles::Profiles;
use auto_instance_profile::queue::Queues;
use auto_instance_profile::sweep::{Retries, Sweep};
use lambda_runtime::Context;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::common::fake::FakeCloud;
use crate::common::faulty::{Fault, Faulty};
use crate::common::function::{Function, Log, Message, running};
use crate::common::world::{Call, World, Write};

/// The time that the function for sweeps has.
const A_QUARTER_OF_AN_HOUR: Duration = Duration::from_mins(15);
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

/// As the schedule asks for it.
fn a_scheduled_sweep() -> Value {
    json!({ "sweep": {}, "scheduled": true })
}

fn a_dry_sweep() -> Value {
    json!({ "sweep": {}, "dry-run": true })
}

/// Ten instances: two are bare and must not be, one has another profile and is stopped, the others are as they should be or
/// nobody's.
fn a_fleet() -> World {
    let world = (0..5).fold(world(), |world, n| world.running(&id(n), Some("web"), Some("web")));
    world
        .running(&id(5), Some("web"), None)
        .running(&id(6), None, Some("db"))
        .stopped(&id(7), Some("web"), Some("db"))
        .running(&id(8), Some("admin"), None)
        .running(&id(9), Some("web"), None)
}

const WRONG: [usize; 2] = [5, 9];

fn totals_of_the_fleet() -> Value {
    json!({
        "instances": 10, "right": 5, "wrong": 2, "waiting": 1, "stuck": 0,
        "blocked": { "not-allowed": 1 }, "left": { "unmanaged": 1 }, "failed": {},
        "bare-sources": [],
    })
}

/// What a sweep's answer, or its notice, says in numbers.
fn totals(answer: &Value) -> Value {
    let mut totals = answer.clone();
    let fields = totals.as_object_mut().unwrap();
    for field in ["completed", "queued", "version", "mode", "asked-by", "filters", "duration-s"] {
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
            "completed": true, "queued": 2,
            "instances": 16, "right": 2, "wrong": 2, "waiting": 3, "stuck": 0,
            "blocked": {
                "not-allowed": 1, "invalid-profile": 1, "profile-unknown": 1, "no-role": 1,
                "role-does-not-trust-ec2": 1,
            },
            "left": { "unmanaged": 2, "gone": 1, "managed-by-service": 1 },
            "failed": {}, "bare-sources": [],
        })
    );
    assert_eq!(queued(&cloud), ids(&[3, 4]));
    // What is neither right nor left is named, and nothing else.
    let named: Vec<_> =
        answer["instances"].as_array().unwrap().iter().map(|row| &row["instance-id"]).collect();
    assert_eq!(named, ids(&[3, 4, 5, 6, 7, 9, 13, 14, 15, 16]).iter().collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn what_is_wrong_is_put_on_the_queue_and_nothing_is_written() {
    let cloud = FakeCloud::of(a_fleet());
    let answer = Function::over(cloud.clone()).invoke(&a_sweep()).await.unwrap();
    assert_eq!((&answer["mode"], &answer["sweep"]["queued"]), (&json!("enforce"), &json!(2)));
    assert_eq!(totals(&answer["sweep"]), totals_of_the_fleet());
    assert_eq!(queued(&cloud), ids(&WRONG));
    assert_eq!(cloud.world().writes, []);
    assert_eq!(writes(&cloud.world().calls), 0, "nor is a write tried");
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
    let mut written = cloud.world().writes.clone();
    written.sort_by_key(|write| format!("{write:?}"));
    assert_eq!(written, [associated(5), associated(9)]);
    for number in WRONG {
        let [line] = &log.about(&id(number))[..] else { panic!("one line") };
        assert_eq!((&line["found.by"], &line["standing"]), (&json!("sweep"), &json!("change")));
    }
    // The next sweep finds nothing.
    let answer = function.invoke(&a_sweep()).await.unwrap();
    assert_eq!((&answer["sweep"]["wrong"], &answer["sweep"]["right"]), (&json!(0), &json!(7)));
    let verifications = cloud.queues().sent.clone();
    assert!(verifications.iter().all(|body| body.contains("verify")), "{verifications:?}");
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
    assert_eq!(cloud.world().calls, [], "nothing is read for it");
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
        (json!({ "tag:Environment": ["test"] }), 1, vec![]),
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
async fn a_filter_that_cannot_be_meant_is_refused_before_any_read() {
    let cloud = FakeCloud::of(a_fleet());
    let function = Function::over(cloud.clone());
    for sweep in [
        json!({ "filters": { "vpc-id": [] } }),
        json!({ "filters": { "vpc-id": [""] } }),
        json!({ "filters": { "": ["vpc-1"] } }),
        json!({ "filters": { "vpc-id": "vpc-1" } }),
        json!({ "filter": { "vpc-id": ["vpc-1"] } }),
        json!({ "progress": {} }),
        json!(null),
        json!("everything"),
        json!([]),
        json!([{}]),
    ] {
        let error = function.invoke(&json!({ "sweep": sweep })).await.unwrap_err();
        assert_eq!(error.error_type, "MalformedEvent", "{sweep}: {}", error.error_message);
    }
    let error = function.invoke(&json!({ "sweep": {}, "dryrun": true })).await.unwrap_err();
    assert_eq!(error.error_type, "MalformedEvent", "a typing error must not begin to write");
    assert_eq!((cloud.world().calls.len(), cloud.queues().sent.len()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_filter_that_ec2_does_not_know_fails_with_ec2s_words() {
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
}

#[tokio::test(start_paused = true)]
async fn a_person_may_look_at_a_finding_without_changing_it() {
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
    assert_eq!((function.metrics().len(), ends(&cloud).len()), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn a_sweep_in_a_batch_is_given_up_and_holds_nothing_back() {
    let cloud = FakeCloud::of(a_fleet());
    let function = Function::over(cloud.clone());
    let (sweep, event) = (a_sweep().to_string(), running(&id(5)).to_string());
    let messages =
        [Message::of("sweep", &sweep), Message::of("event", &event), Message::of("broken", "{")];
    assert_eq!(function.receive(&messages).await, [""; 0]);
    let written = Write::Associated { instance: id(5), profile: "web".into() };
    assert_eq!(cloud.world().writes, [written]);
    assert_eq!(ends(&cloud).len(), 0);
    let letters = cloud.queues().dead_letters.clone();
    let (_, error_type, error) = letters.iter().find(|letter| letter.0 == "sweep").unwrap();
    assert_eq!((letters.len(), error_type.as_str()), (2, "MalformedEvent"));
    assert!(error.contains("invoke the sweep function"), "{error}");
}

// ---- Pages -------------------------------------------------------------------------------------------------------------

#[tokio::test(start_paused = true)]
async fn pages_show_every_instance_once() {
    let cloud = FakeCloud::of(a_fleet().paged_by(3));
    let answer = Function::over(cloud.clone()).invoke(&a_sweep()).await.unwrap();
    assert_eq!(totals(&answer["sweep"]), totals_of_the_fleet());
    assert_eq!(queued(&cloud), ids(&WRONG));
    assert_eq!(count(&cloud, Call::DescribeInstances), 4, "ten instances");
    assert_eq!(count(&cloud, Call::DescribeAssociations), 3, "seven associations");
}

#[tokio::test(start_paused = true)]
async fn ten_thousand_that_are_right_cost_twenty_lists() {
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
async fn a_region_of_untagged_instances_costs_a_call_for_200() {
    let fleet = (0..1_000).fold(world(), |world, n| world.running(&id(n), None, Some("db")));
    let policy = "version: 1\nrules:\n  - { name: all, match: {}, profile: web }\n";
    let cloud = FakeCloud::of(fleet);
    let function = Function::with(cloud.clone(), &[("POLICY_FILE", policy)]);
    let answer = function.invoke(&a_sweep()).await.unwrap();
    assert_eq!(answer["sweep"]["wrong"], 1_000);
    assert_eq!(count(&cloud, Call::DescribeTags), 5);
    assert_eq!(cloud.world().calls.len(), 8, "two lists, five times tags, and the profile");
}

// ---- Heavy pages, and the list of all associations -------------------------------------------------------------------------

/// Instances that are as they should be.
fn right(number: usize) -> World {
    (0..number).fold(world(), |world, n| world.running(&id(n), Some("web"), Some("web")))
}

/// Has the function for sweeps sweep, in its quarter of an hour; answers with its answer and with how long it took.
async fn sweep_in_time<A: Clouds + Queues + Bus>(function: &Function<A>) -> (Value, Duration) {
    let began = Instant::now();
    let answer = function.invoke_within(A_QUARTER_OF_AN_HOUR, &a_scheduled_sweep()).await;
    (answer.unwrap(), began.elapsed())
}

#[tokio::test(start_paused = true)]
async fn a_page_that_takes_too_long_is_asked_for_again_and_smaller() {
    // A thousand take 50 s.
    let cloud = FakeCloud::of(right(1_000).with_heavy_instances(Duration::from_millis(50)));
    let (answer, took) = sweep_in_time(&Function::over(cloud.clone())).await;
    assert_eq!(
        (&answer["sweep"]["completed"], &answer["sweep"]["right"]),
        (&json!(true), &json!(1_000))
    );
    // What got no answer within 40 s came to nothing; what took over 10 s is not asked for again.
    assert_eq!(cloud.world().pages.asked, [500, 250, 125, 125]);
    assert!(took < Duration::from_mins(2), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_page_that_cannot_be_read_is_halved_until_it_can() {
    let cloud = FakeCloud::of(right(300));
    cloud.world().pages.readable_up_to = Some(100);
    let (answer, _) = sweep_in_time(&Function::over(cloud.clone())).await;
    assert_eq!(
        (&answer["sweep"]["completed"], &answer["sweep"]["right"]),
        (&json!(true), &json!(300))
    );
    let asked = cloud.world().pages.asked.clone();
    assert_eq!(asked[..5], [1000, 500, 250, 125, 62]);
}

#[tokio::test(start_paused = true)]
async fn a_token_that_is_bound_to_a_size_costs_a_new_beginning() {
    let cloud = FakeCloud::of(right(400).paged_by(100));
    cloud.world().pages.tokens_know_the_size = true;
    let hanging = Faulty::of(cloud.clone())
        .working(Operation::DescribeInstances)
        .working(Operation::DescribeInstances)
        .failing(Operation::DescribeInstances, Fault::Fails(ErrorKind::Transient));
    let (answer, _) = sweep_in_time(&Function::over(hanging)).await;
    assert_eq!(
        (&answer["sweep"]["completed"], &answer["sweep"]["right"]),
        (&json!(true), &json!(400))
    );
    assert_eq!(
        cloud.world().pages.asked,
        [1000, 1000, 500, 500, 500, 500, 500, 500],
        "1000 until it failed"
    );
}

#[tokio::test(start_paused = true)]
async fn a_small_function_asks_for_small_pages() {
    for (memory, rows) in [("128", 219), ("512", 1000)] {
        let cloud = FakeCloud::of(right(3));
        let settings = [("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", memory)];
        sweep_in_time(&Function::with(cloud.clone(), &settings)).await;
        assert_eq!(cloud.world().pages.asked, [rows]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_slow_list_of_associations_is_left_for_page_by_page() {
    // 100 rows a page, 5.2 s each: the list would take over a minute, of a short sweep more than there is.
    for time in [A_QUARTER_OF_AN_HOUR, Duration::from_mins(1)] {
        let cloud = FakeCloud::of(right(1_200).paged_by(100));
        cloud.world().pages.of_associations_takes = Duration::from_millis(5_200);
        let function = Function::over(cloud.clone());
        let answer = function.invoke_within(time, &a_sweep()).await.unwrap();
        let sweep = &answer["sweep"];
        assert_eq!(
            (&sweep["completed"], &sweep["right"]),
            (&json!(true), &json!(1_200)),
            "{time:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_long_list_of_associations_is_left_for_page_by_page() {
    let cloud = FakeCloud::of(right(1_300).paged_by(100));
    let (answer, _) = sweep_in_time(&Function::over(cloud.clone())).await;
    assert_eq!(
        (&answer["sweep"]["completed"], &answer["sweep"]["right"]),
        (&json!(true), &json!(1_300))
    );
    let lists = [Call::DescribeInstances, Call::DescribeAssociations];
    assert_eq!(
        lists.map(|call| count(&cloud, call)),
        [13, 12 + 13],
        "12 of the list, and one a page"
    );
}

#[tokio::test(start_paused = true)]
async fn an_instance_that_is_shown_twice_counts_once() {
    // On one page; on one page and on two; on two pages each.
    for rows in [1000, 3, 1] {
        let cloud = FakeCloud::of(a_fleet().paged_by(rows));
        cloud.world().pages.twice = true;
        let (answer, _) = sweep_in_time(&Function::over(cloud.clone())).await;
        assert_eq!(totals(&answer["sweep"]), totals_of_the_fleet(), "{rows}");
        assert_eq!(queued(&cloud), ids(&WRONG), "{rows}");
    }
}

// ---- What fails ----------------------------------------------------------------------------------------------------------

#[tokio::test(start_paused = true)]
async fn a_list_that_fails_is_tried_again_while_there_is_time() {
    for list in [Operation::DescribeInstances, Operation::DescribeIamInstanceProfileAssociations] {
        for kind in [ErrorKind::Throttled, ErrorKind::Transient, ErrorKind::Unreadable] {
            for working in [0, 1] {
                let cloud = FakeCloud::of(a_fleet().paged_by(6));
                let faulty = Faulty::of(cloud.clone());
                let faulty = (0..working).fold(faulty, |faulty, _| faulty.working(list));
                let faulty = faulty.failing_times(list, &Fault::Fails(kind.clone()), 6);
                let (answer, took) = sweep_in_time(&Function::over(faulty)).await;
                assert_eq!(answer["sweep"]["completed"], true, "{list} {kind:?}");
                assert_eq!(totals(&answer["sweep"]), totals_of_the_fleet(), "{list} {kind:?}");
                assert_eq!(queued(&cloud), ids(&WRONG), "each once: {list} {kind:?}");
                assert!(took < Duration::from_mins(2), "{list} {kind:?}: {took:?}");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_list_that_cannot_be_read_at_all_fails_the_invocation() {
    for (fault, error_type) in [
        (Fault::Fails(ErrorKind::Throttled), "Throttled"),
        (Fault::Fails(ErrorKind::Unreadable), "Transient"),
        (Fault::Hangs, "Transient"),
    ] {
        let cloud = FakeCloud::of(a_fleet());
        let faulty =
            Faulty::of(cloud.clone()).failing_times(Operation::DescribeInstances, &fault, 500);
        let function = Function::over(faulty);
        let began = Instant::now();
        let error = function.invoke_within(A_QUARTER_OF_AN_HOUR, &a_scheduled_sweep()).await;
        let error = error.unwrap_err();
        assert_eq!(error.error_type, error_type, "{}", error.error_message);
        assert!(began.elapsed() < A_QUARTER_OF_AN_HOUR, "{:?}", began.elapsed());
        assert_eq!(function.take_metrics(), [json!({ "Failed": 1, "ErrorType": error_type })]);
        assert_eq!((queued(&cloud), ends(&cloud).len()), (vec![], 0));
    }
}

#[tokio::test(start_paused = true)]
async fn a_later_page_that_never_comes_loses_nothing_of_those_before() {
    for fault in [Fault::Hangs, Fault::Fails(ErrorKind::Throttled)] {
        let cloud = FakeCloud::of(a_fleet().paged_by(6));
        let faulty = Faulty::of(cloud.clone()).working(Operation::DescribeInstances).failing_times(
            Operation::DescribeInstances,
            &fault,
            500,
        );
        let function = Function::over(faulty);
        let log = Log::begin();
        let (answer, took) = sweep_in_time(&function).await;
        assert!(took < A_QUARTER_OF_AN_HOUR, "{fault:?}: {took:?}");
        let sweep = &answer["sweep"];
        assert_eq!((&sweep["completed"], &sweep["instances"]), (&json!(false), &json!(6)));
        assert!(sweep["incomplete-because"].is_string(), "{sweep}");
        assert_eq!((queued(&cloud), ends(&cloud).len()), (ids(&[5]), 0), "{fault:?}");
        assert_eq!(function.take_metrics(), [json!({ "SweepIncomplete": 1 })]);
        let lines = log.lines();
        let line = lines.iter().find(|line| line["outcome"] == "sweep").unwrap();
        let said = [&line["level"], &line["sweep.completed"], &line["sweep.instances"]];
        assert_eq!(said, [&json!("ERROR"), &json!(false), &json!(6)]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_sweep_whose_time_is_up_says_how_far_it_came() {
    // A page of one instance takes 9 s.
    let fleet = a_fleet().paged_by(1).with_heavy_instances(Duration::from_millis(9));
    let cloud = FakeCloud::of(fleet);
    let function = Function::over(cloud.clone());
    let (minute, began) = (Duration::from_mins(1), Instant::now());
    let answer = function.invoke_within(minute, &a_scheduled_sweep()).await.unwrap();
    assert!(began.elapsed() < minute, "{:?}", began.elapsed());
    let sweep = &answer["sweep"];
    let seen = sweep["instances"].as_u64().unwrap();
    assert_eq!(sweep["completed"], false);
    assert!((5..10).contains(&seen), "{sweep}");
    assert_eq!(function.take_metrics(), [json!({ "SweepIncomplete": 1 })]);
    // A person's says the same, and feeds no metric.
    let answer = function.invoke_within(minute, &a_sweep()).await.unwrap();
    assert_eq!(answer["sweep"]["completed"], false);
    assert_eq!(function.take_metrics(), [Value::Null; 0]);
}

#[tokio::test(start_paused = true)]
async fn a_token_that_ec2_refuses_costs_a_new_beginning() {
    let cloud = FakeCloud::of(a_fleet().paged_by(3));
    let refused = Faulty::of(cloud.clone())
        .working(Operation::DescribeInstances)
        .working(Operation::DescribeInstances)
        // As the page is read ahead, and when its turn comes.
        .failing_times(Operation::DescribeInstances, &Fault::Fails(ErrorKind::Rejected), 2);
    let (answer, _) = sweep_in_time(&Function::over(refused)).await;
    assert_eq!(totals(&answer["sweep"]), totals_of_the_fleet());
    assert_eq!(queued(&cloud), ids(&WRONG), "each once");
    // Where that leads to nothing, it is an error.
    let cloud = FakeCloud::of(a_fleet().paged_by(3));
    let refused = Faulty::of(cloud.clone()).working(Operation::DescribeInstances).failing_times(
        Operation::DescribeInstances,
        &Fault::Fails(ErrorKind::Rejected),
        500,
    );
    let error = Function::over(refused).invoke(&a_sweep()).await.unwrap_err();
    assert_eq!(error.error_type, "Rejected");
}

#[tokio::test(start_paused = true)]
async fn a_missing_right_is_one_error_and_fails_the_invocation() {
    for (call, action, fleet) in [
        (Call::DescribeInstances, "ec2:DescribeInstances", a_fleet()),
        (Call::DescribeAssociations, "ec2:DescribeIamInstanceProfileAssociations", a_fleet()),
        (Call::DescribeTags, "ec2:DescribeTags", a_fleet()),
    ] {
        let cloud = FakeCloud::of(fleet.denying(call, &format!("{action} on resource: *")));
        let function = Function::over(cloud.clone());
        let (log, began) = (Log::begin(), Instant::now());
        let error = function.invoke(&a_scheduled_sweep()).await.unwrap_err();
        assert_eq!(error.error_type, "Denied");
        assert!(
            error.error_message.contains(&format!("needs {action}")),
            "{}",
            error.error_message
        );
        assert!(
            began.elapsed() < Duration::from_secs(5),
            "time heals it not: {:?}",
            began.elapsed()
        );
        assert_eq!(function.take_metrics(), [json!({ "Failed": 1, "ErrorType": "Denied" })]);
        let lines = log.lines();
        let errors = lines.iter().filter(|line| line["level"] == "ERROR");
        assert_eq!(errors.count(), 1, "{lines:#?}");
    }
}

#[tokio::test(start_paused = true)]
async fn findings_that_the_queue_does_not_take_are_sent_again() {
    // All of them, and one of a call's.
    for (refused, at_first) in [("instance-ids".to_owned(), vec![]), (id(9), ids(&[5]))] {
        let cloud = FakeCloud::of(a_fleet());
        cloud.queues().refused = Some(refused.clone());
        let function = Function::over(cloud.clone());
        let heal = async {
            tokio::time::sleep(Duration::from_secs(5)).await;
            assert_eq!(queued(&cloud), at_first);
            cloud.queues().refused = None;
        };
        let ((answer, _), ()) = tokio::join!(sweep_in_time(&function), heal);
        assert_eq!(totals(&answer["sweep"]), totals_of_the_fleet());
        assert_eq!(queued(&cloud), ids(&WRONG), "each once: {refused}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_queue_that_takes_nothing_fails_the_invocation() {
    let cloud = FakeCloud::of(a_fleet());
    cloud.queues().refused = Some(id(9));
    let function = Function::over(cloud.clone());
    let began = Instant::now();
    let error = function.invoke_within(A_QUARTER_OF_AN_HOUR, &a_sweep()).await.unwrap_err();
    assert_eq!(error.error_type, "Transient");
    assert!(error.error_message.contains("SendMessage failed"), "{}", error.error_message);
    assert!(began.elapsed() < Duration::from_mins(1), "{:?}", began.elapsed());
    assert_eq!((queued(&cloud), ends(&cloud).len()), (ids(&[5]), 0));
    // The next try, or the next sweep, finds it again.
    cloud.queues().refused = None;
    sweep_in_time(&function).await;
    assert_eq!(queued(&cloud), ids(&[5, 5, 9]));
}

#[tokio::test(start_paused = true)]
async fn what_iam_throttles_is_looked_at_again_until_it_heals() {
    let cloud = FakeCloud::of(a_fleet());
    let throttled = Faulty::of(cloud.clone()).failing_times(
        Operation::GetInstanceProfile,
        &Fault::Fails(ErrorKind::Throttled),
        8,
    );
    let (answer, _) = sweep_in_time(&Function::over(throttled)).await;
    assert_eq!(totals(&answer["sweep"]), totals_of_the_fleet());
    assert_eq!(queued(&cloud), ids(&WRONG), "each once");
}

#[tokio::test(start_paused = true)]
async fn an_iam_that_never_heals_holds_a_sweep_back_for_five_minutes() {
    for (fault, error_type) in
        [(Fault::Fails(ErrorKind::Throttled), "Throttled"), (Fault::Hangs, "OutOfTime")]
    {
        // On each of four pages.
        let cloud = FakeCloud::of(a_fleet().paged_by(3));
        let faulty =
            Faulty::of(cloud.clone()).failing_times(Operation::GetInstanceProfile, &fault, 5_000);
        let function = Function::over(faulty);
        let log = Log::begin();
        let (answer, took) = sweep_in_time(&function).await;
        let sweep = &answer["sweep"];
        assert_eq!((&sweep["completed"], &sweep["instances"]), (&json!(true), &json!(10)));
        assert_eq!(sweep["failed"], json!({ error_type: 9 }), "all that are to have a profile");
        // What needs no profile is decided all the same.
        assert_eq!(sweep["left"], json!({ "unmanaged": 1 }));
        assert!(took < A_QUARTER_OF_AN_HOUR, "{fault:?}: {took:?}");
        let [line] = &log.about(&id(5))[..] else { panic!("one line") };
        assert_eq!(
            (&line["standing"], &line["error.type"]),
            (&json!("failed"), &json!(error_type))
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_page_half_decided_when_the_time_is_up_is_half_told() {
    let cloud = FakeCloud::of(a_fleet());
    let hanging =
        Faulty::of(cloud.clone()).failing_times(Operation::GetInstanceProfile, &Fault::Hangs, 100);
    let function = Function::over(hanging);
    let answer = function.invoke_within(Duration::from_secs(20), &a_sweep()).await.unwrap();
    let sweep = &answer["sweep"];
    assert_eq!((&sweep["completed"], &sweep["left"]), (&json!(false), &json!({ "unmanaged": 1 })));
    assert_eq!(sweep["failed"], json!({}), "nobody knows");
}

#[tokio::test(start_paused = true)]
async fn two_sweeps_at_once_do_no_harm() {
    let cloud = FakeCloud::of(a_fleet().paged_by(3));
    let functions = [(); 2].map(|()| Function::over(cloud.clone()));
    let [one, other] = &functions;
    let ((one, _), (other, _)) = tokio::join!(sweep_in_time(one), sweep_in_time(other));
    for answer in [one, other] {
        assert_eq!(totals(&answer["sweep"]), totals_of_the_fleet());
    }
    let bodies = std::mem::take(&mut cloud.queues().sent);
    let names: Vec<_> = (0..bodies.len()).map(|number| number.to_string()).collect();
    let messages: Vec<_> =
        bodies.iter().zip(&names).map(|(body, name)| Message::of(name, body)).collect();
    assert_eq!(messages.len(), 2 * WRONG.len());
    assert_eq!(functions[0].receive(&messages).await, [""; 0]);
    assert_eq!(cloud.world().writes.len(), WRONG.len(), "each instance once");
}

#[tokio::test(start_paused = true)]
async fn a_person_at_a_terminal_is_told_of_a_failure_at_once() {
    let cloud = FakeCloud::of(a_fleet());
    let faulty = Faulty::of(cloud)
        .failing(Operation::DescribeInstances, Fault::Fails(ErrorKind::Throttled))
        .failing(Operation::DescribeInstances, Fault::Fails(ErrorKind::Throttled));
    let (profiles, region) = (Profiles::default(), Region::parse("us-east-1").unwrap());
    let allowed = AllowList::parse("web,db").unwrap();
    let policy = Policy::named_by_tag("InstanceProfile", allowed);
    let sweep = Sweep {
        cloud: &faulty,
        profiles: &profiles,
        policy: &policy,
        region: &region,
        account: None,
        now_ns: 0,
        max_rows: 1000,
        retries: Retries::Never,
    };
    let (began, until) = (Instant::now(), Instant::now() + A_QUARTER_OF_AN_HOUR);
    let error = sweep.begin(&[], until).await.next(until).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Throttled);
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn only_the_schedules_sweep_of_everything_feeds_metrics() {
    let filters = json!({ "tag:Environment": ["prod"] });
    for (mode, payload, counts) in [
        ("enforce", json!({ "sweep": {}, "scheduled": true }), true),
        ("dry-run", json!({ "sweep": {}, "scheduled": true }), true),
        ("dry-run", json!({ "sweep": {}, "scheduled": true, "dry-run": true }), true),
        ("enforce", json!({ "sweep": {}, "scheduled": true, "dry-run": true }), false),
        ("enforce", json!({ "sweep": { "filters": filters }, "scheduled": true }), false),
        ("enforce", json!({ "sweep": {}, "scheduled": false }), false),
        ("dry-run", json!({ "sweep": {} }), false),
        ("enforce", json!({ "sweep": {}, "dry-run": true }), false),
    ] {
        let cloud = FakeCloud::of(a_fleet());
        let function = Function::with(cloud.clone(), &[("MODE", mode)]);
        let log = Log::begin();
        function.invoke(&payload).await.unwrap();
        let metrics = function.metrics();
        assert_eq!(!metrics.is_empty(), counts, "{mode} {payload}");
        if counts {
            let figures = ["SweepCompleted", "SweepIncomplete", "SweptWrong"];
            assert_eq!(figures.map(|name| &metrics[0][name]), [1, 0, 2]);
        }
        // Log and event say who asked, whoever it was.
        let lines = log.lines();
        let end = lines.iter().find(|line| line["outcome"] == "sweep").unwrap();
        let asked_by = if payload["scheduled"] == true { "schedule" } else { "person" };
        assert_eq!(
            (&end["sweep.asked_by"], &ends(&cloud)[0]["asked-by"]),
            (&json!(asked_by), &json!(asked_by))
        );
    }
}

#[tokio::test(start_paused = true)]
async fn filters_are_told_with_the_end_of_a_sweep() {
    let cloud = FakeCloud::of(a_fleet().tagged(&id(5), "Environment", "prod"));
    let function = Function::over(cloud.clone());
    let filters = json!({ "tag:Environment": ["prod"] });
    function.invoke(&json!({ "sweep": { "filters": filters }, "dry-run": true })).await.unwrap();
    assert_eq!((&ends(&cloud)[0]["filters"], &ends(&cloud)[0]["instances"]), (&filters, &json!(1)));
}

#[tokio::test(start_paused = true)]
async fn a_finding_that_nobody_may_change_is_no_dead_letter() {
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
async fn an_association_is_stuck_after_five_minutes() {
    let right = || world().running(&id(1), Some("web"), Some("web"));
    let stopped = || world().stopped(&id(1), Some("web"), Some("web"));
    let hour = Duration::from_hours(1);
    for (situation, world, is_stuck) in [
        ("for six minutes", right().stuck_for(&id(1), SIX_MINUTES).started(&id(1), hour), true),
        ("from its start on", right().stuck_for(&id(1), hour).started(&id(1), SIX_MINUTES), true),
        ("just made", right().stuck_for(&id(1), FOUR_MINUTES).started(&id(1), hour), false),
        ("just started", right().stuck_for(&id(1), hour).started(&id(1), FOUR_MINUTES), false),
        ("stopped", stopped().stuck_for(&id(1), hour).started(&id(1), hour), false),
        ("in force", right().started(&id(1), hour), false),
    ] {
        let cloud = FakeCloud::of(world);
        let function = Function::over(cloud.clone());
        let log = Log::begin();
        let answer = function.invoke(&a_scheduled_sweep()).await.unwrap();
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
async fn an_undated_association_is_looked_at_again_in_five_minutes() {
    let hour = Duration::from_hours(1);
    let pending = || world().running(&id(1), Some("web"), Some("web")).stuck_for(&id(1), hour);
    for (situation, fleet, is_undated, is_verified) in [
        ("up for an hour", pending().started(&id(1), hour), true, true),
        ("up for as long as nobody knows", pending(), true, true),
        ("dated, up for as long as nobody knows", pending(), false, true),
        ("just started", pending().started(&id(1), FOUR_MINUTES), true, false),
        ("in force", world().running(&id(1), Some("web"), Some("web")), true, false),
        (
            "stopped",
            world().stopped(&id(1), Some("web"), Some("web")).stuck_for(&id(1), hour),
            true,
            false,
        ),
    ] {
        let cloud = FakeCloud::of(fleet);
        cloud.world().is_undated = is_undated;
        let function = Function::over(cloud.clone());
        let answer = function.invoke(&a_dry_sweep()).await.unwrap();
        assert_eq!(
            (cloud.queues().sent.len(), &answer["sweep"]["stuck"]),
            (0, &json!(0)),
            "{situation}"
        );
        function.invoke(&a_sweep()).await.unwrap();
        let sent = cloud.queues().outgoing.clone();
        assert_eq!(sent.len(), usize::from(is_verified), "{situation}: {sent:?}");
        let Some(message) = sent.first() else { continue };
        assert_eq!((message.delay, message.group), (Duration::from_mins(5), Some("verification")));
        // By then it is known to be stuck.
        function.take_metrics();
        let sent = Message::of("verify", &message.body).sent(Duration::from_mins(5));
        assert_eq!(function.receive(&[sent]).await, [""; 0], "{situation}");
        assert_eq!(function.metrics()[0]["Stuck"], 1, "{situation}");
    }
}

#[tokio::test(start_paused = true)]
async fn findings_stand_behind_fresh_events_on_the_fair_queue() {
    let cloud = FakeCloud::of(a_fleet());
    Function::over(cloud.clone()).invoke(&a_sweep()).await.unwrap();
    let sent = cloud.queues().outgoing.clone();
    assert_eq!(sent.len(), WRONG.len());
    for message in sent {
        assert_eq!((message.group, message.delay), (Some("sweep"), Duration::ZERO));
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
async fn tags_that_a_page_left_out_are_read_again() {
    const RULES: &str = "version: 1
rules:
  - { name: kept, match: { tags: { InstanceProfile: web } }, profile: web }
  - { name: rest, match: { platform: linux }, profile: db }
";
    for (tag, attached, wrong) in
        [("web", Some("web"), vec![]), ("web", None, ids(&[1])), ("none", Some("db"), vec![])]
    {
        let fleet = world().running(&id(1), Some(tag), attached).untagged_for(&id(1), 1);
        let cloud = FakeCloud::of(fleet);
        let function = Function::with(cloud.clone(), &[("POLICY_FILE", RULES)]);
        function.invoke(&a_sweep()).await.unwrap();
        assert_eq!(queued(&cloud), wrong, "{tag} {attached:?}");
        assert_eq!(count(&cloud, Call::DescribeTags), 1);
    }
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
async fn a_profile_that_lost_its_role_blocks_its_instances() {
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
