//! Engine.IO over HTTP: handshakes, long-polling, WebSocket and the upgrade between them.

pub mod conn;
mod cors;
mod driver;
mod outbound;
mod polling;
mod reply;
pub mod server;
mod ws;

pub use conn::{Conn, Handshake};
pub use driver::{EngineHandler, Message, Step};
pub use server::{EngineOptions, EngineServer};
