//! A position a partition that only rises.

use std::sync::atomic::{AtomicU64, Ordering};

pub(crate) struct Positions(Vec<AtomicU64>);

impl Positions {
    /// All 0.
    pub(crate) fn new(partitions: u16) -> Self {
        Self((0..partitions).map(|_| AtomicU64::new(0)).collect())
    }

    /// 0 for a partition that does not exist.
    pub(crate) fn get(&self, partition: u16) -> u64 {
        let position = self.0.get(usize::from(partition));
        position.map_or(0, |position| position.load(Ordering::Acquire))
    }

    /// Whether it rose.
    pub(crate) fn raise(&self, partition: u16, seq: u64) -> bool {
        let position = self.0.get(usize::from(partition));
        position.is_some_and(|position| position.fetch_max(seq, Ordering::AcqRel) < seq)
    }

    /// All, by partition.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u16, u64)> + '_ {
        (0..).zip(self.0.iter().map(|position| position.load(Ordering::Acquire)))
    }
}
