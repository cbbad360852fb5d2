//! Tells the presence service who is here: numbered batches, one under way at a time, so that what
//! happens meanwhile goes into the next one. After any doubt the next batch is a snapshot, which goes out in
//! parts: all a gateway holds fits neither one message nor the time for one.
//!
//! A snapshot says of each place in a room whether the service has applied its join before, and in which life of
//! its store: rooms have been told of that one, so the service heals without a word to anybody.

mod held;
mod untold;

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bus::{Signals, subjects};
use lifecycle::Tasks;
use model::{GatewayId, RoomName};
use parking_lot::Mutex;
use prometheus::Registry;
use prost::Message;
use proto::v1::{
    PresenceBatch, PresenceDelta, PresenceReply, RoomJoined, RoomLeft, SocketConnected, SocketDisconnected,
    presence_delta::Kind,
};
use tokio::sync::{Notify, oneshot};

use self::{held::Held, untold::Untold};
use crate::session::Socket;

/// A presence service gets so long to answer a batch.
const BATCH_TIMEOUT: Duration = Duration::from_secs(2);
/// And so long to put a part of a snapshot aside.
const PART_TIMEOUT: Duration = Duration::from_secs(5);
/// With the last part it applies them all: so long, and the part's share of [`PARTS_A_SECOND`] for each.
const APPLY_TIMEOUT: Duration = Duration::from_secs(10);
const PARTS_A_SECOND: u32 = 10;
/// After a batch without an answer, so long until the next try.
const RETRY: Duration = Duration::from_millis(500);
/// With nothing to tell, an empty batch goes out so often: its answer shows whether the service still knows
/// what it was told (CONTRACT G6).
const IDLE: Duration = Duration::from_secs(3);
/// Deltas in one request, at most.
const MAX_DELTAS: usize = 500;
/// Bytes of deltas in one request, unless a single one is larger: a NATS server takes 1 MiB as it comes.
const MAX_BYTES: usize = 512 << 10;

pub(crate) struct PresenceFeed {
    gateway: GatewayId,
    signals: Arc<dyn Signals>,
    pending: Mutex<Pending>,
    wake: Notify,
    /// Told in the log, once.
    unanswered: AtomicBool,
}

/// What is to be told.
#[derive(Default)]
struct Pending {
    deltas: VecDeque<Delta>,
    /// Joins since the last batch that was answered, from the first one on that was not, until the service has
    /// taken a snapshot.
    untold: Option<Untold>,
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
        registry: &Registry,
    ) -> Result<Arc<Self>, prometheus::Error> {
        registry.register(Box::new(Held::new(Arc::clone(&truth))?))?;
        let feed = Arc::new(Self {
            gateway,
            signals,
            pending: Mutex::default(),
            wake: Notify::new(),
            unanswered: AtomicBool::new(false),
        });
        let runs = Arc::clone(&feed);
        tasks.background("presence feed", async move { runs.run(truth).await });
        Ok(feed)
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
        self.push(joined(socket, room, false), Some(sender));
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
        {
            let mut pending = self.pending.lock();
            if let Some(untold) = &mut pending.untold {
                untold.note(&kind);
            }
            pending.deltas.push_back(Delta { kind, count });
        }
        self.wake.notify_one();
    }

    async fn run(&self, truth: Truth) {
        let mut number = 0;
        let mut snapshot = true;
        // The life of the store that has what this gateway has told.
        let mut life = String::new();
        loop {
            if self.pending.lock().deltas.is_empty() && !snapshot {
                // Whether woken or idle for long enough, there is a batch to send.
                let _ = tokio::time::timeout(IDLE, self.wake.notified()).await;
            }
            number += 1;
            let reply = if snapshot {
                self.send_snapshot(number, &truth, &life).await
            } else {
                self.send_batch(number).await
            };
            let was_snapshot = snapshot;
            snapshot = reply.as_ref().is_none_or(|reply| reply.need_snapshot);
            if was_snapshot && !snapshot {
                life = reply.as_ref().map(|reply| reply.life.clone()).unwrap_or_default();
            }
            // A batch that only does not follow is no reason to wait.
            let pause = reply.is_none() || was_snapshot && snapshot;
            number = number.max(reply.map_or(0, |reply| reply.applied));
            if pause {
                tokio::time::sleep(RETRY).await;
            }
        }
    }

    async fn send_batch(&self, number: u64) -> Option<PresenceReply> {
        let mut part = Part::default();
        let mut counts = Vec::new();
        {
            let mut pending = self.pending.lock();
            while let Some(next) = pending.deltas.pop_front_if(|next| part.has_place(&next.kind)) {
                if matches!(next.kind, Kind::Joined(_)) {
                    counts.push(next.count);
                }
                part.push(next.kind);
            }
        }
        let mut batch = PresenceBatch {
            number,
            deltas: part.deltas,
            ..PresenceBatch::default()
        };
        let reply = self
            .request(subjects::PRESENCE_BATCH, &mut batch, BATCH_TIMEOUT)
            .await;
        match &reply {
            Some(reply) if !reply.need_snapshot => {
                for (count, users) in counts.into_iter().zip(&reply.users_counts) {
                    if let Some(sender) = count {
                        // Whoever joined may have gone.
                        let _ = sender.send(*users);
                    }
                }
            }
            _ => self.note_untold(&batch.deltas),
        }
        reply
    }

    /// Joins among these may not have been applied. What came behind them is noted with the snapshot that follows.
    fn note_untold(&self, deltas: &[PresenceDelta]) {
        let mut pending = self.pending.lock();
        let untold = pending.untold.get_or_insert_default();
        for kind in deltas.iter().filter_map(|delta| delta.kind.as_ref()) {
            untold.note(kind);
        }
    }

    /// A snapshot replaces the deltas: the truth has them already. It is read as it is sent; what happens
    /// meanwhile follows in plain batches, which say a thing twice at worst. Joins that wait for their count
    /// are such a thing. `life` is empty before the first snapshot: nothing has been told then.
    async fn send_snapshot(&self, number: u64, truth: &Truth, life: &str) -> Option<PresenceReply> {
        let mut waiting = HashMap::new();
        {
            let mut pending = self.pending.lock();
            let deltas = std::mem::take(&mut pending.deltas);
            let untold = pending.untold.get_or_insert_default();
            for Delta { kind, count } in deltas {
                untold.note(&kind);
                if let (Kind::Joined(joined), Some(count)) = (kind, count) {
                    waiting.insert((joined.socket_id, joined.room), count);
                }
            }
        }
        let mut again = Vec::new();
        let mut to = subjects::PRESENCE_BATCH.to_owned();
        let mut parts = 0;
        let mut part = Part::default();
        for socket in truth() {
            let mut kinds = vec![connected(&socket)];
            let rooms: Vec<RoomName> = {
                let rooms = socket.rooms.lock();
                rooms.rooms().map(|room| room.name().clone()).collect()
            };
            for room in rooms.iter().filter(|room| is_told(room)) {
                let place = (socket.id().to_owned(), room.to_string());
                if let Some(count) = waiting.remove(&place) {
                    again.push(Delta {
                        kind: joined(&socket, room, false),
                        count: Some(count),
                    });
                }
                let pending = self.pending.lock();
                let untold = pending.untold.as_ref();
                let told = !life.is_empty()
                    && untold.is_none_or(|untold| !untold.contains(socket.id(), room.as_str()));
                drop(pending);
                kinds.push(joined(&socket, room, told));
            }
            for kind in kinds {
                if part.has_place(&kind) {
                    part.push(kind);
                    continue;
                }
                let mut full = Part::default();
                full.push(kind);
                std::mem::swap(&mut full, &mut part);
                let mut batch = full.of_snapshot(number, life, parts, true);
                let reply = self.request(&to, &mut batch, PART_TIMEOUT).await?;
                if reply.need_snapshot {
                    return Some(reply);
                }
                to = reply.parts_to;
                parts += 1;
            }
        }
        let mut batch = part.of_snapshot(number, life, parts, false);
        let timeout = APPLY_TIMEOUT + Duration::from_secs(1) * parts / PARTS_A_SECOND;
        let reply = self.request(&to, &mut batch, timeout).await?;
        if !reply.need_snapshot {
            let mut pending = self.pending.lock();
            pending.untold = None;
            for delta in again.into_iter().rev() {
                pending.deltas.push_front(delta);
            }
        }
        Some(reply)
    }

    async fn request(&self, to: &str, batch: &mut PresenceBatch, timeout: Duration) -> Option<PresenceReply> {
        batch.gateway = self.gateway.to_string();
        let answer = self
            .signals
            .request(to, batch.encode_to_vec().into(), timeout)
            .await;
        match answer.map(PresenceReply::decode) {
            Ok(Ok(reply)) => {
                if self.unanswered.swap(false, Ordering::Relaxed) {
                    tracing::info!("the presence service answers again");
                }
                Some(reply)
            }
            Ok(Err(error)) => {
                tracing::error!(%error, "the presence service's answer cannot be read");
                None
            }
            Err(error) => {
                if !self.unanswered.swap(true, Ordering::Relaxed) {
                    tracing::warn!(%error, "the presence service does not answer; asked again until it does");
                }
                None
            }
        }
    }
}

/// What goes into one request.
#[derive(Default)]
struct Part {
    deltas: Vec<PresenceDelta>,
    bytes: usize,
}

impl Part {
    fn has_place(&self, kind: &Kind) -> bool {
        self.deltas.is_empty()
            || self.deltas.len() < MAX_DELTAS && self.bytes + kind.encoded_len() <= MAX_BYTES
    }

    fn push(&mut self, kind: Kind) {
        self.bytes += kind.encoded_len();
        self.deltas.push(PresenceDelta { kind: Some(kind) });
    }

    fn of_snapshot(self, number: u64, life: &str, part: u32, more: bool) -> PresenceBatch {
        PresenceBatch {
            number,
            snapshot: true,
            life: life.to_owned(),
            deltas: self.deltas,
            part,
            more,
            ..PresenceBatch::default()
        }
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

fn joined(socket: &Socket, room: &RoomName, told: bool) -> Kind {
    Kind::Joined(RoomJoined {
        namespace: socket.namespace().to_string(),
        socket_id: socket.id().to_owned(),
        room: room.to_string(),
        told,
    })
}
