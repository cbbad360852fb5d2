//! SIGHUP, as an operator would send it.
#![allow(clippy::unwrap_used, missing_docs, reason = "tests")]

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    process::Command,
    time::Duration,
};

use bench::client::{Reader, Writer, open};
use servers::{Nats, NatsVersion, Process, Redis, Signal};

const PATIENCE: Duration = Duration::from_secs(60);

/// A standalone server with a configuration file.
struct Server {
    process: Process,
    file: tempfile::NamedTempFile,
    addr: SocketAddr,
}

fn settings(secret: &str, public: &str) -> String {
    format!(
        "[gateway]\nlisten = \"127.0.0.1:0\"\n[admin]\nlisten = \"127.0.0.1:0\"\n\
         [presence]\ngrpc_listen = \"127.0.0.1:0\"\n[fanout]\ngrpc_listen = \"127.0.0.1:0\"\n\
         http_listen = \"127.0.0.1:0\"\n[auth]\nmode = \"jwt\"\njwt_secret = \"{secret}\"\n\
         [rooms]\npublic = \"{public}\"\n"
    )
}

impl Server {
    fn start(content: &str) -> Self {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), content).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_fanfare"));
        command.arg("--config").arg(file.path()).env_clear();
        let process = Process::start("fanfare", &mut command).unwrap();
        let listening = |line: &str| line.strip_prefix("fanfare listening on http://")?.parse().ok();
        let addr = process.line("it listens", PATIENCE, listening).unwrap();
        Self { process, file, addr }
    }

    fn hang_up(&self, content: &str) {
        std::fs::write(self.file.path(), content).unwrap();
        self.process.signal(Signal::HUP).unwrap();
    }
}

fn token(secret: &str) -> String {
    let claims = serde_json::json!({ "sub": "ada" });
    let key = jsonwebtoken::EncodingKey::from_secret(secret.as_bytes());
    jsonwebtoken::encode(&jsonwebtoken::Header::default(), &claims, &key).unwrap()
}

/// What CONNECT is answered.
async fn connect(server: &Server, secret: &str) -> (String, Reader, Writer) {
    let (mut reader, mut writer) = open(server.addr).await.unwrap();
    let connect = format!("40/chat,{{\"token\":\"{}\"}}", token(secret));
    writer.text(&connect).await.unwrap();
    let answer = reader.text().await.unwrap();
    (answer, reader, writer)
}

/// Waits until a token signed with this secret is let in.
async fn until_holds(server: &Server, secret: &str) {
    let holds = async {
        while !connect(server, secret).await.0.starts_with("40") {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, holds).await.unwrap();
}

async fn history(reader: &mut Reader, writer: &mut Writer) -> String {
    writer
        .text("42/chat,1[\"getMessages\",{\"roomId\":\"lobby\"}]")
        .await
        .unwrap();
    loop {
        let text = reader.text().await.unwrap();
        if text.starts_with("43/chat,1") {
            return text;
        }
    }
}

#[tokio::test]
async fn sighup_takes_new_keys_and_policies_and_drops_nobody() {
    let server = Server::start(&settings("first", ""));
    let (answer, mut reader, mut writer) = connect(&server, "first").await;
    assert!(answer.starts_with("40"), "{answer}");
    assert!(history(&mut reader, &mut writer).await.contains("FORBIDDEN"));

    server.hang_up(&settings("second", "lobby"));
    until_holds(&server, "second").await;
    assert!(connect(&server, "first").await.0.contains("Invalid token"));
    let allowed = history(&mut reader, &mut writer).await;
    assert!(allowed.contains(r#""status":"ok""#), "{allowed}");

    // What does not hold changes nothing; the next one that does, does.
    server.hang_up("[auth]\njwt_secret = \"third\"\ncolour = 1\n");
    server.hang_up("no TOML");
    let bad_schema =
        "[[namespaces]]\npattern = \"/chat\"\n[namespaces.custom_events.note.schema]\ntype = 7\n";
    server.hang_up(&format!("{}{bad_schema}", settings("third", "lobby")));
    let told = |line: &str| {
        line.contains("SIGHUP: the configuration before goes on")
            .then_some(())
    };
    server.process.line("it says so", PATIENCE, told).unwrap();
    assert!(connect(&server, "third").await.0.contains("Invalid token"));
    server.hang_up(&settings("fourth", ""));
    until_holds(&server, "fourth").await;
    assert!(connect(&server, "third").await.0.contains("Invalid token"));
    assert!(history(&mut reader, &mut writer).await.contains("FORBIDDEN"));
}

#[test]
fn the_log_shows_no_key_of_a_url() {
    let nobody = "jwt_secret = \"first\"\njwks_url = \"http://127.0.0.1:1/keys?key=sesame\"\n";
    let server = Server::start(&settings("first", "").replace("jwt_secret = \"first\"\n", nobody));
    let told = |line: &str| line.contains("127.0.0.1:1/keys").then(|| line.to_owned());
    let told = server
        .process
        .line("where keys cannot be had", PATIENCE, told)
        .unwrap();
    assert!(told.contains("keys?********"), "{told}");
    assert!(!server.process.output().contains("sesame"));
}

/// Waits until a process has read its configuration again, and says what it has taken.
fn until_read(process: &Process, takes: &str) {
    let told = |line: &str| {
        (line.contains("SIGHUP: read again; everything else takes a restart") && line.contains(takes))
            .then_some(())
    };
    process.line("it has read again", PATIENCE, told).unwrap();
}

/// The status of a call of the publisher API with this key.
fn publish(api: SocketAddr, key: &str) -> String {
    let mut stream = TcpStream::connect(api).unwrap();
    let head = format!("authorization: Bearer {key}\r\ncontent-length: 2\r\nconnection: close\r\n");
    write!(stream, "POST /v1/emit HTTP/1.1\r\nhost: x\r\n{head}\r\n{{}}").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer.split(' ').nth(1).unwrap().to_owned()
}

/// Where the publisher API is, by HTTP.
fn publisher_api(process: &Process) -> SocketAddr {
    let listening = |line: &str| {
        let (_, rest) = line.split_once("publisher API grpc=")?;
        rest.split_once("http=")?.1.trim().parse().ok()
    };
    process.line("its publisher API", PATIENCE, listening).unwrap()
}

fn api_keys(one: &str, web: &str) -> String {
    format!(
        "{}[api]\nkey = \"{one}\"\n[[api.keys]]\nname = \"web\"\nkey = \"{web}\"\nscopes = [\"publish\"]\n",
        settings("first", "")
    )
}

/// Key rotation: what is good before and after. A call that is let in is refused for what it lacks.
fn rotates(api: SocketAddr, rotate: impl FnOnce()) {
    let refused = |key: &str| publish(api, key) == "401";
    assert!(!refused("one of some length") && !refused("web of some length"));
    assert!(refused("two of some length") && refused("page of some length"));
    rotate();
    assert!(refused("one of some length") && refused("web of some length"));
    assert!(!refused("two of some length") && !refused("page of some length"));
}

#[test]
fn sighup_takes_new_keys_of_the_apis() {
    let server = Server::start(&api_keys("one of some length", "web of some length"));
    let api = publisher_api(&server.process);
    rotates(api, || {
        server.hang_up(&api_keys("two of some length", "page of some length"));
        until_read(&server.process, "keys of the APIs");
    });
    // Without keys the APIs would be open to whoever reaches them: nothing of that is taken.
    server.hang_up(&settings("second", ""));
    let told = |line: &str| {
        line.contains("without a key the APIs would be open")
            .then_some(())
    };
    server.process.line("it says so", PATIENCE, told).unwrap();
    assert_eq!(publish(api, "none of some length"), "401");
}

#[test]
fn workers_and_presence_services_take_new_keys_too() {
    let nats = Nats::start(NatsVersion::Current).unwrap();
    let redis = Redis::start().unwrap();
    for role in ["fanout", "presence"] {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), api_keys("one of some length", "web of some length")).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_fanfare"));
        command.arg(role).arg("--config").arg(file.path()).env_clear();
        command.env("NATS_URL", nats.url()).env("REDIS_URL", redis.url());
        let process = Process::start(role, &mut command).unwrap();
        let working = |line: &str| line.contains("working").then_some(());
        process.line("it works", PATIENCE, working).unwrap();
        let rotate = || {
            std::fs::write(file.path(), api_keys("two of some length", "page of some length")).unwrap();
            process.signal(Signal::HUP).unwrap();
            until_read(&process, "keys of the APIs");
        };
        match role {
            "fanout" => rotates(publisher_api(&process), rotate),
            _ => rotate(),
        }
        process.stop().unwrap();
    }
}
