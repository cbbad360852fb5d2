//! Everything malformed has its answer, and harms nobody else.

use anyhow::{Context, Result, ensure};
use tests::{
    ProtocolSuites,
    wire::{WebSocket, frame, host},
};

use crate::{
    engine::WEBSOCKET,
    socket::{connected, open},
};

/// A frame without a mask.
fn unmasked(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first, u8::try_from(payload.len()).unwrap()];
    bytes.extend(payload);
    bytes
}

/// A header that announces `length` bytes by a field of eight.
fn announced(first: u8, length: u64) -> Vec<u8> {
    let mut bytes = vec![first, 0xff];
    bytes.extend(length.to_be_bytes());
    bytes.extend([0; 4]);
    bytes
}

#[test]
fn websocket_frames() -> Result<()> {
    let server = ProtocolSuites::start()?;
    let host = host(&server.url);
    let mut healthy = connected(host)?;
    for (what, bytes, code) in [
        ("not masked (RFC 6455, 5.1)", unmasked(0x81, b"4x"), Some(1002)),
        ("reserved bit 1 (5.2)", frame(0xc1, b"4x"), Some(1002)),
        ("reserved bit 2", frame(0xa1, b"4x"), Some(1002)),
        ("reserved bit 3", frame(0x91, b"4x"), Some(1002)),
        ("opcode 3", frame(0x83, b"4x"), Some(1002)),
        ("opcode 7", frame(0x87, b"4x"), Some(1002)),
        ("opcode 11", frame(0x8b, b""), Some(1002)),
        ("a ping in fragments (5.5)", frame(0x09, b"x"), Some(1002)),
        ("a ping of 126 bytes", frame(0x89, &[0; 126]), Some(1002)),
        ("a continuation of nothing (5.4)", frame(0x80, b"4x"), Some(1002)),
        (
            "a text within a text",
            [frame(0x01, b"4x"), frame(0x81, b"4x")].concat(),
            Some(1002),
        ),
        (
            "a length of 5 in 16 bits",
            [vec![0x81, 0xfe, 0, 5], vec![0; 9]].concat(),
            Some(1002),
        ),
        (
            "a length of 5 in 64 bits",
            [announced(0x81, 5), vec![0; 5]].concat(),
            Some(1002),
        ),
        ("a length with its top bit", announced(0x81, 1 << 63), Some(1002)),
        ("one byte too many (8.)", announced(0x81, 1_000_001), Some(1009)),
        ("2^62 bytes", announced(0x82, 1 << 62), Some(1009)),
        (
            "too much in fragments",
            [frame(0x01, &[b'4'; 600_000]), frame(0x80, &[b'4'; 600_000])].concat(),
            Some(1009),
        ),
        ("text that is none (8.1)", frame(0x81, b"4\xff\xfe"), Some(1007)),
        ("text cut in a character", frame(0x81, b"4\xf0\x9f"), Some(1007)),
        ("a close of one byte (5.5.1)", frame(0x88, &[3]), Some(1002)),
    ] {
        let mut socket = WebSocket::open(host, WEBSOCKET)?;
        socket.message()?;
        // The server may hang up before all has been sent.
        let _ = socket.raw(&bytes);
        let seen = socket.closed().with_context(|| what.to_owned())?;
        ensure!(
            seen == code || (seen.is_none() && bytes.len() > 100_000),
            "{what}: closed with {seen:?}"
        );
        still_served(&mut healthy)?;
    }
    server.stop()
}

#[test]
fn engine_packets() -> Result<()> {
    let server = ProtocolSuites::start()?;
    let host = host(&server.url);
    let mut healthy = connected(host)?;
    for packet in ["", "7", "9", "x", "abc", "{}", "\u{1f3ba}"] {
        let mut socket = WebSocket::open(host, WEBSOCKET)?;
        socket.message()?;
        socket.text(packet)?;
        socket.closed().with_context(|| packet.to_owned())?;
        still_served(&mut healthy)?;
    }
    server.stop()
}

#[test]
fn socket_io_packets() -> Result<()> {
    let server = ProtocolSuites::start()?;
    let host = host(&server.url);
    let mut healthy = connected(host)?;
    let deep = format!("42[\"message\",{}{}]", "[".repeat(65), "]".repeat(65));
    let many = format!("42[\"message\",{}1]", "1,".repeat(1000));
    let long_namespace = format!("40/{},", "x".repeat(5000));
    let eleven = format!(
        "4511-[\"message\"{}]",
        ",{\"_placeholder\":true,\"num\":0}".repeat(11)
    );
    let before: Vec<(&str, Vec<&str>)> = vec![
        ("an event first", vec!["42[\"message\"]"]),
        ("an acknowledgement first", vec!["431[]"]),
        ("a disconnect first", vec!["41"]),
        ("a connect error", vec!["44{}"]),
        ("a connect with a list", vec!["40[]"]),
        ("a connect with a text", vec!["40\"x\""]),
        ("a connect with broken JSON", vec!["40{"]),
        ("a very long namespace", vec![&long_namespace]),
        ("a namespace joined twice", vec!["40", "40"]),
        ("a left namespace", vec!["40", "41", "42[\"message\"]"]),
        ("another namespace", vec!["40", "42/custom,[\"message\"]"]),
    ];
    let after: Vec<(&str, Vec<&str>)> = vec![
        ("no packet at all", vec!["4"]),
        ("type 7", vec!["47"]),
        ("type 9", vec!["49[\"message\"]"]),
        ("letters", vec!["4abc"]),
        ("an event without payload", vec!["42"]),
        ("an event with an object", vec!["42{\"a\":1}"]),
        ("an event with an empty list", vec!["42[]"]),
        ("an event named null", vec!["42[null]"]),
        ("an event named by a list", vec!["42[[]]"]),
        ("an event named connect", vec!["42[\"connect\"]"]),
        ("an event named disconnecting", vec!["42[\"disconnecting\"]"]),
        ("an event named newListener", vec!["42[\"newListener\"]"]),
        ("broken JSON", vec!["42[\"message\",}"]),
        ("JSON that goes on", vec!["42[\"message\"]x"]),
        ("a trailing comma", vec!["42[\"message\",]"]),
        ("a bare control character", vec!["42[\"mess\nage\"]"]),
        ("letters in the acknowledgement id", vec!["42abc[\"message\"]"]),
        ("a negative acknowledgement id", vec!["42-1[\"message\"]"]),
        (
            "an endless acknowledgement id",
            vec!["42999999999999999999999[\"message\"]"],
        ),
        ("an acknowledgement with an object", vec!["431{}"]),
        ("64 levels and one more", vec![&deep]),
        ("a thousand arguments", vec![&many]),
        ("eleven attachments", vec![&eleven]),
        ("a million attachments", vec!["451000000-[\"message\"]"]),
        (
            "a placeholder beyond the attachments",
            vec!["451-[\"message\",{\"_placeholder\":true,\"num\":1}]"],
        ),
        (
            "a text where an attachment is due",
            vec![
                "451-[\"message\",{\"_placeholder\":true,\"num\":0}]",
                "42[\"message\"]",
            ],
        ),
    ];
    for (what, packets) in before {
        let mut socket = open(host)?;
        refuses(&mut socket, what, &packets)?;
        still_served(&mut healthy)?;
    }
    for (what, packets) in after {
        let mut socket = connected(host)?;
        refuses(&mut socket, what, &packets)?;
        still_served(&mut healthy)?;
    }
    let mut socket = connected(host)?;
    socket.binary(&[1, 2, 3])?;
    socket.closed().context("an attachment of nothing")?;
    still_served(&mut healthy)?;
    server.stop()
}

fn refuses(socket: &mut WebSocket, what: &str, packets: &[&str]) -> Result<()> {
    for packet in packets {
        // The server may have hung up at the one before.
        let _ = socket.text(packet);
    }
    socket.closed().map(drop).with_context(|| what.to_owned())
}

fn still_served(healthy: &mut WebSocket) -> Result<()> {
    healthy.text("42[\"message\",\"still\"]")?;
    ensure!(healthy.message()? == "42[\"message-back\",\"still\"]");
    Ok(())
}
