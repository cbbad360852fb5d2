//! What a worker counts.

use prometheus::{IntCounter, IntGauge, IntGaugeVec, Registry, opts};

/// Metrics of a worker.
pub struct Metrics {
    pub(crate) owned: IntGauge,
    pub(crate) epoch: IntGaugeVec,
    pub(crate) position: IntGaugeVec,
    pub(crate) interest: IntGaugeVec,
    pub(crate) deliveries: IntCounter,
    pub(crate) batches: IntCounter,
    pub(crate) refused_batches: IntCounter,
    pub(crate) signals: IntCounter,
    pub(crate) take_overs: IntCounter,
}

impl Metrics {
    /// Registers everything.
    ///
    /// # Errors
    /// When a name is taken already.
    pub fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let metrics = Self {
            owned: IntGauge::new("fanfare_partitions_owned", "Partitions this worker owns")?,
            epoch: IntGaugeVec::new(
                opts!("fanfare_partition_epoch", "Fencing epoch of the partitions owned"),
                &["partition"],
            )?,
            position: IntGaugeVec::new(
                opts!(
                    "fanfare_partition_position",
                    "Last sequence read of the partitions owned"
                ),
                &["partition"],
            )?,
            interest: IntGaugeVec::new(
                opts!("fanfare_interest_rooms", "Rooms that some gateway has members of"),
                &["partition"],
            )?,
            deliveries: IntCounter::new(
                "fanfare_deliveries_total",
                "Events handed to gateways, one a gateway",
            )?,
            batches: IntCounter::new(
                "fanfare_delivery_batches_total",
                "Batches that links to gateways took",
            )?,
            refused_batches: IntCounter::new(
                "fanfare_delivery_batches_refused_total",
                "Batches that links did not take; the gateways read them from the log",
            )?,
            signals: IntCounter::new("fanfare_signals_total", "Volatile events handed on")?,
            take_overs: IntCounter::new(
                "fanfare_take_overs_total",
                "Partitions this worker has taken over",
            )?,
        };
        registry.register(Box::new(metrics.owned.clone()))?;
        registry.register(Box::new(metrics.epoch.clone()))?;
        registry.register(Box::new(metrics.position.clone()))?;
        registry.register(Box::new(metrics.interest.clone()))?;
        registry.register(Box::new(metrics.deliveries.clone()))?;
        registry.register(Box::new(metrics.batches.clone()))?;
        registry.register(Box::new(metrics.refused_batches.clone()))?;
        registry.register(Box::new(metrics.signals.clone()))?;
        registry.register(Box::new(metrics.take_overs.clone()))?;
        Ok(metrics)
    }

    pub(crate) fn released(&self, partition: u16) {
        let partition = partition.to_string();
        // A label that was never set is no error here.
        let _ = self.epoch.remove_label_values(&[&partition]);
        let _ = self.position.remove_label_values(&[&partition]);
        let _ = self.interest.remove_label_values(&[&partition]);
        self.owned.dec();
    }
}
