use std::sync::Arc;

use app::conformance;
use bus::{
    nats::{NatsConfig, NatsHealth, connect},
    signals::{memory::MemorySignals, nats::NatsSignals},
};
use servers::{Nats, NatsVersion};

use crate::listener::Listener;

#[tokio::test]
async fn conforms_on_nats() {
    let nats = Nats::start(NatsVersion::Current).unwrap();
    let config = NatsConfig {
        servers: nats.url(),
        ..NatsConfig::default()
    };
    let client = connect(&config, &NatsHealth::new()).await.unwrap();
    let mut stage = Listener::new(Arc::new(NatsSignals::new(client)));
    conformance::app(&mut stage).await;
}

#[tokio::test]
async fn conforms_in_memory() {
    let mut stage = Listener::new(Arc::new(MemorySignals::new()));
    conformance::app(&mut stage).await;
}
