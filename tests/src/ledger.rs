use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fmt,
    fmt::Display,
};

use anyhow::{Result, ensure};

use crate::{Message, Published};

/// Mistakes of a kind that are told one by one.
const EXAMPLES: usize = 5;

/// What was acknowledged, and what each member got: the books of a test.
///
/// A message's content is `<publisher>:<number>`; a publisher counts upwards, so that its own order can be seen.
#[derive(Default)]
pub struct Ledger {
    /// By room and id.
    acknowledged: BTreeMap<String, HashMap<String, Entry>>,
    /// By member and room; in the order they came.
    received: BTreeMap<(String, String), Vec<Entry>>,
}

/// A message, as acknowledged or as received.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    id: String,
    offset: (u16, u64),
    content: String,
}

/// What the books say.
#[derive(Clone, Debug, Default)]
pub struct Verdict {
    /// Acknowledged messages.
    pub acknowledged: usize,
    /// Messages that members got.
    pub deliveries: usize,
    /// Acknowledged and missing at a member, a member each.
    pub lost: usize,
    /// Got more than once by a member.
    pub doubled: usize,
    /// Got by a member behind a later one of the room, or of the sender, or at another place than by others.
    pub reordered: usize,
    /// The first mistakes of each kind, in words.
    pub examples: Vec<String>,
}

impl Ledger {
    /// A message was acknowledged.
    pub fn acknowledged(&mut self, room: &str, content: &str, published: &Published) {
        let entry = Entry {
            id: published.id.clone(),
            offset: published.offset,
            content: content.to_owned(),
        };
        let room = self.acknowledged.entry(room.to_owned()).or_default();
        room.insert(entry.id.clone(), entry);
    }

    /// A member was in the room all the time.
    pub fn joined(&mut self, member: &str, room: &str) {
        self.received
            .entry((member.to_owned(), room.to_owned()))
            .or_default();
    }

    /// What a member got, in order; of rooms it is not known to be in, too.
    pub fn received(&mut self, member: &str, messages: impl IntoIterator<Item = Message>) {
        for message in messages {
            let of_room = self.received.entry((member.to_owned(), message.room));
            of_room.or_default().push(Entry {
                id: message.id,
                offset: message.offset,
                content: message.content,
            });
        }
    }

    /// Compares.
    #[must_use]
    pub fn check(&self) -> Verdict {
        let mut verdict = Verdict {
            acknowledged: self.acknowledged.values().map(HashMap::len).sum(),
            ..Verdict::default()
        };
        let mut places: HashMap<(u16, u64), &Entry> = HashMap::new();
        let none = HashMap::new();
        for ((member, room), received) in &self.received {
            let acknowledged = self.acknowledged.get(room).unwrap_or(&none);
            verdict.deliveries += received.len();
            let mut seen = HashSet::new();
            let mut senders: HashMap<&str, u64> = HashMap::new();
            let mut last: Option<&Entry> = None;
            for entry in received {
                if !seen.insert(&entry.id) {
                    verdict.doubled += 1;
                    verdict.example(verdict.doubled, member, room, "doubled", entry);
                    continue;
                }
                let behind = last.is_some_and(|last| last.offset >= entry.offset);
                let elsewhere = *places.entry(entry.offset).or_insert(entry) != entry
                    || acknowledged.get(&entry.id).is_some_and(|known| known != entry);
                let sender = entry.content.split_once(':');
                let unordered = sender.is_some_and(|(sender, number)| {
                    let number = number.parse().unwrap_or(0);
                    let before = senders.insert(sender, number);
                    before.is_some_and(|before| before >= number)
                });
                if behind || elsewhere || unordered {
                    verdict.reordered += 1;
                    let why = format!(
                        "reordered (behind {behind}, elsewhere {elsewhere}, sender {unordered}; before it {last:?})"
                    );
                    verdict.example(verdict.reordered, member, room, &why, entry);
                }
                last = Some(entry);
            }
            for entry in acknowledged.values().filter(|entry| !seen.contains(&entry.id)) {
                verdict.lost += 1;
                verdict.example(verdict.lost, member, room, "lost", entry);
            }
        }
        verdict
    }
}

impl Verdict {
    /// One of so many mistakes of a kind.
    fn example(&mut self, count: usize, member: &str, room: &str, what: &str, entry: &Entry) {
        if count <= EXAMPLES {
            self.examples
                .push(format!("{member} in {room}: {what}: {entry:?}"));
        }
    }

    /// Prints one line, and nothing may be wrong.
    ///
    /// # Errors
    /// When something is; says what.
    pub fn ensure_clean(&self, what: &str) -> Result<()> {
        eprintln!("{what}: {self}");
        ensure!(
            self.lost + self.doubled + self.reordered == 0,
            "{what}: {self}\n{}",
            self.examples.join("\n")
        );
        ensure!(self.acknowledged > 0, "{what}: nothing was acknowledged");
        Ok(())
    }
}

impl Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} acknowledged, {} deliveries: {} lost, {} doubled, {} reordered",
            self.acknowledged, self.deliveries, self.lost, self.doubled, self.reordered
        )
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    fn message(number: u64, content: &str) -> Message {
        Message {
            room: "r".to_owned(),
            id: format!("id-{number}"),
            offset: (0, number),
            content: content.to_owned(),
            at: Instant::now(),
        }
    }

    fn check(got: &[(u64, &str)]) -> (usize, usize, usize) {
        let mut ledger = Ledger::default();
        for number in 1..=3 {
            let published = Published {
                id: format!("id-{number}"),
                offset: (0, number),
                unavailable: 0,
                took: Duration::ZERO,
            };
            ledger.acknowledged("r", &format!("p:{number}"), &published);
        }
        ledger.joined("m", "r");
        ledger.received("m", got.iter().map(|(number, content)| message(*number, content)));
        let verdict = ledger.check();
        (verdict.lost, verdict.doubled, verdict.reordered)
    }

    #[test]
    fn mistakes_are_found() {
        assert_eq!(check(&[(1, "p:1"), (2, "p:2"), (3, "p:3")]), (0, 0, 0));
        assert_eq!(check(&[]), (3, 0, 0));
        assert_eq!(check(&[(1, "p:1"), (3, "p:3")]), (1, 0, 0));
        assert_eq!(
            check(&[(1, "p:1"), (2, "p:2"), (1, "p:1"), (3, "p:3")]),
            (0, 1, 0)
        );
        assert_eq!(check(&[(2, "p:2"), (1, "p:1"), (3, "p:3")]), (0, 0, 1));
        // Another content than the one that was acknowledged.
        assert_eq!(check(&[(1, "p:1"), (2, "q:2"), (3, "p:3")]), (0, 0, 1));
        // A later number of the same sender at an earlier place.
        assert_eq!(check(&[(1, "p:9"), (2, "p:2"), (3, "p:3")]), (0, 0, 2));
    }
}
