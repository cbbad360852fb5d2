//! Guests: clients without a token.

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD as URL_SAFE_NO_PAD};
use model::{Role, User, UserId};

use crate::is_name;

/// How the ids of guests without a token begin.
const GUEST: &str = "guest-";

/// One of a new id, who may have chosen a name.
pub(crate) fn guest(username: Option<String>) -> User {
    let mut id = String::from(GUEST);
    URL_SAFE_NO_PAD.encode_string(rand::random::<[u8; 8]>(), &mut id);
    id.truncate(GUEST.len() + 10);
    let name = username
        .map(|name| name.trim().to_owned())
        .filter(|name| is_name(name));
    let username = name.unwrap_or_else(|| id.clone());
    // Six ASCII characters and ten URL-safe ones are always an id.
    named_guest(UserId::new(&id).unwrap_or_else(|_| unreachable!()), &username)
}

/// A guest without a token, of a known id.
#[must_use]
pub fn named_guest(id: UserId, username: &str) -> User {
    User {
        username: username.into(),
        id,
        anonymous: true,
        role: Role::Guest,
        permissions: Vec::new(),
        rooms: Vec::new(),
        claims: Vec::new(),
        expires_at: None,
    }
}
