//! Engine.IO v3 (branch `v3` of the repository socketio/engine.io-protocol), on the server that speaks v4 as well: the
//! clients of Socket.IO 2. What of the wire is the same in both versions is held by the tests of v4.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::json;

use crate::client::{Answer, ENGINE, Polling, Server, WebSocket, calm, opened, with};

/// A session on long-polling. `base64` is for clients that cannot take bytes.
struct Older<'a> {
    server: &'a Server,
    sid: String,
}

impl<'a> Older<'a> {
    fn open(server: &'a Server, base64: bool) -> Result<Self> {
        let query = if base64 { "&b64=1" } else { "" };
        let answer = server.ask(
            "GET",
            &format!("{ENGINE}?EIO=3&transport=polling{query}"),
            &[],
            b"",
        )?;
        let open = one(&answer)?;
        Ok(Self {
            server,
            sid: opened(&open)?.0,
        })
    }

    fn target(&self, transport: &str) -> String {
        format!("{ENGINE}?EIO=3&transport={transport}&sid={}", self.sid)
    }

    fn poll(&self) -> Result<Answer> {
        self.server.ask("GET", &self.target("polling"), &[], b"")
    }

    fn post(&self, content_type: &str, body: &[u8]) -> Result<Answer> {
        let headers = [("content-type", content_type)];
        self.server.ask("POST", &self.target("polling"), &headers, body)
    }

    fn send(&self, body: &str) -> Result<()> {
        let answer = self.post("text/plain;charset=UTF-8", body.as_bytes())?;
        ensure!(answer.status == 200 && answer.text()? == "ok", "{answer:?}");
        Ok(())
    }

    /// That text comes next. Packets that were sent together may come by several polls.
    fn expect(&self, body: &str) -> Result<()> {
        let mut got = String::new();
        while got.len() < body.len() {
            let answer = self.poll()?;
            ensure!(answer.status == 200, "{answer:?}");
            got.push_str(answer.text()?);
        }
        ensure!(got == body, "{got:?} instead of {body:?}");
        Ok(())
    }

    /// What comes by one poll of packets sent together, without the attempts at which they came by several.
    fn together(&self, content_type: &str, packets: &[u8], first: &str) -> Result<Answer> {
        loop {
            let answer = self.post(content_type, packets)?;
            ensure!(answer.status == 200, "{answer:?}");
            let answer = self.poll()?;
            if answer.bytes() != first.as_bytes() {
                return Ok(answer);
            }
            self.poll()?;
        }
    }

    fn is_gone(&self) -> Result<()> {
        self.poll()?.is_refusal(400, 1, "Session ID unknown")
    }

    fn websocket(&self) -> Result<WebSocket> {
        WebSocket::open(self.server, &self.target("websocket"))
    }

    fn upgraded(&self) -> Result<WebSocket> {
        let mut socket = self.websocket()?;
        socket.text("2probe")?;
        socket.expect("3probe")?;
        socket.text("5")?;
        Ok(socket)
    }
}

/// The only packet of a payload, whose length is that of its text in UTF-16.
fn one(answer: &Answer) -> Result<String> {
    ensure!(answer.status == 200, "{answer:?}");
    let (length, packet) = answer.text()?.split_once(':').context("a length")?;
    ensure!(length.parse() == Ok(packet.encode_utf16().count()), "{answer:?}");
    Ok(packet.to_owned())
}

fn session(server: &Server) -> Result<(WebSocket, serde_json::Value)> {
    let mut socket = WebSocket::open(server, &format!("{ENGINE}?EIO=3&transport=websocket"))?;
    let (_, open) = opened(&socket.next_text()?)?;
    Ok((socket, open))
}

/// "Handshake" on both transports; the key `maxPayload` is of v4, and clients of v3 do not look at it.
#[test]
fn handshakes() -> Result<()> {
    with(&[], |server| {
        let answer = server.ask("GET", &format!("{ENGINE}?EIO=3&transport=polling"), &[], b"")?;
        let on_polling = opened(&one(&answer)?)?.1;
        let on_websocket = session(server)?.1;
        for (open, upgrades) in [(on_polling, json!(["websocket"])), (on_websocket, json!([]))] {
            ensure!(open["upgrades"] == upgrades, "{open}");
            ensure!(
                open["pingInterval"] == 300 && open["pingTimeout"] == 200,
                "{open}"
            );
        }
        Ok(())
    })
}

/// Other versions, unknown transports and methods are refused as in v4.
#[test]
fn handshakes_that_are_refused() -> Result<()> {
    calm(|server| {
        for query in ["EIO=3", "EIO=3&transport=abc"] {
            let answer = server.ask("GET", &format!("{ENGINE}?{query}"), &[], b"")?;
            answer.is_refusal(400, 0, "Transport unknown")?;
        }
        let answer = server.ask("POST", &format!("{ENGINE}?EIO=3&transport=polling"), &[], b"")?;
        answer.is_refusal(400, 2, "Bad handshake method")?;
        let answer = server.ask("GET", &format!("{ENGINE}?EIO=2&transport=polling"), &[], b"")?;
        answer.is_refusal(400, 5, "Unsupported protocol version")
    })
}

/// "Payload": texts with their lengths, which count units of UTF-16.
#[test]
fn text_payloads() -> Result<()> {
    calm(|server| {
        let polling = Older::open(server, true)?;
        for payload in [
            "6:4hello",
            "6:4test16:4test26:4test3",
            "1:4",
            "2:4€",
            "3:4\u{1f600}2:4ä",
            "6:4a:b\u{1e}c",
        ] {
            polling.send(payload)?;
            polling.expect(payload)?;
        }
        Ok(())
    })
}

/// "Payload": bytes as base64 for clients that say `b64`, and framed in bytes for others.
#[test]
fn binary_payloads() -> Result<()> {
    const HELLO: &str = "6:4hello";
    const FRAMED: &[u8] = &[
        0, 6, 255, b'4', b'h', b'e', b'l', b'l', b'o', 1, 5, 255, 4, 1, 2, 3, 4,
    ];
    let text = "6:4hello10:b4AQIDBA==";
    calm(|server| {
        let polling = Older::open(server, true)?;
        polling.send(text)?;
        polling.expect(text)?;
        let polling = Older::open(server, false)?;
        let answer = polling.together("text/plain;charset=UTF-8", text.as_bytes(), HELLO)?;
        ensure!(answer.bytes() == FRAMED, "{answer:?}");
        ensure!(
            answer.header("content-type") == Some("application/octet-stream"),
            "{answer:?}"
        );
        let answer = polling.together("application/octet-stream", FRAMED, HELLO)?;
        ensure!(answer.bytes() == FRAMED, "{answer:?}");
        // Text alone needs no frames of bytes.
        polling.send(HELLO)?;
        polling.expect(HELLO)
    })
}

/// A payload that is none ends its session.
#[test]
fn payloads_that_are_none() -> Result<()> {
    calm(|server| {
        for payload in [
            "abc",
            "",
            ":",
            "6:4hell",
            "x:4",
            "0:",
            "1:9",
            "99999999999999999999:4",
            "-1:4",
        ] {
            let polling = Older::open(server, true)?;
            let answer = polling.post("text/plain;charset=UTF-8", payload.as_bytes())?;
            ensure!(answer.status == 400, "{payload:?}: {answer:?}");
            polling.is_gone().with_context(|| format!("{payload:?}"))?;
        }
        for payload in [
            &[0, 6, 255, b'4'][..],
            &[2, 1, 255, b'4'],
            &[0, 255],
            &[0, 1],
            &[1, 0, 255],
        ] {
            let polling = Older::open(server, false)?;
            let answer = polling.post("application/octet-stream", payload)?;
            ensure!(answer.status == 400, "{payload:?}: {answer:?}");
            polling.is_gone().with_context(|| format!("{payload:?}"))?;
        }
        Ok(())
    })
}

/// Messages on a WebSocket: bytes begin with the type of the packet.
#[test]
fn messages_on_websocket() -> Result<()> {
    calm(|server| {
        let mut socket = session(server)?.0;
        socket.text("4hello")?;
        socket.expect("4hello")?;
        socket.binary(&[4, 1, 2, 3, 4])?;
        socket.expect_binary(&[4, 1, 2, 3, 4])?;
        socket.text("abc")?;
        socket.closed()?;
        Ok(())
    })
}

/// "Ping": here the client asks, on both transports, with any text behind the type.
#[test]
fn pings_are_answered() -> Result<()> {
    calm(|server| {
        let polling = Older::open(server, true)?;
        let mut socket = session(server)?.0;
        for _ in 0..3 {
            polling.send("1:2")?;
            polling.expect("1:3")?;
            socket.text("2")?;
            socket.expect("3")?;
        }
        socket.text("2hello")?;
        socket.expect("3hello")
    })
}

/// Who does not ask for long enough is gone, not before its time.
#[test]
fn a_missing_ping_closes_the_session() -> Result<()> {
    with(&[], |server| {
        let begun = Instant::now();
        let mut socket = session(server)?.0;
        socket.closed()?;
        ensure!(
            begun.elapsed() >= Duration::from_millis(250),
            "{:?}",
            begun.elapsed()
        );
        Ok(())
    })
}

/// `1` closes: a waiting poll is answered, and the session is gone.
#[test]
fn goodbyes() -> Result<()> {
    calm(|server| {
        let polling = Older::open(server, true)?;
        let mut poll = server.connect()?;
        poll.request("GET", &polling.target("polling"), &[], b"")?;
        ensure!(poll.is_silent()?);
        polling.send("1:1")?;
        ensure!(one(&poll.answer()?)? == "6");
        polling.is_gone()?;
        let mut socket = session(server)?.0;
        socket.text("1")?;
        socket.closed()?;
        Ok(())
    })
}

/// "Upgrade", and what comes to the session by other ways after it.
#[test]
fn upgrades() -> Result<()> {
    calm(|server| {
        let polling = Older::open(server, true)?;
        let mut socket = polling.websocket()?;
        socket.text("2probe")?;
        socket.expect("3probe")?;
        polling.expect("1:6")?;
        socket.text("5")?;
        socket.text("4hello")?;
        socket.expect("4hello")?;

        let polling = Older::open(server, true)?;
        polling.send("6:4early")?;
        let mut socket = polling.upgraded()?;
        socket.expect("4early")?;
        ensure!(polling.poll()?.status == 400);
        polling.websocket()?.closed()?;
        socket.text("4still here")?;
        socket.expect("4still here")
    })
}

/// Both versions at one server and one path: a session is of the version that it began with.
#[test]
fn versions_side_by_side() -> Result<()> {
    calm(|server| {
        let (older, newer) = (Older::open(server, true)?, Polling::open(server, ENGINE)?);
        older.send("6:4hello6:4again")?;
        newer.send(b"4hello\x1e4again")?;
        older.expect("6:4hello6:4again")?;
        ensure!(newer.packets_of(2)? == ["4hello", "4again"]);
        server.is_healthy()
    })
}
