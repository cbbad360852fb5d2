use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use crate::{App, AppError, Topic};

/// Asks one place after the other until one can be told of it and handles it.
pub struct FirstOf(Vec<Arc<dyn App>>);

impl FirstOf {
    /// In this order.
    #[must_use]
    pub fn new(apps: Vec<Arc<dyn App>>) -> Self {
        Self(apps)
    }
}

#[async_trait]
impl App for FirstOf {
    async fn ask(&self, topic: Topic<'_>, json: Bytes) -> Result<Bytes, AppError> {
        let mut nobody = AppError::NoHandler;
        for app in &self.0 {
            match app.ask(topic, json.clone()).await {
                Err(AppError::NoHandler) => {}
                Err(AppError::TooLarge) => nobody = AppError::TooLarge,
                outcome => return outcome,
            }
        }
        Err(nobody)
    }
}
