//! Events that servers send to clients (CONTRACT section 6, "Publish"): [`Emit`] says what and to whom, checked;
//! [`Emitter`] puts it where it reaches them. [`json`] reads the HTTP and NATS forms, [`redis_emitter`] that of
//! `@socket.io/redis-emitter`, `proto::v1` has the gRPC form.
//! [`Sockets`] does things with the sockets themselves, at whichever gateway they are; [`messages`] reads histories.

mod args;
mod check;
pub mod departures;
mod emit;
mod emitter;
pub mod errors;
mod gateways;
pub mod json;
pub mod membership;
pub mod messages;
pub mod redis_emitter;
mod sockets;
pub mod spans;

pub use args::{Args, ArgsError, Value};
pub use check::{Check, MAX_TARGETS};
pub use emit::{Emit, Excluded, MAX_EVENT};
pub use emitter::{Emitted, Emitter, log_error};
pub use sockets::{Answers, Place, Sockets};
