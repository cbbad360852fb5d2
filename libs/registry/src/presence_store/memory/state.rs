//! The tables, and how deltas, time and dead gateways change them.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    hash::Hash,
    sync::Arc,
    time::Duration,
};

use model::{GatewayId, Namespace, RoomName, UserId};

use super::changes::Log;
use crate::presence_store::{
    Applied, Batch, Delta, Expired, Outcome, RoomChange, RoomTransition, Socket, SocketKey, Transition,
    UserChange, UserTransition, is_listed, snapshot::Wanted,
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
    pub(super) log: Log,
}

#[derive(Debug, Default)]
pub(super) struct HeldGateway {
    applied: u64,
    pub(super) touched_ms: u64,
    pub(super) sockets: HashMap<SocketKey, HeldByGateway>,
    /// How many of the sockets are of a user.
    pub(super) users: HashMap<UserId, u32>,
    /// How many of the sockets are in a listed room.
    pub(super) rooms: HashMap<(Namespace, RoomName), u32>,
}

#[derive(Debug)]
pub(super) struct HeldByGateway {
    pub(super) socket: Socket,
    pub(super) rooms: BTreeSet<RoomName>,
}

#[derive(Debug, Default)]
pub(super) struct HeldNamespace {
    pub(super) users: BTreeMap<UserId, BTreeSet<(GatewayId, Arc<str>)>>,
    /// Since when a user stays, graces included: connectedAt of the stay's first socket.
    since: HashMap<UserId, u64>,
    /// Users within the grace.
    away: HashMap<UserId, Away>,
    pub(super) rooms: HashMap<RoomName, HeldRoom>,
    pub(super) listed: BTreeSet<RoomName>,
    pub(super) connections: u64,
}

#[derive(Debug, Default)]
pub(super) struct HeldRoom {
    pub(super) members: BTreeMap<UserId, Member>,
    pub(super) sockets: u32,
    /// When it was somebody's turn to tell it of its members.
    pub(super) told_ms: Option<u64>,
}

#[derive(Debug)]
struct Away {
    until_ms: u64,
    username: Arc<str>,
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
    place: Place,
    user: UserId,
}

/// Where a user stays. Of graces that end together, those of rooms come first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    Room(RoomName),
    Namespace,
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
                    self.join(&gateway, &key, &room, How::Now, &mut applied.transitions);
                    applied.users_counts.push(self.count(&key.namespace, &room));
                }
                Delta::Stays(key, room) => {
                    self.join(&gateway, &key, &room, How::Told, &mut applied.transitions);
                }
                Delta::Restored(key, room) => {
                    self.join(&gateway, &key, &room, How::ToldByLost, &mut applied.transitions);
                }
                Delta::Left(key, room) => self.leave(&gateway, &key, &room, &mut applied.transitions),
            }
        }
        self.log.append(&applied.transitions);
        Outcome::Applied(applied)
    }

    /// The first half of a snapshot: drops what the gateway had and a snapshot's deltas no longer say.
    fn let_go(&mut self, gateway: &GatewayId, deltas: &[Delta], until_ms: u64, out: &mut Vec<Transition>) {
        let wanted = Wanted::new(deltas);
        let Some(held) = self.gateways.get(gateway) else {
            return;
        };
        let mut lost = Vec::new();
        let mut left = Vec::new();
        for (key, held) in &held.sockets {
            match wanted.rooms(key, &held.socket.user) {
                Some(rooms) => {
                    let gone = held.rooms.iter().filter(|room| !rooms.contains(room));
                    left.extend(gone.map(|room| (key.clone(), room.clone())));
                }
                None => lost.push(key.clone()),
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
            let stay = Stay {
                namespace: socket.key.namespace.clone(),
                place: Place::Namespace,
                user: socket.user.clone(),
            };
            let away = namespace.away.remove(&socket.user);
            let change = if away.is_some() {
                UserChange::Back
            } else {
                namespace
                    .since
                    .insert(socket.user.clone(), socket.connected_at_ms);
                UserChange::Online
            };
            out.push(stay.user_transition(Arc::clone(&socket.username), change));
            if let Some(away) = away {
                self.graces.remove(&(away.until_ms, stay));
            }
        }
        sockets.insert((gateway.clone(), Arc::clone(&socket.key.id)));
        namespace.connections += 1;
        self.connections += 1;
        let held = self.gateways.entry(gateway.clone()).or_default();
        *held.users.entry(socket.user.clone()).or_default() += 1;
        held.sockets.insert(
            socket.key.clone(),
            HeldByGateway {
                socket,
                rooms: BTreeSet::new(),
            },
        );
    }

    fn disconnect(&mut self, gateway: &GatewayId, key: &SocketKey, until_ms: u64, out: &mut Vec<Transition>) {
        let Some(held) = self.gateways.get_mut(gateway) else {
            return;
        };
        let Some(gone) = held.sockets.remove(key) else {
            return;
        };
        one_less(&mut held.users, &gone.socket.user);
        for room in &gone.rooms {
            one_less(&mut held.rooms, &(key.namespace.clone(), room.clone()));
        }
        self.connections -= 1;
        for room in &gone.rooms {
            self.lose(&gone.socket, room, until_ms, out);
        }
        let user = &gone.socket.user;
        let Some(namespace) = self.namespaces.get_mut(&key.namespace) else {
            return;
        };
        namespace.connections -= 1;
        if let Some(sockets) = namespace.users.get_mut(user) {
            sockets.remove(&(gateway.clone(), Arc::clone(&key.id)));
            if sockets.is_empty() {
                namespace.users.remove(user);
                let stay = Stay {
                    namespace: key.namespace.clone(),
                    place: Place::Namespace,
                    user: user.clone(),
                };
                let username = Arc::clone(&gone.socket.username);
                out.push(stay.user_transition(Arc::clone(&username), UserChange::Lost { until_ms }));
                namespace.away.insert(user.clone(), Away { until_ms, username });
                self.graces.insert((until_ms, stay));
                one_less(&mut self.users, user);
            }
        }
    }

    fn join(
        &mut self,
        gateway: &GatewayId,
        key: &SocketKey,
        room: &RoomName,
        how: How,
        out: &mut Vec<Transition>,
    ) {
        let Some(HeldGateway { sockets, rooms, .. }) = self.gateways.get_mut(gateway) else {
            return;
        };
        let Some(held) = sockets.get_mut(key) else {
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
        if listed {
            *rooms.entry((key.namespace.clone(), name.clone())).or_default() += 1;
        }
        let socket = &held.socket;
        let online_ms = namespace.since.get(&socket.user).copied().unwrap_or_default();
        let held = namespace.rooms.entry(name.clone()).or_default();
        if held.members.is_empty() && listed {
            namespace.listed.insert(name.clone());
            self.listed_rooms += 1;
        }
        held.sockets += 1;
        let members = &mut held.members;
        let mut change = (how == How::Now).then(|| RoomChange::JoinedAgain {
            socket: Arc::clone(&key.id),
        });
        let member = members.entry(socket.user.clone()).or_insert_with(|| {
            change = Some(match how {
                How::Now | How::Told => RoomChange::Joined { online_ms },
                How::ToldByLost => RoomChange::Restored,
            });
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
            place: Place::Room(name),
            user: socket.user.clone(),
        };
        let lost = member.lost.take();
        let users_count = size(members);
        let username = Arc::clone(&socket.username);
        if let Some(change) = change.filter(|_| listed) {
            out.push(stay.room_transition(room, username, users_count, change));
        }
        if let Some(lost) = lost {
            self.graces.remove(&(lost.until_ms, stay));
        }
    }

    fn leave(&mut self, gateway: &GatewayId, key: &SocketKey, room: &RoomName, out: &mut Vec<Transition>) {
        let Some(HeldGateway { sockets, rooms, .. }) = self.gateways.get_mut(gateway) else {
            return;
        };
        let Some(held) = sockets.get_mut(key) else {
            return;
        };
        if !held.rooms.remove(room) {
            return;
        }
        one_less(rooms, &(key.namespace.clone(), room.clone()));
        let (user, username) = (held.socket.user.clone(), Arc::clone(&held.socket.username));
        if self.one_socket_less(&key.namespace, room, &user) {
            self.end_in_room(&key.namespace, room, user, username, None, out);
        }
    }

    /// A socket that is gone was in this room.
    fn lose(&mut self, socket: &Socket, room: &RoomName, until_ms: u64, out: &mut Vec<Transition>) {
        let namespace = &socket.key.namespace;
        if !self.one_socket_less(namespace, room, &socket.user) {
            return;
        }
        let username = Arc::clone(&socket.username);
        if !is_listed(room) {
            self.end_in_room(namespace, room, socket.user.clone(), username, None, out);
            return;
        }
        let Some(held) = self
            .namespaces
            .get_mut(namespace)
            .and_then(|held| held.rooms.get_mut(room))
        else {
            return;
        };
        if let Some(member) = held.members.get_mut(&socket.user) {
            member.lost = Some(Lost {
                until_ms,
                connected_at_ms: socket.connected_at_ms,
            });
            member.username = Arc::clone(&username);
        }
        let stay = Stay {
            namespace: namespace.clone(),
            place: Place::Room(room.clone()),
            user: socket.user.clone(),
        };
        let change = RoomChange::Lost { until_ms };
        out.push(stay.room_transition(room, username, size(&held.members), change));
        self.graces.insert((until_ms, stay));
    }

    /// Whether that was the user's last socket in the room.
    fn one_socket_less(&mut self, namespace: &Namespace, room: &RoomName, user: &UserId) -> bool {
        let held = self
            .namespaces
            .get_mut(namespace)
            .and_then(|held| held.rooms.get_mut(room));
        held.is_some_and(|held| {
            held.sockets -= 1;
            held.members.get_mut(user).is_some_and(|member| {
                member.sockets -= 1;
                member.sockets == 0
            })
        })
    }

    /// Ends a stay; reports it if the room is listed.
    fn end_in_room(
        &mut self,
        namespace: &Namespace,
        room: &RoomName,
        user: UserId,
        username: Arc<str>,
        offline_ms: Option<u64>,
        out: &mut Vec<Transition>,
    ) {
        let Some(held) = self.namespaces.get_mut(namespace) else {
            return;
        };
        let Some(members) = held.rooms.get_mut(room).map(|held| &mut held.members) else {
            return;
        };
        members.remove(&user);
        let users_count = size(members);
        let listed = is_listed(room);
        if members.is_empty() {
            held.rooms.remove(room);
            held.listed.remove(room);
            self.listed_rooms -= u64::from(listed);
        }
        self.drop_if_empty(namespace);
        if listed {
            out.push(Transition::Room(RoomTransition {
                namespace: namespace.clone(),
                room: room.clone(),
                user,
                username,
                users_count,
                change: RoomChange::Left { offline_ms },
            }));
        }
    }

    fn drop_if_empty(&mut self, namespace: &Namespace) {
        if self
            .namespaces
            .get(namespace)
            .is_some_and(|held| held.users.is_empty() && held.away.is_empty() && held.rooms.is_empty())
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
                self.log.append(&transitions);
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
            self.end(stay, now_ms, &mut left);
        }
        self.log.append(&left);
        left
    }

    fn end(&mut self, stay: Stay, now_ms: u64, out: &mut Vec<Transition>) {
        let Some(held) = self.namespaces.get_mut(&stay.namespace) else {
            return;
        };
        match &stay.place {
            Place::Room(room) => {
                // Of graces that end together the namespace's is the last.
                let away = held.away.get(&stay.user).map(|away| away.until_ms);
                let offline_ms = away.filter(|until_ms| *until_ms <= now_ms);
                let members = held.rooms.get(room).map(|held| &held.members);
                if let Some(member) = members.and_then(|members| members.get(&stay.user)) {
                    let username = Arc::clone(&member.username);
                    self.end_in_room(&stay.namespace, room, stay.user, username, offline_ms, out);
                }
            }
            Place::Namespace => {
                held.since.remove(&stay.user);
                if let Some(away) = held.away.remove(&stay.user) {
                    self.drop_if_empty(&stay.namespace);
                    out.push(stay.user_transition(away.username, UserChange::Offline));
                }
            }
        }
    }

    /// The members of a room, once in `pause`.
    pub(super) fn turn_to_tell(
        &mut self,
        namespace: &Namespace,
        room: &RoomName,
        now_ms: u64,
        pause: Duration,
    ) -> Option<u32> {
        let Some(held) = self
            .namespaces
            .get_mut(namespace)
            .and_then(|held| held.rooms.get_mut(room))
        else {
            return Some(0);
        };
        if held.told_ms.is_some_and(|told_ms| now_ms < until(told_ms, pause)) {
            return None;
        }
        held.told_ms = Some(now_ms);
        Some(size(&held.members))
    }
}

impl Stay {
    fn room_transition(
        &self,
        room: &RoomName,
        username: Arc<str>,
        users_count: u32,
        change: RoomChange,
    ) -> Transition {
        Transition::Room(RoomTransition {
            namespace: self.namespace.clone(),
            room: room.clone(),
            user: self.user.clone(),
            username,
            users_count,
            change,
        })
    }

    fn user_transition(&self, username: Arc<str>, change: UserChange) -> Transition {
        Transition::User(UserTransition {
            namespace: self.namespace.clone(),
            user: self.user.clone(),
            username,
            change,
        })
    }
}

/// How a place in a room comes about.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
enum How {
    /// Just now.
    Now,
    /// Before, and it was told.
    Told,
    /// Before, told by a store that has lost it.
    ToldByLost,
}

fn one_less<K: Hash + Eq>(counts: &mut HashMap<K, u32>, of: &K) {
    if let Some(count) = counts.get_mut(of) {
        *count -= 1;
        if *count == 0 {
            counts.remove(of);
        }
    }
}

pub(super) fn until(now_ms: u64, wait: Duration) -> u64 {
    now_ms.saturating_add(u64::try_from(wait.as_millis()).unwrap_or(u64::MAX))
}

pub(super) fn size(members: &BTreeMap<UserId, Member>) -> u32 {
    u32::try_from(members.len()).unwrap_or(u32::MAX)
}
