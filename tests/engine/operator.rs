//! What an operator sees of the function: metrics, the events on the bus, and the fields of the log.

use std::time::Duration;

use auto_instance_profile::bus::{Kind, Notice};
use auto_instance_profile::cloud::{ErrorKind, Operation};
use aws_smithy_types::DateTime;
use aws_smithy_types::date_time::Format;
use serde_json::{Value, json};

use crate::common::fake::FakeCloud;
use crate::common::faulty::{Fault, Faulty};
use crate::common::function::{FUNCTION_NAME, Function, Log, Message, ago, drift, running};
use crate::common::world::{Call, World};
use crate::reconcile::ID;

const OTHER: &str = "i-0fedcba9876543210";
const WEB: &str = "arn:aws:iam::123456789012:instance-profile/web";
const DB: &str = "arn:aws:iam::123456789012:instance-profile/db";
const PASS_ROLE: &str = "iam:PassRole on resource: arn:aws:iam::123456789012:role/web-role";
const SOMEBODY: &str = "arn:aws:iam::123456789012:user/alice";

/// Stopped instances are swapped.
const SWAP: (&str, &str) = ("WHEN_STOPPED", "swap");

fn world() -> World {
    World::new().profile("web").profile("db").profile("admin")
}

fn recreated() -> World {
    let mut world = world().running(ID, Some("web"), Some("web"));
    world.make_profile("/", "web", Some("ec2.amazonaws.com"));
    world
}

// ---- Metrics -------------------------------------------------------------------------------------------------------------

#[tokio::test(start_paused = true)]
async fn each_ending_counts_in_its_metric() {
    const NONE: &str = "version: 1\nrules:\n  - { name: none, match: { tags: { InstanceProfile: web } }, profile: none }\n";
    let enforce = ("MODE", "enforce");
    for (world, setting, expected) in [
        (world().running(ID, Some("web"), None), enforce, json!({ "Associated": 1 })),
        (world().running(ID, Some("web"), Some("db")), enforce, json!({ "Replaced": 1 })),
        (world().stopped(ID, Some("web"), Some("db")), SWAP, json!({ "Swapped": 1 })),
        (world().stopped(ID, Some("web"), Some("db")), enforce, json!({ "Waiting": 1 })),
        (
            world().running(ID, Some("web"), Some("db")),
            ("POLICY_FILE", NONE),
            json!({ "Removed": 1 }),
        ),
        (world().running(ID, Some("web"), Some("web")), enforce, json!({ "Kept": 1 })),
        (
            // Another hand was quicker.
            world()
                .running(ID, Some("web"), None)
                .before(Call::Associate, |world| world.attach(ID, "web")),
            enforce,
            json!({ "Kept": 1 }),
        ),
        (world().running(ID, Some("web"), None), ("MODE", "dry-run"), json!({ "Planned": 1 })),
        (world().running(ID, None, None), enforce, json!({ "Left": 1 })),
        (world().instance(ID, "terminated", Some("web"), None), enforce, json!({ "Left": 1 })),
        (world().instance(ID, "pending", Some("web"), None), enforce, json!({ "Waiting": 1 })),
        (recreated(), enforce, json!({ "NotRepaired": 1 })),
        (
            world().running(ID, Some("admin"), None),
            enforce,
            json!({ "Blocked": 1, "Reason": "not-allowed" }),
        ),
        (
            world().profile_without_role("db").running(ID, Some("db"), None),
            enforce,
            json!({ "Waiting": 1 }),
        ),
        (
            world().running(ID, Some("web"), None).managed_by(ID, "eks.amazonaws.com"),
            enforce,
            json!({ "Left": 1 }),
        ),
        (
            world().running(ID, Some("app-new"), None),
            enforce,
            json!({ "Blocked": 1, "Reason": "profile-unknown" }),
        ),
        (
            world().running(ID, Some("web"), None).denying(Call::Associate, PASS_ROLE),
            enforce,
            json!({ "Failed": 1, "ErrorType": "Denied" }),
        ),
        (
            world().running(ID, Some("web"), None).unknown_to_ec2("web"),
            enforce,
            json!({ "Failed": 1, "ErrorType": "ProfileNotFound" }),
        ),
    ] {
        let function = Function::with(FakeCloud::of(world), &[setting]);
        let body = running(ID).to_string();
        function.receive(&[Message::of("m", &body)]).await;
        assert_eq!(function.take_metrics(), [expected]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_batch_is_one_document_and_one_for_each_reason() {
    let numbered = |number: usize| format!("i-{number:017x}");
    let fleet = world()
        .running(&numbered(1), Some("web"), None)
        .running(&numbered(2), Some("web"), None)
        .running(&numbered(3), Some("web"), Some("web"))
        .running(&numbered(4), Some("admin"), None)
        .running(&numbered(5), Some("admin"), None)
        .running(&numbered(6), Some(""), None);
    let function = Function::over(FakeCloud::of(fleet));
    let bodies: Vec<_> = (1..=7).map(|number| running(&numbered(number)).to_string()).collect();
    let messages: Vec<_> = bodies.iter().map(|body| Message::of(body, body)).collect();
    function.receive(&messages).await;
    assert_eq!(
        function.take_metrics(),
        [
            json!({ "Associated": 2, "Kept": 1 }),
            json!({ "Blocked": 1, "Reason": "invalid-profile" }),
            json!({ "Blocked": 2, "Reason": "not-allowed" }),
            json!({ "Failed": 1, "ErrorType": "InstanceNotFound" }),
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn metrics_are_in_cloudwatchs_format_with_the_functions_name() {
    let fleet = world().running(ID, Some("web"), None).running(OTHER, Some("admin"), None);
    let function = Function::over(FakeCloud::of(fleet));
    function.invoke(&json!({ "instance-ids": [ID, OTHER] })).await.unwrap();
    let documents = function.metrics();
    let [counts, blocked] = &documents[..] else { panic!("two: {documents:?}") };
    for document in &documents {
        assert_eq!(document["FunctionName"], FUNCTION_NAME);
        let written = document["_aws"]["Timestamp"].as_u64().unwrap();
        let now = u64::try_from(ago(Duration::ZERO).as_millis()).unwrap();
        assert!(now - written < 60_000, "milliseconds since 1970: {written}");
        assert_eq!(document["_aws"]["CloudWatchMetrics"][0]["Namespace"], "AutoInstanceProfile");
    }
    let shape = |document: &Value| {
        let directive = &document["_aws"]["CloudWatchMetrics"][0];
        (directive["Dimensions"].clone(), directive["Metrics"].clone())
    };
    assert_eq!(
        shape(counts),
        (json!([["FunctionName"]]), json!([{ "Name": "Associated", "Unit": "Count" }]))
    );
    assert_eq!(
        shape(blocked),
        (
            json!([["FunctionName"], ["FunctionName", "Reason"]]),
            json!([{ "Name": "Blocked", "Unit": "Count" }])
        )
    );
}

#[tokio::test(start_paused = true)]
async fn flapping_is_counted_once_when_it_begins() {
    let cloud = FakeCloud::of(world().running(ID, Some("web"), Some("db")));
    let function = Function::over(cloud.clone());
    let body = running(ID).to_string();
    for _ in 0..5 {
        function.receive(&[Message::of("m", &body)]).await;
        cloud.world().attach(ID, "db");
    }
    let (replaced, contested) = (json!({ "Replaced": 1 }), json!({ "Flapping": 1 }));
    let waiting = json!({ "Waiting": 1 });
    let expected = [&replaced, &replaced, &replaced, &contested, &waiting];
    assert_eq!(function.take_metrics().iter().collect::<Vec<_>>(), expected);
}

/// The event, with its own time.
fn happened(mut event: Value, time_ago: Duration) -> Value {
    let time = DateTime::from_secs(ago(time_ago).as_secs().try_into().unwrap());
    event["time"] = json!(time.fmt(Format::DateTime).unwrap());
    event
}

/// The one time that was measured, in milliseconds; nothing, where none was.
fn time_to_associated(function: &Function<FakeCloud>) -> Option<u64> {
    let metrics = function.take_metrics();
    let [document] = &metrics[..] else { panic!("one document: {metrics:?}") };
    let times = document.get("TimeToAssociated")?;
    let [time] = &times.as_array().unwrap()[..] else { panic!("one time: {times}") };
    Some(time.as_u64().unwrap())
}

#[tokio::test(start_paused = true)]
async fn the_time_to_a_profile_counts_from_the_events_own_time() {
    let minute_and_a_half = 90_000..100_000;
    for (world, event) in [
        (world().running(ID, Some("web"), None), running(ID)),
        (world().running(ID, Some("web"), Some("db")), drift(ID, SOMEBODY)),
        (world().stopped(ID, Some("web"), Some("db")), running(ID)),
    ] {
        let function = Function::with(FakeCloud::of(world), &[SWAP]);
        let event = happened(event, Duration::from_secs(90)).to_string();
        // When the message was sent, and how often it came, is beside the point.
        let message = Message::of("m", &event).sent(Duration::from_secs(2)).received(3);
        function.receive(&[message]).await;
        let metrics = function.metrics();
        let time = metrics[0]["TimeToAssociated"][0].as_u64().unwrap();
        assert!(minute_and_a_half.contains(&time), "{time}");
    }
    // What was right, left or planned took no time.
    for (world, mode) in [
        (world().running(ID, Some("web"), Some("web")), "enforce"),
        (world().running(ID, None, None), "enforce"),
        (world().running(ID, Some("web"), None), "dry-run"),
    ] {
        let function = Function::with(FakeCloud::of(world), &[("MODE", mode)]);
        function.invoke(&happened(running(ID), Duration::from_secs(90))).await.unwrap();
        assert_eq!(time_to_associated(&function), None);
    }
}

#[tokio::test(start_paused = true)]
async fn of_several_events_the_earliest_counts_and_nonsense_does_not() {
    let fresh = || Function::over(FakeCloud::of(world().running(ID, Some("web"), None)));
    let event = |seconds| happened(running(ID), Duration::from_secs(seconds)).to_string();
    let (young, old) = (event(10), event(200));
    let function = fresh();
    function.receive(&[Message::of("young", &young), Message::of("old", &old)]).await;
    let time = time_to_associated(&function).unwrap();
    assert!((200_000..210_000).contains(&time), "{time}");

    // An example of last year, a clock that is ahead, and no time at all.
    let mut ahead = running(ID);
    ahead["time"] = json!("2999-01-01T00:00:00Z");
    for event in [happened(running(ID), Duration::from_hours(400 * 24)), ahead, running(ID)] {
        let function = fresh();
        let answer = function.invoke(&event).await.unwrap();
        assert_eq!(answer["instances"][0]["outcome"], "associated");
        assert_eq!(time_to_associated(&function), None, "{event}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_age_of_the_oldest_message_is_known() {
    let function = Function::over(FakeCloud::of(world().running(ID, Some("web"), Some("web"))));
    let (event, foreign) = (running(ID).to_string(), json!({ "source": "x", "detail-type": "y" }));
    let foreign = foreign.to_string();
    let messages = [
        Message::of("young", &event).sent(Duration::from_secs(30)),
        Message::of("old", &foreign).sent(Duration::from_mins(2)),
        Message::of("ageless", &event),
    ];
    assert_eq!(function.receive(&messages).await, [""; 0]);
    let metrics = function.take_metrics();
    let age = metrics[0]["OldestMessageAge"].as_u64().unwrap();
    assert!((120..125).contains(&age), "{age}");
    assert_eq!(metrics[0]["Kept"], 1);

    // Nobody says when, or somebody says what cannot be.
    function.receive(&[Message::of("ageless", &event)]).await;
    let years_ago = Message::of("example", &event).sent(Duration::from_hours(400 * 24));
    function.receive(&[years_ago]).await;
    for document in function.take_metrics() {
        assert_eq!(document, json!({ "Kept": 1 }));
    }
}

#[tokio::test(start_paused = true)]
async fn a_sweep_that_ended_reports_its_totals_and_its_zeros() {
    let fleet = world()
        .running(ID, Some("web"), Some("web"))
        .running(OTHER, Some("web"), None)
        .running("i-00000000000000001", Some("admin"), None)
        .running("i-00000000000000002", Some(""), None);
    let function = Function::over(FakeCloud::of(fleet));
    function.invoke(&json!({ "sweep": {}, "scheduled": true })).await.unwrap();
    assert_eq!(
        function.take_metrics(),
        [
            json!({
                "SweepCompleted": 1, "SweepIncomplete": 0, "SweptInstances": 4, "SweptRight": 1, "SweptWrong": 1, "SweptBlocked": 2,
                "SweptLeft": 0, "SweptFailed": 0, "SweptStuck": 0,
            }),
            json!({ "Blocked": 1, "Reason": "invalid-profile" }),
            json!({ "Blocked": 1, "Reason": "not-allowed" }),
        ],
        "what is on the queue counts when it is done"
    );
}

#[tokio::test(start_paused = true)]
async fn a_right_that_a_sweep_lacked_counts_as_it_does_for_an_event() {
    let denied = "iam:GetInstanceProfile on resource: instance profile web";
    let fleet = world()
        .running(ID, Some("web"), Some("web"))
        .running(OTHER, None, None)
        .denying(Call::GetInstanceProfile, denied);
    let function = Function::over(FakeCloud::of(fleet));
    function.invoke(&json!({ "sweep": {}, "scheduled": true })).await.unwrap();
    let metrics = function.take_metrics();
    assert_eq!((&metrics[0]["SweptFailed"], &metrics[0]["SweptLeft"]), (&json!(1), &json!(1)));
    assert_eq!(metrics[1..], [json!({ "Failed": 1, "ErrorType": "Denied" })]);
}

#[tokio::test(start_paused = true)]
async fn what_is_ignored_or_cannot_be_read_has_no_metric() {
    let function = Function::over(FakeCloud::of(world()));
    function.invoke(&json!({ "source": "x", "detail-type": "y" })).await.unwrap();
    function.invoke(&json!({})).await.unwrap_err();
    function.receive(&[]).await;
    assert_eq!(function.metrics(), [Value::Null; 0]);
}

// ---- Notices ---------------------------------------------------------------------------------------------------------------

/// What the bus was told, each with its detail read.
fn told(cloud: &FakeCloud) -> Vec<(Kind, Value)> {
    let told = std::mem::take(&mut cloud.queues().told);
    let read = |Notice { kind, detail }| (kind, serde_json::from_str(&detail).unwrap());
    told.into_iter().map(read).collect()
}

#[tokio::test(start_paused = true)]
async fn a_change_is_told_with_before_and_after() {
    let fleet = world()
        .running(ID, Some("web"), None)
        .tagged(ID, "aws:autoscaling:groupName", "web-asg")
        .tagged(ID, "Password", "not-for-the-bus");
    let cloud = FakeCloud::of(fleet);
    Function::over(cloud.clone()).invoke(&running(ID)).await.unwrap();
    assert_eq!(
        told(&cloud),
        [(
            Kind::Changed,
            json!({
                "version": "1", "instance-id": ID, "account": "123456789012", "region": "us-east-1",
                "state": "running", "outcome": "associated", "decision": "associate", "decision-row": 7,
                "reason-code": "bare", "reason": format!("found nothing attached; {WEB} is required"),
                "rule": "named-by-tag", "tags": { "InstanceProfile": "web" }, "before": null, "after": WEB,
                "launch-source": "auto-scaling-group web-asg", "changed-by": null,
            })
        )]
    );
}

#[tokio::test(start_paused = true)]
async fn each_kind_of_change_is_told_with_what_was_there_and_what_is() {
    const NONE: &str = "version: 1\nrules:\n  - { name: none, match: { tags: { InstanceProfile: web } }, profile: none }\n";
    let enforce = ("MODE", "enforce");
    let drifted = || drift(ID, SOMEBODY);
    for (world, setting, event, outcome, before, after, by) in [
        (
            world().running(ID, Some("web"), Some("db")),
            enforce,
            drifted(),
            "replaced",
            json!(DB),
            json!(WEB),
            json!(SOMEBODY),
        ),
        (
            world().stopped(ID, Some("web"), Some("db")),
            SWAP,
            running(ID),
            "swapped",
            json!(DB),
            json!(WEB),
            json!(null),
        ),
        (
            world().running(ID, Some("web"), Some("db")),
            ("POLICY_FILE", NONE),
            running(ID),
            "removed",
            json!(DB),
            json!(null),
            json!(null),
        ),
    ] {
        let cloud = FakeCloud::of(world);
        Function::with(cloud.clone(), &[setting]).invoke(&event).await.unwrap();
        let told = told(&cloud);
        let [(Kind::Changed, detail)] = &told[..] else { panic!("one change: {told:?}") };
        assert_eq!(detail["outcome"], outcome);
        assert_eq!((&detail["before"], &detail["after"]), (&before, &after), "{outcome}");
        assert_eq!(detail["changed-by"], by, "{outcome}");
        assert_eq!(detail["launch-source"], json!(null), "it was not found bare");
    }
}

#[tokio::test(start_paused = true)]
async fn a_block_is_told_with_what_stays() {
    let fleet = world().running(ID, Some("admin"), Some("db"));
    let cloud = FakeCloud::of(fleet);
    for mode in ["enforce", "dry-run"] {
        Function::with(cloud.clone(), &[("MODE", mode)]).invoke(&running(ID)).await.unwrap();
        let told = told(&cloud);
        let [(Kind::Blocked, detail)] = &told[..] else { panic!("one block: {told:?}") };
        assert_eq!((&detail["before"], &detail["after"]), (&json!(DB), &json!(DB)));
        let said = [&detail["outcome"], &detail["reason-code"], &detail["decision"]];
        assert_eq!(said, ["left", "not-allowed", "leave"]);
        assert!(detail["reason"].as_str().unwrap().contains("ALLOWED_PROFILES"), "{detail}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_contest_is_told_once_with_what_the_other_hand_left() {
    let cloud = FakeCloud::of(world().running(ID, Some("web"), Some("db")));
    let function = Function::over(cloud.clone());
    let body = running(ID).to_string();
    for _ in 0..6 {
        function.receive(&[Message::of("m", &body)]).await;
        cloud.world().attach(ID, "db");
    }
    let told = told(&cloud);
    let kinds: Vec<_> = told.iter().map(|(kind, _)| *kind).collect();
    assert_eq!(kinds, [Kind::Changed, Kind::Changed, Kind::Changed, Kind::Flapping]);
    let (_, detail) = &told[3];
    assert_eq!((&detail["before"], &detail["after"]), (&json!(DB), &json!(DB)));
    let said = [&detail["outcome"], &detail["reason-code"], &detail["decision"]];
    assert_eq!(said, ["failed", "Flapping", "replace"]);
}

#[tokio::test(start_paused = true)]
async fn what_is_right_left_planned_or_failed_is_nobodys_news() {
    for (world, mode) in [
        (world().running(ID, Some("web"), Some("web")), "enforce"),
        (world().running(ID, None, Some("db")), "enforce"),
        (world().instance(ID, "pending", Some("web"), None), "enforce"),
        (world().instance(ID, "terminated", Some("web"), None), "enforce"),
        (world().running(ID, Some("web"), None), "dry-run"),
        (world().running(ID, Some("web"), None).denying(Call::Associate, PASS_ROLE), "enforce"),
        (
            world()
                .running(ID, Some("web"), None)
                .before(Call::Associate, |world| world.attach(ID, "web")),
            "enforce",
        ),
    ] {
        let cloud = FakeCloud::of(world);
        let function = Function::with(cloud.clone(), &[("MODE", mode)]);
        let body = running(ID).to_string();
        function.receive(&[Message::of("m", &body)]).await;
        assert_eq!(told(&cloud), []);
    }
}

#[tokio::test(start_paused = true)]
async fn a_profile_that_may_still_come_is_told_of_once_it_is_given_up() {
    let cloud = FakeCloud::of(world().running(ID, Some("app-new"), None));
    let function = Function::over(cloud.clone());
    let body = running(ID).to_string();
    for receive in [1, 2] {
        let message = Message::of("m", &body).received(receive);
        assert_eq!(function.receive(&[message]).await, ["m"]);
        assert_eq!(told(&cloud), [], "it may have been made seconds ago");
        tokio::time::sleep(Duration::from_secs(20)).await;
    }
    let given_up = Message::of("m", &body).received(3).sent(Duration::from_mins(4));
    assert_eq!(function.receive(&[given_up]).await, [""; 0]);
    let told = told(&cloud);
    let [(Kind::Blocked, detail)] = &told[..] else { panic!("one block: {told:?}") };
    let said = [&detail["outcome"], &detail["reason-code"], &detail["decision"]];
    assert_eq!(said, ["failed", "profile-unknown", "wait"]);
}

#[tokio::test(start_paused = true)]
async fn without_a_bus_nobody_is_told() {
    let cloud = FakeCloud::of(world().running(ID, Some("web"), None));
    let function = Function::without(cloud.clone(), &["EVENT_BUS"]);
    function.invoke(&running(ID)).await.unwrap();
    function.invoke(&json!({ "sweep": {} })).await.unwrap();
    assert_eq!(told(&cloud), []);
    assert_eq!(cloud.world().writes.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_bus_that_fails_or_hangs_changes_no_answer_and_is_counted() {
    for hangs in [false, true] {
        let cloud = FakeCloud::of(world().running(ID, Some("web"), None).running(
            OTHER,
            Some("admin"),
            None,
        ));
        cloud.queues().bus_hangs = hangs;
        cloud.queues().fail = !hangs;
        let function = Function::over(cloud.clone());
        let log = Log::begin();
        let began = tokio::time::Instant::now();
        let answer = function.invoke(&json!({ "instance-ids": [ID, OTHER] })).await.unwrap();
        assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
        let outcomes: Vec<_> =
            answer["instances"].as_array().unwrap().iter().map(|row| &row["outcome"]).collect();
        assert_eq!(outcomes, ["associated", "left"]);
        let metrics = function.take_metrics();
        assert_eq!(metrics.last().unwrap(), &json!({ "NotificationsFailed": 2 }));
        assert_eq!(cloud.world().writes.len(), 1);
        let why = if hangs { "no answer in time" } else { "PutEvents failed: planned by the test" };
        let said = format!("2 of 2 events did not reach the bus: {why}");
        assert!(
            log.lines().iter().any(|line| line["message"] == said.as_str()),
            "{:#?}",
            log.lines()
        );

        // A sweep ends all the same.
        cloud.queues().fail = false;
        cloud.queues().bus_hangs = true;
        let payload = json!({ "sweep": {}, "scheduled": true });
        let answer = function.invoke(&payload).await.unwrap();
        assert_eq!(answer["sweep"]["completed"], true);
        let metrics = function.take_metrics();
        assert_eq!(metrics.last().unwrap(), &json!({ "NotificationsFailed": 1 }));
        assert_eq!(metrics[0]["SweepCompleted"], 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_bus_that_hangs_outlives_no_deadline() {
    let five_seconds = Duration::from_secs(5);
    let cloud = FakeCloud::of(world().running(ID, Some("web"), None).stopped(
        OTHER,
        Some("web"),
        Some("db"),
    ));
    cloud.queues().bus_hangs = true;
    // The swap is cut short, and so is its way back: nothing is left of the time.
    let hanging = Faulty::of(cloud.clone())
        .working(Operation::AssociateIamInstanceProfile)
        .working(Operation::AssociateIamInstanceProfile)
        .failing_times(Operation::AssociateIamInstanceProfile, &Fault::Hangs, 9);
    let function = Function::with(hanging, &[SWAP]);
    let began = tokio::time::Instant::now();
    let payload = json!({ "instance-ids": [ID, OTHER] });
    let answer = function.invoke_within(five_seconds, &payload).await.unwrap();
    assert!(began.elapsed() < five_seconds, "{:?}", began.elapsed());
    let outcomes: Vec<_> =
        answer["instances"].as_array().unwrap().iter().map(|row| &row["outcome"]).collect();
    assert_eq!(outcomes, ["associated", "failed"]);
}

#[tokio::test(start_paused = true)]
async fn a_bus_that_hangs_loses_no_message() {
    let cloud =
        FakeCloud::of(world().running(ID, Some("web"), None).running(OTHER, Some("web"), None));
    cloud.queues().bus_hangs = true;
    let faulty = Faulty::of(cloud.clone())
        .working(Operation::AssociateIamInstanceProfile)
        .failing(Operation::AssociateIamInstanceProfile, Fault::Fails(ErrorKind::Rejected));
    let (one, other) = (running(ID).to_string(), running(OTHER).to_string());
    let messages = [Message::of("one", &one), Message::of("other", &other)];
    let function = Function::over(faulty);
    assert_eq!(function.receive(&messages).await, [""; 0]);
    assert_eq!((cloud.world().writes.len(), cloud.queues().dead_letters.len()), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn the_end_of_a_sweep_is_told() {
    let fleet = world().running(ID, Some("web"), Some("web")).running(OTHER, Some("admin"), None);
    let cloud = FakeCloud::of(fleet);
    Function::over(cloud.clone()).invoke(&json!({ "sweep": {} })).await.unwrap();
    assert_eq!(
        told(&cloud),
        [(
            Kind::SweepCompleted,
            json!({
                "version": "1", "mode": "enforce", "asked-by": "person", "filters": {}, "duration-s": 0, "instances": 2, "right": 1, "wrong": 0,
                "waiting": 0, "stuck": 0, "blocked": { "not-allowed": 1 }, "left": {}, "failed": {},
                "bare-sources": [],
            })
        )],
        "once, and not once for each that is blocked"
    );
}

// ---- The log ---------------------------------------------------------------------------------------------------------------

#[tokio::test(start_paused = true)]
async fn each_line_says_where_the_instance_stands() {
    for (world, standing) in [
        (world().running(ID, Some("web"), Some("web")), "right"),
        (world().running(ID, Some("web"), None), "change"),
        (world().running(ID, Some("admin"), None), "blocked"),
        (world().running(ID, Some("app-new"), None), "blocked"),
        (world().running(ID, None, None), "left"),
        (world().instance(ID, "pending", Some("web"), None), "waiting"),
        (world().running(ID, Some("web"), None).denying(Call::Associate, PASS_ROLE), "failed"),
        (recreated(), "failed"),
    ] {
        let function = Function::over(FakeCloud::of(world));
        let log = Log::begin();
        let body = running(ID).to_string();
        function.receive(&[Message::of("m", &body)]).await;
        let [line] = &log.about(ID)[..] else { panic!("one line: {:#?}", log.lines()) };
        assert_eq!(line["standing"], standing, "{line}");
    }
}

#[tokio::test(start_paused = true)]
async fn each_line_says_who_found_the_instance_and_who_changed_it() {
    let sweeps = json!({ "instance-ids": [ID], "found-by": "sweep" });
    for (event, found_by, changed_by) in [
        (running(ID), "event", None),
        (json!({ "instance-ids": [ID] }), "person", None),
        (sweeps, "sweep", None),
        (drift(ID, SOMEBODY), "drift", Some(SOMEBODY)),
    ] {
        let cloud = FakeCloud::of(world().running(ID, Some("web"), Some("db")));
        let log = Log::begin();
        Function::over(cloud).invoke(&event).await.unwrap();
        let [line] = &log.about(ID)[..] else { panic!("one line: {:#?}", log.lines()) };
        assert_eq!(line["found.by"], found_by, "{line}");
        assert_eq!(line.get("changed.by").and_then(Value::as_str), changed_by, "{line}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_found_bare_has_its_launch_in_its_line() {
    let asg = "aws:autoscaling:groupName";
    let launch = |by: &str| {
        let mut event = drift(ID, by);
        event["detail"]["eventName"] = json!("RunInstances");
        event["detail"]["responseElements"] =
            json!({ "instancesSet": { "items": [{ "instanceId": ID }] } });
        event
    };
    let bare = || world().running(ID, Some("web"), None);
    for (world, event, source) in [
        (bare().tagged(ID, asg, "web-asg"), running(ID), Some("auto-scaling-group web-asg")),
        (bare().tagged(ID, asg, "web-asg"), launch(SOMEBODY), Some("auto-scaling-group web-asg")),
        (bare(), launch(SOMEBODY), Some("principal arn:aws:iam::123456789012:user/alice")),
        (bare(), running(ID), None),
        (world().running(ID, Some("web"), Some("db")).tagged(ID, asg, "x"), running(ID), None),
        (world().running(ID, Some("web"), Some("web")).tagged(ID, asg, "x"), running(ID), None),
    ] {
        let log = Log::begin();
        Function::over(FakeCloud::of(world)).invoke(&event).await.unwrap();
        let [line] = &log.about(ID)[..] else { panic!("one line: {:#?}", log.lines()) };
        assert_eq!(line.get("launch.source").and_then(Value::as_str), source, "{line}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_event_and_a_drift_about_one_instance_are_one_line_that_knows_both() {
    let cloud = FakeCloud::of(world().running(ID, Some("web"), Some("db")));
    let log = Log::begin();
    let (event, drift) = (running(ID).to_string(), drift(ID, SOMEBODY).to_string());
    let messages = [Message::of("event", &event), Message::of("drift", &drift)];
    assert_eq!(Function::over(cloud.clone()).receive(&messages).await, [""; 0]);
    let [line] = &log.about(ID)[..] else { panic!("one line: {:#?}", log.lines()) };
    assert_eq!(
        (&line["changed.by"], &line["message.ids"]),
        (&json!(SOMEBODY), &json!("event,drift"))
    );
    assert_eq!(cloud.world().writes.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn the_functions_own_calls_wake_nobody() {
    let cloud = FakeCloud::of(world().running(ID, Some("web"), Some("db")));
    let mut event = drift(ID, "arn:aws:sts::123456789012:assumed-role/f/f");
    event["detail"]["userIdentity"]["sessionContext"] =
        json!({ "sessionIssuer": { "arn": crate::common::function::OWN_ROLE } });
    let function = Function::over(cloud.clone());
    let answer = function.invoke(&event).await.unwrap();
    assert!(answer["ignored"].as_str().unwrap().contains("the function's own"), "{answer}");
    assert_eq!((cloud.world().calls.len(), function.metrics().len()), (0, 0));
    // Where nobody told it which role is its own, it looks, and finds nothing to do.
    let function = Function::without(cloud.clone(), &["OWN_ROLE"]);
    assert_eq!(function.invoke(&event).await.unwrap()["instances"][0]["outcome"], "replaced");
    // A user has no role, which is not the function's either.
    cloud.world().attach(ID, "db");
    let answer = function.invoke(&drift(ID, SOMEBODY)).await.unwrap();
    assert_eq!(answer["instances"][0]["outcome"], "replaced");
}
