//! Layers, mistakes, masks.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::{collections::BTreeSet, io::Write, time::Duration};

use config::{AuthMode, Config, Errors, Loaded, Role, settings::SETTINGS};

fn load(role: Role, file: &str, env: &[(&str, &str)], flags: &[(&str, &str)]) -> Result<Loaded, Errors> {
    let mut toml = tempfile::NamedTempFile::new().unwrap();
    toml.write_all(file.as_bytes()).unwrap();
    let own = |pairs: &[(&str, &str)]| -> Vec<(String, String)> {
        pairs
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect()
    };
    Config::load(role, Some(toml.path()), own(env), own(flags))
}

fn keys(errors: &Errors) -> Vec<&str> {
    errors.0.iter().map(|problem| problem.key.as_str()).collect()
}

#[test]
fn later_layers_win() {
    let file = "[gateway]\nping_interval_ms = 1000\nping_timeout_ms = 1000\nmax_connections = 5\n[bus]\npartitions = 4";
    let env = [
        ("FANFARE_GATEWAY__PING_TIMEOUT_MS", "2000"),
        ("FANFARE_GATEWAY__MAX_CONNECTIONS", "6"),
    ];
    let config = load(Role::Standalone, file, &env, &[("gateway.max_connections", "7")])
        .unwrap()
        .config;
    assert_eq!(config.gateway.ping_interval.as_millis(), 1000);
    assert_eq!(config.gateway.ping_timeout.as_millis(), 2000);
    assert_eq!(config.gateway.max_connections, 7);
    assert_eq!(config.bus.partitions, 4);
    assert_eq!(config.auth.mode, AuthMode::Guest);
    assert_eq!(config.rooms.public, ["*"]);
}

#[test]
fn the_seeds_variables_keep_working() {
    let env = [
        ("WEBSOCKET_PORT", "4001"),
        ("JWT_SECRET", "s"),
        ("CORS_ORIGIN", "https://a.example, https://b.example"),
        ("ENVIRONMENT", "staging"),
        ("NATS_URL", "nats://n"),
        ("REDIS_URL", "redis://r"),
    ];
    let config = load(Role::Standalone, "", &env, &[]).unwrap().config;
    assert_eq!(config.gateway.listen.to_string(), "0.0.0.0:4001");
    assert_eq!(config.auth.jwt_secret.unwrap().expose(), "s");
    assert_eq!(config.cors.origins, ["https://a.example", "https://b.example"]);
    assert_eq!(config.environment, "staging");
    assert_eq!(config.bus.url.unwrap().expose(), "nats://n");
    assert_eq!(config.redis.url.unwrap().expose(), "redis://r");
}

#[test]
fn every_mistake_is_reported_at_once() {
    let file = "colour = 1\n[gateway]\nlisten = \"here\"\nping_interval_ms = -1\nspeed = 9\n[[namespaces]]\npattern = \"chat\"\nconnect_roles = [\"king\"]";
    let errors = load(
        Role::Standalone,
        file,
        &[("FANFARE_BUS__PARTITIONS", "many")],
        &[("x.y", "1")],
    )
    .unwrap_err();
    let mut keys = keys(&errors);
    keys.sort_unstable();
    let expected = [
        "bus.partitions",
        "colour",
        "gateway.listen",
        "gateway.ping_interval_ms",
        "gateway.speed",
        "namespaces.0.connect_roles",
        "namespaces.0.pattern",
        "x.y",
    ];
    assert_eq!(keys, expected);
    assert!(errors.to_string().contains("FANFARE_GATEWAY__LISTEN"), "{errors}");
}

#[test]
fn every_mistake_of_every_namespace_is_reported() {
    let file = r#"
        [[namespaces]]
        pattern = "/a,b"
        colour = 1
        speed = 2
        [[namespaces]]
        connect_roles = "admin"
        emit_roles = { "*" = ["king", 1], message = [] }
        [[namespaces]]
        pattern = "/x"
        emit_roles = []
        emit_listed_only = 1
        public_rooms = "lobby"
        join_rooms = { "{team}" = ["permission:"] }
        volatile = ["messages"]
        [[namespaces]]
        pattern = "/x"
    "#;
    let errors = load(Role::Standalone, file, &[], &[]).unwrap_err();
    let expected = [
        "namespaces.0.colour",
        "namespaces.0.speed",
        "namespaces.0.pattern",
        "namespaces.1.pattern",
        "namespaces.1.connect_roles",
        "namespaces.1.emit_roles.*",
        "namespaces.1.emit_roles.*",
        "namespaces.2.emit_roles",
        "namespaces.2.emit_listed_only",
        "namespaces.2.public_rooms",
        "namespaces.2.join_rooms.{team}",
        "namespaces.2.join_rooms",
        "namespaces.2.volatile",
        "namespaces.3.pattern",
    ];
    assert_eq!(keys(&errors), expected, "{errors}");
    for file in ["namespaces = 1", "namespaces = []"] {
        let errors = load(Role::Standalone, file, &[], &[]).unwrap_err();
        assert_eq!(keys(&errors), ["namespaces"], "{file}");
    }
    let errors = load(Role::Standalone, "namespaces = [1]", &[], &[]).unwrap_err();
    assert_eq!(keys(&errors), ["namespaces.0"]);
}

#[test]
fn namespaces_are_read_as_written() {
    let file = r#"
        [[namespaces]]
        pattern = "/tenant-*"
        connect_roles = ["user", "admin"]
        emit_roles = { "admin.*" = ["admin", "permission:broadcast"] }
        emit_listed_only = true
        public_rooms = ["lobby-*"]
        join_rooms = { "team-{claims.team}-*" = ["user"] }
        volatile = ["message"]
    "#;
    let namespaces = load(Role::Standalone, file, &[], &[]).unwrap().config.namespaces;
    assert_eq!(namespaces.len(), 1);
    assert_eq!(namespaces[0].pattern, "/tenant-*");
    assert_eq!(namespaces[0].connect_roles, ["user", "admin"]);
    assert_eq!(
        namespaces[0].emit_roles["admin.*"],
        ["admin", "permission:broadcast"]
    );
    assert!(namespaces[0].emit_listed_only);
    assert_eq!(namespaces[0].public_rooms, ["lobby-*"]);
    assert_eq!(namespaces[0].join_rooms["team-{claims.team}-*"], ["user"]);
    assert_eq!(namespaces[0].volatile, ["message"]);
}

#[test]
fn a_file_that_is_no_toml_is_told_by_line_and_not_quoted() {
    let file = "[auth]\njwt_secret = \"hush\n";
    let env = [("FANFARE_BUS__PARTITIONS", "0"), ("NATS_URL", "nats://n")];
    let errors = load(Role::Gateway, file, &env, &[("auth.mode", "guest")]).unwrap_err();
    assert_eq!(
        errors.0.len(),
        2,
        "the other layers are read all the same: {errors}"
    );
    assert!(errors.0[0].problem.starts_with("line 2: "), "{errors}");
    assert_eq!(errors.0[1].key, "bus.partitions");
    assert!(!errors.to_string().contains("hush"), "{errors}");
    let errors = load(
        Role::Standalone,
        "[api]\nkey = \"hush\"\nkey = \"hush\"",
        &[],
        &[],
    )
    .unwrap_err();
    assert!(
        errors.to_string().contains("line 3") && !errors.to_string().contains("hush"),
        "{errors}"
    );
}

#[test]
fn an_unknown_variable_is_a_warning() {
    let loaded = load(
        Role::Standalone,
        "",
        &[("FANFARE_GATEWAY__LISTN", "x"), ("HOME", "/")],
        &[],
    )
    .unwrap();
    assert_eq!(loaded.warnings.len(), 1);
    assert!(loaded.warnings[0].contains("FANFARE_GATEWAY__LISTN"));
}

#[test]
fn cluster_roles_say_what_they_need() {
    let errors = load(Role::Gateway, "", &[], &[]).unwrap_err();
    assert_eq!(keys(&errors), ["bus.url", "auth.mode"]);
    let errors = load(Role::Fanout, "", &[], &[]).unwrap_err();
    assert_eq!(keys(&errors), ["bus.url", "redis.url", "auth.mode"]);
    // Clients are the gateway's business: nobody else is given the key of their tokens.
    let env = [
        ("NATS_URL", "nats://n"),
        ("REDIS_URL", "redis://r"),
        ("FANFARE_AUTH__MODE", "jwt"),
    ];
    assert!(load(Role::Fanout, "", &env, &[]).is_ok());
    assert!(load(Role::Presence, "", &env, &[]).is_ok());
    let env = [("NATS_URL", "nats://n"), ("FANFARE_AUTH__MODE", "jwt")];
    let errors = load(Role::Gateway, "", &env, &[]).unwrap_err();
    assert_eq!(keys(&errors), ["auth.jwt_secret"]);
}

#[test]
fn what_is_shown_loads_again_and_shows_no_secret() {
    let env = [
        ("JWT_SECRET", "hush"),
        ("NATS_URL", "nats://u:hush@n"),
        ("FANFARE_APP__WEBHOOK_SECRET", "hush"),
        ("FANFARE_APP__WEBHOOK_URL", "http://h/hook?key=sesame"),
        ("FANFARE_APP__AUTHORIZE_URL", "http://h/may?key=sesame"),
        ("FANFARE_AUTH__JWKS_URL", "http://h/keys?key=sesame"),
        ("FANFARE_AUTH__SESSION_URL", "http://h/session?key=sesame"),
        ("FANFARE_TRACE__ENDPOINT", "http://h:4317?key=sesame"),
    ];
    let file = "[[issuers]]\nissuer = \"i\"\njwks_url = \"http://h/others?key=sesame\"\n";
    let config = load(Role::Standalone, file, &env, &[]).unwrap().config;
    let shown = config.to_toml_masked();
    assert!(!shown.contains("hush") && !shown.contains("sesame"), "{shown}");
    for place in ["h/hook", "h/may", "h/keys", "h/session", "h:4317", "h/others"] {
        assert!(shown.contains(&format!("\"http://{place}?********\"")), "{shown}");
    }
    assert!(!format!("{config:?}").contains("hush"));
    let again = load(Role::Standalone, &shown, &[], &[]).unwrap().config;
    assert_eq!(again.to_toml_masked(), shown);
}

/// What `config show` says of a key, as one would write it in a variable.
fn shown(config: &Config, key: &str) -> String {
    let shown: toml::Table = config.to_toml_masked().parse().unwrap();
    let value = match key.split_once('.') {
        Some((section, key)) => &shown[section][key],
        None => &shown[key],
    };
    match value {
        toml::Value::String(text) => text.clone(),
        toml::Value::Array(items) => {
            let items: Vec<_> = items.iter().filter_map(toml::Value::as_str).collect();
            items.join(",")
        }
        other => other.to_string(),
    }
}

#[test]
fn defaults_are_what_the_table_says() {
    let config = load(Role::Standalone, "", &[], &[]).unwrap().config;
    for setting in SETTINGS {
        assert_eq!(
            shown(&config, setting.key),
            setting.default_in(Role::Standalone),
            "{}",
            setting.key
        );
    }
}

/// Of the directory that tests run in.
const FILE: &str = "Cargo.toml";

#[test]
fn files_are_there_and_certificates_come_with_their_keys() {
    let errors = load(
        Role::Standalone,
        "",
        &[
            ("FANFARE_BUS__TLS_CERT", FILE),
            ("FANFARE_GRPC__TLS_KEY", FILE),
            ("FANFARE_REDIS__TLS_CA", "no-such-file"),
        ],
        &[],
    )
    .unwrap_err();
    let wrong = ["redis.tls_ca", "bus.tls_key", "grpc.tls_ca", "grpc.tls_cert"];
    assert_eq!(keys(&errors), wrong);
    assert!(errors.to_string().contains("no-such-file is no file"), "{errors}");
}

#[test]
fn every_setting_can_be_set_by_its_variable_and_is_shown() {
    for setting in SETTINGS
        .iter()
        .filter(|setting| setting.default_in(Role::Standalone).is_empty())
    {
        let value = match setting.key {
            "bus.url" => "nats://n:4222",
            "redis.url" | "redis_emitter.url" => "redis://r:6379",
            "gateway.advertise" => "gateway-0:7001",
            "bus.credentials" | "auth.public_keys" | "auth.jwks_file" => FILE,
            "auth.cookie" | "auth.query" => "token",
            "auth.jwt_previous_secret" => "hush",
            "grpc.tls_server_name" => "roles.example",
            "gateway.trusted_proxies" => "10.0.0.0/8",
            "limits.by_event" => "typing=600",
            "trace.resource_attributes" => "team=edge",
            "admin_ui.password" => "$2b$10$N9qo8uLOickgx2ZMRZoMyeIjZAgcfl7p92ldGxad68LJZdL17lhWy",
            "app.authorize" => "connect,emit",
            "app.lifecycle" => "joined,left",
            key if key.contains(".tls_") => FILE,
            _ => "https://a.example/x",
        };
        let variable = setting.variable();
        // Certificates come with their keys.
        let together = SETTINGS.iter().filter(|other| {
            let tls = |key: &str| {
                let (section, name) = key.split_once(".tls_")?;
                (name != "server_name").then(|| section.to_owned())
            };
            tls(other.key).is_some() && tls(other.key) == tls(setting.key)
        });
        let mut env: Vec<_> = together.map(|other| (other.variable(), FILE)).collect();
        if setting.key == "auth.jwt_previous_secret" {
            env.push(("JWT_SECRET".to_owned(), "hush"));
        }
        if setting.key == "auth.cookie" {
            env.push(("CORS_ORIGIN".to_owned(), "https://a.example"));
        }
        env.push((variable.clone(), value));
        let env: Vec<_> = env.iter().map(|(name, value)| (name.as_str(), *value)).collect();
        let config = load(Role::Standalone, "", &env, &[]).unwrap().config;
        let expected = if setting.secret { "********" } else { value };
        assert_eq!(shown(&config, setting.key), expected, "{variable}");
    }
}

#[test]
fn limits_of_events_are_names_and_numbers() {
    let by_event = |value: &str| {
        let env = [("FANFARE_LIMITS__BY_EVENT", value)];
        load(Role::Standalone, "", &env, &[])
    };
    let limits = by_event("typing=600, chat:message = 20,a=b=0")
        .unwrap()
        .config
        .limits;
    let own = |event: &str, count| (event.to_owned(), count);
    assert_eq!(
        limits.by_event,
        [own("typing", 600), own("chat:message", 20), own("a=b", 0)]
    );
    assert_eq!((limits.events, limits.window.as_secs()), (100, 60));
    for bad in ["typing", "=5", "typing=-1", "typing=many", "typing=1,typing=2"] {
        assert_eq!(keys(&by_event(bad).unwrap_err()), ["limits.by_event"], "{bad}");
    }
}

/// Of both sides, as `section.field`, units left out: durations and sizes drop them from the key's name.
#[test]
fn the_table_is_the_structs_fields() {
    let printed = format!("{:#?}", Config::for_tests(Role::Standalone));
    let mut fields = BTreeSet::new();
    let mut section = String::new();
    for line in printed.lines() {
        let indent = line.len() - line.trim_start().len();
        let Some((name, value)) = line.trim().split_once(": ") else {
            continue;
        };
        match indent {
            4 if value.ends_with('{') => section = name.to_owned(),
            4 => drop(fields.insert(name.to_owned())),
            8 if !section.is_empty() => drop(fields.insert(format!("{section}.{name}"))),
            _ => {}
        }
    }
    // What a process is comes from the command; the others are lists of tables.
    let others = [
        "role",
        "namespaces",
        "issuers",
        "api.keys",
        "notifications.channels",
        "notifications.rules",
    ];
    for other in others {
        assert!(fields.remove(other), "{other}");
    }
    let table: BTreeSet<_> = SETTINGS
        .iter()
        .map(|setting| {
            let units = ["_ms", "_seconds", "_hours", "_bytes"];
            let unit = units.iter().find_map(|unit| setting.key.strip_suffix(unit));
            // The head's bytes are what is counted, not a unit.
            if setting.key == "gateway.max_header_bytes" {
                setting.key
            } else {
                unit.unwrap_or(setting.key)
            }
            .to_owned()
        })
        .collect();
    assert_eq!(fields, table);
}

#[test]
fn a_port_leaves_the_host_alone() {
    let listen = |file: &str, env: &[(&str, &str)], flags: &[(&str, &str)]| {
        load(Role::Standalone, file, env, flags)
            .unwrap()
            .config
            .gateway
            .listen
            .to_string()
    };
    let loopback = "[gateway]\nlisten = \"127.0.0.1:3001\"";
    let port = ("WEBSOCKET_PORT", "4000");
    let address = ("FANFARE_GATEWAY__LISTEN", "[::1]:3001");
    assert_eq!(listen("", &[port], &[]), "0.0.0.0:4000");
    assert_eq!(listen(loopback, &[port], &[]), "127.0.0.1:4000");
    assert_eq!(listen(loopback, &[port, address], &[]), "[::1]:4000");
    assert_eq!(listen(loopback, &[address, port], &[]), "[::1]:4000");
    assert_eq!(
        listen(loopback, &[port], &[("gateway.port", "5000")]),
        "127.0.0.1:5000"
    );
    assert_eq!(
        listen(loopback, &[port], &[("gateway.listen", "127.0.0.2:1")]),
        "127.0.0.2:1"
    );
    let errors = load(Role::Standalone, "", &[("WEBSOCKET_PORT", "http")], &[]).unwrap_err();
    assert_eq!(keys(&errors), ["WEBSOCKET_PORT"]);
}

#[test]
fn the_bridge_for_emitters_has_a_redis() {
    let enabled = ("FANFARE_REDIS_EMITTER__ENABLED", "true");
    let errors = load(Role::Standalone, "", &[enabled], &[]).unwrap_err();
    assert_eq!(keys(&errors), ["redis_emitter.url"]);
    let url = |url| ("FANFARE_REDIS_EMITTER__URL", url);
    let bridge = |url| {
        let loaded = load(Role::Standalone, "", &[enabled, url], &[]);
        loaded.map(|loaded| loaded.config.redis_emitter)
    };
    let set = bridge(url("redis://e")).unwrap();
    assert!(set.enabled && set.key == "socket.io" && set.url.unwrap().expose() == "redis://e");
    for bad in ["redis://a:hush@e,redis://f", "http://a:hush@e"] {
        let errors = bridge(url(bad)).unwrap_err();
        assert_eq!(keys(&errors), ["redis_emitter.url"]);
        assert!(!errors.to_string().contains("hush"), "{errors}");
    }
    for bad in ["", "a\nb", &"k".repeat(129)] {
        let errors = load(Role::Standalone, "", &[("FANFARE_REDIS_EMITTER__KEY", bad)], &[]);
        assert_eq!(keys(&errors.unwrap_err()), ["redis_emitter.key"]);
    }
    // Workers have that of section redis.
    let env = [
        ("NATS_URL", "nats://n"),
        ("REDIS_URL", "redis://r"),
        ("FANFARE_AUTH__MODE", "jwt"),
        enabled,
    ];
    let config = load(Role::Fanout, "", &env, &[]).unwrap().config;
    assert!(config.redis_emitter.enabled && config.redis_emitter.url.is_none());
}

#[test]
fn the_longer_name_counts_in_whatever_order() {
    let older = ("NATS_URL", "nats://older");
    let own = ("FANFARE_BUS__URL", "nats://own");
    for env in [[older, own], [own, older]] {
        let config = load(Role::Standalone, "", &env, &[]).unwrap().config;
        assert_eq!(config.bus.url.unwrap().expose(), "nats://own");
    }
}

#[test]
fn what_cannot_be_an_address_or_an_origin_is_refused() {
    let bad = [
        ("environment", ""),
        ("gateway.advertise", "no port"),
        ("gateway.path", "socket.io"),
        ("bus.url", "http://u:hush@n"),
        ("redis.url", "hush"),
        ("auth.jwks_url", "nonsense"),
        ("auth.session_url", "https://u:hush@a"),
        ("auth.cookie", "a;b"),
        ("auth.query", "a&b"),
        ("auth.leeway_seconds", "601"),
        ("cors.origins", "*,https://a.example"),
        ("app.webhook_url", "https://"),
        ("app.authorize_url", "https://a b"),
        ("log.filter", "gateway=loud"),
    ];
    let errors = load(Role::Standalone, "", &[], &bad).unwrap_err();
    let expected: BTreeSet<_> = bad.iter().map(|(key, _)| *key).collect();
    assert_eq!(keys(&errors).into_iter().collect::<BTreeSet<_>>(), expected);
    assert_eq!(errors.0.len(), bad.len());
    assert!(!errors.to_string().contains("hush"), "{errors}");
}

#[test]
fn defaults_hold_in_standalone() {
    let loaded = load(Role::Standalone, "", &[], &[]).unwrap();
    assert_eq!(loaded.config.admin.listen.port(), 9090);
    assert!(loaded.warnings.is_empty());
}

#[test]
fn issuers_are_read_shown_without_secrets_and_checked() {
    let file = r#"
        [auth]
        mode = "jwt"
        [[issuers]]
        issuer = "https://a.example/"
        audience = "chat"
        jwks_url = "https://a.example/keys"
        [[issuers]]
        issuer = "https://b.example/"
        secret = "hush"
        previous_secret = "hush"
    "#;
    let config = load(Role::Standalone, file, &[], &[]).unwrap().config;
    assert_eq!(config.issuers.len(), 2);
    assert_eq!(config.issuers[0].audience.as_deref(), Some("chat"));
    assert_eq!(config.issuers[1].secret.as_ref().unwrap().expose(), "hush");
    let shown = config.to_toml_masked();
    assert!(
        !shown.contains("hush") && !format!("{config:?}").contains("hush"),
        "{shown}"
    );
    let again = load(Role::Standalone, &shown, &[], &[]).unwrap().config;
    assert_eq!(again.to_toml_masked(), shown);

    let file = r#"
        [[issuers]]
        colour = 1
        [[issuers]]
        issuer = "a"
        [[issuers]]
        issuer = "a"
        secret = 5
        jwks_url = "https://u:hush@a"
        public_keys = "no-such-file"
    "#;
    let errors = load(Role::Standalone, file, &[], &[("auth.issuer", "a")]).unwrap_err();
    let expected = [
        "issuers.0.colour",
        "issuers.0.issuer",
        "issuers.1",
        "issuers.2.secret",
        "issuers.2.public_keys",
        "issuers.2.jwks_url",
        "issuers.2",
        "auth.issuer",
    ];
    assert_eq!(keys(&errors), expected, "{errors}");
    assert!(!errors.to_string().contains("hush"), "{errors}");
}

#[test]
fn a_cookie_is_no_identity_where_any_page_may_connect() {
    let cookie = ("auth.cookie", "session");
    let errors = load(Role::Standalone, "", &[], &[cookie]).unwrap_err();
    assert_eq!(keys(&errors), ["auth.cookie"]);
    for origins in ["", "https://a.example"] {
        assert!(load(Role::Standalone, "", &[], &[cookie, ("cors.origins", origins)]).is_ok());
    }
}

#[test]
fn channels_and_rules_of_notifications_are_read_shown_without_secrets_and_checked() {
    let file = r#"
[notifications.channels.email]
url = "https://mail:hunter2@mail.example/send"
secret = "hush"
max_per_second = 7
[[notifications.rules]]
event = "user.registered"
type = "welcome"
title = "Welcome, {name}"
channels = ["email"]
expire_hours = 24
"#;
    let config = load(Role::Standalone, file, &[], &[]).unwrap().config;
    let channel = &config.notifications.channels[0];
    assert_eq!(
        (&*channel.name, channel.max_per_second, channel.max_attempts),
        ("email", 7, 10)
    );
    let rule = &config.notifications.rules[0];
    assert_eq!(
        (&*rule.kind, rule.expire),
        ("welcome", Some(Duration::from_secs(24 * 3600)))
    );
    let shown = config.to_toml_masked();
    assert!(!shown.contains("hush") && !shown.contains("hunter2"), "{shown}");
    assert!(
        shown.contains("[notifications.channels.email]") && shown.contains("user.registered"),
        "{shown}"
    );

    let wrong = r#"
[notifications.channels."e mail"]
url = "mail.example"
color = "red"
max_attempts = 0
[notifications.channels.browser]
url = "https://a.example"
[[notifications.rules]]
event = "e"
title = 7
channels = ["pigeon"]
"#;
    let errors = load(Role::Standalone, wrong, &[], &[]).unwrap_err();
    let keys = keys(&errors);
    for key in [
        "notifications.channels.e mail",
        "notifications.channels.e mail.url",
        "notifications.channels.e mail.color",
        "notifications.channels.e mail.max_attempts",
        "notifications.channels.browser",
        "notifications.rules.0.type",
        "notifications.rules.0.title",
        "notifications.rules.0.channels",
    ] {
        assert!(keys.contains(&key), "{key}: {keys:?}");
    }
}
