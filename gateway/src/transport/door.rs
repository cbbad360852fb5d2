//! Which handshakes become sessions: those that a gateway has room for, each in its turn.

use std::{
    net::IpAddr,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;

use super::admission::{Admission, Turn};
use crate::limits::{Addresses, Memory, Place};

/// When a gateway that takes nobody may be asked again.
const FULL: Duration = Duration::from_secs(5);

/// Lets handshakes in.
pub(super) struct Door {
    /// Sessions at a time; 0 for no limit.
    max: usize,
    /// Seats there are now.
    taken: Arc<AtomicUsize>,
    closed: AtomicBool,
    pub(super) admission: Admission,
    limits: OnceLock<(Arc<Addresses>, Arc<Memory>)>,
}

/// Counts a session, at its gateway and for its address, from its handshake on until it is dropped.
#[derive(Debug)]
pub(super) struct Seat {
    taken: Arc<AtomicUsize>,
    place: Option<Place>,
}

/// Why there is no session.
#[derive(Debug)]
pub(super) enum SentAway {
    /// The gateway takes nobody, for this reason; after so long it may.
    Full(&'static str, Duration),
    /// The address has asked for too much; after so long it may again.
    Limited(Duration),
}

impl Door {
    /// For `max` sessions at a time, `rate` new ones a second; each 0 for no limit.
    pub(super) fn new(max: usize, rate: u32) -> Self {
        Self {
            max,
            taken: Arc::default(),
            closed: AtomicBool::new(false),
            admission: Admission::new(rate),
            limits: OnceLock::new(),
        }
    }

    /// From now on addresses have limits, and nobody new is taken while memory is short. Only the first call counts.
    pub(super) fn limit_by(&self, addresses: Arc<Addresses>, memory: Arc<Memory>) {
        let _ = self.limits.set((addresses, memory));
    }

    /// From now on nobody is let in, nor who waits for its turn.
    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
    }

    /// Waits for the turn of a handshake from `ip`.
    pub(super) async fn enter(&self, ip: IpAddr) -> Result<Seat, SentAway> {
        self.is_open()?;
        let mut seat = self.seat().ok_or(SentAway::Full("full", FULL))?;
        if let Some((addresses, _)) = self.limits.get() {
            seat.place = addresses.handshake(ip).map_err(SentAway::Limited)?;
        }
        match self.admission.turn(Instant::now().into_std()) {
            Turn::After(Duration::ZERO) => return Ok(seat),
            Turn::After(wait) => tokio::time::sleep(wait).await,
            Turn::Return(after) => return Err(SentAway::Full("busy", after)),
        }
        self.is_open()?;
        Ok(seat)
    }

    fn is_open(&self) -> Result<(), SentAway> {
        if self.closed.load(Ordering::Relaxed) {
            return Err(SentAway::Full("full", FULL));
        }
        match self.limits.get() {
            Some((_, memory)) if memory.is_short() => Err(SentAway::Full("memory", FULL)),
            Some(_) | None => Ok(()),
        }
    }

    fn seat(&self) -> Option<Seat> {
        let one_more = |taken| (self.max == 0 || taken < self.max).then_some(taken + 1);
        let taken = self
            .taken
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more);
        taken.is_ok().then(|| Seat {
            taken: Arc::clone(&self.taken),
            place: None,
        })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.taken.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::{net::Ipv4Addr, pin::pin};

    use futures_util::poll;

    use super::*;

    const IP: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    #[tokio::test(start_paused = true)]
    async fn who_waits_has_a_seat_and_is_sent_away_when_the_door_closes() {
        let door = Door::new(2, 1);
        let first = door.enter(IP).await.unwrap();
        {
            let mut gone = pin!(door.enter(IP));
            assert!(poll!(gone.as_mut()).is_pending());
            let full = door.enter(IP).await;
            assert!(matches!(full, Err(SentAway::Full("full", _))), "{full:?}");
        }
        let mut second = pin!(door.enter(IP));
        assert!(poll!(second.as_mut()).is_pending(), "a seat is free again");
        drop(first);
        door.close();
        let closed = second.await;
        assert!(matches!(closed, Err(SentAway::Full("full", _))), "{closed:?}");
        assert_eq!(door.taken.load(Ordering::Relaxed), 0);
    }
}
