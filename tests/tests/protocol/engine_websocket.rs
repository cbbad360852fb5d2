//! Engine.IO v4, "WebSocket", as transport and as encoding, and what RFC 6455 allows that few clients do.

use anyhow::{Context, Result, ensure};

use crate::client::{
    CLOSE, ENGINE, HANDSHAKE, PING, PONG, Polling, SOCKET, Seen, TEXT, WebSocket, calm, frame, head,
};

/// A frame that is not the last of its message.
const MORE_TEXT: u8 = 0x01;
const MORE_BINARY: u8 = 0x02;
const MORE: u8 = 0x00;
const LAST: u8 = 0x80;

/// "Each packet is sent in its own WebSocket frame": two packets in one frame are one message.
#[test]
fn each_packet_has_its_frame() -> Result<()> {
    calm(|server| {
        let mut socket = WebSocket::session(server, ENGINE)?.0;
        socket.text("4one\u{1e}4two")?;
        socket.expect("4one\u{1e}4two")?;
        socket.write(&[frame(TEXT, b"4one"), frame(TEXT, b"4two")].concat())?;
        socket.expect("4one")?;
        socket.expect("4two")
    })
}

/// "Binary payloads are sent as is", both ways; base64 in a text frame is understood as well (reference).
#[test]
fn binary_is_sent_as_it_is() -> Result<()> {
    calm(|server| {
        let mut socket = WebSocket::session(server, ENGINE)?.0;
        socket.binary(&[4, 0, 255])?;
        socket.expect_binary(&[4, 0, 255])?;
        socket.binary(b"4hello")?;
        socket.expect_binary(b"4hello")?;
        socket.text("bAQIDBA==")?;
        socket.expect_binary(&[1, 2, 3, 4])
    })
}

/// What RFC 6455 allows: frames written by a client, and what comes back.
#[test]
fn table_of_legal_frames() -> Result<()> {
    let hello = || Seen::Text("4hello".to_owned());
    let long_ping = vec![b'p'; 125];
    let cases: Vec<(&str, Vec<u8>, Vec<Seen>)> = vec![
        (
            "5.4: a text in three fragments",
            [frame(MORE_TEXT, b"4h"), frame(MORE, b"el"), frame(LAST, b"lo")].concat(),
            vec![hello()],
        ),
        (
            "5.4: fragments without content",
            [
                frame(MORE_TEXT, b""),
                frame(MORE, b""),
                frame(MORE, b"4hello"),
                frame(LAST, b""),
            ]
            .concat(),
            vec![hello()],
        ),
        (
            "5.4: a character cut in two by fragments",
            [frame(MORE_TEXT, b"4\xe2\x82"), frame(LAST, b"\xac")].concat(),
            vec![Seen::Text("4\u{20ac}".to_owned())],
        ),
        (
            "5.4: binary in fragments",
            [frame(MORE_BINARY, &[1]), frame(LAST, &[2])].concat(),
            vec![Seen::Binary(vec![1, 2])],
        ),
        (
            "5.4: control frames between fragments",
            [
                frame(MORE_TEXT, b"4hel"),
                frame(PING, b"?"),
                frame(PONG, b""),
                frame(LAST, b"lo"),
            ]
            .concat(),
            vec![Seen::Pong(b"?".to_vec()), hello()],
        ),
        (
            "5.5.2: a ping with nothing",
            frame(PING, b""),
            vec![Seen::Pong(Vec::new())],
        ),
        (
            "5.5.2: a ping with all it can have",
            frame(PING, &long_ping),
            vec![Seen::Pong(long_ping.clone())],
        ),
        (
            "5.5.3: a pong nobody asked for",
            [frame(PONG, b"hello"), frame(TEXT, b"4hello")].concat(),
            vec![hello()],
        ),
        (
            "5.3: a mask of zeros",
            [&[TEXT, 0x86, 0, 0, 0, 0][..], b"4hello"].concat(),
            vec![hello()],
        ),
    ];
    calm(|server| {
        let mut socket = WebSocket::session(server, ENGINE)?.0;
        for (name, frames, wanted) in &cases {
            socket.write(frames)?;
            for wanted in wanted {
                let seen = socket.next().context(*name)?;
                ensure!(seen == *wanted, "{name}: {seen:?}");
            }
        }
        // The same byte by byte: frames and segments have nothing to do with each other.
        for (name, frames, wanted) in &cases {
            for byte in frames {
                socket.write(&[*byte])?;
            }
            for wanted in wanted {
                let seen = socket.next().context(*name)?;
                ensure!(seen == *wanted, "{name}, byte by byte: {seen:?}");
            }
        }
        Ok(())
    })
}

/// RFC 6455 5.5.1 and 7.4: a close frame is answered with its code, the connection ends, and nothing behind it counts.
#[test]
fn table_of_close_frames() -> Result<()> {
    let with_reason = [&1001_u16.to_be_bytes()[..], "going aw\u{e4}y".as_bytes()].concat();
    calm(|server| {
        for (payload, code) in [
            (&[][..], 1000),
            (&1000_u16.to_be_bytes(), 1000),
            (&1001_u16.to_be_bytes(), 1001),
            (&3000_u16.to_be_bytes(), 3000),
            (&4999_u16.to_be_bytes(), 4999),
            (&with_reason, 1001),
        ] {
            let mut socket = WebSocket::session(server, ENGINE)?.0;
            socket.write(&[frame(CLOSE, payload), frame(TEXT, b"4too late")].concat())?;
            // An empty one may be answered with an empty one.
            let seen = socket.closed()?;
            ensure!(
                seen == Some(code) || (payload.is_empty() && seen.is_none()),
                "{payload:?}: {seen:?}"
            );
        }
        Ok(())
    })
}

/// RFC 6455 4.2: what is no handshake of version 13 is answered with HTTP 400 (or 426), and nothing is opened.
#[test]
fn table_of_bad_websocket_handshakes() -> Result<()> {
    let [connection, upgrade, version, key] = HANDSHAKE;
    let cases = [
        ("no key", "GET", vec![connection, upgrade, version]),
        (
            "a key too short",
            "GET",
            vec![connection, upgrade, version, ("sec-websocket-key", "c2hvcnQ=")],
        ),
        ("no version", "GET", vec![connection, upgrade, key]),
        (
            "an old version",
            "GET",
            vec![connection, upgrade, ("sec-websocket-version", "8"), key],
        ),
        ("no upgrade", "GET", vec![connection, version, key]),
        (
            "another upgrade",
            "GET",
            vec![connection, ("upgrade", "h2c"), version, key],
        ),
        ("no connection", "GET", vec![upgrade, version, key]),
        (
            "another connection",
            "GET",
            vec![("connection", "keep-alive"), upgrade, version, key],
        ),
        ("another method", "POST", vec![connection, upgrade, version, key]),
    ];
    calm(|server| {
        let polling = Polling::open(server, ENGINE)?;
        for target in [
            format!("{ENGINE}?EIO=4&transport=websocket"),
            polling.target("websocket"),
        ] {
            for (name, method, headers) in &cases {
                let answer = server.ask(method, &target, headers, b"")?;
                ensure!(matches!(answer.status, 400 | 426), "{name}: {answer:?}");
            }
        }
        polling.send(b"4hello")?;
        ensure!(polling.packets()? == ["4hello"]);
        server.is_healthy()
    })
}

/// RFC 6455 4.2.1: header names and tokens are case-insensitive, `Connection` is a list; an offered extension need not
/// be taken, and one that is not agreed on must not be answered.
#[test]
fn websocket_handshakes_of_other_clients() -> Result<()> {
    const TAKEN: &str = "permessage-deflate; server_no_context_takeover; client_no_context_takeover";
    let offers = [
        ("x-webkit-deflate-frame", None),
        ("permessage-deflate; server_max_window_bits=8", None),
        ("permessage-deflate; client_max_window_bits", Some(TAKEN)),
    ];
    calm(|server| {
        for (offer, taken) in offers {
            let mut connection = server.connect()?;
            let head = head(
                "GET",
                &format!("{ENGINE}?transport=websocket&EIO=4"),
                &[
                    ("CONNECTION", "keep-alive, UPGRADE"),
                    ("UPGRADE", "WebSocket"),
                    ("SEC-WEBSOCKET-VERSION", "13"),
                    ("SEC-WEBSOCKET-KEY", "dGhlIHNhbXBsZSBub25jZQ=="),
                    ("SEC-WEBSOCKET-EXTENSIONS", offer),
                ],
            );
            connection.write(format!("{head}\r\n").as_bytes())?;
            let answer = connection.answer()?;
            ensure!(answer.status == 101, "{answer:?}");
            ensure!(answer.header("sec-websocket-accept") == Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
            ensure!(answer.header("sec-websocket-protocol").is_none());
            ensure!(
                answer.header("sec-websocket-extensions") == taken,
                "{offer}: {answer:?}"
            );
            if taken.is_none() {
                ensure!(WebSocket::after(connection).next_text()?.starts_with('0'));
            }
        }
        Ok(())
    })
}

/// Messages right behind the handshake, in the same segment, are not lost.
#[test]
fn messages_right_behind_the_handshake() -> Result<()> {
    calm(|server| {
        let mut connection = server.connect()?;
        let head = head("GET", &format!("{SOCKET}?EIO=4&transport=websocket"), &HANDSHAKE);
        let frames = [frame(TEXT, b"40"), frame(TEXT, br#"421["message-with-ack",1]"#)];
        connection.write(&[head.as_bytes(), b"\r\n", &frames.concat()].concat())?;
        ensure!(connection.answer()?.status == 101);
        let mut socket = WebSocket::after(connection);
        ensure!(socket.next_text()?.starts_with('0'));
        ensure!(socket.next_text()?.starts_with("40"));
        socket.expect(r#"42["auth",{}]"#)?;
        socket.expect("431[1]")
    })
}

/// Binary of one session is not mixed with that of another, whatever order their fragments come in.
#[test]
fn sessions_do_not_mix() -> Result<()> {
    calm(|server| {
        let mut one = WebSocket::session(server, ENGINE)?.0;
        let mut two = WebSocket::session(server, ENGINE)?.0;
        one.write(&frame(MORE_BINARY, &[1]))?;
        two.write(&frame(MORE_TEXT, b"4a"))?;
        one.write(&frame(LAST, &[2]))?;
        two.write(&frame(LAST, b"b"))?;
        two.binary(&[3])?;
        one.expect_binary(&[1, 2])?;
        two.expect("4ab")?;
        ensure!(two.next()? == Seen::Binary(vec![3]));
        Ok(())
    })
}
