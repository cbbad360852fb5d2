//! Pages of rooms.
//!
//! JetStream reads forwards only, and a room's history is bounded, so a page is cut out of one forward read of
//! what the room shows: one consumer and a stream of messages, where direct gets would cost a round trip an
//! entry. Whoever asks for a room while a read of it has not begun yet shares that read; one that has begun is
//! not joined, because it may miss what had been acknowledged when the question came.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use futures_util::{
    FutureExt,
    future::{BoxFuture, Shared as SharedFuture, WeakShared},
};
use model::RoomToken;
use parking_lot::Mutex;
use tokio::{sync::Semaphore, time::timeout};

use super::{
    ANSWER, Shared,
    reader::{Reader, entry},
    unavailable,
};
use crate::{Entry, LogError, LogSubject, subjects};

/// Rooms that are read at a time, in this process.
const READS: usize = 16;
/// A read that breaks off is begun again so often.
const TRIES: usize = 3;
/// Reads known before those that nobody waits for any more are forgotten.
const KNOWN: usize = 1024;

type Outcome = Result<Arc<[Entry]>, LogError>;
type Read = BoxFuture<'static, Outcome>;

/// The reads of rooms under way.
pub(super) struct Histories {
    latest: Mutex<HashMap<(u16, RoomToken), Latest>>,
    permits: Semaphore,
}

/// The newest read of a room.
#[derive(Clone)]
struct Latest {
    read: WeakShared<Read>,
    begun: Arc<AtomicBool>,
}

impl Histories {
    pub(super) fn new() -> Self {
        Self {
            latest: Mutex::default(),
            permits: Semaphore::new(READS),
        }
    }
}

/// What a room shows, oldest first.
pub(super) async fn room(shared: &Arc<Shared>, partition: u16, room: RoomToken) -> Outcome {
    let key = (partition, room);
    let read = {
        let mut latest = shared.histories.latest.lock();
        let known = latest
            .get(&key)
            .and_then(|latest| Some((latest.read.upgrade()?, latest.begun.load(Ordering::Relaxed))));
        match known {
            Some((read, false)) => read,
            before => {
                if latest.len() >= KNOWN {
                    latest.retain(|_, latest| latest.read.upgrade().is_some());
                }
                let begun = Arc::new(AtomicBool::new(false));
                let read = begin(
                    Arc::clone(shared),
                    key,
                    before.map(|(read, _)| read),
                    Arc::clone(&begun),
                )
                .boxed()
                .shared();
                if let Some(read) = read.downgrade() {
                    latest.insert(key, Latest { read, begun });
                }
                read
            }
        }
    };
    read.await
}

/// Reads a room once the read before it is done, so that those who ask meanwhile share this one.
async fn begin(
    shared: Arc<Shared>,
    key: (u16, RoomToken),
    before: Option<SharedFuture<Read>>,
    begun: Arc<AtomicBool>,
) -> Outcome {
    if let Some(before) = before {
        drop(before.await);
    }
    let _permit = shared.histories.permits.acquire().await.map_err(unavailable)?;
    begun.store(true, Ordering::Relaxed);
    let mut outcome = read(&shared, key.0, key.1).await;
    for _ in 1..TRIES {
        if outcome.is_ok() {
            break;
        }
        outcome = read(&shared, key.0, key.1).await;
    }
    let mut latest = shared.histories.latest.lock();
    if latest
        .get(&key)
        .is_some_and(|latest| Arc::ptr_eq(&latest.begun, &begun))
    {
        latest.remove(&key);
    }
    outcome
}

async fn read(shared: &Shared, partition: u16, room: RoomToken) -> Outcome {
    let subject = subjects::log_subject(partition, LogSubject::Room(room));
    let shown = shared.config.max_messages_per_room;
    let mut reader = Reader::open(shared, partition, 1, Some(&subject)).await?;
    let most = 4 * shown as u64;
    if reader.pending > most {
        reader = near_end(shared, partition, &subject, shown as u64..=most).await?;
    }
    let mut left = reader.pending;
    let mut entries = Vec::with_capacity(usize::try_from(left).unwrap_or_default());
    while left > 0 {
        let message = timeout(ANSWER, reader.next()).await.map_err(unavailable)??;
        left = message.info().map_err(unavailable)?.pending.min(left - 1);
        entries.extend(entry(&message));
    }
    let beyond = entries.len().saturating_sub(shown);
    entries.drain(..beyond);
    Ok(entries.into())
}

/// A reader of a room that holds far more than it shows, because nobody has read its partition for long: finds
/// by halving where to begin so that as many entries as `wanted` lie ahead.
async fn near_end(
    shared: &Shared,
    partition: u16,
    subject: &str,
    wanted: std::ops::RangeInclusive<u64>,
) -> Result<Reader, LogError> {
    let (mut many, mut few) = (1, shared.last_seq(partition).await?.saturating_add(1));
    loop {
        let middle = many + (few - many) / 2;
        let reader = Reader::open(shared, partition, middle, Some(subject)).await?;
        if reader.pending > *wanted.end() {
            many = middle;
        } else if reader.pending < *wanted.start() {
            few = middle;
        } else {
            return Ok(reader);
        }
        // What was asked for is gone meanwhile: too many is right, too.
        if few - many <= 1 {
            return Reader::open(shared, partition, many, Some(subject)).await;
        }
    }
}
