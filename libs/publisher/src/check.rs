//! Checks values of requests, and collects every broken rule.

use model::{ClientError, Detail, Namespace, RoomName, UserId};

/// Rooms, users and sockets of a request together, at most; the same for those excepted.
pub const MAX_TARGETS: usize = 1000;
/// Longest id of a socket, in bytes.
const MAX_SOCKET: usize = 64;

/// Collects what is wrong with a request.
#[derive(Debug, Default)]
pub struct Check {
    prefix: String,
    details: Vec<Detail>,
}

impl Check {
    /// Paths begin with `prefix`, e.g. `emits.3.`.
    #[must_use]
    pub fn within(prefix: impl Into<String>) -> Self {
        Self {
            prefix: prefix.into(),
            details: Vec::new(),
        }
    }

    /// A rule is broken.
    pub fn reject(&mut self, path: impl AsRef<str>, message: impl Into<String>) {
        let path = format!("{}{}", self.prefix, path.as_ref());
        self.details.push(Detail {
            path,
            message: message.into(),
        });
    }

    /// What it is, if nothing was wrong with anything.
    ///
    /// # Errors
    /// `VALIDATION_ERROR` with every broken rule.
    pub fn finish<T>(self, value: Option<T>) -> Result<T, ClientError> {
        match value {
            Some(value) if self.details.is_empty() => Ok(value),
            _ => Err(ClientError::invalid(self.details)),
        }
    }

    /// A namespace that must be given.
    pub fn namespace(&mut self, path: &str, name: &str) -> Option<Namespace> {
        if name.is_empty() {
            self.reject(path, "is required");
            return None;
        }
        let namespace = Namespace::new(name);
        namespace
            .inspect_err(|error| self.reject(path, error.to_string()))
            .ok()
    }

    /// A room.
    pub fn room(&mut self, path: &str, name: &str) -> Option<RoomName> {
        let room = RoomName::new(name);
        room.inspect_err(|error| self.reject(path, error.to_string()))
            .ok()
    }

    /// Rooms.
    pub fn rooms(&mut self, path: &str, names: &[String]) -> Vec<RoomName> {
        self.each(path, names, Self::room)
    }

    /// Users.
    pub fn users(&mut self, path: &str, ids: &[String]) -> Vec<UserId> {
        self.each(path, ids, |check, path, id| {
            let user = UserId::new(id);
            user.inspect_err(|error| check.reject(path, error.to_string()))
                .ok()
        })
    }

    /// Public ids of sockets.
    pub fn sockets(&mut self, path: &str, ids: &[String]) -> Vec<String> {
        self.each(path, ids, |check, path, id| {
            let is_id = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
            if id.is_empty() || id.len() > MAX_SOCKET || !id.bytes().all(is_id) {
                check.reject(path, "is no id of a socket");
                return None;
            }
            Some(id.to_owned())
        })
    }

    /// Lists that may have so many entries together.
    pub fn at_most(&mut self, path: &str, lists: &[usize], most: usize, what: &str) {
        if lists.iter().sum::<usize>() > most {
            self.reject(path, format!("at most {most} {what}"));
        }
    }

    fn each<T>(
        &mut self,
        path: &str,
        items: &[String],
        mut read: impl FnMut(&mut Self, &str, &str) -> Option<T>,
    ) -> Vec<T> {
        // What is over is counted, and refused, by `at_most`.
        let items = items.iter().take(MAX_TARGETS).enumerate();
        items
            .filter_map(|(index, item)| read(self, &format!("{path}.{index}"), item))
            .collect()
    }
}
