//! Workers and gateways on engines in memory.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bus::{
    EventLog, LogSubject, NewEntry, Signals,
    event_log::memory::{MemoryLog, MemoryLogConfig},
    signals::memory::MemorySignals,
    subjects,
};
use bytes::Bytes;
use delivery::{
    Arrival, Batch, VolatileEvent,
    local::{LinkLimits, LocalLinks, LocalReceiver, pair},
};
use fanout::{Deps, Settings, Worker, metrics::Metrics};
use lifecycle::Tasks;
use model::RoomToken;
use parking_lot::Mutex;
use prost::Message;
use proto::v1::{GatewayHeartbeat, Interest, StateInterest};
use registry::{
    RegistryError,
    checkpoints::{Checkpoints, memory::MemoryCheckpoints},
    leases::{Lease, LeaseStore, memory::MemoryLeases},
    snapshots::{InterestSnapshots, Snapshot, memory::MemorySnapshots},
};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

pub const PARTITIONS: u16 = 4;
pub const LEASE: Duration = Duration::from_secs(3);

/// What workers and gateways share.
pub struct Stage {
    pub log: Arc<dyn EventLog>,
    pub signals: Arc<dyn Signals>,
    pub registry: Arc<Registry>,
    pub links: LocalLinks,
    tasks: Tasks,
}

impl Stage {
    pub fn new() -> Self {
        let config = MemoryLogConfig {
            partitions: PARTITIONS,
            max_messages_per_room: 100_000,
            ..MemoryLogConfig::default()
        };
        Self::on(Arc::new(MemoryLog::new(config)))
    }

    pub fn on(log: Arc<dyn EventLog>) -> Self {
        Self {
            log,
            signals: Arc::new(MemorySignals::new()),
            registry: Arc::default(),
            links: LocalLinks::new(),
            tasks: Tasks::new(),
        }
    }

    /// A worker that runs and has heard the gateways there are.
    pub async fn worker(&self, id: &str) -> RunningWorker {
        self.worker_reading(id, Arc::clone(&self.log)).await
    }

    /// A worker that runs and has a way of its own to the log.
    pub async fn worker_reading(&self, id: &str, log: Arc<dyn EventLog>) -> RunningWorker {
        let cut = Arc::new(AtomicBool::new(false));
        let ports = Arc::new(Ports {
            registry: Arc::clone(&self.registry),
            signals: Arc::clone(&self.signals),
            cut: Arc::clone(&cut),
        });
        let counted = prometheus::Registry::new();
        let tasks = Tasks::new();
        let deps = Deps {
            log,
            signals: ports.clone(),
            leases: ports.clone(),
            checkpoints: ports.clone(),
            snapshots: ports,
            connector: Arc::new(self.links.clone()),
            tasks: tasks.clone(),
            metrics: Arc::new(Metrics::new(&counted).unwrap()),
            tracer: telemetry::trace::Tracer::off(),
        };
        let settings = Settings {
            id: id.to_owned(),
            lease: LEASE,
        };
        let worker = Worker::build(settings, deps).await.unwrap();
        let stop = CancellationToken::new();
        let until = stop.clone();
        tasks.spawn("worker", async move { worker.run(until).await });
        sleep(Duration::from_millis(1100)).await;
        RunningWorker {
            counted,
            stop,
            tasks,
            cut,
        }
    }

    /// A gateway that can be reached and tells so; the workers there are have heard it.
    pub async fn gateway(&self, id: &str) -> Gateway {
        self.gateway_with(id, LinkLimits::default()).await
    }

    pub async fn gateway_with(&self, id: &str, limits: LinkLimits) -> Gateway {
        let (link, receiver) = pair(PARTITIONS, limits);
        self.links.register(id, link);
        let mut gateway = Gateway {
            id: id.to_owned(),
            log: Arc::clone(&self.log),
            signals: Arc::clone(&self.signals),
            tasks: self.tasks.clone(),
            receiver,
            beating: CancellationToken::new(),
            rooms: Arc::default(),
            statements: Arc::default(),
            partitions: Vec::new(),
            events: Vec::new(),
            volatile: Vec::new(),
            gaps: 0,
        };
        for number in 0..PARTITIONS {
            let stated = statement(&gateway.id, &[], number);
            let seq = self.log.append(number, stated).await.unwrap().seq;
            gateway.partitions.push((0, seq));
        }
        gateway.answer().await;
        gateway.beat();
        settle().await;
        gateway
    }

    pub async fn publish(&self, room: RoomToken, text: &str) -> u64 {
        let entry = NewEntry {
            subject: LogSubject::Room(room),
            payload: Bytes::copy_from_slice(text.as_bytes()),
            dedup: None,
            trace: None,
        };
        self.log.append(partition(room), entry).await.unwrap().seq
    }

    /// Publishes the numbers of `range`, each read by itself.
    pub async fn publish_each(&self, room: RoomToken, range: std::ops::Range<usize>) {
        for n in range {
            self.publish(room, &n.to_string()).await;
            settle().await;
        }
    }

    pub fn signal(&self, room: RoomToken, text: &str) {
        let payload = Bytes::copy_from_slice(text.as_bytes());
        self.signals
            .publish(&subjects::signal(partition(room), room), payload)
            .unwrap();
    }
}

/// Lets everybody who has something to do do it, without time passing.
pub async fn settle() {
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
}

pub fn room(number: u8) -> RoomToken {
    RoomToken::from_bytes(&[number; 16]).unwrap()
}

pub fn partition(room: RoomToken) -> u16 {
    model::partition_of(room, PARTITIONS)
}

pub fn numbers(range: std::ops::Range<usize>) -> Vec<String> {
    range.map(|n| n.to_string()).collect()
}

pub struct RunningWorker {
    pub counted: prometheus::Registry,
    stop: CancellationToken,
    tasks: Tasks,
    cut: Arc<AtomicBool>,
}

impl RunningWorker {
    /// Stops it as on a deployment.
    pub async fn stop(&self) {
        self.stop.cancel();
        assert_eq!(self.tasks.shutdown(Duration::from_secs(5)).await, 0);
    }

    /// It reaches the registry and the bus no more, and nobody hears of it; the log and the gateways it
    /// still has.
    pub fn cut_off(&self) {
        self.cut.store(true, Ordering::Relaxed);
    }

    /// It reaches them again.
    pub fn come_back(&self) {
        self.cut.store(false, Ordering::Relaxed);
    }

    /// A metric, added up over its labels.
    pub fn metric(&self, name: &str) -> f64 {
        let families = self.counted.gather();
        let family = families.iter().find(|family| family.name() == name);
        let values = family.map(|family| family.get_metric()).unwrap_or_default();
        values
            .iter()
            .map(|metric| metric.get_gauge().get_value() + metric.get_counter().get_value())
            .sum()
    }

    pub fn owned(&self) -> u16 {
        self.metric("fanfare_partitions_owned") as u16
    }
}

/// Takes deliveries as the real one does: what is old is dropped, a gap is read from the log.
pub struct Gateway {
    pub id: String,
    log: Arc<dyn EventLog>,
    signals: Arc<dyn Signals>,
    tasks: Tasks,
    receiver: LocalReceiver,
    beating: CancellationToken,
    rooms: Arc<Mutex<Vec<RoomToken>>>,
    /// How often it was asked for its rooms.
    pub statements: Arc<AtomicUsize>,
    /// Epoch and position by partition.
    pub partitions: Vec<(u64, u64)>,
    /// Events of its rooms, in the order in which they came.
    pub events: Vec<String>,
    pub volatile: Vec<String>,
    /// Gaps read from the log.
    pub gaps: usize,
}

impl Gateway {
    /// Says every second that it is there.
    pub fn beat(&mut self) {
        self.beating = CancellationToken::new();
        let (until, signals, beat) = (
            self.beating.clone(),
            Arc::clone(&self.signals),
            self.heartbeat(false),
        );
        self.tasks.spawn("heartbeat", async move {
            let beating = async {
                loop {
                    signals
                        .publish(subjects::GATEWAY_HEARTBEAT, beat.clone())
                        .unwrap();
                    sleep(Duration::from_secs(1)).await;
                }
            };
            until.run_until_cancelled(beating).await;
        });
    }

    /// States its rooms to whoever asks.
    async fn answer(&self) {
        let subject = subjects::state_interest(&self.id);
        let mut wishes = self.signals.subscribe(&subject, None).await.unwrap();
        let (id, log, signals) = (self.id.clone(), Arc::clone(&self.log), Arc::clone(&self.signals));
        let (rooms, statements) = (Arc::clone(&self.rooms), Arc::clone(&self.statements));
        self.tasks.spawn("statements", async move {
            while let Some(wish) = wishes.next().await {
                let number = StateInterest::decode(wish.payload).unwrap().partition as u16;
                let entry = statement(&id, &rooms.lock(), number);
                log.append(number, entry).await.unwrap();
                statements.fetch_add(1, Ordering::Relaxed);
                signals.publish(&wish.reply.unwrap(), Bytes::new()).unwrap();
            }
        });
    }

    pub fn be_silent(&self) {
        self.beating.cancel();
    }

    pub fn leave(&self) {
        self.be_silent();
        self.signals
            .publish(subjects::GATEWAY_HEARTBEAT, self.heartbeat(true))
            .unwrap();
    }

    /// The way to it is another one; what was queued is lost.
    pub fn reconnect(&mut self, stage: &Stage) {
        let (link, receiver) = pair(PARTITIONS, LinkLimits::default());
        stage.links.register(&self.id, link);
        self.receiver = receiver;
    }

    fn heartbeat(&self, leaving: bool) -> Bytes {
        let beat = GatewayHeartbeat {
            gateway: self.id.clone(),
            leaving,
            ..GatewayHeartbeat::default()
        };
        beat.encode_to_vec().into()
    }

    pub async fn begin(&mut self, room: RoomToken) {
        self.change(vec![room], Vec::new()).await;
    }

    pub async fn end(&mut self, room: RoomToken) {
        self.change(Vec::new(), vec![room]).await;
    }

    async fn change(&mut self, begin: Vec<RoomToken>, end: Vec<RoomToken>) {
        let number = partition(begin.iter().chain(&end).copied().next().unwrap());
        let bytes = |tokens: &[RoomToken]| {
            tokens
                .iter()
                .map(|token| Bytes::copy_from_slice(token.as_bytes()))
                .collect::<Vec<_>>()
        };
        let interest = Interest {
            gateway: self.id.clone(),
            begin: bytes(&begin),
            end: bytes(&end),
            stated: false,
        };
        let entry = NewEntry {
            subject: LogSubject::Control,
            payload: interest.encode_to_vec().into(),
            dedup: None,
            trace: None,
        };
        self.log.append(number, entry).await.unwrap();
        let mut rooms = self.rooms.lock();
        rooms.retain(|room| !end.contains(room));
        rooms.extend(begin);
    }

    /// Takes what comes until there are so many events in all.
    pub async fn events(&mut self, count: usize) -> &[String] {
        let more = async {
            while self.events.len() < count {
                self.take().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(600), more)
            .await
            .unwrap();
        &self.events
    }

    /// Takes what has come by now and what comes within a second.
    pub async fn rest(&mut self) -> &[String] {
        let taking = async {
            loop {
                self.take().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(1), taking)
            .await
            .unwrap_err();
        &self.events
    }

    async fn take(&mut self) {
        for arrival in self.arrivals().await {
            match arrival {
                Arrival::Batch(batch) => self.batch(batch).await,
                Arrival::Signal(VolatileEvent { record, .. }) => self.volatile.push(text(&record)),
            }
        }
    }

    /// What comes next, as it comes.
    pub async fn arrivals(&mut self) -> Vec<Arrival> {
        let mut arrivals = Vec::new();
        assert!(self.receiver.recv_many(&mut arrivals).await, "the link stays");
        arrivals
    }

    async fn batch(&mut self, batch: Batch) {
        assert!(batch.after <= batch.through, "{batch:?}");
        assert!(
            batch.deliveries.is_sorted_by(|one, next| one.seq < next.seq),
            "{batch:?}"
        );
        let number = usize::from(batch.partition);
        let (epoch, through) = self.partitions[number];
        if batch.epoch < epoch {
            return;
        }
        self.partitions[number].0 = batch.epoch;
        if batch.after > through {
            self.gaps += 1;
            self.read(batch.partition, through, batch.after).await;
        }
        let (_, through) = self.partitions[number];
        for delivery in &batch.deliveries {
            assert!(
                delivery.seq > batch.after && delivery.seq <= batch.through,
                "{batch:?}"
            );
            if delivery.seq > through {
                self.events.push(text(&delivery.record));
            }
        }
        let position = &mut self.partitions[number].1;
        *position = (*position).max(batch.through);
        self.receiver.acknowledge(batch.partition, *position);
    }

    async fn read(&mut self, number: u16, from: u64, to: u64) {
        let mut position = from;
        let mut tail = self.log.tail(number, from).await.unwrap();
        while position < to {
            for entry in tail.next().await.unwrap() {
                position = entry.seq;
                let ours = |room| self.rooms.lock().contains(&room);
                if position <= to && matches!(entry.subject, LogSubject::Room(room) if ours(room)) {
                    self.events.push(text(&entry.payload));
                }
            }
        }
        self.partitions[usize::from(number)].1 = to;
    }
}

fn statement(gateway: &str, rooms: &[RoomToken], number: u16) -> NewEntry {
    let rooms = rooms.iter().filter(|room| partition(**room) == number);
    let interest = Interest {
        gateway: gateway.to_owned(),
        begin: rooms
            .map(|token| Bytes::copy_from_slice(token.as_bytes()))
            .collect(),
        end: Vec::new(),
        stated: true,
    };
    NewEntry {
        subject: LogSubject::Control,
        payload: interest.encode_to_vec().into(),
        dedup: None,
        trace: None,
    }
}

fn text(record: &Bytes) -> String {
    String::from_utf8(record.to_vec()).unwrap()
}

/// The registry that all workers share.
#[derive(Default)]
pub struct Registry {
    pub leases: MemoryLeases,
    pub checkpoints: MemoryCheckpoints,
    pub snapshots: MemorySnapshots,
}

/// One worker's way to registry and bus, which can be cut.
struct Ports {
    registry: Arc<Registry>,
    signals: Arc<dyn Signals>,
    cut: Arc<AtomicBool>,
}

impl Ports {
    fn there(&self) -> Result<&Registry, RegistryError> {
        if self.cut.load(Ordering::Relaxed) {
            return Err(RegistryError::Unavailable("cut off".to_owned()));
        }
        Ok(&self.registry)
    }
}

#[async_trait]
impl LeaseStore for Ports {
    async fn acquire(&self, name: &str, owner: &str, ttl: Duration) -> Result<Option<Lease>, RegistryError> {
        self.there()?.leases.acquire(name, owner, ttl).await
    }

    async fn renew(&self, lease: &Lease, ttl: Duration) -> Result<bool, RegistryError> {
        self.there()?.leases.renew(lease, ttl).await
    }

    async fn release(&self, lease: &Lease) -> Result<(), RegistryError> {
        self.there()?.leases.release(lease).await
    }
}

#[async_trait]
impl Checkpoints for Ports {
    async fn save(&self, partition: u16, epoch: u64, seq: u64) -> Result<bool, RegistryError> {
        self.there()?.checkpoints.save(partition, epoch, seq).await
    }

    async fn load(&self, partition: u16) -> Result<Option<u64>, RegistryError> {
        self.there()?.checkpoints.load(partition).await
    }
}

#[async_trait]
impl InterestSnapshots for Ports {
    async fn save(&self, partition: u16, epoch: u64, seq: u64, table: Bytes) -> Result<bool, RegistryError> {
        self.there()?.snapshots.save(partition, epoch, seq, table).await
    }

    async fn load(&self, partition: u16) -> Result<Option<Snapshot>, RegistryError> {
        self.there()?.snapshots.load(partition).await
    }
}

#[async_trait]
impl Signals for Ports {
    fn publish_traced(
        &self,
        subject: &str,
        payload: Bytes,
        trace: Option<&model::TraceContext>,
    ) -> Result<(), bus::SignalsError> {
        if self.there().is_err() {
            return Ok(());
        }
        self.signals.publish_traced(subject, payload, trace)
    }

    async fn subscribe(
        &self,
        subject: &str,
        queue: Option<&str>,
    ) -> Result<Box<dyn bus::Subscription>, bus::SignalsError> {
        self.signals.subscribe(subject, queue).await
    }

    async fn request(
        &self,
        subject: &str,
        payload: Bytes,
        timeout: Duration,
    ) -> Result<Bytes, bus::SignalsError> {
        self.signals.request(subject, payload, timeout).await
    }
}
