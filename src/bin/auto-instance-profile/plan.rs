//! A plan: what each instance would meet with, as a table, as counts and as JSON. It decides nothing; it sorts reports.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};

use auto_instance_profile::census::Standing;
use auto_instance_profile::decide::{Decision, NotSwapped, Wait};
use auto_instance_profile::failure::chain;
use auto_instance_profile::report::{Entry, InstanceReport};
use comfy_table::{Attribute, Cell, Color};
use serde::Serialize;

use crate::show::{
    self, BAD, FAINT, GOOD, HEADING, UNSURE, counted, or_dash, printable, short, shortened, written,
};

/// Unchanged instances beyond this many are counted and not listed, unless all are asked for: about a screenful.
const UNCHANGED_LISTED: usize = 30;

/// What a plan says about an instance, the most urgent first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Group {
    /// It would be changed.
    Change,
    /// What is to be done could not be found out.
    Failed,
    /// It should be changed, and something forbids it.
    Blocked,
    /// It cannot be changed in its state, and another state will come.
    Wait,
    /// The policy does not want it changed.
    Leave,
    /// It is right.
    Keep,
}

/// The plan for one Region.
pub struct Plan<'a> {
    pub region: &'a str,
    pub policy: &'a str,
    pub allowed: &'a str,
    /// Sorted: what changes first.
    pub reports: Vec<InstanceReport>,
}

impl<'a> Plan<'a> {
    pub fn new(
        region: &'a str,
        policy: &'a str,
        allowed: &'a str,
        mut reports: Vec<InstanceReport>,
    ) -> Self {
        let key = |report: &InstanceReport| {
            let group = group(report);
            // Of the changes those first that take something away.
            let weight = report.decision.as_ref().map_or(0, weight);
            (group, Reverse(weight), report.reason(), report.instance.id.clone())
        };
        reports.sort_by_cached_key(key);
        Self { region, policy, allowed, reports }
    }

    pub fn of(&self, wanted: Group) -> impl Iterator<Item = &InstanceReport> {
        self.reports.iter().filter(move |report| group(report) == wanted)
    }

    pub fn changes(&self) -> usize {
        self.of(Group::Change).count()
    }

    pub fn failures(&self) -> usize {
        self.of(Group::Failed).count()
    }

    /// Writes the plan for a person.
    pub fn write(&self, all: bool, out: &mut impl Write) -> io::Result<()> {
        let account = accounts(&self.reports).unwrap_or("unknown".to_owned());
        writeln!(
            out,
            "{HEADING}{} in {}{HEADING:#}, account {account}, by {}, allowed {}\n",
            counted(self.reports.len(), "instance"),
            self.region,
            printable(self.policy),
            self.allowed,
        )?;
        let unchanged = self.of(Group::Leave).chain(self.of(Group::Keep)).count();
        let listed = all || unchanged <= UNCHANGED_LISTED;
        let rows: Vec<_> = self
            .reports
            .iter()
            .filter(|report| listed || !matches!(group(report), Group::Leave | Group::Keep))
            .collect();
        if !rows.is_empty() {
            writeln!(out, "{}\n", table(&rows, "ACTION", action))?;
        }
        if !listed {
            writeln!(
                out,
                "{FAINT}{} that stay as they are were left out; --all lists them.{FAINT:#}\n",
                counted(unchanged, "instance")
            )?;
        }
        self.write_counts(out)
    }

    fn write_counts(&self, out: &mut impl Write) -> io::Result<()> {
        let by_word = self.count(Group::Change, word);
        let changes = ["associate", "replace", "swap", "remove"]
            .map(|word| format!("{} to {word}", by_word.get(word).unwrap_or(&0)));
        let style = if self.changes() > 0 { UNSURE } else { GOOD };
        writeln!(out, "{style}Plan: {}.{style:#}", changes.join(", "))?;
        for (group, what, style) in [
            (Group::Failed, "failed", BAD),
            (Group::Blocked, "blocked", UNSURE),
            (Group::Wait, "waiting for their next state", UNSURE),
            (Group::Leave, "left alone", FAINT),
            (Group::Keep, "right already", FAINT),
        ] {
            let reasons = self.count(group, InstanceReport::reason);
            let number: usize = reasons.values().sum();
            if number == 0 {
                continue;
            }
            let reasons: Vec<_> =
                reasons.iter().map(|(reason, number)| format!("{number} {reason}")).collect();
            let reasons = if group == Group::Keep {
                String::new()
            } else {
                format!(" ({})", reasons.join(", "))
            };
            writeln!(out, "{style}      {number} {what}{reasons}{style:#}")?;
        }
        self.write_hints(out)
    }

    /// Says of stopped instances who will change them, and how to have it done now.
    fn write_hints(&self, out: &mut impl Write) -> io::Result<()> {
        let number = |wanted| {
            let why = self.reports.iter().filter_map(not_swapped);
            why.filter(|why| *why == wanted).count()
        };
        for (why, how) in [
            (NotSwapped::Waits, "when-stopped: swap, with --queue, has it done now"),
            (NotSwapped::NoQueue, "--queue, with the URL of the function's queue, has it done now"),
            (
                NotSwapped::NoWayBack,
                "what they have is outside the allow-list, and could not be put back",
            ),
        ] {
            if number(why) > 0 {
                let stopped = counted(number(why), "stopped instance");
                writeln!(
                    out,
                    "{FAINT}Left to the function, which replaces the profile when the instance runs: {stopped}; {how}.{FAINT:#}"
                )?;
            }
        }
        Ok(())
    }

    fn count(
        &self,
        group: Group,
        by: impl Fn(&InstanceReport) -> &'static str,
    ) -> BTreeMap<&'static str, usize> {
        let mut counts = BTreeMap::new();
        for report in self.of(group) {
            *counts.entry(by(report)).or_default() += 1;
        }
        counts
    }

    /// The plan for a program.
    pub fn json(&self) -> PlanJson<'_> {
        let mut counts: BTreeMap<_, _> =
            ["associate", "replace", "swap", "remove"].map(|word| (word, 0)).into();
        counts.extend(self.count(Group::Change, word));
        for (group, word) in [
            (Group::Failed, "failed"),
            (Group::Blocked, "blocked"),
            (Group::Wait, "wait"),
            (Group::Leave, "leave"),
            (Group::Keep, "keep"),
        ] {
            counts.insert(word, self.of(group).count());
        }
        PlanJson {
            region: self.region,
            policy: self.policy,
            allowed: self.allowed,
            changes: self.changes(),
            counts,
            blocked: self.count(Group::Blocked, InstanceReport::reason),
            instances: self.reports.iter().map(row_json).collect(),
        }
    }
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct PlanJson<'a> {
    region: &'a str,
    policy: &'a str,
    allowed: &'a str,
    /// How many instances would be changed.
    changes: usize,
    counts: BTreeMap<&'static str, usize>,
    /// How many are blocked, by reason.
    blocked: BTreeMap<&'static str, usize>,
    /// What changes first.
    instances: Vec<RowJson>,
}

/// The entry that the function would answer with, and what a plan adds.
#[derive(Debug, Serialize)]
pub struct RowJson {
    group: Group,
    name: Option<String>,
    #[serde(flatten)]
    entry: Entry,
}

pub fn row_json(report: &InstanceReport) -> RowJson {
    let name = name(report).map(str::to_owned);
    RowJson { group: group(report), name, entry: report.entry() }
}

/// Where a report belongs.
pub fn group(report: &InstanceReport) -> Group {
    match report.standing() {
        Standing::Change => Group::Change,
        Standing::Right => Group::Keep,
        Standing::Left => Group::Leave,
        Standing::Blocked => Group::Blocked,
        Standing::Waiting => Group::Wait,
        Standing::Failed => Group::Failed,
    }
}

/// Why another profile stays on a stopped instance, where one does.
fn not_swapped(report: &InstanceReport) -> Option<NotSwapped> {
    match report.decision.as_ref()? {
        Decision::Wait(Wait::UntilRunning { why, .. }) => Some(*why),
        Decision::Wait(_)
        | Decision::Leave(_)
        | Decision::Keep(_)
        | Decision::KeepBare
        | Decision::LookUp(_)
        | Decision::Confirm
        | Decision::Associate(_)
        | Decision::Replace { .. }
        | Decision::Swap { .. }
        | Decision::Remove(_)
        | Decision::PutBack { .. } => None,
    }
}

/// How much a decision takes away from an instance.
pub fn weight(decision: &Decision) -> u8 {
    match decision {
        Decision::Remove(_) => 4,
        Decision::Swap { .. } => 3,
        Decision::Replace { .. } => 2,
        Decision::Associate(_) | Decision::PutBack { .. } => 1,
        Decision::Leave(_)
        | Decision::Wait(_)
        | Decision::Keep(_)
        | Decision::KeepBare
        | Decision::LookUp(_)
        | Decision::Confirm => 0,
    }
}

pub fn word(report: &InstanceReport) -> &'static str {
    match (group(report), &report.decision) {
        (Group::Change | Group::Leave | Group::Keep, Some(decision)) => decision.word(),
        (Group::Blocked, _) => "blocked",
        (Group::Wait, _) => "wait",
        (Group::Failed, _) | (_, None) => "failed",
    }
}

/// The reason as a sentence; only a word where the table's other columns say the rest.
fn sentence(report: &InstanceReport) -> String {
    match (&report.result, &report.decision) {
        (Err(failure), _) => shortened(&chain(failure)),
        (Ok(_), Some(decision)) => match group(report) {
            Group::Change | Group::Keep => report.reason().to_owned(),
            Group::Failed | Group::Blocked | Group::Wait | Group::Leave => {
                shortened(&decision.to_string())
            }
        },
        (Ok(outcome), None) => outcome.word().to_owned(),
    }
}

pub fn name(report: &InstanceReport) -> Option<&str> {
    report.facts.as_ref()?.instance.tags.get("Name").map(String::as_str)
}

/// A table of instances, whose column `verdict` says what would be done, or where each stands.
pub fn table(
    reports: &[&InstanceReport],
    heading: &str,
    verdict: impl Fn(&InstanceReport) -> Cell,
) -> String {
    let columns = ["INSTANCE", "NAME", "STATE", "RULE", "ATTACHED", "REQUIRED", heading, "REASON"];
    let mut table = show::table(&columns);
    for report in reports {
        let state = report.facts.as_ref().map(|facts| printable(facts.instance.state.as_str()));
        table.add_row([
            Cell::new(&report.instance.id),
            Cell::new(or_dash(name(report).map(printable))),
            Cell::new(or_dash(state)),
            Cell::new(or_dash(report.rule.as_deref().map(printable))),
            Cell::new(or_dash(report.attached().map(short))),
            Cell::new(or_dash(report.required().as_deref().map(short))),
            verdict(report),
            Cell::new(sentence(report)),
        ]);
    }
    written(table)
}

/// What would be done, in a colour.
fn action(report: &InstanceReport) -> Cell {
    let cell = Cell::new(word(report));
    match group(report) {
        Group::Change => cell.fg(colour(report)),
        Group::Failed => cell.fg(Color::Red),
        Group::Blocked | Group::Wait => cell.fg(Color::Yellow),
        Group::Leave | Group::Keep => cell.add_attribute(Attribute::Dim),
    }
}

/// The colour of a change: what takes something away is red.
pub fn colour(report: &InstanceReport) -> Color {
    match word(report) {
        "associate" => Color::Green,
        "remove" => Color::Red,
        _ => Color::Yellow,
    }
}

/// The accounts that instances are in, as text.
pub fn accounts(reports: &[InstanceReport]) -> Option<String> {
    let accounts: BTreeSet<_> = reports.iter().filter_map(|report| report.account()).collect();
    let accounts: Vec<_> = accounts.into_iter().map(|account| account.as_str()).collect();
    (!accounts.is_empty()).then(|| accounts.join(", "))
}
