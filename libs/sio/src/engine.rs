//! Engine.IO: packets, long-polling payloads, handshake answers, and the state of one session.
//!
//! Rules are those of `engine.io-protocol` v4 (4.1); where its text is loose, of the reference server (engine.io 6.6).

mod close_reason;
mod handshake;
mod packet;
pub mod payload;
mod session;

pub use close_reason::CloseReason;
pub use handshake::{HandshakeError, Timing, TransportKind, Version, open_payload};
pub use packet::{DecodeError, Packet};
pub use session::{Received, Session, Timer};
