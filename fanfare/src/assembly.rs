//! Wires gateway, worker and presence to in-memory engines: one process, nothing to install.

use std::{sync::Arc, time::Duration};

use anyhow::Context;
use apikeys::Keys;
use axum::Router;
use bus::{
    documents::memory::MemoryDocuments,
    event_log::memory::{MemoryLog, MemoryLogConfig},
    signals::memory::MemorySignals,
    work_queue::{WorkSettings, memory::MemoryWork},
};
use config::Config;
use delivery::local::{LinkLimits, LocalLinks, OneLink, pair};
use fanout::{Sockets, publisher::Notifier};
use gateway::Gateway;
use lifecycle::{Tasks, phase};
use prometheus::Registry;
use registry::{
    checkpoints::memory::MemoryCheckpoints,
    leases::memory::MemoryLeases,
    presence_store::{PresenceStore, memory::MemoryPresence},
    snapshots::memory::MemorySnapshots,
};
use telemetry::trace::Tracer;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::{
    demo::{self, Tokens},
    notifications,
    presence::{serve_api, settings},
    publisher, redis_emitter,
};

/// Records are larger than the payloads they carry by the names and ids around them.
const RECORD_OVERHEAD: usize = 64 * 1024;
/// The one worker.
const WORKER: &str = "standalone";
/// Nobody else could take a partition over; a machine that stood still must not lose it.
const LEASE: Duration = Duration::from_secs(24 * 3600);
/// How often it is looked whether the worker owns every partition.
const OWNED: Duration = Duration::from_millis(1);
const CLOSE_BUDGET: Duration = Duration::from_secs(5);
const STOP_BUDGET: Duration = Duration::from_secs(3);

/// Everything of a standalone server.
pub(crate) struct Assembly {
    gateway: Arc<Gateway>,
    keys: Keys,
    signals: Arc<MemorySignals>,
    notifier: Arc<dyn Notifier>,
    tasks: Tasks,
    /// Ends worker and presence, after the gateway.
    behind: CancellationToken,
}

impl Assembly {
    /// Starts the services behind the gateway, then the gateway; it accepts nobody yet.
    pub(crate) async fn start(
        config: &Config,
        tasks: &Tasks,
        registry: &Registry,
        tracer: Tracer,
    ) -> anyhow::Result<Self> {
        let log = Arc::new(MemoryLog::new(MemoryLogConfig {
            partitions: config.bus.partitions,
            max_messages_per_room: config.bus.max_messages_per_room as usize,
            max_age: config.bus.max_age,
            max_record_bytes: config.gateway.max_payload + RECORD_OVERHEAD,
            ..MemoryLogConfig::default()
        }));
        let signals = Arc::new(MemorySignals::new());
        let documents = Arc::new(MemoryDocuments::new());
        let behind = CancellationToken::new();

        let metrics = presence::Metrics::register(registry)?;
        let store: Arc<dyn PresenceStore> = Arc::new(MemoryPresence::new());
        let keys = Keys::new(config.api.key.as_ref(), &config.api.keys);
        serve_api(
            config,
            keys.clone(),
            Arc::clone(&store),
            signals.clone(),
            tasks,
            registry,
            behind.clone(),
        )
        .await?;
        let deps = presence::Deps {
            store,
            signals: signals.clone(),
            tasks: tasks.clone(),
            metrics,
            clock: presence::system_clock(),
        };
        let presence = presence::Service::build(deps, settings(config)).await?;
        let stop = behind.clone();
        tasks.spawn("presence", async move {
            if let Err(error) = presence.run(stop).await {
                tracing::error!(%error, "the presence service has ended");
            }
        });

        let notifier = notifications::start(
            config,
            notifications::Deps {
                documents: documents.clone(),
                log: log.clone(),
                work: Arc::new(MemoryWork::new(WorkSettings::default())),
                limiters: None,
            },
            tasks,
            registry,
        )?;
        let (sockets, following) = Sockets::following(signals.clone(), None).await?;
        tasks.background("gateways that take commands", following);
        let deps = fanout::publisher::Deps {
            log: log.clone(),
            signals: signals.clone(),
            sockets: sockets.clone(),
            documents: documents.clone(),
            notifier: Arc::clone(&notifier),
            tasks: tasks.clone(),
            metrics: fanout::publisher::Metrics::register(registry)?,
            tracer: tracer.clone(),
        };
        publisher::serve(config, keys.clone(), deps, behind.clone()).await?;
        let shared = redis_emitter::Shared {
            worker: WORKER.to_owned(),
            log: log.clone(),
            signals: signals.clone(),
            sockets,
            documents: documents.clone(),
            leases: Arc::new(MemoryLeases::new()),
        };
        redis_emitter::start(config, shared, tasks, registry, behind.clone()).await?;

        let links = LocalLinks::new();
        let settings = fanout::Settings {
            id: WORKER.to_owned(),
            lease: LEASE,
        };
        let metrics = Arc::new(fanout::metrics::Metrics::new(registry)?);
        let deps = fanout::Deps {
            log: log.clone(),
            signals: signals.clone(),
            leases: Arc::new(MemoryLeases::new()),
            checkpoints: Arc::new(MemoryCheckpoints::new()),
            snapshots: Arc::new(MemorySnapshots::new()),
            connector: Arc::new(links.clone()),
            tasks: tasks.clone(),
            metrics: Arc::clone(&metrics),
            tracer: tracer.clone(),
        };
        let worker = fanout::Worker::build(settings, deps).await?;
        let stop = behind.clone();
        tasks.spawn("worker", async move { worker.run(stop).await });
        // It begins with an empty log and so knows of every interest by itself: nobody has to state rooms and
        // to read a log that keeps no more than each room's history.
        while metrics.owned() < i64::from(config.bus.partitions) {
            tokio::time::sleep(OWNED).await;
        }

        let id = gateway::new_id();
        let (link, deliveries) = pair(config.bus.partitions, LinkLimits::default());
        links.register(id.as_str(), link);
        let deps = gateway::Deps {
            log,
            signals: signals.clone(),
            documents,
            links: Box::new(OneLink::new(deliveries)),
            cluster: None,
            limiters: None,
            tasks: tasks.clone(),
            registry: registry.clone(),
            tracer,
        };
        let gateway = Gateway::build(config, id, deps)
            .await
            .context("the gateway cannot start")?;
        Ok(Self {
            gateway: Arc::new(gateway),
            keys,
            signals,
            notifier,
            tasks: tasks.clone(),
            behind,
        })
    }

    /// Its gateway.
    pub(crate) fn gateway(&self) -> Arc<Gateway> {
        Arc::clone(&self.gateway)
    }

    /// The keys of its APIs for servers.
    pub(crate) fn keys(&self) -> Keys {
        self.keys.clone()
    }

    /// Accepts clients on `listener` until `stop`; the page hands out `tokens`.
    pub(crate) fn open(
        &self,
        config: &Config,
        tokens: Option<Tokens>,
        listener: TcpListener,
        stop: CancellationToken,
    ) -> anyhow::Result<()> {
        let port = listener.local_addr()?.port();
        let demo = demo::router(
            Arc::clone(&self.gateway),
            self.signals.clone(),
            tokens.map(|tokens| tokens.router(Arc::clone(&self.notifier))),
        );
        let others = Router::new()
            .merge(gateway::health(&config.environment, port, stop.clone()))
            .merge(demo);
        let gateway = Arc::clone(&self.gateway);
        self.tasks.spawn(
            "accept",
            async move { gateway.serve(listener, others, stop).await },
        );
        Ok(())
    }

    /// Ends everything, front to back.
    pub(crate) async fn stop(self) {
        phase("close connections", CLOSE_BUDGET, self.gateway.close()).await;
        self.behind.cancel();
        let late = self.tasks.shutdown(STOP_BUDGET).await;
        tracing::info!(late, "stopped");
    }
}
