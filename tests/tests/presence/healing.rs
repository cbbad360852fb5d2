//! After Redis has lost everything presence is right again, and no room has heard a word of it.

use std::{sync::atomic::Ordering, time::Duration};

use anyhow::{Result, ensure};
use tests::{Cluster, until};
use tokio::task::JoinSet;

use crate::{
    SIZE,
    light::{Member, listen},
    runtime,
};

const MEMBERS: u32 = 40;
const ROOM: &str = "room";

#[test]
fn a_flush_is_not_heard_of() -> Result<()> {
    Cluster::run(SIZE, &[], |cluster| {
        cluster.until_settled()?;
        let gateways = cluster.addresses()?;
        let runtime = runtime()?;
        let mut listening = JoinSet::new();
        let heard = runtime.block_on(async {
            let mut heard = Vec::new();
            for number in 0..MEMBERS {
                let mut member = Member::connect(gateways[number as usize % gateways.len()]).await?;
                member.ask("join-room", ROOM).await?;
                heard.push(listen(member, &mut listening));
            }
            anyhow::Ok(heard)
        })?;
        let counts = || {
            heard
                .iter()
                .map(|heard| heard.load(Ordering::Relaxed))
                .collect::<Vec<_>>()
        };
        // Each has heard of those who joined after it, joining and coming online.
        until("all joins are heard of", Duration::from_secs(15), || {
            let mut behind = (0..MEMBERS).rev().zip(counts());
            Ok(behind.all(|(later, heard)| heard >= 2 * later))
        })?;
        runtime.block_on(async { tokio::time::sleep(Duration::from_secs(1)).await });
        let before = counts();
        cluster.redis.command("FLUSHALL")?;
        until(
            "all gateways have told everything again",
            Duration::from_secs(15),
            || {
                let healed = cluster.logs_with("the store has lost what this gateway had told");
                Ok(healed.lines().count() == cluster.gateways.len())
            },
        )?;
        until("presence counts users", Duration::from_secs(15), || {
            let replicas = u32::try_from(cluster.presence.len())?;
            Ok(cluster.metric("socket_active_users", "")? == f64::from(MEMBERS * replicas))
        })?;
        runtime.block_on(async {
            // What would be told is told by now: the grace of 2 s is over.
            tokio::time::sleep(Duration::from_secs(3)).await;
            ensure!(counts() == before, "{:?}, not {before:?}", counts());
            // And what happens from here on is.
            let mut late = Member::connect(gateways[0]).await?;
            late.ask("join-room", ROOM).await?;
            for _ in 0..500 {
                if counts()
                    .iter()
                    .zip(&before)
                    .all(|(now, before)| *now == before + 2)
                {
                    return Ok(());
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            anyhow::bail!("of a late joiner was heard {:?}, before {before:?}", counts())
        })
    })
}
