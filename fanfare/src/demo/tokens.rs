//! Development tokens: where anybody may come in and nobody has configured keys, the page gets its users tokens of a
//! secret that this process alone knows, so that a name is the same user in every tab and on every connection. Whoever
//! has one may tell others of a conversation, as an application would by a notification.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use auth::Shown;
use axum::{
    Json, Router,
    http::{HeaderMap, StatusCode},
    response::IntoResponse,
    routing::post,
};
use config::{AuthMode, Config, Secret};
use fanout::publisher::Notifier;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation, decode, encode};
use proto::v1::NotifyUserRequest;
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

/// Who invites.
#[derive(Deserialize)]
struct Host {
    sub: String,
    username: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Invitation {
    user_id: String,
    room_id: String,
    participants: Vec<String>,
}

impl Invitation {
    /// Once for each conversation.
    fn of(self, host: &Host) -> NotifyUserRequest {
        let data = json!({
            "roomId": self.room_id,
            "participants": self.participants,
            "from": { "userId": host.sub, "username": host.username },
        });
        NotifyUserRequest {
            user_id: self.user_id,
            r#type: "conversation".to_owned(),
            title: format!("{} has something to tell you", host.username),
            data: data.to_string(),
            idempotency_key: self.room_id,
            ..NotifyUserRequest::default()
        }
    }
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

    /// `POST /demo/token {username}` → `{token}`; `POST /demo/invite {userId, roomId, participants}`, with a token.
    pub(crate) fn router(self, notifier: Arc<dyn Notifier>) -> Router {
        let minting = self.clone();
        let token = post(move |Json(asked): Json<Asked>| {
            let token = minting.mint(asked.username.trim());
            async move {
                match token {
                    Some(token) => Json(json!({ "token": token })).into_response(),
                    None => StatusCode::BAD_REQUEST.into_response(),
                }
            }
        });
        let invite = post(move |headers: HeaderMap, Json(invitation): Json<Invitation>| {
            let host = self.check(&headers);
            let notifier = Arc::clone(&notifier);
            async move {
                let Some(host) = host else {
                    return StatusCode::UNAUTHORIZED;
                };
                match notifier.notify(invitation.of(&host), None).await {
                    Ok(_) => StatusCode::NO_CONTENT,
                    Err(error) => StatusCode::from_u16(error.code.http_status())
                        .unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
                }
            }
        });
        Router::new()
            .route("/demo/token", token)
            .route("/demo/invite", invite)
    }

    /// Who shows one of these tokens.
    fn check(&self, headers: &HeaderMap) -> Option<Host> {
        let shown = Shown::bearer(headers);
        let key = DecodingKey::from_secret(self.secret.as_bytes());
        let mut validation = Validation::new(Algorithm::HS256);
        validation.validate_aud = false;
        let token = decode::<Host>(shown.token()?, &key, &validation);
        token.ok().map(|token| token.claims)
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
