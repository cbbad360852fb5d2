//! Events with copies in several rooms: which sockets have got one. A socket in two of the rooms gets the copy that
//! comes first, whichever that is; rooms lie in partitions that come at their own pace, and members join and leave in
//! between, so nothing else than what was sent can tell.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

/// Copies of an event come within this time, or a gateway stood still for so long.
const KEPT: Duration = Duration::from_secs(120);
/// So many receivers are remembered at most, of all events together, some 150 bytes each.
const MAX_RECEIVERS: usize = 1 << 19;

/// Who has got which event, for a while.
pub(crate) struct Copies {
    max_receivers: usize,
    /// By socket id: the ids of events, each with the place in the journal of the copy that it got.
    given: HashMap<Arc<str>, HashMap<Arc<str>, u64>>,
    /// Event and socket, oldest first.
    order: VecDeque<(Instant, Arc<str>, Arc<str>)>,
    /// Of the newest event, for the next receiver.
    event: Option<Arc<str>>,
}

impl Default for Copies {
    fn default() -> Self {
        Self {
            max_receivers: MAX_RECEIVERS,
            given: HashMap::new(),
            order: VecDeque::new(),
            event: None,
        }
    }
}

impl Copies {
    /// A copy comes to a socket, at a place in the journal. Whether it is the first.
    pub(crate) fn is_first(&mut self, event: &str, socket: &str, number: u64) -> bool {
        if self.given(event, socket).is_some() {
            return false;
        }
        let event = match &self.event {
            Some(newest) if **newest == *event => Arc::clone(newest),
            _ => Arc::clone(self.event.insert(event.into())),
        };
        let known = self
            .given
            .get_key_value(socket)
            .map(|(socket, _)| Arc::clone(socket));
        let socket = known.unwrap_or_else(|| socket.into());
        let given = self.given.entry(Arc::clone(&socket)).or_default();
        given.insert(Arc::clone(&event), number);
        self.order.push_back((Instant::now(), event, socket));
        if self.order.len() > self.max_receivers {
            self.give_up();
        }
        true
    }

    /// The place in the journal of the copy that a socket has got.
    pub(crate) fn given(&self, event: &str, socket: &str) -> Option<u64> {
        self.given.get(socket)?.get(event).copied()
    }

    /// All events of which a socket has got a copy, each with its place in the journal.
    pub(crate) fn all_given(&self, socket: &str) -> impl Iterator<Item = (&str, u64)> {
        let given = self.given.get(socket).into_iter().flatten();
        given.map(|(event, number)| (&**event, *number))
    }

    /// Forgets what no copy comes of any more; `window`: clients may come back within it.
    pub(crate) fn sweep(&mut self, now: Instant, window: Duration) {
        let kept = KEPT.max(window);
        while let Some((at, ..)) = self.order.front() {
            if now.duration_since(*at) < kept {
                return;
            }
            self.give_up();
        }
    }

    fn give_up(&mut self) {
        let Some((_, event, socket)) = self.order.pop_front() else {
            return;
        };
        if let Some(given) = self.given.get_mut(&socket) {
            given.remove(&event);
            if given.is_empty() {
                self.given.remove(&socket);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_copy_a_socket() {
        let mut copies = Copies::default();
        assert!(copies.is_first("e", "s", 7));
        assert!(!copies.is_first("e", "s", 8));
        assert!(copies.is_first("e", "t", 8));
        assert!(copies.is_first("f", "s", 9));
        assert_eq!(copies.given("e", "s"), Some(7));
        assert_eq!(copies.given("f", "t"), None);
        let mut given: Vec<_> = copies.all_given("s").collect();
        given.sort_unstable();
        assert_eq!(given, [("e", 7), ("f", 9)]);
    }

    #[test]
    fn old_ones_are_forgotten() {
        let mut copies = Copies::default();
        copies.is_first("e", "s", 1);
        let now = Instant::now();
        copies.sweep(now + KEPT / 2, Duration::ZERO);
        assert_eq!(copies.given("e", "s"), Some(1));
        copies.sweep(now + KEPT, KEPT * 2);
        assert_eq!(copies.given("e", "s"), Some(1));
        copies.sweep(now + KEPT * 2, KEPT * 2);
        assert_eq!(copies.given("e", "s"), None);
        assert!(copies.given.is_empty() && copies.order.is_empty());
    }

    #[test]
    fn receivers_are_bounded() {
        let mut copies = Copies {
            max_receivers: 10,
            ..Copies::default()
        };
        for number in 0..10 {
            copies.is_first("a", &number.to_string(), 1);
        }
        copies.is_first("b", "s", 2);
        assert_eq!(copies.given("a", "0"), None);
        assert_eq!(copies.given("a", "1"), Some(1));
        assert_eq!(copies.given("b", "s"), Some(2));
    }
}
