//! The link within one process: a queue bounded in batches and bytes.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use async_trait::async_trait;
use parking_lot::{Mutex, RwLock};
use tokio::sync::Notify;

pub use crate::LinkLimits;
use crate::{Arrival, Batch, Connector, GatewayLink, LinkError, Links, Receiver, VolatileEvent};

/// Both ends of a link within one process, for a log of `partitions` partitions.
#[must_use]
pub fn pair(partitions: u16, limits: LinkLimits) -> (LocalLink, LocalReceiver) {
    let shared = Arc::new(Shared {
        limits,
        queue: Mutex::default(),
        arrived: Notify::new(),
        acknowledged: (0..partitions).map(|_| AtomicU64::new(0)).collect(),
    });
    (
        LocalLink {
            shared: Arc::clone(&shared),
        },
        LocalReceiver { shared },
    )
}

struct Shared {
    limits: LinkLimits,
    queue: Mutex<Queue>,
    arrived: Notify,
    acknowledged: Vec<AtomicU64>,
}

#[derive(Default)]
struct Queue {
    arrivals: Vec<Arrival>,
    batches: usize,
    /// Of records in batches.
    batch_bytes: usize,
    /// Of records in signals: these never take the room of what must not be lost.
    signal_bytes: usize,
    /// The receiver is gone.
    closed: bool,
    /// The link is gone.
    ended: bool,
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
        let bytes: usize = batch
            .deliveries
            .iter()
            .map(|delivery| delivery.record.len())
            .sum();
        let LinkLimits {
            batches: max_batches,
            bytes: max_bytes,
        } = self.shared.limits;
        {
            let mut queue = self.shared.queue.lock();
            if queue.closed {
                return Err(LinkError::Closed);
            }
            let full = queue.batches >= max_batches || queue.batch_bytes + bytes > max_bytes;
            if full && queue.batches > 0 {
                return Err(LinkError::Full);
            }
            queue.batches += 1;
            queue.batch_bytes += bytes;
            queue.arrivals.push(Arrival::Batch(batch));
        }
        self.shared.arrived.notify_one();
        Ok(())
    }

    fn signal(&self, signal: VolatileEvent) {
        {
            let LinkLimits { batches, bytes } = self.shared.limits;
            let mut queue = self.shared.queue.lock();
            // A gateway that has half a queue before it does not keep up.
            let waiting = queue.batch_bytes + queue.signal_bytes;
            if queue.closed
                || queue.arrivals.len() >= batches / 2
                || waiting + signal.record.len() > bytes / 2
            {
                return;
            }
            queue.signal_bytes += signal.record.len();
            queue.arrivals.push(Arrival::Signal(signal));
        }
        self.shared.arrived.notify_one();
    }

    fn acknowledged(&self, partition: u16) -> u64 {
        let position = self.shared.acknowledged.get(usize::from(partition));
        position.map_or(0, |position| position.load(Ordering::Acquire))
    }
}

impl LocalReceiver {
    /// Waits for arrivals and adds all there are to `arrivals`; into an empty vector it swaps them.
    /// `false` once the worker's end is gone and nothing is left. Cancellation safe.
    pub async fn recv_many(&mut self, arrivals: &mut Vec<Arrival>) -> bool {
        loop {
            {
                let mut queue = self.shared.queue.lock();
                if !queue.arrivals.is_empty() {
                    queue.batches = 0;
                    queue.batch_bytes = 0;
                    queue.signal_bytes = 0;
                    if arrivals.is_empty() {
                        std::mem::swap(&mut queue.arrivals, arrivals);
                    } else {
                        arrivals.append(&mut queue.arrivals);
                    }
                    return true;
                }
                if queue.ended {
                    return false;
                }
            }
            self.shared.arrived.notified().await;
        }
    }

    /// The gateway has everything of the partition up to `seq`.
    pub fn acknowledge(&self, partition: u16, seq: u64) {
        if let Some(position) = self.shared.acknowledged.get(usize::from(partition)) {
            position.fetch_max(seq, Ordering::AcqRel);
        }
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
        self.shared.queue.lock().ended = true;
        self.shared.arrived.notify_one();
    }
}

impl Drop for LocalReceiver {
    fn drop(&mut self) {
        let waiting = {
            let mut queue = self.shared.queue.lock();
            queue.closed = true;
            std::mem::take(&mut queue.arrivals)
        };
        // Freed without the lock, which a worker may be waiting for.
        drop(waiting);
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
        if link.shared.queue.lock().closed {
            return Err(LinkError::Closed);
        }
        Ok(link)
    }
}
