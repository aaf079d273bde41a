//! What is wrong, or doubtful, in what a policy file says.

use std::collections::HashMap;
use std::fmt;

use serde_saphyr::{Location, Spanned};

use crate::allow::AllowList;
use crate::model::{ProfileArn, ProfileName, ProfileRef};
use crate::policy::Policy;
use crate::policy::file::{Absent, Different, File, MatchFields, RuleFields, Values};
use crate::policy::index::Index;
use crate::policy::pattern::{AnyOf, Effort, Pattern};
use crate::policy::rule::{Manner, Match, Rule, Target, Trait, WhenAbsent, WhenDifferent};
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
        let ignore: Vec<Match> = file.ignore.iter().map(|entry| self.ignored(entry)).collect();
        let mut rules: Vec<Rule> = Vec::with_capacity(file.rules.len());
        let mut places: Vec<Location> = Vec::with_capacity(file.rules.len());
        let mut lines: HashMap<String, u64> = HashMap::new();
        for fields in &file.rules {
            let name = &fields.value.name;
            if let Some(line) = lines.insert(name.value.clone(), name.referenced.line()) {
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
        self.look_for_unreachable(&rules, &places);
        if file.rules.is_empty() {
            self.warn(
                file.version.referenced,
                "there are no rules, so no instance is managed".to_owned(),
            );
        }
        self.complaints.sort_by_key(|complaint| (complaint.line, complaint.column));
        let usable =
            self.complaints.iter().all(|complaint| complaint.severity == Severity::Warning);
        let policy = usable.then(|| Policy::new(ignore, rules, self.allowed.clone()));
        Checked { policy, complaints: self.complaints }
    }

    /// Warns of each rule that an earlier one leaves no instance for. A rule that leaves it none decides, too, about the
    /// instance with the first of its values, patterns taken as they are written: so the index finds it.
    fn look_for_unreachable(&mut self, rules: &[Rule], places: &[Location]) {
        let index = Index::of(rules);
        let mut effort = Effort::default();
        for (number, (rule, place)) in rules.iter().zip(places).enumerate() {
            let first_of = |(key, any_of): (&String, &AnyOf)| {
                Some((key.clone(), any_of.0.first()?.text().to_owned()))
            };
            let candidates =
                index.candidates(&rule.matching.tags.iter().filter_map(first_of).collect());
            effort.spend(2 * candidates.len());
            let mut earlier = candidates.into_iter().take_while(|candidate| *candidate < number);
            let shadow = earlier.find(|candidate| rules[*candidate].shadows(rule, &mut effort));
            if let Some(earlier) = shadow {
                let message = format!(
                    "the rule {:?} is never reached: {:?} before it matches every instance that it matches",
                    rule.name, rules[earlier].name
                );
                self.warn(*place, message);
            }
            if effort.is_spent() {
                let message = format!(
                    "from the rule {:?} on, it was not looked for rules that are never reached: there are too many \
                     patterns to compare",
                    rule.name
                );
                self.warn(*place, message);
                return;
            }
        }
    }

    fn ignored(&mut self, entry: &Spanned<MatchFields>) -> Match {
        let matching = self.matching(&entry.value);
        if matching.is_empty() {
            self.error(
                entry.referenced,
                "this entry ignores every instance; name what it is about".to_owned(),
            );
        }
        matching
    }

    fn rule(&mut self, fields: &RuleFields) -> Option<Rule> {
        let name = &fields.name;
        if name.value.is_empty() || name.value.len() > 64 || name.value.contains(char::is_control) {
            self.error(name.referenced, "a rule's name has 1 to 64 characters".to_owned());
        }
        let matching = self.matching(&fields.matching.value);
        let target = self.target(&fields.profile, &matching, &name.value)?;
        let manner = Manner {
            when_different: match fields.when_different {
                Different::Replace => WhenDifferent::Replace,
                Different::Keep => WhenDifferent::Keep,
            },
            when_absent: match fields.when_absent {
                Absent::Associate => WhenAbsent::Associate,
                Absent::Leave => WhenAbsent::Leave,
            },
            ..Manner::default()
        };
        if manner
            == (Manner {
                when_different: WhenDifferent::Keep,
                when_absent: WhenAbsent::Leave,
                ..Manner::default()
            })
        {
            let message = format!(
                "the rule {:?} does nothing: it keeps every profile and fills no gap",
                name.value
            );
            self.warn(name.referenced, message);
        }
        if target == Target::Nothing && manner != Manner::default() {
            let message = "when-different and when-absent cannot stand beside profile: none";
            self.error(name.referenced, message.to_owned());
        }
        if target == Target::Nothing && matching.is_empty() {
            let message =
                "this rule takes the profile away from every instance; name what it is about";
            self.error(name.referenced, message.to_owned());
        }
        Some(Rule { name: name.value.clone(), matching, target, manner })
    }

    fn target(
        &mut self,
        profile: &Spanned<String>,
        matching: &Match,
        rule: &str,
    ) -> Option<Target> {
        if profile.value == "none" {
            return Some(Target::Nothing);
        }
        let template = match Template::parse(&profile.value) {
            Ok(template) => template,
            Err(bad) => {
                self.error(profile.referenced, bad.to_string());
                return None;
            }
        };
        for key in template.tag_keys().filter(|key| !matching.tags.contains_key(*key)) {
            let message = format!(
                "the rule {rule:?} makes its profile of the tag {key:?}, which its match does not demand: an \
                 instance without it skips the rule"
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
        for (key, values) in &fields.tags {
            if key.is_empty() || key.chars().count() > 128 {
                self.error(
                    values.referenced,
                    format!("{key:?} is no tag key: one has 1 to 128 characters"),
                );
            }
            if let Some(any_of) = self.any_of(
                values,
                |text| text.chars().count() <= 256,
                "a tag's value has at most 256 characters",
            ) {
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
        matching
    }

    /// A pattern that no value can match is a mistake, and an error.
    fn any_of(
        &mut self,
        values: &Spanned<Values>,
        possible: fn(&str) -> bool,
        otherwise: &str,
    ) -> Option<AnyOf> {
        let texts = match &values.value {
            Values::One(text) => std::slice::from_ref(text),
            Values::Any(texts) => texts.as_slice(),
        };
        if texts.is_empty() {
            self.error(
                values.referenced,
                "an empty list matches nothing; name at least one value".to_owned(),
            );
            return None;
        }
        for text in texts.iter().filter(|text| !possible(text)) {
            self.error(values.referenced, format!("{text:?} can never match: {otherwise}"));
        }
        Some(AnyOf(texts.iter().map(|text| Pattern::new(text)).collect()))
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

/// Whether a pattern could match any value of this kind, and what the values look like.
fn possible_value(which: Trait) -> (fn(&str) -> bool, &'static str) {
    fn of(text: &str, legal: impl Fn(u8) -> bool) -> bool {
        !text.is_empty() && text.bytes().all(|byte| legal(byte) || byte == b'*' || byte == b'?')
    }
    fn name(byte: u8) -> bool {
        byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-'
    }
    match which {
        Trait::Account => (
            |text| {
                of(text, |byte| byte.is_ascii_digit()) && (text.len() == 12 || text.contains('*'))
            },
            "an account has 12 digits (quote it)",
        ),
        Trait::Region => (|text| of(text, name), "a Region looks like eu-west-1"),
        Trait::Vpc => (|text| of(text, name), "a VPC's id looks like vpc-0123456789abcdef0"),
        Trait::Subnet => {
            (|text| of(text, name), "a subnet's id looks like subnet-0123456789abcdef0")
        }
        Trait::InstanceType => (
            |text| of(text, |byte| name(byte) || byte == b'.'),
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
