//! An event for clients, checked.

use model::{ClientError, ErrorCode, Namespace, RoomName, UserId};
use proto::v1::{Argument, EmitRequest};
use sio::packet::RESERVED_EVENTS;
use uuid::Uuid;

use crate::{
    args::{Args, Value},
    check::{Check, MAX_TARGETS},
};

/// Longest name of an event, in characters.
pub const MAX_EVENT: usize = 128;
/// Names an event by its idempotency key.
const KEY_NAMESPACE: Uuid = Uuid::from_u128(0x0b6e_9f0c_2d7a_4c51_8f35_6a1d_e04b_7793);
/// Longest idempotency key, in characters.
const MAX_KEY: usize = 256;

/// An event for clients: what, and for whom. Without rooms, users and sockets it is for everybody in the namespace; a
/// socket that matches twice gets it once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Emit {
    /// Where the clients are.
    pub namespace: Namespace,
    /// Members of these rooms.
    pub rooms: Vec<RoomName>,
    /// All sockets of these users.
    pub users: Vec<UserId>,
    /// These sockets, by public id.
    pub sockets: Vec<String>,
    /// Who must not get it.
    pub except: Excluded,
    /// The event's name.
    pub event: String,
    /// Its arguments.
    pub args: Args,
    /// Not stored, and dropped for clients whose connection does not take it at once.
    pub volatile: bool,
    /// Within two minutes the same key in the same namespace is sent once; has no effect on a volatile event.
    pub idempotency_key: Option<String>,
}

/// Who must not get an event.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Excluded {
    /// Who is in one of these rooms when it comes.
    pub rooms: Vec<RoomName>,
    /// All sockets of these users.
    pub users: Vec<UserId>,
    /// These sockets, by public id.
    pub sockets: Vec<String>,
}

impl Emit {
    /// An event for everybody in the namespace.
    #[must_use]
    pub fn new(namespace: Namespace, event: impl Into<String>, args: Args) -> Self {
        Self {
            namespace,
            rooms: Vec::new(),
            users: Vec::new(),
            sockets: Vec::new(),
            except: Excluded::default(),
            event: event.into(),
            args,
            volatile: false,
            idempotency_key: None,
        }
    }

    /// Checks a request. `max_payload`: bytes that name and arguments may have together; paths in errors begin with
    /// `prefix`.
    ///
    /// # Errors
    /// `VALIDATION_ERROR` with every broken rule, `PAYLOAD_TOO_LARGE`.
    pub fn check(request: EmitRequest, max_payload: usize, prefix: &str) -> Result<Self, ClientError> {
        let mut check = Check::within(prefix);
        if request.acknowledge_within > 0 {
            check.reject("acknowledge_within", "is of Emit and Batch alone");
        }
        Self::checked(check, request, read_args, max_payload)
    }

    /// The same for one that is sent again until it is acknowledged, see `acknowledge_within`.
    ///
    /// # Errors
    /// As [`Emit::check`].
    pub fn check_important(
        request: EmitRequest,
        max_payload: usize,
        prefix: &str,
    ) -> Result<Self, ClientError> {
        Self::checked(Check::within(prefix), request, read_args, max_payload)
    }

    /// The same with arguments that have been read already, in place of the request's.
    ///
    /// # Errors
    /// As [`Emit::check`].
    pub fn with_args(request: EmitRequest, args: Args, max_payload: usize) -> Result<Self, ClientError> {
        Self::checked(Check::default(), request, |_, _| Some(args), max_payload)
    }

    fn checked(
        mut check: Check,
        request: EmitRequest,
        args: impl FnOnce(&mut Check, &[Argument]) -> Option<Args>,
        max_payload: usize,
    ) -> Result<Self, ClientError> {
        let namespace = check.namespace("namespace", &request.namespace);
        let rooms = check.rooms("rooms", &request.rooms);
        let users = check.users("users", &request.users);
        let sockets = check.sockets("sockets", &request.sockets);
        let targets = [request.rooms.len(), request.users.len(), request.sockets.len()];
        check.at_most("rooms", &targets, MAX_TARGETS, "rooms, users and sockets");
        let except = request.except.unwrap_or_default();
        let excepted = [except.rooms.len(), except.users.len(), except.sockets.len()];
        check.at_most("except", &excepted, MAX_TARGETS, "rooms, users and sockets");
        let except = Excluded {
            rooms: check.rooms("except.rooms", &except.rooms),
            users: check.users("except.users", &except.users),
            sockets: check.sockets("except.sockets", &except.sockets),
        };
        let event = request.event;
        if event.is_empty() {
            check.reject("event", "is required");
        } else if event.chars().nth(MAX_EVENT).is_some() {
            check.reject("event", format!("must have at most {MAX_EVENT} characters"));
        } else if RESERVED_EVENTS.contains(&&*event) {
            check.reject("event", "is reserved by Socket.IO");
        }
        let key = request.idempotency_key;
        if key.chars().nth(MAX_KEY).is_some() || key.chars().any(char::is_control) {
            let message = format!("must have at most {MAX_KEY} characters, no control characters");
            check.reject("idempotency_key", message);
        }
        let args = args(&mut check, &request.args);
        let emit = check.finish(namespace.zip(args).map(|(namespace, args)| Self {
            namespace,
            rooms,
            users,
            sockets,
            except,
            event,
            args,
            volatile: request.volatile,
            idempotency_key: Some(key).filter(|key| !key.is_empty()),
        }))?;
        if emit.event.len() + emit.args.size() > max_payload {
            return Err(ClientError::new(
                ErrorCode::PayloadTooLarge,
                format!("An event may have {max_payload} bytes"),
            ));
        }
        Ok(emit)
    }

    /// What names the event for good: the same for the same idempotency key in the same namespace.
    #[must_use]
    pub fn new_id(&self) -> String {
        match &self.idempotency_key {
            Some(key) => {
                // Both may have any characters.
                let namespace = self.namespace.as_str();
                let name = format!("{}:{namespace}:{key}", namespace.len());
                Uuid::new_v5(&KEY_NAMESPACE, name.as_bytes()).to_string()
            }
            None => Uuid::now_v7().to_string(),
        }
    }

    /// The rooms whose members it is for, each once.
    #[must_use]
    pub fn targets(&self) -> Vec<RoomName> {
        let users = self.users.iter().map(|user| RoomName::of_user(user.as_str()));
        let sockets = self.sockets.iter().map(|socket| RoomName::of_socket(socket));
        let mut rooms: Vec<RoomName> = self.rooms.iter().cloned().chain(users).chain(sockets).collect();
        if rooms.is_empty() {
            return vec![RoomName::all()];
        }
        rooms.sort_unstable();
        rooms.dedup();
        rooms
    }
}

fn read_args(check: &mut Check, args: &[Argument]) -> Option<Args> {
    let mut values = Vec::with_capacity(args.len());
    for (index, argument) in args.iter().enumerate() {
        match Value::of(argument) {
            Some(value) => values.push(value),
            None => check.reject(format!("args.{index}"), "is required"),
        }
    }
    let args = Args::read(&values);
    args.inspect_err(|(index, error)| {
        let path = index.map_or_else(|| "args".to_owned(), |index| format!("args.{index}"));
        check.reject(path, error.to_string());
    })
    .ok()
}

#[cfg(test)]
mod tests {
    use model::Detail;
    use proto::v1::argument;

    use super::*;

    fn request() -> EmitRequest {
        EmitRequest {
            namespace: "/chat".to_owned(),
            event: "news".to_owned(),
            ..EmitRequest::default()
        }
    }

    fn paths(error: ClientError) -> Vec<String> {
        error
            .details
            .into_iter()
            .map(|Detail { path, .. }| path)
            .collect()
    }

    #[test]
    fn targets_are_rooms_each_once() {
        let mut asked = request();
        let emit = Emit::check(asked.clone(), 100, "").unwrap();
        assert_eq!(emit.targets(), [RoomName::all()]);
        asked.rooms = vec!["b".to_owned(), "user:ada".to_owned(), "b".to_owned()];
        asked.users = vec!["ada".to_owned()];
        asked.sockets = vec!["s-1".to_owned()];
        let emit = Emit::check(asked, 100, "").unwrap();
        let expected = [
            RoomName::of_socket("s-1"),
            RoomName::stored("b"),
            RoomName::of_user("ada"),
        ];
        assert_eq!(emit.targets(), expected);
    }

    #[test]
    fn keys_are_of_their_namespace() {
        let id = |namespace: &str, key: &str| {
            let mut emit = Emit::new(Namespace::new(namespace).unwrap(), "e", Args::default());
            emit.idempotency_key = Some(key.to_owned());
            emit.new_id()
        };
        assert_eq!(id("/a", "k"), id("/a", "k"));
        assert_ne!(id("/a", "b:k"), id("/a:b", "k"));
    }

    #[test]
    fn only_what_is_sent_again_may_be_acknowledged_within_a_time() {
        let mut asked = request();
        asked.acknowledge_within = 60;
        assert_eq!(
            paths(Emit::check(asked.clone(), 100, "").unwrap_err()),
            ["acknowledge_within"]
        );
        assert!(Emit::check_important(asked, 100, "").is_ok());
    }

    #[test]
    fn every_broken_rule_is_named() {
        let wrong = EmitRequest {
            namespace: "chat".to_owned(),
            rooms: vec![String::new(), "a".to_owned(), "a\n".to_owned()],
            users: vec!["u".repeat(129)],
            sockets: vec!["no id".to_owned()],
            except: Some(proto::v1::Excluded {
                users: vec![String::new()],
                ..proto::v1::Excluded::default()
            }),
            event: "disconnect".to_owned(),
            idempotency_key: "\n".to_owned(),
            args: vec![
                Argument {
                    value: Some(argument::Value::Json("1".to_owned())),
                },
                Argument {
                    value: Some(argument::Value::Json("{".to_owned())),
                },
            ],
            volatile: false,
            acknowledge_within: 0,
        };
        let expected = [
            "namespace",
            "rooms.0",
            "rooms.2",
            "users.0",
            "sockets.0",
            "except.users.0",
            "event",
            "idempotency_key",
            "args.1",
        ];
        assert_eq!(paths(Emit::check(wrong, 100, "").unwrap_err()), expected);
        assert_eq!(
            paths(Emit::check(EmitRequest::default(), 100, "emits.3.").unwrap_err()),
            ["emits.3.namespace", "emits.3.event"]
        );
        let mut many = request();
        many.users = vec!["u".to_owned(); MAX_TARGETS];
        assert!(Emit::check(many.clone(), 100, "").is_ok());
        many.rooms = vec!["r".to_owned()];
        assert_eq!(paths(Emit::check(many, 100, "").unwrap_err()), ["rooms"]);
    }

    #[test]
    fn large_events_are_refused() {
        let code = |max| Emit::check(request(), max, "").map_err(|error| error.code).err();
        assert_eq!(code(4), None);
        assert_eq!(code(3), Some(ErrorCode::PayloadTooLarge));
    }
}
