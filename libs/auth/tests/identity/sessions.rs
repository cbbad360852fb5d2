//! Tokens that the application's session endpoint knows.

use std::time::Duration;

use auth::{Authenticator, Refusal, Shown};
use config::{AuthMode, Secret};
use http::{HeaderMap, HeaderValue, header};
use jsonwebtoken::Algorithm;
use model::Role;
use serde_json::json;

use crate::stage::{IP, SECRET, Server, ask, build, mint, now, secret, user};

fn sessions(server: &Server) -> Authenticator {
    build(|config| {
        config.auth.mode = AuthMode::Session;
        config.auth.session_url = Some(server.url.clone());
        config.auth.timeout = Duration::from_millis(500);
    })
    .unwrap()
}

fn ada(ttl: u64) -> String {
    json!({ "user": "ada", "role": "moderator", "permissions": ["p"], "rooms": ["team-*"], "ttl": ttl })
        .to_string()
}

#[tokio::test]
async fn the_endpoint_is_told_token_headers_and_ip_and_says_who_it_is() {
    let server = Server::start(ada(60)).await;
    let authenticator = sessions(&server);
    let mut headers = HeaderMap::new();
    headers.insert(header::USER_AGENT, HeaderValue::from_static("test"));
    headers.insert(
        header::AUTHORIZATION,
        HeaderValue::from_static("Bearer a-session"),
    );
    headers.append("x-many", HeaderValue::from_static("1"));
    headers.append("x-many", HeaderValue::from_static("2"));
    let shown = authenticator.shown(&headers, None);
    let user = authenticator.authenticate(None, &shown, IP).await.unwrap();
    assert_eq!(
        (user.id.as_str(), &*user.username, user.role),
        ("ada", "ada", Role::Moderator)
    );
    assert_eq!(
        (&user.permissions[..], &user.rooms[..]),
        (&["p".to_owned()][..], &["team-*".to_owned()][..])
    );
    let expected = json!({
        "token": "a-session", "headers": { "user-agent": "test", "x-many": "1, 2" }, "ip": "127.0.0.1",
    });
    assert_eq!(server.last_body(), expected);
    assert!(!format!("{shown:?}").contains("a-session"));
    let refused = authenticator.authenticate(None, &Shown::default(), IP).await;
    assert_eq!(refused, Err(Refusal::AuthenticationRequired));
    server.stop().await;
}

#[tokio::test]
async fn answers_are_kept_and_many_ask_once() {
    let server = Server::start(ada(60)).await;
    server.takes(Duration::from_millis(100));
    let authenticator = sessions(&server);
    for result in futures_util::future::join_all((0..50).map(|_| ask(&authenticator, "one"))).await {
        assert_eq!(result, Ok("ada".to_owned()));
    }
    assert_eq!(server.asked(), 1, "many ask once");
    server.answers(401, String::new());
    assert_eq!(
        ask(&authenticator, "one").await,
        Ok("ada".to_owned()),
        "as long as it said"
    );
    assert_eq!(ask(&authenticator, "two").await, Err(Refusal::InvalidToken));
    assert_eq!(
        ask(&authenticator, "two").await,
        Err(Refusal::InvalidToken),
        "a refusal is not kept"
    );
    assert_eq!(server.asked(), 3);

    server.answers(200, ada(0));
    for asked in 4..6 {
        assert_eq!(ask(&authenticator, "three").await, Ok("ada".to_owned()));
        assert_eq!(server.asked(), asked, "no ttl, not kept");
    }
    server.stop().await;
}

#[tokio::test]
async fn what_is_known_of_one_address_is_not_of_another() {
    let server = Server::start(ada(60)).await;
    let authenticator = sessions(&server);
    assert_eq!(ask(&authenticator, "one").await, Ok("ada".to_owned()));
    server.answers(403, String::new());
    let elsewhere = "192.0.2.7".parse().unwrap();
    let refused = authenticator.check("one", &Shown::default(), elsewhere).await;
    assert_eq!(refused, Err(Refusal::Forbidden));
    assert_eq!(server.asked(), 2);
    assert_eq!(ask(&authenticator, "one").await, Ok("ada".to_owned()));
    server.stop().await;
}

#[tokio::test]
async fn one_that_hangs_up_takes_nobody_along() {
    let server = Server::start(ada(60)).await;
    server.takes(Duration::from_millis(100));
    let authenticator = sessions(&server);
    let mut first = Box::pin(ask(&authenticator, "one"));
    let early = tokio::time::timeout(Duration::from_millis(20), first.as_mut()).await;
    assert!(early.is_err());
    let mut second = Box::pin(ask(&authenticator, "one"));
    assert!(
        tokio::time::timeout(Duration::from_millis(20), second.as_mut())
            .await
            .is_err()
    );
    drop(first);
    assert_eq!(second.await, Ok("ada".to_owned()));
    assert_eq!(server.asked(), 1);
    server.stop().await;
}

#[tokio::test]
async fn without_an_answer_nobody_gets_in() {
    let server = Server::start(ada(60)).await;
    let authenticator = sessions(&server);
    let kept = user(&authenticator, "kept").await.unwrap();
    assert_eq!(kept.expires_at, None);
    server.takes(Duration::from_secs(600));
    assert_eq!(ask(&authenticator, "late").await, Err(Refusal::Unavailable));
    server.takes(Duration::ZERO);
    for (status, body) in [
        (500, ada(60)),
        (429, String::new()),
        (200, "[]".to_owned()),
        (200, "x".repeat(100_000)),
    ] {
        server.answers(status, body);
        assert_eq!(
            ask(&authenticator, "other").await,
            Err(Refusal::Unavailable),
            "{status}"
        );
    }
    // Five in a row: it is left alone, and what is known goes on to hold.
    let asked = server.asked();
    for n in 0..20 {
        assert_eq!(
            ask(&authenticator, &n.to_string()).await,
            Err(Refusal::Unavailable)
        );
    }
    assert_eq!(server.asked(), asked, "it is left alone");
    assert_eq!(ask(&authenticator, "kept").await, Ok("ada".to_owned()));
    // One looks after a while, and it is back.
    server.answers(200, ada(60));
    while ask(&authenticator, "back").await.is_err() {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(server.asked(), asked + 1);
    server.stop().await;

    let gone = build(|config| {
        config.auth.session_url = Some("http://127.0.0.1:1/".to_owned());
    })
    .unwrap();
    assert_eq!(ask(&gone, "any").await, Err(Refusal::Unavailable));
}

#[tokio::test]
async fn a_session_may_end_and_a_jwt_is_checked_with_keys_where_there_are_some() {
    let server = Server::start(json!({ "user": "ada", "ttl": 60, "expiresAt": now() - 1 }).to_string()).await;
    let authenticator = sessions(&server);
    assert_eq!(ask(&authenticator, "one").await, Err(Refusal::TokenExpired));
    server.answers(
        200,
        json!({ "user": "ada", "ttl": 60, "expires_at": now() + 600 }).to_string(),
    );
    assert!(user(&authenticator, "two").await.unwrap().expires_at.unwrap() > now());
    let jwt = mint(Algorithm::HS256, &secret(SECRET), None, &json!({ "sub": "bob" }));
    assert_eq!(
        ask(&authenticator, &jwt).await,
        Ok("ada".to_owned()),
        "no keys: the application knows"
    );

    let both = build(|config| {
        config.auth.session_url = Some(server.url.clone());
        config.auth.jwt_secret = Some(Secret::from(SECRET.to_owned()));
    })
    .unwrap();
    let asked = server.asked();
    assert_eq!(ask(&both, &jwt).await, Ok("bob".to_owned()));
    let forged = mint(Algorithm::HS256, &secret("another secret"), None, &json!({}));
    assert_eq!(ask(&both, &forged).await, Err(Refusal::InvalidToken));
    let none = "eyJhbGciOiJub25lIn0.eyJzdWIiOiJhZGEifQ.";
    assert_eq!(ask(&both, none).await, Err(Refusal::InvalidToken));
    assert_eq!(
        server.asked(),
        asked,
        "a JWT that does not hold is nobody's session"
    );
    assert_eq!(ask(&both, "opaque").await, Ok("ada".to_owned()));
    server.stop().await;
}
