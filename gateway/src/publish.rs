//! Appends events to the log and sends volatile ones.

use std::{sync::Arc, time::Instant};

use bus::{Appended, EventLog, LogError, LogSubject, NewEntry, Page, PageQuery, Signals, subjects};
use bytes::Bytes;
use model::{ClientError, ErrorCode, Namespace, RoomName, RoomToken, partition_of};
use prost::Message;
use proto::v1::{Except, Publish, Sender};
use publisher::spans;
use telemetry::trace::Span;
use uuid::Uuid;

use crate::metrics::{Metrics, Published};

/// Names an event by its sender and the client's own id for it, so that a retry has the same name.
const RETRY_NAMESPACE: Uuid = Uuid::from_u128(0x6f1c_9d52_7c1e_4a0b_9d0e_2f5a_91c4_73b8);

pub(crate) struct Publisher {
    log: Arc<dyn EventLog>,
    signals: Arc<dyn Signals>,
    metrics: Arc<Metrics>,
}

/// An event of one room.
pub(crate) struct Event<'a> {
    pub(crate) namespace: &'a Namespace,
    pub(crate) room: &'a RoomName,
    pub(crate) name: &'static str,
    /// Raw JSON of the arguments, without the array's brackets.
    pub(crate) args: String,
}

/// Where an event of the log stands.
#[derive(Copy, Clone)]
pub(crate) struct Stored {
    pub(crate) offset: model::Offset,
    /// It was there before, under the same key.
    pub(crate) duplicate: bool,
}

/// What an event is called for good.
pub(crate) struct EventId {
    pub(crate) id: String,
    dedup: Option<String>,
}

impl EventId {
    /// A new id; with the client's own id for the event, one that a retry gets again.
    pub(crate) fn new(user: &str, token: RoomToken, client_id: Option<&str>) -> Self {
        match client_id {
            None => Self {
                id: Uuid::now_v7().to_string(),
                dedup: None,
            },
            Some(client_id) => {
                let name = format!("{}:{user}:{token}:{client_id}", user.len());
                let id = Uuid::new_v5(&RETRY_NAMESPACE, name.as_bytes()).to_string();
                Self {
                    dedup: Some(id.clone()),
                    id,
                }
            }
        }
    }
}

impl Publisher {
    pub(crate) fn new(log: Arc<dyn EventLog>, signals: Arc<dyn Signals>, metrics: Arc<Metrics>) -> Self {
        Self {
            log,
            signals,
            metrics,
        }
    }

    pub(crate) fn log(&self) -> &Arc<dyn EventLog> {
        &self.log
    }

    pub(crate) fn partition(&self, token: RoomToken) -> u16 {
        partition_of(token, self.log.partitions())
    }

    /// One page of a room's log.
    pub(crate) async fn page(&self, token: RoomToken, query: PageQuery) -> Result<Page, ClientError> {
        let page = self.log.page(self.partition(token), token, query);
        page.await.map_err(log_error)
    }

    /// Appends. The event has its place in the room's order once this returns; the future says which, and ends `span`.
    pub(crate) fn append(
        &self,
        sender: Sender,
        event: Event<'_>,
        id: EventId,
        time_ms: u64,
        mut span: Option<Span>,
    ) -> impl Future<Output = Result<Stored, ClientError>> + Send + 'static + use<> {
        let token = RoomToken::new(event.namespace, event.room);
        let partition = self.partition(token);
        describe(&mut span, &event, partition, &id.id);
        let record = Publish {
            id: id.id,
            stamp_offset: true,
            ..record(Some(sender), event, None, time_ms)
        };
        let entry = NewEntry {
            subject: LogSubject::Room(token),
            payload: record.encode_to_vec().into(),
            dedup: id.dedup,
            trace: span.as_ref().map(|span| Box::new(span.context())),
        };
        let (begun, metrics) = (Instant::now(), Arc::clone(&self.metrics));
        let appended = self.log.append(partition, entry);
        async move {
            let appended = appended.await;
            metrics.published(became(&appended), begun.elapsed());
            if let Some(span) = &mut span {
                spans::appended(span, &appended);
            }
            let Appended { seq, duplicate } = appended.map_err(log_error)?;
            Ok(Stored {
                offset: model::Offset { partition, seq },
                duplicate,
            })
        }
    }

    /// Sends an event without storage to a room's members, but for `except`. Lost when the bus is; a
    /// `volatile` one is also dropped for members that cannot take it at once.
    pub(crate) fn signal(
        &self,
        sender: Option<Sender>,
        event: Event<'_>,
        except: Option<Except>,
        volatile: bool,
        mut span: Option<Span>,
    ) {
        let token = RoomToken::new(event.namespace, event.room);
        let partition = self.partition(token);
        let subject = subjects::signal(partition, token);
        let id = Uuid::now_v7().to_string();
        describe(&mut span, &event, partition, &id);
        let record = Publish {
            id,
            volatile,
            ..record(sender, event, except, crate::now_ms())
        };
        let trace = span.as_ref().map(Span::context);
        let payload = record.encode_to_vec().into();
        if let Err(error) = self.signals.publish_traced(&subject, payload, trace.as_ref()) {
            tracing::debug!(%error, "a volatile event was not sent");
        }
    }
}

/// What a span tells of the event that is published.
fn describe(span: &mut Option<Span>, event: &Event<'_>, partition: u16, id: &str) {
    if let Some(span) = span {
        let event = spans::Published {
            namespace: event.namespace,
            room: event.room,
            partition,
            id,
            size: event.args.len(),
        };
        spans::describe(span, &event);
    }
}

fn record(sender: Option<Sender>, event: Event<'_>, except: Option<Except>, time_ms: u64) -> Publish {
    Publish {
        id: String::new(),
        namespace: event.namespace.to_string(),
        room: event.room.to_string(),
        event: event.name.to_owned(),
        args: Bytes::from(event.args),
        attachments: Vec::new(),
        sender,
        time_ms,
        except,
        stamp_offset: false,
        volatile: false,
        several_rooms: false,
    }
}

fn became(appended: &Result<Appended, LogError>) -> Published {
    match appended {
        Ok(Appended { duplicate: false, .. }) => Published::Stored,
        Ok(Appended { duplicate: true, .. }) => Published::Duplicate,
        Err(LogError::TooLarge { .. }) => Published::TooLarge,
        Err(LogError::Unavailable(_) | LogError::NoSuchPartition(_)) => Published::Unavailable,
    }
}

/// What a client is told when the log fails.
pub(crate) fn log_error(error: LogError) -> ClientError {
    match error {
        LogError::TooLarge { .. } => ClientError::new(ErrorCode::PayloadTooLarge, "The event is too large"),
        LogError::Unavailable(_) => crate::session::unavailable(error),
        LogError::NoSuchPartition(_) => {
            tracing::error!(%error, "the number of partitions does not fit the log");
            ClientError::new(ErrorCode::Internal, "Internal error")
        }
    }
}
