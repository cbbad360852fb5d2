//! What callers may ask.

use std::collections::HashSet;

use model::{Namespace, RoomName, UserId};
use prost_types::FieldMask;
use proto::v1::WatchRequest;
use registry::presence_store::{PageRequest, PageToken, Position, is_listed};
use tonic::Status;

use super::token::Scope;

/// Elements of a page, unless the caller says how many.
const PAGE: usize = 100;
/// Elements of a page, and users or rooms named in one request, at most.
const MOST: usize = 1_000;

/// Fields of a user that are answered; the id always is.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(super) struct Fields {
    pub(super) username: bool,
    pub(super) online: bool,
    pub(super) connected_at: bool,
    pub(super) sockets: bool,
}

impl Fields {
    pub(super) const ALL: Self = Self {
        username: true,
        online: true,
        connected_at: true,
        sockets: true,
    };
    pub(super) const NO_SOCKETS: Self = Self {
        sockets: false,
        ..Self::ALL
    };
    const NONE: Self = Self {
        username: false,
        online: false,
        connected_at: false,
        sockets: false,
    };

    /// What a mask asks for.
    pub(super) fn new(mask: Option<&FieldMask>, otherwise: Self) -> Result<Self, Status> {
        let Some(mask) = mask.filter(|mask| !mask.paths.is_empty()) else {
            return Ok(otherwise);
        };
        let mut fields = Self::NONE;
        for path in &mask.paths {
            match path.as_str() {
                "*" => fields = Self::ALL,
                "user_id" => {}
                "username" => fields.username = true,
                "online" => fields.online = true,
                "connected_at" => fields.connected_at = true,
                "sockets" => fields.sockets = true,
                other => {
                    let problem = format!(
                        "{other:?} is none of user_id, username, online, connected_at, sockets and *"
                    );
                    return Err(invalid("read_mask", problem));
                }
            }
        }
        Ok(fields)
    }
}

/// A list and what is asked of it.
pub(super) struct List {
    scope: Scope,
    /// For the store.
    pub(super) page: PageRequest,
}

impl List {
    /// Checks the page of the list that `words` name.
    pub(super) fn new(words: &[&str], page_size: i32, page_token: &str) -> Result<Self, Status> {
        let limit = match usize::try_from(page_size) {
            Ok(0) => PAGE,
            Ok(size) if size <= MOST => size,
            _ => {
                let problem = format!("must be between 0 and {MOST}, is {page_size}");
                return Err(invalid("page_size", problem));
            }
        };
        let scope = Scope::new(words.iter().copied());
        let after = if page_token.is_empty() {
            None
        } else {
            let token = scope.open(page_token);
            Some(PageToken(token.ok_or_else(|| {
                invalid("page_token", "is broken, or of another list")
            })?))
        };
        Ok(Self {
            scope,
            page: PageRequest { after, limit },
        })
    }

    /// The caller's token for the next page.
    pub(super) fn next(&self, next: Option<PageToken>) -> String {
        next.map(|token| self.scope.seal(&token.0)).unwrap_or_default()
    }
}

/// What a watch is about.
pub(super) struct Filter {
    pub(super) namespace: Namespace,
    /// All of the namespace when there are neither users nor rooms.
    pub(super) users: HashSet<UserId>,
    pub(super) rooms: HashSet<RoomName>,
    scope: Scope,
}

impl Filter {
    /// Checks a request; with where to go on.
    pub(super) fn new(request: &WatchRequest) -> Result<(Self, Option<Position>), Status> {
        let namespace = namespace(&request.namespace)?;
        let users: HashSet<_> = user_ids(&request.user_ids)?.into_iter().collect();
        at_most(MOST, "rooms", request.rooms.len())?;
        let mut rooms = HashSet::new();
        for (at, name) in request.rooms.iter().enumerate() {
            let field = format!("rooms[{at}]");
            let name = room(&field, name)?;
            if !is_listed(&name) {
                return Err(invalid(
                    &field,
                    "is a user's own room, whose members are not watched",
                ));
            }
            rooms.insert(name);
        }
        let scope = {
            let mut sorted_users: Vec<_> = users.iter().map(UserId::as_str).collect();
            let mut sorted_rooms: Vec<_> = rooms.iter().map(RoomName::as_str).collect();
            sorted_users.sort_unstable();
            sorted_rooms.sort_unstable();
            // No user has an empty id: users and rooms do not run into one another.
            Scope::new(
                ["watch", namespace.as_str()]
                    .into_iter()
                    .chain(sorted_users)
                    .chain([""])
                    .chain(sorted_rooms),
            )
        };
        let resume = if request.resume_token.is_empty() {
            None
        } else {
            let position = scope.open(&request.resume_token);
            Some(Position(position.ok_or_else(|| {
                invalid("resume_token", "is broken, or of a watch of other users or rooms")
            })?))
        };
        let filter = Self {
            namespace,
            users,
            rooms,
            scope,
        };
        Ok((filter, resume))
    }

    /// Whether every user of the namespace is watched.
    pub(super) fn is_everyone(&self) -> bool {
        self.users.is_empty() && self.rooms.is_empty()
    }

    /// The caller's token for going on after a place.
    pub(super) fn resume_token(&self, position: &Position) -> String {
        self.scope.seal(&position.0)
    }
}

pub(super) fn namespace(name: &str) -> Result<Namespace, Status> {
    Namespace::new(name).map_err(|error| invalid("namespace", error))
}

pub(super) fn user_id(id: &str) -> Result<UserId, Status> {
    UserId::new(id).map_err(|error| invalid("user_id", error))
}

pub(super) fn user_ids(ids: &[String]) -> Result<Vec<UserId>, Status> {
    at_most(MOST, "user_ids", ids.len())?;
    let ids = ids.iter().enumerate();
    ids.map(|(at, id)| UserId::new(id).map_err(|error| invalid(&format!("user_ids[{at}]"), error)))
        .collect()
}

pub(super) fn room(field: &str, name: &str) -> Result<RoomName, Status> {
    RoomName::new(name).map_err(|error| invalid(field, error))
}

fn at_most(most: usize, field: &str, given: usize) -> Result<(), Status> {
    if given > most {
        return Err(invalid(
            field,
            format!("has at most {most} entries, here are {given}"),
        ));
    }
    Ok(())
}

fn invalid(field: &str, problem: impl std::fmt::Display) -> Status {
    Status::invalid_argument(format!("{field}: {problem}"))
}
