//! The tables, and how deltas, time and dead gateways change them.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use model::{GatewayId, Namespace, RoomName, UserId};

use crate::presence_store::{
    Applied, Batch, Change, Delta, Expired, Outcome, Socket, SocketKey, Transition, is_listed,
};

#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) gateways: HashMap<GatewayId, HeldGateway>,
    pub(super) namespaces: HashMap<Namespace, HeldNamespace>,
    /// In how many namespaces a user has sockets.
    pub(super) users: HashMap<UserId, u32>,
    /// Stays in the grace, by its end.
    pub(super) graces: BTreeSet<(u64, Stay)>,
    pub(super) connections: u64,
    pub(super) listed_rooms: u64,
}

#[derive(Debug, Default)]
pub(super) struct HeldGateway {
    applied: u64,
    pub(super) touched_ms: u64,
    sockets: HashMap<SocketKey, HeldByGateway>,
}

#[derive(Debug)]
pub(super) struct HeldByGateway {
    pub(super) socket: Socket,
    pub(super) rooms: BTreeSet<RoomName>,
}

#[derive(Debug, Default)]
pub(super) struct HeldNamespace {
    pub(super) users: BTreeMap<UserId, BTreeSet<(GatewayId, Arc<str>)>>,
    pub(super) rooms: HashMap<RoomName, BTreeMap<UserId, Member>>,
}

#[derive(Debug)]
pub(super) struct Member {
    /// How many of the user's sockets are in the room; 0 only within the grace.
    sockets: u32,
    pub(super) username: Arc<str>,
    pub(super) lost: Option<Lost>,
}

#[derive(Copy, Clone, Debug)]
pub(super) struct Lost {
    until_ms: u64,
    pub(super) connected_at_ms: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Stay {
    namespace: Namespace,
    room: RoomName,
    user: UserId,
}

impl State {
    pub(super) fn apply(&mut self, batch: Batch, now_ms: u64, until_ms: u64) -> Outcome {
        let Batch {
            gateway,
            number,
            snapshot,
            deltas,
        } = batch;
        let mut applied = Applied::default();
        let last = self.gateways.get_mut(&gateway).map_or(0, |held| {
            held.touched_ms = held.touched_ms.max(now_ms);
            held.applied
        });
        if !snapshot {
            if number == last && last > 0 {
                applied.users_counts = self.counts_of_now(&deltas);
                return Outcome::Applied(applied);
            }
            if Some(number) != last.checked_add(1) {
                return Outcome::NeedSnapshot { applied: last };
            }
        }
        let held = self.gateways.entry(gateway.clone()).or_default();
        held.applied = number;
        held.touched_ms = held.touched_ms.max(now_ms);
        if snapshot {
            self.let_go(&gateway, &deltas, until_ms, &mut applied.transitions);
        }
        for delta in deltas {
            match delta {
                Delta::Connected(socket) => {
                    self.connect(&gateway, socket, until_ms, &mut applied.transitions)
                }
                Delta::Disconnected(key) => {
                    self.disconnect(&gateway, &key, until_ms, &mut applied.transitions)
                }
                Delta::Joined(key, room) => {
                    self.join(&gateway, &key, &room, &mut applied.transitions);
                    applied.users_counts.push(self.count(&key.namespace, &room));
                }
                Delta::Left(key, room) => self.leave(&gateway, &key, &room, &mut applied.transitions),
            }
        }
        Outcome::Applied(applied)
    }

    /// The first half of a snapshot: drops what the gateway had and a snapshot's deltas no longer say.
    fn let_go(&mut self, gateway: &GatewayId, deltas: &[Delta], until_ms: u64, out: &mut Vec<Transition>) {
        let mut wanted: HashMap<&SocketKey, (&UserId, BTreeSet<&RoomName>)> = HashMap::new();
        for delta in deltas {
            match delta {
                Delta::Connected(socket) => {
                    let rooms = match wanted.remove(&socket.key) {
                        Some((user, rooms)) if *user == socket.user => rooms,
                        _ => BTreeSet::new(),
                    };
                    wanted.insert(&socket.key, (&socket.user, rooms));
                }
                Delta::Disconnected(key) => {
                    wanted.remove(key);
                }
                Delta::Joined(key, room) => {
                    wanted.get_mut(key).map(|(_, rooms)| rooms.insert(room));
                }
                Delta::Left(key, room) => {
                    wanted.get_mut(key).map(|(_, rooms)| rooms.remove(room));
                }
            }
        }
        let Some(held) = self.gateways.get(gateway) else {
            return;
        };
        let mut lost = Vec::new();
        let mut left = Vec::new();
        for (key, held) in &held.sockets {
            match wanted.get(key) {
                Some((user, rooms)) if **user == held.socket.user => {
                    let gone = held.rooms.iter().filter(|room| !rooms.contains(room));
                    left.extend(gone.map(|room| (key.clone(), room.clone())));
                }
                _ => lost.push(key.clone()),
            }
        }
        for key in lost {
            self.disconnect(gateway, &key, until_ms, out);
        }
        for (key, room) in left {
            self.leave(gateway, &key, &room, out);
        }
    }

    fn connect(&mut self, gateway: &GatewayId, socket: Socket, until_ms: u64, out: &mut Vec<Transition>) {
        let known = self
            .gateways
            .get_mut(gateway)
            .and_then(|held| held.sockets.get_mut(&socket.key));
        match known {
            Some(known) if known.socket.user == socket.user => {
                known.socket = socket;
                return;
            }
            Some(_) => self.disconnect(gateway, &socket.key, until_ms, out),
            None => {}
        }
        let namespace = self.namespaces.entry(socket.key.namespace.clone()).or_default();
        let sockets = namespace.users.entry(socket.user.clone()).or_default();
        if sockets.is_empty() {
            *self.users.entry(socket.user.clone()).or_default() += 1;
        }
        sockets.insert((gateway.clone(), Arc::clone(&socket.key.id)));
        self.connections += 1;
        let held = self.gateways.entry(gateway.clone()).or_default();
        held.sockets.insert(
            socket.key.clone(),
            HeldByGateway {
                socket,
                rooms: BTreeSet::new(),
            },
        );
    }

    fn disconnect(&mut self, gateway: &GatewayId, key: &SocketKey, until_ms: u64, out: &mut Vec<Transition>) {
        let Some(gone) = self
            .gateways
            .get_mut(gateway)
            .and_then(|held| held.sockets.remove(key))
        else {
            return;
        };
        self.connections -= 1;
        for room in &gone.rooms {
            self.lose(&gone.socket, room, until_ms, out);
        }
        let user = &gone.socket.user;
        let Some(namespace) = self.namespaces.get_mut(&key.namespace) else {
            return;
        };
        if let Some(sockets) = namespace.users.get_mut(user) {
            sockets.remove(&(gateway.clone(), Arc::clone(&key.id)));
            if sockets.is_empty() {
                namespace.users.remove(user);
                if let Some(namespaces) = self.users.get_mut(user) {
                    *namespaces -= 1;
                    if *namespaces == 0 {
                        self.users.remove(user);
                    }
                }
            }
        }
        self.drop_if_empty(&key.namespace);
    }

    fn join(&mut self, gateway: &GatewayId, key: &SocketKey, room: &RoomName, out: &mut Vec<Transition>) {
        let Some(held) = self
            .gateways
            .get_mut(gateway)
            .and_then(|held| held.sockets.get_mut(key))
        else {
            return;
        };
        let Some(namespace) = self.namespaces.get_mut(&key.namespace) else {
            return;
        };
        // The room's first name is shared by all who come later.
        let name = namespace
            .rooms
            .get_key_value(room)
            .map_or(room, |(name, _)| name)
            .clone();
        if !held.rooms.insert(name.clone()) {
            return;
        }
        let listed = is_listed(&name);
        let socket = &held.socket;
        let members = namespace.rooms.entry(name.clone()).or_default();
        if members.is_empty() && listed {
            self.listed_rooms += 1;
        }
        let mut change = Change::JoinedAgain {
            socket: Arc::clone(&key.id),
        };
        let member = members.entry(socket.user.clone()).or_insert_with(|| {
            change = Change::Joined;
            Member {
                sockets: 0,
                username: Arc::clone(&socket.username),
                lost: None,
            }
        });
        member.sockets += 1;
        member.username = Arc::clone(&socket.username);
        let stay = Stay {
            namespace: key.namespace.clone(),
            room: name,
            user: socket.user.clone(),
        };
        let lost = member.lost.take();
        let users_count = size(members);
        let username = Arc::clone(&socket.username);
        if listed {
            out.push(stay.transition(username, users_count, change));
        }
        if let Some(lost) = lost {
            self.graces.remove(&(lost.until_ms, stay));
        }
    }

    fn leave(&mut self, gateway: &GatewayId, key: &SocketKey, room: &RoomName, out: &mut Vec<Transition>) {
        let Some(held) = self
            .gateways
            .get_mut(gateway)
            .and_then(|held| held.sockets.get_mut(key))
        else {
            return;
        };
        if !held.rooms.remove(room) {
            return;
        }
        let (user, username) = (held.socket.user.clone(), Arc::clone(&held.socket.username));
        if self.one_socket_less(&key.namespace, room, &user) {
            self.end(
                Stay {
                    namespace: key.namespace.clone(),
                    room: room.clone(),
                    user,
                },
                username,
                out,
            );
        }
    }

    /// A socket that is gone was in this room.
    fn lose(&mut self, socket: &Socket, room: &RoomName, until_ms: u64, out: &mut Vec<Transition>) {
        let namespace = &socket.key.namespace;
        if !self.one_socket_less(namespace, room, &socket.user) {
            return;
        }
        let stay = Stay {
            namespace: namespace.clone(),
            room: room.clone(),
            user: socket.user.clone(),
        };
        let username = Arc::clone(&socket.username);
        if !is_listed(room) {
            self.end(stay, username, out);
            return;
        }
        let Some(members) = self
            .namespaces
            .get_mut(namespace)
            .and_then(|held| held.rooms.get_mut(room))
        else {
            return;
        };
        if let Some(member) = members.get_mut(&socket.user) {
            member.lost = Some(Lost {
                until_ms,
                connected_at_ms: socket.connected_at_ms,
            });
            member.username = Arc::clone(&username);
        }
        out.push(stay.transition(username, size(members), Change::Lost { until_ms }));
        self.graces.insert((until_ms, stay));
    }

    /// Whether that was the user's last socket in the room.
    fn one_socket_less(&mut self, namespace: &Namespace, room: &RoomName, user: &UserId) -> bool {
        let held = self
            .namespaces
            .get_mut(namespace)
            .and_then(|held| held.rooms.get_mut(room));
        held.and_then(|members| members.get_mut(user))
            .is_some_and(|member| {
                member.sockets -= 1;
                member.sockets == 0
            })
    }

    /// Ends a stay; reports it if the room is listed.
    fn end(&mut self, stay: Stay, username: Arc<str>, out: &mut Vec<Transition>) {
        let Some(held) = self.namespaces.get_mut(&stay.namespace) else {
            return;
        };
        let Some(members) = held.rooms.get_mut(&stay.room) else {
            return;
        };
        members.remove(&stay.user);
        let users_count = size(members);
        let listed = is_listed(&stay.room);
        if members.is_empty() {
            held.rooms.remove(&stay.room);
            self.listed_rooms -= u64::from(listed);
        }
        self.drop_if_empty(&stay.namespace);
        if listed {
            out.push(stay.transition(username, users_count, Change::Left));
        }
    }

    fn drop_if_empty(&mut self, namespace: &Namespace) {
        if self
            .namespaces
            .get(namespace)
            .is_some_and(|held| held.users.is_empty() && held.rooms.is_empty())
        {
            self.namespaces.remove(namespace);
        }
    }

    pub(super) fn expire(&mut self, now_ms: u64, lease: Duration, until_ms: u64) -> Vec<Expired> {
        let dead: Vec<GatewayId> = self
            .gateways
            .iter()
            .filter(|(_, held)| until(held.touched_ms, lease) <= now_ms)
            .map(|(gateway, _)| gateway.clone())
            .collect();
        dead.into_iter()
            .map(|gateway| {
                let keys: Vec<_> = self
                    .gateways
                    .get(&gateway)
                    .into_iter()
                    .flat_map(|held| held.sockets.keys().cloned())
                    .collect();
                let mut transitions = Vec::new();
                for key in &keys {
                    self.disconnect(&gateway, key, until_ms, &mut transitions);
                }
                self.gateways.remove(&gateway);
                Expired {
                    gateway,
                    sockets: keys.len(),
                    transitions,
                }
            })
            .collect()
    }

    pub(super) fn due(&mut self, now_ms: u64, limit: usize) -> Vec<Transition> {
        let mut left = Vec::new();
        while left.len() < limit
            && self
                .graces
                .first()
                .is_some_and(|(until_ms, _)| *until_ms <= now_ms)
        {
            let Some((_, stay)) = self.graces.pop_first() else {
                break;
            };
            let members = self
                .namespaces
                .get(&stay.namespace)
                .and_then(|held| held.rooms.get(&stay.room));
            let Some(username) = members
                .and_then(|members| members.get(&stay.user))
                .map(|m| Arc::clone(&m.username))
            else {
                continue;
            };
            self.end(stay, username, &mut left);
        }
        left
    }

    pub(super) fn count(&self, namespace: &Namespace, room: &RoomName) -> u32 {
        self.namespaces
            .get(namespace)
            .and_then(|held| held.rooms.get(room))
            .map_or(0, size)
    }

    fn counts_of_now(&self, deltas: &[Delta]) -> Vec<u32> {
        deltas
            .iter()
            .filter_map(|delta| match delta {
                Delta::Joined(key, room) => Some(self.count(&key.namespace, room)),
                Delta::Connected(_) | Delta::Disconnected(_) | Delta::Left(..) => None,
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

impl Stay {
    fn transition(&self, username: Arc<str>, users_count: u32, change: Change) -> Transition {
        let Self {
            namespace,
            room,
            user,
        } = self.clone();
        Transition {
            namespace,
            room,
            user,
            username,
            users_count,
            change,
        }
    }
}

pub(super) fn until(now_ms: u64, wait: Duration) -> u64 {
    now_ms.saturating_add(u64::try_from(wait.as_millis()).unwrap_or(u64::MAX))
}

fn size(members: &BTreeMap<UserId, Member>) -> u32 {
    u32::try_from(members.len()).unwrap_or(u32::MAX)
}
