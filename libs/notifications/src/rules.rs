//! Rules that make notifications of an application's events.

use std::time::Duration;

use model::{ClientError, Detail};
use proto::v1::NotifyUserRequest;
use serde_json::Value;
use uuid::Uuid;

/// Names a notification by its event's key.
const KEYS: Uuid = Uuid::from_u128(0x3c5e_71aa_90b2_4f6d_b8e1_5d27_c604_9ef3);

/// An event of an application becomes a notification.
#[derive(Clone, Debug)]
pub struct Rule {
    /// The event's name, e.g. `user.registered`.
    pub event: String,
    /// What kind of notification it becomes.
    pub kind: String,
    /// Its title: `{name}` and `{data.name}` stand for a field of the event's data, `{user}` for the user's id.
    pub title: String,
    /// Its body, likewise; empty for none.
    pub body: String,
    /// Where it goes beside the user's sockets.
    pub channels: Vec<String>,
    /// As of the notification.
    pub expires_in: Option<Duration>,
}

/// The notifications that the rules make of a request. One with a title is a notification itself; one without is an
/// event, by its type.
///
/// # Errors
/// `VALIDATION_ERROR` when an event's data is no JSON.
pub(crate) fn apply(
    rules: &[Rule],
    request: NotifyUserRequest,
) -> Result<Vec<NotifyUserRequest>, ClientError> {
    let fits = |rule: &&Rule| rule.event == request.r#type;
    if !request.title.is_empty() || !rules.iter().any(|rule| fits(&rule)) {
        return Ok(vec![request]);
    }
    let data: Value = match request.data.as_str() {
        "" => Value::Null,
        text => serde_json::from_str(text).map_err(|_| {
            ClientError::invalid(vec![Detail {
                path: "data".to_owned(),
                message: "is not JSON".to_owned(),
            }])
        })?,
    };
    let made = rules.iter().filter(fits).enumerate().map(|(index, rule)| {
        let key = &request.idempotency_key;
        let expires_in = rule.expires_in.and_then(|time| time.try_into().ok());
        NotifyUserRequest {
            r#type: rule.kind.clone(),
            title: filled(&rule.title, &request.user_id, &data),
            body: filled(&rule.body, &request.user_id, &data),
            channels: rule.channels.iter().chain(&request.channels).cloned().collect(),
            expires_in: request.expires_in.or(expires_in),
            // Several rules make several notifications of one event.
            idempotency_key: match key.is_empty() {
                true => String::new(),
                false => key_of(index, &rule.kind, key),
            },
            ..request.clone()
        }
    });
    Ok(made.collect())
}

/// The key of what one of an event's rules makes of it: as long as any other, whatever the event's is.
fn key_of(index: usize, kind: &str, key: &str) -> String {
    let name = format!("{index}:{}:{kind}:{key}", kind.len());
    Uuid::new_v5(&KEYS, name.as_bytes()).to_string()
}

/// Fields that are not there are empty.
fn filled(template: &str, user: &str, data: &Value) -> String {
    let mut text = String::with_capacity(template.len());
    let mut rest = template;
    while let Some((before, after)) = rest.split_once('{') {
        text.push_str(before);
        let Some((name, behind)) = after.split_once('}') else {
            text.push('{');
            rest = after;
            break;
        };
        match name {
            "user" => text.push_str(user),
            name => {
                let path = name.strip_prefix("data.").unwrap_or(name);
                let value = path.split('.').try_fold(data, |value, step| value.get(step));
                match value {
                    None | Some(Value::Null) => {}
                    Some(Value::String(value)) => text.push_str(value),
                    Some(value) => text.push_str(&value.to_string()),
                }
            }
        }
        rest = behind;
    }
    text.push_str(rest);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_of_templates() {
        let data = serde_json::json!({ "name": "Ada", "order": { "id": 7 }, "gone": null });
        for (template, expected) in [
            ("Welcome, {name}", "Welcome, Ada"),
            ("{data.name} {user} {order.id}", "Ada u-1 7"),
            ("{gone}{none}{order.none}.", "."),
            ("{name", "{name"),
            ("{}{{name}}", "}"),
            ("}", "}"),
        ] {
            assert_eq!(filled(template, "u-1", &data), expected, "{template}");
        }
    }

    #[test]
    fn keys_of_what_rules_make() {
        let rule = |kind: &str| Rule {
            event: "e".to_owned(),
            kind: kind.to_owned(),
            title: "t".to_owned(),
            body: String::new(),
            channels: Vec::new(),
            expires_in: None,
        };
        let rules = [rule("a"), rule("a"), rule("b")];
        let keys = |key: &str| -> Vec<String> {
            let event = NotifyUserRequest {
                r#type: "e".to_owned(),
                idempotency_key: key.to_owned(),
                ..NotifyUserRequest::default()
            };
            let made = apply(&rules, event).unwrap().into_iter();
            made.map(|one| one.idempotency_key).collect()
        };
        let made = keys("k");
        assert_eq!(made, keys("k"));
        assert!(made[0] != made[1] && made[1] != made[2] && made[0] != made[2]);
        assert!(keys(&"k".repeat(128)).iter().all(|key| key.len() <= 128));
        assert_eq!(keys(""), ["", "", ""]);
    }

    #[test]
    fn an_event_becomes_what_the_rules_say() {
        let rule = |kind: &str| Rule {
            event: "user.registered".to_owned(),
            kind: kind.to_owned(),
            title: "Welcome, {name}".to_owned(),
            body: String::new(),
            channels: vec!["email".to_owned()],
            expires_in: None,
        };
        let rules = [rule("welcome"), rule("tour")];
        let event = NotifyUserRequest {
            user_id: "ada".to_owned(),
            r#type: "user.registered".to_owned(),
            data: r#"{"name":"Ada"}"#.to_owned(),
            idempotency_key: "k".to_owned(),
            ..NotifyUserRequest::default()
        };
        let made = apply(&rules, event.clone()).unwrap();
        let kinds: Vec<_> = made.iter().map(|one| &*one.r#type).collect();
        assert_eq!(kinds, ["welcome", "tour"]);
        assert_eq!(
            (&*made[0].title, &*made[0].channels[0]),
            ("Welcome, Ada", "email")
        );

        let told = NotifyUserRequest {
            title: "Own".to_owned(),
            ..event.clone()
        };
        assert_eq!(apply(&rules, told.clone()).unwrap(), [told]);
        assert_eq!(apply(&[], event.clone()).unwrap().len(), 1);
        let broken = NotifyUserRequest {
            data: "{".to_owned(),
            ..event
        };
        assert_eq!(
            apply(&rules, broken).unwrap_err().code,
            model::ErrorCode::ValidationError
        );
    }
}
