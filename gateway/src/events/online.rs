//! `getOnlineUsers`.

use std::time::Duration;

use bus::subjects;
use model::{ClientError, ErrorCode, RoomName};
use prost::Message;
use proto::v1::{OnlineUsersQuery, OnlineUsersReply};
use serde_json::json;

use super::{Call, Input, Use};
use crate::{session::unavailable, transport::Step};

const TIMEOUT: Duration = Duration::from_secs(2);
/// Users in one answer, at most.
const MAX_USERS: u32 = 1000;

pub(super) fn users(call: Call, mut input: Input) -> Step {
    let room = input.optional_room("roomId");
    if let Err(error) = input.finish() {
        return call.fail(error);
    }
    match room {
        Some(room) => call.with_access(room, Use::Join, |call, room| ask(call, Some(room))),
        None if call.socket.rights().may("presence:read") => ask(call, None),
        None => call.fail(ClientError::new(
            ErrorCode::Forbidden,
            "Without a roomId this needs permission \"presence:read\"",
        )),
    }
}

fn ask(call: Call, room: Option<RoomName>) -> Step {
    let query = OnlineUsersQuery {
        namespace: call.namespace().to_string(),
        room: room.map(|room| room.to_string()).unwrap_or_default(),
        limit: MAX_USERS,
    };
    let signals = call.core.signals.clone();
    call.later(async move {
        let answer = signals
            .request(subjects::PRESENCE_ONLINE, query.encode_to_vec().into(), TIMEOUT)
            .await;
        let reply = match answer {
            Ok(bytes) => OnlineUsersReply::decode(bytes).map_err(unavailable)?,
            Err(error) => return Err(unavailable(error)),
        };
        let users = reply.users.into_iter().map(|user| {
            json!({ "userId": user.user_id, "username": user.username, "connectedAt": user.connected_at_ms })
        });
        Ok(json!({ "users": users.collect::<Vec<_>>() }))
    })
}
