//! Typed configuration: defaults, then a TOML file, then the environment, then flags; validated in one
//! run that reports every mistake.

mod api;
mod app;
mod check;
mod identity;
mod load;
mod namespaces;
mod network;
mod notifications;
mod secret;
pub mod settings;
mod show;

use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf, time::Duration};

pub use load::{Errors, Loaded, Problem};
pub use namespaces::{CLAIM, PERMISSION};
pub use network::{Network, NetworkError};
pub use secret::{Secret, masked_url};

/// What a process is.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Role {
    /// All roles in one process, in memory.
    Standalone,
    /// Terminates clients.
    Gateway,
    /// Delivers.
    Fanout,
    /// Knows who is where.
    Presence,
}

/// An entry of `[[api.keys]]`.
#[derive(Clone, Debug)]
pub struct ApiKey {
    /// For the audit log.
    pub name: String,
    /// What callers show.
    pub key: Secret,
    /// What it is good for, at least one.
    pub scopes: Vec<Scope>,
}

/// What a key of the Publisher and Presence APIs is good for.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash)]
pub enum Scope {
    /// Reach clients: events and notifications.
    Publish,
    /// Ask who is where and what was said.
    Read,
    /// Change or end clients' sockets.
    Admin,
}

/// The effective configuration of a process.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "settings::SETTINGS documents every field by its key")]
pub struct Config {
    pub role: Role,
    pub environment: String,
    pub gateway: Gateway,
    pub fanout: Fanout,
    pub presence: Presence,
    pub admin: Admin,
    pub bus: Bus,
    pub redis: Redis,
    pub redis_emitter: RedisEmitter,
    pub grpc: Grpc,
    pub auth: Auth,
    pub issuers: Vec<Issuer>,
    pub rooms: Rooms,
    pub namespaces: Vec<Namespace>,
    pub notifications: Notifications,
    pub cors: Cors,
    pub api: Api,
    pub limits: Limits,
    pub app: App,
    pub admin_ui: AdminUi,
    pub log: Log,
    pub trace: Trace,
}

macro_rules! sections {
    ($($(#[$meta:meta])* $name:ident { $($field:ident: $type:ty,)* })*) => {
        $(
            $(#[$meta])*
            #[derive(Clone, Debug)]
            #[expect(missing_docs, reason = "settings::SETTINGS documents every field by its key")]
            pub struct $name { $(pub $field: $type,)* }
        )*
    };
}

sections! {
    /// Section `gateway`. Durations and sizes drop the unit from the key's name.
    Gateway {
        listen: SocketAddr,
        grpc_listen: SocketAddr,
        advertise: Option<String>,
        path: String,
        recovery: Duration,
        drain: Duration,
        max_connection_age: Duration,
        ping_interval: Duration,
        ping_timeout: Duration,
        upgrade_timeout: Duration,
        connect_timeout: Duration,
        max_payload: usize,
        max_connections: usize,
        trusted_proxies: Vec<Network>,
        proxy_protocol: bool,
        allow_eio3: bool,
        allow_msgpack: bool,
        compress_from: usize,
        send_queue: usize,
        handshake_timeout: Duration,
        body_timeout: Duration,
        max_header_bytes: usize,
        interest_linger: Duration,
        tls_cert: Option<PathBuf>,
        tls_key: Option<PathBuf>,
    }
    /// Section `fanout`.
    Fanout { grpc_listen: SocketAddr, http_listen: SocketAddr, }
    /// Section `presence`.
    Presence { grpc_listen: SocketAddr, grace: Duration, crowd_size: u32, }
    /// Section `admin`.
    Admin { listen: SocketAddr, tls_cert: Option<PathBuf>, tls_key: Option<PathBuf>, }
    /// Section `bus`.
    Bus {
        partitions: u16,
        replicas: u8,
        max_age: Duration,
        max_messages_per_room: u32,
        url: Option<Secret>,
        credentials: Option<PathBuf>,
        tls_ca: Option<PathBuf>,
        tls_cert: Option<PathBuf>,
        tls_key: Option<PathBuf>,
    }
    /// Section `redis`.
    Redis {
        url: Option<Secret>,
        topology: RedisTopology,
        sentinel_master: String,
        tls_ca: Option<PathBuf>,
        tls_cert: Option<PathBuf>,
        tls_key: Option<PathBuf>,
    }
    /// Section `redis_emitter`. Without a URL it is the Redis of section `redis`.
    RedisEmitter { enabled: bool, key: String, url: Option<Secret>, }
    /// Section `grpc`.
    Grpc {
        tls_ca: Option<PathBuf>,
        tls_cert: Option<PathBuf>,
        tls_key: Option<PathBuf>,
        tls_server_name: Option<String>,
    }
    /// Section `auth`.
    Auth {
        mode: AuthMode,
        jwt_secret: Option<Secret>,
        jwt_previous_secret: Option<Secret>,
        public_keys: Option<PathBuf>,
        jwks_file: Option<PathBuf>,
        jwks_url: Option<String>,
        jwks_refresh: Duration,
        issuer: Option<String>,
        audience: Option<String>,
        leeway: Duration,
        cookie: Option<String>,
        query: Option<String>,
        session_url: Option<String>,
        session_cache: usize,
        timeout: Duration,
        tls_ca: Option<PathBuf>,
    }
    /// Section `rooms`.
    Rooms { public: Vec<String>, }
    /// Section `notifications`.
    Notifications {
        keep_per_user: u32,
        expire: Duration,
        channels: Vec<NotificationChannel>,
        rules: Vec<NotificationRule>,
    }
    /// Section `cors`.
    Cors { origins: Vec<String>, }
    /// Section `api`.
    Api {
        key: Option<Secret>,
        keys: Vec<ApiKey>,
        tls_cert: Option<PathBuf>,
        tls_key: Option<PathBuf>,
    }
    /// Section `limits`.
    Limits {
        events: u32,
        window: Duration,
        by_event: Vec<(String, u32)>,
        events_per_socket: u32,
        cut_after: u32,
        connections_per_ip: u32,
        connections_per_user: u32,
        handshakes_per_ip: u32,
        handshakes_per_second: u32,
        auth_failures_per_ip: u32,
        memory_mb: u32,
    }
    /// Section `app`.
    App {
        webhook_url: Option<String>,
        webhook_secret: Option<Secret>,
        timeout: Duration,
        max_concurrency: usize,
        authorize_url: Option<String>,
        authorize: Vec<AppAction>,
        authorize_cache: usize,
        lifecycle: Vec<AppNews>,
        tls_ca: Option<PathBuf>,
    }
    /// Section `admin_ui`.
    AdminUi { username: String, password: Option<Secret>, readonly: bool, events: bool, }
    /// Section `log`. Files are there when there is a directory.
    Log {
        filter: String,
        format: LogFormat,
        directory: Option<PathBuf>,
        keep_days: u16,
        max_mb: u32,
    }
    /// Section `trace`. Traces are recorded when there is an endpoint.
    Trace {
        endpoint: Option<String>,
        protocol: TraceProtocol,
        service_name: Option<String>,
        resource_attributes: Vec<(String, String)>,
        sampler: String,
        sampler_arg: f64,
        large_room: u32,
        from_clients: u32,
    }
}

/// One table `[notifications.channels.<name>]`: a webhook that is told of notifications.
#[derive(Clone, Debug)]
pub struct NotificationChannel {
    /// 1 to 64 of `A-Z a-z 0-9 _ -`.
    pub name: String,
    /// What is called; a password may stand in it.
    pub url: Secret,
    /// Signs the calls.
    pub secret: Option<Secret>,
    /// Calls a second, all processes together; 0 for no limit.
    pub max_per_second: u32,
    /// Calls for one notification before it is given up.
    pub max_attempts: u32,
    /// Pause before the second call; doubled for each further one.
    pub retry_after: Duration,
    /// How long a call may take.
    pub timeout: Duration,
}

/// One entry of `[[notifications.rules]]`: an event of the application becomes a notification.
#[derive(Clone, Debug)]
pub struct NotificationRule {
    /// The event's name.
    pub event: String,
    /// What kind of notification it becomes.
    pub kind: String,
    /// Its title, with `{name}` for fields of the event's data.
    pub title: String,
    /// Its body, likewise; empty for none.
    pub body: String,
    /// Where it goes beside the user's sockets.
    pub channels: Vec<String>,
    /// How long it lasts, if not as long as others.
    pub expire: Option<Duration>,
}

/// One entry of `[[issuers]]`: who signs tokens, and with which keys. At least one of its sources of keys is set.
#[derive(Clone, Debug)]
pub struct Issuer {
    /// Claim `iss` of its tokens.
    pub issuer: String,
    /// Claim `aud` that its tokens must name; any when there is none.
    pub audience: Option<String>,
    /// Secret of HMAC tokens.
    pub secret: Option<Secret>,
    /// The secret before that one, for tokens that are still about.
    pub previous_secret: Option<Secret>,
    /// File (PEM) with public keys.
    pub public_keys: Option<PathBuf>,
    /// File with a JWKS.
    pub jwks_file: Option<PathBuf>,
    /// URL of a JWKS.
    pub jwks_url: Option<String>,
}

/// One entry of `[[namespaces]]`. Who may do something is said by roles, or as `permission:<name>`.
#[derive(Clone, Debug, Default)]
pub struct Namespace {
    /// Name or pattern, e.g. `/chat` or `/tenant-*`. Of several that match the first counts.
    pub pattern: String,
    /// Roles that may connect; all when empty.
    pub connect_roles: Vec<String>,
    /// Who may send an event, by name or pattern of the event; every pattern that matches counts.
    pub emit_roles: BTreeMap<String, Vec<String>>,
    /// Events that `emit_roles` does not name are free to nobody, in place of all.
    pub emit_listed_only: bool,
    /// Patterns of rooms that anyone in the namespace may join, besides those of `rooms.public`.
    pub public_rooms: Vec<String>,
    /// Who may join which rooms, by pattern of the room; `{claims.<name>}` in it stands for a claim of the user's token.
    pub join_rooms: BTreeMap<String, Vec<String>>,
    /// Events that are not stored although they are elsewhere: they have no offset, are not in the history and
    /// are neither waited for nor replayed to who comes back. Of the built-in ones that is `message`.
    pub volatile: Vec<String>,
    /// A socket's custom events are handled one after the other, in place of side by side.
    pub ordered_events: bool,
    /// Custom events of which more is to be said, by name.
    pub custom_events: BTreeMap<String, CustomEvent>,
    /// How many of a room's newest messages are shown, 0 for none; all that the log keeps without.
    pub history: Option<u32>,
    /// Limits of its own.
    pub limits: NamespaceLimits,
}

/// Limits of a namespace, where it has its own; 0 for none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NamespaceLimits {
    /// In place of `limits.events`.
    pub events: Option<u32>,
    /// In place of `limits.events_per_socket`.
    pub events_per_socket: Option<u32>,
    /// Before `limits.by_event`.
    pub by_event: Vec<(String, u32)>,
}

impl NamespaceLimits {
    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// One entry of `[namespaces.custom_events]`.
#[derive(Clone, Debug, Default)]
pub struct CustomEvent {
    /// JSON Schema of its one argument.
    pub schema: Option<serde_json::Value>,
    /// As `ordered_events`, for this event.
    pub ordered: Option<bool>,
}

/// What the application may be asked about.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum AppAction {
    /// Entering a namespace.
    Connect,
    /// Getting into rooms and reading them.
    Join,
    /// Sending events.
    Emit,
}

impl AppAction {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Connect, Self::Join, Self::Emit];

    /// As in the configuration.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Join => "join",
            Self::Emit => "emit",
        }
    }
}

/// What the application may want to be told.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum AppNews {
    /// A socket is there.
    Connected,
    /// A socket is gone.
    Disconnected,
    /// A socket is in a room.
    Joined,
    /// A socket has left a room.
    Left,
}

impl AppNews {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Connected, Self::Disconnected, Self::Joined, Self::Left];

    /// As in the configuration, and the type of what is told.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Connected => "connected",
            Self::Disconnected => "disconnected",
            Self::Joined => "joined",
            Self::Left => "left",
        }
    }
}

/// How clients say who they are.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum AuthMode {
    /// A token is optional.
    Guest,
    /// A JWT is needed.
    Jwt,
    /// A token that the application's session endpoint knows.
    Session,
}

/// What kind of Redis there is.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum RedisTopology {
    /// One server, or something that looks like one.
    Single,
    /// Redis Cluster.
    Cluster,
    /// A master that sentinels watch.
    Sentinel,
}

/// How spans are sent to the collector (OpenTelemetry Protocol).
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum TraceProtocol {
    /// gRPC.
    Grpc,
    /// Protobuf over HTTP.
    Http,
}

/// How log lines look.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// For machines, one object a line.
    Json,
}

impl Role {
    /// The role as on the command line.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Standalone => "standalone",
            Self::Gateway => "gateway",
            Self::Fanout => "fanout",
            Self::Presence => "presence",
        }
    }
}
