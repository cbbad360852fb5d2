//! The conformance list on the link within one process.

use std::sync::Arc;

use async_trait::async_trait;
use delivery::{
    Arrival, Connector, LinkError,
    conformance::{Ends, GatewayEnd, MAX_BYTES, PARTITIONS, gateway_link},
    local::{LinkLimits, LocalLinks, LocalReceiver, pair},
};

struct End(LocalReceiver);

#[async_trait]
impl GatewayEnd for End {
    async fn arrivals(&mut self) -> Option<Vec<Arrival>> {
        let mut arrivals = Vec::new();
        self.0.recv_many(&mut arrivals).await.then_some(arrivals)
    }

    fn acknowledge(&self, partition: u16, seq: u64) {
        self.0.acknowledge(partition, seq);
    }
}

fn limits() -> LinkLimits {
    LinkLimits {
        batches: 4096,
        bytes: MAX_BYTES,
    }
}

#[tokio::test]
async fn local_link_conforms() {
    gateway_link(async || {
        let (link, receiver) = pair(PARTITIONS, limits());
        let ends: Ends = (Arc::new(link), Box::new(End(receiver)));
        ends
    })
    .await;
}

/// Also over threads: the end of one side reaches the other whenever it comes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[expect(clippy::disallowed_methods, reason = "the test waits for what it spawns")]
async fn ends_that_go_at_any_moment_are_noticed() {
    for _ in 0..2_000 {
        let (link, mut receiver) = pair(1, limits());
        let receiving = tokio::spawn(async move { receiver.recv_many(&mut Vec::new()).await });
        drop(link);
        assert!(!receiving.await.unwrap_or(true));
    }
}

#[tokio::test]
async fn gateways_are_found_by_id_while_they_live() {
    let links = LocalLinks::new();
    assert_eq!(links.connect("g", "").await.err(), Some(LinkError::Closed));
    let (link, receiver) = pair(1, limits());
    links.register("g", link);
    assert!(links.connect("g", "").await.is_ok());
    drop(receiver);
    assert_eq!(links.connect("g", "").await.err(), Some(LinkError::Closed));
    let (link, mut receiver) = pair(1, limits());
    links.register("g", link);
    links.remove("g");
    assert!(!receiver.recv_many(&mut Vec::new()).await);
}
