//! What has come from Redis and is not sent yet.
//!
//! Every worker has all messages in one order, since they come from one server. The one that sends them puts **marks**
//! between them, through the same server: a mark is at the same place for everybody. Two things follow. Each message
//! has a name that all workers give it, by the mark before it and by what it is; so if two send it, the log keeps one.
//! And a mark says up to which earlier one everything has been sent; so the others know what they need not keep.

use std::{
    collections::{HashMap, VecDeque, hash_map::Entry as Slot},
    fmt,
    str::FromStr,
    time::Duration,
};

use tokio::time::Instant;
use uuid::Uuid;

/// Bytes that wait, at most.
const MAX_BYTES: usize = 64 << 20;
/// So much is counted for a message beside its bytes.
const OVERHEAD: usize = 256;
/// What waits for so long at a worker that sends nothing is not sent later either.
const MAX_AGE: Duration = Duration::from_secs(30);
/// Different messages between two marks that are told apart; those behind them have no names.
const MAX_NAMED: usize = 1 << 20;
/// Names messages by what they are.
const CONTENT: Uuid = Uuid::from_u128(0x6f0d_53d1_9a2e_4b7c_b1c4_2e0a_7d95_38f6);

/// A place in the order of the server.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(super) struct Mark {
    /// Of the lease of who put it there.
    pub(super) epoch: u64,
    /// Ascending within the epoch.
    pub(super) number: u64,
    /// Everything before this mark of the same epoch has been sent; 0 for none.
    pub(super) done: u64,
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.epoch, self.number, self.done)
    }
}

impl FromStr for Mark {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let mut numbers = text.splitn(3, ' ').map(|number| number.parse().map_err(drop));
        let mut next = || numbers.next().unwrap_or(Err(()));
        Ok(Self {
            epoch: next()?,
            number: next()?,
            done: next()?,
        })
    }
}

/// A message as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Message {
    pub(super) channel: String,
    pub(super) payload: Vec<u8>,
    /// The same at every worker; none for what came before the first mark.
    pub(super) name: Option<String>,
    /// It came while this worker sends; else another may have sent it already.
    pub(super) ours: bool,
    at: Instant,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Entry {
    Message(Message),
    Mark(Mark),
}

#[derive(Default)]
pub(super) struct Line {
    entries: VecDeque<Entry>,
    bytes: usize,
    /// The last mark, and how often each content has come since.
    last: Option<(Mark, HashMap<Uuid, u32>)>,
    epoch: u64,
}

impl Line {
    /// The newest epoch that there was a mark of; who has an older one has been replaced.
    pub(super) fn epoch(&self) -> u64 {
        self.epoch
    }

    /// A message has come: how many of those that waited longest had to give way.
    pub(super) fn message(&mut self, channel: String, payload: Vec<u8>, ours: bool) -> usize {
        let name = self.name(&channel, &payload);
        let message = Message {
            channel,
            payload,
            name,
            ours,
            at: Instant::now(),
        };
        self.bytes += size(&message);
        self.entries.push_back(Entry::Message(message));
        let mut dropped = 0;
        while self.bytes > MAX_BYTES && self.entries.len() > 1 {
            dropped += usize::from(matches!(self.pop(), Some(Entry::Message(_))));
        }
        dropped
    }

    fn name(&mut self, channel: &str, payload: &[u8]) -> Option<String> {
        let (mark, seen) = self.last.as_mut()?;
        let content = Uuid::new_v5(&Uuid::new_v5(&CONTENT, channel.as_bytes()), payload);
        let full = seen.len() >= MAX_NAMED;
        let count = match seen.entry(content) {
            Slot::Occupied(count) => count.into_mut(),
            Slot::Vacant(_) if full => return None,
            Slot::Vacant(slot) => slot.insert(0),
        };
        *count += 1;
        Some(format!(
            "redis-emitter:{}.{}.{content}.{count}",
            mark.epoch, mark.number
        ))
    }

    /// A mark has come.
    pub(super) fn mark(&mut self, mark: Mark) {
        if mark.epoch < self.epoch {
            return;
        }
        self.epoch = mark.epoch;
        self.last = Some((mark, HashMap::new()));
        self.entries.push_back(Entry::Mark(mark));
        let is_done = |entry: &Entry| matches!(entry, Entry::Mark(earlier) if earlier.epoch == mark.epoch && earlier.number <= mark.done);
        let sent = self.entries.iter().rposition(is_done).map_or(0, |last| last + 1);
        for _ in 0..sent {
            self.pop();
        }
    }

    /// Messages may have been missed: until the next mark the others may count otherwise.
    pub(super) fn interrupted(&mut self) {
        self.last = None;
    }

    /// Forgets what has waited for too long.
    pub(super) fn forget_old(&mut self) {
        let is_young =
            |entry: &Entry| matches!(entry, Entry::Message(message) if message.at.elapsed() <= MAX_AGE);
        let old = self.entries.iter().position(is_young);
        for _ in 0..old.unwrap_or(self.entries.len()) {
            self.pop();
        }
    }

    /// What has waited longest.
    pub(super) fn pop(&mut self) -> Option<Entry> {
        let entry = self.entries.pop_front()?;
        if let Entry::Message(message) = &entry {
            self.bytes -= size(message);
        }
        Some(entry)
    }
}

fn size(message: &Message) -> usize {
    message.channel.len() + message.payload.len() + OVERHEAD
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(epoch: u64, number: u64, done: u64) -> Mark {
        Mark { epoch, number, done }
    }

    fn come(line: &mut Line, payload: &str) {
        assert_eq!(line.message("c".to_owned(), payload.into(), false), 0);
    }

    /// What waits: payloads and names of messages.
    fn rest(line: &mut Line) -> Vec<(String, Option<String>)> {
        std::iter::from_fn(|| line.pop())
            .filter_map(|entry| match entry {
                Entry::Message(message) => Some((String::from_utf8(message.payload).unwrap(), message.name)),
                Entry::Mark(_) => None,
            })
            .collect()
    }

    #[test]
    fn workers_give_the_same_names_whenever_they_came() {
        let (mut first, mut second) = (Line::default(), Line::default());
        come(&mut first, "a");
        first.mark(mark(1, 1, 0));
        come(&mut first, "a");
        for line in [&mut first, &mut second] {
            line.mark(mark(1, 2, 0));
            for payload in ["a", "b", "a"] {
                come(line, payload);
            }
            line.mark(mark(1, 3, 0));
            come(line, "a");
        }
        let first = rest(&mut first);
        assert_eq!(first[0].1, None);
        assert_eq!(first[2..], rest(&mut second));
        let mut names: Vec<_> = first.iter().map(|(_, name)| name.clone()).collect();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), first.len(), "no two alike");
    }

    #[test]
    fn what_was_sent_is_forgotten() {
        let mut line = Line::default();
        come(&mut line, "before");
        line.mark(mark(4, 7, 0));
        come(&mut line, "between");
        line.mark(mark(4, 8, 6));
        come(&mut line, "behind");
        assert_eq!(line.entries.len(), 5);
        line.mark(mark(4, 9, 7));
        line.mark(mark(4, 10, 8));
        assert_eq!(rest(&mut line).len(), 1);
        assert_eq!(line.bytes, 0);
    }

    #[test]
    fn who_was_replaced_changes_nothing() {
        let mut line = Line::default();
        line.mark(mark(4, 7, 0));
        come(&mut line, "a");
        line.mark(mark(5, 1, 0));
        come(&mut line, "b");
        // Of the one before: what it has done in its own epoch says nothing about this one.
        line.mark(mark(4, 8, 7));
        line.mark(mark(5, 2, 0));
        assert_eq!(line.epoch(), 5);
        assert_eq!(rest(&mut line).len(), 2);
    }

    #[test]
    fn after_a_gap_there_are_no_names_until_the_next_mark() {
        let mut line = Line::default();
        line.mark(mark(1, 1, 0));
        line.interrupted();
        come(&mut line, "a");
        line.mark(mark(1, 2, 0));
        come(&mut line, "b");
        let named: Vec<_> = rest(&mut line)
            .into_iter()
            .map(|(_, name)| name.is_some())
            .collect();
        assert_eq!(named, [false, true]);
    }

    #[test]
    fn the_oldest_gives_way() {
        let mut line = Line::default();
        for _ in 0..4 {
            assert_eq!(
                line.message("c".to_owned(), vec![0; MAX_BYTES / 4 - 1000], true),
                0
            );
        }
        assert_eq!(line.message("c".to_owned(), vec![0; 10_000], true), 1);
        assert_eq!(line.message("c".to_owned(), vec![0; 2 * MAX_BYTES], true), 4);
        assert_eq!(rest(&mut line).len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_waits_for_ever() {
        let mut line = Line::default();
        line.mark(mark(1, 1, 0));
        come(&mut line, "old");
        tokio::time::advance(MAX_AGE).await;
        come(&mut line, "young");
        tokio::time::advance(Duration::from_millis(1)).await;
        line.forget_old();
        assert_eq!(rest(&mut line)[0].0, "young");
    }

    #[test]
    fn marks_go_there_and_back() {
        let mark = mark(u64::MAX, 2, 1);
        assert_eq!(mark.to_string().parse(), Ok(mark));
        for bad in ["", "1 2", "1 2 3 4", "a b c", "-1 2 3"] {
            assert_eq!(bad.parse::<Mark>(), Err(()), "{bad}");
        }
    }
}
