//! Interest snapshots within one process.

use std::collections::HashMap;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;

use super::{InterestSnapshots, Snapshot};
use crate::RegistryError;

/// Interest snapshots within one process.
#[derive(Debug, Default)]
pub struct MemorySnapshots {
    /// With their epochs.
    saved: Mutex<HashMap<u16, (u64, Snapshot)>>,
}

impl MemorySnapshots {
    /// Nothing saved.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }
}

#[async_trait]
impl InterestSnapshots for MemorySnapshots {
    async fn save(&self, partition: u16, epoch: u64, seq: u64, table: Bytes) -> Result<bool, RegistryError> {
        let mut saved = self.saved.lock();
        if saved.get(&partition).is_some_and(|(newest, _)| *newest > epoch) {
            return Ok(false);
        }
        saved.insert(partition, (epoch, Snapshot { seq, table }));
        Ok(true)
    }

    async fn load(&self, partition: u16) -> Result<Option<Snapshot>, RegistryError> {
        Ok(self
            .saved
            .lock()
            .get(&partition)
            .map(|(_, snapshot)| snapshot.clone()))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::snapshots::conformance;

    #[tokio::test]
    async fn conforms() {
        conformance::all(async || Arc::new(MemorySnapshots::new()) as Arc<dyn InterestSnapshots>).await;
    }
}
