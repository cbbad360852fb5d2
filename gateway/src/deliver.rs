//! Takes what the workers send and hands it to the members of the rooms, each event once and in the
//! order of its partition (CONTRACT G2, G3).

use std::{
    collections::{HashSet, VecDeque},
    sync::Arc,
};

use bus::{EventLog, LogError, LogSubject};
use bytes::Bytes;
use delivery::{Arrival, Batch};
use lifecycle::Tasks;
use model::{Namespace, Offset, RoomName, RoomToken};
use parking_lot::Mutex;
use prost::Message;
use proto::v1::Publish;
use sio::packet::{Encoded, encode};

use crate::{
    metrics::Metrics,
    rooms::{Room, Rooms},
    session::Socket,
};

/// While a partition catches up, so many batches may wait for it; beyond that they are read from the
/// log like the rest.
const MAX_WAITING: usize = 256;

pub(crate) struct Deliverer {
    rooms: Arc<Rooms>,
    log: Arc<dyn EventLog>,
    tasks: Tasks,
    metrics: Arc<Metrics>,
    partitions: Vec<Mutex<Partition>>,
}

/// How far a partition has come.
struct Partition {
    /// Newest epoch seen; what comes from an older one is a worker that has been replaced.
    epoch: u64,
    /// Everything up to here has been delivered.
    through: u64,
    /// Batches that came while it catches up.
    waiting: Option<VecDeque<Batch>>,
}

impl Deliverer {
    /// `positions`: the newest sequence of each partition at a time before the first join.
    pub(crate) fn new(
        rooms: Arc<Rooms>,
        log: Arc<dyn EventLog>,
        tasks: Tasks,
        metrics: Arc<Metrics>,
        positions: &[u64],
    ) -> Arc<Self> {
        let partitions = positions
            .iter()
            .map(|through| {
                Mutex::new(Partition {
                    epoch: 0,
                    through: *through,
                    waiting: None,
                })
            })
            .collect();
        Arc::new(Self {
            rooms,
            log,
            tasks,
            metrics,
            partitions,
        })
    }

    /// Takes one arrival. `Some` is the position of its partition to acknowledge.
    pub(crate) fn arrive(self: &Arc<Self>, arrival: Arrival) -> Option<Offset> {
        match arrival {
            Arrival::Signal(signal) => {
                self.hand_out(signal.room, signal.record, None);
                None
            }
            Arrival::Batch(batch) => self.batch(batch),
        }
    }

    fn batch(self: &Arc<Self>, batch: Batch) -> Option<Offset> {
        let number = batch.partition;
        let mut partition = self.partitions.get(usize::from(number))?.lock();
        if batch.epoch < partition.epoch {
            self.metrics.stale_batches.inc();
            return None;
        }
        partition.epoch = batch.epoch;
        if let Some(waiting) = &mut partition.waiting {
            if waiting.len() < MAX_WAITING {
                waiting.push_back(batch);
            } else if let Some(last) = waiting.back_mut() {
                // An empty batch behind both: what they held is read from the log.
                *last = Batch {
                    after: batch.through,
                    deliveries: Vec::new(),
                    ..batch
                };
            }
            return None;
        }
        if batch.after > partition.through {
            let from = partition.through;
            partition.waiting = Some(VecDeque::from([batch]));
            drop(partition);
            self.metrics.catch_ups.inc();
            tracing::info!(
                partition = number,
                from,
                "reading from the log what the worker did not send"
            );
            let this = Arc::clone(self);
            self.tasks
                .spawn("catch up", async move { this.catch_up(number).await });
            return None;
        }
        self.apply(&mut partition, &batch);
        Some(Offset {
            partition: number,
            seq: partition.through,
        })
    }

    fn apply(&self, partition: &mut Partition, batch: &Batch) {
        for delivery in &batch.deliveries {
            if delivery.seq > partition.through {
                let offset = Offset {
                    partition: batch.partition,
                    seq: delivery.seq,
                };
                self.hand_out(delivery.room, delivery.record.clone(), Some(offset));
            }
        }
        partition.through = partition.through.max(batch.through);
    }

    async fn catch_up(&self, number: u16) {
        let partition = &self.partitions[usize::from(number)];
        loop {
            let (from, to) = {
                let mut partition = partition.lock();
                loop {
                    let Some(batch) = partition.waiting.as_mut().and_then(VecDeque::pop_front) else {
                        partition.waiting = None;
                        return;
                    };
                    if batch.after > partition.through {
                        let gap = (partition.through, batch.after);
                        if let Some(waiting) = &mut partition.waiting {
                            waiting.push_front(batch);
                        }
                        break gap;
                    }
                    self.apply(&mut partition, &batch);
                }
            };
            if let Err(error) = self.read_gap(number, from, to).await {
                tracing::warn!(%error, partition = number, "cannot catch up yet");
                tokio::time::sleep(std::time::Duration::from_millis(200)).await;
            }
        }
    }

    /// Delivers `(from, to]` from the log. Entries may be gone from it; the last one there may lie
    /// before `to`.
    async fn read_gap(&self, number: u16, from: u64, to: u64) -> Result<(), LogError> {
        let partition = &self.partitions[usize::from(number)];
        let newest = self.log.last_seq(number).await?;
        let end = to.min(newest);
        if from < end {
            let mut tail = self.log.tail(number, from).await?;
            'reading: loop {
                for entry in tail.next().await? {
                    if entry.seq > end {
                        break 'reading;
                    }
                    if let LogSubject::Room(room) = entry.subject {
                        self.hand_out(
                            room,
                            entry.payload,
                            Some(Offset {
                                partition: number,
                                seq: entry.seq,
                            }),
                        );
                    }
                    let mut partition = partition.lock();
                    partition.through = partition.through.max(entry.seq);
                    if entry.seq == end {
                        break 'reading;
                    }
                }
            }
        }
        let mut partition = partition.lock();
        partition.through = partition.through.max(to);
        Ok(())
    }

    /// Hands one event to its room's members: a durable one at its `offset`, or one without storage.
    fn hand_out(&self, token: RoomToken, record: Bytes, offset: Option<Offset>) {
        let Some(room) = self.rooms.get(token) else {
            return;
        };
        let Some(mut publish) = decode(record, &room) else {
            return;
        };
        let packet = packet(&publish, offset);
        let skip = Skip::new(&self.rooms, &mut publish, room.namespace());
        let receivers = match offset {
            Some(offset) => room.deliver(offset.seq, &packet, |socket| skip.skips(socket)),
            None => room.signal(&packet, publish.volatile, |socket| skip.skips(socket)),
        };
        self.metrics.delivered(
            room.namespace(),
            &publish.event,
            receivers,
            packet.len(),
            publish.time_ms,
        );
    }
}

/// The record, if it is of this room: another one may have the same token.
fn decode(record: Bytes, room: &Room) -> Option<Publish> {
    let publish = Publish::decode(record)
        .inspect_err(|error| tracing::error!(%error, "a record cannot be read"))
        .ok()?;
    (publish.room == room.name().as_str() && publish.namespace == room.namespace().as_str())
        .then_some(publish)
}

/// The event as its members get it, encoded once for all of them.
fn packet(publish: &Publish, offset: Option<Offset>) -> Encoded {
    let args = std::str::from_utf8(&publish.args).unwrap_or_default();
    match offset {
        Some(offset) if publish.stamp_offset => {
            let stamped = stamp(args, offset);
            encode::event(
                &publish.namespace,
                None,
                &publish.event,
                &stamped,
                &publish.attachments,
                None,
            )
        }
        _ => encode::event(
            &publish.namespace,
            None,
            &publish.event,
            args,
            &publish.attachments,
            None,
        ),
    }
}

/// `{"a":1}` → `{"offset":"3-17","a":1}`.
pub(crate) fn stamp(args: &str, offset: Offset) -> String {
    match args.strip_prefix('{') {
        Some(rest) => {
            let comma = if rest.starts_with('}') { "" } else { "," };
            format!("{{\"offset\":\"{offset}\"{comma}{rest}")
        }
        None => args.to_owned(),
    }
}

/// Who must not get an event, resolved before the room is locked.
#[derive(Default)]
struct Skip {
    sockets: HashSet<Box<str>>,
    users: Vec<String>,
}

impl Skip {
    fn new(rooms: &Rooms, publish: &mut Publish, namespace: &Namespace) -> Self {
        let Some(except) = publish.except.take() else {
            return Self::default();
        };
        let mut sockets: HashSet<Box<str>> = except.sockets.into_iter().map(Into::into).collect();
        for name in except.rooms {
            let token = RoomToken::new(namespace, &RoomName::stored(&name));
            sockets.extend(rooms.get(token).map(|room| room.socket_ids()).unwrap_or_default());
        }
        Self {
            sockets,
            users: except.users,
        }
    }

    fn skips(&self, socket: &Socket) -> bool {
        self.sockets.contains(socket.id()) || self.users.iter().any(|user| user == socket.user().id.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_are_stamped_as_first_field() {
        let offset = Offset {
            partition: 3,
            seq: 17,
        };
        assert_eq!(stamp(r#"{"a":1}"#, offset), r#"{"offset":"3-17","a":1}"#);
        assert_eq!(stamp("{}", offset), r#"{"offset":"3-17"}"#);
        assert_eq!(stamp("1", offset), "1");
    }
}
