//! What is counted by namespace and event: looked up once an event, without building a key of labels.

use std::{
    collections::HashMap,
    sync::{Arc, OnceLock},
};

use model::Namespace;
use parking_lot::RwLock;
use prometheus::{IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Registry, core::Collector, opts};
use sio::engine::CloseReason;

use super::EventLabel;

/// Namespaces that are told apart; patterns allow any number (`/tenant-*`), and all beyond count as `other`.
const NAMESPACES: usize = 64;
/// In place of the namespaces beyond that.
const OTHER: &str = "other";

/// Which way an event goes.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(super) enum Direction {
    Inbound,
    Outbound,
}

impl Direction {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Inbound => "inbound",
            Self::Outbound => "outbound",
        }
    }
}

pub(super) struct ByNamespace {
    active: IntGaugeVec,
    disconnects: IntCounterVec,
    messages: IntCounterVec,
    known: RwLock<HashMap<Box<str>, Arc<OfNamespace>>>,
    other: OnceLock<Arc<OfNamespace>>,
}

/// The children of one namespace; those of events are made when the first comes.
struct OfNamespace {
    name: Box<str>,
    active: IntGauge,
    messages: [[OnceLock<IntCounter>; EventLabel::COUNT]; 2],
}

impl ByNamespace {
    pub(super) fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let active = IntGaugeVec::new(
            opts!("socket_active_connections", "Sockets connected to this gateway"),
            &["namespace"],
        )?;
        let disconnects = IntCounterVec::new(
            opts!("socket_disconnects_total", "Sockets that have gone, by reason"),
            &["namespace", "reason"],
        )?;
        let messages = IntCounterVec::new(
            opts!(
                "socket_messages_total",
                "Events, by name and direction; outbound, one a receiver"
            ),
            &["namespace", "event", "direction"],
        )?;
        registry.register(Box::new(active.clone()))?;
        registry.register(Box::new(disconnects.clone()))?;
        registry.register(Box::new(messages.clone()))?;
        // So that it is there from the first moment.
        active.with_label_values(&["/"]);
        Ok(Self {
            active,
            disconnects,
            messages,
            known: RwLock::default(),
            other: OnceLock::new(),
        })
    }

    pub(super) fn connected(&self, namespace: &Namespace) {
        self.of(namespace).active.inc();
    }

    pub(super) fn disconnected(&self, namespace: &Namespace, reason: CloseReason) {
        let of = self.of(namespace);
        of.active.dec();
        self.disconnects
            .with_label_values(&[&*of.name, reason.as_str()])
            .inc();
    }

    pub(super) fn events(&self, namespace: &Namespace, event: EventLabel, direction: Direction, count: u64) {
        let of = self.of(namespace);
        let counter = of.messages[direction as usize][event.index()].get_or_init(|| {
            self.messages
                .with_label_values(&[&*of.name, event.as_str(), direction.as_str()])
        });
        counter.inc_by(count);
    }

    /// All events of a direction so far.
    pub(super) fn total(&self, direction: Direction) -> u64 {
        let known = self.known.read();
        let all = known.values().chain(self.other.get());
        let counters = all.flat_map(|of| &of.messages[direction as usize]);
        counters.filter_map(OnceLock::get).map(IntCounter::get).sum()
    }

    /// Sockets that have gone so far.
    pub(super) fn gone(&self) -> u64 {
        let families = self.disconnects.collect();
        let counters = families.iter().flat_map(|family| family.get_metric());
        // Counts are far below 2^52.
        counters
            .map(|counter| counter.get_counter().get_value() as u64)
            .sum()
    }

    fn of(&self, namespace: &Namespace) -> Arc<OfNamespace> {
        if let Some(of) = self.known.read().get(namespace.as_str()) {
            return Arc::clone(of);
        }
        let mut known = self.known.write();
        if let Some(of) = known.get(namespace.as_str()) {
            return Arc::clone(of);
        }
        if known.len() >= NAMESPACES {
            return Arc::clone(self.other.get_or_init(|| self.make(OTHER)));
        }
        let of = self.make(namespace.as_str());
        known.insert(namespace.as_str().into(), Arc::clone(&of));
        of
    }

    fn make(&self, name: &str) -> Arc<OfNamespace> {
        Arc::new(OfNamespace {
            name: name.into(),
            active: self.active.with_label_values(&[name]),
            messages: Default::default(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn namespaces_are_bounded_and_their_gauges_add_up() {
        let registry = Registry::new();
        let metrics = ByNamespace::register(&registry).unwrap();
        let names: Vec<_> = (0..1000)
            .map(|number| Namespace::new(&format!("/tenant-{number}")).unwrap())
            .collect();
        let event = EventLabel::of("message");
        for name in &names {
            metrics.connected(name);
            metrics.events(name, event, Direction::Inbound, 2);
        }
        let series = |name: &str| {
            let families = registry.gather();
            let family = families.into_iter().find(|family| family.name() == name);
            family
                .map(|family| family.get_metric().to_vec())
                .unwrap_or_default()
        };
        let active = series("socket_active_connections");
        // "/" is there from the beginning.
        assert_eq!(active.len(), NAMESPACES + 2);
        let sum: f64 = active.iter().map(|metric| metric.get_gauge().get_value()).sum();
        assert_eq!(sum, 1000.0);
        assert_eq!(series("socket_messages_total").len(), NAMESPACES + 1);
        assert_eq!(metrics.total(Direction::Inbound), 2000);
        assert_eq!(metrics.total(Direction::Outbound), 0);
        for name in &names {
            metrics.disconnected(name, CloseReason::TransportClose);
        }
        assert_eq!(metrics.gone(), 1000);
        let active = series("socket_active_connections");
        assert!(active.iter().all(|metric| metric.get_gauge().get_value() == 0.0));
    }
}
