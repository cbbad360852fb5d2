//! The Engine.IO server of one path: which request is for which session.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use axum::body::Body;
use http::{HeaderMap, Method, Request, Response, StatusCode, header, uri::Scheme};
use hyper::body::Incoming;
use lifecycle::Tasks;
use model::{ClientError, ErrorCode, GatewayId};
use parking_lot::{Mutex, RwLock};
use rand::Rng;
use sio::engine::{CloseReason, HandshakeError, Session, Timing, TransportKind, Version};

use super::{
    Conn, EngineHandler, Forwarder, Handshake, affinity,
    ages::Ages,
    cors::Origins,
    door::{Door, Seat, SentAway},
    driver::Driver,
    forward::CLIENT_IP,
    outbound::Mode,
    polling, reply, ws,
};
use crate::{
    limits::{Addresses, Memory},
    metrics::Metrics,
    session::{Shown, Sockets, json},
};

/// Settings of an Engine.IO server.
#[derive(Clone, Debug)]
pub struct EngineOptions {
    /// First characters of every session id.
    pub gateway: GatewayId,
    /// Heartbeat and upgrade.
    pub timing: Timing,
    /// How long a session may stay without a namespace; `None` where there are no namespaces.
    pub connect_timeout: Option<Duration>,
    /// Bytes of the largest message.
    pub max_payload: usize,
    /// How long a client may take to send the body of a POST.
    pub body_timeout: Duration,
    /// Bytes from which messages are compressed for WebSockets that agree on it; `None`: none agrees.
    pub deflate_from: Option<usize>,
    /// Bytes that may wait for one client.
    pub send_queue: usize,
    /// Sessions at a time; 0 for no limit.
    pub max_connections: usize,
    /// Handshakes a second; 0 for no limit.
    pub handshakes_per_second: u32,
    /// Age at which sessions are closed, about; zero for never.
    pub max_age: Duration,
    /// Whether clients of Engine.IO v3 are taken too.
    pub allow_eio3: bool,
    /// Allowed origins; `["*"]` for any.
    pub origins: Vec<String>,
    /// Handshakes are answered with the affinity cookie `fanfare`, unless the client has one. Tells load
    /// balancers apart what they should keep together; on by default.
    pub affinity_cookie: bool,
}

/// Sessions of one path and what happens to requests for them.
pub struct EngineServer {
    options: EngineOptions,
    origins: RwLock<Arc<Origins>>,
    handler: Arc<dyn EngineHandler>,
    tasks: Tasks,
    metrics: Arc<Metrics>,
    sessions: Sessions,
    door: Door,
    ages: Ages,
    forwarder: OnceLock<Arc<Forwarder>>,
}

/// Whether a request has been forwarded already. It is forwarded once at most.
#[derive(Copy, Clone, PartialEq, Eq)]
enum Hop {
    First,
    Second,
}

enum Answer {
    Own(Response<Body>),
    /// As the owner of the session gave it, with everything that belongs on it.
    OfOwner(Response<Body>),
}

impl EngineServer {
    /// A server without sessions. Connections run as tasks of `tasks`.
    pub fn new(
        options: EngineOptions,
        handler: Arc<dyn EngineHandler>,
        tasks: Tasks,
        metrics: Arc<Metrics>,
    ) -> Arc<Self> {
        let origins = RwLock::new(Arc::new(Origins::new(&options.origins)));
        Arc::new(Self {
            door: Door::new(options.max_connections, options.handshakes_per_second),
            ages: Ages::new(options.max_age),
            options,
            origins,
            handler,
            tasks,
            metrics,
            sessions: Sessions::default(),
            forwarder: OnceLock::new(),
        })
    }

    /// From now on pages of these origins may open sessions; sessions there are go on.
    pub fn set_origins(&self, origins: &[String]) {
        *self.origins.write() = Arc::new(Origins::new(origins));
    }

    pub(crate) fn origins(&self) -> Arc<Origins> {
        Arc::clone(&self.origins.read())
    }

    /// From now on nobody gets a new session here.
    pub fn refuse_handshakes(&self) {
        self.door.close();
    }

    /// From now on requests for sessions of other gateways are forwarded. Without, such sessions are
    /// unknown. Only the first call counts.
    pub fn forward_by(&self, forwarder: Arc<Forwarder>) {
        let _ = self.forwarder.set(forwarder);
    }

    /// From now on addresses have limits, and nobody new is taken while memory is short. Only the first call counts.
    pub(crate) fn limit_by(&self, addresses: Arc<Addresses>, memory: Arc<Memory>) {
        self.door.limit_by(addresses, memory);
    }

    /// Its settings.
    #[must_use]
    pub fn options(&self) -> &EngineOptions {
        &self.options
    }

    pub(super) fn handler(&self) -> &dyn EngineHandler {
        &*self.handler
    }

    pub(super) fn tasks(&self) -> &Tasks {
        &self.tasks
    }

    /// How many sessions there are.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.sessions.len()
    }

    /// Every session there is now.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<Conn>> {
        self.sessions.all()
    }

    pub(super) fn remove(&self, sid: &str) {
        self.sessions.remove(sid);
    }

    /// Answers one request of the path, from a client at `ip`; forwards it where the session is another
    /// gateway's. Dropped, the client has hung up.
    pub async fn serve(self: &Arc<Self>, request: Request<Incoming>, ip: IpAddr) -> Response<Body> {
        self.answer(request, ip, Hop::First).await
    }

    /// Answers one request that the gateway at `peer` has forwarded. Never forwards it again.
    pub async fn serve_forwarded(
        self: &Arc<Self>,
        mut request: Request<Incoming>,
        peer: IpAddr,
    ) -> Response<Body> {
        let ip = request
            .headers_mut()
            .remove(CLIENT_IP)
            .and_then(|ip| ip.to_str().ok()?.parse().ok())
            .unwrap_or(peer);
        self.answer(request, ip, Hop::Second).await
    }

    async fn answer(self: &Arc<Self>, request: Request<Incoming>, ip: IpAddr, hop: Hop) -> Response<Body> {
        let headers = request.headers().clone();
        if request.method() == Method::OPTIONS {
            let mut response = reply::empty(StatusCode::NO_CONTENT);
            self.origins().preflight(&headers, response.headers_mut());
            return response;
        }
        let websocket = is_websocket(&headers);
        let mut response = match self.route(request, ip, websocket, hop).await {
            Ok(Answer::Own(response)) => response,
            Ok(Answer::OfOwner(response)) => return response,
            Err(error) => {
                self.metrics.handshake_refused(error);
                reply::refused(error, websocket)
            }
        };
        self.origins().decorate(&headers, response.headers_mut());
        response
    }

    async fn route(
        self: &Arc<Self>,
        request: Request<Incoming>,
        ip: IpAddr,
        websocket: bool,
        hop: Hop,
    ) -> Result<Answer, HandshakeError> {
        let query = Query::parse(request.uri().query().unwrap_or_default());
        // In the order of the reference: the transport, then the version.
        let transport = query
            .transport
            .as_deref()
            .and_then(TransportKind::from_query)
            .ok_or(HandshakeError::TransportUnknown)?;
        let version = query
            .version
            .as_deref()
            .and_then(Version::from_query)
            .filter(|version| *version == Version::V4 || self.options.allow_eio3)
            .ok_or(HandshakeError::UnsupportedProtocolVersion)?;
        match &query.sid {
            Some(sid) => {
                let Some(conn) = self.sessions.get(sid) else {
                    // Boxed, so that a poll that waits here has no room for one that is forwarded.
                    return Box::pin(self.forward(sid, request, ip, websocket, hop)).await;
                };
                if conn.handshake().version != version {
                    return Err(HandshakeError::BadRequest);
                }
                match transport {
                    TransportKind::WebSocket if websocket => {
                        ws::check(&request)?;
                        Ok(Answer::Own(ws::attach(self, conn, request)))
                    }
                    TransportKind::Polling if !websocket => {
                        polling::serve(self, conn, request).await.map(Answer::Own)
                    }
                    _ => Err(HandshakeError::BadRequest),
                }
            }
            // Sessions begin where the client came in.
            None if hop == Hop::Second => Err(HandshakeError::BadRequest),
            None if request.method() != Method::GET => Err(HandshakeError::BadHandshakeMethod),
            None => {
                if websocket != (transport == TransportKind::WebSocket) {
                    return Err(HandshakeError::BadRequest);
                }
                if !self.origins().allow(request.headers()) {
                    return Err(HandshakeError::Forbidden);
                }
                if websocket {
                    ws::check(&request)?;
                }
                let seat = match self.door.enter(ip).await {
                    Ok(seat) => seat,
                    Err(SentAway::Full(why, after)) => {
                        self.metrics.connection_refused(why);
                        return Ok(Answer::Own(come_back(after)));
                    }
                    Err(SentAway::Limited(after)) => {
                        self.metrics.connection_refused("limited");
                        self.metrics.limited("address", "refused");
                        return Ok(Answer::Own(too_many(after)));
                    }
                };
                let shown = self.handler.shown(request.headers(), request.uri().query());
                let handshake = Handshake::of(request.headers(), version, &query, ip, seat, shown);
                let cookie = self.options.affinity_cookie.then(|| {
                    affinity::issue(request.headers(), request.extensions().get::<Scheme>().is_some())
                });
                let mut response = match transport {
                    TransportKind::WebSocket => ws::open(self, request, handshake),
                    TransportKind::Polling => polling::open(self, handshake),
                };
                if let Some(cookie) = cookie.flatten() {
                    response.headers_mut().append(header::SET_COOKIE, cookie);
                }
                Ok(Answer::Own(response))
            }
        }
    }

    /// Hands a request on to the gateway that its session id names, if that is another one that is there.
    async fn forward(
        &self,
        sid: &str,
        request: Request<Incoming>,
        ip: IpAddr,
        websocket: bool,
        hop: Hop,
    ) -> Result<Answer, HandshakeError> {
        let unknown = HandshakeError::SessionIdUnknown;
        let gateway = GatewayId::of_sid(sid).ok_or(unknown)?;
        let forwarder = self
            .forwarder
            .get()
            .filter(|_| hop == Hop::First)
            .ok_or(unknown)?;
        let owner = forwarder.owner(gateway).ok_or(unknown)?;
        let Self { options, metrics, .. } = self;
        let answer = if websocket {
            forwarder
                .upgrade(&owner, request, ip, &options.timing, metrics)
                .await
        } else {
            let limit = options.max_payload;
            forwarder
                .request(&owner, request, ip, &options.timing, limit, metrics)
                .await
        };
        answer.map(Answer::OfOwner)
    }

    /// A new session, known from now on.
    pub(super) fn admit(&self, handshake: Handshake, transport: TransportKind) -> Arc<Conn> {
        let now = Instant::now();
        let mode = match transport {
            TransportKind::Polling => Mode::Polling,
            TransportKind::WebSocket => Mode::WebSocket,
        };
        let session = Session::new(handshake.version, transport, &self.options.timing, now);
        let sockets = Sockets::new(now, self.options.connect_timeout);
        let sid = new_sid(&self.options.gateway);
        let deflate_from = self.options.deflate_from.unwrap_or(usize::MAX);
        let conn = Conn::new(
            sid,
            handshake,
            session,
            mode,
            self.options.send_queue,
            deflate_from,
            sockets,
        );
        self.sessions.insert(&conn);
        self.ages.add(&conn, now);
        conn
    }

    /// From now on so many new sessions a second are let in; 0 for no limit.
    pub(crate) fn set_rate(&self, handshakes_per_second: u32) {
        self.door.admission.set(handshakes_per_second);
    }

    /// Closes the sessions that are old enough; how many.
    pub(crate) fn close_old(&self, now: Instant) -> usize {
        let old = self.ages.old(now);
        for conn in &old {
            conn.close(CloseReason::ServerShuttingDown);
        }
        old.len()
    }

    pub(super) fn drive(self: &Arc<Self>, conn: &Arc<Conn>) -> Driver {
        Driver::new(Arc::clone(self), Arc::clone(conn))
    }

    /// Ends every session for `reason` and waits until they are gone; the budget is the caller's.
    pub async fn close_all(&self, reason: CloseReason) {
        for conn in self.sessions.all() {
            conn.close(reason);
        }
        while self.sessions.len() > 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

impl Handshake {
    fn of(
        headers: &HeaderMap,
        version: Version,
        query: &Query,
        ip: IpAddr,
        seat: Seat,
        shown: Shown,
    ) -> Self {
        let text = |name| {
            headers
                .get(name)
                .and_then(|value: &http::HeaderValue| value.to_str().ok())
        };
        let user_agent = text(header::USER_AGENT).unwrap_or_default();
        Self {
            ip,
            user_agent: user_agent.get(..256).unwrap_or(user_agent).into(),
            shown,
            seat: Mutex::new(Some(seat)),
            // Recovery is of Socket.IO v5, and python-engineio alone marks requests with fractions of seconds.
            recovers: version == Version::V4
                && !query.time.as_ref().is_some_and(|time| time.contains('.'))
                && !user_agent.starts_with("Dart/"),
            version,
            base64: query.base64,
        }
    }
}

/// An address that has asked for too much; `after` a while it may again.
fn too_many(after: Duration) -> Response<Body> {
    let error = ClientError::new(ErrorCode::RateLimited, "Too many requests");
    let mut response = reply::with_body(StatusCode::TOO_MANY_REQUESTS, "application/json", json(&error));
    let headers = response.headers_mut();
    headers.insert(header::RETRY_AFTER, (after.as_secs() + 1).into());
    headers.insert(header::CONNECTION, http::HeaderValue::from_static("close"));
    response
}

/// No session now, but `after` a while, perhaps at another gateway.
fn come_back(after: Duration) -> Response<Body> {
    let mut response = reply::empty(StatusCode::SERVICE_UNAVAILABLE);
    let headers = response.headers_mut();
    headers.insert(header::RETRY_AFTER, after.as_secs().max(1).into());
    // So that the next try may find another gateway.
    headers.insert(header::CONNECTION, http::HeaderValue::from_static("close"));
    response
}

fn is_websocket(headers: &HeaderMap) -> bool {
    headers
        .get(header::UPGRADE)
        .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"websocket"))
}

/// 20 URL-safe characters: the gateway's six and 84 bits of randomness.
fn new_sid(gateway: &GatewayId) -> Box<str> {
    let mut sid = String::with_capacity(20);
    sid.push_str(gateway.as_str());
    push_random(&mut sid, 14);
    sid.into()
}

/// Appends `count` random URL-safe characters, six bits each.
pub(crate) fn push_random(text: &mut String, count: usize) {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut random = rand::rng();
    text.extend((0..count).map(|_| char::from(ALPHABET[usize::from(random.random::<u8>() & 63)])));
}

#[derive(Default)]
struct Query {
    version: Option<String>,
    transport: Option<String>,
    sid: Option<String>,
    /// What clients add to get past caches.
    time: Option<String>,
    /// `b64=1`: a client of v3 that takes text alone over polling.
    base64: bool,
}

impl Query {
    fn parse(query: &str) -> Self {
        let mut parsed = Self::default();
        for (key, value) in query.split('&').filter_map(|pair| pair.split_once('=')) {
            let slot = match key {
                "EIO" => &mut parsed.version,
                "transport" => &mut parsed.transport,
                "t" => &mut parsed.time,
                "b64" => {
                    parsed.base64 = !matches!(value, "" | "0" | "false");
                    continue;
                }
                // An empty id is none, as in the reference.
                "sid" if !value.is_empty() => &mut parsed.sid,
                _ => continue,
            };
            if slot.is_none() {
                *slot = Some(value.to_owned());
            }
        }
        parsed
    }
}

const SHARDS: usize = 64;

/// Sessions by id, in shards so that connects do not queue for one lock.
struct Sessions {
    shards: [Mutex<HashMap<Box<str>, Arc<Conn>>>; SHARDS],
    count: std::sync::atomic::AtomicUsize,
}

impl Default for Sessions {
    fn default() -> Self {
        Self {
            shards: std::array::from_fn(|_| Mutex::default()),
            count: 0.into(),
        }
    }
}

impl Sessions {
    fn shard(&self, sid: &str) -> &Mutex<HashMap<Box<str>, Arc<Conn>>> {
        let last = sid.as_bytes().last_chunk::<2>().copied().unwrap_or_default();
        &self.shards[usize::from(u16::from_be_bytes(last)) % SHARDS]
    }

    fn insert(&self, conn: &Arc<Conn>) {
        self.shard(conn.sid())
            .lock()
            .insert(conn.sid().into(), Arc::clone(conn));
        self.count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    }

    fn get(&self, sid: &str) -> Option<Arc<Conn>> {
        self.shard(sid).lock().get(sid).cloned()
    }

    fn remove(&self, sid: &str) {
        if let Some(conn) = self.shard(sid).lock().remove(sid) {
            conn.handshake().seat.lock().take();
            self.count.fetch_sub(1, std::sync::atomic::Ordering::Relaxed);
        }
    }

    fn len(&self) -> usize {
        self.count.load(std::sync::atomic::Ordering::Relaxed)
    }

    fn all(&self) -> Vec<Arc<Conn>> {
        self.shards
            .iter()
            .flat_map(|shard| shard.lock().values().cloned().collect::<Vec<_>>())
            .collect()
    }
}
