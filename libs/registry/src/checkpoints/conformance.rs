//! What every engine of [`Checkpoints`] must do.
#![allow(clippy::unwrap_used, reason = "a check reports by panicking")]

use std::sync::Arc;

use tokio::task::JoinSet;

use super::Checkpoints;

/// Runs every check, each on an empty store of its own.
///
/// # Panics
/// When the engine does not conform.
pub async fn all(fresh: impl AsyncFn() -> Arc<dyn Checkpoints>) {
    what_was_saved_last_is_loaded(&*fresh().await).await;
    an_older_epoch_saves_nothing(&*fresh().await).await;
    the_newest_epoch_wins_a_race(&fresh().await).await;
}

async fn what_was_saved_last_is_loaded(store: &dyn Checkpoints) {
    assert_eq!(store.load(3).await.unwrap(), None);
    assert!(store.save(3, 1, 10).await.unwrap());
    assert!(store.save(3, 1, 20).await.unwrap());
    assert_eq!(store.load(3).await.unwrap(), Some(20));
    assert_eq!(store.load(4).await.unwrap(), None, "partitions are independent");
    assert!(store.save(4, 7, u64::MAX).await.unwrap());
    assert_eq!(store.load(4).await.unwrap(), Some(u64::MAX));
    assert_eq!(store.load(3).await.unwrap(), Some(20));
    assert!(store.save(u16::MAX, 1, 0).await.unwrap());
    assert_eq!(store.load(u16::MAX).await.unwrap(), Some(0), "0 is a position");
}

async fn an_older_epoch_saves_nothing(store: &dyn Checkpoints) {
    assert!(store.save(0, 2, 50).await.unwrap());
    assert!(!store.save(0, 1, 60).await.unwrap());
    assert_eq!(store.load(0).await.unwrap(), Some(50));
    // The new owner may have begun further back.
    assert!(store.save(0, 3, 40).await.unwrap());
    assert_eq!(store.load(0).await.unwrap(), Some(40));
    assert!(!store.save(0, 2, 70).await.unwrap());
    // Larger than what fits a double, the number of many a scripting language.
    let large = (1 << 53) + 1;
    assert!(store.save(0, large, 80).await.unwrap());
    assert!(!store.save(0, large - 1, 90).await.unwrap());
    assert_eq!(store.load(0).await.unwrap(), Some(80));
}

async fn the_newest_epoch_wins_a_race(store: &Arc<dyn Checkpoints>) {
    let mut saves = JoinSet::new();
    for epoch in 1..=32 {
        let store = Arc::clone(store);
        saves.spawn(async move { store.save(9, epoch, epoch * 100).await.unwrap() });
    }
    saves.join_all().await;
    assert_eq!(store.load(9).await.unwrap(), Some(3200));
}
