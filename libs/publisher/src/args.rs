//! Arguments of events, and their JSON form, in which `{"$binary": "<base64>"}` stands for bytes.

use std::fmt;

use base64::{
    Engine as _,
    alphabet::STANDARD,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use bytes::Bytes;
use proto::v1::{Argument, argument};
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{MapAccess, Visitor},
};
use serde_json::value::RawValue;
use sio::packet::{DecodeError, Limits, RawArgs};

/// Padding may be there or not.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);
/// The field that stands for bytes in JSON.
const BINARY: &str = "$binary";
/// The field that stands for an attachment on the wire of Socket.IO.
const PLACEHOLDER: &str = "_placeholder";

/// Arguments of an event as they go to clients: raw JSON, in which placeholders number the attachments.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Args {
    json: RawArgs,
    attachments: Vec<Bytes>,
}

/// What is wrong with an argument.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ArgsError {
    /// No JSON.
    #[error("is not JSON")]
    NotJson,
    /// Containers within containers, more than clients are sent.
    #[error("must be nested at most 64 levels deep")]
    TooDeep,
    /// More arguments than clients are sent.
    #[error("must be at most 256")]
    TooMany,
    /// The value of `$binary` cannot be read.
    #[error("has a $binary that is not base64")]
    NotBase64,
    /// More than clients take.
    #[error("must have at most 10 binary values")]
    TooManyAttachments,
    /// It would be taken for bytes.
    #[error("must not have a field _placeholder beside binary values")]
    Placeholder,
}

/// An argument that came from outside.
#[derive(Clone, Debug)]
pub enum Value<'a> {
    /// JSON text; `{"$binary": …}` stands for bytes.
    Json(&'a str),
    /// Bytes.
    Binary(Bytes),
}

impl<'a> Value<'a> {
    /// What a message holds; none when it holds nothing.
    #[must_use]
    pub fn of(argument: &'a Argument) -> Option<Self> {
        argument.value.as_ref().map(|value| match value {
            argument::Value::Json(text) => Self::Json(text),
            argument::Value::Binary(bytes) => Self::Binary(bytes.clone()),
        })
    }
}

impl Args {
    /// Arguments of a packet: raw JSON, and what its placeholders number.
    #[must_use]
    pub fn new(json: RawArgs, attachments: Vec<Bytes>) -> Self {
        Self { json, attachments }
    }

    /// Arguments that a gateway hands on as a client sent them: raw JSON, checked there, and what its placeholders
    /// number. None at all when it is none.
    #[must_use]
    pub fn handed_on(json: Vec<u8>, attachments: Vec<Bytes>) -> Self {
        let text = String::from_utf8(json).unwrap_or_default();
        let json = RawArgs::parse(text.into()).unwrap_or_default();
        Self::new(json, attachments)
    }

    /// One argument of our own, without bytes.
    ///
    /// # Errors
    /// When the value does not serialize to JSON.
    pub fn from_value<T: Serialize + ?Sized>(value: &T) -> Result<Self, serde_json::Error> {
        Ok(Self::new(RawArgs::from_value(value)?, Vec::new()))
    }

    /// Checks arguments from outside.
    ///
    /// # Errors
    /// The first wrong argument's index, if it is one alone, and what is wrong with it.
    pub fn read(values: &[Value<'_>]) -> Result<Self, (Option<usize>, ArgsError)> {
        let mut texts = Vec::with_capacity(values.len());
        for (index, value) in values.iter().enumerate() {
            let text = match value {
                Value::Json(text) => {
                    let raw = serde_json::from_str::<&RawValue>(text);
                    let raw = raw.map_err(|_| (Some(index), ArgsError::NotJson))?.get();
                    RawArgs::parse(raw.to_owned().into())
                        .map_err(|error| (Some(index), ArgsError::of(error)))?;
                    raw
                }
                Value::Binary(_) => "",
            };
            texts.push(text);
        }
        let has_bytes =
            |(value, text): (&Value<'_>, &&str)| matches!(value, Value::Binary(_)) || text.contains(BINARY);
        let mut attachments = Vec::new();
        let mut json = String::new();
        if values.iter().zip(&texts).any(has_bytes) {
            for (index, (value, text)) in values.iter().zip(&texts).enumerate() {
                if index > 0 {
                    json.push(',');
                }
                match value {
                    Value::Binary(bytes) => attach(bytes.clone(), &mut json, &mut attachments),
                    Value::Json(_) => extract(text, &mut json, &mut attachments),
                }
                .map_err(|error| (Some(index), error))?;
            }
        } else {
            json = texts.join(",");
        }
        let json = RawArgs::parse(json.into()).map_err(|error| (None, ArgsError::of(error)))?;
        Ok(Self { json, attachments })
    }

    /// Raw JSON without the array's brackets.
    #[must_use]
    pub fn json(&self) -> &RawArgs {
        &self.json
    }

    /// What the placeholders number.
    #[must_use]
    pub fn attachments(&self) -> &[Bytes] {
        &self.attachments
    }

    /// The arguments as a JSON list for applications, in which `{"$binary": "<base64>"}` stands for bytes.
    #[must_use]
    pub fn to_json(&self) -> String {
        let mut list = String::with_capacity(self.json.as_str().len() + 2);
        list.push('[');
        if self.attachments.is_empty() {
            list.push_str(self.json.as_str());
        } else {
            for (index, argument) in self.json.iter().enumerate() {
                if index > 0 {
                    list.push(',');
                }
                insert(argument, &mut list, &self.attachments);
            }
        }
        list.push(']');
        list
    }

    /// Each argument as a message: bytes where it is nothing but bytes, else JSON.
    #[must_use]
    pub fn to_messages(&self) -> Vec<Argument> {
        let message = |argument: &str| {
            let mut json = String::with_capacity(argument.len());
            insert(argument, &mut json, &self.attachments);
            let mut numbered = self.attachments.iter().enumerate();
            let bytes = numbered.find(|(number, _)| argument == placeholder(*number));
            Argument {
                value: Some(match bytes {
                    Some((_, bytes)) => argument::Value::Binary(bytes.clone()),
                    None => argument::Value::Json(json),
                }),
            }
        };
        self.json.iter().map(message).collect()
    }

    /// Bytes they have on the wire, roughly.
    #[must_use]
    pub fn size(&self) -> usize {
        let attached: usize = self.attachments.iter().map(Bytes::len).sum();
        self.json.as_str().len() + attached
    }
}

impl ArgsError {
    fn of(error: DecodeError) -> Self {
        match error {
            DecodeError::TooDeep => Self::TooDeep,
            DecodeError::TooManyArgs => Self::TooMany,
            _ => Self::NotJson,
        }
    }
}

fn attach(bytes: Bytes, out: &mut String, attachments: &mut Vec<Bytes>) -> Result<(), ArgsError> {
    if attachments.len() >= Limits::DEFAULT.max_attachments {
        return Err(ArgsError::TooManyAttachments);
    }
    out.push_str(&placeholder(attachments.len()));
    attachments.push(bytes);
    Ok(())
}

fn placeholder(number: usize) -> String {
    format!("{{\"{PLACEHOLDER}\":true,\"num\":{number}}}")
}

/// Copies JSON, bytes taken out of it.
fn extract(text: &str, out: &mut String, attachments: &mut Vec<Bytes>) -> Result<(), ArgsError> {
    walk(text, out, &mut |fields, out| match fields {
        [(name, value)] if name == BINARY => {
            let text: String = serde_json::from_str(value.get()).map_err(|_| ArgsError::NotBase64)?;
            let bytes = BASE64.decode(text).map_err(|_| ArgsError::NotBase64)?;
            attach(bytes.into(), out, attachments)?;
            Ok(true)
        }
        fields if fields.iter().any(|(name, _)| name == PLACEHOLDER) => Err(ArgsError::Placeholder),
        _ => Ok(false),
    })
}

/// Copies JSON of a packet, with the bytes in it.
fn insert(text: &str, out: &mut String, attachments: &[Bytes]) {
    let start = out.len();
    let walked = walk(text, out, &mut |fields, out| {
        let field = |wanted: &str| {
            let found = fields.iter().find(|(name, _)| name == wanted);
            found.map(|(_, value)| value.get())
        };
        if field(PLACEHOLDER) != Some("true") {
            return Ok(false);
        }
        let number = field("num").and_then(|number| number.parse::<usize>().ok());
        let Some(bytes) = number.and_then(|number| attachments.get(number)) else {
            return Ok(false);
        };
        out.push_str(&format!("{{\"{BINARY}\":\"{}\"}}", BASE64.encode(bytes)));
        Ok(true)
    });
    if walked.is_err() {
        out.truncate(start);
        out.push_str(text);
    }
}

/// The fields of an object, in order.
type Fields<'a> = [(String, &'a RawValue)];

/// Copies JSON whose depth has been checked, numbers and texts as they are. `replace` may write something else for an
/// object.
fn walk(
    text: &str,
    out: &mut String,
    replace: &mut dyn FnMut(&Fields<'_>, &mut String) -> Result<bool, ArgsError>,
) -> Result<(), ArgsError> {
    match text.as_bytes().first() {
        Some(b'{') => {
            let Object(fields) = serde_json::from_str(text).map_err(|_| ArgsError::NotJson)?;
            if replace(&fields, out)? {
                return Ok(());
            }
            out.push('{');
            for (index, (name, value)) in fields.iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                out.push_str(&serde_json::to_string(name).map_err(|_| ArgsError::NotJson)?);
                out.push(':');
                walk(value.get(), out, replace)?;
            }
            out.push('}');
        }
        Some(b'[') => {
            let items: Vec<&RawValue> = serde_json::from_str(text).map_err(|_| ArgsError::NotJson)?;
            out.push('[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                walk(item.get(), out, replace)?;
            }
            out.push(']');
        }
        _ => out.push_str(text),
    }
    Ok(())
}

/// An object with its fields in order, each value raw.
pub(crate) struct Object<'a>(pub(crate) Vec<(String, &'a RawValue)>);

impl<'de> Deserialize<'de> for Object<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Collect;
        impl<'de> Visitor<'de> for Collect {
            type Value = Object<'de>;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Object<'de>, A::Error> {
                let mut fields = Vec::with_capacity(map.size_hint().unwrap_or_default());
                while let Some(field) = map.next_entry()? {
                    fields.push(field);
                }
                Ok(Object(fields))
            }
        }
        deserializer.deserialize_map(Collect)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(values: &[&str]) -> Result<Args, (Option<usize>, ArgsError)> {
        let values: Vec<_> = values.iter().map(|text| Value::Json(text)).collect();
        Args::read(&values)
    }

    #[test]
    fn json_without_bytes_stays_as_it_is() {
        let args = read(&[" 12345678901234567890.10", r#"{"b": 1,"a":"é"} "#]).unwrap();
        assert_eq!(
            args.json().as_str(),
            r#"12345678901234567890.10,{"b": 1,"a":"é"}"#
        );
        assert_eq!(args.to_json(), r#"[12345678901234567890.10,{"b": 1,"a":"é"}]"#);
        assert_eq!(read(&[]).unwrap().to_json(), "[]");
    }

    #[test]
    fn bytes_go_there_and_back() {
        let text = r#"{"z":[1,{"$binary":"AQI="}],"a":{"$binary":"","b":1}}"#;
        let args = Args::read(&[
            Value::Json(text),
            Value::Binary(Bytes::from_static(b"xyz")),
            Value::Json(r#"{"$binary":"AQI"}"#),
        ])
        .unwrap();
        let placeholder = |number: u8| format!(r#"{{"_placeholder":true,"num":{number}}}"#);
        assert_eq!(
            args.json().as_str(),
            format!(
                r#"{{"z":[1,{}],"a":{{"$binary":"","b":1}}}},{},{}"#,
                placeholder(0),
                placeholder(1),
                placeholder(2)
            )
        );
        assert_eq!(args.attachments(), [&b"\x01\x02"[..], b"xyz", b"\x01\x02"]);
        assert_eq!(
            args.to_json(),
            format!(r#"[{text},{{"$binary":"eHl6"}},{{"$binary":"AQI="}}]"#)
        );
    }

    #[test]
    fn what_clients_could_not_read_is_refused() {
        let deep = format!("{}{}", "[".repeat(64), "]".repeat(64));
        let bytes = r#"{"$binary":""}"#;
        for (values, error) in [
            (vec!["1", "{"], (Some(1), ArgsError::NotJson)),
            (vec!["1,2"], (Some(0), ArgsError::NotJson)),
            (vec![""], (Some(0), ArgsError::NotJson)),
            (vec![&*deep], (Some(0), ArgsError::TooDeep)),
            (vec![r#"{"$binary":"?"}"#], (Some(0), ArgsError::NotBase64)),
            (vec![r#"{"$binary":1}"#], (Some(0), ArgsError::NotBase64)),
            (vec![bytes; 11], (Some(10), ArgsError::TooManyAttachments)),
            (
                vec![bytes, r#"{"_placeholder":true,"num":7}"#],
                (Some(1), ArgsError::Placeholder),
            ),
            (vec!["1"; 257], (None, ArgsError::TooMany)),
        ] {
            assert_eq!(read(&values), Err(error), "{values:?}");
        }
    }
}
