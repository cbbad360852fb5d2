//! What presence on Redis costs: a measurement, not a test.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use model::{GatewayId, Namespace, RoomName};
use registry::presence_store::{Batch, Delta, Outcome, PageRequest, PresenceStore};
use servers::Redis;

use super::{GRACE, crowd, replica};

fn memory(server: &Redis) -> u64 {
    let info = server.command("INFO memory").unwrap();
    let line = info.lines().find_map(|line| line.strip_prefix("used_memory:"));
    line.unwrap().trim().parse().unwrap()
}

/// The slowest scripts that the server has seen since, in milliseconds.
fn slowest(server: &Redis) -> u64 {
    let info = server.command("SLOWLOG GET 1000").unwrap();
    server.command("SLOWLOG RESET").unwrap();
    let lines: Vec<_> = info.lines().collect();
    // Each entry: id, time, microseconds, arguments.
    let mut most = 0;
    for at in 0..lines.len() {
        if lines[at].starts_with("*6") {
            most = most.max(lines[at + 3][1..].trim().parse::<u64>().unwrap());
        }
    }
    most / 1000
}

#[tokio::test]
#[ignore = "a measurement: cargo test -p registry --test redis_presence -- --ignored --nocapture"]
async fn costs() {
    let server = Redis::start_with(&["--slowlog-log-slower-than", "1000"]).unwrap();
    let store = replica(&server).await;
    let gateway = |n: usize| GatewayId::new(&format!("gw{n:04}")).unwrap();
    let now = 1_000_000;
    let empty = memory(&server);
    for (n, sockets) in [(1, 10_000), (2, 100_000)] {
        let deltas = crowd(n, sockets, 3);
        let before = memory(&server);
        let begun = Instant::now();
        let batch = Batch {
            gateway: gateway(n),
            number: 1,
            snapshot: true,
            deltas,
        };
        store.apply(batch.clone(), now, GRACE).await.unwrap();
        println!(
            "snapshot of {sockets} sockets, 3 rooms each, new: {:?}, longest script {} ms, {} bytes a socket",
            begun.elapsed(),
            slowest(&server),
            (memory(&server) - before) / sockets as u64
        );
        let begun = Instant::now();
        store.apply(batch, now, GRACE).await.unwrap();
        println!(
            "  again: {:?}, longest script {} ms",
            begun.elapsed(),
            slowest(&server)
        );
    }
    println!("in all {} MB", (memory(&server) - empty) / 1_000_000);
    let expired = {
        store.touch(&gateway(2), now + 50_000).await.unwrap();
        let batch = Batch {
            gateway: gateway(3),
            number: 1,
            snapshot: true,
            deltas: crowd(3, 20_000, 3),
        };
        store.apply(batch, now + 10_000, GRACE).await.unwrap();
        slowest(&server);
        let begun = Instant::now();
        let expired = store
            .expire(now + 20_000, Duration::from_secs(8), GRACE)
            .await
            .unwrap();
        println!(
            "dead gateways: {:?}, longest script {} ms",
            begun.elapsed(),
            slowest(&server)
        );
        expired
    };
    for dead in expired {
        println!(
            "  {} {} sockets {} transitions",
            dead.gateway,
            dead.sockets,
            dead.transitions.len()
        );
    }
    let begun = Instant::now();
    let mut n = 0;
    loop {
        let some = store.due(now + 60_000, 256).await.unwrap();
        if some.is_empty() {
            break;
        }
        n += some.len();
    }
    println!(
        "{n} graces ended by 256: {:?}, longest script {} ms",
        begun.elapsed(),
        slowest(&server)
    );
    let before = memory(&server);
    let batch = Batch {
        gateway: gateway(4),
        number: 1,
        snapshot: true,
        deltas: crowd(4, 1000, 0),
    };
    store.apply(batch, now, GRACE).await.unwrap();
    println!(
        "a user without rooms: {} bytes",
        (memory(&server) - before) / 1000
    );
    let before = memory(&server);
    let mut deltas = Vec::new();
    for delta in crowd(4, 1000, 0) {
        let Delta::Connected(socket) = delta else { continue };
        for n in 0..10 {
            let name = format!("room-of-{}-{n}", socket.user);
            deltas.push(Delta::Joined(socket.key.clone(), RoomName::stored(&name)));
        }
    }
    store
        .apply(
            Batch {
                gateway: gateway(4),
                number: 2,
                snapshot: false,
                deltas,
            },
            now,
            GRACE,
        )
        .await
        .unwrap();
    println!(
        "a room with one member: {} bytes",
        (memory(&server) - before) / 10_000
    );
    slowest(&server);
    let begun = Instant::now();
    let deltas = crowd(5, 1024, 3);
    let batch = Batch {
        gateway: gateway(5),
        number: 1,
        snapshot: false,
        deltas,
    };
    store.apply(batch, now, GRACE).await.unwrap();
    println!(
        "plain batch of 4096 deltas: {:?}, longest script {} ms",
        begun.elapsed(),
        slowest(&server)
    );
    for width in [1, 16, 256] {
        // 8 gateways at once, each with one batch under way; a join and a leave of the same socket, in turn.
        let begun = Instant::now();
        let mut set = tokio::task::JoinSet::new();
        for g in 0..8usize {
            let store = Arc::clone(&store);
            set.spawn(async move {
                let id = GatewayId::new(&format!("b{g}{width:04}")).unwrap();
                let sockets: Vec<_> = crowd(100 + g, 256, 0);
                let keys: Vec<_> = sockets
                    .iter()
                    .filter_map(|d| match d {
                        Delta::Connected(s) => Some(s.key.clone()),
                        _ => None,
                    })
                    .collect();
                store
                    .apply(
                        Batch {
                            gateway: id.clone(),
                            number: 1,
                            snapshot: false,
                            deltas: sockets,
                        },
                        now,
                        GRACE,
                    )
                    .await
                    .unwrap();
                let mut batches = 0u64;
                let until = Instant::now() + Duration::from_secs(3);
                while Instant::now() < until {
                    batches += 1;
                    let deltas = (0..width)
                        .map(|n| {
                            let room = RoomName::stored(&format!("room-{}", n % 20));
                            if batches % 2 == 1 {
                                Delta::Joined(keys[n].clone(), room)
                            } else {
                                Delta::Left(keys[n].clone(), room)
                            }
                        })
                        .collect();
                    let outcome = store
                        .apply(
                            Batch {
                                gateway: id.clone(),
                                number: batches + 1,
                                snapshot: false,
                                deltas,
                            },
                            now,
                            GRACE,
                        )
                        .await
                        .unwrap();
                    assert!(matches!(outcome, Outcome::Applied(_)));
                }
                batches
            });
        }
        let batches: u64 = set.join_all().await.into_iter().sum();
        let rate = batches as f64 / begun.elapsed().as_secs_f64();
        println!(
            "{width} deltas a batch: {rate:.0} batches/s, {:.0} deltas/s, longest script {} ms",
            rate * width as f64,
            slowest(&server)
        );
    }
    let chat = Namespace::new("/chat").unwrap();
    for limit in [50, 1000] {
        let begun = Instant::now();
        let (mut after, mut pages) = (None, 0);
        loop {
            let page = store
                .online_users(&chat, PageRequest { after, limit })
                .await
                .unwrap();
            pages += 1;
            after = page.next;
            if after.is_none() || pages == 1000 {
                break;
            }
        }
        println!(
            "{pages} pages of {limit}: {:?} each, longest script {} ms",
            begun.elapsed() / pages,
            slowest(&server)
        );
    }
    println!("in the end {} MB", memory(&server) / 1_000_000);
}
