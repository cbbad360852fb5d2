//! How fast new sessions are let in, so that a storm of clients that come back does not stop the others.

use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rand::Rng;

/// A handshake is held back so long at most; beyond that the client is told when to return.
const HOLD: Duration = Duration::from_secs(2);
/// Who is sent away returns within this time after its turn would have been, not all at once.
const SPREAD: Duration = Duration::from_secs(5);

/// Lets so many in a second, evenly.
pub(super) struct Admission(Mutex<State>);

struct State {
    /// Between two handshakes; zero for no limit.
    interval: Duration,
    /// When the next one may pass.
    next: Instant,
}

/// What becomes of a handshake.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// It may pass after this time.
    After(Duration),
    /// It is to be tried again after this time.
    Return(Duration),
}

impl Admission {
    /// `rate` handshakes a second; 0 for no limit.
    pub(super) fn new(rate: u32) -> Self {
        Self(Mutex::new(State {
            interval: interval(rate),
            next: Instant::now(),
        }))
    }

    /// From now on it is this rate.
    pub(super) fn set(&self, rate: u32) {
        self.0.lock().interval = interval(rate);
    }

    /// The turn of one more handshake.
    pub(super) fn turn(&self, now: Instant) -> Turn {
        let mut state = self.0.lock();
        if state.interval.is_zero() {
            return Turn::After(Duration::ZERO);
        }
        let at = state.next.max(now);
        let wait = at - now;
        if wait > HOLD {
            return Turn::Return(wait + rand::rng().random_range(Duration::ZERO..SPREAD));
        }
        state.next = at + state.interval;
        Turn::After(wait)
    }
}

fn interval(rate: u32) -> Duration {
    Duration::from_secs(1).checked_div(rate).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_never_exceeded() {
        let admission = Admission::new(50);
        let begun = Instant::now() + Duration::from_secs(1);
        let mut passed = Vec::new();
        let mut sent_away = 0;
        for number in 0..1000_u32 {
            // A hundred at once, ten times a second.
            let now = begun + Duration::from_millis(100) * (number / 100);
            match admission.turn(now) {
                Turn::After(wait) => passed.push(now + wait),
                Turn::Return(after) => {
                    assert!(after > HOLD && after < HOLD + SPREAD + Duration::from_secs(1));
                    sent_away += 1;
                }
            }
        }
        assert!(sent_away > 800, "{sent_away}");
        for pair in passed.windows(2) {
            assert!(pair[1] - pair[0] >= Duration::from_millis(20));
        }
        assert_eq!(Admission::new(0).turn(begun), Turn::After(Duration::ZERO));
    }
}
