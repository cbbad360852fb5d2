//! Who may do what where: namespaces' policies and rooms.

use std::{collections::BTreeMap, sync::Arc};

use app::schema::Schema;
use calls::SetupError;
use config::{CLAIM, PERMISSION};
use model::{ClientError, ErrorCode, Namespace, Role, RoomName, User};
use parking_lot::RwLock;

/// A user's claims fill a pattern in so many ways at most.
const MAX_FILLED: usize = 100;

/// The rules in force. They can be replaced while they are used.
pub(crate) struct Access(RwLock<Arc<Rules>>);

/// Rules from configuration.
pub(crate) struct Rules {
    public: Vec<String>,
    namespaces: Vec<Policy>,
}

/// What holds in one namespace or pattern of namespaces.
pub(crate) struct Policy {
    pattern: String,
    connect_roles: Vec<Role>,
    /// Events that not everybody may send.
    emit: Vec<(String, Who)>,
    emit_listed_only: bool,
    public_rooms: Vec<String>,
    join_rooms: Vec<(String, Who)>,
    /// Stored elsewhere, not here.
    volatile: Vec<String>,
    history: Option<usize>,
    ordered_events: bool,
    events: BTreeMap<String, CustomEvent>,
}

/// An event that the application handles.
struct CustomEvent {
    schema: Option<Schema>,
    ordered: Option<bool>,
}

/// Those of a role or with a permission.
struct Who {
    roles: Vec<Role>,
    permissions: Vec<String>,
}

/// An answer without asking anybody.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) enum Quick {
    Allowed,
    Denied,
    /// The user may be a member of it, or the application may allow it.
    Ask,
}

impl Access {
    /// Fails for a schema of an event that cannot be used.
    pub(crate) fn new(config: &config::Config) -> Result<Self, SetupError> {
        Ok(Self(RwLock::new(Arc::new(Rules::new(config)?))))
    }

    /// From now on the other's rules hold. Whoever is in already stays.
    pub(crate) fn replace(&self, other: Self) {
        *self.0.write() = other.0.into_inner();
    }

    pub(super) fn rules(&self) -> Arc<Rules> {
        Arc::clone(&self.0.read())
    }
}

impl Rules {
    fn new(config: &config::Config) -> Result<Self, SetupError> {
        let policy = |(index, namespace)| Policy::new(index, namespace);
        Ok(Self {
            public: config.rooms.public.clone(),
            namespaces: config
                .namespaces
                .iter()
                .enumerate()
                .map(policy)
                .collect::<Result<_, _>>()?,
        })
    }

    /// Whether a user who was in a room may be in it again. Membership is not asked for anew: nobody is taken out of it,
    /// and servers bring in whom they like. What a token `granted` must be granted again, or be a matter of membership.
    pub(super) fn may_stay(
        &self,
        user: &User,
        namespace: &Namespace,
        room: &RoomName,
        granted: bool,
    ) -> Quick {
        // A guest has no token that could allow less than the one before: a server may have brought it there.
        let is_guests = user.anonymous && room.user().is_none();
        if room.as_str().starts_with(char::is_control) || is_guests {
            return Quick::Allowed;
        }
        match self.quick(user, namespace, room) {
            Quick::Ask if !granted => Quick::Allowed,
            quick => quick,
        }
    }

    /// Whether rights are all that the user needs for the room.
    pub(super) fn grants(&self, user: &User, namespace: &Namespace, room: &RoomName) -> bool {
        self.quick(user, namespace, room) == Quick::Allowed
    }

    /// The policy of a namespace; `None` when there is no such namespace.
    pub(super) fn policy(&self, namespace: &Namespace) -> Option<&Policy> {
        self.namespaces
            .iter()
            .find(|policy| matches(&policy.pattern, namespace.as_str()))
    }

    /// How many of a room's newest messages the namespace shows; `None` for all that the log keeps.
    pub(super) fn history(&self, namespace: &Namespace) -> Option<usize> {
        self.policy(namespace)?.history
    }

    /// Whether `user` may use `room`: a user's own room belongs to that user alone; else public rooms, then the
    /// claim `rooms`, then the namespace's policy; the rest is a matter of membership, which guests without a token
    /// do not have.
    pub(super) fn quick(&self, user: &User, namespace: &Namespace, room: &RoomName) -> Quick {
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
        if listed
            || self
                .policy(namespace)
                .is_some_and(|policy| policy.may_join(user, room))
        {
            Quick::Allowed
        } else if user.anonymous {
            Quick::Denied
        } else {
            Quick::Ask
        }
    }
}

impl Policy {
    /// `index`: where it stands in the configuration.
    fn new(index: usize, namespace: &config::Namespace) -> Result<Self, SetupError> {
        let event = |(name, event): (&String, &config::CustomEvent)| {
            let schema = Schema::of(index, name, event)?;
            let ordered = event.ordered;
            Ok((name.clone(), CustomEvent { schema, ordered }))
        };
        let events = namespace
            .custom_events
            .iter()
            .map(event)
            .collect::<Result<_, _>>()?;
        let whos = |table: &std::collections::BTreeMap<String, Vec<String>>| {
            let entries = table.iter().map(|(name, who)| (name.clone(), Who::new(who)));
            entries.collect::<Vec<_>>()
        };
        Ok(Self {
            pattern: namespace.pattern.clone(),
            connect_roles: roles(&namespace.connect_roles),
            emit: whos(&namespace.emit_roles),
            emit_listed_only: namespace.emit_listed_only,
            public_rooms: namespace.public_rooms.clone(),
            join_rooms: whos(&namespace.join_rooms),
            volatile: namespace.volatile.clone(),
            history: namespace.history.map(|count| count as usize),
            ordered_events: namespace.ordered_events,
            events,
        })
    }

    /// What the arguments of a custom event must look like, if that is said.
    pub(super) fn schema(&self, event: &str) -> Option<&Schema> {
        self.events.get(event)?.schema.as_ref()
    }

    /// Whether a socket's later events wait for this custom one.
    pub(super) fn is_ordered(&self, event: &str) -> bool {
        let own = self.events.get(event).and_then(|event| event.ordered);
        own.unwrap_or(self.ordered_events)
    }

    pub(super) fn admits(&self, role: Role) -> bool {
        self.connect_roles.is_empty() || self.connect_roles.contains(&role)
    }

    pub(super) fn is_volatile(&self, event: &str) -> bool {
        self.volatile.iter().any(|volatile| volatile == event)
    }

    /// Everything that names the event must allow it.
    pub(super) fn may_emit(&self, event: &str, user: &User) -> bool {
        let mut is_named = false;
        for (_, who) in self.emit.iter().filter(|(pattern, _)| matches(pattern, event)) {
            is_named = true;
            if !who.includes(user) {
                return false;
            }
        }
        is_named || !self.emit_listed_only
    }

    fn may_join(&self, user: &User, room: &RoomName) -> bool {
        let public = self
            .public_rooms
            .iter()
            .any(|pattern| matches(pattern, room.as_str()));
        public
            || self
                .join_rooms
                .iter()
                .any(|(pattern, who)| who.includes(user) && is_filled(pattern, &user.claims, room.as_str()))
    }
}

impl Who {
    fn new(names: &[String]) -> Self {
        let permissions = names.iter().filter_map(|name| name.strip_prefix(PERMISSION));
        Self {
            roles: roles(names),
            permissions: permissions.map(str::to_owned).collect(),
        }
    }

    fn includes(&self, user: &User) -> bool {
        self.roles.contains(&user.role) || self.permissions.iter().any(|permission| user.may(permission))
    }
}

fn roles(names: &[String]) -> Vec<Role> {
    [Role::Guest, Role::User, Role::Moderator, Role::Admin]
        .into_iter()
        .filter(|role| names.iter().any(|name| name == role.as_str()))
        .collect()
}

pub(super) fn denied(room: &RoomName) -> ClientError {
    ClientError::new(
        ErrorCode::Forbidden,
        format!("You may not use room {:?}", room.as_str()),
    )
}

/// `*` stands for any run of characters. Linear in the text for each `*`.
pub(crate) fn matches(pattern: &str, text: &str) -> bool {
    // Most are names.
    if pattern.contains('*') {
        fits(pattern.split('*'), text)
    } else {
        pattern == text
    }
}

/// Whether the text is these pieces with anything between them.
fn fits<'a>(mut pieces: impl DoubleEndedIterator<Item = &'a str>, text: &str) -> bool {
    let Some(mut rest) = pieces.next().and_then(|first| text.strip_prefix(first)) else {
        return false;
    };
    let Some(last) = pieces.next_back() else {
        return rest.is_empty();
    };
    for piece in pieces {
        match rest.find(piece) {
            Some(at) => rest = &rest[at + piece.len()..],
            None => return false,
        }
    }
    rest.len() >= last.len() && rest.ends_with(last)
}

/// Whether the pattern matches with the user's claims in their places. A claim is taken literally, also when there is a
/// `*` in it; one that is not there or is empty matches nothing.
fn is_filled(pattern: &str, claims: &[(String, Vec<String>)], text: &str) -> bool {
    if !pattern.contains(CLAIM) {
        return matches(pattern, text);
    }
    // Each is one way to fill the pattern so far: its pieces, between which `*` stands.
    let mut filled = vec![vec![String::new()]];
    let add_literal = |filled: &mut Vec<Vec<String>>, literal: &str| {
        for pieces in filled {
            let mut between = literal.split('*');
            if let (Some(last), Some(first)) = (pieces.last_mut(), between.next()) {
                last.push_str(first);
            }
            pieces.extend(between.map(str::to_owned));
        }
    };
    let mut parts = pattern.split(CLAIM);
    add_literal(&mut filled, parts.next().unwrap_or_default());
    for part in parts {
        let Some((name, literal)) = part.split_once('}') else {
            return false;
        };
        let values = claims
            .iter()
            .find(|(claim, _)| claim == name)
            .map(|(_, values)| values);
        let mut next = Vec::new();
        for value in values.into_iter().flatten().filter(|value| !value.is_empty()) {
            for pieces in filled.iter().take(MAX_FILLED - next.len().min(MAX_FILLED)) {
                let mut pieces = pieces.clone();
                if let Some(last) = pieces.last_mut() {
                    last.push_str(value);
                }
                next.push(pieces);
            }
        }
        filled = next;
        add_literal(&mut filled, literal);
    }
    filled
        .iter()
        .any(|pieces| fits(pieces.iter().map(String::as_str), text))
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

    fn user(role: Role) -> User {
        User {
            id: model::UserId::new("ada").unwrap(),
            anonymous: false,
            username: "Ada".into(),
            role,
            permissions: Vec::new(),
            rooms: Vec::new(),
            claims: Vec::new(),
            expires_at: None,
        }
    }

    fn rules(public: &[&str], namespace: config::Namespace) -> Rules {
        let mut config = config::Config::for_tests(config::Role::Standalone);
        config.rooms.public = public.iter().map(|&pattern| pattern.to_owned()).collect();
        config.namespaces = vec![namespace];
        Rules::new(&config).unwrap()
    }

    fn anywhere() -> config::Namespace {
        config::Namespace {
            pattern: "*".to_owned(),
            ..config::Namespace::default()
        }
    }

    fn table(entries: &[(&str, &[&str])]) -> std::collections::BTreeMap<String, Vec<String>> {
        let own = |(name, who): &(&str, &[&str])| {
            (
                (*name).to_owned(),
                who.iter().map(|&who| who.to_owned()).collect(),
            )
        };
        entries.iter().map(own).collect()
    }

    fn room(name: &str) -> RoomName {
        RoomName::new(name).unwrap()
    }

    #[test]
    fn a_users_room_is_never_public() {
        let root = Namespace::new("/").unwrap();
        let open = config::Namespace {
            public_rooms: vec!["*".to_owned()],
            join_rooms: table(&[("user:*", &["admin"])]),
            ..anywhere()
        };
        let access = rules(&["*"], open);
        let user = User {
            rooms: vec!["*".to_owned(), "user:*".to_owned()],
            ..user(Role::Admin)
        };
        assert_eq!(access.quick(&user, &root, &room("user:ada")), Quick::Allowed);
        assert_eq!(access.quick(&user, &root, &room("user:bob")), Quick::Denied);
        assert_eq!(access.quick(&user, &root, &room("lobby")), Quick::Allowed);
    }

    #[test]
    fn rooms_are_denied_unless_something_allows_them() {
        let root = Namespace::new("/").unwrap();
        let closed = rules(&[], anywhere());
        assert_eq!(
            closed.quick(&user(Role::Admin), &root, &room("lobby")),
            Quick::Ask
        );
        let guest = auth::named_guest(model::UserId::new("guest-1").unwrap(), "Guest");
        assert_eq!(closed.quick(&guest, &root, &room("lobby")), Quick::Denied);

        let of_staff = config::Namespace {
            public_rooms: vec!["lobby-*".to_owned()],
            join_rooms: table(&[("staff-*", &["moderator", "permission:staff"])]),
            ..anywhere()
        };
        let access = rules(&[], of_staff);
        let with_permission = User {
            permissions: vec!["staff".to_owned()],
            ..user(Role::User)
        };
        for (user, name, expected) in [
            (&guest, "lobby-1", Quick::Allowed),
            (&user(Role::User), "staff-1", Quick::Ask),
            (&user(Role::Moderator), "staff-1", Quick::Allowed),
            (&user(Role::Admin), "staff-1", Quick::Ask),
            (&with_permission, "staff-1", Quick::Allowed),
            (&with_permission, "other", Quick::Ask),
        ] {
            assert_eq!(
                access.quick(user, &root, &room(name)),
                expected,
                "{name} {:?}",
                user.role
            );
        }
    }

    #[test]
    fn table_of_claims_in_patterns() {
        let claims = [
            ("team", vec!["red", "blue"]),
            ("star", vec!["*"]),
            ("empty", vec![""]),
            ("brace", vec!["{claims.team}"]),
        ];
        let claims = claims.map(|(name, values)| {
            (
                name.to_owned(),
                values.into_iter().map(str::to_owned).collect::<Vec<_>>(),
            )
        });
        for (pattern, text, expected) in [
            ("team-{claims.team}-*", "team-red-1", true),
            ("team-{claims.team}-*", "team-blue-", true),
            ("team-{claims.team}-*", "team-green-1", false),
            ("team-{claims.team}-*", "team-red", false),
            ("*-{claims.team}", "any-thing-blue", true),
            ("{claims.team}", "red", true),
            ("{claims.team}", "red2", false),
            ("{claims.team}/{claims.team}", "red/blue", true),
            ("{claims.team}/{claims.team}", "red/green", false),
            ("x-{claims.star}", "x-*", true),
            ("x-{claims.star}", "x-y", false),
            ("x-{claims.star}-z", "x-y-z", false),
            ("{claims.empty}*", "anything", false),
            ("{claims.missing}*", "anything", false),
            ("{claims.brace}", "red", false),
            ("{claims.brace}", "{claims.team}", true),
            ("no-claims-*", "no-claims-1", true),
        ] {
            assert_eq!(
                is_filled(pattern, &claims, text),
                expected,
                "{pattern:?} {text:?}"
            );
        }
        let many: Vec<String> = (0..1000).map(|n| n.to_string()).collect();
        let many = [("n".to_owned(), many)];
        assert!(!is_filled("{claims.n}-{claims.n}-{claims.n}", &many, "x"));
    }

    #[test]
    fn table_of_who_may_emit() {
        let root = Namespace::new("/").unwrap();
        let emit_roles = table(&[
            ("admin.*", &["admin"]),
            ("admin.log", &["permission:log"]),
            ("message", &["user", "permission:speak"]),
            ("never", &[]),
        ]);
        let open = config::Namespace {
            emit_roles,
            ..anywhere()
        };
        let closed = config::Namespace {
            emit_listed_only: true,
            ..open.clone()
        };
        let speaker = User {
            permissions: vec!["speak".to_owned(), "log".to_owned()],
            ..user(Role::Guest)
        };
        for (user, event, when_open, when_closed) in [
            (&user(Role::Admin), "admin.ban", true, true),
            (&user(Role::User), "admin.ban", false, false),
            (&user(Role::Admin), "admin.log", false, false),
            (&speaker, "admin.log", false, false),
            (&user(Role::User), "message", true, true),
            (&user(Role::Guest), "message", false, false),
            (&speaker, "message", true, true),
            (&user(Role::Admin), "never", false, false),
            (&user(Role::Admin), "other", true, false),
        ] {
            for (namespace, expected) in [(&open, when_open), (&closed, when_closed)] {
                let rules = rules(&[], namespace.clone());
                let policy = rules.policy(&root).unwrap();
                assert_eq!(policy.may_emit(event, user), expected, "{event} {:?}", user.role);
            }
        }
    }
}
