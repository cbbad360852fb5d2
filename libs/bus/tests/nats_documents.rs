//! The engine of `Documents` on JetStream: conformance, and what happens when servers fail.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test reports by panicking")]

use std::{sync::Arc, time::Duration};

use async_nats::jetstream;
use bus::{
    Document, Documents, DocumentsError,
    conformance::documents,
    documents::nats::{NatsDocuments, NatsDocumentsConfig},
    nats::{NatsConfig, NatsHealth, connect},
};
use bytes::Bytes;
use futures_util::future::join_all;
use servers::{Nats, NatsVersion, Proxy};

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

/// Whatever is acknowledged is there, and a restart of the server is not seen but for the time it takes.
#[tokio::test]
async fn writes_outlive_the_server() {
    for version in NatsVersion::ALL {
        let mut nats = Nats::start(version).unwrap();
        let store = store(&nats).await;
        let keys: Vec<_> = (0..20).map(|n| format!("k.{n}")).collect();
        let writers = join_all(keys.iter().map(|key| {
            let store = &store;
            async move {
                let mut revision = None;
                for n in 0..50 {
                    let value = Bytes::from(n.to_string());
                    let put = store.put("b", key, value.clone(), revision).await.unwrap();
                    let document = Document { value, revision: put };
                    assert_eq!(store.get("b", key).await, Ok(Some(document)));
                    revision = Some(put);
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                store.delete("b", key).await.unwrap();
                assert_eq!(store.get("b", key).await, Ok(None));
            }
        }));
        let restarts = async {
            for _ in 0..2 {
                tokio::time::sleep(Duration::from_millis(100)).await;
                nats.kill();
                tokio::time::sleep(Duration::from_millis(50)).await;
                nats.start_again().unwrap();
            }
        };
        tokio::join!(writers, restarts);
    }
}

/// The answer to a write may be lost; the write is then neither done twice nor taken for somebody else's.
#[tokio::test]
async fn a_write_whose_answer_is_lost_is_done_once() {
    for version in NatsVersion::ALL {
        let nats = Nats::start(version).unwrap();
        let proxy = Proxy::start([([127, 0, 0, 1], nats.port()).into()]).unwrap();
        let through = client(format!("nats://127.0.0.1:{}", proxy.port())).await;
        let through = NatsDocuments::open(through, patient());
        let direct = store(&nats).await;
        let mut revision = through.put("b", "k", Bytes::from("start"), None).await.unwrap();
        proxy.delay(Duration::from_millis(100));
        // Before the server has it, after, and once the answer is there.
        for cut in [50, 150, 250] {
            let value = Bytes::from(format!("cut after {cut} ms"));
            let cutting = async {
                tokio::time::sleep(Duration::from_millis(cut)).await;
                proxy.reset();
            };
            let (put, ()) = tokio::join!(through.put("b", "k", value.clone(), Some(revision)), cutting);
            let put = put.unwrap();
            assert_eq!(put, revision + 1, "written once");
            let document = Document { value, revision: put };
            assert_eq!(direct.get("b", "k").await, Ok(Some(document)));
            revision = put;
        }
        let cutting = async {
            tokio::time::sleep(Duration::from_millis(350)).await;
            proxy.reset();
        };
        let (deleted, ()) = tokio::join!(through.delete("b", "k"), cutting);
        assert_eq!(deleted, Ok(()));
        assert_eq!(direct.get("b", "k").await, Ok(None));
    }
}

/// Documents of a bucket with an age vanish, also when the bucket was there without one.
#[tokio::test]
async fn documents_vanish_at_their_age() {
    for version in NatsVersion::ALL {
        let nats = Nats::start(version).unwrap();
        let ageless = store(&nats).await;
        let config = NatsDocumentsConfig {
            max_age: [("short".to_owned(), Duration::from_millis(500))].into(),
            ..patient()
        };
        ageless.put("short", "old", Bytes::from("x"), None).await.unwrap();
        let first = ageless.put("long", "k", Bytes::from("x"), None).await.unwrap();
        let store = NatsDocuments::open(client(nats.url()).await, config);
        let newest = store.put("short", "k", Bytes::from("x"), None).await.unwrap();
        for key in ["old", "k"] {
            let gone = async {
                while store.get("short", key).await.unwrap().is_some() {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            };
            tokio::time::timeout(Duration::from_secs(60), gone).await.unwrap();
        }
        let again = store.put("short", "k", Bytes::from("y"), None).await.unwrap();
        assert!(again > newest, "revisions never go back");
        let kept = store.get("long", "k").await.unwrap().unwrap();
        assert_eq!(kept.revision, first);
    }
}

#[tokio::test]
async fn what_cannot_be_done_is_told() {
    for version in NatsVersion::ALL {
        let mut nats = Nats::start(version).unwrap();
        let store = store(&nats).await;
        let large = Bytes::from(vec![0; 17 << 20]);
        let put = store.put("b", "k", large, None).await;
        assert!(
            matches!(&put, Err(DocumentsError::Unavailable(why)) if why.contains("payload")),
            "{put:?}"
        );
        let get = store.get("b", &"k".repeat(4096)).await;
        assert!(matches!(get, Err(DocumentsError::InvalidKey(_))), "{get:?}");
        let conflict = Err(DocumentsError::Conflict("k".to_owned()));
        assert_eq!(store.put("b", "k", Bytes::new(), Some(0)).await, conflict);

        // A stream of somebody else's.
        let context = jetstream::new(client(nats.url()).await);
        let config = jetstream::stream::Config {
            name: "KV_other".to_owned(),
            subjects: vec!["other".to_owned()],
            ..Default::default()
        };
        context.create_stream(config).await.unwrap();
        let get = store.get("other", "k").await;
        assert!(
            matches!(&get, Err(DocumentsError::Unavailable(why)) if why.contains("KV_other")),
            "{get:?}"
        );

        // A bucket that somebody deletes is made again, empty.
        store.put("b", "k", Bytes::from("x"), None).await.unwrap();
        context.delete_stream("KV_b").await.unwrap();
        assert_eq!(store.get("b", "k").await, Ok(None));
        context.delete_stream("KV_b").await.unwrap();
        store.put("b", "k", Bytes::from("x"), None).await.unwrap();

        let short = NatsDocumentsConfig {
            timeout: Duration::from_millis(200),
            ..NatsDocumentsConfig::default()
        };
        let store = NatsDocuments::open(client(nats.url()).await, short);
        nats.kill();
        for _ in 0..2 {
            let get = store.get("b", "k").await;
            assert!(matches!(get, Err(DocumentsError::Unavailable(_))), "{get:?}");
        }
    }
}

/// A bucket that other clients made is used, and what they deleted is gone.
#[tokio::test]
async fn buckets_are_those_of_other_clients() {
    for version in NatsVersion::ALL {
        let nats = Nats::start(version).unwrap();
        let context = jetstream::new(client(nats.url()).await);
        let config = jetstream::stream::Config {
            name: "KV_b".to_owned(),
            subjects: vec!["$KV.b.>".to_owned()],
            max_messages_per_subject: 5,
            allow_rollup: true,
            allow_direct: true,
            ..Default::default()
        };
        context.create_stream(config).await.unwrap();
        let theirs = context.get_key_value("b").await.unwrap();
        let ours = store(&nats).await;
        let revision = theirs.put("k", "x".into()).await.unwrap();
        let put = ours
            .put("b", "k", Bytes::from("y"), Some(revision))
            .await
            .unwrap();
        assert_eq!(theirs.entry("k").await.unwrap().unwrap().revision, put);
        ours.delete("b", "k").await.unwrap();
        assert_eq!(theirs.get("k").await.unwrap(), None);
        theirs.put("k", "z".into()).await.unwrap();
        for purge in [false, true] {
            if purge {
                theirs.purge("k").await.unwrap();
            } else {
                theirs.delete("k").await.unwrap();
            }
            assert_eq!(ours.get("b", "k").await, Ok(None));
            ours.put("b", "k", Bytes::from("y"), None).await.unwrap();
        }
    }
}
