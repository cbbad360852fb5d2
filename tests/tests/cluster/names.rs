//! Rooms and users whose names mean something to NATS, to Redis or to Fanfare itself are names like others.

use anyhow::{Context, Result, ensure};
use bench::client::open;
use serde_json::{Value, json};
use tests::{Client, Cluster, Role, Size};

use crate::{limits::token, runtime};

/// Subjects, patterns, keys, hash tags, commands, prefixes.
const NAMES: [&str; 22] = [
    "*",
    ">",
    "a.*",
    "a.>",
    "a.b",
    ".",
    "..",
    " ",
    "a b",
    "{}",
    "{a}",
    "{a}b",
    "}{",
    "a:b",
    "fanfare:{p0}:checkpoint",
    "$JS.API.>",
    "_INBOX.>",
    "fanfare.log.0.>",
    "room[a-z]?",
    "%2A",
    "FLUSHALL",
    "Üñï🎺",
];

/// Each room has a member of its own; what is sent to one is heard there alone, at whatever gateway.
#[test]
fn odd_rooms_are_rooms_of_their_own() -> Result<()> {
    let size = Size {
        gateways: 2,
        workers: 1,
        ..Size::default()
    };
    Cluster::run(size, &[], |cluster| {
        cluster.until_settled()?;
        let gateways = cluster.addresses()?;
        runtime()?.block_on(async {
            let mut members = Vec::new();
            for (number, room) in NAMES.iter().enumerate() {
                let member = Client::connect(gateways[number % 2]).await?;
                let joined = member.join(room).await?;
                ensure!(joined["usersCount"] == 1, "{room:?}: {joined}");
                members.push(member);
            }
            let sender = Client::connect(gateways[0]).await?;
            for (number, room) in NAMES.iter().enumerate() {
                sender.publish(room, room, &format!("message-{number}")).await?;
            }
            for (room, member) in NAMES.iter().zip(&members) {
                member
                    .message(&format!("the member of {room:?}"), |message| {
                        message.room == *room
                    })
                    .await?;
                let page = member.ok("getMessages", &json!({ "roomId": room })).await?;
                let messages = page["messages"].as_array().context("messages")?;
                ensure!(
                    messages.len() == 1 && messages[0]["content"] == *room,
                    "{room:?}: {page}"
                );
                let users = member.ok("getOnlineUsers", &json!({ "roomId": room })).await?;
                ensure!(
                    users["users"].as_array().is_some_and(|users| users.len() == 1),
                    "{room:?}: {users}"
                );
            }
            for (room, member) in NAMES.iter().zip(&members) {
                for message in member.take_messages() {
                    ensure!(
                        message.room == *room,
                        "{room:?} heard what was said in {:?}",
                        message.room
                    );
                }
            }
            anyhow::Ok(())
        })
    })
}

/// Users with such ids are counted each by itself, by presence and by the limits.
#[test]
fn odd_users_are_users_of_their_own() -> Result<()> {
    let mut cluster = Cluster::servers(
        Size::default().nats,
        &[
            ("FANFARE_LIMITS__EVENTS", "4"),
            ("FANFARE_LIMITS__WINDOW_SECONDS", "86400"),
        ],
    )?;
    for role in [Role::Presence, Role::Worker, Role::Gateway] {
        cluster.add(role)?;
    }
    cluster.until_ready()?;
    cluster.until_settled()?;
    let gateway = cluster.addresses()?[0];
    runtime()?.block_on(async {
        let mut all = Vec::new();
        for (number, name) in NAMES
            .iter()
            .chain(&["user:a", "events:a", "6:events:a"])
            .enumerate()
        {
            let (mut reader, mut writer) = open(gateway).await?;
            let auth = json!({ "token": token(name)? });
            writer.text(&format!("40/chat,{auth}")).await?;
            ensure!(
                reader.text().await?.starts_with("40/chat"),
                "{name:?} is not let in"
            );
            let join = json!(["join-room", { "roomId": "all" }]);
            writer.text(&format!("42/chat,0{join}")).await?;
            let joined: Value = loop {
                let text = reader.text().await?;
                if let Some(answer) = text.strip_prefix("43/chat,0") {
                    break serde_json::from_str(answer)?;
                }
            };
            ensure!(joined[0]["usersCount"] == number + 1, "{name:?}: {joined}");
            let mut codes = Vec::new();
            for event in 1..5 {
                writer.text(&format!("42/chat,{event}[\"ping\"]")).await?;
                loop {
                    let text = reader.text().await?;
                    if let Some(answer) = text.strip_prefix(&format!("43/chat,{event}")) {
                        let answer: Value = serde_json::from_str(answer)?;
                        codes.push(answer[0]["status"] == "ok");
                        break;
                    }
                }
            }
            ensure!(codes == [true, true, true, false], "{name:?}: {codes:?}");
            all.push((reader, writer));
        }
        anyhow::Ok(())
    })?;
    cluster.stop()
}
