//! Counts what crosses the wire.

use std::sync::{
    Arc, Weak,
    atomic::{AtomicU64, Ordering},
};

use parking_lot::Mutex;

/// What crossed from worker to gateway, counted a frame at a time: sent where it is asked at the worker,
/// received at the gateway.
#[derive(Debug, Default)]
pub struct LinkStats {
    bytes: AtomicU64,
    frames: AtomicU64,
    deliveries: AtomicU64,
    signals: AtomicU64,
}

impl LinkStats {
    /// Bytes of frames, as they are before HTTP/2 and TLS.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Frames with batches or signals.
    #[must_use]
    pub fn frames(&self) -> u64 {
        self.frames.load(Ordering::Relaxed)
    }

    /// Durable events.
    #[must_use]
    pub fn deliveries(&self) -> u64 {
        self.deliveries.load(Ordering::Relaxed)
    }

    /// Volatile events.
    #[must_use]
    pub fn signals(&self) -> u64 {
        self.signals.load(Ordering::Relaxed)
    }

    fn add(&self, frame: Counts) {
        self.bytes.fetch_add(frame.bytes, Ordering::Relaxed);
        self.frames.fetch_add(1, Ordering::Relaxed);
        self.deliveries.fetch_add(frame.deliveries, Ordering::Relaxed);
        self.signals.fetch_add(frame.signals, Ordering::Relaxed);
    }
}

/// One frame.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) bytes: u64,
    pub(super) deliveries: u64,
    pub(super) signals: u64,
}

/// Counts all links of one side.
#[derive(Debug, Default)]
pub struct Meter {
    total: LinkStats,
    links: Mutex<Vec<(Arc<str>, Weak<LinkStats>)>>,
}

impl Meter {
    /// Of all links since the start, those that are gone included.
    #[must_use]
    pub fn total(&self) -> &LinkStats {
        &self.total
    }

    /// The links there are now, each with the id of its other end. An id is there twice while a link that
    /// is gone has not been noticed.
    #[must_use]
    pub fn links(&self) -> Vec<(Arc<str>, Arc<LinkStats>)> {
        let links = self.links.lock();
        links
            .iter()
            .filter_map(|(peer, stats)| Some((Arc::clone(peer), stats.upgrade()?)))
            .collect()
    }

    /// Begins to count a link, for as long as it is there.
    pub(super) fn link(self: &Arc<Self>, peer: &str) -> LinkMeter {
        let link = Arc::default();
        let mut links = self.links.lock();
        links.retain(|(_, stats)| stats.strong_count() > 0);
        links.push((peer.into(), Arc::downgrade(&link)));
        LinkMeter {
            link,
            all: Arc::clone(self),
        }
    }
}

pub(super) struct LinkMeter {
    link: Arc<LinkStats>,
    all: Arc<Meter>,
}

impl LinkMeter {
    pub(super) fn add(&self, frame: Counts) {
        self.link.add(frame);
        self.all.total.add(frame);
    }
}
