//! Requests as JSON: snake_case, camelCase accepted. Here only the shape is checked; the values are by whoever checks
//! the gRPC form too.

use model::{ClientError, Detail};
use proto::v1::{Argument, EmitRequest, Excluded, argument};
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

use crate::args::Object;

/// Fields of an object; those of all requests together are fewer.
const MAX_FIELDS: usize = 64;
/// So many broken rules are named at most.
const MAX_DETAILS: usize = 100;

/// Reads the fields of a JSON object, and collects what has the wrong shape.
#[derive(Debug)]
pub struct Fields<'a> {
    prefix: String,
    fields: Vec<(String, &'a RawValue)>,
    details: Vec<Detail>,
}

impl<'a> Fields<'a> {
    /// The fields of a request.
    ///
    /// # Errors
    /// `VALIDATION_ERROR` when it is no JSON object.
    pub fn read(text: &'a [u8]) -> Result<Self, ClientError> {
        let object = std::str::from_utf8(text).ok().and_then(object);
        let object = object.ok_or_else(|| {
            ClientError::invalid(vec![Detail {
                path: String::new(),
                message: "must be a JSON object".to_owned(),
            }])
        })?;
        Ok(Self::of(String::new(), object))
    }

    fn of(prefix: String, Object(fields): Object<'a>) -> Self {
        let mut this = Self {
            prefix,
            fields: Vec::new(),
            details: Vec::new(),
        };
        if fields.len() > MAX_FIELDS {
            this.reject("", &format!("must have at most {MAX_FIELDS} fields"));
            return this;
        }
        for (name, value) in fields {
            let name = snake_case(&name);
            if this.fields.iter().any(|(known, _)| *known == name) {
                this.reject(&name, "is given twice");
            }
            if value.get() != "null" {
                this.fields.push((name, value));
            }
        }
        this
    }

    /// The raw text of a field, if it is there and not `null`.
    pub fn raw(&mut self, name: &str) -> Option<&'a str> {
        let index = self.fields.iter().position(|(known, _)| known == name)?;
        Some(self.fields.swap_remove(index).1.get())
    }

    /// A text; empty when it is not there.
    pub fn text(&mut self, name: &str) -> String {
        self.value(name, "must be a text").unwrap_or_default()
    }

    /// Texts; none when they are not there.
    pub fn texts(&mut self, name: &str) -> Vec<String> {
        self.value(name, "must be a list of texts").unwrap_or_default()
    }

    /// `true` or `false`; the latter when it is not there.
    pub fn flag(&mut self, name: &str) -> bool {
        self.value(name, "must be true or false").unwrap_or_default()
    }

    /// A whole number that is not negative; 0 when it is not there.
    pub fn number(&mut self, name: &str) -> u32 {
        self.value(name, "must be a whole number").unwrap_or_default()
    }

    /// An object's own fields, if it is there. To be given back to [`Fields::join`].
    pub fn object(&mut self, name: &str) -> Option<Self> {
        let raw = self.raw(name)?;
        let prefix = format!("{}{name}.", self.prefix);
        let inner = object(raw).map(|object| Self::of(prefix, object));
        if inner.is_none() {
            self.reject(name, "must be an object");
        }
        inner
    }

    /// Objects of a list, each as [`Fields::object`].
    pub fn objects(&mut self, name: &str) -> Vec<Self> {
        let prefix = format!("{}{name}.", self.prefix);
        let items: Option<Vec<&'a RawValue>> = self
            .raw(name)
            .map(|raw| serde_json::from_str(raw).unwrap_or_default());
        let mut objects = Vec::new();
        for (index, item) in items.unwrap_or_default().into_iter().enumerate() {
            match object(item.get()) {
                Some(object) => objects.push(Self::of(format!("{prefix}{index}."), object)),
                None => self.reject(&format!("{name}.{index}"), "must be an object"),
            }
        }
        objects
    }

    /// Takes what was wrong within an object, once all its fields are read.
    pub fn join(&mut self, inner: Self) {
        let room = MAX_DETAILS.saturating_sub(self.details.len());
        self.details.extend(inner.ended().into_iter().take(room));
    }

    /// The value read, if nothing was wrong with the shape and no field is left.
    ///
    /// # Errors
    /// `VALIDATION_ERROR` with everything that was.
    pub fn finish<T>(self, value: T) -> Result<T, ClientError> {
        let details = self.ended();
        if details.is_empty() {
            Ok(value)
        } else {
            Err(ClientError::invalid(details))
        }
    }

    fn ended(mut self) -> Vec<Detail> {
        for (name, _) in std::mem::take(&mut self.fields) {
            self.reject(&name, "is no field of this request");
        }
        self.details
    }

    fn value<T: DeserializeOwned>(&mut self, name: &str, wanted: &str) -> Option<T> {
        let value = serde_json::from_str(self.raw(name)?);
        value.inspect_err(|_| self.reject(name, wanted)).ok()
    }

    /// Something is wrong with a field.
    pub fn reject(&mut self, name: &str, message: &str) {
        if self.details.len() >= MAX_DETAILS {
            return;
        }
        let path = format!("{}{name}", self.prefix);
        self.details.push(Detail {
            path: path.trim_end_matches('.').to_owned(),
            message: message.to_owned(),
        });
    }
}

/// An [`EmitRequest`] from its JSON form. `namespace`: where it is for when it does not say.
///
/// # Errors
/// `VALIDATION_ERROR` with every field of a wrong shape.
pub fn emit(text: &[u8], namespace: &str) -> Result<EmitRequest, ClientError> {
    let mut fields = Fields::read(text)?;
    let request = emit_fields(&mut fields, namespace);
    fields.finish(request)
}

/// The same from fields of a larger request, which are taken out.
pub fn emit_fields(fields: &mut Fields<'_>, namespace: &str) -> EmitRequest {
    let mut request = EmitRequest {
        namespace: fields.text("namespace"),
        rooms: fields.texts("rooms"),
        users: fields.texts("users"),
        sockets: fields.texts("sockets"),
        except: None,
        event: fields.text("event"),
        args: arguments(fields),
        volatile: fields.flag("volatile"),
        idempotency_key: fields.text("idempotency_key"),
        acknowledge_within: fields.number("acknowledge_within"),
    };
    if request.namespace.is_empty() {
        namespace.clone_into(&mut request.namespace);
    }
    if let Some(mut except) = fields.object("except") {
        request.except = Some(Excluded {
            rooms: except.texts("rooms"),
            users: except.texts("users"),
            sockets: except.texts("sockets"),
        });
        fields.join(except);
    }
    request
}

fn arguments(fields: &mut Fields<'_>) -> Vec<Argument> {
    let Some(raw) = fields.raw("args") else {
        return Vec::new();
    };
    let Ok(items) = serde_json::from_str::<Vec<&RawValue>>(raw) else {
        fields.reject("args", "must be a list");
        return Vec::new();
    };
    let argument = |item: &RawValue| Argument {
        value: Some(argument::Value::Json(item.get().to_owned())),
    };
    items.into_iter().map(argument).collect()
}

fn object(text: &str) -> Option<Object<'_>> {
    serde_json::from_str(text).ok()
}

/// `idempotencyKey` → `idempotency_key`.
fn snake_case(name: &str) -> String {
    let mut snake = String::with_capacity(name.len() + 2);
    for char in name.chars() {
        if char.is_ascii_uppercase() {
            snake.push('_');
        }
        snake.push(char.to_ascii_lowercase());
    }
    snake
}

#[cfg(test)]
mod tests {
    use super::*;

    fn broken(text: &str) -> Vec<String> {
        let error = emit(text.as_bytes(), "/").unwrap_err();
        error.details.into_iter().map(|detail| detail.path).collect()
    }

    #[test]
    fn snake_and_camel_case() {
        let snake = br#"{"namespace":"/chat","users":["ada"],"except":{"rooms":["r"],"sockets":null},
            "event":"e","args":[1, {"a":"b"}],"volatile":true,"idempotency_key":"k"}"#;
        let request = emit(snake, "/").unwrap();
        assert_eq!(request.namespace, "/chat");
        assert_eq!(request.users, ["ada"]);
        assert_eq!(request.except.as_ref().unwrap().rooms, ["r"]);
        assert_eq!(
            request.args[1].value,
            Some(argument::Value::Json(r#"{"a":"b"}"#.to_owned()))
        );
        assert!(request.volatile);
        assert_eq!(request.idempotency_key, "k");
        let camel = emit(br#"{"event":"e","idempotencyKey":"k"}"#, "/default").unwrap();
        assert_eq!((&*camel.idempotency_key, &*camel.namespace), ("k", "/default"));
    }

    #[test]
    fn every_wrong_shape_is_named() {
        assert_eq!(broken("[]"), [""]);
        assert_eq!(broken(r#"{"a":1"#), [""]);
        assert_eq!(
            broken(r#"{"rooms":"r","users":[1],"event":1,"args":{},"volatile":"yes","except":{"room":[]}}"#),
            ["rooms", "users", "event", "args", "volatile", "except.room"]
        );
        assert_eq!(broken(r#"{"event":"e","room":"r"}"#), ["room"]);
        assert_eq!(broken(r#"{"event":"e","except":[]}"#), ["except"]);
        assert_eq!(
            broken(r#"{"event":"e","idempotencyKey":"a","idempotency_key":"b"}"#),
            ["idempotency_key", "idempotency_key"]
        );
    }

    #[test]
    fn more_fields_than_any_request_has_are_not_looked_at() {
        let object = |count| {
            let fields: Vec<_> = (0..count).map(|field| format!("\"f{field}\":1")).collect();
            format!("{{{}}}", fields.join(","))
        };
        assert_eq!(broken(&object(64)).len(), 64);
        // Were each compared with all others this would take minutes.
        assert_eq!(broken(&object(500_000)), [""]);
        let within = format!(r#"{{"event":"e","except":{}}}"#, object(65));
        assert_eq!(broken(&within), ["except"]);
    }

    #[test]
    fn not_every_broken_rule_of_a_large_list_is_named() {
        let text = format!(r#"{{"emits":[{}1]}}"#, "{\"a\":1},".repeat(1000));
        let mut fields = Fields::read(text.as_bytes()).unwrap();
        for each in fields.objects("emits") {
            fields.join(each);
        }
        assert_eq!(fields.finish(()).unwrap_err().details.len(), MAX_DETAILS);
    }
}
