//! The public listener: HTTP/1.1 connections, each request to the Engine.IO server of its path or to
//! the router for everything else.

use std::{
    convert::Infallible,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use ::http::{HeaderMap, HeaderValue, Request, Response, header, uri::Scheme};
use axum::{Router, body::Body};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use lifecycle::{Tasks, WriteTimeout, tls::ServerTls};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    time::timeout,
};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use crate::{proxies::Proxies, transport::EngineServer};

/// Settings of the public listener.
#[derive(Clone, Debug)]
pub struct HttpOptions {
    /// How long a client may take to send a request's head.
    pub handshake_timeout: Duration,
    /// How long a client may take nothing of an answer; a WebSocket is bounded by its queue and its pings instead.
    pub unread_timeout: Duration,
    /// Bytes of a request's head, at most; at least 8192.
    pub max_header_bytes: usize,
    /// Whose word on clients' addresses counts.
    pub proxies: Proxies,
    /// Without, connections are plain.
    pub tls: Option<ServerTls>,
}

/// An Engine.IO server and the path it answers, e.g. `/socket.io/`.
#[derive(Clone)]
pub struct Mount {
    /// With the trailing slash.
    pub path: String,
    /// Answers the path.
    pub engine: Arc<EngineServer>,
}

/// The address of the client, as an extension of requests that go to the router.
#[derive(Copy, Clone)]
pub(crate) struct ClientAddress(pub(crate) IpAddr);

/// Accepts connections until `stop`. Those accepted go on as tasks of `tasks`.
pub async fn serve(
    listener: TcpListener,
    mounts: Vec<Mount>,
    options: HttpOptions,
    others: Router,
    tasks: &Tasks,
    stop: CancellationToken,
) {
    let mounts: Arc<[Mount]> = mounts.into();
    while let Some((stream, peer)) = accept(&listener, &stop).await {
        let connection = connection(
            stream,
            peer.ip(),
            Arc::clone(&mounts),
            options.clone(),
            others.clone(),
            stop.clone(),
        );
        tasks.spawn("http connection", connection);
    }
}

/// The next connection; `None` once `stop` is told.
pub(crate) async fn accept(
    listener: &TcpListener,
    stop: &CancellationToken,
) -> Option<(TcpStream, SocketAddr)> {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => return None,
        };
        match accepted {
            // Small packets must not wait for the acknowledgement of those before.
            Ok((stream, peer)) if stream.set_nodelay(true).is_ok() => return Some((stream, peer)),
            Ok(_) => {}
            Err(error) => {
                // Out of descriptors, most likely: those there are go on, new ones wait.
                tracing::error!(%error, "cannot accept connections");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// `GET /health` (CONTRACT section 5): `draining` once `stop` is told.
pub fn health(environment: &str, port: u16, stop: CancellationToken) -> Router {
    let begun = std::time::Instant::now();
    let environment = environment.to_owned();
    let answer = move || async move {
        axum::Json(serde_json::json!({
            "status": if stop.is_cancelled() { "draining" } else { "ok" },
            "service": "fanfare",
            "uptime": begun.elapsed().as_secs(),
            "port": port,
            "environment": environment,
            "version": env!("CARGO_PKG_VERSION"),
        }))
    };
    Router::new().route("/health", axum::routing::get(answer))
}

/// Answers the requests of one connection from `peer` until it ends; from `stop` on no further one.
pub(crate) async fn connection(
    mut stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    peer: IpAddr,
    mounts: Arc<[Mount]>,
    options: HttpOptions,
    others: Router,
    stop: CancellationToken,
) {
    let begins = options
        .proxies
        .origin(&mut stream, peer, options.handshake_timeout);
    let served = match (begins.await, options.tls.clone()) {
        (Ok(ip), None) => Ok(requests(stream, ip, Scheme::HTTP, mounts, options, others, stop).await),
        (Ok(ip), Some(tls)) => {
            match timeout(options.handshake_timeout, tls.acceptor().accept(stream)).await {
                Ok(Ok(stream)) => {
                    Ok(Box::pin(requests(stream, ip, Scheme::HTTPS, mounts, options, others, stop)).await)
                }
                Ok(Err(error)) => Err(error),
                Err(late) => Err(late.into()),
            }
        }
        (Err(error), _) => Err(error),
    };
    match served {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, %peer, "a connection ended"),
        Err(error) => tracing::debug!(%error, %peer, "a connection does not begin as it must"),
    }
}

/// Answers the requests of a connection that comes from `ip`.
async fn requests(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    ip: IpAddr,
    scheme: Scheme,
    mounts: Arc<[Mount]>,
    options: HttpOptions,
    others: Router,
    stop: CancellationToken,
) -> hyper::Result<()> {
    let proxies = options.proxies;
    let service = service_fn(move |mut request: Request<Incoming>| {
        let mounts = Arc::clone(&mounts);
        let others = others.clone();
        let client = proxies.client(ip, request.headers());
        let is_tls = scheme == Scheme::HTTPS;
        if is_tls || proxies.ended_tls(ip, request.headers()) {
            request.extensions_mut().insert(Scheme::HTTPS);
        }
        async move {
            let mut response = answer(request, client, &mounts, others).await;
            secure(response.headers_mut(), is_tls);
            Ok::<_, Infallible>(response)
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(options.handshake_timeout)
        .max_buf_size(options.max_header_bytes)
        .serve_connection(
            TokioIo::new(WriteTimeout::new(stream, options.unread_timeout)),
            service,
        )
        .with_upgrades();
    tokio::pin!(connection);
    tokio::select! {
        result = &mut connection => result,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    }
}

/// What browsers must not make of an answer; whoever knows better has said so already.
fn secure(headers: &mut HeaderMap, is_tls: bool) {
    let rules = [
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::REFERRER_POLICY, "no-referrer"),
    ];
    for (name, value) in rules {
        headers.entry(name).or_insert(HeaderValue::from_static(value));
    }
    if is_tls {
        headers
            .entry(header::STRICT_TRANSPORT_SECURITY)
            .or_insert(HeaderValue::from_static("max-age=31536000"));
    }
}

async fn answer(
    mut request: Request<Incoming>,
    ip: IpAddr,
    mounts: &[Mount],
    others: Router,
) -> Response<Body> {
    match mounts.iter().find(|mount| mount.path == request.uri().path()) {
        Some(mount) => mount.engine.serve(request, ip).await,
        None => {
            request.extensions_mut().insert(ClientAddress(ip));
            match others.oneshot(request).await {
                Ok(response) => response,
                Err(never) => match never {},
            }
        }
    }
}
