//! Sessions that come back at another gateway, with rights that were narrowed meanwhile.

use std::{
    net::SocketAddr,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use bench::client::{Reader, Writer, open};
use serde_json::{Value, json};
use tests::{Cluster, JWT_SECRET, Size, built};

use crate::runtime;

const WITHIN: Duration = Duration::from_secs(60);

/// A token of ada's that lets her into these rooms.
fn token(rooms: [&str; 2]) -> Result<String> {
    let mut command = Command::new(built("fanfare", "cargo build -p fanfare")?);
    command.args(["token", "--sub", "ada", "--room", rooms[0], "--room", rooms[1]]);
    let output = command.env("JWT_SECRET", JWT_SECRET).output()?;
    ensure!(output.status.success(), "{output:?}");
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

struct Client {
    reader: Reader,
    writer: Writer,
    /// What CONNECT was answered.
    entered: Value,
}

impl Client {
    async fn enter(gateway: SocketAddr, auth: &Value) -> Result<Self> {
        let (mut reader, mut writer) = open(gateway).await?;
        writer.text(&format!("40/chat,{auth}")).await?;
        let answer = tokio::time::timeout(WITHIN, reader.text()).await??;
        let entered = answer.strip_prefix("40/chat,").context(answer.clone())?;
        Ok(Self {
            reader,
            writer,
            entered: serde_json::from_str(entered)?,
        })
    }

    /// Comes back with a session; a gateway that cannot say at the moment closes the connection.
    async fn back(gateway: SocketAddr, auth: &Value) -> Result<Self> {
        let until = Instant::now() + WITHIN;
        loop {
            match Self::enter(gateway, auth).await {
                Err(error) if Instant::now() > until => bail!(error),
                Err(_) => tokio::time::sleep(Duration::from_millis(200)).await,
                back => return back,
            }
        }
    }

    /// Whether an event that names the room is acknowledged with `ok`.
    async fn may(&mut self, event: &str, room: &str) -> Result<bool> {
        let packet = json!([event, { "roomId": room }]);
        self.writer.text(&format!("42/chat,1{packet}")).await?;
        loop {
            let text = tokio::time::timeout(WITHIN, self.reader.text()).await??;
            if text.starts_with("43/chat,1[") {
                return Ok(text.contains(r#""status":"ok""#));
            }
        }
    }
}

/// A session in two rooms comes back at another gateway with the same rights, one more with less; `kill`: its own is dead.
fn narrowed(kill: bool) -> Result<()> {
    let size = Size {
        gateways: 2,
        workers: 1,
        ..Size::default()
    };
    Cluster::run(size, &[("FANFARE_ROOMS__PUBLIC", "")], |cluster| {
        cluster.until_settled()?;
        let gateways = cluster.addresses()?;
        let runtime = runtime()?;
        let mut before = runtime.block_on(async {
            let mut clients = Vec::new();
            for _ in 0..2 {
                let mut client =
                    Client::enter(gateways[0], &json!({ "token": token(["kept", "gone"])? })).await?;
                for room in ["kept", "gone"] {
                    ensure!(client.may("join-room", room).await?);
                }
                clients.push(client);
            }
            anyhow::Ok(clients)
        })?;
        if kill {
            drop(cluster.gateways.remove(0));
        }
        let entered: Vec<Value> = before.iter().map(|client| client.entered.clone()).collect();
        before.clear();
        runtime.block_on(async {
            for (entered, rooms, comes_back) in [
                (&entered[0], ["kept", "gone"], true),
                (&entered[1], ["kept", "other"], false),
            ] {
                let auth = json!({ "token": token(rooms)?, "pid": entered["pid"] });
                let mut client = Client::back(gateways[1], &auth).await?;
                let same = client.entered["sid"] == entered["sid"];
                ensure!(same == comes_back, "{rooms:?}: {}", client.entered);
                ensure!(
                    client.may("getMessages", "gone").await? == comes_back,
                    "{rooms:?}"
                );
            }
            Ok(())
        })
    })
}

#[test]
fn a_session_of_another_gateway_does_not_come_back_to_rooms_it_may_not_enter() -> Result<()> {
    narrowed(false)
}

#[test]
fn a_session_of_a_dead_gateway_does_not_come_back_to_rooms_it_may_not_enter() -> Result<()> {
    narrowed(true)
}
