//! The Socket.IO layer above the Engine.IO server.

use std::sync::Arc;

use bytes::Bytes;
use bytestring::ByteString;
use futures_util::future::BoxFuture;
use http::HeaderMap;
use model::{ClientError, ErrorCode, Namespace, User};
use sio::{
    client::Incoming,
    engine::{CloseReason, Version},
    packet::{DecodeError, Dialect, EventName, Limits, RawArgs, connect_of_v4, encode},
};

use super::{Answer, Refusal, Returns, Shown, Socket};
use crate::{
    metrics::Metrics,
    spans,
    transport::{Conn, EngineHandler, Message, Step},
};

/// What stands above the Socket.IO layer.
pub trait Application: Send + Sync + 'static {
    /// What of a handshake request says who sends it. Kept as long as the connection lasts.
    fn shown(&self, headers: &HeaderMap, _query: Option<&str>) -> Shown {
        Shown::bearer(headers)
    }

    /// A client asks to join a namespace. The future ends with the client's identity there.
    fn connect(&self, request: Connect) -> BoxFuture<'static, Result<Admission, Refusal>>;

    /// The socket is known, its CONNECT not yet answered: joins what it must be in from its first
    /// moment. The answer goes out through `reply`.
    fn connected(
        &self,
        socket: &Arc<Socket>,
        reply: sio::packet::Encoded,
    ) -> BoxFuture<'static, Result<(), Refusal>>;

    /// As [`Application::connected`] for a socket that has come back: it gets into its rooms again, and what
    /// it missed is sent before the answer.
    fn returned(
        &self,
        socket: &Arc<Socket>,
        returns: Returns,
        reply: sio::packet::Encoded,
    ) -> BoxFuture<'static, ()>;

    /// The connection of a client that came back ended before it could be told so.
    fn away_again(&self, pid: Option<&str>, returns: Returns);

    /// An event. Must not block.
    fn event(&self, socket: &Arc<Socket>, event: EventPacket) -> Step;

    /// The socket is gone. Called once for each that was [`Application::connected`].
    fn disconnected(&self, socket: &Arc<Socket>, reason: CloseReason);
}

/// A client asks to join a namespace.
pub struct Connect {
    /// Its connection.
    pub conn: Arc<Conn>,
    /// Which namespace.
    pub namespace: Namespace,
    /// The CONNECT packet's payload: a raw JSON object.
    pub auth: Option<ByteString>,
}

/// A client may join a namespace.
pub struct Admission {
    /// Who it is.
    pub user: Arc<User>,
    /// What names its session, if it can be recovered.
    pub pid: Option<Arc<str>>,
    /// What it comes back to, if it does.
    pub returns: Option<Returns>,
}

impl From<Arc<User>> for Admission {
    /// One that cannot be recovered.
    fn from(user: Arc<User>) -> Self {
        Self {
            user,
            pid: None,
            returns: None,
        }
    }
}

/// An event from a client.
pub struct EventPacket {
    /// The id to acknowledge it with, if the client asked for that.
    pub ack: Option<u64>,
    /// Its name.
    pub name: EventName,
    /// Its arguments.
    pub args: RawArgs,
    /// Binary data, in the order of the placeholders in `args`.
    pub attachments: Vec<Bytes>,
}

/// Socket.IO over Engine.IO sessions.
pub struct SocketServer {
    application: Arc<dyn Application>,
    limits: Limits,
    allow_msgpack: bool,
    metrics: Arc<Metrics>,
}

impl SocketServer {
    /// A server for `application`. `allow_msgpack`: clients with the msgpack parser are known by their first message.
    pub fn new(
        application: Arc<dyn Application>,
        limits: Limits,
        allow_msgpack: bool,
        metrics: Arc<Metrics>,
    ) -> Arc<Self> {
        Arc::new(Self {
            application,
            limits,
            allow_msgpack,
            metrics,
        })
    }

    fn connect(&self, conn: &Arc<Conn>, name: ByteString, auth: Option<ByteString>) -> Step {
        let application = Arc::clone(&self.application);
        let metrics = Arc::clone(&self.metrics);
        let conn = Arc::clone(conn);
        Step::Later(Box::pin(async move {
            let mut entered = None;
            let joined = async {
                let namespace = Namespace::new(&name).map_err(|_| Refusal::InvalidNamespace)?;
                let request = Connect {
                    conn: Arc::clone(&conn),
                    namespace: namespace.clone(),
                    auth,
                };
                let trace = request.auth.as_deref().and_then(spans::of_auth);
                let traced = |socket: &Socket| {
                    if let Some(trace) = trace {
                        // Set once, right here.
                        let _ = socket.trace.set(Box::new(trace));
                    }
                };
                let Admission { user, pid, returns } = application.connect(request).await?;
                let Some(returns) = returns else {
                    let socket = Socket::new(Arc::clone(&conn), namespace, user, pid);
                    traced(&socket);
                    let reply = encode::connect(&name, socket.id(), socket.pid());
                    if !conn.sockets.lock().add(&socket) {
                        return Ok(());
                    }
                    metrics.socket_connected(socket.namespace());
                    entered = Some(Arc::clone(&socket));
                    return application.connected(&socket, reply).await;
                };
                let socket = Socket::returned(Arc::clone(&conn), namespace, user, pid, &returns);
                traced(&socket);
                let reply = encode::connect(&name, socket.id(), socket.pid());
                if conn.sockets.lock().add(&socket) {
                    metrics.socket_connected(socket.namespace());
                    application.returned(&socket, returns, reply).await;
                } else {
                    application.away_again(socket.pid(), returns);
                }
                Ok(())
            };
            if let Err(refusal) = joined.await {
                match entered {
                    None => conn.sockets.lock().client.rejected(&name),
                    Some(socket) => {
                        // It has left, and perhaps entered anew: this is no answer to that.
                        if !conn.sockets.lock().put_out(&socket) {
                            return;
                        }
                        let reason = CloseReason::ServerNamespaceDisconnect;
                        metrics.socket_disconnected(socket.namespace(), reason);
                        application.disconnected(&socket, reason);
                    }
                }
                metrics.connect_refused(&refusal);
                conn.send(&encode::connect_error(
                    &name,
                    refusal.message(),
                    refusal.data().as_deref(),
                ));
            }
        }))
    }

    fn disconnected(&self, socket: &Arc<Socket>, reason: CloseReason) {
        self.metrics.socket_disconnected(socket.namespace(), reason);
        self.application.disconnected(socket, reason);
    }
}

impl EngineHandler for SocketServer {
    fn shown(&self, headers: &HeaderMap, query: Option<&str>) -> Shown {
        self.application.shown(headers, query)
    }

    fn opened(&self, conn: &Arc<Conn>) -> Result<Step, CloseReason> {
        match conn.handshake().version {
            Version::V4 => Ok(Step::Done),
            // Clients of Socket.IO v2 are in the main namespace without asking.
            Version::V3 => self.message(conn, Message::Text(ByteString::from_static("0"))),
        }
    }

    fn message(&self, conn: &Arc<Conn>, message: Message) -> Result<Step, CloseReason> {
        if self.allow_msgpack && matches!(message, Message::Binary(_)) && conn.sockets.lock().client.is_new()
        {
            // Nothing of the default parser begins with bytes.
            conn.speaks_msgpack();
        }
        let dialect = conn.wire().dialect;
        let (incoming, socket) = {
            let mut sockets = conn.sockets.lock();
            let client = &mut sockets.client;
            let incoming = match (message, dialect) {
                (Message::Text(text), Dialect::Standard) => client.on_text(text, &self.limits),
                (Message::Text(text), Dialect::V3) => client.on_text(connect_of_v4(text), &self.limits),
                (Message::Text(_), Dialect::Msgpack) => Err(DecodeError::UnknownType.into()),
                (Message::Binary(data), Dialect::Msgpack) => client.on_msgpack(&data, &self.limits),
                (Message::Binary(data), Dialect::Standard | Dialect::V3) => {
                    client.on_binary(data, &self.limits)
                }
            }
            .map_err(|error| {
                tracing::debug!(%error, ip = %conn.handshake().ip, "client breaks the protocol");
                error.reason()
            })?;
            let socket = match &incoming {
                Some(Incoming::Event { namespace, .. } | Incoming::Ack { namespace, .. }) => {
                    sockets.find(namespace).cloned()
                }
                Some(Incoming::Disconnect { namespace }) => sockets.take(namespace),
                Some(Incoming::Connect { .. }) | None => None,
            };
            (incoming, socket)
        };
        Ok(match (incoming, socket) {
            (Some(Incoming::Connect { namespace, auth }), _) => self.connect(conn, namespace, auth),
            (
                Some(Incoming::Event {
                    ack,
                    name,
                    args,
                    attachments,
                    ..
                }),
                Some(socket),
            ) => self.application.event(
                &socket,
                EventPacket {
                    ack,
                    name,
                    args,
                    attachments,
                },
            ),
            (Some(Incoming::Disconnect { .. }), Some(socket)) => {
                self.disconnected(&socket, CloseReason::ClientNamespaceDisconnect);
                Step::Done
            }
            (
                Some(Incoming::Ack {
                    id,
                    args,
                    attachments,
                    ..
                }),
                Some(socket),
            ) => {
                socket.answered(id, Answer { args, attachments });
                Step::Done
            }
            (Some(Incoming::Ack { .. } | Incoming::Event { .. } | Incoming::Disconnect { .. }) | None, _) => {
                Step::Done
            }
        })
    }

    fn closed(&self, conn: &Arc<Conn>, reason: CloseReason) {
        let sockets = conn.sockets.lock().end();
        for socket in sockets {
            self.disconnected(&socket, reason);
        }
    }
}

/// `{status: "ok", …}`.
#[derive(serde::Serialize)]
pub(crate) struct Success<'a, T> {
    pub(crate) status: &'static str,
    #[serde(flatten)]
    pub(crate) value: &'a T,
}

/// The error for a service behind the edge that does not answer.
pub(crate) fn unavailable(error: impl std::fmt::Display) -> ClientError {
    tracing::warn!(%error, "a service behind the edge does not answer");
    ClientError::new(ErrorCode::Unavailable, "Try again later")
}
