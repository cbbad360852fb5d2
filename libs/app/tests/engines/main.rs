//! The engines of `App`, and what stands on them.
#![allow(clippy::unwrap_used, missing_docs, reason = "tests")]

mod listener;
mod nats;
mod web;
mod webhook;
