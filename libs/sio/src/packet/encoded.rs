use bytes::Bytes;

use crate::ws::frame;

/// Outgoing data encoded once for all receivers: complete WebSocket frames of a server (unmasked), one after the other;
/// for a Socket.IO packet the text frame and then one binary frame for each attachment. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Encoded(Bytes);

/// One message of an [`Encoded`], without its WebSocket header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Whether it goes into a binary frame.
    pub binary: bool,
    /// Text begins with its Engine.IO packet type (`42["a"]`, `2`); binary data is raw.
    pub payload: Bytes,
}

impl Encoded {
    /// Frames made elsewhere, e.g. [`crate::ws::frame::pong`]: complete, unmasked, one after the other.
    #[must_use]
    pub fn from_frames(frames: Bytes) -> Self {
        Self(frames)
    }

    /// Several packets that go out together, in order.
    #[must_use]
    pub fn concat<'a>(packets: impl Iterator<Item = &'a Self> + Clone) -> Self {
        let mut frames = Vec::with_capacity(packets.clone().map(Self::len).sum());
        for packet in packets {
            frames.extend_from_slice(&packet.0);
        }
        Self(frames.into())
    }

    /// What is written to a WebSocket.
    #[must_use]
    pub fn as_bytes(&self) -> &Bytes {
        &self.0
    }

    /// What is written to a WebSocket.
    #[must_use]
    pub fn into_bytes(self) -> Bytes {
        self.0
    }

    /// Bytes on a WebSocket, headers included.
    #[expect(clippy::len_without_is_empty, reason = "there is always a frame")]
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// The messages without their headers, as slices: long-polling sends these. Control frames are no messages.
    #[must_use]
    pub fn frames(&self) -> Frames {
        Frames { rest: self.0.clone() }
    }
}

/// Iterator of [`Encoded::frames`].
#[derive(Clone, Debug)]
pub struct Frames {
    rest: Bytes,
}

impl Iterator for Frames {
    type Item = Frame;

    fn next(&mut self) -> Option<Frame> {
        loop {
            let header = frame::unmasked_header(&self.rest)?;
            if self.rest.len() - header.len < header.payload_len {
                return None;
            }
            let mut payload = self.rest.split_to(header.len + header.payload_len);
            if !header.control {
                return Some(Frame {
                    binary: header.binary,
                    payload: payload.split_off(header.len),
                });
            }
        }
    }
}
