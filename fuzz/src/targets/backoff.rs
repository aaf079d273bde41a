//! When a message comes again: always an answer, never longer than the longest, never sooner than the time before.

use std::time::Duration;

use super::plain;
use auto_instance_profile::backoff::{
    Delivery, LONGEST, Next, RECEIVES_WITHOUT_A_RIGHT, TOO_OLD, WaitsFor, next,
};

const CAUSES: [WaitsFor; 7] = [
    WaitsFor::Turn,
    WaitsFor::Rate,
    WaitsFor::Repair,
    WaitsFor::Creation,
    WaitsFor::Calm,
    WaitsFor::Right,
    WaitsFor::Nothing,
];

/// A line for the cause's number, one for the receives, one for the age in seconds (none, if it is no number), then the id.
pub fn backoff(data: &[u8]) {
    let text = plain::text(data);
    let mut lines = text.splitn(4, '\n');
    let mut number = || lines.next().and_then(|line| line.trim().parse::<u64>().ok());
    let cause = CAUSES[usize::try_from(number().unwrap_or_default() % 7).unwrap_or_default()];
    let receives = u32::try_from(number().unwrap_or(1)).unwrap_or(u32::MAX);
    let age = number().map(Duration::from_secs);
    let delivery = Delivery { id: lines.next().unwrap_or_default(), receives, age };

    let answer = next(cause, delivery);
    assert_eq!(answer, next(cause, delivery), "the same message, the same answer");
    assert!(!cause.to_string().is_empty());
    let given_up = age.is_some_and(|age| age >= TOO_OLD)
        || cause == WaitsFor::Nothing
        || (cause == WaitsFor::Right && receives >= RECEIVES_WITHOUT_A_RIGHT);
    let Next::Again(delay) = answer else {
        assert!(given_up, "{cause}, {delivery:?}");
        return;
    };
    assert!(!given_up, "{cause}, {delivery:?}");
    // SQS takes whole seconds, and zero would be at once.
    assert!(Duration::from_secs(1) <= delay && delay <= LONGEST, "{delay:?}");
    let later = Delivery { receives: receives.saturating_add(1), ..delivery };
    match next(cause, later) {
        Next::Again(then) => assert!(then >= delay || receives == 0, "{delay:?}, then {then:?}"),
        Next::DeadLetter => assert_eq!(cause, WaitsFor::Right),
    }
}
