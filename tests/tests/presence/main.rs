//! Presence of a whole cluster: what the API says is what the clients hold, also after crashes.
#![allow(clippy::unwrap_used, missing_docs, reason = "tests")]
#![allow(clippy::print_stdout, reason = "figures are told")]

mod churn;
mod crowd;
mod healing;
mod light;

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use anyhow::{Context, Result, ensure};
use serde_json::json;
use tests::{Client, Cluster, JWT_SECRET, Size, python_program, servers::NatsVersion};
use tokio::task::JoinSet;

use crate::light::Member;

const SIZE: Size = Size {
    nats: NatsVersion::Current,
    gateways: 2,
    workers: 1,
    presence: 2,
};
/// Each in the hall, every third in one of ten rooms besides. A gateway's snapshot of them does not fit one message.
fn members() -> usize {
    if whole() { 10_000 } else { 3_000 }
}
/// Clients that connect at the same time.
const AT_ONCE: usize = 64;

/// Whether `FANFARE_WHOLE` asks for thousands of clients and a minute, where the suite is content with less:
/// `FANFARE_WHOLE=1 cargo test -p tests --test presence -- --nocapture --test-threads 1`.
fn whole() -> bool {
    std::env::var_os("FANFARE_WHOLE").is_some()
}

#[test]
fn every_call_by_reflection_with_thousands_of_members() -> Result<()> {
    let mut cluster = Cluster::start(SIZE, &[])?;
    let result = every_call(&mut cluster);
    result.map_err(|error| error.context(cluster.logs()))?;
    cluster.stop()
}

fn every_call(cluster: &mut Cluster) -> Result<()> {
    let runtime = runtime()?;
    let gateways = cluster.addresses()?;
    let count = members();
    let members = runtime.block_on(async {
        let mut joining = JoinSet::new();
        let mut members = Vec::with_capacity(count);
        for number in 0..count {
            if joining.len() == AT_ONCE {
                members.push(joining.join_next().await.context("some are joining")???);
            }
            let gateway = gateways[number % gateways.len()];
            joining.spawn(async move {
                let member = Client::connect(gateway).await?;
                member.join("hall").await?;
                if number % 3 == 0 {
                    member.join(&format!("room {}", number % 10)).await?;
                }
                anyhow::Ok(member)
            });
        }
        for member in joining.join_all().await {
            members.push(member?);
        }
        anyhow::Ok(members)
    })?;
    let mut rooms = BTreeMap::from([("hall".to_owned(), count)]);
    for number in (0..count).step_by(3) {
        *rooms.entry(format!("room {}", number % 10)).or_default() += 1;
    }
    compare(cluster, members.len(), &rooms)?;
    stubs(cluster, members.len())?;
    // Each gateway tells everything once more, in parts.
    cluster.redis.command("FLUSHALL")?;
    compare(cluster, members.len(), &rooms)
}

/// An application may also compile what is published.
fn stubs(cluster: &Cluster, members: usize) -> Result<()> {
    let (replicas, members) = (replicas(cluster)?, members.to_string());
    let settings = [
        ("FANFARE_PRESENCE", replicas.as_str()),
        ("FANFARE_PROTO", concat!(env!("CARGO_MANIFEST_DIR"), "/../proto")),
        ("FANFARE_MEMBERS", members.as_str()),
    ];
    python_program("python/presence_stubs.py", &settings).map(drop)
}

/// Whether the presence API says what the clients hold, and of each gateway what that one says it holds, within
/// the 15 s of CONTRACT section 10, G6.
fn compare(cluster: &Cluster, sockets: usize, rooms: &BTreeMap<String, usize>) -> Result<()> {
    let mut all = 0.0;
    let mut gateways = Vec::new();
    for gateway in &cluster.gateways {
        let held = |metric| gateway.metric(metric, "");
        let connections = held("socket_active_connections")?;
        all += connections;
        gateways.push([
            connections,
            held("fanfare_gateway_users")?,
            held("fanfare_gateway_rooms")?,
        ]);
    }
    ensure!(
        all == f64::from(u32::try_from(sockets)?),
        "the gateways hold {all} sockets, the clients {sockets}"
    );
    let truth = json!({ "sockets": sockets, "rooms": rooms, "gateways": gateways }).to_string();
    let replicas = replicas(cluster)?;
    let settings = [
        ("FANFARE_PRESENCE", replicas.as_str()),
        ("FANFARE_TRUTH", truth.as_str()),
    ];
    let printed = python_program("python/presence_api.py", &settings)?;
    println!("{printed}");
    Ok(())
}

/// Where the replicas serve the API, as they have logged it.
fn replicas(cluster: &Cluster) -> Result<String> {
    let addresses = cluster.presence.iter().map(|replica| {
        let output = replica.output();
        let line = output.lines().find(|line| line.contains("presence API address="));
        let address = line.and_then(|line| line.split_once("address=")?.1.split_whitespace().next());
        address.map(str::to_owned).context(output)
    });
    Ok(addresses.collect::<Result<Vec<_>>>()?.join(","))
}

#[test]
fn a_watch_goes_on_when_its_replica_is_killed() -> Result<()> {
    let mut cluster = Cluster::start(SIZE, &[])?;
    let result = watch(&mut cluster);
    result.map_err(|error| error.context(cluster.logs()))
}

fn watch(cluster: &mut Cluster) -> Result<()> {
    let gateway = cluster.addresses()?[0];
    let runtime = runtime()?;
    let mut hopper = JoinSet::new();
    hopper.spawn_on(come_and_go(gateway), runtime.handle());
    let (replicas, pid) = (replicas(cluster)?, cluster.presence[0].pid().to_string());
    let settings = [
        ("FANFARE_PRESENCE", replicas.as_str()),
        ("FANFARE_PID", pid.as_str()),
    ];
    println!("{}", python_program("python/presence_watch.py", &settings)?);
    ensure!(
        hopper.try_join_next().is_none(),
        "the one who comes and goes is gone"
    );
    Ok(())
}

async fn come_and_go(gateway: SocketAddr) -> Result<()> {
    let mut member = Member::connect(gateway).await?;
    loop {
        member.ask("join-room", "hall").await?;
        member.ask("leave-room", "hall").await?;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[test]
fn a_reconnect_within_the_grace_is_not_heard_of() -> Result<()> {
    Cluster::run(SIZE, &[], |cluster| {
        cluster.until_settled()?;
        let urls: Vec<_> = cluster
            .addresses()?
            .iter()
            .map(|at| format!("http://{at}"))
            .collect();
        let urls = urls.join(",");
        let settings = [
            ("FANFARE_URLS", urls.as_str()),
            ("JWT_SECRET", JWT_SECRET),
            ("FANFARE_PRESENCE__GRACE_SECONDS", "2"),
        ];
        python_program("python/presence_grace.py", &settings).map(drop)
    })
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?)
}
