//! Notifications from outside: whoever is notified learns of it once, online or not, whatever ends meanwhile.
#![allow(clippy::unwrap_used, missing_docs, reason = "tests")]

mod channels;
mod counted;
mod inbox;
mod provider;
mod recovered;

use std::net::SocketAddr;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use tests::{Client, HttpAnswer, HttpRequest};

const KEY: &str = "a key of the publisher API";

/// Where a process serves the publisher API over HTTP, as it has logged it.
fn publisher(output: &str) -> Result<SocketAddr> {
    let line = output.lines().find(|line| line.contains("publisher API grpc="));
    let address = line.and_then(|line| line.split_once("http=")?.1.split_whitespace().next());
    Ok(address
        .with_context(|| format!("no publisher API:\n{output}"))?
        .parse()?)
}

fn ask(publisher: SocketAddr, request: &Value) -> Result<HttpAnswer> {
    HttpRequest::new(publisher, "POST", "/v1/notify-user")
        .token(KEY)
        .json(request)
        .send()
}

/// Notifies; the id.
fn notify(publisher: SocketAddr, request: &Value) -> Result<String> {
    let answer = ask(publisher, request)?.expect(200)?;
    let id = answer.body["id"].as_str().context("an id")?;
    Ok(id.to_owned())
}

fn news(number: usize) -> Value {
    json!({ "user_id": "ada", "type": "news", "title": format!("News {number}"), "data": { "number": number } })
}

/// The notifications a client has got and not told yet.
fn take(client: &Client) -> Vec<Value> {
    let events = client.take_events().into_iter();
    let told = events.filter(|(name, _)| name == "newNotification");
    told.map(|(_, notification)| notification).collect()
}

fn ids(notifications: &[Value]) -> Vec<&str> {
    notifications
        .iter()
        .filter_map(|one| one["id"].as_str())
        .collect()
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?)
}
