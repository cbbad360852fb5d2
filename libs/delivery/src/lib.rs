//! Port [`GatewayLink`]: how a worker hands deliveries to one gateway, and how the gateway takes
//! them.
//!
//! A link covers ranges of a partition, not single events: a [`Batch`] says "this is everything of
//! `(after, through]` that concerns you". So a gateway always knows whether something is missing, for
//! whatever reason (a queue dropped, a worker replaced, a cut): a batch whose `after` lies beyond what
//! it has seen is a gap, and it reads the gap from the log by itself before it goes on.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use model::RoomToken;

pub mod conformance;
pub mod local;

/// The worker's end of the link to one gateway.
pub trait GatewayLink: Send + Sync + 'static {
    /// Queues a batch, in order per partition. Never waits: with a full queue the batch is refused, and
    /// the next one of that partition, which begins behind it, shows the gateway its gap.
    ///
    /// # Errors
    /// [`LinkError::Full`] or [`LinkError::Closed`].
    fn deliver(&self, batch: Batch) -> Result<(), LinkError>;

    /// Queues a volatile event; dropped silently when the gateway does not keep up (CONTRACT section
    /// 4: volatile).
    fn signal(&self, signal: VolatileEvent);

    /// The highest sequence of the partition up to which the gateway said that it has everything
    /// (cumulative), 0 at first.
    fn acknowledged(&self, partition: u16) -> u64;
}

/// Makes links to gateways.
#[async_trait]
pub trait Connector: Send + Sync + 'static {
    /// A link to the gateway of that id, reachable at `address` (`host:port`; empty within one process).
    ///
    /// # Errors
    /// [`LinkError::Closed`] when it cannot be reached; trying again later may help.
    async fn connect(&self, gateway: &str, address: &str) -> Result<Arc<dyn GatewayLink>, LinkError>;
}

/// Everything of `(after, through]` of one partition that a gateway has interest in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// The partition.
    pub partition: u16,
    /// Fencing epoch of the worker's ownership; a gateway drops batches older than the newest epoch
    /// it has seen for the partition.
    pub epoch: u64,
    /// Exclusive lower end of the range.
    pub after: u64,
    /// Inclusive upper end of the range.
    pub through: u64,
    /// Ascending by sequence.
    pub deliveries: Vec<Delivery>,
}

/// One durable event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// Its place in the partition.
    pub seq: u64,
    /// Its room.
    pub room: RoomToken,
    /// The encoded `Publish`.
    pub record: Bytes,
}

/// One volatile event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolatileEvent {
    /// Its room.
    pub room: RoomToken,
    /// The encoded `Publish`.
    pub record: Bytes,
}

/// What arrives at the gateway's end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// Durable events.
    Batch(Batch),
    /// A volatile event.
    Signal(VolatileEvent),
}

/// Why a batch was not queued.
#[derive(Copy, Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// The gateway does not keep up.
    #[error("the gateway's queue is full")]
    Full,
    /// The gateway is gone.
    #[error("the gateway is gone")]
    Closed,
}
