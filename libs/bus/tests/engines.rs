//! The conformance lists on the engines in memory.

#![allow(clippy::unwrap_used, reason = "a test reports by panicking")]

use std::{sync::Arc, time::Duration};

use bus::{
    Documents, EventLog, Signals,
    conformance::{LogUnderTest, documents, event_log, signals},
    documents::memory::MemoryDocuments,
    event_log::memory::{MemoryLog, MemoryLogConfig},
    fault::{Faults, FaultyLog},
    signals::memory::MemorySignals,
};

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

#[tokio::test]
async fn memory_documents_conform() {
    documents("conformance", async || {
        Arc::new(MemoryDocuments::new()) as Arc<dyn Documents>
    })
    .await;
    let store: Arc<dyn Documents> = Arc::new(MemoryDocuments::new());
    documents("conformance", async || Arc::clone(&store)).await;
}
