//! The application says who may do what.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use tests::{Cluster, Size, token};

use crate::{
    nats::Handlers,
    peer::Peer,
    runtime, standalone,
    web::{Request, Web, says},
};

/// What was asked, without the users.
fn questions(requests: &[Request]) -> Vec<Value> {
    let bodies = requests.iter().map(|request| {
        let mut body = request.body.clone();
        if let Some(fields) = body.as_object_mut() {
            fields.remove("user");
        }
        body
    });
    bodies.collect()
}

#[test]
fn rooms_that_nothing_else_allows() -> Result<()> {
    runtime()?.block_on(async {
        let web = Web::start(|body| {
            let allow = body["room"]
                .as_str()
                .is_some_and(|room| room.starts_with("team-"));
            says(200, json!({ "allow": allow, "ttl": 600 }))
        })
        .await?;
        let settings = [
            ("FANFARE_APP__AUTHORIZE_URL", web.url.as_str()),
            ("FANFARE_APP__AUTHORIZE", "join"),
            ("FANFARE_ROOMS__PUBLIC", "lobby"),
        ];
        standalone(&settings, async |server| {
            let mut ada = Peer::user(&server.url, "ada").await?;
            let room = |name: &str| [json!({ "roomId": name, "content": "hi" })];
            ensure!(ada.ask("join-room", &room("lobby")).await?["status"] == "ok");
            ensure!(web.got().is_empty(), "what is public is not asked about");
            for event in ["join-room", "message", "getMessages", "join-room"] {
                ensure!(
                    ada.ask(event, &room("team-1")).await?["status"] == "ok",
                    "{event}"
                );
            }
            let got = web.got();
            ensure!(got[0].body["user"] == json!({ "id": "ada", "username": "ada", "role": "user" }));
            let asked = questions(&got);
            let expected =
                json!({ "type": "authorize", "action": "join", "namespace": "/chat", "room": "team-1" });
            ensure!(asked == [expected], "once, and kept: {asked:?}");
            for event in ["join-room", "message", "getMessages"] {
                ada.refused("FORBIDDEN", event, &room("other")).await?;
            }
            ada.refused("FORBIDDEN", "join-room", &room("user:bob")).await?;
            let mut guest = Peer::guest(&server.url).await?;
            guest.refused("FORBIDDEN", "join-room", &room("team-1")).await?;
            ensure!(
                web.got().len() == 1,
                "nobody else's rooms, and no guests without a token"
            );

            web.answers(|_| says(500, json!({})));
            ada.refused("UNAVAILABLE", "join-room", &room("team-2")).await?;
            ensure!(
                ada.ask("join-room", &room("team-1")).await?["status"] == "ok",
                "known"
            );
            ensure!(ada.ask("ping", &[]).await?["status"] == "ok");
            Ok(())
        })
        .await
    })
}

#[test]
fn an_answer_is_kept_as_long_as_it_says() -> Result<()> {
    runtime()?.block_on(async {
        let count = AtomicU64::new(0);
        // The first answer holds for a second, those after it not at all.
        let web = Web::start(move |_| {
            let first = count.fetch_add(1, Ordering::SeqCst) == 0;
            says(
                200,
                json!({ "allow": first, "ttl": if first { json!(1) } else { json!(null) } }),
            )
        })
        .await?;
        let settings = [
            ("FANFARE_APP__AUTHORIZE_URL", web.url.as_str()),
            ("FANFARE_APP__AUTHORIZE", "join"),
            ("FANFARE_ROOMS__PUBLIC", ""),
        ];
        standalone(&settings, async |server| {
            let mut ada = Peer::user(&server.url, "ada").await?;
            let room = [json!({ "roomId": "room" })];
            ensure!(ada.ask("join-room", &room).await?["status"] == "ok");
            while ada.ask("join-room", &room).await?["status"] == "ok" {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            ensure!(web.got().len() == 2);
            ada.refused("FORBIDDEN", "join-room", &room).await?;
            ensure!(web.got().len() == 1, "not kept");
            Ok(())
        })
        .await
    })
}

#[test]
fn who_may_connect_and_as_what() -> Result<()> {
    runtime()?.block_on(async {
        let web = Web::start(|body| {
            says(
                200,
                match body["user"]["id"].as_str() {
                    Some("mallory") => json!({ "allow": false }),
                    Some("ada") => json!({ "allow": true, "role": "moderator", "rooms": ["team-*"] }),
                    _ => json!({ "allow": true }),
                },
            )
        })
        .await?;
        let settings = [
            ("FANFARE_APP__AUTHORIZE_URL", web.url.as_str()),
            ("FANFARE_APP__AUTHORIZE", "connect"),
            ("FANFARE_ROOMS__PUBLIC", ""),
        ];
        standalone(&settings, async |server| {
            let (_, answer) = Peer::knock(&server.url, Some(&token("mallory", &[])?)).await?;
            ensure!(
                answer == r#"44/chat,{"message":"Forbidden","data":{"code":"FORBIDDEN"}}"#,
                "{answer}"
            );
            let asked = questions(&web.got());
            ensure!(asked == [json!({ "type": "authorize", "action": "connect", "namespace": "/chat" })]);
            let mut ada = Peer::user(&server.url, "ada").await?;
            let mut bob = Peer::user(&server.url, "bob").await?;
            let room = [json!({ "roomId": "team-1" })];
            ensure!(
                ada.ask("join-room", &room).await?["status"] == "ok",
                "by the rooms it says"
            );
            bob.refused("FORBIDDEN", "join-room", &room).await?;
            ensure!(
                ada.ask("getOnlineUsers", &[json!({})]).await?["status"] == "ok",
                "as a moderator"
            );
            bob.refused("FORBIDDEN", "getOnlineUsers", &[json!({})]).await?;
            // A new token says nothing against that.
            let token = token("ada", &[])?;
            ensure!(ada.ask("refresh-token", &[json!({ "token": token })]).await?["status"] == "ok");
            ensure!(ada.ask("join-room", &room).await?["status"] == "ok");

            web.answers(|_| says(500, json!({})));
            let (_, answer) = Peer::knock(&server.url, Some(&token)).await?;
            ensure!(
                answer == r#"44/chat,{"message":"Unavailable","data":{"code":"UNAVAILABLE"}}"#,
                "{answer}"
            );
            Ok(())
        })
        .await
    })
}

#[test]
fn who_may_send_what() -> Result<()> {
    runtime()?.block_on(async {
        let web = Web::start(|body| {
            if body["type"] == "event" {
                return says(200, json!({ "ack": ["handled"] }));
            }
            let fine = body["event"] != "forbidden" && body["room"] != "read-only";
            says(200, json!({ "allow": fine, "ttl": 600 }))
        })
        .await?;
        // The webhook answers both.
        let settings = [
            ("FANFARE_APP__WEBHOOK_URL", web.url.as_str()),
            ("FANFARE_APP__AUTHORIZE", "emit"),
        ];
        standalone(&settings, async |server| {
            let mut ada = Peer::user(&server.url, "ada").await?;
            ada.refused("FORBIDDEN", "forbidden", &[]).await?;
            ada.refused("FORBIDDEN", "forbidden", &[]).await?;
            let asked = questions(&web.got());
            let about = |fields: Value| {
                let mut all = json!({ "type": "authorize", "action": "emit", "namespace": "/chat" });
                all.as_object_mut()
                    .unwrap()
                    .extend(fields.as_object().unwrap().clone());
                all
            };
            ensure!(asked == [about(json!({ "event": "forbidden" }))], "{asked:?}");
            ensure!(ada.ask("order", &[]).await? == "handled");
            let room = |name: &str| [json!({ "roomId": name, "content": "hi" })];
            web.got();
            ensure!(ada.ask("join-room", &room("read-only")).await?["status"] == "ok");
            ensure!(web.got().is_empty(), "joining is no sending");
            ada.refused("FORBIDDEN", "message", &room("read-only")).await?;
            ensure!(ada.ask("message", &room("lobby")).await?["status"] == "ok");
            let asked = questions(&web.got());
            let expected =
                ["read-only", "lobby"].map(|room| about(json!({ "event": "message", "room": room })));
            ensure!(asked == expected, "{asked:?}");

            web.answers(|_| says(500, json!({})));
            ada.refused("UNAVAILABLE", "another", &[]).await?;
            ensure!(
                ada.ask("message", &room("lobby")).await?["status"] == "ok",
                "known"
            );
            Ok(())
        })
        .await
    })
}

#[test]
fn the_application_says_it_on_nats() -> Result<()> {
    let runtime = runtime()?;
    let size = Size {
        gateways: 1,
        workers: 1,
        ..Size::default()
    };
    let settings = [
        ("FANFARE_APP__AUTHORIZE", "connect,join"),
        ("FANFARE_ROOMS__PUBLIC", ""),
    ];
    Cluster::run(size, &settings, |cluster| {
        cluster.until_owned()?;
        let url = &crate::urls(&cluster.addresses()?)[0];
        let cluster = &*cluster;
        runtime.block_on(async {
            let (_, answer) = Peer::knock(url, Some(&token("ada", &[])?)).await?;
            ensure!(answer.contains("UNAVAILABLE"), "nobody says anything: {answer}");
            let mut handlers = Handlers::new(cluster).await?;
            let says = |body: &Value| {
                let allow = body["action"] == "connect" || body["room"] == "team";
                Some(json!({ "allow": allow, "ttl": 60 }))
            };
            handlers.handle("fanfare.app.chat.$authorize", says).await?;
            let mut ada = Peer::user(url, "ada").await?;
            ensure!(ada.ask("join-room", &[json!({ "roomId": "team" })]).await?["status"] == "ok");
            ada.refused("FORBIDDEN", "join-room", &[json!({ "roomId": "other" })])
                .await?;
            Ok(())
        })
    })
}
