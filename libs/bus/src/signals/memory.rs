//! Volatile messages within one process.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use model::TraceContext;
use parking_lot::RwLock;
use tokio::sync::mpsc;

use super::{Signal, Signals, SignalsError, Subscription};

/// Messages that may wait for one subscriber.
const BUFFER: usize = 65_536;
/// Bytes of payloads that may wait for one subscriber; one message may, whatever its size.
const BUFFER_BYTES: usize = 64 << 20;
const INBOX: &str = "_INBOX.";

/// Volatile messages within one process. Cheap to clone.
#[derive(Clone, Default)]
pub struct MemorySignals {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    /// Numbers subscriptions and inboxes.
    next: AtomicU64,
    /// Counts what is sent, to share out the messages of a queue.
    turn: AtomicU64,
    /// Subscriptions without wildcards, by subject.
    exact: RwLock<HashMap<String, Vec<Subscriber>>>,
    wild: RwLock<Vec<(Vec<String>, Subscriber)>>,
}

struct Subscriber {
    id: u64,
    queue: Option<String>,
    sender: mpsc::Sender<Signal>,
    /// Bytes that wait.
    waiting: Arc<AtomicUsize>,
}

impl Subscriber {
    /// Hands a message over unless the buffer is full; whether it was taken.
    fn offer(&self, signal: &Signal) -> bool {
        let bytes = signal.payload.len();
        let before = self.waiting.fetch_add(bytes, Ordering::Relaxed);
        let room = before == 0 || before.saturating_add(bytes) <= BUFFER_BYTES;
        let taken = room && self.sender.try_send(signal.clone()).is_ok();
        if !taken {
            self.waiting.fetch_sub(bytes, Ordering::Relaxed);
        }
        taken
    }
}

impl MemorySignals {
    /// Nobody listens yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sends; whether anybody listens, be it with a full buffer.
    fn send(&self, signal: &Signal) -> bool {
        // Offering never waits, so the tables need not be copied.
        let exact = self.shared.exact.read();
        let wild = self.shared.wild.read();
        let exact = exact.get(&signal.subject).into_iter().flatten();
        let wild = wild
            .iter()
            .filter(|(pattern, _)| matches(pattern, &signal.subject));
        let mut heard = false;
        let mut queues: Vec<(&str, Vec<&Subscriber>)> = Vec::new();
        for subscriber in exact.chain(wild.map(|(_, subscriber)| subscriber)) {
            heard = true;
            let Some(name) = subscriber.queue.as_deref() else {
                // A full buffer loses the message, as the port says.
                subscriber.offer(signal);
                continue;
            };
            match queues.iter_mut().find(|(queue, _)| *queue == name) {
                Some((_, members)) => members.push(subscriber),
                None => queues.push((name, vec![subscriber])),
            }
        }
        for (_, members) in queues {
            // Any of them, as in NATS; another one when its buffer is full.
            let start = self.any(members.len());
            let (before, from) = members.split_at(start);
            let _taken = from.iter().chain(before).any(|member| member.offer(signal));
        }
        heard
    }

    /// A number below `count`, evenly spread whoever else sends in between (Fibonacci hashing).
    fn any(&self, count: usize) -> usize {
        let turn = self.shared.turn.fetch_add(1, Ordering::Relaxed);
        let spread = turn.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        usize::try_from(spread).unwrap_or_default() % count
    }

    fn listen(&self, subject: &str, queue: Option<&str>, buffer: usize) -> MemorySubscription {
        let (sender, receiver) = mpsc::channel(buffer);
        let id = self.shared.next.fetch_add(1, Ordering::Relaxed);
        let waiting = Arc::new(AtomicUsize::new(0));
        let subscriber = Subscriber {
            id,
            queue: queue.map(str::to_owned),
            sender,
            waiting: Arc::clone(&waiting),
        };
        if is_wild(subject) {
            let pattern = subject.split('.').map(str::to_owned).collect();
            self.shared.wild.write().push((pattern, subscriber));
        } else {
            self.shared
                .exact
                .write()
                .entry(subject.to_owned())
                .or_default()
                .push(subscriber);
        }
        MemorySubscription {
            signals: self.clone(),
            subject: subject.to_owned(),
            id,
            receiver,
            waiting,
        }
    }
}

#[async_trait]
impl Signals for MemorySignals {
    fn publish_traced(
        &self,
        subject: &str,
        payload: Bytes,
        trace: Option<&TraceContext>,
    ) -> Result<(), SignalsError> {
        self.send(&Signal {
            subject: subject.to_owned(),
            payload,
            reply: None,
            trace: trace.copied().map(Box::new),
        });
        Ok(())
    }

    async fn subscribe(
        &self,
        subject: &str,
        queue: Option<&str>,
    ) -> Result<Box<dyn Subscription>, SignalsError> {
        Ok(Box::new(self.listen(subject, queue, BUFFER)))
    }

    async fn request(&self, subject: &str, payload: Bytes, timeout: Duration) -> Result<Bytes, SignalsError> {
        let inbox = format!("{INBOX}{}", self.shared.next.fetch_add(1, Ordering::Relaxed));
        let mut answers = self.listen(&inbox, None, 1);
        let request = Signal {
            subject: subject.to_owned(),
            payload,
            reply: Some(inbox),
            trace: None,
        };
        if !self.send(&request) {
            return Err(SignalsError::NoResponders(subject.to_owned()));
        }
        match tokio::time::timeout(timeout, answers.next()).await {
            Ok(Some(answer)) => Ok(answer.payload),
            Ok(None) | Err(_) => Err(SignalsError::Timeout(subject.to_owned())),
        }
    }
}

struct MemorySubscription {
    signals: MemorySignals,
    subject: String,
    id: u64,
    receiver: mpsc::Receiver<Signal>,
    /// Bytes that wait.
    waiting: Arc<AtomicUsize>,
}

#[async_trait]
impl Subscription for MemorySubscription {
    async fn next(&mut self) -> Option<Signal> {
        let signal = self.receiver.recv().await?;
        self.waiting.fetch_sub(signal.payload.len(), Ordering::Relaxed);
        Some(signal)
    }
}

impl Drop for MemorySubscription {
    fn drop(&mut self) {
        if is_wild(&self.subject) {
            self.signals
                .shared
                .wild
                .write()
                .retain(|(_, subscriber)| subscriber.id != self.id);
            return;
        }
        let mut exact = self.signals.shared.exact.write();
        if let Some(subscribers) = exact.get_mut(&self.subject) {
            subscribers.retain(|subscriber| subscriber.id != self.id);
            if subscribers.is_empty() {
                exact.remove(&self.subject);
            }
        }
    }
}

fn is_wild(subject: &str) -> bool {
    subject.split('.').any(|token| token == "*" || token == ">")
}

fn matches(pattern: &[String], subject: &str) -> bool {
    let mut tokens = subject.split('.');
    for part in pattern {
        match (part.as_str(), tokens.next()) {
            (">", Some(_)) => return true,
            ("*", Some(_)) => {}
            (part, Some(token)) if part == token => {}
            (_, _) => return false,
        }
    }
    tokens.next().is_none()
}
