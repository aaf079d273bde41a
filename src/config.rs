//! The environment, read once. A value that cannot be used stops the start and says what would be right.

use std::fmt;
use std::io;
use std::ops::RangeInclusive;

use crate::allow::{AllowList, IllegalPattern};
use crate::model::{Illegal, Region};
use crate::pace::Limits;
use crate::policy::Policy;
use crate::policy::file::{Complaint, check};

/// The settings.
#[derive(Debug, Clone)]
pub struct Config {
    /// The rules, and the profiles that may be attached at all.
    pub policy: Policy,
    /// Where the policy file says something else than it seems to.
    pub warnings: Vec<String>,
    /// Whether decisions are carried out.
    pub mode: Mode,
    /// The function's own Region, which Lambda always sets.
    pub region: Option<Region>,
    /// How fast one execution environment may write: its share of what the stack may.
    pub pace: Limits,
    /// The URL of the queue for messages that are given up; without one they stay where they came from, and that queue's
    /// redrive policy gives them up.
    pub dead_letter_queue: Option<String>,
    /// The URL of the function's own queue, where a sweep puts what is wrong and its own continuation.
    pub queue: Option<String>,
    /// The ARN of the bus that is told of changes, blocks and sweeps.
    pub event_bus: Option<String>,
    /// The ARN of the function's own role, by which CloudTrail names its calls.
    pub own_role: Option<String>,
    /// The function's name, which Lambda always sets.
    pub function: String,
    /// The function's memory, which Lambda always sets, in MB.
    pub memory_mb: Option<u64>,
}

/// Whether decisions are carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// They are.
    Enforce,
    /// Everything is read and decided, nothing is written.
    DryRun,
}

impl Mode {
    /// The word that `MODE` takes.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Enforce => "enforce",
            Self::DryRun => "dry-run",
        }
    }
}

/// A setting that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// `PROFILE_TAG_KEY` is no legal tag key.
    #[error(
        "PROFILE_TAG_KEY is {0:?}; it takes a tag's key of 1 to 128 characters that does not start with aws:"
    )]
    TagKey(String),
    /// `ALLOWED_PROFILES` is not set.
    #[error(
        "ALLOWED_PROFILES is not set; it takes comma-separated patterns of the instance profiles that may be \
         attached (path and name without the leading slash), such as web,app/*"
    )]
    NoAllowList,
    /// `ALLOWED_PROFILES` cannot be read.
    #[error("ALLOWED_PROFILES {0}")]
    AllowList(IllegalPattern),
    /// The file that `POLICY_FILE` names cannot be read.
    #[error("POLICY_FILE is {file:?}, which cannot be read; it takes the path of a policy file")]
    PolicyUnreadable {
        /// The path.
        file: String,
        /// Why not.
        #[source]
        why: io::Error,
    },
    /// The policy cannot be used.
    #[error("the policy of POLICY_FILE cannot be used\n{}", InFile(file, complaints))]
    Policy {
        /// The path.
        file: String,
        /// What is wrong with it.
        complaints: Vec<Complaint>,
    },
    /// `MODE` is no mode.
    #[error("MODE is {0:?}; it takes enforce or dry-run")]
    Mode(String),
    /// A number is none, or out of its range.
    #[error("{variable} is {found:?}; it takes {expected}")]
    Number {
        /// The variable.
        variable: &'static str,
        /// What was found.
        found: String,
        /// What it takes.
        expected: &'static str,
    },
    /// A queue's URL is none.
    #[error(
        "{variable} is {found:?}; it takes a queue's URL, such as https://sqs.us-east-1.amazonaws.com/123456789012/name"
    )]
    Queue {
        /// The variable.
        variable: &'static str,
        /// What was found.
        found: String,
    },
    /// An ARN is none.
    #[error("{variable} is {found:?}; it takes an ARN, such as {example}")]
    Arn {
        /// The variable.
        variable: &'static str,
        /// What was found.
        found: String,
        /// What is one.
        example: &'static str,
    },
    /// `AWS_REGION` is no Region.
    #[error("AWS_REGION: {0}")]
    Region(Illegal),
}

impl Config {
    /// Reads the settings through `lookup`, which answers for one variable, and the policy through `read_file`.
    ///
    /// # Errors
    /// [`ConfigError`], naming the variable and what it takes, or the policy file's line and column.
    pub fn read(
        lookup: impl Fn(&str) -> Option<String>,
        read_file: impl Fn(&str) -> io::Result<String>,
    ) -> Result<Self, ConfigError> {
        let tag_key = lookup("PROFILE_TAG_KEY").unwrap_or_else(|| "InstanceProfile".to_owned());
        let length = tag_key.chars().count();
        // U+FFFD stands where the environment held no Unicode.
        let printable =
            !tag_key.contains(|c: char| c.is_control() || c == char::REPLACEMENT_CHARACTER);
        let reserved = tag_key.to_ascii_lowercase().starts_with("aws:");
        if !(1..=128).contains(&length) || !printable || reserved {
            return Err(ConfigError::TagKey(tag_key));
        }
        let allowed = lookup("ALLOWED_PROFILES").ok_or(ConfigError::NoAllowList)?;
        let allowed = AllowList::parse(&allowed).map_err(ConfigError::AllowList)?;
        let mode = match lookup("MODE").as_deref() {
            None | Some("enforce") => Mode::Enforce,
            Some("dry-run") => Mode::DryRun,
            Some(other) => return Err(ConfigError::Mode(other.to_owned())),
        };
        let region = lookup("AWS_REGION").or_else(|| lookup("AWS_DEFAULT_REGION"));
        let region =
            region.map(|name| Region::parse(&name)).transpose().map_err(ConfigError::Region)?;
        let pace = read_pace(&lookup)?;
        let url = |variable| match lookup(variable) {
            Some(found) if !found.starts_with("http") => {
                Err(ConfigError::Queue { variable, found })
            }
            url => Ok(url),
        };
        let arn = |variable, example| match lookup(variable) {
            Some(found) if !found.starts_with("arn:") => {
                Err(ConfigError::Arn { variable, found, example })
            }
            arn => Ok(arn),
        };
        let dead_letter_queue = url("DEAD_LETTER_QUEUE_URL")?;
        let queue = url("QUEUE_URL")?;
        let event_bus = arn("EVENT_BUS", "arn:aws:events:us-east-1:123456789012:event-bus/name")?;
        let own_role = arn("OWN_ROLE", "arn:aws:iam::123456789012:role/name")?;
        let function = lookup("AWS_LAMBDA_FUNCTION_NAME").unwrap_or_else(|| "unnamed".to_owned());
        let (policy, warnings) = match lookup("POLICY_FILE") {
            None => (Policy::named_by_tag(&tag_key, allowed), Vec::new()),
            Some(file) => read_policy(file, &allowed, read_file)?,
        };
        Ok(Self {
            policy,
            warnings,
            mode,
            region,
            pace,
            dead_letter_queue,
            queue,
            event_bus,
            own_role,
            function,
            memory_mb: lookup("AWS_LAMBDA_FUNCTION_MEMORY_SIZE").and_then(|mb| mb.parse().ok()),
        })
    }
}

/// The writes that the whole stack may make, shared among the environments that run at once.
fn read_pace(lookup: &impl Fn(&str) -> Option<String>) -> Result<Limits, ConfigError> {
    let number = |variable, default: f64, range: RangeInclusive<f64>, expected| {
        let Some(found) = lookup(variable) else { return Ok(default) };
        match found.parse() {
            Ok(number) if range.contains(&number) => Ok(number),
            Ok(_) | Err(_) => Err(ConfigError::Number { variable, found, expected }),
        }
    };
    let per_second =
        number("WRITES_PER_SECOND", 5.0, 0.01..=1000.0, "writes a second, from 0.01 to 1000")?;
    let burst = number("WRITES_BURST", 90.0, 1.0..=1000.0, "writes at once, from 1 to 1000")?;
    let environments = number(
        "MAXIMUM_CONCURRENCY",
        1.0,
        1.0..=1000.0,
        "the most execution environments that run at once, from 1 to 1000",
    )?;
    // Less than one at once would be none.
    let burst = (burst / environments).max(1.0);
    Ok(Limits { per_second: per_second / environments, burst })
}

fn read_policy(
    file: String,
    allowed: &AllowList,
    read_file: impl Fn(&str) -> io::Result<String>,
) -> Result<(Policy, Vec<String>), ConfigError> {
    let yaml = match read_file(&file) {
        Ok(yaml) => yaml,
        Err(why) => return Err(ConfigError::PolicyUnreadable { file, why }),
    };
    let checked = check(&yaml, allowed);
    match checked.policy {
        None => Err(ConfigError::Policy { file, complaints: checked.complaints }),
        Some(policy) => {
            let warnings = checked.complaints.iter().map(|complaint| format!("{file}:{complaint}"));
            Ok((policy, warnings.collect()))
        }
    }
}

/// Complaints, a line each, behind their file's name.
struct InFile<'a>(&'a str, &'a [Complaint]);

impl fmt::Display for InFile<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, complaint) in self.1.iter().enumerate() {
            let separator = if index == 0 { "" } else { "\n" };
            // The place follows the name closely, a complaint about the whole file at a distance.
            let gap = if complaint.line > 0 { "" } else { " " };
            write!(f, "{separator}{}:{gap}{complaint}", self.0)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(settings: &[(&str, &str)]) -> Result<Config, ConfigError> {
        let lookup = |name: &str| {
            settings.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
        };
        Config::read(lookup, |_| Err(io::Error::from(io::ErrorKind::NotFound)))
    }

    #[test]
    fn defaults_need_only_an_allow_list() {
        let config = read(&[("ALLOWED_PROFILES", "web")]).unwrap();
        assert!(config.policy.reads_tag("InstanceProfile"));
        assert_eq!(config.mode, Mode::Enforce);
        assert_eq!(config.region, None);
        assert_eq!(config.pace, Limits { per_second: 5.0, burst: 90.0 });
        assert_eq!(config.dead_letter_queue, None);
    }

    #[test]
    fn the_environments_that_run_at_once_share_the_writes() {
        let limits = |settings: &[(&str, &str)]| {
            let settings = [settings, &[("ALLOWED_PROFILES", "web")]].concat();
            read(&settings).unwrap().pace
        };
        assert_eq!(
            limits(&[("MAXIMUM_CONCURRENCY", "2")]),
            Limits { per_second: 2.5, burst: 45.0 }
        );
        assert_eq!(
            limits(&[
                ("MAXIMUM_CONCURRENCY", "4"),
                ("WRITES_PER_SECOND", "1"),
                ("WRITES_BURST", "1")
            ]),
            Limits { per_second: 0.25, burst: 1.0 }
        );
    }

    #[test]
    fn a_bad_value_names_its_variable_and_what_it_takes() {
        for (settings, parts) in [
            (vec![], ["ALLOWED_PROFILES is not set", "web,app/*"]),
            (vec![("ALLOWED_PROFILES", "")], ["ALLOWED_PROFILES is empty", "web,app/*"]),
            (
                vec![("ALLOWED_PROFILES", "web,,db")],
                ["ALLOWED_PROFILES has an empty pattern", "commas"],
            ),
            (
                vec![("ALLOWED_PROFILES", "/web")],
                ["ALLOWED_PROFILES has the pattern \"/web\"", "app/*"],
            ),
            (
                vec![("ALLOWED_PROFILES", "web"), ("MODE", "Enforce")],
                ["MODE is \"Enforce\"", "enforce or dry-run"],
            ),
            (
                vec![("ALLOWED_PROFILES", "web"), ("MODE", "")],
                ["MODE is \"\"", "enforce or dry-run"],
            ),
            (
                vec![("ALLOWED_PROFILES", "web"), ("PROFILE_TAG_KEY", "")],
                ["PROFILE_TAG_KEY is \"\"", "1 to 128"],
            ),
            (
                vec![("ALLOWED_PROFILES", "web"), ("PROFILE_TAG_KEY", "aws:x")],
                ["PROFILE_TAG_KEY", "aws:"],
            ),
            (
                vec![("ALLOWED_PROFILES", "web"), ("WRITES_PER_SECOND", "fast")],
                ["WRITES_PER_SECOND is \"fast\"", "from 0.01 to 1000"],
            ),
            (
                vec![("ALLOWED_PROFILES", "web"), ("WRITES_PER_SECOND", "0")],
                ["WRITES_PER_SECOND is \"0\"", "from 0.01"],
            ),
            (
                vec![("ALLOWED_PROFILES", "web"), ("WRITES_BURST", "NaN")],
                ["WRITES_BURST is \"NaN\"", "from 1 to 1000"],
            ),
            (
                vec![("ALLOWED_PROFILES", "web"), ("MAXIMUM_CONCURRENCY", "")],
                ["MAXIMUM_CONCURRENCY is \"\"", "environments"],
            ),
            (
                vec![("ALLOWED_PROFILES", "web"), ("DEAD_LETTER_QUEUE_URL", "my-queue")],
                ["DEAD_LETTER_QUEUE_URL is \"my-queue\"", "https://sqs."],
            ),
            (
                vec![("ALLOWED_PROFILES", "web"), ("QUEUE_URL", "")],
                ["QUEUE_URL is \"\"", "https://sqs."],
            ),
            (
                vec![("ALLOWED_PROFILES", "web"), ("EVENT_BUS", "default")],
                ["EVENT_BUS is \"default\"", "arn:aws:events:"],
            ),
            (
                vec![("ALLOWED_PROFILES", "web"), ("OWN_ROLE", "me")],
                ["OWN_ROLE is \"me\"", "arn:aws:iam::"],
            ),
            (
                vec![("ALLOWED_PROFILES", "web"), ("AWS_REGION", "Mars!")],
                ["AWS_REGION", "eu-west-1"],
            ),
        ] {
            let message = read(&settings).unwrap_err().to_string();
            assert!(parts.iter().all(|part| message.contains(part)), "{message}");
        }
    }
}
