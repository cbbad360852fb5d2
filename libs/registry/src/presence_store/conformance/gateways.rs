//! Batches that follow or do not, snapshots, and gateways that die.

use super::{
    GRACE, LEASE,
    words::{
        LEFT, apply, changes, connected, disconnected, ended, gateway, in_rooms, joined, namespace, restored,
        stays,
    },
};
use std::time::Duration;

use model::{GatewayId, RoomName};

use crate::presence_store::{Applied, Batch, Outcome, PresenceStore, RoomChange, Stats};

pub(super) async fn only_a_batch_that_follows_is_applied(store: &dyn PresenceStore) {
    let a = gateway(1);
    let batch = |number, deltas| Batch {
        gateway: a.clone(),
        number,
        snapshot: false,
        deltas,
    };
    let join = || vec![connected("s1", "ada"), joined("s1", "r")];
    for number in [0, 2, u64::MAX] {
        let outcome = store.apply(batch(number, join()), 0, GRACE).await.unwrap();
        assert_eq!(outcome, Outcome::NeedSnapshot { applied: 0 });
    }
    assert_eq!(store.stats().await.unwrap(), Stats::default());
    apply(store, &a, 1, join()).await;
    // The last one again: its answer was lost.
    let again = store.apply(batch(1, join()), 0, GRACE).await.unwrap();
    assert_eq!(
        again,
        Outcome::Applied(Applied {
            users_counts: vec![1],
            transitions: Vec::new()
        })
    );
    let outcome = store
        .apply(batch(3, vec![disconnected("s1")]), 0, GRACE)
        .await
        .unwrap();
    assert_eq!(outcome, Outcome::NeedSnapshot { applied: 1 });
    assert_eq!(
        store.stats().await.unwrap(),
        Stats {
            connections: 1,
            users: 1,
            rooms: 1
        }
    );
}

pub(super) async fn a_snapshot_replaces_what_the_gateway_held(store: &dyn PresenceStore) {
    let (a, b) = (gateway(1), gateway(2));
    apply(store, &b, 1, vec![connected("s9", "zoe"), joined("s9", "r")]).await;
    apply(
        store,
        &a,
        1,
        vec![
            connected("s1", "ada"),
            joined("s1", "r"),
            joined("s1", "old"),
            connected("s2", "bob"),
            joined("s2", "r"),
        ],
    )
    .await;
    let snapshot = Batch {
        gateway: a.clone(),
        number: 7,
        snapshot: true,
        deltas: vec![
            connected("s1", "ada"),
            joined("s1", "r"),
            joined("s1", "new"),
            connected("s3", "cy"),
            joined("s3", "r"),
        ],
    };
    let Outcome::Applied(got) = store.apply(snapshot.clone(), 0, GRACE).await.unwrap() else {
        panic!("a snapshot is always taken")
    };
    assert_eq!(got.users_counts, [3, 1, 4]);
    let happened = in_rooms(&got.transitions);
    let seen: Vec<_> = happened
        .iter()
        .map(|t| (t.user.as_str(), t.room.as_str(), t.change.clone()))
        .collect();
    assert_eq!(
        seen,
        [
            ("bob", "r", RoomChange::Lost { until_ms: 5_000 }),
            ("ada", "old", LEFT),
            ("ada", "new", RoomChange::Joined { online_ms: 1 }),
            ("cy", "r", RoomChange::Joined { online_ms: 3 }),
        ]
    );
    assert_eq!(
        store.stats().await.unwrap(),
        Stats {
            connections: 3,
            users: 3,
            rooms: 2
        }
    );
    let Outcome::Applied(got) = store.apply(snapshot, 0, GRACE).await.unwrap() else {
        panic!("a snapshot is always taken")
    };
    assert_eq!(got.transitions, [], "the same once more changes nothing");
    apply(store, &a, 8, vec![disconnected("s3")]).await;
}

pub(super) async fn what_was_told_before_is_not_told_again(store: &dyn PresenceStore) {
    let life = store.life().await.unwrap();
    let (a, b) = (gateway(1), gateway(2));
    let snapshot = |gateway: &GatewayId, number, deltas| Batch {
        gateway: gateway.clone(),
        number,
        snapshot: true,
        deltas,
    };
    let told = async |batch: Batch| {
        let Outcome::Applied(got) = store.apply(batch, 0, GRACE).await.unwrap() else {
            panic!("a snapshot is always taken")
        };
        assert_eq!(got.users_counts, [], "of joins only");
        changes(&got)
    };
    // The store has lost ada, and has never known that bob joined.
    let deltas = vec![
        connected("s1", "ada"),
        restored("s1", "r"),
        restored("s1", "user:ada"),
    ];
    assert_eq!(
        told(snapshot(&a, 7, deltas)).await,
        [("ada".to_owned(), 1, RoomChange::Restored)]
    );
    let deltas = vec![
        connected("s2", "ada"),
        restored("s2", "r"),
        connected("s3", "bob"),
        stays("s3", "r"),
        stays("s3", "r"),
    ];
    assert_eq!(
        told(snapshot(&b, 9, deltas.clone())).await,
        [("bob".to_owned(), 2, RoomChange::Joined { online_ms: 3 })]
    );
    assert_eq!(told(snapshot(&b, 9, deltas)).await, []);
    let info = store.room(&namespace(), &RoomName::stored("r")).await.unwrap();
    assert_eq!((info.users_count, info.sockets_count), (2, 3));
    // Back within the grace: the room has heard of nothing.
    apply(store, &b, 10, vec![disconnected("s3")]).await;
    let deltas = vec![
        connected("s2", "ada"),
        stays("s2", "r"),
        connected("s4", "bob"),
        stays("s4", "r"),
    ];
    assert_eq!(told(snapshot(&b, 11, deltas)).await, []);
    assert_eq!(ended(store, 99_999).await, []);
    assert_eq!(store.life().await.unwrap(), life);
}

/// What a room of many is told of its members is told by one replica, once in a while.
pub(super) async fn turns_to_tell_come_once_in_a_pause(store: &dyn PresenceStore) {
    let joins = vec![connected("s1", "ada"), joined("s1", "r"), joined("s1", "other")];
    apply(store, &gateway(1), 1, joins).await;
    let pause = Duration::from_secs(60);
    let (chat, room, other) = (namespace(), RoomName::stored("r"), RoomName::stored("other"));
    let turn = async |room, now_ms| store.turn_to_tell(&chat, room, now_ms, pause).await.unwrap();
    assert_eq!(turn(&room, 0).await, Some(1));
    assert_eq!(turn(&room, 0).await, None);
    assert_eq!(turn(&room, 59_999).await, None);
    assert_eq!(turn(&other, 0).await, Some(1));
    let nobody = RoomName::stored("nobody's");
    assert_eq!(turn(&nobody, 0).await, Some(0));
}

pub(super) async fn a_dead_gateway_goes_as_one(store: &dyn PresenceStore) {
    let (a, b) = (gateway(1), gateway(2));
    let deltas = vec![
        connected("s1", "ada"),
        joined("s1", "r"),
        connected("s2", "bob"),
        joined("s2", "r"),
    ];
    apply(store, &a, 1, deltas).await;
    apply(store, &b, 1, vec![connected("s3", "ada"), joined("s3", "r")]).await;
    assert!(!store.touch(&gateway(3), 0).await.unwrap());
    assert!(store.touch(&b, 7_999).await.unwrap());
    assert_eq!(store.expire(7_999, LEASE, GRACE).await.unwrap(), []);
    let expired = store.expire(8_000, LEASE, GRACE).await.unwrap();
    assert_eq!(expired.len(), 1);
    assert_eq!((&expired[0].gateway, expired[0].sockets), (&a, 2));
    let happened = in_rooms(&expired[0].transitions);
    let seen: Vec<_> = happened
        .iter()
        .map(|t| (t.user.as_str(), t.change.clone()))
        .collect();
    assert_eq!(
        seen,
        [("bob", RoomChange::Lost { until_ms: 13_000 })],
        "ada has a socket elsewhere"
    );
    assert_eq!(
        store.expire(8_001, LEASE, GRACE).await.unwrap(),
        [],
        "each is reported once"
    );
    assert_eq!(
        store.stats().await.unwrap(),
        Stats {
            connections: 1,
            users: 1,
            rooms: 1
        }
    );
    // It was only frozen: it is unknown now and starts over with a snapshot.
    let late = Batch {
        gateway: a.clone(),
        number: 2,
        snapshot: false,
        deltas: Vec::new(),
    };
    assert_eq!(
        store.apply(late, 8_002, GRACE).await.unwrap(),
        Outcome::NeedSnapshot { applied: 0 }
    );
    let deltas = vec![connected("s2", "bob"), joined("s2", "r")];
    let snapshot = Batch {
        gateway: a,
        number: 3,
        snapshot: true,
        deltas,
    };
    let Outcome::Applied(got) = store.apply(snapshot, 8_003, GRACE).await.unwrap() else {
        panic!("a snapshot is always taken")
    };
    assert_eq!(
        changes(&got),
        [(
            "bob".to_owned(),
            2,
            RoomChange::JoinedAgain { socket: "s2".into() }
        )]
    );
    assert_eq!(ended(store, 99_999).await, []);
}
