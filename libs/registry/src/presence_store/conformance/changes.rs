//! Users' stays in namespaces, and the list of all changes.

use super::{
    GRACE, LEASE,
    words::{apply, connected, disconnected, gateway, joined, of_users},
};
use crate::presence_store::{CHANGES_KEPT, Changes, Position, PresenceStore, Transition, UserChange};

pub(super) async fn a_user_is_online_from_the_first_socket_until_the_grace_is_over(
    store: &dyn PresenceStore,
) {
    let (a, b) = (gateway(1), gateway(2));
    let lost = |until_ms| UserChange::Lost { until_ms };
    let got = apply(store, &a, 1, vec![connected("s1", "ada"), connected("s2", "ada")]).await;
    assert_eq!(
        of_users(&got.transitions),
        [("ada".to_owned(), UserChange::Online)]
    );
    let got = apply(store, &b, 1, vec![connected("s3", "ada"), connected("s4", "bob")]).await;
    assert_eq!(
        of_users(&got.transitions),
        [("bob".to_owned(), UserChange::Online)]
    );
    let got = apply(store, &a, 2, vec![disconnected("s1"), disconnected("s2")]).await;
    assert_eq!(got.transitions, [], "ada has a socket elsewhere");
    let got = apply(store, &b, 2, vec![disconnected("s3"), disconnected("s4")]).await;
    let both = [("ada".to_owned(), lost(5_000)), ("bob".to_owned(), lost(5_000))];
    assert_eq!(of_users(&got.transitions), both);
    let got = apply(store, &a, 3, vec![connected("s5", "ada"), joined("s5", "r")]).await;
    assert_eq!(of_users(&got.transitions), [("ada".to_owned(), UserChange::Back)]);
    assert_eq!(store.due(4_999, 10).await.unwrap(), []);
    let over = store.due(5_000, 10).await.unwrap();
    assert_eq!(of_users(&over), [("bob".to_owned(), UserChange::Offline)]);
    let expired = store.expire(8_000, LEASE, GRACE).await.unwrap();
    let over: Vec<_> = expired.into_iter().flat_map(|dead| dead.transitions).collect();
    assert_eq!(of_users(&over), [("ada".to_owned(), lost(13_000))]);
    let over = store.due(13_000, 10).await.unwrap();
    assert!(
        matches!(over[..], [Transition::Room(_), Transition::User(_)]),
        "the room before: {over:?}"
    );
    assert_eq!(
        store.due(99_999, 10).await.unwrap(),
        [],
        "each is handed out once"
    );
    let got = apply(store, &b, 1, vec![]).await;
    assert_eq!(got.transitions, []);
}

pub(super) async fn all_changes_are_in_one_list(store: &dyn PresenceStore) {
    let a = gateway(1);
    let begin = store.changes_end().await.unwrap();
    assert_eq!(store.changes(&begin, 10).await.unwrap(), Changes::Next(vec![]));
    let mut told = Vec::new();
    let deltas = vec![connected("s1", "ada"), joined("s1", "r"), connected("s2", "bob")];
    told.extend(apply(store, &a, 1, deltas).await.transitions);
    let middle = store.changes_end().await.unwrap();
    told.extend(
        apply(
            store,
            &gateway(2),
            1,
            vec![connected("s3", "ada"), joined("s3", "r")],
        )
        .await
        .transitions,
    );
    told.extend(
        apply(store, &a, 2, vec![disconnected("s1"), disconnected("s2")])
            .await
            .transitions,
    );
    told.extend(store.due(5_000, 10).await.unwrap());
    for dead in store.expire(99_000, LEASE, GRACE).await.unwrap() {
        told.extend(dead.transitions);
    }
    told.extend(store.due(104_000, 10).await.unwrap());
    assert_eq!(told.len(), 10);
    for limit in [1, 3, 100] {
        let mut seen = Vec::new();
        let mut at = begin.clone();
        loop {
            let next = next(store, &at, limit).await;
            assert!(next.len() <= limit);
            let Some((last, _)) = next.last() else { break };
            at = last.clone();
            seen.extend(next.into_iter().map(|(_, transition)| transition));
        }
        assert_eq!(seen, told);
    }
    let rest: Vec<_> = next(store, &middle, 100)
        .await
        .into_iter()
        .map(|(_, change)| change)
        .collect();
    assert_eq!(rest, told[3..]);
    let end = store.changes_end().await.unwrap();
    assert_eq!(next(store, &end, 100).await, []);
    for none in ["", "-", "x", "1-1", "99999999999999-0"] {
        let none = Position(none.to_owned());
        assert_eq!(
            store.changes(&none, 10).await.unwrap(),
            Changes::Forgotten,
            "{none:?}"
        );
    }
}

pub(super) async fn old_changes_are_forgotten(store: &dyn PresenceStore) {
    let a = gateway(1);
    let begin = store.changes_end().await.unwrap();
    let mut number = 0;
    let mut before_last = begin.clone();
    // Each batch makes 2,000 changes; engines may keep some more than they must.
    for _ in 0..CHANGES_KEPT * 5 / 4 / 2_000 {
        before_last = store.changes_end().await.unwrap();
        let deltas = |make: fn(&str) -> crate::presence_store::Delta| {
            (0..1_000).map(move |n| make(&format!("s{n}"))).collect()
        };
        number += 1;
        apply(store, &a, number, deltas(|id| connected(id, id))).await;
        number += 1;
        apply(store, &a, number, deltas(disconnected)).await;
    }
    assert_eq!(store.changes(&begin, 10).await.unwrap(), Changes::Forgotten);
    assert_eq!(next(store, &before_last, 3_000).await.len(), 2_000);
}

async fn next(store: &dyn PresenceStore, after: &Position, limit: usize) -> Vec<(Position, Transition)> {
    match store.changes(after, limit).await.unwrap() {
        Changes::Next(next) => next,
        Changes::Forgotten => panic!("{after:?} is still known"),
    }
}
