//! Sessions of this gateway that clients take along to another one.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use bus::{Signal, Subscription};
use bytes::Bytes;
use lifecycle::Tasks;
use model::{Namespace, Offset, RoomName, RoomToken};
use parking_lot::Mutex;
use prost::Message;
use proto::v1::{
    ClaimReply, ClaimSession, Claimed, FetchMissed, MissedEvent, MissedReply, SessionRequest,
    claim_reply::Outcome, session_request::Step,
};

use super::Core;
use crate::{
    journal::Position,
    session::{Away, Because, Who},
};

/// Who claims a session comes back within this time for what its client missed.
const CLAIMED: Duration = Duration::from_secs(10);
/// What the other gateway gets by itself must have come here within this time.
const PATIENCE: Duration = Duration::from_secs(3);

/// Where sessions that were here have gone, by `pid`.
#[derive(Default)]
pub(crate) struct MovedSessions(Mutex<HashMap<Box<str>, (String, Instant)>>);

impl MovedSessions {
    /// The gateway that took it over.
    pub(crate) fn of(&self, pid: &str) -> Option<String> {
        self.0.lock().get(pid).map(|(gateway, _)| gateway.clone())
    }

    fn note(&self, pid: &str, gateway: String) {
        self.0.lock().insert(pid.into(), (gateway, Instant::now()));
    }

    /// Forgets those that moved more than `window` ago.
    pub(crate) fn sweep(&self, now: Instant, window: Duration) {
        self.0
            .lock()
            .retain(|_, (_, at)| now.duration_since(*at) < window);
    }
}

/// Hands sessions over to gateways that ask for them.
pub(crate) struct Handover {
    core: Arc<Core>,
    tasks: Tasks,
    claimed: Mutex<HashMap<Box<str>, (Away, u64, Instant)>>,
}

impl Handover {
    pub(crate) fn new(core: Arc<Core>, tasks: Tasks) -> Arc<Self> {
        Arc::new(Self {
            core,
            tasks,
            claimed: Mutex::default(),
        })
    }

    /// Answers until the subscription ends.
    pub(crate) async fn answer(self: Arc<Self>, mut requests: Box<dyn Subscription>) {
        loop {
            // Nobody may ask for long.
            let request = tokio::time::timeout(CLAIMED, requests.next()).await;
            self.give_up(Instant::now());
            let request = match request {
                Ok(Some(request)) => request,
                Ok(None) => return,
                Err(_) => continue,
            };
            let this = Arc::clone(&self);
            self.tasks
                .spawn("session hand-over", async move { this.take(request).await });
        }
    }

    /// Claims that nobody came back for: the sessions can be claimed again.
    fn give_up(&self, now: Instant) {
        let mut claimed = self.claimed.lock();
        let over: Vec<_> = claimed
            .iter()
            .filter(|(_, (_, _, at))| now.duration_since(*at) > CLAIMED)
            .map(|(pid, _)| pid.clone())
            .collect();
        for pid in over {
            if let Some((away, ..)) = claimed.remove(&pid) {
                self.core.sessions.put(&pid, away);
            }
        }
    }

    async fn take(&self, request: Signal) {
        let answer: Bytes = match SessionRequest::decode(request.payload).map(|request| request.step) {
            Ok(Some(Step::Claim(claim))) => self.claim(claim).await.encode_to_vec().into(),
            Ok(Some(Step::Fetch(fetch))) => self.fetch(fetch).await.encode_to_vec().into(),
            Ok(None) => return,
            Err(error) => {
                tracing::warn!(%error, "another gateway's claim cannot be read");
                return;
            }
        };
        if let Some(reply) = request.reply
            && let Err(error) = self.core.signals.publish(&reply, answer)
        {
            tracing::warn!(%error, "a session could not be handed over");
        }
    }

    async fn claim(&self, claim: ClaimSession) -> ClaimReply {
        let outcome = |outcome| ClaimReply {
            outcome: Some(outcome),
        };
        let position = Some(claim.position).filter(|text| !text.is_empty());
        let position = position.map(|text| text.parse::<Position>()).transpose();
        let (Ok(position), Ok(namespace)) = (position, Namespace::new(&claim.namespace)) else {
            return outcome(Outcome::Unknown(true));
        };
        let who = Who {
            id: &claim.user_id,
            anonymous: claim.anonymous,
        };
        // The client is at yet another gateway by now: nobody comes back for the first claim.
        if let Some((away, ..)) = self.claimed.lock().remove(claim.pid.as_str()) {
            self.core.sessions.put(&claim.pid, away);
        }
        match self
            .core
            .claim_here(&claim.pid, position.as_ref(), &namespace, &who)
            .await
        {
            Ok((away, after)) => {
                let rules = self.core.access.rules();
                let names = away.places.iter().map(|place| place.room.name());
                let granted = names.filter(|room| rules.grants(&away.rights, &namespace, room));
                let claimed = Claimed {
                    granted: granted.map(ToString::to_string).collect(),
                    socket_id: away.id().to_owned(),
                    user_id: away.user().id.to_string(),
                    username: away.user().username.to_string(),
                    connected_at_ms: away.connected_at_ms(),
                    hears_since: away.hears_since,
                    rooms: away
                        .places
                        .iter()
                        .map(|place| place.room.name().to_string())
                        .collect(),
                };
                self.claimed
                    .lock()
                    .insert(claim.pid.into(), (away, after, Instant::now()));
                outcome(Outcome::Claimed(claimed))
            }
            Err(Because::TooLate) => outcome(Outcome::TooLate(true)),
            Err(_) if self.core.is_going_back(&claim.pid) => outcome(Outcome::Later(true)),
            // It may have been here more than once.
            Err(_) => outcome(match self.core.moved.of(&claim.pid) {
                Some(gateway) => Outcome::MovedTo(gateway),
                None => Outcome::Unknown(true),
            }),
        }
    }

    async fn fetch(&self, fetch: FetchMissed) -> MissedReply {
        let claimed = self.claimed.lock().remove(fetch.pid.as_str());
        let Some((away, after, _)) = claimed else {
            return MissedReply::default();
        };
        let token = |room: &str| RoomToken::new(away.namespace(), &RoomName::stored(room));
        let places: Vec<Offset> = fetch
            .rooms
            .iter()
            .map(|room| Offset {
                partition: self.core.rooms.partition(token(&room.room)),
                seq: room.seq,
            })
            .collect();
        // What the other gateway gets by itself begins there.
        let is_here = self.core.deliverer.reached(&places, PATIENCE).await;
        if !is_here {
            self.core.sessions.put(&fetch.pid, away);
            return MissedReply {
                later: true,
                ..MissedReply::default()
            };
        }
        // This gateway may be further, and the client with it. Looked up before what it missed.
        let mut reached = fetch.rooms;
        for (position, place) in reached.iter_mut().zip(&places) {
            let token = token(&position.room);
            let room = away.places.iter().find(|place| place.room.token() == token);
            let here = room.map_or(0, |place| place.room.position());
            let through = self.core.deliverer.through(place.partition);
            position.seq = position.seq.max(through).max(here);
        }
        let bounds: HashMap<RoomToken, u64> =
            reached.iter().map(|room| (token(&room.room), room.seq)).collect();
        let reply = match self.core.missed(&away, after) {
            Some(missed) => MissedReply {
                complete: true,
                events: missed
                    .into_iter()
                    .filter(|event| {
                        let room = bounds.get(&token(&event.publish.room));
                        room.is_some_and(|bound| event.offset.seq <= *bound)
                    })
                    .map(|event| MissedEvent {
                        partition: event.offset.partition.into(),
                        seq: event.offset.seq,
                        publish: Some(Arc::unwrap_or_clone(event.publish)),
                    })
                    .collect(),
                reached,
                later: false,
                given: self.core.journal.lane().given(away.id(), after),
            },
            None => MissedReply::default(),
        };
        self.core.rooms.give_up(away.places);
        if reply.complete {
            if let Some(store) = &self.core.store {
                store.moved(&fetch.pid, &fetch.gateway);
            }
            self.core.moved.note(&fetch.pid, fetch.gateway);
        } else {
            self.core.end(&fetch.pid);
        }
        reply
    }
}
