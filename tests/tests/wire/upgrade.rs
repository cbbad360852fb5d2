//! Engine.IO v4, "Upgrade".

use anyhow::{Context, Result, ensure};
use tests::{
    ProtocolSuites,
    wire::{Pending, Seen, WebSocket, host},
};

use crate::engine::{POLLING, get, open_polling, poll, post};

fn websocket_of(session: &str) -> String {
    session.replace("transport=polling", "transport=websocket")
}

fn upgraded(host: &str) -> Result<(String, WebSocket)> {
    let session = open_polling(host, POLLING)?;
    let mut socket = WebSocket::open(host, &websocket_of(&session))?;
    socket.text("2probe")?;
    ensure!(socket.receive()? == Seen::Text("3probe".to_owned()));
    let released = get(host, &session)?;
    ensure!(
        released.status == 200 && released.body == "6",
        "the next poll is released: {released:?}"
    );
    socket.text("5")?;
    Ok((session, socket))
}

#[test]
fn a_session_moves_to_the_websocket() -> Result<()> {
    let server = ProtocolSuites::start()?;
    let (_, mut socket) = upgraded(host(&server.url))?;
    socket.text("4hello")?;
    ensure!(socket.message()? == "4hello");
    // The heartbeat goes on there.
    for _ in 0..2 {
        ensure!(socket.receive()? == Seen::Text("2".to_owned()));
        socket.text("3")?;
    }
    server.stop()
}

#[test]
fn a_waiting_poll_is_released() -> Result<()> {
    let server = ProtocolSuites::start()?;
    let host = host(&server.url);
    let session = open_polling(host, POLLING)?;
    let waiting = Pending::send(host, "GET", &session, "", b"")?;
    let mut socket = WebSocket::open(host, &websocket_of(&session))?;
    socket.text("2probe")?;
    ensure!(socket.receive()? == Seen::Text("3probe".to_owned()));
    let waiting = waiting.answer()?;
    ensure!(waiting.body == "6" || waiting.body == "2", "{waiting:?}");
    server.stop()
}

#[test]
fn what_was_said_during_the_upgrade_arrives_in_order() -> Result<()> {
    let server = ProtocolSuites::start()?;
    let host = host(&server.url);
    let session = open_polling(host, POLLING)?;
    let mut socket = WebSocket::open(host, &websocket_of(&session))?;
    socket.text("2probe")?;
    ensure!(socket.receive()? == Seen::Text("3probe".to_owned()));
    ensure!(post(host, &session, "4one\u{1e}4two")?.status == 200);
    let mut frames = tests::wire::frame(0x81, b"5");
    frames.extend(tests::wire::frame(0x81, b"4three"));
    socket.raw(&frames)?;
    for expected in ["4one", "4two", "4three"] {
        ensure!(socket.message()? == expected);
    }
    server.stop()
}

#[test]
fn requests_after_the_upgrade_are_refused() -> Result<()> {
    let server = ProtocolSuites::start()?;
    let host = host(&server.url);
    let (session, mut socket) = upgraded(host)?;
    socket.text("4x")?;
    ensure!(socket.message()? == "4x");
    for answer in [get(host, &session)?, post(host, &session, "4x")?] {
        ensure!(
            answer.status == 400 && answer.body.contains("\"code\":3"),
            "{answer:?}"
        );
    }
    socket.text("4still here")?;
    ensure!(socket.message()? == "4still here");
    server.stop()
}

#[test]
fn a_second_websocket_is_accepted_and_closed() -> Result<()> {
    let server = ProtocolSuites::start()?;
    let host = host(&server.url);
    let (session, mut socket) = upgraded(host)?;
    let mut second = WebSocket::open(host, &websocket_of(&session))?;
    second.closed()?;
    // So too while another one probes.
    let session = open_polling(host, POLLING)?;
    let mut probing = WebSocket::open(host, &websocket_of(&session))?;
    probing.text("2probe")?;
    ensure!(probing.receive()? == Seen::Text("3probe".to_owned()));
    WebSocket::open(host, &websocket_of(&session))?.closed()?;
    socket.text("4still here")?;
    ensure!(socket.message()? == "4still here");
    server.stop()
}

#[test]
fn a_wrong_probe_ends_the_websocket_and_not_the_session() -> Result<()> {
    let server = ProtocolSuites::start()?;
    let host = host(&server.url);
    for probe in ["2", "2nope", "4hello", "5", "3probe", "x"] {
        let session = open_polling(host, POLLING)?;
        let mut socket = WebSocket::open(host, &websocket_of(&session))?;
        socket.text(probe)?;
        socket.closed().with_context(|| probe.to_owned())?;
        ensure!(post(host, &session, "4hello")?.status == 200, "{probe}");
        ensure!(poll(host, &session)? == "4hello", "{probe}");
    }
    server.stop()
}

#[test]
fn a_probe_that_is_given_up_leaves_polling_as_it_was() -> Result<()> {
    let server = ProtocolSuites::start()?;
    let host = host(&server.url);
    let session = open_polling(host, POLLING)?;
    let mut socket = WebSocket::open(host, &websocket_of(&session))?;
    socket.text("2probe")?;
    ensure!(socket.receive()? == Seen::Text("3probe".to_owned()));
    drop(socket);
    ensure!(post(host, &session, "4hello")?.status == 200);
    let mut seen = poll(host, &session)?;
    while seen == "6" {
        seen = poll(host, &session)?;
    }
    ensure!(seen == "4hello", "{seen}");
    // And another one may try.
    let mut again = WebSocket::open(host, &websocket_of(&session))?;
    again.text("2probe")?;
    ensure!(again.receive()? == Seen::Text("3probe".to_owned()));
    server.stop()
}
