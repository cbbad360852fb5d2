//! The conformance lists on the engines in memory.

#![allow(clippy::unwrap_used, reason = "a test reports by panicking")]

use std::{sync::Arc, time::Duration};

use bus::{
    Documents, EventLog, Signals,
    conformance::{LogUnderTest, documents, event_log, signals, work_queue},
    documents::memory::MemoryDocuments,
    event_log::memory::{MemoryLog, MemoryLogConfig},
    fault::{Faults, FaultyLog},
    signals::memory::MemorySignals,
    work_queue::{WorkQueue, WorkSettings, memory::MemoryWork},
};
use bytes::Bytes;
use futures_util::FutureExt;

const PER_ROOM: usize = 200;
const RECORD: usize = 100_000;

fn memory_log(partitions: u16) -> Arc<dyn EventLog> {
    Arc::new(MemoryLog::new(MemoryLogConfig {
        partitions,
        max_messages_per_room: PER_ROOM,
        max_record_bytes: RECORD,
        ..MemoryLogConfig::default()
    }))
}

fn under_test(log: Arc<dyn EventLog>) -> LogUnderTest {
    LogUnderTest {
        log,
        max_messages_per_room: PER_ROOM,
        max_record_bytes: RECORD,
    }
}

#[tokio::test]
async fn memory_log_conforms() {
    event_log(async || under_test(memory_log(16))).await;
}

/// All checks at once on one log with as few partitions as can be.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_log_conforms_when_shared() {
    let log = memory_log(2);
    event_log(async || under_test(Arc::clone(&log))).await;
}

#[tokio::test]
async fn wrapper_without_faults_conforms() {
    event_log(async || under_test(Arc::new(FaultyLog::new(memory_log(2), Faults::default(), 1)))).await;
}

/// Being late is no fault of a log.
#[tokio::test(start_paused = true)]
async fn wrapper_with_delays_conforms() {
    let faults = Faults {
        delay: Duration::from_millis(20),
        ..Faults::default()
    };
    event_log(async || under_test(Arc::new(FaultyLog::new(memory_log(2), faults, 1)))).await;
}

#[tokio::test]
async fn memory_signals_conform() {
    signals(async || Arc::new(MemorySignals::new()) as Arc<dyn Signals>).await;
}

#[tokio::test]
async fn memory_signals_conform_when_shared() {
    let bus: Arc<dyn Signals> = Arc::new(MemorySignals::new());
    signals(async || Arc::clone(&bus)).await;
}

/// A buffer is bounded in bytes too; a message larger than all of it goes through alone.
#[tokio::test]
async fn memory_signals_bound_the_bytes_that_wait() {
    let bus = MemorySignals::new();
    let mut ear = bus.subscribe("s", None).await.unwrap();
    let payload = Bytes::from(vec![0; 1 << 20]);
    for _ in 0..2 {
        for _ in 0..100 {
            bus.publish("s", payload.clone()).unwrap();
        }
        for _ in 0..64 {
            assert_eq!(ear.next().await.unwrap().payload, payload);
        }
        assert!(ear.next().now_or_never().is_none());
    }
    let larger = Bytes::from(vec![0; 65 << 20]);
    bus.publish("s", larger.clone()).unwrap();
    bus.publish("s", payload).unwrap();
    assert_eq!(ear.next().await.unwrap().payload, larger);
    assert!(ear.next().now_or_never().is_none());
}

/// Questions are shared out as well, however many members there are.
#[tokio::test]
async fn memory_signals_share_requests_among_a_queue() {
    let bus = MemorySignals::new();
    for count in 2..=6 {
        let subject = format!("q{count}");
        let mut members = Vec::new();
        for _ in 0..count {
            members.push(bus.subscribe(&subject, Some("q")).await.unwrap());
        }
        for _ in 0..60 * count {
            let timeout = Duration::from_secs(3600);
            let asked = bus.request(&subject, Bytes::new(), timeout).now_or_never();
            assert_eq!(asked, None, "nobody has answered yet");
        }
        for member in &mut members {
            let mut share = 0;
            // Out of the runtime's sight: it lets a task receive only so many at a time.
            while tokio::task::coop::unconstrained(member.next())
                .now_or_never()
                .is_some()
            {
                share += 1;
            }
            assert!((30..=90).contains(&share), "{share} of 60 with {count} members");
        }
    }
}

#[tokio::test]
async fn memory_documents_conform() {
    documents("conformance", async || {
        Arc::new(MemoryDocuments::new()) as Arc<dyn Documents>
    })
    .await;
    let store: Arc<dyn Documents> = Arc::new(MemoryDocuments::new());
    documents("conformance", async || Arc::clone(&store)).await;
}

#[tokio::test]
async fn memory_work_conforms() {
    let engine = || {
        Arc::new(MemoryWork::new(WorkSettings {
            deadline: Duration::from_secs(1),
            ..WorkSettings::default()
        })) as Arc<dyn WorkQueue>
    };
    work_queue(async || engine()).await;
    let shared = engine();
    work_queue(async || Arc::clone(&shared)).await;
}
