//! The packets of `socket.io-msgpack-parser`: each one binary message `{type, data, nsp, id}`, binary data in place.
//!
//! They are taken as the text and the attachments that the default parser would have sent, and made from them, so that
//! there is one set of rules. Where MessagePack can say more than JSON, JSON's `stringify` decides: a date is a string,
//! and what is no number or undefined is `null`. Both are extensions of type 0 in the stock client's notepack;
//! MessagePack's own type for points in time is taken as well.

pub mod broadcast;

use bytes::Bytes;
use bytestring::ByteString;
use serde_json::Value;

use super::{DecodeError, Encoded, EventName, Limits, Packet, RawArgs};
use crate::json;
use crate::ws::frame;

/// Nested deeper is refused before the stack is.
const MAX_DEPTH: usize = 128;
/// Type of the extension for points in time: -1.
const TIMESTAMP: u8 = 0xff;
/// The greatest number that is exact in every language.
const MAX_SAFE: i128 = (1 << 53) - 1;

/// A client's packet as the default parser sends it: its text, and the attachments behind it.
///
/// # Errors
/// [`DecodeError::InvalidPayload`] for what is no packet, [`DecodeError::TooDeep`], [`DecodeError::TooManyAttachments`],
/// [`DecodeError::UnknownType`]; whether the text itself holds is for [`Packet::decode`] to say.
pub fn decode(message: &[u8], limits: &Limits) -> Result<(ByteString, Vec<Bytes>), DecodeError> {
    decode_as(message, limits, |kind| kind)
}

/// The same, after `as_sent` has said which type was meant by a packet's.
fn decode_as(
    message: &[u8],
    limits: &Limits,
    as_sent: impl Fn(i128) -> i128,
) -> Result<(ByteString, Vec<Bytes>), DecodeError> {
    let mut reader = Reader { rest: message };
    let (mut kind, mut namespace, mut id, mut data) = (None, None, None, None);
    for _ in 0..reader.map()? {
        match reader.string()? {
            "type" => kind = Some(reader.integer()?),
            "nsp" => namespace = Some(reader.string()?),
            "id" => id = reader.integer_or_nothing()?,
            "data" => data = Some(reader.skip(0)?),
            _ => {
                reader.skip(0)?;
            }
        }
    }
    if !reader.rest.is_empty() {
        return Err(DecodeError::InvalidPayload);
    }
    let namespace = namespace.ok_or(DecodeError::InvalidPayload)?;
    // Either would end the name and begin something else.
    if !namespace.starts_with('/') || namespace.contains([',', '?']) {
        return Err(DecodeError::InvalidPayload);
    }
    let mut payload = Vec::new();
    let mut attachments = Vec::new();
    if let Some(data) = data.filter(|data| !is_nothing(data)) {
        let mut reader = Reader { rest: data };
        reader.put_json(&mut payload, &mut attachments, limits, 0)?;
    }
    let kind = match (kind.map(as_sent), attachments.is_empty()) {
        (Some(kind @ 0..=4), true) => kind,
        (Some(kind @ 2..=3), false) => kind + 3,
        (Some(0..=4), false) => return Err(DecodeError::InvalidPayload),
        _ => return Err(DecodeError::UnknownType),
    };
    let mut text = kind.to_string().into_bytes();
    if !attachments.is_empty() {
        text.extend_from_slice(format!("{}-", attachments.len()).as_bytes());
    }
    if namespace != "/" {
        text.extend_from_slice(namespace.as_bytes());
        text.push(b',');
    }
    if let Some(id) = id {
        text.extend_from_slice(id.to_string().as_bytes());
    }
    text.extend_from_slice(&payload);
    let text = ByteString::try_from(text).map_err(|_| DecodeError::InvalidPayload)?;
    Ok((text, attachments))
}

/// The same packets for clients with this parser; what is no Socket.IO packet stays as it is.
pub(super) fn encode(packets: &Encoded) -> Encoded {
    const LIMITS: Limits = Limits {
        max_attachments: usize::MAX,
        max_depth: MAX_DEPTH,
        max_args: usize::MAX,
    };
    let mut out = Vec::with_capacity(packets.len() + 64);
    let mut frames = packets.frames();
    while let Some(frame) = frames.next() {
        let packet = frame
            .payload
            .strip_prefix(b"4")
            .filter(|packet| !frame.binary && !packet.is_empty())
            .and_then(|packet| ByteString::try_from(frame.payload.slice_ref(packet)).ok())
            .and_then(|text| Packet::decode(&text, &LIMITS).ok());
        let Some(decoded) = packet else {
            if frame.binary {
                frame::write_binary(&mut out, &frame.payload);
            } else {
                frame::write_text(&mut out, &frame.payload);
            }
            continue;
        };
        let attachments: Vec<_> = frames
            .by_ref()
            .take(decoded.attachments)
            .map(|frame| frame.payload)
            .collect();
        frame::write_binary(&mut out, &message(&decoded.packet, &attachments));
    }
    Encoded::from_frames(out.into())
}

fn message(packet: &Packet, attachments: &[Bytes]) -> Vec<u8> {
    let (kind, id) = match packet {
        Packet::Connect { .. } => (0, None),
        Packet::Disconnect { .. } => (1, None),
        Packet::Event { ack, .. } => (2, *ack),
        Packet::Ack { id, .. } => (3, Some(*id)),
        Packet::ConnectError { .. } => (4, None),
    };
    let mut data = Vec::new();
    match packet {
        Packet::Connect { auth: value, .. } | Packet::ConnectError { data: value, .. } => {
            if let Some(value) = value {
                put_json(&mut data, value, attachments);
            }
        }
        Packet::Event { name, args, .. } => {
            put_array_header(&mut data, 1 + args.iter().count());
            match name {
                EventName::Text(name) => put_string(&mut data, name),
                EventName::Number(number) => put_json(&mut data, number, attachments),
            }
            put_args(&mut data, args, attachments);
        }
        Packet::Ack { args, .. } => {
            put_array_header(&mut data, args.iter().count());
            put_args(&mut data, args, attachments);
        }
        Packet::Disconnect { .. } => {}
    }
    let fields = 2 + usize::from(!data.is_empty()) + usize::from(id.is_some());
    let mut out = Vec::with_capacity(data.len() + 40);
    put_map_header(&mut out, fields);
    put_string(&mut out, "type");
    put_integer(&mut out, kind);
    if !data.is_empty() {
        put_string(&mut out, "data");
        out.extend_from_slice(&data);
    }
    if let Some(id) = id {
        put_string(&mut out, "id");
        put_integer(&mut out, i128::from(id));
    }
    put_string(&mut out, "nsp");
    put_string(&mut out, packet.namespace());
    out
}

fn put_args(out: &mut Vec<u8>, args: &RawArgs, attachments: &[Bytes]) {
    for arg in args.iter() {
        put_json(out, arg, attachments);
    }
}

/// Text that is JSON, because it was checked or made here; were it not, `nil` stands for it.
fn put_json(out: &mut Vec<u8>, text: &str, attachments: &[Bytes]) {
    let value = serde_json::from_str(text).unwrap_or(Value::Null);
    put_value(out, &value, attachments);
}

fn put_value(out: &mut Vec<u8>, value: &Value, attachments: &[Bytes]) {
    match value {
        Value::Null => out.push(0xc0),
        Value::Bool(false) => out.push(0xc2),
        Value::Bool(true) => out.push(0xc3),
        Value::Number(number) => match (number.as_u64(), number.as_i64()) {
            (Some(integer), _) => put_integer(out, i128::from(integer)),
            (None, Some(integer)) => put_integer(out, i128::from(integer)),
            (None, None) => put_float(out, number.as_f64().unwrap_or(f64::NAN)),
        },
        Value::String(text) => put_string(out, text),
        Value::Array(items) => {
            put_array_header(out, items.len());
            for item in items {
                put_value(out, item, attachments);
            }
        }
        Value::Object(fields) => {
            let number = fields
                .get("_placeholder")
                .and_then(|_| fields.get("num")?.as_u64());
            let attachment = number.and_then(|number| attachments.get(usize::try_from(number).ok()?));
            if let Some(data) = attachment {
                put_header(out, data.len(), None, [Some(0xc4), Some(0xc5), Some(0xc6)]);
                out.extend_from_slice(data);
                return;
            }
            put_map_header(out, fields.len());
            for (name, field) in fields {
                put_string(out, name);
                put_value(out, field, attachments);
            }
        }
    }
}

/// A type with a length: in one byte where `short` (its first value and how many) has room, else in 8, 16 or 32 bits.
fn put_header(out: &mut Vec<u8>, length: usize, short: Option<(u8, usize)>, long: [Option<u8>; 3]) {
    let [eight, sixteen, thirty_two] = long;
    if let Some((first, count)) = short
        && length < count
        && let Ok(length) = u8::try_from(length)
    {
        out.push(first | length);
    } else if let (Some(first), Ok(length)) = (eight, u8::try_from(length)) {
        out.extend_from_slice(&[first, length]);
    } else if let (Some(first), Ok(length)) = (sixteen, u16::try_from(length)) {
        out.push(first);
        out.extend_from_slice(&length.to_be_bytes());
    } else if let Some(first) = thirty_two {
        // Longer than 4 GiB nothing gets.
        out.push(first);
        out.extend_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes());
    }
}

fn put_string(out: &mut Vec<u8>, text: &str) {
    put_header(
        out,
        text.len(),
        Some((0xa0, 32)),
        [Some(0xd9), Some(0xda), Some(0xdb)],
    );
    out.extend_from_slice(text.as_bytes());
}

fn put_array_header(out: &mut Vec<u8>, length: usize) {
    put_header(out, length, Some((0x90, 16)), [None, Some(0xdc), Some(0xdd)]);
}

fn put_map_header(out: &mut Vec<u8>, length: usize) {
    put_header(out, length, Some((0x80, 16)), [None, Some(0xde), Some(0xdf)]);
}

fn put_float(out: &mut Vec<u8>, number: f64) {
    out.push(0xcb);
    out.extend_from_slice(&number.to_be_bytes());
}

fn put_integer(out: &mut Vec<u8>, number: i128) {
    if let Ok(small @ -32..=127) = i8::try_from(number) {
        out.push(small.cast_unsigned());
    } else if let Ok(number) = u32::try_from(number) {
        out.push(0xce);
        out.extend_from_slice(&number.to_be_bytes());
    } else if let Ok(number) = i32::try_from(number) {
        out.push(0xd2);
        out.extend_from_slice(&number.to_be_bytes());
    } else if let Ok(number) = u64::try_from(number) {
        out.push(0xcf);
        out.extend_from_slice(&number.to_be_bytes());
    } else if let Ok(number) = i64::try_from(number) {
        out.push(0xd3);
        out.extend_from_slice(&number.to_be_bytes());
    }
}

/// `nil`, or undefined as notepack has it.
fn is_nothing(value: &[u8]) -> bool {
    matches!(value, [0xc0] | [0xd4, 0, _])
}

struct Reader<'a> {
    rest: &'a [u8],
}

/// What stands at a place.
enum Item<'a> {
    Nothing,
    Bool(bool),
    Integer(i128),
    Float(f64),
    String(&'a str),
    Binary(&'a [u8]),
    Array(usize),
    Map(usize),
    /// Milliseconds since 1970.
    Date(i64),
}

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], DecodeError> {
        let (taken, rest) = self
            .rest
            .split_at_checked(length)
            .ok_or(DecodeError::InvalidPayload)?;
        self.rest = rest;
        Ok(taken)
    }

    fn number(&mut self, bytes: usize) -> Result<u64, DecodeError> {
        let taken = self.take(bytes)?;
        Ok(taken
            .iter()
            .fold(0, |number, byte| (number << 8) | u64::from(*byte)))
    }

    fn length(&mut self, bytes: usize) -> Result<usize, DecodeError> {
        usize::try_from(self.number(bytes)?).map_err(|_| DecodeError::InvalidPayload)
    }

    fn text(&mut self, length: usize) -> Result<Item<'a>, DecodeError> {
        let text = std::str::from_utf8(self.take(length)?).map_err(|_| DecodeError::InvalidPayload)?;
        Ok(Item::String(text))
    }

    /// What the stock client's notepack has of its own: type 0, told apart by its length where that is fixed; and
    /// MessagePack's own type for points in time, which newer ones use.
    fn extension(&mut self, length: usize, fixed: bool) -> Result<Item<'a>, DecodeError> {
        match (self.take(1)?, fixed, length) {
            ([0], true, 1) => self.take(1).map(|_| Item::Nothing),
            ([0], true, 8) => Ok(Item::Date(self.number(8)?.cast_signed())),
            ([0], false, _) => Ok(Item::Binary(self.take(length)?)),
            ([TIMESTAMP], _, _) => self.timestamp(length),
            _ => Err(DecodeError::InvalidPayload),
        }
    }

    /// <https://github.com/msgpack/msgpack/blob/master/spec.md#timestamp-extension-type>
    fn timestamp(&mut self, length: usize) -> Result<Item<'a>, DecodeError> {
        let (seconds, nanos) = match length {
            4 => (self.number(4)?.cast_signed(), 0),
            8 => {
                let both = self.number(8)?;
                ((both & ((1 << 34) - 1)).cast_signed(), both >> 34)
            }
            12 => {
                let nanos = self.number(4)?;
                (self.number(8)?.cast_signed(), nanos)
            }
            _ => return Err(DecodeError::InvalidPayload),
        };
        let millis = i64::try_from(nanos / 1_000_000).ok();
        let millis = millis.and_then(|millis| seconds.checked_mul(1000)?.checked_add(millis));
        millis.map(Item::Date).ok_or(DecodeError::InvalidPayload)
    }

    fn item(&mut self) -> Result<Item<'a>, DecodeError> {
        let first = self.take(1)?[0];
        Ok(match first {
            0x00..=0x7f => Item::Integer(first.into()),
            0xe0..=0xff => Item::Integer(first.cast_signed().into()),
            0x80..=0x8f => Item::Map(usize::from(first & 0x0f)),
            0x90..=0x9f => Item::Array(usize::from(first & 0x0f)),
            0xa0..=0xbf => self.text(usize::from(first & 0x1f))?,
            0xc0 => Item::Nothing,
            0xc1 => return Err(DecodeError::InvalidPayload),
            0xc2 => Item::Bool(false),
            0xc3 => Item::Bool(true),
            0xc4..=0xc6 => {
                let length = self.length(1 << (first - 0xc4))?;
                Item::Binary(self.take(length)?)
            }
            0xc7..=0xc9 => {
                let length = self.length(1 << (first - 0xc7))?;
                self.extension(length, false)?
            }
            0xca => {
                let bits = self.number(4)?;
                Item::Float(f32::from_bits(u32::try_from(bits).unwrap_or_default()).into())
            }
            0xcb => Item::Float(f64::from_bits(self.number(8)?)),
            0xcc..=0xcf => Item::Integer(self.number(1 << (first - 0xcc))?.into()),
            0xd0 => Item::Integer(self.take(1)?[0].cast_signed().into()),
            0xd1..=0xd3 => {
                let bytes = 1 << (first - 0xd0);
                let unused = 64 - 8 * bytes;
                let number = self.number(bytes)? << unused;
                Item::Integer((number.cast_signed() >> unused).into())
            }
            0xd4..=0xd8 => self.extension(1 << (first - 0xd4), true)?,
            0xd9..=0xdb => {
                let length = self.length(1 << (first - 0xd9))?;
                self.text(length)?
            }
            0xdc | 0xdd => Item::Array(self.length(2 << (first - 0xdc))?),
            0xde | 0xdf => Item::Map(self.length(2 << (first - 0xde))?),
        })
    }

    fn map(&mut self) -> Result<usize, DecodeError> {
        match self.item()? {
            Item::Map(length) => Ok(length),
            _ => Err(DecodeError::InvalidPayload),
        }
    }

    fn string(&mut self) -> Result<&'a str, DecodeError> {
        match self.item()? {
            Item::String(text) => Ok(text),
            _ => Err(DecodeError::InvalidPayload),
        }
    }

    fn integer(&mut self) -> Result<i128, DecodeError> {
        self.integer_or_nothing()?.ok_or(DecodeError::InvalidPayload)
    }

    fn integer_or_nothing(&mut self) -> Result<Option<i128>, DecodeError> {
        match self.item()? {
            Item::Nothing => Ok(None),
            Item::Integer(number @ 0..=MAX_SAFE) => Ok(Some(number)),
            // An integer over 32 bits comes as a double.
            Item::Float(number)
                if number.fract() == 0.0 && (0.0..=9_007_199_254_740_991.0).contains(&number) =>
            {
                #[expect(clippy::cast_possible_truncation, reason = "a whole number in range")]
                Ok(Some(number as i128))
            }
            _ => Err(DecodeError::InvalidAckId),
        }
    }

    /// The bytes of one value.
    fn skip(&mut self, depth: usize) -> Result<&'a [u8], DecodeError> {
        if depth > MAX_DEPTH {
            return Err(DecodeError::TooDeep);
        }
        let begin = self.rest;
        let inside = match self.item()? {
            Item::Array(length) => length,
            Item::Map(length) => length.saturating_mul(2),
            _ => 0,
        };
        for _ in 0..inside {
            self.skip(depth + 1)?;
        }
        Ok(&begin[..begin.len() - self.rest.len()])
    }

    fn put_json(
        &mut self,
        out: &mut Vec<u8>,
        attachments: &mut Vec<Bytes>,
        limits: &Limits,
        depth: usize,
    ) -> Result<(), DecodeError> {
        if depth > MAX_DEPTH {
            return Err(DecodeError::TooDeep);
        }
        match self.item()? {
            Item::Nothing => out.extend_from_slice(b"null"),
            Item::Bool(value) => out.extend_from_slice(if value { b"true" } else { b"false" }),
            Item::Integer(number) => out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes()),
            Item::Float(number) if number.is_finite() => {
                out.extend_from_slice(Value::from(number).to_string().as_bytes());
            }
            Item::Float(_) => out.extend_from_slice(b"null"),
            Item::String(text) => json::write_string(out, text),
            Item::Binary(data) => {
                if attachments.len() == limits.max_attachments {
                    return Err(DecodeError::TooManyAttachments);
                }
                out.extend_from_slice(
                    format!(r#"{{"_placeholder":true,"num":{}}}"#, attachments.len()).as_bytes(),
                );
                attachments.push(Bytes::copy_from_slice(data));
            }
            Item::Array(length) => {
                out.push(b'[');
                for position in 0..length {
                    if position > 0 {
                        out.push(b',');
                    }
                    self.put_json(out, attachments, limits, depth + 1)?;
                }
                out.push(b']');
            }
            Item::Map(length) => {
                out.push(b'{');
                for position in 0..length {
                    if position > 0 {
                        out.push(b',');
                    }
                    json::write_string(out, self.string()?);
                    out.push(b':');
                    self.put_json(out, attachments, limits, depth + 1)?;
                }
                out.push(b'}');
            }
            Item::Date(time) => {
                let date = date(time).ok_or(DecodeError::InvalidPayload)?;
                json::write_string(out, &date);
            }
        }
        Ok(())
    }
}

/// A time as JavaScript prints one: `2026-11-21T22:10:00.000Z`. `None` beyond the years of four digits.
fn date(millis: i64) -> Option<String> {
    let seconds = millis.div_euclid(1000);
    // From days to the civil calendar, whose year begins in March, so that a leap day is its last.
    let days = seconds.div_euclid(86_400);
    let second = seconds.rem_euclid(86_400);
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * march + 2) / 5 + 1;
    let month = if march < 10 { march + 3 } else { march - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    if !(0..=9_999).contains(&year) {
        return None;
    }
    Some(format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{:03}Z",
        second / 3600,
        second / 60 % 60,
        second % 60,
        millis.rem_euclid(1000)
    ))
}

#[cfg(test)]
mod tests {
    use super::super::encode as standard;
    use super::*;

    fn taken(message: &[u8]) -> Result<(String, Vec<Bytes>), DecodeError> {
        decode(message, &Limits::DEFAULT).map(|(text, attachments)| (text.to_string(), attachments))
    }

    fn made(packet: &Encoded) -> Vec<u8> {
        let frames: Vec<_> = encode(packet).frames().collect();
        assert_eq!(frames.len(), 1);
        assert!(frames[0].binary);
        frames[0].payload.to_vec()
    }

    #[test]
    fn what_was_made_is_taken() {
        let data = Bytes::from_static(b"\x01\x02");
        let placeholder = r#"{"_placeholder":true,"num":0}"#;
        let args =
            r#"1,-1,127,128,-33,65536,4294967296,-4294967296,1.5,"é",null,true,[[],{}],{"a":{"b":[2]}}"#;
        let long = format!("\"{}\"", "x".repeat(70_000));
        for (packet, text) in [
            (
                standard::event("/", None, "a", args, &[], None),
                format!(r#"2["a",{args}]"#),
            ),
            (
                standard::event("/chat", Some(7), "a", &long, &[], Some("p")),
                format!(r#"2/chat,7["a",{long},"p"]"#),
            ),
            (
                standard::event("/", None, "a", placeholder, std::slice::from_ref(&data), None),
                format!(r#"51-["a",{placeholder}]"#),
            ),
            (standard::ack("/", 12, "", &[]), "312[]".to_owned()),
            (
                standard::connect("/chat", "s", Some("p")),
                r#"0/chat,{"pid":"p","sid":"s"}"#.to_owned(),
            ),
            (standard::disconnect("/chat"), "1/chat,".to_owned()),
            (
                standard::connect_error("/", "no", None),
                r#"4{"message":"no"}"#.to_owned(),
            ),
        ] {
            let (taken, attachments) = taken(&made(&packet)).unwrap();
            assert_eq!(taken, text);
            assert_eq!(attachments.len(), usize::from(text.starts_with('5')));
        }
    }

    #[test]
    fn engine_packets_stay() {
        for packet in [
            standard::engine_ping(false),
            standard::engine_noop(),
            standard::engine_pong("x"),
        ] {
            assert_eq!(encode(&packet), packet);
        }
    }

    #[test]
    fn as_the_stock_client_sends_them() {
        // {type: 0, data: undefined, nsp: "/", options: {compress: true}}
        let connect = b"\x84\xa4type\x00\xa4data\xd4\x00\x00\xa3nsp\xa1/\xa7options\x81\xa8compress\xc3";
        assert_eq!(taken(connect), Ok(("0".to_owned(), Vec::new())));
        // ["d", new Date(1709186816789), new ArrayBuffer(1)]
        let event = b"\x83\xa4type\x02\xa4data\x93\xa1d\xd7\x00\x00\x00\x01\x8d\xf3\x79\x1b\x15\xc7\x01\x00\x07\xa3nsp\xa1/";
        let (text, attachments) = taken(event).unwrap();
        assert_eq!(
            text,
            r#"51-["d","2024-02-29T06:06:56.789Z",{"_placeholder":true,"num":0}]"#
        );
        assert_eq!(attachments, [Bytes::from_static(b"\x07")]);
        // As notepack 3 has dates: 32, 64 and 96 bits.
        for (extension, text) in [
            (b"\xd6\xff\x65\xe0\x1f\x00".as_slice(), "2024-02-29T06:06:56.000Z"),
            (
                b"\xd7\xff\xbc\x1c\xbd\x00\x65\xe0\x1f\x00",
                "2024-02-29T06:06:56.789Z",
            ),
            (
                b"\xc7\x0c\xff\x3b\x8b\x87\xc0\xff\xff\xff\xff\xff\xff\xff\xff",
                "1969-12-31T23:59:59.999Z",
            ),
        ] {
            let event = [b"\x83\xa4type\x02\xa4data\x92\xa1d", extension, b"\xa3nsp\xa1/"].concat();
            assert_eq!(taken(&event).unwrap().0, format!(r#"2["d","{text}"]"#));
        }
        let far = b"\x83\xa4type\x02\xa4data\x92\xa1d\xc7\x0c\xff\x00\x00\x00\x00\x7f\xff\xff\xff\xff\xff\xff\xff\xa3nsp\xa1/";
        assert_eq!(taken(far), Err(DecodeError::InvalidPayload));
        assert_eq!(date(0).as_deref(), Some("1970-01-01T00:00:00.000Z"));
        assert_eq!(date(-1).as_deref(), Some("1969-12-31T23:59:59.999Z"));
        assert_eq!(date(i64::MIN), None);
    }

    #[test]
    fn what_is_no_packet() {
        let deep = [
            b"\x83\xa4type\x02\xa3nsp\xa1/\xa4data".as_slice(),
            &[0x91; MAX_DEPTH + 2],
            b"\x00",
        ]
        .concat();
        for (message, wrong) in [
            (b"".as_slice(), DecodeError::InvalidPayload),
            (b"\x80", DecodeError::InvalidPayload),
            (b"\x82\xa4type\x02\xa3nsp\xa1x", DecodeError::InvalidPayload),
            (b"\x82\xa4type\x02\xa3nsp\xa4/a,1", DecodeError::InvalidPayload),
            (b"\x82\xa4type\x09\xa3nsp\xa1/", DecodeError::UnknownType),
            (
                b"\x82\xa4type\x02\xa3nsp\xdb\xff\xff\xff\xff",
                DecodeError::InvalidPayload,
            ),
            (
                b"\x83\xa4type\x02\xa3nsp\xa1/\xa4data\xdd\xff\xff\xff\xff",
                DecodeError::InvalidPayload,
            ),
            (&deep, DecodeError::TooDeep),
        ] {
            assert_eq!(taken(message), Err(wrong), "{message:?}");
        }
    }
}
