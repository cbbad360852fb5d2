//! The model: flat lists, looked at as a whole for every answer.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use model::{GatewayId, Namespace, RoomName, UserId};

use super::super::{GRACE, LEASE, words::LEFT};
use crate::presence_store::{
    Applied, Batch, Delta, Outcome, RoomChange, RoomTransition, Socket, SocketKey, Transition, UserChange,
    UserTransition, is_listed,
};

#[derive(Clone)]
pub(super) struct Held {
    pub(super) gateway: GatewayId,
    pub(super) socket: Socket,
    pub(super) rooms: BTreeSet<RoomName>,
}

/// What the store has been told: what it must know.
#[derive(Default)]
pub(super) struct Told {
    pub(super) sockets: Vec<Held>,
    /// Gateway, number applied, when heard of.
    pub(super) gateways: Vec<(GatewayId, u64, u64)>,
    /// End, namespace, room or none for the namespace itself, user.
    graces: Vec<(u64, Namespace, Option<RoomName>, UserId)>,
    /// When the first socket of a user's stay had connected.
    since: Vec<(Namespace, UserId, u64)>,
}

impl Told {
    pub(super) fn number(&self, gateway: &GatewayId) -> Option<u64> {
        self.gateways
            .iter()
            .find(|(id, ..)| id == gateway)
            .map(|(_, number, _)| *number)
    }

    pub(super) fn touch(&mut self, gateway: &GatewayId, now_ms: u64) -> bool {
        let known = self.gateways.iter_mut().find(|(id, ..)| id == gateway);
        known.map(|(_, _, heard)| *heard = now_ms).is_some()
    }

    pub(super) fn apply(&mut self, batch: &Batch, now_ms: u64) -> Outcome {
        self.touch(&batch.gateway, now_ms);
        let number = self.number(&batch.gateway);
        let repeated = !batch.snapshot && number == Some(batch.number);
        if !batch.snapshot && !repeated && number.unwrap_or(0) + 1 != batch.number {
            return Outcome::NeedSnapshot {
                applied: number.unwrap_or(0),
            };
        }
        let mut applied = Applied::default();
        if !repeated {
            self.gateways.retain(|(id, ..)| *id != batch.gateway);
            self.gateways.push((batch.gateway.clone(), batch.number, now_ms));
        }
        if batch.snapshot {
            self.forget(batch, now_ms, &mut applied.transitions);
        }
        for delta in &batch.deltas {
            if !repeated {
                self.change(&batch.gateway, delta, now_ms, &mut applied.transitions);
            }
            if let Delta::Joined(key, room) = delta {
                applied.users_counts.push(self.count(&key.namespace, room));
            }
        }
        Outcome::Applied(applied)
    }

    fn forget(&mut self, snapshot: &Batch, now_ms: u64, out: &mut Vec<Transition>) {
        let mine: Vec<_> = self
            .sockets
            .iter()
            .filter(|held| held.gateway == snapshot.gateway)
            .cloned()
            .collect();
        let (stay, gone): (Vec<_>, Vec<_>) = mine.into_iter().partition(|held| {
            snapshot
                .deltas
                .iter()
                .any(|delta| matches!(delta, Delta::Connected(socket) if *socket == held.socket))
        });
        for held in gone {
            self.change(
                &snapshot.gateway,
                &Delta::Disconnected(held.socket.key),
                now_ms,
                out,
            );
        }
        for held in stay {
            for room in held.rooms {
                if !snapshot
                    .deltas
                    .contains(&Delta::Joined(held.socket.key.clone(), room.clone()))
                {
                    self.change(
                        &snapshot.gateway,
                        &Delta::Left(held.socket.key.clone(), room),
                        now_ms,
                        out,
                    );
                }
            }
        }
    }

    fn change(&mut self, gateway: &GatewayId, delta: &Delta, now_ms: u64, out: &mut Vec<Transition>) {
        let place = |sockets: &[Held], key: &SocketKey| {
            sockets
                .iter()
                .position(|held| held.gateway == *gateway && held.socket.key == *key)
        };
        match delta {
            Delta::Connected(socket) => {
                if place(&self.sockets, &socket.key).is_none() {
                    let (namespace, user) = (&socket.key.namespace, &socket.user);
                    if self.online_since(namespace, user).is_none() {
                        let away = self.end_of_grace(namespace, None, user);
                        let change = if away {
                            UserChange::Back
                        } else {
                            let since = (namespace.clone(), user.clone(), socket.connected_at_ms);
                            self.since.push(since);
                            UserChange::Online
                        };
                        out.push(of_user(namespace, user, change));
                    }
                    let (gateway, socket) = (gateway.clone(), socket.clone());
                    self.sockets.push(Held {
                        gateway,
                        socket,
                        rooms: BTreeSet::new(),
                    });
                }
            }
            Delta::Disconnected(key) => {
                let Some(at) = place(&self.sockets, key) else {
                    return;
                };
                let gone = self.sockets.remove(at);
                let (namespace, user) = (&gone.socket.key.namespace, &gone.socket.user);
                let until_ms = now_ms + GRACE.as_millis() as u64;
                for room in gone.rooms {
                    if is_listed(&room) && !self.is_in(namespace, &room, user) {
                        self.graces
                            .push((until_ms, namespace.clone(), Some(room.clone()), user.clone()));
                        out.push(self.in_room(namespace, &room, user, RoomChange::Lost { until_ms }));
                    }
                }
                if self.online_since(namespace, user).is_none() {
                    self.graces
                        .push((until_ms, namespace.clone(), None, user.clone()));
                    out.push(of_user(namespace, user, UserChange::Lost { until_ms }));
                }
            }
            Delta::Joined(key, room) => {
                let Some(at) = place(&self.sockets, key) else {
                    return;
                };
                let user = self.sockets[at].socket.user.clone();
                let member = self.members(&key.namespace, room).contains(&user);
                if !self.sockets[at].rooms.insert(room.clone()) || !is_listed(room) {
                    return;
                }
                self.end_of_grace(&key.namespace, Some(room), &user);
                let again = RoomChange::JoinedAgain {
                    socket: Arc::clone(&key.id),
                };
                let online_ms = self.since(&key.namespace, &user);
                let change = if member {
                    again
                } else {
                    RoomChange::Joined { online_ms }
                };
                out.push(self.in_room(&key.namespace, room, &user, change));
            }
            Delta::Left(key, room) => {
                let Some(at) = place(&self.sockets, key) else {
                    return;
                };
                let user = self.sockets[at].socket.user.clone();
                let was_in = self.sockets[at].rooms.remove(room);
                if was_in && is_listed(room) && !self.is_in(&key.namespace, room, &user) {
                    out.push(self.in_room(&key.namespace, room, &user, LEFT));
                }
            }
            Delta::Stays(..) | Delta::Restored(..) => {
                panic!("these histories are of stores that lose nothing")
            }
        }
    }

    pub(super) fn expire(&mut self, now_ms: u64) -> (Vec<(GatewayId, usize)>, Vec<Transition>) {
        let over = |heard: u64| Duration::from_millis(now_ms - heard) >= LEASE;
        let mut dead: Vec<_> = self
            .gateways
            .extract_if(.., |(_, _, heard)| over(*heard))
            .map(|(id, ..)| id)
            .collect();
        dead.sort();
        let mut out = Vec::new();
        let mut gateways = Vec::new();
        for gateway in dead {
            let mine = self.sockets.iter().filter(|held| held.gateway == gateway);
            let keys: Vec<_> = mine.map(|held| held.socket.key.clone()).collect();
            gateways.push((gateway.clone(), keys.len()));
            for key in keys {
                self.change(&gateway, &Delta::Disconnected(key), now_ms, &mut out);
            }
        }
        (gateways, out)
    }

    pub(super) fn due(&mut self, now_ms: u64) -> Vec<Transition> {
        let mut out = Vec::new();
        while let Some(at) = self.graces.iter().position(|(until_ms, ..)| *until_ms <= now_ms) {
            let (_, namespace, room, user) = self.graces.remove(at);
            out.push(match room {
                Some(room) => {
                    let offline_ms = self.graces.iter().find_map(|(until_ms, within, of, who)| {
                        let whole = (within, of, who) == (&namespace, &None, &user);
                        (whole && *until_ms <= now_ms).then_some(*until_ms)
                    });
                    self.in_room(&namespace, &room, &user, RoomChange::Left { offline_ms })
                }
                None => {
                    self.since
                        .retain(|(within, who, _)| (within, who) != (&namespace, &user));
                    of_user(&namespace, &user, UserChange::Offline)
                }
            });
        }
        out
    }

    fn is_in(&self, namespace: &Namespace, room: &RoomName, user: &UserId) -> bool {
        self.of_user(namespace, user)
            .any(|held| held.rooms.contains(room))
    }

    pub(super) fn of_user(&self, namespace: &Namespace, user: &UserId) -> impl Iterator<Item = &Held> {
        self.sockets
            .iter()
            .filter(move |held| held.socket.key.namespace == *namespace && held.socket.user == *user)
    }

    pub(super) fn online_since(&self, namespace: &Namespace, user: &UserId) -> Option<u64> {
        self.of_user(namespace, user)
            .map(|held| held.socket.connected_at_ms)
            .min()
    }

    pub(super) fn members(&self, namespace: &Namespace, room: &RoomName) -> BTreeSet<UserId> {
        let inside = self
            .sockets
            .iter()
            .filter(|held| held.socket.key.namespace == *namespace);
        let inside = inside
            .filter(|held| held.rooms.contains(room))
            .map(|held| &held.socket.user);
        let graces = self
            .graces
            .iter()
            .filter(|(_, within, of, _)| (within, of.as_ref()) == (namespace, Some(room)));
        inside.chain(graces.map(|(.., user)| user)).cloned().collect()
    }

    pub(super) fn count(&self, namespace: &Namespace, room: &RoomName) -> u32 {
        u32::try_from(self.members(namespace, room).len()).unwrap()
    }

    fn since(&self, namespace: &Namespace, user: &UserId) -> u64 {
        let stays = self.since.iter();
        let mut stay = stays.filter(|(within, who, _)| (within, who) == (namespace, user));
        stay.next().unwrap().2
    }

    /// Ends a grace before its time; whether there was one.
    fn end_of_grace(&mut self, namespace: &Namespace, room: Option<&RoomName>, user: &UserId) -> bool {
        let before = self.graces.len();
        self.graces
            .retain(|(_, within, of, who)| (within, of.as_ref(), who) != (namespace, room, user));
        self.graces.len() < before
    }

    fn in_room(
        &self,
        namespace: &Namespace,
        room: &RoomName,
        user: &UserId,
        change: RoomChange,
    ) -> Transition {
        Transition::Room(RoomTransition {
            namespace: namespace.clone(),
            room: room.clone(),
            user: user.clone(),
            username: format!("Name of {user}").into(),
            users_count: self.count(namespace, room),
            change,
        })
    }
}

fn of_user(namespace: &Namespace, user: &UserId, change: UserChange) -> Transition {
    Transition::User(UserTransition {
        namespace: namespace.clone(),
        user: user.clone(),
        username: format!("Name of {user}").into(),
        change,
    })
}
