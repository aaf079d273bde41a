//! Sweeps of the built function: a Region of real size, what it puts on the queue, and what it says where.

use std::time::Duration;

use aws_smithy_types::DateTime;
use aws_smithy_types::date_time::Format;
use serde_json::{Value, json};

use crate::common::runtime_api::{Function, Invocation};
use crate::common::wire::bus::BUS;
use crate::common::wire::sqs::QUEUE;
use crate::common::wire::{Fault, Wire};
use crate::{
    ASSOCIATIONS, INSTANCES, ONE, SEND, THREE, THROTTLED, TWO, a_world, associated, batch,
    batch_failures, function_with, running, timed,
};

const OF_512_MB: (&str, &str) = ("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "512");
const TELL: &str = "PutEvents";
const NAME: &str = "auto-instance-profile";

#[tokio::test]
async fn ten_thousand_right_instances_cost_twenty_lists() {
    const MEMORY: u64 = 64 << 20;
    let fleet =
        (0..10_000).fold(a_world(), |world, n| world.running(&id(n), Some("web"), Some("web")));
    let wire = Wire::serve(fleet).await.in_full();
    let mut function = function_sweeping(&wire, &[OF_512_MB]).await;
    let payload = json!({ "sweep": {}, "scheduled": true });
    let invocation = Invocation::of(payload).due_in(Duration::from_mins(5));
    let answer = function.take(invocation).await.unwrap();
    assert_eq!(
        answer,
        json!({
            "mode": "enforce",
            "sweep": {
                "completed": true, "queued": 0,
                "instances": 10_000, "right": 10_000, "wrong": 0, "waiting": 0, "stuck": 0,
                "blocked": {}, "left": {}, "failed": {}, "bare-sources": [],
            },
            "instances": [],
        })
    );
    let peak = function.peak_memory();
    assert!(peak.is_none_or(|peak| peak < MEMORY), "{peak:?} bytes");

    for action in [INSTANCES, ASSOCIATIONS] {
        let requests = wire.requests_of(action);
        assert_eq!(requests.len(), 10, "{action}");
        let first: Vec<_> =
            requests.iter().filter(|r| !r.parameters.contains_key("NextToken")).collect();
        assert_eq!(first.len(), 1, "one page after the other: {action}");
        for request in &requests {
            assert_eq!(request.parameters["MaxResults"], "1000");
            assert!(!request.parameters.contains_key("Filter.1.Name"));
        }
    }
    // The profile was fetched at the start; one call tells the listeners.
    assert_eq!(wire.requests().len(), 21);
    assert_eq!((wire.writes(), wire.sent().len()), (vec![], 0));
    let [told] = &wire.told()[..] else { panic!("one call") };
    assert_eq!((told.len(), told[0].detail_type.as_str()), (1, "Sweep Completed"));

    let log = lines(function).await;
    assert!(log.iter().all(|line| line.get("instance.id").is_none()), "nothing to say: {log:#?}");
    let [metrics] = &metrics(&log)[..] else { panic!("one document: {log:#?}") };
    assert_eq!(
        metrics,
        &json!({
            "SweepCompleted": 1, "SweepIncomplete": 0, "SweptInstances": 10_000, "SweptRight": 10_000, "SweptWrong": 0,
            "SweptBlocked": 0, "SweptLeft": 0, "SweptFailed": 0, "SweptStuck": 0,
        })
    );
    let [summary] = &summaries(&log)[..] else { panic!("one summary: {log:#?}") };
    assert_eq!(
        (&summary["sweep.instances"], &summary["sweep.right"], &summary["sweep.asked_by"]),
        (&json!(10_000), &json!(10_000), &json!("schedule"))
    );
}

#[tokio::test]
async fn what_is_wrong_is_queued_told_brought_right_and_told_again() {
    let world = a_world()
        .profile("admin")
        .running(ONE, Some("web"), None)
        .tagged(ONE, "aws:autoscaling:groupName", "web-asg")
        .running(TWO, Some("web"), Some("web"))
        .running(THREE, Some("admin"), Some("old"));
    let wire = Wire::serve(world).await;
    let mut function = function_sweeping(&wire, &[]).await;
    function.invoke(json!({ "sweep": {} })).await.unwrap();
    assert_eq!(wire.writes(), []);
    let [sent] = &wire.sent()[..] else { panic!("one call: {:?}", wire.sent()) };
    let [body] = &sent[..] else { panic!("one message: {sent:?}") };
    let body: Value = serde_json::from_str(body).unwrap();
    assert_eq!(body, json!({ "instance-ids": [ONE], "found-by": "sweep" }));
    let ranking = json!([{ "source": "auto-scaling-group web-asg", "count": 1 }]);
    let [told] = &wire.told()[..] else { panic!("one call") };
    let [end] = &told[..] else { panic!("one event: {told:?}") };
    assert_eq!((end.source.as_str(), end.detail_type.as_str()), (NAME, "Sweep Completed"));
    assert_eq!(
        (&end.detail["wrong"], &end.detail["blocked"], &end.detail["bare-sources"]),
        (&json!(1), &json!({ "not-allowed": 1 }), &ranking)
    );

    let messages = batch(&[("found", body)]);
    assert_eq!(batch_failures(&function.invoke(messages).await.unwrap()), [""; 0]);
    assert_eq!(wire.writes(), [associated(ONE, "web")]);
    let told = wire.told().pop().unwrap();
    let [change] = &told[..] else { panic!("one event: {told:?}") };
    assert_eq!(change.detail_type, "Instance Profile Changed");
    assert_eq!(
        (&change.detail["before"], &change.detail["after"], &change.detail["launch-source"]),
        (
            &json!(null),
            &json!("arn:aws:iam::123456789012:instance-profile/web"),
            &json!("auto-scaling-group web-asg")
        )
    );

    let log = lines(function).await;
    let about =
        |id: &str| -> Vec<&Value> { log.iter().filter(|line| line["instance.id"] == id).collect() };
    let [line] = about(ONE)[..] else { panic!("one line: {log:#?}") };
    let said = [&line["standing"], &line["found.by"], &line["launch.source"], &line["outcome"]];
    assert_eq!(said, ["change", "sweep", "auto-scaling-group web-asg", "associated"]);
    assert_eq!(about(TWO), [&Value::Null; 0]);
    let [line] = about(THREE)[..] else { panic!("one line: {log:#?}") };
    assert_eq!((&line["standing"], &line["reason"]), (&json!("blocked"), &json!("not-allowed")));
    let counts = metrics(&log);
    let about_the_change = counts.iter().find(|document| document["Associated"] == 1);
    assert!(about_the_change.is_some(), "{counts:#?}");
    let summaries = summaries(&log);
    let sources = summaries[0]["sweep.bare_sources"].as_str().unwrap();
    assert_eq!(serde_json::from_str::<Value>(sources).unwrap(), ranking);
}

#[tokio::test]
async fn metrics_are_lines_of_their_own_whatever_the_logs_format() {
    for (format, level) in [("JSON", "INFO"), ("JSON", "ERROR"), ("JSON", "FATAL"), ("Text", "")] {
        let wire = Wire::serve(a_world().running(ONE, Some("web"), None)).await;
        let settings = [("AWS_LAMBDA_LOG_FORMAT", format), ("AWS_LAMBDA_LOG_LEVEL", level)];
        let mut function = function_sweeping(&wire, &settings).await;
        let sweep = json!({ "sweep": {}, "scheduled": true });
        for event in [sweep.clone(), json!({ "instance-ids": [ONE] }), sweep] {
            function.invoke(event).await.unwrap();
        }
        let log = function.stop().await;
        let documents: Vec<Value> = log
            .iter()
            .filter(|line| line.contains("_aws"))
            .map(|line| serde_json::from_str(line).expect(line))
            .collect();
        assert_eq!(documents.len(), 3, "{log:#?}");
        for document in &documents {
            assert_eq!(document["FunctionName"], NAME);
            // Lambda drops a line by its level, and one without a time in RFC 3339 counts as INFO.
            assert_eq!(document["level"], "FATAL");
            let timestamp = document["timestamp"].as_str().unwrap();
            DateTime::from_str(timestamp, Format::DateTime).unwrap();
            let directives = &document["_aws"]["CloudWatchMetrics"];
            assert_eq!(directives[0]["Namespace"], "AutoInstanceProfile");
            let named = directives[0]["Metrics"].as_array().unwrap().iter();
            assert!(named.clone().count() > 0);
            for metric in named {
                let value = &document[metric["Name"].as_str().unwrap()];
                assert!(value.is_u64() || value.is_array(), "{document}");
            }
        }
    }
}

#[tokio::test]
async fn many_that_are_wrong_are_sent_ten_a_call_and_one_a_message() {
    let fleet = (0..25).fold(a_world(), |world, n| world.running(&id(n), Some("web"), None));
    let wire = Wire::serve(fleet).await;
    let mut function = function_sweeping(&wire, &[]).await;
    let answer = function.invoke(json!({ "sweep": {} })).await.unwrap();
    assert_eq!((&answer["sweep"]["queued"], &answer["sweep"]["wrong"]), (&json!(25), &json!(25)));
    let mut sizes: Vec<_> = wire.sent().iter().map(Vec::len).collect();
    sizes.sort_unstable();
    assert_eq!(sizes, [5, 10, 10]);
    let mut about = instances_of(&wire.sent().concat());
    about.sort_unstable();
    assert_eq!(about, (0..25).map(id).collect::<Vec<_>>());
    assert_eq!(wire.writes(), []);
}

#[tokio::test]
async fn a_dry_run_needs_no_right_to_send() {
    let refused = Fault::Refuses(403, "AccessDeniedException", "Not you");
    for (settings, payload) in [
        (&[("MODE", "dry-run")][..], json!({ "sweep": {} })),
        (&[], json!({ "sweep": {}, "dry-run": true })),
    ] {
        let wire = Wire::serve(a_world().running(ONE, Some("web"), None))
            .await
            .always(SEND, refused.clone());
        let mut function = function_sweeping(&wire, settings).await;
        let answer = function.invoke(payload).await.unwrap();
        assert_eq!((&answer["mode"], &answer["sweep"]["wrong"]), (&json!("dry-run"), &json!(1)));
        assert_eq!(wire.requests_of(SEND).len(), 0);
        assert_eq!(wire.writes(), []);
    }
}

#[tokio::test]
async fn filters_are_ec2s_own() {
    let world = a_world()
        .running(ONE, Some("web"), None)
        .tagged(ONE, "Environment", "prod")
        .running(TWO, Some("web"), None)
        .tagged(TWO, "Environment", "test");
    let wire = Wire::serve(world).await;
    let mut function = function_sweeping(&wire, &[]).await;
    let payload = json!({ "sweep": { "filters": { "tag:Environment": ["prod", "stage"] } } });
    let answer = function.invoke(payload).await.unwrap();
    assert_eq!(answer["sweep"]["instances"], 1);
    assert_eq!(instances_of(&wire.sent().concat()), [ONE]);
    let [request] = &wire.requests_of(INSTANCES)[..] else { panic!("one page") };
    let parameter = |name: &str| request.parameters[name].as_str();
    assert_eq!(parameter("Filter.1.Name"), "tag:Environment");
    assert_eq!([parameter("Filter.1.Value.1"), parameter("Filter.1.Value.2")], ["prod", "stage"]);
}

#[tokio::test]
async fn an_association_that_ec2_does_not_put_into_force_is_told_as_an_error() {
    let hour = Duration::from_hours(1);
    let world = a_world()
        .running(ONE, Some("web"), Some("web"))
        .stuck_for(ONE, Duration::from_mins(6))
        .started(ONE, hour)
        .running(TWO, Some("web"), Some("web"))
        .stuck_for(TWO, Duration::from_mins(4))
        .started(TWO, hour);
    let wire = Wire::serve(world).await;
    let mut function = function_sweeping(&wire, &[]).await;
    let payload = json!({ "sweep": {}, "scheduled": true });
    let answer = function.invoke(payload).await.unwrap();
    assert_eq!((&answer["sweep"]["stuck"], &answer["sweep"]["right"]), (&json!(1), &json!(2)));
    assert_eq!(wire.sent().len(), 0);
    let log = lines(function).await;
    let errors: Vec<_> = log.iter().filter(|line| line["level"] == "ERROR").collect();
    let [line] = errors[..] else { panic!("one: {log:#?}") };
    assert_eq!((&line["instance.id"], &line["reason"]), (&json!(ONE), &json!("association-stuck")));
    assert_eq!(metrics(&log)[0]["SweptStuck"], 1);
}

#[tokio::test]
async fn a_sweep_sent_to_the_queue_is_refused_and_holds_nothing_back() {
    let wire = Wire::serve(a_world().running(ONE, Some("web"), None)).await;
    let mut function = function_sweeping(&wire, &[]).await;
    let messages = batch(&[("sweep", json!({ "sweep": {} })), ("one", running(ONE))]);
    // Without a dead-letter queue of its own the queue gives it up.
    assert_eq!(batch_failures(&function.invoke(messages).await.unwrap()), ["sweep"]);
    assert_eq!(wire.writes(), [associated(ONE, "web")]);
    let log = lines(function).await;
    let says_so = |line: &&Value| {
        line["message"].as_str().is_some_and(|text| text.contains("invoke the sweep function"))
    };
    assert_eq!(log.iter().filter(says_so).count(), 1, "{log:#?}");
}

#[tokio::test]
async fn pages_of_the_heaviest_instances_fit_the_functions_memory() {
    for (memory, instances, bytes) in [("128", 500, 80_000), ("512", 1_000, 30_000)] {
        let fleet = (0..instances)
            .fold(a_world(), |world, n| world.running(&id(n), Some("web"), Some("web")));
        let wire = Wire::serve(fleet).await.in_full().weighing(bytes);
        let settings = [("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", memory)];
        let mut function = function_sweeping(&wire, &settings).await;
        let invocation = Invocation::of(json!({ "sweep": {} })).due_in(Duration::from_mins(15));
        let answer = function.take(invocation).await.unwrap();
        assert_eq!(
            (&answer["sweep"]["completed"], &answer["sweep"]["right"]),
            (&json!(true), &json!(instances))
        );
        let limit = memory.parse::<u64>().unwrap() << 20;
        let peak = function.peak_memory();
        assert!(peak.is_none_or(|peak| peak < limit), "{memory} MB: {peak:?} bytes");
    }
}

#[tokio::test]
async fn a_page_that_comes_spoilt_is_asked_for_again_and_never_taken_for_an_empty_one() {
    for fault in [
        THROTTLED,
        Fault::BreaksBefore,
        Fault::BreaksAfter,
        Fault::Garbles,
        Fault::CutsShort,
        Fault::Empties,
    ] {
        for action in [INSTANCES, ASSOCIATIONS] {
            let world =
                (0..4).fold(a_world(), |world, n| world.running(&id(n), Some("web"), Some("web")));
            let wire = Wire::serve(world).await.in_pages_of(2).once(action, fault.clone());
            let mut function = function_sweeping(&wire, &[]).await;
            let invocation = Invocation::of(json!({ "sweep": {} })).due_in(Duration::from_mins(15));
            let answer = function.take(invocation).await.unwrap();
            assert_eq!(answer["sweep"]["completed"], true, "{action} {fault:?}");
            // A list that was cut would have all of them bare, or nobody there.
            assert_eq!(wire.sent().len(), 0, "{action} {fault:?}");
            let told = wire.told().concat();
            let [end] = &told[..] else { panic!("one end: {told:?}") };
            assert_eq!(end.detail["right"], 4, "{action} {fault:?}");
        }
    }
}

#[tokio::test]
async fn what_the_queue_does_not_take_is_sent_again() {
    let world = a_world().running(ONE, Some("web"), None).running(TWO, Some("web"), None);
    let wire = Wire::serve(world).await.once(SEND, Fault::FailsEntries(&[1], "InternalError"));
    let mut function = function_sweeping(&wire, &[]).await;
    let answer = function.invoke(json!({ "sweep": {} })).await.unwrap();
    assert_eq!(
        (&answer["sweep"]["completed"], &answer["sweep"]["queued"]),
        (&json!(true), &json!(2))
    );
    assert_eq!(instances_of(&wire.sent().concat()), [ONE, TWO], "each once");
    let log = lines(function).await;
    let says_so = |line: &&Value| {
        line["message"]
            .as_str()
            .is_some_and(|text| text.contains("SendMessage failed (InternalError)"))
    };
    assert_eq!(log.iter().filter(says_so).count(), 1, "{log:#?}");
}

#[tokio::test]
async fn listeners_that_cannot_be_told_change_nothing() {
    for fault in [
        Fault::Refuses(400, "AccessDeniedException", "not authorized to perform: events:PutEvents"),
        Fault::Refuses(500, "InternalException", "We did it"),
        Fault::Hangs,
        Fault::FailsEntries(&[0], "ThrottlingException"),
        Fault::Garbles,
    ] {
        let wire = Wire::serve(a_world().running(ONE, Some("web"), None))
            .await
            .always(TELL, fault.clone());
        let mut function = function_sweeping(&wire, &[]).await;
        let (answer, took) = timed(function.invoke(json!({ "instance-ids": [ONE] }))).await;
        assert_eq!(answer.unwrap()["instances"][0]["outcome"], "associated", "{fault:?}");
        assert!(took < Duration::from_secs(6), "{fault:?}: {took:?}");
        assert_eq!(wire.writes(), [associated(ONE, "web")]);
        let log = lines(function).await;
        let failed = metrics(&log)
            .iter()
            .filter_map(|document| document["NotificationsFailed"].as_u64())
            .sum::<u64>();
        assert_eq!(failed, 1, "{fault:?}: {log:#?}");
        let warnings = log.iter().filter(|line| line["level"] == "WARN");
        assert_eq!(warnings.count(), 1, "{fault:?}: {log:#?}");
    }
}

#[tokio::test]
async fn a_function_without_a_queue_refuses_to_sweep_for_good() {
    let wire = Wire::serve(a_world().running(ONE, Some("web"), None)).await;
    let mut function = function_with(&wire, &[("ALLOWED_PROFILES", "web")]).await;
    let failure = function.invoke(json!({ "sweep": {} })).await.unwrap_err();
    assert_eq!(failure.error_type, "Misconfigured");
    assert!(failure.error_message.contains("QUEUE_URL"), "{failure:?}");
    let answer = function.invoke(json!({ "sweep": {}, "dry-run": true })).await.unwrap();
    assert_eq!(answer["sweep"]["wrong"], 1);
    assert_eq!(wire.requests_of(TELL).len(), 0, "nor is there anybody to tell");
}

// ---- Helpers --------------------------------------------------------------------------------------------------------

fn id(number: usize) -> String {
    format!("i-{number:017x}")
}

/// A function that sweeps and tells, with all that the template gives it.
async fn function_sweeping(wire: &Wire, more: &[(&str, &str)]) -> Function {
    let url = format!("{}/123456789012/{QUEUE}", wire.endpoint());
    let settings = [
        ("ALLOWED_PROFILES", "web,old"),
        ("QUEUE_URL", &*url),
        ("EVENT_BUS", BUS),
        ("AWS_LAMBDA_LOG_FORMAT", "JSON"),
    ];
    function_with(wire, &[&settings, more].concat()).await
}

/// Ends the function; each of its lines is JSON.
async fn lines(function: Function) -> Vec<Value> {
    let log = function.stop().await;
    log.iter().map(|line| serde_json::from_str(line).expect(line)).collect()
}

/// The documents of metrics among them, without what all of them hold.
fn metrics(log: &[Value]) -> Vec<Value> {
    let documents = log.iter().filter(|line| line.get("_aws").is_some()).cloned();
    let bare = documents.map(|mut document| {
        let fields = document.as_object_mut().unwrap();
        for field in ["_aws", "level", "timestamp", "FunctionName"] {
            fields.remove(field);
        }
        document
    });
    bare.collect()
}

/// The lines that say how a sweep ended.
fn summaries(log: &[Value]) -> Vec<&Value> {
    log.iter().filter(|line| line.get("sweep.instances").is_some()).collect()
}

/// The instances that messages are about, one each.
fn instances_of(bodies: &[String]) -> Vec<String> {
    let about = bodies.iter().map(|body| {
        let body: Value = serde_json::from_str(body).unwrap();
        let ids = body["instance-ids"].as_array().unwrap_or_else(|| panic!("{body}"));
        assert_eq!(ids.len(), 1, "{body}");
        ids[0].as_str().unwrap().to_owned()
    });
    about.collect()
}
