//! The whole system in one thread of virtual time: the gateways, workers and sessions that run in production, on
//! engines in memory that fail, with everything that can go wrong drawn from a seed. The same seed gives the same run.
//!
//! What is checked is what CONTRACT section 10 promises: an acknowledged message is never lost, doubled or reordered,
//! for every client that stays, comes back or begins anew and reads history.

mod client;
mod dice;
mod faults;
mod host;
mod line;
mod links;
mod nats;
mod node;
mod redis;
mod system;
mod trace;
mod truth;
mod view;
mod workload;
mod world;

use std::{
    cell::Cell,
    collections::BTreeSet,
    fmt, panic,
    sync::{Arc, Once},
    thread,
    time::Duration,
};

use futures_util::future::join_all;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::json;
use tokio::{
    runtime::Builder,
    time::{Instant, sleep},
};

use crate::{
    client::Client,
    dice::Dice,
    faults::Fault,
    node::spawn,
    view::Broken,
    workload::Workload,
    world::{SECRET, Shape, World},
};

/// When nothing is wrong any more, everybody has everything after so long.
const HEALED: Duration = Duration::from_secs(10);

/// What came of a run.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Its seed.
    pub seed: u64,
    /// The same for every run of the seed.
    pub hash: u64,
    /// Messages that were acknowledged.
    pub acknowledged: usize,
    /// Messages that clients got.
    pub received: usize,
    /// Of those, such that came again after their gateway was gone.
    pub repeats: usize,
    /// Times that clients came back as who they were.
    pub recovered: usize,
    /// Times that they came back as somebody new.
    pub fresh: usize,
    /// The first promise that was not kept, with what led to it.
    pub broken: Option<String>,
    /// Everything that happened, a line each.
    pub trace: Vec<String>,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            seed,
            hash,
            acknowledged,
            received,
            repeats,
            recovered,
            fresh,
            ..
        } = self;
        write!(
            f,
            "seed {seed}: {acknowledged} acknowledged, {received} received, {repeats} repeated, {recovered} recovered, \
             {fresh} fresh, hash {hash:016x}"
        )
    }
}

/// Runs the simulation of a seed, in a thread of its own. Only the first one of a process can be repeated: some of what
/// the code under test uses is shared by all threads, e.g. the counter in the ids of events.
#[must_use]
pub fn run(seed: u64) -> Outcome {
    count_panics();
    let simulated = thread::spawn(move || {
        system::enter(seed);
        // No I/O: nothing but timers wakes anybody, so time goes on when all wait.
        let runtime = Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build();
        match runtime {
            Ok(runtime) => runtime.block_on(simulate(seed)),
            Err(error) => nothing(seed, &error.to_string()),
        }
    });
    simulated
        .join()
        .unwrap_or_else(|_| nothing(seed, "the simulation has panicked"))
}

thread_local! {
    static PANICS: Cell<usize> = const { Cell::new(0) };
}

/// A panic ends its task alone, so nobody would notice.
fn count_panics() {
    static COUNTS: Once = Once::new();
    COUNTS.call_once(|| {
        let default = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            PANICS.set(PANICS.get() + 1);
            default(info);
        }));
    });
}

fn nothing(seed: u64, why: &str) -> Outcome {
    Outcome {
        seed,
        hash: 0,
        acknowledged: 0,
        received: 0,
        repeats: 0,
        recovered: 0,
        fresh: 0,
        broken: Some(why.to_owned()),
        trace: Vec::new(),
    }
}

async fn simulate(seed: u64) -> Outcome {
    let dice = Dice::new(seed, "world");
    let shape = Shape::draw(&dice);
    let lasts = Duration::from_secs(dice.number(5..40));
    let schedule = Fault::schedule(&dice, lasts);
    let world = World::new(seed, &shape);
    let begun = Instant::now();
    for _ in 0..shape.gateways {
        world.start_gateway();
    }
    for _ in 0..shape.workers {
        world.start_worker();
    }
    let clients: Vec<_> = (1..=shape.clients)
        .map(|number| Client::new(&world, number, token(number)))
        .collect();
    for client in &clients {
        spawn(Arc::clone(client).run());
    }
    let mut works: Vec<_> = clients
        .iter()
        .map(|client| Workload::new(&world, client, shape.rooms))
        .collect();
    let working = join_all(works.iter_mut().map(|work| work.run(begun + lasts)));
    tokio::join!(working, faults::happen(&world, &clients, &schedule, begun));
    world.trace.note("world", "", "nothing is wrong any more");
    join_all(works.iter_mut().map(Workload::finish)).await;
    let healed = Instant::now();
    while world.first_broken().is_none() && !works.iter().all(Workload::is_complete) {
        if healed.elapsed() > HEALED {
            let incomplete = works.iter().filter(|work| !work.is_complete());
            for client in incomplete.map(Workload::client) {
                let missing = client.view(view::View::missing).unwrap_or_else(|| Broken {
                    room: String::new(),
                    what: "is not where it wants to be".to_owned(),
                });
                world.broken(&client.name, &missing);
            }
        }
        sleep(Duration::from_millis(100)).await;
    }
    doubled(&world);
    if PANICS.get() > 0 {
        let what = "something has panicked".to_owned();
        let room = String::new();
        world.broken("world", &Broken { room, what });
    }
    let count = |what: fn(&view::View) -> usize| clients.iter().map(|client| client.view(what)).sum();
    let returns: Vec<_> = clients.iter().map(|client| client.returns()).collect();
    let broken = world.first_broken().map(|(who, broken)| {
        let schedule: Vec<_> = schedule.iter().map(ToString::to_string).collect();
        format!(
            "seed {seed}: {who} in {}: {}\n\n{shape:?}, {lasts:?}\n\nwhat went wrong when:\n{}\n\nwhat {who} saw:\n{}",
            broken.room,
            broken.what,
            schedule.join("\n"),
            world.trace.about(&who, &broken.room).join("\n"),
        )
    });
    Outcome {
        seed,
        hash: world.trace.hash(),
        acknowledged: world.acknowledgements(),
        received: count(|view| view.received),
        repeats: count(|view| view.repeats),
        recovered: returns.iter().map(|(recovered, _)| recovered).sum(),
        fresh: returns.iter().map(|(_, fresh)| fresh).sum(),
        broken,
        trace: world.trace.all(),
    }
}

/// What was published once is stored once, however often it was sent.
fn doubled(world: &World) {
    for room in world.truth.rooms() {
        let mut contents = BTreeSet::new();
        for stored in world.truth.behind(&room, 0) {
            if !contents.insert(stored.content.clone()) {
                let what = format!("{stored:?} is stored twice");
                world.broken(
                    "world",
                    &Broken {
                        room: room.clone(),
                        what,
                    },
                );
            }
        }
    }
}

fn token(number: usize) -> String {
    let claims = json!({ "sub": format!("user-{number}"), "role": "user", "exp": 4_000_000_000_u64 });
    encode(
        &Header::new(Algorithm::HS256),
        &claims,
        &EncodingKey::from_secret(SECRET.as_bytes()),
    )
    .unwrap_or_default()
}
