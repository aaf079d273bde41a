//! Every instance of a Region, page by page, and where each stands. It changes nothing: what it finds wrong is looked at
//! again before anything is written.

mod snapshot;

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::future::try_join_all;
use tokio::time::{Instant, timeout_at};

use crate::census::{Entry, Standing};
use crate::cloud::{Cloud, CloudError, Fleet, IDS_PER_READ, Page};
use crate::config::Mode;
use crate::flapping::FlapDetector;
use crate::model::{
    AccountId, Association, AssociationState, Filter, Instance, InstanceFacts, InstanceId,
    InstanceRef, InstanceState, Region, TagSource,
};
use crate::pace::{Limits, Pace};
use crate::policy::Policy;
use crate::profiles::Profiles;
use crate::queue::NothingWritten;
use crate::reconcile::{Job, Reconciler};
use crate::report::{Cause, FoundBy, InstanceReport};
use crate::sweep::snapshot::Snapshot;

/// An association of a running instance is put into force within seconds. Where that takes longer than this, EC2 cannot
/// assume the role.
const STUCK_AFTER: Duration = Duration::from_mins(5);
/// Pages of the list of all associations that are worth their time: twelve thousand instances.
const LISTED_PAGES: usize = 12;
/// Pages of instances that are read beside that list, and held: one takes two megabytes.
const PAGES_AHEAD: usize = 4;
/// How long before a page's deadline no other is read ahead any more.
const READ_AHEAD_ENDS: Duration = Duration::from_secs(5);
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
}

/// A sweep under way: what is known of associations, and the instances as they come.
#[derive(Debug)]
pub struct Pages<'a, C> {
    sweep: Sweep<'a, C>,
    filters: &'a [Filter],
    associations: Associations,
    /// Pages read ahead.
    ahead: VecDeque<Result<Page<Instance>, CloudError>>,
    next: Next,
}

/// Where the associations are known from.
#[derive(Debug)]
enum Associations {
    /// Of each instance of the Region the one in force, from the whole list.
    Listed(HashMap<InstanceId, Association>),
    /// EC2 is asked about each page's instances.
    ByPage,
}

/// Where the next page to be read begins.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Next {
    Beginning,
    At(String),
    End,
}

/// What one page showed.
#[derive(Debug)]
pub struct PageReport {
    /// Its instances, each dealt with as by a dry run.
    pub reports: Vec<InstanceReport>,
    /// Where the next page begins, unless this is the last.
    pub next: Option<String>,
}

impl<'a, C: Cloud + Fleet> Sweep<'a, C> {
    /// Begins, or goes on at `from`. A sweep of everything reads the list of all associations first, and pages of instances
    /// beside it, which takes a third of the calls that asking page by page does; but only up to [`LISTED_PAGES`]: a
    /// large fleet's list would take an invocation's time, and again in each that goes on. Beside the list pages are read
    /// until `until` at the latest.
    ///
    /// # Errors
    /// The call's that lists the associations.
    pub async fn begin(
        self,
        filters: &'a [Filter],
        from: Option<&str>,
        until: Instant,
    ) -> Result<Pages<'a, C>, CloudError> {
        let next = from.map_or(Next::Beginning, |from| Next::At(from.to_owned()));
        let mut pages = Pages {
            sweep: self,
            filters,
            associations: Associations::ByPage,
            ahead: VecDeque::new(),
            next,
        };
        if pages.next == Next::Beginning && filters.is_empty() {
            let Pages { sweep, ahead, next, .. } = &mut pages;
            let is_listed = AtomicBool::new(false);
            let list = async {
                let listed = sweep.list_associations().await;
                is_listed.store(true, Ordering::Relaxed);
                listed
            };
            let read_ahead = async {
                while ahead.len() < PAGES_AHEAD && !is_listed.load(Ordering::Relaxed) {
                    let Some(page) = sweep.read(filters, next).await else { break };
                    let failed = page.is_err();
                    ahead.push_back(page);
                    if failed {
                        break;
                    }
                }
            };
            let (listed, _) = tokio::join!(list, timeout_at(until, read_ahead));
            if let Some(listed) = listed? {
                pages.associations = Associations::Listed(listed);
            }
        }
        Ok(pages)
    }

    /// Of each instance the association in force; nothing, where the list is too long.
    async fn list_associations(
        &self,
    ) -> Result<Option<HashMap<InstanceId, Association>>, CloudError> {
        let mut in_force = HashMap::new();
        let mut from = None;
        for _ in 0..LISTED_PAGES {
            let page = self.cloud.associations_page(from.as_deref()).await?;
            keep_those_in_force(&mut in_force, page.rows);
            from = page.next;
            if from.is_none() {
                return Ok(Some(in_force));
            }
        }
        Ok(None)
    }

    /// The next page, and where the one behind it begins; nothing after the last. After an error the same page is next.
    async fn read(
        &self,
        filters: &[Filter],
        next: &mut Next,
    ) -> Option<Result<Page<Instance>, CloudError>> {
        let from = match &*next {
            Next::Beginning => None,
            Next::At(from) => Some(from.as_str()),
            Next::End => return None,
        };
        let page = self.cloud.instances_page(filters, from).await;
        if let Ok(page) = &page {
            *next = page.next.clone().map_or(Next::End, Next::At);
        }
        Some(page)
    }
}

impl<C: Cloud + Fleet> Pages<'_, C> {
    /// The next page, of which each instance is decided about by then; nothing after the last. The page behind it is read
    /// meanwhile.
    ///
    /// # Errors
    /// The call's that lists the instances or asks for their associations. What fails for one instance is in its report.
    pub async fn next(&mut self, deadline: Instant) -> Result<Option<PageReport>, CloudError> {
        let Self { sweep, filters, associations, ahead, next } = self;
        let page = match ahead.pop_front() {
            Some(page) => page?,
            None => match sweep.read(filters, next).await {
                Some(page) => page?,
                None => return Ok(None),
            },
        };
        let Page { rows, next: behind } = page;
        let look = sweep.look_at(rows, associations, deadline);
        let read_ahead = async {
            if ahead.is_empty()
                && let Some(page) = sweep.read(filters, next).await
            {
                ahead.push_back(page);
            }
        };
        // What is decided must not be lost for the sake of a page that does not come.
        let until = deadline.checked_sub(READ_AHEAD_ENDS).unwrap_or(deadline);
        let (reports, _) = tokio::join!(look, timeout_at(until, read_ahead));
        Ok(Some(PageReport { reports: reports?, next: behind }))
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
    /// Has the engine decide about a page, as if it had just looked.
    async fn look_at(
        &self,
        instances: Vec<Instance>,
        associations: &Associations,
        deadline: Instant,
    ) -> Result<Vec<InstanceReport>, CloudError> {
        let ids: Vec<InstanceId> = instances.iter().map(|instance| instance.id.clone()).collect();
        let asked;
        let associations = match associations {
            Associations::Listed(listed) => listed,
            Associations::ByPage => {
                let calls = ids.chunks(IDS_PER_READ).map(|ids| self.cloud.associations(ids));
                let mut in_force = HashMap::with_capacity(ids.len());
                for rows in try_join_all(calls).await? {
                    keep_those_in_force(&mut in_force, rows);
                }
                asked = in_force;
                &asked
            }
        };
        let facts = instances.into_iter().map(|instance| {
            // An instance is on one page, unless it is on two of them because others came and went.
            let association = associations.get(&instance.id).cloned();
            (
                instance.id.clone(),
                InstanceFacts { instance, association, tags_by: TagSource::Instances },
            )
        });
        let snapshot = Snapshot { cloud: self.cloud, facts: facts.collect() };
        let reconciler = Reconciler {
            cloud: &snapshot,
            profiles: self.profiles,
            policy: self.policy,
            pace: &Pace::new(NO_WRITES),
            flapping: &FlapDetector::default(),
            write_ahead: Some(&NothingWritten),
            deadline,
            now_ns: self.now_ns,
        };
        let cause = Cause { found_by: FoundBy::Sweep, ..Cause::default() };
        // What is not there now is not waited for: the next sweep comes.
        let jobs = ids.into_iter().map(|id| {
            let (account, region) = (self.account.cloned(), self.region.clone());
            Job::about(InstanceRef { account, region, id }, Mode::DryRun, cause.clone())
        });

        let mut reports = reconciler.run(jobs.collect()).await;
        for report in &mut reports {
            report.is_stuck = report.standing() == Standing::Right
                && report.facts.as_ref().is_some_and(|facts| is_stuck(facts, self.now_ns));
        }
        Ok(reports)
    }
}

/// Whether EC2 has had long enough to put an association into force. On a stopped instance it never does: the time
/// counts from the instance's start too.
fn is_stuck(facts: &InstanceFacts, now_ns: i128) -> bool {
    let Some(association) = &facts.association else { return false };
    let Ok(patience) = i128::try_from(STUCK_AFTER.as_nanos()) else { return false };
    let is_long_ago = |at: Option<i128>| at.is_some_and(|at| now_ns - at > patience);
    facts.instance.state == InstanceState::Running
        && association.state == AssociationState::Associating
        && is_long_ago(association.since)
        && is_long_ago(facts.instance.started)
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
