//! Who is measured, and how it is started.

use std::{
    fs,
    net::TcpStream,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Result;
use serde::{Deserialize, Serialize};

use crate::deploy::{Deployment, Settings, Size, free_port, program, until};

/// Signs tokens where connects are measured with them.
const SECRET: &str = "a secret of the benchmark, 32 bytes or more";

/// A server, or two with what they need.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Row {
    /// The prepared frame.
    Floor,
    /// A bare broadcast.
    Axum,
    /// `fanfare standalone`.
    Fanfare,
    /// socket.io on µWebSockets.js.
    SocketIoUws,
    /// socketioxide.
    Socketioxide,
    /// nats-server's WebSocket.
    Nats,
    /// socket.io on Node's http.
    SocketIoHttp,
    /// Two gateways, a worker, presence, NATS, Redis.
    Cluster,
    /// The same, and messages are not stored.
    ClusterVolatile,
    /// Two nodes with the Redis adapter.
    SocketioxideRedis,
    /// Two nodes with the Redis adapter.
    SocketIoRedis,
    /// Two nodes with the Redis streams adapter.
    SocketIoStreams,
}

impl Row {
    /// All, as in the table.
    pub const ALL: [Self; 12] = [
        Self::Floor,
        Self::Axum,
        Self::Fanfare,
        Self::SocketIoUws,
        Self::Socketioxide,
        Self::Nats,
        Self::SocketIoHttp,
        Self::Cluster,
        Self::ClusterVolatile,
        Self::SocketioxideRedis,
        Self::SocketIoRedis,
        Self::SocketIoStreams,
    ];

    /// As `--only` takes it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Floor => "floor",
            Self::Axum => "axum",
            Self::Fanfare => "fanfare",
            Self::SocketIoUws => "socket.io-uws",
            Self::Socketioxide => "socketioxide",
            Self::Nats => "nats",
            Self::SocketIoHttp => "socket.io-http",
            Self::Cluster => "cluster",
            Self::ClusterVolatile => "cluster-volatile",
            Self::SocketioxideRedis => "socketioxide-redis",
            Self::SocketIoRedis => "socket.io-redis",
            Self::SocketIoStreams => "socket.io-streams",
        }
    }

    /// As the table calls it.
    #[must_use]
    pub fn title(self) -> &'static str {
        match self {
            Self::Floor => "floor: one write a socket, nothing else",
            Self::Axum => "bare axum WebSocket broadcast",
            Self::Fanfare => "Fanfare, standalone",
            Self::SocketIoUws => "socket.io 4 on uWebSockets.js",
            Self::Socketioxide => "socketioxide",
            Self::Nats => "nats-server's own WebSocket",
            Self::SocketIoHttp => "socket.io 4 on Node's http",
            Self::Cluster => "Fanfare, 2 gateways + worker + presence + NATS + Redis",
            Self::ClusterVolatile => "the same, messages not stored",
            Self::SocketioxideRedis => "2 socketioxide + Redis",
            Self::SocketIoRedis => "2 socket.io + Redis adapter",
            Self::SocketIoStreams => "2 socket.io + Redis streams adapter",
        }
    }

    /// Whether it is Fanfare.
    #[must_use]
    pub fn is_fanfare(self) -> bool {
        matches!(self, Self::Fanfare | Self::Cluster | Self::ClusterVolatile)
    }

    /// Whether clients are spread over two servers.
    #[must_use]
    pub fn is_two_nodes(self) -> bool {
        matches!(
            self,
            Self::Cluster
                | Self::ClusterVolatile
                | Self::SocketioxideRedis
                | Self::SocketIoRedis
                | Self::SocketIoStreams
        )
    }

    /// What it adds to the arguments of `fanfare bench`. Only Fanfare's stored messages have one order in a room.
    #[must_use]
    pub fn arguments(self) -> &'static [&'static str] {
        match self {
            Self::Fanfare | Self::Cluster => &["--jwt-secret", SECRET],
            Self::Nats => &["--dialect", "nats", "--order", "report"],
            Self::ClusterVolatile => &["--jwt-secret", SECRET, "--order", "report"],
            _ => &["--order", "report"],
        }
    }

    /// Starts it on the core that this thread runs on.
    ///
    /// # Errors
    /// When something is not installed or does not come up within a minute.
    pub fn start(self, core: Option<usize>) -> Result<Deployment> {
        let settings = Settings {
            core,
            ..Settings::default()
        };
        let tokens = Settings {
            jwt_secret: Some(SECRET.to_owned()),
            ..settings.clone()
        };
        let two = Size {
            gateways: 2,
            workers: 1,
            presences: 1,
        };
        match self {
            Self::Fanfare => Deployment::standalone(tokens),
            Self::Cluster => Deployment::cluster(two, tokens),
            Self::ClusterVolatile => Deployment::cluster(
                two,
                Settings {
                    config: Some(peers().join("volatile.toml")),
                    ..tokens
                },
            ),
            Self::Floor => one(settings, rust("floor")),
            Self::Axum => one(settings, rust("axum-broadcast")),
            Self::Socketioxide => one(settings, rust("socketioxide")),
            Self::SocketIoUws => one(settings, node(&["--engine", "uws"])?),
            Self::SocketIoHttp => one(settings, node(&["--engine", "http"])?),
            Self::Nats => nats(settings),
            Self::SocketioxideRedis => on_redis(settings, || Ok(rust("socketioxide"))),
            Self::SocketIoRedis => on_redis(settings, || node(&["--adapter", "redis"])),
            Self::SocketIoStreams => on_redis(settings, || node(&["--adapter", "streams"])),
        }
    }
}

/// Where the peers are.
pub(super) fn peers() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("peers")
}

fn rust(name: &str) -> Command {
    Command::new(peers().join("../../target/peers/release").join(name))
}

fn node(arguments: &[&str]) -> Result<Command> {
    let mut command = Command::new(program("node")?);
    command.arg(peers().join("node/server.mjs")).args(arguments);
    Ok(command)
}

fn one(settings: Settings, mut command: Command) -> Result<Deployment> {
    let mut deployment = Deployment::empty(settings)?;
    add(&mut deployment, "server", &mut command)?;
    Ok(deployment)
}

fn add(deployment: &mut Deployment, name: &str, command: &mut Command) -> Result<()> {
    let server = deployment.start(name, command.args(["--port", "0"]))?;
    let target = deployment.line(server, "listening on ")?.parse()?;
    deployment.targets.push(target);
    Ok(())
}

fn on_redis(settings: Settings, node: impl Fn() -> Result<Command>) -> Result<Deployment> {
    let mut deployment = Deployment::empty(settings)?;
    let port = free_port()?;
    let mut redis = Command::new(program("redis-server")?);
    redis.args(["--bind", "127.0.0.1", "--port", &port.to_string()]);
    redis.args(["--save", "", "--appendonly", "no"]);
    deployment.start("redis", &mut redis)?;
    until_listening(port)?;
    let url = format!("redis://127.0.0.1:{port}");
    for name in ["node0", "node1"] {
        add(&mut deployment, name, node()?.args(["--redis", &url]))?;
    }
    Ok(deployment)
}

fn nats(settings: Settings) -> Result<Deployment> {
    let mut deployment = Deployment::empty(settings)?;
    let (port, websocket) = (free_port()?, free_port()?);
    let configuration = fs::read_to_string(peers().join("nats.conf"))?
        .replace("WEBSOCKET", &websocket.to_string())
        .replace("PORT", &port.to_string());
    let file = deployment.write("nats.conf", &configuration)?;
    let server = program("nats-server-current").or_else(|_| program("nats-server"))?;
    deployment.start("server", Command::new(server).arg("-c").arg(file))?;
    until_listening(websocket)?;
    deployment.targets.push(([127, 0, 0, 1], websocket).into());
    Ok(deployment)
}

fn until_listening(port: u16) -> Result<()> {
    until("a server listens", || {
        Ok(TcpStream::connect(("127.0.0.1", port)).is_ok().then_some(()))
    })
}
