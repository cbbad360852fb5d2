//! The bridge for `@socket.io/redis-emitter` as configured, in a worker and in standalone.

use std::sync::Arc;

use anyhow::Context;
use bus::{Documents, DocumentsError, EventLog, Signals};
use config::Config;
use fanout::{
    Sockets,
    redis_emitter::{Bridge, Deps, Metrics, Settings, wanted},
};
use lifecycle::Tasks;
use prometheus::Registry;
use registry::{
    leases::LeaseStore,
    redis::{Feed, RedisConfig},
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::cluster::redis_settings;

/// Where a cluster keeps who it is.
const CLUSTER: (&str, &str) = ("FANFARE_CLUSTER", "id");

/// What the bridge shares with the worker.
pub(crate) struct Shared {
    pub(crate) worker: String,
    pub(crate) log: Arc<dyn EventLog>,
    pub(crate) signals: Arc<dyn Signals>,
    pub(crate) sockets: Sockets,
    pub(crate) documents: Arc<dyn Documents>,
    pub(crate) leases: Arc<dyn LeaseStore>,
}

/// Bridges until `stop`, if that is asked for; its metrics are there in any case.
///
/// # Errors
/// When the Redis cannot be used as configured, or the cluster has no name yet and the bus does not answer.
pub(crate) async fn start(
    config: &Config,
    shared: Shared,
    tasks: &Tasks,
    registry: &Registry,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let metrics = Metrics::register(registry)?;
    let emitters = &config.redis_emitter;
    if !emitters.enabled {
        return Ok(());
    }
    let redis = match &emitters.url {
        Some(url) => RedisConfig {
            urls: url.expose().to_owned(),
            ..RedisConfig::default()
        },
        None => redis_settings(&config.redis),
    };
    let cluster = cluster_id(&*shared.documents).await?;
    let feed = Feed::start(&redis, wanted(&cluster, &emitters.key)).context("redis_emitter")?;
    let settings = Settings {
        worker: shared.worker,
        cluster,
        key: emitters.key.clone(),
        max_payload: config.gateway.max_payload,
    };
    let deps = Deps {
        feed,
        log: shared.log,
        signals: shared.signals,
        sockets: shared.sockets,
        leases: shared.leases,
        metrics,
    };
    let bridge = Bridge::new(settings, deps);
    tasks.spawn("redis emitters", async move { bridge.run(stop).await });
    Ok(())
}

/// What the first worker of all has chosen.
async fn cluster_id(documents: &dyn Documents) -> Result<String, DocumentsError> {
    let (bucket, key) = CLUSTER;
    loop {
        if let Some(known) = documents.get(bucket, key).await? {
            return Ok(String::from_utf8_lossy(&known.value).into_owned());
        }
        let id = Uuid::new_v4().simple().to_string();
        match documents.put(bucket, key, id.clone().into(), None).await {
            Ok(_) => return Ok(id),
            Err(DocumentsError::Conflict(_)) => {}
            Err(error) => return Err(error),
        }
    }
}
