//! The engine of `Documents` on JetStream: conformance, and what happens when servers fail.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test reports by panicking")]

use std::{sync::Arc, time::Duration};

use bus::{
    Documents, DocumentsError,
    conformance::documents,
    documents::nats::{NatsDocuments, NatsDocumentsConfig},
    nats::{NatsConfig, NatsHealth, connect},
};
use bytes::Bytes;
use futures_util::future::join_all;
use servers::{Nats, NatsVersion};

async fn client(url: String) -> async_nats::Client {
    let config = NatsConfig {
        servers: url,
        name: "test".to_owned(),
        ..NatsConfig::default()
    };
    connect(&config, &NatsHealth::new()).await.unwrap()
}

async fn store(nats: &Nats) -> NatsDocuments {
    NatsDocuments::open(client(nats.url()).await, patient())
}

/// A noisy machine may be slow; whoever tests what is not there says so.
fn patient() -> NatsDocumentsConfig {
    NatsDocumentsConfig {
        timeout: Duration::from_secs(30),
        ..NatsDocumentsConfig::default()
    }
}

#[tokio::test]
async fn nats_documents_conform() {
    for version in NatsVersion::ALL {
        let nats = Nats::start(version).unwrap();
        documents("shared", async || {
            Arc::new(store(&nats).await) as Arc<dyn Documents>
        })
        .await;
        let store: Arc<dyn Documents> = Arc::new(store(&nats).await);
        documents("own", async || Arc::clone(&store)).await;
    }
}

/// Several processes that come up at once all find or make the bucket, and one of them wins.
#[tokio::test]
async fn a_bucket_is_created_once_by_many() {
    for version in NatsVersion::ALL {
        let nats = Nats::start(version).unwrap();
        let stores = join_all((0..8).map(|_| store(&nats))).await;
        let puts = stores
            .iter()
            .map(|store| store.put("epochs", "p.0", Bytes::from("x"), None));
        let done = join_all(puts).await;
        assert_eq!(done.iter().filter(|put| put.is_ok()).count(), 1, "{done:?}");
        let conflict = Err(DocumentsError::Conflict("p.0".to_owned()));
        assert_eq!(done.iter().filter(|put| **put == conflict).count(), 7, "{done:?}");
    }
}

/// Revisions serve as fencing epochs: nothing makes them go back, and each write of any key has its own.
#[tokio::test]
async fn revisions_never_go_back() {
    for version in NatsVersion::ALL {
        let mut nats = Nats::start(version).unwrap();
        let store = store(&nats).await;
        let mut newest = 0;
        for round in 0..4 {
            let mut revision = None;
            for _ in 0..3 {
                let put = store
                    .put("epochs", "p.0", Bytes::from("x"), revision)
                    .await
                    .unwrap();
                assert!(put > newest);
                (revision, newest) = (Some(put), put);
                let other = store.put("epochs", &format!("p.{put}"), Bytes::new(), None).await;
                assert!(other.unwrap() > newest);
            }
            store.delete("epochs", "p.0").await.unwrap();
            if round == 1 {
                nats.kill();
                nats.start_again().unwrap();
            }
        }
    }
}
