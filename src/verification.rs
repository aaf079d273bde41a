//! What is looked at once more after a write, and when: the message that follows each write carries it.
//!
//! An association that EC2 took can still come to nothing: EC2 may fail to assume the role, another actor may undo it, or
//! the read that led to it was older than the world. So each write is followed by a delayed look, which nothing but a
//! message asks for; no memory of an execution environment is needed for it.

use std::time::Duration;

use crate::flapping::{COOLDOWN, History};
use crate::model::{Association, AssociationId, InstanceRef, ProfileId};

/// How long after a write its instance is looked at again. EC2 puts an association into force within seconds.
pub const FIRST_LOOK: Duration = Duration::from_mins(5);
/// How long after a write that took something away it is looked at once more: an actor that runs once an hour has been there
/// by then.
pub const LAST_LOOK: Duration = Duration::from_mins(65);

/// One look that is due.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verification {
    /// The instance.
    pub instance: InstanceRef,
    /// What is looked after.
    pub after: After,
    /// The association that the write made, where EC2 named it.
    pub association: Option<AssociationId>,
    /// The id of the profile that the write attached, where it is known.
    pub profile_id: Option<ProfileId>,
    /// The profile's ARN and the corrections so far, this write among them, as of when the message was sent.
    pub history: History,
}

/// What a look comes after.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum After {
    /// A profile was associated with a bare instance.
    Associate,
    /// A profile was replaced, swapped, or taken away.
    Correction,
    /// The instance was left as it is until it runs, or its association was not in force yet.
    Wait,
    /// The instance was flapping, and is left as it is until the cooldown is over.
    Flapping,
}

impl After {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Associate, Self::Correction, Self::Wait, Self::Flapping];

    /// The word in the message.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Associate => "associate",
            Self::Correction => "correction",
            Self::Wait => "wait",
            Self::Flapping => "flapping",
        }
    }
}

/// What is to be done with a verification that was received.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Due {
    /// The instance is looked at now; and, if all is well, once more after this long.
    Now {
        /// How long until the last look; `None`, where this is it.
        then: Option<Duration>,
    },
    /// It is too early: the cooldown lasts for this much longer.
    In(Duration),
}

impl Verification {
    /// What is due when the message is received for the `receives`th time, this long after it was sent.
    #[must_use]
    pub fn due(&self, age: Option<Duration>, receives: u32) -> Due {
        match self.after {
            After::Associate | After::Wait => Due::Now { then: None },
            After::Correction => {
                // Where the queue tells no age, the second receive is the last.
                let fallback = if receives > 1 { LAST_LOOK } else { FIRST_LOOK };
                let left = LAST_LOOK.saturating_sub(age.unwrap_or(fallback));
                // A minute early is as good, and spares a third receive.
                Due::Now { then: (left > Duration::from_mins(1)).then_some(left) }
            }
            After::Flapping => {
                let fallback = if receives > 1 { COOLDOWN } else { Duration::ZERO };
                let left = COOLDOWN.saturating_sub(age.unwrap_or(fallback));
                if left.is_zero() { Due::Now { then: None } } else { Due::In(left) }
            }
        }
    }

    /// What is known of corrections once the message has this age. After a cooldown they are over.
    #[must_use]
    pub fn history_at(&self, age: Option<Duration>) -> History {
        let history = self.history.clone();
        match self.after {
            After::Associate | After::Correction | After::Wait => {
                history.aged(age.unwrap_or(FIRST_LOOK))
            }
            After::Flapping => History { corrections: Vec::new(), ..history },
        }
    }

    /// Whether another actor undid the write, and somebody then attached the same profile again: the profile is there, by
    /// another association.
    #[must_use]
    pub fn was_undone(&self, found: &Association) -> bool {
        let is_same_profile = self.history.to.as_ref() == Some(&found.profile_arn);
        is_same_profile && self.association.as_ref().is_some_and(|ours| *ours != found.id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{InstanceId, Region};

    fn verification(after: After) -> Verification {
        let region = Region::parse("eu-west-1").unwrap();
        let id = InstanceId::parse("i-01").unwrap();
        Verification {
            instance: InstanceRef { account: None, region, id },
            after,
            association: None,
            profile_id: None,
            history: History::default().corrected(Some("web")),
        }
    }

    fn minutes(minutes: u64) -> Duration {
        Duration::from_secs(60 * minutes)
    }

    #[test]
    fn an_association_is_looked_at_once_and_a_correction_twice() {
        for (after, age, receives, due) in [
            (After::Associate, Some(minutes(5)), 1, Due::Now { then: None }),
            (After::Correction, Some(minutes(5)), 1, Due::Now { then: Some(minutes(60)) }),
            (After::Correction, Some(minutes(30)), 3, Due::Now { then: Some(minutes(35)) }),
            (After::Correction, Some(minutes(65)), 2, Due::Now { then: None }),
            (After::Correction, None, 1, Due::Now { then: Some(minutes(60)) }),
            (After::Correction, None, 2, Due::Now { then: None }),
            (After::Flapping, Some(minutes(15)), 1, Due::In(minutes(45))),
            (After::Flapping, Some(minutes(60)), 2, Due::Now { then: None }),
        ] {
            assert_eq!(verification(after).due(age, receives), due, "{after:?} at {age:?}");
        }
    }

    #[test]
    fn after_a_cooldown_the_corrections_are_over() {
        let ages = |after| verification(after).history_at(Some(minutes(61))).corrections;
        assert_eq!(ages(After::Correction), [minutes(61)]);
        assert_eq!(ages(After::Flapping), [] as [Duration; 0]);
    }
}
