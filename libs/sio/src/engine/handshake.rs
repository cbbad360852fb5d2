use std::time::Duration;

/// Revision of the Engine.IO protocol, from the `EIO` query parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Version {
    /// Socket.IO v1 and v2 clients.
    V3,
    /// Socket.IO v3 and v4 clients.
    V4,
}

impl Version {
    /// Exactly `3` or `4`; anything else is an unsupported version.
    #[must_use]
    pub fn from_query(value: &str) -> Option<Self> {
        match value {
            "3" => Some(Self::V3),
            "4" => Some(Self::V4),
            _ => None,
        }
    }
}

/// A way to carry packets, from the `transport` query parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TransportKind {
    /// HTTP long-polling.
    Polling,
    /// RFC 6455.
    WebSocket,
}

impl TransportKind {
    /// `polling` or `websocket`; anything else is an unknown transport.
    #[must_use]
    pub fn from_query(value: &str) -> Option<Self> {
        match value {
            "polling" => Some(Self::Polling),
            "websocket" => Some(Self::WebSocket),
            _ => None,
        }
    }

    /// The name on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Polling => "polling",
            Self::WebSocket => "websocket",
        }
    }
}

/// Why a request gets no session; the discriminant is the code of the answer (reference server, `Server.errors`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum HandshakeError {
    /// `transport` is missing or not one of ours.
    #[error("Transport unknown")]
    TransportUnknown = 0,
    /// `sid` names no living session.
    #[error("Session ID unknown")]
    SessionIdUnknown = 1,
    /// A handshake by another method than GET.
    #[error("Bad handshake method")]
    BadHandshakeMethod = 2,
    /// The request does not fit the session, as a poll after the upgrade.
    #[error("Bad request")]
    BadRequest = 3,
    /// Policy says no: origin, address, admission.
    #[error("Forbidden")]
    Forbidden = 4,
    /// `EIO` is missing or not a version we speak.
    #[error("Unsupported protocol version")]
    UnsupportedProtocolVersion = 5,
}

impl HandshakeError {
    /// The code in the answer's body.
    #[must_use]
    pub fn code(self) -> u8 {
        self as u8
    }

    /// The message in the answer's body.
    #[must_use]
    pub fn message(self) -> &'static str {
        match self {
            Self::TransportUnknown => "Transport unknown",
            Self::SessionIdUnknown => "Session ID unknown",
            Self::BadHandshakeMethod => "Bad handshake method",
            Self::BadRequest => "Bad request",
            Self::Forbidden => "Forbidden",
            Self::UnsupportedProtocolVersion => "Unsupported protocol version",
        }
    }

    /// 403 for `Forbidden`, else 400.
    #[must_use]
    pub fn http_status(self) -> u16 {
        match self {
            Self::Forbidden => 403,
            Self::TransportUnknown
            | Self::SessionIdUnknown
            | Self::BadHandshakeMethod
            | Self::BadRequest
            | Self::UnsupportedProtocolVersion => 400,
        }
    }

    /// The answer's body, as `{"code":1,"message":"Session ID unknown"}`.
    #[must_use]
    pub fn to_json(self) -> String {
        format!(r#"{{"code":{},"message":"{}"}}"#, self.code(), self.message())
    }
}

/// The times of a session; the same for all sessions of a server, so sessions do not hold it.
#[derive(Clone, Debug)]
pub struct Timing {
    /// From the last pong to the next ping.
    pub ping_interval: Duration,
    /// From a ping to its pong at the latest.
    pub ping_timeout: Duration,
    /// From the probing WebSocket's start to the upgrade packet at the latest.
    pub upgrade_timeout: Duration,
}

impl Default for Timing {
    /// The reference server's: 25 s, 20 s, 10 s.
    fn default() -> Self {
        Self {
            ping_interval: Duration::from_secs(25),
            ping_timeout: Duration::from_secs(20),
            upgrade_timeout: Duration::from_secs(10),
        }
    }
}

/// The JSON of an open packet, without the packet type (protocol v4, "Handshake"): exactly five keys, in this order.
/// `max_payload` is in bytes.
#[must_use]
pub fn open_payload(sid: &str, upgrades_websocket: bool, timing: &Timing, max_payload: usize) -> String {
    let mut quoted_sid = Vec::with_capacity(sid.len() + 2);
    crate::json::write_string(&mut quoted_sid, sid);
    format!(
        r#"{{"sid":{},"upgrades":[{}],"pingInterval":{},"pingTimeout":{},"maxPayload":{}}}"#,
        String::from_utf8_lossy(&quoted_sid),
        if upgrades_websocket { r#""websocket""# } else { "" },
        timing.ping_interval.as_millis(),
        timing.ping_timeout.as_millis(),
        max_payload,
    )
}
