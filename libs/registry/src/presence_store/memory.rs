//! In-memory engine: one process, one lock, held for one operation and never over an await.

use std::{collections::BTreeSet, ops::Bound, sync::Arc, time::Duration};

use async_trait::async_trait;
use model::{GatewayId, Namespace, RoomName, UserId};
use parking_lot::Mutex;

use super::{
    Batch, Changes, Expired, HeldSocket, OnlineUser, Outcome, Page, PageRequest, PageToken, Position,
    PresenceError, PresenceStore, RoomInfo, Stats, StatsBreakdown, Transition,
};

mod changes;
mod reads;
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

    async fn life(&self) -> Result<String, PresenceError> {
        Ok(self.state.lock().log.life())
    }

    async fn turn_to_tell(
        &self,
        namespace: &Namespace,
        room: &RoomName,
        now_ms: u64,
        pause: Duration,
    ) -> Result<Option<u32>, PresenceError> {
        Ok(self.state.lock().turn_to_tell(namespace, room, now_ms, pause))
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
            .and_then(|held| held.rooms.get(room))
            .map(|held| &held.members);
        let after = user_of(page.after.as_ref());
        let rest = members
            .into_iter()
            .flat_map(|members| members.range(rest(&after)));
        Ok(page_of(
            rest,
            page.limit,
            |(user, _)| user.as_str(),
            |&(user, member)| OnlineUser {
                user: user.clone(),
                username: Arc::clone(&member.username),
                connected_at_ms: state
                    .oldest_socket(namespace, user)
                    .map(|socket| socket.connected_at_ms)
                    .or(member.lost.map(|lost| lost.connected_at_ms))
                    .unwrap_or_default(),
            },
        ))
    }

    async fn room(&self, namespace: &Namespace, room: &RoomName) -> Result<RoomInfo, PresenceError> {
        Ok(self.state.lock().room(namespace, room))
    }

    async fn list_rooms(
        &self,
        namespace: &Namespace,
        page: PageRequest,
    ) -> Result<Page<RoomInfo>, PresenceError> {
        let state = self.state.lock();
        let rooms = state.namespaces.get(namespace).map(|held| &held.listed);
        let after = page.after.as_ref().map(|token| RoomName::stored(&token.0));
        let rest = rooms.into_iter().flat_map(|rooms| rooms.range(rest(&after)));
        Ok(page_of(
            rest,
            page.limit,
            |room| room.as_str(),
            |room| state.room(namespace, room),
        ))
    }

    async fn online_users(
        &self,
        namespace: &Namespace,
        page: PageRequest,
    ) -> Result<Page<OnlineUser>, PresenceError> {
        let state = self.state.lock();
        let users = state.namespaces.get(namespace).map(|held| &held.users);
        let after = user_of(page.after.as_ref());
        let rest = users
            .into_iter()
            .flat_map(|users| users.range(rest(&after)))
            .filter_map(|(user, _)| state.online(namespace, user));
        Ok(page_of(rest, page.limit, |user| user.user.as_str(), Clone::clone))
    }

    async fn users_online(
        &self,
        namespace: &Namespace,
        users: &[UserId],
    ) -> Result<Vec<Option<OnlineUser>>, PresenceError> {
        let state = self.state.lock();
        Ok(users.iter().map(|user| state.online(namespace, user)).collect())
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
        Ok(self.state.lock().stats())
    }

    async fn stats_breakdown(&self) -> Result<StatsBreakdown, PresenceError> {
        let state = self.state.lock();
        let mut namespaces: Vec<_> = state
            .namespaces
            .iter()
            .filter(|(_, held)| held.connections > 0 || !held.listed.is_empty())
            .map(|(namespace, held)| {
                let stats = Stats {
                    connections: held.connections,
                    users: held.users.len() as u64,
                    rooms: held.listed.len() as u64,
                };
                (namespace.clone(), stats)
            })
            .collect();
        namespaces.sort_by(|(a, _), (b, _)| a.cmp(b));
        Ok(StatsBreakdown {
            all: state.stats(),
            namespaces,
            gateways: state.stats_of_gateways(),
        })
    }

    async fn changes_end(&self) -> Result<Position, PresenceError> {
        Ok(self.state.lock().log.end())
    }

    async fn changes(&self, after: &Position, limit: usize) -> Result<Changes, PresenceError> {
        Ok(self.state.lock().log.after(after, limit))
    }
}

/// What comes after the page before.
fn rest<K>(after: &Option<K>) -> (Bound<&K>, Bound<&K>) {
    (
        after.as_ref().map_or(Bound::Unbounded, Bound::Excluded),
        Bound::Unbounded,
    )
}

/// The user where a page ended; a token that is no user id is none of ours, and the list begins anew.
fn user_of(token: Option<&PageToken>) -> Option<UserId> {
    token.and_then(|token| UserId::new(&token.0).ok())
}

/// A page of what is left, in its order; the token is the last name of the page.
fn page_of<I, T>(
    rest: impl Iterator<Item = I>,
    limit: usize,
    name: impl Fn(&I) -> &str,
    item: impl Fn(&I) -> T,
) -> Page<T> {
    let mut rest = rest.peekable();
    let mut items = Vec::new();
    let mut last = None;
    for entry in rest.by_ref().take(limit.max(1)) {
        items.push(item(&entry));
        last = Some(entry);
    }
    let more = rest.peek().is_some();
    Page {
        items,
        next: last
            .filter(|_| more)
            .map(|last| PageToken(name(&last).to_owned())),
    }
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
