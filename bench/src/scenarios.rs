//! What each scenario is made of.

use anyhow::{Result, ensure};
use clap::Args;
use serde::Serialize;

use crate::{
    cli::{Bench, Scenario},
    spec::{Action, Amount, GroupSpec, Pace, Share, Spec},
};

/// Buffers of the connects are given back within so many seconds.
const SETTLE_IDLE: f64 = 8.0;
const SETTLE: f64 = 0.5;

/// Many clients that do little.
#[derive(Clone, Debug, Args, Serialize)]
pub struct Idle {
    /// How many clients.
    #[arg(long, default_value_t = 10_000)]
    pub clients: u32,
    /// Members of a room; 0 for clients that connect and join none.
    #[arg(long, default_value_t = 100)]
    pub rooms_size: u32,
    /// How many of a hundred clients publish.
    #[arg(long, default_value = "0", value_parser = percent)]
    pub active: f64,
    /// Events a second of each that publishes.
    #[arg(long, default_value_t = 0.2)]
    pub rate: f64,
    /// Seconds to stay; nothing is measured after the connects without it.
    #[arg(long, default_value_t = 0.0)]
    pub hold: f64,
}

/// One room.
#[derive(Clone, Debug, Args, Serialize)]
pub struct Fanout {
    /// How many members.
    #[arg(long, default_value_t = 1000)]
    pub members: u32,
    /// How many of them publish.
    #[arg(long, default_value_t = 1)]
    pub publishers: u32,
    /// Events of a publisher that are not answered yet.
    #[arg(long, default_value_t = 1, conflicts_with = "rate")]
    pub in_flight: u32,
    /// Events a second over all publishers, whatever the server does.
    #[arg(long)]
    pub rate: Option<f64>,
}

/// Many small rooms.
#[derive(Clone, Debug, Args, Serialize)]
pub struct Rooms {
    /// How many rooms.
    #[arg(long, default_value_t = 100)]
    pub rooms: u32,
    /// Members of a room; all publish.
    #[arg(long, default_value_t = 10)]
    pub members: u32,
    /// Events of a member that are not answered yet.
    #[arg(long, default_value_t = 1, conflicts_with = "rate")]
    pub in_flight: u32,
    /// Deliveries a second over all rooms, whatever the server does.
    #[arg(long)]
    pub rate: Option<f64>,
}

/// Acknowledged round trips.
#[derive(Clone, Debug, Args, Serialize)]
pub struct Echo {
    /// How many clients.
    #[arg(long, default_value_t = 100)]
    pub clients: u32,
    /// Requests of a client that are not answered yet.
    #[arg(long, default_value_t = 1)]
    pub in_flight: u32,
    /// Event `message` to a room of one, instead of `ping`.
    #[arg(long)]
    pub durable: bool,
}

/// Clients that come and go.
#[derive(Clone, Debug, Args, Serialize)]
pub struct Churn {
    /// Clients a second.
    #[arg(long, default_value_t = 100.0)]
    pub rate: f64,
    /// Events each publishes.
    #[arg(long, default_value_t = 3)]
    pub publishes: u32,
    /// Rooms they go to.
    #[arg(long, default_value_t = 20)]
    pub rooms: u32,
    /// Clients a room at the same time, at most.
    #[arg(long, default_value_t = 50)]
    pub members: u32,
}

/// All connections are lost at once.
#[derive(Clone, Debug, Args, Serialize)]
pub struct Storm {
    /// How many clients.
    #[arg(long, default_value_t = 5000)]
    pub clients: u32,
    /// Members of a room; one of them stays and publishes.
    #[arg(long, default_value_t = 100)]
    pub rooms_size: u32,
    /// Events a second over all rooms.
    #[arg(long, default_value_t = 100.0)]
    pub rate: f64,
}

/// Everything at once.
#[derive(Clone, Debug, Args, Serialize)]
pub struct Mixed {
    /// Idle clients, a hundred a room.
    #[arg(long, default_value_t = 5000)]
    pub idle: u32,
    /// Rooms of ten, in which everybody publishes.
    #[arg(long, default_value_t = 50)]
    pub rooms: u32,
    /// Deliveries a second in these rooms.
    #[arg(long, default_value_t = 5000.0)]
    pub rooms_rate: f64,
    /// Members of the large room.
    #[arg(long, default_value_t = 1000)]
    pub members: u32,
    /// Events a second in the large room.
    #[arg(long, default_value_t = 5.0)]
    pub rate: f64,
    /// Clients a second that come and go.
    #[arg(long, default_value_t = 20.0)]
    pub churn_rate: f64,
}

/// What the command asks for; targets and names of rooms are still to be set.
pub(crate) fn spec(bench: &Bench) -> Result<Spec> {
    let common = &bench.common;
    let (mut settle, mut warm_up) = (SETTLE, common.warm_up);
    let mut amount = match common.messages {
        Some(messages) => Amount::Messages(messages),
        None => Amount::Seconds(common.seconds),
    };
    let (mut storm, mut watch_memory) = (false, false);
    let groups = match &bench.scenario {
        Scenario::Idle(idle) => {
            (settle, warm_up) = (SETTLE_IDLE, 0.0);
            amount = Amount::Seconds(idle.hold);
            watch_memory = true;
            vec![idle.group()?]
        }
        Scenario::Fanout(fanout) => {
            ensure!(
                fanout.publishers > 0 && fanout.publishers <= fanout.members,
                "publishers are members"
            );
            let pace = match fanout.rate {
                Some(rate) => Pace::Open { rate },
                None => closed(fanout.in_flight),
            };
            vec![group("room", 1, fanout.members, fanout.publishers, pace)]
        }
        Scenario::Rooms(rooms) => {
            let pace = match rooms.rate {
                Some(rate) => Pace::Open {
                    rate: rate / f64::from(rooms.members),
                },
                None => closed(rooms.in_flight),
            };
            vec![group("rooms", rooms.rooms, rooms.members, rooms.members, pace)]
        }
        Scenario::Echo(echo) => vec![GroupSpec {
            action: if echo.durable {
                Action::Message
            } else {
                Action::Ping
            },
            ..group("echo", echo.clients, 1, 1, closed(echo.in_flight))
        }],
        Scenario::Churn(churn) => {
            ensure!(common.messages.is_none(), "churn goes by --seconds");
            vec![churners(churn.rooms, churn.members, churn.rate, churn.publishes)]
        }
        Scenario::Storm(clients) => {
            storm = true;
            amount = Amount::Seconds(0.0);
            // Everybody has had an event before, and so has a position.
            warm_up = warm_up.max(1.0);
            let rooms = clients.clients.div_ceil(clients.rooms_size);
            let pace = Pace::Open { rate: clients.rate };
            vec![group("storm", rooms, clients.rooms_size, 1, pace)]
        }
        Scenario::Mixed(mixed) => {
            ensure!(common.messages.is_none(), "mixed goes by --seconds");
            let small = Pace::Open {
                rate: mixed.rooms_rate / 10.0,
            };
            vec![
                group("idle", mixed.idle.div_ceil(100), 100, 0, Pace::Silent),
                group("rooms", mixed.rooms, 10, 10, small),
                group("room", 1, mixed.members, 1, Pace::Open { rate: mixed.rate }),
                churners(20, 50, mixed.churn_rate, 3),
            ]
        }
        Scenario::Compare(_) | Scenario::Share => anyhow::bail!("it is no scenario of its own"),
    };
    Ok(Spec {
        groups,
        targets: Vec::new(),
        dialect: common.dialect,
        namespace: common.namespace.clone(),
        path: common.path.clone(),
        size: common.size,
        prefix: String::new(),
        jwt_secret: common.jwt_secret.clone(),
        at_once: (common.at_once / common.processes as usize).max(1),
        settle: common.settle.unwrap_or(settle),
        warm_up,
        amount,
        storm,
        watch_memory,
        share: Share { index: 0, of: 1 },
    })
}

impl Idle {
    fn group(&self) -> Result<GroupSpec> {
        if self.rooms_size == 0 {
            ensure!(self.active == 0.0, "who is in no room publishes to none");
            let mut alone = group("idle", 1, self.clients, 0, Pace::Silent);
            alone.action = Action::Nothing;
            return Ok(alone);
        }
        let publishers = (f64::from(self.rooms_size) * self.active / 100.0).ceil() as u32;
        let rooms = self.clients.div_ceil(self.rooms_size);
        let pace = match publishers {
            0 => Pace::Silent,
            _ => Pace::Open {
                rate: self.rate * f64::from(rooms * publishers),
            },
        };
        Ok(group("idle", rooms, self.rooms_size, publishers, pace))
    }
}

fn group(name: &str, rooms: u32, members: u32, publishers: u32, pace: Pace) -> GroupSpec {
    GroupSpec {
        name: name.to_owned(),
        rooms,
        members,
        publishers,
        action: Action::Message,
        pace,
    }
}

fn churners(rooms: u32, members: u32, rate: f64, publishes: u32) -> GroupSpec {
    group("churn", rooms, members, members, Pace::Churn { rate, publishes })
}

fn closed(in_flight: u32) -> Pace {
    Pace::Closed { in_flight }
}

fn percent(text: &str) -> Result<f64, String> {
    match text.trim_end_matches('%').parse() {
        Ok(percent) if (0.0..=100.0).contains(&percent) => Ok(percent),
        _ => Err("must be a percentage, as 1%".to_owned()),
    }
}
