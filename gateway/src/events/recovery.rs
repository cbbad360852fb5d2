//! Clients that come back: to this gateway, or from another one (DESIGN, "Recovery").

use std::{sync::Arc, time::Duration};

use bus::{SignalsError, subjects};
use model::{GatewayId, Namespace, RoomName, RoomToken, User, UserId};
use prost::Message;
use proto::v1::{
    ClaimReply, ClaimSession, Claimed, FetchMissed, MissedEvent, MissedReply, RoomPosition, SessionRequest,
    claim_reply::Outcome, session_request::Step,
};
use sio::{engine::CloseReason, packet::Encoded};

use super::Core;
use crate::{
    journal::{Journaled, Position, Receivers, Returning},
    presence_feed::is_told,
    rooms::Joining,
    session::{Admission, Arrived, Away, Claim, Moved, Returns, Socket, Who, is_recoverable, named_guest},
};

/// Another gateway gets so long to answer a claim.
const CLAIM: Duration = Duration::from_secs(2);
/// And so long to have everything that a client missed.
const FETCH: Duration = Duration::from_secs(5);
/// A session may have moved on so often while its client kept an older position.
const MOVES: usize = 4;

/// Why nothing is recovered, as a metric label.
type Because = &'static str;

impl Core {
    pub(super) fn disconnected(&self, socket: &Arc<Socket>, reason: CloseReason) {
        let places = if socket.pid().is_some() && is_recoverable(reason) {
            self.rooms.go_away(socket)
        } else {
            self.rooms.leave_all(socket);
            Vec::new()
        };
        // Without a place its CONNECT was not answered.
        if places.is_empty() {
            self.sessions.end(socket);
        } else {
            self.sessions.away(socket, places);
        }
        self.presence.disconnected(socket);
    }

    /// The session of a client that comes back, if all it missed can be had. Nothing is recovered in part.
    pub(super) async fn claim(
        &self,
        claim: Claim,
        namespace: &Namespace,
        user: &Arc<User>,
    ) -> Option<Admission> {
        let pid = claim.pid?;
        let position = claim.offset.map(|offset| offset.parse::<Position>()).transpose();
        let result = match position {
            Ok(position) => self.find(&pid, position, namespace, user).await,
            Err(_) => Err("unknown"),
        };
        match result {
            Ok((user, returns)) => Some(Admission {
                user,
                pid: Some(pid.into()),
                returns: Some(returns),
            }),
            Err(because) => {
                self.metrics.recovered(because);
                None
            }
        }
    }

    async fn find(
        &self,
        pid: &str,
        position: Option<Position>,
        namespace: &Namespace,
        user: &Arc<User>,
    ) -> Result<(Arc<User>, Returns), Because> {
        let own = self.journal.gateway();
        let here = self
            .claim_here(pid, position.as_ref(), namespace, &Who::of(user))
            .await;
        match here {
            Ok((away, after)) => {
                // A guest without a token is a new one at the door; it goes on as who it was.
                let was = Arc::clone(if user.id == away.user().id {
                    user
                } else {
                    away.user()
                });
                if away
                    .places
                    .iter()
                    .all(|place| self.access.may_stay(&was, place.room.name()))
                {
                    return Ok((was, Returns::Here { away, after }));
                }
                self.rooms.give_up(away.places);
                Err("forbidden")
            }
            Err("unknown") => {
                let owner = match &position {
                    Some(position) => position.gateway.clone(),
                    None => GatewayId::of_sid(pid)
                        .and_then(|gateway| GatewayId::new(gateway).ok())
                        .ok_or("unknown")?,
                };
                let owner = if owner == *own {
                    self.moved.of(pid).ok_or("unknown")?
                } else {
                    owner.to_string()
                };
                self.claim_there(owner, pid, position, namespace, user).await
            }
            Err(because) => Err(because),
        }
    }

    /// Takes a session of this gateway, whoever asks for it.
    pub(super) async fn claim_here(
        &self,
        pid: &str,
        position: Option<&Position>,
        namespace: &Namespace,
        who: &Who<'_>,
    ) -> Result<(Away, u64), Because> {
        let part = |socket: &Arc<Socket>| {
            let reason = CloseReason::ForcedServerClose;
            self.metrics.socket_disconnected(socket.namespace(), reason);
            self.disconnected(socket, reason);
        };
        let away = self
            .sessions
            .claim(pid, namespace, who, part)
            .await
            .ok_or("unknown")?;
        let Some(after) = away.after(position, self.journal.gateway()) else {
            // A position of a gateway it was at before: what it stands for here nobody knows any more.
            self.rooms.give_up(away.places);
            return Err("too late");
        };
        let bytes = self
            .missed(&away, after)
            .map(|missed| missed.iter().map(Journaled::size).sum::<usize>());
        if bytes.is_none_or(|bytes| bytes > self.max_replay) {
            self.rooms.give_up(away.places);
            return Err("too late");
        }
        Ok((away, after))
    }

    pub(super) fn missed(&self, away: &Away, after: u64) -> Option<Vec<Journaled>> {
        let returning = Returning {
            socket: away.id(),
            user: away.user().id.as_str(),
            rooms: &away.places(),
        };
        self.journal.lane().missed(after, &returning)
    }

    async fn claim_there(
        &self,
        mut owner: String,
        pid: &str,
        position: Option<Position>,
        namespace: &Namespace,
        user: &Arc<User>,
    ) -> Result<(Arc<User>, Returns), Because> {
        let who = Who::of(user);
        for _ in 0..MOVES {
            let claim = ClaimSession {
                pid: pid.to_owned(),
                namespace: namespace.to_string(),
                user_id: who.id.to_owned(),
                anonymous: who.anonymous,
                position: position.as_ref().map(ToString::to_string).unwrap_or_default(),
            };
            let answer = self.ask(&owner, Step::Claim(claim), CLAIM).await;
            let reply = answer.and_then(|bytes| ClaimReply::decode(bytes).map_err(|_| "unknown"))?;
            match reply.outcome {
                Some(Outcome::Claimed(claimed)) => {
                    return self.admit_from(owner, position, claimed, user);
                }
                Some(Outcome::MovedTo(gateway)) if gateway != self.journal.gateway().as_str() => {
                    owner = gateway
                }
                Some(Outcome::TooLate(_)) => return Err("too late"),
                Some(Outcome::MovedTo(_) | Outcome::Unknown(_)) | None => return Err("unknown"),
            }
        }
        Err("unknown")
    }

    fn admit_from(
        &self,
        owner: String,
        position: Option<Position>,
        claimed: Claimed,
        user: &Arc<User>,
    ) -> Result<(Arc<User>, Returns), Because> {
        let was = if claimed.user_id == user.id.as_str() {
            Arc::clone(user)
        } else {
            let id = UserId::new(&claimed.user_id).map_err(|_| "unknown")?;
            Arc::new(named_guest(id, &claimed.username))
        };
        let rooms: Vec<RoomName> = claimed.rooms.iter().map(|room| RoomName::stored(room)).collect();
        if !rooms.iter().all(|room| self.access.may_stay(&was, room)) {
            return Err("forbidden");
        }
        let moved = Moved {
            owner,
            id: claimed.socket_id.into(),
            connected_at_ms: claimed.connected_at_ms,
            rooms,
            position,
        };
        Ok((was, Returns::There(moved)))
    }

    async fn ask(&self, gateway: &str, step: Step, timeout: Duration) -> Result<bytes::Bytes, Because> {
        let request = SessionRequest { step: Some(step) };
        let subject = subjects::sessions_of(gateway);
        let answer = self
            .signals
            .request(&subject, request.encode_to_vec().into(), timeout)
            .await;
        answer.map_err(|error| match error {
            SignalsError::NoResponders(_) => "unknown",
            SignalsError::Timeout(_) | SignalsError::Unavailable(_) => {
                tracing::warn!(%error, gateway, "a session cannot be taken over");
                "unavailable"
            }
        })
    }

    pub(super) async fn returned(&self, socket: &Arc<Socket>, returns: Returns, answer: Encoded) {
        let done = match returns {
            Returns::Here { away, after } => self.returned_here(socket, away, after, &answer),
            Returns::There(moved) => self.returned_from(socket, moved, &answer).await,
        };
        if let Err(because) = done {
            // It cannot be answered as a fresh one any more; it connects anew.
            self.metrics.recovered(because);
            socket.conn().close(CloseReason::TransportError);
            return;
        }
        self.metrics.recovered("recovered");
        self.sessions.here(socket);
        self.presence.connected(socket);
        let rooms: Vec<RoomName> = {
            let rooms = socket.rooms.lock();
            let names = rooms.iter().map(|(room, _)| room.name());
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
            return Err("too late");
        };
        for event in missed {
            socket.conn().send(&lane.encode(&event));
        }
        socket.conn().send(answer);
        self.rooms.come_back(&mut lane, socket, away.places);
        Ok(())
    }

    /// Gets into the rooms first, which hold what comes; the other gateway then knows how far its part goes.
    async fn returned_from(
        &self,
        socket: &Arc<Socket>,
        moved: Moved,
        answer: &Encoded,
    ) -> Result<(), Because> {
        let mut joins: Vec<Joining> = moved
            .rooms
            .into_iter()
            .map(|room| self.rooms.join(socket, room))
            .collect();
        let mut rooms = Vec::with_capacity(joins.len());
        for join in &mut joins {
            rooms.push(RoomPosition {
                seq: join.confirmed().await.map_err(|_| "unavailable")?,
                room: join.room().name().to_string(),
            });
        }
        let fetch = FetchMissed {
            pid: socket.pid().unwrap_or_default().to_owned(),
            rooms,
            gateway: self.journal.gateway().to_string(),
        };
        let reply = self.ask(&moved.owner, Step::Fetch(fetch), FETCH).await?;
        let reply = MissedReply::decode(reply).map_err(|_| "unavailable")?;
        if !reply.complete {
            return Err("too late");
        }
        {
            let mut lane = self.journal.lane();
            let arrived = Arrived {
                position: moved.position,
                number: lane.number(),
            };
            // A socket comes over once in its life.
            let _ = socket.arrived.set(Arc::new(arrived));
            for MissedEvent {
                partition,
                seq,
                publish,
            } in reply.events
            {
                let publish = Arc::new(publish.unwrap_or_default());
                let offset = model::Offset {
                    partition: u16::try_from(partition).unwrap_or_default(),
                    seq,
                };
                lane.next(offset, publish.time_ms);
                let token = RoomToken::new(socket.namespace(), &RoomName::stored(&publish.room));
                let event = lane.sent(token, publish, Receivers::Socket(socket.id().into()));
                socket.conn().send(&lane.encode(&event));
            }
            socket.conn().send(answer);
        }
        for join in joins {
            join.release(|_| Vec::new());
        }
        Ok(())
    }
}
