use std::{collections::BTreeMap, sync::Arc};

use parking_lot::Mutex;

/// What must hold before a process takes traffic, by name. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Readiness {
    conditions: Arc<Mutex<BTreeMap<&'static str, Option<String>>>>,
}

/// One condition; not met until said so.
#[derive(Clone, Debug)]
pub struct Condition {
    readiness: Readiness,
    name: &'static str,
}

impl Readiness {
    /// No conditions: ready.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a condition that is not met yet.
    #[must_use]
    pub fn condition(&self, name: &'static str) -> Condition {
        self.conditions.lock().insert(name, Some("not yet".to_owned()));
        Condition {
            readiness: self.clone(),
            name,
        }
    }

    /// The conditions that are not met, each with its reason; empty when ready.
    #[must_use]
    pub fn missing(&self) -> BTreeMap<&'static str, String> {
        let conditions = self.conditions.lock();
        conditions
            .iter()
            .filter_map(|(name, reason)| Some((*name, reason.clone()?)))
            .collect()
    }
}

impl Condition {
    /// It is met.
    pub fn met(&self) {
        self.readiness.conditions.lock().insert(self.name, None);
    }

    /// It is not met, or no more.
    pub fn missing(&self, reason: impl Into<String>) {
        self.readiness
            .conditions
            .lock()
            .insert(self.name, Some(reason.into()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_is_said_positively_and_taken_back() {
        let readiness = Readiness::new();
        let log = readiness.condition("log");
        let open = readiness.condition("open");
        assert_eq!(readiness.missing().len(), 2);
        log.met();
        open.met();
        assert!(readiness.missing().is_empty());
        open.missing("draining");
        assert_eq!(readiness.missing()["open"], "draining");
    }
}
