//! The log on JetStream: one stream a partition, one subject a room.
//!
//! Nothing limits a subject's entries on append: a limit there would take acknowledged entries from a worker
//! that is a moment behind (CONTRACT G1). What a room holds beyond its history is purged by the process that
//! reads the partition, behind its own position.

use std::{sync::Arc, time::Duration};

use async_nats::{
    Client,
    jetstream::{
        self,
        consumer::{DeliverPolicy, pull::OrderedConfig},
        stream::{self, StorageType, Stream},
    },
};
use async_trait::async_trait;
use futures_util::{StreamExt, future::BoxFuture};
use model::RoomToken;
use tokio::{sync::Semaphore, time::timeout};

use super::{Append, Entry, EventLog, LogError, LogSubject, NewEntry, Page, PageQuery, Tail};
use crate::subjects;

mod publisher;
mod reconcile;
mod tail;

pub use reconcile::OpenError;

/// A question about the log must be answered within this time.
const ANSWER: Duration = Duration::from_secs(5);
/// Rooms that are read for their history at a time, in this process.
const PAGES: usize = 16;
/// Entries of a room that are not purged although they are beyond its history: purging costs a question.
const SLACK: u64 = 512;

/// How the streams are made.
#[derive(Clone, Debug)]
pub struct NatsLogConfig {
    /// How many partitions, 1 to 1024; the same for ever.
    pub partitions: u16,
    /// Copies of each stream in a NATS cluster, 1 to 5.
    pub replicas: u8,
    /// Entries older than this go.
    pub max_age: Duration,
    /// What a room's history shows, at least 1.
    pub max_messages_per_room: usize,
    /// Bytes of the largest record. The server must take half as many again.
    pub max_record_bytes: usize,
    /// How long an append is tried again while its outcome is not known.
    pub retry: Duration,
}

impl Default for NatsLogConfig {
    fn default() -> Self {
        Self {
            partitions: 16,
            replicas: 1,
            max_age: Duration::from_secs(24 * 3600),
            max_messages_per_room: 1000,
            max_record_bytes: 1 << 20,
            retry: Duration::from_secs(10),
        }
    }
}

/// The log on JetStream. Cheap to clone.
#[derive(Clone)]
pub struct NatsLog {
    shared: Arc<Shared>,
}

struct Shared {
    client: Client,
    config: NatsLogConfig,
    streams: Vec<Stream<()>>,
    publishers: Vec<publisher::Publisher>,
    pages: Semaphore,
}

impl NatsLog {
    /// Makes the streams, or changes those there are to the configuration.
    ///
    /// # Errors
    /// [`OpenError::Unavailable`] when JetStream does not answer: trying again may help. The others need an
    /// operator.
    pub async fn open(client: Client, config: NatsLogConfig) -> Result<Self, OpenError> {
        let mut context = jetstream::new(client.clone());
        context.set_timeout(ANSWER);
        reconcile::check_payload(&client, &config)?;
        reconcile::streams(&context, &config).await?;
        let mut streams = Vec::with_capacity(usize::from(config.partitions));
        for partition in 0..config.partitions {
            let stream = context
                .get_stream_no_info(subjects::log_stream(partition))
                .await
                .map_err(|error| OpenError::Unavailable(error.to_string()))?;
            streams.push(stream);
        }
        let publishers = (0..config.partitions)
            .map(|_| publisher::Publisher::start(client.clone(), config.retry))
            .collect();
        Ok(Self {
            shared: Arc::new(Shared {
                client,
                config,
                streams,
                publishers,
                pages: Semaphore::new(PAGES),
            }),
        })
    }
}

impl Shared {
    fn stream(&self, partition: u16) -> Result<&Stream<()>, LogError> {
        self.streams
            .get(usize::from(partition))
            .ok_or(LogError::NoSuchPartition(partition))
    }

    async fn last_seq(&self, partition: u16) -> Result<u64, LogError> {
        let info = timeout(ANSWER, self.stream(partition)?.get_info()).await;
        Ok(info
            .map_err(unavailable)?
            .map_err(unavailable)?
            .state
            .last_sequence)
    }

    /// All entries of a room, oldest first. JetStream reads forwards only; what a room holds is bounded by
    /// purging, so this is too.
    async fn room(&self, partition: u16, room: RoomToken) -> Result<Vec<Entry>, LogError> {
        let _permit = self.pages.acquire().await.map_err(unavailable)?;
        let config = OrderedConfig {
            filter_subject: subjects::log_subject(partition, LogSubject::Room(room)),
            deliver_policy: DeliverPolicy::All,
            ..OrderedConfig::default()
        };
        let mut consumer = self
            .stream(partition)?
            .create_consumer(config)
            .await
            .map_err(unavailable)?;
        let pending = consumer.info().await.map_err(unavailable)?.num_pending;
        let mut entries = Vec::with_capacity(usize::try_from(pending).unwrap_or_default());
        if pending == 0 {
            return Ok(entries);
        }
        let mut messages = consumer.messages().await.map_err(unavailable)?;
        loop {
            let message = timeout(ANSWER, messages.next()).await.map_err(unavailable)?;
            let message = message
                .ok_or_else(|| LogError::Unavailable("reading a room broke off".to_owned()))?
                .map_err(unavailable)?;
            let left = message.info().map_err(unavailable)?.pending;
            entries.extend(tail::entry(&message));
            if left == 0 {
                return Ok(entries);
            }
        }
    }
}

#[async_trait]
impl EventLog for NatsLog {
    fn partitions(&self) -> u16 {
        self.shared.config.partitions
    }

    fn append(&self, partition: u16, entry: NewEntry) -> Append {
        let (size, limit) = (entry.payload.len(), self.shared.config.max_record_bytes);
        if size > limit {
            return failed(LogError::TooLarge { size, limit });
        }
        match self.shared.publishers.get(usize::from(partition)) {
            Some(publisher) => publisher.append(subjects::log_subject(partition, entry.subject), entry),
            None => failed(LogError::NoSuchPartition(partition)),
        }
    }

    async fn last_seq(&self, partition: u16) -> Result<u64, LogError> {
        self.shared.last_seq(partition).await
    }

    async fn tail(&self, partition: u16, after: u64) -> Result<Box<dyn Tail>, LogError> {
        self.shared.stream(partition)?;
        Ok(Box::new(
            tail::NatsTail::open(Arc::clone(&self.shared), partition, after).await?,
        ))
    }

    async fn page(&self, partition: u16, room: RoomToken, query: PageQuery) -> Result<Page, LogError> {
        let mut entries = self.shared.room(partition, room).await?;
        let beyond = entries
            .len()
            .saturating_sub(self.shared.config.max_messages_per_room);
        entries.drain(..beyond);
        Ok(match query {
            PageQuery::Before { before, limit } => {
                entries.truncate(entries.partition_point(|entry| entry.seq < before));
                let first = entries.len().saturating_sub(limit);
                Page {
                    entries: entries.split_off(first),
                    has_more: first > 0,
                }
            }
            PageQuery::After { after, limit } => {
                let mut entries = entries.split_off(entries.partition_point(|entry| entry.seq <= after));
                let has_more = entries.len() > limit;
                entries.truncate(limit);
                Page { entries, has_more }
            }
        })
    }

    async fn get(&self, partition: u16, seq: u64) -> Result<Option<Entry>, LogError> {
        let stream = self.shared.stream(partition)?;
        // JetStream takes 0 for a mistake, and so what is more than it can hold.
        if seq == 0 || seq > i64::MAX.unsigned_abs() {
            return Ok(None);
        }
        match timeout(ANSWER, stream.get_raw_message(seq))
            .await
            .map_err(unavailable)?
        {
            Ok(message) => Ok(subjects::entry_of(&message.subject).map(|subject| Entry {
                seq: message.sequence,
                subject,
                time_ms: tail::millis(message.time.unix_timestamp_nanos()),
                payload: message.payload,
            })),
            Err(error) if error.kind() == stream::RawMessageErrorKind::NoMessageFound => Ok(None),
            Err(error) => Err(unavailable(error)),
        }
    }
}

fn unavailable(error: impl std::fmt::Display) -> LogError {
    LogError::Unavailable(error.to_string())
}

fn failed(error: LogError) -> BoxFuture<'static, Result<super::Appended, LogError>> {
    Box::pin(std::future::ready(Err(error)))
}
