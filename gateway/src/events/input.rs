//! Reads an event's payload and collects everything that is wrong with it.

use model::{ClientError, Detail, RoomName};
use serde_json::{Map, Value};

/// The payload of an event: its first argument, an object.
pub(super) struct Input {
    fields: Map<String, Value>,
    details: Vec<Detail>,
}

impl Input {
    pub(super) fn new(argument: Option<&str>) -> Self {
        let value = argument.map(serde_json::from_str).transpose();
        match value {
            Ok(Some(Value::Object(fields))) => Self {
                fields,
                details: Vec::new(),
            },
            Ok(_) | Err(_) => {
                let detail = Detail {
                    path: String::new(),
                    message: "must be an object".to_owned(),
                };
                Self {
                    fields: Map::new(),
                    details: vec![detail],
                }
            }
        }
    }

    fn wrong(&mut self, path: impl Into<String>, message: impl Into<String>) {
        self.details.push(Detail {
            path: path.into(),
            message: message.into(),
        });
    }

    /// `null` counts as absent.
    fn take(&mut self, field: &str) -> Option<Value> {
        self.fields.remove(field).filter(|value| !value.is_null())
    }

    /// A required room name.
    pub(super) fn room(&mut self, field: &str) -> Option<RoomName> {
        match self.take(field) {
            Some(Value::String(name)) => match RoomName::new(&name) {
                Ok(room) => Some(room),
                Err(error) => {
                    self.wrong(field, error.to_string());
                    None
                }
            },
            Some(_) => {
                self.wrong(field, "must be a string");
                None
            }
            None => {
                self.wrong(field, "is required");
                None
            }
        }
    }

    /// A room name that may be left out.
    pub(super) fn optional_room(&mut self, field: &str) -> Option<RoomName> {
        if self.fields.get(field).is_none_or(Value::is_null) {
            None
        } else {
            self.room(field)
        }
    }

    /// A required text of 1 to `max` code points.
    pub(super) fn text(&mut self, field: &str, max: usize) -> Option<String> {
        if self.fields.get(field).is_none_or(Value::is_null) {
            self.wrong(field, "is required");
            return None;
        }
        self.optional_text(field, max)
    }

    /// A text of 1 to `max` code points that may be left out.
    pub(super) fn optional_text(&mut self, field: &str, max: usize) -> Option<String> {
        match self.take(field)? {
            Value::String(text) if text.is_empty() => {
                self.wrong(field, "must not be empty");
                None
            }
            Value::String(text) if text.chars().nth(max).is_some() => {
                self.wrong(field, format!("must have at most {max} characters"));
                None
            }
            Value::String(text) => Some(text),
            _ => {
                self.wrong(field, "must be a string");
                None
            }
        }
    }

    /// One of `allowed`; the first when left out.
    pub(super) fn one_of(&mut self, field: &str, allowed: &[&'static str]) -> &'static str {
        let default = allowed.first().copied().unwrap_or_default();
        let Some(value) = self.take(field) else {
            return default;
        };
        let found = value
            .as_str()
            .and_then(|text| allowed.iter().find(|word| **word == text));
        match found {
            Some(word) => word,
            None => {
                self.wrong(field, format!("must be one of {}", allowed.join(", ")));
                default
            }
        }
    }

    /// A whole number of `min..=max` that may be left out.
    pub(super) fn optional_number(&mut self, field: &str, min: u64, max: u64) -> Option<u64> {
        let value = self.take(field)?;
        let number = value.as_u64().filter(|number| (min..=max).contains(number));
        if number.is_none() {
            self.wrong(field, format!("must be a whole number from {min} to {max}"));
        }
        number
    }

    /// A boolean; `default` when left out.
    pub(super) fn flag(&mut self, field: &str, default: bool) -> bool {
        match self.take(field) {
            None => default,
            Some(Value::Bool(flag)) => flag,
            Some(_) => {
                self.wrong(field, "must be a boolean");
                default
            }
        }
    }

    /// An offset of `partition` that may be left out.
    pub(super) fn optional_offset(&mut self, field: &str) -> Option<model::Offset> {
        match self.take(field)? {
            Value::String(text) => match text.parse() {
                Ok(offset) => Some(offset),
                Err(_) => {
                    self.wrong(field, "must be an offset, \"<partition>-<sequence>\"");
                    None
                }
            },
            _ => {
                self.wrong(field, "must be a string");
                None
            }
        }
    }

    /// Says that a field, although well formed, does not fit.
    pub(super) fn reject(&mut self, field: &str, message: &str) {
        self.wrong(field, message);
    }

    /// 1 to `max` texts of 1 to 128 code points without control characters.
    pub(super) fn user_ids(&mut self, field: &str, max: usize) -> Vec<String> {
        let Some(value) = self.take(field) else {
            self.wrong(field, "is required");
            return Vec::new();
        };
        let Value::Array(values) = value else {
            self.wrong(field, "must be a list");
            return Vec::new();
        };
        if values.is_empty() || values.len() > max {
            self.wrong(field, format!("must have 1 to {max} entries"));
            return Vec::new();
        }
        let mut ids = Vec::with_capacity(values.len());
        for (index, value) in values.into_iter().enumerate() {
            match value.as_str().map(model::UserId::new) {
                Some(Ok(id)) => ids.push(id.as_str().to_owned()),
                Some(Err(error)) => self.wrong(format!("{field}.{index}"), error.to_string()),
                None => self.wrong(format!("{field}.{index}"), "must be a string"),
            }
        }
        ids
    }

    /// Everything that was wrong.
    pub(super) fn finish(self) -> Result<(), ClientError> {
        if self.details.is_empty() {
            Ok(())
        } else {
            Err(ClientError::invalid(self.details))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_wrong_is_told_at_once() {
        let mut input = Input::new(Some(
            r#"{"roomId":"","content":"","type":"film","n":-1,"to":["a",1,""],"f":1}"#,
        ));
        input.room("roomId");
        input.text("content", 5000);
        input.one_of("type", &["text", "image"]);
        input.optional_number("n", 0, 5);
        input.user_ids("to", 10);
        input.flag("f", true);
        input.text("gone", 5);
        let error = input.finish().unwrap_err();
        let paths: Vec<_> = error.details.iter().map(|detail| detail.path.as_str()).collect();
        assert_eq!(
            paths,
            ["roomId", "content", "type", "n", "to.1", "to.2", "f", "gone"]
        );
    }

    #[test]
    fn payloads_that_are_no_object() {
        for argument in [None, Some("1"), Some("null"), Some("[]"), Some(r#""x""#)] {
            let error = Input::new(argument).finish().unwrap_err();
            assert_eq!(error.details[0].message, "must be an object");
        }
    }

    #[test]
    fn text_is_measured_in_code_points() {
        let text = |length: usize| {
            let json = serde_json::json!({ "content": "💬".repeat(length) }).to_string();
            let mut input = Input::new(Some(&json));
            input.text("content", 5000);
            input.finish()
        };
        assert!(text(5000).is_ok());
        assert!(text(5001).is_err());
    }
}
