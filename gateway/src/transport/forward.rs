//! Requests for sessions of other gateways: handed on to the owner in one hop, over HTTP/1.1 to its
//! internal listener. Polling as a request, an upgrade as a tunnel.

use std::{
    io,
    net::IpAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use axum::body::Body;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, Uri, Version, header, uri};
use http_body_util::Empty;
use hyper::{
    body::{Body as HttpBody, Frame, Incoming, SizeHint},
    client::conn::http1,
};
use hyper_util::{
    client::legacy::{Client, connect::Connected, connect::Connection},
    rt::{TokioIo, TokioTimer},
};
use lifecycle::Tasks;
use sio::engine::{HandshakeError, Timing};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{
    TlsConnector,
    client::TlsStream,
    rustls::{ClientConfig, pki_types::ServerName},
};
use tokio_util::sync::CancellationToken;

use super::{tunnel, ws};
use crate::{metrics::Metrics, peers::Peers};

/// Tells the owner the client's address. Believed on the internal listener only.
pub(crate) const CLIENT_IP: HeaderName = HeaderName::from_static("x-fanfare-client-ip");
/// An owner that does not take a connection in this time is gone.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// Beyond the longest time a healthy owner may keep a poll waiting.
const HEAD_SLACK: Duration = Duration::from_secs(5);
/// Idle connections to one owner. Every poll that waits has one of its own.
const IDLE_CONNECTIONS: usize = 256;
/// Well below the time after which an internal listener closes an idle connection.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
/// What concerns one connection only (RFC 9110 section 7.6.1), and `Expect`, which the listener that took
/// the request has answered.
const HOP_BY_HOP: [HeaderName; 7] = [
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    header::EXPECT,
];

/// Hands requests on to the gateways that own their sessions.
pub struct Forwarder {
    peers: Arc<Peers>,
    connector: Connector,
    pool: Client<Connector, Capped>,
    tasks: Tasks,
    closed: CancellationToken,
}

/// Why a request could not be handed on.
enum Failure {
    /// The owner is not there (any more).
    Gone,
    /// The owner is there and does not answer.
    Late,
}

impl Forwarder {
    /// Forwards to the owners that `peers` knows, over TLS where `tls` is given: the certificate of an
    /// owner must be for the host of its address. Connections run as tasks of `tasks`.
    #[must_use]
    pub fn new(peers: Arc<Peers>, tls: Option<Arc<ClientConfig>>, tasks: Tasks) -> Arc<Self> {
        let connector = Connector {
            tls: tls.map(http1_only),
        };
        let pool = Client::builder(Spawner(tasks.clone()))
            .timer(TokioTimer::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_TIMEOUT)
            .pool_max_idle_per_host(IDLE_CONNECTIONS)
            .build(connector.clone());
        Arc::new(Self {
            peers,
            connector,
            pool,
            tasks,
            closed: CancellationToken::new(),
        })
    }

    /// Where the owner of a session listens; `None` when nobody who is there owns it.
    pub(super) fn owner(&self, gateway: &str) -> Option<Arc<str>> {
        self.peers.address_of(gateway)
    }

    /// Cuts the tunnels, so that their clients come back elsewhere, and makes no new ones. Requests under
    /// way go on.
    pub fn close(&self) {
        self.closed.cancel();
    }

    /// Hands a polling request on; the answer comes back as the owner gave it. Dropped, it closes the
    /// connection to the owner, for whom the client has hung up then.
    pub(super) async fn request(
        &self,
        owner: &str,
        request: Request<Incoming>,
        ip: IpAddr,
        timing: &Timing,
        max_payload: usize,
        metrics: &Metrics,
    ) -> Result<Response<Body>, HandshakeError> {
        let (mut head, body) = request.into_parts();
        head.uri = uri_at(owner, &head.uri).ok_or(HandshakeError::BadRequest)?;
        head.version = Version::HTTP_11;
        if head.headers.contains_key(header::TRANSFER_ENCODING) {
            head.headers.remove(header::CONTENT_LENGTH);
        }
        prepare(&mut head.headers, ip);
        let body = Capped {
            body,
            left: max_payload.saturating_add(1),
        };
        let answer = self.pool.request(Request::from_parts(head, body));
        let answer = match timeout(head_timeout(timing), answer).await {
            Ok(Ok(mut answer)) => {
                strip(answer.headers_mut());
                Ok(answer.map(Body::new))
            }
            Ok(Err(error)) => {
                tracing::debug!(%error, owner, "a request could not be forwarded");
                Err(Failure::Gone)
            }
            Err(_) => Err(Failure::Late),
        };
        settle("polling", answer, owner, metrics)
    }

    /// Hands an upgrade on over a connection of its own. Once the owner has switched protocols a task
    /// copies the bytes, until one side ends or [`Forwarder::close`].
    pub(super) async fn upgrade(
        &self,
        owner: &str,
        mut request: Request<Incoming>,
        ip: IpAddr,
        timing: &Timing,
        metrics: &Metrics,
    ) -> Result<Response<Body>, HandshakeError> {
        if self.closed.is_cancelled() {
            return Err(HandshakeError::SessionIdUnknown);
        }
        let client = hyper::upgrade::on(&mut request);
        let (mut head, _) = request.into_parts();
        head.uri = uri_at(owner, &head.uri)
            .and_then(|uri| uri.path_and_query().cloned())
            .map(Uri::from)
            .ok_or(HandshakeError::BadRequest)?;
        head.version = Version::HTTP_11;
        if !head.headers.contains_key(header::HOST)
            && let Ok(host) = HeaderValue::from_str(owner)
        {
            head.headers.insert(header::HOST, host);
        }
        prepare(&mut head.headers, ip);
        head.headers.remove(header::CONTENT_LENGTH);
        head.headers
            .insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        head.headers
            .insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        let head = Request::from_parts(head, Empty::new());

        let asked = timeout(head_timeout(timing), self.ask(owner, head)).await;
        let answer = asked.unwrap_or(Err(Failure::Late)).map(|mut answer| {
            if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
                let owner = hyper::upgrade::on(&mut answer);
                let (closed, tasks) = (self.closed.clone(), self.tasks.clone());
                self.tasks.spawn("forwarded websocket", async move {
                    let copy = async {
                        let Ok(owner) = owner.await else { return };
                        let Ok(owner) = owner.downcast::<TokioIo<PeerStream>>() else {
                            return;
                        };
                        let Some((client, early)) = ws::stream(client, &tasks).await else {
                            return;
                        };
                        tunnel::run(client, early, owner.io.into_inner(), owner.read_buf).await;
                    };
                    closed.run_until_cancelled(copy).await;
                });
            } else {
                strip(answer.headers_mut());
                answer
                    .headers_mut()
                    .insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            answer.map(Body::new)
        });
        settle("upgrade", answer, owner, metrics)
    }

    async fn ask(&self, owner: &str, request: Request<Empty<Bytes>>) -> Result<Response<Incoming>, Failure> {
        let gone = |error: &dyn std::fmt::Display| {
            tracing::debug!(%error, owner, "an upgrade could not be forwarded");
            Failure::Gone
        };
        let stream = self
            .connector
            .connect(owner)
            .await
            .map_err(|error| gone(&error))?;
        let (mut sender, connection) = http1::handshake(stream).await.map_err(|error| gone(&error))?;
        self.tasks.background("forwarded upgrade", async move {
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!(%error, "a forwarded upgrade ended");
            }
        });
        sender.send_request(request).await.map_err(|error| gone(&error))
    }
}

/// Counts the outcome. What did not reach the owner is, for the client, a session that nobody knows.
fn settle(
    kind: &'static str,
    answer: Result<Response<Body>, Failure>,
    owner: &str,
    metrics: &Metrics,
) -> Result<Response<Body>, HandshakeError> {
    let result = match &answer {
        Ok(_) => "ok",
        Err(Failure::Gone) => "gone",
        Err(Failure::Late) => {
            tracing::warn!(owner, kind, "the owner of a session does not answer");
            "failed"
        }
    };
    metrics.forwarded(kind, result);
    answer.map_err(|_| HandshakeError::SessionIdUnknown)
}

fn head_timeout(timing: &Timing) -> Duration {
    timing.ping_interval + timing.ping_timeout + HEAD_SLACK
}

fn uri_at(owner: &str, of: &Uri) -> Option<Uri> {
    uri::Builder::new()
        .scheme(uri::Scheme::HTTP)
        .authority(owner)
        .path_and_query(of.path_and_query()?.clone())
        .build()
        .ok()
}

fn prepare(headers: &mut HeaderMap, ip: IpAddr) {
    strip(headers);
    if let Ok(ip) = HeaderValue::try_from(ip.to_string()) {
        headers.insert(CLIENT_IP, ip);
    }
}

/// Takes away what concerns the connection only, what `Connection` names included.
fn strip(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    headers.remove(header::CONNECTION);
    for name in named.iter().chain(&HOP_BY_HOP) {
        headers.remove(name);
    }
}

/// The client configuration for HTTP/1.1, whatever else it was made for.
fn http1_only(tls: Arc<ClientConfig>) -> TlsConnector {
    let mut tls = Arc::unwrap_or_clone(tls);
    tls.alpn_protocols = vec![b"http/1.1".to_vec()];
    TlsConnector::from(Arc::new(tls))
}

/// A request's body, at most one byte more than the owner takes. Whoever sends more is told so (413), and
/// only an answer that crosses no bytes still under way is sure to arrive: so nothing more is sent then.
struct Capped {
    body: Incoming,
    left: usize,
}

impl HttpBody for Capped {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        if self.left == 0 {
            return Poll::Pending;
        }
        let frame = Pin::new(&mut self.body).poll_frame(context);
        frame.map_ok(|frame| match frame.into_data() {
            Ok(mut data) => {
                data.truncate(self.left);
                self.left -= data.len();
                Frame::data(data)
            }
            Err(other) => other,
        })
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Makes connections to internal listeners.
#[derive(Clone)]
struct Connector {
    tls: Option<TlsConnector>,
}

impl Connector {
    /// `address` is `host:port`.
    async fn connect(&self, address: &str) -> io::Result<TokioIo<PeerStream>> {
        let connect = async {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            let Some(tls) = &self.tls else {
                return Ok(PeerStream::Plain(stream));
            };
            let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
            let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
            let name = ServerName::try_from(host).map_err(io::Error::other)?;
            Ok(PeerStream::Tls(Box::new(tls.connect(name, stream).await?)))
        };
        let connected = timeout(CONNECT_TIMEOUT, connect).await;
        connected
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
            .map(TokioIo::new)
    }
}

impl tower::Service<Uri> for Connector {
    type Response = TokioIo<PeerStream>;
    type Error = io::Error;
    type Future = BoxFuture<'static, io::Result<TokioIo<PeerStream>>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let connector = self.clone();
        Box::pin(async move {
            let address = uri.authority().map(uri::Authority::as_str);
            connector.connect(address.unwrap_or_default()).await
        })
    }
}

/// A connection to an internal listener.
enum PeerStream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Connection for PeerStream {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl AsyncRead for PeerStream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(context, buffer),
            Self::Tls(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for PeerStream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(context, data),
            Self::Tls(stream) => Pin::new(stream).poll_write(context, data),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(context),
            Self::Tls(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}

/// Runs the pool's connections.
#[derive(Clone)]
struct Spawner(Tasks);

impl<F: Future<Output = ()> + Send + 'static> hyper::rt::Executor<F> for Spawner {
    fn execute(&self, connection: F) {
        self.0.background("forwarding connection", connection);
    }
}
