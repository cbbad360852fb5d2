//! What every answer to a client says to browsers, plain and over TLS that the gateway ends itself.
#![allow(clippy::unwrap_used, missing_docs, reason = "tests")]

mod alone;

use std::{path::Path, sync::Arc, time::Duration};

use config::{Config, Role};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::{
    TlsConnector,
    client::TlsStream,
    rustls::{ClientConfig, RootCertStore, crypto::ring},
};

const PATIENCE: Duration = Duration::from_secs(20);
const HANDSHAKE: &str = "/socket.io/?EIO=4&transport=polling";

/// Writes a certificate of 127.0.0.1 and its key; who trusts it.
fn certificate(cert: &Path, key: &Path) -> ClientConfig {
    let authority = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, "authority");
    let mut roots = RootCertStore::empty();
    roots
        .add(params.self_signed(&authority).unwrap().der().clone())
        .unwrap();
    let pair = KeyPair::generate().unwrap();
    let signed = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    let signed = signed.signed_by(&pair, &Issuer::new(params, authority)).unwrap();
    std::fs::write(cert, signed.pem()).unwrap();
    std::fs::write(key, pair.serialize_pem()).unwrap();
    ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth()
}

/// The head of the answer to a GET, in lower case.
async fn head(mut stream: impl AsyncRead + AsyncWrite + Unpin, path: &str) -> String {
    let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let read = stream.read_to_end(&mut answer);
    tokio::time::timeout(PATIENCE, read).await.unwrap().unwrap();
    let answer = String::from_utf8(answer).unwrap().to_lowercase();
    answer.split_once("\r\n\r\n").unwrap().0.to_owned()
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
}

/// What browsers must not make of an answer, whatever it is.
fn is_secured(head: &str) {
    for (name, value) in [
        ("x-content-type-options", "nosniff"),
        ("x-frame-options", "deny"),
        ("referrer-policy", "no-referrer"),
    ] {
        assert_eq!(header(head, name), Some(value), "{name} of\n{head}");
    }
}

#[tokio::test]
async fn plain_answers_promise_no_tls() {
    let bench = alone::start(Config::for_tests(Role::Standalone)).await;
    for path in [HANDSHAKE, "/socket.io/?EIO=4", "/nowhere"] {
        let head = head(TcpStream::connect(bench.addr).await.unwrap(), path).await;
        is_secured(&head);
        assert_eq!(header(&head, "strict-transport-security"), None, "{head}");
        if path == HANDSHAKE {
            let cookie = header(&head, "set-cookie").unwrap();
            assert!(
                cookie.contains("httponly") && !cookie.contains("secure"),
                "{cookie}"
            );
        }
    }
    bench.stop().await;
}

#[tokio::test]
async fn answers_over_tls_hold_browsers_to_it() {
    let files = tempfile::tempdir().unwrap();
    let (cert, key) = (files.path().join("cert.pem"), files.path().join("key.pem"));
    let connector = TlsConnector::from(Arc::new(certificate(&cert, &key)));
    let mut config = Config::for_tests(Role::Standalone);
    config.gateway.tls_cert = Some(cert);
    config.gateway.tls_key = Some(key);
    let bench = alone::start(config).await;
    let connect = async || -> TlsStream<TcpStream> {
        let stream = TcpStream::connect(bench.addr).await.unwrap();
        connector
            .connect("127.0.0.1".try_into().unwrap(), stream)
            .await
            .unwrap()
    };
    for path in [HANDSHAKE, "/socket.io/?EIO=4", "/nowhere"] {
        let head = head(connect().await, path).await;
        is_secured(&head);
        assert_eq!(
            header(&head, "strict-transport-security"),
            Some("max-age=31536000"),
            "{head}"
        );
        if path == HANDSHAKE {
            let cookie = header(&head, "set-cookie").unwrap();
            assert!(
                cookie.contains("httponly") && cookie.contains("; secure"),
                "{cookie}"
            );
        }
    }
    bench.stop().await;
}
