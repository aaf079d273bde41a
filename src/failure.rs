//! How a look, or a change, fails: the failure's word and sentence, what its message waits for, and what becomes of that.

use std::error::Error;

use crate::backoff::WaitsFor;
use crate::cloud::{CloudError, ErrorKind};
use crate::contest::{CORRECTIONS, TRUCE, WINDOW};
use crate::decide::Patience;
use crate::model::ProfileRef;

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
    /// The world moved each time we were about to act.
    #[error("{}", self.sentence())]
    KeepsMoving(#[source] CloudError),
    /// A swap failed half-way and was undone.
    #[error("{}", self.sentence())]
    SwapUndone {
        /// What is attached again.
        restored: String,
        /// Why the swap failed.
        #[source]
        cause: Box<Failure>,
    },
    /// A swap failed half-way and could not be undone.
    #[error("{}", self.sentence())]
    LeftBare {
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
    /// Another hand keeps undoing what we do.
    #[error("{}", self.sentence())]
    Contested {
        /// Whose, where an event said so.
        by: Option<String>,
    },
}

/// What becomes of a message that is not done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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
            Self::SwapUndone { restored, .. } => format!("the swap was undone, {restored} is attached again"),
            Self::LeftBare { detached, cause, .. } => {
                let cause = cause.as_ref().map_or_else(String::new, |cause| format!(" ({})", chain(cause.as_ref())));
                format!("the instance is bare: {detached} was detached and could not be put back{cause}")
            }
            Self::OutOfTime => "the invocation's time ran out before the instance was done".to_owned(),
            Self::Contested { by } => {
                let hand = by.as_ref().map_or_else(
                    || "another hand (turn Drift on to learn whose)".to_owned(),
                    |by| format!("{by} (the last known)"),
                );
                format!(
                    "it was made right {CORRECTIONS} times within {} minutes, and each time changed again by {hand}; \
                     it is left alone for {} minutes",
                    WINDOW.as_secs() / 60,
                    TRUCE.as_secs() / 60
                )
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
            Self::KeepsMoving(_) => "Conflict",
            Self::SwapUndone { .. } => "SwapUndone",
            Self::LeftBare { .. } => "LeftBare",
            Self::OutOfTime => "OutOfTime",
            Self::Contested { .. } => "Contested",
        }
    }

    /// What becomes of the message.
    #[must_use]
    pub fn disposition(&self, patience: Patience) -> Disposition {
        if self.waits_for(patience).needs_a_person() {
            Disposition::GiveUp
        } else {
            Disposition::ComeAgain
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
            Self::InstanceUnseen => WaitsFor::Creation,
            Self::KeepsMoving(_) => WaitsFor::Calm,
            Self::SwapUndone { cause, .. } => cause.waits_for(patience),
            Self::LeftBare { .. } => WaitsFor::Repair,
            Self::OutOfTime => WaitsFor::Turn,
            Self::Contested { .. } => WaitsFor::Truce,
        }
    }
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
