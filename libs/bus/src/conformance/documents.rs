//! What every engine of [`Documents`] must do.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::join_all;

use super::{soon, unique};
use crate::{Document, Documents, DocumentsError};

/// Runs every check on an engine of its own from `make`, which may be the same one each time. `bucket`
/// names a bucket that the engine has.
///
/// # Panics
/// When the engine does not conform.
pub async fn documents(bucket: &str, make: impl AsyncFn() -> Arc<dyn Documents>) {
    tokio::join!(
        async { a_value_is_created_once(&*make().await, bucket).await },
        async { only_the_newest_revision_is_replaced(&*make().await, bucket).await },
        async { one_of_many_writers_wins(&*make().await, bucket).await },
        async { a_deleted_key_begins_anew(&*make().await, bucket).await },
        async { names_are_checked(&*make().await, bucket).await },
    );
}

fn key() -> String {
    format!("conformance.{:x}=", unique())
}

async fn a_value_is_created_once(store: &dyn Documents, bucket: &str) {
    let key = key();
    assert_eq!(soon(store.get(bucket, &key)).await, Ok(None));
    let conflict = Err(DocumentsError::Conflict(key.clone()));
    for none in [0, 1, u64::MAX] {
        let put = soon(store.put(bucket, &key, Bytes::from("x"), Some(none))).await;
        assert_eq!(put, conflict);
    }
    let revision = soon(store.put(bucket, &key, Bytes::from("one"), None))
        .await
        .unwrap();
    assert_eq!(
        soon(store.put(bucket, &key, Bytes::from("two"), None)).await,
        conflict
    );
    let value = Bytes::from("one");
    assert_eq!(
        soon(store.get(bucket, &key)).await,
        Ok(Some(Document { value, revision }))
    );
    assert_eq!(soon(store.get(bucket, &format!("{key}.x"))).await, Ok(None));
}

async fn only_the_newest_revision_is_replaced(store: &dyn Documents, bucket: &str) {
    let key = key();
    let first = soon(store.put(bucket, &key, Bytes::from("one"), None))
        .await
        .unwrap();
    let second = soon(store.put(bucket, &key, Bytes::from("two"), Some(first)))
        .await
        .unwrap();
    assert!(second > first);
    let late = soon(store.put(bucket, &key, Bytes::from("late"), Some(first))).await;
    assert_eq!(late, Err(DocumentsError::Conflict(key.clone())));
    // An empty value is a value.
    let third = soon(store.put(bucket, &key, Bytes::new(), Some(second)))
        .await
        .unwrap();
    let document = Document {
        value: Bytes::new(),
        revision: third,
    };
    assert_eq!(soon(store.get(bucket, &key)).await, Ok(Some(document)));
}

async fn one_of_many_writers_wins(store: &dyn Documents, bucket: &str) {
    let key = key();
    let mut revision = None;
    for _ in 0..5 {
        let puts = (0..10).map(|n| {
            let key = &key;
            async move { soon(store.put(bucket, key, Bytes::from(n.to_string()), revision)).await }
        });
        let won: Vec<u64> = join_all(puts)
            .await
            .into_iter()
            .filter_map(|put| match put {
                Ok(revision) => Some(revision),
                Err(error) => {
                    assert_eq!(error, DocumentsError::Conflict(key.clone()));
                    None
                }
            })
            .collect();
        assert_eq!(won.len(), 1);
        revision = Some(won[0]);
    }
}

async fn a_deleted_key_begins_anew(store: &dyn Documents, bucket: &str) {
    let key = key();
    assert_eq!(soon(store.delete(bucket, &key)).await, Ok(()));
    let first = soon(store.put(bucket, &key, Bytes::from("one"), None))
        .await
        .unwrap();
    soon(store.delete(bucket, &key)).await.unwrap();
    assert_eq!(soon(store.get(bucket, &key)).await, Ok(None));
    let stale = soon(store.put(bucket, &key, Bytes::from("two"), Some(first))).await;
    assert_eq!(stale, Err(DocumentsError::Conflict(key.clone())));
    let second = soon(store.put(bucket, &key, Bytes::from("two"), None))
        .await
        .unwrap();
    assert!(second > first, "revisions never go back");
}

async fn names_are_checked(store: &dyn Documents, bucket: &str) {
    for (bucket, key) in [
        ("", "k"),
        ("a.b", "k"),
        (bucket, ""),
        (bucket, "a..b"),
        (bucket, "a b"),
        (bucket, "a.*"),
    ] {
        let value = Bytes::from("x");
        let get = soon(store.get(bucket, key)).await;
        assert!(
            matches!(get, Err(DocumentsError::InvalidKey(_))),
            "{bucket}/{key}"
        );
        let put = soon(store.put(bucket, key, value, None)).await;
        assert!(
            matches!(put, Err(DocumentsError::InvalidKey(_))),
            "{bucket}/{key}"
        );
        let delete = soon(store.delete(bucket, key)).await;
        assert!(
            matches!(delete, Err(DocumentsError::InvalidKey(_))),
            "{bucket}/{key}"
        );
    }
}
