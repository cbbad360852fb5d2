//! Connection states: `socket.io-protocol` v5, "Exchange protocol", and the reference's `Client`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::{Duration, Instant};

use bytes::Bytes;
use sio::client::{Client, Incoming, MAX_NAMESPACES, MAX_PENDING_ACKS, ProtocolError};
use sio::engine::CloseReason;
use sio::packet::{DecodeError, Limits};

const PLACEHOLDER: &str = r#"{"_placeholder":true,"num":0}"#;

fn text(client: &mut Client, text: &str) -> Result<Option<Incoming>, ProtocolError> {
    client.on_text(text.into(), &Limits::DEFAULT)
}

fn binary(client: &mut Client, data: &'static [u8]) -> Result<Option<Incoming>, ProtocolError> {
    client.on_binary(Bytes::from_static(data), &Limits::DEFAULT)
}

fn new() -> Client {
    Client::new(Instant::now(), Duration::from_secs(1))
}

/// In `/` and `/admin`.
fn joined() -> Client {
    let mut client = new();
    for (packet, namespace) in [("0", "/"), ("0/admin,", "/admin")] {
        assert!(matches!(
            text(&mut client, packet),
            Ok(Some(Incoming::Connect { .. }))
        ));
        client.accepted(namespace);
    }
    client
}

#[test]
fn connecting() {
    let mut client = new();
    let connect = text(&mut client, r#"0/admin,{"token":"123"}"#).unwrap();
    assert_eq!(
        connect,
        Some(Incoming::Connect {
            namespace: "/admin".into(),
            auth: Some(r#"{"token":"123"}"#.into())
        })
    );
    assert!(!client.is_connected("/admin"));
    assert_eq!(client.namespaces().count(), 0);
    client.accepted("/admin");
    assert!(client.is_connected("/admin") && !client.is_connected("/"));
    assert_eq!(client.namespaces().collect::<Vec<_>>(), ["/admin"]);
}

#[test]
fn a_refused_client_may_ask_again() {
    let mut client = new();
    assert!(text(&mut client, "0/random").unwrap().is_some());
    client.rejected("/random");
    assert!(!client.is_connected("/random"));
    assert!(text(&mut client, "0/random").unwrap().is_some());
}

#[test]
fn answers_to_what_nobody_asked_change_nothing() {
    let mut client = new();
    client.accepted("/");
    client.left("/");
    client.rejected("/");
    assert_eq!(client.namespaces().count(), 0);
    assert!(client.deadline().is_some());
}

#[test]
fn what_the_state_does_not_allow() {
    use ProtocolError as E;
    type Row = (fn() -> Client, &'static str, E);
    let table: [Row; 15] = [
        (new, r#"2["a"]"#, E::NotConnected),
        (new, "31[]", E::NotConnected),
        (new, "1", E::NotConnected),
        (new, "4{}", E::ServerPacket),
        (new, "", E::Decode(DecodeError::Empty)),
        (new, "4abc", E::Decode(DecodeError::InvalidJson)),
        (new, "51-[\"a\"]", E::NotConnected),
        (joined, "0", E::AlreadyConnected),
        (joined, "0/admin,", E::AlreadyConnected),
        (joined, "0/admin?again,", E::AlreadyConnected),
        (joined, "4{}", E::ServerPacket),
        (joined, r#"2/other,["a"]"#, E::NotConnected),
        (joined, "1/other,", E::NotConnected),
        (joined, "2{}", E::Decode(DecodeError::InvalidPayload)),
        (joined, "abc", E::Decode(DecodeError::UnknownType)),
    ];
    for (client, packet, expected) in table {
        assert_eq!(text(&mut client(), packet), Err(expected), "{packet}");
    }
    let mut client = new();
    text(&mut client, "0").unwrap();
    assert_eq!(text(&mut client, "0"), Err(E::AlreadyConnected), "while joining");
    assert_eq!(
        text(&mut client, r#"2["a"]"#),
        Err(E::NotConnected),
        "while joining"
    );
}

#[test]
fn reasons() {
    let parse = [
        ProtocolError::Decode(DecodeError::Empty),
        ProtocolError::AttachmentExpected,
        ProtocolError::UnexpectedAttachment,
    ];
    let state = [
        ProtocolError::AlreadyConnected,
        ProtocolError::NotConnected,
        ProtocolError::ServerPacket,
        ProtocolError::TooManyNamespaces,
    ];
    assert!(
        parse
            .iter()
            .all(|error| error.reason() == CloseReason::ParseError)
    );
    assert!(
        state
            .iter()
            .all(|error| error.reason() == CloseReason::ForcedServerClose)
    );
}

#[test]
fn events() {
    let mut client = joined();
    let Ok(Some(Incoming::Event {
        namespace,
        ack,
        name,
        args,
        attachments,
    })) = text(&mut client, r#"2/admin,12["foo",1,{"a":2}]"#)
    else {
        panic!()
    };
    assert_eq!(
        (&*namespace, ack, name.as_str(), args.as_str()),
        ("/admin", Some(12), "foo", r#"1,{"a":2}"#)
    );
    assert!(attachments.is_empty());
}

#[test]
fn leaving_a_namespace_leaves_the_others() {
    let mut client = joined();
    assert_eq!(
        text(&mut client, "1/admin,"),
        Ok(Some(Incoming::Disconnect {
            namespace: "/admin".into()
        }))
    );
    assert_eq!(client.namespaces().collect::<Vec<_>>(), ["/"]);
    assert!(text(&mut client, r#"2["a"]"#).is_ok());
    assert!(text(&mut client, "0/admin,").is_ok(), "it may come back");
}

#[test]
fn put_out_by_the_server() {
    let mut client = joined();
    client.left("/");
    assert!(!client.is_connected("/") && client.is_connected("/admin"));
    assert_eq!(text(&mut client, r#"2["a"]"#), Err(ProtocolError::NotConnected));
}

#[test]
fn attachments_are_put_together() {
    let mut client = joined();
    let packet = r#"52-7["baz",{"_placeholder":true,"num":0},{"_placeholder":true,"num":1}]"#;
    for _ in 0..2 {
        assert_eq!(text(&mut client, packet), Ok(None));
        assert_eq!(binary(&mut client, b"\x01\x02"), Ok(None));
        let Ok(Some(Incoming::Event { ack, attachments, .. })) = binary(&mut client, b"") else {
            panic!()
        };
        assert_eq!(
            (ack, attachments.as_slice()),
            (Some(7), &[Bytes::from_static(b"\x01\x02"), Bytes::new()][..])
        );
    }
    assert!(text(&mut client, r#"2["a"]"#).is_ok());
}

#[test]
fn attachments_out_of_place() {
    let binary_event = format!(r#"51-["baz",{PLACEHOLDER}]"#);
    let mut client = joined();
    assert_eq!(
        binary(&mut client, b"x"),
        Err(ProtocolError::UnexpectedAttachment)
    );

    let mut client = joined();
    assert_eq!(text(&mut client, &binary_event), Ok(None));
    assert_eq!(
        text(&mut client, r#"2["a"]"#),
        Err(ProtocolError::AttachmentExpected)
    );

    let mut client = joined();
    assert_eq!(text(&mut client, &binary_event), Ok(None));
    client.left("/");
    assert_eq!(binary(&mut client, b"x"), Err(ProtocolError::NotConnected));
}

#[test]
fn acknowledgements_are_taken_once() {
    let mut client = joined();
    assert_eq!(client.next_ack_id("/other"), None);
    assert_eq!(client.next_ack_id("/"), Some(0));
    assert_eq!(client.next_ack_id("/"), Some(1));
    assert_eq!(client.next_ack_id("/admin"), Some(0), "ids are per namespace");
    let Ok(Some(Incoming::Ack {
        namespace, id, args, ..
    })) = text(&mut client, r#"31["x"]"#)
    else {
        panic!()
    };
    assert_eq!((&*namespace, id, args.as_str()), ("/", 1, r#""x""#));
    assert_eq!(text(&mut client, r#"31["x"]"#), Ok(None), "answered before");
    assert_eq!(text(&mut client, "37[]"), Ok(None), "never given out");
    assert!(matches!(
        text(&mut client, "30[]"),
        Ok(Some(Incoming::Ack { id: 0, .. }))
    ));

    assert_eq!(client.next_ack_id("/"), Some(2));
    assert_eq!(text(&mut client, &format!("61-2[{PLACEHOLDER}]")), Ok(None));
    assert!(matches!(
        binary(&mut client, b"x"),
        Ok(Some(Incoming::Ack { id: 2, .. }))
    ));
}

#[test]
fn a_client_that_never_acknowledges_costs_no_more() {
    let mut client = joined();
    for _ in 0..=MAX_PENDING_ACKS {
        assert!(client.next_ack_id("/").is_some());
    }
    assert_eq!(text(&mut client, "30[]"), Ok(None), "forgotten");
    assert!(matches!(
        text(&mut client, "31[]"),
        Ok(Some(Incoming::Ack { id: 1, .. }))
    ));
}

#[test]
fn namespaces_are_bounded() {
    let mut client = new();
    for n in 0..MAX_NAMESPACES {
        assert!(text(&mut client, &format!("0/{n},")).is_ok());
    }
    assert_eq!(text(&mut client, "0"), Err(ProtocolError::TooManyNamespaces));
}

#[test]
fn connect_timeout_runs_until_the_first_namespace() {
    let start = Instant::now();
    let mut client = Client::new(start, Duration::from_secs(1));
    let late = start + Duration::from_secs(1);
    assert_eq!(client.deadline(), Some(late));
    assert!(!client.timed_out(start) && client.timed_out(late));
    text(&mut client, "0").unwrap();
    assert!(client.timed_out(late), "asking is not joining");
    client.accepted("/");
    assert_eq!(client.deadline(), None);
    assert!(!client.timed_out(late));
    client.left("/");
    assert_eq!(client.deadline(), None, "nor does it start again");
    assert!(Client::new(start, Duration::MAX).deadline().is_some());
}

#[test]
fn a_connection_is_small() {
    assert!(size_of::<Client>() <= 128, "{}", size_of::<Client>());
}
