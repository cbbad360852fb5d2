//! The list of changes that all may follow.

use std::collections::VecDeque;

use crate::presence_store::{CHANGES_KEPT, Changes, Position, Transition, random};

#[derive(Debug)]
pub(super) struct Log {
    /// Tells the positions of this store from those of the one before a restart.
    life: u64,
    /// How many changes were dropped from the front.
    dropped: u64,
    kept: VecDeque<Transition>,
}

impl Default for Log {
    fn default() -> Self {
        Self {
            life: random(),
            dropped: 0,
            kept: VecDeque::new(),
        }
    }
}

impl Log {
    pub(super) fn append(&mut self, transitions: &[Transition]) {
        for transition in transitions {
            if self.kept.len() == CHANGES_KEPT {
                self.kept.pop_front();
                self.dropped += 1;
            }
            self.kept.push_back(transition.clone());
        }
    }

    /// Names this run of the store.
    pub(super) fn life(&self) -> String {
        format!("{:016x}", self.life)
    }

    pub(super) fn end(&self) -> Position {
        self.position(self.dropped + self.kept.len() as u64)
    }

    pub(super) fn after(&self, after: &Position, limit: usize) -> Changes {
        let seen = after.0.split_once('-').and_then(|(life, seen)| {
            let seen: u64 = seen.parse().ok()?;
            (life.parse() == Ok(self.life)).then_some(seen)
        });
        let skip = seen
            .and_then(|seen| seen.checked_sub(self.dropped))
            .and_then(|skip| usize::try_from(skip).ok())
            .filter(|skip| *skip <= self.kept.len());
        let Some(skip) = skip else {
            return Changes::Forgotten;
        };
        let next = self.kept.iter().enumerate().skip(skip).take(limit);
        Changes::Next(
            next.map(|(at, transition)| (self.position(self.dropped + at as u64 + 1), transition.clone()))
                .collect(),
        )
    }

    fn position(&self, seen: u64) -> Position {
        Position(format!("{}-{seen}", self.life))
    }
}
