//! When a message that is not done comes again: by what it waits for and by how often it came.
//!
//! The delays are what the queue's visibility timeout is changed to. They grow, so that what will not heal soon costs
//! little, and they are spread, so that messages that failed together do not come back together.

use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

/// What a message that is not done waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum WaitsFor {
    /// A turn: the invocation's time ran out before its work was done, which says nothing about the work.
    Turn,
    /// The account's request rate.
    Rate,
    /// An instance that was left bare in the middle of a swap to be given its profile.
    Repair,
    /// An instance, or an instance profile, made seconds ago.
    Creation,
    /// The world to stand still, or AWS and the network to work again.
    Calm,
    /// The cooldown of a flapping instance to be over.
    Cooldown,
    /// The time of the next verification.
    Verification,
    /// A person to grant a right.
    Right,
    /// Nothing that time could bring.
    Nothing,
}

impl WaitsFor {
    /// Whether time alone brings nothing.
    #[must_use]
    pub fn needs_a_person(self) -> bool {
        match self {
            Self::Right | Self::Nothing => true,
            Self::Turn
            | Self::Rate
            | Self::Repair
            | Self::Creation
            | Self::Calm
            | Self::Cooldown
            | Self::Verification => false,
        }
    }
}

impl fmt::Display for WaitsFor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Turn => "its turn",
            Self::Rate => "EC2's request rate",
            Self::Repair => "its instance to be given a profile again",
            Self::Creation => "something that was made seconds ago",
            Self::Calm => "AWS or the instance to calm down",
            Self::Cooldown => "the cooldown of a flapping instance to be over",
            Self::Verification => "its next verification",
            Self::Right => "a right to be granted",
            Self::Nothing => "nothing",
        })
    }
}

/// What becomes of a message that is not done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// It comes again after this long.
    Again(Duration),
    /// It goes to the dead-letter queue.
    DeadLetter,
}

/// A message as the queue knows it.
#[derive(Debug, Clone, Copy)]
pub struct Delivery<'a> {
    /// Its id, which decides where in the spread it lies.
    pub id: &'a str,
    /// How often it was received, this time included.
    pub receives: u32,
    /// How long ago it was sent, where the queue says so.
    pub age: Option<Duration>,
}

/// The longest delay. The queue keeps a message 4 days: 96 hours at four times an hour are 384 receives, and the
/// template lets a message be received more often than that, so waiting alone never makes a dead letter.
pub const LONGEST: Duration = Duration::from_mins(15);
/// From this age on a message goes to the dead-letter queue, whatever it waits for: half a day before the queue would
/// drop it without a word.
pub const TOO_OLD: Duration = Duration::from_hours(84);
/// How long a message waits for a flapping instance, or for its last verification, where nothing says how long: the cooldown,
/// and a little more, so that it is over.
pub const COOLED_DOWN: Duration = Duration::from_mins(61);
/// Receives after which a missing right is a dead letter: 5, 10, 15 and 15 minutes apart, so three quarters of an hour in
/// which a person can grant it and nothing need be sent again.
pub const RECEIVES_WITHOUT_A_RIGHT: u32 = 5;

/// What becomes of a message that waits for this.
#[must_use]
pub fn next(waits_for: WaitsFor, delivery: Delivery<'_>) -> Next {
    if delivery.age.is_some_and(|age| age >= TOO_OLD) {
        return Next::DeadLetter;
    }
    let first = match waits_for {
        WaitsFor::Turn => Duration::from_secs(1),
        WaitsFor::Rate | WaitsFor::Repair => Duration::from_secs(5),
        // EC2 knows a new profile after 10 s as a rule, and after 3 minutes at worst: tries after 10, 30, 70 and 150 s
        // and once more.
        WaitsFor::Creation => Duration::from_secs(10),
        WaitsFor::Calm => Duration::from_secs(15),
        // All at once: until then another look could change nothing.
        WaitsFor::Cooldown | WaitsFor::Verification => return Next::Again(COOLED_DOWN),
        WaitsFor::Right if delivery.receives >= RECEIVES_WITHOUT_A_RIGHT => {
            return Next::DeadLetter;
        }
        WaitsFor::Right => Duration::from_mins(5),
        WaitsFor::Nothing => return Next::DeadLetter,
    };
    Next::Again(spread(delayed(first, delivery.receives), delivery))
}

/// Twice as long each time, up to [`LONGEST`].
fn delayed(first: Duration, receives: u32) -> Duration {
    let doublings = receives.saturating_sub(1).min(16);
    first.saturating_mul(1 << doublings).min(LONGEST)
}

/// Up to a quarter longer, by the message's id and count: no two runs differ.
fn spread(delay: Duration, delivery: Delivery<'_>) -> Duration {
    let mut hasher = DefaultHasher::new();
    (delivery.id, delivery.receives).hash(&mut hasher);
    #[expect(clippy::cast_possible_truncation, reason = "any 16 bits of a hash are as good")]
    let share = f64::from(hasher.finish() as u16) / f64::from(u16::MAX);
    (delay + delay.mul_f64(share / 4.0)).min(LONGEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn delivery(receives: u32) -> Delivery<'static> {
        Delivery { id: "m", receives, age: Some(Duration::from_secs(1)) }
    }

    fn seconds(waits_for: WaitsFor, receives: u32) -> f64 {
        match next(waits_for, delivery(receives)) {
            Next::Again(delay) => delay.as_secs_f64(),
            Next::DeadLetter => f64::INFINITY,
        }
    }

    #[test]
    fn each_cause_has_its_first_delay_and_the_next_is_twice_as_long() {
        for (waits_for, first) in [
            (WaitsFor::Turn, 1.0_f64),
            (WaitsFor::Rate, 5.0),
            (WaitsFor::Repair, 5.0),
            (WaitsFor::Creation, 10.0),
            (WaitsFor::Calm, 15.0),
            (WaitsFor::Right, 300.0),
        ] {
            for (receives, times) in [(1, 1.0), (2, 2.0), (3, 4.0)] {
                let least = (first * times).min(900.0);
                let delay = seconds(waits_for, receives);
                assert!(least <= delay && delay <= least * 1.25, "{waits_for:?}: {delay}");
            }
        }
    }

    #[test]
    fn a_cooldown_is_waited_for_in_one_go() {
        for waits_for in [WaitsFor::Cooldown, WaitsFor::Verification] {
            assert_eq!(next(waits_for, delivery(1)), Next::Again(COOLED_DOWN));
            assert_eq!(next(waits_for, delivery(40)), Next::Again(COOLED_DOWN));
        }
    }

    #[test]
    fn no_delay_is_longer_than_the_longest() {
        for receives in [11, 100, u32::MAX] {
            assert!((seconds(WaitsFor::Rate, receives) - 900.0).abs() < f64::EPSILON);
        }
    }

    #[test]
    fn messages_that_failed_together_are_spread() {
        let delay = |id| next(WaitsFor::Rate, Delivery { id, ..delivery(1) });
        assert_ne!(delay("a"), delay("b"));
        assert_eq!(delay("a"), delay("a"));
    }

    #[test]
    fn a_missing_right_has_three_quarters_of_an_hour() {
        let waited: f64 = (1..5).map(|receives| seconds(WaitsFor::Right, receives)).sum();
        assert!((45.0 * 60.0..=56.0 * 60.0).contains(&waited), "{waited}");
        assert_eq!(next(WaitsFor::Right, delivery(5)), Next::DeadLetter);
    }

    #[test]
    fn what_is_made_late_is_found_within_its_three_minutes() {
        let first_three: f64 =
            (1..4).map(|receives| seconds(WaitsFor::Creation, receives)).sum::<f64>();
        assert!((70.0..180.0).contains(&first_three));
        assert!(first_three + seconds(WaitsFor::Creation, 4) < 250.0);
    }

    #[test]
    fn nothing_to_wait_for_and_old_age_make_dead_letters() {
        assert_eq!(next(WaitsFor::Nothing, delivery(1)), Next::DeadLetter);
        let old = Delivery { age: Some(TOO_OLD), ..delivery(1) };
        assert_eq!(next(WaitsFor::Turn, old), Next::DeadLetter);
        let unknown = Delivery { age: None, ..delivery(1) };
        assert!(matches!(next(WaitsFor::Turn, unknown), Next::Again(_)));
    }
}
