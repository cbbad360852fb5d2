//! What of a session must outlive its gateway, kept in the store (DESIGN, "Recovery"): who it is, and since where in
//! the log it is in which rooms. A join is acknowledged only when the store has it, so that a session that is taken
//! up from there never lacks a room.
//!
//! Sessions that end at once cost nothing; changes that come while one is being written go
//! out together.

mod claims;
mod trails;

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use bus::{Documents, DocumentsError};
use bytes::Bytes;
use lifecycle::Tasks;
use model::{GatewayId, RoomName};
use parking_lot::Mutex;
use prost::Message;
use proto::v1::{KeptRoom, KeptSession, StoredSession, stored_session::State};
use tokio::sync::{Semaphore, oneshot};
use uuid::Uuid;

pub(crate) use self::claims::Taken;
use self::trails::Trails;

/// Bucket of sessions and trails.
pub const BUCKET: &str = "FANFARE_SESSIONS";
/// What the bucket holds is written anew so often while it is true.
const REFRESH: Duration = Duration::from_secs(15 * 60);
/// Documents of the bucket may vanish so long after a session's window: several times the 15 minutes after which they
/// are written anew.
pub const SPARE_AGE: Duration = Duration::from_secs(3600);
/// A new session that joins no room is written after this.
const YOUNG: Duration = Duration::from_millis(100);
/// One that the store did not take is tried again after this.
const AGAIN: Duration = Duration::from_secs(1);
/// Writes under way at a time.
const WRITES: usize = 64;
/// Sessions written anew at a time, ten times a second.
const REFRESHED: usize = 50;
/// So often a document is tried again when somebody else wrote it meanwhile.
const RACES: usize = 4;

/// The sessions of this gateway as the store has them, or soon will.
pub(crate) struct SessionStore {
    documents: Arc<dyn Documents>,
    gateway: GatewayId,
    tasks: Tasks,
    writes: Semaphore,
    sessions: Mutex<HashMap<Arc<str>, Kept>>,
    /// When which session is to be written at the latest.
    young: Mutex<VecDeque<(Instant, Arc<str>)>>,
    again: Mutex<VecDeque<(Instant, Arc<str>)>>,
    refresh: Mutex<VecDeque<(Instant, Arc<str>)>>,
    /// Sessions of gone gateways that are on their way back into the store.
    going_back: Mutex<HashSet<String>>,
    pub(crate) trails: Trails,
}

struct Kept {
    /// An encoded [`StoredSession`].
    value: Box<[u8]>,
    revision: Option<u64>,
    changed: bool,
    writing: bool,
    /// Whether it is due to be written anew some day.
    refreshed: bool,
    /// Told when the next write is done.
    waiting: Vec<oneshot::Sender<()>>,
    /// What follows the next write.
    end: End,
}

#[derive(Copy, Clone, PartialEq, Eq)]
enum End {
    None,
    /// It is deleted.
    Delete,
    /// It stays in the store; nothing more is known of it here.
    Leave,
}

impl SessionStore {
    pub(crate) fn new(documents: Arc<dyn Documents>, gateway: GatewayId, tasks: Tasks) -> Arc<Self> {
        Arc::new(Self {
            trails: Trails::new(Arc::clone(&documents), gateway.clone()),
            documents,
            gateway,
            tasks,
            writes: Semaphore::new(WRITES),
            sessions: Mutex::default(),
            young: Mutex::default(),
            again: Mutex::default(),
            refresh: Mutex::default(),
            going_back: Mutex::default(),
        })
    }

    /// A session begins here, or has come here. It is written soon.
    pub(crate) fn begin(&self, pid: &Arc<str>, session: KeptSession) {
        let value = encode(State::Kept(session));
        let mut sessions = self.sessions.lock();
        match sessions.get_mut(pid) {
            // It was here before and comes back while the note where it went is being written.
            Some(kept) => (kept.value, kept.changed, kept.end) = (value, true, End::None),
            None => {
                let kept = Kept {
                    value,
                    revision: None,
                    changed: true,
                    writing: false,
                    refreshed: false,
                    waiting: Vec::new(),
                    end: End::None,
                };
                sessions.insert(Arc::clone(pid), kept);
            }
        }
        drop(sessions);
        self.young
            .lock()
            .push_back((Instant::now() + YOUNG, Arc::clone(pid)));
    }

    /// Its socket is in a room, for what stands behind `seq`; `granted`: its user's rights let it in. The receiver is
    /// told once the store has it, and fails when the store does not take it.
    pub(crate) fn joined(
        self: &Arc<Self>,
        pid: &str,
        room: &RoomName,
        seq: u64,
        granted: bool,
    ) -> Option<oneshot::Receiver<()>> {
        let (sender, receiver) = oneshot::channel();
        let room = KeptRoom {
            name: room.to_string(),
            seq,
            granted,
            joined_ms: crate::now_ms(),
            ..KeptRoom::default()
        };
        let known = self.edit(pid, Some(sender), |session| {
            if !session.rooms.iter().any(|known| known.name == room.name) {
                session.rooms.push(room);
            }
        });
        known.then_some(receiver)
    }

    /// It has left a room.
    pub(crate) fn left(self: &Arc<Self>, pid: &str, room: &RoomName) {
        self.edit(pid, None, |session| {
            session.rooms.retain(|known| known.name != room.as_str());
        });
    }

    /// It is away, and in these rooms: joins that were under way came to nothing.
    pub(crate) fn away<'a>(self: &Arc<Self>, pid: &str, rooms: impl Iterator<Item = &'a RoomName> + Clone) {
        self.edit(pid, None, |session| {
            let is_left = |known: &KeptRoom| rooms.clone().any(|room| room.as_str() == known.name);
            session.rooms.retain(is_left);
        });
    }

    /// It is over.
    pub(crate) fn end(self: &Arc<Self>, pid: &str) {
        let mut sessions = self.sessions.lock();
        let Some(kept) = sessions.get_mut(pid) else { return };
        if kept.writing || kept.revision.is_some() {
            kept.end = End::Delete;
            self.write(pid, kept);
        } else {
            sessions.remove(pid);
        }
    }

    /// Another gateway has it.
    pub(crate) fn moved(self: &Arc<Self>, pid: &str, to: &str) {
        let mut sessions = self.sessions.lock();
        let Some(kept) = sessions.get_mut(pid) else { return };
        kept.value = encode(State::MovedTo(to.to_owned()));
        kept.changed = true;
        kept.end = End::Leave;
        self.write(pid, kept);
    }

    /// Writes what this gateway knows better than the store before it goes; `complete` puts it into each session.
    /// Returns how many could not be written.
    pub(crate) async fn leave<'a>(
        self: &Arc<Self>,
        pids: impl Iterator<Item = &'a str>,
        complete: impl Fn(&mut KeptSession),
    ) -> usize {
        let mut written = Vec::new();
        for pid in pids {
            let (sender, receiver) = oneshot::channel();
            if self.edit(pid, Some(sender), &complete) {
                written.push(receiver);
            }
        }
        let mut failed = 0;
        for receiver in written {
            failed += usize::from(receiver.await.is_err());
        }
        failed
    }

    /// Changes a session and has it written; `false` when it is none that can be recovered.
    fn edit(
        self: &Arc<Self>,
        pid: &str,
        done: Option<oneshot::Sender<()>>,
        change: impl FnOnce(&mut KeptSession),
    ) -> bool {
        let mut sessions = self.sessions.lock();
        let Some(kept) = sessions.get_mut(pid) else {
            return false;
        };
        let Some(State::Kept(mut session)) = decode(&kept.value) else {
            return false;
        };
        let before = session.clone();
        change(&mut session);
        let changed = session != before;
        if changed {
            kept.value = encode(State::Kept(session));
            kept.changed = true;
        }
        match done {
            // Nothing to wait for: the sender says so.
            Some(done) if !kept.changed && !kept.writing => {
                let _ = done.send(());
            }
            Some(done) => {
                kept.waiting.push(done);
                kept.changed = true;
                self.write(pid, kept);
            }
            None if changed => self.write(pid, kept),
            None => {}
        }
        true
    }

    /// Begins to write a session, unless that is under way; then it goes on with this.
    fn write(self: &Arc<Self>, pid: &str, kept: &mut Kept) {
        if !std::mem::replace(&mut kept.writing, true) {
            let (this, pid) = (Arc::clone(self), Arc::<str>::from(pid));
            self.tasks
                .spawn("keep session", async move { this.keep(&pid).await });
        }
    }

    async fn keep(&self, pid: &str) {
        let key = key(self.gateway.as_str(), pid);
        let mut races = 0;
        loop {
            let Ok(_permit) = self.writes.acquire().await else {
                return;
            };
            let (value, revision, waiting) = {
                let mut sessions = self.sessions.lock();
                let Some(kept) = sessions.get_mut(pid) else { return };
                match kept.end {
                    End::Delete => {
                        sessions.remove(pid);
                        break;
                    }
                    End::None | End::Leave if !kept.changed => {
                        kept.writing = false;
                        if kept.end == End::Leave {
                            sessions.remove(pid);
                        }
                        return;
                    }
                    End::None | End::Leave => {}
                }
                kept.changed = false;
                (
                    Bytes::copy_from_slice(&kept.value),
                    kept.revision,
                    std::mem::take(&mut kept.waiting),
                )
            };
            let outcome = self.documents.put(BUCKET, &key, value, revision).await;
            let outcome = match outcome {
                Err(DocumentsError::Conflict(_)) if races < RACES => {
                    races += 1;
                    self.look_again(&key, revision.is_none()).await
                }
                Err(error) => Err(error.to_string()),
                Ok(revision) => Ok((true, Some(revision))),
            };
            let mut sessions = self.sessions.lock();
            // The table's own name: queues hold no other.
            let Some((pid, _)) = sessions.get_key_value(pid) else {
                return;
            };
            let pid = Arc::clone(pid);
            let Some(kept) = sessions.get_mut(&pid) else {
                return;
            };
            match outcome {
                Ok((true, revision)) => {
                    kept.revision = revision;
                    for waits in waiting {
                        // Whoever waited may have gone.
                        let _ = waits.send(());
                    }
                    if !std::mem::replace(&mut kept.refreshed, true) {
                        let due = (Instant::now() + REFRESH, pid);
                        self.refresh.lock().push_back(due);
                    }
                }
                Ok((false, revision)) => {
                    kept.revision = revision;
                    kept.changed = true;
                    kept.waiting.splice(..0, waiting);
                }
                Err(error) => {
                    tracing::warn!(%error, "a session is not in the store and could not outlive this gateway");
                    if kept.end == End::None {
                        (kept.changed, kept.writing) = (true, false);
                        let due = (Instant::now() + AGAIN, pid);
                        self.again.lock().push_back(due);
                    } else {
                        sessions.remove(&pid);
                    }
                    return;
                }
            }
        }
        if let Err(error) = self.documents.delete(BUCKET, &key).await {
            tracing::debug!(%error, "a session that is over stays in the store until it is too old");
        }
    }

    /// After a conflict: whether the write is done, and from which revision to go on. `first`: nothing of this stay of the
    /// session has been written.
    async fn look_again(&self, key: &str, first: bool) -> Result<(bool, Option<u64>), String> {
        match self.documents.get(BUCKET, key).await {
            Ok(Some(document)) => match decode(&document.value) {
                Some(State::MovedTo(gateway)) if !first => Err(format!("{gateway} has taken it over")),
                // An own write whose answer was lost, or where it went after it was here before.
                Some(_) | None => Ok((false, Some(document.revision))),
            },
            Ok(None) => Ok((false, None)),
            Err(error) => Err(error.to_string()),
        }
    }

    /// Writes what is due, for ever.
    pub(crate) async fn run(self: Arc<Self>) {
        loop {
            tokio::time::sleep(YOUNG).await;
            self.write_due(Instant::now());
        }
    }

    fn write_due(self: &Arc<Self>, now: Instant) {
        let due = |queue: &Mutex<VecDeque<(Instant, Arc<str>)>>, most: usize| {
            let mut queue = queue.lock();
            let count = queue.iter().take(most).take_while(|(at, _)| *at <= now).count();
            queue.drain(..count).map(|(_, pid)| pid).collect::<Vec<_>>()
        };
        let mut young = due(&self.young, usize::MAX);
        young.extend(due(&self.again, usize::MAX));
        let refresh = due(&self.refresh, REFRESHED);
        if young.is_empty() && refresh.is_empty() {
            return;
        }
        let mut sessions = self.sessions.lock();
        for pid in &refresh {
            if let Some(kept) = sessions.get_mut(pid) {
                (kept.changed, kept.refreshed) = (true, false);
            }
        }
        for pid in young.iter().chain(&refresh) {
            if let Some(kept) = sessions.get_mut(pid).filter(|kept| kept.changed) {
                self.write(pid, kept);
            }
        }
    }
}

/// A `pid` is a secret: the store has a hash of it.
fn key(gateway: &str, pid: &str) -> String {
    let hash = Uuid::new_v5(&Uuid::NAMESPACE_OID, pid.as_bytes());
    format!("{gateway}.{}", hash.simple())
}

fn encode(state: State) -> Box<[u8]> {
    let stored = StoredSession { state: Some(state) };
    stored.encode_to_vec().into()
}

fn decode(value: &[u8]) -> Option<State> {
    StoredSession::decode(value).ok()?.state
}
