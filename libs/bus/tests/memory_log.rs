//! The log in memory against a naive one, and its bounds.

#![allow(clippy::unwrap_used, reason = "a test reports by panicking")]

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bus::{
    Appended, Entry, EventLog, LogSubject, NewEntry, Page, PageQuery,
    event_log::memory::{MemoryLog, MemoryLogConfig},
};
use bytes::Bytes;
use futures_util::FutureExt;
use model::RoomToken;
use proptest::prelude::*;

const PER_ROOM: usize = 4;
const MAX_AGE: u64 = 100;
const WINDOW: u64 = 40;

fn room(number: u8) -> RoomToken {
    RoomToken::from_bytes(&[number; 16]).unwrap()
}

fn config() -> MemoryLogConfig {
    MemoryLogConfig {
        partitions: 1,
        max_messages_per_room: PER_ROOM,
        max_age: Duration::from_millis(MAX_AGE),
        dedup_window: Duration::from_millis(WINDOW),
        ..MemoryLogConfig::default()
    }
}

fn with_clock(config: MemoryLogConfig) -> (MemoryLog, Arc<AtomicU64>) {
    let time = Arc::new(AtomicU64::new(1_000));
    let clock = Arc::clone(&time);
    (
        MemoryLog::with_clock(config, Arc::new(move || clock.load(Ordering::Relaxed))),
        time,
    )
}

fn entry(subject: LogSubject, payload: Bytes) -> NewEntry {
    NewEntry {
        subject,
        payload,
        dedup: None,
        trace: None,
    }
}

/// A log that looks at everything it ever stored each time.
#[derive(Default)]
struct Naive {
    now: u64,
    stored: Vec<Entry>,
    last: u64,
    keys: HashMap<u8, (u64, u64)>,
}

impl Naive {
    fn append(&mut self, subject: LogSubject, payload: Bytes, key: Option<u8>) -> Appended {
        let known = key
            .and_then(|key| self.keys.get(&key))
            .filter(|(time, _)| *time + WINDOW >= self.now);
        if let Some((_, seq)) = known {
            return Appended {
                seq: *seq,
                duplicate: true,
            };
        }
        self.last += 1;
        let seq = self.last;
        if let Some(key) = key {
            self.keys.insert(key, (self.now, seq));
        }
        self.stored.push(Entry {
            seq,
            subject,
            time_ms: self.now,
            payload,
            trace: None,
        });
        Appended {
            seq,
            duplicate: false,
        }
    }

    fn there(&self) -> Vec<Entry> {
        let young = |entry: &&Entry| entry.time_ms + MAX_AGE >= self.now;
        let kept = |entry: &&Entry| match entry.subject {
            LogSubject::Control => true,
            subject @ LogSubject::Room(_) => {
                let newer = |other: &&Entry| other.subject == subject && other.seq > entry.seq;
                self.stored.iter().filter(newer).count() < PER_ROOM
            }
        };
        self.stored.iter().filter(young).filter(kept).cloned().collect()
    }

    fn page(&self, token: RoomToken, query: PageQuery) -> Page {
        let mut entries = self.there();
        entries.retain(|entry| entry.subject == LogSubject::Room(token));
        let has_more = match query {
            PageQuery::Before { before, limit } => {
                entries.retain(|entry| entry.seq < before);
                let more = entries.len().saturating_sub(limit);
                entries.drain(..more);
                more > 0
            }
            PageQuery::After { after, limit } => {
                entries.retain(|entry| entry.seq > after);
                let more = entries.len() > limit;
                entries.truncate(limit);
                more
            }
        };
        Page { entries, has_more }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Append { room: u8, key: Option<u8> },
    Control,
    Pass(u64),
    Before { room: u8, before: u64, limit: usize },
    After { room: u8, after: u64, limit: usize },
    Get(u64),
    Tail(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let seq = || prop_oneof![4 => 0..60u64, 1 => Just(u64::MAX)];
    prop_oneof![
        8 => (0..4u8, prop::option::weighted(0.3, 0..6u8)).prop_map(|(room, key)| Step::Append { room, key }),
        1 => Just(Step::Control),
        2 => (0..30u64).prop_map(Step::Pass),
        2 => (0..4u8, seq(), 0..6usize).prop_map(|(room, before, limit)| Step::Before { room, before, limit }),
        2 => (0..4u8, seq(), 0..6usize).prop_map(|(room, after, limit)| Step::After { room, after, limit }),
        1 => seq().prop_map(Step::Get),
        1 => seq().prop_map(Step::Tail),
    ]
}

async fn agrees(steps: Vec<Step>) {
    let (log, time) = with_clock(config());
    let mut naive = Naive {
        now: 1_000,
        ..Naive::default()
    };
    for (number, step) in steps.into_iter().enumerate() {
        let payload = Bytes::from(number.to_string());
        match step {
            Step::Append { room: number, key } => {
                let subject = LogSubject::Room(room(number));
                let dedup = key.map(|key| key.to_string());
                let appended = log
                    .append(
                        0,
                        NewEntry {
                            subject,
                            payload: payload.clone(),
                            dedup,
                            trace: None,
                        },
                    )
                    .await;
                assert_eq!(appended, Ok(naive.append(subject, payload, key)));
            }
            Step::Control => {
                let appended = log.append(0, entry(LogSubject::Control, payload.clone())).await;
                assert_eq!(appended, Ok(naive.append(LogSubject::Control, payload, None)));
            }
            Step::Pass(millis) => {
                naive.now += millis;
                time.store(naive.now, Ordering::Relaxed);
            }
            Step::Before {
                room: number,
                before,
                limit,
            } => {
                let query = PageQuery::Before { before, limit };
                assert_eq!(
                    log.page(0, room(number), query).await,
                    Ok(naive.page(room(number), query))
                );
            }
            Step::After {
                room: number,
                after,
                limit,
            } => {
                let query = PageQuery::After { after, limit };
                assert_eq!(
                    log.page(0, room(number), query).await,
                    Ok(naive.page(room(number), query))
                );
            }
            Step::Get(seq) => {
                let there = naive.there().into_iter().find(|entry| entry.seq == seq);
                assert_eq!(log.get(0, seq).await, Ok(there));
            }
            Step::Tail(after) => {
                let mut due = naive.there();
                due.retain(|entry| entry.seq > after);
                let mut tail = log.tail(0, after).await.unwrap();
                match tail.next().now_or_never() {
                    Some(batch) => assert_eq!(batch, Ok(due)),
                    None => assert!(due.is_empty()),
                };
            }
        }
        assert_eq!(log.last_seq(0).await, Ok(naive.last));
    }
}

proptest! {
    #[test]
    fn agrees_with_a_naive_log(steps in prop::collection::vec(step(), 0..300)) {
        agrees(steps).now_or_never().unwrap();
    }

    #[test]
    fn bytes_take_the_oldest_first(sizes in prop::collection::vec((0..4u8, 0..3_000usize), 0..200)) {
        bytes_take_the_oldest(sizes).now_or_never().unwrap();
    }
}

/// What is left is the end of what a naive log has, and pages and tails agree about it.
async fn bytes_take_the_oldest(sizes: Vec<(u8, usize)>) {
    let max_bytes = 16 << 10;
    let (log, _) = with_clock(MemoryLogConfig {
        max_bytes,
        ..config()
    });
    let mut naive = Naive {
        now: 1_000,
        ..Naive::default()
    };
    for (number, size) in sizes {
        let subject = LogSubject::Room(room(number));
        let payload = Bytes::from(vec![number; size]);
        log.append(0, entry(subject, payload.clone())).await.unwrap();
        naive.append(subject, payload, None);
        let all = naive.there();
        let left = log.tail(0, 0).await.unwrap().next().await.unwrap();
        assert!(all.ends_with(&left), "the newest, in order and whole");
        let bytes = |entries: &[Entry]| entries.iter().map(|entry| entry.payload.len()).sum::<usize>();
        assert!(bytes(&left) <= max_bytes);
        // Nothing goes without need.
        if bytes(&all) + all.len() * 256 <= max_bytes {
            assert_eq!(left, all);
        }
        naive.stored.retain(|entry| entry.seq >= left[0].seq);
        for number in 0..4 {
            let query = PageQuery::After { after: 0, limit: 3 };
            assert_eq!(
                log.page(0, room(number), query).await,
                Ok(naive.page(room(number), query))
            );
        }
    }
}

#[tokio::test]
async fn a_tail_takes_what_is_there_at_once_up_to_a_bound() {
    let log = MemoryLog::new(MemoryLogConfig {
        partitions: 1,
        max_messages_per_room: 5_000,
        ..config()
    });
    for _ in 0..3_000 {
        log.append(0, entry(LogSubject::Room(room(1)), Bytes::new()))
            .await
            .unwrap();
    }
    let mut tail = log.tail(0, 0).await.unwrap();
    let mut sizes = Vec::new();
    for _ in 0..3 {
        sizes.push(tail.next().await.unwrap().len());
    }
    assert_eq!(sizes, [1024, 1024, 952]);
}

#[tokio::test]
async fn what_is_too_old_is_gone_without_anybody_appending() {
    let (log, time) = with_clock(config());
    log.append(0, entry(LogSubject::Room(room(1)), Bytes::from("old")))
        .await
        .unwrap();
    time.fetch_add(MAX_AGE + 1, Ordering::Relaxed);
    let query = PageQuery::After { after: 0, limit: 10 };
    assert_eq!(log.page(0, room(1), query).await, Ok(Page::default()));
    assert_eq!(log.last_seq(0).await, Ok(1), "sequences do not go back");
}

/// The bytes of all partitions are bounded, and the one that holds most pays.
#[tokio::test]
async fn bytes_are_bounded_over_all_partitions() {
    let max_bytes = 1 << 20;
    let config = MemoryLogConfig {
        partitions: 4,
        max_messages_per_room: 1_000_000,
        max_bytes,
        ..config()
    };
    let log = MemoryLog::new(MemoryLogConfig {
        max_age: Duration::from_secs(3600),
        ..config
    });
    log.append(3, entry(LogSubject::Room(room(9)), Bytes::from("quiet")))
        .await
        .unwrap();
    let record = Bytes::from(vec![b'x'; 1000]);
    for n in 0..5_000u16 {
        log.append(n % 3, entry(LogSubject::Room(room(1)), record.clone()))
            .await
            .unwrap();
    }
    let all = PageQuery::After {
        after: 0,
        limit: usize::MAX,
    };
    let mut bytes = 0;
    for partition in 0..3 {
        let entries = log.page(partition, room(1), all).await.unwrap().entries;
        assert!(entries.len() > 200, "each has about a third: {}", entries.len());
        assert_eq!(
            entries.last().unwrap().seq,
            log.last_seq(partition).await.unwrap(),
            "the newest stay"
        );
        bytes += entries.iter().map(|entry| entry.payload.len()).sum::<usize>();
    }
    assert!(bytes <= max_bytes, "{bytes}");
    assert_eq!(log.page(3, room(9), all).await.unwrap().entries.len(), 1);
}

#[tokio::test]
async fn a_tail_that_is_behind_misses_nothing_of_a_busy_room() {
    let log = MemoryLog::new(config());
    let mut tail = log.tail(0, 0).await.unwrap();
    let subject = LogSubject::Room(room(1));
    for _ in 0..100 {
        log.append(0, entry(subject, Bytes::from("x"))).await.unwrap();
    }
    let newest = PageQuery::Before {
        before: u64::MAX,
        limit: 100,
    };
    let page = log.page(0, room(1), newest).await.unwrap();
    assert_eq!(page.entries.len(), PER_ROOM, "history has its limit all the same");
    assert_eq!(tail.next().await.unwrap().len(), 100);
    // Read by all: now the limit holds for the memory too.
    log.append(0, entry(subject, Bytes::from("x"))).await.unwrap();
    assert_eq!(log.get(0, 50).await.unwrap(), None);
    drop(tail);
}

#[tokio::test]
async fn a_log_full_of_what_is_unread_says_so() {
    let log = MemoryLog::new(MemoryLogConfig {
        max_bytes: 100_000,
        ..config()
    });
    let mut tail = log.tail(0, 0).await.unwrap();
    let subject = LogSubject::Room(room(1));
    let append = || log.append(0, entry(subject, Bytes::from(vec![0; 1000])));
    let mut stored = 0;
    while append().await.is_ok() {
        stored += 1;
        assert!(stored < 1000, "the log has no bound");
    }
    let mut read = 0;
    while read < stored {
        read += tail.next().await.unwrap().len();
    }
    append().await.unwrap();
}
