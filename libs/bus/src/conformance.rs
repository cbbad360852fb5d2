//! One conformance list per port, run on every engine and every wrapper.
//!
//! Each check keeps to rooms, subjects or keys of its own and never asserts absolute sequences, so the
//! checks of a list run at once, and on a server that others use too.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a check reports by panicking")]

use std::{
    hash::{BuildHasher, Hasher, RandomState},
    time::Duration,
};

mod documents;
mod event_log;
mod signals;
mod work_queue;

pub use documents::documents;
pub use event_log::{LogUnderTest, event_log};
pub use signals::signals;
pub use work_queue::work_queue;

/// Something that must come has this long; far more than it needs.
const PATIENCE: Duration = Duration::from_secs(30);

/// A number that nobody else uses.
fn unique() -> u64 {
    RandomState::new().build_hasher().finish()
}

/// Waits for what must come.
async fn soon<T>(future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(value) => value,
        Err(_) => panic!("did not come within {PATIENCE:?}"),
    }
}

/// Runs a future for one poll only, then drops it.
async fn poll_once<T>(future: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        biased;
        value = future => Some(value),
        () = std::future::ready(()) => None,
    }
}
