//! Policies by table: which rule decides, what it names, and what no rule can overrule.

use std::collections::BTreeMap;

use auto_instance_profile::allow::AllowList;
use auto_instance_profile::cloud::Cloud;
use auto_instance_profile::flapping::FlapDetector;
use auto_instance_profile::model::{
    AccountId, Instance, InstanceId, InstanceState, Keeper, Platform, ProfileArn, Region, Tags,
};
use auto_instance_profile::policy::file::{Severity, built_in, check};
use auto_instance_profile::policy::rule::{Subject, WhenStopped};
use auto_instance_profile::policy::{Demand, Policy};
use auto_instance_profile::profiles::Profiles;
use auto_instance_profile::reconcile::Reconciler;
use proptest::prelude::*;
use tokio::time::{Duration, Instant};

use crate::common::fake::FakeCloud;
use crate::common::ledger::Ledger;
use crate::common::world::{World, Write};
use crate::reconcile::{ID, job, no_pace};

const EXAMPLE: &str = r#"
version: 1
ignore:
  - tags: { "eks:cluster-name": "*" }
rules:
  - name: named-by-tag
    match: { tags: { InstanceProfile: "?*" } }
    profile: "${tag:InstanceProfile}"
  - name: web
    match: { tags: { Tier: [web, api], Environment: prod } }
    profile: web-prod
  - name: per-app
    match: { tags: { App: "*", Environment: [dev, prod] } }
    profile: "${tag:App}-${tag:Environment}"
  - name: large
    match: { instance-type: ["*.metal", "u-*"], account: "123456789012", region: "us-*" }
    profile: large
  - name: somewhere
    match: { vpc: vpc-1, subnet: "subnet-?", platform: windows }
    profile: windows
  - name: retired
    match: { tags: { Lifecycle: retired } }
    profile: none
  - name: baseline
    match: {}
    profile: ssm-baseline
    when-different: keep
"#;

fn everything() -> AllowList {
    AllowList::parse("*").unwrap()
}

fn policy(yaml: &str) -> Policy {
    let checked = check(yaml, &everything());
    checked.policy.unwrap_or_else(|| panic!("{:?}", checked.complaints))
}

fn instance(tags: &[(&str, &str)]) -> Instance {
    Instance {
        id: InstanceId::parse(ID).unwrap(),
        account: None,
        state: InstanceState::Running,
        tags: tags.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
        keeper: Keeper::Owner,
        vpc: Some("vpc-1".into()),
        subnet: Some("subnet-2".into()),
        instance_type: Some("t3.micro".into()),
        platform: Platform::Linux,
        started: None,
    }
}

/// The rule that decides, and the profile or what else is demanded.
fn ruling(policy: &Policy, instance: &Instance) -> (String, String) {
    let account = AccountId::parse("123456789012").unwrap();
    let region = Region::parse("us-east-1").unwrap();
    let subject = Subject { account: Some(&account), region: &region, instance, attached: None };
    decided(policy, &subject)
}

fn decided(policy: &Policy, subject: &Subject<'_>) -> (String, String) {
    let requirement = policy.requirement(subject);
    let trace = policy.trace(subject);
    assert_eq!(
        trace.matched.map(|(rule, _)| rule.name.clone()),
        requirement.rule,
        "one and the same"
    );
    let demand = match requirement.demand {
        Demand::Named(wanted) => wanted.to_string(),
        Demand::Ignored { .. } => "ignored".to_owned(),
        Demand::Unmanaged { .. } => "unmanaged".to_owned(),
        Demand::Nothing { .. } => "none".to_owned(),
        Demand::Invalid(_) => "invalid".to_owned(),
        Demand::NotAllowed(_) => "not allowed".to_owned(),
        Demand::Unknown(_) | Demand::Unusable { .. } | Demand::Profile(_) => unreachable!(),
    };
    (requirement.rule.unwrap_or_default(), demand)
}

#[test]
fn the_first_rule_that_matches_decides() {
    let policy = policy(EXAMPLE);
    for (tags, rule, demand) in [
        (vec![("InstanceProfile", "x")], "named-by-tag", "x"),
        (
            vec![("InstanceProfile", "x"), ("Tier", "web"), ("Environment", "prod")],
            "named-by-tag",
            "x",
        ),
        (vec![("InstanceProfile", "")], "baseline", "ssm-baseline"),
        (vec![("Tier", "web"), ("Environment", "prod")], "web", "web-prod"),
        (vec![("Tier", "api"), ("Environment", "prod"), ("App", "shop")], "web", "web-prod"),
        (vec![("Tier", "web"), ("Environment", "dev")], "baseline", "ssm-baseline"),
        (vec![("tier", "web"), ("Environment", "prod")], "baseline", "ssm-baseline"),
        (vec![("Tier", "Web"), ("Environment", "prod")], "baseline", "ssm-baseline"),
        (vec![("App", "shop"), ("Environment", "dev")], "per-app", "shop-dev"),
        (vec![("App", "a b"), ("Environment", "dev")], "per-app", "invalid"),
        (vec![("App", ""), ("Environment", "dev")], "per-app", "-dev"),
        (vec![("App", "shop"), ("Environment", "test")], "baseline", "ssm-baseline"),
        (vec![("Lifecycle", "retired")], "retired", "none"),
        (vec![("eks:cluster-name", "c"), ("InstanceProfile", "x")], "", "ignored"),
        (vec![], "baseline", "ssm-baseline"),
    ] {
        let found = ruling(&policy, &instance(&tags));
        assert_eq!((found.0.as_str(), found.1.as_str()), (rule, demand), "{tags:?}");
    }
}

#[test]
fn rules_match_on_what_a_fleet_differs_by() {
    let policy = policy(EXAMPLE);
    let metal = Instance { instance_type: Some("m5.metal".into()), ..instance(&[]) };
    assert_eq!(ruling(&policy, &metal).0, "large");
    let unknown_type = Instance { instance_type: None, ..instance(&[]) };
    assert_eq!(ruling(&policy, &unknown_type).0, "baseline");
    let windows = Instance { platform: Platform::Windows, ..instance(&[]) };
    assert_eq!(ruling(&policy, &windows).0, "somewhere");
    let elsewhere = Instance { vpc: Some("vpc-2".into()), ..windows };
    assert_eq!(ruling(&policy, &elsewhere).0, "baseline");
}

#[test]
fn a_pattern_of_keys_asks_for_one_tag_that_matches_whole() {
    let policy = policy(
        r#"
version: 1
ignore:
  - tags: { "kubernetes.io/cluster/*": owned }
rules:
  - name: team
    match: { tags: { "team?": [a, "b*"], "*:cost": "?*" } }
    profile: team
  - name: any-tag
    match: { tags: { "*": "special" } }
    profile: special
  - name: literal
    match: { tags: { Team: x } }
    profile: literal
"#,
    );
    for (tags, rule, demand) in [
        (vec![("kubernetes.io/cluster/main", "owned"), ("Team", "x")], "", "ignored"),
        (vec![("kubernetes.io/cluster/", "owned")], "", "ignored"),
        (vec![("kubernetes.io/cluster/main", "shared"), ("Team", "x")], "literal", "literal"),
        // One tag has the key, another the value.
        (
            vec![("kubernetes.io/cluster/a", "x"), ("Other", "owned"), ("Team", "x")],
            "literal",
            "literal",
        ),
        // Of several tags one is enough.
        (
            vec![("kubernetes.io/cluster/a", "shared"), ("kubernetes.io/cluster/b", "owned")],
            "",
            "ignored",
        ),
        (vec![("team1", "a"), ("x:cost", "1")], "team", "team"),
        (vec![("team1", "x"), ("team2", "bc"), ("x:cost", "1")], "team", "team"),
        (vec![("team1", "a"), ("x:cost", "")], "", "unmanaged"),
        (vec![("team12", "a"), ("x:cost", "1")], "", "unmanaged"),
        (vec![("Team1", "a"), ("x:cost", "1")], "", "unmanaged"),
        (vec![("Anything", "special")], "any-tag", "special"),
        (vec![], "", "unmanaged"),
    ] {
        let found = ruling(&policy, &instance(&tags));
        assert_eq!((found.0.as_str(), found.1.as_str()), (rule, demand), "{tags:?}");
    }
    for key in ["kubernetes.io/cluster/x", "kubernetes.io/cluster/", "team1", "a:cost", "Team", "X"]
    {
        assert!(policy.reads_tag(key), "{key}: every key matches the pattern *");
    }
}

#[test]
fn a_tag_event_matters_where_a_pattern_of_keys_matches() {
    let policy = policy(
        "version: 1\nignore: [{ tags: { 'kubernetes.io/cluster/*': owned } }]\nrules:\n  \
        - { name: a, match: { tags: { 'team?': '*', App: '*' } }, profile: '${tag:App}-${tag:x*}' }\n",
    );
    for key in ["kubernetes.io/cluster/main", "team1", "App", "x*"] {
        assert!(policy.reads_tag(key), "{key}");
    }
    for key in ["kubernetes.io/clusters", "team", "team12", "app", "xy"] {
        assert!(!policy.reads_tag(key), "{key}");
    }
}

#[test]
fn the_tags_that_decided_are_shown_by_their_own_keys() {
    let policy = policy(
        "version: 1\nrules:\n  \
        - { name: a, match: { tags: { 'team?': x, App: '*' } }, profile: '${tag:App}-${tag:Env}' }\n",
    );
    let tags = [("team1", "x"), ("team2", "y"), ("App", "shop"), ("Env", "dev"), ("Other", "x")];
    let instance = instance(&tags);
    let region = Region::parse("us-east-1").unwrap();
    let subject = Subject { account: None, region: &region, instance: &instance, attached: None };
    let requirement = policy.requirement(&subject);
    let deciding = policy.deciding_tags(&requirement, &instance.tags);
    let shown: Vec<&str> = deciding.keys().map(String::as_str).collect();
    assert_eq!(shown, ["App", "Env", "team1"]);
}

#[test]
fn rules_match_on_what_is_attached() {
    let policy = policy(
        r#"
version: 1
ignore:
  - attached: "KarpenterNodeRole-*"
  - attached: "eks/*"
rules:
  - { name: old, match: { attached: ["old-?", legacy/web, api] }, profile: new }
  - { name: bare, match: { attached: [none, "x*"], tags: { A: b } }, profile: web }
  - { name: any, match: { attached: "*", tags: { A: c } }, profile: none }
"#,
    );
    let at =
        |path_and_name: &str| format!("arn:aws:iam::123456789012:instance-profile/{path_and_name}");
    let arn = |name: &str| {
        if name.starts_with("arn") || name == "odd" { name.to_owned() } else { at(name) }
    };
    for (attached, tag, rule, demand) in [
        (Some("KarpenterNodeRole-main"), "b", "", "ignored"),
        // A pattern without a slash is about the name, whatever its path.
        (Some("karpenter/KarpenterNodeRole-main"), "b", "", "ignored"),
        (Some("eks/node/x"), "b", "", "ignored"),
        (Some("eks"), "z", "", "unmanaged"),
        (Some("my/eks/x"), "z", "", "unmanaged"),
        (Some("old-1"), "z", "old", "new"),
        (Some("any/path/old-1"), "z", "old", "new"),
        (Some("old-12"), "z", "", "unmanaged"),
        (Some("legacy/web"), "z", "old", "new"),
        (Some("web"), "z", "", "unmanaged"),
        (Some("arn:aws-cn:iam::111122223333:instance-profile/api"), "z", "old", "new"),
        (None, "b", "bare", "web"),
        (None, "z", "", "unmanaged"),
        (Some("xy"), "b", "bare", "web"),
        // Something is attached, whatever its name.
        (Some("none"), "b", "", "unmanaged"),
        (Some("none"), "c", "any", "none"),
        (Some("odd"), "c", "any", "none"),
        (None, "c", "", "unmanaged"),
    ] {
        let (instance, arn) = (instance(&[("A", tag)]), attached.map(arn));
        let region = Region::parse("us-east-1").unwrap();
        let subject = Subject {
            account: None,
            region: &region,
            instance: &instance,
            attached: arn.as_deref(),
        };
        let found = decided(&policy, &subject);
        assert_eq!((found.0.as_str(), found.1.as_str()), (rule, demand), "{attached:?}, {tag}");
    }
    assert!(!policy.reads_tag("attached"));
}

#[test]
fn a_rule_by_attached_is_hidden_only_by_what_covers_it() {
    let is_hidden = |first: &str, second: &str| {
        let yaml = format!(
            "version: 1\nrules:\n  - {{ name: a, match: {first}, profile: p }}\n  \
            - {{ name: b, match: {second}, profile: p }}\n"
        );
        let complaints = check(&yaml, &everything()).complaints;
        complaints.iter().any(|it| it.message.contains("\"b\" is never reached"))
    };
    for (first, second, hidden) in [
        ("{ attached: web }", "{ attached: web, vpc: vpc-1 }", true),
        ("{ attached: [none, 'w*'] }", "{ attached: [web, none] }", true),
        ("{ attached: '*' }", "{ attached: 'app/*' }", true),
        ("{}", "{ attached: none }", true),
        ("{ attached: '*' }", "{ attached: none }", false),
        ("{ attached: 'n*' }", "{ attached: none }", false),
        ("{ attached: none }", "{ attached: '*' }", false),
        ("{ attached: web }", "{}", false),
        // A name, and a path with a name.
        ("{ attached: 'web*' }", "{ attached: 'web/*' }", false),
        ("{ tags: { 'A*': '*' } }", "{ tags: { AB: x } }", true),
        ("{ tags: { 'A*': '*' } }", "{ tags: { 'AB?': x } }", true),
        ("{ tags: { 'A*': x } }", "{ tags: { AB: y } }", false),
        ("{ tags: { AB: x } }", "{ tags: { 'A*': x } }", false),
        ("{ tags: { 'A*': x } }", "{ tags: { B: x } }", false),
    ] {
        assert_eq!(is_hidden(first, second), hidden, "{first} before {second}");
    }
}

#[test]
fn stopped_instances_wait_or_swap_as_rule_or_setting_says() {
    let yaml = "version: 1\nrules:\n  \
        - { name: silent, match: { tags: { A: silent } }, profile: p }\n  \
        - { name: wait, match: { tags: { A: wait } }, profile: p, when-stopped: wait }\n  \
        - { name: swap, match: { tags: { A: swap } }, profile: p, when-stopped: swap }\n";
    let said = |policy: &Policy, key: &str, value: &str| {
        let instance = instance(&[(key, value)]);
        let region = Region::parse("us-east-1").unwrap();
        let subject =
            Subject { account: None, region: &region, instance: &instance, attached: None };
        policy.requirement(&subject).manner.when_stopped
    };
    for (default, silent) in [
        (None, WhenStopped::Wait),
        (Some(WhenStopped::Wait), WhenStopped::Wait),
        (Some(WhenStopped::Swap), WhenStopped::Swap),
    ] {
        let set = |policy: Policy| match default {
            None => policy,
            Some(default) => policy.with_when_stopped_default(default),
        };
        let policy = set(policy(yaml));
        assert_eq!(said(&policy, "A", "silent"), silent);
        assert_eq!(said(&policy, "A", "wait"), WhenStopped::Wait);
        assert_eq!(said(&policy, "A", "swap"), WhenStopped::Swap);
        assert_eq!(said(&set(Policy::named_by_tag("A", everything())), "A", "p"), silent);
    }
}

#[test]
fn the_shipped_policy_leaves_nodes_alone() {
    let policy = policy(include_str!("../../policy/policy.yaml"));
    let app = [("App", "shop"), ("Environment", "prod")];
    for node in [
        ("karpenter.sh/nodepool", "default"),
        ("eks:eks-cluster-name", "main"),
        ("eks:cluster-name", "main"),
        ("eks:nodegroup-name", "workers"),
        ("kubernetes.io/cluster/main", "owned"),
    ] {
        let tags: Vec<_> = app.into_iter().chain([node]).collect();
        assert_eq!(ruling(&policy, &instance(&tags)).1, "ignored", "{node:?}");
        assert!(policy.reads_tag(node.0), "{node:?}");
    }
    assert_eq!(ruling(&policy, &instance(&app)), ("per-app".to_owned(), "shop-prod".to_owned()));
}

#[test]
fn the_policy_names_the_tags_that_wake_it() {
    let policy = policy(EXAMPLE);
    let keys = ["eks:cluster-name", "InstanceProfile", "Tier", "Environment", "App", "Lifecycle"];
    assert!(keys.iter().all(|key| policy.reads_tag(key)));
    assert!(!policy.reads_tag("Name") && !policy.reads_tag("tier"));
}

#[test]
fn the_built_in_policy_is_the_file_that_it_prints() {
    for key in ["InstanceProfile", "a b/c:d", "näme", "quote\"d", "a*b"] {
        let (shipped, printed) = (Policy::named_by_tag(key, everything()), policy(&built_in(key)));
        for value in ["web", "", "a b", "arn:aws:iam::123456789012:instance-profile/app/web"] {
            for tags in [vec![(key, value)], vec![("Other", value)]] {
                let instance = instance(&tags);
                assert_eq!(ruling(&shipped, &instance), ruling(&printed, &instance), "{tags:?}");
            }
        }
    }
}

#[test]
fn a_bad_policy_is_refused_and_a_doubtful_one_is_warned_of() {
    let rule = |fields: &str| format!("version: 1\nrules:\n  - {{ name: a, {fields} }}\n");
    for (yaml, severity, line, part) in [
        ("version: 2\nrules: []".to_owned(), Severity::Error, 1, "version 2 is unknown"),
        ("rules: []".to_owned(), Severity::Error, 1, "version"),
        ("version: 1\nrule: []".to_owned(), Severity::Error, 2, "rule"),
        ("version: 1\nrules: []".to_owned(), Severity::Warning, 1, "no rules"),
        (rule("match: {}, profile: web, when: x"), Severity::Error, 3, "when"),
        (rule("match: { tag: {} }, profile: web"), Severity::Error, 3, "tag"),
        (rule("match: { tags: { A: [] } }, profile: web"), Severity::Error, 3, "empty list"),
        (rule("match: { tags: { A: 1 } }, profile: web"), Severity::Error, 3, "text"),
        (rule("match: { account: '12' }, profile: web"), Severity::Error, 3, "12 digits"),
        (rule("match: { platform: macos }, profile: web"), Severity::Error, 3, "linux or windows"),
        (rule("match: {}, profile: 'app/web'"), Severity::Error, 3, "app/web"),
        (rule("match: {}, profile: '${tag:A'"), Severity::Error, 3, "not closed"),
        (rule("match: {}, profile: '${tag:A}'"), Severity::Warning, 3, "does not demand"),
        (rule("match: {}, profile: web, when-different: maybe"), Severity::Error, 3, "maybe"),
        (
            rule("match: {}, profile: web, when-different: keep, when-absent: leave"),
            Severity::Warning,
            3,
            "does nothing",
        ),
        (
            rule("match: {}, profile: a }\n  - { name: a, match: {}, profile: b"),
            Severity::Error,
            4,
            "line 3 already",
        ),
        (
            rule("match: {}, profile: a }\n  - { name: b, match: { tags: { X: y } }, profile: b"),
            Severity::Warning,
            4,
            "never reached",
        ),
        (
            "version: 1\nignore: [{}]\nrules: []".to_owned(),
            Severity::Error,
            2,
            "ignores every instance",
        ),
        (rule("match: {}, profile: none"), Severity::Error, 3, "every instance"),
        (
            rule("match: { tags: { A: b } }, profile: none, when-different: keep"),
            Severity::Error,
            3,
            "beside profile: none",
        ),
        (rule("match: , profile: web"), Severity::Error, 3, "value is missing"),
        (rule("match: { tags: }, profile: web"), Severity::Error, 3, "value is missing"),
        ("\tversion: 1".to_owned(), Severity::Error, 1, ""),
        (String::new(), Severity::Error, 0, ""),
        ("x".repeat(1_000_001), Severity::Error, 0, "at most"),
    ] {
        let checked = check(&yaml, &everything());
        let found = checked.complaints.iter().find(|complaint| {
            (complaint.severity, complaint.message.contains(part)) == (severity, true)
        });
        let Some(found) = found else { panic!("{yaml:.200}: {:?}", checked.complaints) };
        assert!(line == 0 || found.line == line, "{yaml:.200}: {found}");
        assert_eq!(checked.policy.is_some(), severity == Severity::Warning, "{yaml:.200}");
    }
}

#[test]
fn a_profile_outside_the_allow_list_is_warned_of_where_it_is_written() {
    let yaml = "version: 1\nrules: [{ name: a, match: {}, profile: admin }]";
    let checked = check(yaml, &AllowList::parse("web,app/web-?").unwrap());
    let last = checked.complaints.last().unwrap();
    assert!(last.message.contains("never attached"), "{:?}", checked.complaints);
}

#[test]
fn the_allow_list_says_what_the_role_says() {
    #[derive(serde::Deserialize)]
    struct Row {
        patterns: String,
        path_and_name: String,
        allowed: bool,
    }
    // The template's tests hold the rendered role against the same table.
    let table = include_str!("../data/allow-list.json");
    let rows: Vec<Row> = serde_json::from_str(table).unwrap();
    assert!(rows.len() >= 60);
    for Row { patterns, path_and_name, allowed } in rows {
        let arn = format!("arn:aws:iam::123456789012:instance-profile/{path_and_name}");
        // What is no legal ARN cannot be a profile, so the list is not even asked.
        let found = ProfileArn::parse(&arn)
            .is_ok_and(|arn| AllowList::parse(&patterns).unwrap().allows(&arn));
        assert_eq!(found, allowed, "{patterns} against {path_and_name}");
    }
}

/// Values that try to get past the allow-list.
fn values() -> impl Strategy<Value = String> {
    prop_oneof![
        prop::sample::select(vec![
            "web",
            "admin",
            "app/web",
            "app/../admin",
            "../admin",
            "*",
            "w?b",
            "web ",
            " web",
            "WEB",
            "w\u{435}b",
            "web\u{200b}",
            "web\0",
            "arn:aws:iam::123456789012:instance-profile/admin",
            "arn:aws:iam::123456789012:instance-profile/app/../admin",
            "arn:aws:iam::123456789012:instance-profile/web",
            "arn:aws:iam::111122223333:instance-profile/web",
            "arn:aws:iam::123456789012:role/web",
            "arn:aws:iam::123456789012:instance-profile/app/*",
            "${tag:A}",
            "-",
            "admin,web",
        ])
        .prop_map(str::to_owned),
        "[a-z*?/.$:{}-]{0,12}",
        "\\PC{0,20}",
    ]
}

fn policies() -> impl Strategy<Value = String> {
    let profile = prop_oneof![
        Just("${tag:A}".to_owned()),
        Just("${tag:A}${tag:B}".to_owned()),
        Just("app-${tag:A}".to_owned()),
        Just("arn:aws:iam::123456789012:instance-profile/${tag:A}".to_owned()),
        Just("arn:aws:iam::${tag:A}:instance-profile/${tag:B}".to_owned()),
        values(),
    ];
    let manner = prop::sample::select(vec!["", ", when-different: keep", ", when-absent: leave"]);
    let rule = (profile, manner).prop_map(|(profile, manner)| {
        let profile = serde_json::Value::from(profile).to_string();
        format!("match: {{ tags: {{ A: '*' }} }}, profile: {profile}{manner}")
    });
    prop::collection::vec(rule, 1..4).prop_map(|rules| {
        let rules = rules
            .iter()
            .enumerate()
            .map(|(index, rule)| format!("  - {{ name: r{index}, {rule} }}\n"));
        format!("version: 1\nrules:\n{}", rules.collect::<String>())
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 800, ..ProptestConfig::default() })]

    #[test]
    fn nothing_whatever_leads_to_a_write_outside_the_allow_list(
        yaml in policies(), a in values(), b in values(),
        running in any::<bool>(), attached in prop::sample::select(vec![None, Some("db"), Some("web")]),
        allowed in prop::sample::select(vec!["web", "web,app/*", "app/*", "w?b", "app/web,db"]),
    ) {
        let allowed = AllowList::parse(allowed).unwrap();
        let Some(policy) = check(&yaml, &allowed).policy else { return Ok(()) };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time().start_paused(true).build().unwrap();
        let _entered = runtime.enter();
        let state = if running { "running" } else { "stopped" };
        let mut world = World::new()
            .profile("web").profile("db").profile("admin").profile_at("/app/", "api").profile_at("/app/../", "secret")
            .instance(ID, state, None, attached);
        world.instance_mut(ID).tags = Tags::from([("A".to_owned(), a), ("B".to_owned(), b)]);
        let cloud = FakeCloud::of(world);
        runtime.block_on(run(&policy, &cloud));
        let world = cloud.world();
        for write in &world.writes {
            let (Write::Associated { profile, .. } | Write::Replaced { profile, .. }) = write else { continue };
            let arn = ProfileArn::parse(&world.profiles[profile].arn()).unwrap();
            prop_assert!(allowed.allows(&arn), "{write:?} by {yaml}");
        }
    }

    #[test]
    fn no_text_makes_the_reader_panic(text in "\\PC{0,400}", cut in 0..800_usize) {
        let _ = check(&text, &everything());
        let cut = EXAMPLE.char_indices().nth(cut).map_or(EXAMPLE.len(), |(at, _)| at);
        let _ = check(&format!("{}{text}{}", &EXAMPLE[..cut], &EXAMPLE[cut..]), &everything());
    }

    #[test]
    fn the_index_agrees_with_asking_every_rule(
        tags in prop::collection::btree_map("[ABC]", "[xy]{0,2}", 0..4),
        rules in prop::collection::vec(prop::collection::btree_map("[ABC?*]", prop::collection::vec("[xy*?]{1,2}", 1..3), 0..3), 1..8),
    ) {
        let rules = rules.iter().enumerate().map(|(index, tags): (usize, &BTreeMap<String, Vec<String>>)| {
            format!("  - {{ name: r{index}, match: {{ tags: {} }}, profile: p{index} }}\n", serde_json::json!(tags))
        });
        let policy = policy(&format!("version: 1\nrules:\n{}", rules.collect::<String>()));
        let tags: Vec<(&str, &str)> = tags.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        // `ruling` compares the indexed answer with the trace through all rules.
        ruling(&policy, &instance(&tags));
    }
}

async fn run<C: Cloud>(policy: &Policy, cloud: &C) {
    let profiles = Profiles::default();
    let deadline = Instant::now() + Duration::from_mins(1);
    let pace = no_pace();
    Reconciler {
        cloud,
        profiles: &profiles,
        policy,
        pace: &pace,
        flapping: &FlapDetector::default(),
        write_ahead: Some(&Ledger::default()),
        deadline,
        now_ns: 0,
    }
    .run(vec![job(ID)])
    .await;
}

#[test]
fn a_file_of_too_many_aliases_is_refused_in_words() {
    let aliases = "*a, ".repeat(2_000);
    let many = format!(
        "version: 1\nrules: [{{ name: a, match: {{ tags: {{ A: [&a x, {aliases}] }} }}, profile: web }}]"
    );
    let complaints = check(&many, &everything()).complaints;
    assert!(complaints[0].message.contains("more levels, anchors or aliases"), "{complaints:?}");
}

#[test]
fn the_built_in_policy_says_which_tag_is_lacking() {
    let region = Region::parse("us-east-1").unwrap();
    let subject =
        Subject { account: None, region: &region, instance: &instance(&[]), attached: None };
    let demand = Policy::named_by_tag("App", everything()).requirement(&subject).demand;
    let Demand::Unmanaged { only_rule: Some(why) } = demand else { panic!("{demand:?}") };
    assert_eq!(why.to_string(), "the instance has no tag App");
}
