//! Claims of clients that come back: on sessions of this gateway, of another one, or of one that is gone (DESIGN,
//! "Recovery").

use std::{
    collections::HashSet,
    sync::Arc,
    time::{Duration, Instant},
};

use bus::{SignalsError, subjects};
use model::{GatewayId, Namespace, RoomName, User, UserId};
use prost::Message;
use proto::v1::{ClaimReply, ClaimSession, SessionRequest, claim_reply::Outcome, session_request::Step};
use sio::engine::CloseReason;

use super::{Core, access::Quick};
use crate::{
    journal::{Journaled, Position, Returning},
    session::{
        Admission, Away, Because, Claim, Left, Moved, Refusal, Returns, Socket, Source, Taken, Who,
        is_recoverable, named_guest,
    },
};

/// Another gateway gets so long to answer a claim.
const CLAIM: Duration = Duration::from_secs(5);
/// A session may have moved on so often while its client kept an older position: one that only publishes gets no events,
/// and so has none but the first.
const MOVES: usize = 16;

impl Core {
    pub(super) fn disconnected(&self, socket: &Arc<Socket>, reason: CloseReason) {
        socket.ends();
        self.user_connections.leave(socket);
        if socket.ends_later(reason) {
            return;
        }
        self.expiries.forget(socket);
        let places = if socket.pid().is_some() && is_recoverable(reason) {
            self.rooms.go_away(socket)
        } else {
            self.rooms.leave_all(socket);
            Vec::new()
        };
        if let Some(pid) = socket.pid() {
            // Without a place its CONNECT was not answered.
            if places.is_empty() {
                self.end(pid);
            } else {
                if let Some(store) = &self.store {
                    store.away(pid, places.iter().map(|place| place.room.name()));
                }
                self.sessions.away(socket, places);
            }
        }
        self.presence.disconnected(socket);
        self.tell_disconnected(socket, reason);
    }

    /// Forgets what is too old.
    pub(crate) fn sweep(self: &Arc<Self>, now: Instant) {
        self.journal.sweep(now);
        for (pid, places) in self.sessions.expire(now) {
            self.rooms.give_up(places);
            self.end(&pid);
        }
        self.moved.sweep(now, self.sessions.window());
        self.rooms.sweep(now);
        self.replay.sweep();
        let away = i64::try_from(self.sessions.left_behind()).unwrap_or(i64::MAX);
        self.metrics.left_behind.set(away);
        if let Some(store) = &self.store {
            store.trails.sweep();
        }
    }

    /// The session is over.
    pub(super) fn end(&self, pid: &str) {
        self.sessions.end(pid);
        if let Some(store) = &self.store {
            store.end(pid);
        }
    }

    /// Ends the session of a socket that is away.
    pub(crate) fn end_away(&self, pid: &str) {
        if let Some(places) = self.sessions.end_away(pid) {
            self.rooms.give_up(places);
            self.end(pid);
        }
    }

    /// Ends a session that was taken from [`Sessions`](crate::session::Sessions).
    fn give_up(&self, pid: &str, away: Away) {
        self.rooms.give_up(away.places);
        self.end(pid);
    }

    /// Nobody is there any more to whom this could be given.
    pub(super) fn decline(&self, pid: &str, returns: Returns) {
        match returns {
            Returns::Here { away, .. } => self.sessions.put(pid, away),
            Returns::There(moved) => {
                self.sessions.end(pid);
                // A gateway takes it back by itself.
                if let Source::Store(left) = moved.source {
                    self.give_back(pid, *left);
                }
            }
        }
    }

    /// Puts back into the store what nothing came of.
    pub(super) fn give_back(&self, pid: &str, left: Left) {
        if let Some(store) = &self.store {
            store.give_back(&left.owner, pid, left.session);
        }
    }

    /// Whether a session of a gone gateway could not be recovered here, and will soon be in the store again.
    pub(super) fn is_going_back(&self, pid: &str) -> bool {
        self.store.as_ref().is_some_and(|store| store.is_going_back(pid))
    }

    /// The session of a client that comes back, if all it missed can be had. Nothing is recovered in part.
    ///
    /// # Errors
    /// [`Refusal::Unavailable`] when nobody can tell now: the session may be there in a moment.
    pub(super) async fn claim(
        &self,
        claim: Claim,
        namespace: &Namespace,
        user: &Arc<User>,
    ) -> Result<Option<Admission>, Refusal> {
        let Some(pid) = claim.pid else {
            return Ok(None);
        };
        let position = claim.offset.map(|offset| offset.parse::<Position>()).transpose();
        let result = match position {
            Ok(position) => self.find(&pid, position, namespace, user).await,
            Err(_) => Err(Because::Unknown),
        };
        match result {
            Ok((user, returns)) => {
                if matches!(returns, Returns::There(_)) {
                    self.sessions.coming(&pid);
                }
                Ok(Some(Admission {
                    user,
                    pid: Some(pid.into()),
                    returns: Some(returns),
                }))
            }
            Err(because) => {
                tracing::debug!(?because, namespace = %namespace, "a session is not recovered");
                self.metrics.recovered(Err(because));
                match because {
                    Because::Unavailable => Err(Refusal::Unavailable),
                    Because::Unknown | Because::TooLate | Because::Forbidden => Ok(None),
                }
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
                let rules = self.access.rules();
                let names = away.places.iter().map(|place| place.room.name());
                let rooms: Vec<_> = names
                    .map(|room| (room.clone(), rules.grants(&away.rights, namespace, room)))
                    .collect();
                match self.may_stay(&was, namespace, &rooms).await {
                    Ok(()) => Ok((was, Returns::Here { away, after })),
                    Err(Because::Unavailable) => {
                        self.sessions.put(pid, away);
                        Err(Because::Unavailable)
                    }
                    Err(because) => {
                        self.give_up(pid, away);
                        Err(because)
                    }
                }
            }
            Err(Because::Unknown) => {
                let owner = match &position {
                    Some(position) => position.gateway.clone(),
                    None => GatewayId::of_sid(pid)
                        .and_then(|gateway| GatewayId::new(gateway).ok())
                        .ok_or(Because::Unknown)?,
                };
                self.claim_there(owner.to_string(), pid, position, namespace, user)
                    .await
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
            .ok_or(Because::Unknown)?;
        let Some(after) = away.after(position, self.journal.gateway()) else {
            // A position of a gateway it was at before: what it stands for here nobody knows any more.
            self.give_up(pid, away);
            return Err(Because::TooLate);
        };
        let bytes = self
            .missed(&away, after)
            .map(|missed| missed.iter().map(Journaled::size).sum::<usize>());
        if bytes.is_none_or(|bytes| bytes > self.max_replay) {
            self.give_up(pid, away);
            return Err(Because::TooLate);
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
            if owner == self.journal.gateway().as_str() {
                if self.is_going_back(pid) {
                    return Err(Because::Unavailable);
                }
                owner = match self.moved.of(pid) {
                    Some(gateway) => gateway,
                    None => self.noted(&owner, pid).await?,
                };
                continue;
            }
            let claim = ClaimSession {
                pid: pid.to_owned(),
                namespace: namespace.to_string(),
                user_id: who.id.to_owned(),
                anonymous: who.anonymous,
                position: position.as_ref().map(ToString::to_string).unwrap_or_default(),
            };
            let answer = self.ask(&owner, Step::Claim(claim), CLAIM).await;
            let moved_to = match answer {
                Ok(answer) => match ClaimReply::decode(answer).map_err(|_| Because::Unknown)?.outcome {
                    Some(Outcome::Claimed(claimed)) => {
                        let granted: HashSet<String> = claimed.granted.into_iter().collect();
                        let rooms = claimed.rooms.iter();
                        let session = Session {
                            socket_id: claimed.socket_id,
                            user_id: claimed.user_id,
                            username: claimed.username,
                            connected_at_ms: claimed.connected_at_ms,
                            hears_since: claimed.hears_since,
                            rooms: rooms
                                .map(|room| (RoomName::stored(room), granted.contains(room)))
                                .collect(),
                        };
                        let source = Source::Gateway(owner);
                        return self
                            .admit_from(source, pid, position, session, namespace, user)
                            .await;
                    }
                    Some(Outcome::MovedTo(gateway)) => gateway,
                    Some(Outcome::TooLate(_)) => return Err(Because::TooLate),
                    Some(Outcome::Later(_)) => return Err(Because::Unavailable),
                    // It does not remember for ever where sessions went.
                    Some(Outcome::Unknown(_)) | None => self.noted(&owner, pid).await?,
                },
                Err(Because::Unavailable) => return Err(Because::Unavailable),
                Err(_) => match self
                    .claim_left(&owner, pid, position.as_ref(), namespace, &who)
                    .await?
                {
                    Ok(left) => {
                        let rooms = left.session.rooms.iter();
                        let session = Session {
                            rooms: rooms
                                .map(|room| (RoomName::stored(&room.name), room.granted))
                                .collect(),
                            socket_id: left.session.socket_id.clone(),
                            user_id: left.session.user_id.clone(),
                            username: left.session.username.clone(),
                            connected_at_ms: left.session.connected_at_ms,
                            hears_since: left.session.hears_since,
                        };
                        let source = Source::Store(Box::new(left));
                        return self
                            .admit_from(source, pid, position, session, namespace, user)
                            .await;
                    }
                    Err(moved_to) => moved_to,
                },
            };
            owner = moved_to;
        }
        Err(Because::Unknown)
    }

    /// The gateway to which a session went on from `owner`, as the store has it.
    async fn noted(&self, owner: &str, pid: &str) -> Result<String, Because> {
        let store = self.store.as_ref().ok_or(Because::Unknown)?;
        store.moved_to(owner, pid).await?.ok_or(Because::Unknown)
    }

    /// Takes a session that a gateway left in the store, or names the gateway that has taken it.
    pub(super) async fn claim_left(
        &self,
        owner: &str,
        pid: &str,
        position: Option<&Position>,
        namespace: &Namespace,
        who: &Who<'_>,
    ) -> Result<Result<Left, String>, Because> {
        let store = self.store.as_ref().ok_or(Because::Unknown)?;
        let trail = store.trails.of(owner).await?;
        let taken = store
            .take(owner, pid, |session| who.had(session, namespace))
            .await?;
        Ok(match taken {
            Taken::MovedTo(gateway) => Err(gateway),
            Taken::Session(session) => {
                let number = Left::number(&session, position, owner).ok_or(Because::TooLate)?;
                Ok(Left {
                    owner: owner.to_owned(),
                    session: *session,
                    number,
                    trail,
                })
            }
        })
    }

    async fn admit_from(
        &self,
        source: Source,
        pid: &str,
        position: Option<Position>,
        session: Session,
        namespace: &Namespace,
        user: &Arc<User>,
    ) -> Result<(Arc<User>, Returns), Because> {
        let was = if session.user_id == user.id.as_str() {
            Arc::clone(user)
        } else {
            let id = UserId::new(&session.user_id).map_err(|_| Because::Unknown)?;
            Arc::new(named_guest(id, &session.username))
        };
        let stays = self.may_stay(&was, namespace, &session.rooms).await;
        let moved = Moved {
            source,
            id: session.socket_id.into(),
            connected_at_ms: session.connected_at_ms,
            hears_since: session.hears_since,
            rooms: session.rooms.into_iter().map(|(room, _)| room).collect(),
            position,
        };
        match stays {
            Ok(()) => Ok((was, Returns::There(moved))),
            Err(Because::Unavailable) => {
                self.decline(pid, Returns::There(moved));
                Err(Because::Unavailable)
            }
            Err(because) => Err(because),
        }
    }

    /// Whether a user may be again in all of the rooms it was in, each with whether its rights had let it in.
    async fn may_stay(
        &self,
        user: &User,
        namespace: &Namespace,
        rooms: &[(RoomName, bool)],
    ) -> Result<(), Because> {
        let rules = self.access.rules();
        for (room, granted) in rooms {
            let stays = match rules.may_stay(user, namespace, room, *granted) {
                Quick::Allowed => true,
                Quick::Denied => false,
                Quick::Ask => self
                    .is_member(user, namespace, room)
                    .await
                    .map_err(|_| Because::Unavailable)?,
            };
            if !stays {
                return Err(Because::Forbidden);
            }
        }
        Ok(())
    }

    pub(super) async fn ask(
        &self,
        gateway: &str,
        step: Step,
        timeout: Duration,
    ) -> Result<bytes::Bytes, Because> {
        let request = SessionRequest { step: Some(step) };
        let subject = subjects::sessions_of(gateway);
        let answer = self
            .signals
            .request(&subject, request.encode_to_vec().into(), timeout)
            .await;
        answer.map_err(|error| match error {
            SignalsError::NoResponders(_) => Because::Unknown,
            // It stands still: as good as gone.
            SignalsError::Timeout(_) => {
                tracing::warn!(%error, gateway, "a session cannot be taken over");
                Because::Unknown
            }
            SignalsError::TooLarge(_) | SignalsError::Unavailable(_) => {
                tracing::debug!(%error, gateway, "a session cannot be taken over yet");
                Because::Unavailable
            }
        })
    }
}

/// A session of another gateway.
struct Session {
    socket_id: String,
    user_id: String,
    username: String,
    connected_at_ms: u64,
    hears_since: Option<u64>,
    /// Each with whether the user's rights had let it in.
    rooms: Vec<(RoomName, bool)>,
}
