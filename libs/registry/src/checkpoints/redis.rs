//! Checkpoints in Redis: a hash a partition, fenced by its epoch.
//!
//! When Redis forgot everything, an owner that was replaced may save before its successor does. That does no harm: its
//! position is one that it did read, and the successor's first save goes over it. Should the successor end before that,
//! the next one begins there: what lies before and was not delivered is a gap to the gateways, which they read from
//! the log; what is delivered again they drop by its offset.

use async_trait::async_trait;

use super::Checkpoints;
use crate::{
    RegistryError,
    redis::{Redis, Script},
};

/// Checkpoints shared by all who use the same Redis.
pub struct RedisCheckpoints {
    redis: Redis,
    save: Script,
}

impl RedisCheckpoints {
    /// Checkpoints in this Redis.
    #[must_use]
    pub fn new(redis: Redis) -> Self {
        Self {
            redis,
            save: Script::new("checkpoint_save", include_str!("../scripts/save_fenced.lua")),
        }
    }
}

#[async_trait]
impl Checkpoints for RedisCheckpoints {
    async fn save(&self, partition: u16, epoch: u64, seq: u64) -> Result<bool, RegistryError> {
        let key = self.redis.keys().checkpoint(partition);
        self.redis.invoke(&self.save, &key, (epoch, "seq", seq)).await
    }

    async fn load(&self, partition: u16) -> Result<Option<u64>, RegistryError> {
        let mut load = redis::cmd("HGET");
        load.arg(self.redis.keys().checkpoint(partition)).arg("seq");
        self.redis.query("checkpoint_load", &load).await
    }
}
