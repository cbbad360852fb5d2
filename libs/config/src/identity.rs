//! Who clients are: section `auth`, and the list of tables `[[issuers]]`.

use std::path::PathBuf;

use figment::value::{Dict, Value};

use crate::{
    Auth, AuthMode, Config, Issuer, Role, Secret, check,
    load::{Reader, problem},
};

const FIELDS: [&str; 7] = [
    "issuer",
    "audience",
    "secret",
    "previous_secret",
    "public_keys",
    "jwks_file",
    "jwks_url",
];

/// Bytes that an HMAC secret should have (RFC 7518 section 3.2).
const SECRET_BYTES: usize = 32;

/// What holds and is not wise.
pub(crate) fn doubts(config: &Config) -> Vec<String> {
    let own = ("auth.jwt_secret".to_owned(), config.auth.jwt_secret.as_ref());
    let issuers = config.issuers.iter().enumerate();
    let others = issuers.map(|(index, issuer)| (format!("issuers.{index}.secret"), issuer.secret.as_ref()));
    std::iter::once(own)
        .chain(others)
        .filter(|(_, secret)| secret.is_some_and(|secret| secret.expose().len() < SECRET_BYTES))
        .map(|(key, _)| {
            format!("{key} has fewer than {SECRET_BYTES} bytes: whoever has a token can try secrets")
        })
        .collect()
}

impl Auth {
    /// Whether it names keys of tokens itself; `[[issuers]]` may name more.
    #[must_use]
    pub fn has_keys(&self) -> bool {
        self.jwt_secret.is_some()
            || self.public_keys.is_some()
            || self.jwks_file.is_some()
            || self.jwks_url.is_some()
    }
}

impl Reader {
    pub(crate) fn auth(&mut self) -> Auth {
        let modes = [
            ("guest", AuthMode::Guest),
            ("jwt", AuthMode::Jwt),
            ("session", AuthMode::Session),
        ];
        // A cluster role without one refuses to start (CONTRACT section 3); what a mode needs is needed where
        // clients are.
        let needed = matches!(self.role, Role::Standalone | Role::Gateway);
        let mode = self.one_of("auth.mode", &modes);
        let auth = Auth {
            mode,
            jwt_secret: self.optional("auth.jwt_secret").map(Secret::from),
            jwt_previous_secret: self.optional("auth.jwt_previous_secret").map(Secret::from),
            public_keys: self.file("auth.public_keys"),
            jwks_file: self.file("auth.jwks_file"),
            jwks_url: self.open_url("auth.jwks_url"),
            jwks_refresh: self.seconds("auth.jwks_refresh_seconds", 60, 86_400),
            issuer: self.optional("auth.issuer"),
            audience: self.optional("auth.audience"),
            leeway: self.seconds("auth.leeway_seconds", 0, 600),
            cookie: self.optional_as("auth.cookie", "cannot be the name of a cookie", is_token),
            query: self.optional_as("auth.query", "cannot be the name of a parameter", is_token),
            session_url: self.open_url("auth.session_url"),
            session_cache: self.number("auth.session_cache", 0, 10_000_000),
            timeout: self.duration("auth.timeout_ms", 10, 60_000),
            tls_ca: self.file("auth.tls_ca"),
        };
        let has_keys = auth.has_keys() || self.layers.find_value("issuers").is_ok();
        if needed && mode == AuthMode::Jwt && !has_keys {
            let what = "mode jwt needs keys: a secret (JWT_SECRET), auth.public_keys, auth.jwks_file, \
                auth.jwks_url or [[issuers]]";
            self.wrong("auth.jwt_secret", what);
        }
        if auth.jwt_previous_secret.is_some() && auth.jwt_secret.is_none() {
            self.wrong("auth.jwt_previous_secret", "goes with auth.jwt_secret");
        }
        if needed && mode == AuthMode::Session && auth.session_url.is_none() {
            self.wrong("auth.session_url", "mode session needs it");
        }
        auth
    }

    /// Reads every entry and reports every mistake; what is returned counts only when there is none.
    pub(crate) fn issuers(&mut self) -> Vec<Issuer> {
        let Ok(value) = self.layers.find_value("issuers") else {
            return Vec::new();
        };
        let Some(entries) = value.as_array() else {
            self.wrong("issuers", "must be tables: [[issuers]]");
            return Vec::new();
        };
        let mut issuers = Vec::<Issuer>::new();
        for (index, entry) in entries.iter().enumerate() {
            let key = format!("issuers.{index}");
            let Some(fields) = entry.as_dict() else {
                self.wrong(&key, "must be a table");
                continue;
            };
            let Some(issuer) = self.issuer(&key, fields) else {
                continue;
            };
            if issuers.iter().any(|other| other.issuer == issuer.issuer) {
                self.wrong(&key, format!("{:?} is there already", issuer.issuer));
            }
            issuers.push(issuer);
        }
        if let Some(name) = self.optional("auth.issuer")
            && issuers.iter().any(|issuer| issuer.issuer == name)
        {
            self.wrong("auth.issuer", format!("{name:?} is among [[issuers]] too"));
        }
        issuers
    }

    fn issuer(&mut self, key: &str, fields: &Dict) -> Option<Issuer> {
        for field in fields.keys().filter(|field| !FIELDS.contains(&field.as_str())) {
            self.wrong(&format!("{key}.{field}"), "is no setting of an issuer");
        }
        let mut text = |field: &str| match fields.get(field).map(Value::as_str) {
            Some(Some(text)) => Some(text.to_owned()).filter(|text| !text.is_empty()),
            Some(None) => {
                self.problems
                    .push(problem(&format!("{key}.{field}"), "must be text"));
                None
            }
            None => None,
        };
        let issuer = Issuer {
            issuer: text("issuer").unwrap_or_default(),
            audience: text("audience"),
            secret: text("secret").map(Secret::from),
            previous_secret: text("previous_secret").map(Secret::from),
            public_keys: text("public_keys").map(PathBuf::from),
            jwks_file: text("jwks_file").map(PathBuf::from),
            jwks_url: text("jwks_url"),
        };
        if issuer.issuer.is_empty() {
            self.wrong(&format!("{key}.issuer"), "is required: the iss of its tokens");
            return None;
        }
        for (field, path) in [
            ("public_keys", &issuer.public_keys),
            ("jwks_file", &issuer.jwks_file),
        ] {
            if let Some(path) = path.as_ref().filter(|path| !path.is_file()) {
                self.wrong(
                    &format!("{key}.{field}"),
                    format!("{} is no file", path.display()),
                );
            }
        }
        if let Some(what) = issuer.jwks_url.as_deref().and_then(wrong_with_url) {
            self.wrong(&format!("{key}.jwks_url"), what);
        }
        let sources = [
            issuer.secret.is_some(),
            issuer.public_keys.is_some(),
            issuer.jwks_file.is_some(),
            issuer.jwks_url.is_some(),
        ];
        if !sources.contains(&true) {
            self.wrong(key, "needs secret, public_keys, jwks_file or jwks_url");
        }
        Some(issuer)
    }

    /// Browsers send a cookie whichever page opens a WebSocket: the check of its origin is all there is.
    pub(crate) fn cookie_needs_origins(&mut self, config: &Config) {
        if config.auth.cookie.is_some() && config.cors.origins == ["*"] {
            let what = "needs cors.origins (CORS_ORIGIN) other than *: any page could use the cookie";
            self.wrong("auth.cookie", what);
        }
    }

    /// A URL that is shown to everybody.
    pub(crate) fn open_url(&mut self, key: &str) -> Option<String> {
        let url = self.optional(key);
        if let Some(what) = url.as_deref().and_then(wrong_with_url) {
            self.wrong(key, what);
        }
        url
    }
}

/// What is wrong with a URL that is called. It is not quoted: what stands before an @ may be a password.
fn wrong_with_url(url: &str) -> Option<&'static str> {
    if !check::is_url(url, &["http", "https"]) {
        return Some("must be a URL that begins with http:// or https://");
    }
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    authority
        .contains('@')
        .then_some("must not carry a name or password: it is shown")
}

/// RFC 6265 section 4.1.1: the name of a cookie is a token of HTTP.
fn is_token(text: &str) -> bool {
    let separators = "()<>@,;:\\\"/[]?={} &%+#";
    text.bytes()
        .all(|byte| byte.is_ascii_graphic() && !separators.as_bytes().contains(&byte))
}
