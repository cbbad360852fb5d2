//! What is sent to the application, and what it answers (CONTRACT section 6).

use std::borrow::Cow;

use bytes::Bytes;
use model::{Role, User};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;

use crate::AppError;

/// So many rooms, or emits, one answer may name.
const MAX_NAMED: usize = 100;

/// A custom event.
#[derive(Serialize)]
#[serde(tag = "type", rename = "event")]
pub struct EventMessage<'a> {
    /// Where it was sent.
    pub namespace: &'a str,
    /// What it is called.
    pub event: &'a str,
    /// Its arguments, a JSON list.
    pub args: Cow<'a, RawValue>,
    /// Who sent it.
    pub user: Who<'a>,
    /// From which socket.
    pub socket: SocketRef<'a>,
    /// Where it stands in a trace.
    pub trace: Trace<'a>,
}

/// A user, without what is secret.
#[derive(Copy, Clone, Debug, Serialize)]
pub struct Who<'a> {
    /// The user's id.
    pub id: &'a str,
    /// The user's name.
    pub username: &'a str,
    /// What the user is.
    pub role: Role,
}

/// A socket by its public id.
#[derive(Copy, Clone, Debug, Serialize)]
pub struct SocketRef<'a> {
    /// The id.
    pub id: &'a str,
}

/// W3C trace context.
#[derive(Copy, Clone, Debug, Serialize)]
pub struct Trace<'a> {
    /// Header `traceparent`.
    pub traceparent: &'a str,
}

/// What the application wants done with an event. Each is done for the socket that sent it.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Answer {
    /// Arguments of the acknowledgement, raw JSON each; none when it says nothing of it.
    #[serde(deserialize_with = "absent_if_null")]
    pub ack: Vec<Box<RawValue>>,
    /// Events to publish, each a body of `Publisher.Emit`, raw JSON.
    #[serde(deserialize_with = "absent_if_null")]
    pub emit: Vec<Box<RawValue>>,
    /// Rooms to join.
    #[serde(deserialize_with = "absent_if_null")]
    pub join: Vec<String>,
    /// Rooms to leave.
    #[serde(deserialize_with = "absent_if_null")]
    pub leave: Vec<String>,
}

impl<'a> From<&'a User> for Who<'a> {
    fn from(user: &'a User) -> Self {
        Self {
            id: user.id.as_str(),
            username: &user.username,
            role: user.role,
        }
    }
}

impl EventMessage<'_> {
    /// As it is sent.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        // Texts and raw JSON always are JSON.
        serde_json::to_vec(self).unwrap_or_default().into()
    }
}

impl Answer {
    /// An empty body says the same as `{}`.
    pub(crate) fn decode(body: &[u8]) -> Result<Self, AppError> {
        let body = body.trim_ascii();
        if body.is_empty() || body == b"null" {
            return Ok(Self::default());
        }
        let rubbish = |what: &str| AppError::Rubbish(what.to_owned());
        // A list would be read as the fields in their order.
        if !body.starts_with(b"{") {
            return Err(rubbish("it is no object"));
        }
        let answer: Self = serde_json::from_slice(body)
            .map_err(|_| rubbish("it is not {ack?: […], emit?: […], join?: […], leave?: […]}"))?;
        let named = [answer.emit.len(), answer.join.len(), answer.leave.len()];
        if named.into_iter().any(|count| count > MAX_NAMED) {
            return Err(rubbish("it names more than 100 rooms or emits"));
        }
        Ok(answer)
    }
}

fn absent_if_null<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(
    deserializer: D,
) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_sent_as_the_contract_says() {
        let args = RawValue::from_string(r#"[1,{"a":"b"}]"#.to_owned()).unwrap();
        let message = EventMessage {
            namespace: "/chat",
            event: "order",
            args: Cow::Owned(args),
            user: Who {
                id: "ada",
                username: "Ada",
                role: Role::Moderator,
            },
            socket: SocketRef { id: "s1" },
            trace: Trace { traceparent: "00-x" },
        };
        assert_eq!(
            &message.encode()[..],
            br#"{"type":"event","namespace":"/chat","event":"order","args":[1,{"a":"b"}],"user":{"id":"ada","username":"Ada","role":"moderator"},"socket":{"id":"s1"},"trace":{"traceparent":"00-x"}}"#
        );
    }

    #[test]
    fn table_of_answers() {
        let of = |body: &str| {
            Answer::decode(body.as_bytes()).ok().map(|answer| {
                let ack: Vec<_> = answer.ack.iter().map(|arg| arg.get().to_owned()).collect();
                (ack, answer.emit.len(), answer.join, answer.leave)
            })
        };
        let none = Some((vec![], 0, vec![], vec![]));
        for empty in ["", " ", "null", "{}", r#"{"ack":null,"more":1}"#] {
            assert_eq!(of(empty), none, "{empty:?}");
        }
        let full = of(r#"{"ack":[1,"two"],"emit":[{"event":"x"}],"join":["a"],"leave":["b","c"]}"#);
        let [one, two, a, b, c] = ["1", "\"two\"", "a", "b", "c"].map(str::to_owned);
        assert_eq!(full, Some((vec![one, two], 1, vec![a], vec![b, c])));
        let many = format!(r#"{{"join":[{}]}}"#, vec!["\"a\""; 101].join(","));
        for rubbish in [
            "x",
            "[]",
            "[[1]]",
            "1",
            r#"{"ack":1}"#,
            r#"{"join":[1]}"#,
            "{",
            &many,
        ] {
            assert_eq!(of(rubbish), None, "{rubbish:?}");
        }
    }
}
