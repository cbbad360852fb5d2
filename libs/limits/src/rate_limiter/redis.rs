//! Rate limits in Redis, for all processes that use the same one.
//!
//! A key is one number, which expires when everything has come back; time is the server's own, so that the clocks of
//! the processes do not matter. It is exact to the microsecond: limits of more than a million events a second are
//! not. What Redis forgets, by a restart or a failover, comes back early.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use registry::redis::{Redis, Script};
use tokio::sync::watch;

use super::{Decision, Lease, Limit, Limiters, LimitsError, RateLimiter};

/// The limiters of one Redis, which may be found only later: until then who asks waits.
pub struct RedisLimiters {
    redis: watch::Receiver<Option<Redis>>,
    lease: Script,
    give_back: Script,
}

/// One limit in Redis.
struct RedisLimiter {
    name: String,
    limit: Limit,
    redis: watch::Receiver<Option<Redis>>,
    lease: Script,
    give_back: Script,
}

impl RedisLimiters {
    /// Limiters in this Redis, as soon as there is one.
    #[must_use]
    pub fn new(redis: watch::Receiver<Option<Redis>>) -> Self {
        Self {
            redis,
            lease: Script::new("limit_lease", include_str!("../scripts/limit_lease.lua")),
            give_back: Script::new("limit_give_back", include_str!("../scripts/limit_give_back.lua")),
        }
    }
}

impl Limiters for RedisLimiters {
    fn limiter(&self, name: &str, limit: Limit) -> Arc<dyn RateLimiter> {
        Arc::new(RedisLimiter {
            name: name.to_owned(),
            limit,
            redis: self.redis.clone(),
            lease: self.lease.clone(),
            give_back: self.give_back.clone(),
        })
    }
}

impl RedisLimiter {
    async fn redis(&self) -> Result<Redis, LimitsError> {
        let mut found = self.redis.clone();
        let redis = found
            .wait_for(Option::is_some)
            .await
            .ok()
            .and_then(|redis| redis.clone());
        redis.ok_or_else(|| LimitsError::Unavailable("there is no Redis".into()))
    }

    fn window_us(&self) -> u64 {
        u64::try_from(self.limit.window.as_micros())
            .unwrap_or(u64::MAX)
            .max(1)
    }
}

#[async_trait]
impl RateLimiter for RedisLimiter {
    async fn lease(&self, key: &str, cost: u32, spare: u32) -> Result<Lease, LimitsError> {
        let limit = self.limit.events;
        if cost > limit {
            return Err(LimitsError::TooCostly { cost, limit });
        }
        let redis = self.redis().await?;
        let args = (limit, self.window_us(), cost, spare);
        let key = redis.keys().limit(&self.name, key);
        let answer: Result<(bool, u32, u32, u64, u64), _> = redis.invoke(&self.lease, key, args).await;
        let (allowed, spare, remaining, retry_us, reset_us) =
            answer.map_err(|error| LimitsError::Unavailable(error.into()))?;
        let decision = Decision {
            allowed,
            limit,
            remaining,
            retry_after: Duration::from_micros(retry_us),
            reset_in: Duration::from_micros(reset_us),
        };
        Ok(Lease { decision, spare })
    }

    async fn give_back(&self, key: &str, count: u32) -> Result<(), LimitsError> {
        let redis = self.redis().await?;
        let args = (self.limit.events, self.window_us(), count);
        let key = redis.keys().limit(&self.name, key);
        let answer: Result<bool, _> = redis.invoke(&self.give_back, key, args).await;
        answer
            .map(drop)
            .map_err(|error| LimitsError::Unavailable(error.into()))
    }
}
