//! The scripts, one a file.

use redis::Script;

/// A script that answers: what all share, and its own file.
macro_rules! reads {
    ($file:literal) => {
        Script::new(concat!(include_str!("common.lua"), include_str!($file)))
    };
}

/// A script that changes something has more to share.
macro_rules! changes {
    ($file:literal) => {
        Script::new(concat!(
            include_str!("common.lua"),
            include_str!("change.lua"),
            include_str!($file)
        ))
    };
}

pub(super) struct Scripts {
    pub(super) apply: Script,
    pub(super) begin: Script,
    pub(super) held: Script,
    pub(super) touch: Script,
    pub(super) expire: Script,
    pub(super) due: Script,
    pub(super) room_users: Script,
    pub(super) room: Script,
    pub(super) list_rooms: Script,
    pub(super) online_users: Script,
    pub(super) users_online: Script,
    pub(super) user_sockets: Script,
    pub(super) user_rooms: Script,
    pub(super) stats: Script,
    pub(super) breakdown: Script,
    pub(super) changes_end: Script,
    pub(super) changes: Script,
}

impl Scripts {
    pub(super) fn new() -> Self {
        Self {
            apply: changes!("apply.lua"),
            begin: reads!("begin.lua"),
            held: reads!("held.lua"),
            touch: reads!("touch.lua"),
            expire: changes!("expire.lua"),
            due: changes!("due.lua"),
            room_users: reads!("room_users.lua"),
            room: reads!("room.lua"),
            list_rooms: reads!("list_rooms.lua"),
            online_users: reads!("online_users.lua"),
            users_online: reads!("users_online.lua"),
            user_sockets: reads!("user_sockets.lua"),
            user_rooms: reads!("user_rooms.lua"),
            stats: reads!("stats.lua"),
            breakdown: reads!("breakdown.lua"),
            changes_end: reads!("changes_end.lua"),
            changes: reads!("changes.lua"),
        }
    }
}
