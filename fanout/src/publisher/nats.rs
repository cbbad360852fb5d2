//! The API as requests on the bus: `fanfare.pub.<namespace>`, `{op, …}` → what the HTTP form answers.

use std::sync::Arc;

use apikeys::Caller;
use bus::{Signal, Signals, SignalsError, Subscription, subjects};
use bytes::Bytes;
use lifecycle::Tasks;
use model::{ClientError, Detail, ErrorCode};
use publisher::json::Fields;
use tokio::sync::Semaphore;

use super::{
    front::Front,
    json::{Operation, answer, no_operation},
};

/// Each request goes to one of the workers.
const QUEUE: &str = "fanfare-publisher";
/// Requests under way at one time, at most.
const MAX_REQUESTS: usize = 256;
/// Bytes of an answer that the bus may refuse for its size: a NATS server takes 1 MiB as it comes, some take less.
const LARGE: usize = 64 << 10;

pub(super) struct Requests {
    signals: Arc<dyn Signals>,
    front: Arc<Front>,
    subscription: Box<dyn Subscription>,
}

impl Requests {
    pub(super) async fn listen(signals: Arc<dyn Signals>, front: Arc<Front>) -> Result<Self, SignalsError> {
        let subscription = signals.subscribe(subjects::PUBLISH_REQUESTS, Some(QUEUE)).await?;
        Ok(Self {
            signals,
            front,
            subscription,
        })
    }

    /// Answers until the subscription ends. With too many under way the next ones wait.
    pub(super) async fn answer(self, tasks: Tasks) {
        let Self {
            signals,
            front,
            mut subscription,
        } = self;
        let room = Arc::new(Semaphore::new(MAX_REQUESTS));
        while let Some(request) = subscription.next().await {
            // Nobody closes it.
            let Ok(permit) = Arc::clone(&room).acquire_owned().await else {
                return;
            };
            let (signals, front) = (Arc::clone(&signals), Arc::clone(&front));
            tasks.spawn("publish request", async move {
                let result = answer_to(&front, &request).await;
                if let Some(to) = &request.reply {
                    reply(&*signals, to, result);
                }
                drop(permit);
            });
        }
    }
}

fn reply(signals: &dyn Signals, to: &str, result: Result<String, ClientError>) {
    let shown = |error: &ClientError| Bytes::from(serde_json::to_vec(error).unwrap_or_default());
    let answer = match result {
        Ok(answer) => Bytes::from(answer),
        Err(error) => shown(&error),
    };
    let is_large = answer.len() > LARGE;
    let mut sent = signals.publish(to, answer);
    if sent.is_err() && is_large {
        let error = ClientError::new(
            ErrorCode::PayloadTooLarge,
            "The answer is larger than the bus takes",
        );
        sent = signals.publish(to, shown(&error));
    }
    if let Err(error) = sent {
        tracing::warn!(%error, "a request on the bus could not be answered");
    }
}

async fn answer_to(front: &Front, request: &Signal) -> Result<String, ClientError> {
    let namespace = subjects::namespace_of_publish(&request.subject)
        .ok_or_else(|| ClientError::new(ErrorCode::NotFound, "The subject names no namespace"))?;
    let parent = || request.trace.as_deref().copied();
    let mut fields = Fields::read(&request.payload)?;
    let name = fields.text("op");
    let operation = Operation::named(&name).ok_or_else(|| no_operation(&name))?;
    let mut asked = operation.read(fields)?;
    // Who may send to which subject is what the bus decides by.
    for named in asked.namespaces() {
        if named.is_empty() {
            named.clone_from(&namespace);
        } else if *named != namespace {
            return Err(ClientError::invalid(vec![Detail {
                path: "namespace".to_owned(),
                message: format!("is not {namespace:?}, which the subject names"),
            }]));
        }
    }
    // Whoever may send here the bus has let in.
    let answered = front.call("nats", &Caller::local("nats"), parent, asked).await?;
    Ok(answer(&answered))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use async_trait::async_trait;
    use model::TraceContext;
    use parking_lot::Mutex;

    use super::*;

    /// Takes so many bytes.
    struct Narrow {
        takes: usize,
        sent: Mutex<Vec<Bytes>>,
    }

    #[async_trait]
    impl Signals for Narrow {
        fn publish_traced(
            &self,
            _: &str,
            payload: Bytes,
            _: Option<&TraceContext>,
        ) -> Result<(), SignalsError> {
            if payload.len() > self.takes {
                return Err(SignalsError::TooLarge("the payload"));
            }
            self.sent.lock().push(payload);
            Ok(())
        }

        async fn subscribe(
            &self,
            subject: &str,
            _: Option<&str>,
        ) -> Result<Box<dyn Subscription>, SignalsError> {
            Err(SignalsError::Unavailable(subject.to_owned()))
        }

        async fn request(&self, subject: &str, _: Bytes, _: Duration) -> Result<Bytes, SignalsError> {
            Err(SignalsError::Unavailable(subject.to_owned()))
        }
    }

    #[test]
    fn an_answer_that_is_too_large_is_answered_by_an_error() {
        let narrow = Narrow {
            takes: 100_000,
            sent: Mutex::default(),
        };
        reply(&narrow, "to", Ok("x".repeat(100_001)));
        reply(&narrow, "to", Ok("x".repeat(100_000)));
        let sent = narrow.sent.lock();
        let error: serde_json::Value = serde_json::from_slice(&sent[0]).unwrap();
        assert_eq!(error["code"], "PAYLOAD_TOO_LARGE");
        assert_eq!(sent[1].len(), 100_000);
    }
}
