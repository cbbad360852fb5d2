use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicU64, Ordering},
};

use parking_lot::RwLock;

/// What was asked under one name since the start. Counts only grow.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct CallCounts {
    /// Of the script or command.
    pub name: &'static str,
    /// How often it was asked, failures included; calls given up by their caller are not counted.
    pub calls: u64,
    /// How often that failed.
    pub errors: u64,
}

/// Names are few and known when the program is written.
#[derive(Debug, Default)]
pub(super) struct Counts {
    by_name: RwLock<BTreeMap<&'static str, Count>>,
}

#[derive(Debug, Default)]
struct Count {
    calls: AtomicU64,
    errors: AtomicU64,
}

impl Counts {
    pub(super) fn add(&self, name: &'static str, failed: bool) {
        if let Some(count) = self.by_name.read().get(name) {
            count.add(failed);
            return;
        }
        self.by_name.write().entry(name).or_default().add(failed);
    }

    pub(super) fn all(&self) -> Vec<CallCounts> {
        let by_name = self.by_name.read();
        by_name
            .iter()
            .map(|(&name, count)| CallCounts {
                name,
                calls: count.calls.load(Ordering::Relaxed),
                errors: count.errors.load(Ordering::Relaxed),
            })
            .collect()
    }
}

impl Count {
    fn add(&self, failed: bool) {
        self.calls.fetch_add(1, Ordering::Relaxed);
        if failed {
            self.errors.fetch_add(1, Ordering::Relaxed);
        }
    }
}
