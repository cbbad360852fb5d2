//! `token`: mints a development JWT.

use std::{
    process::ExitCode,
    time::{SystemTime, UNIX_EPOCH},
};

use jsonwebtoken::{Algorithm, AlgorithmFamily, EncodingKey, Header, encode};
use serde::Serialize;
use serde_json::{Map, Value};

use crate::cli::Token;

#[derive(Serialize)]
struct Claims<'a> {
    sub: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    username: Option<&'a str>,
    role: &'a str,
    permissions: &'a [String],
    rooms: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    iss: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    aud: Option<&'a str>,
    iat: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    nbf: Option<u64>,
    exp: u64,
    #[serde(flatten)]
    others: Map<String, Value>,
}

/// Claims that have flags of their own: twice in a token they would make it invalid.
const NAMED: [&str; 10] = [
    "sub",
    "username",
    "role",
    "permissions",
    "rooms",
    "iss",
    "aud",
    "iat",
    "nbf",
    "exp",
];

#[expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command line speaks to people"
)]
pub(crate) fn print(token: &Token) -> ExitCode {
    match mint(token) {
        Ok(token) => {
            println!("{token}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(2)
        }
    }
}

/// Says which flag is wrong, and never shows a key.
fn mint(token: &Token) -> Result<String, String> {
    model::UserId::new(&token.sub).map_err(|error| format!("--sub: {error}"))?;
    if let Some((name, _)) = token
        .claims
        .iter()
        .find(|(name, _)| NAMED.contains(&name.as_str()))
    {
        return Err(format!("--claim: {name} has a flag of its own"));
    }
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs();
    let others = token.claims.iter().map(|(name, text)| {
        let value = serde_json::from_str(text).unwrap_or_else(|_| Value::String(text.clone()));
        (name.clone(), value)
    });
    let claims = Claims {
        sub: &token.sub,
        username: token.username.as_deref(),
        role: &token.role,
        permissions: &token.permissions,
        rooms: &token.rooms,
        iss: token.issuer.as_deref(),
        aud: token.audience.as_deref(),
        iat: now,
        nbf: token.not_before.map(|after| now.saturating_add(after.as_secs())),
        exp: now.saturating_add(token.ttl.as_secs()),
        others: others.collect(),
    };
    let (key, family) = key(token)?;
    if let Some(alg) = token.alg.filter(|alg| alg.family() != family) {
        return Err(format!("--alg: the key does not sign {alg:?}"));
    }
    let fitting: Vec<Algorithm> = match token.alg {
        Some(alg) => vec![alg],
        None => family.algorithms().to_vec(),
    };
    // The first that the key can: of two curves a key is on one.
    let signed = fitting.into_iter().find_map(|alg| {
        let mut header = Header::new(alg);
        header.kid.clone_from(&token.kid);
        encode(&header, &claims, &key).ok()
    });
    signed.ok_or_else(|| match &token.key {
        Some(path) => format!(
            "--key {}: it cannot sign that; a private key is needed (PKCS#8)",
            path.display()
        ),
        None => "--secret: it cannot sign".to_owned(),
    })
}

fn key(token: &Token) -> Result<(EncodingKey, AlgorithmFamily), String> {
    let Some(path) = &token.key else {
        let secret = token
            .secret
            .as_ref()
            .ok_or("--secret (JWT_SECRET) or --key is needed")?;
        let key = EncodingKey::from_secret(secret.as_bytes());
        return Ok((key, AlgorithmFamily::Hmac));
    };
    let pem = std::fs::read(path).map_err(|error| format!("--key {}: {error}", path.display()))?;
    EncodingKey::from_ed_pem(&pem)
        .or_else(|_| EncodingKey::from_ec_pem(&pem))
        .or_else(|_| EncodingKey::from_rsa_pem(&pem))
        .map(|key| {
            let family = key.family();
            (key, family)
        })
        .map_err(|_| {
            format!(
                "--key {}: there is no private key in it (PEM, PKCS#8)",
                path.display()
            )
        })
}
