use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use anyhow::{Context, Result};
use http_body_util::{BodyExt, Full, combinators::BoxBody};
use hyper::{
    Request, Response, StatusCode, body::Bytes, body::Incoming, server, service::service_fn, upgrade,
};
use hyper_util::rt::TokioIo;
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    runtime::Runtime,
    task::JoinSet,
};

type Body = BoxBody<Bytes, hyper::Error>;

/// A load balancer that knows of no stickiness: each **request** goes to the next target, also those of one
/// connection; an upgraded connection is a tunnel. Ends when it is dropped.
pub struct RoundRobin {
    /// `http://127.0.0.1:PORT`.
    pub url: String,
    targets: Arc<Targets>,
    _runtime: Runtime,
}

struct Targets {
    addresses: Vec<SocketAddr>,
    next: AtomicUsize,
    /// Requests that a target did not answer.
    failures: AtomicUsize,
    requests: AtomicUsize,
}

impl RoundRobin {
    /// Listens on a free port.
    ///
    /// # Errors
    /// When there is none.
    pub fn start(addresses: Vec<SocketAddr>) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()?;
        let listener = runtime.block_on(TcpListener::bind(("127.0.0.1", 0)))?;
        let url = format!("http://{}", listener.local_addr()?);
        let targets = Arc::new(Targets {
            addresses,
            next: AtomicUsize::new(0),
            failures: AtomicUsize::new(0),
            requests: AtomicUsize::new(0),
        });
        runtime.spawn(accept(listener, Arc::clone(&targets)));
        Ok(Self {
            url,
            targets,
            _runtime: runtime,
        })
    }

    /// Requests that came, and those that a target did not answer.
    #[must_use]
    pub fn requests(&self) -> (usize, usize) {
        let read = |count: &AtomicUsize| count.load(Ordering::Relaxed);
        (read(&self.targets.requests), read(&self.targets.failures))
    }
}

async fn accept(listener: TcpListener, targets: Arc<Targets>) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let targets = Arc::clone(&targets);
        connections.spawn(async move {
            let service = service_fn(move |request| answer(request, Arc::clone(&targets)));
            let connection = server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .with_upgrades();
            // A client that hangs up is no failure of ours.
            let _ = connection.await;
        });
        while connections.try_join_next().is_some() {}
    }
}

async fn answer(request: Request<Incoming>, targets: Arc<Targets>) -> Result<Response<Body>, Infallible> {
    targets.requests.fetch_add(1, Ordering::Relaxed);
    let turn = targets.next.fetch_add(1, Ordering::Relaxed);
    let target = targets.addresses.get(turn % targets.addresses.len().max(1));
    match forward(request, target.copied()).await {
        Ok(response) => Ok(response),
        Err(error) => {
            targets.failures.fetch_add(1, Ordering::Relaxed);
            let text = Full::new(Bytes::from(format!("{error:#}")));
            let mut response = Response::new(text.map_err(|never| match never {}).boxed());
            *response.status_mut() = StatusCode::BAD_GATEWAY;
            Ok(response)
        }
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the tasks of a connection end with it, or with the proxy's runtime"
)]
async fn forward(mut request: Request<Incoming>, target: Option<SocketAddr>) -> Result<Response<Body>> {
    let stream = TcpStream::connect(target.context("no target")?).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection.with_upgrades());
    let client = upgrade::on(&mut request);
    let mut response = sender.send_request(request).await?;
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        let gateway = upgrade::on(&mut response);
        tokio::spawn(async move {
            let (client, gateway) = (client.await?, gateway.await?);
            // Either may hang up whenever it likes.
            let _ = copy_bidirectional(&mut TokioIo::new(client), &mut TokioIo::new(gateway)).await;
            anyhow::Ok(())
        });
    }
    Ok(response.map(BodyExt::boxed))
}
