use std::collections::{HashMap, HashSet};

use proto::v1::presence_delta::Kind;

/// Places in rooms of whose joins nobody may have been told. One that is left is none any more.
#[derive(Default)]
pub(super) struct Untold {
    /// Names of rooms, by the id of the socket that is in them.
    rooms: HashMap<String, HashSet<String>>,
}

impl Untold {
    /// To be called in the order in which things happen.
    pub(super) fn note(&mut self, kind: &Kind) {
        match kind {
            Kind::Joined(joined) => {
                let rooms = self.rooms.entry(joined.socket_id.clone()).or_default();
                rooms.insert(joined.room.clone());
            }
            Kind::Left(left) => {
                if let Some(rooms) = self.rooms.get_mut(&left.socket_id) {
                    rooms.remove(&left.room);
                    if rooms.is_empty() {
                        self.rooms.remove(&left.socket_id);
                    }
                }
            }
            Kind::Disconnected(gone) => {
                self.rooms.remove(&gone.socket_id);
            }
            Kind::Connected(_) => {}
        }
    }

    pub(super) fn contains(&self, socket: &str, room: &str) -> bool {
        self.rooms.get(socket).is_some_and(|rooms| rooms.contains(room))
    }
}

#[cfg(test)]
mod tests {
    use proto::v1::{RoomJoined, RoomLeft, SocketDisconnected};

    use super::*;

    fn joined(socket: &str, room: &str) -> Kind {
        Kind::Joined(RoomJoined {
            socket_id: socket.to_owned(),
            room: room.to_owned(),
            ..RoomJoined::default()
        })
    }

    #[test]
    fn places_that_were_left_are_not_remembered() {
        let mut untold = Untold::default();
        for (socket, room) in [("s", "a"), ("s", "b"), ("t", "a"), ("u", "a")] {
            untold.note(&joined(socket, room));
        }
        for (socket, room) in [("s", "a"), ("t", "a"), ("other", "a")] {
            untold.note(&Kind::Left(RoomLeft {
                socket_id: socket.to_owned(),
                room: room.to_owned(),
                ..RoomLeft::default()
            }));
        }
        untold.note(&Kind::Disconnected(SocketDisconnected {
            socket_id: "u".to_owned(),
            ..SocketDisconnected::default()
        }));
        assert!(untold.contains("s", "b"));
        assert!(!untold.contains("s", "a") && !untold.contains("u", "a"));
        assert_eq!(untold.rooms.len(), 1, "nothing of those who have gone");
        untold.note(&joined("u", "a"));
        assert!(untold.contains("u", "a"), "it has come back");
    }
}
