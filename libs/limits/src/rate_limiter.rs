//! The port of rate limits.
//!
//! The rule is the generic cell rate algorithm (ITU-T I.371): a key that rested may spend the whole limit at
//! once, then gets it back evenly, one event every `window / events`. So over any stretch of time `t` a key is
//! allowed at most `events + t × events / window`: twice the limit in the worst window, the limit on the long run.
//! There are no windows that begin and end for all at once, and a key costs one number.

use std::{error::Error, sync::Arc, time::Duration};

use async_trait::async_trait;

pub mod conformance;
pub mod memory;
pub mod redis;

/// Port of a rate limit: one limit, held for every key by itself.
///
/// Checks of a key are atomic and take place one after another, from however many processes they come. An
/// engine may forget a key that is back at its full limit: that cannot be told from a new one.
#[async_trait]
pub trait RateLimiter: Send + Sync + 'static {
    /// Spends `cost` of `key` if there is as much left; spends nothing when refused. A cost of 0 spends nothing,
    /// is allowed, and tells what is left.
    ///
    /// Not to be retried blindly: an engine that is unreachable may have spent the cost all the same. Dropping
    /// the future leaves it open whether the cost is spent.
    ///
    /// # Errors
    /// [`LimitsError::TooCostly`] when `cost` is more than the limit, so that waiting would not help;
    /// [`LimitsError::Unavailable`] when the engine cannot be asked.
    async fn check(&self, key: &str, cost: u32) -> Result<Decision, LimitsError> {
        Ok(self.lease(key, cost, 0).await?.decision)
    }

    /// As [`RateLimiter::check`], and when that is allowed spends up to `spare` more, for the caller to use without
    /// asking: at most a quarter of what would be left, so that nobody sits on what others are short of.
    ///
    /// # Errors
    /// As `check`.
    async fn lease(&self, key: &str, cost: u32, spare: u32) -> Result<Lease, LimitsError>;

    /// Takes `count` back that was spent and not used.
    ///
    /// # Errors
    /// [`LimitsError::Unavailable`]: it is then lost until it comes back with time.
    async fn give_back(&self, key: &str, count: u32) -> Result<(), LimitsError>;

    /// [`RateLimiter::check`] without a future, for paths where that would cost; `None`, with nothing spent, when this
    /// engine would have to wait.
    ///
    /// # Errors
    /// As `check`.
    fn try_check(&self, _key: &str, _cost: u32) -> Option<Result<Decision, LimitsError>> {
        None
    }
}

/// So many events a window.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Limit {
    events: u32,
    window: Duration,
}

/// The answer to a check.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Whether the cost was spent.
    pub allowed: bool,
    /// Events a window: the most a key can have left.
    pub limit: u32,
    /// How much the key may spend at once now, this check counted.
    pub remaining: u32,
    /// When the same check would be allowed if nobody else spends; zero when it was allowed.
    pub retry_after: Duration,
    /// When the key would have its full limit back if nobody spends.
    pub reset_in: Duration,
}

/// What was spent ahead, beside the answer to the check.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// The answer; what is left does not count `spare` any more.
    pub decision: Decision,
    /// So much was spent for later use.
    pub spare: u32,
}

/// Limiters that share what they count with other processes.
pub trait Limiters: Send + Sync {
    /// The limiter that every process gets by this name, whatever limit each has configured.
    fn limiter(&self, name: &str, limit: Limit) -> Arc<dyn RateLimiter>;
}

/// Why there is no decision.
#[derive(Debug, thiserror::Error)]
pub enum LimitsError {
    /// More than the limit in one go: never allowed.
    #[error("a cost of {cost} is more than the limit of {limit}")]
    TooCostly {
        /// What was asked for.
        cost: u32,
        /// Events a window.
        limit: u32,
    },
    /// The engine cannot be asked.
    #[error("rate limits cannot be asked")]
    Unavailable(#[source] Box<dyn Error + Send + Sync>),
}

impl Limit {
    /// `events` each `window`; `None`, no limit, when either is zero (CONTRACT section 3: 0 turns a limit off).
    #[must_use]
    pub fn new(events: u32, window: Duration) -> Option<Self> {
        (events > 0 && !window.is_zero()).then_some(Self { events, window })
    }

    /// Events a window, and the most at once; never 0.
    #[must_use]
    pub fn events(self) -> u32 {
        self.events
    }

    /// The window, never zero.
    #[must_use]
    pub fn window(self) -> Duration {
        self.window
    }
}
