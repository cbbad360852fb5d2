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
    /// Binary packets of protocol v3 are not implemented.
    #[error("binary packets of this protocol version are not supported")]
    UnsupportedVersion,
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

    /// Decodes a binary WebSocket message: in v4 the whole of it is the payload of a message packet.
    ///
    /// # Errors
    /// [`DecodeError::UnsupportedVersion`] for v3.
    pub fn decode_binary(version: Version, data: Bytes) -> Result<Self, DecodeError> {
        match version {
            Version::V3 => Err(DecodeError::UnsupportedVersion),
            Version::V4 => Ok(Self::Binary(data)),
        }
    }
}

fn after_type(text: &ByteString) -> ByteString {
    text.slice_ref(&text[1..])
}
