//! Leases within one process.

use std::{collections::HashMap, time::Duration};

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::{Lease, LeaseStore};
use crate::RegistryError;

/// Leases within one process.
#[derive(Debug, Default)]
pub struct MemoryLeases {
    leases: Mutex<HashMap<String, Held>>,
}

#[derive(Debug)]
struct Held {
    owner: String,
    epoch: u64,
    until: Instant,
}

impl MemoryLeases {
    /// Nobody holds anything.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }
}

#[async_trait]
impl LeaseStore for MemoryLeases {
    async fn acquire(&self, name: &str, owner: &str, ttl: Duration) -> Result<Option<Lease>, RegistryError> {
        let now = Instant::now();
        let mut leases = self.leases.lock();
        let known = leases.get(name);
        let epoch = match known {
            Some(held) if held.until > now && held.owner != owner => return Ok(None),
            Some(held) if held.until > now => held.epoch,
            Some(held) => held.epoch + 1,
            None => 1,
        };
        leases.insert(
            name.to_owned(),
            Held {
                owner: owner.to_owned(),
                epoch,
                until: now + ttl,
            },
        );
        Ok(Some(Lease {
            name: name.to_owned(),
            owner: owner.to_owned(),
            epoch,
        }))
    }

    async fn renew(&self, lease: &Lease, ttl: Duration) -> Result<bool, RegistryError> {
        let now = Instant::now();
        let mut leases = self.leases.lock();
        let held = leases
            .get_mut(&lease.name)
            .filter(|held| held.epoch == lease.epoch && held.until > now);
        Ok(held.map(|held| held.until = now + ttl).is_some())
    }

    async fn release(&self, lease: &Lease) -> Result<(), RegistryError> {
        let mut leases = self.leases.lock();
        if let Some(held) = leases
            .get_mut(&lease.name)
            .filter(|held| held.epoch == lease.epoch)
        {
            held.until = Instant::now();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::leases::conformance;

    #[tokio::test(start_paused = true)]
    async fn conforms() {
        conformance::all(Arc::new(MemoryLeases::new()), "").await;
    }
}
