//! Every instance of a Region, page by page, and where each stands. It changes nothing: what it finds wrong is looked at
//! again before anything is written.

mod snapshot;

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::census::{Entry, Standing};
use crate::cloud::{Cloud, CloudError, Fleet, Page};
use crate::config::Mode;
use crate::contest::Contests;
use crate::decide::Patience;
use crate::model::{
    AccountId, Association, AssociationState, Filter, Instance, InstanceFacts, InstanceId,
    InstanceRef, InstanceState, Region, Tags,
};
use crate::pace::{Limits, Pace};
use crate::policy::Policy;
use crate::profiles::Profiles;
use crate::reconcile::{Job, Reconciler};
use crate::report::{Cause, FoundBy, InstanceReport};
use crate::sweep::snapshot::Snapshot;

/// An association of a running instance is put into force within seconds. Where that takes longer than this, EC2 cannot
/// assume the role.
const STUCK_AFTER: Duration = Duration::from_mins(5);
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

/// A sweep under way: the associations as they were when it began, and the instances as they come.
#[derive(Debug)]
pub struct Pages<'a, C> {
    sweep: Sweep<'a, C>,
    filters: &'a [Filter],
    /// Of each instance the one in force.
    associations: HashMap<InstanceId, Association>,
    /// Read already, side by side with the associations.
    first: Option<Page<Instance>>,
    next: Next,
}

/// Where the next page begins.
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
    /// Begins, or goes on at `from`: reads all associations, and the first page of instances beside them.
    ///
    /// # Errors
    /// The first call's that failed.
    pub async fn begin(
        self,
        filters: &'a [Filter],
        from: Option<&str>,
    ) -> Result<Pages<'a, C>, CloudError> {
        let (associations, first) =
            tokio::try_join!(self.associations(), self.cloud.instances_page(filters, from))?;
        let next = from.map_or(Next::Beginning, |from| Next::At(from.to_owned()));
        Ok(Pages { sweep: self, filters, associations, first: Some(first), next })
    }

    async fn associations(&self) -> Result<HashMap<InstanceId, Association>, CloudError> {
        let mut in_force: HashMap<InstanceId, Association> = HashMap::new();
        let mut from = None;
        loop {
            let page = self.cloud.associations_page(from.as_deref()).await?;
            for row in page.rows {
                // One row each, where a list of rows for each would take four times the memory.
                let rows = match in_force.remove(&row.instance) {
                    None => vec![row],
                    Some(other) => vec![other, row],
                };
                if let Some(row) = Association::in_force(rows) {
                    in_force.insert(row.instance.clone(), row);
                }
            }
            from = page.next;
            if from.is_none() {
                return Ok(in_force);
            }
        }
    }
}

impl<C: Cloud + Fleet> Pages<'_, C> {
    /// The next page, of which each instance is decided about by then; nothing after the last. After an error the same
    /// page is next.
    ///
    /// # Errors
    /// The call's that lists the instances. What fails for one instance is in its report.
    pub async fn next(&mut self, deadline: Instant) -> Result<Option<PageReport>, CloudError> {
        let page = match (self.first.take(), &self.next) {
            (Some(page), _) => page,
            (None, Next::End) => return Ok(None),
            (None, Next::Beginning) => self.sweep.cloud.instances_page(self.filters, None).await?,
            (None, Next::At(from)) => {
                self.sweep.cloud.instances_page(self.filters, Some(from)).await?
            }
        };
        self.next = page.next.clone().map_or(Next::End, Next::At);
        let reports = self.sweep.look_at(page.rows, &mut self.associations, deadline).await;
        Ok(Some(PageReport { reports, next: page.next }))
    }
}

impl<C: Cloud> Sweep<'_, C> {
    /// Has the engine decide about a page, as if it had just looked.
    async fn look_at(
        &self,
        instances: Vec<Instance>,
        associations: &mut HashMap<InstanceId, Association>,
        deadline: Instant,
    ) -> Vec<InstanceReport> {
        let ids: Vec<InstanceId> = instances.iter().map(|instance| instance.id.clone()).collect();
        let facts = instances.into_iter().map(|instance| {
            // An instance is on one page, unless it is on two of them because others came and went.
            let association = associations.get(&instance.id).cloned();
            (instance.id.clone(), InstanceFacts { instance, association })
        });
        let snapshot = Snapshot { cloud: self.cloud, facts: facts.collect() };
        let reconciler = Reconciler {
            cloud: &snapshot,
            profiles: self.profiles,
            policy: self.policy,
            pace: &Pace::new(NO_WRITES),
            contests: &Contests::default(),
            deadline,
        };
        let jobs = ids.into_iter().map(|id| Job {
            instance: InstanceRef {
                account: self.account.cloned(),
                region: self.region.clone(),
                id,
            },
            announced: Tags::new(),
            // What is not there now is not waited for: the next sweep comes.
            patience: Patience::Exhausted,
            mode: Mode::DryRun,
            cause: Cause { found_by: FoundBy::Sweep, ..Cause::default() },
        });
        let mut reports = reconciler.run(jobs.collect()).await;
        for report in &mut reports {
            report.is_stuck = report.standing() == Standing::Right
                && report.facts.as_ref().is_some_and(|facts| is_stuck(facts, self.now_ns));
        }
        reports
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
