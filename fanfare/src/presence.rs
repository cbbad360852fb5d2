//! `fanfare presence`: the order of start and stop.

use std::{sync::Arc, time::Duration};

use anyhow::Context;
use apikeys::Keys;
use bus::Signals;
use config::Config;
use lifecycle::Tasks;
use presence::{Metrics, Service, Settings, api};
use prometheus::Registry;
use registry::presence_store::{PresenceStore, redis::RedisPresence};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    cluster,
    process::{Process, bind, listener_tls},
};

const STOP_BUDGET: Duration = Duration::from_secs(3);

pub(crate) async fn run(process: Process) -> anyhow::Result<()> {
    let working = process.readiness.condition("working");
    let Some(service) = process.stop.run_until_cancelled(Box::pin(start(&process))).await else {
        return Ok(());
    };
    let service = service?;
    working.met();
    tracing::info!("working");
    let ended = service.run(process.stop.clone()).await;
    working.missing("stopping");
    let late = process.tasks.shutdown(STOP_BUDGET).await;
    tracing::info!(late, "stopped");
    Ok(ended?)
}

async fn start(process: &Process) -> anyhow::Result<Service> {
    let config = &process.config;
    let id = format!("presence-{}", Uuid::new_v4().simple());
    let metrics = Metrics::register(&process.registry)?;
    let bus = cluster::bus(process, &id).await?;
    let redis = cluster::redis(process).await?;
    let store: Arc<dyn PresenceStore> = Arc::new(RedisPresence::new(redis));
    let signals: Arc<dyn Signals> = bus.signals;
    let keys = Keys::new(config.api.key.as_ref(), &config.api.keys);
    process.reloads.set_keys(keys.clone());
    serve_api(
        config,
        keys,
        Arc::clone(&store),
        Arc::clone(&signals),
        &process.tasks,
        &process.registry,
        process.stop.clone(),
    )
    .await?;
    let deps = presence::Deps {
        store,
        signals,
        tasks: process.tasks.clone(),
        metrics,
        clock: presence::system_clock(),
    };
    Ok(Service::build(deps, settings(config)).await?)
}

/// The service as configured.
pub(crate) fn settings(config: &Config) -> Settings {
    Settings {
        partitions: config.bus.partitions,
        grace: config.presence.grace,
        crowd: config.presence.crowd_size,
        ..Settings::default()
    }
}

/// Serves the presence API to whoever has one of `keys` until `stop`; without a key on loopback only (CONTRACT section 3).
///
/// # Errors
/// When the address cannot be used or the bus does not answer.
pub(crate) async fn serve_api(
    config: &Config,
    keys: Keys,
    store: Arc<dyn PresenceStore>,
    signals: Arc<dyn Signals>,
    tasks: &Tasks,
    registry: &Registry,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let address = keys.listen_on(config.presence.grpc_listen);
    let listener = bind(address, "the presence API's address").await?;
    let deps = api::Deps {
        store,
        signals,
        tasks: tasks.clone(),
        metrics: api::Metrics::register(registry)?,
    };
    let tls = listener_tls(&config.api.tls_cert, &config.api.tls_key, tasks)?;
    let settings = api::Settings {
        keys,
        ..api::Settings::default()
    };
    let routes = api::router(deps, settings, stop.clone())
        .await
        .context("the presence API cannot start")?;
    tracing::info!(address = %listener.local_addr()?, "presence API");
    let (router, connections) = (routes.into_axum_router(), tasks.clone());
    tasks.spawn("presence API", async move {
        lifecycle::serve(listener, router, tls, &connections, stop).await;
    });
    Ok(())
}
