//! Volatile messages on core NATS.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use async_nats::{
    Client, HeaderMap, Message, Request, RequestErrorKind, Subject, Subscriber,
    client::{PublishErrorKind, RequestError},
    connection::State,
};
use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{FutureExt, StreamExt};
use model::TraceContext;
use parking_lot::Mutex;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    task::{AbortHandle, coop},
};

use super::{Signal, Signals, SignalsError, Subscription};
use crate::nats::{MAX_SUBJECT, lost, trace_of};

/// Bytes of payloads that may wait to be sent.
const OUTGOING_BYTES: usize = 64 << 20;
/// Messages that may wait for one subscriber.
const BUFFER: usize = 65_536;
/// Bytes of payloads that may wait for one subscriber; one message may, whatever its size.
const BUFFER_BYTES: usize = 64 << 20;
/// How long a subscription waits for the server to have it.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long one question to the server may take.
const ROUND_TRIP: Duration = Duration::from_secs(1);
/// How often it is looked whether there is a connection again, or an answer where nobody listened.
const PAUSE: Duration = Duration::from_millis(50);
/// So long after this connection was made again others may not be back: longer than the pause between their attempts.
const OTHERS_RETURN: Duration = Duration::from_secs(3);

/// Volatile messages on a connection to NATS. Cheap to clone.
///
/// While NATS is known not to be connected, nothing is taken. What was taken before the loss was noticed
/// (see [`crate::nats::NatsHealth::is_connected`]) is sent after reconnection or lost; it is bounded by 65,536
/// messages and 64 MiB, and beyond that nothing more is taken. Subscriptions outlive lost connections, and miss
/// what is sent meanwhile. For 3 s after a lost connection was made again, a request that nobody listens to is asked
/// again: its listener may have lost the same server.
#[derive(Clone)]
pub struct NatsSignals {
    client: Client,
    outgoing: Arc<Semaphore>,
    connection: Arc<Connection>,
}

/// Which of the client's connections was last seen.
struct Connection {
    number: AtomicU64,
    /// When it was first seen, if it is not the first.
    since: Mutex<Option<Instant>>,
}

impl NatsSignals {
    /// On a connection from [`crate::nats::connect`]. Signals and the log may share it.
    #[must_use]
    pub fn new(client: Client) -> Self {
        Self {
            outgoing: Arc::new(Semaphore::new(OUTGOING_BYTES)),
            connection: Arc::new(Connection {
                number: AtomicU64::new(client.statistics().connects.load(Ordering::Relaxed)),
                since: Mutex::default(),
            }),
            client,
        }
    }

    fn subject(subject: &str) -> Result<Subject, SignalsError> {
        if subject.len() > MAX_SUBJECT {
            return Err(SignalsError::TooLarge("the subject"));
        }
        Ok(Subject::from(subject))
    }

    fn check_connected(&self) -> Result<(), SignalsError> {
        match self.client.connection_state() {
            State::Connected => {
                let number = self.client.statistics().connects.load(Ordering::Relaxed);
                if self.connection.number.load(Ordering::Relaxed) != number {
                    self.connection.number.store(number, Ordering::Relaxed);
                    *self.connection.since.lock() = Some(Instant::now());
                }
                Ok(())
            }
            State::Pending | State::Disconnected => Err(unavailable("NATS is not connected")),
        }
    }

    /// Whether those who lost the same server may not be back yet.
    fn others_return(&self) -> bool {
        let since = *self.connection.since.lock();
        since.is_some_and(|since| since.elapsed() < OTHERS_RETURN)
    }

    /// The payload with its share of the bytes that may wait; given back once it is written.
    fn charged(&self, payload: Bytes) -> Result<Bytes, SignalsError> {
        let full = || unavailable("too much waits to be sent");
        let bytes = u32::try_from(payload.len()).map_err(|_| full())?;
        let permit = Arc::clone(&self.outgoing)
            .try_acquire_many_owned(bytes)
            .map_err(|_| full())?;
        Ok(Bytes::from_owner(Outgoing {
            payload,
            _permit: permit,
        }))
    }

    /// Returns once the server has seen everything that this connection sent before.
    async fn round_trip(&self) -> Result<(), SignalsError> {
        loop {
            while self.check_connected().is_err() {
                tokio::time::sleep(PAUSE).await;
            }
            // Nobody listens on a new inbox, and the server says so at once.
            let question = Request::new().timeout(Some(ROUND_TRIP));
            let answer = tokio::select! {
                answer = self.client.send_request(self.client.new_inbox(), question) => answer,
                () = lost(&self.client) => continue,
            };
            match answer {
                Err(error) if error.kind() == RequestErrorKind::TimedOut => {}
                Err(error) if error.kind() != RequestErrorKind::NoResponders => {
                    return Err(unavailable(error));
                }
                _ => return Ok(()),
            }
        }
    }
}

#[async_trait]
impl Signals for NatsSignals {
    fn publish_traced(
        &self,
        subject: &str,
        payload: Bytes,
        trace: Option<&TraceContext>,
    ) -> Result<(), SignalsError> {
        let subject = Self::subject(subject)?;
        self.check_connected()?;
        let payload = self.charged(payload)?;
        // All it may wait for is a place in the queue of commands; dropped before that, nothing is sent.
        let sent = match trace {
            None => coop::unconstrained(self.client.publish(subject, payload)).now_or_never(),
            Some(trace) => {
                let mut headers = HeaderMap::new();
                headers.insert(TraceContext::HEADER, trace.to_string());
                let publish = self.client.publish_with_headers(subject, headers, payload);
                coop::unconstrained(publish).now_or_never()
            }
        };
        match sent {
            Some(sent) => sent.map_err(|error| match error.kind() {
                PublishErrorKind::MaxPayloadExceeded => SignalsError::TooLarge("the payload"),
                _ => unavailable(error),
            }),
            None => Err(unavailable("too much waits to be sent")),
        }
    }

    async fn subscribe(
        &self,
        subject: &str,
        queue: Option<&str>,
    ) -> Result<Box<dyn Subscription>, SignalsError> {
        let name = Self::subject(subject)?;
        let subscribe = async {
            let subscriber = match queue {
                Some(queue) => self.client.queue_subscribe(name, queue.to_owned()).await,
                None => self.client.subscribe(name).await,
            };
            let subscriber = subscriber.map_err(unavailable)?;
            self.round_trip().await?;
            Ok(subscriber)
        };
        match tokio::time::timeout(PATIENCE, subscribe).await {
            Ok(subscriber) => Ok(Box::new(NatsSubscription::new(subject, subscriber?))),
            Err(_) => Err(unavailable("NATS does not answer")),
        }
    }

    async fn request(&self, subject: &str, payload: Bytes, timeout: Duration) -> Result<Bytes, SignalsError> {
        let name = Self::subject(subject)?;
        self.check_connected()?;
        let ask = async {
            loop {
                let request = Request::new().payload(payload.clone()).timeout(None);
                match self.client.send_request(name.clone(), request).await {
                    Ok(answer) => return Ok(answer.payload),
                    Err(error) if error.kind() == RequestErrorKind::NoResponders && self.others_return() => {
                        tokio::time::sleep(PAUSE).await;
                    }
                    Err(error) => return Err(refused(subject, &error)),
                }
            }
        };
        tokio::select! {
            answer = ask => answer,
            () = lost(&self.client) => Err(unavailable("the connection to NATS was lost")),
            () = tokio::time::sleep(timeout) => Err(SignalsError::Timeout(subject.to_owned())),
        }
    }
}

fn refused(subject: &str, error: &RequestError) -> SignalsError {
    match error.kind() {
        RequestErrorKind::NoResponders => SignalsError::NoResponders(subject.to_owned()),
        RequestErrorKind::TimedOut => SignalsError::Timeout(subject.to_owned()),
        RequestErrorKind::MaxPayloadExceeded => SignalsError::TooLarge("the payload"),
        _ => unavailable(error),
    }
}

fn unavailable(reason: impl ToString) -> SignalsError {
    SignalsError::Unavailable(reason.to_string())
}

/// A payload on its way out.
struct Outgoing {
    payload: Bytes,
    _permit: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for Outgoing {
    fn as_ref(&self) -> &[u8] {
        &self.payload
    }
}

struct NatsSubscription {
    receiver: mpsc::Receiver<Signal>,
    /// Bytes that wait.
    waiting: Arc<AtomicUsize>,
    pump: AbortHandle,
}

impl NatsSubscription {
    /// The client's own buffer counts messages only, and complains about each that does not fit; so a task empties it
    /// at once into one that is bounded in bytes too.
    fn new(subject: &str, subscriber: Subscriber) -> Self {
        let (sender, receiver) = mpsc::channel(BUFFER);
        let waiting = Arc::new(AtomicUsize::new(0));
        let pump = Pump {
            subject: subject.to_owned(),
            sender,
            waiting: Arc::clone(&waiting),
            lost: 0,
        };
        #[expect(
            clippy::disallowed_methods,
            reason = "ends with the subscription that owns it; this crate knows no lifecycle"
        )]
        let pump = tokio::spawn(pump.run(subscriber)).abort_handle();
        Self {
            receiver,
            waiting,
            pump,
        }
    }
}

#[async_trait]
impl Subscription for NatsSubscription {
    async fn next(&mut self) -> Option<Signal> {
        let signal = self.receiver.recv().await?;
        self.waiting.fetch_sub(signal.payload.len(), Ordering::Relaxed);
        Some(signal)
    }
}

impl Drop for NatsSubscription {
    fn drop(&mut self) {
        self.pump.abort();
    }
}

struct Pump {
    subject: String,
    sender: mpsc::Sender<Signal>,
    waiting: Arc<AtomicUsize>,
    lost: u64,
}

impl Pump {
    async fn run(mut self, mut subscriber: Subscriber) {
        while let Some(message) = subscriber.next().await {
            self.offer(message);
        }
    }

    /// Hands a message over unless the buffer is full.
    fn offer(&mut self, message: Message) {
        let bytes = message.payload.len();
        let before = self.waiting.fetch_add(bytes, Ordering::Relaxed);
        let room = before == 0 || before.saturating_add(bytes) <= BUFFER_BYTES;
        let signal = Signal {
            subject: message.subject.into_string(),
            payload: message.payload,
            reply: message.reply.map(Subject::into_string),
            trace: message.headers.as_ref().and_then(trace_of),
        };
        if room && self.sender.try_send(signal).is_ok() {
            return;
        }
        self.waiting.fetch_sub(bytes, Ordering::Relaxed);
        self.lost += 1;
        // One line a lost message would be a flood.
        if self.lost.is_power_of_two() {
            tracing::warn!(
                subject = self.subject,
                lost = self.lost,
                "a subscriber does not keep up and loses the newest messages"
            );
        }
    }
}
