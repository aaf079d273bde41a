//! The policy that a command goes by: a file, or the built-in one.

use std::fs;
use std::path::Path;

use auto_instance_profile::allow::AllowList;
use auto_instance_profile::policy::Policy;
use auto_instance_profile::policy::file::{Complaint, Severity, built_in, check};

use crate::Trouble;

/// The tag that names the profile where nothing else is said.
pub const DEFAULT_TAG_KEY: &str = "InstanceProfile";

/// A policy, what it is called, and where it says something else than it seems to.
pub struct Loaded {
    pub name: String,
    pub policy: Policy,
    pub warnings: Vec<String>,
}

/// A policy file's text.
pub fn read(file: &Path) -> Result<String, Trouble> {
    let name = || file.display().to_string();
    let bytes = fs::read(file).map_err(|source| Trouble::Unreadable { file: name(), source })?;
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to() + 1;
        Trouble::NoText { file: name(), at }
    })
}

/// The policy of this file, or else the built-in one with this tag.
pub fn load(
    file: Option<&Path>,
    tag_key: Option<&str>,
    allowed: &AllowList,
) -> Result<Loaded, Trouble> {
    let (name, yaml) = if let Some(file) = file {
        (file.display().to_string(), read(file)?)
    } else {
        let key = tag_key.unwrap_or(DEFAULT_TAG_KEY);
        (format!("the built-in policy (tag {key})"), built_in(key))
    };
    let checked = check(&yaml, allowed);
    let lines = |severity| {
        let of_it = checked.complaints.iter().filter(move |found| found.severity == severity);
        of_it.map(|complaint| line(&name, complaint)).collect::<Vec<_>>()
    };
    match checked.policy {
        Some(policy) => Ok(Loaded { warnings: lines(Severity::Warning), policy, name }),
        None => Err(Trouble::Policy(format!(
            "the policy cannot be used\n{}",
            lines(Severity::Error).join("\n")
        ))),
    }
}

/// A complaint behind its file's name, as compilers write it.
pub fn line(file: &str, complaint: &Complaint) -> String {
    let separator = if complaint.line == 0 { ": " } else { ":" };
    format!("{file}{separator}{complaint}")
}
