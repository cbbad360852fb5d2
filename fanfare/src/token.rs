//! `token`: mints a development JWT.

use std::{
    process::ExitCode,
    time::{SystemTime, UNIX_EPOCH},
};

use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde::Serialize;

use crate::cli::Token;

#[derive(Serialize)]
struct Claims<'a> {
    sub: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    username: Option<&'a str>,
    role: &'a str,
    permissions: &'a [String],
    rooms: &'a [String],
    iat: u64,
    exp: u64,
}

#[expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command line speaks to people"
)]
pub(crate) fn print(token: &Token) -> ExitCode {
    if let Err(error) = model::UserId::new(&token.sub) {
        eprintln!("--sub: {error}");
        return ExitCode::from(2);
    }
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs();
    let claims = Claims {
        sub: &token.sub,
        username: token.username.as_deref(),
        role: &token.role,
        permissions: &token.permissions,
        rooms: &token.rooms,
        iat: now,
        exp: now.saturating_add(token.ttl.as_secs()),
    };
    match encode(
        &Header::new(Algorithm::HS256),
        &claims,
        &EncodingKey::from_secret(token.secret.as_bytes()),
    ) {
        Ok(token) => {
            println!("{token}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("the token cannot be signed: {error}");
            ExitCode::FAILURE
        }
    }
}
