//! What the peers share: the dialect that the load generator speaks, and their command line.

use std::net::SocketAddr;

use anyhow::{Context, Result, bail};
use base64::{Engine, engine::general_purpose::STANDARD};
use sha1::{Digest, Sha1};

/// The Engine.IO open packet. No peer that answers with it sends pings.
pub const OPEN: &str =
    r#"0{"sid":"floor","upgrades":[],"pingInterval":25000,"pingTimeout":20000,"maxPayload":1000000}"#;
/// The answer to a CONNECT of the namespace.
pub const CONNECTED: &str = r#"40/chat,{"sid":"floor"}"#;

/// What came from a client.
#[derive(Debug, PartialEq, Eq)]
pub enum Packet<'a> {
    /// CONNECT of the namespace.
    Connect,
    /// Join this room, and acknowledge under this id.
    Join { id: &'a str, room: &'a str },
    /// Send `event`, the array of name and argument, to this room, and acknowledge.
    Message {
        id: &'a str,
        room: &'a str,
        event: &'a str,
    },
    /// Any other event: acknowledge.
    Other { id: &'a str },
    /// Nothing that is answered.
    Silent,
}

impl<'a> Packet<'a> {
    /// Finds what matters and checks nothing else: `roomId` is the first member and has no escapes.
    pub fn parse(text: &'a str) -> Self {
        if text.starts_with("40/chat") {
            return Self::Connect;
        }
        let Some(rest) = text.strip_prefix("42/chat,") else {
            return Self::Silent;
        };
        let Some(bracket) = rest.find('[') else {
            return Self::Silent;
        };
        let (id, event) = rest.split_at(bracket);
        let room = |rest: &'a str| rest.split('"').next().unwrap_or_default();
        if let Some(rest) = event.strip_prefix(r#"["message",{"roomId":""#) {
            Self::Message {
                id,
                room: room(rest),
                event,
            }
        } else if let Some(rest) = event.strip_prefix(r#"["join-room",{"roomId":""#) {
            Self::Join { id, room: room(rest) }
        } else {
            Self::Other { id }
        }
    }
}

/// The event as members get it.
pub fn event(event: &str) -> String {
    format!("42/chat,{event}")
}

/// The acknowledgement of a join or a message.
pub fn ok(id: &str) -> String {
    format!(r#"43/chat,{id}[{{"status":"ok"}}]"#)
}

/// The acknowledgement of anything else.
pub fn time(id: &str) -> String {
    format!(r#"43/chat,{id}[{{"time":0}}]"#)
}

/// `Sec-WebSocket-Accept` for a key (RFC 6455 section 4.2.2).
pub fn accept_key(key: &str) -> String {
    let mut hash = Sha1::new();
    hash.update(key);
    hash.update("258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    STANDARD.encode(hash.finalize())
}

/// The value of `--NAME VALUE` on the command line.
pub fn flag(name: &str) -> Result<Option<String>> {
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let value = arguments
            .next()
            .with_context(|| format!("{argument} has no value"))?;
        if argument.strip_prefix("--") == Some(name) {
            return Ok(Some(value));
        }
    }
    Ok(None)
}

/// Where to listen: the loopback, at `--port`.
pub fn address() -> Result<SocketAddr> {
    let Some(port) = flag("port")? else {
        bail!("usage: --port PORT (0 for a free one)");
    };
    Ok(SocketAddr::from(([127, 0, 0, 1], port.parse()?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_what_matters() {
        assert_eq!(Packet::parse("40/chat,"), Packet::Connect);
        assert_eq!(
            Packet::parse(r#"42/chat,7["join-room",{"roomId":"r1"}]"#),
            Packet::Join { id: "7", room: "r1" }
        );
        let message = r#"42/chat,12["message",{"roomId":"r","content":"[\"x\"]"}]"#;
        let Packet::Message { id, room, event } = Packet::parse(message) else {
            panic!("no message");
        };
        assert_eq!((id, room), ("12", "r"));
        assert_eq!(
            super::event(event),
            r#"42/chat,["message",{"roomId":"r","content":"[\"x\"]"}]"#
        );
        assert_eq!(Packet::parse(r#"42/chat,3["ping",1]"#), Packet::Other { id: "3" });
        assert_eq!(Packet::parse("3"), Packet::Silent);
    }

    #[test]
    fn accepts_the_key_of_the_rfc() {
        assert_eq!(
            accept_key("dGhlIHNhbXBsZSBub25jZQ=="),
            "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
        );
    }
}
