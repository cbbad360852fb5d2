//! Port [`GatewayLink`]: how a worker hands deliveries to one gateway, and how the gateway takes
//! them.
//!
//! A link covers ranges of a partition, not single events: a [`Batch`] says "this is everything of
//! `(after, through]` that concerns you". So a gateway always knows whether something is missing, for
//! whatever reason (a queue dropped, a worker replaced, a cut): a batch whose `after` lies beyond what
//! it has seen is a gap, and it reads the gap from the log by itself before it goes on.
//!
//! Engines: [`local`] within one process, [`grpc`] between processes, optionally over [`tls`].

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use model::{RoomToken, TraceContext};

pub mod conformance;
pub mod grpc;
pub mod local;
mod positions;
mod queue;
pub mod tls;

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

    /// What waits to be taken by the gateway; nothing where an engine does not know.
    fn waiting(&self) -> Waiting {
        Waiting::default()
    }
}

/// What waits in a link.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub struct Waiting {
    /// Batches and volatile events.
    pub arrivals: usize,
    /// Bytes of their records.
    pub bytes: usize,
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

/// The gateway's end of the link from one worker; dropping it closes the link.
#[async_trait]
pub trait Receiver: Send + Sync + 'static {
    /// Waits for arrivals and adds at least one to `arrivals`, in order per partition; `false` once the
    /// worker's end is gone and nothing is left, and from then on. Cancellation safe.
    async fn recv_many(&mut self, arrivals: &mut Vec<Arrival>) -> bool;

    /// The gateway has everything of the partition up to `seq`. Never waits; a lower one than before, or
    /// one of a partition that does not exist, changes nothing.
    fn acknowledge(&self, partition: u16, seq: u64);
}

/// The workers that connect to a gateway.
#[async_trait]
pub trait Links: Send + 'static {
    /// The next worker that connects; `None` when no more can come. Cancellation safe.
    async fn accept(&mut self) -> Option<Box<dyn Receiver>>;
}

/// Bounds of what waits in a link for a gateway.
#[derive(Copy, Clone, Debug)]
pub struct LinkLimits {
    /// Batches that may wait.
    pub batches: usize,
    /// Bytes of records that may wait in batches; half as many again may wait in signals. One batch is
    /// taken into an empty queue whatever its size.
    pub bytes: usize,
}

impl Default for LinkLimits {
    fn default() -> Self {
        Self {
            batches: 4096,
            bytes: 64 << 20,
        }
    }
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
    /// The spans that deliver those of them whose traces are recorded, ascending by sequence. Apart from the
    /// deliveries, which have no room for what hardly any has.
    pub traces: Vec<Traced>,
}

/// A delivery whose trace is recorded.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Traced {
    /// The delivery.
    pub seq: u64,
    /// The span that delivers it.
    pub context: TraceContext,
}

impl Batch {
    fn record_bytes(&self) -> usize {
        self.deliveries.iter().map(|delivery| delivery.record.len()).sum()
    }
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
    /// The span that delivers it, if its trace is recorded.
    pub trace: Option<Box<TraceContext>>,
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
