//! What one address and one user may do: handshakes, connections, failed authentications; and who is at an address.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use axum::{Json, Router, http::StatusCode, routing::post};
use bench::client::{Reader, Writer, open};
use config::AuthMode;
use futures_util::future::join_all;
use jsonwebtoken::{EncodingKey, Header};
use lifecycle::Tasks;
use serde_json::{Value, json};
use tokio::{
    io::AsyncWriteExt,
    net::{TcpListener, TcpStream},
};

use crate::{
    client::Client,
    config,
    http::{Answer, POLLING, answer, polling, raw, websocket},
    start,
};

const SECRET: &str = "a secret of the tests, 32 bytes or more";

fn is_limited(answer: &Answer, longest: u64) {
    assert_eq!(answer.status, 429, "{answer:?}");
    let after: u64 = answer.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=longest).contains(&after), "{after}");
    let error: Value = serde_json::from_str(&answer.body).unwrap();
    assert_eq!(error["code"], "RATE_LIMITED");
    assert_eq!(error["status"], "error");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_may_shake_hands_so_often() {
    let stage = start(config(|config| config.limits.handshakes_per_ip = 3)).await;
    assert_eq!(polling(stage.addr, "").await.status, 200);
    assert_eq!(polling(stage.addr, "").await.status, 200);
    assert_eq!(websocket(stage.addr, "").await.status, 101);
    is_limited(&polling(stage.addr, "").await, 20);
    is_limited(&websocket(stage.addr, "").await, 20);
    assert_eq!(stage.metric("socket_connections_total", &["limited"]), 2.0);
    assert_eq!(
        stage.metric("fanfare_rate_limits_total", &["address", "refused"]),
        2.0
    );
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_may_have_so_many_connections() {
    let stage = start(config(|config| config.limits.connections_per_ip = 2)).await;
    let one = Client::new(&stage).await;
    let _two = Client::new(&stage).await;
    is_limited(&websocket(stage.addr, "").await, 6);
    is_limited(&polling(stage.addr, "").await, 6);
    drop(one);
    // Its session may still be remembered; its place is free once its end was seen.
    while websocket(stage.addr, "").await.status != 101 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    stage.stop().await;
}

/// Those that wait for their turn are counted.
#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_has_so_many_connections_however_many_come_at_once() {
    let stage = start(config(|config| {
        config.gateway.max_connections = 2;
        config.limits.handshakes_per_second = 4;
    }))
    .await;
    let answers = join_all((0..6).map(|_| polling(stage.addr, ""))).await;
    let mut statuses: Vec<_> = answers.iter().map(|answer| answer.status).collect();
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 200, 503, 503, 503, 503]);
    assert_eq!(stage.gateway.connections(), 2);
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn short_of_memory_nobody_is_taken() {
    let stage = start(config(|config| config.limits.memory_mb = 1)).await;
    for answer in [polling(stage.addr, "").await, websocket(stage.addr, "").await] {
        assert_eq!(answer.status, 503);
        assert!(answer.header("retry-after").is_some(), "{answer:?}");
    }
    assert_eq!(stage.metric("socket_connections_total", &["memory"]), 2.0);
    stage.stop().await;
}

fn token(sub: &str) -> String {
    let key = EncodingKey::from_secret(SECRET.as_bytes());
    jsonwebtoken::encode(&Header::default(), &json!({ "sub": sub }), &key).unwrap()
}

/// Asks for a namespace; the answer's type and payload.
async fn enter(client: &mut (Reader, Writer), namespace: &str, token: &str) -> (bool, Value) {
    enter_with(client, namespace, &json!({ "token": token })).await
}

async fn enter_with(client: &mut (Reader, Writer), namespace: &str, auth: &Value) -> (bool, Value) {
    client.1.text(&format!("40{namespace},{auth}")).await.unwrap();
    loop {
        let text = client.0.text().await.unwrap();
        let entered = text.strip_prefix(&format!("40{namespace},"));
        let refused = text.strip_prefix(&format!("44{namespace},"));
        if let Some(payload) = entered.or(refused) {
            return (entered.is_some(), serde_json::from_str(payload).unwrap());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_may_have_so_many_connections() {
    let config = config(|config| {
        config.limits.connections_per_user = 2;
        config.auth.mode = AuthMode::Jwt;
        config.auth.jwt_secret = Some(SECRET.to_owned().into());
    });
    let stage = start(config).await;
    let (ada, bob) = (token("ada"), token("bob"));
    let mut one = open(stage.addr).await.unwrap();
    let mut two = open(stage.addr).await.unwrap();
    let mut three = open(stage.addr).await.unwrap();
    assert!(enter(&mut one, "/chat", &ada).await.0);
    assert!(
        enter(&mut one, "/notifications", &ada).await.0,
        "the same connection"
    );
    assert!(enter(&mut two, "/chat", &ada).await.0);
    let refused = enter(&mut three, "/chat", &ada).await;
    let error =
        json!({ "message": "Too many connections", "data": { "code": "RATE_LIMITED", "retryAfter": 5 } });
    assert_eq!(refused, (false, error));
    assert!(enter(&mut three, "/chat", &bob).await.0, "the connection stays");
    drop(two);
    let mut four = open(stage.addr).await.unwrap();
    while !enter(&mut four, "/chat", &ada).await.0 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_who_comes_back_has_no_more_connections() {
    let config = config(|config| {
        config.limits.connections_per_user = 1;
        config.auth.mode = AuthMode::Jwt;
        config.auth.jwt_secret = Some(SECRET.to_owned().into());
    });
    let stage = start(config).await;
    let ada = token("ada");
    let mut one = open(stage.addr).await.unwrap();
    let (entered, first) = enter(&mut one, "/chat", &ada).await;
    assert!(entered, "{first}");
    drop(one);
    let mut two = open(stage.addr).await.unwrap();
    while !enter(&mut two, "/chat", &ada).await.0 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let back = json!({ "token": ada, "pid": first["pid"] });
    let mut three = open(stage.addr).await.unwrap();
    let (entered, refused) = enter_with(&mut three, "/chat", &back).await;
    assert!(!entered);
    assert_eq!(refused["message"], "Too many connections");
    drop(two);
    let again = async {
        loop {
            let (entered, second) = enter_with(&mut three, "/chat", &back).await;
            if entered {
                break second;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    assert_eq!(again.await["sid"], first["sid"], "its session has waited");
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_enters_so_often() {
    let stage = start(config(|config| config.limits.handshakes_per_ip = 3)).await;
    let mut client = open(stage.addr).await.unwrap();
    for turn in 1..=19 {
        let (entered, refused) = enter_with(&mut client, "/chat", &json!({})).await;
        assert_eq!(entered, turn < 19, "{turn}: {refused}");
        if entered {
            client.1.text("41/chat,").await.unwrap();
        } else {
            assert_eq!(refused["data"]["code"], "RATE_LIMITED");
        }
    }
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_fails_too_often_is_heard_no_more() {
    let config = config(|config| {
        config.limits.auth_failures_per_ip = 3;
        config.auth.mode = AuthMode::Jwt;
        config.auth.jwt_secret = Some(SECRET.to_owned().into());
    });
    let stage = start(config).await;
    let mut client = open(stage.addr).await.unwrap();
    for _ in 0..3 {
        let (_, refused) = enter(&mut client, "/chat", "rubbish").await;
        assert_eq!(refused["message"], "Invalid token");
    }
    let (entered, refused) = enter(&mut client, "/chat", &token("ada")).await;
    assert!(!entered);
    assert_eq!(refused["message"], "Too many attempts");
    assert_eq!(refused["data"]["code"], "RATE_LIMITED");
    let after = refused["data"]["retryAfter"].as_u64().unwrap();
    assert!((1..=20).contains(&after), "{after}");
    is_limited(&polling(stage.addr, "").await, 20);
    stage.stop().await;
}

/// A session endpoint that takes its time; how often it was asked.
async fn sessions(tasks: &Tasks) -> (String, Arc<AtomicU64>) {
    let asked = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&asked);
    let answer = async move |Json(question): Json<Value>| {
        count.fetch_add(1, Ordering::SeqCst);
        tokio::time::sleep(Duration::from_millis(50)).await;
        let token = question["token"].as_str().unwrap();
        match token.strip_prefix("good-") {
            Some(user) => Ok(Json(json!({ "user": user }))),
            None => Err(StatusCode::UNAUTHORIZED),
        }
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    tasks.background("session endpoint", async move {
        axum::serve(listener, Router::new().route("/", post(answer)))
            .await
            .unwrap();
    });
    (url, asked)
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_at_once_no_more_are_judged_than_may_fail() {
    let tasks = Tasks::new();
    let (url, asked) = sessions(&tasks).await;
    let stage = start(config(|config| {
        config.limits.auth_failures_per_ip = 10;
        config.auth.mode = AuthMode::Session;
        config.auth.session_url = Some(url);
    }))
    .await;
    let opened = join_all((0..200).map(|_| open(stage.addr))).await;
    let mut clients: Vec<_> = opened.into_iter().map(Result::unwrap).collect();

    let all = clients.iter_mut().take(50).enumerate();
    let entered = all.map(async |(number, client)| enter(client, "/chat", &format!("good-{number}")).await);
    for (entered, refused) in join_all(entered).await {
        assert!(entered, "who is good waits for a turn: {refused}");
    }
    assert_eq!(asked.load(Ordering::SeqCst), 50);

    let begun = Instant::now();
    let all = clients.iter_mut().enumerate();
    let entered =
        all.map(async |(number, client)| enter(client, "/notifications", &format!("bad-{number}")).await);
    for (entered, refused) in join_all(entered).await {
        let message = refused["message"].as_str().unwrap();
        assert!(
            !entered && ["Invalid token", "Too many attempts"].contains(&message),
            "{refused}"
        );
    }
    let judged = asked.load(Ordering::SeqCst) - 50;
    let returned = begun.elapsed().as_secs() / 6;
    assert!((10..=10 + returned).contains(&judged), "{judged}");
    stage.stop().await;
    tasks.shutdown(Duration::from_secs(10)).await;
}

/// A limit of one handshake an address tells whom the gateway takes for whom.
async fn one_each(trusted: &str, protocol: bool) -> crate::alone::Alone {
    let trusted = trusted.parse().unwrap();
    start(config(|config| {
        config.limits.handshakes_per_ip = 1;
        config.gateway.trusted_proxies = vec![trusted];
        config.gateway.proxy_protocol = protocol;
        config.gateway.handshake_timeout = Duration::from_secs(1);
    }))
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trusted_proxy_says_who_it_is() {
    let stage = one_each("127.0.0.0/8", false).await;
    for (said, status) in [
        ("1.1.1.1", 200),
        ("1.1.1.2", 200),
        ("1.1.1.1", 429),
        ("9.9.9.9, 1.1.1.2", 429),
        ("9.9.9.9, 1.1.1.3, 127.0.0.9", 200),
        ("2001:db8::1", 200),
        ("2001:db8::2", 429),
    ] {
        let answer = polling(stage.addr, &format!("x-forwarded-for: {said}\r\n")).await;
        assert_eq!(answer.status, status, "{said}");
    }
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn others_say_it_in_vain() {
    let stage = one_each("10.0.0.0/8", true).await;
    assert_eq!(
        polling(stage.addr, "x-forwarded-for: 1.1.1.1\r\n").await.status,
        200
    );
    is_limited(&polling(stage.addr, "x-forwarded-for: 1.1.1.2\r\n").await, 60);
    let lie = format!("PROXY TCP4 1.1.1.3 1.1.1.1 1 1\r\n{POLLING}\r\n");
    let answer = raw(stage.addr, lie.as_bytes()).await.unwrap();
    assert_eq!(answer.status, 400, "no HTTP");
    stage.stop().await;
}

async fn behind(addr: SocketAddr, header: &[u8]) -> Option<u16> {
    let request = [header, POLLING.as_bytes(), b"\r\n"].concat();
    raw(addr, &request).await.map(|answer| answer.status)
}

fn v2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
    let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
    [b"\r\n\r\n\0\r\nQUIT\n", &[command, family][..], &length, rest].concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trusted_proxy_begins_with_a_header() {
    let stage = one_each("127.0.0.1", true).await;
    let v4 = |last| v2(0x21, 0x11, &[1, 1, 1, last, 10, 0, 0, 1, 0, 5, 0, 80]);
    for (what, header, status) in [
        ("v1", b"PROXY TCP4 1.1.1.1 1.1.1.9 1 1\r\n".to_vec(), Some(200)),
        (
            "the same again",
            b"PROXY TCP4 1.1.1.1 1.1.1.9 2 1\r\n".to_vec(),
            Some(429),
        ),
        (
            "v1, of IPv6",
            b"PROXY TCP6 2001:db8::1 ::1 1 1\r\n".to_vec(),
            Some(200),
        ),
        ("v2", v4(2), Some(200)),
        ("v2, the first again", v4(1), Some(429)),
        ("its own check", v2(0x20, 0, &[]), Some(200)),
        ("no header", Vec::new(), None),
        ("no addresses", b"PROXY TCP4\r\n".to_vec(), None),
        ("an endless line", vec![b'P'; 200], None),
        (
            "a line without end",
            [b"PROXY TCP4 ".to_vec(), vec![b'1'; 200]].concat(),
            None,
        ),
        ("an unknown command", v2(0x22, 0x11, &[0; 12]), None),
        (
            "64 KB of header",
            [&b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff"[..], &[0; 2000]].concat(),
            None,
        ),
    ] {
        assert_eq!(behind(stage.addr, &header).await, status, "{what}");
    }
    // A header that never comes is not waited for longer than a request's head.
    let mut silent = TcpStream::connect(stage.addr).await.unwrap();
    silent.write_all(b"PROXY TC").await.unwrap();
    assert!(answer(&mut silent).await.is_none());
    stage.stop().await;
}

/// A guest without a token is a new user with each request; a retry is one all the same.
#[tokio::test(flavor = "multi_thread")]
async fn the_key_of_a_guests_request_is_of_its_address() {
    let stage = start(config(|_| {})).await;
    let send = async |head: &str, body: &str| {
        let length = body.len();
        let request = format!(
            "POST /api/chat/messages HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n\
             content-length: {length}\r\n{head}\r\n{body}"
        );
        let answer = raw(stage.addr, request.as_bytes()).await.unwrap();
        assert_eq!(answer.status, 201, "{answer:?}");
        let sent: Value = serde_json::from_str(&answer.body).unwrap();
        sent["id"].as_str().unwrap().to_owned()
    };
    let (body, keyed) = (r#"{"roomId":"r","content":"c"}"#, "idempotency-key: k\r\n");
    assert_eq!(send(keyed, body).await, send(keyed, body).await);
    // What a page calls its messages may be what another one calls its own.
    let named = r#"{"roomId":"r","content":"c","clientId":"1"}"#;
    assert_ne!(send("", named).await, send("", named).await);
    stage.stop().await;
}
