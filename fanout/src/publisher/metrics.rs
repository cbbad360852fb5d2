//! What the API counts (CONTRACT section 8).

use std::time::Duration;

use prometheus::{HistogramOpts, HistogramVec, IntCounter, IntCounterVec, Opts, Registry};

const OPERATIONS: [&str; 9] = [
    "Emit",
    "Batch",
    "EmitWithAck",
    "JoinRooms",
    "LeaveRooms",
    "Disconnect",
    "NotifyUser",
    "History",
    "FetchSockets",
];

/// The API's families. Labels come from closed sets.
#[derive(Clone, Debug)]
pub struct Metrics {
    calls: IntCounterVec,
    seconds: HistogramVec,
    pub(super) unauthenticated: IntCounter,
}

impl Metrics {
    /// Makes the families and puts them into `registry`, which adds the labels that all share.
    ///
    /// # Errors
    /// When a family of the same name is there already.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let metrics = Self {
            calls: IntCounterVec::new(
                Opts::new(
                    "fanfare_publisher_calls_total",
                    "Calls of the publisher API, by way, operation and outcome",
                ),
                &["transport", "operation", "code"],
            )?,
            seconds: HistogramVec::new(
                HistogramOpts::new(
                    "fanfare_publisher_seconds",
                    "How long calls of the publisher API took",
                )
                .buckets(vec![
                    0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 30.0,
                ]),
                &["operation"],
            )?,
            unauthenticated: IntCounter::new(
                "fanfare_publisher_unauthenticated_total",
                "Calls of the publisher API without a key",
            )?,
        };
        // There from the start, so that a first call is an increase.
        for operation in OPERATIONS {
            for transport in ["grpc", "http", "nats"] {
                metrics.calls.with_label_values(&[transport, operation, "OK"]);
            }
            metrics.seconds.with_label_values(&[operation]);
        }
        registry.register(Box::new(metrics.calls.clone()))?;
        registry.register(Box::new(metrics.seconds.clone()))?;
        registry.register(Box::new(metrics.unauthenticated.clone()))?;
        Ok(metrics)
    }

    pub(super) fn call(&self, transport: &str, operation: &str, code: &str, took: Duration) {
        self.calls.with_label_values(&[transport, operation, code]).inc();
        self.seconds
            .with_label_values(&[operation])
            .observe(took.as_secs_f64());
    }
}
