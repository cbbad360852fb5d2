//! What the API counts (CONTRACT section 8).

use std::time::Duration;

use prometheus::{HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, Opts, Registry};
use tonic::Code;

const METHODS: [&str; 10] = [
    "BatchGetUsers",
    "GetRoom",
    "GetStats",
    "GetUser",
    "IsOnline",
    "ListOnlineUsers",
    "ListRoomMembers",
    "ListRooms",
    "ListUserRooms",
    "Watch",
];
/// Why watchers get snapshots.
const REASONS: [&str; 4] = ["start", "resume_expired", "lagged", "store_reset"];

/// The API's families. Labels come from closed sets.
#[derive(Clone, Debug)]
pub struct Metrics {
    calls: IntCounterVec,
    seconds: HistogramVec,
    pub(super) unauthenticated: IntCounter,
    pub(super) watchers: IntGauge,
    pub(super) snapshots: IntCounterVec,
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
                    "fanfare_presence_grpc_calls_total",
                    "Calls of the presence API, by status",
                ),
                &["method", "code"],
            )?,
            seconds: HistogramVec::new(
                HistogramOpts::new(
                    "fanfare_presence_grpc_seconds",
                    "How long calls of the presence API took; of a watch, until it began",
                )
                .buckets(vec![
                    0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0,
                ]),
                &["method"],
            )?,
            unauthenticated: IntCounter::new(
                "fanfare_presence_grpc_unauthenticated_total",
                "Calls of the presence API without the key",
            )?,
            watchers: IntGauge::new("fanfare_presence_watchers", "Watches under way at this replica")?,
            snapshots: IntCounterVec::new(
                Opts::new(
                    "fanfare_presence_watch_snapshots_total",
                    "Snapshots for watchers, by reason",
                ),
                &["reason"],
            )?,
        };
        // There at 0, so that the first increment shows in a rate.
        for reason in REASONS {
            metrics.snapshots.with_label_values(&[reason]);
        }
        for method in METHODS {
            metrics.calls.with_label_values(&[method, "Ok"]);
            metrics.seconds.with_label_values(&[method]);
        }
        registry.register(Box::new(metrics.calls.clone()))?;
        registry.register(Box::new(metrics.seconds.clone()))?;
        registry.register(Box::new(metrics.unauthenticated.clone()))?;
        registry.register(Box::new(metrics.watchers.clone()))?;
        registry.register(Box::new(metrics.snapshots.clone()))?;
        Ok(metrics)
    }

    pub(super) fn call(&self, method: &str, code: Code, took: Duration) {
        self.calls
            .with_label_values(&[method, &format!("{code:?}")])
            .inc();
        self.seconds
            .with_label_values(&[method])
            .observe(took.as_secs_f64());
    }
}
