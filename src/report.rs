//! How it ended: the outcome or the failure of each instance, as a log line and as JSON.

use std::fmt;
use std::time::Duration;

use serde::Serialize;

use crate::census::Standing;
use crate::decide::{Decision, Leave, Patience, Wait};
use crate::failure::{Disposition, Failure, MALFORMED, chain, flapping};
use crate::launcher::launch_source;
use crate::model::{AccountId, Illegal, InstanceFacts, InstanceRef, Tags};
use crate::verification::Verification;

/// A known resting state of an instance: the message about it is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing was to be done, for the decision's reason.
    Left,
    /// The next state's event brings the instance back.
    Waiting,
    /// The required profile was there.
    Kept,
    /// The required profile was attached to the bare instance.
    Associated,
    /// The profile was taken away, as the policy requires.
    Removed,
    /// The required profile took the place of another.
    Replaced,
    /// The other profile was detached, the required one attached.
    Swapped,
    /// Another hand made it right while we were at it, or a write of ours that seemed lost had got through.
    Converged,
    /// A dry run: nothing was written.
    Planned,
    /// EC2 took the replacement of a recreated profile and kept the old one. A person must act.
    NotRepaired,
    /// What an unfinished swap had taken away is attached again.
    RolledBack,
}

impl Outcome {
    /// The outcome in one word.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Left => "left",
            Self::Waiting => "waiting",
            Self::Kept => "kept",
            Self::Associated => "associated",
            Self::Removed => "removed",
            Self::Replaced => "replaced",
            Self::Swapped => "swapped",
            Self::Converged => "converged",
            Self::Planned => "planned",
            Self::NotRepaired => "not-repaired",
            Self::RolledBack => "rolled-back",
        }
    }

    /// Whether a call of ours brought it about.
    #[must_use]
    pub fn is_change(self) -> bool {
        match self {
            Self::Associated
            | Self::Removed
            | Self::Replaced
            | Self::Swapped
            | Self::RolledBack => true,
            Self::Left
            | Self::Waiting
            | Self::Kept
            | Self::Converged
            | Self::Planned
            | Self::NotRepaired => false,
        }
    }

    /// The outcome as the beginning of a sentence that the decision's reason ends.
    fn sentence(self) -> &'static str {
        match self {
            Self::Left => "left as it is",
            Self::Waiting => "waiting",
            Self::Kept => "right already",
            Self::Associated => "profile associated",
            Self::Removed => "profile removed",
            Self::Replaced => "profile replaced",
            Self::Swapped => "profile swapped",
            Self::Converged => "right by now, by another actor",
            Self::Planned => "dry run, nothing written",
            Self::NotRepaired => {
                "EC2 took the replacement but kept the deleted profile; disassociate it and associate it again by hand"
            }
            Self::RolledBack => "the profile from before the swap attached again",
        }
    }
}

fn json(tags: &Tags) -> String {
    serde_json::to_string(tags).unwrap_or_default()
}

/// Who brought an instance to our attention.
///
/// Of several the first in this order is named: events say most.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum FoundBy {
    /// An event about its state or its tags.
    #[default]
    Event,
    /// A call that CloudTrail told of.
    Drift,
    /// A person's invocation.
    Person,
    /// A sweep.
    Sweep,
    /// The look that follows a change.
    Verification,
    /// The message that follows the beginning of a swap.
    Swap,
}

impl FoundBy {
    /// The word for logs.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Event => "event",
            Self::Drift => "drift",
            Self::Person => "person",
            Self::Sweep => "sweep",
            Self::Verification => "verification",
            Self::Swap => "swap",
        }
    }
}

/// Why an instance is looked at, as far as that explains what is found. It decides nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cause {
    /// Who found it.
    pub found_by: FoundBy,
    /// Who launched it, where the event says so.
    pub launched_by: Option<String>,
    /// Who changed its association, where the event says so.
    pub changed_by: Option<String>,
}

/// What an instance had before the first write.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Before {
    /// Nothing was written: it has what it had.
    #[default]
    NothingWritten,
    /// No profile.
    Bare,
    /// A profile, by its ARN.
    Attached(String),
}

/// All that is known about one instance once it was dealt with.
#[derive(Debug)]
pub struct InstanceReport {
    /// The instance.
    pub instance: InstanceRef,
    /// Why it was looked at.
    pub cause: Cause,
    /// Whether EC2 has had long enough to put its association into force, and did not: it cannot assume the role.
    pub is_stuck: bool,
    /// What was found at the last look; nothing, where EC2 showed nothing.
    pub facts: Option<InstanceFacts>,
    /// The rule that decided.
    pub rule: Option<String>,
    /// Of the instance's tags those that the rule reads.
    pub tags: Tags,
    /// The last decision; nothing, where no look succeeded.
    pub decision: Option<Decision>,
    /// How it ended.
    pub result: Result<Outcome, Failure>,
    /// Whether the message may still be waited with.
    pub patience: Patience,
    /// What was attached before the first write.
    pub before: Before,
    /// The profile that was attached, where the outcome is a change; nothing, where one was taken away.
    pub after: Option<String>,
    /// Whether another actor keeps undoing what was done, although the instance is right now.
    pub is_flapping: bool,
    /// What is to be looked at again, and after what.
    pub follow_up: Option<Verification>,
    /// What becomes of the messages about this instance; `None`, where they are done.
    pub disposition: Option<Disposition>,
    /// How long it took, the shared reads left out.
    pub duration: Duration,
}

impl InstanceReport {
    /// The account as the event named it, or else as EC2 did.
    #[must_use]
    pub fn account(&self) -> Option<&AccountId> {
        let owner = || self.facts.as_ref()?.instance.account.as_ref();
        self.instance.account.as_ref().or_else(owner)
    }

    /// The profile found attached: before the first write, where anything was written.
    #[must_use]
    pub fn attached(&self) -> Option<&str> {
        match &self.before {
            Before::Bare => None,
            Before::Attached(profile_arn) => Some(profile_arn),
            Before::NothingWritten => {
                let association = self.facts.as_ref()?.association.as_ref();
                association.map(|association| association.profile_arn.as_str())
            }
        }
    }

    /// The profile required, where one is known.
    #[must_use]
    pub fn required(&self) -> Option<String> {
        match self.decision.as_ref()? {
            Decision::Associate(to) | Decision::Replace { to, .. } | Decision::Swap { to, .. } => {
                Some(to.arn.to_string())
            }
            Decision::Keep(association) => Some(association.profile_arn.clone()),
            Decision::PutBack { profile_arn } => Some(profile_arn.clone()),
            Decision::Wait(Wait::UntilRunning { required, .. }) => Some(required.to_string()),
            Decision::Leave(Leave::NotAllowed(wanted)) => Some(wanted.to_string()),
            Decision::Leave(Leave::Unusable { profile, .. }) => Some(profile.to_string()),
            Decision::LookUp(wanted) | Decision::Wait(Wait::ProfileUnknown(wanted)) => {
                Some(wanted.to_string())
            }
            Decision::Leave(_)
            | Decision::Wait(Wait::State(_) | Wait::InstanceUnseen)
            | Decision::KeepBare
            | Decision::Confirm
            | Decision::Remove(_) => None,
        }
    }

    fn reason_code(&self) -> Option<&'static str> {
        if self.is_stuck { Some(STUCK) } else { self.decision.as_ref().map(Decision::reason_code) }
    }

    /// Where the instance stands.
    #[must_use]
    pub fn standing(&self) -> Standing {
        let decision = match (&self.result, &self.decision) {
            (Err(Failure::ProfileUnknown(_)), _) => return Standing::Blocked,
            (
                Err(
                    Failure::StaleRead(_)
                    | Failure::InstanceNotReady(_)
                    | Failure::ProfileNotReady { .. }
                    | Failure::Flapping { begins: false, .. },
                ),
                _,
            ) => return Standing::Waiting,
            (Err(_) | Ok(Outcome::NotRepaired), _) | (Ok(_), None) => return Standing::Failed,
            (Ok(_), Some(decision)) => decision,
        };
        match decision {
            Decision::Associate(_)
            | Decision::Replace { .. }
            | Decision::Swap { .. }
            | Decision::PutBack { .. }
            | Decision::Remove(_) => Standing::Change,
            Decision::Keep(_) | Decision::KeepBare => Standing::Right,
            Decision::Leave(
                Leave::Unmanaged { .. }
                | Leave::Ignored { .. }
                | Leave::FillsGapsOnly { .. }
                | Leave::CorrectsOnly
                | Leave::SwapIsOver { .. }
                | Leave::ManagedByService(_)
                | Leave::Gone(_)
                | Leave::NeverSeen,
            ) => Standing::Left,
            Decision::Leave(
                Leave::Invalid(_)
                | Leave::NotAllowed(_)
                | Leave::Unusable { .. }
                | Leave::TagsDoubtful,
            ) => Standing::Blocked,
            Decision::Wait(_) | Decision::LookUp(_) | Decision::Confirm => Standing::Waiting,
        }
    }

    /// The reason in a stable word: the decision's, or the error's type.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match (&self.result, &self.decision) {
            _ if self.is_stuck => STUCK,
            (Err(Failure::ProfileUnknown(_)) | Ok(_), Some(decision)) => decision.reason_code(),
            (Err(failure), _) => failure.error_type(),
            (Ok(outcome), None) => outcome.word(),
        }
    }

    /// What launched the instance, where it was found bare and that is known.
    #[must_use]
    pub fn launch_source(&self) -> Option<String> {
        let facts = self.facts.as_ref().filter(|facts| facts.association.is_none())?;
        launch_source(&facts.instance.tags, self.cause.launched_by.as_deref())
    }

    /// How it ended, in one word.
    #[must_use]
    pub fn outcome_word(&self) -> &'static str {
        self.result.as_ref().map_or("failed", |outcome| outcome.word())
    }

    /// Why, as a sentence that a person can act on.
    #[must_use]
    pub fn sentence(&self) -> String {
        match (&self.result, &self.decision) {
            (Err(failure), _) => chain(failure),
            (Ok(Outcome::NotRepaired), _) => Outcome::NotRepaired.sentence().to_owned(),
            (Ok(_), Some(decision)) => decision.to_string(),
            (Ok(outcome), None) => outcome.sentence().to_owned(),
        }
    }

    /// Writes the one line about this instance, with the ids of the messages it answers: an error only where a person
    /// must act.
    pub fn log(&self, message_ids: &str) {
        let message = match (&self.result, &self.decision) {
            (Ok(outcome), Some(decision)) => {
                format!("{}: {}: {decision}", self.instance, outcome.sentence())
            }
            (Ok(outcome), None) => format!("{}: {}", self.instance, outcome.sentence()),
            (Err(failure), _) => format!("{}: {}", self.instance, chain(failure)),
        };
        let message = self.with_warnings(message);
        let level = match (&self.result, self.disposition) {
            _ if self.is_stuck || self.is_flapping => tracing::Level::ERROR,
            (
                Ok(Outcome::NotRepaired)
                | Err(Failure::RollbackFailed { .. } | Failure::Flapping { begins: true, .. }),
                _,
            )
            | (_, Some(Disposition::GiveUp)) => tracing::Level::ERROR,
            (_, Some(Disposition::ComeAgain)) => tracing::Level::WARN,
            (Ok(_) | Err(_), None) => tracing::Level::INFO,
        };
        // tracing takes a level only as a constant.
        macro_rules! line {
            ($level:expr) => {
                tracing::event!(
                    $level,
                    instance.id = self.instance.id.as_str(),
                    instance.region = self.instance.region.as_str(),
                    instance.account =
                        self.instance.account.as_ref().map(|account| account.as_str()),
                    instance.state = self.facts.as_ref().map(|facts| facts.instance.state.as_str()),
                    decision = self.decision.as_ref().map(Decision::word),
                    decision.row = self.decision.as_ref().and_then(Decision::row),
                    reason = self.reason_code(),
                    standing = self.standing().word(),
                    outcome = self.outcome_word(),
                    disposition = self.disposition.map_or("done", Disposition::word),
                    error.r#type = self.result.as_ref().err().map(Failure::error_type),
                    rule = self.rule.as_deref(),
                    tags = (!self.tags.is_empty()).then(|| json(&self.tags)),
                    profile.from = self.attached(),
                    profile.to = self.required(),
                    found.by = self.cause.found_by.word(),
                    changed.by = self.cause.changed_by.as_deref(),
                    launch.source = self.launch_source(),
                    message.ids = message_ids,
                    duration_ms = u64::try_from(self.duration.as_millis()).unwrap_or(u64::MAX),
                    "{message}"
                )
            };
        }
        match level {
            tracing::Level::ERROR => line!(tracing::Level::ERROR),
            tracing::Level::WARN => line!(tracing::Level::WARN),
            _ => line!(tracing::Level::INFO),
        }
    }

    fn with_warnings(&self, mut message: String) -> String {
        if self.is_stuck {
            message.push_str("; ");
            message.push_str(STUCK_SENTENCE);
        }
        if self.is_flapping {
            message.push_str("; ");
            message.push_str(&flapping(self.cause.changed_by.as_deref()));
        }
        message
    }

    /// The instance's entry in the answer to a direct invocation.
    #[must_use]
    pub fn entry(&self) -> Entry {
        Entry {
            instance_id: self.instance.id.to_string(),
            account: self.account().map(ToString::to_string),
            region: Some(self.instance.region.to_string()),
            state: self.facts.as_ref().map(|facts| facts.instance.state.to_string()),
            rule: self.rule.clone(),
            tags: self.tags.clone(),
            attached: self.attached().map(str::to_owned),
            required: self.required(),
            decision: self.decision.as_ref().map(Decision::word),
            decision_row: self.decision.as_ref().and_then(Decision::row),
            reason_code: self.reason_code(),
            reason: self.decision.as_ref().map(ToString::to_string),
            outcome: self.outcome_word(),
            error: self.result.as_ref().err().map(|failure| EntryError {
                r#type: failure.error_type(),
                message: chain(failure),
                disposition: self.disposition.unwrap_or(Disposition::GiveUp).word(),
            }),
        }
    }
}

/// One instance in the answer to a direct invocation.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Entry {
    instance_id: String,
    account: Option<String>,
    region: Option<String>,
    /// As found.
    state: Option<String>,
    /// The policy's rule that decided.
    rule: Option<String>,
    /// Of the instance's tags those that the rule reads.
    tags: Tags,
    /// The profile found attached.
    attached: Option<String>,
    /// The profile required.
    required: Option<String>,
    decision: Option<&'static str>,
    /// The decision's row in docs/SEMANTICS.md.
    decision_row: Option<u8>,
    reason_code: Option<&'static str>,
    reason: Option<String>,
    /// How it ended; `failed` where `error` says more.
    outcome: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<EntryError>,
}

impl Entry {
    /// An entry for what was asked for and is no instance's id.
    #[must_use]
    pub fn illegal(why: &Illegal) -> Self {
        Self {
            instance_id: why.found.clone(),
            account: None,
            region: None,
            state: None,
            rule: None,
            tags: Tags::new(),
            attached: None,
            required: None,
            decision: None,
            decision_row: None,
            reason_code: None,
            reason: None,
            outcome: "failed",
            error: Some(EntryError {
                r#type: MALFORMED,
                message: why.to_string(),
                disposition: Disposition::GiveUp.word(),
            }),
        }
    }
}

/// The reason for an association that EC2 does not put into force.
pub const STUCK: &str = "association-stuck";
const STUCK_SENTENCE: &str = "but EC2 has not put the association into force for over 5 minutes: it cannot assume the role, \
     so look at the role's trust policy and at your organization's policies";

#[derive(Debug, Serialize)]
struct EntryError {
    r#type: &'static str,
    message: String,
    disposition: &'static str,
}

/// Failures of one invocation that has no queue to send a message back to.
#[derive(Debug)]
pub struct Failures<'a>(pub Vec<&'a InstanceReport>);

impl fmt::Display for Failures<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        for report in &self.0 {
            if let Err(failure) = &report.result {
                write!(f, "{separator}{}: {}", report.instance, chain(failure))?;
                separator = "; ";
            }
        }
        Ok(())
    }
}
