//! The public listener: HTTP/1.1 connections, each request to the Engine.IO server of its path or to
//! the router for everything else.

use std::{
    convert::Infallible,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use ::http::{Request, Response};
use axum::{Router, body::Body};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use lifecycle::Tasks;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use crate::{proxies::Proxies, transport::EngineServer};

/// Settings of the public listener.
#[derive(Clone, Debug)]
pub struct HttpOptions {
    /// How long a client may take to send a request's head.
    pub handshake_timeout: Duration,
    /// Bytes of a request's head, at most; at least 8192.
    pub max_header_bytes: usize,
    /// Whose word on clients' addresses counts.
    pub proxies: Proxies,
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
    let origin = options
        .proxies
        .origin(&mut stream, peer, options.handshake_timeout);
    let ip = match origin.await {
        Ok(ip) => ip,
        Err(error) => {
            tracing::debug!(%error, %peer, "a connection does not begin as it must");
            return;
        }
    };
    let proxies = options.proxies;
    let service = service_fn(move |request: Request<Incoming>| {
        let mounts = Arc::clone(&mounts);
        let others = others.clone();
        let client = proxies.client(ip, request.headers());
        async move { Ok::<_, Infallible>(answer(request, client, &mounts, others).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(options.handshake_timeout)
        .max_buf_size(options.max_header_bytes)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    tokio::pin!(connection);
    let result = tokio::select! {
        result = &mut connection => result,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = result {
        tracing::debug!(%error, %ip, "a connection ended");
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
