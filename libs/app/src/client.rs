use std::{collections::HashMap, sync::Arc, time::Duration};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use crate::{Answer, App, AppError, Topic};

/// Times that an event is handed over, where nobody waits for the answer.
const ATTEMPTS: u32 = 6;
/// Pause before the second of them; each is twice as long as the one before.
const PAUSE: Duration = Duration::from_millis(500);
/// Bytes of such events that are under way or wait for their next attempt.
const WAITING_BYTES: usize = 64 << 20;
/// What one of them costs besides its bytes.
const OVERHEAD: usize = 1024;

/// Hands custom events to the application: so many at a time, each within a time.
pub struct Client {
    app: Arc<dyn App>,
    settings: ClientSettings,
    turns: Arc<Semaphore>,
    /// Turns of one event of one namespace.
    shares: Mutex<HashMap<String, Arc<Semaphore>>>,
    waiting: Arc<Semaphore>,
    stopping: CancellationToken,
}

/// An event that nobody waits for, and that was given up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GivenUp {
    /// What became of the last attempt.
    pub error: AppError,
    /// How many there were.
    pub attempts: u32,
}

/// How the application is asked.
#[derive(Copy, Clone, Debug)]
pub struct ClientSettings {
    /// How long an answer may take, the wait for a turn included.
    pub timeout: Duration,
    /// Questions under way at a time. One event has half of them at most, so that a slow handler leaves the others
    /// their own.
    pub at_a_time: usize,
}

/// A place among the events that nobody waits for. Given back when it is dropped.
pub struct Waiting {
    _bytes: OwnedSemaphorePermit,
}

impl Client {
    /// Asks through `app`.
    #[must_use]
    pub fn new(app: Arc<dyn App>, settings: ClientSettings) -> Self {
        Self {
            app,
            turns: Arc::new(Semaphore::new(settings.at_a_time)),
            settings,
            shares: Mutex::default(),
            waiting: Arc::new(Semaphore::new(WAITING_BYTES)),
            stopping: CancellationToken::new(),
        }
    }

    /// From now on nothing is tried again that nobody waits for: what is under way is given up.
    pub fn stop(&self) {
        self.stopping.cancel();
    }

    /// Hands an [encoded](crate::EventMessage::encode) event over and waits for the answer. Dropped, nobody waits any
    /// more; the application may have got it all the same.
    ///
    /// # Errors
    /// As [`App::ask`], within the time.
    pub async fn event(&self, namespace: &str, event: &str, message: Bytes) -> Result<Answer, AppError> {
        let ask = async {
            let _turn = self.turn(namespace, event).await?;
            let body = self.app.ask(Topic::Event { namespace, event }, message).await?;
            Answer::decode(&body)
        };
        let answer = tokio::time::timeout(self.settings.timeout, ask).await;
        let answer = answer.unwrap_or(Err(AppError::Late));
        if let Err(error) = &answer
            && *error != AppError::NoHandler
        {
            tracing::debug!(%error, namespace, event, "the application has not handled an event");
        }
        answer
    }

    /// A place for an event that nobody waits for; `None` when too many are under way.
    #[must_use]
    pub fn place(&self, message: &Bytes) -> Option<Waiting> {
        let bytes = u32::try_from(message.len() + OVERHEAD).ok()?;
        let bytes = Arc::clone(&self.waiting).try_acquire_many_owned(bytes).ok()?;
        Some(Waiting { _bytes: bytes })
    }

    /// As [`Client::event`] for one that nobody waits for: what passes is tried again, with growing pauses, for about
    /// 15 s and what the attempts take.
    ///
    /// # Errors
    /// When it is given up.
    pub async fn event_until_done(
        &self,
        namespace: &str,
        event: &str,
        message: Bytes,
    ) -> Result<Answer, GivenUp> {
        self.until_done(|| self.attempt(namespace, event, message.clone(), None))
            .await
    }

    /// As [`Client::event_until_done`], within the time of one answer, for events that others wait behind.
    ///
    /// # Errors
    /// When it is given up.
    pub async fn event_in_time(
        &self,
        namespace: &str,
        event: &str,
        message: Bytes,
    ) -> Result<Answer, GivenUp> {
        let until = Some(Instant::now() + self.settings.timeout);
        self.attempts(until, || self.attempt(namespace, event, message.clone(), until))
            .await
    }

    /// Tries something that nobody waits for as [`Client::event_until_done`] does; an attempt is never cut short.
    ///
    /// # Errors
    /// When it is given up.
    pub async fn until_done<T, F>(&self, attempt: impl FnMut() -> F) -> Result<T, GivenUp>
    where
        F: Future<Output = Result<T, AppError>>,
    {
        self.attempts(None, attempt).await
    }

    /// As [`Client::until_done`], with no attempt after the time of one answer.
    ///
    /// # Errors
    /// When it is given up.
    pub async fn in_time<T, F>(&self, attempt: impl FnMut() -> F) -> Result<T, GivenUp>
    where
        F: Future<Output = Result<T, AppError>>,
    {
        self.attempts(Some(Instant::now() + self.settings.timeout), attempt)
            .await
    }

    async fn attempt(
        &self,
        namespace: &str,
        event: &str,
        message: Bytes,
        until: Option<Instant>,
    ) -> Result<Answer, AppError> {
        let asked = self.event(namespace, event, message);
        let in_time = async {
            match until {
                Some(until) => {
                    let in_time = tokio::time::timeout_at(until, asked).await;
                    in_time.unwrap_or(Err(AppError::Late))
                }
                None => asked.await,
            }
        };
        let stops = || AppError::Unavailable("the gateway stops".to_owned());
        let answer = self.stopping.run_until_cancelled(in_time).await;
        answer.unwrap_or_else(|| Err(stops()))
    }

    async fn attempts<T, F>(
        &self,
        until: Option<Instant>,
        mut attempt: impl FnMut() -> F,
    ) -> Result<T, GivenUp>
    where
        F: Future<Output = Result<T, AppError>>,
    {
        let (mut attempts, mut pause) = (0, PAUSE);
        loop {
            attempts += 1;
            let error = match attempt().await {
                Ok(done) => return Ok(done),
                Err(error) => error,
            };
            let is_last = match until {
                Some(until) => Instant::now() + pause >= until,
                None => attempts == ATTEMPTS,
            };
            if is_last || !error.is_passing() || self.stopping.is_cancelled() {
                return Err(GivenUp { error, attempts });
            }
            self.stopping.run_until_cancelled(tokio::time::sleep(pause)).await;
            pause *= 2;
        }
    }

    async fn turn(&self, namespace: &str, event: &str) -> Result<Turn<'_>, AppError> {
        let key = format!("{namespace} {event}");
        let share = {
            let mut shares = self.shares.lock();
            let new = || Arc::new(Semaphore::new(self.settings.at_a_time.div_ceil(2)));
            Arc::clone(shares.entry(key.clone()).or_insert_with(new))
        };
        // First of all, so that the share is looked after also when the wait is given up.
        let mut turn = Turn {
            client: self,
            key,
            share: Some(Arc::clone(&share)),
            permits: None,
        };
        // Semaphores that are never closed.
        let closed = |_| AppError::Unavailable("the gateway stops".to_owned());
        let own = share.acquire_owned().await.map_err(closed)?;
        let one = Arc::clone(&self.turns).acquire_owned().await.map_err(closed)?;
        turn.permits = Some((own, one));
        Ok(turn)
    }
}

struct Turn<'a> {
    client: &'a Client,
    key: String,
    share: Option<Arc<Semaphore>>,
    permits: Option<(OwnedSemaphorePermit, OwnedSemaphorePermit)>,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.permits = None;
        self.share = None;
        let mut shares = self.client.shares.lock();
        // Clients make names up: what nobody uses is forgotten.
        if shares
            .get(&self.key)
            .is_some_and(|share| Arc::strong_count(share) == 1)
        {
            shares.remove(&self.key);
        }
    }
}
