//! Rate limits: how often a user, an address or a gateway may do something. One port, its engines.

pub mod rate_limiter;

pub use rate_limiter::{Decision, Limit, LimitsError, RateLimiter};
