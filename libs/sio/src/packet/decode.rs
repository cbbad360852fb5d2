use bytestring::ByteString;

use super::{EventName, Limits, Packet, RawArgs};
use crate::json;

/// Longest namespace taken from a client, query string included, in bytes; names of namespaces are kept per connection
/// and repeated in answers.
pub const MAX_NAMESPACE_BYTES: usize = 512;

/// Greatest acknowledgement id: beyond `Number.MAX_SAFE_INTEGER` a JavaScript client could not tell two ids apart.
const MAX_ACK_ID: u64 = (1 << 53) - 1;

/// Names that mean something to the reference libraries themselves (socket.io-parser, `RESERVED_EVENTS`).
pub const RESERVED_EVENTS: [&str; 6] = [
    "connect",
    "connect_error",
    "disconnect",
    "disconnecting",
    "newListener",
    "removeListener",
];

/// What is wrong with a Socket.IO packet; the connection is closed with "parse error".
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum DecodeError {
    /// An empty message.
    #[error("empty packet")]
    Empty,
    /// The first character is no packet type.
    #[error("unknown packet type")]
    UnknownType,
    /// A binary packet whose count of attachments is missing, no number, or zero.
    #[error("illegal attachments")]
    IllegalAttachments,
    /// More attachments than [`Limits::max_attachments`].
    #[error("too many attachments")]
    TooManyAttachments,
    /// A placeholder whose number is that of no attachment.
    #[error("placeholder without attachment")]
    IllegalPlaceholder,
    /// Longer than [`MAX_NAMESPACE_BYTES`].
    #[error("namespace too long")]
    NamespaceTooLong,
    /// An acknowledgement id over 2^53 - 1, or none where one must be.
    #[error("invalid acknowledgement id")]
    InvalidAckId,
    /// The payload is not JSON.
    #[error("payload is not JSON")]
    InvalidJson,
    /// The payload is not of the kind its packet type asks for.
    #[error("invalid payload")]
    InvalidPayload,
    /// Nested deeper than [`Limits::max_depth`].
    #[error("payload nested too deeply")]
    TooDeep,
    /// More arguments than [`Limits::max_args`].
    #[error("too many arguments")]
    TooManyArgs,
    /// An event name that clients must not use, or that is no text.
    #[error("event name not allowed")]
    IllegalEventName,
}

impl From<json::Error> for DecodeError {
    fn from(error: json::Error) -> Self {
        match error {
            json::Error::Syntax => Self::InvalidJson,
            json::Error::TooDeep => Self::TooDeep,
            json::Error::TooMany => Self::TooManyArgs,
        }
    }
}

/// A packet, complete once its attachments have been put in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decoded {
    /// The packet, with no attachments yet.
    pub packet: Packet,
    /// How many binary messages follow that belong to it.
    pub attachments: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Connect,
    Disconnect,
    Event,
    Ack,
    ConnectError,
}

impl Packet {
    /// Decodes the text of an Engine.IO message: `<type>[<n>-][<namespace>,][<id>][json]` (protocol v5, "Format").
    ///
    /// A namespace that is the whole rest may lack its comma; its query string is dropped. No value tree is built.
    ///
    /// # Errors
    /// [`DecodeError`]
    pub fn decode(text: &ByteString, limits: &Limits) -> Result<Decoded, DecodeError> {
        let bytes = text.as_bytes();
        let (kind, is_binary) = match bytes.first().ok_or(DecodeError::Empty)? {
            b'0' => (Kind::Connect, false),
            b'1' => (Kind::Disconnect, false),
            b'2' => (Kind::Event, false),
            b'3' => (Kind::Ack, false),
            b'4' => (Kind::ConnectError, false),
            b'5' => (Kind::Event, true),
            b'6' => (Kind::Ack, true),
            _ => return Err(DecodeError::UnknownType),
        };
        let (attachments, at) = if is_binary {
            attachment_count(bytes, 1, limits)?
        } else {
            (0, 1)
        };
        let (namespace, at) = namespace(text, at)?;
        let (id, at) = ack_id(bytes, at)?;

        let packet = match kind {
            Kind::Connect => Packet::Connect {
                namespace,
                auth: whole_value(text, at, b"{", limits)?,
            },
            Kind::Disconnect if at == bytes.len() => Packet::Disconnect { namespace },
            Kind::Disconnect => return Err(DecodeError::InvalidPayload),
            Kind::ConnectError => Packet::ConnectError {
                namespace,
                data: whole_value(text, at, b"{\"", limits)?,
            },
            Kind::Event => {
                let elements = array(bytes, at, limits, 1)?;
                let (start, end) = elements.first.ok_or(DecodeError::InvalidPayload)?;
                let name = event_name(text, start, end)?;
                let args = args(text, elements.rest, attachments)?;
                Packet::Event {
                    namespace,
                    ack: id,
                    name,
                    args,
                    attachments: Vec::new(),
                }
            }
            Kind::Ack => {
                let id = id.ok_or(DecodeError::InvalidAckId)?;
                let elements = array(bytes, at, limits, 0)?;
                let range = elements
                    .first
                    .map_or((at, at), |(start, end)| (start, elements.rest.1.max(end)));
                let args = args(text, range, attachments)?;
                Packet::Ack {
                    namespace,
                    id,
                    args,
                    attachments: Vec::new(),
                }
            }
        };
        Ok(Decoded { packet, attachments })
    }
}

fn attachment_count(bytes: &[u8], at: usize, limits: &Limits) -> Result<(usize, usize), DecodeError> {
    let (count, dash) = digits(bytes, at).ok_or(DecodeError::IllegalAttachments)?;
    if bytes.get(dash) != Some(&b'-') || count == 0 {
        return Err(DecodeError::IllegalAttachments);
    }
    match usize::try_from(count) {
        Ok(count) if count <= limits.max_attachments => Ok((count, dash + 1)),
        _ => Err(DecodeError::TooManyAttachments),
    }
}

fn namespace(text: &ByteString, at: usize) -> Result<(ByteString, usize), DecodeError> {
    let bytes = text.as_bytes();
    if bytes.get(at) != Some(&b'/') {
        return Ok((ByteString::from_static("/"), at));
    }
    let reach = bytes.len().min(at + MAX_NAMESPACE_BYTES + 1);
    let (end, next) = match memchr::memchr(b',', &bytes[at..reach]) {
        Some(comma) => (at + comma, at + comma + 1),
        None if reach - at > MAX_NAMESPACE_BYTES => return Err(DecodeError::NamespaceTooLong),
        None => (bytes.len(), bytes.len()),
    };
    let name_end = memchr::memchr(b'?', &bytes[at..end]).map_or(end, |query| at + query);
    if name_end - at == 1 {
        return Ok((ByteString::from_static("/"), next));
    }
    Ok((text.slice_ref(&text[at..name_end]), next))
}

fn ack_id(bytes: &[u8], at: usize) -> Result<(Option<u64>, usize), DecodeError> {
    match digits(bytes, at) {
        None => Ok((None, at)),
        Some((id, next)) if id <= MAX_ACK_ID => Ok((Some(id), next)),
        Some(_) => Err(DecodeError::InvalidAckId),
    }
}

/// A run of decimal digits as a number (saturating) and the offset after it.
fn digits(bytes: &[u8], at: usize) -> Option<(u64, usize)> {
    let mut end = at;
    let mut number = 0_u64;
    while let Some(digit @ b'0'..=b'9') = bytes.get(end) {
        number = number.saturating_mul(10).saturating_add(u64::from(digit - b'0'));
        end += 1;
    }
    (end > at).then_some((number, end))
}

/// The rest of the text: nothing, or one JSON value that begins with one of `starts`.
fn whole_value(
    text: &ByteString,
    at: usize,
    starts: &[u8],
    limits: &Limits,
) -> Result<Option<ByteString>, DecodeError> {
    let bytes = text.as_bytes();
    let Some(start) = bytes.get(at) else {
        return Ok(None);
    };
    let end = json::skip_value(bytes, at, limits.max_depth)?;
    if json::skip_whitespace(bytes, end) != bytes.len() {
        return Err(DecodeError::InvalidJson);
    }
    if !starts.contains(start) {
        return Err(DecodeError::InvalidPayload);
    }
    Ok(Some(text.slice_ref(&text[at..end])))
}

/// The rest of the text as an array of arguments after `names` other elements.
fn array(bytes: &[u8], at: usize, limits: &Limits, names: usize) -> Result<json::Elements, DecodeError> {
    match bytes.get(at) {
        Some(b'[') => {
            let max_items = limits.max_args.saturating_add(names);
            Ok(json::array(bytes, at, limits.max_depth, max_items)?)
        }
        Some(b'{' | b'"' | b't' | b'f' | b'n') | None => Err(DecodeError::InvalidPayload),
        Some(_) => Err(DecodeError::InvalidJson),
    }
}

fn event_name(text: &ByteString, start: usize, end: usize) -> Result<EventName, DecodeError> {
    let raw = &text[start..end];
    match raw.as_bytes().first() {
        Some(b'"') => {
            let name = match json::unescape(raw).ok_or(DecodeError::IllegalEventName)? {
                std::borrow::Cow::Borrowed(name) => text.slice_ref(name),
                std::borrow::Cow::Owned(name) => name.into(),
            };
            if RESERVED_EVENTS.contains(&&*name) {
                return Err(DecodeError::IllegalEventName);
            }
            Ok(EventName::Text(name))
        }
        Some(b'-' | b'0'..=b'9') => Ok(EventName::Number(text.slice_ref(raw))),
        _ => Err(DecodeError::InvalidPayload),
    }
}

fn args(text: &ByteString, (start, end): (usize, usize), attachments: usize) -> Result<RawArgs, DecodeError> {
    let list = &text[start..end];
    if attachments > 0 && !json::placeholders_in_range(list, attachments) {
        return Err(DecodeError::IllegalPlaceholder);
    }
    Ok(RawArgs::trusted(text.slice_ref(list)))
}
