//! Servers bring sockets into rooms, and take them out.

use std::sync::Arc;

use futures_util::future::try_join_all;
use model::{ClientError, RoomName, RoomToken};
use proto::v1::{JoinCommand, LeaveCommand};

use super::Control;
use crate::{
    rooms::Joining,
    session::{Socket, unavailable},
};

impl Control {
    /// Once answered, every later event of the rooms comes to the sockets (CONTRACT G4), and their sessions keep the
    /// rooms. Fails as a whole: sockets that were in no room before are in none then.
    pub(super) async fn join(&self, command: JoinCommand) -> Result<u64, ClientError> {
        let sockets = self.finder.find(&command.of.unwrap_or_default());
        let rooms: Vec<RoomName> = command.rooms.iter().map(|room| RoomName::stored(room)).collect();
        // All ask at once, so that one record in the log serves those of one partition.
        let joins = sockets
            .iter()
            .flat_map(|socket| rooms.iter().map(move |room| self.join_room(socket, room)));
        try_join_all(joins).await?;
        Ok(sockets.len() as u64)
    }

    fn join_room(
        &self,
        socket: &Arc<Socket>,
        room: &RoomName,
    ) -> impl Future<Output = Result<(), ClientError>> {
        let mut joining = self.core.rooms.join(socket, room.clone());
        if joining.is_new() {
            // Nobody asked how many there are.
            drop(self.core.presence.joined(socket, room));
        }
        async move {
            let kept = self.keep(socket, room, &mut joining).await;
            match kept {
                Ok(()) => joining.release(|_| Vec::new()),
                Err(_) if joining.is_new() => {
                    self.left(socket, room);
                    drop(joining);
                }
                Err(_) => drop(joining),
            }
            kept
        }
    }

    async fn keep(&self, socket: &Socket, room: &RoomName, joining: &mut Joining) -> Result<(), ClientError> {
        let position = joining.confirmed().await.map_err(unavailable)?;
        let store = self.core.store.as_ref().zip(socket.pid());
        let kept = store.and_then(|(store, pid)| store.joined(pid, room, position));
        if let Some(kept) = kept {
            kept.await
                .map_err(|_| unavailable("the store does not take the session"))?;
        }
        Ok(())
    }

    fn left(&self, socket: &Socket, room: &RoomName) {
        self.core.presence.left(socket, room);
        if let Some((store, pid)) = self.core.store.as_ref().zip(socket.pid()) {
            store.left(pid, room);
        }
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
                let token = RoomToken::new(socket.namespace(), room);
                if !is_own && self.core.rooms.leave(socket, token) {
                    self.left(socket, room);
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
