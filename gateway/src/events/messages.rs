//! `message`, `getMessages`, `markMessagesRead`.

use std::sync::Arc;

use bus::{DocumentsError, Entry, EventLog, PageQuery};
use model::{ClientError, ErrorCode, Offset, RoomName, RoomToken};
use prost::Message;
use proto::v1::Publish;
use serde::{Deserialize, Serialize};
use serde_json::{json, value::RawValue};
use uuid::Uuid;

use super::{Call, Input};
use crate::{
    deliver::stamp,
    publish::{Event, EventId, Stored, log_error},
    session::{json, unavailable},
    transport::Step,
};

const EVENT: &str = "message";
const TYPES: [&str; 3] = ["text", "image", "file"];
const MAX_CONTENT: usize = 5000;
const MAX_CLIENT_ID: usize = 128;
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
struct Sent {
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

pub(super) fn send(call: Call, mut input: Input) -> Step {
    let room = input.room("roomId");
    let content = input.text("content", MAX_CONTENT);
    let kind = input.one_of("type", &TYPES);
    let client_id = input.optional_text("clientId", MAX_CLIENT_ID);
    match (room, content, input.finish()) {
        (Some(room), Some(content), Ok(())) => call.with_access(room, move |call, room| {
            append(call, room, &content, kind, client_id.as_deref())
        }),
        (_, _, Err(error)) => call.fail(error),
        (..) => Step::Done,
    }
}

fn append(call: Call, room: RoomName, content: &str, kind: &'static str, client_id: Option<&str>) -> Step {
    let user = call.socket.user();
    let token = RoomToken::new(call.namespace(), &room);
    let id = EventId::new(user.id.as_str(), token, client_id);
    let timestamp = crate::now_ms();
    let body = Body {
        id: &id.id,
        room_id: &room,
        user_id: user.id.as_str(),
        username: &user.username,
        content,
        r#type: kind,
        timestamp,
        client_id,
    };
    let args = json(&body);
    let sent_id = id.id.clone();
    let event = Event {
        namespace: call.namespace(),
        room: &room,
        name: EVENT,
        args,
    };
    let rules = call.core.access.rules();
    let policy = rules.policy(call.namespace());
    if policy.is_some_and(|policy| policy.is_volatile(EVENT)) {
        call.core.publisher.signal(Some(&call.socket), event, None, true);
        call.reply(&Ok(Sent {
            id: sent_id,
            room_id: room,
            offset: None,
            timestamp,
        }));
        return Step::Done;
    }
    let stored = call.core.publisher.append(&call.socket, event, id, timestamp);
    let core = Arc::clone(&call.core);
    call.later(async move {
        let Stored { offset, duplicate } = stored.await?;
        let timestamp = if duplicate {
            first_time(&**core.publisher.log(), offset).await?
        } else {
            timestamp
        };
        Ok(Sent {
            id: sent_id,
            room_id: room,
            offset: Some(offset),
            timestamp,
        })
    })
}

/// When a message that was sent again was sent first.
async fn first_time(log: &dyn EventLog, offset: Offset) -> Result<u64, ClientError> {
    let entry = log.get(offset.partition, offset.seq).await.map_err(log_error)?;
    let publish = entry.and_then(|entry| Publish::decode(entry.payload).ok());
    Ok(publish.map_or_else(crate::now_ms, |publish| publish.time_ms))
}

/// Messages of a room, ascending.
pub(super) struct Messages {
    messages: Vec<String>,
    pub(super) has_more: bool,
}

impl Messages {
    /// As a raw JSON list.
    pub(super) fn json(&self) -> Box<RawValue> {
        // Each is an object we have written ourselves.
        RawValue::from_string(format!("[{}]", self.messages.join(","))).unwrap_or_default()
    }
}

/// The last `limit` messages up to `position`, inclusive.
pub(super) async fn last(
    call: &Call,
    token: RoomToken,
    position: u64,
    limit: usize,
) -> Result<Messages, ClientError> {
    page(
        call,
        token,
        PageQuery::Before {
            before: position.saturating_add(1),
            limit,
        },
    )
    .await
}

async fn page(call: &Call, token: RoomToken, query: PageQuery) -> Result<Messages, ClientError> {
    let partition = call.core.publisher.partition(token);
    let (mut at, limit, backwards) = match query {
        PageQuery::Before { before, limit } => (before, limit, true),
        PageQuery::After { after, limit } => (after, limit, false),
    };
    let mut messages = Vec::with_capacity(limit);
    loop {
        let rest = limit - messages.len();
        let query = if backwards {
            PageQuery::Before {
                before: at,
                limit: rest,
            }
        } else {
            PageQuery::After {
                after: at,
                limit: rest,
            }
        };
        let page = call.core.publisher.page(token, query).await?;
        let edge = if backwards {
            page.entries.first()
        } else {
            page.entries.last()
        };
        if let Some(edge) = edge {
            at = edge.seq;
        }
        // Other events of the room are stored beside its messages.
        let found = page
            .entries
            .into_iter()
            .filter_map(|entry| message(partition, entry))
            .map(|(json, _)| json);
        if backwards {
            messages.splice(..0, found);
        } else {
            messages.extend(found);
        }
        if messages.len() >= limit || !page.has_more {
            return Ok(Messages {
                messages,
                has_more: page.has_more,
            });
        }
    }
}

fn message(partition: u16, entry: Entry) -> Option<(String, Publish)> {
    let publish = Publish::decode(entry.payload)
        .ok()
        .filter(|publish| publish.event == EVENT)?;
    let args = std::str::from_utf8(&publish.args).ok()?;
    Some((
        stamp(
            args,
            Offset {
                partition,
                seq: entry.seq,
            },
        ),
        publish,
    ))
}

pub(super) fn history(call: Call, mut input: Input) -> Step {
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
        let token = RoomToken::new(call.namespace(), room);
        if offset.partition != call.core.publisher.partition(token) {
            let field = if before.is_some() { "before" } else { "after" };
            input.reject(field, "is not an offset of this room");
        }
    }
    match (room, input.finish()) {
        (Some(room), Ok(())) => call.with_access(room, move |call, room| {
            let token = RoomToken::new(call.namespace(), &room);
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
            let work = call.clone();
            call.later(async move {
                #[derive(Serialize)]
                #[serde(rename_all = "camelCase")]
                struct Found {
                    messages: Box<RawValue>,
                    has_more: bool,
                }
                let messages = page(&work, token, query).await?;
                Ok(Found {
                    messages: messages.json(),
                    has_more: messages.has_more,
                })
            })
        }),
        (_, Err(error)) => call.fail(error),
        (None, Ok(())) => Step::Done,
    }
}

pub(super) fn mark_read(call: Call, mut input: Input) -> Step {
    let room = input.room("roomId");
    let message = input.text("messageId", 128);
    match (room, message, input.finish()) {
        (Some(room), Some(message), Ok(())) => call.with_access(room, move |call, room| {
            let work = mark(call.clone(), room, message);
            call.later(work)
        }),
        (_, _, Err(error)) => call.fail(error),
        (..) => Step::Done,
    }
}

async fn mark(call: Call, room: RoomName, message: String) -> Result<serde_json::Value, ClientError> {
    let token = RoomToken::new(call.namespace(), &room);
    let user = call.socket.user().id.as_str();
    let seq = find(&call, token, &message)
        .await?
        .ok_or_else(|| ClientError::new(ErrorCode::NotFound, "There is no such message in the room"))?;
    let (moved, seq) = advance(
        &call,
        token,
        ReadMark {
            message: message.clone(),
            seq,
        },
    )
    .await?;
    let unread = unread(&call, token, seq).await?;
    if moved {
        let read = json!({ "roomId": room, "userId": user, "messageId": message, "readAt": crate::now_ms() });
        let event = Event {
            namespace: call.namespace(),
            room: &room,
            name: "messagesRead",
            args: read.to_string(),
        };
        call.core.publisher.signal(Some(&call.socket), event, None, false);
    }
    Ok(json!({ "roomId": room, "messageId": message, "unread": unread }))
}

/// The place of a message, the newest first.
async fn find(call: &Call, token: RoomToken, id: &str) -> Result<Option<u64>, ClientError> {
    let partition = call.core.publisher.partition(token);
    let mut before = u64::MAX;
    loop {
        let query = PageQuery::Before {
            before,
            limit: SEARCH_PAGE,
        };
        let page = call.core.publisher.page(token, query).await?;
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
async fn advance(call: &Call, token: RoomToken, mark: ReadMark) -> Result<(bool, u64), ClientError> {
    let user = Uuid::new_v5(&Uuid::NAMESPACE_OID, call.socket.user().id.as_str().as_bytes());
    let key = format!("{token}.{}", user.simple());
    for _ in 0..MARK_TRIES {
        let document = call.core.documents.get(READS, &key).await.map_err(unavailable)?;
        let known = document
            .as_ref()
            .and_then(|document| serde_json::from_slice::<ReadMark>(&document.value).ok());
        if let Some(known) = known.filter(|known| known.seq >= mark.seq) {
            return Ok((false, known.seq));
        }
        let revision = document.map(|document| document.revision);
        match call
            .core
            .documents
            .put(READS, &key, json(&mark).into(), revision)
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
async fn unread(call: &Call, token: RoomToken, mark: u64) -> Result<usize, ClientError> {
    let partition = call.core.publisher.partition(token);
    let user = call.socket.user().id.as_str();
    let mut after = mark;
    let mut unread = 0;
    loop {
        let query = PageQuery::After {
            after,
            limit: SEARCH_PAGE,
        };
        let page = call.core.publisher.page(token, query).await?;
        let Some(last) = page.entries.last().map(|entry| entry.seq) else {
            return Ok(unread);
        };
        let others = page
            .entries
            .into_iter()
            .filter_map(|entry| message(partition, entry));
        unread += others
            .filter(|(_, publish)| publish.sender.as_ref().is_none_or(|by| by.user_id != user))
            .count();
        if !page.has_more {
            return Ok(unread);
        }
        after = last;
    }
}
