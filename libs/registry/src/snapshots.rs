//! Interest snapshots: which gateways have interest in which rooms of a partition, to begin with.

use async_trait::async_trait;
use bytes::Bytes;

use crate::RegistryError;

pub mod conformance;
pub mod memory;
pub mod redis;

/// Port of the interest snapshots.
#[async_trait]
pub trait InterestSnapshots: Send + Sync + 'static {
    /// Saves the table of a partition as of `seq`, under the epoch of its lease; `false`, and nothing
    /// saved, when a newer epoch has saved before.
    ///
    /// # Errors
    /// [`RegistryError::Unavailable`]; it may have been saved all the same.
    async fn save(&self, partition: u16, epoch: u64, seq: u64, table: Bytes) -> Result<bool, RegistryError>;

    /// The table saved last; `None` when there is none, or when it was forgotten.
    ///
    /// # Errors
    /// [`RegistryError::Unavailable`].
    async fn load(&self, partition: u16) -> Result<Option<Snapshot>, RegistryError>;
}

/// A table as it was saved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// The last sequence that is in it.
    pub seq: u64,
    /// The table, in the worker's own encoding.
    pub table: Bytes,
}
