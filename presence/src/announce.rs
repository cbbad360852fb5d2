//! What a room is told about who comes and goes.

use bus::{SignalsError, subjects};
use model::{RoomName, RoomToken, partition_of};
use prost::Message;
use proto::v1;
use registry::presence_store::{RoomChange, RoomTransition, Transition};
use serde::Serialize;

use crate::Core;

/// `room-presence {roomId, usersCount, userId, action}` (CONTRACT section 4).
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct RoomPresence<'a> {
    room_id: &'a str,
    users_count: u32,
    user_id: &'a str,
    action: &'static str,
}

/// `user-left {roomId, userId, username}`.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct UserLeft<'a> {
    room_id: &'a str,
    user_id: &'a str,
    username: &'a str,
}

impl Core {
    /// Announces transitions in their order, as volatile events. What the bus does not take is lost:
    /// the next announcement of the room carries the right count again.
    pub(crate) fn announce(&self, transitions: &[Transition]) {
        if transitions.is_empty() {
            return;
        }
        if let Err(error) = self
            .signals
            .publish(subjects::PRESENCE_CHANGED, Vec::new().into())
        {
            tracing::debug!(%error, "watchers see the changes a moment later");
        }
        for transition in transitions {
            self.metrics.transition(transition);
            let Transition::Room(transition) = transition else {
                continue;
            };
            if let Err(error) = self.announce_one(transition) {
                self.metrics.announcements_lost.inc();
                tracing::warn!(%error, room = %transition.room, "an announcement was lost");
            }
        }
    }

    fn announce_one(&self, transition: &RoomTransition) -> Result<(), AnnounceError> {
        match &transition.change {
            RoomChange::Joined | RoomChange::Left if transition.users_count > self.settings.crowd => {
                let now = tokio::time::Instant::now();
                if self.crowds.lock().admit(transition, now) {
                    self.tell_crowd(transition)
                } else {
                    Ok(())
                }
            }
            RoomChange::Joined => self.presence(transition, &transition.room, "joined"),
            RoomChange::JoinedAgain { socket } => {
                self.presence(transition, &RoomName::of_socket(socket), "joined")
            }
            RoomChange::Lost { .. } => Ok(()),
            RoomChange::Left => {
                self.presence(transition, &transition.room, "left")?;
                let args = UserLeft {
                    room_id: transition.room.as_str(),
                    user_id: transition.user.as_str(),
                    username: &transition.username,
                };
                self.emit(transition, &transition.room, "user-left", &args)
            }
        }
    }

    /// Tells crowded rooms what has waited.
    pub(crate) fn tell_crowds(&self) {
        let due = self.crowds.lock().due(tokio::time::Instant::now());
        for transition in due {
            if let Err(error) = self.tell_crowd(&transition) {
                self.metrics.announcements_lost.inc();
                tracing::warn!(%error, room = %transition.room, "an announcement was lost");
            }
        }
    }

    fn tell_crowd(&self, transition: &RoomTransition) -> Result<(), AnnounceError> {
        let action = if matches!(transition.change, RoomChange::Left) {
            "left"
        } else {
            "joined"
        };
        self.presence(transition, &transition.room, action)
    }

    fn presence(
        &self,
        transition: &RoomTransition,
        to: &RoomName,
        action: &'static str,
    ) -> Result<(), AnnounceError> {
        let args = RoomPresence {
            room_id: transition.room.as_str(),
            users_count: transition.users_count,
            user_id: transition.user.as_str(),
            action,
        };
        self.emit(transition, to, "room-presence", &args)
    }

    fn emit(
        &self,
        about: &RoomTransition,
        to: &RoomName,
        event: &str,
        arg: &impl Serialize,
    ) -> Result<(), AnnounceError> {
        let token = RoomToken::new(&about.namespace, to);
        let publish = v1::Publish {
            id: uuid::Uuid::now_v7().to_string(),
            namespace: about.namespace.as_str().to_owned(),
            room: to.as_str().to_owned(),
            event: event.to_owned(),
            args: serde_json::to_vec(arg)?.into(),
            time_ms: (self.clock)(),
            ..v1::Publish::default()
        };
        let subject = subjects::signal(partition_of(token, self.settings.partitions), token);
        Ok(self.signals.publish(&subject, publish.encode_to_vec().into())?)
    }
}

#[derive(Debug, thiserror::Error)]
enum AnnounceError {
    #[error(transparent)]
    Signals(#[from] SignalsError),
    #[error(transparent)]
    Json(#[from] serde_json::Error),
}
