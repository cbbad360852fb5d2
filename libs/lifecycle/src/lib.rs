//! How a process starts, runs its tasks and stops: named tasks, phases with budgets, readiness, the
//! admin server.

pub mod admin;
mod phases;
mod readiness;
mod signals;
mod tasks;

pub use phases::phase;
pub use readiness::{Condition, Readiness};
pub use signals::stop_signal;
pub use tasks::Tasks;
