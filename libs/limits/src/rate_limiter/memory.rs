//! Rate limits within one process.

use std::{
    collections::{HashMap, VecDeque},
    num::NonZeroUsize,
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use parking_lot::Mutex;

use super::{Decision, Lease, Limit, LimitsError, RateLimiter};

/// Time since a moment of the clock's own choice. A clock that goes back counts as one that stands still.
pub type Clock = Arc<dyn Fn() -> Duration + Send + Sync>;

/// The system's monotonic clock.
#[must_use]
pub fn system_clock() -> Clock {
    let begun = Instant::now();
    Arc::new(move || begun.elapsed())
}

/// Idle keys given up in one check: more than one check can add, so that they never pile up.
const SWEPT: usize = 2;
/// Of so many keys one is given up when no key is idle.
const CANDIDATES: usize = 8;

/// Rate limits within one process, for a bounded number of keys.
///
/// A key that is back at its full limit is forgotten some checks later; a check looks at two such keys at most. When
/// there is room for no more keys and none is idle, one that has spent little is forgotten before its time: a
/// flood of new keys pushes out its own before one that is at its limit.
pub struct MemoryLimiter {
    limit: Limit,
    max_keys: usize,
    clock: Clock,
    keys: Mutex<Keys>,
}

/// Time in nanoseconds × events: an event is worth `window` exactly, whatever the window divides by.
type Ticks = u128;

#[derive(Default)]
struct Keys {
    /// When a key will have its full limit back (the theoretical arrival time).
    full_at: HashMap<Arc<str>, Ticks>,
    /// Each key of `full_at` once, with the time from which on it may be idle; in order of that time.
    looks: VecDeque<(Ticks, Arc<str>)>,
    /// The latest time seen.
    now: Ticks,
}

impl MemoryLimiter {
    /// No key has spent anything. It never holds more than `max_keys`.
    #[must_use]
    pub fn new(limit: Limit, max_keys: NonZeroUsize, clock: Clock) -> Self {
        Self {
            limit,
            max_keys: max_keys.get(),
            clock,
            keys: Mutex::default(),
        }
    }

    /// How many keys are held.
    #[must_use]
    pub fn keys(&self) -> usize {
        self.keys.lock().full_at.len()
    }

    fn lease_now(&self, key: &str, cost: u32, spare: u32) -> Result<Lease, LimitsError> {
        let limit = self.limit.events;
        if cost > limit {
            return Err(LimitsError::TooCostly { cost, limit });
        }
        Ok(self.decide(key, cost, spare))
    }

    fn decide(&self, key: &str, cost: u32, spare: u32) -> Lease {
        let event = self.limit.window.as_nanos();
        let events = Ticks::from(self.limit.events);
        let whole = event * events;
        let time = (self.clock)().as_nanos() * events;

        let mut keys = self.keys.lock();
        let now = keys.now.max(time);
        keys.now = now;
        keys.sweep(now, whole);
        let known = keys.full_at.get_mut(key);
        let before = known.as_deref().map_or(now, |full_at| now.max(*full_at));
        let after = before + event * Ticks::from(cost);
        let allowed = after - now <= whole;
        let mut full_at = if allowed { after } else { before };
        let left =
            |full_at: Ticks| u32::try_from((whole - (full_at - now)) / event).unwrap_or(self.limit.events);
        let spare = if allowed { spare.min(left(full_at) / 4) } else { 0 };
        full_at += event * Ticks::from(spare);
        match known {
            Some(known) => *known = full_at,
            None if full_at > now => {
                if keys.full_at.len() >= self.max_keys {
                    keys.make_room(now, whole);
                }
                let key = Arc::<str>::from(key);
                keys.full_at.insert(Arc::clone(&key), full_at);
                keys.looks.push_back((now + whole, key));
            }
            // It has spent nothing: there is nothing to keep.
            None => {}
        }

        let nanos = |ticks: Ticks| duration(ticks.div_ceil(events));
        let decision = Decision {
            allowed,
            limit: self.limit.events,
            remaining: left(full_at),
            retry_after: if allowed {
                Duration::ZERO
            } else {
                nanos(after - now - whole)
            },
            reset_in: nanos(full_at - now),
        };
        Lease { decision, spare }
    }
}

#[async_trait]
impl RateLimiter for MemoryLimiter {
    async fn lease(&self, key: &str, cost: u32, spare: u32) -> Result<Lease, LimitsError> {
        self.lease_now(key, cost, spare)
    }

    async fn give_back(&self, key: &str, count: u32) -> Result<(), LimitsError> {
        if let Some(full_at) = self.keys.lock().full_at.get_mut(key) {
            let back = self.limit.window.as_nanos() * Ticks::from(count);
            *full_at = full_at.saturating_sub(back);
        }
        Ok(())
    }

    fn try_check(&self, key: &str, cost: u32) -> Option<Result<Decision, LimitsError>> {
        Some(self.lease_now(key, cost, 0).map(|lease| lease.decision))
    }
}

impl Keys {
    /// Looks at the few keys that may be idle by now, and forgets those that are.
    fn sweep(&mut self, now: Ticks, whole: Ticks) {
        for _ in 0..SWEPT {
            let Some((_, key)) = self.looks.pop_front_if(|(at, _)| *at <= now) else {
                return;
            };
            if self.full_at(&key) <= now {
                self.full_at.remove(&key);
            } else {
                self.looks.push_back((now + whole, key));
            }
        }
    }

    /// Forgets the key that loses least by it, of those that were looked at longest ago.
    fn make_room(&mut self, now: Ticks, whole: Ticks) {
        let count = CANDIDATES.min(self.looks.len());
        let least = (0..count).min_by_key(|index| self.full_at(&self.looks[*index].1));
        for index in 0..count {
            let Some((_, key)) = self.looks.pop_front() else {
                return;
            };
            if Some(index) == least {
                self.full_at.remove(&key);
            } else {
                // To the end of the queue, so that the next time others are looked at.
                self.looks.push_back((now + whole, key));
            }
        }
    }

    fn full_at(&self, key: &str) -> Ticks {
        self.full_at.get(key).copied().unwrap_or_default()
    }
}

fn duration(nanos: u128) -> Duration {
    u64::try_from(nanos).map_or(Duration::MAX, Duration::from_nanos)
}
