//! The list of tables `[[namespaces]]`.

use std::{collections::BTreeMap, fmt::Display};

use figment::value::{Dict, Value};

use crate::{
    CustomEvent, Namespace, NamespaceLimits,
    load::{Problem, problem},
};

const ROLES: [&str; 4] = ["guest", "user", "moderator", "admin"];
const FIELDS: [&str; 13] = [
    "pattern",
    "connect_roles",
    "emit_roles",
    "emit_listed_only",
    "public_rooms",
    "join_rooms",
    "volatile",
    "history",
    "events",
    "events_per_socket",
    "by_event",
    "ordered_events",
    "custom_events",
];
/// Before the name of a permission, where roles stand otherwise.
pub const PERMISSION: &str = "permission:";
/// How a claim stands in the pattern of a room, up to its name and `}`.
pub const CLAIM: &str = "{claims.";
/// Events that are stored where nothing else is configured.
const STORED_EVENTS: [&str; 1] = ["message"];

/// Where nothing else is configured: open to all.
pub(crate) fn defaults() -> Vec<Namespace> {
    ["/", "/chat", "/notifications"]
        .map(|pattern| Namespace {
            pattern: pattern.to_owned(),
            ..Namespace::default()
        })
        .to_vec()
}

/// Reads every entry and reports every mistake; what is returned counts only when there is none.
pub(crate) fn read(value: &Value, problems: &mut Vec<Problem>) -> Vec<Namespace> {
    let Some(entries) = value.as_array().filter(|entries| !entries.is_empty()) else {
        problems.push(problem(
            &"namespaces",
            "must be tables, at least one: [[namespaces]]",
        ));
        return Vec::new();
    };
    let mut namespaces = Vec::<Namespace>::new();
    for (index, value) in entries.iter().enumerate() {
        let mut entry = Entry {
            key: format!("namespaces.{index}"),
            problems,
        };
        let Some(namespace) = entry.read(value) else {
            continue;
        };
        if namespaces.iter().any(|other| other.pattern == namespace.pattern) {
            entry.wrong("pattern", format!("{:?} is there already", namespace.pattern));
        }
        namespaces.push(namespace);
    }
    namespaces
}

struct Entry<'a> {
    key: String,
    problems: &'a mut Vec<Problem>,
}

impl Entry<'_> {
    fn read(&mut self, value: &Value) -> Option<Namespace> {
        let Some(fields) = value.as_dict() else {
            self.problems.push(problem(&self.key, "must be a table"));
            return None;
        };
        for field in fields.keys() {
            if !FIELDS.contains(&field.as_str()) {
                self.wrong(field, "is no setting of a namespace");
            }
        }
        let pattern = self.pattern(fields);
        let connect_roles = match fields.get("connect_roles") {
            Some(value) => self.list("connect_roles", value, &ROLES),
            None => Vec::new(),
        };
        let emit_roles = self.who_by_pattern("emit_roles", fields);
        let emit_listed_only = self.flag("emit_listed_only", fields).unwrap_or_default();
        let public_rooms = match fields.get("public_rooms").map(|value| (value, value.as_array())) {
            Some((_, Some(items))) if items.iter().all(|item| item.as_str().is_some()) => items
                .iter()
                .filter_map(Value::as_str)
                .map(str::to_owned)
                .collect(),
            Some(_) => {
                self.wrong("public_rooms", "must be a list of patterns");
                Vec::new()
            }
            None => Vec::new(),
        };
        let join_rooms = self.who_by_pattern("join_rooms", fields);
        for pattern in join_rooms.keys().filter(|pattern| !is_room_pattern(pattern)) {
            let what = format!("{pattern:?} has a brace that is no {CLAIM}name}}");
            self.wrong("join_rooms", what);
        }
        let volatile = match fields.get("volatile") {
            Some(value) => self.list("volatile", value, &STORED_EVENTS),
            None => Vec::new(),
        };
        let history = self.number("history", fields.get("history"));
        let limits = NamespaceLimits {
            events: self.number("events", fields.get("events")),
            events_per_socket: self.number("events_per_socket", fields.get("events_per_socket")),
            by_event: self.numbers("by_event", fields.get("by_event")),
        };
        Some(Namespace {
            pattern: pattern?,
            connect_roles,
            emit_roles,
            emit_listed_only,
            public_rooms,
            join_rooms,
            volatile,
            history,
            limits,
            ordered_events: self.flag("ordered_events", fields).unwrap_or_default(),
            custom_events: self.custom_events(fields),
        })
    }

    fn flag(&mut self, field: &str, fields: &Dict) -> Option<bool> {
        let flag = fields.get(field)?.to_bool();
        if flag.is_none() {
            self.wrong(field, "must be true or false");
        }
        flag
    }

    /// A table: name of an event = what is to be said of it.
    fn custom_events(&mut self, fields: &Dict) -> BTreeMap<String, CustomEvent> {
        let mut events = BTreeMap::new();
        let Some(table) = fields.get("custom_events") else {
            return events;
        };
        let Some(table) = table.as_dict() else {
            self.wrong(
                "custom_events",
                "must be a table: name = { schema = …, ordered = … }",
            );
            return events;
        };
        for (name, value) in table {
            let field = format!("custom_events.{name}");
            let Some(fields) = value.as_dict() else {
                self.wrong(&field, "must be a table: { schema = …, ordered = … }");
                continue;
            };
            for other in fields
                .keys()
                .filter(|key| !["schema", "ordered"].contains(&key.as_str()))
            {
                self.wrong(&format!("{field}.{other}"), "is no setting of an event");
            }
            let ordered = match fields.get("ordered").map(Value::to_bool) {
                Some(None) => {
                    self.wrong(&format!("{field}.ordered"), "must be true or false");
                    None
                }
                ordered => ordered.flatten(),
            };
            let schema = fields.get("schema");
            let schema = schema.and_then(|schema| self.schema(&format!("{field}.schema"), schema));
            events.insert(name.clone(), CustomEvent { schema, ordered });
        }
        events
    }

    /// A JSON Schema: a table, or the name of a file.
    fn schema(&mut self, field: &str, value: &Value) -> Option<serde_json::Value> {
        let schema = match value {
            Value::String(_, file) => std::fs::read(file)
                .map_err(|error| format!("{file}: {error}"))
                .and_then(|text| serde_json::from_slice(&text).map_err(|error| format!("{file}: {error}"))),
            Value::Dict(..) | Value::Bool(..) => {
                serde_json::to_value(value).map_err(|error| error.to_string())
            }
            _ => Err("must be a JSON Schema: a table, or the name of a file with one".to_owned()),
        };
        schema.map_err(|what| self.wrong(field, what)).ok()
    }

    /// What no name can match is a mistake: a name ends at a comma, or at the query (Socket.IO protocol, "Packet
    /// encoding").
    fn pattern(&mut self, fields: &Dict) -> Option<String> {
        let Some(pattern) = fields.get("pattern").and_then(Value::as_str) else {
            self.wrong("pattern", "is required, as text, e.g. \"/chat\"");
            return None;
        };
        if !pattern.starts_with('/')
            || pattern.contains([',', '?'])
            || pattern.contains(char::is_control)
            || pattern.chars().count() > 128
        {
            let what =
                "must begin with '/' and have no comma, '?' or control character, at most 128 characters";
            self.wrong("pattern", format!("{pattern:?} {what}"));
        }
        Some(pattern.to_owned())
    }

    fn number(&mut self, field: &str, value: Option<&Value>) -> Option<u32> {
        let number = value?.to_u128().and_then(|number| u32::try_from(number).ok());
        if number.is_none() {
            self.wrong(field, "must be a whole number, 0 or more");
        }
        number
    }

    /// A table: name = number.
    fn numbers(&mut self, field: &str, value: Option<&Value>) -> Vec<(String, u32)> {
        let Some(value) = value else { return Vec::new() };
        let Some(table) = value.as_dict() else {
            self.wrong(field, "must be a table: event = number");
            return Vec::new();
        };
        table
            .iter()
            .filter_map(|(name, value)| {
                let number = self.number(&format!("{field}.{name}"), Some(value))?;
                Some((name.clone(), number))
            })
            .collect()
    }

    /// A table: name or pattern = who.
    fn who_by_pattern(&mut self, field: &str, fields: &Dict) -> BTreeMap<String, Vec<String>> {
        match fields.get(field).map(Value::as_dict) {
            Some(Some(patterns)) => patterns
                .iter()
                .map(|(pattern, who)| (pattern.clone(), self.who(&format!("{field}.{pattern}"), who)))
                .collect(),
            Some(None) => {
                self.wrong(field, "must be a table: name = [roles]");
                BTreeMap::new()
            }
            None => BTreeMap::new(),
        }
    }

    /// Roles and permissions.
    fn who(&mut self, field: &str, value: &Value) -> Vec<String> {
        let is_permission = |item: &Value| {
            let name = item.as_str().and_then(|text| text.strip_prefix(PERMISSION));
            name.is_some_and(|name| !name.is_empty())
        };
        let Some(items) = value.as_array() else {
            return self.list(field, value, &ROLES);
        };
        let (permissions, roles): (Vec<Value>, Vec<Value>) = items.iter().cloned().partition(is_permission);
        let mut who = self.list(field, &Value::from(roles), &ROLES);
        who.extend(permissions.iter().filter_map(Value::as_str).map(str::to_owned));
        who
    }

    fn list(&mut self, field: &str, value: &Value, known: &[&str]) -> Vec<String> {
        let Some(items) = value.as_array() else {
            self.wrong(field, format!("must be a list of {}", known.join(", ")));
            return Vec::new();
        };
        let mut names = Vec::new();
        for item in items {
            match item.as_str() {
                Some(name) if known.contains(&name) => names.push(name.to_owned()),
                Some(name) => self.wrong(field, format!("{name:?} is none of {}", known.join(", "))),
                None => self.wrong(field, format!("must be a list of {}", known.join(", "))),
            }
        }
        names
    }

    fn wrong(&mut self, field: &str, what: impl Display) {
        self.problems
            .push(problem(&format!("{}.{field}", self.key), what));
    }
}

/// Whether braces stand around claims alone.
fn is_room_pattern(pattern: &str) -> bool {
    let mut parts = pattern.split(CLAIM);
    let literal = |text: &str| !text.contains(['{', '}']);
    parts.next().is_some_and(literal)
        && parts.all(|part| {
            part.split_once('}')
                .is_some_and(|(name, rest)| !name.is_empty() && literal(name) && literal(rest))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_of_room_patterns() {
        for good in [
            "*",
            "team-{claims.team}-*",
            "{claims.a}{claims.https://x.example/b}",
            "x",
        ] {
            assert!(is_room_pattern(good), "{good}");
        }
        for bad in [
            "{",
            "}",
            "{claims.}",
            "{claims.a",
            "{claim.a}",
            "{claims.a}}",
            "{claims.{a}}",
            "a}{claims.b}",
        ] {
            assert!(!is_room_pattern(bad), "{bad}");
        }
    }
}
