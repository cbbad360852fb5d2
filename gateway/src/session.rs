//! Socket.IO over an Engine.IO session: namespaces, identities, acknowledgements.

mod auth;
mod server;
mod socket;

pub use auth::{Authenticator, Refusal};
pub use server::{Application, Connect, EventPacket, SocketServer};
pub(crate) use server::{Success, reply, unavailable};
pub(crate) use socket::json;
pub use socket::{Socket, Sockets};
