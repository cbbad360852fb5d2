//! What rooms got between two places in the log, for clients whose gateway is gone: one read of a partition serves all
//! who come back at that time.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use bus::{Entry, EventLog, LogError, LogSubject, PageQuery};
use model::RoomToken;
use tokio::{sync::Mutex, time::timeout};

/// Longest stretch of a partition that is read for all; of longer ones, each room is read by itself.
const FAR: u64 = 20_000;
/// Bytes of a partition kept at most.
const MAX_BYTES: usize = 8 << 20;
/// A stretch begins so far in front of what is asked for, as the next to come may need a little more.
const AHEAD: u64 = 500;
/// What was read is forgotten when nobody has asked for so long.
const KEPT: Duration = Duration::from_secs(10);
/// The next entries of what is known to be there must come within this time.
const PATIENCE: Duration = Duration::from_secs(3);
/// Entries of a page.
const PAGE: usize = 200;

/// Reads what was missed.
pub(crate) struct Replay {
    log: Arc<dyn EventLog>,
    /// What a room's history holds at least.
    room_keeps: usize,
    partitions: Vec<Mutex<Option<Stretch>>>,
}

/// A stretch of a partition.
struct Stretch {
    after: u64,
    through: u64,
    bytes: usize,
    rooms: HashMap<RoomToken, Vec<Entry>>,
    used: Instant,
}

/// Why it cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReplayError {
    #[error("some of it may be gone")]
    Gone,
    #[error(transparent)]
    Log(#[from] LogError),
}

impl Replay {
    /// `room_keeps`: how many entries of a room are in the log whatever else is.
    pub(crate) fn new(log: Arc<dyn EventLog>, room_keeps: usize) -> Arc<Self> {
        let partitions = (0..log.partitions()).map(|_| Mutex::default()).collect();
        Arc::new(Self {
            log,
            room_keeps,
            partitions,
        })
    }

    /// All that a room got in `(after, through]`, ascending. There must be an entry at or behind `through`.
    pub(crate) async fn room(
        &self,
        partition: u16,
        room: RoomToken,
        after: u64,
        through: u64,
    ) -> Result<Vec<Entry>, ReplayError> {
        if after >= through {
            return Ok(Vec::new());
        }
        let shared = if through - after <= FAR {
            self.shared(partition, room, after, through).await?
        } else {
            None
        };
        let entries = match shared {
            Some(entries) => entries,
            None => self.alone(partition, room, after, through).await?,
        };
        // A room is cut down to its newest entries, some time after they have come.
        if entries.len() * 2 >= self.room_keeps {
            let query = PageQuery::Before {
                before: u64::MAX,
                limit: self.room_keeps,
            };
            let page = self.log.page(partition, room, query).await?;
            let whole = page.entries.len() < self.room_keeps
                || page.entries.first().is_none_or(|oldest| oldest.seq <= after);
            if !whole {
                return Err(ReplayError::Gone);
            }
        }
        Ok(entries)
    }

    /// From the stretch that all share; `None` when that would be too large.
    async fn shared(
        &self,
        partition: u16,
        room: RoomToken,
        after: u64,
        through: u64,
    ) -> Result<Option<Vec<Entry>>, LogError> {
        let slot = self
            .partitions
            .get(usize::from(partition))
            .ok_or(LogError::NoSuchPartition(partition))?;
        let mut slot = slot.lock().await;
        let mut stretch = match slot.take() {
            Some(stretch) if stretch.after <= after => stretch,
            _ => Stretch {
                after: after.saturating_sub(AHEAD),
                through: after.saturating_sub(AHEAD),
                bytes: 0,
                rooms: HashMap::new(),
                used: Instant::now(),
            },
        };
        if through - stretch.after > 2 * FAR {
            return Ok(None);
        }
        while stretch.through < through {
            self.extend(partition, &mut stretch, through).await?;
            if stretch.bytes > MAX_BYTES {
                return Ok(None);
            }
        }
        stretch.used = Instant::now();
        let entries = stretch.rooms.get(&room);
        let wanted = |entry: &&Entry| entry.seq > after && entry.seq <= through;
        let entries = entries.map_or_else(Vec::new, |entries| {
            entries.iter().filter(wanted).cloned().collect()
        });
        *slot = Some(stretch);
        Ok(Some(entries))
    }

    /// Reads on until `through`.
    async fn extend(&self, partition: u16, stretch: &mut Stretch, through: u64) -> Result<(), LogError> {
        let mut tail = self.log.tail(partition, stretch.through).await?;
        while stretch.through < through && stretch.bytes <= MAX_BYTES {
            let entries = timeout(PATIENCE, tail.next())
                .await
                .map_err(|_| LogError::Unavailable("the end of a replay does not come".to_owned()))??;
            for entry in entries {
                stretch.through = entry.seq;
                if let LogSubject::Room(room) = entry.subject {
                    stretch.bytes += entry.payload.len() + size_of::<Entry>();
                    stretch.rooms.entry(room).or_default().push(entry);
                }
            }
        }
        Ok(())
    }

    async fn alone(
        &self,
        partition: u16,
        room: RoomToken,
        mut after: u64,
        through: u64,
    ) -> Result<Vec<Entry>, LogError> {
        let mut entries = Vec::new();
        loop {
            let query = PageQuery::After { after, limit: PAGE };
            let page = self.log.page(partition, room, query).await?;
            let Some(last) = page.entries.last().map(|entry| entry.seq) else {
                return Ok(entries);
            };
            entries.extend(page.entries.into_iter().filter(|entry| entry.seq <= through));
            if last >= through || !page.has_more || entries.len() > self.room_keeps {
                return Ok(entries);
            }
            after = last;
        }
    }

    /// Forgets what nobody asks for any more.
    pub(crate) fn sweep(&self) {
        for slot in &self.partitions {
            // Whoever has it uses it.
            if let Ok(mut slot) = slot.try_lock()
                && slot.as_ref().is_some_and(|stretch| stretch.used.elapsed() > KEPT)
            {
                *slot = None;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use bus::{
        NewEntry,
        event_log::memory::{MemoryLog, MemoryLogConfig},
    };

    use super::*;

    fn room(number: u8) -> RoomToken {
        RoomToken::from_bytes(&[number; 16]).unwrap()
    }

    async fn log(entries: &[u8]) -> Arc<MemoryLog> {
        let log = Arc::new(MemoryLog::new(MemoryLogConfig {
            partitions: 1,
            max_messages_per_room: 4,
            ..MemoryLogConfig::default()
        }));
        for (number, of) in entries.iter().enumerate() {
            let entry = NewEntry {
                subject: LogSubject::Room(room(*of)),
                payload: number.to_string().into(),
                dedup: None,
                trace: None,
            };
            log.append(0, entry).await.unwrap();
        }
        log
    }

    fn seqs(entries: Result<Vec<Entry>, ReplayError>) -> Option<Vec<u64>> {
        match entries {
            Ok(entries) => Some(entries.iter().map(|entry| entry.seq).collect()),
            Err(ReplayError::Gone) => None,
            Err(ReplayError::Log(error)) => panic!("{error}"),
        }
    }

    #[tokio::test]
    async fn what_a_room_got_between_two_places() {
        let replay = Replay::new(log(&[1, 2, 1, 2, 1, 3]).await, 1000);
        assert_eq!(seqs(replay.room(0, room(1), 1, 6).await), Some(vec![3, 5]));
        assert_eq!(
            seqs(replay.room(0, room(1), 0, 3).await),
            Some(vec![1, 3]),
            "further back"
        );
        assert_eq!(seqs(replay.room(0, room(2), 3, 5).await), Some(vec![4]));
        assert_eq!(seqs(replay.room(0, room(9), 0, 6).await), Some(vec![]));
        assert_eq!(seqs(replay.room(0, room(1), 6, 6).await), Some(vec![]));
        assert!(replay.room(7, room(1), 0, 1).await.is_err());
    }

    #[tokio::test]
    async fn nothing_is_told_in_part() {
        let replay = Replay::new(log(&[1, 1, 1, 1, 1, 1, 2]).await, 4);
        assert_eq!(
            seqs(replay.room(0, room(1), 1, 7).await),
            None,
            "one was cut off, for all one knows"
        );
        assert_eq!(seqs(replay.room(0, room(1), 3, 7).await), Some(vec![4, 5, 6]));
    }
}
