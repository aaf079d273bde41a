//! The policy file: YAML to a policy, or to complaints that name line and column.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_saphyr::budget::BudgetBreach;
use serde_saphyr::{MergeKeyPolicy, Spanned};

use crate::allow::AllowList;
use crate::policy::check::check_content;
pub use crate::policy::check::{Checked, Complaint, Severity};

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
    #[serde(deserialize_with = "required")]
    #[cfg_attr(feature = "cli", schemars(with = "u64", range(min = 1, max = 1)))]
    pub(super) version: Spanned<u64>,
    /// Instances that are left alone, whatever else matches.
    #[serde(default, deserialize_with = "list")]
    #[cfg_attr(feature = "cli", schemars(with = "Vec<MatchFields>"))]
    pub(super) ignore: Vec<Entry<MatchFields>>,
    /// The first rule that matches decides.
    #[serde(deserialize_with = "list")]
    #[cfg_attr(feature = "cli", schemars(with = "Vec<RuleFields>"))]
    pub(super) rules: Vec<Entry<RuleFields>>,
}

/// A rule.
#[derive(Debug, Deserialize)]
#[cfg_attr(feature = "cli", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct RuleFields {
    /// The rule's name, unique in the file. Logs and reports say it.
    #[serde(deserialize_with = "required")]
    #[cfg_attr(feature = "cli", schemars(with = "String", length(min = 1, max = 64)))]
    pub(super) name: Spanned<String>,
    /// The instances it is about: all that is named must match; {} is every instance.
    #[serde(rename = "match", deserialize_with = "map")]
    #[cfg_attr(feature = "cli", schemars(with = "MatchFields"))]
    pub(super) matching: Spanned<MatchFields>,
    /// The profile they must have: a name or an ARN, ${tag:KEY} standing for a tag's value; or none.
    #[serde(deserialize_with = "profile")]
    #[cfg_attr(
        feature = "cli",
        schemars(with = "String", length(min = 1), extend("not" = {"enum": ["None", "NONE", "null", "Null", "NULL", "~"]}))
    )]
    pub(super) profile: Spanned<String>,
    /// What happens to another profile: it is replaced, or kept.
    #[serde(default, deserialize_with = "optional")]
    #[cfg_attr(feature = "cli", schemars(with = "Different"))]
    pub(super) when_different: Option<Different>,
    /// What happens to an instance without a profile: it is associated, or the instance left without one.
    #[serde(default, deserialize_with = "optional")]
    #[cfg_attr(feature = "cli", schemars(with = "Absent"))]
    pub(super) when_absent: Option<Absent>,
    /// What happens to another profile of a stopped instance: it waits for the start, or is swapped. A setting is the default.
    #[serde(default, deserialize_with = "optional")]
    #[cfg_attr(feature = "cli", schemars(with = "Stopped"))]
    pub(super) when_stopped: Option<Stopped>,
}

#[derive(Debug, Deserialize, Clone, Copy)]
#[cfg_attr(feature = "cli", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub(super) enum Different {
    Replace,
    Keep,
}

#[derive(Debug, Deserialize, Clone, Copy)]
#[cfg_attr(feature = "cli", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub(super) enum Absent {
    Associate,
    Leave,
}

#[derive(Debug, Deserialize, Clone, Copy)]
#[cfg_attr(feature = "cli", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub(super) enum Stopped {
    Wait,
    Swap,
}

/// What an instance must be like. Values are patterns: * for any run of characters, ? for one.
#[derive(Debug, Deserialize)]
#[cfg_attr(feature = "cli", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct MatchFields {
    /// Tags by their keys. A key with * or ? stands for the tags whose keys it matches, one of which must have the value.
    #[serde(default, deserialize_with = "map")]
    #[cfg_attr(
        feature = "cli",
        schemars(with = "BTreeMap<String, Values>", extend("propertyNames" = {"minLength": 1, "maxLength": 128}))
    )]
    pub(super) tags: BTreeMap<String, Entry<Values>>,
    /// The account's id.
    #[serde(default, deserialize_with = "optional")]
    #[cfg_attr(feature = "cli", schemars(with = "PropertyValues"))]
    pub(super) account: Option<Spanned<Values>>,
    /// The Region.
    #[serde(default, deserialize_with = "optional")]
    #[cfg_attr(feature = "cli", schemars(with = "PropertyValues"))]
    pub(super) region: Option<Spanned<Values>>,
    /// The VPC's id.
    #[serde(default, deserialize_with = "optional")]
    #[cfg_attr(feature = "cli", schemars(with = "PropertyValues"))]
    pub(super) vpc: Option<Spanned<Values>>,
    /// The subnet's id.
    #[serde(default, deserialize_with = "optional")]
    #[cfg_attr(feature = "cli", schemars(with = "PropertyValues"))]
    pub(super) subnet: Option<Spanned<Values>>,
    /// The instance type.
    #[serde(default, deserialize_with = "optional")]
    #[cfg_attr(feature = "cli", schemars(with = "PropertyValues"))]
    pub(super) instance_type: Option<Spanned<Values>>,
    /// windows or linux.
    #[serde(default, deserialize_with = "optional")]
    #[cfg_attr(feature = "cli", schemars(with = "PropertyValues"))]
    pub(super) platform: Option<Spanned<Values>>,
    /// The profile that is attached: its name, or with a slash its path and name; none is nothing attached.
    #[serde(default, deserialize_with = "optional")]
    #[cfg_attr(feature = "cli", schemars(with = "PropertyValues"))]
    pub(super) attached: Option<Spanned<Values>>,
}

/// One pattern, or several of which any may match.
#[derive(Debug)]
#[cfg_attr(feature = "cli", derive(schemars::JsonSchema), schemars(untagged))]
pub(super) enum Values {
    One(String),
    Any(
        #[cfg_attr(feature = "cli", schemars(with = "Vec<String>", length(min = 1)))]
        Vec<Entry<Values>>,
    ),
    /// A number, a boolean or a map, which is complained of where it stands.
    #[cfg_attr(feature = "cli", schemars(skip))]
    NoText,
}

/// One pattern, or several of which any may match. An empty one matches nothing.
#[cfg(feature = "cli")]
#[derive(schemars::JsonSchema)]
#[schemars(untagged)]
#[expect(dead_code, reason = "it describes what the schema asks for, and is never made")]
enum PropertyValues {
    One(#[schemars(length(min = 1))] String),
    Any(#[schemars(length(min = 1), inner(length(min = 1)))] Vec<String>),
}

/// What stands in a list, or behind a key that the file's author made up: never nothing.
#[derive(Debug)]
pub(super) struct Entry<T>(pub(super) Spanned<T>);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Entry<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        present(deserializer, "a value is missing").map(Self)
    }
}

impl<'de> Deserialize<'de> for Values {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(OneOrMore)
    }
}

/// Reads texts only: a number or a boolean could be written in more than one way.
struct OneOrMore;

impl<'de> Visitor<'de> for OneOrMore {
    type Value = Values;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text or a list of texts")
    }

    fn visit_str<E>(self, text: &str) -> Result<Values, E> {
        Ok(Values::One(text.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Values, A::Error> {
        let mut texts = Vec::new();
        while let Some(text) = list.next_element()? {
            texts.push(text);
        }
        Ok(Values::Any(texts))
    }

    fn visit_bool<E>(self, _: bool) -> Result<Values, E> {
        Ok(Values::NoText)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Values, E> {
        Ok(Values::NoText)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Values, E> {
        Ok(Values::NoText)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Values, E> {
        Ok(Values::NoText)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Values, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Values::NoText)
    }
}

/// Anything that holds no empty value. YAML's merges (`<<`) vanish when a file is read, and a merge of nothing with them.
struct Filled;

impl<'de> Deserialize<'de> for Filled {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Self)
    }
}

impl<'de> Visitor<'de> for Filled {
    type Value = Self;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("anything")
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_str<E>(self, _: &str) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self, A::Error> {
        while list.next_element::<Entry<Self>>()?.is_some() {}
        Ok(self)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self, A::Error> {
        while map.next_entry::<IgnoredAny, Entry<Self>>()?.is_some() {}
        Ok(self)
    }
}

/// The value of a key. A key without one is a slip, such as a template engine's empty variable, and says nothing: it must
/// not be taken for a key that is not there, and so for every instance.
fn present<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
    otherwise: &str,
) -> Result<T, D::Error> {
    Option::<T>::deserialize(deserializer)?.ok_or_else(|| D::Error::custom(otherwise))
}

fn required<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
) -> Result<T, D::Error> {
    present(deserializer, "a value is missing")
}

fn optional<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
) -> Result<Option<T>, D::Error> {
    let otherwise = "a value is missing; leave the key out where nothing is asked for";
    present(deserializer, otherwise).map(Some)
}

fn map<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<T, D::Error> {
    present(deserializer, "a value is missing; write {} where nothing is asked for")
}

fn list<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<T, D::Error> {
    present(deserializer, "a value is missing; write [] for an empty list")
}

fn profile<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<T, D::Error> {
    let otherwise = "the profile is missing; name one, or write none to take the profile away";
    present(deserializer, otherwise)
}

/// The JSON Schema of the format, for editors.
#[cfg(feature = "cli")]
#[must_use]
pub fn json_schema() -> String {
    let schema = schemars::schema_for!(File);
    format!("{:#}\n", schema.as_value())
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
    match read(yaml) {
        Ok(file) => check_content(&file, allowed),
        Err(error) => {
            let (line, column) = error.location().map_or((0, 0), |at| (at.line(), at.column()));
            let message = plain_message(&error);
            Checked::unusable(Complaint { severity: Severity::Error, line, column, message })
        }
    }
}

fn read(yaml: &str) -> Result<File, serde_saphyr::Error> {
    // YAML 1.2's booleans: `y` and `no` are texts, as tags' values are.
    let options = serde_saphyr::options! {
        strict_booleans: true,
        budget: serde_saphyr::budget! { max_nodes: MAX_NODES },
    };
    let file = serde_saphyr::from_str_with_options(yaml, options.clone())?;
    if yaml.contains("<<") || yaml.contains("merge") {
        let mut as_written = options;
        as_written.merge_keys = MergeKeyPolicy::AsOrdinary;
        serde_saphyr::from_str_with_options::<Filled>(yaml, as_written)?;
    }
    Ok(file)
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
        Yaml::NullIntoString { .. } => "a key is missing".to_owned(),
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
