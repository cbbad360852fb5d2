//! Notifications as configured: inboxes for the publisher API, channels for the workers.

use std::{sync::Arc, time::Duration};

use anyhow::Context;
use async_trait::async_trait;
use bus::{Documents, EventLog, WorkQueue};
use calls::{Http, Trust, Webhook, uri};
use config::{Config, NotificationChannel};
use fanout::publisher::Notifier;
use lifecycle::Tasks;
use limits::{
    Limit, Limiters, RateLimiter,
    rate_limiter::memory::{MemoryLimiter, system_clock},
};
use model::ClientError;
use notifications::{Channel, Channels, Notifications, Rule, Settings};
use prometheus::{IntCounterVec, Registry, opts};
use proto::v1::NotifyUserRequest;
use telemetry::trace::Receiving;

const SECOND: Duration = Duration::from_secs(1);

/// What notifications are kept in and told by.
pub(crate) struct Deps {
    pub(crate) documents: Arc<dyn Documents>,
    pub(crate) log: Arc<dyn EventLog>,
    pub(crate) work: Arc<dyn WorkQueue>,
    /// Counts the calls of all processes together; without, each counts for itself.
    pub(crate) limiters: Option<Arc<dyn Limiters>>,
}

struct Taking(Notifications);

#[async_trait]
impl Notifier for Taking {
    async fn notify(
        &self,
        request: NotifyUserRequest,
        trace: Option<&Receiving>,
    ) -> Result<String, ClientError> {
        self.0.request(request, trace).await
    }
}

/// Takes notifications, and works on the channels as tasks of `tasks`.
///
/// # Errors
/// When a channel cannot be called as configured.
pub(crate) fn start(
    config: &Config,
    deps: Deps,
    tasks: &Tasks,
    registry: &Registry,
) -> anyhow::Result<Arc<dyn Notifier>> {
    let Deps {
        documents,
        log,
        work,
        limiters,
    } = deps;
    let attempts = IntCounterVec::new(
        opts!(
            "fanfare_notification_calls_total",
            "Notifications to channels beside the browser, by channel and outcome: ok, retried, expired, dead (given up)"
        ),
        &["channel", "outcome"],
    )?;
    registry.register(Box::new(attempts.clone()))?;
    let settings = &config.notifications;
    for channel in &settings.channels {
        let served = serves(config, channel, limiters.as_deref())
            .with_context(|| format!("notifications.channels.{}", channel.name))?;
        served.serve(&work, &attempts, tasks);
    }
    let names = settings.channels.iter().map(|channel| channel.name.clone());
    let rules = settings.rules.iter().map(|rule| Rule {
        event: rule.event.clone(),
        kind: rule.kind.clone(),
        title: rule.title.clone(),
        body: rule.body.clone(),
        channels: rule.channels.clone(),
        expires_in: rule.expire,
    });
    let inboxes = Settings {
        keep: settings.keep_per_user as usize,
        expires_in: settings.expire,
    };
    let channels = Channels::new(work, names.collect());
    let notifications = Notifications::new(documents, log, inboxes).with(channels, rules.collect());
    Ok(Arc::new(Taking(notifications)))
}

fn serves(
    config: &Config,
    channel: &NotificationChannel,
    limiters: Option<&dyn Limiters>,
) -> anyhow::Result<Channel> {
    let url = channel.url.expose();
    // Applications' services are behind the same authorities as their endpoint for sessions.
    let trust = Trust::of("auth.tls_ca", config.auth.tls_ca.as_deref(), std::iter::once(url));
    let http = Http::new(trust, channel.timeout)?;
    let secret = channel.secret.as_ref().map(config::Secret::expose);
    let limit = Limit::new(channel.max_per_second, SECOND);
    let limiters = limit.map(|limit| {
        let together = limiters.map(|limiters| limiters.limiter(&format!("notify:{}", channel.name), limit));
        // Each process for itself, while the others cannot be heard of.
        let alone = MemoryLimiter::new(limit, std::num::NonZeroUsize::MIN, system_clock());
        together
            .into_iter()
            .chain([Arc::new(alone) as Arc<dyn RateLimiter>])
            .collect()
    });
    Ok(Channel {
        name: channel.name.clone(),
        webhook: Webhook::new(http, uri("url", url)?, secret),
        limiters: limiters.unwrap_or_default(),
        max_attempts: channel.max_attempts,
        pause: channel.retry_after,
    })
}
