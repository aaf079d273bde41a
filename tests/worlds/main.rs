//! Whole worlds by the thousand, each from a seed: the function's own handler over a simulated AWS whose reads lag, whose
//! calls fail in every way, whose queue delivers twice, and where others are at work; and invariants that are checked after
//! each step. What must never be is said in `promises::Invariant`.
//!
//! `WORLDS=100000 cargo test --release --locked --features cli --test worlds` runs more of them (with
//! `FROM=100000` others), `SEED=7 cargo test … -- --nocapture` runs one and prints its history.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says where")]
#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "a plan is searched for one kind of item at a time"
)]
#![expect(clippy::print_stdout, reason = "a history is printed for a person to read")]

#[path = "../common/storm/dice.rs"]
mod dice;
#[allow(dead_code, reason = "the other tests use the rest")]
#[path = "../common/world.rs"]
mod world;

mod mutation;
mod named;
mod oracle;
mod plan;
mod promises;
mod roll;
mod run;
mod shrink;
mod sim;
mod truth;
mod verdict;
mod watch;

use std::collections::BTreeMap;
use std::fmt::Write as _;

use mutation::Mutation;
use plan::Plan;
use promises::{Invariant, Violation};
use run::{Ending, run};

/// Worlds that `make test` runs.
const WORLDS: u64 = 2_000;
/// Seeds that failed at some time, one a line, each with what it was.
const REGRESSIONS: &str = include_str!("regressions.txt");

#[expect(clippy::disallowed_methods, reason = "the length of a test is no setting of the function")]
fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap())
}

/// A failure in full: the seed, the invariant, the shortest history, and how to see it again.
fn account(plan: &Plan, mutation: Option<Mutation>, violation: &Violation) -> String {
    let shortest = shrink::shortest(plan, mutation, violation.invariant);
    let Ending { history, violation: last, .. } = run(&shortest, mutation, true);
    let violation = last.as_ref().unwrap_or(violation);
    let mut text = format!(
        "seed {}: {:?} is broken after {} ms: {}\n\nThe shortest history that breaks it:\n{shortest}\n",
        plan.seed, violation.invariant, violation.at, violation.what
    );
    for (at, line) in history {
        writeln!(text, "{at:>9} ms  {line}").unwrap();
    }
    writeln!(
        text,
        "\nAgain: SEED={} cargo test --locked --features cli --test worlds -- --nocapture",
        plan.seed
    )
    .unwrap();
    text
}

/// Runs every world, tells the first failure in full, and names the others.
fn run_worlds(seeds: impl Iterator<Item = u64>) {
    let mut broken: BTreeMap<Invariant, Vec<u64>> = BTreeMap::new();
    let mut lines = String::new();
    let mut texts = Vec::new();
    for seed in seeds {
        let plan = Plan::of(seed);
        let Some(violation) = run(&plan, None, false).violation else { continue };
        let Violation { invariant, what, .. } = &violation;
        writeln!(lines, "{seed} {invariant:?}: {}", what.chars().take(300).collect::<String>())
            .unwrap();
        let seeds = broken.entry(*invariant).or_default();
        seeds.push(seed);
        // One history of each kind.
        if seeds.len() == 1 {
            texts.push(account(&plan, None, &violation));
        }
    }
    let texts = texts.join("\n");
    assert!(broken.is_empty(), "{texts}\nBroken, by seed:\n{lines}\nIn short: {broken:?}");
}

fn regressions() -> impl Iterator<Item = u64> {
    let lines = REGRESSIONS.lines().map(|line| line.split('#').next().unwrap_or_default().trim());
    lines.filter(|line| !line.is_empty()).map(|line| line.parse().unwrap())
}

/// A share of the worlds: the test runner runs the shares side by side.
fn share(of: u64, shares: u64) {
    if number("SEED").is_some() {
        return;
    }
    let worlds = number("WORLDS").unwrap_or(WORLDS);
    let from = number("FROM").unwrap_or(0);
    run_worlds((from..from + worlds).filter(|seed| seed % shares == of));
}

#[test]
fn the_first_half_of_the_worlds_keeps_every_invariant() {
    share(0, 2);
}

#[test]
fn the_second_half_of_the_worlds_keeps_every_invariant() {
    share(1, 2);
}

#[test]
fn seeds_that_once_failed_stay_mended() {
    run_worlds(regressions());
}

#[test]
fn a_seed_that_is_asked_for_is_told_in_full() {
    let Some(seed) = number("SEED") else { return };
    let plan = Plan::of(seed);
    let Ending { violation, history, .. } = run(&plan, None, true);
    println!("{plan}");
    for (at, line) in history {
        println!("{at:>9} ms  {line}");
    }
    if let Some(violation) = violation {
        panic!("{}", account(&plan, None, &violation));
    }
}

#[test]
fn a_seed_makes_the_same_world_each_time() {
    for seed in 0..150 {
        let plan = Plan::of(seed);
        let (one, other) = (run(&plan, None, true), run(&plan, None, true));
        assert_eq!(one.digest, other.digest, "seed {seed}");
        // What happens in the same millisecond has no order.
        let sorted = |mut history: Vec<_>| {
            history.sort();
            history
        };
        assert_eq!(sorted(one.history), sorted(other.history), "seed {seed}");
    }
}

/// Worlds within which a guard that is off must be noticed.
const NOTICED_WITHIN: u64 = 500;

/// The first world that notices, and by which invariant.
fn notices(mutation: Mutation) -> Option<(u64, Invariant)> {
    let plans = named::revealing().into_iter().chain((0..NOTICED_WITHIN).map(Plan::of));
    plans.into_iter().find_map(|plan| {
        let violation = run(&plan, Some(mutation), false).violation?;
        Some((plan.seed, violation.invariant))
    })
}

#[test]
fn each_guard_that_is_switched_off_is_noticed() {
    let mut unnoticed = Vec::new();
    for mutation in Mutation::ALL {
        match notices(mutation) {
            Some((seed, invariant)) => println!("{mutation:?}: world {seed}, {invariant:?}"),
            None => unnoticed.push(mutation),
        }
    }
    assert!(unnoticed.is_empty(), "{unnoticed:?} went unnoticed in {NOTICED_WITHIN} worlds");
}

/// What has to be met with, or the invariants would hold of nothing: each of these is in some world's history.
const MET: [&str; 38] = [
    "Associate by environment 1 is carried out",
    "Replace by environment 1 is carried out",
    "Disassociate by environment 1 is carried out",
    "by environment 2 is carried out",
    "is carried out late",
    "this read shows Instances",
    "this read shows Associations",
    "this read shows Tags",
    "leaves its tags out",
    "failed: Conflict",
    "failed: Denied",
    "failed: Rejected",
    "failed: Throttled",
    "failed: Transient",
    "failed: InstanceNotFound",
    "failed: ProfileNotFound",
    "Hangs",
    "CutAfterwards",
    "DoneThenRefused",
    "DiesAfter",
    "dies",
    "is given up: MalformedEvent",
    "is given up: ProfileNotFound",
    "is hidden for",
    "a sweep over every instance",
    "DiesBefore",
    "Send [0]: Cut",
    "Send [0]: CutAfterwards",
    "Send [0]: DiesAfter",
    "Own(FinishSwap",
    "Own(Verify",
    "Verify about [0] is lost",
    "nothing tells of it",
    "failed (StaleRead)",
    "failed (ProfileNotReady)",
    "failed (SwapRolledBack)",
    ": rolled-back",
    ": not-repaired",
];

#[test]
fn the_worlds_meet_everything_that_can_go_wrong() {
    let mut unmet = MET.to_vec();
    for seed in 0..WORLDS {
        let history = run(&Plan::of(seed), None, true).history;
        unmet.retain(|what| !history.iter().any(|(_, line)| line.contains(what)));
        if unmet.is_empty() {
            return;
        }
    }
    panic!("in {WORLDS} worlds nobody met with {unmet:?}");
}
