//! The log on real servers: the conformance list, and what only this engine promises.
#![allow(clippy::unwrap_used, missing_docs, reason = "tests")]

use std::{sync::Arc, time::Duration};

use bus::{
    EventLog, LogError, LogSubject, NewEntry, PageQuery,
    conformance::{LogUnderTest, event_log},
    event_log::nats::{NatsLog, NatsLogConfig, OpenError},
    fault::{Faults, FaultyLog},
    nats::{NatsConfig, NatsHealth, connect},
};
use bytes::Bytes;
use futures_util::future::join_all;
use model::RoomToken;
use servers::{Nats, NatsVersion, Proxy};

fn config() -> NatsLogConfig {
    NatsLogConfig {
        partitions: 4,
        max_messages_per_room: 64,
        max_record_bytes: 256 * 1024,
        keep_read: Duration::ZERO,
        ..NatsLogConfig::default()
    }
}

async fn log_at(url: &str, config: NatsLogConfig) -> Result<NatsLog, OpenError> {
    let nats = NatsConfig {
        servers: url.to_owned(),
        name: "test".to_owned(),
        ..NatsConfig::default()
    };
    let client = connect(&nats, &NatsHealth::new()).await.unwrap();
    NatsLog::open(client, config).await
}

fn entry(room: u8, text: &str) -> NewEntry {
    NewEntry {
        subject: LogSubject::Room(token(room)),
        payload: Bytes::copy_from_slice(text.as_bytes()),
        dedup: None,
    }
}

fn token(room: u8) -> RoomToken {
    RoomToken::from_bytes(&[room; 16]).unwrap()
}

fn under_test(log: Arc<dyn EventLog>) -> LogUnderTest {
    LogUnderTest {
        log,
        max_messages_per_room: 64,
        max_record_bytes: 256 * 1024,
    }
}

async fn conforms(version: NatsVersion) {
    let nats = Nats::start(version).unwrap();
    let log: Arc<dyn EventLog> = Arc::new(log_at(&nats.url(), config()).await.unwrap());
    event_log(async || under_test(Arc::clone(&log))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conforms_on_debians_server() {
    conforms(NatsVersion::Debian).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conforms_on_a_current_server() {
    conforms(NatsVersion::Current).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conforms_through_faults() {
    let nats = Nats::start(NatsVersion::Current).unwrap();
    let log = log_at(&nats.url(), config()).await.unwrap();
    event_log(async || {
        under_test(Arc::new(FaultyLog::new(
            Arc::new(log.clone()),
            Faults::default(),
            1,
        )))
    })
    .await;
}

/// Killed again and again while callers pipeline: what was acknowledged is read once, in one order, and each
/// caller's entries in the order of its calls.
async fn survives_kills(version: NatsVersion) {
    const CALLERS: u8 = 4;
    const EACH: usize = 3000;
    let mut nats = Nats::start(version).unwrap();
    let log = log_at(&nats.url(), config()).await.unwrap();
    let mut tail = log.tail(0, 0).await.unwrap();
    let callers = join_all((0..CALLERS).map(|caller| {
        let log = log.clone();
        async move {
            let mut acknowledged = Vec::new();
            for chunk in (0..EACH).collect::<Vec<_>>().chunks(50) {
                let appends = chunk.iter().map(|n| log.append(0, entry(caller, &n.to_string())));
                for (n, append) in chunk.iter().zip(appends.collect::<Vec<_>>()) {
                    if let Ok(appended) = append.await {
                        acknowledged.push((appended.seq, *n));
                    }
                }
            }
            acknowledged
        }
    }));
    let kills = async {
        for _ in 0..3 {
            tokio::time::sleep(Duration::from_millis(150)).await;
            nats.kill();
            tokio::time::sleep(Duration::from_millis(100)).await;
            nats.start_again().unwrap();
        }
    };
    let (acknowledged, ()) = tokio::join!(callers, kills);
    let last = log.last_seq(0).await.unwrap();
    let mut read = Vec::new();
    while read.last().is_none_or(|entry: &bus::Entry| entry.seq < last) {
        read.extend(
            tokio::time::timeout(Duration::from_secs(30), tail.next())
                .await
                .unwrap()
                .unwrap(),
        );
    }
    assert!(
        read.is_sorted_by(|one, next| one.seq < next.seq),
        "once, in order"
    );
    for (caller, acknowledged) in acknowledged.into_iter().enumerate() {
        let subject = LogSubject::Room(token(caller as u8));
        let of_caller: Vec<(u64, usize)> = read
            .iter()
            .filter(|entry| entry.subject == subject)
            .map(|entry| {
                (
                    entry.seq,
                    std::str::from_utf8(&entry.payload).unwrap().parse().unwrap(),
                )
            })
            .collect();
        for stored in &acknowledged {
            assert!(
                of_caller.contains(stored),
                "acknowledged and not there: {stored:?}"
            );
        }
        let order: Vec<usize> = of_caller.iter().map(|(_, n)| *n).collect();
        assert!(
            order.is_sorted_by(|one, next| one < next),
            "doubled or reordered: {order:?}"
        );
        assert_eq!(acknowledged.len(), EACH, "the server was away for a moment only");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn debians_server_may_be_killed() {
    survives_kills(NatsVersion::Debian).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_current_server_may_be_killed() {
    survives_kills(NatsVersion::Current).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_stalls_is_waited_for_or_given_up() {
    let nats = Nats::start(NatsVersion::Current).unwrap();
    let proxy = Proxy::start([([127, 0, 0, 1], nats.port()).into()]).unwrap();
    let url = format!("nats://127.0.0.1:{}", proxy.port());
    let patient = NatsLogConfig {
        retry: Duration::from_secs(60),
        ..config()
    };
    let hasty = NatsLogConfig {
        retry: Duration::from_millis(300),
        ..config()
    };
    let (patient, hasty) = (
        log_at(&url, patient).await.unwrap(),
        log_at(&url, hasty).await.unwrap(),
    );
    let mut tail = patient.tail(0, 0).await.unwrap();
    proxy.stall();
    let waits = patient.append(0, entry(1, "waits"));
    let given_up = hasty.append(0, entry(1, "given up")).await;
    assert!(matches!(given_up, Err(LogError::Unavailable(_))), "{given_up:?}");
    proxy.open();
    assert!(!waits.await.unwrap().duplicate);
    let mut read = Vec::new();
    while !read.iter().any(|entry: &bus::Entry| entry.payload == "waits") {
        read.extend(tail.next().await.unwrap());
    }
    let stored = read.iter().filter(|entry| entry.payload == "waits").count();
    assert_eq!(stored, 1);
}

/// What a reader has not had is never purged; what it has had beyond the history is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn purging_stays_behind_the_reader() {
    const COUNT: usize = 5000;
    let nats = Nats::start(NatsVersion::Current).unwrap();
    let log = log_at(&nats.url(), config()).await.unwrap();
    let mut tail = log.tail(0, 0).await.unwrap();
    let appends: Vec<_> = (0..COUNT)
        .map(|n| log.append(0, entry(1, &n.to_string())))
        .collect();
    for append in appends {
        append.await.unwrap();
    }
    let mut read = 0;
    while read < COUNT {
        for entry in tail.next().await.unwrap() {
            assert_eq!(entry.payload, read.to_string());
            read += 1;
        }
    }
    let whole = PageQuery::After {
        after: 0,
        limit: COUNT,
    };
    assert_eq!(log.page(0, token(1), whole).await.unwrap().entries.len(), 64);
    // Bounded by the slack once somebody has read on.
    let mut tries = 0;
    while log.get(0, 1).await.unwrap().is_some() {
        log.append(0, entry(1, "more")).await.unwrap();
        tail.next().await.unwrap();
        tries += 1;
        assert!(tries < 2000, "nothing was given back");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn settings_are_reconciled_or_refused_clearly() {
    for version in NatsVersion::ALL {
        let nats = Nats::start(version).unwrap();
        let url = nats.url();
        // Several processes at once.
        let opened = join_all((0..3).map(|_| log_at(&url, config()))).await;
        let log = opened
            .into_iter()
            .collect::<Result<Vec<_>, _>>()
            .unwrap()
            .remove(0);
        log.append(0, entry(1, "kept")).await.unwrap();
        let older = NatsLogConfig {
            max_age: Duration::from_secs(3600),
            ..config()
        };
        let log = log_at(&url, older).await.unwrap();
        assert_eq!(log.last_seq(0).await.unwrap(), 1);
        for partitions in [2, 8] {
            let other = NatsLogConfig {
                partitions,
                ..config()
            };
            let refused = log_at(&url, other).await.err();
            assert!(
                matches!(refused, Some(OpenError::Partitions { .. })),
                "{refused:?}"
            );
        }
        let large = NatsLogConfig {
            max_record_bytes: 32 << 20,
            ..config()
        };
        let refused = log_at(&url, large).await.err().unwrap().to_string();
        assert!(refused.contains("max_payload: 50331648"), "{refused}");
    }
}

/// While the server is away appends wait for their time, not for ever, and fail in their order.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn appends_are_given_up_while_the_server_is_away() {
    let mut nats = Nats::start(NatsVersion::Current).unwrap();
    let hasty = NatsLogConfig {
        retry: Duration::from_millis(500),
        ..config()
    };
    let log = log_at(&nats.url(), hasty).await.unwrap();
    log.append(0, entry(1, "before")).await.unwrap();
    nats.kill();
    for round in 0..3 {
        let appends = (0..10).map(|_| log.append(0, entry(1, "lost")));
        let outcomes = tokio::time::timeout(Duration::from_secs(20), join_all(appends)).await;
        for outcome in outcomes.unwrap_or_else(|_| panic!("round {round} waits for ever")) {
            assert!(matches!(outcome, Err(LogError::Unavailable(_))), "{outcome:?}");
        }
    }
    nats.start_again().unwrap();
    let mut tries = 0;
    while log.append(0, entry(1, "after")).await.is_err() {
        tries += 1;
        assert!(tries < 40, "it does not heal");
    }
}

/// A request to purge may come to the server long after it was made: then, too, it takes nothing unread.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_late_purge_takes_nothing_unread() {
    const FIRST: usize = 288;
    const ALL: usize = 6000;
    let nats = Nats::start(NatsVersion::Current).unwrap();
    let proxy = Proxy::start([([127, 0, 0, 1], nats.port()).into()]).unwrap();
    let url = format!("nats://127.0.0.1:{}", proxy.port());
    let (reader, writer) = (
        log_at(&url, config()).await.unwrap(),
        log_at(&nats.url(), config()).await.unwrap(),
    );
    let write = async |numbers: std::ops::Range<usize>| {
        let appends = numbers.map(|n| writer.append(0, entry(1, &n.to_string())));
        for append in appends.collect::<Vec<_>>() {
            append.await.unwrap();
        }
    };
    let mut tail = reader.tail(0, 0).await.unwrap();
    let mut read = 0;
    let mut read_to = async |end: usize| {
        while read < end {
            for entry in tail.next().await.unwrap() {
                assert_eq!(entry.payload, read.to_string(), "purged before it was read");
                read += 1;
            }
        }
    };
    write(0..FIRST - 1).await;
    read_to(FIRST - 1).await;
    // From here on what the reader asks for is under way while the writer runs far ahead.
    proxy.delay(Duration::from_millis(500));
    write(FIRST - 1..FIRST).await;
    read_to(FIRST).await;
    tokio::time::sleep(Duration::from_millis(600)).await;
    write(FIRST..ALL).await;
    proxy.delay(Duration::ZERO);
    read_to(ALL).await;
}
