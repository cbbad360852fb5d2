//! The log in memory: gone with the process.

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use async_trait::async_trait;
use model::RoomToken;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::{Append, Appended, Entry, EventLog, LogError, LogSubject, NewEntry, Page, PageQuery, Tail};

/// Entries a [`Tail`] hands out at a time.
const TAIL_BATCH: usize = 1024;
/// What keeping an entry costs besides its record, roughly: its slot, its place in its room, its share
/// of tables and allocations.
const OVERHEAD: usize = 192;
/// So many holes are not worth moving entries for.
const FEW_HOLES: usize = 1024;

/// Bounds of a [`MemoryLog`].
///
/// Control entries have no bound of their own: they go by age and bytes, as events do. A tail that is
/// further behind than that sees what is still there.
#[derive(Clone, Debug)]
pub struct MemoryLogConfig {
    /// How many partitions, at least 1.
    pub partitions: u16,
    /// A room keeps its newest entries, so many, at least 1.
    pub max_messages_per_room: usize,
    /// Entries older than this go.
    pub max_age: Duration,
    /// A deduplication key is remembered for so long; the port asks for two minutes at least. What the
    /// keys cost comes on top of `max_bytes`.
    pub dedup_window: Duration,
    /// Bytes of the largest record.
    pub max_record_bytes: usize,
    /// Bytes of all entries of all partitions, with an estimate of what keeping them costs. Beyond it the
    /// partition that holds most loses its oldest entries.
    pub max_bytes: usize,
}

impl Default for MemoryLogConfig {
    fn default() -> Self {
        Self {
            partitions: 16,
            max_messages_per_room: 1000,
            max_age: Duration::from_secs(24 * 3600),
            dedup_window: Duration::from_secs(2 * 60),
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
    /// Bytes of all partitions.
    bytes: AtomicUsize,
}

#[derive(Default)]
struct Partition {
    state: Mutex<State>,
    appended: Notify,
    /// What `state` holds, to be read without its lock.
    bytes: AtomicUsize,
}

#[derive(Default)]
struct State {
    /// Sequence of the newest entry ever appended.
    last: u64,
    /// Ascending by sequence.
    entries: VecDeque<Slot>,
    /// How many of `entries` are gone.
    holes: usize,
    bytes: usize,
    rooms: HashMap<RoomToken, VecDeque<u64>>,
    /// Over their room's limit, but some tail has not read them yet.
    unread: VecDeque<u64>,
    /// Positions of the tails there are.
    tails: HashMap<u64, u64>,
    next_tail: u64,
    dedup: HashMap<Arc<str>, u64>,
    /// Keys in the order in which they are forgotten.
    dedup_order: VecDeque<(u64, Arc<str>)>,
}

struct Slot {
    entry: Entry,
    /// Taken out of the middle: its payload is freed, its slot goes later.
    gone: bool,
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
        let partitions = (0..config.partitions.max(1))
            .map(|_| Partition::default())
            .collect();
        Self {
            shared: Arc::new(Shared {
                config,
                clock,
                partitions,
                bytes: AtomicUsize::new(0),
            }),
        }
    }

    fn append_now(&self, number: u16, entry: NewEntry) -> Result<Appended, LogError> {
        let config = &self.shared.config;
        let partition = self.partition(number)?;
        let size = entry.payload.len();
        if size > config.max_record_bytes {
            return Err(LogError::TooLarge {
                size,
                limit: config.max_record_bytes,
            });
        }
        // What tails have not read is never taken from them; when that is all there is, the log is full.
        if self.shared.bytes.load(Ordering::Relaxed) > config.max_bytes.saturating_add(config.max_bytes / 8) {
            self.bound();
            if self.shared.bytes.load(Ordering::Relaxed) > config.max_bytes {
                return Err(LogError::Unavailable(
                    "the log is full of entries that are not read yet".to_owned(),
                ));
            }
        }
        let appended = self.with(partition, |state, now| {
            state.forget_keys(now.saturating_sub(millis(config.dedup_window)));
            state.append(now, entry, config.max_messages_per_room.max(1))
        });
        if !appended.duplicate {
            partition.appended.notify_waiters();
            self.bound();
        }
        Ok(appended)
    }

    /// Does something with a partition, what is too old removed before; `now` is the time of the log.
    fn with<T>(&self, partition: &Partition, work: impl FnOnce(&mut State, u64) -> T) -> T {
        let mut state = partition.state.lock();
        let now = (self.shared.clock)();
        state.expire(now.saturating_sub(millis(self.shared.config.max_age)));
        let result = work(&mut state, now);
        self.count(partition, &state);
        result
    }

    fn count(&self, partition: &Partition, state: &State) {
        let before = partition.bytes.swap(state.bytes, Ordering::Relaxed);
        // Wraps around: the sum over all partitions is right.
        self.shared
            .bytes
            .fetch_add(state.bytes.wrapping_sub(before), Ordering::Relaxed);
    }

    fn bound(&self) {
        let max = self.shared.config.max_bytes;
        if self.shared.bytes.load(Ordering::Relaxed) <= max {
            return;
        }
        // A little more than needed, so that this is not done for each entry.
        let enough = max - max / 64;
        loop {
            let excess = self.shared.bytes.load(Ordering::Relaxed).saturating_sub(enough);
            let largest = self
                .shared
                .partitions
                .iter()
                .max_by_key(|partition| partition.bytes.load(Ordering::Relaxed));
            let Some(largest) = largest.filter(|_| excess > 0) else {
                return;
            };
            let mut state = largest.state.lock();
            let freed = state.free(excess);
            self.count(largest, &state);
            if freed == 0 {
                return;
            }
        }
    }

    fn partition(&self, number: u16) -> Result<&Partition, LogError> {
        self.shared
            .partitions
            .get(usize::from(number))
            .ok_or(LogError::NoSuchPartition(number))
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
        let id = {
            let mut state = self.partition(partition)?.state.lock();
            state.next_tail += 1;
            let id = state.next_tail;
            state.tail_at(id, Some(after));
            id
        };
        Ok(Box::new(MemoryTail {
            log: self.clone(),
            partition,
            id,
            after,
        }))
    }

    async fn page(&self, partition: u16, room: RoomToken, query: PageQuery) -> Result<Page, LogError> {
        Ok(self.with(self.partition(partition)?, |state, _| state.page(room, query)))
    }

    async fn get(&self, partition: u16, seq: u64) -> Result<Option<Entry>, LogError> {
        Ok(self.with(self.partition(partition)?, |state, _| state.get(seq).cloned()))
    }
}

impl State {
    fn append(&mut self, now: u64, entry: NewEntry, per_room: usize) -> Appended {
        if let Some(seq) = entry.dedup.as_deref().and_then(|key| self.dedup.get(key)) {
            return Appended {
                seq: *seq,
                duplicate: true,
            };
        }
        self.last += 1;
        let seq = self.last;
        if let Some(key) = entry.dedup {
            let key: Arc<str> = key.into();
            self.dedup_order.push_back((now, Arc::clone(&key)));
            self.dedup.insert(key, seq);
        }
        if let LogSubject::Room(room) = entry.subject {
            let seqs = self.rooms.entry(room).or_default();
            seqs.push_back(seq);
            let oldest = if seqs.len() > per_room {
                seqs.pop_front()
            } else {
                None
            };
            match oldest {
                Some(oldest) if oldest <= self.read_by_all() => self.punch(oldest),
                Some(oldest) => self.unread.push_back(oldest),
                None => {}
            }
        }
        self.bytes += entry.payload.len() + OVERHEAD;
        let entry = Entry {
            seq,
            subject: entry.subject,
            time_ms: now,
            payload: entry.payload,
            trace: entry.trace,
        };
        self.entries.push_back(Slot { entry, gone: false });
        Appended {
            seq,
            duplicate: false,
        }
    }

    fn page(&self, room: RoomToken, query: PageQuery) -> Page {
        let Some(seqs) = self.rooms.get(&room) else {
            return Page::default();
        };
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
        let entries = seqs
            .range(range)
            .filter_map(|seq| self.get(*seq).cloned())
            .collect();
        Page { entries, has_more }
    }

    /// Index of the first slot at or behind `seq`.
    fn index(&self, seq: u64) -> usize {
        self.entries.partition_point(|slot| slot.entry.seq < seq)
    }

    fn get(&self, seq: u64) -> Option<&Entry> {
        let slot = self.entries.get(self.index(seq))?;
        (slot.entry.seq == seq && !slot.gone).then_some(&slot.entry)
    }

    fn after(&self, seq: u64) -> Vec<Entry> {
        let slots = self.entries.range(self.index(seq.saturating_add(1))..);
        slots
            .filter(|slot| !slot.gone)
            .take(TAIL_BATCH)
            .map(|slot| slot.entry.clone())
            .collect()
    }

    /// The sequence up to which every tail has read.
    fn read_by_all(&self) -> u64 {
        self.tails.values().copied().min().unwrap_or(u64::MAX)
    }

    /// A tail has come to `position`, or has gone (`None`): what was kept for it alone goes.
    fn tail_at(&mut self, tail: u64, position: Option<u64>) {
        match position {
            Some(position) => drop(self.tails.insert(tail, position)),
            None => drop(self.tails.remove(&tail)),
        }
        if self.unread.is_empty() {
            return;
        }
        let read = self.read_by_all();
        for seq in std::mem::take(&mut self.unread) {
            if seq <= read {
                self.punch(seq);
            } else {
                self.unread.push_back(seq);
            }
        }
    }

    /// Takes one entry out of the middle; its room has forgotten it already.
    fn punch(&mut self, seq: u64) {
        let index = self.index(seq);
        let Some(slot) = self
            .entries
            .get_mut(index)
            .filter(|slot| slot.entry.seq == seq && !slot.gone)
        else {
            return;
        };
        slot.gone = true;
        self.bytes -= std::mem::take(&mut slot.entry.payload).len() + OVERHEAD;
        self.holes += 1;
        // An old entry at the front must not keep the slots of all that have gone behind it.
        if self.holes > FEW_HOLES && self.holes * 2 > self.entries.len() {
            self.entries.retain(|slot| !slot.gone);
            self.holes = 0;
        }
    }

    /// Takes what is older than `oldest` from the front.
    fn expire(&mut self, oldest: u64) {
        while self
            .entries
            .front()
            .is_some_and(|slot| slot.gone || slot.entry.time_ms < oldest)
        {
            self.pop();
        }
    }

    /// Takes so many bytes from the front, if there are and every tail has read them; how many it were.
    fn free(&mut self, bytes: usize) -> usize {
        let before = self.bytes;
        let read = self.read_by_all();
        while before - self.bytes < bytes && self.entries.front().is_some_and(|slot| slot.entry.seq <= read) {
            self.pop();
        }
        before - self.bytes
    }

    fn pop(&mut self) {
        let Some(Slot { entry, gone }) = self.entries.pop_front() else {
            return;
        };
        if gone {
            self.holes -= 1;
            return;
        }
        self.bytes -= entry.payload.len() + OVERHEAD;
        if let LogSubject::Room(room) = entry.subject
            && let Some(seqs) = self.rooms.get_mut(&room)
        {
            seqs.pop_front();
            if seqs.is_empty() {
                self.rooms.remove(&room);
            }
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
    id: u64,
    after: u64,
}

impl Drop for MemoryTail {
    fn drop(&mut self) {
        if let Ok(partition) = self.log.partition(self.partition) {
            self.log.with(partition, |state, _| state.tail_at(self.id, None));
        }
    }
}

#[async_trait]
impl Tail for MemoryTail {
    async fn next(&mut self) -> Result<Vec<Entry>, LogError> {
        let partition = self.log.partition(self.partition)?;
        loop {
            let appended = partition.appended.notified();
            tokio::pin!(appended);
            appended.as_mut().enable();
            let batch = self.log.with(partition, |state, _| {
                let batch = state.after(self.after);
                if let Some(last) = batch.last() {
                    state.tail_at(self.id, Some(last.seq));
                }
                batch
            });
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

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    /// An old entry of a quiet room stays at the front while a busy room punches hole after hole.
    #[test]
    fn holes_behind_an_old_entry_do_not_pile_up() {
        let mut state = State::default();
        let mut append = |room: u8| {
            let subject = LogSubject::Room(RoomToken::from_bytes(&[room; 16]).unwrap());
            state.append(
                0,
                NewEntry {
                    subject,
                    payload: Bytes::from_static(b"x"),
                    dedup: None,
                    trace: None,
                },
                4,
            );
        };
        append(1);
        for _ in 0..100_000 {
            append(2);
        }
        let seqs: Vec<_> = state.after(0).iter().map(|entry| entry.seq).collect();
        assert_eq!(seqs, [1, 99_998, 99_999, 100_000, 100_001]);
        assert!(
            state.entries.len() < 2 * FEW_HOLES,
            "{} slots",
            state.entries.len()
        );
        assert_eq!(state.bytes, 5 * (1 + OVERHEAD));
        state.expire(1);
        assert!(state.entries.is_empty() && state.rooms.is_empty() && state.bytes == 0 && state.holes == 0);
    }
}
