//! Messages that nobody stores: at most once, in order for one publisher and subject.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use model::TraceContext;

pub mod memory;
pub mod nats;

/// Port of volatile messages, publish/subscribe and request/reply.
///
/// Subjects are tokens joined by `.`; in a subscription `*` stands for one token and a last `>` for
/// one or more, as in NATS.
#[async_trait]
pub trait Signals: Send + Sync + 'static {
    /// Sends to whoever listens now. Never waits.
    ///
    /// # Errors
    /// [`SignalsError::Unavailable`] when the message was certainly not sent.
    fn publish(&self, subject: &str, payload: Bytes) -> Result<(), SignalsError> {
        self.publish_traced(subject, payload, None)
    }

    /// As [`Signals::publish`], as part of a trace that is recorded.
    ///
    /// # Errors
    /// As [`Signals::publish`].
    fn publish_traced(
        &self,
        subject: &str,
        payload: Bytes,
        trace: Option<&TraceContext>,
    ) -> Result<(), SignalsError>;

    /// Listens. Once this returns, later messages of this process are seen. With a `queue`, each
    /// message goes to one of the subscribers of that queue.
    ///
    /// # Errors
    /// [`SignalsError::Unavailable`] when the bus does not answer.
    async fn subscribe(
        &self,
        subject: &str,
        queue: Option<&str>,
    ) -> Result<Box<dyn Subscription>, SignalsError>;

    /// Sends and waits for one answer.
    ///
    /// # Errors
    /// [`SignalsError::NoResponders`] at once when nobody listens, [`SignalsError::Timeout`],
    /// [`SignalsError::TooLarge`], [`SignalsError::Unavailable`].
    async fn request(&self, subject: &str, payload: Bytes, timeout: Duration) -> Result<Bytes, SignalsError>;
}

/// A running subscription; dropping it ends it.
#[async_trait]
pub trait Subscription: Send {
    /// The next message; `None` once the subscription has ended for good. Cancellation safe.
    ///
    /// The buffer is bounded: a subscriber that does not keep up loses the newest messages.
    async fn next(&mut self) -> Option<Signal>;
}

/// A message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signal {
    /// Where it was sent.
    pub subject: String,
    /// What was sent.
    pub payload: Bytes,
    /// Where an answer is published, if one is waited for.
    pub reply: Option<String>,
    /// Where the sender's trace stands, recorded or not, if it says so (header `traceparent`, W3C Trace Context).
    pub trace: Option<Box<TraceContext>>,
}

/// Why a signal did not go through.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignalsError {
    /// Nobody listens on the subject.
    #[error("nobody listens on {0}")]
    NoResponders(String),
    /// No answer in time.
    #[error("no answer on {0} in time")]
    Timeout(String),
    /// The bus takes no such message, now or later.
    #[error("{0} is too large for the bus")]
    TooLarge(&'static str),
    /// The bus cannot be reached.
    #[error("the bus is unavailable: {0}")]
    Unavailable(String),
}
