//! Hands a partition's events to the gateways that care: each event once to each of them, in order.

use std::{collections::HashMap, sync::Arc};

use bytes::Bytes;
use delivery::{Batch, Delivery, LinkError, Traced, VolatileEvent};
use model::RoomToken;
use telemetry::trace::{Kind, Span, Tracer};

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

/// What is known of a gateway.
#[derive(Default)]
struct State {
    /// `through` of the last batch, whether the link took it or not.
    tried: Option<u64>,
    /// Number of the link that took a batch last.
    link: Option<u64>,
    /// Collected since.
    pending: Vec<Delivery>,
    /// The spans of those whose traces are recorded.
    traced: Vec<(u64, Span)>,
    /// A batch was refused or may be lost, and nothing has told the gateway of the gap yet.
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

    /// From the record at `seq` on the table holds all rooms of the gateway. What was there before it, the
    /// gateway reads from the log.
    pub(crate) fn stated(&mut self, gateway: u32, seq: u64) {
        let state = self.states.entry(gateway).or_default();
        state.pending.clear();
        state.traced.clear();
        state.tried = Some(seq);
        state.behind = true;
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

    /// The event that was just collected has a trace that is recorded: its delivery to each receiver is a span of its
    /// own, below `process`.
    pub(crate) fn trace(&mut self, receivers: &[u32], seq: u64, tracer: &Tracer, process: &Span) {
        for gateway in receivers {
            if let Some(span) = self.delivering(*gateway, tracer, process) {
                self.states.entry(*gateway).or_default().traced.push((seq, span));
            }
        }
    }

    /// The span of a delivery to a gateway, below `process`.
    fn delivering(&self, gateway: u32, tracer: &Tracer, process: &Span) -> Option<Span> {
        let span = tracer.span("deliver", Kind::Producer, &process.context())?;
        let id = self.gateways.id(gateway);
        Some(
            span.with("messaging.system", "fanfare")
                .with("messaging.operation.name", "deliver")
                .with("messaging.operation.type", "send")
                .with(
                    "messaging.destination.name",
                    id.as_deref().unwrap_or_default().to_owned(),
                )
                .with("messaging.destination.partition.id", self.partition.to_string()),
        )
    }

    /// Sends what was collected; `through` is the last sequence that was looked at.
    pub(crate) fn flush(&mut self, through: u64) {
        self.send_to(through, |state| !state.pending.is_empty());
    }

    /// Finds the gateways of `interested` that have not been told anything over the link they have now:
    /// they may miss what was queued in the one before, or what the worker before this one had for them.
    pub(crate) fn find_gaps(&mut self, interested: impl Iterator<Item = u32>) {
        for gateway in interested {
            let Some(link) = self.gateways.link(gateway) else {
                continue;
            };
            let state = self.states.entry(gateway).or_default();
            if state.link != Some(link.number) {
                state.behind = true;
            }
        }
    }

    /// Tells gateways that may have missed something by an empty batch behind the gap, so that they read
    /// it from the log.
    pub(crate) fn tell_gaps(&mut self, through: u64) {
        self.send_to(through, |state| state.behind);
    }

    /// Tells gateways that were sent nothing lately that there was nothing for them, so that they need not
    /// read from the log all that there was for others when the next owner comes.
    pub(crate) fn tell_progress(&mut self, through: u64) {
        self.send_to(through, |state| state.tried.is_none_or(|tried| tried < through));
    }

    /// Whether some gateway missed something and has not been told.
    pub(crate) fn has_gaps(&self) -> bool {
        self.states.values().any(|state| state.behind)
    }

    /// A volatile event for `receivers`, sent at once. `trace`: the span that is above those of its deliveries, if its
    /// trace is recorded.
    pub(crate) fn signal(
        &self,
        receivers: &[u32],
        room: RoomToken,
        record: &Bytes,
        trace: Option<(&Tracer, &Span)>,
    ) {
        for gateway in receivers {
            if let Some(link) = self.gateways.link(*gateway) {
                let span = trace.and_then(|(tracer, process)| self.delivering(*gateway, tracer, process));
                link.to.signal(VolatileEvent {
                    room,
                    record: record.clone(),
                    trace: span.as_ref().map(|span| Box::new(span.context())),
                });
            }
        }
    }

    pub(crate) fn forget(&mut self, gateway: u32) {
        self.states.remove(&gateway);
    }

    fn send_to(&mut self, through: u64, which: impl Fn(&State) -> bool) {
        let mut states = std::mem::take(&mut self.states);
        for (gateway, state) in states.iter_mut().filter(|(_, state)| which(state)) {
            self.send(*gateway, state, through);
        }
        self.states = states;
    }

    /// A refused batch is not kept: the next one begins behind it and so shows the gateway its gap.
    fn send(&self, gateway: u32, state: &mut State, through: u64) {
        let after = state.tried.replace(through).unwrap_or(self.start);
        let deliveries = std::mem::take(&mut state.pending);
        let mut traced = std::mem::take(&mut state.traced);
        let count = deliveries.len() as u64;
        state.behind = true;
        let Some(link) = self.gateways.link(gateway) else {
            refused(&mut traced, "there is no link to the gateway");
            self.metrics.refused_deliveries.inc_by(count);
            return;
        };
        let batch = Batch {
            partition: self.partition,
            epoch: self.epoch,
            after,
            through,
            deliveries,
            traces: traced
                .iter()
                .map(|(seq, span)| Traced {
                    seq: *seq,
                    context: span.context(),
                })
                .collect(),
        };
        match link.to.deliver(batch) {
            Ok(()) => {
                state.behind = false;
                state.link = Some(link.number);
                self.metrics.batches.inc();
                self.metrics.deliveries.inc_by(count);
            }
            Err(LinkError::Full) => {
                refused(&mut traced, "the gateway does not keep up");
                self.metrics.refused_deliveries.inc_by(count);
            }
            Err(LinkError::Closed) => {
                refused(&mut traced, "the gateway is gone");
                self.metrics.refused_deliveries.inc_by(count);
                self.gateways.closed(gateway, &link);
            }
        }
    }
}

/// The gateway reads these from the log.
fn refused(traced: &mut [(u64, Span)], why: &'static str) {
    for (_, span) in traced {
        span.fail(why);
    }
}
