//! Socket.IO v5: namespaces, events, acknowledgements, binary.

use anyhow::{Result, ensure};
use tests::{
    ProtocolSuites,
    wire::{Seen, WebSocket, host},
};

use crate::engine::{open_polling, poll, post};

const WEBSOCKET: &str = "/socket.io/?EIO=4&transport=websocket";
const POLLING: &str = "/socket.io/?EIO=4&transport=polling";

pub(crate) fn open(host: &str) -> Result<WebSocket> {
    let mut socket = WebSocket::open(host, WEBSOCKET)?;
    ensure!(socket.message()?.starts_with('0'));
    Ok(socket)
}

pub(crate) fn connected(host: &str) -> Result<WebSocket> {
    let mut socket = open(host)?;
    socket.text("40")?;
    ensure!(is_connect(&socket.message()?, "40{"));
    ensure!(socket.message()? == "42[\"auth\",{}]");
    Ok(socket)
}

/// Exactly `{sid}`, and no engine id.
fn is_connect(text: &str, prefix: &str) -> bool {
    let sid = text
        .strip_prefix(prefix)
        .and_then(|rest| rest.strip_prefix("\"sid\":\"")?.strip_suffix("\"}"));
    sid.is_some_and(|sid| sid.len() == 20)
}

/// The next frame that is no heartbeat.
fn next(socket: &mut WebSocket) -> Result<Seen> {
    loop {
        match socket.receive()? {
            Seen::Text(text) if text == "2" => socket.text("3")?,
            other => return Ok(other),
        }
    }
}

#[test]
fn connecting_to_namespaces() -> Result<()> {
    let server = ProtocolSuites::start()?;
    let host = host(&server.url);
    for (packet, prefix, auth) in [
        ("40", "40{", "42[\"auth\",{}]"),
        ("40{\"token\":\"123\"}", "40{", "42[\"auth\",{\"token\":\"123\"}]"),
        ("40/custom,", "40/custom,{", "42/custom,[\"auth\",{}]"),
        ("40/custom", "40/custom,{", "42/custom,[\"auth\",{}]"),
        (
            "40/custom,{\"token\":\"abc\"}",
            "40/custom,{",
            "42/custom,[\"auth\",{\"token\":\"abc\"}]",
        ),
    ] {
        let mut socket = open(host)?;
        socket.text(packet)?;
        let answer = socket.message()?;
        ensure!(is_connect(&answer, prefix), "{packet}: {answer}");
        ensure!(socket.message()? == auth, "{packet}");
    }
    let mut socket = open(host)?;
    for _ in 0..2 {
        socket.text("40/random")?;
        ensure!(socket.message()? == "44/random,{\"message\":\"Invalid namespace\"}");
    }
    socket.text("40")?;
    ensure!(
        is_connect(&socket.message()?, "40{"),
        "a refusal leaves the connection as it was"
    );
    server.stop()
}

#[test]
fn namespaces_share_a_connection() -> Result<()> {
    let server = ProtocolSuites::start()?;
    let mut socket = connected(host(&server.url))?;
    socket.text("40/custom,")?;
    ensure!(is_connect(&socket.message()?, "40/custom,{"));
    socket.message()?;
    socket.text("42[\"message\",1]")?;
    ensure!(socket.message()? == "42[\"message-back\",1]");
    socket.text("41/custom,")?;
    socket.text("42[\"message\",2]")?;
    ensure!(
        socket.message()? == "42[\"message-back\",2]",
        "the others stay when one is left"
    );
    socket.text("40/custom,")?;
    ensure!(
        is_connect(&socket.message()?, "40/custom,{"),
        "and it can be joined again"
    );
    server.stop()
}

#[test]
fn leaving_the_last_namespace_keeps_the_engine() -> Result<()> {
    let server = ProtocolSuites::start()?;
    let mut socket = connected(host(&server.url))?;
    socket.text("41")?;
    ensure!(socket.receive()? == Seen::Text("2".to_owned()));
    server.stop()
}

#[test]
fn who_joins_nothing_is_closed() -> Result<()> {
    let server = ProtocolSuites::start()?;
    let mut socket = open(host(&server.url))?;
    socket.closed()?;
    server.stop()
}

#[test]
fn events_and_acknowledgements() -> Result<()> {
    let server = ProtocolSuites::start()?;
    let mut socket = connected(host(&server.url))?;
    for (sent, back) in [
        (
            r#"42["message",1,"2",{"3":[true]}]"#,
            r#"42["message-back",1,"2",{"3":[true]}]"#,
        ),
        (r#"42["message"]"#, r#"42["message-back"]"#),
        (r#"42["message","h\u00e9"]"#, r#"42["message-back","h\u00e9"]"#),
        (r#"42456["message-with-ack",1,"2"]"#, r#"43456[1,"2"]"#),
        (r#"420["message-with-ack"]"#, "430[]"),
        // A number may name an event; nobody handles this one.
        (r#"42[7]"#, ""),
        // An acknowledgement that nobody waits for.
        (r#"4399["x"]"#, ""),
    ] {
        socket.text(sent)?;
        if !back.is_empty() {
            ensure!(socket.message()? == back, "{sent}");
        }
    }
    for number in 0..200 {
        socket.text(&format!("42[\"message\",{number}]"))?;
    }
    for number in 0..200 {
        ensure!(
            socket.message()? == format!("42[\"message-back\",{number}]"),
            "in the order they were sent"
        );
    }
    server.stop()
}

#[test]
fn binary_events_and_acknowledgements() -> Result<()> {
    let server = ProtocolSuites::start()?;
    let mut socket = connected(host(&server.url))?;
    socket.text(r#"452-["message",{"_placeholder":true,"num":0},{"_placeholder":true,"num":1}]"#)?;
    socket.binary(&[1, 2, 3])?;
    socket.binary(&[4, 5, 6])?;
    let header = r#"452-["message-back",{"_placeholder":true,"num":0},{"_placeholder":true,"num":1}]"#;
    ensure!(next(&mut socket)? == Seen::Text(header.to_owned()));
    ensure!(next(&mut socket)? == Seen::Binary(vec![1, 2, 3]));
    ensure!(next(&mut socket)? == Seen::Binary(vec![4, 5, 6]));
    socket.text(r#"451-789["message-with-ack",{"_placeholder":true,"num":0}]"#)?;
    socket.binary(&[])?;
    ensure!(next(&mut socket)? == Seen::Text(r#"461-789[{"_placeholder":true,"num":0}]"#.to_owned()));
    ensure!(next(&mut socket)? == Seen::Binary(Vec::new()));
    server.stop()
}

#[test]
fn the_same_by_polling() -> Result<()> {
    let server = ProtocolSuites::start()?;
    let host = host(&server.url);
    let session = open_polling(host, POLLING)?;
    post(host, &session, "40")?;
    let mut seen = poll(host, &session)?;
    if !seen.contains("auth") {
        seen = format!("{seen}\u{1e}{}", poll(host, &session)?);
    }
    ensure!(
        seen.starts_with("40{\"sid\":") && seen.ends_with("42[\"auth\",{}]"),
        "{seen}"
    );
    post(
        host,
        &session,
        "42[\"message\",\"\u{1f3ba}\"]\u{1e}421[\"message-with-ack\"]",
    )?;
    let mut seen = poll(host, &session)?;
    if !seen.contains("431") {
        seen = format!("{seen}\u{1e}{}", poll(host, &session)?);
    }
    ensure!(seen == "42[\"message-back\",\"\u{1f3ba}\"]\u{1e}431[]", "{seen}");
    post(
        host,
        &session,
        "451-[\"message\",{\"_placeholder\":true,\"num\":0}]\u{1e}bAQID",
    )?;
    ensure!(poll(host, &session)? == "451-[\"message-back\",{\"_placeholder\":true,\"num\":0}]\u{1e}bAQID");
    server.stop()
}
