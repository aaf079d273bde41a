//! A profile's name or ARN made of tags' values.

use std::fmt;

use crate::model::Tags;

/// A profile's name or ARN with tags' values filled in: `${tag:App}-${tag:Environment}`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template(Vec<Piece>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Text(String),
    Tag(String),
}

/// A template that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadTemplate {
    /// A `${` without its `}`.
    #[error("${{ is not closed; a tag's value is filled in by ${{tag:KEY}}")]
    Unclosed,
    /// A `${…}` that is no tag.
    #[error("${{{0}}} is unknown; only a tag's value can be filled in, by ${{tag:KEY}}")]
    Unknown(String),
    /// Text that no name and no ARN may hold.
    #[error("{0:?} can stand in no instance profile's name or ARN (letters, digits and _+=,.@-)")]
    IllegalText(String),
    /// Nothing at all.
    #[error("the profile is empty; name one, or write none to take the profile away")]
    Empty,
}

impl Template {
    /// Takes a template apart.
    ///
    /// # Errors
    /// [`BadTemplate`]
    pub fn parse(text: &str) -> Result<Self, BadTemplate> {
        let mut pieces = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once("${") {
            let (inside, behind) = after.split_once('}').ok_or(BadTemplate::Unclosed)?;
            let key = inside.strip_prefix("tag:").filter(|key| !key.is_empty());
            let key = key.ok_or_else(|| BadTemplate::Unknown(inside.to_owned()))?;
            pieces.push(Piece::Text(before.to_owned()));
            pieces.push(Piece::Tag(key.to_owned()));
            rest = behind;
        }
        pieces.push(Piece::Text(rest.to_owned()));
        pieces.retain(|piece| *piece != Piece::Text(String::new()));
        if pieces.is_empty() {
            return Err(BadTemplate::Empty);
        }
        let template = Self(pieces);
        let is_arn = text.starts_with("arn:");
        let legal = |byte| crate::model::is_name_byte(byte) || (is_arn && b":/".contains(&byte));
        let illegal = template.0.iter().find_map(|piece| match piece {
            Piece::Text(text) if !text.bytes().all(legal) => Some(text.clone()),
            Piece::Text(_) | Piece::Tag(_) => None,
        });
        illegal.map_or(Ok(template), |text| Err(BadTemplate::IllegalText(text)))
    }

    /// The value of this tag, and nothing else.
    #[must_use]
    pub fn of_tag(key: &str) -> Self {
        Self(vec![Piece::Tag(key.to_owned())])
    }

    /// Fills in the tags' values.
    ///
    /// # Errors
    /// The key of the first tag that is absent.
    pub fn expand(&self, tags: &Tags) -> Result<String, String> {
        self.0.iter().try_fold(String::new(), |mut filled, piece| {
            match piece {
                Piece::Text(text) => filled.push_str(text),
                Piece::Tag(key) => filled.push_str(tags.get(key).ok_or_else(|| key.clone())?),
            }
            Ok(filled)
        })
    }

    /// The same text with something else in the place of each tag's value.
    #[must_use]
    pub(crate) fn with_tags_as(&self, stand_in: &str) -> String {
        let piece = |piece: &Piece| match piece {
            Piece::Text(text) => text.clone(),
            Piece::Tag(_) => stand_in.to_owned(),
        };
        self.0.iter().map(piece).collect()
    }

    /// The keys of the tags it fills in.
    pub fn tag_keys(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter_map(|piece| match piece {
            Piece::Tag(key) => Some(key.as_str()),
            Piece::Text(_) => None,
        })
    }

    /// The key of the tag whose value is the whole profile.
    #[must_use]
    pub fn only_tag(&self) -> Option<&str> {
        match self.0.as_slice() {
            [Piece::Tag(key)] => Some(key),
            _ => None,
        }
    }

    /// The profile, where no tag has a say in it.
    #[must_use]
    pub fn literal(&self) -> Option<&str> {
        match self.0.as_slice() {
            [Piece::Text(text)] => Some(text),
            _ => None,
        }
    }
}

impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|piece| match piece {
            Piece::Text(text) => f.write_str(text),
            Piece::Tag(key) => write!(f, "${{tag:{key}}}"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_fill_in_tags_or_say_which_is_absent() {
        let tags = Tags::from([("App".into(), "shop".into()), ("Env".into(), String::new())]);
        for (text, expected) in [
            ("web", Ok("web")),
            ("${tag:App}", Ok("shop")),
            ("${tag:App}-${tag:Env}x", Ok("shop-x")),
            ("${tag:App}-${tag:Tier}", Err("Tier")),
            (
                "arn:aws:iam::123456789012:instance-profile/app/${tag:App}",
                Ok("arn:aws:iam::123456789012:instance-profile/app/shop"),
            ),
        ] {
            let filled = Template::parse(text).unwrap().expand(&tags);
            assert_eq!(filled.as_deref().map_err(String::as_str), expected, "{text}");
        }
    }

    #[test]
    fn templates_that_could_never_name_a_profile_are_refused() {
        for (text, expected) in [
            ("", BadTemplate::Empty),
            ("${tag:App", BadTemplate::Unclosed),
            ("${env:App}", BadTemplate::Unknown("env:App".into())),
            ("${tag:}", BadTemplate::Unknown("tag:".into())),
            ("app/web", BadTemplate::IllegalText("app/web".into())),
            ("a b", BadTemplate::IllegalText("a b".into())),
            ("$web", BadTemplate::IllegalText("$web".into())),
            ("web*", BadTemplate::IllegalText("web*".into())),
        ] {
            assert_eq!(Template::parse(text), Err(expected), "{text}");
        }
    }
}
