//! One run: a cluster, its clients, what goes wrong, and what is checked.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bus::{documents::memory::MemoryDocuments, signals::memory::MemorySignals};
use config::{Config, Role};
use delivery::local::LinkLimits;
use parking_lot::Mutex;

use crate::{
    dice::Dice,
    host::{Hand, Host},
    links::Cables,
    node::{Life, Node, spawn},
    redis::Redis,
    trace::Trace,
    truth::Truth,
    view::Broken,
};

/// Signs the clients' tokens.
pub(crate) const SECRET: &str = "a secret of the simulation, long enough";

pub(crate) struct World {
    pub(crate) seed: u64,
    pub(crate) config: Config,
    pub(crate) truth: Arc<Truth>,
    pub(crate) signals: MemorySignals,
    pub(crate) documents: MemoryDocuments,
    pub(crate) redis: Arc<Redis>,
    pub(crate) cables: Arc<Cables>,
    pub(crate) trace: Trace,
    hosts: Mutex<Vec<Arc<Host>>>,
    hands: Mutex<Vec<Arc<Hand>>>,
    /// Processes so far, for their names.
    started: AtomicUsize,
    acknowledged: AtomicUsize,
    broken: Mutex<Vec<(String, Broken)>>,
}

/// What a cluster looks like.
#[derive(Debug)]
pub(crate) struct Shape {
    pub(crate) partitions: u16,
    pub(crate) gateways: usize,
    pub(crate) workers: usize,
    pub(crate) clients: usize,
    pub(crate) rooms: usize,
    recovery: Duration,
    ping: Duration,
    linger: Duration,
    link: usize,
}

impl Shape {
    pub(crate) fn draw(dice: &Dice) -> Self {
        let seconds = |choices: &[u64]| Duration::from_secs(dice.one_of(choices).copied().unwrap_or(1));
        Self {
            partitions: u16::try_from(dice.number(1..4)).unwrap_or(1),
            gateways: 1 + dice.index(3),
            workers: 1 + dice.index(3),
            clients: 2 + dice.index(4),
            rooms: 1 + dice.index(3),
            recovery: seconds(&[4, 20, 120, 120]),
            ping: seconds(&[2, 5, 10]),
            linger: seconds(&[0, 1, 5]),
            link: dice.one_of(&[2, 8, 4096, 4096]).copied().unwrap_or(4096),
        }
    }

    fn config(&self) -> Config {
        let mut config = Config::for_tests(Role::Standalone);
        config.bus.partitions = self.partitions;
        config.gateway.recovery = self.recovery;
        config.gateway.ping_interval = self.ping;
        config.gateway.ping_timeout = self.ping;
        config.gateway.interest_linger = self.linger;
        // Clients send as fast as they can.
        config.limits.events = 0;
        config.auth.jwt_secret = Some(SECRET.to_owned().into());
        config
    }
}

impl World {
    pub(crate) fn new(seed: u64, shape: &Shape) -> Arc<Self> {
        let limits = LinkLimits {
            batches: shape.link,
            ..LinkLimits::default()
        };
        Arc::new(Self {
            seed,
            config: shape.config(),
            truth: Truth::new(shape.partitions),
            signals: MemorySignals::new(),
            documents: MemoryDocuments::new(),
            redis: Redis::new(),
            cables: Cables::new(shape.partitions, limits),
            trace: Trace::new(),
            hosts: Mutex::default(),
            hands: Mutex::default(),
            started: AtomicUsize::new(0),
            acknowledged: AtomicUsize::new(0),
            broken: Mutex::default(),
        })
    }

    fn node(&self, role: &str) -> Arc<Node> {
        let number = self.started.fetch_add(1, Ordering::Relaxed) + 1;
        Node::new(self.seed, format!("{role} {number}"))
    }

    /// Starts a gateway; clients find it once it is there.
    pub(crate) fn start_gateway(self: &Arc<Self>) {
        let (world, node) = (Arc::clone(self), self.node("gateway"));
        self.trace.note(&node.name, "", "starts");
        spawn(async move {
            let host = Host::start(&world, &node).await;
            world.trace.note(&node.name, "", "is there");
            world.hosts.lock().push(host);
        });
    }

    pub(crate) fn start_worker(self: &Arc<Self>) {
        let node = self.node("worker");
        self.trace.note(&node.name, "", "starts");
        let hand = Hand::start(self, &node);
        self.hands.lock().push(hand);
    }

    /// Gateways that have not begun to leave.
    pub(crate) fn hosts(&self) -> Vec<Arc<Host>> {
        let hosts = self.hosts.lock();
        hosts.iter().filter(|host| !host.leaves()).cloned().collect()
    }

    /// Workers that have not begun to leave.
    pub(crate) fn hands(&self) -> Vec<Arc<Hand>> {
        let hands = self.hands.lock();
        hands.iter().filter(|hand| !hand.leaves()).cloned().collect()
    }

    /// A gateway that the load balancer thinks is there.
    pub(crate) fn open_host(&self, dice: &Dice) -> Option<Arc<Host>> {
        let hosts = self.hosts.lock();
        let open: Vec<_> = hosts.iter().filter(|host| host.is_open()).collect();
        dice.one_of(&open).map(|host| Arc::clone(host))
    }

    /// Ends a process at once.
    pub(crate) fn kill(&self, node: &Arc<Node>) {
        self.trace.note(&node.name, "", "is dead");
        node.become_(Life::Dead);
        self.cables.unplug(node);
    }

    pub(crate) fn acknowledged(&self) {
        self.acknowledged.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn acknowledgements(&self) -> usize {
        self.acknowledged.load(Ordering::Relaxed)
    }

    /// A promise was not kept.
    pub(crate) fn broken(&self, who: &str, broken: &Broken) {
        self.trace
            .note(who, &broken.room, format!("BROKEN: {}", broken.what));
        self.broken.lock().push((who.to_owned(), broken.clone()));
    }

    pub(crate) fn first_broken(&self) -> Option<(String, Broken)> {
        self.broken.lock().first().cloned()
    }
}
