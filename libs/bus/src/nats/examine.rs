use std::time::{Duration, Instant};

use async_nats::{Client, HeaderMap};
use bytes::Bytes;
use futures_util::StreamExt;
use serde::Deserialize;

use crate::subjects;

/// The server answers within this time, or not at all.
const ANSWER: Duration = Duration::from_secs(3);

/// What a server says of itself, for an operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NatsReport {
    /// Its version.
    pub version: String,
    /// Bytes of the largest message it takes.
    pub max_payload: usize,
    /// Whether JetStream answers the account we have.
    pub jetstream: bool,
    /// Its time as it writes it (RFC 3339), and how long the question took; of servers before 2.11
    /// known once there are the log's streams.
    pub clock: Option<(String, Duration)>,
}

#[derive(Default, Deserialize)]
struct Answer {
    /// The server's time, in answers about a stream (nats-server 2.10).
    ts: Option<String>,
}

/// What a server says of a message that it is asked to trace (nats-server 2.11).
#[derive(Deserialize)]
struct Traced {
    server: TracedBy,
}

#[derive(Deserialize)]
struct TracedBy {
    time: String,
}

/// Asks the server of a connection.
pub async fn examine(client: &Client) -> NatsReport {
    let server = client.server_info();
    let ask = async |subject: String| {
        let begun = Instant::now();
        let answer = tokio::time::timeout(ANSWER, client.request(subject, Bytes::new())).await;
        let answer = answer.ok()?.ok()?;
        Some((answer.payload, begun.elapsed()))
    };
    let jetstream = ask("$JS.API.INFO".to_owned()).await;
    let stream = ask(format!("$JS.API.STREAM.INFO.{}", subjects::log_stream(0))).await;
    let clock = match stream.and_then(|(answer, took)| {
        let answer: Answer = serde_json::from_slice(&answer).unwrap_or_default();
        Some((answer.ts?, took))
    }) {
        Some(clock) => Some(clock),
        None => traced(client).await,
    };
    NatsReport {
        version: server.version,
        max_payload: server.max_payload,
        jetstream: jetstream.is_some_and(|(answer, _)| !answer.windows(7).any(|word| word == b"\"error\"")),
        clock,
    }
}

/// The server's time when it is asked to trace a message that reaches nobody.
async fn traced(client: &Client) -> Option<(String, Duration)> {
    if !client.is_server_compatible(2, 11, 0) {
        return None;
    }
    let inbox = client.new_inbox();
    let mut answers = client.subscribe(inbox.clone()).await.ok()?;
    let mut headers = HeaderMap::new();
    headers.insert("Nats-Trace-Dest", inbox);
    headers.insert("Nats-Trace-Only", "true");
    let begun = Instant::now();
    let subject = client.new_inbox();
    client
        .publish_with_headers(subject, headers, Bytes::new())
        .await
        .ok()?;
    let answer = tokio::time::timeout(ANSWER, answers.next()).await.ok()??;
    let took = begun.elapsed();
    let traced: Traced = serde_json::from_slice(&answer.payload).ok()?;
    Some((traced.server.time, took))
}
