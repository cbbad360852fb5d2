//! What the service counts (CONTRACT section 8).

use prometheus::{IntCounter, IntCounterVec, IntGauge, Opts, Registry};
use registry::presence_store::{RoomChange, Stats, Transition, UserChange};

const CHANGES: [&str; 9] = [
    "joined",
    "restored",
    "joined_again",
    "lost",
    "left",
    "online",
    "back",
    "away",
    "offline",
];
const QUERIES: [&str; 2] = ["online", "stats"];

/// The service's families. Labels come from closed sets.
#[derive(Clone, Debug)]
pub struct Metrics {
    pub(crate) batches_applied: IntCounter,
    pub(crate) snapshots_asked: IntCounter,
    pub(crate) batches_failed: IntCounter,
    pub(crate) deltas: IntCounter,
    pub(crate) announcements_lost: IntCounter,
    pub(crate) gateways_expired: IntCounter,
    transitions: IntCounterVec,
    queries: IntCounterVec,
    active_rooms: IntGauge,
    active_users: IntGauge,
}

impl Metrics {
    /// Makes the families and puts them into `registry`, which adds the labels that all share.
    ///
    /// # Errors
    /// When a family of the same name is there already.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let counter = |name: &str, help: &str| {
            let counter = IntCounter::new(name, help)?;
            registry.register(Box::new(counter.clone()))?;
            Ok::<_, prometheus::Error>(counter)
        };
        let counters = |name: &str, help: &str, labels: &[&str]| {
            let counters = IntCounterVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(counters.clone()))?;
            Ok::<_, prometheus::Error>(counters)
        };
        let gauge = |name: &str, help: &str| {
            let gauge = IntGauge::new(name, help)?;
            registry.register(Box::new(gauge.clone()))?;
            Ok::<_, prometheus::Error>(gauge)
        };
        let batches = counters(
            "fanfare_presence_batches_total",
            "Batches of gateways, by what became of them",
            &["result"],
        )?;
        let transitions = counters(
            "fanfare_presence_transitions_total",
            "Changes of users' stays in rooms and namespaces",
            &["change"],
        )?;
        let queries = counters(
            "fanfare_presence_queries_total",
            "Questions on the bus",
            &["query", "result"],
        )?;
        // There at 0, so that the first increment shows in a rate.
        for change in CHANGES {
            transitions.with_label_values(&[change]);
        }
        for query in QUERIES {
            for result in ["ok", "error"] {
                queries.with_label_values(&[query, result]);
            }
        }
        Ok(Self {
            transitions,
            queries,
            batches_applied: batches.with_label_values(&["applied"]),
            snapshots_asked: batches.with_label_values(&["snapshot_asked"]),
            batches_failed: batches.with_label_values(&["failed"]),
            deltas: counter("fanfare_presence_deltas_total", "Changes in the batches applied")?,
            announcements_lost: counter(
                "fanfare_presence_announcements_lost_total",
                "Announcements that the bus did not take",
            )?,
            gateways_expired: counter(
                "fanfare_presence_gateways_expired_total",
                "Gateways removed when their lease was over",
            )?,
            active_rooms: gauge("socket_active_rooms", "Rooms with members in the cluster")?,
            active_users: gauge("socket_active_users", "Users online in the cluster")?,
        })
    }

    pub(crate) fn transition(&self, transition: &Transition) {
        let change = match transition {
            Transition::Room(room) => match room.change {
                RoomChange::Joined { .. } => "joined",
                RoomChange::Restored => "restored",
                RoomChange::JoinedAgain { .. } => "joined_again",
                RoomChange::Lost { .. } => "lost",
                RoomChange::Left { .. } => "left",
            },
            Transition::User(user) => match user.change {
                UserChange::Online => "online",
                UserChange::Back => "back",
                UserChange::Lost { .. } => "away",
                UserChange::Offline => "offline",
            },
        };
        self.transitions.with_label_values(&[change]).inc();
    }

    pub(crate) fn query(&self, query: &str, answered: bool) {
        let result = if answered { "ok" } else { "error" };
        self.queries.with_label_values(&[query, result]).inc();
    }

    pub(crate) fn stats(&self, stats: Stats) {
        self.active_rooms
            .set(i64::try_from(stats.rooms).unwrap_or(i64::MAX));
        self.active_users
            .set(i64::try_from(stats.users).unwrap_or(i64::MAX));
    }
}
