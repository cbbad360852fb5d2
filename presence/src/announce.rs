//! What a room is told about who comes and goes.
//!
//! **Who hears of a user's coming online and going offline**: the rooms the user shares with others, and no one
//! else, so that the cost does not grow with the namespace and nobody learns of users with whom he shares nothing.
//! `user-online` goes to a room that the user joins shortly after coming online, `user-offline` to the rooms the
//! user was in until then. A room over the size of a crowd hears of neither. All copies of one such event bear the
//! same id, whichever room and replica they come from.

use std::time::Duration;

use bus::{SignalsError, subjects};
use futures_util::future::join_all;
use model::{Namespace, RoomName, RoomToken, partition_of};
use prost::Message;
use proto::v1;
use registry::presence_store::{RoomChange, RoomTransition, Transition};
use serde::Serialize;
use tokio::time::Instant;
use uuid::Uuid;

use crate::{Core, crowd};

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

/// `user-online {userId, username}`.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct UserOnline<'a> {
    user_id: &'a str,
    username: &'a str,
}

/// `user-offline {userId, username, lastSeen}`.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct UserOffline<'a> {
    user_id: &'a str,
    username: &'a str,
    /// When the last socket was lost, unix milliseconds.
    last_seen: u64,
}

/// A room that a user joins within this time after coming online hears of that.
const ARRIVAL: Duration = Duration::from_secs(10);
/// Crowds that are told at the same time.
const CROWDS_AT_ONCE: usize = 64;

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
            RoomChange::Joined { .. } | RoomChange::Left { .. }
                if transition.users_count > self.settings.crowd =>
            {
                self.crowds.lock().put(transition.clone());
                Ok(())
            }
            RoomChange::Joined { online_ms } => {
                self.presence(transition, &transition.room, transition.users_count, "joined")?;
                let age = (self.clock)().saturating_sub(*online_ms);
                if u128::from(age) < ARRIVAL.as_millis() {
                    self.tell_online(transition, *online_ms)?;
                }
                Ok(())
            }
            RoomChange::Restored | RoomChange::Lost { .. } => Ok(()),
            RoomChange::JoinedAgain { socket } => {
                let to = RoomName::of_socket(socket);
                self.presence(transition, &to, transition.users_count, "joined")
            }
            RoomChange::Left { offline_ms } => {
                self.presence(transition, &transition.room, transition.users_count, "left")?;
                let args = UserLeft {
                    room_id: transition.room.as_str(),
                    user_id: transition.user.as_str(),
                    username: &transition.username,
                };
                let to = Told::by(transition, "user-left", new_id());
                self.emit(to, &transition.room, &args)?;
                offline_ms.map_or(Ok(()), |at| self.tell_offline(transition, at))
            }
        }
    }

    fn tell_online(&self, transition: &RoomTransition, online_ms: u64) -> Result<(), AnnounceError> {
        let args = UserOnline {
            user_id: transition.user.as_str(),
            username: &transition.username,
        };
        let id = id_of(transition, "online", online_ms);
        let except = v1::Except {
            users: vec![transition.user.as_str().to_owned()],
            ..v1::Except::default()
        };
        let to = Told {
            except: Some(except),
            ..Told::by(transition, "user-online", id)
        };
        self.emit(to, &transition.room, &args)
    }

    fn tell_offline(&self, transition: &RoomTransition, offline_ms: u64) -> Result<(), AnnounceError> {
        let grace = u64::try_from(self.settings.grace.as_millis()).unwrap_or(u64::MAX);
        let args = UserOffline {
            user_id: transition.user.as_str(),
            username: &transition.username,
            last_seen: offline_ms.saturating_sub(grace),
        };
        let id = id_of(transition, "offline", offline_ms);
        self.emit(Told::by(transition, "user-offline", id), &transition.room, &args)
    }

    /// Tells crowded rooms what has waited, unless another replica has told them just now. The count is the one
    /// of that moment.
    pub(crate) async fn tell_crowds(&self) {
        let due = self.crowds.lock().due(Instant::now());
        for some in due.chunks(CROWDS_AT_ONCE) {
            join_all(some.iter().map(|transition| self.tell_crowd(transition))).await;
        }
    }

    async fn tell_crowd(&self, transition: &RoomTransition) {
        let (namespace, room) = (&transition.namespace, &transition.room);
        let turn = self
            .store
            .turn_to_tell(namespace, room, (self.clock)(), crowd::PAUSE)
            .await;
        let told = match turn {
            Ok(Some(users_count)) => {
                let action = if matches!(transition.change, RoomChange::Left { .. }) {
                    "left"
                } else {
                    "joined"
                };
                self.presence(transition, room, users_count, action)
            }
            Ok(None) => {
                self.crowds.lock().put_back(transition.clone());
                Ok(())
            }
            Err(error) => {
                self.crowds.lock().put_back(transition.clone());
                tracing::debug!(%error, %room, "a crowd is told a moment later");
                Ok(())
            }
        };
        if let Err(error) = told {
            self.metrics.announcements_lost.inc();
            tracing::warn!(%error, %room, "an announcement was lost");
        }
    }

    fn presence(
        &self,
        transition: &RoomTransition,
        to: &RoomName,
        users_count: u32,
        action: &'static str,
    ) -> Result<(), AnnounceError> {
        let args = RoomPresence {
            room_id: transition.room.as_str(),
            users_count,
            user_id: transition.user.as_str(),
            action,
        };
        self.emit(Told::by(transition, "room-presence", new_id()), to, &args)
    }

    fn emit(&self, told: Told<'_>, to: &RoomName, arg: &impl Serialize) -> Result<(), AnnounceError> {
        let token = RoomToken::new(told.namespace, to);
        let publish = v1::Publish {
            id: told.id.to_string(),
            namespace: told.namespace.as_str().to_owned(),
            room: to.as_str().to_owned(),
            event: told.event.to_owned(),
            args: serde_json::to_vec(arg)?.into(),
            time_ms: (self.clock)(),
            except: told.except,
            ..v1::Publish::default()
        };
        let subject = subjects::signal(partition_of(token, self.settings.partitions), token);
        Ok(self.signals.publish(&subject, publish.encode_to_vec().into())?)
    }
}

/// An event but for its arguments.
struct Told<'a> {
    namespace: &'a Namespace,
    event: &'static str,
    id: Uuid,
    except: Option<v1::Except>,
}

impl<'a> Told<'a> {
    fn by(transition: &'a RoomTransition, event: &'static str, id: Uuid) -> Self {
        Self {
            namespace: &transition.namespace,
            event,
            id,
            except: None,
        }
    }
}

fn new_id() -> Uuid {
    Uuid::now_v7()
}

/// The id of what happened to a user of a namespace at a time.
fn id_of(transition: &RoomTransition, what: &str, at_ms: u64) -> Uuid {
    let (namespace, user) = (&transition.namespace, &transition.user);
    let name = format!("{what}\0{at_ms}\0{namespace}\0{user}");
    Uuid::new_v5(&Uuid::NAMESPACE_OID, name.as_bytes())
}

#[derive(Debug, thiserror::Error)]
enum AnnounceError {
    #[error(transparent)]
    Signals(#[from] SignalsError),
    #[error(transparent)]
    Json(#[from] serde_json::Error),
}
