//! A gateway's listener, certificates, and what several tests say.

use std::{net::SocketAddr, time::Duration};

use bytes::Bytes;
use delivery::{Arrival, Batch, Delivery, GatewayLink, LinkError, Receiver, tls::InternalTls};
use hyper::server::conn::http2;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use model::RoomToken;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use tempfile::TempDir;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
    task::{AbortHandle, JoinSet},
    time::timeout,
};
use tonic::service::Routes;

/// What may be under way on a stream, as at a gateway.
pub(crate) const WINDOW: usize = 1 << 20;
const PATIENCE: Duration = Duration::from_secs(30);

/// Serves gRPC on a free port until it is dropped.
pub(crate) struct Listener {
    addr: SocketAddr,
    accepting: AbortHandle,
}

impl Listener {
    pub(crate) async fn start(routes: Routes, tls: Option<InternalTls>) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let addr = listener.local_addr().unwrap();
        let router = routes.into_axum_router();
        #[expect(clippy::disallowed_methods, reason = "aborted when the listener is dropped")]
        let accepting = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                stream.set_nodelay(true).unwrap();
                let (router, tls) = (router.clone(), tls.clone());
                connections.spawn(async move {
                    match tls {
                        // Whoever is refused goes.
                        Some(tls) => {
                            if let Ok(stream) = tls.acceptor().accept(stream).await {
                                serve(stream, router).await;
                            }
                        }
                        None => serve(stream, router).await,
                    }
                });
            }
        });
        Self {
            addr,
            accepting: accepting.abort_handle(),
        }
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    pub(crate) fn address(&self) -> String {
        self.addr.to_string()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn serve(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, router: axum::Router) {
    let connection = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .initial_stream_window_size(WINDOW as u32)
        .initial_connection_window_size(4 * WINDOW as u32)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    // Connections end as the tests want them to.
    let _ = connection.await;
}

/// An authority, and one certificate of it that all roles share, as files.
pub(crate) struct Certificates {
    issuer: Issuer<'static, KeyPair>,
    names: Vec<String>,
    files: TempDir,
}

impl Certificates {
    /// The certificate is for these names and addresses.
    pub(crate) fn new(names: &[&str]) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = params.self_signed(&key).unwrap();
        let files = TempDir::new().unwrap();
        std::fs::write(files.path().join("ca.pem"), authority.pem()).unwrap();
        let certificates = Self {
            issuer: Issuer::new(params, key),
            names: names.iter().map(|&name| name.to_owned()).collect(),
            files,
        };
        certificates.renew();
        certificates
    }

    /// Another certificate of the same authority, with a key of its own.
    pub(crate) fn renew(&self) {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(self.names.clone())
            .unwrap()
            .signed_by(&key, &self.issuer)
            .unwrap();
        std::fs::write(self.path("cert.pem"), certificate.pem()).unwrap();
        std::fs::write(self.path("key.pem"), key.serialize_pem()).unwrap();
    }

    /// From now on the other's authority lies beside the certificate.
    pub(crate) fn trust(&self, other: &Self) {
        std::fs::copy(other.path("ca.pem"), self.path("ca.pem")).unwrap();
    }

    pub(crate) fn path(&self, name: &str) -> std::path::PathBuf {
        self.files.path().join(name)
    }

    pub(crate) fn load(&self) -> InternalTls {
        InternalTls::load(
            &self.path("cert.pem"),
            &self.path("key.pem"),
            &self.path("ca.pem"),
        )
        .unwrap()
    }
}

pub(crate) fn room() -> RoomToken {
    RoomToken::from_bytes(&[1; 16]).unwrap()
}

/// A batch of one event.
pub(crate) fn batch(seq: u64, bytes: usize) -> Batch {
    Batch {
        partition: 0,
        epoch: 1,
        after: seq - 1,
        through: seq,
        deliveries: vec![Delivery {
            seq,
            room: room(),
            record: Bytes::from(vec![seq as u8; bytes]),
        }],
        traces: Vec::new(),
    }
}

/// Receives until the partition has come so far; how many bytes of records came.
pub(crate) async fn through(receiver: &mut dyn Receiver, seq: u64) -> usize {
    let (mut arrivals, mut bytes, mut position) = (Vec::new(), 0, 0);
    while position < seq {
        assert!(soon(receiver.recv_many(&mut arrivals)).await);
        for arrival in arrivals.drain(..) {
            if let Arrival::Batch(batch) = arrival {
                assert!(batch.through > position);
                position = batch.through;
                let records = batch.deliveries.iter().map(|delivery| delivery.record.len());
                bytes += records.sum::<usize>();
            }
        }
    }
    bytes
}

/// Waits until the worker knows that the link is closed, without putting anything into it that counts.
pub(crate) async fn closed(link: &dyn GatewayLink) {
    let nothing = Batch {
        deliveries: Vec::new(),
        ..batch(1, 0)
    };
    soon(async {
        while link.deliver(nothing.clone()) != Err(LinkError::Closed) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}

pub(crate) async fn soon<T>(future: impl Future<Output = T>) -> T {
    let came = timeout(PATIENCE, future).await;
    came.unwrap_or_else(|_| unreachable!("it did not come within {PATIENCE:?}"))
}
