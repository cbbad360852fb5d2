//! What a gateway tells of itself.

use std::{
    collections::BTreeMap,
    sync::{Arc, Weak},
    time::Instant,
};

use bus::{Signals, subjects};
use model::GatewayId;
use serde::Serialize;
use tokio::time::{MissedTickBehavior, interval};

use super::EVERY;
use crate::{
    metrics::{Metrics, Traffic},
    session::json,
    transport::EngineServer,
};

/// As the page names it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Report<'a> {
    server_id: &'a str,
    hostname: &'a str,
    pid: u32,
    /// Seconds.
    uptime: u64,
    clients_count: usize,
    polling_clients_count: usize,
    aggregated_events: Vec<Aggregated>,
    namespaces: Vec<Count<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Count<'a> {
    name: &'a str,
    sockets_count: usize,
}

#[derive(Serialize)]
struct Aggregated {
    timestamp: u64,
    r#type: &'static str,
    count: u64,
}

/// Tells it to all gateways every two seconds, as long as there is the server.
pub(crate) async fn report(
    id: GatewayId,
    engine: Weak<EngineServer>,
    metrics: Arc<Metrics>,
    signals: Arc<dyn Signals>,
) {
    let begun = Instant::now();
    let hostname = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let mut told = metrics.traffic();
    let mut ticks = interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let Some(engine) = engine.upgrade() else { return };
        let mut namespaces = BTreeMap::<String, usize>::new();
        let (mut clients, mut polling) = (0, 0);
        for conn in engine.all() {
            clients += 1;
            polling += usize::from(conn.is_polling());
            for socket in conn.sockets.lock().iter() {
                *namespaces.entry(socket.namespace().to_string()).or_default() += 1;
            }
        }
        let traffic = metrics.traffic();
        let report = Report {
            server_id: id.as_str(),
            hostname: hostname.trim(),
            pid: std::process::id(),
            uptime: begun.elapsed().as_secs(),
            clients_count: clients,
            polling_clients_count: polling,
            aggregated_events: aggregated(&told, &traffic),
            namespaces: namespaces
                .iter()
                .map(|(name, count)| Count {
                    name,
                    sockets_count: *count,
                })
                .collect(),
        };
        told = traffic;
        if let Err(error) = signals.publish(subjects::ADMIN_REPORT, json(&report).into()) {
            tracing::debug!(%error, "admin pages are not told of this gateway");
        }
    }
}

/// What there was between two looks, as the page's charts name it.
fn aggregated(before: &Traffic, now: &Traffic) -> Vec<Aggregated> {
    let timestamp = crate::now_ms();
    let counts = [
        ("rawConnection", before.connected, now.connected),
        ("rawDisconnection", before.disconnected, now.disconnected),
        ("packetsIn", before.received, now.received),
        ("packetsOut", before.sent, now.sent),
        ("bytesIn", before.bytes_received, now.bytes_received),
        ("bytesOut", before.bytes_sent, now.bytes_sent),
    ];
    let changed = counts.into_iter().filter(|(_, before, now)| now > before);
    changed
        .map(|(r#type, before, now)| Aggregated {
            timestamp,
            r#type,
            count: now - before,
        })
        .collect()
}
