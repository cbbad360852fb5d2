//! What `@socket.io/redis-emitter` publishes in Redis, read and checked. It comes from outside: whatever it is, reading
//! it ends in an order or a refusal.

use model::{ClientError, ErrorCode};
use proto::v1::{EmitRequest, Except, Excluded, SocketsOf, disconnect_request::Mode};
use serde::Deserialize;
use sio::packet::{Limits, msgpack::broadcast::Broadcast};

use crate::{
    args::Args,
    check::{Check, MAX_TARGETS},
    emit::Emit,
};

/// What is wrapped around an event in its message, at most.
const OVERHEAD: usize = 64 << 10;
/// Between the emitters' key and the namespace, in channels of what concerns sockets.
const REQUEST: &str = "-request";
/// Socket.IO's ids have so many characters, and so have ours.
const SOCKET_ID: usize = 20;

/// What is to be done.
#[derive(Clone, Debug, PartialEq)]
pub enum Order {
    /// An event is sent.
    Emit(Box<Emit>),
    /// Something is done with sockets.
    Sockets(Command),
    /// For application code on servers, or between servers: there are none here.
    Nothing,
}

/// What is done with sockets.
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    /// They join rooms.
    Join {
        /// Which.
        of: SocketsOf,
        /// At least one.
        rooms: Vec<String>,
    },
    /// They leave rooms.
    Leave {
        /// Which.
        of: SocketsOf,
        /// At least one.
        rooms: Vec<String>,
    },
    /// They are ended.
    Disconnect {
        /// Which.
        of: SocketsOf,
        /// Alone, or with their connections.
        mode: Mode,
    },
}

/// Why nothing comes of a message.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It is not what emitters send.
    Malformed,
    /// A name, or how many there are, is not possible here.
    Invalid,
    /// It has more bytes than an event may have.
    TooLarge,
}

impl From<ClientError> for Refusal {
    fn from(error: ClientError) -> Self {
        match error.code {
            ErrorCode::PayloadTooLarge => Self::TooLarge,
            _ => Self::Invalid,
        }
    }
}

/// Reads what was published in `channel` by an emitter with this `key`. `max_payload`: bytes that an event's name and
/// arguments may have together.
///
/// # Errors
/// [`Refusal`].
pub fn read(key: &str, channel: &str, payload: &[u8], max_payload: usize) -> Result<Order, Refusal> {
    if payload.len() > max_payload.saturating_add(OVERHEAD) {
        return Err(Refusal::TooLarge);
    }
    let place = channel.strip_prefix(key).ok_or(Refusal::Malformed)?;
    match place.strip_prefix(REQUEST) {
        Some(place) => request(place, payload),
        None => broadcast(place, payload, max_payload),
    }
}

fn broadcast(place: &str, payload: &[u8], max_payload: usize) -> Result<Order, Refusal> {
    let Broadcast {
        namespace,
        name,
        args,
        attachments,
        rooms,
        except,
        volatile,
    } = Broadcast::decode(payload, &Limits::DEFAULT).map_err(|_| Refusal::Malformed)?;
    // Behind the namespace stands the room, if it is one, which the message says as well.
    let inside = place
        .strip_prefix('#')
        .and_then(|place| place.strip_prefix(&*namespace)?.strip_prefix('#'));
    if inside.is_none() {
        return Err(Refusal::Malformed);
    }
    let (sockets, not_sockets) = (ids(&rooms), ids(&except));
    let request = EmitRequest {
        namespace: namespace.to_string(),
        rooms,
        except: Some(Excluded {
            rooms: except,
            ..Excluded::default()
        }),
        event: name.as_str().to_owned(),
        volatile,
        ..EmitRequest::default()
    };
    let mut emit = Emit::with_args(request, Args::new(args, attachments), max_payload)?;
    emit.sockets = sockets;
    emit.except.sockets = not_sockets;
    Ok(Order::Emit(Box::new(emit)))
}

#[derive(Deserialize)]
struct Request {
    #[serde(rename = "type")]
    kind: u64,
    opts: Option<To>,
    rooms: Option<Vec<Name>>,
    close: Option<bool>,
}

/// Emitters in languages without empty lists say `null`.
#[derive(Default, Deserialize)]
struct To {
    rooms: Option<Vec<Name>>,
    except: Option<Vec<Name>>,
}

/// A number is the name that it looks like: rooms are texts here.
#[derive(Deserialize)]
#[serde(untagged)]
enum Name {
    Text(String),
    Number(i64),
}

impl Name {
    fn all(names: Option<Vec<Self>>) -> Vec<String> {
        let texts = names.unwrap_or_default().into_iter().map(|name| match name {
            Self::Text(text) => text,
            Self::Number(number) => number.to_string(),
        });
        texts.collect()
    }
}

fn request(place: &str, payload: &[u8]) -> Result<Order, Refusal> {
    // Adapters also ask each other, in MessagePack.
    if payload.first() != Some(&b'{') {
        return Ok(Order::Nothing);
    }
    let namespace = place.strip_prefix('#').and_then(|place| place.strip_suffix('#'));
    let namespace = namespace.ok_or(Refusal::Malformed)?;
    let request: Request = serde_json::from_slice(payload).map_err(|_| Refusal::Malformed)?;
    if !matches!(request.kind, 2..=4) {
        return Ok(Order::Nothing);
    }
    let To { rooms: to, except } = request.opts.unwrap_or_default();
    let (to, except) = (Name::all(to), Name::all(except));
    let rooms = Name::all(request.rooms);
    let mut check = Check::default();
    check.namespace("namespace", namespace);
    for (path, names) in [("to", &to), ("except", &except), ("rooms", &rooms)] {
        check.at_most(path, &[names.len()], MAX_TARGETS, "rooms");
        check.rooms(path, names);
    }
    if request.kind != 4 && rooms.is_empty() {
        check.reject("rooms", "is required");
    }
    check.finish(Some(()))?;
    let of = SocketsOf {
        namespace: namespace.to_owned(),
        users: Vec::new(),
        sockets: ids(&to),
        rooms: to,
        except: (!except.is_empty()).then(|| Except {
            sockets: ids(&except),
            rooms: except,
            users: Vec::new(),
        }),
    };
    Ok(Order::Sockets(match request.kind {
        2 => Command::Join { of, rooms },
        3 => Command::Leave { of, rooms },
        _ => Command::Disconnect {
            of,
            mode: if request.close == Some(true) {
                Mode::Connection
            } else {
                Mode::Namespace
            },
        },
    }))
}

/// Those that may be ids of sockets: to Socket.IO each socket is a room of that name, and nobody says which is meant.
fn ids(rooms: &[String]) -> Vec<String> {
    let is_id = |name: &&String| {
        let mut bytes = name.bytes();
        name.len() == SOCKET_ID && bytes.all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
    };
    rooms.iter().filter(is_id).cloned().collect()
}

#[cfg(test)]
mod tests {
    use model::RoomName;
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    const ID: &str = "abcdefghij-_01234567";

    fn read(channel: &str, payload: &[u8]) -> Result<Order, Refusal> {
        super::read("socket.io", channel, payload, 1000)
    }

    /// `["emitter", {type: 2, data: [event, 1], nsp: "/chat"}, {rooms, flags: {}, except}]`, names short.
    fn message(event: &str, rooms: &[&str], except: &[&str]) -> Vec<u8> {
        let text = |text: &str| [&[0xa0 | text.len() as u8], text.as_bytes()].concat();
        let list = |names: &[&str]| {
            let names_of = names.iter().flat_map(|name| text(name));
            [0x90 | names.len() as u8]
                .into_iter()
                .chain(names_of)
                .collect::<Vec<u8>>()
        };
        [
            b"\x93\xa7emitter\x83\xa4type\x02\xa4data\x92".to_vec(),
            text(event),
            b"\x01\xa3nsp\xa5/chat\x83\xa5rooms".to_vec(),
            list(rooms),
            b"\xa5flags\x80\xa6except".to_vec(),
            list(except),
        ]
        .concat()
    }

    fn emit(order: Result<Order, Refusal>) -> Emit {
        match order {
            Ok(Order::Emit(emit)) => *emit,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn events() {
        let found = emit(read("socket.io#/chat#", &message("news", &[], &[])));
        assert_eq!((found.namespace.as_str(), &*found.event), ("/chat", "news"));
        assert_eq!(found.targets(), [RoomName::all()]);
        assert_eq!(found.args.to_json(), "[1]");

        let found = emit(read("socket.io#/chat#a#", &message("news", &["a"], &["b", ID])));
        assert_eq!(found.targets(), [RoomName::stored("a")]);
        let except = [RoomName::stored("b"), RoomName::stored(ID)];
        assert_eq!(found.except.rooms, except);
        assert_eq!(found.except.sockets, [ID]);

        let found = emit(read(
            &format!("socket.io#/chat#{ID}#"),
            &message("news", &[ID], &[]),
        ));
        assert_eq!(found.targets(), [RoomName::of_socket(ID), RoomName::stored(ID)]);
    }

    #[test]
    fn what_concerns_sockets() {
        let channel = "socket.io-request#/chat#";
        let order = |value: serde_json::Value| read(channel, value.to_string().as_bytes());
        let of = |rooms: &[&str]| SocketsOf {
            namespace: "/chat".to_owned(),
            rooms: rooms.iter().map(ToString::to_string).collect(),
            ..SocketsOf::default()
        };
        let join = order(json!({ "type": 2, "opts": { "rooms": ["a"], "except": [] }, "rooms": ["b", 7] }));
        let rooms = vec!["b".to_owned(), "7".to_owned()];
        assert_eq!(
            join,
            Ok(Order::Sockets(Command::Join {
                of: of(&["a"]),
                rooms
            }))
        );
        let leave = order(json!({ "type": 3, "opts": { "rooms": [ID], "except": ["x"] }, "rooms": ["b"] }));
        let of_one = SocketsOf {
            sockets: vec![ID.to_owned()],
            except: Some(Except {
                rooms: vec!["x".to_owned()],
                ..Except::default()
            }),
            ..of(&[ID])
        };
        let rooms = vec!["b".to_owned()];
        assert_eq!(leave, Ok(Order::Sockets(Command::Leave { of: of_one, rooms })));
        for (close, mode) in [(true, Mode::Connection), (false, Mode::Namespace)] {
            let order = order(json!({ "type": 4, "opts": { "rooms": [], "except": null }, "close": close }));
            assert_eq!(
                order,
                Ok(Order::Sockets(Command::Disconnect { of: of(&[]), mode }))
            );
        }
        assert_eq!(
            order(json!({ "uid": "emitter", "type": 6, "data": ["x"] })),
            Ok(Order::Nothing)
        );
        assert_eq!(order(json!({ "type": 0, "requestId": "x" })), Ok(Order::Nothing));
        assert_eq!(read(channel, b"\x83\xa4type\x08"), Ok(Order::Nothing));
    }

    #[test]
    fn what_is_refused() {
        let news = message("news", &[], &[]);
        for (channel, payload, refusal) in [
            ("socket.io#/#", news.clone(), Refusal::Malformed),
            ("socket.io#/chat", news.clone(), Refusal::Malformed),
            ("other#/chat#", news, Refusal::Malformed),
            ("socket.io#/chat#", b"hello".to_vec(), Refusal::Malformed),
            ("socket.io#/chat#", vec![0; 1001 + OVERHEAD], Refusal::TooLarge),
            (
                "socket.io#/chat#",
                message("disconnect", &[], &[]),
                Refusal::Malformed,
            ),
            (
                "socket.io#/chat#",
                message("news", &["a\n"], &[]),
                Refusal::Invalid,
            ),
            (
                "socket.io#/chat#",
                message("news", &["a"], &[""]),
                Refusal::Invalid,
            ),
            ("socket.io#/chat#", message("", &[], &[]), Refusal::Invalid),
            ("socket.io-request#/chat#", b"{}".to_vec(), Refusal::Malformed),
            ("socket.io-request#/chat#", b"{".to_vec(), Refusal::Malformed),
            (
                "socket.io-request#/chat#",
                br#"{"type":2,"rooms":[]}"#.to_vec(),
                Refusal::Invalid,
            ),
            (
                "socket.io-request#chat#",
                br#"{"type":4}"#.to_vec(),
                Refusal::Invalid,
            ),
            ("socket.io-request", br#"{"type":4}"#.to_vec(), Refusal::Malformed),
        ] {
            assert_eq!(read(channel, &payload), Err(refusal), "{channel} {payload:?}");
        }
        let large = super::read("socket.io", "socket.io#/chat#", &message("news", &[], &[]), 4);
        assert_eq!(large, Err(Refusal::TooLarge));
    }

    proptest! {
        #[test]
        fn anything_is_an_order_or_refused(channel: String, request: bool, payload: Vec<u8>) {
            let _ = read(&channel, &payload);
            let between = if request { REQUEST } else { "" };
            let _ = read(&format!("socket.io{between}#/#"), &payload);
            let _ = read(&format!("socket.io{between}{channel}"), &payload);
        }

        #[test]
        fn so_are_broken_messages(at: prop::sample::Index, byte: u8) {
            let mut payload = message("news", &["a"], &["b"]);
            let place = at.index(payload.len());
            payload[place] = byte;
            let _ = read("socket.io#/chat#a#", &payload);
        }
    }
}
