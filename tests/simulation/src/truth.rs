//! The one log, and what was ever stored in it: what every client is measured by.

use std::{collections::BTreeMap, sync::Arc};

use bus::{
    Appended, EventLog, LogError, LogSubject, NewEntry,
    event_log::memory::{MemoryLog, MemoryLogConfig},
};
use model::Offset;
use parking_lot::Mutex;
use prost::Message as _;
use proto::v1::Publish;
use serde::Deserialize;

/// A stored message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stored {
    pub(crate) offset: Offset,
    pub(crate) id: String,
    pub(crate) content: String,
}

pub(crate) struct Truth {
    log: Arc<MemoryLog>,
    /// By room, ascending: a room has one partition.
    rooms: Mutex<BTreeMap<String, Vec<Stored>>>,
}

#[derive(Deserialize)]
struct Body {
    content: String,
}

impl Truth {
    pub(crate) fn new(partitions: u16) -> Arc<Self> {
        Arc::new(Self {
            log: Arc::new(MemoryLog::new(MemoryLogConfig {
                partitions,
                ..MemoryLogConfig::default()
            })),
            rooms: Mutex::default(),
        })
    }

    pub(crate) fn log(&self) -> Arc<MemoryLog> {
        Arc::clone(&self.log)
    }

    pub(crate) async fn append(&self, partition: u16, entry: NewEntry) -> Result<Appended, LogError> {
        let record = matches!(entry.subject, LogSubject::Room(_)).then(|| entry.payload.clone());
        let appended = self.log.append(partition, entry).await?;
        let publish = record
            .filter(|_| !appended.duplicate)
            .and_then(|record| Publish::decode(record).ok())
            .filter(|publish| publish.event == "message");
        if let Some(publish) = publish
            && let Ok(body) = serde_json::from_slice::<Body>(&publish.args)
        {
            let stored = Stored {
                offset: Offset {
                    partition,
                    seq: appended.seq,
                },
                id: publish.id,
                content: body.content,
            };
            self.rooms.lock().entry(publish.room).or_default().push(stored);
        }
        Ok(appended)
    }

    /// The messages of a room behind `after`.
    pub(crate) fn behind(&self, room: &str, after: u64) -> Vec<Stored> {
        let rooms = self.rooms.lock();
        let all = rooms.get(room).map(Vec::as_slice).unwrap_or_default();
        let first = all.partition_point(|stored| stored.offset.seq <= after);
        all[first..].to_vec()
    }

    /// The first message of a room behind `after`.
    pub(crate) fn next(&self, room: &str, after: u64) -> Option<Stored> {
        let rooms = self.rooms.lock();
        let all = rooms.get(room)?;
        let first = all.partition_point(|stored| stored.offset.seq <= after);
        all.get(first).cloned()
    }

    /// The message at a place of a room.
    pub(crate) fn at(&self, room: &str, seq: u64) -> Option<Stored> {
        let found = self.next(room, seq.checked_sub(1)?)?;
        (found.offset.seq == seq).then_some(found)
    }

    /// All rooms there are messages in.
    pub(crate) fn rooms(&self) -> Vec<String> {
        self.rooms.lock().keys().cloned().collect()
    }
}
