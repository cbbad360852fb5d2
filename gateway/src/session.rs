//! Socket.IO over an Engine.IO session: namespaces, identities, acknowledgements.

mod auth;
mod recovery;
mod server;
mod socket;

pub use auth::{Authenticator, Refusal};
pub use recovery::Away;
pub(crate) use recovery::{Claim, Sessions, is_recoverable};
pub use server::{Admission, Application, Connect, EventPacket, SocketServer};
pub(crate) use server::{Success, unavailable};
pub(crate) use socket::json;
pub use socket::{Socket, Sockets};
