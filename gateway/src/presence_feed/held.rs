//! What this gateway holds, counted when the metrics are asked for: the truth that presence is a copy of.

use std::collections::HashSet;

use prometheus::{
    IntGauge,
    core::{Collector, Desc},
    proto::MetricFamily,
};

use super::{Truth, is_told};

/// The gauges `fanfare_gateway_users` and `fanfare_gateway_rooms`.
pub(super) struct Held {
    truth: Truth,
    users: IntGauge,
    rooms: IntGauge,
}

impl Held {
    pub(super) fn new(truth: Truth) -> Result<Self, prometheus::Error> {
        Ok(Self {
            truth,
            users: IntGauge::new(
                "fanfare_gateway_users",
                "Distinct users with a socket at this gateway",
            )?,
            rooms: IntGauge::new(
                "fanfare_gateway_rooms",
                "Rooms with a socket of this gateway, without those that users and sockets have of their own",
            )?,
        })
    }
}

impl Collector for Held {
    fn desc(&self) -> Vec<&Desc> {
        let gauges = [self.users.desc(), self.rooms.desc()];
        gauges.into_iter().flatten().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let (mut users, mut rooms) = (HashSet::new(), HashSet::new());
        for socket in (self.truth)() {
            users.insert(socket.user().id.clone());
            let held = socket.rooms.lock();
            let told = held.rooms().filter(|room| is_told(room.name()));
            rooms.extend(told.map(|room| (room.namespace().clone(), room.name().clone())));
        }
        let count = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        self.users.set(count(users.len()));
        self.rooms.set(count(rooms.len()));
        [self.users.collect(), self.rooms.collect()].concat()
    }
}
