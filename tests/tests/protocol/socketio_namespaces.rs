//! Socket.IO v5, "Connection to a namespace" and "Disconnection from a namespace".

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::client::{ENGINE, Polling, SOCKET, WebSocket, calm, is_gone, packets, with};

/// The socket id in a CONNECT, which has nothing else.
fn joined(packet: &str, prefix: &str) -> Result<String> {
    let json = packet.strip_prefix(prefix).with_context(|| packet.to_owned())?;
    let value: Value = serde_json::from_str(json)?;
    let object = value.as_object().context("an object")?;
    ensure!(object.len() == 1, "{packet}");
    Ok(object["sid"].as_str().context("a sid")?.to_owned())
}

/// "Connection to a namespace", main: `40` is answered with the id of the socket, which is not the engine's ("Difference
/// between v5 and v4").
#[test]
fn connect_to_the_main_namespace() -> Result<()> {
    calm(|server| {
        let (mut socket, engine_sid) = WebSocket::session(server, SOCKET)?;
        ensure!(socket.is_silent()?, "v5 connects nobody unasked");
        socket.text("40")?;
        let sid = joined(&socket.next_text()?, "40")?;
        ensure!(sid != engine_sid);
        ensure!(sid.len() == 20, "{sid}");
        socket.expect(r#"42["auth",{}]"#)
    })
}

/// "Connection to a namespace", custom; the comma behind a namespace that is all of the packet may be missing, as some
/// clients send it.
#[test]
fn connect_to_a_custom_namespace() -> Result<()> {
    calm(|server| {
        for connect in ["40/custom,", "40/custom"] {
            let mut socket = WebSocket::session(server, SOCKET)?.0;
            socket.text(connect)?;
            joined(&socket.next_text()?, "40/custom,")?;
            socket.expect(r#"42/custom,["auth",{}]"#)?;
        }
        Ok(())
    })
}

/// "Connection to a namespace" with an additional payload.
#[test]
fn connect_with_a_payload() -> Result<()> {
    calm(|server| {
        let mut socket = WebSocket::session(server, SOCKET)?.0;
        socket.text(r#"40{"token":"123"}"#)?;
        joined(&socket.next_text()?, "40")?;
        socket.expect(r#"42["auth",{"token":"123"}]"#)?;
        socket.text(r#"40/custom,{"token":{"deep":["\u00e9","😀",1.5,null]}}"#)?;
        joined(&socket.next_text()?, "40/custom,")?;
        let auth = socket.next_text()?;
        let auth = auth.strip_prefix("42/custom,").context("an event there")?;
        let auth: Value = serde_json::from_str(auth)?;
        let wanted = serde_json::json!(["auth", {"token": {"deep": ["\u{e9}", "\u{1f600}", 1.5, null]}}]);
        ensure!(auth == wanted, "{auth}");
        Ok(())
    })
}

/// "Connection to a namespace", refused: a CONNECT_ERROR whose payload is an object, and the connection stays, so that
/// another namespace can be asked for, or the same again.
#[test]
fn connect_refused() -> Result<()> {
    calm(|server| {
        let mut socket = WebSocket::session(server, SOCKET)?.0;
        for _ in 0..2 {
            socket.text("40/random,")?;
            socket.expect(r#"44/random,{"message":"Invalid namespace"}"#)?;
        }
        socket.text(r#"40/random,{"token":"1"}"#)?;
        socket.expect(r#"44/random,{"message":"Invalid namespace"}"#)?;
        socket.text("40")?;
        joined(&socket.next_text()?, "40")?;
        Ok(())
    })
}

/// "A client MAY be connected to multiple namespaces at the same time": each has its id, and packets are for one.
#[test]
fn many_namespaces_share_a_connection() -> Result<()> {
    calm(|server| {
        let mut socket = WebSocket::session(server, SOCKET)?.0;
        socket.text("40/custom,")?;
        let custom = joined(&socket.next_text()?, "40/custom,")?;
        socket.expect(r#"42/custom,["auth",{}]"#)?;
        socket.text("40")?;
        let main = joined(&socket.next_text()?, "40")?;
        socket.expect(r#"42["auth",{}]"#)?;
        ensure!(custom != main);
        socket.text(r#"421["message-with-ack","main"]"#)?;
        socket.text(r#"42/custom,1["message-with-ack","custom"]"#)?;
        socket.expect(r#"431["main"]"#)?;
        socket.expect(r#"43/custom,1["custom"]"#)
    })
}

/// "If the server does not receive a CONNECT packet first, then it MUST close the connection immediately."
#[test]
fn any_other_first_packet_closes() -> Result<()> {
    calm(|server| {
        for first in [
            r#"42["message"]"#,
            r#"421["message-with-ack"]"#,
            "41",
            "430[]",
            r#"44{"message":"no"}"#,
            r#"451-["message",{"_placeholder":true,"num":0}]"#,
            r#"461-0[{"_placeholder":true,"num":0}]"#,
            "4abc",
        ] {
            let (mut socket, sid) = WebSocket::session(server, SOCKET)?;
            socket.text(first)?;
            socket.closed().context(first)?;
            is_gone(server, SOCKET, &sid).context(first)?;
        }
        let mut socket = WebSocket::session(server, SOCKET)?.0;
        socket.binary(&[1])?;
        socket.closed()?;
        server.is_healthy()
    })
}

/// The same on long-polling: whoever polls is told by a close packet.
#[test]
fn any_other_first_packet_closes_polling() -> Result<()> {
    calm(|server| {
        let polling = Polling::open(server, SOCKET)?;
        let mut poll = polling.begin_poll()?;
        ensure!(poll.is_silent()?, "an answer with nothing to say");
        polling.post(&[], br#"42["message"]"#)?;
        ensure!(packets(&poll.answer()?)? == ["1"]);
        polling.is_gone()
    })
}

/// The same of a packet for a namespace that is not joined, while another is.
#[test]
fn packets_for_a_namespace_not_joined_close() -> Result<()> {
    calm(|server| {
        for packet in [
            r#"42/custom,["message"]"#,
            "41/custom,",
            "43/custom,0[]",
            r#"42/unknown,["message"]"#,
        ] {
            let mut socket = WebSocket::joined(server)?;
            socket.text(packet)?;
            socket.closed().context(packet)?;
        }
        Ok(())
    })
}

/// Reference: a second CONNECT for a namespace one is in closes the connection.
#[test]
fn a_second_connect_closes() -> Result<()> {
    calm(|server| {
        let mut socket = WebSocket::joined(server)?;
        socket.text("40")?;
        socket.closed()?;
        Ok(())
    })
}

/// Reference, `connectTimeout`: who joins no namespace in time is closed, and not before; a refusal is no joining.
#[test]
fn who_joins_nothing_is_closed() -> Result<()> {
    let times = [("--ping-interval", "60000")];
    with(&times, |server| {
        let begun = Instant::now();
        let (mut silent, sid) = WebSocket::session(server, SOCKET)?;
        let mut refused = WebSocket::session(server, SOCKET)?.0;
        refused.text("40/random,")?;
        refused.expect(r#"44/random,{"message":"Invalid namespace"}"#)?;
        let polling = Polling::open(server, SOCKET)?;
        // The engine alone has no namespaces to join.
        let mut engine = WebSocket::session(server, ENGINE)?.0;

        silent.closed()?;
        ensure!(
            begun.elapsed() >= Duration::from_millis(500),
            "{:?}",
            begun.elapsed()
        );
        is_gone(server, SOCKET, &sid)?;
        refused.closed()?;
        let answer = polling.poll()?;
        ensure!(answer.status == 400 || packets(&answer)? == ["1"], "{answer:?}");
        engine.text("4still here")?;
        engine.expect("4still here")
    })
}

/// And who has joined stays.
#[test]
fn who_has_joined_stays() -> Result<()> {
    let times = [("--ping-interval", "60000"), ("--connect-timeout", "2000")];
    with(&times, |server| {
        let mut silent = WebSocket::session(server, SOCKET)?.0;
        let mut socket = WebSocket::joined(server)?;
        silent.closed()?;
        socket.text(r#"421["message-with-ack"]"#)?;
        socket.expect("431[]")
    })
}

/// "Disconnection from a namespace": no answer, and the connection is kept for the others.
#[test]
fn disconnect_from_one_of_two() -> Result<()> {
    calm(|server| {
        for (leave, stay, answer) in [
            ("41/custom,", r#"421["message-with-ack"]"#, "431[]"),
            ("41/custom", r#"421["message-with-ack"]"#, "431[]"),
            ("41", r#"42/custom,1["message-with-ack"]"#, "43/custom,1[]"),
        ] {
            let mut socket = WebSocket::joined(server)?;
            socket.text("40/custom,")?;
            joined(&socket.next_text()?, "40/custom,")?;
            socket.expect(r#"42/custom,["auth",{}]"#)?;
            socket.text(leave)?;
            ensure!(socket.is_silent()?, "an answer to {leave}");
            socket.text(stay)?;
            socket.expect(answer)?;
        }
        Ok(())
    })
}

/// "Disconnection from a namespace": from the last one; the connection stays open (official suite), and a new CONNECT
/// makes a new socket.
#[test]
fn disconnect_and_connect_again() -> Result<()> {
    calm(|server| {
        let mut socket = WebSocket::session(server, SOCKET)?.0;
        let mut sids = std::collections::HashSet::new();
        for _ in 0..3 {
            socket.text("40")?;
            ensure!(sids.insert(joined(&socket.next_text()?, "40")?));
            socket.expect(r#"42["auth",{}]"#)?;
            socket.text("41")?;
        }
        ensure!(socket.is_silent()?);
        Ok(())
    })
}

/// A packet for a namespace that has been left is one for a namespace not joined.
#[test]
fn events_after_disconnect_close() -> Result<()> {
    calm(|server| {
        let mut socket = WebSocket::joined(server)?;
        socket.text("41")?;
        socket.text(r#"42["message"]"#)?;
        socket.closed()?;
        Ok(())
    })
}
