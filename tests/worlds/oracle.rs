//! What an instance must have, said a second time and in another way: by the tags alone, for the few policies of these
//! worlds. It shares no line with the code under test.

use std::collections::BTreeMap;

use crate::plan::{Rules, Stopped};

/// The allow-list of every world.
pub const ALLOWED: &str = "web,db,app/*,empty,alien,missing";

/// What the policy makes of an instance's tags.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Want {
    /// Nothing is to be done: unmanaged, ignored, invalid or not allowed.
    Leave,
    /// No profile at all.
    Bare,
    /// This profile, by name.
    Profile { name: String, keeps_others: bool, leaves_bare: bool },
}

/// The setting. Where the rules say it themselves, it says the contrary.
pub fn when_stopped(rules: Rules, stopped: Stopped) -> &'static str {
    match (rules, stopped) {
        (Rules::ByTag | Rules::Baseline, Stopped::Waits) | (Rules::Many, Stopped::IsSwapped) => {
            "wait"
        }
        (Rules::ByTag | Rules::Baseline, Stopped::IsSwapped) | (Rules::Many, Stopped::Waits) => {
            "swap"
        }
    }
}

/// The policy file; the built-in policy has none.
pub fn file(rules: Rules, stopped: Stopped) -> Option<String> {
    let says = match stopped {
        Stopped::Waits => "when-stopped: wait",
        Stopped::IsSwapped => "when-stopped: swap",
    };
    let named = "name: named, match: { tags: { InstanceProfile: \"?*\" } }, profile: \"${tag:InstanceProfile}\"";
    let retired = "name: retired, match: { tags: { Life: retired } }, profile: none";
    let rules = match rules {
        Rules::ByTag => return None,
        Rules::Many => format!(
            "ignore:\n  - tags: {{ Hands: \"off\" }}\nrules:\n  - {{ {retired} }}\n  \
             - {{ name: gap, match: {{ tags: {{ Tier: gap }} }}, profile: web, when-different: keep, {says} }}\n  \
             - {{ name: db, match: {{ tags: {{ InstanceProfile: db }} }}, profile: db, when-absent: leave, {says} }}\n  \
             - {{ {named}, {says} }}\n"
        ),
        Rules::Baseline => format!(
            "rules:\n  - {{ {named} }}\n  - {{ {retired} }}\n  - {{ name: base, match: {{}}, profile: db }}\n"
        ),
    };
    Some(format!("version: 1\n{rules}"))
}

/// What these rules want for these tags.
pub fn want(rules: Rules, tags: &BTreeMap<String, String>) -> Want {
    let tag = |key: &str| tags.get(key).map(String::as_str);
    let named = tag("InstanceProfile");
    let profile = |name: &str| Want::Profile {
        name: name.to_owned(),
        keeps_others: false,
        leaves_bare: false,
    };
    let by_name = |value: &str| match value {
        "web" | "db" | "api" | "missing" | "empty" | "alien" => profile(value),
        "arn:aws:iam::123456789012:instance-profile/db" => profile("db"),
        _ => Want::Leave,
    };
    match (rules, named, tag("Life"), tag("Tier")) {
        (Rules::Many, ..) if tag("Hands") == Some("off") => Want::Leave,
        (Rules::Many | Rules::Baseline, None | Some(""), Some("retired"), _) => Want::Bare,
        (Rules::Many, _, _, Some("gap")) => {
            Want::Profile { name: "web".into(), keeps_others: true, leaves_bare: false }
        }
        (Rules::Many, Some("db"), ..) => {
            Want::Profile { name: "db".into(), keeps_others: false, leaves_bare: true }
        }
        (Rules::Baseline, None | Some(""), ..) => profile("db"),
        (_, Some(value), ..) => by_name(value),
        (_, None, ..) => Want::Leave,
    }
}

/// Whether the allow-list names the profile with this ARN.
pub fn is_allowed(arn: &str) -> bool {
    let what = arn.split_once("instance-profile/").map_or(arn, |(_, what)| what);
    matches!(what, "web" | "db" | "empty" | "alien" | "missing") || what.starts_with("app/")
}

/// The tag keys that the policies read.
pub fn reads(rules: Rules, key: &str) -> bool {
    match rules {
        Rules::ByTag => key == "InstanceProfile",
        Rules::Many => matches!(key, "InstanceProfile" | "Life" | "Tier" | "Hands"),
        Rules::Baseline => matches!(key, "InstanceProfile" | "Life"),
    }
}
