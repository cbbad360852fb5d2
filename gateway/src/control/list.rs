//! Who is connected.

use std::sync::Arc;

use prost::Message;
use prost_types::Timestamp;
use proto::v1::{ConnectedSocket, ListCommand, SocketList};

use super::Control;
use crate::session::Socket;

/// Bytes of one answer, but for its last socket: a NATS server takes 1 MiB as it comes.
const MAX_BYTES: usize = 512 << 10;

impl Control {
    /// Sockets by id, those behind `after`.
    pub(super) fn list(&self, command: ListCommand) -> SocketList {
        let mut found = self.finder.find(&command.of.unwrap_or_default());
        found.retain(|socket| socket.id() > command.after.as_str());
        found.sort_unstable_by(|one, other| one.id().cmp(other.id()));
        let limit = usize::try_from(command.limit).unwrap_or(usize::MAX);
        let mut list = SocketList::default();
        let mut bytes = 0;
        for socket in &found {
            if list.sockets.len() >= limit || bytes > MAX_BYTES {
                list.more = true;
                break;
            }
            let shown = self.show(socket);
            bytes += shown.encoded_len();
            list.sockets.push(shown);
        }
        list
    }

    fn show(&self, socket: &Arc<Socket>) -> ConnectedSocket {
        let user = socket.user();
        let conn = socket.conn();
        let mut rooms: Vec<String> = {
            let rooms = socket.rooms.lock();
            let names = rooms.rooms().map(|room| room.name());
            names
                .filter(|name| !name.as_str().starts_with(char::is_control))
                .filter(|name| name.user() != Some(user.id.as_str()))
                .map(ToString::to_string)
                .collect()
        };
        rooms.sort_unstable();
        let connected_at = socket.connected_at_ms();
        ConnectedSocket {
            id: socket.id().to_owned(),
            namespace: socket.namespace().to_string(),
            user_id: user.id.to_string(),
            username: user.username.to_string(),
            gateway: self.core.journal.gateway().to_string(),
            connected_at: Some(Timestamp {
                seconds: i64::try_from(connected_at / 1000).unwrap_or(i64::MAX),
                nanos: i32::try_from(connected_at % 1000 * 1_000_000).unwrap_or_default(),
            }),
            rooms,
            transport: if conn.is_polling() { "polling" } else { "websocket" }.to_owned(),
            address: conn.handshake().ip.to_string(),
            // The session id is the client's secret.
            connection: blake3::hash(conn.sid().as_bytes()).to_hex()[..16].to_owned(),
        }
    }
}
