use std::process::Command;

use anyhow::{Result, ensure};

use crate::{JWT_SECRET, built};

/// A token of the servers under test, good for an hour.
///
/// # Errors
/// When the program that mints it is missing or fails.
pub fn token(user: &str, more: &[&str]) -> Result<String> {
    let output = Command::new(built("fanfare", "cargo build -p fanfare")?)
        .args(["token", "--sub", user, "--ttl", "1h"])
        .args(more)
        .env("JWT_SECRET", JWT_SECRET)
        .output()?;
    ensure!(output.status.success(), "no token: {output:?}");
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}
