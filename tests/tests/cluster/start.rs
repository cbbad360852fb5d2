//! Roles start in any order and wait for what they need.

use anyhow::{Result, ensure};
use tests::{Client, Cluster, Role, servers::NatsVersion, until};

use crate::runtime;

#[test]
fn roles_start_before_nats_and_redis_and_say_what_is_missing() -> Result<()> {
    let mut cluster = Cluster::servers(NatsVersion::Current, &[])?;
    // From here on their ports are known, and nobody listens.
    cluster.nats.kill();
    cluster.redis.kill();
    for role in [Role::Worker, Role::Gateway, Role::Presence] {
        let instance = cluster.add(role)?;
        instance.until_readiness("NATS is missing", |answer| {
            answer.starts_with("HTTP/1.1 503") && answer.to_lowercase().contains("nats")
        })?;
    }
    cluster.nats.start_again()?;
    let result = wait_for_redis(&mut cluster).and_then(|()| works(&cluster));
    if let Err(error) = result {
        return Err(error.context(cluster.logs()));
    }
    cluster.stop()
}

/// NATS is there; workers and presence need Redis too.
fn wait_for_redis(cluster: &mut Cluster) -> Result<()> {
    for instance in [&cluster.workers[0], &cluster.presence[0]] {
        instance.until_readiness("Redis is missing", |answer| {
            let answer = answer.to_lowercase();
            answer.starts_with("http/1.1 503") && answer.contains("redis")
        })?;
    }
    cluster.redis.start_again()?;
    cluster.until_ready()
}

fn works(cluster: &Cluster) -> Result<()> {
    let gateway = cluster.addresses()?[0];
    runtime()?.block_on(async {
        let client = Client::connect(gateway).await?;
        client.join("room").await?;
        let published = client.publish("room", "p:1", "1").await?;
        let message = client.message("it", |message| message.id == published.id).await?;
        ensure!(message.offset == published.offset, "{message:?} {published:?}");
        Ok(())
    })
}

/// The last worker to come may be the first that is needed.
#[test]
fn a_worker_that_comes_last_delivers_what_waits() -> Result<()> {
    let mut cluster = Cluster::servers(NatsVersion::Current, &[])?;
    cluster.add(Role::Gateway)?;
    cluster.add(Role::Presence)?;
    let result = late_worker(&mut cluster);
    if let Err(error) = result {
        return Err(error.context(cluster.logs()));
    }
    cluster.stop()
}

fn late_worker(cluster: &mut Cluster) -> Result<()> {
    let gateway = cluster.addresses()?[0];
    let runtime = runtime()?;
    let (client, published) = runtime.block_on(async {
        let client = Client::connect(gateway).await?;
        client.join("room").await?;
        let published = client.publish("room", "p:1", "1").await?;
        anyhow::Ok((client, published))
    })?;
    ensure!(client.message_count() == 0, "a message without a worker");
    cluster.add(Role::Worker)?;
    runtime.block_on(client.message("what waits", |message| message.id == published.id))?;
    until("every role is ready", std::time::Duration::from_secs(30), || {
        Ok(cluster.until_ready().is_ok())
    })
}
