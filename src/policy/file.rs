//! The policy file: YAML to a policy, or to complaints that name line and column.

use std::collections::{BTreeMap, HashMap};
use std::fmt;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer};
use serde_saphyr::budget::BudgetBreach;
use serde_saphyr::{Location, Spanned};

use crate::allow::AllowList;
use crate::model::{ProfileArn, ProfileName, ProfileRef};
use crate::policy::Policy;
use crate::policy::index::Index;
use crate::policy::rule::{
    AnyOf, Effort, Manner, Match, Pattern, Rule, Target, Template, Trait, WhenAbsent, WhenDifferent,
};

/// A policy file's largest size, in bytes. A larger one is refused before it is read.
pub const MAX_BYTES: usize = 1_000_000;
/// The most keys, values, maps and lists in a policy file: about 4,000 rules of two tags each. Reading takes close to a
/// microsecond for each, so with these limits any file is answered within 100 ms.
const MAX_NODES: usize = 50_000;

/// The built-in policy as the file that would say the same.
#[must_use]
pub fn built_in(tag_key: &str) -> String {
    // JSON's strings are YAML's double-quoted ones.
    let quoted = |text: &str| serde_json::Value::from(text).to_string();
    format!(
        "# yaml-language-server: $schema=policy.schema.json\nversion: 1\nrules:\n  - name: named-by-tag\n    \
         match: {{ tags: {{ {}: \"*\" }} }}\n    profile: {}\n",
        quoted(tag_key),
        quoted(&format!("${{tag:{tag_key}}}")),
    )
}

/// A policy file's content.
#[derive(Debug, Deserialize)]
#[cfg_attr(feature = "cli", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
#[cfg_attr(feature = "cli", schemars(title = "auto-instance-profile policy"))]
pub struct File {
    /// The version of this format: 1.
    #[cfg_attr(feature = "cli", schemars(with = "u64", range(min = 1, max = 1)))]
    version: Spanned<u64>,
    /// Instances that are left alone, whatever else matches.
    #[serde(default)]
    #[cfg_attr(feature = "cli", schemars(with = "Vec<MatchFields>"))]
    ignore: Vec<Spanned<MatchFields>>,
    /// The first rule that matches decides.
    #[cfg_attr(feature = "cli", schemars(with = "Vec<RuleFields>"))]
    rules: Vec<Spanned<RuleFields>>,
}

/// A rule.
#[derive(Debug, Deserialize)]
#[cfg_attr(feature = "cli", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct RuleFields {
    /// The rule's name, unique in the file. Logs and reports say it.
    #[cfg_attr(feature = "cli", schemars(with = "String"))]
    name: Spanned<String>,
    /// The instances it is about: all that is named must match; {} is every instance.
    #[serde(rename = "match", deserialize_with = "present")]
    #[cfg_attr(feature = "cli", schemars(with = "MatchFields"))]
    matching: Spanned<MatchFields>,
    /// The profile they must have: a name or an ARN, ${tag:KEY} standing for a tag's value; or none.
    #[cfg_attr(feature = "cli", schemars(with = "String"))]
    profile: Spanned<String>,
    /// What happens to another profile: it is replaced, or kept.
    #[serde(default)]
    when_different: Different,
    /// What happens to a bare instance: the profile is associated, or the instance left bare.
    #[serde(default)]
    when_absent: Absent,
}

#[derive(Debug, Deserialize, Default, Clone, Copy)]
#[cfg_attr(feature = "cli", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
enum Different {
    #[default]
    Replace,
    Keep,
}

#[derive(Debug, Deserialize, Default, Clone, Copy)]
#[cfg_attr(feature = "cli", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
enum Absent {
    #[default]
    Associate,
    Leave,
}

/// What an instance must be like. Values are patterns: * for any run of characters, ? for one.
#[derive(Debug, Deserialize, Default)]
#[cfg_attr(feature = "cli", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct MatchFields {
    /// Tags by their exact keys.
    #[serde(default, deserialize_with = "present")]
    #[cfg_attr(feature = "cli", schemars(with = "BTreeMap<String, Values>"))]
    tags: BTreeMap<String, Spanned<Values>>,
    /// The account's id.
    #[cfg_attr(feature = "cli", schemars(with = "Option<Values>"))]
    account: Option<Spanned<Values>>,
    /// The Region.
    #[cfg_attr(feature = "cli", schemars(with = "Option<Values>"))]
    region: Option<Spanned<Values>>,
    /// The VPC's id.
    #[cfg_attr(feature = "cli", schemars(with = "Option<Values>"))]
    vpc: Option<Spanned<Values>>,
    /// The subnet's id.
    #[cfg_attr(feature = "cli", schemars(with = "Option<Values>"))]
    subnet: Option<Spanned<Values>>,
    /// The instance type.
    #[cfg_attr(feature = "cli", schemars(with = "Option<Values>"))]
    instance_type: Option<Spanned<Values>>,
    /// windows or linux.
    #[cfg_attr(feature = "cli", schemars(with = "Option<Values>"))]
    platform: Option<Spanned<Values>>,
}

/// One pattern, or several of which any may match.
#[derive(Debug, Deserialize, Clone)]
#[cfg_attr(feature = "cli", derive(schemars::JsonSchema))]
#[serde(
    untagged,
    expecting = "a value must be a text (quote numbers, true and false), or a list of texts of which any may match"
)]
enum Values {
    One(String),
    Any(Vec<String>),
}

/// A key without a value is a slip, and no empty map: an empty `match` is about every instance.
fn present<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<T, D::Error> {
    let missing = || D::Error::custom("a value is missing; write {} where nothing is asked for");
    Option::<T>::deserialize(deserializer)?.ok_or_else(missing)
}

/// The JSON Schema of the format, for editors.
#[cfg(feature = "cli")]
#[must_use]
pub fn json_schema() -> String {
    let schema = schemars::schema_for!(File);
    format!("{:#}\n", schema.as_value())
}

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

/// Reads and checks a policy file.
#[must_use]
pub fn check(yaml: &str, allowed: &AllowList) -> Checked {
    if yaml.len() > MAX_BYTES {
        let message =
            format!("the file has {} bytes; a policy has at most {MAX_BYTES}", yaml.len());
        return Checked::unusable(Complaint {
            severity: Severity::Error,
            line: 0,
            column: 0,
            message,
        });
    }
    // YAML 1.2's booleans: `y` and `no` are texts, as tags' values are.
    let options = serde_saphyr::options! {
        strict_booleans: true,
        budget: serde_saphyr::budget! { max_nodes: MAX_NODES },
    };
    match serde_saphyr::from_str_with_options::<File>(yaml, options) {
        Ok(file) => Checker::new(allowed).check(&file),
        Err(error) => {
            let (line, column) = error.location().map_or((0, 0), |at| (at.line(), at.column()));
            let message = plain_message(&error);
            Checked::unusable(Complaint { severity: Severity::Error, line, column, message })
        }
    }
}

/// The parser's complaint without the excerpt and the place, which complaints have their own way to give, and without
/// advice to programmers.
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "the parser's own enum; its other words serve as they are"
)]
fn plain_message(error: &serde_saphyr::Error) -> String {
    use serde_saphyr::Error as Yaml;
    match error.without_snippet() {
        Yaml::Eof { .. } => "the file ends where more is needed".to_owned(),
        Yaml::Budget { breach: BudgetBreach::Nodes { .. }, .. } => format!(
            "the file has too many keys and values up to here; a policy has at most {MAX_NODES}, about 4,000 rules"
        ),
        Yaml::Budget { .. } => {
            "the file has more levels, anchors or aliases than any policy needs".to_owned()
        }
        Yaml::MultipleDocuments { .. } => {
            "a second document begins here; a policy file holds one".to_owned()
        }
        Yaml::DuplicateMappingKey { key, .. } => {
            format!("the key {} stands in this map already", key.as_deref().unwrap_or_default())
        }
        other => {
            let text = other.to_string();
            let end = text.find(" at line ").or_else(|| text.find('\n')).unwrap_or(text.len());
            text[..end].to_owned()
        }
    }
}

impl Checked {
    fn unusable(complaint: Complaint) -> Self {
        Self { policy: None, complaints: vec![complaint] }
    }
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
        };
        if manner
            == (Manner { when_different: WhenDifferent::Keep, when_absent: WhenAbsent::Leave })
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
