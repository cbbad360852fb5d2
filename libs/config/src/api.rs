//! Who may call the Publisher and Presence APIs: section `api`, and the list of tables `[[api.keys]]`.

use figment::value::{Dict, Value};

use crate::{Api, ApiKey, Scope, Secret, load::Reader};

const FIELDS: [&str; 3] = ["name", "key", "scopes"];
const SCOPES: [(&str, Scope); 3] = [
    ("publish", Scope::Publish),
    ("read", Scope::Read),
    ("admin", Scope::Admin),
];

impl Scope {
    /// As it stands in the configuration.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Publish => "publish",
            Self::Read => "read",
            Self::Admin => "admin",
        }
    }
}

impl Reader {
    pub(crate) fn api(&mut self) -> Api {
        Api {
            key: self.optional("api.key").map(Secret::from),
            keys: self.api_keys(),
            tls_cert: self.file("api.tls_cert"),
            tls_key: self.file("api.tls_key"),
        }
    }

    /// Reads every entry and reports every mistake; what is returned counts only when there is none.
    fn api_keys(&mut self) -> Vec<ApiKey> {
        let Ok(value) = self.layers.find_value("api.keys") else {
            return Vec::new();
        };
        let Some(entries) = value.as_array() else {
            self.wrong("api.keys", "must be tables: [[api.keys]]");
            return Vec::new();
        };
        let mut keys = Vec::<ApiKey>::new();
        for (index, entry) in entries.iter().enumerate() {
            let path = format!("api.keys.{index}");
            let Some(fields) = entry.as_dict() else {
                self.wrong(&path, "must be a table");
                continue;
            };
            let key = self.api_key(&path, fields);
            if keys.iter().any(|other| other.name == key.name) {
                self.wrong(
                    &format!("{path}.name"),
                    format!("{:?} is there already", key.name),
                );
            }
            if keys.iter().any(|other| other.key == key.key) {
                self.wrong(&format!("{path}.key"), "is the key of another name");
            }
            keys.push(key);
        }
        keys
    }

    fn api_key(&mut self, path: &str, fields: &Dict) -> ApiKey {
        for field in fields.keys().filter(|field| !FIELDS.contains(&field.as_str())) {
            self.wrong(&format!("{path}.{field}"), "is no setting of an API key");
        }
        let mut text = |field: &str| {
            let text = fields.get(field).and_then(Value::as_str).unwrap_or_default();
            if text.is_empty() {
                self.wrong(&format!("{path}.{field}"), "is required, a text");
            }
            text.to_owned()
        };
        let (name, key) = (text("name"), text("key"));
        let listed = fields.get("scopes").and_then(Value::as_array).unwrap_or_default();
        let scopes = listed.iter().map(|scope| {
            let known = SCOPES.iter().find(|(name, _)| scope.as_str() == Some(name));
            known.map(|(_, scope)| *scope)
        });
        let scopes: Option<Vec<Scope>> = scopes.collect();
        let scopes = scopes.filter(|scopes| !scopes.is_empty());
        if scopes.is_none() {
            self.wrong(
                &format!("{path}.scopes"),
                "must be a list of publish, read, admin; at least one",
            );
        }
        ApiKey {
            name,
            key: Secret::from(key),
            scopes: scopes.unwrap_or_default(),
        }
    }
}
