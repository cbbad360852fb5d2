//! What is logged, and what is not.

use std::{fs, net::SocketAddr};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tests::{Client, Standalone, servers::free_port};

use crate::{
    runtime,
    traces::{emit, raw},
};

/// What users say, are called and do; only who debugs may see it.
const WORDS: &str = "nobody-else-may-read-this";

/// Everything that a user can put into an event, in events that work, fail and are unknown.
async fn talk(address: SocketAddr) -> Result<()> {
    let client = Client::connect(address).await?;
    let room = format!("room {WORDS}");
    client.join(&room).await?;
    client.publish(&room, WORDS, &format!("id-{WORDS}")).await?;
    for (event, payload) in [
        ("message", json!({ "roomId": room, "content": [WORDS] })),
        ("message", json!({ "roomId": [WORDS], "content": WORDS })),
        ("message", json!(WORDS)),
        ("getMessages", json!({ "roomId": room, "before": WORDS })),
        ("markMessagesRead", json!({ "roomId": room, "messageId": WORDS })),
        (
            "getOrCreateRoom",
            json!({ "participants": [WORDS], "name": WORDS }),
        ),
        ("refresh-token", json!({ "token": WORDS })),
        (WORDS, json!({ WORDS: WORDS })),
    ] {
        client.ask(event, &payload).await?;
    }
    let (mut reader, mut writer) = bench::client::open(address).await?;
    writer
        .text(&format!("40/chat,{}", json!({ "token": WORDS })))
        .await?;
    reader.text().await?;
    // No packet at all.
    writer
        .text(&format!("42/chat,[\"message\",{{\"roomId\":\"{WORDS}"))
        .await?;
    let _ = reader.text().await;
    Ok(())
}

#[test]
fn what_users_say_is_in_no_line_above_debug() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let path = directory.path().to_str().context("a path")?;
    let standalone = Standalone::start(&[
        ("RUST_LOG", "trace"),
        ("FANFARE_LOG__FORMAT", "json"),
        ("FANFARE_LOG__DIRECTORY", path),
    ])?;
    let address = standalone.url.trim_start_matches("http://").parse()?;
    runtime()?.block_on(talk(address))?;
    let output = standalone.output();
    standalone.stop()?;
    let mut levels = Vec::new();
    for line in output.lines().filter(|line| line.starts_with('{')) {
        let entry: Value = serde_json::from_str(line).with_context(|| line.to_owned())?;
        let level = entry["level"].as_str().context("a level")?.to_owned();
        let is_detail = ["DEBUG", "TRACE"].contains(&level.as_str());
        ensure!(is_detail || !line.contains(WORDS), "{line}");
        levels.push(level);
    }
    ensure!(
        levels.iter().any(|level| level == "INFO"),
        "nothing is logged: {levels:?}"
    );
    // The file of the day has the same.
    let files: Vec<_> = fs::read_dir(directory.path())?.flatten().collect();
    ensure!(files.len() == 1, "{files:?}");
    let name = files[0].file_name();
    ensure!(
        name.to_string_lossy().starts_with("fanfare-standalone."),
        "{name:?}"
    );
    let text = fs::read_to_string(files[0].path())?;
    // It has gone on to the end.
    ensure!(
        text.lines().count() >= levels.len(),
        "the file has {} lines, standard error had {}",
        text.lines().count(),
        levels.len()
    );
    Ok(())
}

/// Also where nothing else is logged, as in production.
#[test]
fn a_warning_has_the_trace_of_its_event() -> Result<()> {
    const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
    let nobody = format!("http://127.0.0.1:{}", free_port()?);
    let standalone = Standalone::start(&[
        ("RUST_LOG", "warn"),
        ("FANFARE_LOG__FORMAT", "json"),
        ("FANFARE_APP__WEBHOOK_URL", &nobody),
        ("FANFARE_APP__AUTHORIZE", "emit"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", &nobody),
        ("OTEL_TRACES_SAMPLER", "parentbased_always_off"),
    ])?;
    let address = standalone.address()?;
    runtime()?.block_on(async {
        let trace = json!({ "traceparent": format!("00-{TRACE}-b7ad6b7169203331-01") });
        let mut client = raw(address, &json!({})).await?;
        // The application is given up after some.
        for _ in 0..6 {
            emit(&mut client, &json!(["order", {}, trace])).await?;
        }
        anyhow::Ok(())
    })?;
    let output = standalone.output();
    let line = output.lines().find(|line| line.contains("it is left alone"));
    let entry: Value = serde_json::from_str(line.with_context(|| output.clone())?)?;
    ensure!(entry["span"]["trace_id"] == TRACE, "{entry}");
    standalone.stop()
}
