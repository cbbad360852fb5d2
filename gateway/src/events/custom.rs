//! Events that are not built in: the application handles them (CONTRACT section 6, "Handle").

use std::{borrow::Cow, sync::Arc};

use app::{
    Answer, AppError, Authorizer, Client, ClientSettings, DeadLetters, EventMessage, Feed, GivenUp,
    SocketRef, Trace, Who, Wish,
};
use bus::{EventLog, Signals, WorkQueue};
use bytes::Bytes;
use config::{AppAction, Config};
use futures_util::{FutureExt, future::BoxFuture};
use lifecycle::Tasks;
use model::{ClientError, Detail, ErrorCode, RoomName};
use publisher::{Args, Emit, Emitter, MAX_EVENT};
use serde_json::value::RawValue;
use sio::packet::encode;
use tracing::Instrument;
use uuid::Uuid;

use super::{Call, news::Lifecycle};
use crate::{
    session::{EventPacket, unavailable},
    transport::Step,
};

/// The application behind this gateway.
pub(crate) struct Backend {
    client: Client,
    pub(super) authorizer: Authorizer,
    /// None where it wants to hear nothing.
    pub(super) lifecycle: Option<Lifecycle>,
    emitter: Emitter,
    /// Where events end that nobody waits for and that were given up.
    dead_letters: Arc<DeadLetters>,
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
        let dead_letters = Arc::<DeadLetters>::default();
        let feed = (!wanted.is_empty()).then(|| Feed::new(&app, wanted.clone(), &dead_letters, tasks));
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
            dead_letters,
            max_payload: config.gateway.max_payload,
        })
    }

    /// Buries there from now on; the first place counts.
    pub(crate) fn bury_in(&self, work: Arc<dyn WorkQueue>) {
        self.dead_letters.put_into(work);
    }

    /// Gives up what is tried again.
    pub(crate) fn stop(&self) {
        self.client.stop();
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
    if event.name.as_str().chars().nth(MAX_EVENT).is_some() {
        let message = format!("must have at most {MAX_EVENT} characters");
        return call.fail(ClientError::invalid(vec![Detail {
            path: "event".to_owned(),
            message,
        }]));
    }
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
    match (is_asked, is_ordered) {
        (true, false) => Step::Later(custom.apart(|custom| custom.once())),
        (true, true) => in_order(custom.apart(|custom| custom.once())),
        (false, is_ordered) => {
            let backend = &custom.call.core.backend;
            let Some(place) = backend.client.place(&custom.message) else {
                let error = unavailable("too many events wait for the application");
                return custom.call.fail(error);
            };
            let done = custom.apart(move |custom| async move {
                custom.unasked(is_ordered).await;
                drop(place);
            });
            // Nobody waits, and no later event does but in order.
            if is_ordered { in_order(done) } else { Step::Done }
        }
    }
}

/// The socket's later events wait.
fn in_order(done: BoxFuture<'static, ()>) -> Step {
    Step::Wait(Box::pin(done.map(|()| Step::Done)))
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

impl Plan {
    /// Lets all of it be sent again without that anybody gets an event twice.
    fn name_emits(&mut self) {
        let name = Uuid::now_v7();
        for (index, emit) in self.emit.iter_mut().enumerate() {
            emit.idempotency_key
                .get_or_insert_with(|| format!("{name}.{index}"));
        }
    }
}

impl Custom {
    /// Begins what becomes of it. It goes on when the connection ends: nothing that the application has handled is left
    /// half done, and what nobody waits for is not lost. The answer is ready when all is done.
    fn apart<F>(self, work: impl FnOnce(Self) -> F) -> BoxFuture<'static, ()>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let tasks = self.call.core.tasks.clone();
        let done = tasks.apart("custom event", work(self).in_current_span());
        Box::pin(done.map(drop))
    }

    /// A client waits for the answer.
    async fn once(self) {
        let client = &self.call.core.backend.client;
        let namespace = self.call.namespace().as_str();
        let outcome = client.event(namespace, &self.name, self.message.clone()).await;
        let plan = outcome.and_then(|answer| self.plan(&answer));
        let done = match plan {
            Ok(plan) => self.carry_out(&plan).await.map(|()| plan.ack),
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

    /// Nobody waits: it is tried for a while; for a short one where the socket's later events wait. What was never
    /// done is kept; what nobody handles, or can be told of, is not.
    async fn unasked(self, is_ordered: bool) {
        let backend = &self.call.core.backend;
        let Err(given_up) = self.try_unasked(&backend.client, is_ordered).await else {
            return;
        };
        if !matches!(given_up.error, AppError::NoHandler | AppError::TooLarge) {
            let letters = &backend.dead_letters;
            letters.bury(&self.name, self.message.clone(), &given_up).await;
        }
        let error = given_up.error.to_client_error(&self.name);
        self.call.reply::<()>(&Err(error));
    }

    async fn try_unasked(&self, client: &Client, is_ordered: bool) -> Result<(), GivenUp> {
        let namespace = self.call.namespace().as_str();
        let message = self.message.clone();
        let answer = if is_ordered {
            client.event_in_time(namespace, &self.name, message).await?
        } else {
            client.event_until_done(namespace, &self.name, message).await?
        };
        let mut plan = self
            .plan(&answer)
            .map_err(|error| GivenUp { error, attempts: 1 })?;
        plan.name_emits();
        let attempt = || async {
            let done = self.carry_out(&plan).await;
            done.map_err(|error| match error.code {
                ErrorCode::Unavailable => AppError::Unavailable(error.message),
                _ => AppError::Rubbish(error.message),
            })
        };
        if is_ordered {
            client.in_time(attempt).await
        } else {
            client.until_done(attempt).await
        }
    }

    /// What the answer asks for. May be repeated.
    async fn carry_out(&self, plan: &Plan) -> Result<(), ClientError> {
        for room in &plan.leave {
            self.call.core.take_out(&self.call.socket, room);
        }
        for room in &plan.join {
            self.call.core.put_in(&self.call.socket, room).await?;
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
        Ok(())
    }

    /// All of an answer or, if something in it cannot be used, nothing.
    fn plan(&self, answer: &Answer) -> Result<Plan, AppError> {
        self.read(answer).map_err(|what| {
            let error = AppError::Rubbish(what);
            tracing::debug!(%error, event = %self.name, "what the application wants cannot be done");
            error
        })
    }

    fn read(&self, answer: &Answer) -> Result<Plan, String> {
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
