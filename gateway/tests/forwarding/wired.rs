//! Whole gateways, wired as a process wires them.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::Router;
use bus::{
    documents::memory::MemoryDocuments,
    event_log::memory::{MemoryLog, MemoryLogConfig},
    signals::memory::MemorySignals,
};
use config::{Config, Role};
use delivery::local::{LinkLimits, LocalLink, OneLink, pair};
use gateway::{Cluster, Deps, Gateway, new_id};
use lifecycle::Tasks;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::client::{Said, get, open, post, upgrade};

struct Wired {
    gateway: Arc<Gateway>,
    public: SocketAddr,
    stop: CancellationToken,
    _link: LocalLink,
}

async fn start(config: &Config, log: &MemoryLog, signals: &MemorySignals) -> Wired {
    let internal = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let public = listener.local_addr().unwrap();
    let (link, deliveries) = pair(config.bus.partitions, LinkLimits::default());
    let tasks = Tasks::new();
    let deps = Deps {
        log: Arc::new(log.clone()),
        signals: Arc::new(signals.clone()),
        documents: Arc::new(MemoryDocuments::new()),
        links: Box::new(OneLink::new(deliveries)),
        cluster: Some(Cluster {
            address: internal.local_addr().unwrap().to_string(),
            tls: None,
        }),
        limiters: None,
        tasks: tasks.clone(),
        registry: prometheus::Registry::new(),
        tracer: telemetry::trace::Tracer::off(),
    };
    let gateway = Arc::new(Gateway::build(config, new_id(), deps).await.unwrap());
    let stop = CancellationToken::new();
    let (serving, until) = (Arc::clone(&gateway), stop.clone());
    tasks.spawn("serve", async move {
        serving.serve(listener, Router::new(), until).await;
    });
    let (serving, until) = (Arc::clone(&gateway), stop.clone());
    tasks.spawn("serve internal", async move {
        serving.serve_internal(internal, Router::new(), None, until).await;
    });
    Wired {
        gateway,
        public,
        stop,
        _link: link,
    }
}

#[tokio::test]
async fn gateways_that_are_wired_to_a_cluster_forward_to_one_another() {
    let mut config = Config::for_tests(Role::Standalone);
    // Where the client of these tests asks.
    config.gateway.path = "/engine.io/".to_owned();
    let log = MemoryLog::new(MemoryLogConfig {
        partitions: config.bus.partitions,
        ..MemoryLogConfig::default()
    });
    let signals = MemorySignals::new();
    let first = start(&config, &log, &signals).await;
    // It came later, and is told of the first without waiting for a regular heartbeat.
    let second = start(&config, &log, &signals).await;

    let sid = open(first.public).await;
    loop {
        let answer = post(second.public, &sid, "40/chat,").await;
        if answer.status == 200 {
            break;
        }
        assert!(answer.is_unknown_session(), "{}", answer.body);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let connected = get(second.public, &sid).await.body;
    assert!(connected.starts_with("40/chat,{"), "{connected}");
    let mut socket = upgrade(second.public, first.public, &sid).await;
    socket.send("42/chat,1[\"ping\"]").await;
    let Said::Text(answer) = socket.next().await else {
        panic!("the WebSocket is closed");
    };
    assert!(answer.starts_with("43/chat,1["), "{answer}");

    // Both ways.
    let sid = open(second.public).await;
    assert_eq!(post(first.public, &sid, "40/chat,").await.status, 200);

    second.gateway.close().await;
    assert_eq!(socket.next().await, Said::Closed);
    assert!(get(first.public, &sid).await.is_unknown_session());
    second.stop.cancel();
    first.gateway.close().await;
    first.stop.cancel();
}
