//! What the tables answer.

use std::sync::Arc;

use model::{GatewayId, Namespace, RoomName, UserId};

use super::state::{HeldByGateway, State, size};
use crate::presence_store::{Delta, OnlineUser, RoomInfo, Socket, SocketKey, Stats, is_listed};

impl State {
    pub(super) fn count(&self, namespace: &Namespace, room: &RoomName) -> u32 {
        self.namespaces
            .get(namespace)
            .and_then(|held| held.rooms.get(room))
            .map_or(0, |held| size(&held.members))
    }

    pub(super) fn room(&self, namespace: &Namespace, room: &RoomName) -> RoomInfo {
        let held = self
            .namespaces
            .get(namespace)
            .and_then(|held| held.rooms.get(room));
        RoomInfo {
            room: room.clone(),
            users_count: held.map_or(0, |held| size(&held.members)),
            sockets_count: held.filter(|_| is_listed(room)).map_or(0, |held| held.sockets),
        }
    }

    pub(super) fn online(&self, namespace: &Namespace, user: &UserId) -> Option<OnlineUser> {
        let oldest = self.oldest_socket(namespace, user)?;
        Some(OnlineUser {
            user: user.clone(),
            username: Arc::clone(&oldest.username),
            connected_at_ms: oldest.connected_at_ms,
        })
    }

    /// What every gateway's own sockets make, by id.
    pub(super) fn stats_of_gateways(&self) -> Vec<(GatewayId, Stats)> {
        let gateways = self.gateways.iter().map(|(gateway, held)| {
            let stats = Stats {
                connections: held.sockets.len() as u64,
                users: held.users.len() as u64,
                rooms: held.rooms.len() as u64,
            };
            (gateway.clone(), stats)
        });
        let mut gateways: Vec<_> = gateways.collect();
        gateways.sort_by(|(a, _), (b, _)| a.cmp(b));
        gateways
    }

    pub(super) fn stats(&self) -> Stats {
        Stats {
            connections: self.connections,
            users: self.users.len() as u64,
            rooms: self.listed_rooms,
        }
    }

    pub(super) fn counts_of_now(&self, deltas: &[Delta]) -> Vec<u32> {
        deltas
            .iter()
            .filter_map(|delta| match delta {
                Delta::Joined(key, room) => Some(self.count(&key.namespace, room)),
                _ => None,
            })
            .collect()
    }

    pub(super) fn sockets_of<'a>(
        &'a self,
        namespace: &Namespace,
        user: &UserId,
    ) -> impl Iterator<Item = (&'a GatewayId, &'a HeldByGateway)> + use<'a> {
        let sockets = self
            .namespaces
            .get(namespace)
            .and_then(|held| held.users.get(user));
        let namespace = namespace.clone();
        sockets.into_iter().flatten().filter_map(move |(gateway, id)| {
            let key = SocketKey {
                namespace: namespace.clone(),
                id: Arc::clone(id),
            };
            Some((gateway, self.gateways.get(gateway)?.sockets.get(&key)?))
        })
    }

    pub(super) fn oldest_socket(&self, namespace: &Namespace, user: &UserId) -> Option<&Socket> {
        let sockets = self.sockets_of(namespace, user).map(|(_, held)| &held.socket);
        sockets.min_by_key(|socket| socket.connected_at_ms)
    }
}
