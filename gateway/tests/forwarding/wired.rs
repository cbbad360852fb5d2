//! Whole gateways, wired as a process wires them.

use std::{net::SocketAddr, sync::Arc};

use axum::Router;
use bus::{
    documents::memory::MemoryDocuments,
    event_log::memory::{MemoryLog, MemoryLogConfig},
    signals::memory::MemorySignals,
};
use config::{Config, Role};
use delivery::local::{LinkLimits, LocalLink, pair};
use gateway::{Cluster, Deps, Gateway, new_id};
use lifecycle::Tasks;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::client::{get, open_at, post_at};

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
        deliveries,
        cluster: Some(Cluster {
            address: internal.local_addr().unwrap().to_string(),
            tls: None,
        }),
        tasks: tasks.clone(),
        registry: prometheus::Registry::new(),
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
