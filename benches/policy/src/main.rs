//! How long a policy of 1,000 rules takes over 10,000 instances, on one core, beside a loop that asks every rule.
//!
//! Usage: `make bench-policy`.
#![expect(clippy::print_stdout, reason = "the table is what it is for")]

use std::fmt::Write as _;
use std::hint::black_box;
use std::time::{Duration, Instant};

use auto_instance_profile::allow::AllowList;
use auto_instance_profile::decide::decide;
use auto_instance_profile::model::{
    Instance, InstanceFacts, InstanceId, InstanceState, Keeper, Platform, Region, TagSource, Tags,
};
use auto_instance_profile::policy::rule::Subject;
use auto_instance_profile::policy::{Policy, file};

const RULES: usize = 1_000;
const INSTANCES: usize = 10_000;
const ROUNDS: usize = 7;

fn main() {
    let yaml = policy_file();
    let allowed = AllowList::parse("*").expect("a star is a pattern");
    let (reading, checked) = median(|| file::check(&yaml, &allowed));
    let policy = checked.policy.expect("the bench's own policy is right");
    let fleet: Vec<InstanceFacts> = (0..INSTANCES).map(instance).collect();
    let region = Region::parse("us-east-1").expect("a Region");

    let (indexed, decisions) = median(|| decisions(&policy, &fleet, &region));
    let (naive, agreeing) = median(|| by_asking_every_rule(&policy, &fleet, &region));
    assert_eq!(decisions, agreeing, "both ways decide alike");

    println!("| {RULES} rules, {INSTANCES} instances, one core | median of {ROUNDS} |");
    println!("|---|--:|");
    println!("| reading and checking the file ({} kB) | {reading:.1?} |", yaml.len() / 1000);
    println!("| deciding, by the index | {indexed:.1?} |");
    let ratio = naive.as_secs_f64() / indexed.as_secs_f64();
    println!("| deciding, asking rule by rule | {naive:.1?}, {ratio:.0} times as long |");
    println!();
    println!("| a file of nearly 1 MB that tries to take long | reading it | it is |");
    println!("|---|--:|---|");
    for (what, yaml) in hostile_files() {
        let (reading, checked) = median(|| file::check(&yaml, &allowed));
        let verdict = if checked.policy.is_some() { "a policy" } else { "refused" };
        println!("| {what} | {reading:.1?} | {verdict} |");
    }
}

/// Files as large as they may be, each hard on another part of the reader or of its checks.
fn hostile_files() -> Vec<(&'static str, String)> {
    let filled = |head: &str, piece: &dyn Fn(usize) -> String| {
        let mut yaml = head.to_owned();
        let mut number = 0;
        while yaml.len() < file::MAX_BYTES - 200 {
            yaml.push_str(&piece(number));
            number += 1;
        }
        yaml
    };
    let rules = "version: 1\nrules:\n";
    vec![
        (
            "rules by one tag",
            filled(rules, &|n| {
                format!("  - {{ name: r{n}, match: {{ tags: {{ A: v{n} }} }}, profile: p }}\n")
            }),
        ),
        (
            "rules by one wildcard each",
            filled(rules, &|n| {
                format!("  - {{ name: r{n}, match: {{ tags: {{ A: '*{n}*' }} }}, profile: p }}\n")
            }),
        ),
        (
            "rules by Region",
            filled(rules, &|n| {
                format!("  - {{ name: r{n}, match: {{ region: 'r-{n}' }}, profile: p }}\n")
            }),
        ),
        (
            "one list of patterns",
            filled("version: 1\nrules: [{ name: r, profile: p, match: { tags: { A: [", &|n| {
                format!("'*{n}?', ")
            }),
        ),
        ("levels", filled("version: ", &|_| "[".to_owned())),
        ("aliases", filled("a: &a [x]\nrules: [", &|_| "*a, ".to_owned())),
        ("one text", filled("version: \"", &|_| "x".to_owned())),
        ("comments", filled("", &|_| "#\n".to_owned())),
    ]
}

/// A policy as a large organisation would write it: most rules about one application in one environment, some by
/// wildcard, and a baseline for the rest.
fn policy_file() -> String {
    let mut yaml = String::from("version: 1\nrules:\n");
    for rule in 0..RULES - 1 {
        let matching = match rule % 10 {
            0 => format!("{{ Team: \"team-{rule}-*\" }}"),
            1 => format!("{{ App: [app-{rule}, app-{rule}-blue], Environment: \"*\" }}"),
            _ => format!("{{ App: app-{rule}, Environment: [prod, dev] }}"),
        };
        let _ = writeln!(
            yaml,
            "  - {{ name: rule-{rule}, match: {{ tags: {matching} }}, profile: p-{rule} }}"
        );
    }
    yaml.push_str(
        "  - { name: baseline, match: {}, profile: ssm-baseline, when-different: keep }\n",
    );
    yaml
}

/// An instance with ten tags, as many as a large organisation demands; every third is matched by the baseline alone.
fn instance(number: usize) -> InstanceFacts {
    let app = if number.is_multiple_of(3) {
        "unknown".to_owned()
    } else {
        format!("app-{}", number % RULES)
    };
    let mut tags: Tags =
        (0..7).map(|tag| (format!("Tag{tag}"), format!("value-{number}"))).collect();
    tags.insert("App".to_owned(), app);
    tags.insert("Environment".to_owned(), "prod".to_owned());
    tags.insert("Team".to_owned(), format!("team-{number}"));
    let instance = Instance {
        id: InstanceId::parse(&format!("i-{number:017x}")).expect("an id"),
        account: None,
        state: InstanceState::Running,
        tags,
        keeper: Keeper::Owner,
        vpc: Some("vpc-1".to_owned()),
        subnet: Some("subnet-1".to_owned()),
        instance_type: Some("t3.micro".to_owned()),
        platform: Platform::Linux,
        started: None,
    };
    InstanceFacts { instance, association: None, tags_by: TagSource::Instances }
}

fn decisions(policy: &Policy, fleet: &[InstanceFacts], region: &Region) -> Vec<String> {
    let decide_one = |facts: &InstanceFacts| {
        let subject = Subject { account: None, region, instance: &facts.instance, attached: None };
        let requirement = policy.requirement(&subject);
        black_box(decide(&requirement, facts));
        requirement.rule.unwrap_or_default()
    };
    fleet.iter().map(decide_one).collect()
}

fn by_asking_every_rule(policy: &Policy, fleet: &[InstanceFacts], region: &Region) -> Vec<String> {
    let ask = |facts: &InstanceFacts| {
        let subject = Subject { account: None, region, instance: &facts.instance, attached: None };
        let matching = policy.rules().iter().find(|rule| rule.matching.matches(&subject));
        matching.map(|rule| rule.name.clone()).unwrap_or_default()
    };
    fleet.iter().map(ask).collect()
}

#[expect(clippy::disallowed_methods, reason = "how long it really takes is the question")]
fn median<T>(mut work: impl FnMut() -> T) -> (Duration, T) {
    let mut times = Vec::with_capacity(ROUNDS);
    let mut last = work();
    for _ in 0..ROUNDS {
        let started = Instant::now();
        last = black_box(work());
        times.push(started.elapsed());
    }
    times.sort();
    (times[ROUNDS / 2], last)
}
