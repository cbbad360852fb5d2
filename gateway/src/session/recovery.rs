//! Connection state recovery on this gateway: who went away, and may come back (DESIGN, "Recovery").

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

use model::{GatewayId, Namespace, RoomName, RoomToken, User};
use parking_lot::Mutex;
use proto::v1::{KeptRoom, KeptSession, OwnEvent, SocketsOf};
use serde::Deserialize;
use sio::engine::CloseReason;

use super::Socket;
use crate::{journal::Position, rooms::Place, trail::Trail, transport::server::push_random};

/// A connection that is being closed, or a session that is on its way here, is waited for so often, and so long
/// each time, before a claim on it gives up.
const TRIES: usize = 150;
const PAUSE: Duration = Duration::from_millis(10);

/// What a client says of the connection it had.
#[derive(Clone, Debug, Default, Deserialize)]
pub(crate) struct Claim {
    /// Names the session; a secret of the client.
    pub(crate) pid: Option<String>,
    /// The position of the last event it got; none when it got none since it connected.
    pub(crate) offset: Option<String>,
}

impl Claim {
    /// From the payload of a CONNECT; what is no claim is none.
    pub(crate) fn from_auth(auth: Option<&str>) -> Self {
        auth.and_then(|auth| serde_json::from_str(auth).ok())
            .unwrap_or_default()
    }
}

/// Why a session is not recovered.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) enum Because {
    /// Nobody has it, or it is somebody else's.
    Unknown,
    /// What was missed cannot be had whole any more.
    TooLate,
    /// The token does not allow its rooms any more.
    Forbidden,
    /// Nobody can tell now: it may be there in a moment.
    Unavailable,
}

impl Because {
    /// As a metric label.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::TooLate => "too late",
            Self::Forbidden => "forbidden",
            Self::Unavailable => "unavailable",
        }
    }
}

/// What a client comes back to.
pub enum Returns {
    /// A session of this gateway.
    Here {
        /// What it left.
        away: Away,
        /// The place in the journal up to which it has everything.
        after: u64,
    },
    /// A session of another gateway, which has let go of it.
    There(Moved),
}

/// A session that comes over from another gateway.
pub struct Moved {
    pub(crate) source: Source,
    pub(crate) id: Box<str>,
    pub(crate) connected_at_ms: u64,
    /// As of the socket.
    pub(crate) hears_since: Option<u64>,
    pub(crate) rooms: Vec<RoomName>,
    /// The position up to which the client has everything; none when it has nothing since it connected.
    pub(crate) position: Option<Position>,
}

/// Where what a session's client missed is to be had.
pub(crate) enum Source {
    /// From the gateway that had it.
    Gateway(String),
    /// From the log: that gateway is gone.
    Store(Box<Left>),
}

/// A session that a gateway left in the store.
pub(crate) struct Left {
    pub(crate) owner: String,
    pub(crate) session: KeptSession,
    /// The client has everything up to this place in the owner's journal.
    pub(crate) number: u64,
    pub(crate) trail: Arc<Trail>,
}

impl Left {
    /// The place in its journal that a client means by its position; none when that cannot be known.
    pub(crate) fn number(session: &KeptSession, position: Option<&Position>, owner: &str) -> Option<u64> {
        match (position, &session.arrived) {
            (Some(position), _) if position.gateway.as_str() == owner => Some(position.number),
            (position, Some(arrived)) => {
                let said = position.map(ToString::to_string).unwrap_or_default();
                (said == arrived.position).then_some(arrived.number)
            }
            // Since it connected.
            (None, None) => Some(0),
            (Some(_), None) => None,
        }
    }

    /// What a room got behind this sequence the client may not have; none when that is no longer known.
    pub(crate) fn begin(&self, room: &KeptRoom, partition: u16) -> Option<u64> {
        if self.number.max(room.since) < room.floor {
            return None;
        }
        if self.number < room.since {
            return Some(room.seq);
        }
        let through = self.trail.through(partition, self.number)?;
        Some(through.max(room.seq))
    }

    /// Events that the socket got by itself, and whether the client has them.
    pub(crate) fn own(&self) -> impl Iterator<Item = (&OwnEvent, bool)> {
        let own = self.session.own.iter();
        own.map(|event| (event, event.number <= self.number))
    }
}

/// How a socket came over from another gateway.
pub(crate) struct Arrived {
    /// The position it came with.
    pub(crate) position: Option<Position>,
    /// The same in the journal of this gateway.
    pub(crate) number: u64,
}

/// A socket that is away.
pub struct Away {
    pub(super) id: Box<str>,
    pub(super) user: Arc<User>,
    /// The same as its newest token said.
    pub(crate) rights: Arc<User>,
    pub(super) namespace: Namespace,
    pub(super) connected_at_ms: u64,
    /// As of the socket.
    pub(crate) hears_since: Option<u64>,
    pub(crate) places: Vec<Place>,
    pub(super) arrived: Option<Arc<Arrived>>,
    /// When it is given up.
    until: Instant,
}

impl Away {
    /// The public id it had and will have.
    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    /// Its namespace.
    pub(crate) fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// Unix milliseconds.
    pub(crate) fn connected_at_ms(&self) -> u64 {
        self.connected_at_ms
    }

    /// Who it is.
    pub(crate) fn user(&self) -> &Arc<User> {
        &self.user
    }

    /// Its rooms, each with the place in the journal from which on.
    pub(crate) fn places(&self) -> Vec<(RoomToken, u64)> {
        self.places
            .iter()
            .map(|place| (place.room.token(), place.since))
            .collect()
    }

    /// The place in this gateway's journal that a client means by its position; none when that is another
    /// gateway's.
    pub(crate) fn after(&self, position: Option<&Position>, gateway: &GatewayId) -> Option<u64> {
        match (position, &self.arrived) {
            (Some(position), _) if position.gateway == *gateway => Some(position.number),
            (position, Some(arrived)) if position == arrived.position.as_ref() => Some(arrived.number),
            (None, None) => Some(
                self.places
                    .iter()
                    .map(|place| place.since)
                    .min()
                    .unwrap_or_default(),
            ),
            (Some(_), _) | (None, Some(_)) => None,
        }
    }
}

/// The sessions of this gateway, by `pid`.
pub(crate) struct Sessions {
    window: Duration,
    by_pid: Mutex<HashMap<Arc<str>, Session>>,
    /// Who went away, oldest first.
    order: Mutex<VecDeque<(Instant, Arc<str>)>>,
}

enum Session {
    /// On its way here from another gateway.
    Coming,
    Here(Weak<Socket>),
    Away(Box<Away>),
}

/// What a claim finds.
enum Found {
    Nothing,
    /// Soon there is something.
    Coming,
    /// Its connection still stands, as far as we know.
    Here(Arc<Socket>),
    Away(Box<Away>),
}

impl Sessions {
    /// Sockets may come back within `window`; zero turns recovery off.
    pub(crate) fn new(window: Duration) -> Self {
        Self {
            window,
            by_pid: Mutex::default(),
            order: Mutex::default(),
        }
    }

    /// Sessions whose sockets are away, and which nobody has taken over.
    pub(crate) fn left_behind(&self) -> usize {
        let sessions = self.by_pid.lock();
        let away = sessions
            .values()
            .filter(|session| matches!(session, Session::Away(_)));
        away.count()
    }

    /// How long a socket may be away.
    pub(crate) fn window(&self) -> Duration {
        self.window
    }

    /// A name for a session that begins at `gateway`, if sessions can be recovered: 20 URL-safe characters,
    /// the gateway's six and 84 bits of randomness.
    pub(crate) fn new_pid(&self, gateway: &GatewayId) -> Option<Arc<str>> {
        (!self.window.is_zero()).then(|| {
            let mut pid = String::with_capacity(20);
            pid.push_str(gateway.as_str());
            push_random(&mut pid, 14);
            pid.into()
        })
    }

    /// The session's socket is connected.
    pub(crate) fn here(&self, socket: &Arc<Socket>) {
        let Some(pid) = socket.shared_pid() else { return };
        let sockets = socket.conn().sockets.lock();
        // Under this lock: whoever takes the socket out tells its end after this.
        if sockets.has(socket) {
            let here = Session::Here(Arc::downgrade(socket));
            self.by_pid.lock().insert(Arc::clone(pid), here);
        }
    }

    /// The session comes here from another gateway.
    pub(crate) fn coming(&self, pid: &str) {
        self.by_pid.lock().insert(pid.into(), Session::Coming);
    }

    /// The session is over, or does not come.
    pub(crate) fn end(&self, pid: &str) {
        self.by_pid.lock().remove(pid);
    }

    /// The socket went away and may come back to `places`.
    pub(crate) fn away(&self, socket: &Socket, places: Vec<Place>) {
        let Some(pid) = socket.pid() else { return };
        let away = Away {
            id: socket.id().into(),
            user: Arc::clone(socket.user()),
            rights: socket.rights(),
            namespace: socket.namespace().clone(),
            connected_at_ms: socket.connected_at_ms(),
            hears_since: socket.hears_since.get().copied(),
            places,
            arrived: socket.arrived.get().cloned(),
            until: Instant::now() + self.window,
        };
        self.put(pid, away);
    }

    /// Nobody took what was claimed.
    pub(crate) fn put(&self, pid: &str, away: Away) {
        self.order.lock().push_back((away.until, pid.into()));
        self.by_pid
            .lock()
            .insert(pid.into(), Session::Away(Box::new(away)));
    }

    /// Takes the session of a client that comes back as `user`, if it is that client's: nobody else gets it
    /// after that. One whose connection still stands is taken from it by `part`, which ends it.
    pub(crate) async fn claim(
        &self,
        pid: &str,
        namespace: &Namespace,
        who: &Who<'_>,
        part: impl Fn(&Arc<Socket>),
    ) -> Option<Away> {
        for _ in 0..TRIES {
            match self.find(pid, namespace, who) {
                Found::Nothing => return None,
                Found::Coming => tokio::time::sleep(PAUSE).await,
                Found::Away(away) => return Some(*away),
                Found::Here(socket) => {
                    let taken = socket.conn().sockets.lock().take(namespace.as_str());
                    match taken {
                        Some(socket) => {
                            part(&socket);
                            socket.conn().close(CloseReason::ForcedServerClose);
                        }
                        // Somebody is ending it right now.
                        None => tokio::time::sleep(PAUSE).await,
                    }
                }
            }
        }
        None
    }

    fn find(&self, pid: &str, namespace: &Namespace, who: &Who<'_>) -> Found {
        let mut sessions = self.by_pid.lock();
        match sessions.get(pid) {
            None => Found::Nothing,
            Some(Session::Coming) => Found::Coming,
            Some(Session::Here(socket)) => match socket.upgrade() {
                Some(socket) if socket.namespace() == namespace && who.was(socket.user()) => {
                    Found::Here(socket)
                }
                Some(_) | None => Found::Nothing,
            },
            Some(Session::Away(away)) if away.namespace == *namespace && who.was(&away.user) => {
                match sessions.remove(pid) {
                    Some(Session::Away(away)) => Found::Away(away),
                    Some(Session::Here(_) | Session::Coming) | None => Found::Nothing,
                }
            }
            Some(Session::Away(_)) => Found::Nothing,
        }
    }

    /// Those whose sockets are away, of these users, ids and rooms.
    pub(crate) fn each_away_of(&self, of: &SocketsOf, mut each: impl FnMut(&str, &mut Away)) {
        let is_all = of.users.is_empty() && of.sockets.is_empty() && of.rooms.is_empty();
        let is_of = |away: &Away| {
            let (user, id) = (away.user.id.as_str(), &*away.id);
            let in_namespace = of.namespace.is_empty() || of.namespace == away.namespace.as_str();
            let is_in = |name: &String| away.places.iter().any(|place| place.room.name().as_str() == name);
            let excepted = of.except.as_ref().is_some_and(|except| {
                except.users.iter().any(|left_out| left_out == user)
                    || except.sockets.iter().any(|left_out| left_out == id)
                    || except.rooms.iter().any(&is_in)
            });
            in_namespace
                && !excepted
                && (is_all
                    || of.users.iter().any(|wanted| wanted == user)
                    || of.sockets.iter().any(|wanted| wanted == id)
                    || of.rooms.iter().any(is_in))
        };
        for (pid, session) in &mut *self.by_pid.lock() {
            if let Session::Away(away) = session
                && is_of(away)
            {
                each(pid, away);
            }
        }
    }

    /// Ends the session of a socket that is away: the places nobody comes back to.
    pub(crate) fn end_away(&self, pid: &str) -> Option<Vec<Place>> {
        let mut sessions = self.by_pid.lock();
        match sessions.get(pid) {
            Some(Session::Away(_)) => match sessions.remove(pid) {
                Some(Session::Away(away)) => Some(away.places),
                Some(Session::Here(_) | Session::Coming) | None => None,
            },
            Some(Session::Here(_) | Session::Coming) | None => None,
        }
    }

    /// Those whose sockets are away: for each its `pid`, and its places.
    pub(crate) fn each_left_behind(&self, mut each: impl FnMut(&str, &Away)) {
        for (pid, session) in &*self.by_pid.lock() {
            if let Session::Away(away) = session {
                each(pid, away);
            }
        }
    }

    /// Ends the sessions whose time is over: for each its `pid`, and the places nobody comes back to.
    pub(crate) fn expire(&self, now: Instant) -> Vec<(Arc<str>, Vec<Place>)> {
        let mut ended = Vec::new();
        loop {
            let pid = {
                let mut order = self.order.lock();
                match order.front() {
                    Some((until, _)) if *until <= now => order.pop_front().map(|(_, pid)| pid),
                    _ => return ended,
                }
            };
            let mut sessions = self.by_pid.lock();
            let over = pid.as_deref().and_then(|pid| match sessions.get(pid) {
                Some(Session::Away(away)) if away.until <= now => Some(pid),
                _ => None,
            });
            if let Some((pid, Session::Away(away))) = over.and_then(|pid| sessions.remove_entry(pid)) {
                ended.push((pid, away.places));
            }
        }
    }
}

/// Who is at the door.
pub(crate) struct Who<'a> {
    pub(crate) id: &'a str,
    /// A guest without a token: a new one each time, so that it knows the `pid` is all there is to know.
    pub(crate) anonymous: bool,
}

impl<'a> Who<'a> {
    pub(crate) fn of(user: &'a User) -> Self {
        Self {
            id: user.id.as_str(),
            anonymous: user.anonymous,
        }
    }

    fn was(&self, user: &User) -> bool {
        self.is(user.id.as_str(), user.anonymous)
    }

    /// Whether the session is this user's, in this namespace.
    pub(crate) fn had(&self, session: &KeptSession, namespace: &Namespace) -> bool {
        self.is(&session.user_id, session.anonymous) && session.namespace == namespace.as_str()
    }

    fn is(&self, id: &str, anonymous: bool) -> bool {
        self.anonymous == anonymous && (anonymous || self.id == id)
    }
}

/// Whether a client may come back after this; it said goodbye itself, was put out, or broke the protocol
/// otherwise.
pub(crate) fn is_recoverable(reason: CloseReason) -> bool {
    match reason {
        CloseReason::TransportError
        | CloseReason::TransportClose
        | CloseReason::ForcedClose
        | CloseReason::ForcedServerClose
        | CloseReason::PingTimeout
        | CloseReason::ServerShuttingDown
        | CloseReason::SlowConsumer
        | CloseReason::TooLarge => true,
        CloseReason::ParseError
        | CloseReason::ClientNamespaceDisconnect
        | CloseReason::ServerNamespaceDisconnect
        | CloseReason::ConnectTimeout
        | CloseReason::RateLimited => false,
    }
}
