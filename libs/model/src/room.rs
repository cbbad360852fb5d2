use std::{fmt, sync::Arc};

use serde::Serialize;

/// Rooms of this prefix belong to one user: `user:<id>`.
pub const USER_ROOM_PREFIX: &str = "user:";
/// Rooms of this prefix hold one socket. The control character keeps them out of reach of clients
/// (CONTRACT section 4 refuses control characters in `roomId`).
pub const SOCKET_ROOM_PREFIX: &str = "\u{1}socket:";
/// The room that holds every socket of a namespace, out of reach of clients likewise.
pub const ALL_ROOM_PREFIX: &str = "\u{1}all";

/// A Socket.IO namespace: begins with `/`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct Namespace(Arc<str>);

/// A name that cannot be a namespace.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a namespace begins with '/', has at most 128 characters and no control characters")]
pub struct NamespaceError;

impl Namespace {
    /// Checks the name: begins with `/`, at most 128 characters, no control characters.
    ///
    /// # Errors
    /// When it is not so.
    pub fn new(name: &str) -> Result<Self, NamespaceError> {
        let valid =
            name.starts_with('/') && name.chars().count() <= 128 && !name.chars().any(char::is_control);
        valid.then(|| Self(name.into())).ok_or(NamespaceError)
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A room of a namespace, by name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct RoomName(Arc<str>);

/// A name that clients may not use for a room; says what is wrong.
#[derive(Copy, Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RoomError {
    /// The name is empty.
    #[error("must not be empty")]
    Empty,
    /// The name has more than 128 Unicode code points.
    #[error("must have at most 128 characters")]
    TooLong,
    /// The name has a control character.
    #[error("must not contain control characters")]
    ControlCharacter,
}

impl RoomName {
    /// Checks a name that came from outside: 1–128 Unicode code points, no control characters
    /// (CONTRACT section 4, limits).
    ///
    /// # Errors
    /// Says which rule is broken.
    pub fn new(name: &str) -> Result<Self, RoomError> {
        if name.is_empty() {
            Err(RoomError::Empty)
        } else if name.chars().any(char::is_control) {
            Err(RoomError::ControlCharacter)
        } else if name.chars().nth(128).is_some() {
            Err(RoomError::TooLong)
        } else {
            Ok(Self(name.into()))
        }
    }

    /// A name read back from a record, which was checked when it was written.
    #[must_use]
    pub fn stored(name: &str) -> Self {
        Self(name.into())
    }

    /// The room of one user.
    #[must_use]
    pub fn of_user(user: &str) -> Self {
        Self(format!("{USER_ROOM_PREFIX}{user}").into())
    }

    /// The room of one socket.
    #[must_use]
    pub fn of_socket(socket: &str) -> Self {
        Self(format!("{SOCKET_ROOM_PREFIX}{socket}").into())
    }

    /// The room of every socket of a namespace.
    #[must_use]
    pub fn all() -> Self {
        Self(ALL_ROOM_PREFIX.into())
    }

    /// The user whose room this is, if it is one.
    #[must_use]
    pub fn user(&self) -> Option<&str> {
        self.0.strip_prefix(USER_ROOM_PREFIX)
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RoomName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a room is called in subjects, tables and partitions: the first 16 bytes of
/// `BLAKE3(len(namespace) as u64 big-endian ‖ namespace ‖ room)`.
///
/// Clients choose room names, so the hash must withstand them; the true names travel in the record
/// and are compared on delivery all the same.
#[derive(Copy, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RoomToken([u8; 16]);

impl RoomToken {
    /// The token of `room` in `namespace`.
    #[must_use]
    pub fn new(namespace: &Namespace, room: &RoomName) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&(namespace.0.len() as u64).to_be_bytes());
        hasher.update(namespace.0.as_bytes());
        hasher.update(room.0.as_bytes());
        let mut token = [0u8; 16];
        token.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
        Self(token)
    }

    /// The token as bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// A token from its bytes; `None` unless there are 16.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }
}

/// 32 lower-case hexadecimal digits, as in subjects.
impl fmt::Display for RoomToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for RoomToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RoomToken({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_names_are_checked_by_code_points() {
        assert!(RoomName::new(&"é".repeat(128)).is_ok());
        assert_eq!(RoomName::new(&"é".repeat(129)), Err(RoomError::TooLong));
        assert_eq!(RoomName::new(""), Err(RoomError::Empty));
        assert_eq!(RoomName::new("a\nb"), Err(RoomError::ControlCharacter));
        for reserved in [RoomName::all(), RoomName::of_socket("x")] {
            assert_eq!(RoomName::new(reserved.as_str()), Err(RoomError::ControlCharacter));
        }
    }

    #[test]
    fn tokens_tell_namespace_and_room_apart() {
        let token = |namespace: &str, room: &str| {
            RoomToken::new(&Namespace::new(namespace).unwrap(), &RoomName::stored(room))
        };
        assert_ne!(token("/a", "bc"), token("/ab", "c"));
        assert_eq!(
            RoomToken::from_bytes(token("/", "x").as_bytes()),
            Some(token("/", "x"))
        );
    }
}
