use std::{
    collections::HashMap,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use async_nats::jetstream::{
    Message,
    consumer::{
        DeliverPolicy,
        pull::{Ordered, OrderedConfig},
    },
};
use async_trait::async_trait;
use futures_util::{FutureExt, StreamExt};
use model::RoomToken;
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep, timeout};

use super::{SLACK, Shared, unavailable};
use crate::{Entry, LogError, LogSubject, Tail, subjects};

/// Entries handed out at a time.
const BATCH: usize = 1024;
/// A consumer must be there within this time.
const OPEN: Duration = Duration::from_secs(5);
/// How often it is looked whether the connection is another one: then the consumer is gone, or its requests are.
const LOOK: Duration = Duration::from_millis(100);
/// With nothing read for so long, the log is asked whether there is anything.
const SILENCE: Duration = Duration::from_secs(2);
/// Pause before reading is taken up again.
const RETRY: Duration = Duration::from_millis(100);
/// How often the log is told of reading that does not get on.
const REMIND: Duration = Duration::from_secs(5);
/// Rooms whose entries are counted; beyond that counting begins anew, so that purging comes later.
const ROOMS: usize = 65_536;
/// Rooms purged at a time.
const PURGES: usize = 4;

/// An ordered reader of one partition. It takes reading up again by itself behind the last entry it handed
/// out, whatever became of its consumer or its connection.
pub(super) struct NatsTail {
    shared: Arc<Shared>,
    partition: u16,
    /// Last sequence handed out.
    position: u64,
    messages: Option<Ordered>,
    /// Connections there had been when the consumer was made.
    connects: u64,
    told: Option<Instant>,
    /// Entries seen of a room since it was purged.
    seen: HashMap<RoomToken, u64>,
    purging: Arc<tokio::sync::Semaphore>,
}

impl NatsTail {
    pub(super) async fn open(shared: Arc<Shared>, partition: u16, after: u64) -> Result<Self, LogError> {
        let connects = connects(&shared);
        let messages = consume(&shared, partition, after).await?;
        Ok(Self {
            shared,
            partition,
            position: after,
            messages: Some(messages),
            connects,
            told: None,
            seen: HashMap::new(),
            purging: Arc::new(tokio::sync::Semaphore::new(PURGES)),
        })
    }

    /// The next message behind the position, whatever it takes.
    async fn message(&mut self) -> Message {
        let mut looks = interval_at(Instant::now() + LOOK, LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut silent_since = Instant::now();
        loop {
            let Some(messages) = &mut self.messages else {
                let connects = connects(&self.shared);
                match consume(&self.shared, self.partition, self.position).await {
                    Ok(messages) => {
                        self.messages = Some(messages);
                        self.connects = connects;
                        self.told = None;
                    }
                    Err(error) => {
                        self.tell(&error);
                        sleep(RETRY).await;
                    }
                }
                continue;
            };
            tokio::select! {
                message = messages.next() => match message {
                    Some(Ok(message)) if self.is_new(&message) => return message,
                    Some(Ok(_)) => {}
                    Some(Err(error)) => {
                        self.tell(&error);
                        self.messages = None;
                        sleep(RETRY).await;
                    }
                    None => self.messages = None,
                },
                _ = looks.tick() => {
                    if connects(&self.shared) != self.connects {
                        self.messages = None;
                    } else if silent_since.elapsed() >= SILENCE {
                        silent_since = Instant::now();
                        let last = self.shared.last_seq(self.partition).await;
                        if last.is_ok_and(|last| last > self.position) {
                            self.messages = None;
                        }
                    }
                }
            }
        }
    }

    fn is_new(&self, message: &Message) -> bool {
        message
            .info()
            .is_ok_and(|info| info.stream_sequence > self.position)
    }

    fn tell(&mut self, error: &impl std::fmt::Display) {
        if self.told.is_none_or(|told| told.elapsed() >= REMIND) {
            self.told = Some(Instant::now());
            tracing::warn!(%error, partition = self.partition, "the log is being read again");
        }
    }

    fn take(&mut self, message: &Message, entries: &mut Vec<Entry>) {
        if let Ok(info) = message.info() {
            self.position = info.stream_sequence;
        }
        let Some(entry) = entry(message) else { return };
        if let LogSubject::Room(room) = entry.subject {
            self.count(room);
        }
        entries.push(entry);
    }

    fn count(&mut self, room: RoomToken) {
        if self.seen.len() >= ROOMS && !self.seen.contains_key(&room) {
            self.seen.clear();
        }
        let seen = self.seen.entry(room).or_default();
        *seen += 1;
        let most = self.shared.config.max_messages_per_room as u64 + SLACK;
        // A reader that has begun in the middle knows of fewer than there are, so it asks a little early.
        if *seen >= SLACK.min(most / 2) {
            *seen = 0;
            self.purge(room);
        }
    }

    /// Gives back what a room holds beyond its history. Entries behind the position are never touched: so
    /// many more are kept as there can be.
    fn purge(&self, room: RoomToken) {
        let Ok(permit) = Arc::clone(&self.purging).try_acquire_owned() else {
            return;
        };
        let (shared, partition, position) = (Arc::clone(&self.shared), self.partition, self.position);
        let purge = async move {
            let _permit = permit;
            let last = shared.last_seq(partition).await?;
            let unread = last.saturating_sub(position);
            let keep = shared.config.max_messages_per_room as u64 + SLACK + unread;
            let subject = subjects::log_subject(partition, LogSubject::Room(room));
            let stream = shared.stream(partition)?;
            stream
                .purge()
                .keep(keep)
                .filter(subject)
                .await
                .map_err(unavailable)?;
            Ok::<_, LogError>(())
        };
        #[expect(
            clippy::disallowed_methods,
            reason = "ends by itself within the time of a question; the next one makes up for what it did not do"
        )]
        tokio::spawn(async move {
            if let Err(error) = purge.await {
                tracing::debug!(%error, partition, "a room could not be purged");
            }
        });
    }
}

#[async_trait]
impl Tail for NatsTail {
    async fn next(&mut self) -> Result<Vec<Entry>, LogError> {
        let mut entries = Vec::new();
        loop {
            let message = self.message().await;
            self.take(&message, &mut entries);
            // What is there already, without waiting.
            while entries.len() < BATCH {
                let Some(messages) = &mut self.messages else { break };
                match messages.next().now_or_never() {
                    Some(Some(Ok(message))) => {
                        if self.is_new(&message) {
                            self.take(&message, &mut entries);
                        }
                    }
                    Some(_) => {
                        self.messages = None;
                        break;
                    }
                    None => break,
                }
            }
            if !entries.is_empty() {
                return Ok(entries);
            }
        }
    }
}

fn connects(shared: &Shared) -> u64 {
    shared.client.statistics().connects.load(Ordering::Relaxed)
}

async fn consume(shared: &Shared, partition: u16, after: u64) -> Result<Ordered, LogError> {
    let config = OrderedConfig {
        deliver_policy: DeliverPolicy::ByStartSequence {
            start_sequence: after + 1,
        },
        ..OrderedConfig::default()
    };
    let stream = shared.stream(partition)?;
    let consumer = timeout(OPEN, stream.create_consumer(config)).await;
    let consumer = consumer.map_err(unavailable)?.map_err(unavailable)?;
    timeout(OPEN, consumer.messages())
        .await
        .map_err(unavailable)?
        .map_err(unavailable)
}

/// The entry in a message; `None` when its subject is none of ours.
pub(super) fn entry(message: &Message) -> Option<Entry> {
    let info = message.info().ok()?;
    let Some(subject) = subjects::entry_of(&message.subject) else {
        tracing::warn!(subject = %message.subject, "the log holds an entry that is none");
        return None;
    };
    Some(Entry {
        seq: info.stream_sequence,
        subject,
        time_ms: millis(info.published.unix_timestamp_nanos()),
        payload: message.payload.clone(),
    })
}

/// Unix milliseconds; 0 for what lies before.
pub(super) fn millis(nanoseconds: i128) -> u64 {
    u64::try_from(nanoseconds / 1_000_000).unwrap_or_default()
}
