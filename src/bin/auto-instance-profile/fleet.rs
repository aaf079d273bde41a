//! `plan` and `apply`: the whole fleet, by the engine that the function runs on.

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use auto_instance_profile::aws::Aws;
use auto_instance_profile::aws::cloud::AwsCloud;
use auto_instance_profile::cloud::{CloudError, Clouds, Fleet, ROWS_PER_PAGE};
use auto_instance_profile::config::Mode;
use auto_instance_profile::contest::Contests;
use auto_instance_profile::decide::{Decision, Patience};
use auto_instance_profile::failure::chain;
use auto_instance_profile::model::{InstanceId, InstanceRef, Region};
use auto_instance_profile::pace::{self, Limits};
use auto_instance_profile::policy::Policy;
use auto_instance_profile::profiles::Profiles;
use auto_instance_profile::reconcile::{Job, Reconciler};
use auto_instance_profile::report::{Cause, FoundBy, InstanceReport, Outcome};
use futures_util::{StreamExt, stream};
use serde::Serialize;
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep_until};

use crate::args::{ApplyArgs, FleetArgs, PlanArgs};
use crate::ask;
use crate::plan::{Group, Plan, RowJson, row_json};
use crate::policy::{Loaded, load};
use crate::show::{BAD, FAINT, GOOD, Progress, UNSURE, counted, printable, short, write_json};
use crate::{End, Trouble, wait_for};

/// Instances a look: as many as EC2 takes in one filter, so that a look costs two calls.
const INSTANCES_PER_LOOK: usize = 200;
/// How long the looks at so many may take, IAM's answers included: a minute and more in the worst of throttling.
pub const TIME_FOR_A_LOOK: Duration = Duration::from_mins(3);
/// How long one change may take, with the looks again that it may need.
const TIME_FOR_A_CHANGE: Duration = Duration::from_mins(1);
/// Changes under way at once, as in the function.
const CHANGES_AT_ONCE: usize = 16;

/// One Region's instances, and what they are held against.
pub struct Place {
    clouds: Aws,
    pub cloud: AwsCloud,
    pub region: Region,
    pub profiles: Profiles,
    /// Out of the way: a person says how fast changes are begun.
    pace: pace::Pace,
    contests: Contests,
}

const UNPACED: Limits = Limits { per_second: 1000.0, burst: 1000.0 };

impl Place {
    /// The Region that is asked for, or else the one that AWS's configuration names.
    pub async fn find(region: Option<&Region>) -> Result<Self, Trouble> {
        let clouds = Aws::from_env_in(region).await;
        let region = region.cloned().or_else(|| clouds.region()).ok_or(Trouble::NoRegion)?;
        Ok(Self {
            cloud: clouds.of(&region),
            clouds,
            region,
            profiles: Profiles::default(),
            pace: pace::Pace::new(UNPACED),
            contests: Contests::default(),
        })
    }

    /// Whether a call failed for want of credentials.
    pub async fn check_credentials(&self, failed: &CloudError) -> Result<(), Trouble> {
        // An answer of AWS's, even a refusal, has a code, and took credentials.
        if failed.code.is_none() {
            self.clouds.check_credentials().await.map_err(Trouble::NoCredentials)?;
        }
        Ok(())
    }

    /// Has the engine deal with these instances.
    pub async fn run(
        &self,
        ids: &[InstanceId],
        policy: &Policy,
        mode: Mode,
    ) -> Vec<InstanceReport> {
        let time = match mode {
            Mode::DryRun => TIME_FOR_A_LOOK,
            Mode::Enforce => TIME_FOR_A_CHANGE,
        };
        let deadline = Instant::now() + time;
        let job = |id: &InstanceId| Job {
            instance: InstanceRef { account: None, region: self.region.clone(), id: id.clone() },
            announced: std::collections::BTreeMap::new(),
            // A person is there to ask again.
            patience: Patience::Exhausted,
            mode,
            cause: Cause { found_by: FoundBy::Person, ..Cause::default() },
        };
        let reconciler = Reconciler {
            cloud: &self.cloud,
            profiles: &self.profiles,
            policy,
            pace: &self.pace,
            contests: &self.contests,
            deadline,
        };
        reconciler.run(ids.iter().map(job).collect()).await
    }

    /// Looks at every instance that passes the filters.
    async fn look(
        &self,
        args: &FleetArgs,
        policy: &Policy,
    ) -> Result<Vec<InstanceReport>, Trouble> {
        let progress = Progress::new();
        // Pages are read one after another while instances come and go: one may be on two of them.
        let mut ids = BTreeSet::new();
        let mut next: Option<String> = None;
        loop {
            progress.say(&format!("Listing instances in {}: {}", self.region, ids.len()));
            let page = match self
                .cloud
                .instances_page(&args.filter, next.as_deref(), *ROWS_PER_PAGE.end())
                .await
            {
                Ok(page) => page,
                Err(error) => {
                    self.check_credentials(&error).await?;
                    return Err(Trouble::List(error));
                }
            };
            ids.extend(page.rows.into_iter().map(|instance| instance.id));
            next = page.next;
            if next.is_none() {
                break;
            }
        }
        let ids: Vec<_> = ids.into_iter().collect();
        let mut reports = Vec::with_capacity(ids.len());
        for chunk in ids.chunks(INSTANCES_PER_LOOK) {
            progress.say(&format!("Looking at instances: {} of {}", reports.len(), ids.len()));
            reports.extend(self.run(chunk, policy, Mode::DryRun).await);
        }
        Ok(reports)
    }
}

pub fn plan(args: &PlanArgs, out: &mut impl Write) -> Result<End, Trouble> {
    let loaded = policy_of(&args.fleet)?;
    wait_for(async {
        let place = Place::find(args.fleet.region.as_ref()).await?;
        let reports = place.look(&args.fleet, &loaded.policy).await?;
        let plan =
            Plan::new(place.region.as_str(), &loaded.name, &args.fleet.allowed.text, reports);
        if args.fleet.json {
            write_json(&plan.json(), out)?;
        } else {
            plan.write(args.fleet.all, out)?;
            writeln!(
                out,
                "{FAINT}Not known before it is tried: whether your credentials, or the function's role, may make these \
                 changes.{FAINT:#}"
            )?;
        }
        Ok(match (plan.failures(), plan.changes()) {
            (0, 0) => End::Done,
            (0, _) => End::SomethingToDo,
            (_, _) => End::Wrong,
        })
    })
}

pub fn apply(args: &ApplyArgs, out: &mut impl Write) -> Result<End, Trouble> {
    if !args.yes && !ask::can_ask() {
        return Err(Trouble::NobodyToAsk { command: "apply", left_alone: "nothing was changed" });
    }
    let loaded = policy_of(&args.fleet)?;
    wait_for(async {
        let place = Place::find(args.fleet.region.as_ref()).await?;
        let reports = place.look(&args.fleet, &loaded.policy).await?;
        let plan =
            Plan::new(place.region.as_str(), &loaded.name, &args.fleet.allowed.text, reports);
        if !args.fleet.json {
            plan.write(args.fleet.all, out)?;
            writeln!(out)?;
        }
        let changes = plan.changes();
        let stop = ask::on_interrupt()?;
        let these = if changes == 1 { "this" } else { "these" };
        let question = format!("Apply {these} {}?", counted(changes, "change"));
        if changes > 0 && !args.yes && !ask::says_yes(&question, &stop)? {
            writeln!(out, "Nothing was changed.")?;
            return Ok(End::Wrong);
        }
        let begun = carry_out(&place, &plan, &loaded.policy, args, &stop, out).await?;
        let done = begun.iter().filter(|report| is_done(report)).count();
        let summary = Applied {
            region: plan.region,
            policy: plan.policy,
            changes,
            done,
            not_done: begun.len() - done,
            not_begun: changes - begun.len(),
            failed_to_look_at: plan.failures(),
            instances: begun.iter().map(row_json).collect(),
        };
        if args.fleet.json {
            write_json(&summary, out)?;
        } else {
            summary.write(out)?;
        }
        Ok(if summary.is_all_done() { End::Done } else { End::Wrong })
    })
}

pub fn policy_of(args: &FleetArgs) -> Result<Loaded, Trouble> {
    let loaded =
        load(args.rules.policy.as_deref(), args.rules.tag_key.as_deref(), &args.allowed.list)?;
    for warning in &loaded.warnings {
        writeln!(anstream::stderr(), "{UNSURE}{}{UNSURE:#}", printable(warning))?;
    }
    Ok(loaded)
}

/// Makes the changes at their pace, and says of each how it ended.
async fn carry_out(
    place: &Place,
    plan: &Plan<'_>,
    policy: &Policy,
    args: &ApplyArgs,
    stop: &AtomicBool,
    out: &mut impl Write,
) -> Result<Vec<InstanceReport>, Trouble> {
    let pace = Pace::of(args.writes_per_second);
    let work = plan.of(Group::Change).map(|planned| {
        let pace = &pace;
        async move {
            pace.turn(planned.decision.as_ref().map_or(1, writes)).await;
            if stop.load(Ordering::Relaxed) {
                return None;
            }
            let mut reports =
                place.run(std::slice::from_ref(&planned.instance.id), policy, Mode::Enforce).await;
            reports.pop().map(|report| (planned, report))
        }
    });
    let work: Vec<_> = work.collect();
    let total = work.len();
    let mut results = stream::iter(work).buffer_unordered(CHANGES_AT_ONCE);
    let mut begun = Vec::with_capacity(total);
    while let Some(result) = results.next().await {
        let Some((planned, report)) = result else { continue };
        if !args.fleet.json {
            write!(out, "[{}/{total}] ", begun.len() + 1)?;
            write_change(planned, &report, out)?;
        }
        begun.push(report);
    }
    Ok(begun)
}

fn write_change(
    planned: &InstanceReport,
    report: &InstanceReport,
    out: &mut impl Write,
) -> io::Result<()> {
    let id = &report.instance.id;
    match &report.result {
        Err(failure) => writeln!(out, "{id} {BAD}failed{BAD:#}: {}", printable(&chain(failure))),
        Ok(outcome) => {
            let style = if is_done(report) { GOOD } else { BAD };
            write!(out, "{id} {style}{}{style:#}", outcome.word())?;
            let word = |report: &InstanceReport| report.decision.as_ref().map(Decision::word);
            let as_planned = word(planned) == word(report);
            let from = report.attached().map_or("nothing".to_owned(), short);
            let to = report.required().map_or("nothing".to_owned(), |profile| short(&profile));
            match &report.decision {
                Some(_) if as_planned => writeln!(out, ": {from} -> {to}"),
                // The instance was looked at again, and is not what it was.
                Some(decision) => writeln!(
                    out,
                    ": not {} as planned, since {}",
                    word(planned).unwrap_or("changed"),
                    printable(&decision.to_string())
                ),
                None => writeln!(out),
            }
        }
    }
}

/// Whether an instance is where its policy wants it, as far as that can be brought about.
fn is_done(report: &InstanceReport) -> bool {
    match &report.result {
        Err(_)
        | Ok(Outcome::Waiting | Outcome::Planned | Outcome::NotRepaired | Outcome::Contested) => {
            false
        }
        Ok(
            Outcome::Left
            | Outcome::Kept
            | Outcome::Associated
            | Outcome::Removed
            | Outcome::Replaced
            | Outcome::Swapped
            | Outcome::Converged,
        ) => true,
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
    not_done: usize,
    /// Left out after an interrupt.
    not_begun: usize,
    /// Instances of which the plan could not be made.
    failed_to_look_at: usize,
    instances: Vec<RowJson>,
}

impl Applied<'_> {
    fn is_all_done(&self) -> bool {
        self.not_done + self.not_begun + self.failed_to_look_at == 0
    }

    fn write(&self, out: &mut impl Write) -> io::Result<()> {
        let style = if self.is_all_done() { GOOD } else { BAD };
        if self.changes + self.failed_to_look_at == 0 {
            return writeln!(out, "{style}There is nothing to do.{style:#}");
        }
        write!(out, "{style}{} of {} done", self.done, counted(self.changes, "change"))?;
        for (number, what) in [
            (self.not_done, "not done"),
            (self.not_begun, "not begun, because of an interrupt"),
            (self.failed_to_look_at, "without a plan"),
        ] {
            if number > 0 {
                write!(out, ", {number} {what}")?;
            }
        }
        writeln!(out, ".{style:#}")
    }
}

/// How many calls a decision takes.
fn writes(decision: &Decision) -> u32 {
    match decision {
        Decision::Swap { .. } => 2,
        Decision::Associate(_) | Decision::Replace { .. } | Decision::Remove(_) => 1,
        Decision::Leave(_)
        | Decision::Wait(_)
        | Decision::Keep(_)
        | Decision::KeepBare
        | Decision::LookUp(_)
        | Decision::Confirm => 0,
    }
}

/// Hands out turns. It paces whole changes and not single calls: between the two calls of a swap the instance is bare, and
/// must not wait.
struct Pace {
    between_writes: Duration,
    next: Mutex<Instant>,
}

impl Pace {
    fn of(writes_per_second: u32) -> Self {
        let between_writes = Duration::from_secs(1) / writes_per_second.max(1);
        Self { between_writes, next: Mutex::new(Instant::now()) }
    }

    /// Waits until it is the turn of a change of so many writes.
    async fn turn(&self, writes: u32) {
        let mut next = self.next.lock().await;
        let start = (*next).max(Instant::now());
        *next = start + self.between_writes * writes;
        drop(next);
        sleep_until(start).await;
    }
}
