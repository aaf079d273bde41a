//! An invocation's work: one job for each instance, however many messages name it.

use std::collections::HashMap;

use crate::config::Mode;
use crate::decide::Patience;
use crate::event::{Origin, Trigger};
use crate::model::{InstanceRef, Tags};
use crate::reconcile::Job;
use crate::report::{Cause, FoundBy};

/// Jobs and the messages each of them answers: several messages about one instance are one piece of work.
#[derive(Default)]
pub struct Work {
    /// The jobs.
    pub jobs: Vec<Job>,
    /// The places of the messages that each answers.
    pub messages: Vec<Vec<usize>>,
    /// When the earliest event about each happened, in milliseconds since 1970, where one says so.
    pub times: Vec<Option<i64>>,
    by_instance: HashMap<(InstanceRef, bool), usize>,
}

impl Work {
    /// Adds the instances that a message names.
    pub fn add(&mut self, trigger: &Trigger, setting: Mode, patience: Patience, message: usize) {
        let mode = mode_for(trigger, setting);
        let cause = cause_of(trigger);
        for target in &trigger.targets {
            let key = (target.instance.clone(), mode == Mode::DryRun);
            let index = *self.by_instance.entry(key).or_insert_with(|| {
                self.messages.push(Vec::new());
                self.times.push(None);
                self.jobs.push(Job {
                    instance: target.instance.clone(),
                    announced: Tags::new(),
                    patience: Patience::Exhausted,
                    mode,
                    cause: cause.clone(),
                });
                self.jobs.len() - 1
            });
            let job = &mut self.jobs[index];
            job.announced.extend(target.announced.clone());
            // One fresh message about an instance is reason enough to wait for it.
            if patience == Patience::Fresh {
                job.patience = Patience::Fresh;
            }
            job.cause.launched_by = job.cause.launched_by.take().or(cause.launched_by.clone());
            job.cause.changed_by = job.cause.changed_by.take().or(cause.changed_by.clone());
            let times = [self.times[index], trigger.occasion.at_ms];
            self.times[index] = times.into_iter().flatten().min();
            if self.messages[index].last() != Some(&message) {
                self.messages[index].push(message);
            }
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
