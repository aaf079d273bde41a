//! What an event says a read of its instance must show. It tells an old read from a new one, and decides nothing: EC2's
//! reads are eventually consistent, and lag behind the very event that asks for them.

use std::fmt;

use crate::model::{Instance, InstanceState, Tags};

/// What a read must show, as of one event or of several about the same instance.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Expectation {
    state: Option<(EventTime, InstanceState)>,
    tags: Option<(EventTime, Tags)>,
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
        Self { state: Some((at, state)), tags: None }
    }

    /// Of an event about the instance's tags, which tells all of them: of the keys that matter, those that it does not tell
    /// are gone.
    #[must_use]
    pub fn of_tags(at: EventTime, tags: Tags) -> Self {
        Self { state: None, tags: Some((at, tags)) }
    }

    /// Adds what another event about the same instance said. Of two that disagree the later one counts; of two of the same
    /// second, in which EventBridge tells the time, the one that is added.
    pub fn merge(&mut self, other: Self) {
        if let Some((at, state)) = other.state
            && self.state.as_ref().is_none_or(|(known, _)| *known <= at)
        {
            self.state = Some((at, state));
        }
        if let Some((at, tags)) = other.tags
            && self.tags.as_ref().is_none_or(|(known, _)| *known <= at)
        {
            self.tags = Some((at, tags));
        }
    }

    /// The tags that matter, as an event told them, where one did.
    #[must_use]
    pub fn tags(&self) -> Option<&Tags> {
        self.tags.as_ref().map(|(_, tags)| tags)
    }

    /// The state that an event announced, where one did.
    #[must_use]
    pub fn state(&self) -> Option<&InstanceState> {
        self.state.as_ref().map(|(_, state)| state)
    }

    /// How this read of the instance lags behind, if it does; `matters` says of a tag's key whether the policy reads it. A
    /// later state is no lag.
    #[must_use]
    pub fn lag(&self, shown: &Instance, matters: impl Fn(&str) -> bool) -> Option<Lag> {
        if let Some((_, expected)) = &self.state
            && is_left_behind(&shown.state, expected)
        {
            let (expected, shown) = (expected.clone(), shown.state.clone());
            return Some(Lag::State { expected, shown });
        }
        let expected = self.tags()?;
        let differs = |(key, value): &(&String, &String)| shown.tags.get(*key) != Some(*value);
        let is_gone = |key: &&String| matters(key) && !expected.contains_key(*key);
        let late = expected.iter().find(differs).map(|(key, _)| Lag::Tag { key: key.clone() });
        let gone = || shown.tags.keys().find(is_gone);
        late.or_else(|| gone().map(|key| Lag::DeletedTag { key: key.clone() }))
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
        let tags = self.tags().map(|tags| format!("these tags alone: {:?}", tags.keys()));
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
                let lags = expected.lag(&shown(state, &[]), |_| true).is_some();
                assert_eq!(lags, earlier.contains(&state), "{state} after the event {event}");
            }
        }
    }

    #[test]
    fn the_tags_that_matter_must_be_shown_and_no_others() {
        let tags = Tags::from([("A".into(), "new".into())]);
        let expected = Expectation::of_tags(None, tags);
        for (tags, lag) in [
            (&[("A", "new")][..], None),
            (&[("A", "new"), ("Name", "x")], None),
            (&[("A", "old")], Some(Lag::Tag { key: "A".into() })),
            (&[], Some(Lag::Tag { key: "A".into() })),
            (&[("A", "new"), ("B", "x")], Some(Lag::DeletedTag { key: "B".into() })),
        ] {
            let lags = expected.lag(&shown("running", tags), |key| key != "Name");
            assert_eq!(lags, lag, "{tags:?}");
        }
    }

    #[test]
    fn of_two_events_the_later_one_counts() {
        let web = |at| Expectation::of_tags(at, Tags::from([("A".into(), "web".into())]));
        let gone = |at| Expectation::of_tags(at, Tags::new());
        let is_gone =
            |expected: &Expectation| expected.lag(&shown("running", &[]), |_| true).is_none();
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
