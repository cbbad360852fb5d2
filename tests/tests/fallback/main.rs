//! The HTTP fallback from outside (CONTRACT section 5): the same as the events, beside sockets that hear of it.
#![allow(clippy::unwrap_used, missing_docs, reason = "tests")]

mod chat;
mod document;
mod refusals;

use std::net::SocketAddr;

use anyhow::Result;
use tests::{HttpRequest, Standalone};

const MESSAGES: &str = "/api/chat/messages";

fn with_server(settings: &[(&str, &str)], run: impl FnOnce(SocketAddr) -> Result<()>) -> Result<()> {
    with_file(None, settings, run)
}

fn with_file(
    file: Option<&str>,
    settings: &[(&str, &str)],
    run: impl FnOnce(SocketAddr) -> Result<()>,
) -> Result<()> {
    let server = Standalone::start_with(file, settings)?;
    let result = run(server.address()?);
    result.map_err(|error| error.context(server.output()))?;
    server.stop()
}

fn get(address: SocketAddr, path: &str) -> HttpRequest {
    HttpRequest::new(address, "GET", path)
}

fn post(address: SocketAddr, path: &str) -> HttpRequest {
    HttpRequest::new(address, "POST", path)
}

fn patch(address: SocketAddr, path: &str) -> HttpRequest {
    HttpRequest::new(address, "PATCH", path)
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?)
}
