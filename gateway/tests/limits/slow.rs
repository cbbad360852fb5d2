//! Clients that take their time, so that connections pile up.

use std::time::{Duration, Instant};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{
    alone::Alone,
    client::Client,
    config,
    http::{POLLING, answer, polling, raw},
    start,
};

const PATIENCE: Duration = Duration::from_millis(600);
/// A busy machine is late, but not for ever.
const LATE: Duration = Duration::from_secs(20);

async fn impatient() -> Alone {
    start(config(|config| {
        config.gateway.handshake_timeout = PATIENCE;
        config.gateway.body_timeout = PATIENCE;
    }))
    .await
}

/// Sends `begin`, then a byte now and then, until the server hangs up; after how long that was.
async fn drip(stage: &Alone, begin: &[u8]) -> Duration {
    let mut stream = TcpStream::connect(stage.addr).await.unwrap();
    let begun = Instant::now();
    stream.write_all(begin).await.unwrap();
    let (mut reader, mut writer) = stream.split();
    let dripping = async {
        loop {
            tokio::time::sleep(PATIENCE / 6).await;
            if writer.write_all(b"x").await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    };
    let read = async {
        let mut rest = Vec::new();
        let _ = reader.read_to_end(&mut rest).await;
    };
    tokio::select! {
        () = dripping => {}
        () = read => {}
        () = tokio::time::sleep(LATE) => panic!("it is still connected"),
    }
    begun.elapsed()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_must_come_in_time() {
    let stage = impatient().await;
    for begin in [
        &b""[..],
        b"G",
        b"GET /socket.io/?EIO=4",
        POLLING.as_bytes(),
        b"GET / HTTP/1.1\r\nx: ",
    ] {
        let took = drip(&stage, begin).await;
        assert!(took >= PATIENCE / 2, "{took:?}");
    }
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_must_come_in_time() {
    let stage = impatient().await;
    let opened = polling(stage.addr, "").await.body;
    let (_, sid) = opened.split_once("\"sid\":\"").unwrap();
    let target = format!("/socket.io/?EIO=4&transport=polling&sid={}", &sid[..20]);
    let post = format!("POST {target} HTTP/1.1\r\nhost: x\r\ncontent-length: 500000\r\n\r\n4");
    let mut stream = TcpStream::connect(stage.addr).await.unwrap();
    stream.write_all(post.as_bytes()).await.unwrap();
    let refused = answer(&mut stream).await.unwrap();
    assert_eq!(refused.status, 400);
    // The session has ended: nobody can keep it half-way.
    let get = format!("GET {target} HTTP/1.1\r\nhost: x\r\n\r\n");
    let gone = raw(stage.addr, get.as_bytes()).await.unwrap();
    assert_eq!(
        (gone.status, gone.body.contains("Session ID unknown")),
        (400, true),
        "{gone:?}"
    );
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_must_be_taken() {
    let stage = impatient().await;
    let mut stream = TcpStream::connect(stage.addr).await.unwrap();
    let ask = b"GET /socket.io/?EIO=4&transport=none HTTP/1.1\r\nhost: x\r\n\r\n".repeat(1000);
    let asking = async { while stream.write_all(&ask).await.is_ok() {} };
    let ended = tokio::time::timeout(LATE, asking).await;
    assert!(ended.is_ok(), "it is still connected");
    stage.stop().await;
}

/// Who never finishes takes nothing from the others.
#[tokio::test(flavor = "multi_thread")]
async fn others_are_served_meanwhile() {
    let stage = impatient().await;
    let mut half_open = Vec::new();
    for _ in 0..500 {
        let mut stream = TcpStream::connect(stage.addr).await.unwrap();
        stream.write_all(b"GET /socket.io/?EIO=4").await.unwrap();
        half_open.push(stream);
    }
    let mut client = Client::new(&stage).await;
    assert_eq!(client.ask("ping").await["status"], "ok");
    for mut stream in half_open {
        let mut rest = Vec::new();
        let read = tokio::time::timeout(LATE, stream.read_to_end(&mut rest));
        let _ = read.await.unwrap();
    }
    assert_eq!(client.ask("ping").await["status"], "ok");
    stage.stop().await;
}
