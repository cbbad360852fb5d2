//! The engine of `Signals` on NATS: conformance, and what happens when servers and connections fail.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test reports by panicking")]

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use bus::{
    Signals, SignalsError, Subscription,
    conformance::signals,
    nats::{NatsConfig, NatsHealth, connect},
    signals::nats::NatsSignals,
};
use bytes::Bytes;
use servers::{Nats, NatsVersion, Proxy};

/// Something that must come has this long; far more than it needs.
const PATIENCE: Duration = Duration::from_secs(60);
const MIB: usize = 1 << 20;

async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.unwrap()
}

async fn on(port: u16) -> (NatsSignals, NatsHealth) {
    let config = NatsConfig {
        servers: format!("nats://127.0.0.1:{port}"),
        name: "test".to_owned(),
        ..NatsConfig::default()
    };
    let health = NatsHealth::new();
    let client = soon(connect(&config, &health)).await.unwrap();
    (NatsSignals::new(client), health)
}

fn is_unavailable<T>(result: &Result<T, SignalsError>) -> bool {
    matches!(result, Err(SignalsError::Unavailable(_)))
}

fn is_too_large<T>(result: &Result<T, SignalsError>) -> bool {
    matches!(result, Err(SignalsError::TooLarge(_)))
}

/// Publishes until the subscriber has heard it.
async fn heard(bus: &NatsSignals, subject: &str, ear: &mut dyn Subscription, what: &'static str) {
    let publish = async {
        loop {
            // Refused while there is no connection.
            let _ = bus.publish(subject, Bytes::from(what));
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let hear = async { while ear.next().await.unwrap().payload != what {} };
    tokio::select! {
        () = soon(hear) => {}
        never = publish => never,
    }
}

#[tokio::test]
async fn nats_signals_conform() {
    for version in NatsVersion::ALL {
        let nats = Nats::start(version).unwrap();
        let bus: Arc<dyn Signals> = Arc::new(on(nats.port()).await.0);
        signals(async || Arc::clone(&bus)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nats_signals_conform_on_connections_of_their_own() {
    let nats = Nats::start(NatsVersion::Current).unwrap();
    signals(async || Arc::new(on(nats.port()).await.0) as Arc<dyn Signals>).await;
}

/// What one process subscribes is known to the server once the call returns, so others reach it too.
#[tokio::test]
async fn another_process_is_heard_from_the_first_message_on() {
    for version in NatsVersion::ALL {
        let nats = Nats::start(version).unwrap();
        let (here, _) = on(nats.port()).await;
        let (there, _) = on(nats.port()).await;
        for n in 0..200 {
            let subject = format!("s.{n}");
            let mut ear = here.subscribe(&subject, None).await.unwrap();
            there.publish(&subject, Bytes::from("first")).unwrap();
            assert_eq!(soon(ear.next()).await.unwrap().payload, "first");
        }
    }
}

#[tokio::test]
async fn subscriptions_outlive_the_server() {
    for version in NatsVersion::ALL {
        let mut nats = Nats::start(version).unwrap();
        let (bus, health) = on(nats.port()).await;
        let mut ear = bus.subscribe("s.*", None).await.unwrap();
        let mut worker = bus.subscribe("q", Some("workers")).await.unwrap();
        for round in ["one", "two"] {
            heard(&bus, "s.x", &mut *ear, round).await;
            let hour = Duration::from_secs(3600);
            let unanswered = bus.request("q", Bytes::new(), hour);
            let killed = async {
                while soon(worker.next()).await.unwrap().reply.is_none() {}
                nats.kill();
                soon(health.disconnected()).await;
            };
            assert!(is_unavailable(&tokio::join!(soon(unanswered), killed).0));
            // Nothing is kept for later, and nobody waits.
            assert!(is_unavailable(&bus.publish("s.x", Bytes::new())));
            assert!(is_unavailable(&soon(bus.request("q", Bytes::new(), hour)).await));
            nats.start_again().unwrap();
            soon(health.connected()).await;
            heard(&bus, "s.x", &mut *ear, "again").await;
            heard(&bus, "q", &mut *worker, "work").await;
        }
    }
}

/// Whoever is asked may take longer to get back to a server than who asks.
#[tokio::test]
async fn after_a_restart_nobody_is_taken_for_gone() {
    let mut nats = Nats::start(NatsVersion::Current).unwrap();
    let proxy = Proxy::start([SocketAddr::from((Ipv4Addr::LOCALHOST, nats.port()))]).unwrap();
    let (asking, health) = on(nats.port()).await;
    let (answering, _) = on(proxy.port()).await;
    let mut asked = answering.subscribe("q", None).await.unwrap();
    proxy.cut();
    nats.kill();
    soon(health.disconnected()).await;
    nats.start_again().unwrap();
    soon(health.connected()).await;
    let answer = async {
        proxy.open();
        let reply = soon(asked.next()).await.unwrap().reply.unwrap();
        answering.publish(&reply, Bytes::from("here")).unwrap();
    };
    let hour = Duration::from_secs(3600);
    let (answered, ()) = tokio::join!(soon(asking.request("q", Bytes::new(), hour)), answer);
    assert_eq!(answered.unwrap(), "here");
}

/// A subscription that is asked for while the server is away is there once it is back, or the caller is told.
#[tokio::test]
async fn subscribing_waits_for_a_short_restart_only() {
    let mut nats = Nats::start(NatsVersion::Current).unwrap();
    let (bus, health) = on(nats.port()).await;
    nats.kill();
    soon(health.disconnected()).await;
    assert!(is_unavailable(&soon(bus.subscribe("s", None)).await));
    let mut ear = {
        let mut subscribing = bus.subscribe("s", None);
        let short = tokio::time::timeout(Duration::from_millis(100), &mut subscribing);
        assert!(short.await.is_err());
        nats.start_again().unwrap();
        soon(subscribing).await.unwrap()
    };
    bus.publish("s", Bytes::from("x")).unwrap();
    assert_eq!(soon(ear.next()).await.unwrap().payload, "x");
}

/// While a route is lost and nobody knows it yet, only so much waits; what does goes out when it is back.
#[tokio::test]
async fn what_waits_to_be_sent_is_bounded_in_bytes() {
    let nats = Nats::start(NatsVersion::Current).unwrap();
    let proxy = Proxy::start([([127, 0, 0, 1], nats.port()).into()]).unwrap();
    let (bus, _) = on(proxy.port()).await;
    let (ear, _) = on(nats.port()).await;
    let mut ear = ear.subscribe("s", None).await.unwrap();
    let payload = Bytes::from(vec![0; MIB]);
    let taken = (0..1000)
        .take_while(|_| bus.publish("s", payload.clone()).is_ok())
        .count();
    assert_eq!(taken, 64);
    assert!(is_unavailable(&bus.publish("s", Bytes::from("x"))));
    for _ in 0..taken {
        assert_eq!(soon(ear.next()).await.unwrap().payload.len(), MIB);
    }
    let again = (0..1000)
        .take_while(|_| bus.publish("s", payload.clone()).is_ok())
        .count();
    assert_eq!(again, 64, "what is sent makes room");
    // And a route that stays lost is known in the end.
    proxy.stall();
    soon(async {
        while bus.publish("s", Bytes::new()).is_ok() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    proxy.open();
    heard(&bus, "s", &mut *ear, "again").await;
}

/// A subscriber that does not keep up holds bounded memory, however large the messages are.
#[tokio::test]
async fn what_waits_for_a_subscriber_is_bounded_in_bytes() {
    let nats = Nats::start(NatsVersion::Current).unwrap();
    let (bus, _) = on(nats.port()).await;
    let mut lazy = bus.subscribe("s.*", None).await.unwrap();
    let mut quick = bus.subscribe("s.>", None).await.unwrap();
    for n in 0..100_u8 {
        soon(async {
            while bus.publish("s.x", Bytes::from(vec![n; MIB])).is_err() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        })
        .await;
        assert_eq!(soon(quick.next()).await.unwrap().payload[0], n);
    }
    // Messages may still be on their way between the two buffers.
    let full = async {
        let mut heard = Vec::new();
        loop {
            let next = soon(lazy.next()).await.unwrap().payload;
            if next == "end" {
                return heard;
            }
            heard.push(next[0]);
        }
    };
    let knock = async {
        loop {
            tokio::time::sleep(Duration::from_millis(100)).await;
            bus.publish("s.x", Bytes::from("end")).unwrap();
        }
    };
    let heard = tokio::select! {
        heard = full => heard,
        never = knock => never,
    };
    assert!((64..100).contains(&heard.len()), "{}", heard.len());
    assert!(heard[..64].iter().copied().eq(0..64), "the oldest are kept");
}

/// Names and payloads the server would answer by closing the connection never reach it.
#[tokio::test]
async fn what_the_server_would_not_take_is_refused_here() {
    for version in NatsVersion::ALL {
        let nats = Nats::start(version).unwrap();
        let (bus, health) = on(nats.port()).await;
        let long = "x".repeat(4096);
        let minute = Duration::from_secs(60);
        assert!(is_too_large(&bus.publish(&long, Bytes::new())));
        assert!(is_too_large(
            &soon(bus.request(&long, Bytes::new(), minute)).await
        ));
        assert!(is_too_large(&soon(bus.subscribe(&long, None)).await));
        for bad in ["", "a b", "a\r\nPING", "a\tb"] {
            assert!(is_unavailable(&bus.publish(bad, Bytes::new())), "{bad}");
            assert!(
                is_unavailable(&soon(bus.request(bad, Bytes::new(), minute)).await),
                "{bad}"
            );
            assert!(is_unavailable(&soon(bus.subscribe(bad, None)).await), "{bad}");
        }
        assert!(is_unavailable(&soon(bus.subscribe("s", Some("a b"))).await));
        let large = Bytes::from(vec![0; 17 * MIB]);
        assert!(is_too_large(&bus.publish("s", large.clone())));
        assert!(is_too_large(&soon(bus.request("s", large, minute)).await));
        let longest = "x".repeat(3584);
        let mut ear = soon(bus.subscribe(&longest, None)).await.unwrap();
        let ask = bus.request(&longest, Bytes::from("?"), minute);
        let answer = async {
            let question = soon(ear.next()).await.unwrap();
            bus.publish(&question.reply.unwrap(), Bytes::from("!")).unwrap();
        };
        assert_eq!(tokio::join!(soon(ask), answer).0.unwrap(), "!");
        assert_eq!(health.counts().disconnects, 0);
        assert_eq!(health.counts().server_errors, 0);
    }
}
