//! Rate limits: how often a user, an address or a gateway may do something. One port, its engines, and budgets that
//! are leased from them.

pub mod budget;
pub mod rate_limiter;

pub use budget::{Budget, Budgets, Spent};
pub use rate_limiter::{Decision, Lease, Limit, Limiters, LimitsError, RateLimiter};
