use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use bytes::Bytes;
use bytestring::ByteString;

use super::Version;

/// A decoded Engine.IO packet (protocol v4, "Protocol").
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Packet {
    /// `0`: the handshake; a client has no business sending it.
    Open(ByteString),
    /// `1`: the session ends.
    Close,
    /// `2`: a heartbeat, or the probe of an upgrade.
    Ping(ByteString),
    /// `3`: the answer to a ping.
    Pong(ByteString),
    /// `4`: a text message.
    Text(ByteString),
    /// A binary message: a binary WebSocket message, or `b` and base64 in text.
    Binary(Bytes),
    /// `5`: the upgrade is complete.
    Upgrade,
    /// `6`: nothing, to release a poll.
    Noop,
}

/// What is wrong with an Engine.IO packet; the session is closed with "parse error".
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum DecodeError {
    /// An empty packet or payload.
    #[error("empty packet")]
    Empty,
    /// The first character is no packet type.
    #[error("unknown packet type")]
    UnknownType,
    /// A payload that is not UTF-8.
    #[error("payload is not UTF-8")]
    InvalidUtf8,
    /// Text after `b` that is not base64.
    #[error("binary packet is not base64")]
    InvalidBase64,
    /// A length of protocol v3 that is none, or more than there is.
    #[error("invalid length of a packet")]
    InvalidLength,
}

/// Clients pad or do not; what the padding bits hold means nothing (the reference ignores both).
pub(super) const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

impl Packet {
    /// Decodes a text message of a WebSocket or one chunk of a polling payload. The payload is a slice of `text`.
    ///
    /// # Errors
    /// [`DecodeError::Empty`], [`DecodeError::UnknownType`], [`DecodeError::InvalidBase64`].
    pub fn decode_text(text: ByteString) -> Result<Self, DecodeError> {
        let Some(kind) = text.as_bytes().first() else {
            return Err(DecodeError::Empty);
        };
        match kind {
            b'0' => Ok(Self::Open(after_type(&text))),
            b'1' => Ok(Self::Close),
            b'2' => Ok(Self::Ping(after_type(&text))),
            b'3' => Ok(Self::Pong(after_type(&text))),
            b'4' => Ok(Self::Text(after_type(&text))),
            b'5' => Ok(Self::Upgrade),
            b'6' => Ok(Self::Noop),
            b'b' => {
                let data = BASE64
                    .decode(&text[1..])
                    .map_err(|_| DecodeError::InvalidBase64)?;
                Ok(Self::Binary(data.into()))
            }
            _ => Err(DecodeError::UnknownType),
        }
    }

    /// The same for either version: in v3 a binary packet as text has its type behind the `b`.
    ///
    /// # Errors
    /// As [`Packet::decode_text`]; in v3 binary packets are messages, others are [`DecodeError::UnknownType`].
    pub fn decode_message(version: Version, text: ByteString) -> Result<Self, DecodeError> {
        match (version, &text.as_bytes()[..]) {
            (Version::V3, [b'b', b'4', data @ ..]) => {
                let data = BASE64.decode(data).map_err(|_| DecodeError::InvalidBase64)?;
                Ok(Self::Binary(data.into()))
            }
            (Version::V3, [b'b', ..]) => Err(DecodeError::UnknownType),
            _ => Self::decode_text(text),
        }
    }

    /// Decodes a binary WebSocket message: in v4 the whole of it is the payload of a message packet, in v3 what is behind
    /// its first byte, the packet's type.
    ///
    /// # Errors
    /// [`DecodeError::Empty`] and, for other types than messages, [`DecodeError::UnknownType`], both in v3 alone.
    pub fn decode_binary(version: Version, data: Bytes) -> Result<Self, DecodeError> {
        match (version, data.first()) {
            (Version::V4, _) => Ok(Self::Binary(data)),
            (Version::V3, Some(4)) => Ok(Self::Binary(data.slice(1..))),
            (Version::V3, Some(_)) => Err(DecodeError::UnknownType),
            (Version::V3, None) => Err(DecodeError::Empty),
        }
    }
}

fn after_type(text: &ByteString) -> ByteString {
    text.slice_ref(&text[1..])
}
