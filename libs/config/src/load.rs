//! From layers of texts to a typed configuration.

mod limits;
mod reader;
mod telemetry;

use std::{fmt, fmt::Display, net::SocketAddr, path::Path};

use figment::{
    Figment, Profile,
    providers::{Format, Serialized, Toml},
    value::{Dict, Value},
};

pub(crate) use self::reader::Reader;
use crate::{
    Admin, AdminUi, Bus, Config, Cors, Fanout, Gateway, Grpc, Namespace, Presence, Redis, RedisEmitter,
    RedisTopology, Role, Rooms, Secret, app, check, identity, namespaces, notifications,
    settings::{self, SETTINGS},
};

const PREFIX: &str = "FANFARE_";
/// Schemes of Redis' addresses.
const REDIS: [&str; 6] = ["redis", "rediss", "valkey", "valkeys", "redis+unix", "unix"];
/// Longest `redis_emitter.key`, in characters.
const MAX_EMITTER_KEY: usize = 128;
/// Changes the port of `gateway.listen`, whoever set its host.
const PORT_VARIABLE: &str = "WEBSOCKET_PORT";
/// The same as a flag.
const PORT_KEY: &str = "gateway.port";

/// A configuration that holds, and what is odd about where it came from.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The configuration.
    pub config: Config,
    /// For the log.
    pub warnings: Vec<String>,
}

/// Everything that is wrong, at least one thing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Errors(pub Vec<Problem>);

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The key, or the file.
    pub key: String,
    /// What is wrong with it. Never shows a secret's value.
    pub problem: String,
}

impl Display for Errors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, Problem { key, problem }) in self.0.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            write!(f, "{key}: {problem}")?;
            if let Some(setting) = settings::find(key) {
                write!(f, " ({})", setting.variable())?;
            }
        }
        Ok(())
    }
}

impl Config {
    /// Loads and validates: defaults, then `file`, then `env`, then `overrides` (keys as in the file; `gateway.port`
    /// changes the port of `gateway.listen`). Of two variables for one setting the one that begins with `FANFARE_`
    /// counts, in whatever order `env` has them.
    ///
    /// # Errors
    /// Every mistake there is.
    pub fn load(
        role: Role,
        file: Option<&Path>,
        env: impl IntoIterator<Item = (String, String)>,
        overrides: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Loaded, Errors> {
        let mut problems = Vec::new();
        let mut warnings = Vec::new();
        let mut layers = Figment::new();
        if let Some(path) = file {
            match std::fs::read_to_string(path) {
                Ok(text) => match toml::from_str::<Dict>(&text) {
                    Ok(dict) => {
                        unknown_keys("", &dict, &mut problems);
                        layers = layers.merge(Toml::string(&text));
                    }
                    Err(error) => problems.push(problem(&path.display(), syntax(&text, &error))),
                },
                Err(error) => problems.push(problem(&path.display(), error)),
            }
        }
        let (mut older, mut own, mut port) = (Vec::new(), Vec::new(), None);
        for (variable, value) in env {
            match kind_of(&variable) {
                Variable::Older(key) => older.push((key, value)),
                Variable::Own(key) => own.push((key, value)),
                Variable::Port => port = Some(value),
                Variable::Unknown => warnings.push(format!("{variable} is no setting; see --help")),
                Variable::Other => {}
            }
        }
        for (key, value) in older.into_iter().chain(own) {
            layers = layers.merge(text(key, &value));
        }
        if let Some(port) = port {
            layers = with_port(layers, role, PORT_VARIABLE, &port, &mut problems);
        }
        for (key, value) in overrides {
            if key == PORT_KEY {
                layers = with_port(layers, role, PORT_KEY, &value, &mut problems);
                continue;
            }
            match settings::find(&key) {
                Some(setting) => layers = layers.merge(text(setting.key, &value)),
                None => problems.push(problem(&key, "is no setting; see --help")),
            }
        }
        let mut reader = Reader {
            role,
            layers,
            problems,
        };
        let config = reader.config();
        reader.certificates();
        reader.cookie_needs_origins(&config);
        if reader.problems.is_empty() {
            warnings.extend(identity::doubts(&config));
            warnings.extend(app::doubts(&config));
            Ok(Loaded { config, warnings })
        } else {
            Err(Errors(reader.problems))
        }
    }

    /// The defaults of a role for tests: on loopback, on ports of the system's choice.
    #[must_use]
    pub fn for_tests(role: Role) -> Self {
        let mut reader = Reader {
            role,
            layers: Figment::new(),
            problems: Vec::new(),
        };
        let mut config = reader.config();
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        config.gateway.listen = any;
        config.gateway.grpc_listen = any;
        config.fanout.grpc_listen = any;
        config.fanout.http_listen = any;
        config.presence.grpc_listen = any;
        config.admin.listen = any;
        config
    }
}

pub(crate) fn problem(key: &impl ToString, problem: impl Display) -> Problem {
    Problem {
        key: key.to_string(),
        problem: problem.to_string(),
    }
}

/// Where the file is no TOML. Not the parser's own words: they quote the line, and a secret may stand in it.
fn syntax(text: &str, error: &toml::de::Error) -> String {
    let before = error.span().and_then(|span| text.get(..span.start));
    let line = before.map_or(1, |before| before.matches('\n').count() + 1);
    format!("line {line}: {}", error.message())
}

/// A text as a layer of its own; numbers and lists are read from it when they are asked for.
fn text(key: &str, value: &str) -> impl figment::Provider {
    Serialized::from(value, Profile::Default).key(key)
}

fn unknown_keys(prefix: &str, dict: &Dict, problems: &mut Vec<Problem>) {
    for (name, value) in dict {
        let key = if prefix.is_empty() {
            name.clone()
        } else {
            format!("{prefix}.{name}")
        };
        let lists = ["namespaces", "issuers", "api.keys"];
        let is_list = lists.contains(&key.as_str()) || notifications::TABLES.contains(&key.as_str());
        if is_list || settings::find(&key).is_some() {
            continue;
        }
        let is_section = SETTINGS
            .iter()
            .any(|setting| setting.key.starts_with(&format!("{key}.")));
        match value {
            Value::Dict(_, inner) if is_section => unknown_keys(&key, inner, problems),
            _ => problems.push(problem(&key, "is no setting; see --help")),
        }
    }
}

enum Variable {
    /// Sets a key by its older name.
    Older(&'static str),
    /// Sets a key by its own name.
    Own(&'static str),
    Port,
    /// Looks like ours and is not.
    Unknown,
    Other,
}

fn kind_of(variable: &str) -> Variable {
    if variable == PORT_VARIABLE {
        return Variable::Port;
    }
    if let Some(setting) = SETTINGS.iter().find(|setting| setting.variable() == variable) {
        return Variable::Own(setting.key);
    }
    match SETTINGS.iter().find(|setting| setting.legacy == Some(variable)) {
        Some(setting) => Variable::Older(setting.key),
        None if variable.starts_with(PREFIX) => Variable::Unknown,
        None => Variable::Other,
    }
}

/// Changes the port of the public address and leaves its host as it is: who listens on loopback only goes on doing so.
fn with_port(layers: Figment, role: Role, from: &str, port: &str, problems: &mut Vec<Problem>) -> Figment {
    const KEY: &str = "gateway.listen";
    let Ok(port) = port.trim().parse::<u16>() else {
        problems.push(problem(&from, format!("{port:?} is no port")));
        return layers;
    };
    let mut reader = Reader {
        role,
        layers,
        problems: Vec::new(),
    };
    let listen = reader.string(KEY);
    match listen.parse::<SocketAddr>() {
        Ok(mut address) => {
            address.set_port(port);
            reader.layers.merge(text(KEY, &address.to_string()))
        }
        // Reported when the address itself is read.
        Err(_) => reader.layers,
    }
}

impl Reader {
    fn config(&mut self) -> Config {
        Config {
            role: self.role,
            environment: self.not_empty("environment"),
            gateway: Gateway {
                listen: self.address("gateway.listen"),
                grpc_listen: self.address("gateway.grpc_listen"),
                advertise: self.optional_as("gateway.advertise", "must be host:port", check::is_host_port),
                path: self.path("gateway.path"),
                recovery: self.seconds("gateway.recovery_seconds", 0, 86_400),
                drain: self.seconds("gateway.drain_seconds", 0, 3600),
                max_connection_age: self.seconds("gateway.max_connection_age_seconds", 0, 604_800),
                ping_interval: self.millis("gateway.ping_interval_ms", 100),
                ping_timeout: self.millis("gateway.ping_timeout_ms", 100),
                upgrade_timeout: self.millis("gateway.upgrade_timeout_ms", 100),
                connect_timeout: self.millis("gateway.connect_timeout_ms", 100),
                max_payload: self.number("gateway.max_payload_bytes", 1024, 128 << 20),
                max_connections: self.number("gateway.max_connections", 0, usize::MAX),
                trusted_proxies: self.networks("gateway.trusted_proxies"),
                proxy_protocol: self
                    .parse("gateway.proxy_protocol", "neither true nor false")
                    .unwrap_or_default(),
                allow_eio3: self.one_of("gateway.allow_eio3", &[("false", false), ("true", true)]),
                allow_msgpack: self.one_of("gateway.allow_msgpack", &[("false", false), ("true", true)]),
                compress_from: self.number("gateway.compress_from_bytes", 0, usize::MAX),
                send_queue: self.number("gateway.send_queue_bytes", 65_536, usize::MAX),
                handshake_timeout: self.millis("gateway.handshake_timeout_ms", 100),
                body_timeout: self.millis("gateway.body_timeout_ms", 100),
                max_header_bytes: self.number("gateway.max_header_bytes", 8192, 1 << 20),
                interest_linger: self.seconds("gateway.interest_linger_seconds", 0, 3600),
                tls_cert: self.file("gateway.tls_cert"),
                tls_key: self.file("gateway.tls_key"),
            },
            fanout: Fanout {
                grpc_listen: self.address("fanout.grpc_listen"),
                http_listen: self.address("fanout.http_listen"),
            },
            presence: Presence {
                grpc_listen: self.address("presence.grpc_listen"),
                grace: self.seconds("presence.grace_seconds", 0, 600),
                crowd_size: self.number("presence.crowd_size", 1, 1_000_000),
            },
            admin: Admin {
                listen: self.address("admin.listen"),
                tls_cert: self.file("admin.tls_cert"),
                tls_key: self.file("admin.tls_key"),
            },
            bus: Bus {
                partitions: self.number("bus.partitions", 1, 1024),
                replicas: self.number("bus.replicas", 1, 5),
                max_age: self.hours("bus.max_age_hours", 1, 8760),
                max_messages_per_room: self.number("bus.max_messages_per_room", 1, 1_000_000),
                url: self.servers(
                    "bus.url",
                    &[Role::Gateway, Role::Fanout, Role::Presence],
                    &["nats", "tls"],
                    true,
                ),
                credentials: self.file("bus.credentials"),
                tls_ca: self.file("bus.tls_ca"),
                tls_cert: self.file("bus.tls_cert"),
                tls_key: self.file("bus.tls_key"),
            },
            redis: Redis {
                url: self.servers("redis.url", &[Role::Fanout, Role::Presence], &REDIS, false),
                topology: self.one_of(
                    "redis.topology",
                    &[
                        ("single", RedisTopology::Single),
                        ("cluster", RedisTopology::Cluster),
                        ("sentinel", RedisTopology::Sentinel),
                    ],
                ),
                sentinel_master: self.not_empty("redis.sentinel_master"),
                tls_ca: self.file("redis.tls_ca"),
                tls_cert: self.file("redis.tls_cert"),
                tls_key: self.file("redis.tls_key"),
            },
            redis_emitter: self.redis_emitter(),
            grpc: Grpc {
                tls_ca: self.file("grpc.tls_ca"),
                tls_cert: self.file("grpc.tls_cert"),
                tls_key: self.file("grpc.tls_key"),
                tls_server_name: self.optional("grpc.tls_server_name"),
            },
            issuers: self.issuers(),
            auth: self.auth(),
            rooms: Rooms {
                public: self.list("rooms.public"),
            },
            namespaces: self.namespaces(),
            notifications: self.notifications(),
            cors: Cors {
                origins: self.origins("cors.origins"),
            },
            api: self.api(),
            limits: self.limits(),
            app: self.app(),
            admin_ui: self.admin_ui(),
            log: self.log(),
            trace: self.trace(),
        }
    }

    fn redis_emitter(&mut self) -> RedisEmitter {
        let enabled = self.one_of("redis_emitter.enabled", &[("false", false), ("true", true)]);
        let key = self.not_empty("redis_emitter.key");
        if key.chars().nth(MAX_EMITTER_KEY).is_some() || key.chars().any(char::is_control) {
            self.wrong(
                "redis_emitter.key",
                format!("must have at most {MAX_EMITTER_KEY} characters, no control characters"),
            );
        }
        // It has no Redis of its own.
        let needed_by: &[Role] = if enabled { &[Role::Standalone] } else { &[] };
        let url = self.servers("redis_emitter.url", needed_by, &REDIS, false);
        if url.as_ref().is_some_and(|url| url.expose().contains(',')) {
            self.wrong("redis_emitter.url", "must be one server");
        }
        RedisEmitter { enabled, key, url }
    }

    fn admin_ui(&mut self) -> AdminUi {
        let password = self.optional("admin_ui.password");
        // It is not quoted: it may be the password itself.
        if password.as_ref().is_some_and(|hash| !hash.starts_with("$2")) {
            self.wrong("admin_ui.password", "is no bcrypt hash");
        }
        AdminUi {
            username: self.not_empty("admin_ui.username"),
            password: password.map(Secret::from),
            readonly: self.one_of("admin_ui.readonly", &[("false", false), ("true", true)]),
            events: self.one_of("admin_ui.events", &[("true", true), ("false", false)]),
        }
    }

    /// A certificate comes with its key; between the roles, where both sides show one, with the authority too.
    fn certificates(&mut self) {
        let groups: [&[&str]; 6] = [
            &["gateway.tls_cert", "gateway.tls_key"],
            &["admin.tls_cert", "admin.tls_key"],
            &["api.tls_cert", "api.tls_key"],
            &["bus.tls_cert", "bus.tls_key"],
            &["redis.tls_cert", "redis.tls_key"],
            &["grpc.tls_ca", "grpc.tls_cert", "grpc.tls_key"],
        ];
        for group in groups {
            let (set, missing): (Vec<&str>, Vec<&str>) =
                group.iter().partition(|key| self.optional(key).is_some());
            if set.is_empty() {
                continue;
            }
            for key in missing {
                self.wrong(key, format!("is needed beside {}", set.join(" and ")));
            }
        }
    }

    fn namespaces(&mut self) -> Vec<Namespace> {
        match self.layers.find_value("namespaces") {
            Ok(value) => namespaces::read(&value, &mut self.problems),
            Err(_) => namespaces::defaults(),
        }
    }
}

impl Loaded {
    /// A configuration from the process's own environment.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn from_process(
        role: Role,
        file: Option<&Path>,
        overrides: Vec<(String, String)>,
    ) -> Result<Self, Errors> {
        let env = std::env::vars_os()
            .filter_map(|(key, value)| Some((key.into_string().ok()?, value.into_string().ok()?)));
        Config::load(role, file, env, overrides)
    }
}
