//! Engine.IO v4, "Handshake", "Heartbeat", "Message", and the packets that end a session.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::client::{
    CLOSE, ENGINE, Polling, SOCKET, Seen, Server, WebSocket, calm, frame, is_gone, opened, packets, with,
};

/// The pings come as fast as the official suites ask for; there is much time for each pong.
const PATIENT: [(&str, &str); 2] = [("--ping-timeout", "60000"), ("--connect-timeout", "60000")];
/// From one ping to the next, as the server is told by default.
const INTERVAL: Duration = Duration::from_millis(300);
const TIMEOUT: Duration = Duration::from_millis(200);

/// "Handshake", long-polling: an open packet with these keys and no others.
#[test]
fn handshake_on_polling() -> Result<()> {
    with(&[], |server| {
        for path in [ENGINE, SOCKET] {
            let answer = server.ask("GET", &format!("{path}?EIO=4&transport=polling"), &[], b"")?;
            ensure!(answer.status == 200, "{answer:?}");
            let (sid, open) = opened(answer.text()?)?;
            is_open(&sid, &open, &json!(["websocket"]))?;
        }
        Ok(())
    })
}

/// "Handshake", WebSocket only: there is nothing to upgrade to. [`WebSocket::open`] checks the 101.
#[test]
fn handshake_on_websocket() -> Result<()> {
    with(&[], |server| {
        for path in [ENGINE, SOCKET] {
            let mut socket = WebSocket::open(server, &format!("{path}?EIO=4&transport=websocket"))?;
            let (sid, open) = opened(&socket.next_text()?)?;
            is_open(&sid, &open, &json!([]))?;
        }
        Ok(())
    })
}

fn is_open(sid: &str, open: &Value, upgrades: &Value) -> Result<()> {
    let wanted = json!({
        "sid": sid, "upgrades": upgrades, "pingInterval": 300, "pingTimeout": 200, "maxPayload": 1_000_000,
    });
    ensure!(*open == wanted, "{open}");
    // Other parts of the family tell a sid by its length.
    ensure!(sid.len() == 20, "{sid}");
    ensure!(
        sid.bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte)),
        "{sid}"
    );
    Ok(())
}

/// "Handshake": the id is the session's alone.
#[test]
fn every_session_has_its_own_id() -> Result<()> {
    calm(|server| {
        let mut sids = std::collections::HashSet::new();
        for _ in 0..50 {
            ensure!(sids.insert(Polling::open(server, ENGINE)?.sid));
        }
        Ok(())
    })
}

/// "Heartbeat" on a WebSocket: ping after ping to who answers, and messages go on between them.
#[test]
fn heartbeat_on_websocket() -> Result<()> {
    with(&PATIENT, |server| {
        let begun = Instant::now();
        let mut socket = WebSocket::session(server, ENGINE)?.0;
        for round in 1..=3 {
            socket.expect("2")?;
            ensure!(
                begun.elapsed() >= INTERVAL * round / 2,
                "ping {round} comes early"
            );
            socket.text("3")?;
        }
        socket.text("4still here")?;
        while socket.next_text()? != "4still here" {}
        Ok(())
    })
}

/// "Heartbeat" on long-polling.
#[test]
fn heartbeat_on_polling() -> Result<()> {
    with(&PATIENT, |server| {
        let polling = Polling::open(server, ENGINE)?;
        for _ in 0..3 {
            ensure!(polling.packets()? == ["2"]);
            polling.send(b"3")?;
        }
        Ok(())
    })
}

/// "Heartbeat": without the pong the connection counts as closed, not before the time for it is over.
#[test]
fn a_missing_pong_closes_a_websocket() -> Result<()> {
    with(&[], |server| {
        let begun = Instant::now();
        let (mut socket, sid) = WebSocket::session(server, ENGINE)?;
        socket.expect("2")?;
        socket.closed()?;
        ensure!(
            begun.elapsed() >= (INTERVAL + TIMEOUT) / 2,
            "{:?}",
            begun.elapsed()
        );
        is_gone(server, ENGINE, &sid)
    })
}

/// "Heartbeat": only a pong is one (reference). Who sends messages alone is closed all the same.
#[test]
fn messages_are_no_pongs() -> Result<()> {
    with(&[], |server| {
        let mut socket = WebSocket::session(server, ENGINE)?.0;
        socket.expect("2")?;
        let until = Instant::now() + Duration::from_secs(30);
        // What is written into a closed connection fails at some time.
        while socket.text("4hello").is_ok() {
            match socket.next() {
                Ok(Seen::Text(text)) => ensure!(text == "4hello", "{text}"),
                Ok(Seen::Close(_) | Seen::End) | Err(_) => return Ok(()),
                Ok(other) => anyhow::bail!("{other:?}"),
            }
            ensure!(Instant::now() < until, "messages keep the session alive");
        }
        Ok(())
    })
}

/// "Heartbeat": the waiting poll takes the ping, the pong does not come.
#[test]
fn a_missing_pong_closes_polling() -> Result<()> {
    with(&[], |server| {
        let begun = Instant::now();
        let polling = Polling::open(server, ENGINE)?;
        ensure!(polling.packets()? == ["2"]);
        // A poll that waits is told, one that comes too late is refused.
        let answer = polling.poll()?;
        ensure!(answer.status == 400 || packets(&answer)? == ["1"], "{answer:?}");
        ensure!(
            begun.elapsed() >= (INTERVAL + TIMEOUT) / 2,
            "{:?}",
            begun.elapsed()
        );
        polling.is_gone()
    })
}

/// "Heartbeat": a client that does not poll at all does not get the ping; it is closed as well.
#[test]
fn a_client_that_never_polls_is_closed() -> Result<()> {
    with(&[], |server| {
        let polling = Polling::open(server, ENGINE)?;
        let begun = Instant::now();
        // A POST does not wait, so it can be asked until the session is gone; a noop is no pong.
        while polling.post(&[], b"6")?.status == 200 {
            ensure!(begun.elapsed() < Duration::from_secs(30), "never closed");
        }
        ensure!(
            begun.elapsed() >= (INTERVAL + TIMEOUT) / 2,
            "{:?}",
            begun.elapsed()
        );
        polling.is_gone()
    })
}

/// "From v3 to v4": the server pings. A client that does is in the wrong direction (reference: "invalid heartbeat
/// direction"), be it a probe outside of an upgrade.
#[test]
fn a_ping_from_the_client_closes_the_session() -> Result<()> {
    calm(|server| {
        for ping in ["2", "2probe", "2anything"] {
            let (mut socket, sid) = WebSocket::session(server, ENGINE)?;
            socket.text(ping)?;
            socket.closed().context(ping)?;
            is_gone(server, ENGINE, &sid)?;

            let polling = Polling::open(server, ENGINE)?;
            polling.post(&[], ping.as_bytes())?;
            polling.is_gone().context(ping)?;
        }
        Ok(())
    })
}

/// "Message" on a WebSocket: text and binary, empty, and as long as may be.
#[test]
fn messages_on_websocket() -> Result<()> {
    calm(|server| {
        let mut socket = WebSocket::session(server, ENGINE)?.0;
        for text in [
            "hello",
            "",
            "\u{20ac}\u{1f37a}",
            "\u{0}\u{1e}\u{7f}",
            "0",
            "4",
            "b",
        ] {
            socket.text(&format!("4{text}"))?;
            socket.expect(&format!("4{text}"))?;
        }
        for length in [0, 1, 125, 126, 65_535, 65_536, 1_000_000] {
            let data: Vec<u8> = (0..length).map(|at: u32| at.to_le_bytes()[0]).collect();
            socket.binary(&data)?;
            ensure!(socket.next()? == Seen::Binary(data), "{length} bytes");
        }
        for length in [124, 125, 65_534, 65_535, 999_999] {
            let text = format!("4{}", "x".repeat(length));
            socket.text(&text)?;
            ensure!(socket.next()? == Seen::Text(text), "{length} characters");
        }
        Ok(())
    })
}

/// "Message": they keep their order, however many are under way.
#[test]
fn messages_keep_their_order() -> Result<()> {
    calm(|server| {
        let mut socket = WebSocket::session(server, ENGINE)?.0;
        let frames: Vec<u8> = (0..1000)
            .flat_map(|number| frame(crate::client::TEXT, format!("4{number}").as_bytes()))
            .collect();
        socket.write(&frames)?;
        for number in 0..1000 {
            socket.expect(&format!("4{number}"))?;
        }

        let polling = Polling::open(server, ENGINE)?;
        let wanted: Vec<_> = (0..1000).map(|number| format!("4{number}")).collect();
        polling.send(wanted.join("\u{1e}").as_bytes())?;
        ensure!(polling.packets_of(1000)? == wanted);
        Ok(())
    })
}

/// "Protocol", packet types: open, upgrade and noop are not for this moment, and a pong may come unasked; the reference
/// takes no notice.
#[test]
fn stray_packets_are_ignored() -> Result<()> {
    calm(|server| {
        let mut socket = WebSocket::session(server, ENGINE)?.0;
        let polling = Polling::open(server, ENGINE)?;
        for packet in ["0", "0{}", "3", "3probe", "5", "6", "6abc"] {
            socket.text(packet)?;
            polling.send(packet.as_bytes())?;
        }
        socket.text("4hello")?;
        socket.expect("4hello")?;
        polling.send(b"4hello")?;
        ensure!(polling.packets()? == ["4hello"]);
        Ok(())
    })
}

/// "Protocol", packet type close, on a WebSocket.
#[test]
fn the_client_closes_a_websocket_session() -> Result<()> {
    calm(|server| {
        let (mut socket, sid) = WebSocket::session(server, ENGINE)?;
        socket.text("4last words")?;
        socket.text("1")?;
        socket.expect("4last words")?;
        socket.closed()?;
        is_gone(server, ENGINE, &sid)
    })
}

/// "Protocol", packet type close, on long-polling: the waiting poll is released with a noop (reference).
#[test]
fn the_client_closes_a_polling_session() -> Result<()> {
    calm(|server| {
        let polling = Polling::open(server, ENGINE)?;
        let mut poll = polling.begin_poll()?;
        ensure!(poll.is_silent()?, "an answer with nothing to say");
        polling.send(b"1")?;
        ensure!(packets(&poll.answer()?)? == ["6"]);
        polling.is_gone()
    })
}

/// The close handshake of RFC 6455 ends the session too ("transport close"), as does a connection that just ends.
#[test]
fn the_end_of_the_websocket_ends_the_session() -> Result<()> {
    calm(|server| {
        let (mut socket, sid) = WebSocket::session(server, ENGINE)?;
        socket.write(&frame(CLOSE, &1000_u16.to_be_bytes()))?;
        ensure!(socket.closed()? == Some(1000));
        is_gone(server, ENGINE, &sid)?;

        let (socket, sid) = WebSocket::session(server, ENGINE)?;
        drop(socket);
        eventually_gone(server, &sid)
    })
}

fn eventually_gone(server: &Server, sid: &str) -> Result<()> {
    let until = Instant::now() + Duration::from_secs(30);
    // A session on a WebSocket answers a poll with another code while it lives, and at once.
    while let Err(error) = is_gone(server, ENGINE, sid) {
        ensure!(Instant::now() < until, "{error:#}");
    }
    Ok(())
}
