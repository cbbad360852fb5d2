//! Keys behind a URL.

use std::time::Duration;

use auth::{Authenticator, Refusal};
use jsonwebtoken::Algorithm;
use lifecycle::Tasks;
use serde_json::json;
use tokio::net::TcpListener;
use tokio_rustls::{
    TlsAcceptor,
    rustls::{ServerConfig, crypto::ring, pki_types::PrivatePkcs8KeyDer},
};

use crate::stage::{SECRET, Server, ask, build, config, issuer, jwk, key, mint, secret, set};

const RS: Algorithm = Algorithm::RS256;

/// Beyond the pause between two fetches that tokens ask for.
async fn a_minute_passes() {
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(61)).await;
    tokio::time::resume();
}

fn by(name: &str, kid: &str) -> String {
    mint(RS, &key(name), Some(kid), &json!({}))
}

#[tokio::test]
async fn keys_are_fetched_once_rotated_and_asked_for_once_a_minute() {
    let server = Server::start(set(&[jwk("rsa", RS, "old")])).await;
    let authenticator = build(|config| config.auth.jwks_url = Some(server.url.clone())).unwrap();
    let ada = Ok("ada".to_owned());
    let (old, new) = (by("rsa", "old"), by("rsa-other", "new"));
    for result in futures_util::future::join_all((0..20).map(|_| ask(&authenticator, &old))).await {
        assert_eq!(result, ada);
    }
    assert_eq!(server.asked(), 1);

    // An unknown key is not asked for so soon after.
    assert_eq!(ask(&authenticator, &new).await, Err(Refusal::InvalidToken));
    assert_eq!(server.asked(), 1);

    server.answers(200, set(&[jwk("rsa-other", RS, "new")]));
    a_minute_passes().await;
    server.takes(Duration::from_millis(50));
    for result in futures_util::future::join_all((0..20).map(|_| ask(&authenticator, &new))).await {
        assert_eq!(result, ada, "a new key");
    }
    assert_eq!(server.asked(), 2, "many ask once");
    assert_eq!(
        ask(&authenticator, &old).await,
        Err(Refusal::InvalidToken),
        "a key that was taken away"
    );

    // Ids of keys are easily made up.
    for n in 0..50 {
        assert_eq!(
            ask(&authenticator, &by("rsa", &n.to_string())).await,
            Err(Refusal::InvalidToken)
        );
    }
    assert_eq!(server.asked(), 2);
    // A known id with a wrong signature asks for nothing.
    a_minute_passes().await;
    assert_eq!(
        ask(&authenticator, &by("rsa", "new")).await,
        Err(Refusal::InvalidToken)
    );
    assert_eq!(server.asked(), 2);
    server.stop().await;
}

#[tokio::test]
async fn the_last_keys_hold_while_they_cannot_be_had() {
    let server = Server::start(set(&[jwk("rsa", RS, "k")])).await;
    let settings = config(|config| config.auth.jwks_url = Some(server.url.clone()));
    let authenticator = Authenticator::new(&settings, Tasks::new()).unwrap();
    let token = by("rsa", "k");
    assert_eq!(ask(&authenticator, &token).await, Ok("ada".to_owned()));
    for (status, body) in [
        (500, String::new()),
        (200, "no JWKS".to_owned()),
        (200, set(&[])),
        (302, String::new()),
    ] {
        server.answers(status, body);
        a_minute_passes().await;
        assert_eq!(
            ask(&authenticator, &by("rsa", "other")).await,
            Err(Refusal::Unavailable),
            "{status}"
        );
        assert_eq!(
            ask(&authenticator, &token).await,
            Ok("ada".to_owned()),
            "{status}"
        );
    }
    let asked = server.asked();
    authenticator.reload(&settings).unwrap();
    assert_eq!(
        ask(&authenticator, &token).await,
        Ok("ada".to_owned()),
        "after a reload too"
    );
    // The reload asks anew all the same, in its own time.
    while server.asked() == asked {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(ask(&authenticator, &token).await, Ok("ada".to_owned()));
    server.stop().await;
}

#[tokio::test]
async fn without_keys_nobody_gets_in_and_the_fault_is_ours() {
    let server = Server::start("no JWKS".to_owned()).await;
    let authenticator = build(|config| {
        config.auth.jwks_url = Some(server.url.clone());
        config.auth.timeout = Duration::from_millis(200);
    })
    .unwrap();
    assert_eq!(
        ask(&authenticator, &by("rsa", "k")).await,
        Err(Refusal::Unavailable)
    );
    // One that is silent.
    server.takes(Duration::from_secs(600));
    let authenticator = build(|config| {
        config.auth.jwks_url = Some(server.url.clone());
        config.auth.timeout = Duration::from_millis(200);
    })
    .unwrap();
    assert_eq!(
        ask(&authenticator, &by("rsa", "k")).await,
        Err(Refusal::Unavailable)
    );
    // What needs no key to be told is told.
    assert_eq!(ask(&authenticator, "rubbish").await, Err(Refusal::InvalidToken));
    server.stop().await;
}

#[tokio::test]
async fn a_published_secret_is_none_and_an_endless_set_is_cut() {
    let oct =
        json!({ "kty": "oct", "kid": "k", "k": "YSBzZWNyZXQgb2YgdGhlIHRlc3RzLCAzMiBieXRlcyBvciBtb3Jl" });
    let server = Server::start(set(&[oct, jwk("rsa", RS, "k")])).await;
    let authenticator = build(|config| config.auth.jwks_url = Some(server.url.clone())).unwrap();
    let forged = mint(Algorithm::HS256, &secret(SECRET), Some("k"), &json!({}));
    assert_eq!(ask(&authenticator, &forged).await, Err(Refusal::InvalidToken));
    assert_eq!(ask(&authenticator, &by("rsa", "k")).await, Ok("ada".to_owned()));
    for endless in [
        "x".repeat(1 << 20),
        set(&vec![jwk("p256", Algorithm::ES256, "k"); 101]),
    ] {
        server.answers(200, endless);
        let authenticator = build(|config| config.auth.jwks_url = Some(server.url.clone())).unwrap();
        assert_eq!(
            ask(&authenticator, &by("rsa", "k")).await,
            Err(Refusal::Unavailable)
        );
    }
    server.stop().await;
}

#[tokio::test]
async fn issuers_have_keys_behind_urls_of_their_own() {
    let a = Server::start(set(&[jwk("rsa", RS, "k")])).await;
    let b = Server::start(set(&[jwk("rsa-other", RS, "k")])).await;
    let authenticator = build(|config| {
        config.issuers = [("a", &a), ("b", &b)]
            .map(|(name, server)| config::Issuer {
                jwks_url: Some(server.url.clone()),
                ..issuer(name)
            })
            .into();
    })
    .unwrap();
    for (name, iss, expected) in [
        ("rsa", "a", Ok("ada".to_owned())),
        ("rsa-other", "b", Ok("ada".to_owned())),
        ("rsa", "b", Err(Refusal::InvalidToken)),
        ("rsa-other", "a", Err(Refusal::InvalidToken)),
        ("rsa", "c", Err(Refusal::InvalidToken)),
    ] {
        let token = mint(RS, &key(name), Some("k"), &json!({ "iss": iss }));
        assert_eq!(ask(&authenticator, &token).await, expected, "{name} {iss}");
    }
    a.stop().await;
    b.stop().await;
}

/// Answers every connection with one set, over TLS.
async fn tls_server(tasks: &Tasks, body: String) -> (String, rcgen::Certificate) {
    let own = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let key = PrivatePkcs8KeyDer::from(own.signing_key.serialize_der());
    let config = ServerConfig::builder_with_provider(ring::default_provider().into())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![own.cert.der().clone()], key.into())
        .unwrap();
    let acceptor = TlsAcceptor::from(std::sync::Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://localhost:{}/", listener.local_addr().unwrap().port());
    let router = axum::Router::new().fallback(move || std::future::ready(body.clone()));
    tasks.background("TLS server", async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            // A client that does not trust the certificate hangs up.
            let Ok(stream) = acceptor.accept(stream).await else {
                continue;
            };
            let service = hyper_util::service::TowerToHyperService::new(router.clone());
            let stream = hyper_util::rt::TokioIo::new(stream);
            let _ = hyper::server::conn::http1::Builder::new()
                .keep_alive(false)
                .serve_connection(stream, service)
                .await;
        }
    });
    (url, own.cert)
}

#[tokio::test]
async fn https_takes_a_certificate_of_the_configured_authority_alone() {
    let tasks = Tasks::new();
    let (url, certificate) = tls_server(&tasks, set(&[jwk("rsa", RS, "k")])).await;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("ca.pem");
    for (pem, expected) in [
        (certificate.pem(), Ok("ada".to_owned())),
        (
            rcgen::generate_simple_self_signed(vec!["localhost".to_owned()])
                .unwrap()
                .cert
                .pem(),
            Err(Refusal::Unavailable),
        ),
    ] {
        std::fs::write(&path, pem).unwrap();
        let authenticator = build(|config| {
            config.auth.jwks_url = Some(url.clone());
            config.auth.tls_ca = Some(path.clone());
        })
        .unwrap();
        assert_eq!(ask(&authenticator, &by("rsa", "k")).await, expected);
    }
    std::fs::write(&path, "no certificate").unwrap();
    let error = build(|config| config.auth.tls_ca = Some(path.clone()))
        .err()
        .unwrap();
    assert_eq!(error.setting, "auth.tls_ca");
    tasks.shutdown(Duration::from_secs(10)).await;
}
