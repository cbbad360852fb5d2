//! What the roles of a cluster are wired to: NATS and Redis, waited for and watched.

use std::{
    collections::HashMap,
    net::{SocketAddr, ToSocketAddrs, UdpSocket},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, bail};
use async_trait::async_trait;
use bus::{
    Documents, DocumentsError, EventLog, Signals, WorkQueue, WorkSettings,
    documents::nats::{NatsDocuments, NatsDocumentsConfig},
    event_log::nats::{NatsLog, NatsLogConfig, OpenError},
    nats::{NatsConfig, NatsHealth, connect_waiting},
    signals::nats::NatsSignals,
    work_queue::nats::NatsWork,
};
use bytes::Bytes;
use config::{Config, RedisTopology};
use delivery::tls::InternalTls;
use lifecycle::Condition;
use limits::{Limiters, rate_limiter::redis::RedisLimiters};
use registry::{
    RegistryError,
    leases::Epochs,
    redis::{self, Redis, RedisConfig, Topology},
};

use tokio::sync::watch;

use crate::{
    measured::{MeasuredDocuments, MeasuredLog, MeasuredSignals},
    metrics::{self, BusCalls},
    process::Process,
};

/// Records are larger than the payloads they carry by the names and ids around them.
pub(crate) const RECORD_OVERHEAD: usize = 64 * 1024;
/// Pause before the log is asked for again.
const RETRY: Duration = Duration::from_secs(1);
/// Where the fencing epochs are counted.
const EPOCHS: &str = "FANFARE_EPOCHS";

/// The engines on NATS.
pub(crate) struct Bus {
    pub(crate) log: Arc<dyn EventLog>,
    pub(crate) signals: Arc<dyn Signals>,
    pub(crate) documents: Arc<dyn Documents>,
    pub(crate) work: Arc<dyn WorkQueue>,
}

/// Connects to NATS and opens the log, waiting for both as long as it takes. From then on `/readyz` says
/// whether the connection stands.
///
/// # Errors
/// When waiting does not help: a setting that does not fit, or streams that were made otherwise.
pub(crate) async fn bus(process: &Process, name: &str) -> anyhow::Result<Bus> {
    let config = &process.config;
    let condition = process.readiness.condition("NATS");
    let health = NatsHealth::new();
    metrics::nats(&process.registry, &health)?;
    let calls = BusCalls::register(&process.registry)?;
    let nats = nats_settings(config, name);
    condition.missing("waiting for NATS");
    let client = connect_waiting(&nats, &health).await?;
    let settings = NatsLogConfig {
        partitions: config.bus.partitions,
        replicas: config.bus.replicas,
        max_age: config.bus.max_age,
        max_messages_per_room: config.bus.max_messages_per_room as usize,
        max_record_bytes: config.gateway.max_payload + RECORD_OVERHEAD,
        ..NatsLogConfig::default()
    };
    condition.missing("waiting for the log (JetStream)");
    let log = loop {
        match NatsLog::open(client.clone(), settings.clone()).await {
            Ok(log) => break log,
            Err(OpenError::Unavailable(reason)) => {
                tracing::warn!("waiting for the log: {reason}");
                tokio::time::sleep(RETRY).await;
            }
            Err(error) => return Err(error).context("the log cannot be used"),
        }
    };
    let work = WorkSettings {
        replicas: usize::from(config.bus.replicas),
        ..WorkSettings::default()
    };
    let bus = Bus {
        work: Arc::new(NatsWork::open(client.clone(), work)),
        log: MeasuredLog::new(Arc::new(log), &calls),
        signals: MeasuredSignals::new(Arc::new(NatsSignals::new(client.clone())), &calls),
        documents: MeasuredDocuments::new(
            Arc::new(NatsDocuments::open(
                client,
                NatsDocumentsConfig {
                    replicas: usize::from(config.bus.replicas),
                    max_age: HashMap::from([
                        (
                            gateway::session::SESSION_BUCKET.to_owned(),
                            config.gateway.recovery + gateway::session::SPARE_AGE,
                        ),
                        (
                            fanout::DEPARTURES_BUCKET.to_owned(),
                            config.gateway.recovery + gateway::session::SPARE_AGE,
                        ),
                        (notifications::BUCKET.to_owned(), notifications::MAX_AGE),
                        (
                            fanout::publisher::IMPORTANT_BUCKET.to_owned(),
                            2 * fanout::publisher::IMPORTANT_AGE,
                        ),
                        (
                            fanout::publisher::QUESTIONS_BUCKET.to_owned(),
                            fanout::publisher::QUESTIONS_AGE,
                        ),
                    ]),
                    ..NatsDocumentsConfig::default()
                },
            )),
            &calls,
        ),
    };
    process
        .tasks
        .background("nats health", async move { watch(&health, &condition).await });
    Ok(bus)
}

async fn watch(health: &NatsHealth, condition: &Condition) {
    loop {
        health.connected().await;
        condition.met();
        health.disconnected().await;
        condition.missing("the connection to NATS is lost");
    }
}

/// Limits that hold for all gateways together. A gateway does not wait for Redis: until it is there, and while it
/// is away, each gateway counts by itself. `None` without a Redis.
pub(crate) fn limiters(process: &Process) -> Option<Arc<dyn Limiters>> {
    if process.config.redis.url.is_none() {
        tracing::warn!("no redis.url (REDIS_URL): rate limits hold for each gateway by itself");
        return None;
    }
    let (found, redis) = watch::channel(None);
    let settings = redis_settings(&process.config.redis);
    let registry = process.registry.clone();
    process.tasks.background("find redis", async move {
        match redis::connect_waiting(&settings).await {
            Ok(redis) => {
                if let Err(error) = metrics::redis(&registry, &redis) {
                    tracing::error!(%error, "calls of Redis are not counted");
                }
                found.send_replace(Some(redis));
            }
            Err(error) => tracing::error!(%error, "rate limits hold for each gateway by itself"),
        }
    });
    Some(Arc::new(RedisLimiters::new(redis)))
}

/// Limits that hold for all processes on this Redis together.
pub(crate) fn limiters_on(redis: Redis) -> Arc<dyn Limiters> {
    let (_, redis) = watch::channel(Some(redis));
    Arc::new(RedisLimiters::new(redis))
}

/// Connects to Redis, waiting as long as it takes. From then on `/readyz` says whether the connection stands.
///
/// # Errors
/// When waiting does not help: a setting that cannot be used.
pub(crate) async fn redis(process: &Process) -> anyhow::Result<Redis> {
    let condition = process.readiness.condition("Redis");
    condition.missing("waiting for Redis");
    let redis = redis::connect_waiting(&redis_settings(&process.config.redis)).await?;
    metrics::redis(&process.registry, &redis)?;
    let watched = redis.clone();
    process.tasks.background("redis health", async move {
        loop {
            if watched.is_connected() {
                condition.met();
            } else {
                condition.missing("the connection to Redis is lost");
            }
            tokio::time::sleep(RETRY).await;
        }
    });
    Ok(redis)
}

/// How to connect to NATS, as a client of that name.
pub(crate) fn nats_settings(config: &Config, name: &str) -> NatsConfig {
    let servers = config.bus.url.as_ref().map(|url| url.expose().to_owned());
    NatsConfig {
        servers: servers.unwrap_or_default(),
        credentials: config.bus.credentials.clone(),
        ca: config.bus.tls_ca.clone(),
        client_certificate: config.bus.tls_cert.clone().zip(config.bus.tls_key.clone()),
        name: name.to_owned(),
        ..NatsConfig::default()
    }
}

pub(crate) fn redis_settings(config: &config::Redis) -> RedisConfig {
    let urls = config.url.as_ref().map(|url| url.expose().to_owned());
    RedisConfig {
        urls: urls.unwrap_or_default(),
        topology: match config.topology {
            RedisTopology::Single => Topology::Single,
            RedisTopology::Cluster => Topology::Cluster,
            RedisTopology::Sentinel => Topology::Sentinel {
                master: config.sentinel_master.clone(),
            },
        },
        ca: config.tls_ca.clone(),
        client_certificate: config.tls_cert.clone().zip(config.tls_key.clone()),
        ..RedisConfig::default()
    }
}

/// Fencing epochs: the revisions of JetStream keys, which never go back, whatever Redis forgets.
pub(crate) struct DocumentEpochs(pub(crate) Arc<dyn Documents>);

#[async_trait]
impl Epochs for DocumentEpochs {
    async fn next(&self, name: &str) -> Result<u64, RegistryError> {
        let away = |error: DocumentsError| RegistryError::Unavailable(error.to_string());
        loop {
            let known = self.0.get(EPOCHS, name).await.map_err(away)?;
            let revision = known.map(|document| document.revision);
            match self.0.put(EPOCHS, name, Bytes::new(), revision).await {
                Ok(epoch) => return Ok(epoch),
                Err(DocumentsError::Conflict(_)) => {}
                Err(error) => return Err(away(error)),
            }
        }
    }
}

/// Certificates for what the roles say to each other, if there are any; renewed ones are taken up as long as the
/// process runs.
///
/// # Errors
/// When a file cannot be used.
pub(crate) fn internal_tls(process: &Process) -> anyhow::Result<Option<InternalTls>> {
    let files = &process.config.grpc;
    let (Some(cert), Some(key), Some(ca)) = (&files.tls_cert, &files.tls_key, &files.tls_ca) else {
        return Ok(None);
    };
    let mut tls = InternalTls::load(cert, key, ca)?;
    if let Some(name) = &files.tls_server_name {
        tls = tls.with_server_name(name)?;
    }
    tls.identity().keep_renewed(&process.tasks);
    Ok(Some(tls))
}

/// Where other roles reach this one's `listener`: what the configuration says, else the address it
/// listens on, else the one this machine has towards NATS.
///
/// # Errors
/// When it cannot be found out.
pub(crate) fn advertised(config: &Config, listener: SocketAddr) -> anyhow::Result<String> {
    if let Some(address) = &config.gateway.advertise {
        return Ok(address.clone());
    }
    if !listener.ip().is_unspecified() {
        return Ok(listener.to_string());
    }
    let servers = config
        .bus
        .url
        .as_ref()
        .map(|url| url.expose())
        .unwrap_or_default();
    for address in servers.split(',').filter_map(nats_address).flatten() {
        let any: SocketAddr = if address.is_ipv4() {
            ([0, 0, 0, 0], 0).into()
        } else {
            ([0u16; 8], 0).into()
        };
        let local = UdpSocket::bind(any).and_then(|socket| {
            // Sends nothing; the system only chooses the way.
            socket.connect(address)?;
            socket.local_addr()
        });
        if let Ok(local) = local {
            return Ok(SocketAddr::new(local.ip(), listener.port()).to_string());
        }
    }
    bail!(
        "the address of this gateway cannot be found out: set gateway.advertise (FANFARE_GATEWAY__ADVERTISE)"
    )
}

fn nats_address(server: &str) -> Option<impl Iterator<Item = SocketAddr>> {
    let rest = server.trim().rsplit_once("://").map_or(server, |(_, rest)| rest);
    let host = rest
        .rsplit_once('@')
        .map_or(rest, |(_, host)| host)
        .trim_end_matches('/');
    let with_port = host.to_socket_addrs().or_else(|_| (host, 4222).to_socket_addrs());
    with_port.ok()
}
