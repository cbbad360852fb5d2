//! One partition while this worker owns it: reads its log in order and hands on.

use std::{sync::Arc, time::Duration};

use bus::{EventLog, LogSubject, Signal, Signals, Subscription, Tail, subjects};
use bytes::Bytes;
use model::RoomToken;
use prost::Message;
use registry::{checkpoints::Checkpoints, leases::Lease, snapshots::InterestSnapshots};
use tokio::time::{Instant, interval_at};
use tokio_util::sync::CancellationToken;

use crate::{dispatch::Dispatch, gateways::Gateways, interest::Interest, metrics::Metrics};

/// How often the position is saved, and gateways that are gone or behind are looked after.
const UPKEEP: Duration = Duration::from_millis(500);
/// How often gateways that missed something are told, while there are some.
const GAPS: Duration = Duration::from_millis(20);
/// After an error the log is asked again so much later.
const RETRY: Duration = Duration::from_millis(200);

/// What a partition works with.
pub(crate) struct Context {
    pub(crate) log: Arc<dyn EventLog>,
    pub(crate) signals: Arc<dyn Signals>,
    pub(crate) checkpoints: Arc<dyn Checkpoints>,
    pub(crate) snapshots: Arc<dyn InterestSnapshots>,
    pub(crate) gateways: Arc<Gateways>,
    pub(crate) metrics: Arc<Metrics>,
}

pub(crate) struct Partition {
    number: u16,
    epoch: u64,
    context: Arc<Context>,
    interest: Interest,
    dispatch: Dispatch,
    /// Last sequence looked at.
    position: u64,
    saved: u64,
}

impl Partition {
    /// Takes the partition over from where its last owner saved it.
    pub(crate) async fn take_over(number: u16, lease: &Lease, context: Arc<Context>) -> Self {
        let (interest, position) = Self::restore(number, &context).await;
        let dispatch = Dispatch::new(
            number,
            lease.epoch,
            position,
            Arc::clone(&context.gateways),
            Arc::clone(&context.metrics),
        );
        context.metrics.take_overs.inc();
        context.metrics.owned.inc();
        let label = number.to_string();
        // Epochs are far below 2^63.
        context
            .metrics
            .epoch
            .with_label_values(&[&label])
            .set(i64::try_from(lease.epoch).unwrap_or(i64::MAX));
        tracing::debug!(
            partition = number,
            epoch = lease.epoch,
            position,
            "partition taken over"
        );
        Self {
            number,
            epoch: lease.epoch,
            context,
            interest,
            dispatch,
            position,
            saved: position,
        }
    }

    /// The interest table and the sequence it stands for. Without a snapshot: an empty table before the
    /// first record, so that the log itself rebuilds it.
    async fn restore(number: u16, context: &Context) -> (Interest, u64) {
        loop {
            match context.snapshots.load(number).await {
                Ok(Some(snapshot)) => {
                    let table = Interest::decode(&snapshot.table, |id| context.gateways.number(id));
                    if let Some(table) = table {
                        return (table, snapshot.seq);
                    }
                    tracing::error!(partition = number, "the interest snapshot cannot be read");
                    return (Interest::default(), 0);
                }
                Ok(None) => return (Interest::default(), 0),
                Err(error) => {
                    tracing::warn!(%error, partition = number, "waiting for the interest snapshot");
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }

    /// Works until `stop`, then saves the position.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let mut signals = self.listen().await;
        let mut upkeep = interval_at(Instant::now() + UPKEEP, UPKEEP);
        let mut gaps = interval_at(Instant::now() + GAPS, GAPS);
        let mut tail = self.open(&stop).await;
        while let Some(reader) = &mut tail {
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                _ = upkeep.tick() => self.upkeep().await,
                _ = gaps.tick(), if self.dispatch.has_gaps() => self.dispatch.tell_gaps(self.position),
                entries = reader.next() => match entries {
                    Ok(entries) => self.process(entries),
                    Err(error) => {
                        tracing::warn!(%error, partition = self.number, "reading the log broke off");
                        tail = self.open(&stop).await;
                    }
                },
                signal = signals.next() => match signal {
                    Some(signal) => self.signal(&signal),
                    None => signals = self.listen().await,
                },
            }
        }
        self.save().await;
        self.context.metrics.released(self.number);
        tracing::debug!(
            partition = self.number,
            epoch = self.epoch,
            position = self.position,
            "partition released"
        );
    }

    async fn open(&self, stop: &CancellationToken) -> Option<Box<dyn Tail>> {
        loop {
            let opened = tokio::select! {
                opened = self.context.log.tail(self.number, self.position) => opened,
                () = stop.cancelled() => return None,
            };
            match opened {
                Ok(tail) => return Some(tail),
                Err(error) => {
                    tracing::warn!(%error, partition = self.number, "cannot read the log");
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }

    async fn listen(&self) -> Box<dyn Subscription> {
        let subject = subjects::signals_of_partition(self.number);
        loop {
            match self.context.signals.subscribe(&subject, None).await {
                Ok(subscription) => return subscription,
                Err(error) => {
                    tracing::warn!(%error, partition = self.number, "cannot listen for volatile events");
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }

    fn process(&mut self, entries: Vec<bus::Entry>) {
        for entry in entries {
            self.position = entry.seq;
            match entry.subject {
                LogSubject::Room(room) => {
                    let receivers = self.interest.of(room);
                    self.dispatch.collect(receivers, entry.seq, room, &entry.payload);
                }
                LogSubject::Control => self.change_interest(entry.payload),
            }
        }
        self.dispatch.flush(self.position);
    }

    fn change_interest(&mut self, payload: Bytes) {
        let change = match proto::v1::Interest::decode(payload) {
            Ok(change) => change,
            Err(error) => {
                tracing::error!(%error, partition = self.number, "an interest record cannot be read");
                return;
            }
        };
        let gateway = self.context.gateways.number(&change.gateway);
        for room in change.end.iter().filter_map(|token| RoomToken::from_bytes(token)) {
            self.interest.end(gateway, room);
        }
        for room in change
            .begin
            .iter()
            .filter_map(|token| RoomToken::from_bytes(token))
        {
            self.interest.begin(gateway, room);
        }
    }

    fn signal(&mut self, signal: &Signal) {
        let Some(room) = subjects::signal_token(&signal.subject) else {
            return;
        };
        self.context.metrics.signals.inc();
        self.dispatch
            .signal(self.interest.of(room), room, &signal.payload);
    }

    async fn upkeep(&mut self) {
        for gateway in self.interest.gateways() {
            if self.context.gateways.is_gone(gateway) {
                tracing::info!(
                    partition = self.number,
                    gateway,
                    "gateway is gone: its interest ends"
                );
                self.interest.end_gateway(gateway);
                self.dispatch.forget(gateway);
            }
        }
        let label = self.number.to_string();
        let metrics = &self.context.metrics;
        metrics
            .position
            .with_label_values(&[&label])
            .set(i64::try_from(self.position).unwrap_or(i64::MAX));
        metrics
            .interest
            .with_label_values(&[&label])
            .set(i64::try_from(self.interest.len()).unwrap_or(i64::MAX));
        if self.position > self.saved {
            self.save().await;
        }
    }

    /// The table first: a checkpoint must not run ahead of the interest that goes with it.
    async fn save(&mut self) {
        let gateways = &self.context.gateways;
        let table = Bytes::from(self.interest.encode(|gateway| gateways.id(gateway)));
        let (number, epoch, position) = (self.number, self.epoch, self.position);
        let saved = async {
            let newest = self
                .context
                .snapshots
                .save(number, epoch, position, table)
                .await?;
            Ok::<_, registry::RegistryError>(
                newest && self.context.checkpoints.save(number, epoch, position).await?,
            )
        };
        match saved.await {
            Ok(true) => self.saved = position,
            Ok(false) => tracing::warn!(partition = number, epoch, "a newer owner has saved its position"),
            Err(error) => tracing::warn!(%error, partition = number, "the position could not be saved"),
        }
    }
}
