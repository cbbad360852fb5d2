use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_nats::jetstream::Message;
use async_trait::async_trait;
use futures_util::FutureExt;
use model::RoomToken;
use tokio::{
    sync::Semaphore,
    time::{Instant, MissedTickBehavior, interval_at, sleep},
};

use super::{
    Shared, connects,
    reader::{Reader, entry},
    unavailable,
};
use crate::{Entry, LogError, LogSubject, Tail, subjects};

/// Entries handed out at a time, and bytes of theirs, the last entry not counted.
const BATCH: usize = 1024;
const BATCH_BYTES: usize = 4 << 20;
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
    position: Arc<AtomicU64>,
    reader: Option<Reader>,
    /// Connections there had been when the reader was opened.
    connects: u64,
    told: Option<Instant>,
    rooms: HashMap<RoomToken, Room>,
    purges: Arc<Semaphore>,
}

/// What was handed out of a room.
#[derive(Default)]
struct Room {
    /// Entries since the newest mark.
    since: usize,
    /// Where every so-and-so-manieth entry stands and when it was handed out, oldest first.
    marks: VecDeque<(u64, Instant)>,
}

impl NatsTail {
    pub(super) async fn open(shared: Arc<Shared>, partition: u16, after: u64) -> Result<Self, LogError> {
        let connects = connects(&shared.client);
        // Known before anything is read, so that no purge overtakes it.
        let position = Arc::new(AtomicU64::new(after));
        if let Some(positions) = shared.positions.get(usize::from(partition)) {
            let mut positions = positions.lock();
            positions.retain(|position| position.strong_count() > 0);
            positions.push(Arc::downgrade(&position));
        }
        let reader = Reader::open(&shared, partition, after.saturating_add(1), None).await?;
        Ok(Self {
            shared,
            partition,
            position,
            reader: Some(reader),
            connects,
            told: None,
            rooms: HashMap::new(),
            purges: Arc::new(Semaphore::new(PURGES)),
        })
    }

    fn position(&self) -> u64 {
        self.position.load(Ordering::Relaxed)
    }

    /// The next message behind the position, whatever it takes.
    async fn message(&mut self) -> Message {
        let mut looks = interval_at(Instant::now() + LOOK, LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut silent_since = Instant::now();
        loop {
            let Some(reader) = &mut self.reader else {
                let connects = connects(&self.shared.client);
                let first = self.position().saturating_add(1);
                match Reader::open(&self.shared, self.partition, first, None).await {
                    Ok(reader) => {
                        self.reader = Some(reader);
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
                message = reader.next() => match message {
                    Ok(message) if self.is_new(&message) => return message,
                    Ok(_) => {}
                    Err(error) => {
                        self.reader = None;
                        self.tell(&error);
                        sleep(RETRY).await;
                    }
                },
                _ = looks.tick() => {
                    if connects(&self.shared.client) != self.connects {
                        self.reader = None;
                    } else if silent_since.elapsed() >= SILENCE {
                        silent_since = Instant::now();
                        let last = self.shared.last_seq(self.partition).await;
                        if last.is_ok_and(|last| last > self.position()) {
                            self.reader = None;
                        }
                    }
                }
            }
        }
    }

    fn is_new(&self, message: &Message) -> bool {
        message
            .info()
            .is_ok_and(|info| info.stream_sequence > self.position())
    }

    fn tell(&mut self, error: &impl std::fmt::Display) {
        if self.told.is_none_or(|told| told.elapsed() >= REMIND) {
            self.told = Some(Instant::now());
            tracing::warn!(%error, partition = self.partition, "the log is being read again");
        }
    }

    fn take(&mut self, message: &Message, batch: &mut Batch) {
        if let Ok(info) = message.info() {
            self.position.store(info.stream_sequence, Ordering::Relaxed);
        }
        let Some(entry) = entry(message) else { return };
        if let LogSubject::Room(room) = entry.subject {
            self.count(room, entry.seq);
        }
        batch.bytes += entry.payload.len();
        batch.entries.push(entry);
    }

    /// Gives back what a room holds beyond its history: everything before an entry behind which this tail has
    /// handed out a whole history already. The bound is a sequence, so a purge that comes late takes nothing
    /// that came in meanwhile.
    fn count(&mut self, token: RoomToken, seq: u64) {
        if self.rooms.len() >= ROOMS && !self.rooms.contains_key(&token) {
            self.rooms.clear();
        }
        let history = self.shared.config.max_messages_per_room;
        let step = (history / 2).clamp(1, 512);
        let room = self.rooms.entry(token).or_default();
        room.since += 1;
        if room.since < step {
            return;
        }
        room.since = 0;
        room.marks.push_back((seq, Instant::now()));
        let behind = room.marks.len().saturating_sub(history.div_ceil(step));
        let read_by_all = self.shared.read_by_all(self.partition);
        let keep = self.shared.config.keep_read;
        let purged = room
            .marks
            .iter()
            .take(behind)
            .take_while(|(seq, at)| *seq <= read_by_all && at.elapsed() >= keep)
            .count();
        let Some((bound, _)) = purged.checked_sub(1).and_then(|newest| room.marks.get(newest)) else {
            return;
        };
        let bound = *bound;
        // Otherwise the room's next mark does it.
        if let Ok(permit) = Arc::clone(&self.purges).try_acquire_owned() {
            room.marks.drain(..purged);
            self.purge(token, bound, permit);
        }
    }

    /// Purges the room's entries before `bound`.
    fn purge(&self, room: RoomToken, bound: u64, permit: tokio::sync::OwnedSemaphorePermit) {
        let (shared, partition) = (Arc::clone(&self.shared), self.partition);
        let purge = async move {
            let _permit = permit;
            let subject = subjects::log_subject(partition, LogSubject::Room(room));
            let purge = shared.stream(partition)?.purge().sequence(bound).filter(subject);
            purge.await.map_err(unavailable)
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

#[derive(Default)]
struct Batch {
    entries: Vec<Entry>,
    bytes: usize,
}

#[async_trait]
impl Tail for NatsTail {
    async fn next(&mut self) -> Result<Vec<Entry>, LogError> {
        let mut batch = Batch::default();
        // Nothing is awaited once there is an entry: a batch is never dropped half made.
        while batch.entries.is_empty() {
            let message = self.message().await;
            self.take(&message, &mut batch);
            while batch.entries.len() < BATCH && batch.bytes < BATCH_BYTES {
                let Some(reader) = &mut self.reader else { break };
                match reader.next().now_or_never() {
                    Some(Ok(message)) => {
                        if self.is_new(&message) {
                            self.take(&message, &mut batch);
                        }
                    }
                    Some(Err(_)) => self.reader = None,
                    None => break,
                }
            }
        }
        Ok(batch.entries)
    }
}
