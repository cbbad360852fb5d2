//! What the checks speak of, in few words: everything is in one namespace.

use model::{GatewayId, Namespace, RoomName, UserId};

use crate::presence_store::{Delta, Socket, SocketKey};

pub(super) fn gateway(n: usize) -> GatewayId {
    GatewayId::new(&format!("gate-{n}")).unwrap()
}

pub(super) fn namespace() -> Namespace {
    Namespace::new("/chat").unwrap()
}

pub(super) fn key(id: &str) -> SocketKey {
    SocketKey {
        namespace: namespace(),
        id: id.into(),
    }
}

/// The digits of the id are the time at which it connected.
pub(super) fn connected(id: &str, user: &str) -> Delta {
    Delta::Connected(socket(key(id), user))
}

pub(super) fn socket(key: SocketKey, user: &str) -> Socket {
    Socket {
        connected_at_ms: key
            .id
            .chars()
            .filter(char::is_ascii_digit)
            .collect::<String>()
            .parse()
            .unwrap_or(0),
        key,
        user: UserId::new(user).unwrap(),
        username: format!("Name of {user}").into(),
        ip: "203.0.113.7".into(),
        user_agent: "conformance".into(),
    }
}

pub(super) fn disconnected(id: &str) -> Delta {
    Delta::Disconnected(key(id))
}

pub(super) fn joined(id: &str, room: &str) -> Delta {
    Delta::Joined(key(id), RoomName::stored(room))
}

pub(super) fn left(id: &str, room: &str) -> Delta {
    Delta::Left(key(id), RoomName::stored(room))
}
