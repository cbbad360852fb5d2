//! Work queues on JetStream: one stream with the retention of work queues, a subject and a durable consumer a queue;
//! a stream for dead letters.

use std::{collections::HashMap, sync::Arc, time::Duration};

use async_nats::{
    Client, HeaderMap,
    connection::State,
    header::NATS_MESSAGE_ID,
    jetstream::{
        self, AckKind, Context, ErrorCode, Message,
        consumer::{AckPolicy, PullConsumer, pull},
        context::{CreateStreamErrorKind, PublishErrorKind},
        stream::{Config, DiscardPolicy, LastRawMessageErrorKind, RetentionPolicy, StorageType},
    },
};
use async_trait::async_trait;
use bytes::Bytes;
use futures_util::StreamExt;
use parking_lot::Mutex;

use super::{ABANDONED, Buried, DeadLetter, Job, NewJob, WorkError, WorkQueue, WorkSettings, check, plain};
use crate::{nats::lost, subjects};

/// One question to the server.
const ATTEMPT: Duration = Duration::from_millis(1500);
/// Longest a call takes, all attempts included.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(100);
/// A wait for a job is renewed after that.
const PULL: Duration = Duration::from_secs(5);
/// For how long the server knows a job by its id.
const DUPLICATES: Duration = Duration::from_secs(120);
/// Jobs of all queues at a time, and bytes they may take.
const MAX_JOBS: i64 = 1_000_000;
const MAX_BYTES: i64 = 1 << 30;
/// Dead letters that are kept, and for how long.
const MAX_LETTERS: i64 = 100_000;
const LETTER_AGE: Duration = Duration::from_secs(14 * 24 * 3600);
/// Jobs of a queue that may be worked on at a time, in the whole cluster.
const MAX_TAKEN: i64 = 10_000;
const REASON: &str = "Fanfare-Reason";
const ATTEMPTS: &str = "Fanfare-Attempts";

/// Work queues on JetStream. Cheap to clone.
#[derive(Clone)]
pub struct NatsWork {
    shared: Arc<Shared>,
}

struct Shared {
    client: Client,
    context: Context,
    settings: WorkSettings,
    /// By queue; made when the queue is used first.
    consumers: Mutex<HashMap<String, PullConsumer>>,
    ready: Mutex<bool>,
}

impl NatsWork {
    /// On a connection from [`crate::nats::connect`]. Asks the server for nothing yet.
    #[must_use]
    pub fn open(client: Client, settings: WorkSettings) -> Self {
        let mut context = jetstream::new(client.clone());
        context.set_timeout(ATTEMPT);
        Self {
            shared: Arc::new(Shared {
                client,
                context,
                settings,
                consumers: Mutex::default(),
                ready: Mutex::default(),
            }),
        }
    }
}

#[async_trait]
impl WorkQueue for NatsWork {
    async fn enqueue(&self, job: NewJob) -> Result<(), WorkError> {
        check(&job.queue, &job.id)?;
        let mut headers = HeaderMap::new();
        headers.insert(NATS_MESSAGE_ID, format!("{}/{}", job.queue, job.id).as_str());
        let subject = subjects::work(&job.queue);
        self.shared.publish(subject, headers, job.payload).await
    }

    async fn take(&self, queue: &str, max_attempts: u32) -> Result<Box<dyn Job>, WorkError> {
        check(queue, "id")?;
        loop {
            match self.shared.next(queue, max_attempts).await {
                Ok(Some(taken)) => return Ok(Box::new(taken)),
                Ok(None) => {}
                Err(error) => {
                    tracing::debug!(queue, %error, "no work can be taken now");
                    self.shared.forget();
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    async fn bury(&self, letter: DeadLetter) -> Result<(), WorkError> {
        self.shared.bury(letter).await
    }

    async fn buried(&self, queue: &str, after: u64, limit: usize) -> Result<Vec<Buried>, WorkError> {
        check(queue, "id")?;
        let subject = subjects::dead(queue);
        let mut letters = Vec::new();
        let mut from = after.saturating_add(1);
        while letters.len() < limit {
            let found = self.shared.bounded(|| self.shared.letter(&subject, from)).await?;
            let Some(buried) = found else { break };
            from = buried.place.saturating_add(1);
            letters.push(buried);
        }
        Ok(letters)
    }
}

impl Shared {
    /// Tries until the time is over.
    async fn bounded<T, F>(&self, mut attempt: impl FnMut() -> F) -> Result<T, WorkError>
    where
        F: Future<Output = Result<T, WorkError>>,
    {
        let mut reason = "no answer in time".to_owned();
        let attempts = async {
            loop {
                let done = if self.client.connection_state() == State::Connected {
                    tokio::select! {
                        done = attempt() => done,
                        () = lost(&self.client) => Err(unavailable("the connection to NATS was lost")),
                    }
                } else {
                    Err(unavailable("NATS is not connected"))
                };
                match done {
                    Err(WorkError::Unavailable(why)) => reason = why,
                    done => return done,
                }
                self.forget();
                tokio::time::sleep(PAUSE).await;
            }
        };
        match tokio::time::timeout(TIMEOUT, attempts).await {
            Ok(done) => done,
            Err(_) => Err(WorkError::Unavailable(reason)),
        }
    }

    async fn publish(&self, subject: String, headers: HeaderMap, payload: Bytes) -> Result<(), WorkError> {
        let (subject, headers, payload) = (&subject, &headers, &payload);
        self.bounded(|| async move {
            self.prepare().await?;
            let sent = self
                .context
                .publish_with_headers(subject.clone(), headers.clone(), payload.clone())
                .await;
            let acknowledged = match sent {
                Ok(acknowledgement) => acknowledgement.await,
                Err(error) => Err(error),
            };
            match acknowledged {
                Ok(_) => Ok(()),
                Err(error) if error.kind() == PublishErrorKind::MaxPayloadExceeded => {
                    Err(WorkError::Full(error.to_string()))
                }
                Err(error) if error.to_string().contains("maximum") => {
                    Err(WorkError::Full(error.to_string()))
                }
                Err(error) => Err(unavailable(error)),
            }
        })
        .await
    }

    async fn bury(&self, letter: DeadLetter) -> Result<(), WorkError> {
        check(&letter.queue, &letter.id)?;
        let mut headers = HeaderMap::new();
        let id = format!("{}/{}", letter.queue, letter.id);
        headers.insert(NATS_MESSAGE_ID, id.as_str());
        headers.insert(REASON, plain(&letter.reason).as_str());
        headers.insert(ATTEMPTS, letter.attempts.to_string().as_str());
        self.publish(subjects::dead(&letter.queue), headers, letter.payload)
            .await
    }

    async fn letter(&self, subject: &str, from: u64) -> Result<Option<Buried>, WorkError> {
        self.prepare().await?;
        let stream = self.context.get_stream_no_info(subjects::DEAD_STREAM).await;
        let stream = stream.map_err(unavailable)?;
        let message = match stream.get_first_raw_message_by_subject(subject, from).await {
            Ok(message) => message,
            Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => return Ok(None),
            Err(error) => return Err(unavailable(error)),
        };
        let header = |name: &str| {
            message
                .headers
                .get(name)
                .map(|value| value.as_str())
                .unwrap_or_default()
        };
        let name = message.headers.get(NATS_MESSAGE_ID).map(|value| value.as_str());
        let (queue, id) = name.and_then(|name| name.split_once('/')).unwrap_or_default();
        Ok(Some(Buried {
            place: message.sequence,
            time_ms: u64::try_from(message.time.unix_timestamp_nanos() / 1_000_000).unwrap_or(0),
            letter: DeadLetter {
                queue: queue.to_owned(),
                id: id.to_owned(),
                attempts: header(ATTEMPTS).parse().unwrap_or(0),
                reason: header(REASON).to_owned(),
                payload: message.payload.clone(),
            },
        }))
    }

    /// A job that comes within [`PULL`].
    async fn next(self: &Arc<Self>, queue: &str, max_attempts: u32) -> Result<Option<Taken>, WorkError> {
        let consumer = self.consumer(queue).await?;
        let batch = consumer.fetch().max_messages(1).expires(PULL).messages().await;
        let mut batch = batch.map_err(unavailable)?;
        let message = tokio::select! {
            message = batch.next() => message,
            () = lost(&self.client) => return Err(unavailable("the connection to NATS was lost")),
        };
        let Some(message) = message.transpose().map_err(unavailable)? else {
            return Ok(None);
        };
        let attempt = message.info().map_err(unavailable)?.delivered;
        let attempt = u32::try_from(attempt).unwrap_or(u32::MAX);
        let name = message
            .headers
            .as_ref()
            .and_then(|headers| headers.get(NATS_MESSAGE_ID));
        let id = name
            .and_then(|name| name.as_str().split_once('/'))
            .map(|(_, id)| id.to_owned());
        let taken = Taken {
            shared: Arc::clone(self),
            queue: queue.to_owned(),
            id: id.unwrap_or_default(),
            message,
            attempt,
            max_attempts,
        };
        if attempt > max_attempts {
            // More deliveries than that are burials that were cut off.
            taken.bury(max_attempts, ABANDONED).await?;
            return Ok(None);
        }
        Ok(Some(taken))
    }

    async fn consumer(&self, queue: &str) -> Result<PullConsumer, WorkError> {
        if let Some(consumer) = self.consumers.lock().get(queue) {
            return Ok(consumer.clone());
        }
        self.prepare().await?;
        let stream = self.context.get_stream_no_info(subjects::WORK_STREAM).await;
        let stream = stream.map_err(unavailable)?;
        let config = pull::Config {
            durable_name: Some(queue.to_owned()),
            filter_subject: subjects::work(queue),
            ack_policy: AckPolicy::Explicit,
            ack_wait: self.settings.deadline,
            max_ack_pending: MAX_TAKEN,
            ..pull::Config::default()
        };
        let consumer = stream.create_consumer(config).await.map_err(unavailable)?;
        self.consumers.lock().insert(queue.to_owned(), consumer.clone());
        Ok(consumer)
    }

    /// Sees to it that the streams are there.
    async fn prepare(&self) -> Result<(), WorkError> {
        if *self.ready.lock() {
            return Ok(());
        }
        let common = Config {
            storage: StorageType::File,
            num_replicas: self.settings.replicas.max(1),
            duplicate_window: DUPLICATES,
            ..Config::default()
        };
        let work = Config {
            name: subjects::WORK_STREAM.to_owned(),
            subjects: vec![subjects::work("*")],
            retention: RetentionPolicy::WorkQueue,
            discard: DiscardPolicy::New,
            max_messages: MAX_JOBS,
            max_bytes: MAX_BYTES,
            ..common.clone()
        };
        let dead = Config {
            name: subjects::DEAD_STREAM.to_owned(),
            subjects: vec![subjects::dead("*")],
            discard: DiscardPolicy::Old,
            max_messages: MAX_LETTERS,
            max_bytes: MAX_BYTES,
            max_age: LETTER_AGE,
            ..common
        };
        for config in [work, dead] {
            self.create(config).await?;
        }
        *self.ready.lock() = true;
        Ok(())
    }

    async fn create(&self, config: Config) -> Result<(), WorkError> {
        let Err(error) = self.context.create_stream(config.clone()).await else {
            return Ok(());
        };
        match error.kind() {
            // It looks otherwise: other replicas, most likely.
            CreateStreamErrorKind::JetStream(error) if error.error_code() == ErrorCode::STREAM_NAME_EXIST => {
                if let Err(error) = self.context.update_stream(&config).await {
                    tracing::warn!(stream = config.name, %error, "a stream cannot be changed to its configuration and is used as it is");
                }
                Ok(())
            }
            _ => Err(unavailable(error)),
        }
    }

    /// The next call looks whether streams and consumers are still there.
    fn forget(&self) {
        *self.ready.lock() = false;
        self.consumers.lock().clear();
    }
}

struct Taken {
    shared: Arc<Shared>,
    queue: String,
    id: String,
    message: Message,
    attempt: u32,
    max_attempts: u32,
}

impl Taken {
    /// Tells the server and waits until it has heard.
    async fn settle(&self, kind: AckKind) -> Result<(), WorkError> {
        let told = tokio::time::timeout(TIMEOUT, self.message.double_ack_with(kind)).await;
        told.map_err(|_| unavailable("no answer in time"))?
            .map_err(unavailable)
    }

    async fn bury(&self, attempts: u32, reason: &str) -> Result<(), WorkError> {
        let letter = DeadLetter {
            queue: self.queue.clone(),
            id: self.id.clone(),
            payload: self.message.payload.clone(),
            attempts,
            reason: reason.to_owned(),
        };
        self.shared.bury(letter).await?;
        self.settle(AckKind::Term).await
    }
}

#[async_trait]
impl Job for Taken {
    fn id(&self) -> &str {
        &self.id
    }

    fn payload(&self) -> &Bytes {
        &self.message.payload
    }

    fn attempt(&self) -> u32 {
        self.attempt
    }

    async fn working(&self) -> Result<(), WorkError> {
        self.settle(AckKind::Progress).await
    }

    async fn done(self: Box<Self>) -> Result<(), WorkError> {
        self.settle(AckKind::Ack).await
    }

    async fn retry(self: Box<Self>, after: Duration, reason: &str) -> Result<bool, WorkError> {
        if self.attempt >= self.max_attempts {
            self.bury(self.attempt, reason).await?;
            return Ok(false);
        }
        self.settle(AckKind::Nak(Some(after))).await?;
        Ok(true)
    }

    async fn give_up(self: Box<Self>, reason: &str) -> Result<(), WorkError> {
        self.bury(self.attempt, reason).await
    }
}

fn unavailable(error: impl ToString) -> WorkError {
    WorkError::Unavailable(error.to_string())
}
