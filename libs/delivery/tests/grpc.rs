//! The conformance list on links between processes, over real connections, and what only they promise.

#![allow(clippy::unwrap_used, reason = "a test reports by panicking")]

mod support;

use std::{sync::Arc, time::Duration};

use delivery::{
    Arrival, Batch, Connector, GatewayLink, LinkError, LinkLimits, Links,
    conformance::{LinkUnderTest, gateway_link},
    grpc::{GrpcConnector, GrpcLinks, MAX_RECORD, server},
};
use futures_util::{StreamExt, stream};
use proto::v1::{LinkFrame, LinkHello, gateway_link_client::GatewayLinkClient};
use servers::Proxy;
use support::{Certificates, Listener, batch, closed, soon, through};
use tokio::{net::TcpStream, time::sleep};
use tonic::{Code, service::Routes};

const LIMITS: LinkLimits = LinkLimits {
    batches: 16,
    bytes: 1 << 20,
};

/// A gateway `g` of four partitions.
async fn gateway(certificates: Option<&Certificates>) -> (Listener, GrpcLinks) {
    let (routes, links) = server("g", 4, MAX_RECORD);
    let tls = certificates.map(|certificates| certificates.load());
    (Listener::start(routes, tls).await, links)
}

fn worker(limits: LinkLimits, certificates: Option<&Certificates>) -> GrpcConnector {
    GrpcConnector::new("w", 4, limits, certificates.map(Certificates::load))
}

async fn conforms(limits: LinkLimits, batches: u64, certificates: Option<&Certificates>) {
    conforms_over(limits, batches, certificates, None).await;
}

/// With a `delay` of the network, in each direction.
async fn conforms_over(
    limits: LinkLimits,
    batches: u64,
    certificates: Option<&Certificates>,
    delay: Option<Duration>,
) {
    let mut listeners = Vec::new();
    let make = async || {
        let (listener, mut links) = gateway(certificates).await;
        let mut address = listener.address();
        let proxy = delay.map(|delay| {
            let proxy = Proxy::start([address.parse().unwrap()]).unwrap();
            proxy.delay(delay);
            address = format!("127.0.0.1:{}", proxy.port());
            proxy
        });
        let link = worker(limits, certificates).connect("g", &address).await.unwrap();
        let receiver = links.accept().await.unwrap();
        (
            (listener, proxy),
            LinkUnderTest {
                link,
                receiver,
                batches,
            },
        )
    };
    let listeners = std::sync::Mutex::new(&mut listeners);
    gateway_link(async || {
        let (listener, test) = make().await;
        listeners.lock().unwrap().push(listener);
        test
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn grpc_link_conforms_bounded_by_batches() {
    conforms(LIMITS, 16, None).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn grpc_link_conforms_bounded_by_bytes() {
    let limits = LinkLimits {
        batches: 1 << 20,
        bytes: 2_000,
    };
    conforms(limits, 20, None).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn grpc_link_conforms_over_a_slow_network() {
    conforms_over(LIMITS, 16, None, Some(Duration::from_millis(2))).await;
}

#[tokio::test]
async fn grpc_link_conforms_on_one_thread() {
    conforms(LIMITS, 16, None).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn grpc_link_conforms_over_mutual_tls() {
    conforms(LIMITS, 16, Some(&Certificates::new(&["127.0.0.1"]))).await;
}

#[tokio::test]
async fn another_gateway_at_the_address_is_no_gateway() {
    let (listener, mut links) = gateway(None).await;
    let worker = worker(LIMITS, None);
    let refused = worker.connect("another", &listener.address()).await;
    assert_eq!(refused.err(), Some(LinkError::Closed));
    let taken = worker.connect("g", &listener.address()).await;
    assert!(taken.is_ok());
    assert!(links.accept().await.is_some());
}

#[tokio::test]
async fn a_worker_of_another_log_is_refused() {
    let (listener, _links) = gateway(None).await;
    let worker = GrpcConnector::new("w", 8, LIMITS, None);
    let refused = worker.connect("g", &listener.address()).await;
    assert_eq!(refused.err(), Some(LinkError::Closed));
}

#[tokio::test]
async fn who_is_refused_is_told_why() {
    let (listener, links) = gateway(None).await;
    let endpoint = format!("http://{}", listener.address());
    let mut client = GatewayLinkClient::connect(endpoint).await.unwrap();
    let mut says = async |hello: Option<LinkHello>| {
        let first = LinkFrame {
            hello,
            items: Vec::new(),
        };
        // A stream that does not end by itself, as that of a worker.
        let frames = stream::iter([first]).chain(stream::pending());
        let status = soon(client.deliver(frames)).await.unwrap_err();
        (status.code(), status.message().to_owned())
    };
    let right = LinkHello {
        protocol: 1,
        worker: "w".to_owned(),
        gateway: "g".to_owned(),
        partitions: 4,
    };
    let another = LinkHello {
        gateway: "other".to_owned(),
        ..right.clone()
    };
    let (code, message) = says(Some(another)).await;
    assert_eq!(
        (code, &*message),
        (Code::NotFound, "this is gateway g, not other")
    );
    let later = LinkHello {
        protocol: 2,
        ..right.clone()
    };
    assert_eq!(says(Some(later)).await.0, Code::FailedPrecondition);
    let larger = LinkHello {
        partitions: 8,
        ..right.clone()
    };
    let (code, message) = says(Some(larger)).await;
    assert_eq!(
        (code, &*message),
        (
            Code::FailedPrecondition,
            "gateway g has 4 partitions, worker w has 8"
        )
    );
    assert_eq!(says(None).await.0, Code::InvalidArgument);
    drop(links);
    assert_eq!(says(Some(right)).await.0, Code::Unavailable);
}

#[tokio::test]
async fn a_gateway_that_stops_accepting_refuses() {
    let (listener, links) = gateway(None).await;
    drop(links);
    let refused = worker(LIMITS, None).connect("g", &listener.address()).await;
    assert_eq!(refused.err(), Some(LinkError::Closed));
}

#[tokio::test]
async fn addresses_where_nobody_is_are_closed() {
    let worker = worker(LIMITS, None);
    let nobody = format!("127.0.0.1:{}", servers::free_port().unwrap());
    for address in [nobody.as_str(), "", "no port", "127.0.0.1"] {
        let refused = soon(worker.connect("g", address)).await;
        assert_eq!(refused.err(), Some(LinkError::Closed), "{address}");
    }
}

/// Something accepts and says nothing.
#[tokio::test]
async fn connecting_is_given_up() {
    let silent = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = silent.local_addr().unwrap().to_string();
    let refused = soon(worker(LIMITS, None).connect("g", &address)).await;
    assert_eq!(refused.err(), Some(LinkError::Closed));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broken_connection_closes_both_ends_and_another_link_can_be_made() {
    let (listener, mut links) = gateway(None).await;
    let proxy = Proxy::start([listener.addr()]).unwrap();
    let worker = worker(LIMITS, None);
    let address = format!("127.0.0.1:{}", proxy.port());
    let link = worker.connect("g", &address).await.unwrap();
    let mut receiver = links.accept().await.unwrap();
    link.deliver(batch(1, 100)).unwrap();
    assert_eq!(through(&mut *receiver, 1).await, 100);

    proxy.cut();
    closed(&*link).await;
    let mut arrivals = Vec::new();
    while soon(receiver.recv_many(&mut arrivals)).await {}

    proxy.open();
    let again = worker.connect("g", &address).await.unwrap();
    let mut receiver = links.accept().await.unwrap();
    again.deliver(batch(9, 100)).unwrap();
    assert_eq!(through(&mut *receiver, 9).await, 100);
    assert_eq!(link.deliver(batch(10, 1)), Err(LinkError::Closed), "for good");
}

/// No packet comes through and none says that the peer is gone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_route_closes_the_link() {
    let (listener, mut links) = gateway(None).await;
    let proxy = Proxy::start([listener.addr()]).unwrap();
    let address = format!("127.0.0.1:{}", proxy.port());
    let link = worker(LIMITS, None).connect("g", &address).await.unwrap();
    let _receiver = links.accept().await.unwrap();
    proxy.stall();
    // It is noticed without anything being sent; within 4 s, which a busy machine is given more for.
    closed(&*link).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_records_arrive() {
    const LARGE: usize = 8 << 20;
    let (listener, mut links) = gateway(None).await;
    let limits = LinkLimits {
        batches: 4,
        bytes: 1 << 20,
    };
    let link = worker(limits, None)
        .connect("g", &listener.address())
        .await
        .unwrap();
    let mut receiver = links.accept().await.unwrap();
    let mut several = batch(1, LARGE);
    for seq in 2..=4 {
        several.deliveries.extend(batch(seq, LARGE).deliveries);
    }
    several.through = 5;
    link.deliver(several.clone()).unwrap();
    let (mut deliveries, mut covered) = (Vec::new(), 0);
    while covered < 5 {
        let mut arrivals = Vec::new();
        assert!(soon(receiver.recv_many(&mut arrivals)).await);
        for arrival in arrivals {
            let Arrival::Batch(part) = arrival else {
                unreachable!("nobody sent {arrival:?}");
            };
            assert_eq!(part.after, covered);
            covered = part.through;
            deliveries.extend(part.deliveries);
        }
    }
    assert!(deliveries == several.deliveries);
}

/// It would break every link it is tried on.
#[tokio::test]
async fn a_record_larger_than_messages_may_be_is_refused() {
    let (routes, mut links) = server("g", 4, 1_000);
    let listener = Listener::start(routes, None).await;
    let worker = worker(LIMITS, None).max_record(1_000);
    let link = worker.connect("g", &listener.address()).await.unwrap();
    let mut receiver = links.accept().await.unwrap();
    assert_eq!(link.deliver(batch(1, 1_001)), Err(LinkError::Full));
    link.deliver(batch(2, 1_000)).unwrap();
    assert_eq!(through(&mut *receiver, 2).await, 1_000);
}

/// A gateway that does not read holds what the windows let through, the worker what its limits say.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_that_does_not_read_fills_the_queue_and_misses_nothing_that_was_taken() {
    const RECORD: usize = 10_000;
    let limits = LinkLimits {
        batches: 1 << 20,
        bytes: 2 << 20,
    };
    let (listener, mut links) = gateway(None).await;
    let connector = worker(limits, None);
    let link = connector.connect("g", &listener.address()).await.unwrap();
    let mut receiver = links.accept().await.unwrap();
    let mut taken = 0;
    // Full, and it stays so: nothing moves any more.
    let mut refused = 0;
    while refused < 20 {
        match link.deliver(batch(taken + 1, RECORD)) {
            Ok(()) => {
                taken += 1;
                refused = 0;
            }
            Err(error) => {
                assert_eq!(error, LinkError::Full);
                refused += 1;
                sleep(Duration::from_millis(10)).await;
            }
        }
    }
    let most = limits.bytes + support::WINDOW + (1 << 20);
    assert!(taken as usize * RECORD <= most, "{taken} were taken");
    let sent = connector.meter().total().deliveries();
    assert!(
        taken - sent >= (limits.bytes / RECORD) as u64,
        "{sent} of {taken} sent"
    );
    assert_eq!(through(&mut *receiver, taken).await, taken as usize * RECORD);
    link.deliver(batch(taken + 1, RECORD)).unwrap();
    assert_eq!(through(&mut *receiver, taken + 1).await, RECORD);
}

/// The gateway never reads; the worker does not wait for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_let_go_of_ends_though_the_gateway_takes_nothing() {
    let (listener, mut links) = gateway(None).await;
    let limits = LinkLimits {
        batches: 1 << 20,
        bytes: 4 << 20,
    };
    let connector = worker(limits, None);
    let link = connector.connect("g", &listener.address()).await.unwrap();
    let _receiver = links.accept().await.unwrap();
    let mut seq = 1;
    while link.deliver(batch(seq, 100_000)).is_ok() {
        seq += 1;
    }
    let meter = connector.meter();
    assert_eq!(meter.links().len(), 1);
    drop(link);
    soon(async {
        while !meter.links().is_empty() {
            sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_side_counts_what_crosses_the_wire() {
    let (listener, mut links) = gateway(None).await;
    let connector = worker(LIMITS, None);
    let link = connector.connect("g", &listener.address()).await.unwrap();
    let mut receiver = links.accept().await.unwrap();
    link.deliver(batch(1, 1_000)).unwrap();
    link.signal(delivery::VolatileEvent {
        room: support::room(),
        record: vec![0; 500].into(),
        trace: None,
    });
    let empty = Batch {
        deliveries: Vec::new(),
        ..batch(2, 0)
    };
    link.deliver(empty).unwrap();
    through(&mut *receiver, 2).await;
    for meter in [connector.meter(), links.meter()] {
        let total = meter.total();
        assert_eq!((total.deliveries(), total.signals()), (1, 1));
        assert!((1_500..1_700).contains(&total.bytes()), "{}", total.bytes());
        assert!((1..=3).contains(&total.frames()));
        let of_links = meter.links();
        assert_eq!(of_links.len(), 1);
        assert_eq!(of_links[0].1.bytes(), total.bytes());
    }
    assert_eq!(&*connector.meter().links()[0].0, "g");
    assert_eq!(&*links.meter().links()[0].0, "w");
}

#[tokio::test]
async fn certificates_of_another_authority_are_refused_by_either_side() {
    let (ours, others) = (
        Certificates::new(&["127.0.0.1"]),
        Certificates::new(&["127.0.0.1"]),
    );
    let (listener, _links) = gateway(Some(&ours)).await;
    let address = listener.address();
    assert!(worker(LIMITS, Some(&ours)).connect("g", &address).await.is_ok());
    let stranger = worker(LIMITS, Some(&others));
    // It trusts the gateway, and shows what the gateway does not trust.
    others.trust(&ours);
    let trusting = worker(LIMITS, Some(&others));
    for stranger in [stranger, trusting, worker(LIMITS, None)] {
        let refused = soon(stranger.connect("g", &address)).await;
        assert_eq!(refused.err(), Some(LinkError::Closed));
    }
    // Shown what it does not trust, though the gateway would take it.
    ours.trust(&Certificates::new(&["127.0.0.1"]));
    let doubter = worker(LIMITS, Some(&ours));
    let refused = soon(doubter.connect("g", &address)).await;
    assert_eq!(refused.err(), Some(LinkError::Closed));
}

#[tokio::test]
async fn a_renewed_certificate_is_shown_without_a_restart() {
    let certificates = Certificates::new(&["127.0.0.1"]);
    let tls = certificates.load();
    let listener = Listener::start(Routes::default(), Some(tls.clone())).await;
    let address = listener.address();
    let shown = async || {
        let stream = TcpStream::connect(&address).await.unwrap();
        let connection = tls.connect_http2(&address, stream).await.unwrap();
        connection.get_ref().1.peer_certificates().unwrap().to_vec()
    };
    let first = shown().await;
    assert!(!tls.identity().reload().unwrap());
    certificates.renew();
    assert_eq!(shown().await, first);
    assert!(tls.identity().reload().unwrap());
    let second = shown().await;
    assert_ne!(second, first);

    std::fs::write(certificates.path("key.pem"), "").unwrap();
    let error = tls.identity().reload().unwrap_err().to_string();
    assert!(error.contains("there is no private key"), "{error}");
    assert_eq!(shown().await, second);
}

#[tokio::test]
async fn a_certificate_must_name_its_host_or_what_all_are_named() {
    let certificates = Certificates::new(&["fanfare.internal"]);
    let (listener, _links) = gateway(Some(&certificates)).await;
    let by_address = worker(LIMITS, Some(&certificates));
    let refused = by_address.connect("g", &listener.address()).await;
    assert_eq!(refused.err(), Some(LinkError::Closed));
    let tls = certificates.load().with_server_name("fanfare.internal").unwrap();
    let by_name = GrpcConnector::new("w", 4, LIMITS, Some(tls));
    assert!(by_name.connect("g", &listener.address()).await.is_ok());
}

/// `cargo test -p delivery --release --test grpc -- --ignored --nocapture throughput`
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "prints figures for a person"]
async fn throughput() {
    for (per_batch, certificates) in [
        (1, None),
        (64, None),
        (64, Some(Certificates::new(&["127.0.0.1"]))),
    ] {
        let (listener, mut links) = gateway(certificates.as_ref()).await;
        let connector = worker(LinkLimits::default(), certificates.as_ref());
        let link = connector.connect("g", &listener.address()).await.unwrap();
        let mut receiver = links.accept().await.unwrap();
        let total: u64 = 3_000_000 / 64 * 64;
        let begin = std::time::Instant::now();
        let sending: Arc<dyn GatewayLink> = Arc::clone(&link);
        #[expect(clippy::disallowed_methods, reason = "the test waits for what it spawns")]
        let sender = tokio::spawn(async move {
            for first in (1..=total).step_by(per_batch) {
                let mut whole = batch(first, 128);
                let record = whole.deliveries[0].record.clone();
                whole.through = first + per_batch as u64 - 1;
                whole
                    .deliveries
                    .extend((first + 1..=whole.through).map(|seq| delivery::Delivery {
                        seq,
                        room: support::room(),
                        record: record.clone(),
                    }));
                while sending.deliver(whole.clone()) == Err(LinkError::Full) {
                    tokio::task::yield_now().await;
                }
            }
        });
        assert_eq!(through(&mut *receiver, total).await as u64, total * 128);
        sender.await.unwrap();
        let (seconds, meter) = (begin.elapsed().as_secs_f64(), links.meter());
        println!(
            "batches of {per_batch:2}, tls {}: {:.0} deliveries/s, {:.0} MB/s, {:.0} bytes a delivery, {:.0} deliveries a frame",
            certificates.is_some(),
            total as f64 / seconds,
            meter.total().bytes() as f64 / seconds / 1e6,
            meter.total().bytes() as f64 / total as f64,
            total as f64 / meter.total().frames() as f64,
        );
    }
}
