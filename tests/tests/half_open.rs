//! Ten thousand clients that never finish their handshake, and one that wants to be served.
#![allow(clippy::unwrap_used, missing_docs, reason = "tests")]

use std::{fs, net::SocketAddr, time::Duration};

use anyhow::{Context, Result, ensure};
use bench::client;
use futures_util::{StreamExt, TryStreamExt, stream};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tests::Standalone;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

const HALF_OPEN: u64 = 10_000;
/// Descriptors for the rest of a process.
const OTHERS: u64 = 500;
const AT_A_TIME: usize = 256;
const WITHIN: Duration = Duration::from_secs(60);
/// What one of them may cost the server.
const BYTES_EACH: u64 = 48 * 1024;

/// Allows descriptors for all of them, here and for the server, which inherits that.
fn allow_descriptors() -> Result<()> {
    let limit = getrlimit(Resource::Nofile);
    let wanted = HALF_OPEN + OTHERS;
    if limit.current.is_some_and(|current| current < wanted) {
        let raised = Rlimit {
            current: Some(wanted),
            ..limit
        };
        setrlimit(Resource::Nofile, raised).with_context(|| {
            format!("{HALF_OPEN} connections take {wanted} descriptors a process; allowed are {limit:?} (ulimit -Hn)")
        })?;
    }
    Ok(())
}

fn resident(pid: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kilobytes: u64 = line.context("VmRSS")?.trim().trim_end_matches(" kB").parse()?;
    Ok(kilobytes * 1024)
}

#[test]
fn half_open_handshakes_starve_nobody() -> Result<()> {
    allow_descriptors()?;
    let server = Standalone::start(&[("FANFARE_GATEWAY__HANDSHAKE_TIMEOUT_MS", "8000")])?;
    let addr: SocketAddr = server.url.strip_prefix("http://").context("http")?.parse()?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let before = resident(server.pid())?;
    runtime.block_on(async {
        let half: Vec<TcpStream> = stream::iter(0..HALF_OPEN)
            .map(|_| async move {
                let mut stream = TcpStream::connect(addr).await?;
                stream.write_all(b"GET /socket.io/?EIO=4&transport=").await?;
                anyhow::Ok(stream)
            })
            .buffer_unordered(AT_A_TIME)
            .try_collect()
            .await?;
        ensure!(half.len() as u64 == HALF_OPEN);
        let cost = resident(server.pid())?.saturating_sub(before);
        eprintln!(
            "{HALF_OPEN} half-open handshakes cost the server {} KiB",
            cost / 1024
        );
        ensure!(cost < HALF_OPEN * BYTES_EACH, "{cost} bytes");

        let served = async {
            let (mut reader, mut writer) = client::connect(addr, "/chat").await?;
            for number in 0..100 {
                writer.text(&format!("42/chat,{number}[\"ping\"]")).await?;
                while !reader.text().await?.starts_with(&format!("43/chat,{number}[")) {}
            }
            anyhow::Ok((reader, writer))
        };
        let _client = tokio::time::timeout(WITHIN, served).await??;

        // All are sent away, each when its time is over.
        for mut stream in half {
            let mut rest = Vec::new();
            // A refusal may stand before the end.
            let end = tokio::time::timeout(WITHIN, stream.read_to_end(&mut rest)).await;
            let _ = end.context("one is still open")?;
        }
        client::connect(addr, "/chat").await?;
        anyhow::Ok(())
    })?;
    server.stop()
}
