//! What waits to be sent to clients, counted when the metrics are asked for: nothing is kept up to date for it.

use std::sync::{Arc, Weak};

use prometheus::{
    IntGauge,
    core::{Collector, Desc},
    proto::MetricFamily,
};

use crate::transport::EngineServer;

/// The gauges of connections and of their outgoing queues.
pub(crate) struct Queues {
    engine: Weak<EngineServer>,
    connections: IntGauge,
    waiting: IntGauge,
    bytes: IntGauge,
    longest: IntGauge,
}

impl Queues {
    pub(crate) fn new(engine: &Arc<EngineServer>) -> Result<Self, prometheus::Error> {
        Ok(Self {
            engine: Arc::downgrade(engine),
            connections: IntGauge::new(
                "fanfare_connections",
                "Engine.IO connections of this gateway; each has a socket in every namespace it is in",
            )?,
            waiting: IntGauge::new(
                "fanfare_send_queue_connections",
                "Connections with something that their transport has not taken yet",
            )?,
            bytes: IntGauge::new("fanfare_send_queue_bytes", "Bytes that wait in all of them")?,
            longest: IntGauge::new(
                "fanfare_send_queue_longest_bytes",
                "Bytes that wait in the longest of them; at gateway.send_queue_bytes it is cut",
            )?,
        })
    }

    fn all(&self) -> [&IntGauge; 4] {
        [&self.connections, &self.waiting, &self.bytes, &self.longest]
    }
}

impl Collector for Queues {
    fn desc(&self) -> Vec<&Desc> {
        self.all().into_iter().flat_map(Collector::desc).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let conns = self.engine.upgrade().map(|engine| engine.all());
        let conns = conns.unwrap_or_default();
        let (mut waiting, mut bytes, mut longest) = (0, 0, 0);
        for queued in conns
            .iter()
            .map(|conn| conn.queued())
            .filter(|queued| *queued > 0)
        {
            waiting += 1;
            bytes += queued;
            longest = queued.max(longest);
        }
        for (gauge, value) in self.all().into_iter().zip([conns.len(), waiting, bytes, longest]) {
            gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        }
        self.all().into_iter().flat_map(Collector::collect).collect()
    }
}
