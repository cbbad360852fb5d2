//! Workers: read a partition in order, deliver to the gateways that care. Knows nothing of Socket.IO
//! and never looks into an event.

mod dispatch;
mod gateways;
mod interest;
pub mod metrics;
mod ownership;
mod partition;
pub mod publisher;
pub mod redis_emitter;
mod worker;

pub use ::publisher::{Sockets, departures::BUCKET as DEPARTURES_BUCKET};
pub use worker::{Deps, Settings, Worker};
