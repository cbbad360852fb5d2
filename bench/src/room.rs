//! One room: throughput, order, loss and repetition.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use tokio::{
    sync::{Barrier, Semaphore},
    task::JoinSet,
};

use crate::{client, server::Server};

#[expect(clippy::print_stdout, clippy::disallowed_methods, reason = "a command-line tool with tasks of its own")]
pub(crate) async fn run(members: usize, publishers: usize, messages: usize, in_flight: usize) -> Result<()> {
    ensure!(publishers <= members && publishers > 0, "publishers are members");
    let server = Server::start().await?;
    let each = messages / publishers;
    let total = each * publishers;
    let ready = Arc::new(Barrier::new(members + 1));
    let mut tasks = JoinSet::new();
    for member in 0..members {
        let sends = if member < publishers { each } else { 0 };
        tasks.spawn(run_member(server.addr, Arc::clone(&ready), sends, total, in_flight));
    }
    ready.wait().await;
    let cpu = server.cpu_seconds()?;
    let begun = Instant::now();
    let mut orders = Vec::with_capacity(members);
    while let Some(order) = tasks.join_next().await {
        orders.push(order??);
    }
    let elapsed = begun.elapsed();
    let cpu = server.cpu_seconds()? - cpu;
    let first = orders.first().context("no members")?;
    let lost: usize = orders.iter().map(|order| total.saturating_sub(order.len())).sum();
    let other_order = orders.iter().filter(|order| *order != first).count();
    let repeated: usize = orders
        .iter()
        .map(|order| {
            let mut sorted = order.clone();
            sorted.sort_unstable();
            sorted.dedup();
            order.len() - sorted.len()
        })
        .sum();
    let deliveries = (total * members) as f64;
    println!("members / publishers / messages   {members} / {publishers} / {total}");
    println!("lost / repeated / other order     {lost} / {repeated} / {other_order}");
    println!("deliveries a second               {:.0}", deliveries / elapsed.as_secs_f64());
    println!("server CPU a million deliveries   {:.2} s", cpu * 1e6 / deliveries);
    println!("resident                          {} bytes", server.resident()?);
    ensure!(lost == 0 && repeated == 0 && other_order == 0, "a figure with loss, repetition or disorder does not count");
    Ok(())
}

/// Gives the message ids in the order they came.
async fn run_member(
    addr: SocketAddr,
    ready: Arc<Barrier>,
    sends: usize,
    total: usize,
    in_flight: usize,
) -> Result<Vec<String>> {
    let (mut reader, mut writer) = client::connect(addr, "/chat").await?;
    writer.text("42/chat,0[\"join-room\",{\"roomId\":\"bench\"}]").await?;
    while !reader.text().await?.starts_with("43/chat,0") {}
    ready.wait().await;
    let window = Arc::new(Semaphore::new(in_flight));
    let permits = Arc::clone(&window);
    let send = async move {
        for number in 1..=sends {
            permits.acquire().await?.forget();
            let event = format!("42/chat,{number}[\"message\",{{\"roomId\":\"bench\",\"content\":\"{number:-<60}\"}}]");
            writer.text(&event).await?;
        }
        // The connection stays open until everything has come.
        std::future::pending::<Result<()>>().await
    };
    let receive = async {
        let mut order = Vec::with_capacity(total);
        let mut acknowledged = 0;
        while order.len() < total || acknowledged < sends {
            let text = tokio::time::timeout(Duration::from_secs(60), reader.text())
                .await
                .with_context(|| format!("{} of {total} messages came", order.len()))??;
            if let Some(event) = text.strip_prefix("42/chat,[\"message\",") {
                let id = event.split("\"id\":\"").nth(1).and_then(|rest| rest.split('"').next());
                order.push(id.context("a message without an id")?.to_owned());
            } else if text.starts_with("43/chat,") {
                ensure!(text.contains("\"ok\""), "a message was refused: {text}");
                acknowledged += 1;
                window.add_permits(1);
            }
        }
        anyhow::Ok(order)
    };
    tokio::select! {
        order = receive => order,
        failed = send => { failed?; unreachable!("sending goes on until everything has come") }
    }
}
