//! Who is where, as gateways report it.
//!
//! Gateways are the truth, the store a copy that can be lost and rebuilt (DESIGN, "Presence"). Every
//! socket entry belongs to the gateway that reported it and lives as long as that gateway's lease; the
//! same socket id on two gateways (a session that has just moved) is two entries.
//!
//! **Stay.** A user is a member of a room from the moment its first socket joins until it has *left*:
//! at once when its last socket leaves on purpose, after a grace when its last socket is lost. Counts
//! and room listings follow the stay, so someone who is back within the grace was never away: nobody
//! saw a count go down. The lists of online users and of a user's sockets follow the sockets alone.
//!
//! **Listed rooms.** Rooms that belong to one user (`user:…`) and rooms whose name begins with a
//! control character are kept, but they have no transitions, no grace, and no part in the statistics
//! (see [`is_listed`]).
//!
//! **Cost.** No operation looks at more than what it names: a delta is a constant number of look-ups
//! (a logarithmic one where order is kept), a disconnect costs the socket's rooms, an expiry the dead
//! gateway's sockets, a query its page.
//!
//! Time is passed in, unix milliseconds.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use model::{GatewayId, Namespace, RoomName, USER_ROOM_PREFIX, UserId};

pub mod conformance;
pub mod memory;

/// Port of the presence service's state.
///
/// [`apply`](Self::apply), [`expire`](Self::expire) of one gateway and [`due`](Self::due) are atomic:
/// nobody sees half of one, and what each reports it reports to that one caller only, whatever number of
/// service replicas share the store. A call that fails with [`PresenceError::Unavailable`] may have
/// taken effect all the same; a batch is then safely sent again.
#[async_trait]
pub trait PresenceStore: Send + Sync + 'static {
    /// Applies one batch of a gateway, whole or not at all, and renews the gateway's lease.
    ///
    /// A plain batch must bear the number after the last one applied, or 1 for a gateway that the store
    /// does not know; otherwise nothing changes and the outcome is [`Outcome::NeedSnapshot`]. The number
    /// last applied once more is the same batch again, whose answer was lost: it is answered with the
    /// counts of now and changes nothing.
    ///
    /// A snapshot is taken whatever its number is, and the count goes on from there. It is worked off in
    /// this order: sockets that the gateway no longer holds are lost; sockets that stay leave, on
    /// purpose, the rooms they are no longer in; then the deltas as in a plain batch, of which those that
    /// say what is known change nothing.
    ///
    /// Deltas about a socket that the gateway has not connected change nothing, and neither does joining
    /// a room twice or leaving a room that the socket is not in.
    ///
    /// # Errors
    /// [`PresenceError::Unavailable`].
    async fn apply(&self, batch: Batch, now_ms: u64, grace: Duration) -> Result<Outcome, PresenceError>;

    /// Renews the lease of a gateway; `false` when the store does not know it.
    ///
    /// # Errors
    /// [`PresenceError::Unavailable`].
    async fn touch(&self, gateway: &GatewayId, now_ms: u64) -> Result<bool, PresenceError>;

    /// Removes the gateways not heard of for `lease`, each in one step: its sockets are lost. Every
    /// dead gateway is reported once.
    ///
    /// # Errors
    /// [`PresenceError::Unavailable`].
    async fn expire(
        &self,
        now_ms: u64,
        lease: Duration,
        grace: Duration,
    ) -> Result<Vec<Expired>, PresenceError>;

    /// Ends the stay of up to `limit` users whose grace is over, earliest first, and hands out each
    /// once as [`Change::Left`].
    ///
    /// # Errors
    /// [`PresenceError::Unavailable`].
    async fn due(&self, now_ms: u64, limit: usize) -> Result<Vec<Transition>, PresenceError>;

    /// The members of a room.
    ///
    /// # Errors
    /// [`PresenceError::Unavailable`].
    async fn room_users(
        &self,
        namespace: &Namespace,
        room: &RoomName,
        page: PageRequest,
    ) -> Result<Page<OnlineUser>, PresenceError>;

    /// How many members a room has, 0 for a room that nobody is in.
    ///
    /// # Errors
    /// [`PresenceError::Unavailable`].
    async fn room_count(&self, namespace: &Namespace, room: &RoomName) -> Result<u32, PresenceError>;

    /// The users who have a socket in the namespace.
    ///
    /// # Errors
    /// [`PresenceError::Unavailable`].
    async fn online_users(
        &self,
        namespace: &Namespace,
        page: PageRequest,
    ) -> Result<Page<OnlineUser>, PresenceError>;

    /// A user's sockets in the namespace, oldest first; empty for a user who is not online.
    ///
    /// # Errors
    /// [`PresenceError::Unavailable`].
    async fn user_sockets(
        &self,
        namespace: &Namespace,
        user: &UserId,
    ) -> Result<Vec<HeldSocket>, PresenceError>;

    /// The rooms that a user's sockets are in, by name; empty for a user who is not online.
    ///
    /// # Errors
    /// [`PresenceError::Unavailable`].
    async fn user_rooms(&self, namespace: &Namespace, user: &UserId) -> Result<Vec<RoomName>, PresenceError>;

    /// The counts of the whole cluster, in constant time.
    ///
    /// # Errors
    /// [`PresenceError::Unavailable`].
    async fn stats(&self) -> Result<Stats, PresenceError>;
}

/// Whether a room is one of those that people share: not a user's own (`user:…`) and not one of ours
/// (first character a control character).
#[must_use]
pub fn is_listed(room: &RoomName) -> bool {
    !room.as_str().starts_with(USER_ROOM_PREFIX) && !room.as_str().starts_with(char::is_control)
}

/// One gateway's changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// Whose.
    pub gateway: GatewayId,
    /// 1 for the first of a run of the gateway, then one more each.
    pub number: u64,
    /// The deltas are all that the gateway holds.
    pub snapshot: bool,
    /// In the order in which they happened.
    pub deltas: Vec<Delta>,
}

/// One change at a gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Delta {
    /// A socket has come. A known socket of the same user gets the new particulars and keeps its
    /// rooms; one of another user is lost first.
    Connected(Socket),
    /// A socket is gone, and with it its places in rooms: they are lost.
    Disconnected(SocketKey),
    /// A socket has joined a room.
    Joined(SocketKey, RoomName),
    /// A socket has left a room on purpose.
    Left(SocketKey, RoomName),
}

/// Names a socket of one gateway.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SocketKey {
    /// Its namespace.
    pub namespace: Namespace,
    /// Its public id.
    pub id: Arc<str>,
}

/// A socket's particulars.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Socket {
    /// Which one.
    pub key: SocketKey,
    /// Whose.
    pub user: UserId,
    /// The user's name for people.
    pub username: Arc<str>,
    /// Unix milliseconds.
    pub connected_at_ms: u64,
    /// The client's address.
    pub ip: Arc<str>,
    /// The client's `User-Agent`.
    pub user_agent: Arc<str>,
}

/// A socket and where it is held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeldSocket {
    /// Its gateway.
    pub gateway: GatewayId,
    /// Its particulars.
    pub socket: Socket,
}

/// What became of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is in.
    Applied(Applied),
    /// It does not follow; nothing has changed.
    NeedSnapshot {
        /// Number of the last batch applied for the gateway, 0 for one the store does not know.
        applied: u64,
    },
}

/// What a batch has done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// For each [`Delta::Joined`], in order: the members of the room right after it.
    pub users_counts: Vec<u32>,
    /// In the order in which they happened.
    pub transitions: Vec<Transition>,
}

/// A dead gateway that was removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expired {
    /// Which one.
    pub gateway: GatewayId,
    /// How many sockets it had.
    pub sockets: usize,
    /// The stays that its end has put into the grace.
    pub transitions: Vec<Transition>,
}

/// Something about a user's stay in a listed room.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transition {
    /// The room's namespace.
    pub namespace: Namespace,
    /// The room.
    pub room: RoomName,
    /// Who.
    pub user: UserId,
    /// The name for people, of the socket that caused it.
    pub username: Arc<str>,
    /// Members of the room right after.
    pub users_count: u32,
    /// What happened.
    pub change: Change,
}

/// What happened to a user's stay in a room.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// It began: the user's first socket is in.
    Joined,
    /// This further socket is in; the user was a member already, by another socket or by the grace.
    JoinedAgain {
        /// Id of the socket.
        socket: Arc<str>,
    },
    /// The last socket is lost; the stay ends when the grace does.
    Lost {
        /// End of the grace, unix milliseconds.
        until_ms: u64,
    },
    /// It ended.
    Left,
}

/// Which part of a list. Lists are in an engine's own stable order: an element that is there all the
/// time is seen exactly once, however the list changes between the pages.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PageRequest {
    /// Where the page before ended; `None` begins.
    pub after: Option<PageToken>,
    /// At most so many elements, at least 1.
    pub limit: usize,
}

/// Where a page ended; opaque, for the same engine and list only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageToken(pub String);

/// A part of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page<T> {
    /// The elements.
    pub items: Vec<T>,
    /// Set when there may be more.
    pub next: Option<PageToken>,
}

/// A user in a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OnlineUser {
    /// Who.
    pub user: UserId,
    /// The name for people.
    pub username: Arc<str>,
    /// When the oldest of the user's sockets in the namespace connected, unix milliseconds; within the
    /// grace and with no other socket, the socket that was lost.
    pub connected_at_ms: u64,
}

/// Counts of the whole cluster.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Socket entries, over all namespaces.
    pub connections: u64,
    /// Distinct users with a socket, over all namespaces.
    pub users: u64,
    /// Listed rooms with members.
    pub rooms: u64,
}

/// Why the store could not do it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PresenceError {
    /// The store cannot be reached or did not answer in time; trying again later may help.
    #[error("the presence store is unavailable: {0}")]
    Unavailable(String),
}
