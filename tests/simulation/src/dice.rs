//! What a simulation draws for itself, apart from what the code under test draws: a change there does not change
//! what goes wrong when.

use std::{
    ops::Range,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

const GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;

/// The state behind `state` of SplitMix64 (Steele, Lea and Flood 2014): any seed will do.
pub(crate) const fn advance(state: u64) -> u64 {
    state.wrapping_add(GAMMA)
}

/// What a state of SplitMix64 stands for.
pub(crate) const fn mix(state: u64) -> u64 {
    let state = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let state = (state ^ (state >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    state ^ (state >> 31)
}

/// Random numbers of a seed. One who draws has dice of its own, so that it draws the same whatever others do.
#[derive(Debug)]
pub(crate) struct Dice(AtomicU64);

impl Dice {
    /// Different names have different dice.
    pub(crate) fn new(seed: u64, name: &str) -> Self {
        let named = name
            .bytes()
            .fold(seed, |state, byte| mix(advance(state) ^ u64::from(byte)));
        Self(AtomicU64::new(named))
    }

    fn roll(&self) -> u64 {
        let before = self.0.fetch_add(GAMMA, Ordering::Relaxed);
        mix(advance(before))
    }

    /// One of the range, which is not empty.
    pub(crate) fn number(&self, range: Range<u64>) -> u64 {
        range.start + self.roll() % (range.end - range.start).max(1)
    }

    /// One below `count`, or 0.
    pub(crate) fn index(&self, count: usize) -> usize {
        let count = u64::try_from(count).unwrap_or(u64::MAX);
        usize::try_from(self.number(0..count)).unwrap_or_default()
    }

    pub(crate) fn one_of<'a, T>(&self, all: &'a [T]) -> Option<&'a T> {
        all.get(self.index(all.len()))
    }

    /// Whether something of this many percent happens.
    pub(crate) fn percent(&self, chance: u64) -> bool {
        self.number(0..100) < chance
    }

    /// In whole milliseconds, as timers are.
    pub(crate) fn time(&self, range: Range<u64>) -> Duration {
        Duration::from_millis(self.number(range))
    }

    /// Mostly short, at most `most`.
    pub(crate) fn delay(&self, most: Duration) -> Duration {
        let most = u64::try_from(most.as_millis()).unwrap_or(u64::MAX);
        let some = self.number(0..most + 1);
        Duration::from_millis(if self.percent(80) { some / 8 } else { some })
    }
}
