//! Custom events handled on NATS, in a cluster.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Result, ensure};
use bus::{
    Signals, WorkQueue, WorkSettings,
    nats::{NatsConfig, NatsHealth, connect},
    signals::nats::NatsSignals,
    work_queue::nats::NatsWork,
};
use serde_json::{Value, json};
use tests::{Cluster, Size};
use tokio::task::JoinSet;

use crate::{
    peer::Peer,
    runtime,
    web::{Web, says},
};

/// Handlers of an application, all of one queue. They end when it is dropped.
pub(crate) struct Handlers {
    signals: Arc<NatsSignals>,
    running: JoinSet<()>,
}

impl Handlers {
    pub(crate) async fn new(cluster: &Cluster) -> Result<Self> {
        let config = NatsConfig {
            servers: cluster.nats.url(),
            ..NatsConfig::default()
        };
        let client = connect(&config, &NatsHealth::new()).await?;
        Ok(Self {
            signals: Arc::new(NatsSignals::new(client)),
            running: JoinSet::new(),
        })
    }

    /// One more on a subject. Where `answer` says nothing it does not answer.
    pub(crate) async fn handle(
        &mut self,
        subject: &str,
        answer: impl Fn(&Value) -> Option<Value> + Send + Sync + 'static,
    ) -> Result<()> {
        let mut asked = self.signals.subscribe(subject, Some("handlers")).await?;
        let signals = Arc::clone(&self.signals);
        self.running.spawn(async move {
            while let Some(question) = asked.next().await {
                let body = serde_json::from_slice(&question.payload).unwrap_or_default();
                if let Some((answer, reply)) = answer(&body).zip(question.reply) {
                    signals.publish(&reply, answer.to_string().into()).unwrap();
                }
            }
        });
        Ok(())
    }
}

/// What nobody could handle is kept, also by a gateway that stops while it still tries.
#[test]
fn events_that_are_given_up_are_buried() -> Result<()> {
    let runtime = runtime()?;
    let size = Size {
        gateways: 1,
        ..two_gateways()
    };
    let settings = [("FANFARE_APP__TIMEOUT_MS", "1000")];
    let mut cluster = Cluster::start(size, &settings)?;
    cluster.until_owned()?;
    let url = crate::urls(&cluster.addresses()?).remove(0);
    let letters = runtime.block_on(async {
        let mut handlers = Handlers::new(&cluster).await?;
        let asked = Arc::new(AtomicU64::new(0));
        let counts = Arc::clone(&asked);
        let silent = move |_: &Value| {
            counts.fetch_add(1, Ordering::SeqCst);
            None
        };
        handlers.handle("fanfare.app.chat.silent", silent).await?;
        handlers
            .handle("fanfare.app.chat.rubbish", |_| Some(json!(1)))
            .await?;
        let mut ada = Peer::user(&url, "ada").await?;
        ada.emit("rubbish", &[json!("kept")]).await?;
        ensure!(ada.event("error").await?[0]["code"] == "UNAVAILABLE");
        ada.emit("nobody's", &[json!("not kept")]).await?;
        ensure!(ada.event("error").await?[0]["code"] == "NO_HANDLER");
        ada.emit("silent", &[json!("still tried")]).await?;
        while asked.load(Ordering::SeqCst) == 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let gateway = cluster.gateways.remove(0);
        tokio::task::spawn_blocking(move || gateway.stop()).await??;
        let config = NatsConfig {
            servers: cluster.nats.url(),
            ..NatsConfig::default()
        };
        let client = connect(&config, &NatsHealth::new()).await?;
        let work = NatsWork::open(client, WorkSettings::default());
        anyhow::Ok(work.buried("app", 0, 10).await?)
    })?;
    let kept: Vec<_> = letters
        .iter()
        .map(|buried| {
            let letter = &buried.letter;
            let body: Value = serde_json::from_slice(&letter.payload).unwrap();
            (
                body["event"].clone(),
                body["args"][0].clone(),
                letter.attempts > 0,
            )
        })
        .collect();
    let expected = [("rubbish", "kept"), ("silent", "still tried")];
    ensure!(
        kept == expected.map(|(event, arg)| (json!(event), json!(arg), true)),
        "{letters:?}"
    );
    cluster.stop()
}

fn two_gateways() -> Size {
    Size {
        gateways: 2,
        workers: 1,
        ..Size::default()
    }
}

#[test]
fn handlers_on_nats_and_a_webhook_for_the_rest() -> Result<()> {
    let runtime = runtime()?;
    let web = runtime.block_on(Web::start(|body| match body["event"].as_str() {
        Some("nobody's") => says(404, json!({})),
        _ => says(200, json!({ "ack": ["by webhook"] })),
    }))?;
    let settings = [
        ("FANFARE_APP__WEBHOOK_URL", web.url.as_str()),
        ("FANFARE_APP__TIMEOUT_MS", "2000"),
    ];
    Cluster::run(two_gateways(), &settings, |cluster| {
        cluster.until_owned()?;
        let urls = crate::urls(&cluster.addresses()?);
        let cluster = &*cluster;
        runtime.block_on(async {
            let mut handlers = Handlers::new(cluster).await?;
            let handled = [Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0))];
            for count in &handled {
                let count = Arc::clone(count);
                let answer = move |body: &Value| {
                    count.fetch_add(1, Ordering::Relaxed);
                    Some(json!({ "ack": [body["event"], body["args"]], "join": ["orders"] }))
                };
                handlers.handle("fanfare.app.chat.order%2Epaid", answer).await?;
            }
            handlers.handle("fanfare.app.chat.silent", |_| None).await?;
            handlers.handle("fanfare.app.chat.rubbish", |_| Some(json!("x"))).await?;
            let tells = |_: &Value| {
                Some(json!({ "emit": [{ "rooms": ["orders"], "users": ["bob"], "event": "told", "args": [1] }] }))
            };
            handlers.handle("fanfare.app.chat.tell", tells).await?;

            let mut ada = Peer::user(&urls[0], "ada").await?;
            let mut bob = Peer::user(&urls[1], "bob").await?;
            let silent = ada.send("silent", &[]).await?;
            for peer in [&mut ada, &mut bob] {
                for number in 0..20 {
                    let ack = peer.send("order.paid", &[json!(number)]).await?;
                    ensure!(peer.answer(ack).await? == [json!("order.paid"), json!([number])]);
                }
            }
            let counts = handled.map(|count| count.load(Ordering::Relaxed));
            ensure!(counts.iter().sum::<u64>() == 40, "each once: {counts:?}");
            ensure!(counts.iter().all(|count| *count > 0), "the queue shares: {counts:?}");

            // Both are in the room, bob is also meant by name: once all the same, at whichever gateway.
            bob.ask("tell", &[]).await?;
            ensure!(ada.event("told").await?[0] == 1);
            ensure!(bob.event("told").await?[0] == 1);
            bob.ask("order.paid", &[]).await?;
            ensure!(!bob.has_heard("told"), "once");

            ensure!(ada.ask("another", &[]).await? == "by webhook");
            ada.refused("NO_HANDLER", "nobody's", &[]).await?;
            ada.refused("UNAVAILABLE", "rubbish", &[]).await?;
            let late = ada.answer(silent).await?;
            ensure!(late[0]["code"] == "UNAVAILABLE", "{late:?}");

            // A handler that is gone makes room for the webhook.
            drop(handlers);
            let mut answer = Value::Null;
            for _ in 0..100 {
                answer = ada.ask("order.paid", &[]).await?;
                if answer == "by webhook" {
                    return Ok(());
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            anyhow::bail!("{answer}")
        })
    })
}
