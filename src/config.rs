//! The environment, read once. A value that cannot be used stops the start and says what would be right.

use std::fmt;
use std::io;
use std::ops::RangeInclusive;

use crate::allow::{AllowList, IllegalPattern};
use crate::model::{AccountId, Illegal, Region};
use crate::pace::Limits;
use crate::policy::Policy;
use crate::policy::file::{Complaint, check};
use crate::policy::rule::WhenStopped;

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
        "PROFILE_TAG_KEY is {0:?}; it takes a tag's key of 1 to 128 characters, without spaces around it, that does not \
         start with aws:"
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
    /// `WHEN_STOPPED` is neither of its words.
    #[error("WHEN_STOPPED is {0:?}; it takes wait or swap")]
    WhenStopped(String),
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
        "{variable} is {found:?}; it takes the URL of a standard queue (https://HOST/ACCOUNT/NAME), such as \
         https://sqs.us-east-1.amazonaws.com/123456789012/name"
    )]
    Queue {
        /// The variable.
        variable: &'static str,
        /// What was found.
        found: String,
    },
    /// Both queues are one: what is given up would be received again, for ever.
    #[error(
        "DEAD_LETTER_QUEUE_URL is {0:?}, which is the queue of QUEUE_URL; it takes the URL of another queue, for what is \
         given up"
    )]
    SameQueue(String),
    /// An ARN is none, or one of another kind.
    #[error("{variable} is {found:?}; it takes the ARN of {expected}")]
    Arn {
        /// The variable.
        variable: &'static str,
        /// What was found.
        found: String,
        /// What it is to be the ARN of, with an example.
        expected: &'static str,
    },
    /// A Region is none.
    #[error("{variable}: {why}")]
    Region {
        /// The variable.
        variable: &'static str,
        /// What is wrong with it.
        why: Illegal,
    },
    /// `AWS_LAMBDA_FUNCTION_NAME` is no name.
    #[error(
        "AWS_LAMBDA_FUNCTION_NAME is {0:?}; it takes a function's name of 1 to 140 letters, digits and - _ . : $"
    )]
    FunctionName(String),
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
        let tag_key = read_tag_key(&lookup)?;
        let allowed = lookup("ALLOWED_PROFILES").ok_or(ConfigError::NoAllowList)?;
        let allowed = AllowList::parse(&allowed).map_err(ConfigError::AllowList)?;
        let mode = match lookup("MODE").as_deref() {
            None | Some("enforce") => Mode::Enforce,
            Some("dry-run") => Mode::DryRun,
            Some(other) => return Err(ConfigError::Mode(other.to_owned())),
        };
        let region = read_region(&lookup)?;
        let pace = read_pace(&lookup)?;
        let (queue, dead_letter_queue) = read_queues(&lookup)?;
        let event_bus = read_arn(
            &lookup,
            "EVENT_BUS",
            is_event_bus,
            "an event bus, such as arn:aws:events:us-east-1:123456789012:event-bus/name",
        )?;
        let own_role = read_arn(
            &lookup,
            "OWN_ROLE",
            is_role,
            "a role, such as arn:aws:iam::123456789012:role/name",
        )?;
        let function = read_function_name(&lookup)?;
        let (policy, warnings) = match lookup("POLICY_FILE") {
            None => (Policy::named_by_tag(&tag_key, allowed), Vec::new()),
            Some(file) => read_policy(file, &allowed, read_file)?,
        };
        let policy = policy.with_when_stopped_default(read_when_stopped(&lookup)?);
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

fn read_when_stopped(lookup: &impl Fn(&str) -> Option<String>) -> Result<WhenStopped, ConfigError> {
    let Some(word) = lookup("WHEN_STOPPED") else { return Ok(WhenStopped::default()) };
    WhenStopped::from_word(&word).ok_or(ConfigError::WhenStopped(word))
}

fn read_tag_key(lookup: &impl Fn(&str) -> Option<String>) -> Result<String, ConfigError> {
    let key = lookup("PROFILE_TAG_KEY").unwrap_or_else(|| "InstanceProfile".to_owned());
    let is_of_a_length = (1..=128).contains(&key.chars().count());
    // U+FFFD stands where the environment held no Unicode.
    let is_printable = !key.contains(|c: char| c.is_control() || c == char::REPLACEMENT_CHARACTER);
    // Nobody sees that a key has a space too much, and no instance has such a tag.
    let is_trimmed = key.trim() == key;
    let is_reserved = key.to_ascii_lowercase().starts_with("aws:");
    if is_of_a_length && is_printable && is_trimmed && !is_reserved {
        Ok(key)
    } else {
        Err(ConfigError::TagKey(key))
    }
}

fn read_region(lookup: &impl Fn(&str) -> Option<String>) -> Result<Option<Region>, ConfigError> {
    let read = |variable| {
        let region = lookup(variable).map(|name| Region::parse(&name));
        region.transpose().map_err(|why| ConfigError::Region { variable, why })
    };
    Ok(match read("AWS_REGION")? {
        Some(region) => Some(region),
        None => read("AWS_DEFAULT_REGION")?,
    })
}

/// The URLs of the function's own queue and of the dead-letter queue.
fn read_queues(
    lookup: &impl Fn(&str) -> Option<String>,
) -> Result<(Option<String>, Option<String>), ConfigError> {
    let read = |variable| match lookup(variable) {
        Some(found) if queue_of(&found).is_none() => Err(ConfigError::Queue { variable, found }),
        url => Ok(url),
    };
    let (queue, dead_letter_queue) = (read("QUEUE_URL")?, read("DEAD_LETTER_QUEUE_URL")?);
    // SQS goes by account and name, whatever host the URL names.
    match (&queue, &dead_letter_queue) {
        (Some(queue), Some(dead)) if queue_of(queue) == queue_of(dead) => {
            Err(ConfigError::SameQueue(dead.clone()))
        }
        (Some(_) | None, Some(_) | None) => Ok((queue, dead_letter_queue)),
    }
}

/// The account and the name of the standard queue that a URL stands for. A first-in-first-out queue takes neither a delay nor
/// a group as they are meant here.
fn queue_of(url: &str) -> Option<(&str, &str)> {
    let rest = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"))?;
    let (host, path) = rest.split_once('/')?;
    let is_of_a_host = |c: char| c.is_ascii_alphanumeric() || "-._:[]".contains(c);
    let is_host = host.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '[');
    // Emulators have more in front of account and name.
    let (account, name) = path.rsplit_once('/')?;
    let account = account.rsplit('/').next()?;
    let is_account = account.len() == 12 && account.bytes().all(|byte| byte.is_ascii_digit());
    let is_legal = is_host && host.chars().all(is_of_a_host) && is_account;
    (is_legal && is_name(name, "-_", 80)).then_some((account, name))
}

fn read_arn(
    lookup: &impl Fn(&str) -> Option<String>,
    variable: &'static str,
    is_one: fn(&[&str]) -> bool,
    expected: &'static str,
) -> Result<Option<String>, ConfigError> {
    match lookup(variable) {
        Some(found) if !is_one(&found.splitn(6, ':').collect::<Vec<_>>()) => {
            Err(ConfigError::Arn { variable, found, expected })
        }
        arn => Ok(arn),
    }
}

/// `arn:PARTITION:events:REGION:ACCOUNT:event-bus/NAME`
fn is_event_bus(arn: &[&str]) -> bool {
    let ["arn", partition, "events", region, account, resource] = arn else { return false };
    let name = resource.strip_prefix("event-bus/");
    is_name(partition, "-", 32)
        && Region::parse(region).is_ok()
        && AccountId::parse(account).is_ok()
        && name.is_some_and(|name| is_name(name, "/.-_", 256))
}

/// `arn:PARTITION:iam::ACCOUNT:role/PATH/NAME`
fn is_role(arn: &[&str]) -> bool {
    let ["arn", partition, "iam", "", account, resource] = arn else { return false };
    let name = resource.strip_prefix("role/");
    is_name(partition, "-", 32)
        && AccountId::parse(account).is_ok()
        && name.is_some_and(|name| is_name(name, "/+=,.@-_", 577) && !name.ends_with('/'))
}

fn read_function_name(lookup: &impl Fn(&str) -> Option<String>) -> Result<String, ConfigError> {
    match lookup("AWS_LAMBDA_FUNCTION_NAME") {
        None => Ok("unnamed".to_owned()),
        // It is every metric's dimension, of which CloudWatch takes no other.
        Some(name) if is_name(&name, "-_.:$", 140) => Ok(name),
        Some(name) => Err(ConfigError::FunctionName(name)),
    }
}

/// Letters, digits and these, so many at most.
fn is_name(text: &str, besides: &str, at_most: usize) -> bool {
    let is_legal = |c: char| c.is_ascii_alphanumeric() || besides.contains(c);
    (1..=at_most).contains(&text.len()) && text.chars().all(is_legal)
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
    fn what_only_looks_like_a_queue_a_bus_or_a_role_is_refused() {
        let bad_urls = [
            "https://",
            "https:///123456789012/events",
            "https://sqs.us-east-1.amazonaws.com",
            "https://sqs.us-east-1.amazonaws.com/",
            "https://sqs.us-east-1.amazonaws.com/events",
            "https://sqs.us-east-1.amazonaws.com/123456789012/",
            "https://sqs.us-east-1.amazonaws.com/123456789012/events/",
            "https://sqs.us-east-1.amazonaws.com/123456789012/the events",
            " https://sqs.us-east-1.amazonaws.com/123456789012/events",
            "https://sqs.us-east-1.amazonaws.com/123456789012/events\n",
            "https://sqs.us-east-1.amazonaws.com/123456789012/events.fifo",
            "https://sqs.us-east-1.amazonaws.com/123456789012/events?a=b",
            "https://user@sqs.us-east-1.amazonaws.com/123456789012/events",
            "https://sqs.us-east-1.amazonaws.com/12345/events",
            "httpsqs.us-east-1.amazonaws.com/123456789012/events",
            "ftp://sqs.us-east-1.amazonaws.com/123456789012/events",
            "arn:aws:sqs:us-east-1:123456789012:events",
        ];
        let bad_buses = [
            "arn:",
            "arn:aws:sns:us-east-1:123456789012:topic",
            "arn:aws:events:us-east-1:123456789012:rule/name",
            "arn:aws:events:us-east-1:123456789012:event-bus/",
            "arn:aws:events:us-east-1::event-bus/name",
            "arn:aws:events::123456789012:event-bus/name",
            "arn:aws:events:us-east-1:123456789012:event-bus/a name",
            "default",
            "",
        ];
        let bad_roles = [
            "arn:aws:iam::123456789012:user/name",
            "arn:aws:iam::123456789012:instance-profile/name",
            "arn:aws:iam:us-east-1:123456789012:role/name",
            "arn:aws:sts::123456789012:assumed-role/name/session",
            "arn:aws:iam::123456789012:role/",
            "arn:aws:iam::123456789012:role/path/",
            "arn:aws:iam::123456789012:role/name ",
            "name",
        ];
        let names = ["", " ", "my function", "name\n", "größe", &"x".repeat(141)];
        let keys = [" InstanceProfile", "InstanceProfile ", "\u{a0}x", " "];
        for (variables, values, takes) in [
            (
                &["QUEUE_URL", "DEAD_LETTER_QUEUE_URL"][..],
                &bad_urls[..],
                "https://HOST/ACCOUNT/NAME",
            ),
            (&["EVENT_BUS"], &bad_buses, "event-bus/name"),
            (&["OWN_ROLE"], &bad_roles, "role/name"),
            (&["AWS_LAMBDA_FUNCTION_NAME"], &names, "1 to 140"),
            (&["PROFILE_TAG_KEY"], &keys, "1 to 128"),
            (&["AWS_REGION", "AWS_DEFAULT_REGION"], &["", "us-east-1 ", "US"], "eu-west-1"),
        ] {
            for variable in variables {
                for value in values {
                    let refused = read(&[("ALLOWED_PROFILES", "web"), (variable, value)]);
                    let message = refused.map(|_| value).unwrap_err().to_string();
                    assert!(message.contains(variable) && message.contains(takes), "{message}");
                    assert!(!message.contains(char::is_control), "{message:?}");
                }
            }
        }
    }

    #[test]
    fn what_is_a_queue_a_bus_or_a_role_is_taken() {
        for url in [
            "https://sqs.us-east-1.amazonaws.com/123456789012/events",
            "https://sqs.cn-north-1.amazonaws.com.cn/123456789012/Events_1-a",
            "http://127.0.0.1:4566/000000000000/events",
            "http://[::1]:4566/000000000000/events",
            "http://localhost:4566/queue/us-east-1/000000000000/events",
        ] {
            for variable in ["QUEUE_URL", "DEAD_LETTER_QUEUE_URL"] {
                assert!(read(&[("ALLOWED_PROFILES", "web"), (variable, url)]).is_ok(), "{url}");
            }
        }
        for (variable, arn) in [
            ("EVENT_BUS", "arn:aws:events:us-east-1:123456789012:event-bus/default"),
            (
                "EVENT_BUS",
                "arn:aws-cn:events:cn-north-1:123456789012:event-bus/aws.partner/x/y-1_2",
            ),
            ("OWN_ROLE", "arn:aws:iam::123456789012:role/name"),
            ("OWN_ROLE", "arn:aws-us-gov:iam::123456789012:role/a/path/name+=,.@-_1"),
            ("PROFILE_TAG_KEY", "a key: with=spaces"),
            ("AWS_LAMBDA_FUNCTION_NAME", "auto-instance-profile_1"),
        ] {
            assert!(read(&[("ALLOWED_PROFILES", "web"), (variable, arn)]).is_ok(), "{arn}");
        }
    }

    #[test]
    fn a_queue_is_no_dead_letter_queue_of_its_own() {
        let events = "https://sqs.us-east-1.amazonaws.com/123456789012/events";
        let read = |dead| {
            let settings = [
                ("ALLOWED_PROFILES", "web"),
                ("QUEUE_URL", events),
                ("DEAD_LETTER_QUEUE_URL", dead),
            ];
            read(&settings).map(drop).map_err(|error| error.to_string())
        };
        for same in [events, "http://127.0.0.1:4566/123456789012/events"] {
            let message = read(same).unwrap_err();
            assert!(message.contains("DEAD_LETTER_QUEUE_URL"), "{message}");
            assert!(message.contains("QUEUE_URL; it takes the URL of another queue"), "{message}");
        }
        assert!(read("https://sqs.us-east-1.amazonaws.com/123456789012/dead").is_ok());
        assert!(read("https://sqs.us-east-1.amazonaws.com/111122223333/events").is_ok());
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
