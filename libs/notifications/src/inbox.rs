//! What a user has been told and not forgotten, as it is stored.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::notify::NotifyUser;

/// Bytes that an inbox may take; a quarter of what the bus takes at once by default.
const MAX_BYTES: usize = 256 * 1024;

/// A user's notifications, oldest first.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Inbox {
    notifications: Vec<Notification>,
}

/// One notification of an inbox.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Notification {
    /// Names it for good.
    pub id: String,
    /// What kind it is.
    pub r#type: String,
    /// What it says.
    pub title: String,
    /// What more it says.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub body: Option<String>,
    /// For programs.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub data: Option<Box<RawValue>>,
    /// Unix milliseconds.
    pub created_at: u64,
    /// Unix milliseconds from which on it is gone.
    pub expires_at: u64,
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    read: bool,
    /// Where it stands in the log of the user's room.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) seq: Option<u64>,
    /// Channels that are still to be told.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub(crate) channels: Vec<String>,
}

/// What clients are told of it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Told<'a> {
    id: &'a str,
    r#type: &'a str,
    title: &'a str,
    body: Option<&'a str>,
    data: Option<&'a RawValue>,
    created_at: u64,
}

impl Notification {
    pub(crate) fn new(id: String, wanted: &NotifyUser, now_ms: u64, expires_in: Duration) -> Self {
        let lasts = u64::try_from(expires_in.as_millis()).unwrap_or(u64::MAX);
        Self {
            id,
            r#type: wanted.kind.clone(),
            title: wanted.title.clone(),
            body: wanted.body.clone(),
            data: wanted.data.clone(),
            created_at: now_ms,
            expires_at: now_ms.saturating_add(lasts),
            read: false,
            seq: None,
            channels: wanted.channels.clone(),
        }
    }

    /// The argument of `newNotification` as raw JSON, without the offset.
    #[must_use]
    pub fn args(&self) -> String {
        let told = Told {
            id: &self.id,
            r#type: &self.r#type,
            title: &self.title,
            body: self.body.as_deref(),
            data: self.data.as_deref(),
            created_at: self.created_at,
        };
        // Text, numbers and JSON always are JSON.
        serde_json::to_string(&told).unwrap_or_default()
    }

    /// Where it stands in the log of the user's room; none while it is on its way there.
    #[must_use]
    pub fn seq(&self) -> Option<u64> {
        self.seq
    }

    /// What it takes in the inbox, about.
    fn size(&self) -> usize {
        let data = self.data.as_ref().map_or(0, |data| data.get().len());
        // Quotes and control characters take more than one byte.
        let texts = [Some(&self.title), self.body.as_ref(), Some(&self.r#type)];
        let texts = texts.into_iter().flatten().map(|text| {
            text.len()
                + text
                    .bytes()
                    .filter(|byte| *byte < 0x20 || matches!(byte, b'"' | b'\\'))
                    .count()
                    * 5
        });
        200 + data + texts.sum::<usize>()
    }
}

impl Inbox {
    /// How many were not read.
    #[must_use]
    pub fn unread(&self) -> usize {
        self.notifications.iter().filter(|one| !one.read).count()
    }

    /// What a client has missed whom everything behind `until` reaches live: what came after `since`, or else what was
    /// not read, in the order of the log.
    #[must_use]
    pub fn missed(&self, since: Option<u64>, until: u64) -> Vec<&Notification> {
        let is_missed = |one: &&Notification| {
            one.seq
                .is_some_and(|seq| seq <= until && since.map_or(!one.read, |since| seq > since))
        };
        let mut missed: Vec<_> = self.notifications.iter().filter(is_missed).collect();
        missed.sort_by_key(|one| one.seq);
        missed
    }

    /// The place of the last one in the log.
    #[must_use]
    pub fn last_seq(&self) -> Option<u64> {
        self.notifications.iter().filter_map(|one| one.seq).max()
    }

    pub(crate) fn get(&mut self, id: &str) -> Option<&mut Notification> {
        self.notifications.iter_mut().find(|one| one.id == id)
    }

    pub(crate) fn unfinished(&self) -> Vec<Notification> {
        let unfinished = self.notifications.iter().filter(|one| one.seq.is_none());
        unfinished.cloned().collect()
    }

    /// Marks one as read. Whether that is news; none when there is no such notification.
    pub(crate) fn read(&mut self, id: &str) -> Option<bool> {
        let one = self.get(id)?;
        Some(!std::mem::replace(&mut one.read, true))
    }

    /// Adds one; the oldest make room for it, those that were read before the others. How many went unread.
    pub(crate) fn add(&mut self, notification: Notification, keep: usize) -> usize {
        let mut lost = 0;
        let mut bytes: usize = self.notifications.iter().map(Notification::size).sum();
        let most = MAX_BYTES.saturating_sub(notification.size());
        while !self.notifications.is_empty() && (self.notifications.len() >= keep || bytes > most) {
            let oldest_read = self.notifications.iter().position(|one| one.read);
            let gone = self.notifications.remove(oldest_read.unwrap_or(0));
            bytes -= gone.size();
            lost += usize::from(!gone.read);
        }
        self.notifications.push(notification);
        lost
    }

    pub(crate) fn expire(&mut self, now_ms: u64) {
        self.notifications.retain(|one| one.expires_at > now_ms);
    }
}

#[cfg(test)]
mod tests {
    use model::UserId;

    use super::*;

    fn notification(number: u64) -> Notification {
        let wanted = NotifyUser {
            user: UserId::new("ada").unwrap(),
            kind: "news".to_owned(),
            title: "News".to_owned(),
            body: None,
            data: None,
            channels: Vec::new(),
            expires_in: None,
            idempotency_key: None,
        };
        let mut one = Notification::new(number.to_string(), &wanted, number, Duration::from_millis(100));
        one.seq = Some(10 * number);
        one
    }

    fn ids(missed: Vec<&Notification>) -> Vec<&str> {
        missed.iter().map(|one| one.id.as_str()).collect()
    }

    #[test]
    fn missed_is_what_came_since_or_was_not_read() {
        let mut inbox = Inbox::default();
        for number in [1, 3, 2, 4] {
            inbox.add(notification(number), 10);
        }
        assert_eq!(inbox.read("2"), Some(true));
        assert_eq!(inbox.read("2"), Some(false));
        assert_eq!(inbox.read("9"), None);
        assert_eq!((inbox.unread(), inbox.last_seq()), (3, Some(40)));
        assert_eq!(ids(inbox.missed(None, 39)), ["1", "3"]);
        assert_eq!(ids(inbox.missed(Some(10), 40)), ["2", "3", "4"]);
        assert_eq!(ids(inbox.missed(Some(40), u64::MAX)), [""; 0]);
    }

    #[test]
    fn what_was_read_makes_room_first() {
        let mut inbox = Inbox::default();
        for number in 1..=3 {
            assert_eq!(inbox.add(notification(number), 3), 0);
        }
        inbox.read("2");
        assert_eq!(inbox.add(notification(4), 3), 0);
        assert_eq!(inbox.add(notification(5), 3), 1);
        assert_eq!(ids(inbox.missed(None, u64::MAX)), ["3", "4", "5"]);
        let large = |number| {
            let mut one = notification(number);
            one.body = Some("\"".repeat(5000));
            one
        };
        for number in 6..100 {
            inbox.add(large(number), 1000);
        }
        assert!(serde_json::to_vec(&inbox).unwrap().len() <= MAX_BYTES);
        assert!(inbox.unread() > 5);
        inbox.expire(199);
        assert_eq!(inbox.unread(), 0);
    }
}
