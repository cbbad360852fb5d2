//! From layers of texts to a typed configuration.

mod limits;

use std::{
    fmt,
    fmt::Display,
    net::SocketAddr,
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use figment::{
    Figment, Profile,
    providers::{Format, Serialized, Toml},
    value::{Dict, Value},
};
use tracing_subscriber::EnvFilter;

use crate::{
    Admin, Api, App, Bus, Config, Cors, Fanout, Gateway, Grpc, Log, LogFormat, Namespace, Presence, Redis,
    RedisTopology, Role, Rooms, Secret, check, identity, namespaces,
    settings::{self, SETTINGS},
};

const PREFIX: &str = "FANFARE_";
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
        if key == "namespaces" || key == "issuers" || settings::find(&key).is_some() {
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

pub(crate) struct Reader {
    pub(crate) role: Role,
    pub(crate) layers: Figment,
    pub(crate) problems: Vec<Problem>,
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
                send_queue: self.number("gateway.send_queue_bytes", 65_536, usize::MAX),
                handshake_timeout: self.millis("gateway.handshake_timeout_ms", 100),
                body_timeout: self.millis("gateway.body_timeout_ms", 100),
                max_header_bytes: self.number("gateway.max_header_bytes", 8192, 1 << 20),
                interest_linger: self.seconds("gateway.interest_linger_seconds", 0, 3600),
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
                url: self.servers(
                    "redis.url",
                    &[Role::Fanout, Role::Presence],
                    &["redis", "rediss", "valkey", "valkeys", "redis+unix", "unix"],
                    false,
                ),
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
            cors: Cors {
                origins: self.origins("cors.origins"),
            },
            api: Api {
                key: self.optional("api.key").map(Secret::from),
            },
            limits: self.limits(),
            app: App {
                webhook_url: self.http_url("app.webhook_url"),
                webhook_secret: self.optional("app.webhook_secret").map(Secret::from),
                timeout: self.millis("app.timeout_ms", 1),
                authorize_url: self.http_url("app.authorize_url"),
            },
            log: Log {
                filter: self.log_filter("log.filter"),
                format: self.one_of(
                    "log.format",
                    &[("text", LogFormat::Text), ("json", LogFormat::Json)],
                ),
            },
        }
    }

    /// A certificate comes with its key; between the roles, where both sides show one, with the authority too.
    fn certificates(&mut self) {
        let groups: [&[&str]; 3] = [
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

    /// A file that is there.
    pub(crate) fn file(&mut self, key: &str) -> Option<PathBuf> {
        let path = PathBuf::from(self.optional(key)?);
        if !path.is_file() {
            self.wrong(key, format!("{} is no file", path.display()));
        }
        Some(path)
    }

    pub(crate) fn wrong(&mut self, key: &str, what: impl Display) {
        self.problems.push(problem(&key, what));
    }

    /// The value as text, lists joined by commas; the default when it is set nowhere.
    fn string(&mut self, key: &str) -> String {
        let default = settings::find(key)
            .map(|setting| setting.default_in(self.role))
            .unwrap_or_default();
        match self.layers.find_value(key) {
            Err(_) => default.to_owned(),
            Ok(value) => as_text(&value).unwrap_or_else(|| {
                self.wrong(key, "must be a single value");
                default.to_owned()
            }),
        }
    }

    pub(crate) fn optional(&mut self, key: &str) -> Option<String> {
        Some(self.string(key)).filter(|text| !text.is_empty())
    }

    fn not_empty(&mut self, key: &str) -> String {
        let text = self.string(key);
        if text.trim().is_empty() {
            self.wrong(key, "must not be empty");
        }
        text
    }

    fn log_filter(&mut self, key: &str) -> String {
        let filter = self.string(key);
        if let Err(error) = EnvFilter::try_new(&filter) {
            self.wrong(key, error);
        }
        filter
    }

    pub(crate) fn optional_as(
        &mut self,
        key: &str,
        what: &str,
        holds: impl Fn(&str) -> bool,
    ) -> Option<String> {
        let value = self.optional(key);
        if let Some(text) = value.as_deref().filter(|text| !holds(text)) {
            self.wrong(key, format!("{text:?} {what}"));
        }
        value
    }

    pub(crate) fn http_url(&mut self, key: &str) -> Option<String> {
        self.optional_as(
            key,
            "must be a URL that begins with http:// or https://",
            |text| check::is_url(text, &["http", "https"]),
        )
    }

    /// Servers to connect to. Passwords stand in them, so no message shows them.
    fn servers(
        &mut self,
        key: &str,
        needed_by: &[Role],
        schemes: &[&str],
        bare_hosts: bool,
    ) -> Option<Secret> {
        let value = self.optional(key);
        match &value {
            None if needed_by.contains(&self.role) => {
                self.wrong(key, format!("is required in {}", self.role.as_str()));
            }
            Some(text) if !check::are_servers(text, schemes, bare_hosts) => {
                let schemes = schemes.join("://, ");
                self.wrong(
                    key,
                    format!("must be servers with hosts, comma-separated; schemes: {schemes}://"),
                );
            }
            Some(_) | None => {}
        }
        value.map(Secret::from)
    }

    fn list(&mut self, key: &str) -> Vec<String> {
        let text = self.string(key);
        text.split(',')
            .map(|item| item.trim().to_owned())
            .filter(|item| !item.is_empty())
            .collect()
    }

    fn origins(&mut self, key: &str) -> Vec<String> {
        let origins = self.list(key);
        if origins.len() > 1 && origins.iter().any(|origin| origin == "*") {
            self.wrong(key, "* allows any origin and stands alone");
        }
        for origin in origins.iter().filter(|origin| *origin != "*") {
            let rest = origin
                .strip_prefix("http://")
                .or_else(|| origin.strip_prefix("https://"));
            if rest.is_none_or(|rest| rest.is_empty() || rest.trim_end_matches('/').contains('/')) {
                self.wrong(
                    key,
                    format!("{origin:?} is no origin, e.g. https://app.example.com"),
                );
            }
        }
        origins
    }

    fn parse<T: FromStr>(&mut self, key: &str, what: &str) -> Option<T> {
        let text = self.string(key);
        let parsed = text.parse().ok();
        if parsed.is_none() {
            self.wrong(key, format!("{text:?} is {what}"));
        }
        parsed
    }

    fn address(&mut self, key: &str) -> SocketAddr {
        self.parse(key, "no address, e.g. 0.0.0.0:3001")
            .unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 0)))
    }

    pub(crate) fn number<T: FromStr + PartialOrd + Display + Copy>(
        &mut self,
        key: &str,
        min: T,
        max: T,
    ) -> T {
        match self.parse::<T>(key, "no whole number in range") {
            Some(number) if number < min || number > max => {
                self.wrong(key, format!("{number} is not from {min} to {max}"));
                min
            }
            Some(number) => number,
            None => min,
        }
    }

    /// In milliseconds.
    pub(crate) fn duration(&mut self, key: &str, min: u64, max: u64) -> Duration {
        Duration::from_millis(self.number(key, min, max))
    }

    fn millis(&mut self, key: &str, min: u64) -> Duration {
        Duration::from_millis(self.number(key, min, 86_400_000))
    }

    pub(crate) fn seconds(&mut self, key: &str, min: u64, max: u64) -> Duration {
        Duration::from_secs(self.number(key, min, max))
    }

    fn hours(&mut self, key: &str, min: u64, max: u64) -> Duration {
        Duration::from_secs(self.number(key, min, max) * 3600)
    }

    pub(crate) fn one_of<T: Copy>(&mut self, key: &str, words: &[(&str, T)]) -> T {
        let text = self.string(key);
        if let Some((_, value)) = words.iter().find(|(word, _)| *word == text) {
            return *value;
        }
        let all = words.iter().map(|(word, _)| *word).collect::<Vec<_>>().join(", ");
        self.wrong(key, format!("{text:?} is none of {all}"));
        words[0].1
    }

    fn path(&mut self, key: &str) -> String {
        let path = self.string(key);
        if path.len() < 2 || !path.starts_with('/') || !path.ends_with('/') || path.contains(['?', '#', ' '])
        {
            self.wrong(key, format!("{path:?} must be a path with a slash at both ends"));
        }
        path
    }

    fn namespaces(&mut self) -> Vec<Namespace> {
        match self.layers.find_value("namespaces") {
            Ok(value) => namespaces::read(&value, &mut self.problems),
            Err(_) => namespaces::defaults(),
        }
    }
}

fn as_text(value: &Value) -> Option<String> {
    match value {
        Value::String(_, text) => Some(text.clone()),
        Value::Char(_, char) => Some(char.to_string()),
        Value::Bool(_, flag) => Some(flag.to_string()),
        Value::Num(_, number) => number
            .to_i128()
            .map(|number| number.to_string())
            .or_else(|| number.to_u128().map(|number| number.to_string()))
            .or_else(|| number.to_f64().map(|number| number.to_string())),
        Value::Array(_, items) => {
            let items: Option<Vec<_>> = items.iter().map(as_text).collect();
            items.map(|items| items.join(","))
        }
        Value::Empty(..) | Value::Dict(..) => None,
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
