//! The service on the embedded store and bus, with tokio's paused time: what gateways are answered and
//! what rooms are told.

#![allow(clippy::unwrap_used, reason = "a test reports by panicking")]

use std::{sync::Arc, time::Duration};

use bus::{Signal, Signals, SignalsError, Subscription, signals::memory::MemorySignals, subjects};
use model::{Namespace, RoomName, RoomToken, partition_of};
use presence::{Clock, Deps, Metrics, Service, Settings};
use prost::Message;
use proto::v1::{self, presence_delta::Kind};
use registry::presence_store::memory::MemoryPresence;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

const PARTITIONS: u16 = 4;
const START_MS: u64 = 1_700_000_000_000;
/// When the sockets have connected: so long ago that nobody is told.
const SINCE_MS: u64 = START_MS - 60_000;

/// The service running, one gateway that reports to it, and an ear at every partition.
struct Stage {
    signals: Arc<dyn Signals>,
    announced: Box<dyn Subscription>,
    registry: prometheus::Registry,
    shutdown: CancellationToken,
    served: tokio::task::JoinHandle<()>,
    number: u64,
}

impl Stage {
    async fn set() -> Self {
        let signals: Arc<dyn Signals> = Arc::new(MemorySignals::new());
        let registry = prometheus::Registry::new();
        let begun = Instant::now();
        let clock: Clock = Arc::new(move || START_MS + begun.elapsed().as_millis() as u64);
        let deps = Deps {
            store: Arc::new(MemoryPresence::new()),
            signals: Arc::clone(&signals),
            tasks: lifecycle::Tasks::new(),
            metrics: Metrics::register(&registry).unwrap(),
            clock,
        };
        let settings = Settings {
            partitions: PARTITIONS,
            list_limit: 3,
            ..Settings::default()
        };
        let announced = signals.subscribe("fanfare.signal.>", None).await.unwrap();
        let service = Service::build(deps, settings).await.unwrap();
        let shutdown = CancellationToken::new();
        let stop = shutdown.clone();
        #[expect(clippy::disallowed_methods, reason = "the test is the owner and waits for it")]
        let served = tokio::spawn(async move { service.run(stop).await.unwrap() });
        Self {
            signals,
            announced,
            registry,
            shutdown,
            served,
            number: 0,
        }
    }

    async fn report(&mut self, deltas: Vec<Kind>) -> Vec<u32> {
        self.number += 1;
        let reply = self.send(self.number, false, deltas).await;
        assert_eq!((reply.applied, reply.need_snapshot), (self.number, false));
        reply.users_counts
    }

    async fn send(&self, number: u64, snapshot: bool, deltas: Vec<Kind>) -> v1::PresenceReply {
        let deltas = deltas
            .into_iter()
            .map(|kind| v1::PresenceDelta { kind: Some(kind) })
            .collect();
        let batch = v1::PresenceBatch {
            gateway: "gate-1".into(),
            number,
            snapshot,
            deltas,
            ..v1::PresenceBatch::default()
        };
        self.ask(subjects::PRESENCE_BATCH, &batch).await.unwrap()
    }

    async fn ask<A: Message + Default>(
        &self,
        subject: &str,
        query: &impl Message,
    ) -> Result<A, SignalsError> {
        let answer = self
            .signals
            .request(subject, query.encode_to_vec().into(), Duration::from_secs(2))
            .await?;
        Ok(A::decode(answer).unwrap())
    }

    async fn online(&self, namespace: &str, room: &str, limit: u32) -> Vec<(String, u64)> {
        let query = v1::OnlineUsersQuery {
            namespace: namespace.into(),
            room: room.into(),
            limit,
        };
        let reply: v1::OnlineUsersReply = self.ask(subjects::PRESENCE_ONLINE, &query).await.unwrap();
        reply
            .users
            .into_iter()
            .map(|user| (user.user_id, user.connected_at_ms))
            .collect()
    }

    /// Time passes, and the gateway lives.
    async fn wait(&self, seconds: u64) {
        for _ in 0..seconds {
            sleep(Duration::from_secs(1)).await;
            self.heartbeat().await;
        }
    }

    async fn heartbeat(&self) {
        let heartbeat = v1::GatewayHeartbeat {
            gateway: "gate-1".into(),
            ..v1::GatewayHeartbeat::default()
        };
        self.signals
            .publish(subjects::GATEWAY_HEARTBEAT, heartbeat.encode_to_vec().into())
            .unwrap();
    }

    /// What has been announced since, as `room event args`.
    async fn heard(&mut self) -> Vec<String> {
        let mut heard = Vec::new();
        while let Some(signal) = self.next_at_once().await {
            let publish = v1::Publish::decode(signal.payload).unwrap();
            let room = RoomName::stored(&publish.room);
            let token = RoomToken::new(&Namespace::new(&publish.namespace).unwrap(), &room);
            assert_eq!(
                signal.subject,
                subjects::signal(partition_of(token, PARTITIONS), token)
            );
            assert!(uuid::Uuid::parse_str(&publish.id).is_ok());
            assert!(publish.time_ms >= START_MS);
            let args = std::str::from_utf8(&publish.args).unwrap();
            let except = publish.except.unwrap_or_default().users;
            let except = except
                .iter()
                .map(|user| format!(" but {user}"))
                .collect::<String>();
            heard.push(format!(
                "{} {} {args}{except}",
                publish.room.replace('\u{1}', "^"),
                publish.event
            ));
        }
        heard
    }

    async fn next_at_once(&mut self) -> Option<Signal> {
        tokio::select! {
            biased;
            signal = self.announced.next() => signal,
            () = std::future::ready(()) => None,
        }
    }

    async fn strike(self) {
        self.shutdown.cancel();
        self.served.await.unwrap();
    }
}

fn connected(id: &str, user: &str) -> Kind {
    Kind::Connected(v1::SocketConnected {
        namespace: "/chat".into(),
        socket_id: id.into(),
        user_id: user.into(),
        username: format!("\"{user}\""),
        connected_at_ms: SINCE_MS,
        ..v1::SocketConnected::default()
    })
}

fn disconnected(id: &str) -> Kind {
    Kind::Disconnected(v1::SocketDisconnected {
        namespace: "/chat".into(),
        socket_id: id.into(),
    })
}

fn joined(id: &str, room: &str) -> Kind {
    Kind::Joined(v1::RoomJoined {
        namespace: "/chat".into(),
        socket_id: id.into(),
        room: room.into(),
        told: false,
    })
}

fn left(id: &str, room: &str) -> Kind {
    Kind::Left(v1::RoomLeft {
        namespace: "/chat".into(),
        socket_id: id.into(),
        room: room.into(),
    })
}

fn presence(to: &str, count: u32, user: &str, action: &str) -> String {
    format!(
        r#"{to} room-presence {{"roomId":"r","usersCount":{count},"userId":"{user}","action":"{action}"}}"#
    )
}

fn arrived(id: &str, user: &str, at_ms: u64) -> Kind {
    let Kind::Connected(socket) = connected(id, user) else {
        unreachable!()
    };
    Kind::Connected(v1::SocketConnected {
        connected_at_ms: at_ms,
        ..socket
    })
}

fn stays(id: &str, room: &str) -> Kind {
    let Kind::Joined(place) = joined(id, room) else {
        unreachable!()
    };
    Kind::Joined(v1::RoomJoined { told: true, ..place })
}

fn user_online(room: &str, user: &str) -> String {
    format!(r#"{room} user-online {{"userId":"{user}","username":"\"{user}\""}} but {user}"#)
}

/// `seconds` after the start.
fn user_offline(room: &str, user: &str, seconds: u64) -> String {
    let last_seen = START_MS + seconds * 1_000;
    format!(r#"{room} user-offline {{"userId":"{user}","username":"\"{user}\"","lastSeen":{last_seen}}}"#)
}

fn user_left(user: &str) -> String {
    format!(r#"r user-left {{"roomId":"r","userId":"{user}","username":"\"{user}\""}}"#)
}

#[tokio::test(start_paused = true)]
async fn the_room_hears_of_a_first_socket_and_only_the_socket_itself_of_a_further_one() {
    let mut stage = Stage::set().await;
    let counts = stage
        .report(vec![connected("s1", "ada"), joined("s1", "r")])
        .await;
    assert_eq!(counts, [1]);
    // The answer is here, so the announcement is out.
    assert_eq!(stage.heard().await, [presence("r", 1, "ada", "joined")]);
    let counts = stage.report(vec![
        connected("s2", "ada"),
        joined("s2", "r"),
        connected("s3", "bob"),
        joined("s3", "r"),
    ]);
    assert_eq!(counts.await, [1, 2]);
    let heard = stage.heard().await;
    assert_eq!(
        heard,
        [
            presence("^socket:s2", 1, "ada", "joined"),
            presence("r", 2, "bob", "joined")
        ]
    );
    stage.strike().await;
}

#[tokio::test(start_paused = true)]
async fn leaving_on_purpose_is_announced_at_once_with_the_last_socket() {
    let mut stage = Stage::set().await;
    stage
        .report(vec![
            connected("s1", "ada"),
            joined("s1", "r"),
            connected("s2", "ada"),
            joined("s2", "r"),
        ])
        .await;
    stage.heard().await;
    stage.report(vec![left("s1", "r")]).await;
    assert_eq!(stage.heard().await, [""; 0]);
    stage.report(vec![left("s2", "r")]).await;
    assert_eq!(
        stage.heard().await,
        [presence("r", 0, "ada", "left"), user_left("ada")]
    );
    stage.strike().await;
}

#[tokio::test(start_paused = true)]
async fn a_lost_user_has_left_after_the_grace() {
    let mut stage = Stage::set().await;
    let deltas = vec![
        connected("s1", "ada"),
        joined("s1", "r"),
        connected("s2", "bob"),
        joined("s2", "r"),
    ];
    stage.report(deltas).await;
    stage.heard().await;
    stage.report(vec![disconnected("s1")]).await;
    sleep(Duration::from_millis(4_900)).await;
    assert_eq!(stage.heard().await, [""; 0]);
    sleep(Duration::from_millis(400)).await;
    let expected = [
        presence("r", 1, "ada", "left"),
        user_left("ada"),
        user_offline("r", "ada", 0),
    ];
    assert_eq!(stage.heard().await, expected);
    sleep(Duration::from_secs(30)).await;
    stage.strike().await;
}

#[tokio::test(start_paused = true)]
async fn a_user_back_within_the_grace_was_never_away() {
    let mut stage = Stage::set().await;
    stage
        .report(vec![connected("s1", "ada"), joined("s1", "r")])
        .await;
    stage.heard().await;
    stage.report(vec![disconnected("s1")]).await;
    sleep(Duration::from_secs(4)).await;
    stage
        .report(vec![connected("s2", "ada"), joined("s2", "r")])
        .await;
    assert_eq!(stage.heard().await, [presence("^socket:s2", 1, "ada", "joined")]);
    for _ in 0..5 {
        sleep(Duration::from_secs(2)).await;
        stage.heartbeat().await;
    }
    assert_eq!(stage.heard().await, [""; 0]);
    stage.strike().await;
}

#[tokio::test(start_paused = true)]
async fn rooms_out_of_clients_reach_are_not_announced() {
    let mut stage = Stage::set().await;
    let deltas = vec![
        connected("s1", "ada"),
        joined("s1", "user:ada"),
        joined("s1", "\u{1}socket:s1"),
        joined("s1", "r"),
    ];
    assert_eq!(stage.report(deltas).await, [1, 1, 1]);
    stage
        .report(vec![left("s1", "user:ada"), disconnected("s1")])
        .await;
    sleep(Duration::from_millis(5_300)).await;
    let expected = [
        presence("r", 1, "ada", "joined"),
        presence("r", 0, "ada", "left"),
        user_left("ada"),
        user_offline("r", "ada", 0),
    ];
    assert_eq!(stage.heard().await, expected);
    stage.strike().await;
}

/// Rooms hear of a user who comes online when he joins them, and of one who goes offline when he is missed there.
#[tokio::test(start_paused = true)]
async fn rooms_hear_who_comes_online_and_goes_offline() {
    let mut stage = Stage::set().await;
    let deltas = vec![
        arrived("s1", "ada", START_MS),
        joined("s1", "r"),
        joined("s1", "r"),
    ];
    stage.report(deltas).await;
    assert_eq!(
        stage.heard().await,
        [presence("r", 1, "ada", "joined"), user_online("r", "ada")]
    );
    stage.wait(9).await;
    stage.report(vec![joined("s1", "late")]).await;
    let heard = stage.heard().await;
    assert_eq!(heard[1..], [user_online("late", "ada")]);
    // Whoever was here already is no news, nor is a reconnect within the grace.
    sleep(Duration::from_secs(2)).await;
    stage
        .report(vec![joined("s1", "later"), disconnected("s1")])
        .await;
    assert_eq!(stage.heard().await.len(), 1);
    sleep(Duration::from_secs(1)).await;
    stage
        .report(vec![
            arrived("s2", "ada", START_MS + 12_000),
            joined("s2", "r"),
            joined("s2", "new"),
        ])
        .await;
    let heard = stage.heard().await;
    assert!(heard.iter().all(|event| !event.contains("user-o")), "{heard:?}");
    // What was left on purpose hears of nothing any more; what was lost earlier has heard of a leave.
    stage.report(vec![left("s2", "r")]).await;
    sleep(Duration::from_secs(5)).await;
    stage.heard().await;
    stage.report(vec![disconnected("s2")]).await;
    sleep(Duration::from_millis(5_400)).await;
    let heard = stage.heard().await;
    assert_eq!(heard.len(), 3, "{heard:?}");
    assert_eq!(heard[2], user_offline("new", "ada", 17));
    stage.strike().await;
}

/// Whatever the store has lost is told to nobody again; what happened while it was away is.
#[tokio::test(start_paused = true)]
async fn healing_is_silent() {
    let mut stage = Stage::set().await;
    let first = stage
        .send(1, true, vec![connected("s1", "ada"), joined("s1", "r")])
        .await;
    assert!(!first.life.is_empty());
    assert_eq!(stage.heard().await, [presence("r", 1, "ada", "joined")]);
    let snapshot = async |stage: &Stage, number, life: &str, deltas: Vec<Kind>| {
        let deltas = deltas.into_iter();
        let batch = v1::PresenceBatch {
            gateway: "gate-1".into(),
            number,
            snapshot: true,
            life: life.to_owned(),
            deltas: deltas
                .map(|kind| v1::PresenceDelta { kind: Some(kind) })
                .collect(),
            ..v1::PresenceBatch::default()
        };
        let reply: v1::PresenceReply = stage.ask(subjects::PRESENCE_BATCH, &batch).await.unwrap();
        assert_eq!((reply.applied, reply.need_snapshot), (number, false));
        reply.life
    };
    // To this store bob's join was told in its life before.
    let held = || {
        vec![
            connected("s1", "ada"),
            stays("s1", "r"),
            connected("s2", "bob"),
            stays("s2", "r"),
            connected("s3", "cy"),
            joined("s3", "r"),
        ]
    };
    let life = snapshot(&stage, 5, "another", held()).await;
    assert_eq!(life, first.life);
    assert_eq!(stage.heard().await, [presence("r", 3, "cy", "joined")]);
    // A gateway that was thought dead for longer than the grace: the room has heard that all have left.
    sleep(Duration::from_secs(13)).await;
    stage.heard().await;
    snapshot(&stage, 6, &life, held()).await;
    let heard = stage.heard().await;
    let expected = [(1, "ada"), (2, "bob"), (3, "cy")];
    assert_eq!(
        heard,
        expected.map(|(count, user)| presence("r", count, user, "joined"))
    );
    // And one that comes back in time: the room has heard nothing.
    sleep(Duration::from_secs(7)).await;
    let stats: v1::PresenceStatsReply = stage
        .ask(subjects::PRESENCE_STATS, &v1::PresenceStatsQuery {})
        .await
        .unwrap();
    assert_eq!(stats.connections, 0, "the gateway is dead");
    let all = held()
        .into_iter()
        .map(|kind| match kind {
            Kind::Joined(place) => Kind::Joined(v1::RoomJoined { told: true, ..place }),
            other => other,
        })
        .collect();
    snapshot(&stage, 7, &life, all).await;
    assert_eq!(stage.heard().await, [""; 0]);
    stage.strike().await;
}

/// A room of many hears a count, at most once a second, and nobody's coming and going online.
#[tokio::test(start_paused = true)]
async fn a_crowd_hears_counts() {
    let mut stage = Stage::set().await;
    let arrive = |n: u64| {
        [
            arrived(&format!("s{n}"), &format!("u{n}"), START_MS),
            joined(&format!("s{n}"), "r"),
        ]
    };
    stage.report((0..200).flat_map(arrive).collect()).await;
    assert_eq!(stage.heard().await.len(), 400);
    let begun = Instant::now();
    for n in 200..400 {
        stage.report(arrive(n).to_vec()).await;
        sleep(Duration::from_millis(20)).await;
    }
    sleep(Duration::from_secs(2)).await;
    let heard = stage.heard().await;
    assert!(heard.len() as u64 <= begun.elapsed().as_secs() + 1, "{heard:?}");
    assert!(heard.len() >= 4, "{heard:?}");
    assert_eq!(heard.last().unwrap(), &presence("r", 400, "u399", "joined"));
    stage.strike().await;
}

#[tokio::test(start_paused = true)]
async fn a_gap_is_closed_by_a_snapshot() {
    let mut stage = Stage::set().await;
    stage
        .report(vec![connected("s1", "ada"), joined("s1", "r")])
        .await;
    stage.heard().await;
    let reply = stage.send(3, false, vec![disconnected("s1")]).await;
    assert_eq!(
        reply,
        v1::PresenceReply {
            applied: 1,
            need_snapshot: true,
            ..v1::PresenceReply::default()
        }
    );
    let held = vec![
        connected("s1", "ada"),
        joined("s1", "r"),
        connected("s2", "bob"),
        joined("s2", "r"),
    ];
    let reply = stage.send(4, true, held).await;
    assert_eq!((reply.applied, reply.need_snapshot), (4, false));
    assert_eq!(stage.heard().await, [presence("r", 2, "bob", "joined")]);
    let reply = stage.send(5, false, vec![left("s2", "r")]).await;
    assert_eq!(reply.applied, 5);
    stage.strike().await;
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_in_parts_counts_once_it_is_whole() {
    let mut stage = Stage::set().await;
    let part = |part, more, deltas: Vec<Kind>| v1::PresenceBatch {
        gateway: "gate-1".into(),
        number: 7,
        snapshot: true,
        part,
        more,
        deltas: deltas
            .into_iter()
            .map(|kind| v1::PresenceDelta { kind: Some(kind) })
            .collect(),
        ..v1::PresenceBatch::default()
    };
    let first = part(0, true, vec![connected("s1", "ada")]);
    let kept: v1::PresenceReply = stage.ask(subjects::PRESENCE_BATCH, &first).await.unwrap();
    assert!(!kept.need_snapshot && !kept.parts_to.is_empty());
    let second = part(1, true, vec![joined("s1", "r"), connected("s2", "bob")]);
    let kept: v1::PresenceReply = stage.ask(&kept.parts_to, &second).await.unwrap();
    assert!(!kept.need_snapshot);
    assert_eq!(stage.heard().await, [""; 0]);
    assert_eq!(stage.online("/chat", "", 0).await, []);
    let last = part(2, false, vec![joined("s2", "r")]);
    let reply: v1::PresenceReply = stage.ask(&kept.parts_to, &last).await.unwrap();
    assert_eq!((reply.applied, reply.need_snapshot), (7, false));
    assert_eq!(
        stage.heard().await,
        [
            presence("r", 1, "ada", "joined"),
            presence("r", 2, "bob", "joined")
        ]
    );
    // A part that belongs to nothing.
    let reply: v1::PresenceReply = stage.ask(&kept.parts_to, &last).await.unwrap();
    assert!(reply.need_snapshot);
    let reply = stage.send(8, false, vec![left("s2", "r")]).await;
    assert_eq!(reply.applied, 8);
    stage.strike().await;
}

#[tokio::test(start_paused = true)]
async fn a_gateway_that_falls_silent_is_removed_and_heartbeats_keep_it() {
    let mut stage = Stage::set().await;
    stage
        .report(vec![connected("s1", "ada"), joined("s1", "r")])
        .await;
    stage.heard().await;
    for _ in 0..20 {
        stage.heartbeat().await;
        sleep(Duration::from_secs(1)).await;
    }
    assert_eq!(stage.heard().await, [""; 0]);
    // Silence: the lease, the grace, and their ticks make less than the 15 s of G6.
    sleep(Duration::from_secs(13)).await;
    let heard = stage.heard().await;
    assert_eq!(heard[..2], [presence("r", 0, "ada", "left"), user_left("ada")]);
    assert!(
        heard.len() == 3 && heard[2].starts_with("r user-offline "),
        "{heard:?}"
    );
    let reply = stage.send(2, false, Vec::new()).await;
    assert!(reply.need_snapshot);
    stage.strike().await;
}

#[tokio::test(start_paused = true)]
async fn questions_are_answered() {
    let mut stage = Stage::set().await;
    let mut deltas = Vec::new();
    for n in 0..5 {
        deltas.push(connected(&format!("s{n}"), &format!("u{n}")));
    }
    deltas.push(joined("s4", "r"));
    stage.report(deltas).await;
    assert_eq!(stage.online("/chat", "r", 0).await, [("u4".to_owned(), SINCE_MS)]);
    assert_eq!(
        stage.online("/chat", "", 0).await.len(),
        3,
        "the service's own bound"
    );
    assert_eq!(stage.online("/chat", "", 2).await.len(), 2);
    assert_eq!(stage.online("/", "", 0).await, []);
    assert_eq!(stage.online("no namespace", "", 0).await, []);
    let stats: v1::PresenceStatsReply = stage
        .ask(subjects::PRESENCE_STATS, &v1::PresenceStatsQuery {})
        .await
        .unwrap();
    assert_eq!(
        stats,
        v1::PresenceStatsReply {
            connections: 5,
            users: 5,
            rooms: 1
        }
    );
    sleep(Duration::from_millis(1_100)).await;
    let gauges: Vec<_> = stage
        .registry
        .gather()
        .into_iter()
        .filter(|family| family.name().starts_with("socket_active"))
        .map(|family| {
            (
                family.name().to_owned(),
                family.get_metric()[0].get_gauge().get_value(),
            )
        })
        .collect();
    assert_eq!(
        gauges,
        [
            ("socket_active_rooms".to_owned(), 1.0),
            ("socket_active_users".to_owned(), 5.0)
        ]
    );
    stage.strike().await;
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_read_is_not_answered_and_harms_nobody() {
    let mut stage = Stage::set().await;
    for subject in [subjects::PRESENCE_BATCH, subjects::PRESENCE_ONLINE] {
        let garbage = bytes::Bytes::from_static(&[0xff; 9]);
        let answer = stage
            .signals
            .request(subject, garbage, Duration::from_secs(1))
            .await;
        assert!(matches!(answer, Err(SignalsError::Timeout(_))), "{answer:?}");
    }
    let mut nowhere = joined("s1", "r");
    if let Kind::Joined(joined) = &mut nowhere {
        joined.namespace = "nowhere".into();
    }
    let counts = stage
        .report(vec![
            connected("s1", ""),
            nowhere,
            connected("s2", "bob"),
            joined("s2", "r"),
        ])
        .await;
    assert_eq!(counts, [0, 1], "one count for each join, in order");
    assert_eq!(stage.heard().await, [presence("r", 1, "bob", "joined")]);
    stage.strike().await;
}
