//! Connecting to Redis: waiting, logins, TLS, and a connection that stalls, is cut, or comes back.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test reports by panicking")]

use std::{
    fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use registry::{
    RegistryError,
    redis::{ConnectError, Redis, RedisConfig, Script, connect, connect_waiting},
};
use servers::{Proxy, free_port};
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

/// Something that must come has this long; far more than it needs.
const PATIENCE: Duration = Duration::from_secs(60);

fn config(urls: impl Into<String>) -> RedisConfig {
    RedisConfig {
        urls: urls.into(),
        ..RedisConfig::default()
    }
}

async fn ping(redis: &Redis) -> Result<String, RegistryError> {
    redis.query("ping", &::redis::cmd("PING")).await
}

/// Waits until Redis answers again.
async fn answered(redis: &Redis) {
    let begun = Instant::now();
    while let Err(error) = ping(redis).await {
        assert!(begun.elapsed() < PATIENCE, "{error}");
        sleep(Duration::from_millis(20)).await;
    }
    assert!(redis.is_connected());
}

/// Waits until it is known that the connection is lost, without asking anything.
async fn noticed(redis: &Redis) {
    let begun = Instant::now();
    while redis.is_connected() {
        assert!(begun.elapsed() < PATIENCE, "a lost connection is not noticed");
        sleep(Duration::from_millis(20)).await;
    }
}

fn reason(result: Result<Redis, ConnectError>) -> String {
    match result {
        Err(error @ ConnectError::Unreachable { .. }) => error.to_string(),
        Err(error) => panic!("{error}"),
        Ok(_) => panic!("it is taken"),
    }
}

#[tokio::test]
async fn commands_scripts_and_pipelines_are_answered_and_counted() {
    let server = servers::Redis::start().unwrap();
    let redis = connect(&config(server.url())).await.unwrap();
    assert_eq!(ping(&redis).await.unwrap(), "PONG");
    let script = Script::new(
        "sum",
        "redis.call('INCRBY', KEYS[1], ARGV[1]) return redis.call('INCRBY', KEYS[2], ARGV[2])",
    );
    // Unknown to the server, known, and forgotten.
    for sum in [2, 4, 6] {
        let answer: u32 = redis.invoke(&script, ("one", "two"), (1, 2)).await.unwrap();
        assert_eq!(answer, sum);
        if sum == 4 {
            server.command("SCRIPT FLUSH").unwrap();
        }
    }
    let mut pipeline = ::redis::pipe();
    pipeline.cmd("GET").arg("one").cmd("GET").arg("two");
    let answers: (u32, u32) = redis.pipeline("both", &pipeline).await.unwrap();
    assert_eq!(answers, (3, 6));
    let wrong: Result<u32, _> = redis
        .query("wrong", ::redis::cmd("LPUSH").arg("one").arg(1))
        .await;
    assert!(wrong.unwrap_err().to_string().contains("WRONGTYPE"));
    // None of these means that the connection is lost.
    assert!(redis.is_connected());
    let counts: Vec<_> = redis
        .calls()
        .iter()
        .map(|count| (count.name, count.calls, count.errors))
        .collect();
    let expected = [("both", 1, 0), ("ping", 1, 0), ("sum", 3, 0), ("wrong", 1, 1)];
    assert_eq!(counts, expected);
}

/// What is logged.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Log {
    fn follow(&self) -> tracing::subscriber::DefaultGuard {
        let log = self.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_ansi(false)
            .with_writer(move || log.clone())
            .finish();
        tracing::subscriber::set_default(subscriber)
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock()).into_owned()
    }

    async fn says(&self, what: &str) {
        let begun = Instant::now();
        while !self.text().contains(what) {
            assert!(begun.elapsed() < PATIENCE, "no {what:?} in\n{}", self.text());
            sleep(Duration::from_millis(20)).await;
        }
    }
}

#[tokio::test]
async fn whoever_waits_says_what_for_and_shows_no_password() {
    let log = Log::default();
    let _guard = log.follow();
    let mut server = servers::Redis::start_with(&["--requirepass", "PA55WORD"]).unwrap();
    let shown = format!("redis://***@127.0.0.1:{}", server.port());
    let address = format!("127.0.0.1:{}", server.port());
    server.kill();
    let config = config(format!("redis://:PA55WORD@{address}"));
    let refused = reason(connect(&config).await);
    assert!(
        refused.contains(&shown) && refused.contains("refused"),
        "{refused}"
    );

    let waiting = connect_waiting(&config);
    let starts = async {
        log.says(&format!("waiting for Redis at {shown}: Connection refused"))
            .await;
        server.start_again().unwrap();
    };
    let (redis, ()) = tokio::join!(waiting, starts);
    let redis = redis.unwrap();
    answered(&redis).await;

    server.kill();
    noticed(&redis).await;
    log.says(&format!("the connection to Redis at {shown} is lost"))
        .await;
    let error = ping(&redis).await.unwrap_err().to_string();
    assert!(error.contains(&shown) && error.contains("refused"), "{error}");
    // So is a wait that goes on.
    log.says("no connection to Redis yet").await;
    server.start_again().unwrap();
    answered(&redis).await;
    log.says(&format!("connected to Redis at {shown} again")).await;

    let text = log.text();
    assert!(!text.contains("PA55WORD"), "{text}");
    assert!(!text.contains("ERROR"), "{text}");
}

#[tokio::test]
async fn a_login_that_is_refused_is_told_without_the_password() {
    let server = servers::Redis::start_with(&["--requirepass", "RIGHT"]).unwrap();
    let address = format!("127.0.0.1:{}", server.port());
    for login in [":WRONG@", "alice:WRONG@", "default:WRONG@"] {
        let error = reason(connect(&config(format!("redis://{login}{address}"))).await);
        assert!(error.contains("refuses the credentials"), "{error}");
        assert!(error.contains("***@"), "{error}");
        assert!(!error.contains("WRONG@") && !error.contains("alice"), "{error}");
    }
    let error = reason(connect(&config(format!("redis://{address}"))).await);
    assert!(error.contains("Authentication required"), "{error}");
    for login in [":RIGHT@", "default:RIGHT@", "default:%52IGHT@"] {
        answered(
            &connect(&config(format!("redis://{login}{address}")))
                .await
                .unwrap(),
        )
        .await;
    }
}

#[tokio::test]
async fn a_call_ends_in_time_whatever_happens_to_the_connection() {
    let server = servers::Redis::start().unwrap();
    let proxy = Proxy::start([SocketAddr::from(([127, 0, 0, 1], server.port()))]).unwrap();
    let config = RedisConfig {
        response_timeout: Duration::from_millis(500),
        ..config(format!("redis://127.0.0.1:{}", proxy.port()))
    };
    let redis = connect(&config).await.unwrap();
    answered(&redis).await;

    proxy.stall();
    for _ in 0..3 {
        let begun = Instant::now();
        ping(&redis).await.unwrap_err();
        // Half a second, and what a noisy machine adds; a connection that is waited for without a bound would take the
        // minutes of TCP.
        assert!(begun.elapsed() < Duration::from_secs(10));
    }
    assert!(!redis.is_connected());
    proxy.open();
    answered(&redis).await;

    // Nobody asks, and it is noticed all the same, and mended.
    proxy.cut();
    noticed(&redis).await;
    proxy.open();
    let begun = Instant::now();
    while !redis.is_connected() {
        assert!(begun.elapsed() < PATIENCE);
        sleep(Duration::from_millis(20)).await;
    }
    // Stalled in silence.
    proxy.stall();
    noticed(&redis).await;
    proxy.open();
    answered(&redis).await;
}

/// An authority, and a certificate of its for the loopback.
struct Authority {
    ca: PathBuf,
    certificate: PathBuf,
    key: PathBuf,
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
        // Of the same name as its authority, a certificate would be taken for the authority's own.
        params.distinguished_name.push(DnType::CommonName, name);
        let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let leaf = CertificateParams::new(["127.0.0.1".to_owned()]).unwrap();
        let leaf = leaf.signed_by(&key, &ca).unwrap();
        Self {
            ca: write("ca", ca.pem()),
            certificate: write("leaf", leaf.pem()),
            key: write("key", key.serialize_pem()),
        }
    }
}

#[tokio::test]
async fn tls_checks_both_sides() {
    let directory = TempDir::new().unwrap();
    let ours = Authority::new(directory.path(), "ours");
    let theirs = Authority::new(directory.path(), "theirs");
    let port = free_port().unwrap();
    let arguments = [
        ("--tls-port", port.to_string()),
        ("--tls-ca-cert-file", ours.ca.display().to_string()),
        ("--tls-cert-file", ours.certificate.display().to_string()),
        ("--tls-key-file", ours.key.display().to_string()),
        ("--tls-auth-clients", "yes".to_owned()),
    ];
    let arguments: Vec<&str> = arguments
        .iter()
        .flat_map(|(name, value)| [*name, value.as_str()])
        .collect();
    let server = servers::Redis::start_with(&arguments).unwrap();
    let tls = |ca: &Authority, shown: Option<&Authority>| RedisConfig {
        ca: Some(ca.ca.clone()),
        client_certificate: shown.map(|shown| (shown.certificate.clone(), shown.key.clone())),
        ..config(format!("rediss://127.0.0.1:{port}"))
    };
    answered(&connect(&tls(&ours, Some(&ours))).await.unwrap()).await;
    let error = reason(connect(&tls(&theirs, Some(&ours))).await);
    assert!(error.contains("certificate"), "{error}");
    // TLS 1.3: the server says so behind the handshake, by an alert or by hanging up.
    reason(connect(&tls(&ours, None)).await);
    reason(connect(&tls(&ours, Some(&theirs))).await);
    // The system's authorities know nothing of it.
    let plain = config(format!("rediss://127.0.0.1:{port}"));
    let error = reason(connect(&plain).await);
    assert!(error.contains("certificate"), "{error}");
    // Certificates without TLS would not be looked at.
    let config = RedisConfig {
        urls: server.url(),
        ..tls(&ours, None)
    };
    let Err(ConnectError::Config(error)) = connect(&config).await else {
        panic!("certificates are passed over");
    };
    assert!(error.contains("rediss://"), "{error}");
}
