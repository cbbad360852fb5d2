//! Whether every member had every event, once, and in the order of the others.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use crate::wire::Marker;

/// The last number of a publisher that a member has not heard yet.
const UNHEARD: u32 = u32::MAX;

/// What is wrong with a run; all zero is what a run must be.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Faults {
    /// Events that a member should have had and had not, summed over members.
    pub lost: u64,
    /// Events that a member had again.
    pub doubled: u64,
    /// Events of one publisher that a member had after a later one of the same.
    pub reordered: u64,
    /// Members that had all events in another order than others of their room.
    pub order_differs: u64,
    /// Events that came to a member of another room.
    pub stray: u64,
    /// Refusals, error answers, answers nobody waited for, connections that ended.
    pub errors: u64,
}

impl Faults {
    /// Adds another's.
    pub fn add(&mut self, other: Self) {
        self.lost += other.lost;
        self.doubled += other.doubled;
        self.reordered += other.reordered;
        self.order_differs += other.order_differs;
        self.stray += other.stray;
        self.errors += other.errors;
    }

    /// Whether a figure measured with these counts. A target that promises no order to a room is not held to it.
    #[must_use]
    pub fn none(&self, one_order: bool) -> bool {
        let Self {
            lost,
            doubled,
            reordered,
            order_differs,
            stray,
            errors,
        } = *self;
        lost + doubled + stray + errors == 0 && (!one_order || reordered + order_differs == 0)
    }
}

/// What a room has had, in one process. Rooms whose members are spread over processes are compared by this.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RoomSeen {
    /// Events published and acknowledged in this process.
    pub published: u64,
    /// Members that were there all the time.
    pub members: u64,
    /// Distinct events, summed over these members.
    pub seen: u64,
    /// Over (publisher, number) in the order of arrival, as most of these members have it.
    pub order: Option<u64>,
    /// Members with another order.
    pub differ: u64,
}

/// The members of rooms of one size, and what they have heard.
pub(crate) struct Ledger {
    first_publisher: u32,
    /// Publishers a room.
    publishers: u32,
    rooms: Vec<RoomSeen>,
    members: Vec<Heard>,
    /// The last number by member and publisher.
    last: Vec<u32>,
    /// Numbers that were skipped and may still come.
    missing: HashMap<(u32, u32), Vec<u32>>,
    faults: Faults,
}

#[derive(Clone)]
struct Heard {
    room: u32,
    seen: u64,
    order: u64,
    /// Was there all the time.
    whole: bool,
}

impl Ledger {
    /// Publishers are numbered from `first_publisher`, room after room, `publishers` a room. `rooms_of_members`
    /// has the room of each member.
    pub(crate) fn new(
        first_publisher: u32,
        publishers: u32,
        rooms: usize,
        rooms_of_members: impl Iterator<Item = u32>,
    ) -> Self {
        let members: Vec<_> = rooms_of_members
            .map(|room| Heard {
                room,
                seen: 0,
                order: 0,
                whole: true,
            })
            .collect();
        Self {
            first_publisher,
            publishers,
            rooms: vec![RoomSeen::default(); rooms],
            last: vec![0; members.len() * publishers as usize],
            members,
            missing: HashMap::new(),
            faults: Faults::default(),
        }
    }

    /// An event was acknowledged.
    pub(crate) fn published(&mut self, room: u32) {
        self.rooms[room as usize].published += 1;
    }

    /// A member lost its place for a while: whatever it missed is no fault.
    pub(crate) fn was_away(&mut self, member: u32) {
        self.members[member as usize].whole = false;
        let from = member as usize * self.publishers as usize;
        self.last[from..from + self.publishers as usize].fill(UNHEARD);
        self.missing.retain(|(of, _), _| *of != member);
    }

    /// A member leaves its room, to come back as somebody else: what it skipped will not come.
    pub(crate) fn leaves(&mut self, member: u32) {
        let skipped = self.missing.iter().filter(|((of, _), _)| *of == member);
        self.faults.lost += skipped.map(|(_, missing)| missing.len() as u64).sum::<u64>();
        self.was_away(member);
    }

    /// A member got an event.
    #[inline]
    pub(crate) fn heard(&mut self, member: u32, marker: Marker) {
        let heard = &mut self.members[member as usize];
        let slot = marker
            .publisher
            .wrapping_sub(self.first_publisher)
            .wrapping_sub(heard.room.wrapping_mul(self.publishers));
        if slot >= self.publishers {
            self.faults.stray += 1;
            return;
        }
        let last = &mut self.last[member as usize * self.publishers as usize + slot as usize];
        if marker.number == last.wrapping_add(1) || *last == UNHEARD {
            *last = marker.number;
        } else if marker.number > *last {
            let missing = self.missing.entry((member, slot)).or_default();
            missing.extend(*last + 1..marker.number);
            *last = marker.number;
        } else {
            let missing = self.missing.get_mut(&(member, slot));
            let place = missing
                .as_ref()
                .and_then(|missing| missing.iter().position(|number| *number == marker.number));
            match (missing, place) {
                (Some(missing), Some(place)) => {
                    missing.swap_remove(place);
                    self.faults.reordered += 1;
                }
                _ => {
                    self.faults.doubled += 1;
                    return;
                }
            }
        }
        heard.seen += 1;
        // FxHash's step: cheap, and sensitive to order.
        let event = u64::from(marker.publisher) << 32 | u64::from(marker.number);
        heard.order = (heard.order.rotate_left(5) ^ event).wrapping_mul(0x517c_c1b7_2722_0a95);
    }

    /// Whether every member has all that was acknowledged in its room.
    pub(crate) fn is_complete(&self) -> bool {
        self.members
            .iter()
            .all(|heard| !heard.whole || heard.seen >= self.rooms[heard.room as usize].published)
    }

    /// The rooms as they were heard, and what was wrong within single members. What was lost at the end shows
    /// only in [`judge`].
    pub(crate) fn close(mut self) -> (Vec<RoomSeen>, Faults) {
        let mut votes: Vec<HashMap<u64, u64>> = vec![HashMap::new(); self.rooms.len()];
        for heard in self.members.iter().filter(|heard| heard.whole) {
            let room = &mut self.rooms[heard.room as usize];
            room.members += 1;
            room.seen += heard.seen;
            *votes[heard.room as usize].entry(heard.order).or_default() += 1;
        }
        // Of members that came later only the gaps since then are known.
        let whole = &self.members;
        for ((member, _), missing) in &self.missing {
            if !whole[*member as usize].whole {
                self.faults.lost += missing.len() as u64;
            }
        }
        for (room, votes) in self.rooms.iter_mut().zip(votes) {
            let most = votes.iter().max_by_key(|(order, votes)| (**votes, **order));
            room.order = most.map(|(order, _)| *order);
            room.differ = room.members - most.map_or(0, |(_, votes)| *votes);
        }
        (self.rooms, self.faults)
    }
}

/// Judges rooms; each comes as the processes saw it.
pub(crate) fn judge<'a>(rooms: impl Iterator<Item = Vec<&'a RoomSeen>>) -> Faults {
    let mut faults = Faults::default();
    for parts in rooms {
        let published: u64 = parts.iter().map(|part| part.published).sum();
        let members: u64 = parts.iter().map(|part| part.members).sum();
        let seen: u64 = parts.iter().map(|part| part.seen).sum();
        let mut orders: HashMap<u64, u64> = HashMap::new();
        for part in &parts {
            if let Some(order) = part.order {
                *orders.entry(order).or_default() += part.members - part.differ;
            }
        }
        let lost = (published * members).saturating_sub(seen);
        faults.lost += lost;
        // Who lost something has another order for that reason.
        if lost == 0 {
            faults.order_differs += members - orders.values().max().copied().unwrap_or(members);
        }
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One room, two publishers, two members, that hear these (publisher, number).
    fn run(published: u64, members: [&[(u32, u32)]; 2]) -> Faults {
        let mut ledger = Ledger::new(100, 2, 1, [0, 0].into_iter());
        for _ in 0..published {
            ledger.published(0);
        }
        for (member, events) in (0..).zip(members) {
            for (publisher, number) in events {
                ledger.heard(
                    member,
                    Marker {
                        publisher: *publisher,
                        number: *number,
                        intended: 0,
                    },
                );
            }
        }
        let (rooms, mut faults) = ledger.close();
        faults.add(judge(rooms.iter().map(|room| vec![room])));
        faults
    }

    const GOOD: &[(u32, u32)] = &[(100, 1), (101, 1), (100, 2)];

    #[test]
    fn a_good_run_has_no_faults() {
        assert_eq!(run(3, [GOOD, GOOD]), Faults::default());
        assert!(run(3, [GOOD, GOOD]).none(true));
    }

    #[test]
    fn losses_doubles_and_strays_are_counted() {
        for lossy in [&GOOD[..2], &GOOD[1..], &[(100, 1), (100, 2)]] {
            let faults = run(3, [GOOD, lossy]);
            assert_eq!(faults.lost, 1, "{lossy:?}");
            assert!(!faults.none(false));
        }
        let faults = run(3, [GOOD, &[(100, 1), (101, 1), (101, 1), (100, 2)]]);
        assert_eq!((faults.lost, faults.doubled), (0, 1));
        let faults = run(3, [GOOD, &[(100, 1), (101, 1), (100, 2), (102, 1)]]);
        assert_eq!((faults.lost, faults.stray), (0, 1));
    }

    #[test]
    fn another_order_is_told_from_a_loss() {
        let faults = run(3, [GOOD, &[(100, 1), (100, 2), (101, 1)]]);
        let expected = Faults {
            order_differs: 1,
            ..Faults::default()
        };
        assert_eq!(faults, expected);
        assert!(faults.none(false) && !faults.none(true));
        let faults = run(3, [GOOD, &[(100, 2), (101, 1), (100, 1)]]);
        assert_eq!((faults.lost, faults.reordered, faults.order_differs), (0, 1, 1));
    }

    #[test]
    fn members_in_other_processes_are_compared() {
        let part = |published, seen, order| RoomSeen {
            published,
            members: 2,
            seen,
            order: Some(order),
            differ: 0,
        };
        let (a, b, c) = (part(3, 6, 1), part(0, 6, 1), part(0, 6, 2));
        assert_eq!(judge([vec![&a, &b]].into_iter()), Faults::default());
        assert_eq!(judge([vec![&a, &c]].into_iter()).order_differs, 2);
        let short = part(0, 5, 1);
        assert_eq!(judge([vec![&a, &short]].into_iter()).lost, 1);
    }

    #[test]
    fn who_was_away_is_not_held_to_what_it_missed() {
        let mut ledger = Ledger::new(0, 1, 1, [0, 0].into_iter());
        let marker = |number| Marker {
            publisher: 0,
            number,
            intended: 0,
        };
        for number in 1..=9 {
            ledger.published(0);
            ledger.heard(0, marker(number));
        }
        ledger.was_away(1);
        for number in [5, 6, 8, 9] {
            ledger.heard(1, marker(number));
        }
        assert!(ledger.is_complete());
        let (rooms, mut faults) = ledger.close();
        faults.add(judge(rooms.iter().map(|room| vec![room])));
        assert_eq!(faults.lost, 1, "only the gap after it was back");
    }
}
