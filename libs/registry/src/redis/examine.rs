use std::time::{Duration, Instant};

use redis::cmd;

use super::Redis;
use crate::RegistryError;

/// What a server says of itself, for an operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RedisReport {
    /// Its version; empty when it does not tell.
    pub version: String,
    /// `maxmemory-policy`; empty when it does not tell.
    pub eviction: String,
    /// Its time since 1970, and how long the question took.
    pub clock: (Duration, Duration),
}

impl Redis {
    /// Asks the server. In a cluster any of the masters answers for all.
    ///
    /// # Errors
    /// [`RegistryError::Unavailable`] when it does not answer.
    pub async fn examine(&self) -> Result<RedisReport, RegistryError> {
        let begun = Instant::now();
        let (seconds, microseconds): (u64, u32) = self.query("time", &cmd("TIME")).await?;
        let took = begun.elapsed();
        // A hosted Redis may tell less, a cluster answers in its own form.
        let info: String = self.query("info", &cmd("INFO")).await.unwrap_or_default();
        let field = |name: &str| {
            let value = info
                .lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            value.unwrap_or_default().trim().to_owned()
        };
        Ok(RedisReport {
            version: field("redis_version"),
            eviction: field("maxmemory_policy"),
            clock: (Duration::new(seconds, microseconds.saturating_mul(1000)), took),
        })
    }
}
