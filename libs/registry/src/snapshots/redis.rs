//! Interest snapshots in Redis: a hash a partition, fenced by its epoch.
//!
//! When Redis forgot everything, an owner that was replaced may save before its successor does. That does no harm: a
//! table is only what a new owner begins with, until the gateways have stated their rooms, and the successor's first
//! save goes over it.

use async_trait::async_trait;
use bytes::Bytes;

use super::{InterestSnapshots, Snapshot};
use crate::{
    RegistryError,
    redis::{Redis, Script},
};

/// Interest snapshots shared by all who use the same Redis.
pub struct RedisSnapshots {
    redis: Redis,
    save: Script,
}

impl RedisSnapshots {
    /// Interest snapshots in this Redis.
    #[must_use]
    pub fn new(redis: Redis) -> Self {
        Self {
            redis,
            save: Script::new("snapshot_save", include_str!("../scripts/save_fenced.lua")),
        }
    }
}

#[async_trait]
impl InterestSnapshots for RedisSnapshots {
    async fn save(&self, partition: u16, epoch: u64, seq: u64, table: Bytes) -> Result<bool, RegistryError> {
        let key = self.redis.keys().interest(partition);
        let fields = (epoch, "seq", seq, "table", table.as_ref());
        self.redis.invoke(&self.save, &key, fields).await
    }

    async fn load(&self, partition: u16) -> Result<Option<Snapshot>, RegistryError> {
        let mut load = redis::cmd("HMGET");
        load.arg(self.redis.keys().interest(partition))
            .arg("seq")
            .arg("table");
        let (seq, table): (Option<u64>, Option<Bytes>) = self.redis.query("snapshot_load", &load).await?;
        Ok(seq.zip(table).map(|(seq, table)| Snapshot { seq, table }))
    }
}
