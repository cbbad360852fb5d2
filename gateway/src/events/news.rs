//! Tells the application who comes and goes (CONTRACT section 6, lifecycle types), if it wants to know.

use std::collections::HashSet;

use app::{Feed, News, SocketRef, Trace, Whom};
use model::RoomName;
use parking_lot::Mutex;
use sio::engine::CloseReason;

use super::Core;
use crate::{presence_feed::is_told, session::Socket, spans::unrecorded};

/// What the application is told, and of whom.
pub(super) struct Lifecycle {
    feed: Feed,
    /// Sockets that were told of as connected: one that was never let in does not go either.
    there: Mutex<HashSet<Box<str>>>,
}

impl Lifecycle {
    pub(super) fn new(feed: Feed) -> Self {
        Self {
            feed,
            there: Mutex::default(),
        }
    }

    fn tell(&self, socket: &Socket, news: News<'_>) {
        let (user, traceparent) = (socket.rights(), unrecorded());
        let whom = Whom {
            namespace: socket.namespace().as_str(),
            user: (&*user).into(),
            socket: SocketRef { id: socket.id() },
            trace: Trace {
                traceparent: &traceparent,
            },
        };
        self.feed.tell(news, whom);
    }
}

impl Core {
    pub(super) fn tell_connected(&self, socket: &Socket, recovered: bool) {
        if let Some(lifecycle) = &self.backend.lifecycle {
            lifecycle.there.lock().insert(socket.id().into());
            lifecycle.tell(socket, News::Connected { recovered });
        }
    }

    pub(super) fn tell_disconnected(&self, socket: &Socket, reason: CloseReason) {
        if let Some(lifecycle) = &self.backend.lifecycle
            && lifecycle.there.lock().remove(socket.id())
        {
            let reason = reason.as_str();
            lifecycle.tell(socket, News::Disconnected { reason });
        }
    }

    pub(super) fn tell_joined(&self, socket: &Socket, room: &RoomName) {
        if let Some(lifecycle) = &self.backend.lifecycle {
            lifecycle.tell(socket, News::Joined { room: room.as_str() });
        }
    }

    pub(super) fn tell_left(&self, socket: &Socket, room: &RoomName) {
        if let Some(lifecycle) = &self.backend.lifecycle
            && is_told(room)
        {
            lifecycle.tell(socket, News::Left { room: room.as_str() });
        }
    }

    /// Waits until the application knows who came and went.
    pub(crate) async fn application_told(&self) {
        if let Some(lifecycle) = &self.backend.lifecycle {
            lifecycle.feed.flushed().await;
        }
    }
}
