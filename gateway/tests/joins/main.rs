//! Joins that something comes between: the socket goes, the log does not take them, too much comes meanwhile.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs, reason = "tests")]

#[path = "../alone/mod.rs"]
mod alone;
mod stage;

use bus::{EventLog, LogSubject, NewEntry};
use delivery::{Batch, Delivery, GatewayLink};
use model::{Namespace, RoomName, RoomToken, partition_of};
use prost::Message;
use proto::v1::{
    DisconnectCommand, JoinCommand, ListCommand, Publish, command::Command, command_reply::Outcome,
};
use serde_json::{Value, json};
use stage::{Client, all_of_chat, auth, start};

fn token(room: &str) -> RoomToken {
    RoomToken::new(&Namespace::new("/chat").unwrap(), &RoomName::new(room).unwrap())
}

#[tokio::test]
async fn who_is_put_out_while_a_join_waits_comes_into_no_room() {
    let stage = start().await;
    let mut client = Client::open(&stage).await;
    client.connect("/").await;
    client.connect("/chat").await;
    let created = client
        .ask("getOrCreateRoom", &json!({ "participants": ["bob"] }))
        .await;
    let room = &created["roomId"];
    // Whether it may join is asked elsewhere.
    let mut reads = stage.reads.close();
    client
        .say(&format!("42/chat,1[\"join-room\",{{\"roomId\":{room}}}]"))
        .await;
    let read = reads.next().await;
    let put_out = Command::Disconnect(DisconnectCommand {
        of: all_of_chat(),
        ..DisconnectCommand::default()
    });
    assert_eq!(stage.command(put_out).await, Outcome::Sockets(1));
    client.hear("41/chat,").await;
    // Handled once the join is.
    client.say("422[\"ping\",{}]").await;
    read.pass();
    stage.reads.open(reads);
    client.hear("432[").await;
    // Those of its socket in the main namespace.
    stage.until_rooms(3).await;
    let joined = format!("joined {}", room.as_str().unwrap());
    assert!(!stage.told().contains(&joined), "{:?}", stage.told());
    stage.stop().await;
}

#[tokio::test]
async fn who_leaves_before_it_is_answered_is_not_answered_later() {
    let stage = start().await;
    let mut client = Client::open(&stage).await;
    let appends = stage.appends.close();
    client.say(&format!("40/chat,{}", auth())).await;
    stage.until_come(1.0).await;
    client.say("41/chat,").await;
    stage.until_gone(1.0).await;
    client.say(&format!("40/chat,{}", auth())).await;
    stage.until_come(2.0).await;
    stage.appends.open(appends);
    client.hear("40/chat,").await;
    client.ask("ping", &json!({})).await;
    assert_eq!(client.count("40/chat,"), 1, "{:?}", client.heard);
    let connected = || {
        let told = stage.told();
        told.iter().filter(|word| *word == "/chat connected").count()
    };
    stage.until(|| connected() > 0).await;
    assert_eq!(connected(), 1, "{:?}", stage.told());
    stage.stop().await;
}

#[tokio::test]
async fn a_connect_that_fails_late_does_not_end_the_one_after_it() {
    let stage = start().await;
    // What all sockets of the namespace and all of the user share is sure by then.
    let mut first = Client::open(&stage).await;
    first.connect("/chat").await;
    let mut client = Client::open(&stage).await;
    let mut appends = stage.appends.close();
    client.say(&format!("40/chat,{}", auth())).await;
    let old = appends.next().await;
    client.say("41/chat,").await;
    stage.until_gone(1.0).await;
    client.say(&format!("40/chat,{}", auth())).await;
    stage.until_come(3.0).await;
    old.fail();
    stage.appends.open(appends);
    client.hear("4").await;
    client.ask("ping", &json!({})).await;
    assert_eq!(client.count("40/chat,"), 1, "{:?}", client.heard);
    assert_eq!(client.count("44"), 0, "{:?}", client.heard);
    stage.stop().await;
}

#[tokio::test]
async fn a_room_that_the_log_does_not_take_is_forgotten() {
    let stage = start().await;
    let mut client = Client::open(&stage).await;
    client.connect("/chat").await;
    let mut appends = stage.appends.close();
    client
        .say("42/chat,1[\"join-room\",{\"roomId\":\"lobby-1\"}]")
        .await;
    appends.next().await.fail();
    let refused = client.hear("43/chat,1[").await;
    assert!(refused.contains("UNAVAILABLE"), "{refused}");
    stage.appends.open(appends);
    stage.until_rooms(3).await;
    let again = client.ask("join-room", &json!({ "roomId": "lobby-1" })).await;
    assert_eq!(again["status"], "ok");
    stage.stop().await;
}

/// Two rooms of different partitions.
fn two_rooms(partitions: u16) -> [(String, u16); 2] {
    let mut rooms = (0..).map(|number| {
        let room = format!("lobby-{number}");
        let partition = partition_of(token(&room), partitions);
        (room, partition)
    });
    let first = rooms.next().unwrap();
    let second = rooms.find(|(_, partition)| *partition != first.1).unwrap();
    [first, second]
}

/// Of a server's join into two rooms one fails, the first or the second to be answered.
async fn half_a_join(fails_first: bool) {
    let stage = start().await;
    let mut client = Client::open(&stage).await;
    client.connect("/chat").await;
    // From then on presence is told everything that happens.
    let is_known = || stage.told().iter().any(|word| word == "/chat connected");
    stage.until(is_known).await;
    let [(good, _), (bad, bad_at)] = two_rooms(stage.log.partitions());
    let mut appends = stage.appends.close();
    let join = Command::Join(JoinCommand {
        of: all_of_chat(),
        rooms: vec![good.clone(), bad.clone()],
    });
    let answers = async {
        let mut both = [appends.next().await, appends.next().await];
        both.sort_by_key(|append| (append.partition == bad_at) != fails_first);
        for append in both {
            if append.partition == bad_at {
                append.fail();
            } else {
                append.pass();
            }
            // So that this one is answered before the other.
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        stage.appends.open(appends);
    };
    let (outcome, ()) = tokio::join!(stage.command(join), answers);
    assert!(matches!(outcome, Outcome::Error(_)), "{outcome:?}");
    let list = Command::List(ListCommand {
        of: all_of_chat(),
        limit: 10,
        ..ListCommand::default()
    });
    let Outcome::List(list) = stage.command(list).await else {
        panic!("no list");
    };
    assert_eq!(list.sockets[0].rooms, Vec::<String>::new());
    for room in [good, bad] {
        let says = |what: &str| stage.told().contains(&format!("{what} {room}"));
        stage.until(|| says("joined") && says("left")).await;
    }
    stage.until_rooms(3).await;
    stage.stop().await;
}

#[tokio::test]
async fn a_servers_join_that_fails_in_the_end_leaves_nobody_in_a_room() {
    half_a_join(false).await;
}

#[tokio::test]
async fn a_servers_join_that_fails_at_once_leaves_nobody_in_a_room() {
    half_a_join(true).await;
}

#[tokio::test]
async fn what_was_held_over_the_limit_is_recovered_in_order() {
    let stage = start().await;
    let mut client = Client::open(&stage).await;
    let pid = client.connect("/chat").await["pid"].clone();
    let room = json!({ "roomId": "lobby-1" });
    assert_eq!(client.ask("join-room", &room).await["status"], "ok");
    let token = token("lobby-1");
    let partition = partition_of(token, stage.log.partitions());
    let mut sent = stage.log.last_seq(partition).await.unwrap();
    let mut send = async |numbers: std::ops::Range<usize>, size: usize| {
        let mut deliveries = Vec::new();
        for number in numbers {
            let publish = Publish {
                id: format!("id-{number}"),
                namespace: "/chat".to_owned(),
                room: "lobby-1".to_owned(),
                event: "news".to_owned(),
                args: format!("{number},\"{}\"", "x".repeat(size)).into_bytes().into(),
                ..Publish::default()
            };
            let record = NewEntry {
                subject: LogSubject::Room(token),
                payload: publish.encode_to_vec().into(),
                dedup: None,
                trace: None,
            };
            let record_of = record.payload.clone();
            let seq = stage.log.append(partition, record).await.unwrap().seq;
            deliveries.push(Delivery {
                seq,
                room: token,
                record: record_of,
            });
        }
        let (after, through) = (sent, deliveries.last().unwrap().seq);
        sent = through;
        let batch = Batch {
            partition,
            epoch: 1,
            after,
            through,
            deliveries,
            traces: Vec::new(),
        };
        stage.link.deliver(batch).unwrap();
    };
    send(0..1, 1).await;
    let begin = "42/chat,[\"news\",";
    client.hear(begin).await;
    // In the room already; held until its history has been read.
    let mut pages = stage.pages.close();
    client
        .say("42/chat,1[\"join-room\",{\"roomId\":\"lobby-1\",\"history\":1}]")
        .await;
    let page = pages.next().await;
    send(1..13, 100_000).await;
    while client.next().await.is_some() {}
    page.pass();
    stage.pages.open(pages);
    let news = |client: &Client| -> Vec<(u64, Value)> {
        let heard = client.heard.iter().filter(|text| text.starts_with(begin));
        let args = heard.map(|text| serde_json::from_str::<Value>(&text["42/chat,".len()..]).unwrap());
        args.map(|args| (args[1].as_u64().unwrap(), args[3].clone()))
            .collect()
    };
    let mut heard = news(&client);
    let mut client = Client::open(&stage).await;
    let mut claim = auth();
    (claim["pid"], claim["offset"]) = (pid, heard.last().unwrap().1.clone());
    client.say(&format!("40/chat,{claim}")).await;
    client.hear("40/chat,").await;
    heard.extend(news(&client));
    let numbers: Vec<u64> = heard.iter().map(|(number, _)| *number).collect();
    assert_eq!(numbers, (0..13).collect::<Vec<_>>());
    stage.stop().await;
}
