//! Requests do what the events do.

use std::net::SocketAddr;

use anyhow::{Result, ensure};
use serde_json::json;
use tests::{Client, Cluster, Size, servers::NatsVersion, token};

use crate::{MESSAGES, get, patch, post, runtime, with_server};

#[test]
fn chat_by_requests() -> Result<()> {
    with_server(&[], |address| chat(&[address]))
}

/// Each request goes to another gateway than the one before.
#[test]
fn chat_by_requests_in_a_cluster() -> Result<()> {
    let size = Size {
        nats: NatsVersion::Current,
        gateways: 2,
        workers: 1,
        presence: 1,
    };
    let settings = [("FANFARE_AUTH__MODE", "guest"), ("FANFARE_ROOMS__PUBLIC", "*")];
    let cluster = Cluster::start(size, &settings)?;
    let addresses = cluster.addresses()?;
    chat(&addresses).map_err(|error| error.context(cluster.logs()))?;
    cluster.stop()
}

fn chat(gateways: &[SocketAddr]) -> Result<()> {
    let (ada, bob) = (token("ada", &[])?, token("bob", &[])?);
    let runtime = runtime()?;
    let mut turn = gateways.iter().cycle().copied();
    let mut next = move || turn.next().unwrap();
    let member = runtime.block_on(Client::connect_as(next(), "/chat", &bob))?;
    runtime.block_on(member.join("lobby"))?;

    let content = json!({ "roomId": "lobby", "message": "by request", "clientId": "c-1" });
    let sent = post(next(), MESSAGES)
        .token(&ada)
        .json(&content)
        .send()?
        .expect(201)?;
    ensure!(
        sent.body["status"] == "ok" && sent.body["roomId"] == "lobby",
        "{sent:?}"
    );
    let id = sent.body["id"].as_str().unwrap().to_owned();
    let heard = runtime.block_on(member.message("what was posted", |message| message.id == id))?;
    ensure!(heard.content == "by request", "{heard:?}");

    // The same client's retry, as an event or as a request, is the same message.
    let retry = post(next(), MESSAGES)
        .token(&ada)
        .json(&content)
        .send()?
        .expect(201)?;
    ensure!(retry.body == sent.body, "{retry:?} {sent:?}");
    let socket = runtime.block_on(Client::connect_as(next(), "/chat", &ada))?;
    let payload = json!({ "roomId": "lobby", "content": "by request", "clientId": "c-1" });
    let event = runtime.block_on(socket.ok("message", &payload))?;
    ensure!(event == sent.body, "{event} {sent:?}");

    let keyed = |key: &str| {
        let body = json!({ "roomId": "lobby", "content": "once" });
        post(gateways[0], MESSAGES)
            .token(&ada)
            .with("idempotency-key", key)
            .json(&body)
            .send()
    };
    let (first, again, other) = (keyed("k-1")?, keyed("k-1")?, keyed("k-2")?);
    ensure!(
        first.body == again.body && first.body["id"] != other.body["id"],
        "{again:?}"
    );

    let page = format!("{MESSAGES}?roomId=lobby&limit=2");
    let page = get(next(), &page).token(&bob).send()?.expect(200)?;
    let ids: Vec<_> = page.body["messages"]
        .as_array()
        .unwrap()
        .iter()
        .map(|m| &m["id"])
        .collect();
    ensure!(
        ids == [&first.body["id"], &other.body["id"]] && page.body["hasMore"] == true,
        "{page:?}"
    );
    let before = first.body["offset"].as_str().unwrap();
    let page = format!("{MESSAGES}?roomId=lobby&before={before}");
    let page = get(next(), &page).token(&bob).send()?.expect(200)?;
    ensure!(
        page.body["messages"][0]["id"] == id && page.body["hasMore"] == false,
        "{page:?}"
    );

    let mark = json!({ "roomId": "lobby", "messageId": id });
    let mark = patch(next(), "/api/chat/messages/read")
        .token(&bob)
        .json(&mark)
        .send()?
        .expect(200)?;
    ensure!(mark.body["unread"] == 2, "{mark:?}");
    runtime.block_on(member.event("messagesRead", |read| {
        read["userId"] == "bob" && read["messageId"] == id
    }))?;

    rooms(&mut next, &ada, &bob)?;
    elsewhere(next(), &ada)
}

fn rooms(next: &mut impl FnMut() -> SocketAddr, ada: &str, bob: &str) -> Result<()> {
    let both = json!({ "participants": ["bob"], "name": "two" });
    let made = post(next(), "/api/chat/rooms")
        .token(ada)
        .json(&both)
        .send()?
        .expect(201)?;
    ensure!(
        made.body["created"] == true && made.body["participants"] == json!(["ada", "bob"]),
        "{made:?}"
    );
    let both = json!({ "participants": ["ada"] });
    let found = post(next(), "/api/chat/rooms")
        .token(bob)
        .json(&both)
        .send()?
        .expect(200)?;
    ensure!(
        found.body["created"] == false && found.body["roomId"] == made.body["roomId"],
        "{found:?}"
    );
    Ok(())
}

/// Another namespace is another place.
fn elsewhere(address: SocketAddr, ada: &str) -> Result<()> {
    let path = format!("{MESSAGES}?namespace=%2F&roomId=lobby");
    let page = get(address, &path).token(ada).send()?.expect(200)?;
    ensure!(page.body["messages"] == json!([]), "{page:?}");
    Ok(())
}
