//! Hands a partition's events to the gateways that care: each event once to each of them, in order.

use std::{collections::HashMap, sync::Arc};

use bytes::Bytes;
use delivery::{Batch, Delivery, LinkError, VolatileEvent};
use model::RoomToken;

use crate::{gateways::Gateways, metrics::Metrics};

pub(crate) struct Dispatch {
    partition: u16,
    epoch: u64,
    gateways: Arc<Gateways>,
    metrics: Arc<Metrics>,
    /// From where this worker knows the interest: what a gateway it has not sent to yet may miss.
    start: u64,
    states: HashMap<u32, State>,
}

#[derive(Default)]
struct State {
    /// `through` of the last batch, whether the link took it or not.
    tried: Option<u64>,
    /// Collected since.
    pending: Vec<Delivery>,
    /// A batch was refused, and nothing has told the gateway of the gap yet.
    behind: bool,
}

impl Dispatch {
    pub(crate) fn new(
        partition: u16,
        epoch: u64,
        start: u64,
        gateways: Arc<Gateways>,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            partition,
            epoch,
            gateways,
            metrics,
            start,
            states: HashMap::new(),
        }
    }

    /// An event for `receivers`, to go with the next [`Dispatch::flush`].
    pub(crate) fn collect(&mut self, receivers: &[u32], seq: u64, room: RoomToken, record: &Bytes) {
        for gateway in receivers {
            let delivery = Delivery {
                seq,
                room,
                record: record.clone(),
            };
            self.states.entry(*gateway).or_default().pending.push(delivery);
        }
    }

    /// Sends what was collected; `through` is the last sequence that was looked at.
    pub(crate) fn flush(&mut self, through: u64) {
        for (gateway, state) in &mut self.states {
            if state.pending.is_empty() {
                continue;
            }
            let deliveries = std::mem::take(&mut state.pending);
            self.metrics.deliveries.inc_by(deliveries.len() as u64);
            let batch = Batch {
                partition: self.partition,
                epoch: self.epoch,
                after: state.tried.unwrap_or(self.start),
                through,
                deliveries,
            };
            Self::send(&self.gateways, &self.metrics, *gateway, state, batch);
        }
    }

    /// Tells gateways that missed something by an empty batch behind the gap, so that they read it from
    /// the log.
    pub(crate) fn tell_gaps(&mut self, through: u64) {
        for (gateway, state) in self.states.iter_mut().filter(|(_, state)| state.behind) {
            let after = state.tried.unwrap_or(self.start);
            let batch = Batch {
                partition: self.partition,
                epoch: self.epoch,
                after,
                through,
                deliveries: Vec::new(),
            };
            Self::send(&self.gateways, &self.metrics, *gateway, state, batch);
        }
    }

    /// Whether some gateway missed something and has not been told.
    pub(crate) fn has_gaps(&self) -> bool {
        self.states.values().any(|state| state.behind)
    }

    pub(crate) fn signal(&self, receivers: &[u32], room: RoomToken, record: &Bytes) {
        for gateway in receivers {
            if let Some(link) = self.gateways.link(*gateway) {
                link.signal(VolatileEvent {
                    room,
                    record: record.clone(),
                });
            }
        }
    }

    pub(crate) fn forget(&mut self, gateway: u32) {
        self.states.remove(&gateway);
    }

    fn send(gateways: &Gateways, metrics: &Metrics, gateway: u32, state: &mut State, batch: Batch) {
        state.tried = Some(batch.through);
        let sent = gateways
            .link(gateway)
            .map_or(Err(LinkError::Closed), |link| link.deliver(batch));
        match sent {
            Ok(()) => {
                metrics.batches.inc();
                state.behind = false;
            }
            Err(LinkError::Full | LinkError::Closed) => {
                metrics.refused_batches.inc();
                state.behind = true;
            }
        }
    }
}
