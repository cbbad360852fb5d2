//! Guests: clients without a token.

use model::{Role, User, UserId};
use rand::Rng;

use crate::is_name;

/// How the ids of guests without a token begin.
pub const GUEST: &str = "guest-";

/// One of a new id, who may have chosen a name.
pub(crate) fn guest(username: Option<String>) -> User {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut random = rand::rng();
    let mut id = String::from(GUEST);
    id.extend((0..10).map(|_| char::from(ALPHABET[usize::from(random.random::<u8>() & 63)])));
    let name = username
        .map(|name| name.trim().to_owned())
        .filter(|name| is_name(name));
    let username = name.unwrap_or_else(|| id.clone());
    // Six ASCII characters and ten URL-safe ones are always an id.
    named_guest(UserId::new(&id).unwrap_or_else(|_| unreachable!()), &username)
}

/// A guest of a known id.
#[must_use]
pub fn named_guest(id: UserId, username: &str) -> User {
    User {
        username: username.into(),
        id,
        role: Role::Guest,
        permissions: Vec::new(),
        rooms: Vec::new(),
        claims: Vec::new(),
        expires_at: None,
    }
}
