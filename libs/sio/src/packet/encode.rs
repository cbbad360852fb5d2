//! Encoding for Engine.IO v4 and the JSON parser. Every function gives finished WebSocket frames.
//!
//! Names are escaped here; what is called raw must be valid JSON already. A namespace must hold no comma.

use bytes::Bytes;

use super::Encoded;
use crate::json;
use crate::ws::frame::{self, MAX_HEADER};

/// `0`: the handshake; `payload` from [`crate::engine::open_payload`].
#[must_use]
pub fn engine_open(payload: &str) -> Encoded {
    engine_packet(b'0', payload)
}

/// `1`: the session is closed.
#[must_use]
pub fn engine_close() -> Encoded {
    Encoded::from_frames(Bytes::from_static(b"\x81\x011"))
}

/// `2`: a heartbeat, or `2probe`.
#[must_use]
pub fn engine_ping(probe: bool) -> Encoded {
    Encoded::from_frames(Bytes::from_static(if probe {
        b"\x81\x062probe"
    } else {
        b"\x81\x012"
    }))
}

/// `3`: answers a ping with its payload.
#[must_use]
pub fn engine_pong(data: &str) -> Encoded {
    engine_packet(b'3', data)
}

/// `4`: a bare Engine.IO text message.
#[must_use]
pub fn engine_text(text: &str) -> Encoded {
    engine_packet(b'4', text)
}

/// A bare Engine.IO binary message.
#[must_use]
pub fn engine_binary(data: Bytes) -> Encoded {
    let mut out = Vec::with_capacity(MAX_HEADER + data.len());
    frame::write_binary(&mut out, &data);
    Encoded::from_frames(out.into())
}

/// `6`: releases a poll.
#[must_use]
pub fn engine_noop() -> Encoded {
    Encoded::from_frames(Bytes::from_static(b"\x81\x016"))
}

/// CONNECT: the namespace is joined. `pid` is given when the connection can be recovered.
#[must_use]
pub fn connect(namespace: &str, sid: &str, pid: Option<&str>) -> Encoded {
    let room = sid.len() + pid.map_or(0, str::len) + 20;
    let mut text = Text::new(b'0', namespace, None, &[], room);
    text.raw(r#"{"sid":"#);
    text.string(sid);
    if let Some(pid) = pid {
        text.raw(r#","pid":"#);
        text.string(pid);
    }
    text.raw("}");
    text.finish(&[])
}

/// CONNECT_ERROR: the namespace is refused. `data` is raw JSON.
#[must_use]
pub fn connect_error(namespace: &str, message: &str, data: Option<&str>) -> Encoded {
    let room = message.len() + data.map_or(0, str::len) + 25;
    let mut text = Text::new(b'4', namespace, None, &[], room);
    text.raw(r#"{"message":"#);
    text.string(message);
    if let Some(data) = data {
        text.raw(r#","data":"#);
        text.raw(data);
    }
    text.raw("}");
    text.finish(&[])
}

/// DISCONNECT: the client is put out of the namespace (and, if it is a stock client, does not come back).
#[must_use]
pub fn disconnect(namespace: &str) -> Encoded {
    Text::new(b'1', namespace, None, &[], 0).finish(&[])
}

/// EVENT, or BINARY_EVENT when there are attachments.
///
/// `args` are raw, comma-separated, without brackets (see [`super::RawArgs`]); its placeholders number `attachments`.
/// `trailing_offset` is appended as one more string: the client's position for connection state recovery.
#[must_use]
pub fn event(
    namespace: &str,
    ack: Option<u64>,
    name: &str,
    args: &str,
    attachments: &[Bytes],
    trailing_offset: Option<&str>,
) -> Encoded {
    let room = name.len() + args.len() + trailing_offset.map_or(0, str::len) + 10;
    let kind = if attachments.is_empty() { b'2' } else { b'5' };
    let mut text = Text::new(kind, namespace, ack, attachments, room);
    text.raw("[");
    text.string(name);
    if !args.is_empty() {
        text.raw(",");
        text.raw(args);
    }
    if let Some(offset) = trailing_offset {
        text.raw(",");
        text.string(offset);
    }
    text.raw("]");
    text.finish(attachments)
}

/// ACK, or BINARY_ACK when there are attachments. `args` as in [`event`].
#[must_use]
pub fn ack(namespace: &str, id: u64, args: &str, attachments: &[Bytes]) -> Encoded {
    let kind = if attachments.is_empty() { b'3' } else { b'6' };
    let mut text = Text::new(kind, namespace, Some(id), attachments, args.len() + 2);
    text.raw("[");
    text.raw(args);
    text.raw("]");
    text.finish(attachments)
}

fn engine_packet(kind: u8, payload: &str) -> Encoded {
    let mut text = Text::with_room(payload.len() + 1);
    text.out.push(kind);
    text.raw(payload);
    text.finish(&[])
}

/// A text frame in the making: room for the longest header is left in front and cut off at the end, so that the
/// payload is written once.
struct Text {
    out: Vec<u8>,
}

impl Text {
    fn with_room(room: usize) -> Self {
        let mut out = Vec::with_capacity(MAX_HEADER + room);
        out.resize(MAX_HEADER, 0);
        Self { out }
    }

    /// `4<type>[<n>-][<namespace>,][<id>]`; `room` is what the payload needs.
    fn new(kind: u8, namespace: &str, id: Option<u64>, attachments: &[Bytes], room: usize) -> Self {
        const LONGEST_NUMBERS: usize = 42;
        let attached: usize = attachments.iter().map(|data| MAX_HEADER + data.len()).sum();
        let mut text = Self::with_room(namespace.len() + room + attached + LONGEST_NUMBERS);
        text.out.extend_from_slice(&[b'4', kind]);
        if !attachments.is_empty() {
            text.raw(itoa::Buffer::new().format(attachments.len()));
            text.raw("-");
        }
        if namespace != "/" {
            text.raw(namespace);
            text.raw(",");
        }
        if let Some(id) = id {
            text.raw(itoa::Buffer::new().format(id));
        }
        text
    }

    fn raw(&mut self, text: &str) {
        self.out.extend_from_slice(text.as_bytes());
    }

    fn string(&mut self, text: &str) {
        json::write_string(&mut self.out, text);
    }

    fn finish(mut self, attachments: &[Bytes]) -> Encoded {
        let start = frame::put_text_header(&mut self.out);
        for data in attachments {
            frame::write_binary(&mut self.out, data);
        }
        Encoded::from_frames(Bytes::from(self.out).slice(start..))
    }
}
