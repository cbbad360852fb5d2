//! What the checks speak of, in few words: everything is in one namespace.

use model::{GatewayId, Namespace, RoomName, UserId};

use super::GRACE;
use crate::presence_store::{
    Applied, Batch, Delta, Outcome, PageRequest, PresenceStore, RoomChange, RoomTransition, Socket,
    SocketKey, Transition, UserChange,
};

/// On purpose.
pub(super) const LEFT: RoomChange = RoomChange::Left { offline_ms: None };

pub(super) fn gateway(n: usize) -> GatewayId {
    GatewayId::new(&format!("gate-{n}")).unwrap()
}

pub(super) fn namespace() -> Namespace {
    Namespace::new("/chat").unwrap()
}

pub(super) fn key(id: &str) -> SocketKey {
    key_in("/chat", id)
}

pub(super) fn key_in(namespace: &str, id: &str) -> SocketKey {
    SocketKey {
        namespace: Namespace::new(namespace).unwrap(),
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

pub(super) fn stays(id: &str, room: &str) -> Delta {
    Delta::Stays(key(id), RoomName::stored(room))
}

pub(super) fn restored(id: &str, room: &str) -> Delta {
    Delta::Restored(key(id), RoomName::stored(room))
}

/// Applies a batch that follows, at time 0.
pub(super) async fn apply(
    store: &dyn PresenceStore,
    gateway: &GatewayId,
    number: u64,
    deltas: Vec<Delta>,
) -> Applied {
    let batch = Batch {
        gateway: gateway.clone(),
        number,
        snapshot: false,
        deltas,
    };
    match store.apply(batch, 0, GRACE).await.unwrap() {
        Outcome::Applied(applied) => applied,
        Outcome::NeedSnapshot { applied } => panic!("number {number} follows {applied}"),
    }
}

pub(super) async fn listed_users(store: &dyn PresenceStore, room: &str) -> Vec<(String, u64)> {
    let page = PageRequest {
        after: None,
        limit: 100,
    };
    let users = store
        .room_users(&namespace(), &RoomName::stored(room), page)
        .await
        .unwrap();
    let mut users: Vec<_> = users
        .items
        .into_iter()
        .map(|user| (user.user.as_str().to_owned(), user.connected_at_ms))
        .collect();
    users.sort();
    users
}

pub(super) fn in_rooms(transitions: &[Transition]) -> Vec<RoomTransition> {
    let rooms = transitions.iter().filter_map(|transition| match transition {
        Transition::Room(transition) => Some(transition.clone()),
        Transition::User(_) => None,
    });
    rooms.collect()
}

pub(super) fn of_users(transitions: &[Transition]) -> Vec<(String, UserChange)> {
    let users = transitions.iter().filter_map(|transition| match transition {
        Transition::Room(_) => None,
        Transition::User(transition) => {
            Some((transition.user.as_str().to_owned(), transition.change.clone()))
        }
    });
    users.collect()
}

/// The stays in rooms that are over by then.
pub(super) async fn ended(store: &dyn PresenceStore, now_ms: u64) -> Vec<RoomTransition> {
    in_rooms(&store.due(now_ms, 100).await.unwrap())
}

pub(super) fn changes(applied: &Applied) -> Vec<(String, u32, RoomChange)> {
    let transitions = in_rooms(&applied.transitions).into_iter();
    transitions
        .map(|t| (t.user.as_str().to_owned(), t.users_count, t.change))
        .collect()
}
