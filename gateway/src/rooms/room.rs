//! One room: its members here, how far it has been delivered, and what its members get.

use std::sync::Arc;

use model::{Namespace, Offset, RoomName, RoomToken};
use parking_lot::Mutex;
use proto::v1::Publish;
use sio::engine::CloseReason;
use smallvec::SmallVec;
use tokio::sync::oneshot;

use super::variants::{Joined, Variants};
use crate::{
    interest::InterestError,
    journal::{Except, Lane, Receivers},
    session::Socket,
    transport::Cork,
};

/// A room with members here, or that had some a moment ago.
pub struct Room {
    pub(super) token: RoomToken,
    pub(super) partition: u16,
    pub(super) namespace: Namespace,
    pub(super) name: RoomName,
    pub(super) inner: Mutex<Inner>,
}

pub(super) struct Inner {
    /// Slots keep their index, so that a member can be taken out of a large room in one step.
    pub(super) members: Vec<Option<Member>>,
    pub(super) free: Vec<u32>,
    /// Places of members that are away and may come back.
    pub(super) away: u32,
    pub(super) next_member: u64,
    /// Sequence of the last event delivered, or at which the interest was confirmed.
    pub(super) position: u64,
    pub(super) interest: State,
}

pub(super) enum State {
    /// The log does not know yet; these wait for it.
    Asked(Vec<oneshot::Sender<Result<u64, InterestError>>>),
    /// Every later event of the room comes here.
    Confirmed,
    /// Taken out of the table; a new join makes a new room.
    Gone,
}

pub(super) struct Member {
    /// Never given out twice in a room.
    pub(super) number: u64,
    pub(super) socket: Arc<Socket>,
    /// Place in the journal behind which what the room gets is for this member too; none before its first
    /// join was answered.
    pub(super) since: Option<u64>,
    pub(super) held: Option<Box<Held>>,
}

/// What waits until the joins under way are answered.
#[derive(Default)]
pub(super) struct Held {
    pub(super) joins: u32,
    /// Where the first of them begins, once that is known; and so do the others, because what was held since then
    /// comes behind all their answers.
    pub(super) begin: Option<u64>,
    pub(super) bytes: usize,
    pub(super) events: Vec<Waiting>,
}

/// An event that waits for a member.
pub(super) struct Waiting {
    pub(super) publish: Arc<Publish>,
    /// Its place in the log, if it has one.
    pub(super) offset: Option<Offset>,
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

/// Events held for one member may take so many bytes, then it is too slow and its connection is closed.
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

    /// Its members' sockets here, but for those whose first join is still under way.
    pub(crate) fn sockets(&self) -> Vec<Arc<Socket>> {
        let inner = self.inner.lock();
        let members = inner.members.iter().flatten();
        let joined = members.filter(|member| member.since.is_some());
        joined.map(|member| Arc::clone(&member.socket)).collect()
    }

    /// Its members here, or a few more: whoever has left may still have a place. For estimates.
    pub(crate) fn places(&self) -> usize {
        self.inner.lock().members.len()
    }

    /// Ids of some of its members' sockets here, at most so many.
    pub(crate) fn some_ids(&self, at_most: usize, except: &Except) -> Vec<Box<str>> {
        let inner = self.inner.lock();
        let members = inner.members.iter().flatten();
        let joined = members.filter(|member| member.since.is_some());
        let sockets = joined.map(|member| &member.socket);
        let receivers = sockets.filter(|socket| !except.names(socket.id(), socket.user().id.as_str()));
        receivers.take(at_most).map(|socket| socket.id().into()).collect()
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
        let is_plain = |event: &Durable| {
            event.except.is_empty() && !event.publish.volatile && !event.publish.several_rooms
        };
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
            let (became, held) = inner.send(lane, &variants, &except, cork);
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
        lane: &mut Lane,
        publish: &Arc<Publish>,
        except: &Except,
        cork: &mut Cork,
    ) -> Sent {
        let mut inner = self.inner.lock();
        if inner.members.is_empty() {
            return Sent::default();
        }
        let variants = Variants::new(publish, None, lane.position());
        inner.send(lane, &variants, except, cork).0
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
    fn send(
        &mut self,
        lane: &mut Lane,
        variants: &Variants<'_>,
        except: &Except,
        cork: &mut Cork,
    ) -> (Sent, Vec<Box<str>>) {
        let mut sent = Sent::default();
        let volatile = variants.publish.volatile;
        // Their names lie elsewhere in memory: two cache misses a member, saved where nobody is excepted.
        let is_selective = !except.is_empty() || variants.publish.several_rooms;
        let mut were_held = Vec::new();
        for Member { socket, held, .. } in self.members.iter_mut().flatten() {
            if is_selective {
                let is_excepted = except.names(socket.id(), socket.user().id.as_str());
                // Who is held gets it later, or from another room before.
                if is_excepted || (held.is_none() && !lane.is_first(variants.publish, socket.id())) {
                    continue;
                }
            }
            let packet = variants.of(socket);
            sent.receivers += 1;
            sent.bytes = packet.len();
            match held {
                None => socket.conn().send_corked(packet, volatile, cork),
                Some(held) => {
                    if held.bytes + packet.len() > HELD_LIMIT {
                        // Until it is closed it goes on being held: it may come back, to all of it in order.
                        socket.conn().close(CloseReason::SlowConsumer);
                    } else {
                        held.bytes += packet.len();
                    }
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

    pub(super) fn add(&mut self, socket: &Arc<Socket>, since: Option<u64>) -> u32 {
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
    pub(super) fn hold(&mut self, slot: u32) -> Hold {
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

    pub(super) fn is_empty(&self) -> bool {
        self.members.len() == self.free.len() && self.away == 0
    }
}

/// The position, or where it will be told.
pub(super) type Confirmed = Result<u64, oneshot::Receiver<Result<u64, InterestError>>>;

/// A member that is held.
pub(super) struct Hold {
    pub(super) member: u64,
    pub(super) confirmed: Confirmed,
}
