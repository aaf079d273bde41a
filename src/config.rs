//! The environment, read once. A value that cannot be used stops the start and says what would be right.

use crate::allow::{AllowList, IllegalPattern};
use crate::model::{Illegal, Region};
use crate::policy::Policy;

/// The settings.
#[derive(Debug, Clone)]
pub struct Config {
    /// Which tag names the profile, and which profiles may be attached.
    pub policy: Policy,
    /// Whether decisions are carried out.
    pub mode: Mode,
    /// The function's own Region, which Lambda always sets.
    pub region: Option<Region>,
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
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
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
    /// `MODE` is no mode.
    #[error("MODE is {0:?}; it takes enforce or dry-run")]
    Mode(String),
    /// `AWS_REGION` is no Region.
    #[error("AWS_REGION: {0}")]
    Region(Illegal),
}

impl Config {
    /// Reads the settings through `lookup`, which answers for one variable.
    ///
    /// # Errors
    /// [`ConfigError`], naming the variable and what it takes.
    pub fn read(lookup: impl Fn(&str) -> Option<String>) -> Result<Self, ConfigError> {
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
        Ok(Self { policy: Policy { tag_key, allowed }, mode, region })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(settings: &[(&str, &str)]) -> Result<Config, ConfigError> {
        Config::read(|name| {
            settings.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn defaults_need_only_an_allow_list() {
        let config = read(&[("ALLOWED_PROFILES", "web")]).unwrap();
        assert_eq!(config.policy.tag_key, "InstanceProfile");
        assert_eq!(config.mode, Mode::Enforce);
        assert_eq!(config.region, None);
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
                vec![("ALLOWED_PROFILES", "web"), ("AWS_REGION", "Mars!")],
                ["AWS_REGION", "eu-west-1"],
            ),
        ] {
            let message = read(&settings).unwrap_err().to_string();
            assert!(parts.iter().all(|part| message.contains(part)), "{message}");
        }
    }
}
