//! JSON Web Tokens (RFC 7519), signed ones alone.

use std::{path::Path, sync::Arc};

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use calls::Http;
use config::{Config, Secret};
use jsonwebtoken::Algorithm;
use lifecycle::Tasks;
use model::{Role, User, UserId};
use serde::{Deserialize, de::IgnoredAny};
use serde_json::{Map, Value};

use crate::{Refusal, SetupError, is_name, jwks::Remote, keys::Key, pick_claims};

/// Characters of the id of a key.
const MAX_KEY_ID: usize = 256;
/// Keys that one token is tried with.
const MAX_TRIES: usize = 8;

/// Checks tokens with the keys of those who may have signed them.
pub(crate) struct Verifier {
    issuers: Vec<Issuer>,
    /// Seconds.
    leeway: u64,
}

/// Who signs tokens. A key checks tokens of its own issuer alone.
pub(crate) struct Issuer {
    /// None: whoever no other issuer is.
    name: Option<String>,
    audience: Option<String>,
    fixed: Vec<Key>,
    remote: Option<Remote>,
}

/// Where an issuer's keys are.
struct Source<'a> {
    /// What its settings are called.
    names: [String; 4],
    name: Option<&'a str>,
    audience: Option<&'a str>,
    secrets: [Option<&'a Secret>; 2],
    pem: Option<&'a Path>,
    jwks: Option<&'a Path>,
    url: Option<&'a str>,
}

/// RFC 7515 section 4. A key that the token itself brings (`jwk`, `jku`, `x5c`, `x5u`) is never looked at.
#[derive(Deserialize)]
struct Head {
    alg: Algorithm,
    kid: Option<String>,
    crit: Option<IgnoredAny>,
}

#[derive(Deserialize)]
struct Unverified {
    iss: Option<String>,
}

#[derive(Deserialize)]
struct Claims {
    sub: String,
    username: Option<String>,
    #[serde(default)]
    role: Role,
    #[serde(default)]
    permissions: Vec<String>,
    #[serde(default)]
    rooms: Vec<String>,
    exp: Option<f64>,
    nbf: Option<f64>,
    aud: Option<Audience>,
    #[serde(flatten)]
    others: Map<String, Value>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Many(Vec<String>),
}

/// Whether a token may be meant to be checked with a key: three parts, the first a JSON object.
pub(crate) fn looks_like_jwt(token: &str) -> bool {
    let mut parts = token.split('.');
    let head = parts.next().unwrap_or_default();
    parts.count() == 2 && part::<Map<String, Value>>(head).is_some()
}

impl Verifier {
    pub(crate) fn new(
        config: &Config,
        http: &Http,
        tasks: &Tasks,
        before: Option<&Self>,
    ) -> Result<Self, SetupError> {
        let mut issuers = fixed_keys(config)?;
        let refresh = config.auth.jwks_refresh;
        for (issuer, source) in issuers.iter_mut().zip(sources(config)) {
            let Some(url) = source.url else { continue };
            let known = before.and_then(|before| before.remote_keys(source.name, url));
            let (remote, task) = Remote::new(&source.names[3], url, refresh, http.clone(), known)?;
            tasks.background("JWKS", task);
            issuer.remote = Some(remote);
        }
        Ok(Self {
            issuers,
            leeway: config.auth.leeway.as_secs(),
        })
    }

    fn remote_keys(&self, name: Option<&str>, url: &str) -> Option<Arc<[Key]>> {
        let mut issuers = self
            .issuers
            .iter()
            .filter(|issuer| issuer.name.as_deref() == name);
        let remote = issuers.next()?.remote.as_ref()?;
        (&*remote.url == url).then(|| remote.keys()).flatten()
    }

    /// Whether any token can hold.
    pub(crate) fn has_keys(&self) -> bool {
        !self.issuers.is_empty()
    }

    /// The user whom a token names at `now`, Unix seconds, with those of its other claims that are `wanted`.
    pub(crate) async fn verify(&self, token: &str, now: u64, wanted: &[String]) -> Result<User, Refusal> {
        let invalid = Refusal::InvalidToken;
        let (message, signature) = token.rsplit_once('.').ok_or(invalid)?;
        let (head, payload) = message.split_once('.').ok_or(invalid)?;
        let head: Head = part(head).ok_or(invalid)?;
        if head.crit.is_some() || head.kid.as_ref().is_some_and(|kid| kid.len() > MAX_KEY_ID) {
            return Err(invalid);
        }
        let unverified: Unverified = part(payload).ok_or(invalid)?;
        let issuer = self.issuer(unverified.iss.as_deref()).ok_or(invalid)?;
        issuer.signed(&head, message, signature).await?;
        let claims: Claims = part(payload).ok_or(invalid)?;
        self.user(issuer, claims, now, wanted)
    }

    fn issuer(&self, name: Option<&str>) -> Option<&Issuer> {
        let named = self
            .issuers
            .iter()
            .find(|issuer| issuer.name.is_some() && issuer.name.as_deref() == name);
        named.or_else(|| self.issuers.iter().find(|issuer| issuer.name.is_none()))
    }

    fn user(&self, issuer: &Issuer, claims: Claims, now: u64, wanted: &[String]) -> Result<User, Refusal> {
        let invalid = Refusal::InvalidToken;
        if let Some(audience) = &issuer.audience {
            let is_meant = match &claims.aud {
                Some(Audience::One(one)) => one == audience,
                Some(Audience::Many(many)) => many.contains(audience),
                None => false,
            };
            if !is_meant {
                return Err(invalid);
            }
        }
        let begins = claims.nbf.map(seconds).transpose()?;
        let ends = claims.exp.map(seconds).transpose()?;
        let expires_at = ends.map(|ends| ends.saturating_add(self.leeway));
        if expires_at.is_some_and(|expires_at| expires_at <= now) {
            return Err(Refusal::TokenExpired);
        }
        if begins.is_some_and(|begins| begins > now.saturating_add(self.leeway)) {
            return Err(invalid);
        }
        let id = UserId::new(&claims.sub).map_err(|_| invalid)?;
        let username = claims
            .username
            .filter(|name| is_name(name))
            .unwrap_or_else(|| claims.sub.clone());
        let claims_of_policy = if wanted.is_empty() {
            Vec::new()
        } else {
            let mut all = claims.others;
            all.insert("sub".to_owned(), claims.sub.into());
            all.insert("role".to_owned(), claims.role.as_str().into());
            pick_claims(&all, wanted)
        };
        Ok(User {
            id,
            anonymous: false,
            username: username.into(),
            role: claims.role,
            permissions: claims.permissions,
            rooms: claims.rooms,
            claims: claims_of_policy,
            expires_at,
        })
    }
}

impl Issuer {
    /// Whether one of its keys has signed.
    async fn signed(&self, head: &Head, message: &str, signature: &str) -> Result<(), Refusal> {
        let id = head.kid.as_deref();
        let by = |keys: &[Key]| {
            let mut fitting = keys.iter().filter(|key| key.fits(head.alg, id)).take(MAX_TRIES);
            fitting.any(|key| key.verifies(head.alg, message, signature))
        };
        if by(&self.fixed) {
            return Ok(());
        }
        let Some(remote) = &self.remote else {
            return Err(Refusal::InvalidToken);
        };
        let fetched = remote.fetched().await;
        if fetched.keys.as_deref().is_some_and(by) {
            return Ok(());
        }
        let is_known = |key: &Key| id.is_none() || key.id.as_deref() == id;
        if fetched
            .keys
            .as_deref()
            .is_some_and(|keys| keys.iter().any(is_known))
        {
            return Err(Refusal::InvalidToken);
        }
        let fetched = remote.newer(&fetched).await;
        match fetched.keys.as_deref() {
            Some(keys) if by(keys) => Ok(()),
            // Whether the key is a new one cannot be told.
            _ if fetched.stale => Err(Refusal::Unavailable),
            _ => Err(Refusal::InvalidToken),
        }
    }
}

/// The issuers with the keys that need no network.
pub(crate) fn fixed_keys(config: &Config) -> Result<Vec<Issuer>, SetupError> {
    sources(config).into_iter().map(|source| source.read()).collect()
}

/// `auth` itself, if it has keys, then `[[issuers]]`.
fn sources(config: &Config) -> Vec<Source<'_>> {
    let auth = &config.auth;
    let own = Source {
        names: ["jwt_secret", "public_keys", "jwks_file", "jwks_url"].map(|name| format!("auth.{name}")),
        name: auth.issuer.as_deref(),
        audience: auth.audience.as_deref(),
        secrets: [auth.jwt_secret.as_ref(), auth.jwt_previous_secret.as_ref()],
        pem: auth.public_keys.as_deref(),
        jwks: auth.jwks_file.as_deref(),
        url: auth.jwks_url.as_deref(),
    };
    let others = config.issuers.iter().enumerate().map(|(index, issuer)| Source {
        names: ["secret", "public_keys", "jwks_file", "jwks_url"]
            .map(|name| format!("issuers.{index}.{name}")),
        name: Some(&issuer.issuer),
        audience: issuer.audience.as_deref(),
        secrets: [issuer.secret.as_ref(), issuer.previous_secret.as_ref()],
        pem: issuer.public_keys.as_deref(),
        jwks: issuer.jwks_file.as_deref(),
        url: issuer.jwks_url.as_deref(),
    });
    let own = auth.has_keys().then_some(own);
    own.into_iter().chain(others).collect()
}

impl Source<'_> {
    fn read(&self) -> Result<Issuer, SetupError> {
        let [_, pem, jwks, _] = &self.names;
        let secrets = self.secrets.into_iter().flatten();
        let mut fixed: Vec<Key> = secrets.map(|secret| Key::from_secret(secret.expose())).collect();
        if let Some(path) = self.pem {
            let text = read(pem, path)?;
            fixed.extend(Key::from_pem(&text).map_err(|problem| in_file(pem, path, &problem))?);
        }
        if let Some(path) = self.jwks {
            let text = read(jwks, path)?;
            let keys = Key::from_jwks(text.as_bytes(), true);
            fixed.extend(keys.map_err(|problem| in_file(jwks, path, &problem))?);
        }
        Ok(Issuer {
            name: self.name.map(str::to_owned),
            audience: self.audience.map(str::to_owned),
            fixed,
            remote: None,
        })
    }
}

fn read(setting: &str, path: &Path) -> Result<String, SetupError> {
    std::fs::read_to_string(path).map_err(|error| in_file(setting, path, &error.to_string()))
}

fn in_file(setting: &str, path: &Path, problem: &str) -> SetupError {
    SetupError::new(setting, format!("{}: {problem}", path.display()))
}

/// A part of a token.
fn part<T: serde::de::DeserializeOwned>(text: &str) -> Option<T> {
    let json = BASE64_URL_SAFE_NO_PAD.decode(text).ok()?;
    serde_json::from_slice(&json).ok()
}

/// RFC 7519 section 2, "NumericDate": may have a fraction.
fn seconds(date: f64) -> Result<u64, Refusal> {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "what is out of range is refused before"
    )]
    if date.is_finite() && (0.0..=1e15).contains(&date) {
        Ok(date as u64)
    } else {
        Err(Refusal::InvalidToken)
    }
}
