//! Applications that listen on NATS, or on whatever else carries [`Signals`].

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use bus::{Signals, SignalsError, subjects};
use bytes::Bytes;

use crate::{App, AppError, Topic};

/// Asks by requests on `fanfare.app.<namespace>.…`, see [`subjects::app_event`].
pub struct SignalsApp {
    signals: Arc<dyn Signals>,
    timeout: Duration,
}

impl SignalsApp {
    /// An answer may take `timeout`.
    #[must_use]
    pub fn new(signals: Arc<dyn Signals>, timeout: Duration) -> Self {
        Self { signals, timeout }
    }
}

#[async_trait]
impl App for SignalsApp {
    async fn ask(&self, topic: Topic<'_>, json: Bytes) -> Result<Bytes, AppError> {
        let subject = match topic {
            Topic::Event { namespace, event } => subjects::app_event(namespace, event),
            Topic::Authorize { namespace } => subjects::app_authorize(namespace),
            Topic::News { namespace, kind } => subjects::app_lifecycle(namespace, kind),
        };
        let answer = self.signals.request(&subject, json, self.timeout).await;
        answer.map_err(|error| match error {
            SignalsError::NoResponders(_) => AppError::NoHandler,
            SignalsError::Timeout(_) => AppError::Late,
            SignalsError::TooLarge(_) => AppError::TooLarge,
            SignalsError::Unavailable(_) => AppError::Unavailable(error.to_string()),
        })
    }
}
