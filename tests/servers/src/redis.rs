use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use tempfile::TempDir;

use crate::{Process, START, free_port, pause, program, until_open};

/// A private redis-server without persistence: a restart loses everything.
pub struct Redis {
    process: Option<Process>,
    port: u16,
    arguments: Vec<String>,
    directory: TempDir,
}

impl Redis {
    /// Starts one and waits until it listens.
    ///
    /// # Errors
    /// When it is not installed or does not come up within 30 s.
    pub fn start() -> Result<Self> {
        Self::start_with(&[])
    }

    /// Starts one with more arguments, as `["--requirepass", "x"]`.
    ///
    /// # Errors
    /// As [`Redis::start`].
    pub fn start_with(arguments: &[&str]) -> Result<Self> {
        let mut redis = Self {
            process: None,
            port: free_port()?,
            arguments: arguments.iter().map(|&argument| argument.to_owned()).collect(),
            directory: TempDir::with_prefix("fanfare-redis-")?,
        };
        redis.start_again()?;
        Ok(redis)
    }

    /// `redis://127.0.0.1:PORT`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Where it listens.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its process id; `None` while it is down.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Process::pid)
    }

    /// Ends it at once (SIGKILL).
    pub fn kill(&mut self) {
        self.process = None;
    }

    /// Starts it again on the same port, empty.
    ///
    /// # Errors
    /// As [`Redis::start`].
    pub fn start_again(&mut self) -> Result<()> {
        self.process = None;
        let mut command = Command::new(program("redis-server")?);
        command
            .args(["--bind", "127.0.0.1", "--port", &self.port.to_string()])
            .args(["--save", "", "--appendonly", "no", "--dir"])
            .arg(self.directory.path())
            .args(&self.arguments);
        let mut process = Process::start("redis-server", &mut command)?;
        until_open(&mut process, self.port)?;
        self.process = Some(process);
        Ok(())
    }

    /// Sends one command (words without spaces) and returns the answer as on the wire.
    ///
    /// # Errors
    /// When it does not answer within 30 s, or answers with an error.
    pub fn command(&self, command: &str) -> Result<String> {
        self::command(self.port, command)
    }
}

/// A private Redis Cluster of three masters, each with a replica.
pub struct RedisCluster {
    nodes: Vec<Redis>,
}

impl RedisCluster {
    /// Starts it and waits until every node says that the cluster is complete.
    ///
    /// # Errors
    /// When it does not come up within 30 s.
    pub fn start() -> Result<Self> {
        let nodes: Vec<_> = (0..6)
            .map(|_| {
                let bus = free_port()?.to_string();
                Redis::start_with(&[
                    "--cluster-enabled",
                    "yes",
                    "--cluster-port",
                    &bus,
                    "--cluster-node-timeout",
                    "2000",
                    "--appendonly",
                    "no",
                ])
            })
            .collect::<Result<_>>()?;
        let mut command = Command::new(program("redis-cli")?);
        command
            .args(["--cluster", "create"])
            .args(nodes.iter().map(|node| format!("127.0.0.1:{}", node.port)))
            .args(["--cluster-replicas", "1", "--cluster-yes"]);
        let mut create = Process::start("redis-cli --cluster create", &mut command)?;
        let status = create.wait(START)?;
        ensure!(status.success(), "the cluster was not made:\n{}", create.output());
        let until = Instant::now() + START;
        for node in &nodes {
            while !node.command("CLUSTER INFO")?.contains("cluster_state:ok") {
                ensure!(Instant::now() < until, "the cluster is not complete");
                pause(Duration::from_millis(50));
            }
        }
        Ok(Self { nodes })
    }

    /// Comma-separated `redis://127.0.0.1:PORT` of all nodes.
    #[must_use]
    pub fn url(&self) -> String {
        self.nodes.iter().map(Redis::url).collect::<Vec<_>>().join(",")
    }

    /// The nodes; the first three were masters at the start.
    pub fn nodes(&mut self) -> &mut [Redis] {
        &mut self.nodes
    }
}

/// A private master with one replica and three sentinels, quorum 2, that call it `fanfare`.
pub struct RedisSentinel {
    master: Redis,
    _replica: Redis,
    sentinels: Vec<(Process, u16)>,
    _directory: TempDir,
}

impl RedisSentinel {
    /// Starts it and waits until the sentinels know the master and its replica.
    ///
    /// # Errors
    /// When it does not come up within 30 s.
    pub fn start() -> Result<Self> {
        let master = Redis::start()?;
        let replica = Redis::start_with(&["--replicaof", "127.0.0.1", &master.port.to_string()])?;
        let directory = TempDir::with_prefix("fanfare-sentinel-")?;
        let sentinels = (0..3)
            .map(|number| sentinel(directory.path(), number, master.port))
            .collect::<Result<Vec<_>>>()?;
        let until = Instant::now() + START;
        for (_, port) in &sentinels {
            loop {
                let state = command(*port, "SENTINEL MASTER fanfare")?;
                let known = |name: &str, least: u32| {
                    let mut lines = state.lines().skip_while(|line| *line != name);
                    let value = lines.nth(2).and_then(|value| value.parse::<u32>().ok());
                    value.is_some_and(|value| value >= least)
                };
                if known("num-slaves", 1) && known("num-other-sentinels", 2) {
                    break;
                }
                ensure!(
                    Instant::now() < until,
                    "the sentinels do not find each other: {state}"
                );
                pause(Duration::from_millis(50));
            }
        }
        Ok(Self {
            master,
            _replica: replica,
            sentinels,
            _directory: directory,
        })
    }

    /// Comma-separated `redis://127.0.0.1:PORT` of the sentinels.
    #[must_use]
    pub fn url(&self) -> String {
        let urls: Vec<_> = self
            .sentinels
            .iter()
            .map(|(_, port)| format!("redis://127.0.0.1:{port}"))
            .collect();
        urls.join(",")
    }

    /// The first master.
    pub fn master(&mut self) -> &mut Redis {
        &mut self.master
    }
}

fn sentinel(directory: &Path, number: usize, master: u16) -> Result<(Process, u16)> {
    let port = free_port()?;
    let file = directory.join(format!("sentinel-{number}.conf"));
    fs::write(
        &file,
        format!(
            "port {port}\nbind 127.0.0.1\ndir {}\nsentinel monitor fanfare 127.0.0.1 {master} 2\n\
             sentinel down-after-milliseconds fanfare 2000\nsentinel failover-timeout fanfare 10000\n",
            directory.display()
        ),
    )?;
    let mut command = Command::new(program("redis-server")?);
    command.arg(file).arg("--sentinel");
    let mut process = Process::start("sentinel", &mut command)?;
    until_open(&mut process, port)?;
    Ok((process, port))
}

/// Inline form of the protocol; reads the whole answer by asking for an end that can be told.
fn command(port: u16, command: &str) -> Result<String> {
    const END: &str = "+PONG\r\n";
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(START))?;
    stream.write_all(format!("{command}\r\nPING\r\n").as_bytes())?;
    let mut answer = Vec::new();
    let mut buffer = [0; 4096];
    while !answer.ends_with(END.as_bytes()) {
        match stream
            .read(&mut buffer)
            .with_context(|| format!("{command} has no answer"))?
        {
            0 => break,
            read => answer.extend_from_slice(&buffer[..read]),
        }
    }
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let answer = answer.strip_suffix(END).unwrap_or(&answer);
    if answer.starts_with('-') {
        bail!("{command}: {answer}");
    }
    Ok(answer.to_owned())
}
