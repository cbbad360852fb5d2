//! `join-room`, `leave-room`, `getOrCreateRoom`.

use std::{sync::Arc, time::Duration};

use ::publisher::membership::{self, Conversation};
use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use model::{ClientError, RoomName, RoomToken};
use serde::Serialize;
use serde_json::{json, value::RawValue};

use super::{
    Call, Core, Input, Use,
    caller::{Ask, Caller},
    messages,
};
use crate::{
    rooms::Joining,
    session::{Socket, Success, unavailable},
    transport::Step,
};

/// Messages of history with a join, at most.
const MAX_HISTORY: u64 = 200;
/// Participants of a room, at most.
const MAX_PARTICIPANTS: usize = 100;
/// A join waits so long for the cluster's count of users; then it tells the gateway's own.
const COUNT_TIMEOUT: Duration = Duration::from_secs(3);

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Joined<'a> {
    room_id: &'a RoomName,
    users_count: usize,
    offset: model::Offset,
    #[serde(skip_serializing_if = "Option::is_none")]
    messages: Option<Box<RawValue>>,
}

pub(super) fn join(call: Call, mut input: Input) -> Step {
    let room = input.room("roomId");
    let history = input.optional_number("history", 0, MAX_HISTORY).unwrap_or(0);
    match (room, input.finish()) {
        (Some(room), Ok(())) => {
            // Reading comes under its own policy, whichever event it comes with.
            if history > 0
                && let Err(error) = call.may_emit("getMessages")
            {
                return call.fail(error);
            }
            call.with_access(room, Use::Join, move |call, room| admit(call, room, history))
        }
        (_, Err(error)) => call.fail(error),
        (None, Ok(())) => Step::Done,
    }
}

fn admit(call: Call, name: RoomName, history: u64) -> Step {
    let Some(mut joining) = call.join(name.clone()) else {
        return Step::Done;
    };
    let counted = call.core.presence.joined(&call.socket, &name);
    Step::Later(Box::pin(async move {
        let answer = async {
            let position = joining.confirmed().await.map_err(unavailable)?;
            let offset = model::Offset {
                partition: joining.room().partition(),
                seq: position,
            };
            let kept = call.core.keep_room(&call.socket, &name, position);
            let users_count = match tokio::time::timeout(COUNT_TIMEOUT, counted).await {
                Ok(Ok(count)) => count as usize,
                Ok(Err(_)) | Err(_) => joining.room().local_users(),
            };
            let messages = match usize::try_from(history).unwrap_or(usize::MAX) {
                0 => None,
                limit => {
                    let token = joining.room().token();
                    let newest = call.core.access.rules().history(call.namespace());
                    let last = messages::last(&call.core.publisher, token, position, limit, newest);
                    Some(last.await?.json())
                }
            };
            kept.await?;
            Ok(Joined {
                room_id: &name,
                users_count,
                offset,
                messages,
            })
        }
        .await;
        match answer {
            Ok(joined) => {
                if joining.is_new() {
                    call.core.tell_joined(&call.socket, &name);
                }
                joining.release(|position| {
                    let answer = Success {
                        status: "ok",
                        value: &joined,
                    };
                    let ack = call.ack.map(|id| call.socket.ack_json(id, &answer));
                    let args = json!({ "roomId": name }).to_string();
                    let event = call.event("room-joined", &args, position);
                    ack.into_iter().chain([event]).collect()
                });
            }
            Err(error) => {
                // Only a join that brought the socket into the room is taken back.
                if joining.is_new() {
                    call.core.left(&call.socket, &name);
                }
                drop(joining);
                call.reply::<()>(&Err(error));
            }
        }
    }))
}

pub(super) fn leave(call: Call, mut input: Input) -> Step {
    let room = input.room("roomId");
    match (room, input.finish()) {
        (Some(room), Ok(())) => {
            let own = room
                .user()
                .is_some_and(|user| user == call.socket.user().id.as_str());
            // The user's own room is part of being connected.
            if !own {
                call.core.take_out(&call.socket, &room);
            }
            call.done(&json!({ "roomId": room }))
        }
        (_, Err(error)) => call.fail(error),
        (None, Ok(())) => Step::Done,
    }
}

/// `getOrCreateRoom`.
pub(crate) struct GetOrCreate(Conversation);

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct RoomOf {
    room_id: RoomName,
    participants: Vec<String>,
    pub(crate) created: bool,
}

impl Ask for GetOrCreate {
    type Answer = RoomOf;

    fn read(caller: &impl Caller, mut input: Input<'_>) -> Result<Self, ClientError> {
        let mut participants = input.user_ids("participants", MAX_PARTICIPANTS);
        let name = input.optional_text("name", 128);
        input.finish()?;
        participants.push(caller.user().id.to_string());
        participants.sort_unstable();
        participants.dedup();
        Ok(Self(Conversation { participants, name }))
    }

    fn room(&self) -> Option<&RoomName> {
        None
    }

    fn run<C: Caller>(
        self,
        caller: &C,
    ) -> impl Future<Output = Result<RoomOf, ClientError>> + Send + 'static {
        let Self(conversation) = self;
        let room = room_of(&conversation.participants);
        let token = RoomToken::new(caller.namespace(), &room);
        let documents = Arc::clone(&caller.core().documents);
        async move {
            let created = membership::open(&*documents, token, &conversation).await?;
            Ok(RoomOf {
                room_id: room,
                participants: conversation.participants,
                created,
            })
        }
    }
}

pub(super) fn get_or_create(call: Call, input: Input) -> Step {
    let ask = match GetOrCreate::read(&call, input) {
        Ok(ask) => ask,
        Err(error) => return call.fail(error),
    };
    let work = ask.run(&call);
    // What is sent to the room right behind this must find the membership.
    Step::Wait(Box::pin(async move {
        call.reply(&work.await);
        Step::Done
    }))
}

/// The same participants always have the same room: its name is a hash of their sorted ids.
fn room_of(participants: &[String]) -> RoomName {
    let mut all = String::new();
    for id in participants {
        all.push_str(id);
        // Ids have no control characters, so this tells them apart.
        all.push('\0');
    }
    let name = uuid::Uuid::new_v5(&uuid::Uuid::NAMESPACE_OID, all.as_bytes());
    RoomName::stored(&format!("dm-{}", BASE64_URL_SAFE_NO_PAD.encode(name.as_bytes())))
}

impl Core {
    /// Brings a socket into a room, whatever its user may do. Its place among the room's joins is taken at the call;
    /// once this is done every later event of the room comes, and the session keeps the room. Tells whether that
    /// brought it there. A socket that has gone is in no room, which is no error.
    pub(crate) fn put_in(
        &self,
        socket: &Arc<Socket>,
        room: &RoomName,
    ) -> impl Future<Output = Result<bool, ClientError>> + Send {
        let joining = self.rooms.join(socket, room.clone());
        let is_new = joining.as_ref().is_some_and(Joining::is_new);
        if is_new {
            // Nobody asked how many there are.
            drop(self.presence.joined(socket, room));
        }
        async move {
            let Some(mut joining) = joining else {
                return Ok(false);
            };
            let kept = async {
                let position = joining.confirmed().await.map_err(unavailable)?;
                self.keep_room(socket, room, position).await
            }
            .await;
            match &kept {
                Ok(()) => {
                    joining.release(|_| Vec::new());
                    if is_new {
                        self.tell_joined(socket, room);
                    }
                }
                Err(_) => {
                    if is_new {
                        self.left(socket, room);
                    }
                    drop(joining);
                }
            }
            kept.map(|()| is_new)
        }
    }

    /// Has the socket's session keep the room, from behind `position` on; done once the store has it.
    fn keep_room(
        &self,
        socket: &Socket,
        room: &RoomName,
        position: u64,
    ) -> impl Future<Output = Result<(), ClientError>> + Send + use<> {
        let store = self.store.as_ref().zip(socket.pid());
        let granted = self.grants(socket, room);
        let kept = store.and_then(|(store, pid)| store.joined(pid, room, position, granted));
        async move {
            match kept {
                Some(kept) => kept
                    .await
                    .map_err(|_| unavailable("the store does not take the session")),
                None => Ok(()),
            }
        }
    }

    /// Takes a socket out of a room, if it is in it.
    pub(crate) fn take_out(&self, socket: &Socket, room: &RoomName) {
        if self.rooms.leave(socket, RoomToken::new(socket.namespace(), room)) {
            self.left(socket, room);
            self.tell_left(socket, room);
        }
    }

    fn left(&self, socket: &Socket, room: &RoomName) {
        self.presence.left(socket, room);
        if let Some((store, pid)) = self.store.as_ref().zip(socket.pid()) {
            store.left(pid, room);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rooms_of_participants() {
        let room = |ids: &[&str]| room_of(&ids.iter().map(|id| (*id).to_owned()).collect::<Vec<_>>());
        assert_eq!(room(&["a", "b"]), room(&["a", "b"]));
        assert_ne!(room(&["a", "b"]), room(&["ab"]));
        assert_ne!(room(&["a", "bc"]), room(&["ab", "c"]));
        assert!(RoomName::new(room(&["a"]).as_str()).is_ok());
    }
}
