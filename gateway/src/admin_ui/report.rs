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
use crate::{metrics::Metrics, session::json, transport::EngineServer};

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
    aggregated_events: [Aggregated; 1],
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
    let mut told = metrics.messages();
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
        let messages = metrics.messages();
        let report = Report {
            server_id: id.as_str(),
            hostname: hostname.trim(),
            pid: std::process::id(),
            uptime: begun.elapsed().as_secs(),
            clients_count: clients,
            polling_clients_count: polling,
            aggregated_events: [Aggregated {
                timestamp: crate::now_ms(),
                r#type: "packetsIn",
                count: messages.saturating_sub(told),
            }],
            namespaces: namespaces
                .iter()
                .map(|(name, count)| Count {
                    name,
                    sockets_count: *count,
                })
                .collect(),
        };
        told = messages;
        if let Err(error) = signals.publish(subjects::ADMIN_REPORT, json(&report).into()) {
            tracing::debug!(%error, "admin pages are not told of this gateway");
        }
    }
}
