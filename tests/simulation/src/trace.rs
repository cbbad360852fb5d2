//! What happened, in order: to be compared between runs of one seed, and to be read when something is wrong.

use std::{
    fmt,
    hash::{DefaultHasher, Hash, Hasher},
    time::Duration,
};

use parking_lot::Mutex;
use tokio::time::Instant;

/// Something that happened.
#[derive(Clone, Debug, Hash)]
pub(crate) struct Happened {
    at: Duration,
    who: String,
    /// Empty where it concerns none.
    room: String,
    what: String,
}

impl fmt::Display for Happened {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { at, who, room, what } = self;
        write!(f, "{:>8.3} {who:<10} {room:<4} {what}", at.as_secs_f64())
    }
}

pub(crate) struct Trace {
    begun: Instant,
    happened: Mutex<Vec<Happened>>,
}

impl Trace {
    pub(crate) fn new() -> Self {
        Self {
            begun: Instant::now(),
            happened: Mutex::default(),
        }
    }

    pub(crate) fn note(&self, who: &str, room: &str, what: impl Into<String>) {
        self.happened.lock().push(Happened {
            at: self.begun.elapsed(),
            who: who.to_owned(),
            room: room.to_owned(),
            what: what.into(),
        });
    }

    /// What happened to one in a room, and around it.
    pub(crate) fn about(&self, who: &str, room: &str) -> Vec<String> {
        let happened = self.happened.lock();
        let concerns = |one: &&Happened| {
            (one.who == who || !one.who.starts_with("client")) && (one.room.is_empty() || one.room == room)
        };
        happened
            .iter()
            .filter(concerns)
            .map(ToString::to_string)
            .collect()
    }

    pub(crate) fn all(&self) -> Vec<String> {
        self.happened.lock().iter().map(ToString::to_string).collect()
    }

    /// The same for the same run.
    pub(crate) fn hash(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.happened.lock().hash(&mut hasher);
        hasher.finish()
    }
}
