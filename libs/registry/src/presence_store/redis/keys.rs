//! Names of the keys, and what they hold.
//!
//! All bear one hash tag, so they are on one shard of a Redis Cluster: that is what lets a script change all
//! that a batch touches in one step. Presence therefore has the rate of one Redis core however many shards
//! there are; the other users of the same cluster (leases, checkpoints, limits) spread over all of them.
//!
//! A script gets every name below as its `KEYS`, in this order, and puts what names one thing (a gateway,
//! `namespace NUL user`) behind those that end with a colon. Scripts so build keys that they do not declare,
//! which Redis allows as long as they are on the same shard.

/// All keys and families, for keys that begin with `prefix:`, in the order in which `common.lua` takes them.
pub(super) fn all(prefix: &str) -> [String; 20] {
    [
        "gateways",    // sorted set: gateway, when heard of
        "numbers",     // hash: gateway → number applied, or mark of its snapshot
        "dead",        // sorted set: gateway being removed, when last worked on
        "users",       // hash: user → in how many namespaces
        "connections", // hash: namespace → sockets; '' → all
        "rooms",       // hash: namespace → listed rooms; '' → all
        "graces",      // sorted set: stay, when its grace ends
        "changes",     // stream: `t` → transition
        "s:",          // gateway; hash: `namespace NUL id` → particulars
        "p:",          // `gateway namespace NUL id`; hash: room → listed or not
        "h:",          // `namespace NUL user`; sorted set: `gateway id`, connectedAt
        "t:", // `namespace NUL user`; hash: `r room` → sockets, `g room` and `n` → grace, `a` → since when
        "o:", // namespace; sorted set by name: user
        "m:", // `namespace NUL room`; sorted set by name: user
        "l:", // namespace; sorted set by name: room
        "i:", // namespace; hash: listed room → sockets
        "u:", // gateway; hash: user → sockets
        "w:", // gateway; hash: `namespace NUL listed room` → sockets
        "life", // names this life of the store
        "c:", // `namespace NUL room`; there while the room is told nothing more
    ]
    .map(|name| format!("{prefix}:{{presence}}:{name}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Replicas of two releases work side by side while one replaces the other.
    #[test]
    fn names_are_what_they_have_been() {
        let names = [
            "a:b:{presence}:gateways",
            "a:b:{presence}:numbers",
            "a:b:{presence}:dead",
            "a:b:{presence}:users",
            "a:b:{presence}:connections",
            "a:b:{presence}:rooms",
            "a:b:{presence}:graces",
            "a:b:{presence}:changes",
            "a:b:{presence}:s:",
            "a:b:{presence}:p:",
            "a:b:{presence}:h:",
            "a:b:{presence}:t:",
            "a:b:{presence}:o:",
            "a:b:{presence}:m:",
            "a:b:{presence}:l:",
            "a:b:{presence}:i:",
            "a:b:{presence}:u:",
            "a:b:{presence}:w:",
            "a:b:{presence}:life",
            "a:b:{presence}:c:",
        ];
        assert_eq!(all("a:b"), names);
    }

    #[test]
    fn scripts_take_them_in_this_order() {
        let common = include_str!("common.lua");
        let names: Vec<_> = common
            .lines()
            .skip(1)
            .take(6)
            .flat_map(|line| line.split(|c: char| !c.is_ascii_uppercase() && c != '_'))
            .filter(|word| word.len() > 1 && *word != "KEYS")
            .collect();
        assert_eq!(
            names.join(" "),
            "GATEWAYS NUMBERS DEAD USERS CONNECTIONS ROOMS GRACES CHANGES SOCKETS PLACES HELD STAYS ONLINE \
             MEMBERS LISTED INSIDE USERS_AT ROOMS_AT LIFE TURNS"
        );
    }
}
