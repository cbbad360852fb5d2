//! Development tokens: where anybody may come in and nobody has configured keys, the page gets its users tokens of a
//! secret that this process alone knows, so that a name is the same user in every tab and on every connection.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use axum::{Json, Router, http::StatusCode, response::IntoResponse, routing::post};
use config::{AuthMode, Config, Secret};
use jsonwebtoken::{EncodingKey, Header, encode};
use serde::Deserialize;
use serde_json::json;
use uuid::Uuid;

const TTL: Duration = Duration::from_hours(12);
/// Characters of a name, at most.
const LONGEST: usize = 60;

/// Makes the tokens. Cheap to clone; clones share the secret.
#[derive(Clone)]
pub(crate) struct Tokens {
    secret: Arc<str>,
    issuer: Option<String>,
    audience: Option<String>,
}

#[derive(Deserialize)]
struct Asked {
    username: String,
}

impl Tokens {
    /// `None` where tokens come from somebody else.
    pub(crate) fn of(config: &Config) -> Option<Self> {
        let auth = &config.auth;
        let open = auth.mode == AuthMode::Guest
            && !auth.has_keys()
            && config.issuers.is_empty()
            && auth.session_url.is_none();
        open.then(|| Self {
            secret: format!("{}{}", Uuid::new_v4(), Uuid::new_v4()).into(),
            issuer: auth.issuer.clone(),
            audience: auth.audience.clone(),
        })
    }

    /// From now on the configuration accepts these tokens, unless it has keys by now.
    pub(crate) fn accept(&self, config: &mut Config) {
        if Self::of(config).is_some() {
            config.auth.jwt_secret = Some(Secret::from(self.secret.to_string()));
        }
    }

    /// `POST /demo/token {username}` → `{token}`.
    pub(crate) fn router(self) -> Router {
        Router::new().route(
            "/demo/token",
            post(move |Json(asked): Json<Asked>| {
                let token = self.mint(asked.username.trim());
                async move {
                    match token {
                        Some(token) => Json(json!({ "token": token })).into_response(),
                        None => StatusCode::BAD_REQUEST.into_response(),
                    }
                }
            }),
        )
    }

    fn mint(&self, username: &str) -> Option<String> {
        if username.is_empty() || username.chars().count() > LONGEST || username.contains(char::is_control) {
            return None;
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let mut claims = json!({
            "sub": user_id(username),
            "username": username,
            "role": "user",
            "iat": now.as_secs(),
            "exp": (now + TTL).as_secs(),
        });
        for (name, value) in [("iss", &self.issuer), ("aud", &self.audience)] {
            if let Some(value) = value {
                claims[name] = json!(value);
            }
        }
        let key = EncodingKey::from_secret(self.secret.as_bytes());
        encode(&Header::default(), &claims, &key).ok()
    }
}

/// The same name is the same user, whatever its case and spaces.
fn user_id(username: &str) -> String {
    let mut id = String::new();
    for character in username.to_lowercase().chars() {
        if character.is_alphanumeric() {
            id.push(character);
        } else if !id.ends_with('-') {
            id.push('-');
        }
    }
    id
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_one_user() {
        assert_eq!(user_id("Ada Lovelace"), "ada-lovelace");
        assert_eq!(user_id("ada  LOVELACE"), "ada-lovelace");
        assert_eq!(user_id("Zoë"), "zoë");
        assert_eq!(user_id("<b>"), "-b-");
        assert_eq!(user_id("…"), "-");
    }

    #[test]
    fn names_that_are_none() {
        let tokens = Tokens {
            secret: "secret".into(),
            issuer: None,
            audience: None,
        };
        assert!(tokens.mint("Ada").is_some());
        for name in ["", "a\nb", &"x".repeat(61)] {
            assert!(tokens.mint(name).is_none(), "{name:?}");
        }
    }
}
