//! The engine of `WorkQueue` on JetStream: conformance, and what happens when servers fail.

#![allow(clippy::unwrap_used, reason = "a test reports by panicking")]

use std::{sync::Arc, time::Duration};

use bus::{
    NewJob, WorkError, WorkQueue, WorkSettings,
    conformance::work_queue,
    nats::{NatsConfig, NatsHealth, connect},
    work_queue::nats::NatsWork,
};
use bytes::Bytes;
use servers::{Nats, NatsVersion};

async fn work(nats: &Nats) -> NatsWork {
    let config = NatsConfig {
        servers: nats.url(),
        name: "test".to_owned(),
        ..NatsConfig::default()
    };
    let client = connect(&config, &NatsHealth::new()).await.unwrap();
    let settings = WorkSettings {
        deadline: Duration::from_secs(1),
        ..WorkSettings::default()
    };
    NatsWork::open(client, settings)
}

#[tokio::test]
async fn nats_work_conforms() {
    for version in NatsVersion::ALL {
        let nats = Nats::start(version).unwrap();
        work_queue(async || Arc::new(work(&nats).await) as Arc<dyn WorkQueue>).await;
        let shared: Arc<dyn WorkQueue> = Arc::new(work(&nats).await);
        work_queue(async || Arc::clone(&shared)).await;
    }
}

/// What was stored outlives the server, and whoever waits for work goes on waiting.
#[tokio::test]
async fn jobs_outlive_the_server() {
    for version in NatsVersion::ALL {
        let mut nats = Nats::start(version).unwrap();
        let work = work(&nats).await;
        let job = |id: &str| NewJob {
            queue: "q".to_owned(),
            id: id.to_owned(),
            payload: Bytes::from("x"),
        };
        work.enqueue(job("a")).await.unwrap();
        let taken = work.take("q", 3).await.unwrap();
        work.enqueue(job("b")).await.unwrap();
        nats.kill();
        let away = work.enqueue(job("c")).await;
        assert!(matches!(away, Err(WorkError::Unavailable(_))), "{away:?}");
        drop(taken);
        let waits = work.clone();
        let waiting = async move {
            let mut ids = Vec::new();
            for _ in 0..2 {
                let taken = waits.take("q", 9).await.unwrap();
                ids.push(taken.id().to_owned());
                taken.done().await.unwrap();
            }
            ids
        };
        let again = async {
            tokio::time::sleep(Duration::from_millis(500)).await;
            nats.start_again().unwrap();
        };
        let both = async { tokio::join!(waiting, again).0 };
        let mut ids = tokio::time::timeout(Duration::from_secs(60), both).await.unwrap();
        ids.sort();
        assert_eq!(ids, ["a", "b"]);
    }
}
