//! Puts events where they reach their clients.

use std::{
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use bus::{Append, Appended, EventLog, LogError, LogSubject, NewEntry, Signals, SignalsError, subjects};
use futures_util::future::join_all;
use model::{ClientError, ErrorCode, Offset, RoomName, RoomToken, partition_of};
use prost::Message;
use proto::v1::{Except, Publish};
use telemetry::trace::{Kind, Receiving, Span};

use crate::{
    emit::{Emit, Excluded},
    spans::{self, PUBLISH, Published},
};

/// Bytes that the copies of one event may take together.
const MAX_COPIES: usize = 64 << 20;
/// So many copies of one event are traced: what a trace tells does not grow with them.
const MAX_TRACED: usize = 16;

/// Sends events to clients: durable ones through the log, each room's copy in its place of the room's order; volatile
/// ones through signals.
#[derive(Clone)]
pub struct Emitter {
    log: Arc<dyn EventLog>,
    signals: Arc<dyn Signals>,
}

/// An event that was sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Emitted {
    /// Names it for good.
    pub id: String,
    /// Its place in the log, if it is durable and for one room.
    pub offset: Option<Offset>,
}

/// A copy on its way into the log.
struct Copy {
    partition: u16,
    append: Append,
    span: Option<Span>,
}

impl Emitter {
    /// Sends through `log` and `signals`.
    #[must_use]
    pub fn new(log: Arc<dyn EventLog>, signals: Arc<dyn Signals>) -> Self {
        Self { log, signals }
    }

    /// Sends an event. It takes its place at the call: of two calls of one task the first is seen first, by everybody
    /// who gets both in the same room. The outcome may be awaited or dropped. `trace`: what it is part of, if that is
    /// recorded.
    ///
    /// # Errors
    /// `PAYLOAD_TOO_LARGE`; `UNAVAILABLE` when the bus does not take it: then some rooms may have got it, and a retry
    /// with the same idempotency key brings it to the others.
    pub fn emit(
        &self,
        emit: &Emit,
        trace: Option<&Receiving>,
    ) -> impl Future<Output = Result<Emitted, ClientError>> + Send + use<> {
        let id = emit.new_id();
        let rooms = emit.targets();
        let too_large = rooms.len() * emit.args.size() > MAX_COPIES;
        let sent = if too_large {
            Err(ClientError::new(
                ErrorCode::PayloadTooLarge,
                "The event is too large for so many rooms, users and sockets",
            ))
        } else if emit.volatile {
            self.signal(emit, &id, &rooms, trace).map(|()| Vec::new())
        } else {
            Ok(self.append(emit, &id, &rooms, trace))
        };
        async move {
            let appended = sent?.into_iter().map(|copy| async move {
                let Copy {
                    partition,
                    append,
                    span,
                } = copy;
                let appended = append.await;
                if let Some(mut span) = span {
                    spans::appended(&mut span, &appended);
                }
                let Appended { seq, .. } = appended?;
                Ok(Offset { partition, seq })
            });
            let offsets = join_all(appended).await;
            let offsets = offsets.into_iter().collect::<Result<Vec<Offset>, LogError>>();
            let offsets = offsets.map_err(log_error)?;
            let offset = match offsets[..] {
                [offset] => Some(offset),
                _ => None,
            };
            Ok(Emitted { id, offset })
        }
    }

    fn append(&self, emit: &Emit, id: &str, rooms: &[RoomName], trace: Option<&Receiving>) -> Vec<Copy> {
        let mut record = record(emit, id, rooms.len());
        let mut appends = Vec::with_capacity(rooms.len());
        for (index, room) in rooms.iter().enumerate() {
            let token = RoomToken::new(&emit.namespace, room);
            let partition = partition_of(token, self.log.partitions());
            let traced = trace.filter(|_| index < MAX_TRACED);
            let span = traced.and_then(|trace| publishing(trace, emit, id, room, partition, rooms.len()));
            record.room = room.to_string();
            let entry = NewEntry {
                subject: LogSubject::Room(token),
                payload: record.encode_to_vec().into(),
                // Rooms may share a partition.
                dedup: emit.idempotency_key.is_some().then(|| format!("{id}.{token}")),
                trace: span.as_ref().map(|span| Box::new(span.context())),
            };
            appends.push(Copy {
                partition,
                append: self.log.append(partition, entry),
                span,
            });
        }
        appends
    }

    fn signal(
        &self,
        emit: &Emit,
        id: &str,
        rooms: &[RoomName],
        trace: Option<&Receiving>,
    ) -> Result<(), ClientError> {
        let mut record = record(emit, id, rooms.len());
        for (index, room) in rooms.iter().enumerate() {
            let token = RoomToken::new(&emit.namespace, room);
            let partition = partition_of(token, self.log.partitions());
            let subject = subjects::signal(partition, token);
            let traced = trace.filter(|_| index < MAX_TRACED);
            let mut span = traced.and_then(|trace| publishing(trace, emit, id, room, partition, rooms.len()));
            record.room = room.to_string();
            let context = span.as_ref().map(Span::context);
            let payload = record.encode_to_vec().into();
            self.signals
                .publish_traced(&subject, payload, context.as_ref())
                .map_err(|error| {
                    if let Some(span) = &mut span {
                        span.fail(error.to_string());
                    }
                    signals_error(error)
                })?;
        }
        Ok(())
    }
}

/// How many copies there are stands for how many get it, which nobody knows here.
fn publishing(
    trace: &Receiving,
    emit: &Emit,
    id: &str,
    room: &RoomName,
    partition: u16,
    copies: usize,
) -> Option<Span> {
    let mut span = trace.child(PUBLISH, Kind::Producer, copies)?;
    let event = Published {
        namespace: &emit.namespace,
        room,
        partition,
        id,
        size: emit.args.size(),
    };
    spans::describe(&mut span, &event);
    Some(span)
}

fn record(emit: &Emit, id: &str, rooms: usize) -> Publish {
    Publish {
        id: id.to_owned(),
        namespace: emit.namespace.to_string(),
        room: String::new(),
        event: emit.event.clone(),
        args: emit.args.json().as_byte_string().clone().into_bytes(),
        attachments: emit.args.attachments().to_vec(),
        sender: None,
        time_ms: now_ms(),
        except: except(&emit.except),
        stamp_offset: false,
        volatile: emit.volatile,
        several_rooms: rooms > 1,
    }
}

pub(crate) fn except(excluded: &Excluded) -> Option<Except> {
    let except = Except {
        rooms: excluded.rooms.iter().map(ToString::to_string).collect(),
        users: excluded.users.iter().map(ToString::to_string).collect(),
        sockets: excluded.sockets.clone(),
    };
    (except != Except::default()).then_some(except)
}

pub(crate) fn now_ms() -> u64 {
    let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX)
}

/// What a caller is told when the log fails.
#[must_use]
pub fn log_error(error: LogError) -> ClientError {
    match error {
        LogError::TooLarge { .. } => ClientError::new(ErrorCode::PayloadTooLarge, "The event is too large"),
        LogError::Unavailable(_) => {
            tracing::warn!(%error, "an event could not be stored");
            ClientError::new(ErrorCode::Unavailable, "Try again later")
        }
        LogError::NoSuchPartition(_) => {
            tracing::error!(%error, "the number of partitions does not fit the log");
            ClientError::new(ErrorCode::Internal, "Internal error")
        }
    }
}

fn signals_error(error: SignalsError) -> ClientError {
    tracing::warn!(%error, "a volatile event was not sent");
    ClientError::new(ErrorCode::Unavailable, "Try again later")
}

#[cfg(test)]
mod tests {
    use bus::{
        event_log::memory::{MemoryLog, MemoryLogConfig},
        signals::memory::MemorySignals,
    };
    use model::{Namespace, UserId};

    use super::*;
    use crate::args::Args;

    fn wired() -> (Emitter, Arc<MemoryLog>, Arc<MemorySignals>) {
        let log = Arc::new(MemoryLog::new(MemoryLogConfig {
            partitions: 2,
            ..MemoryLogConfig::default()
        }));
        let signals = Arc::new(MemorySignals::default());
        let emitter = Emitter::new(Arc::clone(&log) as _, Arc::clone(&signals) as _);
        (emitter, log, signals)
    }

    fn event() -> Emit {
        let args = Args::from_value("hello").unwrap();
        Emit::new(Namespace::new("/chat").unwrap(), "news", args)
    }

    async fn records(log: &MemoryLog) -> Vec<Publish> {
        let mut records = Vec::new();
        for partition in 0..log.partitions() {
            for seq in 1..=log.last_seq(partition).await.unwrap() {
                let entry = log.get(partition, seq).await.unwrap().unwrap();
                let publish = Publish::decode(entry.payload).unwrap();
                let token = RoomToken::new(
                    &Namespace::new("/chat").unwrap(),
                    &RoomName::stored(&publish.room),
                );
                assert_eq!(entry.subject, LogSubject::Room(token));
                records.push(publish);
            }
        }
        records
    }

    #[tokio::test]
    async fn to_everybody() {
        let (emitter, log, _) = wired();
        let emitted = emitter.emit(&event(), None).await.unwrap();
        let records = records(&log).await;
        assert_eq!(records.len(), 1);
        assert_eq!(records[0].room, RoomName::all().as_str());
        assert_eq!(records[0].args, r#""hello""#);
        assert_eq!(records[0].id, emitted.id);
        assert!(!records[0].several_rooms);
        assert_eq!(emitted.offset.unwrap().seq, 1);
    }

    #[tokio::test]
    async fn a_copy_for_each_room_and_none_twice_under_one_key() {
        let (emitter, log, _) = wired();
        let mut emit = event();
        emit.rooms = (0..5)
            .map(|number| RoomName::stored(&number.to_string()))
            .collect();
        emit.users = vec![UserId::new("ada").unwrap()];
        emit.except.users = vec![UserId::new("bob").unwrap()];
        emit.idempotency_key = Some("once".to_owned());
        let first = emitter.emit(&emit, None).await.unwrap();
        assert_eq!(first.offset, None);
        assert_eq!(emitter.emit(&emit, None).await.unwrap(), first);
        let records = records(&log).await;
        assert_eq!(records.len(), 6);
        for record in &records {
            assert!(record.several_rooms);
            assert_eq!(record.id, first.id);
            assert_eq!(record.except.as_ref().unwrap().users, ["bob"]);
        }
        emit.idempotency_key = None;
        assert_ne!(emitter.emit(&emit, None).await.unwrap().id, first.id);
    }

    #[tokio::test]
    async fn volatile_events_are_not_stored() {
        let (emitter, log, signals) = wired();
        let mut heard = signals.subscribe("fanfare.signal.>", None).await.unwrap();
        let mut emit = event();
        emit.volatile = true;
        assert_eq!(emitter.emit(&emit, None).await.unwrap().offset, None);
        let publish = Publish::decode(heard.next().await.unwrap().payload).unwrap();
        assert!(publish.volatile);
        assert!(records(&log).await.is_empty());
    }

    #[tokio::test]
    async fn too_many_copies() {
        let (emitter, ..) = wired();
        let mut emit = event();
        emit.args = Args::from_value(&"x".repeat(1 << 20)).unwrap();
        emit.rooms = (0..64)
            .map(|number| RoomName::stored(&number.to_string()))
            .collect();
        let error = emitter.emit(&emit, None).await.unwrap_err();
        assert_eq!(error.code, ErrorCode::PayloadTooLarge);
    }
}
