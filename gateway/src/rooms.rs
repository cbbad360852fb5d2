//! The rooms of this gateway: which of its sockets are in them, and how far each has been delivered.
//!
//! A member is **held** from its join until the join is answered: what the room gets meanwhile waits
//! for it, so that a client sees the answer first and then, without gap or overlap, everything behind
//! the position the answer names (CONTRACT G4).

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

use model::{Namespace, RoomName, RoomToken, partition_of};
use parking_lot::Mutex;
use sio::{engine::CloseReason, packet::Encoded};
use tokio::sync::oneshot;

use crate::{
    interest::{Interest, InterestError},
    session::Socket,
};

/// A room with members here, or that had some a moment ago.
pub struct Room {
    token: RoomToken,
    partition: u16,
    namespace: Namespace,
    name: RoomName,
    inner: Mutex<Inner>,
}

struct Inner {
    /// Slots keep their index, so that a member can be taken out of a large room in one step.
    members: Vec<Option<Member>>,
    free: Vec<u32>,
    next_member: u64,
    /// Sequence of the last event delivered, or at which the interest was confirmed.
    position: u64,
    interest: State,
}

enum State {
    /// The log does not know yet; these wait for it.
    Asked(Vec<oneshot::Sender<Result<u64, InterestError>>>),
    /// Every later event of the room comes here.
    Confirmed,
    /// Taken out of the table; a new join makes a new room.
    Gone,
}

struct Member {
    /// Never given out twice in a room.
    number: u64,
    socket: Arc<Socket>,
    held: Option<Box<Held>>,
}

/// What waits until the joins under way are answered.
#[derive(Default)]
struct Held {
    joins: u32,
    bytes: usize,
    packets: Vec<(Encoded, bool)>,
}

/// Held packets of one member may take so many bytes, then it is too slow.
const HELD_LIMIT: usize = 1 << 20;

impl Room {
    /// Its name in tables and subjects.
    #[must_use]
    pub fn token(&self) -> RoomToken {
        self.token
    }

    /// The partition of its log.
    #[must_use]
    pub fn partition(&self) -> u16 {
        self.partition
    }

    /// Its namespace.
    #[must_use]
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &RoomName {
        &self.name
    }

    /// Distinct users among its members here.
    #[must_use]
    pub(crate) fn local_users(&self) -> usize {
        let inner = self.inner.lock();
        let users: std::collections::HashSet<_> = inner
            .members
            .iter()
            .flatten()
            .map(|member| member.socket.user().id.as_str())
            .collect();
        users.len()
    }

    /// Ids of its members' sockets here.
    pub(crate) fn socket_ids(&self) -> Vec<Box<str>> {
        self.inner
            .lock()
            .members
            .iter()
            .flatten()
            .map(|member| member.socket.id().into())
            .collect()
    }

    /// Hands an event to every member, in the order of the calls. One at or below the room's
    /// position has been delivered before and is dropped (CONTRACT G3). `skip` names sockets that must
    /// not get it. Returns how many got it.
    pub(crate) fn deliver(&self, seq: u64, packet: &Encoded, skip: impl Fn(&Socket) -> bool) -> usize {
        let mut inner = self.inner.lock();
        if seq <= inner.position {
            return 0;
        }
        inner.position = seq;
        inner.send(packet, false, skip)
    }

    /// Hands an event without a place in the log to every member; a volatile one only to those that can
    /// take it now.
    pub(crate) fn signal(&self, packet: &Encoded, volatile: bool, skip: impl Fn(&Socket) -> bool) -> usize {
        self.inner.lock().send(packet, volatile, skip)
    }

    /// The log holds the interest from `seq` on.
    pub(crate) fn confirm(&self, result: &Result<u64, InterestError>) {
        let mut inner = self.inner.lock();
        let waiting = match (&mut inner.interest, result) {
            (State::Asked(waiting), Ok(_)) => {
                let waiting = std::mem::take(waiting);
                inner.interest = State::Confirmed;
                waiting
            }
            (State::Asked(waiting), Err(_)) => {
                let waiting = std::mem::take(waiting);
                inner.interest = State::Gone;
                waiting
            }
            (State::Confirmed | State::Gone, _) => return,
        };
        if let Ok(seq) = result {
            inner.position = inner.position.max(*seq);
        }
        for sender in waiting {
            // Whoever joined may have gone.
            let _ = sender.send(result.clone());
        }
    }
}

impl Inner {
    fn send(&mut self, packet: &Encoded, volatile: bool, skip: impl Fn(&Socket) -> bool) -> usize {
        let mut receivers = 0;
        for member in self.members.iter_mut().flatten() {
            if skip(&member.socket) {
                continue;
            }
            receivers += 1;
            match &mut member.held {
                None if volatile => member.socket.conn().send_volatile(packet),
                None => member.socket.conn().send(packet),
                Some(held) if held.bytes + packet.len() > HELD_LIMIT => {
                    member.socket.conn().close(CloseReason::SlowConsumer);
                }
                Some(held) => {
                    held.bytes += packet.len();
                    held.packets.push((packet.clone(), volatile));
                }
            }
        }
        receivers
    }

    fn add(&mut self, socket: &Arc<Socket>) -> u32 {
        self.next_member += 1;
        let member = Member {
            number: self.next_member,
            socket: Arc::clone(socket),
            held: None,
        };
        if let Some(slot) = self.free.pop() {
            self.members[slot as usize] = Some(member);
            return slot;
        }
        self.members.push(Some(member));
        u32::try_from(self.members.len() - 1).unwrap_or(u32::MAX)
    }

    /// Holds the member of a slot once more.
    fn hold(&mut self, slot: u32) -> Hold {
        let member = match self.members.get_mut(slot as usize) {
            Some(Some(member)) => {
                member.held.get_or_insert_default().joins += 1;
                member.number
            }
            Some(None) | None => 0,
        };
        let confirmed = match &mut self.interest {
            State::Confirmed => Ok(self.position),
            State::Asked(waiting) => {
                let (sender, receiver) = oneshot::channel();
                waiting.push(sender);
                Err(receiver)
            }
            // The sender goes, and with it the join.
            State::Gone => Err(oneshot::channel().1),
        };
        Hold { member, confirmed }
    }

    fn is_empty(&self) -> bool {
        self.members.len() == self.free.len()
    }
}

const SHARDS: usize = 64;

/// All rooms of the gateway.
pub struct Rooms {
    shards: [Mutex<HashMap<RoomToken, Arc<Room>>>; SHARDS],
    partitions: u16,
    interest: Arc<Interest>,
    linger: Duration,
    /// Rooms that became empty, oldest first.
    empty: Mutex<VecDeque<(Instant, Weak<Room>)>>,
}

impl Rooms {
    /// No rooms yet. An empty room's interest is kept for `linger`, so that flapping costs nothing.
    pub(crate) fn new(partitions: u16, interest: Arc<Interest>, linger: Duration) -> Arc<Self> {
        Arc::new(Self {
            shards: std::array::from_fn(|_| Mutex::default()),
            partitions,
            interest,
            linger,
            empty: Mutex::default(),
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
    /// in the room already is held again.
    pub(crate) fn join(self: &Arc<Self>, socket: &Arc<Socket>, name: RoomName) -> Joining {
        let token = RoomToken::new(socket.namespace(), &name);
        let mut rooms = socket.rooms.lock();
        if let Some((room, slot)) = rooms.iter().find(|(room, _)| room.token == token) {
            let hold = room.inner.lock().hold(*slot);
            return Joining::new(self, room, socket, *slot, false, hold);
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
            let slot = inner.add(socket);
            let hold = inner.hold(slot);
            drop(inner);
            rooms.push((Arc::clone(&room), slot));
            return Joining::new(self, &room, socket, slot, true, hold);
        }
    }

    /// Takes a socket out of a room; `false` when it was not in it.
    pub(crate) fn leave(&self, socket: &Socket, token: RoomToken) -> bool {
        let left = {
            let mut rooms = socket.rooms.lock();
            let index = rooms.iter().position(|(room, _)| room.token == token);
            index.map(|index| rooms.swap_remove(index))
        };
        left.map(|(room, slot)| self.vacate(&room, slot)).is_some()
    }

    /// Takes a socket out of all its rooms.
    pub(crate) fn leave_all(&self, socket: &Socket) {
        let rooms = std::mem::take(&mut *socket.rooms.lock());
        for (room, slot) in rooms {
            self.vacate(&room, slot);
        }
    }

    fn vacate(&self, room: &Arc<Room>, slot: u32) {
        let mut inner = room.inner.lock();
        let member = inner.members.get_mut(slot as usize).and_then(Option::take);
        if member.is_some() {
            inner.free.push(slot);
        }
        if !inner.is_empty() {
            return;
        }
        inner.members = Vec::new();
        inner.free = Vec::new();
        drop(inner);
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
                    self.interest.end(room.partition, room.token);
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

    /// Those of one partition.
    pub(crate) fn of_partition(&self, partition: u16) -> Vec<RoomToken> {
        let mut tokens = Vec::new();
        for shard in &self.shards {
            let shard = shard.lock();
            tokens.extend(
                shard
                    .values()
                    .filter(|room| room.partition == partition)
                    .map(|room| room.token),
            );
        }
        tokens
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

    fn forget(&self, room: &Arc<Room>) {
        let mut rooms = self.shard(room.token).lock();
        if rooms
            .get(&room.token)
            .is_some_and(|known| Arc::ptr_eq(known, room))
        {
            rooms.remove(&room.token);
        }
    }

    fn shard(&self, token: RoomToken) -> &Mutex<HashMap<RoomToken, Arc<Room>>> {
        &self.shards[usize::from(token.as_bytes()[15]) % SHARDS]
    }
}

/// A join under way. Dropped before it is released, it is taken back.
pub(crate) struct Joining {
    rooms: Arc<Rooms>,
    room: Arc<Room>,
    socket: Arc<Socket>,
    slot: u32,
    /// Its member's number: after a leave the slot may be another's, or the socket's own again.
    member: u64,
    new: bool,
    released: bool,
    confirmed: Confirmed,
}

/// The position, or where it will be told.
type Confirmed = Result<u64, oneshot::Receiver<Result<u64, InterestError>>>;

/// A member that is held.
struct Hold {
    member: u64,
    confirmed: Confirmed,
}

impl Joining {
    fn new(
        rooms: &Arc<Rooms>,
        room: &Arc<Room>,
        socket: &Arc<Socket>,
        slot: u32,
        new: bool,
        hold: Hold,
    ) -> Self {
        Self {
            rooms: Arc::clone(rooms),
            room: Arc::clone(room),
            socket: Arc::clone(socket),
            slot,
            member: hold.member,
            new,
            released: false,
            confirmed: hold.confirmed,
        }
    }

    pub(crate) fn room(&self) -> &Arc<Room> {
        &self.room
    }

    /// Whether the socket was not in the room before.
    pub(crate) fn is_new(&self) -> bool {
        self.new
    }

    /// Waits until every later event of the room is sure to come. The position: what the member gets
    /// from now on is exactly what stands behind it.
    pub(crate) async fn confirmed(&mut self) -> Result<u64, InterestError> {
        let position = match &mut self.confirmed {
            Ok(position) => return Ok(*position),
            Err(receiver) => receiver.await.unwrap_or(Err(InterestError::Stopped))?,
        };
        self.confirmed = Ok(position);
        Ok(position)
    }

    /// Sends `answer`, then what was held, then lets the member go.
    pub(crate) fn release(mut self, answer: &[Encoded]) {
        self.finish(answer);
    }

    fn finish(&mut self, answer: &[Encoded]) {
        self.released = true;
        let mut inner = self.room.inner.lock();
        // Under the room's lock, so that no event overtakes the answer.
        for packet in answer {
            self.socket.conn().send(packet);
        }
        let Some(Some(member)) = inner.members.get_mut(self.slot as usize) else {
            return;
        };
        if member.number != self.member {
            return;
        }
        let Some(held) = &mut member.held else { return };
        held.joins -= 1;
        if held.joins > 0 {
            return;
        }
        for (packet, volatile) in std::mem::take(&mut held.packets) {
            if volatile {
                self.socket.conn().send_volatile(&packet);
            } else {
                self.socket.conn().send(&packet);
            }
        }
        member.held = None;
    }
}

impl Drop for Joining {
    fn drop(&mut self) {
        if self.released {
            return;
        }
        self.finish(&[]);
        if self.new {
            self.rooms.leave(&self.socket, self.room.token);
        }
    }
}
