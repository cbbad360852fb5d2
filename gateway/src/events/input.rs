//! Reads an event's payload and collects everything that is wrong with it. What is not asked for is skipped, and
//! nothing is built from a value that is too long.

use std::fmt;

use model::{ClientError, Detail, RoomError, RoomName};
use serde::{
    Deserialize, Deserializer,
    de::{IgnoredAny, MapAccess, SeqAccess, Visitor},
};
use serde_json::value::RawValue;
use smallvec::SmallVec;

/// Fields of a payload; those of all events together are fewer.
const MAX_FIELDS: usize = 64;
/// Code points of a room's name, a user's id (CONTRACT section 4).
const MAX_NAME: usize = 128;
/// Code points of the longest word or offset.
const MAX_WORD: usize = 64;

/// The payload of an event: its first argument, an object.
pub(crate) struct Input<'a> {
    fields: Fields<'a>,
    details: Vec<Detail>,
    key: Option<&'a str>,
}

/// Names and raw values, in their order.
#[derive(Default)]
struct Fields<'a> {
    known: SmallVec<[(String, &'a RawValue); 4]>,
    too_many: bool,
}

impl<'a> Input<'a> {
    pub(crate) fn new(argument: Option<&'a str>) -> Self {
        let fields = argument.and_then(|argument| serde_json::from_str::<Fields<'_>>(argument).ok());
        let mut input = Self {
            details: Vec::new(),
            fields: Fields::default(),
            key: None,
        };
        match fields {
            Some(fields) if fields.too_many => {
                input.wrong("", format!("must have at most {MAX_FIELDS} fields"));
            }
            Some(fields) => input.fields = fields,
            None => input.wrong("", "must be an object"),
        }
        input
    }

    /// The same with the key that a retry has in common with the first attempt.
    pub(crate) fn with_key(mut self, key: Option<&'a str>) -> Self {
        self.key = key;
        self
    }

    /// Takes `alias` for a field that is not there.
    pub(crate) fn with_alias(mut self, field: &str, alias: &str) -> Self {
        if self.raw(field).is_none() {
            for (name, _) in self.fields.known.iter_mut().filter(|(name, _)| name == alias) {
                field.clone_into(name);
            }
        }
        self
    }

    /// The key of [`Input::with_key`].
    pub(super) fn key(&self) -> Option<&'a str> {
        self.key
    }

    fn wrong(&mut self, path: impl Into<String>, message: impl Into<String>) {
        self.details.push(Detail {
            path: path.into(),
            message: message.into(),
        });
    }

    /// `null` counts as absent. Of two values the last counts.
    fn raw(&self, field: &str) -> Option<&'a str> {
        let fields = self.fields.known.iter().rev();
        let mut values = fields.filter(|(name, _)| name == field);
        values
            .next()
            .map(|(_, value)| value.get())
            .filter(|value| *value != "null")
    }

    /// A required room name.
    pub(super) fn room(&mut self, field: &str) -> Option<RoomName> {
        let Some(raw) = self.raw(field) else {
            self.wrong(field, "is required");
            return None;
        };
        let room = match text(raw, MAX_NAME) {
            Text::Is(name) => RoomName::new(&name),
            Text::TooLong => Err(RoomError::TooLong),
            Text::No => {
                self.wrong(field, "must be a string");
                return None;
            }
        };
        match room {
            Ok(room) => Some(room),
            Err(error) => {
                self.wrong(field, error.to_string());
                None
            }
        }
    }

    /// A room name that may be left out.
    pub(super) fn optional_room(&mut self, field: &str) -> Option<RoomName> {
        self.raw(field)?;
        self.room(field)
    }

    /// A required text of 1 to `max` code points.
    pub(super) fn text(&mut self, field: &str, max: usize) -> Option<String> {
        if self.raw(field).is_none() {
            self.wrong(field, "is required");
            return None;
        }
        self.optional_text(field, max)
    }

    /// A text of 1 to `max` code points that may be left out.
    pub(super) fn optional_text(&mut self, field: &str, max: usize) -> Option<String> {
        match text(self.raw(field)?, max) {
            Text::Is(text) if text.is_empty() => {
                self.wrong(field, "must not be empty");
                None
            }
            Text::Is(text) => Some(text),
            Text::TooLong => {
                self.wrong(field, format!("must have at most {max} characters"));
                None
            }
            Text::No => {
                self.wrong(field, "must be a string");
                None
            }
        }
    }

    /// One of `allowed`; the first when left out.
    pub(super) fn one_of(&mut self, field: &str, allowed: &[&'static str]) -> &'static str {
        let default = allowed.first().copied().unwrap_or_default();
        let Some(raw) = self.raw(field) else {
            return default;
        };
        let found = match text(raw, MAX_WORD) {
            Text::Is(text) => allowed.iter().find(|word| **word == text),
            Text::TooLong | Text::No => None,
        };
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
        let number = serde_json::from_str(self.raw(field)?).ok();
        let number = number.filter(|number| (min..=max).contains(number));
        if number.is_none() {
            self.wrong(field, format!("must be a whole number from {min} to {max}"));
        }
        number
    }

    /// A boolean; `default` when left out.
    pub(super) fn flag(&mut self, field: &str, default: bool) -> bool {
        match self.raw(field) {
            None => default,
            Some("true") => true,
            Some("false") => false,
            Some(_) => {
                self.wrong(field, "must be a boolean");
                default
            }
        }
    }

    /// An offset of `partition` that may be left out.
    pub(super) fn optional_offset(&mut self, field: &str) -> Option<model::Offset> {
        let offset = match text(self.raw(field)?, MAX_WORD) {
            Text::Is(text) => text.parse().ok(),
            Text::TooLong => None,
            Text::No => {
                self.wrong(field, "must be a string");
                return None;
            }
        };
        if offset.is_none() {
            self.wrong(field, "must be an offset, \"<partition>-<sequence>\"");
        }
        offset
    }

    /// Says that a field, although well formed, does not fit.
    pub(super) fn reject(&mut self, field: &str, message: &str) {
        self.wrong(field, message);
    }

    /// 1 to `max` texts of 1 to 128 code points without control characters.
    pub(super) fn user_ids(&mut self, field: &str, max: usize) -> Vec<String> {
        let Some(raw) = self.raw(field) else {
            self.wrong(field, "is required");
            return Vec::new();
        };
        let Ok(values) = serde_json::from_str::<Few<'_>>(raw) else {
            self.wrong(field, "must be a list");
            return Vec::new();
        };
        if values.count == 0 || values.count > max.min(FEW) {
            self.wrong(field, format!("must have 1 to {max} entries"));
            return Vec::new();
        }
        let mut ids = Vec::with_capacity(values.count);
        for (index, value) in values.first.into_iter().enumerate() {
            let id = match text(value.get(), MAX_NAME) {
                Text::Is(text) => model::UserId::new(&text).map_err(|error| error.to_string()),
                Text::TooLong => Err(format!("must have at most {MAX_NAME} characters")),
                Text::No => Err("must be a string".to_owned()),
            };
            match id {
                Ok(id) => ids.push(id.as_str().to_owned()),
                Err(error) => self.wrong(format!("{field}.{index}"), error),
            }
        }
        ids
    }

    /// As [`Input::finish`], for fields that are required.
    pub(super) fn both<A, B>(self, a: Option<A>, b: Option<B>) -> Result<(A, B), ClientError> {
        self.finish()?;
        // A required field that is not there is among what was wrong.
        a.zip(b).ok_or_else(|| ClientError::invalid(Vec::new()))
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

/// A raw value that should be a text.
enum Text {
    Is(String),
    TooLong,
    No,
}

/// A raw value as a text of at most `max` code points.
fn text(raw: &str, max: usize) -> Text {
    if !raw.starts_with('"') {
        return Text::No;
    }
    // A code point takes 12 bytes at most, as two escaped surrogates.
    if raw.len() > 12 * max + 2 {
        return Text::TooLong;
    }
    match serde_json::from_str::<String>(raw) {
        Ok(text) if text.chars().nth(max).is_some() => Text::TooLong,
        Ok(text) => Text::Is(text),
        // Half a surrogate is no character.
        Err(_) => Text::No,
    }
}

/// The first entries of a list, and how many there are.
struct Few<'a> {
    first: Vec<&'a RawValue>,
    count: usize,
}

/// Entries of a list that are kept.
const FEW: usize = 256;

impl<'de> Deserialize<'de> for Fields<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;

        impl<'de> Visitor<'de> for Object {
            type Value = Fields<'de>;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields<'de>, A::Error> {
                let mut fields = Fields::default();
                while fields.known.len() < MAX_FIELDS {
                    let Some(field) = map.next_entry()? else {
                        return Ok(fields);
                    };
                    fields.known.push(field);
                }
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {
                    fields.too_many = true;
                }
                Ok(fields)
            }
        }

        deserializer.deserialize_map(Object)
    }
}

impl<'de> Deserialize<'de> for Few<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct List;

        impl<'de> Visitor<'de> for List {
            type Value = Few<'de>;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a list")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Few<'de>, A::Error> {
                let mut first = Vec::new();
                while first.len() < FEW {
                    let Some(entry) = list.next_element()? else {
                        let count = first.len();
                        return Ok(Few { first, count });
                    };
                    first.push(entry);
                }
                let mut count = first.len();
                while list.next_element::<IgnoredAny>()?.is_some() {
                    count += 1;
                }
                Ok(Few { first, count })
            }
        }

        deserializer.deserialize_seq(List)
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

    #[test]
    fn what_is_too_long_or_too_much_is_refused_unread() {
        let long = "x".repeat(900_000);
        let json = serde_json::json!({
            "roomId": long, "content": long, "type": long, "before": long, "to": vec![1; 200_000],
        });
        let json = json.to_string();
        let mut input = Input::new(Some(&json));
        input.room("roomId");
        input.text("content", 5000);
        input.one_of("type", &["text"]);
        input.optional_offset("before");
        input.user_ids("to", 100);
        let told: Vec<_> = input.finish().unwrap_err().details;
        let told: Vec<_> = told.iter().map(|detail| detail.message.as_str()).collect();
        assert_eq!(
            told,
            [
                "must have at most 128 characters",
                "must have at most 5000 characters",
                "must be one of text",
                "must be an offset, \"<partition>-<sequence>\"",
                "must have 1 to 100 entries",
            ]
        );
        let fields = |count: usize| {
            let fields: Vec<_> = (0..count).map(|field| format!("\"{field}\":0")).collect();
            Input::new(Some(&format!("{{{}}}", fields.join(",")))).finish()
        };
        assert!(fields(64).is_ok());
        assert_eq!(
            fields(65).unwrap_err().details[0].message,
            "must have at most 64 fields"
        );
        assert!(fields(100_000).is_err());
    }

    #[test]
    fn values_are_read_as_json_writes_them() {
        let json =
            r#"{"a":1,"\u0061":"\ud83c\udfba\n","b":"\ud83c","c":null,"n":5.0,"m":18446744073709551616}"#;
        let mut input = Input::new(Some(json));
        assert_eq!(input.text("a", 2).as_deref(), Some("🎺\n"), "the last counts");
        assert_eq!(input.optional_text("b", 5), None);
        assert_eq!(input.optional_text("c", 5), None);
        input.optional_number("n", 0, 9);
        input.optional_number("m", 0, u64::MAX);
        let error = input.finish().unwrap_err();
        let paths: Vec<_> = error.details.iter().map(|detail| detail.path.as_str()).collect();
        assert_eq!(paths, ["b", "n", "m"]);
    }
}
