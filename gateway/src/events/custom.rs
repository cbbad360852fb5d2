//! Events that are not built in: the application handles them (CONTRACT section 6, "Handle").

use std::{
    borrow::Cow,
    sync::{Arc, OnceLock},
};

use app::{
    Answer, AppError, Authorizer, Client, ClientSettings, EventMessage, Feed, GivenUp, SocketRef, Trace, Who,
    Wish,
};
use bus::{DeadLetter, EventLog, Signals, WorkQueue};
use bytes::Bytes;
use config::{AppAction, Config};
use lifecycle::Tasks;
use model::{ClientError, ErrorCode, RoomName};
use publisher::{Args, Emit, Emitter};
use serde_json::value::RawValue;
use sio::packet::encode;
use uuid::Uuid;

use super::{Call, news::Lifecycle};
use crate::{
    session::{EventPacket, unavailable},
    transport::Step,
};

/// The queue of dead letters that these events go to.
const DEAD_LETTERS: &str = "app";

/// The application behind this gateway.
pub(crate) struct Backend {
    client: Client,
    pub(super) authorizer: Authorizer,
    /// None where it wants to hear nothing.
    pub(super) lifecycle: Option<Lifecycle>,
    emitter: Emitter,
    /// Where events end that nobody waits for and that were given up; nowhere where there is no such place.
    dead_letters: OnceLock<Arc<dyn WorkQueue>>,
    /// Bytes that an event of the application may have.
    max_payload: usize,
}

impl Backend {
    pub(crate) fn new(
        config: &Config,
        log: Arc<dyn EventLog>,
        signals: Arc<dyn Signals>,
        tasks: &Tasks,
    ) -> Result<Self, calls::SetupError> {
        let settings = ClientSettings {
            timeout: config.app.timeout,
            at_a_time: config.app.max_concurrency,
        };
        let app = app::from_config(config, Arc::clone(&signals))?;
        let wanted = &config.app.lifecycle;
        let feed = (!wanted.is_empty()).then(|| Feed::new(&app, wanted.clone(), tasks));
        Ok(Self {
            lifecycle: feed.map(Lifecycle::new),
            authorizer: Authorizer::new(
                Arc::clone(&app),
                config.app.authorize.iter().map(|action| wish(*action)).collect(),
                config.app.timeout,
                config.app.authorize_cache,
            ),
            client: Client::new(app, settings),
            emitter: Emitter::new(log, signals),
            dead_letters: OnceLock::new(),
            max_payload: config.gateway.max_payload,
        })
    }

    /// Buries there from now on; the first place counts.
    pub(crate) fn bury_in(&self, work: Arc<dyn WorkQueue>) {
        let _ = self.dead_letters.set(work);
    }

    /// Gives up what is tried again.
    pub(crate) fn stop(&self) {
        self.client.stop();
    }

    /// Puts an event where people may look at it.
    async fn bury(&self, event: &str, message: Bytes, given_up: &GivenUp) {
        let letter = DeadLetter {
            queue: DEAD_LETTERS.to_owned(),
            id: Uuid::now_v7().to_string(),
            payload: message,
            attempts: given_up.attempts,
            reason: given_up.error.to_string(),
        };
        let error = &given_up.error;
        let Some(work) = self.dead_letters.get() else {
            tracing::warn!(%error, event, "an event is given up: the application does not handle it");
            return;
        };
        match work.bury(letter).await {
            Ok(()) => {
                tracing::debug!(%error, event, "an event is buried: the application does not handle it")
            }
            Err(lost) => {
                tracing::error!(%error, %lost, event, "an event is lost: the application does not handle it")
            }
        }
    }

    /// Who says whether users may do this, if the application is asked.
    pub(super) fn authorizer(&self, wish: Wish) -> Option<&Authorizer> {
        Some(&self.authorizer).filter(|authorizer| authorizer.decides(wish))
    }
}

fn wish(action: AppAction) -> Wish {
    match action {
        AppAction::Connect => Wish::Connect,
        AppAction::Join => Wish::Join,
        AppAction::Emit => Wish::Emit,
    }
}

/// One that the namespace's policy allows.
pub(super) fn custom(call: Call, event: &EventPacket) -> Step {
    let args = Args::new(event.args.clone(), event.attachments.clone());
    call.with_word(event.name.as_str(), move |call, name| {
        hand_over(call, name, &args)
    })
}

/// One that the application lets the user send.
fn hand_over(call: Call, name: &str, args: &Args) -> Step {
    let args = args.to_json();
    let rules = call.core.access.rules();
    let policy = rules.policy(call.namespace());
    if let Some(schema) = policy.and_then(|policy| policy.schema(name))
        && let Err(details) = schema.check(&args)
    {
        return call.fail(ClientError::invalid(details));
    }
    let is_ordered = policy.is_some_and(|policy| policy.is_ordered(name));
    let Some(message) = message(&call, name, args) else {
        return call.fail(ClientError::new(ErrorCode::Internal, "Internal error"));
    };
    let is_asked = call.ack.is_some();
    let custom = Custom {
        name: name.into(),
        call,
        message,
    };
    match (is_ordered, is_asked) {
        (true, _) => Step::Wait(Box::pin(async move {
            custom.in_order().await;
            Step::Done
        })),
        (false, true) => Step::Later(Box::pin(custom.once())),
        (false, false) => custom.until_done(),
    }
}

/// As the application gets it. `args` is a JSON list.
fn message(call: &Call, event: &str, args: String) -> Option<Bytes> {
    let traceparent = call.traceparent();
    let user = call.socket.rights();
    let message = EventMessage {
        namespace: call.namespace().as_str(),
        event,
        // Raw arguments are valid JSON, so this is too.
        args: Cow::Owned(RawValue::from_string(args).ok()?),
        user: Who::from(&*user),
        socket: SocketRef { id: call.socket.id() },
        trace: Trace {
            traceparent: &traceparent,
        },
    };
    Some(message.encode())
}

/// The beginning of a trace that is not recorded here (W3C Trace Context).
pub(super) fn traceparent() -> String {
    format!(
        "00-{:032x}-{:016x}-00",
        rand::random::<u128>(),
        rand::random::<u64>()
    )
}

/// An event on its way to the application.
struct Custom {
    call: Call,
    name: Box<str>,
    message: Bytes,
}

/// What an answer comes to.
struct Plan {
    ack: Args,
    leave: Vec<RoomName>,
    join: Vec<RoomName>,
    emit: Vec<Emit>,
}

impl Custom {
    /// A client waits for the answer.
    async fn once(self) {
        let client = &self.call.core.backend.client;
        let namespace = self.call.namespace().as_str();
        let outcome = client.event(namespace, &self.name, self.message.clone()).await;
        self.finish(outcome).await;
    }

    /// The socket's later events wait, so an event that nobody waits for is tried for a short while only.
    async fn in_order(self) {
        if self.call.ack.is_some() {
            return self.once().await;
        }
        let client = &self.call.core.backend.client;
        let namespace = self.call.namespace().as_str();
        let outcome = client
            .event_in_time(namespace, &self.name, self.message.clone())
            .await;
        self.finish_unasked(outcome).await;
    }

    /// Nobody waits: it is tried for a while, also when the connection has ended meanwhile.
    fn until_done(self) -> Step {
        let core = Arc::clone(&self.call.core);
        let Some(place) = core.backend.client.place(&self.message) else {
            let error = unavailable("too many events wait for the application");
            return self.call.fail(error);
        };
        core.tasks.clone().spawn("custom event", async move {
            let namespace = self.call.namespace().as_str();
            let tried = core
                .backend
                .client
                .event_until_done(namespace, &self.name, self.message.clone());
            let outcome = tried.await;
            self.finish_unasked(outcome).await;
            drop(place);
        });
        Step::Done
    }

    /// What the application was never able to handle is kept; what nobody handles is not.
    async fn finish_unasked(&self, outcome: Result<Answer, GivenUp>) {
        if let Err(given_up) = &outcome
            && given_up.error != AppError::NoHandler
        {
            let backend = &self.call.core.backend;
            backend.bury(&self.name, self.message.clone(), given_up).await;
        }
        self.finish(outcome.map_err(|given_up| given_up.error)).await;
    }

    async fn finish(&self, outcome: Result<Answer, AppError>) {
        let done = match outcome {
            Ok(answer) => self.carry_out(answer).await,
            Err(error) => Err(error.to_client_error(&self.name)),
        };
        let call = &self.call;
        match (done, call.ack) {
            (Ok(args), Some(id)) => {
                let namespace = call.namespace().as_str();
                let ack = encode::ack(namespace, id, args.json().as_str(), args.attachments());
                call.socket.conn().send(&ack);
            }
            (Ok(_), None) => {}
            (Err(error), _) => call.reply::<()>(&Err(error)),
        }
    }

    /// All of it or, if something in it cannot be used, nothing.
    async fn carry_out(&self, answer: Answer) -> Result<Args, ClientError> {
        let plan = self.plan(&answer).map_err(|what| {
            let error = AppError::Rubbish(what);
            tracing::debug!(%error, event = %self.name, "what the application wants cannot be done");
            error.to_client_error(&self.name)
        })?;
        for room in &plan.leave {
            self.call.core.take_out(&self.call.socket, room);
        }
        for room in plan.join {
            self.call.core.put_in(&self.call.socket, &room).await?;
        }
        let backend = &self.call.core.backend;
        // Each takes its place at the call.
        let trace = self.call.trace.as_deref();
        let emitted: Vec<_> = plan
            .emit
            .iter()
            .map(|emit| backend.emitter.emit(emit, trace))
            .collect();
        for emitted in emitted {
            emitted.await?;
        }
        Ok(plan.ack)
    }

    fn plan(&self, answer: &Answer) -> Result<Plan, String> {
        let values: Vec<_> = answer
            .ack
            .iter()
            .map(|arg| publisher::Value::Json(arg.get()))
            .collect();
        let ack = Args::read(&values).map_err(|(_, error)| format!("an argument {error}"))?;
        let emit = |raw: &RawValue| {
            let namespace = self.call.namespace().as_str();
            let request = publisher::json::emit(raw.get().as_bytes(), namespace)?;
            Emit::check(request, self.call.core.backend.max_payload, "")
        };
        let emit = answer.emit.iter().map(|raw| emit(raw)).collect::<Result<_, _>>();
        Ok(Plan {
            ack,
            leave: self.rooms(&answer.leave)?,
            join: self.rooms(&answer.join)?,
            emit: emit.map_err(|error| format!("an emit: {error} {:?}", error.details))?,
        })
    }

    /// Rooms of these names, without the user's own: that is part of being connected.
    fn rooms(&self, names: &[String]) -> Result<Vec<RoomName>, String> {
        let own = self.call.socket.user().id.as_str();
        let mut rooms = Vec::with_capacity(names.len());
        for name in names {
            let room = RoomName::new(name).map_err(|error| format!("a room {error}"))?;
            match room.user() {
                Some(user) if user == own => {}
                Some(_) => return Err("a room belongs to another user".to_owned()),
                None => rooms.push(room),
            }
        }
        Ok(rooms)
    }
}
