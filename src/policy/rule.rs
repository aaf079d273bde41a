//! One rule: what it matches, which profile it names, and why it does not match.

use std::collections::BTreeMap;
use std::fmt;

use crate::model::{AccountId, Instance, Platform, Region, Tags};
use crate::policy::attached::{self, Attached};
use crate::policy::pattern::{AnyOf, Effort, Pattern};
use crate::policy::template::Template;

/// An instance as rules see it.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'a> {
    /// The account, where known.
    pub account: Option<&'a AccountId>,
    /// The Region.
    pub region: &'a Region,
    /// What EC2 shows of the instance.
    pub instance: &'a Instance,
    /// The ARN of the profile that is attached, as EC2 writes it; nothing, where none is.
    pub attached: Option<&'a str>,
}

/// What an instance differs by, beside its tags.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Trait {
    /// The account it belongs to.
    Account,
    /// The Region it runs in.
    Region,
    /// Its VPC.
    Vpc,
    /// Its subnet.
    Subnet,
    /// Its type, `t3.micro`.
    InstanceType,
    /// `windows` or `linux`.
    Platform,
}

impl Trait {
    /// The key in the policy file.
    #[must_use]
    pub fn key(self) -> &'static str {
        match self {
            Self::Account => "account",
            Self::Region => "region",
            Self::Vpc => "vpc",
            Self::Subnet => "subnet",
            Self::InstanceType => "instance-type",
            Self::Platform => "platform",
        }
    }

    fn of<'a>(self, subject: &Subject<'a>) -> Option<&'a str> {
        match self {
            Self::Account => subject.account.map(AccountId::as_str),
            Self::Region => Some(subject.region.as_str()),
            Self::Vpc => subject.instance.vpc.as_deref(),
            Self::Subnet => subject.instance.subnet.as_deref(),
            Self::InstanceType => subject.instance.instance_type.as_deref(),
            Self::Platform => Some(subject.instance.platform.as_str()),
        }
    }

    /// Whether every instance has it.
    fn is_always(self, wanted: &AnyOf) -> bool {
        match self {
            Self::Account | Self::Region | Self::Vpc | Self::Subnet | Self::InstanceType => {
                wanted.is_anything()
            }
            Self::Platform => [Platform::Linux, Platform::Windows]
                .iter()
                .all(|platform| wanted.matches(platform.as_str())),
        }
    }
}

/// What an instance must be like: everything named must match.
#[derive(Debug, Clone, Default)]
pub struct Match {
    /// Tag keys, exact and case-sensitive, and what their values must match.
    pub tags: BTreeMap<String, AnyOf>,
    /// Tag keys with wildcards: a key that one matches must have a value that matches.
    pub tag_patterns: Vec<TagPattern>,
    /// What must be attached.
    pub attached: Option<Attached>,
    /// The rest.
    pub traits: BTreeMap<Trait, AnyOf>,
}

/// Tags whose keys have a part that varies, such as `kubernetes.io/cluster/*`.
#[derive(Debug, Clone)]
pub struct TagPattern {
    /// What the key must match.
    pub key: Pattern,
    /// What the value of such a tag must match.
    pub values: AnyOf,
}

impl TagPattern {
    /// Whether this tag is one of them.
    #[must_use]
    pub fn matches(&self, key: &str, value: &str) -> bool {
        self.key.matches(key) && self.values.matches(value)
    }

    fn is_met_by(&self, tags: &Tags) -> bool {
        tags.iter().any(|(key, value)| self.matches(key, value))
    }

    /// Whether an instance that the other match is about surely has such a tag.
    fn covers(&self, other: &Match, effort: &mut Effort) -> bool {
        let literal = other.tags.iter().any(|(key, theirs)| {
            effort.spend(50 + key.len());
            self.key.matches(key) && self.values.covers(theirs, effort)
        });
        literal
            || other.tag_patterns.iter().any(|theirs| {
                effort.spend(50);
                self.key.covers(&theirs.key, effort) && self.values.covers(&theirs.values, effort)
            })
    }
}

/// Why an instance is not matched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mismatch {
    /// It lacks a tag.
    TagAbsent {
        /// The tag's key.
        key: String,
    },
    /// A tag has another value.
    TagDiffers {
        /// The tag's key.
        key: String,
        /// Its value.
        found: String,
        /// What would match.
        wanted: String,
    },
    /// No tag whose key matches a pattern has the value.
    NoSuchTag {
        /// The pattern of the key.
        key: String,
        /// What the value would have to be.
        wanted: String,
    },
    /// Another property differs.
    TraitDiffers {
        /// Which.
        which: Trait,
        /// Its value, where EC2 shows one.
        found: Option<String>,
        /// What would match.
        wanted: String,
    },
    /// Something else is attached, or nothing is.
    AttachedDiffers {
        /// The path and name of the profile that is attached.
        found: Option<String>,
        /// What would match.
        wanted: String,
    },
}

impl Match {
    /// What keeps the instance from being matched, if anything does.
    #[must_use]
    pub fn mismatch(&self, subject: &Subject<'_>) -> Option<Mismatch> {
        for (key, wanted) in &self.tags {
            match subject.instance.tags.get(key) {
                None => return Some(Mismatch::TagAbsent { key: key.clone() }),
                Some(found) if !wanted.matches(found) => {
                    let (key, found, wanted) = (key.clone(), found.clone(), wanted.to_string());
                    return Some(Mismatch::TagDiffers { key, found, wanted });
                }
                Some(_) => {}
            }
        }
        let mut patterns = self.tag_patterns.iter();
        if let Some(lacking) = patterns.find(|pattern| !pattern.is_met_by(&subject.instance.tags)) {
            let key = lacking.key.text().to_owned();
            return Some(Mismatch::NoSuchTag { key, wanted: lacking.values.to_string() });
        }
        let different = self.traits.iter().find_map(|(which, wanted)| {
            let found = which.of(subject);
            if found.is_some_and(|found| wanted.matches(found)) {
                return None;
            }
            let found = found.map(str::to_owned);
            Some(Mismatch::TraitDiffers { which: *which, found, wanted: wanted.to_string() })
        });
        different.or_else(|| {
            let wanted = self.attached.as_ref().filter(|it| !it.matches(subject.attached))?;
            let found = subject.attached.map(|arn| attached::path_and_name(arn).to_owned());
            Some(Mismatch::AttachedDiffers { found, wanted: wanted.to_string() })
        })
    }

    /// Whether the instance is matched; the same as no [`Self::mismatch`], without the words.
    #[must_use]
    pub fn matches(&self, subject: &Subject<'_>) -> bool {
        let tags = &subject.instance.tags;
        let has = |(key, wanted): (&String, &AnyOf)| {
            tags.get(key).is_some_and(|found| wanted.matches(found))
        };
        let is_so = |(which, wanted): (&Trait, &AnyOf)| {
            which.of(subject).is_some_and(|found| wanted.matches(found))
        };
        self.tags.iter().all(has)
            && self.tag_patterns.iter().all(|pattern| pattern.is_met_by(tags))
            && self.traits.iter().all(is_so)
            && self.attached.as_ref().is_none_or(|wanted| wanted.matches(subject.attached))
    }

    /// Whether it is about every instance there is.
    #[must_use]
    pub fn is_about_everything(&self) -> bool {
        self.tags.is_empty()
            && self.tag_patterns.is_empty()
            && self.traits.iter().all(|(which, wanted)| which.is_always(wanted))
            && self.attached.as_ref().is_none_or(Attached::is_always)
    }

    /// Whether it is about every instance that has a profile, if only it has a tag.
    #[must_use]
    pub fn is_about_every_profile(&self) -> bool {
        let any_tag = |tag: &TagPattern| tag.key.is_anything() && tag.values.is_anything();
        self.tags.is_empty()
            && self.tag_patterns.iter().all(any_tag)
            && self.traits.iter().all(|(which, wanted)| which.is_always(wanted))
            && self.attached.as_ref().is_none_or(Attached::is_any_profile)
    }

    /// Whether it surely matches every instance that the other matches.
    pub(crate) fn covers(&self, other: &Self, effort: &mut Effort) -> bool {
        let mut covers = |ours: &AnyOf, theirs: Option<&AnyOf>| {
            // Coming here and looking it up costs about as much as comparing so many characters.
            effort.spend(50);
            theirs.is_some_and(|theirs| ours.covers(theirs, effort))
        };
        self.tags.iter().all(|(key, ours)| covers(ours, other.tags.get(key)))
            && self.traits.iter().all(|(which, ours)| covers(ours, other.traits.get(which)))
            && self.tag_patterns.iter().all(|ours| ours.covers(other, effort))
            && self.attached.as_ref().is_none_or(|ours| {
                other.attached.as_ref().is_some_and(|theirs| ours.covers(theirs, effort))
            })
    }
}

/// The profile that a rule names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// None at all: what is attached is taken away.
    Nothing,
    /// One, by name or ARN.
    Profile(Template),
}

/// What a rule does beside naming a profile.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Manner {
    /// What happens to another profile.
    pub when_different: WhenDifferent,
    /// What happens to a bare instance.
    pub when_absent: WhenAbsent,
    /// What happens to another profile while the instance is stopped.
    pub when_stopped: WhenStopped,
}

/// What happens to a profile that is not the one required.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum WhenDifferent {
    /// It is replaced.
    #[default]
    Replace,
    /// It stays: the rule only fills gaps.
    Keep,
}

/// What happens to an instance without a profile.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum WhenAbsent {
    /// The required one is associated.
    #[default]
    Associate,
    /// It stays bare: the rule only corrects.
    Leave,
}

/// What happens to another profile while its instance is stopped, when EC2 replaces nothing in one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum WhenStopped {
    /// It waits until the instance runs, where one Replace changes it and the instance is never without a profile.
    #[default]
    Wait,
    /// It is detached, and the required one attached, for instances that need it when they boot.
    Swap,
}

impl WhenStopped {
    /// Reads the word of the setting and of the policy file.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        match word {
            "wait" => Some(Self::Wait),
            "swap" => Some(Self::Swap),
            _ => None,
        }
    }
}

/// One rule.
#[derive(Debug, Clone)]
pub struct Rule {
    /// Its name, unique in the policy.
    pub name: String,
    /// The instances it is about.
    pub matching: Match,
    /// The profile they must have.
    pub target: Target,
    /// How.
    pub manner: Manner,
    /// What the rule itself says of stopped instances. Where it says nothing, `manner` holds what the settings say.
    pub when_stopped: Option<WhenStopped>,
}

/// Why a rule does not decide about an instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Skipped {
    /// It is not about such instances.
    Mismatch(Mismatch),
    /// Its profile is made of a tag that the instance lacks.
    TemplateTagAbsent {
        /// The tag's key.
        key: String,
    },
}

impl Rule {
    /// What the rule names for this instance.
    ///
    /// # Errors
    /// [`Skipped`]: the rule does not decide about it.
    pub fn apply(&self, subject: &Subject<'_>) -> Result<Option<String>, Skipped> {
        if let Some(mismatch) = self.matching.mismatch(subject) {
            return Err(Skipped::Mismatch(mismatch));
        }
        match &self.target {
            Target::Nothing => Ok(None),
            Target::Profile(template) => {
                let absent = |key| Skipped::TemplateTagAbsent { key };
                template.expand(&subject.instance.tags).map(Some).map_err(absent)
            }
        }
    }

    /// Every tag key the rule names; patterns of keys are [`Match::tag_patterns`].
    pub fn tag_keys(&self) -> impl Iterator<Item = &str> {
        let template = match &self.target {
            Target::Profile(template) => Some(template),
            Target::Nothing => None,
        };
        let filled_in = template.into_iter().flat_map(Template::tag_keys);
        self.matching.tags.keys().map(String::as_str).chain(filled_in)
    }

    /// Whether an instance that the other rule is about can never come past this one.
    pub(crate) fn shadows(&self, other: &Self, effort: &mut Effort) -> bool {
        // A template's tag that the other rule does not demand may be absent, and then this rule is skipped.
        let always_fills_in = match &self.target {
            Target::Nothing => true,
            Target::Profile(template) => template.tag_keys().all(|key| {
                self.matching.tags.contains_key(key) || other.matching.tags.contains_key(key)
            }),
        };
        always_fills_in && self.matching.covers(&other.matching, effort)
    }
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TagAbsent { key } => write!(f, "the instance has no tag {key}"),
            Self::TagDiffers { key, found, wanted } => {
                write!(f, "the tag {key} is {found:?}, not {wanted}")
            }
            Self::NoSuchTag { key, wanted } => {
                write!(f, "no tag whose key is like {key} has the value {wanted}")
            }
            Self::AttachedDiffers { found: Some(found), wanted } => {
                write!(f, "{found:?} is attached, not {wanted}")
            }
            Self::AttachedDiffers { found: None, wanted } => {
                write!(f, "nothing is attached, and {wanted} is asked for")
            }
            Self::TraitDiffers { which, found: Some(found), wanted } => {
                write!(f, "the {} is {found:?}, not {wanted}", which.key())
            }
            Self::TraitDiffers { which, found: None, wanted } => {
                write!(f, "the {} is not known, and {wanted} is asked for", which.key())
            }
        }
    }
}

impl fmt::Display for Skipped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mismatch(mismatch) => mismatch.fmt(f),
            Self::TemplateTagAbsent { key } => {
                write!(f, "the profile is made of the tag {key}, which the instance lacks")
            }
        }
    }
}
