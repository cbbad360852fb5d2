//! Tells the log which rooms have members here. Changes of a partition are batched while the append
//! before is under way, so that a storm of connects costs few appends.

use std::sync::{Arc, Weak};

use bus::{EventLog, LogSubject, NewEntry};
use bytes::Bytes;
use lifecycle::Tasks;
use model::{GatewayId, RoomToken};
use parking_lot::Mutex;
use prost::Message;

use crate::rooms::Room;

/// Why a join could not be made sure.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum InterestError {
    #[error(transparent)]
    Log(#[from] bus::LogError),
    #[error("the gateway is stopping")]
    Stopped,
}

pub(crate) struct Interest {
    gateway: GatewayId,
    log: Arc<dyn EventLog>,
    tasks: Tasks,
    partitions: Vec<Mutex<Pending>>,
    this: Weak<Self>,
}

#[derive(Default)]
struct Pending {
    begin: Vec<Arc<Room>>,
    end: Vec<RoomToken>,
    appending: bool,
}

impl Interest {
    pub(crate) fn new(gateway: GatewayId, log: Arc<dyn EventLog>, tasks: Tasks) -> Arc<Self> {
        let partitions = (0..log.partitions()).map(|_| Mutex::default()).collect();
        Arc::new_cyclic(|this| Self {
            gateway,
            log,
            tasks,
            partitions,
            this: this.clone(),
        })
    }

    /// The room has its first member; [`Room::confirm`] is called with the outcome.
    pub(crate) fn begin(&self, room: &Arc<Room>) {
        self.change(room.partition(), |pending| pending.begin.push(Arc::clone(room)));
    }

    /// The room has had no member for a while.
    pub(crate) fn end(&self, partition: u16, room: RoomToken) {
        self.change(partition, |pending| pending.end.push(room));
    }

    fn change(&self, partition: u16, change: impl FnOnce(&mut Pending)) {
        let Some(pending) = self.partitions.get(usize::from(partition)) else {
            return;
        };
        let idle = {
            let mut pending = pending.lock();
            change(&mut pending);
            !std::mem::replace(&mut pending.appending, true)
        };
        if let (true, Some(this)) = (idle, self.this.upgrade()) {
            self.tasks
                .spawn("interest", async move { this.append(partition).await });
        }
    }

    async fn append(&self, partition: u16) {
        let pending = &self.partitions[usize::from(partition)];
        loop {
            let (begin, end) = {
                let mut pending = pending.lock();
                if pending.begin.is_empty() && pending.end.is_empty() {
                    pending.appending = false;
                    return;
                }
                (
                    std::mem::take(&mut pending.begin),
                    std::mem::take(&mut pending.end),
                )
            };
            // A room that ended and began again within one batch must end first, so ends have a record
            // of their own.
            if !end.is_empty() {
                let record = self.record(Vec::new(), end);
                if let Err(error) = self.log.append(partition, record).await {
                    // The worker goes on sending what nobody here wants; nothing is lost.
                    tracing::warn!(%error, partition, "could not end interest");
                }
            }
            if !begin.is_empty() {
                let tokens = begin.iter().map(|room| room.token()).collect();
                let appended = self.log.append(partition, self.record(tokens, Vec::new())).await;
                let result = appended.map(|appended| appended.seq).map_err(InterestError::from);
                for room in begin {
                    room.confirm(&result);
                }
            }
        }
    }

    fn record(&self, begin: Vec<RoomToken>, end: Vec<RoomToken>) -> NewEntry {
        let bytes = |tokens: Vec<RoomToken>| {
            tokens
                .into_iter()
                .map(|token| Bytes::copy_from_slice(token.as_bytes()))
                .collect()
        };
        let interest = proto::v1::Interest {
            gateway: self.gateway.to_string(),
            begin: bytes(begin),
            end: bytes(end),
        };
        NewEntry {
            subject: LogSubject::Control,
            payload: interest.encode_to_vec().into(),
            dedup: None,
        }
    }
}
