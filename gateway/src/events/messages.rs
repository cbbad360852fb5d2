//! `message`, `getMessages`, `markMessagesRead`.

use std::sync::Arc;

pub(super) use ::publisher::messages::EVENT;
use ::publisher::messages::message;
use bus::{DocumentsError, EventLog, PageQuery};
use model::{ClientError, ErrorCode, Namespace, Offset, RoomName, RoomToken};
use prost::Message;
use proto::v1::{Publish, Sender};
use serde::{Deserialize, Serialize};
use serde_json::{json, value::RawValue};
use telemetry::trace::Receiving;
use uuid::Uuid;

use super::{
    Core, Input, Use,
    caller::{Ask, Caller},
};
use crate::{
    publish::{Event, EventId, Publisher, Stored, log_error},
    session::{json, unavailable},
};

const TYPES: [&str; 3] = ["text", "image", "file"];
const MAX_CONTENT: usize = 5000;
const MAX_CLIENT_ID: usize = 128;
const MAX_ID: usize = 128;
const DEFAULT_PAGE: u64 = 50;
const MAX_PAGE: u64 = 200;
/// Bucket of read marks, by room token and user.
const READS: &str = "reads";
/// So often a mark is tried again when somebody else wrote it meanwhile.
const MARK_TRIES: usize = 5;
/// Messages read at a time when a room is searched.
const SEARCH_PAGE: usize = 200;

/// A message as everybody sees it; the offset is stamped in front on delivery.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Body<'a> {
    id: &'a str,
    room_id: &'a RoomName,
    user_id: &'a str,
    username: &'a str,
    content: &'a str,
    r#type: &'static str,
    timestamp: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    client_id: Option<&'a str>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Sent {
    id: String,
    room_id: RoomName,
    /// None where messages are not stored.
    #[serde(skip_serializing_if = "Option::is_none")]
    offset: Option<Offset>,
    timestamp: u64,
}

/// What a user has read of a room.
#[derive(Serialize, Deserialize)]
struct ReadMark {
    message: String,
    seq: u64,
}

/// `message`.
pub(crate) struct SendMessage {
    room: RoomName,
    content: String,
    kind: &'static str,
    client_id: Option<String>,
    /// What a retry has in common with the first attempt.
    key: Option<String>,
    /// Whose key it is, if not the user's.
    retrier: Option<String>,
}

impl Ask for SendMessage {
    type Answer = Sent;

    const PURPOSE: Use = Use::Send(EVENT);

    fn read(caller: &impl Caller, mut input: Input<'_>) -> Result<Self, ClientError> {
        let room = input.room("roomId");
        let content = input.text("content", MAX_CONTENT);
        let kind = input.one_of("type", &TYPES);
        let client_id = input.optional_text("clientId", MAX_CLIENT_ID);
        // A client's own ids may be no more than numbers, which others at a guest's address have too.
        let retrier = input.key().map(|_| caller.retrier().to_owned());
        let key = input.key().map(str::to_owned).or_else(|| client_id.clone());
        let (room, content) = input.both(room, content)?;
        Ok(Self {
            room,
            content,
            kind,
            client_id,
            key,
            retrier,
        })
    }

    fn room(&self) -> Option<&RoomName> {
        Some(&self.room)
    }

    fn run<C: Caller>(self, caller: &C) -> impl Future<Output = Result<Sent, ClientError>> + Send + 'static {
        let user = caller.user();
        let token = RoomToken::new(caller.namespace(), &self.room);
        let retrier = self.retrier.as_deref().unwrap_or(user.id.as_str());
        let id = EventId::new(retrier, token, self.key.as_deref());
        let timestamp = crate::now_ms();
        let body = Body {
            id: &id.id,
            room_id: &self.room,
            user_id: user.id.as_str(),
            username: &user.username,
            content: &self.content,
            r#type: self.kind,
            timestamp,
            client_id: self.client_id.as_deref(),
        };
        let args = json(&body);
        let event = Event {
            namespace: caller.namespace(),
            room: &self.room,
            name: EVENT,
            args,
        };
        let mut sent = Sent {
            id: id.id.clone(),
            room_id: self.room.clone(),
            offset: None,
            timestamp,
        };
        let span = caller.publishing(&self.room);
        let core = Arc::clone(caller.core());
        let rules = core.access.rules();
        let policy = rules.policy(caller.namespace());
        let stored = if policy.is_some_and(|policy| policy.is_volatile(EVENT)) {
            core.publisher
                .signal(Some(caller.sender()), event, None, true, span);
            None
        } else {
            Some(core.publisher.append(caller.sender(), event, id, timestamp, span))
        };
        async move {
            let Some(stored) = stored else { return Ok(sent) };
            let Stored { offset, duplicate } = stored.await?;
            sent.offset = Some(offset);
            if duplicate {
                sent.timestamp = first_time(&**core.publisher.log(), offset).await?;
            }
            Ok(sent)
        }
    }
}

/// When a message that was sent again was sent first.
async fn first_time(log: &dyn EventLog, offset: Offset) -> Result<u64, ClientError> {
    let entry = log.get(offset.partition, offset.seq).await.map_err(log_error)?;
    let publish = entry.and_then(|entry| Publish::decode(entry.payload).ok());
    Ok(publish.map_or_else(crate::now_ms, |publish| publish.time_ms))
}

/// Messages of a room, ascending.
pub(super) struct Messages {
    /// Each with its place in the log.
    messages: Vec<(u64, String)>,
    pub(super) has_more: bool,
}

impl Messages {
    /// As a raw JSON list.
    pub(super) fn json(&self) -> Box<RawValue> {
        let messages: Vec<&str> = self.messages.iter().map(|(_, message)| &**message).collect();
        // Each is one object.
        RawValue::from_string(format!("[{}]", messages.join(","))).unwrap_or_default()
    }

    /// Those that `query` asks for.
    fn select(mut self, query: PageQuery) -> Self {
        match query {
            PageQuery::Before { before, limit } => {
                self.messages.retain(|(seq, _)| *seq < before);
                let older = self.messages.len().saturating_sub(limit);
                self.messages.drain(..older);
                self.has_more = older > 0;
            }
            PageQuery::After { after, limit } => {
                self.messages.retain(|(seq, _)| *seq > after);
                self.has_more = self.messages.len() > limit;
                self.messages.truncate(limit);
            }
        }
        self
    }
}

/// The last `limit` messages up to `position`, inclusive, as far as they are among the `newest`.
pub(super) async fn last(
    publisher: &Publisher,
    token: RoomToken,
    position: u64,
    limit: usize,
    newest: Option<usize>,
) -> Result<Messages, ClientError> {
    let query = PageQuery::Before {
        before: position.saturating_add(1),
        limit,
    };
    among(publisher, token, query, newest).await
}

/// A page of a room's `newest` messages, or of all there are.
async fn among(
    publisher: &Publisher,
    token: RoomToken,
    query: PageQuery,
    newest: Option<usize>,
) -> Result<Messages, ClientError> {
    let everything = |limit| PageQuery::Before {
        before: u64::MAX,
        limit,
    };
    match newest {
        None => page(publisher, token, query).await,
        Some(0) => Ok(Messages {
            messages: Vec::new(),
            has_more: false,
        }),
        Some(newest) => Ok(page(publisher, token, everything(newest)).await?.select(query)),
    }
}

async fn page(publisher: &Publisher, token: RoomToken, query: PageQuery) -> Result<Messages, ClientError> {
    let page = ::publisher::messages::page(&**publisher.log(), token, query).await;
    let ::publisher::messages::Messages { messages, has_more } = page.map_err(log_error)?;
    Ok(Messages { messages, has_more })
}

/// `getMessages`.
pub(crate) struct History {
    room: RoomName,
    query: PageQuery,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Found {
    messages: Box<RawValue>,
    has_more: bool,
}

impl Ask for History {
    type Answer = Found;

    fn read(caller: &impl Caller, mut input: Input<'_>) -> Result<Self, ClientError> {
        let room = input.room("roomId");
        let before = input.optional_offset("before");
        let after = input.optional_offset("after");
        let limit = input
            .optional_number("limit", 1, MAX_PAGE)
            .unwrap_or(DEFAULT_PAGE)
            .max(1);
        if before.is_some() && after.is_some() {
            input.reject("after", "cannot be combined with before");
        }
        if let (Some(room), Some(offset)) = (&room, before.or(after)) {
            let token = RoomToken::new(caller.namespace(), room);
            if offset.partition != caller.core().publisher.partition(token) {
                let field = if before.is_some() { "before" } else { "after" };
                input.reject(field, "is not an offset of this room");
            }
        }
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let query = match (before, after) {
            (_, Some(after)) => PageQuery::After {
                after: after.seq,
                limit,
            },
            (before, None) => PageQuery::Before {
                before: before.map_or(u64::MAX, |before| before.seq),
                limit,
            },
        };
        let (room, ()) = input.both(room, Some(()))?;
        Ok(Self { room, query })
    }

    fn room(&self) -> Option<&RoomName> {
        Some(&self.room)
    }

    fn run<C: Caller>(self, caller: &C) -> impl Future<Output = Result<Found, ClientError>> + Send + 'static {
        let token = RoomToken::new(caller.namespace(), &self.room);
        let publisher = Arc::clone(&caller.core().publisher);
        let newest = caller.core().access.rules().history(caller.namespace());
        async move {
            let messages = among(&publisher, token, self.query, newest).await?;
            Ok(Found {
                messages: messages.json(),
                has_more: messages.has_more,
            })
        }
    }
}

/// `markMessagesRead`.
pub(crate) struct MarkRead {
    room: RoomName,
    message: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Marked {
    room_id: RoomName,
    message_id: String,
    unread: usize,
}

impl Ask for MarkRead {
    type Answer = Marked;

    fn read(_: &impl Caller, mut input: Input<'_>) -> Result<Self, ClientError> {
        let room = input.room("roomId");
        let message = input.text("messageId", MAX_ID);
        let (room, message) = input.both(room, message)?;
        Ok(Self { room, message })
    }

    fn room(&self) -> Option<&RoomName> {
        Some(&self.room)
    }

    fn run<C: Caller>(
        self,
        caller: &C,
    ) -> impl Future<Output = Result<Marked, ClientError>> + Send + 'static {
        let reader = Reader {
            core: Arc::clone(caller.core()),
            namespace: caller.namespace().clone(),
            token: RoomToken::new(caller.namespace(), &self.room),
            sender: caller.sender(),
            trace: caller.trace().cloned(),
        };
        async move { reader.mark(self.room, self.message).await }
    }
}

/// Who marks messages of a room as read.
struct Reader {
    core: Arc<Core>,
    namespace: Namespace,
    token: RoomToken,
    sender: Sender,
    trace: Option<Arc<Receiving>>,
}

impl Reader {
    async fn mark(self, room: RoomName, message: String) -> Result<Marked, ClientError> {
        let seq = self
            .find(&message)
            .await?
            .ok_or_else(|| ClientError::new(ErrorCode::NotFound, "There is no such message in the room"))?;
        let mark = ReadMark { message, seq };
        let (moved, seq) = self.advance(&mark).await?;
        let unread = self.unread(seq).await?;
        if moved {
            let read = json!({
                "roomId": room,
                "userId": self.sender.user_id,
                "messageId": mark.message,
                "readAt": crate::now_ms(),
            });
            let event = Event {
                namespace: &self.namespace,
                room: &room,
                name: "messagesRead",
                args: read.to_string(),
            };
            let trace = self.trace.as_deref();
            let span = trace.and_then(|trace| self.core.publishing(trace, &self.namespace, &room));
            self.core
                .publisher
                .signal(Some(self.sender), event, None, false, span);
        }
        Ok(Marked {
            room_id: room,
            message_id: mark.message,
            unread,
        })
    }

    /// The place of a message, the newest first.
    async fn find(&self, id: &str) -> Result<Option<u64>, ClientError> {
        let partition = self.core.publisher.partition(self.token);
        let mut before = u64::MAX;
        loop {
            let query = PageQuery::Before {
                before,
                limit: SEARCH_PAGE,
            };
            let page = self.core.publisher.page(self.token, query).await?;
            let Some(first) = page.entries.first().map(|entry| entry.seq) else {
                return Ok(None);
            };
            for entry in page.entries.into_iter().rev() {
                let seq = entry.seq;
                if message(partition, entry).is_some_and(|(_, publish)| publish.id == id) {
                    return Ok(Some(seq));
                }
            }
            if !page.has_more {
                return Ok(None);
            }
            before = first;
        }
    }

    /// Moves the user's mark forward, never back. Whether it moved, and where it is.
    async fn advance(&self, mark: &ReadMark) -> Result<(bool, u64), ClientError> {
        let user = Uuid::new_v5(&Uuid::NAMESPACE_OID, self.sender.user_id.as_bytes());
        let key = format!("{}.{}", self.token, user.simple());
        for _ in 0..MARK_TRIES {
            let document = self.core.documents.get(READS, &key).await.map_err(unavailable)?;
            let known = document
                .as_ref()
                .and_then(|document| serde_json::from_slice::<ReadMark>(&document.value).ok());
            if let Some(known) = known.filter(|known| known.seq >= mark.seq) {
                return Ok((false, known.seq));
            }
            let revision = document.map(|document| document.revision);
            match self
                .core
                .documents
                .put(READS, &key, json(mark).into(), revision)
                .await
            {
                Ok(_) => return Ok((true, mark.seq)),
                Err(DocumentsError::Conflict(_)) => {}
                Err(error) => return Err(unavailable(error)),
            }
        }
        Err(unavailable("a read mark is being written by many at once"))
    }

    /// Messages of others behind the mark.
    async fn unread(&self, mark: u64) -> Result<usize, ClientError> {
        let partition = self.core.publisher.partition(self.token);
        let user = &self.sender.user_id;
        let mut after = mark;
        let mut unread = 0;
        loop {
            let query = PageQuery::After {
                after,
                limit: SEARCH_PAGE,
            };
            let page = self.core.publisher.page(self.token, query).await?;
            let Some(last) = page.entries.last().map(|entry| entry.seq) else {
                return Ok(unread);
            };
            let others = page
                .entries
                .into_iter()
                .filter_map(|entry| message(partition, entry));
            unread += others
                .filter(|(_, publish)| publish.sender.as_ref().is_none_or(|by| by.user_id != *user))
                .count();
            if !page.has_more {
                return Ok(unread);
            }
            after = last;
        }
    }
}
