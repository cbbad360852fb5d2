//! What a worker counts.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use delivery::Waiting;
use prometheus::{Histogram, HistogramOpts, IntCounter, IntGauge, IntGaugeVec, Opts, Registry};

/// From 100 µs, a log in the same process, to 10 s, beyond which clients have come back.
const SECONDS: [f64; 16] = [
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
];

/// Metrics of a worker.
pub struct Metrics {
    owned: IntGauge,
    partitions: IntGauge,
    epoch: IntGaugeVec,
    position: IntGaugeVec,
    lag: IntGaugeVec,
    interest: IntGaugeVec,
    take_overs: IntCounter,
    pub(crate) deliveries: IntCounter,
    pub(crate) refused_deliveries: IntCounter,
    pub(crate) batches: IntCounter,
    pub(crate) signals: IntCounter,
    pub(crate) links_lost: IntCounter,
    delivery: Histogram,
    links: IntGauge,
    link_queue: IntGauge,
    link_queue_bytes: IntGauge,
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
        let gauge = |name: &str, help: &str| -> Result<IntGauge, prometheus::Error> {
            let gauge = IntGauge::new(name, help)?;
            registry.register(Box::new(gauge.clone()))?;
            Ok(gauge)
        };
        let delivery = HistogramOpts::new(
            "fanfare_delivery_seconds",
            "From the log's storing the oldest event of a batch to its hand-over to the links to the gateways",
        );
        let delivery = Histogram::with_opts(delivery.buckets(SECONDS.to_vec()))?;
        registry.register(Box::new(delivery.clone()))?;
        Ok(Self {
            owned: gauge("fanfare_partitions_owned", "Partitions this worker owns")?,
            partitions: gauge("fanfare_partitions", "Partitions the log has")?,
            delivery,
            links: gauge("fanfare_links", "Gateways this worker has a link to")?,
            link_queue: gauge(
                "fanfare_link_queue_arrivals",
                "Batches and volatile events that wait in the links to gateways",
            )?,
            link_queue_bytes: gauge(
                "fanfare_link_queue_bytes",
                "Bytes of records that wait in the links to gateways",
            )?,
            links_lost: counter(
                "fanfare_links_lost_total",
                "Links to gateways that broke, or were cut because the gateway was silent",
            )?,
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

    pub(crate) fn partitions(&self, partitions: u16) {
        self.partitions.set(partitions.into());
    }

    /// A batch of the log was handed on; its oldest event had been stored at `stored_ms`, unix milliseconds.
    pub(crate) fn dispatched(&self, stored_ms: u64) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let stored = Duration::from_millis(stored_ms);
        self.delivery.observe(now.saturating_sub(stored).as_secs_f64());
    }

    /// What waits in each link there is.
    pub(crate) fn links(&self, links: impl Iterator<Item = Waiting>) {
        let (mut count, mut all) = (0, Waiting::default());
        for waiting in links {
            count += 1;
            all.arrivals += waiting.arrivals;
            all.bytes += waiting.bytes;
        }
        self.links.set(count);
        self.link_queue.set(gauge(all.arrivals as u64));
        self.link_queue_bytes.set(gauge(all.bytes as u64));
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
