//! What goes wrong: drawn from the seed beforehand, so that it can be printed, and done at its time.

use std::{fmt, sync::Arc, time::Duration};

use tokio::time::{Instant, sleep, sleep_until};

use crate::{
    client::Client,
    dice::Dice,
    host::{Hand, Host},
    node::{Life, Node, Server, Weather, spawn},
    world::World,
};

/// One thing that goes wrong. Numbers are of those that are there at that time, counted round.
#[derive(Clone, Debug)]
enum Kind {
    KillWorker {
        which: usize,
        back: Duration,
    },
    StopWorker {
        which: usize,
        back: Duration,
    },
    FreezeWorker {
        which: usize,
        lasts: Duration,
    },
    KillGateway {
        which: usize,
        back: Duration,
    },
    DrainGateway {
        which: usize,
        window: Duration,
        back: Duration,
    },
    FreezeGateway {
        which: usize,
        lasts: Duration,
    },
    Shed {
        which: usize,
        percent: u8,
        over: Duration,
    },
    /// Of a gateway or worker, counted together.
    Weather {
        which: usize,
        server: Server,
        weather: Weather,
        lasts: Duration,
    },
    FlushRedis,
    CutLink {
        worker: usize,
        gateway: usize,
        lasts: Duration,
    },
    CutClient {
        which: usize,
        silent: bool,
    },
    CutAll {
        silent: bool,
    },
}

/// Something that goes wrong, since the beginning of the run.
#[derive(Clone, Debug)]
pub(crate) struct Fault {
    at: Duration,
    kind: Kind,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:>8.3} {:?}", self.at.as_secs_f64(), self.kind)
    }
}

impl Fault {
    /// Everything that goes wrong within a time.
    pub(crate) fn schedule(dice: &Dice, within: Duration) -> Vec<Self> {
        let count = dice.one_of(&[0, 2, 4, 8, 16]).copied().unwrap_or_default();
        let end = u64::try_from(within.as_millis()).unwrap_or(u64::MAX);
        let mut faults: Vec<Self> = (0..count)
            .map(|_| Self {
                at: dice.time(0..end),
                kind: Kind::draw(dice),
            })
            .collect();
        faults.sort_by_key(|fault| fault.at);
        faults
    }
}

impl Kind {
    fn draw(dice: &Dice) -> Self {
        let which = dice.index(8);
        let (lasts, back) = (dice.time(100..8000), dice.time(0..4000));
        match dice.number(0..20) {
            0 | 1 => Self::KillWorker { which, back },
            2 => Self::StopWorker { which, back },
            3 | 4 => Self::FreezeWorker { which, lasts },
            5 | 6 => Self::KillGateway { which, back },
            7 | 8 => Self::DrainGateway {
                which,
                window: dice.time(0..6000),
                back,
            },
            9 | 10 => Self::FreezeGateway { which, lasts },
            11 => Self::Shed {
                which,
                percent: 50,
                over: dice.time(0..3000),
            },
            12..=14 => Self::Weather {
                which,
                server: if dice.percent(70) {
                    Server::Nats
                } else {
                    Server::Redis
                },
                weather: Weather {
                    delay: dice.time(1..1500),
                    refused: dice.number(0..40),
                    unanswered: dice.number(0..40),
                    cut: dice.percent(40),
                },
                lasts,
            },
            15 => Self::FlushRedis,
            16 => Self::CutLink {
                worker: which,
                gateway: dice.index(8),
                lasts,
            },
            17 | 18 => Self::CutClient {
                which,
                silent: dice.percent(50),
            },
            _ => Self::CutAll {
                silent: dice.percent(30),
            },
        }
    }
}

/// Does what goes wrong, and returns when all of it is over: everything that was broken is whole, and everything that
/// was ended has been replaced.
pub(crate) async fn happen(world: &Arc<World>, clients: &[Arc<Client>], faults: &[Fault], begun: Instant) {
    let mut lasting = Vec::new();
    for fault in faults {
        sleep_until(begun + fault.at).await;
        lasting.extend(one(world, clients, &fault.kind).map(spawn));
    }
    for fault in lasting {
        // None of them panics.
        let _ = fault.await;
    }
    // Faults of one kind may have overlapped.
    for node in nodes(world) {
        node.become_(Life::Up);
        node.change(Server::Nats, Weather::FINE);
        node.change(Server::Redis, Weather::FINE);
    }
}

fn nodes(world: &World) -> Vec<Arc<Node>> {
    let hosts = world.hosts().into_iter().map(|host| Arc::clone(&host.node));
    let hands = world.hands().into_iter().map(|hand| Arc::clone(&hand.node));
    hosts.chain(hands).collect()
}

type Lasting = std::pin::Pin<Box<dyn Future<Output = ()> + Send>>;

/// Lets it happen; the rest of it, if it lasts.
fn one(world: &Arc<World>, clients: &[Arc<Client>], kind: &Kind) -> Option<Lasting> {
    let host = |which: usize| -> Option<Arc<Host>> {
        let hosts = world.hosts();
        hosts.get(which.checked_rem(hosts.len())?).cloned()
    };
    let hand = |which: usize| -> Option<Arc<Hand>> {
        let hands = world.hands();
        hands.get(which.checked_rem(hands.len())?).cloned()
    };
    let world = Arc::clone(world);
    let note = |who: &str, what: String| world.trace.note(who, "", what);
    match kind.clone() {
        Kind::KillWorker { which, back } => {
            world.kill(&hand(which)?.node);
            Some(Box::pin(async move {
                sleep(back).await;
                world.start_worker();
            }))
        }
        Kind::StopWorker { which, back } => {
            let hand = hand(which)?;
            note(&hand.node.name, "stops".to_owned());
            Some(Box::pin(async move {
                hand.leave().await;
                world.kill(&hand.node);
                sleep(back).await;
                world.start_worker();
            }))
        }
        Kind::FreezeWorker { which, lasts } => {
            let node = Arc::clone(&hand(which)?.node);
            note(&node.name, format!("stands still for {lasts:?}"));
            Some(Box::pin(freeze(world, node, lasts)))
        }
        Kind::KillGateway { which, back } => {
            world.kill(&host(which)?.node);
            Some(Box::pin(async move {
                sleep(back).await;
                world.start_gateway();
            }))
        }
        Kind::DrainGateway { which, window, back } => {
            let host = host(which)?;
            note(&host.node.name, format!("drains for {window:?}"));
            Some(Box::pin(async move {
                sleep(back / 2).await;
                world.start_gateway();
                host.leave(window).await;
                world.kill(&host.node);
            }))
        }
        Kind::FreezeGateway { which, lasts } => {
            let host = host(which)?;
            host.doubt(lasts);
            note(&host.node.name, format!("stands still for {lasts:?}"));
            Some(Box::pin(freeze(world, Arc::clone(&host.node), lasts)))
        }
        Kind::Shed { which, percent, over } => {
            let host = host(which)?;
            note(&host.node.name, format!("sheds {percent} % over {over:?}"));
            Some(Box::pin(async move {
                host.gateway.shed(percent, over).await;
            }))
        }
        Kind::Weather {
            which,
            server,
            weather,
            lasts,
        } => {
            let nodes = nodes(&world);
            let node = Arc::clone(nodes.get(which.checked_rem(nodes.len())?)?);
            for host in world.hosts() {
                if Arc::ptr_eq(&host.node, &node) {
                    host.doubt(lasts);
                }
            }
            note(&node.name, format!("{server:?} for {lasts:?}: {weather:?}"));
            node.change(server, weather);
            Some(Box::pin(async move {
                sleep(lasts).await;
                node.change(server, Weather::FINE);
                world.trace.note(&node.name, "", format!("{server:?} is fine"));
            }))
        }
        Kind::FlushRedis => {
            note("redis", "forgets everything".to_owned());
            Some(Box::pin(async move { world.redis.flush().await }))
        }
        Kind::CutLink {
            worker,
            gateway,
            lasts,
        } => {
            let (worker, gateway) = (hand(worker)?, host(gateway)?);
            note(
                &worker.node.name,
                format!("loses {} for {lasts:?}", gateway.node.name),
            );
            world.cables.cut(&worker.node.name, &gateway.node.name);
            Some(Box::pin(async move {
                sleep(lasts).await;
                world.cables.mend(&worker.node.name, &gateway.node.name);
            }))
        }
        Kind::CutClient { which, silent } => {
            let client = clients.get(which.checked_rem(clients.len())?)?;
            client.cut(silent);
            None
        }
        Kind::CutAll { silent } => {
            for client in clients {
                client.cut(silent);
            }
            None
        }
    }
}

async fn freeze(world: Arc<World>, node: Arc<Node>, lasts: Duration) {
    node.become_(Life::Frozen);
    sleep(lasts).await;
    node.become_(Life::Up);
    world.trace.note(&node.name, "", "goes on");
}
