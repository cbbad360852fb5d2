//! Who may do what where: namespaces' policies and rooms.

use bus::Documents;
use model::{ClientError, ErrorCode, Namespace, Role, RoomName, RoomToken, User};
use serde::{Deserialize, Serialize};

use crate::session::unavailable;

/// Bucket of [`Membership`] documents, by room token.
pub(super) const MEMBERSHIP: &str = "rooms";

/// Rules from configuration.
pub(crate) struct Access {
    public: Vec<String>,
    namespaces: Vec<Policy>,
}

/// What holds in one namespace or pattern of namespaces.
pub(crate) struct Policy {
    pattern: String,
    connect_roles: Vec<Role>,
    /// Events that only some roles may send.
    emit_roles: Vec<(String, Vec<Role>)>,
    /// Stored elsewhere, not here.
    volatile: Vec<String>,
}

/// An answer without asking anybody.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(super) enum Quick {
    Allowed,
    Denied,
    /// The user may be a member of it.
    AskMembership,
}

/// Who may join a room although it is not public.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Membership {
    pub(super) participants: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(super) name: Option<String>,
}

impl Access {
    pub(crate) fn new(config: &config::Config) -> Self {
        let namespaces = config
            .namespaces
            .iter()
            .map(|namespace| Policy {
                pattern: namespace.pattern.clone(),
                connect_roles: roles(&namespace.connect_roles),
                emit_roles: namespace
                    .emit_roles
                    .iter()
                    .map(|(event, names)| (event.clone(), roles(names)))
                    .collect(),
                volatile: namespace.volatile.clone(),
            })
            .collect();
        Self {
            public: config.rooms.public.clone(),
            namespaces,
        }
    }

    /// Whether a user who was in a room may be in it again. Membership is not asked for anew: nobody is
    /// taken out of it.
    pub(super) fn may_stay(&self, user: &User, room: &RoomName) -> bool {
        room.as_str().starts_with(char::is_control) || self.quick(user, room) != Quick::Denied
    }

    /// The policy of a namespace; `None` when there is no such namespace.
    pub(super) fn policy(&self, namespace: &Namespace) -> Option<&Policy> {
        self.namespaces
            .iter()
            .find(|policy| matches(&policy.pattern, namespace.as_str()))
    }

    /// Whether `user` may use `room`: a user's own room belongs to that user alone; else public rooms,
    /// then the claim `rooms`; the rest is a matter of membership.
    pub(super) fn quick(&self, user: &User, room: &RoomName) -> Quick {
        if let Some(owner) = room.user() {
            return if owner == user.id.as_str() {
                Quick::Allowed
            } else {
                Quick::Denied
            };
        }
        let listed = self
            .public
            .iter()
            .chain(&user.rooms)
            .any(|pattern| matches(pattern, room.as_str()));
        if listed {
            Quick::Allowed
        } else {
            Quick::AskMembership
        }
    }
}

impl Policy {
    pub(super) fn admits(&self, role: Role) -> bool {
        self.connect_roles.is_empty() || self.connect_roles.contains(&role)
    }

    pub(super) fn is_volatile(&self, event: &str) -> bool {
        self.volatile.iter().any(|volatile| volatile == event)
    }

    pub(super) fn may_emit(&self, event: &str, role: Role) -> bool {
        self.emit_roles
            .iter()
            .filter(|(pattern, _)| matches(pattern, event))
            .all(|(_, roles)| roles.contains(&role))
    }
}

fn roles(names: &[String]) -> Vec<Role> {
    [Role::Guest, Role::User, Role::Moderator, Role::Admin]
        .into_iter()
        .filter(|role| names.iter().any(|name| name == role.as_str()))
        .collect()
}

/// Whether the user is among the room's participants.
pub(super) async fn is_member(
    documents: &dyn Documents,
    user: &User,
    namespace: &Namespace,
    room: &RoomName,
) -> Result<bool, ClientError> {
    let token = RoomToken::new(namespace, room);
    let Some(document) = documents
        .get(MEMBERSHIP, &token.to_string())
        .await
        .map_err(unavailable)?
    else {
        return Ok(false);
    };
    let membership: Membership = serde_json::from_slice(&document.value).map_err(|error| {
        tracing::error!(%error, "a membership document cannot be read");
        ClientError::new(ErrorCode::Internal, "Internal error")
    })?;
    Ok(membership.participants.iter().any(|id| id == user.id.as_str()))
}

pub(super) fn denied(room: &RoomName) -> ClientError {
    ClientError::new(
        ErrorCode::Forbidden,
        format!("You may not use room {:?}", room.as_str()),
    )
}

/// `*` stands for any run of characters. Linear in the text for each `*`.
fn matches(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = parts.next().and_then(|first| text.strip_prefix(first)) else {
        return false;
    };
    let Some(last) = parts.next_back() else {
        return rest.is_empty();
    };
    for part in parts {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.len() >= last.len() && rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_of_patterns() {
        for (pattern, text, expected) in [
            ("*", "", true),
            ("*", "anything", true),
            ("team-*", "team-1", true),
            ("team-*", "team", false),
            ("team-*-open", "team-1-open", true),
            ("team-*-open", "team-open", false),
            ("a*b*c", "aXbYc", true),
            ("a*b*c", "acb", false),
            ("ab*ba", "aba", false),
            ("exact", "exact", true),
            ("exact", "exactly", false),
            ("", "", true),
            ("", "x", false),
            ("/tenant-*", "/tenant-9", true),
        ] {
            assert_eq!(matches(pattern, text), expected, "{pattern:?} {text:?}");
        }
    }

    #[test]
    fn a_users_room_is_never_public() {
        let access = Access {
            public: vec!["*".to_owned()],
            namespaces: Vec::new(),
        };
        let user = User {
            id: model::UserId::new("ada").unwrap(),
            username: "Ada".into(),
            role: Role::Admin,
            permissions: Vec::new(),
            rooms: vec!["*".to_owned(), "user:*".to_owned()],
            expires_at: None,
        };
        let room = |name| RoomName::new(name).unwrap();
        assert_eq!(access.quick(&user, &room("user:ada")), Quick::Allowed);
        assert_eq!(access.quick(&user, &room("user:bob")), Quick::Denied);
        assert_eq!(access.quick(&user, &room("lobby")), Quick::Allowed);
        let closed = Access {
            public: Vec::new(),
            namespaces: Vec::new(),
        };
        assert_eq!(
            closed.quick(
                &User {
                    rooms: Vec::new(),
                    ..user
                },
                &room("lobby")
            ),
            Quick::AskMembership
        );
    }
}
