//! The built command-line tool: what it prints, what it answers with, what it asks of AWS and what it writes there.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says where")]

#[expect(dead_code, reason = "the other tests use the rest")]
mod common {
    pub mod wire;
    pub mod world;
}

#[path = "tool/ending.rs"]
mod ending;
#[path = "tool/session.rs"]
mod session;

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use auto_instance_profile::allow::AllowList;
use auto_instance_profile::policy::file::{MAX_BYTES, check, json_schema};
use common::wire::{Fault, Wire};
use common::world::{World, Write};
use proptest::prelude::*;
use serde_json::{Value, json};
use tokio::process::Command;

const ALLOWED: &str = "web*,shop-*,ssm-*";
const READS: [&str; 4] = [
    "DescribeInstances",
    "DescribeIamInstanceProfileAssociations",
    "DescribeTags",
    "GetInstanceProfile",
];

/// What a run left behind.
struct Ran {
    code: i32,
    out: String,
    err: String,
}

impl Ran {
    /// All of it, for a snapshot.
    fn all(&self) -> String {
        let err: String = self.err.lines().fold(String::new(), |mut text, line| {
            writeln!(text, "! {line}").unwrap();
            text
        });
        format!("{}{err}[exit {}]\n", self.out, self.code)
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn tool(args: &[&str]) -> Command {
    let mut tool = Command::new(env!("CARGO_BIN_EXE_auto-instance-profile"));
    // Nothing of the machine's own environment: no proxy, no profile, no credentials.
    tool.env_clear().args(args).current_dir(root()).stdin(Stdio::null()).kill_on_drop(true);
    tool
}

async fn run(args: &[&str]) -> Ran {
    end(tool(args)).await
}

async fn end(mut tool: Command) -> Ran {
    let output = tool.output().await.unwrap();
    Ran {
        code: output.status.code().unwrap(),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

/// The tool with an account behind it.
fn at(wire: &Wire, args: &[&str]) -> Command {
    let mut tool = tool(args);
    tool.env("AWS_ENDPOINT_URL", wire.endpoint())
        .env("AWS_REGION", "us-east-1")
        .env("AWS_ACCESS_KEY_ID", "ASIAIOSFODNN7EXAMPLE")
        .env("AWS_SECRET_ACCESS_KEY", "wJalrXUtnFEMI-K7MDENG-bPxRfiCYEXAMPLEKEY");
    tool
}

/// A file of this content in a directory of its own, for a test of this name.
fn file(test: &str, content: &[u8]) -> PathBuf {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("cli").join(test);
    fs::create_dir_all(&dir).unwrap();
    let file = dir.join("policy.yaml");
    fs::write(&file, content).unwrap();
    file
}

async fn check_file(test: &str, content: &[u8], more: &[&str]) -> Ran {
    let file = file(test, content);
    let mut tool = tool(&["check", "policy.yaml"]);
    tool.args(more).current_dir(file.parent().unwrap());
    end(tool).await
}

// ---- check ----------------------------------------------------------------------------------------------------------

/// A rule's lines under `rules:`, filled up to a policy.
fn with_rules(rules: &str) -> String {
    format!("version: 1\nrules:\n{rules}\n")
}

fn bad_policies() -> Vec<(&'static str, Vec<u8>)> {
    let web = "  - { name: web, match: { tags: { Tier: web } }, profile: web }\n";
    let rule = |rest: &str| with_rules(&format!("  - name: web\n    {rest}"));
    let texts = [
        ("an empty file", String::new()),
        ("only a comment", "# nothing\n".to_owned()),
        ("garbage", "}{ not a policy".to_owned()),
        ("a list", "- version: 1\n".to_owned()),
        ("no version", "rules: []\n".to_owned()),
        ("an unknown version", "version: 2\nrules: []\n".to_owned()),
        ("a version that is no number", "version: one\nrules: []\n".to_owned()),
        ("no rules", "version: 1\n".to_owned()),
        ("an empty list of rules", "version: 1\nrules: []\n".to_owned()),
        ("an unknown key at the top", "version: 1\nrule: []\n".to_owned()),
        ("an unknown key in a rule", rule("match: {}\n    profil: web")),
        ("an unknown key in a match", rule("match: { tag: { Tier: web } }\n    profile: web")),
        ("an unknown value", rule("match: {}\n    profile: web\n    when-different: keeps")),
        ("no match", rule("profile: web")),
        ("no profile", rule("match: {}")),
        ("a key twice", rule("match: {}\n    profile: web\n    profile: db")),
        ("tabs", "version: 1\nrules:\n\t- name: web\n".to_owned()),
        ("two documents", format!("{}---\nversion: 1\nrules: []\n", with_rules(web))),
        (
            "a rule name twice",
            with_rules(&format!("{web}{}", web.replace("Tier: web", "Tier: db"))),
        ),
        ("an empty rule name", with_rules("  - { name: \"\", match: {}, profile: web }")),
        (
            "a rule that is never reached",
            with_rules(&format!(
                "  - {{ name: any, match: {{ tags: {{ Tier: \"w*\" }} }}, profile: any }}\n{web}"
            )),
        ),
        ("an impossible account", rule("match: { account: 12345 }\n    profile: web")),
        ("an account as a number", rule("match: { account: 123456789012 }\n    profile: web")),
        ("an impossible Region", rule("match: { region: Ireland }\n    profile: web")),
        ("an impossible VPC", rule("match: { vpc: [vpc-1, VPC!] }\n    profile: web")),
        ("an impossible platform", rule("match: { platform: macos }\n    profile: web")),
        ("an empty list of values", rule("match: { tags: { Tier: [] } }\n    profile: web")),
        (
            "a tag's value that is a map",
            rule("match: { tags: { Tier: { a: b } } }\n    profile: web"),
        ),
        ("an empty tag key", rule("match: { tags: { \"\": web } }\n    profile: web")),
        (
            "an unclosed template",
            rule("match: { tags: { App: \"*\" } }\n    profile: \"${tag:App\""),
        ),
        ("a template of something else", rule("match: {}\n    profile: \"${env:HOME}\"")),
        (
            "a template over a tag that is not demanded",
            rule("match: {}\n    profile: \"${tag:App}-dev\""),
        ),
        ("a profile with a path", rule("match: {}\n    profile: app/web")),
        ("a pattern for a profile", rule("match: {}\n    profile: web-*")),
        ("an ARN of a role", rule("match: {}\n    profile: arn:aws:iam::123456789012:role/web")),
        ("an empty profile", rule("match: {}\n    profile: \"\"")),
        (
            "a rule that does nothing",
            rule("match: {}\n    profile: web\n    when-different: keep\n    when-absent: leave"),
        ),
        ("a manner of taking away", rule("match: {}\n    profile: none\n    when-different: keep")),
        ("ignoring everything", format!("ignore: [{{}}]\n{}", with_rules(web))),
        ("several at once", rule("match: { vpc: x!, tags: { Tier: [] } }\n    profile: \"a b\"")),
        ("aliases without end", {
            let mut text = "a: &a [x, x]\n".to_owned();
            for (name, of) in ('b'..='z').zip('a'..) {
                writeln!(
                    text,
                    "{name}: &{name} [*{of}, *{of}, *{of}, *{of}, *{of}, *{of}, *{of}, *{of}]"
                )
                .unwrap();
            }
            text
        }),
        ("brackets without end", "[".repeat(100_000)),
        ("two megabytes", format!("version: 1\nrules:\n{}", "# filler\n".repeat(2_000_000 / 9))),
    ];
    let mut files: Vec<_> =
        texts.into_iter().map(|(name, text)| (name, text.into_bytes())).collect();
    files.push(("no UTF-8", b"version: 1\nrules: [\xff]\n".to_vec()));
    files
}

#[tokio::test]
async fn complaints_name_file_line_and_column() {
    let mut all = String::new();
    for (what, content) in bad_policies() {
        let ran = check_file("complaints", &content, &[]).await;
        writeln!(all, "## {what}\n{}", ran.all()).unwrap();
    }
    insta::assert_snapshot!(all);
}

#[tokio::test]
async fn profiles_that_a_policy_spells_out_are_held_against_the_allow_list() {
    let policy =
        with_rules("  - { name: web, match: {}, profile: web-prod, when-different: keep }");
    let with = check_file("held", policy.as_bytes(), &["--allowed", "db,app-*"]).await;
    let without = check_file("held", policy.as_bytes(), &[]).await;
    let bad = check_file("held", policy.as_bytes(), &["--allowed", "/web"]).await;
    insta::assert_snapshot!([with, without, bad].map(|ran| ran.all()).join("\n"), @r#"
    policy.yaml: 0 errors, 0 warnings
    [exit 0]

    policy.yaml: 0 errors, 0 warnings
    The profiles it names were held against no allow-list; --allowed names one.
    [exit 0]

    ! error: invalid value '/web' for '--allowed <PATTERNS>': the allow-list has the pattern "/web"; a pattern is a profile's path and name without the leading slash (letters, digits, _+=.@-/ and the wildcards * and ?), such as web or app/*, and no ARN
    ! 
    ! For more information, try '--help'.
    [exit 1]
    "#);
}

#[tokio::test]
async fn the_example_passes() {
    let ran = run(&["check", "policy/policy.yaml", "--allowed", ALLOWED]).await;
    assert_eq!(ran.all(), "policy/policy.yaml: 0 errors, 0 warnings\n[exit 0]\n");
    let text = fs::read_to_string(root().join("policy/policy.yaml")).unwrap();
    assert!(text.starts_with("# yaml-language-server: $schema=policy.schema.json\n"));
}

#[tokio::test]
async fn the_built_in_policy_is_printed_as_a_file_that_passes() {
    let printed = run(&["check", "--print-default", "--tag-key", "my:\"Profile\" \\ ü"]).await;
    insta::assert_snapshot!(printed.all(), @r#"
    # yaml-language-server: $schema=policy.schema.json
    version: 1
    rules:
      - name: named-by-tag
        match: { tags: { "my:\"Profile\" \\ ü": "*" } }
        profile: "${tag:my:\"Profile\" \\ ü}"
    [exit 0]
    "#);
    let again = check_file("printed", printed.out.as_bytes(), &[]).await;
    assert_eq!(again.code, 0, "{}", again.all());
    assert_eq!(run(&["check", "--print-default", "--tag-key", "a}b"]).await.code, 1);
}

#[tokio::test]
async fn the_schema_in_the_repository_is_the_formats() {
    let kept = fs::read_to_string(root().join("policy/policy.schema.json")).unwrap();
    let hint = "auto-instance-profile check --print-schema > policy/policy.schema.json";
    assert!(
        kept == json_schema(),
        "policy.schema.json is not what the types say; make it again: {hint}"
    );
    assert_eq!(run(&["check", "--print-schema"]).await.out, kept);
    let schema: Value = serde_json::from_str(&kept).unwrap();
    assert_eq!(schema["properties"]["version"]["maximum"], 1);
    assert_eq!(schema["additionalProperties"], false);
}

// ---- The parser, whatever it is given -------------------------------------------------------------------------------

/// What a file of under a megabyte may take.
const PARSED_WITHIN: Duration = Duration::from_millis(100);
/// Without optimisation the same code takes so many times longer; CI's machines are slower than any that a person uses.
const ALLOWANCE: u32 = if cfg!(debug_assertions) { 20 } else { 2 };

fn parses_in_time(what: &str, yaml: &str) -> Duration {
    let allowed = AllowList::parse(ALLOWED).unwrap();
    let yaml = &yaml[..yaml.floor_char_boundary(MAX_BYTES)];
    let started = now();
    let checked = check(yaml, &allowed);
    let took = started.elapsed();
    assert!(checked.policy.is_some() || !checked.complaints.is_empty(), "{what}: no answer");
    assert!(took < PARSED_WITHIN * ALLOWANCE, "{what}: {} bytes took {took:?}", yaml.len());
    took
}

#[expect(clippy::disallowed_methods, reason = "how long the tool takes is what is tested")]
fn now() -> Instant {
    Instant::now()
}

/// Files of many rules: with as many as fit, and with as many as are taken.
fn files_of_rules() -> Vec<(&'static str, String)> {
    let rules = |rule: &dyn Fn(usize) -> String, at_most: usize| {
        let mut text = "version: 1\nrules:\n".to_owned();
        for number in 0..at_most {
            let next = rule(number);
            if text.len() + next.len() > MAX_BYTES {
                break;
            }
            text.push_str(&next);
        }
        text
    };
    let by_rules: [(&str, &dyn Fn(usize) -> String); 12] = [
        ("different rules", &|n| {
            format!("- {{name: r{n}, match: {{tags: {{A: v{n}}}}}, profile: web-{n}}}\n")
        }),
        ("rules by patterns", &|n| {
            format!("- {{name: r{n}, match: {{tags: {{A: \"v{n}x*\"}}}}, profile: web}}\n")
        }),
        ("rules by endings", &|n| {
            format!("- {{name: r{n}, match: {{tags: {{A: \"*x{n}\"}}}}, profile: web}}\n")
        }),
        ("rules by other keys", &|n| {
            format!("- {{name: r{n}, match: {{tags: {{A{n}: \"*\"}}}}, profile: web}}\n")
        }),
        ("rules by patterns of keys", &|n| {
            format!("- {{name: r{n}, match: {{tags: {{\"A{n}*\": \"*x\"}}}}, profile: web}}\n")
        }),
        ("rules by what is attached", &|n| {
            format!("- {{name: r{n}, match: {{attached: [\"a*{n}\", none]}}, profile: web-{n}}}\n")
        }),
        ("rules by Region", &|n| {
            format!("- {{name: r{n}, match: {{region: x-{n}}}, profile: web}}\n")
        }),
        ("rules never reached", &|n| format!("- {{name: r{n}, match: {{}}, profile: web}}\n")),
        ("one name again and again", &|_| "- {name: r, match: {}, profile: none}\n".to_owned()),
        ("templates", &|n| {
            format!(
                "- {{name: r{n}, match: {{tags: {{A: v{n}}}}}, profile: '${{tag:A}}-${{tag:B}}'}}\n"
            )
        }),
        ("long starry values", &|n| {
            format!(
                "- {{name: r{n}, match: {{tags: {{A: \"{}{n}\"}}}}, profile: web}}\n",
                "*a".repeat(100)
            )
        }),
        ("profiles that are not allowed", &|n| {
            format!("- {{name: r{n}, match: {{tags: {{A: v{n}}}}}, profile: x{n}}}\n")
        }),
    ];
    by_rules
        .iter()
        .flat_map(|(what, rule)| [(*what, rules(rule, usize::MAX)), (*what, rules(rule, 4_500))])
        .collect()
}

/// Files as large as they may be, each of which makes another part of the reading work hard.
fn large_files() -> Vec<(&'static str, String)> {
    let filled = |begin: &str, unit: &str, end: &str| {
        let room = MAX_BYTES - begin.len() - end.len();
        format!("{begin}{}{end}", unit.repeat(room / unit.len()))
    };
    let one_rule = "version: 1\nrules:\n  - name: a\n    profile: web\n    match: { tags: { K: ";
    let two_rules = |unit: &str| {
        let half = unit.repeat((MAX_BYTES / 2 - 200) / unit.len());
        format!(
            "version: 1\nrules:\n- {{ name: a, profile: web, match: {{ tags: {{ K: [{half}x] }} }} }}\n\
             - {{ name: b, profile: web, match: {{ tags: {{ K: [{half}y] }} }} }}\n"
        )
    };
    let mut files = files_of_rules();
    files.extend([
        ("one long list", filled(one_rule, "\"a*b\", ", "x] } }").replacen("K: ", "K: [", 1)),
        ("one long value", filled(one_rule, "*?", " } }")),
        ("two rules of many values", two_rules("a, ")),
        ("two rules of many patterns", two_rules("\"*a?*\", ")),
        ("two rules of different values", {
            let list = |from: usize| {
                (from..from + 50_000).fold(String::new(), |mut list, n| {
                    write!(list, "v{n}, ").unwrap();
                    list
                })
            };
            format!(
                "version: 1\nrules:\n- {{ name: a, profile: web, match: {{ tags: {{ K: [{}x] }} }} }}\n\
                 - {{ name: b, profile: web, match: {{ tags: {{ K: [{}y] }} }} }}\n",
                list(0),
                list(100_000)
            )
        }),
        (
            "many entries of ignore",
            filled("version: 1\nrules: []\nignore:\n", "- {tags: {a: b}}\n", ""),
        ),
        ("one map of many tags", {
            let mut text =
                "version: 1\nrules:\n- name: a\n  profile: web\n  match:\n    tags:\n".to_owned();
            for number in 0..45_000 {
                writeln!(text, "      k{number}: v").unwrap();
            }
            text
        }),
        ("two maps of many patterns of keys", {
            let map = |name: &str| {
                (0..11_000).fold(
                    format!("- name: {name}\n  profile: web\n  match:\n    tags:\n"),
                    |mut text, number| {
                        writeln!(text, "      \"*{number}x*\": v").unwrap();
                        text
                    },
                )
            };
            format!("version: 1\nrules:\n{}{}", map("a"), map("b"))
        }),
        ("a profile of many tags and what is attached", {
            let one = "version: 1\nrules:\n- name: a\n  match: { attached: [";
            let attached = format!("\"{}\", ", "*x".repeat(120)).repeat(400);
            let profile = "${tag:A}x".repeat(90_000);
            format!("{one}{attached}y] }}\n  profile: \"{profile}\"\n")
        }),
        ("brackets", "[".repeat(MAX_BYTES)),
        ("dashes", "- ".repeat(MAX_BYTES / 2)),
        ("braces", "{a: ".repeat(MAX_BYTES / 4)),
        ("questions", "? ".repeat(MAX_BYTES / 2)),
        ("tabs", "\t".repeat(MAX_BYTES)),
        ("line ends", "\n".repeat(MAX_BYTES)),
        ("documents", "---\n".repeat(MAX_BYTES / 4)),
        ("anchors", "&a ".repeat(MAX_BYTES / 3)),
        ("aliases", filled("a: &a [x]\nb: [", "*a, ", "x]")),
        ("merges", filled("a: &a {x: y}\n", "b: {<<: *a}\n", "")),
        ("quotes", "\"".repeat(MAX_BYTES)),
        ("one scalar", "a".repeat(MAX_BYTES)),
        ("a literal block", filled("version: |\n", "  a\n", "")),
        ("a folded block", filled("version: >\n", "  a\n\n", "")),
        ("escapes", filled("version: \"", "\\u00e9", "\"")),
        ("comments", "#\n".repeat(MAX_BYTES / 2)),
        ("digits", filled("version: ", "9", "\n")),
        ("underscores", filled("version: 1", "_", "\n")),
        ("zeros", "\0".repeat(MAX_BYTES)),
        ("line separators", "\u{2028}".repeat(MAX_BYTES / 3)),
    ]);
    files
}

#[test]
fn large_files_are_answered_in_time() {
    let mut slowest = (Duration::ZERO, "");
    for (what, yaml) in large_files() {
        let took = parses_in_time(what, &yaml);
        eprintln!("{what:32} {took:?}");
        slowest = slowest.max((took, what));
    }
    eprintln!("slowest: {slowest:?}");
}

/// Text that looks like a policy here and there.
fn nearly_a_policy() -> impl Strategy<Value = String> {
    let word = prop::sample::select(vec![
        "version",
        "1",
        "rules",
        "ignore",
        "name",
        "match",
        "tags",
        "profile",
        "none",
        "account",
        "region",
        "vpc",
        "instance-type",
        "platform",
        "when-different",
        "keep",
        "when-absent",
        "leave",
        "${tag:App}",
        "${",
        "}",
        ": ",
        ":\n",
        "\n",
        "\n  ",
        "\n    ",
        "- ",
        "- {",
        "{ ",
        " }",
        "[",
        "]",
        ", ",
        "\"",
        "'",
        "*",
        "?",
        "&a ",
        "*a ",
        "!!str ",
        "<<",
        "|",
        ">",
        "#",
        "---\n",
        "...\n",
        "%YAML 1.2\n",
        "\t",
        "~",
        "\u{feff}",
        "\0",
        "\r",
        "\u{85}",
        "é",
        "\u{202e}",
        "𝕏",
        "0x1f",
        "1e9",
        ".inf",
        "true",
        "0123456789012",
        "web-*",
    ]);
    prop::collection::vec(word, 0..200).prop_map(|words| words.concat())
}

/// The example with pieces cut out, doubled and put elsewhere.
fn a_broken_example() -> impl Strategy<Value = String> {
    let cut =
        (any::<prop::sample::Index>(), any::<prop::sample::Index>(), any::<prop::sample::Index>());
    prop::collection::vec(cut, 1..8).prop_map(|cuts| {
        let example = fs::read_to_string(root().join("policy/policy.yaml")).unwrap();
        let mut text: Vec<char> = example.chars().collect();
        for (from, length, to) in cuts {
            let from = from.index(text.len());
            let length = length.index(40).min(text.len() - from);
            let piece = text[from..from + length].to_vec();
            if length % 2 == 0 {
                text.drain(from..from + length);
            }
            let to = to.index(text.len().max(1));
            text.splice(to..to, piece);
        }
        text.into_iter().collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_text_is_answered(text in any::<String>()) {
        parses_in_time("any text", &text);
    }

    #[test]
    fn text_that_looks_like_a_policy_is_answered(text in nearly_a_policy()) {
        parses_in_time("nearly a policy", &text);
    }

    #[test]
    fn a_broken_policy_is_answered(text in a_broken_example()) {
        parses_in_time("a broken example", &text);
    }
}

// ---- explain --------------------------------------------------------------------------------------------------------

#[tokio::test]
async fn explain_tells_the_whole_story_offline() {
    let cases: &[&[&str]] = &[
        &["--tags", "Tier=web,Environment=prod"],
        &["--tags", "Tier=web,Environment=prod", "--state", "stopped", "--current", "web-old"],
        &[
            "--tags",
            "Tier=web,Environment=prod",
            "--current",
            "web-prod",
            "--account",
            "123456789012",
        ],
        &["--tags", "InstanceProfile=web,Tier=web,Environment=prod", "--region", "eu-west-1"],
        &["--tags", "InstanceProfile=admin", "--allowed", "web-prod", "--state", "pending"],
        &["--tags", "InstanceProfile=web", "--allowed", "app/*"],
        &["--tag", "InstanceProfile=a,b c"],
        &[
            "--tags",
            "InstanceProfile=arn:aws:iam::111122223333:instance-profile/web",
            "--account",
            "123456789012",
        ],
        &["--tags", "App=shop,Environment=dev"],
        &[
            "--tags",
            "App=shop,Environment=test",
            "--current",
            "arn:aws:iam::123456789012:instance-profile/x/old",
        ],
        &["--tags", "Lifecycle=retired", "--current", "web-old"],
        &["--tags", "Lifecycle=retired"],
        &["--tags", "Lifecycle=retired", "--current", "web-old", "--state", "terminated"],
        &["--tags", "eks:cluster-name=prod,Tier=web", "--current", "node"],
        &["--tags", "Tier=web,Environment=prod", "--managed-by", "eks.amazonaws.com"],
        &[],
    ];
    let mut all = String::new();
    for case in cases {
        let args: Vec<_> = ["explain", "policy/policy.yaml"].iter().chain(*case).copied().collect();
        writeln!(all, "$ {}\n{}", args.join(" "), run(&args).await.all()).unwrap();
    }
    insta::assert_snapshot!(all);
}

#[tokio::test]
async fn explain_matches_on_everything_that_a_rule_can_name() {
    let policy = with_rules(
        "  - { name: account, match: { account: \"111122223333\" }, profile: a }\n  \
         - { name: region, match: { region: \"eu-*\" }, profile: b }\n  \
         - { name: vpc, match: { vpc: vpc-1 }, profile: c }\n  \
         - { name: subnet, match: { subnet: subnet-1 }, profile: d }\n  \
         - { name: type, match: { instance-type: \"t3.*\" }, profile: e }\n  \
         - { name: platform, match: { platform: windows }, profile: f }\n  \
         - { name: group, match: { tags: { \"aws:autoscaling:groupName\": \"g-?\" } }, profile: g, when-absent: leave }",
    );
    let file = file("traits", policy.as_bytes());
    let mut all = String::new();
    for case in [
        &["--account", "111122223333"][..],
        &["--region", "eu-west-1"],
        &["--vpc", "vpc-1"],
        &["--subnet", "subnet-1"],
        &["--instance-type", "t3.micro"],
        &["--platform", "windows"],
        &["--tags", "aws:autoscaling:groupName=g-1"],
        &[],
    ] {
        let mut tool = tool(&["explain", "policy.yaml"]);
        tool.args(case).current_dir(file.parent().unwrap());
        let ran = end(tool).await;
        let rules = ran.out.split("\n\n").find(|part| part.starts_with("rules")).unwrap();
        writeln!(all, "{}\n{rules}\n", case.join(" ")).unwrap();
    }
    insta::assert_snapshot!(all);
}

#[tokio::test]
async fn what_is_wrong_on_the_command_line_is_named() {
    let mut all = String::new();
    for args in [
        &[][..],
        &["plan"],
        &["plan", "policy/policy.yaml"],
        &["plan", "policy/policy.yaml", "--tag-key", "Role", "--allowed", "*"],
        &["plan", "nowhere.yaml", "--allowed", "*"],
        &["plan", "policy/policy.yaml", "--allowed", "web,,db"],
        &["plan", "policy/policy.yaml", "--allowed", "*", "--filter", "tag:Name=x"],
        &["plan", "policy/policy.yaml", "--allowed", "*", "--region", "Ireland"],
        &["plan", "policy/policy.yaml", "--allowed", "*"],
        &["plan", "--tag-key", "a}b", "--allowed", "*"],
        &["apply", "policy/policy.yaml", "--allowed", "*"],
        &["apply", "policy/policy.yaml", "--allowed", "*", "--yes", "--writes-per-second", "0"],
        &["report", "policy/policy.yaml"],
        &["report", "policy/policy.yaml", "--allowed", "*", "--html"],
        &["replay", "--queue", "https://sqs.eu-west-1.amazonaws.com/123456789012/events"],
        &[
            "replay",
            "--queue",
            "events",
            "--dead-letter-queue",
            "https://sqs.eu-west-1.amazonaws.com/123456789012/dead",
        ],
        &["replay", "--queue", "http://q/1/a", "--dead-letter-queue", "http://q/1/a", "--yes"],
        &["replay", "--queue", "http://q/1/a", "--dead-letter-queue", "http://q/1/b"],
        &["replay", "--queue", "http://q/1/a", "--dead-letter-queue", "http://q/1/b", "--json"],
        &[
            "replay",
            "--queue",
            "http://q/1/a",
            "--dead-letter-queue",
            "http://q/1/b",
            "--yes",
            "--max",
            "0",
        ],
        &[
            "replay",
            "--queue",
            "https://sqs.eu-west-1.amazonaws.com/1/a",
            "--dead-letter-queue",
            "https://sqs.eu-west-2.amazonaws.com/1/b",
            "--yes",
        ],
        &["replay", "--queue", "http://q/1/a", "--dead-letter-queue", "http://q/1/b", "--yes"],
        &["explain", "i-xyz"],
        &["explain", "i-0abc", "--tags", "A=b"],
        &["explain", "policy/policy.yaml", "--tag-key", "Role"],
        &["explain", "policy/policy.yaml", "--tags", "A"],
        &["explain", "policy/policy.yaml", "--tags", "A=b,A=c"],
        &["explain", "policy/policy.yaml", "--state", "hibernating"],
        &["explain", "policy/policy.yaml", "--platform", "macos"],
        &["explain", "policy/policy.yaml", "--account", "1234"],
        &["explain", "policy/policy.yaml", "--current", "a b"],
        &["check"],
        &["completions", "tcsh"],
    ] {
        writeln!(all, "$ {}\n{}", args.join(" "), run(args).await.all()).unwrap();
    }
    insta::assert_snapshot!(all);
}

#[tokio::test]
async fn help_shows_examples() {
    insta::assert_snapshot!(run(&["--help"]).await.all());
    for command in ["check", "explain", "plan", "apply", "report", "replay", "completions"] {
        let help = run(&[command, "--help"]).await;
        assert_eq!(help.code, 0);
        assert!(help.out.contains("Examples:\n  "), "{}", help.out);
    }
}

#[tokio::test]
async fn shells_complete_commands_and_options() {
    for shell in ["bash", "zsh", "fish"] {
        let script = run(&["completions", shell]).await;
        assert_eq!(script.code, 0);
        for word in ["explain", "plan", "writes-per-second", "report", "dead-letter-queue"] {
            assert!(script.out.contains(word), "{shell}: {word}");
        }
    }
}

// ---- plan, apply and report, against EC2 and IAM over the wire --------------------------------------------------------------

const BARE: &str = "i-00000000000000001";
const WRONG: &str = "i-00000000000000002";
const STOPPED: &str = "i-00000000000000003";
const RETIRED: &str = "i-00000000000000004";
const RIGHT: &str = "i-00000000000000005";

/// One instance for each thing that a plan can say.
fn a_fleet() -> World {
    let mut world = World::new()
        .profile("web")
        .profile("web-prod")
        .profile("old")
        .profile("admin")
        .profile("ssm-baseline")
        .running(BARE, None, None)
        .running(WRONG, Some("web"), Some("old"))
        .stopped(STOPPED, Some("web"), Some("old"))
        .running(RETIRED, None, Some("old"))
        .running(RIGHT, Some("web"), Some("web"))
        .running("i-0a1", Some("admin"), None)
        .running("i-0a2", None, None)
        .running("i-0a3", None, Some("old"))
        .running("i-0a4", None, Some("old"))
        .running("i-0a5", Some("web"), None)
        .managed_by("i-0a5", "eks.amazonaws.com")
        .instance("i-0a6", "pending", Some("web"), None)
        .instance("i-0a7", "terminated", Some("web"), None);
    for (id, tags) in [
        (BARE, &[("Tier", "web"), ("Environment", "prod"), ("Name", "shop front \u{202e}")][..]),
        (WRONG, &[("Name", "api")]),
        (RETIRED, &[("Lifecycle", "retired")]),
        ("i-0a2", &[("App", "shop"), ("Environment", "dev")]),
        ("i-0a3", &[("eks:cluster-name", "prod")]),
        ("i-0a4", &[("Name", "somebody's")]),
    ] {
        let tags = tags.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        world.instance_mut(id).tags.extend(tags);
    }
    world
}

fn plan(wire: &Wire, more: &[&str]) -> Command {
    let mut tool = at(wire, &["plan", "policy/policy.yaml", "--allowed", ALLOWED]);
    tool.args(more);
    tool
}

fn apply(wire: &Wire, more: &[&str]) -> Command {
    let mut tool = at(wire, &["apply", "policy/policy.yaml", "--allowed", ALLOWED]);
    tool.args(more);
    tool
}

fn assert_only_reads(wire: &Wire) {
    assert_eq!(wire.writes(), []);
    for request in wire.requests() {
        assert!(READS.contains(&request.action.as_str()), "{request:?}");
    }
}

#[tokio::test]
async fn a_plan_says_what_would_be_done_and_does_nothing() {
    let wire = Wire::serve(a_fleet()).await;
    let ran = end(plan(&wire, &[])).await;
    insta::assert_snapshot!(ran.all());
    assert_only_reads(&wire);
}

#[tokio::test]
async fn a_plan_is_json_where_a_program_reads_it() {
    let wire = Wire::serve(a_fleet()).await;
    let ran = end(plan(&wire, &["--json"])).await;
    assert_eq!((ran.code, ran.err.as_str()), (2, ""));
    let plan: Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(plan["changes"], 3);
    assert_eq!(
        plan["counts"],
        json!({
            "associate": 1, "blocked": 2, "failed": 0, "keep": 1, "leave": 4, "remove": 1, "replace": 1, "swap": 0,
            "wait": 2,
        })
    );
    assert_eq!(plan["blocked"], json!({"not-allowed": 1, "profile-unknown": 1}));
    assert_eq!(
        plan["instances"][0],
        json!({
            "group": "change", "name": null, "instance-id": RETIRED, "account": "123456789012", "region": "us-east-1",
            "state": "running", "rule": "retired", "tags": {"Lifecycle": "retired"},
            "attached": "arn:aws:iam::123456789012:instance-profile/old", "required": null, "decision": "remove",
            "decision-row": 17, "reason-code": "none-required",
            "reason": "found arn:aws:iam::123456789012:instance-profile/old attached; none is required",
            "outcome": "planned",
        })
    );
    assert_eq!(plan["instances"].as_array().unwrap().len(), 12);
    assert_only_reads(&wire);
}

#[tokio::test]
async fn a_large_fleet_is_read_page_by_page_and_what_is_right_is_only_counted() {
    let ids: Vec<String> = (1..=450).map(|number| format!("i-{number:017x}")).collect();
    let world = World::new().profile("web").profile("old");
    let mut world = ids.iter().fold(world, |world, id| world.running(id, Some("web"), Some("web")));
    world.attach(&ids[123], "old");
    let wire = Wire::serve(world).await.in_pages_of(100);
    let ran = end(plan(&wire, &[])).await;
    insta::assert_snapshot!(ran.all(), @r#"
    450 instances in us-east-1, account 123456789012, by policy/policy.yaml, allowed web*,shop-*,ssm-*

    INSTANCE             NAME  STATE    RULE          ATTACHED  REQUIRED  ACTION   REASON
    i-0000000000000007c  -     running  named-by-tag  old       web       replace  other-profile

    449 instances that stay as they are were left out; --all lists them.

    Plan: 0 to associate, 1 to replace, 0 to swap, 0 to remove.
          449 right already
    Not known before it is tried: whether your credentials, or the function's role, may make these changes.
    [exit 2]
    "#);
    // The list in 5 pages; then 200, 200 and 50 instances in 2, 2 and 1 pages.
    assert_eq!(wire.requests_of("DescribeInstances").len(), 5 + 5);
    assert_eq!(wire.requests_of("DescribeInstances")[0].parameters["MaxResults"], "1000");
    // For all of them, and once more for the one that would be replaced, if its page was read after that answer.
    assert!(matches!(wire.requests_of("GetInstanceProfile").len(), 1 | 2));
    let all = end(plan(&wire, &["--all"])).await;
    assert!(ids.iter().all(|id| all.out.contains(id)));
    assert_only_reads(&wire);
}

#[tokio::test]
async fn nothing_to_do_and_nothing_found_are_told_from_something_to_do() {
    let wire =
        Wire::serve(World::new().profile("web").running(RIGHT, Some("web"), Some("web"))).await;
    assert_eq!(end(plan(&wire, &[])).await.code, 0);
    assert_eq!(end(plan(&wire, &["--json"])).await.code, 0);
    let wire = Wire::serve(World::new()).await;
    insta::assert_snapshot!(end(plan(&wire, &[])).await.all(), @r#"
    0 instances in us-east-1, account unknown, by policy/policy.yaml, allowed web*,shop-*,ssm-*

    Plan: 0 to associate, 0 to replace, 0 to swap, 0 to remove.
    Not known before it is tried: whether your credentials, or the function's role, may make these changes.
    [exit 0]
    "#);
}

#[tokio::test]
async fn a_filter_and_a_region_narrow_the_plan() {
    let wire = Wire::serve(a_fleet()).await;
    let ran = end(plan(
        &wire,
        &["--filter", "Name=tag:Name,Values=api,other", "--region", "eu-west-1", "--json"],
    ))
    .await;
    let plan: Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(plan["instances"].as_array().unwrap().len(), 1);
    assert_eq!(plan["instances"][0]["instance-id"], WRONG);
    assert_eq!(plan["region"], "eu-west-1");
    let list = &wire.requests_of("DescribeInstances")[0];
    assert_eq!(
        (list.parameters["Filter.1.Value.2"].as_str(), list.region.as_str()),
        ("other", "eu-west-1")
    );
}

#[tokio::test]
async fn the_built_in_policy_needs_no_file() {
    let wire = Wire::serve(a_fleet()).await;
    let ran =
        end(at(&wire, &["plan", "--tag-key", "InstanceProfile", "--allowed", "web", "--json"]))
            .await;
    let plan: Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(plan["changes"], 1, "{plan:#}");
    assert_eq!(plan["policy"], "the built-in policy (tag InstanceProfile)");
}

#[tokio::test]
async fn what_cannot_be_read_is_an_error() {
    let denied = Fault::Refuses(
        403,
        "UnauthorizedOperation",
        "You are not authorized to perform this operation. User: arn:aws:iam::123456789012:user/u is not authorized to perform: ec2:DescribeInstances because no identity-based policy allows it.",
    );
    let wire = Wire::serve(a_fleet()).await.once("DescribeInstances", denied);
    insta::assert_snapshot!(end(plan(&wire, &[])).await.all(), @r#"
    ! error: the instances cannot be listed: DescribeInstances was denied: the caller needs ec2:DescribeInstances on * (UnauthorizedOperation): You are not authorized to perform this operation. User: arn:aws:iam::123456789012:user/u is not authorized to perform: ec2:DescribeInstances because no identity-based policy allows it.
    [exit 1]
    "#);

    let bad_filter = Fault::Refuses(400, "InvalidParameterValue", "The filter 'colour' is invalid");
    let wire = Wire::serve(a_fleet()).await.once("DescribeInstances", bad_filter);
    insta::assert_snapshot!(end(plan(&wire, &["--filter", "Name=colour,Values=red"])).await.all(), @r#"
    ! error: the instances cannot be listed: DescribeInstances was rejected (InvalidParameterValue): The filter 'colour' is invalid
    [exit 1]
    "#);

    // One read of many fails: the rest of the plan stands.
    let gone = Fault::Refuses(500, "ServiceFailure", "try again");
    let world = World::new().profile("web").running(BARE, Some("web"), None);
    let wire = Wire::serve(world).await.always("GetInstanceProfile", gone);
    insta::assert_snapshot!(end(plan(&wire, &[])).await.all(), @r#"
    1 instance in us-east-1, account 123456789012, by policy/policy.yaml, allowed web*,shop-*,ssm-*

    INSTANCE             NAME  STATE    RULE          ATTACHED  REQUIRED  ACTION  REASON
    i-00000000000000001  -     running  named-by-tag  -         -         failed  a call to AWS failed: GetInstanceProfile did not get through (ServiceFailure): try again

    Plan: 0 to associate, 0 to replace, 0 to swap, 0 to remove.
          1 failed (1 Transient)
    Not known before it is tried: whether your credentials, or the function's role, may make these changes.
    [exit 1]
    "#);
}

#[tokio::test]
async fn without_credentials_the_tool_says_so() {
    let wire = Wire::serve(a_fleet()).await;
    let mut tool =
        tool(&["plan", "policy/policy.yaml", "--allowed", ALLOWED, "--region", "us-east-1"]);
    tool.env("AWS_ENDPOINT_URL", wire.endpoint()).env("AWS_EC2_METADATA_DISABLED", "true");
    insta::assert_snapshot!(end(tool).await.all(), @r#"
    ! error: there are no AWS credentials to call with; name a profile of AWS's configuration file by AWS_PROFILE, sign on by `aws sso login`, or set AWS_ACCESS_KEY_ID and what belongs to it: the credential provider was not enabled: no credentials found in chain. Attempted:
    !   Environment: the credential provider was not enabled: environment variable not set
    !   Profile: the credential provider was not enabled
    !   WebIdentityToken: the credential provider was not enabled: $AWS_WEB_IDENTITY_TOKEN_FILE was not set
    !   EcsContainer: the credential provider was not enabled: ECS provider not configured
    !   Ec2InstanceMetadata: the credential provider was not enabled: IMDS disabled by AWS_EC2_METADATA_DISABLED env var set to `true`
    [exit 1]
    "#);
}

#[tokio::test]
async fn colours_are_for_terminals_and_those_who_want_them() {
    let wire = Wire::serve(a_fleet()).await;
    assert!(!end(plan(&wire, &[])).await.out.contains('\u{1b}'));
    let mut forced = plan(&wire, &[]);
    forced.env("CLICOLOR_FORCE", "1");
    assert!(end(forced).await.out.contains("\u{1b}[38;5;9m"));
    let mut refused = plan(&wire, &[]);
    refused.env("CLICOLOR_FORCE", "1").env("NO_COLOR", "1");
    assert!(!end(refused).await.out.contains('\u{1b}'));
}

#[tokio::test]
async fn explain_looks_at_a_real_instance() {
    let wire = Wire::serve(a_fleet()).await;
    let mut all = String::new();
    for id in [STOPPED, RETIRED, "i-0a2", "i-0a5", "i-0bad"] {
        let args = ["explain", id, "--policy", "policy/policy.yaml", "--allowed", ALLOWED];
        let ran = end(at(&wire, &args)).await;
        writeln!(all, "$ {}\n{}", args.join(" "), ran.all()).unwrap();
    }
    insta::assert_snapshot!(all);
    assert_only_reads(&wire);
}

#[tokio::test]
async fn apply_brings_about_what_was_planned() {
    let wire = Wire::serve(a_fleet()).await;
    let ran = end(apply(&wire, &["--yes", "--writes-per-second", "50"])).await;
    assert_eq!(ran.code, 0, "{}", ran.all());
    // Side by side, they end in any order.
    let mut lines: Vec<_> =
        ran.out.lines().filter_map(|line| Some(line.split_once("/3] ")?.1)).collect();
    lines.sort_unstable();
    insta::assert_snapshot!(lines.join("\n"), @r#"
    i-00000000000000001 associated: nothing -> web-prod
    i-00000000000000002 replaced: old -> web
    i-00000000000000004 removed: old -> nothing
    "#);
    assert!(ran.out.ends_with("3 of 3 changes done.\n"), "{}", ran.out);
    let mut writes = wire.writes();
    writes.sort_by_key(|write| format!("{write:?}"));
    let of = |instance: &str, profile: &str| (instance.to_owned(), profile.to_owned());
    let associated = |(instance, profile)| Write::Associated { instance, profile };
    let disassociated = |(instance, profile)| Write::Disassociated { instance, profile };
    let replaced = |(instance, profile)| Write::Replaced { instance, profile };
    assert_eq!(
        writes,
        [
            associated(of(BARE, "web-prod")),
            disassociated(of(RETIRED, "old")),
            replaced(of(WRONG, "web")),
        ]
    );
    // Nothing is left to do, and saying so takes no yes.
    assert_eq!(end(plan(&wire, &[])).await.code, 0);
    let again = end(apply(&wire, &["--yes"])).await;
    assert_eq!((again.code, wire.writes().len()), (0, 3), "{}", again.all());
}

#[tokio::test]
async fn apply_answers_programs_in_json() {
    let wire = Wire::serve(a_fleet()).await;
    let ran = end(apply(&wire, &["--yes", "--json", "--filter", "Name=tag:Name,Values=api"])).await;
    let answer: Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(
        (&answer["changes"], &answer["done"], &answer["not-done"]),
        (&json!(1), &json!(1), &json!(0))
    );
    assert_eq!(answer["instances"][0]["outcome"], "replaced");
}

#[tokio::test]
async fn apply_does_nothing_without_a_yes() {
    let wire = Wire::serve(a_fleet()).await;
    let ran = end(apply(&wire, &[])).await;
    assert_eq!(
        ran.all(),
        "! error: nothing was changed: without a terminal to ask at, apply needs --yes\n[exit 1]\n"
    );
    assert_eq!(wire.requests().len(), 0);
}

#[tokio::test]
async fn apply_keeps_its_pace() {
    let world = (0..6).fold(World::new().profile("web"), |world, number| {
        world.running(&format!("i-0c{number}"), Some("web"), None)
    });
    let wire = Wire::serve(world).await;
    let started = now();
    let ran = end(apply(&wire, &["--yes", "--writes-per-second", "5"])).await;
    assert_eq!((ran.code, wire.writes().len()), (0, 6), "{}", ran.all());
    // The first at once, five more 200 ms apart.
    assert!(started.elapsed() >= Duration::from_secs(1), "{:?}", started.elapsed());
}

#[tokio::test]
async fn a_change_that_fails_is_reported_and_stops_no_other() {
    let denied = Fault::Refuses(
        403,
        "UnauthorizedOperation",
        "You are not authorized to perform this operation. User: arn:aws:iam::123456789012:user/u is not authorized to perform: iam:PassRole on resource: arn:aws:iam::123456789012:role/web-role because no identity-based policy allows it.",
    );
    let wire = Wire::serve(a_fleet()).await.always("ReplaceIamInstanceProfileAssociation", denied);
    let ran = end(apply(&wire, &["--yes", "--writes-per-second", "50"])).await;
    assert_eq!((ran.code, wire.writes().len()), (1, 2), "{}", ran.all());
    let failed = ran.out.lines().find(|line| line.contains("failed:")).unwrap();
    insta::assert_snapshot!(failed.split_once("] ").unwrap().1, @"i-00000000000000002 failed: a call to AWS failed: ReplaceIamInstanceProfileAssociation was denied: the caller needs iam:PassRole on arn:aws:iam::123456789012:role/web-role (UnauthorizedOperation): You are not authorized to perform this operation. User: arn:aws:iam::123456789012:user/u is not authorized to perform: iam:PassRole on resource: arn:aws:iam::123456789012:role/web-role because no identity-based policy allows it.");
    assert!(ran.out.ends_with("2 of 3 changes done, 1 not done.\n"), "{}", ran.out);
}

// ---- report ---------------------------------------------------------------------------------------------------------

/// The fleet above, of which some come up bare because of what launches them.
fn a_fleet_with_sources() -> World {
    let mut world = a_fleet();
    for (id, key, name) in [
        (BARE, "aws:autoscaling:groupName", "shop"),
        ("i-0a1", "aws:autoscaling:groupName", "shop"),
        ("i-0a2", "aws:cloudformation:stack-name", "shop-dev"),
        ("i-0a6", "aws:autoscaling:groupName", "shop"),
        // It has a profile.
        (RIGHT, "aws:autoscaling:groupName", "web"),
    ] {
        world.instance_mut(id).tags.insert(key.to_owned(), name.to_owned());
    }
    world
}

fn report(wire: &Wire, more: &[&str]) -> Command {
    let mut tool = at(wire, &["report", "policy/policy.yaml", "--allowed", ALLOWED]);
    tool.args(more);
    tool
}

/// A report without its time, which is now.
fn timeless(report: &str) -> String {
    let (before, rest) = report.split_once("as of ").unwrap();
    let (time, after) = rest.split_once('\n').unwrap();
    assert!(time.len() == 20 && time.ends_with('Z'), "{time}");
    format!("{before}as of …\n{after}")
}

#[tokio::test]
async fn a_report_says_where_the_fleet_stands_and_does_nothing() {
    let wire = Wire::serve(a_fleet_with_sources()).await;
    let ran = end(report(&wire, &[])).await;
    insta::assert_snapshot!(timeless(&ran.all()));
    let all = end(report(&wire, &["--all"])).await;
    let listed = |ran: &Ran| ran.out.lines().filter(|line| line.starts_with("i-")).count();
    assert_eq!((listed(&ran), listed(&all), ran.code, all.code), (7, 12, 2, 2), "{}", all.all());
    assert_only_reads(&wire);
    // Once each, and each profile once: nothing by instance, nothing twice. And all of that twice.
    assert_eq!(wire.requests_of("DescribeInstances").len(), 2);
    assert_eq!(wire.requests_of("DescribeIamInstanceProfileAssociations").len(), 2);
    assert_eq!(wire.requests_of("DescribeTags").len(), 0);
}

#[tokio::test]
async fn a_report_is_json_where_a_program_reads_it() {
    let wire = Wire::serve(a_fleet_with_sources()).await;
    let ran = end(report(&wire, &["--json"])).await;
    assert_eq!((ran.code, ran.err.as_str()), (2, ""));
    let report: Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(
        report["counts"],
        json!({
            "instances": 12, "right": 1, "wrong": 3, "blocked": 2, "left": 4, "failed": 0, "waiting": 2, "stuck": 0,
        })
    );
    assert_eq!(report["blocked"], json!({"not-allowed": 1, "profile-unknown": 1}));
    assert_eq!(
        report["bare-sources"],
        json!([
            {"source": "auto-scaling-group shop", "count": 2},
            {"source": "cloudformation-stack shop-dev", "count": 1},
        ])
    );
    assert_eq!(
        report["instances"][2],
        json!({
            "standing": "change", "stuck": false, "name": "shop front \u{202e}",
            "launch-source": "auto-scaling-group shop", "instance-id": BARE, "account": "123456789012",
            "region": "us-east-1", "state": "running", "rule": "web",
            "tags": {"Environment": "prod", "Tier": "web"}, "attached": null,
            "required": "arn:aws:iam::123456789012:instance-profile/web-prod", "decision": "associate",
            "decision-row": 7, "reason-code": "bare",
            "reason": "found nothing attached; arn:aws:iam::123456789012:instance-profile/web-prod is required",
            "outcome": "planned",
        })
    );
    assert_counts_what_it_lists(&report);
    assert_is_as_the_sample(&report);
}

/// The page filters its rows by what it counts.
fn assert_counts_what_it_lists(report: &Value) {
    let rows = report["instances"].as_array().unwrap();
    let number = |is: &dyn Fn(&&Value) -> bool| json!(rows.iter().filter(is).count());
    let sum = |by: &Value| {
        json!(by.as_object().unwrap().values().map(|number| number.as_u64().unwrap()).sum::<u64>())
    };
    for (count, standing) in [("right", "right"), ("wrong", "change"), ("waiting", "waiting")] {
        assert_eq!(report["counts"][count], number(&|row| row["standing"] == standing), "{count}");
    }
    for (standing, reason) in
        [("blocked", "/reason-code"), ("left", "/reason-code"), ("failed", "/error/type")]
    {
        assert_eq!(report["counts"][standing], sum(&report[standing]), "{standing}");
        for (code, count) in report[standing].as_object().unwrap() {
            let is = |row: &&Value| {
                row["standing"] == standing
                    && row.pointer(reason).and_then(Value::as_str) == Some(code)
            };
            assert_eq!(*count, number(&is), "{standing} {code}");
        }
    }
    for source in report["bare-sources"].as_array().unwrap() {
        assert_eq!(source["count"], number(&|row| row["launch-source"] == source["source"]));
    }
}

/// The page is tested on the sample.
fn assert_is_as_the_sample(report: &Value) {
    let sample = fs::read_to_string(root().join("tests/python/report_sample.json")).unwrap();
    let sample: Value = serde_json::from_str(&sample).unwrap();
    let keys = |value: &Value| {
        value.as_object().unwrap().keys().filter(|key| *key != "error").cloned().collect::<Vec<_>>()
    };
    assert_eq!(keys(report), keys(&sample));
    assert_eq!(keys(&report["counts"]), keys(&sample["counts"]));
    assert_eq!(keys(&report["bare-sources"][0]), keys(&sample["bare-sources"][0]));
    for row in report["instances"].as_array().unwrap() {
        assert_eq!(keys(row), keys(&sample["instances"][0]), "{row}");
    }
}

#[tokio::test]
async fn a_report_is_a_page_that_holds_the_same() {
    let mut world = a_fleet_with_sources();
    world.instance_mut(BARE).tags.insert("Name".to_owned(), "</script><b>".to_owned());
    let wire = Wire::serve(world).await;
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("cli").join("page");
    let _ = fs::remove_dir_all(&dir);
    fs::create_dir_all(&dir).unwrap();
    let file = dir.join("report.html");
    fs::write(&file, "an older one").unwrap();
    let ran = end(report(&wire, &["--json", "--html", file.to_str().unwrap()])).await;
    assert_eq!(ran.code, 2, "{}", ran.all());
    assert_eq!(ran.err, format!("The report is in {}\n", file.canonicalize().unwrap().display()));
    let page = fs::read_to_string(&file).unwrap();
    let begin = "<script type=\"application/json\" id=\"data\">";
    let (_, data) = page.split_once(begin).unwrap();
    let (data, rest) = data.split_once("</script>").unwrap();
    assert!(rest.starts_with("\n<script>\n\"use strict\";") && !data.contains('<'), "{data}");
    let shown: Value = serde_json::from_str(data).unwrap();
    assert_eq!(shown, serde_json::from_str::<Value>(&ran.out).unwrap());
    let names: Vec<_> =
        shown["instances"].as_array().unwrap().iter().map(|row| &row["name"]).collect();
    assert!(names.contains(&&json!("</script><b>")), "{names:?}");
    let beside: Vec<_> = fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(beside, [file], "nothing else is left");

    let nowhere = dir.join("nowhere").join("report.html");
    let ran = end(report(&wire, &["--html", nowhere.to_str().unwrap()])).await;
    assert_eq!(ran.code, 1);
    assert!(ran.out.contains("not right."), "what was found is shown all the same: {}", ran.out);
    assert!(ran.err.contains("report.html cannot be written"), "{}", ran.err);
}

#[tokio::test]
async fn a_reports_exit_code_says_whether_all_is_well() {
    let right =
        || World::new().profile("web").profile("old").running(RIGHT, Some("web"), Some("web"));
    let wire = Wire::serve(right().running("i-0a3", None, Some("old"))).await;
    insta::assert_snapshot!(timeless(&end(report(&wire, &[])).await.all()), @r#"
    2 instances in us-east-1, account 123456789012, by policy/policy.yaml, allowed web*,shop-*,ssm-*, as of …

    Nothing is wrong.
          1 left alone (1 fills-gaps-only)
          1 right

    Not listed: 2 instances, right or left alone; --all lists them.
    [exit 0]
    "#);
    let wire = Wire::serve(right().running(WRONG, Some("web"), Some("old"))).await;
    assert_eq!(end(report(&wire, &[])).await.code, 2);
    let wire = Wire::serve(right().running(WRONG, Some("admin"), None)).await;
    assert_eq!(end(report(&wire, &["--json"])).await.code, 2);

    let gone = Fault::Refuses(500, "ServiceFailure", "try again");
    let wire = Wire::serve(right().running(BARE, Some("web"), None)).await;
    let wire = wire.always("GetInstanceProfile", gone);
    insta::assert_snapshot!(timeless(&end(report(&wire, &[])).await.all()), @r#"
    2 instances in us-east-1, account 123456789012, by policy/policy.yaml, allowed web*,shop-*,ssm-*, as of …

    INSTANCE             NAME  STATE    RULE          ATTACHED  REQUIRED  STANDING  REASON
    i-00000000000000001  -     running  named-by-tag  -         -         failed    a call to AWS failed: GetInstanceProfile did not get through (ServiceFailure): try again
    i-00000000000000005  -     running  named-by-tag  web       -         failed    a call to AWS failed: GetInstanceProfile did not get through (ServiceFailure): try again

    2 of 2 instances are not right.
          2 failed (2 Transient)
    [exit 1]
    "#);
    let failed = end(report(&wire, &["--json"])).await;
    assert_counts_what_it_lists(&serde_json::from_str(&failed.out).unwrap());

    let denied = Fault::Refuses(
        403,
        "UnauthorizedOperation",
        "You are not authorized to perform this operation.",
    );
    let wire = Wire::serve(right()).await.always("DescribeIamInstanceProfileAssociations", denied);
    insta::assert_snapshot!(end(report(&wire, &[])).await.all(), @r#"
    ! error: the instances cannot be listed: DescribeIamInstanceProfileAssociations was denied: the caller needs ec2:DescribeIamInstanceProfileAssociations on * (UnauthorizedOperation): You are not authorized to perform this operation.
    [exit 1]
    "#);
    let wire = Wire::serve(World::new()).await;
    insta::assert_snapshot!(timeless(&end(report(&wire, &[])).await.all()), @r#"
    0 instances in us-east-1, account unknown, by policy/policy.yaml, allowed web*,shop-*,ssm-*, as of …

    There is nothing here, or the filters let nothing through.
    [exit 0]
    "#);
}

#[tokio::test]
async fn a_large_fleet_is_reported_on_in_pages_and_filters_narrow_it() {
    let ids: Vec<String> = (1..=450).map(|number| format!("i-{number:017x}")).collect();
    let world = World::new().profile("web");
    let attached = |number| (number < 250).then_some("web");
    let world = (0..)
        .zip(&ids)
        .fold(world, |world, (number, id)| world.running(id, Some("web"), attached(number)));
    let wire = Wire::serve(world).await.in_pages_of(100);
    let ran =
        end(report(&wire, &["--json", "--filter", "Name=tag:InstanceProfile,Values=web"])).await;
    let report: Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(
        (&report["counts"]["right"], &report["counts"]["wrong"]),
        (&json!(250), &json!(200))
    );
    // Where filters narrow it, the associations of each page are asked for.
    assert_eq!(wire.requests_of("DescribeIamInstanceProfileAssociations").len(), 5);
    let lists = wire.requests_of("DescribeInstances");
    assert_eq!(lists.len(), 5);
    assert!(lists.iter().all(|list| list.parameters["Filter.1.Value.1"] == "web"));
    assert_eq!(wire.requests_of("GetInstanceProfile").len(), 1);
}
