//! Appends of one partition: in order, pipelined, and tried again under the same id until the outcome is
//! known.
//!
//! Entries are sent without waiting for each other. JetStream stores what one connection sends in the order in
//! which it comes. When an acknowledgement is late or the connection was lost, nothing new is sent until all
//! that is open has been sent again, in order, under its old ids: what had been stored is answered as a
//! duplicate, and what had not takes its place in the old order.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_nats::{Client, HeaderMap, Message, StatusCode, connection::State};
use bytes::Bytes;
use futures_util::StreamExt;
use rand::Rng;
use serde::Deserialize;
use tokio::{
    sync::{mpsc, oneshot},
    task::AbortHandle,
    time::{Instant, MissedTickBehavior, interval, sleep},
};

use super::failed;
use crate::{Append, Appended, LogError, NewEntry};

/// Appends that may wait, and bytes of theirs.
const WAITING: usize = 16_384;
const WAITING_BYTES: usize = 64 << 20;
/// Appends under way at a time.
const UNDER_WAY: usize = 1024;
/// An acknowledgement that takes longer is late.
const LATE: Duration = Duration::from_secs(2);
const TICK: Duration = Duration::from_millis(50);
/// Header of JetStream's deduplication.
const MESSAGE_ID: &str = "Nats-Msg-Id";

pub(super) struct Publisher {
    queue: mpsc::Sender<Job>,
    bytes: Arc<AtomicUsize>,
    task: AbortHandle,
}

struct Job {
    subject: String,
    payload: Bytes,
    /// The caller's key; one is made up where there is none.
    id: Option<String>,
    done: oneshot::Sender<Result<Appended, LogError>>,
}

impl Publisher {
    pub(super) fn start(client: Client, retry: Duration) -> Self {
        let (queue, jobs) = mpsc::channel(WAITING);
        let bytes = Arc::new(AtomicUsize::new(0));
        let mut run = [0u8; 9];
        rand::rng().fill(&mut run);
        let worker = Worker {
            inbox: client.new_inbox(),
            client,
            retry,
            run: run.iter().map(|byte| format!("{byte:02x}")).collect(),
            bytes: Arc::clone(&bytes),
            open: VecDeque::new(),
            next: 0,
            broken: false,
        };
        #[expect(clippy::disallowed_methods, reason = "owned by the publisher, which ends it")]
        let task = tokio::spawn(worker.run(jobs));
        Self {
            queue,
            bytes,
            task: task.abort_handle(),
        }
    }

    pub(super) fn append(&self, subject: String, entry: NewEntry) -> Append {
        let size = entry.payload.len();
        if self.bytes.fetch_add(size, Ordering::Relaxed) > WAITING_BYTES {
            self.bytes.fetch_sub(size, Ordering::Relaxed);
            return failed(LogError::Unavailable("too much waits to be stored".to_owned()));
        }
        let (done, outcome) = oneshot::channel();
        let job = Job {
            subject,
            payload: entry.payload,
            id: entry.dedup,
            done,
        };
        if self.queue.try_send(job).is_err() {
            self.bytes.fetch_sub(size, Ordering::Relaxed);
            return failed(LogError::Unavailable("too much waits to be stored".to_owned()));
        }
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

struct Worker {
    client: Client,
    inbox: String,
    retry: Duration,
    /// Makes ids of this run unlike others.
    run: String,
    bytes: Arc<AtomicUsize>,
    /// Sent and not acknowledged, in order.
    open: VecDeque<Open>,
    next: u64,
    /// What is open has to be sent again before anything new.
    broken: bool,
}

struct Open {
    number: u64,
    job: Job,
    id: String,
    /// When it was sent last.
    sent: Instant,
    /// When it is given up.
    until: Instant,
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
    async fn run(mut self, mut jobs: mpsc::Receiver<Job>) {
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let answers = self.client.subscribe(format!("{}.*", self.inbox)).await;
            let Ok(mut answers) = answers else {
                sleep(TICK).await;
                continue;
            };
            loop {
                let connected = self.client.connection_state() == State::Connected;
                self.broken |= !connected && !self.open.is_empty();
                let takes = connected && !self.broken && self.open.len() < UNDER_WAY;
                tokio::select! {
                    // Answers first: they make room.
                    biased;
                    answer = answers.next() => match answer {
                        Some(answer) => self.settle(&answer),
                        // The connection is closed for good, or subscriptions are made anew.
                        None => break,
                    },
                    job = jobs.recv(), if takes => match job {
                        Some(job) => self.send(job).await,
                        None => return,
                    },
                    _ = ticks.tick() => self.look_after().await,
                }
            }
            sleep(TICK).await;
        }
    }

    async fn send(&mut self, mut job: Job) {
        let now = Instant::now();
        self.next += 1;
        let number = self.next;
        let id = job.id.take().unwrap_or_else(|| format!("{}-{number}", self.run));
        let open = Open {
            number,
            job,
            id,
            sent: now,
            until: now + self.retry,
        };
        if let Err(error) = publish(&self.client, &self.inbox, &open).await {
            tracing::debug!(%error, "an append could not be sent");
            self.broken = true;
        }
        self.open.push_back(open);
    }

    async fn look_after(&mut self) {
        let now = Instant::now();
        while self.open.front().is_some_and(|open| open.until <= now) {
            if let Some(open) = self.open.pop_front() {
                self.finish(
                    open.job,
                    Err(LogError::Unavailable("no acknowledgement in time".to_owned())),
                );
            }
        }
        let late = self
            .open
            .front()
            .is_some_and(|open| now.duration_since(open.sent) >= LATE);
        if !(self.broken || late) || self.client.connection_state() != State::Connected {
            self.broken |= late;
            return;
        }
        self.broken = false;
        for open in &mut self.open {
            open.sent = now;
            if let Err(error) = publish(&self.client, &self.inbox, open).await {
                tracing::debug!(%error, "an append could not be sent again");
                self.broken = true;
                return;
            }
        }
    }

    fn settle(&mut self, answer: &Message) {
        let number = answer
            .subject
            .rsplit_once('.')
            .and_then(|(_, number)| number.parse::<u64>().ok());
        let Some(number) = number else { return };
        let Ok(index) = self.open.binary_search_by_key(&number, |open| open.number) else {
            return;
        };
        // The stream is not there for a moment: a leader is being elected, or the server starts.
        if answer.status == Some(StatusCode::NO_RESPONDERS) {
            self.broken = true;
            return;
        }
        let result = match serde_json::from_slice::<Ack>(&answer.payload) {
            Ok(Ack {
                error: None,
                seq,
                duplicate,
            }) if seq > 0 => Ok(Appended { seq, duplicate }),
            Ok(Ack {
                error: Some(error), ..
            }) if error.code == 503 => {
                self.broken = true;
                return;
            }
            Ok(Ack {
                error: Some(error), ..
            }) => Err(LogError::Unavailable(error.description)),
            Ok(_) => Err(LogError::Unavailable(
                "an acknowledgement without a sequence".to_owned(),
            )),
            Err(error) => Err(LogError::Unavailable(format!(
                "an acknowledgement that is none: {error}"
            ))),
        };
        if let Some(open) = self.open.remove(index) {
            self.finish(open.job, result);
        }
    }

    fn finish(&self, job: Job, result: Result<Appended, LogError>) {
        self.bytes.fetch_sub(job.payload.len(), Ordering::Relaxed);
        // Whoever asked may have gone.
        let _ = job.done.send(result);
    }
}

async fn publish(client: &Client, inbox: &str, open: &Open) -> Result<(), async_nats::PublishError> {
    let mut headers = HeaderMap::new();
    headers.insert(MESSAGE_ID, open.id.as_str());
    client
        .publish_with_reply_and_headers(
            open.job.subject.clone(),
            format!("{inbox}.{}", open.number),
            headers,
            open.job.payload.clone(),
        )
        .await
}
