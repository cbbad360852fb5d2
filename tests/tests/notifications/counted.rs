//! Notifications are counted while a user comes and goes, and processes are killed.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use tests::{Client, Cluster, Role, Size, servers::Signal, token, until};

use crate::{KEY, ask, news, publisher, runtime, take};

const NOTIFICATIONS: usize = 150;
/// Nothing takes longer, however busy the machine.
const WITHIN: Duration = Duration::from_secs(120);

/// What everybody knows who takes part.
#[derive(Default)]
struct Stage {
    gateways: Mutex<Vec<SocketAddr>>,
    publishers: Mutex<Vec<SocketAddr>>,
    over: AtomicBool,
    /// How often each id was heard.
    heard: Mutex<HashMap<String, usize>>,
}

#[test]
fn none_is_lost_and_none_comes_twice_while_processes_are_killed() -> Result<()> {
    let size = Size {
        gateways: 2,
        workers: 2,
        ..Size::default()
    };
    let settings = [
        ("FANFARE_API__KEY", KEY),
        ("FANFARE_NOTIFICATIONS__KEEP_PER_USER", "1000"),
    ];
    Cluster::run(size, &settings, |cluster| {
        cluster.until_settled()?;
        let stage = Arc::new(Stage::default());
        meet(cluster, &stage)?;
        let ada = token("ada", &[])?;
        let runtime = runtime()?;
        let listening = runtime.spawn(come_and_go(Arc::clone(&stage), ada));
        let told = Arc::clone(&stage);
        let telling = std::thread::spawn(move || tell(&told));

        cluster.workers.remove(0).signal(Signal::KILL)?;
        cluster.add(Role::Worker)?;
        cluster.until_ready()?;
        meet(cluster, &stage)?;
        cluster.gateways.remove(0).signal(Signal::KILL)?;
        cluster.add(Role::Gateway)?;
        cluster.until_ready()?;
        meet(cluster, &stage)?;

        let told = telling.join().unwrap()?;
        let arrived = until("every notification is heard", WITHIN, || {
            let heard = stage.heard.lock().unwrap();
            Ok(told.iter().all(|id| heard.contains_key(id)))
        });
        stage.over.store(true, Ordering::Relaxed);
        runtime.block_on(listening)??;
        let heard = stage.heard.lock().unwrap();
        let lost = told.iter().filter(|id| !heard.contains_key(*id)).count();
        let twice = heard.values().filter(|count| **count > 1).count();
        ensure!(
            told.len() == NOTIFICATIONS && heard.len() == NOTIFICATIONS && lost == 0 && twice == 0,
            "{} told, {} heard, {lost} lost, {twice} twice",
            told.len(),
            heard.len()
        );
        arrived
    })
}

/// Says where everybody is now.
fn meet(cluster: &Cluster, stage: &Stage) -> Result<()> {
    let publishers: Result<Vec<_>> = cluster
        .workers
        .iter()
        .map(|worker| publisher(&worker.output()))
        .collect();
    *stage.publishers.lock().unwrap() = publishers?;
    *stage.gateways.lock().unwrap() = cluster.addresses()?;
    Ok(())
}

/// Notifies again and again, with one key each until it is taken; the ids.
#[expect(clippy::disallowed_methods, reason = "a thread of its own waits")]
fn tell(stage: &Stage) -> Result<Vec<String>> {
    let mut told = Vec::new();
    for number in 0..NOTIFICATIONS {
        let mut request = news(number);
        request["idempotency_key"] = number.to_string().into();
        let mut attempt = number;
        loop {
            let publishers = stage.publishers.lock().unwrap().clone();
            let answer = ask(publishers[attempt % publishers.len()], &request);
            match answer {
                Ok(answer) if answer.status == 200 => {
                    told.push(answer.body["id"].as_str().unwrap().to_owned());
                    break;
                }
                Ok(answer) => ensure!(answer.status == 503, "{answer:?}"),
                // It was killed.
                Err(_) => {}
            }
            attempt += 1;
            std::thread::sleep(Duration::from_millis(50));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(told)
}

/// Connects here and there, subscribes from the last place it knows, listens for a moment, and goes.
async fn come_and_go(stage: Arc<Stage>, ada: String) -> Result<()> {
    let mut since: Option<Value> = None;
    let mut turn = 0;
    while !stage.over.load(Ordering::Relaxed) {
        turn += 1;
        let gateways = stage.gateways.lock().unwrap().clone();
        let gateway = gateways[turn % gateways.len()];
        let Ok(client) = Client::connect_as(gateway, "/notifications", &ada).await else {
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let payload = since
            .as_ref()
            .map_or(json!({}), |since| json!({ "since": since }));
        // Its gateway may be killed, or wait for what was killed; what came counts all the same.
        let _ = client.ask("subscribe", &payload).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
        for notification in take(&client) {
            since = Some(notification["offset"].clone());
            let id = notification["id"].as_str().unwrap().to_owned();
            *stage.heard.lock().unwrap().entry(id).or_default() += 1;
        }
    }
    Ok(())
}
