//! What is attached to an instance, as rules ask for it.

use std::fmt;

use crate::model::is_name_byte;
use crate::policy::pattern::{Effort, Pattern};

/// The word for nothing attached.
pub(crate) const NONE: &str = "none";

/// What must be attached: any of these.
#[derive(Debug, Clone)]
pub struct Attached(Vec<Attachment>);

#[derive(Debug, Clone)]
enum Attachment {
    Nothing,
    Profile(Pattern),
}

impl Attached {
    /// What these texts ask for: `none` for nothing attached; else a pattern of a profile's name, or, where it has a
    /// slash, of its path and name.
    #[must_use]
    pub fn of<'a>(texts: impl IntoIterator<Item = &'a str>) -> Self {
        let attachment = |text| match text {
            NONE => Attachment::Nothing,
            text => Attachment::Profile(Pattern::new(text)),
        };
        Self(texts.into_iter().map(attachment).collect())
    }

    /// Whether a profile could match the pattern.
    #[must_use]
    pub(crate) fn is_possible(text: &str) -> bool {
        let (path, name) = text.rsplit_once('/').unwrap_or(("", text));
        let letters = |text: &str| text.bytes().filter(|byte| *byte != b'*').count();
        // IAM: a path of up to 512 characters, a name of up to 128.
        let is_short = letters(path) <= 510 && letters(name) <= 128;
        let is_legal = text.bytes().all(|byte| is_name_byte(byte) || b"/*?".contains(&byte));
        is_short && is_legal && !name.is_empty() && !text.starts_with('/')
    }

    /// Whether this is attached: a profile's ARN as EC2 writes it, or nothing.
    #[must_use]
    pub fn matches(&self, found: Option<&str>) -> bool {
        self.0.iter().any(|attachment| match (attachment, found) {
            (Attachment::Nothing, None) => true,
            (Attachment::Nothing, Some(_)) | (Attachment::Profile(_), None) => false,
            (Attachment::Profile(pattern), Some(arn)) => {
                let path_and_name = path_and_name(arn);
                let name = path_and_name.rsplit('/').next().unwrap_or_default();
                pattern.matches(if has_path(pattern) { path_and_name } else { name })
            }
        })
    }

    /// Whether it makes no difference what is attached.
    pub(crate) fn is_always(&self) -> bool {
        let nothing = self.0.iter().any(|attachment| match attachment {
            Attachment::Nothing => true,
            Attachment::Profile(_) => false,
        });
        nothing && self.is_any_profile()
    }

    /// Whether every profile matches.
    pub(crate) fn is_any_profile(&self) -> bool {
        self.0.iter().any(|attachment| match attachment {
            Attachment::Nothing => false,
            Attachment::Profile(pattern) => pattern.is_anything(),
        })
    }

    /// Whether it surely matches all that the other matches.
    pub(crate) fn covers(&self, other: &Self, effort: &mut Effort) -> bool {
        other.0.iter().all(|theirs| {
            self.0.iter().any(|ours| {
                effort.spend(50);
                match (ours, theirs) {
                    (Attachment::Nothing, Attachment::Nothing) => true,
                    (Attachment::Nothing, Attachment::Profile(_))
                    | (Attachment::Profile(_), Attachment::Nothing) => false,
                    // One is held against the name, the other against path and name: alike only where both are.
                    (Attachment::Profile(ours), Attachment::Profile(theirs)) => {
                        ours.is_anything()
                            || (has_path(ours) == has_path(theirs) && ours.covers(theirs, effort))
                    }
                }
            })
        })
    }
}

fn has_path(pattern: &Pattern) -> bool {
    pattern.text().contains('/')
}

/// Path and name of a profile, without the leading slash. A text that is no ARN is taken as it is.
pub(crate) fn path_and_name(arn: &str) -> &str {
    arn.split_once(":instance-profile/").map_or(arn, |(_, path_and_name)| path_and_name)
}

impl fmt::Display for Attached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, attachment) in self.0.iter().enumerate() {
            f.write_str(if index == 0 { "" } else { " or " })?;
            match attachment {
                Attachment::Nothing => f.write_str(NONE)?,
                Attachment::Profile(pattern) => write!(f, "{:?}", pattern.text())?,
            }
        }
        Ok(())
    }
}
