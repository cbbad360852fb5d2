//! Puts notifications into inboxes, and tells them.

use std::{
    hash::{BuildHasher, RandomState},
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bus::{Documents, DocumentsError, EventLog, LogSubject, NewEntry, PageQuery};
use model::{ClientError, Detail, ErrorCode, Namespace, RoomName, RoomToken, UserId, partition_of};
use prost::Message;
use proto::v1::{NotifyUserRequest, Publish};
use publisher::{
    log_error,
    spans::{self, PUBLISH, Published},
};
use telemetry::trace::{Kind, Receiving};
use tokio::sync::{Mutex, MutexGuard};
use uuid::Uuid;

use crate::{
    channels::Channels,
    inbox::{Inbox, Notification},
    notify::NotifyUser,
    rules::{self, Rule},
};

/// What clients hear.
pub const EVENT: &str = "newNotification";
/// Where they hear it.
pub const NAMESPACE: &str = "/notifications";
/// Bucket of the inboxes.
pub const BUCKET: &str = "notifications";
/// The channel that always is told.
const BROWSER: &str = "browser";
/// Users that share a turn.
const TURNS: usize = 64;
/// So often an inbox is written anew when another process was faster.
const TRIES: u32 = 20;
/// Between two of these tries, longer each time.
const PAUSE: Duration = Duration::from_millis(5);
/// Records read at a time when one is looked for.
const PAGE: usize = 200;

/// How inboxes are kept.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Notifications of a user at most; the oldest go, those that were read before the others.
    pub keep: usize,
    /// How long a notification lasts that does not say so itself.
    pub expires_in: Duration,
}

/// The inboxes of all users.
pub struct Notifications {
    documents: Arc<dyn Documents>,
    log: Arc<dyn EventLog>,
    settings: Settings,
    /// None where nobody is told but the user's sockets.
    channels: Option<Channels>,
    rules: Vec<Rule>,
    namespace: Namespace,
    /// Changes of an inbox wait for each other here rather than in conflicts.
    turns: Vec<Mutex<()>>,
    hasher: RandomState,
}

fn namespace() -> Namespace {
    // A slash, letters.
    Namespace::new(NAMESPACE).unwrap_or_else(|_| unreachable!())
}

impl Notifications {
    /// Inboxes in `documents`, told through `log`.
    #[must_use]
    pub fn new(documents: Arc<dyn Documents>, log: Arc<dyn EventLog>, settings: Settings) -> Self {
        Self {
            documents,
            log,
            settings,
            channels: None,
            rules: Vec::new(),
            namespace: namespace(),
            turns: (0..TURNS).map(|_| Mutex::default()).collect(),
            hasher: RandomState::new(),
        }
    }

    /// The same with channels beside the browser, and rules that make notifications of events.
    #[must_use]
    pub fn with(self, channels: Channels, rules: Vec<Rule>) -> Self {
        Self {
            channels: Some(channels),
            rules,
            ..self
        }
    }

    /// Checks a request and notifies the user of it, or, for a request without a title, of what the rules make of it.
    /// The id of the notification, of several the first one's. `trace`: what it is part of, if that is recorded.
    ///
    /// # Errors
    /// `VALIDATION_ERROR` with every broken rule of the input; as [`Notifications::notify`].
    pub async fn request(
        &self,
        request: NotifyUserRequest,
        trace: Option<&Receiving>,
    ) -> Result<String, ClientError> {
        let made = rules::apply(&self.rules, request)?;
        let wanted = made.into_iter().map(|one| self.check(one));
        let wanted = wanted.collect::<Result<Vec<_>, _>>()?;
        let mut first = None;
        for one in &wanted {
            let id = self.notify(one, trace).await?;
            first.get_or_insert(id);
        }
        // There is always one.
        Ok(first.unwrap_or_default())
    }

    fn check(&self, request: NotifyUserRequest) -> Result<NotifyUser, ClientError> {
        let mut wanted = NotifyUser::check(request)?;
        // Where notifications always go.
        wanted.channels.retain(|channel| channel != BROWSER);
        let is_known = |channel: &str| {
            self.channels
                .as_ref()
                .is_some_and(|channels| channels.has(channel))
        };
        let unknown = wanted
            .channels
            .iter()
            .enumerate()
            .filter(|(_, channel)| !is_known(channel));
        let details: Vec<Detail> = unknown
            .map(|(index, channel)| Detail {
                path: format!("channels.{index}"),
                message: format!("{channel:?} is not configured"),
            })
            .collect();
        if details.is_empty() {
            Ok(wanted)
        } else {
            Err(ClientError::invalid(details))
        }
    }

    /// The room and partition that a user's notifications are told in.
    #[must_use]
    pub fn place(&self, user: &UserId) -> (RoomToken, u16) {
        let token = RoomToken::new(&self.namespace, &RoomName::of_user(user.as_str()));
        (token, partition_of(token, self.log.partitions()))
    }

    /// Puts a notification into the user's inbox and tells the user's sockets. Its id. Once this returns it is not
    /// lost, whatever ends.
    ///
    /// # Errors
    /// `UNAVAILABLE` when the bus does not take it: then it may be in the inbox or not, and a retry with the same
    /// idempotency key is safe.
    pub async fn notify(
        &self,
        wanted: &NotifyUser,
        trace: Option<&Receiving>,
    ) -> Result<String, ClientError> {
        let id = wanted.id();
        let _turn = self.turn(&wanted.user).await;
        let expires_in = wanted.expires_in.unwrap_or(self.settings.expires_in);
        let (notification, is_new) = self
            .change(&wanted.user, |inbox| {
                if let Some(known) = inbox.get(&id) {
                    return (false, (known.clone(), false));
                }
                let notification = Notification::new(id.clone(), wanted, now_ms(), expires_in);
                let lost = inbox.add(notification.clone(), self.settings.keep);
                if lost > 0 {
                    tracing::warn!(user = %wanted.user, lost, "an inbox is full: its oldest unread notifications are gone");
                }
                (true, (notification, true))
            })
            .await?;
        if !self.is_finished(&notification) {
            self.finish(&wanted.user, &notification, is_new, trace).await?;
        }
        Ok(id)
    }

    /// A user's inbox, in which everything has its place in the log.
    ///
    /// # Errors
    /// `UNAVAILABLE` when the bus does not answer.
    pub async fn inbox(&self, user: &UserId) -> Result<Inbox, ClientError> {
        let (_, inbox) = self.read(user).await?;
        if inbox.unfinished().is_empty() {
            return Ok(inbox);
        }
        let _turn = self.turn(user).await;
        let (_, inbox) = self.read(user).await?;
        for notification in inbox.unfinished() {
            self.finish(user, &notification, false, None).await?;
        }
        Ok(self.read(user).await?.1)
    }

    /// Marks a notification as read; how many are unread then.
    ///
    /// # Errors
    /// `NOT_FOUND`, `UNAVAILABLE`.
    pub async fn mark_read(&self, user: &UserId, id: &str) -> Result<usize, ClientError> {
        let _turn = self.turn(user).await;
        let unread = self.change(user, |inbox| {
            let news = inbox.read(id);
            (news == Some(true), news.map(|_| inbox.unread()))
        });
        unread
            .await?
            .ok_or_else(|| ClientError::new(ErrorCode::NotFound, "There is no such notification"))
    }

    async fn turn(&self, user: &UserId) -> MutexGuard<'_, ()> {
        let turn = usize::try_from(self.hasher.hash_one(user)).unwrap_or_default() % TURNS;
        self.turns[turn].lock().await
    }

    /// Tells the user's sockets of a notification that is in the inbox, and notes its place.
    async fn finish(
        &self,
        user: &UserId,
        notification: &Notification,
        is_new: bool,
        trace: Option<&Receiving>,
    ) -> Result<(), ClientError> {
        let told = match notification.seq() {
            Some(seq) => Some(seq),
            None if is_new => None,
            None => self.find(user, &notification.id).await?,
        };
        let seq = match told {
            Some(seq) => seq,
            None => self.tell(user, notification, trace).await?,
        };
        if let Some(channels) = &self.channels {
            for channel in &notification.channels {
                let handed_over = channels.hand_over(channel, user, notification).await;
                handed_over.map_err(unavailable)?;
            }
        }
        self.change(user, |inbox| {
            let Some(known) = inbox.get(&notification.id) else {
                return (false, ());
            };
            known.seq = Some(seq);
            if self.channels.is_some() {
                known.channels.clear();
            }
            (true, ())
        })
        .await
    }

    /// Who has no channels leaves them to who does.
    fn is_finished(&self, notification: &Notification) -> bool {
        notification.seq().is_some() && (notification.channels.is_empty() || self.channels.is_none())
    }

    async fn tell(
        &self,
        user: &UserId,
        notification: &Notification,
        trace: Option<&Receiving>,
    ) -> Result<u64, ClientError> {
        let (token, partition) = self.place(user);
        let room = RoomName::of_user(user.as_str());
        let mut span = trace.and_then(|trace| trace.child(PUBLISH, Kind::Producer, 1));
        let record = Publish {
            id: notification.id.clone(),
            namespace: self.namespace.to_string(),
            room: room.to_string(),
            event: EVENT.to_owned(),
            args: notification.args().into(),
            time_ms: now_ms(),
            stamp_offset: true,
            ..Publish::default()
        };
        if let Some(span) = &mut span {
            let event = Published {
                namespace: &self.namespace,
                room: &room,
                partition,
                id: &record.id,
                size: record.args.len(),
            };
            spans::describe(span, &event);
        }
        let entry = NewEntry {
            subject: LogSubject::Room(token),
            payload: record.encode_to_vec().into(),
            dedup: Some(notification.id.clone()),
            trace: span.as_ref().map(|span| Box::new(span.context())),
        };
        let appended = self.log.append(partition, entry).await;
        if let Some(span) = &mut span {
            spans::appended(span, &appended);
        }
        Ok(appended.map_err(log_error)?.seq)
    }

    /// The place of a notification whose process has ended before it could note it.
    async fn find(&self, user: &UserId, id: &str) -> Result<Option<u64>, ClientError> {
        let (token, partition) = self.place(user);
        let mut before = u64::MAX;
        loop {
            let query = PageQuery::Before { before, limit: PAGE };
            let page = self.log.page(partition, token, query).await.map_err(log_error)?;
            let Some(first) = page.entries.first().map(|entry| entry.seq) else {
                return Ok(None);
            };
            let is_it = |payload| Publish::decode(payload).is_ok_and(|publish: Publish| publish.id == id);
            let mut entries = page.entries.into_iter();
            if let Some(entry) = entries.find(|entry| is_it(entry.payload.clone())) {
                return Ok(Some(entry.seq));
            }
            if !page.has_more {
                return Ok(None);
            }
            before = first;
        }
    }

    async fn read(&self, user: &UserId) -> Result<(Option<u64>, Inbox), ClientError> {
        let document = self.documents.get(BUCKET, &key(user)).await;
        let Some(document) = document.map_err(unavailable)? else {
            return Ok((None, Inbox::default()));
        };
        let mut inbox: Inbox = serde_json::from_slice(&document.value).map_err(|error| {
            tracing::error!(%error, %user, "an inbox cannot be read");
            ClientError::new(ErrorCode::Internal, "Internal error")
        })?;
        inbox.expire(now_ms());
        Ok((Some(document.revision), inbox))
    }

    /// Changes an inbox; `change` says whether it did, and may be called again.
    async fn change<T>(
        &self,
        user: &UserId,
        mut change: impl FnMut(&mut Inbox) -> (bool, T),
    ) -> Result<T, ClientError> {
        for attempt in 1..=TRIES {
            let (revision, mut inbox) = self.read(user).await?;
            let (changed, outcome) = change(&mut inbox);
            if !changed {
                return Ok(outcome);
            }
            let value = serde_json::to_vec(&inbox).map_err(unavailable)?;
            let key = key(user);
            match self.documents.put(BUCKET, &key, value.into(), revision).await {
                Ok(_) => return Ok(outcome),
                Err(DocumentsError::Conflict(_)) => tokio::time::sleep(PAUSE * attempt).await,
                Err(error) => return Err(unavailable(error)),
            }
        }
        Err(unavailable("an inbox is being written by many at once"))
    }
}

/// Ids may have any characters.
fn key(user: &UserId) -> String {
    Uuid::new_v5(&Uuid::NAMESPACE_OID, user.as_str().as_bytes())
        .simple()
        .to_string()
}

fn unavailable(error: impl std::fmt::Display) -> ClientError {
    tracing::warn!(%error, "an inbox is not to be had");
    ClientError::new(ErrorCode::Unavailable, "Try again later")
}

/// Unix milliseconds.
pub(crate) fn now_ms() -> u64 {
    let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX)
}
