//! Documents in JetStream key-value buckets: a file stream `KV_<bucket>` each, created on first use, of the shape that
//! other NATS clients know as a bucket.
//!
//! A document's revision is the sequence its write got in the stream of the bucket. It grows with every write of any
//! key and never goes back while the stream exists, whatever is deleted or expires, which is what fencing epochs need.
//! Deleting the stream begins anew at 1. So may the loss of power with a single replica: nats-server syncs files every
//! `sync_interval` (2 min), unless told `always`.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use async_nats::{
    Client,
    connection::State,
    jetstream::{
        self, Context, ErrorCode,
        context::{CreateStreamErrorKind, PublishError, PublishErrorKind},
        message::{PublishMessage, StreamMessage},
        stream::{Config, DiscardPolicy, LastRawMessageErrorKind, StorageType},
    },
};
use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;

use super::{Document, Documents, DocumentsError, check};
use crate::nats::{MAX_SUBJECT, lost};

/// One question to the server.
const ATTEMPT: Duration = Duration::from_millis(1500);
/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(100);
/// How often a write is tried anew at once because another writer was faster.
const RACES: usize = 5;
/// For how long the server knows a repeated write by its id; the documents' age bounds it too.
const DUPLICATES: Duration = Duration::from_secs(120);
const OPERATION: &str = "KV-Operation";

/// How buckets are made, and how long a call may take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NatsDocumentsConfig {
    /// Servers that keep each document, 1 to 5. More than one needs a NATS cluster.
    pub replicas: usize,
    /// Buckets whose documents vanish so long after their last write. The server wants at least 100 ms. Those of
    /// other buckets stay.
    pub max_age: HashMap<String, Duration>,
    /// Longest a call takes, all attempts included.
    pub timeout: Duration,
}

impl Default for NatsDocumentsConfig {
    fn default() -> Self {
        Self {
            replicas: 1,
            max_age: HashMap::new(),
            timeout: Duration::from_secs(5),
        }
    }
}

/// Documents in JetStream key-value buckets. Cheap to clone.
///
/// Reads are answered by the leader of the bucket's stream, so a process reads what it or anybody else has written
/// before.
///
/// A call that gets no answer is tried again until the time is over. That is safe for a write: it names the revision
/// it replaces and carries an id, by which the server, or the stored document, tells whether it has been done. A
/// `put` that ends as [`DocumentsError::Unavailable`] may have been done, or be done later, if the revision is
/// then still the expected one: read again. A `put` that was done, while nobody knew it, and then replaced by somebody
/// else may end as [`DocumentsError::Conflict`] if the server restarted meanwhile.
///
/// Cancelling a call leaves a write done or not, as above.
#[derive(Clone)]
pub struct NatsDocuments {
    shared: Arc<Shared>,
}

struct Shared {
    client: Client,
    context: Context,
    config: NatsDocumentsConfig,
    /// Buckets known to be there.
    ready: Mutex<HashSet<String>>,
}

/// Why an attempt failed.
enum Failure {
    /// The revision is another one.
    Conflict,
    /// It may go better the next time.
    Again(String),
    /// It will not.
    Final(DocumentsError),
}

impl NatsDocuments {
    /// On a connection from [`crate::nats::connect`]. Asks the server for nothing yet.
    #[must_use]
    pub fn open(client: Client, config: NatsDocumentsConfig) -> Self {
        let mut context = jetstream::new(client.clone());
        context.set_timeout(ATTEMPT);
        Self {
            shared: Arc::new(Shared {
                client,
                context,
                config,
                ready: Mutex::default(),
            }),
        }
    }

    /// Creates a bucket, or brings one that is there to the configured age and replicas, as its first use does. A bucket
    /// that cannot be brought there is used as it is, with a warning in the log.
    ///
    /// # Errors
    /// [`DocumentsError::Unavailable`], [`DocumentsError::InvalidKey`].
    pub async fn prepare(&self, bucket: &str) -> Result<(), DocumentsError> {
        check(bucket, "k")?;
        self.bounded("k", || self.shared.prepare(bucket)).await
    }

    /// Tries until the time is over.
    async fn bounded<T, F>(&self, key: &str, mut attempt: impl FnMut() -> F) -> Result<T, DocumentsError>
    where
        F: Future<Output = Result<T, Failure>>,
    {
        let mut reason = "no answer in time".to_owned();
        let attempts = async {
            loop {
                // What is sent without a connection would wait in a queue and be done late.
                let client = &self.shared.client;
                let done = if client.connection_state() == State::Connected {
                    tokio::select! {
                        done = attempt() => done,
                        () = lost(client) => Err(Failure::Again("the connection to NATS was lost".to_owned())),
                    }
                } else {
                    Err(Failure::Again("NATS is not connected".to_owned()))
                };
                match done {
                    Ok(value) => return Ok(value),
                    Err(Failure::Conflict) => return Err(DocumentsError::Conflict(key.to_owned())),
                    Err(Failure::Final(error)) => return Err(error),
                    Err(Failure::Again(why)) => reason = why,
                }
                tokio::time::sleep(PAUSE).await;
            }
        };
        match tokio::time::timeout(self.shared.config.timeout, attempts).await {
            Ok(done) => done,
            Err(_) => Err(DocumentsError::Unavailable(reason)),
        }
    }
}

#[async_trait]
impl Documents for NatsDocuments {
    async fn get(&self, bucket: &str, key: &str) -> Result<Option<Document>, DocumentsError> {
        let key = &Key::new(bucket, key)?;
        let last = self.bounded(key.key, || self.shared.last(key)).await?;
        Ok(last.filter(|last| !is_marker(last)).map(|last| Document {
            value: last.payload,
            revision: last.sequence,
        }))
    }

    async fn put(
        &self,
        bucket: &str,
        key: &str,
        value: Bytes,
        expected: Option<u64>,
    ) -> Result<u64, DocumentsError> {
        let key = &Key::new(bucket, key)?;
        // In JetStream 0 says that there is none.
        if expected == Some(0) {
            return Err(DocumentsError::Conflict(key.key.to_owned()));
        }
        let write = &Write {
            id: self.shared.client.new_inbox(),
            value: Some(value),
        };
        self.bounded(key.key, || self.shared.put(key, write, expected))
            .await
    }

    async fn delete(&self, bucket: &str, key: &str) -> Result<(), DocumentsError> {
        let key = &Key::new(bucket, key)?;
        let write = &Write {
            id: self.shared.client.new_inbox(),
            value: None,
        };
        self.bounded(key.key, || self.shared.delete(key, write)).await
    }
}

/// A key that has been checked.
struct Key<'a> {
    bucket: &'a str,
    key: &'a str,
    subject: String,
}

impl<'a> Key<'a> {
    fn new(bucket: &'a str, key: &'a str) -> Result<Self, DocumentsError> {
        check(bucket, key)?;
        let subject = format!("$KV.{bucket}.{key}");
        if subject.len() > MAX_SUBJECT {
            return Err(DocumentsError::InvalidKey(format!("{bucket}/{key}")));
        }
        Ok(Self { bucket, key, subject })
    }
}

/// What one call writes, however often it has to try.
struct Write {
    /// Nobody else's.
    id: String,
    /// `None` deletes.
    value: Option<Bytes>,
}

impl Shared {
    async fn put(&self, key: &Key<'_>, write: &Write, expected: Option<u64>) -> Result<u64, Failure> {
        self.prepare(key.bucket).await?;
        let mut revision = expected.unwrap_or(0);
        for _ in 0..RACES {
            match self.write(key, write, revision).await {
                Err(Failure::Conflict) => {}
                done => return done,
            }
            match self.last(key).await? {
                // An earlier attempt whose answer was lost.
                Some(last) if is_by(&last, write) => return Ok(last.sequence),
                Some(last) if expected.is_none() && is_marker(&last) => revision = last.sequence,
                // It expired.
                None if expected.is_none() => revision = 0,
                _ => return Err(Failure::Conflict),
            }
        }
        Err(Failure::Again("too many write the same key".to_owned()))
    }

    /// Deletes what is there now and nothing later: the write may be late.
    async fn delete(&self, key: &Key<'_>, write: &Write) -> Result<(), Failure> {
        for _ in 0..RACES {
            let revision = match self.last(key).await? {
                Some(last) if !is_marker(&last) => last.sequence,
                _ => return Ok(()),
            };
            match self.write(key, write, revision).await {
                Ok(_) => return Ok(()),
                Err(Failure::Conflict) => {}
                Err(failure) => return Err(failure),
            }
        }
        Err(Failure::Again("too many write the same key".to_owned()))
    }

    /// Writes if the newest write of the key, marker of a deletion or not, has this sequence (0: there is none).
    async fn write(&self, key: &Key<'_>, write: &Write, revision: u64) -> Result<u64, Failure> {
        let mut message = PublishMessage::build()
            .message_id(&write.id)
            .expected_last_subject_sequence(revision);
        message = match &write.value {
            Some(value) => message.payload(value.clone()),
            None => message.header(OPERATION, "DEL"),
        };
        let sent = self.context.send_publish(key.subject.clone(), message).await;
        let acknowledged = match sent {
            Ok(acknowledgement) => acknowledgement.await,
            Err(error) => Err(error),
        };
        match acknowledged {
            Ok(acknowledgement) => Ok(acknowledgement.sequence),
            Err(error) if is_conflict(&error) => Err(Failure::Conflict),
            Err(error) if error.kind() == PublishErrorKind::MaxPayloadExceeded => {
                Err(Failure::Final(DocumentsError::Unavailable(error.to_string())))
            }
            Err(error) => {
                if error.kind() == PublishErrorKind::StreamNotFound {
                    self.forget(key.bucket);
                }
                Err(Failure::Again(error.to_string()))
            }
        }
    }

    /// The newest write of the key, be it the marker of a deletion.
    async fn last(&self, key: &Key<'_>) -> Result<Option<StreamMessage>, Failure> {
        self.prepare(key.bucket).await?;
        let stream = self.context.get_stream_no_info(stream(key.bucket)).await;
        let stream = stream.map_err(|error| Failure::Again(error.to_string()))?;
        // Only the leader of a stream answers this.
        match stream.get_last_raw_message_by_subject(&key.subject).await {
            Ok(message) => Ok(Some(message)),
            Err(error) => match error.kind() {
                LastRawMessageErrorKind::NoMessageFound => Ok(None),
                kind => {
                    if let LastRawMessageErrorKind::JetStream(error) = kind
                        && error.error_code() == ErrorCode::STREAM_NOT_FOUND
                    {
                        self.forget(key.bucket);
                    }
                    Err(Failure::Again(error.to_string()))
                }
            },
        }
    }

    /// Sees to it that the bucket is there.
    async fn prepare(&self, bucket: &str) -> Result<(), Failure> {
        if self.ready.lock().contains(bucket) {
            return Ok(());
        }
        let wanted = self.stream_config(bucket);
        // Creating what is there already is no error if it looks the same.
        if let Err(error) = self.context.create_stream(wanted.clone()).await {
            match error.kind() {
                CreateStreamErrorKind::JetStream(error)
                    if error.error_code() == ErrorCode::STREAM_NAME_EXIST =>
                {
                    self.reconcile(bucket, &wanted).await?;
                }
                _ => {
                    return Err(Failure::Again(format!(
                        "bucket {bucket} cannot be created: {error}"
                    )));
                }
            }
        }
        self.ready.lock().insert(bucket.to_owned());
        Ok(())
    }

    /// Brings a bucket that looks otherwise to what is wanted, as far as that can be.
    async fn reconcile(&self, bucket: &str, wanted: &Config) -> Result<(), Failure> {
        let found = self.context.get_stream(&wanted.name).await;
        let found = found.map_err(|error| Failure::Again(error.to_string()))?;
        let found = &found.cached_info().config;
        if found.subjects != wanted.subjects || found.max_messages_per_subject < 1 {
            return Err(Failure::Final(DocumentsError::Unavailable(format!(
                "the stream {} is no key-value bucket",
                wanted.name
            ))));
        }
        let mut changed = found.clone();
        changed.num_replicas = wanted.num_replicas;
        changed.max_age = wanted.max_age;
        changed.duplicate_window = wanted.duplicate_window;
        if changed == *found {
            return Ok(());
        }
        match self.context.update_stream(&changed).await {
            Ok(_) => tracing::info!(
                bucket,
                replicas = changed.num_replicas,
                max_age = ?changed.max_age,
                "changed a bucket to its configuration"
            ),
            Err(error) => tracing::warn!(
                bucket,
                %error,
                replicas = changed.num_replicas,
                max_age = ?changed.max_age,
                "a bucket cannot be changed to its configuration and is used as it is"
            ),
        }
        Ok(())
    }

    fn stream_config(&self, bucket: &str) -> Config {
        let max_age = self.config.max_age.get(bucket).copied().unwrap_or_default();
        Config {
            name: stream(bucket),
            subjects: vec![format!("$KV.{bucket}.>")],
            max_messages: -1,
            max_bytes: -1,
            max_messages_per_subject: 1,
            max_age,
            duplicate_window: if max_age.is_zero() {
                DUPLICATES
            } else {
                DUPLICATES.min(max_age)
            },
            storage: StorageType::File,
            num_replicas: self.config.replicas.max(1),
            discard: DiscardPolicy::New,
            allow_rollup: true,
            deny_delete: true,
            ..Config::default()
        }
    }

    /// Somebody deleted it; the next attempt makes it again.
    fn forget(&self, bucket: &str) {
        self.ready.lock().remove(bucket);
    }
}

fn stream(bucket: &str) -> String {
    format!("KV_{bucket}")
}

fn is_marker(message: &StreamMessage) -> bool {
    message
        .headers
        .get(OPERATION)
        .is_some_and(|operation| ["DEL", "PURGE"].contains(&operation.as_str()))
}

fn is_by(message: &StreamMessage, write: &Write) -> bool {
    message
        .headers
        .get(async_nats::header::NATS_MESSAGE_ID)
        .is_some_and(|id| id.as_str() == write.id)
}

fn is_conflict(error: &PublishError) -> bool {
    // Servers from 2.11 on say it with another code while a write of the same key is under way.
    let constant = || {
        std::error::Error::source(error)
            .and_then(|source| source.downcast_ref::<jetstream::Error>())
            .is_some_and(|error| error.error_code() == ErrorCode::STREAM_WRONG_LAST_SEQUENCE_CONSTANT)
    };
    error.kind() == PublishErrorKind::WrongLastSequence || constant()
}
