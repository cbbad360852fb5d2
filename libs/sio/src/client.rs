//! The Socket.IO connection over one engine session: which namespaces it is in, reassembly of binary packets,
//! acknowledgements the server waits for, and the time to join a first namespace.

use std::time::{Duration, Instant};

use bytes::Bytes;
use bytestring::ByteString;
use smallvec::SmallVec;

use crate::engine::CloseReason;
use crate::later;
use crate::packet::{DecodeError, Decoded, EventName, Limits, Packet, RawArgs, msgpack};

/// Namespaces a connection may be in or be joining at a time; the reference has no bound.
pub const MAX_NAMESPACES: usize = 256;

/// Acknowledgements awaited in a namespace at a time; the oldest is forgotten for a new one.
pub const MAX_PENDING_ACKS: usize = 256;

/// State of one connection: memory per connection.
#[derive(Debug)]
pub struct Client {
    namespaces: SmallVec<[Namespace; 1]>,
    partial: Option<Box<Partial>>,
    connect_by: Option<Instant>,
}

/// What a client asks for or tells; only what its state allows gets here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Incoming {
    /// Answer with [`Client::accepted`] or [`Client::rejected`] and the packet that goes with it.
    Connect {
        /// Beginning with `/`.
        namespace: ByteString,
        /// A raw JSON object.
        auth: Option<ByteString>,
    },
    /// An event in a joined namespace.
    Event {
        /// Beginning with `/`.
        namespace: ByteString,
        /// The id to acknowledge it with, if the client asked for that.
        ack: Option<u64>,
        /// What happened.
        name: EventName,
        /// With what.
        args: RawArgs,
        /// Binary data, in the order of their numbers.
        attachments: Vec<Bytes>,
    },
    /// The first answer to an acknowledgement that was asked for with [`Client::next_ack_id`].
    Ack {
        /// Beginning with `/`.
        namespace: ByteString,
        /// The id given out.
        id: u64,
        /// With what.
        args: RawArgs,
        /// Binary data, in the order of their numbers.
        attachments: Vec<Bytes>,
    },
    /// The client has left the namespace; the engine session stays open.
    Disconnect {
        /// Beginning with `/`.
        namespace: ByteString,
    },
}

/// Why the connection must be closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum ProtocolError {
    /// Not a packet.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// A text message where attachments are due.
    #[error("text while attachments are due")]
    AttachmentExpected,
    /// A binary message that belongs to no packet.
    #[error("attachment of no packet")]
    UnexpectedAttachment,
    /// CONNECT for a namespace joined or being joined.
    #[error("namespace already joined")]
    AlreadyConnected,
    /// A packet for a namespace not joined; so too a first packet that is not CONNECT.
    #[error("namespace not joined")]
    NotConnected,
    /// CONNECT_ERROR is the server's.
    #[error("packet type is the server's")]
    ServerPacket,
    /// Over [`MAX_NAMESPACES`].
    #[error("too many namespaces")]
    TooManyNamespaces,
}

impl ProtocolError {
    /// The reason to close the engine session with: "parse error" for what is no packet, and, as the reference says,
    /// "forced server close" for one that the state does not allow.
    #[must_use]
    pub fn reason(&self) -> CloseReason {
        match self {
            Self::Decode(_) | Self::AttachmentExpected | Self::UnexpectedAttachment => {
                CloseReason::ParseError
            }
            Self::AlreadyConnected | Self::NotConnected | Self::ServerPacket | Self::TooManyNamespaces => {
                CloseReason::ForcedServerClose
            }
        }
    }
}

#[derive(Debug)]
struct Namespace {
    name: ByteString,
    joined: bool,
    next_ack: u64,
    /// Ascending, because ids are.
    pending_acks: Vec<u64>,
}

/// A binary packet whose attachments have not all come.
#[derive(Debug)]
struct Partial {
    packet: Packet,
    attachments: Vec<Bytes>,
    expected: usize,
}

impl Client {
    /// A connection in no namespace; it must join one within `connect_timeout`.
    #[must_use]
    pub fn new(now: Instant, connect_timeout: Duration) -> Self {
        Self {
            namespaces: SmallVec::new(),
            partial: None,
            connect_by: Some(later(now, connect_timeout)),
        }
    }

    /// Takes the text of an Engine.IO message. `None`: attachments are to follow, or nobody waits for it.
    ///
    /// # Errors
    /// [`ProtocolError`]: close the engine session.
    pub fn on_text(&mut self, text: ByteString, limits: &Limits) -> Result<Option<Incoming>, ProtocolError> {
        if self.partial.is_some() {
            return Err(ProtocolError::AttachmentExpected);
        }
        let Decoded { packet, attachments } = Packet::decode(&text, limits)?;
        if attachments == 0 {
            return self.on_packet(packet, Vec::new());
        }
        self.check_joined(packet.namespace())?;
        self.partial = Some(Box::new(Partial {
            packet,
            attachments: Vec::new(),
            expected: attachments,
        }));
        Ok(None)
    }

    /// Takes a binary Engine.IO message: an attachment of the packet before it.
    ///
    /// # Errors
    /// [`ProtocolError`]: close the engine session.
    pub fn on_binary(&mut self, data: Bytes, _limits: &Limits) -> Result<Option<Incoming>, ProtocolError> {
        let mut partial = self.partial.take().ok_or(ProtocolError::UnexpectedAttachment)?;
        partial.attachments.push(data);
        if partial.attachments.len() < partial.expected {
            self.partial = Some(partial);
            return Ok(None);
        }
        self.on_packet(partial.packet, partial.attachments)
    }

    /// Takes a message of the msgpack parser: a whole packet.
    ///
    /// # Errors
    /// [`ProtocolError`]: close the engine session.
    pub fn on_msgpack(&mut self, message: &[u8], limits: &Limits) -> Result<Option<Incoming>, ProtocolError> {
        let (text, attachments) = msgpack::decode(message, limits)?;
        let mut incoming = self.on_text(text, limits)?;
        for data in attachments {
            incoming = self.on_binary(data, limits)?;
        }
        Ok(incoming)
    }

    /// Whether the client has said nothing that counts: it is in no namespace and asks for none.
    #[must_use]
    pub fn is_new(&self) -> bool {
        self.namespaces.is_empty() && self.partial.is_none()
    }

    /// The namespace of an [`Incoming::Connect`] is joined.
    pub fn accepted(&mut self, namespace: &str) {
        if let Some(joining) = self.find(namespace) {
            joining.joined = true;
            self.connect_by = None;
        }
    }

    /// The namespace of an [`Incoming::Connect`] is refused; the client may ask again.
    pub fn rejected(&mut self, namespace: &str) {
        self.left(namespace);
    }

    /// The server has put the client out of the namespace.
    pub fn left(&mut self, namespace: &str) {
        self.namespaces.retain(|known| known.name != namespace);
    }

    /// Whether the namespace is joined.
    #[must_use]
    pub fn is_connected(&self, namespace: &str) -> bool {
        self.namespaces
            .iter()
            .any(|known| known.joined && known.name == namespace)
    }

    /// The joined namespaces, in the order in which they were asked for.
    pub fn namespaces(&self) -> impl Iterator<Item = &str> {
        self.namespaces
            .iter()
            .filter(|known| known.joined)
            .map(|known| &*known.name)
    }

    /// An id for an event that asks the client for an acknowledgement; `None` when the namespace is not joined.
    ///
    /// At most [`MAX_PENDING_ACKS`] are awaited: the oldest is forgotten, and its answer, should it come, ignored.
    pub fn next_ack_id(&mut self, namespace: &str) -> Option<u64> {
        let known = self.find(namespace).filter(|known| known.joined)?;
        if known.pending_acks.len() == MAX_PENDING_ACKS {
            known.pending_acks.remove(0);
        }
        let id = known.next_ack;
        known.next_ack += 1;
        known.pending_acks.push(id);
        Some(id)
    }

    /// When [`Client::timed_out`] becomes true; `None` once a namespace has been joined.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.connect_by
    }

    /// Whether no namespace was joined in time: close with [`CloseReason::ConnectTimeout`].
    #[must_use]
    pub fn timed_out(&self, now: Instant) -> bool {
        self.connect_by.is_some_and(|by| by <= now)
    }

    fn on_packet(
        &mut self,
        packet: Packet,
        attachments: Vec<Bytes>,
    ) -> Result<Option<Incoming>, ProtocolError> {
        match packet {
            Packet::Connect { namespace, auth } => {
                self.join(&namespace)?;
                Ok(Some(Incoming::Connect { namespace, auth }))
            }
            Packet::Disconnect { namespace } => {
                self.check_joined(&namespace)?;
                self.left(&namespace);
                Ok(Some(Incoming::Disconnect { namespace }))
            }
            Packet::Event {
                namespace,
                ack,
                name,
                args,
                ..
            } => {
                self.check_joined(&namespace)?;
                Ok(Some(Incoming::Event {
                    namespace,
                    ack,
                    name,
                    args,
                    attachments,
                }))
            }
            Packet::Ack {
                namespace, id, args, ..
            } => {
                let known = self.find(&namespace).filter(|known| known.joined);
                let pending = &mut known.ok_or(ProtocolError::NotConnected)?.pending_acks;
                let Ok(position) = pending.binary_search(&id) else {
                    return Ok(None);
                };
                pending.remove(position);
                Ok(Some(Incoming::Ack {
                    namespace,
                    id,
                    args,
                    attachments,
                }))
            }
            Packet::ConnectError { .. } => Err(ProtocolError::ServerPacket),
        }
    }

    fn join(&mut self, namespace: &ByteString) -> Result<(), ProtocolError> {
        if self.find(namespace).is_some() {
            return Err(ProtocolError::AlreadyConnected);
        }
        if self.namespaces.len() >= MAX_NAMESPACES {
            return Err(ProtocolError::TooManyNamespaces);
        }
        // A copy: a slice would keep the whole CONNECT packet, token and all, as long as the connection lives.
        let name = if *namespace == "/" {
            ByteString::from_static("/")
        } else {
            ByteString::from(&**namespace)
        };
        self.namespaces.push(Namespace {
            name,
            joined: false,
            next_ack: 0,
            pending_acks: Vec::new(),
        });
        Ok(())
    }

    fn check_joined(&self, namespace: &str) -> Result<(), ProtocolError> {
        if self.is_connected(namespace) {
            Ok(())
        } else {
            Err(ProtocolError::NotConnected)
        }
    }

    fn find(&mut self, namespace: &str) -> Option<&mut Namespace> {
        self.namespaces.iter_mut().find(|known| known.name == namespace)
    }
}
