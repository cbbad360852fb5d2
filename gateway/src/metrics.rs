//! What a gateway counts (CONTRACT section 8). Labels come from bounded sets; nothing here is touched
//! once a delivery, only once an event.

use model::{ErrorCode, Namespace};
use prometheus::{
    Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Registry, histogram_opts, opts,
};
use sio::engine::{CloseReason, HandshakeError};

use crate::session::{Because, Refusal};

/// Names an `event` label may have; every other event counts as `other`.
const EVENTS: [&str; 19] = [
    "join-room",
    "leave-room",
    "message",
    "sendMessage",
    "typing",
    "getOrCreateRoom",
    "getMessages",
    "markMessagesRead",
    "ping",
    "subscribe",
    "markNotificationRead",
    "getOnlineUsers",
    "refresh-token",
    "room-presence",
    "user-left",
    "user-online",
    "user-offline",
    "user-typing",
    "messagesRead",
];

/// Metrics of a gateway.
pub struct Metrics {
    active_connections: IntGaugeVec,
    connections: IntCounterVec,
    disconnects: IntCounterVec,
    messages: IntCounterVec,
    message_duration: HistogramVec,
    message_size: HistogramVec,
    errors: IntCounterVec,
    auth_events: IntCounterVec,
    end_to_end: Histogram,
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

impl Metrics {
    /// Registers everything.
    ///
    /// # Errors
    /// When a name is taken already.
    pub fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        // From 100 µs, a fast local round trip, to 10 s, beyond which a client has given up.
        let seconds = vec![
            0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0,
            10.0,
        ];
        // From an empty event to the default largest payload.
        let bytes = vec![
            64.0,
            256.0,
            1024.0,
            4096.0,
            16_384.0,
            65_536.0,
            262_144.0,
            1_048_576.0,
        ];
        let metrics = Self {
            active_connections: IntGaugeVec::new(
                opts!("socket_active_connections", "Sockets connected to this gateway"),
                &["namespace"],
            )?,
            connections: IntCounterVec::new(
                opts!("socket_connections_total", "Connection attempts, by outcome"),
                &["status"],
            )?,
            disconnects: IntCounterVec::new(
                opts!("socket_disconnects_total", "Sockets that have gone, by reason"),
                &["namespace", "reason"],
            )?,
            messages: IntCounterVec::new(
                opts!("socket_messages_total", "Events, by name and direction"),
                &["namespace", "event", "direction"],
            )?,
            message_duration: HistogramVec::new(
                histogram_opts!(
                    "socket_message_duration_seconds",
                    "From an event's arrival at a gateway to its hand-over to the members' sockets",
                    seconds.clone()
                ),
                &["event"],
            )?,
            message_size: HistogramVec::new(
                histogram_opts!("socket_message_size_bytes", "Size of events, by direction", bytes),
                &["direction"],
            )?,
            errors: IntCounterVec::new(
                opts!("socket_errors_total", "Errors told to clients, by code"),
                &["type"],
            )?,
            auth_events: IntCounterVec::new(
                opts!("socket_auth_events_total", "Authentications, by outcome"),
                &["status"],
            )?,
            end_to_end: Histogram::with_opts(histogram_opts!(
                "fanfare_end_to_end_seconds",
                "From an event's arrival at any gateway to its hand-over to the sockets of this one",
                seconds
            ))?,
            stale_batches: IntCounter::new(
                "fanfare_stale_batches_total",
                "Batches dropped because they came from a worker that had been replaced",
            )?,
            catch_ups: IntCounter::new(
                "fanfare_catch_ups_total",
                "Times a partition was read from the log because deliveries were missing",
            )?,
            recoveries: IntCounterVec::new(
                opts!(
                    "fanfare_recoveries_total",
                    "Clients that came back with a session, by what became of it: recovered, unknown (nobody has it), too late (what was missed is gone), forbidden, unavailable (nobody can tell now; the client comes again)"
                ),
                &["result"],
            )?,
            sent_away: IntCounterVec::new(
                opts!(
                    "fanfare_sent_away_total",
                    "Connections closed so that their clients come back elsewhere, by reason: drain, shed, age"
                ),
                &["why"],
            )?,
            limited: IntCounterVec::new(
                opts!(
                    "fanfare_rate_limits_total",
                    "What limits did, by limit (user, event, socket: events; address: handshakes and failed authentications) and outcome: near (a warning), refused, cut (connections of those who went on)"
                ),
                &["limit", "outcome"],
            )?,
            limits_alone: IntGauge::new(
                "fanfare_rate_limits_alone",
                "1 while limits that hold for all gateways are counted by this one alone, because Redis does not answer",
            )?,
            draining: IntGauge::new("fanfare_draining", "1 while the gateway drains")?,
            left_behind: IntGauge::new(
                "fanfare_sessions_away",
                "Sessions whose sockets are gone and may come back",
            )?,
            forwards: IntCounterVec::new(
                opts!(
                    "fanfare_forwards_total",
                    "Requests for sessions of other gateways, by kind and outcome"
                ),
                &["kind", "result"],
            )?,
        };
        registry.register(Box::new(metrics.active_connections.clone()))?;
        registry.register(Box::new(metrics.connections.clone()))?;
        registry.register(Box::new(metrics.disconnects.clone()))?;
        registry.register(Box::new(metrics.messages.clone()))?;
        registry.register(Box::new(metrics.message_duration.clone()))?;
        registry.register(Box::new(metrics.message_size.clone()))?;
        registry.register(Box::new(metrics.errors.clone()))?;
        registry.register(Box::new(metrics.auth_events.clone()))?;
        registry.register(Box::new(metrics.end_to_end.clone()))?;
        registry.register(Box::new(metrics.stale_batches.clone()))?;
        registry.register(Box::new(metrics.catch_ups.clone()))?;
        registry.register(Box::new(metrics.forwards.clone()))?;
        registry.register(Box::new(metrics.recoveries.clone()))?;
        registry.register(Box::new(metrics.sent_away.clone()))?;
        registry.register(Box::new(metrics.limited.clone()))?;
        registry.register(Box::new(metrics.limits_alone.clone()))?;
        registry.register(Box::new(metrics.draining.clone()))?;
        registry.register(Box::new(metrics.left_behind.clone()))?;
        Ok(metrics)
    }

    /// Events received and delivered so far.
    #[must_use]
    pub fn messages(&self) -> u64 {
        use prometheus::core::Collector;
        let families = self.messages.collect();
        let counts = families.iter().flat_map(|family| family.get_metric());
        // Counters of whole numbers, far below 2^53.
        counts.map(|metric| metric.get_counter().get_value() as u64).sum()
    }

    pub(crate) fn handshake_refused(&self, error: HandshakeError) {
        self.connections.with_label_values(&["refused"]).inc();
        self.errors.with_label_values(&[error.message()]).inc();
    }

    /// `status` is `full` or `busy`.
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
        self.active_connections
            .with_label_values(&[namespace.as_str()])
            .inc();
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
        self.active_connections
            .with_label_values(&[namespace.as_str()])
            .dec();
        self.disconnects
            .with_label_values(&[namespace.as_str(), reason.as_str()])
            .inc();
    }

    pub(crate) fn received(&self, namespace: &Namespace, event: &str, size: usize) {
        self.messages
            .with_label_values(&[namespace.as_str(), label(event), "inbound"])
            .inc();
        // Sizes are far below 2^52.
        self.message_size
            .with_label_values(&["inbound"])
            .observe(size as f64);
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
        let event = label(event);
        self.messages
            .with_label_values(&[namespace.as_str(), event, "outbound"])
            .inc_by(receivers as u64);
        self.message_size
            .with_label_values(&["outbound"])
            .observe(size as f64);
        let seconds = crate::now_ms().saturating_sub(sent_ms) as f64 / 1000.0;
        self.message_duration.with_label_values(&[event]).observe(seconds);
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

fn label(event: &str) -> &'static str {
    EVENTS
        .into_iter()
        .find(|known| *known == event)
        .unwrap_or("other")
}
