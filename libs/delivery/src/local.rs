//! The link within one process: a queue bounded in batches and bytes.

use std::{collections::HashMap, future::poll_fn, sync::Arc};

use async_trait::async_trait;
use parking_lot::RwLock;

pub use crate::LinkLimits;
use crate::{
    Arrival, Batch, Connector, GatewayLink, LinkError, Links, Receiver, VolatileEvent, Waiting,
    positions::Positions,
    queue::{Queue, Room},
};

/// Both ends of a link within one process, for a log of `partitions` partitions.
#[must_use]
pub fn pair(partitions: u16, limits: LinkLimits) -> (LocalLink, LocalReceiver) {
    let shared = Arc::new(Shared {
        queue: Queue::new(limits),
        acknowledged: Positions::new(partitions),
    });
    (
        LocalLink {
            shared: Arc::clone(&shared),
        },
        LocalReceiver { shared },
    )
}

struct Shared {
    queue: Queue,
    acknowledged: Positions,
}

/// The worker's end.
pub struct LocalLink {
    shared: Arc<Shared>,
}

/// The gateway's end; dropping it closes the link.
pub struct LocalReceiver {
    shared: Arc<Shared>,
}

impl GatewayLink for LocalLink {
    fn deliver(&self, batch: Batch) -> Result<(), LinkError> {
        self.shared.queue.push_batch(batch)
    }

    fn signal(&self, signal: VolatileEvent) {
        self.shared.queue.push_signal(signal);
    }

    fn acknowledged(&self, partition: u16) -> u64 {
        self.shared.acknowledged.get(partition)
    }

    fn waiting(&self) -> Waiting {
        self.shared.queue.waiting()
    }
}

impl LocalReceiver {
    /// Waits for arrivals and adds all there are to `arrivals`; into an empty vector it swaps them.
    /// `false` once the worker's end is gone and nothing is left. Cancellation safe.
    pub async fn recv_many(&mut self, arrivals: &mut Vec<Arrival>) -> bool {
        poll_fn(|context| self.shared.queue.poll_take(context, arrivals, Room::Now)).await
    }

    /// The gateway has everything of the partition up to `seq`.
    pub fn acknowledge(&self, partition: u16, seq: u64) {
        self.shared.acknowledged.raise(partition, seq);
    }
}

#[async_trait]
impl Receiver for LocalReceiver {
    async fn recv_many(&mut self, arrivals: &mut Vec<Arrival>) -> bool {
        Self::recv_many(self, arrivals).await
    }

    fn acknowledge(&self, partition: u16, seq: u64) {
        Self::acknowledge(self, partition, seq);
    }
}

/// The workers of one process, which share one link: it is accepted once, and no more come.
pub struct OneLink(Option<LocalReceiver>);

impl OneLink {
    /// Hands out this end.
    #[must_use]
    pub fn new(receiver: LocalReceiver) -> Self {
        Self(Some(receiver))
    }
}

#[async_trait]
impl Links for OneLink {
    async fn accept(&mut self) -> Option<Box<dyn Receiver>> {
        let receiver = self.0.take()?;
        Some(Box::new(receiver))
    }
}

impl Drop for LocalLink {
    fn drop(&mut self) {
        self.shared.queue.end();
    }
}

impl Drop for LocalReceiver {
    fn drop(&mut self) {
        self.shared.queue.close();
    }
}

/// Links to the gateways of this process, by gateway.
#[derive(Clone, Default)]
pub struct LocalLinks {
    links: Arc<RwLock<HashMap<String, Arc<LocalLink>>>>,
}

impl LocalLinks {
    /// No gateway is known.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes a gateway reachable.
    ///
    /// Gateways have a new id for each run, so a link that is replaced is one that nobody reads any more.
    pub fn register(&self, gateway: &str, link: LocalLink) {
        self.links.write().insert(gateway.to_owned(), Arc::new(link));
    }

    /// Forgets a gateway; its receiver ends once the workers have let go of the link too and what was
    /// queued is taken.
    pub fn remove(&self, gateway: &str) {
        self.links.write().remove(gateway);
    }
}

#[async_trait]
impl Connector for LocalLinks {
    async fn connect(&self, gateway: &str, _address: &str) -> Result<Arc<dyn GatewayLink>, LinkError> {
        let link = self.links.read().get(gateway).cloned().ok_or(LinkError::Closed)?;
        if link.shared.queue.is_closed() {
            return Err(LinkError::Closed);
        }
        Ok(link)
    }
}
