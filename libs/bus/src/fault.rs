//! A log that fails on purpose, to try out those who use one.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use model::RoomToken;

use crate::{Append, Entry, EventLog, LogError, NewEntry, Page, PageQuery, Tail};

/// How often what goes wrong, as probabilities from 0 to 1.
#[derive(Copy, Clone, Debug, Default, PartialEq)]
pub struct Faults {
    /// An append is not stored.
    pub refused_append: f64,
    /// An append is stored, yet reported as unavailable.
    pub unknown_append: f64,
    /// A tail breaks off instead of handing out its next entries, and for good.
    pub broken_tail: f64,
    /// Reading (opening a tail, a page, an entry, the last sequence) is refused.
    pub refused_read: f64,
    /// Every outcome comes later by a random time up to this. What was appended has its place before.
    pub delay: Duration,
}

/// Wraps a log; the same seed and calls give the same faults.
#[derive(Clone)]
pub struct FaultyLog {
    inner: Arc<dyn EventLog>,
    faults: Faults,
    dice: Arc<Dice>,
}

impl FaultyLog {
    /// `inner` with `faults`.
    #[must_use]
    pub fn new(inner: Arc<dyn EventLog>, faults: Faults, seed: u64) -> Self {
        Self {
            inner,
            faults,
            dice: Arc::new(Dice(AtomicU64::new(seed))),
        }
    }

    async fn read<T>(&self, read: impl Future<Output = Result<T, LogError>>) -> Result<T, LogError> {
        let refused = self.dice.hits(self.faults.refused_read);
        self.dice.wait(self.faults.delay).await;
        if refused { Err(unavailable()) } else { read.await }
    }
}

#[async_trait]
impl EventLog for FaultyLog {
    fn partitions(&self) -> u16 {
        self.inner.partitions()
    }

    fn append(&self, partition: u16, entry: NewEntry) -> Append {
        if self.dice.hits(self.faults.refused_append) {
            return Box::pin(std::future::ready(Err(unavailable())));
        }
        let append = self.inner.append(partition, entry);
        let unknown = self.dice.hits(self.faults.unknown_append);
        let (dice, delay) = (Arc::clone(&self.dice), self.faults.delay);
        Box::pin(async move {
            let appended = append.await;
            dice.wait(delay).await;
            if unknown { Err(unavailable()) } else { appended }
        })
    }

    async fn last_seq(&self, partition: u16) -> Result<u64, LogError> {
        self.read(self.inner.last_seq(partition)).await
    }

    async fn tail(&self, partition: u16, after: u64) -> Result<Box<dyn Tail>, LogError> {
        let inner = self.read(self.inner.tail(partition, after)).await?;
        Ok(Box::new(FaultyTail {
            inner,
            log: self.clone(),
            broken: false,
            ready: None,
        }))
    }

    async fn page(&self, partition: u16, room: RoomToken, query: PageQuery) -> Result<Page, LogError> {
        self.read(self.inner.page(partition, room, query)).await
    }

    async fn get(&self, partition: u16, seq: u64) -> Result<Option<Entry>, LogError> {
        self.read(self.inner.get(partition, seq)).await
    }
}

struct FaultyTail {
    inner: Box<dyn Tail>,
    log: FaultyLog,
    broken: bool,
    /// Entries that are delayed; kept here so that giving up waiting loses none.
    ready: Option<Vec<Entry>>,
}

#[async_trait]
impl Tail for FaultyTail {
    async fn next(&mut self) -> Result<Vec<Entry>, LogError> {
        if self.broken {
            return Err(unavailable());
        }
        if self.ready.is_none() {
            let entries = self.inner.next().await?;
            if self.log.dice.hits(self.log.faults.broken_tail) {
                self.broken = true;
                return Err(unavailable());
            }
            self.ready = Some(entries);
        }
        self.log.dice.wait(self.log.faults.delay).await;
        Ok(self.ready.take().unwrap_or_default())
    }
}

fn unavailable() -> LogError {
    LogError::Unavailable("on purpose".to_owned())
}

/// SplitMix64 (Steele, Lea and Flood 2014): any seed will do.
struct Dice(AtomicU64);

impl Dice {
    fn roll(&self) -> u64 {
        const GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;
        let mut z = self.0.fetch_add(GAMMA, Ordering::Relaxed).wrapping_add(GAMMA);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From 0 to 1, without 1.
    fn fraction(&self) -> f64 {
        let bits = u32::try_from(self.roll() >> 32).unwrap_or_default();
        f64::from(bits) / (f64::from(u32::MAX) + 1.0)
    }

    fn hits(&self, probability: f64) -> bool {
        probability > 0.0 && self.fraction() < probability
    }

    async fn wait(&self, most: Duration) {
        if !most.is_zero() {
            tokio::time::sleep(most.mul_f64(self.fraction())).await;
        }
    }
}
