//! TLS of the wired program: every listener shows its certificate, and a renewed one without a restart.
#![allow(clippy::unwrap_used, missing_docs, reason = "tests")]

use std::{net::SocketAddr, path::Path, process::Command, sync::Arc, time::Duration};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use servers::Process;
use tokio::net::TcpStream;
use tokio_rustls::{
    TlsConnector,
    rustls::{
        ClientConfig, RootCertStore,
        crypto::ring,
        pki_types::{CertificateDer, ServerName},
    },
};

const PATIENCE: Duration = Duration::from_secs(30);
/// Files are looked at once a minute.
const RENEWAL: Duration = Duration::from_secs(150);

struct Authority {
    issuer: Issuer<'static, KeyPair>,
    connector: TlsConnector,
}

impl Authority {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "authority");
        let mut roots = RootCertStore::empty();
        roots
            .add(params.self_signed(&key).unwrap().der().clone())
            .unwrap();
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        Self {
            issuer: Issuer::new(params, key),
            connector: TlsConnector::from(Arc::new(config)),
        }
    }

    fn issue(&self, cert: &Path, key: &Path) {
        let pair = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        let signed = params.signed_by(&pair, &self.issuer).unwrap();
        std::fs::write(cert, signed.pem()).unwrap();
        std::fs::write(key, pair.serialize_pem()).unwrap();
    }

    /// The certificate that a listener shows; this authority's.
    async fn shown(&self, address: SocketAddr) -> CertificateDer<'static> {
        let stream = TcpStream::connect(address).await.unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        let handshake = self.connector.connect(name, stream);
        let stream = tokio::time::timeout(PATIENCE, handshake).await.unwrap().unwrap();
        stream.get_ref().1.peer_certificates().unwrap()[0].clone()
    }
}

/// The address behind these words in a line of the log.
fn address(process: &Process, before: &'static str) -> SocketAddr {
    let find = |line: &str| {
        let (_, rest) = line.split_once(before)?;
        rest.split_whitespace().next()?.parse().ok()
    };
    process.line(before, PATIENCE, find).unwrap()
}

#[tokio::test]
async fn every_listener_shows_its_certificate_and_a_renewed_one() {
    let files = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    let mut command = Command::new(env!("CARGO_BIN_EXE_fanfare"));
    command.arg("standalone").env_clear().env("NO_COLOR", "1");
    for listener in [
        "GATEWAY__LISTEN",
        "ADMIN__LISTEN",
        "FANOUT__GRPC_LISTEN",
        "FANOUT__HTTP_LISTEN",
        "PRESENCE__GRPC_LISTEN",
    ] {
        command.env(format!("FANFARE_{listener}"), "127.0.0.1:0");
    }
    let pairs = ["GATEWAY", "ADMIN", "API"].map(|section| {
        let cert = files.path().join(format!("{section}.pem"));
        let key = files.path().join(format!("{section}.key"));
        authority.issue(&cert, &key);
        command.env(format!("FANFARE_{section}__TLS_CERT"), &cert);
        command.env(format!("FANFARE_{section}__TLS_KEY"), &key);
        (cert, key)
    });
    let process = Process::start("fanfare", &mut command).unwrap();
    let listeners = [
        "fanfare listening on https://",
        "fanfare admin on https://",
        "publisher API grpc=",
        "http=",
        "presence API address=",
    ];
    let listeners = listeners.map(|before| address(&process, before));
    let mut before = Vec::new();
    for listener in listeners {
        before.push(authority.shown(listener).await);
    }
    // One for clients, one for operators, one for the three of the APIs.
    assert!(before[0] != before[1] && before[1] != before[2]);
    assert!(before[2] == before[3] && before[3] == before[4]);

    for (cert, key) in &pairs {
        authority.issue(cert, key);
    }
    let renewed = async {
        for (listener, before) in listeners.into_iter().zip(&before) {
            while authority.shown(listener).await == *before {
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
        }
    };
    let renewed = tokio::time::timeout(RENEWAL, renewed).await;
    assert!(renewed.is_ok(), "{}", process.output());
    process.stop().unwrap();
}
