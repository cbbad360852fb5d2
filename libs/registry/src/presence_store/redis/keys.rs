//! Names of the keys, and what they hold.
//!
//! All bear one hash tag, so they are on one shard of a Redis Cluster: that is what lets a script change all
//! that a batch touches in one step. Presence therefore has the rate of one Redis core however many shards
//! there are; the other users of the same cluster (leases, checkpoints, limits) spread over all of them.
//!
//! A script gets every name below as its `KEYS`, in this order, and puts what names one thing (a gateway,
//! `namespace NUL user`) behind those that end with a colon. Scripts so build keys that they do not declare,
//! which Redis allows as long as they are on the same shard.

/// Whole keys.
pub(super) const GATEWAYS: &str = "{fanfare:p}gateways"; // sorted set: gateway, when heard of
pub(super) const NUMBERS: &str = "{fanfare:p}numbers"; // hash: gateway → number applied, or mark of its snapshot
pub(super) const DEAD: &str = "{fanfare:p}dead"; // sorted set: gateway being removed, when last worked on
pub(super) const USERS: &str = "{fanfare:p}users"; // hash: user → in how many namespaces
pub(super) const CONNECTIONS: &str = "{fanfare:p}connections"; // hash: namespace → sockets; '' → all
pub(super) const ROOMS: &str = "{fanfare:p}rooms"; // hash: namespace → listed rooms; '' → all
pub(super) const GRACES: &str = "{fanfare:p}graces"; // sorted set: stay, when its grace ends
pub(super) const CHANGES: &str = "{fanfare:p}changes"; // stream: `t` → transition

/// Families.
pub(super) const SOCKETS: &str = "{fanfare:p}s:"; // gateway; hash: `namespace NUL id` → particulars
pub(super) const PLACES: &str = "{fanfare:p}p:"; // `gateway namespace NUL id`; hash: room → listed or not
pub(super) const HELD: &str = "{fanfare:p}h:"; // `namespace NUL user`; sorted set: `gateway id`, connectedAt
pub(super) const STAYS: &str = "{fanfare:p}t:"; // `namespace NUL user`; hash: `r room` → sockets, `g room`, `n` → grace
pub(super) const ONLINE: &str = "{fanfare:p}o:"; // namespace; sorted set by name: user
pub(super) const MEMBERS: &str = "{fanfare:p}m:"; // `namespace NUL room`; sorted set by name: user
pub(super) const LISTED: &str = "{fanfare:p}l:"; // namespace; sorted set by name: room
pub(super) const INSIDE: &str = "{fanfare:p}i:"; // namespace; hash: listed room → sockets

/// In the order in which `common.lua` takes them.
pub(super) const ALL: [&str; 16] = [
    GATEWAYS,
    NUMBERS,
    DEAD,
    USERS,
    CONNECTIONS,
    ROOMS,
    GRACES,
    CHANGES,
    SOCKETS,
    PLACES,
    HELD,
    STAYS,
    ONLINE,
    MEMBERS,
    LISTED,
    INSIDE,
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_what_they_have_been() {
        assert_eq!(
            ALL.join(" "),
            "{fanfare:p}gateways {fanfare:p}numbers {fanfare:p}dead {fanfare:p}users {fanfare:p}connections \
             {fanfare:p}rooms {fanfare:p}graces {fanfare:p}changes {fanfare:p}s: {fanfare:p}p: {fanfare:p}h: \
             {fanfare:p}t: {fanfare:p}o: {fanfare:p}m: {fanfare:p}l: {fanfare:p}i:"
        );
    }

    #[test]
    fn scripts_take_them_in_this_order() {
        let common = include_str!("common.lua");
        let names: Vec<_> = common
            .lines()
            .skip(1)
            .take(4)
            .flat_map(|line| line.split(|c: char| !c.is_ascii_uppercase()))
            .filter(|word| word.len() > 1 && *word != "KEYS")
            .collect();
        assert_eq!(
            names.join(" "),
            "GATEWAYS NUMBERS DEAD USERS CONNECTIONS ROOMS GRACES CHANGES SOCKETS PLACES HELD STAYS ONLINE \
             MEMBERS LISTED INSIDE"
        );
    }
}
