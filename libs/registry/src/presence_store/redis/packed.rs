//! How scripts and engine write a socket and a transition as one text: fields ended by NUL, then texts that may
//! hold anything, with their lengths before.

use std::{str::FromStr, sync::Arc};

use model::{GatewayId, Namespace, RoomName, UserId};

use crate::presence_store::{
    HeldSocket, RoomChange, RoomTransition, Socket, SocketKey, Transition, UserChange, UserTransition,
};

/// A socket's particulars, without its key.
pub(super) fn socket(socket: &Socket) -> String {
    let Socket {
        user,
        username,
        connected_at_ms,
        ip,
        user_agent,
        ..
    } = socket;
    let (ip_len, agent_len) = (ip.len(), user_agent.len());
    format!("{user}\0{connected_at_ms}\0{ip_len}\0{agent_len}\0{ip}{user_agent}{username}")
}

pub(super) fn held_socket(
    gateway: &str,
    namespace: &Namespace,
    id: &str,
    packed: &str,
) -> Option<HeldSocket> {
    let mut rest = packed;
    let user = field(&mut rest)?;
    let connected_at_ms = number(&mut rest)?;
    let (ip_len, agent_len) = (number(&mut rest)?, number(&mut rest)?);
    let ip = text(&mut rest, ip_len)?;
    let user_agent = text(&mut rest, agent_len)?;
    Some(HeldSocket {
        gateway: GatewayId::new(gateway).ok()?,
        socket: Socket {
            key: SocketKey {
                namespace: namespace.clone(),
                id: id.into(),
            },
            user: UserId::new(user).ok()?,
            username: rest.into(),
            connected_at_ms,
            ip: ip.into(),
            user_agent: user_agent.into(),
        },
    })
}

/// The user of packed particulars.
pub(super) fn user_of(packed: &str) -> Option<UserId> {
    let mut rest = packed;
    UserId::new(field(&mut rest)?).ok()
}

/// A socket's key as the scripts write it.
pub(super) fn key(packed: &str) -> Option<SocketKey> {
    let (namespace, id) = packed.split_once('\0')?;
    Some(SocketKey {
        namespace: Namespace::new(namespace).ok()?,
        id: id.into(),
    })
}

/// What `tell` of `change.lua` writes.
pub(super) fn transition(packed: &str) -> Option<Transition> {
    let mut rest = packed;
    let kind = field(&mut rest)?;
    let namespace = Namespace::new(field(&mut rest)?).ok()?;
    let user = UserId::new(field(&mut rest)?).ok()?;
    let users_count = number(&mut rest)?;
    let until_ms = number(&mut rest)?;
    let (room_len, socket_len) = (number(&mut rest)?, number(&mut rest)?);
    let room = RoomName::stored(text(&mut rest, room_len)?);
    let socket = text(&mut rest, socket_len)?;
    let username: Arc<str> = rest.into();
    let in_room = match kind {
        "joined" => Some(RoomChange::Joined { online_ms: until_ms }),
        "restored" => Some(RoomChange::Restored),
        "again" => Some(RoomChange::JoinedAgain {
            socket: socket.into(),
        }),
        "lost" => Some(RoomChange::Lost { until_ms }),
        "left" => Some(RoomChange::Left {
            offline_ms: (until_ms > 0).then_some(until_ms),
        }),
        _ => None,
    };
    if let Some(change) = in_room {
        return Some(Transition::Room(RoomTransition {
            namespace,
            room,
            user,
            username,
            users_count,
            change,
        }));
    }
    let change = match kind {
        "online" => UserChange::Online,
        "back" => UserChange::Back,
        "away" => UserChange::Lost { until_ms },
        "offline" => UserChange::Offline,
        _ => return None,
    };
    Some(Transition::User(UserTransition {
        namespace,
        user,
        username,
        change,
    }))
}

fn field<'a>(rest: &mut &'a str) -> Option<&'a str> {
    let (field, behind) = rest.split_once('\0')?;
    *rest = behind;
    Some(field)
}

fn number<T: FromStr>(rest: &mut &str) -> Option<T> {
    field(rest)?.parse().ok()
}

fn text<'a>(rest: &mut &'a str, len: usize) -> Option<&'a str> {
    let (text, behind) = rest.split_at_checked(len)?;
    *rest = behind;
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_round_trip_whatever_clients_call_themselves() {
        let namespace = Namespace::new("/chat").unwrap();
        let before = Socket {
            key: SocketKey {
                namespace: namespace.clone(),
                id: "s1".into(),
            },
            user: UserId::new("ada").unwrap(),
            username: "\0A\0da é".into(),
            connected_at_ms: u64::MAX,
            ip: "".into(),
            user_agent: "7\0é".into(),
        };
        let packed = socket(&before);
        let held = held_socket("gate-1", &namespace, "s1", &packed).unwrap();
        assert_eq!((held.gateway.as_str(), held.socket), ("gate-1", before));
        assert_eq!(user_of(&packed).unwrap().as_str(), "ada");
    }

    #[test]
    fn what_is_cut_off_is_refused() {
        let packed = "again\0/\0ada\x002\x000\x004\x002\0ro\0ms1A\0da";
        let Some(Transition::Room(read)) = transition(packed) else {
            panic!("{packed:?} is a room's")
        };
        assert_eq!(
            (read.room.as_str(), &*read.username, read.users_count),
            ("ro\0m", "A\0da", 2)
        );
        assert_eq!(read.change, RoomChange::JoinedAgain { socket: "s1".into() });
        let texts = packed.len() - "A\0da".len();
        for end in (0..texts).filter(|end| packed.is_char_boundary(*end)) {
            assert_eq!(transition(&packed[..end]), None, "{end}");
        }
        assert_eq!(transition(&packed.replace("again", "other")), None);
    }
}
