//! A test for each target: the corpus as it is, then thousands of inputs made of it.
//!
//! `cargo test` does the same each time. `FUZZ_SECONDS=600` goes on for so long for each target, from a new beginning each
//! time. What fails is made small and put into the corpus, so that it fails again until it is mended.

#![expect(clippy::print_stdout, reason = "what is tried, for those who ask with --nocapture")]

mod mutate;

use std::fs;
use std::hash::{BuildHasher, DefaultHasher, Hash, Hasher, RandomState};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use proptest::test_runner::{Config, RngAlgorithm, TestError, TestRng, TestRunner};

/// One room, and what its inputs are made of.
struct Target {
    /// The folder of the corpus.
    name: &'static str,
    /// What must hold.
    holds: fn(&[u8]),
    /// More seeds, from the repository's root: what people begin with.
    samples: &'static [&'static str],
    /// Words that mean something to the room.
    words: &'static [&'static str],
    /// Inputs in a run of bounded length: a few seconds' worth.
    cases: u32,
}

#[test]
fn events() {
    fuzz(&Target {
        name: "event",
        holds: fuzz::targets::event,
        samples: &["events"],
        words: &[
            "Records",
            "messageId",
            "body",
            "source",
            "detail-type",
            "detail",
            "resources",
            "instance-id",
            "instance-ids",
            "dry-run",
            "aws.ec2",
            "aws.tag",
            "aws:sqs",
            "eventSource",
            "EventSource",
            "attributes",
            "tags",
            "null",
            "[]",
            "{}",
            "true",
            "7",
            "-1e999",
            "\"\"",
            "\\u0000",
            "\\ud800",
            "i-*",
            "i-0123456789abcdef01",
            "I-1",
            "{\"Records\":[]}",
            "EC2 Instance State-change Notification",
            "Tag Change on Resource",
            "changed-tag-keys",
            "InstanceProfile",
            "arn:aws:ec2:us-east-1:123456789012:instance/i-1",
            "ApproximateReceiveCount",
            "4294967296",
            "[[[[[[[[",
        ],
        cases: 60_000,
    });
}

#[test]
fn policies() {
    fuzz(&Target {
        name: "policy",
        holds: fuzz::targets::policy,
        samples: &["policy/policy.yaml"],
        words: &[
            "version",
            "ignore",
            "rules",
            "name",
            "match",
            "profile",
            "tags",
            "none",
            "when-different",
            "when-absent",
            "keep",
            "leave",
            "account",
            "region",
            "vpc",
            "subnet",
            "instance-type",
            "platform",
            "attached",
            "when-stopped",
            "swap",
            "wait",
            "kubernetes.io/cluster/*",
            "None",
            "linux",
            "${tag:App}",
            "${tag:",
            "}",
            "\"*\"",
            "?*",
            "*",
            "[]",
            "{}",
            "~",
            "null",
            "1",
            "2",
            "---",
            "...",
            "&a",
            "*a",
            "<<",
            "!!str",
            "|",
            ">",
            "- ",
            ": ",
            "#",
            "\t",
            "\r",
            "\u{85}",
            "\u{feff}",
            "'",
            "arn:aws:iam::123456789012:instance-profile/app/web",
        ],
        cases: 40_000,
    });
}

#[test]
fn templates() {
    fuzz(&Target {
        name: "template",
        holds: fuzz::targets::template,
        samples: &[],
        words: &[
            "${tag:App}",
            "${tag:",
            "${",
            "$",
            "}",
            "tag:",
            "App",
            "=",
            "\n",
            "App=shop\n",
            "Env=\n",
            "-",
            "/",
            ":",
            "*",
            "arn:aws:iam::123456789012:instance-profile/",
            "arn:aws:iam::111122223333:instance-profile/",
            "app/../",
            "arn:aws-cn:iam::123456789012:instance-profile/",
            "arn:aws:iam::123456789012:role/",
            "w\u{435}b",
            " ",
        ],
        cases: 60_000,
    });
}

#[test]
fn error_codes() {
    fuzz(&Target {
        name: "codes",
        holds: fuzz::targets::codes,
        samples: &[],
        words: &[
            "Throttling",
            "Throttl",
            "RequestLimitExceeded",
            "InternalError",
            "IncorrectState",
            "NoSuchEntity",
            "InvalidParameterValue",
            "InvalidInstanceID.NotFound",
            "UnauthorizedOperation",
            "AccessDenied",
            "\n",
            "0",
            "403",
            "429",
            "400",
            "499",
            "500",
            "503",
            "200",
            "65535",
            "not authorized to perform: ",
            "on resource: ",
            "instance profile ",
            "iam:PassRole",
            "Invalid IAM Instance Profile name",
            ".",
            ",",
            " because ",
            "\u{2028}",
        ],
        cases: 60_000,
    });
}

#[test]
fn trust_policies() {
    fuzz(&Target {
        name: "trust",
        holds: fuzz::targets::trust,
        samples: &[],
        words: &[
            "Statement",
            "Effect",
            "Allow",
            "Deny",
            "Principal",
            "Service",
            "AWS",
            "Action",
            "NotAction",
            "Condition",
            "{}",
            "[]",
            "null",
            "\"*\"",
            "*",
            "sts:AssumeRole",
            "STS:*",
            "sts:?ssumerole",
            "ec2.amazonaws.com",
            "true",
            "1",
            "ec2.amazonaws.com.cn",
            "[",
            "]",
            "{",
            "}",
            ",",
            ":",
        ],
        cases: 80_000,
    });
}

#[test]
fn allow_lists() {
    fuzz(&Target {
        name: "allow",
        holds: fuzz::targets::allow,
        samples: &[],
        words: &[
            "*",
            "?",
            "**",
            "*?",
            "/",
            ",",
            "web",
            "app/",
            "a",
            "\n",
            " ",
            ".",
            "..",
            "${",
            "w\u{435}b",
            "*/x/web-*",
        ],
        cases: 60_000,
    });
}

#[test]
fn delays() {
    fuzz(&Target {
        name: "backoff",
        holds: fuzz::targets::backoff,
        samples: &[],
        words: &[
            "\n",
            "0",
            "1",
            "5",
            "6",
            "17",
            "302400",
            "4294967295",
            "18446744073709551615",
            "-1",
            "id",
        ],
        cases: 60_000,
    });
}

fn fuzz(target: &Target) {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target.name);
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut files = files_of(&corpus);
    assert!(!files.is_empty(), "{} holds nothing", corpus.display());
    files.extend(target.samples.iter().flat_map(|sample| files_of(&root.join(sample))));
    let mut seeds = Vec::new();
    for file in files {
        let seed = fs::read(&file).expect("a file of the corpus can be read");
        println!("{}", file.display());
        (target.holds)(&seed);
        seeds.push(seed);
    }
    match seconds() {
        None => round(target, &seeds, &corpus, target.cases, 0),
        Some(time) => {
            let (mut cases, end) = (0_u64, now() + time);
            let mut beginning = RandomState::new().hash_one(target.name);
            while now() < end {
                round(target, &seeds, &corpus, 2_000, beginning);
                beginning = beginning.wrapping_add(1);
                cases += 2_000;
            }
            println!("{}: {cases} inputs", target.name);
        }
    }
}

/// So many inputs; the beginning decides which.
fn round(target: &Target, seeds: &[Vec<u8>], corpus: &Path, cases: u32, beginning: u64) {
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    let mut seed = [0; 32];
    seed[..8].copy_from_slice(&beginning.to_le_bytes());
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &seed);
    let inputs = mutate::inputs(seeds.to_vec(), target.words);
    let result = TestRunner::new_with_rng(config, rng).run(&inputs, |input| {
        (target.holds)(&input.0);
        Ok(())
    });
    match result {
        Ok(()) => {}
        Err(TestError::Fail(why, input)) => {
            let mut hasher = DefaultHasher::new();
            input.0.hash(&mut hasher);
            let file = corpus.join(format!("found-{:016x}", hasher.finish()));
            fs::write(&file, &input.0).expect("the corpus takes what was found");
            let text = String::from_utf8_lossy(&input.0);
            panic!("{why}\n{text}\nis now in {}", file.display());
        }
        Err(TestError::Abort(why)) => panic!("{why}"),
    }
}

/// A file, or the files of a folder, in an order that is always the same.
fn files_of(path: &Path) -> Vec<PathBuf> {
    if path.is_file() {
        return vec![path.to_owned()];
    }
    let entries = fs::read_dir(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").path()).collect();
    files.sort();
    files
}

#[expect(clippy::disallowed_methods, reason = "a test's own setting")]
fn seconds() -> Option<Duration> {
    let text = std::env::var("FUZZ_SECONDS").ok()?;
    Some(Duration::from_secs(text.parse().expect("FUZZ_SECONDS is a number")))
}

#[expect(clippy::disallowed_methods, reason = "the time that a person gave it")]
fn now() -> Instant {
    Instant::now()
}
