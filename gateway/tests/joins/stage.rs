//! A gateway whose log and documents answer when the test says so, and its clients.

use std::{
    ops::Deref,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use async_trait::async_trait;
use bench::client::{Reader, Writer, open};
use bus::{
    Append, Document, Documents, DocumentsError, Entry, EventLog, LogError, LogSubject, NewEntry, Page,
    PageQuery, Signals, Tail, subjects,
};
use bytes::Bytes;
use config::{Config, Role, Secret};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use model::RoomToken;
use parking_lot::Mutex;
use prost::Message;
use proto::v1::{
    Command, CommandReply, PresenceBatch, PresenceDelta, PresenceReply, SocketsOf, command,
    command_reply::Outcome, presence_delta::Kind,
};
use serde_json::{Value, json};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinSet,
};

use crate::alone::{self, Alone};

const SECRET: &str = "a secret of the tests, 32 bytes or more";
const PATIENCE: Duration = Duration::from_secs(30);

/// Lets everything through until it is closed; then each waits for the test.
#[derive(Default)]
pub(crate) struct Gate(Mutex<Option<mpsc::Sender<Waiting>>>);

/// One that waits at a gate.
pub(crate) struct Waiting {
    pub(crate) partition: u16,
    go: oneshot::Sender<bool>,
}

impl Waiting {
    pub(crate) fn pass(self) {
        // Its connection may have ended.
        let _ = self.go.send(true);
    }

    pub(crate) fn fail(self) {
        // Its connection may have ended.
        let _ = self.go.send(false);
    }
}

/// Those who wait at a gate.
pub(crate) struct Closed(mpsc::Receiver<Waiting>);

impl Closed {
    pub(crate) async fn next(&mut self) -> Waiting {
        tokio::time::timeout(PATIENCE, self.0.recv())
            .await
            .unwrap()
            .unwrap()
    }
}

impl Gate {
    pub(crate) fn close(&self) -> Closed {
        let (sender, receiver) = mpsc::channel(100);
        *self.0.lock() = Some(sender);
        Closed(receiver)
    }

    /// Lets go whoever waits, and who comes.
    pub(crate) fn open(&self, mut closed: Closed) {
        self.0.lock().take();
        while let Ok(waiting) = closed.0.try_recv() {
            waiting.pass();
        }
    }

    /// Whether one gets through.
    fn ask(&self, partition: u16) -> impl Future<Output = bool> + Send + 'static {
        let asked = self.0.lock().as_ref().map(|waiting| {
            let (go, going) = oneshot::channel();
            waiting.try_send(Waiting { partition, go }).unwrap();
            going
        });
        async move {
            match asked {
                Some(going) => going.await.unwrap_or(false),
                None => true,
            }
        }
    }
}

struct GatedLog {
    log: Arc<dyn EventLog>,
    /// For records of interest.
    appends: Arc<Gate>,
    pages: Arc<Gate>,
}

#[async_trait]
impl EventLog for GatedLog {
    fn partitions(&self) -> u16 {
        self.log.partitions()
    }

    fn append(&self, partition: u16, entry: NewEntry) -> Append {
        if entry.subject != LogSubject::Control {
            return self.log.append(partition, entry);
        }
        let (log, asked) = (Arc::clone(&self.log), self.appends.ask(partition));
        Box::pin(async move {
            if !asked.await {
                return Err(LogError::Unavailable("the test says so".to_owned()));
            }
            log.append(partition, entry).await
        })
    }

    async fn last_seq(&self, partition: u16) -> Result<u64, LogError> {
        self.log.last_seq(partition).await
    }

    async fn tail(&self, partition: u16, after: u64) -> Result<Box<dyn Tail>, LogError> {
        self.log.tail(partition, after).await
    }

    async fn page(&self, partition: u16, room: RoomToken, query: PageQuery) -> Result<Page, LogError> {
        self.pages.ask(partition).await;
        self.log.page(partition, room, query).await
    }

    async fn get(&self, partition: u16, seq: u64) -> Result<Option<Entry>, LogError> {
        self.log.get(partition, seq).await
    }
}

struct GatedDocuments {
    documents: Arc<dyn Documents>,
    reads: Arc<Gate>,
}

#[async_trait]
impl Documents for GatedDocuments {
    async fn get(&self, bucket: &str, key: &str) -> Result<Option<Document>, DocumentsError> {
        self.reads.ask(0).await;
        self.documents.get(bucket, key).await
    }

    async fn put(
        &self,
        bucket: &str,
        key: &str,
        value: Bytes,
        expected: Option<u64>,
    ) -> Result<u64, DocumentsError> {
        self.documents.put(bucket, key, value, expected).await
    }

    async fn delete(&self, bucket: &str, key: &str) -> Result<(), DocumentsError> {
        self.documents.delete(bucket, key).await
    }
}

pub(crate) struct Stage {
    alone: Alone,
    pub(crate) appends: Arc<Gate>,
    pub(crate) pages: Arc<Gate>,
    pub(crate) reads: Arc<Gate>,
    /// What presence was told.
    told: Arc<Mutex<Vec<PresenceDelta>>>,
    presence: JoinSet<()>,
}

impl Deref for Stage {
    type Target = Alone;

    fn deref(&self) -> &Alone {
        &self.alone
    }
}

/// Rooms `lobby-*` are public. Presence is played: it takes everything.
pub(crate) async fn start() -> Stage {
    let mut config = Config::for_tests(Role::Standalone);
    config.auth.mode = config::AuthMode::Jwt;
    config.auth.jwt_secret = Some(Secret::from(SECRET.to_owned()));
    config.rooms.public = vec!["lobby-*".to_owned()];
    config.gateway.interest_linger = Duration::ZERO;
    config.gateway.send_queue = 16 << 20;
    let (appends, pages, reads) = (Arc::default(), Arc::default(), Arc::default());
    let told = Arc::default();
    let mut presence = JoinSet::new();
    let mut signals = None;
    let alone = alone::start_with(config, |deps| {
        deps.log = Arc::new(GatedLog {
            log: Arc::clone(&deps.log),
            appends: Arc::clone(&appends),
            pages: Arc::clone(&pages),
        });
        deps.documents = Arc::new(GatedDocuments {
            documents: Arc::clone(&deps.documents),
            reads: Arc::clone(&reads),
        });
        signals = Some(Arc::clone(&deps.signals));
    })
    .await;
    presence.spawn(play_presence(signals.unwrap(), Arc::clone(&told)));
    Stage {
        alone,
        appends,
        pages,
        reads,
        told,
        presence,
    }
}

async fn play_presence(signals: Arc<dyn Signals>, told: Arc<Mutex<Vec<PresenceDelta>>>) {
    let mut batches = signals.subscribe(subjects::PRESENCE_BATCH, None).await.unwrap();
    while let Some(batch) = batches.next().await {
        let PresenceBatch { number, deltas, .. } = PresenceBatch::decode(batch.payload).unwrap();
        let is_join = |delta: &&PresenceDelta| matches!(delta.kind, Some(Kind::Joined(_)));
        let reply = PresenceReply {
            applied: number,
            users_counts: deltas.iter().filter(is_join).map(|_| 1).collect(),
            life: "the only one".to_owned(),
            ..PresenceReply::default()
        };
        told.lock().extend(deltas);
        let to = batch.reply.unwrap();
        signals.publish(&to, reply.encode_to_vec().into()).unwrap();
    }
}

impl Stage {
    pub(crate) async fn stop(mut self) {
        self.presence.shutdown().await;
        self.alone.stop().await;
    }

    /// Until it is so.
    pub(crate) async fn until(&self, mut is_so: impl FnMut() -> bool) {
        let wait = async {
            while !is_so() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(PATIENCE, wait).await.unwrap();
    }

    /// Until the gateway knows so many rooms, those of users and sockets included.
    pub(crate) async fn until_rooms(&self, count: usize) {
        self.until(|| self.gateway.rooms() == count).await;
    }

    /// Until so many sockets have come.
    pub(crate) async fn until_come(&self, count: f64) {
        self.until(|| self.metric("socket_connections_total", &["connected"]) >= count)
            .await;
    }

    /// Until so many sockets have gone.
    pub(crate) async fn until_gone(&self, count: f64) {
        self.until(|| self.metric("socket_disconnects_total", &[]) >= count)
            .await;
    }

    pub(crate) async fn command(&self, command: command::Command) -> Outcome {
        let command = Command {
            command: Some(command),
        };
        let subject = subjects::commands_of(self.id.as_str());
        let payload = command.encode_to_vec().into();
        let reply = self.signals.request(&subject, payload, PATIENCE).await.unwrap();
        CommandReply::decode(reply).unwrap().outcome.unwrap()
    }

    /// What presence was told so far, in a word each.
    pub(crate) fn told(&self) -> Vec<String> {
        let told = self.told.lock();
        let kinds = told.iter().filter_map(|delta| delta.kind.as_ref());
        let word = |kind: &Kind| match kind {
            Kind::Connected(it) => format!("{} connected", it.namespace),
            Kind::Disconnected(it) => format!("{} disconnected", it.namespace),
            Kind::Joined(it) => format!("joined {}", it.room),
            Kind::Left(it) => format!("left {}", it.room),
        };
        kinds.map(word).collect()
    }
}

/// Every socket in `/chat`.
pub(crate) fn all_of_chat() -> Option<SocketsOf> {
    Some(SocketsOf {
        namespace: "/chat".to_owned(),
        ..SocketsOf::default()
    })
}

/// The payload of a CONNECT by ada.
pub(crate) fn auth() -> Value {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let key = EncodingKey::from_secret(SECRET.as_bytes());
    let claims = json!({ "sub": "ada", "exp": now + 600 });
    let token = jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &key).unwrap();
    json!({ "token": token })
}

/// A client over WebSocket.
pub(crate) struct Client {
    reader: Reader,
    writer: Writer,
    /// Everything it got.
    pub(crate) heard: Vec<String>,
}

impl Client {
    /// Connected at the engine, in no namespace.
    pub(crate) async fn open(stage: &Stage) -> Self {
        let (reader, writer) = open(stage.addr).await.unwrap();
        Self {
            reader,
            writer,
            heard: Vec::new(),
        }
    }

    /// In one namespace more; the answer to its CONNECT.
    pub(crate) async fn connect(&mut self, namespace: &str) -> Value {
        let begin = if namespace == "/" {
            "40".to_owned()
        } else {
            format!("40{namespace},")
        };
        self.say(&format!("{begin}{}", auth())).await;
        let answer = self.hear(&begin).await;
        serde_json::from_str(&answer[begin.len()..]).unwrap()
    }

    pub(crate) async fn say(&mut self, text: &str) {
        self.writer.text(text).await.unwrap();
    }

    /// The next message that begins so.
    pub(crate) async fn hear(&mut self, begin: &str) -> String {
        loop {
            let text = self.next().await.unwrap();
            if text.starts_with(begin) {
                return text;
            }
        }
    }

    /// The next message; none once the connection has ended.
    pub(crate) async fn next(&mut self) -> Option<String> {
        let next = tokio::time::timeout(PATIENCE, self.reader.text()).await;
        let text = next.unwrap().ok()?;
        self.heard.push(text.clone());
        Some(text)
    }

    /// What an event in `/chat` is acknowledged with.
    pub(crate) async fn ask(&mut self, event: &str, payload: &Value) -> Value {
        self.say(&format!("42/chat,7{}", json!([event, payload]))).await;
        let begin = "43/chat,7[";
        let ack = self.hear(begin).await;
        serde_json::from_str(&ack[begin.len()..ack.len() - 1]).unwrap()
    }

    /// How often it got what begins so.
    pub(crate) fn count(&self, begin: &str) -> usize {
        self.heard.iter().filter(|text| text.starts_with(begin)).count()
    }
}
