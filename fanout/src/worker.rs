//! A worker: builds the parts and runs them.

use std::{sync::Arc, time::Duration};

use bus::{EventLog, Signals, SignalsError, subjects};
use delivery::Connector;
use lifecycle::Tasks;
use registry::{checkpoints::Checkpoints, leases::LeaseStore, snapshots::InterestSnapshots};
use telemetry::trace::Tracer;
use tokio_util::sync::CancellationToken;

use crate::{gateways::Gateways, metrics::Metrics, ownership::Ownership, partition::Context};

/// Settings of a worker.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Names this run of the worker; no two may be alike.
    pub id: String,
    /// A worker that dies is replaced after so long.
    pub lease: Duration,
}

/// What a worker is wired to.
pub struct Deps {
    /// The partition logs.
    pub log: Arc<dyn EventLog>,
    /// Volatile messages.
    pub signals: Arc<dyn Signals>,
    /// Who owns which partition.
    pub leases: Arc<dyn LeaseStore>,
    /// How far each partition was read.
    pub checkpoints: Arc<dyn Checkpoints>,
    /// Interest tables to begin with.
    pub snapshots: Arc<dyn InterestSnapshots>,
    /// Makes links to gateways.
    pub connector: Arc<dyn Connector>,
    /// Runs its tasks.
    pub tasks: Tasks,
    /// Takes its metrics.
    pub metrics: Arc<Metrics>,
    /// Makes the spans of traces that are recorded.
    pub tracer: Tracer,
}

/// A worker, built and listening but not yet owning anything.
pub struct Worker {
    ownership: Ownership,
    workers: Box<dyn bus::Subscription>,
}

impl Worker {
    /// Wires a worker and begins to listen for gateways and other workers.
    ///
    /// # Errors
    /// When the bus does not answer.
    pub async fn build(settings: Settings, deps: Deps) -> Result<Self, SignalsError> {
        let Deps {
            log,
            signals,
            leases,
            checkpoints,
            snapshots,
            connector,
            tasks,
            metrics,
            tracer,
        } = deps;
        metrics.partitions(log.partitions());
        let gateways = Gateways::new(connector, Arc::clone(&metrics));
        let heartbeats = Gateways::subscribe(&*signals).await?;
        let follows = Arc::clone(&gateways);
        tasks.background("gateways", async move { follows.follow(heartbeats).await });
        let workers = signals.subscribe(subjects::WORKER_HEARTBEAT, None).await?;
        let context = Arc::new(Context {
            log,
            signals: Arc::clone(&signals),
            checkpoints,
            snapshots,
            gateways,
            metrics,
            tracer,
        });
        let Settings { id: worker, lease } = settings;
        Ok(Self {
            ownership: Ownership {
                worker,
                lease,
                leases,
                signals,
                context,
                tasks,
            },
            workers,
        })
    }

    /// Works until `stop`, then hands its partitions over and returns.
    pub async fn run(self, stop: CancellationToken) {
        self.ownership.run(self.workers, stop).await;
    }
}
