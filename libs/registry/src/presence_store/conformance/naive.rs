//! A random history of gateways, told to the engine by batches of which some are lost, and to a model
//! that keeps flat lists and answers by looking at all of them.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use model::{GatewayId, Namespace, RoomName, UserId};

use super::{
    Applied, Batch, Change, Delta, GRACE, LEASE, Outcome, Page, PageRequest, PresenceStore, Socket,
    SocketKey, Stats, socket,
};
use crate::presence_store::{Transition, is_listed};

const GATEWAYS: usize = 3;
const USERS: [&str; 4] = ["ada", "bob", "cy", "dee"];
const ROOMS: [&str; 4] = ["red", "green", "blue", "user:ada"];
const NAMESPACES: [&str; 2] = ["/", "/chat"];

/// One step of a history. Numbers choose among what there is, by remainder.
#[derive(Copy, Clone, Debug)]
pub enum Step {
    /// A socket comes to a gateway.
    Connect(usize, usize, usize),
    /// A socket of a gateway joins a room.
    Join(usize, usize, usize),
    /// A socket of a gateway leaves a room.
    Leave(usize, usize, usize),
    /// A socket of a gateway goes.
    Disconnect(usize, usize),
    /// A gateway sends what has happened since it sent last.
    Send(usize),
    /// The same, and the answer is lost: it sends the same once more.
    SendTwice(usize),
    /// The same, and the batch is lost for good.
    SendLost(usize),
    /// A gateway dies without a word and another takes its place.
    Kill(usize),
    /// A gateway says that it lives.
    Touch(usize),
    /// Milliseconds pass.
    Wait(u64),
    /// The service looks for dead gateways and graces that are over.
    Reap,
}

impl Step {
    /// A step for a number; every kind is met, the commonest most often.
    #[must_use]
    pub fn decode(number: u32) -> Self {
        let digit = |at: u32| ((number >> at) & 0xff) as usize;
        let gateway = digit(8) % GATEWAYS;
        match number % 32 {
            0..4 => Self::Connect(gateway, digit(16), digit(24)),
            4..11 => Self::Join(gateway, digit(16), digit(24)),
            11..14 => Self::Leave(gateway, digit(16), digit(24)),
            14..17 => Self::Disconnect(gateway, digit(16)),
            17..22 => Self::Send(gateway),
            22 => Self::SendTwice(gateway),
            23 => Self::SendLost(gateway),
            24 => Self::Kill(gateway),
            25..27 => Self::Touch(gateway),
            27..30 => Self::Wait(digit(16) as u64 * 16),
            _ => Self::Reap,
        }
    }
}

/// Plays the steps on the engine and compares every outcome, every transition and every query with
/// the model's, after each step.
///
/// # Panics
/// When they differ.
pub async fn agrees_with_the_naive_truth(store: &dyn PresenceStore, steps: &[Step]) {
    let mut world = World::new();
    for step in steps {
        world.play(store, *step).await;
        world.compare(store).await;
    }
}

#[derive(Clone)]
struct Held {
    gateway: GatewayId,
    socket: Socket,
    rooms: BTreeSet<RoomName>,
}

/// A gateway: what it holds and what it has not yet told.
struct Gateway {
    id: GatewayId,
    sockets: Vec<Held>,
    untold: Vec<Delta>,
    number: u64,
}

struct World {
    now_ms: u64,
    names: usize,
    gateways: Vec<Gateway>,
    told: Told,
}

/// What the store has been told: what it must know.
#[derive(Default)]
struct Told {
    sockets: Vec<Held>,
    /// Gateway, number applied, when heard of.
    gateways: Vec<(GatewayId, u64, u64)>,
    /// End, namespace, room, user.
    graces: Vec<(u64, Namespace, RoomName, UserId)>,
}

impl World {
    fn new() -> Self {
        let mut world = Self {
            now_ms: 1_000,
            names: 0,
            gateways: Vec::new(),
            told: Told::default(),
        };
        world.gateways = (0..GATEWAYS).map(|_| world.gateway()).collect();
        world
    }

    fn gateway(&mut self) -> Gateway {
        self.names += 1;
        let id = GatewayId::new(&format!("{:06}", self.names)).unwrap();
        Gateway {
            id,
            sockets: Vec::new(),
            untold: Vec::new(),
            number: 0,
        }
    }

    async fn play(&mut self, store: &dyn PresenceStore, step: Step) {
        match step {
            Step::Connect(gateway, user, namespace) => {
                self.names += 1;
                let namespace = Namespace::new(NAMESPACES[namespace % NAMESPACES.len()]).unwrap();
                let key = SocketKey {
                    namespace,
                    id: format!("s{}", self.names).into(),
                };
                let socket = socket(key, USERS[user % USERS.len()]);
                let gateway = &mut self.gateways[gateway];
                gateway.untold.push(Delta::Connected(socket.clone()));
                gateway.sockets.push(Held {
                    gateway: gateway.id.clone(),
                    socket,
                    rooms: BTreeSet::new(),
                });
            }
            Step::Join(gateway, socket, room) => self.gateways[gateway].change(socket, |held, untold| {
                let room = RoomName::stored(ROOMS[room % ROOMS.len()]);
                held.rooms.insert(room.clone());
                untold.push(Delta::Joined(held.socket.key.clone(), room));
            }),
            Step::Leave(gateway, socket, room) => self.gateways[gateway].change(socket, |held, untold| {
                let room = RoomName::stored(ROOMS[room % ROOMS.len()]);
                held.rooms.remove(&room);
                untold.push(Delta::Left(held.socket.key.clone(), room));
            }),
            Step::Disconnect(gateway, socket) => {
                let gateway = &mut self.gateways[gateway];
                if !gateway.sockets.is_empty() {
                    let gone = gateway.sockets.remove(socket % gateway.sockets.len());
                    gateway.untold.push(Delta::Disconnected(gone.socket.key));
                }
            }
            Step::Send(gateway) => {
                let batch = self.gateways[gateway].next_batch();
                self.tell(store, gateway, batch).await;
            }
            Step::SendTwice(gateway) => {
                let batch = self.gateways[gateway].next_batch();
                self.tell(store, gateway, batch.clone()).await;
                if self.told.number(&batch.gateway) == Some(batch.number) {
                    self.tell(store, gateway, batch).await;
                }
            }
            Step::SendLost(gateway) => drop(self.gateways[gateway].next_batch()),
            Step::Kill(gateway) => self.gateways[gateway] = self.gateway(),
            Step::Touch(gateway) => {
                let id = &self.gateways[gateway].id;
                assert_eq!(
                    store.touch(id, self.now_ms).await.unwrap(),
                    self.told.touch(id, self.now_ms)
                );
            }
            Step::Wait(ms) => self.now_ms += ms,
            Step::Reap => self.reap(store).await,
        }
    }

    async fn tell(&mut self, store: &dyn PresenceStore, gateway: usize, batch: Batch) {
        let expected = self.told.apply(&batch, self.now_ms);
        let got = store.apply(batch, self.now_ms, GRACE).await.unwrap();
        match (got, expected) {
            (Outcome::Applied(got), Outcome::Applied(expected)) => {
                assert_eq!(got.users_counts, expected.users_counts);
                assert_eq!(by_room(got.transitions), by_room(expected.transitions));
            }
            (got @ Outcome::NeedSnapshot { .. }, expected) => {
                assert_eq!(got, expected);
                self.tell_all(store, gateway).await;
            }
            (got, expected) => panic!("{got:?} instead of {expected:?}"),
        }
    }

    async fn tell_all(&mut self, store: &dyn PresenceStore, gateway: usize) {
        let snapshot = self.gateways[gateway].snapshot();
        let Outcome::Applied(expected) = self.told.apply(&snapshot, self.now_ms) else {
            panic!("a snapshot is always taken")
        };
        let Outcome::Applied(got) = store.apply(snapshot, self.now_ms, GRACE).await.unwrap() else {
            panic!("a snapshot is always taken")
        };
        assert_eq!(got.users_counts, expected.users_counts);
        assert_eq!(
            in_any_order(&got.transitions),
            in_any_order(&expected.transitions)
        );
    }

    async fn reap(&mut self, store: &dyn PresenceStore) {
        let expired = store.expire(self.now_ms, LEASE, GRACE).await.unwrap();
        let mut gateways: Vec<_> = expired.iter().map(|e| (e.gateway.clone(), e.sockets)).collect();
        gateways.sort();
        let got: Vec<_> = expired
            .into_iter()
            .flat_map(|expired| expired.transitions)
            .collect();
        let (expected_gateways, expected) = self.told.expire(self.now_ms);
        assert_eq!(gateways, expected_gateways);
        assert_eq!(in_any_order(&got), in_any_order(&expected));
        let mut got = Vec::new();
        loop {
            let some = store.due(self.now_ms, 3).await.unwrap();
            got.extend(some.iter().cloned());
            if some.len() < 3 {
                break;
            }
        }
        assert_eq!(in_any_order(&got), in_any_order(&self.told.due(self.now_ms)));
    }

    async fn compare(&self, store: &dyn PresenceStore) {
        let told = &self.told;
        let users: BTreeSet<_> = told.sockets.iter().map(|held| &held.socket.user).collect();
        let mut rooms = 0;
        for namespace in NAMESPACES.map(|name| Namespace::new(name).unwrap()) {
            for room in ROOMS.map(RoomName::stored) {
                let members = told.members(&namespace, &room);
                rooms += u64::from(!members.is_empty() && is_listed(&room));
                assert_eq!(
                    store.room_count(&namespace, &room).await.unwrap() as usize,
                    members.len()
                );
                let mut got = BTreeSet::new();
                let mut after = None;
                loop {
                    let page = PageRequest { after, limit: 2 };
                    let Page { items, next } = store.room_users(&namespace, &room, page).await.unwrap();
                    for user in items {
                        if let Some(since) = told.online_since(&namespace, &user.user) {
                            assert_eq!(user.connected_at_ms, since);
                        }
                        assert!(got.insert(user.user), "nobody is listed twice");
                    }
                    after = next;
                    if after.is_none() {
                        break;
                    }
                }
                assert_eq!(got, members);
            }
            let page = PageRequest {
                after: None,
                limit: 100,
            };
            let online = store.online_users(&namespace, page).await.unwrap().items;
            let mut got: Vec<_> = online
                .into_iter()
                .map(|user| (user.user, user.connected_at_ms))
                .collect();
            got.sort();
            let all = USERS.map(|user| UserId::new(user).unwrap());
            let expected: Vec<_> = all
                .iter()
                .filter_map(|user| Some((user.clone(), told.online_since(&namespace, user)?)))
                .collect();
            assert_eq!(got, expected);
            for user in &all {
                let mine = || told.of_user(&namespace, user);
                let sockets = store.user_sockets(&namespace, user).await.unwrap();
                let got: BTreeSet<_> = sockets
                    .iter()
                    .map(|h| (h.gateway.clone(), h.socket.key.id.clone()))
                    .collect();
                assert_eq!(
                    got,
                    mine()
                        .map(|h| (h.gateway.clone(), h.socket.key.id.clone()))
                        .collect()
                );
                let rooms = store.user_rooms(&namespace, user).await.unwrap();
                let expected: BTreeSet<_> = mine().flat_map(|held| held.rooms.iter().cloned()).collect();
                assert_eq!(rooms, expected.into_iter().collect::<Vec<_>>());
            }
        }
        let expected = Stats {
            connections: told.sockets.len() as u64,
            users: users.len() as u64,
            rooms,
        };
        assert_eq!(store.stats().await.unwrap(), expected);
    }
}

impl Gateway {
    fn change(&mut self, socket: usize, change: impl FnOnce(&mut Held, &mut Vec<Delta>)) {
        if !self.sockets.is_empty() {
            let at = socket % self.sockets.len();
            change(&mut self.sockets[at], &mut self.untold);
        }
    }

    fn next_batch(&mut self) -> Batch {
        self.number += 1;
        let deltas = std::mem::take(&mut self.untold);
        Batch {
            gateway: self.id.clone(),
            number: self.number,
            snapshot: false,
            deltas,
        }
    }

    fn snapshot(&mut self) -> Batch {
        self.number += 1;
        self.untold.clear();
        let mut deltas = Vec::new();
        for held in &self.sockets {
            deltas.push(Delta::Connected(held.socket.clone()));
            deltas.extend(
                held.rooms
                    .iter()
                    .map(|room| Delta::Joined(held.socket.key.clone(), room.clone())),
            );
        }
        Batch {
            gateway: self.id.clone(),
            number: self.number,
            snapshot: true,
            deltas,
        }
    }
}

impl Told {
    fn number(&self, gateway: &GatewayId) -> Option<u64> {
        self.gateways
            .iter()
            .find(|(id, ..)| id == gateway)
            .map(|(_, number, _)| *number)
    }

    fn touch(&mut self, gateway: &GatewayId, now_ms: u64) -> bool {
        let known = self.gateways.iter_mut().find(|(id, ..)| id == gateway);
        known.map(|(_, _, heard)| *heard = now_ms).is_some()
    }

    fn apply(&mut self, batch: &Batch, now_ms: u64) -> Outcome {
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
                for room in gone.rooms {
                    let (namespace, user) = (&gone.socket.key.namespace, &gone.socket.user);
                    if is_listed(&room) && !self.is_in(namespace, &room, user) {
                        let until_ms = now_ms + GRACE.as_millis() as u64;
                        self.graces
                            .push((until_ms, namespace.clone(), room.clone(), user.clone()));
                        out.push(self.transition(namespace, &room, user, Change::Lost { until_ms }));
                    }
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
                self.graces
                    .retain(|(_, namespace, of, who)| (namespace, of, who) != (&key.namespace, room, &user));
                let again = Change::JoinedAgain {
                    socket: Arc::clone(&key.id),
                };
                let change = if member { again } else { Change::Joined };
                out.push(self.transition(&key.namespace, room, &user, change));
            }
            Delta::Left(key, room) => {
                let Some(at) = place(&self.sockets, key) else {
                    return;
                };
                let user = self.sockets[at].socket.user.clone();
                let was_in = self.sockets[at].rooms.remove(room);
                if was_in && is_listed(room) && !self.is_in(&key.namespace, room, &user) {
                    out.push(self.transition(&key.namespace, room, &user, Change::Left));
                }
            }
        }
    }

    fn expire(&mut self, now_ms: u64) -> (Vec<(GatewayId, usize)>, Vec<Transition>) {
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

    fn due(&mut self, now_ms: u64) -> Vec<Transition> {
        let mut out = Vec::new();
        while let Some(at) = self.graces.iter().position(|(until_ms, ..)| *until_ms <= now_ms) {
            let (_, namespace, room, user) = self.graces.remove(at);
            out.push(self.transition(&namespace, &room, &user, Change::Left));
        }
        out
    }

    fn is_in(&self, namespace: &Namespace, room: &RoomName, user: &UserId) -> bool {
        self.of_user(namespace, user)
            .any(|held| held.rooms.contains(room))
    }

    fn of_user(&self, namespace: &Namespace, user: &UserId) -> impl Iterator<Item = &Held> {
        self.sockets
            .iter()
            .filter(move |held| held.socket.key.namespace == *namespace && held.socket.user == *user)
    }

    fn online_since(&self, namespace: &Namespace, user: &UserId) -> Option<u64> {
        self.of_user(namespace, user)
            .map(|held| held.socket.connected_at_ms)
            .min()
    }

    fn members(&self, namespace: &Namespace, room: &RoomName) -> BTreeSet<UserId> {
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
            .filter(|(_, within, of, _)| (within, of) == (namespace, room));
        inside.chain(graces.map(|(.., user)| user)).cloned().collect()
    }

    fn count(&self, namespace: &Namespace, room: &RoomName) -> u32 {
        u32::try_from(self.members(namespace, room).len()).unwrap()
    }

    fn transition(
        &self,
        namespace: &Namespace,
        room: &RoomName,
        user: &UserId,
        change: Change,
    ) -> Transition {
        Transition {
            namespace: namespace.clone(),
            room: room.clone(),
            user: user.clone(),
            username: format!("Name of {user}").into(),
            users_count: self.count(namespace, room),
            change,
        }
    }
}

/// Order is promised within a room, not between the rooms of one disconnect.
fn by_room(mut transitions: Vec<Transition>) -> Vec<Transition> {
    transitions.sort_by(|a, b| (&a.namespace, &a.room).cmp(&(&b.namespace, &b.room)));
    transitions
}

/// Sockets that go in one step go in no order: who goes and which counts are seen must agree, not
/// which count was seen with whom.
fn in_any_order(transitions: &[Transition]) -> (Vec<String>, Vec<String>) {
    let mut who: Vec<_> = transitions
        .iter()
        .map(|t| {
            format!(
                "{} {} {} {} {:?}",
                t.namespace, t.room, t.user, t.username, t.change
            )
        })
        .collect();
    let kind = |change: &Change| match change {
        Change::Joined => "joined",
        Change::JoinedAgain { .. } => "again",
        Change::Lost { .. } => "lost",
        Change::Left => "left",
    };
    let mut counts: Vec<_> = transitions
        .iter()
        .map(|t| format!("{} {} {} {}", t.namespace, t.room, kind(&t.change), t.users_count))
        .collect();
    who.sort();
    counts.sort();
    (who, counts)
}
