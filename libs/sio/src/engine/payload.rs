//! Bodies of long-polling requests (protocol v4, "Packet encoding: HTTP long-polling"): packets separated by `0x1e`,
//! binary ones as `b` and base64. [`v3`] has those of the older protocol.

pub mod v3;

use base64::Engine as _;
use bytes::Bytes;
use bytestring::ByteString;

use super::packet::BASE64;
use super::{DecodeError, Packet};
use crate::packet::Frame;

/// ASCII "record separator".
const SEPARATOR: u8 = 0x1e;

/// The packets of a body, one by one: nothing is taken for those not asked for yet. Ends after the first error.
///
/// # Errors
/// [`DecodeError::InvalidUtf8`]; an item is an error if its chunk is (an empty body is one empty chunk).
pub fn packets(body: Bytes) -> Result<Packets, DecodeError> {
    let text = ByteString::try_from(body).map_err(|_| DecodeError::InvalidUtf8)?;
    Ok(Packets { rest: Some(text) })
}

/// All packets of a body; none if one of them is bad.
///
/// A packet takes tens of bytes however short its chunk: for a body of a client prefer [`packets`].
///
/// # Errors
/// [`DecodeError`] of the body or of its first bad packet.
pub fn decode(body: Bytes) -> Result<Vec<Packet>, DecodeError> {
    packets(body)?.collect()
}

/// A body from encoded packets; text frames must begin with their packet type.
pub fn encode(frames: impl IntoIterator<Item = Frame>) -> Vec<u8> {
    let mut body = Vec::new();
    for (position, frame) in frames.into_iter().enumerate() {
        if position > 0 {
            body.push(SEPARATOR);
        }
        if frame.binary {
            body.push(b'b');
            let start = body.len();
            let encoded_len = frame.payload.len().div_ceil(3) * 4;
            body.resize(start + encoded_len, 0);
            // The room is exactly what padded base64 takes, so this cannot fail; were it to, nothing is sent.
            let written = BASE64
                .encode_slice(&frame.payload, &mut body[start..])
                .unwrap_or(0);
            body.truncate(start + written);
        } else {
            body.extend_from_slice(&frame.payload);
        }
    }
    body
}

/// Iterator of [`packets`].
#[derive(Debug)]
pub struct Packets {
    rest: Option<ByteString>,
}

impl Iterator for Packets {
    type Item = Result<Packet, DecodeError>;

    fn next(&mut self) -> Option<Self::Item> {
        let text = self.rest.take()?;
        let chunk = match memchr::memchr(SEPARATOR, text.as_bytes()) {
            Some(at) => {
                self.rest = Some(text.slice_ref(&text[at + 1..]));
                text.slice_ref(&text[..at])
            }
            None => text,
        };
        let packet = Packet::decode_text(chunk);
        if packet.is_err() {
            self.rest = None;
        }
        Some(packet)
    }
}
