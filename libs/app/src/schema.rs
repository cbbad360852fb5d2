//! JSON Schemas of custom events.

use calls::SetupError;
use config::{Config, CustomEvent};
use jsonschema::Validator;
use model::Detail;
use serde_json::Value;

/// Broken rules that are told at most.
const MAX_DETAILS: usize = 20;

/// What the argument of an event must look like. An event with a schema has one argument.
pub struct Schema(Validator);

impl Schema {
    /// A schema that refers to nothing outside itself.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn new(schema: &Value) -> Result<Self, String> {
        let validator = jsonschema::options().build(schema);
        validator.map(Self).map_err(|error| error.to_string())
    }

    /// That of an event, if it has one; `namespace` is the index of its namespace in the configuration.
    ///
    /// # Errors
    /// What is wrong with it, under its setting.
    pub fn of(namespace: usize, name: &str, event: &CustomEvent) -> Result<Option<Self>, SetupError> {
        let schema = event.schema.as_ref().map(Self::new).transpose();
        schema.map_err(|problem| {
            SetupError::new(
                &format!("namespaces.{namespace}.custom_events.{name}.schema"),
                problem,
            )
        })
    }

    /// Every rule that the arguments, a JSON list, break; at most 20.
    ///
    /// # Errors
    /// These.
    pub fn check(&self, args: &str) -> Result<(), Vec<Detail>> {
        let broken = |message: &str| {
            let detail = Detail {
                path: String::new(),
                message: message.to_owned(),
            };
            Err(vec![detail])
        };
        let args: Vec<Value> = match serde_json::from_str(args) {
            Ok(args) => args,
            Err(_) => return broken("cannot be read"),
        };
        let [value] = args.as_slice() else {
            return broken("must be one argument");
        };
        let errors = self.0.iter_errors(value).take(MAX_DETAILS);
        let details: Vec<_> = errors
            .map(|error| Detail {
                path: dotted(error.instance_path().as_str()),
                // The value itself may be long, and the client has it.
                message: error.masked().to_string(),
            })
            .collect();
        if details.is_empty() { Ok(()) } else { Err(details) }
    }
}

/// Whether every schema of the configuration can be used.
///
/// # Errors
/// The first that cannot.
pub fn check_all(config: &Config) -> Result<(), SetupError> {
    for (index, namespace) in config.namespaces.iter().enumerate() {
        for (name, event) in &namespace.custom_events {
            Schema::of(index, name, event)?;
        }
    }
    Ok(())
}

/// A JSON Pointer (RFC 6901) as the dotted path of CONTRACT section 4.
fn dotted(pointer: &str) -> String {
    let parts = pointer.split('/').skip(1);
    let parts: Vec<_> = parts
        .map(|part| part.replace("~1", "/").replace("~0", "~"))
        .collect();
    parts.join(".")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_broken_rule_is_told_with_its_path() {
        let schema = Schema::new(&json!({
            "type": "object",
            "required": ["item"],
            "additionalProperties": false,
            "properties": {
                "item": { "type": "string", "maxLength": 5 },
                "lines": { "type": "array", "items": { "type": "integer" } },
            },
        }))
        .unwrap();
        let paths = |args: Value| match schema.check(&args.to_string()) {
            Ok(()) => Vec::new(),
            Err(details) => details.into_iter().map(|detail| detail.path).collect(),
        };
        assert!(paths(json!([{ "item": "a", "lines": [1, 2] }])).is_empty());
        assert_eq!(
            paths(json!([{ "item": "too long", "lines": [1, "2"] }])),
            ["item", "lines.1"]
        );
        for whole in [
            json!([{}]),
            json!([{ "item": "a", "x": 1 }]),
            json!([1]),
            json!([]),
            json!([{}, {}]),
        ] {
            assert_eq!(paths(whole.clone()), [""], "{whole}");
        }
        let long = "x".repeat(100_000);
        let details = schema.check(&json!([{ "item": long }]).to_string()).unwrap_err();
        assert!(
            details[0].message.len() < 200,
            "a message does not repeat the input"
        );
    }

    #[test]
    fn what_is_no_schema_or_refers_elsewhere_is_refused() {
        for bad in [
            json!({ "type": "no type" }),
            json!({ "pattern": "(" , "type": "string" }),
            json!({ "$ref": "http://127.0.0.1:1/schema.json" }),
            json!({ "$ref": "file:///etc/passwd" }),
            json!({ "$ref": "#/nowhere" }),
        ] {
            assert!(Schema::new(&bad).is_err(), "{bad}");
        }
        assert!(Schema::new(&json!({ "$ref": "#/$defs/a", "$defs": { "a": { "type": "null" } } })).is_ok());
    }
}
