//! Announcements of a room go out in the order of its changes, while what concerns different rooms goes on at
//! the same time.

use std::{
    collections::{BTreeSet, hash_map::RandomState},
    hash::BuildHasher,
};

use model::{Namespace, RoomName};
use tokio::sync::{Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// Rooms share this many turns.
const TURNS: usize = 64;

/// Whose turn it is to change rooms and tell of it.
#[derive(Debug)]
pub(crate) struct Order {
    all: RwLock<()>,
    turns: [Mutex<()>; TURNS],
    hasher: RandomState,
}

/// The turn, until it is dropped.
#[derive(Debug)]
pub(crate) enum Turn<'a> {
    /// Of some rooms.
    Rooms {
        _all: RwLockReadGuard<'a, ()>,
        _turns: Vec<MutexGuard<'a, ()>>,
    },
    /// Of every room.
    All(#[expect(dead_code, reason = "held, not read")] RwLockWriteGuard<'a, ()>),
}

impl Default for Order {
    fn default() -> Self {
        Self {
            all: RwLock::default(),
            turns: std::array::from_fn(|_| Mutex::default()),
            hasher: RandomState::new(),
        }
    }
}

impl Order {
    /// Waits for the turn of these rooms.
    pub(crate) async fn of(&self, rooms: impl IntoIterator<Item = (&Namespace, &RoomName)>) -> Turn<'_> {
        #[expect(
            clippy::cast_possible_truncation,
            reason = "any few bits of a hash are as good as others"
        )]
        let turn = |room: (&Namespace, &RoomName)| self.hasher.hash_one(room) as usize % TURNS;
        // All who wait take them in the same order, so nobody waits in a circle.
        let wanted: BTreeSet<usize> = rooms.into_iter().map(turn).collect();
        let all = self.all.read().await;
        let mut turns = Vec::with_capacity(wanted.len());
        for wanted in wanted {
            if let Some(turn) = self.turns.get(wanted) {
                turns.push(turn.lock().await);
            }
        }
        Turn::Rooms {
            _all: all,
            _turns: turns,
        }
    }

    /// Waits for the turn of all rooms: for changes that do not say beforehand which rooms they touch.
    pub(crate) async fn of_all(&self) -> Turn<'_> {
        Turn::All(self.all.write().await)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    #[tokio::test]
    async fn a_room_has_one_turn_at_a_time() {
        let order = Order::default();
        let namespace = Namespace::new("/chat").unwrap();
        let (a, b) = (RoomName::new("a").unwrap(), RoomName::new("b").unwrap());
        let both = order
            .of([(&namespace, &a), (&namespace, &b), (&namespace, &a)])
            .await;
        assert!(order.of([(&namespace, &a)]).now_or_never().is_none());
        assert!(order.of([(&namespace, &b)]).now_or_never().is_none());
        assert!(order.of([]).now_or_never().is_some());
        assert!(order.of_all().now_or_never().is_none());
        drop(both);
        let all = order.of_all().now_or_never();
        assert!(all.is_some());
        assert!(order.of([]).now_or_never().is_none());
    }
}
