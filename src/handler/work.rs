//! An invocation's work: one job for each instance, however many messages name it.

use std::collections::HashMap;

use crate::config::Mode;
use crate::decide::Patience;
use crate::event::{Origin, Trigger};
use crate::model::{Detached, InstanceRef};
use crate::reconcile::Job;
use crate::report::{Cause, FoundBy};
use crate::verification::Verification;

/// One piece of work.
#[derive(Debug)]
pub struct Task {
    /// What is to be done.
    pub job: Job,
    /// The indices of the messages that it answers.
    pub messages: Vec<usize>,
    /// When the earliest event about the instance happened, in milliseconds since 1970, where one says so.
    pub event_ms: Option<i64>,
}

/// Several messages about one instance are one piece of work.
#[derive(Debug, Default)]
pub struct Work {
    /// The tasks.
    pub tasks: Vec<Task>,
    by_instance: HashMap<(InstanceRef, bool), usize>,
}

impl Work {
    /// Adds the instances that a message names.
    pub fn add(&mut self, trigger: &Trigger, setting: Mode, patience: Patience, message: usize) {
        let mode = mode_for(trigger, setting);
        let cause = cause_of(trigger);
        for target in &trigger.targets {
            let task = self.task(&target.instance, mode, &cause, message);
            task.job.expected.merge(target.expected.clone());
            task.wait_for(patience);
            let times = [task.event_ms, trigger.occasion.at_ms];
            task.event_ms = times.into_iter().flatten().min();
        }
    }

    /// Adds a look that follows a write. What is not there by then is not waited for.
    pub fn add_verification(&mut self, verification: &Verification, mode: Mode, message: usize) {
        let cause = Cause { found_by: FoundBy::Verification, ..Cause::default() };
        let task = self.task(&verification.instance, mode, &cause, message);
        task.job.verifies.push(verification.clone());
    }

    /// Adds an instance that a swap may have left without a profile.
    pub fn add_swap(
        &mut self,
        detached: &Detached,
        mode: Mode,
        patience: Patience,
        message: usize,
    ) {
        let cause = Cause { found_by: FoundBy::Swap, ..Cause::default() };
        let task = self.task(&detached.instance, mode, &cause, message);
        task.job.debt = Some(detached.clone());
        task.wait_for(patience);
    }

    fn task(
        &mut self,
        instance: &InstanceRef,
        mode: Mode,
        cause: &Cause,
        message: usize,
    ) -> &mut Task {
        let key = (instance.clone(), mode == Mode::DryRun);
        let tasks = &mut self.tasks;
        let index = *self.by_instance.entry(key).or_insert_with(|| {
            let job = Job::about(instance.clone(), mode, cause.clone());
            tasks.push(Task { job, messages: Vec::new(), event_ms: None });
            tasks.len() - 1
        });
        let task = &mut self.tasks[index];
        if task.messages.last() != Some(&message) {
            task.messages.push(message);
        }
        let known = &mut task.job.cause;
        known.found_by = known.found_by.min(cause.found_by);
        known.launched_by = known.launched_by.take().or(cause.launched_by.clone());
        known.changed_by = known.changed_by.take().or(cause.changed_by.clone());
        task
    }
}

impl Task {
    /// One fresh message about an instance is reason enough to wait for it.
    fn wait_for(&mut self, patience: Patience) {
        if patience == Patience::Fresh {
            self.job.patience = Patience::Fresh;
        }
    }
}

/// The mode that holds for a trigger: a person may ask for a dry run, and nobody for more than the setting allows.
pub fn mode_for(trigger: &Trigger, setting: Mode) -> Mode {
    match (setting, trigger.origin) {
        (Mode::DryRun, _) | (_, Origin::Person { dry_run: true }) => Mode::DryRun,
        (
            Mode::Enforce,
            Origin::StateChange
            | Origin::TagChange
            | Origin::Launch
            | Origin::Drift
            | Origin::Sweep
            | Origin::Person { dry_run: false },
        ) => Mode::Enforce,
    }
}

/// Why a trigger has an instance looked at.
fn cause_of(trigger: &Trigger) -> Cause {
    let by = trigger.occasion.by.clone();
    let found = |found_by| Cause { found_by, ..Cause::default() };
    match trigger.origin {
        Origin::StateChange | Origin::TagChange => found(FoundBy::Event),
        Origin::Launch => Cause { launched_by: by, ..found(FoundBy::Event) },
        Origin::Drift => Cause { changed_by: by, ..found(FoundBy::Drift) },
        Origin::Person { .. } => found(FoundBy::Person),
        Origin::Sweep => found(FoundBy::Sweep),
    }
}
