//! The engine of `Signals` on NATS: conformance, and what happens when servers and connections fail.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test reports by panicking")]

use std::sync::Arc;

use bus::{
    Signals,
    conformance::signals,
    nats::{NatsConfig, NatsHealth, connect},
    signals::nats::NatsSignals,
};
use servers::{Nats, NatsVersion};

fn config(url: String) -> NatsConfig {
    NatsConfig {
        servers: url,
        name: "test".to_owned(),
        ..NatsConfig::default()
    }
}

#[tokio::test]
async fn nats_signals_conform() {
    for version in NatsVersion::ALL {
        let nats = Nats::start(version).unwrap();
        let health = NatsHealth::new();
        let client = connect(&config(nats.url()), &health).await.unwrap();
        let bus: Arc<dyn Signals> = Arc::new(NatsSignals::new(client));
        signals(async || Arc::clone(&bus)).await;
    }
}
