//! What a faulty log does, and that those who follow the port's rules get along with it.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test reports by panicking")]

use std::{sync::Arc, time::Duration};

use bus::{
    Appended, EventLog, LogError, LogSubject, NewEntry, PageQuery, Tail,
    event_log::memory::{MemoryLog, MemoryLogConfig},
    fault::{Faults, FaultyLog},
};
use bytes::Bytes;
use model::RoomToken;

fn room() -> RoomToken {
    RoomToken::from_bytes(&[1; 16]).unwrap()
}

fn memory_log() -> Arc<MemoryLog> {
    Arc::new(MemoryLog::new(MemoryLogConfig {
        partitions: 1,
        max_messages_per_room: 10_000,
        ..MemoryLogConfig::default()
    }))
}

fn keyed(number: u64) -> NewEntry {
    NewEntry {
        subject: LogSubject::Room(room()),
        payload: Bytes::from(number.to_string()),
        dedup: Some(number.to_string()),
        trace: None,
    }
}

fn is_fault<T>(result: &Result<T, LogError>) -> bool {
    matches!(result, Err(LogError::Unavailable(_)))
}

#[tokio::test]
async fn a_refused_append_is_not_stored_and_an_unknown_one_is() {
    let inner = memory_log();
    let refusing = Faults {
        refused_append: 1.0,
        ..Faults::default()
    };
    let refusing = FaultyLog::new(inner.clone(), refusing, 1);
    assert!(is_fault(&refusing.append(0, keyed(1)).await));
    assert_eq!(inner.last_seq(0).await, Ok(0));
    let forgetting = Faults {
        unknown_append: 1.0,
        ..Faults::default()
    };
    let forgetting = FaultyLog::new(inner.clone(), forgetting, 1);
    assert!(is_fault(&forgetting.append(0, keyed(1)).await));
    assert_eq!(inner.last_seq(0).await, Ok(1));
    // Who tries again with the key learns the place.
    let place = Appended {
        seq: 1,
        duplicate: true,
    };
    assert_eq!(inner.append(0, keyed(1)).await, Ok(place));
}

#[tokio::test]
async fn every_reading_can_be_refused() {
    let refusing = Faults {
        refused_read: 1.0,
        ..Faults::default()
    };
    let log = FaultyLog::new(memory_log(), refusing, 1);
    assert_eq!(log.append(0, keyed(1)).await.map(|appended| appended.seq), Ok(1));
    assert!(is_fault(&log.last_seq(0).await));
    assert!(is_fault(&log.get(0, 1).await));
    assert!(is_fault(&log.tail(0, 0).await.map(|_| ())));
    let query = PageQuery::After { after: 0, limit: 1 };
    assert!(is_fault(&log.page(0, room(), query).await));
}

#[tokio::test]
async fn a_broken_tail_stays_broken() {
    let breaking = Faults {
        broken_tail: 1.0,
        ..Faults::default()
    };
    let log = FaultyLog::new(memory_log(), breaking, 1);
    log.append(0, keyed(1)).await.unwrap();
    let mut tail = log.tail(0, 0).await.unwrap();
    for _ in 0..3 {
        assert!(is_fault(&tail.next().await));
    }
}

#[tokio::test]
async fn the_same_seed_gives_the_same_faults() {
    let half = Faults {
        refused_append: 0.5,
        ..Faults::default()
    };
    let run = async |seed| {
        let log = FaultyLog::new(memory_log(), half, seed);
        let mut faults = Vec::new();
        for number in 0..200 {
            faults.push(is_fault(&log.append(0, keyed(number)).await));
        }
        faults
    };
    let one = run(1).await;
    assert_eq!(one, run(1).await);
    assert_ne!(one, run(2).await);
    let count = one.iter().filter(|fault| **fault).count();
    assert!((60..140).contains(&count), "{count} of 200 at one half");
}

/// A writer that tries again under the key and a reader that opens a new tail behind what it has seen:
/// everything comes once and in order, whatever goes wrong.
#[tokio::test(start_paused = true)]
async fn nothing_is_lost_or_repeated_for_those_who_try_again() {
    const COUNT: u64 = 500;
    for seed in 0..20 {
        let faults = Faults {
            refused_append: 0.1,
            unknown_append: 0.1,
            broken_tail: 0.2,
            refused_read: 0.1,
            delay: Duration::from_millis(5),
        };
        let log = FaultyLog::new(memory_log(), faults, seed);
        let write = async {
            for number in 0..COUNT {
                while log.append(0, keyed(number)).await.is_err() {}
            }
        };
        let read = async {
            let (mut seen, mut after) = (Vec::new(), 0);
            let mut tail: Option<Box<dyn Tail>> = None;
            while (seen.len() as u64) < COUNT {
                let Some(open) = &mut tail else {
                    tail = log.tail(0, after).await.ok();
                    continue;
                };
                match open.next().await {
                    Ok(batch) => {
                        after = batch.last().unwrap().seq;
                        seen.extend(batch.into_iter().map(|entry| entry.payload));
                    }
                    Err(LogError::Unavailable(_)) => tail = None,
                    Err(error) => panic!("{error}"),
                }
            }
            seen
        };
        let ((), seen) = tokio::join!(write, read);
        let all: Vec<_> = (0..COUNT).map(|number| Bytes::from(number.to_string())).collect();
        assert_eq!(seen, all, "seed {seed}");
    }
}
