//! What a gateway leaves for those who take its sessions over when it is gone: while it runs, marks of how far its
//! clients have got; after a drain, all it knows of the sessions that nobody took over yet.

use std::{collections::HashMap, sync::Arc, time::Instant};

use model::RoomName;
use proto::v1::{GivenEvent, KeptSession, OwnEvent};

use crate::{
    deliver::Deliverer,
    journal::Journal,
    rooms::Rooms,
    session::{SessionStore, Sessions},
    trail::{self, Marks},
};

pub(crate) struct Remains {
    pub(crate) store: Arc<SessionStore>,
    pub(crate) journal: Arc<Journal>,
    pub(crate) rooms: Arc<Rooms>,
    pub(crate) deliverer: Arc<Deliverer>,
    pub(crate) sessions: Arc<Sessions>,
    pub(crate) partitions: u16,
}

/// What is known of a room that a socket is away from.
struct Known {
    since: u64,
    floor: u64,
}

impl Remains {
    /// Leaves marks, for ever; `base`: how far each partition was before the first client came.
    pub(crate) async fn keep_marks(&self, base: Vec<u64>) {
        let mut marks = Marks::new(base);
        // So that a gateway has a trail before its first client goes.
        let mut news = true;
        loop {
            if news && let Err(error) = self.store.trails.keep(&marks.trail(), false).await {
                tracing::debug!(%error, "the store does not take how far clients have got");
                tokio::time::sleep(trail::INTERVAL).await;
                continue;
            }
            tokio::time::sleep(trail::INTERVAL).await;
            let through: Vec<_> = (0..self.partitions)
                .map(|partition| {
                    let through = self.deliverer.through(partition);
                    // In this order: whoever was held when it was sent has got it by now.
                    (!self.rooms.holds(partition)).then_some(through)
                })
                .collect();
            let number = self.journal.lane().number();
            news = marks.add(Instant::now(), number, &through);
        }
    }

    /// Leaves every session whose socket is away, and a trail with every event of the journal. Returns how many sessions
    /// were left, and how many of them could not be written whole.
    pub(crate) async fn leave(&self) -> (usize, usize) {
        let end: Vec<u64> = (0..self.partitions)
            .map(|partition| self.deliverer.through(partition))
            .collect();
        let mut sessions: HashMap<String, HashMap<RoomName, Known>> = HashMap::new();
        let mut pids = Vec::new();
        let mut given: HashMap<String, Vec<GivenEvent>> = HashMap::new();
        let (trail, own) = {
            let lane = self.journal.lane();
            self.sessions.each_left_behind(|pid, away| {
                let rooms = away.places.iter().map(|place| {
                    let known = Known {
                        since: place.since,
                        floor: lane.floor(place.room.token()),
                    };
                    (place.room.name().clone(), known)
                });
                sessions.insert(away.id().to_owned(), rooms.collect());
                let of_several_rooms = lane.copies.all_given(away.id()).map(|(id, number)| GivenEvent {
                    id: id.to_owned(),
                    number,
                });
                given.insert(away.id().to_owned(), of_several_rooms.collect());
                pids.push(Box::<str>::from(pid));
            });
            let own: HashMap<String, Vec<OwnEvent>> = lane
                .own_steps()
                .into_iter()
                .filter(|(socket, _)| sessions.contains_key(*socket))
                .map(|(socket, steps)| {
                    let events = steps.into_iter().map(|(number, offset)| OwnEvent {
                        number,
                        partition: offset.partition.into(),
                        seq: offset.seq,
                    });
                    (socket.to_owned(), events.collect())
                })
                .collect();
            (trail::exact(end, &lane.steps()), own)
        };
        if let Err(error) = self.store.trails.keep(&trail, true).await {
            tracing::warn!(%error, "clients that come back may get again what they have");
            return (pids.len(), pids.len());
        }
        let complete = |session: &mut KeptSession| {
            let Some(rooms) = sessions.get(&session.socket_id) else {
                return;
            };
            for room in &mut session.rooms {
                if let Some(known) = rooms.get(&RoomName::stored(&room.name)) {
                    (room.since, room.floor) = (known.since, known.floor);
                }
            }
            session.given = given.get(&session.socket_id).cloned().unwrap_or_default();
            session.own = own.get(&session.socket_id).cloned().unwrap_or_default();
        };
        let failed = self.store.leave(pids.iter().map(|pid| &**pid), complete).await;
        (pids.len(), failed)
    }
}
