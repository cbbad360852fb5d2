//! A gateway by itself on engines in memory: no worker, no presence service but what a test plays.
#![allow(dead_code, reason = "each suite uses its part")]

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
use model::GatewayId;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

pub(crate) struct Alone {
    pub(crate) id: GatewayId,
    pub(crate) addr: SocketAddr,
    pub(crate) config: Config,
    pub(crate) gateway: Arc<Gateway>,
    pub(crate) log: MemoryLog,
    pub(crate) signals: Arc<MemorySignals>,
    /// To the gateway, as a worker has it.
    pub(crate) link: LocalLink,
    pub(crate) registry: prometheus::Registry,
    stop: CancellationToken,
}

pub(crate) async fn start(config: Config) -> Alone {
    start_with(config, |_| {}).await
}

/// On engines that a test may put something before.
pub(crate) async fn start_with(config: Config, change: impl FnOnce(&mut Deps)) -> Alone {
    let log = MemoryLog::new(MemoryLogConfig {
        partitions: config.bus.partitions,
        ..MemoryLogConfig::default()
    });
    let signals = Arc::new(MemorySignals::new());
    let (link, deliveries) = pair(config.bus.partitions, LinkLimits::default());
    let tasks = Tasks::new();
    let registry = prometheus::Registry::new();
    let mut deps = Deps {
        log: Arc::new(log.clone()),
        signals: Arc::clone(&signals) as _,
        documents: Arc::new(MemoryDocuments::new()),
        links: Box::new(OneLink::new(deliveries)),
        cluster: None,
        limiters: None,
        tasks: tasks.clone(),
        registry: registry.clone(),
        tracer: telemetry::trace::Tracer::off(),
    };
    change(&mut deps);
    let id = new_id();
    let gateway = Arc::new(Gateway::build(&config, id.clone(), deps).await.unwrap());
    let listener = TcpListener::bind(config.gateway.listen).await.unwrap();
    let addr = listener.local_addr().unwrap();
    let stop = CancellationToken::new();
    let (serving, until) = (Arc::clone(&gateway), stop.clone());
    tasks.spawn("serve", async move {
        serving.serve(listener, Router::new(), until).await;
    });
    Alone {
        id,
        addr,
        config,
        gateway,
        log,
        signals,
        link,
        registry,
        stop,
    }
}

impl Alone {
    pub(crate) async fn stop(self) {
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
