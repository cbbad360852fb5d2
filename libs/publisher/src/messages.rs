//! The messages of rooms, as the log keeps them among other events.

use bus::{Entry, EventLog, LogError, PageQuery};
use model::{Namespace, Offset, RoomName, RoomToken, partition_of};
use prost::Message;
use proto::v1::Publish;

/// What messages are called.
pub const EVENT: &str = "message";

/// Messages of a room, ascending.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Messages {
    /// Each as clients get it, JSON.
    pub messages: Vec<String>,
    /// There are more, in the direction asked for.
    pub has_more: bool,
}

/// One page of a room's messages.
///
/// # Errors
/// When the log does not answer.
pub async fn page(
    log: &dyn EventLog,
    namespace: &Namespace,
    room: &RoomName,
    query: PageQuery,
) -> Result<Messages, LogError> {
    let token = RoomToken::new(namespace, room);
    let partition = partition_of(token, log.partitions());
    let (mut at, limit, backwards) = match query {
        PageQuery::Before { before, limit } => (before, limit, true),
        PageQuery::After { after, limit } => (after, limit, false),
    };
    let mut messages = Vec::with_capacity(limit);
    loop {
        let limit_left = limit - messages.len();
        let query = if backwards {
            PageQuery::Before {
                before: at,
                limit: limit_left,
            }
        } else {
            PageQuery::After {
                after: at,
                limit: limit_left,
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
        // Other events of the room are stored beside its messages.
        let entries = page.entries.into_iter();
        let found = entries.filter_map(|entry| message(partition, entry, room));
        if backwards {
            messages.splice(..0, found);
        } else {
            messages.extend(found);
        }
        if messages.len() >= limit || !page.has_more {
            return Ok(Messages {
                messages,
                has_more: page.has_more,
            });
        }
    }
}

fn message(partition: u16, entry: Entry, room: &RoomName) -> Option<String> {
    let publish = Publish::decode(entry.payload).ok()?;
    if publish.event != EVENT || publish.room != room.as_str() {
        return None;
    }
    let args = std::str::from_utf8(&publish.args).ok()?;
    let offset = Offset {
        partition,
        seq: entry.seq,
    };
    Some(stamp(args, offset))
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
        let (namespace, room) = (Namespace::new("/chat").unwrap(), RoomName::stored("r"));
        for number in 1..=6 {
            let publish = Publish {
                event: if number % 2 == 0 { EVENT } else { "other" }.to_owned(),
                room: "r".to_owned(),
                args: format!(r#"{{"n":{number}}}"#).into(),
                ..Publish::default()
            };
            let entry = NewEntry {
                subject: LogSubject::Room(RoomToken::new(&namespace, &room)),
                payload: publish.encode_to_vec().into(),
                dedup: None,
            };
            log.append(0, entry).await.unwrap();
        }
        let shown = |numbers: &[u64]| -> Vec<String> {
            let shown = numbers
                .iter()
                .map(|number| format!(r#"{{"offset":"0-{number}","n":{number}}}"#));
            shown.collect()
        };
        let last = PageQuery::Before {
            before: u64::MAX,
            limit: 2,
        };
        let found = page(&log, &namespace, &room, last).await.unwrap();
        assert_eq!((found.messages, found.has_more), (shown(&[4, 6]), true));
        let first = PageQuery::After { after: 2, limit: 10 };
        let found = page(&log, &namespace, &room, first).await.unwrap();
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
