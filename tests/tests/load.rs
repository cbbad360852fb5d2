//! One room under load: order, loss and repetition are counted; who does not read costs the others
//! nothing and the server little.
#![allow(clippy::unwrap_used, missing_docs, reason = "tests")]

use std::{net::SocketAddr, process::Command, time::Duration};

use anyhow::{Context, Result, ensure};
use bench::{
    client,
    room::{self, Load},
};
use tests::{Standalone, built};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

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
    // Room for readers that a busy machine holds up for a moment.
    let server = Standalone::start(&[("FANFARE_GATEWAY__SEND_QUEUE_BYTES", "8388608")])?;
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
    let server = Standalone::start(&[
        // Room for readers that a busy machine holds up for a moment.
        ("FANFARE_GATEWAY__SEND_QUEUE_BYTES", "8388608"),
        // The journal of what clients may have missed would be counted too.
        ("FANFARE_GATEWAY__RECOVERY_SECONDS", "0"),
    ])?;
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
            messages: 16_000,
            in_flight: 16,
            content: 4000,
        };
        let report = room::run(addr, load, || Ok(())).await?;
        ensure!(report.is_clean(), "{report:?}");
        let slow = server.metric("socket_disconnects_total", "reason=\"slow consumer\"")?;
        ensure!(slow == 1.0, "{slow} slow consumers were closed");
        // The room's history and the links' queues, not the 64 MB that the slow one did not read.
        let grown = resident(&server)?.saturating_sub(before);
        ensure!(grown < 40 << 20, "the server has grown by {grown} bytes");
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

#[test]
fn a_stop_closes_clients_in_a_way_that_brings_them_back() -> Result<()> {
    let server = Standalone::start(&[])?;
    let addr = address(&server)?;
    let runtime = runtime()?;
    let mut readers = runtime.block_on(async {
        let mut readers = Vec::new();
        for _ in 0..50 {
            readers.push(client::connect(addr, "/chat").await?);
        }
        anyhow::Ok(readers)
    })?;
    server.stop()?;
    runtime.block_on(async {
        for (reader, _) in &mut readers {
            // A Socket.IO disconnect would keep stock clients from reconnecting.
            let end = loop {
                match tokio::time::timeout(Duration::from_secs(20), reader.text()).await? {
                    Ok(text) => ensure!(!text.starts_with("41"), "{text}"),
                    Err(end) => break end,
                }
            };
            ensure!(end.to_string().contains("closed"), "{end}");
        }
        Ok(())
    })
}

#[test]
fn a_full_gateway_says_when_to_come_back() -> Result<()> {
    let server = Standalone::start(&[("FANFARE_GATEWAY__MAX_CONNECTIONS", "1")])?;
    let addr = address(&server)?;
    runtime()?.block_on(async {
        let first = client::connect(addr, "/chat").await?;
        let mut second = TcpStream::connect(addr).await?;
        second
            .write_all(
                b"GET /socket.io/?EIO=4&transport=polling HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n",
            )
            .await?;
        let mut answer = String::new();
        second.read_to_string(&mut answer).await?;
        let answer = answer.to_lowercase();
        ensure!(
            answer.starts_with("http/1.1 503") && answer.contains("\r\nretry-after:"),
            "{answer}"
        );
        drop(first);
        // Its place is free as soon as the server has seen it go.
        for _ in 0..200 {
            if client::connect(addr, "/chat").await.is_ok() {
                return anyhow::Ok(());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        anyhow::bail!("the place is never free again")
    })?;
    server.stop()
}

#[test]
fn half_a_request_is_not_waited_for_and_a_large_head_is_refused() -> Result<()> {
    let server = Standalone::start(&[("FANFARE_GATEWAY__HANDSHAKE_TIMEOUT_MS", "300")])?;
    let addr = address(&server)?;
    runtime()?.block_on(async {
        let mut slow = TcpStream::connect(addr).await?;
        slow.write_all(b"GET /socket.io/?EIO=4&transport=polling HTTP/1.1\r\nhost")
            .await?;
        let mut answer = Vec::new();
        tokio::time::timeout(Duration::from_secs(20), slow.read_to_end(&mut answer))
            .await
            .context("waited for")??;
        let mut large = TcpStream::connect(addr).await?;
        let head = format!("GET / HTTP/1.1\r\nhost: x\r\nx: {}\r\n\r\n", "x".repeat(20_000));
        large.write_all(head.as_bytes()).await?;
        let mut answer = Vec::new();
        // The server may hang up before it has read everything, which resets the connection.
        let _ = tokio::time::timeout(Duration::from_secs(20), large.read_to_end(&mut answer)).await?;
        ensure!(
            answer.is_empty() || answer.starts_with(b"HTTP/1.1 431"),
            "{}",
            String::from_utf8_lossy(&answer)
        );
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

/// Joins with history while others publish, again and again: what the answer names and what follows it
/// are one run of the room's order, without gap or overlap (CONTRACT G4).
#[test]
fn history_and_what_follows_a_join_are_one_run_of_the_order() -> Result<()> {
    const MESSAGES: usize = 3000;
    const JOINERS: usize = 20;
    let server = Standalone::start(&[])?;
    let addr = address(&server)?;
    runtime()?.block_on(async {
        let (mut witness, mut writer) = client::connect(addr, "/chat").await?;
        join(&mut witness, &mut writer, 0).await?;
        let publish = async {
            for number in 0..MESSAGES {
                let event =
                    format!("42/chat,{number}[\"message\",{{\"roomId\":\"load\",\"content\":\"x\"}}]");
                writer.text(&event).await?;
                if number % 16 == 0 {
                    tokio::task::yield_now().await;
                }
            }
            anyhow::Ok(())
        };
        // A join before the first message would show nothing.
        let begun = tokio::sync::Semaphore::new(0);
        let see = async {
            let mut order = Vec::with_capacity(MESSAGES);
            while order.len() < MESSAGES {
                order.extend(message_id(
                    &next(&mut witness)
                        .await
                        .with_context(|| format!("the witness has {} messages", order.len()))?,
                ));
                if order.len() == 1 {
                    begun.add_permits(JOINERS);
                }
            }
            anyhow::Ok(order)
        };
        let joiners = futures_util::future::try_join_all((0..JOINERS).map(async |_| {
            begun.acquire().await?.forget();
            join_and_leave(addr).await
        }));
        let ((), order, runs) = tokio::try_join!(publish, see, joiners)?;
        let place: std::collections::HashMap<_, _> =
            order.iter().enumerate().map(|(at, id)| (id, at)).collect();
        let mut checked = 0;
        for run in runs.iter().flatten() {
            let places: Option<Vec<_>> = run.iter().map(|id| place.get(id)).collect();
            let places = places.context("a message that the room did not see")?;
            ensure!(
                places.windows(2).all(|pair| *pair[1] == pair[0] + 1),
                "a gap or an overlap: {places:?}"
            );
            checked += usize::from(!places.is_empty());
        }
        ensure!(checked > 20, "only {checked} joins saw messages");
        Ok(())
    })?;
    server.stop()
}

/// Of each join the ids of its history and of what followed until the next leave.
async fn join_and_leave(addr: SocketAddr) -> Result<Vec<Vec<String>>> {
    let (mut reader, mut writer) = client::connect(addr, "/chat").await?;
    let mut runs = Vec::new();
    for round in 0..10 {
        let mut run = join(&mut reader, &mut writer, 20).await?;
        for _ in 0..20 {
            match tokio::time::timeout(Duration::from_millis(50), next(&mut reader)).await {
                Ok(text) => run.extend(message_id(&text?)),
                Err(_) => break,
            }
        }
        let id = 100 + round;
        writer
            .text(&format!("42/chat,{id}[\"leave-room\",{{\"roomId\":\"load\"}}]"))
            .await?;
        loop {
            let text = next(&mut reader).await?;
            if text.starts_with(&format!("43/chat,{id}[")) {
                break;
            }
            run.extend(message_id(&text));
        }
        runs.push(run);
    }
    Ok(runs)
}

/// Joins and gives the ids of the history.
async fn join(
    reader: &mut client::Reader,
    writer: &mut client::Writer,
    history: usize,
) -> Result<Vec<String>> {
    writer
        .text(&format!(
            "42/chat,0[\"join-room\",{{\"roomId\":\"load\",\"history\":{history}}}]"
        ))
        .await?;
    loop {
        let text = next(reader).await?;
        if let Some(answer) = text.strip_prefix("43/chat,0") {
            let answer: serde_json::Value = serde_json::from_str(answer)?;
            let messages = answer[0]["messages"].as_array().cloned().unwrap_or_default();
            return Ok(messages
                .iter()
                .filter_map(|message| message["id"].as_str().map(str::to_owned))
                .collect());
        }
        ensure!(
            message_id(&text).is_none(),
            "a message before the join was answered"
        );
    }
}

async fn next(reader: &mut client::Reader) -> Result<String> {
    tokio::time::timeout(Duration::from_secs(20), reader.text())
        .await
        .context("nothing comes")?
}

fn message_id(text: &str) -> Option<String> {
    let event = text.strip_prefix("42/chat,[\"message\",")?;
    Some(event.split("\"id\":\"").nth(1)?.split('"').next()?.to_owned())
}

/// A scenario of the load generator in short form: it ends well, its checks find no fault, and the figures are in
/// its report.
fn scenario(server: &Standalone, arguments: &[&str], figures: &[&str]) -> Result<()> {
    let report = std::env::temp_dir().join(format!("fanfare-bench-{}-{}", std::process::id(), arguments[0]));
    let output = Command::new(built("fanfare", "cargo build -p fanfare")?)
        .arg("bench")
        .args(arguments)
        .args(["--url", &server.url, "--pid", &format!("server={}", server.pid())])
        .args(["--pin", "none", "--warm-up", "0.3", "--settle", "0.1", "--json"])
        .arg(&report)
        .output()?;
    ensure!(
        output.status.success(),
        "{arguments:?}: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    let json: serde_json::Value = serde_json::from_slice(&std::fs::read(&report)?)?;
    std::fs::remove_file(&report)?;
    ensure!(
        json["scenario"] == arguments[0] && json["runs"][0]["valid"] == true,
        "{json}"
    );
    for figure in figures {
        ensure!(
            json["median"][figure].as_f64().is_some_and(|value| value > 0.0),
            "{figure}: {json}"
        );
    }
    Ok(())
}

#[test]
fn the_load_generator_runs_its_scenarios() -> Result<()> {
    let server = Standalone::start(&[])?;
    let of_deliveries = [
        "deliveries_per_s",
        "delivery_ms_p99",
        "cpu_s_per_million_deliveries",
        "generator_cpu_s_per_million_deliveries",
    ];
    let of_answers = ["acks_per_s", "answer_ms_p50", "cpu_s_per_million_acks.server"];
    let of_connects = ["joins", "cpu_ms_per_join", "connect_ms_p50"];
    for (arguments, figures) in [
        (
            "fanout --members 30 --in-flight 4 --messages 100",
            &of_deliveries[..],
        ),
        (
            "fanout --members 30 --rate 50 --seconds 0.5 --processes 2",
            &of_deliveries,
        ),
        ("rooms --rooms 5 --members 4 --seconds 0.5", &of_deliveries),
        (
            "rooms --rooms 5 --members 4 --rate 400 --seconds 0.5",
            &of_deliveries,
        ),
        ("echo --clients 10 --seconds 0.3", &of_answers),
        ("echo --clients 10 --durable --seconds 0.3", &of_answers),
        (
            "idle --clients 100 --active 1% --rate 5 --hold 0.6",
            &[
                "resident_bytes_start",
                "resident_bytes_middle",
                "cpu_ms_per_connect",
            ],
        ),
        (
            "churn --rate 50 --seconds 0.5 --rooms 3 --members 10",
            &of_connects,
        ),
        (
            "mixed --idle 100 --rooms 2 --rooms-rate 100 --members 30 --rate 10 --seconds 0.5",
            &of_deliveries,
        ),
    ] {
        let arguments: Vec<_> = arguments.split(' ').collect();
        scenario(&server, &arguments, figures)?;
    }
    server.stop()
}

#[test]
fn everybody_recovers_after_a_storm_of_the_load_generator() -> Result<()> {
    let server = Standalone::start(&[])?;
    scenario(
        &server,
        &["storm", "--clients", "60", "--rooms-size", "20"],
        &["recovered", "joins_per_s", "cpu_ms_per_join", "connect_ms_max"],
    )?;
    server.stop()
}
