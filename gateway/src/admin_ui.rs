//! Namespace `/admin`, which the page of `@socket.io/admin-ui` connects to: it shows the cluster's gateways, sockets and
//! rooms, and what it is asked to do goes to all gateways.
//!
//! Nothing of it costs where nobody looks: gateways tell their counts every two seconds; what has become of sockets
//! is found by comparing lists of them, and some of the clients' events are shown, while a page is open.

mod credentials;
mod report;
mod samples;
mod view;

use std::{collections::HashMap, sync::Arc, time::Duration};

use bus::{Signals, SignalsError, subjects};
use bytes::Bytes;
use config::AdminUi as Settings;
use futures_util::future::BoxFuture;
use http::HeaderMap;
use lifecycle::Tasks;
use model::{Namespace, Role, RoomName, User, UserId};
use parking_lot::Mutex;
use proto::v1::{SocketsOf, disconnect_request::Mode};
use publisher::{Args, Emit, Emitter, Sockets};
use serde::Deserialize;
use serde_json::{Value, json};
use sio::{
    engine::CloseReason,
    packet::{Encoded, RawArgs},
};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use self::{
    credentials::{Credentials, Entrance},
    samples::Sample,
    view::View,
};
pub(crate) use self::{
    report::report,
    samples::{RECEIVERS, Samples},
};
use crate::{
    events::Core,
    limits::Addresses,
    session::{
        Admission, Application, Connect, EventPacket, Refusal, Returns, Shown, Socket, json as to_json,
    },
    transport::Step,
};

/// Where the page connects to.
const NAMESPACE: &str = "/admin";
/// How often gateways tell their counts, and lists of sockets are compared.
const EVERY: Duration = Duration::from_secs(2);
/// So many events of clients go to a page between two of these, however many gateways there are.
const MAX_EVENTS: u32 = 500;
/// What the page is told when a socket is gone.
const DISCONNECTED: &str = "socket_disconnected";
/// Id of the page's user.
const USER: &str = "admin-ui";

/// What clients are otherwise connected to, and `/admin` before it.
struct AdminUi {
    inner: Arc<dyn Application>,
    credentials: Arc<Credentials>,
    addresses: Arc<Addresses>,
    desk: Arc<Desk>,
    samples: Arc<Samples>,
    tasks: Tasks,
    /// Pages that are open, by the ids of their sockets.
    open: Mutex<HashMap<Box<str>, CancellationToken>>,
}

/// What pages work with.
struct Desk {
    signals: Arc<dyn Signals>,
    sockets: Sockets,
    emitter: Emitter,
    readonly: bool,
}

/// `inner` for all namespaces but `/admin`; all of `inner` where the settings have no password.
///
/// # Errors
/// When the bus does not answer.
pub(crate) async fn before(
    inner: Arc<dyn Application>,
    settings: &Settings,
    core: &Core,
) -> Result<Arc<dyn Application>, SignalsError> {
    let Some(hash) = &settings.password else {
        return Ok(inner);
    };
    let Core { signals, tasks, .. } = core;
    // Where sessions are kept.
    let noted = core.store.is_some().then(|| Arc::clone(&core.documents));
    let (sockets, following) = Sockets::following(Arc::clone(signals), noted).await?;
    tasks.background("gateways of admin pages", following);
    let desk = Desk {
        signals: Arc::clone(signals),
        sockets,
        emitter: Emitter::new(Arc::clone(core.publisher.log()), Arc::clone(signals)),
        readonly: settings.readonly,
    };
    Ok(Arc::new(AdminUi {
        inner,
        credentials: Arc::new(Credentials::new(&settings.username, hash.expose())),
        addresses: Arc::clone(&core.addresses),
        desk: Arc::new(desk),
        samples: Arc::clone(&core.samples),
        tasks: tasks.clone(),
        open: Mutex::default(),
    }))
}

impl AdminUi {
    fn is_own(namespace: &Namespace) -> bool {
        namespace.as_str() == NAMESPACE
    }
}

impl Application for AdminUi {
    fn shown(&self, headers: &HeaderMap, query: Option<&str>) -> Shown {
        self.inner.shown(headers, query)
    }

    fn connect(&self, request: Connect) -> BoxFuture<'static, Result<Admission, Refusal>> {
        if !Self::is_own(&request.namespace) {
            return self.inner.connect(request);
        }
        let (credentials, addresses) = (Arc::clone(&self.credentials), Arc::clone(&self.addresses));
        Box::pin(async move {
            let ip = request.conn.handshake().ip;
            let attempt = addresses.attempt(ip).await;
            let attempt = attempt.map_err(|after| Refusal::TooManyFailures(after.as_secs() + 1))?;
            let entrance = credentials.check(request.auth.as_deref()).await;
            let Some(Entrance { session }) = entrance else {
                return Err(Refusal::InvalidCredentials);
            };
            attempt.forgive().await;
            let id = UserId::new(USER).map_err(|_| Refusal::Forbidden)?;
            tracing::info!(target: "audit", %ip, "an admin page was opened");
            Ok(Admission::from(Arc::new(User {
                id,
                anonymous: false,
                // Carries the session from here to `connected`.
                username: session.into(),
                role: Role::Admin,
                permissions: Vec::new(),
                rooms: Vec::new(),
                claims: Vec::new(),
                expires_at: None,
            })))
        })
    }

    fn connected(&self, socket: &Arc<Socket>, reply: Encoded) -> BoxFuture<'static, Result<(), Refusal>> {
        if !Self::is_own(socket.namespace()) {
            return self.inner.connected(socket, reply);
        }
        let end = CancellationToken::new();
        self.open.lock().insert(socket.id().into(), end.clone());
        let (desk, socket) = (Arc::clone(&self.desk), Arc::clone(socket));
        socket.conn().send(&reply);
        self.tasks.background("admin page", async move {
            end.run_until_cancelled(desk.show(&socket)).await;
        });
        Box::pin(std::future::ready(Ok(())))
    }

    fn returned(&self, socket: &Arc<Socket>, returns: Returns, reply: Encoded) -> BoxFuture<'static, ()> {
        self.inner.returned(socket, returns, reply)
    }

    fn away_again(&self, pid: Option<&str>, returns: Returns) {
        self.inner.away_again(pid, returns);
    }

    fn event(&self, socket: &Arc<Socket>, event: EventPacket) -> Step {
        if !Self::is_own(socket.namespace()) {
            let (namespace, id) = (socket.namespace(), socket.id());
            self.samples
                .received(namespace, id, event.name.as_str(), event.args.as_str());
            return self.inner.event(socket, event);
        }
        let desk = Arc::clone(&self.desk);
        Step::Later(Box::pin(async move { desk.act(event).await }))
    }

    fn disconnected(&self, socket: &Arc<Socket>, reason: CloseReason) {
        if !Self::is_own(socket.namespace()) {
            self.samples
                .gone(socket.namespace(), socket.id(), reason.as_str());
            self.inner.disconnected(socket, reason);
        } else if let Some(end) = self.open.lock().remove(socket.id()) {
            end.cancel();
        }
    }
}

impl Desk {
    /// Tells a page everything, for as long as it is open.
    async fn show(&self, socket: &Socket) {
        let heard = tokio::try_join!(
            self.signals.subscribe(subjects::ADMIN_REPORT, None),
            self.signals.subscribe(subjects::ADMIN_SAMPLE, None),
        );
        let (mut reports, mut samples) = match heard {
            Ok(heard) => heard,
            Err(error) => {
                tracing::warn!(%error, "an admin page cannot be told of gateways");
                return;
            }
        };
        socket.emit("session", &to_json(&socket.user().username), &[]);
        let features: &[&str] = if self.readonly {
            &["AGGREGATED_EVENTS", "ALL_EVENTS"]
        } else {
            &[
                "EMIT",
                "JOIN",
                "LEAVE",
                "DISCONNECT",
                "MJOIN",
                "MLEAVE",
                "MDISCONNECT",
                "AGGREGATED_EVENTS",
                "ALL_EVENTS",
            ]
        };
        socket.emit(
            "config",
            &json!({ "supportedFeatures": features }).to_string(),
            &[],
        );
        let mut view = View::default();
        let mut events_left = MAX_EVENTS;
        let mut ticks = interval(EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                report = reports.next() => {
                    let Some(report) = report else { return };
                    let Ok(report) = std::str::from_utf8(&report.payload) else { continue };
                    view.heard(report);
                    socket.emit("server_stats", report, &[]);
                }
                sample = samples.next() => {
                    let Some(sample) = sample else { return };
                    let sample = std::str::from_utf8(&sample.payload).ok().and_then(Sample::read);
                    match sample {
                        Some(gone) if gone.kind == DISCONNECTED => view.gone(&gone),
                        Some(event) if events_left > 0 => {
                            events_left -= 1;
                            socket.emit(event.kind, event.args, &[]);
                        }
                        Some(_) | None => {}
                    }
                }
                _ = ticks.tick() => {
                    events_left = MAX_EVENTS;
                    if let Err(error) = self.signals.publish(subjects::ADMIN_LOOKS, Bytes::new()) {
                        tracing::debug!(%error, "gateways do not learn that an admin page is open");
                    }
                    match view.look(&self.sockets).await {
                        Ok(changes) => {
                            for (event, args) in changes {
                                socket.emit(event, &args, &[]);
                            }
                        }
                        Err(error) => tracing::warn!(%error, "an admin page cannot be told of sockets"),
                    }
                }
            }
        }
    }

    /// Does what a page asks for; what it cannot mean is ignored, as the reference does.
    async fn act(&self, event: EventPacket) {
        let name = event.name.as_str().to_owned();
        let Some((of, what)) = What::read(&name, &event.args).filter(|_| !self.readonly) else {
            return;
        };
        tracing::info!(
            target: "audit",
            action = name,
            namespace = of.namespace,
            sockets = ?of.sockets,
            "an admin page acts"
        );
        let done = match what {
            What::Join(room) => self.sockets.join(of, vec![room]).await.map(drop),
            What::Leave(room) => self.sockets.leave(of, vec![room]).await.map(drop),
            What::Disconnect(mode) => self.sockets.disconnect(of, mode).await.map(drop),
            What::Emit(event, args) => match emit(&of, event, &args) {
                Some(emit) => self.emitter.emit(&emit, None).await.map(drop),
                None => Ok(()),
            },
        };
        if let Err(error) = done {
            tracing::warn!(
                action = name,
                message = error.message,
                "an admin page's action failed"
            );
        }
    }
}

fn emit(of: &SocketsOf, event: String, args: &str) -> Option<Emit> {
    let mut emit = Emit::new(
        Namespace::new(&of.namespace).ok()?,
        event,
        Args::new(RawArgs::parse(args.to_owned().into()).ok()?, Vec::new()),
    );
    emit.rooms = of
        .rooms
        .iter()
        .filter_map(|room| RoomName::new(room).ok())
        .collect();
    emit.sockets.clone_from(&of.sockets);
    Some(emit)
}

/// What one of the page's events asks for.
enum What {
    Join(String),
    Leave(String),
    Disconnect(Mode),
    Emit(String, String),
}

/// Whom an action is about: a socket's id or a room, or several; everybody without.
#[derive(Deserialize)]
#[serde(untagged)]
enum Filter {
    One(String),
    Many(Vec<String>),
    Everybody,
}

impl What {
    fn read(name: &str, args: &RawArgs) -> Option<(SocketsOf, Self)> {
        let values: Vec<Value> = args
            .iter()
            .map(serde_json::from_str)
            .collect::<Result<_, _>>()
            .ok()?;
        let text = |index: usize| values.get(index).and_then(Value::as_str).map(str::to_owned);
        let namespace = text(0)?;
        Namespace::new(&namespace).ok()?;
        let (filter, what) = match name {
            "join" => (2, Self::Join(room(text(1)?)?)),
            "leave" => (2, Self::Leave(room(text(1)?)?)),
            "_disconnect" => {
                let closes = values.get(1).and_then(Value::as_bool)?;
                let mode = if closes { Mode::Connection } else { Mode::Namespace };
                (2, Self::Disconnect(mode))
            }
            "emit" => {
                let rest: Vec<&str> = args.iter().skip(3).collect();
                (1, Self::Emit(text(2)?, rest.join(",")))
            }
            _ => return None,
        };
        let filter = values.get(filter).cloned().unwrap_or_default();
        let names = match serde_json::from_value(filter).ok()? {
            Filter::One(name) => vec![name],
            Filter::Many(names) => names,
            Filter::Everybody => Vec::new(),
        };
        let of = SocketsOf {
            namespace,
            users: Vec::new(),
            // Either may be meant: the page takes a socket's id for a room of its own.
            sockets: names.clone(),
            rooms: names,
            except: None,
        };
        Some((of, what))
    }
}

fn room(name: String) -> Option<String> {
    RoomName::new(&name).is_ok().then_some(name)
}
