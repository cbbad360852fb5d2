//! Work that must be done at least once, by one worker at a time, and what becomes of work that cannot be done.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

pub mod memory;
pub mod nats;

/// Port of the work queues.
///
/// A queue's name is `[A-Za-z0-9_-]+`. It comes to be with its first job.
#[async_trait]
pub trait WorkQueue: Send + Sync + 'static {
    /// Stores a job. One of the same queue and id that was stored within the engine's window (at least two minutes) is
    /// not stored again, whatever has become of it.
    ///
    /// # Errors
    /// [`WorkError`]; a job that ends as [`WorkError::Unavailable`] may have been stored: try again with the same id.
    async fn enqueue(&self, job: NewJob) -> Result<(), WorkError>;

    /// The next job of a queue; waits for it, also while the engine is away. Until it is settled nobody else gets it,
    /// unless the engine's deadline passes without a [sign](Job::working) of its worker: then it is handed out again.
    /// One that was handed out `max_attempts` times and never settled is buried.
    ///
    /// Dropping the future is safe; a job that was on its way then comes to somebody after the deadline.
    ///
    /// # Errors
    /// [`WorkError::InvalidName`] only.
    async fn take(&self, queue: &str, max_attempts: u32) -> Result<Box<dyn Job>, WorkError>;

    /// Puts work that could not be done where people may look at it. The same queue and id within the window is there
    /// once.
    ///
    /// # Errors
    /// [`WorkError`].
    async fn bury(&self, letter: DeadLetter) -> Result<(), WorkError>;

    /// Dead letters of a queue, oldest first: at most `limit` behind the place `after` (0: from the beginning). The
    /// oldest are forgotten some time.
    ///
    /// # Errors
    /// [`WorkError`].
    async fn buried(&self, queue: &str, after: u64, limit: usize) -> Result<Vec<Buried>, WorkError>;
}

/// A job that was taken. Dropped, it is handed out again after the deadline.
#[async_trait]
pub trait Job: Send + Sync {
    /// Its id.
    fn id(&self) -> &str;

    /// What is to be done.
    fn payload(&self) -> &Bytes;

    /// How often it has been handed out, this time included.
    fn attempt(&self) -> u32;

    /// Says that it is being worked on: the deadline begins anew.
    ///
    /// # Errors
    /// [`WorkError::Unavailable`].
    async fn working(&self) -> Result<(), WorkError>;

    /// It is done.
    ///
    /// # Errors
    /// [`WorkError::Unavailable`]: it may come again.
    async fn done(self: Box<Self>) -> Result<(), WorkError>;

    /// It could not be done now: somebody gets it again `after` a while. After its last attempt it is buried instead,
    /// for `reason`; whether it comes again.
    ///
    /// # Errors
    /// [`WorkError::Unavailable`]: it comes again after the deadline.
    async fn retry(self: Box<Self>, after: Duration, reason: &str) -> Result<bool, WorkError>;

    /// It cannot be done at all: it is buried for `reason`.
    ///
    /// # Errors
    /// [`WorkError::Unavailable`]: it comes again after the deadline.
    async fn give_up(self: Box<Self>, reason: &str) -> Result<(), WorkError>;
}

/// A job to store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewJob {
    /// Its queue.
    pub queue: String,
    /// Names it in its queue: printable ASCII, at most 256 characters.
    pub id: String,
    /// What is to be done.
    pub payload: Bytes,
}

/// Work that could not be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetter {
    /// The queue it was in, or another name of that form for work that was in none.
    pub queue: String,
    /// As of the job.
    pub id: String,
    /// What was to be done.
    pub payload: Bytes,
    /// How often it was tried.
    pub attempts: u32,
    /// Why it could not be done. Control characters become spaces, and all but the first 500 characters are cut.
    pub reason: String,
}

/// A dead letter in its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Buried {
    /// Grows with every letter of any queue.
    pub place: u64,
    /// Unix milliseconds.
    pub time_ms: u64,
    /// The letter.
    pub letter: DeadLetter,
}

/// Why a queue could not do it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WorkError {
    /// A queue or id has characters it may not have.
    #[error("not a queue or id: {0}")]
    InvalidName(String),
    /// The queues take no more at the moment.
    #[error("the work queues are full: {0}")]
    Full(String),
    /// The engine cannot be reached or did not answer in time.
    #[error("the work queues are unavailable: {0}")]
    Unavailable(String),
}

/// How queues behave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkSettings {
    /// A job whose worker gives no sign for so long is handed out again. At least 100 ms.
    pub deadline: Duration,
    /// Servers that keep each job, 1 to 5; of no meaning in memory.
    pub replicas: usize,
}

impl Default for WorkSettings {
    fn default() -> Self {
        Self {
            deadline: Duration::from_secs(30),
            replicas: 1,
        }
    }
}

/// Why a job is buried that workers took and never settled.
const ABANDONED: &str = "no worker that took it has said what became of it";
const MAX_ID: usize = 256;
const MAX_REASON: usize = 500;

/// The one rule for names of queues and ids.
fn check(queue: &str, id: &str) -> Result<(), WorkError> {
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
    let is_queue = !queue.is_empty() && queue.len() <= MAX_ID && queue.bytes().all(is_word);
    let is_id = !id.is_empty() && id.len() <= MAX_ID && id.bytes().all(|byte| byte.is_ascii_graphic());
    if is_queue && is_id {
        Ok(())
    } else {
        Err(WorkError::InvalidName(format!("{queue}/{id}")))
    }
}

/// One line, not too long.
fn plain(reason: &str) -> String {
    let plain = |char: char| if char.is_control() { ' ' } else { char };
    reason.chars().map(plain).take(MAX_REASON).collect()
}
