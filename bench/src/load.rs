//! The clients: who is in which room, who publishes when, and what came of it.

use std::collections::VecDeque;

use anyhow::Result;
use hdrhistogram::Histogram;
use jsonwebtoken::{EncodingKey, Header};

use crate::{
    checks::{Faults, Ledger, RoomSeen},
    net::{Id, Net, Opening, Owner, Plan, now},
    spec::{Action, GroupSpec, Pace, Share, Spec},
    wire::Marker,
};

const JOIN: u32 = 0;
const NONE: u32 = u32::MAX;
const SECOND: f64 = 1e9;

/// Everything that counts up.
#[derive(Copy, Clone, Debug, Default)]
pub(crate) struct Counters {
    pub(crate) deliveries: u64,
    pub(crate) acks: u64,
    pub(crate) published: u64,
    pub(crate) joins: u64,
    pub(crate) recovered: u64,
    pub(crate) left: u64,
}

struct Member {
    room: u32,
    /// Its number among the publishers of its room.
    slot: u32,
    conn: Option<Id>,
    joined: bool,
    /// Number of its last event, and of its last request.
    number: u32,
    request: u32,
    waiting: VecDeque<(u32, u64)>,
    /// When its connection began, or should have.
    opened: u64,
    /// Has been connected before.
    was_here: bool,
    pid: Option<Box<[u8]>>,
    position: Vec<u8>,
    /// Own events that have not come back to it.
    unseen: u32,
    /// With churn: what is to be published.
    to_publish: u32,
    leaving: bool,
}

pub(crate) struct Group {
    spec: GroupSpec,
    members: Vec<Member>,
    /// Members that publish.
    publishers: Vec<u32>,
    next_publisher: usize,
    next_due: f64,
    /// Events a second of this process.
    rate: f64,
    first_publisher: u32,
    ledger: Ledger,
    free: Vec<u32>,
}

/// All clients of this process.
pub(crate) struct Load {
    spec: Spec,
    groups: Vec<Group>,
    openings: VecDeque<Owner>,
    later: VecDeque<Owner>,
    opening: usize,
    publishing: bool,
    /// Events that may still be published.
    budget: u64,
    /// Latencies count from events of this time on.
    measured_from: u64,
    measured_to: u64,
    key: Option<EncodingKey>,
    tokens: u64,
    pub(crate) counters: Counters,
    pub(crate) faults: Faults,
    pub(crate) last_news: u64,
    /// From the intended time to the delivery, nanoseconds.
    pub(crate) delivery: Histogram<u64>,
    /// From the intended time to the answer.
    pub(crate) answer: Histogram<u64>,
    /// From the first byte to the answer of the join.
    pub(crate) connect: Histogram<u64>,
}

fn histogram() -> Result<Histogram<u64>> {
    Ok(Histogram::new_with_bounds(1_000, 600_000_000_000, 3)?)
}

impl Load {
    pub(crate) fn new(spec: &Spec) -> Result<Self> {
        let mut first_publisher = 0;
        let mut groups = Vec::new();
        for group in &spec.groups {
            groups.push(Group::new(group, first_publisher, spec.share));
            first_publisher += group.rooms * group.publishers;
        }
        anyhow::ensure!(first_publisher < 1 << 24, "too many publishers");
        Ok(Self {
            spec: spec.clone(),
            groups,
            openings: VecDeque::new(),
            later: VecDeque::new(),
            opening: 0,
            publishing: false,
            budget: u64::MAX,
            measured_from: u64::MAX,
            measured_to: u64::MAX,
            key: spec
                .jwt_secret
                .as_ref()
                .map(|secret| EncodingKey::from_secret(secret.as_bytes())),
            tokens: 0,
            counters: Counters::default(),
            faults: Faults::default(),
            last_news: 0,
            delivery: histogram()?,
            answer: histogram()?,
            connect: histogram()?,
        })
    }

    /// The first client of each server is to connect, so that what a server starts lazily has started; how many.
    pub(crate) fn open_first(&mut self, servers: usize) -> usize {
        for (number, group) in (0..).zip(&self.groups) {
            if !group.churns() {
                let owners = (0..group.members.len() as u32).map(|member| Owner {
                    group: number,
                    member,
                });
                self.later.extend(owners);
            }
        }
        let first = servers.min(self.later.len());
        self.openings.extend(self.later.drain(..first));
        first
    }

    /// Every other client is to connect; those of churn later.
    pub(crate) fn open_rest(&mut self) {
        self.openings.append(&mut self.later);
    }

    /// Clients that do not churn.
    pub(crate) fn clients(&self) -> usize {
        let groups = self.groups.iter().filter(|group| !group.churns());
        groups.map(|group| group.members.len()).sum()
    }

    /// Whether everybody who was to connect is in its room.
    pub(crate) fn all_joined(&self) -> bool {
        self.openings.is_empty() && self.opening == 0
    }

    /// Cuts everybody but the publishers, who are to come back; how many.
    pub(crate) fn cut(&mut self, net: &mut Net) -> usize {
        let before = self.openings.len();
        for (number, group) in (0..).zip(&mut self.groups) {
            for (at, member) in (0..).zip(&mut group.members) {
                if member.slot != NONE || !member.joined {
                    continue;
                }
                if let Some(id) = member.conn.take() {
                    net.cut(id);
                    member.joined = false;
                    self.openings.push_back(Owner {
                        group: number,
                        member: at,
                    });
                }
            }
        }
        self.openings.len() - before
    }

    /// Publishers begin, with `budget` events in all.
    pub(crate) fn start(&mut self, net: &mut Net, budget: u64) {
        self.publishing = true;
        self.budget = budget;
        let now = now();
        for at in 0..self.groups.len() {
            let group = &mut self.groups[at];
            group.next_due = now as f64;
            if let Pace::Closed { .. } = group.spec.pace {
                for member in group.publishers.clone() {
                    self.go_on(net, at, member, now);
                }
            }
        }
    }

    /// Nobody publishes any more.
    pub(crate) fn stop(&mut self) {
        self.publishing = false;
    }

    /// Latencies count from now on.
    pub(crate) fn measure(&mut self, from: u64, to: u64) {
        if from != u64::MAX && to == u64::MAX {
            self.delivery.reset();
            self.answer.reset();
            self.connect.reset();
        }
        self.measured_from = from;
        self.measured_to = to;
    }

    /// Whether every request is answered, every event delivered, and everybody of the churn gone.
    pub(crate) fn is_done(&self) -> bool {
        self.groups.iter().all(|group| {
            (!group.churns() || group.free.len() == group.members.len())
                && group.members.iter().all(|member| member.waiting.is_empty())
                && (group.spec.action == Action::Ping || group.ledger.is_complete())
        })
    }

    /// How many of so many events are this process's to publish.
    pub(crate) fn share_of(&self, messages: u64) -> u64 {
        let here: usize = self.groups.iter().map(|group| group.publishers.len()).sum();
        let groups = self.spec.groups.iter();
        let all: u32 = groups.map(|group| group.rooms * group.publishers).sum();
        messages * here as u64 / u64::from(all.max(1))
    }

    /// Whether all that may be published was.
    pub(crate) fn is_spent(&self) -> bool {
        self.budget == 0
    }

    /// Opens and publishes what is due; when there is more to do.
    pub(crate) fn tick(&mut self, net: &mut Net) -> Result<u64> {
        while self.opening < self.spec.at_once
            && let Some(owner) = self.openings.pop_front()
        {
            self.connect(net, owner)?;
        }
        let mut next = u64::MAX;
        if !self.publishing {
            return Ok(next);
        }
        for at in 0..self.groups.len() {
            let rate = match self.groups[at].spec.pace {
                Pace::Open { .. } | Pace::Churn { .. } => self.groups[at].rate,
                Pace::Silent | Pace::Closed { .. } => continue,
            };
            if rate <= 0.0 {
                continue;
            }
            let now = now() as f64;
            while self.groups[at].next_due <= now {
                let group = &mut self.groups[at];
                let due = group.next_due as u64;
                group.next_due += SECOND / rate;
                if let Pace::Churn { publishes, .. } = group.spec.pace {
                    let Some(member) = group.free.pop() else {
                        self.faults.errors += 1;
                        continue;
                    };
                    let client = &mut group.members[member as usize];
                    client.to_publish = publishes;
                    client.opened = due;
                    let owner = Owner {
                        group: at as u16,
                        member,
                    };
                    self.connect(net, owner)?;
                } else {
                    let member = group.publishers[group.next_publisher];
                    group.next_publisher = (group.next_publisher + 1) % group.publishers.len();
                    self.publish(net, at, member, due);
                }
            }
            next = next.min(self.groups[at].next_due as u64 + 1);
        }
        Ok(next)
    }

    fn connect(&mut self, net: &mut Net, owner: Owner) -> Result<()> {
        self.tokens += 1;
        let token = match &self.key {
            Some(key) => Some(token(key, u64::from(self.spec.share.index) << 32 | self.tokens)?),
            None => None,
        };
        let group = &mut self.groups[usize::from(owner.group)];
        let churns = group.churns();
        let member = &mut group.members[owner.member as usize];
        if !churns {
            member.opened = now();
        }
        let position = (!member.position.is_empty()).then_some(&*member.position);
        let resume = member
            .pid
            .as_deref()
            .filter(|_| self.spec.storm)
            .map(|pid| (pid, position));
        // Members of a room are spread over the servers.
        let target = owner.member as usize % net.targets();
        member.conn = Some(net.open(&Opening {
            target,
            owner,
            token: token.as_deref(),
            resume,
            positions: self.spec.storm,
        })?);
        self.opening += 1;
        Ok(())
    }

    fn publish(&mut self, net: &mut Net, at: usize, member: u32, intended: u64) {
        if self.budget == 0 {
            return;
        }
        self.budget -= 1;
        let group = &mut self.groups[at];
        let client = &mut group.members[member as usize];
        let Some(id) = client.conn.filter(|_| client.joined) else {
            return;
        };
        client.request += 1;
        let request = client.request;
        client.waiting.push_back((request, intended));
        if group.spec.action == Action::Ping {
            net.send(id, |dialect, out| dialect.ping(out, request));
            return;
        }
        client.number += 1;
        client.unseen += 1;
        self.counters.published += 1;
        let marker = Marker {
            publisher: group.first_publisher + client.room * group.spec.publishers + client.slot,
            number: client.number,
            intended,
        };
        let room = room_name(&self.spec.prefix, &group.spec.name, client.room);
        net.send(id, |dialect, out| dialect.publish(out, request, &room, marker));
    }

    /// Publishes what a closed loop has room for: an event is in flight until it is answered and has come back, so
    /// that no queue grows between the two.
    fn go_on(&mut self, net: &mut Net, at: usize, member: u32, now: u64) {
        let Pace::Closed { in_flight } = self.groups[at].spec.pace else {
            return;
        };
        while self.publishing && self.budget > 0 {
            let client = &self.groups[at].members[member as usize];
            if !client.joined || client.unseen.max(client.waiting.len() as u32) >= in_flight {
                return;
            }
            self.publish(net, at, member, now);
        }
    }

    /// The next step in the short life of a client of the churn.
    fn live_on(&mut self, net: &mut Net, owner: Owner) {
        let at = usize::from(owner.group);
        let group = &mut self.groups[at];
        let member = &mut group.members[owner.member as usize];
        if !member.waiting.is_empty() || member.leaving {
            return;
        }
        if member.to_publish > 0 {
            member.to_publish -= 1;
            self.publish(net, at, owner.member, now());
        } else if member.unseen == 0
            && let Some(id) = member.conn
        {
            member.leaving = true;
            member.request += 1;
            let request = member.request;
            member.waiting.push_back((request, now()));
            let room = room_name(&self.spec.prefix, &group.spec.name, member.room);
            net.send(id, |dialect, out| dialect.leave(out, request, &room));
        }
    }

    /// What every room has seen, by group, and the faults within single members.
    pub(crate) fn close(self) -> (Vec<(String, Vec<RoomSeen>)>, Faults) {
        let mut faults = self.faults;
        let mut rooms = Vec::new();
        for group in self.groups {
            let unanswered: usize = group.members.iter().map(|member| member.waiting.len()).sum();
            faults.errors += unanswered as u64;
            if group.churns() {
                faults.errors += (group.members.len() - group.free.len()) as u64;
            }
            let (seen, more) = group.ledger.close();
            faults.add(more);
            rooms.push((group.spec.name, seen));
        }
        (rooms, faults)
    }
}

impl Plan for Load {
    fn connected(&mut self, net: &mut Net, id: Id, owner: Owner, pid: Option<&[u8]>) {
        let group = &mut self.groups[usize::from(owner.group)];
        let member = &mut group.members[owner.member as usize];
        let same = pid.is_some() && member.pid.as_deref() == pid;
        if self.spec.storm {
            let again = std::mem::replace(&mut member.was_here, true);
            member.pid = pid.map(Box::from);
            if same {
                // Its rooms are its own still.
                self.counters.recovered += 1;
                self.joined(net, owner);
                return;
            }
            if again {
                group.ledger.was_away(owner.member);
                member.position.clear();
            }
        }
        if group.spec.action == Action::Nothing {
            self.joined(net, owner);
            return;
        }
        let room = room_name(&self.spec.prefix, &group.spec.name, member.room);
        net.send(id, |dialect, out| dialect.join(out, JOIN, &room));
    }

    #[inline]
    fn message(&mut self, net: &mut Net, _id: Id, owner: Owner, marker: Marker, position: Option<&[u8]>) {
        self.counters.deliveries += 1;
        let now = now();
        self.last_news = now;
        if marker.intended >= self.measured_from && marker.intended < self.measured_to {
            self.delivery
                .saturating_record(now.saturating_sub(marker.intended));
        }
        let group = &mut self.groups[usize::from(owner.group)];
        group.ledger.heard(owner.member, marker);
        if let Some(position) = position {
            let kept = &mut group.members[owner.member as usize].position;
            kept.clear();
            kept.extend_from_slice(position);
        }
        let member = &mut group.members[owner.member as usize];
        let first_of_room = group.first_publisher + member.room * group.spec.publishers;
        if marker.publisher.wrapping_sub(first_of_room) == member.slot {
            member.unseen = member.unseen.saturating_sub(1);
            match group.spec.pace {
                Pace::Closed { .. } => self.go_on(net, usize::from(owner.group), owner.member, now),
                Pace::Churn { .. } => self.live_on(net, owner),
                Pace::Silent | Pace::Open { .. } => {}
            }
        }
    }

    fn ack(&mut self, net: &mut Net, id: Id, owner: Owner, request: Option<u32>, ok: bool) {
        let now = now();
        self.last_news = now;
        let at = usize::from(owner.group);
        let group = &mut self.groups[at];
        let member = &mut group.members[owner.member as usize];
        if !ok {
            self.faults.errors += 1;
        }
        if !member.joined {
            if request.is_none_or(|request| request == JOIN) && ok {
                self.joined(net, owner);
            }
            return;
        }
        let place = match request {
            None => (!member.waiting.is_empty()).then_some(0),
            Some(request) => member.waiting.iter().position(|(open, _)| *open == request),
        };
        let Some((_, intended)) = place.and_then(|place| member.waiting.remove(place)) else {
            self.faults.errors += 1;
            return;
        };
        if intended >= self.measured_from && intended < self.measured_to {
            self.answer.saturating_record(now.saturating_sub(intended));
        }
        self.counters.acks += 1;
        if member.leaving {
            net.close(id);
            member.conn = None;
            member.joined = false;
            member.leaving = false;
            group.free.push(owner.member);
            group.ledger.leaves(owner.member);
            self.counters.left += 1;
            return;
        }
        if group.spec.action == Action::Message {
            if ok {
                group.ledger.published(member.room);
            } else {
                member.unseen = member.unseen.saturating_sub(1);
            }
        }
        match group.spec.pace {
            Pace::Closed { .. } => self.go_on(net, at, owner.member, now),
            Pace::Churn { .. } => self.live_on(net, owner),
            Pace::Silent | Pace::Open { .. } => {}
        }
    }

    fn closed(&mut self, _net: &mut Net, owner: Owner) {
        self.faults.errors += 1;
        let group = &mut self.groups[usize::from(owner.group)];
        let member = &mut group.members[owner.member as usize];
        member.conn = None;
        if !std::mem::take(&mut member.joined) {
            self.opening -= 1;
        }
    }
}

impl Load {
    fn joined(&mut self, net: &mut Net, owner: Owner) {
        let group = &mut self.groups[usize::from(owner.group)];
        let member = &mut group.members[owner.member as usize];
        member.joined = true;
        self.opening -= 1;
        self.counters.joins += 1;
        self.connect
            .saturating_record(now().saturating_sub(member.opened));
        if group.churns() {
            self.live_on(net, owner);
        }
    }
}

impl Group {
    fn new(spec: &GroupSpec, first_publisher: u32, share: Share) -> Self {
        let mut members = Vec::new();
        for room in 0..spec.rooms {
            for member in 0..spec.members {
                if share.has(spec.rooms, room, member) {
                    let slot = if member < spec.publishers { member } else { NONE };
                    members.push(Member::new(room, slot));
                }
            }
        }
        let publishers: Vec<_> = (0..)
            .zip(&members)
            .filter(|(_, member)| member.slot != NONE)
            .map(|(at, _)| at)
            .collect();
        let rooms_of_members = members.iter().map(|member| member.room);
        let ledger = Ledger::new(
            first_publisher,
            spec.publishers,
            spec.rooms as usize,
            rooms_of_members,
        );
        let rate = match spec.pace {
            Pace::Open { rate } | Pace::Churn { rate, .. } => {
                rate * publishers.len() as f64 / f64::from((spec.rooms * spec.publishers).max(1))
            }
            Pace::Silent | Pace::Closed { .. } => 0.0,
        };
        let mut group = Self {
            free: (0..members.len() as u32).collect(),
            members,
            publishers,
            next_publisher: 0,
            next_due: 0.0,
            rate,
            first_publisher,
            ledger,
            spec: spec.clone(),
        };
        if group.churns() {
            for member in 0..group.members.len() as u32 {
                group.ledger.was_away(member);
            }
        }
        group
    }

    fn churns(&self) -> bool {
        matches!(self.spec.pace, Pace::Churn { .. })
    }
}

impl Member {
    fn new(room: u32, slot: u32) -> Self {
        Self {
            room,
            slot,
            conn: None,
            joined: false,
            number: 0,
            request: JOIN,
            waiting: VecDeque::new(),
            opened: 0,
            was_here: false,
            pid: None,
            position: Vec::new(),
            to_publish: 0,
            unseen: 0,
            leaving: false,
        }
    }
}

fn room_name(prefix: &str, group: &str, room: u32) -> String {
    format!("{prefix}-{group}-{room}")
}

fn token(key: &EncodingKey, number: u64) -> Result<String> {
    #[derive(serde::Serialize)]
    struct Claims {
        sub: String,
        role: &'static str,
        rooms: [&'static str; 1],
        exp: u64,
    }
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
    let claims = Claims {
        sub: format!("bench-{number:x}"),
        role: "user",
        rooms: ["*"],
        exp: now.as_secs() + 24 * 3600,
    };
    Ok(jsonwebtoken::encode(&Header::default(), &claims, key)?)
}
