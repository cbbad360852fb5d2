//! Users are counted over all gateways.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tests::{Client, Cluster, Size};

use crate::runtime;

#[test]
fn users_are_counted_over_all_gateways() -> Result<()> {
    let size = Size {
        presence: 2,
        ..Size::default()
    };
    Cluster::run(size, &[], |cluster| {
        cluster.until_settled()?;
        let gateways = cluster.addresses()?;
        runtime()?.block_on(async {
            let mut members = Vec::new();
            for number in 0..6 {
                let member = Client::connect(gateways[number % gateways.len()]).await?;
                let joined = member.join("room").await?;
                ensure!(joined["usersCount"] == number + 1, "member {number}: {joined}");
                for (at, other) in members.iter().enumerate() {
                    let other: &Client = other;
                    let heard = other.event("room-presence", counts("joined", number + 1)).await;
                    heard.with_context(|| format!("member {at} of member {number}"))?;
                }
                members.push(member);
            }
            for (number, member) in members.iter().enumerate() {
                let users = users(member).await?;
                ensure!(users.len() == 6, "member {number} sees {users:?}");
            }
            // One leaves, one hangs up.
            let leaving = members.pop().context("six members")?;
            leaving.leave("room").await?;
            for member in &members {
                member.event("room-presence", counts("left", 5)).await?;
                member.event("user-left", |_| true).await?;
            }
            drop(members.pop());
            for member in &members {
                member.event("room-presence", counts("left", 4)).await?;
                member.event("user-left", |_| true).await?;
            }
            let joined = leaving.join("room").await?;
            ensure!(joined["usersCount"] == 5, "{joined}");
            Ok(())
        })
    })
}

/// A gateway that dies takes its users with it, soon.
#[test]
fn users_of_a_dead_gateway_are_gone() -> Result<()> {
    Cluster::run(Size::default(), &[], |cluster| {
        cluster.until_settled()?;
        let gateways = cluster.addresses()?;
        let runtime = runtime()?;
        let members = runtime.block_on(async {
            let mut members = Vec::new();
            for gateway in &gateways {
                let member = Client::connect(*gateway).await?;
                member.join("room").await?;
                members.push(member);
            }
            anyhow::Ok(members)
        })?;
        drop(cluster.gateways.pop());
        runtime.block_on(async {
            for member in &members[..2] {
                member.event("room-presence", counts("left", 2)).await?;
                let users = users(member).await?;
                ensure!(users.len() == 2, "{users:?}");
            }
            Ok(())
        })
    })
}

fn counts(action: &'static str, users: usize) -> impl Fn(&Value) -> bool {
    move |event| event["action"] == action && event["usersCount"] == users
}

async fn users(client: &Client) -> Result<Vec<Value>> {
    let online = client.ok("getOnlineUsers", &json!({ "roomId": "room" })).await?;
    online["users"].as_array().cloned().context("no users")
}
