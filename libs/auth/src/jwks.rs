//! A JWKS behind a URL: fetched by one task, kept when it cannot be had, asked anew when a token names a key that is
//! not in it.

use std::{sync::Arc, time::Duration};

use calls::{Http, uri};
use config::masked_url;
use http::Uri;
use tokio::{
    sync::{Notify, watch},
    time::Instant,
};

use crate::{SetupError, keys::Key};

/// A wish for new keys is granted so often at most: anybody can make up the id of a key.
const COOLDOWN: Duration = Duration::from_secs(60);
/// After a failure it is asked again.
const RETRY: Duration = Duration::from_secs(10);
/// Bytes of a JWKS.
const MAX_JWKS: usize = 256 * 1024;
/// Beyond the time that a request may take.
const SLACK: Duration = Duration::from_secs(1);

/// The keys behind a URL. The task that fetches them ends with it.
pub(crate) struct Remote {
    pub(crate) url: Box<str>,
    fetched: watch::Receiver<Fetched>,
    wish: Arc<Notify>,
    patience: Duration,
}

/// What the last attempt came to.
#[derive(Clone)]
pub(crate) struct Fetched {
    /// Those of the last attempt that succeeded; none when none did.
    pub(crate) keys: Option<Arc<[Key]>>,
    /// Whether the last attempt failed, or is still to come.
    pub(crate) stale: bool,
    attempts: u64,
    at: Option<Instant>,
}

impl Remote {
    /// Begins to fetch. Until that has succeeded `keys` hold. The future is the task.
    pub(crate) fn new(
        setting: &str,
        url: &str,
        refresh: Duration,
        http: Http,
        keys: Option<Arc<[Key]>>,
    ) -> Result<(Self, impl Future<Output = ()> + Send + use<>), SetupError> {
        let (tell, fetched) = watch::channel(Fetched {
            stale: true,
            keys,
            attempts: 0,
            at: None,
        });
        let wish = Arc::new(Notify::new());
        let patience = http.timeout() + SLACK;
        let task = Task {
            url: uri(setting, url)?,
            http,
            refresh,
            tell,
            wish: Arc::clone(&wish),
        };
        let remote = Self {
            url: url.into(),
            fetched,
            wish,
            patience,
        };
        Ok((remote, task.run()))
    }

    /// What is known; before the first attempt, what that comes to.
    pub(crate) async fn fetched(&self) -> Fetched {
        let mut fetched = self.fetched.clone();
        let first = fetched.wait_for(|fetched| fetched.attempts > 0 || fetched.keys.is_some());
        if let Ok(Ok(fetched)) = tokio::time::timeout(self.patience, first).await {
            return fetched.clone();
        }
        self.fetched.borrow().clone()
    }

    /// What is known after it was asked anew, if `known` is not from just now.
    pub(crate) async fn newer(&self, known: &Fetched) -> Fetched {
        let mut fetched = self.fetched.clone();
        let is_old = fetched.borrow().at.is_none_or(|at| at.elapsed() >= COOLDOWN);
        if is_old && fetched.borrow().attempts == known.attempts {
            self.wish.notify_one();
            let next = fetched.wait_for(|fetched| fetched.attempts > known.attempts);
            // Who waits in vain gets what there is.
            let _ = tokio::time::timeout(self.patience, next).await;
        }
        self.fetched.borrow().clone()
    }

    /// The keys of the last attempt that succeeded.
    pub(crate) fn keys(&self) -> Option<Arc<[Key]>> {
        self.fetched.borrow().keys.clone()
    }
}

struct Task {
    url: Uri,
    http: Http,
    refresh: Duration,
    tell: watch::Sender<Fetched>,
    wish: Arc<Notify>,
}

impl Task {
    async fn run(self) {
        let shown = masked_url(&self.url.to_string());
        let mut failed = false;
        loop {
            let result = tokio::select! {
                result = self.fetch() => result,
                () = self.tell.closed() => return,
            };
            let at = Instant::now();
            let pause = match result {
                Ok(keys) => {
                    if failed {
                        tracing::info!(url = shown, "the keys of tokens can be had again");
                    }
                    failed = false;
                    self.tell.send_modify(|fetched| {
                        fetched.keys = Some(keys.into());
                        fetched.stale = false;
                        fetched.attempts += 1;
                        fetched.at = Some(at);
                    });
                    self.refresh
                }
                Err(error) => {
                    // Once for each outage.
                    if !failed {
                        let kept = self.tell.borrow().keys.as_ref().map_or(0, |keys| keys.len());
                        tracing::warn!(
                            url = shown,
                            error,
                            kept,
                            "the keys of tokens cannot be had; those there are go on to hold"
                        );
                    }
                    failed = true;
                    self.tell.send_modify(|fetched| {
                        fetched.stale = true;
                        fetched.attempts += 1;
                        fetched.at = Some(at);
                    });
                    RETRY.min(self.refresh)
                }
            };
            let wished = async {
                loop {
                    self.wish.notified().await;
                    // A wish from before this attempt is granted by it.
                    if at.elapsed() >= COOLDOWN {
                        return;
                    }
                }
            };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = wished => {}
                () = self.tell.closed() => return,
            }
        }
    }

    async fn fetch(&self) -> Result<Vec<Key>, String> {
        let (status, body) = self
            .http
            .get(&self.url, MAX_JWKS)
            .await
            .map_err(|error| error.to_string())?;
        if !status.is_success() {
            return Err(format!("status {status}"));
        }
        Key::from_jwks(&body, false)
    }
}
