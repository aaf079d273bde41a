//! The pace of writes. EC2 gives an account a bucket of tokens for each API, shared with everything else that runs there
//! (100 tokens, then 5 a second, for Associate): this environment takes its share, in turn, and less when EC2 throttles.
//!
//! A bucket of our own stands for our share of EC2's: it holds a burst and fills at a steady rate. The first throttled write
//! says that EC2's held less than ours, so the burst is given up and the rate stays. Two throttled writes some time
//! apart measure what EC2's bucket takes in: it was empty both times, so it took in what we wrote between them. From
//! then on the rate begins a little below that, which leaves EC2 something to bank, and grows slowly at first and then
//! quickly: a limit that nobody announces is touched seldom, and one that is gone is soon forgotten.
//!
//! The constants were chosen by simulation: `make bench-storm`.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until, timeout_at};

/// The rate never falls below this share of the limit: something must find out when EC2 takes writes again.
const SLOWEST: f64 = 0.04;
/// Where the rate begins, below what was measured.
const BELOW_THE_MEASURED: f64 = 0.88;
/// The least that one throttled write leaves of the rate.
const LEAST_LEFT: f64 = 0.5;
/// What repeated early throttling leaves each time.
const LEFT_IF_EARLY: f64 = 0.9;
/// Early throttled writes before the rate gives way to them.
const EARLY_ONES_BORNE: i32 = 2;
/// Growth of the rate, in shares of the limit a second, for a whole share.
const GROWTH: f64 = 0.0014;
/// After so many seconds the rate grows four times as fast, and faster from then on.
const GROWS_FASTER_AFTER: f64 = 100.0;
/// A share that is out of reach: by then nothing was throttled for long, and the limit alone counts.
const FORGOTTEN_AT: f64 = 2.0;
/// The pause of all writes after a throttled one, in seconds: EC2's bucket holds some then.
const PAUSE: f64 = 1.5;
/// How much longer each further pause is, where throttled writes come soon after each other, up to five times over.
const PAUSE_GROWS: f64 = 1.5;
/// What may go out at once while slowed.
const BURST_WHILE_SLOWED: f64 = 4.0;
/// Throttled writes within this time of each other say the same thing once.
const SAME_NEWS: Duration = Duration::from_secs(2);
/// Less time than this between two throttled writes measures nothing.
const MEASURES_AFTER: Duration = Duration::from_secs(5);
/// Throttled again within this time, the rate was hardly to blame.
const EARLY: Duration = Duration::from_secs(20);
/// Writes in flight at once: at least, at most, and more than just cover the time that EC2 takes to answer.
const FEWEST_IN_FLIGHT: f64 = 2.0;
const MOST_IN_FLIGHT: f64 = 8.0;
const MORE_IN_FLIGHT: f64 = 1.5;
/// How long EC2 takes to answer a write, before we know.
const EXPECTED_LATENCY: f64 = 0.3;

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
    /// Writes that may be in flight: grows with each that is taken, so that a new environment finds an empty bucket of
    /// EC2's with one write and not with eight.
    window: f64,
    /// How long EC2 takes to answer, in seconds, on average.
    latency: f64,
    slowed: Option<Slowed>,
    last_news: Option<Instant>,
    /// How many throttled writes in a row came early.
    early_ones: i32,
}

/// A rate below the limit, and the measurement under way.
#[derive(Debug, Clone, Copy)]
struct Slowed {
    tokens: f64,
    /// The share of the limit that the rate began with.
    from: f64,
    /// When EC2's bucket was empty.
    empty_at: Instant,
    /// What it took since.
    taken: f64,
    is_measured: bool,
}

impl Slowed {
    /// The rate now, as a share of the limit.
    fn share(&self, now: Instant) -> f64 {
        let since = now.saturating_duration_since(self.empty_at).as_secs_f64();
        let faster = 1.0 + (since / GROWS_FASTER_AFTER).powi(2);
        self.from + GROWTH * self.from.sqrt() * since * faster
    }
}

/// A turn: the right to one write. While it lives, the write counts as in flight.
#[derive(Debug)]
#[must_use]
pub struct Turn<'a> {
    pace: &'a Pace,
    began: Instant,
}

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
            window: 1.0,
            latency: EXPECTED_LATENCY,
            slowed: None,
            last_news: None,
            early_ones: 0,
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
                Ok(turn) => return Some(turn),
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
        state.spend();
        Turn { pace: self, began: Instant::now() }
    }

    fn take_or_wait(&self) -> Result<Turn<'_>, Wait> {
        let mut state = self.state();
        let rate = state.fill(self.limits);
        #[expect(clippy::cast_precision_loss, reason = "a handful")]
        if state.in_flight as f64 >= state.window.floor() {
            return Err(Wait::ForATurnToEnd);
        }
        let slowed = state.slowed.map_or(0.0, |slowed| (1.0 - slowed.tokens) / rate);
        let missing = ((1.0 - state.tokens) / self.limits.per_second).max(slowed);
        if missing > 0.0 {
            // A nanosecond more, so that rounding cannot make the sleeper wake a hair too early for ever.
            let missing = Duration::from_secs_f64(missing) + Duration::from_nanos(1);
            return Err(Wait::Until(state.filled_at + missing));
        }
        state.spend();
        Ok(Turn { pace: self, began: Instant::now() })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Numbers only: a panic elsewhere leaves nothing half-done.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn spend(&mut self) {
        self.tokens -= 1.0;
        if let Some(slowed) = &mut self.slowed {
            slowed.tokens -= 1.0;
        }
        self.in_flight += 1;
    }

    /// Adds what time has brought, and answers with the rate of the moment.
    fn fill(&mut self, limits: Limits) -> f64 {
        let now = Instant::now();
        let since = now.saturating_duration_since(self.filled_at).as_secs_f64();
        self.filled_at = now;
        self.tokens = (self.tokens + since * limits.per_second).min(limits.burst.max(1.0));
        let Some(slowed) = &mut self.slowed else { return limits.per_second };
        let share = slowed.share(now);
        let rate = limits.per_second * share;
        slowed.tokens = (slowed.tokens + since * rate).min(BURST_WHILE_SLOWED);
        if share >= FORGOTTEN_AT {
            self.slowed = None;
        }
        rate
    }

    fn learn(&mut self, limits: Limits, verdict: Verdict, latency: Duration) {
        self.fill(limits);
        match verdict {
            Verdict::Taken => {
                if let Some(slowed) = &mut self.slowed {
                    slowed.taken += 1.0;
                }
                self.latency += (latency.as_secs_f64() - self.latency) / 8.0;
                let needed = limits.per_second * self.latency * MORE_IN_FLIGHT;
                let most = needed.clamp(FEWEST_IN_FLIGHT, MOST_IN_FLIGHT);
                self.window = (self.window + 1.0 / self.window).min(most);
            }
            Verdict::Throttled => {
                let now = Instant::now();
                self.window = (self.window / 2.0).max(1.0);
                let since = |at: Instant| now.saturating_duration_since(at);
                if self.last_news.is_none_or(|at| since(at) >= SAME_NEWS) {
                    let is_early = self.last_news.is_some_and(|at| since(at) < EARLY);
                    self.early_ones = if is_early { self.early_ones + 1 } else { 0 };
                    self.last_news = Some(now);
                    self.slow_down(limits, now);
                }
            }
        }
    }

    fn slow_down(&mut self, limits: Limits, now: Instant) {
        let pause = PAUSE * PAUSE_GROWS.powi(self.early_ones.min(5));
        let begin = |from: f64, is_measured: bool, pause: f64| {
            let from = from.clamp(SLOWEST, 1.0);
            let tokens = -pause * from * limits.per_second;
            Slowed { tokens, from, empty_at: now, taken: 0.0, is_measured }
        };
        let Some(slowed) = self.slowed else {
            self.slowed = Some(begin(1.0, false, pause));
            return;
        };
        let apart = now.saturating_duration_since(slowed.empty_at);
        let share = slowed.share(now);
        if apart < MEASURES_AFTER || (slowed.is_measured && apart < EARLY) {
            let gives_way = slowed.is_measured && self.early_ones > EARLY_ONES_BORNE;
            let from = if gives_way { slowed.from * LEFT_IF_EARLY } else { slowed.from };
            let tokens = -pause * share * limits.per_second;
            self.slowed = Some(Slowed { tokens, from: from.max(SLOWEST), ..slowed });
            return;
        }
        self.early_ones = 0;
        let measured = slowed.taken / apart.as_secs_f64() / limits.per_second;
        let from = share.min(measured * BELOW_THE_MEASURED).max(share * LEAST_LEFT);
        self.slowed = Some(begin(from, true, PAUSE));
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
        self.pace.state().learn(self.pace.limits, verdict, self.began.elapsed());
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.pace.state().in_flight -= 1;
        self.pace.freed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn pace(per_second: f64, burst: f64) -> Pace {
        Pace::new(Limits { per_second, burst })
    }

    fn later() -> Instant {
        Instant::now() + Duration::from_hours(1)
    }

    /// Writes for so long, each taken at once; answers how many.
    async fn write_for(pace: &Pace, time: Duration) -> usize {
        let end = Instant::now() + time;
        let mut writes = 0;
        while let Some(turn) = pace.turn(end).await {
            turn.end(Verdict::Taken);
            writes += 1;
        }
        sleep_until(end).await;
        writes
    }

    async fn be_throttled(pace: &Pace) {
        if let Some(turn) = pace.turn(later()).await {
            turn.end(Verdict::Throttled);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_burst_goes_out_at_once_and_the_rest_at_the_rate() {
        let pace = pace(5.0, 10.0);
        assert_eq!(write_for(&pace, Duration::ZERO).await, 10);
        let writes = write_for(&pace, 20 * SECOND).await;
        assert!((99..=100).contains(&writes), "{writes}");
        tokio::time::sleep(60 * SECOND).await;
        assert_eq!(write_for(&pace, Duration::ZERO).await, 10, "no more than the burst is saved");
    }

    #[tokio::test(start_paused = true)]
    async fn turns_are_given_in_the_order_they_were_asked_for() {
        let pace = pace(1.0, 1.0);
        let order = Mutex::new(Vec::new());
        let ask = async |number: usize| {
            if let Some(turn) = pace.turn(later()).await {
                order.lock().unwrap().push(number);
                turn.end(Verdict::Taken);
            }
        };
        tokio::join!(ask(0), ask(1), ask(2), ask(3));
        assert_eq!(*order.lock().unwrap(), [0, 1, 2, 3]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_turn_that_would_come_too_late_is_refused_at_once() {
        let pace = pace(0.1, 1.0);
        pace.turn(later()).await.unwrap().end(Verdict::Taken);
        let asked = Instant::now();
        assert!(pace.turn(asked + 5 * SECOND).await.is_none());
        assert_eq!(asked.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn one_write_is_in_flight_at_first_and_then_more() {
        let pace = pace(100.0, 100.0);
        let first = pace.turn(later()).await.unwrap();
        assert!(pace.turn(Instant::now() + SECOND).await.is_none(), "until the first is answered");
        first.end(Verdict::Taken);
        let (one, two) = (pace.turn(later()).await, pace.turn(Instant::now() + SECOND).await);
        assert!(one.is_some() && two.is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_throttled_write_ends_the_burst_and_leaves_the_rate() {
        let pace = pace(5.0, 90.0);
        be_throttled(&pace).await;
        let writes = write_for(&pace, 21 * SECOND).await;
        // 1.5 s of pause.
        assert!((93..=103).contains(&writes), "{writes}");
    }

    #[tokio::test(start_paused = true)]
    async fn throttled_writes_apart_measure_what_ec2_takes() {
        let pace = pace(5.0, 90.0);
        be_throttled(&pace).await;
        // Of five a second EC2 takes two, and throttles in the end.
        for _ in 0..30 {
            pace.turn(later()).await.unwrap().end(Verdict::Taken);
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        be_throttled(&pace).await;
        let writes = write_for(&pace, 20 * SECOND).await;
        assert!((34..=60).contains(&writes), "about half the limit: {writes}");
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_slowed_recovers() {
        let pace = pace(5.0, 1.0);
        for _ in 0..8 {
            be_throttled(&pace).await;
            tokio::time::sleep(30 * SECOND).await;
        }
        let slow = write_for(&pace, 20 * SECOND).await;
        write_for(&pace, 400 * SECOND).await;
        let recovered = write_for(&pace, 20 * SECOND).await;
        assert!(slow < 40 && recovered >= 99, "{slow}, then {recovered}");
    }

    #[tokio::test(start_paused = true)]
    async fn an_urgent_turn_waits_for_nobody_and_is_missing_afterwards() {
        let pace = pace(1.0, 1.0);
        pace.urgent_turn().end(Verdict::Taken);
        pace.urgent_turn().end(Verdict::Taken);
        let asked = Instant::now();
        let _turn = pace.turn(later()).await;
        assert!(asked.elapsed() >= 2 * SECOND);
    }
}
