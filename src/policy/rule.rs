//! One rule: what it matches, which profile it names, and why it does not match.

use std::collections::BTreeMap;
use std::fmt;

use wildmatch::WildMatch;

use crate::model::{AccountId, Instance, Region, Tags};

/// An instance as rules see it.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'a> {
    /// The account, where known.
    pub account: Option<&'a AccountId>,
    /// The Region.
    pub region: &'a Region,
    /// What EC2 shows of the instance.
    pub instance: &'a Instance,
}

/// A value with IAM's wildcards: `*` for any run of characters, `?` for exactly one.
#[derive(Debug, Clone)]
pub struct Pattern {
    text: String,
    /// Nothing, where the text has no wildcard and stands for itself.
    wild: Option<WildMatch>,
}

impl Pattern {
    /// A pattern of this text. Any text is one.
    #[must_use]
    pub fn new(text: &str) -> Self {
        let wild = text.contains(['*', '?']).then(|| WildMatch::new(text));
        Self { text: text.to_owned(), wild }
    }

    /// As it is written.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The value, where only one matches.
    #[must_use]
    pub fn literal(&self) -> Option<&str> {
        self.wild.is_none().then_some(self.text.as_str())
    }

    /// What every value that matches begins with.
    #[must_use]
    pub fn beginning(&self) -> &str {
        self.text.split(['*', '?']).next().unwrap_or_default()
    }

    /// Whether it matches.
    #[must_use]
    pub fn matches(&self, value: &str) -> bool {
        match &self.wild {
            None => self.text == value,
            Some(wild) => wild.matches(value),
        }
    }

    /// Whether it surely matches all that the other matches. Where that takes more than a look, the answer is no.
    fn covers(&self, other: &Self, effort: &mut Effort) -> bool {
        // In the worst case a wildcard is tried at each place of the other text.
        effort.spend(if self.wild.is_some() { 8 + self.text.len() * other.text.len() } else { 4 });
        match &self.wild {
            None => self.text == other.text,
            // A `?` of ours must not stand for a `*` of the other's.
            Some(_) if self.text.contains('?') && other.text.contains('*') => {
                self.text == other.text
            }
            Some(wild) => wild.matches(&other.text),
        }
    }
}

/// How much comparing of patterns is still to be done: without a limit, a file made for it would keep us busy for minutes.
#[derive(Debug)]
pub(crate) struct Effort {
    /// In comparisons of one character, a nanosecond or two each.
    left: usize,
}

impl Default for Effort {
    fn default() -> Self {
        Self { left: 10_000_000 }
    }
}

impl Effort {
    /// Notes so many steps as done.
    pub(crate) fn spend(&mut self, steps: usize) {
        self.left = self.left.saturating_sub(steps);
    }

    /// Whether nothing is left. Then comparisons answer "no".
    pub(crate) fn is_spent(&self) -> bool {
        self.left == 0
    }
}

/// Patterns one of which must match: "any of".
#[derive(Debug, Clone)]
pub struct AnyOf(pub Vec<Pattern>);

impl AnyOf {
    fn matches(&self, value: &str) -> bool {
        self.0.iter().any(|pattern| pattern.matches(value))
    }

    fn covers(&self, other: &Self, effort: &mut Effort) -> bool {
        other.0.iter().all(|theirs| {
            self.0.iter().any(|ours| !effort.is_spent() && ours.covers(theirs, effort))
        })
    }
}

impl fmt::Display for AnyOf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, pattern) in self.0.iter().enumerate() {
            write!(f, "{}{:?}", if index == 0 { "" } else { " or " }, pattern.text)?;
        }
        Ok(())
    }
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
}

/// What an instance must be like: everything named must match.
#[derive(Debug, Clone, Default)]
pub struct Match {
    /// Tag keys, exact and case-sensitive, and what their values must match.
    pub tags: BTreeMap<String, AnyOf>,
    /// The rest.
    pub traits: BTreeMap<Trait, AnyOf>,
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
    /// Another property differs.
    TraitDiffers {
        /// Which.
        which: Trait,
        /// Its value, where EC2 shows one.
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
        self.traits.iter().find_map(|(which, wanted)| {
            let found = which.of(subject);
            if found.is_some_and(|found| wanted.matches(found)) {
                return None;
            }
            let found = found.map(str::to_owned);
            Some(Mismatch::TraitDiffers { which: *which, found, wanted: wanted.to_string() })
        })
    }

    /// Whether the instance is matched; the same as no [`Self::mismatch`], without the words.
    #[must_use]
    pub fn matches(&self, subject: &Subject<'_>) -> bool {
        let tags = &subject.instance.tags;
        self.tags
            .iter()
            .all(|(key, wanted)| tags.get(key).is_some_and(|found| wanted.matches(found)))
            && self
                .traits
                .iter()
                .all(|(which, wanted)| which.of(subject).is_some_and(|found| wanted.matches(found)))
    }

    /// Whether nothing is asked for, so that every instance is matched.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.tags.is_empty() && self.traits.is_empty()
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

/// A profile's name or ARN with tags' values filled in: `${tag:App}-${tag:Environment}`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template(Vec<Piece>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Text(String),
    Tag(String),
}

/// A template that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadTemplate {
    /// A `${` without its `}`.
    #[error("${{ is not closed; a tag's value is filled in by ${{tag:KEY}}")]
    Unclosed,
    /// A `${…}` that is no tag.
    #[error("${{{0}}} is unknown; only a tag's value can be filled in, by ${{tag:KEY}}")]
    Unknown(String),
    /// Text that no name and no ARN may hold.
    #[error("{0:?} can stand in no instance profile's name or ARN (letters, digits and _+=,.@-)")]
    IllegalText(String),
    /// Nothing at all.
    #[error("the profile is empty; name one, or write none to take the profile away")]
    Empty,
}

impl Template {
    /// Takes a template apart.
    ///
    /// # Errors
    /// [`BadTemplate`]
    pub fn parse(text: &str) -> Result<Self, BadTemplate> {
        let mut pieces = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once("${") {
            let (inside, behind) = after.split_once('}').ok_or(BadTemplate::Unclosed)?;
            let key = inside.strip_prefix("tag:").filter(|key| !key.is_empty());
            let key = key.ok_or_else(|| BadTemplate::Unknown(inside.to_owned()))?;
            pieces.push(Piece::Text(before.to_owned()));
            pieces.push(Piece::Tag(key.to_owned()));
            rest = behind;
        }
        pieces.push(Piece::Text(rest.to_owned()));
        pieces.retain(|piece| *piece != Piece::Text(String::new()));
        if pieces.is_empty() {
            return Err(BadTemplate::Empty);
        }
        let template = Self(pieces);
        let is_arn = text.starts_with("arn:");
        let legal = |byte| crate::model::is_name_byte(byte) || (is_arn && b":/".contains(&byte));
        let illegal = template.0.iter().find_map(|piece| match piece {
            Piece::Text(text) if !text.bytes().all(legal) => Some(text.clone()),
            Piece::Text(_) | Piece::Tag(_) => None,
        });
        illegal.map_or(Ok(template), |text| Err(BadTemplate::IllegalText(text)))
    }

    /// The value of this tag, and nothing else.
    #[must_use]
    pub fn of_tag(key: &str) -> Self {
        Self(vec![Piece::Tag(key.to_owned())])
    }

    /// Fills in the tags' values.
    ///
    /// # Errors
    /// The key of the first tag that is absent.
    pub fn expand(&self, tags: &Tags) -> Result<String, String> {
        self.0.iter().try_fold(String::new(), |mut filled, piece| {
            match piece {
                Piece::Text(text) => filled.push_str(text),
                Piece::Tag(key) => filled.push_str(tags.get(key).ok_or_else(|| key.clone())?),
            }
            Ok(filled)
        })
    }

    /// The keys of the tags it fills in.
    pub fn tag_keys(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter_map(|piece| match piece {
            Piece::Tag(key) => Some(key.as_str()),
            Piece::Text(_) => None,
        })
    }

    /// The key of the tag whose value is the whole profile.
    #[must_use]
    pub fn only_tag(&self) -> Option<&str> {
        match self.0.as_slice() {
            [Piece::Tag(key)] => Some(key),
            _ => None,
        }
    }

    /// The profile, where no tag has a say in it.
    #[must_use]
    pub fn literal(&self) -> Option<&str> {
        match self.0.as_slice() {
            [Piece::Text(text)] => Some(text),
            _ => None,
        }
    }
}

impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|piece| match piece {
            Piece::Text(text) => f.write_str(text),
            Piece::Tag(key) => write!(f, "${{tag:{key}}}"),
        })
    }
}

/// What a rule does beside naming a profile.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Manner {
    /// What happens to another profile.
    pub when_different: WhenDifferent,
    /// What happens to a bare instance.
    pub when_absent: WhenAbsent,
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

    /// Every tag key the rule reads.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_fill_in_tags_or_say_which_is_absent() {
        let tags = Tags::from([("App".into(), "shop".into()), ("Env".into(), String::new())]);
        for (text, expected) in [
            ("web", Ok("web")),
            ("${tag:App}", Ok("shop")),
            ("${tag:App}-${tag:Env}x", Ok("shop-x")),
            ("${tag:App}-${tag:Tier}", Err("Tier")),
            (
                "arn:aws:iam::123456789012:instance-profile/app/${tag:App}",
                Ok("arn:aws:iam::123456789012:instance-profile/app/shop"),
            ),
        ] {
            let filled = Template::parse(text).unwrap().expand(&tags);
            assert_eq!(filled.as_deref().map_err(String::as_str), expected, "{text}");
        }
    }

    #[test]
    fn templates_that_could_never_name_a_profile_are_refused() {
        for (text, expected) in [
            ("", BadTemplate::Empty),
            ("${tag:App", BadTemplate::Unclosed),
            ("${env:App}", BadTemplate::Unknown("env:App".into())),
            ("${tag:}", BadTemplate::Unknown("tag:".into())),
            ("app/web", BadTemplate::IllegalText("app/web".into())),
            ("a b", BadTemplate::IllegalText("a b".into())),
            ("$web", BadTemplate::IllegalText("$web".into())),
            ("web*", BadTemplate::IllegalText("web*".into())),
        ] {
            assert_eq!(Template::parse(text), Err(expected), "{text}");
        }
    }

    #[test]
    fn a_pattern_covers_only_what_it_surely_matches() {
        for (ours, theirs, covers) in [
            ("*", "x", true),
            ("*", "a*b", true),
            ("a*", "ab*", true),
            ("a*", "*", false),
            ("a?", "ab", true),
            ("a?", "a*", false),
            ("a?*", "ab*", false),
            ("x", "x", true),
            ("x", "y", false),
            ("x*y", "x*y", true),
        ] {
            assert_eq!(
                Pattern::new(ours).covers(&Pattern::new(theirs), &mut Effort::default()),
                covers,
                "{ours} over {theirs}"
            );
        }
    }
}
