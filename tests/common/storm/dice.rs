//! Chance, by seed.

use std::ops::Range;
use std::time::Duration;

/// `SplitMix64`: small, and good enough for latencies and bad luck. What it rolls must never change, or the seeds in
/// `tests/worlds/regressions.txt` mean other worlds.
#[derive(Debug, Clone)]
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// From 0 up to 1.
    pub fn share(&mut self) -> f64 {
        let roll = (self.roll() >> 32) as u32;
        f64::from(roll) / (f64::from(u32::MAX) + 1.0)
    }

    pub fn happens(&mut self, share: f64) -> bool {
        self.share() < share
    }

    /// A time within a range of milliseconds.
    pub fn time(&mut self, milliseconds: Range<u32>) -> Duration {
        let (from, width) = (milliseconds.start, milliseconds.end - milliseconds.start);
        Duration::from_secs_f64((f64::from(from) + self.share() * f64::from(width)) / 1000.0)
    }

    /// One of the first so many numbers.
    pub fn index(&mut self, of: usize) -> usize {
        #[expect(clippy::cast_possible_truncation, reason = "the remainder is below a usize")]
        let index = (self.roll() % of as u64) as usize;
        index
    }
}
