//! Emitters that publish in Redis reach clients: the stock `@socket.io/redis-emitter` in front, stock clients behind.

use std::{thread, time::Duration};

use anyhow::{Context, Result, ensure};
use tests::{Cluster, JWT_SECRET, Size, Standalone, node, servers::Redis, until};

const ENABLED: (&str, &str) = ("FANFARE_REDIS_EMITTER__ENABLED", "true");
const BRIDGING: &str = "fanfare_redis_emitter_bridging";
const PATIENCE: Duration = Duration::from_secs(30);

fn emit(file: &str, urls: &str, redis: &str) -> Result<()> {
    let settings = [
        ("FANFARE_URLS", urls),
        ("FANFARE_REDIS", redis),
        ("JWT_SECRET", JWT_SECRET),
    ];
    node(file, urls, &settings)
}

fn urls(cluster: &Cluster) -> Result<String> {
    let addresses = cluster.addresses()?;
    let urls: Vec<_> = addresses
        .iter()
        .map(|address| format!("http://{address}"))
        .collect();
    Ok(urls.join(","))
}

#[test]
fn in_standalone_also_after_redis_was_away() -> Result<()> {
    let mut redis = Redis::start()?;
    let url = redis.url();
    let server = Standalone::start(&[ENABLED, ("FANFARE_REDIS_EMITTER__URL", &url)])?;
    let bridging = |is: f64| {
        until("it bridges or not", PATIENCE, || {
            Ok(server.metric(BRIDGING, "")? == is)
        })
        .with_context(|| server.output())
    };
    bridging(1.0)?;
    emit("node/redis_emitter.test.mjs", &server.url, &url).with_context(|| server.output())?;
    let lost = |reason: &str| {
        let labels = format!("reason=\"{reason}\"");
        server.metric("fanfare_redis_emitter_lost_total", &labels)
    };
    for reason in ["malformed", "invalid", "too_large", "ignored"] {
        ensure!(lost(reason)? > 0.0, "{reason} is counted");
    }
    let output = server.output();
    ensure!(
        !output.contains("hello"),
        "the log says nothing of what was published"
    );

    redis.kill();
    bridging(0.0)?;
    redis.start_again()?;
    bridging(1.0)?;
    emit("node/redis_emitter.test.mjs", &server.url, &url).with_context(|| server.output())?;
    server.stop()
}

fn until_one_bridges(cluster: &Cluster) -> Result<()> {
    cluster.until_settled()?;
    until("one worker bridges", PATIENCE, || {
        Ok(cluster.metric(BRIDGING, "")? == 1.0)
    })
}

#[test]
fn in_a_cluster_each_event_comes_once() -> Result<()> {
    let size = Size {
        gateways: 2,
        workers: 2,
        ..Size::default()
    };
    Cluster::run(size, &[ENABLED], |cluster| {
        until_one_bridges(cluster)?;
        emit(
            "node/redis_emitter.test.mjs",
            &urls(cluster)?,
            &cluster.redis.url(),
        )?;
        ensure!(cluster.metric(BRIDGING, "")? == 1.0, "one worker bridges");
        Ok(())
    })
}

#[test]
fn nothing_is_lost_or_doubled_when_the_bridging_worker_goes() -> Result<()> {
    let size = Size {
        gateways: 2,
        workers: 3,
        ..Size::default()
    };
    Cluster::run(size, &[ENABLED], |cluster| {
        until_one_bridges(cluster)?;
        let (urls, redis) = (urls(cluster)?, cluster.redis.url());
        thread::scope(|scope| {
            let emitting = scope.spawn(|| emit("node/redis_emitter_hand_over.test.mjs", &urls, &redis));
            // Stopped as an operator would; then killed.
            for kill in [false, true] {
                let mut one = None;
                until("a worker bridges", PATIENCE, || {
                    for (index, worker) in cluster.workers.iter().enumerate() {
                        let labels = "kind=\"emit\"";
                        let emits = worker.metric("fanfare_redis_emitter_messages_total", labels)?;
                        if worker.metric(BRIDGING, "")? == 1.0 && emits >= 300.0 {
                            one = Some(index);
                        }
                    }
                    Ok(one.is_some())
                })?;
                let worker = cluster.workers.remove(one.context("one bridges")?);
                if kill {
                    drop(worker);
                } else {
                    worker.stop()?;
                }
            }
            match emitting.join() {
                Ok(outcome) => outcome,
                Err(_) => anyhow::bail!("the emitting thread has panicked"),
            }
        })
    })
}
