//! One partition while this worker owns it: reads its log in order and hands on.

use std::{
    collections::{HashSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use bus::{Entry, EventLog, LogSubject, Signal, Signals, SignalsError, Subscription, Tail, subjects};
use bytes::Bytes;
use futures_util::{
    StreamExt,
    future::{BoxFuture, OptionFuture},
    stream::FuturesUnordered,
};
use model::{RoomToken, TraceContext};
use prost::Message;
use registry::{RegistryError, checkpoints::Checkpoints, leases::Lease, snapshots::InterestSnapshots};
use telemetry::trace::{Kind, Span, Tracer, number};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::{dispatch::Dispatch, gateways::Gateways, interest::Interest, metrics::Metrics};

/// Volatile events that may wait for the interest they overtook.
const MAX_EARLY: usize = 4096;
/// How often the position is saved, and gateways that are gone or behind are looked after.
const UPKEEP: Duration = Duration::from_millis(500);
/// An interest table that has not changed is saved again so often, in case the registry forgot it.
const SAVE_AGAIN: Duration = Duration::from_secs(10);
/// How often gateways that missed something are told, while there are some.
const GAPS: Duration = Duration::from_millis(20);
/// How often gateways are told that they have everything, if they were sent nothing for so long.
const PROGRESS: Duration = Duration::from_secs(5);
/// Entries of one batch of the log after which other tasks get a turn.
const TURN: usize = 256;
/// A gateway that is heard anew is asked to state its rooms so much later: it has just done so by itself, and
/// the log is still being read.
const HEARD: Duration = Duration::from_millis(50);
/// A gateway gets so long to state its rooms; then it is asked again.
const STATEMENT: Duration = Duration::from_secs(5);
/// After an error the log is asked again so much later.
const RETRY: Duration = Duration::from_millis(200);

/// What a partition works with.
pub(crate) struct Context {
    pub(crate) log: Arc<dyn EventLog>,
    pub(crate) signals: Arc<dyn Signals>,
    pub(crate) checkpoints: Arc<dyn Checkpoints>,
    pub(crate) snapshots: Arc<dyn InterestSnapshots>,
    pub(crate) gateways: Arc<Gateways>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) tracer: Tracer,
}

/// Owns the partition under `lease` until `stop`, or until a newer owner is found to be there: takes it
/// over from where its last owner saved it, works, and saves where it ends.
pub(crate) async fn own(number: u16, lease: Lease, context: Arc<Context>, stop: CancellationToken) {
    let restored = stop.run_until_cancelled(restore(number, &context)).await;
    if let Some((interest, position)) = restored {
        Partition::new(number, lease.epoch, context, interest, position)
            .run(stop)
            .await;
    }
}

/// The interest table and the position to go on from. Without a table: an empty one at the end of the
/// log. The gateways then state their rooms, and read from the log what lies before.
async fn restore(number: u16, context: &Context) -> (Interest, u64) {
    loop {
        let error = match load(number, context).await {
            Ok(Some(restored)) => return restored,
            Ok(None) => match context.log.last_seq(number).await {
                Ok(last) => return (Interest::default(), last),
                Err(error) => error.to_string(),
            },
            Err(error) => error.to_string(),
        };
        tracing::warn!(error, partition = number, "waiting for the interest snapshot");
        sleep(RETRY).await;
    }
}

async fn load(number: u16, context: &Context) -> Result<Option<(Interest, u64)>, RegistryError> {
    let Some(snapshot) = context.snapshots.load(number).await? else {
        return Ok(None);
    };
    let Some(table) = Interest::decode(&snapshot.table, |id| context.gateways.number(id)) else {
        tracing::error!(partition = number, "the interest snapshot cannot be read");
        return Ok(None);
    };
    // A checkpoint is saved alone only while the table saved before it is still right.
    let checkpoint = context.checkpoints.load(number).await?.unwrap_or_default();
    Ok(Some((table, snapshot.seq.max(checkpoint))))
}

struct Partition {
    number: u16,
    /// The number as a label.
    label: String,
    epoch: u64,
    context: Arc<Context>,
    interest: Interest,
    dispatch: Dispatch,
    /// Last sequence looked at.
    position: u64,
    saved: u64,
    /// The table is another one than was saved.
    changed: bool,
    table_saved: Instant,
    /// Volatile events that wait for the log to be read so far.
    early: VecDeque<(u64, Signal)>,
    /// Gateways that were asked to state their rooms and have not answered.
    asked: HashSet<u32>,
}

/// A gateway's answer to the wish to state its rooms.
struct Answer {
    gateway: u32,
    result: Result<Bytes, SignalsError>,
}

/// What came of saving.
struct Report {
    position: u64,
    with_table: bool,
    saved: Result<bool, RegistryError>,
    /// The newest sequence of the log, if it could be had.
    newest: Option<u64>,
}

impl Partition {
    fn new(number: u16, epoch: u64, context: Arc<Context>, interest: Interest, position: u64) -> Self {
        let label = number.to_string();
        context.metrics.taken_over(&label, epoch);
        let gateways = Arc::clone(&context.gateways);
        let dispatch = Dispatch::new(number, epoch, position, gateways, Arc::clone(&context.metrics));
        Self {
            number,
            label,
            epoch,
            context,
            interest,
            dispatch,
            position,
            saved: position,
            changed: false,
            table_saved: Instant::now(),
            early: VecDeque::new(),
            asked: HashSet::new(),
        }
    }

    async fn run(mut self, stop: CancellationToken) {
        let (partition, epoch) = (self.number, self.epoch);
        tracing::debug!(partition, epoch, position = self.position, "partition taken over");
        let replaced = self.work(&stop).await;
        if !replaced {
            self.dispatch.tell_progress(self.position);
            let report = self.save(true).await;
            self.note(report);
        }
        tracing::debug!(
            partition,
            epoch,
            position = self.position,
            replaced,
            "partition released"
        );
    }

    /// Works until `stop`; `true` when a newer owner was found before.
    async fn work(&mut self, stop: &CancellationToken) -> bool {
        let Some(mut signals) = stop.run_until_cancelled(self.listen()).await else {
            return false;
        };
        let Some(mut tail) = stop.run_until_cancelled(self.open()).await else {
            return false;
        };
        let mut upkeep = every(UPKEEP);
        let mut gaps = every(GAPS);
        let mut progress = every(PROGRESS);
        // Deliveries do not wait for the registry.
        let mut saving: OptionFuture<BoxFuture<'static, Report>> = None.into();
        let mut under_way = false;
        let mut news = self.context.gateways.news();
        let mut ask_at = Instant::now() + HEARD;
        let mut statements = FuturesUnordered::new();
        loop {
            // At random, so that none of a busy log, busy signals and the upkeep starves the others.
            tokio::select! {
                () = stop.cancelled() => break,
                entries = tail.next() => match entries {
                    Ok(entries) => {
                        let many = entries.len() >= TURN;
                        self.process(entries);
                        self.signal_early();
                        if many {
                            tokio::task::yield_now().await;
                        }
                    }
                    Err(error) => {
                        tracing::warn!(%error, partition = self.number, "reading the log broke off");
                        match stop.run_until_cancelled(self.open()).await {
                            Some(opened) => tail = opened,
                            None => break,
                        }
                    }
                },
                signal = signals.next() => match signal {
                    Some(signal) => self.take_signal(signal).await,
                    None => match stop.run_until_cancelled(self.listen()).await {
                        Some(listening) => signals = listening,
                        None => break,
                    },
                },
                Ok(()) = news.changed() => ask_at = Instant::now() + HEARD,
                () = sleep_until(ask_at) => {
                    ask_at = Instant::now() + UPKEEP;
                    statements.extend(self.ask_for_statements());
                }
                Some(answer) = statements.next() => self.take_answer(&answer),
                _ = gaps.tick(), if self.dispatch.has_gaps() => self.dispatch.tell_gaps(self.position),
                _ = progress.tick() => self.dispatch.tell_progress(self.position),
                Some(report) = &mut saving => {
                    saving = None.into();
                    under_way = false;
                    if self.note(report) {
                        return true;
                    }
                },
                _ = upkeep.tick(), if !under_way => {
                    self.look_after_gateways();
                    let with_table = self.changed || self.table_saved.elapsed() >= SAVE_AGAIN;
                    saving = Some(self.save(with_table)).into();
                    under_way = true;
                }
            }
        }
        // An older position must not overtake the last one.
        match saving.await {
            Some(report) => self.note(report),
            None => false,
        }
    }

    async fn open(&self) -> Box<dyn Tail> {
        loop {
            match self.context.log.tail(self.number, self.position).await {
                Ok(tail) => return tail,
                Err(error) => {
                    tracing::warn!(%error, partition = self.number, "cannot read the log");
                    sleep(RETRY).await;
                }
            }
        }
    }

    async fn listen(&self) -> Box<dyn Subscription> {
        let subject = subjects::signals_of_partition(self.number);
        loop {
            match self.context.signals.subscribe(&subject, None).await {
                Ok(subscription) => return subscription,
                Err(error) => {
                    tracing::warn!(%error, partition = self.number, "cannot listen for volatile events");
                    sleep(RETRY).await;
                }
            }
        }
    }

    fn process(&mut self, entries: Vec<Entry>) {
        let oldest = entries.first().map(|entry| entry.time_ms);
        // These spans end when everything has been handed on.
        let mut processing = Vec::new();
        for entry in entries {
            self.position = entry.seq;
            match entry.subject {
                LogSubject::Room(room) => {
                    let receivers = self.interest.of(room);
                    self.dispatch.collect(receivers, entry.seq, room, &entry.payload);
                    if let Some(parent) = &entry.trace {
                        processing.extend(self.trace(parent, room, entry.seq));
                    }
                }
                LogSubject::Control => self.change_interest(entry.seq, entry.payload),
            }
        }
        self.dispatch.flush(self.position);
        if let Some(oldest) = oldest {
            self.context.metrics.dispatched(oldest);
        }
    }

    /// An event whose trace is recorded has been collected.
    fn trace(&mut self, parent: &TraceContext, room: RoomToken, seq: u64) -> Option<Span> {
        let subject = subjects::log_subject(self.number, LogSubject::Room(room));
        let span = self.processing(parent, room, subject)?;
        let span = span.with("fanfare.sequence", number(seq));
        let (receivers, tracer) = (self.interest.of(room), &self.context.tracer);
        self.dispatch.trace(receivers, seq, tracer, &span);
        Some(span)
    }

    /// The span of handing on what came from `subject`.
    fn processing(&self, parent: &TraceContext, room: RoomToken, subject: String) -> Option<Span> {
        let tracer = &self.context.tracer;
        let receivers = self.interest.of(room);
        Some(
            tracer
                .span("fanout process", Kind::Consumer, parent)?
                .with("messaging.system", "nats")
                .with("messaging.operation.name", "process")
                .with("messaging.operation.type", "process")
                .with("messaging.destination.name", subject)
                .with("messaging.destination.partition.id", self.label.clone())
                .with("fanfare.gateways", number(receivers.len())),
        )
    }

    fn change_interest(&mut self, seq: u64, payload: Bytes) {
        let change = match proto::v1::Interest::decode(payload) {
            Ok(change) => change,
            Err(error) => {
                tracing::error!(%error, partition = self.number, "an interest record cannot be read");
                return;
            }
        };
        let gateway = self.context.gateways.number(&change.gateway);
        let tokens = |tokens: Vec<Bytes>| {
            tokens
                .into_iter()
                .filter_map(|token| RoomToken::from_bytes(&token))
        };
        for room in tokens(change.end) {
            self.interest.end(gateway, room);
        }
        for room in tokens(change.begin) {
            self.interest.begin(gateway, room);
        }
        if change.stated && self.interest.state(gateway) {
            self.dispatch.stated(gateway, seq);
        }
        self.changed = true;
    }

    /// Asks the gateways that are heard and whose rooms are not all known.
    fn ask_for_statements(&mut self) -> Vec<BoxFuture<'static, Answer>> {
        let mut answers: Vec<BoxFuture<'static, Answer>> = Vec::new();
        for gateway in self.context.gateways.live() {
            if self.interest.is_stated(gateway) || !self.asked.insert(gateway) {
                continue;
            }
            let Some(id) = self.context.gateways.id(gateway) else {
                continue;
            };
            let signals = Arc::clone(&self.context.signals);
            let wish = proto::v1::StateInterest {
                partition: self.number.into(),
            };
            answers.push(Box::pin(async move {
                let subject = subjects::state_interest(&id);
                let result = signals
                    .request(&subject, wish.encode_to_vec().into(), STATEMENT)
                    .await;
                Answer { gateway, result }
            }));
        }
        answers
    }

    /// The statement itself comes through the log. One that fails is asked for again with the upkeep.
    fn take_answer(&mut self, Answer { gateway, result }: &Answer) {
        self.asked.remove(gateway);
        if let Err(error) = result {
            tracing::warn!(%error, partition = self.number, gateway, "a gateway did not state its rooms");
        }
    }

    /// Hands a volatile event on. One for a room without interest may have overtaken the record of the
    /// interest: it waits until the log has been read up to where it ends now.
    async fn take_signal(&mut self, signal: Signal) {
        let known =
            subjects::signal_token(&signal.subject).is_some_and(|room| !self.interest.of(room).is_empty());
        if !known && self.early.len() < MAX_EARLY {
            match self.context.log.last_seq(self.number).await {
                Ok(last) if last > self.position => {
                    self.early.push_back((last, signal));
                    return;
                }
                Ok(_) | Err(_) => {}
            }
        }
        self.signal(&signal);
    }

    fn signal_early(&mut self) {
        while self.early.front().is_some_and(|(last, _)| *last <= self.position) {
            if let Some((_, signal)) = self.early.pop_front() {
                self.signal(&signal);
            }
        }
    }

    fn signal(&mut self, signal: &Signal) {
        let Some(room) = subjects::signal_token(&signal.subject) else {
            return;
        };
        self.context.metrics.signals.inc();
        let parent = signal.trace.as_deref();
        let span = parent.and_then(|parent| self.processing(parent, room, signal.subject.clone()));
        let trace = span.as_ref().map(|span| (&self.context.tracer, span));
        self.dispatch
            .signal(self.interest.of(room), room, &signal.payload, trace);
    }

    fn look_after_gateways(&mut self) {
        for gateway in self.interest.gateways() {
            if self.context.gateways.is_gone(gateway) {
                tracing::debug!(
                    partition = self.number,
                    gateway,
                    "gateway is gone: its interest ends"
                );
                self.interest.end_gateway(gateway);
                self.dispatch.forget(gateway);
                self.changed = true;
            }
        }
        let stated = self.interest.gateways().into_iter();
        self.dispatch
            .find_gaps(stated.filter(|gateway| self.interest.is_stated(*gateway)));
        self.context
            .metrics
            .reached(&self.label, self.position, self.interest.len());
    }

    /// Saves the position, if there is news, and asks how far the log is.
    fn save(&mut self, with_table: bool) -> BoxFuture<'static, Report> {
        let context = Arc::clone(&self.context);
        let (number, epoch, position) = (self.number, self.epoch, self.position);
        let table = with_table.then(|| {
            self.changed = false;
            self.table_saved = Instant::now();
            Bytes::from(self.interest.encode(|gateway| context.gateways.id(gateway)))
        });
        let news = with_table || position > self.saved;
        Box::pin(async move {
            let newest = context.log.last_seq(number).await.ok();
            let saved = async {
                // The table first: a checkpoint must not run ahead of the interest that goes with it.
                if let Some(table) = table
                    && !context.snapshots.save(number, epoch, position, table).await?
                {
                    return Ok(false);
                }
                Ok(!news || context.checkpoints.save(number, epoch, position).await?)
            };
            Report {
                position,
                with_table,
                saved: saved.await,
                newest,
            }
        })
    }

    /// `true` when a newer owner has saved before.
    fn note(&mut self, report: Report) -> bool {
        if let Some(newest) = report.newest {
            self.context
                .metrics
                .lags(&self.label, newest.saturating_sub(self.position));
        }
        match report.saved {
            Ok(true) => self.saved = report.position,
            Ok(false) => {
                tracing::warn!(
                    partition = self.number,
                    epoch = self.epoch,
                    "a newer owner has saved its position"
                );
                return true;
            }
            Err(error) => {
                self.changed |= report.with_table;
                tracing::warn!(%error, partition = self.number, "the position could not be saved");
            }
        }
        false
    }
}

/// Also when its task panics.
impl Drop for Partition {
    fn drop(&mut self) {
        self.context.metrics.released(&self.label);
    }
}

/// What was missed is not made up for.
fn every(period: Duration) -> Interval {
    let mut interval = interval_at(Instant::now() + period, period);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}
