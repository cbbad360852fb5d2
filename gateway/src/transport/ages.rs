//! Connections by the time at which they are old enough to go, for gateways that rotate them.

use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use rand::Rng;

use super::Conn;

/// Which connection is to go when; empty where they may grow as old as they like.
pub(super) struct Ages {
    max: Duration,
    due: Mutex<BinaryHeap<Reverse<Due>>>,
}

struct Due {
    at: Instant,
    conn: Weak<Conn>,
}

impl Ages {
    /// Connections go at about the age `max`; zero for never.
    pub(super) fn new(max: Duration) -> Self {
        Self {
            max,
            due: Mutex::default(),
        }
    }

    /// A connection begins. Those that came together do not go together.
    pub(super) fn add(&self, conn: &Arc<Conn>, now: Instant) {
        if !self.max.is_zero() {
            let due = Due {
                at: now + self.max.mul_f64(rand::rng().random_range(0.9..1.1)),
                conn: Arc::downgrade(conn),
            };
            self.due.lock().push(Reverse(due));
        }
    }

    /// Those whose time has come.
    pub(super) fn old(&self, now: Instant) -> Vec<Arc<Conn>> {
        let mut due = self.due.lock();
        let mut old = Vec::new();
        while due.peek().is_some_and(|Reverse(first)| first.at <= now) {
            old.extend(due.pop().and_then(|Reverse(first)| first.conn.upgrade()));
        }
        old
    }
}

impl PartialEq for Due {
    fn eq(&self, other: &Self) -> bool {
        self.at == other.at
    }
}

impl Eq for Due {}

impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Due {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.at.cmp(&other.at)
    }
}
