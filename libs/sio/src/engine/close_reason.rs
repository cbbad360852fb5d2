use std::fmt;

/// Why a session ended: a bounded set, fit for a metric label. The words are the reference servers' where they have one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CloseReason {
    /// Reading or writing failed, or the client broke a rule of the transport.
    TransportError,
    /// The client closed the transport.
    TransportClose,
    /// The server closed the Engine.IO session.
    ForcedClose,
    /// No pong (v4) or ping (v3) in time.
    PingTimeout,
    /// A packet that is none.
    ParseError,
    /// This server stops.
    ServerShuttingDown,
    /// The server closed the Socket.IO connection.
    ForcedServerClose,
    /// The client left the namespace.
    ClientNamespaceDisconnect,
    /// The server put the client out of the namespace.
    ServerNamespaceDisconnect,
    /// No namespace joined in time; ours, the reference says "forced server close".
    ConnectTimeout,
    /// The client does not read what it is sent; ours.
    SlowConsumer,
    /// A message over the maximum payload; ours.
    TooLarge,
    /// The client goes on over its limits; ours.
    RateLimited,
}

impl CloseReason {
    /// The word for logs, metrics and lifecycle events.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::TransportError => "transport error",
            Self::TransportClose => "transport close",
            Self::ForcedClose => "forced close",
            Self::PingTimeout => "ping timeout",
            Self::ParseError => "parse error",
            Self::ServerShuttingDown => "server shutting down",
            Self::ForcedServerClose => "forced server close",
            Self::ClientNamespaceDisconnect => "client namespace disconnect",
            Self::ServerNamespaceDisconnect => "server namespace disconnect",
            Self::ConnectTimeout => "connect timeout",
            Self::SlowConsumer => "slow consumer",
            Self::TooLarge => "payload too large",
            Self::RateLimited => "rate limited",
        }
    }
}

impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
