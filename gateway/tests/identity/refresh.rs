//! The end of a token, and `refresh-token`.

use serde_json::{Value, json};

use crate::stage::{Client, now, start, token};

#[tokio::test]
async fn at_its_end_a_token_puts_its_socket_out() {
    let edge = start(|_| {}).await;
    let mut client = Client::open(&edge).await;
    let lasting = client
        .connect("/notifications", &json!({ "token": token(&json!({})) }))
        .await;
    assert!(lasting.starts_with("40"), "{lasting}");
    let ends = now() + 3;
    let answer = client
        .connect("/chat", &json!({ "token": token(&json!({ "exp": ends })) }))
        .await;
    assert!(answer.starts_with("40/chat,"), "{answer}");
    let error = client.heard(|text| text.starts_with("42/chat,")).await;
    assert!(now() >= ends);
    let error: Value = serde_json::from_str(error.trim_start_matches("42/chat,")).unwrap();
    assert_eq!(error[0], "error");
    assert_eq!(
        error[1],
        json!({ "status": "error", "code": "UNAUTHORIZED", "message": "Token expired" })
    );
    let next = client.heard(|_| true).await;
    assert_eq!(next, "41/chat,");
    // The same connection, the namespace entered anew.
    let answer = client
        .connect("/chat", &json!({ "token": token(&json!({})) }))
        .await;
    assert!(answer.starts_with("40/chat,"), "{answer}");
    assert_eq!(client.outcome("ping", &json!({})).await, "ok");
    edge.stop().await;
}

#[tokio::test]
async fn a_new_token_in_time_keeps_the_socket() {
    let edge = start(|_| {}).await;
    let first_end = now() + 5;
    let mut client = Client::join(&edge, &json!({ "exp": first_end })).await;
    let ends = now() + 600;
    let ack = client
        .ask(
            "refresh-token",
            &json!({ "token": token(&json!({ "exp": ends })) }),
        )
        .await;
    assert_eq!(ack, json!({ "status": "ok", "expiresAt": ends * 1000 }));
    while now() < first_end + 2 {
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    assert_eq!(client.outcome("ping", &json!({})).await, "ok");
    // Without an end there is none.
    let ack = client
        .ask(
            "refresh-token",
            &json!({ "token": token(&json!({ "exp": null })) }),
        )
        .await;
    assert_eq!(ack, json!({ "status": "ok", "expiresAt": null }));
    // A shorter one counts too.
    let ack = client
        .ask(
            "refresh-token",
            &json!({ "token": token(&json!({ "exp": now() + 2 })) }),
        )
        .await;
    assert_eq!(ack["status"], "ok");
    client.heard(|text| text == "41/chat,").await;
    edge.stop().await;
}

#[tokio::test]
async fn a_token_that_does_not_hold_changes_nothing() {
    let edge = start(|config| {
        config.namespaces[1].connect_roles = vec!["user".to_owned(), "admin".to_owned()];
        config.namespaces[1].emit_roles = [("ping".to_owned(), vec!["admin".to_owned()])].into();
    })
    .await;
    let mut client = Client::join(&edge, &json!({ "role": "admin" })).await;
    let with = |claims: Value| json!({ "token": token(&claims) });
    for (what, payload, code) in [
        ("another user", with(json!({ "sub": "bob" })), "FORBIDDEN"),
        (
            "a role that may not be here",
            with(json!({ "role": "guest" })),
            "FORBIDDEN",
        ),
        ("expired", with(json!({ "exp": now() - 1 })), "UNAUTHORIZED"),
        ("rubbish", json!({ "token": "rubbish" }), "UNAUTHORIZED"),
        (
            "alg none",
            json!({ "token": "eyJhbGciOiJub25lIn0.eyJzdWIiOiJhZGEifQ." }),
            "UNAUTHORIZED",
        ),
        ("none", json!({}), "VALIDATION_ERROR"),
        ("a number", json!({ "token": 7 }), "VALIDATION_ERROR"),
    ] {
        assert_eq!(client.outcome("refresh-token", &payload).await, code, "{what}");
        assert_eq!(client.outcome("ping", &json!({})).await, "ok", "{what}");
    }
    assert_eq!(
        client
            .outcome("refresh-token", &with(json!({ "role": "user" })))
            .await,
        "ok"
    );
    assert_eq!(
        client.outcome("ping", &json!({})).await,
        "FORBIDDEN",
        "a role is taken away"
    );
    assert_eq!(
        client
            .outcome("refresh-token", &with(json!({ "role": "admin" })))
            .await,
        "ok"
    );
    assert_eq!(client.outcome("ping", &json!({})).await, "ok", "and given");
    edge.stop().await;
}

#[tokio::test]
async fn rooms_that_a_new_token_does_not_allow_are_left() {
    let edge = start(|_| {}).await;
    let mut client = Client::join(&edge, &json!({ "rooms": ["a", "b"] })).await;
    for room in ["a", "b"] {
        assert_eq!(
            client.outcome("join-room", &json!({ "roomId": room })).await,
            "ok"
        );
    }
    // Those of the user, of the socket, of everybody, and two.
    assert_eq!(edge.gateway.rooms(), 5);
    let narrower = token(&json!({ "rooms": ["b"] }));
    assert_eq!(
        client
            .outcome("refresh-token", &json!({ "token": narrower }))
            .await,
        "ok"
    );
    assert!(!client.may_use("a").await && client.may_use("b").await);
    let room = |name: &str| json!({ "roomId": name, "content": "x" });
    assert_eq!(client.outcome("message", &room("a")).await, "FORBIDDEN");
    assert_eq!(client.outcome("message", &room("b")).await, "ok");
    edge.stop().await;
}

#[tokio::test]
async fn who_was_put_out_is_not_counted_any_more() {
    let edge = start(|config| config.limits.connections_per_user = 1).await;
    let mut first = Client::join(&edge, &json!({ "exp": now() + 2 })).await;
    assert_eq!(first.heard(|text| text.starts_with("41")).await, "41/chat,");
    // The connection stands, without a namespace.
    Client::join(&edge, &json!({})).await;
    edge.stop().await;
}

#[tokio::test]
async fn tokens_that_do_not_hold_count_against_the_address() {
    let edge = start(|config| config.limits.auth_failures_per_ip = 2).await;
    let mut client = Client::join(&edge, &json!({})).await;
    let mut codes = Vec::new();
    for _ in 0..3 {
        codes.push(
            client
                .outcome("refresh-token", &json!({ "token": "rubbish" }))
                .await,
        );
    }
    assert_eq!(codes, ["UNAUTHORIZED", "UNAUTHORIZED", "RATE_LIMITED"]);
    edge.stop().await;
}

#[tokio::test]
async fn a_session_does_not_come_back_to_rooms_that_a_new_token_does_not_allow() {
    let edge = start(|_| {}).await;
    for (rooms, comes_back) in [(["a", "b"], true), (["b", "c"], false)] {
        let mut client = Client::open(&edge).await;
        let entered = client
            .enter(&json!({ "token": token(&json!({ "rooms": ["a", "b"] })) }))
            .await;
        for room in ["a", "b"] {
            assert_eq!(
                client.outcome("join-room", &json!({ "roomId": room })).await,
                "ok"
            );
        }
        drop(client);
        let back = json!({ "token": token(&json!({ "rooms": rooms })), "pid": entered["pid"] });
        let mut client = Client::open(&edge).await;
        let returned = client.enter(&back).await;
        assert_eq!(returned["sid"] == entered["sid"], comes_back, "{rooms:?}");
        assert_eq!(client.may_use("a").await, comes_back);
    }
    edge.stop().await;
}
