//! A panic while one connection is handled ends that connection and no other.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs, reason = "tests")]

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::Router;
use bench::client::connect;
use futures_util::future::BoxFuture;
use gateway::{
    HttpOptions, Mount, Proxies,
    metrics::Metrics,
    session::{Admission, Application, Connect, EventPacket, Refusal, Returns, Socket, SocketServer},
    transport::{EngineOptions, EngineServer, Step},
};
use lifecycle::Tasks;
use model::{GatewayId, Role, User, UserId};
use sio::{
    engine::{CloseReason, Timing},
    packet::{Encoded, Limits},
};
use tokio_util::sync::CancellationToken;

/// Answers `echo`, panics at `panic` and, a moment later, at `panic later`.
#[derive(Default)]
struct Fragile {
    disconnected: AtomicUsize,
}

impl Application for Fragile {
    fn connect(&self, _: Connect) -> BoxFuture<'static, Result<Admission, Refusal>> {
        let id = UserId::new("u").unwrap();
        let user = User {
            id,
            anonymous: false,
            username: "u".into(),
            role: Role::Guest,
            permissions: Vec::new(),
            rooms: Vec::new(),
            claims: Vec::new(),
            expires_at: None,
        };
        Box::pin(std::future::ready(Ok(Arc::new(user).into())))
    }

    fn connected(&self, socket: &Arc<Socket>, reply: Encoded) -> BoxFuture<'static, Result<(), Refusal>> {
        socket.conn().send(&reply);
        Box::pin(std::future::ready(Ok(())))
    }

    /// Nothing is recovered here.
    fn returned(&self, _: &Arc<Socket>, _: Returns, _: Encoded) -> BoxFuture<'static, ()> {
        Box::pin(std::future::ready(()))
    }

    fn away_again(&self, _: Option<&str>, _: Returns) {}

    fn event(&self, socket: &Arc<Socket>, event: EventPacket) -> Step {
        match event.name.as_str() {
            "panic" => panic!("on purpose"),
            "panic later" => Step::Later(Box::pin(async {
                tokio::time::sleep(Duration::from_millis(1)).await;
                panic!("on purpose")
            })),
            _ => {
                socket.emit("echo", event.args.as_str(), &[]);
                Step::Done
            }
        }
    }

    fn disconnected(&self, _: &Arc<Socket>, _: CloseReason) {
        self.disconnected.fetch_add(1, Ordering::SeqCst);
    }
}

#[tokio::test]
async fn a_panic_ends_its_own_connection_alone() {
    let tasks = Tasks::new();
    let metrics = Arc::new(Metrics::new(&prometheus::Registry::new()).unwrap());
    let application = Arc::new(Fragile::default());
    let sockets = SocketServer::new(
        application.clone(),
        Limits::default(),
        false,
        Arc::clone(&metrics),
    );
    let options = EngineOptions {
        gateway: GatewayId::new("panics").unwrap(),
        timing: Timing {
            ping_interval: Duration::from_secs(25),
            ping_timeout: Duration::from_secs(20),
            upgrade_timeout: Duration::from_secs(10),
        },
        connect_timeout: Some(Duration::from_secs(45)),
        max_payload: 1_000_000,
        body_timeout: Duration::from_secs(20),
        deflate_from: None,
        send_queue: 1 << 20,
        max_connections: 0,
        handshakes_per_second: 0,
        max_age: Duration::ZERO,
        allow_eio3: false,
        origins: Vec::new(),
        affinity_cookie: true,
    };
    let engine = EngineServer::new(options, sockets, tasks.clone(), metrics);
    let mount = Mount {
        path: "/socket.io/".to_owned(),
        engine: Arc::clone(&engine),
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let http = HttpOptions {
        unread_timeout: Duration::from_secs(20),
        handshake_timeout: Duration::from_secs(10),
        max_header_bytes: 16_384,
        proxies: Proxies::default(),
        tls: None,
    };
    let stop = CancellationToken::new();
    let (until, serving) = (stop.clone(), tasks.clone());
    tasks.spawn("serve", async move {
        gateway::serve(listener, vec![mount], http, Router::new(), &serving, until).await;
    });

    let (mut healthy, mut speaks) = connect(addr, "/chat").await.unwrap();
    for (round, event) in ["panic", "panic later"].into_iter().enumerate() {
        let (mut reader, mut writer) = connect(addr, "/chat").await.unwrap();
        writer.text(&format!("42/chat,[\"{event}\"]")).await.unwrap();
        assert!(
            reader.text().await.is_err(),
            "the connection goes on after {event:?}"
        );
        while application.disconnected.load(Ordering::SeqCst) <= round {
            tokio::task::yield_now().await;
        }
        assert_eq!(engine.connections(), 1);
        speaks.text("42/chat,[\"echo\",1]").await.unwrap();
        assert_eq!(healthy.text().await.unwrap(), "42/chat,[\"echo\",1]");
    }
    stop.cancel();
    engine.close_all(CloseReason::ServerShuttingDown).await;
}
