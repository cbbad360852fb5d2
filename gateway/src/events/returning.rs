//! Sockets that get back into their rooms, and first what they missed.

use std::{collections::HashSet, sync::Arc, time::Duration};

use ::publisher::departures::{self, Departed};
use model::{Offset, RoomName, RoomToken};
use prost::Message;
use proto::v1::{
    Except, FetchMissed, KeptArrival, MissedEvent, MissedReply, OwnEvent, Publish, RoomPosition,
    session_request::Step,
};
use sio::{engine::CloseReason, packet::Encoded};

use super::Core;
use crate::{
    journal::{Receivers, Returning},
    presence_feed::is_told,
    replay::ReplayError,
    rooms::Joining,
    session::{Arrived, Away, Because, Left, Moved, Returns, Socket, Source, Who},
};

/// Another gateway gets so long to have everything that a client missed.
const FETCH: Duration = Duration::from_secs(5);
/// This gateway gets so long to be as far as the client is: the session is nowhere else by then, so NATS may start again.
const CATCH_UP: Duration = Duration::from_secs(60);

/// Events that were missed, each with its place in the log.
type Missed = Vec<(Offset, Publish)>;

/// What a socket gets when it comes back.
struct Found {
    missed: Missed,
    /// Of each room, in the order of the joins, up to where the client has everything with it.
    reached: Vec<u64>,
    /// Ids of events with copies in several rooms of which the client has one.
    given: Vec<String>,
}

impl Core {
    /// Ends with the socket in its rooms and its client told, or with its connection closed. Not to be cancelled: the
    /// session is nowhere else.
    pub(super) async fn returned(&self, socket: &Arc<Socket>, returns: Returns, answer: Encoded) {
        let done = match returns {
            Returns::Here { away, after } => self.returned_here(socket, away, after, &answer),
            Returns::There(moved) => self.returned_from(socket, moved, &answer).await,
        };
        match done {
            Ok(()) => {
                self.metrics.recovered(Ok(()));
                self.sessions.here(socket);
                self.tell_presence(socket);
                self.watch_expiry(socket);
            }
            Err(because) => {
                // It cannot be answered as a fresh one any more; it connects anew.
                tracing::debug!(
                    ?because,
                    id = socket.id(),
                    "a session that was claimed is not recovered"
                );
                self.metrics.recovered(Err(because));
                if let Some(pid) = socket.pid() {
                    self.end(pid);
                }
                socket.conn().close(CloseReason::TransportError);
            }
        }
        if let Some(reason) = socket.has_returned() {
            self.disconnected(socket, reason);
        }
    }

    fn tell_presence(&self, socket: &Arc<Socket>) {
        self.tell_connected(socket, true);
        self.presence.connected(socket);
        let rooms: Vec<RoomName> = {
            let rooms = socket.rooms.lock();
            let names = rooms.rooms().map(|room| room.name());
            names.filter(|name| is_told(name)).cloned().collect()
        };
        for room in rooms {
            // Nobody asked how many there are.
            drop(self.presence.joined(socket, &room));
        }
    }

    fn returned_here(
        &self,
        socket: &Arc<Socket>,
        away: Away,
        after: u64,
        answer: &Encoded,
    ) -> Result<(), Because> {
        let places = away.places();
        let mut lane = self.journal.lane();
        let returning = Returning {
            socket: socket.id(),
            user: socket.user().id.as_str(),
            rooms: &places,
        };
        let Some(missed) = lane.missed(after, &returning) else {
            drop(lane);
            self.rooms.give_up(away.places);
            return Err(Because::TooLate);
        };
        for event in missed {
            if event.publish.several_rooms {
                lane.copies.is_first(&event.publish.id, socket.id(), event.number);
            }
            socket.conn().send(&lane.encode(&event));
        }
        socket.conn().send(answer);
        self.rooms.come_back(&mut lane, socket, away.places);
        Ok(())
    }

    /// Gets into the rooms first, which hold what comes; what was missed then ends where that begins.
    async fn returned_from(
        &self,
        socket: &Arc<Socket>,
        moved: Moved,
        answer: &Encoded,
    ) -> Result<(), Because> {
        let Moved {
            source,
            rooms,
            position,
            ..
        } = moved;
        let mut joins: Vec<Joining> = rooms
            .into_iter()
            // Its end, should it come, is put off until it is back.
            .filter_map(|room| self.rooms.join(socket, room))
            .collect();
        let found = self.fetch(socket, source, position.as_ref(), &mut joins).await;
        let Found {
            missed,
            reached,
            given,
        } = match found {
            Ok(found) => found,
            Err((because, left)) => {
                if let (Some(pid), Some(left)) = (socket.pid(), left) {
                    self.give_back(pid, *left);
                }
                return Err(because);
            }
        };
        self.catch_up(&mut joins, &reached).await?;
        let kept = self.kept_session(socket, &mut joins).await;
        let mut kept = kept.map_err(|_| Because::Unavailable)?;
        {
            let mut lane = self.journal.lane();
            kept.arrived = Some(KeptArrival {
                position: position.as_ref().map(ToString::to_string).unwrap_or_default(),
                number: lane.number(),
            });
            let arrived = Arrived {
                position,
                number: lane.number(),
            };
            // A socket comes over once in its life.
            let _ = socket.arrived.set(Arc::new(arrived));
            let number = lane.number();
            for id in given {
                lane.copies.is_first(&id, socket.id(), number);
            }
            for (offset, publish) in missed {
                let publish = Arc::new(publish);
                lane.next(offset, publish.time_ms);
                if !lane.is_first(&publish, socket.id()) {
                    continue;
                }
                let token = RoomToken::new(socket.namespace(), &RoomName::stored(&publish.room));
                let event = lane.sent(token, publish, Receivers::Socket(socket.id().into()));
                socket.conn().send(&lane.encode(&event));
                kept.own.push(OwnEvent {
                    number: event.number,
                    partition: offset.partition.into(),
                    seq: offset.seq,
                });
            }
            socket.conn().send(answer);
        }
        if let (Some(store), Some(pid)) = (&self.store, socket.shared_pid()) {
            store.begin(pid, kept);
        }
        for join in joins {
            join.release(|_| Vec::new());
        }
        Ok(())
    }

    /// The client may be ahead of this gateway. What it has must not come again, so this gateway gets as far first.
    pub(super) async fn catch_up(&self, joins: &mut [Joining], reached: &[u64]) -> Result<(), Because> {
        let mut places = Vec::with_capacity(joins.len());
        for (join, &reached) in joins.iter_mut().zip(reached) {
            if reached > join.confirmed().await.map_err(|_| Because::Unavailable)? {
                join.has(reached);
                places.push(Offset {
                    partition: join.room().partition(),
                    seq: reached,
                });
            }
        }
        let caught_up = self.deliverer.reached(&places, CATCH_UP).await;
        caught_up.then_some(()).ok_or(Because::Unavailable)
    }

    /// What was missed. With an error comes back what was taken from the store.
    async fn fetch(
        &self,
        socket: &Arc<Socket>,
        source: Source,
        position: Option<&crate::journal::Position>,
        joins: &mut Vec<Joining>,
    ) -> Result<Found, (Because, Option<Box<Left>>)> {
        let owner = match source {
            Source::Store(left) => return self.fetch_left(socket, left, joins).await,
            Source::Gateway(owner) => owner,
        };
        let because = match self.fetch_there(socket, &owner, joins).await {
            Ok(found) => return Ok(found),
            Err(because) => because,
        };
        if because != Because::Unknown {
            return Err((because, None));
        }
        // It is gone in this very moment.
        let pid = socket.pid().unwrap_or_default();
        let who = Who::of(socket.user());
        let left = self.claim_left(&owner, pid, position, socket.namespace(), &who);
        match left.await {
            Ok(Ok(left)) => self.fetch_left(socket, Box::new(left), joins).await,
            Ok(Err(_)) => Err((Because::Unknown, None)),
            Err(because) => Err((because, None)),
        }
    }

    /// From the gateway that had it.
    async fn fetch_there(
        &self,
        socket: &Arc<Socket>,
        owner: &str,
        joins: &mut [Joining],
    ) -> Result<Found, Because> {
        let mut rooms = Vec::with_capacity(joins.len());
        for join in joins {
            rooms.push(RoomPosition {
                seq: join.confirmed().await.map_err(|_| Because::Unavailable)?,
                room: join.room().name().to_string(),
            });
        }
        let fetch = FetchMissed {
            pid: socket.pid().unwrap_or_default().to_owned(),
            rooms,
            gateway: self.journal.gateway().to_string(),
        };
        let reply = self.ask(owner, Step::Fetch(fetch), FETCH).await?;
        let reply = MissedReply::decode(reply).map_err(|_| Because::Unavailable)?;
        if !reply.complete {
            return Err(if reply.later {
                Because::Unavailable
            } else {
                Because::TooLate
            });
        }
        let events = reply.events.into_iter();
        let missed = events.map(
            |MissedEvent {
                 partition,
                 seq,
                 publish,
             }| {
                let partition = u16::try_from(partition).unwrap_or_default();
                (Offset { partition, seq }, publish.unwrap_or_default())
            },
        );
        let reached = reply.reached.into_iter().map(|room| room.seq);
        Ok(Found {
            missed: missed.collect(),
            reached: reached.collect(),
            given: reply.given,
        })
    }

    /// From the log, for a gateway that is gone.
    async fn fetch_left(
        &self,
        socket: &Arc<Socket>,
        left: Box<Left>,
        joins: &mut Vec<Joining>,
    ) -> Result<Found, (Because, Option<Box<Left>>)> {
        // Read behind the joins: who tells servers' commands to gateways later finds the socket here.
        match departures::of(&*self.documents, &left.session).await {
            Ok(Departed::From(rooms)) => joins.retain(|join| !rooms.contains(join.room().name().as_str())),
            Ok(Departed::Ended) => return Err((Because::Forbidden, None)),
            Err(_) => return Err((Because::Unavailable, Some(left))),
        }
        match self.replay(socket, &left, joins).await {
            Ok(found) => Ok(found),
            Err(Because::TooLate) => Err((Because::TooLate, None)),
            Err(because) => Err((because, Some(left))),
        }
    }

    async fn replay(
        &self,
        socket: &Arc<Socket>,
        left: &Left,
        joins: &mut [Joining],
    ) -> Result<Found, Because> {
        let failed = |error: ReplayError| match error {
            ReplayError::Gone => Because::TooLate,
            ReplayError::Log(error) => {
                tracing::warn!(%error, "what a client missed cannot be read");
                Because::Unavailable
            }
        };
        let places = |has: bool| {
            let own = left.own().filter(move |(_, it_has)| *it_has == has);
            own.map(|(event, _)| Offset {
                partition: u16::try_from(event.partition).unwrap_or_default(),
                seq: event.seq,
            })
        };
        // What the client has, and what was found: an event may come both to the socket alone and to a room.
        let mut known: HashSet<Offset> = places(true).collect();
        let names: HashSet<String> = joins.iter().map(|join| join.room().name().to_string()).collect();
        let mut found: Vec<(Offset, Publish)> = Vec::new();
        for offset in places(false) {
            let entry = self.publisher.log().get(offset.partition, offset.seq).await;
            let entry = entry
                .map_err(|error| failed(error.into()))?
                .ok_or(Because::TooLate)?;
            let publish = Publish::decode(entry.payload).map_err(|_| Because::TooLate)?;
            if names.contains(&publish.room) {
                known.insert(offset);
                found.push((offset, publish));
            }
        }
        let mut reached = Vec::with_capacity(joins.len());
        for join in joins {
            let through = join.confirmed().await.map_err(|_| Because::Unavailable)?;
            let room = join.room();
            let kept = left
                .session
                .rooms
                .iter()
                .find(|kept| kept.name == room.name().as_str());
            // The rooms are those of the session.
            let kept = kept.ok_or(Because::Unknown)?;
            let partition = room.partition();
            let after = left.begin(kept, partition).ok_or(Because::TooLate)?;
            reached.push(after.max(through));
            let entries = self
                .replay
                .room(partition, room.token(), after, through)
                .await
                .map_err(failed)?;
            for entry in entries {
                let offset = Offset {
                    partition,
                    seq: entry.seq,
                };
                let publish = Publish::decode(entry.payload).map_err(|_| Because::TooLate)?;
                let is_of_room =
                    publish.room == room.name().as_str() && publish.namespace == room.namespace().as_str();
                let is_wanted = is_of_room && !is_excepted(publish.except.as_ref(), socket, &names);
                if is_wanted && known.insert(offset) {
                    found.push((offset, publish));
                }
            }
        }
        found.sort_by_key(|(offset, _)| *offset);
        let bytes: usize = found.iter().map(|(_, publish)| publish.encoded_len()).sum();
        if bytes > self.max_replay {
            return Err(Because::TooLate);
        }
        let given = left.session.given.iter();
        let given = given.filter(|given| given.number <= left.number);
        Ok(Found {
            missed: found,
            reached,
            given: given.map(|given| given.id.clone()).collect(),
        })
    }
}

fn is_excepted(except: Option<&Except>, socket: &Socket, rooms: &HashSet<String>) -> bool {
    except.is_some_and(|except| {
        except.sockets.iter().any(|id| id == socket.id())
            || except.users.iter().any(|user| user == socket.user().id.as_str())
            || except.rooms.iter().any(|room| rooms.contains(room))
    })
}
