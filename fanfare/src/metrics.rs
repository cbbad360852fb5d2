//! What a process tells of its surroundings: itself, NATS, Redis, and the links between the roles.

use std::{sync::Arc, time::Duration};

use bus::nats::NatsHealth;
use config::Role;
use delivery::grpc::Meter;
use prometheus::{
    HistogramVec, IntCounterVec, Registry, histogram_opts, opts, process_collector::ProcessCollector,
};
use registry::redis::Redis;
use telemetry::computed::{Series, counter, gauge};

/// From 100 µs, a server on the same machine, to 10 s, after which calls are given up.
const SECONDS: [f64; 13] = [
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5, 1.0, 5.0, 10.0,
];

/// One without labels.
fn one(value: u64) -> Vec<Series> {
    // Counts are far below 2^53.
    vec![(Vec::new(), value as f64)]
}

/// The process: what it is, and what the system says of it (`process_*`).
pub(crate) fn process(registry: &Registry, role: Role) -> Result<(), prometheus::Error> {
    registry.register(Box::new(ProcessCollector::for_self()))?;
    let labels = vec![role.as_str().to_owned(), env!("CARGO_PKG_VERSION").to_owned()];
    gauge(
        registry,
        "fanfare_build_info",
        "1, with what the process is",
        &["role", "version"],
        move || vec![(labels.clone(), 1.0)],
    )
}

/// The connection to NATS.
pub(crate) fn nats(registry: &Registry, health: &NatsHealth) -> Result<(), prometheus::Error> {
    let of = health.clone();
    gauge(
        registry,
        "fanfare_nats_connected",
        "1 while the connection to NATS stands",
        &[],
        move || one(of.is_connected().into()),
    )?;
    let of = health.clone();
    counter(
        registry,
        "fanfare_nats_events_total",
        "What befell the connection to NATS: connected, disconnected, slow_consumer (a message lost because a subscription did not keep up), server_error, lame_duck, failed_attempt",
        &["event"],
        move || {
            let counts = of.counts();
            let counts = [
                ("connected", counts.connects),
                ("disconnected", counts.disconnects),
                ("slow_consumer", counts.slow_consumer),
                ("server_error", counts.server_errors),
                ("lame_duck", counts.lame_duck),
                ("failed_attempt", counts.failed_attempts),
            ];
            counts
                .map(|(event, count)| (vec![event.to_owned()], count as f64))
                .to_vec()
        },
    )
}

/// What is asked of Redis.
pub(crate) fn redis(registry: &Registry, redis: &Redis) -> Result<(), prometheus::Error> {
    let of = redis.clone();
    gauge(
        registry,
        "fanfare_redis_connected",
        "1 while the connection to Redis stands",
        &[],
        move || one(of.is_connected().into()),
    )?;
    let of = redis.clone();
    counter(
        registry,
        "fanfare_redis_calls_total",
        "Calls of Redis, by script or command; those that failed included",
        &["call"],
        move || {
            let calls = of.calls().into_iter();
            calls
                .map(|call| (vec![call.name.to_owned()], call.calls as f64))
                .collect()
        },
    )?;
    let of = redis.clone();
    counter(
        registry,
        "fanfare_redis_errors_total",
        "Calls of Redis that failed, by script or command",
        &["call"],
        move || {
            let calls = of.calls().into_iter();
            calls
                .map(|call| (vec![call.name.to_owned()], call.errors as f64))
                .collect()
        },
    )
}

/// What crosses the gRPC streams between workers and gateways; this process is the one end.
pub(crate) fn links(registry: &Registry, meter: &Arc<Meter>) -> Result<(), prometheus::Error> {
    let of = Arc::clone(meter);
    gauge(
        registry,
        "fanfare_grpc_streams",
        "gRPC streams between workers and gateways that stand",
        &[],
        move || one(of.links().len() as u64),
    )?;
    let of = Arc::clone(meter);
    counter(
        registry,
        "fanfare_grpc_frames_total",
        "Messages on the gRPC streams between workers and gateways: sent by a worker, received by a gateway",
        &[],
        move || one(of.total().frames()),
    )?;
    let of = Arc::clone(meter);
    counter(
        registry,
        "fanfare_grpc_bytes_total",
        "Bytes of these messages, before HTTP/2 and TLS",
        &[],
        move || one(of.total().bytes()),
    )?;
    let of = Arc::clone(meter);
    counter(
        registry,
        "fanfare_grpc_events_total",
        "Events in these messages, by kind: durable, volatile",
        &["kind"],
        move || {
            let total = of.total();
            [("durable", total.deliveries()), ("volatile", total.signals())]
                .map(|(kind, count)| (vec![kind.to_owned()], count as f64))
                .to_vec()
        },
    )
}

/// Counts calls of the bus. Cheap to clone.
#[derive(Clone)]
pub(crate) struct BusCalls {
    seconds: HistogramVec,
    errors: IntCounterVec,
}

impl BusCalls {
    pub(crate) fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let calls = Self {
            seconds: HistogramVec::new(
                histogram_opts!(
                    "fanfare_nats_call_seconds",
                    "How long calls of NATS took, by call, repetitions and failures included",
                    SECONDS.to_vec()
                ),
                &["call"],
            )?,
            errors: IntCounterVec::new(
                opts!("fanfare_nats_errors_total", "Calls of NATS that failed, by call"),
                &["call"],
            )?,
        };
        registry.register(Box::new(calls.seconds.clone()))?;
        registry.register(Box::new(calls.errors.clone()))?;
        Ok(calls)
    }

    /// One call, to be counted from then on.
    pub(crate) fn call(&self, name: &str) -> BusCall {
        BusCall {
            seconds: self.seconds.with_label_values(&[name]),
            errors: self.errors.with_label_values(&[name]),
        }
    }
}

/// Counts one call of the bus. Cheap to clone.
#[derive(Clone)]
pub(crate) struct BusCall {
    seconds: prometheus::Histogram,
    errors: prometheus::IntCounter,
}

impl BusCall {
    pub(crate) fn done(&self, took: Duration, failed: bool) {
        self.seconds.observe(took.as_secs_f64());
        if failed {
            self.errors.inc();
        }
    }
}
