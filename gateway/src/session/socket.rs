//! A client in one namespace.

use std::{
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use bytes::Bytes;
use model::{Namespace, TraceContext, User};
use parking_lot::Mutex;
use serde::Serialize;
use sio::{
    client::Client,
    engine::CloseReason,
    packet::{Encoded, encode},
};
use smallvec::SmallVec;
use tokio::sync::oneshot;

use super::{
    Arrived, Returns,
    asked::{Answer, Asked},
};
use crate::{limits::Allowance, rooms::Room, transport::Conn, transport::server::push_random};

/// Entries of namespaces that a connection has free of limits: more than applications have namespaces.
const FREE_ENTRIES: u8 = 16;

/// A room and the member's slot in it.
pub(crate) type Slot = (Arc<Room>, u32);

/// The rooms that a socket is in.
#[derive(Default)]
pub(crate) struct Memberships {
    pub(crate) slots: SmallVec<[Slot; 3]>,
    /// It has left them all for good: what is still under way for it brings it into no other.
    pub(crate) ended: bool,
}

impl Memberships {
    pub(crate) fn rooms(&self) -> impl Iterator<Item = &Arc<Room>> {
        self.slots.iter().map(|(room, _)| room)
    }

    /// The slots, which it leaves for good.
    pub(crate) fn end(&mut self) -> SmallVec<[Slot; 3]> {
        self.ended = true;
        std::mem::take(&mut self.slots)
    }
}

/// A client in one namespace: what applications call a socket.
pub struct Socket {
    id: Box<str>,
    namespace: Namespace,
    user: Arc<User>,
    /// What the user may do, once a token has been refreshed.
    refreshed: Mutex<Option<Arc<User>>>,
    connected_at_ms: u64,
    conn: Arc<Conn>,
    /// Names its session where it can be recovered; a secret of the client.
    pid: Option<Arc<str>>,
    /// How it came over from another gateway, if it did.
    pub(crate) arrived: OnceLock<Arc<Arrived>>,
    /// What it may still send.
    pub(crate) allowance: Mutex<Option<Box<Allowance>>>,
    /// The place in the log behind which it gets what its user's room gets, with what it is given when it comes back.
    pub(crate) hears_since: OnceLock<u64>,
    /// The trace that its client says its events belong to.
    pub(crate) trace: OnceLock<Box<TraceContext>>,
    pub(crate) rooms: Mutex<Memberships>,
    returning: Mutex<Returning>,
    asked: Asked,
}

/// Whether it is on its way back into its rooms.
#[derive(Copy, Clone)]
enum Returning {
    No,
    Yes,
    /// Its connection has ended meanwhile.
    Gone(CloseReason),
}

impl Socket {
    pub(super) fn new(
        conn: Arc<Conn>,
        namespace: Namespace,
        user: Arc<User>,
        pid: Option<Arc<str>>,
    ) -> Arc<Self> {
        let mut id = String::with_capacity(20);
        push_random(&mut id, 20);
        Arc::new(Self {
            id: id.into(),
            namespace,
            user,
            refreshed: Mutex::default(),
            connected_at_ms: crate::now_ms(),
            conn,
            pid,
            arrived: OnceLock::new(),
            allowance: Mutex::default(),
            hears_since: OnceLock::new(),
            trace: OnceLock::new(),
            rooms: Mutex::default(),
            returning: Mutex::new(Returning::No),
            asked: Asked::default(),
        })
    }

    /// The socket of a client that has come back.
    pub(super) fn returned(
        conn: Arc<Conn>,
        namespace: Namespace,
        user: Arc<User>,
        pid: Option<Arc<str>>,
        returns: &Returns,
    ) -> Arc<Self> {
        let (id, connected_at_ms, hears_since, arrived) = match returns {
            Returns::Here { away, .. } => (
                &away.id,
                away.connected_at_ms,
                away.hears_since,
                away.arrived.clone(),
            ),
            Returns::There(moved) => (&moved.id, moved.connected_at_ms, moved.hears_since, None),
        };
        Arc::new(Self {
            id: id.clone(),
            namespace,
            user,
            refreshed: Mutex::default(),
            connected_at_ms,
            conn,
            pid,
            arrived: arrived.map(OnceLock::from).unwrap_or_default(),
            allowance: Mutex::default(),
            hears_since: hears_since.map(OnceLock::from).unwrap_or_default(),
            trace: OnceLock::new(),
            rooms: Mutex::default(),
            returning: Mutex::new(Returning::Yes),
            asked: Asked::default(),
        })
    }

    /// Puts its end off until it [has returned](Socket::has_returned), if it is on its way: only then it is
    /// known what it goes away with.
    pub(crate) fn ends_later(&self, reason: CloseReason) -> bool {
        let mut returning = self.returning.lock();
        let later = !matches!(*returning, Returning::No);
        if later {
            *returning = Returning::Gone(reason);
        }
        later
    }

    /// It is back. Why it has ended meanwhile, if it has.
    pub(crate) fn has_returned(&self) -> Option<CloseReason> {
        match std::mem::replace(&mut *self.returning.lock(), Returning::No) {
            Returning::Gone(reason) => Some(reason),
            Returning::No | Returning::Yes => None,
        }
    }

    pub(crate) fn pid(&self) -> Option<&str> {
        self.pid.as_deref()
    }

    /// The same for tables: all of them share the one.
    pub(crate) fn shared_pid(&self) -> Option<&Arc<str>> {
        self.pid.as_ref()
    }

    /// The public id: 20 URL-safe characters, not the `sid`.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Its namespace.
    #[must_use]
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// Who is behind it.
    #[must_use]
    pub fn user(&self) -> &Arc<User> {
        &self.user
    }

    /// The same user as the newest token says: role, permissions, rooms, claims and end.
    #[must_use]
    pub fn rights(&self) -> Arc<User> {
        Arc::clone(self.refreshed.lock().as_ref().unwrap_or(&self.user))
    }

    /// From now on the user may do what is said here.
    pub(crate) fn refresh(&self, user: Arc<User>) {
        *self.refreshed.lock() = Some(user);
    }

    /// Unix milliseconds.
    #[must_use]
    pub fn connected_at_ms(&self) -> u64 {
        self.connected_at_ms
    }

    /// The connection it shares with the client's other namespaces.
    #[must_use]
    pub fn conn(&self) -> &Arc<Conn> {
        &self.conn
    }

    /// An event for this socket. `args` is raw JSON without the array's brackets; `position` ends every
    /// event where connections can be recovered.
    #[must_use]
    pub(crate) fn event(
        &self,
        name: &str,
        args: &str,
        attachments: &[Bytes],
        position: Option<&str>,
    ) -> Encoded {
        encode::event(self.namespace.as_str(), None, name, args, attachments, position)
    }

    /// Sends an event to this socket alone, where connections are not recovered.
    pub fn emit(&self, name: &str, args: &str, attachments: &[Bytes]) {
        self.conn.send(&self.event(name, args, attachments, None));
    }

    /// An id for an event that the client is to acknowledge, and what it will acknowledge it with; none when the
    /// socket is not connected any more. The receiver fails when the socket goes.
    pub(crate) fn ask(self: &Arc<Self>) -> Option<(u64, oneshot::Receiver<Answer>)> {
        let mut sockets = self.conn.sockets.lock();
        if !sockets.has(self) {
            return None;
        }
        let id = sockets.client.next_ack_id(self.namespace.as_str())?;
        Some((id, self.asked.wait(id)))
    }

    /// The client has acknowledged an event.
    pub(super) fn answered(&self, id: u64, answer: Answer) {
        self.asked.answer(id, answer);
    }

    /// Nobody waits for this acknowledgement any more.
    pub(crate) fn forget(&self, id: u64) {
        self.asked.forget(id);
    }

    /// Whether it has left its namespace, whoever ended it: it is in no room any more, and comes into none.
    pub(crate) fn has_left(&self) -> bool {
        self.rooms.lock().ended
    }

    /// It is gone: no acknowledgement comes any more.
    pub(crate) fn ends(&self) {
        self.asked.end();
    }

    /// The acknowledgement of the client's event `id` with one argument.
    #[must_use]
    pub fn ack_json(&self, id: u64, argument: &impl Serialize) -> Encoded {
        encode::ack(self.namespace.as_str(), id, &json(argument), &[])
    }
}

/// What our own types serialize to. They have neither maps with odd keys nor failing serializers, so
/// this cannot fail; `null` stands for the impossible.
pub(crate) fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_else(|_| "null".to_owned())
}

/// The Socket.IO state of a connection.
pub struct Sockets {
    pub(super) client: Client,
    connected: SmallVec<[Arc<Socket>; 1]>,
    /// The connection has ended: nothing may be added any more.
    ended: bool,
    waits_for_namespace: bool,
    /// How often a namespace was to be entered, as far as that is counted.
    entries: u8,
}

impl Sockets {
    pub(crate) fn new(now: Instant, connect_timeout: Option<Duration>) -> Self {
        Self {
            client: Client::new(now, connect_timeout.unwrap_or(Duration::MAX)),
            connected: SmallVec::new(),
            ended: false,
            waits_for_namespace: connect_timeout.is_some(),
            entries: 0,
        }
    }

    /// When the connection must have joined a namespace.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.client.deadline().filter(|_| self.waits_for_namespace)
    }

    pub(crate) fn timed_out(&self, now: Instant) -> bool {
        self.waits_for_namespace && self.client.timed_out(now)
    }

    pub(crate) fn find(&self, namespace: &str) -> Option<&Arc<Socket>> {
        self.connected
            .iter()
            .find(|socket| socket.namespace.as_str() == namespace)
    }

    /// Notes that a namespace is to be entered; whether that has been so more often than applications do it.
    pub(crate) fn enters_often(&mut self) -> bool {
        self.entries = self.entries.saturating_add(1);
        self.entries > FREE_ENTRIES
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<Socket>> {
        self.connected.iter()
    }

    /// Adds a socket whose CONNECT is being answered; `false` when the connection has ended meanwhile.
    pub(super) fn add(&mut self, socket: &Arc<Socket>) -> bool {
        if self.ended {
            return false;
        }
        self.client.accepted(socket.namespace.as_str());
        self.connected.push(Arc::clone(socket));
        true
    }

    pub(super) fn take(&mut self, namespace: &str) -> Option<Arc<Socket>> {
        let index = self
            .connected
            .iter()
            .position(|socket| socket.namespace.as_str() == namespace)?;
        Some(self.connected.remove(index))
    }

    pub(crate) fn has(&self, socket: &Arc<Socket>) -> bool {
        self.find(socket.namespace.as_str())
            .is_some_and(|there| Arc::ptr_eq(there, socket))
    }

    /// The server puts this socket out of its namespace; `false` when it is not there any more.
    pub(crate) fn put_out(&mut self, socket: &Arc<Socket>) -> bool {
        if !self.has(socket) {
            return false;
        }
        let namespace = socket.namespace.as_str();
        self.client.left(namespace);
        self.take(namespace).is_some()
    }

    pub(super) fn end(&mut self) -> SmallVec<[Arc<Socket>; 1]> {
        self.ended = true;
        std::mem::take(&mut self.connected)
    }
}
