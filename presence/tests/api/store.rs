//! A store behind a switch.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use model::{GatewayId, Namespace, RoomName, UserId};
use registry::presence_store::{
    Batch, Changes, Expired, HeldSocket, OnlineUser, Outcome, Page, PageRequest, Position, PresenceError,
    PresenceStore, RoomInfo, Stats, StatsBreakdown, Transition, memory::MemoryPresence,
};
use tokio::sync::RwLock;

#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    There,
    Away,
    Stalls,
}

pub(crate) struct Switch {
    mode: AtomicU8,
    inner: RwLock<Arc<dyn PresenceStore>>,
}

impl Switch {
    pub(crate) fn new(store: Arc<dyn PresenceStore>) -> Self {
        Self {
            mode: AtomicU8::new(Mode::There as u8),
            inner: RwLock::new(store),
        }
    }

    pub(crate) fn set(&self, mode: Mode) {
        self.mode.store(mode as u8, Ordering::SeqCst);
    }

    fn is(&self, mode: Mode) -> bool {
        self.mode.load(Ordering::SeqCst) == mode as u8
    }

    /// All is lost, of a store in memory.
    pub(crate) async fn flush(&self) {
        *self.inner.write().await = Arc::new(MemoryPresence::new());
    }

    async fn inner(&self) -> Result<Arc<dyn PresenceStore>, PresenceError> {
        while self.is(Mode::Stalls) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        if self.is(Mode::Away) {
            return Err(PresenceError::Unavailable(
                "switched off at secret-host:6379".to_owned(),
            ));
        }
        Ok(Arc::clone(&*self.inner.read().await))
    }
}

macro_rules! through {
    ($(async fn $name:ident(&self $(, $arg:ident: $type:ty)*) -> $answer:ty;)*) => {
        #[async_trait]
        impl PresenceStore for Switch {
            $(async fn $name(&self $(, $arg: $type)*) -> Result<$answer, PresenceError> {
                self.inner().await?.$name($($arg),*).await
            })*
        }
    };
}

through! {
    async fn apply(&self, batch: Batch, now_ms: u64, grace: Duration) -> Outcome;
    async fn touch(&self, gateway: &GatewayId, now_ms: u64) -> bool;
    async fn expire(&self, now_ms: u64, lease: Duration, grace: Duration) -> Vec<Expired>;
    async fn life(&self) -> String;
    async fn turn_to_tell(&self, namespace: &Namespace, room: &RoomName, now_ms: u64, pause: Duration) -> Option<u32>;
    async fn due(&self, now_ms: u64, limit: usize) -> Vec<Transition>;
    async fn room_users(&self, namespace: &Namespace, room: &RoomName, page: PageRequest) -> Page<OnlineUser>;
    async fn room(&self, namespace: &Namespace, room: &RoomName) -> RoomInfo;
    async fn list_rooms(&self, namespace: &Namespace, page: PageRequest) -> Page<RoomInfo>;
    async fn online_users(&self, namespace: &Namespace, page: PageRequest) -> Page<OnlineUser>;
    async fn users_online(&self, namespace: &Namespace, users: &[UserId]) -> Vec<Option<OnlineUser>>;
    async fn user_sockets(&self, namespace: &Namespace, user: &UserId) -> Vec<HeldSocket>;
    async fn user_rooms(&self, namespace: &Namespace, user: &UserId) -> Vec<RoomName>;
    async fn stats(&self) -> Stats;
    async fn stats_breakdown(&self) -> StatsBreakdown;
    async fn changes_end(&self) -> Position;
    async fn changes(&self, after: &Position, limit: usize) -> Changes;
}
