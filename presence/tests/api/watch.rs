//! The watch.

use std::{collections::BTreeSet, time::Duration};

use presence::api::Settings;
use proto::v1::{
    PresenceUser, SnapshotReason, WatchRequest, WatchResponse, WatchSnapshot, room_change, user_change,
    watch_response::Event,
};
use tokio::time::timeout;
use tonic::{Code, Request, Status, Streaming};

use crate::{
    stage::{LATE, Replica, Stage, connected, connected_in, disconnected, joined, left},
    store::Mode,
};

/// Ends at the service's next look, but is seen.
const SHORT: Duration = Duration::from_millis(1);
const LONG: Duration = Duration::from_secs(3_600);

/// A watch, with the token of the last message that had one.
pub(crate) struct Ear {
    told: Streaming<WatchResponse>,
    pub(crate) token: String,
}

impl Ear {
    pub(crate) async fn at(replica: &Replica, request: WatchRequest) -> Self {
        let told = replica.client().await.watch(request).await.unwrap().into_inner();
        Self {
            told,
            token: String::new(),
        }
    }

    pub(crate) async fn next(&mut self) -> Event {
        self.hear().await.unwrap().unwrap()
    }

    async fn hear(&mut self) -> Result<Option<Event>, Status> {
        let Some(message) = timeout(LATE, self.told.message()).await.unwrap()? else {
            return Ok(None);
        };
        if !message.resume_token.is_empty() {
            self.token = message.resume_token;
        }
        Ok(message.event)
    }

    /// A snapshot in however many parts.
    pub(crate) async fn snapshot(&mut self, reason: SnapshotReason) -> WatchSnapshot {
        let mut whole = WatchSnapshot::default();
        loop {
            let Event::Snapshot(part) = self.next().await else {
                panic!("within a snapshot");
            };
            assert_eq!(part.reason(), reason);
            assert_eq!(part.first, whole.users.is_empty() && whole.rooms.is_empty());
            whole.users.extend(part.users);
            whole.rooms.extend(part.rooms);
            if part.last {
                return whole;
            }
        }
    }

    /// So many changes, as `what who [where count]`.
    pub(crate) async fn changes(&mut self, count: usize) -> Vec<String> {
        let mut seen = Vec::new();
        while seen.len() < count {
            seen.push(words(self.next().await));
        }
        seen
    }

    pub(crate) async fn resumed(&mut self) {
        let next = self.next().await;
        assert!(matches!(next, Event::Resumed(_)), "{next:?}");
    }
}

fn words(event: Event) -> String {
    match event {
        Event::User(it) => {
            let lost = it.kind() == user_change::Kind::Lost;
            assert_eq!(it.until.is_some(), lost);
            assert_eq!(it.username, it.user_id.to_uppercase());
            format!("{:?} {}", it.kind(), it.user_id)
        }
        Event::Room(it) => {
            assert_ne!(it.kind(), room_change::Kind::Unspecified);
            assert_eq!(it.username, it.user_id.to_uppercase());
            format!("{:?} {} {} {}", it.kind(), it.user_id, it.room, it.users_count)
        }
        other => panic!("{other:?}"),
    }
}

pub(crate) fn watch(users: &[&str], rooms: &[&str]) -> WatchRequest {
    let owned = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
    WatchRequest {
        namespace: "/chat".to_owned(),
        user_ids: owned(users),
        rooms: owned(rooms),
        resume_token: String::new(),
    }
}

pub(crate) fn resume(request: WatchRequest, token: &str) -> WatchRequest {
    WatchRequest {
        resume_token: token.to_owned(),
        ..request
    }
}

pub(crate) fn online(users: &[PresenceUser]) -> BTreeSet<(&str, bool)> {
    users
        .iter()
        .map(|user| (user.user_id.as_str(), user.online))
        .collect()
}

#[tokio::test]
async fn a_snapshot_then_changes() {
    let mut stage = Stage::set(LONG).await;
    let replica = stage.replica(Settings::default()).await;
    stage
        .report(
            "gate-1",
            vec![connected("a", "ada"), joined("a", "lobby"), connected("b", "bob")],
        )
        .await;
    let mut ear = Ear::at(&replica, watch(&["ada", "eve"], &["lobby", "attic"])).await;
    let snapshot = ear.snapshot(SnapshotReason::Start).await;
    assert_eq!(online(&snapshot.users), [("ada", true), ("eve", false)].into());
    let rooms: BTreeSet<_> = snapshot
        .rooms
        .iter()
        .map(|it| {
            let room = it.room.clone().unwrap();
            (room.room, room.users_count, online(&it.members))
        })
        .collect();
    let wanted = [
        ("attic".to_owned(), 0, [].into()),
        ("lobby".to_owned(), 1, [("ada", true)].into()),
    ];
    assert_eq!(rooms, wanted.into());
    assert_ne!(ear.token, "");

    let deltas = vec![
        joined("b", "lobby"),
        joined("b", "elsewhere"),
        connected("e", "eve"),
        connected("e2", "eve"),
        joined("e", "attic"),
        joined("e2", "attic"),
        connected_in("/", "e3", "eve"),
        left("b", "lobby"),
        disconnected("e"),
        disconnected("e2"),
        connected("e4", "eve"),
        joined("e4", "attic"),
        left("e4", "attic"),
        disconnected("b"),
    ];
    stage.report("gate-1", deltas).await;
    let wanted = [
        "Joined bob lobby 2",
        "Online eve",
        "Joined eve attic 1",
        "Left bob lobby 1",
        "Lost eve",
        "Back eve",
        "Left eve attic 0",
    ];
    assert_eq!(ear.changes(7).await, wanted);
    stage.strike().await;
}

#[tokio::test]
async fn everyone_in_the_namespace() {
    let mut stage = Stage::set(SHORT).await;
    let replica = stage.replica(Settings::default()).await;
    let deltas = (0..1_200).map(|n| connected(&format!("s{n}"), &format!("u{n}")));
    stage.report("gate-1", deltas.collect()).await;
    let mut ear = Ear::at(&replica, watch(&[], &[])).await;
    let snapshot = ear.snapshot(SnapshotReason::Start).await;
    assert_eq!(online(&snapshot.users).len(), 1_200);
    let deltas = vec![
        connected_in("/", "x", "eve"),
        connected("e", "eve"),
        joined("e", "lobby"),
        disconnected("s7"),
    ];
    stage.report("gate-1", deltas).await;
    assert_eq!(ear.changes(3).await, ["Online eve", "Lost u7", "Offline u7"]);
    stage.strike().await;
}

#[tokio::test]
async fn a_large_room_comes_in_parts() {
    let mut stage = Stage::set(LONG).await;
    let replica = stage.replica(Settings::default()).await;
    let deltas = (0..1_300).flat_map(|n| {
        let socket = format!("s{n}");
        [connected(&socket, &format!("u{n}")), joined(&socket, "stadium")]
    });
    stage.report("gate-1", deltas.collect()).await;
    let mut told = replica
        .client()
        .await
        .watch(watch(&[], &["stadium"]))
        .await
        .unwrap()
        .into_inner();
    let (mut parts, mut members) = (0, BTreeSet::new());
    loop {
        let message = timeout(LATE, told.message()).await.unwrap().unwrap().unwrap();
        let Some(Event::Snapshot(part)) = message.event else {
            panic!()
        };
        assert_eq!(part.first, parts == 0);
        assert_eq!(part.last, !message.resume_token.is_empty());
        parts += 1;
        for room in part.rooms {
            assert_eq!(room.room.unwrap().users_count, 1_300);
            members.extend(room.members.into_iter().map(|member| member.user_id));
        }
        if part.last {
            break;
        }
    }
    assert_eq!((parts >= 3, members.len()), (true, 1_300));
    stage.strike().await;
}

#[tokio::test]
async fn taken_up_again_where_it_ended() {
    let mut stage = Stage::set(LONG).await;
    let (first, second) = (
        stage.replica(Settings::default()).await,
        stage.replica(Settings::default()).await,
    );
    let what = || watch(&[], &["lobby"]);
    // Keeps the first replica's feed going.
    let mut other = Ear::at(&first, watch(&["nobody"], &[])).await;
    other.snapshot(SnapshotReason::Start).await;

    let mut ear = Ear::at(&first, what()).await;
    ear.snapshot(SnapshotReason::Start).await;
    let mut number = 0;
    let mut join = async |count: usize| {
        let deltas = (0..count).flat_map(|_| {
            number += 1;
            let name = format!("u{number}");
            [connected(&name, &name), joined(&name, "lobby")]
        });
        stage.report("gate-1", deltas.collect()).await;
    };
    let wanted = |numbers: std::ops::RangeInclusive<usize>| -> Vec<String> {
        numbers.map(|n| format!("Joined u{n} lobby {n}")).collect()
    };
    join(3).await;
    assert_eq!(ear.changes(2).await, wanted(1..=2));
    let token = ear.token.clone();
    drop(ear);
    join(4).await;

    // The same replica has it all, the other reads it from the store; then both go on.
    let mut here = Ear::at(&first, resume(what(), &token)).await;
    let mut there = Ear::at(&second, resume(what(), &token)).await;
    for ear in [&mut here, &mut there] {
        ear.resumed().await;
        assert_eq!(ear.changes(5).await, wanted(3..=7));
    }
    join(3).await;
    for ear in [&mut here, &mut there] {
        assert_eq!(ear.changes(3).await, wanted(8..=10));
    }

    // More than is read at a time.
    join(1_500).await;
    let mut late = Ear::at(&second, resume(what(), &token)).await;
    late.resumed().await;
    assert_eq!(late.changes(1_508).await, wanted(3..=1_510));

    // At the end there is nothing to repeat.
    let mut last = Ear::at(&second, resume(what(), &late.token)).await;
    last.resumed().await;
    join(1).await;
    assert_eq!(last.changes(1).await, wanted(1_511..=1_511));
    stage.strike().await;
}

#[tokio::test]
async fn taken_up_at_another_replica_when_one_stops() {
    let mut stage = Stage::set(LONG).await;
    let (first, second) = (
        stage.replica(Settings::default()).await,
        stage.replica(Settings::default()).await,
    );
    let mut ear = Ear::at(&first, watch(&["ada"], &[])).await;
    ear.snapshot(SnapshotReason::Start).await;
    first.stop();
    let status = ear.hear().await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    stage.report("gate-1", vec![connected("a", "ada")]).await;
    let mut ear = Ear::at(&second, resume(watch(&["ada"], &[]), &ear.token)).await;
    ear.resumed().await;
    assert_eq!(ear.changes(1).await, ["Online ada"]);
    stage.strike().await;
}

#[tokio::test]
async fn what_the_store_no_longer_knows_begins_anew() {
    let mut stage = Stage::set(LONG).await;
    let replica = stage.replica(Settings::default()).await;
    let what = || watch(&["ada"], &[]);
    stage.report("gate-1", vec![connected("a", "ada")]).await;
    let mut ear = Ear::at(&replica, what()).await;
    let snapshot = ear.snapshot(SnapshotReason::Start).await;
    assert_eq!(online(&snapshot.users), [("ada", true)].into());
    let token = ear.token.clone();

    // A watch survives the store's absence, and learns that it came back empty.
    stage.store.set(Mode::Away);
    let refused = replica.client().await.watch(what()).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable);
    stage.store.flush().await;
    stage.begin_anew();
    stage.store.set(Mode::There);
    let snapshot = ear.snapshot(SnapshotReason::StoreReset).await;
    assert_eq!(online(&snapshot.users), [("ada", false)].into());
    stage.report("gate-1", vec![connected("a", "ada")]).await;
    assert_eq!(ear.changes(1).await, ["Online ada"]);

    let mut late = Ear::at(&replica, resume(what(), &token)).await;
    let snapshot = late.snapshot(SnapshotReason::ResumeExpired).await;
    assert_eq!(online(&snapshot.users), [("ada", true)].into());

    // The token is for those users only.
    let status = replica
        .client()
        .await
        .watch(resume(watch(&["bob"], &[]), &token))
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    stage.strike().await;
}

#[tokio::test]
async fn a_store_that_was_away_costs_nothing() {
    let mut stage = Stage::set(LONG).await;
    let replica = stage.replica(Settings::default()).await;
    let mut ear = Ear::at(&replica, watch(&["ada"], &[])).await;
    ear.snapshot(SnapshotReason::Start).await;
    stage.store.set(Mode::Away);
    tokio::time::sleep(Duration::from_millis(1_200)).await;
    stage.store.set(Mode::There);
    stage.report("gate-1", vec![connected("a", "ada")]).await;
    assert_eq!(ear.changes(1).await, ["Online ada"]);
    stage.strike().await;
}

#[tokio::test]
async fn a_slow_watcher_is_told_and_begins_anew() {
    let mut stage = Stage::set(LONG).await;
    let replica = stage
        .replica(Settings {
            watch_buffer: 50,
            ..Settings::default()
        })
        .await;
    let channel = replica
        .endpoint()
        .initial_stream_window_size(16_384)
        .initial_connection_window_size(65_535)
        .connect()
        .await
        .unwrap();
    let mut client = proto::v1::presence_client::PresenceClient::new(channel);
    let told = client.watch(watch(&[], &[])).await.unwrap().into_inner();
    let mut ear = Ear {
        told,
        token: String::new(),
    };
    ear.snapshot(SnapshotReason::Start).await;
    // Far more bytes than queue, windows and the server's buffers take.
    let name = |n: usize| format!("{n:04}{}", "x".repeat(120));
    for some in 0..400 {
        let deltas = (some * 20..(some + 1) * 20).map(|n| connected(&name(n), &name(n)));
        stage.report("gate-1", deltas.collect()).await;
    }
    let mut next = 0;
    let missed = loop {
        match ear.next().await {
            Event::User(change) => {
                assert_eq!(change.user_id, name(next), "no gap before the word of it");
                next += 1;
            }
            Event::Lagged(lagged) => break lagged.missed,
            other => panic!("{other:?}"),
        }
    };
    assert!(missed > 0);
    let mut snapshot = ear.snapshot(SnapshotReason::Lagged).await;
    // It may lag again while it catches up.
    while online(&snapshot.users).len() < 8_000 {
        while !matches!(ear.next().await, Event::Lagged(_)) {}
        snapshot = ear.snapshot(SnapshotReason::Lagged).await;
    }
    stage.report("gate-1", vec![connected("a", "ada")]).await;
    loop {
        if words(ear.next().await) == "Online ada" {
            break;
        }
    }
    stage.strike().await;
}

#[tokio::test]
async fn a_quiet_watch_keeps_its_token_fresh() {
    let mut stage = Stage::set(LONG).await;
    let replica = stage.replica(Settings::default()).await;
    let mut ear = Ear::at(&replica, watch(&["ada"], &[])).await;
    ear.snapshot(SnapshotReason::Start).await;
    let before = ear.token.clone();
    for some in 0..6 {
        let deltas = (0..1_000).map(|n| connected(&format!("{some}-{n}"), &format!("{some}-{n}")));
        stage.report("gate-1", deltas.collect()).await;
    }
    let next = ear.next().await;
    assert!(matches!(next, Event::Progress(_)), "{next:?}");
    assert_ne!(ear.token, before);
    stage.report("gate-1", vec![connected("a", "ada")]).await;
    assert_eq!(ear.changes(1).await, ["Online ada"]);
    stage.strike().await;
}

#[tokio::test]
async fn a_deadline_ends_a_watch() {
    let stage = Stage::set(LONG).await;
    let replica = stage.replica(Settings::default()).await;
    let mut request = Request::new(watch(&["ada"], &[]));
    request.set_timeout(Duration::from_secs(2));
    let told = replica.client().await.watch(request).await.unwrap().into_inner();
    let mut ear = Ear {
        told,
        token: String::new(),
    };
    ear.snapshot(SnapshotReason::Start).await;
    assert_eq!(ear.hear().await.unwrap_err().code(), Code::DeadlineExceeded);
    stage.strike().await;
}

#[tokio::test]
async fn who_has_gone_leaves_nothing_behind() {
    let stage = Stage::set(LONG).await;
    let replica = stage.replica(Settings::default()).await;
    for _ in 0..10 {
        let mut ear = Ear::at(&replica, watch(&["ada"], &[])).await;
        ear.snapshot(SnapshotReason::Start).await;
    }
    let gone = async {
        while stage.running().contains("presence watch") {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(LATE, gone).await.unwrap();
    stage.strike().await;
}
