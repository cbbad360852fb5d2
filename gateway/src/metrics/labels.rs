//! Labels come from closed sets (CONTRACT section 8).

/// Names an `event` label may have, and `other` for every other event.
const EVENTS: [&str; EventLabel::COUNT] = [
    "join-room",
    "leave-room",
    "message",
    "sendMessage",
    "typing",
    "getOrCreateRoom",
    "getMessages",
    "markMessagesRead",
    "ping",
    "subscribe",
    "markNotificationRead",
    "getOnlineUsers",
    "refresh-token",
    "room-presence",
    "user-left",
    "user-online",
    "user-offline",
    "user-typing",
    "messagesRead",
    "newNotification",
    "other",
];

/// The label of an event.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) struct EventLabel(usize);

impl EventLabel {
    pub(super) const COUNT: usize = 21;

    pub(crate) fn of(event: &str) -> Self {
        let known = EVENTS.iter().position(|known| *known == event);
        Self(known.unwrap_or(Self::COUNT - 1))
    }

    pub(crate) fn as_str(self) -> &'static str {
        EVENTS[self.0]
    }

    pub(super) fn index(self) -> usize {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_knows_is_other() {
        assert_eq!(EventLabel::of("message").as_str(), "message");
        for unknown in ["", "Message", "message ", "x", "other"] {
            assert_eq!(EventLabel::of(unknown).as_str(), "other", "{unknown}");
        }
    }
}
