//! Leases: who may do something alone, for a time.

use std::time::Duration;

use async_trait::async_trait;

use crate::RegistryError;

pub mod conformance;
pub mod memory;
pub mod redis;

/// Port of the leases.
#[async_trait]
pub trait LeaseStore: Send + Sync + 'static {
    /// Takes the lease `name` for `ttl`, if nobody else holds it; taking what `owner` holds itself
    /// renews it under its epoch. `None` while somebody else holds it.
    ///
    /// The epoch of a lease grows with every change of hands and never goes back, whatever the store
    /// forgets: who acts under an older one has been replaced.
    ///
    /// # Errors
    /// [`RegistryError::Unavailable`]; the lease may have been taken all the same.
    async fn acquire(&self, name: &str, owner: &str, ttl: Duration) -> Result<Option<Lease>, RegistryError>;

    /// Holds the lease for `ttl` from now on; `false` when it is no longer held.
    ///
    /// # Errors
    /// [`RegistryError::Unavailable`]; the lease may have been renewed all the same.
    async fn renew(&self, lease: &Lease, ttl: Duration) -> Result<bool, RegistryError>;

    /// Gives the lease back; one that is no longer held is no error.
    ///
    /// # Errors
    /// [`RegistryError::Unavailable`]; then the lease ends by itself.
    async fn release(&self, lease: &Lease) -> Result<(), RegistryError>;
}

/// Where epochs are drawn: it remembers what a store of leases may forget.
#[async_trait]
pub trait Epochs: Send + Sync + 'static {
    /// A number for the lease `name`, at least 1, larger than every one drawn for it before, by whomever. One whose
    /// answer is lost is simply not used.
    ///
    /// # Errors
    /// [`RegistryError::Unavailable`].
    async fn next(&self, name: &str) -> Result<u64, RegistryError>;
}

/// A lease that was taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// What it is for.
    pub name: String,
    /// Who holds it.
    pub owner: String,
    /// Fencing epoch, at least 1.
    pub epoch: u64,
}
