//! What is to be told to a user, checked.

use std::time::Duration;

use model::{ClientError, UserId};
use proto::v1::NotifyUserRequest;
use publisher::Check;
use serde_json::value::RawValue;
use uuid::Uuid;

/// Bytes of the longest `data`.
pub const MAX_DATA: usize = 16 * 1024;
/// Characters of the longest type, name of a channel and idempotency key.
const MAX_WORD: usize = 128;
/// Characters of the longest title.
const MAX_TITLE: usize = 200;
/// Characters of the longest body.
const MAX_BODY: usize = 5000;
/// Channels of one notification.
const MAX_CHANNELS: usize = 16;
/// How long a notification may last.
const MAX_EXPIRY: Duration = Duration::from_secs(365 * 24 * 3600);
/// After so long nothing of an inbox that was not written can be there any more.
pub const MAX_AGE: Duration = Duration::from_secs(366 * 24 * 3600);
/// Levels that `data` may be nested: what clients are sent, less the event's list and object.
const MAX_DEPTH: usize = 62;
/// Names a notification by its user and idempotency key.
const KEYS: Uuid = Uuid::from_u128(0x5d3a_1f6e_90b2_4c7d_8e14_2b7a_c5f0_9d61);

/// A notification for one user.
#[derive(Clone, Debug)]
pub struct NotifyUser {
    /// Whom it is for.
    pub user: UserId,
    /// What kind it is, 1 to 128 characters, e.g. `order.shipped`.
    pub kind: String,
    /// 1 to 200 characters.
    pub title: String,
    /// At most 5000 characters.
    pub body: Option<String>,
    /// Raw JSON of at most [`MAX_DATA`] bytes.
    pub data: Option<Box<RawValue>>,
    /// Where it goes beside the user's sockets.
    pub channels: Vec<String>,
    /// It is gone so long after it was made; the settings' time when not said.
    pub expires_in: Option<Duration>,
    /// The same key for the same user is one notification, as long as the inbox has it.
    pub idempotency_key: Option<String>,
}

impl NotifyUser {
    /// Checks a request; empty fields count as not there.
    ///
    /// # Errors
    /// `VALIDATION_ERROR` with every broken rule.
    pub fn check(request: NotifyUserRequest) -> Result<Self, ClientError> {
        let mut check = Check::default();
        let user = UserId::new(&request.user_id);
        if let Err(error) = &user {
            check.reject("user_id", error.to_string());
        }
        word(&mut check, "type", &request.r#type);
        text(&mut check, "title", &request.title, MAX_TITLE);
        if request.title.is_empty() {
            check.reject("title", "is required");
        }
        text(&mut check, "body", &request.body, MAX_BODY);
        let data = data(&mut check, request.data);
        check.at_most("channels", &[request.channels.len()], MAX_CHANNELS, "channels");
        for (index, channel) in request.channels.iter().take(MAX_CHANNELS).enumerate() {
            word(&mut check, &format!("channels.{index}"), channel);
        }
        let expires_in = request.expires_in.and_then(|time| {
            let time = Duration::try_from(time).ok();
            let time = time.filter(|time| !time.is_zero() && *time <= MAX_EXPIRY);
            if time.is_none() {
                check.reject("expires_in", "must be longer than nothing, and at most 365 days");
            }
            time
        });
        let key = request.idempotency_key;
        if key.chars().any(char::is_control) {
            check.reject("idempotency_key", "must not contain control characters");
        }
        text(&mut check, "idempotency_key", &key, MAX_WORD);
        let some = |text: String| Some(text).filter(|text| !text.is_empty());
        check.finish(user.ok().map(|user| Self {
            user,
            kind: request.r#type,
            title: request.title,
            body: some(request.body),
            data,
            channels: request.channels,
            expires_in,
            idempotency_key: some(key),
        }))
    }

    /// Names it for good; with a key, a retry has the same.
    pub(crate) fn id(&self) -> String {
        let Some(key) = &self.idempotency_key else {
            return Uuid::now_v7().to_string();
        };
        let user = self.user.as_str();
        Uuid::new_v5(&KEYS, format!("{}:{user}:{key}", user.len()).as_bytes()).to_string()
    }
}

fn word(check: &mut Check, path: &str, value: &str) {
    if value.is_empty() {
        check.reject(path, "is required");
    } else if value.chars().any(char::is_control) {
        check.reject(path, "must not contain control characters");
    }
    text(check, path, value, MAX_WORD);
}

fn text(check: &mut Check, path: &str, value: &str, most: usize) {
    if value.chars().nth(most).is_some() {
        check.reject(path, format!("must have at most {most} characters"));
    }
}

fn data(check: &mut Check, text: String) -> Option<Box<RawValue>> {
    if text.is_empty() {
        return None;
    }
    if text.len() > MAX_DATA {
        check.reject("data", format!("must have at most {MAX_DATA} bytes"));
        return None;
    }
    let value = RawValue::from_string(text);
    if value.is_err() {
        check.reject("data", "is not JSON");
    }
    let value = value.ok()?;
    if depth(value.get()) > MAX_DEPTH {
        check.reject("data", format!("must be nested at most {MAX_DEPTH} levels deep"));
        return None;
    }
    Some(value).filter(|value| value.get() != "null")
}

/// Levels of JSON that is known to be right.
fn depth(json: &str) -> usize {
    let (mut depth, mut deepest) = (0_usize, 0);
    let (mut in_text, mut escaped) = (false, false);
    for byte in json.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_text => escaped = true,
            b'"' => in_text = !in_text,
            b'{' | b'[' if !in_text => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b'}' | b']' if !in_text => depth -= 1,
            _ => {}
        }
    }
    deepest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> NotifyUserRequest {
        NotifyUserRequest {
            user_id: "ada".to_owned(),
            r#type: "news".to_owned(),
            title: "News".to_owned(),
            ..NotifyUserRequest::default()
        }
    }

    #[test]
    fn every_broken_rule_is_named() {
        let wrong = NotifyUserRequest {
            body: "b".repeat(5001),
            data: "{".to_owned(),
            channels: vec!["email".to_owned(), String::new()],
            expires_in: Some(seconds(-1)),
            idempotency_key: "\n".to_owned(),
            ..NotifyUserRequest::default()
        };
        let error = NotifyUser::check(wrong).unwrap_err();
        let paths: Vec<_> = error.details.iter().map(|detail| detail.path.as_str()).collect();
        assert_eq!(
            paths,
            [
                "user_id",
                "type",
                "title",
                "body",
                "data",
                "channels.1",
                "expires_in",
                "idempotency_key"
            ]
        );
        let deep = NotifyUserRequest {
            data: format!("{}\"[{{\"{}", "[".repeat(63), "]".repeat(63)),
            ..request()
        };
        assert_eq!(NotifyUser::check(deep).unwrap_err().details[0].path, "data");
    }

    fn seconds(seconds: i64) -> prost_types::Duration {
        prost_types::Duration { seconds, nanos: 0 }
    }

    #[test]
    fn a_key_is_one_notification_of_its_user() {
        let keyed = |user: &str, key: &str| {
            let request = NotifyUserRequest {
                user_id: user.to_owned(),
                idempotency_key: key.to_owned(),
                data: "null".to_owned(),
                ..request()
            };
            let checked = NotifyUser::check(request).unwrap();
            assert!(checked.data.is_none());
            checked.id()
        };
        assert_eq!(keyed("ada", "k"), keyed("ada", "k"));
        assert_ne!(keyed("ada", "k"), keyed("bob", "k"));
        assert_ne!(keyed("ada", "k"), keyed("ada", "l"));
        assert_ne!(keyed("ada", ""), keyed("ada", ""));
    }
}
