//! Stock clients over TLS that the gateway ends itself.

use std::{fs, path::Path};

use anyhow::{Context, Result};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use tests::{Mode, Standalone, scenario};

/// A certificate for 127.0.0.1, its key, and its authority, as files.
fn certificate(into: &Path) -> Result<[String; 3]> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    // OpenSSL takes a certificate with its issuer's name for a self-signed one.
    params.distinguished_name.push(DnType::CommonName, "authority");
    let authority = params.self_signed(&key)?.pem();
    let issuer = Issuer::new(params, key);
    let key = KeyPair::generate()?;
    let cert = CertificateParams::new(vec!["127.0.0.1".to_owned()])?.signed_by(&key, &issuer)?;
    let files = [
        ("cert.pem", cert.pem()),
        ("key.pem", key.serialize_pem()),
        ("ca.pem", authority),
    ];
    let mut paths = Vec::new();
    for (name, pem) in files {
        let path = into.join(name);
        fs::write(&path, pem)?;
        paths.push(path.to_string_lossy().into_owned());
    }
    paths.try_into().ok().context("three files")
}

#[test]
fn stock_clients_over_tls() -> Result<()> {
    let files = tempfile::tempdir()?;
    let [cert, key, ca] = certificate(files.path())?;
    let settings = [
        ("FANFARE_GATEWAY__TLS_CERT", cert.as_str()),
        ("FANFARE_GATEWAY__TLS_KEY", &key),
        // For the clients.
        ("NODE_EXTRA_CA_CERTS", &ca),
    ];
    let server = Standalone::start(&settings)?;
    assert!(server.url.starts_with("https://"), "{}", server.url);
    for (name, mode) in [
        ("connect", Mode::Websocket),
        ("messages", Mode::Polling),
        ("messages", Mode::Upgrade),
        ("recovery", Mode::Websocket),
    ] {
        scenario(&server, name, mode).with_context(|| server.output())?;
    }
    server.stop()
}
