//! Stock clients, as they come from their package registries, against a server of this build. The programs lie in
//! `tests/compat`; one test here runs one of them against a server of its own.

use anyhow::{Result, ensure};
use tests::{Mode, ProtocolSuites, Standalone, artillery, node, python, scenario};

/// All that clients may speak, at one server.
const EVERYTHING: [(&str, &str); 4] = [
    ("FANFARE_GATEWAY__ALLOW_EIO3", "true"),
    ("FANFARE_AUTH__QUERY", "token"),
    ("FANFARE_GATEWAY__ALLOW_MSGPACK", "true"),
    ("FANFARE_GATEWAY__COMPRESS_FROM_BYTES", "1024"),
];

fn with_server(run: impl FnOnce(&Standalone) -> Result<()>) -> Result<()> {
    with_settings(&[], run)
}

fn with_settings(settings: &[(&str, &str)], run: impl FnOnce(&Standalone) -> Result<()>) -> Result<()> {
    let server = Standalone::start(settings)?;
    if let Err(error) = run(&server) {
        // nextest shows it with the failure; what the server saw is half the story.
        return Err(error.context(format!("the server wrote:\n{}", server.output())));
    }
    server.stop()
}

/// `socket.io-client` in Node: one test a scenario file and transport.
macro_rules! socket_io_client {
    ($($name:ident: $mode:expr),*) => {$(
        mod $name {
            use super::*;

            #[test]
            fn connect() -> Result<()> {
                with_server(|server| scenario(server, "connect", $mode))
            }

            #[test]
            fn identity() -> Result<()> {
                with_server(|server| scenario(server, "identity", $mode))
            }

            #[test]
            fn rooms() -> Result<()> {
                with_server(|server| scenario(server, "rooms", $mode))
            }

            #[test]
            fn messages() -> Result<()> {
                with_server(|server| scenario(server, "messages", $mode))
            }

            #[test]
            fn history() -> Result<()> {
                with_server(|server| scenario(server, "history", $mode))
            }

            #[test]
            fn recovery() -> Result<()> {
                with_server(|server| scenario(server, "recovery", $mode))
            }

            #[test]
            fn errors() -> Result<()> {
                with_server(|server| scenario(server, "errors", $mode))
            }

            #[test]
            fn limits() -> Result<()> {
                let few = [("FANFARE_LIMITS__EVENTS", "10"), ("FANFARE_LIMITS__CUT_AFTER", "20")];
                with_settings(&few, |server| scenario(server, "limits", $mode))
            }

            #[test]
            fn eio3() -> Result<()> {
                let fast = [("FANFARE_GATEWAY__PING_INTERVAL_MS", "1000")];
                let settings = [&EVERYTHING[..], &fast].concat();
                with_settings(&settings, |server| scenario(server, "eio3", $mode))
            }

            #[test]
            fn msgpack() -> Result<()> {
                with_settings(&EVERYTHING, |server| scenario(server, "msgpack", $mode))
            }

            #[test]
            fn deflate() -> Result<()> {
                with_settings(&EVERYTHING, |server| scenario(server, "deflate", $mode))
            }

            #[test]
            fn transport() -> Result<()> {
                with_server(|server| scenario(server, "transport", $mode))
            }

            #[test]
            fn python_socketio() -> Result<()> {
                with_server(|server| python(server, $mode))
            }
        }
    )*};
}

socket_io_client!(websocket: Mode::Websocket, polling: Mode::Polling, upgrade: Mode::Upgrade);

#[test]
fn same_as_the_reference_server() -> Result<()> {
    let server = ProtocolSuites::start()?;
    node("differential/compare.test.mjs", &server.url, &[])?;
    server.stop()
}

/// The people of `bench/artillery.yml`, in its short form: each joins a room, sends five messages there and leaves,
/// and every step is acknowledged.
#[test]
fn artillery_plays_its_scenario() -> Result<()> {
    const PEOPLE: u64 = 32;
    const MESSAGES: u64 = 5;
    with_server(|server| {
        let counts = artillery(&server.url)?;
        ensure!(
            counts.get("vusers.created") == PEOPLE
                && counts.get("vusers.completed") == PEOPLE
                && counts.get("vusers.failed") == 0
                && counts.get("socketio.emit") == PEOPLE * (MESSAGES + 2),
            "not everybody got through: {counts:?}"
        );
        let messages = |direction| {
            let labels = format!("direction=\"{direction}\",event=\"message\"");
            server.metric("socket_messages_total", &labels)
        };
        let (sent, delivered) = (messages("inbound")?, messages("outbound")?);
        let all = (PEOPLE * MESSAGES) as f64;
        // Whoever sends is in the room; others may be or not.
        ensure!(
            sent == all && delivered >= all,
            "{sent} messages came, {delivered} were delivered"
        );
        Ok(())
    })
}
