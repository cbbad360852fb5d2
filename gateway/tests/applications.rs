//! What becomes of custom events and of what the application answers, once nobody waits for it.
#![allow(clippy::unwrap_used, missing_docs, reason = "tests")]

mod alone;

use std::{sync::Arc, time::Duration};

use alone::Alone;
use bench::client::connect;
use bus::{
    EventLog, PageQuery, Signal, Signals, Subscription, WorkQueue, WorkSettings,
    work_queue::memory::MemoryWork,
};
use config::{AppAction, Config, Role};
use model::{Namespace, RoomName, RoomToken, partition_of};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// Nothing that must come takes longer, however busy the machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// A gateway, and where it buries.
async fn start(change: impl FnOnce(&mut Config)) -> (Alone, Arc<MemoryWork>) {
    let mut config = Config::for_tests(Role::Standalone);
    config.limits.events = 0;
    config.app.timeout = Duration::from_millis(500);
    assert_eq!(config.namespaces[1].pattern, "/chat");
    change(&mut config);
    let bench = alone::start(config).await;
    let work = Arc::new(MemoryWork::new(WorkSettings::default()));
    bench.gateway.bury_in(Arc::clone(&work) as _);
    (bench, work)
}

async fn handler(bench: &Alone, subject: &str) -> Box<dyn Subscription> {
    bench.signals.subscribe(subject, None).await.unwrap()
}

async fn asked(handler: &mut Box<dyn Subscription>) -> Signal {
    tokio::time::timeout(PATIENCE, handler.next())
        .await
        .unwrap()
        .unwrap()
}

fn answer(bench: &Alone, question: &Signal, answer: &'static str) {
    let reply = question.reply.as_ref().unwrap();
    bench.signals.publish(reply, answer.into()).unwrap();
}

/// Somebody in `/chat` who sends an event and is gone, both in one packet; once this returns the gateway knows it.
async fn last_words(bench: &Alone, event: &str) {
    let frame = |opcode: u8, payload: &str| {
        let length = u8::try_from(payload.len()).unwrap();
        let mask = [0; 4];
        let head = [0x80 | opcode, 0x80 | length];
        [&head[..], &mask, payload.as_bytes()].concat()
    };
    let mut stream = TcpStream::connect(bench.addr).await.unwrap();
    let request = "GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\n\
                   upgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n";
    stream.write_all(request.as_bytes()).await.unwrap();
    stream.write_all(&frame(1, "40/chat,")).await.unwrap();
    let mut read = Vec::new();
    let connected = async {
        while !String::from_utf8_lossy(&read).contains("40/chat,") {
            assert_ne!(stream.read_buf(&mut read).await.unwrap(), 0);
        }
    };
    tokio::time::timeout(PATIENCE, connected).await.unwrap();
    let words = [frame(1, event), frame(8, "")].concat();
    stream.write_all(&words).await.unwrap();
    until(async || (bench.gateway.connections() == 0).then_some(())).await;
}

async fn until<T>(found: impl AsyncFn() -> Option<T>) -> T {
    let look = async {
        loop {
            if let Some(found) = found().await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, look).await.unwrap()
}

/// First arguments of the events that were buried.
async fn buried(work: &MemoryWork) -> Vec<Value> {
    let letters = work.buried("app", 0, 10).await.unwrap();
    let letters = letters.iter().map(|buried| &buried.letter.payload);
    let events = letters.map(|payload| serde_json::from_slice::<Value>(payload).unwrap());
    events.map(|event| event["args"][0].clone()).collect()
}

#[tokio::test]
async fn an_event_in_order_is_not_lost_with_its_connection() {
    let (bench, work) = start(|config| config.namespaces[1].ordered_events = true).await;
    let mut handler = handler(&bench, "fanfare.app.chat.order").await;
    last_words(&bench, r#"42/chat,["order",1]"#).await;
    asked(&mut handler).await;
    until(async || (!buried(&work).await.is_empty()).then_some(())).await;
    assert_eq!(buried(&work).await, [1]);
    bench.stop().await;
}

#[tokio::test]
async fn an_event_that_is_decided_on_is_not_lost_with_its_connection() {
    let (bench, _) = start(|config| {
        config.app.timeout = PATIENCE;
        config.app.authorize = vec![AppAction::Emit];
    })
    .await;
    let mut authorizer = handler(&bench, "fanfare.app.chat.$authorize").await;
    let mut handler = handler(&bench, "fanfare.app.chat.order").await;
    last_words(&bench, r#"42/chat,["order",1]"#).await;
    let question = asked(&mut authorizer).await;
    answer(&bench, &question, r#"{"allow":true}"#);
    let question = asked(&mut handler).await;
    answer(&bench, &question, "{}");
    bench.stop().await;
}

#[tokio::test]
async fn what_was_handled_is_carried_out_although_the_connection_has_ended() {
    let (bench, _) = start(|config| config.app.timeout = PATIENCE).await;
    let mut handler = handler(&bench, "fanfare.app.chat.order").await;
    last_words(&bench, r#"42/chat,7["order",1]"#).await;
    let question = asked(&mut handler).await;
    answer(
        &bench,
        &question,
        r#"{"emit":[{"rooms":["orders"],"event":"placed"}]}"#,
    );
    let room = RoomName::new("orders").unwrap();
    let token = RoomToken::new(&Namespace::new("/chat").unwrap(), &room);
    let partition = partition_of(token, bench.log.partitions());
    until(async || {
        let all = PageQuery::After { after: 0, limit: 10 };
        let page = bench.log.page(partition, token, all).await.unwrap();
        (page.entries.len() == 1).then_some(())
    })
    .await;
    bench.stop().await;
}

#[tokio::test]
async fn an_answer_that_cannot_be_carried_out_is_buried_where_nobody_waits() {
    let (bench, work) = start(|config| config.app.timeout = PATIENCE).await;
    let mut handler = handler(&bench, "fanfare.app.chat.order").await;
    let (_reader, mut writer) = connect(bench.addr, "/chat").await.unwrap();
    for (number, wrong) in [(1, r#"{"emit":[{}]}"#), (2, r#"{"join":[""]}"#)] {
        let event = format!("42/chat,[\"order\",{number}]");
        writer.text(&event).await.unwrap();
        let question = asked(&mut handler).await;
        answer(&bench, &question, wrong);
    }
    until(async || (buried(&work).await.len() == 2).then_some(())).await;
    // Who waits is told.
    writer.text("42/chat,7[\"order\",3]").await.unwrap();
    let question = asked(&mut handler).await;
    answer(&bench, &question, r#"{"emit":[{}]}"#);
    bench.stop().await;
    assert_eq!(buried(&work).await, [1, 2]);
}
