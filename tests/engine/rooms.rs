//! Who may use what: the table in ARCHITECTURE.md, by the words in each file.

use std::fs;
use std::path::Path;

/// Words that a file must not hold, outside its tests.
#[expect(clippy::too_many_lines, reason = "it is a table")]
fn forbidden(file: &str) -> &'static [&'static str] {
    const PURE: &[&str] = &[
        "aws_sdk_",
        "aws_config",
        "tokio",
        "tracing",
        "std::env",
        "async ",
        "Instant",
        "SystemTime",
        "lambda_runtime",
        "crate::cloud",
        "crate::config",
        "crate::reconcile",
        "crate::report",
        "crate::handler",
        "crate::profiles",
    ];
    match file {
        "model.rs"
        | "allow.rs"
        | "trust.rs"
        | "policy.rs"
        | "policy/rule.rs"
        | "policy/index.rs"
        | "policy/file.rs"
        | "policy/check.rs"
        | "policy/lint.rs"
        | "policy/attached.rs"
        | "policy/pattern.rs"
        | "policy/template.rs"
        | "decide.rs"
        | "event.rs"
        | "event/envelope.rs"
        | "event/trail.rs"
        | "event/invocation.rs"
        | "event/follow_up.rs"
        | "expectation.rs"
        | "verification.rs"
        | "backoff.rs"
        | "census.rs"
        | "launcher.rs"
        | "redaction.rs" => PURE,
        // They speak of reports, and are as pure as what reports hold.
        "metrics.rs" | "bus.rs" => &[
            "aws_sdk_",
            "aws_config",
            "tokio",
            "tracing",
            "std::env",
            "async ",
            "Instant",
            "SystemTime",
            "lambda_runtime",
            "crate::cloud",
            "crate::config",
            "crate::reconcile",
            "crate::handler",
        ],
        "flapping.rs" | "own_queue.rs" => {
            &["aws_", "std::env", "lambda_runtime", "SystemTime", "crate::decide"]
        }
        "sweep.rs" | "sweep/list.rs" | "sweep/page_size.rs" | "sweep/seen.rs"
        | "sweep/snapshot.rs" => &[
            "aws_sdk_",
            "aws_config",
            "std::env",
            "lambda_runtime",
            "SystemTime",
            "decide(",
            "crate::event",
            "crate::handler",
            "crate::queue::Queues",
            "crate::queue::Outgoing",
        ],
        "cloud/codes.rs" => {
            &["aws_sdk_", "aws_config", "tokio", "tracing", "std::env", "async ", "crate::decide"]
        }
        "cloud.rs" | "profiles.rs" => &[
            "aws_sdk_",
            "aws_config",
            "std::env",
            "lambda_runtime",
            "crate::decide",
            "crate::policy",
            "crate::event",
        ],
        "pace.rs" => &["aws_", "std::env", "lambda_runtime", "crate::"],
        "queue.rs" => {
            &["aws_sdk_", "aws_config", "std::env", "lambda_runtime", "tokio", "crate::decide"]
        }
        "aws.rs" | "aws/bus.rs" | "aws/cloud.rs" | "aws/letters.rs" | "aws/queue.rs"
        | "aws/whole.rs" | "aws/errors.rs" | "aws/secrets.rs" => &[
            "std::env",
            "lambda_runtime",
            "crate::decide",
            "crate::policy",
            "crate::event",
            "crate::config",
        ],
        "config.rs" => &["aws_sdk_", "aws_config", "tokio", "std::env", "crate::cloud", "async "],
        "redelivery.rs" => &[
            "aws_sdk_",
            "aws_config",
            "std::env",
            "lambda_runtime",
            "SystemTime",
            "crate::decide",
            "crate::cloud",
        ],
        "reconcile.rs"
        | "reconcile/attempt.rs"
        | "reconcile/look.rs"
        | "reconcile/write.rs"
        | "report.rs"
        | "failure.rs" => &[
            "aws_sdk_",
            "aws_config",
            "std::env",
            "lambda_runtime",
            "crate::event",
            "crate::handler",
            "SystemTime",
        ],
        "handler.rs" | "handler/batch.rs" | "handler/sweep.rs" | "handler/work.rs" => {
            &["aws_sdk_", "aws_config", "std::env", "crate::decide::decide"]
        }
        "main.rs" => &["aws_sdk_", "crate::decide", "reconcile"],
        // The tool has the engine decide and write; `explain` alone asks what it would decide about what is not there.
        "bin/auto-instance-profile/explain.rs" => {
            &["aws_sdk_", "aws_config", "std::env", "lambda_runtime", "::handler", "::event"]
        }
        // A dead letter is read as the function reads it.
        "bin/auto-instance-profile/letters.rs" => &[
            "aws_sdk_",
            "aws_config",
            "std::env",
            "lambda_runtime",
            "::handler",
            "::reconcile",
            "decide",
        ],
        // The first sees how it was called; the other what the SDK will find in the environment.
        "bin/auto-instance-profile/main.rs" | "bin/auto-instance-profile/session.rs" => &[
            "aws_sdk_",
            "aws_config",
            "lambda_runtime",
            "decide(",
            ".associate(",
            ".replace(&",
            ".disassociate(",
            "::handler",
            "::event",
        ],
        // No Rust: tests/python/test_report_page.py says what it must not hold.
        "bin/auto-instance-profile/report.html" => &[],
        name if name.starts_with("bin/auto-instance-profile/") => &[
            "aws_sdk_",
            "aws_config",
            "std::env",
            "lambda_runtime",
            "decide(",
            ".associate(",
            ".replace(&",
            ".disassociate(",
            "::handler",
            "::event",
        ],
        "lib.rs" => &["fn ", "use "],
        other => panic!("src/{other} has no room yet: give it one here and in ARCHITECTURE.md"),
    }
}

fn files(dir: &Path, into: &mut Vec<String>, root: &Path) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, into, root);
        } else {
            into.push(path.strip_prefix(root).unwrap().to_str().unwrap().to_owned());
        }
    }
}

#[test]
fn every_file_keeps_to_its_room() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut names = Vec::new();
    files(&root, &mut names, &root);
    assert!(names.len() > 10, "{names:?}");
    for name in names {
        let text = fs::read_to_string(root.join(&name)).unwrap();
        let code = text.split("#[cfg(test)]").next().unwrap();
        let lines = code.lines().filter(|line| !line.trim_start().starts_with("//"));
        for line in lines {
            for word in forbidden(&name) {
                assert!(!line.contains(word), "src/{name} must not use {word}: {line}");
            }
        }
    }
}

#[test]
fn architecture_names_every_file() {
    let top = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = fs::read_to_string(top.join("ARCHITECTURE.md")).unwrap();
    let mut names = Vec::new();
    files(&top.join("src"), &mut names, &top.join("src"));
    for name in names {
        assert!(page.contains(&name), "ARCHITECTURE.md does not name src/{name}");
    }
}
