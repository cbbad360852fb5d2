//! Servers bring sockets into rooms, and take them out.

use futures_util::future::join_all;
use model::{ClientError, RoomName};
use proto::v1::{JoinCommand, LeaveCommand};

use super::Control;

impl Control {
    /// Once answered, every later event of the rooms comes to the sockets (CONTRACT G4), and their sessions keep the
    /// rooms. Fails as a whole: sockets that were in no room before are in none then.
    pub(super) async fn join(&self, command: JoinCommand) -> Result<u64, ClientError> {
        let sockets = self.finder.find(&command.of.unwrap_or_default());
        let rooms: Vec<RoomName> = command.rooms.iter().map(|room| RoomName::stored(room)).collect();
        // All ask at once, so that one record in the log serves those of one partition.
        let places: Vec<_> = sockets
            .iter()
            .flat_map(|socket| rooms.iter().map(move |room| (socket, room)))
            .collect();
        let joins = places.iter().map(|(socket, room)| self.core.put_in(socket, room));
        // Each to its end: what was told of a join would stay if it were dropped.
        let joined = join_all(joins).await;
        if let Some(Err(error)) = joined.iter().find(|joined| joined.is_err()) {
            for ((socket, room), joined) in places.iter().zip(&joined) {
                if *joined == Ok(true) {
                    self.core.take_out(socket, room);
                }
            }
            return Err(error.clone());
        }
        Ok(sockets.len() as u64)
    }

    /// Takes sockets out of rooms, those too that are away and may come back. A user's own room is part of being
    /// connected.
    pub(super) fn leave(&self, command: LeaveCommand) -> u64 {
        let of = command.of.unwrap_or_default();
        let sockets = self.finder.find(&of);
        let rooms: Vec<RoomName> = command.rooms.iter().map(|room| RoomName::stored(room)).collect();
        for socket in &sockets {
            for room in &rooms {
                let is_own = room.user() == Some(socket.user().id.as_str());
                if !is_own {
                    self.core.take_out(socket, room);
                }
            }
        }
        let mut away = 0;
        let mut given_up = Vec::new();
        self.core.sessions.each_away_of(&of, |pid, session| {
            away += 1;
            let own = RoomName::of_user(session.user().id.as_str());
            for room in rooms.iter().filter(|room| **room != own) {
                let places = &mut session.places;
                let place = places.iter().position(|place| place.room.name() == room);
                if let Some(place) = place {
                    given_up.push(places.swap_remove(place));
                    if let Some(store) = &self.core.store {
                        store.left(pid, room);
                    }
                }
            }
        });
        self.core.rooms.give_up(given_up);
        sockets.len() as u64 + away
    }
}
