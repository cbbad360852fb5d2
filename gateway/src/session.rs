//! Socket.IO over an Engine.IO session: namespaces, identities, acknowledgements.

mod asked;
mod expiry;
mod recovery;
mod server;
mod socket;
mod store;

pub(crate) use asked::Answer;
pub(crate) use auth::named_guest;
pub use auth::{Authenticator, Refusal, Shown};
pub(crate) use expiry::Expiries;
pub(crate) use recovery::{Arrived, Because, Claim, Left, Sessions, Source, Who, is_recoverable};
pub use recovery::{Away, Moved, Returns};
pub use server::{Admission, Application, Connect, EventPacket, SocketServer};
pub(crate) use server::{Success, unavailable};
pub(crate) use socket::json;
pub use socket::{Socket, Sockets};
pub use store::{BUCKET as SESSION_BUCKET, SPARE_AGE};
pub(crate) use store::{SessionStore, Taken};
