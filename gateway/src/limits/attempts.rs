//! Authentications of an address: those that fail are limited, and each counts as failed until it is known to be good.
//! So however many come at once, no more are judged than may fail.

use std::{collections::HashMap, net::IpAddr, sync::Arc, time::Duration};

use ::limits::{
    Limit, RateLimiter,
    rate_limiter::memory::{MemoryLimiter, system_clock},
};
use parking_lot::Mutex;
use tokio::sync::Semaphore;

use super::addresses::{ADDRESSES, MINUTE, check, key};

/// How many authentications of an address may fail.
pub(super) struct Failures {
    limiter: MemoryLimiter,
    /// So many of an address are judged at a time, half of those that may fail; more wait. So many users at one address
    /// who come back together are not taken for one who guesses.
    at_a_time: usize,
    judging: Mutex<HashMap<IpAddr, Arc<Semaphore>>>,
}

/// An authentication that is being judged. Counts as failed unless it is [forgiven](Attempt::forgive): also when who
/// has asked does not wait for the answer.
pub(crate) struct Attempt(Option<Turn>);

/// A place among those at an address that are judged, or wait for that.
struct Turn {
    failures: Arc<Failures>,
    address: IpAddr,
    judging: Arc<Semaphore>,
    has_come: bool,
}

impl Failures {
    /// So many a minute; `None` for no limit.
    pub(super) fn new(count: u32) -> Option<Arc<Self>> {
        let limit = Limit::new(count, MINUTE)?;
        Some(Arc::new(Self {
            limiter: MemoryLimiter::new(limit, ADDRESSES, system_clock()),
            at_a_time: (count as usize / 2).max(1),
            judging: Mutex::default(),
        }))
    }

    /// Whether one more may fail, with nothing counted.
    ///
    /// # Errors
    /// When to come back.
    pub(super) fn are_few(&self, address: IpAddr) -> Result<(), Duration> {
        let Some(Ok(decision)) = self.limiter.try_check(&key(address), 0) else {
            return Ok(());
        };
        if decision.remaining > 0 {
            return Ok(());
        }
        // When all have come back after so long, one has after this.
        let one = MINUTE / decision.limit;
        let whole = one * (decision.limit - 1);
        Err(decision.reset_in.saturating_sub(whole))
    }

    fn turn(self: &Arc<Self>, address: IpAddr) -> Turn {
        let mut judging = self.judging.lock();
        let judging = judging
            .entry(address)
            .or_insert_with(|| Arc::new(Semaphore::new(self.at_a_time)));
        Turn {
            failures: Arc::clone(self),
            address,
            judging: Arc::clone(judging),
            has_come: false,
        }
    }
}

impl Attempt {
    /// Waits for its turn among those at the address.
    pub(super) async fn begin(failures: Option<&Arc<Failures>>, address: IpAddr) -> Result<Self, Duration> {
        let Some(failures) = failures else {
            return Ok(Self(None));
        };
        let mut turn = failures.turn(address);
        if let Ok(permit) = turn.judging.acquire().await {
            permit.forget();
            turn.has_come = true;
        }
        check(Some(&failures.limiter), address, 1)?;
        Ok(Self(Some(turn)))
    }

    /// It has not failed.
    pub(crate) async fn forgive(self) {
        if let Self(Some(turn)) = self {
            // In memory nothing is ever away.
            let _ = turn.failures.limiter.give_back(&key(turn.address), 1).await;
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut judging = self.failures.judging.lock();
        if self.has_come {
            self.judging.add_permits(1);
        }
        // Clones are made under this lock alone: the map's and this one are the last.
        if Arc::strong_count(&self.judging) == 2 {
            judging.remove(&self.address);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{net::Ipv4Addr, pin::pin};

    use futures_util::poll;

    use super::*;

    const IP: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    #[tokio::test]
    async fn what_is_being_judged_counts() {
        let failures = Failures::new(4).unwrap();
        let begin = || Attempt::begin(Some(&failures), IP);
        let (one, _two) = (begin().await.unwrap(), begin().await.unwrap());
        let mut three = pin!(begin());
        assert!(poll!(three.as_mut()).is_pending(), "half of them at a time");
        one.forgive().await;
        let three = three.await.unwrap();
        // Who does not wait for the answer has failed.
        drop(three);
        drop(begin().await.unwrap());
        assert_eq!(failures.are_few(IP), Ok(()));
        drop(begin().await.unwrap());
        assert!(begin().await.is_err() && failures.are_few(IP).is_err());
        assert_eq!(failures.judging.lock().len(), 1);
    }

    #[tokio::test]
    async fn nothing_is_left_of_those_who_have_gone() {
        let failures = Failures::new(1).unwrap();
        let attempt = Attempt::begin(Some(&failures), IP).await.unwrap();
        {
            let mut waiting = pin!(Attempt::begin(Some(&failures), IP));
            assert!(poll!(waiting.as_mut()).is_pending());
        }
        attempt.forgive().await;
        assert!(failures.judging.lock().is_empty());
        assert_eq!(failures.are_few(IP), Ok(()));
    }
}
