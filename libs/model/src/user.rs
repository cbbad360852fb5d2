use std::{fmt, sync::Arc};

use serde::{Deserialize, Serialize};

/// The id of a user: 1–128 characters, no control characters (CONTRACT section 4).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct UserId(Arc<str>);

/// A text that cannot be a user id.
#[derive(Copy, Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a user id has 1 to 128 characters and no control characters")]
pub struct UserIdError;

impl UserId {
    /// Checks the form.
    ///
    /// # Errors
    /// When it is empty, too long or has control characters.
    pub fn new(id: &str) -> Result<Self, UserIdError> {
        let valid = !id.is_empty() && id.chars().nth(128).is_none() && !id.chars().any(char::is_control);
        valid.then(|| Self(id.into())).ok_or(UserIdError)
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for UserId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a user is (CONTRACT section 4, claim `role`). Ordered from least to most.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Without a token.
    Guest,
    /// The default of a token.
    #[default]
    User,
    /// May see more, e.g. who is online everywhere.
    Moderator,
    /// May do everything a policy does not forbid by name.
    Admin,
}

impl Role {
    /// The role as its claim.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Guest => "guest",
            Self::User => "user",
            Self::Moderator => "moderator",
            Self::Admin => "admin",
        }
    }
}

/// Who is behind a socket, as its token or the application said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// Claim `sub`.
    pub id: UserId,
    /// Whether it is a guest without a token, whose id is its connection's alone. A token's user never is, whatever its
    /// id and role.
    pub anonymous: bool,
    /// Claim `username`; the id where there is none.
    pub username: Arc<str>,
    /// Claim `role`.
    pub role: Role,
    /// Claim `permissions`.
    pub permissions: Vec<String>,
    /// Claim `rooms`: names or patterns (`*` matches any run of characters).
    pub rooms: Vec<String>,
    /// Other claims, by name: those that policies refer to. A list has several values.
    pub claims: Vec<(String, Vec<String>)>,
    /// Unix seconds at which the identity ends: claim `exp`, the leeway for clocks added.
    pub expires_at: Option<u64>,
}

impl User {
    /// Whether the user has `permission`, by claim or by role: admins and moderators have
    /// `presence:read`.
    #[must_use]
    pub fn may(&self, permission: &str) -> bool {
        self.permissions.iter().any(|held| held == permission)
            || (permission == "presence:read" && self.role >= Role::Moderator)
    }
}
