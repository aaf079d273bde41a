//! What an instance must have, by the policy's rules; and what is left of that once IAM has shown the profile.

pub mod attached;
mod check;
pub mod file;
mod index;
mod lint;
pub mod pattern;
pub mod rule;
pub mod template;

use std::collections::BTreeSet;
use std::fmt;

use crate::allow::AllowList;
use crate::model::{AccountId, Illegal, Profile, ProfileArn, ProfileName, ProfileRef, Tags};
use crate::policy::index::Index;
use crate::policy::pattern::{AnyOf, Pattern};
use crate::policy::rule::{Manner, Match, Rule, Skipped, Subject, Target, WhenStopped};
use crate::policy::template::Template;
use crate::trust::{Trust, trust_of};

/// The rules, in the order in which they are asked, and the list that none of them can overrule.
#[derive(Debug, Clone)]
pub struct Policy {
    ignore: Vec<Match>,
    rules: Vec<Rule>,
    index: Index,
    tag_keys: BTreeSet<String>,
    tag_patterns: Vec<Pattern>,
    /// The profiles that may be attached, whatever a rule or a tag says.
    pub allowed: AllowList,
}

/// What an instance must have, by which rule, and how that is brought about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Requirement {
    /// The rule that decided; nothing, where none did.
    pub rule: Option<String>,
    /// How the rule wants it brought about.
    pub manner: Manner,
    /// What must be.
    pub demand: Demand,
}

/// What an instance must have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Demand {
    /// The policy says to leave such instances alone.
    Ignored {
        /// The entry of `ignore` that matches, counted from 1.
        entry: usize,
    },
    /// No rule matches: nothing is required, and nothing is ever taken away.
    Unmanaged {
        /// Why the only rule does not match, where there is only one.
        only_rule: Option<Skipped>,
    },
    /// No profile at all.
    Nothing {
        /// Whether a second, different read of the tags says so too.
        tags: Tagging,
    },
    /// What the rule makes of the tags cannot name a profile of this account.
    Invalid(InvalidProfile),
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

/// How well an instance's tags are known. EC2 can, rarely, leave tags out of an answer, and taking a profile away on such
/// an answer would be wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tagging {
    /// By one read.
    ReadOnce,
    /// Two different reads lead to the same rule.
    Confirmed,
    /// The reads disagree, or the instance has no tags at all.
    Doubtful,
}

/// Why what a rule makes of the tags names no profile that could be attached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InvalidProfile {
    /// Nothing came out.
    Empty {
        /// What it came from: a tag, or a rule's template.
        source: String,
    },
    /// Neither a legal name nor a legal ARN.
    Illegal {
        /// What it came from: a tag, or a rule's template.
        source: String,
        /// What was found, and what would be right.
        why: Illegal,
    },
    /// An ARN of another account than the instance's.
    OtherAccount {
        /// The ARN.
        arn: ProfileArn,
        /// The instance's account.
        account: AccountId,
    },
    /// An ARN of another partition than the instance's Region.
    OtherPartition {
        /// The ARN.
        arn: ProfileArn,
        /// The instance's partition.
        partition: &'static str,
    },
    /// IAM knows a profile of this name, but not this one.
    NotThatProfile {
        /// What is named.
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

/// How the policy came to decide about an instance.
#[derive(Debug, Clone)]
pub struct Trace<'a> {
    /// The entry of `ignore` that matches, counted from 1.
    pub ignored: Option<usize>,
    /// The rules that were passed over, and why.
    pub skipped: Vec<(&'a Rule, Skipped)>,
    /// The rule that decides, and the profile it names.
    pub matched: Option<(&'a Rule, Option<String>)>,
}

impl Policy {
    /// A policy of these rules.
    #[must_use]
    pub fn new(ignore: Vec<Match>, rules: Vec<Rule>, allowed: AllowList) -> Self {
        let of_ignore = ignore.iter().flat_map(|matching| matching.tags.keys().map(String::as_str));
        let of_rules = rules.iter().flat_map(Rule::tag_keys);
        let tag_keys = of_ignore.chain(of_rules).map(str::to_owned).collect();
        let matches = ignore.iter().chain(rules.iter().map(|rule| &rule.matching));
        let tag_patterns = matches.flat_map(|matching| &matching.tag_patterns);
        let tag_patterns = tag_patterns.map(|tag| tag.key.clone()).collect();
        let index = Index::of(&rules);
        Self { ignore, rules, index, tag_keys, tag_patterns, allowed }
    }

    /// The same policy, with what the rules do that say nothing of stopped instances.
    #[must_use]
    pub fn with_when_stopped_default(mut self, default: WhenStopped) -> Self {
        for rule in &mut self.rules {
            rule.manner.when_stopped = rule.when_stopped.unwrap_or(default);
        }
        self
    }

    /// The built-in policy: the tag of this key names the profile.
    #[must_use]
    pub fn named_by_tag(tag_key: &str, allowed: AllowList) -> Self {
        let any = AnyOf(vec![Pattern::new("*")]);
        let matching = Match { tags: [(tag_key.to_owned(), any)].into(), ..Match::default() };
        let target = Target::Profile(Template::of_tag(tag_key));
        let name = "named-by-tag".to_owned();
        let rule = Rule { name, matching, target, manner: Manner::default(), when_stopped: None };
        Self::new(Vec::new(), vec![rule], allowed)
    }

    /// What these rules require of an instance, before IAM is asked for anything.
    #[must_use]
    pub fn requirement(&self, subject: &Subject<'_>) -> Requirement {
        if let Some(entry) = self.ignored_by(subject) {
            return Requirement::without_rule(Demand::Ignored { entry });
        }
        let candidates = self.index.candidates(&subject.instance.tags);
        let decides = |place: &usize| {
            let rule = &self.rules[*place];
            // Without the words that `apply` finds for each mismatch.
            if !rule.matching.matches(subject) {
                return None;
            }
            Some((rule, rule.apply(subject).ok()?))
        };
        let Some((rule, named)) = candidates.iter().find_map(decides) else {
            let only_rule = match self.rules.as_slice() {
                [rule] => rule.apply(subject).err(),
                _ => None,
            };
            return Requirement::without_rule(Demand::Unmanaged { only_rule });
        };
        let demand = self.demand(rule, named.as_deref(), subject);
        Requirement { rule: Some(rule.name.clone()), manner: rule.manner, demand }
    }

    /// The profiles that instances may need whatever their tags say: those that rules and the allow-list name without a
    /// blank to fill in.
    #[must_use]
    pub fn literal_profiles(&self) -> BTreeSet<ProfileName> {
        let templates = self.rules.iter().filter_map(|rule| match &rule.target {
            Target::Profile(template) => Some(template),
            Target::Nothing => None,
        });
        let (mut names, mut tags_have_a_say) = (BTreeSet::new(), false);
        for template in templates {
            match template.literal() {
                None => tags_have_a_say = true,
                Some(text) => {
                    let wanted = match ProfileArn::parse(text) {
                        Ok(arn) => Some(ProfileRef::Arn(arn)),
                        Err(_) => ProfileName::parse(text).ok().map(ProfileRef::Name),
                    };
                    let wanted = wanted.filter(|wanted| self.allowed.may_allow(wanted));
                    names.extend(wanted.map(|wanted| wanted.name().clone()));
                }
            }
        }
        if tags_have_a_say {
            names.extend(self.allowed.literal_names());
        }
        names
    }

    fn demand(&self, rule: &Rule, named: Option<&str>, subject: &Subject<'_>) -> Demand {
        let Some(named) = named else {
            let untagged = subject.instance.tags.is_empty();
            let tags = if untagged { Tagging::Doubtful } else { Tagging::ReadOnce };
            return Demand::Nothing { tags };
        };
        match read_profile(named, rule, subject) {
            Err(invalid) => Demand::Invalid(invalid),
            Ok(wanted) if !self.allowed.may_allow(&wanted) => Demand::NotAllowed(wanted),
            Ok(wanted) => Demand::Named(wanted),
        }
    }

    /// What is required once IAM has answered about the profile that a requirement names: `None` where it knows none.
    #[must_use]
    pub fn settle(
        &self,
        requirement: Requirement,
        wanted: &ProfileRef,
        answer: Option<Profile>,
    ) -> Requirement {
        Requirement { demand: self.settled(wanted, answer), ..requirement }
    }

    fn settled(&self, wanted: &ProfileRef, answer: Option<Profile>) -> Demand {
        let Some(profile) = answer else {
            return Demand::Unknown(wanted.clone());
        };
        let is_the_one = match wanted {
            ProfileRef::Name(name) => profile.arn.name() == name,
            ProfileRef::Arn(arn) => &profile.arn == arn,
        };
        if !is_the_one {
            let wanted = wanted.clone();
            return Demand::Invalid(InvalidProfile::NotThatProfile { wanted, found: profile.arn });
        }
        if !self.allowed.allows(&profile.arn) {
            return Demand::NotAllowed(ProfileRef::Arn(profile.arn));
        }
        match unusable(&profile) {
            Some(why) => Demand::Unusable { profile, why },
            None => Demand::Profile(profile),
        }
    }

    /// What is left of a requirement to have nothing, once the tags were read a second time in another way.
    #[must_use]
    pub fn confirm(
        &self,
        requirement: Requirement,
        subject: &Subject<'_>,
        second_read: &Tags,
    ) -> Requirement {
        let mut instance = subject.instance.clone();
        instance.tags.clone_from(second_read);
        let again = self.requirement(&Subject { instance: &instance, ..*subject });
        let same = again.rule == requirement.rule && again.demand == requirement.demand;
        let tags = if same { Tagging::Confirmed } else { Tagging::Doubtful };
        Requirement { demand: Demand::Nothing { tags }, ..requirement }
    }

    /// Whether what is attached could be attached again: the role in the template attaches nothing outside the allow-list.
    #[must_use]
    pub fn allows_attached(&self, profile_arn: &str) -> bool {
        ProfileArn::parse(profile_arn).is_ok_and(|arn| self.allowed.allows(&arn))
    }

    /// Whether a change of this tag key can change what is required.
    #[must_use]
    pub fn reads_tag(&self, key: &str) -> bool {
        self.tag_keys.contains(key) || self.tag_patterns.iter().any(|pattern| pattern.matches(key))
    }

    /// Of an instance's tags those that the rule reads which decided; of those that it reads by a pattern of their keys, the
    /// ones that match.
    #[must_use]
    pub fn deciding_tags(&self, requirement: &Requirement, tags: &Tags) -> Tags {
        let decided = |rule: &&Rule| Some(&rule.name) == requirement.rule.as_ref();
        let Some(rule) = self.rules.iter().find(decided) else { return Tags::new() };
        let named = rule.tag_keys().filter_map(|key| tags.get_key_value(key));
        let patterns = &rule.matching.tag_patterns;
        let like_one = |(key, value): &(&String, &String)| {
            patterns.iter().any(|pattern| pattern.matches(key, value))
        };
        let found = named.chain(tags.iter().filter(like_one));
        found.map(|(key, value)| (key.clone(), value.clone())).collect()
    }

    /// How a requirement comes about, rule by rule; slower than [`Self::requirement`] and never in disagreement with it.
    #[must_use]
    pub fn trace(&self, subject: &Subject<'_>) -> Trace<'_> {
        let mut trace =
            Trace { ignored: self.ignored_by(subject), skipped: Vec::new(), matched: None };
        if trace.ignored.is_some() {
            return trace;
        }
        for rule in &self.rules {
            match rule.apply(subject) {
                Err(why) => trace.skipped.push((rule, why)),
                Ok(named) => {
                    trace.matched = Some((rule, named));
                    break;
                }
            }
        }
        trace
    }

    /// The rules, in their order.
    #[must_use]
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    fn ignored_by(&self, subject: &Subject<'_>) -> Option<usize> {
        self.ignore.iter().position(|matching| matching.matches(subject)).map(|place| place + 1)
    }
}

impl Requirement {
    fn without_rule(demand: Demand) -> Self {
        Self { rule: None, manner: Manner::default(), demand }
    }
}

/// Reads what a rule made of the tags.
fn read_profile(
    named: &str,
    rule: &Rule,
    subject: &Subject<'_>,
) -> Result<ProfileRef, InvalidProfile> {
    let source = || match &rule.target {
        Target::Profile(template) => source_of(template, rule),
        Target::Nothing => format!("the rule {}", rule.name),
    };
    if named.is_empty() {
        return Err(InvalidProfile::Empty { source: source() });
    }
    let illegal = |why| InvalidProfile::Illegal { source: source(), why };
    if !named.starts_with("arn:") {
        return ProfileName::parse(named).map(ProfileRef::Name).map_err(illegal);
    }
    let arn = ProfileArn::parse(named).map_err(illegal)?;
    if let Some(account) = subject.account.filter(|account| *account != arn.account()) {
        return Err(InvalidProfile::OtherAccount { arn, account: account.clone() });
    }
    let partition = subject.region.partition();
    if arn.partition() != partition {
        return Err(InvalidProfile::OtherPartition { arn, partition });
    }
    Ok(ProfileRef::Arn(arn))
}

fn source_of(template: &Template, rule: &Rule) -> String {
    match template.only_tag() {
        Some(key) => format!("the tag {key}"),
        None => format!("the profile that the rule {} makes of the tags", rule.name),
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

impl fmt::Display for InvalidProfile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty { source } => {
                write!(f, "{source} is empty; it must be an instance profile's name or ARN")
            }
            Self::Illegal { source, why } => write!(f, "{source} names no profile: {why}"),
            Self::OtherAccount { arn, account } => {
                write!(f, "{arn} is of another account; the instance is in {account}")
            }
            Self::OtherPartition { arn, partition } => {
                write!(f, "{arn} is of another partition; the instance is in {partition}")
            }
            Self::NotThatProfile { wanted, found } => {
                write!(f, "{wanted} is required, but the profile of that name is {found}")
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
