//! Look, decide, act, look again: bounded in looks, in writes and in time. It makes no choice that `decide` did not make.

mod attempt;
mod look;
mod write;

use std::collections::HashSet;
use std::time::Duration;

use futures_util::{StreamExt, stream};
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::cloud::{Cloud, ErrorKind};
use crate::config::Mode;
use crate::decide::{
    Decision, Leave, NotSwapped, Patience, Wait, decide_unseen, wait_until_running,
};
use crate::expectation::{Expectation, Lag};
use crate::failure::Failure;
use crate::flapping::FlapDetector;
use crate::model::{
    Association, Detached, InstanceFacts, InstanceId, InstanceRef, ProfileRef, TagSource, Tags,
};
use crate::pace::Pace;
use crate::policy::rule::Subject;
use crate::policy::{Demand, Policy, Requirement};
use crate::profiles::Profiles;
use crate::queue::WriteAhead;
use crate::reconcile::attempt::{Attempt, Step};
use crate::reconcile::look::SharedObservation;
use crate::report::{Cause, InstanceReport, Outcome};
use crate::verification::{After, Verification};

/// Instances dealt with side by side: at 5 writes a second the last of them waits three seconds for its turn.
const CONCURRENCY: usize = 16;
/// How long what a look showed is good enough to write by. Those that wait longer for their turn are looked at again,
/// together.
const MAX_FACTS_AGE: Duration = Duration::from_secs(10);
/// How long a look waits for what IAM is asked again beside it.
const REFRESH_TIME: Duration = Duration::from_secs(1);
/// Time kept back at the end of an invocation, to put an old profile back where a swap was cut short.
const ROLLBACK_RESERVE: Duration = Duration::from_secs(2);
/// How long EC2 may take to put an association into force on a running instance, which it does within seconds, or it cannot
/// assume the role: in nanoseconds, as its times are.
pub(crate) const STUCK_AFTER_NS: i128 = 5 * 60 * 1_000_000_000;

/// One instance to bring to what its tags require.
#[derive(Debug, Clone)]
pub struct Job {
    /// The instance.
    pub instance: InstanceRef,
    /// What the events say that a read must show.
    pub expected: Expectation,
    /// Whether what is not there yet may still come.
    pub patience: Patience,
    /// Whether to write.
    pub mode: Mode,
    /// Why it is looked at; that decides nothing.
    pub cause: Cause,
    /// What a swap took away, or was about to, and nothing may have taken the place of yet.
    pub debt: Option<Detached>,
    /// The writes that this look verifies.
    pub verifies: Vec<Verification>,
}

impl Job {
    /// A look at an instance of which nothing more is known, and that waits for nothing.
    #[must_use]
    pub fn about(instance: InstanceRef, mode: Mode, cause: Cause) -> Self {
        Self {
            instance,
            expected: Expectation::default(),
            patience: Patience::Exhausted,
            mode,
            cause,
            debt: None,
            verifies: Vec::new(),
        }
    }
}

/// Everything a run needs.
#[derive(Debug)]
pub struct Reconciler<'a, C, W> {
    /// Where the instances are.
    pub cloud: &'a C,
    /// What IAM answered lately.
    pub profiles: &'a Profiles,
    /// The rules.
    pub policy: &'a Policy,
    /// Whose turn it is to write.
    pub pace: &'a Pace,
    /// Who keeps undoing what is done.
    pub flapping: &'a FlapDetector,
    /// Where a swap is written down before it takes anything away; without it nothing is swapped.
    pub write_ahead: Option<&'a W>,
    /// When the run must be over.
    pub deadline: Instant,
    /// Now, in nanoseconds since 1970.
    pub now_ns: i128,
}

impl<'a, C: Cloud, W: WriteAhead> Reconciler<'a, C, W> {
    /// Deals with all jobs, each on its own, and reports on them in their order.
    pub async fn run(&self, jobs: Vec<Job>) -> Vec<InstanceReport> {
        let remaining = self.deadline.saturating_duration_since(Instant::now());
        let stop_at = self.deadline - ROLLBACK_RESERVE.min(remaining / 4);
        let ids: Vec<InstanceId> = jobs.iter().map(|job| job.instance.id.clone()).collect();
        let look = timeout_at(stop_at, self.look_at_all(&ids));
        let refresh = timeout(REFRESH_TIME, self.profiles.refresh(self.cloud));
        let (Ok(observations), _) = tokio::join!(look, refresh) else {
            let cut_short = |job| {
                let attempt = Attempt::new(job, stop_at);
                self.report(attempt, Err(Failure::OutOfTime), remaining)
            };
            return jobs.into_iter().map(cut_short).collect();
        };
        let mut jobs: Vec<_> = jobs.into_iter().enumerate().collect();
        // Those that EC2 does not show are looked for again and again: they must not keep the others waiting.
        jobs.sort_by_key(|(_, job)| !observations.contains_key(&job.instance.id));
        let waiting: HashSet<_> = ids.into_iter().collect();
        let shared = &Mutex::new(SharedObservation { observations, at: Instant::now(), waiting });
        let work = jobs
            .into_iter()
            .map(async |(index, job)| (index, self.process(job, shared, stop_at).await));
        let mut reports: Vec<_> = stream::iter(work).buffer_unordered(CONCURRENCY).collect().await;
        reports.sort_by_key(|(index, _)| *index);
        reports.into_iter().map(|(_, report)| report).collect()
    }

    async fn process(
        &self,
        job: Job,
        shared: &Mutex<SharedObservation>,
        stop_at: Instant,
    ) -> InstanceReport {
        let mut attempt = Attempt::new(self.with_a_legal_debt(job), stop_at);
        let started = attempt.started;
        if let Some(by) = &attempt.job.cause.changed_by {
            self.flapping.record_other_actor(&attempt.job.instance, by);
        }
        if started >= stop_at {
            return self.report(attempt, Err(Failure::OutOfTime), Duration::ZERO);
        }
        let work = timeout_at(stop_at, self.converge(&mut attempt, shared)).await;
        let mut result = work.unwrap_or(Err(Failure::OutOfTime));
        attempt.end_lost_turn();
        shared.lock().await.waiting.remove(&attempt.job.instance.id);
        if result.is_err()
            && attempt.job.mode == Mode::Enforce
            && let Some(detached) = attempt.debt_that_is_due()
        {
            result = self.roll_back(&mut attempt, detached, result).await;
        }
        self.report(attempt, result, started.elapsed())
    }

    /// A job without what it may not put back: nobody's message leads to a profile outside the allow-list.
    fn with_a_legal_debt(&self, mut job: Job) -> Job {
        let is_legal = |debt: &Detached| self.policy.allows_attached(&debt.profile_arn);
        if let Some(debt) = job.debt.take_if(|debt| !is_legal(debt)) {
            tracing::warn!(
                instance.id = job.instance.id.as_str(),
                "{} is not attached again: no pattern of ALLOWED_PROFILES allows it",
                debt.profile_arn
            );
        }
        job
    }

    async fn converge(
        &self,
        attempt: &mut Attempt<'a>,
        shared: &Mutex<SharedObservation>,
    ) -> Result<Outcome, Failure> {
        let id = attempt.job.instance.id.clone();
        let (mut at, mut observation) = self.shared_look(&id, shared).await;
        loop {
            attempt.observe(observation.map_err(Failure::Cloud)?, at);
            let step = if let Some(step) = attempt.lag(self.policy) {
                step?
            } else {
                let decision = self.decide(attempt).await?;
                attempt.decision = Some(decision.clone());
                self.execute(attempt, decision).await?
            };
            (at, observation) = match step {
                Step::Done(outcome) => return Ok(outcome),
                Step::LookTogether => self.shared_look(&id, shared).await,
                Step::LookAgain(pause) => {
                    // From here on this instance is looked at by itself.
                    shared.lock().await.waiting.remove(&id);
                    sleep(pause).await;
                    let observation = self.look_at(&id).await;
                    (Instant::now(), observation)
                }
            };
        }
    }

    /// Carries out a decision, or says that another look is due.
    async fn execute(
        &self,
        attempt: &mut Attempt<'a>,
        decision: Decision,
    ) -> Result<Step, Failure> {
        match decision {
            Decision::Leave(Leave::NeverSeen) => {
                Ok(attempt.look_behind_the_event().unwrap_or(Step::Done(Outcome::Left)))
            }
            Decision::Leave(Leave::Unusable { profile, why })
                if attempt.job.patience == Patience::Fresh =>
            {
                Err(Failure::ProfileNotReady { profile, why })
            }
            Decision::Leave(Leave::TagsDoubtful) if attempt.job.patience == Patience::Fresh => {
                Err(Failure::StaleRead(Lag::TwoReads))
            }
            Decision::Leave(Leave::SwapIsOver { .. }) => {
                Ok(Step::Done(attempt.outcome_of_a_lost_write().unwrap_or(Outcome::Left)))
            }
            // The last two are answered in `decide`; they are not final, so nothing that could be carried out.
            Decision::Leave(_) | Decision::LookUp(_) | Decision::Confirm => {
                Ok(Step::Done(Outcome::Left))
            }
            Decision::Wait(Wait::InstanceUnseen) => {
                attempt.look_behind_the_event().ok_or(Failure::InstanceUnseen)
            }
            Decision::Wait(Wait::State(state)) if attempt.awaits_another_state(&state) => {
                Err(Failure::InstanceNotReady(state))
            }
            Decision::Wait(Wait::State(_) | Wait::UntilRunning { .. }) => {
                Ok(Step::Done(Outcome::Waiting))
            }
            Decision::Wait(Wait::ProfileUnknown(wanted)) => Err(Failure::ProfileUnknown(wanted)),
            // The profile that was perhaps detached is required after all, and the list may lag behind.
            Decision::Keep(row) if let Some(doubt) = attempt.doubt_about(&row) => {
                attempt.look_after_a_lost_write().ok_or(Failure::Cloud(doubt))
            }
            Decision::Keep(row) => Ok(Step::Done(attempt.outcome_of_keeping(Some(&row)))),
            Decision::KeepBare => Ok(Step::Done(attempt.outcome_of_keeping(None))),
            write @ (Decision::Associate(_)
            | Decision::Replace { .. }
            | Decision::Swap { .. }
            | Decision::Remove(_)
            | Decision::PutBack { .. }) => self.write(attempt, write).await,
        }
    }

    /// Decides, and asks IAM for the profile or EC2 for the tags where the decision needs it.
    async fn decide(&self, attempt: &mut Attempt<'_>) -> Result<Decision, Failure> {
        let Some(facts) = attempt.facts.clone() else {
            return Ok(decide_unseen(attempt.job.patience));
        };
        attempt.settle_an_announced_debt();
        // EC2 knows better than an event whose the instance is.
        let account = facts.instance.account.as_ref().or(attempt.job.instance.account.as_ref());
        let region = attempt.job.instance.region.clone();
        let attached = facts.association.as_ref().map(|row| row.profile_arn.as_str());
        let subject = Subject { account, region: &region, instance: &facts.instance, attached };
        let mut requirement = self.policy.requirement(&subject);
        // Known even if what follows fails.
        attempt.requirement = Some(requirement.clone());
        let mut decision = attempt.decide(&requirement, &facts);
        if let Decision::LookUp(wanted) = &decision {
            let wanted = wanted.clone();
            requirement = self.look_up(requirement, &wanted, None).await?;
            decision = attempt.decide(&requirement, &facts);
            if let Some(since) = attempt.needs_an_answer_since(&decision) {
                // An answer from before would have a profile taken away that is the right one by now.
                requirement = self.look_up(requirement, &wanted, Some(since)).await?;
                decision = attempt.decide(&requirement, &facts);
            }
        }
        if decision == Decision::Confirm {
            // What `DescribeInstances` left out, `DescribeTags` alone cannot confirm.
            let tags = match facts.tags_by {
                TagSource::Instances => self.tags_of(&facts.instance.id).await?,
                TagSource::Tags => Tags::new(),
            };
            requirement = self.policy.confirm(requirement, &subject, &tags);
            decision = attempt.decide(&requirement, &facts);
        }
        attempt.requirement = Some(requirement);
        Ok(self.unless_unsafe_to_swap(decision))
    }

    /// A swap needs a place to write it down, and a way back.
    fn unless_unsafe_to_swap(&self, decision: Decision) -> Decision {
        let Decision::Swap { from, to, why } = decision else { return decision };
        if self.write_ahead.is_none() {
            return wait_until_running(from, to, NotSwapped::NoQueue);
        }
        if !self.policy.allows_attached(&from.profile_arn) {
            return wait_until_running(from, to, NotSwapped::NoWayBack);
        }
        Decision::Swap { from, to, why }
    }

    async fn look_up(
        &self,
        requirement: Requirement,
        wanted: &ProfileRef,
        since: Option<Instant>,
    ) -> Result<Requirement, Failure> {
        match self.profiles.get(self.cloud, wanted.name(), since).await {
            Ok(answer) => Ok(self.policy.settle(requirement, wanted, answer)),
            // The role may read what the allow-list names; a profile that it may not read is none of those.
            Err(error)
                if matches!(error.kind, ErrorKind::Denied(_))
                    && !self.policy.allowed.allows_as_named(wanted) =>
            {
                Ok(Requirement { demand: Demand::NotAllowed(wanted.clone()), ..requirement })
            }
            Err(error) => Err(Failure::Cloud(error)),
        }
    }

    async fn tags_of(&self, id: &InstanceId) -> Result<Tags, Failure> {
        let tags = self.cloud.tags(std::slice::from_ref(id)).await.map_err(Failure::Cloud)?;
        Ok(tags.into_values().next().unwrap_or_default())
    }

    fn report(
        &self,
        attempt: Attempt<'_>,
        result: Result<Outcome, Failure>,
        duration: Duration,
    ) -> InstanceReport {
        let tags = match (&attempt.requirement, &attempt.facts) {
            (Some(requirement), Some(facts)) => {
                self.policy.deciding_tags(requirement, &facts.instance.tags)
            }
            (Some(_) | None, _) => Tags::new(),
        };
        let (is_flapping, follow_up) = self.follow_up(&attempt, &result);
        let (before, after) = (attempt.before(), attempt.written_profile());
        let is_stuck = self.is_stuck(&attempt, &result) == Some(Stuck::Surely);
        let mut cause = attempt.job.cause;
        let history = self.flapping.history(&attempt.job.instance);
        cause.changed_by = cause.changed_by.or(history.by.filter(|_| is_flapping));
        InstanceReport {
            tags,
            rule: attempt.requirement.and_then(|requirement| requirement.rule),
            is_stuck,
            instance: attempt.job.instance,
            cause,
            patience: attempt.job.patience,
            disposition: result.as_ref().err().map(|why| why.disposition(attempt.job.patience)),
            facts: attempt.facts,
            decision: attempt.decision,
            result,
            before,
            after,
            is_flapping,
            follow_up,
            duration,
        }
    }

    /// Whether EC2 fails to put an association into force that a verification follows: it has had 5 minutes since the write,
    /// and must have had them since the instance was started.
    fn is_stuck(&self, attempt: &Attempt<'_>, result: &Result<Outcome, Failure>) -> Option<Stuck> {
        let facts = attempt.facts.as_ref().filter(|_| matches!(result, Ok(Outcome::Kept)))?;
        let row = facts.association.as_ref()?;
        let verifies = &attempt.job.verifies;
        let is_verified =
            verifies.iter().any(|verified| verified.association.as_ref() == Some(&row.id));
        let is_up_for_long =
            facts.instance.started.is_none_or(|at| self.now_ns - at >= STUCK_AFTER_NS);
        (is_verified && facts.is_coming_into_force()).then_some(if is_up_for_long {
            Stuck::Surely
        } else {
            Stuck::Perhaps
        })
    }

    /// Whether the instance keeps being changed by another actor although it is right now; and what is to be looked at again.
    fn follow_up(
        &self,
        attempt: &Attempt<'_>,
        result: &Result<Outcome, Failure>,
    ) -> (bool, Option<Verification>) {
        let instance = &attempt.job.instance;
        let required = attempt.decision.as_ref().and_then(Decision::required_id);
        let verification = |after, association: Option<&Association>, history| Verification {
            instance: instance.clone(),
            after,
            association: association.map(|row| row.id.clone()),
            profile_id: required.cloned(),
            history,
        };
        let attached = attempt.facts.as_ref().and_then(|facts| facts.association.as_ref());
        match result {
            Ok(outcome) if outcome.is_change() => {
                let to = attempt.written_profile();
                let history = self.flapping.record_change(instance, to.as_deref());
                let after = match outcome {
                    Outcome::Associated | Outcome::RolledBack => After::Associate,
                    Outcome::Replaced | Outcome::Swapped | Outcome::Removed => After::Correction,
                    Outcome::Left
                    | Outcome::Waiting
                    | Outcome::Kept
                    | Outcome::Converged
                    | Outcome::Planned
                    | Outcome::NotRepaired => return (false, None),
                };
                (false, Some(verification(after, attempt.written.as_ref(), history)))
            }
            // A list that is older than the instance shows nothing attached.
            Ok(Outcome::Left | Outcome::Kept)
                if attempt.is_an_events() && attempt.was_left_bare() =>
            {
                (false, Some(verification(After::Wait, None, self.flapping.history(instance))))
            }
            Ok(Outcome::Kept) => {
                let row = attached;
                let was_undone =
                    |verified: &Verification| row.is_some_and(|row| verified.was_undone(row));
                if !attempt.job.verifies.iter().any(was_undone) {
                    let is_due = self.is_stuck(attempt, result) == Some(Stuck::Perhaps)
                        || (attempt.is_an_events()
                            && attempt
                                .facts
                                .as_ref()
                                .is_some_and(InstanceFacts::is_coming_into_force));
                    let history = self.flapping.history(instance);
                    return (false, is_due.then(|| verification(After::Wait, row, history)));
                }
                let to = row.map(|row| row.profile_arn.as_str());
                let known = self.flapping.history(instance);
                let carried = attempt.job.verifies.iter();
                let carried = carried.map(|verified| verified.history.corrections.len()).max();
                // Whoever corrected it has counted that, if it was this environment.
                let is_counted = Some(known.corrections.len()) > carried;
                let history =
                    if is_counted { known } else { self.flapping.record_change(instance, to) };
                let is_flapping = history.is_flapping(to);
                (is_flapping, Some(verification(After::Correction, row, history)))
            }
            // Another actor's write, or one of ours whose answer nobody saw.
            Ok(Outcome::Converged) => {
                (false, Some(verification(After::Wait, attached, self.flapping.history(instance))))
            }
            Ok(Outcome::Waiting) if attempt.is_an_events() => {
                (false, Some(verification(After::Wait, attached, self.flapping.history(instance))))
            }
            Err(Failure::Flapping { begins: true, .. }) if !attempt.job.verifies.is_empty() => {
                let history = self.flapping.history(instance);
                (false, Some(verification(After::Flapping, None, history)))
            }
            Ok(_) | Err(_) => (false, None),
        }
    }
}

/// Whether EC2 fails to put an association into force.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stuck {
    /// It has had long enough.
    Surely,
    /// The instance was started too short a while ago to tell.
    Perhaps,
}
