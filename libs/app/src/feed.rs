use std::{
    collections::HashMap,
    hash::{DefaultHasher, Hash, Hasher},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use config::AppNews;
use lifecycle::Tasks;
use serde::Serialize;
use tokio::{
    sync::{Notify, mpsc},
    time::Instant,
};

use crate::{App, AppError, DeadLetters, GivenUp, SocketRef, Topic, Trace, Who};

/// News are told so many at a time; those of one socket one after the other.
const LANES: usize = 16;
/// News that may wait in a lane.
const WAITING: usize = 4096;
/// Pause before news are told again; each is twice as long as the one before.
const PAUSE: Duration = Duration::from_millis(250);
const MAX_PAUSE: Duration = Duration::from_secs(15);
/// News of a kind and namespace that nobody handles, or that are refused, are tried for so long, and the next ones once
/// each until one is heard.
const UNHEARD: Duration = Duration::from_secs(60);
/// Kinds and namespaces, at most, of which it is known since when they are not heard.
const MAX_UNHEARD: usize = 1024;

/// Tells the application who came and went, at least once and in order for each socket, as long as the process runs.
/// While it does not answer, up to 65,536 news wait; what comes then is lost, and told in the log. So is what nobody
/// has handled for a minute, and what was refused for so long is buried: other news wait behind it.
pub struct Feed {
    wanted: Vec<AppNews>,
    lanes: Vec<mpsc::Sender<Told>>,
    pending: Arc<Pending>,
}

/// What has happened.
#[derive(Copy, Clone, Debug, Serialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum News<'a> {
    /// A socket has entered a namespace.
    Connected {
        /// It has come back, with its rooms and without having missed anything.
        recovered: bool,
    },
    /// It is gone, and with it out of its rooms. One that comes back is told as connected.
    Disconnected {
        /// Why: the words of the reference server.
        reason: &'a str,
    },
    /// It has got into a room.
    Joined {
        /// Which one.
        room: &'a str,
    },
    /// It has left a room, and stays connected.
    Left {
        /// Which one.
        room: &'a str,
    },
}

/// Whom it has happened to.
#[derive(Copy, Clone, Debug, Serialize)]
pub struct Whom<'a> {
    /// Where.
    pub namespace: &'a str,
    /// The user behind the socket.
    pub user: Who<'a>,
    /// The socket.
    pub socket: SocketRef<'a>,
    /// Where it stands in a trace.
    pub trace: Trace<'a>,
}

/// As it is sent.
#[derive(Serialize)]
struct Message<'a> {
    #[serde(flatten)]
    news: News<'a>,
    /// When it happened, Unix milliseconds: what happened at another gateway since may be told earlier.
    time: u64,
    #[serde(flatten)]
    whom: Whom<'a>,
}

struct Told {
    kind: &'static str,
    namespace: Box<str>,
    json: Bytes,
}

/// News that have not been told yet.
#[derive(Default)]
struct Pending {
    count: AtomicUsize,
    lost: AtomicUsize,
    none: Notify,
}

impl Feed {
    /// Tells what is `wanted`. What is refused ends in `letters`. Its tasks are background tasks of `tasks`.
    #[must_use]
    pub fn new(app: &Arc<dyn App>, wanted: Vec<AppNews>, letters: &Arc<DeadLetters>, tasks: &Tasks) -> Self {
        let pending = Arc::new(Pending::default());
        let lane = |_| {
            let (lane, news) = mpsc::channel(WAITING);
            let teller = Teller {
                app: Arc::clone(app),
                letters: Arc::clone(letters),
                pending: Arc::clone(&pending),
                unheard: HashMap::new(),
            };
            tasks.background("application feed", teller.run(news));
            lane
        };
        Self {
            wanted,
            lanes: (0..LANES).map(lane).collect(),
            pending: Arc::clone(&pending),
        }
    }

    /// Tells it, if the application wants to know. Never waits.
    pub fn tell(&self, news: News<'_>, whom: Whom<'_>) {
        let kind = news.kind();
        if !self.wanted.contains(&kind) {
            return;
        }
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let time = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
        let told = Told {
            kind: kind.as_str(),
            namespace: whom.namespace.into(),
            // Texts are always JSON.
            json: serde_json::to_vec(&Message { news, time, whom })
                .unwrap_or_default()
                .into(),
        };
        let mut hasher = DefaultHasher::new();
        whom.socket.id.hash(&mut hasher);
        let lane = usize::try_from(hasher.finish() % LANES as u64).unwrap_or_default();
        self.pending.count.fetch_add(1, Ordering::SeqCst);
        if self.lanes[lane].try_send(told).is_err() {
            self.pending.lost("too many news wait for it");
            self.pending.done();
        }
    }

    /// Waits until the application knows everything. What is told meanwhile counts.
    pub async fn flushed(&self) {
        loop {
            let none = self.pending.none.notified();
            tokio::pin!(none);
            none.as_mut().enable();
            if self.pending.count.load(Ordering::SeqCst) == 0 {
                return;
            }
            none.await;
        }
    }
}

impl News<'_> {
    fn kind(&self) -> AppNews {
        match self {
            Self::Connected { .. } => AppNews::Connected,
            Self::Disconnected { .. } => AppNews::Disconnected,
            Self::Joined { .. } => AppNews::Joined,
            Self::Left { .. } => AppNews::Left,
        }
    }
}

impl Pending {
    fn done(&self) {
        if self.count.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.none.notify_waiters();
        }
    }

    fn lost(&self, why: &str) {
        let lost = self.lost.fetch_add(1, Ordering::Relaxed) + 1;
        // One line each would be a flood.
        if lost.is_power_of_two() {
            tracing::error!(lost, why, "the application does not hear who comes and goes");
        }
    }
}

/// Tells what comes in a lane.
struct Teller {
    app: Arc<dyn App>,
    letters: Arc<DeadLetters>,
    pending: Arc<Pending>,
    /// Since when nobody handles, or somebody refuses, news of this kind in this namespace.
    unheard: HashMap<(Box<str>, &'static str), Instant>,
}

impl Teller {
    async fn run(mut self, mut news: mpsc::Receiver<Told>) {
        while let Some(told) = news.recv().await {
            if let Err(given_up) = self.tell(&told).await {
                self.give_up(told, &given_up).await;
            }
            self.pending.done();
        }
    }

    async fn tell(&mut self, told: &Told) -> Result<(), GivenUp> {
        let (mut attempts, mut pause) = (0, PAUSE);
        loop {
            attempts += 1;
            let topic = Topic::News {
                namespace: &told.namespace,
                kind: told.kind,
            };
            let asked = self.app.ask(topic, told.json.clone()).await;
            let unheard = (told.namespace.clone(), told.kind);
            let error = match asked {
                Ok(_) => {
                    self.unheard.remove(&unheard);
                    return Ok(());
                }
                Err(error) => error,
            };
            let now = Instant::now();
            if error.is_passing() {
                self.unheard.remove(&unheard);
            } else {
                // Namespaces are made up by clients where a pattern allows it.
                if self.unheard.len() >= MAX_UNHEARD {
                    self.unheard.clear();
                }
                let since = *self.unheard.entry(unheard).or_insert(now);
                if now.duration_since(since) >= UNHEARD {
                    return Err(GivenUp { error, attempts });
                }
            }
            if pause >= MAX_PAUSE {
                tracing::warn!(%error, kind = told.kind, "the application does not hear who comes and goes");
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(MAX_PAUSE);
        }
    }

    async fn give_up(&self, told: Told, given_up: &GivenUp) {
        // As of events, what nobody handles is not kept.
        if given_up.error != AppError::NoHandler {
            self.letters.bury(told.kind, told.json, given_up).await;
        }
        self.pending.lost(&given_up.error.to_string());
    }
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;
    use bus::{WorkQueue, WorkSettings, work_queue::memory::MemoryWork};
    use model::Role;
    use parking_lot::Mutex;

    use super::*;

    /// Says this to news of these kinds, and hears all others.
    struct Deaf {
        to: &'static str,
        says: AppError,
        heard: Mutex<Vec<Bytes>>,
    }

    #[async_trait]
    impl App for Deaf {
        async fn ask(&self, topic: Topic<'_>, json: Bytes) -> Result<Bytes, AppError> {
            match topic {
                Topic::News { kind, .. } if kind == self.to => Err(self.says.clone()),
                _ => {
                    self.heard.lock().push(json);
                    Ok(Bytes::new())
                }
            }
        }
    }

    async fn buried_by(says: AppError) -> usize {
        let app = Arc::new(Deaf {
            to: "left",
            says,
            heard: Mutex::default(),
        });
        let asked: Arc<dyn App> = Arc::clone(&app) as _;
        let (letters, work) = (Arc::<DeadLetters>::default(), WorkSettings::default());
        let work = Arc::new(MemoryWork::new(work));
        letters.put_into(Arc::clone(&work) as _);
        let tasks = Tasks::new();
        let feed = Feed::new(&asked, vec![AppNews::Left, AppNews::Connected], &letters, &tasks);
        let whom = Whom {
            namespace: "/",
            user: Who {
                id: "ada",
                username: "Ada",
                role: Role::User,
            },
            socket: SocketRef { id: "s1" },
            trace: Trace { traceparent: "" },
        };
        let begun = Instant::now();
        for _ in 0..100 {
            feed.tell(News::Left { room: "r" }, whom);
            feed.tell(News::Connected { recovered: false }, whom);
        }
        feed.flushed().await;
        assert!(begun.elapsed() < UNHEARD * 2, "{:?}", begun.elapsed());
        assert_eq!(app.heard.lock().len(), 100);
        tasks.shutdown(Duration::from_secs(1)).await;
        work.buried("app", 0, 1000).await.unwrap().len()
    }

    #[tokio::test(start_paused = true)]
    async fn news_that_nobody_hears_do_not_hold_the_others_for_ever() {
        assert_eq!(buried_by(AppError::NoHandler).await, 0);
        assert_eq!(buried_by(AppError::Refused("status 400".to_owned())).await, 100);
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_refused_is_told_again() {
        let app = Arc::new(Once::default());
        let asked: Arc<dyn App> = Arc::clone(&app) as _;
        let mut teller = Teller {
            app: asked,
            letters: Arc::default(),
            pending: Arc::default(),
            unheard: HashMap::new(),
        };
        let told = Told {
            kind: "left",
            namespace: "/".into(),
            json: Bytes::new(),
        };
        teller.tell(&told).await.unwrap();
        assert_eq!(app.asked.load(Ordering::Relaxed), 3);
    }

    /// Refuses, does not answer, hears.
    #[derive(Default)]
    struct Once {
        asked: AtomicUsize,
    }

    #[async_trait]
    impl App for Once {
        async fn ask(&self, _: Topic<'_>, _: Bytes) -> Result<Bytes, AppError> {
            match self.asked.fetch_add(1, Ordering::Relaxed) {
                0 => Err(AppError::Refused("status 403".to_owned())),
                1 => Err(AppError::Late),
                _ => Ok(Bytes::new()),
            }
        }
    }
}
