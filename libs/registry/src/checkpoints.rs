//! Checkpoints: how far each partition has been read.

use async_trait::async_trait;

use crate::RegistryError;

pub mod conformance;
pub mod memory;
pub mod redis;

/// Port of the checkpoints.
#[async_trait]
pub trait Checkpoints: Send + Sync + 'static {
    /// Saves the position of a partition under the epoch of its lease; `false`, and nothing saved, when
    /// a newer epoch has saved before.
    ///
    /// # Errors
    /// [`RegistryError::Unavailable`]; it may have been saved all the same.
    async fn save(&self, partition: u16, epoch: u64, seq: u64) -> Result<bool, RegistryError>;

    /// The position saved last; `None` when there is none, or when it was forgotten.
    ///
    /// # Errors
    /// [`RegistryError::Unavailable`].
    async fn load(&self, partition: u16) -> Result<Option<u64>, RegistryError>;
}
