//! Servers that die, stall and come back.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use async_nats::jetstream;
use bus::{
    EventLog, LogError, LogSubject, NewEntry,
    event_log::nats::{NatsLogConfig, OpenError},
};
use futures_util::future::join_all;
use servers::{Nats, NatsVersion, Proxy};

use crate::{config, entry, jetstream_at, log_at, token};

/// What one caller has appended, in the order of the log: all of it, once, and in the order of its calls, as it sent
/// chunk after chunk. One gap is known (ARCHITECTURE, "Appends keep their order"), once a break of the connection:
/// what the client library had taken and not written yet is written first on the next connection, before what was
/// lost with the old one.
fn assert_order(numbers: &[usize], chunk: usize, breaks: usize) {
    let mut all = numbers.to_vec();
    all.sort_unstable();
    assert_eq!(all, (0..numbers.len()).collect::<Vec<_>>(), "lost or doubled");
    let chunks = numbers.iter().map(|number| number / chunk);
    assert!(chunks.is_sorted(), "reordered: {numbers:?}");
    let swaps = numbers.windows(2).filter(|pair| pair[0] > pair[1]).count();
    assert!(swaps <= breaks, "reordered: {numbers:?}");
}

/// The number that an entry's text is.
fn number(entry: &bus::Entry) -> usize {
    std::str::from_utf8(&entry.payload).unwrap().parse().unwrap()
}

/// Killed again and again while callers pipeline: what was acknowledged is read once, in one order, and each
/// caller's entries in the order of its calls.
async fn survives_kills(version: NatsVersion) {
    const CALLERS: u8 = 4;
    const EACH: usize = 3000;
    const CHUNK: usize = 50;
    const KILLS: usize = 3;
    let mut nats = Nats::start(version).unwrap();
    let log = log_at(&nats.url(), config()).await.unwrap();
    let mut tail = log.tail(0, 0).await.unwrap();
    let callers = join_all((0..CALLERS).map(|caller| {
        let log = log.clone();
        async move {
            let mut acknowledged = Vec::new();
            for chunk in (0..EACH).collect::<Vec<_>>().chunks(CHUNK) {
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
        for _ in 0..KILLS {
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
            .map(|entry| (entry.seq, number(entry)))
            .collect();
        for stored in &acknowledged {
            assert!(
                of_caller.contains(stored),
                "acknowledged and not there: {stored:?}"
            );
        }
        let order: Vec<usize> = of_caller.iter().map(|(_, n)| *n).collect();
        assert_order(&order, CHUNK, KILLS);
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

/// Three servers that keep three copies: the leader of a stream dies under load.
async fn survives_leaders(version: NatsVersion) {
    const CHUNK: usize = 20;
    let ports: Vec<_> = (0..3).map(|_| servers::free_port().unwrap()).collect();
    let routes: Vec<_> = ports
        .iter()
        .map(|port| format!("nats://127.0.0.1:{port}"))
        .collect();
    let mut nodes: Vec<_> = ["a", "b", "c"]
        .iter()
        .zip(&ports)
        .map(|(name, port)| {
            let cluster = format!(
                "server_name: {name}\ncluster {{ name: test, listen: \"127.0.0.1:{port}\", routes: {routes:?} }}"
            );
            Nats::start_with(version, &cluster).unwrap()
        })
        .collect();
    let urls: Vec<_> = nodes.iter().map(Nats::url).collect();
    let three = NatsLogConfig {
        replicas: 3,
        retry: Duration::from_secs(60),
        ..config()
    };
    let started = std::time::Instant::now();
    let log = loop {
        match log_at(&urls.join(","), three.clone()).await {
            // The three have no leader yet.
            Err(OpenError::Unavailable(_)) if started.elapsed() < Duration::from_secs(60) => {
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
            opened => break opened.unwrap(),
        }
    };
    let mut tail = log.tail(0, 0).await.unwrap();
    let killed = AtomicBool::new(false);
    let append = async {
        let mut seqs = Vec::new();
        let mut after = 0;
        while after < 50 {
            let begin = seqs.len();
            let appends = (begin..begin + CHUNK).map(|n| log.append(0, entry(1, &n.to_string())));
            for append in appends.collect::<Vec<_>>() {
                seqs.push(append.await.unwrap().seq);
            }
            after += usize::from(killed.load(Ordering::Relaxed));
        }
        seqs
    };
    let kill = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        let context = jetstream::new(async_nats::connect(urls.clone()).await.unwrap());
        let stream = context.get_stream("FANFARE_0").await.unwrap();
        let leader = stream.cached_info().cluster.as_ref().unwrap().leader.clone();
        let leader = ["a", "b", "c"]
            .iter()
            .position(|name| leader.as_deref() == Some(*name))
            .unwrap();
        nodes[leader].kill();
        killed.store(true, Ordering::Relaxed);
    };
    let (seqs, ()) = tokio::join!(append, kill);
    let mut read = Vec::new();
    while read.len() < seqs.len() {
        let batch = tokio::time::timeout(Duration::from_secs(60), tail.next()).await;
        read.extend(batch.unwrap().unwrap());
    }
    for entry in &read {
        assert_eq!(seqs[number(entry)], entry.seq, "{version:?}");
    }
    // The server that died may have been the one that the connection was to.
    assert_order(&read.iter().map(number).collect::<Vec<_>>(), CHUNK, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leaders_may_die_on_debians_server() {
    survives_leaders(NatsVersion::Debian).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leaders_may_die_on_a_current_server() {
    survives_leaders(NatsVersion::Current).await;
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

/// Connections that are made again within a moment lose what was on its way; nobody may see that in the order.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_are_reset_lose_and_reorder_nothing() {
    const COUNT: usize = 4000;
    const CHUNK: usize = 20;
    const RESETS: usize = 8;
    for version in NatsVersion::ALL {
        let nats = Nats::start(version).unwrap();
        let proxy = Proxy::start([([127, 0, 0, 1], nats.port()).into()]).unwrap();
        let log = log_at(&format!("nats://127.0.0.1:{}", proxy.port()), config())
            .await
            .unwrap();
        let mut tail = log.tail(0, 0).await.unwrap();
        let append = async {
            let mut seqs = Vec::new();
            for chunk in 0..COUNT / CHUNK {
                let numbers = chunk * CHUNK..(chunk + 1) * CHUNK;
                let appends = numbers.map(|n| log.append(0, entry(1, &n.to_string())));
                for append in appends.collect::<Vec<_>>() {
                    seqs.push(append.await.unwrap().seq);
                }
            }
            seqs
        };
        let resets = async {
            for _ in 0..RESETS {
                tokio::time::sleep(Duration::from_millis(40)).await;
                proxy.reset();
            }
        };
        let (seqs, ()) = tokio::join!(append, resets);
        let mut read = Vec::new();
        while read.len() < COUNT {
            let batch = tokio::time::timeout(Duration::from_secs(30), tail.next()).await;
            read.extend(batch.unwrap().unwrap());
        }
        for entry in &read {
            assert_eq!(seqs[number(entry)], entry.seq, "{version:?}");
        }
        assert_order(&read.iter().map(number).collect::<Vec<_>>(), CHUNK, RESETS);
    }
}

/// A key is known to the server after a restart, too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_survive_a_kill() {
    for version in NatsVersion::ALL {
        let mut nats = Nats::start(version).unwrap();
        let log = log_at(&nats.url(), config()).await.unwrap();
        let keyed = || {
            log.append(
                0,
                NewEntry {
                    dedup: Some("key".to_owned()),
                    ..entry(1, "once")
                },
            )
        };
        let first = keyed().await.unwrap();
        nats.kill();
        let meanwhile = keyed();
        nats.start_again().unwrap();
        let again = meanwhile.await.unwrap();
        assert_eq!((again.seq, again.duplicate), (first.seq, true), "{version:?}");
        assert_eq!(log.last_seq(0).await.unwrap(), first.seq);
    }
}

/// The stream is gone for a moment while appends are under way: what is refused meanwhile is tried again, in order.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_does_not_answer_is_waited_for() {
    let nats = Nats::start(NatsVersion::Current).unwrap();
    let log = log_at(&nats.url(), config()).await.unwrap();
    let context = jetstream_at(&nats.url()).await;
    let made = context.get_stream("FANFARE_0").await.unwrap();
    let made = made.cached_info().config.clone();
    context.delete_stream("FANFARE_0").await.unwrap();
    let appends: Vec<_> = (0..3000)
        .map(|n| log.append(0, entry(1, &n.to_string())))
        .collect();
    let (outcomes, ()) = tokio::join!(join_all(appends), async {
        tokio::time::sleep(Duration::from_millis(700)).await;
        context.create_stream(made).await.unwrap();
    });
    let seqs: Vec<_> = outcomes.into_iter().map(|outcome| outcome.unwrap().seq).collect();
    assert_eq!(seqs, (1..=3000).collect::<Vec<_>>());
}
