//! Ports for leases, checkpoints, interest snapshots and presence with their engines. What they keep
//! can be rebuilt; what must survive lives in the log and its documents.

pub mod checkpoints;
pub mod leases;
pub mod presence_store;
pub mod redis;
pub mod snapshots;

/// Why the registry could not do it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RegistryError {
    /// It cannot be reached or did not answer in time.
    #[error("the registry is unavailable: {0}")]
    Unavailable(String),
}
