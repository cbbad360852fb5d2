//! The conformance suite on a private Redis, and what only a Redis can do.
#![allow(clippy::unwrap_used, missing_docs, reason = "tests")]

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use limits::{
    Limit, Limiters, LimitsError, RateLimiter,
    rate_limiter::{
        conformance::{self, Stage},
        redis::RedisLimiters,
    },
};
use registry::redis::{self, RedisConfig};
use tokio::sync::watch;

struct RedisStage {
    limiters: RedisLimiters,
    count: AtomicU32,
}

#[async_trait]
impl Stage for RedisStage {
    async fn limiter(&self, limit: Limit) -> Arc<dyn RateLimiter> {
        let number = self.count.fetch_add(1, Ordering::Relaxed);
        self.limiters.limiter(&format!("limit-{number}"), limit)
    }

    async fn pass(&self, time: Duration) {
        tokio::time::sleep(time).await;
    }
}

async fn limiters(server: &servers::Redis) -> RedisLimiters {
    let config = RedisConfig {
        urls: server.url(),
        ..RedisConfig::default()
    };
    let redis = redis::connect(&config).await.unwrap();
    RedisLimiters::new(watch::channel(Some(redis)).1)
}

#[tokio::test]
async fn conforms() {
    let server = servers::Redis::start().unwrap();
    let limiters = limiters(&server).await;
    let stage = RedisStage {
        limiters,
        count: AtomicU32::new(0),
    };
    conformance::all(&stage).await;
}

#[tokio::test]
async fn who_has_not_been_found_cannot_be_asked() {
    let limiters = RedisLimiters::new(watch::channel(None).1);
    let limiter = limiters.limiter("events", Limit::new(1, Duration::from_secs(1)).unwrap());
    assert!(matches!(
        limiter.check("a", 1).await,
        Err(LimitsError::Unavailable(_))
    ));
}
