//! The messages of rooms, as the log keeps them among other events.

use bus::{Entry, EventLog, LogError, PageQuery};
use model::{Offset, RoomToken, partition_of};
use prost::Message;
use proto::v1::Publish;
use serde_json::value::RawValue;

/// Entries that are looked through at a time for messages among other events.
const PAGE: usize = 1000;

/// What messages are called.
pub const EVENT: &str = "message";

/// Messages of a room, ascending.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Messages {
    /// Each with its sequence in the partition, and as clients get it, JSON.
    pub messages: Vec<(u64, String)>,
    /// There are more, in the direction asked for.
    pub has_more: bool,
}

/// One page of a room's messages.
///
/// # Errors
/// When the log does not answer.
pub async fn page(log: &dyn EventLog, token: RoomToken, query: PageQuery) -> Result<Messages, LogError> {
    let partition = partition_of(token, log.partitions());
    let (mut at, limit, backwards) = match query {
        PageQuery::Before { before, limit } => (before, limit, true),
        PageQuery::After { after, limit } => (after, limit, false),
    };
    let mut messages = Vec::with_capacity(limit);
    // Mostly all that comes are messages.
    let mut asked = limit;
    loop {
        let query = if backwards {
            PageQuery::Before {
                before: at,
                limit: asked,
            }
        } else {
            PageQuery::After {
                after: at,
                limit: asked,
            }
        };
        let page = log.page(partition, token, query).await?;
        let edge = if backwards {
            page.entries.first()
        } else {
            page.entries.last()
        };
        if let Some(edge) = edge {
            at = edge.seq;
        }
        let left = limit - messages.len();
        // Other events of the room are stored beside its messages.
        let message = |entry: Entry| Some((entry.seq, message(partition, entry)?.0));
        let entries = page.entries.into_iter();
        let mut found: Vec<(u64, String)> = if backwards {
            entries.rev().filter_map(message).take(left + 1).collect()
        } else {
            entries.filter_map(message).take(left + 1).collect()
        };
        let has_more = page.has_more || found.len() > left;
        found.truncate(left);
        if backwards {
            found.reverse();
            messages.splice(..0, found);
        } else {
            messages.extend(found);
        }
        if messages.len() >= limit || !page.has_more {
            return Ok(Messages { messages, has_more });
        }
        // A page may cost a log as much as all that the room shows.
        asked = PAGE;
    }
}

/// The message at an entry, as clients get it, if it is one: an event of that name with one object. Servers may send
/// other events of the name, which are none.
#[must_use]
pub fn message(partition: u16, entry: Entry) -> Option<(String, Publish)> {
    let publish = Publish::decode(entry.payload).ok()?;
    if publish.event != EVENT || !publish.attachments.is_empty() {
        return None;
    }
    let args = std::str::from_utf8(&publish.args).ok()?;
    let is_object = args.starts_with('{') && serde_json::from_str::<&RawValue>(args).is_ok();
    let offset = Offset {
        partition,
        seq: entry.seq,
    };
    let stamped = is_object.then(|| stamp(args, offset))?;
    Some((stamped, publish))
}

/// `{"a":1}` → `{"offset":"3-17","a":1}`.
#[must_use]
pub fn stamp(args: &str, offset: Offset) -> String {
    match args.strip_prefix('{') {
        Some(rest) => {
            let comma = if rest.starts_with('}') { "" } else { "," };
            format!("{{\"offset\":\"{offset}\"{comma}{rest}")
        }
        None => args.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use bus::{
        LogSubject, NewEntry,
        event_log::memory::{MemoryLog, MemoryLogConfig},
    };

    use super::*;

    #[tokio::test]
    async fn messages_among_other_events() {
        let log = MemoryLog::new(MemoryLogConfig {
            partitions: 1,
            ..MemoryLogConfig::default()
        });
        let token = RoomToken::from_bytes(&[1; 16]).unwrap();
        for number in 1..=6 {
            let publish = Publish {
                event: if number % 2 == 0 { EVENT } else { "other" }.to_owned(),
                args: format!(r#"{{"n":{number}}}"#).into(),
                ..Publish::default()
            };
            let entry = NewEntry {
                subject: LogSubject::Room(token),
                payload: publish.encode_to_vec().into(),
                dedup: None,
                trace: None,
            };
            log.append(0, entry).await.unwrap();
        }
        for args in ["1", "{},2", "", "{"] {
            let publish = Publish {
                event: EVENT.to_owned(),
                args: args.into(),
                ..Publish::default()
            };
            let entry = NewEntry {
                subject: LogSubject::Room(token),
                payload: publish.encode_to_vec().into(),
                dedup: None,
                trace: None,
            };
            log.append(0, entry).await.unwrap();
        }
        let shown = |numbers: &[u64]| -> Vec<(u64, String)> {
            let shown = |number| format!(r#"{{"offset":"0-{number}","n":{number}}}"#);
            numbers.iter().map(|number| (*number, shown(number))).collect()
        };
        let last = PageQuery::Before {
            before: u64::MAX,
            limit: 2,
        };
        let found = page(&log, token, last).await.unwrap();
        assert_eq!((found.messages, found.has_more), (shown(&[4, 6]), true));
        let first = PageQuery::After { after: 0, limit: 2 };
        let found = page(&log, token, first).await.unwrap();
        assert_eq!((found.messages, found.has_more), (shown(&[2, 4]), true));
        let middle = PageQuery::Before { before: 6, limit: 1 };
        let found = page(&log, token, middle).await.unwrap();
        assert_eq!((found.messages, found.has_more), (shown(&[4]), true));
        let first = PageQuery::After { after: 2, limit: 10 };
        let found = page(&log, token, first).await.unwrap();
        assert_eq!((found.messages, found.has_more), (shown(&[4, 6]), false));
    }

    #[test]
    fn offsets_are_stamped_as_first_field() {
        let offset = Offset {
            partition: 3,
            seq: 17,
        };
        assert_eq!(stamp(r#"{"a":1}"#, offset), r#"{"offset":"3-17","a":1}"#);
        assert_eq!(stamp("{}", offset), r#"{"offset":"3-17"}"#);
        assert_eq!(stamp("1", offset), "1");
    }
}
