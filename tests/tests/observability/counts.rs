//! Whoever counts says the same: the gateways' metrics, the gauges and the API of presence, and the clients themselves,
//! at every quiet moment of a churn in which a gateway is drained and another one dies.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use proto::v1::{GetStatsRequest, GetStatsResponse, presence_client::PresenceClient};
use serde_json::json;
use tests::{Client, Cluster, Size, token, until};
use tokio::task::JoinSet;

use crate::{SIZE, runtime};

/// CONTRACT section 10, G6, and what a busy machine adds.
const SETTLED: Duration = Duration::from_secs(30);
const NAMESPACES: [&str; 2] = ["/chat", "/notifications"];
const USERS: usize = 20;
const ROOMS: u64 = 30;
/// Clients, each of which does so many things between two quiet moments.
const CLIENTS: u64 = 60;
const STEPS: usize = 12;

/// What everybody counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Counts {
    sockets: u64,
    users: u64,
    rooms: u64,
    /// Sockets, users and rooms of those that have a socket.
    namespaces: BTreeMap<String, [u64; 3]>,
}

/// A client that comes and goes.
struct Life {
    random: Random,
    /// Tokens of the users there are; a client is one of them while it is connected.
    tokens: Vec<String>,
    now: Option<Now>,
}

struct Now {
    client: Client,
    user: usize,
    namespace: &'static str,
    rooms: BTreeSet<String>,
}

impl Life {
    async fn live(mut self, gateways: Vec<SocketAddr>) -> Result<Self> {
        for _ in 0..STEPS {
            let pause = self.random.below(40);
            tokio::time::sleep(Duration::from_millis(pause)).await;
            self.step(&gateways).await?;
        }
        Ok(self)
    }

    async fn step(&mut self, gateways: &[SocketAddr]) -> Result<()> {
        let dice = self.random.below(10);
        match &mut self.now {
            Some(now) if now.client.end().is_some() => self.now = None,
            // It dies without a word.
            Some(_) if dice == 0 => self.now = None,
            Some(now) => {
                let room = format!("room {}", self.random.below(ROOMS));
                let (event, joins) = match now.rooms.contains(&room) {
                    true => ("leave-room", false),
                    false => ("join-room", true),
                };
                // The gateway may be going.
                let answer = now.client.ask(event, &json!({ "roomId": room })).await;
                match answer {
                    Ok(answer) if answer["status"] == "ok" && joins => drop(now.rooms.insert(room)),
                    Ok(answer) if answer["status"] == "ok" => drop(now.rooms.remove(&room)),
                    Ok(answer) => ensure!(answer["code"] == "UNAVAILABLE", "{event}: {answer}"),
                    Err(_) => self.now = None,
                }
            }
            None => {
                let gateway = self.random.of(gateways);
                let namespace = self.random.of(&NAMESPACES);
                let user = self.random.below(USERS as u64) as usize;
                let connected = Client::connect_as(gateway, namespace, &self.tokens[user]).await;
                self.now = connected.ok().map(|client| Now {
                    client,
                    user,
                    namespace,
                    rooms: BTreeSet::new(),
                });
            }
        }
        Ok(())
    }
}

/// What clients hold, by their own account.
fn held(lives: &[Life]) -> Counts {
    let mut users = BTreeSet::new();
    let mut rooms = BTreeSet::new();
    let mut of: BTreeMap<&str, (u64, BTreeSet<usize>, BTreeSet<&str>)> = BTreeMap::new();
    let now = lives.iter().filter_map(|life| life.now.as_ref());
    for now in now.filter(|now| now.client.end().is_none()) {
        users.insert(now.user);
        let of = of.entry(now.namespace).or_default();
        of.0 += 1;
        of.1.insert(now.user);
        for room in &now.rooms {
            rooms.insert((now.namespace, room));
            of.2.insert(room);
        }
    }
    let counts = |of: &(u64, BTreeSet<usize>, BTreeSet<&str>)| [of.0, of.1.len() as u64, of.2.len() as u64];
    Counts {
        sockets: of.values().map(|of| of.0).sum(),
        users: users.len() as u64,
        rooms: rooms.len() as u64,
        namespaces: of
            .iter()
            .map(|(name, of)| ((*name).to_owned(), counts(of)))
            .collect(),
    }
}

/// What presence answers.
fn answered(stats: &GetStatsResponse) -> Counts {
    let namespaces = stats.namespaces.iter().filter(|one| one.connections > 0);
    Counts {
        sockets: stats.connections,
        users: stats.users,
        rooms: stats.rooms,
        namespaces: namespaces
            .map(|one| (one.namespace.clone(), [one.connections, one.users, one.rooms]))
            .collect(),
    }
}

/// Where nobody says what the clients do not hold; empty when all agree.
fn differences(cluster: &Cluster, stats: &GetStatsResponse, held: &Counts) -> Result<Vec<String>> {
    let mut found = Vec::new();
    let mut compare = |what: &str, said: f64, held: u64| {
        if said != held as f64 {
            found.push(format!("{what}: {said}, not {held}"));
        }
    };
    let gauge = |name, labels: &str| cluster.metric(name, labels);
    compare("sockets", gauge("socket_active_connections", "")?, held.sockets);
    compare("connections", gauge("fanfare_connections", "")?, held.sockets);
    for namespace in NAMESPACES {
        let of = held.namespaces.get(namespace).map_or(0, |of| of[0]);
        let labels = format!("namespace=\"{namespace}\"");
        compare(namespace, gauge("socket_active_connections", &labels)?, of);
    }
    for replica in &cluster.presence {
        compare("users", replica.metric("socket_active_users", "")?, held.users);
        compare("rooms", replica.metric("socket_active_rooms", "")?, held.rooms);
    }
    let mut by_gateway: Vec<_> = stats
        .gateways
        .iter()
        .map(|one| [one.connections, one.users, one.rooms])
        .filter(|counts| *counts != [0; 3])
        .collect();
    by_gateway.sort_unstable();
    let mut own = Vec::new();
    for gateway in &cluster.gateways {
        let count = |name| gateway.metric(name, "").map(|value| value as u64);
        let counts = [
            count("socket_active_connections")?,
            count("fanfare_gateway_users")?,
            count("fanfare_gateway_rooms")?,
        ];
        own.extend(Some(counts).filter(|counts| *counts != [0; 3]));
    }
    own.sort_unstable();
    if by_gateway != own {
        found.push(format!("by gateway: {by_gateway:?}, they hold {own:?}"));
    }
    let answered = answered(stats);
    if answered != *held {
        found.push(format!("presence: {answered:?}, not {held:?}"));
    }
    Ok(found)
}

/// A quiet moment: everybody's counts become the same, and stay so.
fn agree(
    when: &str,
    cluster: &Cluster,
    runtime: &tokio::runtime::Runtime,
    replicas: &[String],
    lives: &[Life],
) -> Result<()> {
    let begun = Instant::now();
    let mut last = Vec::new();
    let agreed = until(when, SETTLED, || {
        last.clear();
        let held = held(lives);
        for replica in replicas {
            let stats = runtime.block_on(async {
                let mut presence = PresenceClient::connect(replica.clone()).await?;
                anyhow::Ok(presence.get_stats(GetStatsRequest {}).await?.into_inner())
            })?;
            last.extend(differences(cluster, &stats, &held)?);
        }
        Ok(last.is_empty())
    });
    agreed.with_context(|| format!("{last:#?}"))?;
    println!("{when}: all agree after {:?}: {:?}", begun.elapsed(), held(lives));
    Ok(())
}

#[test]
fn metrics_presence_and_clients_count_the_same_over_a_churn() -> Result<()> {
    let size = Size {
        gateways: 3,
        presence: 2,
        ..SIZE
    };
    Cluster::run(size, &[], churn)
}

fn churn(cluster: &mut Cluster) -> Result<()> {
    let runtime = runtime()?;
    let replicas = replicas(cluster)?;
    let tokens = (0..USERS).map(|number| token(&format!("user-{number}"), &[]));
    let tokens = tokens.collect::<Result<Vec<_>>>()?;
    let mut lives: Vec<_> = (1..=CLIENTS)
        .map(|seed| Life {
            random: Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15)),
            tokens: tokens.clone(),
            now: None,
        })
        .collect();
    for when in [
        "clients came and went",
        "clients went on",
        "a gateway was drained",
        "a gateway died",
    ] {
        let gateways = cluster.addresses()?;
        let mut living = JoinSet::new();
        for life in lives.drain(..) {
            living.spawn_on(life.live(gateways.clone()), runtime.handle());
        }
        // In the middle of it.
        match when {
            "a gateway was drained" => cluster.gateways.remove(0).stop()?,
            "a gateway died" => drop(cluster.gateways.remove(0)),
            _ => {}
        }
        lives = runtime
            .block_on(living.join_all())
            .into_iter()
            .collect::<Result<_>>()?;
        agree(when, cluster, &runtime, &replicas, &lives)?;
        let held = held(&lives);
        let all = held.namespaces.len() == NAMESPACES.len();
        ensure!(all && held.sockets > 10, "hardly anybody is left: {held:?}");
    }
    lives.clear();
    agree("all have gone", cluster, &runtime, &replicas, &lives)
}

/// Where the replicas serve the API, as they have logged it.
fn replicas(cluster: &Cluster) -> Result<Vec<String>> {
    let addresses = cluster.presence.iter().map(|replica| {
        let output = replica.output();
        let line = output.lines().find(|line| line.contains("presence API address="));
        let address = line.and_then(|line| line.split_once("address=")?.1.split_whitespace().next());
        Ok(format!("http://{}", address.context(output.clone())?))
    });
    addresses.collect()
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

    fn of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len() as u64) as usize]
    }
}
