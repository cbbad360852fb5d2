//! A record of a room that two gateways want: from the reader of its partition into the queues of their links.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::Result;
use async_trait::async_trait;
use bus::{
    Append, Entry, EventLog, LogError, LogSubject, NewEntry, Page, PageQuery, Signals, Tail,
    event_log::memory::{MemoryLog, MemoryLogConfig},
    signals::memory::MemorySignals,
    subjects,
};
use bytes::Bytes;
use delivery::{
    Arrival, Batch, Connector, GatewayLink, LinkError, VolatileEvent,
    local::{LinkLimits, LocalLinks, LocalReceiver, pair},
};
use fanout::{Deps, Settings, Worker, metrics::Metrics};
use lifecycle::Tasks;
use model::RoomToken;
use prost::Message;
use proto::v1::{GatewayHeartbeat, Interest};
use registry::{
    checkpoints::memory::MemoryCheckpoints, leases::memory::MemoryLeases, snapshots::memory::MemorySnapshots,
};
use tokio_util::sync::CancellationToken;

use crate::{edge, region};

const GATEWAYS: [&str; 2] = ["aaaaaa", "bbbbbb"];
const LEASE: Duration = Duration::from_secs(24 * 3600);
const POLL: Duration = Duration::from_millis(10);
const HEARTBEAT: Duration = Duration::from_millis(500);

pub(crate) fn run(rounds: usize) -> Result<()> {
    edge::alone(async {
        let log = Arc::new(MemoryLog::new(MemoryLogConfig {
            partitions: 1,
            ..MemoryLogConfig::default()
        }));
        let signals = Arc::new(MemorySignals::new());
        let tasks = Tasks::new();
        let links = LocalLinks::new();
        let metrics = Arc::new(Metrics::new(&prometheus::Registry::new())?);
        let deps = Deps {
            log: Arc::new(CountedLog(Arc::clone(&log))),
            signals: signals.clone(),
            leases: Arc::new(MemoryLeases::new()),
            checkpoints: Arc::new(MemoryCheckpoints::new()),
            snapshots: Arc::new(MemorySnapshots::new()),
            connector: Arc::new(CountedLinks {
                links: links.clone(),
                taken: Arc::default(),
            }),
            tasks: tasks.clone(),
            metrics: Arc::clone(&metrics),
            tracer: telemetry::trace::Tracer::off(),
        };
        let settings = Settings {
            id: "worker".to_owned(),
            lease: LEASE,
        };
        let worker = Worker::build(settings, deps).await?;
        tasks.background("worker", worker.run(CancellationToken::new()));
        while metrics.owned() < 1 {
            tokio::time::sleep(POLL).await;
        }

        let Some(room) = RoomToken::from_bytes(&[7; 16]) else {
            anyhow::bail!("a token has 16 bytes");
        };
        let mut gateways = Vec::new();
        for id in GATEWAYS {
            let (link, receiver) = pair(1, LinkLimits::default());
            links.register(id, link);
            append(&log, LogSubject::Control, statement(id, room)).await?;
            gateways.push(receiver);
        }
        let beating = signals.clone();
        tasks.background("heartbeats", async move {
            loop {
                for id in GATEWAYS {
                    // In memory there is nothing to fail.
                    let _ = beating.publish(subjects::GATEWAY_HEARTBEAT, heartbeat(id));
                }
                tokio::time::sleep(HEARTBEAT).await;
            }
        });
        // Until both have links, they get empty batches that show them their gaps, or nothing.
        for gateway in &mut gateways {
            take(gateway).await;
        }

        for _ in 0..rounds {
            append(&log, LogSubject::Room(room), Bytes::from(vec![b'x'; 300])).await?;
            for gateway in &mut gateways {
                while !take(gateway).await {}
            }
        }
        Ok(())
    })
}

/// What has come, acknowledged; whether events are among it.
async fn take(gateway: &mut LocalReceiver) -> bool {
    let mut arrivals = Vec::new();
    gateway.recv_many(&mut arrivals).await;
    let mut events = false;
    for arrival in arrivals {
        if let Arrival::Batch(batch) = arrival {
            events |= !batch.deliveries.is_empty();
            gateway.acknowledge(batch.partition, batch.through);
        }
    }
    events
}

async fn append(log: &MemoryLog, subject: LogSubject, payload: Bytes) -> Result<(), LogError> {
    let entry = NewEntry {
        subject,
        payload,
        dedup: None,
        trace: None,
    };
    log.append(0, entry).await.map(drop)
}

fn statement(gateway: &str, room: RoomToken) -> Bytes {
    let interest = Interest {
        gateway: gateway.to_owned(),
        begin: vec![Bytes::copy_from_slice(room.as_bytes())],
        end: Vec::new(),
        stated: true,
    };
    interest.encode_to_vec().into()
}

fn heartbeat(gateway: &str) -> Bytes {
    let beat = GatewayHeartbeat {
        gateway: gateway.to_owned(),
        ..GatewayHeartbeat::default()
    };
    beat.encode_to_vec().into()
}

/// The log; counting begins when it has handed an event to the partition's reader.
struct CountedLog(Arc<MemoryLog>);

#[async_trait]
impl EventLog for CountedLog {
    fn partitions(&self) -> u16 {
        self.0.partitions()
    }

    fn append(&self, partition: u16, entry: NewEntry) -> Append {
        self.0.append(partition, entry)
    }

    async fn last_seq(&self, partition: u16) -> Result<u64, LogError> {
        self.0.last_seq(partition).await
    }

    async fn tail(&self, partition: u16, after: u64) -> Result<Box<dyn Tail>, LogError> {
        Ok(Box::new(CountedTail(self.0.tail(partition, after).await?)))
    }

    async fn page(&self, partition: u16, room: RoomToken, query: PageQuery) -> Result<Page, LogError> {
        self.0.page(partition, room, query).await
    }

    async fn get(&self, partition: u16, seq: u64) -> Result<Option<Entry>, LogError> {
        self.0.get(partition, seq).await
    }
}

struct CountedTail(Box<dyn Tail>);

#[async_trait]
impl Tail for CountedTail {
    async fn next(&mut self) -> Result<Vec<Entry>, LogError> {
        let entries = self.0.next().await?;
        if entries
            .iter()
            .any(|entry| matches!(entry.subject, LogSubject::Room(_)))
        {
            region::begin();
        }
        Ok(entries)
    }
}

/// Links whose last one to take an event ends the counting.
struct CountedLinks {
    links: LocalLinks,
    taken: Arc<AtomicUsize>,
}

#[async_trait]
impl Connector for CountedLinks {
    async fn connect(&self, gateway: &str, address: &str) -> Result<Arc<dyn GatewayLink>, LinkError> {
        Ok(Arc::new(CountedLink {
            link: self.links.connect(gateway, address).await?,
            taken: Arc::clone(&self.taken),
        }))
    }
}

struct CountedLink {
    link: Arc<dyn GatewayLink>,
    taken: Arc<AtomicUsize>,
}

impl GatewayLink for CountedLink {
    fn deliver(&self, batch: Batch) -> Result<(), LinkError> {
        let events = !batch.deliveries.is_empty();
        let result = self.link.deliver(batch);
        if events && (self.taken.fetch_add(1, Ordering::Relaxed) + 1).is_multiple_of(GATEWAYS.len()) {
            region::end();
        }
        result
    }

    fn signal(&self, signal: VolatileEvent) {
        self.link.signal(signal);
    }

    fn acknowledged(&self, partition: u16) -> u64 {
        self.link.acknowledged(partition)
    }
}
