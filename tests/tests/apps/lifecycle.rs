//! The application is told who comes and goes.

use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tests::{Cluster, Size};
use tokio::sync::mpsc;

use crate::{
    nats::Handlers,
    peer::Peer,
    runtime, standalone,
    web::{Request, Web, says},
};

const ALL: (&str, &str) = ("FANFARE_APP__LIFECYCLE", "connected, disconnected,joined,left");

/// What was told of a user, without what was told again: type, and room or reason.
fn told(requests: &[Request], user: &str) -> Vec<(String, String)> {
    let mut told = Vec::new();
    for body in requests.iter().map(|request| &request.body) {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let more = if body["room"].is_string() {
            &body["room"]
        } else {
            &body["reason"]
        };
        let news = (text(&body["type"]), text(more));
        if body["user"]["id"] == user && told.last() != Some(&news) {
            told.push(news);
        }
    }
    told
}

#[test]
fn every_news_in_order_and_again_until_it_is_heard() -> Result<()> {
    runtime()?.block_on(async {
        let count = AtomicU64::new(0);
        // Each second time it does not hear.
        let web = Web::start(move |_| {
            let hears = count.fetch_add(1, Ordering::SeqCst) % 2 == 1;
            says(if hears { 200 } else { 503 }, json!({}))
        })
        .await?;
        standalone(&[("FANFARE_APP__WEBHOOK_URL", &web.url), ALL], async |server| {
            let mut ada = Peer::user(&server.url, "ada").await?;
            for room in ["one", "two"] {
                ensure!(ada.ask("join-room", &[json!({ "roomId": room })]).await?["status"] == "ok");
            }
            ada.ask("leave-room", &[json!({ "roomId": "one" })]).await?;
            drop(ada);
            let expected = [
                ("connected", ""),
                ("joined", "one"),
                ("joined", "two"),
                ("left", "one"),
                ("disconnected", "transport close"),
            ];
            let expected = expected.map(|(kind, more)| (kind.to_owned(), more.to_owned()));
            let mut all = Vec::new();
            while told(&all, "ada").last().map(|(kind, _)| kind.as_str()) != Some("disconnected") {
                all.extend(web.has_got(1).await?);
            }
            ensure!(told(&all, "ada") == expected, "{:?}", told(&all, "ada"));
            let first = &all[0].body;
            ensure!(
                first["namespace"] == "/chat"
                    && first["recovered"] == false
                    && first["time"]
                        .as_u64()
                        .is_some_and(|time| time > 1_700_000_000_000)
                    && first["socket"]["id"].is_string(),
                "{first}"
            );
            Ok(())
        })
        .await
    })
}

#[test]
fn nothing_is_told_that_was_not_asked_for() -> Result<()> {
    runtime()?.block_on(async {
        let web = Web::start(|_| says(200, json!({}))).await?;
        let settings = [
            ("FANFARE_APP__WEBHOOK_URL", web.url.as_str()),
            ("FANFARE_APP__LIFECYCLE", "joined"),
        ];
        standalone(&settings, async |server| {
            let mut ada = Peer::user(&server.url, "ada").await?;
            ada.ask("join-room", &[json!({ "roomId": "one" })]).await?;
            let mut bob = Peer::user(&server.url, "bob").await?;
            bob.ask("join-room", &[json!({ "roomId": "two" })]).await?;
            let got = web.has_got(2).await?;
            ensure!(told(&got, "ada") == [("joined".to_owned(), "one".to_owned())]);
            ensure!(told(&got, "bob") == [("joined".to_owned(), "two".to_owned())]);
            Ok(())
        })
        .await?;
        web.got();
        standalone(&[("FANFARE_APP__WEBHOOK_URL", &web.url)], async |server| {
            let mut ada = Peer::user(&server.url, "ada").await?;
            ada.ask("join-room", &[json!({ "roomId": "one" })]).await?;
            Ok(())
        })
        .await?;
        ensure!(web.got().is_empty(), "off by default");
        Ok(())
    })
}

#[test]
fn a_gateway_that_stops_tells_who_has_gone() -> Result<()> {
    let runtime = runtime()?;
    let size = Size {
        gateways: 1,
        workers: 1,
        ..Size::default()
    };
    let settings = [("FANFARE_APP__LIFECYCLE", "connected,disconnected")];
    let mut cluster = Cluster::start(size, &settings)?;
    cluster.until_owned()?;
    let url = crate::urls(&cluster.addresses()?).remove(0);
    runtime.block_on(async {
        let mut handlers = Handlers::new(&cluster).await?;
        let (tell, mut heard) = mpsc::channel(16);
        for kind in ["connected", "disconnected"] {
            let tell = tell.clone();
            let answer = move |body: &Value| tell.try_send(body.clone()).ok().map(|()| json!(null));
            handlers
                .handle(&format!("fanfare.app.chat.${kind}"), answer)
                .await?;
        }
        let ada = Peer::user(&url, "ada").await?;
        let news = heard.recv().await.context("that ada has come")?;
        ensure!(
            news["type"] == "connected" && news["user"]["id"] == "ada",
            "{news}"
        );
        let gateway = cluster.gateways.remove(0);
        let stopped = tokio::task::spawn_blocking(move || gateway.stop());
        let news = heard.recv().await.context("that ada has gone")?;
        ensure!(
            news["type"] == "disconnected" && news["user"]["id"] == "ada",
            "{news}"
        );
        drop(ada);
        stopped.await?
    })?;
    cluster.stop()
}
