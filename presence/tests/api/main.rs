//! The gRPC API as callers see it: tonic's client on real loopback ports, the service behind it on the embedded
//! store and bus.

#![allow(clippy::panic, clippy::unwrap_used, reason = "a test reports by panicking")]

mod access;
mod queries;
mod redis;
mod stage;
mod store;
mod watch;
