//! One job under way: what is known, what was tried, and how much more may be.

use std::time::Duration;

use tokio::time::Instant;

use crate::cloud::CloudError;
use crate::decide::{Decision, Different, Leave, Patience, decide, decide_for_debt};
use crate::expectation::Lag;
use crate::failure::Failure;
use crate::model::{Association, Detached, InstanceFacts, InstanceState, Profile};
use crate::pace::{Turn, Verdict};
use crate::policy::{Policy, Requirement};
use crate::reconcile::Job;
use crate::report::{Before, FoundBy, Outcome};

/// Looks again, in one invocation, after the world moved between look and act.
const LOOKS_AFTER_A_MOVE: u32 = 3;
/// Looks again after a write that may or may not have been carried out.
const LOOKS_AFTER_A_LOST_WRITE: u32 = 4;
/// Looks again where EC2's view lags behind the event. After that the message is retried, for as long as it is fresh.
const LOOKS_BEHIND_AN_EVENT: u32 = 2;
/// Looks again after a throttled write. Each waits for its turn, and the turns come slower.
const LOOKS_AFTER_A_THROTTLE: u32 = 4;
/// The pause before the first look again after a move; it doubles. EC2 lets go of an association within a few seconds.
pub(super) const PAUSE_AFTER_A_MOVE: Duration = Duration::from_millis(500);
/// The pause before the first look again behind an event; it doubles. EC2 shows a new instance within seconds.
const PAUSE_BEHIND_AN_EVENT: Duration = Duration::from_secs(1);

/// One job under way. It outlives the work on it, so that a run cut short still reports what is known.
pub(super) struct Attempt<'a> {
    pub(super) job: Job,
    /// When the work on it must end.
    pub(super) stop_at: Instant,
    pub(super) facts: Option<InstanceFacts>,
    /// When the look was over that showed the facts.
    pub(super) looked_at: Instant,
    pub(super) requirement: Option<Requirement>,
    pub(super) decision: Option<Decision>,
    /// When the work on it began.
    pub(super) started: Instant,
    /// The right to the next write, once it was waited for.
    pub(super) turn: Option<Turn<'a>>,
    /// A write failed, or may have got through unseen.
    pub(super) tried: bool,
    /// What came of the last write.
    pub(super) last_write: LastWrite,
    /// The write whose answer was lost last.
    pub(super) lost: Option<LostWrite>,
    /// A write was throttled: where no turn is left for another try, it is the rate that was lacking.
    pub(super) throttle: Option<CloudError>,
    /// The first write that EC2 took, or may have taken.
    first_write: Option<FirstWrite>,
    /// The association that a write made, as EC2 answered.
    pub(super) written: Option<Association>,
    /// The profile that a write attached, where that is not the decision's.
    pub(super) written_to: Option<String>,
    /// What a swap took away and nothing has taken the place of yet.
    pub(super) debt: Option<Debt>,
    budget: RetryBudget,
}

/// The first write of an attempt.
#[derive(Debug)]
struct FirstWrite {
    /// What was attached before it.
    from: Option<Association>,
    /// The profile that was attached after it, if EC2 carried it out.
    leaves: Option<String>,
    /// Whether EC2 surely took it.
    is_sure: bool,
}

/// What came of a write, as far as its turn goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LastWrite {
    /// EC2 answered.
    Answered,
    /// EC2 had too many.
    Throttled,
    /// Nobody knows whether it got through.
    Lost,
}

/// A write whose answer was lost.
#[derive(Debug, Clone)]
pub(super) struct LostWrite {
    /// What it would have been, had its answer come.
    pub(super) outcome: Outcome,
    /// The association that was there before; none, for one that EC2 takes only where nothing is attached.
    pub(super) from: Option<Association>,
    /// What was to be attached in the end; none, where something was to be taken away.
    pub(super) to: Option<String>,
    /// What the lost call itself leaves attached: nothing, where it is the first half of a swap.
    pub(super) leaves: Option<String>,
}

/// A profile that was detached, or may have been.
#[derive(Debug, Clone)]
pub(super) struct Debt {
    pub(super) detached: Detached,
    /// When EC2 made the association.
    pub(super) since: Option<i128>,
    pub(super) status: DetachStatus,
}

/// What is known of an association that a call was to take away.
#[derive(Debug, Clone)]
pub(super) enum DetachStatus {
    /// A message says that it was about to be.
    Announced,
    /// The call is under way, or its answer was lost.
    Lost(Option<CloudError>),
    /// It is gone.
    Gone,
}

impl Debt {
    /// Whether a row is not there any more, although EC2's list, which can lag behind, shows it: one that is older than the
    /// association that was there surely is not; nor is that one itself, once it is gone.
    pub(super) fn outlived(&self, row: &Association) -> bool {
        let is_gone = matches!(self.status, DetachStatus::Gone);
        let is_older = self.since.zip(row.since).is_some_and(|(ours, its)| its <= ours);
        if row.id == self.detached.association { is_gone } else { is_older }
    }
}

/// How many more looks are allowed, by cause.
struct RetryBudget {
    after_a_move: u32,
    after_a_lost_write: u32,
    behind_an_event: u32,
    after_a_throttle: u32,
}

/// What follows a decision.
pub(super) enum Step {
    Done(Outcome),
    /// This instance changed, or will: look at it after this pause.
    LookAgain(Duration),
    /// It was a long wait: look at it together with all that wait still.
    LookTogether,
}

impl Attempt<'_> {
    pub(super) fn new(job: Job, stop_at: Instant) -> Self {
        let now = Instant::now();
        let debt = job.debt.clone().map(|detached| Debt {
            detached,
            since: None,
            status: DetachStatus::Announced,
        });
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
            lost: None,
            throttle: None,
            first_write: None,
            written: None,
            written_to: None,
            debt,
            budget: RetryBudget {
                after_a_move: LOOKS_AFTER_A_MOVE,
                after_a_lost_write: LOOKS_AFTER_A_LOST_WRITE,
                behind_an_event: LOOKS_BEHIND_AN_EVENT,
                after_a_throttle: LOOKS_AFTER_A_THROTTLE,
            },
        }
    }

    /// Takes what a look showed, without an association that is known to be gone.
    pub(super) fn observe(&mut self, facts: Option<InstanceFacts>, at: Instant) {
        self.facts = facts;
        self.looked_at = at;
        if let (Some(debt), Some(facts)) = (&self.debt, &mut self.facts)
            && facts.association.as_ref().is_some_and(|row| debt.outlived(row))
        {
            facts.association = None;
        }
    }

    /// What to do about a read that is older than the events, or than the message about a swap: nothing, where it is not.
    pub(super) fn lag(&mut self, policy: &Policy) -> Option<Result<Step, Failure>> {
        let facts = self.facts.as_ref()?;
        let lag = self.job.expected.lag(&facts.instance, |key| policy.reads_tag(key));
        let lag = lag.or_else(|| self.lag_behind_a_swap())?;
        match (self.look_behind_the_event(), self.job.patience) {
            (Some(step), _) => Some(Ok(step)),
            (None, Patience::Fresh) => Some(Err(Failure::StaleRead(lag))),
            // Only what is shown counts from here on.
            (None, Patience::Exhausted) => None,
        }
    }

    /// The association that a swap was about to take away is still shown: perhaps it never was, perhaps the list is old.
    fn lag_behind_a_swap(&self) -> Option<Lag> {
        let debt = self.debt.as_ref()?;
        let row = self.attached().filter(|row| row.id == debt.detached.association)?;
        match debt.status {
            DetachStatus::Announced if self.job.patience == Patience::Fresh => {
                Some(Lag::Association { profile_arn: row.profile_arn.clone() })
            }
            DetachStatus::Announced | DetachStatus::Lost(_) | DetachStatus::Gone => None,
        }
    }

    /// Where something is attached and more than the message about a swap asks for the instance, no debt is left.
    pub(super) fn settle_an_announced_debt(&mut self) {
        if self.attached().is_some() && self.job.cause.found_by != FoundBy::Swap {
            self.debt.take_if(|debt| matches!(debt.status, DetachStatus::Announced));
        }
    }

    /// Decides about what was seen; as for a debt, where the instance has nothing because of a swap.
    pub(super) fn decide(&self, requirement: &Requirement, facts: &InstanceFacts) -> Decision {
        match (&self.debt, &facts.association) {
            (Some(debt), None) => decide_for_debt(requirement, facts, &debt.detached.profile_arn),
            // The message about a swap asks for a profile, and there is one.
            (Some(Debt { status: DetachStatus::Announced, .. }), Some(row)) => {
                Decision::Leave(Leave::SwapIsOver { attached: row.profile_arn.clone() })
            }
            (Some(_), Some(_)) | (None, _) => decide(requirement, facts),
        }
    }

    /// Since when IAM must have answered for this decision: what takes a profile away rests on an answer of now.
    pub(super) fn needs_an_answer_since(&self, decision: &Decision) -> Option<Instant> {
        match decision {
            // A profile of that name was made again, or its answer is from before it was.
            Decision::Replace { from, to, .. }
                if from.profile_arn.rsplit('/').next() == Some(to.arn.name().as_str()) =>
            {
                Some(self.started)
            }
            Decision::Swap { .. } => Some(self.looked_at),
            Decision::Leave(_)
            | Decision::Wait(_)
            | Decision::Keep(_)
            | Decision::KeepBare
            | Decision::LookUp(_)
            | Decision::Confirm
            | Decision::Associate(_)
            | Decision::Replace { .. }
            | Decision::Remove(_)
            | Decision::PutBack { .. } => None,
        }
    }

    /// Whether a message that meets this state is not done by it: a fresh one, unless its own event announced the state, for
    /// then the event of the next one follows; and one that an instance without a profile depends on.
    pub(super) fn awaits_another_state(&self, state: &InstanceState) -> bool {
        if self.debt.is_some() {
            return true;
        }
        self.is_an_events()
            && self.job.patience == Patience::Fresh
            && self.job.expected.state() != Some(state)
    }

    /// Whether an event has the instance looked at.
    pub(super) fn is_an_events(&self) -> bool {
        match self.job.cause.found_by {
            FoundBy::Event | FoundBy::Drift => true,
            FoundBy::Person | FoundBy::Sweep | FoundBy::Verification | FoundBy::Swap => false,
        }
    }

    /// How it ended where nothing is to be done any more.
    pub(super) fn outcome_of_keeping(&mut self, row: Option<&Association>) -> Outcome {
        debug_assert_eq!(row, self.attached());
        self.debt = None;
        let lost = self.outcome_of_a_lost_write();
        lost.unwrap_or(if self.tried { Outcome::Converged } else { Outcome::Kept })
    }

    /// How a write ended whose answer was lost, where what is attached now shows that it was carried out.
    pub(super) fn outcome_of_a_lost_write(&mut self) -> Option<Outcome> {
        let lost = self.lost.clone()?;
        let row = self.attached().cloned();
        let is_new = row.as_ref().map(|row| &row.id) != lost.from.as_ref().map(|row| &row.id);
        let is_ours = row.as_ref().map(|row| &row.profile_arn) == lost.to.as_ref();
        if !(is_new && is_ours) {
            return None;
        }
        self.written = row;
        self.written_to = lost.to;
        Some(lost.outcome)
    }

    /// Whether EC2 took the replacement of a recreated profile by this one before, as a verification says, and still shows
    /// the old one.
    pub(super) fn was_repaired_in_vain(
        &self,
        row: &Association,
        to: &Profile,
        why: Different,
    ) -> bool {
        let is_verified = self.job.verifies.iter().any(|verified| {
            verified.association.as_ref() == Some(&row.id)
                && verified.profile_id.as_ref() == Some(&to.id)
        });
        why == Different::Recreated && is_verified
    }

    /// The association as last seen.
    pub(super) fn attached(&self) -> Option<&Association> {
        self.facts.as_ref()?.association.as_ref()
    }

    /// Whether the rule leaves the instance without a profile, as it was seen.
    pub(super) fn was_left_bare(&self) -> bool {
        matches!(self.decision, Some(Decision::Leave(Leave::CorrectsOnly) | Decision::KeepBare))
    }

    /// The profile that the writes brought about; none, where one was taken away.
    pub(super) fn written_profile(&self) -> Option<String> {
        let target = || self.decision.as_ref().and_then(Decision::target);
        self.written_to.clone().or_else(target)
    }

    /// What an associate is called: the end of a swap, where one took something away.
    pub(super) fn outcome_of_associating(&self) -> Outcome {
        match &self.debt {
            Some(_) => Outcome::Swapped,
            None => Outcome::Associated,
        }
    }

    /// EC2 took a write of what was attached, or of nothing.
    pub(super) fn took(&mut self, from: Option<&Association>) {
        match &mut self.first_write {
            Some(FirstWrite { is_sure: true, .. }) => {}
            // What is there now is what the lost write was to leave: that one was carried out.
            Some(first)
                if first.leaves.as_ref() == from.map(|row| &row.profile_arn)
                    && first.from.as_ref().map(|row| &row.id) != from.map(|row| &row.id) =>
            {
                first.is_sure = true;
            }
            Some(_) | None => {
                let from = from.cloned();
                self.first_write = Some(FirstWrite { from, leaves: None, is_sure: true });
            }
        }
    }

    /// The first write, whose answer was lost, is known to have been carried out.
    pub(super) fn confirm_the_first_write(&mut self) {
        if let Some(first) = &mut self.first_write {
            first.is_sure = true;
        }
    }

    /// What was attached before the first write.
    pub(super) fn before(&self) -> Before {
        match &self.first_write {
            None => Before::NothingWritten,
            Some(FirstWrite { from: None, .. }) => Before::Bare,
            Some(FirstWrite { from: Some(row), .. }) => Before::Attached(row.profile_arn.clone()),
        }
    }

    /// Notes a write whose answer was lost.
    pub(super) fn lose(&mut self, lost: LostWrite) {
        self.last_write = LastWrite::Lost;
        let (from, leaves) = (lost.from.clone(), lost.leaves.clone());
        self.first_write.get_or_insert(FirstWrite { from, leaves, is_sure: false });
        self.lost = Some(lost);
    }

    /// A write attached a profile, and EC2 said by which association.
    pub(super) fn attached_by_us(&mut self, outcome: Outcome, row: Option<Association>) -> Step {
        self.debt = None;
        self.written = row;
        Step::Done(outcome)
    }

    /// What is to be put back where the work on it failed; nothing, where nothing was detached for sure or perhaps.
    pub(super) fn debt_that_is_due(&self) -> Option<Detached> {
        let (debt, facts) = (self.debt.as_ref()?, self.facts.as_ref()?);
        // EC2 takes nothing in another state; the message that was written down waits for one of these.
        if !matches!(facts.instance.state, InstanceState::Running | InstanceState::Stopped) {
            return None;
        }
        match debt.status {
            // `Lost(None)`: the call was on its way when the time ran out.
            DetachStatus::Gone | DetachStatus::Lost(_) => Some(debt.detached.clone()),
            DetachStatus::Announced if facts.association.is_none() => Some(debt.detached.clone()),
            DetachStatus::Announced => None,
        }
    }

    /// The right to a write whose answer was lost counts as used.
    pub(super) fn end_lost_turn(&mut self) {
        if let Some(turn) = self.turn.take().filter(|_| self.last_write == LastWrite::Lost) {
            turn.end(Verdict::Taken);
        }
    }

    /// Why nobody knows whether this row is still there, where a call of ours was to take it away.
    pub(super) fn doubt_about(&self, row: &Association) -> Option<CloudError> {
        match &self.debt {
            Some(Debt { status: DetachStatus::Lost(Some(error)), detached, .. })
                if detached.association == row.id =>
            {
                Some(error.clone())
            }
            Some(_) | None => None,
        }
    }

    pub(super) fn look_after_a_move(&mut self) -> Option<Step> {
        look_again(&mut self.budget.after_a_move, LOOKS_AFTER_A_MOVE, PAUSE_AFTER_A_MOVE)
    }

    pub(super) fn look_after_a_lost_write(&mut self) -> Option<Step> {
        look_again(
            &mut self.budget.after_a_lost_write,
            LOOKS_AFTER_A_LOST_WRITE,
            PAUSE_AFTER_A_MOVE,
        )
    }

    /// The rate limiter is what is waited for; but an instance that is bare because of a swap waits for none, so it pauses.
    pub(super) fn look_after_a_throttle(&mut self) -> Option<Step> {
        let first_pause = if self.debt.is_some() { PAUSE_AFTER_A_MOVE } else { Duration::ZERO };
        look_again(&mut self.budget.after_a_throttle, LOOKS_AFTER_A_THROTTLE, first_pause)
    }

    pub(super) fn look_behind_the_event(&mut self) -> Option<Step> {
        look_again(&mut self.budget.behind_an_event, LOOKS_BEHIND_AN_EVENT, PAUSE_BEHIND_AN_EVENT)
    }
}

/// Takes one of the looks left, and says how long to pause before it: twice as long each time.
fn look_again(left: &mut u32, of: u32, first_pause: Duration) -> Option<Step> {
    *left = left.checked_sub(1)?;
    let doublings = of - 1 - *left;
    Some(Step::LookAgain(first_pause * 2_u32.pow(doublings)))
}
