//! Appends of one partition: in order, pipelined, and tried again under the same id until the outcome is
//! known.
//!
//! Entries are sent without waiting for each other. JetStream stores what one connection sends in the order in
//! which it comes. When an acknowledgement is late, the stream has no leader or the connection was lost, nothing
//! new is sent. The oldest open entry is then sent alone, again and again, as a probe; once it is answered, the
//! stream works and has had all that came before on this connection, so the rest of what is open is sent again,
//! in order, under its old ids: what had been stored is answered as a duplicate, and what had not takes its
//! place in the old order.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_nats::{Client, HeaderMap, Message, StatusCode, Subscriber, connection::State};
use bytes::Bytes;
use futures_util::StreamExt;
use model::TraceContext;
use parking_lot::Mutex;
use rand::Rng;
use serde::Deserialize;
use tokio::{
    sync::{Notify, oneshot},
    task::AbortHandle,
    time::{Instant, MissedTickBehavior, interval, sleep, timeout},
};

use super::{connects, failed};
use crate::{Append, Appended, LogError, NewEntry};

/// Appends that may wait to be sent.
const WAITING: usize = 16_384;
/// Bytes of records that wait or are under way; a single one may be larger.
const HELD_BYTES: usize = 32 << 20;
/// Appends under way at a time.
const UNDER_WAY: usize = 1024;
/// Appends sent before answers are looked at again.
const BURST: usize = 64;
/// An acknowledgement that takes longer is late.
const LATE: Duration = Duration::from_secs(2);
const TICK: Duration = Duration::from_millis(50);
/// Longest pause between two probes.
const PAUSE: Duration = Duration::from_millis(400);
/// A client that takes nothing for so long has lost its connection.
const STUCK: Duration = Duration::from_millis(250);
/// Header of JetStream's deduplication.
const MESSAGE_ID: &str = "Nats-Msg-Id";

pub(super) struct Publisher {
    queue: Arc<Queue>,
    retry: Duration,
    task: AbortHandle,
}

#[derive(Default)]
struct Queue {
    jobs: Mutex<VecDeque<Job>>,
    more: Notify,
    bytes: AtomicUsize,
}

struct Job {
    subject: String,
    payload: Bytes,
    /// The caller's key; one is made up where there is none.
    id: Option<String>,
    trace: Option<Box<TraceContext>>,
    /// When it is given up.
    until: Instant,
    done: oneshot::Sender<Result<Appended, LogError>>,
}

impl Publisher {
    pub(super) fn start(client: Client, retry: Duration) -> Self {
        let queue = Arc::new(Queue::default());
        let mut run = [0u8; 9];
        rand::rng().fill(&mut run);
        let worker = Worker {
            inbox: client.new_inbox(),
            connects: connects(&client),
            client,
            run: run.iter().map(|byte| format!("{byte:02x}")).collect(),
            queue: Arc::clone(&queue),
            open: VecDeque::new(),
            next: 0,
            round: 0,
            phase: Phase::Flowing,
            pause: TICK,
        };
        #[expect(clippy::disallowed_methods, reason = "owned by the publisher, which ends it")]
        let task = tokio::spawn(worker.run());
        Self {
            queue,
            retry,
            task: task.abort_handle(),
        }
    }

    pub(super) fn append(&self, subject: String, entry: NewEntry) -> Append {
        let size = entry.payload.len();
        let (done, outcome) = oneshot::channel();
        {
            let mut jobs = self.queue.jobs.lock();
            let held = self.queue.bytes.load(Ordering::Relaxed);
            if jobs.len() >= WAITING || held > 0 && held + size > HELD_BYTES {
                return failed(LogError::Unavailable("too much waits to be stored".to_owned()));
            }
            self.queue.bytes.fetch_add(size, Ordering::Relaxed);
            jobs.push_back(Job {
                subject,
                payload: entry.payload,
                id: entry.dedup,
                trace: entry.trace,
                until: Instant::now() + self.retry,
                done,
            });
        }
        self.queue.more.notify_one();
        Box::pin(async move {
            outcome
                .await
                .unwrap_or_else(|_| Err(LogError::Unavailable("the log is closed".to_owned())))
        })
    }
}

impl Drop for Publisher {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Queue {
    async fn ready(&self) {
        while self.jobs.lock().is_empty() {
            self.more.notified().await;
        }
    }

    fn finish(&self, job: Job, result: Result<Appended, LogError>) {
        self.bytes.fetch_sub(job.payload.len(), Ordering::Relaxed);
        // Whoever asked may have gone.
        let _ = job.done.send(result);
    }
}

struct Worker {
    client: Client,
    inbox: String,
    /// Makes ids of this run unlike others.
    run: String,
    queue: Arc<Queue>,
    /// Not acknowledged, in order.
    open: VecDeque<Open>,
    next: u64,
    /// Grows with every probe. An answer to an earlier round tells nothing of how the stream is now.
    round: u64,
    phase: Phase,
    /// Until the next probe, after one that failed.
    pause: Duration,
    /// Connections there had been when it was looked last.
    connects: u64,
}

#[derive(Copy, Clone)]
enum Phase {
    /// New appends are sent as they come.
    Flowing,
    /// Nothing is sent until then.
    Broken(Instant),
    /// The oldest open entry was sent then, and nothing else is.
    Probing(Instant),
}

struct Open {
    number: u64,
    job: Job,
    id: String,
    /// When it was sent last.
    sent: Instant,
}

/// JetStream's answer to a publish.
#[derive(Deserialize)]
struct Ack {
    #[serde(default)]
    seq: u64,
    #[serde(default)]
    duplicate: bool,
    error: Option<AckError>,
}

#[derive(Deserialize)]
struct AckError {
    code: u16,
    #[serde(default)]
    description: String,
}

impl Worker {
    async fn run(mut self) {
        loop {
            // Fails, and ends, only when the client was closed for good: what is open is then given up in time.
            if let Ok(answers) = self.client.subscribe(format!("{}.>", self.inbox)).await {
                self.serve(answers).await;
            }
            sleep(TICK).await;
            self.give_up();
        }
    }

    async fn serve(&mut self, mut answers: Subscriber) {
        let queue = Arc::clone(&self.queue);
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let connected = self.look_at_connection();
            let flowing = matches!(self.phase, Phase::Flowing);
            let takes = connected && flowing && self.open.len() < UNDER_WAY;
            // An idle partition costs no wake-ups.
            let idle = takes && self.open.is_empty();
            tokio::select! {
                // Answers first: they make room.
                biased;
                answer = answers.next() => match answer {
                    Some(answer) => self.settle(&answer).await,
                    None => return,
                },
                _ = ticks.tick(), if !idle => self.look_after().await,
                () = queue.ready(), if takes => self.send_burst().await,
            }
        }
    }

    /// Whether there is a connection. What was sent on another one has to be sent again.
    fn look_at_connection(&mut self) -> bool {
        let connects = connects(&self.client);
        let connected = self.client.connection_state() == State::Connected;
        if connects != self.connects || !connected {
            self.connects = connects;
            if !self.open.is_empty() && !matches!(self.phase, Phase::Broken(_)) {
                self.phase = Phase::Broken(Instant::now());
            }
        }
        connected
    }

    async fn send_burst(&mut self) {
        for _ in 0..BURST.min(UNDER_WAY - self.open.len()) {
            let Some(job) = self.queue.jobs.lock().pop_front() else {
                return;
            };
            self.admit(job);
            let Some(open) = self.open.back_mut() else { return };
            if !publish(&self.client, &self.inbox, self.round, open).await {
                self.phase = Phase::Broken(Instant::now());
                return;
            }
            // Between two sends, too: what follows must not overtake what was lost.
            if !self.look_at_connection() || !matches!(self.phase, Phase::Flowing) {
                return;
            }
        }
    }

    fn admit(&mut self, mut job: Job) {
        self.next += 1;
        let number = self.next;
        let id = job.id.take().unwrap_or_else(|| format!("{}-{number}", self.run));
        self.open.push_back(Open {
            number,
            job,
            id,
            sent: Instant::now(),
        });
    }

    async fn look_after(&mut self) {
        self.give_up();
        let now = Instant::now();
        let waited = match self.phase {
            Phase::Flowing => self.open.front().map(|open| open.sent),
            Phase::Probing(sent) => Some(sent),
            Phase::Broken(_) => None,
        };
        if waited.is_some_and(|since| now.duration_since(since) >= LATE) {
            self.phase = Phase::Broken(now);
        }
        if matches!(self.phase, Phase::Broken(until) if until <= now) && self.look_at_connection() {
            self.probe().await;
        }
    }

    fn give_up(&mut self) {
        let now = Instant::now();
        let late = || Err(LogError::Unavailable("no acknowledgement in time".to_owned()));
        while let Some(open) = self.open.pop_front_if(|open| open.job.until <= now) {
            self.queue.finish(open.job, late());
        }
        while let Some(job) = {
            let mut jobs = self.queue.jobs.lock();
            jobs.pop_front_if(|job| job.until <= now)
        } {
            self.queue.finish(job, late());
        }
    }

    async fn probe(&mut self) {
        if self.open.is_empty()
            && let Some(job) = {
                let mut jobs = self.queue.jobs.lock();
                jobs.pop_front()
            }
        {
            self.admit(job);
        }
        let Some(open) = self.open.front_mut() else {
            self.phase = Phase::Flowing;
            return;
        };
        self.round += 1;
        self.phase = if publish(&self.client, &self.inbox, self.round, open).await {
            Phase::Probing(Instant::now())
        } else {
            Phase::Broken(Instant::now() + TICK)
        };
    }

    async fn settle(&mut self, answer: &Message) {
        let mut names = answer.subject.rsplit('.').map(str::parse::<u64>);
        let (Some(Ok(round)), Some(Ok(number))) = (names.next(), names.next()) else {
            return;
        };
        let current = round == self.round;
        let result = outcome(answer);
        match &result {
            Some(Ok(_)) => {}
            Some(Err(_)) if current => {}
            None if current => {
                if !matches!(self.phase, Phase::Broken(_)) {
                    self.phase = Phase::Broken(Instant::now() + self.pause);
                    self.pause = PAUSE.min(self.pause * 2);
                }
                return;
            }
            // It was, or will be, sent again.
            _ => return,
        }
        if let (Some(result), Ok(index)) = (
            result,
            self.open.binary_search_by_key(&number, |open| open.number),
        ) && let Some(open) = self.open.remove(index)
        {
            self.queue.finish(open.job, result);
        }
        if current && matches!(self.phase, Phase::Probing(_)) {
            self.send_again().await;
        }
    }

    async fn send_again(&mut self) {
        self.phase = Phase::Flowing;
        self.pause = TICK;
        for open in &mut self.open {
            if !publish(&self.client, &self.inbox, self.round, open).await {
                self.phase = Phase::Broken(Instant::now());
                return;
            }
        }
    }
}

/// `None` when it should be tried again: the stream has no leader, the server starts or has too much to do.
fn outcome(answer: &Message) -> Option<Result<Appended, LogError>> {
    if answer.status == Some(StatusCode::NO_RESPONDERS) {
        return None;
    }
    let reason = match serde_json::from_slice::<Ack>(&answer.payload) {
        Ok(Ack {
            error: None,
            seq: seq @ 1..,
            duplicate,
        }) => return Some(Ok(Appended { seq, duplicate })),
        Ok(Ack {
            error: Some(error), ..
        }) if matches!(error.code, 429 | 503) => return None,
        Ok(Ack {
            error: Some(error), ..
        }) => error.description,
        Ok(_) => "an acknowledgement without a sequence".to_owned(),
        Err(error) => format!("an acknowledgement that is none: {error}"),
    };
    Some(Err(LogError::Unavailable(reason)))
}

/// `false` when the client does not take it: it is then not sent.
async fn publish(client: &Client, inbox: &str, round: u64, open: &mut Open) -> bool {
    open.sent = Instant::now();
    let mut headers = HeaderMap::new();
    headers.insert(MESSAGE_ID, open.id.as_str());
    if let Some(trace) = &open.job.trace {
        headers.insert(TraceContext::HEADER, trace.to_string());
    }
    let sent = client.publish_with_reply_and_headers(
        open.job.subject.clone(),
        format!("{inbox}.{}.{round}", open.number),
        headers,
        open.job.payload.clone(),
    );
    match timeout(STUCK, sent).await {
        Ok(Ok(())) => true,
        Ok(Err(error)) => {
            tracing::debug!(%error, "an append could not be sent");
            false
        }
        Err(_) => false,
    }
}
