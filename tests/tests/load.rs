//! One room under load: order, loss and repetition are counted; who does not read costs the others
//! nothing and the server little.
#![allow(clippy::unwrap_used, missing_docs, reason = "tests")]

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context, Result, ensure};
use bench::{
    client,
    room::{self, Load},
};
use tests::Standalone;

fn address(server: &Standalone) -> Result<SocketAddr> {
    Ok(server
        .url
        .strip_prefix("http://")
        .context("the URL is no http")?
        .parse()?)
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread().enable_all().build()?)
}

#[test]
fn every_member_sees_every_message_once_in_one_order() -> Result<()> {
    let server = Standalone::start(&[])?;
    let load = Load {
        members: 200,
        publishers: 10,
        messages: 10_000,
        in_flight: 16,
        content: 60,
    };
    let report = runtime()?.block_on(room::run(address(&server)?, load, || Ok(())))?;
    ensure!(report.messages == 10_000 && report.is_clean(), "{report:?}");
    server.stop()
}

#[test]
fn a_member_that_stops_reading_is_closed_and_harms_nobody() -> Result<()> {
    let server = Standalone::start(&[])?;
    let addr = address(&server)?;
    runtime()?.block_on(async {
        let (mut reader, mut writer) = client::connect(addr, "/chat").await?;
        writer
            .text("42/chat,0[\"join-room\",{\"roomId\":\"load\"}]")
            .await?;
        while !reader.text().await?.starts_with("43/chat,0") {}
        // From here on it reads no more. What the kernel buffers for it runs over, then its queue.
        let before = resident(&server)?;
        let load = Load {
            members: 10,
            publishers: 2,
            messages: 8000,
            in_flight: 16,
            content: 4000,
        };
        let report = room::run(addr, load, || Ok(())).await?;
        ensure!(report.is_clean(), "{report:?}");
        let slow = server.metric("socket_disconnects_total", "reason=\"slow consumer\"")?;
        ensure!(slow == 1.0, "{slow} slow consumers were closed");
        // The room's history and the links' queues, not the 32 MB that the slow one did not read.
        let grown = resident(&server)?.saturating_sub(before);
        ensure!(grown < 24 << 20, "the server has grown by {grown} bytes");
        drop(reader);
        anyhow::Ok(())
    })?;
    server.stop()
}

#[test]
fn a_client_that_floods_is_read_no_faster_than_it_is_answered() -> Result<()> {
    let server = Standalone::start(&[])?;
    let addr = address(&server)?;
    runtime()?.block_on(async {
        let (mut reader, mut writer) = client::connect(addr, "/chat").await?;
        let flood = async {
            for number in 0..20_000 {
                writer
                    .text(&format!(
                        "42/chat,{number}[\"getOnlineUsers\",{{\"roomId\":\"load\"}}]"
                    ))
                    .await?;
            }
            anyhow::Ok(())
        };
        let answers = async {
            for _ in 0..20_000 {
                let answer = tokio::time::timeout(Duration::from_secs(60), reader.text()).await??;
                ensure!(
                    answer.starts_with("43/chat,") && answer.contains("\"ok\""),
                    "{answer}"
                );
            }
            anyhow::Ok(())
        };
        tokio::try_join!(flood, answers)?;
        anyhow::Ok(())
    })?;
    server.stop()
}

fn resident(server: &Standalone) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid()))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line
        .and_then(|line| line.trim().strip_suffix(" kB"))
        .context("no VmRSS")?;
    Ok(kib.parse::<u64>()? * 1024)
}
