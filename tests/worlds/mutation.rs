//! Guards of the function that can be switched off from outside, to show that the invariants notice.

use serde_json::Value;

/// A guard that is off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mutation {
    /// The allow-list handed to the function allows every profile.
    AllowsEverything,
    /// Only rows that are `associated` are seen: the classic filter.
    SeesAssociatedOnly,
    /// A write that failed counts as one that succeeded.
    TakesFailureForSuccess,
    /// Replace and disassociate go for what is attached now, whatever id they name.
    IgnoresTheLock,
    /// What a swap detached is never put back.
    NeverPutsBack,
    /// Every write is sent twice.
    WritesTwice,
    /// The answer to a batch names no message that is not done.
    ForgetsFailures,
    /// Letters for the dead-letter queue are lost.
    LosesLetters,
    /// A message that is not done is hidden for weeks.
    HidesForEver,
    /// `MODE=dry-run` is ignored.
    WritesInDryRun,
    /// The second read of the tags only repeats the first.
    OneWitness,
    /// Profiles without a role, and roles that do not trust EC2, pass.
    TrustsEveryProfile,
    /// Instances that a service manages look like any other.
    SeesNoKeeper,
    /// Every instance looks as if it were running.
    SeesNoState,
    /// What an event says of the state is not expected of the read.
    ExpectsNoState,
    /// A key that an event says is gone is not expected to be gone.
    ExpectsNoAbsence,
    /// A second read of tags that the first left out shows none either.
    ReadsEmptyTagsOnce,
    /// What a swap is about to detach is not written down.
    NeverWritesAhead,
    /// What was written down is not read.
    IgnoresWriteAhead,
    /// Nothing is written down where the rule leaves a bare instance alone.
    ForgetsWhereBareIsLeft,
    /// No write is looked at again later.
    NeverVerifies,
}

impl Mutation {
    pub const ALL: [Self; 21] = [
        Self::AllowsEverything,
        Self::SeesAssociatedOnly,
        Self::TakesFailureForSuccess,
        Self::IgnoresTheLock,
        Self::NeverPutsBack,
        Self::WritesTwice,
        Self::ForgetsFailures,
        Self::LosesLetters,
        Self::HidesForEver,
        Self::WritesInDryRun,
        Self::OneWitness,
        Self::TrustsEveryProfile,
        Self::SeesNoKeeper,
        Self::SeesNoState,
        Self::ExpectsNoState,
        Self::ExpectsNoAbsence,
        Self::ReadsEmptyTagsOnce,
        Self::NeverWritesAhead,
        Self::IgnoresWriteAhead,
        Self::ForgetsWhereBareIsLeft,
        Self::NeverVerifies,
    ];

    /// An event as the function gets it, where a guard is off that goes by it.
    pub fn of_event(self, body: &str) -> String {
        let Ok(mut event) = serde_json::from_str::<Value>(body) else { return body.to_owned() };
        let detail = &mut event["detail"];
        match self {
            // Every state comes after this one.
            Self::ExpectsNoState if detail.get("state").is_some() => {
                detail["state"] = "pending".into();
            }
            Self::ExpectsNoAbsence if detail.get("changed-tag-keys").is_some() => {
                // An event that does not tell the tags says nothing of what is gone.
                detail["tags"] = Value::Null;
            }
            _ => return body.to_owned(),
        }
        event.to_string()
    }
}
