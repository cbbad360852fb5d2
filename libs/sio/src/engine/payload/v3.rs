//! Bodies of long-polling requests in protocol v3 ("Payload"): each packet behind its length. As text the length counts
//! UTF-16 code units and binary packets are `b4` and base64; as bytes, for whom that can be sent to, nothing is encoded.

use base64::Engine as _;
use bytes::Bytes;
use bytestring::ByteString;

use super::super::packet::BASE64;
use super::super::{DecodeError, Packet, Version};
use crate::packet::Frame;

/// Longest length in digits: more is no length that a body can have.
const MAX_DIGITS: usize = 10;
const TEXT: u8 = 0;
const BINARY: u8 = 1;
/// Ends a length among bytes.
const END: u8 = 0xff;

/// The packets of a body, one by one. `binary`: it was sent as bytes. Ends after the first error.
///
/// # Errors
/// [`DecodeError::InvalidUtf8`], [`DecodeError::Empty`]; an item is an error if its packet is.
pub fn packets(body: Bytes, binary: bool) -> Result<Packets, DecodeError> {
    if body.is_empty() {
        return Err(DecodeError::Empty);
    }
    let rest = if binary {
        Rest::Bytes(body)
    } else {
        Rest::Text(ByteString::try_from(body).map_err(|_| DecodeError::InvalidUtf8)?)
    };
    Ok(Packets { rest })
}

/// A body from packets in the dialect of v3, whose binary frames begin with their type; and whether it is bytes.
/// `base64`: the client takes text alone.
pub fn encode(frames: impl IntoIterator<Item = Frame>, base64: bool) -> (Vec<u8>, bool) {
    let frames: Vec<_> = frames.into_iter().collect();
    let binary = !base64 && frames.iter().any(|frame| frame.binary);
    let mut body = Vec::new();
    for Frame {
        binary: data,
        payload,
    } in frames
    {
        match (binary, data) {
            (true, _) => {
                body.push(if data { BINARY } else { TEXT });
                let mut length = itoa::Buffer::new();
                let digits = length.format(payload.len()).bytes();
                body.extend(digits.map(|digit| digit - b'0'));
                body.push(END);
                body.extend_from_slice(&payload);
            }
            (false, true) => {
                let text = BASE64.encode(payload.get(1..).unwrap_or_default());
                put_length(&mut body, text.len() + 2);
                body.extend_from_slice(b"b4");
                body.extend_from_slice(text.as_bytes());
            }
            (false, false) => {
                // Text frames are UTF-8 from the start; were one not, its bytes would count.
                let units = std::str::from_utf8(&payload).map(|text| text.encode_utf16().count());
                put_length(&mut body, units.unwrap_or(payload.len()));
                body.extend_from_slice(&payload);
            }
        }
    }
    (body, binary)
}

fn put_length(body: &mut Vec<u8>, length: usize) {
    body.extend_from_slice(itoa::Buffer::new().format(length).as_bytes());
    body.push(b':');
}

/// Iterator of [`packets`].
#[derive(Debug)]
pub struct Packets {
    rest: Rest,
}

#[derive(Debug)]
enum Rest {
    Text(ByteString),
    Bytes(Bytes),
}

impl Iterator for Packets {
    type Item = Result<Packet, DecodeError>;

    fn next(&mut self) -> Option<Self::Item> {
        let packet = match &mut self.rest {
            Rest::Text(text) if text.is_empty() => return None,
            Rest::Bytes(bytes) if bytes.is_empty() => return None,
            Rest::Text(text) => next_text(text),
            Rest::Bytes(bytes) => next_bytes(bytes),
        };
        if packet.is_err() {
            self.rest = Rest::Bytes(Bytes::new());
        }
        Some(packet)
    }
}

fn next_text(rest: &mut ByteString) -> Result<Packet, DecodeError> {
    let colon = rest
        .bytes()
        .take(MAX_DIGITS + 1)
        .position(|byte| byte == b':')
        .ok_or(DecodeError::InvalidLength)?;
    let length: usize = rest[..colon].parse().map_err(|_| DecodeError::InvalidLength)?;
    let (start, mut end, mut units) = (colon + 1, colon + 1, 0);
    for character in rest[start..].chars() {
        if units >= length {
            break;
        }
        units += character.len_utf16();
        end += character.len_utf8();
    }
    if units != length {
        return Err(DecodeError::InvalidLength);
    }
    let packet = rest.slice_ref(&rest[start..end]);
    *rest = rest.slice_ref(&rest[end..]);
    Packet::decode_message(Version::V3, packet)
}

fn next_bytes(rest: &mut Bytes) -> Result<Packet, DecodeError> {
    let digits = rest
        .iter()
        .skip(1)
        .take(MAX_DIGITS + 1)
        .position(|byte| *byte == END)
        .ok_or(DecodeError::InvalidLength)?;
    let head = rest.split_to(digits + 2);
    let mut length = 0_usize;
    for digit in &head[1..=digits] {
        if *digit > 9 {
            return Err(DecodeError::InvalidLength);
        }
        length = length * 10 + usize::from(*digit);
    }
    if digits == 0 || length > rest.len() {
        return Err(DecodeError::InvalidLength);
    }
    let packet = rest.split_to(length);
    match head[0] {
        TEXT => {
            let text = ByteString::try_from(packet).map_err(|_| DecodeError::InvalidUtf8)?;
            Packet::decode_message(Version::V3, text)
        }
        BINARY => Packet::decode_binary(Version::V3, packet),
        _ => Err(DecodeError::UnknownType),
    }
}
