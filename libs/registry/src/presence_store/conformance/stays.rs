//! Users' stays in rooms: when they begin, last and end.

use model::RoomName;

use super::words::{
    LEFT, apply, changes, connected, disconnected, ended, gateway, in_rooms, joined, left, listed_users,
    namespace,
};
use crate::presence_store::{Applied, PresenceStore, RoomChange, Stats};

pub(super) async fn users_are_counted_not_sockets(store: &dyn PresenceStore) {
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
    let again = RoomChange::JoinedAgain { socket: "s2".into() };
    assert_eq!(
        changes(&got),
        [
            ("ada".to_owned(), 1, RoomChange::Joined { online_ms: 1 }),
            ("ada".to_owned(), 1, again),
            ("bob".to_owned(), 2, RoomChange::Joined { online_ms: 3 }),
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

pub(super) async fn a_stay_lasts_through_the_grace(store: &dyn PresenceStore) {
    let a = gateway(1);
    let deltas = vec![
        connected("s1", "ada"),
        joined("s1", "r"),
        connected("s2", "bob"),
        joined("s2", "r"),
    ];
    apply(store, &a, 1, deltas).await;
    let got = apply(store, &a, 2, vec![disconnected("s1"), disconnected("s2")]).await;
    let lost = RoomChange::Lost { until_ms: 5_000 };
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
        [(
            "ada".to_owned(),
            2,
            RoomChange::JoinedAgain { socket: "s3".into() }
        )]
    );
    assert_eq!(ended(store, 4_999).await, []);
    let left = ended(store, 5_000).await;
    assert_eq!(left.len(), 1);
    assert_eq!(
        (left[0].user.as_str(), &*left[0].username, left[0].users_count),
        ("bob", "Name of bob", 1)
    );
    let offline_ms = Some(5_000);
    assert_eq!(left[0].change, RoomChange::Left { offline_ms });
    assert_eq!(ended(store, 99_999).await, [], "each is handed out once");
    assert_eq!(listed_users(store, "r").await, [("ada".to_owned(), 3)]);
}

pub(super) async fn leaving_on_purpose_ends_the_stay_at_once(store: &dyn PresenceStore) {
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
    assert_eq!(changes(&got), [("ada".to_owned(), 0, LEFT)]);
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
    let kinds: Vec<_> = in_rooms(&got.transitions)
        .into_iter()
        .map(|transition| transition.change)
        .collect();
    let again = RoomChange::JoinedAgain { socket: "s2".into() };
    assert_eq!(
        kinds,
        [
            RoomChange::Joined { online_ms: 1 },
            RoomChange::Lost { until_ms: 5_000 },
            again,
            LEFT
        ]
    );
    assert_eq!(ended(store, 99_999).await, []);
}

pub(super) async fn reserved_rooms_are_neither_announced_nor_counted(store: &dyn PresenceStore) {
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
        (got.users_counts.as_slice(), changes(&got)),
        (&[1, 1, 1][..], vec![])
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
    assert_eq!(changes(&got), []);
    assert_eq!(
        store
            .room(&namespace(), &RoomName::stored("user:ada"))
            .await
            .unwrap()
            .users_count,
        0
    );
    assert_eq!(ended(store, 99_999).await, []);
}

pub(super) async fn deltas_that_say_nothing_new_change_nothing(store: &dyn PresenceStore) {
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
        [("ada".to_owned(), 1, RoomChange::Lost { until_ms: 5_000 })]
    );
}
