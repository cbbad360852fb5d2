//! The scripts, one a file.

use crate::redis::Script;

/// A script that answers: what all share, and its own file.
macro_rules! reads {
    ($name:literal, $file:literal) => {
        Script::new($name, concat!(include_str!("common.lua"), include_str!($file)))
    };
}

/// A script that changes something has more to share.
macro_rules! changes {
    ($name:literal, $file:literal) => {
        Script::new(
            $name,
            concat!(
                include_str!("common.lua"),
                include_str!("change.lua"),
                include_str!($file)
            ),
        )
    };
}

pub(super) struct Scripts {
    pub(super) apply: Script,
    pub(super) begin: Script,
    pub(super) held: Script,
    pub(super) touch: Script,
    pub(super) expire: Script,
    pub(super) due: Script,
    pub(super) life: Script,
    pub(super) turn: Script,
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
            apply: changes!("presence_apply", "apply.lua"),
            begin: reads!("presence_begin", "begin.lua"),
            held: reads!("presence_held", "held.lua"),
            touch: reads!("presence_touch", "touch.lua"),
            expire: changes!("presence_expire", "expire.lua"),
            due: changes!("presence_due", "due.lua"),
            life: reads!("presence_life", "life.lua"),
            turn: reads!("presence_turn", "turn.lua"),
            room_users: reads!("presence_room_users", "room_users.lua"),
            room: reads!("presence_room", "room.lua"),
            list_rooms: reads!("presence_list_rooms", "list_rooms.lua"),
            online_users: reads!("presence_online_users", "online_users.lua"),
            users_online: reads!("presence_users_online", "users_online.lua"),
            user_sockets: reads!("presence_user_sockets", "user_sockets.lua"),
            user_rooms: reads!("presence_user_rooms", "user_rooms.lua"),
            stats: reads!("presence_stats", "stats.lua"),
            breakdown: reads!("presence_breakdown", "breakdown.lua"),
            changes_end: reads!("presence_changes_end", "changes_end.lua"),
            changes: reads!("presence_changes", "changes.lua"),
        }
    }
}
