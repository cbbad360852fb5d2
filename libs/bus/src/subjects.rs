//! Every subject of the bus is built here and nowhere else.

use model::RoomToken;

use crate::LogSubject;

/// The JetStream stream of a partition.
#[must_use]
pub fn log_stream(partition: u16) -> String {
    format!("FANFARE_{partition}")
}

/// Every subject of a partition's stream.
#[must_use]
pub fn log_subjects(partition: u16) -> String {
    format!("fanfare.log.{partition}.>")
}

/// Where an entry of a partition stands.
#[must_use]
pub fn log_subject(partition: u16, subject: LogSubject) -> String {
    match subject {
        LogSubject::Room(token) => format!("fanfare.log.{partition}.{token}"),
        LogSubject::Control => format!("fanfare.log.{partition}._control"),
    }
}

/// The reverse of [`log_subject`]; `None` for what is none.
#[must_use]
pub fn entry_of(subject: &str) -> Option<LogSubject> {
    match subject.strip_prefix("fanfare.log.")?.split_once('.')?.1 {
        "_control" => Some(LogSubject::Control),
        _ => signal_token(subject).map(LogSubject::Room),
    }
}

/// Volatile events of a room: `fanfare.signal.<partition>.<token>`, payload an encoded `Publish`.
#[must_use]
pub fn signal(partition: u16, token: RoomToken) -> String {
    format!("fanfare.signal.{partition}.{token}")
}

/// All volatile events of a partition, for the worker that owns it.
#[must_use]
pub fn signals_of_partition(partition: u16) -> String {
    format!("fanfare.signal.{partition}.*")
}

/// The room token at the end of a subject made by [`signal`].
#[must_use]
pub fn signal_token(subject: &str) -> Option<RoomToken> {
    let (_, hex) = subject.rsplit_once('.')?;
    if hex.len() != 32 || !hex.is_ascii() {
        return None;
    }
    let mut bytes = [0u8; 16];
    for (byte, digits) in bytes.iter_mut().zip(hex.as_bytes().chunks_exact(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
    }
    RoomToken::from_bytes(&bytes)
}

/// The JetStream stream of work that is to be done.
pub const WORK_STREAM: &str = "FANFARE_WORK";

/// Jobs of a queue.
#[must_use]
pub fn work(queue: &str) -> String {
    format!("fanfare.work.{queue}")
}

/// The JetStream stream of work that could not be done.
pub const DEAD_STREAM: &str = "FANFARE_DEAD";

/// Dead letters of a queue.
#[must_use]
pub fn dead(queue: &str) -> String {
    format!("fanfare.dead.{queue}")
}

/// Heartbeats of gateways, payload `GatewayHeartbeat`.
pub const GATEWAY_HEARTBEAT: &str = "fanfare.gateway.heartbeat";

/// Asks one gateway to state its rooms, a request: `StateInterest` → empty.
#[must_use]
pub fn state_interest(gateway: &str) -> String {
    format!("fanfare.gateway.{gateway}.state")
}

/// Takes a session over from one gateway, a request: `SessionRequest` → `ClaimReply` or `MissedReply`.
#[must_use]
pub fn sessions_of(gateway: &str) -> String {
    format!("fanfare.gateway.{gateway}.session")
}

/// What servers do with the sockets of one gateway, a request: `Command` → `CommandReply`.
#[must_use]
pub fn commands_of(gateway: &str) -> String {
    format!("fanfare.gateway.{gateway}.command")
}

/// What every gateway tells of itself to admin pages: JSON.
pub const ADMIN_REPORT: &str = "fanfare.gateway.report";

/// Events of clients, a few of them, that gateways show to admin pages: text.
pub const ADMIN_SAMPLE: &str = "fanfare.gateway.sample";

/// Admin pages that are open say so, empty.
pub const ADMIN_LOOKS: &str = "fanfare.gateway.looks";

/// What servers publish, a request: JSON → JSON (CONTRACT section 6). The last token names the namespace.
pub const PUBLISH_REQUESTS: &str = "fanfare.pub.*";

/// The namespace of a subject of [`PUBLISH_REQUESTS`]: `_root` stands for `/`, other names go without their `/` and with
/// `%XX` for bytes that are neither letters, digits, `_` nor `-`.
#[must_use]
pub fn namespace_of_publish(subject: &str) -> Option<String> {
    let escaped = subject.strip_prefix("fanfare.pub.")?;
    if escaped == "_root" {
        return Some("/".to_owned());
    }
    let mut name = vec![b'/'];
    let mut bytes = escaped.bytes();
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
            let (high, low) = (digit(bytes.next())?, digit(bytes.next())?);
            name.push(u8::try_from(high * 16 + low).ok()?);
        } else {
            name.push(byte);
        }
    }
    String::from_utf8(name).ok()
}

/// Heartbeats of workers, payload `WorkerHeartbeat`.
pub const WORKER_HEARTBEAT: &str = "fanfare.worker.heartbeat";

/// A gateway's batches for the presence service, a request: `PresenceBatch` → `PresenceReply`.
pub const PRESENCE_BATCH: &str = "fanfare.presence.batch";

/// Further parts of a snapshot, for the replica that keeps the first ones, a request: `PresenceBatch` →
/// `PresenceReply`.
#[must_use]
pub fn presence_parts(replica: &str) -> String {
    format!("fanfare.presence.{replica}.parts")
}

/// Who is online in a room or namespace, a request: `OnlineUsersQuery` → `OnlineUsersReply`.
pub const PRESENCE_ONLINE: &str = "fanfare.presence.online";

/// The cluster's counts, a request: `PresenceStatsQuery` → `PresenceStatsReply`.
pub const PRESENCE_STATS: &str = "fanfare.presence.stats";

/// The list of presence changes has grown; empty, for every replica.
pub const PRESENCE_CHANGED: &str = "fanfare.presence.changed";

/// Where applications handle custom events, a request: JSON → JSON (CONTRACT section 6).
#[must_use]
pub fn app_event(namespace: &str, event: &str) -> String {
    let mut subject = app_namespace(namespace);
    push_escaped(&mut subject, event);
    subject
}

/// Where applications say who may do what, a request: JSON → JSON. No event has this subject: `$` is escaped in theirs.
#[must_use]
pub fn app_authorize(namespace: &str) -> String {
    app_namespace(namespace) + "$authorize"
}

/// Where applications are told of `connected`, `disconnected`, `joined` and `left`, a request: JSON → anything. No event
/// has this subject either.
#[must_use]
pub fn app_lifecycle(namespace: &str, kind: &str) -> String {
    app_namespace(namespace) + "$" + kind
}

/// `fanfare.app.<namespace>.`
fn app_namespace(namespace: &str) -> String {
    let mut subject = String::from("fanfare.app.");
    match namespace.strip_prefix('/').unwrap_or(namespace) {
        "" => subject.push_str("_root"),
        name => push_escaped(&mut subject, name),
    }
    subject.push('.');
    subject
}

/// Any byte but `A–Z a–z 0–9 _ -` as `%XX`; an empty name, which would be no token, as `%`.
fn push_escaped(subject: &mut String, name: &str) {
    if name.is_empty() {
        subject.push('%');
    }
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-' {
            subject.push(byte.into());
        } else {
            let digit = |digit: u8| char::from(b"0123456789ABCDEF"[usize::from(digit)]);
            subject.extend(['%', digit(byte >> 4), digit(byte & 15)]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_subjects() {
        let token = RoomToken::from_bytes(&[0xab; 16]).unwrap();
        assert_eq!(
            signal(3, token),
            "fanfare.signal.3.abababababababababababababababab"
        );
        assert_eq!(signals_of_partition(3), "fanfare.signal.3.*");
        assert_eq!(work("email"), "fanfare.work.email");
        assert_eq!(dead("email"), "fanfare.dead.email");
        assert_eq!(log_stream(3), "FANFARE_3");
        assert_eq!(log_subjects(3), "fanfare.log.3.>");
        for (entry, expected) in [
            (LogSubject::Control, "fanfare.log.3._control"),
            (
                LogSubject::Room(token),
                "fanfare.log.3.abababababababababababababababab",
            ),
        ] {
            assert_eq!(log_subject(3, entry), expected);
            assert_eq!(entry_of(expected), Some(entry));
        }
        assert_eq!(entry_of("fanfare.log.3.other"), None);
        assert_eq!(signal_token(&signal(3, token)), Some(token));
        assert_eq!(state_interest("abc-_1"), "fanfare.gateway.abc-_1.state");
        assert_eq!(sessions_of("abc-_1"), "fanfare.gateway.abc-_1.session");
        assert_eq!(commands_of("abc-_1"), "fanfare.gateway.abc-_1.command");
        assert_eq!(presence_parts("abc-_1"), "fanfare.presence.abc-_1.parts");
        for (namespace, event, expected) in [
            ("/", "order", "fanfare.app._root.order"),
            ("/chat", "order_2-b", "fanfare.app.chat.order_2-b"),
            ("/a/b", "order.paid", "fanfare.app.a%2Fb.order%2Epaid"),
            ("/x*", "> é", "fanfare.app.x%2A.%3E%20%C3%A9"),
            ("/chat", "", "fanfare.app.chat.%"),
            ("/chat", "$authorize", "fanfare.app.chat.%24authorize"),
        ] {
            assert_eq!(app_event(namespace, event), expected);
        }
        assert_eq!(app_authorize("/chat"), "fanfare.app.chat.$authorize");
        assert_eq!(app_lifecycle("/", "joined"), "fanfare.app._root.$joined");
        for (subject, namespace) in [
            ("fanfare.pub._root", Some("/")),
            ("fanfare.pub.chat", Some("/chat")),
            ("fanfare.pub.a%2Fb%C3%A9", Some("/a/b\u{e9}")),
            ("fanfare.pub.a%2", None),
            ("fanfare.pub.%FF", None),
            ("fanfare.app.chat", None),
        ] {
            assert_eq!(namespace_of_publish(subject).as_deref(), namespace);
        }
        for bad in [
            "",
            "x",
            "fanfare.signal.3.ab",
            "fanfare.signal.3.zzababababababababababababababab",
        ] {
            assert_eq!(signal_token(bad), None);
        }
    }
}
