//! Engine.IO over HTTP: handshakes, long-polling, WebSocket and the upgrade between them.

mod admission;
mod affinity;
mod ages;
pub mod conn;
mod cors;
mod door;
mod driver;
mod forward;
mod outbound;
mod polling;
pub(crate) mod reply;
pub mod server;
mod tunnel;
mod wake;
mod ws;

pub use affinity::{COOKIE, session_key};
pub(crate) use conn::Cork;
pub use conn::{Conn, Handshake};
pub use driver::{EngineHandler, Message, Step};
pub use forward::Forwarder;
pub use server::{EngineOptions, EngineServer};
