//! `apply`: shows the plan, asks, and has the engine carry it out, at a person's pace. What ends the tool ends no change
//! half-way.

use std::fmt::{self, Write as _};
use std::io::Write;
use std::time::Duration;

use auto_instance_profile::census::Standing;
use auto_instance_profile::config::Mode;
use auto_instance_profile::decide::Decision;
use auto_instance_profile::failure::chain;
use auto_instance_profile::policy::Policy;
use auto_instance_profile::report::{InstanceReport, Outcome};
use futures_util::{StreamExt, stream};
use serde::Serialize;
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep_until};

use crate::args::ApplyArgs;
use crate::ask::{self, BEAT, Stop};
use crate::fleet::{Place, policy_of};
use crate::output::Output;
use crate::plan::{Group, Plan, RowJson, row_json};
use crate::show::{BAD, GOOD, counted, printable, short, write_json};
use crate::{End, Trouble, wait_for};

/// Changes under way at once, as in the function.
const CHANGES_AT_ONCE: usize = 16;

pub fn run(args: &ApplyArgs, stop: &Stop, out: &mut impl Output) -> Result<End, Trouble> {
    if !args.yes && !ask::can_ask() {
        return Err(Trouble::NobodyToAsk { command: "apply", left_alone: "nothing was changed" });
    }
    let loaded = policy_of(&args.fleet)?;
    wait_for(async {
        let place = Place::find(args.fleet.region.as_ref(), args.queue.as_deref()).await?;
        let plan = place.plan(&args.fleet, &loaded).await?;
        if !args.fleet.json {
            plan.write(args.fleet.all, out)?;
            writeln!(out)?;
        }
        let nothing_changed =
            |why| Trouble::Unwritten { why, ended: "Nothing was changed".to_owned() };
        out.settle(None).map_err(nothing_changed)?;
        let changes = plan.changes();
        stop.work_begins();
        let these = if changes == 1 { "this" } else { "these" };
        let question = format!("Apply {these} {}?", counted(changes, "change"));
        if changes > 0 && !args.yes && !ask::says_yes(&question, stop)? {
            writeln!(out, "Nothing was changed.")?;
            out.settle(None).map_err(nothing_changed)?;
            return Ok(End::Wrong);
        }
        let begun = carry_out(&place, &plan, &loaded.policy, args, stop, out).await?;
        stop.work_is_over();
        Applied::new(&plan, &begun, stop).tell(&begun, args.fleet.json, out)
    })
}

/// One change that was begun: what was planned, and how it ended.
struct Change<'p> {
    planned: &'p InstanceReport,
    report: InstanceReport,
}

/// Makes the changes at their pace, and says of each how it ended. Once it is to stop, it begins none and waits for those
/// under way.
async fn carry_out<'p>(
    place: &Place,
    plan: &'p Plan<'_>,
    policy: &Policy,
    args: &ApplyArgs,
    stop: &Stop,
    out: &mut impl Output,
) -> Result<Vec<Change<'p>>, Trouble> {
    let pace = Pace::of(args.writes_per_second);
    let work = plan.of(Group::Change).map(|planned| {
        let pace = &pace;
        async move {
            if !pace.turn(planned.decision.as_ref().map_or(1, writes), stop).await {
                return None;
            }
            let mut reports =
                place.run(std::slice::from_ref(&planned.instance.id), policy, Mode::Enforce).await;
            reports.pop().map(|report| Change { planned, report })
        }
    });
    let work: Vec<_> = work.collect();
    let total = work.len();
    let mut results = stream::iter(work).buffer_unordered(CHANGES_AT_ONCE);
    let mut begun = Vec::with_capacity(total);
    while let Some(result) = results.next().await {
        let Some(change) = result else { continue };
        if !args.fleet.json {
            // Neither waits nor fails: the reader is another thread's business.
            writeln!(out, "[{}/{total}] {change}", begun.len() + 1)?;
        }
        begun.push(change);
    }
    Ok(begun)
}

/// How a change that was begun ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    /// The instance has what the plan said.
    Done,
    /// It has, by its policy, something else than the plan said: it was not what it was when it was planned.
    NotAsPlanned,
    /// It has not what its policy wants.
    NotDone,
}

impl Change<'_> {
    fn ending(&self) -> Ending {
        let Change { planned, report } = self;
        let Ok(outcome) = &report.result else { return Ending::NotDone };
        let wanted = planned.decision.as_ref().and_then(Decision::target);
        let done_if = |is_so| if is_so { Ending::Done } else { Ending::NotAsPlanned };
        match outcome {
            Outcome::Associated | Outcome::Removed | Outcome::Replaced | Outcome::Swapped => {
                let is_that = planned.decision.as_ref().and_then(outcome_of) == Some(*outcome);
                done_if(is_that && report.required() == wanted)
            }
            // Somebody else was faster.
            Outcome::Kept | Outcome::Converged => done_if(report.required() == wanted),
            Outcome::Left => match report.standing() {
                Standing::Left | Standing::Right => Ending::NotAsPlanned,
                Standing::Change | Standing::Blocked | Standing::Waiting | Standing::Failed => {
                    Ending::NotDone
                }
            },
            Outcome::Waiting | Outcome::Planned | Outcome::NotRepaired | Outcome::RolledBack => {
                Ending::NotDone
            }
        }
    }
}

/// How a planned change ends if all goes well.
fn outcome_of(planned: &Decision) -> Option<Outcome> {
    match planned {
        Decision::Associate(_) => Some(Outcome::Associated),
        Decision::Replace { .. } => Some(Outcome::Replaced),
        Decision::Swap { .. } => Some(Outcome::Swapped),
        Decision::Remove(_) => Some(Outcome::Removed),
        Decision::PutBack { .. } => Some(Outcome::RolledBack),
        Decision::Leave(_)
        | Decision::Wait(_)
        | Decision::Keep(_)
        | Decision::KeepBare
        | Decision::LookUp(_)
        | Decision::Confirm => None,
    }
}

impl fmt::Display for Change<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Change { planned, report } = self;
        let id = &report.instance.id;
        let ending = self.ending();
        let style = if ending == Ending::Done { GOOD } else { BAD };
        let word = report.outcome_word();
        write!(f, "{id} {style}{word}{style:#}")?;
        let profile = |profile: Option<&str>| profile.map_or("nothing".to_owned(), short);
        let (from, to) = (profile(report.attached()), profile(report.required().as_deref()));
        let planned_word = planned.decision.as_ref().map_or("changed", Decision::word);
        let planned_to = profile(planned.decision.as_ref().and_then(Decision::target).as_deref());
        match (&report.result, &report.decision) {
            (Err(failure), _) => write!(f, ": {}", printable(&chain(failure))),
            (Ok(outcome), _) if outcome.is_change() => {
                write!(f, ": {from} -> {to}")?;
                if ending == Ending::Done {
                    return Ok(());
                }
                write!(f, ", not {planned_word} {planned_to} as planned")
            }
            (Ok(_), Some(decision)) if ending != Ending::Done => {
                // The instance was looked at again, and is not what it was.
                let why = printable(&decision.to_string());
                write!(f, ": not {planned_word} {planned_to} as planned, since {why}")
            }
            (Ok(_), Some(decision)) => write!(f, ": {}", printable(&decision.to_string())),
            (Ok(_), None) => Ok(()),
        }
    }
}

/// How an `apply` ended.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct Applied<'a> {
    region: &'a str,
    policy: &'a str,
    /// How many instances were to be changed.
    changes: usize,
    done: usize,
    not_as_planned: usize,
    not_done: usize,
    /// Left out, because it was to stop.
    not_begun: usize,
    /// Instances of which the plan could not be made.
    failed_to_look_at: usize,
    instances: Vec<RowJson>,
    #[serde(skip)]
    is_interrupted: bool,
}

impl<'a> Applied<'a> {
    fn new(plan: &Plan<'a>, begun: &[Change<'_>], stop: &Stop) -> Self {
        let number = |ending| begun.iter().filter(|change| change.ending() == ending).count();
        Self {
            region: plan.region,
            policy: plan.policy,
            changes: plan.changes(),
            done: number(Ending::Done),
            not_as_planned: number(Ending::NotAsPlanned),
            not_done: number(Ending::NotDone),
            not_begun: plan.changes() - begun.len(),
            failed_to_look_at: plan.failures(),
            instances: begun.iter().map(|change| row_json(&change.report)).collect(),
            is_interrupted: stop.is_signalled(),
        }
    }

    fn is_all_done(&self) -> bool {
        self.not_as_planned + self.not_done + self.not_begun + self.failed_to_look_at == 0
    }

    fn sentence(&self) -> String {
        if self.changes + self.failed_to_look_at == 0 {
            return "There is nothing to do".to_owned();
        }
        let mut text = format!("{} of {} done", self.done, counted(self.changes, "change"));
        let not_begun = if self.is_interrupted {
            "not begun, because of an interrupt"
        } else {
            "not begun, because the output could not be written"
        };
        for (number, what) in [
            (self.not_as_planned, "not as planned"),
            (self.not_done, "not done"),
            (self.not_begun, not_begun),
            (self.failed_to_look_at, "without a plan"),
        ] {
            if number > 0 {
                // Writing to a string cannot fail.
                let _ = write!(text, ", {number} {what}");
            }
        }
        text
    }

    /// Says how it ended: where the output takes nothing any more, on standard error.
    fn tell(self, begun: &[Change<'_>], json: bool, out: &mut impl Output) -> Result<End, Trouble> {
        let end = if self.is_all_done() { End::Done } else { End::Wrong };
        if json {
            write_json(&self, out)?;
        } else {
            let style = if self.is_all_done() { GOOD } else { BAD };
            writeln!(out, "{style}{}.{style:#}", self.sentence())?;
        }
        match out.settle(None) {
            Ok(()) => Ok(end),
            Err(why) => {
                for change in begun {
                    // This may be gone too.
                    let _ = writeln!(anstream::stderr(), "{change}");
                }
                Err(Trouble::Unwritten { why, ended: self.sentence() })
            }
        }
    }
}

/// How many calls a decision takes.
fn writes(decision: &Decision) -> u32 {
    match decision {
        Decision::Swap { .. } => 2,
        Decision::Associate(_)
        | Decision::Replace { .. }
        | Decision::Remove(_)
        | Decision::PutBack { .. } => 1,
        Decision::Leave(_)
        | Decision::Wait(_)
        | Decision::Keep(_)
        | Decision::KeepBare
        | Decision::LookUp(_)
        | Decision::Confirm => 0,
    }
}

/// Hands out turns. It paces whole changes and not single calls: between the two calls of a swap the instance has no
/// profile, and must not wait.
struct Pace {
    between_writes: Duration,
    next: Mutex<Instant>,
}

impl Pace {
    fn of(writes_per_second: u32) -> Self {
        let between_writes = Duration::from_secs(1) / writes_per_second.max(1);
        Self { between_writes, next: Mutex::new(Instant::now()) }
    }

    /// Waits until it is the turn of a change of so many writes; `false`, where nothing more may be begun.
    async fn turn(&self, writes: u32, stop: &Stop) -> bool {
        if stop.is_asked() {
            return false;
        }
        let mut next = self.next.lock().await;
        let start = (*next).max(Instant::now());
        *next = start + self.between_writes * writes;
        drop(next);
        while Instant::now() < start && !stop.is_asked() {
            sleep_until(start.min(Instant::now() + BEAT)).await;
        }
        !stop.is_asked()
    }
}
