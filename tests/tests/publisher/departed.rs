//! Sessions that a killed gateway has left, and what servers do to them before they are taken up.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use bench::client::{Reader, Writer, open};
use serde_json::{Value, json};
use tests::{Cluster, HttpRequest, Size, servers::Signal, token};

use crate::served;

const WITHIN: Duration = Duration::from_secs(60);

struct Peer {
    name: &'static str,
    reader: Reader,
    writer: Writer,
    connected: Value,
    /// Numbers of the events it got.
    told: Vec<u64>,
}

impl Peer {
    /// Its gateway may still have to learn that another one is gone: then it is hung up on.
    async fn connect(gateway: SocketAddr, name: &'static str, pid: &Value) -> Result<Self> {
        let auth = json!({ "token": token(name, &[])?, "pid": pid });
        let until = Instant::now() + WITHIN;
        loop {
            let (reader, mut writer) = open(gateway).await?;
            writer.text(&format!("40/chat,{auth}")).await?;
            let mut peer = Self {
                name,
                reader,
                writer,
                connected: Value::Null,
                told: Vec::new(),
            };
            match peer.until("40/chat,").await {
                Ok(answer) => {
                    peer.connected = serde_json::from_str(&answer)?;
                    return Ok(peer);
                }
                Err(error) => ensure!(Instant::now() < until, "{name}: {error}"),
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn back(self, gateway: SocketAddr) -> Result<(Self, bool)> {
        let back = Self::connect(gateway, self.name, &self.connected["pid"]).await?;
        let is_recovered = back.connected["sid"] == self.connected["sid"];
        Ok((back, is_recovered))
    }

    /// The rest of the next packet that begins so; what is told on the way is kept.
    async fn until(&mut self, begin: &str) -> Result<String> {
        loop {
            let text = tokio::time::timeout(WITHIN, self.reader.text()).await??;
            if let Some(event) = text.strip_prefix("42/chat,") {
                let event: Value = serde_json::from_str(event)?;
                if event[0] == "told" {
                    self.told.push(event[2].as_u64().context("a number")?);
                }
            }
            if let Some(rest) = text.strip_prefix(begin) {
                return Ok(rest.to_owned());
            }
        }
    }

    async fn join(&mut self, room: &str) -> Result<()> {
        let packet = format!("42/chat,1{}", json!(["join-room", { "roomId": room }]));
        self.writer.text(&packet).await?;
        let answer = self.until("43/chat,1").await?;
        ensure!(answer.contains("\"ok\""), "{answer}");
        Ok(())
    }
}

#[test]
fn servers_reach_sessions_that_a_killed_gateway_has_left() -> Result<()> {
    let size = Size {
        gateways: 2,
        workers: 1,
        ..Size::default()
    };
    Cluster::run(size, &[("FANFARE_ROOMS__PUBLIC", "*")], |cluster| {
        cluster.until_settled()?;
        let publisher: SocketAddr = served(&cluster.workers[0].output())?.1.parse()?;
        let call = |operation: &str, body: Value| {
            let path = format!("/v1/{operation}");
            let request = HttpRequest::new(publisher, "POST", &path).json(&body);
            anyhow::Ok(request.send()?.expect(200)?.body)
        };
        let addresses = cluster.addresses()?;
        let runtime = tokio::runtime::Runtime::new()?;
        let peers = runtime.block_on(async {
            let mut peers = Vec::new();
            for name in ["ada", "bob", "cyd", "dan"] {
                let mut peer = Peer::connect(addresses[0], name, &Value::Null).await?;
                peer.join("left").await?;
                peer.join("kept").await?;
                peers.push(peer);
            }
            anyhow::Ok(peers)
        })?;
        // What was done while its gateway lived, and undone, is not done once more.
        call(
            "leave-rooms",
            json!({ "namespace": "/chat", "users": ["dan"], "rooms": ["kept"] }),
        )?;
        call(
            "join-rooms",
            json!({ "namespace": "/chat", "users": ["dan"], "rooms": ["kept"] }),
        )?;

        cluster.gateways.remove(0).signal(Signal::KILL)?;
        let emit = |room: &str, number: u32| {
            let event =
                json!({ "namespace": "/chat", "rooms": [room], "event": "told", "args": [room, number] });
            call("emit", event)
        };
        emit("left", 1)?;
        call(
            "leave-rooms",
            json!({ "namespace": "/chat", "users": ["ada", "dan"], "rooms": ["left"] }),
        )?;
        call("disconnect", json!({ "namespace": "/chat", "users": ["bob"] }))?;
        let back: Vec<(Peer, bool)> = runtime.block_on(async {
            let mut back = Vec::new();
            for peer in peers {
                back.push(peer.back(addresses[1]).await?);
            }
            anyhow::Ok(back)
        })?;
        let recovered: Vec<bool> = back.iter().map(|(_, recovered)| *recovered).collect();
        ensure!(recovered == [true, false, true, true], "{recovered:?}");

        emit("left", 2)?;
        emit("kept", 3)?;
        for (mut peer, _) in back {
            let expected: &[u64] = match peer.name {
                "ada" | "dan" => &[3],
                "bob" => continue,
                _ => &[1, 2, 3],
            };
            while peer.told.last() != Some(&3) {
                runtime.block_on(peer.until("42/chat,"))?;
            }
            ensure!(peer.told == expected, "{}: {:?}", peer.name, peer.told);
        }
        Ok(())
    })
}
