use std::{
    hash::{DefaultHasher, Hash, Hasher},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use config::AppNews;
use lifecycle::Tasks;
use serde::Serialize;
use tokio::sync::{Notify, mpsc};

use crate::{App, AppError, SocketRef, Topic, Trace, Who};

/// News are told so many at a time; those of one socket one after the other.
const LANES: usize = 16;
/// News that may wait in a lane.
const WAITING: usize = 4096;
/// Pause before news are told again; each is twice as long as the one before.
const PAUSE: Duration = Duration::from_millis(250);
const MAX_PAUSE: Duration = Duration::from_secs(15);

/// Tells the application who came and went, at least once and in order for each socket, as long as the process runs.
/// While it does not answer, up to 65,536 news wait; what comes then is lost, and told in the log.
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
    /// Tells what is `wanted`. Its tasks are background tasks of `tasks`.
    #[must_use]
    pub fn new(app: &Arc<dyn App>, wanted: Vec<AppNews>, tasks: &Tasks) -> Self {
        let pending = Arc::new(Pending::default());
        let lane = |_| {
            let (lane, news) = mpsc::channel(WAITING);
            tasks.background(
                "application feed",
                run(Arc::clone(app), news, Arc::clone(&pending)),
            );
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
        let told = Told {
            kind: kind.as_str(),
            namespace: whom.namespace.into(),
            // Texts are always JSON.
            json: serde_json::to_vec(&Message { news, whom })
                .unwrap_or_default()
                .into(),
        };
        let mut hasher = DefaultHasher::new();
        whom.socket.id.hash(&mut hasher);
        let lane = usize::try_from(hasher.finish() % LANES as u64).unwrap_or_default();
        self.pending.count.fetch_add(1, Ordering::SeqCst);
        if self.lanes[lane].try_send(told).is_err() {
            self.pending.done();
            let lost = self.pending.lost.fetch_add(1, Ordering::Relaxed) + 1;
            // One line each would be a flood.
            if lost.is_power_of_two() {
                tracing::error!(
                    lost,
                    "the application does not hear who comes and goes: too many news wait for it"
                );
            }
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
}

async fn run(app: Arc<dyn App>, mut news: mpsc::Receiver<Told>, pending: Arc<Pending>) {
    while let Some(told) = news.recv().await {
        let mut pause = PAUSE;
        loop {
            let topic = Topic::News {
                namespace: &told.namespace,
                kind: told.kind,
            };
            match app.ask(topic, told.json.clone()).await {
                Ok(_) => break,
                Err(AppError::Refused(why)) => {
                    tracing::warn!(
                        why,
                        kind = told.kind,
                        "the application refuses to hear who comes and goes"
                    );
                    break;
                }
                Err(error) => {
                    if pause >= MAX_PAUSE {
                        tracing::warn!(%error, kind = told.kind, "the application does not hear who comes and goes");
                    }
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(MAX_PAUSE);
                }
            }
        }
        pending.done();
    }
}
