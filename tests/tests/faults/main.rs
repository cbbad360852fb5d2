//! Faults under load. Whatever dies: nothing acknowledged is lost, nothing comes twice, and the order holds; the
//! pauses are printed.
#![allow(clippy::unwrap_used, missing_docs, reason = "tests")]

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tests::{Cluster, Load, Report, Role, Size, Traffic, servers::Signal, until};

/// Every pause ends by then on a machine that does other things too; what is promised is less, and printed.
const LONGEST: Duration = Duration::from_secs(30);
/// Longer than a worker's lease of 3 s.
const FROZEN: Duration = Duration::from_secs(5);
/// Messages before and after a fault.
const SOME: usize = 300;

/// Runs `fault` while traffic flows, and looks at the books.
fn under_load(
    what: &str,
    workers: usize,
    fault: impl FnOnce(&mut Cluster, &Traffic) -> Result<()>,
) -> Result<Report> {
    let size = Size {
        workers,
        ..Size::default()
    };
    let mut cluster = Cluster::start(size, &[])?;
    let result = run(what, &mut cluster, fault);
    let panics = cluster.logs_with("panicked at");
    ensure!(panics.is_empty(), "{what}: {panics}");
    result.map_err(|error| error.context(cluster.logs()))
}

fn run(
    what: &str,
    cluster: &mut Cluster,
    fault: impl FnOnce(&mut Cluster, &Traffic) -> Result<()>,
) -> Result<Report> {
    let traffic = Traffic::start(&cluster.addresses()?, Load::default())?;
    traffic.flow(SOME)?;
    fault(cluster, &traffic)?;
    traffic.flow(SOME)?;
    let report = traffic.finish()?;
    report.ensure_clean(what)?;
    ensure!(report.pause < LONGEST, "{what}: a pause of {:?}", report.pause);
    Ok(report)
}

fn sleep(time: Duration) {
    #[expect(clippy::disallowed_methods, reason = "the test's thread has no runtime")]
    std::thread::sleep(time);
}

/// The worker with the most partitions.
fn busiest(cluster: &Cluster) -> Result<usize> {
    let mut owned = Vec::new();
    for worker in &cluster.workers {
        owned.push(worker.metric("fanfare_partitions_owned", "")?);
    }
    let most = owned.iter().copied().fold(0.0, f64::max);
    ensure!(most > 0.0, "no worker owns a partition");
    let busiest = owned.iter().position(|count| *count == most);
    busiest.context("one has the most")
}

/// All partitions are owned, by workers that answer.
fn all_owned(cluster: &Cluster) -> Result<()> {
    until("all partitions are owned", LONGEST, || {
        Ok(cluster.metric("fanfare_partitions_owned", "")? == 16.0)
    })
}

#[test]
fn a_worker_is_killed() -> Result<()> {
    under_load("worker killed", 3, |cluster, _| {
        let worker = busiest(cluster)?;
        drop(cluster.workers.remove(worker));
        all_owned(cluster)?;
        // And a new one takes its share.
        cluster.add(Role::Worker)?;
        cluster.until_ready()?;
        until("the new worker owns some", LONGEST, || {
            let new = cluster.workers.last().context("it was added")?;
            Ok(new.metric("fanfare_partitions_owned", "")? > 0.0)
        })
    })
    .map(drop)
}

#[test]
fn a_worker_is_stopped() -> Result<()> {
    under_load("worker stopped", 2, |cluster, _| {
        let worker = busiest(cluster)?;
        cluster.workers.remove(worker).stop()?;
        all_owned(cluster)
    })
    .map(drop)
}

#[test]
fn a_worker_is_frozen_longer_than_its_lease() -> Result<()> {
    under_load("worker frozen", 2, |cluster, traffic| {
        let worker = busiest(cluster)?;
        let frozen = cluster.workers.remove(worker);
        frozen.signal(Signal::STOP)?;
        sleep(FROZEN);
        all_owned(cluster)?;
        // It goes on in the belief that it owns its partitions.
        frozen.signal(Signal::CONT)?;
        cluster.workers.push(frozen);
        traffic.flow(SOME)?;
        all_owned(cluster)
    })
    .map(drop)
}

#[test]
fn nats_is_killed_and_started_again() -> Result<()> {
    let report = under_load("NATS restarted", 2, |cluster, _| {
        cluster.nats.kill();
        sleep(Duration::from_secs(2));
        cluster.nats.start_again()
    })?;
    // Clients see late acknowledgements, or UNAVAILABLE and an acknowledgement on trying again.
    ensure!(
        report.unavailable > 0 || report.slowest_ack > Duration::from_secs(1),
        "nobody noticed: {report:?}"
    );
    Ok(())
}

#[test]
fn redis_is_killed_and_started_again_empty() -> Result<()> {
    under_load("Redis restarted", 2, |cluster, traffic| {
        cluster.redis.kill();
        sleep(Duration::from_secs(2));
        cluster.redis.start_again()?;
        traffic.flow(SOME)?;
        all_owned(cluster)
    })
    .map(drop)
}

#[test]
fn redis_loses_everything() -> Result<()> {
    under_load("Redis flushed", 2, |cluster, traffic| {
        for _ in 0..3 {
            cluster.redis.command("FLUSHALL")?;
            traffic.flow(SOME / 3)?;
        }
        all_owned(cluster)
    })
    .map(drop)
}

/// A gateway that loses sight of the cluster for a while reads what it missed.
#[test]
fn a_gateway_is_frozen() -> Result<()> {
    under_load("gateway frozen", 2, |cluster, traffic| {
        let frozen = &cluster.gateways[0];
        frozen.signal(Signal::STOP)?;
        sleep(FROZEN);
        frozen.signal(Signal::CONT)?;
        traffic.flow(SOME)
    })
    .map(drop)
}
