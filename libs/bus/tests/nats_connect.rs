//! Connecting to NATS: logins, TLS, waiting, and what the health of a connection tells.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test reports by panicking")]

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use bus::nats::{NatsConfig, NatsError, NatsHealth, connect, connect_waiting};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use serde_json::json;
use servers::{Nats, NatsVersion, Proxy};
use tempfile::TempDir;

/// Something that must come has this long; far more than it needs.
const PATIENCE: Duration = Duration::from_secs(60);

async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.unwrap()
}

fn config(servers: impl Into<String>) -> NatsConfig {
    NatsConfig {
        servers: servers.into(),
        name: "test".to_owned(),
        ..NatsConfig::default()
    }
}

async fn works(config: &NatsConfig) {
    let health = NatsHealth::new();
    let client = soon(connect(config, &health)).await.unwrap();
    assert!(health.is_connected());
    soon(client.flush()).await.unwrap();
}

/// Why it does not work.
async fn fails(config: &NatsConfig) -> String {
    let health = NatsHealth::new();
    let error = soon(connect(config, &health)).await.unwrap_err();
    assert!(!health.is_connected());
    assert!(matches!(error, NatsError::Unreachable { .. }), "{error}");
    error.to_string()
}

#[tokio::test]
async fn users_passwords_and_tokens_are_shown_to_the_server_only() {
    for version in NatsVersion::ALL {
        let with_user = "authorization { user: alice, password: \"se:cr@t/%\" }";
        let with_token = "authorization { token: \"to:k@n\" }";
        for (authorization, good, bad) in [
            (with_user, "alice:se%3Acr%40t%2F%25", "alice:WRONG"),
            (with_token, "to%3ak%40n", "WRONG"),
        ] {
            let nats = Nats::start_with(version, authorization).unwrap();
            let address = format!("127.0.0.1:{}", nats.port());
            works(&config(format!("nats://{good}@{address}"))).await;
            for login in [format!("{bad}@"), String::new()] {
                let error = fails(&config(format!("nats://{login}{address}"))).await;
                assert!(error.contains("refuses the credentials"), "{error}");
                assert!(error.contains(&address), "{error}");
                assert!(!error.contains("WRONG"), "{error}");
            }
        }
    }
}

#[tokio::test]
async fn an_nkey_opens_too() {
    let directory = TempDir::new().unwrap();
    let seed_file = |key: &nkeys::KeyPair, name: &str| {
        let file = directory.path().join(name);
        fs::write(&file, format!("{}\n", key.seed().unwrap())).unwrap();
        Some(file)
    };
    let key = nkeys::KeyPair::new_user();
    for version in NatsVersion::ALL {
        let users = format!("authorization {{ users: [{{ nkey: {} }}] }}", key.public_key());
        let nats = Nats::start_with(version, &users).unwrap();
        let mut config = config(nats.url());
        config.nkey_seed = seed_file(&key, "good");
        works(&config).await;
        config.nkey_seed = seed_file(&nkeys::KeyPair::new_user(), "bad");
        let error = fails(&config).await;
        assert!(error.contains("refuses the credentials"), "{error}");
    }
}

/// A token as NATS signs them.
fn jwt(issuer: &nkeys::KeyPair, subject: &nkeys::KeyPair, nats: serde_json::Value) -> String {
    let encode = |json: serde_json::Value| URL_SAFE_NO_PAD.encode(json.to_string());
    let (issuer_key, subject_key) = (issuer.public_key(), subject.public_key());
    let header = encode(json!({"typ": "JWT", "alg": "ed25519-nkey"}));
    let claims = encode(json!({
        "jti": "test", "iat": 1_700_000_000, "iss": issuer_key, "sub": subject_key, "name": "test", "nats": nats,
    }));
    let signed = format!("{header}.{claims}");
    let signature = URL_SAFE_NO_PAD.encode(issuer.sign(signed.as_bytes()).unwrap());
    format!("{signed}.{signature}")
}

#[tokio::test]
async fn a_credentials_file_opens_too() {
    let directory = TempDir::new().unwrap();
    let [operator, system, account] = [
        nkeys::KeyPair::new_operator(),
        nkeys::KeyPair::new_account(),
        nkeys::KeyPair::new_account(),
    ];
    let limits = json!({
        "subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "wildcards": true, "conn": -1, "leaf": -1,
    });
    let account_claims = json!({"type": "account", "version": 2, "limits": limits});
    let trust = format!(
        "operator: {}\nsystem_account: {}\nresolver: MEMORY\nresolver_preload: {{ {}: {}, {}: {} }}",
        jwt(&operator, &operator, json!({"type": "operator", "version": 2})),
        system.public_key(),
        system.public_key(),
        jwt(&operator, &system, account_claims.clone()),
        account.public_key(),
        jwt(&operator, &account, account_claims),
    );
    let credentials = |account: &nkeys::KeyPair, name: &str| {
        let user = nkeys::KeyPair::new_user();
        let claims = json!({"type": "user", "version": 2, "subs": -1, "data": -1, "payload": -1});
        let file = directory.path().join(name);
        let text = format!(
            "-----BEGIN NATS USER JWT-----\n{}\n------END NATS USER JWT------\n\n\
             -----BEGIN USER NKEY SEED-----\n{}\n------END USER NKEY SEED------\n",
            jwt(account, &user, claims),
            user.seed().unwrap()
        );
        fs::write(&file, text).unwrap();
        Some(file)
    };
    for version in NatsVersion::ALL {
        let nats = Nats::start_with(version, &trust).unwrap();
        let mut config = config(nats.url());
        config.credentials = credentials(&account, "good.creds");
        works(&config).await;
        config.credentials = credentials(&nkeys::KeyPair::new_account(), "bad.creds");
        let error = fails(&config).await;
        assert!(error.contains("refuses the credentials"), "{error}");
    }
}

#[tokio::test]
async fn files_that_cannot_be_used_are_named() {
    let directory = TempDir::new().unwrap();
    let missing = directory.path().join("missing");
    let broken = directory.path().join("broken.creds");
    fs::write(&broken, "no credentials").unwrap();
    let plain = config("nats://127.0.0.1:1");
    for (config, file) in [
        (
            NatsConfig {
                credentials: Some(missing.clone()),
                ..plain.clone()
            },
            &missing,
        ),
        (
            NatsConfig {
                credentials: Some(broken.clone()),
                ..plain.clone()
            },
            &broken,
        ),
        (
            NatsConfig {
                nkey_seed: Some(missing.clone()),
                ..plain.clone()
            },
            &missing,
        ),
        (
            NatsConfig {
                ca: Some(missing.clone()),
                ..plain.clone()
            },
            &missing,
        ),
        (
            NatsConfig {
                client_certificate: Some((broken.clone(), missing.clone())),
                ..plain.clone()
            },
            &missing,
        ),
    ] {
        // Waiting would not help.
        let error = soon(connect_waiting(&config, &NatsHealth::new()))
            .await
            .unwrap_err();
        assert!(matches!(error, NatsError::Config(_)), "{error}");
        assert!(error.to_string().contains(file.to_str().unwrap()), "{error}");
    }
}

/// An authority with what it signed for 127.0.0.1, as files.
struct Authority {
    ca: PathBuf,
    leaf: (PathBuf, PathBuf),
}

impl Authority {
    fn new(directory: &Path, name: &str) -> Self {
        let write = |what: &str, text: String| {
            let file = directory.join(format!("{name}-{what}.pem"));
            fs::write(&file, text).unwrap();
            file
        };
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let leaf = CertificateParams::new(["127.0.0.1".to_owned()]).unwrap();
        let leaf = leaf.signed_by(&key, &ca).unwrap();
        Self {
            ca: write("ca", ca.pem()),
            leaf: (write("leaf", leaf.pem()), write("key", key.serialize_pem())),
        }
    }
}

#[tokio::test]
async fn tls_checks_both_sides() {
    let directory = TempDir::new().unwrap();
    let ours = Authority::new(directory.path(), "ours");
    let other = Authority::new(directory.path(), "other");
    for version in NatsVersion::ALL {
        let tls = format!(
            "tls {{ cert_file: {:?}, key_file: {:?}, ca_file: {:?}, verify: true, timeout: 30 }}",
            ours.leaf.0, ours.leaf.1, ours.ca
        );
        let nats = Nats::start_with(version, &tls).unwrap();
        for scheme in ["nats", "tls"] {
            let good = NatsConfig {
                ca: Some(ours.ca.clone()),
                client_certificate: Some(ours.leaf.clone()),
                ..config(format!("{scheme}://127.0.0.1:{}", nats.port()))
            };
            works(&good).await;
            let error = fails(&NatsConfig {
                ca: Some(other.ca.clone()),
                ..good.clone()
            })
            .await;
            assert!(error.contains("certificate"), "{error}");
            for stranger in [None, Some(other.leaf.clone())] {
                fails(&NatsConfig {
                    client_certificate: stranger,
                    ..good.clone()
                })
                .await;
            }
        }
    }
    // Whoever names an authority is never sent to a server without TLS.
    let plain = Nats::start(NatsVersion::Current).unwrap();
    fails(&NatsConfig {
        ca: Some(ours.ca.clone()),
        ..config(plain.url())
    })
    .await;
}

#[tokio::test]
async fn whoever_waits_is_connected_once_the_server_is_up() {
    let mut nats = Nats::start(NatsVersion::Current).unwrap();
    nats.kill();
    let error = fails(&config(nats.url())).await;
    assert!(error.to_lowercase().contains("connection refused"), "{error}");
    let config = config(nats.url());
    let health = NatsHealth::new();
    let mut waiting = Box::pin(connect_waiting(&config, &health));
    let some_time = tokio::time::timeout(Duration::from_millis(500), &mut waiting);
    assert!(some_time.await.is_err());
    nats.start_again().unwrap();
    let _client = soon(waiting).await.unwrap();
    assert!(health.is_connected());
    assert_eq!(health.counts().reconnects(), 0);
}

#[tokio::test]
async fn any_server_of_a_list_will_do() {
    let nats = Nats::start(NatsVersion::Current).unwrap();
    works(&config(format!("nats://127.0.0.1:1, {}", nats.url()))).await;
}

#[tokio::test]
async fn health_follows_the_server() {
    for version in NatsVersion::ALL {
        let mut nats = Nats::start(version).unwrap();
        let health = NatsHealth::new();
        let client = soon(connect(&config(nats.url()), &health)).await.unwrap();
        nats.kill();
        soon(health.disconnected()).await;
        nats.start_again().unwrap();
        soon(health.connected()).await;
        let counts = health.counts();
        assert_eq!((counts.reconnects(), counts.disconnects), (1, 1));
        // The last handle closes the connection.
        drop(client);
        soon(health.disconnected()).await;
    }
}

/// A route that is lost without a word is noticed, and its return as well.
#[tokio::test]
async fn a_silent_cut_is_noticed() {
    let nats = Nats::start(NatsVersion::Current).unwrap();
    let proxy = Proxy::start([([127, 0, 0, 1], nats.port()).into()]).unwrap();
    let health = NatsHealth::new();
    let config = config(format!("nats://127.0.0.1:{}", proxy.port()));
    let _client = soon(connect(&config, &health)).await.unwrap();
    proxy.stall();
    soon(health.disconnected()).await;
    proxy.open();
    soon(health.connected()).await;
}
