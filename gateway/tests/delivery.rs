//! The gateway against a worker played by the test: gaps, repeats, replaced workers. No presence service
//! answers, so what depends on one falls back.
#![allow(clippy::unwrap_used, missing_docs, reason = "tests")]

mod alone;

use std::time::Duration;

use alone::Alone;
use bench::client::{Reader, Writer, connect};
use bus::{EventLog, PageQuery, Signals, subjects};
use config::{Config, Role};
use delivery::{Batch, Delivery, GatewayLink, VolatileEvent};
use model::{Namespace, RoomName, RoomToken, partition_of};

async fn start() -> Alone {
    alone::start(Config::for_tests(Role::Standalone)).await
}

/// Joins a room and publishes `count` messages there, which nobody delivers yet.
async fn publish(bench: &Alone, count: usize) -> (Reader, Writer) {
    let (mut reader, mut writer) = connect(bench.addr, "/chat").await.unwrap();
    writer
        .text("42/chat,0[\"join-room\",{\"roomId\":\"r\"}]")
        .await
        .unwrap();
    while !reader.text().await.unwrap().starts_with("43/chat,0") {}
    for number in 1..=count {
        let event = format!("42/chat,{number}[\"message\",{{\"roomId\":\"r\",\"content\":\"{number}\"}}]");
        writer.text(&event).await.unwrap();
        while !reader
            .text()
            .await
            .unwrap()
            .starts_with(&format!("43/chat,{number}"))
        {}
    }
    (reader, writer)
}

fn token() -> RoomToken {
    RoomToken::new(&Namespace::new("/chat").unwrap(), &RoomName::new("r").unwrap())
}

/// The room's messages as a worker would send them.
async fn deliveries(bench: &Alone) -> (u16, Vec<Delivery>) {
    let partition = partition_of(token(), bench.log.partitions());
    let all = PageQuery::After {
        after: 0,
        limit: 1000,
    };
    let entries = bench.log.page(partition, token(), all).await.unwrap().entries;
    let deliveries = entries
        .into_iter()
        .map(|entry| Delivery {
            seq: entry.seq,
            room: token(),
            record: entry.payload,
        })
        .collect();
    (partition, deliveries)
}

async fn contents(reader: &mut Reader, count: usize) -> Vec<String> {
    let mut seen = Vec::new();
    while seen.len() < count {
        let text = tokio::time::timeout(Duration::from_secs(20), reader.text())
            .await
            .unwrap()
            .unwrap();
        if text.starts_with("42/chat,[\"message\"") {
            seen.push(
                text.split("\"content\":\"")
                    .nth(1)
                    .unwrap()
                    .split('"')
                    .next()
                    .unwrap()
                    .to_owned(),
            );
        }
    }
    seen
}

fn numbers(range: std::ops::RangeInclusive<usize>) -> Vec<String> {
    range.map(|number| number.to_string()).collect()
}

#[tokio::test]
async fn repeats_and_replaced_workers_are_dropped() {
    let bench = start().await;
    let (mut reader, _writer) = publish(&bench, 4).await;
    let (partition, all) = deliveries(&bench).await;
    let last = all[3].seq;
    let batch = |epoch, after, deliveries: &[Delivery]| Batch {
        partition,
        epoch,
        after,
        through: deliveries.last().map_or(after, |delivery| delivery.seq),
        deliveries: deliveries.to_vec(),
        traces: Vec::new(),
    };
    bench.link.deliver(batch(2, 0, &all[..2])).unwrap();
    // A new owner begins a little earlier; an old one still talks.
    bench.link.deliver(batch(3, 0, &all[..3])).unwrap();
    bench.link.deliver(batch(2, all[1].seq, &all[2..])).unwrap();
    bench.link.deliver(batch(3, all[2].seq, &all[3..])).unwrap();
    assert_eq!(contents(&mut reader, 4).await, numbers(1..=4));
    while bench.link.acknowledged(partition) < last {
        tokio::task::yield_now().await;
    }
    bench.stop().await;
}

#[tokio::test]
async fn a_gap_is_read_from_the_log_before_what_follows() {
    let bench = start().await;
    let (mut reader, _writer) = publish(&bench, 6).await;
    let (partition, all) = deliveries(&bench).await;
    let batch = Batch {
        partition,
        epoch: 1,
        after: 0,
        through: all[0].seq,
        deliveries: all[..1].to_vec(),
        traces: Vec::new(),
    };
    bench.link.deliver(batch).unwrap();
    // The batches with 2 to 4 were lost on the way.
    let batch = Batch {
        partition,
        epoch: 1,
        after: all[3].seq,
        through: all[4].seq,
        deliveries: all[4..5].to_vec(),
        traces: Vec::new(),
    };
    bench.link.deliver(batch).unwrap();
    let batch = Batch {
        partition,
        epoch: 1,
        after: all[4].seq,
        through: all[5].seq,
        deliveries: all[5..].to_vec(),
        traces: Vec::new(),
    };
    bench.link.deliver(batch).unwrap();
    assert_eq!(contents(&mut reader, 6).await, numbers(1..=6));
    bench.stop().await;
}

#[tokio::test]
async fn an_empty_batch_behind_a_gap_is_enough() {
    let bench = start().await;
    let (mut reader, _writer) = publish(&bench, 3).await;
    let (partition, all) = deliveries(&bench).await;
    let end = all[2].seq;
    bench
        .link
        .deliver(Batch {
            partition,
            epoch: 1,
            after: end,
            through: end,
            deliveries: Vec::new(),
            traces: Vec::new(),
        })
        .unwrap();
    assert_eq!(contents(&mut reader, 3).await, numbers(1..=3));
    bench.stop().await;
}

#[tokio::test]
async fn a_message_that_is_not_stored_is_acknowledged_and_sent_without_an_offset() {
    let mut config = Config::for_tests(Role::Standalone);
    config.namespaces[1].volatile = vec!["message".to_owned()];
    assert_eq!(config.namespaces[1].pattern, "/chat");
    let bench = alone::start(config).await;
    let (mut reader, mut writer) = publish(&bench, 0).await;
    let partition = partition_of(token(), bench.log.partitions());
    let subject = subjects::signals_of_partition(partition);
    let mut signals = bench.signals.subscribe(&subject, None).await.unwrap();
    let before = bench.log.last_seq(partition).await.unwrap();
    writer
        .text("42/chat,7[\"message\",{\"roomId\":\"r\",\"content\":\"now\"}]")
        .await
        .unwrap();
    let answer = loop {
        let text = reader.text().await.unwrap();
        if text.starts_with("43/chat,7") {
            break text;
        }
    };
    assert!(
        answer.contains("\"ok\"") && !answer.contains("offset"),
        "{answer}"
    );
    let signal = loop {
        let signal = signals.next().await.unwrap();
        if subjects::signal_token(&signal.subject) == Some(token()) {
            break signal;
        }
    };
    assert_eq!(bench.log.last_seq(partition).await.unwrap(), before);
    bench.link.signal(VolatileEvent {
        room: token(),
        record: signal.payload,
        trace: None,
    });
    let event = loop {
        let text = reader.text().await.unwrap();
        if text.starts_with("42/chat,[\"message\"") {
            break text;
        }
    };
    assert!(
        event.contains("\"content\":\"now\"") && !event.contains("offset"),
        "{event}"
    );
    bench.stop().await;
}
