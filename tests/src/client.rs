use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use bench::client::{Reader, Writer};
use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::{
    sync::{Notify, oneshot},
    task::AbortHandle,
};

use crate::wire::{MessageBody, Publication, RETRY, acknowledgement};

/// A client waits so long for an answer.
const WITHIN: Duration = Duration::from_secs(30);
/// Events that a failed test shows.
const SHOWN_EVENTS: usize = 12;

/// A message as a member got it.
#[derive(Clone, Debug)]
pub struct Message {
    /// Its room.
    pub room: String,
    /// Its id.
    pub id: String,
    /// Partition and sequence.
    pub offset: (u16, u64),
    /// What the publisher wrote.
    pub content: String,
    /// When it came.
    pub at: Instant,
}

/// What became of a message that was published until it was acknowledged.
#[derive(Clone, Debug)]
pub struct Published {
    /// Its id.
    pub id: String,
    /// Partition and sequence.
    pub offset: (u16, u64),
    /// How often the answer was `UNAVAILABLE`.
    pub unavailable: usize,
    /// From the first try to the acknowledgement.
    pub took: Duration,
}

/// Somebody in one namespace over WebSocket who keeps all it hears. Ends when it is dropped.
pub struct Client {
    namespace: &'static str,
    writer: Arc<tokio::sync::Mutex<Writer>>,
    shared: Arc<Shared>,
    next_ack: AtomicU64,
    reading: AbortHandle,
}

#[derive(Default)]
struct Shared {
    namespace: &'static str,
    state: Mutex<State>,
    news: Notify,
}

#[derive(Default)]
struct State {
    acks: HashMap<u64, oneshot::Sender<Value>>,
    messages: Vec<Message>,
    /// Other events: name, and the arguments behind it as raw JSON.
    events: Vec<(String, String)>,
    /// Why the connection ended.
    end: Option<String>,
}

/// The answer to what was sent; resolves with it, or with `None` when the connection ends before.
pub type Answer = oneshot::Receiver<Value>;

impl Client {
    /// Connects as a guest in `/chat`.
    ///
    /// # Errors
    /// When the gateway refuses.
    pub async fn connect(address: SocketAddr) -> Result<Self> {
        let connection = bench::client::connect(address, "/chat").await;
        let (reader, writer) = connection.with_context(|| format!("connecting to {address}"))?;
        Ok(Self::new(reader, writer, "/chat"))
    }

    /// Connects with a token.
    ///
    /// # Errors
    /// When the gateway refuses.
    pub async fn connect_as(address: SocketAddr, namespace: &'static str, token: &str) -> Result<Self> {
        let (mut reader, mut writer) = bench::client::open(address).await?;
        let auth = json!({ "token": token });
        writer.text(&format!("40{namespace},{auth}")).await?;
        let connected = reader.text().await?;
        ensure!(
            connected.starts_with(&format!("40{namespace}")),
            "not connected: {connected}"
        );
        Ok(Self::new(reader, writer, namespace))
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "the client owns its task and aborts it when it is dropped"
    )]
    fn new(reader: Reader, writer: Writer, namespace: &'static str) -> Self {
        let writer = Arc::new(tokio::sync::Mutex::new(writer));
        let shared = Arc::new(Shared {
            namespace,
            ..Shared::default()
        });
        let task = tokio::spawn(read(reader, Arc::clone(&writer), Arc::clone(&shared)));
        Self {
            namespace,
            writer,
            shared,
            next_ack: AtomicU64::new(0),
            reading: task.abort_handle(),
        }
    }

    /// Sends an event that asks for an answer, and does not wait for it. What is sent later stands behind it.
    ///
    /// # Errors
    /// When the connection has ended.
    pub async fn send(&self, event: &str, payload: &Value) -> Result<Answer> {
        let number = self.next_ack.fetch_add(1, Ordering::Relaxed);
        let (answer, answered) = oneshot::channel();
        {
            let mut state = self.shared.state.lock();
            if let Some(end) = &state.end {
                bail!("the connection has ended: {end}");
            }
            state.acks.insert(number, answer);
        }
        let packet = format!("42{},{number}{}", self.namespace, json!([event, payload]));
        self.writer.lock().await.text(&packet).await?;
        Ok(answered)
    }

    /// Sends an event and waits for its answer, whatever it is.
    ///
    /// # Errors
    /// When the connection ends, or no answer comes within 30 s.
    pub async fn ask(&self, event: &str, payload: &Value) -> Result<Value> {
        let answer = self.send(event, payload).await?;
        let answer = tokio::time::timeout(WITHIN, answer).await;
        answer
            .with_context(|| format!("{event} {payload}: no answer"))?
            .with_context(|| format!("{event}: the connection has ended: {:?}", self.end()))
    }

    /// Sends an event whose answer must be one of success.
    ///
    /// # Errors
    /// As [`Client::ask`], or when it is not.
    pub async fn ok(&self, event: &str, payload: &Value) -> Result<Value> {
        let answer = self.ask(event, payload).await?;
        if answer["status"] != "ok" {
            bail!("{event} {payload}: {answer}");
        }
        Ok(answer)
    }

    /// Joins a room.
    ///
    /// # Errors
    /// As [`Client::ok`].
    pub async fn join(&self, room: &str) -> Result<Value> {
        self.ok("join-room", &json!({ "roomId": room })).await
    }

    /// Leaves a room.
    ///
    /// # Errors
    /// As [`Client::ok`].
    pub async fn leave(&self, room: &str) -> Result<Value> {
        self.ok("leave-room", &json!({ "roomId": room })).await
    }

    /// Publishes a message, with the same `client_id` again and again while the answer is `UNAVAILABLE`.
    ///
    /// # Errors
    /// When it is refused, or the connection ends; both for good, so nobody knows whether it is stored.
    pub async fn publish(&self, room: &str, content: &str, client_id: &str) -> Result<Published> {
        let mut publication = Publication::new(room, content, client_id);
        loop {
            let answer = self.ask("message", &publication.payload).await?;
            if let Some(published) = publication.answered(&answer)? {
                return Ok(published);
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    /// The messages so far; they are forgotten.
    pub fn take_messages(&self) -> Vec<Message> {
        std::mem::take(&mut self.shared.state.lock().messages)
    }

    /// How many messages it has got and not forgotten.
    #[must_use]
    pub fn message_count(&self) -> usize {
        self.shared.state.lock().messages.len()
    }

    /// Waits for a message that fits, past ones that are not forgotten included.
    ///
    /// # Errors
    /// When none comes within 30 s, or the connection ends.
    pub async fn message(&self, what: &str, fits: impl Fn(&Message) -> bool) -> Result<Message> {
        self.hear(what, |state| {
            state.messages.iter().find(|message| fits(message)).cloned()
        })
        .await
    }

    /// Waits for an event of that name whose first argument fits, and forgets it.
    ///
    /// # Errors
    /// As [`Client::message`].
    pub async fn event(&self, name: &str, fits: impl Fn(&Value) -> bool) -> Result<Value> {
        self.hear(name, |state| {
            let found = state.events.iter().enumerate().find_map(|(at, (event, args))| {
                let value = if event == name { first(args)? } else { return None };
                fits(&value).then_some((at, value))
            });
            let (at, value) = found?;
            state.events.remove(at);
            Some(value)
        })
        .await
    }

    /// The events other than messages so far, with their first arguments; they are forgotten.
    pub fn take_events(&self) -> Vec<(String, Value)> {
        let events = std::mem::take(&mut self.shared.state.lock().events);
        let read = |(name, args): (String, String)| (name, first(&args).unwrap_or_default());
        events.into_iter().map(read).collect()
    }

    /// Why the connection has ended, if it has.
    #[must_use]
    pub fn end(&self) -> Option<String> {
        self.shared.state.lock().end.clone()
    }

    async fn hear<T>(&self, what: &str, find: impl Fn(&mut State) -> Option<T>) -> Result<T> {
        let search = async {
            loop {
                let news = self.shared.news.notified();
                tokio::pin!(news);
                news.as_mut().enable();
                {
                    let mut state = self.shared.state.lock();
                    if let Some(found) = find(&mut state) {
                        return Ok(found);
                    }
                    if let Some(end) = &state.end {
                        bail!("{what}: the connection has ended: {end}");
                    }
                }
                news.await;
            }
        };
        let found = tokio::time::timeout(WITHIN, search).await;
        found.with_context(|| {
            let state = self.shared.state.lock();
            let last = state.messages.last();
            let events = &state.events[state.events.len().saturating_sub(SHOWN_EVENTS)..];
            format!(
                "{what}: did not come; {} messages, the last {last:?}; last of other events {events:?}",
                state.messages.len()
            )
        })?
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.reading.abort();
    }
}

/// `"<partition>-<sequence>"` (CONTRACT section 4).
///
/// # Errors
/// When it is something else.
pub fn offset(text: &str) -> Result<(u16, u64)> {
    let (partition, sequence) = text.split_once('-').with_context(|| text.to_owned())?;
    Ok((partition.parse()?, sequence.parse()?))
}

async fn read(mut reader: Reader, writer: Arc<tokio::sync::Mutex<Writer>>, shared: Arc<Shared>) {
    let end = loop {
        match reader.text().await {
            // An Engine.IO ping.
            Ok(text) if text == "2" => {
                if let Err(error) = writer.lock().await.text("3").await {
                    break error;
                }
            }
            Ok(text) => {
                if let Err(error) = shared.received(&text) {
                    break error.context(text);
                }
            }
            Err(error) => break error,
        }
        shared.news.notify_waiters();
    };
    let mut state = shared.state.lock();
    state.end = Some(format!("{end:#}"));
    // Whoever waits for an answer is told.
    state.acks.clear();
    drop(state);
    shared.news.notify_waiters();
}

impl Shared {
    fn received(&self, text: &str) -> Result<()> {
        let at = Instant::now();
        let own = |kind: &str| {
            text.strip_prefix(kind)?
                .strip_prefix(self.namespace)?
                .strip_prefix(',')
        };
        // Behind an id that it might acknowledge.
        let event = own("42").map(|event| event.trim_start_matches(|digit: char| digit.is_ascii_digit()));
        if let Some(event) = event.and_then(|event| event.strip_prefix("[\"")) {
            let (name, args) = event.split_once('"').context("an event without name")?;
            let args = args.strip_prefix(',').unwrap_or_default();
            if name == "message" {
                let body: MessageBody = first(args).context("a message that cannot be read")?;
                self.state.lock().messages.push(body.came(at)?);
            } else {
                self.state.lock().events.push((name.to_owned(), args.to_owned()));
            }
        } else if let Some(ack) = own("43") {
            let (number, argument) = acknowledgement(ack)?;
            let answer = self.state.lock().acks.remove(&number);
            let answer = answer.with_context(|| format!("a second ack for {number}"))?;
            // Whoever asked may have given up.
            let _ = answer.send(argument);
        } else {
            bail!("an unexpected packet");
        }
        Ok(())
    }
}

/// The first of the arguments; others may follow.
fn first<'a, T: Deserialize<'a>>(args: &'a str) -> Option<T> {
    let mut values = serde_json::Deserializer::from_str(args).into_iter();
    values.next()?.ok()
}
