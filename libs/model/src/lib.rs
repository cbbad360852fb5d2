//! The words every crate shares: ids, rooms, users, offsets, error codes. No I/O.

mod error;
mod hash;
mod ids;
mod room;
mod trace;
mod user;

pub use error::{ClientError, Detail, ErrorCode};
pub use hash::{partition_of, rendezvous};
pub use ids::{GatewayId, IdError, Offset};
pub use room::{
    ALL_ROOM_PREFIX, Namespace, NamespaceError, RoomError, RoomName, RoomToken, SOCKET_ROOM_PREFIX,
    USER_ROOM_PREFIX,
};
pub use trace::{TraceContext, TraceContextError};
pub use user::{Role, User, UserId, UserIdError};
