//! What a policy requires at its edges: the only rule, two reads of the tags that differ, profiles known beforehand.

use auto_instance_profile::allow::AllowList;
use auto_instance_profile::model::{
    Instance, InstanceId, InstanceState, Keeper, Platform, ProfileArn, ProfileRef, Region, Tags,
};
use auto_instance_profile::policy::file::check;
use auto_instance_profile::policy::rule::{Mismatch, Skipped, Subject};
use auto_instance_profile::policy::template::Template;
use auto_instance_profile::policy::{Demand, Policy, Requirement, Tagging};

fn policy(rules: &[&str], allowed: &str) -> Policy {
    let rules = rules
        .iter()
        .enumerate()
        .map(|(number, rule)| format!("  - {{ name: r{number}, {rule} }}\n"));
    let yaml = format!("version: 1\nrules:\n{}", rules.collect::<String>());
    check(&yaml, &AllowList::parse(allowed).unwrap()).policy.unwrap()
}

fn tags(pairs: &[(&str, &str)]) -> Tags {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

/// What is required of an instance with these tags; and what is left of it by a second read.
fn required(
    policy: &Policy,
    first: &[(&str, &str)],
    second: &[(&str, &str)],
) -> (Requirement, Demand) {
    let region = Region::parse("us-east-1").unwrap();
    let instance = Instance {
        id: InstanceId::parse("i-1").unwrap(),
        account: None,
        state: InstanceState::Running,
        tags: tags(first),
        keeper: Keeper::Owner,
        vpc: None,
        subnet: None,
        instance_type: None,
        platform: Platform::Linux,
        started: None,
    };
    let subject = Subject { account: None, region: &region, instance: &instance, attached: None };
    let requirement = policy.requirement(&subject);
    let confirmed = policy.confirm(requirement.clone(), &subject, &tags(second));
    assert_eq!(confirmed.rule, requirement.rule, "the second read only confirms");
    (requirement, confirmed.demand)
}

#[test]
fn where_there_is_one_rule_it_is_said_why_it_does_not_match() {
    let one = policy(&["match: { tags: { A: x } }, profile: web"], "*");
    let why = Skipped::Mismatch(Mismatch::TagAbsent { key: "A".into() });
    let unmanaged = Demand::Unmanaged { only_rule: Some(why) };
    assert_eq!(required(&one, &[("B", "x")], &[]).0.demand, unmanaged);
    let two = policy(
        &["match: { tags: { A: x } }, profile: web", "match: { tags: { A: y } }, profile: db"],
        "*",
    );
    let unmanaged = Demand::Unmanaged { only_rule: None };
    assert_eq!(required(&two, &[("B", "x")], &[]).0.demand, unmanaged);
}

#[test]
fn two_reads_agree_only_if_the_same_rule_demands_the_same() {
    let policy = policy(
        &[
            "match: { tags: { A: x } }, profile: none",
            "match: { tags: { A: y } }, profile: none",
            "match: { platform: linux }, profile: none",
        ],
        "*",
    );
    let (confirmed, doubtful) = (Tagging::Confirmed, Tagging::Doubtful);
    for (first, second, agree, why) in [
        (("A", "x"), vec![("A", "x")], confirmed, "the same tags"),
        (("A", "x"), vec![("A", "x"), ("B", "z")], confirmed, "a tag that no rule reads"),
        (("A", "x"), vec![("A", "y")], doubtful, "another rule that demands the same"),
        (("A", "x"), vec![], doubtful, "no tags"),
        (("B", "z"), vec![("B", "y")], confirmed, "the rule that reads no tag"),
        (("B", "z"), vec![], doubtful, "the same rule, but a read without any tag is none"),
    ] {
        let (requirement, demand) = required(&policy, &[first], &second);
        assert_eq!(requirement.demand, Demand::Nothing { tags: Tagging::ReadOnce });
        assert_eq!(demand, Demand::Nothing { tags: agree }, "{why}");
    }
}

#[test]
fn profiles_that_are_named_without_a_blank_are_known_beforehand() {
    let names = |yaml: &str, allowed: &str| -> Vec<String> {
        let policy = check(yaml, &AllowList::parse(allowed).unwrap()).policy.unwrap();
        policy.literal_profiles().iter().map(ToString::to_string).collect()
    };
    let rules = "version: 1\nrules:\n  - { name: a, match: { tags: { A: x } }, profile: web }\n  \
        - { name: b, match: { tags: { A: y } }, profile: 'arn:aws:iam::123456789012:instance-profile/app/api' }\n  \
        - { name: c, match: { tags: { A: z } }, profile: none }\n  \
        - { name: d, match: {}, profile: admin }\n";
    assert_eq!(
        names(rules, "web,app/api,db"),
        ["api", "web"],
        "what no pattern allows is not asked for"
    );
    let with_a_tag = format!("{rules}  - {{ name: e, match: {{}}, profile: '${{tag:A}}' }}\n");
    assert_eq!(
        names(&with_a_tag, "web,app/api,db"),
        ["api", "db", "web"],
        "a tag may name each that is allowed by name"
    );
    let built_in = Policy::named_by_tag("A", AllowList::parse("web,app/db,x/*").unwrap());
    let literal: Vec<String> =
        built_in.literal_profiles().iter().map(ToString::to_string).collect();
    assert_eq!(literal, ["db", "web"]);
}

#[test]
fn an_arn_is_allowed_or_refused_before_iam_is_asked() {
    let allowed = AllowList::parse("app/*").unwrap();
    for (path_and_name, expected) in [("app/web", true), ("web", false), ("x/app/web", false)] {
        let arn = format!("arn:aws:iam::123456789012:instance-profile/{path_and_name}");
        let wanted = ProfileRef::Arn(ProfileArn::parse(&arn).unwrap());
        assert_eq!(allowed.may_allow(&wanted), expected, "{wanted}");
        assert_eq!(allowed.allows_as_named(&wanted), expected, "{wanted}");
    }
}

#[test]
fn a_policy_shows_its_rules_and_a_template_itself() {
    let policy =
        policy(&["match: { tags: { A: x } }, profile: none", "match: {}, profile: web"], "*");
    let names: Vec<&str> = policy.rules().iter().map(|rule| rule.name.as_str()).collect();
    assert_eq!(names, ["r0", "r1"]);
    for text in ["web", "${tag:A}", "a-${tag:A}${tag:B c}-b"] {
        assert_eq!(Template::parse(text).unwrap().to_string(), text);
    }
}

#[test]
fn a_rule_that_takes_away_hides_those_behind_it_too() {
    let rules = "version: 1\nrules:\n  - { name: a, match: { tags: { A: '*' } }, profile: none }\n  \
        - { name: b, match: { tags: { A: x } }, profile: web }\n";
    let complaints = check(rules, &AllowList::parse("*").unwrap()).complaints;
    let last = complaints.last().unwrap();
    assert!(last.message.contains("\"b\" is never reached: \"a\" before it"), "{complaints:?}");
}

#[test]
fn entries_of_ignore_are_counted_from_1() {
    let yaml = "version: 1\nignore:\n  - tags: { A: x }\n  - tags: { A: '*' }\nrules: []\n";
    let policy = check(yaml, &AllowList::parse("*").unwrap()).policy.unwrap();
    for (value, entry) in [("x", 1), ("y", 2)] {
        assert_eq!(required(&policy, &[("A", value)], &[]).0.demand, Demand::Ignored { entry });
    }
}

#[test]
fn a_rule_made_of_a_tag_hides_only_those_that_demand_the_tag() {
    let complaints = |key: &str| {
        let rules = format!(
            "version: 1\nrules:\n  - {{ name: a, match: {{}}, profile: '${{tag:A}}' }}\n  \
            - {{ name: b, match: {{ tags: {{ {key}: x }} }}, profile: web }}\n"
        );
        check(&rules, &AllowList::parse("*").unwrap()).complaints
    };
    let is_hidden = |key: &str| {
        complaints(key).iter().any(|complaint| complaint.message.contains("\"b\" is never reached"))
    };
    assert!(is_hidden("A"), "{:?}", complaints("A"));
    assert!(!is_hidden("B"), "without the tag A the first rule is passed over");
}
