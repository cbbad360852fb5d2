//! The table of all settings: the one source of names, defaults, variables and documentation.

use crate::Role;

/// One setting.
#[derive(Copy, Clone, Debug)]
pub struct Setting {
    /// Path in the TOML file, e.g. `gateway.listen`.
    pub key: &'static str,
    /// Default where there is no better one by role; empty for none.
    pub default: &'static str,
    /// Default in `standalone`, where it differs.
    pub standalone: Option<&'static str>,
    /// An older variable that sets it too.
    pub legacy: Option<&'static str>,
    /// Whether its value is shown to nobody.
    pub secret: bool,
    /// What it is, with unit and range.
    pub doc: &'static str,
}

impl Setting {
    /// Its variable: `FANFARE_<SECTION>__<KEY>`; the two settings outside a section have their own.
    #[must_use]
    pub fn variable(&self) -> String {
        match self.key.split_once('.') {
            Some((section, key)) => format!("FANFARE_{}__{}", section.to_uppercase(), key.to_uppercase()),
            None => self.key.to_uppercase(),
        }
    }

    /// Its default in a role.
    #[must_use]
    pub fn default_in(&self, role: Role) -> &'static str {
        match (role, self.key) {
            (Role::Standalone, _) => self.standalone.unwrap_or(self.default),
            (Role::Gateway, "admin.listen") => "0.0.0.0:9091",
            (Role::Fanout, "admin.listen") => "0.0.0.0:9092",
            (Role::Presence, "admin.listen") => "0.0.0.0:9093",
            (Role::Gateway | Role::Fanout | Role::Presence, _) => self.default,
        }
    }
}

const fn setting(key: &'static str, default: &'static str, doc: &'static str) -> Setting {
    Setting {
        key,
        default,
        standalone: None,
        legacy: None,
        secret: false,
        doc,
    }
}

/// Every setting but `namespaces`, which is a list of tables.
pub const SETTINGS: &[Setting] = &[
    Setting {
        legacy: Some("ENVIRONMENT"),
        ..setting("environment", "development", "Label on every metric")
    },
    Setting {
        legacy: Some("WEBSOCKET_PORT"),
        ..setting(
            "gateway.listen",
            "0.0.0.0:3001",
            "Public address; WEBSOCKET_PORT changes its port",
        )
    },
    setting(
        "gateway.grpc_listen",
        "0.0.0.0:7001",
        "Internal gRPC, for the other roles; not in standalone",
    ),
    setting(
        "gateway.advertise",
        "",
        "The host:port other roles reach the internal gRPC at; when empty, the address this machine has towards NATS",
    ),
    setting(
        "gateway.path",
        "/socket.io/",
        "Path of the Socket.IO endpoint, with a slash at both ends",
    ),
    setting(
        "gateway.recovery_seconds",
        "120",
        "Recovery window in seconds, 0 to 86400; 0 turns recovery off",
    ),
    setting(
        "gateway.drain_seconds",
        "20",
        "How long a drain takes, in seconds, 0 to 3600",
    ),
    setting(
        "gateway.max_connection_age_seconds",
        "0",
        "Connections are closed at about this age, in seconds, 0 to 604800, so that their clients come back elsewhere; 0 for never",
    ),
    setting(
        "gateway.ping_interval_ms",
        "25000",
        "Heartbeat interval in milliseconds, at least 100",
    ),
    setting(
        "gateway.ping_timeout_ms",
        "20000",
        "How long a client may take to answer a heartbeat, in milliseconds, at least 100",
    ),
    setting(
        "gateway.upgrade_timeout_ms",
        "10000",
        "How long an upgrade to WebSocket may take, in milliseconds, at least 100",
    ),
    setting(
        "gateway.connect_timeout_ms",
        "45000",
        "How long a connection may stay without a namespace, in milliseconds, at least 100",
    ),
    setting(
        "gateway.max_payload_bytes",
        "1000000",
        "Bytes of the largest message, 1024 to 134217728",
    ),
    setting(
        "gateway.max_connections",
        "0",
        "Connections at a time; 0 for no limit",
    ),
    setting(
        "gateway.tls_cert",
        "",
        "File (PEM) with the certificate of the public listener, which then speaks TLS; read again when it changes",
    ),
    setting(
        "gateway.tls_key",
        "",
        "File (PEM) with the key of gateway.tls_cert",
    ),
    setting(
        "gateway.trusted_proxies",
        "",
        "Addresses and networks (10.0.0.0/8) of the proxies whose X-Forwarded-For and X-Forwarded-Proto count, comma-separated",
    ),
    setting(
        "gateway.proxy_protocol",
        "false",
        "Whether the trusted proxies begin each connection with a PROXY header, version 1 or 2",
    ),
    setting(
        "gateway.allow_eio3",
        "false",
        "Accept Engine.IO v3 clients (Socket.IO v2) beside those of v4",
    ),
    setting(
        "gateway.allow_msgpack",
        "false",
        "Accept clients with the parser of socket.io-msgpack-parser beside those with the default one",
    ),
    setting(
        "gateway.compress_from_bytes",
        "0",
        "Bytes from which messages to WebSockets are compressed (permessage-deflate), 1024 if at all; 0: never",
    ),
    setting(
        "gateway.send_queue_bytes",
        "1048576",
        "Bytes that may wait for one client before it is closed as too slow, at least 65536",
    ),
    setting(
        "gateway.handshake_timeout_ms",
        "10000",
        "How long a client may take to send the head of a request, in milliseconds, at least 100",
    ),
    setting(
        "gateway.body_timeout_ms",
        "20000",
        "How long a client may take to send the body of a request, and to take none of an answer, in milliseconds, at least 100",
    ),
    setting(
        "gateway.max_header_bytes",
        "16384",
        "Bytes of the head of a request, 8192 to 1048576",
    ),
    setting(
        "gateway.interest_linger_seconds",
        "5",
        "How long an empty room's interest is kept, in seconds, 0 to 3600",
    ),
    setting(
        "fanout.grpc_listen",
        "0.0.0.0:7002",
        "Publisher API, gRPC; on loopback only without an API key",
    ),
    setting(
        "fanout.http_listen",
        "0.0.0.0:7003",
        "Publisher API, HTTP and JSON; on loopback only without an API key",
    ),
    setting(
        "presence.grpc_listen",
        "0.0.0.0:7004",
        "Presence API, gRPC; on loopback only without an API key",
    ),
    setting(
        "presence.grace_seconds",
        "5",
        "Grace before a lost user is announced as left, in seconds, 0 to 600",
    ),
    setting(
        "presence.crowd_size",
        "200",
        "A room with more users hears of them once a second, as a count, 1 to 1000000",
    ),
    Setting {
        standalone: Some("0.0.0.0:9090"),
        ..setting(
            "admin.listen",
            "0.0.0.0:9090",
            "Admin HTTP: /livez, /readyz, /metrics; 9090 in standalone, 9091 gateway, 9092 fanout, 9093 presence",
        )
    },
    setting(
        "admin.tls_cert",
        "",
        "File (PEM) with the certificate of the admin listener, which then speaks TLS; read again when it changes",
    ),
    setting("admin.tls_key", "", "File (PEM) with the key of admin.tls_cert"),
    setting(
        "bus.partitions",
        "16",
        "Partitions of the log, 1 to 1024; cannot be changed later",
    ),
    setting(
        "bus.replicas",
        "1",
        "Copies of each partition on a NATS cluster, 1 to 5",
    ),
    setting(
        "bus.max_age_hours",
        "24",
        "How long the log keeps events, in hours, 1 to 8760",
    ),
    setting(
        "bus.max_messages_per_room",
        "1000",
        "How many events of a room the log keeps, 1 to 1000000",
    ),
    Setting {
        legacy: Some("NATS_URL"),
        secret: true,
        ..setting(
            "bus.url",
            "",
            "NATS servers, comma-separated; required in the cluster roles, which alone use it",
        )
    },
    setting("bus.credentials", "", "File with NATS credentials (.creds)"),
    setting(
        "bus.tls_ca",
        "",
        "File (PEM) with the authority of the NATS servers' certificates",
    ),
    setting(
        "bus.tls_cert",
        "",
        "File (PEM) with a certificate to show to NATS; goes with bus.tls_key",
    ),
    setting("bus.tls_key", "", "File (PEM) with the key of bus.tls_cert"),
    Setting {
        legacy: Some("REDIS_URL"),
        secret: true,
        ..setting(
            "redis.url",
            "",
            "Redis servers, comma-separated; required in fanout and presence; in gateway for limits that hold across the cluster",
        )
    },
    setting(
        "redis.topology",
        "single",
        "single, cluster (redis.url: some of its nodes) or sentinel (redis.url: the sentinels)",
    ),
    setting(
        "redis.sentinel_master",
        "mymaster",
        "What the sentinels call the master",
    ),
    setting(
        "redis.tls_ca",
        "",
        "File (PEM) with the authority of Redis' certificates (rediss://)",
    ),
    setting(
        "redis.tls_cert",
        "",
        "File (PEM) with a certificate to show to Redis; goes with redis.tls_key",
    ),
    setting("redis.tls_key", "", "File (PEM) with the key of redis.tls_cert"),
    setting(
        "redis_emitter.enabled",
        "false",
        "Whether what @socket.io/redis-emitter publishes in Redis comes to clients here (fanout and standalone)",
    ),
    setting(
        "redis_emitter.key",
        "socket.io",
        "What its channels begin with: the emitters' option key, 1 to 128 characters",
    ),
    Setting {
        secret: true,
        ..setting(
            "redis_emitter.url",
            "",
            "The one Redis server that the emitters publish in; that of section redis when empty, required in standalone",
        )
    },
    setting(
        "grpc.tls_ca",
        "",
        "File (PEM) with the authority of the roles' certificates: with it and the next two the roles speak mutual TLS among themselves",
    ),
    setting(
        "grpc.tls_cert",
        "",
        "File (PEM) with this role's certificate, for server and client",
    ),
    setting("grpc.tls_key", "", "File (PEM) with the key of grpc.tls_cert"),
    setting(
        "grpc.tls_server_name",
        "",
        "Name that every role's certificate carries; when empty, each carries the host it is reached at",
    ),
    Setting {
        standalone: Some("guest"),
        ..setting(
            "auth.mode",
            "",
            "jwt, session (tokens that auth.session_url knows) or guest (token optional); required in the cluster roles",
        )
    },
    Setting {
        legacy: Some("JWT_SECRET"),
        secret: true,
        ..setting("auth.jwt_secret", "", "Secret of HS256, HS384 and HS512 tokens")
    },
    Setting {
        secret: true,
        ..setting(
            "auth.jwt_previous_secret",
            "",
            "The secret before that one, for tokens that are still about",
        )
    },
    setting(
        "auth.public_keys",
        "",
        "File (PEM) with public keys of tokens: RSA of at least 2048 bits, P-256, P-384 or Ed25519",
    ),
    setting("auth.jwks_file", "", "File with a JWKS of the keys of tokens"),
    setting(
        "auth.jwks_url",
        "",
        "URL of a JWKS with the keys of tokens; also fetched when a token names an unknown key, once a minute at most",
    ),
    setting(
        "auth.jwks_refresh_seconds",
        "300",
        "How often a JWKS is fetched, in seconds, 60 to 86400",
    ),
    setting(
        "auth.issuer",
        "",
        "Issuer (iss) that tokens must name; any when empty; several: [[issuers]]",
    ),
    setting(
        "auth.audience",
        "",
        "Audience (aud) that tokens must name; any when empty",
    ),
    setting(
        "auth.leeway_seconds",
        "0",
        "How far the clocks of issuers may be off, in seconds, 0 to 600",
    ),
    setting(
        "auth.cookie",
        "",
        "Cookie of the handshake that may carry the token",
    ),
    setting(
        "auth.query",
        "",
        "Query parameter of the handshake that may carry the token; it then stands in logs of proxies",
    ),
    setting(
        "auth.session_url",
        "",
        "Asked, by POST, whose session a token is: one that is no JWT, or any where there are no keys",
    ),
    setting(
        "auth.session_cache",
        "10000",
        "Answers of auth.session_url that are kept at a time, 0 to 10000000; 0 for none",
    ),
    setting(
        "auth.timeout_ms",
        "5000",
        "How long auth.session_url and a JWKS may take, in milliseconds, 10 to 60000",
    ),
    setting(
        "auth.tls_ca",
        "",
        "File (PEM) with the authority of their certificates; the system's when empty",
    ),
    setting(
        "notifications.keep_per_user",
        "200",
        "Notifications kept for a user, 1 to 1000; the oldest go, those that were read before the others",
    ),
    setting(
        "notifications.expire_hours",
        "720",
        "How long a notification lasts that does not say so itself, in hours, 1 to 8760",
    ),
    Setting {
        standalone: Some("*"),
        ..setting(
            "rooms.public",
            "",
            "Patterns of rooms that anyone signed in may join, comma-separated",
        )
    },
    Setting {
        standalone: Some("*"),
        legacy: Some("CORS_ORIGIN"),
        ..setting(
            "cors.origins",
            "",
            "Origins that may connect, comma-separated; * for any, without credentials; the server's own always may",
        )
    },
    Setting {
        secret: true,
        ..setting(
            "api.key",
            "",
            "Key of the Publisher and Presence APIs, for everything; keys with a name and scopes: [[api.keys]]",
        )
    },
    setting(
        "api.tls_cert",
        "",
        "File (PEM) with the certificate of the Publisher and Presence APIs, which then speak TLS; read again when it changes",
    ),
    setting("api.tls_key", "", "File (PEM) with the key of api.tls_cert"),
    setting(
        "limits.events",
        "100",
        "Events a user may send per window, across the cluster; 0 for no limit",
    ),
    setting("limits.window_seconds", "60", "The window in seconds, 1 to 86400"),
    setting(
        "limits.by_event",
        "",
        "Events with a limit of their own, which do not count against limits.events: name=events a window, comma-separated; name=0 for no limit",
    ),
    setting(
        "limits.events_per_socket",
        "0",
        "Events a socket may send per window, whatever they are; 0 for no limit",
    ),
    setting(
        "limits.cut_after",
        "1000",
        "A socket's connection is cut after so many refused events in a window; 0 for never",
    ),
    setting(
        "limits.connections_per_ip",
        "0",
        "Connections an address (of IPv6 its /64) may have at a gateway; 0 for no limit",
    ),
    setting(
        "limits.connections_per_user",
        "0",
        "Connections a user may have at a gateway; 0 for no limit",
    ),
    setting(
        "limits.handshakes_per_ip",
        "0",
        "Handshakes of an address a minute, at a gateway, and entries of namespaces behind the first 16 of a connection; 0 for no limit",
    ),
    setting(
        "limits.handshakes_per_second",
        "0",
        "Handshakes a gateway admits a second, a short while held back or else told when to return; 0 for no limit",
    ),
    setting(
        "limits.auth_failures_per_ip",
        "60",
        "Failed authentications of an address a minute, at a gateway; 0 for no limit",
    ),
    setting(
        "limits.memory_mb",
        "0",
        "Resident memory in MiB from which on a gateway takes no new clients; 0 for 90 % of what its control group allows",
    ),
    setting(
        "app.webhook_url",
        "",
        "Where custom events go that nobody listens for on NATS, by POST",
    ),
    Setting {
        secret: true,
        ..setting(
            "app.webhook_secret",
            "",
            "Signs what is sent to app.webhook_url and app.authorize_url",
        )
    },
    setting(
        "app.timeout_ms",
        "5000",
        "How long the application may take for an answer, in milliseconds, 1 to 86400000",
    ),
    setting(
        "app.max_concurrency",
        "256",
        "Custom events that a gateway has the application handle at a time, half of them of one name, 1 to 100000",
    ),
    setting(
        "app.authorize_url",
        "",
        "Asked who may do what; app.webhook_url when empty",
    ),
    setting(
        "app.authorize",
        "",
        "What the application is asked about: connect, join, emit, comma-separated; all of them when empty and app.authorize_url is set",
    ),
    setting(
        "app.authorize_cache",
        "10000",
        "Answers to these questions that a gateway keeps at a time, 0 to 10000000; 0 for none",
    ),
    setting(
        "app.lifecycle",
        "",
        "What the application is told of: connected, disconnected, joined, left, comma-separated; nothing when empty",
    ),
    setting(
        "app.tls_ca",
        "",
        "File (PEM) with the authority of the application's certificates; the system's when empty",
    ),
    setting(
        "admin_ui.username",
        "admin",
        "Who may open the page of @socket.io/admin-ui, which connects to namespace /admin",
    ),
    Setting {
        secret: true,
        ..setting(
            "admin_ui.password",
            "",
            "bcrypt hash of the password for it; there is no such namespace without",
        )
    },
    setting("admin_ui.readonly", "false", "Whether the page may only look"),
    setting(
        "admin_ui.events",
        "true",
        "Whether an open page is shown what clients send and get: at most 50 events a second each way from each gateway, their arguments cut at 1 KiB",
    ),
    Setting {
        legacy: Some("RUST_LOG"),
        ..setting("log.filter", "info", "What is logged, as in RUST_LOG")
    },
    setting("log.format", "text", "text or json"),
    setting(
        "log.directory",
        "",
        "Where the log also goes, as a file a day for each role; nowhere when empty",
    ),
    setting("log.keep_days", "14", "Days these files are kept, 1 to 3650"),
    setting(
        "log.max_mb",
        "256",
        "Size in MiB at which a day's file takes no more; what comes later is on standard error alone",
    ),
    Setting {
        legacy: Some("OTEL_EXPORTER_OTLP_ENDPOINT"),
        ..setting(
            "trace.endpoint",
            "",
            "Base URL of the OpenTelemetry collector, e.g. http://collector:4317; no traces when empty",
        )
    },
    Setting {
        legacy: Some("OTEL_EXPORTER_OTLP_PROTOCOL"),
        ..setting("trace.protocol", "grpc", "grpc or http/protobuf")
    },
    Setting {
        legacy: Some("OTEL_SERVICE_NAME"),
        ..setting(
            "trace.service_name",
            "",
            "service.name of spans; fanfare-<role> when empty",
        )
    },
    Setting {
        legacy: Some("OTEL_RESOURCE_ATTRIBUTES"),
        ..setting(
            "trace.resource_attributes",
            "",
            "Further attributes of the process, key=value, comma-separated",
        )
    },
    Setting {
        legacy: Some("OTEL_TRACES_SAMPLER"),
        ..setting(
            "trace.sampler",
            "parentbased_always_on",
            "Which events are traced: always_on, always_off, traceidratio, or parentbased_ before one of these, where a client that sends a traceparent decides",
        )
    },
    Setting {
        legacy: Some("OTEL_TRACES_SAMPLER_ARG"),
        ..setting(
            "trace.sampler_arg",
            "1.0",
            "Share of events that traceidratio traces, 0 to 1",
        )
    },
    setting(
        "trace.large_room",
        "1000",
        "Events for rooms with more members at the gateway are traced less often, as their number has it; at least 1",
    ),
    setting(
        "trace.from_clients",
        "100",
        "So many traces a second a gateway records because clients ask for it; 0 for none",
    ),
];

/// The setting of a key.
#[must_use]
pub fn find(key: &str) -> Option<&'static Setting> {
    SETTINGS.iter().find(|setting| setting.key == key)
}
