//! Tells the presence service who is here: numbered batches, one under way at a time, so that what
//! happens meanwhile goes into the next one. After any doubt the next batch is a snapshot.

use std::{collections::HashMap, sync::Arc, time::Duration};

use bus::{Signals, subjects};
use lifecycle::Tasks;
use model::{GatewayId, RoomName};
use parking_lot::Mutex;
use prost::Message;
use proto::v1::{
    PresenceBatch, PresenceDelta, PresenceReply, RoomJoined, RoomLeft, SocketConnected, SocketDisconnected,
    presence_delta::Kind,
};
use tokio::sync::{Notify, oneshot};

use crate::session::Socket;

/// A presence service gets so long to answer a batch.
const TIMEOUT: Duration = Duration::from_secs(2);
/// After a batch without an answer, so long until the next try.
const RETRY: Duration = Duration::from_millis(500);
/// With nothing to tell, an empty batch goes out so often: its answer shows whether the service still knows
/// what it was told (CONTRACT G6).
const IDLE: Duration = Duration::from_secs(3);
/// Deltas a batch, at most.
const MAX_BATCH: usize = 4096;

pub(crate) struct PresenceFeed {
    gateway: GatewayId,
    signals: Arc<dyn Signals>,
    pending: Mutex<Vec<Delta>>,
    wake: Notify,
}

struct Delta {
    kind: Kind,
    /// Gets the users count of a join.
    count: Option<oneshot::Sender<u32>>,
}

/// Every socket that is here, with its rooms: the truth a snapshot is made of.
pub(crate) type Truth = Arc<dyn Fn() -> Vec<Arc<Socket>> + Send + Sync>;

impl PresenceFeed {
    pub(crate) fn start(
        gateway: GatewayId,
        signals: Arc<dyn Signals>,
        truth: Truth,
        tasks: &Tasks,
    ) -> Arc<Self> {
        let feed = Arc::new(Self {
            gateway,
            signals,
            pending: Mutex::default(),
            wake: Notify::new(),
        });
        let runs = Arc::clone(&feed);
        tasks.background("presence feed", async move { runs.run(truth).await });
        feed
    }

    pub(crate) fn connected(&self, socket: &Socket) {
        self.push(connected(socket), None);
    }

    pub(crate) fn disconnected(&self, socket: &Socket) {
        let gone = SocketDisconnected {
            namespace: socket.namespace().to_string(),
            socket_id: socket.id().to_owned(),
        };
        self.push(Kind::Disconnected(gone), None);
    }

    /// The receiver gets the room's distinct users right after the join; it fails when the service does
    /// not answer.
    pub(crate) fn joined(&self, socket: &Socket, room: &RoomName) -> oneshot::Receiver<u32> {
        let (sender, receiver) = oneshot::channel();
        self.push(joined(socket, room), Some(sender));
        receiver
    }

    pub(crate) fn left(&self, socket: &Socket, room: &RoomName) {
        let left = RoomLeft {
            namespace: socket.namespace().to_string(),
            socket_id: socket.id().to_owned(),
            room: room.to_string(),
        };
        self.push(Kind::Left(left), None);
    }

    fn push(&self, kind: Kind, count: Option<oneshot::Sender<u32>>) {
        self.pending.lock().push(Delta { kind, count });
        self.wake.notify_one();
    }

    async fn run(&self, truth: Truth) {
        let mut number = 0;
        let mut snapshot = true;
        loop {
            if self.pending.lock().is_empty() && !snapshot {
                // Whether woken or idle for long enough, there is a batch to send.
                let _ = tokio::time::timeout(IDLE, self.wake.notified()).await;
            }
            let deltas = {
                let mut pending = self.pending.lock();
                let end = pending.len().min(MAX_BATCH);
                let rest = pending.split_off(end);
                std::mem::replace(&mut *pending, rest)
            };
            number += 1;
            match self.send(number, snapshot, &truth, deltas).await {
                Some(reply) => {
                    snapshot = reply.need_snapshot;
                    number = number.max(reply.applied);
                }
                None => {
                    snapshot = true;
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }

    /// A snapshot replaces the deltas: the truth has them already. Joins get their count all the same.
    async fn send(
        &self,
        number: u64,
        snapshot: bool,
        truth: &Truth,
        deltas: Vec<Delta>,
    ) -> Option<PresenceReply> {
        let (kinds, mut counts): (Vec<_>, Vec<_>) = if snapshot {
            let mut waiting = HashMap::new();
            for Delta { kind, count } in deltas {
                if let (Kind::Joined(joined), Some(count)) = (kind, count) {
                    waiting.insert((joined.socket_id, joined.room), count);
                }
            }
            let mut all = Vec::new();
            for socket in truth() {
                all.push((connected(&socket), None));
                let rooms = socket.rooms.lock();
                for (room, _) in rooms.iter().filter(|(room, _)| is_told(room.name())) {
                    let count = waiting.remove(&(socket.id().to_owned(), room.name().to_string()));
                    all.push((joined(&socket, room.name()), count));
                }
            }
            all.into_iter().unzip()
        } else {
            deltas.into_iter().map(|delta| (delta.kind, delta.count)).unzip()
        };
        let joins = kinds
            .iter()
            .map(|kind| matches!(kind, Kind::Joined(_)))
            .collect::<Vec<_>>();
        let batch = PresenceBatch {
            gateway: self.gateway.to_string(),
            number,
            snapshot,
            deltas: kinds
                .into_iter()
                .map(|kind| PresenceDelta { kind: Some(kind) })
                .collect(),
        };
        let answer = self
            .signals
            .request(subjects::PRESENCE_BATCH, batch.encode_to_vec().into(), TIMEOUT)
            .await;
        let reply = match answer.map(PresenceReply::decode) {
            Ok(Ok(reply)) => reply,
            Ok(Err(error)) => {
                tracing::error!(%error, "the presence service's answer cannot be read");
                return None;
            }
            Err(error) => {
                tracing::warn!(%error, "the presence service does not answer");
                return None;
            }
        };
        if !reply.need_snapshot {
            let waiting = counts.iter_mut().zip(joins).filter(|(_, join)| *join);
            for ((count, _), users) in waiting.zip(&reply.users_counts) {
                if let Some(sender) = count.take() {
                    // Whoever joined may have gone.
                    let _ = sender.send(*users);
                }
            }
        }
        Some(reply)
    }
}

/// Rooms of users, sockets and namespaces follow from the connections; presence is told the others.
pub(crate) fn is_told(room: &RoomName) -> bool {
    room.user().is_none() && !room.as_str().starts_with('\u{1}')
}

fn connected(socket: &Socket) -> Kind {
    let handshake = socket.conn().handshake();
    Kind::Connected(SocketConnected {
        namespace: socket.namespace().to_string(),
        socket_id: socket.id().to_owned(),
        user_id: socket.user().id.to_string(),
        username: socket.user().username.to_string(),
        connected_at_ms: socket.connected_at_ms(),
        ip: handshake.ip.to_string(),
        user_agent: handshake.user_agent.to_string(),
    })
}

fn joined(socket: &Socket, room: &RoomName) -> Kind {
    Kind::Joined(RoomJoined {
        namespace: socket.namespace().to_string(),
        socket_id: socket.id().to_owned(),
        room: room.to_string(),
    })
}
