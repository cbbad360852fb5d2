use std::{fs, io, path::Path, sync::Arc, time::Duration};

use redis::{
    AsyncConnectionConfig, Client, ClientTlsConfig, ConnectionAddr, ConnectionInfo, ErrorKind,
    IntoConnectionInfo, RedisError, RedisResult, TlsCertificates, Value,
    aio::{MultiplexedConnection, PubSub},
    cluster::{ClusterClient, ClusterClientBuilder},
};
use tokio_rustls::rustls;

use super::{
    ConnectError, RedisConfig, Topology,
    connection::{Connection, describe},
    mask::{mask, parts},
};

/// How often a node of a cluster is asked again, with what pauses (ms): a call ends by its own time anyway.
const CLUSTER_RETRIES: u32 = 6;
const CLUSTER_PAUSE_MS: (u64, u64) = (20, 200);

/// What is connected to: the configuration, checked, with its files read.
pub(super) struct Target {
    shown: Arc<str>,
    kind: Kind,
    response_timeout: Duration,
    connect_timeout: Duration,
}

enum Kind {
    Single(ConnectionInfo),
    Cluster {
        client: Box<ClusterClient>,
        nodes: Vec<ConnectionInfo>,
    },
    Sentinel {
        sentinels: Vec<ConnectionInfo>,
        master: String,
    },
}

impl Target {
    pub(super) fn new(config: &RedisConfig) -> Result<Self, ConnectError> {
        let shown = mask(&config.urls);
        let bad = |what: &str| ConnectError::Config(format!("{shown}: {what}"));
        let allowed = |c: char| c.is_ascii_alphanumeric() || "._-:".contains(c);
        if config.prefix.is_empty() || !config.prefix.chars().all(allowed) {
            return Err(bad("the prefix of keys must be letters, digits, . _ - and :"));
        }
        let certificates = certificates(config)?;
        let mut addresses = Vec::new();
        for url in parts(&config.urls) {
            // The error may quote the address.
            let info = url.into_connection_info();
            let mut info =
                info.map_err(|error| bad(error.detail().unwrap_or("not the address of a Redis")))?;
            if matches!(info.addr(), ConnectionAddr::TcpTls { .. })
                && let Some(certificates) = &certificates
            {
                let client = Client::build_with_tls(info, certificates.clone());
                info = client
                    .map_err(|error| bad(&describe(&error)))?
                    .get_connection_info()
                    .clone();
            } else if certificates.is_some() {
                return Err(bad("certificates need addresses with rediss://"));
            }
            let socket = matches!(info.addr(), ConnectionAddr::Unix(_));
            if socket && config.topology != Topology::Single {
                return Err(bad("a socket in the file system leads to a single server only"));
            }
            addresses.push(info);
        }
        let kind = match (&config.topology, addresses.as_slice()) {
            (_, []) => return Err(bad("there is no address")),
            (Topology::Single, [address]) => Kind::Single(address.clone()),
            (Topology::Single, _) => return Err(bad("a single server has one address")),
            (Topology::Cluster, _) => {
                let client = cluster(config, addresses.clone(), certificates);
                let client = Box::new(client.map_err(|error| bad(&describe(&error)))?);
                Kind::Cluster {
                    client,
                    nodes: addresses,
                }
            }
            (Topology::Sentinel { master }, _) => Kind::Sentinel {
                sentinels: addresses,
                master: master.clone(),
            },
        };
        // Another part of the process may have chosen already. Without a choice rustls panics as soon as it is built
        // with two.
        let _ = rustls::crypto::ring::default_provider().install_default();
        Ok(Self {
            shown: shown.into(),
            kind,
            response_timeout: config.response_timeout,
            connect_timeout: config.connect_timeout,
        })
    }

    /// The addresses, masked.
    pub(super) fn shown(&self) -> &str {
        &self.shown
    }

    pub(super) fn is_cluster(&self) -> bool {
        matches!(self.kind, Kind::Cluster { .. })
    }

    pub(super) fn response_timeout(&self) -> Duration {
        self.response_timeout
    }

    /// Tries every address once.
    pub(super) async fn open(&self) -> Result<Connection, ConnectError> {
        match &self.kind {
            Kind::Single(address) => self.node(address).await.map(Connection::Node),
            Kind::Cluster { client, nodes } => {
                let nodes = u32::try_from(nodes.len()).unwrap_or(u32::MAX);
                let within = self.connect_timeout.saturating_mul(nodes.saturating_add(1));
                // Boxed: it is large.
                let opened = tokio::time::timeout(within, Box::pin(client.get_async_connection())).await;
                opened
                    .unwrap_or_else(|_| Err(timed_out()))
                    .map(Connection::Cluster)
            }
            Kind::Sentinel { sentinels, master } => {
                let master = self.master(sentinels, master).await;
                master.map(|(_, connection)| Connection::Node(connection))
            }
        }
        .map_err(|error| self.failed(&error))
    }

    /// Two connections to one server: for what others publish, and to publish by. In a cluster every node has all
    /// messages.
    pub(super) async fn open_feed(&self) -> Result<(PubSub, MultiplexedConnection), ConnectError> {
        let opened = match &self.kind {
            Kind::Single(address) => self.node(address).await.map(|node| (address.clone(), node)),
            Kind::Cluster { nodes, .. } => self.any_node(nodes).await,
            Kind::Sentinel { sentinels, master } => self.master(sentinels, master).await,
        };
        let (address, connection) = opened.map_err(|error| self.failed(&error))?;
        let subscriber = async { Client::open(address)?.get_async_pubsub().await };
        let subscriber = tokio::time::timeout(self.connect_timeout, Box::pin(subscriber)).await;
        let subscriber = subscriber.unwrap_or_else(|_| Err(timed_out()));
        Ok((subscriber.map_err(|error| self.failed(&error))?, connection))
    }

    fn failed(&self, error: &RedisError) -> ConnectError {
        match error.kind() {
            ErrorKind::InvalidClientConfig => ConnectError::Config(format!("{}: {error}", self.shown)),
            _ => ConnectError::Unreachable {
                servers: self.shown.to_string(),
                reason: describe(error),
            },
        }
    }

    async fn any_node(
        &self,
        nodes: &[ConnectionInfo],
    ) -> RedisResult<(ConnectionInfo, MultiplexedConnection)> {
        let mut last = RedisError::from((ErrorKind::InvalidClientConfig, "there is no address"));
        for node in nodes {
            match self.node(node).await {
                Ok(connection) => return Ok((node.clone(), connection)),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    async fn node(&self, address: &ConnectionInfo) -> RedisResult<MultiplexedConnection> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(self.connect_timeout))
            .set_response_timeout(Some(self.response_timeout));
        let client = Client::open(address.clone())?;
        let opened = Box::pin(async {
            let mut connection = client
                .get_multiplexed_async_connection_with_config(&config)
                .await?;
            // A server that wants a login, or is still loading, takes connections all the same.
            let () = redis::cmd("PING").query_async(&mut connection).await?;
            Ok(connection)
        });
        let opened = tokio::time::timeout(self.connect_timeout, opened).await;
        opened.unwrap_or_else(|_| Err(timed_out()))
    }

    /// The first server that a sentinel calls the master and that thinks so itself (the protocol of
    /// <https://redis.io/docs/latest/develop/reference/sentinel-clients/>).
    async fn master(
        &self,
        sentinels: &[ConnectionInfo],
        name: &str,
    ) -> RedisResult<(ConnectionInfo, MultiplexedConnection)> {
        let mut last = RedisError::from((ErrorKind::EmptySentinelList, "there is no sentinel"));
        for sentinel in sentinels {
            match self.master_by(sentinel, name).await {
                Ok(found) => return Ok(found),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    async fn master_by(
        &self,
        sentinel: &ConnectionInfo,
        name: &str,
    ) -> RedisResult<(ConnectionInfo, MultiplexedConnection)> {
        let login = sentinel.redis_settings().clone().set_db(0);
        let with_login = sentinel.clone().set_redis_settings(login);
        let mut asked = match self.node(&with_login).await {
            // Sentinels have logins of their own, most often none.
            Err(error) if error.kind() == ErrorKind::AuthenticationFailed => {
                let plain = sentinel.clone().set_redis_settings(Default::default());
                self.node(&plain).await.map_err(|_| error)?
            }
            opened => opened?,
        };
        let mut question = redis::cmd("SENTINEL");
        question.arg("GET-MASTER-ADDR-BY-NAME").arg(name);
        let address: Option<(String, u16)> = question.query_async(&mut asked).await?;
        let Some((host, port)) = address else {
            return Err(RedisError::from((
                ErrorKind::MasterNameNotFoundBySentinel,
                "a sentinel knows no master of this name",
                name.to_owned(),
            )));
        };
        let address = match sentinel.addr().clone() {
            ConnectionAddr::TcpTls {
                insecure, tls_params, ..
            } => ConnectionAddr::TcpTls {
                host,
                port,
                insecure,
                tls_params,
            },
            _ => ConnectionAddr::Tcp(host, port),
        };
        let master = sentinel.clone().set_addr(address);
        let mut connection = self.node(&master).await?;
        let role: Vec<Value> = redis::cmd("ROLE").query_async(&mut connection).await?;
        match role.first() {
            Some(Value::BulkString(role)) if role == b"master" => Ok((master, connection)),
            _ => Err(RedisError::from((
                ErrorKind::MasterNameNotFoundBySentinel,
                "what a sentinel calls the master is none",
            ))),
        }
    }
}

fn cluster(
    config: &RedisConfig,
    nodes: Vec<ConnectionInfo>,
    certificates: Option<TlsCertificates>,
) -> RedisResult<ClusterClient> {
    let (least, most) = CLUSTER_PAUSE_MS;
    let builder = ClusterClientBuilder::new(nodes)
        .retries(CLUSTER_RETRIES)
        .min_retry_wait(least)
        .max_retry_wait(most)
        .connection_timeout(config.connect_timeout)
        .response_timeout(config.response_timeout);
    match certificates {
        Some(certificates) => builder.certs(certificates),
        None => builder,
    }
    .build()
}

fn certificates(config: &RedisConfig) -> Result<Option<TlsCertificates>, ConnectError> {
    if config.ca.is_none() && config.client_certificate.is_none() {
        return Ok(None);
    }
    let client_tls = match &config.client_certificate {
        Some((certificate, key)) => Some(ClientTlsConfig {
            client_cert: read(certificate)?,
            client_key: read(key)?,
        }),
        None => None,
    };
    let root_cert = config.ca.as_deref().map(read).transpose()?;
    Ok(Some(TlsCertificates {
        client_tls,
        root_cert,
    }))
}

fn read(file: &Path) -> Result<Vec<u8>, ConnectError> {
    fs::read(file).map_err(|error| ConnectError::Config(format!("{}: {error}", file.display())))
}

fn timed_out() -> RedisError {
    io::Error::from(io::ErrorKind::TimedOut).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(urls: &str) -> RedisConfig {
        RedisConfig {
            urls: urls.to_owned(),
            ..RedisConfig::default()
        }
    }

    #[test]
    fn what_cannot_be_used_is_told_without_secrets() {
        let cluster = |urls| RedisConfig {
            topology: Topology::Cluster,
            ..config(urls)
        };
        for bad in [
            config(""),
            config(" , "),
            config("http://u:SECRET@a"),
            config("u:SECRET@a"),
            config("redis://u:SECRET@a:b"),
            config("redis://u:SECRET@a/x"),
            config("redis://u:SECRET@a,redis://u:SECRET@b"),
            cluster("redis://u:SECRET@a,redis://u:SECRET2@b"),
            cluster("unix:///a?pass=SECRET"),
            RedisConfig {
                prefix: "a{b}".to_owned(),
                ..config("redis://u:SECRET@a")
            },
            RedisConfig {
                ca: Some("/nowhere/ca.pem".into()),
                ..config("rediss://u:SECRET@a")
            },
        ] {
            let Err(error) = Target::new(&bad) else {
                panic!("{bad:?} is taken");
            };
            assert!(matches!(error, ConnectError::Config(_)), "{error}");
            assert!(!error.to_string().contains("SECRET"), "{error}");
            assert!(!format!("{bad:?}").contains("SECRET"));
        }
        assert!(Target::new(&config("rediss://u:SECRET@a:1/2?protocol=resp3")).is_ok());
    }
}
