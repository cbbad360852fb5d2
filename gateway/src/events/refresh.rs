//! `refresh-token`, and what happens to those who do not.

use std::sync::Arc;

use model::{ClientError, ErrorCode, RoomName, User};
use serde_json::json;
use sio::{engine::CloseReason, packet::encode};

use super::{Call, Core, Input};
use crate::{
    session::{Refusal, Socket},
    transport::Step,
};

pub(super) fn refresh(call: Call, mut input: Input) -> Step {
    let token = input.text("token", auth::MAX_TOKEN);
    match (token, input.finish()) {
        // What is sent behind this is judged by the new token.
        (Some(token), Ok(())) => Step::Wait(Box::pin(async move {
            call.reply(&call.refreshed(&token).await);
            Step::Done
        })),
        (_, Err(error)) => call.fail(error),
        (None, Ok(())) => Step::Done,
    }
}

impl Call {
    async fn refreshed(&self, token: &str) -> Result<serde_json::Value, ClientError> {
        let Self { core, socket, .. } = self;
        let handshake = socket.conn().handshake();
        let checked = core.authenticator.check(token, &handshake.shown, handshake.ip);
        let user = core
            .judged(handshake.ip, checked)
            .await
            .map_err(Refusal::to_error)?;
        if user.id != socket.user().id {
            return Err(ClientError::new(
                ErrorCode::Forbidden,
                "The token is of another user",
            ));
        }
        let rules = core.access.rules();
        let admits = rules
            .policy(self.namespace())
            .is_some_and(|policy| policy.admits(user.role));
        if !admits {
            return Err(Refusal::Forbidden.to_error());
        }
        let user = core
            .authorized(self.namespace(), user)
            .await
            .map_err(Refusal::to_error)?;
        // Asked before anything changes: one that could not be asked is asked again by the next attempt.
        let forbidden = self.forbidden(&socket.rights(), &user).await?;
        core.expiries.forget(socket);
        socket.refresh(Arc::clone(&user));
        core.watch_expiry(socket);
        for room in forbidden {
            core.take_out(socket, &room);
        }
        let expires_at = user.expires_at.map(|seconds| seconds.saturating_mul(1000));
        Ok(json!({ "expiresAt": expires_at }))
    }

    /// The rooms it is in that the token before allowed and the new one does not.
    async fn forbidden(&self, before: &User, user: &User) -> Result<Vec<RoomName>, ClientError> {
        let rules = self.core.access.rules();
        let allows = |user: &User, room: &RoomName| rules.grants(user, self.namespace(), room);
        let rooms: Vec<RoomName> = {
            let rooms = self.socket.rooms.lock();
            let names = rooms.rooms().map(|room| room.name());
            names
                .filter(|room| !room.as_str().starts_with(char::is_control))
                .filter(|room| allows(before, room) && !allows(user, room))
                .cloned()
                .collect()
        };
        let mut forbidden = Vec::new();
        for room in rooms {
            if !self.core.is_member(user, self.namespace(), &room).await? {
                forbidden.push(room);
            }
        }
        Ok(forbidden)
    }
}

impl Core {
    /// The socket is put out when its identity ends, if it does.
    pub(super) fn watch_expiry(&self, socket: &Arc<Socket>) {
        self.expiries.watch(socket);
        // It may have ended before.
        if !socket.conn().sockets.lock().has(socket) {
            self.expiries.forget(socket);
        }
    }

    /// Puts those out whose identity has ended at `now`, Unix seconds.
    pub(crate) fn put_expired_out(&self, now: u64) {
        for socket in self.expiries.due(now) {
            // A new token may have come in this very moment.
            if socket.rights().expires_at.is_none_or(|at| at > now) {
                continue;
            }
            self.send_error(&socket, &Refusal::TokenExpired.to_error());
            self.put_out(&socket);
        }
    }

    /// The server ends the socket.
    pub(crate) fn put_out(&self, socket: &Arc<Socket>) {
        let conn = socket.conn();
        if !conn.sockets.lock().put_out(socket) {
            return;
        }
        conn.send(&encode::disconnect(socket.namespace().as_str()));
        let reason = CloseReason::ServerNamespaceDisconnect;
        self.metrics.socket_disconnected(socket.namespace(), reason);
        self.disconnected(socket, reason);
    }
}
