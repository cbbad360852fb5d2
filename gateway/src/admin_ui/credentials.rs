//! Who may open the page: a user with a bcrypt password, or a page that was open within a day.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use blake3::Hash;
use serde::Deserialize;
use tokio::sync::Semaphore;

const SESSION: Duration = Duration::from_hours(24);
/// bcrypt takes no more of a password.
const MAX_PASSWORD: usize = 72;

/// Checks them. Sessions are signed with a key made of the password's hash, so that every gateway takes those of the
/// others, and a new password ends them.
pub(super) struct Credentials {
    username: Box<str>,
    hash: Box<str>,
    key: [u8; 32],
    /// One check at a time: each is a tenth of a second of work.
    checking: Semaphore,
}

/// Somebody may enter.
pub(super) struct Entrance {
    /// What the page shows the next time.
    pub(super) session: String,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Shown {
    username: String,
    password: String,
    session_id: String,
}

impl Credentials {
    pub(super) fn new(username: &str, hash: &str) -> Self {
        Self {
            username: username.into(),
            hash: hash.into(),
            key: blake3::derive_key("fanfare admin-ui 1 sessions", hash.as_bytes()),
            checking: Semaphore::new(1),
        }
    }

    /// `auth` is the payload of a CONNECT.
    pub(super) async fn check(&self, auth: Option<&str>) -> Option<Entrance> {
        let shown: Shown = serde_json::from_str(auth?).ok()?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        if self.is_session(&shown.session_id, now) {
            return Some(Entrance {
                session: shown.session_id,
            });
        }
        if shown.password.is_empty() || shown.password.len() > MAX_PASSWORD {
            return None;
        }
        let is_user = blake3::hash(shown.username.as_bytes()) == blake3::hash(self.username.as_bytes());
        let _turn = self.checking.acquire().await.ok()?;
        let hash = self.hash.clone();
        let verified = tokio::task::spawn_blocking(move || bcrypt::verify(shown.password, &hash));
        let is_password = verified.await.is_ok_and(|verified| verified.unwrap_or(false));
        (is_user && is_password).then(|| Entrance {
            session: self.session(now + SESSION),
        })
    }

    fn session(&self, until: Duration) -> String {
        let until = until.as_secs().to_string();
        format!("{until}.{}", self.sign(&until).to_hex())
    }

    fn is_session(&self, session: &str, now: Duration) -> bool {
        let Some((until, signature)) = session.split_once('.') else {
            return false;
        };
        // Hashes are compared in constant time.
        let is_signed = Hash::from_hex(signature).is_ok_and(|signature| signature == self.sign(until));
        is_signed && until.parse().is_ok_and(|until: u64| until > now.as_secs())
    }

    fn sign(&self, until: &str) -> Hash {
        blake3::keyed_hash(&self.key, until.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn credentials(password: &str) -> Credentials {
        Credentials::new("ada", &bcrypt::hash(password, 4).unwrap())
    }

    #[tokio::test]
    async fn passwords() {
        let credentials = credentials("secret");
        let check = async |auth: &str| credentials.check(Some(auth)).await.is_some();
        assert!(check(r#"{"username":"ada","password":"secret"}"#).await);
        for auth in [
            r#"{"username":"ada","password":"Secret"}"#,
            r#"{"username":"bob","password":"secret"}"#,
            r#"{"username":"ada"}"#,
            r#"{"sessionId":""}"#,
            "[]",
        ] {
            assert!(!check(auth).await, "{auth}");
        }
        assert!(credentials.check(None).await.is_none());
    }

    #[test]
    fn sessions_end_with_their_day_and_with_the_password() {
        let one = credentials("secret");
        let session = one.session(SESSION);
        assert!(one.is_session(&session, Duration::ZERO));
        assert!(!one.is_session(&session, SESSION));
        assert!(!credentials("other").is_session(&session, Duration::ZERO));
        for wrong in ["", ".", "99999999999.", &format!("9{session}")] {
            assert!(!one.is_session(wrong, Duration::ZERO), "{wrong}");
        }
    }
}
