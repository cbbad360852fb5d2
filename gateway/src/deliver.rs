//! Takes what the workers send and hands it to the members of the rooms, each event once and in the
//! order of its partition (CONTRACT G2, G3).

use std::{
    borrow::Cow,
    collections::{HashSet, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use bus::{EventLog, LogError, LogSubject};
use bytes::Bytes;
use delivery::{Arrival, Batch, VolatileEvent};
use lifecycle::Tasks;
use model::{Namespace, Offset, RoomName, RoomToken, TraceContext};
use parking_lot::Mutex;
use prost::Message;
use proto::v1::Publish;
use publisher::messages::stamp;
use sio::packet::Encoded;
use telemetry::trace::Tracer;

use crate::{
    admin_ui::{RECEIVERS, Samples},
    journal::{Except, Journal},
    metrics::Metrics,
    rooms::{Durable, Room, Rooms, Sent},
    spans::deliver,
    transport::Cork,
};

/// While a partition catches up, so many batches may wait for it; beyond that they are read from the
/// log like the rest.
const MAX_WAITING: usize = 256;
/// So many events at most are held back to go out together.
const TURN: usize = 64;
/// So many events of a room at most go out in one piece; python-engineio refuses a polling answer with more
/// messages.
const RUN: usize = 16;
/// How often that is looked at.
const PAUSE: Duration = Duration::from_millis(5);

pub(crate) struct Deliverer {
    rooms: Arc<Rooms>,
    journal: Arc<Journal>,
    log: Arc<dyn EventLog>,
    tasks: Tasks,
    metrics: Arc<Metrics>,
    tracer: Tracer,
    samples: Arc<Samples>,
    partitions: Vec<Mutex<Partition>>,
}

/// Who is told of what is delivered.
pub(crate) struct Observers {
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) tracer: Tracer,
    pub(crate) samples: Arc<Samples>,
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
        journal: Arc<Journal>,
        log: Arc<dyn EventLog>,
        tasks: Tasks,
        observers: Observers,
        positions: &[u64],
    ) -> Arc<Self> {
        let Observers {
            metrics,
            tracer,
            samples,
        } = observers;
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
            journal,
            log,
            tasks,
            metrics,
            tracer,
            samples,
            partitions,
        })
    }

    /// Everything of the partition up to here has been delivered.
    pub(crate) fn through(&self, partition: u16) -> u64 {
        let partition = self.partitions.get(usize::from(partition));
        partition.map_or(0, |partition| partition.lock().through)
    }

    /// Sees to it that everything of the partition up to `seq` is delivered, reading from the log what no
    /// worker has sent yet.
    fn reach(self: &Arc<Self>, partition: u16, seq: u64) {
        let known = self.partitions.get(usize::from(partition));
        let Some(epoch) = known.map(|partition| partition.lock().epoch) else {
            return;
        };
        let nothing = Batch {
            partition,
            epoch,
            after: seq,
            through: seq,
            deliveries: Vec::new(),
            traces: Vec::new(),
        };
        self.batch(nothing, &mut Cork::new(false));
    }

    /// Waits until everything up to each of these places has been delivered; `false` when that takes longer. No
    /// worker tells of what concerns others only but now and then, so what is missing is read from the log.
    pub(crate) async fn reached(self: &Arc<Self>, places: &[Offset], within: Duration) -> bool {
        let is_behind = |place: &Offset| self.through(place.partition) < place.seq;
        for place in places.iter().filter(|place| is_behind(place)) {
            self.reach(place.partition, place.seq);
        }
        let until = Instant::now() + within;
        while places.iter().any(is_behind) {
            if Instant::now() >= until {
                return false;
            }
            tokio::time::sleep(PAUSE).await;
        }
        true
    }

    /// Takes what has arrived, and tells the positions to acknowledge.
    pub(crate) fn arrive(
        self: &Arc<Self>,
        arrivals: impl IntoIterator<Item = Arrival>,
        mut acknowledge: impl FnMut(Offset),
    ) {
        let mut arrivals = arrivals.into_iter().peekable();
        while let Some(arrival) = arrivals.next() {
            // What comes alone goes out at once.
            let mut cork = Cork::new(events(&arrival) > 1 || arrivals.peek().is_some());
            let mut handed_out = 0;
            let mut next = Some(arrival);
            while let Some(arrival) = next {
                handed_out += events(&arrival);
                match arrival {
                    Arrival::Signal(signal) => self.signal(signal, &mut cork),
                    Arrival::Batch(batch) => {
                        if let Some(position) = self.batch(batch, &mut cork) {
                            acknowledge(position);
                        }
                    }
                }
                next = if handed_out < TURN { arrivals.next() } else { None };
            }
        }
    }

    fn batch(self: &Arc<Self>, batch: Batch, cork: &mut Cork) -> Option<Offset> {
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
                    traces: Vec::new(),
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
            tracing::debug!(
                partition = number,
                from,
                "reading from the log what the worker did not send"
            );
            let this = Arc::clone(self);
            self.tasks
                .spawn("catch up", async move { this.catch_up(number).await });
            return None;
        }
        self.apply(&mut partition, &batch, cork);
        Some(Offset {
            partition: number,
            seq: partition.through,
        })
    }

    fn apply(&self, partition: &mut Partition, batch: &Batch, cork: &mut Cork) {
        let known = batch
            .deliveries
            .partition_point(|delivery| delivery.seq <= partition.through);
        for traced in batch
            .traces
            .iter()
            .filter(|traced| traced.seq > partition.through)
        {
            let at = batch
                .deliveries
                .binary_search_by_key(&traced.seq, |delivery| delivery.seq);
            if let Ok(at) = at {
                self.trace(&traced.context, batch.deliveries[at].room, cork);
            }
        }
        let runs = batch.deliveries[known..].chunk_by(|one, next| one.room == next.room);
        for run in runs.flat_map(|run| run.chunks(RUN)) {
            let records = run.iter().map(|delivery| (delivery.seq, delivery.record.clone()));
            self.hand_out(batch.partition, run[0].room, records, cork);
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
                    self.apply(&mut partition, &batch, &mut Cork::new(batch.deliveries.len() > 1));
                }
            };
            if let Err(error) = self.read_gap(number, from, to).await {
                tracing::warn!(%error, partition = number, "cannot catch up yet");
                tokio::time::sleep(Duration::from_millis(200)).await;
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
                let entries = tail.next().await?;
                let mut cork = Cork::new(entries.len() > 1);
                for entry in entries {
                    if entry.seq > end {
                        break 'reading;
                    }
                    if let LogSubject::Room(room) = entry.subject {
                        if let Some(publish) = &entry.trace {
                            self.trace(publish, room, &mut cork);
                        }
                        let record = std::iter::once((entry.seq, entry.payload));
                        self.hand_out(number, room, record, &mut cork);
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

    /// Hands events of one room to its members, in the order of the log.
    fn hand_out(
        &self,
        partition: u16,
        token: RoomToken,
        records: impl Iterator<Item = (u64, Bytes)>,
        cork: &mut Cork,
    ) {
        let Some(room) = self.rooms.get(token) else {
            return;
        };
        let events = records.filter_map(|(seq, record)| {
            let mut publish = decode(record, &room)?;
            Some(Durable {
                offset: Offset { partition, seq },
                except: except(&self.rooms, &mut publish, room.namespace()),
                publish: Arc::new(publish),
            })
        });
        let events: Vec<_> = events.collect();
        if self.samples.shows_sent() {
            for event in &events {
                self.show(&room, &event.publish, Some(event.offset), &event.except);
            }
        }
        room.deliver(&mut self.journal.lane(), events, cork, |publish, sent| {
            self.note(&room, publish, sent);
        });
    }

    /// Hands an event without storage to its room's members.
    fn signal(&self, signal: VolatileEvent, cork: &mut Cork) {
        let Some(room) = self.rooms.get(signal.room) else {
            return;
        };
        let Some(mut publish) = decode(signal.record, &room) else {
            return;
        };
        if let Some(parent) = &signal.trace {
            self.trace(parent, room.token(), cork);
        }
        let except = except(&self.rooms, &mut publish, room.namespace());
        let publish = Arc::new(publish);
        if self.samples.shows_sent() {
            self.show(&room, &publish, None, &except);
        }
        let sent = room.signal(&mut self.journal.lane(), &publish, &except, cork);
        self.note(&room, &publish, sent);
    }

    /// An event whose trace is recorded is about to be handed out; its span ends when everything is written.
    fn trace(&self, parent: &TraceContext, room: RoomToken, cork: &mut Cork) {
        if let Some(room) = self.rooms.get(room) {
            cork.ends(deliver(&self.tracer, parent, room.name().as_str(), room.places()));
        }
    }

    /// To admin pages, before it is handed out.
    #[cold]
    fn show(&self, room: &Room, publish: &Publish, offset: Option<Offset>, except: &Except) {
        let args = args(publish, offset);
        for id in room.some_ids(RECEIVERS, except) {
            self.samples.sent(room.namespace(), &id, &publish.event, &args);
        }
    }

    fn note(&self, room: &Room, publish: &Publish, sent: Sent) {
        self.metrics.delivered(
            room.namespace(),
            &publish.event,
            sent.receivers,
            sent.bytes,
            publish.time_ms,
        );
    }
}

fn events(arrival: &Arrival) -> usize {
    match arrival {
        Arrival::Signal(_) => 1,
        Arrival::Batch(batch) => batch.deliveries.len(),
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

/// The event as its members get it, encoded once for all of them; `position` is the trailing string of
/// recovery.
pub(crate) fn encode(publish: &Publish, offset: Option<Offset>, position: Option<&str>) -> Encoded {
    sio::packet::encode::event(
        &publish.namespace,
        None,
        &publish.event,
        &args(publish, offset),
        &publish.attachments,
        position,
    )
}

/// Raw JSON of the event's arguments, with its place in the log where that belongs to them.
fn args(publish: &Publish, offset: Option<Offset>) -> Cow<'_, str> {
    let args = std::str::from_utf8(&publish.args).unwrap_or_default();
    match offset.filter(|_| publish.stamp_offset) {
        Some(offset) => stamp(args, offset).into(),
        None => args.into(),
    }
}

/// Who must not get an event, resolved before anything is locked.
fn except(rooms: &Rooms, publish: &mut Publish, namespace: &Namespace) -> Except {
    let Some(except) = publish.except.take() else {
        return Except::default();
    };
    let mut sockets: HashSet<Box<str>> = except.sockets.into_iter().map(Into::into).collect();
    let names = except.rooms.iter().map(|name| RoomName::stored(name));
    let tokens: Vec<_> = names.map(|name| RoomToken::new(namespace, &name)).collect();
    for token in &tokens {
        sockets.extend(
            rooms
                .get(*token)
                .map(|room| room.socket_ids())
                .unwrap_or_default(),
        );
    }
    Except {
        sockets,
        users: except.users,
        rooms: tokens,
    }
}
