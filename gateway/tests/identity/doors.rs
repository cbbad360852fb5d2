//! CONNECT, and what refuses it.

use std::time::Duration;

use axum::{Json, Router, routing::post};
use lifecycle::Tasks;
use serde_json::{Value, json};

use crate::stage::{Client, SECRET, now, signed, start, token};

#[tokio::test]
async fn every_refusal_has_its_message_and_code() {
    let edge = start(|config| {
        config.auth.audience = Some("chat".to_owned());
        config.auth.issuer = Some("us".to_owned());
        config.namespaces[1].connect_roles = vec!["user".to_owned()];
    })
    .await;
    let claims = |more: &Value| {
        let mut claims = json!({ "iss": "us", "aud": "chat" });
        for (name, value) in more.as_object().unwrap() {
            claims[name] = value.clone();
        }
        claims
    };
    let with = |more: Value| json!({ "token": token(&claims(&more)) });
    let mut client = Client::open(&edge).await;
    let refused = |message: &str, code: &str| {
        format!(r#"44/chat,{{"message":"{message}","data":{{"code":"{code}"}}}}"#)
    };
    let invalid = refused("Invalid token", "UNAUTHORIZED");
    for (what, auth, expected) in [
        (
            "no token",
            json!({}),
            refused("Authentication required", "UNAUTHORIZED"),
        ),
        (
            "another's payload",
            json!({ "session": 7 }),
            refused("Authentication required", "UNAUTHORIZED"),
        ),
        (
            "expired",
            with(json!({ "exp": now() - 1 })),
            refused("Token expired", "UNAUTHORIZED"),
        ),
        (
            "not of this role",
            with(json!({ "role": "guest" })),
            refused("Forbidden", "FORBIDDEN"),
        ),
        ("rubbish", json!({ "token": "rubbish" }), invalid.clone()),
        ("empty", json!({ "token": "" }), invalid.clone()),
        (
            "alg none",
            json!({ "token": "eyJhbGciOiJub25lIn0.eyJzdWIiOiJhZGEifQ." }),
            invalid.clone(),
        ),
        ("wrong audience", with(json!({ "aud": "mail" })), invalid.clone()),
        ("wrong issuer", with(json!({ "iss": "them" })), invalid.clone()),
        ("not yet", with(json!({ "nbf": now() + 600 })), invalid.clone()),
        (
            "another key",
            json!({ "token": signed(&claims(&json!({})), "another secret") }),
            invalid.clone(),
        ),
        (
            "more than is looked at",
            json!({ "token": "x".repeat(100_000) }),
            invalid,
        ),
    ] {
        assert_eq!(client.connect("/chat", &auth).await, expected, "{what}");
    }
    let unknown = client.connect("/no-such", &with(json!({}))).await;
    assert_eq!(unknown, r#"44/no-such,{"message":"Invalid namespace"}"#);
    let answer = client.connect("/chat", &with(json!({}))).await;
    assert!(answer.starts_with("40/chat,"), "the connection goes on: {answer}");
    edge.stop().await;
}

#[tokio::test]
async fn a_token_may_stand_in_header_cookie_and_query() {
    let edge = start(|config| {
        config.auth.cookie = Some("session".to_owned());
        config.auth.query = Some("token".to_owned());
    })
    .await;
    let good = token(&json!({}));
    for (query, headers) in [
        (String::new(), format!("Authorization: Bearer {good}\r\n")),
        (String::new(), format!("Cookie: a=b; session={good}\r\n")),
        (format!("&token={good}"), String::new()),
    ] {
        let answer = edge.polled(&query, &headers).await;
        assert!(answer.starts_with("40/chat,"), "{query} {headers}: {answer}");
    }
    let refused = edge.polled("&access_token=x", "Cookie: sessions=x\r\n").await;
    assert!(refused.contains("Authentication required"), "{refused}");
    edge.stop().await;
}

#[tokio::test]
async fn a_session_token_is_the_applications_to_know() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/session", listener.local_addr().unwrap());
    let known = async |Json(asked): Json<Value>| match asked["token"].as_str() {
        Some("ada's") => Ok(Json(json!({ "user": "ada", "rooms": ["team-*"], "ttl": 60 }))),
        Some("banned") => Err(axum::http::StatusCode::FORBIDDEN),
        Some("broken") => Err(axum::http::StatusCode::INTERNAL_SERVER_ERROR),
        _ => Err(axum::http::StatusCode::UNAUTHORIZED),
    };
    let tasks = Tasks::new();
    tasks.background("application", async move {
        axum::serve(listener, Router::new().route("/session", post(known)))
            .await
            .unwrap();
    });
    let edge = start(|config| {
        config.auth.mode = config::AuthMode::Session;
        config.auth.jwt_secret = None;
        config.auth.session_url = Some(url);
    })
    .await;
    let mut client = Client::open(&edge).await;
    for (session, expected) in [
        (
            "unknown",
            r#"44/chat,{"message":"Invalid token","data":{"code":"UNAUTHORIZED"}}"#,
        ),
        (
            "banned",
            r#"44/chat,{"message":"Forbidden","data":{"code":"FORBIDDEN"}}"#,
        ),
        (
            "broken",
            r#"44/chat,{"message":"Unavailable","data":{"code":"UNAVAILABLE"}}"#,
        ),
    ] {
        assert_eq!(
            client.connect("/chat", &json!({ "token": session })).await,
            expected,
            "{session}"
        );
    }
    let answer = client.connect("/chat", &json!({ "token": "ada's" })).await;
    assert!(answer.starts_with("40/chat,"), "{answer}");
    assert!(client.may_use("team-1").await && client.may_use("user:ada").await);
    assert!(!client.may_use("other").await && !client.may_use("user:bob").await);
    edge.stop().await;
    tasks.shutdown(Duration::from_secs(10)).await;
}

#[tokio::test]
async fn keys_policies_and_origins_are_read_again_and_nobody_is_put_out() {
    let mut edge = start(|config| config.cors.origins = vec!["https://a.example".to_owned()]).await;
    let page = "GET /socket.io/?EIO=4&transport=polling";
    let of = |origin: &str| format!("Origin: https://{origin}.example\r\n");
    let mut ada = Client::join(&edge, &json!({})).await;
    assert!(!ada.may_use("lobby").await);
    assert_eq!(edge.http(page, &of("a"), "").await.0, 200);
    assert_eq!(edge.http(page, &of("b"), "").await.0, 403);

    let mut config = edge.config.clone();
    config.auth.jwt_secret = Some("another secret of 32 bytes or more".to_owned().into());
    config.rooms.public = vec!["lobby".to_owned()];
    config.cors.origins = vec!["https://b.example".to_owned()];
    edge.gateway.reload(&config).unwrap();
    assert!(
        ada.may_use("lobby").await,
        "who is in stays, and by the new rules"
    );
    assert_eq!(edge.http(page, &of("a"), "").await.0, 403);
    assert_eq!(edge.http(page, &of("b"), "").await.0, 200);
    let mut bob = Client::open(&edge).await;
    let refused = bob
        .connect("/chat", &json!({ "token": signed(&json!({}), SECRET) }))
        .await;
    assert!(refused.starts_with("44"), "{refused}");
    let new = signed(&json!({}), "another secret of 32 bytes or more");
    assert!(
        bob.connect("/chat", &json!({ "token": new }))
            .await
            .starts_with("40")
    );

    edge.config.auth.public_keys = Some("no-such-file".into());
    assert!(edge.gateway.reload(&edge.config).is_err());
    assert!(ada.may_use("lobby").await, "what cannot be used changes nothing");
    edge.stop().await;
}
