//! Who gets what, in which order.

use std::{sync::Arc, time::Duration};

use bus::{
    EventLog, LogSubject, NewEntry,
    fault::{Faults, FaultyLog},
};
use delivery::{Arrival, local::LinkLimits};

use crate::stage::{Stage, numbers, partition, room, settle};

#[tokio::test(start_paused = true)]
async fn only_gateways_with_interest_get_an_event() {
    let stage = Stage::new();
    let _worker = stage.worker("w").await;
    let mut gateways = Vec::new();
    for n in 0..4 {
        gateways.push(stage.gateway(&format!("g-{n}")).await);
    }
    gateways[2].begin(room(1)).await;
    for (n, gateway) in gateways.iter_mut().enumerate() {
        // Another room of the same partition and one of another partition.
        gateway.begin(room(1 + 4 * (n as u8 + 1))).await;
        gateway.begin(room(2)).await;
    }
    for n in 0..100 {
        stage.publish(room(1), &n.to_string()).await;
    }
    stage.publish(room(2), "all").await;
    let mut all = gateways[2].events(101).await.to_vec();
    all.retain(|event| event != "all");
    assert_eq!(all, numbers(0..100));
    for n in [0, 1, 3] {
        assert_eq!(gateways[n].rest().await, ["all"]);
        assert_eq!(gateways[n].gaps, 0);
    }
}

#[tokio::test(start_paused = true)]
async fn interest_begins_and_ends_where_it_stands_in_the_log() {
    let stage = Stage::new();
    let _worker = stage.worker("w").await;
    let mut watcher = stage.gateway("watcher").await;
    let mut guest = stage.gateway("guest").await;
    watcher.begin(room(1)).await;
    stage.publish(room(1), "before").await;
    guest.begin(room(1)).await;
    stage.publish(room(1), "with").await;
    stage.publish(room(1), "with too").await;
    guest.end(room(1)).await;
    stage.publish(room(1), "without").await;
    guest.begin(room(1)).await;
    stage.publish(room(1), "again").await;
    assert_eq!(
        watcher.events(5).await,
        ["before", "with", "with too", "without", "again"]
    );
    assert_eq!(guest.events(3).await, ["with", "with too", "again"]);
    assert_eq!(guest.rest().await.len(), 3);
    assert_eq!((watcher.gaps, guest.gaps), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn what_is_there_goes_out_together_and_at_once() {
    let stage = Stage::new();
    let worker = stage.worker("w").await;
    let mut gateway = stage.gateway("g").await;
    gateway.begin(room(1)).await;
    // The heartbeat has made the link by now.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let before = (
        worker.metric("fanfare_delivery_batches_total"),
        tokio::time::Instant::now(),
    );
    for n in 0..500 {
        stage.publish(room(1), &n.to_string()).await;
    }
    assert_eq!(gateway.events(500).await, numbers(0..500));
    assert_eq!(before.1.elapsed(), Duration::ZERO, "no timer on the way");
    assert_eq!(worker.metric("fanfare_delivery_batches_total") - before.0, 1.0);
    assert_eq!(worker.metric("fanfare_deliveries_total"), 500.0);
}

#[tokio::test(start_paused = true)]
async fn a_slow_gateway_sees_its_gap_and_delays_nobody() {
    let stage = Stage::new();
    let worker = stage.worker("w").await;
    let limits = LinkLimits {
        batches: 4,
        ..LinkLimits::default()
    };
    let mut slow = stage.gateway_with("slow", limits).await;
    let mut quick = stage.gateway("quick").await;
    slow.begin(room(1)).await;
    quick.begin(room(1)).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let begun = tokio::time::Instant::now();
    stage.publish_each(room(1), 0..100).await;
    assert_eq!(quick.events(100).await, numbers(0..100));
    assert_eq!(begun.elapsed(), Duration::ZERO, "nobody waits for the slow one");
    assert_eq!(quick.gaps, 0);
    assert!(worker.metric("fanfare_deliveries_refused_total") >= 90.0);
    // The room has fallen silent; the gateway is told of its gap all the same.
    assert_eq!(slow.events(100).await, numbers(0..100));
    assert_eq!(slow.gaps, 1);
    // And goes on like the others.
    stage.publish_each(room(1), 100..103).await;
    assert_eq!(slow.events(103).await, numbers(0..103));
    assert_eq!(slow.gaps, 1);
}

#[tokio::test(start_paused = true)]
async fn volatile_events_go_where_there_is_interest() {
    let stage = Stage::new();
    let _worker = stage.worker("w").await;
    let mut one = stage.gateway("one").await;
    let mut other = stage.gateway("other").await;
    one.begin(room(1)).await;
    other.begin(room(5)).await;
    assert_eq!(partition(room(1)), partition(room(5)));
    tokio::time::sleep(Duration::from_secs(2)).await;
    for n in 0..3 {
        stage.signal(room(1), &n.to_string());
    }
    stage.signal(room(9), "nobody's");
    one.rest().await;
    other.rest().await;
    assert_eq!(one.volatile, numbers(0..3));
    assert_eq!(other.volatile, [""; 0]);
}

/// Neither does a busy log keep volatile events waiting.
#[tokio::test(start_paused = true)]
async fn a_busy_log_does_not_starve_volatile_events() {
    let stage = Stage::new();
    let _worker = stage.worker("w").await;
    let mut gateway = stage.gateway("g").await;
    gateway.begin(room(1)).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    for n in 0..50_000 {
        stage.publish(room(1), &n.to_string()).await;
    }
    stage.signal(room(1), "now");
    let mut before = 0;
    loop {
        for arrival in gateway.arrivals().await {
            match arrival {
                Arrival::Batch(batch) => before += batch.deliveries.len(),
                Arrival::Signal(_) => {
                    assert!(before < 50_000, "after {before} events");
                    return;
                }
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_log_that_breaks_off_loses_nothing() {
    let stage = Stage::new();
    for seed in 0..5 {
        let faults = Faults {
            broken_tail: 0.2,
            refused_read: 0.2,
            delay: Duration::from_millis(20),
            ..Faults::default()
        };
        let log = Arc::new(FaultyLog::new(Arc::clone(&stage.log), faults, seed));
        let worker = stage.worker_reading(&format!("w-{seed}"), log).await;
        let mut gateway = stage.gateway(&format!("g-{seed}")).await;
        gateway.begin(room(1)).await;
        for n in 0..200 {
            stage.publish(room(1), &n.to_string()).await;
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(gateway.events(200).await, numbers(0..200));
        worker.stop().await;
    }
}

/// A publisher that does not know the outcome tries again under the same key.
#[tokio::test(start_paused = true)]
async fn what_is_tried_again_is_delivered_once() {
    let stage = Stage::new();
    let _worker = stage.worker("w").await;
    let mut gateway = stage.gateway("g").await;
    gateway.begin(room(1)).await;
    let faults = Faults {
        refused_append: 0.3,
        unknown_append: 0.3,
        ..Faults::default()
    };
    let log = FaultyLog::new(Arc::clone(&stage.log), faults, 7);
    for n in 0..200 {
        let entry = NewEntry {
            subject: LogSubject::Room(room(1)),
            payload: n.to_string().into(),
            dedup: Some(n.to_string()),
            trace: None,
        };
        while log.append(partition(room(1)), entry.clone()).await.is_err() {}
        settle().await;
    }
    assert_eq!(gateway.events(200).await, numbers(0..200));
    assert_eq!(gateway.rest().await.len(), 200);
}
