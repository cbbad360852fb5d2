//! A join that was acknowledged sees every later event; history has neither gap nor overlap with what follows (G4).

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use futures_util::future::try_join_all;
use serde_json::json;
use tests::{Client, Cluster, Size, offset};

use crate::runtime;

const PAIRS: usize = 40;
const ROUNDS: usize = 250;

/// 10,000 times: one joins a new room on one gateway while another publishes to it on another gateway, then publishes
/// again as soon as the join is acknowledged.
#[test]
fn a_join_never_misses_a_later_event() -> Result<()> {
    let settings = [("FANFARE_GATEWAY__INTEREST_LINGER_SECONDS", "1")];
    Cluster::run(Size::default(), &settings, |cluster| {
        let gateways = cluster.addresses()?;
        let seen_early: usize = runtime()?
            .block_on(try_join_all((0..PAIRS).map(|pair| {
                let joiner = gateways[pair % gateways.len()];
                let other = gateways[(pair + 1) % gateways.len()];
                join_and_publish(pair, joiner, other)
            })))?
            .iter()
            .sum();
        let rounds = PAIRS * ROUNDS;
        eprintln!(
            "{rounds} joins: none missed a later event; {seen_early} saw the one sent at the same moment"
        );
        Ok(())
    })
}

/// How many joins came before the message sent at the same moment.
async fn join_and_publish(pair: usize, gateway: SocketAddr, other: SocketAddr) -> Result<usize> {
    let (joiner, publisher) = (Client::connect(gateway).await?, Client::connect(other).await?);
    let mut seen_early = 0;
    for round in 0..ROUNDS {
        let room = format!("room-{pair}-{round}");
        let (joined, early) = tokio::try_join!(joiner.join(&room), async {
            publisher.publish(&room, "early", &format!("{room}-early")).await
        })?;
        let late = publisher.publish(&room, "late", &format!("{room}-late")).await?;
        let position = offset(joined["offset"].as_str().context("an ack without offset")?)?;
        ensure!(late.offset > position, "{room}: {late:?} is behind {joined}");
        joiner
            .message(&format!("{room}, joined at {joined}, sent {late:?}"), |message| {
                message.id == late.id
            })
            .await?;
        let seen: Vec<String> = joiner
            .take_messages()
            .into_iter()
            .map(|message| message.content)
            .collect();
        let expected: &[&str] = if early.offset > position {
            &["early", "late"]
        } else {
            &["late"]
        };
        ensure!(
            seen == expected,
            "{room}: joined at {position:?}, {early:?}: {seen:?}"
        );
        seen_early += usize::from(seen.len() == 2);
        joiner.leave(&room).await?;
    }
    Ok(seen_early)
}

/// Joins with history on two gateways while others publish on a third.
#[test]
fn history_and_what_follows_a_join_are_one_run_of_the_order() -> Result<()> {
    Cluster::run(Size::default(), &[], |cluster| {
        let gateways = cluster.addresses()?;
        runtime()?.block_on(async {
            let witness = Client::connect(gateways[1]).await?;
            witness.join("room").await?;
            let done = AtomicBool::new(false);
            let publisher = Client::connect(gateways[2]).await?;
            let publish = async {
                let mut number = 0;
                // Long enough for all joins; the room's history stays within its limit of messages.
                while !done.load(Ordering::Relaxed) {
                    publisher
                        .publish("room", &format!("p:{number}"), &number.to_string())
                        .await?;
                    number += 1;
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                anyhow::Ok(number)
            };
            let join = async {
                let joiners = (0..12).map(|number| join_and_leave(gateways[number % 2]));
                let runs = try_join_all(joiners).await;
                done.store(true, Ordering::Relaxed);
                runs
            };
            let (count, runs) = tokio::try_join!(publish, join)?;
            let last = format!("p:{}", count - 1);
            witness
                .message("the last", |message| message.content == last)
                .await?;
            let order = witness.take_messages();
            ensure!(order.len() == count, "the witness saw {} of {count}", order.len());
            let place: HashMap<_, _> = order.iter().map(|message| &message.id).zip(0..).collect();
            let mut checked = 0;
            for run in runs.iter().flatten() {
                let places: Option<Vec<usize>> = run.iter().map(|id| place.get(id).copied()).collect();
                let places = places.context("a message that the room did not see")?;
                ensure!(
                    places.windows(2).all(|pair| pair[1] == pair[0] + 1),
                    "a gap or an overlap: {places:?}"
                );
                checked += usize::from(!places.is_empty());
            }
            ensure!(checked > 200, "only {checked} joins saw messages");
            eprintln!("{checked} joins with history, {count} messages: no gap, no overlap");
            Ok(())
        })
    })
}

/// Of each join the ids of its history and of what followed until the next leave.
async fn join_and_leave(gateway: SocketAddr) -> Result<Vec<Vec<String>>> {
    const ROUNDS: usize = 25;
    let client = Client::connect(gateway).await?;
    let mut runs = Vec::new();
    for round in 0..ROUNDS {
        let answer = client
            .ok("join-room", &json!({ "roomId": "room", "history": 20 }))
            .await?;
        let history = answer["messages"].as_array().context("no messages")?;
        let mut run: Vec<_> = history
            .iter()
            .filter_map(|message| message["id"].as_str().map(str::to_owned))
            .collect();
        // Leaves at different moments.
        tokio::time::sleep(Duration::from_millis(20 * (round as u64 % 4))).await;
        client.leave("room").await?;
        run.extend(client.take_messages().into_iter().map(|message| message.id));
        runs.push(run);
    }
    Ok(runs)
}
