use std::{sync::Arc, time::Duration};

use calls::{Inquiries, InquirySettings, Key, Outcome, ttl};
use model::{ClientError, ErrorCode, Role, User};
use serde::{Deserialize, Serialize};

use crate::{App, AppError, Topic, Who};

/// Questions under way at a time; more wait.
const MAX_CALLS: usize = 100;

/// Asks the application who may do what. Answers are kept as long as they say, what many ask at the same time is asked
/// once, and when it does not answer nobody may.
pub struct Authorizer {
    app: Arc<dyn App>,
    wishes: Vec<Wish>,
    inquiries: Inquiries<Arc<Verdict>, AppError>,
}

/// What somebody may want to do.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Wish {
    /// Enter a namespace.
    Connect,
    /// Get into a room, or read what is in it.
    Join,
    /// Send an event.
    Emit,
}

/// Whether a user may do something. The answer is taken for the same question of all the user's sockets.
#[derive(Copy, Clone, Debug, Serialize)]
#[serde(tag = "type", rename = "authorize")]
pub struct Question<'a> {
    /// What.
    pub action: Wish,
    /// Where.
    pub namespace: &'a str,
    /// In which room, if it is about one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub room: Option<&'a str>,
    /// Which event, if it is about one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub event: Option<&'a str>,
    /// Who.
    pub user: Who<'a>,
}

/// What the application says.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Verdict {
    /// Whether the user may.
    pub allow: bool,
    /// Seconds that this holds.
    #[serde(default)]
    ttl: Option<f64>,
    /// What the user is, in place of what the token says.
    #[serde(default)]
    role: Option<Role>,
    #[serde(default)]
    permissions: Option<Vec<String>>,
    #[serde(default)]
    rooms: Option<Vec<String>>,
}

impl Authorizer {
    /// Asks about `wishes` alone, for `timeout` at most, and keeps so many answers.
    #[must_use]
    pub fn new(app: Arc<dyn App>, wishes: Vec<Wish>, timeout: Duration, kept: usize) -> Self {
        let settings = InquirySettings {
            name: "application's authorizer",
            kept,
            at_a_time: MAX_CALLS,
            patience: timeout,
        };
        Self {
            app,
            wishes,
            inquiries: Inquiries::new(settings, AppError::Unavailable("it does not answer".to_owned())),
        }
    }

    /// Whether the application is asked about this.
    #[must_use]
    pub fn decides(&self, wish: Wish) -> bool {
        self.wishes.contains(&wish)
    }

    /// What is known already.
    #[must_use]
    pub fn known(&self, question: &Question<'_>) -> Option<Arc<Verdict>> {
        self.inquiries.known(&key(&question.encode()))
    }

    /// What the application says. Dropped, others who ask the same get it all the same.
    ///
    /// # Errors
    /// `UNAVAILABLE` when it does not say.
    pub async fn ask(&self, question: &Question<'_>) -> Result<Arc<Verdict>, ClientError> {
        let body = question.encode();
        let (app, namespace) = (Arc::clone(&self.app), question.namespace.to_owned());
        let call = {
            let key = key(&body);
            self.inquiries.ask(key, move || async move {
                let topic = Topic::Authorize {
                    namespace: &namespace,
                };
                match app.ask(topic, body.into()).await {
                    Ok(answer) => Verdict::decode(&answer),
                    // About this very question, or nobody is there to wait for.
                    Err(error @ (AppError::NoHandler | AppError::Refused(_))) => Outcome::Refusal(error),
                    Err(error) => Outcome::Failure(error.to_string()),
                }
            })
        };
        call.await.map_err(|error| {
            tracing::debug!(%error, action = ?question.action, "the application does not say who may do what");
            ClientError::new(ErrorCode::Unavailable, "Try again later")
        })
    }
}

impl Question<'_> {
    fn encode(&self) -> Vec<u8> {
        // Texts are always JSON.
        serde_json::to_vec(self).unwrap_or_default()
    }
}

impl Verdict {
    /// The user with what the verdict says over what the token says.
    #[must_use]
    pub fn applied_to(&self, user: &Arc<User>) -> Arc<User> {
        if self.role.is_none() && self.permissions.is_none() && self.rooms.is_none() {
            return Arc::clone(user);
        }
        let mut changed = User::clone(user);
        changed.role = self.role.unwrap_or(changed.role);
        if let Some(permissions) = &self.permissions {
            changed.permissions.clone_from(permissions);
        }
        if let Some(rooms) = &self.rooms {
            changed.rooms.clone_from(rooms);
        }
        Arc::new(changed)
    }

    fn decode(body: &[u8]) -> Outcome<Arc<Self>, AppError> {
        match serde_json::from_slice::<Self>(body) {
            // A list would be read as the fields in their order.
            Ok(verdict) if body.trim_ascii_start().starts_with(b"{") => {
                let ttl = ttl(verdict.ttl.unwrap_or_default());
                Outcome::Answer(Arc::new(verdict), ttl)
            }
            _ => Outcome::Failure("the answer is not {allow, ttl?, role?, permissions?, rooms?}".to_owned()),
        }
    }
}

fn key(question: &[u8]) -> Key {
    blake3::hash(question).into()
}
