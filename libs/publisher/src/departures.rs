//! What servers did to sockets, noted for the sessions that gone gateways have left behind: no gateway is there to be
//! told of it, and whoever takes one up must know.

use std::collections::{HashMap, HashSet};

use bus::{Documents, DocumentsError};
use futures_util::{StreamExt, TryStreamExt, future::try_join_all, stream};
use model::{ClientError, Namespace, RoomName, RoomToken};
use prost::Message;
use proto::v1::{Departure, Departures, KeptRoom, KeptSession, SocketsOf};

use crate::{emitter::now_ms, errors::unavailable};

/// Bucket of [`Departures`], by whom they are about. They are to be kept for as long as sessions can be taken up.
pub const BUCKET: &str = "departures";
/// Of each key the newest so many are kept, and so many bytes of them.
const KEPT: usize = 100;
const KEPT_BYTES: usize = 256 << 10;
/// So often a document is tried again when somebody else wrote it meanwhile.
const RACES: usize = 20;
/// Documents that are written at a time.
const AT_A_TIME: usize = 64;

/// What has become of a session while nobody had it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Departed {
    /// A server has ended it.
    Ended,
    /// A server has taken it out of these rooms.
    From(HashSet<String>),
}

/// Notes that sockets have left `rooms`, or were ended if there are none. A retry is safe.
///
/// # Errors
/// `UNAVAILABLE` when the documents cannot be written.
pub async fn note(documents: &dyn Documents, of: &SocketsOf, rooms: &[String]) -> Result<(), ClientError> {
    let departure = Departure {
        at_ms: now_ms(),
        of: Some(SocketsOf {
            users: Vec::new(),
            sockets: Vec::new(),
            ..of.clone()
        }),
        rooms: rooms.to_vec(),
    };
    let noted = stream::iter(keys(of)).map(async |key| add(documents, &key, &departure).await);
    noted
        .buffer_unordered(AT_A_TIME)
        .try_for_each(async |()| Ok(()))
        .await
}

/// What was noted of a session since it began, and since it is in its rooms.
///
/// # Errors
/// `UNAVAILABLE` when the documents cannot be read.
pub async fn of(documents: &dyn Documents, session: &KeptSession) -> Result<Departed, ClientError> {
    let of = |namespace: &str, users: &[String], sockets: &[String]| SocketsOf {
        namespace: namespace.to_owned(),
        users: users.to_vec(),
        sockets: sockets.to_vec(),
        ..SocketsOf::default()
    };
    let (users, sockets) = ([session.user_id.clone()], [session.socket_id.clone()]);
    let all = [
        of(&session.namespace, &users, &sockets),
        of(&session.namespace, &[], &[]),
        of("", &users, &sockets),
    ];
    let all = all.iter().flat_map(keys);
    let read = try_join_all(all.map(async |key| read(documents, &key).await)).await?;
    let own = RoomName::of_user(&session.user_id);
    let joined: HashMap<&str, &KeptRoom> = session.rooms.iter().map(|room| (&*room.name, room)).collect();
    let mut left = HashSet::new();
    for (_, Departures { departures }) in read {
        let departures = departures.into_iter();
        for departure in departures.filter(|departure| concerns(departure, session, &joined)) {
            if departure.rooms.is_empty() && departure.at_ms >= session.connected_at_ms {
                return Ok(Departed::Ended);
            }
            let rooms = departure.rooms.into_iter().filter(|name| {
                let room = joined.get(name.as_str());
                name != own.as_str() && room.is_some_and(|room| departure.at_ms >= room.joined_ms)
            });
            left.extend(rooms);
        }
    }
    Ok(Departed::From(left))
}

/// Whether a session under whose key this was noted is meant.
fn concerns(departure: &Departure, session: &KeptSession, joined: &HashMap<&str, &KeptRoom>) -> bool {
    let Some(of) = &departure.of else { return true };
    let is_in = |name: &String| joined.contains_key(name.as_str());
    let is_excepted = of.except.as_ref().is_some_and(|except| {
        except.users.contains(&session.user_id)
            || except.sockets.contains(&session.socket_id)
            || except.rooms.iter().any(is_in)
    });
    !is_excepted && (of.rooms.is_empty() || of.rooms.iter().any(is_in))
}

/// A key for each user and socket, and one for all if they are not the only ones.
fn keys(of: &SocketsOf) -> Vec<String> {
    let (scope, namespace) = match &*of.namespace {
        "" => ("any", "/"),
        namespace => ("in", namespace),
    };
    // It was checked where the command comes from.
    let Ok(namespace) = Namespace::new(namespace) else {
        return Vec::new();
    };
    let key = |room: RoomName| format!("{scope}.{}", RoomToken::new(&namespace, &room));
    let users = of.users.iter().map(|user| key(RoomName::of_user(user)));
    let sockets = of.sockets.iter().map(|socket| key(RoomName::of_socket(socket)));
    let others = !of.rooms.is_empty() || of.users.is_empty() && of.sockets.is_empty();
    let others = others.then(|| key(RoomName::all()));
    users.chain(sockets).chain(others).collect()
}

async fn read(documents: &dyn Documents, key: &str) -> Result<(Option<u64>, Departures), ClientError> {
    let document = documents.get(BUCKET, key).await.map_err(unavailable)?;
    Ok(document.map_or_else(Default::default, |document| {
        let departures = Departures::decode(document.value).unwrap_or_default();
        (Some(document.revision), departures)
    }))
}

async fn add(documents: &dyn Documents, key: &str, departure: &Departure) -> Result<(), ClientError> {
    for _ in 0..RACES {
        let (revision, mut all) = read(documents, key).await?;
        all.departures.push(departure.clone());
        while all.departures.len() > 1 && (all.departures.len() > KEPT || all.encoded_len() > KEPT_BYTES) {
            all.departures.remove(0);
        }
        let value = all.encode_to_vec().into();
        match documents.put(BUCKET, key, value, revision).await {
            Err(DocumentsError::Conflict(_)) => {}
            written => return written.map(drop).map_err(unavailable),
        }
    }
    Err(unavailable("others write the same note again and again"))
}

#[cfg(test)]
mod tests {
    use bus::documents::memory::MemoryDocuments;
    use proto::v1::Except;

    use super::*;

    fn session() -> KeptSession {
        let room = |name: &str| KeptRoom {
            name: name.to_owned(),
            ..KeptRoom::default()
        };
        KeptSession {
            namespace: "/chat".to_owned(),
            socket_id: "socket".to_owned(),
            user_id: "ada".to_owned(),
            rooms: vec![room("user:ada"), room("a"), room("b")],
            ..KeptSession::default()
        }
    }

    fn selection(namespace: &str, users: &[&str], sockets: &[&str], rooms: &[&str]) -> SocketsOf {
        let owned = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
        SocketsOf {
            namespace: namespace.to_owned(),
            users: owned(users),
            sockets: owned(sockets),
            rooms: owned(rooms),
            except: None,
        }
    }

    fn from(rooms: &[&str]) -> Result<Departed, ClientError> {
        Ok(Departed::From(
            rooms.iter().map(|&room| room.to_owned()).collect(),
        ))
    }

    #[tokio::test]
    async fn table_of_departures() {
        let but = |except: Except| SocketsOf {
            except: Some(except),
            ..selection("/chat", &["ada"], &[], &[])
        };
        let user = Except {
            users: vec!["ada".to_owned()],
            ..Except::default()
        };
        let room = Except {
            rooms: vec!["b".to_owned()],
            ..Except::default()
        };
        for (selected, is_meant) in [
            (selection("/chat", &["ada"], &[], &[]), true),
            (selection("/chat", &["bob", "ada"], &[], &[]), true),
            (selection("/chat", &["bob"], &["socket"], &[]), true),
            (selection("/chat", &[], &[], &["c", "b"]), true),
            (selection("/chat", &[], &[], &[]), true),
            (selection("", &["ada"], &[], &[]), true),
            (selection("", &[], &["socket"], &[]), true),
            (selection("/chat", &["bob"], &["other"], &["c"]), false),
            (selection("/", &["ada"], &["socket"], &[]), false),
            (selection("/", &[], &[], &[]), false),
            (but(user), false),
            (but(room), false),
        ] {
            let documents = MemoryDocuments::new();
            assert_eq!(of(&documents, &session()).await, from(&[]));
            let rooms = ["a", "c", "user:ada"].map(str::to_owned);
            note(&documents, &selected, &rooms).await.unwrap();
            let left: &[&str] = if is_meant { &["a"] } else { &[] };
            assert_eq!(of(&documents, &session()).await, from(left), "{selected:?}");
            note(&documents, &selected, &[]).await.unwrap();
            let is_ended = of(&documents, &session()).await == Ok(Departed::Ended);
            assert_eq!(is_ended, is_meant, "{selected:?}");
        }
    }

    #[tokio::test]
    async fn what_began_later_is_not_meant() {
        let documents = MemoryDocuments::new();
        let ada = selection("/chat", &["ada"], &[], &[]);
        for _ in 0..2 * KEPT {
            note(&documents, &ada, &["a".to_owned()]).await.unwrap();
        }
        note(&documents, &ada, &[]).await.unwrap();
        let mut session = session();
        session.connected_at_ms = now_ms() + 1;
        assert_eq!(of(&documents, &session).await, from(&["a"]));
        session.rooms[1].joined_ms = now_ms() + 1;
        assert_eq!(of(&documents, &session).await, from(&[]));
    }
}
