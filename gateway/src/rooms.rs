//! The rooms of this gateway: which of its sockets are in them, and how far each has been delivered.
//!
//! A member is **held** from its join until the join is answered: what the room gets meanwhile waits
//! for it, so that a client sees the answer first and then, without gap or overlap, everything behind
//! the position the answer names (CONTRACT G4).

mod joining;
mod variants;

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc, Weak,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use model::{Namespace, Offset, RoomName, RoomToken, partition_of};
use parking_lot::Mutex;
use proto::v1::Publish;
use sio::engine::CloseReason;
use smallvec::SmallVec;
use tokio::sync::oneshot;

pub(crate) use self::joining::Joining;
use self::variants::{Joined, Variants};
use crate::{
    interest::{Interest, InterestError},
    journal::{Except, Journal, Lane, Receivers},
    session::Socket,
    transport::Cork,
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
    /// Places of members that are away and may come back.
    away: u32,
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
    /// Place in the journal behind which what the room gets is for this member too; none before its first
    /// join was answered.
    since: Option<u64>,
    held: Option<Box<Held>>,
}

/// What waits until the joins under way are answered.
#[derive(Default)]
struct Held {
    joins: u32,
    /// Where the first of them begins, once that is known; and so do the others, because what was held since then
    /// comes behind all their answers.
    begin: Option<u64>,
    bytes: usize,
    events: Vec<Waiting>,
}

/// An event that waits for a member.
struct Waiting {
    publish: Arc<Publish>,
    /// Its place in the log, if it has one.
    offset: Option<Offset>,
}

/// A member's place while it is away.
pub(crate) struct Place {
    pub(crate) room: Arc<Room>,
    /// As of the member.
    pub(crate) since: u64,
}

/// An event with its place in the log.
pub(crate) struct Durable {
    pub(crate) offset: Offset,
    pub(crate) publish: Arc<Publish>,
    pub(crate) except: Except,
}

/// What became of an event.
#[derive(Copy, Clone, Debug, Default)]
pub(crate) struct Sent {
    /// Members it was for.
    pub(crate) receivers: usize,
    /// Bytes each of them gets.
    pub(crate) bytes: usize,
}

/// Events held for one member may take so many bytes, then it is too slow.
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

    /// Everything of the room up to here has been delivered, or lies before its interest.
    pub(crate) fn position(&self) -> u64 {
        self.inner.lock().position
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

    /// Hands events to every member, in order, and tells what became of each. One at or below the room's
    /// position has been delivered before and is dropped (CONTRACT G3).
    pub(crate) fn deliver(
        &self,
        lane: &mut Lane,
        events: Vec<Durable>,
        cork: &mut Cork,
        mut sent: impl FnMut(&Publish, Sent),
    ) {
        let mut inner = self.inner.lock();
        let mut run = SmallVec::<[Durable; 1]>::new();
        for event in events {
            if event.offset.seq <= inner.position {
                continue;
            }
            inner.position = event.offset.seq;
            if !inner.is_empty() {
                run.push(event);
            }
        }
        let is_plain = |event: &Durable| event.except.is_empty() && !event.publish.volatile;
        if run.len() > 1 && run.iter().all(is_plain) && !inner.holds_any() {
            return inner.send_run(self.token, lane, &run, cork, sent);
        }
        for Durable {
            offset,
            publish,
            except,
        } in run
        {
            let variants = Variants::new(&publish, Some(offset), lane.next(offset, publish.time_ms));
            let (became, held) = inner.send(&variants, &except, cork);
            sent(&publish, became);
            if inner.away > 0 || variants.is_recoverable() {
                let except = Arc::new(except);
                let receivers = Receivers::Members { except, held };
                lane.sent(self.token, Arc::clone(&publish), receivers);
            }
        }
    }

    /// Hands an event without a place in the log to every member; a volatile one only to those that can
    /// take it now.
    pub(crate) fn signal(
        &self,
        lane: &Lane,
        publish: &Arc<Publish>,
        except: &Except,
        cork: &mut Cork,
    ) -> Sent {
        let mut inner = self.inner.lock();
        if inner.members.is_empty() {
            return Sent::default();
        }
        inner
            .send(&Variants::new(publish, None, lane.position()), except, cork)
            .0
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
            for held in inner
                .members
                .iter_mut()
                .flatten()
                .flat_map(|member| &mut member.held)
            {
                held.begin.get_or_insert(*seq);
            }
        }
        for sender in waiting {
            // Whoever joined may have gone.
            let _ = sender.send(result.clone());
        }
    }
}

impl Inner {
    /// Also tells the sockets that are held.
    fn send(&mut self, variants: &Variants<'_>, except: &Except, cork: &mut Cork) -> (Sent, Vec<Box<str>>) {
        let mut sent = Sent::default();
        let volatile = variants.publish.volatile;
        // Their names lie elsewhere in memory: two cache misses a member, saved where nobody is excepted.
        let is_selective = !except.is_empty();
        let mut were_held = Vec::new();
        for Member { socket, held, .. } in self.members.iter_mut().flatten() {
            if is_selective && except.names(socket.id(), socket.user().id.as_str()) {
                continue;
            }
            let packet = variants.of(socket);
            sent.receivers += 1;
            sent.bytes = packet.len();
            match held {
                None => socket.conn().send_corked(packet, volatile, cork),
                Some(held) if held.bytes + packet.len() > HELD_LIMIT => {
                    socket.conn().close(CloseReason::SlowConsumer);
                }
                Some(held) => {
                    held.bytes += packet.len();
                    held.events.push(Waiting {
                        publish: Arc::clone(variants.publish),
                        offset: variants.offset,
                    });
                    were_held.push(socket.id().into());
                }
            }
        }
        (sent, were_held)
    }

    /// Hands several events to all members in one piece: encoded, queued and written once.
    fn send_run(
        &mut self,
        token: RoomToken,
        lane: &mut Lane,
        run: &[Durable],
        cork: &mut Cork,
        mut sent: impl FnMut(&Publish, Sent),
    ) {
        let mut members = self.members.iter().flatten();
        let is_recoverable = self.away > 0 || members.any(|member| member.socket.pid().is_some());
        let everybody = Arc::<Except>::default();
        let mut variants = Vec::with_capacity(run.len());
        for Durable { offset, publish, .. } in run {
            let position = lane.next(*offset, publish.time_ms);
            variants.push(Variants::new(publish, Some(*offset), position));
            if is_recoverable {
                let receivers = Receivers::Members {
                    except: Arc::clone(&everybody),
                    held: Vec::new(),
                };
                lane.sent(token, Arc::clone(publish), receivers);
            }
        }
        let joined = Joined::default();
        let mut receivers = 0;
        for Member { socket, .. } in self.members.iter().flatten() {
            let packets = Variants::all_of(&variants, &joined, socket);
            socket.conn().send_corked(packets, false, cork);
            receivers += 1;
        }
        for variants in &variants {
            let bytes = variants.len();
            sent(variants.publish, Sent { receivers, bytes });
        }
    }

    fn holds_any(&self) -> bool {
        self.members.iter().flatten().any(|member| member.held.is_some())
    }

    fn add(&mut self, socket: &Arc<Socket>, since: Option<u64>) -> u32 {
        self.next_member += 1;
        let member = Member {
            number: self.next_member,
            socket: Arc::clone(socket),
            since,
            held: None,
        };
        if let Some(slot) = self.free.pop() {
            self.members[slot as usize] = Some(member);
            return slot;
        }
        if self.members.is_empty() {
            // Most rooms are a user's or a socket's own, and have one member.
            self.members.reserve_exact(1);
        }
        self.members.push(Some(member));
        u32::try_from(self.members.len() - 1).unwrap_or(u32::MAX)
    }

    /// Holds the member of a slot once more.
    fn hold(&mut self, slot: u32) -> Hold {
        let mut position = self.position;
        let member = match self.members.get_mut(slot as usize) {
            Some(Some(member)) => {
                let held = member.held.get_or_insert_default();
                held.joins += 1;
                if matches!(self.interest, State::Confirmed) {
                    position = *held.begin.get_or_insert(position);
                }
                member.number
            }
            Some(None) | None => 0,
        };
        let confirmed = match &mut self.interest {
            State::Confirmed => Ok(position),
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
        self.members.len() == self.free.len() && self.away == 0
    }
}

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
    /// in the room already is held again.
    pub(crate) fn join(self: &Arc<Self>, socket: &Arc<Socket>, name: RoomName) -> Joining {
        let token = RoomToken::new(socket.namespace(), &name);
        self.joining(token).fetch_add(1, Ordering::SeqCst);
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
            let slot = inner.add(socket, None);
            let hold = inner.hold(slot);
            drop(inner);
            rooms.push((Arc::clone(&room), slot));
            return Joining::new(self, &room, socket, slot, true, hold);
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

    /// Takes a socket that may come back out of all its rooms. Its places are kept, so that the journal
    /// goes on holding what the rooms get; rooms whose join was not answered are simply left.
    pub(crate) fn go_away(&self, socket: &Socket) -> Vec<Place> {
        let mut lane = self.journal.lane();
        let rooms = std::mem::take(&mut *socket.rooms.lock());
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
            rooms.push((room, slot));
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

/// The position, or where it will be told.
type Confirmed = Result<u64, oneshot::Receiver<Result<u64, InterestError>>>;

/// A member that is held.
struct Hold {
    member: u64,
    confirmed: Confirmed,
}
