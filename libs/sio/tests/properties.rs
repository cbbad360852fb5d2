//! What holds for any input: the claims of the fuzz targets on structured inputs, and round trips.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../fuzz/checks/mod.rs"]
mod checks;
mod frames;

use bytes::Bytes;
use frames::Frame;
use proptest::collection::vec;
use proptest::prelude::*;
use sio::engine::{Packet as EnginePacket, payload};
use sio::packet::{Decoded, Encoded, EventName, Frame as Message, Limits, Packet, RawArgs, encode};
use sio::ws;

/// JSON as somebody may write it: white space, escapes, any nesting.
fn json() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        Just("null".to_owned()),
        Just("true".to_owned()),
        Just(r#"{"_placeholder":true,"num":1}"#.to_owned()),
        Just(r#""\ud83d\ude00\ud800\/""#.to_owned()),
        any::<f64>()
            .prop_filter("finite", |n| n.is_finite())
            .prop_map(|n| format!("{n:e}")),
        any::<i64>().prop_map(|n| n.to_string()),
        any::<String>().prop_map(|text| serde_json::to_string(&text).unwrap()),
    ];
    leaf.prop_recursive(4, 24, 6, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(|items| format!("[ {}\t]", items.join(" ,"))),
            vec(("[_a-z]{0,4}|num|_placeholder", inner), 0..4).prop_map(|fields| {
                let fields: Vec<_> = fields
                    .iter()
                    .map(|(key, value)| format!("\"{key}\" :{value}"))
                    .collect();
                format!("{{{}\n}}", fields.join(", "))
            }),
        ]
    })
}

/// Text that is a packet, or nearly.
fn packet_like() -> impl Strategy<Value = String> {
    let namespace = prop_oneof![Just(String::new()), "/[a-z]{0,3}(\\?[a-z=]{0,4})?,?"];
    let payload = prop_oneof![
        vec(json(), 0..7).prop_map(|values| format!("[{}]", values.join(","))),
        ("[a-z]{0,3}|connect", vec(json(), 0..4)).prop_map(|(name, values)| {
            let values: String = values.iter().map(|value| format!(",{value}")).collect();
            format!("[\"{name}\"{values}]")
        }),
        json(),
        any::<String>(),
        Just(String::new()),
    ];
    (
        "[0-7]",
        prop_oneof![Just(String::new()), "[0-9]{0,2}-"],
        namespace,
        "[0-9]{0,2}|[0-9]{15,21}",
        payload,
    )
        .prop_map(|(kind, count, namespace, id, payload)| [kind, count, namespace, id, payload].concat())
}

fn engine_packet() -> impl Strategy<Value = EnginePacket> {
    let text = "[^\u{1e}]{0,40}";
    prop_oneof![
        Just(EnginePacket::Close),
        Just(EnginePacket::Upgrade),
        Just(EnginePacket::Noop),
        text.prop_map(|text| EnginePacket::Open(text.into())),
        text.prop_map(|text| EnginePacket::Ping(text.into())),
        text.prop_map(|text| EnginePacket::Pong(text.into())),
        text.prop_map(|text| EnginePacket::Text(text.into())),
        vec(any::<u8>(), 0..200).prop_map(|data| EnginePacket::Binary(data.into())),
    ]
}

fn ws_frame() -> impl Strategy<Value = Frame> {
    let opcode =
        prop_oneof![8 => Just(0_u8), 3 => Just(1_u8), 3 => Just(2_u8), 1 => 8..11_u8, 1 => any::<u8>()];
    let payload = prop_oneof![
        vec(any::<u8>(), 0..140),
        "\\PC{0,40}".prop_map(String::into_bytes)
    ];
    (opcode, payload, any::<[u8; 4]>(), any::<bool>()).prop_map(|(opcode, payload, mask, part)| {
        let frame = Frame::new(opcode & 15, &payload).mask(mask);
        if part { frame.part() } else { frame }
    })
}

/// The messages of `encoded` as a client would send them back.
fn decode_again(encoded: &Encoded) -> Vec<Result<EnginePacket, sio::engine::DecodeError>> {
    let text = |payload: Bytes| EnginePacket::decode_text(payload.try_into().unwrap());
    let packet = |message: Message| {
        if message.binary {
            Ok(EnginePacket::Binary(message.payload))
        } else {
            text(message.payload)
        }
    };
    encoded.frames().map(packet).collect()
}

proptest! {
    #[test]
    fn packets_are_read_as_a_naive_parser_reads_them(text in packet_like()) {
        checks::sio_packet(text.as_bytes());
    }

    #[test]
    fn any_text_is_read_as_a_naive_parser_reads_it(text in any::<String>()) {
        checks::sio_packet(text.as_bytes());
    }

    #[test]
    fn any_json_is_an_argument(values in vec(json(), 0..6)) {
        let text = values.join(" , ");
        let args = RawArgs::parse(text.as_str().into()).unwrap();
        prop_assert_eq!(args.iter().collect::<Vec<_>>(), values);
    }

    #[test]
    fn any_payload(body in vec(any::<u8>(), 0..200)) {
        checks::engine_payload(&body);
    }

    #[test]
    fn payload_round_trip(packets in vec(engine_packet(), 1..8)) {
        let frames = packets.iter().map(|packet| match packet {
            EnginePacket::Binary(data) => Message { binary: true, payload: data.clone() },
            EnginePacket::Open(data) => Message { binary: false, payload: format!("0{data}").into() },
            EnginePacket::Close => Message { binary: false, payload: "1".into() },
            EnginePacket::Ping(data) => Message { binary: false, payload: format!("2{data}").into() },
            EnginePacket::Pong(data) => Message { binary: false, payload: format!("3{data}").into() },
            EnginePacket::Text(data) => Message { binary: false, payload: format!("4{data}").into() },
            EnginePacket::Upgrade => Message { binary: false, payload: "5".into() },
            EnginePacket::Noop => Message { binary: false, payload: "6".into() },
        });
        prop_assert_eq!(payload::decode(payload::encode(frames).into()), Ok(packets));
    }

    #[test]
    fn event_round_trip(
        namespace in "/|/[a-z/]{1,8}",
        ack in proptest::option::of(0..1_u64 << 53),
        name in any::<String>(),
        values in vec(json(), 0..4),
        attachments in vec(vec(any::<u8>(), 0..300), 0..3),
        offset in proptest::option::of("[0-9-]{1,9}"),
    ) {
        prop_assume!(!values.iter().any(|value| value.contains("_placeholder")));
        let attachments: Vec<Bytes> = attachments.into_iter().map(Bytes::from).collect();
        let args = values.join(",");
        let encoded = encode::event(&namespace, ack, &name, &args, &attachments, offset.as_deref());
        let mut packets = decode_again(&encoded).into_iter();
        let Some(Ok(EnginePacket::Text(text))) = packets.next() else { panic!("no text") };
        let Ok(Decoded { packet, attachments: count }) = Packet::decode(&text, &Limits::DEFAULT) else {
            // The six reserved names are the server's to send, not the client's.
            prop_assert!(name.contains("connect") || name.ends_with("Listener"));
            return Ok(());
        };
        prop_assert_eq!(count, attachments.len());
        let mut expected = values;
        expected.extend(offset.map(|offset| format!("\"{offset}\"")));
        let Packet::Event { namespace: ns, ack: id, name: EventName::Text(event), args, .. } = packet else {
            panic!("no event")
        };
        prop_assert_eq!((&*ns, id, &*event), (&*namespace, ack, &*name));
        prop_assert_eq!(args.iter().collect::<Vec<_>>(), expected);
        let sent: Vec<_> = attachments.into_iter().map(|data| Ok(EnginePacket::Binary(data))).collect();
        prop_assert_eq!(packets.collect::<Vec<_>>(), sent);
    }

    #[test]
    fn answers_are_json(sid in any::<String>(), message in any::<String>()) {
        for encoded in [encode::connect("/", &sid, Some(&message)), encode::connect_error("/", &message, Some("[1]"))] {
            let frame = encoded.frames().next().unwrap();
            let value: serde_json::Value = serde_json::from_slice(&frame.payload[2..]).unwrap();
            let text = value.get("message").or_else(|| value.get("pid")).and_then(serde_json::Value::as_str);
            prop_assert_eq!(text, Some(&*message));
        }
    }

    #[test]
    fn frames_are_read_as_a_naive_decoder_reads_them(frames in vec(ws_frame(), 0..12), cut in any::<u8>(), max in any::<u8>()) {
        let mut data = vec![cut, max];
        frames.iter().for_each(|frame| data.extend(frame.bytes()));
        checks::ws_decode(&data);
    }

    #[test]
    fn any_bytes_as_frames(data in vec(any::<u8>(), 0..200)) {
        checks::ws_decode(&data);
    }

    #[test]
    fn messages_survive_any_cuts(
        text in any::<String>(),
        data in vec(any::<u8>(), 0..70_000),
        mask in any::<[u8; 4]>(),
        parts in vec(0..70_000_usize, 0..6),
        mut cuts in vec(0..80_000_usize, 0..12),
    ) {
        let mut stream = Frame::text(&text).mask(mask).bytes();
        let mut parts: Vec<_> = parts.into_iter().map(|part| part.min(data.len())).chain([0, data.len()]).collect();
        parts.sort_unstable();
        for (number, part) in parts.windows(2).enumerate() {
            let opcode = if number == 0 { 2 } else { 0 };
            let frame = Frame::new(opcode, &data[part[0]..part[1]]).mask(mask);
            let last = number + 2 == parts.len();
            stream.extend(if last { frame } else { frame.part() }.bytes());
            stream.extend(Frame::ping(&[1]).bytes());
        }
        cuts.iter_mut().for_each(|cut| *cut = (*cut).min(stream.len()));
        cuts.extend([0, stream.len()]);
        cuts.sort_unstable();
        let mut decoder = ws::Decoder::new();
        let mut messages = Vec::new();
        for cut in cuts.windows(2) {
            let mut input = &stream[cut[0]..cut[1]];
            while let Some(message) = decoder.next(&mut input, 1_000_000).unwrap() {
                messages.push(message);
            }
        }
        messages.retain(|message| !matches!(message, ws::Message::Ping(_)));
        prop_assert_eq!(messages, [ws::Message::Text(text.into()), ws::Message::Binary(data.into())]);
    }

    #[test]
    fn any_script_keeps_the_states_in_order(
        steps in vec((any::<u8>(), prop_oneof![packet_like(), "[0-6](probe)?", Just("0".to_owned())]), 0..30)
    ) {
        let mut script = Vec::new();
        for (what, text) in steps {
            let text = &text.as_bytes()[..text.len().min(255)];
            script.extend([what, u8::try_from(text.len()).unwrap()]);
            script.extend(text);
        }
        checks::client_session(&script);
    }
}
