//! Who a client is (CONTRACT section 4, "Authentication"): by a token that is checked with the keys of its issuer, by
//! a session token that the application's endpoint knows, or as a guest.
//!
//! [`Authenticator`] holds all of it and can be given new settings while it is used.

mod guest;
mod jwks;
mod keys;
mod refusal;
mod sessions;
mod shown;
mod verifier;

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

pub use calls::SetupError;
use calls::{Http, Trust};
use config::{AuthMode, Config};
pub use guest::named_guest;
use lifecycle::Tasks;
use model::User;
use parking_lot::RwLock;
pub use refusal::Refusal;
use serde::{Deserialize, de::IgnoredAny};
pub use shown::Shown;
use shown::Sources;

use self::{
    sessions::Sessions,
    verifier::{Verifier, looks_like_jwt},
};

/// Bytes of the longest token that is looked at.
pub const MAX_TOKEN: usize = 16 * 1024;

/// Checks identities. Its settings can be replaced while it is used.
pub struct Authenticator {
    current: RwLock<Arc<Current>>,
    tasks: Tasks,
}

/// What one set of settings comes to.
struct Current {
    mode: AuthMode,
    verifier: Verifier,
    sessions: Option<Arc<Sessions>>,
    sources: Sources,
    /// Claims that policies refer to, by name.
    claims: Vec<String>,
}

/// What a client may say in the CONNECT packet's payload; the rest is ignored.
#[derive(Default, Deserialize)]
struct Credentials {
    token: Option<String>,
    username: Option<String>,
}

impl Authenticator {
    /// From the configuration. Reads the files with keys; a JWKS behind a URL is fetched by a task of `tasks`, which
    /// ends with the authenticator.
    ///
    /// # Errors
    /// When a file cannot be read or has no key that can be used.
    pub fn new(config: &Config, tasks: Tasks) -> Result<Self, SetupError> {
        let current = Current::new(config, &tasks, None)?;
        Ok(Self {
            current: RwLock::new(Arc::new(current)),
            tasks,
        })
    }

    /// From now on these settings hold. Keys that were fetched from a URL are kept until that is asked anew; answers
    /// about sessions are not.
    ///
    /// # Errors
    /// As [`Authenticator::new`]; the settings before go on to hold then.
    pub fn reload(&self, config: &Config) -> Result<(), SetupError> {
        let before = self.current();
        let current = Current::new(config, &self.tasks, Some(&before.verifier))?;
        *self.current.write() = Arc::new(current);
        Ok(())
    }

    /// The user behind a CONNECT: by `auth.token` of its payload, else by what the handshake has shown, else, where
    /// guests are allowed, a guest of a new id who may choose a name by `auth.username`.
    ///
    /// Waits for keys or for the application as long as `auth.timeout_ms`. Dropped, nothing is left behind.
    ///
    /// # Errors
    /// Says why not.
    pub async fn authenticate(
        &self,
        auth: Option<&str>,
        shown: &Shown,
        ip: IpAddr,
    ) -> Result<Arc<User>, Refusal> {
        let credentials: Credentials = match auth {
            Some(json) => Credentials::read(json)?,
            None => Credentials::default(),
        };
        match credentials.token.as_deref().or(shown.token()) {
            Some(token) => self.check(token, shown, ip).await,
            None if self.current().mode == AuthMode::Guest => {
                Ok(Arc::new(guest::guest(credentials.username)))
            }
            None => Err(Refusal::AuthenticationRequired),
        }
    }

    /// The user whom a token names; otherwise as [`Authenticator::authenticate`].
    ///
    /// # Errors
    /// Says why not.
    pub async fn check(&self, token: &str, shown: &Shown, ip: IpAddr) -> Result<Arc<User>, Refusal> {
        if token.len() > MAX_TOKEN {
            return Err(Refusal::InvalidToken);
        }
        let current = self.current();
        let by_keys = current.verifier.has_keys() && (looks_like_jwt(token) || current.sessions.is_none());
        match &current.sessions {
            _ if by_keys => {
                let user = current.verifier.verify(token, now(), &current.claims).await?;
                Ok(Arc::new(user))
            }
            Some(sessions) => sessions.check(token, shown, ip, &current.claims).await,
            None => Err(Refusal::InvalidToken),
        }
    }

    /// What of a handshake request says who sends it.
    #[must_use]
    pub fn shown(&self, headers: &http::HeaderMap, query: Option<&str>) -> Shown {
        Shown::of(headers, query, &self.current().sources)
    }

    fn current(&self) -> Arc<Current> {
        Arc::clone(&self.current.read())
    }
}

impl Current {
    fn new(config: &Config, tasks: &Tasks, before: Option<&Verifier>) -> Result<Self, SetupError> {
        let auth = &config.auth;
        let issuers = config.issuers.iter().map(|issuer| issuer.jwks_url.as_deref());
        let urls = issuers.chain([auth.jwks_url.as_deref(), auth.session_url.as_deref()]);
        let trust = Trust::of("auth.tls_ca", auth.tls_ca.as_deref(), urls.flatten());
        let http = Http::new(trust, auth.timeout)?;
        let verifier = Verifier::new(config, &http, tasks, before)?;
        let sessions = match &auth.session_url {
            Some(url) => Some(Arc::new(Sessions::new(url, auth, http)?)),
            None => None,
        };
        Ok(Self {
            mode: auth.mode,
            verifier,
            sources: Sources {
                cookie: auth.cookie.clone(),
                query: auth.query.clone(),
                headers: sessions.is_some(),
            },
            sessions,
            claims: wanted_claims(config),
        })
    }
}

impl Credentials {
    /// Auth payloads of other shapes belong to other applications: they carry no credentials. One with a token that
    /// cannot be read makes nobody a guest, nor the user of a cookie.
    fn read(json: &str) -> Result<Self, Refusal> {
        serde_json::from_str(json).or_else(|_| {
            let fields = serde_json::from_str::<HashMap<String, IgnoredAny>>(json).unwrap_or_default();
            if fields.contains_key("token") {
                Err(Refusal::InvalidToken)
            } else {
                Ok(Self::default())
            }
        })
    }
}

/// Looks at the files with keys, without a network.
///
/// # Errors
/// As [`Authenticator::new`].
pub fn check_files(config: &Config) -> Result<(), SetupError> {
    verifier::fixed_keys(config).map(drop)
}

/// The names that `{claims.<name>}` in the rooms of policies refers to.
fn wanted_claims(config: &Config) -> Vec<String> {
    let patterns = config
        .namespaces
        .iter()
        .flat_map(|namespace| namespace.join_rooms.keys());
    let mut names: Vec<String> = patterns
        .flat_map(|pattern| pattern.split(config::CLAIM).skip(1))
        .filter_map(|part| part.split_once('}'))
        .map(|(name, _)| name.to_owned())
        .collect();
    names.sort_unstable();
    names.dedup();
    names
}

/// The claims of these names: text, numbers, truth values, and lists of them. A name is looked for as it stands, then
/// as a path with dots.
fn pick_claims(
    claims: &serde_json::Map<String, serde_json::Value>,
    names: &[String],
) -> Vec<(String, Vec<String>)> {
    use serde_json::Value;
    let text = |value: &Value| match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(flag) => Some(flag.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    };
    let find = |name: &str| {
        claims.get(name).or_else(|| {
            let mut path = name.split('.');
            let first = claims.get(path.next()?)?;
            path.try_fold(first, |value, step| value.get(step))
        })
    };
    let values = |value: &Value| match value {
        Value::Array(items) => items.iter().filter_map(text).collect(),
        value => text(value).into_iter().collect::<Vec<_>>(),
    };
    names
        .iter()
        .filter_map(|name| Some((name.clone(), values(find(name)?))))
        .filter(|(_, values)| !values.is_empty())
        .collect()
}

/// Unix seconds.
fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs()
}

/// 1–64 characters, no control characters.
fn is_name(name: &str) -> bool {
    !name.is_empty() && name.chars().nth(64).is_none() && !name.chars().any(char::is_control)
}
