//! Values with IAM's wildcards, and whether one pattern covers another.

use std::fmt;

use wildmatch::WildMatch;

/// A value with IAM's wildcards: `*` for any run of characters, `?` for exactly one.
#[derive(Debug, Clone)]
pub struct Pattern {
    text: String,
    /// Nothing, where the text has no wildcard and stands for itself.
    wild: Option<WildMatch>,
}

impl Pattern {
    /// A pattern of this text. Any text is one.
    #[must_use]
    pub fn new(text: &str) -> Self {
        let wild = text.contains(['*', '?']).then(|| WildMatch::new(text));
        Self { text: text.to_owned(), wild }
    }

    /// As it is written.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The value, where only one matches.
    #[must_use]
    pub fn literal(&self) -> Option<&str> {
        self.wild.is_none().then_some(self.text.as_str())
    }

    /// What every value that matches begins with.
    #[must_use]
    pub fn beginning(&self) -> &str {
        self.text.split(['*', '?']).next().unwrap_or_default()
    }

    /// Whether it matches.
    #[must_use]
    pub fn matches(&self, value: &str) -> bool {
        match &self.wild {
            None => self.text == value,
            Some(wild) => wild.matches(value),
        }
    }

    /// Whether every value matches.
    #[must_use]
    pub fn is_anything(&self) -> bool {
        self.text.contains('*') && self.text.bytes().all(|byte| byte == b'*')
    }

    /// Whether it surely matches all that the other matches. Where that takes more than a look, the answer is no.
    pub(super) fn covers(&self, other: &Self, effort: &mut Effort) -> bool {
        // In the worst case a wildcard is tried at each place of the other text.
        effort.spend(if self.wild.is_some() { 8 + self.text.len() * other.text.len() } else { 4 });
        if effort.is_spent() {
            return false;
        }
        match &self.wild {
            None => self.text == other.text,
            // A `?` of ours must not stand for a `*` of the other's.
            Some(_) if self.text.contains('?') && other.text.contains('*') => {
                self.text == other.text
            }
            Some(wild) => wild.matches(&other.text),
        }
    }
}

/// How much comparing of patterns is still to be done: without a limit, a file made for it would keep us busy for minutes.
#[derive(Debug)]
pub(crate) struct Effort {
    /// In comparisons of one character, a nanosecond or two each.
    left: usize,
}

impl Default for Effort {
    fn default() -> Self {
        Self { left: 10_000_000 }
    }
}

impl Effort {
    /// Notes so many steps as done.
    pub(crate) fn spend(&mut self, steps: usize) {
        self.left = self.left.saturating_sub(steps);
    }

    /// Whether nothing is left. Then comparisons answer "no".
    pub(crate) fn is_spent(&self) -> bool {
        self.left == 0
    }
}

/// Patterns one of which must match: "any of".
#[derive(Debug, Clone)]
pub struct AnyOf(pub Vec<Pattern>);

impl AnyOf {
    pub(super) fn matches(&self, value: &str) -> bool {
        self.0.iter().any(|pattern| pattern.matches(value))
    }

    /// Whether every value matches.
    pub(super) fn is_anything(&self) -> bool {
        self.0.iter().any(Pattern::is_anything)
    }

    pub(super) fn covers(&self, other: &Self, effort: &mut Effort) -> bool {
        other.0.iter().all(|theirs| {
            self.0.iter().any(|ours| !effort.is_spent() && ours.covers(theirs, effort))
        })
    }
}

impl fmt::Display for AnyOf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, pattern) in self.0.iter().enumerate() {
            write!(f, "{}{:?}", if index == 0 { "" } else { " or " }, pattern.text)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_covers_only_what_it_surely_matches() {
        for (ours, theirs, covers) in [
            ("*", "x", true),
            ("*", "a*b", true),
            ("a*", "ab*", true),
            ("a*", "*", false),
            ("a?", "ab", true),
            ("a?", "a*", false),
            ("a?*", "ab*", false),
            ("x", "x", true),
            ("x", "y", false),
            ("x*y", "x*y", true),
        ] {
            assert_eq!(
                Pattern::new(ours).covers(&Pattern::new(theirs), &mut Effort::default()),
                covers,
                "{ours} over {theirs}"
            );
        }
    }
}
