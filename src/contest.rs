//! Who keeps undoing what we do. Where another hand changes an instance back again and again, two tools fight, and neither
//! ever wins: we stop after a few times, say so, and begin again later.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::model::InstanceRef;

/// Times that an instance is brought to the same state, within [`WINDOW`], before it is called contested. A person who undoes
/// something tries it twice.
pub const CORRECTIONS: usize = 3;
/// What lies longer back than this is another story.
pub const WINDOW: Duration = Duration::from_hours(1);
/// How long a contested instance is left as it is. Its message comes again when the truce is over.
pub const TRUCE: Duration = Duration::from_hours(1);
/// Instances remembered before what is over is looked for and forgotten.
const MANY: usize = 4096;

/// What one execution environment did lately. Another has a memory of its own: two of them correct up to twice as often,
/// and one that Lambda replaced begins anew.
#[derive(Debug, Default)]
pub struct Contests(Mutex<HashMap<InstanceRef, History>>);

#[derive(Debug, Default)]
struct History {
    /// The profile that we brought about; none, where we took one away.
    to: Option<String>,
    corrections: VecDeque<Instant>,
    /// Who changed it last, apart from us.
    by: Option<String>,
    truce_until: Option<Instant>,
}

impl History {
    fn is_over(&self, now: Instant) -> bool {
        let is_old = self.corrections.back().is_none_or(|at| now.duration_since(*at) > WINDOW);
        is_old && self.truce_until.is_none_or(|until| until <= now)
    }
}

/// Whether an instance may be changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It may.
    Free,
    /// It was changed back once too often: from now on there is a truce.
    TruceBegins {
        /// Who changed it, where an event said so.
        by: Option<String>,
    },
    /// There is a truce.
    Truce,
}

impl Contests {
    /// Whether to bring an instance to this profile, or to none. Where it is contested and `begins` is false, the truce
    /// begins with whoever asks next.
    pub fn ask(&self, instance: &InstanceRef, to: Option<&str>, begins: bool) -> Verdict {
        let now = Instant::now();
        let mut histories = self.histories();
        let Some(history) = histories.get_mut(instance) else { return Verdict::Free };
        // Something else is required than before: nobody undid that.
        if history.to.as_deref() != to {
            return Verdict::Free;
        }
        match history.truce_until {
            Some(until) if until > now => return Verdict::Truce,
            Some(_) => {
                history.truce_until = None;
                history.corrections.clear();
                return Verdict::Free;
            }
            None => {}
        }
        history.corrections.retain(|at| now.duration_since(*at) <= WINDOW);
        if history.corrections.len() < CORRECTIONS {
            return Verdict::Free;
        }
        history.truce_until = begins.then(|| now + TRUCE);
        Verdict::TruceBegins { by: history.by.clone() }
    }

    /// Notes that an instance was brought to this profile, or to none.
    pub fn brought(&self, instance: &InstanceRef, to: Option<&str>) {
        let now = Instant::now();
        let mut histories = self.histories();
        if histories.len() >= MANY {
            histories.retain(|_, history| !history.is_over(now));
        }
        let history = histories.entry(instance.clone()).or_default();
        if history.to.as_deref() != to {
            *history = History { to: to.map(str::to_owned), ..History::default() };
        }
        history.corrections.push_back(now);
    }

    /// Notes who else changed an instance.
    pub fn heard(&self, instance: &InstanceRef, by: &str) {
        // Who changes what we never touched is nobody's opponent.
        if let Some(history) = self.histories().get_mut(instance) {
            history.by = Some(by.to_owned());
        }
    }

    fn histories(&self) -> std::sync::MutexGuard<'_, HashMap<InstanceRef, History>> {
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

    fn brought_times(contests: &Contests, times: usize) {
        for _ in 0..times {
            assert_eq!(contests.ask(&one(), Some("web"), true), Verdict::Free);
            contests.brought(&one(), Some("web"));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_fourth_correction_within_an_hour_is_not_made() {
        let contests = Contests::default();
        brought_times(&contests, CORRECTIONS);
        contests.heard(&one(), "arn:aws:iam::123456789012:user/other");
        let by = Some("arn:aws:iam::123456789012:user/other".to_owned());
        assert_eq!(contests.ask(&one(), Some("web"), true), Verdict::TruceBegins { by });
        assert_eq!(contests.ask(&one(), Some("web"), true), Verdict::Truce);
        assert_eq!(contests.ask(&instance("i-00000002"), Some("web"), true), Verdict::Free);
    }

    #[tokio::test(start_paused = true)]
    async fn a_truce_ends_and_all_begins_again() {
        let contests = Contests::default();
        brought_times(&contests, CORRECTIONS);
        assert!(matches!(contests.ask(&one(), Some("web"), true), Verdict::TruceBegins { .. }));
        pass(TRUCE).await;
        brought_times(&contests, CORRECTIONS);
        assert!(matches!(contests.ask(&one(), Some("web"), true), Verdict::TruceBegins { .. }));
    }

    #[tokio::test(start_paused = true)]
    async fn corrections_that_lie_apart_are_no_contest() {
        let contests = Contests::default();
        for _ in 0..10 {
            brought_times(&contests, CORRECTIONS - 1);
            pass(WINDOW + Duration::from_secs(1)).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn another_requirement_is_nobodys_undoing() {
        let contests = Contests::default();
        for to in [Some("web"), Some("db"), Some("web"), None, Some("web"), None] {
            assert_eq!(contests.ask(&one(), to, true), Verdict::Free);
            contests.brought(&one(), to);
        }
        brought_times(&contests, CORRECTIONS);
        assert!(matches!(contests.ask(&one(), Some("web"), true), Verdict::TruceBegins { .. }));
        assert_eq!(contests.ask(&one(), Some("db"), true), Verdict::Free);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_over_is_forgotten() {
        let contests = Contests::default();
        for number in 0..MANY {
            contests.brought(&instance(&format!("i-{number:08x}")), Some("web"));
        }
        pass(WINDOW + Duration::from_secs(1)).await;
        contests.brought(&one(), Some("web"));
        assert_eq!(contests.histories().len(), 1);
    }
}
