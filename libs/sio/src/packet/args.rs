use bytestring::ByteString;
use serde::Serialize;

use super::{DecodeError, Limits};
use crate::json;

/// Raw JSON text of arguments: what stands in the array after an event's name, as `"a",1,{"k":2}`; empty for none.
///
/// Valid JSON, trimmed; and within [`Limits`] unless it was made from values of our own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RawArgs(ByteString);

impl RawArgs {
    /// Checks arguments that did not come in a packet, under [`Limits::DEFAULT`].
    ///
    /// # Errors
    /// [`DecodeError::InvalidJson`], [`DecodeError::TooDeep`], [`DecodeError::TooManyArgs`].
    pub fn parse(text: ByteString) -> Result<Self, DecodeError> {
        let Limits {
            max_depth, max_args, ..
        } = Limits::DEFAULT;
        let (elements, end) = json::elements(text.as_bytes(), 0, None, max_depth - 1, max_args)?;
        if end != text.len() {
            return Err(DecodeError::InvalidJson);
        }
        let Some((start, first_end)) = elements.first else {
            return Ok(Self::default());
        };
        Ok(Self(text.slice_ref(&text[start..elements.rest.1.max(first_end)])))
    }

    /// One argument.
    ///
    /// # Errors
    /// When the value does not serialize to JSON.
    pub fn from_value<T: Serialize + ?Sized>(value: &T) -> Result<Self, serde_json::Error> {
        serde_json::to_string(value).map(|text| Self(text.into()))
    }

    /// Several arguments.
    ///
    /// # Errors
    /// When a value does not serialize to JSON.
    pub fn from_values<T: Serialize>(values: &[T]) -> Result<Self, serde_json::Error> {
        let text = serde_json::to_string(values)?;
        let inside = text.get(1..text.len() - 1).unwrap_or_default();
        Ok(Self(inside.into()))
    }

    /// The raw text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The raw text, shared.
    #[must_use]
    pub fn as_byte_string(&self) -> &ByteString {
        &self.0
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The raw text of the first argument.
    #[must_use]
    pub fn first(&self) -> Option<&str> {
        self.iter().next()
    }

    /// The raw text of each argument.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        let mut rest: &str = &self.0;
        std::iter::from_fn(move || {
            if rest.is_empty() {
                return None;
            }
            let (first, after) = json::split_first(rest);
            rest = after;
            Some(first)
        })
    }

    /// Text known to be valid and trimmed.
    pub(super) fn trusted(text: ByteString) -> Self {
        Self(text)
    }
}
