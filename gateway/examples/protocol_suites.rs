//! The server that the official protocol suites are run against: a raw Engine.IO echo, v3 and v4, at
//! `/engine.io/`, and at `/socket.io/` the behaviour the Socket.IO suite assumes.
//!
//! `cargo run --release -p gateway --example protocol_suites -- --port 3000`
//!
//! All that clients may speak is on: Engine.IO v3, the msgpack parser, and `permessage-deflate` from the first byte.
//!
//! Its times are those the suites ask for. Tests of our own set others, in milliseconds, so that a slow machine
//! does not decide them: `--ping-interval`, `--ping-timeout`, `--upgrade-timeout`, `--connect-timeout`; and `--apart`, since the
//! Socket.IO suite loses the second of two packets that it reads at once.

use std::{io::Write, net::Ipv4Addr, str::FromStr, sync::Arc, time::Duration};

use futures_util::future::BoxFuture;
use gateway::{
    HttpOptions, Mount, Proxies,
    metrics::Metrics,
    session::{Admission, Application, Connect, EventPacket, Refusal, Returns, Socket, SocketServer},
    transport::{Conn, EngineHandler, EngineOptions, EngineServer, Message, Step},
};
use lifecycle::Tasks;
use model::{GatewayId, Role, User, UserId};
use sio::{
    engine::{CloseReason, Timing},
    packet::{Encoded, Limits, encode},
};
use tokio_util::sync::CancellationToken;

type Error = Box<dyn std::error::Error + Send + Sync>;

/// Sends every message back.
struct Echo;

impl EngineHandler for Echo {
    fn message(&self, conn: &Arc<Conn>, message: Message) -> Result<Step, CloseReason> {
        match message {
            Message::Text(text) => conn.send(&encode::engine_text(&text)),
            Message::Binary(data) => conn.send(&encode::engine_binary(data)),
        }
        Ok(Step::Done)
    }

    fn closed(&self, _: &Arc<Conn>, _: CloseReason) {}
}

/// Namespaces `/` and `/custom`, as the suite's README describes them.
struct Suite {
    /// What lies between the answer to a CONNECT and `auth`, in which the suite sends nothing.
    apart: Duration,
}

impl Application for Suite {
    fn connect(&self, request: Connect) -> BoxFuture<'static, Result<Admission, Refusal>> {
        let known = matches!(request.namespace.as_str(), "/" | "/custom");
        let user = UserId::new("suite").map(|id| {
            // The user's name carries the payload from here to `connected`.
            let username = request.auth.as_deref().unwrap_or("{}").into();
            let role = Role::Guest;
            Arc::new(User {
                id,
                anonymous: false,
                username,
                role,
                permissions: Vec::new(),
                rooms: Vec::new(),
                claims: Vec::new(),
                expires_at: None,
            })
        });
        let user = user.map_err(|_| Refusal::Forbidden);
        let answer = if known {
            user
        } else {
            Err(Refusal::InvalidNamespace)
        };
        Box::pin(std::future::ready(answer.map(Admission::from)))
    }

    fn connected(&self, socket: &Arc<Socket>, reply: Encoded) -> BoxFuture<'static, Result<(), Refusal>> {
        let (socket, apart) = (Arc::clone(socket), self.apart);
        Box::pin(async move {
            socket.conn().send(&reply);
            if !apart.is_zero() {
                tokio::time::sleep(apart).await;
            }
            socket.emit("auth", &socket.user().username, &[]);
            Ok(())
        })
    }

    /// Nothing is recovered here.
    fn returned(&self, _: &Arc<Socket>, _: Returns, _: Encoded) -> BoxFuture<'static, ()> {
        Box::pin(std::future::ready(()))
    }

    fn away_again(&self, _: Option<&str>, _: Returns) {}

    fn event(&self, socket: &Arc<Socket>, event: EventPacket) -> Step {
        let EventPacket {
            ack,
            name,
            args,
            attachments,
        } = event;
        match (name.as_str(), ack) {
            ("message", _) => socket.emit("message-back", args.as_str(), &attachments),
            ("message-with-ack", Some(id)) => {
                let namespace = socket.namespace().as_str();
                socket
                    .conn()
                    .send(&encode::ack(namespace, id, args.as_str(), &attachments));
            }
            _ => {}
        }
        Step::Done
    }

    fn disconnected(&self, _: &Arc<Socket>, _: CloseReason) {}
}

#[tokio::main]
async fn main() -> Result<(), Error> {
    let port: u16 = argument("--port")?.ok_or("usage: protocol_suites --port N")?;
    let millis = |name, default| {
        let given = argument(name)?;
        Ok::<_, Error>(Duration::from_millis(given.unwrap_or(default)))
    };
    let tasks = Tasks::new();
    let metrics = Arc::new(Metrics::new(&prometheus::Registry::new())?);
    let options = EngineOptions {
        gateway: GatewayId::new("suites")?,
        timing: Timing {
            ping_interval: millis("--ping-interval", 300)?,
            ping_timeout: millis("--ping-timeout", 200)?,
            upgrade_timeout: millis("--upgrade-timeout", 10_000)?,
        },
        connect_timeout: None,
        max_payload: 1_000_000,
        body_timeout: Duration::from_secs(20),
        deflate_from: Some(1),
        send_queue: 16 << 20,
        max_connections: 0,
        handshakes_per_second: 0,
        max_age: Duration::ZERO,
        allow_eio3: true,
        origins: vec!["*".to_owned()],
        affinity_cookie: true,
    };
    let echo = EngineServer::new(
        options.clone(),
        Arc::new(Echo),
        tasks.clone(),
        Arc::clone(&metrics),
    );
    let sockets = SocketServer::new(
        Arc::new(Suite {
            apart: millis("--apart", 50)?,
        }),
        Limits::default(),
        true,
        Arc::clone(&metrics),
    );
    let options = EngineOptions {
        connect_timeout: Some(millis("--connect-timeout", 1000)?),
        ..options
    };
    let sockets = EngineServer::new(options, sockets, tasks.clone(), metrics);
    let mounts = vec![
        Mount {
            path: "/engine.io/".to_owned(),
            engine: echo,
        },
        Mount {
            path: "/socket.io/".to_owned(),
            engine: sockets,
        },
    ];
    let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await?;
    writeln!(
        std::io::stdout(),
        "listening on http://{}",
        listener.local_addr()?
    )?;
    let http = HttpOptions {
        unread_timeout: Duration::from_secs(20),
        handshake_timeout: Duration::from_secs(10),
        max_header_bytes: 16_384,
        proxies: Proxies::default(),
        tls: None,
    };
    let stop = CancellationToken::new();
    gateway::serve(listener, mounts, http, axum::Router::new(), &tasks, stop).await;
    Ok(())
}

/// The value behind an argument's name.
fn argument<T: FromStr>(name: &str) -> Result<Option<T>, Error>
where
    T::Err: std::error::Error + Send + Sync + 'static,
{
    let mut args = std::env::args().skip(1);
    match args.find(|arg| arg == name) {
        Some(_) => {
            let value = args.next().ok_or_else(|| format!("{name} needs a value"))?;
            Ok(Some(value.parse()?))
        }
        None => Ok(None),
    }
}
