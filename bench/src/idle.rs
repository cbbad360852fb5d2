//! What an idle client in one namespace and one room costs the server in memory.

use std::time::Duration;

use anyhow::{Result, ensure};
use bench::client;
use tokio::task::JoinSet;

use crate::server::Server;

/// Connects under way at a time.
const AT_ONCE: usize = 64;

#[expect(clippy::print_stdout, reason = "a command-line tool")]
pub(crate) async fn run(clients: usize) -> Result<()> {
    let server = Server::start().await?;
    // What starts lazily has started before the measurement begins.
    let mut connected = vec![join(&server).await?];
    let before = server.resident()?;
    let cpu = server.cpu_seconds()?;
    let addr = server.addr;
    let mut under_way = JoinSet::new();
    for _ in 0..clients {
        if under_way.len() >= AT_ONCE
            && let Some(client) = under_way.join_next().await
        {
            connected.push(client??);
        }
        under_way.spawn(async move { join_at(addr).await });
    }
    while let Some(client) = under_way.join_next().await {
        connected.push(client??);
    }
    ensure!(connected.len() == clients + 1, "not all clients are connected");
    // Buffers of the connects are given back.
    tokio::time::sleep(Duration::from_secs(8)).await;
    let resident = server.resident()?;
    let cpu = server.cpu_seconds()? - cpu;
    let each = (resident.saturating_sub(before)) as f64 / clients as f64;
    println!("clients                    {clients}");
    println!("resident before            {before} bytes");
    println!("resident after             {resident} bytes");
    println!("resident a client          {each:.0} bytes");
    println!(
        "CPU a connect and join     {:.3} ms",
        cpu * 1000.0 / clients as f64
    );
    Ok(())
}

async fn join(server: &Server) -> Result<(client::Reader, client::Writer)> {
    join_at(server.addr).await
}

async fn join_at(addr: std::net::SocketAddr) -> Result<(client::Reader, client::Writer)> {
    let (mut reader, mut writer) = client::connect(addr, "/chat").await?;
    // A room of its own kind for each hundred would be another scenario: here all are in one.
    writer
        .text("42/chat,0[\"join-room\",{\"roomId\":\"idle\"}]")
        .await?;
    loop {
        let text = reader.text().await?;
        if text.starts_with("43/chat,0") {
            ensure!(text.contains("\"ok\""), "the join was refused: {text}");
            return Ok((reader, writer));
        }
    }
}
