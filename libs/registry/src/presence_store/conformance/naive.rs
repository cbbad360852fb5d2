//! A random history of gateways, told to the engine by batches of which some are lost, and to a model
//! that keeps flat lists and answers by looking at all of them.

use std::collections::BTreeSet;

use model::{GatewayId, Namespace, RoomName, UserId};

use super::{GRACE, LEASE, words::socket};
use crate::presence_store::{
    Batch, Changes, Delta, OnlineUser, Outcome, Page, PageRequest, Position, PresenceStore, RoomChange,
    RoomInfo, SocketKey, Stats, StatsBreakdown, Transition, is_listed,
};

mod told;

use told::{Held, Told};

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

    fn reaches_the_store(self) -> bool {
        matches!(
            self,
            Self::Send(_) | Self::SendTwice(_) | Self::Touch(_) | Self::Reap
        )
    }
}

/// Plays the steps on the engine and compares every outcome, every transition and every query with
/// the model's, after each step that reaches the store.
///
/// # Panics
/// When they differ.
pub async fn agrees_with_the_naive_truth(store: &dyn PresenceStore, steps: &[Step]) {
    let mut world = World::new(store.changes_end().await.unwrap());
    for step in steps {
        world.play(store, *step).await;
        if step.reaches_the_store() {
            world.follow(store).await;
            world.compare(store).await;
        }
    }
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
    /// The transitions of the step.
    happened: Vec<Transition>,
    /// How far the list of changes was read.
    at: Position,
}

impl World {
    fn new(at: Position) -> Self {
        let mut world = Self {
            now_ms: 1_000,
            names: 0,
            gateways: Vec::new(),
            told: Told::default(),
            happened: Vec::new(),
            at,
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
                self.happened.extend(got.transitions.iter().cloned());
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
        self.happened.extend(got.transitions.iter().cloned());
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
        self.happened.extend(got.iter().cloned());
        let (expected_gateways, expected) = self.told.expire(self.now_ms);
        assert_eq!(gateways, expected_gateways);
        assert_eq!(in_any_order(&got), in_any_order(&expected));
        let mut got = Vec::new();
        loop {
            let some = store.due(self.now_ms, 3).await.unwrap();
            got.extend(some.iter().cloned());
            self.happened.extend(some.iter().cloned());
            if some.len() < 3 {
                break;
            }
        }
        assert_eq!(in_any_order(&got), in_any_order(&self.told.due(self.now_ms)));
    }

    /// The list of changes has what this step was told, in the same order.
    async fn follow(&mut self, store: &dyn PresenceStore) {
        let Changes::Next(next) = store.changes(&self.at, 1_000).await.unwrap() else {
            panic!("nothing is forgotten so soon")
        };
        if let Some((last, _)) = next.last() {
            self.at = last.clone();
        }
        let seen: Vec<_> = next.into_iter().map(|(_, transition)| transition).collect();
        assert_eq!(seen, std::mem::take(&mut self.happened));
    }

    async fn compare(&self, store: &dyn PresenceStore) {
        let told = &self.told;
        let users: BTreeSet<_> = told.sockets.iter().map(|held| &held.socket.user).collect();
        let mut rooms = 0;
        let mut namespaces = Vec::new();
        for namespace in NAMESPACES.map(|name| Namespace::new(name).unwrap()) {
            let mut listed = Vec::new();
            for room in ROOMS.map(RoomName::stored) {
                let members = told.members(&namespace, &room);
                let inside =
                    |held: &&Held| held.socket.key.namespace == namespace && held.rooms.contains(&room);
                let sockets = told.sockets.iter().filter(inside).count();
                let info = RoomInfo {
                    room: room.clone(),
                    users_count: u32::try_from(members.len()).unwrap(),
                    sockets_count: if is_listed(&room) {
                        u32::try_from(sockets).unwrap()
                    } else {
                        0
                    },
                };
                assert_eq!(store.room(&namespace, &room).await.unwrap(), info);
                if !members.is_empty() && is_listed(&room) {
                    listed.push(info);
                }
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
            let mut got = store.list_rooms(&namespace, page).await.unwrap().items;
            got.sort_by(|a, b| a.room.cmp(&b.room));
            listed.sort_by(|a, b| a.room.cmp(&b.room));
            assert_eq!(got, listed);
            rooms += listed.len() as u64;
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
            let found = store.users_online(&namespace, &all).await.unwrap();
            let since: Vec<_> = all
                .iter()
                .map(|user| told.online_since(&namespace, user))
                .collect();
            let connected_at_ms = |user: OnlineUser| user.connected_at_ms;
            assert_eq!(
                found
                    .into_iter()
                    .map(|user| user.map(connected_at_ms))
                    .collect::<Vec<_>>(),
                since
            );
            let connections = told
                .sockets
                .iter()
                .filter(|held| held.socket.key.namespace == namespace)
                .count();
            if connections > 0 || !listed.is_empty() {
                let stats = Stats {
                    connections: connections as u64,
                    users: since.iter().flatten().count() as u64,
                    rooms: listed.len() as u64,
                };
                namespaces.push((namespace.clone(), stats));
            }
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
        let of = |gateway: &GatewayId| {
            let held = || told.sockets.iter().filter(|held| held.gateway == *gateway);
            let users: BTreeSet<_> = held().map(|held| &held.socket.user).collect();
            let rooms: BTreeSet<_> = held()
                .flat_map(|held| held.rooms.iter().map(|room| (&held.socket.key.namespace, room)))
                .filter(|(_, room)| is_listed(room))
                .collect();
            Stats {
                connections: held().count() as u64,
                users: users.len() as u64,
                rooms: rooms.len() as u64,
            }
        };
        let mut gateways: Vec<_> = told
            .gateways
            .iter()
            .map(|(id, ..)| (id.clone(), of(id)))
            .collect();
        gateways.sort_by(|(a, _): &(GatewayId, Stats), (b, _)| a.cmp(b));
        let expected = StatsBreakdown {
            all: expected,
            namespaces,
            gateways,
        };
        assert_eq!(store.stats_breakdown().await.unwrap(), expected);
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

/// Order is promised within a room and within a namespace, not between the rooms of one disconnect.
fn by_room(mut transitions: Vec<Transition>) -> Vec<Transition> {
    transitions.sort_by_key(|transition| match transition {
        Transition::Room(t) => (t.namespace.clone(), Some(t.room.clone())),
        Transition::User(t) => (t.namespace.clone(), None),
    });
    transitions
}

/// Sockets that go in one step go in no order: who goes and which counts are seen must agree, not
/// which count was seen with whom.
fn in_any_order(transitions: &[Transition]) -> (Vec<String>, Vec<String>) {
    let mut who = Vec::new();
    let mut counts = Vec::new();
    for transition in transitions {
        match transition {
            Transition::Room(t) => {
                who.push(format!(
                    "{} {} {} {} {:?}",
                    t.namespace, t.room, t.user, t.username, t.change
                ));
                counts.push(format!(
                    "{} {} {} {}",
                    t.namespace,
                    t.room,
                    kind(&t.change),
                    t.users_count
                ));
            }
            Transition::User(t) => {
                who.push(format!(
                    "{} {} {} {:?}",
                    t.namespace, t.user, t.username, t.change
                ));
            }
        }
    }
    who.sort();
    counts.sort();
    (who, counts)
}

fn kind(change: &RoomChange) -> &'static str {
    match change {
        RoomChange::Joined { .. } => "joined",
        RoomChange::Restored => "restored",
        RoomChange::JoinedAgain { .. } => "again",
        RoomChange::Lost { .. } => "lost",
        RoomChange::Left { .. } => "left",
    }
}
