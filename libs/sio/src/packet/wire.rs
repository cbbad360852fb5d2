//! What clients get that speak something else than Engine.IO v4 and Socket.IO v5 in JSON.

use bytes::Bytes;
use bytestring::ByteString;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{Encoded, msgpack};
use crate::json;
use crate::ws::{deflate, frame};

/// How a client wants its packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Dialect {
    /// Engine.IO v4, Socket.IO v5, JSON.
    #[default]
    Standard,
    /// Engine.IO v3, Socket.IO v4, JSON: clients of Socket.IO v2.
    V3,
    /// Engine.IO v4, Socket.IO v5, MessagePack ([`super::msgpack`]).
    Msgpack,
}

/// A dialect, and whether large messages are compressed ([`crate::ws::deflate`]). Who has the same gets the same bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Wire {
    /// Which packets.
    pub dialect: Dialect,
    /// In which frames.
    pub deflate: bool,
}

impl Wire {
    /// How many there are, this many [`Wire::index`]es.
    pub const COUNT: usize = 6;

    /// A number of its own, 0 for the default.
    #[must_use]
    pub fn index(self) -> usize {
        2 * self.dialect as usize + usize::from(self.deflate)
    }

    /// The same packets in this form; `None`: they are no different. `deflate_from` is the size in bytes from which a
    /// message is compressed.
    #[must_use]
    pub fn translate(self, packets: &Encoded, deflate_from: usize) -> Option<Encoded> {
        let translated = self.dialect.translate(packets);
        if !self.deflate {
            return translated;
        }
        let compressed = deflate::compress(translated.as_ref().unwrap_or(packets), deflate_from);
        compressed.or(translated)
    }
}

/// The type of a message packet, before binary data of v3.
const MESSAGE: u8 = 4;

impl Dialect {
    /// The same packets in this dialect; `None`: they are no different. What goes to many is translated once for all
    /// who speak it.
    #[must_use]
    pub fn translate(self, packets: &Encoded) -> Option<Encoded> {
        match self {
            Self::Standard => None,
            Self::V3 => to_v3(packets),
            Self::Msgpack => Some(msgpack::encode(packets)),
        }
    }
}

/// Events and acknowledgements as text are the same; binary frames begin with their type, an answered CONNECT has no
/// payload, and a refused one says only why.
fn to_v3(packets: &Encoded) -> Option<Encoded> {
    let differs =
        |binary: bool, payload: &[u8]| binary || payload.starts_with(b"40") || payload.starts_with(b"44");
    if !packets
        .frames()
        .any(|frame| differs(frame.binary, &frame.payload))
    {
        return None;
    }
    let mut out = Vec::with_capacity(packets.len() + 16);
    for frame in packets.frames() {
        if frame.binary {
            frame::write_binary_behind(&mut out, MESSAGE, &frame.payload);
        } else if frame.payload.starts_with(b"40") {
            frame::write_text(&mut out, &frame.payload[..head(&frame.payload)]);
        } else if frame.payload.starts_with(b"44") {
            let (head, refusal) = frame.payload.split_at(head(&frame.payload));
            frame::write_text(&mut out, &[head, reason(refusal)].concat());
        } else {
            frame::write_text(&mut out, &frame.payload);
        }
    }
    Some(Encoded::from_frames(Bytes::from(out)))
}

/// Where the payload of `4<type>[<namespace>,]` begins.
fn head(packet: &[u8]) -> usize {
    if packet.get(2) != Some(&b'/') {
        return packet.len().min(2);
    }
    memchr::memchr(b',', packet).map_or(packet.len(), |comma| comma + 1)
}

/// Of `{"message":…,"data":…}` the data if there is any, else the message: what v4 clients expect.
fn reason(refusal: &[u8]) -> &[u8] {
    #[derive(Deserialize)]
    struct Refusal<'a> {
        #[serde(borrow)]
        message: &'a RawValue,
        #[serde(borrow, default)]
        data: Option<&'a RawValue>,
    }
    let Ok(Refusal { message, data }) = serde_json::from_slice::<Refusal<'_>>(refusal) else {
        return refusal;
    };
    data.unwrap_or(message).get().as_bytes()
}

/// A CONNECT of Socket.IO v4, which carries its authentication in the namespace's query (`0/chat?token=t,`), as one of v5
/// (`0/chat,{"token":"t"}`). Anything else stays as it is.
#[must_use]
pub fn connect_of_v4(text: ByteString) -> ByteString {
    let Some((namespace, query)) = text
        .strip_prefix('0')
        .filter(|rest| rest.starts_with('/'))
        .and_then(|rest| rest.split_once('?'))
    else {
        return text;
    };
    let query = query.split_once(',').map_or(query, |(query, _)| query);
    let mut connect = format!("0{namespace},{{").into_bytes();
    for (position, (name, value)) in query
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .enumerate()
    {
        if position > 0 {
            connect.push(b',');
        }
        json::write_string(&mut connect, &decoded(name));
        connect.push(b':');
        json::write_string(&mut connect, &decoded(value));
    }
    connect.push(b'}');
    ByteString::try_from(connect).unwrap_or(text)
}

/// `%41` → `A`. What is no such escape stays; what then is no UTF-8 is replaced.
fn decoded(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        let digits = bytes.get(at + 1..at + 3).filter(|_| *byte == b'%');
        let escaped = digits
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        at += if escaped.is_some() { 3 } else { 1 };
        out.push(escaped.unwrap_or(*byte));
    }
    String::from_utf8(out).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
}

#[cfg(test)]
mod tests {
    use super::super::encode;
    use super::*;

    fn frames(packets: &Encoded) -> Vec<(bool, Vec<u8>)> {
        packets
            .frames()
            .map(|frame| (frame.binary, frame.payload.to_vec()))
            .collect()
    }

    fn v3(packets: &Encoded) -> Vec<(bool, Vec<u8>)> {
        frames(&Dialect::V3.translate(packets).unwrap())
    }

    #[test]
    fn text_events_are_the_same_in_v3() {
        let event = encode::event("/chat", None, "a", "1", &[], None);
        assert_eq!(Dialect::V3.translate(&event), None);
        assert_eq!(
            Dialect::Standard.translate(&encode::connect("/", "sid", None)),
            None
        );
    }

    #[test]
    fn what_differs_in_v3() {
        let data = Bytes::from_static(b"\x01\x02");
        let event = encode::event(
            "/",
            Some(7),
            "a",
            r#"{"_placeholder":true,"num":0}"#,
            &[data],
            None,
        );
        assert_eq!(
            v3(&event),
            [
                (false, br#"451-7["a",{"_placeholder":true,"num":0}]"#.to_vec()),
                (true, b"\x04\x01\x02".to_vec())
            ]
        );
        assert_eq!(v3(&encode::connect("/", "sid", None)), [(false, b"40".to_vec())]);
        assert_eq!(
            v3(&encode::connect("/chat", "sid", None)),
            [(false, b"40/chat,".to_vec())]
        );
        assert_eq!(
            v3(&encode::connect_error("/", "no", None)),
            [(false, br#"44"no""#.to_vec())]
        );
        assert_eq!(
            v3(&encode::connect_error("/chat", "no", Some(r#"{"code":1}"#))),
            [(false, br#"44/chat,{"code":1}"#.to_vec())]
        );
    }

    #[test]
    fn authentication_in_the_namespace() {
        let of = |text: &'static str| connect_of_v4(text.into()).to_string();
        assert_eq!(
            of("0/chat?token=a.b&x=%22%41%zz,"),
            r#"0/chat,{"token":"a.b","x":"\"A%zz"}"#
        );
        assert_eq!(of("0/chat?token=t"), r#"0/chat,{"token":"t"}"#);
        assert_eq!(of("0/chat,"), "0/chat,");
        assert_eq!(of("0"), "0");
        assert_eq!(of(r#"2["?"]"#), r#"2["?"]"#);
    }
}
