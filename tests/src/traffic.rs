use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use model::{Namespace, RoomName, RoomToken, partition_of};
use parking_lot::Mutex;
use tokio::{runtime::Runtime, task::JoinSet};

use crate::{
    Ledger, Verdict,
    returner::{Gateways, Returner},
    until,
};

/// What was acknowledged has come everywhere by then, whatever happened.
const SETTLE: Duration = Duration::from_secs(30);

/// Publishers begin so many rooms apart.
const SPREAD: usize = 4;
/// The default of `bus.partitions`.
const PARTITIONS: u16 = 16;

/// Steady traffic on a cluster.
#[derive(Copy, Clone, Debug)]
pub struct Load {
    /// How the names of its rooms and publishers begin: loads side by side are told apart.
    pub prefix: &'static str,
    /// Rooms there are; each lies in another partition, as long as there are some.
    pub rooms: usize,
    /// Publishers, spread over the gateways; each sends to all rooms in turn, one message at a time.
    pub publishers: usize,
    /// Members, spread over the gateways.
    pub members: usize,
    /// Rooms that each member is in.
    pub rooms_of_member: usize,
    /// A publisher rests so long between two messages.
    pub rest: Duration,
}

impl Default for Load {
    fn default() -> Self {
        Self {
            prefix: "",
            rooms: usize::from(PARTITIONS),
            publishers: 4,
            members: 24,
            rooms_of_member: 4,
            rest: Duration::from_millis(8),
        }
    }
}

/// A [`Load`] under way, in threads of its own. Ends when it is dropped.
pub struct Traffic {
    runtime: Runtime,
    gateways: Gateways,
    members: Vec<(Arc<Returner>, Vec<String>)>,
    /// Publishers' connections.
    senders: Vec<Arc<Returner>>,
    publishers: JoinSet<Result<()>>,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    sent: Mutex<Sent>,
}

#[derive(Default)]
struct Sent {
    ledger: Ledger,
    /// Acknowledged, by room.
    rooms: HashMap<String, usize>,
    unavailable: usize,
    slowest_ack: Duration,
}

/// What a [`Load`] has seen.
#[derive(Clone, Debug)]
pub struct Report {
    /// Lost, doubled, reordered.
    pub verdict: Verdict,
    /// The longest time in which a member heard nothing from a room that was published to all the time.
    pub pause: Duration,
    /// The longest time from the first try of a message to its acknowledgement.
    pub slowest_ack: Duration,
    /// Answers `UNAVAILABLE`.
    pub unavailable: usize,
    /// Publishers that gave up: why.
    pub failed: Vec<String>,
    /// Clients whose connections ended, and who came back.
    pub reconnected: usize,
    /// Times a client came back without its session.
    pub fresh: usize,
    /// Longest time a client was away.
    pub longest_away: Duration,
    /// Why connections ended.
    pub ends: Vec<String>,
}

impl Traffic {
    /// Connects everybody, joins the rooms, and begins to publish.
    ///
    /// # Errors
    /// When a client cannot connect or join.
    pub fn start(gateways: &[SocketAddr], load: Load) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()?;
        let spread = gateways.len().max(1);
        let gateways: Gateways = Arc::new(Mutex::new(gateways.to_vec()));
        let shared = Arc::new(Shared::default());
        let rooms: Arc<[String]> = room_names(load.prefix, load.rooms)?.into();
        let members = runtime.block_on(async {
            let mut joining = JoinSet::new();
            for number in 0..load.members {
                // Neighbours in number are on different gateways, so each room has members on all of them.
                let first = number / spread * load.rooms / load.members.div_ceil(spread);
                let joined: Vec<_> = (0..load.rooms_of_member)
                    .map(|at| rooms[(first + at) % load.rooms].clone())
                    .collect();
                let gateways = Arc::clone(&gateways);
                joining.spawn(async move {
                    let client = Returner::connect(&gateways, number).await?;
                    for room in &joined {
                        client.join(room).await?;
                    }
                    anyhow::Ok((Arc::new(client), joined))
                });
            }
            joining.join_all().await.into_iter().collect::<Result<Vec<_>>>()
        })?;
        let mut publishers = JoinSet::new();
        let mut senders = Vec::new();
        for number in 0..load.publishers {
            let client = Arc::new(runtime.block_on(Returner::connect(&gateways, number))?);
            senders.push(Arc::clone(&client));
            let shared = Arc::clone(&shared);
            let publishing = publish(client, load.prefix, number, load.rest, Arc::clone(&rooms), shared);
            publishers.spawn_on(publishing, runtime.handle());
        }
        Ok(Self {
            runtime,
            gateways,
            members,
            senders,
            publishers,
            shared,
        })
    }

    /// Messages acknowledged so far.
    #[must_use]
    pub fn acknowledged(&self) -> usize {
        self.shared.sent.lock().rooms.values().sum()
    }

    /// Times a client came back without its session so far.
    #[must_use]
    pub fn fresh(&self) -> usize {
        self.clients().map(|client| client.seen().fresh).sum()
    }

    fn clients(&self) -> impl Iterator<Item = &Arc<Returner>> {
        self.members.iter().map(|(client, _)| client).chain(&self.senders)
    }

    /// From now on clients that come back find these gateways.
    pub fn set_gateways(&self, gateways: Vec<SocketAddr>) {
        *self.gateways.lock() = gateways;
    }

    /// Breaks the connections of the clients, members and publishers, that `chosen` picks by their number.
    pub fn cut(&self, mut chosen: impl FnMut(usize) -> bool) {
        for (number, client) in self.clients().enumerate() {
            if chosen(number) {
                client.cut();
            }
        }
    }

    /// Waits until every room has the users that it should have, as those who join it are told. How long that took.
    ///
    /// # Errors
    /// When it is not so within the time; says of which room.
    pub fn until_presence_is_right(&self, within: Duration) -> Result<Duration> {
        let mut expected: HashMap<&str, (usize, &Returner)> = HashMap::new();
        for (client, rooms) in &self.members {
            for room in rooms {
                expected.entry(room).or_insert((0, client)).0 += 1;
            }
        }
        let began = Instant::now();
        for (room, (users, client)) in expected {
            let mut last = 0;
            while last != users {
                ensure!(
                    began.elapsed() < within,
                    "{room} has {last} users instead of {users} after {within:?}"
                );
                last = self.runtime.block_on(client.join(room))?;
            }
        }
        Ok(began.elapsed())
    }

    /// Waits until so many more are acknowledged.
    ///
    /// # Errors
    /// When they are not within 60 s.
    pub fn flow(&self, more: usize) -> Result<()> {
        let goal = self.acknowledged() + more;
        until("traffic flows", 2 * SETTLE, || Ok(self.acknowledged() >= goal))
    }

    /// Stops publishing, waits until what was acknowledged has come everywhere, or long enough, and looks.
    ///
    /// # Errors
    /// When a publisher was refused or disconnected.
    pub fn finish(mut self) -> Result<Report> {
        self.shared.stop.store(true, Ordering::Relaxed);
        let mut failed = Vec::new();
        self.runtime.block_on(async {
            while let Some(ended) = self.publishers.join_next().await {
                if let Err(error) = ended? {
                    failed.push(format!("{error:#}"));
                }
            }
            anyhow::Ok(())
        })?;
        let expected: Vec<usize> = {
            let sent = self.shared.sent.lock();
            let of_room = |room: &String| sent.rooms.get(room).copied().unwrap_or(0);
            let rooms = self.members.iter().map(|(_, rooms)| rooms);
            rooms.map(|rooms| rooms.iter().map(of_room).sum()).collect()
        };
        let members = || self.members.iter().zip(&expected);
        // The books say what is missing.
        let _ = until("everything has come", SETTLE, || {
            Ok(members().all(|((client, _), expected)| client.message_count() >= *expected))
        });
        // What comes twice may come a moment later.
        self.runtime
            .block_on(async { tokio::time::sleep(Duration::from_millis(300)).await });

        let mut sent = std::mem::take(&mut *self.shared.sent.lock());
        let mut pause = Duration::ZERO;
        for (number, (client, rooms)) in self.members.iter().enumerate() {
            let member = format!("member {number}");
            for room in rooms {
                sent.ledger.joined(&member, room);
            }
            let messages = client.take_messages();
            let mut last: HashMap<&str, Instant> = HashMap::new();
            for message in &messages {
                if let Some(before) = last.insert(&message.room, message.at) {
                    pause = pause.max(message.at - before);
                }
            }
            sent.ledger.received(&member, messages);
        }
        let seen: Vec<_> = self.clients().map(|client| client.seen()).collect();
        Ok(Report {
            verdict: sent.ledger.check(),
            pause,
            slowest_ack: sent.slowest_ack,
            unavailable: sent.unavailable,
            failed,
            reconnected: seen.iter().filter(|seen| !seen.ends.is_empty()).count(),
            fresh: seen.iter().map(|seen| seen.fresh).sum(),
            longest_away: seen
                .iter()
                .map(|seen| seen.longest_away)
                .max()
                .unwrap_or_default(),
            ends: seen.into_iter().flat_map(|seen| seen.ends).collect(),
        })
    }
}

impl Report {
    /// Nothing may be lost or reordered, nobody may have come back as somebody new; nothing doubled, and no connection
    /// ended, unless that is part of it.
    ///
    /// # Errors
    /// When something is wrong; says what.
    pub fn ensure_clean(&self, what: &str, reconnects: bool, repeats: bool) -> Result<()> {
        let Self {
            verdict,
            failed,
            fresh,
            ends,
            ..
        } = self;
        eprintln!(
            "{what}: {verdict}; pause {:?}, slowest ack {:?}, {} UNAVAILABLE, {} reconnected, away {:?} at most, {fresh} fresh",
            self.pause, self.slowest_ack, self.unavailable, self.reconnected, self.longest_away
        );
        ensure!(verdict.acknowledged > 0, "{what}: nothing was acknowledged");
        ensure!(
            verdict.lost + verdict.reordered == 0 && (repeats || verdict.doubled == 0),
            "{what}: {verdict}\n{}",
            verdict.examples.join("\n")
        );
        ensure!(failed.is_empty(), "{what}: publishers gave up: {failed:?}");
        ensure!(*fresh == 0, "{what}: {fresh} came back as somebody new");
        ensure!(
            reconnects || ends.is_empty(),
            "{what}: connections ended: {ends:?}"
        );
        Ok(())
    }
}

/// Names of rooms in `/chat` that lie in the partitions in turn.
fn room_names(prefix: &str, count: usize) -> Result<Vec<String>> {
    let chat = Namespace::new("/chat")?;
    let mut names: Vec<String> = Vec::with_capacity(count);
    for number in 0_usize.. {
        if names.len() == count {
            break;
        }
        let name = format!("{prefix}room-{number}");
        let partition = partition_of(RoomToken::new(&chat, &RoomName::new(&name)?), PARTITIONS);
        if usize::from(partition) == names.len() % usize::from(PARTITIONS) {
            names.push(name);
        }
    }
    Ok(names)
}

async fn publish(
    client: Arc<Returner>,
    prefix: &str,
    number: usize,
    rest: Duration,
    rooms: Arc<[String]>,
    shared: Arc<Shared>,
) -> Result<()> {
    let publisher = format!("{prefix}publisher-{number}");
    for count in 0_usize.. {
        if shared.stop.load(Ordering::Relaxed) {
            break;
        }
        let room = &rooms[(count + number * SPREAD) % rooms.len()];
        let content = format!("{publisher}:{count}");
        let published = client
            .publish(room, &content, &format!("{publisher}-{count}"))
            .await?;
        {
            let mut sent = shared.sent.lock();
            sent.ledger.acknowledged(room, &content, &published);
            *sent.rooms.entry(room.clone()).or_default() += 1;
            sent.unavailable += published.unavailable;
            sent.slowest_ack = sent.slowest_ack.max(published.took);
        }
        tokio::time::sleep(rest).await;
    }
    Ok(())
}
