//! One watch: a snapshot, then changes, and anew whenever changes were missed.
//!
//! A watch outlives the store's absences: it waits. What it sends waits for a watcher in a short queue; one who
//! does not read holds up nobody but his own watch, which falls behind in the feed until it has lagged.

use std::{sync::Arc, time::Duration};

use proto::v1::{
    PresenceRoom, PresenceUser, RoomChange as ToldRoom, SnapshotReason, UserChange as ToldUser, WatchLagged,
    WatchProgress, WatchResponse, WatchResumed, WatchSnapshot, WatchedRoom, room_change, user_change,
    watch_response::Event,
};
use registry::presence_store::{
    Changes, PageRequest, Position, PresenceError, PresenceStore, RoomChange, Transition, UserChange,
};
use tokio::{sync::mpsc, time::sleep};

use super::{
    Metrics,
    check::{Fields, Filter},
    queries::{Queries, timestamp},
};
use crate::watch::{CHUNK, Cursor, Next, Watcher};

/// Users in one message of a snapshot.
const PART: usize = 500;
/// Changes taken from the feed at a time.
const AT_ONCE: usize = 256;
/// After so many changes that do not concern it, a watcher gets a newer resume token.
const PROGRESS: usize = 4_096;
/// Between attempts while the store is away.
const RETRY: Duration = Duration::from_millis(500);

/// Why a watch does not go on as it did.
enum Stop {
    /// Nobody listens any more.
    Gone,
    /// The store is away.
    Away(PresenceError),
}

impl From<PresenceError> for Stop {
    fn from(error: PresenceError) -> Self {
        Self::Away(error)
    }
}

/// Nobody listens any more.
struct Gone;

impl From<Gone> for Stop {
    fn from(Gone: Gone) -> Self {
        Self::Gone
    }
}

/// One watch.
pub(super) struct Watching {
    queries: Queries,
    store: Arc<dyn PresenceStore>,
    watcher: Watcher,
    filter: Filter,
    tell: mpsc::Sender<WatchResponse>,
    metrics: Metrics,
    /// Changes passed over since something was sent.
    silent: usize,
}

impl Watching {
    pub(super) fn new(
        queries: Queries,
        store: Arc<dyn PresenceStore>,
        watcher: Watcher,
        filter: Filter,
        tell: mpsc::Sender<WatchResponse>,
        metrics: Metrics,
    ) -> Self {
        Self {
            queries,
            store,
            watcher,
            filter,
            tell,
            metrics,
            silent: 0,
        }
    }

    /// Watches from `begin` on, or from where an earlier watch ended, until nobody listens.
    pub(super) async fn run(mut self, begin: (Cursor, Position), resume: Option<Position>) {
        let tell = self.tell.clone();
        let metrics = self.metrics.clone();
        metrics.watchers.inc();
        tokio::select! {
            () = tell.closed() => {}
            Gone = self.follow(begin, resume) => {}
        }
        metrics.watchers.dec();
    }

    async fn follow(&mut self, begin: (Cursor, Position), resume: Option<Position>) -> Gone {
        let begun = match resume {
            Some(after) => self.resume(after, begin).await,
            None => self.anew(SnapshotReason::Start, Some(begin)).await,
        };
        let Ok(mut cursor) = begun else { return Gone };
        let mut moved = self.watcher.moved();
        loop {
            moved.mark_unchanged();
            let next = match self.watcher.next(cursor, AT_ONCE) {
                Next::Changes(changes, _) if changes.is_empty() => {
                    // The feed is there as long as its watchers.
                    if moved.changed().await.is_err() {
                        return Gone;
                    }
                    Ok(cursor)
                }
                Next::Changes(changes, next) => self
                    .tell_changes(changes.iter().map(|change| (&change.0, &change.1)))
                    .await
                    .map(|()| next),
                Next::Lagged(missed) => match self.send(None, Event::Lagged(WatchLagged { missed })).await {
                    Ok(()) => self.anew(SnapshotReason::Lagged, None).await,
                    Err(gone) => Err(gone),
                },
                Next::Reset => self.anew(SnapshotReason::StoreReset, None).await,
            };
            match next {
                Ok(next) => cursor = next,
                Err(gone) => return gone,
            }
        }
    }

    /// A snapshot, and where the changes after it begin. Waits while the store is away.
    async fn anew(
        &mut self,
        reason: SnapshotReason,
        mut begin: Option<(Cursor, Position)>,
    ) -> Result<Cursor, Gone> {
        self.metrics.snapshots.with_label_values(&[label(reason)]).inc();
        loop {
            match self.try_anew(reason, begin.take()).await {
                Ok(cursor) => return Ok(cursor),
                Err(Stop::Gone) => return Err(Gone),
                Err(Stop::Away(error)) => {
                    tracing::warn!(%error, "a watcher waits for its snapshot");
                    sleep(RETRY).await;
                }
            }
        }
    }

    async fn try_anew(
        &mut self,
        reason: SnapshotReason,
        begin: Option<(Cursor, Position)>,
    ) -> Result<Cursor, Stop> {
        let (cursor, position) = match begin {
            Some(begin) => begin,
            None => self.watcher.begin().await?,
        };
        let mut part = Part::first(reason);
        let namespace = self.filter.namespace.clone();
        if self.filter.is_everyone() {
            let mut page = first_page();
            loop {
                let users = self
                    .queries
                    .online_users(&namespace, page, Fields::NO_SOCKETS)
                    .await?;
                part.users(users.items);
                self.flush(&mut part).await?;
                page = match users.next {
                    Some(after) => next_page(after),
                    None => break,
                };
            }
        }
        let named: Vec<_> = self.filter.users.iter().cloned().collect();
        for some in named.chunks(PART) {
            part.users(self.queries.users(&namespace, some, Fields::NO_SOCKETS).await?);
            self.flush(&mut part).await?;
        }
        let rooms: Vec<_> = self.filter.rooms.iter().cloned().collect();
        for name in &rooms {
            let room = self.queries.room(&namespace, name).await?;
            let mut page = first_page();
            loop {
                let members = self
                    .queries
                    .members(&namespace, name, page, Fields::NO_SOCKETS)
                    .await?;
                part.members(room.clone(), members.items);
                self.flush(&mut part).await?;
                page = match members.next {
                    Some(after) => next_page(after),
                    None => break,
                };
            }
        }
        self.send(Some(&position), Event::Snapshot(part.last())).await?;
        Ok(cursor)
    }

    /// Sends what a part of a snapshot has once that is enough.
    async fn flush(&mut self, part: &mut Part) -> Result<(), Gone> {
        match part.full() {
            Some(full) => self.send(None, Event::Snapshot(full)).await,
            None => Ok(()),
        }
    }

    /// Goes on after a place, by way of the store up to `begin` if the feed does not reach back so far; anew if the
    /// store does not either.
    async fn resume(&mut self, after: Position, begin: (Cursor, Position)) -> Result<Cursor, Gone> {
        let resumed = Event::Resumed(WatchResumed {});
        if let Some(cursor) = self.watcher.find(&after) {
            self.send(Some(&after), resumed).await?;
            return Ok(cursor);
        }
        let (cursor, end) = begin;
        let mut at = after;
        let mut resumed = Some(resumed);
        loop {
            let next = match self.store.changes(&at, CHUNK).await {
                Ok(Changes::Next(next)) if !next.is_empty() => next,
                // Places that do not lead to the feed's are of another list.
                Ok(Changes::Next(_) | Changes::Forgotten) => {
                    return self.anew(SnapshotReason::ResumeExpired, None).await;
                }
                Err(error) => {
                    tracing::warn!(%error, "a watcher waits for what it has missed");
                    sleep(RETRY).await;
                    continue;
                }
            };
            if let Some(resumed) = resumed.take() {
                self.send(Some(&at), resumed).await?;
            }
            let reached = next.iter().position(|(position, _)| *position == end);
            let wanted = reached.map_or(next.len(), |reached| reached + 1);
            let told = next
                .iter()
                .take(wanted)
                .map(|(position, change)| (position, change));
            self.tell_changes(told).await?;
            match (reached, next.into_iter().next_back()) {
                (None, Some((last, _))) => at = last,
                _ => return Ok(cursor),
            }
        }
    }

    async fn tell_changes(
        &mut self,
        changes: impl Iterator<Item = (&Position, &Transition)>,
    ) -> Result<(), Gone> {
        let mut passed = None;
        for (position, transition) in changes {
            match event_of(&self.filter, transition) {
                Some(event) => {
                    self.send(Some(position), event).await?;
                    passed = None;
                }
                None => {
                    self.silent += 1;
                    passed = Some(position);
                }
            }
        }
        match passed {
            Some(position) if self.silent >= PROGRESS => {
                self.send(Some(position), Event::Progress(WatchProgress {})).await
            }
            _ => Ok(()),
        }
    }

    async fn send(&mut self, after: Option<&Position>, event: Event) -> Result<(), Gone> {
        self.silent = 0;
        let message = WatchResponse {
            resume_token: after
                .map(|after| self.filter.resume_token(after))
                .unwrap_or_default(),
            event: Some(event),
        };
        self.tell.send(message).await.map_err(|_| Gone)
    }
}

/// What a watcher is told of a change, if anything.
fn event_of(filter: &Filter, transition: &Transition) -> Option<Event> {
    match transition {
        Transition::User(it) => {
            let wanted = filter.is_everyone() || filter.users.contains(&it.user);
            if !wanted || it.namespace != filter.namespace {
                return None;
            }
            let (kind, until) = match it.change {
                UserChange::Online => (user_change::Kind::Online, None),
                UserChange::Back => (user_change::Kind::Back, None),
                UserChange::Lost { until_ms } => (user_change::Kind::Lost, Some(timestamp(until_ms))),
                UserChange::Offline => (user_change::Kind::Offline, None),
            };
            Some(Event::User(ToldUser {
                kind: kind.into(),
                user_id: it.user.as_str().to_owned(),
                username: it.username.as_ref().to_owned(),
                until,
            }))
        }
        Transition::Room(it) => {
            if it.namespace != filter.namespace || !filter.rooms.contains(&it.room) {
                return None;
            }
            let kind = match it.change {
                RoomChange::Joined { .. } | RoomChange::Restored => room_change::Kind::Joined,
                RoomChange::Left { .. } => room_change::Kind::Left,
                RoomChange::JoinedAgain { .. } | RoomChange::Lost { .. } => return None,
            };
            Some(Event::Room(ToldRoom {
                kind: kind.into(),
                room: it.room.as_str().to_owned(),
                user_id: it.user.as_str().to_owned(),
                username: it.username.as_ref().to_owned(),
                users_count: it.users_count,
            }))
        }
    }
}

/// The part of a snapshot that is being filled.
struct Part {
    filling: WatchSnapshot,
    /// Users and members in it.
    size: usize,
}

impl Part {
    fn first(reason: SnapshotReason) -> Self {
        let filling = WatchSnapshot {
            reason: reason.into(),
            first: true,
            ..WatchSnapshot::default()
        };
        Self { filling, size: 0 }
    }

    fn users(&mut self, users: Vec<PresenceUser>) {
        self.size += users.len();
        self.filling.users.extend(users);
    }

    fn members(&mut self, room: PresenceRoom, members: Vec<PresenceUser>) {
        // An empty room is something to tell as well.
        self.size += members.len() + 1;
        self.filling.rooms.push(WatchedRoom {
            room: Some(room),
            members,
        });
    }

    /// What is to be sent now.
    fn full(&mut self) -> Option<WatchSnapshot> {
        if self.size < PART {
            return None;
        }
        self.size = 0;
        let next = WatchSnapshot {
            reason: self.filling.reason,
            ..WatchSnapshot::default()
        };
        Some(std::mem::replace(&mut self.filling, next))
    }

    fn last(self) -> WatchSnapshot {
        WatchSnapshot {
            last: true,
            ..self.filling
        }
    }
}

fn first_page() -> PageRequest {
    PageRequest {
        after: None,
        limit: PART,
    }
}

fn next_page(after: registry::presence_store::PageToken) -> PageRequest {
    PageRequest {
        after: Some(after),
        limit: PART,
    }
}

fn label(reason: SnapshotReason) -> &'static str {
    match reason {
        SnapshotReason::Unspecified | SnapshotReason::Start => "start",
        SnapshotReason::ResumeExpired => "resume_expired",
        SnapshotReason::Lagged => "lagged",
        SnapshotReason::StoreReset => "store_reset",
    }
}
