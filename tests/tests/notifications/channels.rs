//! Channels beside the browser, and rules.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Result, ensure};
use serde_json::json;
use tests::{Client, Cluster, HttpRequest, Role, Size, Standalone, servers::Signal, token, until};

use crate::{KEY, ids, notify, provider::Provider, publisher, runtime};

const WITHIN: Duration = Duration::from_secs(120);

fn file(provider: &Provider, more: &str) -> String {
    format!(
        r#"
[notifications.channels.email]
url = "http://{}/send"
secret = "shared with the provider"
retry_after_ms = 50
{more}
[[notifications.rules]]
event = "user.registered"
type = "welcome"
title = "Welcome, {{name}}"
body = "You are {{user}}."
channels = ["email"]
"#,
        provider.address
    )
}

#[test]
fn a_provider_that_fails_five_times_gets_it_once_it_works() -> Result<()> {
    let provider = Provider::start(|number| if number < 5 { 500 } else { 204 })?;
    let server = Standalone::start_with(Some(&file(&provider, "")), &[("FANFARE_API__KEY", KEY)])?;
    // An application's event: a rule makes the notification.
    let event = json!({
        "user_id": "ada", "type": "user.registered", "data": { "name": "Ada" }, "idempotency_key": "registered:ada",
    });
    let publisher = publisher(&server.output())?;
    let id = notify(publisher, &event)?;
    ensure!(notify(publisher, &event)? == id, "one event");
    let page = HttpRequest::new(server.address()?, "GET", "/api/notifications").token(&token("ada", &[])?);
    let page = page.send()?.expect(200)?.body;
    let shown = page["notifications"].as_array().unwrap();
    ensure!(
        ids(shown) == [&id] && shown[0]["title"] == "Welcome, Ada",
        "{page}"
    );

    until("the provider takes it", WITHIN, || {
        Ok(provider.calls().iter().any(|call| call.status == 204))
    })?;
    let other = json!({ "user_id": "bob", "type": "x", "title": "Other", "channels": ["email", "browser"] });
    notify(publisher, &other)?;
    until("the provider takes another", WITHIN, || {
        Ok(provider.calls().len() >= 7)
    })?;
    let calls = provider.calls();
    let statuses: Vec<_> = calls.iter().map(|call| call.status).collect();
    ensure!(statuses == [500, 500, 500, 500, 500, 204, 204], "{calls:?}");
    for call in &calls[..6] {
        ensure!(call.body["notification"]["id"] == id, "{call:?}");
        ensure!(
            call.body["channel"] == "email" && call.body["user"]["id"] == "ada",
            "{call:?}"
        );
        ensure!(call.body["notification"]["body"] == "You are ada.", "{call:?}");
        ensure!(
            call.signature.as_ref().is_some_and(|text| text.starts_with("t=")),
            "{call:?}"
        );
    }
    let waited: Vec<_> = calls[..6]
        .windows(2)
        .map(|pair| pair[1].at - pair[0].at)
        .collect();
    ensure!(waited[4] >= waited[0], "later attempts wait longer: {waited:?}");
    // Counted once the provider's answer is heard.
    until("both are counted", WITHIN, || {
        let labels = "channel=\"email\",outcome=\"ok\"";
        Ok(server.metric("fanfare_notification_calls_total", labels)? == 2.0)
    })?;
    server.stop()
}

#[test]
fn a_channel_is_called_so_often_and_no_more() -> Result<()> {
    let provider = Provider::start(|number| if number == 0 { 400 } else { 200 })?;
    let file = file(&provider, "max_per_second = 5");
    let server = Standalone::start_with(Some(&file), &[("FANFARE_API__KEY", KEY)])?;
    is_told_in_turn(publisher(&server.output())?, &provider)?;
    server.stop()
}

#[test]
fn nor_while_the_workers_do_not_hear_of_one_another() -> Result<()> {
    let provider = Provider::start(|_| 200)?;
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("fanfare.toml");
    std::fs::write(&path, file(&provider, "max_per_second = 5"))?;
    let size = Size {
        gateways: 1,
        workers: 1,
        ..Size::default()
    };
    let settings = [("FANFARE_API__KEY", KEY), ("--config", path.to_str().unwrap())];
    Cluster::run(size, &settings, |cluster| {
        cluster.until_settled()?;
        cluster.redis.kill();
        is_told_in_turn(publisher(&cluster.workers[0].output())?, &provider)
    })
}

/// Sixteen notifications, of which a provider takes five a second.
fn is_told_in_turn(publisher: SocketAddr, provider: &Provider) -> Result<()> {
    for number in 0..16 {
        let request =
            json!({ "user_id": "ada", "type": "x", "title": number.to_string(), "channels": ["email"] });
        notify(publisher, &request)?;
    }
    until("all are told", WITHIN, || Ok(provider.calls().len() >= 16))?;
    let calls = provider.calls();
    // Five at once, then one each 200 ms; clocks and machines may be off by a little.
    let took = calls[15].at - calls[0].at;
    ensure!(took >= Duration::from_millis(1900), "{took:?}");
    // What was refused for good did not come again.
    ensure!(calls.len() == 16, "{calls:?}");
    Ok(())
}

/// A worker is killed while the provider thinks and while somebody has yet to acknowledge an event; another one calls
/// again, and goes on sending.
#[test]
fn a_killed_worker_is_replaced_in_the_middle_of_a_call() -> Result<()> {
    let provider = Provider::start(|number| if number == 0 { 0 } else { 200 })?;
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("fanfare.toml");
    std::fs::write(&path, file(&provider, "timeout_ms = 20000"))?;
    let size = Size {
        gateways: 1,
        workers: 1,
        ..Size::default()
    };
    let settings = [("FANFARE_API__KEY", KEY), ("--config", path.to_str().unwrap())];
    Cluster::run(size, &settings, |cluster| {
        let publisher = publisher(&cluster.workers[0].output())?;
        let request = json!({ "user_id": "ada", "type": "x", "title": "x", "channels": ["email"] });
        let id = notify(publisher, &request)?;
        until("the provider is called", WITHIN, || {
            Ok(!provider.calls().is_empty())
        })?;
        let important = json!({
            "namespace": "/chat", "users": ["bob"], "event": "read this", "args": [1], "acknowledge_within": 600,
        });
        let emit = HttpRequest::new(publisher, "POST", "/v1/emit").token(KEY);
        emit.json(&important).send()?.expect(200)?;
        cluster.workers.remove(0).signal(Signal::KILL)?;
        cluster.add(Role::Worker)?;
        cluster.until_ready()?;
        let runtime = runtime()?;
        let gateway = cluster.addresses()?[0];
        let bob = runtime.block_on(Client::connect_as(gateway, "/chat", &token("bob", &[])?))?;
        until("another worker calls it", WITHIN, || {
            Ok(provider.calls().len() >= 2)
        })?;
        until("the event is heard", WITHIN, || {
            let heard = bob.take_events();
            Ok(heard.iter().any(|(name, _)| name == "read this"))
        })?;
        let calls = provider.calls();
        ensure!(
            calls.iter().all(|call| call.body["notification"]["id"] == id),
            "{calls:?}"
        );
        Ok(())
    })
}
