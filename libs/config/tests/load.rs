//! Layers, mistakes, masks.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::io::Write;

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
        "namespaces.0",
        "namespaces.0",
        "x.y",
    ];
    assert_eq!(keys, expected);
    assert!(errors.to_string().contains("FANFARE_GATEWAY__LISTEN"), "{errors}");
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
    assert_eq!(keys(&errors), ["bus.url", "redis.url"]);
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
    ];
    let config = load(Role::Standalone, "", &env, &[]).unwrap().config;
    let shown = config.to_toml_masked();
    assert!(!shown.contains("hush"), "{shown}");
    assert!(!format!("{config:?}").contains("hush"));
    let again = load(Role::Standalone, &shown, &[], &[]).unwrap().config;
    assert_eq!(again.to_toml_masked(), shown);
}

#[test]
fn the_table_is_what_is_shown() {
    let shown: toml::Table = Config::for_tests(Role::Standalone)
        .to_toml_masked()
        .parse()
        .unwrap();
    for setting in SETTINGS {
        let value = match setting.key.split_once('.') {
            Some((section, key)) => &shown[section][key],
            None => &shown[setting.key],
        };
        let is_number = setting.default.parse::<i64>().is_ok();
        assert_eq!(
            value.is_integer(),
            is_number,
            "{}: {value:?} is shown for {:?}",
            setting.key,
            setting.default
        );
    }
}

#[test]
fn defaults_hold_in_standalone() {
    let loaded = load(Role::Standalone, "", &[], &[]).unwrap();
    assert_eq!(loaded.config.admin.listen.port(), 9090);
    assert!(loaded.warnings.is_empty());
}
