//! The engines on NATS with their calls counted.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use bus::{
    Append, Document, Documents, DocumentsError, Entry, EventLog, LogError, NewEntry, Page, PageQuery,
    Signals, SignalsError, Subscription, Tail,
};
use bytes::Bytes;
use model::{RoomToken, TraceContext};

use crate::metrics::{BusCall, BusCalls};

/// The log.
pub(crate) struct MeasuredLog {
    inner: Arc<dyn EventLog>,
    append: BusCall,
    last_seq: BusCall,
    tail: BusCall,
    page: BusCall,
    get: BusCall,
}

/// Signals.
pub(crate) struct MeasuredSignals {
    inner: Arc<dyn Signals>,
    publish: BusCall,
    subscribe: BusCall,
    request: BusCall,
}

/// Documents.
pub(crate) struct MeasuredDocuments {
    inner: Arc<dyn Documents>,
    get: BusCall,
    put: BusCall,
    delete: BusCall,
}

impl MeasuredLog {
    pub(crate) fn new(inner: Arc<dyn EventLog>, calls: &BusCalls) -> Arc<Self> {
        Arc::new(Self {
            inner,
            append: calls.call("append"),
            last_seq: calls.call("last_seq"),
            tail: calls.call("tail"),
            page: calls.call("page"),
            get: calls.call("get"),
        })
    }
}

impl MeasuredSignals {
    pub(crate) fn new(inner: Arc<dyn Signals>, calls: &BusCalls) -> Arc<Self> {
        Arc::new(Self {
            inner,
            publish: calls.call("publish"),
            subscribe: calls.call("subscribe"),
            request: calls.call("request"),
        })
    }
}

impl MeasuredDocuments {
    pub(crate) fn new(inner: Arc<dyn Documents>, calls: &BusCalls) -> Arc<Self> {
        Arc::new(Self {
            inner,
            get: calls.call("document_get"),
            put: calls.call("document_put"),
            delete: calls.call("document_delete"),
        })
    }
}

/// Counts what is a fault of the bus, not of the question.
async fn measured<T, E>(
    call: &BusCall,
    work: impl Future<Output = Result<T, E>>,
    is_fault: impl FnOnce(&E) -> bool,
) -> Result<T, E> {
    let begun = Instant::now();
    let done = work.await;
    let failed = done.as_ref().err().is_some_and(is_fault);
    call.done(begun.elapsed(), failed);
    done
}

fn log_fault(error: &LogError) -> bool {
    matches!(error, LogError::Unavailable(_))
}

/// That nobody listens is an answer, and what is too large is the sender's fault.
fn signals_fault(error: &SignalsError) -> bool {
    !matches!(error, SignalsError::NoResponders(_) | SignalsError::TooLarge(_))
}

fn documents_fault(error: &DocumentsError) -> bool {
    matches!(error, DocumentsError::Unavailable(_))
}

#[async_trait]
impl EventLog for MeasuredLog {
    fn partitions(&self) -> u16 {
        self.inner.partitions()
    }

    fn append(&self, partition: u16, entry: NewEntry) -> Append {
        let call = self.append.clone();
        let append = self.inner.append(partition, entry);
        Box::pin(async move { measured(&call, append, log_fault).await })
    }

    async fn last_seq(&self, partition: u16) -> Result<u64, LogError> {
        measured(&self.last_seq, self.inner.last_seq(partition), log_fault).await
    }

    async fn tail(&self, partition: u16, after: u64) -> Result<Box<dyn Tail>, LogError> {
        measured(&self.tail, self.inner.tail(partition, after), log_fault).await
    }

    async fn page(&self, partition: u16, room: RoomToken, query: PageQuery) -> Result<Page, LogError> {
        measured(&self.page, self.inner.page(partition, room, query), log_fault).await
    }

    async fn get(&self, partition: u16, seq: u64) -> Result<Option<Entry>, LogError> {
        measured(&self.get, self.inner.get(partition, seq), log_fault).await
    }
}

#[async_trait]
impl Signals for MeasuredSignals {
    fn publish_traced(
        &self,
        subject: &str,
        payload: Bytes,
        trace: Option<&TraceContext>,
    ) -> Result<(), SignalsError> {
        let begun = Instant::now();
        let done = self.inner.publish_traced(subject, payload, trace);
        self.publish.done(begun.elapsed(), done.is_err());
        done
    }

    async fn subscribe(
        &self,
        subject: &str,
        queue: Option<&str>,
    ) -> Result<Box<dyn Subscription>, SignalsError> {
        let work = self.inner.subscribe(subject, queue);
        measured(&self.subscribe, work, signals_fault).await
    }

    async fn request(&self, subject: &str, payload: Bytes, timeout: Duration) -> Result<Bytes, SignalsError> {
        let work = self.inner.request(subject, payload, timeout);
        measured(&self.request, work, signals_fault).await
    }
}

#[async_trait]
impl Documents for MeasuredDocuments {
    async fn get(&self, bucket: &str, key: &str) -> Result<Option<Document>, DocumentsError> {
        measured(&self.get, self.inner.get(bucket, key), documents_fault).await
    }

    async fn put(
        &self,
        bucket: &str,
        key: &str,
        value: Bytes,
        expected: Option<u64>,
    ) -> Result<u64, DocumentsError> {
        let work = self.inner.put(bucket, key, value, expected);
        measured(&self.put, work, documents_fault).await
    }

    async fn delete(&self, bucket: &str, key: &str) -> Result<(), DocumentsError> {
        measured(&self.delete, self.inner.delete(bucket, key), documents_fault).await
    }
}
