//! Applications behind a URL.

use async_trait::async_trait;
use bytes::Bytes;
use calls::{CallError, Http, SetupError, Trust, Webhook, uri};
use config::{Config, Secret};
use http::StatusCode;

use crate::{App, AppError, Topic};

/// Asks by signed POST requests.
pub struct WebhookApp {
    events: Option<Webhook>,
    authorize: Option<Webhook>,
    /// Bytes of the largest answer.
    max_answer: usize,
}

impl WebhookApp {
    /// `app.webhook_url`, and `app.authorize_url` for questions of that kind where there is one; `None` without both.
    ///
    /// # Errors
    /// When a setting cannot be used.
    pub fn from_config(config: &Config) -> Result<Option<Self>, SetupError> {
        let app = &config.app;
        let urls = [app.webhook_url.as_deref(), app.authorize_url.as_deref()];
        if urls == [None, None] {
            return Ok(None);
        }
        let trust = Trust::of("app.tls_ca", app.tls_ca.as_deref(), urls.into_iter().flatten());
        let http = Http::new(trust, app.timeout)?;
        let secret = app.webhook_secret.as_ref().map(Secret::expose);
        let webhook = |setting, url: Option<&str>| {
            url.map(|url| Ok(Webhook::new(http.clone(), uri(setting, url)?, secret)))
                .transpose()
        };
        let events = webhook("app.webhook_url", app.webhook_url.as_deref())?;
        let authorize = webhook("app.authorize_url", app.authorize_url.as_deref())?;
        Ok(Some(Self {
            authorize: authorize.or_else(|| events.clone()),
            events,
            max_answer: config.gateway.max_payload.saturating_mul(2),
        }))
    }
}

#[async_trait]
impl App for WebhookApp {
    async fn ask(&self, topic: Topic<'_>, json: Bytes) -> Result<Bytes, AppError> {
        let webhook = match topic {
            Topic::Event { .. } | Topic::News { .. } => &self.events,
            Topic::Authorize { .. } => &self.authorize,
        };
        let webhook = webhook.as_ref().ok_or(AppError::NoHandler)?;
        let (status, body) = webhook
            .post(json, self.max_answer)
            .await
            .map_err(|error| match error {
                CallError::Late(_) => AppError::Late,
                CallError::Failed(_) => AppError::Unavailable(error.to_string()),
                CallError::TooLarge(_) => AppError::Rubbish(error.to_string()),
            })?;
        match status {
            status if status.is_success() => Ok(body),
            StatusCode::NOT_FOUND => Err(AppError::NoHandler),
            StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS => {
                Err(AppError::Unavailable(format!("status {status}")))
            }
            status if status.is_server_error() => Err(AppError::Unavailable(format!("status {status}"))),
            status => Err(AppError::Refused(format!("status {status}"))),
        }
    }
}
