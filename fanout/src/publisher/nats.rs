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
                let reply = match result {
                    Ok(answer) => Bytes::from(answer),
                    Err(error) => serde_json::to_vec(&error).unwrap_or_default().into(),
                };
                if let Some(to) = &request.reply
                    && let Err(error) = signals.publish(to, reply)
                {
                    tracing::warn!(%error, "a request on the bus could not be answered");
                }
                drop(permit);
            });
        }
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
