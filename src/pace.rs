//! The pace of writes. EC2 gives an account a bucket of tokens for each API, shared with everything else that runs there
//! (100 tokens, then 5 a second, for Associate): this environment takes its share, in turn, and less when EC2 throttles.
//!
//! A bucket of our own stands for EC2's: it holds a burst and fills at a steady rate. A throttled write says which of the
//! two was wrong. While our bucket still held a burst, EC2's held none, so ours is emptied. With ours empty, the rate was
//! too high: it falls by half and comes back along a cubic curve, slowly around the rate that was too much, quickly
//! beyond it. (TCP's CUBIC does the same, for the same reason: to sit just below a limit that nobody announces.)

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until, timeout_at};

/// What is left of the rate after a throttled write.
const SLOWED_TO: f64 = 0.5;
/// The rate never falls below this share of itself: something must find out when EC2 takes writes again.
const SLOWEST: f64 = 0.02;
/// How long the rate takes from half back to the whole, in seconds. Shorter, and a bucket shared with another tenant
/// would be overrun more often; EC2 banks what we leave there meanwhile.
const RECOVERS_IN: f64 = 30.0;
/// Throttled writes within this time of each other say the same thing once.
const SAME_NEWS: Duration = Duration::from_secs(2);
/// Writes in flight at once. At EC2's 5 a second they cover answers that take 1.6 s; more would only be throttled
/// together.
const MOST_IN_FLIGHT: usize = 8;

/// How fast this environment may write.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Limits {
    /// Writes a second in the long run.
    pub per_second: f64,
    /// Writes that may go out at once, after a pause.
    pub burst: f64,
}

/// Hands out turns to write, first come, first served.
#[derive(Debug)]
pub struct Pace {
    limits: Limits,
    state: Mutex<State>,
    /// Held by whoever is next: tokio's lock is fair.
    next: tokio::sync::Mutex<()>,
    freed: Notify,
}

#[derive(Debug)]
struct State {
    tokens: f64,
    filled_at: Instant,
    in_flight: usize,
    /// Writes that may be in flight: grows with each that succeeds, so that a new environment finds an empty bucket of
    /// EC2's with one write and not with eight.
    window: usize,
    slowed: Option<Slowed>,
    last_news: Option<Instant>,
}

/// A rate that was too high.
#[derive(Debug, Clone, Copy)]
struct Slowed {
    at: Instant,
    /// As a share of the limit.
    from: f64,
}

impl Slowed {
    /// The rate now, as a share of the limit: a cubic curve that passes `from` where it is flat.
    fn share(self, now: Instant) -> f64 {
        // Half of the whole is back after `RECOVERS_IN` seconds.
        let steepness = (1.0 - SLOWED_TO) / RECOVERS_IN.powi(3);
        let flat_at = (self.from * (1.0 - SLOWED_TO) / steepness).cbrt();
        let since = now.saturating_duration_since(self.at).as_secs_f64();
        (self.from + steepness * (since - flat_at).powi(3)).clamp(SLOWEST, 1.0)
    }
}

impl State {
    fn share(&self, now: Instant) -> f64 {
        self.slowed.map_or(1.0, |slowed| slowed.share(now))
    }
}

/// A turn: the right to one write. While it lives, the write counts as in flight.
#[derive(Debug)]
#[must_use]
pub struct Turn<'a>(&'a Pace);

/// What EC2 said to a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It took the write, or refused it for a reason of the write's own.
    Taken,
    /// There were too many.
    Throttled,
}

impl Pace {
    /// A pace within these limits.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        let state = State {
            tokens: limits.burst,
            filled_at: Instant::now(),
            in_flight: 0,
            window: 1,
            slowed: None,
            last_news: None,
        };
        Self {
            limits,
            state: Mutex::new(state),
            next: tokio::sync::Mutex::default(),
            freed: Notify::new(),
        }
    }

    /// Waits for a turn; nothing, where it would come after `by`.
    pub async fn turn(&self, by: Instant) -> Option<Turn<'_>> {
        let _next = timeout_at(by, self.next.lock()).await.ok()?;
        loop {
            match self.take_or_wait() {
                Ok(()) => return Some(Turn(self)),
                Err(Wait::ForATurnToEnd) => timeout_at(by, self.freed.notified()).await.ok()?,
                Err(Wait::Until(at)) if at > by => return None,
                Err(Wait::Until(at)) => sleep_until(at).await,
            }
        }
    }

    /// A turn at once, for a write that must not wait: what it takes is missing afterwards.
    pub fn urgent_turn(&self) -> Turn<'_> {
        let mut state = self.state();
        state.fill(self.limits);
        state.tokens -= 1.0;
        state.in_flight += 1;
        Turn(self)
    }

    fn take_or_wait(&self) -> Result<(), Wait> {
        let mut state = self.state();
        let per_second = state.fill(self.limits);
        if state.in_flight >= state.window {
            return Err(Wait::ForATurnToEnd);
        }
        if state.tokens < 1.0 {
            // A nanosecond more, so that rounding cannot make the sleeper wake a hair too early for ever.
            let missing = Duration::from_secs_f64((1.0 - state.tokens) / per_second);
            return Err(Wait::Until(state.filled_at + missing + Duration::from_nanos(1)));
        }
        state.tokens -= 1.0;
        state.in_flight += 1;
        Ok(())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Numbers only: a panic elsewhere leaves nothing half-done.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Adds what time has brought, and answers with the rate of the moment.
    fn fill(&mut self, limits: Limits) -> f64 {
        let now = Instant::now();
        let per_second = limits.per_second * self.share(now);
        let since = now.saturating_duration_since(self.filled_at).as_secs_f64();
        self.tokens = (self.tokens + since * per_second).min(limits.burst.max(1.0));
        self.filled_at = now;
        per_second
    }

    fn learn(&mut self, limits: Limits, verdict: Verdict) {
        self.fill(limits);
        match verdict {
            Verdict::Taken => self.window = (self.window + 1).min(MOST_IN_FLIGHT),
            Verdict::Throttled => {
                let now = Instant::now();
                let is_old_news = self.last_news.is_some_and(|at| now - at < SAME_NEWS);
                self.last_news = Some(now);
                self.window = (self.window / 2).max(1);
                if !is_old_news && self.tokens < 1.0 {
                    self.slowed = Some(Slowed { at: now, from: self.share(now) });
                }
                self.tokens = self.tokens.min(0.0);
            }
        }
    }
}

/// Why there is no turn yet.
enum Wait {
    ForATurnToEnd,
    Until(Instant),
}

impl Turn<'_> {
    /// Ends the turn with what EC2 said.
    pub fn end(self, verdict: Verdict) {
        self.0.state().learn(self.0.limits, verdict);
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.state().in_flight -= 1;
        self.0.freed.notify_one();
    }
}
