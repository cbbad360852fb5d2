use std::sync::{Arc, OnceLock};

use bus::{DeadLetter, WorkQueue};
use bytes::Bytes;
use uuid::Uuid;

use crate::GivenUp;

/// The queue that they go to.
const QUEUE: &str = "app";

/// Where people may look at what the application was never able to do, and nobody waits for. Nowhere at first: then it
/// is told in the log alone.
#[derive(Default)]
pub struct DeadLetters(OnceLock<Arc<dyn WorkQueue>>);

impl DeadLetters {
    /// They are there from now on, in queue `app`; the first place counts.
    pub fn put_into(&self, work: Arc<dyn WorkQueue>) {
        let _ = self.0.set(work);
    }

    /// Keeps a message. `name`: of the event, or the kind of news. What cannot be kept is told in the log.
    pub async fn bury(&self, name: &str, message: Bytes, given_up: &GivenUp) {
        let letter = DeadLetter {
            queue: QUEUE.to_owned(),
            id: Uuid::now_v7().to_string(),
            payload: message,
            attempts: given_up.attempts,
            reason: given_up.error.to_string(),
        };
        let error = &given_up.error;
        let Some(work) = self.0.get() else {
            tracing::warn!(%error, name, "given up: the application does not handle it");
            return;
        };
        match work.bury(letter).await {
            Ok(()) => tracing::debug!(%error, name, "buried: the application does not handle it"),
            Err(lost) => tracing::error!(%error, %lost, name, "lost: the application does not handle it"),
        }
    }
}
