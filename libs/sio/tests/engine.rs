//! Engine.IO rules, by section of `engine.io-protocol` v4.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::{Duration, Instant};

use bytes::Bytes;
use sio::engine::{
    CloseReason, DecodeError, HandshakeError, Packet, Received, Session, Timer, Timing, TransportKind,
    Version, open_payload, payload,
};
use sio::packet::{Dialect, encode};

const POLLING: TransportKind = TransportKind::Polling;
const WEBSOCKET: TransportKind = TransportKind::WebSocket;

fn timing() -> Timing {
    Timing {
        ping_interval: Duration::from_millis(300),
        ping_timeout: Duration::from_millis(200),
        upgrade_timeout: Duration::from_millis(1000),
    }
}

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn text(packet: &str) -> Packet {
    Packet::decode_text(packet.into()).unwrap()
}

struct Peer {
    session: Session,
    timing: Timing,
    start: Instant,
}

impl Peer {
    fn new(version: Version, transport: TransportKind) -> Self {
        let (timing, start) = (timing(), Instant::now());
        Self {
            session: Session::new(version, transport, &timing, start),
            timing,
            start,
        }
    }

    fn sends(&mut self, from: TransportKind, packet: &str, at: u64) -> Result<Received, CloseReason> {
        self.session
            .on_packet(from, text(packet), &self.timing, self.start + ms(at))
    }

    fn due(&mut self, at: u64) -> Vec<Timer> {
        let mut due = Vec::new();
        while let Some(timer) = self.session.on_deadline(&self.timing, self.start + ms(at)) {
            due.push(timer);
        }
        due
    }

    fn deadline(&self) -> Option<u64> {
        let deadline = self.session.deadline()? - self.start;
        Some(u64::try_from(deadline.as_millis()).unwrap())
    }
}

// "Packet encoding"

#[test]
fn packet_types() {
    let table = [
        ("0{}", Packet::Open("{}".into())),
        ("1", Packet::Close),
        ("2", Packet::Ping("".into())),
        ("2probe", Packet::Ping("probe".into())),
        ("3probe", Packet::Pong("probe".into())),
        ("4", Packet::Text("".into())),
        ("4hello", Packet::Text("hello".into())),
        ("4€", Packet::Text("€".into())),
        ("bAQIDBA==", Packet::Binary(Bytes::from_static(&[1, 2, 3, 4]))),
        ("bAQIDBA", Packet::Binary(Bytes::from_static(&[1, 2, 3, 4]))),
        ("b", Packet::Binary(Bytes::new())),
        ("5", Packet::Upgrade),
        ("6", Packet::Noop),
    ];
    for (encoded, expected) in table {
        assert_eq!(text(encoded), expected, "{encoded}");
    }
}

#[test]
fn malformed_packets() {
    let table = [
        ("", DecodeError::Empty),
        ("7", DecodeError::UnknownType),
        ("abc", DecodeError::UnknownType),
        ("é", DecodeError::UnknownType),
        (" 4a", DecodeError::UnknownType),
        ("b!", DecodeError::InvalidBase64),
        ("bA", DecodeError::InvalidBase64),
        ("bAQID BA==", DecodeError::InvalidBase64),
    ];
    for (encoded, expected) in table {
        assert_eq!(Packet::decode_text(encoded.into()), Err(expected), "{encoded}");
    }
}

#[test]
fn payload_of_a_text_packet_is_a_slice() {
    let message = bytestring::ByteString::from("4hello");
    let Ok(Packet::Text(payload)) = Packet::decode_text(message.clone()) else {
        panic!()
    };
    assert_eq!(payload.as_bytes().as_ptr(), message.as_bytes()[1..].as_ptr());
}

#[test]
fn binary_messages() {
    let data = Bytes::from_static(&[1, 2]);
    assert_eq!(
        Packet::decode_binary(Version::V4, data.clone()),
        Ok(Packet::Binary(data.clone()))
    );
    assert_eq!(
        Packet::decode_binary(Version::V3, Bytes::from_static(&[4, 1, 2])),
        Ok(Packet::Binary(data.clone()))
    );
    assert_eq!(
        Packet::decode_binary(Version::V3, data),
        Err(DecodeError::UnknownType)
    );
}

// "Packet encoding: HTTP long-polling"

#[test]
fn payloads_of_the_document() {
    let hello = Packet::Text("hello".into());
    assert_eq!(
        payload::decode("4hello\x1e2\x1e4world".into()),
        Ok(vec![
            hello.clone(),
            Packet::Ping("".into()),
            Packet::Text("world".into())
        ])
    );
    let binary = Packet::Binary(Bytes::from_static(&[1, 2, 3, 4]));
    assert_eq!(
        payload::decode("4hello\x1ebAQIDBA==".into()),
        Ok(vec![hello, binary])
    );
}

#[test]
fn malformed_payloads() {
    let table: [(&[u8], DecodeError); 6] = [
        (b"", DecodeError::Empty),
        (b"4a\x1e", DecodeError::Empty),
        (b"\x1e4a", DecodeError::Empty),
        (b"4a\x1e\x1e4b", DecodeError::Empty),
        (b"4a\x1eabc", DecodeError::UnknownType),
        (b"4\xff", DecodeError::InvalidUtf8),
    ];
    for (body, expected) in table {
        assert_eq!(
            payload::decode(Bytes::from_static(body)),
            Err(expected),
            "{body:?}"
        );
    }
}

#[test]
fn packets_before_a_bad_one_are_given() {
    let packets: Vec<_> = payload::packets("4a\x1ex\x1e4b".into()).unwrap().collect();
    assert_eq!(
        packets,
        [Ok(Packet::Text("a".into())), Err(DecodeError::UnknownType)]
    );
}

#[test]
fn encoded_frames_make_a_payload() {
    let attachment = Bytes::from_static(&[1, 2, 3, 4]);
    let event = encode::event(
        "/",
        None,
        "a",
        r#"{"_placeholder":true,"num":0}"#,
        &[attachment],
        None,
    );
    let frames = [encode::engine_noop(), event, encode::engine_ping(false)];
    let body = payload::encode(frames.iter().flat_map(|encoded| encoded.frames()));
    let expected = "6\x1e451-[\"a\",{\"_placeholder\":true,\"num\":0}]\x1ebAQIDBA==\x1e2";
    assert_eq!(String::from_utf8(body).unwrap(), expected);
    assert!(payload::encode([]).is_empty());
}

// "Handshake"

#[test]
fn open_payload_has_five_keys_in_order() {
    assert_eq!(
        open_payload("lv_VI97HAXpY6yYWAAAC", true, &timing(), 1_000_000),
        r#"{"sid":"lv_VI97HAXpY6yYWAAAC","upgrades":["websocket"],"pingInterval":300,"pingTimeout":200,"maxPayload":1000000}"#
    );
    assert_eq!(
        open_payload("\"", false, &Timing::default(), 5),
        r#"{"sid":"\"","upgrades":[],"pingInterval":25000,"pingTimeout":20000,"maxPayload":5}"#
    );
}

#[test]
fn query_parameters_are_exact() {
    assert_eq!(Version::from_query("4"), Some(Version::V4));
    assert_eq!(Version::from_query("3"), Some(Version::V3));
    for value in ["", "abc", "04", "4 ", "5", "4.1"] {
        assert_eq!(Version::from_query(value), None, "{value}");
    }
    for kind in [POLLING, WEBSOCKET] {
        assert_eq!(TransportKind::from_query(kind.as_str()), Some(kind));
    }
    for value in ["", "abc", "Polling", "webtransport"] {
        assert_eq!(TransportKind::from_query(value), None, "{value}");
    }
}

#[test]
fn error_answers() {
    let table = [
        (
            HandshakeError::TransportUnknown,
            400,
            r#"{"code":0,"message":"Transport unknown"}"#,
        ),
        (
            HandshakeError::SessionIdUnknown,
            400,
            r#"{"code":1,"message":"Session ID unknown"}"#,
        ),
        (
            HandshakeError::BadHandshakeMethod,
            400,
            r#"{"code":2,"message":"Bad handshake method"}"#,
        ),
        (
            HandshakeError::BadRequest,
            400,
            r#"{"code":3,"message":"Bad request"}"#,
        ),
        (
            HandshakeError::Forbidden,
            403,
            r#"{"code":4,"message":"Forbidden"}"#,
        ),
        (
            HandshakeError::UnsupportedProtocolVersion,
            400,
            r#"{"code":5,"message":"Unsupported protocol version"}"#,
        ),
    ];
    for (error, status, body) in table {
        assert_eq!((error.http_status(), error.to_json().as_str()), (status, body));
        assert_eq!(error.to_string(), error.message());
    }
}

// "Heartbeat"

#[test]
fn pings_until_a_pong_is_missing() {
    for transport in [POLLING, WEBSOCKET] {
        let mut peer = Peer::new(Version::V4, transport);
        assert_eq!(peer.deadline(), Some(300));
        assert_eq!(peer.due(299), []);
        assert_eq!(peer.due(300), [Timer::SendPing]);
        assert_eq!(peer.deadline(), Some(500));
        assert_eq!(peer.sends(transport, "3", 400), Ok(Received::Nothing));
        assert_eq!(peer.deadline(), Some(700), "the interval runs from the pong");
        assert_eq!(peer.due(700), [Timer::SendPing]);
        assert_eq!(peer.due(899), []);
        assert_eq!(peer.due(900), [Timer::Close(CloseReason::PingTimeout)]);
        assert_eq!(peer.due(2000), [], "reported once");
        assert_eq!(peer.deadline(), None);
    }
}

#[test]
fn messages_do_not_count_as_pongs() {
    let mut peer = Peer::new(Version::V4, WEBSOCKET);
    assert_eq!(peer.due(300), [Timer::SendPing]);
    assert_eq!(peer.sends(WEBSOCKET, "4a", 450), Ok(Received::Text("a".into())));
    assert_eq!(peer.due(500), [Timer::Close(CloseReason::PingTimeout)]);
}

#[test]
fn heartbeat_in_the_wrong_direction() {
    for packet in ["2", "2probe"] {
        let mut peer = Peer::new(Version::V4, WEBSOCKET);
        assert_eq!(
            peer.sends(WEBSOCKET, packet, 1),
            Err(CloseReason::TransportError),
            "{packet}"
        );
    }
    let mut peer = Peer::new(Version::V3, WEBSOCKET);
    assert_eq!(peer.sends(WEBSOCKET, "3", 1), Err(CloseReason::TransportError));
}

#[test]
fn in_v3_the_client_pings() {
    let mut peer = Peer::new(Version::V3, POLLING);
    assert_eq!(peer.deadline(), Some(500), "interval and time-out");
    assert_eq!(peer.sends(POLLING, "2x", 400), Ok(Received::Pong("x".into())));
    assert_eq!(peer.due(899), []);
    assert_eq!(peer.due(900), [Timer::Close(CloseReason::PingTimeout)]);
}

#[test]
fn a_late_clock_gets_each_timer_once() {
    let mut peer = Peer::new(Version::V4, POLLING);
    assert_eq!(peer.due(1_000_000), [Timer::SendPing]);
    assert_eq!(peer.deadline(), Some(1_000_200));
}

#[test]
fn endless_times_do_not_panic() {
    let endless = Timing {
        ping_interval: Duration::MAX,
        ping_timeout: Duration::MAX,
        upgrade_timeout: Duration::MAX,
    };
    for version in [Version::V3, Version::V4] {
        let now = Instant::now();
        let mut session = Session::new(version, POLLING, &endless, now);
        assert!(session.begin_upgrade(&endless, now));
        assert_eq!(session.on_deadline(&endless, now), None);
    }
}

// "Upgrade"

#[test]
fn upgrade() {
    let mut peer = Peer::new(Version::V4, POLLING);
    assert!(peer.session.begin_upgrade(&peer.timing.clone(), peer.start));
    assert!(peer.session.is_upgrading());
    assert_eq!(peer.sends(WEBSOCKET, "2probe", 10), Ok(Received::Probe));
    assert_eq!(peer.session.transport(), POLLING);
    assert_eq!(
        peer.sends(POLLING, "4still", 20),
        Ok(Received::Text("still".into()))
    );
    assert_eq!(peer.sends(WEBSOCKET, "5", 30), Ok(Received::Upgraded));
    assert_eq!(peer.session.transport(), WEBSOCKET);
    assert!(!peer.session.is_upgrading());
    assert_eq!(peer.sends(WEBSOCKET, "4a", 40), Ok(Received::Text("a".into())));
    assert_eq!(peer.sends(POLLING, "4late", 50), Ok(Received::Nothing));
    assert_eq!(peer.deadline(), Some(300), "the heartbeat goes on");
}

#[test]
fn one_upgrade_at_a_time_and_none_after() {
    let mut peer = Peer::new(Version::V4, POLLING);
    let (timing, now) = (peer.timing.clone(), peer.start);
    assert!(peer.session.begin_upgrade(&timing, now));
    assert!(!peer.session.begin_upgrade(&timing, now));
    peer.session.end_upgrade();
    assert!(peer.session.begin_upgrade(&timing, now), "the first one is gone");
    assert_eq!(peer.sends(WEBSOCKET, "2probe", 1), Ok(Received::Probe));
    assert_eq!(peer.sends(WEBSOCKET, "5", 1), Ok(Received::Upgraded));
    assert!(!peer.session.begin_upgrade(&timing, now));
}

#[test]
fn anything_else_fails_the_upgrade_only() {
    for packet in ["0", "1", "2", "2prob", "3probe", "4a", "b", "5", "6"] {
        let mut peer = Peer::new(Version::V4, POLLING);
        assert!(peer.session.begin_upgrade(&peer.timing.clone(), peer.start));
        assert_eq!(
            peer.sends(WEBSOCKET, packet, 1),
            Ok(Received::UpgradeFailed),
            "{packet}"
        );
        assert!(!peer.session.is_upgrading() && !peer.session.is_closed());
        assert_eq!(peer.session.transport(), POLLING);
        assert_eq!(peer.sends(POLLING, "4a", 2), Ok(Received::Text("a".into())));
    }
    let mut peer = Peer::new(Version::V4, POLLING);
    assert_eq!(peer.sends(WEBSOCKET, "2probe", 1), Ok(Received::Probe));
    assert_eq!(peer.sends(WEBSOCKET, "4a", 1), Ok(Received::UpgradeFailed));
    assert_eq!(
        peer.sends(WEBSOCKET, "5", 1),
        Ok(Received::UpgradeFailed),
        "the probe does not count any more"
    );
}

#[test]
fn upgrade_times_out_alone() {
    let mut peer = Peer::new(Version::V4, POLLING);
    assert_eq!(peer.sends(WEBSOCKET, "2probe", 0), Ok(Received::Probe));
    assert_eq!(peer.due(300), [Timer::SendPing]);
    assert_eq!(peer.sends(POLLING, "3", 900), Ok(Received::Nothing));
    assert_eq!(peer.deadline(), Some(1000));
    assert_eq!(peer.due(1000), [Timer::UpgradeTimedOut]);
    assert!(!peer.session.is_upgrading() && !peer.session.is_closed());
    assert_eq!(peer.deadline(), Some(1200));
}

#[test]
fn a_pong_due_over_polling_may_come_over_the_websocket() {
    let mut peer = Peer::new(Version::V4, POLLING);
    assert_eq!(peer.sends(WEBSOCKET, "2probe", 290), Ok(Received::Probe));
    assert_eq!(peer.due(300), [Timer::SendPing]);
    assert_eq!(peer.sends(WEBSOCKET, "5", 490), Ok(Received::Upgraded));
    assert_eq!(peer.due(500), []);
    assert_eq!(peer.deadline(), Some(690));
    assert_eq!(peer.sends(WEBSOCKET, "3", 600), Ok(Received::Nothing));
    assert_eq!(peer.deadline(), Some(900));
}

// "Sending data", "Receiving data": no two requests of a kind at a time

#[test]
fn overlapping_requests() {
    let mut session = Peer::new(Version::V4, POLLING).session;
    assert_eq!(session.begin_poll(), Ok(()));
    assert_eq!(session.begin_post(), Ok(()));
    assert_eq!(session.begin_poll(), Err(CloseReason::TransportError));
    assert_eq!(session.begin_post(), Err(CloseReason::TransportError));
    session.end_poll();
    session.end_post();
    assert_eq!(session.begin_poll(), Ok(()));
    assert_eq!(session.begin_post(), Ok(()));
}

#[test]
fn closing() {
    for transport in [POLLING, WEBSOCKET] {
        let mut peer = Peer::new(Version::V4, transport);
        assert_eq!(peer.sends(transport, "1", 1), Ok(Received::ClientClose));
        peer.session.close();
        peer.session.close();
        assert!(peer.session.is_closed());
        assert_eq!(peer.deadline(), None);
        assert_eq!(peer.due(10_000), []);
        assert_eq!(peer.sends(transport, "4a", 2), Ok(Received::Nothing));
        assert_eq!(peer.sends(transport, "2", 2), Ok(Received::Nothing));
        assert!(!peer.session.begin_upgrade(&timing(), Instant::now()));
    }
}

#[test]
fn stray_packets_are_ignored() {
    for packet in ["0{}", "5", "6"] {
        let mut peer = Peer::new(Version::V4, WEBSOCKET);
        assert_eq!(
            peer.sends(WEBSOCKET, packet, 1),
            Ok(Received::Nothing),
            "{packet}"
        );
    }
}

#[test]
fn a_session_is_small() {
    assert!(size_of::<Session>() <= 48, "{}", size_of::<Session>());
}

#[test]
fn reasons_have_the_reference_words() {
    assert_eq!(CloseReason::TransportClose.to_string(), "transport close");
    assert_eq!(CloseReason::ServerShuttingDown.as_str(), "server shutting down");
}

// Protocol v3, "Payload"
#[test]
fn payloads_of_v3() {
    let all = |body: &'static [u8], binary| -> Result<Vec<_>, _> {
        payload::v3::packets(Bytes::from_static(body), binary)?.collect()
    };
    let text = |text: &str| Packet::Text(text.into());
    let data = || Packet::Binary(Bytes::from_static(b"\x01\x02\x03\x04"));
    assert_eq!(
        all("6:4hello2:4€3:4😀".as_bytes(), false),
        Ok(vec![text("hello"), text("€"), text("😀")]),
        "lengths count UTF-16 code units"
    );
    assert_eq!(
        all(b"6:4hello10:b4AQIDBA==", false),
        Ok(vec![text("hello"), data()])
    );
    assert_eq!(
        all(b"\x00\x04\xff4\xe2\x82\xac\x01\x05\xff\x04\x01\x02\x03\x04", true),
        Ok(vec![text("€"), data()]),
        "lengths count bytes"
    );
    for (body, binary, wrong) in [
        (b"".as_slice(), false, DecodeError::Empty),
        (b"abc", false, DecodeError::InvalidLength),
        (b"7:4hello", false, DecodeError::InvalidLength),
        (b"-1:4", false, DecodeError::InvalidLength),
        (b"99999999999:4", false, DecodeError::InvalidLength),
        ("2:4😀".as_bytes(), false, DecodeError::InvalidLength),
        (b"0:", false, DecodeError::Empty),
        (b"\xff", false, DecodeError::InvalidUtf8),
        (b"3:b5A", false, DecodeError::UnknownType),
        (b"\x00\xff4", true, DecodeError::InvalidLength),
        (b"\x00\x09\xff4", true, DecodeError::InvalidLength),
        (b"\x00\x0a\xff4", true, DecodeError::InvalidLength),
        (b"\x02\x01\xff4", true, DecodeError::UnknownType),
        (b"\x01\x01\xff\x05", true, DecodeError::UnknownType),
    ] {
        assert_eq!(all(body, binary), Err(wrong), "{body:?}");
    }

    let frames = || {
        [
            encode::engine_text("hé😀"),
            encode::engine_binary(Bytes::from_static(b"\x01\x02\x03\x04")),
        ]
        .into_iter()
        .flat_map(|encoded| Dialect::V3.translate(&encoded).unwrap_or(encoded).frames())
    };
    let as_text = payload::v3::encode(frames(), true);
    assert_eq!(as_text, ("5:4hé😀10:b4AQIDBA==".as_bytes().to_vec(), false));
    let as_bytes = payload::v3::encode(frames(), false);
    assert!(as_bytes.1);
    for (body, binary) in [as_text, as_bytes] {
        let packets: Result<Vec<_>, _> = payload::v3::packets(body.into(), binary).unwrap().collect();
        assert_eq!(packets, Ok(vec![text("hé😀"), data()]));
    }
    assert_eq!(
        payload::v3::encode(encode::engine_text("a").frames(), false),
        (b"2:4a".to_vec(), false),
        "bytes only where they are needed"
    );
}
