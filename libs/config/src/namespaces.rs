//! The list of tables `[[namespaces]]`.

use std::{collections::BTreeMap, fmt::Display};

use figment::value::{Dict, Value};

use crate::{
    Namespace,
    load::{Problem, problem},
};

const ROLES: [&str; 4] = ["guest", "user", "moderator", "admin"];
/// Events that are stored where nothing else is configured.
const STORED_EVENTS: [&str; 1] = ["message"];

/// Where nothing else is configured: open to all.
pub(crate) fn defaults() -> Vec<Namespace> {
    ["/", "/chat", "/notifications"]
        .map(|pattern| Namespace {
            pattern: pattern.to_owned(),
            connect_roles: Vec::new(),
            emit_roles: BTreeMap::new(),
            volatile: Vec::new(),
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
            if !["pattern", "connect_roles", "emit_roles", "volatile"].contains(&field.as_str()) {
                self.wrong(field, "is no setting of a namespace");
            }
        }
        let pattern = self.pattern(fields);
        let connect_roles = match fields.get("connect_roles") {
            Some(value) => self.list("connect_roles", value, &ROLES),
            None => Vec::new(),
        };
        let emit_roles = match fields.get("emit_roles").map(|value| (value, value.as_dict())) {
            Some((_, Some(events))) => events
                .iter()
                .map(|(event, roles)| {
                    (
                        event.clone(),
                        self.list(&format!("emit_roles.{event}"), roles, &ROLES),
                    )
                })
                .collect(),
            Some((_, None)) => {
                self.wrong("emit_roles", "must be a table: event = [roles]");
                BTreeMap::new()
            }
            None => BTreeMap::new(),
        };
        let volatile = match fields.get("volatile") {
            Some(value) => self.list("volatile", value, &STORED_EVENTS),
            None => Vec::new(),
        };
        Some(Namespace {
            pattern: pattern?,
            connect_roles,
            emit_roles,
            volatile,
        })
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
