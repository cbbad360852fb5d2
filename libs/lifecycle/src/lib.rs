//! How a process starts, runs its tasks and stops: named tasks, phases with budgets, readiness, the
//! admin server; HTTP listeners and their certificates.

pub mod admin;
mod phases;
mod readiness;
mod serve;
mod signals;
mod tasks;
pub mod tls;
mod write_timeout;

pub use phases::phase;
pub use readiness::{Condition, Readiness};
pub use serve::serve;
pub use signals::stop_signal;
pub use tasks::Tasks;
pub use write_timeout::WriteTimeout;
