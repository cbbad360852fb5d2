//! Tokens that are no JWT: whose they are the application's session endpoint knows.
//!
//! It is asked once for what many ask at the same time, its answers are kept as long as it says, and when it does not
//! answer nobody gets in.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc, time::Duration};

use calls::{Http, Inquiries, InquirySettings, Key, Outcome, ttl, uri};
use config::Auth;
use http::{StatusCode, Uri};
use model::{Role, User, UserId};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{Refusal, SetupError, Shown, is_name, now, pick_claims};

/// Requests to the endpoint at a time; more wait.
const MAX_CALLS: usize = 100;
/// Bytes of an answer.
const MAX_ANSWER: usize = 64 * 1024;

/// The session endpoint. Answers are kept by the BLAKE3 of address and token, which the application may both judge:
/// tokens themselves are not kept.
pub(crate) struct Sessions {
    url: Uri,
    http: Http,
    inquiries: Inquiries<Arc<User>, Refusal>,
}

/// What the endpoint is sent.
#[derive(Serialize)]
struct Question<'a> {
    token: &'a str,
    headers: BTreeMap<&'a str, &'a str>,
    ip: IpAddr,
}

/// What it answers with status 200.
#[derive(Deserialize)]
struct Answer {
    user: Subject,
    username: Option<String>,
    role: Option<Role>,
    #[serde(default)]
    permissions: Vec<String>,
    #[serde(default)]
    rooms: Vec<String>,
    #[serde(default)]
    claims: Map<String, Value>,
    /// Seconds that the answer may be kept; not at all without.
    #[serde(default)]
    ttl: f64,
    /// Unix seconds at which the session ends.
    #[serde(alias = "expiresAt")]
    expires_at: Option<u64>,
}

/// The user's id, or an object with it.
#[derive(Deserialize)]
#[serde(untagged)]
enum Subject {
    Id(String),
    User {
        id: String,
        username: Option<String>,
        role: Option<Role>,
    },
}

impl Sessions {
    pub(crate) fn new(url: &str, auth: &Auth, http: Http) -> Result<Self, SetupError> {
        let settings = InquirySettings {
            name: "session endpoint",
            kept: auth.session_cache,
            at_a_time: MAX_CALLS,
            patience: auth.timeout,
        };
        Ok(Self {
            url: uri("auth.session_url", url)?,
            http,
            inquiries: Inquiries::new(settings, Refusal::Unavailable),
        })
    }

    /// The user of a session, with those of its claims that are `wanted`.
    pub(crate) async fn check(
        &self,
        token: &str,
        shown: &Shown,
        ip: IpAddr,
        wanted: &[String],
    ) -> Result<Arc<User>, Refusal> {
        // An address has no line break: no two questions have the same text.
        let key: Key = blake3::hash(format!("{ip}\n{token}").as_bytes()).into();
        let ask = || {
            let question = Question {
                token,
                headers: shown.headers().collect(),
                ip,
            };
            // A map of texts, a text and an address are always JSON.
            let question = serde_json::to_vec(&question).unwrap_or_default();
            let (url, http, wanted) = (self.url.clone(), self.http.clone(), wanted.to_vec());
            async move {
                match http.post(&url, &[], question.into(), MAX_ANSWER).await {
                    Ok((status, body)) => outcome(status, &body, &wanted),
                    Err(error) => Outcome::Failure(error.to_string()),
                }
            }
        };
        let user = self.inquiries.ask(key, ask).await?;
        if user.expires_at.is_some_and(|expires_at| expires_at <= now()) {
            return Err(Refusal::TokenExpired);
        }
        Ok(user)
    }
}

fn outcome(status: StatusCode, body: &[u8], wanted: &[String]) -> Outcome<Arc<User>, Refusal> {
    match status {
        StatusCode::OK => user_of(body, wanted).map_or_else(
            || Outcome::Failure("the answer is not {user, role, permissions, rooms, ttl}".to_owned()),
            |(user, ttl)| Outcome::Answer(Arc::new(user), ttl),
        ),
        // What is about the token must not look like a failure: anybody could open the breaker with bad tokens.
        StatusCode::BAD_REQUEST
        | StatusCode::UNAUTHORIZED
        | StatusCode::NOT_FOUND
        | StatusCode::GONE
        | StatusCode::UNPROCESSABLE_ENTITY => Outcome::Refusal(Refusal::InvalidToken),
        StatusCode::FORBIDDEN => Outcome::Refusal(Refusal::Forbidden),
        status => Outcome::Failure(format!("status {status}")),
    }
}

/// The user, and how long that holds; `None` when the answer is none.
fn user_of(body: &[u8], wanted: &[String]) -> Option<(User, Duration)> {
    let answer: Answer = serde_json::from_slice(body).ok()?;
    let (id, name, role) = match answer.user {
        Subject::Id(id) => (id, None, None),
        Subject::User { id, username, role } => (id, username, role),
    };
    let user_id = UserId::new(&id).ok()?;
    let username = answer.username.or(name).filter(|name| is_name(name));
    let role = answer.role.or(role).unwrap_or_default();
    let claims = if wanted.is_empty() {
        Vec::new()
    } else {
        let mut all = answer.claims;
        all.insert("role".to_owned(), role.as_str().into());
        all.insert("sub".to_owned(), id.clone().into());
        pick_claims(&all, wanted)
    };
    let user = User {
        id: user_id,
        anonymous: false,
        username: username.unwrap_or(id).into(),
        role,
        permissions: answer.permissions,
        rooms: answer.rooms,
        claims,
        expires_at: answer.expires_at,
    };
    Some((user, ttl(answer.ttl)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_of_answers() {
        let of = |status: u16, body: &str| {
            let wanted = ["team".to_owned()];
            match outcome(StatusCode::from_u16(status).unwrap(), body.as_bytes(), &wanted) {
                Outcome::Answer(user, ttl) => Ok((
                    user.id.to_string(),
                    user.username.to_string(),
                    user.role,
                    ttl.as_secs(),
                )),
                Outcome::Refusal(refusal) => Err(refusal),
                Outcome::Failure(_) => Err(Refusal::Unavailable),
            }
        };
        let user = |id: &str, name: &str, role, ttl| Ok((id.to_owned(), name.to_owned(), role, ttl));
        for (status, body, expected) in [
            (200, r#"{"user":"ada"}"#, user("ada", "ada", Role::User, 0)),
            (
                200,
                r#"{"user":{"id":"ada","username":"Ada","role":"moderator"},"ttl":60}"#,
                user("ada", "Ada", Role::Moderator, 60),
            ),
            (
                200,
                r#"{"user":"ada","role":"admin","ttl":1e300}"#,
                user("ada", "ada", Role::Admin, 86_400),
            ),
            (
                200,
                r#"{"user":"ada","ttl":-1}"#,
                user("ada", "ada", Role::User, 0),
            ),
            (200, r#"{"user":""}"#, Err(Refusal::Unavailable)),
            (200, r#"{"user":"a\nb"}"#, Err(Refusal::Unavailable)),
            (200, r#"{"user":"ada","role":"god"}"#, Err(Refusal::Unavailable)),
            (200, "{}", Err(Refusal::Unavailable)),
            (200, "", Err(Refusal::Unavailable)),
            (204, "", Err(Refusal::Unavailable)),
            (302, "", Err(Refusal::Unavailable)),
            (400, "", Err(Refusal::InvalidToken)),
            (401, "", Err(Refusal::InvalidToken)),
            (422, "", Err(Refusal::InvalidToken)),
            (404, "", Err(Refusal::InvalidToken)),
            (410, "", Err(Refusal::InvalidToken)),
            (403, "", Err(Refusal::Forbidden)),
            (429, "", Err(Refusal::Unavailable)),
            (500, r#"{"user":"ada"}"#, Err(Refusal::Unavailable)),
        ] {
            assert_eq!(of(status, body), expected, "{status} {body}");
        }
    }
}
