//! What every engine of [`InterestSnapshots`] must do.
#![allow(clippy::unwrap_used, reason = "a check reports by panicking")]

use std::sync::Arc;

use bytes::Bytes;
use tokio::task::JoinSet;

use super::{InterestSnapshots, Snapshot};

/// Runs every check, each on an empty store of its own.
///
/// # Panics
/// When the engine does not conform.
pub async fn all(fresh: impl AsyncFn() -> Arc<dyn InterestSnapshots>) {
    what_was_saved_last_is_loaded(&*fresh().await).await;
    an_older_epoch_saves_nothing(&*fresh().await).await;
    nobody_sees_half_a_save(&fresh().await).await;
}

async fn what_was_saved_last_is_loaded(store: &dyn InterestSnapshots) {
    assert_eq!(store.load(3).await.unwrap(), None);
    let every_byte: Bytes = (0..=u8::MAX).cycle().take(300_000).collect();
    assert!(store.save(3, 1, 10, Bytes::from_static(b"x")).await.unwrap());
    assert!(store.save(3, 1, 20, every_byte.clone()).await.unwrap());
    let saved = Snapshot {
        seq: 20,
        table: every_byte,
    };
    assert_eq!(store.load(3).await.unwrap(), Some(saved));
    assert_eq!(store.load(4).await.unwrap(), None, "partitions are independent");
    assert!(store.save(4, 1, 0, Bytes::new()).await.unwrap());
    let empty = Snapshot {
        seq: 0,
        table: Bytes::new(),
    };
    assert_eq!(store.load(4).await.unwrap(), Some(empty), "an empty table is one");
}

async fn an_older_epoch_saves_nothing(store: &dyn InterestSnapshots) {
    assert!(store.save(0, 2, 50, Bytes::from_static(b"two")).await.unwrap());
    assert!(!store.save(0, 1, 60, Bytes::from_static(b"one")).await.unwrap());
    let kept = Snapshot {
        seq: 50,
        table: Bytes::from_static(b"two"),
    };
    assert_eq!(store.load(0).await.unwrap(), Some(kept));
    assert!(store.save(0, 3, 40, Bytes::from_static(b"three")).await.unwrap());
    assert!(!store.save(0, 2, 70, Bytes::from_static(b"two")).await.unwrap());
    let newest = Snapshot {
        seq: 40,
        table: Bytes::from_static(b"three"),
    };
    assert_eq!(store.load(0).await.unwrap(), Some(newest));
}

async fn nobody_sees_half_a_save(store: &Arc<dyn InterestSnapshots>) {
    let mut saves = JoinSet::new();
    for epoch in 1..=32u64 {
        let store = Arc::clone(store);
        saves.spawn(async move {
            let table = Bytes::from(epoch.to_string());
            store.save(9, epoch, epoch, table).await.unwrap();
            let Snapshot { seq, table } = store.load(9).await.unwrap().unwrap();
            assert_eq!(table, seq.to_string());
            assert!(seq >= epoch, "nothing older than what was just offered");
        });
    }
    saves.join_all().await;
    assert_eq!(store.load(9).await.unwrap().unwrap().seq, 32);
}
