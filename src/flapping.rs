//! Flapping: another actor keeps undoing what this function does. After a few corrections it stops, says so, and begins again
//! after a cooldown.
//!
//! What was corrected, and how long ago, travels in the verification message that follows each write, so that it is known
//! whichever execution environment looks next and however long later. [`FlapDetector`] remembers the same for the events
//! that come in between, which carry nothing: it is a cache, and what it forgets costs a few corrections more.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::model::InstanceRef;

/// Corrections of one instance to the same profile, within [`WINDOW`], after which the next one is not made. A person who
/// undoes something tries it twice.
pub const MAX_CORRECTIONS: usize = 3;
/// What was corrected longer ago than this does not count. An actor that comes once an hour is met by the verification
/// 65 minutes after a write, so that 3 corrections take up to 3 1/4 hours.
pub const WINDOW: Duration = Duration::from_hours(4);
/// How long a flapping instance is left as it is.
pub const COOLDOWN: Duration = Duration::from_hours(1);
/// Instances that are remembered before those that no longer count are forgotten.
const MAX_REMEMBERED: usize = 4096;

/// The corrections of one instance.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct History {
    /// The profile that was brought about; `None`, where one was taken away.
    pub to: Option<String>,
    /// How long ago each correction was, the oldest first.
    pub corrections: Vec<Duration>,
    /// Who changed the instance last, apart from this function, where an event said so.
    pub by: Option<String>,
}

impl History {
    /// The history after one more correction, made now.
    #[must_use]
    pub fn corrected(mut self, to: Option<&str>) -> Self {
        if self.to.as_deref() != to {
            self = Self { to: to.map(str::to_owned), ..Self::default() };
        }
        self.corrections.retain(|ago| *ago <= WINDOW);
        self.corrections.push(Duration::ZERO);
        self
    }

    /// The history this much later.
    #[must_use]
    pub fn aged(mut self, by: Duration) -> Self {
        for ago in &mut self.corrections {
            *ago = ago.saturating_add(by);
        }
        self.corrections.retain(|ago| *ago <= WINDOW);
        self
    }

    /// Whether the same was corrected so often that the next correction is not made.
    #[must_use]
    pub fn is_flapping(&self, to: Option<&str>) -> bool {
        self.to.as_deref() == to
            && self.corrections.iter().filter(|ago| **ago <= WINDOW).count() >= MAX_CORRECTIONS
    }

    /// What two sources know: the longer history of the same profile, or the younger one.
    #[must_use]
    fn or(self, other: Self) -> Self {
        let is_longer = other.to == self.to && other.corrections.len() > self.corrections.len();
        let is_younger = other.to != self.to && other.corrections.last() < self.corrections.last();
        let by = self.by.clone().or_else(|| other.by.clone());
        let chosen =
            if self.corrections.is_empty() || is_longer || is_younger { other } else { self };
        Self { by, ..chosen }
    }
}

/// Whether an instance may be changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It may.
    Free,
    /// It was changed back once too often: the cooldown begins.
    Flapping {
        /// Who changed it, where an event said so.
        by: Option<String>,
    },
    /// The cooldown lasts for this much longer.
    Cooldown {
        /// Who changed the instance, where an event said so.
        by: Option<String>,
        /// What is left of the cooldown.
        left: Duration,
    },
}

/// What one execution environment knows of corrections.
#[derive(Debug, Default)]
pub struct FlapDetector(Mutex<HashMap<InstanceRef, Remembered>>);

#[derive(Debug)]
struct Remembered {
    history: History,
    /// When the ages in the history were true.
    at: Instant,
    cooldown_until: Option<Instant>,
}

impl Remembered {
    fn new() -> Self {
        Self { history: History::default(), at: Instant::now(), cooldown_until: None }
    }

    fn now(&self) -> History {
        self.history.clone().aged(self.at.elapsed())
    }

    fn set(&mut self, history: History) {
        (self.history, self.at) = (history, Instant::now());
    }

    fn counts(&self) -> bool {
        let cools = self.cooldown_until.is_some_and(|until| until > Instant::now());
        cools || !self.now().corrections.is_empty()
    }
}

impl FlapDetector {
    /// Notes what a message carried about an instance.
    pub fn learn(&self, instance: &InstanceRef, carried: &History) {
        let mut known = self.known();
        let remembered = known.entry(instance.clone()).or_insert_with(Remembered::new);
        let history = remembered.now().or(carried.clone());
        remembered.set(history);
    }

    /// Whether to bring an instance to this profile, or to none.
    pub fn verdict(&self, instance: &InstanceRef, to: Option<&str>) -> Verdict {
        let mut known = self.known();
        let Some(remembered) = known.get_mut(instance) else { return Verdict::Free };
        let history = remembered.now();
        // Something else is required than before: nobody undid that.
        if history.to.as_deref() != to {
            return Verdict::Free;
        }
        let by = history.by.clone();
        match remembered.cooldown_until {
            Some(until) if until > Instant::now() => {
                Verdict::Cooldown { by, left: until.duration_since(Instant::now()) }
            }
            Some(_) => {
                remembered.cooldown_until = None;
                remembered.set(History { to: history.to, by: history.by, ..History::default() });
                Verdict::Free
            }
            None if history.is_flapping(to) => Verdict::Flapping { by },
            None => Verdict::Free,
        }
    }

    /// Notes that an instance is left as it is for so long.
    pub fn cool_down(&self, instance: &InstanceRef, for_time: Duration) {
        let mut known = self.known();
        let remembered = known.entry(instance.clone()).or_insert_with(Remembered::new);
        remembered.cooldown_until = Some(Instant::now() + for_time);
    }

    /// Notes that an instance was brought to this profile, or to none, and answers with its history.
    pub fn record_change(&self, instance: &InstanceRef, to: Option<&str>) -> History {
        let mut known = self.known();
        if known.len() >= MAX_REMEMBERED {
            known.retain(|_, remembered| remembered.counts());
        }
        let remembered = known.entry(instance.clone()).or_insert_with(Remembered::new);
        let history = remembered.now().corrected(to);
        if history.corrections.len() == 1 {
            remembered.cooldown_until = None;
        }
        remembered.set(history.clone());
        history
    }

    /// Forgets an instance's corrections: its cooldown is over.
    pub fn forget(&self, instance: &InstanceRef) {
        self.known().remove(instance);
    }

    /// Notes who else changed an instance.
    pub fn record_other_actor(&self, instance: &InstanceRef, by: &str) {
        // Changes of instances that this function never changed undo nothing of its.
        if let Some(remembered) = self.known().get_mut(instance) {
            remembered.history.by = Some(by.to_owned());
        }
    }

    /// The history of an instance.
    pub fn history(&self, instance: &InstanceRef) -> History {
        self.known().get(instance).map(Remembered::now).unwrap_or_default()
    }

    fn known(&self) -> MutexGuard<'_, HashMap<InstanceRef, Remembered>> {
        // The map is whole between any two statements, so a panic elsewhere leaves nothing half-done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{InstanceId, Region};

    fn instance(id: &str) -> InstanceRef {
        let region = Region::parse("eu-west-1").unwrap();
        InstanceRef { account: None, region, id: InstanceId::parse(id).unwrap() }
    }

    fn one() -> InstanceRef {
        instance("i-00000001")
    }

    async fn pass(time: Duration) {
        tokio::time::advance(time).await;
    }

    fn correct(detector: &FlapDetector, times: usize) {
        for _ in 0..times {
            assert_eq!(detector.verdict(&one(), Some("web")), Verdict::Free);
            detector.record_change(&one(), Some("web"));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_fourth_correction_is_not_made() {
        let detector = FlapDetector::default();
        correct(&detector, MAX_CORRECTIONS);
        detector.record_other_actor(&one(), "arn:aws:iam::123456789012:user/other");
        let by = Some("arn:aws:iam::123456789012:user/other".to_owned());
        let verdict = detector.verdict(&one(), Some("web"));
        assert_eq!(verdict, Verdict::Flapping { by: by.clone() });
        detector.cool_down(&one(), COOLDOWN);
        pass(Duration::from_mins(20)).await;
        let left = Duration::from_mins(40);
        assert_eq!(detector.verdict(&one(), Some("web")), Verdict::Cooldown { by, left });
        assert_eq!(detector.verdict(&instance("i-00000002"), Some("web")), Verdict::Free);
    }

    #[tokio::test(start_paused = true)]
    async fn after_a_cooldown_all_begins_again() {
        let detector = FlapDetector::default();
        for _ in 0..2 {
            correct(&detector, MAX_CORRECTIONS);
            let verdict = detector.verdict(&one(), Some("web"));
            assert!(matches!(verdict, Verdict::Flapping { .. }), "{verdict:?}");
            detector.cool_down(&one(), COOLDOWN);
            pass(COOLDOWN + Duration::from_secs(1)).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn corrections_that_lie_apart_are_no_flapping() {
        let detector = FlapDetector::default();
        for _ in 0..10 {
            correct(&detector, MAX_CORRECTIONS - 1);
            pass(WINDOW + Duration::from_secs(1)).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn another_requirement_undoes_nothing() {
        let detector = FlapDetector::default();
        for to in [Some("web"), Some("db"), Some("web"), None, Some("web"), None] {
            assert_eq!(detector.verdict(&one(), to), Verdict::Free);
            detector.record_change(&one(), to);
        }
        correct(&detector, MAX_CORRECTIONS);
        assert!(matches!(detector.verdict(&one(), Some("web")), Verdict::Flapping { .. }));
        assert_eq!(detector.verdict(&one(), Some("db")), Verdict::Free);
    }

    #[tokio::test(start_paused = true)]
    async fn a_message_tells_an_environment_that_knows_nothing() {
        let carried = (0..3).fold(History::default(), |history, _| {
            history.corrected(Some("web")).aged(Duration::from_mins(65))
        });
        let detector = FlapDetector::default();
        detector.learn(&one(), &carried);
        assert!(matches!(detector.verdict(&one(), Some("web")), Verdict::Flapping { .. }));
        // An hour later the first of them does not count any more.
        let later = FlapDetector::default();
        later.learn(&one(), &carried.aged(Duration::from_mins(65)));
        assert_eq!(later.verdict(&one(), Some("web")), Verdict::Free);
    }

    #[tokio::test(start_paused = true)]
    async fn what_no_longer_counts_is_forgotten() {
        let detector = FlapDetector::default();
        for number in 0..MAX_REMEMBERED {
            detector.record_change(&instance(&format!("i-{number:08x}")), Some("web"));
        }
        pass(WINDOW + Duration::from_secs(1)).await;
        detector.record_change(&one(), Some("web"));
        assert_eq!(detector.known().len(), 1);
    }
}
