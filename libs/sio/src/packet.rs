//! Socket.IO v5 packets: decoding of a text message, and encoding once for all receivers ([`encode`]).
//!
//! Rules are those of `socket.io-protocol` v5; where its text is loose, of socket.io-parser 4.2.7 — except that what
//! only JavaScript's number coercion lets pass (`2 ["a"]`, `51e0-…`, an EVENT or ACK without payload) is refused here.

mod args;
mod decode;
pub mod encode;
mod encoded;
pub mod msgpack;
mod wire;

use bytes::Bytes;
use bytestring::ByteString;

pub use args::RawArgs;
pub use decode::{DecodeError, Decoded, MAX_NAMESPACE_BYTES, RESERVED_EVENTS};
pub use encoded::{Encoded, Frame, Frames};
pub use wire::{Dialect, Wire, connect_of_v4};

/// What a client may make us hold or scan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Binary attachments of a packet.
    pub max_attachments: usize,
    /// Nested JSON containers, the payload's own array or object included; more than 128 counts as 128.
    pub max_depth: usize,
    /// Arguments of an event (its name not counted) or of an acknowledgement.
    pub max_args: usize,
}

impl Limits {
    /// 10 attachments, 64 levels, 256 arguments.
    pub const DEFAULT: Self = Self {
        max_attachments: 10,
        max_depth: 64,
        max_args: 256,
    };
}

impl Default for Limits {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// A Socket.IO packet.
///
/// Texts are slices of the message they came in: keep none longer than the packet, or the whole message stays in
/// memory. `attachments` are what the placeholders in the arguments number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Packet {
    /// `0`: asks for a namespace.
    Connect {
        /// Beginning with `/`.
        namespace: ByteString,
        /// A raw JSON object.
        auth: Option<ByteString>,
    },
    /// `1`: leaves a namespace.
    Disconnect {
        /// Beginning with `/`.
        namespace: ByteString,
    },
    /// `2` and `5`: an event.
    Event {
        /// Beginning with `/`.
        namespace: ByteString,
        /// Id under which an acknowledgement is awaited; at most 2^53 - 1.
        ack: Option<u64>,
        /// What happened.
        name: EventName,
        /// With what.
        args: RawArgs,
        /// Binary data, in the order of their numbers.
        attachments: Vec<Bytes>,
    },
    /// `3` and `6`: answers an event.
    Ack {
        /// Beginning with `/`.
        namespace: ByteString,
        /// Id of the event; at most 2^53 - 1.
        id: u64,
        /// With what.
        args: RawArgs,
        /// Binary data, in the order of their numbers.
        attachments: Vec<Bytes>,
    },
    /// `4`: refuses a namespace; servers send it, clients must not.
    ConnectError {
        /// Beginning with `/`.
        namespace: ByteString,
        /// A raw JSON object or string.
        data: Option<ByteString>,
    },
}

impl Packet {
    /// The namespace the packet is for.
    #[must_use]
    pub fn namespace(&self) -> &ByteString {
        match self {
            Self::Connect { namespace, .. }
            | Self::Disconnect { namespace }
            | Self::Event { namespace, .. }
            | Self::Ack { namespace, .. }
            | Self::ConnectError { namespace, .. } => namespace,
        }
    }
}

/// The first element of an event's payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EventName {
    /// A string, unescaped; never one of the reserved names.
    Text(ByteString),
    /// A number is legal too: its raw JSON.
    Number(ByteString),
}

impl EventName {
    /// The name, or the number as it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::Text(name) | Self::Number(name) => name,
        }
    }
}
