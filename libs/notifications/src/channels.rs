//! Channels beside the browser: each a webhook that is told of notifications, tried again until it takes them.

use std::{sync::Arc, time::Duration};

use bus::{Job, NewJob, WorkError, WorkQueue};
use bytes::Bytes;
use calls::Webhook;
use lifecycle::Tasks;
use limits::RateLimiter;
use model::UserId;
use prometheus::IntCounterVec;
use rand::Rng;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::{inbox::Notification, post::now_ms};

/// Jobs of a channel that a process works on at a time.
const WORKERS: usize = 4;
/// Longest pause between two attempts.
const MAX_PAUSE: Duration = Duration::from_secs(600);
/// Who waits for its turn says so often that it is still there.
const SIGN: Duration = Duration::from_secs(5);
/// Bytes of an answer that are looked at.
const MAX_ANSWER: usize = 64 * 1024;
/// Pause when the queue does not answer.
const AWAY: Duration = Duration::from_secs(1);

/// Hands notifications to the channels' queues.
#[derive(Clone)]
pub struct Channels {
    queue: Arc<dyn WorkQueue>,
    names: Arc<[String]>,
}

/// A channel as this process serves it.
pub struct Channel {
    /// Its name: `[A-Za-z0-9_-]+`.
    pub name: String,
    /// Who sends what it is told.
    pub webhook: Webhook,
    /// How often it may be called: the first of these that can be asked says so; as often as may be without.
    pub limiters: Vec<Arc<dyn RateLimiter>>,
    /// It is called so often for one notification before that is given up.
    pub max_attempts: u32,
    /// Pause before the second attempt; doubled for each further one, up to ten minutes.
    pub pause: Duration,
}

/// What a channel is told.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Told {
    r#type: String,
    channel: String,
    user: User,
    notification: Box<RawValue>,
    /// Unix milliseconds.
    expires_at: u64,
}

#[derive(Serialize, Deserialize)]
struct User {
    id: String,
}

/// What became of a call.
enum Outcome {
    Taken,
    /// Another attempt may go better.
    Later(String),
    /// It would not.
    Never(String),
}

impl Channels {
    /// Channels of these names.
    #[must_use]
    pub fn new(queue: Arc<dyn WorkQueue>, names: Vec<String>) -> Self {
        Self {
            queue,
            names: names.into(),
        }
    }

    /// Whether there is a channel of this name.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.names.iter().any(|known| known == name)
    }

    /// Stores what one channel is to be told. Once for each notification.
    pub(crate) async fn hand_over(
        &self,
        channel: &str,
        user: &UserId,
        notification: &Notification,
    ) -> Result<(), WorkError> {
        let told = Told {
            r#type: "notification".to_owned(),
            channel: channel.to_owned(),
            user: User { id: user.to_string() },
            notification: RawValue::from_string(notification.args()).unwrap_or_default(),
            expires_at: notification.expires_at,
        };
        let job = NewJob {
            queue: queue_of(channel),
            id: notification.id.clone(),
            payload: serde_json::to_vec(&told).unwrap_or_default().into(),
        };
        self.queue.enqueue(job).await
    }
}

impl Channel {
    /// Works on its queue as tasks of `tasks`, until those end. `attempts` counts by channel and outcome: `ok`,
    /// `retried`, `expired`, `dead`.
    pub fn serve(self, queue: &Arc<dyn WorkQueue>, attempts: &IntCounterVec, tasks: &Tasks) {
        for outcome in ["ok", "retried", "expired", "dead"] {
            attempts.with_label_values(&[&*self.name, outcome]);
        }
        let channel = Arc::new(self);
        for _ in 0..WORKERS {
            let (channel, queue, attempts) = (Arc::clone(&channel), Arc::clone(queue), attempts.clone());
            tasks.background("notification channel", async move {
                let name = queue_of(&channel.name);
                loop {
                    let Ok(job) = queue.take(&name, channel.max_attempts).await else {
                        return;
                    };
                    match channel.work(job).await {
                        Ok(outcome) => attempts.with_label_values(&[&*channel.name, outcome]).inc(),
                        Err(error) => {
                            tracing::warn!(channel = channel.name, %error, "a notification may go out again");
                            tokio::time::sleep(AWAY).await;
                        }
                    }
                }
            });
        }
    }

    async fn work(&self, job: Box<dyn Job>) -> Result<&'static str, WorkError> {
        let Ok(told) = serde_json::from_slice::<Told>(job.payload()) else {
            job.give_up("it cannot be read").await?;
            return Ok("dead");
        };
        self.turn(&*job).await?;
        if told.expires_at <= now_ms() {
            job.done().await?;
            return Ok("expired");
        }
        let (attempt, id) = (job.attempt(), job.id().to_owned());
        match self.call(job.payload().clone()).await {
            Outcome::Taken => {
                job.done().await?;
                Ok("ok")
            }
            Outcome::Later(reason) => {
                tracing::info!(
                    channel = self.name,
                    id,
                    attempt,
                    reason,
                    "a notification did not get through"
                );
                let again = job.retry(self.pause(attempt), &reason).await?;
                Ok(if again { "retried" } else { "dead" })
            }
            Outcome::Never(reason) => {
                tracing::warn!(channel = self.name, id, reason, "a notification was refused");
                job.give_up(&reason).await?;
                Ok("dead")
            }
        }
    }

    /// Waits until the channel may be called once more.
    async fn turn(&self, job: &dyn Job) -> Result<(), WorkError> {
        'waiting: loop {
            for limiter in &self.limiters {
                let Ok(decision) = limiter.check(&self.name, 1).await else {
                    continue;
                };
                if decision.allowed {
                    return Ok(());
                }
                tokio::time::sleep(decision.retry_after.min(SIGN)).await;
                job.working().await?;
                continue 'waiting;
            }
            return Ok(());
        }
    }

    async fn call(&self, body: Bytes) -> Outcome {
        match self.webhook.post(body, MAX_ANSWER).await {
            Ok((status, _)) if status.is_success() => Outcome::Taken,
            Ok((status, _)) => {
                let reason = format!("the webhook answered {status}");
                let may_change = status.is_server_error() || matches!(status.as_u16(), 408 | 425 | 429);
                if may_change {
                    Outcome::Later(reason)
                } else {
                    Outcome::Never(reason)
                }
            }
            Err(error) => Outcome::Later(error.to_string()),
        }
    }

    /// Up to a fifth more by chance, so that what failed together does not come back together.
    fn pause(&self, attempt: u32) -> Duration {
        let doubled = self.pause.saturating_mul(1 << attempt.saturating_sub(1).min(20));
        doubled
            .min(MAX_PAUSE)
            .mul_f64(rand::rng().random_range(1.0..=1.2))
    }
}

/// The queue of a channel.
fn queue_of(channel: &str) -> String {
    format!("notify-{channel}")
}
