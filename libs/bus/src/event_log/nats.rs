//! The log on JetStream: one stream a partition, one subject a room.
//!
//! Nothing limits a subject's entries on append: a limit there would take acknowledged entries from a worker
//! that is a moment behind (CONTRACT G1). What a room holds beyond its history is purged by the process that
//! reads the partition, behind its own position and up to a sequence, never by a count.
//!
//! Questions go to the leader of a stream, not to any replica (direct get): what has been acknowledged is seen.

use std::{
    future::Future,
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_nats::{
    Client,
    connection::State,
    jetstream::{
        self,
        stream::{self, Stream},
    },
};
use async_trait::async_trait;
use futures_util::future::BoxFuture;
use model::RoomToken;
use parking_lot::Mutex;
use tokio::time::{sleep, timeout};

use super::{Append, Entry, EventLog, LogError, NewEntry, Page, PageQuery, Tail};
use crate::{nats::lost, subjects};

mod history;
mod publisher;
mod reader;
mod reconcile;
mod tail;

pub use reconcile::OpenError;

/// A question about the log must be answered within this time, a restart of the server included.
const ANSWER: Duration = Duration::from_secs(5);
/// Pause before a question is asked again.
const AGAIN: Duration = Duration::from_millis(50);

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
    /// How long an append is tried again while its outcome is not known, waiting to be sent included.
    pub retry: Duration,
    /// So long an entry stays after a reader has had it, whatever its room holds: a worker that takes over from
    /// a checkpoint, and a gateway that reads what it missed, come later than the reader.
    pub keep_read: Duration,
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
            keep_read: Duration::from_secs(60),
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
    /// Positions of the open tails, a partition.
    positions: Vec<Mutex<Vec<Weak<AtomicU64>>>>,
    histories: history::Histories,
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
        reconcile::streams(&client, &context, &config).await?;
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
                streams,
                publishers,
                positions: (0..config.partitions).map(|_| Mutex::default()).collect(),
                histories: history::Histories::new(),
                config,
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

    /// Asks, again if need be, until there is an answer.
    async fn ask<T, A>(&self, question: impl Fn() -> A) -> Result<T, LogError>
    where
        A: Future<Output = Result<T, LogError>>,
    {
        let mut error = LogError::Unavailable("there is no connection".to_owned());
        let answered = timeout(ANSWER, async {
            loop {
                if self.client.connection_state() == State::Connected {
                    tokio::select! {
                        answer = question() => match answer {
                            Ok(answer) => return answer,
                            Err(refused) => error = refused,
                        },
                        () = lost(&self.client) => {
                            error = LogError::Unavailable("the connection was lost".to_owned());
                        }
                    }
                }
                sleep(AGAIN).await;
            }
        });
        match answered.await {
            Ok(answer) => Ok(answer),
            Err(_) => Err(error),
        }
    }

    async fn last_seq(&self, partition: u16) -> Result<u64, LogError> {
        let stream = self.stream(partition)?;
        let info = || async { stream.get_info().await.map_err(unavailable) };
        Ok(self.ask(info).await?.state.last_sequence)
    }

    /// The sequence up to which every tail of this process has read the partition.
    fn read_by_all(&self, partition: u16) -> u64 {
        let Some(positions) = self.positions.get(usize::from(partition)) else {
            return 0;
        };
        let positions = positions.lock();
        let open = positions.iter().filter_map(Weak::upgrade);
        open.map(|position| position.load(Ordering::Relaxed))
            .min()
            .unwrap_or_default()
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
        self.shared.stream(partition)?;
        let entries = history::room(&self.shared, partition, room).await?;
        let (page, has_more) = match query {
            PageQuery::Before { before, limit } => {
                let end = entries.partition_point(|entry| entry.seq < before);
                let start = end.saturating_sub(limit);
                (start..end, start > 0)
            }
            PageQuery::After { after, limit } => {
                let start = entries.partition_point(|entry| entry.seq <= after);
                let end = start.saturating_add(limit).min(entries.len());
                (start..end, end < entries.len())
            }
        };
        Ok(Page {
            entries: entries.get(page).unwrap_or_default().to_vec(),
            has_more,
        })
    }

    async fn get(&self, partition: u16, seq: u64) -> Result<Option<Entry>, LogError> {
        let stream = self.shared.stream(partition)?;
        // JetStream takes 0 for a mistake, and so what is more than it can hold.
        if seq == 0 || seq > i64::MAX.unsigned_abs() {
            return Ok(None);
        }
        let message = || async {
            match stream.get_raw_message(seq).await {
                Ok(message) => Ok(Some(message)),
                Err(error) if error.kind() == stream::RawMessageErrorKind::NoMessageFound => Ok(None),
                Err(error) => Err(unavailable(error)),
            }
        };
        let message = self.shared.ask(message).await?;
        Ok(message.and_then(|message| {
            Some(Entry {
                seq: message.sequence,
                subject: subjects::entry_of(&message.subject)?,
                time_ms: reader::millis(message.time.unix_timestamp_nanos()),
                trace: reader::trace(Some(&message.headers)),
                payload: message.payload,
            })
        }))
    }
}

/// How often the client has connected.
fn connects(client: &Client) -> u64 {
    client.statistics().connects.load(Ordering::Relaxed)
}

fn unavailable(error: impl std::fmt::Display) -> LogError {
    LogError::Unavailable(error.to_string())
}

fn failed(error: LogError) -> BoxFuture<'static, Result<super::Appended, LogError>> {
    Box::pin(std::future::ready(Err(error)))
}
