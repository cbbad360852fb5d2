//! What every engine of [`GatewayLink`] must do, together with its other end at the gateway.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a check reports by panicking")]

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use model::RoomToken;
use tokio::task::{JoinSet, yield_now};

use crate::{Arrival, Batch, Delivery, GatewayLink, LinkError, Receiver, VolatileEvent};

/// Something that must come has this long; far more than it needs.
const PATIENCE: Duration = Duration::from_secs(30);
/// No queue is so long.
const NO_QUEUE: u64 = 10_000_000;

/// Both ends of a link, and what it holds.
pub struct LinkUnderTest {
    /// The worker's end, for a log of at least four partitions.
    pub link: Arc<dyn GatewayLink>,
    /// The gateway's end.
    pub receiver: Box<dyn Receiver>,
    /// So many batches of 100 bytes may wait at least; at least 8.
    pub batches: u64,
}

/// Runs every check, each on a link of its own.
///
/// # Panics
/// When the engine does not conform.
pub async fn gateway_link(make: impl AsyncFn() -> LinkUnderTest) {
    a_batch_arrives_whole(make().await).await;
    a_partition_arrives_in_order(make().await).await;
    a_full_queue_keeps_what_it_has(make().await).await;
    signals_arrive_in_order_or_not_at_all(make().await).await;
    signals_never_take_the_room_of_batches(make().await).await;
    acknowledgements_are_cumulative(make().await).await;
    waiting_can_be_given_up(make().await).await;
    the_end_comes_behind_what_was_queued(make().await).await;
    who_is_gone_is_known(make().await).await;
}

async fn a_batch_arrives_whole(mut test: LinkUnderTest) {
    let room = RoomToken::from_bytes(&[7; 16]).unwrap();
    let whole = Batch {
        partition: 2,
        epoch: u64::MAX,
        after: 5,
        through: 1 << 60,
        deliveries: vec![
            Delivery {
                seq: 6,
                room,
                record: Bytes::from((0..=255).collect::<Vec<u8>>()),
            },
            Delivery {
                seq: 1 << 59,
                room: RoomToken::from_bytes(&[8; 16]).unwrap(),
                record: Bytes::new(),
            },
        ],
        traces: Vec::new(),
    };
    // A range without an event for this gateway is worth knowing as well.
    let nothing = Batch {
        after: 1 << 60,
        through: (1 << 60) + 9,
        deliveries: Vec::new(),
        ..whole.clone()
    };
    test.link.deliver(whole.clone()).unwrap();
    test.link.deliver(nothing.clone()).unwrap();
    assert_eq!(
        take(&mut test, 2).await,
        [Arrival::Batch(whole), Arrival::Batch(nothing)]
    );
    let signal = VolatileEvent {
        room,
        record: Bytes::from_static(b"typing"),
        trace: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
            .parse()
            .ok()
            .map(Box::new),
    };
    test.link.signal(signal.clone());
    assert_eq!(take(&mut test, 1).await, [Arrival::Signal(signal)]);
}

/// One task a partition delivers as fast as it can, all at once.
async fn a_partition_arrives_in_order(mut test: LinkUnderTest) {
    const EACH: u64 = 500;
    let mut workers = JoinSet::new();
    for partition in 0..4 {
        let link = Arc::clone(&test.link);
        workers.spawn(async move {
            for seq in 1..=EACH {
                while let Err(error) = link.deliver(batch(partition, seq)) {
                    assert_eq!(error, LinkError::Full);
                    yield_now().await;
                }
            }
        });
    }
    let mut seen = [0; 4];
    let mut arrivals = Vec::new();
    while seen.iter().sum::<u64>() < 4 * EACH {
        arrivals.clear();
        assert!(soon(test.receiver.recv_many(&mut arrivals)).await);
        assert!(!arrivals.is_empty(), "at least one at a time");
        for arrival in &arrivals {
            let Arrival::Batch(Batch { partition, .. }) = arrival else {
                panic!("nobody sent {arrival:?}");
            };
            let seen = &mut seen[usize::from(*partition)];
            *seen += 1;
            assert_eq!(*arrival, Arrival::Batch(batch(*partition, *seen)));
        }
    }
    workers.join_all().await;
}

async fn a_full_queue_keeps_what_it_has(mut test: LinkUnderTest) {
    let taken = fill(&test);
    assert!(taken >= test.batches, "took {taken} only");
    // The gap: what follows the refused one arrives behind what was taken.
    let arrivals = take(&mut test, taken).await;
    assert_eq!(arrivals, batches(1..=taken));
    deliver(&test, batch(0, taken + 2)).await;
    assert_eq!(take(&mut test, 1).await, batches(taken + 2..=taken + 2));
    // Emptied, it takes as much as before.
    assert!(fill(&test) >= test.batches);
}

async fn signals_arrive_in_order_or_not_at_all(mut test: LinkUnderTest) {
    let flood = test.batches * 4;
    for number in 0..flood {
        test.link.signal(signal(number));
    }
    test.link.deliver(batch(0, 1)).unwrap();
    let (mut next, mut came) = (0, false);
    while !came {
        for arrival in take(&mut test, 1).await {
            match arrival {
                Arrival::Signal(VolatileEvent { record, .. }) => {
                    let number = u64::from_be_bytes(record[..8].try_into().unwrap());
                    assert!(number >= next && number < flood, "{number} when {next} was due");
                    next = number + 1;
                }
                Arrival::Batch(arrived) => {
                    assert_eq!(arrived, batch(0, 1));
                    came = true;
                }
            }
        }
    }
    assert!(next > 0, "an idle link drops no signals");
}

async fn signals_never_take_the_room_of_batches(mut test: LinkUnderTest) {
    for number in 0..test.batches * 4 {
        test.link.signal(signal(number));
    }
    let taken = fill(&test);
    assert!(taken >= test.batches, "took {taken} only");
    // Behind a full queue they are dropped, and nothing else is.
    for number in 0..test.batches * 4 {
        test.link.signal(signal(number));
    }
    let mut arrived = Vec::new();
    while (arrived.len() as u64) < taken {
        let some = take(&mut test, 1).await;
        arrived.extend(
            some.into_iter()
                .filter(|arrival| matches!(arrival, Arrival::Batch(_))),
        );
    }
    assert_eq!(arrived, batches(1..=taken));
}

async fn acknowledgements_are_cumulative(test: LinkUnderTest) {
    let LinkUnderTest { link, receiver, .. } = test;
    assert_eq!(link.acknowledged(1), 0);
    receiver.acknowledge(1, 10);
    acknowledged(&*link, 1, 10).await;
    // An older one changes nothing, be it on the way for a while: the newer one of another partition
    // is behind it.
    receiver.acknowledge(1, 7);
    receiver.acknowledge(3, 1);
    acknowledged(&*link, 3, 1).await;
    assert_eq!(link.acknowledged(1), 10);
    assert_eq!(link.acknowledged(0), 0);
    receiver.acknowledge(1, u64::MAX);
    acknowledged(&*link, 1, u64::MAX).await;
    // There is no such partition: nothing happens.
    receiver.acknowledge(u16::MAX, 1);
    assert_eq!(link.acknowledged(u16::MAX), 0);
    // Who asks late still hears what was acknowledged.
    drop(receiver);
    assert_eq!(link.acknowledged(1), u64::MAX);
}

async fn waiting_can_be_given_up(mut test: LinkUnderTest) {
    let mut seen = Vec::new();
    for seq in 1..=100 {
        deliver(&test, batch(0, seq)).await;
        for _ in 0..3 {
            let mut arrivals = Vec::new();
            tokio::select! {
                biased;
                open = test.receiver.recv_many(&mut arrivals) => assert!(open),
                () = yield_now() => {}
            }
            seen.append(&mut arrivals);
        }
    }
    let rest = 100 - seen.len() as u64;
    seen.extend(take(&mut test, rest).await);
    assert_eq!(seen, batches(1..=100));
}

async fn the_end_comes_behind_what_was_queued(test: LinkUnderTest) {
    let LinkUnderTest {
        link, mut receiver, ..
    } = test;
    link.deliver(batch(0, 1)).unwrap();
    link.deliver(batch(0, 2)).unwrap();
    drop(link);
    let mut arrivals = Vec::new();
    while soon(receiver.recv_many(&mut arrivals)).await {}
    assert_eq!(arrivals, batches(1..=2));
    assert!(!soon(receiver.recv_many(&mut arrivals)).await, "it stays ended");
    assert_eq!(arrivals.len(), 2);
}

async fn who_is_gone_is_known(test: LinkUnderTest) {
    let LinkUnderTest { link, receiver, .. } = test;
    fill_link(&*link);
    drop(receiver);
    let closed = async {
        while link.deliver(batch(0, 1)) != Err(LinkError::Closed) {
            yield_now().await;
        }
    };
    soon(closed).await;
    link.signal(signal(1));
    assert_eq!(link.deliver(batch(1, 1)), Err(LinkError::Closed), "for good");
}

/// A batch of one event of 100 bytes.
fn batch(partition: u16, seq: u64) -> Batch {
    let mut record = vec![0; 100];
    record[..8].copy_from_slice(&seq.to_be_bytes());
    Batch {
        partition,
        epoch: 1,
        after: seq - 1,
        through: seq,
        deliveries: vec![Delivery {
            seq,
            room: RoomToken::from_bytes(&[1; 16]).unwrap(),
            record: record.into(),
        }],
        traces: Vec::new(),
    }
}

fn batches(seqs: std::ops::RangeInclusive<u64>) -> Vec<Arrival> {
    seqs.map(|seq| Arrival::Batch(batch(0, seq))).collect()
}

fn signal(number: u64) -> VolatileEvent {
    let mut record = vec![0; 100];
    record[..8].copy_from_slice(&number.to_be_bytes());
    VolatileEvent {
        room: RoomToken::from_bytes(&[1; 16]).unwrap(),
        record: record.into(),
        trace: None,
    }
}

/// Delivers until a batch is refused; how many were taken.
fn fill(test: &LinkUnderTest) -> u64 {
    fill_link(&*test.link)
}

fn fill_link(link: &dyn GatewayLink) -> u64 {
    for seq in 1..NO_QUEUE {
        match link.deliver(batch(0, seq)) {
            Ok(()) => {}
            Err(LinkError::Full) => return seq - 1,
            Err(LinkError::Closed) => panic!("closed with both ends there"),
        }
    }
    panic!("the queue is bounded")
}

async fn deliver(test: &LinkUnderTest, batch: Batch) {
    let delivered = async {
        while let Err(error) = test.link.deliver(batch.clone()) {
            assert_eq!(error, LinkError::Full);
            yield_now().await;
        }
    };
    soon(delivered).await;
}

/// Receives until there are so many arrivals, or a few more.
async fn take(test: &mut LinkUnderTest, count: u64) -> Vec<Arrival> {
    let mut all = Vec::new();
    while (all.len() as u64) < count {
        let mut arrivals = Vec::new();
        assert!(soon(test.receiver.recv_many(&mut arrivals)).await);
        all.append(&mut arrivals);
    }
    all
}

async fn acknowledged(link: &dyn GatewayLink, partition: u16, seq: u64) {
    let seen = async {
        while link.acknowledged(partition) != seq {
            yield_now().await;
        }
    };
    soon(seen).await;
}

async fn soon<T>(future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(value) => value,
        Err(_) => panic!("did not come within {PATIENCE:?}"),
    }
}
