//! Leases, checkpoints and interest snapshots on private Redis servers: the conformance lists on every topology, and
//! what becomes of them when Redis forgets, restarts or fails over.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::{
    collections::HashMap,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use registry::{
    RegistryError,
    checkpoints::{self, Checkpoints, redis::RedisCheckpoints},
    leases::{self, Epochs, Lease, LeaseStore, redis::RedisLeases},
    redis::{RedisConfig, Topology, connect, connect_waiting},
    snapshots::{self, InterestSnapshots, Snapshot, redis::RedisSnapshots},
};
use servers::{Proxy, Redis, RedisCluster, RedisSentinel};
use tokio::{
    sync::Notify,
    time::{Instant, sleep},
};

const LONG: Duration = Duration::from_secs(600);
/// Something that must come has this long; far more than it needs.
const PATIENCE: Duration = Duration::from_secs(60);

/// Epochs that outlive Redis.
#[derive(Default)]
struct Counters {
    last: Mutex<HashMap<String, u64>>,
}

#[async_trait]
impl Epochs for Counters {
    async fn next(&self, name: &str) -> Result<u64, RegistryError> {
        let mut last = self.last.lock();
        let epoch = last.entry(name.to_owned()).or_default();
        *epoch += 1;
        Ok(*epoch)
    }
}

fn config(urls: String, topology: Topology) -> RedisConfig {
    RedisConfig {
        urls,
        topology,
        ..RedisConfig::default()
    }
}

async fn leases(config: &RedisConfig, epochs: &Arc<Counters>) -> RedisLeases {
    let redis = connect_waiting(config).await.unwrap();
    RedisLeases::new(redis, Arc::clone(epochs) as Arc<dyn Epochs>)
}

/// The three lists; `config` of stores that are empty still is had by another prefix.
async fn conform(config: &RedisConfig) {
    let fresh = AtomicUsize::new(0);
    let empty = async || {
        let config = RedisConfig {
            prefix: format!("store-{}", fresh.fetch_add(1, Ordering::Relaxed)),
            ..config.clone()
        };
        connect_waiting(&config).await.unwrap()
    };
    checkpoints::conformance::all(async || {
        Arc::new(RedisCheckpoints::new(empty().await)) as Arc<dyn Checkpoints>
    })
    .await;
    snapshots::conformance::all(async || {
        Arc::new(RedisSnapshots::new(empty().await)) as Arc<dyn InterestSnapshots>
    })
    .await;
    leases::conformance::all(Arc::new(leases(config, &Arc::default()).await), "").await;
}

/// Repeats a call until Redis is there for it.
async fn until_answered<T>(call: impl AsyncFn() -> Result<T, RegistryError>) -> T {
    let begun = Instant::now();
    loop {
        match call().await {
            Ok(value) => return value,
            Err(error) => assert!(begun.elapsed() < PATIENCE, "{error}"),
        }
        sleep(Duration::from_millis(20)).await;
    }
}

async fn acquire(store: &dyn LeaseStore, owner: &str) -> Option<Lease> {
    until_answered(async || store.acquire("partition-0", owner, LONG).await).await
}

/// Everything comes late, and in pieces.
#[tokio::test]
async fn a_slow_network_conforms() {
    let server = Redis::start().unwrap();
    let proxy = Proxy::start([([127, 0, 0, 1], server.port()).into()]).unwrap();
    proxy.delay(Duration::from_millis(3));
    let url = format!("redis://127.0.0.1:{}", proxy.port());
    conform(&config(url, Topology::Single)).await;
}

#[tokio::test]
async fn a_single_server_conforms() {
    let server = Redis::start().unwrap();
    conform(&config(server.url(), Topology::Single)).await;
}

#[tokio::test]
async fn what_redis_forgets_does_not_bring_an_epoch_back() {
    let mut server = Redis::start().unwrap();
    let config = config(server.url(), Topology::Single);
    let leases = leases(&config, &Arc::default()).await;
    let redis = connect_waiting(&config).await.unwrap();
    let checkpoints = RedisCheckpoints::new(redis.clone());
    let snapshots = RedisSnapshots::new(redis);
    let table = Bytes::from_static(b"table");

    let zombie = acquire(&leases, "a").await.unwrap();
    assert!(checkpoints.save(0, zombie.epoch, 10).await.unwrap());
    server.command("FLUSHALL").unwrap();
    assert!(!leases.renew(&zombie, LONG).await.unwrap());
    leases.release(&zombie).await.unwrap();
    assert_eq!(checkpoints.load(0).await.unwrap(), None);

    let owner = acquire(&leases, "b").await.unwrap();
    assert!(owner.epoch > zombie.epoch);
    assert_eq!(acquire(&leases, "a").await, None);
    // The older epoch is first, so there is nothing to refuse it by; the newer one goes over it.
    assert!(checkpoints.save(0, zombie.epoch, 20).await.unwrap());
    assert!(checkpoints.save(0, owner.epoch, 15).await.unwrap());
    assert!(snapshots.save(0, owner.epoch, 15, table.clone()).await.unwrap());
    // Behind it the zombie is refused.
    assert!(!checkpoints.save(0, zombie.epoch, 30).await.unwrap());
    assert!(!snapshots.save(0, zombie.epoch, 30, Bytes::new()).await.unwrap());
    assert_eq!(checkpoints.load(0).await.unwrap(), Some(15));
    let saved = Snapshot { seq: 15, table };
    assert_eq!(snapshots.load(0).await.unwrap(), Some(saved));

    // Scripts are forgotten by a restart too.
    server.kill();
    server.start_again().unwrap();
    let renewed = until_answered(async || leases.renew(&owner, LONG).await).await;
    assert!(!renewed);
    assert_eq!(until_answered(async || checkpoints.load(0).await).await, None);
    // Even the same owner comes under a new epoch: somebody else might have held it meanwhile.
    let again = acquire(&leases, "b").await.unwrap();
    assert!(again.epoch > owner.epoch);
}

#[tokio::test]
async fn two_contenders_never_hold_it_at_a_time() {
    const CHANGES: u64 = 200;
    let server = Redis::start().unwrap();
    let config = config(server.url(), Topology::Single);
    let epochs = Arc::default();
    let holders = AtomicUsize::new(0);
    let last = AtomicU64::new(0);
    let changes = AtomicU64::new(0);
    let contend = async |owner: &'static str| {
        let store = leases(&config, &epochs).await;
        while changes.load(Ordering::SeqCst) < CHANGES {
            let Some(lease) = store.acquire("contended", owner, LONG).await.unwrap() else {
                continue;
            };
            assert_eq!(holders.fetch_add(1, Ordering::SeqCst), 0, "two hold it");
            assert!(last.swap(lease.epoch, Ordering::SeqCst) < lease.epoch);
            assert!(store.renew(&lease, LONG).await.unwrap());
            holders.fetch_sub(1, Ordering::SeqCst);
            changes.fetch_add(1, Ordering::SeqCst);
            store.release(&lease).await.unwrap();
        }
    };
    tokio::join!(contend("a"), contend("b"));
}

/// Draws when it is told to.
#[derive(Default)]
struct Gated {
    counters: Counters,
    asked: Notify,
    go: Notify,
}

#[async_trait]
impl Epochs for Gated {
    async fn next(&self, name: &str) -> Result<u64, RegistryError> {
        self.asked.notify_one();
        self.go.notified().await;
        self.counters.next(name).await
    }
}

#[tokio::test]
async fn an_acquisition_that_was_overtaken_is_not_handed_out() {
    let server = Redis::start().unwrap();
    let redis = connect_waiting(&config(server.url(), Topology::Single))
        .await
        .unwrap();
    let gated = Arc::new(Gated::default());
    let slow = RedisLeases::new(redis.clone(), Arc::clone(&gated) as Arc<dyn Epochs>);
    let quick = RedisLeases::new(redis, Arc::new(Counters::default()));
    let overtaken = async |by: &str| {
        let meanwhile = async {
            gated.asked.notified().await;
            if by != "a" {
                // Pending is held: only who holds it goes on.
                assert_eq!(quick.acquire("lease", by, LONG).await.unwrap(), None);
                server.command("FLUSHALL").unwrap();
            }
            let lease = quick.acquire("lease", by, LONG).await.unwrap().unwrap();
            gated.go.notify_one();
            lease
        };
        let (slow, lease) = tokio::join!(slow.acquire("lease", "a", LONG), meanwhile);
        assert_eq!(slow.unwrap(), None, "overtaken by {by}");
        assert!(quick.renew(&lease, LONG).await.unwrap(), "{by} holds it still");
        quick.release(&lease).await.unwrap();
    };
    // While the epoch was drawn Redis forgot, and somebody else took it.
    overtaken("b").await;
    // Or the owner itself has tried again.
    overtaken("a").await;
}

/// Fails when told so.
#[derive(Default)]
struct Failing {
    counters: Counters,
    fail: Mutex<bool>,
}

#[async_trait]
impl Epochs for Failing {
    async fn next(&self, name: &str) -> Result<u64, RegistryError> {
        if *self.fail.lock() {
            return Err(RegistryError::Unavailable("no epochs today".to_owned()));
        }
        self.counters.next(name).await
    }
}

#[tokio::test]
async fn without_an_epoch_there_is_no_lease() {
    let server = Redis::start().unwrap();
    let redis = connect_waiting(&config(server.url(), Topology::Single))
        .await
        .unwrap();
    let failing = Arc::new(Failing::default());
    let store = RedisLeases::new(redis, Arc::clone(&failing) as Arc<dyn Epochs>);
    *failing.fail.lock() = true;
    store.acquire("lease", "a", LONG).await.unwrap_err();
    *failing.fail.lock() = false;
    assert_eq!(store.acquire("lease", "b", LONG).await.unwrap(), None);
    let lease = store.acquire("lease", "a", LONG).await.unwrap().unwrap();
    assert_eq!(lease.epoch, 1);
}

#[tokio::test]
async fn a_cluster_conforms_and_goes_on_without_its_masters() {
    let mut cluster = RedisCluster::start().unwrap();
    for node in cluster.nodes() {
        // Replicas would be let in after 5 s only.
        node.command("CONFIG SET repl-diskless-sync-delay 0").unwrap();
    }
    let config = config(cluster.url(), Topology::Cluster);
    conform(&config).await;

    let redis = connect_waiting(&config).await.unwrap();
    let checkpoints = RedisCheckpoints::new(redis.clone());
    let leases = leases(&config, &Arc::default()).await;
    // A replica that has never been in step with its master does not take over.
    let in_step = |node: &Redis| {
        node.command("INFO replication")
            .unwrap()
            .contains("link_status:up")
    };
    while !cluster.nodes()[3..].iter().all(in_step) {
        sleep(Duration::from_millis(50)).await;
    }
    let mut lease = acquire(&leases, "a").await.unwrap();
    for (epoch, lose) in [(1, "kill"), (2, "freeze")] {
        let begun = Instant::now();
        match lose {
            "kill" => cluster.nodes()[0].kill(),
            // Its connections stay, and nobody answers on them.
            _ => freeze(&cluster.nodes()[1]),
        }
        // Partitions of every node.
        for partition in 0..16 {
            let saved = until_answered(async || checkpoints.save(partition, epoch, 7).await).await;
            assert!(saved);
            let loaded = until_answered(async || checkpoints.load(partition).await).await;
            assert_eq!(loaded, Some(7));
        }
        println!("{lose}: everything is answered again after {:?}", begun.elapsed());
        assert!(redis.is_connected());
        // Whether a replica had it or not.
        until_answered(async || leases.release(&lease).await).await;
        let after = acquire(&leases, "b").await.unwrap();
        assert!(after.epoch > lease.epoch);
        lease = after;
    }
}

fn freeze(server: &Redis) {
    let pid = server.pid().unwrap().to_string();
    let status = Command::new("kill").args(["-STOP", &pid]).status().unwrap();
    assert!(status.success());
}

#[tokio::test]
async fn sentinels_lead_to_the_master_and_to_the_next_one() {
    let mut sentinel = RedisSentinel::start().unwrap();
    let topology = Topology::Sentinel {
        master: "fanfare".to_owned(),
    };
    let config = config(sentinel.url(), topology);
    conform(&config).await;

    // The login of the master may stand in the addresses of sentinels that have none.
    sentinel
        .master()
        .command("CONFIG SET requirepass MASTERS")
        .unwrap();
    connect(&config).await.unwrap_err();
    let with_login = RedisConfig {
        urls: config.urls.replace("redis://", "redis://:MASTERS@"),
        ..config.clone()
    };
    let redis = connect(&with_login).await.unwrap();
    let mut no_login = redis::cmd("CONFIG");
    no_login.arg("SET").arg("requirepass").arg("");
    let () = redis.query("config", &no_login).await.unwrap();
    let stranger = Topology::Sentinel {
        master: "stranger".to_owned(),
    };
    let error = connect(&self::config(sentinel.url(), stranger))
        .await
        .unwrap_err();
    assert!(error.to_string().contains("stranger"), "{error}");

    let leases = leases(&config, &Arc::default()).await;
    let before = acquire(&leases, "a").await.unwrap();
    sentinel.master().kill();
    let begun = Instant::now();
    let after = until_answered(async || {
        // Replicated or not: released or unknown.
        leases.release(&before).await?;
        leases.acquire("partition-0", "b", LONG).await
    })
    .await
    .unwrap();
    assert!(after.epoch > before.epoch);
    println!("failed over after {:?}", begun.elapsed());
    assert!(leases.renew(&after, LONG).await.unwrap());
}
