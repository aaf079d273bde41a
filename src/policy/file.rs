//! The policy file: YAML to a policy, or to complaints that name line and column.

use std::collections::BTreeMap;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer};
use serde_saphyr::Spanned;
use serde_saphyr::budget::BudgetBreach;

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
    #[cfg_attr(feature = "cli", schemars(with = "u64", range(min = 1, max = 1)))]
    pub(super) version: Spanned<u64>,
    /// Instances that are left alone, whatever else matches.
    #[serde(default)]
    #[cfg_attr(feature = "cli", schemars(with = "Vec<MatchFields>"))]
    pub(super) ignore: Vec<Spanned<MatchFields>>,
    /// The first rule that matches decides.
    #[cfg_attr(feature = "cli", schemars(with = "Vec<RuleFields>"))]
    pub(super) rules: Vec<Spanned<RuleFields>>,
}

/// A rule.
#[derive(Debug, Deserialize)]
#[cfg_attr(feature = "cli", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct RuleFields {
    /// The rule's name, unique in the file. Logs and reports say it.
    #[cfg_attr(feature = "cli", schemars(with = "String"))]
    pub(super) name: Spanned<String>,
    /// The instances it is about: all that is named must match; {} is every instance.
    #[serde(rename = "match", deserialize_with = "present")]
    #[cfg_attr(feature = "cli", schemars(with = "MatchFields"))]
    pub(super) matching: Spanned<MatchFields>,
    /// The profile they must have: a name or an ARN, ${tag:KEY} standing for a tag's value; or none.
    #[cfg_attr(feature = "cli", schemars(with = "String"))]
    pub(super) profile: Spanned<String>,
    /// What happens to another profile: it is replaced, or kept.
    #[serde(default)]
    pub(super) when_different: Different,
    /// What happens to a bare instance: the profile is associated, or the instance left bare.
    #[serde(default)]
    pub(super) when_absent: Absent,
}

#[derive(Debug, Deserialize, Default, Clone, Copy)]
#[cfg_attr(feature = "cli", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub(super) enum Different {
    #[default]
    Replace,
    Keep,
}

#[derive(Debug, Deserialize, Default, Clone, Copy)]
#[cfg_attr(feature = "cli", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub(super) enum Absent {
    #[default]
    Associate,
    Leave,
}

/// What an instance must be like. Values are patterns: * for any run of characters, ? for one.
#[derive(Debug, Deserialize, Default)]
#[cfg_attr(feature = "cli", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct MatchFields {
    /// Tags by their exact keys.
    #[serde(default, deserialize_with = "present")]
    #[cfg_attr(feature = "cli", schemars(with = "BTreeMap<String, Values>"))]
    pub(super) tags: BTreeMap<String, Spanned<Values>>,
    /// The account's id.
    #[cfg_attr(feature = "cli", schemars(with = "Option<Values>"))]
    pub(super) account: Option<Spanned<Values>>,
    /// The Region.
    #[cfg_attr(feature = "cli", schemars(with = "Option<Values>"))]
    pub(super) region: Option<Spanned<Values>>,
    /// The VPC's id.
    #[cfg_attr(feature = "cli", schemars(with = "Option<Values>"))]
    pub(super) vpc: Option<Spanned<Values>>,
    /// The subnet's id.
    #[cfg_attr(feature = "cli", schemars(with = "Option<Values>"))]
    pub(super) subnet: Option<Spanned<Values>>,
    /// The instance type.
    #[cfg_attr(feature = "cli", schemars(with = "Option<Values>"))]
    pub(super) instance_type: Option<Spanned<Values>>,
    /// windows or linux.
    #[cfg_attr(feature = "cli", schemars(with = "Option<Values>"))]
    pub(super) platform: Option<Spanned<Values>>,
}

/// One pattern, or several of which any may match.
#[derive(Debug, Deserialize, Clone)]
#[cfg_attr(feature = "cli", derive(schemars::JsonSchema))]
#[serde(
    untagged,
    expecting = "a value must be a text (quote numbers, true and false), or a list of texts of which any may match"
)]
pub(super) enum Values {
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
        Ok(file) => check_content(&file, allowed),
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
