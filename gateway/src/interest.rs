//! Tells the log which rooms have members here. Changes of a partition are batched while the append
//! before is under way, so that a storm of connects costs few appends.

use std::sync::{Arc, Weak};

use bus::{EventLog, LogSubject, NewEntry};
use bytes::Bytes;
use lifecycle::Tasks;
use model::{GatewayId, RoomToken};
use parking_lot::Mutex;
use prost::Message;
use tokio::sync::oneshot;

use crate::rooms::{Room, Rooms};

/// Rooms in one record, at most: some 400 KB.
const MAX_ROOMS: usize = 20_000;

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
    statements: Vec<Statement>,
    appending: bool,
}

/// Somebody waits for all rooms of the partition to be stated.
struct Statement {
    rooms: Arc<Rooms>,
    stated: oneshot::Sender<Result<u64, InterestError>>,
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

    /// States all rooms of a partition anew; the sequence from which on the log holds them.
    ///
    /// # Errors
    /// When the log does not take it.
    pub(crate) async fn state(&self, partition: u16, rooms: &Arc<Rooms>) -> Result<u64, InterestError> {
        let (stated, answer) = oneshot::channel();
        let rooms = Arc::clone(rooms);
        self.change(partition, |pending| {
            pending.statements.push(Statement { rooms, stated });
        });
        answer.await.unwrap_or(Err(InterestError::Stopped))
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
            let (begin, end, statements) = {
                let mut pending = pending.lock();
                if pending.begin.is_empty() && pending.end.is_empty() && pending.statements.is_empty() {
                    pending.appending = false;
                    return;
                }
                (
                    std::mem::take(&mut pending.begin),
                    std::mem::take(&mut pending.end),
                    std::mem::take(&mut pending.statements),
                )
            };
            // A room that ended and began again within one batch must end first, so ends have a record
            // of their own.
            if !end.is_empty() {
                let record = self.record(&[], &end, false);
                if let Err(error) = self.log.append(partition, record).await {
                    // The worker goes on sending what nobody here wants; nothing is lost.
                    tracing::warn!(%error, partition, "could not end interest");
                }
            }
            if !begin.is_empty() {
                let tokens: Vec<_> = begin.iter().map(|room| room.token()).collect();
                let appended = self.log.append(partition, self.record(&tokens, &[], false)).await;
                let result = appended.map(|appended| appended.seq).map_err(InterestError::from);
                for room in begin {
                    room.confirm(&result);
                }
            }
            // Behind the ends, and before those that come from now on: the table will be what it is here.
            if let Some(first) = statements.first() {
                let result = self
                    .append_all(partition, &first.rooms.of_partition(partition))
                    .await;
                for statement in statements {
                    // Who asked may have gone.
                    let _ = statement.stated.send(result.clone());
                }
            }
        }
    }

    /// The last record says that with it all are stated.
    async fn append_all(&self, partition: u16, rooms: &[RoomToken]) -> Result<u64, InterestError> {
        let last = rooms.len().saturating_sub(1) / MAX_ROOMS * MAX_ROOMS;
        let (before, rest) = rooms.split_at(last);
        for chunk in before.chunks(MAX_ROOMS) {
            self.log.append(partition, self.record(chunk, &[], false)).await?;
        }
        Ok(self
            .log
            .append(partition, self.record(rest, &[], true))
            .await?
            .seq)
    }

    fn record(&self, begin: &[RoomToken], end: &[RoomToken], stated: bool) -> NewEntry {
        let bytes = |tokens: &[RoomToken]| {
            tokens
                .iter()
                .map(|token| Bytes::copy_from_slice(token.as_bytes()))
                .collect()
        };
        let interest = proto::v1::Interest {
            gateway: self.gateway.to_string(),
            begin: bytes(begin),
            end: bytes(end),
            stated,
        };
        NewEntry {
            subject: LogSubject::Control,
            payload: interest.encode_to_vec().into(),
            dedup: None,
            trace: None,
        }
    }
}
