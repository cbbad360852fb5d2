//! What a client has seen of its rooms, held against the truth (CONTRACT G1 to G4).

use std::{collections::BTreeMap, sync::Arc};

use crate::truth::{Stored, Truth};

/// What was promised and not kept.
#[derive(Clone, Debug)]
pub(crate) struct Broken {
    pub(crate) room: String,
    pub(crate) what: String,
}

/// Where a client stands in a room.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    /// It must not get anything.
    Out,
    /// A join or a leave is not answered: events may come, in order.
    Unsure { last: u64 },
    /// It has everything up to `through`, and gets everything behind it.
    In { through: u64 },
}

pub(crate) struct View {
    truth: Arc<Truth>,
    places: BTreeMap<String, Place>,
    /// Rooms of which what the client has already may come again, until something new comes: its gateway died. Up to
    /// where that has come.
    repeating: BTreeMap<String, u64>,
    pub(crate) repeats: usize,
    pub(crate) received: usize,
}

impl View {
    pub(crate) fn new(truth: &Arc<Truth>) -> Self {
        Self {
            truth: Arc::clone(truth),
            places: BTreeMap::new(),
            repeating: BTreeMap::new(),
            repeats: 0,
            received: 0,
        }
    }

    fn place(&mut self, room: &str) -> &mut Place {
        self.places.entry(room.to_owned()).or_insert(Place::Out)
    }

    pub(crate) fn is_in(&self, room: &str) -> bool {
        matches!(self.places.get(room), Some(Place::In { .. }))
    }

    /// Up to where it has everything of a room it is in.
    pub(crate) fn through(&self, room: &str) -> Option<u64> {
        match self.places.get(room) {
            Some(Place::In { through }) => Some(*through),
            _ => None,
        }
    }

    /// It asks to come back; `repeats`: its gateway was not there to tell what it has sent.
    pub(crate) fn asks_back(&mut self, repeats: bool) {
        if !repeats {
            return;
        }
        let rooms = self.places.keys().cloned();
        self.repeating = rooms.map(|room| (room, 0)).collect();
        // A leave is answered before it is stored, and so it may be forgotten.
        for place in self.places.values_mut() {
            if *place == Place::Out {
                *place = Place::Unsure { last: 0 };
            }
        }
    }

    /// It is somebody new, in no room.
    pub(crate) fn fresh(&mut self) {
        self.repeating.clear();
        self.places.clear();
    }

    pub(crate) fn joining(&mut self, room: &str) {
        let place = self.place(room);
        if *place == Place::Out {
            *place = Place::Unsure { last: 0 };
        }
    }

    pub(crate) fn leaving(&mut self, room: &str) {
        let place = self.place(room);
        let last = match place {
            Place::Out => 0,
            Place::Unsure { last } => *last,
            Place::In { through } => *through,
        };
        *place = Place::Unsure { last };
    }

    pub(crate) fn left(&mut self, room: &str) {
        *self.place(room) = Place::Out;
    }

    /// The answer of a join: everything behind `offset` is to come. `history`: how many messages were asked for, and
    /// those that came.
    pub(crate) fn joined(
        &mut self,
        room: &str,
        offset: u64,
        history: Option<(usize, Vec<Stored>)>,
    ) -> Result<(), Broken> {
        let broken = |what: String| {
            Err(Broken {
                room: room.to_owned(),
                what,
            })
        };
        let known = match *self.place(room) {
            // While it was unsure there may be gaps.
            Place::Out => 0,
            Place::Unsure { last } if last > offset => {
                return broken(format!("had {last} before the join at {offset} was answered"));
            }
            Place::Unsure { .. } => offset,
            Place::In { through } => through,
        };
        let missing = self
            .truth
            .next(room, known)
            .filter(|next| next.offset.seq <= offset);
        if let Some(missing) = missing.filter(|_| self.is_in(room)) {
            return broken(format!("joined again at {offset} and never got {missing:?}"));
        }
        *self.place(room) = Place::In {
            through: known.max(offset),
        };
        if let Some((limit, came)) = history {
            let mut wanted = self.truth.behind(room, 0);
            wanted.retain(|stored| stored.offset.seq <= offset);
            let wanted = wanted.split_off(wanted.len().saturating_sub(limit));
            if wanted != came {
                return broken(format!("history at {offset} is {came:?}, not {wanted:?}"));
            }
        }
        Ok(())
    }

    /// An event of a room.
    pub(crate) fn message(&mut self, room: &str, message: &Stored) -> Result<(), Broken> {
        let broken = |what: String| {
            Err(Broken {
                room: room.to_owned(),
                what,
            })
        };
        let seq = message.offset.seq;
        self.received += 1;
        if self.truth.at(room, seq).as_ref() != Some(message) {
            return broken(format!("got {message:?}, which is not in the log there"));
        }
        let repeated = self.repeating.get(room).copied();
        match self.place(room) {
            Place::Out => broken(format!("got {message:?} of a room it is not in")),
            Place::Unsure { last } | Place::In { through: last } if seq <= *last => {
                let last = *last;
                let Some(repeated) = repeated else {
                    return broken(format!("got {message:?} again; it was at {last}"));
                };
                self.repeats += 1;
                self.repeating.insert(room.to_owned(), seq);
                if seq <= repeated {
                    return broken(format!("got {message:?} again and again"));
                }
                Ok(())
            }
            Place::Unsure { last } => {
                *last = seq;
                self.repeating.remove(room);
                Ok(())
            }
            Place::In { through } => {
                let before = std::mem::replace(through, seq);
                self.repeating.remove(room);
                match self.truth.next(room, before) {
                    Some(next) if next.offset.seq == seq => Ok(()),
                    next => broken(format!("got {message:?} behind {before}, before {next:?}")),
                }
            }
        }
    }

    /// What it should have got and has not.
    pub(crate) fn missing(&self) -> Option<Broken> {
        self.places.iter().find_map(|(room, place)| {
            let Place::In { through } = place else {
                return None;
            };
            let missing = self.truth.next(room, *through)?;
            Some(Broken {
                room: room.clone(),
                what: format!("never got {missing:?}; it has everything up to {through}"),
            })
        })
    }
}
