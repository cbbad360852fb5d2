//! A circuit breaker: an endpoint that fails is left alone for a while, then one call looks whether it is back.

use std::time::{Duration, Instant};

/// So many failures in a row open it.
const FAILURES: u32 = 5;
/// How long it stays open at first; twice as long each time that it fails again.
const PAUSE: Duration = Duration::from_secs(1);
const MAX_PAUSE: Duration = Duration::from_secs(30);

/// A circuit breaker, closed at first.
pub struct Breaker {
    /// What it protects, for the log.
    name: &'static str,
    failures: u32,
    open: Option<Open>,
}

struct Open {
    until: Instant,
    /// For how long it was opened.
    pause: Duration,
    /// A call is looking.
    looks: bool,
}

impl Breaker {
    /// For the service of this name.
    #[must_use]
    pub fn new(name: &'static str) -> Self {
        Self {
            name,
            failures: 0,
            open: None,
        }
    }

    /// Whether a call may be made. Of an open one whose time is up one call is the look.
    pub fn lets_through(&mut self, now: Instant) -> bool {
        let Some(open) = &mut self.open else {
            return true;
        };
        if now < open.until {
            return false;
        }
        open.until = now + open.pause;
        open.looks = true;
        true
    }

    /// A call was answered.
    pub fn succeeded(&mut self) {
        if self.open.is_some() {
            tracing::info!("the {} answers again", self.name);
        }
        *self = Self::new(self.name);
    }

    /// A call was not answered; `why` goes to the log. Of an open one only the look counts: what was under way when it
    /// opened says nothing new.
    pub fn failed(&mut self, why: &str, now: Instant) {
        self.failures = self.failures.saturating_add(1);
        let pause = match &self.open {
            Some(Open { looks: false, .. }) => return,
            Some(Open { pause, .. }) => (*pause * 2).min(MAX_PAUSE),
            None if self.failures >= FAILURES => {
                tracing::warn!(why, "the {} fails: it is left alone for a while", self.name);
                PAUSE
            }
            None => return,
        };
        self.open = Some(Open {
            until: now + pause,
            pause,
            looks: false,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn opens_looks_once_and_closes() {
        let mut breaker = Breaker::new("test");
        let mut now = Instant::now();
        for _ in 0..FAILURES {
            assert!(breaker.lets_through(now));
            breaker.failed("test", now);
        }
        assert!(!breaker.lets_through(now));
        for _ in 0..100 {
            breaker.failed("a call of before", now);
        }
        now += PAUSE;
        assert!(breaker.lets_through(now), "one looks");
        assert!(!breaker.lets_through(now), "only one");
        breaker.failed("test", now);
        now += PAUSE;
        assert!(!breaker.lets_through(now), "twice as long");
        now += PAUSE;
        assert!(breaker.lets_through(now));
        breaker.succeeded();
        for _ in 0..FAILURES {
            assert!(breaker.lets_through(now));
            breaker.failed("test", now);
            breaker.succeeded();
        }
        assert!(breaker.lets_through(now), "failures in a row alone count");
    }
}
