//! What is said about a policy file: a value that is missing, a word that means nothing, a rule that does something else
//! than it seems to.

use auto_instance_profile::allow::AllowList;
use auto_instance_profile::policy::file::{Complaint, MAX_BYTES, Severity, check};
use auto_instance_profile::policy::rule::{Mismatch, Skipped, Trait};

fn complaints(yaml: &str) -> Vec<Complaint> {
    check(yaml, &AllowList::parse("*").unwrap()).complaints
}

/// A rule about one tag, with this in the place of one of its lines, on lines 3 and after.
fn rule(line: &str) -> String {
    let key = line.trim_start().split(':').next().unwrap();
    let lines = ["name: a", "match: { tags: { A: x } }", "profile: web"];
    let mut lines: Vec<&str> = lines.into_iter().filter(|other| !other.starts_with(key)).collect();
    lines.push(line);
    format!("version: 1\nrules:\n  - {}\n", lines.join("\n    "))
}

fn said(yaml: &str) -> Vec<String> {
    complaints(yaml).iter().map(ToString::to_string).collect()
}

fn warnings_of(rules: &[&str], ignore: &[&str]) -> Vec<String> {
    let list = |entries: &[&str]| {
        let lines = entries.iter().map(|entry| format!("  - {{ {entry} }}\n"));
        lines.collect::<String>()
    };
    let ignored =
        if ignore.is_empty() { String::new() } else { format!("ignore:\n{}", list(ignore)) };
    let yaml = format!("version: 1\n{ignored}rules:\n{}", list(rules));
    let found = complaints(&yaml);
    assert!(found.iter().all(|it| it.severity == Severity::Warning), "{yaml}{found:?}");
    found.into_iter().map(|it| it.message).collect()
}

/// The tags of every kind of node.
const NODES: [&str; 3] = [
    "tags: { 'karpenter.sh/nodepool': '*' }",
    "tags: { 'eks:cluster-name': '*' }",
    "tags: { 'kubernetes.io/cluster/*': owned }",
];

#[test]
fn every_key_without_a_value_is_an_error_with_its_place() {
    for nothing in ["", " ~", " null", " Null", " NULL", " !!null x", " &anchor", " # soon"] {
        let within = |key: &str| rule(&format!("match:\n      {key}:{nothing}\n"));
        let lines = [
            (format!("version:{nothing}\nrules: []\n"), 1),
            (format!("version: 1\nrules:{nothing}\n"), 2),
            (format!("version: 1\nrules:\n  -{nothing}\n"), 3),
            (format!("version: 1\nignore:{nothing}\nrules: []\n"), 2),
            (format!("version: 1\nignore:\n  -{nothing}\nrules: []\n"), 3),
            (format!("version: 1\nignore:\n  - vpc:{nothing}\nrules: []\n"), 3),
            (rule(&format!("name:{nothing}")), 5),
            (rule(&format!("match:{nothing}")), 5),
            (rule(&format!("profile:{nothing}")), 5),
            (rule(&format!("when-different:{nothing}")), 6),
            (rule(&format!("when-absent:{nothing}")), 6),
            (rule(&format!("when-stopped:{nothing}")), 6),
            (within("tags"), 6),
            (within("account"), 6),
            (within("region"), 6),
            (within("vpc"), 6),
            (within("subnet"), 6),
            (within("instance-type"), 6),
            (within("platform"), 6),
            (within("attached"), 6),
            (within("tags:\n        A"), 7),
            (within("tags:\n        'A*'"), 7),
            (rule(&format!("match:\n      vpc:\n        - vpc-1\n        -{nothing}\n")), 8),
            (
                rule(&format!(
                    "match:\n      tags:\n        A:\n          - x\n          -{nothing}\n"
                )),
                9,
            ),
            (rule(&format!("match:\n      attached:\n        -{nothing}\n")), 7),
        ];
        for (yaml, line) in lines {
            let checked = check(&yaml, &AllowList::parse("*").unwrap());
            assert!(checked.policy.is_none(), "{yaml}");
            let found = &checked.complaints[0];
            // What is not there begins where the next thing does, at the latest.
            assert!(found.line == line || found.line == line + 1, "{found}\n{yaml}");
            assert!(found.column > 0 && found.message.contains("missing"), "{found}\n{yaml}");
        }
    }
}

#[test]
fn a_missing_value_is_found_within_braces_too() {
    for (yaml, place) in [
        (rule("match: { vpc: }"), "5:17:"),
        (rule("match: { vpc: , tags: { A: x } }"), "5:17:"),
        (rule("match: { vpc: [vpc-1, ~] }"), "5:27:"),
        (rule("match: { tags: { A } }"), "5:24:"),
        (rule("match: { tags: { A: } }"), "5:23:"),
        (rule("match: { tags: { ~: x } }"), "5:22:"),
        (rule("match: { attached: }"), "5:22:"),
        (rule("match: { <<: { vpc: } }"), "5:23:"),
    ] {
        let found = said(&yaml);
        assert!(found[0].starts_with(place) && found[0].contains("missing"), "{found:?}\n{yaml}");
    }
}

#[test]
fn an_empty_text_is_an_error_but_as_a_tags_value() {
    for key in ["account", "region", "vpc", "subnet", "instance-type", "platform", "attached"] {
        for values in ["\"\"", "[\"\"]", "[\"*\", \"\"]", "\" \""] {
            let found = complaints(&rule(&format!("match: {{ {key}: {values} }}")));
            assert_eq!(found[0].severity, Severity::Error, "{key}: {values}: {found:?}");
            assert!(found[0].message.contains("can never match"), "{key}: {values}: {found:?}");
        }
    }
    for line in
        ["name: \"\"", "name: \"  \"", "profile: \"\"", "profile: \" \"", "when-stopped: \"\""]
    {
        assert_eq!(complaints(&rule(line))[0].severity, Severity::Error, "{line}");
    }
    for values in ["\"\"", "[\"\", x]"] {
        let found = complaints(&rule(&format!("match: {{ tags: {{ A: {values} }} }}")));
        assert!(found.iter().all(|it| it.severity == Severity::Warning), "{values}: {found:?}");
    }
}

#[test]
fn a_value_in_a_list_is_complained_of_where_it_stands() {
    let found = said(&rule("match:\n      vpc:\n        - vpc-1\n        - VPC!\n        - null!"));
    assert!(found[0].starts_with("8:11: error: \"VPC!\" can never match"), "{found:?}");
    assert!(found[1].starts_with("9:11: error: \"null!\" can never match"), "{found:?}");
    let found = said(&rule("match: { tags: { A: [x, 1] } }"));
    assert!(found[0].contains("must be a text (quote numbers"), "{found:?}");
}

#[test]
fn what_looks_like_none_is_refused_and_none_is_named() {
    for word in ["None", "NONE", "nOne", "null", "Null", "~", "", "nil", "undefined"] {
        for written in [word.to_owned(), format!("{word:?}"), format!("{:?}", format!(" {word} "))]
        {
            let found = said(&rule(&format!("profile: {written}")));
            assert!(found[0].starts_with("5:"), "{written}: {found:?}");
            assert!(found[0].contains("error: "), "{written}: {found:?}");
            let is_blank = word.is_empty() && written.contains(' ');
            assert!(is_blank || found[0].contains("none"), "{written}: {found:?}");
        }
        if !word.is_empty() {
            let found = said(&rule(&format!("match: {{ attached: {word:?} }}")));
            let names_none = word == "nil" || found[0].contains("none");
            assert!(found[0].contains("error: ") && names_none, "{word}: {found:?}");
        }
    }
    let arn = "arn:aws:iam::123456789012:instance-profile/None";
    assert!(
        warnings_of(
            &[&format!("name: a, match: {{ tags: {{ A: x }} }}, profile: '{arn}'")],
            &NODES
        )
        .is_empty()
    );
    assert!(warnings_of(&["name: a, match: { tags: { A: x } }, profile: none"], &NODES).is_empty());
}

#[test]
fn patterns_that_can_never_match_are_errors() {
    for (key, impossible, possible) in [
        (
            "account",
            vec!["1234567890123*", "12345678901x", "null", "123"],
            vec!["1234*", "*", "123456789012", "????????????"],
        ),
        ("region", vec!["null", "eu", "EU-west-1"], vec!["eu-*", "*", "e?", "eu-west-1"]),
        (
            "vpc",
            vec!["undefined", "null", "subnet-1", "vpc-", "v", "x*", "vpc", "vpc-1?X"],
            vec!["vpc-1", "*", "v*", "?pc-*", "*1", "vpc-?", "**"],
        ),
        ("subnet", vec!["vpc-1", "none"], vec!["subnet-1", "sub*", "*-1"]),
        ("instance-type", vec!["t3", "null", "T3.micro"], vec!["t3.*", "*.metal", "t3*"]),
        ("platform", vec!["null", "macos", "x*"], vec!["win*", "linux", "*"]),
        (
            "attached",
            vec![
                "/web",
                "web/",
                "a b",
                "arn:aws:iam::123456789012:instance-profile/web",
                "${tag:A}",
            ],
            vec!["web", "app/*", "*", "none", "w?b,x"],
        ),
    ] {
        for (values, is_error) in [(impossible, true), (possible, false)] {
            for value in values {
                let found = complaints(&rule(&format!("match: {{ {key}: {value:?} }}")));
                let refused = found.iter().any(|it| it.message.contains("can never match"));
                assert_eq!(refused, is_error, "{key}: {value}: {found:?}");
            }
        }
    }
    let long = |letters: usize| format!("match: {{ attached: {:?} }}", "x".repeat(letters));
    assert!(said(&rule(&long(129)))[0].contains("can never match"));
    assert!(!said(&rule(&long(128))).iter().any(|it| it.contains("can never match")));
}

#[test]
fn names_are_counted_in_characters() {
    for letter in ["x", "ü", "\u{1f980}"] {
        let found = |letters| complaints(&rule(&format!("name: {}", letter.repeat(letters))));
        assert!(found(64).iter().all(|it| it.severity == Severity::Warning), "{letter}");
        assert!(found(65).iter().any(|it| it.message.contains("1 to 64 characters")), "{letter}");
    }
}

#[test]
fn a_rule_that_replaces_every_profile_is_warned_of() {
    let warned = |matching: &str, more: &str| {
        let rule = format!("name: a, match: {matching}, profile: web{more}");
        warnings_of(&[&rule], &NODES)
            .iter()
            .any(|it| it.contains("replaces every profile there is"))
    };
    for matching in [
        "{}",
        "{ tags: {} }",
        "{ region: '*' }",
        "{ platform: [linux, windows] }",
        "{ vpc: ['vpc-1', '*'] }",
        "{ attached: '*' }",
        "{ attached: [none, '*'] }",
        "{ tags: { '*': '*' } }",
    ] {
        assert!(warned(matching, ""), "{matching}");
        assert!(warned(matching, ", when-different: replace"), "{matching}");
        assert!(!warned(matching, ", when-different: keep"), "{matching}");
    }
    for matching in
        ["{ tags: { A: '*' } }", "{ platform: linux }", "{ region: 'eu-*' }", "{ attached: none }"]
    {
        assert!(!warned(matching, ""), "{matching}");
    }
}

#[test]
fn taking_away_and_ignoring_everything_are_errors() {
    for (matching, ignored, taken_away) in [
        ("{}", true, true),
        ("{ tags: {} }", true, true),
        ("{ region: '*', vpc: '*' }", true, true),
        ("{ attached: [none, '*'] }", true, true),
        // What is left is what has no profile, or no tag.
        ("{ attached: '*' }", false, true),
        ("{ tags: { '*': '*' } }", false, true),
        ("{ attached: none }", false, false),
        ("{ attached: 'old-*' }", false, false),
    ] {
        let is_refused =
            |yaml: String| check(&yaml, &AllowList::parse("*").unwrap()).policy.is_none();
        assert_eq!(
            is_refused(format!("version: 1\nignore: [{matching}]\nrules: []")),
            ignored,
            "{matching}"
        );
        assert_eq!(
            is_refused(format!(
                "version: 1\nrules: [{{ name: a, match: {matching}, profile: none }}]"
            )),
            taken_away,
            "{matching}"
        );
    }
}

#[test]
fn how_to_change_cannot_stand_beside_taking_away() {
    for (key, values) in [
        ("when-different", ["replace", "keep"]),
        ("when-absent", ["associate", "leave"]),
        ("when-stopped", ["wait", "swap"]),
    ] {
        for value in values {
            let yaml = format!(
                "version: 1\nrules: [{{ name: a, match: {{ tags: {{ A: x }} }}, profile: none, {key}: {value} }}]"
            );
            let found = said(&yaml);
            assert!(
                found[0].contains(key) && found[0].contains("beside profile: none"),
                "{found:?}"
            );
        }
    }
    let found = said(&rule("when-stopped: later"));
    assert!(found[0].contains("later") && found[0].contains("wait, swap"), "{found:?}");
}

#[test]
fn rules_that_may_replace_a_nodes_profile_are_warned_of_once() {
    const PER_APP: &str =
        "name: per-app, match: { tags: { App: '*' } }, profile: '${tag:App}-prod'";
    const RETIRED: &str = "name: retired, match: { tags: { Lifecycle: retired } }, profile: none";
    let about_nodes = |rules: &[&str], ignore: &[&str]| -> Vec<String> {
        let all = warnings_of(rules, ignore);
        all.into_iter().filter(|it| it.contains("Kubernetes node")).collect()
    };
    let found = about_nodes(&[PER_APP, RETIRED], &[]);
    assert_eq!(found.len(), 1, "{found:?}");
    for word in [
        "\"per-app\"",
        "karpenter.sh/nodepool",
        "eks:eks-cluster-name",
        "eks:cluster-name",
        "eks:nodegroup-name",
        "\"kubernetes.io/cluster/*\": \"owned\"",
    ] {
        assert!(found[0].contains(word), "{word}: {found:?}");
    }
    assert_eq!(about_nodes(&[RETIRED], &[]).len(), 1, "what is taken away is lost, too");
    assert!(about_nodes(&[PER_APP, RETIRED], &NODES).is_empty());
    let others = ["tags: { 'eks:*': '?*' }", "tags: { 'kubernetes.io/*': [owned, shared] }"];
    assert!(about_nodes(&[PER_APP], &others).is_empty());
    for lacking in 0..NODES.len() {
        let rest: Vec<&str> = (0..3).filter(|it| *it != lacking).map(|it| NODES[it]).collect();
        let found = about_nodes(&[PER_APP], &rest);
        assert_eq!(found.len(), 1, "{rest:?}");
        let named = ["karpenter.sh", "\"eks:cluster-name\"", "kubernetes.io"]
            .map(|key| found[0].contains(key));
        assert_eq!(named.iter().filter(|it| **it).count(), 1, "{found:?}");
        assert!(named[lacking], "{found:?}");
    }
    let narrower = [
        "tags: { 'karpenter.sh/nodepool': default }",
        NODES[1],
        "tags: { 'kubernetes.io/cluster/main': owned }",
    ];
    assert_eq!(about_nodes(&[PER_APP], &narrower).len(), 1, "they leave nodes to the rules");
    let one_letter = ["tags: { 'karpenter.sh/nodepool': '?' }", NODES[1], NODES[2]];
    assert_eq!(about_nodes(&[PER_APP], &one_letter).len(), 1, "and so does this one");
    let with_more = ["tags: { 'karpenter.sh/nodepool': '*', Team: x }", NODES[1], NODES[2]];
    assert_eq!(about_nodes(&[PER_APP], &with_more).len(), 1, "an entry that asks for more");
    for harmless in [
        "name: a, match: {}, profile: web, when-different: keep",
        "name: a, match: { tags: { InstanceProfile: '*' } }, profile: '${tag:InstanceProfile}'",
        "name: a, match: { tags: { 'karpenter.sh/nodepool': '*' } }, profile: node",
        "name: a, match: { tags: { 'kubernetes.io/cluster/main': owned } }, profile: node",
        "name: a, match: { tags: { A: x }, attached: [web, 'old-*'] }, profile: web",
    ] {
        assert!(about_nodes(&[harmless], &[]).is_empty(), "{harmless}");
    }
}

#[test]
fn a_rule_that_its_own_write_ends_is_warned_of() {
    let warned = |attached: &str, profile: &str| {
        let rule = format!("name: a, match: {{ attached: {attached} }}, profile: '{profile}'");
        warnings_of(&[&rule], &NODES).iter().any(|it| it.contains("it no longer matches"))
    };
    let arn = "arn:aws:iam::123456789012:instance-profile/app/web";
    for (attached, profile) in [
        ("none", "web"),
        ("'old-*'", "web"),
        ("[none, 'old-*']", "web"),
        ("'old-*'", "none"),
        ("'web-*'", "${tag:App}"),
        ("'app/*'", "web"),
        ("api", arn),
    ] {
        assert!(warned(attached, profile), "{attached} -> {profile}");
    }
    for (attached, profile) in [
        ("['old-*', web]", "web"),
        ("[none, 'w*']", "web"),
        ("['old-*', none]", "none"),
        ("'web-*'", "web-${tag:App}"),
        ("'app/*'", arn),
        ("'*'", arn),
        ("'*'", "${tag:App}"),
    ] {
        assert!(!warned(attached, profile), "{attached} -> {profile}");
    }
}

#[test]
fn a_pattern_of_keys_in_a_profile_is_none_and_said_so() {
    let rule = "name: a, match: { tags: { 'App*': x } }, profile: 'a-${tag:App*}'";
    let found = warnings_of(&[rule], &NODES);
    assert!(found[0].contains("no pattern"), "{found:?}");
}

#[test]
fn every_policy_that_is_shown_passes_without_a_word() {
    let page = include_str!("../../docs/POLICY.md");
    let blocks = page.split("```yaml\n").skip(1).map(|rest| rest.split("```").next().unwrap());
    let whole: Vec<&str> = blocks.filter(|block| block.contains("version: 1")).collect();
    assert!(whole.len() >= 2, "the page shows policies");
    let files = [include_str!("../../policy/policy.yaml"), include_str!("../../demo/policy.yaml")];
    for yaml in whole.into_iter().chain(files) {
        assert_eq!(said(yaml), Vec::<String>::new(), "{yaml}");
    }
}

#[test]
fn why_a_rule_is_passed_over_is_said() {
    let differs = |which, found: Option<&str>| {
        let found = found.map(str::to_owned);
        Skipped::Mismatch(Mismatch::TraitDiffers { which, found, wanted: "\"x\"".into() })
    };
    let tag = Mismatch::TagDiffers { key: "App".into(), found: "y".into(), wanted: "\"x\"".into() };
    for (why, sentence) in [
        (
            Skipped::Mismatch(Mismatch::TagAbsent { key: "App".into() }),
            "the instance has no tag App",
        ),
        (Skipped::Mismatch(tag), "the tag App is \"y\", not \"x\""),
        (
            Skipped::TemplateTagAbsent { key: "App".into() },
            "the profile is made of the tag App, which the instance lacks",
        ),
        (
            Skipped::Mismatch(Mismatch::NoSuchTag { key: "k/*".into(), wanted: "\"x\"".into() }),
            "no tag whose key is like k/* has the value \"x\"",
        ),
        (
            Skipped::Mismatch(Mismatch::AttachedDiffers {
                found: Some("app/web".into()),
                wanted: "\"x\" or none".into(),
            }),
            "\"app/web\" is attached, not \"x\" or none",
        ),
        (
            Skipped::Mismatch(Mismatch::AttachedDiffers { found: None, wanted: "\"x\"".into() }),
            "nothing is attached, and \"x\" is asked for",
        ),
        (differs(Trait::Account, Some("y")), "the account is \"y\", not \"x\""),
        (differs(Trait::Region, Some("y")), "the region is \"y\", not \"x\""),
        (differs(Trait::Vpc, None), "the vpc is not known, and \"x\" is asked for"),
        (differs(Trait::Subnet, Some("y")), "the subnet is \"y\", not \"x\""),
        (
            differs(Trait::InstanceType, None),
            "the instance-type is not known, and \"x\" is asked for",
        ),
        (differs(Trait::Platform, Some("y")), "the platform is \"y\", not \"x\""),
    ] {
        assert_eq!(why.to_string(), sentence);
    }
}

#[test]
fn complaints_about_a_policy_file_say_where_and_what() {
    let everything = AllowList::parse("*").unwrap();
    let rule = |key: &str| {
        format!(
            "version: 1\nrules:\n  - {{ name: a, match: {{ tags: {{ {key:?}: x }} }}, profile: web }}\n"
        )
    };
    let many = format!(
        "version: 1
rules: [{{ name: a, match: {{ tags: {{ A: [{}] }} }}, profile: web }}]",
        "x, ".repeat(50_001)
    );
    // So many patterns that comparing each with each would take too long.
    let hard = (0..60).map(|number| {
        let pattern = format!("*{}{number}*", "x*".repeat(120));
        format!(
            "  - {{ name: r{number}, match: {{ tags: {{ A: {pattern:?} }} }}, profile: web }}\n"
        )
    });
    let hard = format!("version: 1\nrules:\n{}", hard.collect::<String>());
    for (yaml, words) in [
        (
            "version: 1\nversion: 1\nrules: []".to_owned(),
            "2:1: error: the key version stands in this map already",
        ),
        (
            "version: 1\nrules: []\n---\nx: 1\n".to_owned(),
            "error: a second document begins here; a policy file holds one",
        ),
        (rule(""), "error: \"\" is no tag key: one has 1 to 128 characters"),
        (rule(&"k".repeat(129)), "is no tag key: one has 1 to 128 characters"),
        (many, "error: the file has too many keys and values up to here"),
        (hard, "warning: from the rule \"r"),
        (
            " ".repeat(MAX_BYTES + 1),
            "error: the file has 1000001 bytes; a policy has at most 1000000",
        ),
        (
            "version: 1\nrules: []".to_owned(),
            "1:10: warning: there are no rules, so no instance is managed",
        ),
    ] {
        let complaints = check(&yaml, &everything).complaints;
        let said = complaints.iter().any(|complaint| complaint.to_string().contains(words));
        assert!(
            said,
            "{words}: {:?}",
            complaints.iter().map(ToString::to_string).collect::<Vec<_>>()
        );
    }
}
