//! What a worker sees of Redis: leases, checkpoints and snapshots, in memory, behind the weather.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use registry::{
    RegistryError,
    checkpoints::{Checkpoints, memory::MemoryCheckpoints},
    leases::{Lease, LeaseStore, memory::MemoryLeases},
    snapshots::{InterestSnapshots, Snapshot, memory::MemorySnapshots},
};

use crate::node::{Lost, Node, Server};

/// The server.
pub(crate) struct Redis {
    /// Their epochs come from elsewhere, so they are never forgotten.
    leases: MemoryLeases,
    held: Mutex<Vec<Lease>>,
    forgets: Mutex<Forgets>,
}

#[derive(Clone)]
struct Forgets {
    checkpoints: Arc<MemoryCheckpoints>,
    snapshots: Arc<MemorySnapshots>,
}

impl Forgets {
    fn new() -> Self {
        Self {
            checkpoints: Arc::new(MemoryCheckpoints::new()),
            snapshots: Arc::new(MemorySnapshots::new()),
        }
    }
}

impl Redis {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            leases: MemoryLeases::new(),
            held: Mutex::default(),
            forgets: Mutex::new(Forgets::new()),
        })
    }

    /// Forgets everything.
    pub(crate) async fn flush(&self) {
        *self.forgets.lock() = Forgets::new();
        let held = std::mem::take(&mut *self.held.lock());
        for lease in &held {
            // In memory nothing fails.
            let _ = self.leases.release(lease).await;
        }
    }

    fn forgets(&self) -> Forgets {
        self.forgets.lock().clone()
    }
}

/// The server, for one process.
#[derive(Clone)]
pub(crate) struct NodeRedis {
    pub(crate) node: Arc<Node>,
    pub(crate) redis: Arc<Redis>,
}

impl NodeRedis {
    async fn call<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, RegistryError>> + Send + 'static,
    ) -> Result<T, RegistryError> {
        let lost = |_: Lost| RegistryError::Unavailable("on purpose".to_owned());
        self.node.call(Server::Redis, work).await.map_err(lost)?
    }
}

#[async_trait]
impl LeaseStore for NodeRedis {
    async fn acquire(&self, name: &str, owner: &str, ttl: Duration) -> Result<Option<Lease>, RegistryError> {
        let (redis, name, owner) = (Arc::clone(&self.redis), name.to_owned(), owner.to_owned());
        self.call(async move {
            let lease = redis.leases.acquire(&name, &owner, ttl).await?;
            let mut held = redis.held.lock();
            held.retain(|held| held.name != name);
            held.extend(lease.clone());
            Ok(lease)
        })
        .await
    }

    async fn renew(&self, lease: &Lease, ttl: Duration) -> Result<bool, RegistryError> {
        let (redis, lease) = (Arc::clone(&self.redis), lease.clone());
        self.call(async move { redis.leases.renew(&lease, ttl).await })
            .await
    }

    async fn release(&self, lease: &Lease) -> Result<(), RegistryError> {
        let (redis, lease) = (Arc::clone(&self.redis), lease.clone());
        self.call(async move { redis.leases.release(&lease).await }).await
    }
}

#[async_trait]
impl Checkpoints for NodeRedis {
    async fn save(&self, partition: u16, epoch: u64, seq: u64) -> Result<bool, RegistryError> {
        let store = self.redis.forgets().checkpoints;
        self.call(async move { store.save(partition, epoch, seq).await })
            .await
    }

    async fn load(&self, partition: u16) -> Result<Option<u64>, RegistryError> {
        let store = self.redis.forgets().checkpoints;
        self.call(async move { store.load(partition).await }).await
    }
}

#[async_trait]
impl InterestSnapshots for NodeRedis {
    async fn save(&self, partition: u16, epoch: u64, seq: u64, table: Bytes) -> Result<bool, RegistryError> {
        let store = self.redis.forgets().snapshots;
        self.call(async move { store.save(partition, epoch, seq, table).await })
            .await
    }

    async fn load(&self, partition: u16) -> Result<Option<Snapshot>, RegistryError> {
        let store = self.redis.forgets().snapshots;
        self.call(async move { store.load(partition).await }).await
    }
}
