//! Frames a server sends (never masked, never fragmented), and the accept key of the opening handshake.

use base64::Engine as _;
use bytes::Bytes;
use sha1::{Digest as _, Sha1};

/// A server's longest frame header: 2 bytes and a 64-bit length.
pub(crate) const MAX_HEADER: usize = 10;

/// Longest payload of a control frame (RFC 6455 section 5.5).
const MAX_CONTROL: usize = 125;

const FIN: u8 = 0x80;
const TEXT: u8 = FIN | 0x1;
const BINARY: u8 = FIN | 0x2;
const CLOSE: u8 = FIN | 0x8;
const PONG: u8 = FIN | 0xA;
/// RSV1.
const COMPRESSED: u8 = 0x40;

/// A close frame; `reason` is cut to the 123 bytes there are for it (RFC 6455 section 5.5.1).
#[must_use]
pub fn close(code: u16, reason: &str) -> Bytes {
    let reason = &reason.as_bytes()[..reason.floor_char_boundary(MAX_CONTROL - 2)];
    let mut out = Vec::with_capacity(4 + reason.len());
    write_header(&mut out, CLOSE, 2 + reason.len());
    out.extend_from_slice(&code.to_be_bytes());
    out.extend_from_slice(reason);
    out.into()
}

/// A pong frame; a payload longer than a ping can have is cut (RFC 6455 section 5.5.3).
#[must_use]
pub fn pong(payload: &[u8]) -> Bytes {
    let payload = &payload[..payload.len().min(MAX_CONTROL)];
    let mut out = Vec::with_capacity(2 + payload.len());
    write_header(&mut out, PONG, payload.len());
    out.extend_from_slice(payload);
    out.into()
}

/// The `Sec-WebSocket-Accept` for a `Sec-WebSocket-Key` (RFC 6455 section 4.2.2).
#[must_use]
pub fn accept_key(sec_websocket_key: &str) -> String {
    let mut hash = Sha1::new();
    hash.update(sec_websocket_key.trim_ascii());
    hash.update(b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    base64::engine::general_purpose::STANDARD.encode(hash.finalize())
}

/// Appends a binary frame.
pub(crate) fn write_binary(out: &mut Vec<u8>, payload: &[u8]) {
    write_header(out, BINARY, payload.len());
    out.extend_from_slice(payload);
}

/// Appends a text frame.
pub(crate) fn write_text(out: &mut Vec<u8>, payload: &[u8]) {
    write_header(out, TEXT, payload.len());
    out.extend_from_slice(payload);
}

/// Appends a frame whose payload is compressed (RFC 7692 section 6.1).
pub(super) fn write_compressed(out: &mut Vec<u8>, binary: bool, payload: &[u8]) {
    let first = if binary { BINARY } else { TEXT };
    write_header(out, first | COMPRESSED, payload.len());
    out.extend_from_slice(payload);
}

/// Appends a binary frame of two parts.
pub(crate) fn write_binary_behind(out: &mut Vec<u8>, first: u8, payload: &[u8]) {
    write_header(out, BINARY, payload.len() + 1);
    out.push(first);
    out.extend_from_slice(payload);
}

/// Puts the header of a text frame right before its payload, which begins at [`MAX_HEADER`] and is all the rest.
/// Returns where the frame begins.
pub(crate) fn put_text_header(out: &mut [u8]) -> usize {
    let (room, payload) = out.split_at_mut(MAX_HEADER);
    let (header, len) = header(TEXT, payload.len());
    let start = MAX_HEADER - len;
    room[start..].copy_from_slice(&header[..len]);
    start
}

/// The header of a server's frame.
pub(crate) struct UnmaskedHeader {
    pub(crate) binary: bool,
    pub(crate) control: bool,
    /// Length of the header itself.
    pub(crate) len: usize,
    pub(crate) payload_len: usize,
}

/// The header at the start of `bytes`, which then hold no less than it.
pub(crate) fn unmasked_header(bytes: &[u8]) -> Option<UnmaskedHeader> {
    let &[first, short, ..] = bytes else { return None };
    let (len, payload_len) = match short {
        127 => (10, u64::from_be_bytes(*bytes.get(2..)?.first_chunk()?)),
        126 => (4, u64::from(u16::from_be_bytes(*bytes.get(2..)?.first_chunk()?))),
        payload_len => (2, u64::from(payload_len)),
    };
    Some(UnmaskedHeader {
        binary: first == BINARY,
        control: first & 0x8 != 0,
        len,
        payload_len: usize::try_from(payload_len).ok()?,
    })
}

fn write_header(out: &mut Vec<u8>, first: u8, payload_len: usize) {
    let (header, len) = header(first, payload_len);
    out.extend_from_slice(&header[..len]);
}

/// A header and how much of the array it takes (RFC 6455 section 5.2).
fn header(first: u8, payload_len: usize) -> ([u8; MAX_HEADER], usize) {
    let mut header = [0; MAX_HEADER];
    header[0] = first;
    if let Ok(len @ 0..=125) = u8::try_from(payload_len) {
        header[1] = len;
        (header, 2)
    } else if let Ok(len) = u16::try_from(payload_len) {
        header[1] = 126;
        header[2..4].copy_from_slice(&len.to_be_bytes());
        (header, 4)
    } else {
        header[1] = 127;
        header[2..10].copy_from_slice(&(payload_len as u64).to_be_bytes());
        (header, 10)
    }
}
