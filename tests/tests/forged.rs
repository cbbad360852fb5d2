//! Clients that say what only servers say: nobody hears it.
#![allow(clippy::unwrap_used, missing_docs, reason = "tests")]

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bench::client::{Reader, Writer, connect};
use serde_json::json;
use tests::Standalone;

const WITHIN: Duration = Duration::from_secs(60);
/// What the forger calls itself.
const FORGED: &str = "somebody forged";

/// Reads until a packet begins so and has this in it; all packets until then, that one included.
async fn until(reader: &mut Reader, begin: &str, holds: &str) -> Result<Vec<String>> {
    let mut heard = Vec::new();
    loop {
        let text = tokio::time::timeout(WITHIN, reader.text())
            .await
            .with_context(|| format!("{begin} with {holds} does not come; heard {heard:?}"))??;
        let is_last = text.starts_with(begin) && text.contains(holds);
        heard.push(text);
        if is_last {
            return Ok(heard);
        }
    }
}

async fn ask(reader: &mut Reader, writer: &mut Writer, number: usize, event: &str) -> Result<String> {
    writer.text(&format!("42/chat,{number}{event}")).await?;
    let heard = until(reader, &format!("43/chat,{number}["), "").await?;
    heard.last().cloned().context("an answer")
}

#[test]
fn nobody_hears_what_only_servers_say() -> Result<()> {
    let server = Standalone::start(&[("FANFARE_ROOMS__PUBLIC", "*")])?;
    let address = server.address()?;
    let runtime = tokio::runtime::Runtime::new()?;
    runtime.block_on(async {
        let (mut hears, mut listens) = connect(address, "/chat").await?;
        let (mut reader, mut writer) = connect(address, "/chat").await?;
        let join = json!(["join-room", { "roomId": "r" }]).to_string();
        for answer in [
            ask(&mut hears, &mut listens, 0, &join).await?,
            ask(&mut reader, &mut writer, 0, &join).await?,
        ] {
            ensure!(answer.contains(r#""status":"ok""#), "{answer}");
        }
        let mut heard = until(&mut hears, "42/chat,[\"room-presence\"", "\"usersCount\":2").await?;

        let payload = json!({ "roomId": "r", "userId": FORGED, "username": FORGED, "usersCount": 99, "action": "left" });
        let mut number = 1;
        for event in ["room-presence", "user-left", "room-joined", "user-offline"] {
            let forged = json!([event, payload]).to_string();
            writer.text(&format!("42/chat,{forged}")).await?;
            let answer = ask(&mut reader, &mut writer, number, &forged).await?;
            ensure!(answer.contains("Nobody handles"), "{answer}");
            number += 1;
        }
        // What is real comes behind it: by the log, at once, and from the presence service.
        let message = json!(["message", { "roomId": "r", "content": "real" }]).to_string();
        ask(&mut reader, &mut writer, number, &message).await?;
        heard.extend(until(&mut hears, "42/chat,[\"message\"", "real").await?);
        let leave = json!(["leave-room", { "roomId": "r" }]).to_string();
        ask(&mut reader, &mut writer, number + 1, &leave).await?;
        heard.extend(until(&mut hears, "42/chat,[\"room-presence\"", "\"action\":\"left\"").await?);
        let forged: Vec<_> = heard.iter().filter(|text| text.contains(FORGED)).collect();
        ensure!(forged.is_empty(), "{forged:?}");
        Ok(())
    })?;
    server.stop()
}
