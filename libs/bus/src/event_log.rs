//! The partition logs.
//!
//! A log is `partitions()` independent sequences. In one partition sequences grow from 1 without
//! going back; entries may vanish from the front (age) or out of the middle (a room keeps only its
//! newest entries), so a reader must expect holes.

use std::{future::Future, pin::Pin};

use async_trait::async_trait;
use bytes::Bytes;
use model::{RoomToken, TraceContext};

pub mod memory;
pub mod nats;

/// Port of the partition logs.
#[async_trait]
pub trait EventLog: Send + Sync + 'static {
    /// How many partitions there are, at least 1; never changes.
    fn partitions(&self) -> u16;

    /// Appends one entry.
    ///
    /// The entry takes its place in the order of the partition **at the call**, not when the result
    /// is awaited: two calls of one task stand in the log in the order of the calls, however many
    /// are in flight, unless the first fails. Dropping the result does not take the entry back.
    ///
    /// An engine retries by itself, under the same deduplication key, as long as the outcome is not
    /// known; what it finally reports as an error may still have been stored. A caller that tries
    /// again gives a key.
    fn append(&self, partition: u16, entry: NewEntry) -> Append;

    /// The newest sequence of the partition, 0 when nothing was ever appended.
    ///
    /// # Errors
    /// [`LogError::Unavailable`] when the log does not answer.
    async fn last_seq(&self, partition: u16) -> Result<u64, LogError>;

    /// Reads the partition in order, beginning behind sequence `after`, and goes on with new
    /// entries as they come.
    ///
    /// The limit of a room's entries never overtakes a reader: what was stored while a tail was open is
    /// handed out by it, however far it is behind (CONTRACT G1). Only age and a full store may come
    /// before; a full store refuses appends rather than drop what is not read.
    ///
    /// # Errors
    /// [`LogError::Unavailable`] when the log does not answer.
    async fn tail(&self, partition: u16, after: u64) -> Result<Box<dyn Tail>, LogError>;

    /// One page of a room's entries, ascending. Entries already removed are simply not there.
    ///
    /// # Errors
    /// [`LogError::Unavailable`] when the log does not answer.
    async fn page(&self, partition: u16, room: RoomToken, query: PageQuery) -> Result<Page, LogError>;

    /// The entry at `seq`, or `None` when it is gone or never was. One that its room's pages no longer show
    /// may still be there: an engine gives it back when it gets to it.
    ///
    /// # Errors
    /// [`LogError::Unavailable`] when the log does not answer.
    async fn get(&self, partition: u16, seq: u64) -> Result<Option<Entry>, LogError>;
}

/// The outcome of [`EventLog::append`], to be awaited or dropped.
pub type Append = Pin<Box<dyn Future<Output = Result<Appended, LogError>> + Send + 'static>>;

/// An ordered reader of one partition.
#[async_trait]
pub trait Tail: Send {
    /// The next entries, at least one, in order without repetition; waits for them. The batch is
    /// what is there now, up to an engine's bound.
    ///
    /// Cancellation safe: entries are handed out once the future is ready, none are lost when it is
    /// dropped before.
    ///
    /// # Errors
    /// [`LogError`] when reading cannot go on; a new tail may be opened behind the last entry seen.
    async fn next(&mut self) -> Result<Vec<Entry>, LogError>;
}

/// Where an entry stands in its partition.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash)]
pub enum LogSubject {
    /// An event of a room; the payload is an encoded `Publish`.
    Room(RoomToken),
    /// The partition's own control records; the payload is an encoded `Interest`. These are not
    /// counted towards any room.
    Control,
}

/// What to append.
#[derive(Clone, Debug)]
pub struct NewEntry {
    /// Under which subject.
    pub subject: LogSubject,
    /// The record.
    pub payload: Bytes,
    /// An entry with a key already stored in this partition within the engine's window (at least
    /// two minutes) is not stored again; its place is reported instead.
    pub dedup: Option<String>,
    /// Of the span that appends it, where its trace is recorded; readers get it with the entry, without a look into
    /// the record.
    pub trace: Option<Box<TraceContext>>,
}

/// Where an entry was stored.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Appended {
    /// Its sequence.
    pub seq: u64,
    /// It had been there before under the same key; `seq` is the place of the first.
    pub duplicate: bool,
}

/// A stored entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its place.
    pub seq: u64,
    /// Its subject.
    pub subject: LogSubject,
    /// Unix milliseconds at which the log stored it.
    pub time_ms: u64,
    /// The record.
    pub payload: Bytes,
    /// Of the span that appended it, where its trace is recorded.
    pub trace: Option<Box<TraceContext>>,
}

/// Which entries of a room.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum PageQuery {
    /// The last `limit` entries whose sequence is below `before` (`u64::MAX`: the newest).
    Before {
        /// Exclusive upper bound.
        before: u64,
        /// At most so many.
        limit: usize,
    },
    /// The first `limit` entries whose sequence is above `after` (0: the oldest).
    After {
        /// Exclusive lower bound.
        after: u64,
        /// At most so many.
        limit: usize,
    },
}

/// A page of a room.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// Ascending.
    pub entries: Vec<Entry>,
    /// More entries lie beyond the page, in the direction asked for.
    pub has_more: bool,
}

/// Why the log could not do it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LogError {
    /// There is no such partition.
    #[error("no partition {0}")]
    NoSuchPartition(u16),
    /// The log cannot be reached or did not answer in time; trying again later may help.
    #[error("the log is unavailable: {0}")]
    Unavailable(String),
    /// The entry is larger than the log takes.
    #[error("the record has {size} bytes, the log takes {limit}")]
    TooLarge {
        /// Bytes of the record.
        size: usize,
        /// Bytes the log takes.
        limit: usize,
    },
}
