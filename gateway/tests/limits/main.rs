//! Limits as clients of one gateway meet them.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs, reason = "tests")]

mod addresses;
#[path = "../alone/mod.rs"]
mod alone;
mod client;
mod events;
mod http;
mod refusals;
mod slow;

use alone::start;
use config::{Config, Role};

/// No limit but those that a test sets.
fn config(change: impl FnOnce(&mut Config)) -> Config {
    let mut config = Config::for_tests(Role::Standalone);
    config.limits.events = 0;
    change(&mut config);
    config
}
