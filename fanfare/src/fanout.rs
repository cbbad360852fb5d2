//! `fanfare fanout`: the order of start and stop.

use std::{sync::Arc, time::Duration};

use apikeys::Keys;
use delivery::{LinkLimits, grpc::GrpcConnector};
use fanout::{Sockets, Worker, metrics::Metrics};
use lifecycle::phase;
use registry::{
    checkpoints::redis::RedisCheckpoints, leases::redis::RedisLeases, snapshots::redis::RedisSnapshots,
};
use uuid::Uuid;

use crate::{
    cluster::{self, DocumentEpochs, RECORD_OVERHEAD, internal_tls},
    metrics, notifications,
    process::Process,
    publisher, redis_emitter,
};

/// A worker that dies is replaced after so long (DESIGN, "Workers").
const LEASE: Duration = Duration::from_secs(3);
const HAND_OVER_BUDGET: Duration = Duration::from_secs(5);
const STOP_BUDGET: Duration = Duration::from_secs(3);

pub(crate) async fn run(process: Process) -> anyhow::Result<()> {
    let working = process.readiness.condition("working");
    let Some(worker) = process.stop.run_until_cancelled(Box::pin(start(&process))).await else {
        return Ok(());
    };
    let worker = worker?;
    working.met();
    tracing::info!("working");
    let (stop, tasks) = (process.stop.clone(), process.tasks.clone());
    let hand_over = process.stop.clone();
    let worker = worker.run(stop);
    tokio::pin!(worker);
    tokio::select! {
        () = &mut worker => {}
        () = hand_over.cancelled() => {
            working.missing("stopping");
            phase("hand partitions over", HAND_OVER_BUDGET, worker).await;
        }
    }
    let late = tasks.shutdown(STOP_BUDGET).await;
    tracing::info!(late, "stopped");
    Ok(())
}

async fn start(process: &Process) -> anyhow::Result<Worker> {
    let config = &process.config;
    let id = format!("worker-{}", Uuid::new_v4().simple());
    let tls = internal_tls(process)?;
    let counts = Arc::new(Metrics::new(&process.registry)?);
    let bus = cluster::bus(process, &id).await?;
    let redis = cluster::redis(process).await?;
    let notifier = notifications::start(
        config,
        notifications::Deps {
            documents: bus.documents.clone(),
            log: bus.log.clone(),
            work: bus.work,
            limiters: Some(cluster::limiters_on(redis.clone())),
        },
        &process.tasks,
        &process.registry,
    )?;
    let (sockets, following) = Sockets::following(bus.signals.clone(), Some(bus.documents.clone())).await?;
    process.tasks.background("gateways that take commands", following);
    let deps = fanout::publisher::Deps {
        log: bus.log.clone(),
        signals: bus.signals.clone(),
        sockets: sockets.clone(),
        documents: bus.documents.clone(),
        notifier,
        tasks: process.tasks.clone(),
        metrics: fanout::publisher::Metrics::register(&process.registry)?,
        tracer: process.tracer.clone(),
    };
    let keys = Keys::new(config.api.key.as_ref(), &config.api.keys);
    process.reloads.set_keys(keys.clone());
    let publisher = publisher::serve(config, keys, deps, process.stop.clone()).await?;
    publisher.serve_bus(process.stop.clone()).await?;
    let epochs = Arc::new(DocumentEpochs(bus.documents.clone()));
    let connector = GrpcConnector::new(&id, config.bus.partitions, LinkLimits::default(), tls)
        .max_record(config.gateway.max_payload + RECORD_OVERHEAD);
    metrics::links(&process.registry, &connector.meter())?;
    let leases = Arc::new(RedisLeases::new(redis.clone(), epochs));
    let shared = redis_emitter::Shared {
        worker: id.clone(),
        log: bus.log.clone(),
        signals: bus.signals.clone(),
        sockets,
        documents: bus.documents.clone(),
        leases: leases.clone(),
    };
    let stop = process.stop.clone();
    redis_emitter::start(config, shared, &process.tasks, &process.registry, stop).await?;
    let settings = fanout::Settings { id, lease: LEASE };
    let deps = fanout::Deps {
        log: bus.log,
        signals: bus.signals,
        leases,
        checkpoints: Arc::new(RedisCheckpoints::new(redis.clone())),
        snapshots: Arc::new(RedisSnapshots::new(redis)),
        connector: Arc::new(connector),
        tasks: process.tasks.clone(),
        metrics: counts,
        tracer: process.tracer.clone(),
    };
    Ok(Worker::build(settings, deps).await?)
}
