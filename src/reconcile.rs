//! Look, decide, act, look again: bounded in looks, in writes and in time. It makes no choice that `decide` did not make.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use futures_util::{StreamExt, stream};
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::cloud::{Cloud, CloudError, ErrorKind, IDS_PER_READ};
use crate::config::Mode;
use crate::contest::{self, Contests};
use crate::decide::{Decision, Different, Leave, Patience, Wait, decide, decide_unseen};
use crate::failure::Failure;
use crate::model::{
    Association, AssociationId, InstanceFacts, InstanceId, InstanceRef, InstanceState, Profile,
    ProfileRef, Tags,
};
use crate::pace::{Pace, Turn, Verdict};
use crate::policy::rule::Subject;
use crate::policy::{Demand, Policy, Requirement};
use crate::profiles::Profiles;
use crate::report::{Cause, FoundBy, InstanceReport, Outcome};

/// Instances dealt with side by side: at 5 writes a second the last of them waits three seconds for its turn.
const AT_ONCE: usize = 16;
/// How long what a look showed is good enough to write by. Those that wait longer for their turn are looked at again,
/// together.
const FACTS_GOOD_FOR: Duration = Duration::from_secs(10);
/// How long a look waits for what IAM is asked again beside it.
const REFRESH_TIME: Duration = Duration::from_secs(1);
/// Looks again, in one invocation, after the world moved between look and act.
const LOOKS_AFTER_A_MOVE: u32 = 3;
/// Looks again after a write that may or may not have been carried out.
const LOOKS_AFTER_A_LOST_WRITE: u32 = 4;
/// Tries of a look: a batch's instances would all come again for its sake, and a lost write's fate would stay unknown.
const TRIES_OF_A_LOOK: u32 = 4;
/// Looks again where EC2's view lags behind the event: no instance, or no tag that the event itself showed.
const LOOKS_BEHIND_AN_EVENT: u32 = 2;
/// Looks again after a throttled write. Each waits for its turn, and the turns come slower.
const LOOKS_AFTER_A_THROTTLE: u32 = 4;
/// The pause before the first look again after a move; it doubles. EC2 lets go of an association within a few seconds.
const PAUSE_AFTER_A_MOVE: Duration = Duration::from_millis(500);
/// The pause before the first look again behind an event; it doubles. EC2 shows a new instance within seconds.
const PAUSE_BEHIND_AN_EVENT: Duration = Duration::from_secs(1);
/// EC2's code for an association that is not there any more.
const ASSOCIATION_GONE: &str = "InvalidAssociationID.NotFound";
/// Time kept back at the end of an invocation, to put an old profile back where a swap was cut short.
const RESERVE: Duration = Duration::from_secs(2);
/// A swap is begun only with this much time ahead: two calls and the way back, each well under a second as a rule.
const SWAP_NEEDS: Duration = Duration::from_secs(4);

/// One instance to bring to what its tags require.
#[derive(Debug, Clone)]
pub struct Job {
    /// The instance.
    pub instance: InstanceRef,
    /// Tags that matter, as an event showed them.
    pub announced: Tags,
    /// Whether what is not there yet may still come.
    pub patience: Patience,
    /// Whether to write.
    pub mode: Mode,
    /// Why it is looked at; that decides nothing.
    pub cause: Cause,
}

/// Everything a run needs.
#[derive(Debug)]
pub struct Reconciler<'a, C> {
    /// Where the instances are.
    pub cloud: &'a C,
    /// What IAM answered lately.
    pub profiles: &'a Profiles,
    /// The rules.
    pub policy: &'a Policy,
    /// Whose turn it is to write.
    pub pace: &'a Pace,
    /// Who keeps undoing what we do.
    pub contests: &'a Contests,
    /// When the run must be over.
    pub deadline: Instant,
}

/// What one look showed of one instance; nothing, where EC2 does not know it.
type Sighting = Result<Option<InstanceFacts>, CloudError>;

/// What the last look at all instances of a run showed. Once it is too old, those that still wait are looked at again.
struct View {
    sightings: HashMap<InstanceId, Sighting>,
    /// When the look was over: one that took its time would otherwise be made again at once.
    at: Instant,
    /// Instances that wait for their beginning or for their turn to be written.
    waiting: HashSet<InstanceId>,
}

/// One job under way. It outlives the work on it, so that a run cut short still reports what is known.
struct Case<'a> {
    job: Job,
    /// When the work on it must end.
    stop_at: Instant,
    facts: Option<InstanceFacts>,
    /// When the look was over that showed the facts.
    looked_at: Instant,
    requirement: Option<Requirement>,
    decision: Option<Decision>,
    /// When the work on it began.
    started: Instant,
    /// The right to the next write, once it was waited for.
    turn: Option<Turn<'a>>,
    /// A write of ours failed, or may have got through unseen.
    tried: bool,
    /// What came of the last write.
    last_write: LastWrite,
    /// A write was throttled: where no turn is left for another try, it is the rate that was lacking.
    throttle: Option<CloudError>,
    /// A recreated profile was replaced by itself once; that is never tried a second time.
    tried_recreated: bool,
    /// A profile that a swap detached, or may have detached, and that nothing has taken the place of yet.
    detached: Option<Detached>,
    looks: Looks,
}

/// What came of a write, as far as its turn goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LastWrite {
    /// EC2 answered.
    Answered,
    /// EC2 had too many.
    Throttled,
    /// Nobody knows whether it got through.
    Lost,
}

/// What a swap took away.
#[derive(Debug, Clone)]
struct Detached {
    profile_arn: String,
    /// The association that was there.
    id: AssociationId,
    /// When EC2 made it.
    since: Option<i128>,
    fate: Fate,
}

/// What is known of an association that a call of ours is to take away.
#[derive(Debug, Clone)]
enum Fate {
    /// The call is under way.
    Sent,
    /// The answer was lost.
    Lost(CloudError),
    /// It is gone.
    Gone,
}

impl Detached {
    /// Whether a row is not there any more, although EC2's list, which can lag behind, shows it: one from before the
    /// association that was there surely is not; nor is that one itself, once it is gone.
    fn outlived(&self, row: &Association) -> bool {
        let is_older = self.since.zip(row.since).is_some_and(|(ours, its)| its <= ours);
        if row.id == self.id { self.is_gone() } else { is_older }
    }

    fn is_gone(&self) -> bool {
        match self.fate {
            Fate::Gone => true,
            Fate::Sent | Fate::Lost(_) => false,
        }
    }

    /// What is known once a second try was refused: that the association is gone leaves no doubt.
    fn known_by(self, id: &AssociationId, refusal: &CloudError) -> Self {
        let is_gone = self.id == *id && refusal.code.as_deref() == Some(ASSOCIATION_GONE);
        Self { fate: if is_gone { Fate::Gone } else { self.fate }, ..self }
    }
}

/// How many more looks are allowed, by cause.
struct Looks {
    after_a_move: u32,
    after_a_lost_write: u32,
    behind_an_event: u32,
    after_a_throttle: u32,
}

/// What follows a decision.
enum Step {
    Done(Outcome),
    /// This instance changed, or will: look at it after this pause.
    LookAgain(Duration),
    /// It was a long wait: look at it together with all that wait still.
    LookTogether,
}

impl<'a, C: Cloud> Reconciler<'a, C> {
    /// Deals with all jobs, each on its own, and reports on them in their order.
    pub async fn run(&self, jobs: Vec<Job>) -> Vec<InstanceReport> {
        let remaining = self.deadline.saturating_duration_since(Instant::now());
        let stop_at = self.deadline - RESERVE.min(remaining / 4);
        let ids: Vec<InstanceId> = jobs.iter().map(|job| job.instance.id.clone()).collect();
        let look = timeout_at(stop_at, self.look_at_all(&ids));
        let refresh = timeout(REFRESH_TIME, self.profiles.refresh(self.cloud));
        let (Ok(sightings), _) = tokio::join!(look, refresh) else {
            let cut_short = |job| {
                let case = Case::new(job, stop_at);
                self.report(case, Err(Failure::OutOfTime), remaining)
            };
            return jobs.into_iter().map(cut_short).collect();
        };
        let mut jobs: Vec<_> = jobs.into_iter().enumerate().collect();
        // Those that EC2 does not show are looked for again and again: they must not keep the others waiting.
        jobs.sort_by_key(|(_, job)| !sightings.contains_key(&job.instance.id));
        let waiting = ids.into_iter().collect();
        let view = &Mutex::new(View { sightings, at: Instant::now(), waiting });
        let work = jobs
            .into_iter()
            .map(async |(index, job)| (index, self.deal_with(job, view, stop_at).await));
        let mut reports: Vec<_> = stream::iter(work).buffer_unordered(AT_ONCE).collect().await;
        reports.sort_by_key(|(index, _)| *index);
        reports.into_iter().map(|(_, report)| report).collect()
    }

    async fn deal_with(&self, job: Job, view: &Mutex<View>, stop_at: Instant) -> InstanceReport {
        let mut case = Case::new(job, stop_at);
        let started = case.started;
        if let Some(by) = &case.job.cause.changed_by {
            self.contests.heard(&case.job.instance, by);
        }
        if started >= stop_at {
            return self.report(case, Err(Failure::OutOfTime), Duration::ZERO);
        }
        let work = timeout_at(stop_at, self.converge(&mut case, view)).await;
        let mut result = work.unwrap_or(Err(Failure::OutOfTime));
        if let Some(turn) = case.turn.take().filter(|_| case.last_write == LastWrite::Lost) {
            turn.end(Verdict::Taken);
        }
        view.lock().await.waiting.remove(&case.job.instance.id);
        if let Some(detached) = case.detached.take() {
            result = self.make_good(&case, detached, result).await;
        }
        if let (Ok(outcome), Some(decision)) = (&result, &case.decision)
            && outcome.is_change()
        {
            self.contests.brought(&case.job.instance, decision.target().as_deref());
        }
        self.report(case, result, started.elapsed())
    }

    /// What the look at all showed of an instance; it is made again for all that wait, where it has grown too old.
    async fn view(&self, id: &InstanceId, view: &Mutex<View>) -> (Instant, Sighting) {
        let mut view = view.lock().await;
        view.waiting.insert(id.clone());
        if view.at.elapsed() > FACTS_GOOD_FOR {
            let ids: Vec<_> = view.waiting.iter().cloned().collect();
            view.sightings = self.look_at_all(&ids).await;
            view.at = Instant::now();
        }
        (view.at, view.sightings.get(id).cloned().unwrap_or(Ok(None)))
    }

    async fn converge(&self, case: &mut Case<'a>, view: &Mutex<View>) -> Result<Outcome, Failure> {
        let id = case.job.instance.id.clone();
        let (mut at, mut sighting) = self.view(&id, view).await;
        loop {
            case.facts = sighting.map_err(Failure::Cloud)?;
            case.leave_out_what_we_detached();
            case.looked_at = at;
            let behind =
                if case.lags_behind_the_event() { case.look_behind_the_event() } else { None };
            let step = if let Some(step) = behind {
                step
            } else {
                let decision = self.decide(case).await?;
                case.decision = Some(decision.clone());
                self.follow(case, decision).await?
            };
            (at, sighting) = match step {
                Step::Done(outcome) => return Ok(outcome),
                Step::LookTogether => self.view(&id, view).await,
                Step::LookAgain(pause) => {
                    // From here on this instance is looked at by itself.
                    view.lock().await.waiting.remove(&id);
                    sleep(pause).await;
                    let sighting = self.look_at(&id).await;
                    (Instant::now(), sighting)
                }
            };
        }
    }

    /// Carries out a decision, or says that another look is due.
    async fn follow(&self, case: &mut Case<'a>, decision: Decision) -> Result<Step, Failure> {
        match decision {
            Decision::Leave(Leave::NeverSeen) => {
                Ok(case.look_behind_the_event().unwrap_or(Step::Done(Outcome::Left)))
            }
            Decision::Leave(Leave::Gone(_)) => {
                case.detached = None;
                Ok(Step::Done(Outcome::Left))
            }
            // The last two are answered in `decide`; they are not final, so nothing that could be carried out.
            Decision::Leave(_) | Decision::LookUp(_) | Decision::Confirm => {
                Ok(Step::Done(Outcome::Left))
            }
            Decision::Wait(Wait::InstanceUnseen) => {
                case.look_behind_the_event().ok_or(Failure::InstanceUnseen)
            }
            Decision::Wait(Wait::State(_)) => Ok(Step::Done(Outcome::Waiting)),
            Decision::Wait(Wait::ProfileUnknown(wanted)) => Err(Failure::ProfileUnknown(wanted)),
            // The profile that we may have detached is required after all, and the list may lag behind.
            Decision::Keep(row) if let Some(doubt) = case.doubt_about(&row) => {
                case.look_after_a_lost_write().ok_or(Failure::Cloud(doubt))
            }
            Decision::Keep(_) | Decision::KeepBare => {
                case.detached = None;
                Ok(Step::Done(if case.tried { Outcome::Converged } else { Outcome::Kept }))
            }
            Decision::Associate(_)
            | Decision::Replace { .. }
            | Decision::Swap { .. }
            | Decision::Remove(_)
                if case.job.mode == Mode::DryRun =>
            {
                Ok(Step::Done(Outcome::Planned))
            }
            Decision::Replace { why: Different::Recreated, .. } if case.tried_recreated => {
                Ok(Step::Done(Outcome::NotRepaired))
            }
            Decision::Associate(_)
            | Decision::Replace { .. }
            | Decision::Swap { .. }
            | Decision::Remove(_) => self.write_unless_contested(case, decision).await,
        }
    }

    async fn write_unless_contested(
        &self,
        case: &mut Case<'a>,
        decision: Decision,
    ) -> Result<Step, Failure> {
        // What we began we end, in this invocation or in another: a stopped instance may be bare because of a swap.
        let is_bare_and_stopped = matches!(decision, Decision::Associate(_))
            && case.facts.as_ref().is_some_and(|facts| {
                facts.instance.state == InstanceState::Stopped && facts.association.is_none()
            });
        if case.tried || case.detached.is_some() || is_bare_and_stopped {
            return self.write_in_turn(case, decision).await;
        }
        // A person's invocation has no message that could come again after a truce.
        let begins = case.job.cause.found_by != FoundBy::Person;
        match self.contests.ask(&case.job.instance, decision.target().as_deref(), begins) {
            contest::Verdict::Free => self.write_in_turn(case, decision).await,
            contest::Verdict::TruceBegins { by } => Err(Failure::Contested { by }),
            contest::Verdict::Truce => Ok(Step::Done(Outcome::Contested)),
        }
    }

    /// Waits for the case's turn and writes; or looks again, where what it would write by has grown too old meanwhile.
    async fn write_in_turn(
        &self,
        case: &mut Case<'a>,
        decision: Decision,
    ) -> Result<Step, Failure> {
        if case.turn.is_none() {
            // An instance that is bare because of us waits for nobody.
            case.turn = match &case.detached {
                Some(_) => Some(self.pace.urgent_turn()),
                None => match self.pace.turn(case.stop_at).await {
                    Some(turn) => Some(turn),
                    None => {
                        return Err(case
                            .throttle
                            .take()
                            .map_or(Failure::OutOfTime, Failure::Cloud));
                    }
                },
            };
            if case.looked_at.elapsed() > FACTS_GOOD_FOR {
                return Ok(Step::LookTogether);
            }
        }
        let turn = case.turn.take();
        case.last_write = LastWrite::Answered;
        let step = match decision {
            Decision::Associate(to) => self.associate(case, &to).await,
            Decision::Replace { from, to, why } => self.replace(case, &from, &to, why).await,
            Decision::Swap { from, to, .. } => self.swap(case, &from, &to).await,
            Decision::Remove(from) => self.remove(case, &from).await,
            Decision::Leave(_)
            | Decision::Wait(_)
            | Decision::Keep(_)
            | Decision::KeepBare
            | Decision::LookUp(_)
            | Decision::Confirm => Ok(Step::Done(Outcome::Left)),
        };
        match (case.last_write, turn) {
            // The next look tells. Until then the turn is held for another try, which EC2 may not have had yet.
            (LastWrite::Lost, turn) => case.turn = turn,
            (LastWrite::Answered, Some(turn)) => turn.end(Verdict::Taken),
            (LastWrite::Throttled, Some(turn)) => turn.end(Verdict::Throttled),
            (LastWrite::Answered | LastWrite::Throttled, None) => {}
        }
        step
    }

    async fn associate(&self, case: &mut Case<'_>, to: &Profile) -> Result<Step, Failure> {
        if let Err(error) = self.cloud.associate(&case.job.instance.id, &to.arn.to_string()).await {
            return self.after_a_failed_write(case, error, Some(to));
        }
        let swapped = case.detached.take().is_some();
        Ok(Step::Done(if swapped { Outcome::Swapped } else { Outcome::Associated }))
    }

    async fn replace(
        &self,
        case: &mut Case<'_>,
        from: &Association,
        to: &Profile,
        why: Different,
    ) -> Result<Step, Failure> {
        case.tried_recreated |= why == Different::Recreated;
        if let Err(error) = self.cloud.replace(&from.id, &to.arn.to_string()).await {
            return self.after_a_failed_write(case, error, Some(to));
        }
        case.detached = None;
        match why {
            Different::OtherProfile => Ok(Step::Done(Outcome::Replaced)),
            // What EC2 makes of replacing a profile by its own successor is not documented: look, report, never loop.
            Different::Recreated => {
                let sighting = self.look_at(&case.job.instance.id).await.map_err(Failure::Cloud)?;
                let attached =
                    sighting.and_then(|facts| facts.association).and_then(|row| row.profile_id);
                let repaired = attached.as_ref() == Some(&to.id);
                Ok(Step::Done(if repaired { Outcome::Replaced } else { Outcome::NotRepaired }))
            }
        }
    }

    async fn remove(&self, case: &mut Case<'_>, from: &Association) -> Result<Step, Failure> {
        match self.cloud.disassociate(&from.id).await {
            Ok(()) => {
                case.detached = None;
                Ok(Step::Done(Outcome::Removed))
            }
            Err(error) => self.after_a_failed_write(case, error, None),
        }
    }

    /// Detaches, then attaches. Whatever happens in between, [`Self::make_good`] sees to it that the old profile is not
    /// lost: it is noted before the first call goes out.
    async fn swap(
        &self,
        case: &mut Case<'_>,
        from: &Association,
        to: &Profile,
    ) -> Result<Step, Failure> {
        if self.deadline.saturating_duration_since(Instant::now()) < SWAP_NEEDS {
            return Err(Failure::OutOfTime);
        }
        let before = case.detached.take();
        let detached = Detached {
            profile_arn: from.profile_arn.clone(),
            id: from.id.clone(),
            since: from.since,
            fate: Fate::Sent,
        };
        case.detached = Some(detached);
        if let Err(error) = self.cloud.disassociate(&from.id).await {
            match (&error.kind, &mut case.detached) {
                (ErrorKind::Transient | ErrorKind::Unreadable, Some(detached)) => {
                    detached.fate = Fate::Lost(error.clone())
                }
                // An answer says that nothing was detached by us now: the adapter sends this call no second time.
                _ => case.detached = before.map(|before| before.known_by(&from.id, &error)),
            }
            return self.after_a_failed_write(case, error, Some(to));
        }
        if let Some(detached) = &mut case.detached {
            detached.fate = Fate::Gone;
        }
        self.associate(case, to).await
    }

    fn after_a_failed_write(
        &self,
        case: &mut Case<'_>,
        error: CloudError,
        to: Option<&Profile>,
    ) -> Result<Step, Failure> {
        case.tried = true;
        match error.kind {
            ErrorKind::Conflict | ErrorKind::InstanceNotFound => {
                case.look_after_a_move().ok_or(Failure::KeepsMoving(error))
            }
            // It may have been carried out all the same.
            ErrorKind::Transient | ErrorKind::Unreadable => {
                case.last_write = LastWrite::Lost;
                case.look_after_a_lost_write().ok_or(Failure::Cloud(error))
            }
            ErrorKind::ProfileNotFound => {
                if let Some(to) = to {
                    self.profiles.forget(to.arn.name());
                }
                Err(Failure::ProfileUnknownToEc2(error))
            }
            ErrorKind::Throttled => {
                case.last_write = LastWrite::Throttled;
                case.throttle = Some(error.clone());
                case.look_after_a_throttle().ok_or(Failure::Cloud(error))
            }
            ErrorKind::Denied(_) | ErrorKind::Rejected => Err(Failure::Cloud(error)),
        }
    }

    /// Puts back what a swap detached and nothing took the place of.
    async fn make_good(
        &self,
        case: &Case<'_>,
        detached: Detached,
        result: Result<Outcome, Failure>,
    ) -> Result<Outcome, Failure> {
        let id = &case.job.instance.id;
        let left_bare = |undoing, swap: Result<Outcome, Failure>| {
            let cause = swap.err().map(Box::new);
            Err(Failure::LeftBare { detached: detached.profile_arn.clone(), cause, undoing })
        };
        let _turn = self.pace.urgent_turn();
        match timeout_at(self.deadline, self.cloud.associate(id, &detached.profile_arn)).await {
            Ok(Ok(_)) => result.map_err(|cause| Failure::SwapUndone {
                restored: detached.profile_arn,
                cause: Box::new(cause),
            }),
            // Something is attached, or EC2 takes nothing in this state, or the answer was lost: a look tells.
            Ok(Err(error))
                if matches!(
                    error.kind,
                    ErrorKind::Conflict | ErrorKind::Transient | ErrorKind::Unreadable
                ) =>
            {
                match timeout_at(self.deadline, self.look_at(id)).await {
                    Ok(Ok(Some(InstanceFacts { association: Some(row), .. })))
                        // What we may have taken away proves nothing: the list can lag behind.
                        if row.id != detached.id && !detached.outlived(&row) =>
                    {
                        result
                    }
                    Ok(Ok(_) | Err(_)) | Err(_) => left_bare(Some(error), result),
                }
            }
            Ok(Err(error)) => left_bare(Some(error), result),
            Err(_) => left_bare(None, result),
        }
    }

    /// Decides, and asks IAM for the profile or EC2 for the tags where the decision needs it.
    async fn decide(&self, case: &mut Case<'_>) -> Result<Decision, Failure> {
        let Some(mut facts) = case.facts.clone() else {
            return Ok(decide_unseen(case.job.patience));
        };
        let decision = self.decide_by(&facts, case).await?;
        if !(facts.instance.tags.is_empty() && decision.writes()) {
            return Ok(decision);
        }
        // EC2 can leave tags out of an answer, and a rule for everything would then take the place of the right one.
        facts.instance.tags = self.tags_of(&facts.instance.id).await?;
        if facts.instance.tags.is_empty() {
            return Ok(decision);
        }
        case.facts = Some(facts.clone());
        self.decide_by(&facts, case).await
    }

    async fn decide_by(
        &self,
        facts: &InstanceFacts,
        case: &mut Case<'_>,
    ) -> Result<Decision, Failure> {
        // EC2 knows better than an event whose the instance is.
        let account = facts.instance.account.as_ref().or(case.job.instance.account.as_ref());
        let region = &case.job.instance.region;
        let attached = facts.association.as_ref().map(|row| row.profile_arn.as_str());
        let subject = Subject { account, region, instance: &facts.instance, attached };
        let mut requirement = self.policy.requirement(&subject);
        // Known even if what follows fails.
        case.requirement = Some(requirement.clone());
        let mut decision = decide(&requirement, facts);
        if let Decision::LookUp(wanted) = &decision {
            let wanted = wanted.clone();
            requirement = self.look_up(requirement, &wanted, None).await?;
            decision = decide(&requirement, facts);
            if is_about_a_recreated_profile(&decision) {
                // An answer from before the profile was made again would have us undo what is right.
                requirement = self.look_up(requirement, &wanted, Some(case.started)).await?;
                decision = decide(&requirement, facts);
            }
        }
        if decision == Decision::Confirm {
            let tags = self.tags_of(&facts.instance.id).await?;
            requirement = self.policy.confirm(requirement, &subject, &tags);
            decision = decide(&requirement, facts);
        }
        case.requirement = Some(requirement);
        Ok(decision)
    }

    async fn tags_of(&self, id: &InstanceId) -> Result<Tags, Failure> {
        let tags = self.cloud.tags(std::slice::from_ref(id)).await.map_err(Failure::Cloud)?;
        Ok(tags.into_values().next().unwrap_or_default())
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

    async fn look_at(&self, id: &InstanceId) -> Sighting {
        // A look behind a write of ours must not fail lightly: it tells what became of it.
        let look = self.look(std::slice::from_ref(id), TRIES_OF_A_LOOK);
        look.await.remove(id).unwrap_or(Ok(None))
    }

    /// One look at many instances: both lists at once. Where EC2 refuses a list for one id's sake, the list is halved
    /// until that id stands alone.
    async fn look_at_all(&self, ids: &[InstanceId]) -> HashMap<InstanceId, Sighting> {
        // One message that comes again is worth no second try; a batch of them is.
        self.look(ids, if ids.len() > 1 { TRIES_OF_A_LOOK } else { 1 }).await
    }

    async fn look(&self, ids: &[InstanceId], most_tries: u32) -> HashMap<InstanceId, Sighting> {
        let mut sightings = HashMap::with_capacity(ids.len());
        // Lists that fail, fail alone.
        let mut lists: Vec<_> = ids.chunks(IDS_PER_READ).map(|list| (1, list)).collect();
        while let Some((tries, list)) = lists.pop() {
            match tokio::try_join!(self.cloud.instances(list), self.cloud.associations(list)) {
                Ok((instances, associations)) => {
                    let mut rows: HashMap<InstanceId, Vec<Association>> = HashMap::new();
                    for row in associations {
                        rows.entry(row.instance.clone()).or_default().push(row);
                    }
                    for instance in instances {
                        let association = rows.remove(&instance.id).and_then(Association::in_force);
                        sightings.insert(
                            instance.id.clone(),
                            Ok(Some(InstanceFacts { instance, association })),
                        );
                    }
                }
                Err(CloudError {
                    kind: ErrorKind::Rejected | ErrorKind::InstanceNotFound, ..
                }) if list.len() > 1 => {
                    let (left, right) = list.split_at(list.len() / 2);
                    lists.extend([(tries, left), (tries, right)]);
                }
                Err(CloudError { kind: ErrorKind::InstanceNotFound, .. }) => {}
                Err(CloudError { kind: ErrorKind::Transient | ErrorKind::Throttled, .. })
                    if tries < most_tries =>
                {
                    sleep(PAUSE_AFTER_A_MOVE * tries).await;
                    lists.push((tries + 1, list));
                }
                Err(error) => {
                    sightings.extend(list.iter().map(|id| (id.clone(), Err(error.clone()))));
                }
            }
        }
        sightings
    }

    fn report(
        &self,
        case: Case<'_>,
        result: Result<Outcome, Failure>,
        duration: Duration,
    ) -> InstanceReport {
        let tags = match (&case.requirement, &case.facts) {
            (Some(requirement), Some(facts)) => {
                self.policy.deciding_tags(requirement, &facts.instance.tags)
            }
            (Some(_) | None, _) => Tags::new(),
        };
        InstanceReport {
            tags,
            rule: case.requirement.and_then(|requirement| requirement.rule),
            instance: case.job.instance,
            cause: case.job.cause,
            is_stuck: false,
            facts: case.facts,
            decision: case.decision,
            result,
            patience: case.job.patience,
            duration,
        }
    }
}

impl Case<'_> {
    fn new(job: Job, stop_at: Instant) -> Self {
        let looks = Looks {
            after_a_move: LOOKS_AFTER_A_MOVE,
            after_a_lost_write: LOOKS_AFTER_A_LOST_WRITE,
            behind_an_event: LOOKS_BEHIND_AN_EVENT,
            after_a_throttle: LOOKS_AFTER_A_THROTTLE,
        };
        let now = Instant::now();
        Self {
            job,
            stop_at,
            facts: None,
            looked_at: now,
            requirement: None,
            decision: None,
            started: now,
            turn: None,
            tried: false,
            last_write: LastWrite::Answered,
            throttle: None,
            tried_recreated: false,
            detached: None,
            looks,
        }
    }

    /// Whether the last look showed the instance without a tag, or a tag's value, that the event itself showed.
    fn lags_behind_the_event(&self) -> bool {
        let Some(facts) = &self.facts else { return false };
        self.job.announced.iter().any(|(key, value)| facts.instance.tags.get(key) != Some(value))
    }

    /// A row that we took away ourselves is one that EC2's list lags behind with.
    fn leave_out_what_we_detached(&mut self) {
        if let (Some(detached), Some(facts)) = (&self.detached, &mut self.facts)
            && facts.association.as_ref().is_some_and(|row| detached.outlived(row))
        {
            facts.association = None;
        }
    }

    /// Why nobody knows whether this row is still there, where a call of ours was to take it away.
    fn doubt_about(&self, row: &Association) -> Option<CloudError> {
        match &self.detached {
            Some(Detached { fate: Fate::Lost(error), id, .. }) if *id == row.id => {
                Some(error.clone())
            }
            Some(_) | None => None,
        }
    }

    fn look_after_a_move(&mut self) -> Option<Step> {
        look_again(&mut self.looks.after_a_move, LOOKS_AFTER_A_MOVE, PAUSE_AFTER_A_MOVE)
    }

    fn look_after_a_lost_write(&mut self) -> Option<Step> {
        look_again(&mut self.looks.after_a_lost_write, LOOKS_AFTER_A_LOST_WRITE, PAUSE_AFTER_A_MOVE)
    }

    /// The turn is what is waited for; but a case that is bare because of us waits for none, so it pauses.
    fn look_after_a_throttle(&mut self) -> Option<Step> {
        let first_pause = if self.detached.is_some() { PAUSE_AFTER_A_MOVE } else { Duration::ZERO };
        look_again(&mut self.looks.after_a_throttle, LOOKS_AFTER_A_THROTTLE, first_pause)
    }

    fn look_behind_the_event(&mut self) -> Option<Step> {
        look_again(&mut self.looks.behind_an_event, LOOKS_BEHIND_AN_EVENT, PAUSE_BEHIND_AN_EVENT)
    }
}

fn is_about_a_recreated_profile(decision: &Decision) -> bool {
    matches!(
        decision,
        Decision::Replace { why: Different::Recreated, .. }
            | Decision::Swap { why: Different::Recreated, .. }
    )
}

/// Takes one of the looks left, and says how long to pause before it: twice as long each time.
fn look_again(left: &mut u32, of: u32, first_pause: Duration) -> Option<Step> {
    *left = left.checked_sub(1)?;
    let doublings = of - 1 - *left;
    Some(Step::LookAgain(first_pause * 2_u32.pow(doublings)))
}
