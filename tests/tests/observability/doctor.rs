//! `fanfare doctor` on servers that are right, wrong and away.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tests::{Cluster, built, servers::NatsVersion};

/// Its exit code, and the checks that are not fine.
fn doctor(settings: &[(&str, &str)], arguments: &[&str]) -> Result<(Option<i32>, Vec<String>)> {
    let output = Command::new(built("fanfare", "cargo build -p fanfare")?)
        .args(["doctor", "--json"])
        .args(arguments)
        .envs([
            ("FANFARE_AUTH__MODE", "guest"),
            ("FANFARE_GATEWAY__MAX_CONNECTIONS", "1"),
        ])
        .envs(settings.iter().copied())
        .output()?;
    let text = String::from_utf8(output.stdout)?;
    let told: Value = serde_json::from_str(&text).with_context(|| text.clone())?;
    let findings = told["findings"].as_array().context("findings")?;
    ensure!(!text.contains("not known"), "{text}");
    let bad = findings.iter().filter(|finding| finding["level"] != "ok");
    let bad = bad.map(|finding| finding["check"].as_str().unwrap_or_default().to_owned());
    let bad: Vec<_> = bad.collect();
    ensure!(told["ok"] == (output.status.code() == Some(0)), "{text}");
    Ok((output.status.code(), bad))
}

#[test]
fn servers_right_wrong_and_away() -> Result<()> {
    let mut cluster = Cluster::servers(NatsVersion::Current, &[])?;
    let (nats, redis) = (cluster.nats.url(), cluster.redis.url());
    let settings = [("NATS_URL", nats.as_str()), ("REDIS_URL", redis.as_str())];
    let is = |found: (Option<i32>, Vec<String>), code: i32, checks: &[&str]| {
        ensure!(found.0 == Some(code) && found.1 == checks, "{found:?}");
        Ok(())
    };
    is(doctor(&settings, &["gateway"])?, 0, &[])?;
    // The log is there from now on, and says the time too.
    cluster.add(tests::Role::Presence)?;
    cluster.until_ready()?;
    is(doctor(&settings, &["fanout"])?, 0, &[])?;
    is(
        doctor(&settings, &["--idle-timeout", "20s"])?,
        1,
        &["idle timeout of the balancer"],
    )?;
    cluster.redis.command("CONFIG SET maxmemory-policy allkeys-lru")?;
    is(doctor(&settings, &[])?, 1, &["Redis maxmemory-policy"])?;
    let large = [
        settings[0],
        settings[1],
        ("FANFARE_GATEWAY__MAX_PAYLOAD_BYTES", "100000000"),
    ];
    is(
        doctor(&large, &[])?,
        1,
        &["NATS max_payload", "Redis maxmemory-policy"],
    )?;
    let away = [
        ("NATS_URL", "nats://127.0.0.1:1"),
        ("REDIS_URL", "redis://127.0.0.1:1"),
    ];
    is(doctor(&away, &["presence"])?, 1, &["NATS", "Redis"])?;
    is(
        doctor(&[("NATS_URL", "what is that")], &[])?,
        1,
        &["configuration"],
    )?;
    cluster.stop()
}
