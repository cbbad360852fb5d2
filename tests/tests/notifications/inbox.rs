//! `subscribe` and `markNotificationRead`, and the same over HTTP.

use std::net::SocketAddr;

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use tests::{Client, Cluster, HttpRequest, Size, Standalone, token};

use crate::{KEY, ask, ids, news, notify, publisher, runtime, take};

#[test]
fn offline_online_offline_again() -> Result<()> {
    let server = Standalone::start(&[("FANFARE_API__KEY", KEY)])?;
    let publisher = publisher(&server.output())?;
    let result = story(&[server.address()?], &[publisher]);
    result.map_err(|error| error.context(server.output()))?;
    server.stop()
}

/// Each step at another gateway and worker than the one before.
#[test]
fn offline_online_offline_again_in_a_cluster() -> Result<()> {
    let size = Size {
        gateways: 2,
        ..Size::default()
    };
    Cluster::run(size, &[("FANFARE_API__KEY", KEY)], |cluster| {
        cluster.until_settled()?;
        let publishers: Result<Vec<_>> = cluster
            .workers
            .iter()
            .map(|worker| publisher(&worker.output()))
            .collect();
        story(&cluster.addresses()?, &publishers?)
    })
}

fn story(gateways: &[SocketAddr], publishers: &[SocketAddr]) -> Result<()> {
    let runtime = runtime()?;
    let ada = token("ada", &[])?;
    let mut gateways = gateways.iter().cycle().copied();
    let mut publishers = publishers.iter().cycle().copied();
    let mut number = 0;
    let mut tell = || {
        number += 1;
        notify(publishers.next().unwrap(), &news(number))
    };
    let mut connect = || {
        runtime.block_on(Client::connect_as(
            gateways.next().unwrap(),
            "/notifications",
            &ada,
        ))
    };
    let subscribe = |client: &Client, payload: Value| runtime.block_on(client.ok("subscribe", &payload));
    let mark =
        |client: &Client, id: &str| runtime.block_on(client.ok("markNotificationRead", &json!({ "id": id })));
    let hear =
        |client: &Client, id: &str| runtime.block_on(client.event("newNotification", |one| one["id"] == *id));

    // Offline: two wait.
    let (first, second) = (tell()?, tell()?);
    let client = connect()?;
    let answer = subscribe(&client, json!({}))?;
    let missed = take(&client);
    ensure!(
        ids(&missed) == [&first, &second] && answer["unread"] == 2,
        "{missed:?} {answer}"
    );
    ensure!(
        missed[0]["type"] == "news" && missed[0]["title"] == "News 1",
        "{missed:?}"
    );
    ensure!(
        missed[0]["body"].is_null() && missed[0]["data"]["number"] == 1,
        "{missed:?}"
    );
    ensure!(
        missed[0]["createdAt"].as_u64() > Some(1_600_000_000_000),
        "{missed:?}"
    );

    // Online: at every socket, once.
    let other = connect()?;
    let third = tell()?;
    let live = hear(&client, &third)?;
    hear(&other, &third)?;
    let answer = subscribe(&other, json!({}))?;
    let missed = take(&other);
    ensure!(
        ids(&missed) == [&first, &second] && answer["unread"] == 3,
        "{missed:?} {answer}"
    );
    ensure!(
        mark(&client, &first)?["unread"] == 2 && mark(&other, &first)?["unread"] == 2,
        "a mark counts once"
    );
    ensure!(take(&client).is_empty(), "nothing comes twice");

    // Offline again: what came since is known by its place.
    drop((client, other));
    let fourth = tell()?;
    let client = connect()?;
    let answer = subscribe(&client, json!({ "since": live["offset"] }))?;
    let missed = take(&client);
    ensure!(
        ids(&missed) == [&fourth] && answer["unread"] == 3,
        "{missed:?} {answer}"
    );
    for id in [&second, &third, &fourth] {
        mark(&client, id)?;
    }
    let client = connect()?;
    let answer = subscribe(&client, json!({}))?;
    ensure!(answer["unread"] == 0 && take(&client).is_empty(), "{answer}");

    let unknown = runtime.block_on(client.ask("markNotificationRead", &json!({ "id": "none" })))?;
    ensure!(unknown["code"] == "NOT_FOUND", "{unknown}");
    let wrong = runtime.block_on(client.ask("subscribe", &json!({ "since": "99-1" })))?;
    ensure!(wrong["details"][0]["path"] == "since", "{wrong}");
    Ok(())
}

#[test]
fn over_http() -> Result<()> {
    let server = Standalone::start(&[("FANFARE_API__KEY", KEY)])?;
    let (address, publisher) = (server.address()?, publisher(&server.output())?);
    let ada = token("ada", &[])?;
    let get = |query: &str| {
        let path = format!("/api/notifications{query}");
        HttpRequest::new(address, "GET", &path)
            .token(&ada)
            .send()?
            .expect(200)
    };
    let none = get("")?.body;
    ensure!(
        none["unread"] == 0 && none["notifications"] == json!([]),
        "{none}"
    );
    let first = notify(publisher, &news(1))?;
    let page = get(&format!("?since={}", none["offset"].as_str().unwrap()))?.body;
    ensure!(
        page["unread"] == 1 && page["notifications"][0]["id"] == first,
        "{page}"
    );
    ensure!(page["notifications"][0]["offset"] == page["offset"], "{page}");
    let mark = HttpRequest::new(address, "PATCH", "/api/notifications/read").token(&ada);
    let mark = mark.json(&json!({ "id": first })).send()?.expect(200)?;
    ensure!(mark.body["unread"] == 0, "{mark:?}");
    let again = get(&format!("?since={}", page["offset"].as_str().unwrap()))?.body;
    ensure!(
        again["notifications"] == json!([]) && again["offset"] == page["offset"],
        "{again}"
    );
    ensure!(get("")?.body["notifications"] == json!([]), "it was read");
    // A key is one notification; what is wrong is named.
    let keyed = json!({ "userId": "ada", "type": "news", "title": "Once", "idempotencyKey": "k" });
    ensure!(
        notify(publisher, &keyed)? == notify(publisher, &keyed)?,
        "one key"
    );
    ensure!(get("")?.body["unread"] == 1, "one notification");
    let wrong = json!({ "user_id": "ada", "type": "news", "title": "x", "channels": ["pigeon"] });
    let wrong = ask(publisher, &wrong)?.expect(400)?;
    ensure!(wrong.body["details"][0]["path"] == "channels.0", "{wrong:?}");
    server.stop()
}
