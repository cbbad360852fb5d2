//! Questions and their pages.

use std::collections::BTreeSet;

use model::{Namespace, RoomName, UserId};

use super::words::{apply, connected, disconnected, gateway, joined, key_in, left, namespace, socket};
use crate::presence_store::{
    Batch, Delta, OnlineUser, Outcome, Page, PageRequest, PresenceStore, RoomInfo, Stats, StatsBreakdown,
};

pub(super) async fn pages_hold_everyone_who_stays_once(store: &dyn PresenceStore) {
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

pub(super) async fn sockets_and_rooms_of_a_user(store: &dyn PresenceStore) {
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

pub(super) async fn rooms_are_listed_with_their_counts(store: &dyn PresenceStore) {
    let a = gateway(1);
    let mut deltas = vec![
        connected("s1", "ada"),
        connected("s2", "ada"),
        connected("s3", "bob"),
    ];
    for n in 0..9 {
        deltas.push(joined("s1", &format!("r{n}")));
    }
    deltas.extend([joined("s2", "r3"), joined("s3", "r3"), joined("s1", "user:ada")]);
    apply(store, &a, 1, deltas).await;
    let info = |room: &str, users_count, sockets_count| RoomInfo {
        room: RoomName::stored(room),
        users_count,
        sockets_count,
    };
    let asked = store.room(&namespace(), &RoomName::stored("r3")).await.unwrap();
    assert_eq!(asked, info("r3", 2, 3));
    let asked = store.room(&namespace(), &RoomName::stored("none")).await.unwrap();
    assert_eq!(asked, info("none", 0, 0));
    let asked = store
        .room(&namespace(), &RoomName::stored("user:ada"))
        .await
        .unwrap();
    assert_eq!(asked, info("user:ada", 1, 0));
    let mut seen = Vec::new();
    let mut after = None;
    let mut number = 1;
    loop {
        let page = PageRequest { after, limit: 2 };
        let Page { items, next } = store.list_rooms(&namespace(), page).await.unwrap();
        assert!(items.len() <= 2);
        seen.extend(items);
        number += 1;
        // A room begins, and one of the first 3 ends.
        let (new, old) = (format!("a{number}"), format!("r{}", number - 2));
        let deltas = if number < 5 {
            vec![joined("s3", &new), left("s1", &old)]
        } else {
            Vec::new()
        };
        apply(store, &a, number, deltas).await;
        after = next;
        if after.is_none() {
            break;
        }
    }
    for n in 4..9 {
        let room = info(&format!("r{n}"), 1, 1);
        assert_eq!(seen.iter().filter(|seen| **seen == room).count(), 1);
    }
    let distinct: BTreeSet<_> = seen.iter().map(|info| &info.room).collect();
    assert_eq!(distinct.len(), seen.len(), "no room twice");
    // Within the grace there are members without sockets.
    apply(
        store,
        &a,
        number + 1,
        vec![disconnected("s1"), disconnected("s2"), disconnected("s3")],
    )
    .await;
    let asked = store.room(&namespace(), &RoomName::stored("r3")).await.unwrap();
    assert_eq!(asked, info("r3", 2, 0));
    let elsewhere = Namespace::new("/elsewhere").unwrap();
    let nothing = store
        .list_rooms(
            &elsewhere,
            PageRequest {
                after: None,
                limit: 5,
            },
        )
        .await
        .unwrap();
    assert_eq!((nothing.items, nothing.next), (vec![], None));
}

pub(super) async fn many_users_are_looked_up_at_once(store: &dyn PresenceStore) {
    let deltas = vec![
        connected("s1", "ada"),
        connected("s3", "bob"),
        connected("s2", "bob"),
    ];
    apply(store, &gateway(1), 1, deltas).await;
    apply(store, &gateway(1), 2, vec![disconnected("s1")]).await;
    let users = ["bob", "nobody", "ada", "bob"].map(|user| UserId::new(user).unwrap());
    let bob = || {
        Some(OnlineUser {
            user: UserId::new("bob").unwrap(),
            username: "Name of bob".into(),
            connected_at_ms: 2,
        })
    };
    let found = store.users_online(&namespace(), &users).await.unwrap();
    assert_eq!(found, [bob(), None, None, bob()]);
    assert_eq!(store.users_online(&namespace(), &[]).await.unwrap(), []);
    let elsewhere = Namespace::new("/elsewhere").unwrap();
    assert_eq!(store.users_online(&elsewhere, &users[..1]).await.unwrap(), [None]);
}

pub(super) async fn counts_by_namespace_and_gateway(store: &dyn PresenceStore) {
    assert_eq!(store.stats_breakdown().await.unwrap(), StatsBreakdown::default());
    let (chat, root) = (namespace(), Namespace::new("/").unwrap());
    let in_root = key_in("/", "s9");
    let deltas = vec![
        connected("s1", "ada"),
        joined("s1", "r"),
        Delta::Connected(socket(in_root.clone(), "ada")),
        Delta::Joined(in_root, RoomName::stored("r")),
    ];
    apply(store, &gateway(2), 1, deltas).await;
    apply(
        store,
        &gateway(1),
        1,
        vec![connected("s2", "ada"), connected("s3", "bob")],
    )
    .await;
    apply(store, &gateway(3), 1, vec![]).await;
    let stats = |connections, users, rooms| Stats {
        connections,
        users,
        rooms,
    };
    let expected = StatsBreakdown {
        all: stats(4, 2, 2),
        namespaces: vec![(root.clone(), stats(1, 1, 1)), (chat.clone(), stats(3, 2, 1))],
        gateways: vec![
            (gateway(1), stats(2, 2, 0)),
            (gateway(2), stats(2, 1, 2)),
            (gateway(3), stats(0, 0, 0)),
        ],
    };
    assert_eq!(store.stats_breakdown().await.unwrap(), expected);
    // Nobody is left, but the room is still in the grace.
    let empty = |number| Batch {
        gateway: gateway(number),
        number: 2,
        snapshot: true,
        deltas: vec![],
    };
    for number in 1..3 {
        let outcome = store.apply(empty(number), 0, super::GRACE).await.unwrap();
        assert!(matches!(outcome, Outcome::Applied(_)));
    }
    let expected = StatsBreakdown {
        all: stats(0, 0, 2),
        namespaces: vec![(root, stats(0, 0, 1)), (chat, stats(0, 0, 1))],
        gateways: (1..4).map(|n| (gateway(n), Stats::default())).collect(),
    };
    assert_eq!(store.stats_breakdown().await.unwrap(), expected);
    store.due(99_999, 10).await.unwrap();
    assert_eq!(store.stats_breakdown().await.unwrap().namespaces, []);
}
