//! Faults under load, one test each; `make faults` runs them all, and others for longer, and prints one table.
#![allow(clippy::unwrap_used, missing_docs, reason = "tests")]

use std::time::Duration;

use anyhow::{Result, ensure};
use tests::faults::{FAULTS, Fault, at_random, cuts, storm};

fn happens(name: &str) -> Result<()> {
    Fault::named(name)?.happen().ensure_clean()
}

#[test]
fn a_worker_is_killed() -> Result<()> {
    happens("worker kill -9")
}

#[test]
fn a_worker_is_stopped() -> Result<()> {
    happens("worker SIGTERM")
}

#[test]
fn a_worker_is_frozen_longer_than_its_lease() -> Result<()> {
    happens("worker frozen past its lease")
}

#[test]
fn a_gateway_is_drained() -> Result<()> {
    happens("gateway SIGTERM, replaced")
}

#[test]
fn a_gateway_is_gone_before_its_clients_return() -> Result<()> {
    happens("gateway SIGTERM, clients away for long")
}

#[test]
fn a_gateway_is_killed() -> Result<()> {
    happens("gateway kill -9, replaced")
}

#[test]
fn a_gateway_is_frozen() -> Result<()> {
    happens("gateway frozen 5 s")
}

#[test]
fn current_nats_is_killed_and_started_again() -> Result<()> {
    happens("NATS restart")
}

#[test]
fn debians_nats_is_killed_and_started_again() -> Result<()> {
    happens("NATS restart (2.9)")
}

#[test]
fn nats_is_down_for_longer_than_publishes_wait() -> Result<()> {
    happens("NATS down for 12 s")
}

#[test]
fn nats_is_down_while_clients_come_back() -> Result<()> {
    happens("NATS down while clients come back")
}

#[test]
fn nats_is_cut_off_from_one_gateway() -> Result<()> {
    happens("NATS cut off from one gateway")
}

#[test]
fn redis_is_killed_and_started_again_empty() -> Result<()> {
    happens("Redis restart, empty")
}

#[test]
fn redis_loses_everything() -> Result<()> {
    happens("Redis FLUSHALL")
}

#[test]
fn presence_is_killed() -> Result<()> {
    happens("presence kill -9")
}

/// For a minute: `make faults`.
#[test]
fn connections_are_cut_again_and_again() -> Result<()> {
    cuts(Duration::from_secs(12)).ensure_clean()
}

#[test]
fn a_gateway_is_told_to_drain() -> Result<()> {
    happens("gateway POST /drain, replaced")
}

#[test]
fn a_gateway_sheds_half_of_its_connections() -> Result<()> {
    happens("gateway shed 50 %")
}

#[test]
fn connections_are_closed_at_an_age() -> Result<()> {
    happens("connections closed at the age of 2 s")
}

#[test]
fn every_role_is_restarted() -> Result<()> {
    happens("rolling restart of every role")
}

/// A few of them; `faults --minutes N --seed S` goes on for longer.
#[test]
fn faults_come_at_random() -> Result<()> {
    at_random(4711, Duration::from_secs(20)).ensure_clean()
}

/// With 5,000 clients: `faults --storm 5000`.
#[test]
fn two_gateways_are_replaced_under_many_clients() -> Result<()> {
    storm(200, 50, Duration::from_secs(6)).ensure_clean()
}

#[test]
fn every_fault_has_a_test() -> Result<()> {
    let tests = include_str!("main.rs");
    for fault in FAULTS {
        let name = format!("happens(\"{}\")", fault.name);
        ensure!(tests.contains(&name), "{name}");
    }
    Ok(())
}
