//! Clients that come, join, leave and die at random; when they stop, presence is what they hold.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use parking_lot::Mutex;
use serde_json::json;
use tests::{Client, Cluster, until};
use tokio::task::JoinSet;

use crate::{SIZE, compare, runtime, whole};

const ROOMS: u64 = 20;

/// How many clients, and for how long.
struct Size {
    clients: u64,
    time: Duration,
    /// Between two things that a client does, at most.
    pause_ms: u64,
}

impl Size {
    fn get() -> Self {
        if whole() {
            Self {
                clients: 2_000,
                time: Duration::from_secs(60),
                pause_ms: 2_000,
            }
        } else {
            Self {
                clients: 300,
                time: Duration::from_secs(12),
                pause_ms: 400,
            }
        }
    }
}

/// What has not been answered then counts as a lost connection. Machines of tests are busy.
const PATIENCE: Duration = Duration::from_secs(15);
/// When the clients have stopped, what they hold settles: connections that were cut are noticed, graces end.
const SETTLED: Duration = Duration::from_secs(15);

#[test]
fn after_churn_presence_is_what_the_clients_hold() -> Result<()> {
    churn(|_, _| Ok(()))
}

#[test]
fn after_churn_with_crashes_and_a_flush_too() -> Result<()> {
    churn(|cluster, gateways| {
        let time = Size::get().time;
        sleep(time / 5);
        drop(cluster.presence.pop());
        sleep(time / 5);
        cluster.redis.command("FLUSHALL")?;
        sleep(time / 5);
        drop(cluster.gateways.pop());
        gateways.lock().pop();
        Ok(())
    })
}

fn churn(faults: impl FnOnce(&mut Cluster, &Mutex<Vec<SocketAddr>>) -> Result<()>) -> Result<()> {
    let mut cluster = Cluster::start(SIZE, &[])?;
    let result = run(&mut cluster, faults);
    let panics = cluster.logs_with("panicked at");
    ensure!(panics.is_empty(), "{panics}");
    result.map_err(|error| error.context(cluster.logs()))
}

fn run(
    cluster: &mut Cluster,
    faults: impl FnOnce(&mut Cluster, &Mutex<Vec<SocketAddr>>) -> Result<()>,
) -> Result<()> {
    let size = Size::get();
    let runtime = runtime()?;
    let gateways = Arc::new(Mutex::new(cluster.addresses()?));
    let end = Instant::now() + size.time;
    let mut clients = JoinSet::new();
    for seed in 1..=size.clients {
        let life = live(seed, Arc::clone(&gateways), end, size.pause_ms);
        clients.spawn_on(life, runtime.handle());
    }
    faults(cluster, &gateways)?;
    let held: Vec<_> = runtime
        .block_on(clients.join_all())
        .into_iter()
        .flatten()
        .collect();
    // A gateway that was cut off from nothing keeps all of its clients.
    let ended = held.iter().filter(|(client, _)| client.end().is_some()).count();
    ensure!(ended == 0, "{ended} connections have ended by themselves");
    ensure!(held.len() > 50, "only {} clients are left", held.len());

    let mut rooms = BTreeMap::new();
    for room in held.iter().flat_map(|(_, rooms)| rooms) {
        *rooms.entry(room.clone()).or_default() += 1;
    }
    let stopped = Instant::now();
    let count = |metric| cluster.metric(metric, "");
    let sockets = u32::try_from(held.len())?;
    until("gateways count their sockets", SETTLED, || {
        Ok(count("socket_active_connections")? == f64::from(sockets))
    })?;
    compare(cluster, held.len(), &rooms)?;
    println!(
        "{} of {} clients are left, compared {:?} after they stopped",
        held.len(),
        size.clients,
        stopped.elapsed()
    );
    // And the gauges come from the same source.
    let (replicas, rooms) = (f64::from(u32::try_from(cluster.presence.len())?), rooms.len());
    until("presence counts users and rooms", SETTLED, || {
        Ok(count("socket_active_users")? == f64::from(sockets) * replicas
            && count("socket_active_rooms")? == f64::from(u32::try_from(rooms)?) * replicas)
    })
}

/// A client and the rooms it is in, as its gateway has acknowledged; `None` when it is not connected at the end.
async fn live(
    seed: u64,
    gateways: Arc<Mutex<Vec<SocketAddr>>>,
    end: Instant,
    pause_ms: u64,
) -> Option<(Client, BTreeSet<String>)> {
    let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let mut life: Option<(Client, BTreeSet<String>)> = None;
    while Instant::now() < end {
        tokio::time::sleep(Duration::from_millis(random.below(pause_ms))).await;
        life = match life {
            None => {
                let gateway = {
                    let gateways = gateways.lock();
                    gateways[usize::try_from(random.below(gateways.len() as u64)).unwrap()]
                };
                let connected = tokio::time::timeout(PATIENCE, Client::connect(gateway)).await;
                connected
                    .ok()
                    .and_then(Result::ok)
                    .map(|client| (client, BTreeSet::new()))
            }
            // It dies without a word.
            Some(_) if random.below(12) == 0 => None,
            Some((client, mut rooms)) => {
                let room = format!("room {}", random.below(ROOMS));
                step(&client, &mut rooms, room)
                    .await
                    .ok()
                    .map(|()| (client, rooms))
            }
        };
    }
    life.filter(|(client, _)| client.end().is_none())
}

/// Joins a room, or leaves it. What fails leaves the client where it was; what is not answered ends it.
async fn step(client: &Client, rooms: &mut BTreeSet<String>, room: String) -> Result<()> {
    let joins = !rooms.contains(&room);
    let event = if joins { "join-room" } else { "leave-room" };
    let asked = json!({ "roomId": room });
    let answer = tokio::time::timeout(PATIENCE, client.ask(event, &asked)).await;
    let done = answer.context("no answer")??["status"] == "ok";
    if done && joins {
        rooms.insert(room);
    } else if done {
        rooms.remove(&room);
    }
    Ok(())
}

/// The same for the same seed (xorshift64).
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }
}

fn sleep(time: Duration) {
    #[expect(clippy::disallowed_methods, reason = "the test's thread has no runtime")]
    std::thread::sleep(time);
}
