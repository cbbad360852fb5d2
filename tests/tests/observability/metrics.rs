//! Metrics are right at any moment, and stay few.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use serde_json::json;
use tests::{Client, Cluster, until};
use tokio::task::JoinSet;

use crate::{SIZE, get, jobs, runtime};

const SETTLED: Duration = Duration::from_secs(15);
/// Together ten thousand rooms.
const CLIENTS: usize = 20;
const ROOMS_EACH: usize = 500;
/// Rooms a client works with at a time.
const AT_ONCE: usize = 50;

fn connections(cluster: &Cluster) -> Result<f64> {
    cluster.metric("socket_active_connections", "")
}

/// Whatever clients do, the gauges are what they hold: on every way a connection can come and go.
#[test]
fn the_gauge_of_connections_is_what_the_clients_hold() -> Result<()> {
    Cluster::run(SIZE, &[], |cluster| {
        cluster.until_settled()?;
        let runtime = runtime()?;
        let gateways = cluster.addresses()?;
        let mut held: Vec<Client> = Vec::new();
        for round in 0..12_usize {
            runtime.block_on(async {
                for number in 0..20 {
                    let client = Client::connect(gateways[(round + number) % gateways.len()]).await?;
                    client.join(&format!("room {}", number % 5)).await?;
                    held.push(client);
                }
                // The token of some is refused, some never say which namespace they want.
                for gateway in &gateways {
                    let (mut reader, mut writer) = bench::client::open(*gateway).await?;
                    writer.text(r#"40/chat,{"token":"none"}"#).await?;
                    reader.text().await?;
                    drop(bench::client::open(*gateway).await?);
                }
                anyhow::Ok(())
            })?;
            // Every acknowledged connect counts at once, and nothing that was refused does. Some of those dropped in
            // the round before may still be on their way out, so the bound below is the clients' own count.
            let counted = connections(cluster)?;
            ensure!(
                counted >= held.len() as f64,
                "{counted} are counted, {} are held",
                held.len()
            );
            // By turns an orderly end, and a connection that breaks.
            held.drain(..10);
            let held = held.len() as f64;
            until("the gauge is what the clients hold", SETTLED, || {
                Ok(connections(cluster)? == held)
            })?;
            until("presence knows the same users", SETTLED, || {
                Ok(cluster.metric("socket_active_users", "")? == held)
            })?;
        }
        held.clear();
        until("nobody is left", SETTLED, || {
            let sum = |name| cluster.metric(name, "");
            Ok(connections(cluster)? == 0.0
                && sum("fanfare_connections")? == 0.0
                && sum("socket_active_users")? == 0.0
                && sum("socket_active_rooms")? == 0.0)
        })?;
        // What came has gone.
        let came = cluster.metric("socket_connections_total", "status=\"connected\"")?;
        let went = cluster.metric("socket_disconnects_total", "")?;
        ensure!(came == went, "{came} came, {went} went");
        Ok(())
    })
}

/// Ten thousand rooms, and as many names of events, add not one series.
#[test]
fn activity_adds_no_series() -> Result<()> {
    Cluster::run(SIZE, &[], |cluster| {
        cluster.until_settled()?;
        let runtime = runtime()?;
        let gateways = cluster.addresses()?;
        runtime.block_on(async {
            let client = Client::connect(gateways[0]).await?;
            work(&client, 0..10).await
        })?;
        let before = series(cluster)?;
        let begun = Instant::now();
        runtime.block_on(async {
            let mut working = JoinSet::new();
            for number in 0..CLIENTS {
                let gateway = gateways[number % gateways.len()];
                working.spawn(async move {
                    let client = Client::connect(gateway).await?;
                    work(&client, number * ROOMS_EACH..(number + 1) * ROOMS_EACH).await
                });
            }
            working.join_all().await.into_iter().collect::<Result<()>>()
        })?;
        let after = series(cluster)?;
        let mut grown = Vec::new();
        for (name, count) in &after {
            let known = before.get(name).copied().unwrap_or_default();
            // Both gateways have seen every kind of event now; the first time one gateway had not.
            if *count > known.max(1) * gateways.len() && *count > 400 {
                grown.push(format!("{name}: {known} series, then {count}"));
            }
        }
        ensure!(grown.is_empty(), "{grown:?}");
        let all: usize = after.values().sum();
        ensure!(all < 4000, "{all} series in all after {:?}", begun.elapsed());
        Ok(())
    })
}

/// Rooms joined and written to, and events that nobody knows.
async fn work(client: &Client, numbers: std::ops::Range<usize>) -> Result<()> {
    for chunk in numbers.collect::<Vec<_>>().chunks(AT_ONCE) {
        let mut answers = Vec::new();
        for number in chunk {
            let room = format!("room {number}");
            answers.push(client.send("join-room", &json!({ "roomId": room })).await?);
            let message = json!({ "roomId": room, "content": "hello" });
            answers.push(client.send("message", &message).await?);
            answers.push(client.send(&format!("event-{number}"), &json!({})).await?);
            answers.push(client.send("leave-room", &json!({ "roomId": room })).await?);
        }
        for answer in answers {
            answer.await?;
        }
    }
    Ok(())
}

/// How many series each metric has, over all processes.
fn series(cluster: &Cluster) -> Result<BTreeMap<String, usize>> {
    let mut series = BTreeMap::new();
    for instance in jobs(cluster).iter().flat_map(|(_, instances)| *instances) {
        for line in get(instance.admin(), "/metrics")?.lines() {
            for forbidden in ["room ", "event-", "guest"] {
                let labels = line.split_once('{').map_or("", |(_, labels)| labels);
                ensure!(line.starts_with('#') || !labels.contains(forbidden), "{line}");
            }
            if let Some((name, _)) = line.split_once('{').filter(|_| !line.starts_with('#')) {
                *series.entry(name.to_owned()).or_default() += 1;
            }
        }
    }
    Ok(series)
}
