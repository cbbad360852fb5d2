//! The log on real servers: the conformance list, and what only this engine promises.
#![allow(clippy::unwrap_used, missing_docs, reason = "tests")]

#[path = "nats_log/faults.rs"]
mod faults;
#[path = "nats_log/settings.rs"]
mod settings;

use std::{sync::Arc, time::Duration};

use async_nats::{Client, jetstream};
use bus::{
    EventLog, LogSubject, NewEntry, PageQuery,
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

async fn client_at(url: &str) -> Client {
    let nats = NatsConfig {
        servers: url.to_owned(),
        name: "test".to_owned(),
        ..NatsConfig::default()
    };
    connect(&nats, &NatsHealth::new()).await.unwrap()
}

async fn log_at(url: &str, config: NatsLogConfig) -> Result<NatsLog, OpenError> {
    NatsLog::open(client_at(url).await, config).await
}

fn entry(room: u8, text: &str) -> NewEntry {
    NewEntry {
        subject: LogSubject::Room(token(room)),
        payload: Bytes::copy_from_slice(text.as_bytes()),
        dedup: None,
        trace: None,
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

async fn jetstream_at(url: &str) -> jetstream::Context {
    jetstream::new(async_nats::connect(url).await.unwrap())
}

/// The slowest tail of a process holds purging back, and what was read lately stays.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn purging_waits_for_the_slowest_tail_and_for_those_who_come_later() {
    const COUNT: usize = 1000;
    let nats = Nats::start(NatsVersion::Current).unwrap();
    let patient = NatsLogConfig {
        keep_read: Duration::from_secs(3600),
        ..config()
    };
    for (log, slow) in [
        (log_at(&nats.url(), config()).await.unwrap(), true),
        (log_at(&nats.url(), patient).await.unwrap(), false),
    ] {
        let first = log.last_seq(0).await.unwrap();
        let mut quick = log.tail(0, first).await.unwrap();
        let mut held = if slow {
            Some(log.tail(0, first).await.unwrap())
        } else {
            None
        };
        let appends: Vec<_> = (0..COUNT)
            .map(|n| log.append(0, entry(1, &n.to_string())))
            .collect();
        join_all(appends).await;
        let mut read = 0;
        while read < COUNT {
            read += quick.next().await.unwrap().len();
        }
        assert!(log.get(0, first + 1).await.unwrap().is_some());
        let mut tail = match held.take() {
            Some(tail) => tail,
            None => log.tail(0, first).await.unwrap(),
        };
        let mut read = 0;
        while read < COUNT {
            for entry in tail.next().await.unwrap() {
                assert_eq!(entry.payload, read.to_string());
                read += 1;
            }
        }
    }
}

/// A room that nobody has trimmed: a page is what it shows, read by few questions, and leaves nothing behind.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_of_a_long_room_are_bounded_and_shared() {
    const COUNT: usize = 10_000;
    for version in NatsVersion::ALL {
        let nats = Nats::start(version).unwrap();
        let log = log_at(&nats.url(), config()).await.unwrap();
        let appends: Vec<_> = (0..COUNT)
            .map(|n| log.append(0, entry(u8::try_from(n % 2 + 1).unwrap(), &n.to_string())))
            .collect();
        for append in appends {
            append.await.unwrap();
        }
        let query = PageQuery::Before {
            before: u64::MAX,
            limit: 1000,
        };
        let pages = join_all((0..200).map(|_| log.page(0, token(1), query))).await;
        for page in pages {
            let page = page.unwrap();
            assert_eq!((page.entries.len(), page.has_more), (64, false));
            assert_eq!(page.entries[63].payload, (COUNT - 2).to_string());
        }
        let context = jetstream_at(&nats.url()).await;
        let mut stream = context.get_stream("FANFARE_0").await.unwrap();
        let mut tries = 0;
        while stream.info().await.unwrap().state.consumer_count > 0 {
            tries += 1;
            assert!(tries < 100, "consumers stay behind");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// Large records of many partitions come over one connection without the server closing it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_records_are_read_without_trouble() {
    const EACH: usize = 40;
    for version in NatsVersion::ALL {
        let nats = Nats::start(version).unwrap();
        let large = NatsLogConfig {
            max_record_bytes: 1 << 20,
            retry: Duration::from_secs(60),
            ..config()
        };
        let log = log_at(&nats.url(), large).await.unwrap();
        let payload = "x".repeat(1 << 20);
        for _ in 0..EACH {
            join_all((0..4).map(|partition| log.append(partition, entry(1, &payload))))
                .await
                .into_iter()
                .for_each(|appended| assert!(appended.is_ok(), "{appended:?}"));
        }
        join_all((0..4).map(|partition| {
            let log = log.clone();
            async move {
                let mut tail = log.tail(partition, 0).await.unwrap();
                let mut read = 0;
                while read < EACH {
                    read += tail.next().await.unwrap().len();
                }
                let query = PageQuery::After { after: 0, limit: 64 };
                let page = log.page(partition, token(1), query).await.unwrap();
                assert_eq!(page.entries.len(), EACH);
            }
        }))
        .await;
    }
}

/// Prints the rates; that everything is read is all it asks for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_is_stored_and_read() {
    const COUNT: usize = 20_000;
    for version in NatsVersion::ALL {
        let nats = Nats::start(version).unwrap();
        let log = log_at(&nats.url(), config()).await.unwrap();
        let mut tail = log.tail(0, 0).await.unwrap();
        let begun = std::time::Instant::now();
        for chunk in 0..COUNT / 10_000 {
            let appends: Vec<_> = (0..10_000)
                .map(|n| log.append(0, entry((n % 100) as u8 + 1, &"x".repeat(200 + chunk))))
                .collect();
            for append in appends {
                append.await.unwrap();
            }
        }
        let appended = begun.elapsed();
        let mut read = 0;
        while read < COUNT {
            read += tail.next().await.unwrap().len();
        }
        let rate = |elapsed: Duration| COUNT as f64 / elapsed.as_secs_f64();
        println!(
            "{version:?}: {:.0} appends a second, {:.0} until read",
            rate(appended),
            rate(begun.elapsed())
        );
    }
}
