//! Connecting to NATS: addresses, credentials, TLS, and whether the connection stands.
//!
//! A role has one connection, which all its engines share. It is made again for ever after it was lost, and
//! subscriptions are made again with it. Credentials need the right to publish and subscribe to `fanfare.>`,
//! `_INBOX.>`, `$JS.>` and `$KV.>`.

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
    sync::atomic::Ordering,
    time::Duration,
};

use async_nats::{
    Client, ConnectErrorKind, ConnectOptions, HeaderMap, ServerAddr, connection::State, rustls,
};
use model::TraceContext;
use rand::Rng;
use tokio::time::Instant;

mod examine;
mod health;
mod mask;

pub use examine::{NatsReport, examine};
pub use health::{NatsCounts, NatsHealth};
pub use mask::mask;

/// A silent cut is noticed when the third ping in a row has no answer to the two before.
const PING_INTERVAL: Duration = Duration::from_secs(2);
/// Until one server has answered, name look-up excluded.
const HANDSHAKE: Duration = Duration::from_secs(3);
/// Longest pause between two attempts.
const PAUSE: Duration = Duration::from_secs(1);
/// How often a wait is told of again.
const REMIND: Duration = Duration::from_secs(5);
/// How often a question under way looks whether its connection still stands.
const NOTICE: Duration = Duration::from_millis(50);
/// Commands that may wait for a connection that takes no more at the moment. Memory is taken for those that do.
const WAITING_COMMANDS: usize = 65_536;

/// Longest subject, bytes: with the rest of its line it stays below what a server takes (`max_control_line`, 4096),
/// which otherwise closes the connection of the whole role.
pub(crate) const MAX_SUBJECT: usize = 3584;

/// The context of the trace that a message belongs to. What is no context is none: anybody may write headers.
pub(crate) fn trace_of(headers: &HeaderMap) -> Option<Box<TraceContext>> {
    let context = headers.get(TraceContext::HEADER)?.as_str().parse().ok()?;
    Some(Box::new(context))
}

/// Where NATS is and who we are there.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct NatsConfig {
    /// `nats://` or `tls://` addresses of one cluster, separated by commas; user and password, or a token, may stand
    /// in them, percent-encoded, and must be the same in all that have them.
    pub servers: String,
    /// A `.creds` file: JWT and key.
    pub credentials: Option<PathBuf>,
    /// A file with the seed of an nkey.
    pub nkey_seed: Option<PathBuf>,
    /// Certificates (PEM) of the authorities that may have signed the server's, instead of the system's. TLS is then
    /// required.
    pub ca: Option<PathBuf>,
    /// Certificate chain (PEM) to show to the server, and its key. TLS is then required.
    pub client_certificate: Option<(PathBuf, PathBuf)>,
    /// What the server calls this connection: role and id.
    pub name: String,
}

impl fmt::Debug for NatsConfig {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("NatsConfig")
            .field("servers", &mask(&self.servers))
            .field("credentials", &self.credentials)
            .field("nkey_seed", &self.nkey_seed)
            .field("ca", &self.ca)
            .field("client_certificate", &self.client_certificate)
            .field("name", &self.name)
            .finish()
    }
}

/// Why there is no connection. Shows no secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NatsError {
    /// An address or file that cannot be used: waiting does not help.
    #[error("NATS cannot be used as configured: {0}")]
    Config(String),
    /// No server takes us at the moment.
    #[error("NATS at {servers}: {reason}")]
    Unreachable {
        /// The servers, masked.
        servers: String,
        /// What the last one tried said.
        reason: String,
    },
}

/// Connects, trying every server once; `health` belongs to this connection from now on.
///
/// # Errors
/// [`NatsError`]; the attempt is bounded by 3 s a server and its addresses. Cancelling gives the attempt up.
pub async fn connect(config: &NatsConfig, health: &NatsHealth) -> Result<Client, NatsError> {
    let (servers, options) = options(config, health).await?;
    let before = health.counts().connects;
    // Boxed: it is large, and whoever connects holds it.
    let client = Box::pin(options.connect(servers)).await.map_err(|error| {
        // The kind "IO error" says nothing more than its source.
        let reason = match (error.kind(), std::error::Error::source(&error)) {
            (ConnectErrorKind::AuthorizationViolation, _) => {
                "the server refuses the credentials (authorization violation)".to_owned()
            }
            (ConnectErrorKind::Io, Some(source)) => source.to_string(),
            _ => error.to_string(),
        };
        NatsError::Unreachable {
            servers: mask(&config.servers),
            reason,
        }
    })?;
    // The event comes by a task of its own.
    health.connected_after(before).await;
    Ok(client)
}

/// Connects as soon as a server takes us, telling in the log what is waited for: at once, every 5 s, and when it
/// says something else. Ends when dropped.
///
/// # Errors
/// [`NatsError::Config`] only: nothing else is worth giving up for.
pub async fn connect_waiting(config: &NatsConfig, health: &NatsHealth) -> Result<Client, NatsError> {
    let mut told: Option<(String, Instant)> = None;
    let mut attempt = 1;
    loop {
        match connect(config, health).await {
            Err(NatsError::Unreachable { servers, reason }) => {
                let news = told
                    .as_ref()
                    .is_none_or(|(last, at)| *last != reason || at.elapsed() >= REMIND);
                if news {
                    tracing::warn!("waiting for NATS at {servers}: {reason}");
                    told = Some((reason, Instant::now()));
                }
            }
            done => return done,
        }
        attempt += 1;
        tokio::time::sleep(pause(attempt)).await;
    }
}

/// Returns once the connection there is now has been lost: what was asked on it is not answered any more. At most
/// 50 ms later than the client knows.
pub(crate) async fn lost(client: &Client) {
    let statistics = client.statistics();
    let connects = || statistics.connects.load(Ordering::Relaxed);
    let before = connects();
    while client.connection_state() == State::Connected && connects() == before {
        tokio::time::sleep(NOTICE).await;
    }
}

async fn options(
    config: &NatsConfig,
    health: &NatsHealth,
) -> Result<(Vec<ServerAddr>, ConnectOptions), NatsError> {
    let (servers, login) = servers(&config.servers)?;
    let mut options = ConnectOptions::new()
        .name(&config.name)
        .ping_interval(PING_INTERVAL)
        .connection_timeout(HANDSHAKE)
        .client_capacity(WAITING_COMMANDS)
        .reconnect_delay_callback(pause);
    options = match login {
        Some(Login::User(user, password)) => options.user_and_password(user, password),
        Some(Login::Token(token)) => options.token(token),
        None => options,
    };
    if let Some(file) = &config.credentials {
        let text = read(file)?;
        options = options
            .credentials(&text)
            .map_err(|error| unusable(file, &error))?;
    }
    if let Some(file) = &config.nkey_seed {
        options = options.nkey(read(file)?.trim().to_owned());
    }
    if let Some(file) = &config.ca {
        read(file)?;
        options = options.add_root_certificates(file.clone()).require_tls(true);
    }
    if let Some((certificate, key)) = &config.client_certificate {
        read(certificate)?;
        read(key)?;
        options = options
            .add_client_certificate(certificate.clone(), key.clone())
            .require_tls(true);
    }
    // Another part of the process may have chosen already. Without a choice rustls panics as soon as it is built with
    // two.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let health = health.clone();
    let options = options.event_callback(move |event| {
        health.on_event(&event);
        std::future::ready(())
    });
    Ok((servers, options))
}

#[derive(PartialEq, Eq)]
enum Login {
    User(String, String),
    Token(String),
}

/// Addresses without secrets (the client logs them), and the login that stood in them.
fn servers(list: &str) -> Result<(Vec<ServerAddr>, Option<Login>), NatsError> {
    let bad = |what: String| NatsError::Config(format!("servers {}: {what}", mask(list)));
    let mut servers = Vec::new();
    let mut login = None;
    for part in mask::parts(list) {
        let address: ServerAddr = part.parse().map_err(|error: io::Error| bad(error.to_string()))?;
        if !["nats", "tls"].contains(&address.scheme()) {
            return Err(bad("only nats:// and tls:// are known".to_owned()));
        }
        if address.host().is_empty() {
            return Err(bad("an address has no host".to_owned()));
        }
        if let Some(user) = address.username() {
            let decode = |text| percent_decoded(text).ok_or_else(|| bad("a login is not UTF-8".to_owned()));
            let this = match address.password() {
                Some(password) => Login::User(decode(user)?, decode(password)?),
                None => Login::Token(decode(user)?),
            };
            if login.as_ref().is_some_and(|login| *login != this) {
                return Err(bad("the addresses have different logins".to_owned()));
            }
            login = Some(this);
        }
        let (scheme, port) = (address.scheme(), address.port());
        let host = address.host();
        let bare = if host.contains(':') {
            format!("{scheme}://[{host}]:{port}")
        } else {
            format!("{scheme}://{host}:{port}")
        };
        servers.push(bare.parse().map_err(|error: io::Error| bad(error.to_string()))?);
    }
    if servers.is_empty() {
        return Err(bad("there is no address".to_owned()));
    }
    Ok((servers, login))
}

/// RFC 3986 section 2.1; a `%` that begins no code stands for itself.
fn percent_decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let digits = after
            .get(..2)
            .filter(|digits| *first == b'%' && digits.iter().all(u8::is_ascii_hexdigit))
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        bytes.push(digits.unwrap_or(*first));
        rest = if digits.is_some() { &after[2..] } else { after };
    }
    String::from_utf8(bytes).ok()
}

/// A file, read to have a clear error before the client tries to: it would take it for a fault of the connection.
fn read(file: &Path) -> Result<String, NatsError> {
    fs::read_to_string(file).map_err(|error| unusable(file, &error))
}

fn unusable(file: &Path, error: &io::Error) -> NatsError {
    NatsError::Config(format!("{}: {error}", file.display()))
}

/// Before an attempt, the first of which has number 1: at once, then doubling from 50 ms to 1 s, less up to half by
/// chance, so that the clients of a server that comes back do not come at the same moment.
fn pause(attempt: usize) -> Duration {
    let Some(doublings) = attempt.checked_sub(2) else {
        return Duration::ZERO;
    };
    let longest = PAUSE.min(Duration::from_millis(50 << doublings.min(10)));
    longest.mul_f64(rand::rng().random_range(0.5..=1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logins_are_taken_out_of_the_addresses() {
        let (addresses, login) = servers("nats://al%69ce:s%40%3a%@a, tls://b:1 ,c").ok().unwrap();
        let shown: Vec<_> = addresses.iter().map(ServerAddr::as_url_str).collect();
        assert_eq!(shown, ["nats://a:4222", "tls://b:1", "nats://c:4222"]);
        assert!(login == Some(Login::User("alice".to_owned(), "s@:%".to_owned())));
        let (addresses, login) = servers("nats://tok%2Fen@[::1]:5").ok().unwrap();
        assert_eq!(addresses[0].as_url_str(), "nats://[::1]:5");
        assert!(login == Some(Login::Token("tok/en".to_owned())));
    }

    #[test]
    fn what_cannot_be_used_is_told_without_secrets() {
        for bad in [
            "",
            " , ",
            "http://u:SECRET@a",
            "ws://u:SECRET@a",
            "nats://u:SECRET@a:b",
            "nats://u:SECRET@",
            "nats://u:SECRET@a,nats://u:OTHER@b",
            "nats://u:%ffSECRET@a",
        ] {
            let Err(error) = servers(bad) else {
                panic!("{bad} is taken");
            };
            assert!(matches!(error, NatsError::Config(_)), "{error}");
            assert!(!error.to_string().contains("SECRET"), "{error}");
        }
        let config = NatsConfig {
            servers: "nats://u:SECRET@a".to_owned(),
            ..NatsConfig::default()
        };
        assert!(!format!("{config:?}").contains("SECRET"));
    }

    #[test]
    fn pauses_grow_to_a_second() {
        assert_eq!(pause(0), Duration::ZERO);
        assert_eq!(pause(1), Duration::ZERO);
        for (attempt, most) in [(2, 50), (3, 100), (6, 800), (7, 1000), (usize::MAX, 1000)] {
            let most = Duration::from_millis(most);
            for _ in 0..100 {
                let pause = pause(attempt);
                assert!(most / 2 <= pause && pause <= most, "{attempt}: {pause:?}");
            }
        }
    }
}
