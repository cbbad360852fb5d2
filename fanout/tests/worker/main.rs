//! Workers on engines in memory, with tokio's paused time.

#![allow(unreachable_pub, reason = "one binary")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test reports by panicking")]

mod delivery;
mod gateways;
mod ownership;
mod stage;
