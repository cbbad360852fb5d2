//! What a snapshot takes from its gateway: the same rule for every engine.

use std::collections::{BTreeSet, HashMap};

use model::{RoomName, UserId};

use super::{Delta, SocketKey};

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
                Delta::Joined(key, room) => {
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
