//! What `@socket.io/redis-emitter` puts into Redis for the servers to send: `[uid, packet, {rooms, except, flags}]` as
//! `socket.io-adapter` hands it on, the packet as the msgpack parser has it.

use bytes::Bytes;
use bytestring::ByteString;

use super::{Item, Reader, decode_as};
use crate::packet::{DecodeError, Decoded, EventName, Limits, Packet, RawArgs};

/// An event and whom it is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broadcast {
    /// Beginning with `/`.
    pub namespace: ByteString,
    /// What happened.
    pub name: EventName,
    /// With what.
    pub args: RawArgs,
    /// Binary data, in the order of their numbers.
    pub attachments: Vec<Bytes>,
    /// Members of these; everybody in the namespace when there are none.
    pub rooms: Vec<String>,
    /// Not members of these.
    pub except: Vec<String>,
    /// Whoever does not take it at once may miss it.
    pub volatile: bool,
}

impl Broadcast {
    /// Reads one. Fields that nobody here needs are skipped.
    ///
    /// # Errors
    /// As [`super::decode`] and [`Packet::decode`]; [`DecodeError::InvalidPayload`] for everything else that is no
    /// broadcast of an event.
    pub fn decode(message: &[u8], limits: &Limits) -> Result<Self, DecodeError> {
        let mut reader = Reader { rest: message };
        let Item::Array(parts @ 3..) = reader.item()? else {
            return Err(DecodeError::InvalidPayload);
        };
        reader.skip(0)?;
        let packet = reader.skip(0)?;
        let to = reader.to()?;
        for _ in 3..parts {
            reader.skip(0)?;
        }
        if !reader.rest.is_empty() {
            return Err(DecodeError::InvalidPayload);
        }
        // Older emitters say themselves that there is binary data in an event.
        let (text, attachments) = decode_as(packet, limits, |kind| if kind == 5 { 2 } else { kind })?;
        let Decoded {
            packet:
                Packet::Event {
                    namespace,
                    ack: None,
                    name,
                    args,
                    ..
                },
            ..
        } = Packet::decode(&text, limits)?
        else {
            return Err(DecodeError::InvalidPayload);
        };
        Ok(Self {
            namespace,
            name,
            args,
            attachments,
            rooms: to.rooms,
            except: to.except,
            volatile: to.volatile,
        })
    }
}

#[derive(Default)]
struct To {
    rooms: Vec<String>,
    except: Vec<String>,
    volatile: bool,
}

impl Reader<'_> {
    fn to(&mut self) -> Result<To, DecodeError> {
        let mut to = To::default();
        for _ in 0..self.map()? {
            match self.string()? {
                "rooms" => to.rooms = self.names()?,
                "except" => to.except = self.names()?,
                "flags" => to.volatile = self.is_volatile()?,
                _ => drop(self.skip(0)?),
            }
        }
        Ok(to)
    }

    /// A number is the name that it looks like: rooms are texts here.
    fn names(&mut self) -> Result<Vec<String>, DecodeError> {
        let length = match self.item()? {
            Item::Array(length) => length,
            Item::Nothing => 0,
            _ => return Err(DecodeError::InvalidPayload),
        };
        let mut names = Vec::new();
        for _ in 0..length {
            names.push(match self.item()? {
                Item::String(name) => name.to_owned(),
                Item::Integer(number) => number.to_string(),
                _ => return Err(DecodeError::InvalidPayload),
            });
        }
        Ok(names)
    }

    fn is_volatile(&mut self) -> Result<bool, DecodeError> {
        let length = match self.item()? {
            Item::Map(length) => length,
            // Languages whose empty lists and maps are the same.
            Item::Nothing | Item::Array(0) => 0,
            _ => return Err(DecodeError::InvalidPayload),
        };
        let mut volatile = false;
        for _ in 0..length {
            let name = self.string()?;
            let value = self.skip(0)?;
            if name == "volatile" {
                volatile = matches!(value, [0xc3]);
            }
        }
        Ok(volatile)
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    fn read(message: &[u8]) -> Result<Broadcast, DecodeError> {
        Broadcast::decode(message, &Limits::DEFAULT)
    }

    fn joined(parts: &[&[u8]]) -> Vec<u8> {
        parts.concat()
    }

    /// `{type: 2, data: ["hi", 1], nsp: "/chat"}`
    const PACKET: &[u8] = b"\x83\xa4type\x02\xa4data\x92\xa2hi\x01\xa3nsp\xa5/chat";
    /// `{rooms: [], flags: {}, except: []}`
    const ALL: &[u8] = b"\x83\xa5rooms\x90\xa5flags\x80\xa6except\x90";

    #[test]
    fn as_the_stock_emitter_sends_it() {
        // {rooms: ["a", 7], flags: {volatile: true, compress: false}, except: ["b"]}
        let to =
            b"\x83\xa5rooms\x92\xa1a\x07\xa5flags\x82\xa8volatile\xc3\xa8compress\xc2\xa6except\x91\xa1b";
        let broadcast = read(&joined(&[b"\x93\xa7emitter", PACKET, to])).unwrap();
        assert_eq!(broadcast.namespace, "/chat");
        assert_eq!(broadcast.name, EventName::Text("hi".into()));
        assert_eq!(broadcast.args.as_str(), "1");
        assert_eq!(broadcast.rooms, ["a", "7"]);
        assert_eq!(broadcast.except, ["b"]);
        assert!(broadcast.volatile);
        let broadcast = read(&joined(&[b"\x93\xa7emitter", PACKET, ALL])).unwrap();
        assert!(broadcast.rooms.is_empty() && broadcast.except.is_empty() && !broadcast.volatile);
    }

    #[test]
    fn as_other_emitters_send_it() {
        // {type: 5, data: ["hi", <01 02>], nsp: "/"}, {rooms: null, flags: [], x: [1]}, and one more part
        let packet = b"\x83\xa4type\x05\xa4data\x92\xa2hi\xc4\x02\x01\x02\xa3nsp\xa1/";
        let to = b"\x83\xa5rooms\xc0\xa5flags\x90\xa1x\x91\x01";
        let broadcast = read(&joined(&[b"\x94\xa7emitter", packet, to, b"\x01"])).unwrap();
        assert_eq!(broadcast.args.as_str(), r#"{"_placeholder":true,"num":0}"#);
        assert_eq!(broadcast.attachments, [&b"\x01\x02"[..]]);
        // {type: 5, data: ["hi"], nsp: "/"}
        let packet = b"\x83\xa4type\x05\xa4data\x91\xa2hi\xa3nsp\xa1/";
        assert!(read(&joined(&[b"\x93\xc0", packet, ALL])).is_ok());
    }

    #[test]
    fn what_is_no_broadcast() {
        let ack = b"\x83\xa4type\x03\xa4data\x91\x01\xa3nsp\xa1/";
        let with_id = b"\x84\xa4type\x02\xa4data\x91\xa1a\xa2id\x01\xa3nsp\xa1/";
        for bad in [
            Vec::new(),
            joined(&[b"\x92\xc0", PACKET]),
            joined(&[b"\x93\xc0", ack, ALL]),
            joined(&[b"\x93\xc0", with_id, ALL]),
            joined(&[b"\x93\xc0", PACKET, b"\x81\xa5rooms\x91\xc3"]),
            joined(&[b"\x93\xc0", PACKET, b"\x81\xa5rooms\xdd\xff\xff\xff\xff"]),
            joined(&[b"\x93\xc0", PACKET, b"\x81\xa5flags\x01"]),
            joined(&[b"\x93\xc0", PACKET, ALL, b"\x00"]),
            b"[\"emitter\",{},{}]".to_vec(),
        ] {
            assert!(read(&bad).is_err(), "{bad:?}");
        }
        let deep = joined(&[b"\x93", &[0x91; 200], b"\x00", PACKET, ALL]);
        assert_eq!(read(&deep), Err(DecodeError::TooDeep));
    }

    proptest! {
        #[test]
        fn any_bytes_are_taken_or_refused(message: Vec<u8>) {
            let _ = read(&message);
        }

        #[test]
        fn so_are_broken_broadcasts(at in vec(any::<(prop::sample::Index, u8)>(), 1..4), cut: prop::sample::Index) {
            let mut message = joined(&[b"\x93\xa7emitter", PACKET, ALL]);
            for (index, byte) in at {
                let place = index.index(message.len());
                message[place] = byte;
            }
            let _ = read(&message);
            let _ = read(&message[..cut.index(message.len())]);
        }
    }
}
