//! What must hold for any input. Used by the fuzz targets, by the property tests and by the replay of the corpora;
//! every function panics when its claim does not hold.
#![allow(dead_code, reason = "each user takes its part")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "these are assertions"
)]

mod naive;
mod state;

use bytes::Bytes;
use bytestring::ByteString;
use sio::engine::{Packet as EnginePacket, payload};
use sio::packet::{Encoded, EventName, Frame, Limits, Packet, encode};
use sio::ws::{Decoder, Message};

#[allow(unused_imports, reason = "each user takes its part")]
pub(crate) use state::client_session;

/// Few and low, so that short inputs reach them.
pub(crate) const LIMITS: Limits = Limits {
    max_attachments: 3,
    max_depth: 6,
    max_args: 5,
};

/// The decoder says the same as a naive one, however the input is cut; and what it must not say: a message too long.
pub(crate) fn ws_decode(data: &[u8]) {
    let Some((&[cut, max], stream)) = data.split_first_chunk() else {
        return;
    };
    let max = usize::from(max) * 8;
    let whole = ws_messages(stream, stream.len().max(1), max);
    assert_eq!(whole, naive::ws_messages(stream, max));
    assert_eq!(
        whole,
        ws_messages(stream, usize::from(cut).max(1), max),
        "cut into pieces of {cut}"
    );
    assert_eq!(whole, ws_messages(stream, 1, max), "byte by byte");
    for message in &whole.0 {
        let (len, max) = match message {
            Message::Text(text) => (text.len(), max),
            Message::Binary(data) => (data.len(), max),
            Message::Ping(data) | Message::Pong(data) => (data.len(), 125),
            Message::Close(_) => (0, 0),
        };
        assert!(len <= max);
    }
}

/// Messages up to the first error or close frame, and the close code of the error.
pub(crate) type WsOutcome = (Vec<Message>, Option<u16>);

/// Feeds `stream` in pieces of `piece` bytes.
pub(crate) fn ws_messages(stream: &[u8], piece: usize, max: usize) -> WsOutcome {
    let mut decoder = Decoder::new();
    let mut messages = Vec::new();
    for mut input in stream.chunks(piece) {
        loop {
            match decoder.next(&mut input, max) {
                Ok(Some(message)) => {
                    let closes = matches!(message, Message::Close(_));
                    messages.push(message);
                    if closes {
                        return (messages, None);
                    }
                }
                Ok(None) => break,
                Err(error) => return (messages, Some(error.close_code())),
            }
        }
        assert!(input.is_empty(), "None means: all used up");
    }
    (messages, None)
}

/// Packets are the chunks between separators; what was decoded survives encoding and decoding.
pub(crate) fn engine_payload(data: &[u8]) {
    let body = Bytes::copy_from_slice(data);
    let result = payload::decode(body.clone());
    let Ok(text) = std::str::from_utf8(data) else {
        assert!(result.is_err());
        return;
    };
    let one_by_one: Vec<_> = text
        .split('\x1e')
        .map(|chunk| EnginePacket::decode_text(chunk.into()))
        .collect();
    let expected: Result<Vec<_>, _> = one_by_one.iter().cloned().collect();
    assert_eq!(result, expected);
    let good = one_by_one.iter().take_while(|packet| packet.is_ok()).count();
    assert_eq!(
        payload::packets(body).unwrap().filter(Result::is_ok).count(),
        good
    );
    let Ok(packets) = result else { return };
    let encoded = payload::encode(packets.iter().map(engine_frame));
    assert_eq!(payload::decode(encoded.into()).as_ref(), Ok(&packets));
}

fn engine_frame(packet: &EnginePacket) -> Frame {
    let text = |kind: &str, data: &str| Frame {
        binary: false,
        payload: Bytes::from([kind, data].concat()),
    };
    match packet {
        EnginePacket::Open(data) => text("0", data),
        EnginePacket::Close => text("1", ""),
        EnginePacket::Ping(data) => text("2", data),
        EnginePacket::Pong(data) => text("3", data),
        EnginePacket::Text(data) => text("4", data),
        EnginePacket::Binary(data) => Frame {
            binary: true,
            payload: data.clone(),
        },
        EnginePacket::Upgrade => text("5", ""),
        EnginePacket::Noop => text("6", ""),
    }
}

/// The decoder says the same as a naive one on serde_json; what was decoded survives encoding and decoding.
pub(crate) fn sio_packet(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let decoded = Packet::decode(&text.into(), &LIMITS);
    let summary = decoded
        .as_ref()
        .ok()
        .map(|decoded| naive::summary(&decoded.packet, decoded.attachments));
    match naive::packet(text, &LIMITS) {
        naive::Opinion::Packet(expected) => assert_eq!(summary.as_ref(), Some(&expected), "{decoded:?}"),
        naive::Opinion::Refused => assert_eq!(summary, None),
        naive::Opinion::None => {}
    }
    let Ok(decoded) = decoded else { return };
    let attachments = vec![Bytes::from_static(b"\x01\x02"); decoded.attachments];
    let Some(encoded) = encode_again(&decoded.packet, &attachments) else {
        return;
    };
    let mut frames = encoded.frames();
    let first = frames.next().unwrap();
    assert!(!first.binary);
    let text = ByteString::try_from(first.payload.slice(1..)).unwrap();
    assert_eq!(Packet::decode(&text, &LIMITS).as_ref(), Ok(&decoded), "{text}");
    let rest: Vec<_> = frames.collect();
    assert!(rest.iter().all(|frame| frame.binary));
    assert_eq!(
        rest.into_iter().map(|frame| frame.payload).collect::<Vec<_>>(),
        attachments
    );
}

fn encode_again(packet: &Packet, attachments: &[Bytes]) -> Option<Encoded> {
    match packet {
        Packet::Event {
            namespace,
            ack,
            name: EventName::Text(name),
            args,
            ..
        } => Some(encode::event(
            namespace,
            *ack,
            name,
            args.as_str(),
            attachments,
            None,
        )),
        Packet::Ack {
            namespace, id, args, ..
        } => Some(encode::ack(namespace, *id, args.as_str(), attachments)),
        Packet::Disconnect { namespace } => Some(encode::disconnect(namespace)),
        // Servers do not send these, or not in this form.
        Packet::Event {
            name: EventName::Number(_),
            ..
        }
        | Packet::Connect { .. }
        | Packet::ConnectError { .. } => None,
    }
}
