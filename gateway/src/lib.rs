//! The edge: terminates Socket.IO clients. The only crate that speaks Socket.IO.
//!
//! [`Gateway::build`] wires it, [`Gateway::serve`] runs it until it is told to stop.

mod admin_ui;
mod api;
mod control;
mod copies;
mod deliver;
mod drain;
mod events;
mod http;
mod interest;
mod internal;
mod journal;
mod limits;
pub mod metrics;
pub mod peers;
mod presence_feed;
mod proxies;
mod publish;
mod remains;
mod replay;
mod rooms;
pub mod session;
mod spans;
mod trail;
pub mod transport;

use std::{
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use ::limits::Limiters;
use axum::Router;
use bus::{Documents, EventLog, Signals, SignalsError, Subscription, WorkQueue, subjects};
use bytes::Bytes;
use config::Config;
use delivery::{Arrival, Links, Receiver};
use futures_util::future::try_join_all;
use lifecycle::{
    Tasks,
    tls::{ServerTls, TlsError},
};
use model::GatewayId;
use prometheus::Registry;
use prost::Message;
use proto::v1::StateInterest;
use sio::{
    engine::{CloseReason, Timing},
    packet::Limits,
};
use telemetry::{computed::nested, trace::Tracer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
};
use tokio_rustls::rustls::{ClientConfig, ServerConfig};
use tokio_util::sync::CancellationToken;

use crate::{
    admin_ui::Samples,
    control::Control,
    deliver::{Deliverer, Observers},
    events::{Core, Handover, Vocabulary},
    interest::Interest,
    journal::Journal,
    limits::{Addresses, EventLimits, Memory, UserConnections},
    metrics::{Metrics, Queues},
    peers::Peers,
    presence_feed::PresenceFeed,
    publish::Publisher,
    remains::Remains,
    replay::Replay,
    session::{Authenticator, SessionStore, Sessions, SocketServer},
    transport::{EngineOptions, EngineServer, Forwarder},
};
pub use crate::{
    http::{HttpOptions, Mount, health, serve},
    internal::{Internal, serve_internal},
    proxies::Proxies,
    rooms::{Room, Rooms},
};

const HEARTBEAT: Duration = Duration::from_secs(1);
const SWEEP: Duration = Duration::from_secs(1);
/// A gateway that stops gives the application so long to hear who has gone.
const LAST_NEWS: Duration = Duration::from_secs(2);

/// What a gateway is wired to.
pub struct Deps {
    /// The partition logs.
    pub log: Arc<dyn EventLog>,
    /// Volatile messages.
    pub signals: Arc<dyn Signals>,
    /// State that survives.
    pub documents: Arc<dyn Documents>,
    /// The workers that send what is for this gateway's members.
    pub links: Box<dyn Links>,
    /// The other gateways; `None` where there can be none.
    pub cluster: Option<Cluster>,
    /// Counts what users may send at all gateways together; without, each gateway counts for itself.
    pub limiters: Option<Arc<dyn Limiters>>,
    /// Runs its tasks.
    pub tasks: Tasks,
    /// Takes its metrics.
    pub registry: Registry,
    /// Makes the spans of traces that are recorded.
    pub tracer: Tracer,
}

/// How a gateway takes part in a cluster.
pub struct Cluster {
    /// `host:port` at which the others reach the listener of [`Gateway::serve_internal`].
    pub address: String,
    /// TLS towards the others' internal listeners, whose certificates must be for the hosts of their
    /// addresses; plain TCP without.
    pub tls: Option<Arc<ClientConfig>>,
}

/// A running gateway.
pub struct Gateway {
    id: GatewayId,
    /// Empty where there are no other gateways.
    address: String,
    peers: Arc<Peers>,
    forwarder: Option<Arc<Forwarder>>,
    draining: Arc<AtomicBool>,
    engine: Arc<EngineServer>,
    rooms: Arc<Rooms>,
    sessions: Arc<Sessions>,
    core: Arc<Core>,
    /// None where nothing outlives the process.
    remains: Option<Arc<Remains>>,
    metrics: Arc<Metrics>,
    signals: Arc<dyn Signals>,
    path: String,
    http: HttpOptions,
    tasks: Tasks,
}

/// Why a gateway could not be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The log does not answer.
    #[error("the log does not take the gateway's interest: {0}")]
    Log(String),
    /// A setting cannot be used: keys of tokens, a schema of an event, what calls the application.
    #[error(transparent)]
    Setup(#[from] calls::SetupError),
    /// The public listener's certificate cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The bus does not answer.
    #[error(transparent)]
    Signals(#[from] SignalsError),
    /// Two parts of the process use one metric name.
    #[error(transparent)]
    Metrics(#[from] prometheus::Error),
}

impl Gateway {
    /// Wires a gateway. `id` must be new for each run.
    ///
    /// # Errors
    /// When the log does not answer, a metric name is taken, or a setting or the certificate cannot be used.
    pub async fn build(config: &Config, id: GatewayId, deps: Deps) -> Result<Self, BuildError> {
        let Deps {
            log,
            signals,
            documents,
            links,
            cluster,
            limiters,
            tasks,
            registry: all_metrics,
            tracer,
        } = deps;
        let authenticator = Authenticator::new(config, tasks.clone())?;
        let tls = config
            .gateway
            .tls_cert
            .as_ref()
            .zip(config.gateway.tls_key.as_ref());
        let tls = tls
            .map(|(cert, key)| ServerTls::load(cert, key, &[b"http/1.1"]))
            .transpose()?;
        // Put to the others only once the gateway is there: until then it may be built again.
        let registry = Registry::new();
        let access = events::Access::new(config)?;
        let backend = events::Backend::new(config, Arc::clone(&log), Arc::clone(&signals), &tasks)?;
        let metrics = Arc::new(Metrics::new(&registry)?);
        let wishes = signals
            .subscribe(&subjects::state_interest(id.as_str()), None)
            .await?;
        let claims = signals
            .subscribe(&subjects::sessions_of(id.as_str()), None)
            .await?;
        let commands = signals
            .subscribe(&subjects::commands_of(id.as_str()), None)
            .await?;
        let interest = Interest::new(id.clone(), Arc::clone(&log), tasks.clone());
        let journal = Journal::new(&id, config.gateway.recovery);
        let sessions = Arc::new(Sessions::new(config.gateway.recovery));
        let rooms = Rooms::new(
            log.partitions(),
            interest,
            Arc::clone(&journal),
            config.gateway.interest_linger,
        );
        // Nobody is here yet: from these records on the workers know so, and send what concerns who comes.
        let statements = (0..log.partitions()).map(|partition| rooms.state(partition));
        let positions = try_join_all(statements)
            .await
            .map_err(|error| BuildError::Log(error.to_string()))?;
        let samples = Samples::new(Arc::clone(&signals));
        let deliverer = Deliverer::new(
            Arc::clone(&rooms),
            Arc::clone(&journal),
            Arc::clone(&log),
            tasks.clone(),
            Observers {
                metrics: Arc::clone(&metrics),
                tracer: tracer.clone(),
                samples: Arc::clone(&samples),
            },
            &positions,
        );

        let truth_of: Arc<std::sync::OnceLock<std::sync::Weak<EngineServer>>> = Arc::default();
        let truth = Arc::clone(&truth_of);
        let presence = PresenceFeed::start(
            id.clone(),
            Arc::clone(&signals),
            Arc::new(move || {
                let engine = truth.get().and_then(std::sync::Weak::upgrade);
                let conns = engine.map(|engine| engine.all()).unwrap_or_default();
                conns
                    .iter()
                    .flat_map(|conn| conn.sockets.lock().iter().cloned().collect::<Vec<_>>())
                    .collect()
            }),
            &tasks,
            &registry,
        )?;
        let store = (cluster.is_some() && !config.gateway.recovery.is_zero())
            .then(|| SessionStore::new(Arc::clone(&documents), id.clone(), tasks.clone()));
        let inboxes = config.notifications.clone();
        let inboxes = ::notifications::Settings {
            keep: inboxes.keep_per_user as usize,
            expires_in: inboxes.expire,
        };
        let room_keeps = config.bus.max_messages_per_room as usize;
        let replay = Replay::new(Arc::clone(&log), room_keeps);
        let addresses = Arc::new(Addresses::new(&config.limits));
        let memory = Arc::new(Memory::new(config.limits.memory_mb));
        let core = Arc::new(Core {
            rooms: Arc::clone(&rooms),
            journal: Arc::clone(&journal),
            deliverer: Arc::clone(&deliverer),
            sessions: Arc::clone(&sessions),
            moved: Arc::default(),
            max_replay: config.gateway.send_queue,
            backend,
            publisher: Arc::new(Publisher::new(
                Arc::clone(&log),
                Arc::clone(&signals),
                Arc::clone(&metrics),
            )),
            presence,
            notifications: ::notifications::Notifications::new(Arc::clone(&documents), log, inboxes),
            documents,
            signals: Arc::clone(&signals),
            authenticator,
            expiries: session::Expiries::default(),
            access,
            addresses: Arc::clone(&addresses),
            user_connections: UserConnections::new(&config.limits),
            limits: EventLimits::new(config, limiters, &tasks),
            typing: events::Typing::new(tasks.clone()),
            metrics: Arc::clone(&metrics),
            samples: Arc::clone(&samples),
            tracer,
            store: store.clone(),
            replay,
            tasks: tasks.clone(),
        });
        metrics.limits_alone.set(core.limits.are_alone().into());
        let handover = Handover::new(Arc::clone(&core), tasks.clone());
        tasks.background("session hand-over", async move { handover.answer(claims).await });
        let remains = store.map(|store| {
            Arc::new(Remains {
                store,
                journal: Arc::clone(&journal),
                rooms: Arc::clone(&rooms),
                deliverer: Arc::clone(&deliverer),
                sessions: Arc::clone(&sessions),
                partitions: core.publisher.log().partitions(),
            })
        });
        if let Some(remains) = remains.clone() {
            let store = Arc::clone(&remains.store);
            tasks.background("keep sessions", store.run());
            tasks.background("trail", async move { remains.keep_marks(positions).await });
        }
        let vocabulary = Arc::new(Vocabulary::new(Arc::clone(&core)));
        let sockets = SocketServer::new(
            admin_ui::before(vocabulary, &config.admin_ui, &core).await?,
            Limits::default(),
            config.gateway.allow_msgpack,
            Arc::clone(&metrics),
        );
        let settings = &config.gateway;
        let options = EngineOptions {
            gateway: id.clone(),
            timing: Timing {
                ping_interval: settings.ping_interval,
                ping_timeout: settings.ping_timeout,
                upgrade_timeout: settings.upgrade_timeout,
            },
            connect_timeout: Some(settings.connect_timeout),
            max_payload: settings.max_payload,
            body_timeout: settings.body_timeout,
            deflate_from: (settings.compress_from != 0).then_some(settings.compress_from),
            send_queue: settings.send_queue,
            max_connections: settings.max_connections,
            handshakes_per_second: config.limits.handshakes_per_second,
            max_age: settings.max_connection_age,
            allow_eio3: settings.allow_eio3,
            origins: config.cors.origins.clone(),
            affinity_cookie: true,
        };
        let engine = EngineServer::new(options, sockets, tasks.clone(), Arc::clone(&metrics));
        registry.register(Box::new(Queues::new(&engine)?))?;
        engine.limit_by(addresses, Arc::clone(&memory));
        // Set once, right here.
        let _ = truth_of.set(Arc::downgrade(&engine));
        if config.admin_ui.password.is_some() {
            let (engine, metrics) = (Arc::downgrade(&engine), Arc::clone(&metrics));
            let report = admin_ui::report(id.clone(), engine, metrics, Arc::clone(&signals));
            tasks.background("report to admin pages", report);
        }
        if config.admin_ui.password.is_some() && config.admin_ui.events {
            let looks = signals.subscribe(subjects::ADMIN_LOOKS, None).await?;
            let samples = Arc::clone(&samples);
            tasks.background("show events to admin pages", async move {
                samples.follow(looks).await
            });
        }

        let control = Control::new(Arc::clone(&core), Arc::clone(&engine), tasks.clone());
        tasks.background("commands", async move { control.answer(commands).await });

        let peers = Peers::new(id.clone());
        let mut address = String::new();
        let mut forwarder = None;
        if let Some(cluster) = cluster {
            let heartbeats = signals.subscribe(Peers::SUBJECT, None).await?;
            let following = Arc::clone(&peers);
            tasks.background("gateways", async move { following.follow(heartbeats).await });
            let forward = Forwarder::new(Arc::clone(&peers), cluster.tls, tasks.clone());
            engine.forward_by(Arc::clone(&forward));
            forwarder = Some(forward);
            address = cluster.address;
        }

        let http = HttpOptions {
            unread_timeout: settings.body_timeout,
            handshake_timeout: settings.handshake_timeout,
            proxies: Proxies::new(settings.trusted_proxies.clone(), settings.proxy_protocol),
            max_header_bytes: settings.max_header_bytes,
            tls,
        };
        let path = settings.path.clone();
        let gateway = Self {
            id,
            address,
            peers,
            forwarder,
            draining: Arc::default(),
            engine,
            rooms,
            sessions,
            core,
            remains,
            metrics,
            signals,
            path,
            http,
            tasks,
        };
        nested(&all_metrics, "gateway", registry)?;
        gateway.start(deliverer, links, wishes, memory);
        Ok(gateway)
    }

    fn start(
        &self,
        deliverer: Arc<Deliverer>,
        mut links: Box<dyn Links>,
        wishes: Box<dyn Subscription>,
        memory: Arc<Memory>,
    ) {
        if let Some(tls) = &self.http.tls {
            tls.identity().keep_renewed(&self.tasks);
        }
        let tasks = self.tasks.clone();
        self.tasks.background("links", async move {
            while let Some(link) = links.accept().await {
                let deliverer = Arc::clone(&deliverer);
                tasks.background("deliver", async move { receive(&deliverer, link).await });
            }
        });
        let statements = Statements {
            rooms: Arc::clone(&self.rooms),
            signals: Arc::clone(&self.signals),
            tasks: self.tasks.clone(),
        };
        self.tasks
            .background("statements", async move { statements.answer(wishes).await });
        let (core, engine) = (Arc::clone(&self.core), Arc::clone(&self.engine));
        self.tasks.background("sweep", async move {
            loop {
                tokio::time::sleep(SWEEP).await;
                let now = Instant::now();
                core.sweep(now);
                memory.look();
                core.put_expired_out(now_ms() / 1000);
                core.metrics.limits_alone.set(core.limits.are_alone().into());
                let old = engine.close_old(now);
                core.metrics.sent_away("age", old);
            }
        });
        let heartbeat = self.heartbeat();
        let peers = Arc::clone(&self.peers);
        self.tasks.background("heartbeat", async move {
            loop {
                heartbeat(false);
                tokio::select! {
                    () = tokio::time::sleep(HEARTBEAT) => {}
                    () = peers.newcomer() => {}
                }
            }
        });
    }

    /// Tells everybody that no new clients are taken.
    fn set_draining(&self) {
        self.draining.store(true, Ordering::Relaxed);
        self.metrics.draining.set(1);
        self.heartbeat()(false);
    }

    fn heartbeat(&self) -> impl Fn(bool) + Send + Sync + 'static {
        let (id, address, signals, engine, draining) = (
            self.id.to_string(),
            self.address.clone(),
            Arc::clone(&self.signals),
            Arc::clone(&self.engine),
            Arc::clone(&self.draining),
        );
        move |leaving| {
            let beat = proto::v1::GatewayHeartbeat {
                gateway: id.clone(),
                address: address.clone(),
                connections: engine.connections() as u64,
                draining: leaving || draining.load(Ordering::Relaxed),
                leaving,
            };
            if let Err(error) = signals.publish(subjects::GATEWAY_HEARTBEAT, beat.encode_to_vec().into()) {
                tracing::debug!(%error, "a heartbeat was not sent");
            }
        }
    }

    /// Engine.IO sessions there are now.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.engine.connections()
    }

    /// From now on these settings hold: keys of tokens, the session endpoint, policies, public rooms, origins, and
    /// limits but that of memory. Nobody who is in is put out. Other settings are not looked at.
    ///
    /// # Errors
    /// When keys of tokens or a schema cannot be used; then everything is as before.
    pub fn reload(&self, config: &Config) -> Result<(), calls::SetupError> {
        let access = events::Access::new(config)?;
        self.core.authenticator.reload(config)?;
        self.core.access.replace(access);
        self.core.limits.reload(config);
        self.core.addresses.reload(&config.limits);
        self.core.user_connections.reload(&config.limits);
        self.engine.set_rate(config.limits.handshakes_per_second);
        self.engine.set_origins(&config.cors.origins);
        Ok(())
    }

    /// From now on custom events that nobody waits for, and that the application could not handle, and news that it
    /// refuses are buried there, in queue `app`; without such a place they are told in the log alone. The first place counts.
    pub fn bury_in(&self, work: Arc<dyn WorkQueue>) {
        self.core.backend.bury_in(work);
    }

    /// Rooms known here, those of users and sockets included.
    #[must_use]
    pub fn rooms(&self) -> usize {
        self.rooms.len()
    }

    /// Its metrics.
    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Accepts clients until `stop`, then returns; connections go on. `others` answers what is neither under the
    /// Socket.IO path nor under `/api`.
    pub async fn serve(&self, listener: TcpListener, others: Router, stop: CancellationToken) {
        let api = api::router(Arc::clone(&self.core), Arc::clone(&self.engine));
        let others = others.merge(api).fallback(api::not_found);
        serve(
            listener,
            vec![self.mount()],
            self.http.clone(),
            others,
            &self.tasks,
            stop,
        )
        .await;
    }

    /// Serves one client at `ip` over `stream`, which need not come from the network, until that ends. Long-polling
    /// only: a WebSocket is written to by its socket. Dropped, the connection is cut.
    pub async fn serve_stream(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        ip: IpAddr,
        stop: CancellationToken,
    ) {
        let mounts = vec![self.mount()].into();
        http::connection(stream, ip, mounts, self.http.clone(), Router::new(), stop).await;
    }

    /// Accepts other gateways and the workers until `stop`, then returns; what is under way goes on. To be
    /// stopped only after [`Gateway::close`]: until then sessions may be reached through it.
    pub async fn serve_internal(
        &self,
        listener: TcpListener,
        grpc: Router,
        tls: Option<Arc<ServerConfig>>,
        stop: CancellationToken,
    ) {
        let internal = Internal {
            mounts: vec![self.mount()],
            options: self.http.clone(),
            grpc,
            tls,
        };
        serve_internal(listener, internal, &self.tasks, stop).await;
    }

    fn mount(&self) -> Mount {
        Mount {
            path: self.path.clone(),
            engine: Arc::clone(&self.engine),
        }
    }

    /// Ends every connection at engine level, so that clients come back elsewhere, and says goodbye to
    /// the workers. Returns when all are gone; the budget is the caller's.
    pub async fn close(&self) {
        if let Some(forwarder) = &self.forwarder {
            forwarder.close();
        }
        self.engine.close_all(CloseReason::ServerShuttingDown).await;
        self.core.backend.stop();
        // Who does not listen is not waited for.
        let _ = tokio::time::timeout(LAST_NEWS, self.core.application_told()).await;
        self.heartbeat()(true);
    }
}

/// Takes what one worker sends until it is gone.
async fn receive(deliverer: &Arc<Deliverer>, mut link: Box<dyn Receiver>) {
    let mut arrivals: Vec<Arrival> = Vec::new();
    while link.recv_many(&mut arrivals).await {
        deliverer.arrive(arrivals.drain(..), |position| {
            link.acknowledge(position.partition, position.seq);
        });
    }
}

/// States the gateway's rooms to workers that have to begin without knowing them.
struct Statements {
    rooms: Arc<Rooms>,
    signals: Arc<dyn Signals>,
    tasks: Tasks,
}

impl Statements {
    async fn answer(self, mut wishes: Box<dyn Subscription>) {
        while let Some(wish) = wishes.next().await {
            let partition = match StateInterest::decode(wish.payload) {
                Ok(StateInterest { partition }) => u16::try_from(partition).unwrap_or(u16::MAX),
                Err(error) => {
                    tracing::warn!(%error, "a worker's wish cannot be read");
                    continue;
                }
            };
            let (rooms, signals) = (Arc::clone(&self.rooms), Arc::clone(&self.signals));
            self.tasks.spawn("statement", async move {
                match rooms.state(partition).await {
                    Ok(seq) => {
                        tracing::debug!(partition, seq, "stated the rooms that are here");
                        if let Some(Err(error)) =
                            wish.reply.map(|reply| signals.publish(&reply, Bytes::new()))
                        {
                            tracing::debug!(%error, "a worker does not learn that it has the rooms");
                        }
                    }
                    // The worker asks again.
                    Err(error) => tracing::warn!(%error, partition, "the rooms here could not be stated"),
                }
            });
        }
    }
}

/// A new gateway id, random.
#[must_use]
pub fn new_id() -> GatewayId {
    loop {
        let mut id = String::with_capacity(GatewayId::LEN);
        transport::server::push_random(&mut id, GatewayId::LEN);
        if let Ok(id) = GatewayId::new(&id) {
            return id;
        }
    }
}

/// Unix milliseconds.
pub(crate) fn now_ms() -> u64 {
    let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX)
}
