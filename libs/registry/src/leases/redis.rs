//! Leases in Redis, with epochs from where nothing is forgotten.
//!
//! **Taking.** An acquisition draws a random token and writes it, as pending, where nobody else holds the lease
//! (`lease_take.lua`); draws an epoch; and confirms (`lease_confirm.lua`), which succeeds only while its own token is
//! still there. Then, and only then, the lease is handed out.
//!
//! **Why epochs grow with every change of hands.** A token is written once, so whatever removes it — expiry, release,
//! a flush, a restart without the data — removes it for ever, and that acquisition can no longer be confirmed. A
//! lease that is handed out was therefore pending without a break while its epoch was drawn, and two acquisitions are
//! never pending at once: of two that succeed, the one that came later drew later, and got the larger number.
//! (A call that is repeated within the client may write a token twice, but before the epoch is drawn.)
//!
//! **After Redis forgot.** Renewing says that the lease is no longer held, even if nobody else has taken it: somebody
//! might have, and given it back. The owner takes it again under a new epoch, which costs one round of taking over.
//!
//! **What Redis cannot promise.** Replication is asynchronous: in a failover both the old and the new master may, for a
//! moment, confirm an acquisition each. Both leases bear different epochs, so that the fence tells them apart; the one
//! that the new master does not know ends with its time to live. Should that one bear the larger epoch, the other
//! holder is taken for the replaced one until it takes the lease anew: who is refused for its epoch while it holds the
//! lease must release and acquire.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use rand::Rng;

use super::{Epochs, Lease, LeaseStore};
use crate::{
    RegistryError,
    redis::{Redis, Script},
};

/// Leases shared by all who use the same Redis and the same [`Epochs`].
pub struct RedisLeases {
    redis: Redis,
    epochs: Arc<dyn Epochs>,
    take: Script,
    confirm: Script,
    renew: Script,
    release: Script,
}

impl RedisLeases {
    /// Leases in this Redis, with epochs drawn there.
    #[must_use]
    pub fn new(redis: Redis, epochs: Arc<dyn Epochs>) -> Self {
        Self {
            redis,
            epochs,
            take: Script::new("lease_take", include_str!("../scripts/lease_take.lua")),
            confirm: Script::new("lease_confirm", include_str!("../scripts/lease_confirm.lua")),
            renew: Script::new("lease_renew", include_str!("../scripts/lease_renew.lua")),
            release: Script::new("lease_release", include_str!("../scripts/lease_release.lua")),
        }
    }
}

#[async_trait]
impl LeaseStore for RedisLeases {
    /// Cancelled or failed half-way, it keeps others out for up to `ttl`, but not the same owner.
    async fn acquire(&self, name: &str, owner: &str, ttl: Duration) -> Result<Option<Lease>, RegistryError> {
        let key = self.redis.keys().lease(name);
        let token = format!("{:032x}", rand::rng().random::<u128>());
        let taken: Option<String> = self
            .redis
            .invoke(&self.take, &key, (owner, &token, millis(ttl)))
            .await?;
        let lease = |epoch| Lease {
            name: name.to_owned(),
            owner: owner.to_owned(),
            epoch,
        };
        match taken.as_deref() {
            None => return Ok(None),
            Some("") => {}
            Some(held) => {
                let epoch = held.parse();
                return epoch.map(|epoch| Some(lease(epoch))).map_err(|_| {
                    RegistryError::Unavailable(format!("the lease {name} has no readable epoch: {held}"))
                });
            }
        }
        // Beyond that the pending lease has ended anyway.
        let epoch = tokio::time::timeout(ttl, self.epochs.next(name)).await;
        let epoch =
            epoch.map_err(|_| RegistryError::Unavailable("no epoch was drawn in time".to_owned()))??;
        let confirmed: bool = self
            .redis
            .invoke(&self.confirm, &key, (&token, epoch, millis(ttl)))
            .await?;
        Ok(confirmed.then(|| lease(epoch)))
    }

    async fn renew(&self, lease: &Lease, ttl: Duration) -> Result<bool, RegistryError> {
        let key = self.redis.keys().lease(&lease.name);
        self.redis
            .invoke(&self.renew, &key, (&lease.owner, lease.epoch, millis(ttl)))
            .await
    }

    async fn release(&self, lease: &Lease) -> Result<(), RegistryError> {
        let key = self.redis.keys().lease(&lease.name);
        let _released: bool = self
            .redis
            .invoke(&self.release, &key, (&lease.owner, lease.epoch))
            .await?;
        Ok(())
    }
}

/// Redis takes no time to live of 0.
fn millis(ttl: Duration) -> u64 {
    u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX).max(1)
}
