//! The allow-list: which instance profiles may ever be attached, whatever a tag says.
//!
//! Patterns are IAM's: `*` matches any run of characters, `/` included, and `?` exactly one. They are matched against the
//! resolved profile's path and name, so code and the template's IAM conditions say the same.

use wildmatch::WildMatch;

use crate::model::{ProfileArn, ProfileName, ProfileRef, is_name_byte};

/// Which instance profiles may be attached: any that one of the patterns matches.
#[derive(Debug, Clone)]
pub struct AllowList(Vec<Pattern>);

/// A list of patterns that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IllegalPattern {
    /// Nothing there at all.
    #[error(
        "is empty; name the profiles that may be attached, such as web,app/* (or * for every profile)"
    )]
    Empty,
    /// Two commas in a row, or one at an end.
    #[error("has an empty pattern between its commas")]
    EmptyPattern,
    /// A pattern that could never match, or that IAM would read differently.
    #[error(
        "has the pattern {0:?}; a pattern is a profile's path and name without the leading slash \
         (letters, digits, _+=.@-/ and the wildcards * and ?), such as web or app/*, and no ARN"
    )]
    BadPattern(String),
}

#[derive(Debug, Clone)]
struct Pattern {
    text: String,
    whole: WildMatch,
}

impl AllowList {
    /// Reads comma-separated patterns; blanks around them do not count.
    ///
    /// # Errors
    /// [`IllegalPattern`]: an allow-list that says less or more than it seems to must not be used.
    pub fn parse(text: &str) -> Result<Self, IllegalPattern> {
        if text.trim().is_empty() {
            return Err(IllegalPattern::Empty);
        }
        text.split(',').map(str::trim).map(Pattern::parse).collect::<Result<_, _>>().map(Self)
    }

    /// Whether this very profile may be attached.
    #[must_use]
    pub fn allows(&self, profile: &ProfileArn) -> bool {
        self.0.iter().any(|pattern| pattern.whole.matches(profile.path_and_name()))
    }

    /// Whether IAM's answer could still show a profile that may be attached. A name alone may turn out to sit at any path;
    /// an ARN says it all.
    #[must_use]
    pub fn may_allow(&self, wanted: &ProfileRef) -> bool {
        match wanted {
            ProfileRef::Arn(arn) => self.allows(arn),
            ProfileRef::Name(name) => {
                self.0.iter().any(|pattern| pattern.matches_at_some_path(name))
            }
        }
    }

    /// Whether the profile would be allowed where it is named: at its ARN, or for a name alone at the root path. The
    /// function's role can read such a profile, so a refusal there is a missing right and no verdict on the profile.
    #[must_use]
    pub fn allows_as_named(&self, wanted: &ProfileRef) -> bool {
        match wanted {
            ProfileRef::Arn(arn) => self.allows(arn),
            ProfileRef::Name(name) => {
                self.0.iter().any(|pattern| pattern.whole.matches(name.as_str()))
            }
        }
    }

    /// The names of the profiles that are allowed by name and not by a wildcard.
    pub fn literal_names(&self) -> impl Iterator<Item = ProfileName> + '_ {
        let literals = self.0.iter().filter(|pattern| !pattern.text.contains(['*', '?']));
        literals.filter_map(|pattern| {
            ProfileName::parse(pattern.text.rsplit('/').next().unwrap_or_default()).ok()
        })
    }
}

impl Pattern {
    fn parse(text: &str) -> Result<Self, IllegalPattern> {
        if text.is_empty() {
            return Err(IllegalPattern::EmptyPattern);
        }
        // Anything else could not stand in a path and name, or (as `${`) means something of its own to IAM.
        let legal = text.bytes().all(|b| is_name_byte(b) || b"/*?".contains(&b));
        if !legal || text.starts_with('/') || text.ends_with('/') {
            return Err(IllegalPattern::BadPattern(text.to_owned()));
        }
        Ok(Self { text: text.to_owned(), whole: WildMatch::new(text) })
    }

    /// Whether the pattern matches `path + name` for any path: "" or something that ends with a slash. The pattern is cut
    /// in two at every place (in the middle of a `*` too); the left part must be able to end a path.
    fn matches_at_some_path(&self, name: &ProfileName) -> bool {
        (0..self.text.len()).any(|cut| {
            let (left, right) = self.text.split_at(cut);
            let left_can_be_a_path =
                left.is_empty() || left.ends_with(['/', '*', '?']) || right.starts_with('*');
            left_can_be_a_path && WildMatch::new(right).matches(name.as_str())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(text: &str) -> AllowList {
        AllowList::parse(text).unwrap()
    }

    fn at(path_and_name: &str) -> ProfileArn {
        ProfileArn::parse(&format!("arn:aws:iam::123456789012:instance-profile/{path_and_name}"))
            .unwrap()
    }

    fn named(name: &str) -> ProfileRef {
        ProfileRef::Name(ProfileName::parse(name).unwrap())
    }

    #[test]
    fn patterns_match_path_and_name_as_iam_does() {
        for (patterns, profile, allowed) in [
            ("web", "web", true),
            ("web", "web-prod", false),
            ("web", "app/web", false),
            ("app/*", "app/web", true),
            ("app/*", "app/team/web", true),
            ("app/*", "application/web", false),
            ("app/*", "x/app/web", false),
            ("w?b", "web", true),
            ("w?b", "wb", false),
            ("w?b", "weeb", false),
            ("?", "w", true),
            ("*", "any/path/any", true),
            ("*-prod", "app/web-prod", true),
            ("web,app/*", "app/web", true),
            (" web , db ", "db", true),
            ("Web", "web", false),
            ("app/*", "app/../admin", true),
            ("admin", "app/../admin", false),
        ] {
            assert_eq!(
                list(patterns).allows(&at(profile)),
                allowed,
                "{patterns} against {profile}"
            );
        }
    }

    #[test]
    fn a_name_may_be_allowed_where_some_path_makes_it_match() {
        for (patterns, name, possible) in [
            ("web", "web", true),
            ("web", "web-prod", false),
            ("web", "eb", false),
            ("app/*", "web-prod", true),
            ("app/web", "web", true),
            ("app/web", "app", false),
            ("app*", "web", true),
            ("app*b", "web", true),
            ("app*b", "wec", false),
            ("a?web", "web", true),
            ("*", "web", true),
            ("*/x/web-*", "web-1", true),
            // The last star may hold the rest of the path.
            ("*/x/web-*", "db-1", true),
            ("*/x/web-?", "db-1", false),
            ("w?b", "web", true),
            ("db,w*", "web", true),
        ] {
            assert_eq!(
                list(patterns).may_allow(&named(name)),
                possible,
                "{patterns} against {name}"
            );
        }
    }

    #[test]
    fn lists_that_say_less_or_more_than_they_seem_are_refused() {
        for text in [
            "",
            "  ",
            "web,",
            ",web",
            "/web",
            "app/",
            "arn:aws:iam::1:instance-profile/web",
            "w\u{435}b",
            "${x}",
        ] {
            assert!(AllowList::parse(text).is_err(), "{text:?}");
        }
    }
}
