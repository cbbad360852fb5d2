//! Gateways of one process, as far as forwarding goes: public and internal listener, heartbeats over
//! memory signals, an echo for an application.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::Router;
use bus::{Signals, signals::memory::MemorySignals, subjects};
use gateway::{
    HttpOptions, Internal, Mount, Proxies,
    metrics::Metrics,
    new_id,
    peers::Peers,
    serve_internal,
    transport::{Conn, EngineHandler, EngineOptions, EngineServer, Forwarder, Message, Step},
};
use lifecycle::Tasks;
use model::GatewayId;
use prost::Message as _;
use proto::v1::GatewayHeartbeat;
use sio::{
    engine::{CloseReason, Timing},
    packet::encode,
};
use tokio::net::TcpListener;
use tokio_rustls::rustls::{ClientConfig, ServerConfig};
use tokio_util::sync::CancellationToken;

use crate::client::PATIENCE;

pub(crate) const MAX_PAYLOAD: usize = 1_000_000;

/// Times so long that only what a test does ends a session.
pub(crate) const CALM: Timing = Timing {
    ping_interval: Duration::from_secs(60),
    ping_timeout: Duration::from_secs(60),
    upgrade_timeout: Duration::from_secs(60),
};

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

/// The same certificate everywhere.
#[derive(Clone)]
pub(crate) struct Tls {
    pub(crate) server: Arc<ServerConfig>,
    pub(crate) client: Arc<ClientConfig>,
}

pub(crate) struct Node {
    pub(crate) id: GatewayId,
    pub(crate) public: SocketAddr,
    pub(crate) internal: SocketAddr,
    pub(crate) engine: Arc<EngineServer>,
    pub(crate) peers: Arc<Peers>,
    pub(crate) forwarder: Arc<Forwarder>,
    registry: prometheus::Registry,
    tasks: Tasks,
    stop: CancellationToken,
}

impl Node {
    pub(crate) async fn start(signals: &MemorySignals, timing: Timing, tls: Option<Tls>) -> Self {
        let (id, tasks, stop) = (new_id(), Tasks::new(), CancellationToken::new());
        let registry = prometheus::Registry::new();
        let options = EngineOptions {
            gateway: id.clone(),
            timing,
            connect_timeout: None,
            max_payload: MAX_PAYLOAD,
            body_timeout: Duration::from_secs(20),
            deflate_from: None,
            send_queue: 16 << 20,
            max_connections: 0,
            handshakes_per_second: 0,
            max_age: Duration::ZERO,
            allow_eio3: false,
            origins: vec!["https://app.example".to_owned()],
            affinity_cookie: true,
        };
        let metrics = Arc::new(Metrics::new(&registry).unwrap());
        let engine = EngineServer::new(options, Arc::new(Echo), tasks.clone(), metrics);
        let peers = Peers::new(id.clone());
        let client = tls.as_ref().map(|tls| Arc::clone(&tls.client));
        let forwarder = Forwarder::new(Arc::clone(&peers), client, tasks.clone());
        engine.forward_by(Arc::clone(&forwarder));

        let mount = Mount {
            path: "/engine.io/".to_owned(),
            engine: Arc::clone(&engine),
        };
        let options = HttpOptions {
            unread_timeout: Duration::from_secs(20),
            handshake_timeout: Duration::from_secs(30),
            max_header_bytes: 16_384,
            proxies: Proxies::default(),
            tls: None,
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let public = listener.local_addr().unwrap();
        let (serving, until) = (tasks.clone(), stop.clone());
        let (mounts, http) = (vec![mount.clone()], options.clone());
        tasks.spawn("public", async move {
            gateway::serve(listener, mounts, http, Router::new(), &serving, until).await;
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let internal = listener.local_addr().unwrap();
        let (serving, until) = (tasks.clone(), stop.clone());
        let served = Internal {
            mounts: vec![mount],
            options,
            grpc: Router::new().route("/fanfare.v1.Any/Call", axum::routing::post(|| async { "called" })),
            tls: tls.map(|tls| tls.server),
        };
        tasks.spawn("internal", async move {
            serve_internal(listener, served, &serving, until).await;
        });

        let heard = signals.subscribe(Peers::SUBJECT, None).await.unwrap();
        let following = Arc::clone(&peers);
        tasks.background("follow", async move { following.follow(heard).await });
        let (beats, own, known) = (signals.clone(), id.clone(), Arc::clone(&peers));
        tasks.background("heartbeat", async move {
            loop {
                beat(&beats, own.as_str(), &internal.to_string(), false);
                tokio::select! {
                    () = tokio::time::sleep(Duration::from_secs(1)) => {}
                    () = known.newcomer() => {}
                }
            }
        });
        Self {
            id,
            public,
            internal,
            engine,
            peers,
            forwarder,
            registry,
            tasks,
            stop,
        }
    }

    /// The listeners are gone, connections and sessions with them; no word of goodbye.
    pub(crate) async fn crash(&self) {
        self.stop.cancel();
        self.engine.close_all(CloseReason::ServerShuttingDown).await;
        self.tasks.shutdown(PATIENCE).await;
    }

    pub(crate) fn forwards(&self, kind: &str, result: &str) -> u64 {
        let families = self.registry.gather();
        let forwards = families
            .iter()
            .filter(|family| family.name() == "fanfare_forwards_total");
        let counters = forwards.flat_map(|family| family.get_metric()).filter(|metric| {
            let has = |name, value| {
                let mut labels = metric.get_label().iter();
                labels.any(|label| label.name() == name && label.value() == value)
            };
            has("kind", kind) && has("result", result)
        });
        counters
            .map(|metric| metric.get_counter().get_value() as u64)
            .sum()
    }

    /// Waits until this gateway forwards to `other`.
    pub(crate) async fn knows(&self, other: &str) {
        until(|| self.peers.address_of(other).is_some()).await;
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// So many gateways that know one another.
pub(crate) async fn cluster<const N: usize>(timing: Timing, tls: Option<Tls>) -> (MemorySignals, [Node; N]) {
    let signals = MemorySignals::new();
    let mut nodes = Vec::new();
    for _ in 0..N {
        nodes.push(Node::start(&signals, timing.clone(), tls.clone()).await);
    }
    for one in &nodes {
        for other in &nodes {
            if one.id != other.id {
                one.knows(other.id.as_str()).await;
            }
        }
    }
    (signals, nodes.try_into().ok().unwrap())
}

pub(crate) fn beat(signals: &MemorySignals, gateway: &str, address: &str, leaving: bool) {
    let beat = GatewayHeartbeat {
        gateway: gateway.to_owned(),
        address: address.to_owned(),
        connections: 0,
        draining: leaving,
        leaving,
    };
    signals
        .publish(subjects::GATEWAY_HEARTBEAT, beat.encode_to_vec().into())
        .unwrap();
}

/// Waits for what must become true.
pub(crate) async fn until(mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "it does not become true");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}
