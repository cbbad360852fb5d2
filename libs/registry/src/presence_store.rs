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
//! A user stays in a namespace in the same way: from the first socket until a grace after the last one
//! is lost.
//!
//! **Listed rooms.** Rooms that belong to one user (`user:…`) and rooms whose name begins with a
//! control character are kept, but they have no transitions, no grace, and no part in the statistics
//! (see [`is_listed`]).
//!
//! **Changes.** What happens to users' stays, in rooms and in namespaces, is handed to the caller whose
//! batch or clock brought it about, and is kept in one list for all ([`changes`](PresenceStore::changes)),
//! in the order in which it happened, for a while.
//!
//! **Cost.** No operation looks at more than what it names: a delta is a constant number of look-ups
//! (a logarithmic one where order is kept), a disconnect costs the socket's rooms, an expiry the dead
//! gateway's sockets, a query its page.
//!
//! Time is passed in, unix milliseconds.

use std::{
    collections::hash_map::RandomState,
    hash::{BuildHasher, Hasher},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use model::{GatewayId, Namespace, RoomName, USER_ROOM_PREFIX, UserId};

pub mod conformance;
pub mod memory;
pub mod redis;
mod snapshot;

pub use snapshot::SnapshotWork;

/// Port of the presence service's state.
///
/// [`apply`](Self::apply), [`expire`](Self::expire) of one gateway and [`due`](Self::due) are atomic:
/// nobody sees half of one, and what each reports it reports to that one caller only, whatever number of
/// service replicas share the store. A large snapshot or dead gateway an engine may work off in steps, each
/// atomic and as large as it says, so that the others are not kept waiting; between two steps the store has
/// what has been worked off, and no plain batch of that gateway is applied. A call that fails with [`PresenceError::Unavailable`] may have
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

    /// Begins a snapshot for [`snapshot_step`](Self::snapshot_step): what [`apply`](Self::apply) does in
    /// one call, for a caller who does other work between the steps. From here on until the last step no
    /// plain batch of the gateway is applied. Work that is not finished leaves the gateway to its next
    /// snapshot.
    ///
    /// # Errors
    /// [`PresenceError::Unavailable`].
    async fn begin_snapshot(&self, batch: Batch, _now_ms: u64) -> Result<SnapshotWork, PresenceError> {
        Ok(SnapshotWork::new(batch))
    }

    /// Does the next step, atomically, and tells what it has done; nothing once all is
    /// [done](SnapshotWork::is_done). An engine without steps does all in one.
    ///
    /// # Errors
    /// [`PresenceError::Unavailable`], also when a newer snapshot or the removal of the gateway has
    /// overtaken this one; the work is then of no more use.
    async fn snapshot_step(
        &self,
        work: &mut SnapshotWork,
        now_ms: u64,
        grace: Duration,
    ) -> Result<Applied, PresenceError> {
        if work.ended {
            return Ok(Applied::default());
        }
        let batch = Batch {
            gateway: work.gateway.clone(),
            number: work.number,
            snapshot: true,
            deltas: std::mem::take(&mut work.deltas),
        };
        let outcome = self.apply(batch, now_ms, grace).await?;
        work.ended = true;
        match outcome {
            Outcome::Applied(applied) => Ok(applied),
            Outcome::NeedSnapshot { .. } => {
                Err(PresenceError::Unavailable("a snapshot was refused".to_owned()))
            }
        }
    }

    /// Renews the lease of a gateway; `false` when the store does not know it.
    ///
    /// # Errors
    /// [`PresenceError::Unavailable`].
    async fn touch(&self, gateway: &GatewayId, now_ms: u64) -> Result<bool, PresenceError>;

    /// Removes the gateways not heard of for `lease`, each in one step: its sockets are lost. Every
    /// dead gateway is reported once; when replicas have shared its steps, by each with its own part.
    ///
    /// # Errors
    /// [`PresenceError::Unavailable`].
    async fn expire(
        &self,
        now_ms: u64,
        lease: Duration,
        grace: Duration,
    ) -> Result<Vec<Expired>, PresenceError>;

    /// Names this life of the store. One that has been emptied, or lost what it had, goes by another name from
    /// then on.
    ///
    /// # Errors
    /// [`PresenceError::Unavailable`].
    async fn life(&self) -> Result<String, PresenceError>;

    /// The members of a room, to whoever may tell it of them now: once in `pause` one of all replicas may, and
    /// the others get `None`.
    ///
    /// # Errors
    /// [`PresenceError::Unavailable`].
    async fn turn_to_tell(
        &self,
        namespace: &Namespace,
        room: &RoomName,
        now_ms: u64,
        pause: Duration,
    ) -> Result<Option<u32>, PresenceError>;

    /// Ends up to `limit` stays whose grace is over, earliest first and rooms before their namespace,
    /// and hands out each once as [`RoomChange::Left`] or [`UserChange::Offline`].
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

    /// The counts of a room, 0 for a room that nobody is in.
    ///
    /// # Errors
    /// [`PresenceError::Unavailable`].
    async fn room(&self, namespace: &Namespace, room: &RoomName) -> Result<RoomInfo, PresenceError>;

    /// The listed rooms of a namespace that have members.
    ///
    /// # Errors
    /// [`PresenceError::Unavailable`].
    async fn list_rooms(
        &self,
        namespace: &Namespace,
        page: PageRequest,
    ) -> Result<Page<RoomInfo>, PresenceError>;

    /// The users who have a socket in the namespace.
    ///
    /// # Errors
    /// [`PresenceError::Unavailable`].
    async fn online_users(
        &self,
        namespace: &Namespace,
        page: PageRequest,
    ) -> Result<Page<OnlineUser>, PresenceError>;

    /// Whether these users have a socket in the namespace: one answer each, in the order of the question,
    /// `None` for a user who is not online.
    ///
    /// # Errors
    /// [`PresenceError::Unavailable`].
    async fn users_online(
        &self,
        namespace: &Namespace,
        users: &[UserId],
    ) -> Result<Vec<Option<OnlineUser>>, PresenceError>;

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

    /// The counts of every namespace and gateway; costs as much as there are of these.
    ///
    /// # Errors
    /// [`PresenceError::Unavailable`].
    async fn stats_breakdown(&self) -> Result<StatsBreakdown, PresenceError>;

    /// Where the list of changes ends now. Who takes this first, then reads what interests him, then
    /// follows the [`changes`](Self::changes) after it, misses nothing; what happened in between he may
    /// see twice.
    ///
    /// # Errors
    /// [`PresenceError::Unavailable`].
    async fn changes_end(&self) -> Result<Position, PresenceError>;

    /// Up to `limit` changes after a position, in the order in which they happened, whichever replica
    /// brought them about; at once, and empty when there are none. The newest [`CHANGES_KEPT`] are kept.
    ///
    /// # Errors
    /// [`PresenceError::Unavailable`].
    async fn changes(&self, after: &Position, limit: usize) -> Result<Changes, PresenceError>;
}

/// How many changes a store keeps at least, as long as it is not emptied.
pub const CHANGES_KEPT: usize = 65_536;

/// Whether a room is one of those that people share: not a user's own (`user:…`) and not one of ours
/// (first character a control character).
#[must_use]
pub fn is_listed(room: &RoomName) -> bool {
    !room.as_str().starts_with(USER_ROOM_PREFIX) && !room.as_str().starts_with(char::is_control)
}

/// A number that no other run has drawn, as good as surely.
fn random() -> u64 {
    RandomState::new().build_hasher().finish()
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
    /// A snapshot's word for a socket that is in a room and was told so when it joined. It is told nothing
    /// again, and the room hears of it only if it has heard since that the user has left.
    Stays(SocketKey, RoomName),
    /// The same, told by a store that has lost it: nobody hears of it.
    Restored(SocketKey, RoomName),
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

/// Something about a user's stay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Transition {
    /// In a listed room.
    Room(RoomTransition),
    /// In a namespace.
    User(UserTransition),
}

/// Something about a user's stay in a listed room.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoomTransition {
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
    pub change: RoomChange,
}

/// What happened to a user's stay in a room.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RoomChange {
    /// It began: the user's first socket is in.
    Joined {
        /// When the first socket of the user's stay in the namespace had connected, unix milliseconds.
        online_ms: u64,
    },
    /// It goes on, and the store has learned of it anew ([`Delta::Restored`]).
    Restored,
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
    Left {
        /// Unless the user is still there, or left on purpose: the end of the grace that leaves the user offline,
        /// unix milliseconds.
        offline_ms: Option<u64>,
    },
}

/// Something about a user's stay in a namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserTransition {
    /// The namespace.
    pub namespace: Namespace,
    /// Who.
    pub user: UserId,
    /// The name for people, of the socket that caused it.
    pub username: Arc<str>,
    /// What happened.
    pub change: UserChange,
}

/// What happened to a user's stay in a namespace. Further sockets of a user who has one change nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UserChange {
    /// It began: the first socket is here.
    Online,
    /// A socket is here within the grace: the stay goes on.
    Back,
    /// The last socket is lost; the stay ends when the grace does.
    Lost {
        /// End of the grace, unix milliseconds.
        until_ms: u64,
    },
    /// It ended.
    Offline,
}

/// A place in the list of changes; opaque, for the same store only. It stays good over the end of the
/// process that has it, so a watch may be taken up elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Position(pub String);

/// A part of the list of changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Changes {
    /// Each with its own place, after which to go on.
    Next(Vec<(Position, Transition)>),
    /// The changes after that position are no longer known, or it is none of this store: begin anew
    /// with [`PresenceStore::changes_end`].
    Forgotten,
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

/// A room in a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoomInfo {
    /// Which one.
    pub room: RoomName,
    /// Its members.
    pub users_count: u32,
    /// The sockets in it, of all members; counted for listed rooms only.
    pub sockets_count: u32,
}

/// Counts of the whole cluster, or of a part.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Socket entries.
    pub connections: u64,
    /// Distinct users with a socket.
    pub users: u64,
    /// Listed rooms with members.
    pub rooms: u64,
}

/// Counts by namespace and by gateway, all of one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StatsBreakdown {
    /// Over all namespaces and gateways.
    pub all: Stats,
    /// Of every namespace that has sockets or listed rooms, by name.
    pub namespaces: Vec<(Namespace, Stats)>,
    /// Of every gateway that is known, by id: what its own sockets make.
    pub gateways: Vec<(GatewayId, Stats)>,
}

/// Why the store could not do it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PresenceError {
    /// The store cannot be reached or did not answer in time; trying again later may help.
    #[error("the presence store is unavailable: {0}")]
    Unavailable(String),
}
