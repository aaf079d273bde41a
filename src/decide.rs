//! The heart: a requirement and the facts in, one decision out. What woke us is no argument: same facts, same decision.
//!
//! The rows of the table in `docs/SEMANTICS.md` carry the numbers that [`Decision::row`] answers with.

use std::fmt;

use crate::model::{
    Association, Instance, InstanceFacts, InstanceState, Keeper, Profile, ProfileArn, ProfileId,
    ProfileRef,
};
use crate::policy::rule::{Manner, Skipped, WhenAbsent, WhenDifferent, WhenStopped};
use crate::policy::{Demand, InvalidProfile, Requirement, Tagging, Unusable};

/// What is to be done about one instance. It holds all that acting needs: acting makes no choice of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Nothing, for good, until something changes.
    Leave(Leave),
    /// Nothing now; come back when the reason is over.
    Wait(Wait),
    /// The required profile is there.
    Keep(Association),
    /// Nothing is attached, and nothing is required.
    KeepBare,
    /// Ask IAM for the profile, then decide again.
    LookUp(ProfileRef),
    /// Read the tags a second time, in another way, then decide again.
    Confirm,
    /// Attach the profile; nothing is attached.
    Associate(Profile),
    /// Change the profile in one call; the instance is never bare in between.
    Replace {
        /// What is attached, and the lock on it.
        from: Association,
        /// What is to be attached.
        to: Profile,
        /// Why.
        why: Different,
    },
    /// Detach, then attach: EC2 replaces nothing on a stopped instance.
    Swap {
        /// What is attached, and the lock on it.
        from: Association,
        /// What is to be attached.
        to: Profile,
        /// Why.
        why: Different,
    },
    /// Take the profile away: the policy requires none.
    Remove(Association),
    /// Attach again what an unfinished swap took away: the instance has nothing, and nothing else is required of it that
    /// could be attached.
    PutBack {
        /// The profile's ARN.
        profile_arn: String,
    },
}

/// Why an instance is left as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Leave {
    /// No rule matches.
    Unmanaged {
        /// Why the only rule does not, where there is only one.
        only_rule: Option<Skipped>,
    },
    /// What the rule makes of the tags names nothing that could be attached.
    Invalid(InvalidProfile),
    /// The allow-list has no pattern for the profile.
    NotAllowed(ProfileRef),
    /// The instance is going or gone.
    Gone(InstanceState),
    /// EC2 has not known the instance for long.
    NeverSeen,
    /// A service manages the instance.
    ManagedByService(Option<String>),
    /// The profile would give no credentials.
    Unusable {
        /// The profile.
        profile: ProfileArn,
        /// What is wrong with it.
        why: Unusable,
    },
    /// The policy ignores such instances.
    Ignored {
        /// The entry of `ignore`, counted from 1.
        entry: usize,
    },
    /// Something is attached, and the rule only fills gaps.
    FillsGapsOnly {
        /// What is attached.
        attached: String,
    },
    /// Nothing is attached, and the rule only corrects.
    CorrectsOnly,
    /// The rule would take the profile away, and the tags it goes by are not sure.
    TagsDoubtful,
    /// A swap was to be finished, and something is attached.
    SwapIsOver {
        /// What is attached.
        attached: String,
    },
}

/// What a decision waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wait {
    /// EC2 takes no association in this state; the next state's event brings the instance back.
    State(InstanceState),
    /// IAM does not know the profile: it may be seconds old.
    ProfileUnknown(ProfileRef),
    /// EC2 does not know the instance: it may be seconds old.
    InstanceUnseen,
    /// Another profile is attached, and the instance is stopped: once it runs, one call replaces it.
    UntilRunning {
        /// What is attached.
        attached: String,
        /// What is required.
        required: ProfileArn,
        /// Why it is not swapped now.
        why: NotSwapped,
    },
}

/// Why another profile is not swapped on a stopped instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotSwapped {
    /// The rule, or the setting, says to wait.
    Waits,
    /// There is no queue to write down what is attached before it is taken away.
    NoQueue,
    /// What is attached is outside the allow-list: it could not be put back if the swap failed.
    NoWayBack,
}

/// How what is attached differs from what is required.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Different {
    /// Another profile.
    OtherProfile,
    /// A profile of the same ARN that was deleted since; what is attached gives no credentials any more.
    Recreated,
}

/// Whether EC2 may yet come to know an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Patience {
    /// The message is fresh; EC2's view may lag behind.
    Fresh,
    /// The message came back often enough, or a person is waiting for the answer.
    Exhausted,
}

/// Decides about an instance that EC2 shows.
#[must_use]
pub fn decide(requirement: &Requirement, facts: &InstanceFacts) -> Decision {
    let attached = facts.association.as_ref();
    let in_reach =
        |then: &dyn Fn() -> Decision| not_actionable(&facts.instance).unwrap_or_else(then);
    let required = |wanted: Wanted<'_>, then: &dyn Fn() -> Decision| {
        in_reach(&|| rule_forbids(requirement.manner, attached, wanted).unwrap_or_else(then))
    };
    match &requirement.demand {
        Demand::Ignored { entry } => Decision::Leave(Leave::Ignored { entry: *entry }),
        Demand::Unmanaged { only_rule } => {
            Decision::Leave(Leave::Unmanaged { only_rule: only_rule.clone() })
        }
        Demand::Invalid(why) => Decision::Leave(Leave::Invalid(why.clone())),
        Demand::NotAllowed(wanted) => Decision::Leave(Leave::NotAllowed(wanted.clone())),
        Demand::Nothing { tags } => in_reach(&|| have_nothing(attached, *tags)),
        Demand::Named(wanted) => {
            required(Wanted::Name(wanted), &|| Decision::LookUp(wanted.clone()))
        }
        Demand::Unknown(wanted) => {
            required(Wanted::Name(wanted), &|| Decision::Wait(Wait::ProfileUnknown(wanted.clone())))
        }
        Demand::Unusable { profile, why } => required(Wanted::Exactly(&profile.arn), &|| {
            Decision::Leave(Leave::Unusable { profile: profile.arn.clone(), why: why.clone() })
        }),
        Demand::Profile(profile) => required(Wanted::Exactly(&profile.arn), &|| {
            bring_about(profile, facts, requirement.manner.when_stopped)
        }),
    }
}

/// Decides about an instance that has nothing because a swap of ours took it away. What the rule says of instances without
/// a profile does not matter: this one had one. Where nothing is required that could be attached, it gets back what it had.
#[must_use]
pub fn decide_for_debt(
    requirement: &Requirement,
    facts: &InstanceFacts,
    detached: &str,
) -> Decision {
    let put_back = || Decision::PutBack { profile_arn: detached.to_owned() };
    if let Some(decision) = not_actionable(&facts.instance) {
        return decision;
    }
    match &requirement.demand {
        Demand::Named(wanted) => Decision::LookUp(wanted.clone()),
        Demand::Profile(profile) => Decision::Associate(profile.clone()),
        Demand::Nothing { tags: Tagging::Confirmed } => Decision::KeepBare,
        Demand::Nothing { tags: Tagging::ReadOnce } => Decision::Confirm,
        Demand::Nothing { tags: Tagging::Doubtful }
        | Demand::Ignored { .. }
        | Demand::Unmanaged { .. }
        | Demand::Invalid(_)
        | Demand::NotAllowed(_)
        | Demand::Unknown(_)
        | Demand::Unusable { .. } => put_back(),
    }
}

/// Decides about an instance that EC2 does not show.
#[must_use]
pub fn decide_unseen(patience: Patience) -> Decision {
    match patience {
        Patience::Fresh => Decision::Wait(Wait::InstanceUnseen),
        Patience::Exhausted => Decision::Leave(Leave::NeverSeen),
    }
}

/// What keeps every profile from this instance, if anything does: rows 4 to 6.
fn not_actionable(instance: &Instance) -> Option<Decision> {
    not_actionable_by_state(&instance.state).or_else(|| match &instance.keeper {
        Keeper::Owner => None,
        Keeper::Service(name) => Some(Decision::Leave(Leave::ManagedByService(name.clone()))),
    })
}

/// The states in which EC2 takes no association: rows 4 and 5.
fn not_actionable_by_state(state: &InstanceState) -> Option<Decision> {
    match state {
        InstanceState::ShuttingDown | InstanceState::Terminated => {
            Some(Decision::Leave(Leave::Gone(state.clone())))
        }
        InstanceState::Pending | InstanceState::Stopping | InstanceState::Unknown(_) => {
            Some(Decision::Wait(Wait::State(state.clone())))
        }
        InstanceState::Running | InstanceState::Stopped => None,
    }
}

/// What is known of the profile that is required.
#[derive(Debug, Clone, Copy)]
enum Wanted<'a> {
    /// As the rule names it; IAM was not asked yet, or knows none.
    Name(&'a ProfileRef),
    /// As IAM showed it.
    Exactly(&'a ProfileArn),
}

impl Wanted<'_> {
    /// Whether an association may be with this profile. Names are unique in an account, whatever the path.
    fn may_be(self, attached: &Association) -> bool {
        match self {
            Self::Exactly(arn) | Self::Name(ProfileRef::Arn(arn)) => {
                attached.profile_arn == arn.to_string()
            }
            Self::Name(ProfileRef::Name(name)) => {
                attached.profile_arn.rsplit('/').next() == Some(name.as_str())
            }
        }
    }
}

/// Where the rule lets nothing be done: rows 15 and 16. A rule that keeps other profiles watches its own as any rule does.
fn rule_forbids(
    manner: Manner,
    attached: Option<&Association>,
    wanted: Wanted<'_>,
) -> Option<Decision> {
    match (attached, manner.when_different, manner.when_absent) {
        (Some(association), WhenDifferent::Keep, _) if !wanted.may_be(association) => {
            let attached = association.profile_arn.clone();
            Some(Decision::Leave(Leave::FillsGapsOnly { attached }))
        }
        (None, _, WhenAbsent::Leave) => Some(Decision::Leave(Leave::CorrectsOnly)),
        (Some(_), WhenDifferent::Replace | WhenDifferent::Keep, _)
        | (None, _, WhenAbsent::Associate) => None,
    }
}

/// What leaves a running or stopped instance without a profile: rows 17 and 18. A profile is taken away only on tags that
/// two different reads agree on, and never from an instance that shows no tags at all.
fn have_nothing(attached: Option<&Association>, tags: Tagging) -> Decision {
    match (attached, tags) {
        (None, _) => Decision::KeepBare,
        (Some(_), Tagging::ReadOnce) => Decision::Confirm,
        (Some(from), Tagging::Confirmed) => Decision::Remove(from.clone()),
        (Some(_), Tagging::Doubtful) => Decision::Leave(Leave::TagsDoubtful),
    }
}

/// What gives a running or stopped instance this profile: rows 7 to 11 and 19.
fn bring_about(profile: &Profile, facts: &InstanceFacts, when_stopped: WhenStopped) -> Decision {
    let Some(from) = &facts.association else {
        return Decision::Associate(profile.clone());
    };
    let Some(why) = difference(profile, from) else {
        return Decision::Keep(from.clone());
    };
    let (from, to) = (from.clone(), profile.clone());
    match when_stopped {
        _ if facts.instance.state == InstanceState::Running => Decision::Replace { from, to, why },
        WhenStopped::Swap => Decision::Swap { from, to, why },
        WhenStopped::Wait => wait_until_running(from, to, NotSwapped::Waits),
    }
}

/// Leaves another profile on a stopped instance until it runs.
#[must_use]
pub fn wait_until_running(from: Association, to: Profile, why: NotSwapped) -> Decision {
    let (attached, required) = (from.profile_arn, to.arn);
    Decision::Wait(Wait::UntilRunning { attached, required, why })
}

fn difference(profile: &Profile, association: &Association) -> Option<Different> {
    if association.profile_arn != profile.arn.to_string() {
        return Some(Different::OtherProfile);
    }
    // EC2 always names the id. Emulators that leave it out leave the ARN to go by.
    let same = association.profile_id.as_ref().is_none_or(|id| *id == profile.id);
    if same { None } else { Some(Different::Recreated) }
}

impl Decision {
    /// The row of the decision table in `docs/SEMANTICS.md`; `None` while the decision is not final.
    #[must_use]
    pub fn row(&self) -> Option<u8> {
        Some(match self {
            Self::LookUp(_) | Self::Confirm => return None,
            Self::Leave(Leave::Unmanaged { .. }) => 1,
            Self::Leave(Leave::Invalid(_)) => 2,
            Self::Leave(Leave::NotAllowed(_)) => 3,
            Self::Leave(Leave::Gone(_) | Leave::NeverSeen) | Self::Wait(Wait::InstanceUnseen) => 4,
            Self::Wait(Wait::State(_)) => 5,
            Self::Leave(Leave::ManagedByService(_)) => 6,
            Self::Associate(_) => 7,
            Self::Keep(_) | Self::KeepBare => 8,
            Self::Replace { why: Different::OtherProfile, .. } => 9,
            Self::Swap { .. } => 10,
            Self::Replace { why: Different::Recreated, .. } => 11,
            Self::Wait(Wait::ProfileUnknown(_)) => 12,
            Self::Leave(Leave::Unusable { .. }) => 13,
            Self::Leave(Leave::Ignored { .. }) => 14,
            Self::Leave(Leave::FillsGapsOnly { .. }) => 15,
            Self::Leave(Leave::CorrectsOnly) => 16,
            Self::Remove(_) => 17,
            Self::Leave(Leave::TagsDoubtful) => 18,
            Self::Wait(Wait::UntilRunning { .. }) => 19,
            Self::PutBack { .. } => 20,
            Self::Leave(Leave::SwapIsOver { .. }) => 21,
        })
    }

    /// Whether carrying it out changes the instance.
    #[must_use]
    pub fn writes(&self) -> bool {
        match self {
            Self::Associate(_)
            | Self::Replace { .. }
            | Self::Swap { .. }
            | Self::Remove(_)
            | Self::PutBack { .. } => true,
            Self::Leave(_)
            | Self::Wait(_)
            | Self::Keep(_)
            | Self::KeepBare
            | Self::LookUp(_)
            | Self::Confirm => false,
        }
    }

    /// The profile that carrying it out brings about; none, where it takes one away or changes nothing.
    #[must_use]
    pub fn target(&self) -> Option<String> {
        match self {
            Self::Associate(to) | Self::Replace { to, .. } | Self::Swap { to, .. } => {
                Some(to.arn.to_string())
            }
            Self::PutBack { profile_arn } => Some(profile_arn.clone()),
            Self::Remove(_)
            | Self::Leave(_)
            | Self::Wait(_)
            | Self::Keep(_)
            | Self::KeepBare
            | Self::LookUp(_)
            | Self::Confirm => None,
        }
    }

    /// The id of the profile that carrying it out attaches.
    #[must_use]
    pub fn required_id(&self) -> Option<&ProfileId> {
        match self {
            Self::Associate(to) | Self::Replace { to, .. } | Self::Swap { to, .. } => Some(&to.id),
            Self::Keep(row) => row.profile_id.as_ref(),
            Self::PutBack { .. }
            | Self::Remove(_)
            | Self::Leave(_)
            | Self::Wait(_)
            | Self::KeepBare
            | Self::LookUp(_)
            | Self::Confirm => None,
        }
    }

    /// The decision in one word, as logs, reports and the documentation write it.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Leave(_) => "leave",
            Self::Wait(_) => "wait",
            Self::Keep(_) | Self::KeepBare => "keep",
            Self::LookUp(_) => "look-up",
            Self::Confirm => "confirm",
            Self::Remove(_) => "remove",
            Self::Associate(_) => "associate",
            Self::Replace { .. } => "replace",
            Self::Swap { .. } => "swap",
            Self::PutBack { .. } => "put-back",
        }
    }

    /// The reason in a stable word, for filters and metrics.
    #[must_use]
    pub fn reason_code(&self) -> &'static str {
        match self {
            Self::Leave(leave) => match leave {
                Leave::Unmanaged { .. } => "unmanaged",
                Leave::Invalid(_) => "invalid-profile",
                Leave::NotAllowed(_) => "not-allowed",
                Leave::Gone(_) => "gone",
                Leave::NeverSeen => "never-seen",
                Leave::ManagedByService(_) => "managed-by-service",
                Leave::Unusable { why: Unusable::NoRole, .. } => "no-role",
                Leave::Unusable { why: Unusable::RoleDoesNotTrustEc2 { .. }, .. } => {
                    "role-does-not-trust-ec2"
                }
                Leave::Ignored { .. } => "ignored-by-policy",
                Leave::FillsGapsOnly { .. } => "fills-gaps-only",
                Leave::CorrectsOnly => "corrects-only",
                Leave::TagsDoubtful => "tags-doubtful",
                Leave::SwapIsOver { .. } => "swap-over",
            },
            Self::Wait(Wait::State(_)) => "instance-state",
            Self::Wait(Wait::ProfileUnknown(_)) => "profile-unknown",
            Self::Wait(Wait::InstanceUnseen) => "instance-unseen",
            Self::Wait(Wait::UntilRunning { .. }) => "instance-stopped",
            Self::PutBack { .. } => "swap-unfinished",
            Self::Keep(_) | Self::KeepBare => "right",
            Self::LookUp(_) => "profile-needed",
            Self::Confirm => "tags-needed",
            Self::Remove(_) => "none-required",
            Self::Associate(_) => "bare",
            Self::Replace { why, .. } | Self::Swap { why, .. } => match why {
                Different::OtherProfile => "other-profile",
                Different::Recreated => "profile-recreated",
            },
        }
    }
}

impl fmt::Display for Decision {
    /// The reason, as a sentence that a person can act on.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Leave(leave) => leave.fmt(f),
            Self::Wait(wait) => wait.fmt(f),
            Self::Keep(association) => {
                write!(f, "{} is attached, as required", association.profile_arn)
            }
            Self::LookUp(wanted) => {
                write!(f, "the instance requires {wanted}, which IAM must show first")
            }
            Self::KeepBare => f.write_str("nothing is attached, as required"),
            Self::Confirm => {
                f.write_str("no profile is required, if a second read of the tags agrees")
            }
            Self::Remove(from) => {
                write!(f, "found {} attached; none is required", from.profile_arn)
            }
            Self::Associate(profile) => {
                write!(f, "found nothing attached; {} is required", profile.arn)
            }
            Self::Replace { from, to, why } => difference_sentence(f, from, to, *why),
            Self::PutBack { profile_arn } => {
                write!(
                    f,
                    "an unfinished swap took {profile_arn} away, and nothing else can be attached"
                )
            }
            Self::Swap { from, to, why } => {
                difference_sentence(f, from, to, *why)?;
                f.write_str("; EC2 replaces nothing on a stopped instance, so it is detached first")
            }
        }
    }
}

fn difference_sentence(
    f: &mut fmt::Formatter<'_>,
    from: &Association,
    to: &Profile,
    why: Different,
) -> fmt::Result {
    match why {
        Different::OtherProfile => {
            write!(f, "found {} attached; {} is required", from.profile_arn, to.arn)
        }
        Different::Recreated => {
            let attached = from.profile_id.as_ref().map_or("another id", |id| id.as_str());
            write!(
                f,
                "{} was deleted and made again: found {attached} attached, {} is the profile now",
                to.arn, to.id
            )
        }
    }
}

impl fmt::Display for Leave {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unmanaged { only_rule: Some(why) } => write!(f, "no rule matches: {why}"),
            Self::Unmanaged { only_rule: None } => f.write_str("no rule of the policy matches"),
            Self::Ignored { entry } => {
                write!(f, "entry {entry} of the policy's ignore list matches the instance")
            }
            Self::FillsGapsOnly { attached } => {
                write!(f, "{attached} is attached, and the rule keeps what is there (when-different: keep)")
            }
            Self::CorrectsOnly => {
                f.write_str("nothing is attached, and the rule leaves that so (when-absent: leave)")
            }
            Self::TagsDoubtful => f.write_str(
                "the rule would take the profile away, but two reads of the tags disagree or show none",
            ),
            Self::SwapIsOver { attached } => {
                write!(f, "{attached} is attached, so no swap is unfinished")
            }
            Self::Invalid(why) => why.fmt(f),
            Self::NotAllowed(wanted) => {
                write!(f, "no pattern of ALLOWED_PROFILES allows the instance profile {wanted}")
            }
            Self::Gone(state) => write!(f, "the instance is {state}"),
            Self::NeverSeen => f.write_str("EC2 does not know the instance"),
            Self::ManagedByService(Some(service)) => {
                write!(f, "the instance is managed by {service}")
            }
            Self::ManagedByService(None) => {
                f.write_str("the instance is managed by an AWS service")
            }
            Self::Unusable { profile, why } => write!(f, "{profile} is of no use: {why}"),
        }
    }
}

impl fmt::Display for Wait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::State(state) => {
                write!(f, "the instance is {state}; the event of its next state brings it back")
            }
            Self::ProfileUnknown(wanted) => {
                write!(
                    f,
                    "IAM knows no instance profile {wanted}; it may have been made seconds ago"
                )
            }
            Self::InstanceUnseen => {
                f.write_str("EC2 does not know the instance; it may have been launched seconds ago")
            }
            Self::UntilRunning { attached, required, why } => {
                write!(
                    f,
                    "the instance is stopped and has {attached}; {required} is required and takes its place when the \
                     instance runs{}",
                    match why {
                        NotSwapped::Waits => "",
                        NotSwapped::NoQueue => {
                            " (it is not swapped, for want of a queue on which to write down what is detached)"
                        }
                        NotSwapped::NoWayBack => {
                            " (it is not swapped, for what is attached is outside ALLOWED_PROFILES and could not be put back)"
                        }
                    }
                )
            }
        }
    }
}
