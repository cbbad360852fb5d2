use std::{
    net::SocketAddr,
    process::Command,
    sync::OnceLock,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use servers::{Nats, NatsVersion, Process, Redis, Signal};

use crate::server::{JWT_SECRET, START, ask, built, get, metric, pause};

/// Lines of a role's log that a failed test shows.
const SHOWN_LINES: usize = 60;

/// How many partitions there are.
const PARTITIONS: &str = "FANFARE_BUS__PARTITIONS";
const DEFAULT_PARTITIONS: u32 = 16;
const SETTLED: Duration = Duration::from_secs(1);

/// What a process of the cluster is.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Role {
    /// `fanfare gateway`.
    Gateway,
    /// `fanfare fanout`.
    Worker,
    /// `fanfare presence`.
    Presence,
}

impl Role {
    fn subcommand(self) -> &'static str {
        match self {
            Self::Gateway => "gateway",
            Self::Worker => "fanout",
            Self::Presence => "presence",
        }
    }
}

/// How large a cluster is at the start.
#[derive(Copy, Clone, Debug)]
pub struct Size {
    /// Which nats-server it runs on.
    pub nats: NatsVersion,
    /// Processes of `fanfare gateway`.
    pub gateways: usize,
    /// Processes of `fanfare fanout`.
    pub workers: usize,
    /// Processes of `fanfare presence`.
    pub presence: usize,
}

impl Default for Size {
    fn default() -> Self {
        Self {
            nats: NatsVersion::Current,
            gateways: 3,
            workers: 2,
            presence: 1,
        }
    }
}

/// One process of a role, on free ports. Dropping it kills it (SIGKILL).
pub struct Instance {
    role: Role,
    process: Process,
    admin: String,
    address: OnceLock<SocketAddr>,
}

impl Instance {
    fn start(role: Role, settings: &[(String, String)]) -> Result<Self> {
        let mut command = Command::new(built("fanfare", "cargo build -p fanfare")?);
        command.arg(role.subcommand());
        for (name, value) in settings {
            // What begins with dashes is a flag.
            match name.starts_with("--") {
                true => command.args([name, value]),
                false => command.env(name, value),
            };
        }
        let process = Process::start(&format!("fanfare {}", role.subcommand()), &mut command)?;
        let admin = process.line("it tells its admin address", START, |line| {
            Some(line.strip_prefix("fanfare admin on ")?.trim().to_owned())
        })?;
        Ok(Self {
            role,
            process,
            admin,
            address: OnceLock::new(),
        })
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Where clients reach a gateway; waits until it has said so.
    ///
    /// # Errors
    /// When it does not within 30 s.
    pub fn address(&self) -> Result<SocketAddr> {
        if let Some(address) = self.address.get() {
            return Ok(*address);
        }
        let address = self
            .process
            .line("it tells where clients reach it", START, |line| {
                line.strip_prefix("fanfare listening on http://")?
                    .trim()
                    .parse()
                    .ok()
            })?;
        Ok(*self.address.get_or_init(|| address))
    }

    /// What `/readyz` says: status line, headers and body.
    ///
    /// # Errors
    /// When the process does not answer.
    pub fn readiness(&self) -> Result<String> {
        get(&self.admin, "/readyz")
    }

    /// Whether `/readyz` says that nothing is missing.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.readiness()
            .is_ok_and(|answer| answer.starts_with("HTTP/1.1 200"))
    }

    /// Waits for an answer of `/readyz` that fits.
    ///
    /// # Errors
    /// When none does within 30 s.
    pub fn until_readiness(&self, what: &str, fits: impl Fn(&str) -> bool) -> Result<()> {
        let mut last = String::new();
        let until = Instant::now() + START;
        while Instant::now() < until {
            match self.readiness() {
                Ok(answer) if fits(&answer) => return Ok(()),
                Ok(answer) => last = answer,
                Err(error) => last = error.to_string(),
            }
            pause();
        }
        bail!(
            "{:?}: /readyz, {what}: {last}; it wrote:\n{}",
            self.role,
            self.output()
        )
    }

    /// The sum of a metric's values over the lines that have all of `labels`, comma-separated, e.g.
    /// `event="message"`.
    ///
    /// # Errors
    /// When the metrics cannot be had.
    pub fn metric(&self, name: &str, labels: &str) -> Result<f64> {
        metric(&self.admin, name, labels)
    }

    /// Where its admin server is, as `HOST:PORT`.
    #[must_use]
    pub fn admin(&self) -> &str {
        self.admin.trim_start_matches("http://")
    }

    /// The whole answer of its admin server to a POST.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn post(&self, path: &str) -> Result<String> {
        ask(&self.admin, "POST", path)
    }

    /// Whether it runs.
    ///
    /// # Errors
    /// When that cannot be found out.
    pub fn is_running(&mut self) -> Result<bool> {
        self.process.is_running()
    }

    /// Waits until it has ended, after whatever was to end it.
    ///
    /// # Errors
    /// When it does not end well within 60 s, or has logged an error.
    pub fn ended(mut self) -> Result<()> {
        let status = self.process.wait(2 * START)?;
        ensure!(
            status.success(),
            "{:?} ended with {status}; it wrote:\n{}",
            self.role,
            self.output()
        );
        self.process.no_errors()
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// When it has ended.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        self.process.signal(signal)
    }

    /// Stops it as an operator would (SIGTERM).
    ///
    /// # Errors
    /// When it does not end well within 30 s, or has logged an error.
    pub fn stop(self) -> Result<()> {
        self.process.stop()
    }

    /// All it has written.
    #[must_use]
    pub fn output(&self) -> String {
        self.process.output()
    }
}

/// Private NATS and Redis, and the roles on them as processes. Ends when it is dropped.
pub struct Cluster {
    /// Its nats-server.
    pub nats: Nats,
    /// Its redis-server.
    pub redis: Redis,
    /// Gateways, in order of their start.
    pub gateways: Vec<Instance>,
    /// Workers, in order of their start.
    pub workers: Vec<Instance>,
    /// Presence replicas, in order of their start.
    pub presence: Vec<Instance>,
    settings: Vec<(String, String)>,
}

impl Cluster {
    /// Starts NATS and Redis, and no role yet. `settings` are environment variables of all roles on top of the
    /// usual ones: guests, all rooms public, no limits, a grace and a drain of 2 s.
    ///
    /// # Errors
    /// When a server is not installed or does not come up.
    pub fn servers(version: NatsVersion, settings: &[(&str, &str)]) -> Result<Self> {
        let nats = Nats::start(version)?;
        let redis = Redis::start()?;
        let (nats_url, redis_url) = (nats.url(), redis.url());
        let any = "127.0.0.1:0";
        let defaults = [
            ("NATS_URL", nats_url.as_str()),
            ("REDIS_URL", &redis_url),
            ("FANFARE_GATEWAY__LISTEN", any),
            ("FANFARE_GATEWAY__GRPC_LISTEN", any),
            ("FANFARE_GATEWAY__DRAIN_SECONDS", "2"),
            ("FANFARE_FANOUT__GRPC_LISTEN", any),
            ("FANFARE_FANOUT__HTTP_LISTEN", any),
            ("FANFARE_PRESENCE__GRPC_LISTEN", any),
            ("FANFARE_PRESENCE__GRACE_SECONDS", "2"),
            ("FANFARE_ADMIN__LISTEN", any),
            ("FANFARE_AUTH__MODE", "guest"),
            ("FANFARE_ROOMS__PUBLIC", "*"),
            ("FANFARE_LIMITS__EVENTS", "0"),
            ("CORS_ORIGIN", "*"),
            ("JWT_SECRET", JWT_SECRET),
            ("RUST_LOG", "info,gateway::events=debug"),
            ("NO_COLOR", "1"),
        ];
        let settings = defaults
            .iter()
            .filter(|(name, _)| settings.iter().all(|(other, _)| other != name))
            .chain(settings)
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        Ok(Self {
            nats,
            redis,
            gateways: Vec::new(),
            workers: Vec::new(),
            presence: Vec::new(),
            settings,
        })
    }

    /// Starts everything and waits until every role is ready. Workers may still be sharing the partitions out.
    ///
    /// # Errors
    /// When something does not come up within 30 s: what it wrote is told.
    pub fn start(size: Size, settings: &[(&str, &str)]) -> Result<Self> {
        let mut cluster = Self::servers(size.nats, settings)?;
        let roles = [
            (Role::Presence, size.presence),
            (Role::Worker, size.workers),
            (Role::Gateway, size.gateways),
        ];
        for (role, count) in roles {
            for _ in 0..count {
                cluster.add(role)?;
            }
        }
        if let Err(error) = cluster.until_ready() {
            return Err(error.context(cluster.logs()));
        }
        Ok(cluster)
    }

    /// Starts everything, runs `test`, then stops the roles as an operator would and looks at how they ended. When
    /// the test fails, the ends of all logs are told.
    ///
    /// # Errors
    /// The test's, or when a role did not come up, did not end well, or has logged an error.
    pub fn run(
        size: Size,
        settings: &[(&str, &str)],
        test: impl FnOnce(&mut Self) -> Result<()>,
    ) -> Result<()> {
        let mut cluster = Self::start(size, settings)?;
        if let Err(error) = test(&mut cluster) {
            return Err(error.context(cluster.logs()));
        }
        cluster.stop()
    }

    /// Starts one more process of a role; does not wait until it is ready.
    ///
    /// # Errors
    /// When it ends before it has an admin address.
    pub fn add(&mut self, role: Role) -> Result<&Instance> {
        self.add_with(role, &[])
    }

    /// As [`Cluster::add`], with settings of its own over the cluster's.
    ///
    /// # Errors
    /// When it ends before it has an admin address.
    pub fn add_with(&mut self, role: Role, settings: &[(&str, &str)]) -> Result<&Instance> {
        let own = settings
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let all: Vec<_> = self.settings.iter().cloned().chain(own).collect();
        let instance = Instance::start(role, &all)?;
        let instances = match role {
            Role::Gateway => &mut self.gateways,
            Role::Worker => &mut self.workers,
            Role::Presence => &mut self.presence,
        };
        instances.push(instance);
        instances.last().context("one was pushed")
    }

    /// Waits until every role is ready, and every gateway listens.
    ///
    /// # Errors
    /// When one is not within 30 s.
    pub fn until_ready(&self) -> Result<()> {
        for instance in self.instances() {
            instance.until_readiness("until ready", |answer| answer.starts_with("HTTP/1.1 200"))?;
        }
        self.addresses().map(drop)
    }

    /// Waits until the workers own all partitions between them.
    ///
    /// # Errors
    /// When they do not within 30 s.
    pub fn until_owned(&self) -> Result<()> {
        until("all partitions are owned", START, || {
            let owned: f64 = self.owned()?.iter().sum();
            Ok(owned == f64::from(self.partitions()?))
        })
    }

    /// Waits until all partitions are owned and none has moved for a second. What is not stored is lost while its
    /// partition moves, so tests of such events wait for this.
    ///
    /// # Errors
    /// When they go on moving for 30 s.
    pub fn until_settled(&self) -> Result<()> {
        let mut last = (Instant::now(), Vec::new());
        until("no partition moves", START, || {
            let (owned, moves) = (self.owned()?, self.metric("fanfare_take_overs_total", "")?);
            let all = owned.iter().sum::<f64>() == f64::from(self.partitions()?);
            let now = [owned, vec![moves]].concat();
            if !all || now != last.1 {
                last = (Instant::now(), now);
            }
            Ok(last.0.elapsed() > SETTLED)
        })
    }

    /// How many partitions each worker owns.
    ///
    /// # Errors
    /// When the metrics cannot be had.
    pub fn owned(&self) -> Result<Vec<f64>> {
        let workers = self.workers.iter();
        workers
            .map(|worker| worker.metric("fanfare_partitions_owned", ""))
            .collect()
    }

    fn partitions(&self) -> Result<u32> {
        let set = self.settings.iter().find(|(name, _)| name == PARTITIONS);
        Ok(set.map_or(Ok(DEFAULT_PARTITIONS), |(_, value)| value.parse())?)
    }

    /// Where clients reach the gateways.
    ///
    /// # Errors
    /// When a gateway does not listen within 30 s.
    pub fn addresses(&self) -> Result<Vec<SocketAddr>> {
        self.gateways.iter().map(Instance::address).collect()
    }

    /// The sum of a metric over all processes of all roles.
    ///
    /// # Errors
    /// When the metrics cannot be had.
    pub fn metric(&self, name: &str, labels: &str) -> Result<f64> {
        self.instances()
            .map(|instance| instance.metric(name, labels))
            .sum()
    }

    /// Stops all roles as an operator would, all at once.
    ///
    /// # Errors
    /// When one does not end well within 30 s, or has logged an error.
    pub fn stop(mut self) -> Result<()> {
        for instance in self.instances() {
            instance.signal(Signal::TERM)?;
        }
        for instance in self
            .gateways
            .iter_mut()
            .chain(&mut self.workers)
            .chain(&mut self.presence)
        {
            let status = instance.process.wait(START)?;
            ensure!(
                status.success(),
                "{:?} ended with {status}; it wrote:\n{}",
                instance.role,
                instance.output()
            );
            instance.process.no_errors()?;
        }
        Ok(())
    }

    /// The end of what each process has written, and whether it still runs.
    pub fn logs(&self) -> String {
        let mut logs = String::from("the ends of the logs:\n");
        for instance in self.instances() {
            let output = instance.output();
            let lines: Vec<_> = output.lines().collect();
            let shown = &lines[lines.len().saturating_sub(SHOWN_LINES)..];
            logs += &format!(
                "--- {:?} {} (ready: {})\n{}\n",
                instance.role,
                instance.pid(),
                instance.is_ready(),
                shown.join("\n")
            );
        }
        logs
    }

    /// The lines of all logs in which `text` stands.
    #[must_use]
    pub fn logs_with(&self, text: &str) -> String {
        let outputs = self.instances().map(Instance::output);
        let lines = outputs.flat_map(|output| {
            let lines = output.lines().filter(|line| line.contains(text));
            lines.map(str::to_owned).collect::<Vec<_>>()
        });
        lines.collect::<Vec<_>>().join("\n")
    }

    fn instances(&self) -> impl Iterator<Item = &Instance> {
        self.gateways.iter().chain(&self.workers).chain(&self.presence)
    }
}

/// Waits until something holds.
///
/// # Errors
/// When it does not within the time, or asking fails.
pub fn until(what: &str, within: Duration, mut holds: impl FnMut() -> Result<bool>) -> Result<()> {
    let end = Instant::now() + within;
    while !holds()? {
        ensure!(Instant::now() < end, "not within {within:?}: {what}");
        pause();
    }
    Ok(())
}
