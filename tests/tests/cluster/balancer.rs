//! A load balancer that knows of no stickiness: any gateway takes any request.

use anyhow::{Result, ensure};
use tests::{CONTROL, Client, Cluster, END, Language, Ledger, RoundRobin, Size, StockMembers, StockPlan};

use crate::runtime;

#[test]
fn polling_and_upgrading_clients_need_no_stickiness() -> Result<()> {
    Cluster::run(Size::default(), &[], |cluster| {
        let gateways = cluster.addresses()?;
        let balancer = RoundRobin::start(gateways.clone())?;
        let rooms: Vec<String> = (0..4).map(|number| format!("room-{number}")).collect();
        let plan = StockPlan {
            name: "node",
            clients: 40,
            transports: "polling,upgrade",
            rooms: &rooms,
            messages: 8,
        };
        let members = StockMembers::join(Language::Node, std::slice::from_ref(&balancer.url), plan)?;
        let mut books = Ledger::default();
        let runtime = runtime()?;
        let outside = runtime.block_on(async {
            let outside = Client::connect(gateways[0]).await?;
            outside.publish(CONTROL, "start", "start").await?;
            anyhow::Ok(outside)
        })?;
        members.published()?;
        for room in &rooms {
            let published = runtime.block_on(outside.publish(room, END, room))?;
            books.acknowledged(room, END, &published);
        }
        members.finish(&mut books)?;
        books.check().ensure_clean("without stickiness")?;
        let (requests, failures) = balancer.requests();
        ensure!(
            failures == 0,
            "{failures} of {requests} requests were not answered"
        );
        for (kind, least) in [("polling", 100.0), ("upgrade", 5.0)] {
            let label = format!("kind=\"{kind}\",result=\"ok\"");
            let forwarded = cluster.metric("fanfare_forwards_total", &label)?;
            eprintln!("{kind}: {forwarded} forwards");
            ensure!(forwarded >= least, "only {forwarded} forwards of {kind}");
        }
        Ok(())
    })
}
