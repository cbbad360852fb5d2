//! Rooms with many users are told counts, at most one a second, instead of every coming and going:
//! the work for a room of n users would grow with n² otherwise.
//!
//! What has happened waits here, the newest alone. Whose turn it is to tell the room the store says, so that
//! several replicas together keep the pause.

use std::{collections::HashMap, time::Duration};

use model::{Namespace, RoomName};
use registry::presence_store::RoomTransition;
use tokio::time::Instant;

/// A crowded room hears of its users at most once in this time.
pub(crate) const PAUSE: Duration = Duration::from_secs(1);

/// The crowded rooms that are to be told something, or were by this replica within the last pause.
#[derive(Debug, Default)]
pub(crate) struct Crowds {
    rooms: HashMap<(Namespace, RoomName), Crowd>,
}

#[derive(Debug, Default)]
struct Crowd {
    told: Option<Instant>,
    /// The newest transition since.
    waiting: Option<RoomTransition>,
}

impl Crowds {
    /// Keeps a transition for its room, in place of an older one.
    pub(crate) fn put(&mut self, transition: RoomTransition) {
        let room = (transition.namespace.clone(), transition.room.clone());
        self.rooms.entry(room).or_default().waiting = Some(transition);
    }

    /// Keeps a transition whose room may not be told now, unless there is a newer one.
    pub(crate) fn put_back(&mut self, transition: RoomTransition) {
        let room = (transition.namespace.clone(), transition.room.clone());
        let crowd = self.rooms.entry(room).or_default();
        crowd.told = None;
        crowd.waiting.get_or_insert(transition);
    }

    /// What may be told now. Rooms without news are forgotten.
    pub(crate) fn due(&mut self, now: Instant) -> Vec<RoomTransition> {
        let mut due = Vec::new();
        self.rooms.retain(|_, crowd| {
            if crowd.told.is_some_and(|told| now.duration_since(told) < PAUSE) {
                return true;
            }
            crowd.told = Some(now);
            let waiting = crowd.waiting.take();
            let news = waiting.is_some();
            due.extend(waiting);
            news
        });
        due
    }
}

#[cfg(test)]
mod tests {
    use model::UserId;
    use registry::presence_store::RoomChange;

    use super::*;

    fn joined(users_count: u32) -> RoomTransition {
        RoomTransition {
            namespace: Namespace::new("/chat").unwrap(),
            room: RoomName::new("stadium").unwrap(),
            user: UserId::new("ada").unwrap(),
            username: "Ada".into(),
            users_count,
            change: RoomChange::Joined { online_ms: 0 },
        }
    }

    #[tokio::test(start_paused = true)]
    async fn one_word_a_pause_and_the_last_one_counts() {
        let mut crowds = Crowds::default();
        let start = Instant::now();
        let counts = |due: Vec<RoomTransition>| due.iter().map(|told| told.users_count).collect::<Vec<_>>();
        crowds.put(joined(300));
        crowds.put(joined(301));
        assert_eq!(counts(crowds.due(start)), [301]);
        crowds.put(joined(302));
        assert_eq!(counts(crowds.due(start)), [0; 0]);
        let due = crowds.due(start + PAUSE);
        // Another replica has told it: it waits, and something newer replaces it.
        crowds.put_back(due[0].clone());
        assert_eq!(counts(crowds.due(start + PAUSE)), [302]);
        crowds.put(joined(303));
        crowds.put_back(due[0].clone());
        assert_eq!(counts(crowds.due(start + PAUSE)), [303]);
        assert_eq!(counts(crowds.due(start + 2 * PAUSE)), [0; 0]);
        assert!(crowds.rooms.is_empty(), "a room without news is forgotten");
    }
}
