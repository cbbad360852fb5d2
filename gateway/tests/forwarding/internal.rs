//! The internal listener: both protocols on one port, with and without TLS.

use std::{net::SocketAddr, sync::Arc};

use axum::body::Body;
use http::{Request, StatusCode};
use http_body_util::BodyExt;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{CertificateParams, Issuer, KeyPair};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::{
    TlsConnector,
    rustls::{
        ClientConfig, RootCertStore, ServerConfig,
        crypto::ring,
        pki_types::{PrivateKeyDer, ServerName},
        server::WebPkiClientVerifier,
    },
};

use crate::{
    client::{Said, WebSocket, get, open, post, upgrade},
    stage::{CALM, MAX_PAYLOAD, Node, Tls, cluster, until},
};

/// An authority and one certificate of it for 127.0.0.1, which both sides must show.
fn tls() -> Tls {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let authority = params.self_signed(&key).unwrap();
    let issuer = Issuer::new(params, key);
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(vec!["127.0.0.1".to_owned()])
        .unwrap()
        .signed_by(&key, &issuer)
        .unwrap();
    let chain = vec![certificate.der().clone()];
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();

    let mut roots = RootCertStore::empty();
    roots.add(authority.der().clone()).unwrap();
    let roots = Arc::new(roots);
    let provider = Arc::new(ring::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(&provider))
        .build()
        .unwrap();
    let server = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain.clone(), key.clone_key())
        .unwrap();
    let client = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)
        .unwrap();
    Tls {
        server: Arc::new(server),
        client: Arc::new(client),
    }
}

async fn calls(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .unwrap();
    let call = Request::post("http://internal/fanfare.v1.Any/Call")
        .body(Body::empty())
        .unwrap();
    let called = async {
        let answer = sender.send_request(call).await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK);
        assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "called");
    };
    tokio::select! {
        () = called => {}
        _ = connection => panic!("the connection has ended"),
    }
}

async fn http2_over_tls(to: SocketAddr, tls: &Tls) {
    let mut config = ClientConfig::clone(&tls.client);
    config.alpn_protocols = vec![b"h2".to_vec()];
    let name = ServerName::try_from("127.0.0.1").unwrap();
    let stream = TcpStream::connect(to).await.unwrap();
    let stream = TlsConnector::from(Arc::new(config))
        .connect(name, stream)
        .await
        .unwrap();
    calls(stream).await;
}

#[tokio::test]
async fn grpc_and_forwarded_requests_share_the_port() {
    let (_, [node]) = cluster(CALM, None).await;
    let sid = open(node.public).await;
    assert_eq!(post(node.internal, &sid, "4x").await.status, 200);
    calls(TcpStream::connect(node.internal).await.unwrap()).await;
    assert_eq!(get(node.internal, &sid).await.body, "4x");
}

#[tokio::test]
async fn a_first_line_in_pieces_is_waited_for() {
    let (_, [node]) = cluster(CALM, None).await;
    // Begins as the preface of HTTP/2 does.
    let mut stream = TcpStream::connect(node.internal).await.unwrap();
    stream.set_nodelay(true).unwrap();
    for piece in ["P", "OST /nothing HTTP/1.1\r\nhost: x\r\n", "\r\n"] {
        stream.write_all(piece.as_bytes()).await.unwrap();
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 404");
}

#[tokio::test]
async fn forwarding_and_grpc_over_tls() {
    let tls = tls();
    let (_, nodes) = cluster(CALM, Some(tls.clone())).await;
    let [owner, other]: &[Node; 2] = &nodes;
    http2_over_tls(owner.internal, &tls).await;

    let sid = open(owner.public).await;
    assert_eq!(post(other.public, &sid, "4x").await.body, "ok");
    assert_eq!(get(other.public, &sid).await.body, "4x");
    let mut socket = upgrade(other.public, other.public, &sid).await;
    let large = format!("4{}", "x".repeat(MAX_PAYLOAD - 1));
    for message in ["4hello", &large, "4again"] {
        socket.send(message).await;
        socket.expect(message).await;
    }
    let mut second = WebSocket::attach(other.public, &sid).await.ok().unwrap();
    assert_eq!(second.next().await, Said::Closed);
    drop(socket);
    until(|| owner.engine.connections() == 0).await;
    assert_eq!(
        other.forwards("polling", "gone") + other.forwards("upgrade", "gone"),
        0
    );
}

#[tokio::test]
async fn who_shows_no_certificate_is_not_served() {
    let (_, [node]) = cluster(CALM, Some(tls())).await;
    let mut plain = TcpStream::connect(node.internal).await.unwrap();
    plain
        .write_all(b"GET /engine.io/ HTTP/1.1\r\nhost: x\r\n\r\n")
        .await
        .unwrap();
    let mut answer = Vec::new();
    let _ = plain.read_to_end(&mut answer).await;
    assert!(!answer.starts_with(b"HTTP"));
}
