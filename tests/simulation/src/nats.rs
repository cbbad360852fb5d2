//! What a process sees of NATS: the log, signals and documents, in memory, behind the weather.

use std::{collections::HashMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use bus::{
    Append, Appended, Document, Documents, DocumentsError, Entry, EventLog, LogError, NewEntry, Page,
    PageQuery, Signal, Signals, SignalsError, Subscription, Tail, documents::memory::MemoryDocuments,
    signals::memory::MemorySignals,
};
use bytes::Bytes;
use model::{RoomToken, TraceContext};
use parking_lot::Mutex;
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, sleep, sleep_until, timeout},
};

use crate::{
    node::{Life, Lost, Node, Server, spawn},
    truth::Truth,
};

/// So long the log is tried again before an append is given up.
const APPEND: Duration = Duration::from_secs(3);
/// Messages on their way, at most.
const ON_THE_WAY: usize = 65_536;

fn log_lost(_: Lost) -> LogError {
    LogError::Unavailable("on purpose".to_owned())
}

fn signals_lost() -> SignalsError {
    SignalsError::Unavailable("on purpose".to_owned())
}

fn documents_lost(_: Lost) -> DocumentsError {
    DocumentsError::Unavailable("on purpose".to_owned())
}

/// The log, for one process.
pub(crate) struct NodeLog {
    node: Arc<Node>,
    truth: Arc<Truth>,
    /// By partition: appends keep their order.
    publishers: Mutex<HashMap<u16, mpsc::Sender<Sent>>>,
}

/// An append on its way to the log.
struct Sent {
    entry: NewEntry,
    /// When it gets there.
    at: Instant,
    answer: oneshot::Sender<Result<Appended, LogError>>,
}

impl NodeLog {
    pub(crate) fn new(node: &Arc<Node>, truth: &Arc<Truth>) -> Arc<Self> {
        Arc::new(Self {
            node: Arc::clone(node),
            truth: Arc::clone(truth),
            publishers: Mutex::default(),
        })
    }

    fn publisher(&self, partition: u16) -> mpsc::Sender<Sent> {
        let mut publishers = self.publishers.lock();
        let publisher = publishers.entry(partition).or_insert_with(|| {
            let (sender, receiver) = mpsc::channel(ON_THE_WAY);
            let (node, truth) = (Arc::clone(&self.node), Arc::clone(&self.truth));
            spawn(publish(node, truth, partition, receiver));
            sender
        });
        publisher.clone()
    }

    async fn read<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, LogError>> + Send + 'static,
    ) -> Result<T, LogError> {
        self.node.call(Server::Nats, work).await.map_err(log_lost)?
    }
}

/// Appends to one partition, in the order of the calls, whatever becomes of each.
async fn publish(node: Arc<Node>, truth: Arc<Truth>, partition: u16, mut entries: mpsc::Receiver<Sent>) {
    while let Some(Sent { entry, at, answer }) = entries.recv().await {
        sleep_until(at).await;
        let dice = &node.dice;
        let in_time = timeout(APPEND, node.reaches(Server::Nats)).await.is_ok();
        if !in_time || dice.percent(node.weather(Server::Nats).refused) {
            // Who asked may be gone.
            let _ = answer.send(Err(log_lost(Lost)));
            continue;
        }
        let stored = truth.append(partition, entry).await;
        let node = Arc::clone(&node);
        spawn(async move {
            let weather = node.weather(Server::Nats);
            let result = if !node.dice.percent(weather.unanswered) && !weather.cut {
                node.trip(Server::Nats).await;
                stored
            } else if node.dice.percent(50) {
                // Tried again under the same key, the log says that it has it.
                node.give_up().await;
                stored.map(|stored| Appended {
                    duplicate: true,
                    ..stored
                })
            } else {
                node.give_up().await;
                Err(log_lost(Lost))
            };
            node.up().await;
            let _ = answer.send(result);
        });
    }
}

#[async_trait]
impl EventLog for NodeLog {
    fn partitions(&self) -> u16 {
        self.truth.log().partitions()
    }

    fn append(&self, partition: u16, entry: NewEntry) -> Append {
        let (answer, answered) = oneshot::channel();
        let delay = self.node.dice.delay(self.node.weather(Server::Nats).delay);
        let sent = Sent {
            entry,
            at: Instant::now() + delay,
            answer,
        };
        // What a process that stands still or is dead says is not heard.
        let taken = self.node.life() == Life::Up && self.publisher(partition).try_send(sent).is_ok();
        let node = Arc::clone(&self.node);
        Box::pin(async move {
            if !taken {
                node.up().await;
            }
            answered.await.unwrap_or(Err(log_lost(Lost)))
        })
    }

    async fn last_seq(&self, partition: u16) -> Result<u64, LogError> {
        let log = self.truth.log();
        self.read(async move { log.last_seq(partition).await }).await
    }

    async fn tail(&self, partition: u16, after: u64) -> Result<Box<dyn Tail>, LogError> {
        let log = self.truth.log();
        let inner = self.read(async move { log.tail(partition, after).await }).await?;
        Ok(Box::new(NodeTail {
            node: Arc::clone(&self.node),
            inner,
            broken: false,
            ready: None,
        }))
    }

    async fn page(&self, partition: u16, room: RoomToken, query: PageQuery) -> Result<Page, LogError> {
        let log = self.truth.log();
        self.read(async move { log.page(partition, room, query).await })
            .await
    }

    async fn get(&self, partition: u16, seq: u64) -> Result<Option<Entry>, LogError> {
        let log = self.truth.log();
        self.read(async move { log.get(partition, seq).await }).await
    }
}

struct NodeTail {
    node: Arc<Node>,
    inner: Box<dyn Tail>,
    broken: bool,
    /// Entries on their way, and when they are there.
    ready: Option<(Vec<Entry>, Instant)>,
}

#[async_trait]
impl Tail for NodeTail {
    async fn next(&mut self) -> Result<Vec<Entry>, LogError> {
        let node = Arc::clone(&self.node);
        if self.broken {
            return Err(log_lost(Lost));
        }
        if self.ready.is_none() {
            let entries = self.inner.next().await?;
            let delay = node.dice.delay(node.weather(Server::Nats).delay);
            self.ready = Some((entries, Instant::now() + delay));
        }
        if let Some((_, at)) = &self.ready {
            sleep_until(*at).await;
        }
        node.reaches(Server::Nats).await;
        node.up().await;
        let weather = node.weather(Server::Nats);
        if node.dice.percent(weather.refused / 4) {
            self.broken = true;
            return Err(log_lost(Lost));
        }
        Ok(self.ready.take().map(|(entries, _)| entries).unwrap_or_default())
    }
}

/// Signals, for one process.
pub(crate) struct NodeSignals {
    node: Arc<Node>,
    inner: MemorySignals,
    sender: mpsc::Sender<(Instant, String, Bytes, Option<TraceContext>)>,
}

impl NodeSignals {
    pub(crate) fn new(node: &Arc<Node>, inner: &MemorySignals) -> Arc<Self> {
        let (sender, mut messages) =
            mpsc::channel::<(Instant, String, Bytes, Option<TraceContext>)>(ON_THE_WAY);
        let (sending, through) = (Arc::clone(node), inner.clone());
        spawn(async move {
            while let Some((at, subject, payload, trace)) = messages.recv().await {
                sleep_until(at).await;
                if !sending.weather(Server::Nats).cut {
                    // At most once: who does not get it does without.
                    let _ = through.publish_traced(&subject, payload, trace.as_ref());
                }
            }
        });
        Arc::new(Self {
            node: Arc::clone(node),
            inner: inner.clone(),
            sender,
        })
    }
}

#[async_trait]
impl Signals for NodeSignals {
    fn publish_traced(
        &self,
        subject: &str,
        payload: Bytes,
        trace: Option<&TraceContext>,
    ) -> Result<(), SignalsError> {
        let weather = self.node.weather(Server::Nats);
        if self.node.life() == Life::Up && !weather.cut {
            let at = Instant::now() + self.node.dice.delay(weather.delay);
            let _ = self
                .sender
                .try_send((at, subject.to_owned(), payload, trace.copied()));
        }
        Ok(())
    }

    async fn subscribe(
        &self,
        subject: &str,
        queue: Option<&str>,
    ) -> Result<Box<dyn Subscription>, SignalsError> {
        let (inner, subject, queue) = (self.inner.clone(), subject.to_owned(), queue.map(str::to_owned));
        let work = async move { inner.subscribe(&subject, queue.as_deref()).await };
        let mut inner = self
            .node
            .call(Server::Nats, work)
            .await
            .map_err(|_| signals_lost())??;
        let (sender, receiver) = mpsc::channel(ON_THE_WAY);
        let node = Arc::clone(&self.node);
        // Ends with the process, so that nobody listens any more.
        spawn(async move {
            let forward = async {
                while let Some(signal) = inner.next().await {
                    let weather = node.weather(Server::Nats);
                    if weather.cut {
                        continue;
                    }
                    sleep(node.dice.delay(weather.delay)).await;
                    node.up().await;
                    if sender.send(signal).await.is_err() {
                        break;
                    }
                }
            };
            tokio::select! {
                () = forward => {}
                () = node.dead() => {}
                () = sender.closed() => {}
            }
        });
        Ok(Box::new(NodeSubscription(receiver)))
    }

    async fn request(&self, subject: &str, payload: Bytes, limit: Duration) -> Result<Bytes, SignalsError> {
        let node = &self.node;
        node.up().await;
        let asked = async {
            node.trip(Server::Nats).await;
            if node.weather(Server::Nats).cut {
                std::future::pending::<()>().await;
            }
            let answer = self.inner.request(subject, payload, limit).await;
            if node.weather(Server::Nats).cut {
                std::future::pending::<()>().await;
            }
            node.trip(Server::Nats).await;
            answer
        };
        let answer = timeout(limit, asked).await;
        node.up().await;
        answer.unwrap_or_else(|_| Err(SignalsError::Timeout(subject.to_owned())))
    }
}

/// Signals that have come to the process. One that is dead gets none and is told of no end.
struct NodeSubscription(mpsc::Receiver<Signal>);

#[async_trait]
impl Subscription for NodeSubscription {
    async fn next(&mut self) -> Option<Signal> {
        match self.0.recv().await {
            Some(signal) => Some(signal),
            None => std::future::pending().await,
        }
    }
}

/// Documents, for one process.
pub(crate) struct NodeDocuments {
    pub(crate) node: Arc<Node>,
    pub(crate) inner: MemoryDocuments,
}

#[async_trait]
impl Documents for NodeDocuments {
    async fn get(&self, bucket: &str, key: &str) -> Result<Option<Document>, DocumentsError> {
        let (inner, bucket, key) = (self.inner.clone(), bucket.to_owned(), key.to_owned());
        let work = async move { inner.get(&bucket, &key).await };
        self.node.call(Server::Nats, work).await.map_err(documents_lost)?
    }

    async fn put(
        &self,
        bucket: &str,
        key: &str,
        value: Bytes,
        expected: Option<u64>,
    ) -> Result<u64, DocumentsError> {
        let (inner, bucket, key) = (self.inner.clone(), bucket.to_owned(), key.to_owned());
        let work = async move { inner.put(&bucket, &key, value, expected).await };
        self.node.call(Server::Nats, work).await.map_err(documents_lost)?
    }

    async fn delete(&self, bucket: &str, key: &str) -> Result<(), DocumentsError> {
        let (inner, bucket, key) = (self.inner.clone(), bucket.to_owned(), key.to_owned());
        let work = async move { inner.delete(&bucket, &key).await };
        self.node.call(Server::Nats, work).await.map_err(documents_lost)?
    }
}
