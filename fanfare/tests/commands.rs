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

/// A key of the tests of tokens.
fn key(name: &str) -> String {
    format!("{}/../libs/auth/tests/keys/{name}", env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn a_token_is_signed_by_any_key_and_says_all_it_was_told_to() {
    use jsonwebtoken::{Algorithm, DecodingKey, Validation};
    for (name, flags, alg) in [
        ("rsa", &[][..], Algorithm::RS256),
        ("rsa", &["--alg", "RS512"], Algorithm::RS512),
        ("rsa", &["--alg", "PS256"], Algorithm::PS256),
        ("p256", &[], Algorithm::ES256),
        ("p384", &[], Algorithm::ES384),
        ("ed25519", &[], Algorithm::EdDSA),
    ] {
        let path = key(&format!("{name}.pem"));
        let args = [
            &[
                "token",
                "--sub",
                "ada",
                "--key",
                &path,
                "--kid",
                "k",
                "--issuer",
                "us",
                "--audience",
                "chat",
            ],
            &["--claim", "team=red", "--claim", "levels=[1,2]", "--ttl", "1h"][..],
            flags,
        ]
        .concat();
        // A secret in the environment does not get in the way of a key.
        let output = fanfare(&args, &[("JWT_SECRET", "a secret")]);
        assert!(output.status.success(), "{}", text(&output.stderr));
        let pem = std::fs::read(key(&format!("{name}.pub.pem"))).unwrap();
        let public = DecodingKey::from_ed_pem(&pem)
            .or_else(|_| DecodingKey::from_ec_pem(&pem))
            .or_else(|_| DecodingKey::from_rsa_pem(&pem))
            .unwrap();
        let mut validation = Validation::new(alg);
        validation.set_audience(&["chat"]);
        validation.set_issuer(&["us"]);
        let token = text(&output.stdout).trim();
        let token = jsonwebtoken::decode::<serde_json::Value>(token, &public, &validation).unwrap();
        assert_eq!(token.header.kid.as_deref(), Some("k"));
        assert_eq!(token.claims["team"], "red");
        assert_eq!(token.claims["levels"], serde_json::json!([1, 2]));
    }
    let output = fanfare(
        &["token", "--sub", "ada", "--alg", "HS512"],
        &[("JWT_SECRET", "a secret")],
    );
    let head = jsonwebtoken::decode_header(text(&output.stdout).trim()).unwrap();
    assert_eq!(head.alg, Algorithm::HS512);
}

#[test]
fn keys_are_checked_and_never_shown() {
    let weak = key("rsa-weak.pub.pem");
    for (args, env, code, expected) in [
        (
            vec!["token", "--sub", "a", "--key", &key("rsa.pub.pem")],
            vec![],
            2,
            "--key",
        ),
        (
            vec!["token", "--sub", "a", "--key", "no-such-file"],
            vec![],
            2,
            "no-such-file",
        ),
        (
            vec!["token", "--sub", "a", "--key", &key("rsa.pem"), "--alg", "ES256"],
            vec![],
            2,
            "--alg",
        ),
        (
            vec!["token", "--sub", "a", "--key", &key("p256.pem"), "--alg", "ES384"],
            vec![],
            2,
            "cannot sign",
        ),
        (
            vec!["token", "--sub", "a", "--claim", "exp=0"],
            vec![("JWT_SECRET", "hush")],
            2,
            "--claim",
        ),
        (
            vec!["config", "check"],
            vec![("FANFARE_AUTH__PUBLIC_KEYS", &*weak)],
            2,
            "auth.public_keys",
        ),
        (
            vec!["config", "check"],
            vec![("FANFARE_AUTH__JWKS_FILE", &*weak)],
            2,
            "auth.jwks_file",
        ),
        (
            vec!["config", "check"],
            vec![("JWT_SECRET", "hush")],
            0,
            "auth.jwt_secret",
        ),
    ] {
        let output = fanfare(&args, &env);
        let told = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {told}");
        assert!(
            told.contains(expected) && !told.contains("hush"),
            "{args:?}: {told}"
        );
        assert!(
            !told.contains("MI") && !text(&output.stdout).contains("hush"),
            "{args:?}: {told}"
        );
    }
}

#[test]
fn what_is_no_token_or_no_command_is_refused() {
    for args in [
        vec!["token", "--sub", "a\nb", "--secret", "s"],
        vec!["token", "--sub", "a", "--role", "king", "--secret", "s"],
        vec!["token", "--sub", "a"],
        vec!["token", "--sub", "a", "--secret", "s", "--alg", "none"],
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
