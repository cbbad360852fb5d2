//! The cluster as real processes on private NATS and Redis: the guarantees of CONTRACT section 10 across gateways.
#![allow(clippy::unwrap_used, missing_docs, reason = "tests")]

mod balancer;
mod everybody;
mod interest;
mod joins;
mod limits;
mod names;
mod presence;
mod rights;
mod start;

use std::net::SocketAddr;

use anyhow::Result;

fn runtime() -> Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?)
}

fn urls(addresses: &[SocketAddr]) -> Vec<String> {
    addresses
        .iter()
        .map(|address| format!("http://{address}"))
        .collect()
}
