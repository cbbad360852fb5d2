use std::sync::Arc;

/// The keys of leases, checkpoints, interest snapshots and rate limits. What stands in braces decides the slot in a cluster: keys
/// that one script touches have it in common.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keys {
    prefix: Arc<str>,
}

impl Keys {
    /// All begin with `prefix:`; the prefix has no braces.
    pub(super) fn new(prefix: &str) -> Self {
        Self {
            prefix: prefix.into(),
        }
    }

    /// What every key begins with, before the first `:`.
    #[must_use]
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// The holder of a lease.
    #[must_use]
    pub fn lease(&self, name: &str) -> String {
        format!("{}:{{lease:{name}}}:holder", self.prefix)
    }

    /// How far a partition was read.
    #[must_use]
    pub fn checkpoint(&self, partition: u16) -> String {
        format!("{}:{{p{partition}}}:checkpoint", self.prefix)
    }

    /// The interest table of a partition.
    #[must_use]
    pub fn interest(&self, partition: u16) -> String {
        format!("{}:{{p{partition}}}:interest", self.prefix)
    }

    /// What somebody has spent of the limit `name`. Both may hold any characters: with the length of the name no two
    /// pairs have the same key. Scripts touch one such key at a time, so it does not matter that braces may decide
    /// its slot.
    #[must_use]
    pub fn limit(&self, name: &str, somebody: &str) -> String {
        format!("{}:limit:{}:{name}:{somebody}", self.prefix, name.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Releases that run side by side must agree on them.
    #[test]
    fn keys_stay_what_they_are() {
        let keys = Keys::new("fanfare");
        assert_eq!(keys.lease("partition-3"), "fanfare:{lease:partition-3}:holder");
        assert_eq!(keys.checkpoint(3), "fanfare:{p3}:checkpoint");
        assert_eq!(keys.interest(65535), "fanfare:{p65535}:interest");
        assert_eq!(Keys::new("a:b").checkpoint(0), "a:b:{p0}:checkpoint");
        assert_eq!(keys.limit("events", "a:{b}"), "fanfare:limit:6:events:a:{b}");
        assert_ne!(keys.limit("a", "b:c"), keys.limit("a:b", "c"));
    }
}
