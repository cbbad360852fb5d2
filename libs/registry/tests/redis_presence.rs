//! Presence on private Redis servers: the conformance list, and what only a store that others share can go through.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test reports by panicking")]

use std::{collections::HashMap, sync::Arc, time::Duration};

use model::{GatewayId, Namespace, RoomName, UserId};
use registry::{
    presence_store::{
        Batch, Changes, Delta, Expired, Outcome, PresenceError, PresenceStore, RoomChange, Socket, SocketKey,
        Stats, StatsBreakdown, Transition, UserChange, conformance, redis::RedisPresence,
    },
    redis::{RedisConfig, Topology},
};
use servers::{Redis, RedisCluster};
use tokio::task::JoinSet;

#[path = "redis_presence/costs.rs"]
mod costs;

const GRACE: Duration = Duration::from_secs(5);
const LEASE: Duration = Duration::from_secs(8);
/// Deltas that certainly make more than one step.
const MANY: usize = 5_000;

async fn connect(urls: String, topology: Topology) -> registry::redis::Redis {
    let config = RedisConfig {
        urls,
        topology,
        ..RedisConfig::default()
    };
    registry::redis::connect(&config).await.unwrap()
}

async fn replica(server: &Redis) -> Arc<RedisPresence> {
    Arc::new(RedisPresence::new(connect(server.url(), Topology::Single).await))
}

#[tokio::test]
async fn conforms_on_one_server() {
    let server = Redis::start().unwrap();
    let redis = connect(server.url(), Topology::Single).await;
    conformance::all(async || {
        server.command("FLUSHALL").unwrap();
        Arc::new(RedisPresence::new(redis.clone())) as Arc<dyn PresenceStore>
    })
    .await;
}

#[tokio::test]
async fn conforms_on_a_cluster() {
    let mut cluster = RedisCluster::start().unwrap();
    let redis = connect(cluster.url(), Topology::Cluster).await;
    let masters = &cluster.nodes()[..3];
    conformance::all(async || {
        for master in masters {
            master.command("FLUSHALL").unwrap();
        }
        Arc::new(RedisPresence::new(redis.clone())) as Arc<dyn PresenceStore>
    })
    .await;
}

#[tokio::test]
async fn when_all_is_over_nothing_is_left_but_the_list_of_changes() {
    let server = Redis::start().unwrap();
    let store = replica(&server).await;
    let steps: Vec<_> = (0..500u32)
        .map(|n| conformance::Step::decode(n.wrapping_mul(0x85eb_ca6b)))
        .collect();
    conformance::agrees_with_the_naive_truth(&*store, &steps).await;
    let far = 1 << 50;
    store.expire(far, Duration::ZERO, Duration::ZERO).await.unwrap();
    while !store.due(far, 7).await.unwrap().is_empty() {}
    assert_eq!(
        server.command("KEYS *").unwrap().trim(),
        "*1\r\n$26\r\nfanfare:{presence}:changes"
    );
    assert_eq!(store.stats_breakdown().await.unwrap(), StatsBreakdown::default());
}

#[tokio::test]
async fn after_a_flush_every_gateway_is_asked_for_a_snapshot() {
    let server = Redis::start().unwrap();
    let store = replica(&server).await;
    let deltas = crowd(1, 10, 2);
    apply(&*store, batch(1, 1, deltas.clone())).await;
    let position = store.changes_end().await.unwrap();
    server.command("FLUSHALL").unwrap();
    let late = store.apply(batch(1, 2, Vec::new()), 0, GRACE).await.unwrap();
    assert_eq!(late, Outcome::NeedSnapshot { applied: 0 });
    assert!(!store.touch(&gateway(1), 0).await.unwrap());
    assert_eq!(store.changes(&position, 10).await.unwrap(), Changes::Forgotten);
    let told = apply(
        &*store,
        Batch {
            snapshot: true,
            ..batch(1, 3, deltas)
        },
    )
    .await;
    assert_eq!(told.len(), 30);
    apply(&*store, batch(1, 4, Vec::new())).await;
    assert_eq!(
        store.stats().await.unwrap(),
        Stats {
            connections: 10,
            users: 10,
            rooms: 2
        }
    );
    assert_eq!(store.changes(&position, 10).await.unwrap(), Changes::Forgotten);
}

#[tokio::test]
async fn after_a_restart_the_engine_goes_on_by_itself() {
    let mut server = Redis::start().unwrap();
    let store = replica(&server).await;
    apply(&*store, batch(1, 1, crowd(1, 10, 2))).await;
    server.kill();
    let down = store.apply(batch(1, 2, Vec::new()), 0, GRACE).await;
    assert!(matches!(down, Err(PresenceError::Unavailable(_))), "{down:?}");
    server.start_again().unwrap();
    let again = loop {
        match store.apply(batch(1, 2, Vec::new()), 0, GRACE).await {
            Ok(outcome) => break outcome,
            Err(PresenceError::Unavailable(_)) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    };
    assert_eq!(again, Outcome::NeedSnapshot { applied: 0 });
}

#[tokio::test]
async fn replicas_that_work_at_once_report_each_transition_once() {
    let server = Redis::start().unwrap();
    let replicas = [replica(&server).await, replica(&server).await];
    let begin = replicas[0].changes_end().await.unwrap();
    let mut gateways = JoinSet::new();
    for number in 1..=6 {
        let replicas = replicas.clone();
        gateways.spawn(async move {
            let mut told = Vec::new();
            let mut next = 0;
            // The same ten users everywhere, coming and going in each gateway's own rhythm; half of the gateways
            // die in the end.
            for round in 0..40 {
                let mut deltas = Vec::new();
                for Socketed { key, connected } in sockets(number, 10) {
                    let turn = (round * 7 + number * 3 + connected.connected_at_ms as usize) % 5;
                    deltas.push(Delta::Connected(connected));
                    deltas.extend((0..turn).map(|room| Delta::Joined(key.clone(), room_name(room))));
                    if turn == 1 {
                        deltas.push(Delta::Left(key, room_name(0)));
                    } else if turn == 3 || (round == 39 && number % 2 == 0) {
                        deltas.push(Delta::Disconnected(key));
                    }
                }
                next += 1;
                let replica = &replicas[(round + number) % 2];
                told.extend(apply(&**replica, batch(number, next, deltas)).await);
                told.extend(replica.due(GRACE.as_millis() as u64, 3).await.unwrap());
            }
            told
        });
    }
    let mut told: Vec<Transition> = gateways.join_all().await.into_iter().flatten().collect();
    let (now_ms, at_end) = (100_000, 200_000);
    let dead = |store: Arc<RedisPresence>| async move { store.expire(now_ms, LEASE, GRACE).await.unwrap() };
    let (one, two) = tokio::join!(dead(Arc::clone(&replicas[0])), dead(Arc::clone(&replicas[1])));
    assert_eq!(one.len() + two.len(), 6);
    told.extend(one.into_iter().chain(two).flat_map(|expired| expired.transitions));
    let ends = |store: Arc<RedisPresence>| async move {
        let mut told = Vec::new();
        loop {
            match store.due(at_end, 2).await.unwrap() {
                some if some.is_empty() => return told,
                some => told.extend(some),
            }
        }
    };
    let (one, two) = tokio::join!(ends(Arc::clone(&replicas[0])), ends(Arc::clone(&replicas[1])));
    told.extend(one.into_iter().chain(two));
    assert_eq!(
        replicas[0].stats_breakdown().await.unwrap(),
        StatsBreakdown::default()
    );

    let Changes::Next(list) = replicas[1].changes(&begin, 60_000).await.unwrap() else {
        panic!("nothing is forgotten so soon")
    };
    let list: Vec<Transition> = list.into_iter().map(|(_, transition)| transition).collect();
    let sorted = |transitions: &[Transition]| {
        let mut all: Vec<_> = transitions
            .iter()
            .map(|transition| format!("{transition:?}"))
            .collect();
        all.sort();
        all
    };
    assert_eq!(sorted(&told), sorted(&list));
    each_stay_begins_and_ends_in_turn(&list);
}

/// Nobody joins who is a member, nobody leaves who is none; counts follow; in the end nobody is there.
fn each_stay_begins_and_ends_in_turn(list: &[Transition]) {
    let mut rooms: HashMap<&RoomName, HashMap<&UserId, ()>> = HashMap::new();
    let mut online: HashMap<&UserId, bool> = HashMap::new();
    for transition in list {
        match transition {
            Transition::Room(t) => {
                let members = rooms.entry(&t.room).or_default();
                match t.change {
                    RoomChange::Joined { .. } | RoomChange::Restored => {
                        assert!(members.insert(&t.user, ()).is_none(), "{t:?}")
                    }
                    RoomChange::Left { .. } => assert!(members.remove(&t.user).is_some(), "{t:?}"),
                    RoomChange::JoinedAgain { .. } | RoomChange::Lost { .. } => {
                        assert!(members.contains_key(&t.user), "{t:?}");
                    }
                }
                assert_eq!(t.users_count as usize, members.len(), "{t:?}");
            }
            Transition::User(t) => match t.change {
                UserChange::Online => assert_eq!(online.insert(&t.user, true), None, "{t:?}"),
                UserChange::Back => assert_eq!(online.insert(&t.user, true), Some(false), "{t:?}"),
                UserChange::Lost { .. } => assert_eq!(online.insert(&t.user, false), Some(true), "{t:?}"),
                UserChange::Offline => assert_eq!(online.remove(&t.user), Some(false), "{t:?}"),
            },
        }
    }
    assert!(online.is_empty() && rooms.values().all(HashMap::is_empty));
}

#[tokio::test]
async fn large_snapshots_and_dead_gateways_go_in_steps_and_lose_nothing() {
    let server = Redis::start().unwrap();
    let store = replica(&server).await;
    let deltas = crowd(1, MANY, 1);
    let snapshot = |number, deltas| Batch {
        snapshot: true,
        ..batch(1, number, deltas)
    };
    let outcome = store.apply(snapshot(1, deltas.clone()), 0, GRACE).await.unwrap();
    let Outcome::Applied(applied) = outcome else {
        panic!("a snapshot is always taken")
    };
    assert_eq!(
        (applied.users_counts.len(), applied.transitions.len()),
        (MANY, 2 * MANY)
    );
    let rooms = (MANY / 50) as u64;
    let full = Stats {
        connections: MANY as u64,
        users: MANY as u64,
        rooms,
    };
    assert_eq!(store.stats().await.unwrap(), full);
    assert_eq!(
        apply(&*store, snapshot(2, deltas.clone())).await,
        [],
        "the same once more changes nothing"
    );
    let half = deltas[..MANY].to_vec();
    assert_eq!(
        apply(&*store, snapshot(3, half)).await.len(),
        MANY,
        "half of them are lost, room and all"
    );
    assert_eq!(
        apply(&*store, snapshot(4, deltas)).await.len(),
        MANY,
        "and back within the grace"
    );
    assert_eq!(store.stats().await.unwrap(), full);
    let [dead]: [Expired; 1] = store
        .expire(8_000, LEASE, GRACE)
        .await
        .unwrap()
        .try_into()
        .unwrap();
    assert_eq!((dead.sockets, dead.transitions.len()), (MANY, 2 * MANY));
    assert_eq!(
        store.stats().await.unwrap(),
        Stats {
            rooms,
            ..Stats::default()
        }
    );
}

#[tokio::test]
async fn what_a_replica_leaves_half_done_another_one_finishes() {
    let server = Redis::start().unwrap();
    let (first, second) = (replica(&server).await, replica(&server).await);
    let begin = first.changes_end().await.unwrap();
    let snapshot = |number| Batch {
        snapshot: true,
        ..batch(1, number, crowd(1, MANY, 1))
    };

    // A snapshot breaks off: the gateway cannot go on but with another one.
    until_some(&first, snapshot(1), |seen| seen > 0).await;
    let outcome = second.apply(batch(1, 2, Vec::new()), 0, GRACE).await.unwrap();
    assert_eq!(outcome, Outcome::NeedSnapshot { applied: 0 });
    apply(&*second, snapshot(3)).await;
    apply(&*second, batch(1, 4, Vec::new())).await;
    assert_eq!(second.stats().await.unwrap().connections as usize, MANY);

    // A removal breaks off; it is taken up when nobody has been at it for a while.
    let (dying, store) = (Arc::clone(&first), Arc::clone(&second));
    let mut removal = JoinSet::new();
    removal.spawn(async move { dying.expire(8_000, LEASE, GRACE).await });
    while store.stats().await.unwrap().connections as usize == MANY {
        tokio::task::yield_now().await;
    }
    removal.shutdown().await;
    let left = second.stats().await.unwrap().connections as usize;
    assert_eq!(
        second.expire(8_500, LEASE, GRACE).await.unwrap(),
        [],
        "somebody is at it"
    );
    let rest = second.expire(30_000, LEASE, GRACE).await.unwrap();
    assert_eq!(rest.iter().map(|dead| dead.sockets).sum::<usize>(), left);
    while !second.due(99_000, 1_000).await.unwrap().is_empty() {}
    assert_eq!(second.stats_breakdown().await.unwrap(), StatsBreakdown::default());
    let Changes::Next(list) = second.changes(&begin, 60_000).await.unwrap() else {
        panic!("nothing is forgotten so soon")
    };
    let list: Vec<_> = list.into_iter().map(|(_, transition)| transition).collect();
    each_stay_begins_and_ends_in_turn(&list);
}

/// Begins to apply a batch and gives up when the store has `enough` connections.
async fn until_some(store: &Arc<RedisPresence>, batch: Batch, enough: impl Fn(u64) -> bool) {
    let mut applying = JoinSet::new();
    let by = Arc::clone(store);
    applying.spawn(async move { by.apply(batch, 0, GRACE).await });
    while !enough(store.stats().await.unwrap().connections) {
        tokio::task::yield_now().await;
    }
    applying.shutdown().await;
}

fn gateway(number: usize) -> GatewayId {
    GatewayId::new(&format!("gw{number:04}")).unwrap()
}

fn batch(of: usize, number: u64, deltas: Vec<Delta>) -> Batch {
    Batch {
        gateway: gateway(of),
        number,
        snapshot: false,
        deltas,
    }
}

async fn apply(store: &dyn PresenceStore, batch: Batch) -> Vec<Transition> {
    match store.apply(batch, 0, GRACE).await.unwrap() {
        Outcome::Applied(applied) => applied.transitions,
        need @ Outcome::NeedSnapshot { .. } => panic!("{need:?}"),
    }
}

fn room_name(number: usize) -> RoomName {
    RoomName::stored(&format!("room-{number}"))
}

struct Socketed {
    key: SocketKey,
    connected: Socket,
}

/// Sockets of one gateway, of users that all gateways have.
fn sockets(gateway: usize, users: usize) -> impl Iterator<Item = Socketed> {
    (0..users).map(move |n| {
        let key = SocketKey {
            namespace: Namespace::new("/chat").unwrap(),
            id: format!("{gateway}-{n}").into(),
        };
        let connected = Socket {
            key: key.clone(),
            user: UserId::new(&format!("user-{n}")).unwrap(),
            username: format!("User {n}").into(),
            connected_at_ms: n as u64,
            ip: "203.0.113.7".into(),
            user_agent: "test".into(),
        };
        Socketed { key, connected }
    })
}

/// `sockets` sockets of as many users, each in `rooms` rooms of about 50 members.
fn crowd(gateway: usize, sockets: usize, rooms: usize) -> Vec<Delta> {
    let mut deltas = Vec::new();
    for n in 0..sockets {
        let key = SocketKey {
            namespace: Namespace::new("/chat").unwrap(),
            id: format!("{gateway:04}{n:016}").into(),
        };
        deltas.push(Delta::Connected(Socket {
            key: key.clone(),
            user: UserId::new(&format!("user-{gateway}-{n:06}")).unwrap(),
            username: format!("User Number {n}").into(),
            connected_at_ms: 1_700_000_000_000 + n as u64,
            ip: "203.0.113.117".into(),
            user_agent: "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0.0.0 Safari/537.36".into(),
        }));
        for room in 0..rooms {
            let name = format!("team-{room}-{:05}", (n * 7919 + room) % (sockets / 50).max(1));
            deltas.push(Delta::Joined(key.clone(), RoomName::stored(&name)));
        }
    }
    deltas
}
