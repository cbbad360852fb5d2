//! Tokens that are no JWT: whose they are the application's session endpoint knows.
//!
//! It is asked once for what many ask at the same time, its answers are kept as long as it says, and when it does not
//! answer nobody gets in.

mod breaker;
mod cache;

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use config::Auth;
use futures_util::{
    FutureExt,
    future::{BoxFuture, Shared, WeakShared},
};
use http::{StatusCode, Uri};
use model::{Role, User, UserId};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tokio::sync::Semaphore;

use self::{breaker::Breaker, cache::Cache};
use crate::{
    Refusal, SetupError, Shown,
    http::{Http, uri},
    is_name, now, pick_claims,
};

/// Requests to the endpoint at a time; more wait.
const MAX_CALLS: usize = 100;
/// Bytes of an answer.
const MAX_ANSWER: usize = 64 * 1024;
/// Seconds that an answer is kept at most, whatever it says.
const MAX_TTL: f64 = 24.0 * 3600.0;
/// Calls under way of which those that nobody waits for any more are looked for.
const SWEEP_AT: usize = 1024;

/// BLAKE3 of a token: tokens themselves are not kept.
type Hash = [u8; 32];
type Asked = BoxFuture<'static, Result<Arc<User>, Refusal>>;
type Call = Shared<Asked>;

/// The session endpoint.
pub(crate) struct Sessions {
    endpoint: Arc<Endpoint>,
    calls: Mutex<HashMap<Hash, WeakShared<Asked>>>,
}

struct Endpoint {
    url: Uri,
    http: Http,
    cache: Mutex<Cache>,
    breaker: Mutex<Breaker>,
    turns: Semaphore,
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
        Ok(Self {
            endpoint: Arc::new(Endpoint {
                url: uri("auth.session_url", url)?,
                http,
                cache: Mutex::new(Cache::new(auth.session_cache)),
                breaker: Mutex::default(),
                turns: Semaphore::new(MAX_CALLS),
            }),
            calls: Mutex::default(),
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
        let hash: Hash = blake3::hash(token.as_bytes()).into();
        let known = self.endpoint.cache.lock().get(&hash, Instant::now());
        let user = match known {
            Some(user) => user,
            None => self.call(hash, token, shown, ip, wanted).await?,
        };
        if user.expires_at.is_some_and(|expires_at| expires_at <= now()) {
            return Err(Refusal::TokenExpired);
        }
        Ok(user)
    }

    /// Joins the call that is under way for the same token, if one is.
    fn call(&self, hash: Hash, token: &str, shown: &Shown, ip: IpAddr, wanted: &[String]) -> Call {
        let mut calls = self.calls.lock();
        if let Some(call) = calls.get(&hash).and_then(WeakShared::upgrade)
            && call.peek().is_none()
        {
            return call;
        }
        let question = Question {
            token,
            headers: shown.headers().collect(),
            ip,
        };
        // A map of texts, a text and an address are always JSON.
        let question = serde_json::to_vec(&question).unwrap_or_default();
        let (endpoint, wanted) = (Arc::clone(&self.endpoint), wanted.to_vec());
        let call = async move { endpoint.ask(hash, question, &wanted).await };
        let call = call.boxed().shared();
        if calls.len() >= SWEEP_AT {
            calls.retain(|_, call| call.upgrade().is_some_and(|call| call.peek().is_none()));
        }
        if let Some(weak) = call.downgrade() {
            calls.insert(hash, weak);
        }
        call
    }
}

impl Endpoint {
    async fn ask(&self, hash: Hash, question: Vec<u8>, wanted: &[String]) -> Result<Arc<User>, Refusal> {
        let turn = tokio::time::timeout(self.http.timeout, self.turns.acquire()).await;
        let Ok(Ok(_turn)) = turn else {
            return Err(Refusal::Unavailable);
        };
        if !self.breaker.lock().lets_through(Instant::now()) {
            return Err(Refusal::Unavailable);
        }
        let answer = self.http.post(&self.url, question, MAX_ANSWER).await;
        let outcome = match answer {
            Ok((status, body)) => outcome(status, &body, wanted),
            Err(error) => Err(Failure::Unavailable(error.to_string())),
        };
        match outcome {
            Ok((user, ttl)) => {
                self.breaker.lock().succeeded();
                let user = Arc::new(user);
                self.cache.lock().put(hash, &user, ttl, Instant::now());
                Ok(user)
            }
            Err(Failure::Refused(refusal)) => {
                self.breaker.lock().succeeded();
                Err(refusal)
            }
            Err(Failure::Unavailable(why)) => {
                tracing::debug!(url = %self.url, why, "the session endpoint does not answer");
                self.breaker.lock().failed(&why, Instant::now());
                Err(Refusal::Unavailable)
            }
        }
    }
}

enum Failure {
    Refused(Refusal),
    /// Why, for the log. Quotes nothing that was sent or came.
    Unavailable(String),
}

fn outcome(status: StatusCode, body: &[u8], wanted: &[String]) -> Result<(User, Duration), Failure> {
    match status {
        StatusCode::OK => {}
        // What is about the token must not look like a failure: anybody could open the breaker with bad tokens.
        StatusCode::BAD_REQUEST
        | StatusCode::UNAUTHORIZED
        | StatusCode::NOT_FOUND
        | StatusCode::GONE
        | StatusCode::UNPROCESSABLE_ENTITY => {
            return Err(Failure::Refused(Refusal::InvalidToken));
        }
        StatusCode::FORBIDDEN => return Err(Failure::Refused(Refusal::Forbidden)),
        status => return Err(Failure::Unavailable(format!("status {status}"))),
    }
    let unreadable =
        || Failure::Unavailable("the answer is not {user, role, permissions, rooms, ttl}".to_owned());
    let answer: Answer = serde_json::from_slice(body).map_err(|_| unreadable())?;
    let (id, name, role) = match answer.user {
        Subject::Id(id) => (id, None, None),
        Subject::User { id, username, role } => (id, username, role),
    };
    let user_id = UserId::new(&id).map_err(|_| unreadable())?;
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
        username: username.unwrap_or(id).into(),
        role,
        permissions: answer.permissions,
        rooms: answer.rooms,
        claims,
        expires_at: answer.expires_at,
    };
    let ttl = if answer.ttl.is_finite() {
        Duration::from_secs_f64(answer.ttl.clamp(0.0, MAX_TTL))
    } else {
        Duration::ZERO
    };
    Ok((user, ttl))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_of_answers() {
        let of = |status: u16, body: &str| {
            let wanted = ["team".to_owned()];
            match outcome(StatusCode::from_u16(status).unwrap(), body.as_bytes(), &wanted) {
                Ok((user, ttl)) => Ok((
                    user.id.to_string(),
                    user.username.to_string(),
                    user.role,
                    ttl.as_secs(),
                )),
                Err(Failure::Refused(refusal)) => Err(refusal),
                Err(Failure::Unavailable(_)) => Err(Refusal::Unavailable),
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
