//! Settings as typed values. What is wrong is noted, and reading goes on.

use std::{fmt::Display, net::SocketAddr, path::PathBuf, str::FromStr, time::Duration};

use figment::{Figment, value::Value};
use tracing_subscriber::EnvFilter;

use super::{Problem, problem};
use crate::{Role, Secret, check, settings};

pub(crate) struct Reader {
    pub(crate) role: Role,
    pub(crate) layers: Figment,
    pub(crate) problems: Vec<Problem>,
}
impl Reader {
    /// A file that is there.
    pub(crate) fn file(&mut self, key: &str) -> Option<PathBuf> {
        let path = PathBuf::from(self.optional(key)?);
        if !path.is_file() {
            self.wrong(key, format!("{} is no file", path.display()));
        }
        Some(path)
    }

    pub(crate) fn wrong(&mut self, key: &str, what: impl Display) {
        self.problems.push(problem(&key, what));
    }

    /// The value as text, lists joined by commas; the default when it is set nowhere.
    pub(crate) fn string(&mut self, key: &str) -> String {
        let default = settings::find(key)
            .map(|setting| setting.default_in(self.role))
            .unwrap_or_default();
        match self.layers.find_value(key) {
            Err(_) => default.to_owned(),
            Ok(value) => as_text(&value).unwrap_or_else(|| {
                self.wrong(key, "must be a single value");
                default.to_owned()
            }),
        }
    }

    pub(crate) fn optional(&mut self, key: &str) -> Option<String> {
        Some(self.string(key)).filter(|text| !text.is_empty())
    }

    pub(crate) fn not_empty(&mut self, key: &str) -> String {
        let text = self.string(key);
        if text.trim().is_empty() {
            self.wrong(key, "must not be empty");
        }
        text
    }

    pub(crate) fn log_filter(&mut self, key: &str) -> String {
        let filter = self.string(key);
        if let Err(error) = EnvFilter::try_new(&filter) {
            self.wrong(key, error);
        }
        filter
    }

    pub(crate) fn optional_as(
        &mut self,
        key: &str,
        what: &str,
        holds: impl Fn(&str) -> bool,
    ) -> Option<String> {
        let value = self.optional(key);
        if let Some(text) = value.as_deref().filter(|text| !holds(text)) {
            self.wrong(key, format!("{text:?} {what}"));
        }
        value
    }

    /// Servers to connect to. Passwords stand in them, so no message shows them.
    pub(crate) fn servers(
        &mut self,
        key: &str,
        needed_by: &[Role],
        schemes: &[&str],
        bare_hosts: bool,
    ) -> Option<Secret> {
        let value = self.optional(key);
        match &value {
            None if needed_by.contains(&self.role) => {
                self.wrong(key, format!("is required in {}", self.role.as_str()));
            }
            Some(text) if !check::are_servers(text, schemes, bare_hosts) => {
                let schemes = schemes.join("://, ");
                self.wrong(
                    key,
                    format!("must be servers with hosts, comma-separated; schemes: {schemes}://"),
                );
            }
            Some(_) | None => {}
        }
        value.map(Secret::from)
    }

    pub(crate) fn list(&mut self, key: &str) -> Vec<String> {
        let text = self.string(key);
        text.split(',')
            .map(|item| item.trim().to_owned())
            .filter(|item| !item.is_empty())
            .collect()
    }

    pub(crate) fn origins(&mut self, key: &str) -> Vec<String> {
        let origins = self.list(key);
        if origins.len() > 1 && origins.iter().any(|origin| origin == "*") {
            self.wrong(key, "* allows any origin and stands alone");
        }
        for origin in origins.iter().filter(|origin| *origin != "*") {
            let rest = origin
                .strip_prefix("http://")
                .or_else(|| origin.strip_prefix("https://"));
            if rest.is_none_or(|rest| rest.is_empty() || rest.trim_end_matches('/').contains('/')) {
                self.wrong(
                    key,
                    format!("{origin:?} is no origin, e.g. https://app.example.com"),
                );
            }
        }
        origins
    }

    pub(crate) fn parse<T: FromStr>(&mut self, key: &str, what: &str) -> Option<T> {
        let text = self.string(key);
        let parsed = text.parse().ok();
        if parsed.is_none() {
            self.wrong(key, format!("{text:?} is {what}"));
        }
        parsed
    }

    pub(crate) fn address(&mut self, key: &str) -> SocketAddr {
        self.parse(key, "no address, e.g. 0.0.0.0:3001")
            .unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 0)))
    }

    pub(crate) fn number<T: FromStr + PartialOrd + Display + Copy>(
        &mut self,
        key: &str,
        min: T,
        max: T,
    ) -> T {
        match self.parse::<T>(key, "no whole number in range") {
            Some(number) if number < min || number > max => {
                self.wrong(key, format!("{number} is not from {min} to {max}"));
                min
            }
            Some(number) => number,
            None => min,
        }
    }

    /// In milliseconds.
    pub(crate) fn duration(&mut self, key: &str, min: u64, max: u64) -> Duration {
        Duration::from_millis(self.number(key, min, max))
    }

    pub(crate) fn millis(&mut self, key: &str, min: u64) -> Duration {
        Duration::from_millis(self.number(key, min, 86_400_000))
    }

    pub(crate) fn seconds(&mut self, key: &str, min: u64, max: u64) -> Duration {
        Duration::from_secs(self.number(key, min, max))
    }

    pub(crate) fn hours(&mut self, key: &str, min: u64, max: u64) -> Duration {
        Duration::from_secs(self.number(key, min, max) * 3600)
    }

    pub(crate) fn one_of<T: Copy>(&mut self, key: &str, words: &[(&str, T)]) -> T {
        let text = self.string(key);
        if let Some((_, value)) = words.iter().find(|(word, _)| *word == text) {
            return *value;
        }
        let all = words.iter().map(|(word, _)| *word).collect::<Vec<_>>().join(", ");
        self.wrong(key, format!("{text:?} is none of {all}"));
        words[0].1
    }

    pub(crate) fn path(&mut self, key: &str) -> String {
        let path = self.string(key);
        if path.len() < 2 || !path.starts_with('/') || !path.ends_with('/') || path.contains(['?', '#', ' '])
        {
            self.wrong(key, format!("{path:?} must be a path with a slash at both ends"));
        }
        path
    }
}

fn as_text(value: &Value) -> Option<String> {
    match value {
        Value::String(_, text) => Some(text.clone()),
        Value::Char(_, char) => Some(char.to_string()),
        Value::Bool(_, flag) => Some(flag.to_string()),
        Value::Num(_, number) => number
            .to_i128()
            .map(|number| number.to_string())
            .or_else(|| number.to_u128().map(|number| number.to_string()))
            .or_else(|| number.to_f64().map(|number| number.to_string())),
        Value::Array(_, items) => {
            let items: Option<Vec<_>> = items.iter().map(as_text).collect();
            items.map(|items| items.join(","))
        }
        Value::Empty(..) | Value::Dict(..) => None,
    }
}
