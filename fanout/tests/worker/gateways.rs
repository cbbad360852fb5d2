//! Gateways that come, go and are away for a while.

use std::{sync::atomic::Ordering, time::Duration};

use tokio::time::sleep;

use crate::stage::{Stage, numbers, room};

#[tokio::test(start_paused = true)]
async fn a_gateway_heard_of_after_its_interest_misses_nothing() {
    let stage = Stage::new();
    let _worker = stage.worker("w").await;
    let mut gateway = stage.gateway("g").await;
    gateway.be_silent();
    sleep(Duration::from_secs(10)).await;
    gateway.begin(room(1)).await;
    stage.publish_each(room(1), 0..10).await;
    sleep(Duration::from_secs(10)).await;
    stage.publish_each(room(1), 10..12).await;
    gateway.beat();
    assert_eq!(gateway.events(12).await, numbers(0..12));
}

#[tokio::test(start_paused = true)]
async fn a_gateway_that_cannot_be_reached_at_first_is_tried_again() {
    let stage = Stage::new();
    let _worker = stage.worker("w").await;
    let mut gateway = stage.gateway("g").await;
    gateway.be_silent();
    sleep(Duration::from_secs(10)).await;
    stage.links.remove("g");
    gateway.beat();
    gateway.begin(room(1)).await;
    stage.publish_each(room(1), 0..10).await;
    sleep(Duration::from_secs(2)).await;
    gateway.reconnect(&stage);
    assert_eq!(gateway.events(10).await, numbers(0..10));
}

/// A machine that is busy or suspended for a while: silent, but its interest stands.
#[tokio::test(start_paused = true)]
async fn a_gateway_that_was_silent_goes_on() {
    let stage = Stage::new();
    let worker = stage.worker("w").await;
    let mut gateway = stage.gateway("g").await;
    gateway.begin(room(1)).await;
    stage.publish_each(room(1), 0..3).await;
    assert_eq!(gateway.events(3).await, numbers(0..3));
    gateway.be_silent();
    sleep(Duration::from_secs(60)).await;
    stage.publish_each(room(1), 3..6).await;
    assert_eq!(gateway.rest().await.len(), 3, "nothing is sent to who is silent");
    assert_eq!(worker.metric("fanfare_interest_rooms"), 1.0);
    gateway.beat();
    assert_eq!(gateway.events(6).await, numbers(0..6));
    assert_eq!(gateway.gaps, 1);
}

#[tokio::test(start_paused = true)]
async fn interest_ends_with_its_gateway() {
    let stage = Stage::new();
    let worker = stage.worker("w").await;
    let mut silent = stage.gateway("silent").await;
    let mut leaving = stage.gateway("leaving").await;
    for n in 0..8 {
        silent.begin(room(n)).await;
        leaving.begin(room(n + 8)).await;
    }
    sleep(Duration::from_secs(2)).await;
    assert_eq!(worker.metric("fanfare_interest_rooms"), 16.0);
    leaving.leave();
    sleep(Duration::from_secs(1)).await;
    assert_eq!(worker.metric("fanfare_interest_rooms"), 8.0);
    silent.be_silent();
    sleep(Duration::from_secs(130)).await;
    assert_eq!(worker.metric("fanfare_interest_rooms"), 0.0);
}

/// What was queued on a link that broke is read from the log.
#[tokio::test(start_paused = true)]
async fn a_new_link_begins_with_the_gap_of_the_old_one() {
    let stage = Stage::new();
    let _worker = stage.worker("w").await;
    let mut gateway = stage.gateway("g").await;
    gateway.begin(room(1)).await;
    stage.publish_each(room(1), 0..3).await;
    assert_eq!(gateway.events(3).await, numbers(0..3));
    stage.publish_each(room(1), 3..6).await;
    gateway.reconnect(&stage);
    // The first that is sent finds the link closed; then the room falls silent.
    stage.publish_each(room(1), 6..7).await;
    assert_eq!(gateway.events(7).await, numbers(0..7));
    assert_eq!(gateway.gaps, 1);
}

/// Silent for so long that its interest ended; then it goes on as if nothing had been.
#[tokio::test(start_paused = true)]
async fn a_gateway_that_was_taken_for_gone_states_its_rooms_and_misses_nothing() {
    let stage = Stage::new();
    let worker = stage.worker("w").await;
    let mut gateway = stage.gateway("g").await;
    gateway.begin(room(1)).await;
    gateway.begin(room(2)).await;
    stage.publish_each(room(1), 0..3).await;
    assert_eq!(gateway.events(3).await, numbers(0..3));
    let statements = gateway.statements.load(Ordering::Relaxed);
    gateway.be_silent();
    sleep(Duration::from_secs(130)).await;
    assert_eq!(worker.metric("fanfare_interest_rooms"), 0.0);
    // A new room while it is not heard: what is said of it alone does not make the table whole.
    gateway.begin(room(3)).await;
    stage.publish_each(room(1), 3..6).await;
    gateway.beat();
    assert_eq!(gateway.events(6).await, numbers(0..6));
    assert!(gateway.statements.load(Ordering::Relaxed) > statements);
    sleep(Duration::from_secs(1)).await;
    assert_eq!(worker.metric("fanfare_interest_rooms"), 3.0);
    stage.publish_each(room(1), 6..9).await;
    assert_eq!(gateway.events(9).await, numbers(0..9));
}
