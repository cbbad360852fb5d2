//! Redis: connecting to it, and asking it within a bounded time.
//!
//! A role has one [`Redis`], which all its engines share. The connection is made again for ever after it was lost, and
//! is watched while nobody asks. A call waits for a connection within its own time, so a restart that is quick enough
//! is not seen at all; what was under way when the connection broke is an error, since it may have been done.
//!
//! A login needs `PING`, `EVAL`, `EVALSHA` and the commands of the scripts on keys that begin with the prefix; behind
//! sentinels also `ROLE`, in a cluster `CLUSTER SLOTS`.

use std::{fmt, io, path::PathBuf, sync::Arc, time::Duration};

use ::redis::{Cmd, FromRedisValue, Pipeline, RedisError, RedisResult, ToRedisArgs, Value};
use tokio::time::Instant;

use crate::RegistryError;

mod connection;
mod counts;
mod examine;
mod feed;
mod keeper;
mod keys;
mod mask;
mod script;
mod target;

use connection::{Connection, Request, describe};
pub use counts::CallCounts;
use counts::Counts;
pub use examine::RedisReport;
pub use feed::{Feed, FeedNews, Wanted};
use keeper::Keeper;
pub use keys::Keys;
pub use mask::mask;
pub use script::Script;
use target::Target;

/// How often a wait is told of again.
const REMIND: Duration = Duration::from_secs(5);

/// Where Redis is and how it is asked.
#[derive(Clone, PartialEq, Eq)]
pub struct RedisConfig {
    /// `redis://` or `rediss://` (TLS) addresses, separated by commas; user, password and database may stand in them.
    /// One for [`Topology::Single`]; some nodes of the cluster; the sentinels. The sentinels' logins are tried at the
    /// sentinels, which may have none, and hold for the master.
    pub urls: String,
    /// What stands there.
    pub topology: Topology,
    /// Certificates (PEM) of the authorities that may have signed the servers', instead of the system's.
    pub ca: Option<PathBuf>,
    /// Certificate chain (PEM) to show to the servers, and its key.
    pub client_certificate: Option<(PathBuf, PathBuf)>,
    /// Longest time of a call, waiting for a connection included.
    pub response_timeout: Duration,
    /// Longest time until one server has taken us, TLS and login included.
    pub connect_timeout: Duration,
    /// What every key begins with: letters, digits, `.`, `_`, `-` and `:`.
    pub prefix: String,
}

/// How Redis is set up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Topology {
    /// One server, or one name that always leads to the master.
    #[default]
    Single,
    /// Redis Cluster.
    Cluster,
    /// A master that sentinels know.
    Sentinel {
        /// What they call it.
        master: String,
    },
}

impl Default for RedisConfig {
    fn default() -> Self {
        Self {
            urls: "redis://127.0.0.1:6379".to_owned(),
            topology: Topology::Single,
            ca: None,
            client_certificate: None,
            response_timeout: Duration::from_secs(1),
            connect_timeout: Duration::from_secs(2),
            prefix: "fanfare".to_owned(),
        }
    }
}

impl fmt::Debug for RedisConfig {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("RedisConfig")
            .field("urls", &mask(&self.urls))
            .field("topology", &self.topology)
            .field("ca", &self.ca)
            .field("client_certificate", &self.client_certificate)
            .field("response_timeout", &self.response_timeout)
            .field("connect_timeout", &self.connect_timeout)
            .field("prefix", &self.prefix)
            .finish()
    }
}

/// Why there is no connection. Shows no secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConnectError {
    /// An address, file or name that cannot be used: waiting does not help.
    #[error("Redis cannot be used as configured: {0}")]
    Config(String),
    /// No server takes us at the moment.
    #[error("Redis at {servers}: {reason}")]
    Unreachable {
        /// The addresses, masked.
        servers: String,
        /// What the last one tried said.
        reason: String,
    },
}

/// Connects, trying every address once.
///
/// # Errors
/// [`ConnectError`]; the attempt is bounded by `connect_timeout` an address and one more for the master that sentinels
/// name. Cancelling gives the attempt up.
pub async fn connect(config: &RedisConfig) -> Result<Redis, ConnectError> {
    let target = Target::new(config)?;
    let connection = target.open().await?;
    Ok(Redis::new(config, target, connection))
}

/// Connects as soon as a server takes us, telling in the log what is waited for: at once, every 5 s, and when it says
/// something else. Ends when dropped.
///
/// # Errors
/// [`ConnectError::Config`] only: nothing else is worth giving up for.
pub async fn connect_waiting(config: &RedisConfig) -> Result<Redis, ConnectError> {
    let target = Target::new(config)?;
    let mut told: Option<(String, Instant)> = None;
    let mut attempt = 1;
    loop {
        match target.open().await {
            Ok(connection) => return Ok(Redis::new(config, target, connection)),
            Err(ConnectError::Unreachable { servers, reason }) => {
                let news = told
                    .as_ref()
                    .is_none_or(|(last, at)| *last != reason || at.elapsed() >= REMIND);
                if news {
                    tracing::warn!("waiting for Redis at {servers}: {reason}");
                    told = Some((reason, Instant::now()));
                }
            }
            Err(error @ ConnectError::Config(_)) => return Err(error),
        }
        attempt += 1;
        tokio::time::sleep(keeper::pause(attempt)).await;
    }
}

/// A connection to Redis that is made again when it is lost. Cheap to clone; it ends with the last clone.
#[derive(Clone)]
pub struct Redis {
    shared: Arc<Shared>,
}

struct Shared {
    keeper: Keeper,
    timeout: Duration,
    keys: Keys,
    counts: Counts,
}

impl fmt::Debug for Redis {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Redis")
            .field("connected", &self.is_connected())
            .field("keys", &self.shared.keys)
            .finish_non_exhaustive()
    }
}

impl Redis {
    fn new(config: &RedisConfig, target: Target, connection: Connection) -> Self {
        Self {
            shared: Arc::new(Shared {
                keeper: Keeper::start(target, connection),
                timeout: config.response_timeout,
                keys: Keys::new(&config.prefix),
                counts: Counts::default(),
            }),
        }
    }

    /// Runs a script, by its digest where the server knows it. `keys` and `args` are a value, a tuple or a list; in a
    /// cluster the keys must lie in one slot.
    ///
    /// # Errors
    /// [`RegistryError::Unavailable`], within `response_timeout`, when it cannot be asked, does not answer, refuses, or
    /// answers something else than a `T`. The script may have run all the same; in a cluster also twice, whatever the
    /// outcome is, because the call is repeated when a node was lost. Cancelling leaves that open too.
    pub async fn invoke<T: FromRedisValue>(
        &self,
        script: &Script,
        keys: impl ToRedisArgs,
        args: impl ToRedisArgs,
    ) -> Result<T, RegistryError> {
        let call = script.call(keys.to_redis_args(), args.to_redis_args());
        self.ask(script.name(), Request::Script(&call)).await
    }

    /// Sends one command, counted as `name`.
    ///
    /// # Errors
    /// As [`Redis::invoke`].
    pub async fn query<T: FromRedisValue>(
        &self,
        name: &'static str,
        command: &Cmd,
    ) -> Result<T, RegistryError> {
        self.ask(name, Request::Command(command)).await
    }

    /// Sends several commands at once, counted as one call `name`. In a cluster their keys must lie in one slot.
    ///
    /// # Errors
    /// As [`Redis::invoke`], and when one of them fails; unless the pipeline is atomic the others have been done.
    pub async fn pipeline<T: FromRedisValue>(
        &self,
        name: &'static str,
        pipeline: &Pipeline,
    ) -> Result<T, RegistryError> {
        self.ask(name, Request::Pipeline(pipeline)).await
    }

    /// Whether the connection stands, as far as is known: a silent cut is noticed within about 2 s.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.shared.keeper.is_connected()
    }

    /// The keys of this installation.
    #[must_use]
    pub fn keys(&self) -> &Keys {
        &self.shared.keys
    }

    /// What was asked so far, by name.
    #[must_use]
    pub fn calls(&self) -> Vec<CallCounts> {
        self.shared.counts.all()
    }

    async fn ask<T: FromRedisValue>(
        &self,
        name: &'static str,
        request: Request<'_>,
    ) -> Result<T, RegistryError> {
        let value = self.answer(name, request).await;
        value
            .and_then(|value| Ok(T::from_redis_value(value)?))
            .map_err(|error| RegistryError::Unavailable(format!("Redis: {}", describe(&error))))
    }

    async fn answer(&self, name: &'static str, request: Request<'_>) -> RedisResult<Value> {
        let answer = self.answer_uncounted(request).await;
        self.shared.counts.add(name, answer.is_err());
        answer
    }

    async fn answer_uncounted(&self, request: Request<'_>) -> RedisResult<Value> {
        let shared = &self.shared;
        let deadline = Instant::now() + shared.timeout;
        let (generation, mut connection) = shared.keeper.connection(deadline).await?;
        let answer = tokio::time::timeout_at(deadline, connection.run(request)).await;
        let answer =
            answer.unwrap_or_else(|_| Err(RedisError::from(io::Error::from(io::ErrorKind::TimedOut))));
        if let Err(error) = &answer
            && connection::is_broken(error)
        {
            shared.keeper.broken(generation, describe(error));
        }
        answer
    }
}
