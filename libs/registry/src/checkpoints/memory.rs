//! Checkpoints within one process.

use std::collections::HashMap;

use async_trait::async_trait;
use parking_lot::Mutex;

use super::Checkpoints;
use crate::RegistryError;

/// Checkpoints within one process.
#[derive(Debug, Default)]
pub struct MemoryCheckpoints {
    /// Epoch and position by partition.
    saved: Mutex<HashMap<u16, (u64, u64)>>,
}

impl MemoryCheckpoints {
    /// Nothing saved.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }
}

#[async_trait]
impl Checkpoints for MemoryCheckpoints {
    async fn save(&self, partition: u16, epoch: u64, seq: u64) -> Result<bool, RegistryError> {
        let mut saved = self.saved.lock();
        if saved.get(&partition).is_some_and(|(newest, _)| *newest > epoch) {
            return Ok(false);
        }
        saved.insert(partition, (epoch, seq));
        Ok(true)
    }

    async fn load(&self, partition: u16) -> Result<Option<u64>, RegistryError> {
        Ok(self.saved.lock().get(&partition).map(|(_, seq)| *seq))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::checkpoints::conformance;

    #[tokio::test]
    async fn conforms() {
        conformance::all(async || Arc::new(MemoryCheckpoints::new()) as Arc<dyn Checkpoints>).await;
    }
}
