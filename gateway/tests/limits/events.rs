//! Limits on events, as clients see them (CONTRACT section 4).

use std::time::Duration;

use serde_json::{Value, json};

use crate::{
    client::{Client, Heard},
    config, start,
};

fn is_ok(answer: &Value) -> bool {
    answer["status"] == "ok"
}

/// Over the limit: a warning, a refusal with `retryAfter`, and it works again after that time.
#[tokio::test(flavor = "multi_thread")]
async fn warned_refused_and_well_again() {
    let config = config(|config| {
        config.limits.events = 5;
        config.limits.window = Duration::from_secs(10);
    });
    let stage = start(config).await;
    let mut client = Client::new(&stage).await;
    for _ in 0..3 {
        assert!(is_ok(&client.ask("ping").await));
    }
    client.emit("ping").await;
    let warning = json!({ "event": "ping", "limit": 5, "remaining": 1, "resetIn": 8 });
    assert_eq!(
        client.hear().await,
        Heard::Event("rate-limit-warning".to_owned(), warning)
    );
    assert!(matches!(client.hear().await, Heard::Ack(3, answer) if is_ok(&answer)));
    assert!(is_ok(&client.ask("ping").await), "warned once");
    let refused = client.ask("ping").await;
    assert_eq!(
        refused,
        json!({ "status": "error", "code": "RATE_LIMITED", "message": "Too many events", "retryAfter": 2 })
    );
    // Without an ack the same object comes as an event.
    client.writer.text("42/chat,[\"ping\"]").await.unwrap();
    let Heard::Event(name, error) = client.hear().await else {
        panic!("an event was expected");
    };
    assert_eq!((name.as_str(), &error["code"]), ("error", &json!("RATE_LIMITED")));
    tokio::time::sleep(Duration::from_secs(refused["retryAfter"].as_u64().unwrap())).await;
    assert!(is_ok(&client.ask("ping").await));
    stage.stop().await;
}

/// Every event counts, forbidden and unknown ones too, and what is refused has no effect.
#[tokio::test(flavor = "multi_thread")]
async fn a_refused_event_has_no_effect() {
    let config = config(|config| {
        config.limits.events = 2;
        config.limits.window = Duration::from_secs(3600);
        config.limits.by_event = vec![("getMessages".to_owned(), 0)];
    });
    let stage = start(config).await;
    let mut client = Client::new(&stage).await;
    assert_eq!(client.ask("no-such-event").await["code"], "NO_HANDLER");
    client.emit("message").await;
    let mut answers = vec![client.hear().await, client.hear().await];
    answers.retain(|heard| matches!(heard, Heard::Ack(_, answer) if answer["code"] == "VALIDATION_ERROR"));
    assert_eq!(answers.len(), 1);
    let send = json!(["message", { "roomId": "r", "content": "x" }]);
    client.writer.text(&format!("42/chat,7{send}")).await.unwrap();
    assert!(matches!(client.hear().await, Heard::Ack(7, answer) if answer["code"] == "RATE_LIMITED"));
    let read = json!(["getMessages", { "roomId": "r" }]);
    client.writer.text(&format!("42/chat,8{read}")).await.unwrap();
    let Heard::Ack(8, history) = client.hear().await else {
        panic!("the history is free");
    };
    assert_eq!(history["messages"], json!([]));
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_may_have_a_limit_of_its_own() {
    let config = config(|config| {
        config.limits.events = 3;
        config.limits.window = Duration::from_secs(3600);
        config.limits.by_event = vec![("ping".to_owned(), 1), ("typing".to_owned(), 0)];
    });
    let stage = start(config).await;
    let mut client = Client::new(&stage).await;
    client.emit("ping").await;
    assert!(
        matches!(client.hear().await, Heard::Event(name, near) if name == "rate-limit-warning" && near["limit"] == 1)
    );
    assert!(matches!(client.hear().await, Heard::Ack(0, _)));
    assert_eq!(client.ask("ping").await["code"], "RATE_LIMITED");
    for _ in 0..20 {
        assert_eq!(
            client.ask("typing").await["code"],
            "VALIDATION_ERROR",
            "it is free"
        );
    }
    assert_eq!(client.ask("other").await["code"], "NO_HANDLER");
    assert_eq!(client.ask("other").await["code"], "NO_HANDLER");
    client.emit("other").await;
    assert!(
        matches!(client.hear().await, Heard::Event(name, near) if name == "rate-limit-warning" && near["limit"] == 3)
    );
    stage.stop().await;
}

/// Guests are users of their own, so what two sockets share is only what a socket has.
#[tokio::test(flavor = "multi_thread")]
async fn a_socket_has_its_own_limit() {
    let config = config(|config| {
        config.limits.events_per_socket = 2;
        config.limits.window = Duration::from_secs(3600);
    });
    let stage = start(config).await;
    for _ in 0..2 {
        let mut client = Client::new(&stage).await;
        assert!(is_ok(&client.ask("ping").await));
        client.emit("ping").await;
        assert!(matches!(client.hear().await, Heard::Event(name, _) if name == "rate-limit-warning"));
        assert!(matches!(client.hear().await, Heard::Ack(1, _)));
        assert_eq!(client.ask("ping").await["code"], "RATE_LIMITED");
    }
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_goes_on_is_cut() {
    let config = config(|config| {
        config.limits.events = 1;
        config.limits.window = Duration::from_secs(3600);
        config.limits.cut_after = 3;
    });
    let stage = start(config).await;
    let mut client = Client::new(&stage).await;
    for _ in 0..4 {
        client.emit("ping").await;
    }
    assert!(matches!(client.hear().await, Heard::Event(name, _) if name == "rate-limit-warning"));
    assert!(matches!(client.hear().await, Heard::Ack(0, answer) if is_ok(&answer)));
    for number in 1..4 {
        assert!(
            matches!(client.hear().await, Heard::Ack(answered, answer) if answered == number && answer["code"] == "RATE_LIMITED")
        );
    }
    assert_eq!(client.hear().await, Heard::Disconnected);
    assert_eq!(client.hear().await, Heard::Closed);
    for (outcome, count) in [("near", 1.0), ("refused", 2.0), ("cut", 1.0)] {
        let counted = stage.metric("fanfare_rate_limits_total", &["user", outcome]);
        assert_eq!(counted, count, "{outcome}");
    }
    let refused = stage.metric("socket_errors_total", &["RATE_LIMITED"]);
    assert_eq!(refused, 3.0);
    let cut = stage.metric("socket_disconnects_total", &["rate limited"]);
    assert_eq!(cut, 1.0);
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_limit_nobody_is_warned() {
    let stage = start(config(|_| {})).await;
    let mut client = Client::new(&stage).await;
    for _ in 0..500 {
        assert!(is_ok(&client.ask("ping").await));
    }
    stage.stop().await;
}

/// Answers to so many pings in a row; warnings are passed over.
async fn pings(client: &mut Client, count: usize) -> Vec<bool> {
    let mut answers = Vec::new();
    for _ in 0..count {
        client.emit("ping").await;
        loop {
            match client.hear().await {
                Heard::Ack(_, answer) => break answers.push(is_ok(&answer)),
                Heard::Event(name, _) => assert_eq!(name, "rate-limit-warning"),
                other => panic!("{other:?}"),
            }
        }
    }
    answers
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_may_have_limits_of_its_own() {
    let config = config(|config| {
        config.limits.events = 2;
        config.limits.window = Duration::from_secs(3600);
        assert_eq!(config.namespaces[1].pattern, "/chat");
        config.namespaces[1].limits.events = Some(4);
        config.namespaces[1].limits.by_event = vec![("typing".to_owned(), 0)];
    });
    let stage = start(config).await;
    let mut client = Client::new(&stage).await;
    assert_eq!(pings(&mut client, 5).await, [true, true, true, true, false]);
    assert_eq!(
        client.ask("typing").await["code"],
        "VALIDATION_ERROR",
        "it is free"
    );
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_may_be_set_anew_under_way() {
    let config = config(|config| {
        config.limits.events = 2;
        config.limits.events_per_socket = 100;
        config.limits.window = Duration::from_secs(3600);
    });
    let mut stage = start(config).await;
    let mut client = Client::new(&stage).await;
    assert_eq!(pings(&mut client, 3).await, [true, true, false]);
    // What stays the same is remembered.
    stage.config.limits.connections_per_ip = 1;
    stage.gateway.reload(&stage.config).unwrap();
    assert_eq!(pings(&mut client, 1).await, [false]);
    stage.config.limits.events = 3;
    stage.gateway.reload(&stage.config).unwrap();
    assert_eq!(pings(&mut client, 4).await, [true, true, true, false]);
    stage.config.limits.events = 0;
    stage.gateway.reload(&stage.config).unwrap();
    assert_eq!(pings(&mut client, 5).await, [true; 5]);
    // One connection of this address is counted from now on.
    let _second = Client::new(&stage).await;
    assert!(bench::client::open(stage.addr).await.is_err());
    stage.stop().await;
}
