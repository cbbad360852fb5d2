//! What one replica does on Redis, told as figures:
//! `cargo test --release -p presence --test throughput -- --ignored --nocapture`.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a measurement, run by hand"
)]

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bus::{Signals, signals::memory::MemorySignals, subjects};
use presence::{Deps, Metrics, Service, Settings, api, system_clock};
use prost::Message;
use proto::v1::{self, presence_client::PresenceClient, presence_delta::Kind};
use registry::{
    presence_store::{PresenceStore, redis::RedisPresence},
    redis::{RedisConfig, connect},
};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

const GATEWAYS: usize = 8;
const BATCHES: u64 = 1_000;
/// Sockets of one gateway, each in two rooms.
const SOCKETS: usize = 100_000;
const PART: usize = 2_000;
/// Who ask at the same time, and for how long.
const CALLERS: usize = 16;
const ASKING: Duration = Duration::from_secs(5);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "figures of this machine, not a check"]
#[expect(
    clippy::disallowed_methods,
    reason = "the test owns its tasks and waits for them"
)]
async fn batches_a_large_snapshot_and_queries() {
    let server = servers::Redis::start().unwrap();
    let config = RedisConfig {
        urls: server.url(),
        ..RedisConfig::default()
    };
    let redis = connect(&config).await.unwrap();
    let store: Arc<dyn PresenceStore> = Arc::new(RedisPresence::new(redis));
    let registry = prometheus::Registry::new();
    let signals: Arc<dyn Signals> = Arc::new(MemorySignals::new());
    let deps = Deps {
        store: Arc::clone(&store),
        signals: Arc::clone(&signals),
        tasks: lifecycle::Tasks::new(),
        metrics: Metrics::register(&registry).unwrap(),
        clock: system_clock(),
    };
    let settings = Settings {
        // Nobody sends heartbeats here.
        lease: Duration::from_secs(3_600),
        ..Settings::default()
    };
    let service = Service::build(deps, settings).await.unwrap();
    let stop = CancellationToken::new();
    let served = tokio::spawn(service.run(stop.clone()));

    for deltas in [1, 100] {
        let began = Instant::now();
        let gateways = (0..GATEWAYS).map(|gateway| {
            let name = format!("g{deltas:03}-{gateway}");
            tokio::spawn(batches(Arc::clone(&signals), name, deltas, BATCHES))
        });
        for gateway in gateways.collect::<Vec<_>>() {
            gateway.await.unwrap();
        }
        let a_second = GATEWAYS as f64 * BATCHES as f64 / began.elapsed().as_secs_f64();
        println!("batches of {deltas}, {GATEWAYS} gateways: {a_second:.0} a second");
    }

    let snapshot = tokio::spawn(snapshot(Arc::clone(&signals)));
    let (mut number, mut slowest) = (BATCHES, Duration::ZERO);
    while !snapshot.is_finished() {
        number += 1;
        let began = Instant::now();
        send(
            &*signals,
            subjects::PRESENCE_BATCH,
            batch("g001-0", number, vec![left(0, "r"), joined(0, "r")]),
        )
        .await;
        slowest = slowest.max(began.elapsed());
    }
    let took = snapshot.await.unwrap();
    println!(
        "a snapshot of {SOCKETS} sockets and {} places: {took:?}",
        2 * SOCKETS
    );
    println!(
        "meanwhile another gateway's batches took {slowest:?} at most, {} of them",
        number - BATCHES
    );
    let connections = lifecycle::Tasks::new();
    let api = api::Deps {
        store,
        signals,
        tasks: connections.clone(),
        metrics: api::Metrics::register(&registry).unwrap(),
    };
    let routes = api::router(api, api::Settings::default(), stop.clone())
        .await
        .unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let (router, stopping) = (routes.into_axum_router(), stop.clone());
    let answering = tokio::spawn(async move {
        lifecycle::serve(listener, router, None, &connections, stopping).await;
    });
    let chat = || "/chat".to_owned();
    queries(&address, "IsOnline", async move |client, n| {
        let user_id = format!("user {}", n % SOCKETS);
        let request = v1::IsOnlineRequest {
            namespace: chat(),
            user_id,
        };
        assert!(client.is_online(request).await.unwrap().into_inner().online);
    })
    .await;
    queries(&address, "GetUser", async move |client, n| {
        let request = v1::GetUserRequest {
            namespace: chat(),
            user_id: format!("user {}", n % SOCKETS),
            read_mask: None,
        };
        let user = client.get_user(request).await.unwrap().into_inner();
        assert!(user.online);
    })
    .await;
    queries(
        &address,
        "ListRoomMembers, 100 of 100,000,",
        async move |client, _| {
            let request = v1::ListRoomMembersRequest {
                namespace: chat(),
                room: "hall".to_owned(),
                ..v1::ListRoomMembersRequest::default()
            };
            let page = client.list_room_members(request).await.unwrap().into_inner();
            assert_eq!(page.members.len(), 100);
        },
    )
    .await;
    stop.cancel();
    answering.await.unwrap();
    served.await.unwrap().unwrap();
}

/// How many questions a second are answered to callers who each ask the next when they have the answer.
async fn queries(address: &str, what: &str, ask: impl AsyncFn(&mut PresenceClient<Channel>, usize)) {
    let began = Instant::now();
    let callers = (0..CALLERS).map(async |caller| {
        let mut client = PresenceClient::connect(address.to_owned()).await.unwrap();
        let mut asked = 0;
        while began.elapsed() < ASKING {
            ask(&mut client, caller * 7_919 + asked).await;
            asked += 1;
        }
        asked
    });
    let asked: usize = futures_util::future::join_all(callers).await.into_iter().sum();
    let a_second = asked as f64 / began.elapsed().as_secs_f64();
    println!("{what} over gRPC, {CALLERS} callers: {a_second:.0} a second");
}

async fn batches(signals: Arc<dyn Signals>, gateway: String, deltas: usize, count: u64) {
    for number in 1..=count {
        let kinds = match number {
            1 => vec![connected(0)],
            _ if number % 2 == 0 => (0..deltas)
                .map(|n| joined(0, &format!("{gateway} {n}")))
                .collect(),
            _ => (0..deltas).map(|n| left(0, &format!("{gateway} {n}"))).collect(),
        };
        send(
            &*signals,
            subjects::PRESENCE_BATCH,
            batch(&gateway, number, kinds),
        )
        .await;
    }
}

/// In parts, as a gateway sends it; how long it took.
async fn snapshot(signals: Arc<dyn Signals>) -> Duration {
    let kinds: Vec<_> = (0..SOCKETS)
        .flat_map(|n| {
            [
                connected(n),
                joined(n, "hall"),
                joined(n, &format!("room {}", n / 20)),
            ]
        })
        .collect();
    let began = Instant::now();
    let mut to = subjects::PRESENCE_BATCH.to_owned();
    let parts = kinds.len().div_ceil(PART);
    for (at, kinds) in kinds.chunks(PART).enumerate() {
        let part = v1::PresenceBatch {
            snapshot: true,
            part: u32::try_from(at).unwrap(),
            more: at + 1 < parts,
            ..batch("g-snap", 1, kinds.to_vec())
        };
        to = send(&*signals, &to, part).await.parts_to;
    }
    began.elapsed()
}

async fn send(signals: &dyn Signals, to: &str, batch: v1::PresenceBatch) -> v1::PresenceReply {
    let answer = signals
        .request(to, batch.encode_to_vec().into(), Duration::from_secs(300))
        .await;
    let reply = v1::PresenceReply::decode(answer.unwrap()).unwrap();
    assert!(!reply.need_snapshot);
    reply
}

fn batch(gateway: &str, number: u64, kinds: Vec<Kind>) -> v1::PresenceBatch {
    let deltas = kinds
        .into_iter()
        .map(|kind| v1::PresenceDelta { kind: Some(kind) });
    v1::PresenceBatch {
        gateway: gateway.to_owned(),
        number,
        deltas: deltas.collect(),
        ..v1::PresenceBatch::default()
    }
}

fn connected(n: usize) -> Kind {
    Kind::Connected(v1::SocketConnected {
        namespace: "/chat".into(),
        socket_id: format!("socket {n}"),
        user_id: format!("user {n}"),
        username: format!("name of user {n}"),
        connected_at_ms: 1_700_000_000_000,
        ip: "192.0.2.1".into(),
        user_agent: "Mozilla/5.0 (X11; Linux x86_64)".into(),
    })
}

fn joined(n: usize, room: &str) -> Kind {
    Kind::Joined(v1::RoomJoined {
        namespace: "/chat".into(),
        socket_id: format!("socket {n}"),
        room: room.into(),
        told: false,
    })
}

fn left(n: usize, room: &str) -> Kind {
    Kind::Left(v1::RoomLeft {
        namespace: "/chat".into(),
        socket_id: format!("socket {n}"),
        room: room.into(),
    })
}
