//! The commands beside the server, run as a user would.
#![allow(clippy::unwrap_used, missing_docs, reason = "tests")]

use std::{
    io::Write,
    process::{Command, Output},
};

fn fanfare(args: &[&str], env: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fanfare"));
    command
        .args(args)
        .env_clear()
        .envs(env.iter().copied())
        .output()
        .unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

fn file(content: &str) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(content.as_bytes()).unwrap();
    file
}

#[test]
fn a_configuration_that_holds_is_shown_without_its_secrets() {
    let env = [
        ("JWT_SECRET", "hush"),
        ("FANFARE_GATEWAY__MAX_CONNECTIONS", "7"),
        ("FANFARE_GATEWAY__TYPO", "1"),
    ];
    let checked = fanfare(&["config", "check"], &env);
    assert!(checked.status.success());
    assert!(
        text(&checked.stderr).contains("FANFARE_GATEWAY__TYPO"),
        "an unknown variable is a warning"
    );
    let shown = fanfare(
        &["config", "show", "--set", "gateway.ping_interval_ms=1000"],
        &env,
    );
    assert!(shown.status.success());
    let shown = text(&shown.stdout);
    for expected in [
        "max_connections = 7",
        "ping_interval_ms = 1000",
        "jwt_secret = \"********\"",
    ] {
        assert!(shown.contains(expected), "{expected} is not in\n{shown}");
    }
    assert!(!shown.contains("hush"));
}

#[test]
fn every_mistake_is_told_with_exit_code_2() {
    let file = file("[gateway]\nlisten = \"nowhere\"\ncolour = \"red\"\n");
    let path = file.path().to_str().unwrap();
    for args in [
        vec!["config", "check", "--config", path],
        vec!["config", "show", "--config", path],
        vec!["--config", path],
    ] {
        let output = fanfare(&args, &[("FANFARE_BUS__PARTITIONS", "0")]);
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        for key in ["gateway.listen", "gateway.colour", "bus.partitions"] {
            assert!(
                text(&output.stderr).contains(key),
                "{key} is not in\n{}",
                text(&output.stderr)
            );
        }
    }
}

#[test]
fn cluster_roles_are_checked_for_what_they_need() {
    let output = fanfare(&["config", "check", "gateway"], &[]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("auth.mode") && text(&output.stderr).contains("bus.url"));
}

#[test]
fn a_token_carries_what_was_asked_for() {
    let args = [
        "token",
        "--sub",
        "ada",
        "--role",
        "moderator",
        "--room",
        "team-*",
        "--room",
        "x",
        "--ttl",
        "1h",
    ];
    let output = fanfare(&args, &[("JWT_SECRET", "a secret")]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let key = jsonwebtoken::DecodingKey::from_secret(b"a secret");
    let validation = jsonwebtoken::Validation::new(jsonwebtoken::Algorithm::HS256);
    let token = text(&output.stdout).trim();
    let claims = jsonwebtoken::decode::<serde_json::Value>(token, &key, &validation)
        .unwrap()
        .claims;
    assert_eq!(claims["sub"], "ada");
    assert_eq!(claims["role"], "moderator");
    assert_eq!(claims["rooms"], serde_json::json!(["team-*", "x"]));
    assert_eq!(
        claims["exp"].as_u64().unwrap() - claims["iat"].as_u64().unwrap(),
        3600
    );
}

#[test]
fn what_is_no_token_or_no_command_is_refused() {
    for args in [
        vec!["token", "--sub", "a\nb", "--secret", "s"],
        vec!["token", "--sub", "a", "--role", "king", "--secret", "s"],
        vec!["token", "--sub", "a"],
        vec!["token", "--sub", "a", "--secret", ""],
        vec!["dance"],
        // The cluster roles are not there yet, and nobody shall think they run.
        vec!["gateway"],
        vec!["--port", "70000"],
        vec!["--port", "1", "--listen", "127.0.0.1:1"],
        vec!["config", "check", "--set", "log.filter=gateway=loud"],
        vec!["--set", "gateway.listen"],
    ] {
        assert_eq!(fanfare(&args, &[]).status.code(), Some(2), "{args:?}");
    }
}

#[test]
fn help_names_every_setting_with_its_variable() {
    for args in [vec!["--help"], vec!["standalone", "--help"]] {
        let output = fanfare(&args, &[]);
        let help = text(&output.stdout);
        for setting in config::settings::SETTINGS {
            let default = setting.default_in(config::Role::Standalone);
            assert!(
                help.contains(setting.key) && help.contains(&setting.variable()) && help.contains(default),
                "{args:?}: {}",
                setting.key
            );
        }
    }
}

#[test]
fn a_port_is_changed_by_flag_and_variable_and_the_host_stays() {
    let file = file("[gateway]\nlisten = \"127.0.0.1:3001\"\n");
    let show = ["config", "show", "--config", file.path().to_str().unwrap()];
    let env = [("WEBSOCKET_PORT", "4000")];
    for (flags, expected) in [
        (vec![], "listen = \"127.0.0.1:4000\""),
        (vec!["--port", "5000"], "listen = \"127.0.0.1:5000\""),
        (vec!["--listen", "127.0.0.2:6000"], "listen = \"127.0.0.2:6000\""),
    ] {
        let output = fanfare(&[&show[..], &flags].concat(), &env);
        let shown = text(&output.stdout);
        assert!(shown.contains(expected), "{expected} is not in\n{shown}");
    }
}

#[test]
fn an_address_in_use_is_told() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let output = fanfare(
        &["--listen", &address],
        &[("FANFARE_ADMIN__LISTEN", "127.0.0.1:0")],
    );
    assert_eq!(output.status.code(), Some(1));
    assert!(
        text(&output.stderr).contains(&address),
        "{}",
        text(&output.stderr)
    );
}
