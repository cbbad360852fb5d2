//! What every engine of [`LeaseStore`] must do.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a check reports by panicking")]

use std::{sync::Arc, time::Duration};

use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};

use super::{Lease, LeaseStore};

/// Longer than any check takes.
const LONG: Duration = Duration::from_secs(600);
const SHORT: Duration = Duration::from_millis(300);
/// How late a lease may end before that is a fault.
const PATIENCE: Duration = Duration::from_secs(30);

/// Runs every check, each under lease names of its own, so that one store serves several runs as long as
/// `prefix` differs.
///
/// # Panics
/// When the engine does not conform.
pub async fn all(store: Arc<dyn LeaseStore>, prefix: &str) {
    let name = |check: &str| format!("{prefix}{check}");
    nobody_takes_what_is_held(&*store, &name("held")).await;
    the_holder_renews_under_its_epoch(&*store, &name("renewed")).await;
    what_is_given_back_is_free_at_once(&*store, &name("released")).await;
    who_was_replaced_can_do_nothing(&*store, &name("replaced")).await;
    a_lease_ends_by_itself(&*store, &name("ended")).await;
    renewing_puts_the_end_off(&*store, &name("put-off")).await;
    names_are_independent(&*store, &name("one"), &name("other")).await;
    one_of_many_gets_it(&store, &name("race")).await;
}

async fn nobody_takes_what_is_held(store: &dyn LeaseStore, name: &str) {
    let lease = acquire(store, name, "a", LONG).await;
    assert_eq!((lease.name.as_str(), lease.owner.as_str()), (name, "a"));
    assert!(lease.epoch >= 1);
    assert_eq!(store.acquire(name, "b", LONG).await.unwrap(), None);
    assert_eq!(store.acquire(name, "b", SHORT).await.unwrap(), None);
    assert!(store.renew(&lease, LONG).await.unwrap());
}

async fn the_holder_renews_under_its_epoch(store: &dyn LeaseStore, name: &str) {
    let lease = acquire(store, name, "a", LONG).await;
    assert_eq!(acquire(store, name, "a", LONG).await, lease);
    assert!(store.renew(&lease, LONG).await.unwrap());
    assert_eq!(acquire(store, name, "a", LONG).await, lease);
}

async fn what_is_given_back_is_free_at_once(store: &dyn LeaseStore, name: &str) {
    let first = acquire(store, name, "a", LONG).await;
    store.release(&first).await.unwrap();
    assert!(!store.renew(&first, LONG).await.unwrap());
    let second = acquire(store, name, "b", LONG).await;
    assert!(second.epoch > first.epoch);
    store.release(&second).await.unwrap();
    // Back to the first: a change of hands as well.
    let third = acquire(store, name, "a", LONG).await;
    assert!(third.epoch > second.epoch);
}

async fn who_was_replaced_can_do_nothing(store: &dyn LeaseStore, name: &str) {
    let old = acquire(store, name, "a", LONG).await;
    store.release(&old).await.unwrap();
    let new = acquire(store, name, "b", LONG).await;
    assert!(!store.renew(&old, LONG).await.unwrap());
    store.release(&old).await.unwrap();
    assert_eq!(
        store.acquire(name, "a", LONG).await.unwrap(),
        None,
        "b holds it still"
    );
    assert!(store.renew(&new, LONG).await.unwrap());
    // The same owner under an older epoch has been replaced too: by itself, after a restart.
    store.release(&new).await.unwrap();
    let again = acquire(store, name, "a", LONG).await;
    assert!(!store.renew(&old, LONG).await.unwrap());
    store.release(&old).await.unwrap();
    assert!(store.renew(&again, LONG).await.unwrap());
}

async fn a_lease_ends_by_itself(store: &dyn LeaseStore, name: &str) {
    let begun = Instant::now();
    let old = acquire(store, name, "a", SHORT).await;
    let new = loop {
        if let Some(lease) = store.acquire(name, "b", LONG).await.unwrap() {
            break lease;
        }
        assert!(begun.elapsed() < PATIENCE, "the lease never ended");
        sleep(SHORT / 10).await;
    };
    // Clocks of two machines may differ by a little; by half of it they may not.
    assert!(begun.elapsed() >= SHORT / 2, "the lease ended early");
    assert!(new.epoch > old.epoch);
    assert!(!store.renew(&old, LONG).await.unwrap());
}

async fn renewing_puts_the_end_off(store: &dyn LeaseStore, name: &str) {
    let lease = acquire(store, name, "a", LONG).await;
    // The end is that of the renewal, be it earlier.
    assert!(store.renew(&lease, SHORT).await.unwrap());
    let begun = Instant::now();
    while store.renew(&lease, Duration::from_millis(1)).await.unwrap() {
        assert!(begun.elapsed() < PATIENCE, "the lease never ended");
        sleep(SHORT / 10).await;
    }
    // Renewed for long before its first end, it is there behind it.
    let lease = acquire(store, name, "a", SHORT).await;
    if store.renew(&lease, LONG).await.unwrap() {
        sleep(SHORT * 2).await;
        assert_eq!(store.acquire(name, "b", LONG).await.unwrap(), None);
    }
}

async fn names_are_independent(store: &dyn LeaseStore, one: &str, other: &str) {
    let a = acquire(store, one, "a", LONG).await;
    let b = acquire(store, other, "b", LONG).await;
    store.release(&a).await.unwrap();
    assert!(store.renew(&b, LONG).await.unwrap());
    assert_eq!(store.acquire(other, "a", LONG).await.unwrap(), None);
}

async fn one_of_many_gets_it(store: &Arc<dyn LeaseStore>, name: &str) {
    let mut epoch = 0;
    for _ in 0..10 {
        let mut attempts = JoinSet::new();
        for owner in 0..8 {
            let (store, name) = (Arc::clone(store), name.to_owned());
            attempts.spawn(async move { store.acquire(&name, &owner.to_string(), LONG).await.unwrap() });
        }
        let mut winners: Vec<Lease> = attempts.join_all().await.into_iter().flatten().collect();
        assert_eq!(winners.len(), 1);
        let winner = winners.remove(0);
        assert!(winner.epoch > epoch, "the epoch grows with every change of hands");
        epoch = winner.epoch;
        store.release(&winner).await.unwrap();
    }
}

async fn acquire(store: &dyn LeaseStore, name: &str, owner: &str, ttl: Duration) -> Lease {
    let lease = store.acquire(name, owner, ttl).await.unwrap();
    lease.unwrap_or_else(|| panic!("{owner} does not get {name}"))
}
