//! Custom events handled behind a webhook.

use std::{
    collections::HashSet,
    fs,
    process::Command,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tests::built;

use crate::{
    configured,
    peer::Peer,
    runtime, standalone,
    web::{Web, says},
};

const SECRET: (&str, &str) = ("FANFARE_APP__WEBHOOK_SECRET", "a secret of the webhooks");
/// Longer than any handler of these tests may take.
const LATE: Duration = Duration::from_secs(20);

#[test]
fn an_event_is_handled_as_the_application_says() -> Result<()> {
    runtime()?.block_on(async {
        let web = Web::start(|body| {
            says(
                200,
                match body["event"].as_str() {
                    Some("order") => json!({ "ack": [{ "total": 3 }, body["args"]], "join": ["orders"] }),
                    Some("leave") => json!({ "ack": [], "leave": ["orders"] }),
                    Some("tell") => json!({
                        "ack": ["told"],
                        "emit": [
                            { "rooms": ["orders"], "event": "order-paid", "args": [{ "id": 7 }] },
                            { "event": "to-all", "namespace": "/chat" },
                        ],
                    }),
                    _ => json!({}),
                },
            )
        })
        .await?;
        standalone(
            &[("FANFARE_APP__WEBHOOK_URL", &web.url), SECRET],
            async |server| {
                let mut ada = Peer::user(&server.url, "ada").await?;
                let mut bob = Peer::user(&server.url, "bob").await?;
                let number = ada.send("order", &[json!({ "item": "tea" }), json!(2)]).await?;
                let answer = ada.answer(number).await?;
                ensure!(
                    answer == [json!({ "total": 3 }), json!([{ "item": "tea" }, 2])],
                    "{answer:?}"
                );
                let request = web.got().remove(0);
                let body = &request.body;
                ensure!(body["type"] == "event" && body["namespace"] == "/chat" && body["event"] == "order");
                ensure!(
                    body["user"] == json!({ "id": "ada", "username": "ada", "role": "user" }),
                    "{body}"
                );
                let socket = body["socket"]["id"].as_str().context("the socket's id")?;
                ensure!(socket.len() == 20, "{body}");
                let trace = body["trace"]["traceparent"].as_str().context("a trace")?;
                ensure!(trace.len() == 55 && trace.starts_with("00-"), "{trace}");
                is_signed(&request.headers, &request.text)?;

                // Ada is in the room by the application's word, bob is not.
                ensure!(bob.ask("tell", &[]).await? == "told");
                ensure!(ada.event("order-paid").await?[0] == json!({ "id": 7 }));
                ada.event("to-all").await?;
                bob.event("to-all").await?;
                ensure!(!bob.has_heard("order-paid"), "bob is not in the room");
                let number = ada.send("leave", &[]).await?;
                ensure!(ada.answer(number).await?.is_empty(), "no arguments is an answer");
                bob.ask("tell", &[]).await?;
                ada.event("to-all").await?;
                ensure!(!ada.has_heard("order-paid"), "ada has left the room");
                ensure!(
                    ada.ask("nothing to say", &[]).await?.is_null(),
                    "saying nothing acknowledges"
                );
                Ok(())
            },
        )
        .await
    })
}

fn is_signed(headers: &axum::http::HeaderMap, text: &str) -> Result<()> {
    let signature = headers
        .get("fanfare-signature")
        .context("a signature")?
        .to_str()?;
    let (time, _) = signature
        .strip_prefix("t=")
        .and_then(|rest| rest.split_once(",v1="))
        .context("t=…,v1=…")?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    ensure!(now.abs_diff(time.parse()?) < 300, "{signature}");
    let output = Command::new("node")
        .arg("-e")
        .arg("const [s,t,b]=process.argv.slice(1);console.log(require('crypto').createHmac('sha256',s).update(t+'.'+b).digest('hex'))")
        .args([SECRET.1, time, text])
        .output()?;
    let expected = String::from_utf8(output.stdout)?;
    ensure!(
        signature == format!("t={time},v1={}", expected.trim()),
        "{signature}: {expected}"
    );
    Ok(())
}

#[test]
fn a_handler_that_fails_fails_its_own_events_alone() -> Result<()> {
    runtime()?.block_on(async {
        let web = Web::start(|body| match body["event"].as_str() {
            Some("slow") => (200, json!({ "ack": [1] }), LATE),
            Some("broken") => says(500, json!({})),
            Some("refuses") => says(400, json!({})),
            Some("unknown") => says(404, json!({})),
            Some("list") => says(200, json!([1, 2])),
            Some("text") => says(200, json!("ok")),
            Some("wrong") => says(200, json!({ "ack": 1 })),
            Some("no room") => says(200, json!({ "ack": [1], "join": [""] })),
            Some("another's room") => says(200, json!({ "ack": [1], "join": ["user:bob"] })),
            Some("no emit") => says(200, json!({ "ack": [1], "emit": [{ "rooms": [1] }] })),
            _ => says(200, json!({ "ack": ["fine"] })),
        })
        .await?;
        let settings = [
            ("FANFARE_APP__WEBHOOK_URL", web.url.as_str()),
            ("FANFARE_APP__TIMEOUT_MS", "1000"),
        ];
        standalone(&settings, async |server| {
            let mut ada = Peer::user(&server.url, "ada").await?;
            let slow = ada.send("slow", &[]).await?;
            let begun = Instant::now();
            ensure!(ada.ask("fine", &[]).await? == "fine");
            ensure!(ada.ask("ping", &[]).await?["status"] == "ok");
            let failing = [
                "broken",
                "refuses",
                "list",
                "text",
                "wrong",
                "no room",
                "another's room",
                "no emit",
            ];
            for event in failing {
                ada.refused("UNAVAILABLE", event, &[]).await?;
            }
            ada.refused("NO_HANDLER", "unknown", &[]).await?;
            let answer = ada.answer(slow).await?;
            ensure!(answer[0]["code"] == "UNAVAILABLE", "{answer:?}");
            ensure!(begun.elapsed() < LATE, "an error in time");
            ensure!(ada.ask("fine", &[]).await? == "fine");

            // Without an acknowledgement the same comes as an event.
            ada.emit("unknown", &[]).await?;
            ensure!(ada.event("error").await?[0]["code"] == "NO_HANDLER");
            Ok(())
        })
        .await
    })
}

#[test]
fn without_an_application_nobody_handles_it() -> Result<()> {
    runtime()?.block_on(standalone(&[], async |server| {
        let mut ada = Peer::guest(&server.url).await?;
        ada.refused("NO_HANDLER", "order", &[json!(1)]).await?;
        ensure!(ada.ask("ping", &[]).await?["status"] == "ok");
        Ok(())
    }))?;
    let gone = [("FANFARE_APP__WEBHOOK_URL", "http://127.0.0.1:1/")];
    runtime()?.block_on(standalone(&gone, async |server| {
        let mut ada = Peer::guest(&server.url).await?;
        ada.refused("UNAVAILABLE", "order", &[json!(1)]).await?;
        Ok(())
    }))
}

#[test]
fn what_nobody_waits_for_is_tried_again() -> Result<()> {
    runtime()?.block_on(async {
        let failures = AtomicU64::new(2);
        let web = Web::start(move |_| {
            let fails = failures.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
            says(if fails.is_ok() { 503 } else { 200 }, json!({ "join": ["room"] }))
        })
        .await?;
        standalone(&[("FANFARE_APP__WEBHOOK_URL", &web.url)], async |server| {
            let mut ada = Peer::user(&server.url, "ada").await?;
            ada.emit("order", &[json!(1)]).await?;
            let all = web.has_got(3).await?;
            let texts: HashSet<_> = all.iter().map(|request| &request.text).collect();
            ensure!(texts.len() == 1, "the same each time: {texts:?}");
            // The answer counts as that of an event that is waited for.
            ada.event("room-presence").await?;

            // One that a client waits for is not: it was told already.
            web.answers(|_| says(503, json!({})));
            ada.refused("UNAVAILABLE", "order", &[]).await?;
            ensure!(web.got().len() == 1);

            // Also when the client has gone meanwhile.
            ada.emit("order", &[json!(2)]).await?;
            web.has_got(1).await?;
            drop(ada);
            web.answers(|_| says(200, json!({ "join": ["room"] })));
            web.has_got(1).await?;
            Ok(())
        })
        .await
    })
}

#[test]
fn order_where_the_policy_says_so() -> Result<()> {
    const EVENTS: usize = 30;
    runtime()?.block_on(async {
        // The earlier an event is the longer it takes.
        let web = Web::start(|body| {
            let number = body["args"][0].as_u64().unwrap_or_default();
            let pause = Duration::from_millis(40 - number);
            (200, json!({ "ack": [number] }), pause)
        })
        .await?;
        let file =
            "[[namespaces]]\npattern = \"/chat\"\n[namespaces.custom_events.ordered]\nordered = true\n";
        configured(file, &[("FANFARE_APP__WEBHOOK_URL", &web.url)], async |server| {
            let mut ada = Peer::user(&server.url, "ada").await?;
            for (event, in_order) in [("ordered", true), ("other", false)] {
                let mut numbers = Vec::new();
                for number in 0..EVENTS {
                    numbers.push(ada.send(event, &[json!(number)]).await?);
                }
                for (number, ack) in (0..).zip(numbers) {
                    ensure!(ada.answer(ack).await? == [json!(number)]);
                }
                let got: Vec<_> = web
                    .got()
                    .iter()
                    .map(|request| request.body["args"][0].clone())
                    .collect();
                let sorted: Vec<Value> = (0..EVENTS).map(|number| json!(number)).collect();
                ensure!(!in_order || got == sorted, "{event}: {got:?}");
            }
            Ok(())
        })
        .await
    })
}

#[test]
fn events_keep_to_their_schemas() -> Result<()> {
    runtime()?.block_on(async {
        let web = Web::start(|_| says(200, json!({ "ack": ["fine"] }))).await?;
        let directory = tempfile::tempdir()?;
        let schema = directory.path().join("note.json");
        fs::write(&schema, r#"{"type":"string","maxLength":5}"#)?;
        let configuration = format!(
            r#"
            [[namespaces]]
            pattern = "/chat"
            [namespaces.custom_events.note]
            schema = {schema:?}
            [namespaces.custom_events.order.schema]
            type = "object"
            required = ["item"]
            properties = {{ item = {{ type = "string" }}, lines = {{ type = "array", items = {{ type = "integer" }} }} }}
            "#
        );
        let settings = [("FANFARE_APP__WEBHOOK_URL", web.url.as_str())];
        configured(&configuration, &settings, async |server| {
            let mut ada = Peer::user(&server.url, "ada").await?;
            ensure!(ada.ask("note", &[json!("short")]).await? == "fine");
            ensure!(ada.ask("order", &[json!({ "item": "tea", "lines": [1] })]).await? == "fine");
            ensure!(ada.ask("free", &[json!(1), json!(2)]).await? == "fine");
            web.got();
            for (event, args, path) in [
                ("note", vec![json!("too long")], ""),
                ("note", vec![], ""),
                ("note", vec![json!("a"), json!("b")], ""),
                ("order", vec![json!({ "item": 1 })], "item"),
                ("order", vec![json!({ "item": "a", "lines": [1, "x"] })], "lines.1"),
            ] {
                let answer = ada.refused("VALIDATION_ERROR", event, &args).await?;
                ensure!(answer["details"][0]["path"] == path, "{event} {args:?}: {answer}");
                ensure!(answer["details"][0]["message"].is_string(), "{answer}");
            }
            ensure!(web.got().is_empty(), "nobody is asked");
            Ok(())
        })
        .await?;

        let file = directory.path().join("bad.toml");
        fs::write(&file, "[[namespaces]]\npattern = \"/\"\n[namespaces.custom_events.a.schema]\ntype = \"no type\"\n")?;
        let check = Command::new(built("fanfare", "cargo build -p fanfare")?)
            .args(["config", "check", "--config"])
            .arg(&file)
            .output()?;
        let told = String::from_utf8_lossy(&check.stderr);
        ensure!(check.status.code() == Some(2) && told.contains("namespaces.0.custom_events.a.schema"), "{told}");
        Ok(())
    })
}
