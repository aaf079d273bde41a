//! Carrying out a decision: in turn, on the evidence of EC2's own answers, and never half a swap without a way back.

use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use crate::cloud::{Cloud, CloudError, ErrorKind};
use crate::config::Mode;
use crate::decide::{Decision, Different};
use crate::failure::Failure;
use crate::flapping::{self, COOLDOWN};
use crate::model::{Association, Detached, InstanceFacts, Profile};
use crate::pace::Verdict;
use crate::queue::WriteAhead;
use crate::reconcile::attempt::{Attempt, Debt, DetachStatus, LastWrite, LostWrite, Step};
use crate::reconcile::{MAX_FACTS_AGE, Reconciler};
use crate::report::{FoundBy, Outcome};

/// EC2's codes for an instance in a state in which it takes no association, whatever is attached.
const WRONG_STATE: [&str; 2] = ["IncorrectInstanceState", "InvalidInstanceID"];
/// EC2's code for an instance to which another profile cannot be associated, since it has one.
const SOMETHING_IS_ATTACHED: &str = "IncorrectState";
/// EC2's code for an association that is not there any more.
const ASSOCIATION_GONE: &str = "InvalidAssociationID.NotFound";
/// A write is begun only with this much time ahead: a third of a second as a rule.
const WRITE_NEEDS: Duration = Duration::from_millis(500);
/// A swap is begun only with this much time ahead: four calls and the way back.
const SWAP_NEEDS: Duration = Duration::from_secs(5);

impl<'a, C: Cloud, W: WriteAhead> Reconciler<'a, C, W> {
    /// Carries out a decision that changes the instance, unless nothing may be written.
    pub(super) async fn write(
        &self,
        attempt: &mut Attempt<'a>,
        decision: Decision,
    ) -> Result<Step, Failure> {
        match (attempt.job.mode, &attempt.debt) {
            // Nothing is written, and the instance still needs a profile: whoever may write gets the message.
            (Mode::DryRun, Some(debt)) => Err(Failure::RollbackFailed {
                detached: debt.detached.profile_arn.clone(),
                cause: None,
                undoing: None,
            }),
            (Mode::DryRun, None) => Ok(Step::Done(Outcome::Planned)),
            (Mode::Enforce, _) => {
                if let Decision::Replace { from, to, why } = &decision
                    && attempt.was_repaired_in_vain(from, to, *why)
                {
                    return Ok(Step::Done(Outcome::NotRepaired));
                }
                self.write_unless_flapping(attempt, decision).await
            }
        }
    }

    async fn write_unless_flapping(
        &self,
        attempt: &mut Attempt<'a>,
        decision: Decision,
    ) -> Result<Step, Failure> {
        // What was begun is ended.
        if attempt.tried || attempt.debt.is_some() {
            return self.write_in_turn(attempt, decision).await;
        }
        let instance = &attempt.job.instance;
        match self.flapping.verdict(instance, decision.target().as_deref()) {
            flapping::Verdict::Free => self.write_in_turn(attempt, decision).await,
            // A person's invocation has no message that could be retried after a cooldown.
            flapping::Verdict::Flapping { by } if attempt.job.cause.found_by == FoundBy::Person => {
                Err(Failure::Flapping { by, left: COOLDOWN, begins: false })
            }
            flapping::Verdict::Flapping { by } => {
                self.flapping.cool_down(instance, COOLDOWN);
                Err(Failure::Flapping { by, left: COOLDOWN, begins: true })
            }
            flapping::Verdict::Cooldown { by, left } => {
                Err(Failure::Flapping { by, left, begins: false })
            }
        }
    }

    /// Waits for the attempt's turn and writes; or looks again, where what it would write by has grown too old meanwhile.
    async fn write_in_turn(
        &self,
        attempt: &mut Attempt<'a>,
        decision: Decision,
    ) -> Result<Step, Failure> {
        if attempt.turn.is_none() {
            // An instance that is bare because of a swap waits for nobody.
            attempt.turn = match &attempt.debt {
                Some(_) => Some(self.pace.urgent_turn()),
                None => match self.turn(attempt, &decision).await {
                    Some(turn) => Some(turn),
                    None => {
                        return Err(attempt
                            .throttle
                            .take()
                            .map_or(Failure::OutOfTime, Failure::Cloud));
                    }
                },
            };
            if attempt.looked_at.elapsed() > MAX_FACTS_AGE {
                return Ok(Step::LookTogether);
            }
        }
        let turn = attempt.turn.take();
        attempt.last_write = LastWrite::Answered;
        let step = self.carry_out(attempt, decision).await;
        match (attempt.last_write, turn) {
            // The next look tells. Until then the turn is held for another try, which EC2 may not have had yet.
            (LastWrite::Lost, turn) => attempt.turn = turn,
            (LastWrite::Answered, Some(turn)) => turn.end(Verdict::Taken),
            (LastWrite::Throttled, Some(turn)) => turn.end(Verdict::Throttled),
            (LastWrite::Answered | LastWrite::Throttled, None) => {}
        }
        step
    }

    /// A turn, if it comes while there is still time for the write: one that cannot be begun takes none from others.
    async fn turn(
        &self,
        attempt: &Attempt<'a>,
        decision: &Decision,
    ) -> Option<crate::pace::Turn<'a>> {
        let is_swap = matches!(decision, Decision::Swap { .. });
        // Of a short invocation a quarter.
        let whole = attempt.stop_at.saturating_duration_since(attempt.started);
        let needs = if is_swap { SWAP_NEEDS } else { WRITE_NEEDS.min(whole / 4) };
        let by = attempt.stop_at.checked_sub(needs).filter(|by| *by > Instant::now())?;
        self.pace.turn(by).await
    }

    async fn carry_out(
        &self,
        attempt: &mut Attempt<'_>,
        decision: Decision,
    ) -> Result<Step, Failure> {
        match decision {
            Decision::Associate(to) => self.associate(attempt, &to).await,
            Decision::Replace { from, to, why } => self.replace(attempt, &from, &to, why).await,
            Decision::Swap { from, to, .. } => self.swap(attempt, &from, &to).await,
            Decision::Remove(from) => self.remove(attempt, &from).await,
            Decision::PutBack { profile_arn } => self.put_back(attempt, &profile_arn).await,
            Decision::Leave(_)
            | Decision::Wait(_)
            | Decision::Keep(_)
            | Decision::KeepBare
            | Decision::LookUp(_)
            | Decision::Confirm => Ok(Step::Done(Outcome::Left)),
        }
    }

    async fn associate(&self, attempt: &mut Attempt<'_>, to: &Profile) -> Result<Step, Failure> {
        let arn = to.arn.to_string();
        let outcome = attempt.outcome_of_associating();
        let answer = self.cloud.associate(&attempt.job.instance.id, &arn).await;
        self.after_associate(attempt, answer, outcome, arn, Some(to))
    }

    async fn put_back(&self, attempt: &mut Attempt<'_>, arn: &str) -> Result<Step, Failure> {
        let answer = self.cloud.associate(&attempt.job.instance.id, arn).await;
        self.after_associate(attempt, answer, Outcome::RolledBack, arn.to_owned(), None)
    }

    /// What follows EC2's answer to an associate of this ARN; `to` is the profile, where a rule requires it.
    fn after_associate(
        &self,
        attempt: &mut Attempt<'_>,
        answer: Result<Option<Association>, CloudError>,
        outcome: Outcome,
        arn: String,
        to: Option<&Profile>,
    ) -> Result<Step, Failure> {
        match answer {
            Ok(row) => {
                attempt.took(None);
                Ok(attempt.attached_by_us(outcome, row))
            }
            Err(error) => {
                let (to_arn, leaves) = (Some(arn.clone()), Some(arn));
                let lost = LostWrite { outcome, from: None, to: to_arn, leaves };
                self.after_a_failed_write(attempt, error, to, lost)
            }
        }
    }

    async fn replace(
        &self,
        attempt: &mut Attempt<'_>,
        from: &Association,
        to: &Profile,
        why: Different,
    ) -> Result<Step, Failure> {
        let arn = to.arn.to_string();
        let row = match self.cloud.replace(&from.id, &arn).await {
            Ok(row) => row,
            Err(error) => {
                let from = Some(from.clone());
                let leaves = Some(arn.clone());
                let lost = LostWrite { outcome: Outcome::Replaced, from, to: Some(arn), leaves };
                return self.after_a_failed_write(attempt, error, Some(to), lost);
            }
        };
        attempt.took(Some(from));
        // What EC2 makes of replacing a profile by its own successor is not documented. Its answer tells; where it does not,
        // the verification that follows will.
        let attached = row.as_ref().and_then(|row| row.profile_id.as_ref());
        let is_kept = why == Different::Recreated && attached.is_some_and(|id| *id != to.id);
        if is_kept {
            return Ok(Step::Done(Outcome::NotRepaired));
        }
        Ok(attempt.attached_by_us(Outcome::Replaced, row))
    }

    async fn remove(&self, attempt: &mut Attempt<'_>, from: &Association) -> Result<Step, Failure> {
        match self.cloud.disassociate(&from.id).await {
            Ok(()) => {
                attempt.took(Some(from));
                attempt.debt = None;
                Ok(Step::Done(Outcome::Removed))
            }
            Err(error) => {
                let from = Some(from.clone());
                let lost = LostWrite { outcome: Outcome::Removed, from, to: None, leaves: None };
                self.after_a_failed_write(attempt, error, None, lost)
            }
        }
    }

    /// Detaches, then attaches. Before anything is taken away it is certain that the attach is not denied, as far as EC2
    /// tells, and what is attached is written down on the queue.
    async fn swap(
        &self,
        attempt: &mut Attempt<'_>,
        from: &Association,
        to: &Profile,
    ) -> Result<Step, Failure> {
        if attempt.debt.is_none() {
            if let Some(step) = self.would_attach(attempt, to).await? {
                return Ok(step);
            }
            self.write_down(attempt, from).await?;
        }
        if let Err(error) = self.cloud.disassociate(&from.id).await {
            return self.after_a_failed_detach(attempt, error, from, to);
        }
        attempt.took(Some(from));
        if let Some(debt) = &mut attempt.debt {
            debt.status = DetachStatus::Gone;
        }
        self.associate(attempt, to).await
    }

    /// Asks EC2 to associate the profile beside the one that is there. It refuses, because something is attached: but where a
    /// right is missing it says so first, and then nothing must be taken away.
    async fn would_attach(
        &self,
        attempt: &mut Attempt<'_>,
        to: &Profile,
    ) -> Result<Option<Step>, Failure> {
        if let Some(error) = self.profiles.denied_lately(&to.arn) {
            return Err(Failure::Cloud(error));
        }
        let arn = to.arn.to_string();
        match self.cloud.associate(&attempt.job.instance.id, &arn).await {
            Err(error) if says_that_something_is_attached(&error) => Ok(None),
            // Where EC2 took it, the instance had nothing any more.
            answer => {
                self.after_associate(attempt, answer, Outcome::Associated, arn, Some(to)).map(Some)
            }
        }
    }

    /// Has the queue know what is about to be detached: whoever finds the instance bare puts that right, even if this
    /// environment is gone by then.
    async fn write_down(
        &self,
        attempt: &mut Attempt<'_>,
        from: &Association,
    ) -> Result<(), Failure> {
        let Some(write_ahead) = self.write_ahead else { return Err(Failure::OutOfTime) };
        let detached = Detached {
            instance: attempt.job.instance.clone(),
            profile_arn: from.profile_arn.clone(),
            association: from.id.clone(),
        };
        let written = timeout_at(attempt.stop_at, write_ahead.write_down(&detached)).await;
        written.map_err(|_| Failure::OutOfTime)?.map_err(Failure::NotWrittenDown)?;
        if attempt.stop_at.saturating_duration_since(Instant::now()) < SWAP_NEEDS / 2 {
            return Err(Failure::OutOfTime);
        }
        attempt.debt = Some(Debt { detached, since: from.since, status: DetachStatus::Lost(None) });
        Ok(())
    }

    fn after_a_failed_detach(
        &self,
        attempt: &mut Attempt<'_>,
        error: CloudError,
        from: &Association,
        to: &Profile,
    ) -> Result<Step, Failure> {
        let is_gone = error.code.as_deref() == Some(ASSOCIATION_GONE);
        match (&error.kind, &mut attempt.debt) {
            (ErrorKind::Transient | ErrorKind::Unreadable, Some(debt)) => {
                debt.status = DetachStatus::Lost(Some(error.clone()));
            }
            // The first call, whose answer was lost, went through.
            (_, Some(Debt { status: status @ DetachStatus::Lost(Some(_)), .. })) if is_gone => {
                *status = DetachStatus::Gone;
                attempt.confirm_the_first_write();
            }
            // An answer says that nothing was detached now, and nothing was before.
            (_, Some(Debt { status: DetachStatus::Lost(None), .. })) => attempt.debt = None,
            (_, _) => {}
        }
        let (from, arn) = (Some(from.clone()), to.arn.to_string());
        let lost = LostWrite { outcome: Outcome::Swapped, from, to: Some(arn), leaves: None };
        self.after_a_failed_write(attempt, error, Some(to), lost)
    }

    fn after_a_failed_write(
        &self,
        attempt: &mut Attempt<'_>,
        error: CloudError,
        to: Option<&Profile>,
        lost: LostWrite,
    ) -> Result<Step, Failure> {
        attempt.tried = true;
        match error.kind {
            ErrorKind::Conflict | ErrorKind::InstanceNotFound => {
                attempt.look_after_a_move().ok_or(Failure::KeepsMoving(error))
            }
            // It may have been carried out all the same.
            ErrorKind::Transient | ErrorKind::Unreadable => {
                attempt.lose(lost);
                attempt.look_after_a_lost_write().ok_or(Failure::Cloud(error))
            }
            ErrorKind::ProfileNotFound => {
                if let Some(to) = to {
                    self.profiles.forget(to.arn.name());
                }
                Err(Failure::ProfileUnknownToEc2(error))
            }
            ErrorKind::Throttled => {
                attempt.last_write = LastWrite::Throttled;
                attempt.throttle = Some(error.clone());
                attempt.look_after_a_throttle().ok_or(Failure::Cloud(error))
            }
            ErrorKind::Denied(_) => {
                // Nothing is detached for its sake for a while: EC2 said so only once nothing was attached.
                if let (Some(to), Some(_)) = (to, &attempt.debt) {
                    self.profiles.deny(&to.arn, &error);
                }
                Err(Failure::Cloud(error))
            }
            ErrorKind::Rejected => Err(Failure::Cloud(error)),
        }
    }

    /// Attaches again what a swap took away and nothing took the place of. Where that fails, the message that was written
    /// down before sees to it.
    pub(super) async fn roll_back(
        &self,
        attempt: &mut Attempt<'_>,
        detached: Detached,
        result: Result<Outcome, Failure>,
    ) -> Result<Outcome, Failure> {
        let id = &attempt.job.instance.id;
        let failed = |undoing, swap: Result<Outcome, Failure>| {
            let cause = swap.err().map(Box::new);
            Err(Failure::RollbackFailed { detached: detached.profile_arn.clone(), cause, undoing })
        };
        let _turn = self.pace.urgent_turn();
        match timeout_at(self.deadline, self.cloud.associate(id, &detached.profile_arn)).await {
            Ok(Ok(row)) => {
                attempt.took(None);
                attempt.written = row;
                attempt.written_to = Some(detached.profile_arn.clone());
                match result {
                    // Whoever came to put it right has done so.
                    Err(_) if attempt.job.debt.is_some() => Ok(Outcome::RolledBack),
                    result => result.map_err(|cause| Failure::SwapRolledBack {
                        restored: detached.profile_arn,
                        cause: Box::new(cause),
                    }),
                }
            }
            // A list can lag behind; EC2's own refusal does not.
            Ok(Err(error)) if error.code.as_deref() == Some(SOMETHING_IS_ATTACHED) => result,
            // Something is attached, or EC2 takes nothing in this state, or the answer was lost: a look tells.
            Ok(Err(error))
                if matches!(
                    error.kind,
                    ErrorKind::Conflict | ErrorKind::Transient | ErrorKind::Unreadable
                ) =>
            {
                match timeout_at(self.deadline, self.look_at(id)).await {
                    // What may have been taken away proves nothing: the list can lag behind.
                    Ok(Ok(Some(InstanceFacts { association: Some(row), .. })))
                        if row.id != detached.association
                            && !attempt.debt.as_ref().is_some_and(|debt| debt.outlived(&row)) =>
                    {
                        result
                    }
                    Ok(Ok(_) | Err(_)) | Err(_) => failed(Some(error), result),
                }
            }
            Ok(Err(error)) => failed(Some(error), result),
            Err(_) => failed(None, result),
        }
    }
}

/// Whether EC2 refused to associate a profile because there is one, and so would have taken it otherwise.
fn says_that_something_is_attached(error: &CloudError) -> bool {
    let is_about_the_state = error.code.as_deref().is_some_and(|code| WRONG_STATE.contains(&code));
    error.kind == ErrorKind::Conflict && !is_about_the_state
}
