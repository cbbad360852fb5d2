//! The conformance list on the link within one process, and what only that link promises.

#![allow(clippy::unwrap_used, reason = "a test reports by panicking")]

use std::sync::Arc;

use bytes::Bytes;
use delivery::{
    Arrival, Batch, Connector, Delivery, GatewayLink, LinkError, Links,
    conformance::{LinkUnderTest, gateway_link},
    local::{LinkLimits, LocalLinks, OneLink, pair},
};
use model::RoomToken;

fn under_test(limits: LinkLimits, batches: u64) -> LinkUnderTest {
    let (link, receiver) = pair(4, limits);
    LinkUnderTest {
        link: Arc::new(link),
        receiver: Box::new(receiver),
        batches,
    }
}

fn batch(seq: u64, bytes: usize) -> Batch {
    Batch {
        partition: 0,
        epoch: 1,
        after: seq - 1,
        through: seq,
        deliveries: vec![Delivery {
            seq,
            room: RoomToken::from_bytes(&[1; 16]).unwrap(),
            record: Bytes::from(vec![0; bytes]),
        }],
        traces: Vec::new(),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn local_link_conforms_bounded_by_batches() {
    let limits = LinkLimits {
        batches: 16,
        bytes: 1 << 20,
    };
    gateway_link(async || under_test(limits, 16)).await;
}

#[tokio::test]
async fn local_link_conforms_bounded_by_bytes() {
    let limits = LinkLimits {
        batches: 1 << 20,
        bytes: 2_000,
    };
    gateway_link(async || under_test(limits, 20)).await;
}

/// Over threads: the end of one side reaches the other whenever it comes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[expect(clippy::disallowed_methods, reason = "the test waits for what it spawns")]
async fn ends_that_go_at_any_moment_are_noticed() {
    for _ in 0..2_000 {
        let (link, mut receiver) = pair(1, LinkLimits::default());
        let receiving = tokio::spawn(async move { receiver.recv_many(&mut Vec::new()).await });
        drop(link);
        assert!(!receiving.await.unwrap());
    }
}

#[tokio::test]
async fn an_empty_queue_takes_one_batch_of_any_size() {
    let limits = LinkLimits {
        batches: 4,
        bytes: 10,
    };
    let (link, mut receiver) = pair(1, limits);
    for seq in [1, 3] {
        link.deliver(batch(seq, 1_000)).unwrap();
        assert_eq!(link.deliver(batch(seq + 1, 1)), Err(LinkError::Full));
        let mut arrivals = Vec::new();
        assert!(receiver.recv_many(&mut arrivals).await);
        assert_eq!(arrivals, [Arrival::Batch(batch(seq, 1_000))]);
    }
}

#[tokio::test]
async fn arrivals_are_added_to_those_not_worked_off() {
    let (link, mut receiver) = pair(1, LinkLimits::default());
    let mut arrivals = Vec::new();
    for seq in 1..=3 {
        link.deliver(batch(seq, 1)).unwrap();
        assert!(receiver.recv_many(&mut arrivals).await);
    }
    assert_eq!(arrivals, [1, 2, 3].map(|seq| Arrival::Batch(batch(seq, 1))));
}

#[tokio::test]
async fn gateways_are_found_by_id_while_they_live() {
    let links = LocalLinks::new();
    assert_eq!(links.connect("g", "").await.err(), Some(LinkError::Closed));
    let (link, receiver) = pair(1, LinkLimits::default());
    links.register("g", link);
    assert!(links.connect("g", "").await.is_ok());
    drop(receiver);
    assert_eq!(links.connect("g", "").await.err(), Some(LinkError::Closed));
    let (link, mut receiver) = pair(1, LinkLimits::default());
    links.register("g", link);
    let held = links.connect("g", "").await.unwrap();
    links.remove("g");
    assert_eq!(links.connect("g", "").await.err(), Some(LinkError::Closed));
    // A worker that holds the link still may go on until it lets go.
    held.deliver(batch(1, 1)).unwrap();
    drop(held);
    let mut arrivals = Vec::new();
    while receiver.recv_many(&mut arrivals).await {}
    assert_eq!(arrivals, [Arrival::Batch(batch(1, 1))]);
}

#[tokio::test]
async fn the_link_within_a_process_is_accepted_once() {
    let (link, receiver) = pair(1, LinkLimits::default());
    let mut links = OneLink::new(receiver);
    let mut receiver = links.accept().await.unwrap();
    assert!(links.accept().await.is_none());
    link.deliver(batch(1, 1)).unwrap();
    let mut arrivals = Vec::new();
    assert!(receiver.recv_many(&mut arrivals).await);
    assert_eq!(arrivals, [Arrival::Batch(batch(1, 1))]);
    receiver.acknowledge(0, 1);
    assert_eq!(link.acknowledged(0), 1);
}
