//! Tokens, keys behind URLs, sessions that the application knows: what gets in and what does not.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs, reason = "tests")]

mod jwks;
mod sessions;
mod stage;
mod tokens;
