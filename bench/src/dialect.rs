//! What servers are told and what they say, as bytes.

use std::io::Write;

use memchr::memmem::Finder;

use crate::wire::{self, Marker};

/// Which protocol a server speaks.
#[derive(
    Copy, Clone, Debug, Default, PartialEq, Eq, clap::ValueEnum, serde::Serialize, serde::Deserialize,
)]
pub enum Kind {
    /// Socket.IO with acknowledged `join-room`, `message` and `ping`.
    #[default]
    Fanfare,
    /// The WebSocket of nats-server; a verbose connection's `+OK` is the acknowledgement.
    Nats,
}

/// Something a server has said.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Incoming<'a> {
    /// The transport is open; the namespace may be asked for.
    Open,
    /// The namespace is open. Who shows `pid` after a loss of the connection is the same session.
    Connected { pid: Option<&'a [u8]> },
    /// An event that was published, and the position behind it.
    Message {
        marker: Marker,
        position: Option<&'a [u8]>,
    },
    /// An answer; without `id`, to the oldest open request.
    Ack { id: Option<u32>, ok: bool },
    /// A heartbeat that is to be answered.
    Ping,
    /// The server refuses.
    Refused,
    /// Anything else.
    Other,
}

/// A protocol, for one namespace.
pub(crate) struct Dialect {
    kind: Kind,
    /// As it stands in packets: empty for `/`, else with its comma.
    namespace: String,
    /// What an event `message` begins with.
    message: Vec<u8>,
    /// What an acknowledgement begins with, up to its id.
    ack: Vec<u8>,
    connected: Vec<u8>,
    refused: Vec<u8>,
    error: Finder<'static>,
    filler: Vec<u8>,
    path: String,
}

impl Dialect {
    /// `size` are the bytes of an event's content.
    pub(crate) fn new(kind: Kind, namespace: &str, path: &str, size: usize) -> Self {
        let namespace = match namespace {
            "/" => String::new(),
            named => format!("{named},"),
        };
        Self {
            kind,
            message: format!("42{namespace}[\"message\"").into_bytes(),
            ack: format!("43{namespace}").into_bytes(),
            connected: format!("40{}", namespace.trim_end_matches(',')).into_bytes(),
            refused: format!("44{namespace}").into_bytes(),
            error: Finder::new(b"\"status\":\"error\""),
            filler: vec![b'-'; size.saturating_sub(wire::MARKER)],
            path: path.to_owned(),
            namespace,
        }
    }

    /// The request that opens the WebSocket.
    pub(crate) fn upgrade(&self, out: &mut Vec<u8>, host: &str) {
        let path = match self.kind {
            Kind::Fanfare => format!("{}?EIO=4&transport=websocket", self.path),
            Kind::Nats => "/".to_owned(),
        };
        put(
            out,
            format_args!(
                "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                 Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
            ),
        );
    }

    /// Asks for the namespace, as somebody with a token, or as the session `resume` (its `pid`, and the position
    /// of the last event it had).
    pub(crate) fn connect(
        &self,
        out: &mut Vec<u8>,
        token: Option<&str>,
        resume: Option<(&[u8], Option<&[u8]>)>,
    ) {
        if self.kind == Kind::Nats {
            let hello = "CONNECT {\"verbose\":true,\"pedantic\":false,\"lang\":\"bench\",\"version\":\"1\",\"protocol\":1}\r\n";
            wire::frame(out, wire::BINARY, &[hello.as_bytes()]);
            return;
        }
        let mut auth = Vec::new();
        let mut field = |name: &str, value: &[u8]| {
            auth.extend(if auth.is_empty() { b"{\"" } else { b",\"" });
            auth.extend(name.as_bytes());
            auth.extend(b"\":\"");
            auth.extend(value);
            auth.push(b'"');
        };
        if let Some(token) = token {
            field("token", token.as_bytes());
        }
        if let Some((pid, offset)) = resume {
            field("pid", pid);
            if let Some(offset) = offset {
                field("offset", offset);
            }
        }
        if !auth.is_empty() {
            auth.push(b'}');
        }
        wire::frame(out, wire::TEXT, &[b"40", self.namespace.as_bytes(), &auth]);
    }

    /// Joins a room.
    pub(crate) fn join(&self, out: &mut Vec<u8>, id: u32, room: &str) {
        match self.kind {
            Kind::Fanfare => self.event(out, id, "join-room", room),
            Kind::Nats => wire::frame(out, wire::BINARY, &[format!("SUB bench.{room} 1\r\n").as_bytes()]),
        }
    }

    /// Leaves a room.
    pub(crate) fn leave(&self, out: &mut Vec<u8>, id: u32, room: &str) {
        match self.kind {
            Kind::Fanfare => self.event(out, id, "leave-room", room),
            Kind::Nats => wire::frame(out, wire::BINARY, &[b"UNSUB 1\r\n"]),
        }
    }

    fn event(&self, out: &mut Vec<u8>, id: u32, event: &str, room: &str) {
        let namespace = &self.namespace;
        let text = format!("42{namespace}{id}[\"{event}\",{{\"roomId\":\"{room}\"}}]");
        wire::frame(out, wire::TEXT, &[text.as_bytes()]);
    }

    /// Publishes an event with a marker.
    pub(crate) fn publish(&self, out: &mut Vec<u8>, id: u32, room: &str, marker: Marker) {
        let mut content = Vec::with_capacity(wire::MARKER);
        marker.write(&mut content);
        match self.kind {
            Kind::Fanfare => {
                let mut head = Vec::with_capacity(80);
                let namespace = &self.namespace;
                put(
                    &mut head,
                    format_args!("42{namespace}{id}[\"message\",{{\"roomId\":\"{room}\",\"content\":\""),
                );
                wire::frame(out, wire::TEXT, &[&head, &content, &self.filler, b"\"}]"]);
            }
            Kind::Nats => {
                let size = wire::MARKER + self.filler.len();
                let head = format!("PUB bench.{room} {size}\r\n");
                wire::frame(
                    out,
                    wire::BINARY,
                    &[head.as_bytes(), &content, &self.filler, b"\r\n"],
                );
            }
        }
    }

    /// Asks for an answer of the server itself.
    pub(crate) fn ping(&self, out: &mut Vec<u8>, id: u32) {
        match self.kind {
            Kind::Fanfare => {
                let text = format!("42{}{id}[\"ping\"]", self.namespace);
                wire::frame(out, wire::TEXT, &[text.as_bytes()]);
            }
            Kind::Nats => wire::frame(out, wire::BINARY, &[b"PING\r\n"]),
        }
    }

    /// Answers a heartbeat.
    pub(crate) fn pong(&self, out: &mut Vec<u8>) {
        match self.kind {
            Kind::Fanfare => wire::frame(out, wire::TEXT, &[b"3"]),
            Kind::Nats => wire::frame(out, wire::BINARY, &[b"PONG\r\n"]),
        }
    }

    /// Says good bye.
    pub(crate) fn close(&self, out: &mut Vec<u8>) {
        if self.kind == Kind::Fanfare {
            wire::frame(out, wire::TEXT, &[b"41", self.namespace.as_bytes()]);
        }
        wire::frame(out, wire::CLOSE, &[&1000_u16.to_be_bytes()]);
    }

    /// Tells what a message says. `carry` keeps what of a byte stream is not complete. Positions are looked for
    /// only when they are `wanted`.
    pub(crate) fn read(
        &self,
        payload: &[u8],
        carry: &mut Vec<u8>,
        wanted: bool,
        mut said: impl FnMut(Incoming<'_>),
    ) {
        match self.kind {
            Kind::Fanfare => said(self.packet(payload, wanted)),
            Kind::Nats if carry.is_empty() => {
                let done = nats(payload, &mut said);
                carry.extend_from_slice(&payload[done..]);
            }
            Kind::Nats => {
                carry.extend_from_slice(payload);
                let done = nats(carry, &mut said);
                carry.drain(..done);
            }
        }
    }

    fn packet<'a>(&self, payload: &'a [u8], wanted: bool) -> Incoming<'a> {
        if payload.starts_with(&self.message) {
            return match Marker::find(&payload[self.message.len()..]) {
                Some(marker) => Incoming::Message {
                    marker,
                    position: wanted.then(|| position(payload)).flatten(),
                },
                None => Incoming::Other,
            };
        }
        if let Some(rest) = payload.strip_prefix(&*self.ack) {
            let mut id = 0_u32;
            let digits = rest.iter().take_while(|digit| digit.is_ascii_digit());
            for digit in digits {
                id = id.wrapping_mul(10).wrapping_add(u32::from(digit - b'0'));
            }
            return Incoming::Ack {
                id: Some(id),
                ok: self.error.find(rest).is_none(),
            };
        }
        match payload {
            b"2" => Incoming::Ping,
            [b'0', ..] => Incoming::Open,
            _ if payload.starts_with(&self.connected) => Incoming::Connected {
                pid: string(payload, b"\"pid\":\""),
            },
            _ if payload.starts_with(&self.refused) => Incoming::Refused,
            _ => Incoming::Other,
        }
    }
}

/// Writing to memory does not fail.
fn put(out: &mut Vec<u8>, what: std::fmt::Arguments<'_>) {
    let _ = out.write_fmt(what);
}

/// The trailing string argument of an event whose argument before is an object.
fn position(payload: &[u8]) -> Option<&[u8]> {
    let inner = payload.strip_suffix(b"\"]")?;
    let from = memchr::memrchr(b'"', inner)?;
    inner[..from].ends_with(b"},").then(|| &inner[from + 1..])
}

fn string<'a>(payload: &'a [u8], key: &[u8]) -> Option<&'a [u8]> {
    let from = memchr::memmem::find(payload, key)? + key.len();
    let length = memchr::memchr(b'"', &payload[from..])?;
    Some(&payload[from..from + length])
}

/// Reads whole operations of the NATS protocol; how many bytes they had.
fn nats(stream: &[u8], said: &mut impl FnMut(Incoming<'_>)) -> usize {
    let mut done = 0;
    while let Some(length) = memchr::memmem::find(&stream[done..], b"\r\n") {
        let line = &stream[done..done + length];
        let mut end = done + length + 2;
        let incoming = if line.starts_with(b"MSG ") {
            let size = line
                .rsplit(|byte| *byte == b' ')
                .next()
                .and_then(|size| std::str::from_utf8(size).ok()?.parse::<usize>().ok())
                .unwrap_or(0);
            let Some(payload) = stream.get(end..end + size + 2) else {
                break;
            };
            end += size + 2;
            match Marker::find(payload) {
                Some(marker) => Incoming::Message {
                    marker,
                    position: None,
                },
                None => Incoming::Other,
            }
        } else {
            match line {
                b"PING" => Incoming::Ping,
                b"+OK" | b"PONG" => Incoming::Ack { id: None, ok: true },
                _ if line.starts_with(b"-ERR") => Incoming::Refused,
                _ if line.starts_with(b"INFO") => Incoming::Open,
                _ => Incoming::Other,
            }
        };
        said(incoming);
        done = end;
    }
    done
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fanfare() -> Dialect {
        Dialect::new(Kind::Fanfare, "/chat", "/socket.io/", 40)
    }

    const SOME: Marker = Marker {
        publisher: 3,
        number: 9,
        intended: 12,
    };

    fn told(dialect: &Dialect, payload: &[u8]) -> String {
        let mut told = String::new();
        dialect.read(payload, &mut Vec::new(), true, |incoming| {
            told = format!("{incoming:?}");
        });
        told
    }

    #[test]
    fn packets_are_told_by_how_they_begin() {
        let dialect = fanfare();
        assert_eq!(told(&dialect, b"0{\"sid\":\"x\"}"), "Open");
        assert_eq!(told(&dialect, b"2"), "Ping");
        assert_eq!(
            told(&dialect, b"40/chat,{\"sid\":\"x\",\"pid\":\"ab\"}"),
            format!("{:?}", Incoming::Connected { pid: Some(b"ab") })
        );
        assert_eq!(told(&dialect, b"44/chat,{}"), "Refused");
        assert_eq!(
            told(&dialect, b"43/chat,17[{\"status\":\"ok\"}]"),
            "Ack { id: Some(17), ok: true }"
        );
        assert_eq!(
            told(&dialect, b"43/chat,17[{\"status\":\"error\"}]"),
            "Ack { id: Some(17), ok: false }"
        );
        assert_eq!(told(&dialect, b"42/chat,[\"room-presence\",{}]"), "Other");
    }

    #[test]
    fn an_event_has_its_marker_and_its_position() {
        let dialect = fanfare();
        for (end, position) in [("},\"1-2\"]", Some(&b"1-2"[..])), ("}]", None)] {
            let mut payload = b"42/chat,[\"message\",{\"content\":\"".to_vec();
            SOME.write(&mut payload);
            payload.extend(format!("----\",\"type\":\"text\"{end}").as_bytes());
            let expected = Incoming::Message {
                marker: SOME,
                position,
            };
            assert_eq!(told(&dialect, &payload), format!("{expected:?}"));
        }
    }

    #[test]
    fn a_stream_of_nats_operations_may_be_cut_anywhere() {
        let dialect = Dialect::new(Kind::Nats, "/", "/", 40);
        let mut stream = b"INFO {}\r\n+OK\r\nMSG bench.r 1 32\r\n".to_vec();
        SOME.write(&mut stream);
        stream.extend(b"\r\nPING\r\n");
        for cut in 0..stream.len() {
            let (mut carry, mut told) = (Vec::new(), Vec::new());
            for part in [&stream[..cut], &stream[cut..]] {
                dialect.read(part, &mut carry, false, |incoming| {
                    told.push(format!("{incoming:?}"));
                });
            }
            assert_eq!(told.len(), 4, "{cut}: {told:?}");
            assert!(told[2].contains("number: 9"), "{told:?}");
        }
    }
}
