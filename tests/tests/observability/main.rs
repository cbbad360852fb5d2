//! What operators see: metrics, dashboards and alerts, traces.
#![allow(clippy::unwrap_used, missing_docs, reason = "tests")]
#![allow(clippy::print_stdout, reason = "trees of traces are told")]

mod applications;
mod counts;
mod dashboards;
mod doctor;
mod logs;
mod metrics;
mod prometheus;
mod receiver;
mod reference;
mod traces;

use std::{
    io::{Read, Write},
    net::TcpStream,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use bench::client::open;
use serde_json::json;
use tests::{Client, Cluster, Instance, Size, servers::NatsVersion};

const SIZE: Size = Size {
    nats: NatsVersion::Current,
    gateways: 2,
    workers: 2,
    presence: 1,
};

/// A file of the project.
fn project(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?)
}

/// The body of a GET, by HTTP/1.0, so that it comes in one piece.
fn get(address: &str, path: &str) -> Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    stream.write_all(format!("GET {path} HTTP/1.0\r\nhost: {address}\r\n\r\n").as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("no answer")?;
    ensure!(head.contains(" 200 "), "{path}: {head}\n{body}");
    Ok(body.to_owned())
}

/// The roles' instances with the name of their scrape job.
fn jobs(cluster: &Cluster) -> [(&'static str, &[Instance]); 3] {
    [
        ("fanfare-gateway", &cluster.gateways),
        ("fanfare-fanout", &cluster.workers),
        ("fanfare-presence", &cluster.presence),
    ]
}

/// A little of everything that clients do: two rooms with members at both gateways, messages, typing, history, mistakes,
/// refused tokens and handshakes, somebody who leaves.
async fn visit(cluster: &Cluster) -> Result<Vec<Client>> {
    let gateways = cluster.addresses()?;
    let mut members = Vec::new();
    for number in 0..8 {
        let member = Client::connect(gateways[number % gateways.len()]).await?;
        member.join("hall").await?;
        member.join(&format!("room {}", number % 2)).await?;
        members.push(member);
    }
    for (number, member) in members.iter().enumerate() {
        member
            .publish("hall", "hello", &format!("visit-{number}"))
            .await?;
        drop(member.send("typing", &json!({ "roomId": "hall" })).await?);
        member.ok("getMessages", &json!({ "roomId": "hall" })).await?;
        member.ask("message", &json!({ "roomId": "hall" })).await?;
        member.ask("an event of nobody", &json!({})).await?;
    }
    for member in &members {
        for number in 0..members.len() {
            let id = format!("visit-{number}");
            member.message(&id, |message| message.room == "hall").await?;
        }
    }
    let (mut reader, mut writer) = open(gateways[0]).await?;
    writer.text(r#"40/chat,{"token":"none"}"#).await?;
    let refused = reader.text().await?;
    ensure!(refused.starts_with("44/chat"), "{refused}");
    if let Some(member) = members.pop() {
        member.leave("hall").await?;
    }
    Ok(members)
}
