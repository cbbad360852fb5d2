//! A gateway by itself, and clients that say what they mean.

use std::{
    ops::{Deref, DerefMut},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bench::client::{Reader, Writer, open};
use config::{Config, Role, Secret};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::alone::{self, Alone};

pub(crate) const SECRET: &str = "a secret of the tests, 32 bytes or more";
const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) struct Edge(Alone);

impl Deref for Edge {
    type Target = Alone;

    fn deref(&self) -> &Alone {
        &self.0
    }
}

impl DerefMut for Edge {
    fn deref_mut(&mut self) -> &mut Alone {
        &mut self.0
    }
}

/// Tokens are needed and no room is public, unless `change` says otherwise.
pub(crate) async fn start(change: impl FnOnce(&mut Config)) -> Edge {
    let mut config = Config::for_tests(Role::Standalone);
    config.auth.mode = config::AuthMode::Jwt;
    config.auth.jwt_secret = Some(Secret::from(SECRET.to_owned()));
    config.rooms.public = Vec::new();
    change(&mut config);
    Edge(alone::start(config).await)
}

impl Edge {
    pub(crate) async fn stop(self) {
        self.0.stop().await;
    }

    /// A request over a connection of its own: status and body.
    pub(crate) async fn http(&self, head: &str, headers: &str, body: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(self.addr).await.unwrap();
        let length = body.len();
        let request = format!(
            "{head} HTTP/1.1\r\nHost: test\r\nConnection: close\r\nContent-Length: {length}\r\n{headers}\r\n{body}"
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        let read = stream.read_to_string(&mut answer);
        tokio::time::timeout(PATIENCE, read).await.unwrap().unwrap();
        let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
        let (_, body) = answer.split_once("\r\n\r\n").unwrap();
        (status, body.to_owned())
    }

    /// What CONNECT to `/chat` is answered on a polling session whose handshake has this query and these headers.
    pub(crate) async fn polled(&self, query: &str, headers: &str) -> String {
        let path = "/socket.io/?EIO=4&transport=polling";
        let (status, opened) = self.http(&format!("GET {path}{query}"), headers, "").await;
        assert_eq!(status, 200, "{opened}");
        let opened: Value = serde_json::from_str(&opened[1..]).unwrap();
        let session = format!("{path}&sid={}", opened["sid"].as_str().unwrap());
        self.http(&format!("POST {session}"), "", "40/chat,").await;
        self.http(&format!("GET {session}"), "", "").await.1
    }
}

pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// A token of `ada` that holds for a while, unless the claims say otherwise.
pub(crate) fn token(claims: &Value) -> String {
    signed(claims, SECRET)
}

pub(crate) fn signed(claims: &Value, secret: &str) -> String {
    let mut all = json!({ "sub": "ada", "exp": now() + 600 });
    for (name, value) in claims.as_object().unwrap() {
        all[name] = value.clone();
    }
    let key = EncodingKey::from_secret(secret.as_bytes());
    jsonwebtoken::encode(&Header::new(Algorithm::HS256), &all, &key).unwrap()
}

/// A client over WebSocket.
pub(crate) struct Client {
    reader: Reader,
    writer: Writer,
    acks: u64,
}

impl Client {
    /// Connected at the engine, in no namespace.
    pub(crate) async fn open(edge: &Edge) -> Self {
        let (reader, writer) = open(edge.addr).await.unwrap();
        Self {
            reader,
            writer,
            acks: 0,
        }
    }

    /// In `/chat`, by a token with these claims.
    pub(crate) async fn join(edge: &Edge, claims: &Value) -> Self {
        let mut client = Self::open(edge).await;
        client.enter(&json!({ "token": token(claims) })).await;
        client
    }

    /// Enters `/chat`; what it is told there.
    pub(crate) async fn enter(&mut self, auth: &Value) -> Value {
        let answer = self.connect("/chat", auth).await;
        serde_json::from_str(answer.strip_prefix("40/chat,").unwrap()).unwrap()
    }

    /// What CONNECT is answered.
    pub(crate) async fn connect(&mut self, namespace: &str, auth: &Value) -> String {
        self.writer.text(&format!("40{namespace},{auth}")).await.unwrap();
        self.heard(|text| text.starts_with(&format!("40{namespace},")) || text.starts_with("44"))
            .await
    }

    /// What an event in `/chat` is acknowledged with.
    pub(crate) async fn ask(&mut self, event: &str, payload: &Value) -> Value {
        self.acks += 1;
        let packet = format!("42/chat,{}{}", self.acks, json!([event, payload]));
        self.writer.text(&packet).await.unwrap();
        let begin = format!("43/chat,{}[", self.acks);
        let ack = self.heard(|text| text.starts_with(&begin)).await;
        serde_json::from_str(&ack[begin.len()..ack.len() - 1]).unwrap()
    }

    /// `ok`, or the code of the error.
    pub(crate) async fn outcome(&mut self, event: &str, payload: &Value) -> String {
        let ack = self.ask(event, payload).await;
        let word = if ack["status"] == "ok" {
            &ack["status"]
        } else {
            &ack["code"]
        };
        word.as_str().unwrap().to_owned()
    }

    /// Whether a room may be used.
    pub(crate) async fn may_use(&mut self, room: &str) -> bool {
        self.outcome("getMessages", &json!({ "roomId": room })).await == "ok"
    }

    /// The next packet that fits; others are passed over.
    pub(crate) async fn heard(&mut self, fits: impl Fn(&str) -> bool) -> String {
        let heard = async {
            loop {
                let text = self.reader.text().await.unwrap();
                if fits(&text) {
                    return text;
                }
            }
        };
        tokio::time::timeout(PATIENCE, heard).await.unwrap()
    }
}
