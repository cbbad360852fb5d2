//! What every engine of [`PresenceStore`] must do: checks of single rules, and a random history held
//! against a naive model that keeps plain lists and counts by looking at all of them.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a check reports by panicking")]

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use model::{GatewayId, Namespace, RoomName, UserId};

use super::{
    Applied, Batch, Change, Delta, OnlineUser, Outcome, Page, PageRequest, PresenceStore, Socket, SocketKey,
    Stats,
};

mod naive;
mod words;

pub use naive::{Step, agrees_with_the_naive_truth};
use words::{connected, disconnected, gateway, joined, left, namespace, socket};

const GRACE: Duration = Duration::from_secs(5);
const LEASE: Duration = Duration::from_secs(8);

/// Runs every check, each on an empty store of its own.
///
/// # Panics
/// When the engine does not conform.
pub async fn all(fresh: impl AsyncFn() -> Arc<dyn PresenceStore>) {
    users_are_counted_not_sockets(&*fresh().await).await;
    a_stay_lasts_through_the_grace(&*fresh().await).await;
    leaving_on_purpose_ends_the_stay_at_once(&*fresh().await).await;
    only_a_batch_that_follows_is_applied(&*fresh().await).await;
    a_snapshot_replaces_what_the_gateway_held(&*fresh().await).await;
    a_dead_gateway_goes_as_one(&*fresh().await).await;
    reserved_rooms_are_neither_announced_nor_counted(&*fresh().await).await;
    deltas_that_say_nothing_new_change_nothing(&*fresh().await).await;
    pages_hold_everyone_who_stays_once(&*fresh().await).await;
    sockets_and_rooms_of_a_user(&*fresh().await).await;
    for seed in 0..16u32 {
        let steps: Vec<Step> = (0..400u32)
            .map(|n| Step::decode((n ^ (seed << 16)).wrapping_mul(0x9e37_79b9).rotate_left(seed)))
            .collect();
        agrees_with_the_naive_truth(&*fresh().await, &steps).await;
    }
}

async fn users_are_counted_not_sockets(store: &dyn PresenceStore) {
    let a = gateway(1);
    let got = apply(
        store,
        &a,
        1,
        vec![
            connected("s1", "ada"),
            joined("s1", "r"),
            connected("s2", "ada"),
            joined("s2", "r"),
            connected("s3", "bob"),
            joined("s3", "r"),
        ],
    )
    .await;
    assert_eq!(got.users_counts, [1, 1, 2]);
    let again = Change::JoinedAgain { socket: "s2".into() };
    assert_eq!(
        changes(&got),
        [
            ("ada".to_owned(), 1, Change::Joined),
            ("ada".to_owned(), 1, again),
            ("bob".to_owned(), 2, Change::Joined),
        ]
    );
    // A further gateway's socket of the same user is no further user either.
    let got = apply(
        store,
        &gateway(2),
        1,
        vec![connected("s4", "ada"), joined("s4", "r")],
    )
    .await;
    assert_eq!(got.users_counts, [2]);
    assert_eq!(
        store.stats().await.unwrap(),
        Stats {
            connections: 4,
            users: 2,
            rooms: 1
        }
    );
}

async fn a_stay_lasts_through_the_grace(store: &dyn PresenceStore) {
    let a = gateway(1);
    let deltas = vec![
        connected("s1", "ada"),
        joined("s1", "r"),
        connected("s2", "bob"),
        joined("s2", "r"),
    ];
    apply(store, &a, 1, deltas).await;
    let got = apply(store, &a, 2, vec![disconnected("s1"), disconnected("s2")]).await;
    let lost = Change::Lost { until_ms: 5_000 };
    assert_eq!(
        changes(&got),
        [("ada".to_owned(), 2, lost.clone()), ("bob".to_owned(), 2, lost)]
    );
    assert_eq!(
        store.stats().await.unwrap(),
        Stats {
            connections: 0,
            users: 0,
            rooms: 1
        }
    );
    assert_eq!(
        listed_users(store, "r").await,
        [("ada".to_owned(), 1), ("bob".to_owned(), 2)]
    );
    // Back in time, on another gateway: the stay goes on.
    let got = apply(
        store,
        &gateway(2),
        1,
        vec![connected("s3", "ada"), joined("s3", "r")],
    )
    .await;
    assert_eq!(
        changes(&got),
        [("ada".to_owned(), 2, Change::JoinedAgain { socket: "s3".into() })]
    );
    assert_eq!(store.due(4_999, 10).await.unwrap(), []);
    let left = store.due(5_000, 10).await.unwrap();
    assert_eq!(left.len(), 1);
    assert_eq!(
        (left[0].user.as_str(), &*left[0].username, left[0].users_count),
        ("bob", "Name of bob", 1)
    );
    assert_eq!(left[0].change, Change::Left);
    assert_eq!(
        store.due(99_999, 10).await.unwrap(),
        [],
        "each is handed out once"
    );
    assert_eq!(listed_users(store, "r").await, [("ada".to_owned(), 3)]);
}

async fn leaving_on_purpose_ends_the_stay_at_once(store: &dyn PresenceStore) {
    let a = gateway(1);
    let deltas = vec![
        connected("s1", "ada"),
        joined("s1", "r"),
        connected("s2", "ada"),
        joined("s2", "r"),
    ];
    apply(store, &a, 1, deltas).await;
    assert_eq!(
        apply(store, &a, 2, vec![left("s1", "r")]).await,
        Applied::default()
    );
    let got = apply(store, &a, 3, vec![left("s2", "r")]).await;
    assert_eq!(changes(&got), [("ada".to_owned(), 0, Change::Left)]);
    assert_eq!(
        store.stats().await.unwrap(),
        Stats {
            connections: 2,
            users: 1,
            rooms: 0
        }
    );
    let got = apply(
        store,
        &a,
        4,
        vec![
            joined("s1", "r"),
            disconnected("s1"),
            joined("s2", "r"),
            left("s2", "r"),
        ],
    )
    .await;
    let kinds: Vec<_> = got
        .transitions
        .into_iter()
        .map(|transition| transition.change)
        .collect();
    let again = Change::JoinedAgain { socket: "s2".into() };
    assert_eq!(
        kinds,
        [
            Change::Joined,
            Change::Lost { until_ms: 5_000 },
            again,
            Change::Left
        ]
    );
    assert_eq!(store.due(99_999, 10).await.unwrap(), []);
}

async fn only_a_batch_that_follows_is_applied(store: &dyn PresenceStore) {
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

async fn a_snapshot_replaces_what_the_gateway_held(store: &dyn PresenceStore) {
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
    let seen: Vec<_> = got
        .transitions
        .iter()
        .map(|t| (t.user.as_str(), t.room.as_str(), t.change.clone()))
        .collect();
    assert_eq!(
        seen,
        [
            ("bob", "r", Change::Lost { until_ms: 5_000 }),
            ("ada", "old", Change::Left),
            ("ada", "new", Change::Joined),
            ("cy", "r", Change::Joined),
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

async fn a_dead_gateway_goes_as_one(store: &dyn PresenceStore) {
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
    let seen: Vec<_> = expired[0]
        .transitions
        .iter()
        .map(|t| (t.user.as_str(), t.change.clone()))
        .collect();
    assert_eq!(
        seen,
        [("bob", Change::Lost { until_ms: 13_000 })],
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
        [("bob".to_owned(), 2, Change::JoinedAgain { socket: "s2".into() })]
    );
    assert_eq!(store.due(99_999, 10).await.unwrap(), []);
}

async fn reserved_rooms_are_neither_announced_nor_counted(store: &dyn PresenceStore) {
    let a = gateway(1);
    let got = apply(
        store,
        &a,
        1,
        vec![
            connected("s1", "ada"),
            joined("s1", "user:ada"),
            joined("s1", "\u{1}socket:s1"),
            connected("s2", "ada"),
            joined("s2", "user:ada"),
        ],
    )
    .await;
    assert_eq!(
        got,
        Applied {
            users_counts: vec![1, 1, 1],
            transitions: Vec::new()
        }
    );
    assert_eq!(
        store.stats().await.unwrap(),
        Stats {
            connections: 2,
            users: 1,
            rooms: 0
        }
    );
    let got = apply(
        store,
        &a,
        2,
        vec![
            left("s1", "\u{1}socket:s1"),
            disconnected("s1"),
            disconnected("s2"),
        ],
    )
    .await;
    assert_eq!(got, Applied::default());
    assert_eq!(
        store
            .room_count(&namespace(), &RoomName::stored("user:ada"))
            .await
            .unwrap(),
        0
    );
    assert_eq!(store.due(99_999, 10).await.unwrap(), []);
}

async fn deltas_that_say_nothing_new_change_nothing(store: &dyn PresenceStore) {
    let a = gateway(1);
    apply(store, &a, 1, vec![connected("s1", "ada"), joined("s1", "r")]).await;
    let got = apply(
        store,
        &a,
        2,
        vec![
            connected("s1", "ada"),
            joined("s1", "r"),
            joined("nobody", "r"),
            left("s1", "elsewhere"),
            left("nobody", "r"),
            disconnected("nobody"),
        ],
    )
    .await;
    assert_eq!(
        got,
        Applied {
            users_counts: vec![1, 1],
            transitions: Vec::new()
        }
    );
    // Another gateway has no say about it.
    apply(store, &gateway(2), 1, vec![left("s1", "r"), disconnected("s1")]).await;
    assert_eq!(
        store.stats().await.unwrap(),
        Stats {
            connections: 1,
            users: 1,
            rooms: 1
        }
    );
    // The id of a socket with another user is another socket.
    let got = apply(store, &a, 3, vec![connected("s1", "bob")]).await;
    assert_eq!(
        changes(&got),
        [("ada".to_owned(), 1, Change::Lost { until_ms: 5_000 })]
    );
}

async fn pages_hold_everyone_who_stays_once(store: &dyn PresenceStore) {
    let a = gateway(1);
    let mut deltas = Vec::new();
    for n in 0..25 {
        deltas.push(connected(&format!("s{n}"), &format!("u{n}")));
        deltas.push(joined(&format!("s{n}"), "r"));
    }
    apply(store, &a, 1, deltas).await;
    let room = RoomName::stored("r");
    let mut seen = Vec::new();
    let mut after = None;
    let mut number = 1;
    loop {
        let Page { items, next } = store
            .room_users(&namespace(), &room, PageRequest { after, limit: 4 })
            .await
            .unwrap();
        assert!(items.len() <= 4);
        seen.extend(items.into_iter().map(|user| user.user.as_str().to_owned()));
        // One of the first 20 goes, and someone new comes.
        let (gone, new) = (format!("s{number}"), format!("n{number}"));
        number += 1;
        apply(
            store,
            &a,
            number,
            vec![left(&gone, "r"), connected(&new, &new), joined(&new, "r")],
        )
        .await;
        after = next;
        if after.is_none() {
            break;
        }
    }
    for n in 20..25 {
        assert_eq!(seen.iter().filter(|user| **user == format!("u{n}")).count(), 1);
    }
    let distinct: BTreeSet<_> = seen.iter().collect();
    assert_eq!(distinct.len(), seen.len(), "nobody twice");
    let all = store
        .online_users(
            &namespace(),
            PageRequest {
                after: None,
                limit: 1_000,
            },
        )
        .await
        .unwrap();
    assert_eq!((all.items.len() as u64, all.next), (24 + number, None));
    let page = PageRequest {
        after: None,
        limit: 9,
    };
    let empty = store
        .room_users(&namespace(), &RoomName::stored("none"), page)
        .await;
    assert_eq!(
        empty.unwrap(),
        Page {
            items: Vec::new(),
            next: None
        }
    );
}

async fn sockets_and_rooms_of_a_user(store: &dyn PresenceStore) {
    let (a, b) = (gateway(1), gateway(2));
    let deltas = vec![
        connected("s2", "ada"),
        joined("s2", "x"),
        joined("s2", "y"),
        connected("s3", "bob"),
    ];
    apply(store, &a, 1, deltas).await;
    apply(
        store,
        &b,
        1,
        vec![connected("s1", "ada"), joined("s1", "x"), joined("s1", "a")],
    )
    .await;
    let ada = UserId::new("ada").unwrap();
    let sockets = store.user_sockets(&namespace(), &ada).await.unwrap();
    let seen: Vec<_> = sockets
        .iter()
        .map(|held| (&held.gateway, &*held.socket.key.id))
        .collect();
    assert_eq!(seen, [(&b, "s1"), (&a, "s2")], "oldest first");
    assert_eq!(
        Delta::Connected(sockets[1].socket.clone()),
        connected("s2", "ada")
    );
    let rooms = store.user_rooms(&namespace(), &ada).await.unwrap();
    assert_eq!(
        rooms.iter().map(RoomName::as_str).collect::<Vec<_>>(),
        ["a", "x", "y"]
    );
    let elsewhere = Namespace::new("/elsewhere").unwrap();
    assert_eq!(store.user_sockets(&elsewhere, &ada).await.unwrap(), []);
    assert_eq!(store.user_rooms(&elsewhere, &ada).await.unwrap(), []);
    let online = store
        .online_users(
            &namespace(),
            PageRequest {
                after: None,
                limit: 1,
            },
        )
        .await
        .unwrap();
    let first = OnlineUser {
        user: ada,
        username: "Name of ada".into(),
        connected_at_ms: 1,
    };
    assert_eq!(online.items, [first]);
    assert!(online.next.is_some());
}

/// Applies a batch that follows, at time 0.
async fn apply(store: &dyn PresenceStore, gateway: &GatewayId, number: u64, deltas: Vec<Delta>) -> Applied {
    let batch = Batch {
        gateway: gateway.clone(),
        number,
        snapshot: false,
        deltas,
    };
    match store.apply(batch, 0, GRACE).await.unwrap() {
        Outcome::Applied(applied) => applied,
        Outcome::NeedSnapshot { applied } => panic!("number {number} follows {applied}"),
    }
}

async fn listed_users(store: &dyn PresenceStore, room: &str) -> Vec<(String, u64)> {
    let page = PageRequest {
        after: None,
        limit: 100,
    };
    let users = store
        .room_users(&namespace(), &RoomName::stored(room), page)
        .await
        .unwrap();
    let mut users: Vec<_> = users
        .items
        .into_iter()
        .map(|user| (user.user.as_str().to_owned(), user.connected_at_ms))
        .collect();
    users.sort();
    users
}

fn changes(applied: &Applied) -> Vec<(String, u32, Change)> {
    let transitions = applied.transitions.iter();
    transitions
        .map(|t| (t.user.as_str().to_owned(), t.users_count, t.change.clone()))
        .collect()
}
