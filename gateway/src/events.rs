//! The built-in vocabulary (CONTRACT section 4): what each event means, one file a family.

mod access;
mod authorizer;
mod caller;
mod custom;
mod handover;
mod input;
mod limited;
mod messages;
mod news;
mod notifications;
mod online;
mod recovery;
mod refresh;
mod returning;
mod rooms;
mod typing;

use std::{future::ready, net::IpAddr, sync::Arc};

use ::notifications::Notifications;
use ::publisher::{membership, spans::PUBLISH};
use bus::{Documents, Signals};
use futures_util::{FutureExt, future::BoxFuture};
use http::HeaderMap;
use lifecycle::Tasks;
use model::{ClientError, ErrorCode, Namespace, RoomName, RoomToken, User};
use proto::v1::{KeptRoom, KeptSession};
use serde_json::json;
use sio::{engine::CloseReason, packet::Encoded};
use telemetry::trace::{Kind, Receiving, Span, Tracer};
use tokio::sync::oneshot;

pub(crate) use self::{
    access::{Access, matches},
    caller::{Ask, Caller, Visitor, by_request},
    custom::Backend,
    handover::{Handover, MovedSessions},
    input::Input,
    messages::{History, MarkRead, SendMessage},
    notifications::{MarkNotification, Subscribe},
    rooms::GetOrCreate,
    typing::Typing,
};
use self::{authorizer::Use, caller::by_event};
use crate::{
    admin_ui::Samples,
    deliver::Deliverer,
    interest::InterestError,
    journal::Journal,
    limits::{Addresses, EventLimits, UserConnections},
    metrics::Metrics,
    presence_feed::PresenceFeed,
    publish::Publisher,
    replay::Replay,
    rooms::{Joining, Rooms},
    session::{
        Admission, Application, Authenticator, Claim, Connect, EventPacket, Expiries, Refusal, Returns,
        SessionStore, Sessions, Shown, Socket, Success, json as to_json,
    },
    spans::{self, unrecorded},
    transport::{Conn, Step},
};

/// Another name of [`messages::EVENT`].
const SEND_MESSAGE: &str = "sendMessage";

/// What the handlers work with.
pub(crate) struct Core {
    pub(crate) rooms: Arc<Rooms>,
    pub(crate) journal: Arc<Journal>,
    pub(crate) deliverer: Arc<Deliverer>,
    pub(crate) sessions: Arc<Sessions>,
    pub(crate) moved: Arc<MovedSessions>,
    /// Bytes that may be replayed to one client: more would make it a slow one.
    pub(crate) max_replay: usize,
    pub(crate) publisher: Arc<Publisher>,
    pub(crate) presence: Arc<PresenceFeed>,
    pub(crate) documents: Arc<dyn Documents>,
    pub(crate) notifications: Notifications,
    pub(crate) signals: Arc<dyn Signals>,
    pub(crate) authenticator: Authenticator,
    pub(crate) expiries: Expiries,
    pub(crate) access: Access,
    pub(crate) backend: Backend,
    pub(crate) limits: EventLimits,
    pub(crate) addresses: Arc<Addresses>,
    pub(crate) user_connections: UserConnections,
    pub(crate) typing: Typing,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) samples: Arc<Samples>,
    pub(crate) tracer: Tracer,
    /// None where nothing outlives the process.
    pub(crate) store: Option<Arc<SessionStore>>,
    pub(crate) replay: Arc<Replay>,
    pub(crate) tasks: Tasks,
}

/// The built-in vocabulary as an application of the Socket.IO layer.
pub(crate) struct Vocabulary {
    core: Arc<Core>,
}

/// One event being handled.
#[derive(Clone)]
struct Call {
    core: Arc<Core>,
    socket: Arc<Socket>,
    ack: Option<u64>,
    /// Its trace, if that is recorded.
    trace: Option<Arc<Receiving>>,
}

impl Vocabulary {
    pub(crate) fn new(core: Arc<Core>) -> Self {
        Self { core }
    }
}

impl Application for Vocabulary {
    fn shown(&self, headers: &HeaderMap, query: Option<&str>) -> Shown {
        self.core.authenticator.shown(headers, query)
    }

    fn connect(&self, request: Connect) -> BoxFuture<'static, Result<Admission, Refusal>> {
        let core = Arc::clone(&self.core);
        Box::pin(async move {
            let handshake = request.conn.handshake();
            if request.conn.sockets.lock().enters_often() {
                let again = core.addresses.enters_again(handshake.ip);
                again.map_err(|after| Refusal::TooManyFailures(limited::seconds(after)))?;
            }
            let auth = request.auth.as_deref();
            let user = core
                .identify(&request.namespace, auth, &handshake.shown, handshake.ip)
                .await?;
            let recovers = request.conn.handshake().recovers;
            let claim = Claim::from_auth(request.auth.as_deref());
            if claim.pid.is_some() {
                match claim_apart(&core, claim, request.namespace, &user).await {
                    Ok(Some(admission)) => return core.within_limit(&request.conn, admission),
                    Ok(None) => {}
                    // As a new one it would have lost its session. It comes back with it in a moment.
                    Err(refusal) => {
                        request.conn.close(CloseReason::TransportError);
                        return Err(refusal);
                    }
                }
            }
            Ok(Admission {
                user,
                pid: recovers
                    .then(|| core.sessions.new_pid(core.journal.gateway()))
                    .flatten(),
                returns: None,
            })
        })
    }

    fn connected(&self, socket: &Arc<Socket>, answer: Encoded) -> BoxFuture<'static, Result<(), Refusal>> {
        let core = Arc::clone(&self.core);
        if !core.user_connections.enter(socket) {
            return Box::pin(ready(Err(Refusal::TooManyConnections)));
        }
        let rooms = [
            RoomName::all(),
            RoomName::of_user(socket.user().id.as_str()),
            RoomName::of_socket(socket.id()),
        ];
        let joins = rooms.map(|room| core.rooms.join(socket, room));
        let socket = Arc::clone(socket);
        Box::pin(async move {
            let [Some(all), Some(user), Some(own)] = joins else {
                core.take_back(&socket);
                return Ok(());
            };
            let mut joins = [all, user, own];
            let mut begins = [0; 3];
            for (join, begin) in joins.iter_mut().zip(&mut begins) {
                *begin = join.confirmed().await.map_err(|error| {
                    tracing::warn!(%error, "a client cannot be connected");
                    Refusal::Unavailable
                })?;
            }
            // Its client has not waited for the answer.
            if socket.has_left() {
                core.take_back(&socket);
                return Ok(());
            }
            let [_, user, _] = begins;
            // Set once, right here.
            let _ = socket.hears_since.set(user);
            core.presence.connected(&socket);
            core.sessions.here(&socket);
            core.keep(&socket, &mut joins).await?;
            // A server may put it out in this very moment.
            if socket.has_left() {
                core.take_back(&socket);
                return Ok(());
            }
            socket.conn().send(&answer);
            for join in joins {
                join.release(|_| Vec::new());
            }
            core.tell_connected(&socket, false);
            if socket.has_left() {
                core.tell_disconnected(&socket, CloseReason::ServerNamespaceDisconnect);
            }
            core.watch_expiry(&socket);
            Ok(())
        })
    }

    fn event(&self, socket: &Arc<Socket>, event: EventPacket) -> Step {
        let name = event.name.as_str();
        self.core
            .metrics
            .received(socket.namespace(), name, event.args.as_str().len());
        let call = Call {
            core: Arc::clone(&self.core),
            socket: Arc::clone(socket),
            ack: event.ack,
            trace: spans::receive(&self.core.tracer, socket, &event),
        };
        let trace = call.trace.clone();
        spans::logged(trace.as_deref(), || call.limited(event, handle))
    }

    fn returned(&self, socket: &Arc<Socket>, returns: Returns, answer: Encoded) -> BoxFuture<'static, ()> {
        self.core.user_connections.come_back(socket);
        let (core, socket) = (Arc::clone(&self.core), Arc::clone(socket));
        // Goes on when the connection ends: what was taken from elsewhere must arrive.
        let back = self.core.tasks.apart("recovery", async move {
            core.returned(&socket, returns, answer).await;
        });
        Box::pin(back.map(drop))
    }

    fn away_again(&self, pid: Option<&str>, returns: Returns) {
        if let Some(pid) = pid {
            self.core.decline(pid, returns);
        }
    }

    fn disconnected(&self, socket: &Arc<Socket>, reason: CloseReason) {
        self.core.disconnected(socket, reason);
    }
}

/// An event that is within the limits.
fn handle(call: Call, event: &EventPacket) -> Step {
    let name = event.name.as_str();
    let input = Input::new(event.args.first());
    // Says who one is, which no policy of events is about.
    if name == "refresh-token" {
        return refresh::refresh(call, input);
    }
    if let Err(error) = call.may_emit(ruled_as(name)) {
        return call.fail(error);
    }
    match name {
        "join-room" => rooms::join(call, input),
        "leave-room" => rooms::leave(call, input),
        "getOrCreateRoom" => rooms::get_or_create(call, input),
        messages::EVENT | SEND_MESSAGE => by_event::<SendMessage>(call, input),
        "getMessages" => by_event::<History>(call, input),
        "markMessagesRead" => by_event::<MarkRead>(call, input),
        "typing" => typing::typing(call, input),
        "subscribe" if has_inboxes(&call) => notifications::subscribe(call, input),
        "markNotificationRead" if has_inboxes(&call) => by_event::<MarkNotification>(call, input),
        "getOnlineUsers" => online::users(call, input),
        "ping" => call.done(&json!({ "time": crate::now_ms() })),
        _ => custom::custom(call, event),
    }
}

/// The name by which limits and policies know an event.
fn ruled_as(name: &str) -> &str {
    if name == SEND_MESSAGE {
        messages::EVENT
    } else {
        name
    }
}

/// Notifications are subscribed to where they are told.
fn has_inboxes(call: &Call) -> bool {
    call.namespace().as_str() == ::notifications::NAMESPACE
}

/// The beginning of an event's name, for a message.
fn shown(name: &str) -> &str {
    let end = name.char_indices().nth(128).map_or(name.len(), |(end, _)| end);
    &name[..end]
}

/// As [`Core::claim`], but what was claimed is put back if the connection ends meanwhile.
async fn claim_apart(
    core: &Arc<Core>,
    claim: Claim,
    namespace: Namespace,
    user: &Arc<User>,
) -> Result<Option<Admission>, Refusal> {
    let (sender, receiver) = oneshot::channel();
    let (claims, user) = (Arc::clone(core), Arc::clone(user));
    core.tasks.spawn("claim", async move {
        let admission = claims.claim(claim, &namespace, &user).await;
        if let Err(Ok(Some(Admission {
            pid: Some(pid),
            returns: Some(returns),
            ..
        }))) = sender.send(admission)
        {
            claims.decline(&pid, returns);
        }
    });
    // A claim that panicked claims nothing.
    receiver.await.unwrap_or(Ok(None))
}

impl Core {
    /// What was claimed, which goes back if its user has as many other connections as may be.
    fn within_limit(&self, conn: &Arc<Conn>, admission: Admission) -> Result<Admission, Refusal> {
        if self.user_connections.admits(&admission.user, conn) {
            return Ok(admission);
        }
        if let (Some(pid), Some(returns)) = (&admission.pid, admission.returns) {
            self.decline(pid, returns);
        }
        Err(Refusal::TooManyConnections)
    }

    /// Who asks to enter a namespace, if there is one and they may. `auth` is the CONNECT packet's payload.
    pub(crate) async fn identify(
        &self,
        namespace: &Namespace,
        auth: Option<&str>,
        shown: &Shown,
        ip: IpAddr,
    ) -> Result<Arc<User>, Refusal> {
        if self.access.rules().policy(namespace).is_none() {
            return Err(Refusal::InvalidNamespace);
        }
        let user = self
            .judged(ip, self.authenticator.authenticate(auth, shown, ip))
            .await?;
        let rules = self.access.rules();
        match rules.policy(namespace) {
            Some(policy) if policy.admits(user.role) => {}
            Some(_) => return Err(Refusal::Forbidden),
            None => return Err(Refusal::InvalidNamespace),
        }
        self.authorized(namespace, user).await
    }

    /// What comes of an authentication of somebody at `ip`; what is wrong counts against the address.
    async fn judged(
        &self,
        ip: IpAddr,
        judging: impl Future<Output = Result<Arc<User>, Refusal>>,
    ) -> Result<Arc<User>, Refusal> {
        let attempt = self.addresses.attempt(ip).await;
        let attempt = attempt.map_err(|after| Refusal::TooManyFailures(limited::seconds(after)))?;
        let user = judging.await;
        let code = user.as_ref().err().and_then(|refusal| refusal.code());
        if code != Some(ErrorCode::Unauthorized) {
            attempt.forgive().await;
        }
        user
    }

    /// The span of publishing to a room, as part of `trace`. How many members the room has here stands for how many it
    /// has.
    fn publishing(&self, trace: &Receiving, namespace: &Namespace, room: &RoomName) -> Option<Span> {
        let room = self.rooms.get(RoomToken::new(namespace, room));
        trace.child(PUBLISH, Kind::Producer, room.map_or(0, |room| room.places()))
    }

    /// Tells a socket by event `error`.
    fn send_error(&self, socket: &Socket, error: &ClientError) {
        self.tell(socket, "error", &to_json(error));
    }

    /// An event for this socket alone; `args` is raw JSON.
    fn tell(&self, socket: &Socket, name: &str, args: &str) {
        let lane = self.journal.lane();
        let position = lane.position().filter(|_| socket.pid().is_some());
        let event = socket.event(name, args, &[], position.as_deref());
        self.samples.sent(socket.namespace(), socket.id(), name, args);
        socket.conn().send(&event);
    }

    /// Of a socket that left before its CONNECT was answered nothing stays that came behind its end.
    fn take_back(&self, socket: &Arc<Socket>) {
        self.user_connections.leave(socket);
        self.presence.disconnected(socket);
        if let Some(pid) = socket.pid() {
            self.end(pid);
        }
    }

    /// A new socket, for the store.
    async fn keep(&self, socket: &Socket, joins: &mut [Joining]) -> Result<(), Refusal> {
        let (Some(store), Some(pid)) = (&self.store, socket.shared_pid()) else {
            return Ok(());
        };
        let session = self.kept_session(socket, joins).await;
        store.begin(pid, session.map_err(|_| Refusal::Unavailable)?);
        Ok(())
    }

    /// A socket as the store keeps it, once its joins are sure.
    async fn kept_session(
        &self,
        socket: &Socket,
        joins: &mut [Joining],
    ) -> Result<KeptSession, InterestError> {
        let mut rooms = Vec::with_capacity(joins.len());
        for join in joins {
            let seq = join.confirmed().await?;
            let name = join.room().name();
            rooms.push(KeptRoom {
                seq,
                granted: self.grants(socket, name),
                name: name.to_string(),
                joined_ms: crate::now_ms(),
                ..KeptRoom::default()
            });
        }
        Ok(KeptSession {
            namespace: socket.namespace().to_string(),
            socket_id: socket.id().to_owned(),
            user_id: socket.user().id.to_string(),
            username: socket.user().username.to_string(),
            anonymous: socket.user().anonymous,
            connected_at_ms: socket.connected_at_ms(),
            hears_since: socket.hears_since.get().copied(),
            rooms,
            ..KeptSession::default()
        })
    }

    /// Whether a socket's user may use a room by what its newest token says.
    fn grants(&self, socket: &Socket, room: &RoomName) -> bool {
        let rules = self.access.rules();
        rules.grants(&socket.rights(), socket.namespace(), room)
    }

    /// Whether the user is a member of a room that nothing else opens to it.
    async fn is_member(
        &self,
        user: &User,
        namespace: &Namespace,
        room: &RoomName,
    ) -> Result<bool, ClientError> {
        membership::is_member(&*self.documents, user.id.as_str(), namespace, room).await
    }
}

impl Call {
    fn namespace(&self) -> &Namespace {
        self.socket.namespace()
    }

    /// The outcome of an event, as its acknowledgement or, without one, an error as event `error`
    /// (CONTRACT section 4).
    fn reply<T: serde::Serialize>(&self, result: &Result<T, ClientError>) {
        if let Err(error) = result {
            self.core.metrics.failed(error.code);
        }
        let conn = self.socket.conn();
        match (self.ack, result) {
            (Some(id), Ok(value)) => conn.send(&self.socket.ack_json(id, &Success { status: "ok", value })),
            (Some(id), Err(error)) => conn.send(&self.socket.ack_json(id, error)),
            (None, Ok(_)) => {}
            (None, Err(error)) => self.core.send_error(&self.socket, error),
        }
    }

    /// An event for the caller alone; `args` is raw JSON.
    fn event(&self, name: &str, args: &str, position: Option<&str>) -> Encoded {
        let (namespace, id) = (self.socket.namespace(), self.socket.id());
        self.core.samples.sent(namespace, id, name, args);
        self.socket.event(name, args, &[], position)
    }

    fn done(&self, value: &impl serde::Serialize) -> Step {
        self.reply(&Ok::<_, ClientError>(value));
        Step::Done
    }

    fn fail(&self, error: ClientError) -> Step {
        self.reply::<()>(&Err(error));
        Step::Done
    }

    /// Runs beside later events and replies with the outcome.
    fn later<T: serde::Serialize>(
        self,
        work: impl Future<Output = Result<T, ClientError>> + Send + 'static,
    ) -> Step {
        Step::Later(Box::pin(async move { self.reply(&work.await) }))
    }

    /// Goes on with `then` if the user may use the room for this. Later events wait while others are asked for that,
    /// so that a socket's events keep their order.
    fn with_access(
        self,
        room: RoomName,
        purpose: Use,
        then: impl FnOnce(Self, RoomName) -> Step + Send + 'static,
    ) -> Step {
        match self.quick(&room, purpose) {
            access::Quick::Allowed => then(self, room),
            access::Quick::Denied => self.fail(access::denied(&room)),
            access::Quick::Ask => Step::Wait(Box::pin(async move {
                match self.may_use(&room, purpose).await {
                    Ok(()) => then(self, room),
                    Err(error) => self.fail(error),
                }
            })),
        }
    }

    /// Where the event stands in its trace, for those who handle it elsewhere (W3C Trace Context); of one that is not
    /// recorded, something that says so.
    fn traceparent(&self) -> String {
        let context = self.trace.as_ref().and_then(|trace| trace.context());
        context.map_or_else(unrecorded, |context| context.to_string())
    }

    /// None when the socket has gone while its event waited: nobody is there any more to be answered.
    fn join(&self, room: RoomName) -> Option<Joining> {
        self.core.rooms.join(&self.socket, room)
    }
}
