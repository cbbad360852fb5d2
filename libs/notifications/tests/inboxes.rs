//! Inboxes on the engines in memory.
#![allow(clippy::unwrap_used, missing_docs, reason = "tests")]

use std::{sync::Arc, time::Duration};

use bus::{
    EventLog, PageQuery,
    documents::memory::MemoryDocuments,
    event_log::memory::{MemoryLog, MemoryLogConfig},
    fault::{Faults, FaultyLog},
};
use model::{ErrorCode, UserId};
use notifications::{EVENT, Notifications, NotifyUser, Settings};
use prost::Message;
use proto::v1::Publish;

struct Stage {
    documents: MemoryDocuments,
    log: Arc<MemoryLog>,
}

impl Stage {
    fn new() -> Self {
        let log = MemoryLog::new(MemoryLogConfig {
            partitions: 2,
            ..MemoryLogConfig::default()
        });
        Self {
            documents: MemoryDocuments::new(),
            log: Arc::new(log),
        }
    }

    fn on(&self, log: Arc<dyn EventLog>) -> Notifications {
        let settings = Settings {
            keep: 100,
            expires_in: Duration::from_secs(3600),
        };
        Notifications::new(Arc::new(self.documents.clone()), log, settings)
    }

    fn process(&self) -> Notifications {
        self.on(self.log.clone())
    }

    /// A process that ends when it appends: `stored` says whether before or behind it.
    fn dying(&self, stored: bool) -> Notifications {
        let faults = Faults {
            refused_append: if stored { 0.0 } else { 1.0 },
            unknown_append: if stored { 1.0 } else { 0.0 },
            ..Faults::default()
        };
        self.on(Arc::new(FaultyLog::new(self.log.clone(), faults, 1)))
    }

    /// Ids of the user's notifications in the log.
    async fn told(&self) -> Vec<String> {
        let (token, partition) = self.process().place(&ada());
        let query = PageQuery::After {
            after: 0,
            limit: 1000,
        };
        let page = self.log.page(partition, token, query).await.unwrap();
        let records = page
            .entries
            .into_iter()
            .map(|entry| Publish::decode(entry.payload).unwrap());
        records
            .inspect(|record| assert_eq!((record.event.as_str(), record.stamp_offset), (EVENT, true)))
            .map(|record| record.id)
            .collect()
    }
}

fn ada() -> UserId {
    UserId::new("ada").unwrap()
}

fn news(key: Option<&str>) -> NotifyUser {
    NotifyUser {
        user: ada(),
        kind: "news".to_owned(),
        title: "News".to_owned(),
        body: None,
        data: None,
        channels: Vec::new(),
        expires_in: None,
        idempotency_key: key.map(str::to_owned),
    }
}

fn missed(inbox: &notifications::Inbox) -> Vec<String> {
    inbox
        .missed(None, u64::MAX)
        .into_iter()
        .map(|one| one.id.clone())
        .collect()
}

#[tokio::test]
async fn one_key_is_one_notification() {
    let stage = Stage::new();
    let process = stage.process();
    let first = process.notify(&news(Some("k")), None).await.unwrap();
    assert_eq!(process.notify(&news(Some("k")), None).await.unwrap(), first);
    let second = process.notify(&news(None), None).await.unwrap();
    assert_eq!(stage.told().await, [first.clone(), second.clone()]);

    assert_eq!(process.mark_read(&ada(), &first).await.unwrap(), 1);
    assert_eq!(process.mark_read(&ada(), &first).await.unwrap(), 1);
    let none = process.mark_read(&ada(), "none").await.unwrap_err();
    assert_eq!(none.code, ErrorCode::NotFound);
    let inbox = process.inbox(&ada()).await.unwrap();
    assert_eq!(missed(&inbox), [second]);
    // It was read, and is not new again.
    assert_eq!(process.notify(&news(Some("k")), None).await.unwrap(), first);
    assert_eq!(process.inbox(&ada()).await.unwrap().unread(), 1);
}

#[tokio::test]
async fn what_a_process_left_undone_is_finished_once() {
    for stored in [false, true] {
        let stage = Stage::new();
        let error = stage
            .dying(stored)
            .notify(&news(Some("k")), None)
            .await
            .unwrap_err();
        assert_eq!(error.code, ErrorCode::Unavailable);
        assert_eq!(stage.told().await.len(), usize::from(stored));
        let inbox = stage.process().inbox(&ada()).await.unwrap();
        let told = stage.told().await;
        assert_eq!((told.len(), missed(&inbox)), (1, told.clone()));
        assert_eq!(
            stage.process().notify(&news(Some("k")), None).await.unwrap(),
            told[0]
        );
        assert_eq!(stage.told().await, told);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn processes_write_one_inbox() {
    let stage = Stage::new();
    let processes: Vec<_> = (0..4).map(|_| Arc::new(stage.process())).collect();
    let mut notifying = tokio::task::JoinSet::new();
    for number in 0..80 {
        let process = Arc::clone(&processes[number % 4]);
        notifying.spawn(async move { process.notify(&news(None), None).await.unwrap() });
    }
    let mut ids = notifying.join_all().await;
    let inbox = stage.process().inbox(&ada()).await.unwrap();
    let mut kept = missed(&inbox);
    assert_eq!(kept, stage.told().await, "in the order of the log");
    ids.sort();
    kept.sort();
    assert_eq!(ids, kept);
}

#[tokio::test]
async fn what_has_expired_is_gone() {
    let stage = Stage::new();
    let process = stage.process();
    let short = NotifyUser {
        expires_in: Some(Duration::from_millis(1)),
        ..news(None)
    };
    process.notify(&short, None).await.unwrap();
    let id = process.notify(&news(None), None).await.unwrap();
    tokio::time::sleep(Duration::from_millis(5)).await;
    assert_eq!(missed(&process.inbox(&ada()).await.unwrap()), [id]);
}
