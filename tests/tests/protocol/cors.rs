//! Which pages may connect: `CORS_ORIGIN`, and the headers of the package `cors` that the reference uses.

use anyhow::{Result, ensure};
use tests::Standalone;

use crate::client::{HANDSHAKE, SOCKET, Server, calm, opened};

const OPEN: &str = "/socket.io/?EIO=4&transport=polling";
const OPEN_WEBSOCKET: &str = "/socket.io/?EIO=4&transport=websocket";

/// Runs a test against a server that takes these origins.
fn with_origins(origins: &str, run: impl FnOnce(&Server) -> Result<()>) -> Result<()> {
    let process = Standalone::start(&[("CORS_ORIGIN", origins)])?;
    if let Err(error) = run(&Server::at(&process.url)?) {
        return Err(error.context(format!("the server wrote:\n{}", process.output())));
    }
    process.stop()
}

/// Any origin: all of them are told so, and none may send credentials.
#[test]
fn any_origin() -> Result<()> {
    calm(|server| {
        let answer = server.ask("GET", OPEN, &[("origin", "https://any.example")], b"")?;
        ensure!(answer.status == 200, "{answer:?}");
        ensure!(answer.header("access-control-allow-origin") == Some("*"));
        ensure!(answer.header("access-control-allow-credentials").is_none());

        let answer = server.ask("GET", OPEN, &[], b"")?;
        ensure!(answer.header("access-control-allow-origin").is_none() || answer.status == 200);

        // Errors too, or the page could not read what was wrong.
        let headers = [("origin", "https://any.example")];
        let answer = server.ask("GET", "/engine.io/?EIO=4", &headers, b"")?;
        answer.is_refusal(400, 0, "Transport unknown")?;
        ensure!(answer.header("access-control-allow-origin") == Some("*"));
        Ok(())
    })
}

/// A preflight is answered without looking at the query: 204, the methods, and the headers it asks for.
#[test]
fn preflight() -> Result<()> {
    calm(|server| {
        for target in [OPEN, SOCKET, "/engine.io/?EIO=4&transport=polling&sid=nobody"] {
            let headers = [
                ("origin", "https://any.example"),
                ("access-control-request-method", "POST"),
                ("access-control-request-headers", "content-type,x-token"),
            ];
            let answer = server.ask("OPTIONS", target, &headers, b"")?;
            ensure!(answer.status == 204, "{target}: {answer:?}");
            ensure!(answer.header("access-control-allow-origin") == Some("*"));
            ensure!(answer.header("access-control-allow-headers") == Some("content-type,x-token"));
            let methods = answer.header("access-control-allow-methods").unwrap_or_default();
            ensure!(methods.contains("GET") && methods.contains("POST"), "{answer:?}");
        }
        Ok(())
    })
}

/// Listed origins are echoed and may send credentials; what is cached is cached for one origin.
#[test]
fn listed_origins() -> Result<()> {
    with_origins("https://app.example,https://admin.example:8443", |server| {
        for origin in ["https://app.example", "https://admin.example:8443"] {
            let headers = [("origin", origin)];
            let answer = server.ask("GET", OPEN, &headers, b"")?;
            ensure!(answer.status == 200, "{answer:?}");
            ensure!(answer.header("access-control-allow-origin") == Some(origin));
            ensure!(answer.header("access-control-allow-credentials") == Some("true"));
            let vary = answer.header("vary").unwrap_or_default();
            ensure!(vary.to_ascii_lowercase().contains("origin"), "{answer:?}");

            let answer = server.ask("OPTIONS", OPEN, &headers, b"")?;
            ensure!(answer.status == 204);
            ensure!(answer.header("access-control-allow-origin") == Some(origin));

            let headers = [&HANDSHAKE[..], &[("origin", origin)]].concat();
            let answer = server.ask("GET", OPEN_WEBSOCKET, &headers, b"")?;
            ensure!(answer.status == 101, "{answer:?}");
        }
        Ok(())
    })
}

/// A handshake from another origin: 403 with code 4; a WebSocket's is 400 with the message (reference). No header lets
/// the page read the answer.
#[test]
fn other_origins() -> Result<()> {
    with_origins("https://app.example", |server| {
        for origin in [
            "https://evil.example",
            "http://app.example",
            "https://app.example:444",
            "https://app.example.evil.example",
            "https://sub.app.example",
            "null",
            "",
        ] {
            let headers = [("origin", origin)];
            let answer = server.ask("GET", OPEN, &headers, b"")?;
            answer.is_refusal(403, 4, "Forbidden")?;
            ensure!(
                answer.header("access-control-allow-origin").is_none(),
                "{answer:?}"
            );

            let answer = server.ask("OPTIONS", OPEN, &headers, b"")?;
            ensure!(
                answer.header("access-control-allow-origin").is_none(),
                "{answer:?}"
            );

            let headers = [&HANDSHAKE[..], &[("origin", origin)]].concat();
            let answer = server.ask("GET", OPEN_WEBSOCKET, &headers, b"")?;
            ensure!(
                answer.status == 400 && answer.text()? == "Forbidden",
                "{answer:?}"
            );
        }
        Ok(())
    })
}

/// Without the header it is no browser: accepted. The server's own pages are accepted as well.
#[test]
fn no_origin_and_the_own_one() -> Result<()> {
    with_origins("https://app.example", |server| {
        for headers in [&[][..], &[("origin", "http://fanfare.test")]] {
            let answer = server.ask("GET", OPEN, headers, b"")?;
            ensure!(answer.status == 200, "{answer:?}");
            let headers = [&HANDSHAKE[..], headers].concat();
            let answer = server.ask("GET", OPEN_WEBSOCKET, &headers, b"")?;
            ensure!(answer.status == 101, "{answer:?}");
        }
        Ok(())
    })
}

/// Requests with a sid are for a session that was let in (reference: `allowRequest` is asked once).
#[test]
fn the_origin_is_asked_for_at_the_handshake() -> Result<()> {
    with_origins("https://app.example", |server| {
        let answer = server.ask("GET", OPEN, &[("origin", "https://app.example")], b"")?;
        let (sid, _) = opened(answer.text()?)?;
        let target = format!("{OPEN}&sid={sid}");
        let answer = server.ask("POST", &target, &[("origin", "https://app.example")], b"40")?;
        ensure!(answer.status == 200, "{answer:?}");
        let answer = server.ask("GET", &target, &[("origin", "https://app.example")], b"")?;
        ensure!(
            answer.status == 200 && answer.text()?.starts_with("40"),
            "{answer:?}"
        );
        ensure!(answer.header("access-control-allow-origin") == Some("https://app.example"));
        Ok(())
    })
}
