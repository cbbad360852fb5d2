//! One room: every member sees every message, once, in one order.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use tokio::{
    sync::{Barrier, Semaphore},
    task::JoinSet,
};

use crate::client;

/// A member for which nothing comes for so long gives up.
const PATIENCE: Duration = Duration::from_secs(60);

/// What to do in the room.
#[derive(Copy, Clone, Debug)]
pub struct Load {
    /// How many members.
    pub members: usize,
    /// How many of them publish.
    pub publishers: usize,
    /// How many messages in all.
    pub messages: usize,
    /// How many messages of one publisher may wait for their acknowledgement.
    pub in_flight: usize,
    /// Characters of a message.
    pub content: usize,
}

/// What was seen.
#[derive(Clone, Debug)]
pub struct Report {
    /// Messages acknowledged.
    pub messages: usize,
    /// Messages that some member did not see, summed over the members.
    pub lost: usize,
    /// Messages that a member saw again, summed over the members.
    pub repeated: usize,
    /// Members that saw another order than the first one.
    pub other_order: usize,
    /// From the first message to the last delivery.
    pub elapsed: Duration,
}

impl Report {
    /// Whether everything was seen once and in one order.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.lost == 0 && self.repeated == 0 && self.other_order == 0
    }
}

/// Joins `load.members` clients to one room, publishes, and waits until all have everything. `begun` is
/// called when all have joined.
///
/// # Errors
/// When the server refuses something, or a member waits in vain.
pub async fn run(addr: SocketAddr, load: Load, begun: impl FnOnce() -> Result<()>) -> Result<Report> {
    ensure!(
        load.publishers <= load.members && load.publishers > 0,
        "publishers are members"
    );
    let each = load.messages / load.publishers;
    let total = each * load.publishers;
    let ready = Arc::new(Barrier::new(load.members + 1));
    let mut tasks = JoinSet::new();
    for member in 0..load.members {
        let sends = if member < load.publishers { each } else { 0 };
        let member = run_member(addr, Arc::clone(&ready), sends, total, load);
        tasks.spawn(member);
    }
    ready.wait().await;
    begun()?;
    let start = Instant::now();
    let mut orders = Vec::with_capacity(load.members);
    while let Some(order) = tasks.join_next().await {
        orders.push(order??);
    }
    let elapsed = start.elapsed();
    let first = orders.first().context("there are no members")?;
    let distinct = |order: &Vec<String>| {
        let mut sorted = order.clone();
        sorted.sort_unstable();
        sorted.dedup();
        sorted.len()
    };
    let lost = orders
        .iter()
        .map(|order| total.saturating_sub(distinct(order)))
        .sum();
    let repeated = orders.iter().map(|order| order.len() - distinct(order)).sum();
    let other_order = orders.iter().filter(|order| *order != first).count();
    Ok(Report {
        messages: total,
        lost,
        repeated,
        other_order,
        elapsed,
    })
}

/// The ids of the messages in the order they came.
async fn run_member(
    addr: SocketAddr,
    ready: Arc<Barrier>,
    sends: usize,
    total: usize,
    load: Load,
) -> Result<Vec<String>> {
    let (mut reader, mut writer) = client::connect(addr, "/chat").await?;
    writer
        .text("42/chat,0[\"join-room\",{\"roomId\":\"load\"}]")
        .await?;
    while !reader.text().await?.starts_with("43/chat,0") {}
    ready.wait().await;
    let content = "-".repeat(load.content);
    let window = Semaphore::new(load.in_flight);
    let send = async {
        for number in 1..=sends {
            window.acquire().await?.forget();
            let event =
                format!("42/chat,{number}[\"message\",{{\"roomId\":\"load\",\"content\":\"{content}\"}}]");
            writer.text(&event).await?;
        }
        anyhow::Ok(())
    };
    let receive = async {
        let mut order = Vec::with_capacity(total);
        let mut acknowledged = 0;
        while order.len() < total || acknowledged < sends {
            let text = tokio::time::timeout(PATIENCE, reader.text())
                .await
                .with_context(|| format!("{} of {total} messages came", order.len()))??;
            if let Some(event) = text.strip_prefix("42/chat,[\"message\",") {
                let id = event
                    .split("\"id\":\"")
                    .nth(1)
                    .and_then(|rest| rest.split('"').next());
                order.push(id.context("a message without an id")?.to_owned());
            } else if text.starts_with("43/chat,") {
                ensure!(text.contains("\"ok\""), "a message was refused: {text}");
                acknowledged += 1;
                window.add_permits(1);
            }
        }
        anyhow::Ok(order)
    };
    let ((), order) = tokio::try_join!(send, receive)?;
    Ok(order)
}
