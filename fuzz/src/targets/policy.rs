//! Policy files: any text has an answer in time, complaints point into the text, and no rule and no tag gets past the
//! allow-list.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use super::plain;
use auto_instance_profile::allow::AllowList;
use auto_instance_profile::model::{
    AccountId, Instance, InstanceId, InstanceState, Keeper, Platform, Profile, ProfileRef, Region,
    Role, Tags,
};
use auto_instance_profile::policy::file::{Checked, Severity, check};
use auto_instance_profile::policy::rule::{Subject, Target};
use auto_instance_profile::policy::{Demand, Policy, Requirement, Tagging};

/// Far more than the 56 ms that the worst file of a megabyte takes, for machines that are busy with other things.
const IN_TIME: Duration = Duration::from_secs(5);

const ALLOWED: [&str; 4] = ["web,app/*,shop-*", "*", "a?b*,ssm-baseline", "x/y/z"];
const ACCOUNT: &str = "123456789012";

/// Values that try to get past the list.
const VALUES: [&str; 14] = [
    "web",
    "",
    "prod",
    "*",
    "../web",
    "app/web",
    "admin",
    "w\u{435}b",
    "web\n",
    "arn:aws:iam::123456789012:instance-profile/admin",
    "arn:aws:iam::123456789012:instance-profile/app/web",
    "arn:aws:iam::111122223333:instance-profile/web",
    "${tag:App}",
    "retired",
];

/// What EC2 shows as attached.
const ATTACHED: [Option<&str>; 5] = [
    None,
    Some("arn:aws:iam::123456789012:instance-profile/web"),
    Some("arn:aws:iam::123456789012:instance-profile/app/web"),
    Some("arn:aws:iam::123456789012:instance-profile/none"),
    Some("no ARN"),
];

/// A policy file, or anything else.
pub fn policy(data: &[u8]) {
    let text = plain::text(data);
    // Any few bits of the text choose the list.
    let patterns = ALLOWED[data.iter().fold(0, |sum, byte| sum ^ usize::from(*byte)) % 4];
    let allowed = AllowList::parse(patterns).expect("the lists are legal");
    #[expect(clippy::disallowed_methods, reason = "how long it really takes is the question")]
    let started = Instant::now();
    let checked = check(&text, &allowed);
    assert!(started.elapsed() < IN_TIME, "{:?} for {} bytes", started.elapsed(), text.len());
    check_complaints(&checked, &text);
    let again = check(&text, &allowed);
    assert_eq!(again.complaints, checked.complaints, "the same file, the same complaints");
    let Some(policy) = checked.policy else { return };
    let literal = policy.rules().iter().flat_map(|rule| rule.tag_keys()).map(str::to_owned);
    let patterns_of_keys = policy.rules().iter().flat_map(|rule| &rule.matching.tag_patterns);
    // A key that such a pattern matches.
    let like_one = patterns_of_keys.map(|tag| tag.key.text().replace(['*', '?'], "x"));
    let keys: BTreeSet<String> = literal.chain(like_one).collect();
    let keys: Vec<String> = keys.into_iter().take(8).collect();
    for round in 0..VALUES.len() {
        let value = |place: usize| VALUES[(round + 5 * place) % VALUES.len()].to_owned();
        let tags: Tags = keys
            .iter()
            .enumerate()
            // Each tag is absent now and then.
            .filter(|(place, _)| (round + place) % 4 != 3)
            .map(|(place, key)| (key.clone(), value(place)))
            .collect();
        check_instance(&policy, patterns, &tags, round);
    }
}

fn check_complaints(checked: &Checked, text: &str) {
    let is_error = |severity: Severity| severity == Severity::Error;
    let errors = checked.complaints.iter().filter(|complaint| is_error(complaint.severity)).count();
    assert_eq!(checked.policy.is_some(), errors == 0, "{:?}", checked.complaints);
    // YAML's lines end with a line feed, a carriage return, or both.
    let lines: Vec<&str> = text.split('\n').flat_map(|line| line.split('\r')).collect();
    for complaint in &checked.complaints {
        assert!(!complaint.message.is_empty());
        let line = usize::try_from(complaint.line).expect("a line of this text");
        if line == 0 {
            assert_eq!(complaint.column, 0, "{complaint}");
            continue;
        }
        // The end of the text has a place, too: the one behind the last character, or the line behind the last.
        assert!(line <= lines.len() + 1, "{complaint} in {} lines", lines.len());
        let columns = lines.iter().map(|line| line.chars().count()).max().unwrap_or_default();
        let column = usize::try_from(complaint.column).expect("a column of this text");
        assert!(1 <= column && column <= columns + 2, "{complaint}, {columns} columns at most");
    }
}

fn check_instance(policy: &Policy, patterns: &str, tags: &Tags, round: usize) {
    let account = AccountId::parse(ACCOUNT).expect("legal");
    let region = Region::parse("us-east-1").expect("legal");
    let instance = Instance {
        id: InstanceId::parse("i-1").expect("legal"),
        account: None,
        state: InstanceState::Running,
        tags: tags.clone(),
        keeper: Keeper::Owner,
        vpc: round.is_multiple_of(2).then(|| "vpc-1".to_owned()),
        subnet: Some("subnet-2".to_owned()),
        instance_type: Some("t3.micro".to_owned()),
        platform: if round.is_multiple_of(3) { Platform::Windows } else { Platform::Linux },
        started: None,
    };
    let attached = ATTACHED[round % ATTACHED.len()];
    let subject =
        Subject { account: Some(&account), region: &region, instance: &instance, attached };
    let requirement = policy.requirement(&subject);
    check_trace(policy, &subject, &requirement);

    // A tag that the policy does not read changes nothing.
    let mut other = instance.clone();
    let unread = "\u{0}nobody reads this";
    other.tags.insert(unread.to_owned(), "web".to_owned());
    if !policy.reads_tag(unread) {
        let other = policy.requirement(&Subject { instance: &other, ..subject });
        let tagged = !tags.is_empty() || !matches!(other.demand, Demand::Nothing { .. });
        assert!(!tagged || other == requirement, "{other:?} and {requirement:?}");
    }
    let deciding = policy.deciding_tags(&requirement, tags);
    assert!(deciding.iter().all(|(key, value)| tags.get(key) == Some(value)));
    assert!(deciding.keys().all(|key| policy.reads_tag(key)));

    let allows = |text: &str| patterns.split(',').any(|pattern| plain::matches(pattern, text));
    match &requirement.demand {
        Demand::Named(wanted) => {
            assert!(plain::is_profile(wanted, &wanted.to_string(), ACCOUNT), "{wanted}");
            if let ProfileRef::Arn(arn) = wanted {
                assert!(allows(arn.path_and_name()), "{arn} is not in {patterns}");
            }
            check_settled(policy, &requirement, wanted, &allows);
        }
        Demand::NotAllowed(wanted) => match wanted {
            ProfileRef::Arn(arn) => assert!(!allows(arn.path_and_name()), "{arn}, {patterns}"),
            ProfileRef::Name(name) => assert!(
                !patterns
                    .split(',')
                    .any(|pattern| plain::matches_at_some_path(pattern, name.as_str())),
                "{name}, {patterns}"
            ),
        },
        Demand::Nothing { tags: tagging } => {
            assert_eq!(*tagging == Tagging::Doubtful, tags.is_empty());
            let agrees = policy.confirm(requirement.clone(), &subject, tags).demand;
            let doubtful = Demand::Nothing { tags: Tagging::Doubtful };
            assert_eq!(agrees, Demand::Nothing { tags: Tagging::Confirmed }, "the same tags agree");
            let no_tags = policy.confirm(requirement.clone(), &subject, &Tags::new()).demand;
            assert!(no_tags == doubtful || tags.is_empty(), "a read without tags never agrees");
        }
        Demand::Ignored { .. } | Demand::Unmanaged { .. } => assert_eq!(requirement.rule, None),
        Demand::Invalid(why) => assert!(!why.to_string().is_empty()),
        Demand::Unknown(_) | Demand::Unusable { .. } | Demand::Profile(_) => {
            panic!("IAM was not asked: {requirement:?}")
        }
    }
}

/// The way that tells why and the way that is fast agree.
fn check_trace(policy: &Policy, subject: &Subject<'_>, requirement: &Requirement) {
    let trace = policy.trace(subject);
    let matched = trace.matched.as_ref().map(|(rule, _)| rule.name.clone());
    assert_eq!(matched, requirement.rule, "asked rule by rule");
    match requirement.demand {
        Demand::Ignored { entry } => assert_eq!(trace.ignored, Some(entry)),
        Demand::Unmanaged { .. }
        | Demand::Nothing { .. }
        | Demand::Invalid(_)
        | Demand::NotAllowed(_)
        | Demand::Named(_)
        | Demand::Unknown(_)
        | Demand::Unusable { .. }
        | Demand::Profile(_) => assert_eq!(trace.ignored, None),
    }
    for (rule, why) in trace.skipped {
        assert!(!why.to_string().is_empty(), "{}", rule.name);
    }
    if let Some((rule, named)) = trace.matched {
        assert_eq!(named.is_none(), rule.target == Target::Nothing);
        assert_eq!(requirement.manner, rule.manner);
        assert!(rule.matching.matches(subject) && rule.matching.mismatch(subject).is_none());
    }
}

/// Whatever IAM answers: only the profile that is named, and only where the list allows it.
fn check_settled(
    policy: &Policy,
    requirement: &Requirement,
    wanted: &ProfileRef,
    allows: &dyn Fn(&str) -> bool,
) {
    let named = wanted.name().as_str();
    let paths = ["", "app/", "x/y/", "app/../"];
    let answers = paths.map(|path| format!("{path}{named}")).into_iter().chain(["web".to_owned()]);
    for arn in answers.filter_map(|answer| plain::arn(&answer)) {
        let role = Some(Role { name: "role".to_owned(), trust_policy: None });
        let id = plain::profile_id().expect("legal");
        let profile = Profile { arn: arn.clone(), id, role };
        let settled = policy.settle(requirement.clone(), wanted, Some(profile.clone()));
        let is_it = match wanted {
            ProfileRef::Name(name) => name == arn.name(),
            ProfileRef::Arn(wanted) => *wanted == arn,
        };
        let attached = settled.demand == Demand::Profile(profile);
        assert_eq!(attached, is_it && allows(arn.path_and_name()), "{wanted}: {arn}");
    }
    let unknown = policy.settle(requirement.clone(), wanted, None).demand;
    assert_eq!(unknown, Demand::Unknown(wanted.clone()));
}
