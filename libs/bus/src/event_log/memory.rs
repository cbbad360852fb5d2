//! The log in memory: gone with the process.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use async_trait::async_trait;
use model::RoomToken;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::{
    Append, Appended, Entry, EventLog, LogError, LogSubject, NewEntry, Page, PageQuery, Tail,
};

/// Entries a [`Tail`] hands out at a time.
const TAIL_BATCH: usize = 1024;

/// Bounds of a [`MemoryLog`].
#[derive(Clone, Debug)]
pub struct MemoryLogConfig {
    /// How many partitions, at least 1.
    pub partitions: u16,
    /// A room keeps its newest entries, so many.
    pub max_messages_per_room: usize,
    /// Entries older than this go.
    pub max_age: Duration,
    /// A deduplication key is remembered for so long.
    pub dedup_window: Duration,
    /// Bytes of the largest record.
    pub max_record_bytes: usize,
    /// Bytes of all records of all partitions, less the overhead of keeping them; the oldest go first.
    pub max_bytes: usize,
}

impl Default for MemoryLogConfig {
    fn default() -> Self {
        Self {
            partitions: 16,
            max_messages_per_room: 1000,
            max_age: Duration::from_secs(24 * 3600),
            dedup_window: Duration::from_secs(10 * 60),
            max_record_bytes: 8 << 20,
            max_bytes: 256 << 20,
        }
    }
}

/// Tells unix milliseconds.
pub type Clock = Arc<dyn Fn() -> u64 + Send + Sync>;

/// The log in memory. Cheap to clone.
#[derive(Clone)]
pub struct MemoryLog {
    shared: Arc<Shared>,
}

struct Shared {
    config: MemoryLogConfig,
    clock: Clock,
    partitions: Vec<Partition>,
}

#[derive(Default)]
struct Partition {
    state: Mutex<State>,
    appended: Notify,
}

#[derive(Default)]
struct State {
    /// Sequence of the newest entry ever appended.
    last: u64,
    /// Sequence of `entries[0]`.
    first: u64,
    /// A hole where an entry has gone before its time.
    entries: VecDeque<Option<Entry>>,
    bytes: usize,
    rooms: HashMap<RoomToken, VecDeque<u64>>,
    dedup: HashMap<String, u64>,
    /// Keys in the order in which they are forgotten.
    dedup_order: VecDeque<(u64, String)>,
}

impl MemoryLog {
    /// An empty log.
    #[must_use]
    pub fn new(config: MemoryLogConfig) -> Self {
        Self::with_clock(config, Arc::new(unix_ms))
    }

    /// An empty log on a clock of the caller's.
    #[must_use]
    pub fn with_clock(config: MemoryLogConfig, clock: Clock) -> Self {
        let partitions = (0..config.partitions.max(1)).map(|_| Partition::default()).collect();
        Self { shared: Arc::new(Shared { config, clock, partitions }) }
    }

    fn append_now(&self, number: u16, entry: NewEntry) -> Result<Appended, LogError> {
        let config = &self.shared.config;
        let partition = self.partition(number)?;
        let size = entry.payload.len();
        if size > config.max_record_bytes {
            return Err(LogError::TooLarge { size, limit: config.max_record_bytes });
        }
        let now = (self.shared.clock)();
        let seq = {
            let mut state = partition.state.lock();
            state.forget_keys(now.saturating_sub(millis(config.dedup_window)));
            if let Some(seq) = entry.dedup.as_ref().and_then(|key| state.dedup.get(key)) {
                return Ok(Appended { seq: *seq, duplicate: true });
            }
            state.append(now, entry, config.max_messages_per_room);
            let share = config.max_bytes / self.shared.partitions.len();
            state.trim(now.saturating_sub(millis(config.max_age)), share);
            state.last
        };
        partition.appended.notify_waiters();
        Ok(Appended { seq, duplicate: false })
    }

    fn partition(&self, number: u16) -> Result<&Partition, LogError> {
        self.shared.partitions.get(usize::from(number)).ok_or(LogError::NoSuchPartition(number))
    }
}

#[async_trait]
impl EventLog for MemoryLog {
    fn partitions(&self) -> u16 {
        u16::try_from(self.shared.partitions.len()).unwrap_or(u16::MAX)
    }

    fn append(&self, partition: u16, entry: NewEntry) -> Append {
        Box::pin(std::future::ready(self.append_now(partition, entry)))
    }

    async fn last_seq(&self, partition: u16) -> Result<u64, LogError> {
        Ok(self.partition(partition)?.state.lock().last)
    }

    async fn tail(&self, partition: u16, after: u64) -> Result<Box<dyn Tail>, LogError> {
        self.partition(partition)?;
        Ok(Box::new(MemoryTail { log: self.clone(), partition, after }))
    }

    async fn page(&self, partition: u16, room: RoomToken, query: PageQuery) -> Result<Page, LogError> {
        let state = self.partition(partition)?.state.lock();
        let Some(seqs) = state.rooms.get(&room) else { return Ok(Page::default()) };
        let (range, has_more) = match query {
            PageQuery::Before { before, limit } => {
                let end = seqs.partition_point(|seq| *seq < before);
                let start = end.saturating_sub(limit);
                (start..end, start > 0)
            }
            PageQuery::After { after, limit } => {
                let start = seqs.partition_point(|seq| *seq <= after);
                let end = start.saturating_add(limit).min(seqs.len());
                (start..end, end < seqs.len())
            }
        };
        let entries = seqs.range(range).filter_map(|seq| state.get(*seq).cloned()).collect();
        Ok(Page { entries, has_more })
    }

    async fn get(&self, partition: u16, seq: u64) -> Result<Option<Entry>, LogError> {
        Ok(self.partition(partition)?.state.lock().get(seq).cloned())
    }
}

impl State {
    fn get(&self, seq: u64) -> Option<&Entry> {
        let index = usize::try_from(seq.checked_sub(self.first)?).ok()?;
        self.entries.get(index)?.as_ref()
    }

    fn append(&mut self, now: u64, entry: NewEntry, per_room: usize) {
        self.last += 1;
        let seq = self.last;
        if self.entries.is_empty() {
            self.first = seq;
        }
        if let LogSubject::Room(room) = entry.subject {
            let seqs = self.rooms.entry(room).or_default();
            seqs.push_back(seq);
            let oldest = if seqs.len() > per_room { seqs.pop_front() } else { None };
            if let Some(oldest) = oldest {
                self.punch(oldest);
            }
        }
        if let Some(key) = entry.dedup {
            self.dedup_order.push_back((now, key.clone()));
            self.dedup.insert(key, seq);
        }
        self.bytes += entry.payload.len();
        self.entries.push_back(Some(Entry { seq, subject: entry.subject, time_ms: now, payload: entry.payload }));
    }

    /// Takes one entry out of the middle; its room has forgotten it already.
    fn punch(&mut self, seq: u64) {
        let index = seq.checked_sub(self.first).and_then(|index| usize::try_from(index).ok());
        let entry = index.and_then(|index| self.entries.get_mut(index)).and_then(Option::take);
        self.bytes -= entry.map_or(0, |entry| entry.payload.len());
    }

    /// Takes from the front what is too old or too much, and holes.
    fn trim(&mut self, oldest: u64, max_bytes: usize) {
        while let Some(front) = self.entries.front() {
            match front {
                Some(entry) if entry.time_ms >= oldest && self.bytes <= max_bytes => return,
                Some(entry) => {
                    self.bytes -= entry.payload.len();
                    if let LogSubject::Room(room) = entry.subject
                        && let Some(seqs) = self.rooms.get_mut(&room)
                    {
                        seqs.pop_front();
                        if seqs.is_empty() {
                            self.rooms.remove(&room);
                        }
                    }
                }
                None => {}
            }
            self.entries.pop_front();
            self.first += 1;
        }
    }

    fn forget_keys(&mut self, oldest: u64) {
        while self.dedup_order.front().is_some_and(|(time, _)| *time < oldest) {
            if let Some((_, key)) = self.dedup_order.pop_front() {
                self.dedup.remove(&key);
            }
        }
    }
}

struct MemoryTail {
    log: MemoryLog,
    partition: u16,
    after: u64,
}

#[async_trait]
impl Tail for MemoryTail {
    async fn next(&mut self) -> Result<Vec<Entry>, LogError> {
        let partition = self.log.partition(self.partition)?;
        loop {
            let appended = partition.appended.notified();
            tokio::pin!(appended);
            appended.as_mut().enable();
            let batch = {
                let state = partition.state.lock();
                let start = (self.after + 1).max(state.first).saturating_sub(state.first);
                let start = usize::try_from(start).unwrap_or(usize::MAX).min(state.entries.len());
                state.entries.range(start..).flatten().take(TAIL_BATCH).cloned().collect::<Vec<_>>()
            };
            if let Some(last) = batch.last() {
                self.after = last.seq;
                return Ok(batch);
            }
            appended.await;
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn unix_ms() -> u64 {
    millis(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default())
}
