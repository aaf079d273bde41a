//! Names and patterns, read in the plainest way.

use auto_instance_profile::model::{ProfileArn, ProfileId, ProfileRef};

/// IAM's patterns, one character after the other: `reached` holds the places of the pattern that the text so far leads to.
pub fn matches(pattern: &str, text: &str) -> bool {
    let pattern: Vec<char> = pattern.chars().collect();
    let mut reached = from(&pattern, 0);
    for character in text.chars() {
        reached = step(&pattern, &reached, Some(character));
    }
    reached[pattern.len()]
}

/// Whether the pattern matches this name behind any path: none, or one that ends with a slash.
pub fn matches_at_some_path(pattern: &str, name: &str) -> bool {
    let pattern: Vec<char> = pattern.chars().collect();
    let mut at_start_of_name = from(&pattern, 0);
    let mut within_path = at_start_of_name.clone();
    // A path that is longer than the pattern leads nowhere new.
    for _ in 0..=pattern.len() {
        let behind_slash = step(&pattern, &within_path, Some('/'));
        let behind_any = step(&pattern, &within_path, None);
        for place in 0..=pattern.len() {
            at_start_of_name[place] |= behind_slash[place];
            within_path[place] |= behind_any[place];
        }
    }
    let end = name.chars().fold(at_start_of_name, |reached, c| step(&pattern, &reached, Some(c)));
    end[pattern.len()]
}

/// The places that are reached from this one without a character: a `*` may stand for nothing.
fn from(pattern: &[char], place: usize) -> Vec<bool> {
    let mut reached = vec![false; pattern.len() + 1];
    for (index, reached) in reached.iter_mut().enumerate().skip(place) {
        *reached = true;
        if pattern.get(index) != Some(&'*') {
            break;
        }
    }
    reached
}

/// The places that are reached by one more character; by any one that fits, if none is given.
fn step(pattern: &[char], reached: &[bool], character: Option<char>) -> Vec<bool> {
    let mut next = vec![false; pattern.len() + 1];
    for (place, wanted) in pattern.iter().enumerate().filter(|(place, _)| reached[*place]) {
        let target = match wanted {
            '*' => place,
            '?' => place + 1,
            literal if character.is_none_or(|character| character == *literal) => place + 1,
            _ => continue,
        };
        for (next, from_there) in next.iter_mut().zip(from(pattern, target)) {
            *next |= from_there;
        }
    }
    next
}

/// Whether IAM would take this as an instance profile's name.
pub fn is_name(text: &str) -> bool {
    let legal = |c: char| c.is_ascii_alphanumeric() || "_+=,.@-".contains(c);
    !text.is_empty() && text.len() <= 128 && text.chars().all(legal)
}

/// The path and name in an instance profile's ARN of this account, in the partition `aws`.
pub fn path_and_name_of<'a>(arn: &'a str, account: &str) -> Option<&'a str> {
    let path_and_name = arn.strip_prefix(&format!("arn:aws:iam::{account}:instance-profile/"))?;
    let (path, name) = path_and_name.rsplit_once('/').unwrap_or(("", path_and_name));
    // A path has 512 printable characters at most, the slashes at its ends among them.
    let is_path = path.len() <= 510 && path.bytes().all(|b| b.is_ascii_graphic());
    (is_path && is_name(name)).then_some(path_and_name)
}

/// Whether what is wanted is what the text says, and legal.
pub fn is_profile(wanted: &ProfileRef, text: &str, account: &str) -> bool {
    wanted.to_string() == text
        && match wanted {
            ProfileRef::Name(name) => is_name(name.as_str()),
            ProfileRef::Arn(arn) => {
                path_and_name_of(text, account).is_some_and(|found| found == arn.path_and_name())
            }
        }
}

/// A legal ARN at this path and of this name, in account 123456789012.
pub fn arn(path_and_name: &str) -> Option<ProfileArn> {
    ProfileArn::parse(&format!("arn:aws:iam::123456789012:instance-profile/{path_and_name}")).ok()
}

/// Some profile's id.
pub fn profile_id() -> Option<ProfileId> {
    ProfileId::parse("AIPA1").ok()
}

/// Bytes as text; what is no UTF-8 is replaced, as Lambda's runtime would never hand it on.
pub fn text(data: &[u8]) -> std::borrow::Cow<'_, str> {
    String::from_utf8_lossy(data)
}
