//! Bad input, in tables: what is sent, and what must be seen. A bystander is served all the while, newcomers after each.

use anyhow::{Context, Result, bail, ensure};

use crate::client::{
    BINARY, CLOSE, ENGINE, PING, PONG, Polling, SOCKET, Server, TEXT, WebSocket, calm, frame, is_gone,
    packets,
};

const MORE_TEXT: u8 = 0x01;
const MORE: u8 = 0x00;
const LAST: u8 = 0x80;
const MASK: [u8; 4] = [0; 4];

/// A frame by its parts: the first byte, the second, the rest of the length; masked with zeros.
fn parts(first: u8, second: u8, length: &[u8], payload: &[u8]) -> Vec<u8> {
    [&[first, second], length, &MASK, payload].concat()
}

fn close_frame(code: u16, reason: &[u8]) -> Vec<u8> {
    frame(CLOSE, &[&code.to_be_bytes(), reason].concat())
}

/// RFC 6455: bytes that are no frames of a client, and the code of the close frame that answers them (section 7.4.1:
/// 1002 protocol error, 1007 not UTF-8, 1009 too big).
fn frames() -> Vec<(&'static str, Vec<u8>, u16)> {
    let big = vec![b'x'; 600_000];
    let mut cases = vec![
        ("5.1: not masked", [&[TEXT, 6][..], b"4hello"].concat(), 1002),
        ("5.1: a control frame not masked", vec![PING, 0], 1002),
        ("5.2: the first reserved bit", frame(TEXT | 0x40, b"4hello"), 1002),
        (
            "5.2: the second reserved bit",
            frame(TEXT | 0x20, b"4hello"),
            1002,
        ),
        ("5.2: the third reserved bit", frame(TEXT | 0x10, b"4hello"), 1002),
        (
            "5.2: a reserved bit on a continuation",
            [frame(MORE_TEXT, b"4h"), frame(LAST | 0x40, b"i")].concat(),
            1002,
        ),
        (
            "5.2: a 16-bit length that fits 7 bits",
            parts(TEXT, 0xfe, &[0, 6], b"4hello"),
            1002,
        ),
        (
            "5.2: a 64-bit length that fits 16 bits",
            parts(TEXT, 0xff, &[0, 0, 0, 0, 0, 0, 0, 6], b"4hello"),
            1002,
        ),
        (
            "5.2: a 64-bit length with its highest bit set",
            parts(TEXT, 0xff, &[0x80, 0, 0, 0, 0, 1, 0, 0], b"4"),
            1002,
        ),
        ("5.4: a continuation of nothing", frame(LAST, b"hello"), 1002),
        (
            "5.4: a fragment that continues nothing",
            frame(MORE, b"hello"),
            1002,
        ),
        (
            "5.4: a text inside a fragmented text",
            [frame(MORE_TEXT, b"4hel"), frame(TEXT, b"4hello")].concat(),
            1002,
        ),
        (
            "5.4: a binary inside a fragmented text",
            [frame(MORE_TEXT, b"4hel"), frame(BINARY, b"lo")].concat(),
            1002,
        ),
        (
            "5.4: a message that continues after its end",
            [frame(MORE_TEXT, b"3"), frame(LAST, b""), frame(LAST, b"more")].concat(),
            1002,
        ),
        ("5.5: a close frame in fragments", frame(CLOSE & 0x7f, b""), 1002),
        ("5.5: a ping in fragments", frame(PING & 0x7f, b"hello"), 1002),
        ("5.5: a pong in fragments", frame(PONG & 0x7f, b"hello"), 1002),
        ("5.5: a ping of 126 bytes", frame(PING, &[b'p'; 126]), 1002),
        (
            "5.5: a close frame of 126 bytes",
            close_frame(1000, &[b'r'; 124]),
            1002,
        ),
        ("5.5.1: a close frame of one byte", frame(CLOSE, &[3]), 1002),
        (
            "5.5.1: a close reason that is not UTF-8",
            close_frame(1000, &[0xff]),
            1007,
        ),
        ("8.1: a text that is not UTF-8", frame(TEXT, b"4\xc3\x28"), 1007),
        ("8.1: a surrogate", frame(TEXT, b"4\xed\xa0\x80"), 1007),
        ("8.1: an overlong character", frame(TEXT, b"4\xc0\x80"), 1007),
        ("8.1: half a character", frame(TEXT, b"4\xe2\x82"), 1007),
        (
            "8.1: half a character, over two fragments",
            [frame(MORE_TEXT, b"4\xe2"), frame(LAST, b"\x82")].concat(),
            1007,
        ),
        (
            "10.4: a frame of 1,000,001 bytes, told by its header alone",
            parts(TEXT, 0xff, &1_000_001_u64.to_be_bytes(), b"4"),
            1009,
        ),
        (
            "10.4: a frame of an exabyte",
            parts(BINARY, 0xff, &(1_u64 << 60).to_be_bytes(), b""),
            1009,
        ),
        (
            "10.4: a message too big as a whole",
            [
                frame(MORE_TEXT, &big),
                parts(MORE, 0xff, &600_000_u64.to_be_bytes(), b""),
            ]
            .concat(),
            1009,
        ),
        ("no frame at all", b"GET / HTTP/1.1\r\n\r\n".to_vec(), 1002),
    ];
    for opcode in (0x3..=0x7).chain(0xb..=0xf) {
        cases.push((
            "5.2: an opcode of no meaning",
            frame(0x80 | opcode, b"hello"),
            1002,
        ));
    }
    for code in [0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65_535] {
        cases.push(("7.4: a close code of no meaning", close_frame(code, b""), 1002));
    }
    cases
}

/// RFC 6455 section 7.1.7: the connection is failed, with a close frame that says why.
#[test]
fn table_of_malformed_frames() -> Result<()> {
    calm(|server| {
        let mut bystander = WebSocket::session(server, ENGINE)?.0;
        for (name, bytes, code) in frames() {
            let start = &bytes[..bytes.len().min(16)];
            let (mut socket, sid) = WebSocket::session(server, ENGINE)?;
            socket.text("4hello")?;
            socket.expect("4hello")?;
            socket.write(&bytes)?;
            let seen = socket.closed().with_context(|| format!("{name}: {start:x?}"))?;
            ensure!(
                seen == Some(code),
                "{name}: {start:x?}: {seen:?} instead of {code}"
            );
            is_gone(server, ENGINE, &sid).context(name)?;
            bystander.text("4and you?")?;
            bystander.expect("4and you?")?;
        }
        server.is_healthy()
    })
}

/// A connection closed with bytes unread would be reset (RFC 9293 section 3.6.1), and the close frame lost with it.
#[test]
fn who_is_still_sending_hears_why_it_is_ended() -> Result<()> {
    calm(|server| {
        for _ in 0..8 {
            let mut socket = WebSocket::session(server, ENGINE)?.0;
            socket.write(&parts(TEXT, 0xff, &(4_u64 << 20).to_be_bytes(), b"4"))?;
            for _ in 0..64 {
                socket.write(&[b'x'; 64 << 10])?;
            }
            let seen = socket.closed()?;
            ensure!(seen == Some(1009), "{seen:?}");
        }
        server.is_healthy()
    })
}

/// Connections that end in the middle of something.
#[test]
fn table_of_frames_cut_short() -> Result<()> {
    calm(|server| {
        let mut bystander = WebSocket::session(server, ENGINE)?.0;
        let whole = [frame(MORE_TEXT, b"4hello"), frame(LAST, &[b'x'; 200])].concat();
        for length in 0..whole.len() {
            let (mut socket, _) = WebSocket::session(server, ENGINE)?;
            socket.write(&whole[..length])?;
            drop(socket);
        }
        bystander.text("4and you?")?;
        bystander.expect("4and you?")?;
        server.is_healthy()
    })
}

/// Engine.IO v4, "Protocol" and "Packet encoding": what is no packet closes the session, on a WebSocket and on
/// polling, where the POST is refused (official suite: 400, or the connection is cut).
const PACKETS: &[(&str, &[u8])] = &[
    ("an empty packet", b""),
    ("an unknown type", b"7"),
    ("an unknown type with data", b"9hello"),
    ("a letter for a type", b"abc"),
    ("a type behind a space", b" 4hello"),
    ("a byte order mark", b"\xef\xbb\xbf4hello"),
    ("a control character", b"\x00"),
    ("binary that is not base64", b"b***"),
    ("binary with a hole", b"bAQ ID"),
    ("binary of a length base64 cannot have", b"bAAAAA"),
    ("binary behind its padding", b"bAQ==AQ=="),
];

#[test]
fn table_of_malformed_engine_packets() -> Result<()> {
    calm(|server| {
        let mut bystander = WebSocket::session(server, ENGINE)?.0;
        for (name, packet) in PACKETS {
            let (mut socket, sid) = WebSocket::session(server, ENGINE)?;
            socket.write(&frame(TEXT, packet))?;
            socket.closed().context(*name)?;
            is_gone(server, ENGINE, &sid).context(*name)?;
            bystander.text("4and you?")?;
            bystander.expect("4and you?")?;
        }
        server.is_healthy()
    })
}

/// Payloads that are malformed as a whole; those of one malformed packet come from the table above.
const PAYLOADS: &[(&str, &[u8])] = &[
    ("nothing but a separator", b"\x1e"),
    ("a separator in front", b"\x1e4hello"),
    ("a separator behind", b"4hello\x1e"),
    ("two separators", b"4hello\x1e\x1e4world"),
    ("a bad packet behind a good one", b"4hello\x1ex"),
    ("a bad packet before a good one", b"x\x1e4hello"),
    ("not UTF-8", b"4\xff\xfe"),
    ("half a character", b"4\xe2\x82"),
    ("a binary payload of version 3", b"\x00\x06\xff4hello"),
    ("a form, as JSONP clients send", b"d=4hello"),
];

#[test]
fn table_of_malformed_payloads() -> Result<()> {
    calm(|server| {
        let mut bystander = WebSocket::session(server, ENGINE)?.0;
        for (name, payload) in PACKETS.iter().chain(PAYLOADS) {
            let polling = Polling::open(server, ENGINE)?;
            let answer = polling.post(&[], payload).context(*name)?;
            let refused = answer.is_refusal(400, 3, "Bad request");
            refused.context(*name)?;
            polling.is_gone().context(*name)?;
            bystander.text("4and you?")?;
            bystander.expect("4and you?")?;
        }
        server.is_healthy()
    })
}

/// What a client in the main namespace sends that is no Socket.IO packet, or not at this moment. `B` at the end stands
/// for a binary frame behind it.
fn socket_packets() -> Vec<(&'static str, String)> {
    const PLACE: &str = r#"{"_placeholder":true,"num":0}"#;
    let deep = |depth| format!("2[\"message\",{}{}]", "[".repeat(depth), "]".repeat(depth));
    let many = |count| format!("2[\"message\"{}]", ",1".repeat(count));
    let mut cases: Vec<_> = [
        // "Format".
        ("an empty packet", ""),
        ("an unknown type", "7"),
        ("an unknown type with a payload", r#"9["message"]"#),
        ("a letter for a type", "abc"),
        ("a type behind a space", r#" 2["message"]"#),
        ("an id that is no number", r#"21a["message"]"#),
        ("a negative id", r#"2-1["message"]"#),
        ("an id with a fraction", r#"21.5["message"]"#),
        ("an id over 2^53", r#"29007199254740993["message"]"#),
        ("an id of a hundred digits", r#"21111111111111111111111111111111111111111111111111111111111111111111111111111111111111111111111111111["message"]"#),
        ("payload before the namespace", r#"2["message"]/custom,"#),
        ("a namespace without its comma", r#"2/custom["message"]"#),
        ("a payload that goes on", r#"2["message"]x"#),
        ("two payloads", r#"2["message"]["message"]"#),
        ("half a payload", r#"2["message""#),
        ("a string without its end", r#"2["message]"#),
        ("single quotes", "2['message']"),
        ("a comma too many", r#"2["message",]"#),
        ("a comment", r#"2["message"/*x*/]"#),
        ("a number JSON does not know", r#"2["message",01]"#),
        ("a word JSON does not know", r#"2["message",NaN]"#),
        ("half an escape", r#"2["message","\u12"]"#),
        ("an unknown escape", r#"2["message","\x41"]"#),
        ("a control character in a string", "2[\"message\",\"\u{1}\"]"),
        // "Connection to a namespace".
        ("CONNECT for a namespace joined", "0"),
        ("CONNECT with a payload that is no object", r#"0/custom,"token""#),
        ("CONNECT with an array", r#"0/custom,["token"]"#),
        ("CONNECT with null", "0/custom,null"),
        ("CONNECT with half an object", r#"0/custom,{"token":"#),
        ("CONNECT_ERROR, which is the server's", r#"4{"message":"no"}"#),
        // "Sending and receiving data".
        ("EVENT without payload", "2"),
        ("EVENT with an id and no payload", "21"),
        ("EVENT with an empty array", "2[]"),
        ("EVENT with an object", r#"2{"message":1}"#),
        ("EVENT with a string", r#"2"message""#),
        ("EVENT with null", "2null"),
        ("EVENT whose name is an object", "2[{}]"),
        ("EVENT whose name is an array", r#"2[["message"]]"#),
        ("EVENT whose name is null", "2[null]"),
        ("EVENT whose name is true", "2[true]"),
        ("EVENT with a reserved name: connect", r#"2["connect"]"#),
        ("EVENT with a reserved name: connect_error", r#"2["connect_error"]"#),
        ("EVENT with a reserved name: disconnect", r#"2["disconnect"]"#),
        ("EVENT with a reserved name: disconnecting", r#"2["disconnecting"]"#),
        ("EVENT with a reserved name: newListener", r#"2["newListener"]"#),
        ("EVENT with a reserved name: removeListener", r#"2["removeListener"]"#),
        ("EVENT with a reserved name in disguise", r#"2["\u0063onnect"]"#),
        ("EVENT for a namespace not joined", r#"2/custom,["message"]"#),
        // "Acknowledgement".
        ("ACK without id", "3[]"),
        ("ACK without payload", "31"),
        ("ACK with an object", "31{}"),
        ("ACK with a string", r#"31"done""#),
        ("ACK with half an array", "31[1"),
        ("ACK for a namespace not joined", "3/custom,1[]"),
        // "Disconnection from a namespace".
        ("DISCONNECT with a payload", "1[]"),
        ("DISCONNECT with an object", r#"1{"a":1}"#),
        ("DISCONNECT from a namespace not joined", "1/custom,"),
        // Binary.
        ("BINARY_EVENT without its number", r#"5["message",PLACE]B"#),
        ("BINARY_EVENT without the dash", r#"51["message",PLACE]B"#),
        ("BINARY_EVENT with a number that is none", r#"5x-["message",PLACE]B"#),
        ("BINARY_EVENT with a negative number", r#"5-1-["message",PLACE]B"#),
        ("BINARY_EVENT with a fraction", r#"51.5-["message",PLACE]B"#),
        ("BINARY_EVENT of eleven attachments", r#"511-["message",PLACE]"#),
        ("BINARY_EVENT of a great many attachments", r#"599999999999999999999-["message",PLACE]"#),
        ("BINARY_EVENT without payload", "51-B"),
        ("BINARY_EVENT with an empty array", "51-[]B"),
        ("BINARY_EVENT with a reserved name", r#"51-["connect",PLACE]B"#),
        ("BINARY_EVENT for a namespace not joined", r#"51-/custom,["message",PLACE]B"#),
        (
            "BINARY_EVENT with a placeholder of no attachment",
            r#"51-["message",{"_placeholder":true,"num":1}]B"#,
        ),
        (
            "BINARY_EVENT with a negative placeholder",
            r#"51-["message",{"_placeholder":true,"num":-1}]B"#,
        ),
        (
            "BINARY_EVENT with a placeholder that is no number",
            r#"51-["message",{"_placeholder":true,"num":"0"}]B"#,
        ),
        ("BINARY_ACK without id", "61-[PLACE]B"),
        ("BINARY_ACK without payload", "61-1B"),
        ("BINARY_ACK without its number", "61[PLACE]B"),
        ("an attachment of nothing", "B"),
    ]
    .map(|(name, packet)| (name, packet.replace("PLACE", PLACE)))
    .into();
    cases.push(("nesting of 65 levels", deep(64)));
    cases.push((
        "nesting without end",
        format!("2[\"message\",{}", "[".repeat(100_000)),
    ));
    cases.push(("257 arguments", many(257)));
    cases.push(("a namespace of a megabyte", format!("0/{},", "n".repeat(900_000))));
    cases
}

/// Socket.IO v5: whatever the server cannot read closes the connection, on either transport.
#[test]
fn table_of_malformed_socketio_packets() -> Result<()> {
    calm(|server| {
        let mut bystander = WebSocket::joined(server)?;
        for (name, packet) in socket_packets() {
            let start: String = packet.chars().take(60).collect();
            let case = || format!("{name}: {start}");
            on_websocket(server, &packet).with_context(case)?;
            on_polling(server, &packet).with_context(|| format!("{}, on polling", case()))?;
            bystander.text(r#"421["message-with-ack","and you?"]"#)?;
            bystander.expect(r#"431["and you?"]"#)?;
        }
        server.is_healthy()
    })
}

fn on_websocket(server: &Server, packet: &str) -> Result<()> {
    let mut socket = WebSocket::joined(server)?;
    match packet.strip_suffix('B') {
        Some("") => socket.binary(&[1])?,
        // The server may have hung up already.
        Some(packet) => {
            socket.write(&[frame(TEXT, format!("4{packet}").as_bytes()), frame(BINARY, &[1])].concat())?
        }
        None => socket.text(&format!("4{packet}"))?,
    }
    socket.closed()?;
    Ok(())
}

/// The poll that waits is told with a close packet, and then the session is gone.
fn on_polling(server: &Server, packet: &str) -> Result<()> {
    let polling = Polling::open(server, SOCKET)?;
    polling.send(b"40")?;
    ensure!(polling.packets_of(2)?.len() == 2);
    let body = match packet.strip_suffix('B') {
        Some("") => "bAQ==".to_owned(),
        Some(packet) => format!("4{packet}\u{1e}bAQ=="),
        None => format!("4{packet}"),
    };
    let answer = polling.post(&[], body.as_bytes())?;
    ensure!(matches!(answer.status, 200 | 400), "{answer:?}");
    let answer = polling.poll()?;
    ensure!(answer.status == 400 || packets(&answer)? == ["1"], "{answer:?}");
    polling.is_gone()
}

/// Text where attachments are due, on one connection and over several messages.
#[test]
fn table_of_malformed_attachments() -> Result<()> {
    const EVENT: &str = r#"452-["message",{"_placeholder":true,"num":0},{"_placeholder":true,"num":1}]"#;
    let cases: [(&str, Vec<Vec<u8>>); 4] = [
        ("another event", vec![frame(TEXT, br#"42["message"]"#)]),
        (
            "another event after the first attachment",
            vec![frame(BINARY, &[1]), frame(TEXT, br#"42["message"]"#)],
        ),
        ("another binary event", vec![frame(TEXT, EVENT.as_bytes())]),
        (
            "one attachment too many",
            vec![frame(BINARY, &[1]), frame(BINARY, &[2]), frame(BINARY, &[3])],
        ),
    ];
    calm(|server| {
        for (name, frames) in cases {
            let mut socket = WebSocket::joined(server)?;
            socket.text(EVENT)?;
            socket.write(&frames.concat())?;
            if name == "one attachment too many" {
                socket.expect(&EVENT.replace("message", "message-back"))?;
                socket.expect_binary(&[1])?;
                socket.expect_binary(&[2])?;
            }
            socket.closed().context(name)?;
        }
        server.is_healthy()
    })
}

/// What is no HTTP request is refused or cut off, and never waited for without end.
#[test]
fn table_of_malformed_requests() -> Result<()> {
    let target = "/engine.io/?EIO=4&transport=polling";
    let long = "x".repeat(70_000);
    let cases = [
        ("no HTTP at all", "hello\r\n\r\n".to_owned()),
        ("a byte that is no text", "\0\0\0\0\r\n\r\n".to_owned()),
        ("no version", format!("GET {target}\r\n\r\n")),
        ("an unknown version", format!("GET {target} HTTP/9.9\r\n\r\n")),
        (
            "a header without a colon",
            format!("GET {target} HTTP/1.1\r\nhost fanfare.test\r\n\r\n"),
        ),
        (
            "a space in a header's name",
            format!("GET {target} HTTP/1.1\r\nho st: fanfare.test\r\n\r\n"),
        ),
        (
            "a negative length",
            format!("POST {target} HTTP/1.1\r\ncontent-length: -1\r\n\r\n"),
        ),
        (
            "two lengths",
            format!("POST {target} HTTP/1.1\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n4"),
        ),
        (
            "a header too long",
            format!("GET {target} HTTP/1.1\r\nx-long: {long}\r\n\r\n"),
        ),
        (
            "a target too long",
            format!("GET {target}&t={long} HTTP/1.1\r\n\r\n"),
        ),
        (
            "headers without end",
            format!("GET {target} HTTP/1.1\r\n{}\r\n", "x: y\r\n".repeat(2000)),
        ),
    ];
    calm(|server| {
        for (name, request) in &cases {
            let mut connection = server.connect()?;
            // A server that refuses early may have hung up while this is written.
            let written = connection.write(request.as_bytes());
            let said = match connection.rest() {
                Ok(said) => said,
                Err(_) if written.is_err() => continue,
                Err(error) => return Err(error.context(*name)),
            };
            let said = String::from_utf8_lossy(&said);
            match said.split(' ').nth(1) {
                None | Some("400" | "413" | "414" | "431" | "505") => {}
                Some(other) => bail!("{name}: answered {other}"),
            }
        }
        server.is_healthy()
    })
}
