//! Engine.IO v4, "HTTP long-polling", as transport and as encoding.

use anyhow::{Result, ensure};

use crate::client::{ENGINE, HANDSHAKE, Polling, Server, WebSocket, calm, packets};

/// A request that gets no session or is not for the one it names, and the code of the answer.
struct Refused {
    method: &'static str,
    query: &'static str,
    websocket: bool,
    code: u8,
    message: &'static str,
}

const fn refused(method: &'static str, query: &'static str, code: u8, message: &'static str) -> Refused {
    Refused {
        method,
        query,
        websocket: false,
        code,
        message,
    }
}

const fn refused_websocket(query: &'static str, code: u8, message: &'static str) -> Refused {
    Refused {
        websocket: true,
        ..refused("GET", query, code, message)
    }
}

/// `SID` stands for the id of a session on polling, `UPGRADED` for one that has gone over to a WebSocket.
const REFUSED: &[Refused] = &[
    refused("GET", "", 0, "Transport unknown"),
    refused("GET", "EIO=4", 0, "Transport unknown"),
    refused("GET", "EIO=4&transport=", 0, "Transport unknown"),
    refused("GET", "EIO=4&transport=carrier-pigeon", 0, "Transport unknown"),
    refused("GET", "EIO=4&transport=webtransport", 0, "Transport unknown"),
    refused("GET", "EIO=4&transport=constructor", 0, "Transport unknown"),
    refused("POST", "EIO=4", 0, "Transport unknown"),
    refused(
        "GET",
        "EIO=4&transport=polling&sid=nobody",
        1,
        "Session ID unknown",
    ),
    refused(
        "POST",
        "EIO=4&transport=polling&sid=nobody",
        1,
        "Session ID unknown",
    ),
    refused(
        "GET",
        "EIO=4&transport=polling&sid=__proto__",
        1,
        "Session ID unknown",
    ),
    refused("POST", "EIO=4&transport=polling", 2, "Bad handshake method"),
    refused("PUT", "EIO=4&transport=polling", 2, "Bad handshake method"),
    refused("DELETE", "EIO=4&transport=polling", 2, "Bad handshake method"),
    refused("GET", "EIO=4&transport=websocket", 3, "Bad request"),
    refused("GET", "EIO=4&transport=websocket&sid=SID", 3, "Bad request"),
    refused("GET", "EIO=4&transport=polling&sid=UPGRADED", 3, "Bad request"),
    refused("POST", "EIO=4&transport=polling&sid=UPGRADED", 3, "Bad request"),
    refused("GET", "transport=polling", 5, "Unsupported protocol version"),
    refused("GET", "EIO=&transport=polling", 5, "Unsupported protocol version"),
    refused(
        "GET",
        "EIO=abc&transport=polling",
        5,
        "Unsupported protocol version",
    ),
    refused(
        "GET",
        "EIO=5&transport=polling",
        5,
        "Unsupported protocol version",
    ),
    refused(
        "GET",
        "EIO=2&transport=polling",
        5,
        "Unsupported protocol version",
    ),
    refused_websocket("", 0, "Transport unknown"),
    refused_websocket("EIO=4", 0, "Transport unknown"),
    refused_websocket("EIO=4&transport=abc", 0, "Transport unknown"),
    refused_websocket("EIO=4&transport=websocket&sid=nobody", 1, "Session ID unknown"),
    refused_websocket("EIO=4&transport=polling", 3, "Bad request"),
    refused_websocket("transport=websocket", 5, "Unsupported protocol version"),
    refused_websocket("EIO=abc&transport=websocket", 5, "Unsupported protocol version"),
    refused_websocket("EIO=2&transport=websocket", 5, "Unsupported protocol version"),
];

/// "Query parameters" of either transport, "Sending data", "Receiving data": a mandatory one that is missing and an
/// unknown sid are HTTP 400. Codes and messages are the reference's `Server.errors`; a WebSocket handshake gets the
/// message alone, and its connection is closed.
#[test]
fn table_of_refused_requests() -> Result<()> {
    calm(|server| {
        let polling = Polling::open(server, ENGINE)?;
        let upgraded = Polling::open(server, ENGINE)?;
        let mut websocket = upgraded.websocket()?;
        websocket.text("2probe")?;
        websocket.expect("3probe")?;
        websocket.text("5")?;
        websocket.text("4upgraded")?;
        websocket.expect("4upgraded")?;
        for case in REFUSED {
            let query = case.query.replace("SID", &polling.sid);
            let query = query.replace("UPGRADED", &upgraded.sid);
            let name = format!("{} {} (WebSocket: {})", case.method, case.query, case.websocket);
            let target = format!("{ENGINE}?{query}");
            if case.websocket {
                let mut connection = server.connect()?;
                connection.request(case.method, &target, &HANDSHAKE, b"")?;
                let answer = connection.answer()?;
                ensure!(answer.status == 400, "{name}: {answer:?}");
                ensure!(answer.text()? == case.message, "{name}: {answer:?}");
                ensure!(connection.rest()?.is_empty(), "{name}: not closed");
            } else {
                let answer = server.ask(case.method, &target, &[], b"")?;
                let refused = answer.is_refusal(400, case.code, case.message);
                refused.map_err(|error| error.context(name))?;
            }
        }
        polling.send(b"4none of that was about this session")?;
        ensure!(polling.packets()? == ["4none of that was about this session"]);
        websocket.text("4nor this")?;
        websocket.expect("4nor this")
    })
}

/// "Request path". Without the trailing slash there is nothing, as in the reference.
#[test]
fn request_path() -> Result<()> {
    calm(|server| {
        for (path, status) in [
            ("/engine.io/", 200),
            ("/socket.io/", 200),
            ("/engine.io", 404),
            ("/engine.io/more", 404),
            ("/elsewhere/", 404),
            ("/", 404),
        ] {
            let answer = server.ask("GET", &format!("{path}?EIO=4&transport=polling"), &[], b"")?;
            ensure!(answer.status == status, "{path}: {answer:?}");
        }
        Ok(())
    })
}

/// "Query parameters": their order is free, others (the cache-busting `t`) are ignored.
#[test]
fn query_parameters_are_found_among_others() -> Result<()> {
    calm(|server| {
        for query in [
            "transport=polling&EIO=4",
            "t=N8hyd6w&EIO=4&transport=polling",
            "EIO=4&transport=polling&t=N8hyd6w&b64=1&x",
            "EIO=4&transport=polling&sid=",
        ] {
            let answer = server.ask("GET", &format!("{ENGINE}?{query}"), &[], b"")?;
            ensure!(answer.status == 200, "{query}: {answer:?}");
        }
        Ok(())
    })
}

/// "Headers": what the server sends is text and says so; it must not be cached (reference).
#[test]
fn answers_are_text_and_not_cached() -> Result<()> {
    calm(|server| {
        let polling = Polling::open(server, ENGINE)?;
        polling.send(b"4hello")?;
        let answer = polling.poll()?;
        ensure!(answer.header("content-type") == Some("text/plain; charset=UTF-8"));
        ensure!(answer.header("cache-control") == Some("no-store"));
        ensure!(answer.header("content-length") == Some("6"));
        Ok(())
    })
}

/// "Headers": without a content type, a body is text; so is one of any other type but `application/octet-stream`,
/// which nothing in v4 sends any more and the reference refuses.
#[test]
fn bodies_are_text() -> Result<()> {
    calm(|server| {
        let polling = Polling::open(server, ENGINE)?;
        for headers in [
            &[][..],
            &[("content-type", "text/plain")],
            &[("content-type", "text/plain;charset=UTF-8")],
            &[("content-type", "application/x-www-form-urlencoded")],
        ] {
            let answer = polling.post(headers, "4h\u{e9}llo".as_bytes())?;
            ensure!(answer.status == 200, "{headers:?}: {answer:?}");
            ensure!(polling.packets()? == ["4h\u{e9}llo"], "{headers:?}");
        }
        let answer = polling.post(&[("content-type", "application/octet-stream")], b"4hello")?;
        answer.is_refusal(400, 3, "Bad request")?;
        polling.is_gone()
    })
}

/// "Sending data": success is 200 and `ok`. It is sent as HTML, as the reference does: some browsers would save text.
#[test]
fn posts_are_answered_ok() -> Result<()> {
    calm(|server| {
        let polling = Polling::open(server, ENGINE)?;
        let answer = polling.post(&[], b"4hello")?;
        ensure!(answer.status == 200 && answer.text()? == "ok", "{answer:?}");
        ensure!(answer.header("content-type") == Some("text/html"));
        Ok(())
    })
}

/// "Sending data": a second POST while one is active is HTTP 400, and the session is closed.
#[test]
fn concurrent_posts_close_the_session() -> Result<()> {
    calm(|server| {
        let polling = Polling::open(server, ENGINE)?;
        let mut first = polling.begin_post(b"4hel", 6)?;
        ensure!(first.is_silent()?, "an answer to half a request");
        polling.post(&[], b"4hello")?.is_refusal(400, 3, "Bad request")?;
        polling.is_gone()?;
        // Whatever the first is told, it is told or cut off.
        first.write(b"lo")?;
        drop(first.answer());
        server.is_healthy()
    })
}

/// "Sending data", "Receiving data": one GET and one POST at a time are no overlap, and a connection may be used for
/// request after request.
#[test]
fn requests_follow_each_other_on_one_connection() -> Result<()> {
    calm(|server| {
        let polling = Polling::open(server, ENGINE)?;
        let mut poll = server.connect()?;
        let mut post = server.connect()?;
        for round in 0..20 {
            let body = format!("4{round}");
            poll.request("GET", &polling.target("polling"), &[], b"")?;
            post.request("POST", &polling.target("polling"), &[], body.as_bytes())?;
            ensure!(post.answer()?.text()? == "ok");
            ensure!(packets(&poll.answer()?)? == [body]);
        }
        Ok(())
    })
}

/// "Receiving data": a GET is held while there is nothing for it.
#[test]
fn a_poll_waits_for_packets() -> Result<()> {
    calm(|server| {
        let polling = Polling::open(server, ENGINE)?;
        let mut poll = polling.begin_poll()?;
        ensure!(poll.is_silent()?, "an answer with nothing to say");
        polling.send(b"4hello")?;
        ensure!(packets(&poll.answer()?)? == ["4hello"]);
        Ok(())
    })
}

/// "Receiving data": a second GET while one is active is HTTP 400, and the session is closed. The one that waits is
/// told so with a close packet (reference).
#[test]
fn concurrent_polls_close_the_session() -> Result<()> {
    calm(|server| {
        let polling = Polling::open(server, ENGINE)?;
        let mut first = polling.begin_poll()?;
        ensure!(first.is_silent()?, "an answer with nothing to say");
        polling.poll()?.is_refusal(400, 3, "Bad request")?;
        ensure!(packets(&first.answer()?)? == ["1"]);
        polling.is_gone()?;
        server.is_healthy()
    })
}

/// "Receiving data": who hangs up while a GET waits is gone; what would be sent next were lost (reference: "poll
/// connection closed prematurely").
#[test]
fn a_cancelled_poll_closes_the_session() -> Result<()> {
    calm(|server| {
        let polling = Polling::open(server, ENGINE)?;
        let mut poll = polling.begin_poll()?;
        ensure!(poll.is_silent()?, "an answer with nothing to say");
        drop(poll);
        eventually_gone(server, &polling)
    })
}

/// The same of a POST ("data request connection closed prematurely").
#[test]
fn a_cancelled_post_closes_the_session() -> Result<()> {
    calm(|server| {
        let polling = Polling::open(server, ENGINE)?;
        let mut post = polling.begin_post(b"4hel", 6)?;
        ensure!(post.is_silent()?, "an answer to half a request");
        drop(post);
        eventually_gone(server, &polling)
    })
}

/// A POST does not wait, so that it can be asked again until the server has noticed.
fn eventually_gone(server: &Server, polling: &Polling<'_>) -> Result<()> {
    let until = std::time::Instant::now() + std::time::Duration::from_secs(30);
    while polling.post(&[], b"6")?.status == 200 {
        ensure!(std::time::Instant::now() < until, "the session is still there");
    }
    server.is_healthy()
}

/// Requests of other methods have no meaning in a session; it goes on.
#[test]
fn other_methods_are_refused() -> Result<()> {
    calm(|server| {
        let polling = Polling::open(server, ENGINE)?;
        for method in ["PUT", "DELETE", "PATCH"] {
            let answer = server.ask(method, &polling.target("polling"), &[], b"")?;
            ensure!((400..=500).contains(&answer.status), "{method}: {answer:?}");
        }
        polling.send(b"4hello")?;
        ensure!(polling.packets()? == ["4hello"]);
        Ok(())
    })
}

/// "Packet encoding: HTTP long-polling": packets are separated by 0x1e, in requests and in answers.
#[test]
fn several_packets_make_one_payload() -> Result<()> {
    calm(|server| {
        let polling = Polling::open(server, ENGINE)?;
        polling.send("4hello\u{1e}4\u{20ac}\u{1e}4\u{1f37a}\u{1e}4".as_bytes())?;
        let all = polling.packets_of(4)?;
        ensure!(all == ["4hello", "4\u{20ac}", "4\u{1f37a}", "4"], "{all:?}");

        // Those of two requests come with one answer, in order.
        polling.send(b"4first")?;
        polling.send(b"4second\x1e4third")?;
        let all = polling.packets_of(3)?;
        ensure!(all == ["4first", "4second", "4third"], "{all:?}");
        Ok(())
    })
}

/// The example of "Packet encoding: HTTP long-polling", with the pong of a client for the ping of a server.
#[test]
fn messages_and_heartbeat_share_a_payload() -> Result<()> {
    calm(|server| {
        let polling = Polling::open(server, ENGINE)?;
        polling.send(b"4hello\x1e3\x1e4world")?;
        let all = polling.packets_of(2)?;
        ensure!(all == ["4hello", "4world"], "{all:?}");
        Ok(())
    })
}

/// "Packet encoding: HTTP long-polling": binary is `b` and base64, among text, both ways.
#[test]
fn binary_is_base64() -> Result<()> {
    calm(|server| {
        let polling = Polling::open(server, ENGINE)?;
        polling.send(b"4hello\x1ebAQIDBA==")?;
        let all = polling.packets_of(2)?;
        ensure!(all == ["4hello", "bAQIDBA=="], "{all:?}");

        // One to three bytes, so every padding, and the two characters that differ between alphabets.
        polling.send(b"bAQ==\x1ebAQI=\x1ebAQID\x1eb\x1eb+/++")?;
        let all = polling.packets_of(5)?;
        ensure!(all == ["bAQ==", "bAQI=", "bAQID", "b", "b+/++"], "{all:?}");
        Ok(())
    })
}

/// "Handshake", `maxPayload`: a body as long as that is taken, a longer one is HTTP 413 (reference), whether its
/// length was announced or not.
#[test]
fn bodies_have_a_greatest_length() -> Result<()> {
    calm(|server| {
        let polling = Polling::open(server, ENGINE)?;
        let mut body = vec![b'x'; 1_000_000];
        body[0] = b'4';
        polling.send(&body)?;
        let answer = polling.poll()?;
        ensure!(answer.text()?.as_bytes() == body);

        body.push(b'x');
        let answer = polling.post(&[], &body)?;
        ensure!(answer.status == 413, "{}", answer.status);

        let polling = Polling::open(server, ENGINE)?;
        let mut connection = server.connect()?;
        let head = crate::client::head("POST", &polling.target("polling"), &[]);
        connection.write(format!("{head}transfer-encoding: chunked\r\n\r\nf4241\r\n").as_bytes())?;
        connection.write(&body)?;
        ensure!(connection.answer()?.status == 413);
        server.is_healthy()
    })
}

/// A sid is known to one path only.
#[test]
fn paths_do_not_share_sessions() -> Result<()> {
    calm(|server| {
        let polling = Polling::open(server, ENGINE)?;
        crate::client::is_gone(server, "/socket.io/", &polling.sid)?;
        let (_websocket, sid) = WebSocket::session(server, ENGINE)?;
        crate::client::is_gone(server, "/socket.io/", &sid)
    })
}
