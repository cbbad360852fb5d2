//! A room of many with many who join: each member hears a count, at most once a second, from all replicas together.

use std::{
    net::SocketAddr,
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use tests::Cluster;
use tokio::task::JoinSet;

use crate::{
    AT_ONCE, SIZE,
    light::{Member, listen},
    runtime, whole,
};

/// Joins a second, of all who come and go together.
const JOINS: u32 = 500;
/// How many come and go.
const HOPPERS: u32 = 100;
const ROOM: &str = "stadium";

#[test]
fn a_member_of_a_crowd_hears_one_word_a_second() -> Result<()> {
    let (members, time) = if whole() {
        (5_000, Duration::from_secs(20))
    } else {
        (1_500, Duration::from_secs(6))
    };
    let mut cluster = Cluster::start(SIZE, &[])?;
    let result = crowd(&mut cluster, members, time);
    result.map_err(|error| error.context(cluster.logs()))?;
    cluster.stop()
}

fn crowd(cluster: &mut Cluster, members: usize, time: Duration) -> Result<()> {
    cluster.until_settled()?;
    let gateways = cluster.addresses()?;
    let runtime = runtime()?;
    runtime.block_on(async {
        let mut listening = JoinSet::new();
        let mut heard = Vec::with_capacity(members);
        let mut joining = JoinSet::new();
        for number in 0..members {
            if joining.len() == AT_ONCE {
                let member = joining.join_next().await.context("some are joining")??;
                heard.push(listen(member?, &mut listening));
            }
            let gateway = gateways[number % gateways.len()];
            joining.spawn(async move {
                let mut member = Member::connect(gateway).await?;
                member.ask("join-room", ROOM).await?;
                anyhow::Ok(member)
            });
        }
        for member in joining.join_all().await {
            heard.push(listen(member?, &mut listening));
        }
        // What the last joins have brought about is told.
        tokio::time::sleep(Duration::from_secs(2)).await;
        for heard in &heard {
            heard.swap(0, Ordering::Relaxed);
        }
        let begun = Instant::now();
        let hoppers: JoinSet<_> = (0..HOPPERS)
            .map(|number| hop(gateways[number as usize % gateways.len()], time))
            .collect();
        let mut joins = 0;
        for hopper in hoppers.join_all().await {
            joins += hopper?;
        }
        let rate = f64::from(joins) / begun.elapsed().as_secs_f64();
        // The last count is told at most a second later.
        tokio::time::sleep(Duration::from_secs(2)).await;
        let seconds = begun.elapsed().as_secs();
        let counts: Vec<_> = heard.iter().map(|heard| heard.load(Ordering::Relaxed)).collect();
        let (least, most) = (counts.iter().min(), counts.iter().max());
        let (least, most) = least.zip(most).context("there are members")?;
        println!(
            "{members} members, {joins} joins ({rate:.0} a second): each has heard {least} to {most} words in {seconds} s"
        );
        ensure!(u64::from(*most) <= seconds + 1, "a member has heard {most} words in {seconds} s");
        ensure!(*least > 0, "a member has heard nothing");
        ensure!(listening.try_join_next().is_none(), "a member was closed");
        Ok(())
    })
}

/// Joins and leaves in turn; how often it has joined.
async fn hop(gateway: SocketAddr, time: Duration) -> Result<u32> {
    let mut hopper = Member::connect(gateway).await?;
    let end = Instant::now() + time;
    let mut turns = tokio::time::interval(Duration::from_secs(1) * HOPPERS / JOINS);
    let mut joins = 0;
    while Instant::now() < end {
        turns.tick().await;
        hopper.ask("join-room", ROOM).await?;
        hopper.ask("leave-room", ROOM).await?;
        joins += 1;
    }
    Ok(joins)
}
