//! An event crosses the wire to the gateways that have members of its room, and to no other.

use anyhow::{Result, ensure};
use tests::{Client, Cluster, Instance, Size};

use crate::runtime;

const MESSAGES: usize = 50;

/// Events that a gateway gave to members.
fn received(gateway: &Instance) -> Result<f64> {
    gateway.metric(
        "socket_messages_total",
        "event=\"message\",direction=\"outbound\"",
    )
}

#[test]
fn only_the_gateway_with_members_gets_an_event() -> Result<()> {
    let size = Size {
        gateways: 4,
        ..Size::default()
    };
    Cluster::run(size, &[], |cluster| {
        // While partitions change hands a gateway may read an event from the log instead.
        cluster.until_settled()?;
        let gateways = cluster.addresses()?;
        let sent = || cluster.metric("fanfare_deliveries_total", "");
        let runtime = runtime()?;
        let mut keep = Vec::new();
        for with_members in 0..gateways.len() {
            let room = format!("room-{with_members}");
            let events_before = sent()?;
            let before: Vec<f64> = cluster.gateways.iter().map(received).collect::<Result<_>>()?;
            let member = runtime.block_on(async {
                let member = Client::connect(gateways[with_members]).await?;
                member.join(&room).await?;
                for (number, gateway) in gateways.iter().enumerate() {
                    let publisher = Client::connect(*gateway).await?;
                    for count in 0..MESSAGES {
                        let content = format!("publisher-{number}:{count}");
                        publisher
                            .publish(&room, &content, &format!("{number}-{count}"))
                            .await?;
                    }
                    let last = format!("publisher-{number}:{}", MESSAGES - 1);
                    member
                        .message("the last", |message| message.content == last)
                        .await?;
                }
                anyhow::Ok(member)
            })?;
            let all = (MESSAGES * gateways.len()) as f64;
            for (number, gateway) in cluster.gateways.iter().enumerate() {
                let expected = if number == with_members { all } else { 0.0 };
                let got = received(gateway)? - before[number];
                ensure!(
                    got == expected,
                    "gateway {number} delivered {got}, not {expected}"
                );
            }
            // What the streams took, one an event and gateway.
            let took = sent()? - events_before;
            ensure!(took == all, "the streams took {took} events, not {all}");
            keep.push(member);
        }
        Ok(())
    })
}
