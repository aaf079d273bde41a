//! What is wrong, or doubtful, in what a policy file says.

use std::collections::HashMap;
use std::fmt;

use serde_saphyr::{Location, Spanned};

use crate::allow::AllowList;
use crate::model::{ProfileArn, ProfileName, ProfileRef};
use crate::policy::Policy;
use crate::policy::attached::{Attached, NONE};
use crate::policy::file::{
    Absent, Different, Entry, File, MatchFields, RuleFields, Stopped, Values,
};
use crate::policy::lint::doubts;
use crate::policy::pattern::{AnyOf, Pattern};
use crate::policy::rule::{
    Manner, Match, Rule, TagPattern, Target, Trait, WhenAbsent, WhenDifferent, WhenStopped,
};
use crate::policy::template::Template;

/// How much a complaint matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// The policy cannot be used.
    Error,
    /// The policy says something else than it seems to.
    Warning,
}

/// A complaint about a policy file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Complaint {
    /// How much it matters.
    pub severity: Severity,
    /// The line, counted from 1; 0 where the complaint is about the file as a whole.
    pub line: u64,
    /// The column, counted from 1.
    pub column: u64,
    /// What is wrong, and what would be right.
    pub message: String,
}

/// A policy file that was read.
#[derive(Debug)]
pub struct Checked {
    /// The policy; nothing, where a complaint is an error.
    pub policy: Option<Policy>,
    /// Everything there is to say about the file, in its order.
    pub complaints: Vec<Complaint>,
}

impl Checked {
    pub(super) fn unusable(complaint: Complaint) -> Self {
        Self { policy: None, complaints: vec![complaint] }
    }
}

/// Checks what a policy file says, and makes the policy of it where nothing keeps it from being one.
pub(super) fn check_content(file: &File, allowed: &AllowList) -> Checked {
    Checker::new(allowed).check(file)
}

struct Checker<'a> {
    allowed: &'a AllowList,
    complaints: Vec<Complaint>,
}

impl<'a> Checker<'a> {
    fn new(allowed: &'a AllowList) -> Self {
        Self { allowed, complaints: Vec::new() }
    }

    fn check(mut self, file: &File) -> Checked {
        if file.version.value != 1 {
            let message =
                format!("version {} is unknown; this program reads version 1", file.version.value);
            self.error(file.version.referenced, message);
        }
        let ignore: Vec<Match> = file.ignore.iter().map(|entry| self.ignored(&entry.0)).collect();
        let mut rules: Vec<Rule> = Vec::with_capacity(file.rules.len());
        let mut places: Vec<Location> = Vec::with_capacity(file.rules.len());
        let mut lines: HashMap<&str, u64> = HashMap::new();
        for Entry(fields) in &file.rules {
            let name = &fields.value.name;
            if let Some(line) = lines.insert(&name.value, name.referenced.line()) {
                self.error(
                    name.referenced,
                    format!("the rule name {:?} stands in line {line} already", name.value),
                );
            }
            if let Some(rule) = self.rule(&fields.value) {
                rules.push(rule);
                places.push(name.referenced);
            }
        }
        if file.rules.is_empty() {
            self.warn(
                file.version.referenced,
                "there are no rules, so no instance is managed".to_owned(),
            );
        }
        let usable =
            self.complaints.iter().all(|complaint| complaint.severity == Severity::Warning);
        // What a rule seems to do can be told only where it is one.
        for (number, doubt) in if usable { doubts(&ignore, &rules) } else { Vec::new() } {
            self.warn(places[number], doubt);
        }
        self.complaints.sort_by_key(|complaint| (complaint.line, complaint.column));
        let policy = usable.then(|| Policy::new(ignore, rules, self.allowed.clone()));
        Checked { policy, complaints: self.complaints }
    }

    fn ignored(&mut self, entry: &Spanned<MatchFields>) -> Match {
        let matching = self.matching(&entry.value);
        if matching.is_about_everything() {
            self.error(
                entry.referenced,
                "this entry ignores every instance; name what it is about".to_owned(),
            );
        }
        matching
    }

    fn rule(&mut self, fields: &RuleFields) -> Option<Rule> {
        let name = &fields.name;
        let is_blank = name.value.trim().is_empty();
        if is_blank || name.value.chars().count() > 64 || name.value.contains(char::is_control) {
            self.error(name.referenced, "a rule's name has 1 to 64 characters".to_owned());
        }
        let matching = self.matching(&fields.matching.value);
        let target = self.target(&fields.profile, &matching, &name.value)?;
        let says_how = fields.when_different.is_some()
            || fields.when_absent.is_some()
            || fields.when_stopped.is_some();
        if target == Target::Nothing && says_how {
            let message =
                "when-different, when-absent and when-stopped cannot stand beside profile: none";
            self.error(name.referenced, message.to_owned());
        }
        if target == Target::Nothing && matching.is_about_every_profile() {
            let message =
                "this rule takes the profile away from every instance; name what it is about";
            self.error(name.referenced, message.to_owned());
        }
        let when_stopped = fields.when_stopped.map(|stopped| match stopped {
            Stopped::Wait => WhenStopped::Wait,
            Stopped::Swap => WhenStopped::Swap,
        });
        let manner = manner(fields, when_stopped.unwrap_or_default());
        Some(Rule { name: name.value.clone(), matching, target, manner, when_stopped })
    }

    fn target(
        &mut self,
        profile: &Spanned<String>,
        matching: &Match,
        rule: &str,
    ) -> Option<Target> {
        if profile.value == NONE {
            return Some(Target::Nothing);
        }
        if looks_like_none(&profile.value) {
            let message = format!(
                "{:?} is no profile's name here; to take the profile away write none, in small letters (a profile of \
                 that name is written by its ARN)",
                profile.value
            );
            self.error(profile.referenced, message);
            return None;
        }
        let template = match Template::parse(&profile.value) {
            Ok(template) => template,
            Err(bad) => {
                self.error(profile.referenced, bad.to_string());
                return None;
            }
        };
        for key in template.tag_keys().filter(|key| !matching.tags.contains_key(*key)) {
            let hint = if is_pattern(key) { " (a key in a profile is no pattern)" } else { "" };
            let message = format!(
                "the rule {rule:?} makes its profile of the tag {key:?}, which its match does not demand: an \
                 instance without it skips the rule{hint}"
            );
            self.warn(profile.referenced, message);
        }
        if let Some(literal) = template.literal() {
            self.check_literal(profile.referenced, literal);
        }
        Some(Target::Profile(template))
    }

    fn check_literal(&mut self, at: Location, literal: &str) {
        let wanted = if literal.starts_with("arn:") {
            ProfileArn::parse(literal).map(ProfileRef::Arn)
        } else {
            ProfileName::parse(literal).map(ProfileRef::Name)
        };
        match wanted {
            Err(illegal) => self.error(at, illegal.to_string()),
            Ok(wanted) if !self.allowed.may_allow(&wanted) => {
                self.warn(
                    at,
                    format!(
                        "no pattern of ALLOWED_PROFILES allows {wanted}, so it is never attached"
                    ),
                );
            }
            Ok(_) => {}
        }
    }

    fn matching(&mut self, fields: &MatchFields) -> Match {
        let mut matching = Match::default();
        for (key, Entry(values)) in &fields.tags {
            if key.is_empty() || key.chars().count() > 128 {
                self.error(
                    values.referenced,
                    format!("{key:?} is no tag key: one has 1 to 128 characters"),
                );
            }
            let possible = |text: &str| text.chars().filter(|letter| *letter != '*').count() <= 256;
            let otherwise = "a tag's value has at most 256 characters";
            let Some(any_of) = self.any_of(values, possible, otherwise) else { continue };
            if is_pattern(key) {
                let key = Pattern::new(key);
                matching.tag_patterns.push(TagPattern { key, values: any_of });
            } else {
                matching.tags.insert(key.clone(), any_of);
            }
        }
        for (which, values) in [
            (Trait::Account, &fields.account),
            (Trait::Region, &fields.region),
            (Trait::Vpc, &fields.vpc),
            (Trait::Subnet, &fields.subnet),
            (Trait::InstanceType, &fields.instance_type),
            (Trait::Platform, &fields.platform),
        ] {
            let Some(values) = values else { continue };
            let (possible, otherwise) = possible_value(which);
            if let Some(any_of) = self.any_of(values, possible, otherwise) {
                matching.traits.insert(which, any_of);
            }
        }
        matching.attached = fields.attached.as_ref().and_then(|values| self.attached(values));
        matching
    }

    fn attached(&mut self, values: &Spanned<Values>) -> Option<Attached> {
        let possible = |text: &str| !looks_like_none(text) && Attached::is_possible(text);
        let otherwise = "what is attached is none (in small letters), or a profile's name, or its path and name \
                         without the leading slash";
        let texts = self.texts(values, possible, otherwise)?;
        Some(Attached::of(texts))
    }

    fn any_of(
        &mut self,
        values: &Spanned<Values>,
        possible: fn(&str) -> bool,
        otherwise: &str,
    ) -> Option<AnyOf> {
        let texts = self.texts(values, possible, otherwise)?;
        Some(AnyOf(texts.into_iter().map(Pattern::new).collect()))
    }

    /// The texts of a list, or the one. A pattern that no value can match is a mistake, and an error.
    fn texts<'v>(
        &mut self,
        values: &'v Spanned<Values>,
        possible: fn(&str) -> bool,
        otherwise: &str,
    ) -> Option<Vec<&'v str>> {
        let written: Vec<&Spanned<Values>> = match &values.value {
            Values::Any(list) => list.iter().map(|Entry(value)| value).collect(),
            Values::One(_) | Values::NoText => vec![values],
        };
        if written.is_empty() {
            self.error(
                values.referenced,
                "an empty list matches nothing; name at least one value".to_owned(),
            );
            return None;
        }
        let mut texts = Vec::with_capacity(written.len());
        for value in written {
            match &value.value {
                Values::One(text) if possible(text) => texts.push(text.as_str()),
                Values::One(text) => {
                    self.error(value.referenced, format!("{text:?} can never match: {otherwise}"));
                }
                Values::Any(_) | Values::NoText => {
                    let message = "a value must be a text (quote numbers, true and false), or a list of texts of \
                                   which any may match";
                    self.error(value.referenced, message.to_owned());
                }
            }
        }
        Some(texts)
    }

    fn error(&mut self, at: Location, message: String) {
        self.complain(Severity::Error, at, message);
    }

    fn warn(&mut self, at: Location, message: String) {
        self.complain(Severity::Warning, at, message);
    }

    fn complain(&mut self, severity: Severity, at: Location, message: String) {
        self.complaints.push(Complaint { severity, line: at.line(), column: at.column(), message });
    }
}

fn manner(fields: &RuleFields, when_stopped: WhenStopped) -> Manner {
    Manner {
        when_different: match fields.when_different {
            Some(Different::Replace) | None => WhenDifferent::Replace,
            Some(Different::Keep) => WhenDifferent::Keep,
        },
        when_absent: match fields.when_absent {
            Some(Absent::Associate) | None => WhenAbsent::Associate,
            Some(Absent::Leave) => WhenAbsent::Leave,
        },
        when_stopped,
    }
}

/// Whether it is what programs write for nothing, or `none` in other letters. A template engine's empty variable must not
/// become a profile's name.
fn looks_like_none(text: &str) -> bool {
    let word = text.trim().to_ascii_lowercase();
    text != NONE && ["none", "null", "nil", "undefined", "~"].contains(&word.as_str())
}

fn is_pattern(text: &str) -> bool {
    text.contains(['*', '?'])
}

/// Whether a pattern could match any value of this kind, and what the values look like.
fn possible_value(which: Trait) -> (fn(&str) -> bool, &'static str) {
    fn name(byte: u8) -> bool {
        byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-'
    }
    match which {
        Trait::Account => (
            |text| {
                let digits = text.bytes().filter(|byte| *byte != b'*').count();
                let whole = digits == 12 || (digits < 12 && text.contains('*'));
                whole && could_be("", |byte| byte.is_ascii_digit(), text)
            },
            "an account has 12 digits (quote it)",
        ),
        Trait::Region => (
            |text| text.contains(['-', '*', '?']) && could_be("", name, text),
            "a Region looks like eu-west-1",
        ),
        Trait::Vpc => {
            (|text| could_be("vpc-", name, text), "a VPC's id looks like vpc-0123456789abcdef0")
        }
        Trait::Subnet => (
            |text| could_be("subnet-", name, text),
            "a subnet's id looks like subnet-0123456789abcdef0",
        ),
        Trait::InstanceType => (
            |text| {
                let legal = |byte| name(byte) || byte == b'.';
                text.contains(['.', '*', '?']) && could_be("", legal, text)
            },
            "an instance type looks like t3.micro",
        ),
        Trait::Platform => (
            |text| {
                let pattern = Pattern::new(text);
                ["linux", "windows"].iter().any(|platform| pattern.matches(platform))
            },
            "the platform is linux or windows",
        ),
    }
}

/// Whether a pattern could match a value that begins so and goes on with at least one legal byte.
fn could_be(beginning: &str, legal: fn(u8) -> bool, pattern: &str) -> bool {
    // How much of the beginning may be behind us: a set, since a star leaves that open. One more than its length stands for
    // what goes on.
    let beginning = beginning.as_bytes();
    let end = beginning.len() + 1;
    let mut reached = [false; 16];
    reached[0] = true;
    for byte in pattern.bytes() {
        let mut next = [false; 16];
        for place in (0..=end).filter(|place| reached[*place]) {
            let fits = beginning.get(place).map_or(legal(byte), |expected| *expected == byte);
            match byte {
                b'*' => next[place..=end].fill(true),
                b'?' => next[(place + 1).min(end)] = true,
                _ if fits => next[(place + 1).min(end)] = true,
                _ => {}
            }
        }
        reached = next;
    }
    reached[end]
}

impl fmt::Display for Complaint {
    /// `line:column: error: message`; whoever knows the file's name puts it before.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let severity = match self.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        if self.line > 0 {
            write!(f, "{}:{}: ", self.line, self.column)?;
        }
        write!(f, "{severity}: {}", self.message)
    }
}
