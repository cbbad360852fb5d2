//! How many tasks of each name run, counted without a lock or an allocation a task.

use std::{
    fmt::{self, Write},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
};

/// Names are words in the source, so there are few; what comes after so many is counted together.
const NAMES: usize = 64;

/// Cheap to clone; clones share the counts.
#[derive(Clone)]
pub(super) struct Names(Arc<Counts>);

struct Counts {
    named: [Count; NAMES],
    others: AtomicUsize,
}

#[derive(Default)]
struct Count {
    name: OnceLock<&'static str>,
    running: AtomicUsize,
}

/// One task that runs; counted until it is dropped.
pub(super) struct Running {
    names: Names,
    index: usize,
}

impl Default for Names {
    fn default() -> Self {
        Self(Arc::new(Counts {
            named: std::array::from_fn(|_| Count::default()),
            others: AtomicUsize::new(0),
        }))
    }
}

impl fmt::Debug for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.running())
    }
}

impl Names {
    /// Counts a task.
    pub(super) fn begin(&self, name: &'static str) -> Running {
        let place = |count: &Count| *count.name.get_or_init(|| name) == name;
        let index = self.0.named.iter().position(place).unwrap_or(NAMES);
        self.count(index).fetch_add(1, Ordering::Relaxed);
        Running {
            names: self.clone(),
            index,
        }
    }

    /// Who runs, e.g. `accept, connection (3)`; empty when nobody does.
    pub(super) fn running(&self) -> String {
        let named = self.0.named.iter();
        let named = named.filter_map(|count| Some((*count.name.get()?, &count.running)));
        let mut text = String::new();
        for (name, running) in named.chain([("others", &self.0.others)]) {
            let running = running.load(Ordering::Relaxed);
            let comma = if text.is_empty() { "" } else { ", " };
            // Writing to a String does not fail.
            let _ = match running {
                0 => Ok(()),
                1 => write!(text, "{comma}{name}"),
                _ => write!(text, "{comma}{name} ({running})"),
            };
        }
        text
    }

    fn count(&self, index: usize) -> &AtomicUsize {
        self.0
            .named
            .get(index)
            .map_or(&self.0.others, |count| &count.running)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.names.count(self.index).fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tasks_are_counted_by_name() {
        let names = Names::default();
        let one = names.begin("one");
        let two = [names.begin("two"), names.begin("two")];
        assert_eq!(names.running(), "one, two (2)");
        drop(one);
        assert_eq!(names.running(), "two (2)");
        drop(two);
        assert_eq!(names.running(), "");
    }

    #[test]
    fn more_names_than_places_are_counted_together() {
        let names = Names::default();
        let many: Vec<_> = (0..NAMES + 2)
            .map(|number| names.begin(String::leak(format!("task {number}"))))
            .collect();
        assert!(
            names.running().ends_with("task 63, others (2)"),
            "{}",
            names.running()
        );
        drop(many);
        assert_eq!(names.running(), "");
    }
}
