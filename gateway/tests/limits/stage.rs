//! A gateway without workers and presence: nothing is delivered, everything is answered.

use std::{net::SocketAddr, sync::Arc};

use axum::Router;
use bus::{
    documents::memory::MemoryDocuments,
    event_log::memory::{MemoryLog, MemoryLogConfig},
    signals::memory::MemorySignals,
};
use config::Config;
use delivery::local::{LinkLimits, LocalLink, OneLink, pair};
use gateway::{Deps, Gateway, new_id};
use lifecycle::Tasks;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

pub(crate) struct Stage {
    pub(crate) addr: SocketAddr,
    pub(crate) registry: prometheus::Registry,
    gateway: Arc<Gateway>,
    stop: CancellationToken,
    _link: LocalLink,
}

pub(crate) async fn start(config: Config) -> Stage {
    let log = MemoryLog::new(MemoryLogConfig {
        partitions: config.bus.partitions,
        ..MemoryLogConfig::default()
    });
    let (link, deliveries) = pair(config.bus.partitions, LinkLimits::default());
    let tasks = Tasks::new();
    let registry = prometheus::Registry::new();
    let deps = Deps {
        log: Arc::new(log),
        signals: Arc::new(MemorySignals::new()),
        documents: Arc::new(MemoryDocuments::new()),
        links: Box::new(OneLink::new(deliveries)),
        cluster: None,
        limiters: None,
        tasks: tasks.clone(),
        registry: registry.clone(),
    };
    let gateway = Arc::new(Gateway::build(&config, new_id(), deps).await.unwrap());
    let listener = TcpListener::bind(config.gateway.listen).await.unwrap();
    let addr = listener.local_addr().unwrap();
    let stop = CancellationToken::new();
    let (serving, until) = (Arc::clone(&gateway), stop.clone());
    tasks.spawn("serve", async move {
        serving.serve(listener, Router::new(), until).await;
    });
    Stage {
        addr,
        registry,
        gateway,
        stop,
        _link: link,
    }
}

impl Stage {
    pub(crate) async fn close(self) {
        self.stop.cancel();
        self.gateway.close().await;
    }

    /// The sum of a counter or gauge over all that have these values among their labels.
    pub(crate) fn metric(&self, name: &str, labels: &[&str]) -> f64 {
        let families = self.registry.gather();
        let metrics = families.iter().filter(|family| family.name() == name);
        let metrics = metrics.flat_map(|family| family.get_metric());
        metrics
            .filter(|metric| {
                let has = |value: &&str| metric.get_label().iter().any(|label| label.value() == *value);
                labels.iter().all(has)
            })
            .map(|metric| metric.get_counter().get_value() + metric.get_gauge().get_value())
            .sum()
    }
}
