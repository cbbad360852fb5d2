//! Faults under load, and what they cost: each is something that happens to a cluster of real processes while its clients
//! publish and listen. `make faults` runs them all and prints one table.

use std::{
    fmt::Write,
    net::{Ipv4Addr, SocketAddr},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use servers::{NatsVersion, Process, Proxy, Signal};

use crate::{Cluster, Load, Report, Role, Size, Traffic, server::built, until};

/// Every pause ends by then on a machine that does other things too; what is promised is less, and printed.
const LONGEST: Duration = Duration::from_secs(30);
/// Presence is what the clients are by then (CONTRACT G6).
const PRESENCE: Duration = Duration::from_secs(15);
/// Longer than a worker's lease of 3 s.
const FROZEN: Duration = Duration::from_secs(5);
const OUTAGE: Duration = Duration::from_secs(2);
/// Connections are cut so often.
const CUT: Duration = Duration::from_secs(2);
const SIZE: Size = Size {
    nats: NatsVersion::Current,
    gateways: 3,
    workers: 2,
    presence: 1,
};
/// Messages before and after a fault.
const SOME: usize = 300;

/// Something that happens to a cluster.
#[derive(Copy, Clone)]
pub struct Fault {
    /// What it is called.
    pub name: &'static str,
    size: Size,
    /// Environment variables of all roles.
    settings: &'static [(&'static str, &'static str)],
    /// Clients have to come back.
    reconnects: bool,
    /// Events of the last moments may come again, under the same id.
    repeats: bool,
    run: fn(&mut Cluster, &Traffic) -> Result<()>,
}

const fn fault(name: &'static str, run: fn(&mut Cluster, &Traffic) -> Result<()>) -> Fault {
    Fault {
        name,
        size: SIZE,
        settings: &[],
        reconnects: false,
        repeats: false,
        run,
    }
}

const fn of_clients(name: &'static str, run: fn(&mut Cluster, &Traffic) -> Result<()>) -> Fault {
    Fault {
        reconnects: true,
        ..fault(name, run)
    }
}

/// Every fault, one after the other.
pub const FAULTS: &[Fault] = &[
    Fault {
        size: Size { workers: 3, ..SIZE },
        ..fault("worker kill -9", worker_killed)
    },
    fault("worker SIGTERM", worker_stopped),
    fault("worker frozen past its lease", worker_frozen),
    of_clients("gateway SIGTERM, replaced", gateway_drained),
    of_clients(
        "gateway SIGTERM, clients away for long",
        gateway_gone_before_clients_return,
    ),
    Fault {
        repeats: true,
        ..of_clients("gateway kill -9, replaced", gateway_killed)
    },
    fault("gateway frozen 5 s", gateway_frozen),
    fault("NATS restart", |cluster, _| nats_restarted(cluster, OUTAGE)),
    Fault {
        size: Size {
            nats: NatsVersion::Debian,
            ..SIZE
        },
        ..fault("NATS restart (2.9)", |cluster, _| nats_restarted(cluster, OUTAGE))
    },
    fault("NATS down for 12 s", |cluster, _| {
        nats_restarted(cluster, Duration::from_secs(12))
    }),
    of_clients("NATS down while clients come back", nats_down_for_returns),
    Fault {
        size: Size { gateways: 2, ..SIZE },
        ..fault("NATS cut off from one gateway", nats_cut_off)
    },
    fault("Redis restart, empty", redis_restarted),
    fault("Redis FLUSHALL", redis_flushed),
    Fault {
        size: Size { presence: 2, ..SIZE },
        ..fault("presence kill -9", presence_killed)
    },
    of_clients("gateway POST /drain, replaced", gateway_told_to_drain),
    of_clients("gateway shed 50 %", gateway_shed),
    Fault {
        settings: &[("FANFARE_GATEWAY__MAX_CONNECTION_AGE_SECONDS", "2")],
        ..of_clients("connections closed at the age of 2 s", connections_grow_old)
    },
    of_clients("rolling restart of every role", rolling_restart),
];

/// What a fault cost.
pub struct Row {
    name: String,
    outcome: Result<(Report, Option<Duration>)>,
}

impl Fault {
    /// The fault of that name.
    ///
    /// # Errors
    /// When there is none.
    pub fn named(name: &str) -> Result<&'static Self> {
        let found = FAULTS.iter().find(|fault| fault.name == name);
        found.with_context(|| format!("no fault is called {name:?}"))
    }

    /// Lets it happen under load, and looks at the books.
    pub fn happen(&self) -> Row {
        let clean = |report: &Report| report.ensure_clean(self.name, self.reconnects, self.repeats);
        Row {
            name: self.name.to_owned(),
            outcome: under_load(self.size, self.settings, Load::default(), self.run, clean),
        }
    }
}

impl Row {
    /// # Errors
    /// When something was lost, or otherwise not as promised; the ends of the logs are told.
    pub fn ensure_clean(self) -> Result<()> {
        self.outcome.map(drop)
    }
}

/// Runs `fault` while traffic flows.
fn under_load(
    size: Size,
    settings: &[(&str, &str)],
    load: Load,
    fault: impl FnOnce(&mut Cluster, &Traffic) -> Result<()>,
    clean: impl FnOnce(&Report) -> Result<()>,
) -> Result<(Report, Option<Duration>)> {
    let mut cluster = Cluster::start(size, settings)?;
    let result = run(&mut cluster, load, fault, clean);
    let panics = cluster.logs_with("panicked at");
    ensure!(panics.is_empty(), "{panics}");
    result.map_err(|error| error.context(cluster.logs()))
}

fn run(
    cluster: &mut Cluster,
    load: Load,
    fault: impl FnOnce(&mut Cluster, &Traffic) -> Result<()>,
    clean: impl FnOnce(&Report) -> Result<()>,
) -> Result<(Report, Option<Duration>)> {
    cluster.until_settled()?;
    let traffic = Traffic::start(&cluster.addresses()?, load)?;
    traffic.flow(SOME)?;
    fault(cluster, &traffic)?;
    let presence = traffic.until_presence_is_right(PRESENCE);
    traffic.flow(SOME)?;
    let report = traffic.finish()?;
    clean(&report)?;
    ensure!(report.pause < LONGEST, "a pause of {:?}", report.pause);
    Ok((report, Some(presence?)))
}

/// One line for each fault.
#[must_use]
pub fn table(rows: &[Row]) -> String {
    let mut table = String::from(
        "| fault | acknowledged | lost | doubled | reordered | longest pause | clients that came back | away at most | without their session | presence right after |\n\
         | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n",
    );
    for Row { name, outcome } in rows {
        // Writing to a String does not fail.
        let _ = match outcome {
            Ok((report, presence)) => {
                let verdict = &report.verdict;
                let presence = presence.map_or_else(|| "-".to_owned(), |after| format!("{after:.1?}"));
                writeln!(
                    table,
                    "| {name} | {} | {} | {} | {} | {:.1?} | {} | {:.1?} | {} | {presence} |",
                    verdict.acknowledged,
                    verdict.lost,
                    verdict.doubled,
                    verdict.reordered,
                    report.pause,
                    report.reconnected,
                    report.longest_away,
                    report.fresh,
                )
            }
            Err(error) => {
                let cause = error.root_cause().to_string();
                let first = cause.lines().next().unwrap_or_default();
                writeln!(table, "| {name} | FAILED: {first} | | | | | | | | |")
            }
        };
    }
    table
}

fn sleep(time: Duration) {
    #[expect(clippy::disallowed_methods, reason = "the thread has no runtime")]
    std::thread::sleep(time);
}

/// The worker with the most partitions.
fn busiest(cluster: &Cluster) -> Result<usize> {
    let owned = cluster.owned()?;
    let most = owned.iter().copied().fold(0.0, f64::max);
    ensure!(most > 0.0, "no worker owns a partition");
    let busiest = owned.iter().position(|count| *count == most);
    busiest.context("one has the most")
}

fn worker_killed(cluster: &mut Cluster, _: &Traffic) -> Result<()> {
    let worker = busiest(cluster)?;
    drop(cluster.workers.remove(worker));
    cluster.until_owned()?;
    // And a new one takes its share.
    cluster.add(Role::Worker)?;
    cluster.until_ready()?;
    until("the new worker owns some", LONGEST, || {
        let new = cluster.workers.last().context("it was added")?;
        Ok(new.metric("fanfare_partitions_owned", "")? > 0.0)
    })
}

fn worker_stopped(cluster: &mut Cluster, _: &Traffic) -> Result<()> {
    let worker = busiest(cluster)?;
    cluster.workers.remove(worker).stop()?;
    cluster.until_owned()?;
    cluster.add(Role::Worker)?;
    cluster.until_ready()
}

fn worker_frozen(cluster: &mut Cluster, traffic: &Traffic) -> Result<()> {
    let worker = busiest(cluster)?;
    let frozen = cluster.workers.remove(worker);
    frozen.signal(Signal::STOP)?;
    sleep(FROZEN);
    cluster.until_owned()?;
    // It goes on in the belief that it owns its partitions.
    frozen.signal(Signal::CONT)?;
    cluster.workers.push(frozen);
    traffic.flow(SOME)?;
    cluster.until_owned()
}

fn gateway_drained(cluster: &mut Cluster, traffic: &Traffic) -> Result<()> {
    cluster.add(Role::Gateway)?;
    cluster.until_ready()?;
    let drained = cluster.gateways.remove(0);
    // As a load balancer does.
    traffic.set_gateways(cluster.addresses()?);
    drained.signal(Signal::TERM)?;
    drained.ended()?;
    traffic.flow(SOME)
}

fn gateway_told_to_drain(cluster: &mut Cluster, traffic: &Traffic) -> Result<()> {
    cluster.add(Role::Gateway)?;
    cluster.until_ready()?;
    let drained = cluster.gateways.remove(0);
    traffic.set_gateways(cluster.addresses()?);
    let answer = drained.post("/drain")?;
    ensure!(answer.starts_with("HTTP/1.1 202"), "{answer}");
    drained.ended()?;
    traffic.flow(SOME)
}

fn gateway_shed(cluster: &mut Cluster, traffic: &Traffic) -> Result<()> {
    let gateway = cluster.gateways.first().context("there is one")?;
    let before = gateway.metric("socket_active_connections", "")?;
    let mut command = Command::new(built("fanfare", "cargo build -p fanfare")?);
    command.args(["gateway", "shed", "--percent", "50", "--admin", gateway.admin()]);
    let mut shed = Process::start("fanfare gateway shed", &mut command)?;
    let status = shed.wait(LONGEST)?;
    ensure!(status.success(), "{}", shed.output());
    let half = (before / 2.0).floor();
    until("half of the connections were closed", LONGEST, || {
        Ok(gateway.metric("fanfare_sent_away_total", r#"why="shed""#)? >= half)
    })?;
    traffic.flow(SOME)
}

fn connections_grow_old(cluster: &mut Cluster, traffic: &Traffic) -> Result<()> {
    until("everybody was sent on", LONGEST, || {
        let closed = cluster.metric("fanfare_sent_away_total", r#"why="age""#)?;
        Ok(closed >= cluster.metric("socket_active_connections", "")?)
    })?;
    traffic.flow(SOME)
}

/// Nobody can come back before the drained gateway is gone: what it left in the store is all there is.
fn gateway_gone_before_clients_return(cluster: &mut Cluster, traffic: &Traffic) -> Result<()> {
    let drained = cluster.gateways.remove(0);
    traffic.set_gateways(Vec::new());
    drained.signal(Signal::TERM)?;
    drained.ended()?;
    traffic.set_gateways(cluster.addresses()?);
    traffic.flow(SOME)?;
    cluster.add(Role::Gateway)?;
    cluster.until_ready()?;
    traffic.set_gateways(cluster.addresses()?);
    Ok(())
}

fn gateway_killed(cluster: &mut Cluster, traffic: &Traffic) -> Result<()> {
    drop(cluster.gateways.remove(0));
    traffic.set_gateways(cluster.addresses()?);
    cluster.add(Role::Gateway)?;
    cluster.until_ready()?;
    traffic.set_gateways(cluster.addresses()?);
    traffic.flow(SOME)
}

/// A gateway that loses sight of the cluster for a while reads what it missed.
fn gateway_frozen(cluster: &mut Cluster, traffic: &Traffic) -> Result<()> {
    let frozen = cluster.gateways.first().context("there is one")?;
    frozen.signal(Signal::STOP)?;
    sleep(FROZEN);
    frozen.signal(Signal::CONT)?;
    traffic.flow(SOME)
}

fn nats_restarted(cluster: &mut Cluster, down: Duration) -> Result<()> {
    cluster.nats.kill();
    sleep(down);
    cluster.nats.start_again()
}

/// Nobody can say where their sessions are: they are not to be taken for new ones.
fn nats_down_for_returns(cluster: &mut Cluster, traffic: &Traffic) -> Result<()> {
    cluster.nats.kill();
    traffic.cut(|_| true);
    sleep(FROZEN);
    cluster.nats.start_again()
}

fn nats_cut_off(cluster: &mut Cluster, traffic: &Traffic) -> Result<()> {
    let nats = SocketAddr::from((Ipv4Addr::LOCALHOST, cluster.nats.port()));
    let proxy = Proxy::start([nats])?;
    let url = format!("nats://127.0.0.1:{}", proxy.port());
    cluster.add_with(Role::Gateway, &[("NATS_URL", url.as_str())])?;
    cluster.until_ready()?;
    let addresses = cluster.addresses()?;
    let behind = *addresses.last().context("it was added")?;
    // A part of the clients goes there, as if it were on purpose.
    let load = Load {
        prefix: "cut-off-",
        members: 8,
        publishers: 1,
        ..Load::default()
    };
    let others = Traffic::start(&[behind], load)?;
    others.flow(SOME / 4)?;
    proxy.cut();
    sleep(FROZEN);
    proxy.open();
    others.flow(SOME / 4)?;
    proxy.stall();
    sleep(FROZEN);
    proxy.open();
    others.flow(SOME / 4)?;
    others
        .finish()?
        .ensure_clean("clients of the gateway that was cut off", false, false)?;
    traffic.flow(SOME)?;
    // The proxy ends with this.
    cluster.gateways.pop().map_or(Ok(()), |behind| {
        behind.signal(Signal::TERM)?;
        behind.ended()
    })
}

fn redis_restarted(cluster: &mut Cluster, traffic: &Traffic) -> Result<()> {
    cluster.redis.kill();
    sleep(OUTAGE);
    cluster.redis.start_again()?;
    traffic.flow(SOME)?;
    cluster.until_owned()
}

fn redis_flushed(cluster: &mut Cluster, traffic: &Traffic) -> Result<()> {
    for _ in 0..3 {
        cluster.redis.command("FLUSHALL")?;
        traffic.flow(SOME / 3)?;
    }
    cluster.until_owned()
}

fn presence_killed(cluster: &mut Cluster, traffic: &Traffic) -> Result<()> {
    drop(cluster.presence.remove(0));
    traffic.flow(SOME)?;
    cluster.add(Role::Presence)?;
    cluster.until_ready()
}

fn connections_cut(traffic: &Traffic, time: Duration) -> Result<()> {
    let (mut dice, end) = (Dice(17), Instant::now() + time);
    while Instant::now() < end {
        traffic.cut(|_| dice.throw(3) == 0);
        sleep(CUT);
    }
    Ok(())
}

fn rolling_restart(cluster: &mut Cluster, traffic: &Traffic) -> Result<()> {
    for _ in 0..cluster.workers.len() {
        cluster.add(Role::Worker)?;
        cluster.until_ready()?;
        cluster.workers.remove(0).stop()?;
        cluster.until_owned()?;
    }
    for _ in 0..cluster.presence.len() {
        cluster.add(Role::Presence)?;
        cluster.until_ready()?;
        cluster.presence.remove(0).stop()?;
    }
    for _ in 0..cluster.gateways.len() {
        gateway_drained(cluster, traffic)?;
    }
    Ok(())
}

/// Numbers that are the same in each run with the same seed (SplitMix64).
struct Dice(u64);

impl Dice {
    fn throw(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let thrown = usize::try_from((mixed ^ (mixed >> 31)) >> 33).unwrap_or_default();
        thrown % sides.max(1)
    }
}

/// A third of the connections is cut every 2 s, for so long.
#[must_use]
pub fn cuts(time: Duration) -> Row {
    let cut = |_: &mut Cluster, traffic: &Traffic| connections_cut(traffic, time);
    let clean = |report: &Report| report.ensure_clean("cuts", true, false);
    Row {
        name: format!("connections cut every 2 s for {time:?}"),
        outcome: under_load(SIZE, &[], Load::default(), cut, clean),
    }
}

/// Faults one after the other, at random, for so long: all that need no cluster of their own.
#[must_use]
pub fn at_random(seed: u64, time: Duration) -> Row {
    eprintln!("faults at random: seed {seed}");
    let some_cuts = fault("connections cut", |_, traffic| connections_cut(traffic, 2 * CUT));
    let anywhere = |fault: &&Fault| fault.settings.is_empty() && fault.size.nats == SIZE.nats;
    let kinds: Vec<_> = FAULTS
        .iter()
        .filter(anywhere)
        .chain(std::iter::once(&some_cuts))
        .collect();
    let many = |cluster: &mut Cluster, traffic: &Traffic| {
        let (mut dice, end) = (Dice(seed), Instant::now() + time);
        while Instant::now() < end {
            let fault = kinds.get(dice.throw(kinds.len())).context("there is one")?;
            (fault.run)(cluster, traffic).with_context(|| fault.name)?;
            let fresh = traffic.fresh();
            eprintln!("  {}, {fresh} without their session so far", fault.name);
            if fresh > 0 {
                return Ok(());
            }
            traffic.flow(dice.throw(SOME))?;
        }
        Ok(())
    };
    let clean = |report: &Report| report.ensure_clean("at random", true, true);
    Row {
        name: format!("at random for {time:?}, seed {seed}"),
        outcome: under_load(
            Size {
                workers: 3,
                presence: 2,
                ..SIZE
            },
            &[],
            Load::default(),
            many,
            clean,
        ),
    }
}

/// Two gateways with so many clients are replaced one after the other, while the others let so many in a second.
pub fn storm(clients: usize, rate: u32, drain: Duration) -> Row {
    let (rate_text, drain) = (rate.to_string(), drain.as_secs().to_string());
    let settings = [
        ("FANFARE_LIMITS__HANDSHAKES_PER_SECOND", rate_text.as_str()),
        ("FANFARE_GATEWAY__DRAIN_SECONDS", drain.as_str()),
    ];
    let load = Load {
        members: clients,
        rooms_of_member: 1,
        publishers: 4,
        rest: Duration::from_millis(250),
        ..Load::default()
    };
    let roll = |cluster: &mut Cluster, traffic: &Traffic| {
        let begun = Instant::now();
        for _ in 0..2 {
            cluster.add(Role::Gateway)?;
            cluster.until_ready()?;
            let mut drained = cluster.gateways.remove(0);
            traffic.set_gateways(cluster.addresses()?);
            drained.signal(Signal::TERM)?;
            let mut watched = Handshakes::of(cluster)?;
            while drained.is_running()? {
                sleep(Duration::from_secs(1));
                watched.ensure_below(cluster, rate)?;
            }
            drained.ended()?;
        }
        until("everybody is back", 4 * LONGEST, || {
            Ok(cluster.metric("socket_active_connections", "")? >= clients as f64)
        })?;
        eprintln!(
            "{clients} clients over two drained gateways: {:?}",
            begun.elapsed()
        );
        Ok(())
    };
    let clean = |report: &Report| report.ensure_clean("storm", true, false);
    Row {
        name: format!("{clients} clients, two gateways replaced, {rate} handshakes a second"),
        outcome: under_load(Size { gateways: 2, ..SIZE }, &settings, load, roll, clean),
    }
}

/// How many clients each gateway has let in, and when that was looked at.
struct Handshakes(Vec<(f64, Instant)>);

impl Handshakes {
    fn of(cluster: &Cluster) -> Result<Self> {
        let let_in = cluster.gateways.iter().map(|gateway| {
            let connected = gateway.metric("socket_connections_total", r#"status="connected""#)?;
            Ok((connected, Instant::now()))
        });
        Ok(Self(let_in.collect::<Result<_>>()?))
    }

    fn ensure_below(&mut self, cluster: &Cluster, rate: u32) -> Result<()> {
        let now = Self::of(cluster)?;
        for ((before, at), (after, then)) in self.0.iter().zip(&now.0) {
            let most = f64::from(rate) * (*then - *at).as_secs_f64();
            // Who was let in a moment ago is counted when its namespace is open.
            ensure!(
                after - before <= most * 1.5 + 10.0,
                "{} came in where {most} may",
                after - before
            );
        }
        *self = now;
        Ok(())
    }
}
