//! Guards of the function that can be switched off from outside, to show that the invariants notice.

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
}

impl Mutation {
    pub const ALL: [Self; 14] = [
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
    ];
}
