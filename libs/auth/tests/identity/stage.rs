//! What the tests share: keys, tokens, and servers that count how often they are asked.

use std::{
    net::IpAddr,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use auth::{Authenticator, Refusal, SetupError, Shown};
use axum::{Router, body::Bytes, extract::State, http::StatusCode, routing::any};
use config::{Config, Role};
use jsonwebtoken::{Algorithm, EncodingKey, Header, jwk::Jwk};
use lifecycle::Tasks;
use model::User;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::net::TcpListener;

pub(crate) const IP: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);
pub(crate) const SECRET: &str = "a secret of the tests, 32 bytes or more";

/// A file of the tests' keys.
pub(crate) fn file(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/keys")
        .join(name)
}

pub(crate) fn text(name: &str) -> String {
    std::fs::read_to_string(file(name)).unwrap()
}

/// The private key of that name.
pub(crate) fn key(name: &str) -> EncodingKey {
    let pem = text(&format!("{name}.pem"));
    let pem = pem.as_bytes();
    EncodingKey::from_ed_pem(pem)
        .or_else(|_| EncodingKey::from_ec_pem(pem))
        .or_else(|_| EncodingKey::from_rsa_pem(pem))
        .unwrap()
}

pub(crate) fn secret(secret: &str) -> EncodingKey {
    EncodingKey::from_secret(secret.as_bytes())
}

/// The public JWK of a private key. `None` for `alg` leaves open which it is for.
pub(crate) fn jwk(name: &str, alg: Algorithm, kid: &str) -> Value {
    let mut jwk = serde_json::to_value(Jwk::from_encoding_key(&key(name), alg).unwrap()).unwrap();
    jwk["kid"] = json!(kid);
    jwk
}

pub(crate) fn set(keys: &[Value]) -> String {
    json!({ "keys": keys }).to_string()
}

pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// A token that holds for a while, unless the claims say otherwise.
pub(crate) fn mint(alg: Algorithm, key: &EncodingKey, kid: Option<&str>, claims: &Value) -> String {
    let mut header = Header::new(alg);
    header.kid = kid.map(str::to_owned);
    let mut all = json!({ "sub": "ada", "exp": now() + 600 });
    for (name, value) in claims.as_object().unwrap() {
        all[name] = value.clone();
    }
    jsonwebtoken::encode(&header, &all, key).unwrap()
}

pub(crate) fn config(change: impl FnOnce(&mut Config)) -> Config {
    let mut config = Config::for_tests(Role::Standalone);
    config.auth.mode = config::AuthMode::Jwt;
    change(&mut config);
    config
}

pub(crate) fn issuer(name: &str) -> config::Issuer {
    config::Issuer {
        issuer: name.to_owned(),
        audience: None,
        secret: None,
        previous_secret: None,
        public_keys: None,
        jwks_file: None,
        jwks_url: None,
    }
}

pub(crate) fn build(change: impl FnOnce(&mut Config)) -> Result<Authenticator, SetupError> {
    Authenticator::new(&config(change), Tasks::new())
}

pub(crate) async fn user(authenticator: &Authenticator, token: &str) -> Result<Arc<User>, Refusal> {
    authenticator.check(token, &Shown::default(), IP).await
}

/// Who a token lets in.
pub(crate) async fn ask(authenticator: &Authenticator, token: &str) -> Result<String, Refusal> {
    user(authenticator, token).await.map(|user| user.id.to_string())
}

/// An HTTP server that answers whatever it is asked with the same.
pub(crate) struct Server {
    pub(crate) url: String,
    shared: Arc<Shared>,
    tasks: Tasks,
}

struct Shared {
    asked: AtomicUsize,
    bodies: Mutex<Vec<Bytes>>,
    answer: Mutex<(u16, String)>,
    delay: Mutex<Duration>,
}

impl Server {
    pub(crate) async fn start(answer: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let shared = Arc::new(Shared {
            asked: AtomicUsize::new(0),
            bodies: Mutex::default(),
            answer: Mutex::new((200, answer)),
            delay: Mutex::default(),
        });
        let router = Router::new()
            .fallback(any(answer_as_told))
            .with_state(Arc::clone(&shared));
        let tasks = Tasks::new();
        tasks.background("server", async move {
            axum::serve(listener, router).await.unwrap();
        });
        Self { url, shared, tasks }
    }

    pub(crate) fn answers(&self, status: u16, body: String) {
        *self.shared.answer.lock() = (status, body);
    }

    pub(crate) fn takes(&self, delay: Duration) {
        *self.shared.delay.lock() = delay;
    }

    pub(crate) fn asked(&self) -> usize {
        self.shared.asked.load(Ordering::SeqCst)
    }

    pub(crate) fn last_body(&self) -> Value {
        serde_json::from_slice(self.shared.bodies.lock().last().unwrap()).unwrap()
    }

    pub(crate) async fn stop(self) {
        self.tasks.shutdown(Duration::from_secs(10)).await;
    }
}

async fn answer_as_told(State(shared): State<Arc<Shared>>, body: Bytes) -> (StatusCode, String) {
    shared.asked.fetch_add(1, Ordering::SeqCst);
    shared.bodies.lock().push(body);
    let delay = *shared.delay.lock();
    tokio::time::sleep(delay).await;
    let (status, body) = shared.answer.lock().clone();
    (StatusCode::from_u16(status).unwrap(), body)
}
