//! What a gateway counts (CONTRACT section 8). Labels come from bounded sets; nothing here is touched
//! once a delivery, only once an event.

mod labels;
mod namespaces;
mod queues;

use std::{
    array,
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use model::{ErrorCode, Namespace};
use prometheus::{
    Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge, Registry,
    core::{Collector, MetricVec, MetricVecBuilder},
    histogram_opts, opts,
};
use sio::engine::{CloseReason, HandshakeError};

use self::namespaces::{ByNamespace, Direction};
pub(crate) use self::{labels::EventLabel, queues::Queues};
use crate::session::{Because, Refusal};

/// From 100 µs, a fast local round trip, to 10 s, beyond which a client has given up.
const SECONDS: [f64; 16] = [
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
];
/// From an empty event to the default largest payload.
const BYTES: [f64; 8] = [
    64.0,
    256.0,
    1024.0,
    4096.0,
    16_384.0,
    65_536.0,
    262_144.0,
    1_048_576.0,
];
/// Every code that [`Metrics::failed`] may be told.
const CODES: [ErrorCode; 9] = [
    ErrorCode::ValidationError,
    ErrorCode::Unauthorized,
    ErrorCode::Forbidden,
    ErrorCode::NotFound,
    ErrorCode::RateLimited,
    ErrorCode::PayloadTooLarge,
    ErrorCode::NoHandler,
    ErrorCode::Unavailable,
    ErrorCode::Internal,
];

/// What became of an append.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) enum Published {
    Stored,
    /// A repetition of one that had been stored.
    Duplicate,
    TooLarge,
    Unavailable,
}

impl Published {
    const ALL: [(Self, &'static str); 4] = [
        (Self::Stored, "ok"),
        (Self::Duplicate, "duplicate"),
        (Self::TooLarge, "too_large"),
        (Self::Unavailable, "unavailable"),
    ];
}

/// What went through a gateway since it began; acknowledgements are not counted.
#[derive(Copy, Clone, Default)]
pub(crate) struct Traffic {
    pub(crate) connected: u64,
    pub(crate) disconnected: u64,
    pub(crate) received: u64,
    pub(crate) sent: u64,
    pub(crate) bytes_received: u64,
    pub(crate) bytes_sent: u64,
}

/// Metrics of a gateway.
pub struct Metrics {
    by_namespace: ByNamespace,
    connections: IntCounterVec,
    message_duration: HistogramVec,
    durations: [OnceLock<Histogram>; EventLabel::COUNT],
    size_in: Histogram,
    size_out: Histogram,
    /// To each receiver.
    bytes_sent: AtomicU64,
    errors: IntCounterVec,
    auth_events: IntCounterVec,
    publish: Histogram,
    publishes: [IntCounter; 4],
    end_to_end: Histogram,
    slow_consumers: IntCounter,
    pub(crate) stale_batches: IntCounter,
    pub(crate) catch_ups: IntCounter,
    forwards: IntCounterVec,
    recoveries: IntCounterVec,
    sent_away: IntCounterVec,
    limited: IntCounterVec,
    pub(crate) limits_alone: IntGauge,
    pub(crate) draining: IntGauge,
    pub(crate) left_behind: IntGauge,
}

/// Registers families as they are made.
struct Families<'a>(&'a Registry);

impl Families<'_> {
    fn add<C: Collector + Clone + 'static>(
        &self,
        made: Result<C, prometheus::Error>,
    ) -> Result<C, prometheus::Error> {
        let family = made?;
        self.0.register(Box::new(family.clone()))?;
        Ok(family)
    }

    fn counter(&self, name: &str, help: &str) -> Result<IntCounter, prometheus::Error> {
        self.add(IntCounter::new(name, help))
    }

    fn gauge(&self, name: &str, help: &str) -> Result<IntGauge, prometheus::Error> {
        self.add(IntGauge::new(name, help))
    }

    fn histogram(&self, name: &str, help: &str, buckets: &[f64]) -> Result<Histogram, prometheus::Error> {
        self.add(Histogram::with_opts(histogram_opts!(
            name,
            help,
            buckets.to_vec()
        )))
    }

    /// The children of `values` are there at 0, so that their first increment shows in a rate.
    fn counters(
        &self,
        name: &str,
        help: &str,
        label: &str,
        values: &[&str],
    ) -> Result<IntCounterVec, prometheus::Error> {
        let counters = self.add(IntCounterVec::new(opts!(name, help), &[label]))?;
        begin(&counters, values.iter().map(|value| vec![*value]));
        Ok(counters)
    }
}

fn begin<'a, B: MetricVecBuilder>(family: &MetricVec<B>, children: impl Iterator<Item = Vec<&'a str>>) {
    for values in children {
        family.with_label_values(&values);
    }
}

impl Metrics {
    /// Registers everything.
    ///
    /// # Errors
    /// When a name is taken already.
    pub fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let families = Families(registry);
        let message_size = families.add(HistogramVec::new(
            histogram_opts!(
                "socket_message_size_bytes",
                "Size of events, by direction",
                BYTES.to_vec()
            ),
            &["direction"],
        ))?;
        let publishes = families.counters(
            "fanfare_publishes_total",
            "Events given to the log, by result: ok, duplicate (stored before under the same key), too_large, unavailable",
            "result",
            &Published::ALL.map(|(_, name)| name),
        )?;
        let limited = families.add(IntCounterVec::new(
            opts!(
                "fanfare_rate_limits_total",
                "What limits did, by limit (user, event, socket: events; address: handshakes and failed authentications) and outcome: near (a warning), refused, cut (connections of those who went on)"
            ),
            &["limit", "outcome"],
        ))?;
        let outcomes = |limit: &'static str| ["near", "refused", "cut"].map(|outcome| vec![limit, outcome]);
        begin(
            &limited,
            ["user", "event", "socket", "address"]
                .into_iter()
                .flat_map(outcomes),
        );
        let forwards = families.add(IntCounterVec::new(
            opts!(
                "fanfare_forwards_total",
                "Requests for sessions of other gateways, by kind and outcome"
            ),
            &["kind", "result"],
        ))?;
        let results = |kind: &'static str| ["ok", "gone", "failed"].map(|result| vec![kind, result]);
        begin(&forwards, ["polling", "upgrade"].into_iter().flat_map(results));
        let message_duration = families.add(HistogramVec::new(
            histogram_opts!(
                "socket_message_duration_seconds",
                "From an event's arrival at a gateway to its hand-over to the members' sockets",
                SECONDS.to_vec()
            ),
            &["event"],
        ))?;
        let mut refusals = vec!["ok"];
        refusals.extend(Refusal::ALL.map(Refusal::message));
        Ok(Self {
            by_namespace: ByNamespace::register(registry)?,
            connections: families.counters(
                "socket_connections_total",
                "Connection attempts, by outcome: connected, refused (by the protocol or the authentication), full, memory, busy, limited",
                "status",
                &["connected", "refused", "full", "memory", "busy", "limited"],
            )?,
            durations: array::from_fn(|_| OnceLock::new()),
            message_duration,
            size_in: message_size.with_label_values(&[Direction::Inbound.as_str()]),
            size_out: message_size.with_label_values(&[Direction::Outbound.as_str()]),
            bytes_sent: AtomicU64::new(0),
            errors: families.counters(
                "socket_errors_total",
                "Errors told to clients, by code; of handshakes, by message",
                "type",
                &CODES.map(ErrorCode::as_str),
            )?,
            auth_events: families.counters(
                "socket_auth_events_total",
                "Authentications, by outcome",
                "status",
                &refusals,
            )?,
            publish: families.histogram(
                "fanfare_publish_seconds",
                "From giving an event to the log to its acknowledgement",
                &SECONDS,
            )?,
            publishes: Published::ALL.map(|(_, name)| publishes.with_label_values(&[name])),
            end_to_end: families.histogram(
                "fanfare_end_to_end_seconds",
                "From an event's arrival at any gateway to its hand-over to the sockets of this one",
                &SECONDS,
            )?,
            slow_consumers: families.counter(
                "fanfare_slow_consumers_total",
                "Sockets cut because their clients did not read what they were sent",
            )?,
            stale_batches: families.counter(
                "fanfare_stale_batches_total",
                "Batches dropped because they came from a worker that had been replaced",
            )?,
            catch_ups: families.counter(
                "fanfare_catch_ups_total",
                "Times a partition was read from the log because deliveries were missing",
            )?,
            forwards,
            recoveries: families.counters(
                "fanfare_recoveries_total",
                "Clients that came back with a session, by what became of it: recovered, unknown (nobody has it), too late (what was missed is gone), forbidden, unavailable (nobody can tell at the moment)",
                "result",
                &["recovered", "unknown", "too late", "forbidden", "unavailable"],
            )?,
            sent_away: families.counters(
                "fanfare_sent_away_total",
                "Connections closed so that their clients come back elsewhere, by reason: drain, shed, age",
                "why",
                &["drain", "shed", "age"],
            )?,
            limited,
            limits_alone: families.gauge(
                "fanfare_rate_limits_alone",
                "1 while limits that hold for all gateways are counted by this one alone, because Redis does not answer",
            )?,
            draining: families.gauge("fanfare_draining", "1 while the gateway drains")?,
            left_behind: families.gauge(
                "fanfare_sessions_away",
                "Sessions whose sockets are gone and may come back",
            )?,
        })
    }

    /// Events received and delivered so far.
    #[must_use]
    pub fn messages(&self) -> u64 {
        let Traffic { received, sent, .. } = self.traffic();
        received + sent
    }

    pub(crate) fn traffic(&self) -> Traffic {
        Traffic {
            connected: self.connections.with_label_values(&["connected"]).get(),
            disconnected: self.by_namespace.gone(),
            received: self.by_namespace.total(Direction::Inbound),
            sent: self.by_namespace.total(Direction::Outbound),
            // Sizes are far below 2^52.
            bytes_received: self.size_in.get_sample_sum() as u64,
            bytes_sent: self.bytes_sent.load(Ordering::Relaxed),
        }
    }

    pub(crate) fn handshake_refused(&self, error: HandshakeError) {
        self.connections.with_label_values(&["refused"]).inc();
        self.errors.with_label_values(&[error.message()]).inc();
    }

    /// `status` is `full`, `memory`, `busy` or `limited`.
    pub(crate) fn connection_refused(&self, status: &str) {
        self.connections.with_label_values(&[status]).inc();
    }

    /// `why` is `drain`, `shed` or `age`.
    pub(crate) fn sent_away(&self, why: &str, count: usize) {
        self.sent_away.with_label_values(&[why]).inc_by(count as u64);
    }

    pub(crate) fn socket_connected(&self, namespace: &Namespace) {
        self.connections.with_label_values(&["connected"]).inc();
        self.auth_events.with_label_values(&["ok"]).inc();
        self.by_namespace.connected(namespace);
    }

    pub(crate) fn connect_refused(&self, refusal: &Refusal) {
        self.connections.with_label_values(&["refused"]).inc();
        self.auth_events.with_label_values(&[refusal.message()]).inc();
    }

    /// Who sends a request over HTTP was asked for; why not, if it did not hold.
    pub(crate) fn authenticated(&self, refusal: Option<&Refusal>) {
        let status = refusal.map_or("ok", |refusal| refusal.message());
        self.auth_events.with_label_values(&[status]).inc();
    }

    pub(crate) fn socket_disconnected(&self, namespace: &Namespace, reason: CloseReason) {
        self.by_namespace.disconnected(namespace, reason);
        if reason == CloseReason::SlowConsumer {
            self.slow_consumers.inc();
        }
    }

    pub(crate) fn received(&self, namespace: &Namespace, event: &str, size: usize) {
        let event = EventLabel::of(event);
        self.by_namespace.events(namespace, event, Direction::Inbound, 1);
        // Sizes are far below 2^52.
        self.size_in.observe(size as f64);
    }

    pub(crate) fn published(&self, result: Published, took: Duration) {
        self.publishes[result as usize].inc();
        self.publish.observe(took.as_secs_f64());
    }

    /// `limit` is `user`, `event`, `socket` or `address`; `outcome` is `near`, `refused` or `cut`.
    pub(crate) fn limited(&self, limit: &str, outcome: &str) {
        self.limited.with_label_values(&[limit, outcome]).inc();
    }

    pub(crate) fn recovered(&self, result: Result<(), Because>) {
        let result = result.map_or_else(Because::as_str, |()| "recovered");
        self.recoveries.with_label_values(&[result]).inc();
    }

    pub(crate) fn delivered(
        &self,
        namespace: &Namespace,
        event: &str,
        receivers: usize,
        size: usize,
        sent_ms: u64,
    ) {
        let event = EventLabel::of(event);
        self.by_namespace
            .events(namespace, event, Direction::Outbound, receivers as u64);
        self.size_out.observe(size as f64);
        self.bytes_sent
            .fetch_add((size * receivers) as u64, Ordering::Relaxed);
        let seconds = crate::now_ms().saturating_sub(sent_ms) as f64 / 1000.0;
        self.durations[event.index()]
            .get_or_init(|| self.message_duration.with_label_values(&[event.as_str()]))
            .observe(seconds);
        self.end_to_end.observe(seconds);
    }

    /// `kind` is `polling` or `upgrade`, `result` is `ok`, `gone` or `failed`.
    pub(crate) fn forwarded(&self, kind: &str, result: &str) {
        self.forwards.with_label_values(&[kind, result]).inc();
    }

    pub(crate) fn failed(&self, code: ErrorCode) {
        self.errors.with_label_values(&[code.as_str()]).inc();
    }
}
