//! The allow-list: it says what IAM's patterns say, and nothing that it refuses could be one.

use super::plain;
use auto_instance_profile::allow::AllowList;
use auto_instance_profile::model::{ProfileName, ProfileRef};
use auto_instance_profile::policy::pattern::Pattern;

/// A first line of patterns, then lines of paths and names.
pub fn allow(data: &[u8]) {
    // The reference takes its time.
    let text = plain::text(&data[..data.len().min(400)]);
    let mut lines = text.split('\n');
    let patterns = lines.next().unwrap_or_default();
    let parts: Vec<&str> = patterns.split(',').map(str::trim).collect();
    let list = AllowList::parse(patterns);
    assert_eq!(list.is_ok(), parts.iter().all(|part| is_pattern(part)), "{patterns:?}: {list:?}");
    for line in lines.take(20) {
        for part in parts.iter().take(20) {
            let pattern = Pattern::new(part);
            assert_eq!(pattern.matches(line), plain::matches(part, line), "{part:?}: {line:?}");
            assert!(pattern.literal().is_none_or(|only| (only == line) == pattern.matches(line)));
            assert!(!pattern.matches(line) || line.starts_with(pattern.beginning()));
        }
        let Ok(list) = &list else { continue };
        let any = |says: &dyn Fn(&str) -> bool| parts.iter().any(|part| says(part));
        if let Some(arn) = plain::arn(line) {
            let expected = any(&|part| plain::matches(part, line));
            assert_eq!(list.allows(&arn), expected, "{patterns:?}: {line:?}");
            let wanted = ProfileRef::Arn(arn);
            assert_eq!(list.may_allow(&wanted), expected);
            assert_eq!(list.allows_as_named(&wanted), expected);
        }
        let name = line.rsplit('/').next().unwrap_or_default();
        if let Ok(name) = ProfileName::parse(name) {
            assert!(plain::is_name(name.as_str()), "{name}");
            let wanted = ProfileRef::Name(name.clone());
            let somewhere = any(&|part| plain::matches_at_some_path(part, name.as_str()));
            assert_eq!(list.may_allow(&wanted), somewhere, "{patterns:?}: {name}");
            let at_root = any(&|part| plain::matches(part, name.as_str()));
            assert_eq!(list.allows_as_named(&wanted), at_root, "{patterns:?}: {name}");
            assert!(somewhere || !at_root);
        }
    }
    if let Ok(list) = &list {
        for name in list.literal_names() {
            assert!(list.may_allow(&ProfileRef::Name(name.clone())), "{patterns:?}: {name}");
        }
    }
}

fn is_pattern(text: &str) -> bool {
    let legal = |c: char| c.is_ascii_alphanumeric() || "_+=.@-/*?".contains(c);
    !text.is_empty() && text.chars().all(legal) && !text.starts_with('/') && !text.ends_with('/')
}
