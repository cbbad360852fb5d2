use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::{
    FutureExt,
    future::{BoxFuture, Shared, WeakShared},
};
use parking_lot::Mutex;
use tokio::sync::Semaphore;

use crate::{Breaker, Cache, Key};

/// Calls under way of which those that nobody waits for any more are looked for.
const SWEEP_AT: usize = 1024;

/// Seconds that an answer is kept at most, whatever it says.
const MAX_TTL: f64 = 24.0 * 3600.0;

type Asked<T, E> = BoxFuture<'static, Result<T, E>>;

/// Questions to one service: asked once for what many ask at the same time, the answers kept as long as they say, and
/// the service left alone for a while when it fails.
pub struct Inquiries<T: Clone, E: Clone> {
    service: Arc<Service<T>>,
    unavailable: E,
    calls: Mutex<HashMap<Key, WeakShared<Asked<T, E>>>>,
}

struct Service<T> {
    patience: Duration,
    cache: Mutex<Cache<T>>,
    breaker: Mutex<Breaker>,
    turns: Semaphore,
}

/// How a service is asked.
#[derive(Copy, Clone, Debug)]
pub struct InquirySettings {
    /// The service, for the log.
    pub name: &'static str,
    /// Answers that are kept at a time; 0 for none.
    pub kept: usize,
    /// Questions under way at a time; more wait.
    pub at_a_time: usize,
    /// How long they wait for that at most.
    pub patience: Duration,
}

/// What a call has come to.
#[derive(Debug)]
pub enum Outcome<T, E> {
    /// An answer that holds for so long.
    Answer(T, Duration),
    /// The service is there and says no; not kept.
    Refusal(E),
    /// The service does not answer, or nothing that can be used. Why, for the log: it must quote nothing secret.
    Failure(String),
}

impl<T, E> Inquiries<T, E>
where
    T: Clone + Send + Sync + 'static,
    E: Clone + Send + Sync + 'static,
{
    /// Whoever asks when the service fails or is left alone is told `unavailable`.
    #[must_use]
    pub fn new(settings: InquirySettings, unavailable: E) -> Self {
        Self {
            service: Arc::new(Service {
                patience: settings.patience,
                cache: Mutex::new(Cache::new(settings.kept)),
                breaker: Mutex::new(Breaker::new(settings.name)),
                turns: Semaphore::new(settings.at_a_time),
            }),
            unavailable,
            calls: Mutex::default(),
        }
    }

    /// What is kept under `key`.
    #[must_use]
    pub fn known(&self, key: &Key) -> Option<T> {
        self.service.cache.lock().get(key, Instant::now())
    }

    /// What is kept under `key`, else what `call` comes to or the same call of somebody else that is under way.
    /// Dropped, the others who wait for it get it all the same.
    ///
    /// # Errors
    /// A refusal, or that the service is unavailable.
    pub async fn ask<C>(&self, key: Key, call: impl FnOnce() -> C) -> Result<T, E>
    where
        C: Future<Output = Outcome<T, E>> + Send + 'static,
    {
        if let Some(known) = self.known(&key) {
            return Ok(known);
        }
        self.shared(key, call).await
    }

    fn shared<C>(&self, key: Key, call: impl FnOnce() -> C) -> Shared<Asked<T, E>>
    where
        C: Future<Output = Outcome<T, E>> + Send + 'static,
    {
        let mut calls = self.calls.lock();
        if let Some(call) = calls.get(&key).and_then(WeakShared::upgrade)
            && call.peek().is_none()
        {
            return call;
        }
        let (service, unavailable, call) = (Arc::clone(&self.service), self.unavailable.clone(), call());
        let call = async move { service.ask(key, unavailable, call).await };
        let call = call.boxed().shared();
        if calls.len() >= SWEEP_AT {
            calls.retain(|_, call| call.upgrade().is_some_and(|call| call.peek().is_none()));
        }
        if let Some(weak) = call.downgrade() {
            calls.insert(key, weak);
        }
        call
    }
}

impl<T: Clone> Service<T> {
    async fn ask<E>(
        &self,
        key: Key,
        unavailable: E,
        call: impl Future<Output = Outcome<T, E>>,
    ) -> Result<T, E> {
        let turn = tokio::time::timeout(self.patience, self.turns.acquire()).await;
        let Ok(Ok(_turn)) = turn else {
            return Err(unavailable);
        };
        if !self.breaker.lock().lets_through(Instant::now()) {
            return Err(unavailable);
        }
        match call.await {
            Outcome::Answer(answer, ttl) => {
                self.breaker.lock().succeeded();
                self.cache.lock().put(key, answer.clone(), ttl, Instant::now());
                Ok(answer)
            }
            Outcome::Refusal(refusal) => {
                self.breaker.lock().succeeded();
                Err(refusal)
            }
            Outcome::Failure(why) => {
                self.breaker.lock().failed(&why, Instant::now());
                Err(unavailable)
            }
        }
    }
}

/// How long an answer that says so many seconds is kept: a day at most, not at all for what is no time.
#[must_use]
pub fn ttl(seconds: f64) -> Duration {
    if seconds.is_finite() {
        Duration::from_secs_f64(seconds.clamp(0.0, MAX_TTL))
    } else {
        Duration::ZERO
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[tokio::test]
    async fn asked_once_kept_and_left_alone() {
        let settings = InquirySettings {
            name: "test",
            kept: 10,
            at_a_time: 2,
            patience: Duration::from_secs(10),
        };
        let inquiries = Inquiries::<u32, &str>::new(settings, "away");
        let calls = Arc::new(AtomicU32::new(0));
        let ask = |key: u8, outcome: fn() -> Outcome<u32, &'static str>| {
            let calls = Arc::clone(&calls);
            inquiries.ask([key; 32], move || async move {
                calls.fetch_add(1, Ordering::Relaxed);
                tokio::task::yield_now().await;
                outcome()
            })
        };
        let kept = || Outcome::Answer(7, Duration::from_secs(600));
        let all = futures_util::future::join_all((0..10).map(|_| ask(1, kept))).await;
        assert!(all.iter().all(|answer| *answer == Ok(7)));
        assert_eq!(calls.swap(0, Ordering::Relaxed), 1, "many ask once");
        assert_eq!(
            ask(1, || Outcome::Refusal("no")).await,
            Ok(7),
            "as long as it said"
        );
        for _ in 0..2 {
            assert_eq!(ask(2, || Outcome::Refusal("no")).await, Err("no"));
        }
        assert_eq!(calls.swap(0, Ordering::Relaxed), 2, "a refusal is not kept");
        for key in 3..20 {
            assert_eq!(
                ask(key, || Outcome::Failure("test".to_owned())).await,
                Err("away")
            );
        }
        assert_eq!(
            calls.load(Ordering::Relaxed),
            5,
            "five failures, and it is left alone"
        );
        assert_eq!(ask(1, kept).await, Ok(7), "what is known goes on to hold");
    }
}
