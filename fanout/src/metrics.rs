//! What a worker counts.

use prometheus::{IntCounter, IntGauge, IntGaugeVec, Opts, Registry};

/// Metrics of a worker.
pub struct Metrics {
    owned: IntGauge,
    epoch: IntGaugeVec,
    position: IntGaugeVec,
    lag: IntGaugeVec,
    interest: IntGaugeVec,
    take_overs: IntCounter,
    pub(crate) deliveries: IntCounter,
    pub(crate) refused_deliveries: IntCounter,
    pub(crate) batches: IntCounter,
    pub(crate) signals: IntCounter,
}

impl Metrics {
    /// How many partitions the worker owns now.
    #[must_use]
    pub fn owned(&self) -> i64 {
        self.owned.get()
    }

    /// Registers everything.
    ///
    /// # Errors
    /// When a name is taken already.
    pub fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let of_partitions = |name: &str, help: &str| -> Result<IntGaugeVec, prometheus::Error> {
            let gauges = IntGaugeVec::new(Opts::new(name, help), &["partition"])?;
            registry.register(Box::new(gauges.clone()))?;
            Ok(gauges)
        };
        let counter = |name: &str, help: &str| -> Result<IntCounter, prometheus::Error> {
            let counter = IntCounter::new(name, help)?;
            registry.register(Box::new(counter.clone()))?;
            Ok(counter)
        };
        let owned = IntGauge::new("fanfare_partitions_owned", "Partitions this worker owns")?;
        registry.register(Box::new(owned.clone()))?;
        Ok(Self {
            owned,
            epoch: of_partitions("fanfare_partition_epoch", "Fencing epoch of the partitions owned")?,
            position: of_partitions(
                "fanfare_partition_position",
                "Last sequence read of the partitions owned",
            )?,
            lag: of_partitions(
                "fanfare_partition_lag",
                "Entries of the partitions owned that are not read yet",
            )?,
            interest: of_partitions("fanfare_interest_rooms", "Rooms that some gateway has members of")?,
            take_overs: counter(
                "fanfare_take_overs_total",
                "Partitions this worker has taken over",
            )?,
            deliveries: counter(
                "fanfare_deliveries_total",
                "Events that links took, one a gateway",
            )?,
            refused_deliveries: counter(
                "fanfare_deliveries_refused_total",
                "Events that links did not take, one a gateway; the gateways read them from the log",
            )?,
            batches: counter(
                "fanfare_delivery_batches_total",
                "Batches that links to gateways took",
            )?,
            signals: counter("fanfare_signals_total", "Volatile events handed on")?,
        })
    }

    pub(crate) fn taken_over(&self, partition: &str, epoch: u64) {
        self.take_overs.inc();
        self.owned.inc();
        self.epoch.with_label_values(&[partition]).set(gauge(epoch));
    }

    pub(crate) fn reached(&self, partition: &str, position: u64, rooms: usize) {
        self.position.with_label_values(&[partition]).set(gauge(position));
        self.interest
            .with_label_values(&[partition])
            .set(gauge(rooms as u64));
    }

    pub(crate) fn lags(&self, partition: &str, entries: u64) {
        self.lag.with_label_values(&[partition]).set(gauge(entries));
    }

    pub(crate) fn released(&self, partition: &str) {
        self.owned.dec();
        for of_partition in [&self.epoch, &self.position, &self.lag, &self.interest] {
            // One that was never set is no error here.
            let _ = of_partition.remove_label_values(&[partition]);
        }
    }
}

/// Sequences and epochs are far below 2^63.
fn gauge(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
