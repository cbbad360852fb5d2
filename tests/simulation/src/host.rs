//! Gateways and workers as the world starts and ends them.

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use fanout::Worker;
use gateway::{Cluster, Deps, Gateway, new_id};
use lifecycle::Tasks;
use parking_lot::Mutex;
use prometheus::Registry;
use tokio::{
    io::DuplexStream,
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{
    links::NodeConnector,
    nats::{NodeDocuments, NodeLog, NodeSignals},
    node::{Life, Node, spawn},
    redis::NodeRedis,
    world::World,
};

/// As the roles themselves wait until they try to start again.
const RETRY: Duration = Duration::from_secs(1);
const LEASE: Duration = Duration::from_secs(3);
/// As the role's budgets.
const MARGIN: Duration = Duration::from_secs(2);
const CLOSE: Duration = Duration::from_secs(5);
const LEAVE: Duration = Duration::from_secs(10);
/// Whoever asks another gateway for a session gets to know so much later that it does not answer.
const CLAIM: Duration = Duration::from_secs(6);
/// Where all clients come from.
const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// A gateway that takes clients.
pub(crate) struct Host {
    pub(crate) node: Arc<Node>,
    pub(crate) gateway: Gateway,
    tasks: Tasks,
    /// New connections are refused.
    refuse: CancellationToken,
    leaves: AtomicBool,
    /// It has left what others need.
    left: AtomicBool,
    /// Until then others may not get an answer from it.
    doubtful: Mutex<Option<Instant>>,
}

impl Host {
    /// Returns when it takes clients; one that dies before never does.
    pub(crate) async fn start(world: &Arc<World>, node: &Arc<Node>) -> Arc<Self> {
        let tasks = Tasks::new();
        let id = new_id();
        loop {
            let deps = Deps {
                log: NodeLog::new(node, &world.truth),
                signals: NodeSignals::new(node, &world.signals),
                documents: Arc::new(NodeDocuments {
                    node: Arc::clone(node),
                    inner: world.documents.clone(),
                }),
                links: Box::new(world.cables.plug_in(id.as_str(), node)),
                // Clients here always find the gateway of their session, so none hands a request on.
                cluster: Some(Cluster {
                    address: String::new(),
                    tls: None,
                }),
                limiters: None,
                tasks: tasks.clone(),
                registry: Registry::new(),
                tracer: telemetry::trace::Tracer::off(),
            };
            match Gateway::build(&world.config, id.clone(), deps).await {
                Ok(gateway) => {
                    return Arc::new(Self {
                        node: Arc::clone(node),
                        gateway,
                        tasks,
                        refuse: CancellationToken::new(),
                        leaves: AtomicBool::new(false),
                        left: AtomicBool::new(false),
                        doubtful: Mutex::default(),
                    });
                }
                Err(_) => sleep(RETRY).await,
            }
        }
    }

    /// Whether clients find it.
    pub(crate) fn is_open(&self) -> bool {
        !self.refuse.is_cancelled() && self.node.life() != Life::Dead
    }

    /// Whether it has begun to leave.
    pub(crate) fn leaves(&self) -> bool {
        self.leaves.load(Ordering::Relaxed) || self.node.life() == Life::Dead
    }

    /// For so long others may not get an answer when they ask what it has sent.
    pub(crate) fn doubt(&self, time: Duration) {
        let mut doubtful = self.doubtful.lock();
        *doubtful = (*doubtful).max(Some(Instant::now() + time + CLAIM));
    }

    /// Whether somebody may have asked it in vain.
    pub(crate) fn is_doubtful(&self) -> bool {
        self.node.life() == Life::Dead && !self.left.load(Ordering::Relaxed)
            || self.doubtful.lock().is_some_and(|until| Instant::now() < until)
    }

    /// Serves one connection of a client.
    pub(crate) fn accept(self: &Arc<Self>, stream: DuplexStream) {
        let host = Arc::clone(self);
        self.tasks.spawn("http connection", async move {
            host.gateway
                .serve_stream(stream, CLIENT, host.refuse.clone())
                .await;
        });
    }

    /// As `fanfare gateway` after SIGTERM.
    pub(crate) async fn leave(&self, window: Duration) {
        self.leaves.store(true, Ordering::Relaxed);
        let drain = self.gateway.drain(window, || self.refuse.cancel());
        let drained = timeout(window + MARGIN, drain).await.is_ok();
        let closed = timeout(CLOSE, self.gateway.close()).await.is_ok();
        let left = timeout(LEAVE, self.gateway.leave_sessions()).await.is_ok();
        self.left.store(drained && closed && left, Ordering::Relaxed);
    }
}

/// A worker that runs.
pub(crate) struct Hand {
    pub(crate) node: Arc<Node>,
    stop: CancellationToken,
    ended: CancellationToken,
}

impl Hand {
    /// It works from some moment on.
    pub(crate) fn start(world: &Arc<World>, node: &Arc<Node>) -> Arc<Self> {
        let hand = Arc::new(Self {
            node: Arc::clone(node),
            stop: CancellationToken::new(),
            ended: CancellationToken::new(),
        });
        let (world, runs) = (Arc::clone(world), Arc::clone(&hand));
        spawn(async move {
            runs.run(&world).await;
            runs.ended.cancel();
        });
        hand
    }

    async fn run(&self, world: &Arc<World>) {
        let node = &self.node;
        let worker = loop {
            let redis = NodeRedis {
                node: Arc::clone(node),
                redis: Arc::clone(&world.redis),
            };
            let deps = fanout::Deps {
                log: NodeLog::new(node, &world.truth),
                signals: NodeSignals::new(node, &world.signals),
                leases: Arc::new(redis.clone()),
                checkpoints: Arc::new(redis.clone()),
                snapshots: Arc::new(redis),
                connector: Arc::new(NodeConnector {
                    node: Arc::clone(node),
                    cables: Arc::clone(&world.cables),
                }),
                tasks: Tasks::new(),
                metrics: match fanout::metrics::Metrics::new(&Registry::new()) {
                    Ok(metrics) => Arc::new(metrics),
                    // A registry of its own has no other metrics.
                    Err(_) => return,
                },
                tracer: telemetry::trace::Tracer::off(),
            };
            let settings = fanout::Settings {
                id: node.name.clone(),
                lease: LEASE,
            };
            match Worker::build(settings, deps).await {
                Ok(worker) => break worker,
                Err(_) => sleep(RETRY).await,
            }
        };
        worker.run(self.stop.clone()).await;
    }

    pub(crate) fn leaves(&self) -> bool {
        self.stop.is_cancelled() || self.node.life() == Life::Dead
    }

    /// As `fanfare fanout` after SIGTERM.
    pub(crate) async fn leave(&self) {
        self.stop.cancel();
        let _ = timeout(CLOSE, self.ended.cancelled()).await;
    }
}
