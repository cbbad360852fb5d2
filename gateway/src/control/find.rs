use std::{collections::HashSet, sync::Arc};

use model::{Namespace, RoomName, RoomToken};
use proto::v1::{Except, SocketsOf};

use crate::{rooms::Rooms, session::Socket, transport::EngineServer};

/// Finds sockets.
pub(super) struct Finder {
    rooms: Arc<Rooms>,
    engine: Arc<EngineServer>,
}

impl Finder {
    pub(super) fn new(rooms: Arc<Rooms>, engine: Arc<EngineServer>) -> Self {
        Self { rooms, engine }
    }

    /// Every socket that matches, once.
    pub(super) fn find(&self, of: &SocketsOf) -> Vec<Arc<Socket>> {
        if of.namespace.is_empty() {
            return self.in_all_namespaces(of);
        }
        // It was checked where the command comes from.
        let Ok(namespace) = Namespace::new(&of.namespace) else {
            return Vec::new();
        };
        let members = |room: &RoomName| {
            let room = self.rooms.get(RoomToken::new(&namespace, room));
            room.map(|room| room.sockets()).unwrap_or_default()
        };
        let mut found = Vec::new();
        if of.users.is_empty() && of.sockets.is_empty() && of.rooms.is_empty() {
            found = members(&RoomName::all());
        }
        for user in &of.users {
            // A server may have put others into the user's room.
            let sockets = members(&RoomName::of_user(user)).into_iter();
            found.extend(sockets.filter(|socket| socket.user().id.as_str() == user));
        }
        for id in &of.sockets {
            found.extend(members(&RoomName::of_socket(id)));
        }
        for room in &of.rooms {
            found.extend(members(&RoomName::stored(room)));
        }
        let mut known = HashSet::new();
        found.retain(|socket| known.insert(Arc::as_ptr(socket)));
        if let Some(except) = &of.except {
            self.leave_out(&mut found, &namespace, except);
        }
        found
    }

    /// Takes those out of sockets of a namespace that are excepted.
    fn leave_out(&self, sockets: &mut Vec<Arc<Socket>>, namespace: &Namespace, except: &Except) {
        let mut ids: HashSet<Box<str>> = except.sockets.iter().map(|id| id.as_str().into()).collect();
        for name in &except.rooms {
            let room = self.rooms.get(RoomToken::new(namespace, &RoomName::stored(name)));
            ids.extend(room.map(|room| room.socket_ids()).unwrap_or_default());
        }
        sockets.retain(|socket| {
            let user = socket.user().id.as_str();
            !ids.contains(socket.id()) && !except.users.iter().any(|excepted| excepted == user)
        });
    }

    fn in_all_namespaces(&self, of: &SocketsOf) -> Vec<Arc<Socket>> {
        let users: HashSet<&str> = of.users.iter().map(String::as_str).collect();
        let ids: HashSet<&str> = of.sockets.iter().map(String::as_str).collect();
        let mut found = Vec::new();
        for conn in self.engine.all() {
            let sockets = conn.sockets.lock();
            let matching = sockets
                .iter()
                .filter(|socket| users.contains(socket.user().id.as_str()) || ids.contains(socket.id()));
            found.extend(matching.cloned());
        }
        found
    }
}
