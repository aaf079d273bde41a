//! Every instance of a Region, page by page, and where each stands. It changes nothing: what it finds wrong is looked at
//! again before anything is written.

mod list;
mod page_size;
mod seen;
mod snapshot;

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};

use crate::backoff::WaitsFor;
use crate::census::{Entry, Standing};
use crate::cloud::{Cloud, CloudError, ErrorKind, Fleet, Operation};
use crate::config::Mode;
use crate::decide::Decision;
use crate::failure::{Failure, chain};
use crate::flapping::{FlapDetector, History};
use crate::model::{AccountId, Association, Filter, Instance, InstanceId, InstanceRef, Region};
use crate::pace::{Limits, Pace};
use crate::policy::Policy;
use crate::profiles::Profiles;
use crate::queue::NothingWritten;
use crate::reconcile::{Job, Reconciler, STUCK_AFTER_NS};
use crate::report::{Cause, FoundBy, InstanceReport};
use crate::sweep::list::InstanceList;
use crate::sweep::seen::SeenInstances;
use crate::sweep::snapshot::Snapshot;
use crate::verification::{After, Verification};

/// Pages of the list of all associations that are worth their time: twelve thousand instances.
const MAX_LISTED_PAGES: usize = 12;
/// How long that list may take, of a short sweep a third. One that is slower would use up the time of the instances.
const MAX_LISTING_TIME: Duration = Duration::from_mins(1);
/// Pages of instances that are read beside that list, and held: one takes two megabytes.
const MAX_PAGES_AHEAD: usize = 4;
/// How long before the end no page is read ahead any more: what is decided must reach the queue.
const READ_AHEAD_RESERVE: Duration = Duration::from_secs(5);
/// How long the engine may take with one page.
const MAX_LOOK_TIME: Duration = Duration::from_mins(2);
/// How long a sweep waits, in all, for instances that cannot be decided about to be decidable; of a short sweep a third.
/// One profile that IAM cannot show must not use up the time of the whole fleet.
const MAX_HEALING_TIME: Duration = Duration::from_mins(5);
/// The longest pause between two tries; the first takes a second, and each is twice as long as the one before.
const MAX_PAUSE: Duration = Duration::from_secs(30);
/// A sweep writes nothing.
const NO_WRITES: Limits = Limits { per_second: 1.0, burst: 1.0 };

/// Where to sweep, and what the instances are held against.
#[derive(Debug)]
pub struct Sweep<'a, C> {
    /// Where the instances are.
    pub cloud: &'a C,
    /// What IAM answered lately.
    pub profiles: &'a Profiles,
    /// The rules.
    pub policy: &'a Policy,
    /// The Region.
    pub region: &'a Region,
    /// Whose instances they are, where that is known.
    pub account: Option<&'a AccountId>,
    /// Now, in nanoseconds since 1970.
    pub now_ns: i128,
    /// The most instances that a page may have, for the sake of memory.
    pub max_rows: usize,
    /// What becomes of a failure that time may heal.
    pub retries: Retries,
}

/// What becomes of a failure that time may heal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retries {
    /// It stands: a person is there to try again.
    Never,
    /// It is tried again, with growing pauses, as long as there is time.
    WhileTimeRemains,
}

/// A sweep under way: what is known of associations, and the instances as they come.
#[derive(Debug)]
pub struct Pages<'a, C> {
    sweep: Sweep<'a, C>,
    associations: Associations,
    list: InstanceList<'a>,
    /// Pages read ahead.
    ahead: VecDeque<Vec<Instance>>,
    seen: SeenInstances,
    time_to_heal: Duration,
}

/// Where the associations are known from.
#[derive(Debug)]
enum Associations {
    /// Of each instance of the Region the one in force, from the whole list.
    Listed(HashMap<InstanceId, Association>),
    /// EC2 is asked about each page's instances.
    ByPage,
}

/// What one page showed.
#[derive(Debug)]
pub struct PageReport {
    /// Its instances, each dealt with as by a dry run, and each once in a sweep.
    pub reports: Vec<InstanceReport>,
    /// Instances that could not be decided about before the time was up.
    pub undecided: usize,
}

impl<'a, C: Cloud + Fleet> Sweep<'a, C> {
    /// Begins. A sweep of everything reads the list of all associations first, and pages of instances beside it, which takes
    /// a third of the calls that asking page by page does; but only as long as that list is short and quick. `until` is when
    /// the whole sweep must be over.
    pub async fn begin(self, filters: &'a [Filter], until: Instant) -> Pages<'a, C> {
        let third = until.saturating_duration_since(Instant::now()) / 3;
        let mut pages = Pages {
            list: InstanceList::new(filters, self.max_rows),
            sweep: self,
            associations: Associations::ByPage,
            ahead: VecDeque::new(),
            seen: SeenInstances::default(),
            time_to_heal: MAX_HEALING_TIME.min(third),
        };
        if filters.is_empty() {
            pages.list_associations(Instant::now() + MAX_LISTING_TIME.min(third)).await;
        }
        pages
    }

    /// Of each instance the association in force; nothing, where the list is too long, or cannot be read.
    async fn list_associations(&self) -> Option<HashMap<InstanceId, Association>> {
        let mut in_force = HashMap::new();
        let mut from = None;
        for _ in 0..MAX_LISTED_PAGES {
            let page = match self.cloud.associations_page(from.as_deref()).await {
                Ok(page) => page,
                Err(error) => {
                    tracing::info!(
                        "associations are read page by page, since all of them cannot be: {}",
                        chain(&error)
                    );
                    return None;
                }
            };
            keep_those_in_force(&mut in_force, page.rows);
            from = page.next;
            if from.is_none() {
                return Some(in_force);
            }
        }
        None
    }
}

impl<C: Cloud + Fleet> Pages<'_, C> {
    async fn list_associations(&mut self, until: Instant) {
        let Self { sweep, list, ahead, associations, .. } = self;
        let is_over = AtomicBool::new(false);
        let listing = async {
            let listed = timeout_at(until, sweep.list_associations()).await;
            is_over.store(true, Ordering::Relaxed);
            listed.ok().flatten()
        };
        let read_ahead = async {
            while ahead.len() < MAX_PAGES_AHEAD && !is_over.load(Ordering::Relaxed) {
                // What fails here is tried again when its turn comes.
                let Ok(Some(rows)) = list.try_read(sweep.cloud).await else { break };
                ahead.push_back(rows);
            }
        };
        let (listed, _) = tokio::join!(listing, timeout_at(until, read_ahead));
        if let Some(listed) = listed {
            *associations = Associations::Listed(listed);
        }
    }

    /// The next page, of which each instance is decided about by then; nothing after the last. The page behind it is read
    /// meanwhile.
    ///
    /// # Errors
    /// The call's that lists the instances, or that says what the engine must know of each of them, where time does not heal
    /// it, or there is no time left. What fails for some instances is in their reports.
    pub async fn next(&mut self, until: Instant) -> Result<Option<PageReport>, CloudError> {
        let rows = match self.ahead.pop_front() {
            Some(rows) => rows,
            None => match self.read(until).await? {
                Some(rows) => rows,
                None => return Ok(None),
            },
        };
        let Self { sweep, associations, list, ahead, seen, time_to_heal } = self;
        let news = seen.leave_out_of(rows);
        let look = sweep.look_at(news, associations, time_to_heal, until);
        let read_ahead = async {
            if ahead.is_empty()
                && let Ok(Some(rows)) = list.try_read(sweep.cloud).await
            {
                ahead.push_back(rows);
            }
        };
        // What is decided must not be lost for the sake of a page that does not come.
        let read_until = until.checked_sub(READ_AHEAD_RESERVE).unwrap_or(until);
        let (page, _) = tokio::join!(look, timeout_at(read_until, read_ahead));
        let page = page?;
        seen.extend(page.reports.iter().map(|report| &report.instance.id));
        Ok(Some(page))
    }

    /// The next page's instances, tried again for as long as there is time; nothing after the last.
    async fn read(&mut self, until: Instant) -> Result<Option<Vec<Instance>>, CloudError> {
        let mut pauses = Pauses::default();
        loop {
            let error = match self.list.try_read(self.sweep.cloud).await {
                Ok(rows) => return Ok(rows),
                Err(error) => error,
            };
            // A page's token does not live for ever, and may be good for pages of one size only.
            let begins_anew =
                error.kind == ErrorKind::Rejected && self.list.begin_anew(self.seen.len());
            let pause = if begins_anew {
                Duration::ZERO
            } else if self.sweep.retries == Retries::WhileTimeRemains && error.kind.may_heal() {
                pauses.advance()
            } else {
                return Err(error);
            };
            if Instant::now() + pause >= until {
                return Err(error);
            }
            tracing::warn!(
                "a page of instances is asked for again, with {} rows: {}",
                self.list.rows(),
                chain(&error)
            );
            sleep(pause).await;
        }
    }
}

/// The pauses between tries.
#[derive(Debug, Default)]
pub struct Pauses(u32);

impl Pauses {
    /// How long to wait before the next try: twice as long each time.
    pub fn advance(&mut self) -> Duration {
        let pause = Duration::from_secs(1 << self.0.min(8)).min(MAX_PAUSE);
        self.0 += 1;
        pause
    }
}

/// Adds rows to those in force. One row each, where a list of rows for each instance would take four times the memory.
fn keep_those_in_force(
    in_force: &mut HashMap<InstanceId, Association>,
    rows: impl IntoIterator<Item = Association>,
) {
    for row in rows {
        let rows = match in_force.remove(&row.instance) {
            None => vec![row],
            Some(other) => vec![other, row],
        };
        if let Some(row) = Association::in_force(rows) {
            in_force.insert(row.instance.clone(), row);
        }
    }
}

impl<C: Cloud> Sweep<'_, C> {
    /// Has the engine decide about a page, as if it had just looked; and again about those for which that failed, as long as
    /// there is time to heal.
    async fn look_at(
        &self,
        instances: Vec<Instance>,
        associations: &Associations,
        time_to_heal: &mut Duration,
        until: Instant,
    ) -> Result<PageReport, CloudError> {
        let listed = match associations {
            Associations::Listed(listed) => Some(listed),
            Associations::ByPage => None,
        };
        let ids: Vec<InstanceId> = instances.iter().map(|instance| instance.id.clone()).collect();
        let snapshot = Snapshot::new(self.cloud, instances, listed);
        let mut reports = self.run(&snapshot, &ids, until).await;
        let mut pauses = Pauses::default();
        let first_failure = Instant::now();
        loop {
            if let Some(refusal) = reports.iter().find_map(refusal) {
                return Err(refusal.clone());
            }
            let failed: Vec<_> = (0..reports.len()).filter(|at| may_heal(&reports[*at])).collect();
            if failed.is_empty() || self.retries == Retries::Never {
                break;
            }
            let pause = pauses.advance();
            if Instant::now() + pause + READ_AHEAD_RESERVE >= until {
                let undecided = failed.len();
                reports.retain(|report| !may_heal(report));
                return Ok(PageReport { reports, undecided });
            }
            if first_failure.elapsed() + pause > *time_to_heal {
                break;
            }
            tracing::info!(
                "{} instances could not be decided about, and are looked at again in {} s",
                failed.len(),
                pause.as_secs()
            );
            sleep(pause).await;
            let ids: Vec<_> = failed.iter().map(|at| reports[*at].instance.id.clone()).collect();
            for (at, report) in failed.into_iter().zip(self.run(&snapshot, &ids, until).await) {
                reports[at] = report;
            }
        }
        *time_to_heal = time_to_heal.saturating_sub(first_failure.elapsed());
        Ok(PageReport { reports, undecided: 0 })
    }

    async fn run(
        &self,
        snapshot: &Snapshot<'_, C>,
        ids: &[InstanceId],
        until: Instant,
    ) -> Vec<InstanceReport> {
        let reconciler = Reconciler {
            cloud: snapshot,
            profiles: self.profiles,
            policy: self.policy,
            pace: &Pace::new(NO_WRITES),
            flapping: &FlapDetector::default(),
            write_ahead: Some(&NothingWritten),
            deadline: until.min(Instant::now() + MAX_LOOK_TIME),
            now_ns: self.now_ns,
        };
        let cause = Cause { found_by: FoundBy::Sweep, ..Cause::default() };
        // What is not there now is not waited for: the next sweep comes.
        let jobs = ids.iter().map(|id| {
            let (account, region) = (self.account.cloned(), self.region.clone());
            let instance = InstanceRef { account, region, id: id.clone() };
            Job::about(instance, Mode::DryRun, cause.clone())
        });
        let mut reports = reconciler.run(jobs.collect()).await;
        for report in &mut reports {
            match pending(report, self.now_ns) {
                Some(Pending::TooLong) => report.is_stuck = true,
                Some(Pending::NobodyKnows) => report.follow_up = verification_of(report),
                None => {}
            }
        }
        reports
    }
}

/// How long EC2 has had to put an association into force that it has not put there yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pending {
    /// Over five minutes.
    TooLong,
    /// EC2 does not say since when: another look in five minutes tells.
    NobodyKnows,
}

/// Whether a right association is not in force although it should be. On a stopped instance it never is: the time counts
/// from the instance's start too.
fn pending(report: &InstanceReport, now_ns: i128) -> Option<Pending> {
    let facts = report.facts.as_ref().filter(|_| report.standing() == Standing::Right)?;
    let association = facts.association.as_ref()?;
    let times = [association.since, facts.instance.started];
    let is_recent = |at: &i128| now_ns - at <= STUCK_AFTER_NS;
    if !facts.is_coming_into_force() || times.iter().flatten().any(is_recent) {
        return None;
    }
    let is_known = times.iter().all(Option::is_some);
    Some(if is_known { Pending::TooLong } else { Pending::NobodyKnows })
}

/// The look, in five minutes, that tells whether an association of unknown age is put into force.
fn verification_of(report: &InstanceReport) -> Option<Verification> {
    let association = report.facts.as_ref()?.association.as_ref()?;
    Some(Verification {
        instance: report.instance.clone(),
        after: After::Wait,
        association: Some(association.id.clone()),
        profile_id: report.decision.as_ref().and_then(Decision::required_id).cloned(),
        history: History::default(),
    })
}

/// Whether an instance could not be decided about for a reason that time may heal.
fn may_heal(report: &InstanceReport) -> bool {
    let waits_for = report.result.as_ref().err().map(|why| why.waits_for(report.patience));
    match waits_for {
        Some(WaitsFor::Turn | WaitsFor::Rate | WaitsFor::Calm) => true,
        Some(
            WaitsFor::Repair
            | WaitsFor::Creation
            | WaitsFor::Cooldown
            | WaitsFor::Verification
            | WaitsFor::Right
            | WaitsFor::Nothing,
        )
        | None => false,
    }
}

/// The refusal of a read that each instance needs. Without that right no instance can be decided about, which is one error
/// and not one for each.
fn refusal(report: &InstanceReport) -> Option<&CloudError> {
    let Err(Failure::Cloud(error)) = &report.result else { return None };
    let is_about_ec2 = match error.operation {
        Operation::DescribeInstances
        | Operation::DescribeIamInstanceProfileAssociations
        | Operation::DescribeTags => true,
        Operation::GetInstanceProfile
        | Operation::AssociateIamInstanceProfile
        | Operation::ReplaceIamInstanceProfileAssociation
        | Operation::DisassociateIamInstanceProfile => false,
    };
    (is_about_ec2 && matches!(error.kind, ErrorKind::Denied(_))).then_some(error)
}

/// A report as a census counts it; `source` is what launched the instance.
#[must_use]
pub fn entry<'a>(report: &InstanceReport, source: Option<&'a str>) -> Entry<'a> {
    let standing = report.standing();
    // Bare and nothing required, or nothing that may be done: no launch forgot anything.
    let forgot = matches!(standing, Standing::Change | Standing::Blocked | Standing::Failed);
    Entry {
        standing,
        reason: report.reason(),
        is_stuck: report.is_stuck,
        bare_source: source.filter(|_| forgot),
    }
}
