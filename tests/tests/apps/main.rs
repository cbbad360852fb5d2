//! The application behind Fanfare (CONTRACT section 6, "Handle" and "Authorize"): handlers behind a webhook with
//! `fanfare standalone`, and on NATS with a cluster of real processes.
#![allow(clippy::unwrap_used, missing_docs, reason = "tests")]

mod authorize;
mod examples;
mod lifecycle;
mod nats;
mod peer;
mod web;
mod webhook;

use anyhow::Result;
use tests::Standalone;

fn runtime() -> Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?)
}

/// Runs `test` against a standalone server; when it fails, what the server saw is half the story.
async fn standalone(
    settings: &[(&str, &str)],
    test: impl AsyncFnOnce(&Standalone) -> Result<()>,
) -> Result<()> {
    configured("", settings, test).await
}

/// The same with a configuration file.
async fn configured(
    file: &str,
    settings: &[(&str, &str)],
    test: impl AsyncFnOnce(&Standalone) -> Result<()>,
) -> Result<()> {
    let debug = [("RUST_LOG", "info,gateway::events=debug,app=debug,calls=debug")];
    let settings: Vec<_> = debug.iter().chain(settings).copied().collect();
    let server = Standalone::start_with(Some(file), &settings)?;
    if let Err(error) = test(&server).await {
        return Err(error.context(format!("the server wrote:\n{}", server.output())));
    }
    server.stop()
}

fn urls(addresses: &[std::net::SocketAddr]) -> Vec<String> {
    addresses
        .iter()
        .map(|address| format!("http://{address}"))
        .collect()
}
