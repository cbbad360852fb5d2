//! The links between workers and gateways: the queue of one process, behind a network that may cut it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use delivery::{
    Arrival, Batch, Connector, GatewayLink, LinkError, Links, Receiver, VolatileEvent,
    local::{LinkLimits, LocalLink, LocalReceiver, pair},
};
use parking_lot::Mutex;
use tokio::{
    sync::mpsc,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::node::{Life, Node, spawn};

/// A message between a worker and a gateway takes so long at most.
const TRIP: Duration = Duration::from_millis(20);
/// Who does not take a connection in this time is not there.
const CONNECT: Duration = Duration::from_secs(2);
/// Links of one gateway that wait to be taken.
const BACKLOG: usize = 256;

/// The network between workers and gateways.
pub(crate) struct Cables {
    partitions: u16,
    limits: LinkLimits,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// By the gateways' ids.
    gateways: BTreeMap<String, Port>,
    open: Vec<Open>,
    /// Names of a worker and a gateway that do not reach one another.
    cut: BTreeSet<(String, String)>,
}

#[derive(Clone)]
struct Port {
    node: Arc<Node>,
    sender: mpsc::Sender<Box<dyn Receiver>>,
}

/// A link, and what each end has noticed of its end.
struct Open {
    worker: Arc<Node>,
    gateway: Arc<Node>,
    ended_here: CancellationToken,
    ended_there: CancellationToken,
}

impl Open {
    /// Each end notices at a time of its own.
    fn end(&self) {
        for (token, node) in [
            (&self.ended_here, &self.worker),
            (&self.ended_there, &self.gateway),
        ] {
            let token = token.clone();
            let delay = node.dice.time(0..2500);
            spawn(async move {
                sleep(delay).await;
                token.cancel();
            });
        }
    }
}

impl Cables {
    pub(crate) fn new(partitions: u16, limits: LinkLimits) -> Arc<Self> {
        Arc::new(Self {
            partitions,
            limits,
            state: Mutex::default(),
        })
    }

    /// Where a gateway takes its links.
    pub(crate) fn plug_in(&self, id: &str, node: &Arc<Node>) -> NodeLinks {
        let (sender, receiver) = mpsc::channel(BACKLOG);
        let node = Arc::clone(node);
        self.state
            .lock()
            .gateways
            .insert(id.to_owned(), Port { node, sender });
        NodeLinks(receiver)
    }

    /// Ends the links of a process that has died.
    pub(crate) fn unplug(&self, node: &Arc<Node>) {
        let mut state = self.state.lock();
        state.gateways.retain(|_, port| !Arc::ptr_eq(&port.node, node));
        state.open.retain(|open| {
            let ends = Arc::ptr_eq(&open.worker, node) || Arc::ptr_eq(&open.gateway, node);
            if ends {
                open.end();
            }
            !ends
        });
    }

    /// A worker and a gateway no longer reach one another.
    pub(crate) fn cut(&self, worker: &str, gateway: &str) {
        let mut state = self.state.lock();
        state.cut.insert((worker.to_owned(), gateway.to_owned()));
        state.open.retain(|open| {
            let ends = open.worker.name == worker && open.gateway.name == gateway;
            if ends {
                open.end();
            }
            !ends
        });
    }

    /// They do again.
    pub(crate) fn mend(&self, worker: &str, gateway: &str) {
        let pair = (worker.to_owned(), gateway.to_owned());
        self.state.lock().cut.remove(&pair);
    }

    /// Where there is a cable to the gateway.
    fn port(&self, worker: &Node, gateway: &str) -> Option<Port> {
        let state = self.state.lock();
        let port = state.gateways.get(gateway)?;
        let pair = (worker.name.clone(), port.node.name.clone());
        (!state.cut.contains(&pair)).then(|| port.clone())
    }
}

/// Makes the links of one worker.
pub(crate) struct NodeConnector {
    pub(crate) node: Arc<Node>,
    pub(crate) cables: Arc<Cables>,
}

#[async_trait]
impl Connector for NodeConnector {
    async fn connect(&self, gateway: &str, _address: &str) -> Result<Arc<dyn GatewayLink>, LinkError> {
        self.node.up().await;
        sleep(self.node.dice.delay(TRIP)).await;
        let Some(port) = self.cables.port(&self.node, gateway) else {
            sleep(self.node.dice.time(1..2000)).await;
            return Err(LinkError::Closed);
        };
        let there = timeout(CONNECT, port.node.up()).await;
        self.node.up().await;
        there.map_err(|_| LinkError::Closed)?;
        let (link, receiver) = pair(self.cables.partitions, self.cables.limits);
        let open = Open {
            worker: Arc::clone(&self.node),
            gateway: Arc::clone(&port.node),
            ended_here: CancellationToken::new(),
            ended_there: CancellationToken::new(),
        };
        let receiver = NodeReceiver {
            node: Arc::clone(&port.node),
            inner: receiver,
            ended: open.ended_there.clone(),
        };
        let link = NodeLink {
            node: Arc::clone(&self.node),
            inner: link,
            ended: open.ended_here.clone(),
        };
        // It may have been cut meanwhile.
        if self.cables.port(&self.node, gateway).is_none() {
            return Err(LinkError::Closed);
        }
        self.cables.state.lock().open.push(open);
        let taken = port.sender.try_send(Box::new(receiver));
        taken.map_err(|_| LinkError::Closed)?;
        Ok(Arc::new(link))
    }
}

/// The worker's end.
struct NodeLink {
    node: Arc<Node>,
    inner: LocalLink,
    ended: CancellationToken,
}

impl GatewayLink for NodeLink {
    fn deliver(&self, batch: Batch) -> Result<(), LinkError> {
        if self.ended.is_cancelled() {
            return Err(LinkError::Closed);
        }
        // What a process that stands still or is dead does is not seen; it would be done when it goes on.
        if self.node.life() != Life::Up {
            return Err(LinkError::Full);
        }
        match self.inner.deliver(batch) {
            // The other end has noticed; this one has not.
            Err(LinkError::Closed) => Ok(()),
            delivered => delivered,
        }
    }

    fn signal(&self, signal: VolatileEvent) {
        if !self.ended.is_cancelled() && self.node.life() == Life::Up {
            self.inner.signal(signal);
        }
    }

    fn acknowledged(&self, partition: u16) -> u64 {
        self.inner.acknowledged(partition)
    }
}

/// The gateway's end.
struct NodeReceiver {
    node: Arc<Node>,
    inner: LocalReceiver,
    ended: CancellationToken,
}

#[async_trait]
impl Receiver for NodeReceiver {
    async fn recv_many(&mut self, arrivals: &mut Vec<Arrival>) -> bool {
        let node = Arc::clone(&self.node);
        let arrive = async {
            let more = self.inner.recv_many(arrivals).await;
            sleep(node.dice.delay(TRIP)).await;
            node.up().await;
            more
        };
        tokio::select! {
            biased;
            () = self.ended.cancelled() => false,
            more = arrive => more,
        }
    }

    fn acknowledge(&self, partition: u16, seq: u64) {
        self.inner.acknowledge(partition, seq);
    }
}

/// The workers that connect to one gateway.
pub(crate) struct NodeLinks(mpsc::Receiver<Box<dyn Receiver>>);

#[async_trait]
impl Links for NodeLinks {
    async fn accept(&mut self) -> Option<Box<dyn Receiver>> {
        match self.0.recv().await {
            Some(link) => Some(link),
            // A process that is dead is told of no end.
            None => std::future::pending().await,
        }
    }
}
