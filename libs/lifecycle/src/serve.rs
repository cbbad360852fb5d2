//! HTTP listeners of operators and applications: HTTP/1.1 and HTTP/2, with TLS or without.

use std::{io, time::Duration};

use axum::Router;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::conn::auto,
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{Tasks, WriteTimeout, tls::ServerTls};

/// A TLS handshake, and a request's head, may take so long.
const PATIENCE: Duration = Duration::from_secs(10);
/// Who takes nothing of its answers for so long is sent away.
const UNREAD: Duration = Duration::from_secs(20);
/// Requests under way get so long at the end.
const DRAIN: Duration = Duration::from_secs(2);
/// A peer over HTTP/2 that answers no ping of this interval for as long again is gone.
const KEEP_ALIVE: Duration = Duration::from_secs(20);

/// Serves `router` until `stop`, then returns; connections are tasks of `tasks`, which finish the requests under way
/// within 2 s. gRPC comes over HTTP/2, with TLS by ALPN, without it by prior knowledge.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    tls: Option<ServerTls>,
    tasks: &Tasks,
    stop: CancellationToken,
) {
    while let Some(stream) = accept(&listener, &stop).await {
        let (router, tls, streams, stop) = (router.clone(), tls.clone(), tasks.clone(), stop.clone());
        tasks.spawn("http connection", async move {
            let served = match tls {
                None => connection(stream, router, streams, stop).await,
                Some(tls) => {
                    let handshake = timeout(PATIENCE, tls.acceptor().accept(stream));
                    match stop.run_until_cancelled(handshake).await {
                        Some(Ok(Ok(stream))) => connection(stream, router, streams, stop).await,
                        Some(Ok(Err(error))) => Err(error.into()),
                        Some(Err(late)) => Err(late.into()),
                        None => Ok(()),
                    }
                }
            };
            if let Err(error) = served {
                tracing::debug!(error, "a connection ended");
            }
        });
    }
}

async fn accept(listener: &TcpListener, stop: &CancellationToken) -> Option<TcpStream> {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => return None,
        };
        match accepted.and_then(|(stream, _)| stream.set_nodelay(true).map(|()| stream)) {
            Ok(stream) => return Some(stream),
            // Its peer has gone already.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => {
                // Out of descriptors, most likely: those there are go on, new ones wait.
                tracing::error!(%error, "cannot accept connections");
                sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn connection(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    router: Router,
    tasks: Tasks,
    stop: CancellationToken,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let mut builder = auto::Builder::new(Spawner(tasks));
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(PATIENCE);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE);
    let stream = TokioIo::new(WriteTimeout::new(stream, UNREAD));
    let connection = builder.serve_connection(stream, TowerToHyperService::new(router));
    tokio::pin!(connection);
    tokio::select! {
        result = &mut connection => result,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            // What never ends, such as a watch, must not keep the process.
            timeout(DRAIN, connection).await.unwrap_or(Ok(()))
        }
    }
}

/// Runs the streams of HTTP/2 connections.
#[derive(Clone)]
struct Spawner(Tasks);

impl<F: Future<Output = ()> + Send + 'static> hyper::rt::Executor<F> for Spawner {
    fn execute(&self, stream: F) {
        self.0.spawn("http stream", stream);
    }
}

#[cfg(test)]
mod tests {
    use std::{path::Path, sync::Arc, time::Duration};

    use axum::routing::get;
    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::{TcpListener, TcpStream},
    };
    use tokio_rustls::{
        TlsConnector,
        rustls::{
            ClientConfig, RootCertStore,
            crypto::ring,
            pki_types::{CertificateDer, ServerName},
        },
    };

    use super::*;

    struct Authority {
        issuer: Issuer<'static, KeyPair>,
        roots: Arc<RootCertStore>,
    }

    impl Authority {
        fn new() -> Self {
            let key = KeyPair::generate().unwrap();
            let mut params = CertificateParams::default();
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            let mut roots = RootCertStore::empty();
            roots
                .add(params.self_signed(&key).unwrap().der().clone())
                .unwrap();
            Self {
                issuer: Issuer::new(params, key),
                roots: Arc::new(roots),
            }
        }

        fn issue(&self, cert: &Path, key: &Path) {
            let pair = KeyPair::generate().unwrap();
            let params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
            let signed = params.signed_by(&pair, &self.issuer).unwrap();
            std::fs::write(cert, signed.pem()).unwrap();
            std::fs::write(key, pair.serialize_pem()).unwrap();
        }

        /// The answer to a request, and the certificate that was shown.
        async fn ask(&self, address: std::net::SocketAddr) -> (String, CertificateDer<'static>) {
            let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_root_certificates(Arc::clone(&self.roots))
                .with_no_client_auth();
            let stream = TcpStream::connect(address).await.unwrap();
            let name = ServerName::try_from("localhost").unwrap();
            let mut stream = TlsConnector::from(Arc::new(config))
                .connect(name, stream)
                .await
                .unwrap();
            let shown = stream.get_ref().1.peer_certificates().unwrap()[0].clone();
            stream
                .write_all(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
                .await
                .unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            (answer, shown)
        }
    }

    #[tokio::test]
    async fn over_tls_a_renewed_certificate_is_shown() {
        let files = tempfile::tempdir().unwrap();
        let (cert, key) = (files.path().join("cert.pem"), files.path().join("key.pem"));
        let authority = Authority::new();
        authority.issue(&cert, &key);
        let tls = ServerTls::load(&cert, &key, &[b"h2", b"http/1.1"]).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (tasks, stop) = (Tasks::new(), CancellationToken::new());
        let router = Router::new().route("/", get(async || "here"));
        let (connections, until, shows) = (tasks.clone(), stop.clone(), tls.clone());
        tasks.spawn("serve", async move {
            serve(listener, router, Some(shows), &connections, until).await;
        });

        // One that says nothing holds nobody up.
        let _silent = TcpStream::connect(address).await.unwrap();
        let (answer, first) = authority.ask(address).await;
        assert!(answer.ends_with("here"), "{answer}");
        assert!(!tls.identity().reload().unwrap());
        std::fs::write(&key, "").unwrap();
        tls.identity().reload().unwrap_err();
        assert_eq!(authority.ask(address).await.1, first);
        authority.issue(&cert, &key);
        assert!(tls.identity().reload().unwrap());
        assert_ne!(authority.ask(address).await.1, first);
        stop.cancel();
        tasks.shutdown(Duration::from_secs(30)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn who_reads_no_answer_is_sent_away() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (tasks, stop) = (Tasks::new(), CancellationToken::new());
        let router = Router::new().route("/", get(async || "here".repeat(1000)));
        let (connections, until) = (tasks.clone(), stop.clone());
        tasks.spawn("serve", async move {
            serve(listener, router, None, &connections, until).await;
        });
        let mut stream = TcpStream::connect(address).await.unwrap();
        let ask = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n".repeat(1000);
        let asking = async { while stream.write_all(&ask).await.is_ok() {} };
        timeout(UNREAD * 100, asking).await.unwrap();
        stop.cancel();
        tasks.shutdown(Duration::from_secs(30)).await;
    }
}
