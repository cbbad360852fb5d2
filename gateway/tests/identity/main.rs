//! Who gets in, how long, and what they may do: a gateway, real sockets, tokens.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs, reason = "tests")]

#[path = "../alone/mod.rs"]
mod alone;
mod doors;
mod policies;
mod refresh;
mod stage;
