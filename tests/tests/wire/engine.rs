//! Engine.IO v4: handshake, payloads, heartbeat, close.

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tests::{
    ProtocolSuites,
    wire::{Answer, Pending, Seen, WebSocket, host, request},
};

pub(crate) const POLLING: &str = "/engine.io/?EIO=4&transport=polling";
pub(crate) const WEBSOCKET: &str = "/engine.io/?EIO=4&transport=websocket";

pub(crate) fn open_polling(host: &str, path: &str) -> Result<String> {
    let answer = request(host, "GET", path, "", b"")?;
    let open: Value = serde_json::from_str(answer.body.strip_prefix('0').context("no open packet")?)?;
    Ok(format!("{path}&sid={}", open["sid"].as_str().context("no sid")?))
}

pub(crate) fn get(host: &str, session: &str) -> Result<Answer> {
    request(host, "GET", session, "", b"")
}

pub(crate) fn post(host: &str, session: &str, body: &str) -> Result<Answer> {
    request(
        host,
        "POST",
        session,
        "content-type: text/plain;charset=UTF-8\r\n",
        body.as_bytes(),
    )
}

/// Polls until something other than a ping comes; pings are answered.
pub(crate) fn poll(host: &str, session: &str) -> Result<String> {
    loop {
        let answer = get(host, session)?;
        ensure!(answer.status == 200, "{answer:?}");
        if answer.body != "2" {
            return Ok(answer.body);
        }
        post(host, session, "3")?;
    }
}

fn check_open(text: &str, upgrades: &[&str]) -> Result<()> {
    let open: Value = serde_json::from_str(text.strip_prefix('0').context("no open packet")?)?;
    let open = open.as_object().context("no object")?;
    let keys: Vec<_> = open.keys().map(String::as_str).collect();
    ensure!(keys.len() == 5, "{keys:?}");
    let sid = open["sid"].as_str().context("sid is no text")?;
    ensure!(
        sid.len() == 20
            && sid
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte)),
        "{sid}"
    );
    ensure!(open["upgrades"] == serde_json::json!(upgrades));
    ensure!(open["pingInterval"] == 300 && open["pingTimeout"] == 200 && open["maxPayload"] == 1_000_000);
    Ok(())
}

#[test]
fn handshake_by_polling() -> Result<()> {
    let server = ProtocolSuites::start()?;
    let answer = request(host(&server.url), "GET", POLLING, "", b"")?;
    ensure!(answer.status == 200);
    ensure!(
        answer.header("content-type") == Some("text/plain; charset=UTF-8"),
        "{answer:?}"
    );
    ensure!(answer.header("cache-control") == Some("no-store"), "{answer:?}");
    check_open(&answer.body, &["websocket"])?;
    server.stop()
}

#[test]
fn handshake_by_websocket() -> Result<()> {
    let server = ProtocolSuites::start()?;
    check_open(&WebSocket::open(host(&server.url), WEBSOCKET)?.message()?, &[])?;
    server.stop()
}

#[test]
fn handshakes_that_are_refused() -> Result<()> {
    let server = ProtocolSuites::start()?;
    let host = host(&server.url);
    for (method, query, status, code) in [
        ("GET", "", 400, 0),
        ("GET", "?EIO=4", 400, 0),
        ("GET", "?EIO=4&transport=pigeon", 400, 0),
        ("GET", "?EIO=4&transport=polling&sid=AAAAAAAAAAAAAAAAAAAA", 400, 1),
        ("POST", "?EIO=4&transport=polling&sid=..%2f..%2fetc", 400, 1),
        ("POST", "?EIO=4&transport=polling", 400, 2),
        ("PUT", "?EIO=4&transport=polling", 400, 2),
        ("GET", "?EIO=4&transport=websocket", 400, 3),
        ("GET", "?transport=polling", 400, 5),
        ("GET", "?EIO=abc&transport=polling", 400, 5),
        ("GET", "?EIO=3&transport=polling", 400, 5),
        ("GET", "?EIO=5&transport=polling", 400, 5),
        ("GET", "?EIO=44&transport=polling", 400, 5),
    ] {
        let answer = request(host, method, &format!("/engine.io/{query}"), "", b"")?;
        let error: Value =
            serde_json::from_str(&answer.body).with_context(|| format!("{query}: {answer:?}"))?;
        ensure!(
            answer.status == status && error["code"] == code,
            "{method} {query}: {answer:?}"
        );
        ensure!(
            answer.header("content-type") == Some("application/json"),
            "{answer:?}"
        );
        ensure!(error["message"].is_string());
    }
    for (query, text) in [
        ("?EIO=4&transport=pigeon", "Transport unknown"),
        (
            "?EIO=4&transport=websocket&sid=AAAAAAAAAAAAAAAAAAAA",
            "Session ID unknown",
        ),
        ("?EIO=4&transport=polling", "Bad request"),
        ("?EIO=abc&transport=websocket", "Unsupported protocol version"),
    ] {
        let Err(answer) = WebSocket::try_open(host, &format!("/engine.io/{query}"), "")? else {
            anyhow::bail!("{query} was accepted");
        };
        ensure!(answer.status == 400 && answer.body == text, "{query}: {answer:?}");
    }
    ensure!(request(host, "GET", "/engine.io", "", b"")?.status == 404);
    server.stop()
}

#[test]
fn cross_origin_requests() -> Result<()> {
    let server = ProtocolSuites::start()?;
    let host = host(&server.url);
    let origin = "origin: https://app.example\r\n";
    let preflight = request(
        host,
        "OPTIONS",
        POLLING,
        &format!(
            "{origin}access-control-request-method: POST\r\naccess-control-request-headers: content-type\r\n"
        ),
        b"",
    )?;
    ensure!(preflight.status == 204, "{preflight:?}");
    ensure!(
        preflight.header("access-control-allow-origin") == Some("*"),
        "{preflight:?}"
    );
    ensure!(
        preflight
            .header("access-control-allow-methods")
            .is_some_and(|methods| methods.contains("POST"))
    );
    ensure!(preflight.header("access-control-allow-headers") == Some("content-type"));
    let answer = request(host, "GET", POLLING, origin, b"")?;
    ensure!(
        answer.header("access-control-allow-origin") == Some("*"),
        "{answer:?}"
    );
    ensure!(
        answer.header("access-control-allow-credentials").is_none(),
        "any origin, so without credentials"
    );
    server.stop()
}

#[test]
fn payloads_of_every_kind_come_back() -> Result<()> {
    let server = ProtocolSuites::start()?;
    let host = host(&server.url);
    let session = open_polling(host, POLLING)?;
    for (sent, back) in [
        ("4hello", "4hello"),
        ("4", "4"),
        ("4h\u{e9}llo \u{1f3ba}", "4h\u{e9}llo \u{1f3ba}"),
        ("4a\u{1e}4b\u{1e}4c", "4a\u{1e}4b\u{1e}4c"),
        ("bAQIDBA==", "bAQIDBA=="),
        ("4a\u{1e}bAQIDBA==\u{1e}4c", "4a\u{1e}bAQIDBA==\u{1e}4c"),
    ] {
        let answer = post(host, &session, sent)?;
        ensure!(answer.status == 200 && answer.body == "ok", "{answer:?}");
        ensure!(answer.header("content-type") == Some("text/html"));
        let mut seen = poll(host, &session)?;
        while seen.len() < back.len() {
            seen = format!("{seen}\u{1e}{}", poll(host, &session)?);
        }
        ensure!(seen == back, "{sent:?} came back as {seen:?}");
    }
    server.stop()
}

#[test]
fn frames_of_every_kind_come_back() -> Result<()> {
    let server = ProtocolSuites::start()?;
    let mut socket = WebSocket::open(host(&server.url), WEBSOCKET)?;
    socket.message()?;
    for length in [0, 1, 124, 125, 126, 65_534, 65_535, 65_536, 200_000] {
        let text = format!("4{}", "x".repeat(length));
        socket.text(&text)?;
        ensure!(socket.message()? == text, "{length}");
    }
    socket.binary(&[1, 2, 3, 4])?;
    loop {
        match socket.receive()? {
            Seen::Binary(data) => {
                ensure!(data == [1, 2, 3, 4]);
                break;
            }
            Seen::Text(text) if text == "2" => socket.text("3")?,
            other => anyhow::bail!("{other:?}"),
        }
    }
    // A message in fragments, a ping between them (RFC 6455 section 5.4).
    socket.raw(&tests::wire::frame(0x01, b"4fra"))?;
    socket.raw(&tests::wire::frame(0x89, b"hi"))?;
    socket.raw(&tests::wire::frame(0x80, b"gments"))?;
    let mut seen = Vec::new();
    while seen.len() < 2 {
        match socket.receive()? {
            Seen::Text(text) if text == "2" => socket.text("3")?,
            other => seen.push(other),
        }
    }
    ensure!(
        seen == [Seen::Pong(b"hi".to_vec()), Seen::Text("4fragments".to_owned())],
        "{seen:?}"
    );
    server.stop()
}

#[test]
fn a_second_get_ends_the_session() -> Result<()> {
    let server = ProtocolSuites::start()?;
    let host = host(&server.url);
    let session = open_polling(host, POLLING)?;
    let first = Pending::send(host, "GET", &session, "", b"")?;
    // Polled until the first one surely waits: two at once are two at once, whichever came first.
    let second = get(host, &session)?;
    let first = first.answer()?;
    let mut statuses = [(first.status, first.body), (second.status, second.body)];
    statuses.sort();
    ensure!(
        statuses[0] == (200, "1".to_owned()) && statuses[1].0 == 400,
        "{statuses:?}"
    );
    ensure!(get(host, &session)?.status == 400);
    server.stop()
}

#[test]
fn a_second_post_ends_the_session() -> Result<()> {
    let server = ProtocolSuites::start()?;
    let host = host(&server.url);
    let session = open_polling(host, POLLING)?;
    let half = Pending::half_post(host, &session)?;
    let mut refused = false;
    // The half one may be read a moment later than the next.
    for _ in 0..10 {
        refused |= post(host, &session, "4x")?.status == 400;
    }
    ensure!(refused);
    drop(half);
    ensure!(get(host, &session)?.status == 400);
    server.stop()
}

#[test]
fn a_get_that_is_cancelled_ends_the_session() -> Result<()> {
    let server = ProtocolSuites::start()?;
    let host = host(&server.url);
    let session = open_polling(host, POLLING)?;
    drop(Pending::send(host, "GET", &session, "", b"")?);
    let until = std::time::Instant::now() + tests::wire::PATIENCE;
    loop {
        let answer = Pending::send(host, "GET", &session, "", b"")?.answer()?;
        if answer.status == 400 {
            break;
        }
        ensure!(
            std::time::Instant::now() < until,
            "the session goes on: {answer:?}"
        );
    }
    server.stop()
}

#[test]
fn bodies_that_are_refused() -> Result<()> {
    let server = ProtocolSuites::start()?;
    let host = host(&server.url);
    let session = open_polling(host, POLLING)?;
    let large = "4".to_owned() + &"x".repeat(1_000_000);
    ensure!(post(host, &session, &large)?.status == 413);
    for body in ["", "abc", "9", "4a\u{1e}", "\u{1e}", "bnot base64", "4a\u{1e}x"] {
        let session = open_polling(host, POLLING)?;
        ensure!(post(host, &session, body)?.status == 400, "{body:?}");
        ensure!(
            get(host, &session)?.status == 400,
            "{body:?}: the session goes on"
        );
    }
    let session = open_polling(host, POLLING)?;
    let octets = request(
        host,
        "POST",
        &session,
        "content-type: application/octet-stream\r\n",
        b"4x",
    )?;
    ensure!(octets.status == 400 && get(host, &session)?.status == 400);
    let session = open_polling(host, POLLING)?;
    ensure!(request(host, "POST", &session, "", b"4\xff\xfe")?.status == 400);
    server.stop()
}

#[test]
fn heartbeat_keeps_a_session_that_answers() -> Result<()> {
    let server = ProtocolSuites::start()?;
    let host = host(&server.url);
    let mut socket = WebSocket::open(host, WEBSOCKET)?;
    socket.message()?;
    for _ in 0..4 {
        ensure!(socket.receive()? == Seen::Text("2".to_owned()));
        socket.text("3")?;
    }
    socket.text("4still here")?;
    ensure!(socket.message()? == "4still here");
    let session = open_polling(host, POLLING)?;
    for _ in 0..3 {
        ensure!(get(host, &session)?.body == "2");
        ensure!(post(host, &session, "3")?.status == 200);
    }
    server.stop()
}

#[test]
fn heartbeat_ends_a_session_that_does_not_answer() -> Result<()> {
    let server = ProtocolSuites::start()?;
    let host = host(&server.url);
    let begun = std::time::Instant::now();
    let mut socket = WebSocket::open(host, WEBSOCKET)?;
    socket.message()?;
    ensure!(socket.receive()? == Seen::Text("2".to_owned()));
    while !matches!(socket.receive()?, Seen::End) {}
    ensure!(begun.elapsed().as_millis() >= 450, "ended before its time");
    let session = open_polling(host, POLLING)?;
    ensure!(get(host, &session)?.body == "2");
    let last = get(host, &session)?;
    ensure!(last.body == "1" || last.status == 400, "{last:?}");
    ensure!(get(host, &session)?.status == 400);
    server.stop()
}

#[test]
fn a_ping_in_the_wrong_direction_ends_the_session() -> Result<()> {
    let server = ProtocolSuites::start()?;
    let host = host(&server.url);
    let mut socket = WebSocket::open(host, WEBSOCKET)?;
    socket.message()?;
    socket.text("2")?;
    socket.closed()?;
    let session = open_polling(host, POLLING)?;
    post(host, &session, "2")?;
    ensure!(get(host, &session)?.status == 400);
    server.stop()
}

#[test]
fn a_client_that_closes() -> Result<()> {
    let server = ProtocolSuites::start()?;
    let host = host(&server.url);
    let session = open_polling(host, POLLING)?;
    let waiting = Pending::send(host, "GET", &session, "", b"")?;
    ensure!(post(host, &session, "1")?.status == 200);
    let waiting = waiting.answer()?;
    ensure!(waiting.status == 200 && waiting.body == "6", "{waiting:?}");
    ensure!(get(host, &session)?.status == 400);

    let mut socket = WebSocket::open(host, WEBSOCKET)?;
    socket.message()?;
    socket.text("1")?;
    socket.closed()?;
    // By a close frame (RFC 6455 section 5.5.1): it is answered with the same code.
    let mut socket = WebSocket::open(host, WEBSOCKET)?;
    socket.message()?;
    socket.raw(&tests::wire::frame(0x88, &1001u16.to_be_bytes()))?;
    ensure!(socket.closed()? == Some(1001));
    server.stop()
}
