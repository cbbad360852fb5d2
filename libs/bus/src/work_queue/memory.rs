//! Work queues in memory: gone with the process.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::{sync::Notify, time::Instant};

use super::{ABANDONED, Buried, DeadLetter, Job, NewJob, WorkError, WorkQueue, WorkSettings, check, plain};

/// For how long a job is known by its id.
const DUPLICATES: Duration = Duration::from_secs(120);
/// Jobs of all queues at a time.
const MAX_JOBS: usize = 100_000;
/// Dead letters that are kept.
const MAX_LETTERS: usize = 10_000;

/// Work queues in memory. Cheap to clone.
#[derive(Clone)]
pub struct MemoryWork {
    shared: Arc<Shared>,
}

struct Shared {
    settings: WorkSettings,
    state: Mutex<State>,
    news: Notify,
}

#[derive(Default)]
struct State {
    jobs: Vec<Stored>,
    next: u64,
    /// Queues and ids, oldest first.
    known: VecDeque<(Instant, String)>,
    letters: VecDeque<Buried>,
    last_letter: u64,
}

struct Stored {
    number: u64,
    queue: String,
    id: Arc<str>,
    payload: Bytes,
    attempt: u32,
    /// When it may be handed out.
    due: Instant,
}

struct Taken {
    shared: Arc<Shared>,
    number: u64,
    queue: String,
    id: Arc<str>,
    payload: Bytes,
    attempt: u32,
    max_attempts: u32,
}

impl MemoryWork {
    /// No jobs.
    #[must_use]
    pub fn new(settings: WorkSettings) -> Self {
        Self {
            shared: Arc::new(Shared {
                settings,
                state: Mutex::default(),
                news: Notify::new(),
            }),
        }
    }
}

#[async_trait]
impl WorkQueue for MemoryWork {
    async fn enqueue(&self, job: NewJob) -> Result<(), WorkError> {
        check(&job.queue, &job.id)?;
        let mut state = self.shared.state.lock();
        if state.jobs.len() >= MAX_JOBS {
            return Err(WorkError::Full(format!("{MAX_JOBS} jobs wait")));
        }
        if !state.is_new(format!("{}/{}", job.queue, job.id)) {
            return Ok(());
        }
        state.next += 1;
        let number = state.next;
        state.jobs.push(Stored {
            number,
            queue: job.queue,
            id: job.id.into(),
            payload: job.payload,
            attempt: 0,
            due: Instant::now(),
        });
        drop(state);
        self.shared.news.notify_waiters();
        Ok(())
    }

    async fn take(&self, queue: &str, max_attempts: u32) -> Result<Box<dyn Job>, WorkError> {
        check(queue, "id")?;
        loop {
            let news = self.shared.news.notified();
            tokio::pin!(news);
            news.as_mut().enable();
            match self.shared.next(queue, max_attempts) {
                Ok(taken) => return Ok(Box::new(taken)),
                Err(None) => news.await,
                Err(Some(due)) => {
                    tokio::select! {
                        () = news => {}
                        () = tokio::time::sleep_until(due) => {}
                    }
                }
            }
        }
    }

    async fn bury(&self, letter: DeadLetter) -> Result<(), WorkError> {
        check(&letter.queue, &letter.id)?;
        self.shared.state.lock().bury(letter);
        Ok(())
    }

    async fn buried(&self, queue: &str, after: u64, limit: usize) -> Result<Vec<Buried>, WorkError> {
        check(queue, "id")?;
        let state = self.shared.state.lock();
        let letters = state.letters.iter();
        let letters = letters.filter(|buried| buried.letter.queue == queue && buried.place > after);
        Ok(letters.take(limit).cloned().collect())
    }
}

impl Shared {
    /// The next job that is due, or when one will be.
    fn next(self: &Arc<Self>, queue: &str, max_attempts: u32) -> Result<Taken, Option<Instant>> {
        let now = Instant::now();
        let mut state = self.state.lock();
        loop {
            let own = state
                .jobs
                .iter()
                .enumerate()
                .filter(|(_, job)| job.queue == queue);
            let Some((index, due)) = own
                .min_by_key(|(_, job)| (job.due, job.number))
                .map(|(index, job)| (index, job.due))
            else {
                return Err(None);
            };
            if due > now {
                return Err(Some(due));
            }
            if state.jobs[index].attempt >= max_attempts {
                let job = state.jobs.remove(index);
                let letter = DeadLetter {
                    queue: job.queue,
                    id: job.id.to_string(),
                    payload: job.payload,
                    attempts: job.attempt,
                    reason: ABANDONED.to_owned(),
                };
                state.bury(letter);
                continue;
            }
            let job = &mut state.jobs[index];
            job.attempt += 1;
            job.due = now + self.settings.deadline;
            return Ok(Taken {
                shared: Arc::clone(self),
                number: job.number,
                queue: job.queue.clone(),
                id: Arc::clone(&job.id),
                payload: job.payload.clone(),
                attempt: job.attempt,
                max_attempts,
            });
        }
    }
}

impl State {
    fn is_new(&mut self, name: String) -> bool {
        let now = Instant::now();
        while self
            .known
            .front()
            .is_some_and(|(since, _)| now.duration_since(*since) > DUPLICATES)
        {
            self.known.pop_front();
        }
        if self.known.iter().any(|(_, known)| *known == name) {
            return false;
        }
        self.known.push_back((now, name));
        true
    }

    fn bury(&mut self, letter: DeadLetter) {
        if !self.is_new(format!("dead/{}/{}", letter.queue, letter.id)) {
            return;
        }
        if self.letters.len() >= MAX_LETTERS {
            self.letters.pop_front();
        }
        self.last_letter += 1;
        let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.letters.push_back(Buried {
            place: self.last_letter,
            time_ms: u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX),
            letter: DeadLetter {
                reason: plain(&letter.reason),
                ..letter
            },
        });
    }
}

impl Taken {
    /// Does something with the job, unless it was handed out again meanwhile.
    fn settle(&self, then: impl FnOnce(&mut State, usize)) {
        let mut state = self.shared.state.lock();
        let mine = |job: &Stored| job.number == self.number && job.attempt == self.attempt;
        if let Some(index) = state.jobs.iter().position(mine) {
            then(&mut state, index);
        }
        drop(state);
        self.shared.news.notify_waiters();
    }

    fn bury(&self, reason: &str) {
        self.settle(|state, index| {
            state.jobs.remove(index);
            state.bury(DeadLetter {
                queue: self.queue.clone(),
                id: self.id.to_string(),
                payload: self.payload.clone(),
                attempts: self.attempt,
                reason: reason.to_owned(),
            });
        });
    }
}

#[async_trait]
impl Job for Taken {
    fn id(&self) -> &str {
        &self.id
    }

    fn payload(&self) -> &Bytes {
        &self.payload
    }

    fn attempt(&self) -> u32 {
        self.attempt
    }

    async fn working(&self) -> Result<(), WorkError> {
        let due = Instant::now() + self.shared.settings.deadline;
        self.settle(|state, index| state.jobs[index].due = due);
        Ok(())
    }

    async fn done(self: Box<Self>) -> Result<(), WorkError> {
        self.settle(|state, index| {
            state.jobs.remove(index);
        });
        Ok(())
    }

    async fn retry(self: Box<Self>, after: Duration, reason: &str) -> Result<bool, WorkError> {
        if self.attempt >= self.max_attempts {
            self.bury(reason);
            return Ok(false);
        }
        let due = Instant::now() + after;
        self.settle(|state, index| state.jobs[index].due = due);
        Ok(true)
    }

    async fn give_up(self: Box<Self>, reason: &str) -> Result<(), WorkError> {
        self.bury(reason);
        Ok(())
    }
}
