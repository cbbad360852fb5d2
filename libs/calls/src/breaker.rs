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
    /// Open: until when, and for how long it was opened.
    open: Option<(Instant, Duration)>,
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
        match &mut self.open {
            None => true,
            Some((until, _)) if now < *until => false,
            Some((until, pause)) => {
                *until = now + *pause;
                true
            }
        }
    }

    /// A call was answered.
    pub fn succeeded(&mut self) {
        if self.open.is_some() {
            tracing::info!("the {} answers again", self.name);
        }
        *self = Self::new(self.name);
    }

    /// A call was not answered; `why` goes to the log.
    pub fn failed(&mut self, why: &str, now: Instant) {
        self.failures = self.failures.saturating_add(1);
        match self.open {
            Some((_, pause)) => {
                let pause = (pause * 2).min(MAX_PAUSE);
                self.open = Some((now + pause, pause));
            }
            None if self.failures >= FAILURES => {
                tracing::warn!(why, "the {} fails: it is left alone for a while", self.name);
                self.open = Some((now + PAUSE, PAUSE));
            }
            None => {}
        }
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
