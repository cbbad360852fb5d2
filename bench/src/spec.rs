//! What a run does, as data: a process that takes a share of it gets it as JSON.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::dialect::Kind;

/// A run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Spec {
    pub(crate) groups: Vec<GroupSpec>,
    pub(crate) targets: Vec<SocketAddr>,
    pub(crate) dialect: Kind,
    pub(crate) namespace: String,
    pub(crate) path: String,
    /// Bytes of an event's content.
    pub(crate) size: usize,
    /// Begins the names of the rooms, so that runs do not meet.
    pub(crate) prefix: String,
    /// Signs a token for each connection.
    pub(crate) jwt_secret: Option<String>,
    /// Connections opened at a time.
    pub(crate) at_once: usize,
    /// Seconds between the last connect and the first measurement of memory.
    pub(crate) settle: f64,
    /// Seconds of load before the measured part.
    pub(crate) warm_up: f64,
    pub(crate) amount: Amount,
    /// All but the publishers lose their connection when the measured part begins; it ends when all are back.
    pub(crate) storm: bool,
    /// Memory is looked at in the middle, too.
    pub(crate) watch_memory: bool,
    pub(crate) share: Share,
}

/// How long the measured part is.
#[derive(Copy, Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Amount {
    Seconds(f64),
    /// Events published; it ends when all are delivered.
    Messages(u64),
}

/// This process's part of the clients.
#[derive(Copy, Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Share {
    pub(crate) index: u32,
    pub(crate) of: u32,
}

impl Share {
    /// Rooms are shared out whole, or by their members where there are fewer rooms than processes.
    pub(crate) fn has(self, rooms: u32, room: u32, member: u32) -> bool {
        if rooms >= self.of {
            room % self.of == self.index
        } else {
            (room + member) % self.of == self.index
        }
    }
}

/// Clients of one kind.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct GroupSpec {
    pub(crate) name: String,
    pub(crate) rooms: u32,
    /// Members a room; with `churn`, how many at the same time.
    pub(crate) members: u32,
    /// Members a room that publish.
    pub(crate) publishers: u32,
    pub(crate) action: Action,
    pub(crate) pace: Pace,
}

#[derive(Copy, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Action {
    /// Event `message` to the room.
    Message,
    /// Event `ping`, which the server answers.
    Ping,
    /// None, and no room either: connected is all it is.
    Nothing,
}

#[derive(Copy, Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) enum Pace {
    Silent,
    /// Each publisher sends as soon as one of so many is answered.
    Closed {
        in_flight: u32,
    },
    /// Events a second over all publishers, at their times whatever the server does.
    Open {
        rate: f64,
    },
    /// Clients a second that connect, join, publish so many, leave and disconnect.
    Churn {
        rate: f64,
        publishes: u32,
    },
}
