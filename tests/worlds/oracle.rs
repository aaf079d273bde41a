//! What an instance must have, said a second time and in another way: by the tags alone, for the few policies of these
//! worlds. It shares no line with the code under test.

use std::collections::BTreeMap;

use crate::plan::Rules;

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

/// The policy file; the built-in policy has none.
pub fn file(rules: Rules) -> Option<&'static str> {
    match rules {
        Rules::ByTag => None,
        Rules::Many => Some(
            "version: 1\n\
             ignore:\n  - tags: { Hands: \"off\" }\n\
             rules:\n  - { name: retired, match: { tags: { Life: retired } }, profile: none }\n  \
             - { name: gap, match: { tags: { Tier: gap } }, profile: web, when-different: keep }\n  \
             - { name: db, match: { tags: { InstanceProfile: db } }, profile: db, when-absent: leave }\n  \
             - { name: named, match: { tags: { InstanceProfile: \"?*\" } }, profile: \"${tag:InstanceProfile}\" }\n",
        ),
        Rules::Baseline => Some(
            "version: 1\n\
             rules:\n  - { name: named, match: { tags: { InstanceProfile: \"?*\" } }, profile: \"${tag:InstanceProfile}\" }\n  \
             - { name: retired, match: { tags: { Life: retired } }, profile: none }\n  \
             - { name: base, match: {}, profile: db }\n",
        ),
    }
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
