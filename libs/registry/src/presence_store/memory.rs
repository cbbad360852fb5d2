//! In-memory engine: one process, one lock, held for one operation and never over an await.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use model::{GatewayId, Namespace, RoomName, UserId};
use parking_lot::Mutex;

use super::{
    Batch, Expired, HeldSocket, OnlineUser, Outcome, Page, PageRequest, PageToken, PresenceError,
    PresenceStore, Stats, Transition,
};

mod state;

use state::{State, until};

/// Keeps everything in this process. Empty rooms, users, namespaces and dead gateways take no memory.
#[derive(Debug, Default)]
pub struct MemoryPresence {
    state: Mutex<State>,
}

impl MemoryPresence {
    /// An empty store.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }
}

#[async_trait]
impl PresenceStore for MemoryPresence {
    async fn apply(&self, batch: Batch, now_ms: u64, grace: Duration) -> Result<Outcome, PresenceError> {
        Ok(self.state.lock().apply(batch, now_ms, until(now_ms, grace)))
    }

    async fn touch(&self, gateway: &GatewayId, now_ms: u64) -> Result<bool, PresenceError> {
        let mut state = self.state.lock();
        let held = state.gateways.get_mut(gateway);
        Ok(held
            .map(|held| held.touched_ms = held.touched_ms.max(now_ms))
            .is_some())
    }

    async fn expire(
        &self,
        now_ms: u64,
        lease: Duration,
        grace: Duration,
    ) -> Result<Vec<Expired>, PresenceError> {
        Ok(self.state.lock().expire(now_ms, lease, until(now_ms, grace)))
    }

    async fn due(&self, now_ms: u64, limit: usize) -> Result<Vec<Transition>, PresenceError> {
        Ok(self.state.lock().due(now_ms, limit))
    }

    async fn room_users(
        &self,
        namespace: &Namespace,
        room: &RoomName,
        page: PageRequest,
    ) -> Result<Page<OnlineUser>, PresenceError> {
        let state = self.state.lock();
        let members = state
            .namespaces
            .get(namespace)
            .and_then(|held| held.rooms.get(room));
        Ok(page_of(members, &page, |user, member| OnlineUser {
            user: user.clone(),
            username: Arc::clone(&member.username),
            connected_at_ms: state
                .oldest_socket(namespace, user)
                .map(|socket| socket.connected_at_ms)
                .or(member.lost.map(|lost| lost.connected_at_ms))
                .unwrap_or_default(),
        }))
    }

    async fn room_count(&self, namespace: &Namespace, room: &RoomName) -> Result<u32, PresenceError> {
        Ok(self.state.lock().count(namespace, room))
    }

    async fn online_users(
        &self,
        namespace: &Namespace,
        page: PageRequest,
    ) -> Result<Page<OnlineUser>, PresenceError> {
        let state = self.state.lock();
        let users = state.namespaces.get(namespace).map(|held| &held.users);
        Ok(page_of(users, &page, |user, _| {
            let oldest = state.oldest_socket(namespace, user);
            OnlineUser {
                user: user.clone(),
                username: oldest.map_or_else(|| user.as_str().into(), |socket| Arc::clone(&socket.username)),
                connected_at_ms: oldest.map_or(0, |socket| socket.connected_at_ms),
            }
        }))
    }

    async fn user_sockets(
        &self,
        namespace: &Namespace,
        user: &UserId,
    ) -> Result<Vec<HeldSocket>, PresenceError> {
        let state = self.state.lock();
        let mut sockets: Vec<_> = state
            .sockets_of(namespace, user)
            .map(|(gateway, held)| HeldSocket {
                gateway: gateway.clone(),
                socket: held.socket.clone(),
            })
            .collect();
        sockets.sort_by_key(|held| held.socket.connected_at_ms);
        Ok(sockets)
    }

    async fn user_rooms(&self, namespace: &Namespace, user: &UserId) -> Result<Vec<RoomName>, PresenceError> {
        let state = self.state.lock();
        let rooms: BTreeSet<_> = state
            .sockets_of(namespace, user)
            .flat_map(|(_, held)| held.rooms.iter())
            .collect();
        Ok(rooms.into_iter().cloned().collect())
    }

    async fn stats(&self) -> Result<Stats, PresenceError> {
        let state = self.state.lock();
        Ok(Stats {
            connections: state.connections,
            users: state.users.len() as u64,
            rooms: state.listed_rooms,
        })
    }
}

/// A page in the order of user ids; the token is the last id of the page.
fn page_of<V, T>(
    users: Option<&BTreeMap<UserId, V>>,
    page: &PageRequest,
    item: impl Fn(&UserId, &V) -> T,
) -> Page<T> {
    let mut result = Page {
        items: Vec::new(),
        next: None,
    };
    let Some(users) = users else { return result };
    // A token that is no user id is none of ours: the list begins anew.
    let after = page.after.as_ref().and_then(|token| UserId::new(&token.0).ok());
    let begin = after.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
    let mut rest = users.range((begin, Bound::Unbounded)).peekable();
    let mut last = None;
    for (user, value) in rest.by_ref().take(page.limit.max(1)) {
        result.items.push(item(user, value));
        last = Some(user);
    }
    if rest.peek().is_some() {
        result.next = last.map(|user| PageToken(user.as_str().to_owned()));
    }
    result
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::presence_store::conformance::{self, Step};

    #[tokio::test]
    async fn conforms() {
        conformance::all(async || Arc::new(MemoryPresence::new()) as Arc<dyn PresenceStore>).await;
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

        #[test]
        fn agrees_with_the_naive_truth(steps in proptest::collection::vec(any::<u32>(), 1..120)) {
            let steps: Vec<Step> = steps.into_iter().map(Step::decode).collect();
            let store = MemoryPresence::new();
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(conformance::agrees_with_the_naive_truth(&store, &steps));
        }
    }

    #[tokio::test]
    async fn what_is_empty_takes_no_memory() {
        let store = MemoryPresence::new();
        let steps: Vec<Step> = (0..4000u32)
            .map(|n| Step::decode(n.wrapping_mul(0x9e37_79b9)))
            .collect();
        conformance::agrees_with_the_naive_truth(&store, &steps).await;
        let far = u64::MAX / 2;
        store.expire(far, Duration::ZERO, Duration::ZERO).await.unwrap();
        while !store.due(far, 7).await.unwrap().is_empty() {}
        let state = store.state.lock();
        assert!(state.gateways.is_empty() && state.namespaces.is_empty());
        assert!(state.users.is_empty() && state.graces.is_empty());
        assert_eq!((state.connections, state.listed_rooms), (0, 0));
    }
}
