//! Faults under load. Whatever dies: nothing acknowledged is lost, nothing comes twice, and the order holds; the
//! pauses are printed.
#![allow(clippy::unwrap_used, missing_docs, reason = "tests")]

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tests::{
    Cluster, Load, Report, Role, Size, Traffic,
    servers::{NatsVersion, Signal},
    until,
};

/// Every pause ends by then on a machine that does other things too; what is promised is less, and printed.
const LONGEST: Duration = Duration::from_secs(30);
/// Longer than a worker's lease of 3 s.
const FROZEN: Duration = Duration::from_secs(5);
const SIZE: Size = Size {
    nats: NatsVersion::Current,
    gateways: 3,
    workers: 2,
    presence: 1,
};
/// Messages before and after a fault.
const SOME: usize = 300;

/// Runs `fault` while traffic flows, and looks at the books.
fn under_load(
    what: &str,
    size: Size,
    fault: impl FnOnce(&mut Cluster, &Traffic) -> Result<()>,
) -> Result<Report> {
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
    cluster.until_settled()?;
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
    let owned = cluster.owned()?;
    let most = owned.iter().copied().fold(0.0, f64::max);
    ensure!(most > 0.0, "no worker owns a partition");
    let busiest = owned.iter().position(|count| *count == most);
    busiest.context("one has the most")
}

#[test]
fn a_worker_is_killed() -> Result<()> {
    under_load("worker killed", Size { workers: 3, ..SIZE }, |cluster, _| {
        let worker = busiest(cluster)?;
        drop(cluster.workers.remove(worker));
        cluster.until_owned()?;
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
    under_load("worker stopped", SIZE, |cluster, _| {
        let worker = busiest(cluster)?;
        cluster.workers.remove(worker).stop()?;
        cluster.until_owned()
    })
    .map(drop)
}

#[test]
fn a_worker_is_frozen_longer_than_its_lease() -> Result<()> {
    under_load("worker frozen", SIZE, |cluster, traffic| {
        let worker = busiest(cluster)?;
        let frozen = cluster.workers.remove(worker);
        frozen.signal(Signal::STOP)?;
        sleep(FROZEN);
        cluster.until_owned()?;
        // It goes on in the belief that it owns its partitions.
        frozen.signal(Signal::CONT)?;
        cluster.workers.push(frozen);
        traffic.flow(SOME)?;
        cluster.until_owned()
    })
    .map(drop)
}

/// Clients see late acknowledgements, and their connections stay.
fn nats_is_killed_and_started_again(nats: NatsVersion) -> Result<()> {
    let what = format!("NATS ({nats:?}) restarted");
    let report = under_load(&what, Size { nats, ..SIZE }, |cluster, _| {
        cluster.nats.kill();
        sleep(Duration::from_secs(2));
        cluster.nats.start_again()
    })?;
    ensure!(
        report.unavailable > 0 || report.slowest_ack > Duration::from_secs(1),
        "nobody noticed: {report:?}"
    );
    Ok(())
}

#[test]
fn current_nats_is_killed_and_started_again() -> Result<()> {
    nats_is_killed_and_started_again(NatsVersion::Current)
}

#[test]
fn debians_nats_is_killed_and_started_again() -> Result<()> {
    nats_is_killed_and_started_again(NatsVersion::Debian)
}

/// A publish waits 10 s for the log; then the client is told `UNAVAILABLE`, tries again, and in the end what it
/// sent is there once.
#[test]
fn nats_is_down_for_longer_than_publishes_wait() -> Result<()> {
    let report = under_load("NATS down for 12 s", SIZE, |cluster, _| {
        cluster.nats.kill();
        sleep(Duration::from_secs(12));
        cluster.nats.start_again()
    })?;
    ensure!(report.unavailable > 0, "nobody was told: {report:?}");
    Ok(())
}

#[test]
fn redis_is_killed_and_started_again_empty() -> Result<()> {
    under_load("Redis restarted", SIZE, |cluster, traffic| {
        cluster.redis.kill();
        sleep(Duration::from_secs(2));
        cluster.redis.start_again()?;
        traffic.flow(SOME)?;
        cluster.until_owned()
    })
    .map(drop)
}

#[test]
fn redis_loses_everything() -> Result<()> {
    under_load("Redis flushed", SIZE, |cluster, traffic| {
        for _ in 0..3 {
            cluster.redis.command("FLUSHALL")?;
            traffic.flow(SOME / 3)?;
        }
        cluster.until_owned()
    })
    .map(drop)
}

/// A gateway that loses sight of the cluster for a while reads what it missed.
#[test]
fn a_gateway_is_frozen() -> Result<()> {
    under_load("gateway frozen", SIZE, |cluster, traffic| {
        let frozen = &cluster.gateways[0];
        frozen.signal(Signal::STOP)?;
        sleep(FROZEN);
        frozen.signal(Signal::CONT)?;
        traffic.flow(SOME)
    })
    .map(drop)
}
