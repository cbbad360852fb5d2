//! Questions that were asked under an idempotency key, and their answers: a retry asks nobody again.

use std::{sync::Arc, time::Duration};

use bus::{Documents, DocumentsError};
use bytes::Bytes;
use lifecycle::Tasks;
use model::{ClientError, ErrorCode};
use prost::Message;
use proto::v1::EmitWithAckResponse;
use tokio::time::{Instant, sleep};

/// Bucket of answers, by the question's id.
pub const BUCKET: &str = "questions";
/// A retry is one for so long.
pub const MAX_AGE: Duration = Duration::from_secs(120);
/// What stands there until there are answers, which begin with [`ANSWERED`].
const UNDER_WAY: Bytes = Bytes::from_static(b"");
const ANSWERED: u8 = 1;
/// Bytes of answers that are kept.
const MAX_KEPT: usize = 512 << 10;
/// How often a retry looks for the answers.
const PAUSE: Duration = Duration::from_millis(100);
/// It gives up so long after the answers should have been there.
const LATE: Duration = Duration::from_secs(5);

#[derive(Clone)]
pub(super) struct Questions {
    documents: Arc<dyn Documents>,
    tasks: Tasks,
}

impl Questions {
    pub(super) fn new(documents: Arc<dyn Documents>, tasks: Tasks) -> Self {
        Self { documents, tasks }
    }

    /// Asks unless that was done before under this id; then these are the answers of that time, which came `within` so
    /// long. Goes on when the caller does not wait.
    ///
    /// # Errors
    /// Those of `ask`, after which it may be asked again; `UNAVAILABLE` when the answers of before are not known: who
    /// asked was killed, or they were too many to be kept.
    pub(super) async fn once(
        &self,
        id: &str,
        within: Duration,
        ask: impl Future<Output = Result<EmitWithAckResponse, ClientError>> + Send + 'static,
    ) -> Result<EmitWithAckResponse, ClientError> {
        let revision = match self.documents.put(BUCKET, id, UNDER_WAY, None).await {
            Ok(revision) => revision,
            Err(DocumentsError::Conflict(_)) => return self.answered(id, within + LATE).await,
            Err(error) => return Err(unavailable(&error)),
        };
        let (this, id) = (self.clone(), id.to_owned());
        let asked = self.tasks.apart("question", async move {
            let answers = ask.await;
            this.keep(id, revision, &answers).await;
            answers
        });
        asked
            .await
            .unwrap_or_else(|| Err(ClientError::new(ErrorCode::Internal, "Internal error")))
    }

    async fn keep(&self, id: String, revision: u64, answers: &Result<EmitWithAckResponse, ClientError>) {
        let kept = match answers {
            Ok(answers) if answers.encoded_len() > MAX_KEPT => Ok(()),
            Ok(answers) => {
                let value = [&[ANSWERED], &*answers.encode_to_vec()].concat();
                let kept = self.documents.put(BUCKET, &id, value.into(), Some(revision));
                kept.await.map(drop)
            }
            Err(_) => self.documents.delete(BUCKET, &id).await,
        };
        if let Err(error) = kept {
            tracing::warn!(%error, "a retry will not learn what became of its question");
        }
        if answers.is_ok() {
            let documents = Arc::clone(&self.documents);
            self.tasks.background("forget a question", async move {
                sleep(MAX_AGE).await;
                // Where documents grow old they go by themselves.
                let _ = documents.delete(BUCKET, &id).await;
            });
        }
    }

    async fn answered(&self, id: &str, within: Duration) -> Result<EmitWithAckResponse, ClientError> {
        let until = Instant::now() + within;
        loop {
            let found = self.documents.get(BUCKET, id).await;
            let found = found.map_err(|error| unavailable(&error))?;
            let value = found.map(|document| document.value).unwrap_or_default();
            if let Some((&ANSWERED, answers)) = value.split_first() {
                return EmitWithAckResponse::decode(answers)
                    .map_err(|_| ClientError::new(ErrorCode::Internal, "Internal error"));
            }
            if Instant::now() >= until {
                return Err(ClientError::new(
                    ErrorCode::Unavailable,
                    "It was asked before, and the answers are not known",
                ));
            }
            sleep(PAUSE).await;
        }
    }
}

fn unavailable(error: &DocumentsError) -> ClientError {
    tracing::warn!(%error, "a question cannot be asked now");
    ClientError::new(ErrorCode::Unavailable, "Try again later")
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use bus::documents::memory::MemoryDocuments;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    struct Stage {
        questions: Questions,
        asked: Arc<AtomicUsize>,
    }

    impl Stage {
        fn new() -> Self {
            Self {
                questions: Questions::new(Arc::new(MemoryDocuments::new()), Tasks::new()),
                asked: Arc::default(),
            }
        }

        async fn ask(&self, missing: usize) -> Result<usize, ErrorCode> {
            let asked = Arc::clone(&self.asked);
            let ask = async move {
                asked.fetch_add(1, Ordering::SeqCst);
                sleep(SECOND).await;
                let missing = vec!["socket".to_owned(); missing];
                match missing.len() {
                    0 => Err(ClientError::new(ErrorCode::Unavailable, "")),
                    _ => Ok(EmitWithAckResponse {
                        missing,
                        ..EmitWithAckResponse::default()
                    }),
                }
            };
            let answers = self.questions.once("id", SECOND, ask).await;
            answers
                .map(|answers| answers.missing.len())
                .map_err(|error| error.code)
        }

        fn asked(&self) -> usize {
            self.asked.load(Ordering::SeqCst)
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_retry_is_told_what_was_answered() {
        let stage = Stage::new();
        let given_up = tokio::time::timeout(SECOND / 2, stage.ask(1)).await;
        assert!(given_up.is_err());
        assert_eq!(tokio::join!(stage.ask(2), stage.ask(3)), (Ok(1), Ok(1)));
        assert_eq!((stage.ask(4).await, stage.asked()), (Ok(1), 1));
        sleep(MAX_AGE).await;
        assert_eq!((stage.ask(5).await, stage.asked()), (Ok(5), 2));
    }

    #[tokio::test(start_paused = true)]
    async fn what_failed_may_be_asked_again_and_what_is_not_known_is_not() {
        let stage = Stage::new();
        assert_eq!(stage.ask(0).await, Err(ErrorCode::Unavailable));
        assert_eq!((stage.ask(1).await, stage.asked()), (Ok(1), 2));
        let stage = Stage::new();
        let many = MAX_KEPT / 4;
        assert_eq!(stage.ask(many).await, Ok(many));
        assert_eq!(
            (stage.ask(1).await, stage.asked()),
            (Err(ErrorCode::Unavailable), 1)
        );
    }
}
