use bytes::Bytes;
use bytestring::ByteString;

use super::{Opcode, deflate::inflate};

/// A client's longest frame header: 2 bytes, a 64-bit length, the masking key.
const MAX_HEADER: usize = 14;

/// Longest payload of a control frame.
const MAX_CONTROL: u64 = 125;

/// For a frame that has come in part, room is made at once for no more than this; the rest as it arrives.
const TRUSTED_LENGTH: usize = 4096;

/// A complete message, or a control frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// UTF-8.
    Text(ByteString),
    /// Anything.
    Binary(Bytes),
    /// Answer with [`super::frame::pong`] and the same payload.
    Ping(Bytes),
    /// Needs no answer.
    Pong(Bytes),
    /// The client closes, with the code it gave; nothing that follows counts.
    Close(Option<u16>),
}

/// What a client did wrong; the connection is failed with [`Error::close_code`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Error {
    /// Section 5.1.
    #[error("frame is not masked")]
    Unmasked,
    /// Section 5.2: no extension was agreed on, or this frame has none.
    #[error("reserved bits are set")]
    ReservedBits,
    /// Section 5.2.
    #[error("unknown opcode")]
    UnknownOpcode,
    /// Section 5.5.
    #[error("fragmented control frame")]
    FragmentedControl,
    /// Section 5.5.
    #[error("control frame over 125 bytes")]
    ControlTooLong,
    /// Section 5.4.
    #[error("continuation of nothing")]
    UnexpectedContinuation,
    /// Section 5.4.
    #[error("new message inside a fragmented one")]
    ExpectedContinuation,
    /// Section 5.2: neither padded nor with the highest bit set.
    #[error("payload length wrongly encoded")]
    InvalidLength,
    /// Sections 5.5.1 and 7.4.
    #[error("invalid close frame")]
    InvalidClose,
    /// Section 8.1.
    #[error("text is not UTF-8")]
    InvalidUtf8,
    /// Section 10.4.
    #[error("message too large")]
    TooLarge,
    /// RFC 7692 section 6.2.
    #[error("message cannot be decompressed")]
    InvalidDeflate,
}

impl Error {
    /// The status code for the close frame (RFC 6455 section 7.4.1).
    #[must_use]
    pub fn close_code(&self) -> u16 {
        match self {
            Self::Unmasked
            | Self::ReservedBits
            | Self::UnknownOpcode
            | Self::FragmentedControl
            | Self::ControlTooLong
            | Self::UnexpectedContinuation
            | Self::ExpectedContinuation
            | Self::InvalidLength
            | Self::InvalidClose => 1002,
            Self::InvalidUtf8 | Self::InvalidDeflate => 1007,
            Self::TooLarge => 1009,
        }
    }
}

/// Decoder of one connection's input. Holds memory only while a frame or a fragmented message is incomplete.
#[derive(Debug, Default)]
pub struct Decoder {
    partial: Option<Box<Partial>>,
}

#[derive(Debug, Default)]
struct Partial {
    /// Bytes of a header that is not complete yet.
    header: [u8; MAX_HEADER],
    header_len: usize,
    /// The frame whose payload is being read.
    frame: Option<OpenFrame>,
    /// Payload of the control frame being read.
    control: Vec<u8>,
    /// Payload of the message being read, over all its fragments.
    message: Vec<u8>,
    /// What the message is; `None` between messages.
    kind: Option<DataKind>,
    /// Whether the message is compressed.
    compressed: bool,
}

#[derive(Clone, Copy, Debug)]
struct OpenFrame {
    opcode: Opcode,
    fin: bool,
    remaining: usize,
    /// Rotated so that it starts at the next byte.
    mask: [u8; 4],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum DataKind {
    Text,
    Binary,
}

#[derive(Clone, Copy, Debug)]
struct Header {
    fin: bool,
    compressed: bool,
    opcode: Opcode,
    len: u64,
    mask: [u8; 4],
}

impl Decoder {
    /// A decoder at the start of a connection.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next message off `input`; `None` when all of it is used up and more is needed.
    ///
    /// `max_message` is in bytes of payload, over all fragments; a frame that would go over it is refused by its header.
    ///
    /// # Errors
    /// [`Error`]: fail the connection and do not call again.
    pub fn next(&mut self, input: &mut &[u8], max_message: usize) -> Result<Option<Message>, Error> {
        self.next_of(input, max_message, false)
    }

    /// The same for a connection that has agreed on `permessage-deflate` if `deflate`: `max_message` bounds a compressed
    /// message before and after it is decompressed. Must not change under way.
    ///
    /// # Errors
    /// As [`Decoder::next`].
    pub fn next_of(
        &mut self,
        input: &mut &[u8],
        max_message: usize,
        deflate: bool,
    ) -> Result<Option<Message>, Error> {
        loop {
            if self
                .partial
                .as_ref()
                .is_none_or(|partial| partial.frame.is_none())
            {
                let Some(header) = self.read_header(input, deflate)? else {
                    return Ok(None);
                };
                let len = self.admit(&header, max_message)?;
                let in_message = self
                    .partial
                    .as_ref()
                    .is_some_and(|partial| partial.kind.is_some());
                if len <= input.len() && (header.opcode.is_control() || (header.fin && !in_message)) {
                    let (payload, rest) = input.split_at(len);
                    *input = rest;
                    let mut payload = payload.to_vec();
                    unmask(&mut payload, header.mask);
                    self.release();
                    if header.compressed {
                        payload = inflate(&payload, max_message)?;
                    }
                    return finish(header.opcode, payload).map(Some);
                }
                self.open_frame(&header, len);
            }
            if let Some(message) = self.read_payload(input, max_message)? {
                return Ok(Some(message));
            }
            if input.is_empty() {
                return Ok(None);
            }
        }
    }

    /// Takes a header off `input`, or keeps what there is of it.
    fn read_header(&mut self, input: &mut &[u8], deflate: bool) -> Result<Option<Header>, Error> {
        if self
            .partial
            .as_ref()
            .is_none_or(|partial| partial.header_len == 0)
        {
            if let Some((header, len)) = parse_header(input, deflate)? {
                *input = &input[len..];
                return Ok(Some(header));
            }
            if !input.is_empty() {
                let partial = self.partial.get_or_insert_default();
                partial.header[..input.len()].copy_from_slice(input);
                partial.header_len = input.len();
                *input = &[];
            }
            return Ok(None);
        }
        let Some(partial) = &mut self.partial else {
            return Ok(None);
        };
        while let Some((&byte, rest)) = input.split_first() {
            *input = rest;
            partial.header[partial.header_len] = byte;
            partial.header_len += 1;
            if let Some((header, _)) = parse_header(&partial.header[..partial.header_len], deflate)? {
                partial.header_len = 0;
                return Ok(Some(header));
            }
        }
        Ok(None)
    }

    /// Checks a frame against the message it would belong to; returns the length of its payload.
    fn admit(&self, header: &Header, max_message: usize) -> Result<usize, Error> {
        let (kind, so_far) = match &self.partial {
            Some(partial) => (partial.kind, partial.message.len()),
            None => (None, 0),
        };
        match (header.opcode, kind) {
            (Opcode::Continuation, None) => return Err(Error::UnexpectedContinuation),
            (Opcode::Text | Opcode::Binary, Some(_)) => return Err(Error::ExpectedContinuation),
            (Opcode::Continuation, Some(_))
            | (Opcode::Text | Opcode::Binary, None)
            | (Opcode::Close | Opcode::Ping | Opcode::Pong, _) => {}
        }
        let len = usize::try_from(header.len).map_err(|_| Error::TooLarge)?;
        if !header.opcode.is_control() && len > max_message.saturating_sub(so_far) {
            return Err(Error::TooLarge);
        }
        Ok(len)
    }

    fn open_frame(&mut self, header: &Header, len: usize) {
        let partial = self.partial.get_or_insert_default();
        if matches!(header.opcode, Opcode::Text | Opcode::Binary) {
            partial.compressed = header.compressed;
        }
        match header.opcode {
            Opcode::Text => partial.kind = Some(DataKind::Text),
            Opcode::Binary => partial.kind = Some(DataKind::Binary),
            Opcode::Continuation | Opcode::Close | Opcode::Ping | Opcode::Pong => {}
        }
        let target = if header.opcode.is_control() {
            &mut partial.control
        } else {
            &mut partial.message
        };
        target.reserve(len.min(TRUSTED_LENGTH));
        partial.frame = Some(OpenFrame {
            opcode: header.opcode,
            fin: header.fin,
            remaining: len,
            mask: header.mask,
        });
    }

    /// Takes payload of the open frame off `input`; the message, if that completes one.
    fn read_payload(&mut self, input: &mut &[u8], max_message: usize) -> Result<Option<Message>, Error> {
        let Some(partial) = &mut self.partial else {
            return Ok(None);
        };
        let Some(frame) = &mut partial.frame else {
            return Ok(None);
        };
        let target = if frame.opcode.is_control() {
            &mut partial.control
        } else {
            &mut partial.message
        };
        let (payload, rest) = input.split_at(frame.remaining.min(input.len()));
        *input = rest;
        let start = target.len();
        target.extend_from_slice(payload);
        unmask(&mut target[start..], frame.mask);
        frame.mask.rotate_left(payload.len() % 4);
        frame.remaining -= payload.len();
        if frame.remaining > 0 {
            return Ok(None);
        }

        let OpenFrame { opcode, fin, .. } = *frame;
        partial.frame = None;
        let (opcode, payload) = match (opcode, partial.kind) {
            (Opcode::Close | Opcode::Ping | Opcode::Pong, _) => {
                (opcode, std::mem::take(&mut partial.control))
            }
            (Opcode::Continuation | Opcode::Text | Opcode::Binary, kind) => {
                if !fin {
                    return Ok(None);
                }
                partial.kind = None;
                let opcode = if kind == Some(DataKind::Text) {
                    Opcode::Text
                } else {
                    Opcode::Binary
                };
                let message = std::mem::take(&mut partial.message);
                if std::mem::take(&mut partial.compressed) {
                    (opcode, inflate(&message, max_message)?)
                } else {
                    (opcode, message)
                }
            }
        };
        self.release();
        finish(opcode, payload).map(Some)
    }

    /// Gives the memory back when nothing is incomplete.
    fn release(&mut self) {
        let in_use =
            |partial: &Partial| partial.header_len > 0 || partial.frame.is_some() || partial.kind.is_some();
        if self.partial.as_deref().is_some_and(|partial| !in_use(partial)) {
            self.partial = None;
        }
    }
}

/// The header at the start of `bytes` and its length; `None` when more is needed. Wrong ones are refused at the first
/// byte that shows it (RFC 6455 section 5.2).
fn parse_header(bytes: &[u8], deflate: bool) -> Result<Option<(Header, usize)>, Error> {
    let Some(&first) = bytes.first() else {
        return Ok(None);
    };
    let fin = first & 0x80 != 0;
    let opcode = Opcode::from_bits(first & 0x0f);
    let compressed = first & 0x70 == 0x40;
    let may_be = deflate && matches!(opcode, Some(Opcode::Text | Opcode::Binary));
    if first & 0x70 != 0 && !(compressed && may_be) {
        return Err(Error::ReservedBits);
    }
    let opcode = opcode.ok_or(Error::UnknownOpcode)?;
    if opcode.is_control() && !fin {
        return Err(Error::FragmentedControl);
    }
    let Some(&second) = bytes.get(1) else {
        return Ok(None);
    };
    if second & 0x80 == 0 {
        return Err(Error::Unmasked);
    }
    let short = second & 0x7f;
    if opcode.is_control() && u64::from(short) > MAX_CONTROL {
        return Err(Error::ControlTooLong);
    }
    let after = &bytes[2..];
    let (len, mask_at) = match short {
        126 => match after.first_chunk() {
            Some(len) => (u64::from(u16::from_be_bytes(*len)), 2),
            None => return Ok(None),
        },
        127 => match after.first_chunk() {
            Some(len) => (u64::from_be_bytes(*len), 8),
            None => return Ok(None),
        },
        len => (u64::from(len), 0),
    };
    let minimal = match mask_at {
        2 => len > 125,
        8 => len > u64::from(u16::MAX) && len >> 63 == 0,
        _ => true,
    };
    if !minimal {
        return Err(Error::InvalidLength);
    }
    let Some(&mask) = after[mask_at..].first_chunk() else {
        return Ok(None);
    };
    Ok(Some((
        Header {
            fin,
            compressed,
            opcode,
            len,
            mask,
        },
        2 + mask_at + 4,
    )))
}

fn finish(opcode: Opcode, payload: Vec<u8>) -> Result<Message, Error> {
    // A boxed slice gives back what growing took too much: messages may be kept for long.
    let payload = Bytes::from(payload.into_boxed_slice());
    match opcode {
        Opcode::Text => match ByteString::try_from(payload) {
            Ok(text) => Ok(Message::Text(text)),
            Err(_) => Err(Error::InvalidUtf8),
        },
        Opcode::Continuation | Opcode::Binary => Ok(Message::Binary(payload)),
        Opcode::Ping => Ok(Message::Ping(payload)),
        Opcode::Pong => Ok(Message::Pong(payload)),
        Opcode::Close => close_code(&payload).map(Message::Close),
    }
}

/// RFC 6455 sections 5.5.1 and 7.4: which codes may be sent.
fn close_code(payload: &[u8]) -> Result<Option<u16>, Error> {
    if payload.is_empty() {
        return Ok(None);
    }
    let Some((code, reason)) = payload.split_first_chunk() else {
        return Err(Error::InvalidClose);
    };
    let code = u16::from_be_bytes(*code);
    if !matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999) {
        return Err(Error::InvalidClose);
    }
    if std::str::from_utf8(reason).is_err() {
        return Err(Error::InvalidUtf8);
    }
    Ok(Some(code))
}

/// RFC 6455 section 5.3.
fn unmask(payload: &mut [u8], mask: [u8; 4]) {
    let [a, b, c, d] = mask;
    let wide = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
    let (words, tail) = payload.as_chunks_mut::<8>();
    for word in words {
        *word = (u64::from_ne_bytes(*word) ^ wide).to_ne_bytes();
    }
    for (byte, key) in tail.iter_mut().zip(mask.iter().cycle()) {
        *byte ^= key;
    }
}
