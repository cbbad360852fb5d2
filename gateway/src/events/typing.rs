//! `typing`: volatile, and it ends by itself.

use std::{collections::HashMap, sync::Arc, time::Duration};

use lifecycle::Tasks;
use model::{Namespace, RoomName, RoomToken};
use parking_lot::Mutex;
use proto::v1::Except;
use serde_json::json;
use telemetry::trace::Span;
use tokio::time::Instant;

use super::{Call, Input, Use};
use crate::{
    publish::{Event, Publisher},
    transport::Step,
};

/// Who says nothing more has stopped typing after this time (CONTRACT section 4).
const ENDS_AFTER: Duration = Duration::from_secs(5);
/// Rooms one socket may be typing in at a time; in more of them it is told but not ended by itself.
const MAX_ROOMS: usize = 16;

/// Where a socket is typing, until when.
type Until = (RoomToken, Instant);

/// Who is typing where, by socket.
pub(crate) struct Typing {
    active: Mutex<HashMap<Box<str>, Vec<Until>>>,
    tasks: Tasks,
}

impl Typing {
    pub(crate) fn new(tasks: Tasks) -> Self {
        Self {
            active: Mutex::default(),
            tasks,
        }
    }

    /// `true` when this is news, so that a timer must be started.
    fn start(&self, socket: &str, room: RoomToken) -> bool {
        let until = Instant::now() + ENDS_AFTER;
        let mut active = self.active.lock();
        let rooms = active.entry(socket.into()).or_default();
        if let Some((_, known)) = rooms.iter_mut().find(|(token, _)| *token == room) {
            *known = until;
            return false;
        }
        if rooms.len() >= MAX_ROOMS {
            return false;
        }
        rooms.push((room, until));
        true
    }

    fn stop(&self, socket: &str, room: RoomToken) -> bool {
        let mut active = self.active.lock();
        let Some(rooms) = active.get_mut(socket) else {
            return false;
        };
        let before = rooms.len();
        rooms.retain(|(token, _)| *token != room);
        let stopped = rooms.len() < before;
        if rooms.is_empty() {
            active.remove(socket);
        }
        stopped
    }

    fn until(&self, socket: &str, room: RoomToken) -> Option<Instant> {
        let active = self.active.lock();
        let (_, until) = active.get(socket)?.iter().find(|(token, _)| *token == room)?;
        Some(*until)
    }
}

pub(super) fn typing(call: Call, mut input: Input) -> Step {
    let room = input.room("roomId");
    let is_typing = input.flag("isTyping", true);
    match (room, input.finish()) {
        (Some(room), Ok(())) => call.with_access(room, Use::Send("typing"), move |call, room| {
            tell(&call, room, is_typing)
        }),
        (_, Err(error)) => call.fail(error),
        (None, Ok(())) => Step::Done,
    }
}

fn tell(call: &Call, room: RoomName, is_typing: bool) -> Step {
    let token = RoomToken::new(call.namespace(), &room);
    let typing = &call.core.typing;
    let note = Note {
        namespace: call.namespace().clone(),
        user: call.socket.user().id.to_string(),
        username: call.socket.user().username.clone(),
        socket: call.socket.id().into(),
        room,
    };
    let trace = call.trace.as_deref();
    let span = trace.and_then(|trace| call.core.publishing(trace, &note.namespace, &note.room));
    note.send(&call.core.publisher, is_typing, span);
    if !is_typing {
        typing.stop(call.socket.id(), token);
    } else if typing.start(call.socket.id(), token) {
        let core = Arc::clone(&call.core);
        typing.tasks.spawn("typing", async move {
            while let Some(until) = core.typing.until(&note.socket, token) {
                if until <= Instant::now() {
                    if core.typing.stop(&note.socket, token) {
                        note.send(&core.publisher, false, None);
                    }
                    return;
                }
                tokio::time::sleep_until(until).await;
            }
        });
    }
    call.done(&json!({}))
}

/// Who types; it outlives the socket, so that typing ends for the others too when its sender is cut off.
struct Note {
    namespace: Namespace,
    room: RoomName,
    user: String,
    username: Arc<str>,
    socket: Box<str>,
}

impl Note {
    fn send(&self, publisher: &Publisher, is_typing: bool, span: Option<Span>) {
        let args = json!({
            "roomId": self.room,
            "userId": self.user,
            "username": self.username,
            "isTyping": is_typing,
        });
        let event = Event {
            namespace: &self.namespace,
            room: &self.room,
            name: "user-typing",
            args: args.to_string(),
        };
        let others = Except {
            sockets: vec![self.socket.to_string()],
            ..Except::default()
        };
        publisher.signal(None, event, Some(others), true, span);
    }
}
