//! The application's word on who may do what (CONTRACT section 6, "Authorize"), where it is asked for that.

use std::sync::Arc;

use app::{Authorizer, Question, Wish};
use futures_util::FutureExt;
use model::{ClientError, ErrorCode, Namespace, RoomName, User};
use tracing::Instrument;

use super::{Call, Caller, Core, shown};
use crate::{session::Refusal, transport::Step};

/// What a room is wanted for.
#[derive(Copy, Clone)]
pub(crate) enum Use {
    /// To get in, or to read what is in it.
    Join,
    /// To send this event.
    Send(&'static str),
}

impl Use {
    /// Whether the application decides alone, once the namespace's policy and the room do not forbid it: an event may
    /// be refused although its room is free to all.
    pub(super) fn is_decided_by(self, core: &Core) -> Option<&Authorizer> {
        match self {
            Self::Join => None,
            Self::Send(_) => core.backend.authorizer(Wish::Emit),
        }
    }

    /// The authorizer that may let somebody in whom nothing else does.
    pub(super) fn may_be_allowed_by(self, core: &Core) -> Option<&Authorizer> {
        self.is_decided_by(core)
            .or_else(|| core.backend.authorizer(Wish::Join))
    }

    /// What the application is asked. `user`: the caller's rights.
    pub(super) fn question<'a>(
        self,
        core: &Core,
        namespace: &'a Namespace,
        room: &'a RoomName,
        user: &'a User,
    ) -> Question<'a> {
        let event = match self {
            Self::Send(event) if self.is_decided_by(core).is_some() => Some(event),
            Self::Send(_) | Self::Join => None,
        };
        Question {
            action: if event.is_some() { Wish::Emit } else { Wish::Join },
            namespace: namespace.as_str(),
            room: Some(room.as_str()),
            event,
            user: user.into(),
        }
    }
}

impl Core {
    /// The user as the application wants it in a namespace, if it lets the user in.
    pub(super) async fn authorized(
        &self,
        namespace: &Namespace,
        user: Arc<User>,
    ) -> Result<Arc<User>, Refusal> {
        let Some(authorizer) = self.backend.authorizer(Wish::Connect) else {
            return Ok(user);
        };
        let question = Question {
            action: Wish::Connect,
            namespace: namespace.as_str(),
            room: None,
            event: None,
            user: (&*user).into(),
        };
        let verdict = authorizer
            .ask(&question)
            .await
            .map_err(|_| Refusal::Unavailable)?;
        let changed = verdict.applied_to(&user);
        let rules = self.access.rules();
        let admits = rules
            .policy(namespace)
            .is_some_and(|policy| policy.admits(changed.role));
        if verdict.allow && admits {
            Ok(changed)
        } else {
            Err(Refusal::Forbidden)
        }
    }
}

impl Call {
    /// Goes on with `then` if the application lets the user send a custom event; later events wait for its word. The
    /// step that `then` answers only waits: it is dropped if the connection ends.
    pub(super) fn with_word(
        self,
        event: &str,
        then: impl FnOnce(Self, &str) -> Step + Send + 'static,
    ) -> Step {
        let core = Arc::clone(&self.core);
        let tasks = core.tasks.clone();
        let Some(authorizer) = core.backend.authorizer(Wish::Emit) else {
            return then(self, event);
        };
        let user = self.rights();
        let namespace = self.namespace().clone();
        let question = about(event, &namespace, &user);
        let known = authorizer.known(&question);
        if let Some(verdict) = known {
            return self.after(verdict.allow, event, then);
        }
        let event = event.to_owned();
        // Goes on when the connection ends: an event that nobody waits for would be lost.
        let judge = async move {
            let question = about(&event, &namespace, &user);
            match core.backend.authorizer.ask(&question).await {
                Ok(verdict) => self.after(verdict.allow, &event, then),
                Err(error) => self.fail(error),
            }
        };
        let judged = tasks.apart("authorize event", judge.in_current_span());
        Step::Wait(Box::pin(judged.map(|step| step.unwrap_or(Step::Done))))
    }

    fn after(self, allow: bool, event: &str, then: impl FnOnce(Self, &str) -> Step) -> Step {
        if allow {
            then(self, event)
        } else {
            self.fail(may_not_send(event))
        }
    }
}

fn about<'a>(event: &'a str, namespace: &'a Namespace, user: &'a User) -> Question<'a> {
    Question {
        action: Wish::Emit,
        namespace: namespace.as_str(),
        room: None,
        event: Some(event),
        user: user.into(),
    }
}

pub(super) fn may_not_send(event: &str) -> ClientError {
    ClientError::new(
        ErrorCode::Forbidden,
        format!("You may not send {:?}", shown(event)),
    )
}
