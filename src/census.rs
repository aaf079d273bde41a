//! Where instances stand, and how many of them: what a sweep counts, and who asked for it.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::model::Filter;

/// Where an instance stands, whatever led to the look at it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Standing {
    /// It is as its policy requires.
    Right,
    /// It is to be changed, or was.
    Change,
    /// Something is required that cannot be done until a person acts.
    Blocked,
    /// Nothing is required of it, or nothing that we may do.
    Left,
    /// The event of its next state brings it back.
    Waiting,
    /// Its state is not known, or not what it should be.
    Failed,
}

impl Standing {
    /// The standing in one word.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Right => "right",
            Self::Change => "change",
            Self::Blocked => "blocked",
            Self::Left => "left",
            Self::Waiting => "waiting",
            Self::Failed => "failed",
        }
    }
}

/// A sweep that is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SweepRequest {
    /// Conditions on instances; none is every instance of the Region.
    pub filters: Vec<Filter>,
    /// Decide and report, put nothing on the queue.
    pub dry_run: bool,
    /// Who asks.
    pub asked_by: AskedBy,
}

/// Who asks for a sweep. The schedule's alone say where the fleet stands: a person's may be about a part of it, or a trial.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AskedBy {
    /// The schedule.
    Schedule,
    /// A person.
    Person,
}

impl AskedBy {
    /// The word for logs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Schedule => "schedule",
            Self::Person => "person",
        }
    }
}

/// Counts of instances, by where they stand.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Census {
    /// All that were seen.
    pub instances: u64,
    /// As their policy requires.
    pub right: u64,
    /// To be changed.
    pub wrong: u64,
    /// Waiting for their next state.
    pub waiting: u64,
    /// Right, but EC2 has not put their association into force.
    pub stuck: u64,
    /// By reason.
    pub blocked: BTreeMap<String, u64>,
    /// By reason.
    pub left: BTreeMap<String, u64>,
    /// By the error's type.
    pub failed: BTreeMap<String, u64>,
    /// Of the bare ones that are to have a profile, by what launched them.
    pub bare_sources: BTreeMap<String, u64>,
}

/// One instance as a census counts it.
#[derive(Debug, Clone, Copy)]
pub struct Entry<'a> {
    /// Where it stands.
    pub standing: Standing,
    /// The decision's reason, or the error's type.
    pub reason: &'a str,
    /// Whether EC2 should have put its association into force by now.
    pub is_stuck: bool,
    /// What launched it, where it came up bare and must not be.
    pub bare_source: Option<&'a str>,
}

/// Sources of bare instances that a census keeps: its log line and its event must stay small.
const SOURCES: usize = 50;

impl Census {
    /// Counts an instance.
    pub fn count(&mut self, entry: Entry<'_>) {
        let reason = entry.reason.to_owned();
        self.instances += 1;
        self.stuck += u64::from(entry.is_stuck);
        match entry.standing {
            Standing::Right => self.right += 1,
            Standing::Change => self.wrong += 1,
            Standing::Waiting => self.waiting += 1,
            Standing::Blocked => *self.blocked.entry(reason).or_default() += 1,
            Standing::Left => *self.left.entry(reason).or_default() += 1,
            Standing::Failed => *self.failed.entry(reason).or_default() += 1,
        }
        if let Some(source) = entry.bare_source {
            let is_known = self.bare_sources.contains_key(source);
            if is_known || self.bare_sources.len() < SOURCES {
                *self.bare_sources.entry(source.to_owned()).or_default() += 1;
            } else {
                *self.bare_sources.entry("other sources".to_owned()).or_default() += 1;
            }
        }
    }

    /// What launched the bare ones, the most frequent first.
    #[must_use]
    pub fn ranking(&self) -> Vec<Source<'_>> {
        let sources = self.bare_sources.iter();
        let mut ranking: Vec<_> =
            sources.map(|(source, count)| Source { source, count: *count }).collect();
        // The order of names stands where counts are equal.
        ranking.sort_by_key(|source| std::cmp::Reverse(source.count));
        ranking
    }
}

/// Something that launches instances without a profile.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Source<'a> {
    /// What it is.
    pub source: &'a str,
    /// How many of its instances are bare.
    pub count: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(standing: Standing, reason: &str) -> Entry<'_> {
        Entry { standing, reason, is_stuck: false, bare_source: None }
    }

    #[test]
    fn every_instance_is_counted_once() {
        let mut census = Census::default();
        census.count(entry(Standing::Right, "right"));
        census.count(Entry { is_stuck: true, ..entry(Standing::Right, "right") });
        census.count(Entry { bare_source: Some("asg"), ..entry(Standing::Change, "bare") });
        census.count(entry(Standing::Blocked, "not-allowed"));
        census.count(entry(Standing::Blocked, "not-allowed"));
        census.count(entry(Standing::Left, "unmanaged"));
        census.count(entry(Standing::Waiting, "instance-state"));
        census.count(entry(Standing::Failed, "Denied"));
        let Census { instances, right, wrong, waiting, stuck, blocked, left, failed, .. } = &census;
        assert_eq!((*instances, *right, *wrong, *waiting, *stuck), (8, 2, 1, 1, 1));
        assert_eq!((blocked["not-allowed"], left["unmanaged"], failed["Denied"]), (2, 1, 1));
    }

    #[test]
    fn the_worst_source_is_first_and_their_number_is_bounded() {
        let mut census = Census::default();
        let mut bare = |source: &str| {
            census.count(Entry { bare_source: Some(source), ..entry(Standing::Change, "bare") });
        };
        bare("a");
        bare("b");
        bare("b");
        for number in 0..100 {
            bare(&format!("source {number}"));
        }
        let ranking = census.ranking();
        assert_eq!(ranking[0], Source { source: "other sources", count: 52 });
        assert_eq!(ranking[1], Source { source: "b", count: 2 });
        assert_eq!(ranking.len(), SOURCES + 1);
        assert_eq!(ranking.iter().map(|source| source.count).sum::<u64>(), 103);
    }
}
