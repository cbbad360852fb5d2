//! `subscribe` by a client that has come back with what it missed.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context, Result, ensure};
use bench::client::{Reader, Writer, open};
use serde_json::{Value, json};
use tests::{Cluster, Size, Standalone, token};

use crate::{KEY, news, notify, publisher, runtime};

const PATIENCE: Duration = Duration::from_secs(30);

struct Peer {
    reader: Reader,
    writer: Writer,
    connected: Value,
    /// Names and positions of the notifications it got.
    told: Vec<(String, String)>,
}

impl Peer {
    async fn connect(gateway: SocketAddr, mut auth: Value) -> Result<Self> {
        auth["token"] = token("ada", &[])?.into();
        let (reader, mut writer) = open(gateway).await?;
        writer.text(&format!("40/notifications,{auth}")).await?;
        let mut peer = Self {
            reader,
            writer,
            connected: Value::Null,
            told: Vec::new(),
        };
        peer.connected = serde_json::from_str(&peer.until("40/notifications,").await?)?;
        Ok(peer)
    }

    /// The rest of the next packet that begins so; notifications on the way are kept.
    async fn until(&mut self, begin: &str) -> Result<String> {
        loop {
            let text = tokio::time::timeout(PATIENCE, self.reader.text()).await??;
            if let Some(rest) = text.strip_prefix("42/notifications,") {
                let event: Vec<Value> = serde_json::from_str(rest)?;
                if event[0] == "newNotification" {
                    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
                    self.told.push((text(&event[1]["id"]), text(&event[2])));
                }
            }
            if let Some(rest) = text.strip_prefix(begin) {
                return Ok(rest.to_owned());
            }
        }
    }

    async fn subscribe(&mut self) -> Result<()> {
        self.writer.text("42/notifications,7[\"subscribe\",{}]").await?;
        let answer = self.until("43/notifications,7").await?;
        ensure!(answer.contains("\"ok\""), "{answer}");
        Ok(())
    }

    fn ids(&self) -> Vec<&str> {
        self.told.iter().map(|(id, _)| id.as_str()).collect()
    }
}

/// Comes back twice, each time somewhere else.
fn story(gateways: &[SocketAddr], publisher: SocketAddr) -> Result<()> {
    let runtime = runtime()?;
    let mut gateways = gateways.iter().cycle().copied();
    let mut next = || gateways.next().context("a gateway");
    let mut here = runtime.block_on(async {
        let mut ada = Peer::connect(next()?, json!({})).await?;
        ada.subscribe().await?;
        anyhow::Ok(ada)
    })?;
    for number in 1..=2 {
        notify(publisher, &news(2 * number - 1))?;
        runtime.block_on(here.until("42/notifications,[\"newNotification\""))?;
        let offset = here.told.last().context("a notification")?.1.clone();
        let auth = json!({ "pid": here.connected["pid"], "offset": offset });
        let id = here.connected["sid"].clone();
        drop(here);
        let missed = notify(publisher, &news(2 * number))?;
        here = runtime.block_on(async {
            let mut ada = Peer::connect(next()?, auth).await?;
            ensure!(ada.connected["sid"] == id, "not recovered: {}", ada.connected);
            while ada.told.is_empty() {
                ada.until("42/notifications,[\"newNotification\"").await?;
            }
            ensure!(ada.ids() == [&*missed], "{:?}", ada.told);
            ada.told.clear();
            ada.subscribe().await?;
            Ok(ada)
        })?;
        ensure!(!here.ids().contains(&&*missed), "twice: {:?}", here.told);
    }
    Ok(())
}

#[test]
fn what_a_recovery_has_brought_does_not_come_again() -> Result<()> {
    let server = Standalone::start(&[("FANFARE_API__KEY", KEY)])?;
    let publisher = publisher(&server.output())?;
    let result = story(&[server.address()?], publisher);
    result.map_err(|error| error.context(server.output()))?;
    server.stop()
}

#[test]
fn nor_does_it_at_another_gateway() -> Result<()> {
    let size = Size {
        gateways: 2,
        ..Size::default()
    };
    Cluster::run(size, &[("FANFARE_API__KEY", KEY)], |cluster| {
        cluster.until_settled()?;
        let publisher = publisher(&cluster.workers[0].output())?;
        story(&cluster.addresses()?, publisher)
    })
}
