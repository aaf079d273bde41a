//! How a look, or a change, fails: the failure's word and sentence, what its message waits for, and what becomes of that.

use std::error::Error;
use std::time::Duration;

use crate::backoff::WaitsFor;
use crate::cloud::{CloudError, ErrorKind};
use crate::decide::Patience;
use crate::expectation::Lag;
use crate::flapping::{MAX_CORRECTIONS, WINDOW};
use crate::model::{InstanceState, ProfileArn, ProfileRef};
use crate::policy::Unusable;
use crate::queue::QueueError;

/// The type of the failure to read a payload, or a part of one.
pub const MALFORMED: &str = "MalformedEvent";

/// An instance whose state is unknown, or not what it should be: the message about it is not done.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// A call failed.
    #[error("{}", self.sentence())]
    Cloud(#[source] CloudError),
    /// EC2 does not know the instance yet.
    #[error("{}", self.sentence())]
    InstanceUnseen,
    /// IAM does not know the profile yet.
    #[error("{}", self.sentence())]
    ProfileUnknown(ProfileRef),
    /// IAM knows the profile, EC2 does not yet.
    #[error("{}", self.sentence())]
    ProfileUnknownToEc2(#[source] CloudError),
    /// What EC2 shows is older than the event.
    #[error("{}", self.sentence())]
    StaleRead(Lag),
    /// EC2 takes nothing in this state, and the event does not bring another one.
    #[error("{}", self.sentence())]
    InstanceNotReady(InstanceState),
    /// The profile would give no credentials yet.
    #[error("{}", self.sentence())]
    ProfileNotReady {
        /// The profile.
        profile: ProfileArn,
        /// What is wrong with it.
        why: Unusable,
    },
    /// A swap was not begun, because what it takes away could not be written down.
    #[error("{}", self.sentence())]
    NotWrittenDown(#[source] QueueError),
    /// The world moved each time we were about to act.
    #[error("{}", self.sentence())]
    KeepsMoving(#[source] CloudError),
    /// A swap failed half-way, and what it had detached is attached again.
    #[error("{}", self.sentence())]
    SwapRolledBack {
        /// What is attached again.
        restored: String,
        /// Why the swap failed.
        #[source]
        cause: Box<Failure>,
    },
    /// A swap failed half-way, and what it had detached could not be attached again.
    #[error("{}", self.sentence())]
    RollbackFailed {
        /// What was detached.
        detached: String,
        /// Why the swap failed; nothing, where only the way back did.
        cause: Option<Box<Failure>>,
        /// Why it could not be undone; nothing, where time ran out.
        #[source]
        undoing: Option<CloudError>,
    },
    /// The invocation's time ran out.
    #[error("{}", self.sentence())]
    OutOfTime,
    /// Another actor keeps undoing what the function does, and the instance is left as it is for a while.
    #[error("{}", self.sentence())]
    Flapping {
        /// Who, where an event said so.
        by: Option<String>,
        /// For how long it is left as it is.
        left: Duration,
        /// Whether that began just now.
        begins: bool,
    },
}

/// What becomes of a message that is not done.
///
/// Of several messages about an instance the first in this order is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Disposition {
    /// It comes again: time may heal it.
    ComeAgain,
    /// It goes to the dead-letter queue: a person must act.
    GiveUp,
}

impl Disposition {
    /// The disposition in one word.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::ComeAgain => "come-again",
            Self::GiveUp => "give-up",
        }
    }
}

impl Failure {
    fn sentence(&self) -> String {
        match self {
            Self::Cloud(_) => "a call to AWS failed".to_owned(),
            Self::InstanceUnseen => "EC2 does not know the instance yet".to_owned(),
            Self::ProfileUnknown(wanted) => format!(
                "IAM knows no instance profile {wanted}; create it, or correct the tag (one made seconds ago is found later)"
            ),
            Self::ProfileUnknownToEc2(_) => {
                "IAM knows the instance profile and EC2 does not; one made seconds ago is found later".to_owned()
            }
            Self::KeepsMoving(_) => "the instance changed each time it was about to be changed".to_owned(),
            Self::StaleRead(lag) => lag.to_string(),
            Self::InstanceNotReady(state) => {
                format!("the instance is {state}, in which EC2 takes no association; it is looked at again soon")
            }
            Self::ProfileNotReady { profile, why } => {
                format!("{profile} is of no use yet: {why} (one that was made or changed seconds ago may be soon)")
            }
            Self::NotWrittenDown(_) => {
                "the swap was not begun, because the queue did not take the message that makes it safe".to_owned()
            }
            Self::SwapRolledBack { restored, .. } => {
                format!("the swap was rolled back, {restored} is attached again")
            }
            Self::RollbackFailed { detached, cause, .. } => {
                let cause = cause.as_ref().map_or_else(String::new, |cause| format!(" ({})", chain(cause.as_ref())));
                format!(
                    "the instance is bare: {detached} was detached and could not be attached again yet{cause}; a \
                     message on the queue sees to it"
                )
            }
            Self::OutOfTime => "the invocation's time ran out before the instance was done".to_owned(),
            Self::Flapping { by, left, .. } => {
                format!("{}; it is left as it is for {} minutes", flapping(by.as_deref()), left.as_secs().div_ceil(60))
            }
        }
    }

    /// The failure's type in a stable word.
    #[must_use]
    pub fn error_type(&self) -> &'static str {
        match self {
            Self::Cloud(error) => match error.kind {
                ErrorKind::Throttled => "Throttled",
                ErrorKind::Transient | ErrorKind::Unreadable => "Transient",
                ErrorKind::Conflict => "Conflict",
                ErrorKind::InstanceNotFound => "InstanceNotFound",
                ErrorKind::ProfileNotFound => "ProfileNotFound",
                ErrorKind::Denied(_) => "Denied",
                ErrorKind::Rejected => "Rejected",
            },
            Self::InstanceUnseen => "InstanceNotFound",
            Self::ProfileUnknown(_) | Self::ProfileUnknownToEc2(_) => "ProfileNotFound",
            Self::StaleRead(_) => "StaleRead",
            Self::InstanceNotReady(_) => "InstanceNotReady",
            Self::ProfileNotReady { .. } => "ProfileNotReady",
            Self::NotWrittenDown(_) => "Transient",
            Self::KeepsMoving(_) => "Conflict",
            Self::SwapRolledBack { .. } => "SwapRolledBack",
            Self::RollbackFailed { .. } => "RollbackFailed",
            Self::OutOfTime => "OutOfTime",
            Self::Flapping { .. } => "Flapping",
        }
    }

    /// What becomes of a message at its first receive, where nothing else is known of it.
    #[must_use]
    pub fn disposition(&self, patience: Patience) -> Disposition {
        if self.waits_for(patience).needs_a_person() {
            Disposition::GiveUp
        } else {
            Disposition::ComeAgain
        }
    }

    /// How long its message waits, where that does not depend on how often the message was received.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            // A little more, so that the cooldown is over.
            Self::Flapping { left, .. } => Some(*left + Duration::from_mins(1)),
            Self::Cloud(_)
            | Self::InstanceUnseen
            | Self::StaleRead(_)
            | Self::InstanceNotReady(_)
            | Self::ProfileUnknown(_)
            | Self::ProfileUnknownToEc2(_)
            | Self::ProfileNotReady { .. }
            | Self::NotWrittenDown(_)
            | Self::KeepsMoving(_)
            | Self::SwapRolledBack { .. }
            | Self::RollbackFailed { .. }
            | Self::OutOfTime => None,
        }
    }

    /// What the message waits for until it is worth another try.
    #[must_use]
    pub fn waits_for(&self, patience: Patience) -> WaitsFor {
        match self {
            Self::Cloud(error) => match error.kind {
                ErrorKind::Throttled => WaitsFor::Rate,
                ErrorKind::Transient | ErrorKind::Unreadable | ErrorKind::Conflict => {
                    WaitsFor::Calm
                }
                ErrorKind::InstanceNotFound | ErrorKind::ProfileNotFound => WaitsFor::Creation,
                ErrorKind::Denied(_) => WaitsFor::Right,
                ErrorKind::Rejected => WaitsFor::Nothing,
            },
            Self::ProfileUnknown(_) | Self::ProfileUnknownToEc2(_) => match patience {
                Patience::Fresh => WaitsFor::Creation,
                Patience::Exhausted => WaitsFor::Nothing,
            },
            Self::InstanceUnseen
            | Self::StaleRead(_)
            | Self::InstanceNotReady(_)
            | Self::ProfileNotReady { .. } => WaitsFor::Creation,
            Self::KeepsMoving(_) | Self::NotWrittenDown(_) => WaitsFor::Calm,
            Self::SwapRolledBack { cause, .. } => cause.waits_for(patience),
            Self::RollbackFailed { .. } => WaitsFor::Repair,
            Self::OutOfTime => WaitsFor::Turn,
            Self::Flapping { .. } => WaitsFor::Cooldown,
        }
    }
}

/// What is said of an instance that another actor keeps changing.
#[must_use]
pub fn flapping(by: Option<&str>) -> String {
    let actor = by.map_or_else(
        || "another actor (turn Drift on to learn who)".to_owned(),
        |by| format!("{by} (the last one known)"),
    );
    format!(
        "it was corrected {MAX_CORRECTIONS} times within {} hours, and each time changed again by {actor}",
        WINDOW.as_secs() / 3600
    )
}

/// An error and everything beneath it, in one line.
#[must_use]
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        let sentence = source.to_string();
        if !sentence.is_empty() {
            text.push_str(": ");
            text.push_str(&sentence);
        }
        next = source.source();
    }
    text
}
