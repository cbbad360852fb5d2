//! The internal listener: gRPC of the other roles over HTTP/2, and requests that other gateways forward
//! over HTTP/1.1, on one port.

use std::{convert::Infallible, io, net::IpAddr, sync::Arc, time::Duration};

use ::http::{Request, Response, StatusCode};
use axum::{Router, body::Body};
use hyper::{
    body::Incoming,
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use lifecycle::{Tasks, WriteTimeout};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    time::{sleep, timeout},
};
use tokio_rustls::{TlsAcceptor, rustls::ServerConfig};
use tokio_util::sync::CancellationToken;

use crate::http::{HttpOptions, Mount, accept};

/// What every HTTP/2 connection begins with (RFC 9113 section 3.4), as far as no HTTP/1.1 request does.
const PREFACE: &[u8] = b"PRI * HTTP/2.0";
/// Idle connections of other gateways are kept for longer than those gateways keep them, so that no
/// request meets a connection that is being closed.
const IDLE: Duration = Duration::from_secs(90);
/// The header that a forwarding gateway adds has room in this.
const EXTRA_HEAD: usize = 1024;
/// Bytes that may be under way on one stream and on one connection: deliveries come over a few fat streams.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 4 << 20;
/// A peer over HTTP/2 that answers no ping of this interval for as long again is gone.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// What the internal listener serves.
pub struct Internal {
    /// Where forwarded requests go, by path.
    pub mounts: Vec<Mount>,
    /// Limits of forwarded requests, and how long a TLS handshake and the first bytes may take.
    pub options: HttpOptions,
    /// gRPC services.
    pub grpc: Router,
    /// TLS, with client certificates if it asks for them; plain TCP without. ALPN is set here.
    pub tls: Option<Arc<ServerConfig>>,
}

/// Accepts connections of the other roles until `stop`. Those accepted go on as tasks of `tasks`: requests
/// under way are answered, connections are closed after them.
///
/// Whoever reaches this listener is believed about the address of the client whose request it forwards.
pub async fn serve_internal(
    listener: TcpListener,
    internal: Internal,
    tasks: &Tasks,
    stop: CancellationToken,
) {
    let Internal {
        mounts,
        options,
        grpc,
        tls,
    } = internal;
    let served = Arc::new(Served {
        mounts,
        options,
        grpc,
        tls: tls.map(with_alpn),
        tasks: tasks.clone(),
        stop: stop.clone(),
    });
    while let Some((stream, peer)) = accept(&listener, &stop).await {
        let served = Arc::clone(&served);
        tasks.spawn("internal connection", async move {
            let ip = peer.ip();
            let result = match served.begin(stream).await {
                Ok(Begun::Http1(stream)) => served.forwarded(stream, ip).await,
                Ok(Begun::Http1Tls(stream)) => served.forwarded(*stream, ip).await,
                Ok(Begun::Http2(stream)) => served.grpc(stream).await,
                Ok(Begun::Http2Tls(stream)) => served.grpc(*stream).await,
                Err(error) => {
                    tracing::warn!(%error, %ip, "an internal connection was not understood");
                    return;
                }
            };
            if let Err(error) = result {
                tracing::debug!(%error, %ip, "an internal connection ended");
            }
        });
    }
}

type TlsStream = Box<tokio_rustls::server::TlsStream<TcpStream>>;

/// A connection whose protocol is known. Streams keep their own types: a forwarded WebSocket is written
/// to directly where it is plain TCP.
enum Begun {
    Http1(TcpStream),
    Http1Tls(TlsStream),
    Http2(TcpStream),
    Http2Tls(TlsStream),
}

struct Served {
    mounts: Vec<Mount>,
    options: HttpOptions,
    grpc: Router,
    tls: Option<TlsAcceptor>,
    tasks: Tasks,
    stop: CancellationToken,
}

impl Served {
    async fn begin(&self, stream: TcpStream) -> io::Result<Begun> {
        let begin = async {
            let Some(tls) = &self.tls else {
                return Ok(if speaks_http2(&stream).await? {
                    Begun::Http2(stream)
                } else {
                    Begun::Http1(stream)
                });
            };
            let stream = Box::new(tls.accept(stream).await?);
            let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
            Ok(if http2 {
                Begun::Http2Tls(stream)
            } else {
                Begun::Http1Tls(stream)
            })
        };
        let limit = self.options.handshake_timeout;
        timeout(limit, begin)
            .await
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }

    async fn forwarded(
        self: &Arc<Self>,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        ip: IpAddr,
    ) -> hyper::Result<()> {
        let served = Arc::clone(self);
        let service = service_fn(move |request: Request<Incoming>| {
            let served = Arc::clone(&served);
            async move { Ok::<_, Infallible>(served.answer(request, ip).await) }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(IDLE)
            .max_buf_size(self.options.max_header_bytes + EXTRA_HEAD)
            .serve_connection(
                TokioIo::new(WriteTimeout::new(stream, self.options.unread_timeout)),
                service,
            )
            .with_upgrades();
        tokio::pin!(connection);
        tokio::select! {
            result = &mut connection => result,
            () = self.stop.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        }
    }

    async fn answer(&self, request: Request<Incoming>, ip: IpAddr) -> Response<Body> {
        match self
            .mounts
            .iter()
            .find(|mount| mount.path == request.uri().path())
        {
            Some(mount) => mount.engine.serve_forwarded(request, ip).await,
            None => {
                let mut response = Response::new(Body::empty());
                *response.status_mut() = StatusCode::NOT_FOUND;
                response
            }
        }
    }

    async fn grpc(&self, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> hyper::Result<()> {
        let connection = http2::Builder::new(Spawner(self.tasks.clone()))
            .timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE)
            .serve_connection(TokioIo::new(stream), TowerToHyperService::new(self.grpc.clone()));
        tokio::pin!(connection);
        tokio::select! {
            result = &mut connection => result,
            () = self.stop.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        }
    }
}

/// Whether a connection begins as HTTP/2 does. Looks only; whoever serves it reads it all.
async fn speaks_http2(stream: &TcpStream) -> io::Result<bool> {
    let mut head = [0; PREFACE.len()];
    loop {
        let seen = stream.peek(&mut head).await?;
        if seen == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if head[..seen] != PREFACE[..seen] {
            return Ok(false);
        }
        if seen == PREFACE.len() {
            return Ok(true);
        }
        // It stays readable while the rest is on its way.
        sleep(Duration::from_millis(1)).await;
    }
}

fn with_alpn(tls: Arc<ServerConfig>) -> TlsAcceptor {
    let mut tls = Arc::unwrap_or_clone(tls);
    tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    TlsAcceptor::from(Arc::new(tls))
}

/// Runs the streams of HTTP/2 connections.
#[derive(Clone)]
struct Spawner(Tasks);

impl<F: Future<Output = ()> + Send + 'static> hyper::rt::Executor<F> for Spawner {
    fn execute(&self, stream: F) {
        self.0.spawn("internal gRPC call", stream);
    }
}
