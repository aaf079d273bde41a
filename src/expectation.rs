//! What an event says a read of its instance must show. It tells an old read from a new one, and decides nothing: EC2's
//! reads are eventually consistent, and lag behind the very event that asks for them.

use std::collections::BTreeMap;
use std::fmt;

use crate::model::{Instance, InstanceState, Tags};

/// What a read must show, as of one event or of several about the same instance.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Expectation {
    state: Option<(EventTime, InstanceState)>,
    /// Of each tag key that matters: its value, or `None` where it was deleted.
    tags: BTreeMap<String, (EventTime, Option<String>)>,
}

/// When the event happened, in milliseconds since 1970; `None`, which comes before every time, where it does not say.
pub type EventTime = Option<i64>;

/// How a read lags behind its event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lag {
    /// The instance is shown in a state that it has left.
    State {
        /// What the event said.
        expected: InstanceState,
        /// What the read showed.
        shown: InstanceState,
    },
    /// A tag is shown without the value that the event said.
    Tag {
        /// Its key.
        key: String,
    },
    /// A tag is shown that the event said was deleted.
    DeletedTag {
        /// Its key.
        key: String,
    },
    /// Two reads of the tags, made in two ways, disagree.
    TwoReads,
    /// An association is shown that a swap was about to take away.
    Association {
        /// Its profile's ARN.
        profile_arn: String,
    },
}

impl Expectation {
    /// Of an event about the instance's state.
    #[must_use]
    pub fn of_state(at: EventTime, state: InstanceState) -> Self {
        Self { state: Some((at, state)), tags: BTreeMap::new() }
    }

    /// Of an event about the instance's tags: those that are there, and the keys of those that are gone.
    pub fn of_tags(at: EventTime, there: Tags, gone: impl IntoIterator<Item = String>) -> Self {
        let there = there.into_iter().map(|(key, value)| (key, (at, Some(value))));
        let gone = gone.into_iter().map(|key| (key, (at, None)));
        Self { state: None, tags: there.chain(gone).collect() }
    }

    /// Adds what another event about the same instance said. Of two that disagree the later one counts; of two of the same
    /// second, in which EventBridge tells the time, the one that is added.
    pub fn merge(&mut self, other: Self) {
        if let Some((at, state)) = other.state
            && self.state.as_ref().is_none_or(|(known, _)| *known <= at)
        {
            self.state = Some((at, state));
        }
        for (key, (at, value)) in other.tags {
            if self.tags.get(&key).is_none_or(|(known, _)| *known <= at) {
                self.tags.insert(key, (at, value));
            }
        }
    }

    /// The tags that are expected: of each key its value, or `None` where it was deleted.
    pub fn tags(&self) -> impl Iterator<Item = (&str, Option<&str>)> {
        self.tags.iter().map(|(key, (_, value))| (key.as_str(), value.as_deref()))
    }

    /// The state that an event announced, where one did.
    #[must_use]
    pub fn state(&self) -> Option<&InstanceState> {
        self.state.as_ref().map(|(_, state)| state)
    }

    /// How this read of the instance lags behind, if it does. A later world is no lag.
    #[must_use]
    pub fn lag(&self, shown: &Instance) -> Option<Lag> {
        if let Some((_, expected)) = &self.state
            && is_left_behind(&shown.state, expected)
        {
            let (expected, shown) = (expected.clone(), shown.state.clone());
            return Some(Lag::State { expected, shown });
        }
        self.tags.iter().find_map(|(key, (_, expected))| {
            match (expected.as_ref(), shown.tags.get(key)) {
                (None, Some(_)) => Some(Lag::DeletedTag { key: key.clone() }),
                (Some(expected), found) if found != Some(expected) => {
                    Some(Lag::Tag { key: key.clone() })
                }
                (Some(_) | None, _) => None,
            }
        })
    }
}

/// Whether an instance that reached `reached` has left `shown` for good, or until a further event: the states on the way to
/// it, from which no other way leads back.
fn is_left_behind(shown: &InstanceState, reached: &InstanceState) -> bool {
    use InstanceState::{Pending, Running, ShuttingDown, Stopped, Stopping, Terminated, Unknown};
    match reached {
        Running => *shown == Pending,
        Stopped => *shown == Stopping,
        ShuttingDown => matches!(shown, Pending | Running | Stopping | Stopped),
        Terminated => matches!(shown, Pending | Running | Stopping | Stopped | ShuttingDown),
        Pending | Stopping | Unknown(_) => false,
    }
}

impl fmt::Display for Expectation {
    /// What is expected, without the tags' values, which are their owners' business.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.state().map(|state| format!("the state {state}"));
        let tags = self.tags.iter().map(|(key, (_, value))| match value {
            Some(_) => format!("the tag {key:?}"),
            None => format!("no tag {key:?}"),
        });
        f.write_str(&state.into_iter().chain(tags).collect::<Vec<_>>().join(", "))
    }
}

impl fmt::Display for Lag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::State { expected, shown } => {
                write!(
                    f,
                    "the event says that the instance is {expected}, and EC2 still shows it as {shown}"
                )
            }
            Self::Tag { key } => {
                write!(f, "the event says what the tag {key:?} is, and EC2 does not show it yet")
            }
            Self::TwoReads => {
                f.write_str("two reads of the instance's tags disagree, or show none")
            }
            Self::Association { profile_arn } => {
                write!(
                    f,
                    "a swap was to take {profile_arn} away, and EC2 still shows it as attached"
                )
            }
            Self::DeletedTag { key } => {
                write!(f, "the event says that the tag {key:?} was deleted, and EC2 still shows it")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{InstanceId, Keeper, Platform};

    fn shown(state: &str, tags: &[(&str, &str)]) -> Instance {
        Instance {
            id: InstanceId::parse("i-01").unwrap(),
            account: None,
            state: InstanceState::from_ec2(state),
            tags: tags.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect(),
            keeper: Keeper::Owner,
            vpc: None,
            subnet: None,
            instance_type: None,
            platform: Platform::Linux,
            started: None,
        }
    }

    #[test]
    fn only_an_earlier_state_is_a_lag() {
        let states = ["pending", "running", "stopping", "stopped", "shutting-down", "terminated"];
        for (event, earlier) in [
            ("pending", &[][..]),
            ("running", &["pending"]),
            ("stopping", &[]),
            ("stopped", &["stopping"]),
            ("shutting-down", &["pending", "running", "stopping", "stopped"]),
            ("terminated", &["pending", "running", "stopping", "stopped", "shutting-down"]),
        ] {
            let expected = Expectation::of_state(None, InstanceState::from_ec2(event));
            for state in states {
                let lags = expected.lag(&shown(state, &[])).is_some();
                assert_eq!(lags, earlier.contains(&state), "{state} after the event {event}");
            }
        }
    }

    #[test]
    fn a_value_must_be_shown_and_a_deleted_key_must_not() {
        let there = Tags::from([("A".into(), "new".into())]);
        let expected = Expectation::of_tags(None, there, ["B".to_owned()]);
        for (tags, lag) in [
            (&[("A", "new")][..], None),
            (&[("A", "new"), ("C", "x")], None),
            (&[("A", "old")], Some(Lag::Tag { key: "A".into() })),
            (&[], Some(Lag::Tag { key: "A".into() })),
            (&[("A", "new"), ("B", "x")], Some(Lag::DeletedTag { key: "B".into() })),
        ] {
            assert_eq!(expected.lag(&shown("running", tags)), lag, "{tags:?}");
        }
    }

    #[test]
    fn of_two_events_the_later_one_counts() {
        let web = |at| Expectation::of_tags(at, Tags::from([("A".into(), "web".into())]), []);
        let gone = |at| Expectation::of_tags(at, Tags::new(), ["A".to_owned()]);
        let is_gone = |expected: &Expectation| expected.lag(&shown("running", &[])).is_none();
        for (first, second, ends_gone) in [
            (web(Some(1)), gone(Some(2)), true),
            (gone(Some(2)), web(Some(1)), true),
            (web(Some(2)), gone(Some(2)), true),
            (gone(Some(1)), web(Some(2)), false),
            (gone(None), web(Some(2)), false),
        ] {
            let mut merged = first;
            merged.merge(second);
            assert_eq!(is_gone(&merged), ends_gone, "{merged:?}");
        }
    }
}
