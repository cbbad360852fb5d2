//! What happens, kept for a moment for all watchers of this replica: one reader of the store's list of changes,
//! however many watch.
//!
//! The list is read when the bus says that it has grown and once in a while, since the bus may lose that word;
//! while nobody watches it is not read at all. The newest changes stay in a ring; a watcher has a place in it and
//! takes what comes after at its own pace. A watcher that the ring has overtaken has lagged.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use bus::{Signals, SignalsError, Subscription, subjects};
use parking_lot::Mutex;
use registry::presence_store::{Changes, Position, PresenceError, PresenceStore, Transition};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{ready, ticks};

/// Changes read from the store at a time.
pub(crate) const CHUNK: usize = 1_000;
/// How late a change is noticed when the bus loses the word of it.
const POLL: Duration = Duration::from_secs(1);

/// A change and its place in the store's list.
pub(crate) type Change = Arc<(Position, Transition)>;

/// The newest changes.
pub(crate) struct Feed {
    store: Arc<dyn PresenceStore>,
    /// Who reads the store.
    reader: tokio::sync::Mutex<()>,
    ring: Mutex<Ring>,
    /// Counts the changes of the ring.
    moved: watch::Sender<u64>,
}

/// A place in the ring.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cursor {
    life: u64,
    next: u64,
}

/// What comes after a place in the ring.
pub(crate) enum Next {
    /// These, and the place after them; none for now.
    Changes(Vec<Change>, Cursor),
    /// At least so many changes were overtaken by the ring.
    Lagged(u64),
    /// The store's list is another one now.
    Reset,
}

struct Ring {
    capacity: usize,
    watchers: usize,
    /// Counts the lists of the store.
    life: u64,
    /// Place in the store's list of the newest change in the ring, or where the ring began.
    end: Option<Position>,
    /// Number of the first change that is kept.
    first: u64,
    kept: VecDeque<Change>,
}

impl Feed {
    /// A feed that keeps the newest `capacity` changes, at least 1.
    pub(crate) fn new(store: Arc<dyn PresenceStore>, capacity: usize) -> Self {
        Self {
            store,
            reader: tokio::sync::Mutex::default(),
            ring: Mutex::new(Ring {
                capacity: capacity.max(1),
                watchers: 0,
                life: 0,
                end: None,
                first: 0,
                kept: VecDeque::new(),
            }),
            moved: watch::Sender::new(0),
        }
    }

    /// The subscription that [`run`](Self::run) reads.
    ///
    /// # Errors
    /// [`SignalsError::Unavailable`] when the bus does not answer.
    pub(crate) async fn listen(signals: &dyn Signals) -> Result<Box<dyn Subscription>, SignalsError> {
        signals.subscribe(subjects::PRESENCE_CHANGED, None).await
    }

    /// Keeps the ring current until `stop`.
    pub(crate) async fn run(&self, mut changed: Box<dyn Subscription>, stop: CancellationToken) {
        let mut poll = ticks(POLL);
        let mut away = false;
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                Some(_) = changed.next() => {
                    // One reading serves all that was said until it begins.
                    while let Some(Some(_)) = ready(changed.next()).await {}
                }
                _ = poll.tick() => {}
            }
            if !self.ring.lock().is_watched() {
                continue;
            }
            match self.read().await {
                Ok(()) => away = false,
                Err(error) if !away => {
                    away = true;
                    tracing::warn!(%error, "changes cannot be read, watchers wait");
                }
                Err(_) => {}
            }
        }
    }

    /// Keeps the ring going while it is there.
    pub(crate) fn watcher(self: &Arc<Self>) -> Watcher {
        self.ring.lock().watchers += 1;
        Watcher(Arc::clone(self))
    }

    /// Takes into the ring what the store has. Cancel safe.
    async fn read(&self) -> Result<(), PresenceError> {
        let _reader = self.reader.lock().await;
        loop {
            let end = self.ring.lock().end.clone();
            let Some(end) = end else {
                let end = self.store.changes_end().await?;
                self.ring.lock().begin(end);
                return Ok(());
            };
            match self.store.changes(&end, CHUNK).await? {
                Changes::Next(next) if next.is_empty() => return Ok(()),
                Changes::Next(next) => self.ring.lock().take(next),
                Changes::Forgotten => self.ring.lock().forget(),
            }
            self.moved.send_modify(|moved| *moved += 1);
        }
    }
}

/// Somebody who watches.
pub(crate) struct Watcher(Arc<Feed>);

impl Watcher {
    /// Where the ring ends, once it has all that was in the store when this was called, and the store's name for
    /// that place.
    ///
    /// # Errors
    /// [`PresenceError::Unavailable`].
    pub(crate) async fn begin(&self) -> Result<(Cursor, Position), PresenceError> {
        loop {
            self.0.read().await?;
            let ring = self.0.ring.lock();
            if let Some(end) = &ring.end {
                return Ok((ring.cursor(), end.clone()));
            }
        }
    }

    /// The place in the ring after a place in the store's list, if the ring has it.
    pub(crate) fn find(&self, position: &Position) -> Option<Cursor> {
        self.0.ring.lock().find(position)
    }

    /// Up to `limit` changes after a place.
    pub(crate) fn next(&self, after: Cursor, limit: usize) -> Next {
        self.0.ring.lock().next(after, limit)
    }

    /// Wakes when the ring has changed.
    pub(crate) fn moved(&self) -> watch::Receiver<u64> {
        self.0.moved.subscribe()
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        let mut ring = self.0.ring.lock();
        ring.watchers -= 1;
        if !ring.is_watched() {
            ring.forget();
        }
    }
}

impl Ring {
    fn is_watched(&self) -> bool {
        self.watchers > 0
    }

    fn begin(&mut self, end: Position) {
        self.end = Some(end);
    }

    /// Begins anew: the places of now mean nothing from here on.
    fn forget(&mut self) {
        self.life += 1;
        self.end = None;
        self.first = 0;
        self.kept = VecDeque::new();
    }

    fn take(&mut self, next: Vec<(Position, Transition)>) {
        for change in next {
            if self.kept.len() == self.capacity {
                self.kept.pop_front();
                self.first += 1;
            }
            self.end = Some(change.0.clone());
            self.kept.push_back(Arc::new(change));
        }
    }

    fn cursor(&self) -> Cursor {
        Cursor {
            life: self.life,
            next: self.first + self.kept.len() as u64,
        }
    }

    fn find(&self, position: &Position) -> Option<Cursor> {
        if self.end.as_ref() == Some(position) {
            return Some(self.cursor());
        }
        let at = self.kept.iter().rposition(|change| change.0 == *position)?;
        Some(Cursor {
            life: self.life,
            next: self.first + at as u64 + 1,
        })
    }

    fn next(&self, after: Cursor, limit: usize) -> Next {
        if after.life != self.life {
            return Next::Reset;
        }
        let Some(skip) = after.next.checked_sub(self.first) else {
            return Next::Lagged(self.first - after.next);
        };
        let skip = usize::try_from(skip).unwrap_or(usize::MAX);
        let next: Vec<_> = self.kept.iter().skip(skip).take(limit).cloned().collect();
        let cursor = Cursor {
            next: after.next + next.len() as u64,
            ..after
        };
        Next::Changes(next, cursor)
    }
}
