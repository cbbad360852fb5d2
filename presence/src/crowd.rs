//! Rooms with many users are told counts, at most one a second, instead of every coming and going:
//! the work for a room of n users would grow with n² otherwise.

use std::{collections::HashMap, time::Duration};

use model::{Namespace, RoomName};
use registry::presence_store::RoomTransition;
use tokio::time::Instant;

/// A crowded room hears of its users at most once in this time.
pub(crate) const PAUSE: Duration = Duration::from_secs(1);

/// The crowded rooms that were told something within the last pause.
#[derive(Debug, Default)]
pub(crate) struct Crowds {
    rooms: HashMap<(Namespace, RoomName), Crowd>,
}

#[derive(Debug)]
struct Crowd {
    told: Instant,
    /// The newest transition since.
    waiting: Option<RoomTransition>,
}

impl Crowds {
    /// Whether the transition may be told now; else it is kept, in place of an older one of the room.
    pub(crate) fn admit(&mut self, transition: &RoomTransition, now: Instant) -> bool {
        let room = (transition.namespace.clone(), transition.room.clone());
        match self.rooms.get_mut(&room) {
            Some(crowd) => {
                crowd.waiting = Some(transition.clone());
                false
            }
            None => {
                self.rooms.insert(
                    room,
                    Crowd {
                        told: now,
                        waiting: None,
                    },
                );
                true
            }
        }
    }

    /// What has waited for its pause to end and is told now. Rooms without news are forgotten.
    pub(crate) fn due(&mut self, now: Instant) -> Vec<RoomTransition> {
        let mut due = Vec::new();
        self.rooms.retain(|_, crowd| {
            if now.duration_since(crowd.told) < PAUSE {
                return true;
            }
            crowd.told = now;
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
            change: RoomChange::Joined,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn one_word_a_pause_and_the_last_one_counts() {
        let mut crowds = Crowds::default();
        let start = Instant::now();
        assert!(crowds.admit(&joined(300), start));
        assert!(!crowds.admit(&joined(301), start));
        assert!(!crowds.admit(&joined(302), start));
        assert!(crowds.due(start).is_empty());
        let due = crowds.due(start + PAUSE);
        assert_eq!(due.iter().map(|told| told.users_count).collect::<Vec<_>>(), [302]);
        assert!(!crowds.admit(&joined(303), start + PAUSE));
        assert_eq!(crowds.due(start + 2 * PAUSE).len(), 1);
        assert!(crowds.due(start + 3 * PAUSE).is_empty());
        assert!(crowds.rooms.is_empty(), "a room without news is forgotten");
    }
}
