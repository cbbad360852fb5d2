//! Every acknowledged event reaches every member once, in one order (G1, G2, G3).

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use futures_util::future::try_join_all;
use parking_lot::Mutex;
use serde_json::json;
use tests::{
    CONTROL, Client, Cluster, END, Language, Ledger, Message, Published, Size, Standalone, StockMembers,
    StockPlan, offset, servers::NatsVersion,
};

use crate::{runtime, urls};

const ROOMS: usize = 100;
/// Members in Rust; those of stock clients come on top.
const MEMBERS: usize = 60;
const ROOMS_OF_MEMBER: usize = 10;
const PUBLISHERS: usize = 9;
const MESSAGES: usize = 200;
/// A publisher does not wait for the acknowledgement of one message before it sends the next.
const IN_FLIGHT: usize = 8;
const STOCK_ROOMS: usize = 10;
const STOCK_MESSAGES: usize = 30;
const WITHIN: Duration = Duration::from_secs(60);

#[test]
fn current_nats() -> Result<()> {
    in_cluster(NatsVersion::Current)
}

#[test]
fn debians_nats() -> Result<()> {
    in_cluster(NatsVersion::Debian)
}

/// The same in one process: what fails here is no matter of the cluster.
#[test]
fn standalone() -> Result<()> {
    let server = Standalone::start(&[])?;
    let address: SocketAddr = server.url.strip_prefix("http://").context("http")?.parse()?;
    gets_everything_once_in_one_order(&[address])?;
    server.stop()
}

fn in_cluster(nats: NatsVersion) -> Result<()> {
    let size = Size {
        nats,
        ..Size::default()
    };
    Cluster::run(size, &[("FANFARE_BUS__PARTITIONS", "16")], |cluster| {
        gets_everything_once_in_one_order(&cluster.addresses()?)?;
        let closed = cluster.metric("socket_disconnects_total", "reason=\"slow consumer\"")?;
        ensure!(closed == 0.0, "{closed} slow consumers");
        Ok(())
    })
}

fn gets_everything_once_in_one_order(gateways: &[SocketAddr]) -> Result<()> {
    let runtime = runtime()?;
    let books = Arc::new(Mutex::new(Ledger::default()));
    let rooms: Vec<String> = (0..ROOMS).map(|number| format!("room-{number}")).collect();
    let members = runtime.block_on(try_join_all(
        (0..MEMBERS).map(|number| member(gateways[number % gateways.len()], number, &rooms)),
    ))?;
    for (number, (_, joined)) in members.iter().enumerate() {
        for room in joined {
            books.lock().joined(&format!("member-{number}"), room);
        }
    }
    let stock_rooms: Vec<String> = rooms.iter().step_by(ROOMS / STOCK_ROOMS).cloned().collect();
    let stock = [
        (Language::Node, "node", "websocket,polling,upgrade", 3),
        (Language::Python, "python", "upgrade,websocket", 2),
    ]
    .map(|(language, name, transports, clients)| {
        let plan = StockPlan {
            name,
            clients,
            transports,
            rooms: &stock_rooms,
            messages: STOCK_MESSAGES,
        };
        StockMembers::join(language, &urls(gateways), plan)
    });
    let stock = stock.into_iter().collect::<Result<Vec<_>>>()?;

    let publishers = runtime.block_on(try_join_all(
        (0..PUBLISHERS).map(|number| Client::connect(gateways[number % gateways.len()])),
    ))?;
    runtime.block_on(async {
        publishers[0].publish(CONTROL, "start", "start").await?;
        let publishing = publishers
            .iter()
            .enumerate()
            .map(|(number, client)| publish(client, number, &rooms, &books));
        try_join_all(publishing).await.map(drop)
    })?;
    for program in &stock {
        program.published()?;
    }
    let ends = rooms.iter().map(async |room| {
        let published = publishers[0].publish(room, END, &format!("end-{room}")).await?;
        books.lock().acknowledged(room, END, &published);
        anyhow::Ok(())
    });
    runtime.block_on(try_join_all(ends))?;
    runtime.block_on(try_join_all(members.iter().map(ended)))?;
    for program in stock {
        program.finish(&mut books.lock())?;
    }
    let mut books = books.lock();
    for (number, (client, _)) in members.iter().enumerate() {
        ensure!(client.end().is_none(), "member-{number}: {:?}", client.end());
        books.received(&format!("member-{number}"), client.take_messages());
    }
    books.check().ensure_clean("everybody")
}

/// The rooms of neighbours overlap, so that every room has members on all gateways.
async fn member(gateway: SocketAddr, number: usize, rooms: &[String]) -> Result<(Client, Vec<String>)> {
    let client = Client::connect(gateway).await?;
    let mut joined = Vec::new();
    for at in 0..ROOMS_OF_MEMBER {
        let room = &rooms[(number * 5 + at * 3) % rooms.len()];
        client.join(room).await?;
        joined.push(room.clone());
    }
    Ok((client, joined))
}

async fn publish(client: &Client, number: usize, rooms: &[String], books: &Mutex<Ledger>) -> Result<()> {
    let mut flying = std::collections::VecDeque::new();
    for count in 0..MESSAGES + IN_FLIGHT {
        if count < MESSAGES {
            let room = &rooms[(count * 7 + number * 11) % rooms.len()];
            let content = format!("publisher-{number}:{count}");
            let payload = json!({ "roomId": room, "content": content });
            let answer = client.send("message", &payload).await?;
            flying.push_back((room, content, answer));
        }
        if count >= IN_FLIGHT {
            let (room, content, answer) = flying.pop_front().context("as many answers as messages")?;
            let answer = tokio::time::timeout(WITHIN, answer)
                .await
                .context("no ack")?
                .context("the connection ended")?;
            ensure!(answer["status"] == "ok", "{answer}");
            let text = |key: &str| answer[key].as_str().unwrap_or_default();
            let published = Published {
                id: text("id").to_owned(),
                offset: offset(text("offset"))?,
                unavailable: 0,
                took: Duration::ZERO,
            };
            books.lock().acknowledged(room, &content, &published);
        }
    }
    Ok(())
}

/// Waits until all rooms of a member have ended.
async fn ended((client, rooms): &(Client, Vec<String>)) -> Result<()> {
    for room in rooms {
        let is_end = |message: &Message| message.content == END && message.room == *room;
        client.message(room, is_end).await?;
    }
    Ok(())
}

/// Printed, not judged: a machine that does other things is slow.
#[test]
fn latency_from_gateway_to_gateway() -> Result<()> {
    const EVENTS: usize = 1000;
    const EVERY: Duration = Duration::from_millis(5);
    let size = Size {
        gateways: 2,
        ..Size::default()
    };
    Cluster::run(size, &[], |cluster| {
        cluster.until_settled()?;
        let gateways = cluster.addresses()?;
        let (mut delivered, mut acknowledged) = runtime()?.block_on(async {
            let sender = Client::connect(gateways[0]).await?;
            let member = Client::connect(gateways[1]).await?;
            member.join("latency").await?;
            let sender = &sender;
            let (flying, mut landing) = tokio::sync::mpsc::channel(EVENTS);
            let send = async move {
                let mut ticks = tokio::time::interval(EVERY);
                let mut sent = Vec::new();
                for number in 0..EVENTS {
                    ticks.tick().await;
                    let payload = json!({ "roomId": "latency", "content": format!("sender:{number}") });
                    let began = Instant::now();
                    sent.push(began);
                    flying
                        .send((began, sender.send("message", &payload).await?))
                        .await?;
                }
                drop(flying);
                anyhow::Ok(sent)
            };
            let land = async {
                let mut acknowledged = Vec::new();
                // Acknowledgements of one room come in order.
                while let Some((began, answer)) = landing.recv().await {
                    answer.await?;
                    acknowledged.push(began.elapsed());
                }
                anyhow::Ok(acknowledged)
            };
            let (sent, acknowledged) = tokio::try_join!(send, land)?;
            let last = format!("sender:{}", EVENTS - 1);
            member
                .message("the last", |message| message.content == last)
                .await?;
            let messages = member.take_messages();
            ensure!(messages.len() == EVENTS, "{} of {EVENTS} came", messages.len());
            let delivered: Vec<_> = messages.iter().zip(&sent).map(|(m, sent)| m.at - *sent).collect();
            Ok((delivered, acknowledged))
        })?;
        for (what, times) in [("delivered", &mut delivered), ("acknowledged", &mut acknowledged)] {
            times.sort_unstable();
            eprintln!(
                "{what} at 200 events/s, gateway A to gateway B: p50 {:?}, p99 {:?}",
                times[times.len() / 2],
                times[times.len() * 99 / 100]
            );
        }
        Ok(())
    })
}
