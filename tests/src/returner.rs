use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use bench::client::{Reader, Writer};
use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::{Value, json, value::RawValue};
use tokio::{
    sync::{Notify, oneshot},
    task::AbortHandle,
    time::{sleep, timeout},
};

use crate::{
    Message, Published,
    wire::{MessageBody, Publication, RETRY, acknowledgement},
};

/// An answer, or a connection, must come within this time.
const WITHIN: Duration = Duration::from_secs(60);
/// One connection may take so long to be made.
const CONNECT: Duration = Duration::from_secs(20);
/// Wait before the first try to come back, which doubles up to the second; each is spread by half of it, as in the stock
/// clients (`reconnectionDelay`, `reconnectionDelayMax`, `randomizationFactor`).
const BACKOFF: Duration = Duration::from_secs(1);
const MAX_BACKOFF: Duration = Duration::from_secs(5);

/// Where the gateways are now; shared by all clients of a test.
pub type Gateways = Arc<Mutex<Vec<SocketAddr>>>;

/// A guest in `/chat` over WebSocket who comes back whenever its connection ends, at any gateway, with its `pid` and the
/// position of the last event it got; keeps all it hears. Ends when it is dropped.
pub struct Returner {
    shared: Arc<Shared>,
    next_ack: AtomicU64,
    running: AbortHandle,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    /// It is connected, or has given up.
    news: Notify,
    cut: Notify,
}

#[derive(Default)]
struct State {
    writer: Option<Arc<tokio::sync::Mutex<Writer>>>,
    pid: Option<String>,
    /// The position of the last event.
    position: Option<String>,
    acks: HashMap<u64, oneshot::Sender<Value>>,
    messages: Vec<Message>,
    seen: Seen,
}

/// What became of its connections.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// Times it came back with everything it missed.
    pub recovered: usize,
    /// Times it came back as somebody new.
    pub fresh: usize,
    /// Why its connections ended.
    pub ends: Vec<String>,
    /// Longest time from the end of a connection to the next one.
    pub longest_away: Duration,
    /// Tries that came to no connection.
    pub refused: usize,
}

#[derive(Deserialize)]
struct Connected {
    pid: Option<String>,
}

impl Returner {
    /// Connects to one of the gateways; `number` says to which at first.
    ///
    /// # Errors
    /// When it is not connected within 60 s.
    #[expect(
        clippy::disallowed_methods,
        reason = "the client owns its task and aborts it when it is dropped"
    )]
    pub async fn connect(gateways: &Gateways, number: usize) -> Result<Self> {
        let shared = Arc::new(Shared::default());
        let task = tokio::spawn(run(Arc::clone(&shared), Arc::clone(gateways), number));
        let client = Self {
            shared,
            next_ack: AtomicU64::new(0),
            running: task.abort_handle(),
        };
        client.writer().await?;
        Ok(client)
    }

    /// Waits until it is connected.
    async fn writer(&self) -> Result<Arc<tokio::sync::Mutex<Writer>>> {
        let connected = async {
            loop {
                let news = self.shared.news.notified();
                tokio::pin!(news);
                news.as_mut().enable();
                if let Some(writer) = &self.shared.state.lock().writer {
                    return Arc::clone(writer);
                }
                news.await;
            }
        };
        let writer = timeout(WITHIN, connected).await;
        writer.with_context(|| format!("not connected: {:?}", self.seen()))
    }

    /// Sends an event until it is answered, over as many connections as it takes.
    ///
    /// # Errors
    /// When it is not connected, or not answered, within 60 s.
    pub async fn ask(&self, event: &str, payload: &Value) -> Result<Value> {
        loop {
            let writer = self.writer().await?;
            let number = self.next_ack.fetch_add(1, Ordering::Relaxed);
            let (answer, answered) = oneshot::channel();
            self.shared.state.lock().acks.insert(number, answer);
            let packet = format!("42/chat,{number}{}", json!([event, payload]));
            if writer.lock().await.text(&packet).await.is_ok() {
                let answer = timeout(WITHIN, answered).await;
                if let Ok(answer) = answer.with_context(|| format!("{event} {payload}: no answer"))? {
                    return Ok(answer);
                }
            }
            // The connection is gone; the next one is another.
            while self
                .shared
                .state
                .lock()
                .writer
                .as_ref()
                .is_some_and(|now| Arc::ptr_eq(now, &writer))
            {
                sleep(Duration::from_millis(5)).await;
            }
        }
    }

    /// Joins a room, or asks again how many users are in it.
    ///
    /// # Errors
    /// As [`Returner::ask`], or when it is refused.
    pub async fn join(&self, room: &str) -> Result<usize> {
        let payload = json!({ "roomId": room });
        loop {
            let answer = self.ask("join-room", &payload).await?;
            if let Some(count) = answer["usersCount"].as_u64() {
                return Ok(usize::try_from(count)?);
            }
            if answer["code"] != "UNAVAILABLE" {
                bail!("join-room {room}: {answer}");
            }
            sleep(RETRY).await;
        }
    }

    /// Publishes a message, with the same `client_id` again and again until it is acknowledged.
    ///
    /// # Errors
    /// As [`Returner::ask`], or when it is refused for good.
    pub async fn publish(&self, room: &str, content: &str, client_id: &str) -> Result<Published> {
        let mut publication = Publication::new(room, content, client_id);
        loop {
            let answer = self.ask("message", &publication.payload).await?;
            if let Some(published) = publication.answered(&answer)? {
                return Ok(published);
            }
            sleep(RETRY).await;
        }
    }

    /// Breaks its connection as a network does.
    pub fn cut(&self) {
        self.shared.cut.notify_one();
    }

    /// The messages so far; they are forgotten.
    pub fn take_messages(&self) -> Vec<Message> {
        std::mem::take(&mut self.shared.state.lock().messages)
    }

    /// How many different messages it has got and not forgotten.
    #[must_use]
    pub fn message_count(&self) -> usize {
        let state = self.shared.state.lock();
        let ids: std::collections::HashSet<_> = state.messages.iter().map(|message| &message.id).collect();
        ids.len()
    }

    /// What became of its connections so far.
    #[must_use]
    pub fn seen(&self) -> Seen {
        self.shared.state.lock().seen.clone()
    }
}

impl Drop for Returner {
    fn drop(&mut self) {
        self.running.abort();
    }
}

async fn run(shared: Arc<Shared>, gateways: Gateways, number: usize) {
    let mut gone: Option<Instant> = None;
    let mut tries = 0_u32;
    let mut next = number;
    loop {
        let address = {
            let gateways = gateways.lock();
            gateways.get(next % gateways.len().max(1)).copied()
        };
        let end = match address {
            Some(address) => one_connection(&shared, address, &mut gone, &mut tries).await,
            None => Err(anyhow::anyhow!("there is no gateway")),
        };
        {
            let mut state = shared.state.lock();
            if state.writer.take().is_some() {
                gone = Some(Instant::now());
                let why = end
                    .err()
                    .map_or_else(|| "cut".to_owned(), |end| format!("{end:#}"));
                state.seen.ends.push(why);
            } else {
                state.seen.refused += 1;
            }
            // Whoever waits for an answer asks again.
            state.acks.clear();
        }
        let wait = (BACKOFF * 2_u32.saturating_pow(tries.min(8))).min(MAX_BACKOFF);
        tries += 1;
        // No two clients in step, and yet the same in each run.
        next = next.wrapping_mul(31).wrapping_add(7 + number);
        let share = u32::try_from(next % 100).unwrap_or_default();
        sleep(wait / 2 + wait * share / 100).await;
    }
}

/// Runs one connection to its end; `Ok` when it was cut.
async fn one_connection(
    shared: &Arc<Shared>,
    address: SocketAddr,
    gone: &mut Option<Instant>,
    tries: &mut u32,
) -> Result<()> {
    let opening = bench::client::open(address);
    let (mut reader, mut writer) = timeout(CONNECT, opening)
        .await
        .context("the handshake is late")??;
    let (pid, claim) = {
        let state = shared.state.lock();
        let claim = state.pid.as_ref().map(|pid| match &state.position {
            Some(position) => json!({ "pid": pid, "offset": position }),
            None => json!({ "pid": pid }),
        });
        (state.pid.clone(), claim)
    };
    let claim = claim.map(|claim| claim.to_string()).unwrap_or_default();
    writer.text(&format!("40/chat,{claim}")).await?;
    let writer = Arc::new(tokio::sync::Mutex::new(writer));
    let reading = async {
        loop {
            let text = read(&mut reader).await?;
            if text == "2" {
                writer.lock().await.text("3").await?;
            } else if let Some(connected) = text.strip_prefix("40/chat,") {
                let connected: Connected = serde_json::from_str(connected)?;
                let mut state = shared.state.lock();
                match &pid {
                    Some(_) if pid == connected.pid => state.seen.recovered += 1,
                    Some(_) => {
                        state.seen.fresh += 1;
                        state.position = None;
                    }
                    None => {}
                }
                state.pid = connected.pid;
                state.writer = Some(Arc::clone(&writer));
                if let Some(gone) = gone.take() {
                    state.seen.longest_away = state.seen.longest_away.max(gone.elapsed());
                }
                *tries = 0;
                drop(state);
                shared.news.notify_waiters();
            } else if text.starts_with("44/chat") {
                bail!("refused: {text}");
            } else {
                shared.received(&text).context(text)?;
            }
        }
    };
    tokio::select! {
        ended = reading => ended,
        () = shared.cut.notified() => Ok(()),
    }
}

/// The next packet; heartbeats come at least every 25 s.
async fn read(reader: &mut Reader) -> Result<String> {
    timeout(WITHIN, reader.text()).await.context("silence")?
}

impl Shared {
    fn received(&self, text: &str) -> Result<()> {
        let at = Instant::now();
        if let Some(event) = text.strip_prefix("42/chat,") {
            let args: Vec<&RawValue> = serde_json::from_str(event)?;
            let name: &str = serde_json::from_str(args.first().context("an event without name")?.get())?;
            let message = match (name, args.get(1)) {
                ("message", Some(body)) => {
                    let body: MessageBody = serde_json::from_str(body.get())?;
                    Some(body.came(at)?)
                }
                _ => None,
            };
            let mut state = self.state.lock();
            // As the stock clients: whatever string stands at the end.
            if let Some(Ok(position)) = args.last().map(|last| serde_json::from_str::<String>(last.get())) {
                state.position = Some(position);
            }
            state.messages.extend(message);
        } else if let Some(ack) = text.strip_prefix("43/chat,") {
            let (number, argument) = acknowledgement(ack)?;
            if let Some(answer) = self.state.lock().acks.remove(&number) {
                // Whoever asked may have given up.
                let _ = answer.send(argument);
            }
        } else {
            bail!("an unexpected packet");
        }
        Ok(())
    }
}
