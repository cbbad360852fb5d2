//! A snapshot that is worked off in steps, and what it takes from its gateway: the same rule for every engine.

use std::collections::{BTreeSet, HashMap};

use model::{GatewayId, RoomName, UserId};

use super::{Batch, Delta, SocketKey};

/// A snapshot under way, see [`PresenceStore::begin_snapshot`](super::PresenceStore::begin_snapshot).
#[derive(Debug)]
pub struct SnapshotWork {
    pub(super) gateway: GatewayId,
    pub(super) number: u64,
    /// The engine's own name for it.
    pub(super) mark: String,
    /// All that is to be done, what the engine adds included.
    pub(super) deltas: Vec<Delta>,
    /// How much of that is done.
    pub(super) done: usize,
    pub(super) ended: bool,
}

impl SnapshotWork {
    pub(super) fn new(batch: Batch) -> Self {
        Self {
            gateway: batch.gateway,
            number: batch.number,
            mark: String::new(),
            deltas: batch.deltas,
            done: 0,
            ended: false,
        }
    }

    /// Whether no step is left.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.ended
    }
}

/// What the deltas of a snapshot say that the gateway holds.
pub(super) struct Wanted<'a> {
    sockets: HashMap<&'a SocketKey, (&'a UserId, BTreeSet<&'a RoomName>)>,
}

impl<'a> Wanted<'a> {
    pub(super) fn new(deltas: &'a [Delta]) -> Self {
        let mut sockets: HashMap<&SocketKey, (&UserId, BTreeSet<&RoomName>)> = HashMap::new();
        for delta in deltas {
            match delta {
                Delta::Connected(socket) => {
                    let rooms = match sockets.remove(&socket.key) {
                        Some((user, rooms)) if *user == socket.user => rooms,
                        _ => BTreeSet::new(),
                    };
                    sockets.insert(&socket.key, (&socket.user, rooms));
                }
                Delta::Disconnected(key) => {
                    sockets.remove(key);
                }
                Delta::Joined(key, room) | Delta::Stays(key, room) | Delta::Restored(key, room) => {
                    sockets.get_mut(key).map(|(_, rooms)| rooms.insert(room));
                }
                Delta::Left(key, room) => {
                    sockets.get_mut(key).map(|(_, rooms)| rooms.remove(room));
                }
            }
        }
        Self { sockets }
    }

    /// Whether a socket of this user stays, and the rooms it stays in.
    pub(super) fn rooms(&self, key: &SocketKey, user: &UserId) -> Option<&BTreeSet<&'a RoomName>> {
        let (wanted, rooms) = self.sockets.get(key)?;
        (*wanted == user).then_some(rooms)
    }
}
