//! The sums in the template's comments: timeouts, counts, batches and pace fit together.

use std::fs;
use std::path::Path;
use std::time::Duration;

use auto_instance_profile::backoff::{
    self, COOLED_DOWN, Delivery, LONGEST, Next, RECEIVES_WITHOUT_A_RIGHT, TOO_OLD, WaitsFor,
};
use auto_instance_profile::verification::LAST_LOOK;

/// Messages that SQS lets be received and not yet deleted, in a standard queue.
const IN_FLIGHT: u64 = 120_000;

fn template() -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("template.yaml")).unwrap()
}

/// A number that stands in the template behind its name: the first.
fn number(name: &str) -> u64 {
    let template = template();
    let numbers = template
        .lines()
        .filter_map(|line| line.trim().strip_prefix(name)?.strip_prefix(": ")?.parse::<u64>().ok());
    let numbers: Vec<u64> = numbers.collect();
    assert!(!numbers.is_empty(), "the template has no {name}");
    // The dead-letter queue has a retention of its own, behind the queue's, and sweeps have a timeout, behind the events'.
    numbers[0]
}

/// A parameter's default.
fn default(parameter: &str) -> u64 {
    let template = template();
    let declaration =
        template.split_once(&format!("\n  {parameter}:\n    Type: Number")).unwrap().1;
    let default = declaration.split_once("Default: ").unwrap().1;
    default.lines().next().unwrap().parse().unwrap()
}

fn delivery(receives: u32, age: Duration) -> Delivery<'static> {
    Delivery { id: "0123", receives, age: Some(age) }
}

/// Receives of a message that waits for this and nothing else, and its age at the last of them.
fn receives_until_given_up(waits_for: WaitsFor) -> (u32, Duration) {
    let (mut receives, mut age) = (1, Duration::ZERO);
    while let Next::Again(delay) = backoff::next(waits_for, delivery(receives, age)) {
        age += delay;
        receives += 1;
    }
    (receives, age)
}

#[test]
fn the_visibility_timeout_is_what_lambda_asks_for() {
    assert!(!template().contains("MaximumBatchingWindowInSeconds"), "it would be added here");
    assert_eq!(number("VisibilityTimeout"), 6 * number("Timeout"));
}

#[test]
fn a_batch_is_done_before_the_timeout_even_at_a_fifth_of_the_pace() {
    let (writes, environments) = (default("WritesPerSecond"), 2);
    assert!(template().contains("ScalingConfig: { MaximumConcurrency: 2 }"));
    let seconds_at_full_pace = number("BatchSize") * environments / writes;
    assert_eq!(seconds_at_full_pace, 4);
    assert!(5 * seconds_at_full_pace + 5 <= number("Timeout"), "5 s are for reads and the answer");
}

#[test]
fn waiting_alone_never_makes_a_dead_letter_of_the_queues_own() {
    let most = number("maxReceiveCount");
    for waits_for in
        [WaitsFor::Turn, WaitsFor::Rate, WaitsFor::Repair, WaitsFor::Creation, WaitsFor::Calm]
    {
        let (receives, age) = receives_until_given_up(waits_for);
        assert!(receives < 360, "{waits_for:?}: {receives}");
        assert!(u64::from(receives) < most);
        assert!(age >= TOO_OLD, "{waits_for:?} is given up for its age only");
        let retention = Duration::from_secs(number("MessageRetentionPeriod"));
        assert!(age + LONGEST < retention, "given up before the queue would drop it");
    }
    assert_eq!(receives_until_given_up(WaitsFor::Right).0, RECEIVES_WITHOUT_A_RIGHT);
    assert_eq!(receives_until_given_up(WaitsFor::Nothing).0, 1);
}

#[test]
fn a_message_that_never_lets_the_function_answer_reaches_the_dead_letter_queue() {
    let hours = number("maxReceiveCount") * number("VisibilityTimeout") / 3600;
    assert_eq!(hours, 50);
    assert!(hours < number("MessageRetentionPeriod") / 3600);
}

#[test]
fn no_message_on_its_way_is_as_old_as_the_alarm_allows() {
    let threshold = Duration::from_secs(14_400);
    assert!(template().contains("Threshold: 14400"));
    let waits = LAST_LOOK.max(COOLED_DOWN);
    assert!(waits <= Duration::from_mins(66));
    // 100 of the launches are attached at once: EC2's bucket. The others at its pace.
    let storm = Duration::from_secs((20_000 - 100) / default("WritesPerSecond"));
    assert!(storm <= Duration::from_mins(67));
    assert!(waits + storm < threshold);
    assert_eq!(threshold.as_secs() * default("WritesPerSecond"), 72_000);
}

#[test]
fn launches_and_corrections_fit_into_what_sqs_lets_be_in_flight() {
    // Two events and the look that follows, all hidden at the same time: more than can be.
    let launches = 3 * 20_000;
    // Between its two looks each correction of the hour before is hidden.
    let corrections = 3_600 * default("WritesPerSecond");
    assert_eq!((corrections, launches + corrections), (18_000, 78_000));
    assert!(launches + corrections < IN_FLIGHT);
    assert_eq!(IN_FLIGHT / 3_600, 33, "so many corrections a second fill it within the hour");
}
