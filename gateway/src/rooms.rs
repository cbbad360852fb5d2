//! The rooms of this gateway: which of its sockets are in them, and how far each has been delivered.
//!
//! A member is **held** from its join until the join is answered: what the room gets meanwhile waits
//! for it, so that a client sees the answer first and then, without gap or overlap, everything behind
//! the position the answer names (CONTRACT G4).

mod joining;
mod room;
mod variants;

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc, Weak,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use model::{Namespace, RoomName, RoomToken, partition_of};
use parking_lot::Mutex;

pub use self::room::Room;
use self::room::{Inner, State};
pub(crate) use self::{
    joining::Joining,
    room::{Durable, Place, Sent},
};
use crate::{
    interest::{Interest, InterestError},
    journal::{Journal, Lane, Receivers},
    session::Socket,
};

const SHARDS: usize = 64;

/// All rooms of the gateway.
pub struct Rooms {
    shards: [Mutex<HashMap<RoomToken, Arc<Room>>>; SHARDS],
    partitions: u16,
    interest: Arc<Interest>,
    journal: Arc<Journal>,
    linger: Duration,
    /// Rooms that became empty, oldest first.
    empty: Mutex<VecDeque<(Instant, Weak<Room>)>>,
    /// Joins under way, by partition.
    joining: Vec<AtomicU32>,
}

impl Rooms {
    /// No rooms yet. An empty room's interest is kept for `linger`, so that flapping costs nothing.
    pub(crate) fn new(
        partitions: u16,
        interest: Arc<Interest>,
        journal: Arc<Journal>,
        linger: Duration,
    ) -> Arc<Self> {
        Arc::new(Self {
            shards: std::array::from_fn(|_| Mutex::default()),
            partitions,
            interest,
            journal,
            linger,
            empty: Mutex::default(),
            joining: (0..partitions).map(|_| AtomicU32::new(0)).collect(),
        })
    }

    /// The room behind a token, if it has members here or had some a moment ago.
    #[must_use]
    pub fn get(&self, token: RoomToken) -> Option<Arc<Room>> {
        self.shard(token).lock().get(&token).cloned()
    }

    /// The partition of a room's log.
    #[must_use]
    pub fn partition(&self, token: RoomToken) -> u16 {
        partition_of(token, self.partitions)
    }

    /// Adds a socket to a room, held until the join is [released](Joining::release). A socket that is
    /// in the room already is held again. None when it has left its namespace.
    pub(crate) fn join(self: &Arc<Self>, socket: &Arc<Socket>, name: RoomName) -> Option<Joining> {
        let token = RoomToken::new(socket.namespace(), &name);
        let mut rooms = socket.rooms.lock();
        if rooms.ended {
            return None;
        }
        self.joining(token).fetch_add(1, Ordering::SeqCst);
        if let Some((room, slot)) = rooms.slots.iter().find(|(room, _)| room.token == token) {
            let hold = room.inner.lock().hold(*slot);
            return Some(Joining::new(self, room, socket, *slot, false, hold));
        }
        loop {
            let room = self.room(token, socket.namespace(), &name);
            let mut inner = room.inner.lock();
            if matches!(inner.interest, State::Gone) {
                drop(inner);
                self.forget(&room);
                continue;
            }
            // Held within the same lock: nothing may reach the member before its join is answered.
            let slot = inner.add(socket, None);
            let hold = inner.hold(slot);
            drop(inner);
            rooms.slots.push((Arc::clone(&room), slot));
            return Some(Joining::new(self, &room, socket, slot, true, hold));
        }
    }

    /// Whether a member of some room of the partition may be held: it has not got yet what others have.
    pub(crate) fn holds(&self, partition: u16) -> bool {
        let joining = self.joining.get(usize::from(partition));
        joining.is_some_and(|joining| joining.load(Ordering::SeqCst) > 0)
    }

    fn joining(&self, token: RoomToken) -> &AtomicU32 {
        // There is one for each partition.
        &self.joining[usize::from(self.partition(token)) % self.joining.len()]
    }

    /// Takes a socket out of a room; `false` when it was not in it.
    pub(crate) fn leave(&self, socket: &Socket, token: RoomToken) -> bool {
        let left = {
            let mut rooms = socket.rooms.lock();
            let index = rooms.slots.iter().position(|(room, _)| room.token == token);
            index.map(|index| rooms.slots.swap_remove(index))
        };
        left.map(|(room, slot)| self.vacate(&room, slot)).is_some()
    }

    /// Takes a socket out of all its rooms, for good.
    pub(crate) fn leave_all(&self, socket: &Socket) {
        let rooms = socket.rooms.lock().end();
        for (room, slot) in rooms {
            self.vacate(&room, slot);
        }
    }

    /// Takes a socket that may come back out of all its rooms. Its places are kept, so that the journal
    /// goes on holding what the rooms get; rooms whose join was not answered are simply left.
    pub(crate) fn go_away(&self, socket: &Socket) -> Vec<Place> {
        let mut lane = self.journal.lane();
        let rooms = socket.rooms.lock().end();
        let mut places = Vec::with_capacity(rooms.len());
        for (room, slot) in rooms {
            let since = {
                let mut inner = room.inner.lock();
                let member = inner.members.get_mut(slot as usize).and_then(Option::as_mut);
                let since = member.and_then(|member| {
                    // It was in the room before the join that is under way.
                    let since = member.since?;
                    for waiting in member.held.take().map(|held| held.events).unwrap_or_default() {
                        if let Some(offset) = waiting.offset {
                            lane.next(offset, waiting.publish.time_ms);
                            lane.sent(room.token, waiting.publish, Receivers::Socket(socket.id().into()));
                        }
                    }
                    Some(since)
                });
                inner.away += u32::from(since.is_some());
                since
            };
            self.vacate(&room, slot);
            places.extend(since.map(|since| Place { room, since }));
        }
        places
    }

    /// Puts one that has come back into its rooms again. In the same lane it was told what it missed.
    pub(crate) fn come_back(&self, _lane: &mut Lane, socket: &Arc<Socket>, places: Vec<Place>) {
        let mut rooms = socket.rooms.lock();
        for Place { room, since } in places {
            let mut inner = room.inner.lock();
            let slot = inner.add(socket, Some(since));
            inner.away -= 1;
            drop(inner);
            rooms.slots.push((room, slot));
        }
    }

    /// Nobody comes back to these places.
    pub(crate) fn give_up(&self, places: Vec<Place>) {
        for Place { room, .. } in places {
            let mut inner = room.inner.lock();
            inner.away -= 1;
            let is_empty = inner.is_empty();
            drop(inner);
            if is_empty {
                self.note_empty(&room);
            }
        }
    }

    fn vacate(&self, room: &Arc<Room>, slot: u32) {
        let mut inner = room.inner.lock();
        let member = inner.members.get_mut(slot as usize).and_then(Option::take);
        if member.is_some() {
            inner.free.push(slot);
        }
        if inner.members.len() == inner.free.len() {
            inner.members = Vec::new();
            inner.free = Vec::new();
        }
        let is_empty = inner.is_empty();
        drop(inner);
        if is_empty {
            self.note_empty(room);
        }
    }

    fn note_empty(&self, room: &Arc<Room>) {
        self.empty
            .lock()
            .push_back((Instant::now(), Arc::downgrade(room)));
    }

    /// Ends the interest in rooms that have been empty for long enough.
    pub(crate) fn sweep(&self, now: Instant) {
        loop {
            let room = {
                let mut empty = self.empty.lock();
                match empty.front() {
                    Some((since, _)) if now.duration_since(*since) >= self.linger => empty.pop_front(),
                    _ => return,
                }
            };
            let Some(room) = room.and_then(|(_, room)| room.upgrade()) else {
                continue;
            };
            let mut inner = room.inner.lock();
            match inner.interest {
                State::Confirmed if inner.is_empty() => {
                    inner.interest = State::Gone;
                    drop(inner);
                    self.forget(&room);
                    self.journal.lane().forget(room.token);
                    self.interest.end(room.partition, room.token);
                }
                // The log did not take it.
                State::Gone if inner.is_empty() => {
                    drop(inner);
                    if self.forget(&room) {
                        self.journal.lane().forget(room.token);
                    }
                }
                State::Asked(_) if inner.is_empty() => {
                    drop(inner);
                    self.empty.lock().push_back((now, Arc::downgrade(&room)));
                }
                State::Asked(_) | State::Confirmed | State::Gone => {}
            }
        }
    }

    /// Makes sure that the log holds all rooms of a partition that are here; from which sequence on.
    ///
    /// # Errors
    /// When the log does not take it.
    pub(crate) async fn state(self: &Arc<Self>, partition: u16) -> Result<u64, InterestError> {
        self.interest.state(partition, self).await
    }

    /// Those of one partition, but for those that are about to be forgotten.
    pub(crate) fn of_partition(&self, partition: u16) -> Vec<RoomToken> {
        let mut rooms = Vec::new();
        for shard in &self.shards {
            let shard = shard.lock();
            rooms.extend(shard.values().filter(|room| room.partition == partition).cloned());
        }
        let known = rooms
            .iter()
            .filter(|room| !matches!(room.inner.lock().interest, State::Gone));
        known.map(|room| room.token).collect()
    }

    /// Rooms known here.
    pub(crate) fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().len()).sum()
    }

    fn room(&self, token: RoomToken, namespace: &Namespace, name: &RoomName) -> Arc<Room> {
        let (room, new) = {
            let mut rooms = self.shard(token).lock();
            match rooms.get(&token) {
                Some(room) => (Arc::clone(room), false),
                None => {
                    let room = Arc::new(Room {
                        token,
                        partition: self.partition(token),
                        namespace: namespace.clone(),
                        name: name.clone(),
                        inner: Mutex::new(Inner {
                            members: Vec::new(),
                            free: Vec::new(),
                            away: 0,
                            next_member: 0,
                            position: 0,
                            interest: State::Asked(Vec::new()),
                        }),
                    });
                    rooms.insert(token, Arc::clone(&room));
                    (room, true)
                }
            }
        };
        if new {
            self.interest.begin(&room);
        }
        room
    }

    /// `false` when another of the name has taken its place.
    fn forget(&self, room: &Arc<Room>) -> bool {
        let mut rooms = self.shard(room.token).lock();
        let is_known = rooms
            .get(&room.token)
            .is_some_and(|known| Arc::ptr_eq(known, room));
        if is_known {
            rooms.remove(&room.token);
        }
        is_known
    }

    fn shard(&self, token: RoomToken) -> &Mutex<HashMap<RoomToken, Arc<Room>>> {
        &self.shards[usize::from(token.as_bytes()[15]) % SHARDS]
    }
}
