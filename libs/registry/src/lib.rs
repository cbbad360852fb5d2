//! Ports for leases, checkpoints, interest snapshots and presence with their engines.

pub mod presence_store;
