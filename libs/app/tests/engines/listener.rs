//! An application that listens on `Signals`.

use std::sync::Arc;

use app::{
    App,
    conformance::{LATE, Stage, TIMEOUT},
    nats::SignalsApp,
};
use async_trait::async_trait;
use bus::{Signals, Subscription};
use bytes::Bytes;
use tokio::task::JoinSet;

pub(crate) struct Listener {
    signals: Arc<dyn Signals>,
    handlers: JoinSet<()>,
}

impl Listener {
    pub(crate) fn new(signals: Arc<dyn Signals>) -> Self {
        Self {
            signals,
            handlers: JoinSet::new(),
        }
    }
}

#[async_trait]
impl Stage for Listener {
    fn app(&self) -> Arc<dyn App> {
        Arc::new(SignalsApp::new(Arc::clone(&self.signals), TIMEOUT))
    }

    async fn answers(&mut self, answer: fn(Bytes) -> Option<Bytes>) {
        self.nobody().await;
        for subject in ["fanfare.app.chat.a%2Eb%20%2A", "fanfare.app._root.$authorize"] {
            let subscription = self.signals.subscribe(subject, Some("handlers")).await.unwrap();
            self.handlers
                .spawn(handle(Arc::clone(&self.signals), subscription, answer));
        }
    }

    async fn nobody(&mut self) {
        self.handlers.shutdown().await;
        // The server forgets a subscription a moment later.
        while self
            .signals
            .request("fanfare.app.chat.a%2Eb%20%2A", Bytes::new(), TIMEOUT)
            .await
            != Err(bus::SignalsError::NoResponders(
                "fanfare.app.chat.a%2Eb%20%2A".to_owned(),
            ))
        {
            tokio::task::yield_now().await;
        }
    }
}

async fn handle(
    signals: Arc<dyn Signals>,
    mut subscription: Box<dyn Subscription>,
    answer: fn(Bytes) -> Option<Bytes>,
) {
    while let Some(signal) = subscription.next().await {
        let answer = match answer(signal.payload) {
            Some(answer) => answer,
            None => {
                tokio::time::sleep(LATE).await;
                Bytes::new()
            }
        };
        if let Some(reply) = signal.reply {
            signals.publish(&reply, answer).unwrap();
        }
    }
}
