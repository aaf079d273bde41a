//! What an instance's tags require of it, and what is left of that once IAM has shown the profile.

use std::fmt;

use crate::allow::AllowList;
use crate::model::{
    AccountId, Illegal, Profile, ProfileArn, ProfileName, ProfileRef, Region, Tags,
};
use crate::trust::{Trust, trust_of};

/// The rules: which tag names the profile, and which profiles may be attached at all.
#[derive(Debug, Clone)]
pub struct Policy {
    /// The tag key whose value names the required profile. Case-sensitive, as in EC2.
    pub tag_key: String,
    /// The profiles that may be attached, whatever a tag says.
    pub allowed: AllowList,
}

/// Where an instance is: what an ARN in its tag must agree with.
#[derive(Debug, Clone, Copy)]
pub struct Home<'a> {
    /// The instance's account, where known.
    pub account: Option<&'a AccountId>,
    /// The instance's Region.
    pub region: &'a Region,
}

/// What an instance's tags require of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Requirement {
    /// No tag: nothing is required, and nothing is ever taken away.
    Unmanaged {
        /// The tag key that is absent.
        tag_key: String,
    },
    /// The tag's value cannot name a profile of this account.
    Invalid(InvalidTag),
    /// The allow-list holds no pattern for the profile.
    NotAllowed(ProfileRef),
    /// A profile that IAM has not been asked for yet.
    Named(ProfileRef),
    /// A profile that IAM does not know: a mistake, or made seconds ago.
    Unknown(ProfileRef),
    /// A profile that would give the instance no credentials.
    Unusable {
        /// The profile.
        profile: Profile,
        /// What is wrong with it.
        why: Unusable,
    },
    /// A profile that is there, allowed and usable.
    Profile(Profile),
}

/// Why a tag's value names no profile that could be attached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InvalidTag {
    /// The tag is there without a value.
    Empty {
        /// The tag's key.
        tag_key: String,
    },
    /// Neither a legal name nor a legal ARN.
    Illegal {
        /// The tag's key.
        tag_key: String,
        /// What was found, and what would be right.
        why: Illegal,
    },
    /// An ARN of another account than the instance's.
    OtherAccount {
        /// The tag's ARN.
        arn: ProfileArn,
        /// The instance's account.
        account: AccountId,
    },
    /// An ARN of another partition than the instance's Region.
    OtherPartition {
        /// The tag's ARN.
        arn: ProfileArn,
        /// The instance's partition.
        partition: &'static str,
    },
    /// IAM knows a profile of this name, but not this one.
    NotThatProfile {
        /// What the tag names.
        wanted: ProfileRef,
        /// What IAM answered.
        found: ProfileArn,
    },
}

/// Why a profile would give an instance no credentials.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unusable {
    /// It holds no role.
    NoRole,
    /// Its role does not trust EC2.
    RoleDoesNotTrustEc2 {
        /// The role's name.
        role: String,
    },
}

impl Policy {
    /// What these tags require, before IAM is asked for anything.
    #[must_use]
    pub fn requirement(&self, tags: &Tags, home: Home<'_>) -> Requirement {
        let Some(value) = tags.get(&self.tag_key) else {
            return Requirement::Unmanaged { tag_key: self.tag_key.clone() };
        };
        match self.read_tag(value, home) {
            Err(invalid) => Requirement::Invalid(invalid),
            Ok(wanted) if !self.allowed.may_allow(&wanted) => Requirement::NotAllowed(wanted),
            Ok(wanted) => Requirement::Named(wanted),
        }
    }

    /// What is required once IAM has answered: `None` where it knows no such profile.
    #[must_use]
    pub fn settle(&self, wanted: &ProfileRef, answer: Option<Profile>) -> Requirement {
        let Some(profile) = answer else {
            return Requirement::Unknown(wanted.clone());
        };
        let is_the_one = match wanted {
            ProfileRef::Name(name) => profile.arn.name() == name,
            ProfileRef::Arn(arn) => &profile.arn == arn,
        };
        if !is_the_one {
            let wanted = wanted.clone();
            return Requirement::Invalid(InvalidTag::NotThatProfile { wanted, found: profile.arn });
        }
        if !self.allowed.allows(&profile.arn) {
            return Requirement::NotAllowed(ProfileRef::Arn(profile.arn));
        }
        match unusable(&profile) {
            Some(why) => Requirement::Unusable { profile, why },
            None => Requirement::Profile(profile),
        }
    }

    /// Whether a change of this tag key can change what is required.
    #[must_use]
    pub fn reads_tag(&self, key: &str) -> bool {
        key == self.tag_key
    }

    fn read_tag(&self, value: &str, home: Home<'_>) -> Result<ProfileRef, InvalidTag> {
        let tag_key = || self.tag_key.clone();
        if value.is_empty() {
            return Err(InvalidTag::Empty { tag_key: tag_key() });
        }
        let illegal = |why| InvalidTag::Illegal { tag_key: tag_key(), why };
        if !value.starts_with("arn:") {
            return ProfileName::parse(value).map(ProfileRef::Name).map_err(illegal);
        }
        let arn = ProfileArn::parse(value).map_err(illegal)?;
        if let Some(account) = home.account.filter(|account| *account != arn.account()) {
            return Err(InvalidTag::OtherAccount { arn, account: account.clone() });
        }
        let partition = home.region.partition();
        if arn.partition() != partition {
            return Err(InvalidTag::OtherPartition { arn, partition });
        }
        Ok(ProfileRef::Arn(arn))
    }
}

fn unusable(profile: &Profile) -> Option<Unusable> {
    let Some(role) = &profile.role else {
        return Some(Unusable::NoRole);
    };
    match trust_of(role) {
        Trust::Ec2 | Trust::Unreadable => None,
        Trust::NotEc2 => Some(Unusable::RoleDoesNotTrustEc2 { role: role.name.clone() }),
    }
}

impl fmt::Display for InvalidTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty { tag_key } => {
                write!(f, "the tag {tag_key} is empty; give it an instance profile's name or ARN")
            }
            Self::Illegal { tag_key, why } => {
                write!(f, "the tag {tag_key} names no profile: {why}")
            }
            Self::OtherAccount { arn, account } => {
                write!(f, "{arn} is of another account; the instance is in {account}")
            }
            Self::OtherPartition { arn, partition } => {
                write!(f, "{arn} is of another partition; the instance is in {partition}")
            }
            Self::NotThatProfile { wanted, found } => {
                write!(f, "the tag names {wanted}, but the profile of that name is {found}")
            }
        }
    }
}

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoRole => {
                f.write_str("it holds no role, so the instance would get no credentials")
            }
            Self::RoleDoesNotTrustEc2 { role } => write!(
                f,
                "its role {role} does not let ec2.amazonaws.com assume it, so the instance would get no credentials"
            ),
        }
    }
}
