//! Who is behind a CONNECT (CONTRACT section 4, "Authentication"): guests, and HS256 tokens.

use std::sync::Arc;

use config::AuthMode;
use jsonwebtoken::{Algorithm, DecodingKey, Validation, errors::ErrorKind};
use model::{Role, User, UserId};
use serde::Deserialize;

use crate::transport::server::push_random;

/// Why a CONNECT is refused.
#[derive(Copy, Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// There is no such namespace.
    #[error("Invalid namespace")]
    InvalidNamespace,
    /// A token is needed and there is none.
    #[error("Authentication required")]
    AuthenticationRequired,
    /// The token does not hold.
    #[error("Invalid token")]
    InvalidToken,
    /// The token has expired.
    #[error("Token expired")]
    TokenExpired,
    /// The identity may not enter this namespace.
    #[error("Forbidden")]
    Forbidden,
    /// A service behind the edge does not answer.
    #[error("Unavailable")]
    Unavailable,
}

impl Refusal {
    /// The message of the `connect_error`.
    #[must_use]
    pub fn message(self) -> &'static str {
        match self {
            Self::InvalidNamespace => "Invalid namespace",
            Self::AuthenticationRequired => "Authentication required",
            Self::InvalidToken => "Invalid token",
            Self::TokenExpired => "Token expired",
            Self::Forbidden => "Forbidden",
            Self::Unavailable => "Unavailable",
        }
    }

    /// The `data` of the `connect_error`, raw JSON.
    #[must_use]
    pub fn data(self) -> Option<&'static str> {
        match self {
            Self::InvalidNamespace => None,
            Self::AuthenticationRequired | Self::InvalidToken | Self::TokenExpired => {
                Some(r#"{"code":"UNAUTHORIZED"}"#)
            }
            Self::Forbidden => Some(r#"{"code":"FORBIDDEN"}"#),
            Self::Unavailable => Some(r#"{"code":"UNAVAILABLE"}"#),
        }
    }
}

/// Checks identities.
pub struct Authenticator {
    mode: AuthMode,
    key: Option<DecodingKey>,
    validation: Validation,
}

/// What a client may say in the CONNECT packet's payload; the rest is ignored.
#[derive(Default, Deserialize)]
struct Credentials {
    token: Option<String>,
    username: Option<String>,
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
    exp: Option<u64>,
}

impl Authenticator {
    /// From the configured mode and secret.
    #[must_use]
    pub fn new(auth: &config::Auth) -> Self {
        let mut validation = Validation::new(Algorithm::HS256);
        validation.leeway = 0;
        validation.validate_nbf = true;
        validation.set_required_spec_claims(&["sub"]);
        if let Some(issuer) = &auth.issuer {
            validation.set_issuer(&[issuer]);
        }
        match &auth.audience {
            Some(audience) => validation.set_audience(&[audience]),
            None => validation.validate_aud = false,
        }
        let key = auth
            .jwt_secret
            .as_ref()
            .map(|secret| DecodingKey::from_secret(secret.expose().as_bytes()));
        Self {
            mode: auth.mode,
            key,
            validation,
        }
    }

    /// The user behind a CONNECT: by `auth.token`, else by the handshake's bearer token, else, where
    /// guests are allowed, a guest of a new id who may choose a name by `auth.username`.
    ///
    /// # Errors
    /// Says why not.
    pub fn authenticate(&self, auth: Option<&str>, bearer: Option<&str>) -> Result<Arc<User>, Refusal> {
        let credentials: Credentials = match auth {
            // Auth payloads of other shapes belong to other applications; they carry no credentials.
            Some(json) => serde_json::from_str(json).unwrap_or_default(),
            None => Credentials::default(),
        };
        match credentials.token.as_deref().or(bearer) {
            Some(token) => self.check(token).map(Arc::new),
            None if self.mode == AuthMode::Guest => Ok(Arc::new(guest(credentials.username))),
            None => Err(Refusal::AuthenticationRequired),
        }
    }

    fn check(&self, token: &str) -> Result<User, Refusal> {
        let key = self.key.as_ref().ok_or(Refusal::InvalidToken)?;
        let claims = jsonwebtoken::decode::<Claims>(token, key, &self.validation)
            .map_err(|error| match error.kind() {
                ErrorKind::ExpiredSignature => Refusal::TokenExpired,
                _ => Refusal::InvalidToken,
            })?
            .claims;
        let id = UserId::new(&claims.sub).map_err(|_| Refusal::InvalidToken)?;
        let username = claims.username.filter(|name| is_name(name)).unwrap_or(claims.sub);
        Ok(User {
            id,
            username: username.into(),
            role: claims.role,
            permissions: claims.permissions,
            rooms: claims.rooms,
            expires_at: claims.exp,
        })
    }
}

/// How the ids of guests without a token begin.
pub(super) const GUEST: &str = "guest-";

fn guest(username: Option<String>) -> User {
    let mut id = String::from(GUEST);
    push_random(&mut id, 10);
    let name = username
        .map(|name| name.trim().to_owned())
        .filter(|name| is_name(name));
    let username = name.unwrap_or_else(|| id.clone());
    // Six ASCII characters and ten URL-safe ones are always an id.
    named_guest(UserId::new(&id).unwrap_or_else(|_| unreachable!()), &username)
}

/// A guest without a token.
pub(crate) fn named_guest(id: UserId, username: &str) -> User {
    User {
        username: username.into(),
        id,
        role: Role::Guest,
        permissions: Vec::new(),
        rooms: Vec::new(),
        expires_at: None,
    }
}

/// 1–64 characters, no control characters.
fn is_name(name: &str) -> bool {
    !name.is_empty() && name.chars().nth(64).is_none() && !name.chars().any(char::is_control)
}

#[cfg(test)]
mod tests {
    use jsonwebtoken::{EncodingKey, Header};
    use serde_json::{Value, json};

    use super::*;

    const SECRET: &str = "a secret of the tests, 32 bytes or more";

    fn authenticator(mode: AuthMode) -> Authenticator {
        let mut config = config::Config::for_tests(config::Role::Standalone);
        config.auth.mode = mode;
        config.auth.jwt_secret = Some(SECRET.to_owned().into());
        Authenticator::new(&config.auth)
    }

    fn token(claims: &Value, algorithm: Algorithm, secret: &str) -> String {
        jsonwebtoken::encode(
            &Header::new(algorithm),
            claims,
            &EncodingKey::from_secret(secret.as_bytes()),
        )
        .unwrap()
    }

    #[test]
    fn table_of_tokens() {
        let future = crate::now_ms() / 1000 + 600;
        let past = future - 1200;
        let good = json!({"sub": "ada", "exp": future});
        for (what, token, expected) in [
            ("good", token(&good, Algorithm::HS256, SECRET), Ok("ada")),
            (
                "no exp",
                token(&json!({"sub": "ada"}), Algorithm::HS256, SECRET),
                Ok("ada"),
            ),
            (
                "expired",
                token(&json!({"sub": "ada", "exp": past}), Algorithm::HS256, SECRET),
                Err(Refusal::TokenExpired),
            ),
            (
                "not yet",
                token(&json!({"sub": "ada", "nbf": future}), Algorithm::HS256, SECRET),
                Err(Refusal::InvalidToken),
            ),
            (
                "other key",
                token(&good, Algorithm::HS256, "other"),
                Err(Refusal::InvalidToken),
            ),
            (
                "other algorithm",
                token(&good, Algorithm::HS512, SECRET),
                Err(Refusal::InvalidToken),
            ),
            (
                "no sub",
                token(&json!({"exp": future}), Algorithm::HS256, SECRET),
                Err(Refusal::InvalidToken),
            ),
            (
                "empty sub",
                token(&json!({"sub": ""}), Algorithm::HS256, SECRET),
                Err(Refusal::InvalidToken),
            ),
            (
                "bad sub",
                token(&json!({"sub": "a\nb"}), Algorithm::HS256, SECRET),
                Err(Refusal::InvalidToken),
            ),
            (
                "odd role",
                token(&json!({"sub": "a", "role": "god"}), Algorithm::HS256, SECRET),
                Err(Refusal::InvalidToken),
            ),
            (
                "alg none",
                "eyJhbGciOiJub25lIn0.eyJzdWIiOiJhZGEifQ.".to_owned(),
                Err(Refusal::InvalidToken),
            ),
            ("rubbish", "rubbish".to_owned(), Err(Refusal::InvalidToken)),
            ("empty", String::new(), Err(Refusal::InvalidToken)),
        ] {
            let auth = json!({ "token": token }).to_string();
            let user = authenticator(AuthMode::Jwt).authenticate(Some(&auth), None);
            assert_eq!(
                user.as_ref()
                    .map(|user| user.id.as_str())
                    .map_err(|refusal| *refusal),
                expected,
                "{what}"
            );
        }
    }

    #[test]
    fn guests_only_where_they_are_allowed() {
        let refused = authenticator(AuthMode::Jwt).authenticate(None, None);
        assert_eq!(refused, Err(Refusal::AuthenticationRequired));
        let guests = authenticator(AuthMode::Guest);
        let ada = guests
            .authenticate(Some(r#"{"username":" Ada "}"#), None)
            .unwrap();
        assert_eq!((&*ada.username, ada.role), ("Ada", Role::Guest));
        let nameless = guests
            .authenticate(Some(r#"{"username":"a\u0000b"}"#), None)
            .unwrap();
        assert_eq!(&*nameless.username, nameless.id.as_str());
        assert_eq!(
            guests.authenticate(Some("{}"), Some("rubbish")),
            Err(Refusal::InvalidToken)
        );
    }
}
