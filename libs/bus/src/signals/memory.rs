//! Volatile messages within one process.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::RwLock;
use tokio::sync::mpsc;

use super::{Signal, Signals, SignalsError, Subscription};

/// Messages that may wait for one subscriber.
const BUFFER: usize = 65_536;
const INBOX: &str = "_INBOX.";

/// Volatile messages within one process. Cheap to clone.
#[derive(Clone, Default)]
pub struct MemorySignals {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    next: AtomicU64,
    /// Subscriptions without wildcards, by subject.
    exact: RwLock<HashMap<String, Vec<Subscriber>>>,
    wild: RwLock<Vec<(Vec<String>, Subscriber)>>,
}

#[derive(Clone)]
struct Subscriber {
    id: u64,
    queue: Option<String>,
    sender: mpsc::Sender<Signal>,
}

impl MemorySignals {
    /// Nobody listens yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sends; whether anybody listens, be it with a full buffer.
    fn send(&self, signal: &Signal) -> bool {
        let mut receivers = self
            .shared
            .exact
            .read()
            .get(&signal.subject)
            .cloned()
            .unwrap_or_default();
        for (pattern, subscriber) in self.shared.wild.read().iter() {
            if matches(pattern, &signal.subject) {
                receivers.push(subscriber.clone());
            }
        }
        let turn = self.shared.next.fetch_add(1, Ordering::Relaxed);
        for subscriber in receivers.iter().filter(|subscriber| subscriber.queue.is_none()) {
            // A full buffer loses the message, as the port says.
            let _ = subscriber.sender.try_send(signal.clone());
        }
        let mut queues: HashMap<&str, Vec<&Subscriber>> = HashMap::new();
        for subscriber in &receivers {
            if let Some(queue) = &subscriber.queue {
                queues.entry(queue).or_default().push(subscriber);
            }
        }
        for members in queues.into_values() {
            // The next in turn; another one when its buffer is full.
            let count = members.len();
            let start = usize::try_from(turn).unwrap_or_default() % count;
            let _taken = (0..count).any(|step| {
                members[(start + step) % count]
                    .sender
                    .try_send(signal.clone())
                    .is_ok()
            });
        }
        !receivers.is_empty()
    }

    fn listen(&self, subject: &str, queue: Option<&str>, buffer: usize) -> MemorySubscription {
        let (sender, receiver) = mpsc::channel(buffer);
        let id = self.shared.next.fetch_add(1, Ordering::Relaxed);
        let subscriber = Subscriber {
            id,
            queue: queue.map(str::to_owned),
            sender,
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
        }
    }
}

#[async_trait]
impl Signals for MemorySignals {
    fn publish(&self, subject: &str, payload: Bytes) -> Result<(), SignalsError> {
        self.send(&Signal {
            subject: subject.to_owned(),
            payload,
            reply: None,
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
}

#[async_trait]
impl Subscription for MemorySubscription {
    async fn next(&mut self) -> Option<Signal> {
        self.receiver.recv().await
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
