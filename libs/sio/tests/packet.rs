//! Socket.IO rules, by section of `socket.io-protocol` v5, and the parser's where the document is loose.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use bytes::Bytes;
use bytestring::ByteString;
use sio::packet::{
    DecodeError, Decoded, Encoded, EventName, Limits, MAX_NAMESPACE_BYTES, Packet, RawArgs, encode,
};

fn decode(text: &str) -> Result<Decoded, DecodeError> {
    Packet::decode(&text.into(), &Limits::DEFAULT)
}

fn raw(text: &str) -> RawArgs {
    RawArgs::parse(text.into()).unwrap()
}

fn event(namespace: &str, ack: Option<u64>, name: &str, args: &str) -> Packet {
    Packet::Event {
        namespace: namespace.into(),
        ack,
        name: EventName::Text(name.into()),
        args: raw(args),
        attachments: vec![],
    }
}

fn ack(namespace: &str, id: u64, args: &str) -> Packet {
    Packet::Ack {
        namespace: namespace.into(),
        id,
        args: raw(args),
        attachments: vec![],
    }
}

// "Packet encoding: Examples", and what the reference parser accepts besides

#[test]
fn well_formed() {
    let connect = |namespace: &str, auth: Option<&str>| Packet::Connect {
        namespace: namespace.into(),
        auth: auth.map(Into::into),
    };
    let disconnect = |namespace: &str| Packet::Disconnect {
        namespace: namespace.into(),
    };
    let placeholder = r#"{"_placeholder":true,"num":0}"#;
    let two = r#"{"_placeholder":true,"num":0},{"_placeholder":true,"num":1}"#;
    let table = [
        ("0", connect("/", None), 0),
        ("0/admin,", connect("/admin", None), 0),
        ("0/custom", connect("/custom", None), 0),
        ("0/,", connect("/", None), 0),
        ("0/admin?token=1&x=/,", connect("/admin", None), 0),
        ("0/?token=1,", connect("/", None), 0),
        (
            r#"0/admin,{"sid":"oSO0OpakMV_3jnilAAAA"}"#,
            connect("/admin", Some(r#"{"sid":"oSO0OpakMV_3jnilAAAA"}"#)),
            0,
        ),
        (
            r#"0{"token":"123"} "#,
            connect("/", Some(r#"{"token":"123"}"#)),
            0,
        ),
        ("1", disconnect("/"), 0),
        ("1/admin,", disconnect("/admin"), 0),
        ("1/admin", disconnect("/admin"), 0),
        (
            r#"4{"message":"Not authorized"}"#,
            Packet::ConnectError {
                namespace: "/".into(),
                data: Some(r#"{"message":"Not authorized"}"#.into()),
            },
            0,
        ),
        (
            r#"4"no""#,
            Packet::ConnectError {
                namespace: "/".into(),
                data: Some(r#""no""#.into()),
            },
            0,
        ),
        (r#"2["foo"]"#, event("/", None, "foo", ""), 0),
        (r#"2/admin,["bar"]"#, event("/admin", None, "bar", ""), 0),
        (r#"212["foo"]"#, event("/", Some(12), "foo", ""), 0),
        (r#"2/admin,007["foo"]"#, event("/admin", Some(7), "foo", ""), 0),
        (
            r#"29007199254740991["foo"]"#,
            event("/", Some((1 << 53) - 1), "foo", ""),
            0,
        ),
        (
            r#"2["foo",1,"2",{"3":[false,null]}]"#,
            event("/", None, "foo", r#"1,"2",{"3":[false,null]}"#),
            0,
        ),
        (
            "2[ \"foo\" ,\t1 , [ 2 ]\n] ",
            event("/", None, "foo", "1 , [ 2 ]"),
            0,
        ),
        (r#"2["a\"b\u00e9\n"]"#, event("/", None, "a\"bé\n", ""), 0),
        (r#"2["",-1.5e+3]"#, event("/", None, "", "-1.5e+3"), 0),
        (r#"2["a","\ud800"]"#, event("/", None, "a", r#""\ud800""#), 0),
        (r#"2["a",1e999]"#, event("/", None, "a", "1e999"), 0),
        (
            r#"2["a",{"_placeholder":true,"num":7}]"#,
            event("/", None, "a", r#"{"_placeholder":true,"num":7}"#),
            0,
        ),
        (r#"3/admin,13["bar"]"#, ack("/admin", 13, r#""bar""#), 0),
        ("30[]", ack("/", 0, ""), 0),
        (
            r#"51-["baz",{"_placeholder":true,"num":0}]"#,
            event("/", None, "baz", placeholder),
            1,
        ),
        (
            r#"51-["baz",{"num":0.0,"x":{"num":9},"_placeholder":true}]"#,
            event(
                "/",
                None,
                "baz",
                r#"{"num":0.0,"x":{"num":9},"_placeholder":true}"#,
            ),
            1,
        ),
        (
            r#"51-["baz",{"_placeholder":"true","num":5}]"#,
            event("/", None, "baz", r#"{"_placeholder":"true","num":5}"#),
            1,
        ),
        (
            r#"52-/admin,["baz",{"_placeholder":true,"num":0},{"_placeholder":true,"num":1}]"#,
            event("/admin", None, "baz", two),
            2,
        ),
        (
            r#"61-15[{"_placeholder":true,"num":0}]"#,
            ack("/", 15, placeholder),
            1,
        ),
        (r#"510-["a"]"#, event("/", None, "a", ""), 10),
    ];
    for (text, packet, attachments) in table {
        assert_eq!(decode(text), Ok(Decoded { packet, attachments }), "{text}");
    }
}

#[test]
fn numbers_are_event_names() {
    for number in ["1", "-1.5e3", "0"] {
        let Decoded { packet, .. } = decode(&format!("2[{number},2]")).unwrap();
        let Packet::Event { name, args, .. } = packet else {
            panic!()
        };
        assert_eq!(name, EventName::Number(number.into()));
        assert_eq!((name.as_str(), args.as_str()), (number, "2"));
    }
}

#[test]
fn malformed() {
    use DecodeError as E;
    let table = [
        ("", E::Empty),
        ("7", E::UnknownType),
        ("a", E::UnknownType),
        (" 2[\"a\"]", E::UnknownType),
        ("é", E::UnknownType),
        // attachments
        (r#"5["a"]"#, E::IllegalAttachments),
        (r#"51["a"]"#, E::IllegalAttachments),
        (r#"5-["a"]"#, E::IllegalAttachments),
        (r#"50-["a"]"#, E::IllegalAttachments),
        (r#"5-1-["a"]"#, E::IllegalAttachments),
        (r#"51.5-["a"]"#, E::IllegalAttachments),
        (r#"51e0-["a"]"#, E::IllegalAttachments),
        ("5", E::IllegalAttachments),
        ("61", E::IllegalAttachments),
        (r#"511-["a"]"#, E::TooManyAttachments),
        (r#"599999999999999999999999-["a"]"#, E::TooManyAttachments),
        (r#"51-["a",{"_placeholder":true,"num":1}]"#, E::IllegalPlaceholder),
        (
            r#"51-["a",{"_placeholder":true,"num":-1}]"#,
            E::IllegalPlaceholder,
        ),
        (
            r#"51-["a",{"_placeholder":true,"num":0.5}]"#,
            E::IllegalPlaceholder,
        ),
        (
            r#"51-["a",{"_placeholder":true,"num":"0"}]"#,
            E::IllegalPlaceholder,
        ),
        (r#"51-["a",{"_placeholder":true}]"#, E::IllegalPlaceholder),
        (
            r#"51-["a",[{"x":{"num":7,"_placeholder":true}}]]"#,
            E::IllegalPlaceholder,
        ),
        (
            r#"51-["a",{"\u005fplaceholder":true,"num":7}]"#,
            E::IllegalPlaceholder,
        ),
        (
            r#"51-["a",{"_placeholder":true,"num":0,"num":7}]"#,
            E::IllegalPlaceholder,
        ),
        (r#"61-1[{"_placeholder":true,"num":1}]"#, E::IllegalPlaceholder),
        // acknowledgement ids
        (r#"29007199254740992["a"]"#, E::InvalidAckId),
        (r#"299999999999999999999["a"]"#, E::InvalidAckId),
        (r#"3["a"]"#, E::InvalidAckId),
        (r#"2abc["message-with-ack",1]"#, E::InvalidJson),
        // payloads, by packet type
        ("0[]", E::InvalidPayload),
        ("0null", E::InvalidPayload),
        (r#"0"a""#, E::InvalidPayload),
        (r#"0{"a":1}x"#, E::InvalidJson),
        ("0{", E::InvalidJson),
        ("0abc", E::InvalidJson),
        ("1{}", E::InvalidPayload),
        ("1/admin,[]", E::InvalidPayload),
        ("4[]", E::InvalidPayload),
        ("2", E::InvalidPayload),
        ("2/admin,", E::InvalidPayload),
        ("2/admin[\"a\"]", E::InvalidPayload),
        ("2{}", E::InvalidPayload),
        ("2[]", E::InvalidPayload),
        ("2[null]", E::InvalidPayload),
        ("2[true]", E::InvalidPayload),
        ("2[[]]", E::InvalidPayload),
        (r#"2[{}]"#, E::InvalidPayload),
        (r#"2"a""#, E::InvalidPayload),
        ("31", E::InvalidPayload),
        ("31{}", E::InvalidPayload),
        // names
        (r#"2["connect"]"#, E::IllegalEventName),
        (r#"2["connect_error"]"#, E::IllegalEventName),
        (r#"2["disconnect"]"#, E::IllegalEventName),
        (r#"2["disconnecting"]"#, E::IllegalEventName),
        (r#"2["newListener"]"#, E::IllegalEventName),
        (r#"2["removeListener"]"#, E::IllegalEventName),
        (r#"2["\u0063onnect"]"#, E::IllegalEventName),
        (r#"2["\ud800"]"#, E::IllegalEventName),
        // JSON (RFC 8259)
        (r#"2 ["a"]"#, E::InvalidJson),
        (r#"2["a""#, E::InvalidJson),
        (r#"2["a",]"#, E::InvalidJson),
        (r#"2["a",,1]"#, E::InvalidJson),
        (r#"2["a" 1]"#, E::InvalidJson),
        (r#"2["a"]]"#, E::InvalidJson),
        (r#"2["a"],1"#, E::InvalidJson),
        (r#"2["a]"#, E::InvalidJson),
        (r#"2["a",'b']"#, E::InvalidJson),
        (r#"2["a",01]"#, E::InvalidJson),
        (r#"2["a",1.]"#, E::InvalidJson),
        (r#"2["a",.5]"#, E::InvalidJson),
        (r#"2["a",+1]"#, E::InvalidJson),
        (r#"2["a",-]"#, E::InvalidJson),
        (r#"2["a",1e]"#, E::InvalidJson),
        (r#"2["a",NaN]"#, E::InvalidJson),
        (r#"2["a",undefined]"#, E::InvalidJson),
        (r#"2["a",nul]"#, E::InvalidJson),
        (r#"2["a",True]"#, E::InvalidJson),
        (r#"2["a",{a:1}]"#, E::InvalidJson),
        (r#"2["a",{"a"}]"#, E::InvalidJson),
        (r#"2["a",{"a":}]"#, E::InvalidJson),
        (r#"2["a",{"a":1,}]"#, E::InvalidJson),
        (r#"2["a",{"a":1]]"#, E::InvalidJson),
        (r#"2["a",{1:1}]"#, E::InvalidJson),
        (r#"2["a","\x"]"#, E::InvalidJson),
        (r#"2["a","\u12g4"]"#, E::InvalidJson),
        (r#"2["a","\u12"]"#, E::InvalidJson),
        ("2[\"a\",\"\t\"]", E::InvalidJson),
        ("2[\"a\",\"0123456789\u{0}\"]", E::InvalidJson),
        ("2[\"a\",\u{a0}1]", E::InvalidJson),
        ("2[\"a\"]\u{feff}", E::InvalidJson),
    ];
    for (text, expected) in table {
        assert_eq!(decode(text), Err(expected), "{text}");
    }
}

#[test]
fn depth_is_bounded() {
    let nested = |levels: usize| format!(r#"2["a",{}{}]"#, "[".repeat(levels), "]".repeat(levels));
    assert!(decode(&nested(63)).is_ok(), "63 and the payload's own array");
    assert_eq!(decode(&nested(64)), Err(DecodeError::TooDeep));
    let objects = |levels: usize| format!("0{}1{}", r#"{"a":"#.repeat(levels), "}".repeat(levels));
    assert!(decode(&objects(64)).is_ok());
    assert_eq!(decode(&objects(65)), Err(DecodeError::TooDeep));

    let generous = Limits {
        max_depth: usize::MAX,
        ..Limits::DEFAULT
    };
    let open = ByteString::from(format!(r#"2["a",{}"#, "[".repeat(1_000_000)));
    assert_eq!(
        Packet::decode(&open, &generous),
        Err(DecodeError::TooDeep),
        "128 is the most"
    );
    let none = Limits {
        max_depth: 0,
        ..Limits::DEFAULT
    };
    assert_eq!(
        Packet::decode(&r#"2["a"]"#.into(), &none),
        Err(DecodeError::TooDeep)
    );
}

#[test]
fn arguments_are_bounded() {
    let limits = Limits {
        max_args: 2,
        ..Limits::DEFAULT
    };
    let decode = |text: &str| Packet::decode(&text.into(), &limits).map(|_| ());
    assert_eq!(decode(r#"2["a",1,2]"#), Ok(()));
    assert_eq!(decode(r#"2["a",1,2,3]"#), Err(DecodeError::TooManyArgs));
    assert_eq!(decode("31[1,2]"), Ok(()));
    assert_eq!(decode("31[1,2,3]"), Err(DecodeError::TooManyArgs));
}

#[test]
fn namespaces_are_bounded() {
    let longest = format!("/{}", "n".repeat(MAX_NAMESPACE_BYTES - 1));
    for end in ["", ","] {
        let decoded = decode(&format!("0{longest}{end}")).unwrap();
        assert_eq!(&**decoded.packet.namespace(), longest);
        assert_eq!(
            decode(&format!("0{longest}n{end}")),
            Err(DecodeError::NamespaceTooLong)
        );
    }
}

#[test]
fn nothing_is_copied() {
    let text = ByteString::from(r#"2/chat,1["message",{"roomId":"r"},2]"#);
    let Packet::Event {
        namespace,
        name,
        args,
        ..
    } = Packet::decode(&text, &Limits::DEFAULT).unwrap().packet
    else {
        panic!()
    };
    let range = text.as_bytes().as_ptr_range();
    for part in [&*namespace, name.as_str(), args.as_str()] {
        assert!(range.contains(&part.as_ptr()));
    }
}

#[test]
fn adversarial_inputs_take_linear_time() {
    // Each of these is quadratic in a careless scanner: a minute at this size, not milliseconds.
    let n = 400_000;
    let limits = Limits {
        max_args: usize::MAX,
        ..Limits::DEFAULT
    };
    for text in [
        format!("2{}", "9".repeat(n)),
        format!("5{}", "1".repeat(n)),
        format!("5{}-", "0".repeat(n)),
        format!("2/{}", "a?".repeat(n)),
        format!(r#"51-["a",{}1]"#, "1,".repeat(n)),
        format!(
            r#"51-["a"{}]"#,
            r#",{"_placeholder":true,"num":0}"#.repeat(n / 16)
        ),
        format!(r#"2["{}"]"#, r"\\".repeat(n)),
        format!(r#"2["a","{}"#, r#"\""#.repeat(n)),
        format!(r#"2["a",{}1]"#, "[],".repeat(n)),
        format!(r#"2["a"{}"#, " ".repeat(n)),
    ] {
        if let Ok(Decoded {
            packet: Packet::Event { args, .. },
            ..
        }) = Packet::decode(&text.into(), &limits)
        {
            assert!(args.iter().count() <= n + 1);
        }
    }
}

// RawArgs

#[test]
fn raw_args() {
    let args = raw(r#" "a,]" , {"k":[1,2]} ,3,"\"," "#);
    assert_eq!(args.as_str(), r#""a,]" , {"k":[1,2]} ,3,"\",""#);
    assert_eq!(
        args.iter().collect::<Vec<_>>(),
        [r#""a,]""#, r#"{"k":[1,2]}"#, "3", r#""\",""#]
    );
    assert_eq!(args.first(), Some(r#""a,]""#));
    for empty in ["", " \n"] {
        let args = raw(empty);
        assert!(args.is_empty() && args.iter().next().is_none() && args.first().is_none());
    }
    for (bad, expected) in [
        ("1,", DecodeError::InvalidJson),
        (",", DecodeError::InvalidJson),
        ("]", DecodeError::InvalidJson),
        ("1]", DecodeError::InvalidJson),
        ("a", DecodeError::InvalidJson),
        (
            &format!("{}1{}", "[".repeat(64), "]".repeat(64)),
            DecodeError::TooDeep,
        ),
        (&format!("1{}", ",1".repeat(256)), DecodeError::TooManyArgs),
    ] {
        assert_eq!(RawArgs::parse(bad.into()), Err(expected), "{bad}");
    }
}

#[test]
fn raw_args_of_values() {
    assert_eq!(RawArgs::from_value(&("a", 1)).unwrap().as_str(), r#"["a",1]"#);
    assert_eq!(RawArgs::from_values(&["a", "b"]).unwrap().as_str(), r#""a","b""#);
    assert!(RawArgs::from_values::<u8>(&[]).unwrap().is_empty());
}

// encode

fn texts(encoded: &Encoded) -> Vec<String> {
    encoded
        .frames()
        .map(|frame| String::from_utf8_lossy(&frame.payload).into_owned())
        .collect()
}

#[test]
fn encoded_texts() {
    let table = [
        (encode::engine_open("{}"), "0{}"),
        (encode::engine_close(), "1"),
        (encode::engine_ping(false), "2"),
        (encode::engine_ping(true), "2probe"),
        (encode::engine_pong("probe"), "3probe"),
        (encode::engine_pong(""), "3"),
        (encode::engine_text("hello"), "4hello"),
        (encode::engine_noop(), "6"),
        (encode::connect("/", "S", None), r#"40{"sid":"S"}"#),
        (
            encode::connect("/admin", "S", Some("P")),
            r#"40/admin,{"sid":"S","pid":"P"}"#,
        ),
        (
            encode::connect_error("/", "No \"x\"", None),
            r#"44{"message":"No \"x\""}"#,
        ),
        (
            encode::connect_error("/a", "No", Some(r#"{"code":1}"#)),
            r#"44/a,{"message":"No","data":{"code":1}}"#,
        ),
        (encode::disconnect("/"), "41"),
        (encode::disconnect("/admin"), "41/admin,"),
        (encode::event("/", None, "foo", "", &[], None), r#"42["foo"]"#),
        (
            encode::event("/a", Some(0), "foo", "1,2", &[], None),
            r#"42/a,0["foo",1,2]"#,
        ),
        (
            encode::event("/", None, "foo", "", &[], Some("1-2")),
            r#"42["foo","1-2"]"#,
        ),
        (
            encode::event("/", None, "foo", "{}", &[], Some("1-2")),
            r#"42["foo",{},"1-2"]"#,
        ),
        (
            encode::event("/", None, "\"\\\n\u{1e}é", "", &[], None),
            r#"42["\"\\\u000a\u001eé"]"#,
        ),
        (encode::ack("/", 12, "", &[]), "4312[]"),
        (
            encode::ack("/a", u64::MAX, "1", &[]),
            "43/a,18446744073709551615[1]",
        ),
    ];
    for (encoded, expected) in table {
        assert_eq!(texts(&encoded), [expected]);
        assert!(encoded.frames().all(|frame| !frame.binary));
        assert_eq!(encoded.as_bytes()[0], 0x81);
        assert_eq!(usize::from(encoded.as_bytes()[1]), expected.len());
        assert_eq!(encoded.len(), expected.len() + 2);
        assert_eq!(encoded.clone().into_bytes(), encoded.as_bytes());
    }
}

#[test]
fn attachments_follow_in_binary_frames() {
    let attachments = [Bytes::from_static(&[1, 2]), Bytes::from(vec![3; 70_000])];
    let args = r#"{"_placeholder":true,"num":0},{"_placeholder":true,"num":1}"#;
    let encoded = encode::event("/a", Some(3), "e", args, &attachments, None);
    let frames: Vec<_> = encoded.frames().collect();
    assert_eq!(
        frames.iter().map(|frame| frame.binary).collect::<Vec<_>>(),
        [false, true, true]
    );
    assert_eq!(frames[0].payload, format!(r#"452-/a,3["e",{args}]"#));
    assert_eq!(frames[1].payload, attachments[0]);
    assert_eq!(frames[2].payload, attachments[1]);

    let encoded = encode::ack("/", 1, r#"{"_placeholder":true,"num":0}"#, &attachments[..1]);
    assert_eq!(
        encoded.frames().next().unwrap().payload,
        r#"461-1[{"_placeholder":true,"num":0}]"#
    );

    let encoded = encode::engine_binary(attachments[0].clone());
    assert_eq!(&encoded.as_bytes()[..], [0x82, 2, 1, 2]);
}

#[test]
fn header_lengths() {
    for len in [0, 124, 125, 126, 65_534, 65_535, 65_536] {
        let text = "x".repeat(len);
        let encoded = encode::engine_text(&text);
        assert_eq!(texts(&encoded), [format!("4{text}")]);
        let header = match len + 1 {
            0..=125 => 2,
            126..=65_535 => 4,
            _ => 10,
        };
        assert_eq!(encoded.len(), header + 1 + len);
    }
}

#[test]
fn control_frames_are_no_messages() {
    let pong = sio::ws::frame::pong(b"x");
    let both = [&pong[..], encode::engine_noop().as_bytes(), &pong[..]].concat();
    assert_eq!(texts(&Encoded::from_frames(both.into())), ["6"]);
    for broken in [
        &b"\x81"[..],
        b"\x81\x05abc",
        b"\x81\x7e\x00",
        b"\x81\x7f\xff\xff\xff\xff\xff\xff\xff\xff",
    ] {
        assert_eq!(
            Encoded::from_frames(Bytes::from_static(broken)).frames().count(),
            0
        );
    }
}
