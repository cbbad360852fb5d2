//! Who asks for something, by an event of a socket or by a request over HTTP. What both can ask for is an [`Ask`], so
//! that it is checked and done in one place.

use std::sync::Arc;

use app::Authorizer;
use model::{ClientError, Namespace, RoomName, User};
use proto::v1::Sender;
use serde::Serialize;
use telemetry::trace::{Receiving, Span};

use super::{
    Call, Core, Input,
    access::{self, Quick},
    authorizer::{Use, may_not_send},
};
use crate::transport::Step;

/// Somebody in a namespace.
pub(crate) trait Caller: Send + Sync + 'static {
    fn core(&self) -> &Arc<Core>;
    fn namespace(&self) -> &Namespace;
    fn user(&self) -> &Arc<User>;
    /// The user as the newest token says.
    fn rights(&self) -> Arc<User>;
    /// As events tell who they are from.
    fn sender(&self) -> Sender;

    /// Who it is to the key of a request: the same when it is sent again.
    fn retrier(&self) -> &str {
        self.user().id.as_str()
    }

    /// The trace of what is asked for, if that is recorded.
    fn trace(&self) -> Option<&Arc<Receiving>>;

    /// The span of publishing an event to a room.
    fn publishing(&self, room: &RoomName) -> Option<Span> {
        self.core().publishing(self.trace()?, self.namespace(), room)
    }

    /// Whether the namespace's policy lets the caller send an event of this name.
    fn may_emit(&self, event: &str) -> Result<(), ClientError> {
        let rules = self.core().access.rules();
        let policy = rules.policy(self.namespace());
        if policy.is_some_and(|policy| policy.may_emit(event, &self.rights())) {
            return Ok(());
        }
        Err(may_not_send(event))
    }

    /// Whether the caller may use a room for something, as far as that is known without asking anybody.
    fn quick(&self, room: &RoomName, purpose: Use) -> Quick {
        let (core, user) = (self.core(), self.rights());
        let quick = core.access.rules().quick(&user, self.namespace(), room);
        if quick == Quick::Denied {
            return quick;
        }
        let known = |authorizer: &Authorizer| {
            let verdict = authorizer.known(&purpose.question(core, self.namespace(), room, &user));
            verdict.map(|verdict| verdict.allow)
        };
        if let Some(authorizer) = purpose.is_decided_by(core) {
            return match known(authorizer) {
                Some(true) => Quick::Allowed,
                Some(false) => Quick::Denied,
                None => Quick::Ask,
            };
        }
        match quick {
            Quick::Ask if purpose.may_be_allowed_by(core).and_then(known) == Some(true) => Quick::Allowed,
            quick => quick,
        }
    }

    /// Whether the caller may use a room for something.
    fn may_use(&self, room: &RoomName, purpose: Use) -> impl Future<Output = Result<(), ClientError>> + Send {
        async move {
            let (core, namespace) = (self.core(), self.namespace());
            let ask = async |authorizer: &Authorizer, user: &User| {
                let question = purpose.question(core, namespace, room, user);
                Ok::<_, ClientError>(authorizer.ask(&question).await?.allow)
            };
            let is_allowed = match self.quick(room, purpose) {
                Quick::Allowed => true,
                Quick::Denied => false,
                Quick::Ask => {
                    let user = self.rights();
                    if let Some(authorizer) = purpose.is_decided_by(core) {
                        ask(authorizer, &user).await?
                    } else if core.is_member(&user, namespace, room).await? {
                        true
                    } else if let Some(authorizer) = purpose.may_be_allowed_by(core) {
                        ask(authorizer, &user).await?
                    } else {
                        false
                    }
                }
            };
            is_allowed.then_some(()).ok_or_else(|| access::denied(room))
        }
    }
}

/// Something that can be asked for both ways.
pub(crate) trait Ask: Sized + Send + 'static {
    /// What is told of its success.
    type Answer: Serialize + Send + 'static;

    /// From the event's payload, or the request's body or query.
    fn read(caller: &impl Caller, input: Input<'_>) -> Result<Self, ClientError>;

    /// The room that the caller must be allowed to use, if it is about one.
    fn room(&self) -> Option<&RoomName>;

    /// What for.
    const PURPOSE: Use = Use::Join;

    /// Does it. What it appends has its place once this returns.
    fn run<C: Caller>(
        self,
        caller: &C,
    ) -> impl Future<Output = Result<Self::Answer, ClientError>> + Send + 'static;
}

/// By event; runs beside later ones.
pub(super) fn by_event<A: Ask>(call: Call, input: Input<'_>) -> Step {
    let ask = match A::read(&call, input) {
        Ok(ask) => ask,
        Err(error) => return call.fail(error),
    };
    let run = |call: Call, ask: A| {
        let work = ask.run(&call);
        call.later(work)
    };
    match ask.room().cloned() {
        Some(room) => call.with_access(room, A::PURPOSE, move |call, _| run(call, ask)),
        None => run(call, ask),
    }
}

/// By request.
pub(crate) async fn by_request<A: Ask>(
    caller: &impl Caller,
    input: Input<'_>,
) -> Result<A::Answer, ClientError> {
    let ask = A::read(caller, input)?;
    if let Some(room) = ask.room() {
        caller.may_use(room, A::PURPOSE).await?;
    }
    ask.run(caller).await
}

impl Caller for Call {
    fn core(&self) -> &Arc<Core> {
        &self.core
    }

    fn namespace(&self) -> &Namespace {
        self.namespace()
    }

    fn user(&self) -> &Arc<User> {
        self.socket.user()
    }

    fn rights(&self) -> Arc<User> {
        self.socket.rights()
    }

    fn sender(&self) -> Sender {
        Sender {
            user_id: self.socket.user().id.to_string(),
            socket_id: self.socket.id().to_owned(),
        }
    }

    fn trace(&self) -> Option<&Arc<Receiving>> {
        self.trace.as_ref()
    }
}

/// Somebody without a socket.
pub(crate) struct Visitor {
    pub(crate) core: Arc<Core>,
    pub(crate) namespace: Namespace,
    pub(crate) user: Arc<User>,
    /// What it counts as: a guest without a token is a new user each time, and known by its address.
    pub(crate) key: String,
    /// The trace of its request, if that is recorded.
    pub(crate) trace: Option<Arc<Receiving>>,
}

impl Caller for Visitor {
    fn core(&self) -> &Arc<Core> {
        &self.core
    }

    fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    fn user(&self) -> &Arc<User> {
        &self.user
    }

    fn rights(&self) -> Arc<User> {
        Arc::clone(&self.user)
    }

    fn sender(&self) -> Sender {
        Sender {
            user_id: self.user.id.to_string(),
            socket_id: String::new(),
        }
    }

    fn retrier(&self) -> &str {
        &self.key
    }

    fn trace(&self) -> Option<&Arc<Receiving>> {
        self.trace.as_ref()
    }
}
