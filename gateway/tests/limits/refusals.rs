//! What is refused, and how: the code and message of an event, why a connection is closed, the status of a request.

use std::time::Duration;

use config::AuthMode;
use jsonwebtoken::{EncodingKey, Header};
use serde_json::{Value, json};

use crate::{
    alone::Alone,
    client::{Client, Heard},
    config,
    http::{polling, raw},
    start,
};

const SECRET: &str = "a secret of the tests, 32 bytes or more";

async fn stage() -> Alone {
    start(config(|config| {
        config.auth.mode = AuthMode::Guest;
        config.auth.jwt_secret = Some(SECRET.to_owned().into());
        // Whatever is public: a user's own room is not.
        config.rooms.public = vec!["*".to_owned()];
    }))
    .await
}

async fn user(stage: &Alone, sub: &str) -> Client {
    let key = EncodingKey::from_secret(SECRET.as_bytes());
    let claims = json!({ "sub": sub, "rooms": ["*", "user:*"] });
    let token = jsonwebtoken::encode(&Header::default(), &claims, &key).unwrap();
    Client::with_token(stage, &token).await
}

const FORBIDDEN: &str = "FORBIDDEN";
const INVALID: &str = "VALIDATION_ERROR";
const NO_HANDLER: &str = "NO_HANDLER";

/// Events of user `ada`, and how each is refused: without any effect, and the connection stays.
fn events() -> Vec<(Value, &'static str, String)> {
    let mut cases = Vec::new();
    // Another user's own room, by every event that names a room, whatever the claims and the public rooms are.
    for room in [
        "user:bob",
        "user:",
        "user:ada ",
        "user:Ada",
        "user:*",
        "user:ada:x",
    ] {
        let message = format!("You may not use room {room:?}");
        for event in [
            json!(["join-room", { "roomId": room }]),
            json!(["message", { "roomId": room, "content": "x" }]),
            json!(["sendMessage", { "roomId": room, "content": "x" }]),
            json!(["typing", { "roomId": room }]),
            json!(["getMessages", { "roomId": room }]),
            json!(["markMessagesRead", { "roomId": room, "messageId": "x" }]),
            json!(["getOnlineUsers", { "roomId": room }]),
        ] {
            cases.push((event, FORBIDDEN, message.clone()));
        }
    }
    // The rooms of sockets and of everybody begin with a control character.
    let invalid = "Invalid payload".to_owned();
    for room in ["\u{1}all", "\u{1}socket:x", "a\0b", "a\nb", "\u{7f}", ""] {
        cases.push((json!(["join-room", { "roomId": room }]), INVALID, invalid.clone()));
        let message = json!(["message", { "roomId": room, "content": "x" }]);
        cases.push((message, INVALID, invalid.clone()));
    }
    for payload in [
        json!({ "roomId": "x".repeat(129), "content": "x" }),
        json!({ "roomId": "r", "content": "x".repeat(5001) }),
        json!({ "roomId": "r", "content": "x".repeat(900_000) }),
        json!({ "roomId": "r", "content": "x", "clientId": "x".repeat(129) }),
        json!(null),
        json!(vec![0; 100_000]),
    ] {
        cases.push((json!(["message", payload]), INVALID, invalid.clone()));
    }
    let many: Vec<_> = (0..101).map(|user| user.to_string()).collect();
    let create = json!(["getOrCreateRoom", { "participants": many }]);
    cases.push((create, INVALID, invalid));
    // What only the server says.
    for event in [
        "room-presence",
        "room-joined",
        "user-left",
        "user-online",
        "user-offline",
        "user-typing",
        "messagesRead",
        "newNotification",
        "rate-limit-warning",
        "error",
    ] {
        let forged = json!([event, { "roomId": "r", "userId": "bob", "usersCount": 0, "action": "left" }]);
        cases.push((forged, NO_HANDLER, format!("Nobody handles {event:?}")));
    }
    let longest = "x".repeat(128);
    cases.push((
        json!([longest]),
        NO_HANDLER,
        format!("Nobody handles {longest:?}"),
    ));
    let long = "x".repeat(500_000);
    cases.push((json!([long]), INVALID, "Invalid payload".to_owned()));
    cases
}

#[tokio::test(flavor = "multi_thread")]
async fn table_of_refused_events() {
    let stage = stage().await;
    let mut ada = user(&stage, "ada").await;
    for (number, (event, code, message)) in events().into_iter().enumerate() {
        ada.writer
            .text(&format!("42/chat,{number}{event}"))
            .await
            .unwrap();
        let shown: String = event.to_string().chars().take(100).collect();
        let Heard::Ack(answered, answer) = ada.hear().await else {
            panic!("{shown}: an answer was expected");
        };
        assert_eq!(answered, number as u64, "{shown}");
        assert_eq!(
            (&answer["status"], &answer["code"], &answer["message"]),
            (&json!("error"), &json!(code), &json!(message)),
            "{shown}"
        );
    }
    let own = json!(["join-room", { "roomId": "user:ada" }]);
    ada.writer.text(&format!("42/chat,9999{own}")).await.unwrap();
    loop {
        match ada.hear().await {
            Heard::Ack(9999, answer) => break assert_eq!(answer["status"], "ok", "{answer}"),
            Heard::Ack(..) | Heard::Disconnected | Heard::Closed => panic!("still connected"),
            Heard::Event(..) => {}
        }
    }
    stage.stop().await;
}

/// Who is called like a room, or like a pattern, is nobody else.
#[tokio::test(flavor = "multi_thread")]
async fn an_odd_id_opens_no_room_of_others() {
    let stage = stage().await;
    for id in [
        "user:bob",
        "*",
        "bob*",
        ">",
        ".",
        "bob.x",
        "{bob}",
        " bob",
        "bob\u{200b}",
        "BOB",
        "%62ob",
    ] {
        let mut odd = user(&stage, id).await;
        for (room, may) in [("user:bob", false), (format!("user:{id}").as_str(), true)] {
            let number = odd.next;
            odd.next += 1;
            let join = json!(["getMessages", { "roomId": room }]);
            odd.writer.text(&format!("42/chat,{number}{join}")).await.unwrap();
            let Heard::Ack(_, answer) = odd.hear().await else {
                panic!("an answer was expected");
            };
            assert_eq!(answer["status"] == "ok", may, "{id:?} in {room:?}: {answer}");
        }
    }
    stage.stop().await;
}

/// Packets that end the connection, and the reason that is counted.
fn packets() -> Vec<(&'static str, String, &'static str)> {
    let deep = |depth: usize| format!("42/chat,[\"message\",{}{}]", "[".repeat(depth), "]".repeat(depth));
    let many = |count: usize| format!("42/chat,[\"message\"{}]", ",0".repeat(count));
    let placeholders: Vec<_> = (0..1000)
        .map(|number| json!({ "_placeholder": true, "num": number }))
        .collect();
    vec![
        (
            "a thousand attachments",
            format!("451000-/chat,{}", json!(["message", placeholders])),
            "parse error",
        ),
        (
            "eleven attachments",
            "4511-/chat,[\"message\"]".to_owned(),
            "parse error",
        ),
        ("65 levels", deep(64), "parse error"),
        ("a hundred thousand levels", deep(100_000), "parse error"),
        (
            "levels that do not end",
            format!("42/chat,{}", "[".repeat(500_000)),
            "parse error",
        ),
        (
            "deep objects",
            format!("42/chat,[\"x\",{}", "{\"a\":".repeat(100_000)),
            "parse error",
        ),
        ("257 arguments", many(257), "parse error"),
        ("400,000 arguments", many(400_000), "parse error"),
        (
            "a word of its own",
            "44/chat,{}".to_owned(),
            "forced server close",
        ),
        (
            "a namespace not joined",
            "42/admin,[\"x\"]".to_owned(),
            "forced server close",
        ),
        (
            "more than the largest message",
            format!("42/chat,[\"{}\"]", "x".repeat(1_000_000)),
            "payload too large",
        ),
    ]
}

/// By request as by event.
#[tokio::test(flavor = "multi_thread")]
async fn a_body_may_be_nested_so_deep() {
    let stage = stage().await;
    for (depth, status) in [(62, 201), (63, 400), (100_000, 400)] {
        let (open, close) = ("[".repeat(depth), "]".repeat(depth));
        let body = format!(r#"{{"roomId":"r","content":"c","more":{open}{close}}}"#);
        let length = body.len();
        let request = format!(
            "POST /api/chat/messages HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n\
             content-length: {length}\r\n\r\n{body}"
        );
        let answer = raw(stage.addr, request.as_bytes()).await.unwrap();
        assert_eq!(answer.status, status, "{depth}: {answer:?}");
        let answer: Value = serde_json::from_str(&answer.body).unwrap();
        assert!(status == 201 || answer["code"] == INVALID, "{depth}: {answer}");
    }
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn table_of_packets_that_end_a_connection() {
    let stage = stage().await;
    let mut bystander = user(&stage, "bystander").await;
    for (what, packet, reason) in packets() {
        let before = stage.metric("socket_disconnects_total", &[reason]);
        let mut client = user(&stage, "ada").await;
        // The server may hang up before it has read all.
        let _ = client.writer.text(&packet).await;
        while client.hear().await != Heard::Closed {}
        let counted = || stage.metric("socket_disconnects_total", &[reason]);
        while counted() < before + 1.0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(counted(), before + 1.0, "{what}");
        assert_eq!(bystander.ask("ping").await["status"], "ok", "{what}");
    }
    stage.stop().await;
}

/// Requests for sessions: nobody gets into another's by guessing.
#[tokio::test(flavor = "multi_thread")]
async fn table_of_refused_requests() {
    let stage = stage().await;
    let ada = user(&stage, "ada").await;
    // The session under attack: its id is known to who made it.
    let opened = polling(stage.addr, "").await;
    let opened: Value = serde_json::from_str(opened.body.strip_prefix('0').unwrap()).unwrap();
    let sid = opened["sid"].as_str().unwrap();
    let last = if sid.ends_with('A') { 'B' } else { 'A' };
    let near = format!("{}{last}", &sid[..sid.len() - 1]);
    let upgrade = "connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n\
                   sec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n";
    let unknown = r#"{"code":1,"message":"Session ID unknown"}"#;
    for (what, method, query, head, status, body) in [
        (
            "a guess",
            "GET",
            format!("transport=polling&sid={near}"),
            "",
            400,
            unknown,
        ),
        (
            "a guess that posts",
            "POST",
            format!("transport=polling&sid={near}"),
            "content-length: 0\r\n",
            400,
            unknown,
        ),
        (
            "a guess by WebSocket",
            "GET",
            format!("transport=websocket&sid={near}"),
            upgrade,
            400,
            "Session ID unknown",
        ),
        (
            "a socket's public id",
            "GET",
            format!("transport=polling&sid={}", ada.id),
            "",
            400,
            unknown,
        ),
        (
            "the recovery secret",
            "GET",
            format!("transport=polling&sid={}", ada.pid),
            "",
            400,
            unknown,
        ),
        (
            "a long one",
            "GET",
            format!("transport=polling&sid={}", "x".repeat(5000)),
            "",
            400,
            unknown,
        ),
        (
            "one with dots",
            "GET",
            "transport=polling&sid=../../x".to_owned(),
            "",
            400,
            unknown,
        ),
    ] {
        let request = format!("{method} /socket.io/?EIO=4&{query} HTTP/1.1\r\nhost: x\r\n{head}\r\n");
        let answer = raw(stage.addr, request.as_bytes()).await.unwrap();
        assert_eq!((answer.status, answer.body.as_str()), (status, body), "{what}");
    }
    let post = format!(
        "POST /socket.io/?EIO=4&transport=polling&sid={sid} HTTP/1.1\r\nhost: x\r\ncontent-length: 8\r\n\r\n40/chat,"
    );
    let answer = raw(stage.addr, post.as_bytes()).await.unwrap();
    assert_eq!(
        (answer.status, answer.body.as_str()),
        (200, "ok"),
        "it was not disturbed"
    );
    stage.stop().await;
}
