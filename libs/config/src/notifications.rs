//! Section `notifications` with its tables: `[notifications.channels.<name>]` and `[[notifications.rules]]`.

use std::time::Duration;

use figment::value::{Dict, Value};

use crate::{NotificationChannel, NotificationRule, Notifications, Secret, check, load::Reader};

/// Keys of the section that are tables.
pub(crate) const TABLES: [&str; 2] = ["notifications.channels", "notifications.rules"];
const CHANNEL_KEYS: [&str; 6] = [
    "url",
    "secret",
    "max_per_second",
    "max_attempts",
    "retry_after_ms",
    "timeout_ms",
];
const RULE_KEYS: [&str; 6] = ["event", "type", "title", "body", "channels", "expire_hours"];
const MAX_NAME: usize = 64;

impl Reader {
    pub(crate) fn notifications(&mut self) -> Notifications {
        let channels = self.channels();
        let rules = self.rules(&channels);
        Notifications {
            keep_per_user: self.number("notifications.keep_per_user", 1, 1000),
            expire: self.hours("notifications.expire_hours", 1, 8760),
            channels,
            rules,
        }
    }

    fn channels(&mut self) -> Vec<NotificationChannel> {
        let [key, _] = TABLES;
        let Ok(value) = self.layers.find_value(key) else {
            return Vec::new();
        };
        let Some(tables) = value.as_dict() else {
            self.wrong(key, "must be tables: [notifications.channels.<name>]");
            return Vec::new();
        };
        let mut channels = Vec::new();
        for (name, value) in tables {
            let key = format!("{key}.{name}");
            let is_word = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
            if name.is_empty() || name.len() > MAX_NAME || !name.bytes().all(is_word) {
                self.wrong(&key, "the name must be 1 to 64 of A-Z a-z 0-9 _ -");
            }
            if name == "browser" {
                self.wrong(&key, "is where notifications always go");
            }
            let Some(fields) = self.table(&key, value, &CHANNEL_KEYS) else {
                continue;
            };
            let url = self.text(&key, "url", &fields);
            if !check::is_url(&url, &["http", "https"]) {
                self.wrong(
                    &format!("{key}.url"),
                    "must be a URL that begins with http:// or https://",
                );
            }
            let secret = self.text(&key, "secret", &fields);
            channels.push(NotificationChannel {
                name: name.clone(),
                url: Secret::from(url),
                secret: Some(secret).filter(|secret| !secret.is_empty()).map(Secret::from),
                max_per_second: self.count(&key, "max_per_second", &fields, 0, (0, 100_000)),
                max_attempts: self.count(&key, "max_attempts", &fields, 10, (1, 1000)),
                retry_after: Duration::from_millis(
                    self.count(&key, "retry_after_ms", &fields, 1000, (1, 600_000))
                        .into(),
                ),
                // Below the time after which somebody else would try.
                timeout: Duration::from_millis(
                    self.count(&key, "timeout_ms", &fields, 5000, (1, 20_000)).into(),
                ),
            });
        }
        channels
    }

    fn rules(&mut self, channels: &[NotificationChannel]) -> Vec<NotificationRule> {
        let [_, key] = TABLES;
        let Ok(value) = self.layers.find_value(key) else {
            return Vec::new();
        };
        let Some(entries) = value.as_array() else {
            self.wrong(key, "must be tables: [[notifications.rules]]");
            return Vec::new();
        };
        let mut rules = Vec::new();
        for (index, entry) in entries.iter().enumerate() {
            let key = format!("{key}.{index}");
            let Some(fields) = self.table(&key, entry, &RULE_KEYS) else {
                continue;
            };
            for required in ["event", "type", "title"] {
                if self.text(&key, required, &fields).is_empty() {
                    self.wrong(&format!("{key}.{required}"), "is required");
                }
            }
            let names = fields.get("channels").map(|value| value.as_array());
            let names = match names {
                None => Some(Vec::new()),
                Some(None) => None,
                Some(Some(names)) => names
                    .iter()
                    .map(|name| name.as_str().map(str::to_owned))
                    .collect(),
            };
            let names = names.unwrap_or_else(|| {
                self.wrong(&format!("{key}.channels"), "must be a list of names");
                Vec::new()
            });
            for name in &names {
                if channels.iter().all(|channel| channel.name != *name) {
                    self.wrong(
                        &format!("{key}.channels"),
                        format!("{name:?} is not among [notifications.channels]"),
                    );
                }
            }
            let hours = self.count(&key, "expire_hours", &fields, 0, (1, 8760));
            rules.push(NotificationRule {
                event: self.text(&key, "event", &fields),
                kind: self.text(&key, "type", &fields),
                title: self.text(&key, "title", &fields),
                body: self.text(&key, "body", &fields),
                channels: names,
                expire: (hours > 0).then(|| Duration::from_secs(u64::from(hours) * 3600)),
            });
        }
        rules
    }

    fn table(&mut self, key: &str, value: &Value, known: &[&str]) -> Option<Dict> {
        let Some(fields) = value.as_dict() else {
            self.wrong(key, "must be a table");
            return None;
        };
        for field in fields.keys().filter(|field| !known.contains(&field.as_str())) {
            self.wrong(&format!("{key}.{field}"), "is no setting");
        }
        Some(fields.clone())
    }

    fn text(&mut self, key: &str, field: &str, fields: &Dict) -> String {
        match fields.get(field).map(Value::as_str) {
            None => String::new(),
            Some(Some(text)) => text.to_owned(),
            Some(None) => {
                self.wrong(&format!("{key}.{field}"), "must be text");
                String::new()
            }
        }
    }

    fn count(&mut self, key: &str, field: &str, fields: &Dict, default: u32, (min, max): (u32, u32)) -> u32 {
        let Some(value) = fields.get(field) else {
            return default;
        };
        let unsigned = value.to_u128().and_then(|number| u32::try_from(number).ok());
        let signed = || value.to_i128().and_then(|number| u32::try_from(number).ok());
        let number = unsigned.or_else(signed);
        number
            .filter(|number| (min..=max).contains(number))
            .unwrap_or_else(|| {
                self.wrong(
                    &format!("{key}.{field}"),
                    format!("must be a number from {min} to {max}"),
                );
                default
            })
    }
}
