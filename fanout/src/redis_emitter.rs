//! The bridge for `@socket.io/redis-emitter`: carries out what existing emitters publish in Redis.
//!
//! Redis gives every message to every worker, so one of them, who holds a lease, carries them out; the others keep what
//! they have heard until they know that it is done ([`line`]), and go on from there when that one is gone.

mod lease;
mod line;
mod metrics;

use std::{sync::Arc, time::Duration};

use bus::{EventLog, Signals};
use futures_util::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesOrdered};
use model::{ClientError, ErrorCode};
use publisher::{
    Emitter, Sockets,
    redis_emitter::{Command, Order, read},
};
use registry::{
    leases::LeaseStore,
    redis::{Feed, FeedNews, Wanted},
};
use tokio::{
    sync::watch,
    time::{Interval, MissedTickBehavior, interval, timeout},
};
use tokio_util::sync::CancellationToken;

pub use self::metrics::Metrics;
use self::{
    lease::Holding,
    line::{Entry, Line, Mark, Message},
    metrics::{Kind, Lost},
};

/// Events under way at one time, and their bytes; a single one may be larger.
const MAX_UNDER_WAY: usize = 1024;
const MAX_BYTES_UNDER_WAY: usize = 8 << 20;
/// Between two marks, while messages come.
const MARKS: Duration = Duration::from_millis(200);
/// At the end what is under way has so long.
const LAST: Duration = Duration::from_secs(2);

/// How the bridge behaves.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Names this run of the worker; no two may be alike.
    pub worker: String,
    /// The same for workers that share their clients, and for no others: they may use the same Redis.
    pub cluster: String,
    /// What the emitters' channels begin with.
    pub key: String,
    /// Bytes that an event may have.
    pub max_payload: usize,
}

/// What the bridge works with.
pub struct Deps {
    /// What is published in the channels that [`wanted`] names.
    pub feed: Feed,
    /// The partition logs.
    pub log: Arc<dyn EventLog>,
    /// Volatile events.
    pub signals: Arc<dyn Signals>,
    /// Commands to gateways.
    pub sockets: Sockets,
    /// Which worker is the one.
    pub leases: Arc<dyn LeaseStore>,
    /// What it counts.
    pub metrics: Metrics,
}

/// The channels of emitters with this key, and the cluster's own.
#[must_use]
pub fn wanted(cluster: &str, key: &str) -> Wanted {
    let mut literal = String::with_capacity(key.len());
    for char in key.chars() {
        if matches!(char, '*' | '?' | '[' | ']' | '^' | '\\') {
            literal.push('\\');
        }
        literal.push(char);
    }
    Wanted {
        patterns: vec![format!("{literal}#*"), format!("{literal}-request#*")],
        channels: vec![marks_of(cluster, key)],
    }
}

fn marks_of(cluster: &str, key: &str) -> String {
    format!("fanfare:redis-emitter:{cluster}:{key}")
}

/// The bridge, before it runs.
pub struct Bridge {
    holding: Holding,
    work: Work,
}

impl Bridge {
    /// The bridge as it is before it has heard anything.
    #[must_use]
    pub fn new(settings: Settings, deps: Deps) -> Self {
        let Settings {
            worker,
            cluster,
            key,
            max_payload,
        } = settings;
        let Deps {
            feed,
            log,
            signals,
            sockets,
            leases,
            metrics,
        } = deps;
        let mut ticks = interval(MARKS);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (subscribed, is_subscribed) = watch::channel(false);
        let (holds, held) = watch::channel(None);
        Self {
            holding: Holding {
                worker,
                leases,
                metrics: metrics.clone(),
                subscribed: is_subscribed,
                held: holds,
            },
            work: Work {
                channel: marks_of(&cluster, &key),
                key,
                max_payload,
                feed,
                emitter: Emitter::new(log, signals),
                sockets,
                metrics,
                ticks,
                subscribed,
                held,
                line: Line::default(),
                under_way: FuturesOrdered::new(),
                bytes_under_way: 0,
                command: None,
                commanding: false,
                progress: Progress::default(),
            },
        }
    }

    /// Takes its turns until `stop`; then what is under way is finished, within 2 s, and the lease given back.
    pub async fn run(self, stop: CancellationToken) {
        let Self { holding, mut work } = self;
        let done = CancellationToken::new();
        let working = async {
            work.run(stop).await;
            done.cancel();
        };
        tokio::join!(working, holding.run(&done));
    }
}

/// What has ended.
enum Done {
    /// An event, of so many bytes with its copies.
    Emit(usize, Result<(), ClientError>),
    Command(Kind, Result<(), ClientError>),
    /// Everything in front of this mark.
    Mark(Reached),
}

/// How far it is: a mark of ours, and how many messages were in front of it.
#[derive(Copy, Clone, Default)]
struct Reached {
    epoch: u64,
    number: u64,
    messages: u64,
}

/// What is known of our own marks.
#[derive(Default)]
struct Progress {
    epoch: u64,
    /// Of the last mark that was put.
    number: u64,
    /// Something has come since.
    news: bool,
    /// Messages taken from the line.
    taken: u64,
    done: Reached,
    /// Messages that the others have been told are done.
    told: u64,
}

struct Work {
    key: String,
    channel: String,
    max_payload: usize,
    feed: Feed,
    emitter: Emitter,
    sockets: Sockets,
    metrics: Metrics,
    ticks: Interval,
    subscribed: watch::Sender<bool>,
    /// The epoch of the lease, if it is ours.
    held: watch::Receiver<Option<u64>>,
    line: Line,
    /// In the order in which they were begun.
    under_way: FuturesOrdered<BoxFuture<'static, Done>>,
    bytes_under_way: usize,
    /// Comes next, when nothing is under way any more.
    command: Option<Command>,
    /// One is under way, and nothing else.
    commanding: bool,
    progress: Progress,
}

impl Work {
    async fn run(&mut self, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                news = self.feed.next() => match news {
                    Some(news) => self.heard(news),
                    None => {
                        tracing::error!("the subscription for Redis emitters has ended");
                        break;
                    }
                },
                Some(done) = self.under_way.next(), if !self.under_way.is_empty() => self.ended(done),
                _ = self.ticks.tick() => self.tick(),
                Ok(()) = self.held.changed() => self.tick(),
            }
            self.go_on();
        }
        let finish = async {
            while let Some(done) = self.under_way.next().await {
                self.ended(done);
            }
        };
        if timeout(LAST, finish).await.is_err() {
            tracing::warn!("what Redis emitters asked for last may not be done");
        }
    }

    /// The epoch under which this worker is the one.
    fn turn(&self) -> Option<u64> {
        // Whoever has put a mark with a newer one has the lease.
        let held = *self.held.borrow();
        held.filter(|epoch| *epoch >= self.line.epoch())
    }

    fn heard(&mut self, news: FeedNews) {
        match news {
            FeedNews::Subscribed => {
                self.progress.news = true;
                self.subscribed.send_replace(true);
            }
            FeedNews::Lost => {
                self.line.interrupted();
                self.subscribed.send_replace(false);
            }
            FeedNews::Message { channel, payload } if channel == self.channel => {
                let text = std::str::from_utf8(&payload).unwrap_or_default();
                match text.parse() {
                    Ok(mark) => self.line.mark(mark),
                    Err(()) => tracing::warn!("somebody else publishes in {}", self.channel),
                }
            }
            FeedNews::Message { channel, payload } => {
                let ours = self.turn().is_some();
                let dropped = self.line.message(channel, payload, ours);
                self.progress.news = true;
                if dropped > 0 && ours {
                    self.metrics.lost(Lost::Overflow, dropped as u64);
                    tracing::warn!(dropped, "Redis emitters publish more than can be sent");
                }
            }
        }
    }

    /// Puts a mark, if there is something to tell the others.
    fn tick(&mut self) {
        let Some(epoch) = self.turn() else {
            self.line.forget_old();
            return;
        };
        let progress = &mut self.progress;
        if progress.epoch != epoch {
            *progress = Progress {
                epoch,
                news: true,
                ..Progress::default()
            };
        }
        if !progress.news && progress.done.messages == progress.told {
            return;
        }
        let mark = Mark {
            epoch,
            number: progress.number + 1,
            done: progress.done.number,
        };
        if self.feed.publish(&self.channel, mark.to_string().into()) {
            progress.number = mark.number;
            progress.news = false;
            progress.told = progress.done.messages;
        }
    }

    fn ended(&mut self, done: Done) {
        match done {
            Done::Mark(reached) if reached.epoch == self.progress.epoch => self.progress.done = reached,
            Done::Mark(_) => {}
            Done::Emit(bytes, outcome) => {
                self.bytes_under_way -= bytes;
                self.came_of(Kind::Emit, outcome);
            }
            Done::Command(kind, outcome) => {
                self.commanding = false;
                self.came_of(kind, outcome);
            }
        }
    }

    fn came_of(&self, kind: Kind, outcome: Result<(), ClientError>) {
        match outcome {
            Ok(()) => self.metrics.done(kind),
            Err(error) if error.code == ErrorCode::Unavailable => self.lost(Lost::Unavailable),
            Err(error) => self.lost(Lost::Refused(error.into())),
        }
    }

    fn lost(&self, lost: Lost) {
        self.metrics.lost(lost, 1);
        tracing::warn!(
            reason = lost.reason(),
            "nothing comes of what a Redis emitter published"
        );
    }

    /// Begins what can be begun. Events take their places at once, one behind the other. What concerns sockets waits
    /// until the events in front of it have their places, and those behind it wait for it.
    fn go_on(&mut self) {
        let Some(epoch) = self.turn() else {
            // It is for whoever has the turn: nobody has been told that it is done.
            self.command = None;
            return;
        };
        while !self.commanding
            && self.under_way.len() < MAX_UNDER_WAY
            && self.bytes_under_way < MAX_BYTES_UNDER_WAY
        {
            if let Some(next) = self.command.take() {
                if !self.under_way.is_empty() {
                    self.command = Some(next);
                    return;
                }
                self.commanding = true;
                let command = command(self.sockets.clone(), next);
                self.under_way.push_back(command.boxed());
                return;
            }
            match self.line.pop() {
                Some(Entry::Message(message)) => self.begin(message),
                Some(Entry::Mark(mark)) if mark.epoch == epoch => {
                    let reached = Reached {
                        epoch,
                        number: mark.number,
                        messages: self.progress.taken,
                    };
                    self.under_way
                        .push_back(async move { Done::Mark(reached) }.boxed());
                }
                // Of another's turn.
                Some(Entry::Mark(_)) => {}
                None => return,
            }
        }
    }

    fn begin(&mut self, message: Message) {
        self.progress.taken += 1;
        let Message {
            channel,
            payload,
            name,
            ours,
            ..
        } = message;
        match read(&self.key, &channel, &payload, self.max_payload) {
            Ok(Order::Emit(emit)) if emit.volatile && !ours => self.metrics.lost(Lost::Late, 1),
            Ok(Order::Emit(mut emit)) => {
                emit.idempotency_key = name;
                let copies = emit.rooms.len() + emit.sockets.len();
                let bytes = emit.args.size() * copies.max(1);
                let emitted = self.emitter.emit(&emit, None);
                let done = async move { Done::Emit(bytes, emitted.await.map(drop)) };
                self.bytes_under_way += bytes;
                self.under_way.push_back(done.boxed());
            }
            Ok(Order::Nothing) => {
                self.metrics.lost(Lost::Ignored, 1);
                tracing::info!("a message between servers is ignored: no code of theirs runs here");
            }
            Ok(Order::Sockets(command)) => self.command = Some(command),
            Err(refusal) => self.lost(Lost::Refused(refusal)),
        }
    }
}

async fn command(sockets: Sockets, command: Command) -> Done {
    let (kind, outcome) = match command {
        Command::Join { of, rooms } => (Kind::Join, sockets.join(of, rooms).await),
        Command::Leave { of, rooms } => (Kind::Leave, sockets.leave(of, rooms).await),
        Command::Disconnect { of, mode } => (Kind::Disconnect, sockets.disconnect(of, mode).await),
    };
    Done::Command(kind, outcome.map(drop))
}
